//! Parts of assets: kept by origin, joined, given up.

use std::fs;

use super::{DISK_ONLY, LARGE, asset, at, body, key, open, stored_files, whole};
use crate::cache::{LocalCache, Lookup, PartialAsset, Scope};
use crate::support::metrics::Counter;

async fn parts(cache: &LocalCache, number: u32, scope: &Scope) -> Option<PartialAsset> {
    match cache.get(&key(number), scope).await {
        Lookup::Partial(parts) => Some(parts),
        _ => None,
    }
}

#[tokio::test]
async fn parts_are_kept_by_origin_over_a_restart_and_complete_the_asset() {
    for memory in [DISK_ONLY, LARGE] {
        let dir = tempfile::tempdir().unwrap();
        let all = body(1, 1000);
        let (cache, _) = open(dir.path(), LARGE, memory);
        let first = [(0, all.slice(..100)), (500, all.slice(500..600))];
        assert_eq!(cache.add_partial(&key(1), &at("a"), 1000, &first), None);
        cache.close().await;

        let (cache, _) = open(dir.path(), LARGE, LARGE);
        let held = parts(&cache, 1, &at("a")).await.unwrap();
        assert_eq!(held, PartialAsset { total: 1000, extents: first.to_vec() });
        assert_eq!(parts(&cache, 1, &at("b")).await, None);
        let rest = [(100, all.slice(100..500)), (600, all.slice(600..))];
        assert_eq!(cache.add_partial(&key(1), &at("a"), 1000, &rest), Some(all.clone()));

        cache.put(key(1), &at("a"), asset(1, 1000));
        cache.flush().await;
        assert_eq!(whole(&cache, 1, &at("a")).await, Some(all));
        assert_eq!(stored_files(dir.path()).len(), 1, "the parts are gone");
    }
}

#[tokio::test]
async fn parts_of_an_earlier_run_are_told_from_those_heard_now() {
    let dir = tempfile::tempdir().unwrap();
    let all = body(1, 1000);
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    cache.add_partial(&key(1), &at("a"), 1000, &[(0, all.slice(..100))]);
    assert!(cache.parts_are_fresh(&key(1), &at("a")));
    assert!(!cache.parts_are_fresh(&key(1), &at("b")));
    cache.close().await;

    let (cache, _) = open(dir.path(), LARGE, LARGE);
    parts(&cache, 1, &at("a")).await.unwrap();
    assert_eq!(cache.add_partial(&key(1), &at("a"), 1000, &[(100, all.slice(100..))]), Some(all.clone()));
    assert!(!cache.parts_are_fresh(&key(1), &at("a")), "its beginning is of the earlier run");
    cache.drop_partial(&key(1), &at("a"));
    cache.add_partial(&key(1), &at("a"), 1000, &[(0, all.clone())]);
    assert!(cache.parts_are_fresh(&key(1), &at("a")));
}

#[tokio::test]
async fn another_total_or_other_bytes_start_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    let all = body(1, 1000);
    cache.add_partial(&key(1), &at("a"), 1000, &[(0, all.slice(..100))]);
    cache.add_partial(&key(1), &at("a"), 999, &[(200, all.slice(200..300))]);
    let held = parts(&cache, 1, &at("a")).await.unwrap();
    assert_eq!(held, PartialAsset { total: 999, extents: vec![(200, all.slice(200..300))] });

    let other = body(2, 50);
    cache.add_partial(&key(1), &at("a"), 999, &[(220, other.clone())]);
    cache.close().await;
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    let held = parts(&cache, 1, &at("a")).await.unwrap();
    assert_eq!(held, PartialAsset { total: 999, extents: vec![(220, other)] });
}

#[tokio::test]
async fn dropped_parts_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.add_partial(&key(1), &at("a"), 1000, &[(0, body(1, 100))]);
    cache.add_partial(&key(2), &at("a"), 1000, &[(0, body(2, 100))]);
    cache.flush().await;
    assert_eq!(stored_files(dir.path()).len(), 2);
    cache.drop_partial(&key(1), &at("a"));
    assert_eq!(parts(&cache, 1, &at("a")).await, None, "at once");
    cache.put(key(2), &at("a"), asset(2, 1000));
    cache.close().await;
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    assert_eq!(parts(&cache, 1, &at("a")).await, None);
    assert_eq!(whole(&cache, 2, &at("a")).await, Some(body(2, 1000)));
    assert_eq!(stored_files(dir.path()).len(), 1);
}

#[tokio::test]
async fn parts_on_disk_are_joined_with_what_memory_forgot() {
    let dir = tempfile::tempdir().unwrap();
    let all = body(1, 1000);
    for start in [0_usize, 300, 600] {
        let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
        let run = (start as u64, all.slice(start..start + 100));
        cache.add_partial(&key(1), &at("a"), 1000, &[run]);
        cache.close().await;
    }
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    let held = parts(&cache, 1, &at("a")).await.unwrap();
    assert_eq!(held.extents.iter().map(|(start, _)| *start).collect::<Vec<_>>(), [0, 300, 600]);
}

#[tokio::test]
async fn no_damaged_byte_of_parts_is_ever_served() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, metrics) = open(dir.path(), LARGE, DISK_ONLY);
    let all = body(1, 1000);
    let extents = [(0, all.slice(..20)), (500, all.slice(500..530))];
    cache.add_partial(&key(1), &at("a"), 1000, &extents);
    cache.flush().await;
    let file = stored_files(dir.path()).pop().unwrap();
    let sound = fs::read(&file).unwrap();
    for at_byte in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at_byte] ^= 1;
        fs::write(&file, &damaged).unwrap();
        assert_eq!(parts(&cache, 1, &at("a")).await, None, "byte {at_byte}");
        cache.add_partial(&key(1), &at("a"), 1000, &extents);
        cache.flush().await;
        assert_eq!(parts(&cache, 1, &at("a")).await.unwrap().extents, extents);
    }
    assert_eq!(metrics.get(Counter::StoreCorrupt), sound.len() as u64);
}

#[tokio::test]
async fn a_total_that_no_asset_has_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    assert_eq!(cache.add_partial(&key(1), &at("a"), u64::MAX, &[(0, body(1, 10))]), None);
    assert_eq!(parts(&cache, 1, &at("a")).await, None);
}
