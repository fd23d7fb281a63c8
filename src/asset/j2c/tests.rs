//! Codestreams: real ones and ones put together to have one oddity each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::asset::AssetKind;
use crate::asset::validate::tests::real;

/// SOC and SIZ of a picture.
fn start(width: u32, height: u32, components: u16) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((38 + 3 * components).to_be_bytes());
    bytes.extend([0, 0]);
    for field in [width, height, 0, 0, width, height, 0, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(components.to_be_bytes());
    bytes.extend([7, 1, 1].repeat(usize::from(components)));
    bytes
}

/// A tile-part that announces `announced` bytes and holds `data`.
fn part(announced: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xFF, 0x90, 0, 10, 0, 0];
    bytes.extend(announced.to_be_bytes());
    bytes.extend([0, 1, 0xFF, 0x93]);
    bytes.extend(data);
    bytes
}

const END: &[u8] = &[0xFF, 0xD9];

fn check(parts: &[&[u8]]) -> Result<Valid, Invalid> {
    validate(&[&start(64, 32, 3), &parts.concat()[..]].concat())
}

#[test]
fn real_header_is_read() {
    let expected = ImageHeader { width: 512, height: 512, components: 3 };
    assert_eq!(header(&real(AssetKind::Texture)[..60]), Ok(expected));
}

#[test]
fn real_comment_is_found() {
    let comments: Vec<&[u8]> = comments(real(AssetKind::Texture)).collect();
    assert_eq!(comments, [b"Created by OpenJPEG version 2.5.0"]);
}

#[test]
fn tile_parts_are_followed_to_the_end_marker() {
    assert_eq!(check(&[&part(16, b"ab"), &part(17, b"abc"), END]), Ok(Valid::EXACT));
}

#[test]
fn length_zero_reaches_to_the_end_marker() {
    assert_eq!(check(&[&part(0, b"abcdef"), END]), Ok(Valid::EXACT));
    assert_eq!(check(&[&part(0, b"abcdef")]), Ok(Valid::EXACT.inexact(Note::NoEndMarker)));
}

#[test]
fn missing_end_marker_is_noted_and_accepted() {
    let noted = Ok(Valid::EXACT.inexact(Note::NoEndMarker));
    assert_eq!(check(&[&part(16, b"ab")]), noted);
    assert_eq!(check(&[&part(16, b"ab"), &END[..1]]), noted);
    assert_eq!(check(&[&part(500, b"ab")]), noted);
    assert_eq!(check(&[&part(16, b"ab"), &part(16, b"ab")[..5]]), noted);
}

#[test]
fn tile_parts_that_lead_nowhere_are_refused() {
    assert_eq!(check(&[&part(15, b"ab"), END]), Err(Invalid::TileParts));
    assert_eq!(check(&[&part(13, b""), END]), Err(Invalid::TileParts));
    assert_eq!(check(&[&part(1, b""), END]), Err(Invalid::TileParts));
    assert_eq!(check(&[END]), Err(Invalid::TileParts));
    assert_eq!(check(&[]), Err(Invalid::Truncated));
    assert_eq!(check(&[b"garbage"]), Err(Invalid::BadHeader));
}

#[test]
fn sizes_outside_the_limits_are_refused() {
    for (width, height, components) in
        [(0, 8, 3), (8, 0, 3), (4097, 8, 3), (8, 4097, 3), (8, 8, 0), (8, 8, 6)]
    {
        assert_eq!(header(&start(width, height, components)), Err(Invalid::Dimensions));
    }
    assert!(header(&start(4096, 4096, 5)).is_ok());
}

#[test]
fn size_is_counted_from_the_image_origin() {
    let mut bytes = start(64, 32, 1);
    bytes[19] = 60; // XOsiz
    assert_eq!(header(&bytes).unwrap().width, 4);
    bytes[19] = 64;
    assert_eq!(header(&bytes), Err(Invalid::Dimensions));
    bytes[19] = 65;
    assert_eq!(header(&bytes), Err(Invalid::Dimensions));
}

#[test]
fn box_file_is_accepted_as_it_is() {
    let body = [&JP2_MAGIC[..], &[7; 200]].concat();
    assert_eq!(validate(&body), Ok(Valid::EXACT.inexact(Note::Jp2Box)));
}

#[test]
fn a_coarser_picture_needs_fewer_bytes() {
    let small = ImageHeader { width: 512, height: 1024, components: 3 };
    let large = ImageHeader { width: 2048, ..small };
    assert_eq!(bytes_for_discard(small, 5), 16_792);
    assert_eq!(bytes_for_discard(large, 5), 18_840);
    assert_eq!(bytes_for_discard(small, 0), u64::MAX);
    for header in [small, large] {
        assert!(
            (0..9)
                .all(|discard| bytes_for_discard(header, discard) >= bytes_for_discard(header, discard + 1))
        );
    }
}
