//! Random operations over many reopenings, beside a recorder that remembers everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{DISK_ONLY, LARGE, asset, at, body, bytes_in, key, open, whole};

const ORIGINS: [&str; 4] = ["a", "b", "c", "d"];
const LEN: usize = 3000;

/// Who said last what about which key.
#[derive(Default)]
struct Recorder(BTreeMap<(u32, &'static str), u32>);

impl Recorder {
    /// The contents with two witnesses.
    fn grid_wide(&self, number: u32) -> BTreeSet<u32> {
        let said: Vec<u32> =
            self.0.iter().filter(|((key, _), _)| *key == number).map(|(_, content)| *content).collect();
        said.iter().copied().filter(|one| said.iter().filter(|other| *other == one).count() >= 2).collect()
    }
}

async fn run(dir: &Path, seed: u64, disk_bytes: u64, memory_bytes: u64, nothing_is_evicted: bool) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut recorder = Recorder::default();
    let mut hits = 0;
    for _ in 0..12 {
        let (cache, _) = open(dir, disk_bytes, memory_bytes);
        for step in 0..120 {
            let number = random.random_range(0..12_u32);
            let origin = ORIGINS[random.random_range(0..ORIGINS.len())];
            match random.random_range(0..10) {
                0..4 => {
                    let content = number * 10 + random.random_range(0..3);
                    cache.put(key(number), &at(origin), asset(content, LEN));
                    recorder.0.insert((number, origin), content);
                }
                4 => cache.flush().await,
                _ => {
                    let got = whole(&cache, number, &at(origin)).await;
                    hits += usize::from(got.is_some());
                    let own = recorder.0.get(&(number, origin)).copied();
                    let shared = recorder.grid_wide(number);
                    let seen = format!("seed {seed}, step {step}, key {number} at {origin}");
                    if nothing_is_evicted && own.is_some() {
                        assert!(
                            got == own.map(|content| body(content, LEN)),
                            "{seen}: not its own last word"
                        );
                    } else if let Some(got) = got {
                        let fine = own.into_iter().chain(shared).any(|content| body(content, LEN) == got);
                        assert!(fine, "{seen}: bytes that nobody answers for");
                    }
                }
            }
            assert!(bytes_in(dir) <= disk_bytes, "seed {seed}, step {step}");
        }
        cache.close().await;
    }
    assert!(hits > 50, "seed {seed}: {hits} hits");
}

#[tokio::test]
async fn with_room_for_all_every_origin_gets_its_own_last_word() {
    for (seed, memory) in [(1, DISK_ONLY), (2, LARGE), (3, 40_000)] {
        run(tempfile::tempdir().unwrap().path(), seed, LARGE, memory, true).await;
    }
}

#[tokio::test]
async fn without_room_nobody_gets_what_was_not_said() {
    for (seed, memory) in [(4, DISK_ONLY), (5, 40_000)] {
        run(tempfile::tempdir().unwrap().path(), seed, 80_000, memory, false).await;
    }
}
