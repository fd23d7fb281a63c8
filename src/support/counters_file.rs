//! The counters on disk, so that they survive a restart.
//!
//! One small JSON file, replaced atomically. It is only ever statistics: when it cannot be read, it
//! is set aside and counting starts from zero; nothing else may fail because of it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::metrics::{Metrics, Snapshot};

/// The file's name within the data directory.
pub const FILE_NAME: &str = "counters.json";
/// How often a running proxy writes it.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(30);

const FORMAT: &str = "rezcache counters";
const VERSION: u32 = 1;
/// Some hundred numbers with their names; anything larger was not written by us.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: String,
    version: u32,
    #[serde(flatten)]
    snapshot: Snapshot,
}

/// What was found in the data directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The counters of earlier runs.
    Counters(Snapshot),
    /// No file: the first run.
    Absent,
    /// A file that is not ours or is damaged. It now lies at this path; counting starts from zero.
    SetAside(PathBuf),
}

/// Reads the counters of earlier runs.
///
/// # Errors
/// When the file is there but cannot be read or set aside.
pub fn load(data_dir: &Path) -> io::Result<Loaded> {
    let path = data_dir.join(FILE_NAME);
    let mut bytes = Vec::new();
    match fs::File::open(&path) {
        Ok(file) => file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Absent),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice::<Stored>(&bytes) {
        Ok(stored) if stored.format == FORMAT && stored.version == VERSION => {
            Ok(Loaded::Counters(stored.snapshot))
        }
        _ => {
            let aside = data_dir.join(format!("{FILE_NAME}.bad"));
            fs::rename(&path, &aside)?;
            Ok(Loaded::SetAside(aside))
        }
    }
}

/// Replaces the file; a crash leaves either the old or the new one.
///
/// # Errors
/// What the file system says.
pub fn save(data_dir: &Path, snapshot: Snapshot) -> io::Result<()> {
    let stored = Stored { format: FORMAT.into(), version: VERSION, snapshot };
    let bytes = serde_json::to_vec_pretty(&stored).map_err(io::Error::other)?;
    let temporary = data_dir.join(format!("{FILE_NAME}.{}.new", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    super::files::rename(&temporary, &data_dir.join(FILE_NAME))
}

/// Adds what earlier runs counted to `metrics`. Trouble is logged and is no reason not to start.
pub fn restore(data_dir: &Path, metrics: &Metrics) {
    match load(data_dir) {
        Ok(Loaded::Counters(snapshot)) => metrics.add_snapshot(&snapshot),
        Ok(Loaded::Absent) => {}
        Ok(Loaded::SetAside(aside)) => {
            tracing::warn!(path = %aside.display(), "the counters file was damaged and is set aside; counting from zero");
        }
        Err(error) => tracing::warn!(%error, "the counters of earlier runs cannot be read"),
    }
}

/// Saves every [`SAVE_INTERVAL`] until `stop` completes, and once more then.
pub async fn keep(data_dir: PathBuf, metrics: Arc<Metrics>, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(SAVE_INTERVAL) => false,
            () = &mut stop => true,
        };
        let (dir, snapshot) = (data_dir.clone(), metrics.snapshot());
        match tokio::task::spawn_blocking(move || save(&dir, snapshot)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the counters cannot be saved"),
            Err(error) => tracing::warn!(%error, "saving the counters broke off"),
        }
        if stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;

    use super::*;
    use crate::asset::{AssetKind, AssetSource};
    use crate::support::metrics::Counter;

    fn counted() -> Metrics {
        let metrics = Metrics::default();
        metrics.add(Counter::StoreWrites, 5);
        metrics.asset_served(AssetKind::Texture, AssetSource::Memory, 700);
        metrics
    }

    #[test]
    fn counters_go_on_from_where_the_last_run_ended() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), Loaded::Absent);
        save(dir.path(), counted().snapshot()).unwrap();

        let next = counted();
        restore(dir.path(), &next);
        assert_eq!(next.get(Counter::StoreWrites), 10);
        assert_eq!(next.served(AssetKind::Texture, AssetSource::Memory), (2, 1400));
    }

    #[test]
    fn every_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), counted().snapshot()).unwrap();
        let good = fs::read(dir.path().join(FILE_NAME)).unwrap();
        let mut later = String::from_utf8(good.clone()).unwrap();
        later = later.replace("\"version\": 1", "\"version\": 2");
        for bad in [&good[..good.len() / 2], b"", b"\xff\xfe", b"[]", later.as_bytes()] {
            fs::write(dir.path().join(FILE_NAME), bad).unwrap();
            let Loaded::SetAside(aside) = load(dir.path()).unwrap() else { panic!("took {bad:?}") };
            assert_eq!(fs::read(aside).unwrap(), bad);
            assert_eq!(load(dir.path()).unwrap(), Loaded::Absent);
        }
    }

    #[test]
    fn names_of_another_version_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let mut snapshot = counted().snapshot();
        snapshot.counters.insert("counted_by_a_later_version".into(), 9);
        save(dir.path(), snapshot).unwrap();
        let next = Metrics::default();
        restore(dir.path(), &next);
        assert_eq!(next.snapshot(), counted().snapshot());
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_saved_now_and_then_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(counted());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let keeper = tokio::spawn(keep(dir.path().into(), Arc::clone(&metrics), async {
            let _ = stopped.await;
        }));
        metrics.count(Counter::StoreWrites);
        stop.send(()).unwrap();
        keeper.await.unwrap();
        let Loaded::Counters(saved) = load(dir.path()).unwrap() else { panic!("nothing saved") };
        assert_eq!(saved, metrics.snapshot());
    }
}
