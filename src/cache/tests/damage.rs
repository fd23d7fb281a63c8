//! Rot, lost files, interrupted writes: never a wrong byte, and healed.

use std::fs;
use std::sync::Arc;

use super::{DISK_ONLY, LARGE, Moody, asset, at, body, key, open, open_on, stored_files, whole};
use crate::support::metrics::Counter;

#[tokio::test]
async fn no_damaged_byte_of_a_stored_file_is_ever_served() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 150));
    cache.close().await;
    let file = stored_files(dir.path()).pop().unwrap();
    let sound = fs::read(&file).unwrap();

    let (cache, metrics) = open(dir.path(), LARGE, DISK_ONLY);
    cache.flush().await;
    for at_byte in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at_byte] ^= 0x40;
        fs::write(&file, &damaged).unwrap();
        let corrupt = metrics.get(Counter::StoreCorrupt);
        assert_eq!(whole(&cache, 1, &at("a")).await, None, "byte {at_byte}");
        assert_eq!(metrics.get(Counter::StoreCorrupt), corrupt + 1);
        cache.flush().await;
        assert!(!file.exists());
        cache.put(key(1), &at("a"), asset(1, 150));
        cache.flush().await;
        assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 150)), "healed");
    }
}

#[tokio::test]
async fn a_file_cut_short_or_grown_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, metrics) = open(dir.path(), LARGE, DISK_ONLY);
    let kept: [fn(usize) -> usize; 4] = [|len| len - 1, |_| 50, |_| 0, |len| len + 1];
    for (round, kept) in kept.into_iter().enumerate() {
        cache.put(key(1), &at("a"), asset(1, 150));
        cache.flush().await;
        let file = stored_files(dir.path()).pop().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes.resize(kept(bytes.len()), 0);
        fs::write(&file, bytes).unwrap();
        assert_eq!(whole(&cache, 1, &at("a")).await, None);
        cache.flush().await;
        assert_eq!(metrics.get(Counter::StoreCorrupt), round as u64 + 1);
        assert_eq!(cache.stats().disk_bytes, 0);
    }
}

#[tokio::test]
async fn files_that_vanish_are_forgotten_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, metrics) = open(dir.path(), LARGE, DISK_ONLY);
    for number in 0..30 {
        cache.put(key(number), &at("a"), asset(number, 100));
    }
    cache.flush().await;
    for entry in fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    for number in 0..30 {
        assert_eq!(whole(&cache, number, &at("a")).await, None);
    }
    cache.flush().await;
    assert_eq!(metrics.get(Counter::StoreCorrupt), 30);
    assert_eq!((cache.stats().disk_objects, cache.stats().disk_bytes), (0, 0));
    for number in 0..30 {
        cache.put(key(number), &at("a"), asset(number, 100));
    }
    cache.flush().await;
    for number in 0..30 {
        assert_eq!(whole(&cache, number, &at("a")).await, Some(body(number, 100)));
    }
}

#[tokio::test]
async fn a_file_under_another_name_is_not_that_asset() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.flush().await;
    let file = stored_files(dir.path()).pop().unwrap();
    cache.put(key(2), &at("a"), asset(2, 100));
    cache.flush().await;
    let other = stored_files(dir.path()).into_iter().find(|path| *path != file).unwrap();
    fs::copy(&file, &other).unwrap();
    assert_eq!(whole(&cache, 2, &at("a")).await, None);
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 100)));
}

#[tokio::test]
async fn what_an_interrupted_write_left_is_removed_and_strange_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.close().await;
    let file = stored_files(dir.path()).pop().unwrap();
    let torn = file.with_extension("b.tmp");
    let strange = file.with_file_name("notes.txt");
    for leftover in [&torn, &strange, &dir.path().join("usage.tmp")] {
        fs::write(leftover, "left over").unwrap();
    }
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.flush().await;
    assert!(!torn.exists() && !dir.path().join("usage.tmp").exists());
    assert!(strange.exists());
    assert_eq!(cache.stats().disk_objects, 1);
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 100)));
}

#[tokio::test]
async fn a_damaged_usage_file_costs_nothing_but_the_hint() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.close().await;
    fs::write(dir.path().join("usage"), "rot").unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 100)));
    // A store that is closed before it was scanned leaves the file as it is.
    cache.flush().await;
    cache.close().await;
    assert!(fs::metadata(dir.path().join("usage")).unwrap().len() > 40, "a good one again");
}

#[tokio::test]
async fn a_full_disk_is_counted_and_memory_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Moody::default());
    let (cache, metrics) = open_on(dir.path(), LARGE, LARGE, files.clone());
    files.set_full(true);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.flush().await;
    assert_eq!(metrics.get(Counter::StoreWriteFailures), 1);
    assert_eq!(metrics.get(Counter::StoreWrites), 0);
    assert!(stored_files(dir.path()).is_empty(), "no torn file stays");
    assert_eq!(cache.stats().disk_bytes, 0);
    assert_eq!(cache.get_memory(&key(1), &at("a")).unwrap().bytes, body(1, 100));

    files.set_full(false);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.close().await;
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 100)));
}
