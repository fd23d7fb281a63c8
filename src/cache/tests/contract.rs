//! What is put is got, by those who may get it.

use std::sync::Arc;

use super::{DISK_ONLY, LARGE, Scope, asset, at, body, config, key, open, stored_files, whole};
use crate::asset::{AssetSource, Digest};
use crate::cache::{CacheError, LocalCache, Lookup};
use crate::grid::Origin;
use crate::support::metrics::{Counter, Metrics};

fn source(lookup: &Lookup) -> Option<AssetSource> {
    match lookup {
        Lookup::Hit { source, .. } => Some(*source),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_put_comes_from_memory_and_after_a_restart_from_disk_once() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    cache.put(key(1), &at("sim"), asset(1, 5000));
    assert_eq!(cache.get_memory(&key(1), &at("sim")).unwrap().bytes, body(1, 5000));
    cache.close().await;

    let (cache, _) = open(dir.path(), LARGE, LARGE);
    assert!(cache.get_memory(&key(1), &at("sim")).is_none());
    let first = cache.get(&key(1), &at("sim")).await;
    assert_eq!(source(&first), Some(AssetSource::Disk));
    assert_eq!(source(&cache.get(&key(1), &at("sim")).await), Some(AssetSource::Memory));
    assert_eq!(whole(&cache, 1, &at("sim")).await, Some(body(1, 5000)));
    assert!(whole(&cache, 2, &at("sim")).await.is_none());
}

#[tokio::test]
async fn what_waits_to_be_written_is_served_though_memory_has_no_place_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(super::Moody::default());
    files.set_stuck(true);
    let (cache, _) = super::open_on(dir.path(), LARGE, DISK_ONLY, files.clone());
    cache.put(key(1), &at("sim"), asset(1, 5000));
    assert_eq!(whole(&cache, 1, &at("sim")).await, Some(body(1, 5000)));
    files.set_stuck(false);
    cache.flush().await;
    assert_eq!(cache.stats().queue_bytes, 0);
    assert_eq!(source(&cache.get(&key(1), &at("sim")).await), Some(AssetSource::Disk));
}

#[tokio::test]
async fn one_origin_speaks_for_itself_and_two_for_the_grid() {
    for memory in [DISK_ONLY, LARGE] {
        let dir = tempfile::tempdir().unwrap();
        let (cache, metrics) = open(dir.path(), LARGE, memory);
        let central = Scope { origin: Origin::new("cdn"), central: true };
        cache.put(key(1), &at("a"), asset(1, 100));
        cache.flush().await;
        assert!(whole(&cache, 1, &at("a")).await.is_some());
        assert!(whole(&cache, 1, &at("b")).await.is_none());
        assert!(whole(&cache, 1, &central).await.is_some());

        cache.put(key(1), &at("b"), asset(1, 100));
        cache.flush().await;
        assert!(whole(&cache, 1, &at("c")).await.is_some());
        assert_eq!(stored_files(dir.path()).len(), 1);
        assert_eq!(metrics.get(Counter::StoreWrites), 2);

        cache.put(key(1), &at("b"), asset(1, 100));
        cache.flush().await;
        assert_eq!(metrics.get(Counter::StoreWrites), 2, "nothing new was said");
    }
}

#[tokio::test]
async fn conflicting_content_is_kept_apart_by_origin_over_a_restart() {
    for memory in [DISK_ONLY, LARGE] {
        let dir = tempfile::tempdir().unwrap();
        let (cache, _) = open(dir.path(), LARGE, memory);
        for (number, origin) in ["a", "b", "c", "d"].into_iter().enumerate() {
            cache.put(key(1), &at(origin), asset(u32::try_from(number).unwrap(), 700));
        }
        cache.close().await;
        let (cache, _) = open(dir.path(), LARGE, memory);
        for (number, origin) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let expected = body(u32::try_from(number).unwrap(), 700);
            assert_eq!(whole(&cache, 1, &at(origin)).await, Some(expected));
        }
        assert!(whole(&cache, 1, &at("e")).await.is_none());

        // A fifth content: one of the others has to go, no file more.
        cache.put(key(1), &at("e"), asset(9, 700));
        cache.flush().await;
        assert_eq!(whole(&cache, 1, &at("e")).await, Some(body(9, 700)));
        assert_eq!(stored_files(dir.path()).len(), 4);
    }
}

#[tokio::test]
async fn the_newer_word_of_an_origin_replaces_its_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.put(key(1), &at("b"), asset(1, 100));
    cache.put(key(1), &at("a"), asset(2, 100));
    cache.close().await;
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(2, 100)));
    assert_eq!(whole(&cache, 1, &at("b")).await, Some(body(1, 100)));
    assert_eq!(whole(&cache, 1, &at("c")).await, None, "no content has two witnesses any more");
    cache.put(key(1), &at("b"), asset(2, 100));
    cache.flush().await;
    assert_eq!(whole(&cache, 1, &at("c")).await, Some(body(2, 100)));
    assert_eq!(stored_files(dir.path()).len(), 1, "nobody vouches for the first content any more");
}

