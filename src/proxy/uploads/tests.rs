#![allow(clippy::unwrap_used)]
use uuid::Uuid;

use super::*;
use crate::asset::{AssetKind, Digest};
use crate::grid::Origin;
use crate::proxy::service::ServiceConfig;

/// An asset that is in no store.
fn entry(grid: &str, resolved_private: bool) -> Entry {
    Entry {
        key: AssetKey { grid: GridId::new(grid), kind: AssetKind::Sound, id: AssetId(Uuid::from_u128(1)) },
        origin: Origin::new("sim.example"),
        central: false,
        digest: Digest::of(b"x"),
        size: 1,
        queued: unix_now(),
        resolved_private,
    }
}

/// What became of these entries, found in the queue of a service at this address.
async fn found_for(address: &str, entries: &[Entry]) -> Arc<Metrics> {
    let data = tempfile::tempdir().unwrap();
    let (folder, metrics) = (data.path().join("uploads"), Arc::new(Metrics::default()));
    let address: crate::client::address::ServerAddress = address.parse().unwrap();
    let (mut journal, _) = Journal::open(&folder, &address.authority(), 10).unwrap();
    let changes: Vec<_> = (1..).zip(entries).map(|(n, one)| Change::Queued(Number(n), one.clone())).collect();
    journal.append(&changes).unwrap();
    drop(journal);
    let cache = LocalCache::memory_only(1 << 20, Arc::clone(&metrics));
    let config =
        ServiceConfig { address, token: None, join: None, spot_check: 0, least_deadline: Duration::ZERO };
    let service = ServiceTier::new(config, data.path(), cache.clone(), Arc::clone(&metrics)).unwrap();
    let limits = Limits { wait: Duration::ZERO, patience: Duration::ZERO, ..Limits::default() };
    let config = UploadConfig { limits, ..UploadConfig::default() };
    let queue = UploadQueue::start(folder, &config, Arc::new(service), cache, Arc::clone(&metrics)).await;
    assert!(queue.idle(Duration::from_secs(20)).await);
    queue.stop().await;
    metrics
}

#[tokio::test]
async fn whether_the_service_may_hear_of_it_is_asked_again_before_it_is_sent() {
    let entries =
        [entry("192.168.1.5:8002", false), entry("grid.example", true), entry("other.example", false)];
    // As a file that was tampered with or written by another version of us might say. Nobody is asked: what
    // may go is not in the store.
    for (address, kept_back) in [("https://cache.rezcache.invalid", 2), ("http://127.0.0.1:9", 0)] {
        let metrics = found_for(address, &entries).await;
        assert_eq!(metrics.get(Counter::UploadsDroppedNotForService), kept_back, "{address}");
        assert_eq!(metrics.get(Counter::UploadsDroppedMissing), 3 - kept_back, "{address}");
    }
}
