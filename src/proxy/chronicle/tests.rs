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
    (Chronicle::open(Found::read(dir.to_owned()), Arc::clone(&metrics), cache), metrics)
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
    assert!(chronicle.set_cache_bytes(1 << 30));
    chronicle.save();

    let (again, _) = open(dir.path());
    assert!(again.notes().is_empty());
    let kept = again.with_book(|book| book.get(&region).cloned()).unwrap();
    assert_eq!((kept.name.as_str(), kept.pinned, kept.assets(), kept.hits), ("Sandbox", true, 1, 1));
    assert_eq!(again.history().today(unix_now()).bytes_saved, 5000);
    assert_eq!(again.pace(&region.grid), Some(pace));
    assert_eq!(again.settings().cache_bytes, Some(1 << 30));
    assert_eq!(Found::read(dir.path().to_owned()).cache_bytes(), Some(1 << 30), "before the store is opened");
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
    chronicle.set_cache_bytes(1 << 30);
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

#[test]
fn a_size_that_cannot_be_set_is_noted_and_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (chronicle, _) = open(dir.path());
    for bytes in [0, 123, u64::MAX] {
        chronicle.set_cache_bytes(bytes);
        let (again, _) = open(dir.path());
        assert_eq!((again.settings().cache_bytes, again.notes().len()), (None, 1), "{bytes}");
    }
    std::fs::remove_file(dir.path().join("page.json")).unwrap();
    std::fs::create_dir_all(dir.path().join("page.json/in the way")).unwrap();
    assert!(!chronicle.set_cache_bytes(1 << 30), "it cannot be written down");
}

#[test]
fn forgetting_the_regions_leaves_no_file_about_them() {
    let dir = tempfile::tempdir().unwrap();
    let (chronicle, _) = open(dir.path());
    let region = visit(&chronicle);
    chronicle.save();
    let regions = dir.path().join("regions");
    let left = || std::fs::read_dir(&regions).unwrap().count();
    assert_eq!(left(), 1);
    for name in ["0123456789abcdef.json.bad", "0123456789abcdef.json", "0123456789abcdef.new-00ff"] {
        std::fs::write(regions.join(name), b"{}").unwrap();
    }
    chronicle.forget_regions();
    assert_eq!(left(), 0);
    // Where somebody is begins anew; nothing old is written.
    chronicle.save();
    assert_eq!(left(), 1);
    assert_eq!(chronicle.with_book(|book| book.get(&region).map(|region| region.visits)), Some(1));
}

#[test]
fn what_a_crash_has_left_is_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("regions")).unwrap();
    for name in ["history.new-1", "page.new-2", "regions/00.new-3", "other.new-4", "page.json.bad"] {
        std::fs::write(dir.path().join(name), b"x").unwrap();
    }
    let _ = open(dir.path());
    let is_there = |name: &str| dir.path().join(name).exists();
    assert!(["history.new-1", "page.new-2", "regions/00.new-3"].iter().all(|name| !is_there(name)));
    assert!(["other.new-4", "page.json.bad"].iter().all(|name| is_there(name)));
}

#[test]
fn a_region_that_cannot_be_read_is_no_damage_and_another_version_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (chronicle, _) = open(dir.path());
    let region = visit(&chronicle);
    chronicle.save();
    let path = dir.path().join(format!("regions/{}.json", region.id()));
    let text = std::fs::read_to_string(&path).unwrap();
    // A folder opens, and gives an error when it is read.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let (again, _) = open(dir.path());
    assert!(path.is_dir() && again.notes()[0].contains("left as they are"), "{:?}", again.notes());
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, text.replace("\"version\":1", "\"version\":9")).unwrap();
    let (again, _) = open(dir.path());
    assert!(again.notes()[0].contains("another version"), "{:?}", again.notes());
    assert!(path.with_extension("json.bad").exists());
}

#[test]
fn a_history_that_is_said_to_be_kept_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..2000).map(|minute| format!("\"{minute}\":[1,0,0,0,0,0]")).collect();
    let text = format!(
        "{{\"format\":\"rezcache history\",\"version\":1,\"content\":{{\"history\":{{\"minutes\":{{{}}},\"hours\":{{}},\
         \"days\":{{}}}},\"paces\":{{}}}}}}",
        rows.join(",")
    );
    std::fs::write(dir.path().join("history.json"), &text).unwrap();
    let (chronicle, _) = open(dir.path());
    assert!(chronicle.notes()[0].contains("history.json.bad"));
    chronicle.save();
    assert_eq!(std::fs::read_to_string(dir.path().join("history.json.bad")).unwrap(), text);
}

#[test]
fn failures_are_forgotten_in_time_and_when_it_works_again() {
    let (now, mut unanswered) = (Instant::now(), Unanswered::default());
    for _ in 0..3 {
        unanswered.note(now, false);
    }
    assert_eq!(unanswered.count(now + Duration::from_secs(299)), 3);
    assert_eq!(unanswered.count(now + Duration::from_secs(300)), 0);
    unanswered.note(now + Duration::from_secs(301), false);
    assert_eq!(unanswered.count(now + Duration::from_secs(301)), 1);
    unanswered.note(now + Duration::from_secs(302), true);
    assert_eq!(unanswered.count(now + Duration::from_secs(302)), 0);

    let metrics = Metrics::default();
    metrics.add(Counter::StoreWriteFailures, 5);
    let mut unstored = Unstored::new(&metrics);
    assert_eq!(unstored.look(&metrics), 0, "that was in an earlier run");
    metrics.add(Counter::StoreWriteFailures, 2);
    assert_eq!(unstored.look(&metrics), 2);
    metrics.count(Counter::StoreWrites);
    assert_eq!(unstored.look(&metrics), 0);
}
