//! kill −9 at random moments: this test program starts itself as a writer, and kills it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{DISK_ONLY, asset, at, body, bytes_in, files_in, key, open};
use crate::cache::{LocalCache, Lookup};

const DIRECTORY: &str = "REZCACHE_TEST_KILL_DIRECTORY";
const SEED: &str = "REZCACHE_TEST_KILL_SEED";
const CAP: u64 = 3 << 20;
const KEYS: u32 = 300;
const ROUNDS: u64 = 20;

fn len(number: u32) -> usize {
    100 + number as usize * 97 % 30_000
}

/// Does nothing in an ordinary run; started by the test below it writes until it is killed.
#[tokio::test]
async fn the_writer_that_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let mut random = SmallRng::seed_from_u64(seed);
    let (cache, _) = open(Path::new(&dir), CAP, DISK_ONLY);
    // Read by the parent through the test harness's --nocapture.
    #[allow(clippy::print_stdout)]
    {
        println!("\nwriting");
    }
    loop {
        let number = random.random_range(0..KEYS);
        let origin = if random.random_bool(0.5) { "a" } else { "b" };
        let whole = body(number, len(number));
        if random.random_bool(0.3) {
            let start = random.random_range(0..whole.len());
            let extents = [(start as u64, whole.slice(start..))];
            cache.add_partial(&key(number), &at(origin), whole.len() as u64, &extents);
        } else {
            cache.put(key(number), &at(origin), asset(number, len(number)));
        }
        if random.random_bool(0.02) {
            cache.flush().await;
        }
    }
}

async fn check(cache: &LocalCache, hits: &mut usize, parts: &mut usize) {
    for number in 0..KEYS {
        for origin in ["a", "b"] {
            let whole = body(number, len(number));
            match cache.get(&key(number), &at(origin)).await {
                Lookup::Hit { asset, .. } => {
                    assert_eq!(asset.bytes, whole);
                    *hits += 1;
                }
                Lookup::Partial(held) => {
                    assert_eq!(held.total, whole.len() as u64);
                    for (start, bytes) in held.extents {
                        let start = usize::try_from(start).unwrap();
                        assert_eq!(bytes, whole[start..start + bytes.len()]);
                    }
                    *parts += 1;
                }
                Lookup::Miss => {}
                Lookup::Busy => panic!("nothing is slow here"),
            }
        }
    }
}

#[tokio::test]
async fn a_writer_killed_at_any_moment_leaves_no_wrong_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = SmallRng::seed_from_u64(9);
    let (mut hits, mut parts, mut torn) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::tests::kill::the_writer_that_is_killed", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "writing"), "the writer did not start");
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(Duration::from_micros(random.random_range(0..80_000)));
        child.kill().unwrap();
        child.wait().unwrap();

        torn +=
            files_in(dir.path()).iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).count();
        assert!(bytes_in(dir.path()) <= CAP);
        let (cache, metrics) = open(dir.path(), CAP, DISK_ONLY);
        check(&cache, &mut hits, &mut parts).await;
        cache.flush().await;
        check(&cache, &mut hits, &mut parts).await;
        let corrupt = metrics.get(crate::support::metrics::Counter::StoreCorrupt);
        assert_eq!(corrupt, 0, "a named file is whole after kill -9");
        assert!(files_in(dir.path()).iter().all(|path| path.extension().is_none_or(|e| e != "tmp")));
        cache.close().await;
    }
    assert!(hits > 100 && parts > 0, "{hits} hits and {parts} parts in {ROUNDS} rounds, {torn} torn files");
}
