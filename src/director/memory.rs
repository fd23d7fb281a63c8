//! What the board last said of the nodes, on this director's own disk: after a restart while the catalog is away DNS
//! goes on with it.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fleet::array::{MAX_MEMBERS, Maintenance, NodeFact};
use crate::support::files;

/// Bytes that are read: far more than the most nodes take.
const MAX_BYTES: u64 = 1 << 20;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Remembered {
    /// Opened nodes.
    pub(super) nodes: Vec<NodeFact>,
    /// Those that are away by plan.
    pub(super) maintenance: BTreeMap<String, Maintenance>,
}

/// As it is written; what cannot be read of it is left out.
#[derive(Deserialize)]
struct Written {
    zone: String,
    #[serde(default)]
    nodes: Vec<Value>,
    #[serde(default)]
    maintenance: BTreeMap<String, Value>,
}

/// A file that is replaced whenever something has changed.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    path: PathBuf,
    zone: String,
    last: Option<Remembered>,
}

impl Memory {
    pub(super) const fn new(path: PathBuf, zone: String) -> Self {
        Self { path, zone, last: None }
    }

    /// What was last written for this zone; `None` where that cannot be read.
    pub(super) fn read(&self) -> Option<Remembered> {
        let bytes = match load(&self.path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "what was known of the nodes cannot be read");
                }
                return None;
            }
        };
        let written =
            serde_json::from_slice(&bytes).ok().filter(|written: &Written| written.zone == self.zone);
        let Some(written) = written else {
            tracing::warn!("what was known of the nodes is damaged, or of another zone, and not used");
            return None;
        };
        let nodes = written.nodes.into_iter().filter_map(|fact| serde_json::from_value(fact).ok());
        let marks = written.maintenance.into_iter();
        let marks = marks.filter_map(|(name, mark)| Some((name, serde_json::from_value(mark).ok()?)));
        let maintenance = marks.take(MAX_MEMBERS).collect();
        Some(Remembered { nodes: nodes.take(MAX_MEMBERS).collect(), maintenance })
    }

    /// Writes what the board says now, if that is something else than before. A director that cannot write goes on.
    pub(super) async fn keep(&mut self, said: Remembered) {
        if self.last.as_ref() == Some(&said) {
            return;
        }
        let (path, zone) = (self.path.clone(), self.zone.clone());
        self.last = Some(said.clone());
        let written = tokio::task::spawn_blocking(move || store(&path, &zone, &said)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what is known of the nodes cannot be written down; a restart without the catalog \
                                    would not know it");
        }
    }
}

fn load(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn store(path: &Path, zone: &str, said: &Remembered) -> io::Result<()> {
    let record = serde_json::json!({ "zone": zone, "nodes": said.nodes, "maintenance": said.maintenance });
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    file.sync_all()?;
    files::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::fleet::array::NodeSpec;
    use crate::fleet::scaling::Phase;

    fn fact(name: &str) -> NodeFact {
        let url = format!("https://{name}.example.org:8443");
        let spec = NodeSpec { name: name.into(), url, addresses: Vec::new(), handle: "i-1".into() };
        NodeFact { spec, phase: Phase::Serving, closing: false }
    }

    #[tokio::test]
    async fn what_was_said_last_is_read_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.json");
        let mut memory = Memory::new(path.clone(), "cache.example.org.".into());
        assert_eq!(memory.read(), None);
        let mark = Maintenance { until: 7, reason: "disk".into() };
        let maintenance = BTreeMap::from([("otter".to_owned(), mark)]);
        let said = Remembered { nodes: vec![fact("otter"), fact("lynx")], maintenance };
        memory.keep(said.clone()).await;
        assert_eq!(memory.read(), Some(said.clone()));
        assert_eq!(Memory::new(path.clone(), "other.example.org.".into()).read(), None);

        // Written once for each change.
        std::fs::write(&path, "{").unwrap();
        memory.keep(said.clone()).await;
        assert_eq!(memory.read(), None, "damaged");
        memory.keep(Remembered { nodes: vec![fact("lynx")], ..said }).await;
        assert_eq!(memory.read().unwrap().nodes, [fact("lynx")]);

        // One record that a later version has written does not spoil the others.
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["nodes"].as_array_mut().unwrap().insert(0, serde_json::json!({ "spec": 7 }));
        record["maintenance"]["lynx"] = "soon".into();
        std::fs::write(&path, record.to_string()).unwrap();
        let read = memory.read().unwrap();
        assert_eq!((read.nodes.len(), read.maintenance.len()), (1, 1));
    }
}
