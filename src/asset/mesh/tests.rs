//! Mesh headers: real ones, and ones written with one oddity each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::asset::AssetKind;
use crate::asset::validate::tests::real;

fn entry(name: &str, offset: i32, size: i32) -> (String, Llsd) {
    let place = vec![("offset".into(), Llsd::Integer(offset)), ("size".into(), Llsd::Integer(size))];
    (name.into(), Llsd::Map(place))
}

fn version(number: i32) -> (String, Llsd) {
    ("version".into(), Llsd::Integer(number))
}

/// A header of these entries, then `data_bytes` of data.
fn mesh(entries: Vec<(String, Llsd)>, data_bytes: usize) -> Vec<u8> {
    let mut bytes = binary::encode(&Llsd::Map(entries)).unwrap();
    bytes.resize(bytes.len() + data_bytes, 0x78);
    bytes
}

#[test]
fn real_header_tells_the_length_from_the_first_4096_bytes() {
    for body in crate::asset::validate::tests::REAL.iter().filter(|(kind, _)| *kind == AssetKind::Mesh) {
        assert_eq!(total_length(&body.1[..MAX_HEADER_BYTES]), Some(body.1.len() as u64));
    }
}

#[test]
fn real_header_lists_its_blocks() {
    let body = real(AssetKind::Mesh);
    let header = header(body).unwrap();
    let names: Vec<&str> = header.blocks.iter().map(|block| block.name.as_str()).collect();
    assert_eq!(names, ["lowest_lod", "low_lod", "medium_lod", "high_lod", "physics_convex"]);
    for block in &header.blocks {
        let at = usize::try_from(header.header_bytes + block.offset).unwrap();
        assert_eq!(body[at], 0x78, "{} is a zlib stream", block.name);
    }
}

#[test]
fn length_is_unknown_while_the_header_is_incomplete() {
    let body = real(AssetKind::Mesh);
    let end = usize::try_from(header(body).unwrap().header_bytes).unwrap();
    for len in 0..end {
        assert_eq!(total_length(&body[..len]), None, "{len} bytes");
    }
    assert_eq!(total_length(&body[..end]), Some(body.len() as u64));
}

#[test]
fn no_prefix_of_a_real_mesh_passes() {
    let body = real(AssetKind::Mesh);
    for len in (0..body.len()).filter(|len| *len < 1000 || len % 13 == 0) {
        assert!(validate(&body[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn header_line_counts_into_the_offsets() {
    let body = [&b"<? LLSD/Binary ?>\n"[..], &mesh(vec![entry("high_lod", 0, 5)], 5)].concat();
    assert_eq!(validate(&body), Ok(Valid::EXACT));
    assert_eq!(total_length(&body), Some(body.len() as u64));
}

#[test]
fn block_that_ends_last_decides_the_length() {
    let entries = vec![entry("skin", 40, 20), entry("low_lod", 0, 30), entry("physics_mesh", 30, 10)];
    assert_eq!(validate(&mesh(entries.clone(), 60)), Ok(Valid::EXACT));
    assert_eq!(validate(&mesh(entries.clone(), 59)), Err(Invalid::Truncated));
    assert_eq!(validate(&mesh(entries, 61)), Ok(Valid::EXACT.inexact(Note::TrailingBytes)));
}

#[test]
fn what_viewers_refuse_is_refused() {
    let lod = || entry("high_lod", 0, 5);
    assert_eq!(validate(&mesh(vec![version(999), lod()], 5)), Ok(Valid::EXACT));
    assert_eq!(validate(&mesh(vec![version(1000), lod()], 5)), Err(Invalid::Version));
    assert_eq!(validate(&mesh(vec![("404".into(), Llsd::Undef), lod()], 5)), Err(Invalid::Placeholder));
    assert_eq!(validate(&mesh(vec![entry("high_lod", 0, 0)], 5)), Err(Invalid::NoGeometry));
    assert_eq!(validate(&mesh(vec![entry("skin", 0, 5)], 5)), Err(Invalid::NoGeometry));
    assert_eq!(validate(&mesh(vec![lod(), entry("skin", -1, 5)], 5)), Err(Invalid::BadHeader));
    assert_eq!(validate(&mesh(vec![lod(), entry("skin", 5, -1)], 5)), Err(Invalid::BadHeader));
    assert_eq!(validate(b"[\0\0\0\0]"), Err(Invalid::WrongFormat));
}

#[test]
fn largest_places_do_not_overflow() {
    let far = mesh(vec![entry("high_lod", i32::MAX, i32::MAX)], 5);
    let header_bytes = far.len() as u64 - 5;
    assert_eq!(total_length(&far), Some(header_bytes + 2 * u64::from(i32::MAX.unsigned_abs())));
    assert_eq!(validate(&far), Err(Invalid::Truncated));
}

#[test]
fn header_beyond_the_first_request_of_viewers_is_refused() {
    let creator = |bytes| ("creator".into(), Llsd::String("x".repeat(bytes)));
    let fits = mesh(vec![creator(3900), entry("high_lod", 0, 5)], 5);
    assert_eq!(validate(&fits), Ok(Valid::EXACT));
    let long = mesh(vec![creator(4096), entry("high_lod", 0, 5)], 5);
    assert_eq!(validate(&long), Err(Invalid::Llsd));
}
