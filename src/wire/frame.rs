//! Header frames of the QUIC face. All numbers are big-endian; texts are a `u8` or `u16` length and
//! UTF-8. What follows the header on the stream is the body, until the stream ends.
//!
//! ```text
//!  request   1 | op | token u16+ | fields          reply   1 | outcome | fields
//!   1 Read    key, origin, flags, range             1 Found   digest, total u64, first u64, length u64, flags
//!   2 Lookup  grid u8+, origin, n u16, n × (kind, id)   2 Absent
//!   3 Attest  key, origin, digest, proof            3 Busy    u32 milliseconds
//!   4 Put     key, origin, digest, codec, u64 bytes 4 Sizes   n u16, n × (0 | 1 size u64 digest)
//!                                                   5 Upload  verdict
//!  key = grid u8+, kind u8, id 16                   6 Refused status u16, u32 seconds, reason u8+
//!  origin = 0 | 1 and 16 bytes
//! ```

use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::all_consuming;
use nom::error::Error;
use nom::multi::count;
use nom::number::complete::{be_u16, be_u32, be_u64, u8};
use uuid::Uuid;

use super::{MAX_LOOKUP, OriginHash};
use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::grid::GridId;
use crate::redact::Redacted;

const VERSION: u8 = 1;
/// No header is longer.
pub const MAX_HEADER_BYTES: usize = 16 << 10;
/// No token is longer.
pub const MAX_TOKEN_BYTES: usize = 4 << 10;

/// A request with whoever makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The token; empty when the connection has shown it before.
    pub token: Redacted<String>,
    /// What is asked.
    pub call: Call,
}

/// What is asked of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The bytes of an asset.
    Read {
        /// Its name.
        key: AssetKey,
        /// The origin the bytes would else come from.
        origin: Option<OriginHash>,
        /// First byte and one past the last; the whole asset without it.
        range: Option<(u64, u64)>,
        /// Only what it is, not its bytes.
        head_only: bool,
    },
    /// Which of these there are.
    Lookup {
        /// The grid of all of them.
        grid: GridId,
        /// The origin the bytes would else come from.
        origin: Option<OriginHash>,
        /// Kinds and ids, at most [`MAX_LOOKUP`].
        assets: Vec<(AssetKind, AssetId)>,
    },
    /// That an origin delivered this content under this name.
    Attest {
        /// The name.
        key: AssetKey,
        /// Who delivered it.
        origin: Option<OriginHash>,
        /// The content.
        digest: Digest,
        /// Shows that the caller holds it: [`super::proof`].
        proof: [u8; 32],
    },
    /// The content, which is the stream's body.
    Put {
        /// Its name.
        key: AssetKey,
        /// Who delivered it.
        origin: Option<OriginHash>,
        /// Its digest, unpacked.
        digest: Digest,
        /// How the body is packed.
        codec: Codec,
        /// Bytes of the body as it is sent.
        length: u64,
    },
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw,
    /// LZ4 frame format.
    Lz4,
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The asset; its bytes follow as the body.
    Found(Found),
    /// There is none, or none the caller may read.
    Absent,
    /// Not now.
    Busy {
        /// When to come again.
        retry_after_ms: u32,
    },
    /// Size and digest of each asset of a lookup, or nothing.
    Sizes(Vec<Option<(u64, Digest)>>),
    /// What became of an attestation or a body.
    Upload(Verdict),
    /// Not so.
    Refused {
        /// The HTTP status of the same refusal.
        status: u16,
        /// Seconds until it may be different; 0 when it will not.
        retry_after_s: u32,
        /// Why, in a sentence.
        reason: String,
    },
}

/// What is found, and how its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The digest of the whole asset.
    pub digest: Digest,
    /// Its length.
    pub total: u64,
    /// Where the bytes that follow begin.
    pub first: u64,
    /// How many follow.
    pub length: u64,
    /// All group hashes precede the bytes, which begin and end with a group.
    pub grouped: bool,
    /// The service was told something else too: let the grid win, compare, attest.
    pub verify: bool,
}

/// What became of an attestation or a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Others are served it from now on.
    Published,
    /// It waits for others to confirm it.
    Waiting {
        /// The body should follow.
        want_body: bool,
    },
    /// It was known before.
    Known,
    /// Other content is known under this name; counted.
    Conflict,
}

