//! Small JSON files of ours in the data directory: with a format and a version, replaced whole, for the
//! owner's eyes only. What is damaged or of another version is set aside, so that it can be looked at.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::private_file;

/// What kind of file it is.
#[derive(Clone, Copy, Debug)]
pub struct JsonFile {
    /// Its name.
    pub name: &'static str,
    /// What it says it is.
    pub format: &'static str,
    /// The version that is written and read.
    pub version: u32,
    /// A longer one is none of ours.
    pub max_bytes: u64,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// What was written.
    Content(T),
    /// No file.
    Absent,
    /// A file that is damaged, or of another version; it now lies here.
    SetAside(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    format: String,
    version: u32,
    content: T,
}

impl JsonFile {
    /// Reads the file in `folder`.
    ///
    /// # Errors
    /// When it is there and can neither be read nor set aside.
    pub fn load<T: DeserializeOwned>(&self, folder: &Path) -> io::Result<Loaded<T>> {
        let path = folder.join(self.name);
        let mut bytes = Vec::new();
        match fs::File::open(&path) {
            Ok(file) => file.take(self.max_bytes + 1).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Absent),
            Err(error) => return Err(error),
        };
        let read = serde_json::from_slice::<Stored<T>>(&bytes).ok();
        let ours = |stored: &Stored<T>| stored.format == self.format && stored.version == self.version;
        match read.filter(|stored| ours(stored) && bytes.len() as u64 <= self.max_bytes) {
            Some(stored) => Ok(Loaded::Content(stored.content)),
            None => {
                let aside = folder.join(format!("{}.bad", self.name));
                fs::rename(&path, &aside)?;
                Ok(Loaded::SetAside(aside))
            }
        }
    }

    /// Replaces the file in `folder`; a crash leaves either the old or the new one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save<T: Serialize>(&self, folder: &Path, content: &T) -> io::Result<()> {
        let stored = Stored { format: self.format.into(), version: self.version, content };
        let bytes = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        private_file::replace(&folder.join(self.name), &bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FILE: JsonFile = JsonFile { name: "numbers", format: "rezcache test", version: 3, max_bytes: 100 };

    #[test]
    fn what_is_written_is_read_and_everything_else_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(FILE.load::<Vec<u32>>(dir.path()).unwrap(), Loaded::Absent);
        FILE.save(dir.path(), &[1, 2]).unwrap();
        assert_eq!(FILE.load(dir.path()).unwrap(), Loaded::Content(vec![1, 2]));
        let good = fs::read(dir.path().join("numbers")).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        let long = text.clone() + &" ".repeat(100);
        let later = text.replace("\"version\":3", "\"version\":4");
        let other = text.replace("rezcache test", "rezcache tent");
        for bad in [&good[..good.len() / 2], b"", long.as_bytes(), later.as_bytes(), other.as_bytes()] {
            fs::write(dir.path().join("numbers"), bad).unwrap();
            let aside = dir.path().join("numbers.bad");
            assert_eq!(FILE.load::<Vec<u32>>(dir.path()).unwrap(), Loaded::SetAside(aside.clone()));
            assert_eq!(fs::read(aside).unwrap(), bad);
        }
        assert_eq!(FILE.load::<Vec<u32>>(dir.path()).unwrap(), Loaded::Absent);
    }
}
