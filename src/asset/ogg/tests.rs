//! The published vector, and a real clip with one page changed at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::asset::AssetKind;
use crate::asset::validate::tests::real;

/// First page of a mono clip, 44.1 kHz, nominal 80,000 bit/s.
const FIRST: &[u8; 58] = b"OggS\x00\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x10\xC8\xAD\xD1\x01\x1E\
    \x01vorbis\0\0\0\0\x01\x44\xAC\0\0\0\0\0\0\x80\x38\x01\0\0\0\0\0\xB8\x01";

/// The pages of the first real clip.
fn pages() -> Vec<Vec<u8>> {
    let mut rest = real(AssetKind::Sound);
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let (after, page) = page(rest).unwrap();
        pages.push(page.bytes.to_vec());
        rest = after;
    }
    pages
}

/// Puts the right checksum in again after a change.
fn sealed(mut page: Vec<u8>) -> Vec<u8> {
    let crc = crc_of_page(&page);
    page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    page
}

fn changed(page_number: usize, change: impl Fn(&mut Vec<u8>)) -> Result<Valid, Invalid> {
    let mut pages = pages();
    change(&mut pages[page_number]);
    pages[page_number] = sealed(pages[page_number].clone());
    validate(&pages.concat())
}

#[test]
fn vector_has_the_published_checksum() {
    assert_eq!(crc_of_page(FIRST), 0xD1AD_C810);
    let (rest, first) = page(FIRST).unwrap();
    assert_eq!((rest, first.sequence, first.crc), (&[][..], 0, 0xD1AD_C810));
    assert_eq!(check_id_header(&first), Ok(()));
}

#[test]
fn eight_bytes_a_step_equal_one_bit_a_step() {
    let data: Vec<u8> = real(AssetKind::Sound)[..301].to_vec();
    let slow = data.iter().fold(0_u32, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << 24), |crc, _| {
            (crc << 1) ^ if crc >> 31 == 1 { CRC_POLYNOMIAL } else { 0 }
        })
    });
    assert_eq!(crc_update(0, &data), slow);
}

#[test]
fn any_changed_byte_is_noticed() {
    let mut body = real(AssetKind::Sound).to_vec();
    for at in (0..body.len()).filter(|at| *at < 200 || at % 53 == 0) {
        body[at] ^= 0x10;
        assert!(validate(&body).is_err(), "byte {at}");
        body[at] ^= 0x10;
    }
}

#[test]
fn missing_or_swapped_pages_are_noticed() {
    for missing in 0..pages().len() - 1 {
        let mut left = pages();
        left.remove(missing);
        assert!(validate(&left.concat()).is_err(), "page {missing}");
    }
    let mut swapped = pages();
    swapped.swap(2, 3);
    assert_eq!(validate(&swapped.concat()), Err(Invalid::PageOrder));
}

#[test]
fn clip_cut_between_pages_is_noted_as_without_end_or_refused() {
    let pages = pages();
    let note = Ok(Valid::EXACT.inexact(Note::NoEndOfStream));
    assert_eq!(validate(&pages[..pages.len() - 1].concat()), note);
    // Only headers: no sound at all.
    assert_eq!(validate(&pages[..1].concat()), Err(Invalid::Truncated));
}

#[test]
fn end_flag_may_be_missing_on_the_last_page_and_stands_on_no_other() {
    let last = pages().len() - 1;
    assert_eq!(changed(last, |page| page[5] &= !LAST_PAGE), Ok(Valid::EXACT.inexact(Note::NoEndOfStream)));
    assert_eq!(changed(2, |page| page[5] |= LAST_PAGE), Err(Invalid::PageOrder));
    assert_eq!(changed(2, |page| page[5] |= FIRST_PAGE), Err(Invalid::PageOrder));
    assert_eq!(changed(2, |page| page[14] ^= 1), Err(Invalid::PageOrder)); // serial
    assert_eq!(changed(2, |page| page[4] = 1), Err(Invalid::PageOrder)); // version
}

#[test]
fn only_vorbis_of_one_or_two_channels_passes() {
    let channels = 27 + 1 + 11;
    assert!(changed(0, |page| page[channels] = 2).is_ok());
    assert_eq!(changed(0, |page| page[channels] = 3), Err(Invalid::Channels));
    assert_eq!(changed(0, |page| page[channels] = 0), Err(Invalid::Channels));
    assert_eq!(changed(0, |page| page[29] = b'V'), Err(Invalid::WrongFormat));
    assert_eq!(changed(0, |page| page[57] = 0), Err(Invalid::BadHeader)); // framing
}

#[test]
fn wave_file_is_accepted_but_not_shareable() {
    let valid = validate(b"RIFF\x24\0\0\0WAVEfmt ").unwrap();
    assert!(valid.notes.has(Note::Wave) && !valid.is_shareable() && !valid.exact_end);
    assert_eq!(validate(b"RIFF\x24\0\0\0AVI fmt "), Err(Invalid::WrongFormat));
}
