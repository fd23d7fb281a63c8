//! What was answered, so that it is asked once.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::support::private_file;
use crate::viewers::Kind;

/// The file's name within the data directory.
const FILE_NAME: &str = "run.json";
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    version: u32,
    pub(super) viewer: Option<RememberedViewer>,
    /// As `--grid` takes it.
    pub(super) grid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RememberedViewer {
    kind: String,
    pub(super) program: PathBuf,
}

impl RememberedViewer {
    pub(super) fn new(kind: Kind, program: &Path) -> Self {
        Self { kind: kind.word().to_owned(), program: program.to_owned() }
    }

    /// Its kind; any, when a newer rezcache knew one that we do not.
    pub(super) fn kind(&self) -> Kind {
        self.kind.parse().unwrap_or(Kind::Other)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { version: VERSION, viewer: None, grid: None }
    }
}

impl Memory {
    /// What is remembered. A file that is damaged, or of another version, counts as nothing: the user is asked
    /// again.
    pub(super) fn load(data_dir: &Path) -> Self {
        let text = std::fs::read(data_dir.join(FILE_NAME)).unwrap_or_default();
        let memory: Option<Self> = serde_json::from_slice(&text).ok();
        memory.filter(|memory| memory.version == VERSION).unwrap_or_default()
    }

    pub(super) fn save(&self, data_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        private_file::replace(&data_dir.join(FILE_NAME), &text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_kept_and_anything_else_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Memory::load(dir.path()), Memory::default());
        let viewer = Some(RememberedViewer::new(Kind::CoolVl, Path::new("/opt/cool")));
        let memory =
            Memory { viewer, grid: Some("osgrid=http://login.osgrid.org/".into()), ..Memory::default() };
        memory.save(dir.path()).unwrap();
        assert_eq!(Memory::load(dir.path()), memory);
        assert_eq!(memory.viewer.unwrap().kind(), Kind::CoolVl);
        for other in ["{", "[]", r#"{"version":2,"viewer":null,"grid":"x"}"#] {
            std::fs::write(dir.path().join(FILE_NAME), other).unwrap();
            assert_eq!(Memory::load(dir.path()), Memory::default(), "{other}");
        }
    }
}