#[tokio::test]
async fn memory_serves_nothing_grid_wide_that_the_asker_contradicted() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.put(key(1), &at("b"), asset(1, 100));
    cache.put(key(1), &at("c"), asset(2, 100));
    cache.close().await;
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 100)), "now in memory, without c's");
    assert_eq!(whole(&cache, 1, &at("c")).await, Some(body(2, 100)));
}

#[tokio::test]
async fn a_directory_serves_one_store_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    let again = LocalCache::open(config(dir.path(), LARGE, LARGE), Arc::new(Metrics::default()));
    assert!(matches!(again, Err(CacheError::InUse)));
    cache.close().await;
    assert!(LocalCache::open(config(dir.path(), LARGE, LARGE), Arc::new(Metrics::default())).is_ok());
}

#[tokio::test]
async fn without_a_usable_directory_memory_alone_serves() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let metrics = Arc::new(Metrics::default());
    let refused = LocalCache::open(config(&file, LARGE, LARGE), Arc::clone(&metrics));
    assert!(matches!(refused, Err(CacheError::Directory(_))));

    let cache = LocalCache::memory_only(LARGE, metrics);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.put(key(1), &at("b"), asset(1, 100));
    assert_eq!(whole(&cache, 1, &at("c")).await, Some(body(1, 100)));
    assert!(whole(&cache, 2, &at("a")).await.is_none());
    cache.flush().await;
    cache.close().await;
}

#[tokio::test]
async fn clear_forgets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, LARGE);
    (0..20).for_each(|number| cache.put(key(number), &at("a"), asset(number, 100)));
    cache.flush().await;
    (20..40).for_each(|number| cache.put(key(number), &at("a"), asset(number, 100)));
    cache.clear();
    cache.flush().await;
    for number in 0..40 {
        assert!(whole(&cache, number, &at("a")).await.is_none());
    }
    assert!(stored_files(dir.path()).is_empty());
    assert_eq!((cache.stats().disk_bytes, cache.stats().queue_bytes), (0, 0));
    cache.put(key(1), &at("a"), asset(1, 100));
    assert_eq!(cache.get_memory(&key(1), &at("a")).unwrap().digest, Digest::of(&body(1, 100)));
}

#[tokio::test]
async fn what_was_used_often_outlives_a_restart_and_what_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), 40 * 4096, LARGE);
    for number in 0..20 {
        cache.put(key(number), &at("a"), asset(number, 3000));
    }
    cache.flush().await;
    for _ in 0..5 {
        for number in 0..5 {
            assert!(cache.get_memory(&key(number), &at("a")).is_some());
        }
    }
    cache.close().await;
    let (cache, _) = open(dir.path(), 40 * 4096, DISK_ONLY);
    for number in 100..150 {
        cache.put(key(number), &at("a"), asset(number, 3000));
    }
    cache.flush().await;
    for number in 0..5 {
        assert!(whole(&cache, number, &at("a")).await.is_some(), "{number}");
    }
    let rest = (5..20).map(|number| stored_for(dir.path(), number));
    assert!(rest.filter(|stored| *stored).count() < 15, "something had to go");
}

fn stored_for(dir: &std::path::Path, number: u32) -> bool {
    use crate::cache::files::{FileId, Stem};
    FileId::whole(Stem::of(&key(number)), 0).path(dir).exists()
}

#[tokio::test]
async fn a_word_that_is_taken_back_is_nobodys_at_once() {
    for memory in [DISK_ONLY, LARGE] {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(super::Moody::default());
        let (cache, _) = super::open_on(dir.path(), LARGE, memory, files.clone());
        for origin in ["a", "b"] {
            cache.put(key(1), &at(origin), asset(1, 5000));
        }
        cache.put(key(2), &at("a"), asset(2, 5000));
        cache.flush().await;
        for n in 1..=2 {
            assert!(cache.withdraw(&key(n), &at("a")));
            assert!(whole(&cache, n, &at("a")).await.is_none(), "{n}");
        }
        assert!(whole(&cache, 1, &at("b")).await.is_some(), "another origin's word stands");
        cache.flush().await;
        // One that is still to be written, too.
        files.set_stuck(true);
        cache.put(key(3), &at("a"), asset(3, 5000));
        assert!(whole(&cache, 3, &at("a")).await.is_some());
        assert!(cache.withdraw(&key(3), &at("a")));
        assert!(cache.get_memory(&key(3), &at("a")).is_none());
        files.set_stuck(false);
        cache.flush().await;
        cache.put(key(2), &at("a"), asset(4, 100));
        assert_eq!(whole(&cache, 2, &at("a")).await, Some(body(4, 100)), "its next word counts");
        cache.close().await;

        let (cache, _) = open(dir.path(), LARGE, memory);
        assert!(whole(&cache, 1, &at("a")).await.is_none());
        assert!(whole(&cache, 3, &at("a")).await.is_none());
        assert!(whole(&cache, 1, &at("b")).await.is_some());
        assert_eq!(whole(&cache, 2, &at("a")).await, Some(body(4, 100)));
    }
}