impl Request {
    /// The header frame, without its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let token = self.token.reveal().as_bytes();
        let token = token.get(..token.len().min(MAX_TOKEN_BYTES)).unwrap_or_default();
        out.push(match &self.call {
            Call::Read { .. } => 1,
            Call::Lookup { .. } => 2,
            Call::Attest { .. } => 3,
            Call::Put { .. } => 4,
        });
        out.extend(u16::try_from(token.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(token);
        match &self.call {
            Call::Read { key, origin, range, head_only } => {
                put_key(&mut out, key);
                put_origin(&mut out, *origin);
                out.push(u8::from(*head_only) | u8::from(range.is_some()) << 1);
                if let Some((first, end)) = range {
                    out.extend(first.to_be_bytes());
                    out.extend(end.to_be_bytes());
                }
            }
            Call::Lookup { grid, origin, assets } => {
                put_text(&mut out, grid.as_str());
                put_origin(&mut out, *origin);
                let assets = assets.get(..assets.len().min(MAX_LOOKUP)).unwrap_or_default();
                out.extend(u16::try_from(assets.len()).unwrap_or(0).to_be_bytes());
                for (kind, id) in assets {
                    out.push(*kind as u8);
                    out.extend_from_slice(id.0.as_bytes());
                }
            }
            Call::Attest { key, origin, digest, proof } => {
                put_key(&mut out, key);
                put_origin(&mut out, *origin);
                out.extend(digest.0);
                out.extend(proof);
            }
            Call::Put { key, origin, digest, codec, length } => {
                put_key(&mut out, key);
                put_origin(&mut out, *origin);
                out.extend(digest.0);
                out.push(u8::from(*codec == Codec::Lz4));
                out.extend(length.to_be_bytes());
            }
        }
        out
    }

    /// Reads a header frame. `None` when it is not one of this version.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let (frame, (version, operation)) = (byte, byte).parse(frame).ok()?;
        let (frame, token) = long_text(frame).ok()?;
        if version != VERSION || frame.len() > MAX_HEADER_BYTES || token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let call = match operation {
            1 => all_consuming(read).parse(frame),
            2 => all_consuming(lookup).parse(frame),
            3 => all_consuming(attest).parse(frame),
            4 => all_consuming(put).parse(frame),
            _ => return None,
        };
        Some(Self { token: Redacted::new(token.to_owned()), call: call.ok()?.1 })
    }
}

impl Reply {
    /// The header frame, without its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Found(found) => {
                out.push(1);
                out.extend(found.digest.0);
                out.extend(found.total.to_be_bytes());
                out.extend(found.first.to_be_bytes());
                out.extend(found.length.to_be_bytes());
                out.push(u8::from(found.grouped) | u8::from(found.verify) << 1);
            }
            Self::Absent => out.push(2),
            Self::Busy { retry_after_ms } => {
                out.push(3);
                out.extend(retry_after_ms.to_be_bytes());
            }
            Self::Sizes(sizes) => {
                out.push(4);
                let sizes = sizes.get(..sizes.len().min(MAX_LOOKUP)).unwrap_or_default();
                out.extend(u16::try_from(sizes.len()).unwrap_or(0).to_be_bytes());
                for size in sizes {
                    match size {
                        None => out.push(0),
                        Some((size, digest)) => {
                            out.push(1);
                            out.extend(size.to_be_bytes());
                            out.extend(digest.0);
                        }
                    }
                }
            }
            Self::Upload(verdict) => {
                out.push(5);
                out.push(match verdict {
                    Verdict::Published => 1,
                    Verdict::Waiting { want_body: false } => 2,
                    Verdict::Waiting { want_body: true } => 3,
                    Verdict::Known => 4,
                    Verdict::Conflict => 5,
                });
            }
            Self::Refused { status, retry_after_s, reason } => {
                out.push(6);
                out.extend(status.to_be_bytes());
                out.extend(retry_after_s.to_be_bytes());
                put_text(&mut out, reason);
            }
        }
        out
    }

    /// Reads a header frame. `None` when it is not one of this version.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let (frame, (version, outcome)) = (byte, byte).parse(frame).ok()?;
        if version != VERSION || frame.len() > MAX_HEADER_BYTES {
            return None;
        }
        let reply = match outcome {
            1 => all_consuming(found).parse(frame),
            2 => return frame.is_empty().then_some(Self::Absent),
            3 => all_consuming(be_u32).map(|retry_after_ms| Self::Busy { retry_after_ms }).parse(frame),
            4 => all_consuming(sizes).parse(frame),
            5 => all_consuming(verdict).parse(frame),
            6 => all_consuming(refused).parse(frame),
            _ => return None,
        };
        Some(reply.ok()?.1)
    }
}

type Step<'a, T> = nom::IResult<&'a [u8], T, Error<&'a [u8]>>;

fn byte(input: &[u8]) -> Step<'_, u8> {
    u8(input)
}

fn fail<T>(input: &[u8]) -> Step<'_, T> {
    Err(nom::Err::Error(Error::new(input, nom::error::ErrorKind::Verify)))
}

fn bytes<const N: usize>(input: &[u8]) -> Step<'_, [u8; N]> {
    let (rest, taken) = take(N).parse(input)?;
    match taken.try_into() {
        Ok(array) => Ok((rest, array)),
        Err(_) => fail(input),
    }
}

fn utf8<'a>(length: usize, input: &'a [u8]) -> Step<'a, &'a str> {
    let (rest, taken) = take(length).parse(input)?;
    std::str::from_utf8(taken).map_or_else(|_| fail(input), |text| Ok((rest, text)))
}

fn text(input: &[u8]) -> Step<'_, &str> {
    let (rest, length) = byte(input)?;
    utf8(length.into(), rest)
}

