//! JPEG 2000 codestreams: the image header, and a walk over the tile-parts.
//!
//! ```text
//! SOC FF4F | SIZ FF51 … other segments | SOT FF90, Psot … SOD FF93 data | SOT … | EOC FFD9
//! segment  = marker, U16 length (with itself), content
//! ```
//! Any prefix of a codestream decodes to a coarser picture, so that "it decodes" proves nothing.
//! Source: ISO/IEC 15444-1, annex A.

use nom::bytes::complete::{tag, take};
use nom::combinator::verify;
use nom::number::complete::{be_u16, be_u32};
use nom::{IResult, Parser};

use crate::asset::validate::{Invalid, Note, Valid};

/// How a codestream starts: SOC, then SIZ.
pub(crate) const MAGIC: [u8; 4] = [0xFF, 0x4F, 0xFF, 0x51];
/// How a JP2 box file starts.
pub(crate) const JP2_MAGIC: [u8; 12] = *b"\0\0\0\x0CjP  \r\n\x87\n";

/// Pixels per side that viewers take.
/// Source: Second Life viewer, indra/llimage/llimage.h (MAX_IMAGE_SIZE).
pub const MAX_SIDE: u32 = 4096;
/// Components per pixel; five are in textures that viewers bake.
pub const MAX_COMPONENTS: u16 = 5;

const COM: u16 = 0xFF64;
const SOT: u16 = 0xFF90;
const SOD: u16 = 0xFF93;
const EOC: u16 = 0xFFD9;
/// A tile-part is at least its SOT segment and an SOD marker.
const MIN_TILE_PART_BYTES: usize = 14;

/// What the SIZ segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Pixels, 1 to [`MAX_SIDE`].
    pub width: u32,
    /// Pixels, 1 to [`MAX_SIDE`].
    pub height: u32,
    /// Components per pixel, 1 to [`MAX_COMPONENTS`].
    pub components: u16,
}

type Parsed<'a, T> = IResult<&'a [u8], T>;

/// Reads the image header from the beginning of a codestream; some 60 bytes are enough.
///
/// # Errors
/// When it is none, is cut off, or names sizes outside the limits.
pub fn header(codestream: &[u8]) -> Result<ImageHeader, Invalid> {
    read_header(codestream).map(|(header, _)| header)
}

/// How many bytes from the beginning a viewer wants before it shows a texture with `discard`
/// halvings of its resolution left out. Its estimate goes by the larger side alone; level 0 is all.
/// Source: Second Life viewer, indra/llimage/llimagej2c.cpp (`calcDataSizeJ2C`), with its default
/// compression of 1/8.
#[must_use]
pub fn bytes_for_discard(header: ImageHeader, discard: u8) -> u64 {
    let (to_1024, above) = match discard {
        0 => return u64::MAX,
        1 => (2_802_072, 3_500_440),
        2 => (704_920, 879_000),
        3 => (180_632, 223_640),
        4 => (49_560, 59_800),
        _ => (16_792, 18_840),
    };
    if header.width.max(header.height) <= 1024 { to_1024 } else { above }
}

/// The texts of the comment segments before the first tile-part, as far as they are there.
pub fn comments(codestream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = read_header(codestream).map_or(&[][..], |(_, rest)| rest);
    std::iter::from_fn(move || {
        let (after, (marker, content)) = segment(rest).ok()?;
        rest = after;
        (marker != SOT).then_some((marker, content))
    })
    // The first two bytes tell Latin text from binary.
    .filter_map(|(marker, content)| if marker == COM { content.get(2..) } else { None })
}

/// Checks a whole texture: the header, then every tile-part up to the end marker. A codestream
/// that stops early inside its tile-parts is accepted with a note, since grids store such.
pub(crate) fn validate(body: &[u8]) -> Result<Valid, Invalid> {
    if body.starts_with(&JP2_MAGIC) {
        return Ok(Valid::EXACT.inexact(Note::Jp2Box));
    }
    let (_, mut rest) = read_header(body)?;
    while peek_marker(rest) != Some(SOT) {
        let (after, (marker, _)) = segment(rest)
            .map_err(|err| if is_cut_off(&err) { Invalid::Truncated } else { Invalid::BadHeader })?;
        if marker == EOC || marker == SOD {
            return Err(Invalid::TileParts);
        }
        rest = after;
    }
    loop {
        match peek_marker(rest) {
            Some(EOC) if rest.len() == 2 => return Ok(Valid::EXACT),
            Some(EOC) => return Ok(Valid::EXACT.inexact(Note::TrailingBytes)),
            Some(SOT) => match tile_part(rest)? {
                TilePart::Followed(after) => rest = after,
                TilePart::LastEndsHere => return Ok(Valid::EXACT),
                TilePart::CutOff => return Ok(Valid::EXACT.inexact(Note::NoEndMarker)),
            },
            Some(_) => return Err(Invalid::TileParts),
            None => return Ok(Valid::EXACT.inexact(Note::NoEndMarker)),
        }
    }
}

