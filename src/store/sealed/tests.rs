#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
use proptest::prelude::*;

use super::{CHUNK_BYTES, HEADER_BYTES, Hashed, Head, SealError, head_bytes, open, place, scrub, seal};
use crate::asset::Digest;
use crate::store::keys::KeyRing;
use crate::wire::groups;

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
    let hashed = Hashed::of(plain);
    seal(&ring(), &ring().blob_name(hashed.digest), &hashed, plain, true, [9; 32]).unwrap()
}

fn reopened(blob: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let digest = Digest::of(plain);
    let opened = open(&ring(), &ring().blob_name(digest), blob, LIMIT);
    assert_eq!(scrub(&ring(), &ring().blob_name(digest), blob, LIMIT), opened);
    opened.map(|(found, bytes)| {
        assert_eq!(found, digest);
        bytes.to_vec()
    })
}

/// What a range read does: the head and the groups of `range`, each fetched alone.
fn part(blob: &[u8], plain: &[u8], range: std::ops::Range<usize>) -> Result<Vec<u8>, SealError> {
    let piece = |range: std::ops::Range<u64>| {
        let at = |offset| usize::try_from(offset).unwrap().min(blob.len());
        blob[at(range.start)..at(range.end)].to_vec()
    };
    let name = ring().blob_name(Digest::of(plain));
    let head = Head::open(&ring(), &name, &piece(0..head_bytes(plain.len() as u64)), LIMIT)?;
    assert_eq!(head.groups(), groups::of(plain));
    assert_eq!(head.plain_bytes(), plain.len() as u64);
    let wanted = range.start as u64..range.end as u64;
    let place = head.place(wanted.clone()).unwrap();
    assert_eq!(place, super::place(plain.len() as u64, wanted));
    let group = range.start / CHUNK_BYTES;
    let opened = head.open_groups(group as u64, piece(place))?;
    let start = range.start - group * CHUNK_BYTES;
    assert!(opened.len() - start - range.len() < CHUNK_BYTES, "no more groups than needed");
    Ok(opened[start..start + range.len()].to_vec())
}

