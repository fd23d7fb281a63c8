//! Ogg Vorbis clips: every page, from the identification header to the last byte.
//!
//! ```text
//! page  "OggS", version 0, flags, granule S64, serial U32, sequence U32, CRC U32, n, n lacing bytes, data
//! ```
//! Numbers are little-endian; the data is as long as the lacing bytes add up to.
//! Source: RFC 3533, section 6; Vorbis I specification, 4.2.2.

use nom::bytes::complete::{tag, take};
use nom::number::complete::{le_i64, le_u8, le_u32};
use nom::{IResult, Parser};

use crate::asset::validate::{Invalid, Note, Valid};

/// How a page starts.
pub(crate) const MAGIC: [u8; 4] = *b"OggS";
/// How a WAVE file starts; its form type stands 8 bytes in.
pub(crate) const RIFF_MAGIC: [u8; 4] = *b"RIFF";

const FIRST_PAGE: u8 = 2;
const LAST_PAGE: u8 = 4;
/// Where the checksum stands in a page; those four bytes count as zero.
const CRC_AT: usize = 22;
/// The identification header is one packet of this length, alone on the first page.
const ID_HEADER_BYTES: u8 = 30;
/// Channels that viewers play.
/// Source: Second Life viewer, indra/llaudio/llvorbisencode.h.
const MAX_CHANNELS: u8 = 2;

/// Checks a whole clip. Old content may lack the end flag or be a WAVE file; both are noted.
pub(crate) fn validate(body: &[u8]) -> Result<Valid, Invalid> {
    if body.starts_with(&RIFF_MAGIC) {
        return validate_wave(body);
    }
    if !body.starts_with(&MAGIC) {
        return Err(Invalid::WrongFormat);
    }
    let mut rest = body;
    let mut stream = None;
    let mut next_sequence = 0_u32;
    let mut flags = 0_u8;
    let mut granule = 0_i64;
    while !rest.is_empty() {
        let (after, page) = page(rest).map_err(|err| match err {
            nom::Err::Error(cause) if cause.code == nom::error::ErrorKind::Eof => Invalid::Truncated,
            _ => Invalid::PageOrder,
        })?;
        let is_first = next_sequence == 0;
        if page.sequence != next_sequence
            || *stream.get_or_insert(page.serial) != page.serial
            || (page.flags & FIRST_PAGE != 0) != is_first
            || flags & LAST_PAGE != 0
        {
            return Err(Invalid::PageOrder);
        }
        if page.crc != crc_of_page(page.bytes) {
            return Err(Invalid::Checksum);
        }
        if is_first {
            check_id_header(&page)?;
        }
        next_sequence = next_sequence.checked_add(1).ok_or(Invalid::PageOrder)?;
        (flags, granule, rest) = (page.flags, page.granule, after);
    }
    // The last page counts the samples of the clip; header pages have 0, unfinished packets -1.
    if granule <= 0 {
        return Err(Invalid::Truncated);
    }
    Ok(if flags & LAST_PAGE != 0 { Valid::EXACT } else { Valid::EXACT.inexact(Note::NoEndOfStream) })
}

/// A WAVE file has a length field, but the transport's length is what it is accepted by.
fn validate_wave(body: &[u8]) -> Result<Valid, Invalid> {
    if body.get(8..12) != Some(b"WAVE") {
        return Err(Invalid::WrongFormat);
    }
    Ok(Valid::EXACT.inexact(Note::Wave))
}

struct Page<'a> {
    /// The whole page.
    bytes: &'a [u8],
    flags: u8,
    granule: i64,
    serial: u32,
    sequence: u32,
    crc: u32,
    lacing: &'a [u8],
    data: &'a [u8],
}

fn page(input: &[u8]) -> IResult<&[u8], Page<'_>> {
    let fixed = (tag(&MAGIC[..]), tag(&[0][..]), le_u8, le_i64, le_u32, le_u32, le_u32, le_u8);
    let (rest, (_, _, flags, granule, serial, sequence, crc, segments)) = { fixed }.parse(input)?;
    let (rest, lacing) = take(segments).parse(rest)?;
    let data_len: usize = lacing.iter().copied().map(usize::from).sum();
    let (rest, data) = take(data_len).parse(rest)?;
    let bytes = input.get(..input.len() - rest.len()).unwrap_or(input);
    Ok((rest, Page { bytes, flags, granule, serial, sequence, crc, lacing, data }))
}

fn check_id_header(page: &Page<'_>) -> Result<(), Invalid> {
    if page.flags != FIRST_PAGE || page.lacing != [ID_HEADER_BYTES] {
        return Err(Invalid::WrongFormat);
    }
    let fields = (tag(&b"\x01vorbis\0\0\0\0"[..]), le_u8, le_u32, take(12_usize), le_u8, le_u8);
    let parsed: IResult<&[u8], _> = { fields }.parse(page.data);
    let (_, (_, channels, rate, _, blocksizes, framing)) = parsed.map_err(|_| Invalid::WrongFormat)?;
    let (short, long) = (blocksizes & 0x0F, blocksizes >> 4);
    if rate == 0 || framing & 1 == 0 || !(6..=13).contains(&short) || !(short..=13).contains(&long) {
        return Err(Invalid::BadHeader);
    }
    if (1..=MAX_CHANNELS).contains(&channels) { Ok(()) } else { Err(Invalid::Channels) }
}

fn crc_of_page(page: &[u8]) -> u32 {
    let (before, from_field) = page.split_at(CRC_AT.min(page.len()));
    let after = from_field.get(4..).unwrap_or_default();
    crc_update(crc_update(crc_update(0, before), &[0; 4]), after)
}

const CRC_POLYNOMIAL: u32 = 0x04C1_1DB7;
/// `CRC_TABLES[k][b]` is what byte `b` contributes when `k` more bytes follow it.
static CRC_TABLES: [[u32; 256]; 8] = crc_tables();

#[expect(clippy::cast_possible_truncation, reason = "the index stays below 256")]
const fn crc_tables() -> [[u32; 256]; 8] {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 1 { (crc << 1) ^ CRC_POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut following = 1;
    while following < 8 {
        let mut byte = 0;
        while byte < 256 {
            let earlier = tables[following - 1][byte];
            tables[following][byte] = (earlier << 8) ^ tables[0][(earlier >> 24) as usize];
            byte += 1;
        }
        following += 1;
    }
    tables
}

/// CRC-32 as Ogg uses it: most significant bit first, no inversion. Eight bytes a step.
fn crc_update(crc: u32, bytes: &[u8]) -> u32 {
    let lookup = |following: usize, byte: u8| CRC_TABLES[following][usize::from(byte)];
    let (chunks, tail) = bytes.as_chunks::<8>();
    let crc = chunks.iter().fold(crc, |crc, [b0, b1, b2, b3, b4, b5, b6, b7]| {
        let [c0, c1, c2, c3] = crc.to_be_bytes();
        lookup(7, c0 ^ b0)
            ^ lookup(6, c1 ^ b1)
            ^ lookup(5, c2 ^ b2)
            ^ lookup(4, c3 ^ b3)
            ^ lookup(3, *b4)
            ^ lookup(2, *b5)
            ^ lookup(1, *b6)
            ^ lookup(0, *b7)
    });
    tail.iter().fold(crc, |crc, byte| {
        let [c0, ..] = crc.to_be_bytes();
        (crc << 8) ^ lookup(0, c0 ^ byte)
    })
}

#[cfg(test)]
mod tests;
