//! The files of the chronicle in the data directory: `history.json`, `page.json`, and one per region in
//! `regions/`. Each has a format and a version; what is damaged is set aside as `….bad`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MAX_PACES;
use crate::fetch::savings::Remembered;
use crate::scenes::{MAX_REGIONS, Record, Region, RegionKey};
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
pub(super) struct Read {
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
        match HISTORY.load::<Kept<History>>(&self.data_dir) {
            Ok(Loaded::Content(kept)) if kept.history.is_bounded() && kept.paces.len() <= MAX_PACES => {
                (read.history, read.paces) = (kept.history, kept.paces);
            }
            Ok(Loaded::Absent) => {}
            Ok(Loaded::Content(_) | Loaded::SetAside(_)) => read.notes.push(
                "The file with the history for the plots was damaged; it begins anew, and the old one is kept \
                 as history.json.bad."
                    .into(),
            ),
            Err(error) => read.notes.push(format!("The file with the history cannot be read: {error}.")),
        }
        match SETTINGS.load::<Settings>(&self.data_dir) {
            Ok(Loaded::Content(settings)) => read.settings = settings,
            Ok(Loaded::Absent) => {}
            Ok(Loaded::SetAside(_)) => read.notes.push(
                "The file with what was set on this page was damaged; the settings are the usual ones again."
                    .into(),
            ),
            Err(error) => {
                read.notes.push(format!("The file with what was set on this page cannot be read: {error}."));
            }
        }
        let (regions, damaged) = self.read_regions();
        read.regions = regions;
        if damaged > 0 {
            read.notes.push(format!(
                "{damaged} of the files about regions were damaged and are set aside; visit these regions again."
            ));
        }
        read
    }

    fn regions(&self) -> PathBuf {
        self.data_dir.join(REGIONS)
    }

    /// The regions, those first that are to stay, and how many files were damaged.
    fn read_regions(&self) -> (Vec<(RegionKey, Region)>, usize) {
        let Ok(entries) = fs::read_dir(self.regions()) else { return (Vec::new(), 0) };
        let (mut regions, mut damaged) = (Vec::new(), 0);
        let files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        for path in files.take(MAX_FILES) {
            let found = read_bounded(&path).ok().and_then(|bytes| Record::decode(&bytes).ok());
            match found {
                Some((key, region)) => regions.push((key, region)),
                None => {
                    damaged += 1;
                    let _ = fs::rename(&path, path.with_extension("json.bad"));
                }
            }
        }
        regions.sort_by_key(|(_, region)| std::cmp::Reverse((region.pinned, region.last_unix)));
        for (key, _) in regions.drain(MAX_REGIONS.min(regions.len())..) {
            let _ = fs::remove_file(self.region(&key.id()));
        }
        (regions, damaged)
    }

    fn region(&self, id: &str) -> PathBuf {
        self.regions().join(format!("{id}.json"))
    }

    /// Writes these regions down and removes those. On trouble: which are still to be written.
    pub(super) fn write_regions(
        &self,
        regions: Vec<(RegionKey, Region)>,
        gone: &[String],
    ) -> Result<(), (Vec<RegionKey>, io::Error)> {
        for id in gone {
            // It may never have been written.
            let _ = fs::remove_file(self.region(id));
        }
        if regions.is_empty() {
            return Ok(());
        }
        let mut left = Vec::new();
        let mut trouble = fs::create_dir_all(self.regions()).err();
        for (key, region) in regions {
            let written = Record::encode(&key, &region)
                .map_err(io::Error::other)
                .and_then(|bytes| private_file::replace(&self.region(&key.id()), &bytes));
            if let Err(error) = written {
                left.push(key);
                trouble = Some(error);
            }
        }
        trouble.map_or(Ok(()), |error| Err((left, error)))
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

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(Record::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
