#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Contents, Large, MAX_STREAMS, READER_PATIENCE, Source, Trouble, pieces};
use crate::asset::Digest;
use crate::node::body::Broken;
use crate::node::counters::{Count, Counters};
use crate::node::hot::HotTier;
use crate::store::blobs::Blobs;
use crate::store::keys::KeyRing;
use crate::store::sealed::{self, Hashed};

#[test]
fn a_range_is_cut_into_pieces() {
    let all = |range| pieces(range).collect::<Vec<_>>();
    assert_eq!(all(0..10), [(0, 0..10)]);
    assert_eq!(all(5..(1 << 20) + 1), [(0, 5..1 << 20), (1, 0..1)]);
    assert_eq!(all(3 << 20..5 << 20), [(3, 0..1 << 20), (4, 0..1 << 20)]);
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

async fn put(contents: &Contents, plain: &[u8], lz4: bool) -> Digest {
    let hashed = Hashed::of(plain);
    let name = contents.ring.blob_name(hashed.digest);
    let blob = sealed::seal(&contents.ring, &name, &hashed, plain, lz4, rand::random()).unwrap();
    contents.blobs.put(&name, blob).await.unwrap();
    hashed.digest
}

/// Contents without memory to keep any, so that all is fetched.
fn contents(memory: u64) -> Arc<Contents> {
    let (blobs, ring) = (Blobs::open("memory:").unwrap(), KeyRing::new([1; 32], [2; 32]));
    Arc::new(Contents::new(blobs, ring, HotTier::new(memory), None, Arc::new(Counters::default())))
}

async fn large(contents: &Arc<Contents>, digest: Digest, size: usize) -> Large {
    match contents.get(digest, size as u64).await.unwrap().unwrap() {
        Source::Large(large) => large,
        Source::Small(_) => panic!("it is large"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_does_not_read_holds_nothing_for_long() {
    let contents = contents(0);
    let plain = noise(7 << 20);
    let digest = put(&contents, &plain, false).await;
    let source = large(&contents, digest, plain.len()).await;
    let mut stalled = source.clone().stream(0..plain.len() as u64).await.unwrap();
    let mut got = stalled.next().await.unwrap().unwrap().to_vec();
    assert_eq!(contents.streams.available_permits(), MAX_STREAMS - 1);
    tokio::time::sleep(READER_PATIENCE * 2).await;
    assert_eq!(contents.streams.available_permits(), MAX_STREAMS);
    let end = loop {
        match stalled.next().await {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            end => break end,
        }
    };
    assert_eq!(end, Err(Broken));
    assert!(got.len() < plain.len() && got == plain[..got.len()]);
    // One who is gone holds nothing at all.
    drop(source.clone().stream(0..plain.len() as u64).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(contents.streams.available_permits(), MAX_STREAMS);
    // And all together hold a bounded number of pieces: the next one waits, and is told to come again.
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(source.clone().stream(0..plain.len() as u64).await.unwrap());
    }
    assert_eq!(source.clone().stream(0..10).await.unwrap_err().retry_after_s, 2);
    streams.pop();
    let mut stream = source.stream(70_000..3_000_000).await.unwrap();
    let mut got = Vec::new();
    while let Some(piece) = stream.next().await.unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == plain[70_000..3_000_000]);
}

#[tokio::test]
async fn of_many_who_ask_for_the_same_one_fetches_it() {
    let contents = contents(64 << 20);
    let (small, big) = (noise(100_000), noise(3 << 20));
    let digests = [put(&contents, &small, false).await, put(&contents, &big, false).await];
    let all = (0..40).map(|at| {
        let (contents, big) = (&contents, &big);
        async move {
            if at % 2 == 0 {
                assert!(matches!(contents.get(digests[0], 100_000).await, Ok(Some(Source::Small(_)))));
            } else {
                let large = large(contents, digests[1], big.len()).await;
                let key = [7; 32];
                assert_eq!(large.proof(&key).await.unwrap(), *blake3::keyed_hash(&key, big).as_bytes());
            }
        }
    });
    futures_util::future::join_all(all).await;
    let fetched = contents.counters.get(Count::StoreBytesIn);
    let blobs = (small.len() + big.len()) as u64;
    assert!(fetched > blobs && fetched < blobs + 10_000, "{fetched}");
    contents.forget(digests[1]).await;
    large(&contents, digests[1], big.len()).await;
    assert!(contents.counters.get(Count::StoreBytesIn) > fetched, "what is forgotten is fetched again");
}

#[tokio::test]
async fn packed_damaged_and_missing_contents() {
    let contents = contents(0);
    // Packed, a large content has no parts.
    let packed = vec![7; 3 << 20];
    let digest = put(&contents, &packed, true).await;
    match contents.get(digest, packed.len() as u64).await.unwrap().unwrap() {
        Source::Small(content) => assert!(content.bytes == packed),
        Source::Large(_) => panic!("it has no parts"),
    }
    assert!(contents.get(Digest([9; 32]), 100).await.unwrap().is_none());
    assert!(contents.get(Digest([9; 32]), 3 << 20).await.unwrap().is_none());
    assert_eq!(contents.counters.get(Count::BlobsMissing), 2);
    // The catalog's word of the size does not fit the blob.
    let plain = noise(3 << 20);
    let digest = put(&contents, &plain, false).await;
    assert!(contents.get(digest, (3 << 20) + 1).await.unwrap().is_none());
    assert_eq!(contents.counters.get(Count::BlobsDamaged), 1);
    // Of a damaged one the undamaged pieces are served still.
    let name = contents.ring.blob_name(digest);
    let mut blob = contents.blobs.get(&name).await.unwrap().unwrap().to_vec();
    blob[1_500_000] ^= 1;
    contents.blobs.put(&name, blob).await.unwrap();
    let source = large(&contents, digest, plain.len()).await;
    assert_eq!(contents.piece(&source.head, 0).await.unwrap(), Bytes::copy_from_slice(&plain[..1 << 20]));
    assert_eq!(contents.piece(&source.head, 1).await, Err(Trouble::Gone));
    assert_eq!(contents.piece(&source.head, 2).await.unwrap(), Bytes::copy_from_slice(&plain[2 << 20..]));
}
