//! Key-frame animations in the viewer's internal format, little-endian.
//!
//! ```text
//! U16 version, U16 sub-version, S32 priority, F32 duration, name, F32 loop in, F32 loop out,
//! S32 loop, F32 ease in, F32 ease out, U32 hand pose,
//! U32 joints × { name, S32 priority, S32 rotations × key, S32 positions × key },
//! S32 constraints × 86 bytes
//! name = bytes up to NUL;  key = 4 × U16, in the old form 4 × F32
//! ```
//! Source: Second Life viewer, indra/llcharacter/llkeyframemotion.cpp (deserialize).

use nom::bytes::complete::{take, take_until};
use nom::combinator::map_opt;
use nom::number::complete::{le_f32, le_i32, le_u32};
use nom::{IResult, Parser};

use crate::asset::validate::{Invalid, Note, Valid};

/// Version and sub-version of the current form.
pub(crate) const CURRENT: [u8; 4] = [1, 0, 0, 0];
/// Version and sub-version of the form with floating-point keys.
pub(crate) const OLD: [u8; 4] = [0, 0, 1, 0];

/// Seconds.
const MAX_DURATION: f32 = 60.0;
const MAX_JOINTS: u32 = 216;
const MAX_CONSTRAINTS: usize = 10;
const CONSTRAINT_BYTES: usize = 86;

type Parsed<'a, T> = IResult<&'a [u8], T>;

/// Checks a whole animation; bytes after its last constraint are tolerated and noted.
pub(crate) fn validate(body: &[u8]) -> Result<Valid, Invalid> {
    let key_bytes = match body.first_chunk::<4>() {
        Some(&CURRENT) => 8,
        Some(&OLD) => 16,
        _ => return Err(Invalid::WrongFormat),
    };
    let rest = body.get(4..).unwrap_or_default();
    let (rest, (duration, joints)) = fixed_part(rest).map_err(cause)?;
    // The comparison is false for NaN.
    if !(0.0..=MAX_DURATION).contains(&duration) || !(1..=MAX_JOINTS).contains(&joints) {
        return Err(Invalid::OutOfBounds);
    }
    let mut rest = rest;
    for _ in 0..joints {
        (rest, ()) = joint(rest, key_bytes).map_err(cause)?;
    }
    let (rest, constraints) = count(rest).map_err(cause)?;
    if constraints > MAX_CONSTRAINTS {
        return Err(Invalid::OutOfBounds);
    }
    match rest.get(constraints * CONSTRAINT_BYTES..) {
        None => Err(Invalid::Truncated),
        Some([]) => Ok(Valid::EXACT),
        Some(_) => Ok(Valid::EXACT.inexact(Note::TrailingBytes)),
    }
}

/// From the priority to the number of joints: duration and that number.
fn fixed_part(input: &[u8]) -> Parsed<'_, (f32, u32)> {
    (le_i32, le_f32, name, le_f32, le_f32, le_i32, le_f32, le_f32, le_u32, le_u32)
        .map(|(_, duration, .., joints)| (duration, joints))
        .parse(input)
}

fn joint(input: &[u8], key_bytes: usize) -> Parsed<'_, ()> {
    (name, le_i32, |rest| keys(rest, key_bytes), |rest| keys(rest, key_bytes)).map(|_| ()).parse(input)
}

fn keys(input: &[u8], key_bytes: usize) -> Parsed<'_, &[u8]> {
    let (rest, keys) = count(input)?;
    take(keys.saturating_mul(key_bytes)).parse(rest)
}

/// A count that is signed on the wire and must not be negative.
fn count(input: &[u8]) -> Parsed<'_, usize> {
    map_opt(le_i32, |count| usize::try_from(count).ok()).parse(input)
}

fn name(input: &[u8]) -> Parsed<'_, &[u8]> {
    (take_until(&[0][..]), take(1_usize)).map(|(name, _)| name).parse(input)
}

/// Only [`count`] refuses bytes for what they say; everything else fails for want of bytes.
fn cause(err: nom::Err<nom::error::Error<&[u8]>>) -> Invalid {
    match err {
        nom::Err::Error(cause) if cause.code == nom::error::ErrorKind::MapOpt => Invalid::OutOfBounds,
        _ => Invalid::Truncated,
    }
}

#[cfg(test)]
mod tests;