fn long_text(input: &[u8]) -> Step<'_, &str> {
    let (rest, length) = be_u16(input)?;
    utf8(length.into(), rest)
}

fn kind(input: &[u8]) -> Step<'_, AssetKind> {
    let (rest, number) = byte(input)?;
    AssetKind::ALL
        .into_iter()
        .find(|kind| *kind as u8 == number)
        .map_or_else(|| fail(input), |kind| Ok((rest, kind)))
}

fn id(input: &[u8]) -> Step<'_, AssetId> {
    bytes::<16>.map(|id| AssetId(Uuid::from_bytes(id))).parse(input)
}

fn key(input: &[u8]) -> Step<'_, AssetKey> {
    (text, kind, id).map(|(grid, kind, id)| AssetKey { grid: GridId::new(grid), kind, id }).parse(input)
}

fn origin(input: &[u8]) -> Step<'_, Option<OriginHash>> {
    match byte(input)? {
        (rest, 0) => Ok((rest, None)),
        (rest, 1) => bytes::<16>.map(|hash| Some(OriginHash(hash))).parse(rest),
        _ => fail(input),
    }
}

fn digest(input: &[u8]) -> Step<'_, Digest> {
    bytes::<32>.map(Digest).parse(input)
}

fn read(input: &[u8]) -> Step<'_, Call> {
    let (rest, (key, origin, flags)) = (key, origin, byte).parse(input)?;
    let (rest, range) = match flags {
        0 | 1 => (rest, None),
        2 | 3 => (be_u64, be_u64).map(Some).parse(rest)?,
        _ => return fail(input),
    };
    if range.is_some_and(|(first, end)| first >= end) {
        return fail(input);
    }
    Ok((rest, Call::Read { key, origin, range, head_only: flags & 1 == 1 }))
}

fn lookup(input: &[u8]) -> Step<'_, Call> {
    let (rest, (grid, origin, number)) = (text, origin, be_u16).parse(input)?;
    if usize::from(number) > MAX_LOOKUP {
        return fail(input);
    }
    let (rest, assets) = count((kind, id), number.into()).parse(rest)?;
    Ok((rest, Call::Lookup { grid: GridId::new(grid), origin, assets }))
}

fn attest(input: &[u8]) -> Step<'_, Call> {
    (key, origin, digest, bytes::<32>)
        .map(|(key, origin, digest, proof)| Call::Attest { key, origin, digest, proof })
        .parse(input)
}

fn put(input: &[u8]) -> Step<'_, Call> {
    let (rest, (key, origin, digest, codec, length)) = (key, origin, digest, byte, be_u64).parse(input)?;
    let codec = match codec {
        0 => Codec::Raw,
        1 => Codec::Lz4,
        _ => return fail(input),
    };
    Ok((rest, Call::Put { key, origin, digest, codec, length }))
}

fn found(input: &[u8]) -> Step<'_, Reply> {
    let (rest, (digest, total, first, length, flags)) =
        (digest, be_u64, be_u64, be_u64, byte).parse(input)?;
    let fits = first.checked_add(length).is_some_and(|end| end <= total);
    if !fits || flags > 3 {
        return fail(input);
    }
    let found = Found { digest, total, first, length, grouped: flags & 1 == 1, verify: flags & 2 == 2 };
    Ok((rest, Reply::Found(found)))
}

fn sizes(input: &[u8]) -> Step<'_, Reply> {
    let (rest, number) = be_u16(input)?;
    if usize::from(number) > MAX_LOOKUP {
        return fail(input);
    }
    count(size, number.into()).map(Reply::Sizes).parse(rest)
}

fn size(input: &[u8]) -> Step<'_, Option<(u64, Digest)>> {
    match byte(input)? {
        (rest, 0) => Ok((rest, None)),
        (rest, 1) => (be_u64, digest).map(Some).parse(rest),
        _ => fail(input),
    }
}

fn verdict(input: &[u8]) -> Step<'_, Reply> {
    let (rest, number) = byte(input)?;
    let verdict = match number {
        1 => Verdict::Published,
        2 => Verdict::Waiting { want_body: false },
        3 => Verdict::Waiting { want_body: true },
        4 => Verdict::Known,
        5 => Verdict::Conflict,
        _ => return fail(input),
    };
    Ok((rest, Reply::Upload(verdict)))
}

fn refused(input: &[u8]) -> Step<'_, Reply> {
    (be_u16, be_u32, text)
        .map(|(status, retry_after_s, reason)| Reply::Refused {
            status,
            retry_after_s,
            reason: reason.to_owned(),
        })
        .parse(input)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.push(u8::try_from(end).unwrap_or(0));
    out.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
}

fn put_key(out: &mut Vec<u8>, key: &AssetKey) {
    put_text(out, key.grid.as_str());
    out.push(key.kind as u8);
    out.extend_from_slice(key.id.0.as_bytes());
}

fn put_origin(out: &mut Vec<u8>, origin: Option<OriginHash>) {
    match origin {
        None => out.push(0),
        Some(hash) => {
            out.push(1);
            out.extend(hash.0);
        }
    }
}

#[cfg(test)]
mod tests;
