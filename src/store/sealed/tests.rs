#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
use proptest::prelude::*;

use super::{CHUNK_BYTES, HEADER_BYTES, SealError, open, seal};
use crate::asset::Digest;
use crate::store::keys::KeyRing;

const LIMIT: u64 = 1 << 20;

fn ring() -> KeyRing {
    KeyRing::new([3; 32], [4; 32])
}

/// Bytes that nothing can compress.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

fn sealed(plain: &[u8]) -> Vec<u8> {
    let digest = Digest::of(plain);
    seal(&ring(), &ring().blob_name(digest), digest, plain, true, [9; 32]).unwrap()
}

fn reopened(blob: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let digest = Digest::of(plain);
    open(&ring(), &ring().blob_name(digest), blob, LIMIT).map(|(found, bytes)| {
        assert_eq!(found, digest);
        bytes.to_vec()
    })
}

#[test]
fn what_is_sealed_opens_again() {
    for length in [0, 1, 63, CHUNK_BYTES - 33, CHUNK_BYTES - 32, CHUNK_BYTES - 31, CHUNK_BYTES, 200_000] {
        for plain in [noise(length), vec![7; length]] {
            assert_eq!(reopened(&sealed(&plain), &plain).unwrap(), plain);
        }
    }
    assert!(sealed(&vec![7; 100_000]).len() < 2000, "what can be compressed is");
    assert_eq!(sealed(&noise(1000)).len(), HEADER_BYTES + 32 + 1000 + 16);
}

#[test]
fn any_flipped_bit_is_refused() {
    let plain = noise(300);
    let blob = sealed(&plain);
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut damaged = blob.clone();
            damaged[at] ^= 1 << bit;
            assert!(reopened(&damaged, &plain).is_err(), "byte {at} bit {bit}");
        }
    }
    let plain = noise(200_000);
    let blob = sealed(&plain);
    for at in (0..blob.len()).step_by(997) {
        let mut damaged = blob.clone();
        damaged[at] ^= 0x20;
        assert!(reopened(&damaged, &plain).is_err(), "byte {at}");
    }
}

#[test]
fn nothing_can_be_cut_moved_or_swapped() {
    let plain = noise(200_000);
    let blob = sealed(&plain);
    for end in (0..blob.len()).step_by(1009).chain([blob.len() - 1]) {
        assert!(reopened(&blob[..end], &plain).is_err(), "cut at {end}");
    }
    let mut longer = blob.clone();
    longer.push(0);
    assert!(reopened(&longer, &plain).is_err());
    let chunk = CHUNK_BYTES + 16;
    let mut moved = blob.clone();
    moved[HEADER_BYTES..HEADER_BYTES + 2 * chunk].rotate_left(chunk);
    assert_eq!(reopened(&moved, &plain), Err(SealError::Damaged));
    // Another blob's chunks, of the same shape and the same salt.
    let other = sealed(&vec![1; 0].into_iter().chain(noise(200_001)).skip(1).collect::<Vec<u8>>());
    let mut swapped = blob.clone();
    swapped[HEADER_BYTES..].copy_from_slice(&other[HEADER_BYTES..]);
    assert!(reopened(&swapped, &plain).is_err());
    assert_eq!(reopened(&other, &plain), Err(SealError::WrongKey(1)), "under another's name");
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let plain = noise(100);
    let digest = Digest::of(&plain);
    let blob = sealed(&plain);
    let name = ring().blob_name(digest);
    let other = KeyRing::new([3; 32], [5; 32]);
    assert_eq!(open(&other, &name, &blob, LIMIT), Err(SealError::WrongKey(1)));
    let rotated = ring().with_new_key([6; 32]);
    assert!(open(&rotated, &name, &blob, LIMIT).is_ok(), "old keys still read");
    let newer = seal(&rotated, &name, digest, &plain, false, [1; 32]).unwrap();
    assert_eq!(open(&ring(), &name, &newer, LIMIT), Err(SealError::UnknownKey(2)));
    assert_eq!(open(&ring(), &name, &blob, 99), Err(SealError::TooLarge));
}

#[test]
fn a_blob_shows_neither_content_nor_digest() {
    let plain = b"key frames of an animation, key frames of an animation, key frames".repeat(20);
    let digest = Digest::of(&plain);
    let name = ring().blob_name(digest);
    for lz4 in [false, true] {
        let blob = seal(&ring(), &name, digest, &plain, lz4, [9; 32]).unwrap();
        assert!(!blob.windows(8).any(|window| plain.windows(8).any(|part| part == window)));
        assert!(!blob.windows(8).any(|window| digest.0.windows(8).any(|part| part == window)));
        assert!(!name.0.windows(8).any(|window| digest.0.windows(8).any(|part| part == window)));
    }
}

#[test]
fn the_first_version_is_still_read() {
    let blob = std::fs::read("fixtures/service/sealed-v1.blob").unwrap();
    let (digest, plain) =
        open(&ring(), &ring().blob_name(Digest::of(b"rezcache version 1")), &blob, LIMIT).unwrap();
    assert_eq!((digest, &plain[..]), (Digest::of(b"rezcache version 1"), &b"rezcache version 1"[..]));
}

proptest! {
    #[test]
    fn anything_may_stand_in_a_store(blob in prop::collection::vec(any::<u8>(), 0..400), ours in any::<bool>()) {
        let mut blob = blob;
        if ours && blob.len() > 8 {
            blob[..8].copy_from_slice(b"RZB1\x01\x01\0\0");
        }
        prop_assert!(reopened(&blob, b"x").is_err());
    }
}