enum TilePart<'a> {
    /// The next one, or the end marker, starts here.
    Followed(&'a [u8]),
    /// Its length is "up to the end marker", and the end marker is where the data ends.
    LastEndsHere,
    /// The data ends first.
    CutOff,
}

fn tile_part(input: &[u8]) -> Result<TilePart<'_>, Invalid> {
    let Ok((_, (length, announced))) = start_of_tile(input) else { return Ok(TilePart::CutOff) };
    let announced = usize::try_from(announced).map_err(|_| Invalid::TileParts)?;
    if length != 10 || (announced != 0 && announced < MIN_TILE_PART_BYTES) {
        return Err(Invalid::TileParts);
    }
    let part = if announced == 0 { input } else { input.get(..announced).unwrap_or(input) };
    let header_is_whole = tile_header(part)?;
    match input.get(announced..) {
        None => Ok(TilePart::CutOff),
        Some(_) if announced == 0 => Ok(if header_is_whole && input.ends_with(&EOC.to_be_bytes()) {
            TilePart::LastEndsHere
        } else {
            TilePart::CutOff
        }),
        Some(_) if !header_is_whole => Err(Invalid::TileParts),
        Some(after) => Ok(TilePart::Followed(after)),
    }
}

/// Lsot and Psot of the tile-part that starts here.
fn start_of_tile(input: &[u8]) -> Parsed<'_, (u16, u32)> {
    (be_u16, be_u16, be_u16, be_u32).map(|(_, length, _, announced)| (length, announced)).parse(input)
}

/// Walks the segments of a tile-part up to its data. `false` when the bytes end before that.
fn tile_header(part: &[u8]) -> Result<bool, Invalid> {
    let mut rest = part;
    loop {
        if peek_marker(rest) == Some(SOD) {
            return Ok(true);
        }
        match segment(rest) {
            Ok((_, (EOC, _))) => return Err(Invalid::TileParts),
            Ok((after, _)) => rest = after,
            Err(err) if is_cut_off(&err) => return Ok(false),
            Err(_) => return Err(Invalid::TileParts),
        }
    }
}

fn read_header(input: &[u8]) -> Result<(ImageHeader, &[u8]), Invalid> {
    if !input.starts_with(&MAGIC) {
        return Err(Invalid::WrongFormat);
    }
    let (rest, siz) = size_segment(input).map_err(|_| Invalid::Truncated)?;
    let width = siz.extent.0.checked_sub(siz.origin.0).ok_or(Invalid::Dimensions)?;
    let height = siz.extent.1.checked_sub(siz.origin.1).ok_or(Invalid::Dimensions)?;
    let sides = 1..=MAX_SIDE;
    if !sides.contains(&width) || !sides.contains(&height) || !(1..=MAX_COMPONENTS).contains(&siz.components)
    {
        return Err(Invalid::Dimensions);
    }
    if u32::from(siz.length) != 38 + 3 * u32::from(siz.components) || siz.tile.0 == 0 || siz.tile.1 == 0 {
        return Err(Invalid::BadHeader);
    }
    // Three bytes per component: depth and subsampling.
    let rest = rest.get(3 * usize::from(siz.components)..).ok_or(Invalid::Truncated)?;
    Ok((ImageHeader { width, height, components: siz.components }, rest))
}

struct Siz {
    length: u16,
    extent: (u32, u32),
    origin: (u32, u32),
    tile: (u32, u32),
    components: u16,
}

/// SOC and SIZ up to the component count.
fn size_segment(input: &[u8]) -> Parsed<'_, Siz> {
    let pair = || (be_u32, be_u32);
    let fields = (tag(&MAGIC[..]), be_u16, be_u16, pair(), pair(), pair(), pair(), be_u16);
    { fields }
        .map(|(_, length, _, extent, origin, tile, _, components)| Siz {
            length,
            extent,
            origin,
            tile,
            components,
        })
        .parse(input)
}

/// Whether a parser failed because the bytes ended, not because of what they say.
fn is_cut_off(err: &nom::Err<nom::error::Error<&[u8]>>) -> bool {
    matches!(err, nom::Err::Error(cause) if cause.code == nom::error::ErrorKind::Eof)
}

fn peek_marker(input: &[u8]) -> Option<u16> {
    input.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

/// A marker and the content of its segment; markers without a segment have empty content.
fn segment(input: &[u8]) -> Parsed<'_, (u16, &[u8])> {
    let (rest, marker) = verify(be_u16, |marker| *marker >= 0xFF00).parse(input)?;
    if matches!(marker, 0xFF30..=0xFF3F | SOD | EOC) {
        return Ok((rest, (marker, &[])));
    }
    let (_, length) = verify(be_u16, |length| *length >= 2).parse(rest)?;
    let (rest, content) = take(length).parse(rest)?;
    Ok((rest, (marker, content.get(2..).unwrap_or_default())))
}

#[cfg(test)]
mod tests;
