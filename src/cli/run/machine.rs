//! This machine, as the rules on viewers want to see it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use crate::viewers::{Entry, Folders, Machine, System};

/// A program folder of some distributions holds a few thousand files.
const MAX_ENTRIES: usize = 20_000;
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The variables that name folders.
const VARIABLES: [&str; 9] = [
    "ProgramFiles",
    "ProgramW6432",
    "ProgramFiles(x86)",
    "LOCALAPPDATA",
    "APPDATA",
    "HOME",
    "PATH",
    "XDG_DATA_HOME",
    "USERPROFILE",
];

pub(super) fn here() -> Machine {
    let system = if cfg!(windows) {
        System::Windows
    } else if cfg!(target_os = "macos") {
        System::MacOs
    } else {
        System::Linux
    };
    let variables = VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    Machine { system, environment: variables.collect::<BTreeMap<_, _>>() }
}

/// The folders of this machine's disk.
pub(super) struct Disk;

impl Folders for Disk {
    fn list(&self, folder: &Path) -> Vec<Entry> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let named = entries.take(MAX_ENTRIES).filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            // Links count as what they lead to.
            let is_folder = match entry.file_type().ok()? {
                kind if kind.is_symlink() => entry.path().is_dir(),
                kind => kind.is_dir(),
            };
            Some(Entry { name, is_folder })
        });
        named.collect()
    }

    fn read(&self, file: &Path) -> Option<String> {
        let mut text = String::new();
        std::fs::File::open(file).ok()?.take(MAX_TEXT_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }
}
