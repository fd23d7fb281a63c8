//! How fast blobs are sealed and opened, beside bare AES-256-GCM over the same bytes.
//!
//!     cargo bench --bench seal
//!
//! Two bare ciphers: in place over a buffer that is there already, and into a new buffer. The first is what
//! opening is held against: a blob that came from the store is opened where it lies. The second is what sealing
//! is held against: the plain bytes are still needed (the hot tier, proofs), and `ring` encrypts only in place,
//! so whoever seals copies first. Neither derives keys or cuts chunks. A content is hashed before it is sealed,
//! when an upload is checked; hashing is shown beside. The goal is 0.9 × for contents of a chunk and more; an
//! asset of few kilobytes pays for HKDF, about 2 µs.
#![allow(missing_docs, clippy::print_stdout, clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use rezcache::asset::Digest;
use rezcache::store::keys::KeyRing;
use rezcache::store::sealed::{self, Hashed};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Time spent on each measurement; the best of the rounds counts, as the least disturbed.
const ROUND: Duration = Duration::from_millis(150);
const ROUNDS: usize = 15;

fn main() {
    // A node that runs for a while has freed a large block once, after which the allocator keeps such memory;
    // without this all that makes a new buffer measures how the system hands out fresh pages.
    drop(black_box(vec![1u8; (32 << 20) - 8192]));
    println!("                    GB/s: bare              ours                  ratio");
    println!("     bytes    in place     new    seal    open    hash     seal    open");
    for size in [4 << 10, 20 << 10, 88 << 10, 1 << 20, 8 << 20, 30 << 20] {
        measure(size);
    }
}

fn measure(size: usize) {
    let ring = KeyRing::new([1; 32], [2; 32]);
    let mut plain = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut plain);
    let hashed = Hashed::of(&plain);
    let name = ring.blob_name(hashed.digest);
    let blob = sealed::seal(&ring, &name, &hashed, &plain, false, [3; 32]).expect("sealed");
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[4; 32]).expect("a key"));
    let cipher = |buffer: &mut [u8]| {
        let nonce = Nonce::assume_unique_for_key([5; 12]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), buffer).expect("sealed");
        let _ = black_box(tag);
    };
    let mut best = [0.0_f64; 5];
    // In turns, so that whatever else the machine does falls on all.
    for _ in 0..ROUNDS {
        let rounds = [
            // Buffers that are there already, for both: made before the clock starts.
            rate(
                size,
                || plain.clone(),
                |mut buffer| {
                    cipher(&mut buffer);
                    buffer
                },
            ),
            rate(size, Vec::new, |_| {
                let mut buffer = Vec::with_capacity(size + 16);
                buffer.extend_from_slice(black_box(&plain));
                cipher(&mut buffer);
                buffer
            }),
            rate(size, Vec::new, |_| {
                sealed::seal(&ring, &name, &hashed, black_box(&plain), false, [3; 32]).expect("sealed")
            }),
            rate(
                size,
                || blob.clone(),
                |blob| sealed::open_owned(&ring, &name, blob, u64::MAX).expect("opened").1,
            ),
            rate(size, Vec::new, |_| Digest::of(black_box(&plain))),
        ];
        for (best, round) in best.iter_mut().zip(rounds) {
            *best = best.max(round);
        }
    }
    let [in_place, new, seal, open, hash] = best;
    println!(
        "{size:>10} {in_place:>11.2} {new:>7.2} {seal:>7.2} {open:>7.2} {hash:>7.2}   {:>5.2} ×  {:>5.2} ×",
        seal / new,
        open / in_place,
    );
}

/// Gigabytes per second of `work`, without what `prepare` and dropping the results take.
fn rate<T>(size: usize, mut prepare: impl FnMut() -> Vec<u8>, mut work: impl FnMut(Vec<u8>) -> T) -> f64 {
    let begin = Instant::now();
    let (mut spent, mut times) = (Duration::ZERO, 0u32);
    let batch = (1 << 20) / size.max(1) + 1;
    while begin.elapsed() < ROUND {
        let inputs: Vec<_> = (0..batch).map(|_| prepare()).collect();
        let mut results = Vec::with_capacity(batch);
        let start = Instant::now();
        for input in inputs {
            results.push(black_box(work(input)));
        }
        spent += start.elapsed();
        times += u32::try_from(batch).expect("a small number");
    }
    size as f64 * f64::from(times) / spent.as_secs_f64() / 1e9
}
