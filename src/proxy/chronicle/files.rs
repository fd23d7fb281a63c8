//! The files of the chronicle in the data directory: `history.json`, `page.json`, and one per region in
//! `regions/`. Each has a format and a version; what is damaged is set aside as `….bad`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MAX_PACES;
use crate::fetch::savings::Remembered;
use crate::scenes::{MAX_REGIONS, Record, RecordError, Region, RegionKey};
use crate::support::history::History;
use crate::support::json_file::{JsonFile, Loaded};
use crate::support::private_file;

const HISTORY: JsonFile =
    JsonFile { name: "history.json", format: "rezcache history", version: 1, max_bytes: 1 << 20 };
const SETTINGS: JsonFile =
    JsonFile { name: "page.json", format: "rezcache page settings", version: 1, max_bytes: 4096 };
const REGIONS: &str = "regions";
/// More files than this are not read.
const MAX_FILES: usize = MAX_REGIONS * 4;
/// What a store may be made to hold: fewer than this would hold nothing, more has nobody.
pub(crate) const SIZES: std::ops::RangeInclusive<u64> = 64 << 20..=16 << 40;

/// What was set on the page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The most bytes the store may take.
    pub(crate) cache_bytes: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept<H> {
    history: H,
    paces: BTreeMap<String, Remembered>,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Read {
    pub(super) history: History,
    pub(super) paces: BTreeMap<String, Remembered>,
    pub(super) settings: Settings,
    pub(super) regions: Vec<(RegionKey, Region)>,
    pub(super) notes: Vec<String>,
}

pub(super) struct Files {
    data_dir: PathBuf,
}

impl Files {
    pub(super) const fn new(data_dir: PathBuf) -> Self {
        Self { data_dir }
    }

    pub(super) fn read(&self) -> Read {
        let mut read = Read::default();
        self.sweep(&self.data_dir, &["history", "page"]);
        match HISTORY.load::<Kept<History>>(&self.data_dir) {
            Ok(Loaded::Content(kept)) if kept.history.is_bounded() && kept.paces.len() <= MAX_PACES => {
                (read.history, read.paces) = (kept.history, kept.paces);
            }
            Ok(Loaded::Absent) => {}
            Ok(found) => {
                let kept = match found {
                    Loaded::SetAside(_) => true,
                    _ => HISTORY.set_aside(&self.data_dir).is_ok(),
                };
                let kept = if kept { ", and the old one is kept as history.json.bad" } else { "" };
                read.notes.push(format!(
                    "The file with the history for the plots was damaged, or of another version of rezcache; it \
                     begins anew{kept}."
                ));
            }
            Err(error) => read.notes.push(format!("The file with the history cannot be read: {error}.")),
        }
        match SETTINGS.load::<Settings>(&self.data_dir) {
            Ok(Loaded::Content(settings)) => {
                if settings.cache_bytes.is_some_and(|bytes| !SIZES.contains(&bytes)) {
                    read.notes.push(
                        "The size of the store in page.json is none that can be set; the usual one is taken. \
                         Set it again below."
                            .into(),
                    );
                } else {
                    read.settings = settings;
                }
            }
            Ok(Loaded::Absent) => {}
            Ok(Loaded::SetAside(_)) => read.notes.push(
                "The file with what was set on this page was damaged, or of another version of rezcache; the \
                 settings are the usual ones again."
                    .into(),
            ),
            Err(error) => {
                read.notes.push(format!("The file with what was set on this page cannot be read: {error}."));
            }
        }
        let found = self.read_regions();
        read.regions = found.regions;
        for (count, what) in [
            (found.damaged, "damaged, and are set aside; visit these regions again"),
            (found.foreign, "written by another version of rezcache, and are set aside"),
            (
                found.unreadable,
                "not readable just now; they are left as they are, and tried at the next start",
            ),
        ] {
            if count > 0 {
                read.notes.push(format!("Of the files about regions, {count} were {what}."));
            }
        }
        read
    }

    fn regions(&self) -> PathBuf {
        self.data_dir.join(REGIONS)
    }

    /// Removes what a crash has left beside files of these names; of all, if none are named.
    fn sweep(&self, folder: &Path, names: &[&str]) {
        let leftover = |path: &Path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            extension.starts_with("new-") && (names.is_empty() || names.contains(&stem))
        };
        let _ = remove_those(folder, leftover);
    }

    /// The regions, those first that are to stay.
    fn read_regions(&self) -> FoundRegions {
        let mut found = FoundRegions::default();
        self.sweep(&self.regions(), &[]);
        let Ok(entries) = fs::read_dir(self.regions()) else { return found };
        let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        for path in files.take(MAX_FILES) {
            // What cannot be read now is perhaps whole, and pinned: it is no damage.
            let Ok(bytes) = read_bounded(&path) else {
                found.unreadable += 1;
                continue;
            };
            match Record::decode(&bytes) {
                Ok(known) => found.regions.push(known),
                Err(error) => {
                    match error {
                        RecordError::Version => found.foreign += 1,
                        _ => found.damaged += 1,
                    }
                    let _ = fs::rename(&path, path.with_extension("json.bad"));
                }
            }
        }
        let regions = &mut found.regions;
        regions.sort_by_key(|(_, region)| std::cmp::Reverse((region.pinned, region.last_unix)));
        for (key, _) in regions.drain(MAX_REGIONS.min(regions.len())..) {
            let _ = fs::remove_file(self.region(&key.id()));
        }
        found
    }

    /// Removes every file about regions, also those that were set aside or left by a crash.
    pub(super) fn forget_regions(&self) -> io::Result<()> {
        let ours = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(".json") || name.ends_with(".json.bad") || name.contains(".new-")
        };
        remove_those(&self.regions(), ours)
    }

    fn region(&self, id: &str) -> PathBuf {
        self.regions().join(format!("{id}.json"))
    }

    /// Writes these regions down and removes those. On trouble: which are still to be written, and removed.
    pub(super) fn write_regions(
        &self,
        regions: Vec<(RegionKey, Region)>,
        gone: Vec<String>,
    ) -> Result<(), Unwritten> {
        let (mut left, mut staying, mut trouble) = (Vec::new(), Vec::new(), None);
        for id in gone {
            if let Err(error) = removed(&self.region(&id)) {
                staying.push(id);
                trouble = Some(error);
            }
        }
        if !regions.is_empty()
            && let Err(error) = private_file::create_folder(&self.regions())
        {
            trouble = Some(error);
        }
        for (key, region) in regions {
            let written = Record::encode(&key, &region)
                .map_err(io::Error::other)
                .and_then(|bytes| private_file::replace(&self.region(&key.id()), &bytes));
            if let Err(error) = written {
                left.push(key);
                trouble = Some(error);
            }
        }
        trouble.map_or(Ok(()), |error| Err(Unwritten { regions: left, gone: staying, error }))
    }

    pub(super) fn write_history(
        &self,
        history: &History,
        paces: &BTreeMap<String, Remembered>,
    ) -> io::Result<()> {
        HISTORY.save(&self.data_dir, &Kept { history, paces: paces.clone() })
    }

    pub(super) fn write_settings(&self, settings: &Settings) -> io::Result<()> {
        SETTINGS.save(&self.data_dir, settings)
    }
}

/// The files about regions.
#[derive(Default)]
struct FoundRegions {
    regions: Vec<(RegionKey, Region)>,
    /// How many were no record of ours.
    damaged: usize,
    /// How many were of another version.
    foreign: usize,
    /// How many the system did not let us read.
    unreadable: usize,
}

/// What is still to be done after trouble.
pub(super) struct Unwritten {
    /// To be written.
    pub(super) regions: Vec<RegionKey>,
    /// To be removed.
    pub(super) gone: Vec<String>,
    pub(super) error: io::Error,
}

/// Removes a file that may not be there.
fn removed(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes files of a folder, all that can be; tells the last error.
fn remove_those(folder: &Path, those: impl Fn(&Path) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut trouble = Ok(());
    for path in paths.filter(|path| those(path)) {
        if let Err(error) = removed(&path) {
            trouble = Err(error);
        }
    }
    trouble
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(Record::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