#[test]
fn what_is_sealed_opens_again() {
    let borders = (0..=3).flat_map(|chunks| {
        (-34..=34i64).filter_map(move |off| usize::try_from(chunks * CHUNK_BYTES as i64 + off).ok())
    });
    for length in borders.chain([63, 200_000]) {
        for plain in [noise(length), vec![7; length]] {
            let blob = sealed(&plain);
            assert_eq!(reopened(&blob, &plain).unwrap(), plain, "{length}");
            let head = Head::open(&ring(), &ring().blob_name(Digest::of(&plain)), &blob, LIMIT).unwrap();
            assert_eq!(head.blob_bytes(), blob.len() as u64, "{length}");
            assert_eq!(head.has_parts(), length > CHUNK_BYTES && plain != vec![7; length], "{length}");
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
fn any_flipped_bit_is_refused_in_a_range_too() {
    let plain = noise(3 * CHUNK_BYTES + 1000);
    let blob = sealed(&plain);
    let ranges = [0..10, CHUNK_BYTES - 1..CHUNK_BYTES + 1, 3 * CHUNK_BYTES..plain.len()];
    for range in ranges {
        assert_eq!(part(&blob, &plain, range.clone()).unwrap(), plain[range.clone()]);
        let name = ring().blob_name(Digest::of(&plain));
        let place = Head::open(&ring(), &name, &blob, LIMIT)
            .unwrap()
            .place(range.start as u64..range.end as u64)
            .unwrap();
        let head = usize::try_from(head_bytes(plain.len() as u64)).unwrap();
        let touched =
            (usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap()).step_by(499);
        for at in (0..head).chain(touched) {
            for bit in [0, 7] {
                let mut damaged = blob.clone();
                damaged[at] ^= 1 << bit;
                assert!(part(&damaged, &plain, range.clone()).is_err(), "byte {at} of {range:?}");
            }
        }
    }
    // Another seal of the same content, as when two writers race: its chunks are not this one's.
    let hashed = Hashed::of(&plain);
    let name = ring().blob_name(hashed.digest);
    let other = seal(&ring(), &name, &hashed, &plain, false, [8; 32]).unwrap();
    let head = Head::open(&ring(), &name, &blob, LIMIT).unwrap();
    let place = place(plain.len() as u64, 0..10);
    let theirs = other[usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap()].to_vec();
    assert_eq!(head.open_groups(0, theirs.clone()), Err(SealError::Damaged));
    let head = Head::open(&ring(), &name, &other, LIMIT).unwrap();
    assert_eq!(head.open_groups(0, theirs.clone()).unwrap(), plain[..CHUNK_BYTES]);
    assert_eq!(head.open_groups(1, theirs.clone()), Err(SealError::Damaged), "elsewhere");
    assert_eq!(head.open_groups(4, theirs.clone()), Err(SealError::Damaged), "beyond the end");
    assert_eq!(head.open_groups(u64::MAX, theirs), Err(SealError::Damaged));
    assert_eq!(head.place(5..5), None);
    assert_eq!(head.place(0..plain.len() as u64 + 1), None);
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
    let head = usize::try_from(head_bytes(plain.len() as u64)).unwrap();
    moved[head..head + 2 * chunk].rotate_left(chunk);
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
    let hashed = Hashed::of(&plain);
    let blob = sealed(&plain);
    let name = ring().blob_name(hashed.digest);
    let other = KeyRing::new([3; 32], [5; 32]);
    assert_eq!(open(&other, &name, &blob, LIMIT), Err(SealError::WrongKey(1)));
    let rotated = ring().with_new_key([6; 32]);
    assert!(open(&rotated, &name, &blob, LIMIT).is_ok(), "old keys still read");
    let newer = seal(&rotated, &name, &hashed, &plain, false, [1; 32]).unwrap();
    assert_eq!(open(&ring(), &name, &newer, LIMIT), Err(SealError::UnknownKey(2)));
    assert_eq!(open(&ring(), &name, &blob, 99), Err(SealError::TooLarge));
}

#[test]
fn a_blob_shows_neither_content_nor_digest() {
    let plain = b"key frames of an animation, key frames of an animation, key frames".repeat(20);
    let hashed = Hashed::of(&plain);
    let (digest, name) = (hashed.digest, ring().blob_name(hashed.digest));
    for lz4 in [false, true] {
        let blob = seal(&ring(), &name, &hashed, &plain, lz4, [9; 32]).unwrap();
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
    let blob = std::fs::read("fixtures/service/sealed-v1-parts.blob").unwrap();
    let plain: Vec<u8> = (0..140_000).map(|n| (n * 31 % 251) as u8).collect();
    assert_eq!(reopened(&blob, &plain).unwrap(), plain);
    assert_eq!(part(&blob, &plain, 70_000..130_000).unwrap(), plain[70_000..130_000]);
}

/// What hashes to something else than it says was sealed by somebody who lied or erred.
#[test]
fn a_scrub_hashes_again() {
    let plain = noise(150_000);
    let mut hashed = Hashed::of(&plain);
    hashed.groups[1][0] ^= 1;
    let name = ring().blob_name(hashed.digest);
    let wrong_group = seal(&ring(), &name, &hashed, &plain, false, [9; 32]).unwrap();
    assert!(open(&ring(), &name, &wrong_group, LIMIT).is_ok());
    assert_eq!(scrub(&ring(), &name, &wrong_group, LIMIT), Err(SealError::Damaged));
    let wrong_body = seal(&ring(), &name, &Hashed::of(&plain), &noise(149_999), false, [9; 32]).unwrap();
    assert!(open(&ring(), &name, &wrong_body, LIMIT).is_ok());
    assert_eq!(scrub(&ring(), &name, &wrong_body, LIMIT), Err(SealError::Damaged));
}

proptest! {
    #[test]
    fn every_range_is_what_it_is_of_the_whole(length in CHUNK_BYTES + 1..6 * CHUNK_BYTES, one in any::<usize>(), two in any::<usize>()) {
        let plain = noise(length);
        let blob = sealed(&plain);
        let (one, two) = (one % length, two % length);
        let range = one.min(two)..one.max(two) + 1;
        prop_assert_eq!(part(&blob, &plain, range.clone()).unwrap(), &plain[range]);
    }

    #[test]
    fn every_length_opens_again(length in 0..5 * CHUNK_BYTES, packs in any::<bool>()) {
        let plain = if packs { vec![3; length] } else { noise(length) };
        prop_assert_eq!(reopened(&sealed(&plain), &plain).unwrap(), plain);
    }

    #[test]
    fn anything_may_stand_in_a_store(blob in prop::collection::vec(any::<u8>(), 0..400), ours in any::<bool>()) {
        let mut blob = blob;
        if ours && blob.len() > 8 {
            blob[..8].copy_from_slice(b"RZB1\x01\x01\0\0");
        }
        prop_assert!(reopened(&blob, b"x").is_err());
    }
}
