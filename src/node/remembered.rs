//! Which catalogs a household's server has used: who joined is known there, so it is there that join lines
//! are made worthless. Lies beside the join lines, and like them is for its owner's eyes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::household::{FOLDER, HouseholdError, MAX_FILE_BYTES, file_error};
use crate::catalog::Place;
use crate::redact::Redacted;
use crate::support::private_file;

const NAME: &str = "catalogs.json";
const VERSION: u32 = 1;
/// Catalogs that are remembered, the last ones used.
const MAX_CATALOGS: usize = 16;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Noted {
    Memory,
    Sqlite(PathBuf),
    Postgres(String),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    catalogs: Vec<Noted>,
}

impl Noted {
    fn of(place: &Place) -> io::Result<Self> {
        Ok(match place {
            Place::Memory => Self::Memory,
            // Whoever reads this may have been started elsewhere.
            Place::Sqlite(path) => Self::Sqlite(std::path::absolute(path)?),
            Place::Postgres(url) => Self::Postgres(url.reveal().clone()),
        })
    }

    fn place(self) -> Place {
        match self {
            Self::Memory => Place::Memory,
            Self::Sqlite(path) => Place::Sqlite(path),
            Self::Postgres(url) => Place::Postgres(Redacted::new(url)),
        }
    }
}

fn read(path: &Path) -> Result<Vec<Noted>, HouseholdError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(found) if found.len() > MAX_FILE_BYTES => return Err(HouseholdError::Catalogs(path.to_owned())),
        _ => {}
    }
    let text = fs::read_to_string(path).map_err(file_error(path))?;
    // The cause would show a piece of the text.
    let file = serde_json::from_str::<File>(&text).ok().filter(|file| file.version == VERSION);
    file.map(|file| file.catalogs).ok_or_else(|| HouseholdError::Catalogs(path.to_owned()))
}

/// Notes that the server of this data directory uses this catalog from now on.
///
/// # Errors
/// When the file cannot be used.
pub fn use_catalog(data_dir: &Path, place: &Place) -> Result<(), HouseholdError> {
    let path = data_dir.join(FOLDER).join(NAME);
    let noted = Noted::of(place).map_err(file_error(&path))?;
    let mut catalogs = read(&path)?;
    if catalogs.last() == Some(&noted) {
        return Ok(());
    }
    catalogs.retain(|known| *known != noted);
    catalogs.push(noted);
    catalogs.drain(..catalogs.len().saturating_sub(MAX_CATALOGS));
    let text = serde_json::to_vec_pretty(&File { version: VERSION, catalogs }).unwrap_or_default();
    fs::create_dir_all(data_dir.join(FOLDER))
        .and_then(|()| private_file::replace(&path, &text))
        .map_err(file_error(&path))
}

/// The catalogs that the server of this data directory has used, the last one last.
///
/// # Errors
/// When the file cannot be read.
pub fn used_catalogs(data_dir: &Path) -> Result<Vec<Place>, HouseholdError> {
    Ok(read(&data_dir.join(FOLDER).join(NAME))?.into_iter().map(Noted::place).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn catalogs_are_remembered_the_last_one_last_and_not_without_bound() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(used_catalogs(folder.path()).unwrap(), []);
        let file = |number: usize| Place::Sqlite(folder.path().join(format!("{number}.sqlite")));
        for number in 0..MAX_CATALOGS + 3 {
            use_catalog(folder.path(), &file(number)).unwrap();
        }
        let postgres = Place::parse("postgres://me:hunter2@127.0.0.1/cache").unwrap();
        use_catalog(folder.path(), &postgres).unwrap();
        use_catalog(folder.path(), &file(MAX_CATALOGS)).unwrap();
        let used = used_catalogs(folder.path()).unwrap();
        assert_eq!(used.len(), MAX_CATALOGS);
        assert_eq!(used[MAX_CATALOGS - 2..], [postgres, file(MAX_CATALOGS)]);
        let path = folder.path().join(FOLDER).join(NAME);
        assert!(!private_file::is_exposed(&path));
        for wrong in ["hunter2".to_owned(), "{\"version\":9,\"catalogs\":[]}".to_owned(), " ".repeat(300_000)]
        {
            fs::write(&path, wrong).unwrap();
            let error = used_catalogs(folder.path()).unwrap_err().to_string();
            assert!(error.contains(NAME) && !error.contains("hunter2"), "{error}");
        }
    }
}
