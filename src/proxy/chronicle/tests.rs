//! What is remembered over a restart, and what becomes of damaged files.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use uuid::Uuid;

use super::*;
use crate::asset::AssetSource;
use crate::scenes::Progress;

fn open(dir: &Path) -> (Chronicle, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let cache = LocalCache::memory_only(1 << 20, Arc::clone(&metrics));
    (Chronicle::open(dir.to_owned(), Arc::clone(&metrics), cache), metrics)
}

fn visit(chronicle: &Chronicle) -> RegionKey {
    let (visitor, grid) = (chronicle.visitor(), GridId::new("grid.example"));
    chronicle.arrived(visitor, &grid, RegionHandle(7 << 40));
    chronicle.named(visitor, RegionHandle(7 << 40), b"Sandbox\0");
    let id = AssetId(Uuid::from_u128(5));
    let open = chronicle.begun(visitor, AssetKind::Mesh, id, &Origin::new("sim")).unwrap();
    chronicle.ended(open, true);
    assert_eq!(chronicle.scenes().now()[0].progress, Progress::Coming);
    RegionKey { grid, handle: 7 << 40 }
}

#[test]
fn regions_history_pace_and_settings_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (chronicle, metrics) = open(dir.path());
    let region = visit(&chronicle);
    chronicle.pin(&region, true).unwrap();
    metrics.asset_served(AssetKind::Mesh, AssetSource::Disk, 5000);
    chronicle.tick();
    let pace = Remembered { first_byte_us: 90_000, rate: 1000 };
    chronicle.note_pace(&region.grid, pace);
    chronicle.set_cache_bytes(123);
    chronicle.save();

    let (again, _) = open(dir.path());
    assert!(again.notes().is_empty());
    let kept = again.with_book(|book| book.get(&region).cloned()).unwrap();
    assert_eq!((kept.name.as_str(), kept.pinned, kept.assets(), kept.hits), ("Sandbox", true, 1, 1));
    assert_eq!(again.history().today(unix_now()).bytes_saved, 5000);
    assert_eq!(again.pace(&region.grid), Some(pace));
    assert_eq!(again.settings().cache_bytes, Some(123));
    again.forget_regions();
    again.save();
    let (last, _) = open(dir.path());
    assert_eq!(last.with_book(|book| book.iter().count()), 0);
}

#[test]
fn damaged_files_begin_anew_and_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (chronicle, _) = open(dir.path());
    let region = visit(&chronicle);
    chronicle.set_cache_bytes(123);
    chronicle.save();
    let file = format!("regions/{}.json", region.id());
    for name in ["history.json", "page.json", &file] {
        let path = dir.path().join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let (again, _) = open(dir.path());
    assert_eq!(again.notes().len(), 3, "{:?}", again.notes());
    assert_eq!(again.settings().cache_bytes, None);
    assert_eq!(again.with_book(|book| book.iter().count()), 0);
    for name in ["history.json", "page.json", &file] {
        assert!(dir.path().join(format!("{name}.bad")).exists(), "{name}");
    }
    let (last, _) = open(dir.path());
    assert!(last.notes().is_empty());
}

#[test]
fn a_folder_that_cannot_be_written_is_counted_and_nothing_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (chronicle, metrics) = open(dir.path());
    std::fs::write(dir.path().join("regions"), b"a file in the way").unwrap();
    let region = visit(&chronicle);
    chronicle.save();
    assert!(metrics.get(Counter::PageFilesUnwritten) > 0);
    std::fs::remove_file(dir.path().join("regions")).unwrap();
    chronicle.save();
    let (again, _) = open(dir.path());
    assert!(again.with_book(|book| book.get(&region).is_some()));
}
