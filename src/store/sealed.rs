//! A blob at rest: compressed where that pays, encrypted under a key of its own, bound to its name.
//! Any changed, missing or moved bit is refused.
//!
//! ```text
//!  header, 96 bytes, big-endian     magic "RZB1" | algorithm 1 | codec 0 raw, 1 lz4 | 0 0 | key id u32
//!                                   | chunk bytes u32 | salt 32 | commitment 32 | plain bytes u64 | packed bytes u64
//!  chunks of 64 KiB                 AES-256-GCM of (digest 32 | packed bytes), each with its tag of 16
//! ```
//! The key is HKDF-SHA256 of the master key with the blob's random salt, for "rezcache seal v1" and the
//! blob's name; so is the commitment, which tells a wrong key from damage. A chunk's nonce is its index
//! and a flag on the last; the whole header is authenticated with every chunk. The digest is sealed: a
//! stolen store tells nobody which content it holds.

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use super::keys::{BlobName, KeyId, KeyRing};
use crate::asset::Digest;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 96;
/// Plain bytes of a chunk.
pub const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"RZB1";
const AES_256_GCM_CHUNKED: u8 = 1;

/// Why a blob cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No blob of this version.
    #[error("this is no sealed blob of a known version")]
    Form,
    /// Sealed with a key that is not in the key file.
    #[error(
        "the blob is sealed with key {0}, which is not in the key file; restore the key file from its backup"
    )]
    UnknownKey(u32),
    /// The key of that id is another one, or the blob has another name.
    #[error("the key file holds another key {0} than the one this blob is sealed with")]
    WrongKey(u32),
    /// Damaged, cut short or put together of others.
    #[error("the blob is damaged")]
    Damaged,
    /// Larger than it may be.
    #[error("the blob is larger than any asset may be")]
    TooLarge,
    /// The key ring holds no key, or the blob cannot be sealed.
    #[error("the blob cannot be sealed")]
    Unsealable,
}

struct Lengths(usize);

impl KeyType for Lengths {
    fn len(&self) -> usize {
        self.0
    }
}

/// The blob's own key and the commitment to it.
fn derive(master: &[u8; 32], salt: &[u8; 32], name: &BlobName) -> Option<(LessSafeKey, [u8; 32])> {
    let mut material = [0u8; 64];
    let info: [&[u8]; 2] = [b"rezcache seal v1", &name.0];
    Salt::new(HKDF_SHA256, salt)
        .extract(master)
        .expand(&info, Lengths(material.len()))
        .and_then(|okm| okm.fill(&mut material))
        .ok()?;
    let (key, commitment) = material.split_first_chunk::<32>()?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    Some((key, commitment.try_into().ok()?))
}

fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    let (counter, flag) = bytes.split_at_mut(8);
    counter.copy_from_slice(&index.to_be_bytes());
    if let Some(flag) = flag.last_mut() {
        *flag = u8::from(last);
    }
    Nonce::assume_unique_for_key(bytes)
}

/// The fields of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    lz4: bool,
    key: KeyId,
    salt: [u8; 32],
    commitment: [u8; 32],
    plain: u64,
    packed: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let fields: [&[u8]; 8] = [
            &MAGIC,
            &[AES_256_GCM_CHUNKED, u8::from(self.lz4), 0, 0],
            &self.key.0.to_be_bytes(),
            &u32::try_from(CHUNK_BYTES).unwrap_or(0).to_be_bytes(),
            &self.salt,
            &self.commitment,
            &self.plain.to_be_bytes(),
            &self.packed.to_be_bytes(),
        ];
        for (place, byte) in out.iter_mut().zip(fields.concat()) {
            *place = byte;
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let field = |at: usize, length: usize| bytes.get(at..at + length).ok_or(SealError::Form);
        let number = |at: usize| -> Result<u64, SealError> {
            Ok(u64::from_be_bytes(field(at, 8)?.try_into().map_err(|_| SealError::Form)?))
        };
        let small = |at: usize| -> Result<u32, SealError> {
            Ok(u32::from_be_bytes(field(at, 4)?.try_into().map_err(|_| SealError::Form)?))
        };
        let lz4 = match field(4, 4)? {
            [AES_256_GCM_CHUNKED, 0, 0, 0] => false,
            [AES_256_GCM_CHUNKED, 1, 0, 0] => true,
            _ => return Err(SealError::Form),
        };
        if field(0, 4)? != MAGIC || small(12)? as usize != CHUNK_BYTES {
            return Err(SealError::Form);
        }
        let array =
            |at| -> Result<[u8; 32], SealError> { field(at, 32)?.try_into().map_err(|_| SealError::Form) };
        Ok(Self {
            lz4,
            key: KeyId(small(8)?),
            salt: array(16)?,
            commitment: array(48)?,
            plain: number(80)?,
            packed: number(88)?,
        })
    }
}

/// LZ4 stays when it saves a twentieth.
fn pack(plain: &[u8], try_lz4: bool) -> Option<Vec<u8>> {
    if !try_lz4 || plain.len() < 64 {
        return None;
    }
    let packed = lz4_flex::block::compress(plain);
    (packed.len() <= plain.len() - plain.len() / 20).then_some(packed)
}

/// Seals a content under its name. `salt` must be random and never used before.
///
/// # Errors
/// When the ring holds no key.
pub fn seal(
    ring: &KeyRing,
    name: &BlobName,
    digest: Digest,
    plain: &[u8],
    try_lz4: bool,
    salt: [u8; 32],
) -> Result<Vec<u8>, SealError> {
    let (id, master) = ring.current().ok_or(SealError::Unsealable)?;
    let (key, commitment) = derive(master, &salt, name).ok_or(SealError::Unsealable)?;
    let packed = pack(plain, try_lz4);
    let body = packed.as_deref().unwrap_or(plain);
    let header = Header {
        lz4: packed.is_some(),
        key: id,
        salt,
        commitment,
        plain: plain.len() as u64,
        packed: body.len() as u64,
    }
    .encode();
    let total = DIGEST_BYTES + body.len();
    let chunks = total.div_ceil(CHUNK_BYTES);
    let mut out = Vec::with_capacity(HEADER_BYTES + total + chunks * TAG_BYTES);
    out.extend_from_slice(&header);
    let mut rest = body;
    for index in 0..chunks {
        let start = out.len();
        let digest: &[u8] = if index == 0 { &digest.0 } else { &[] };
        let (taken, left) = rest.split_at(rest.len().min(CHUNK_BYTES - digest.len()));
        rest = left;
        out.extend_from_slice(digest);
        out.extend_from_slice(taken);
        let chunk = out.get_mut(start..).ok_or(SealError::Unsealable)?;
        let tag = key
            .seal_in_place_separate_tag(nonce(index as u64, index + 1 == chunks), Aad::from(&header), chunk)
            .map_err(|_| SealError::Unsealable)?;
        out.extend_from_slice(tag.as_ref());
    }
    Ok(out)
}

/// Opens a blob that is called `name` and holds at most `limit` bytes, and checks its digest.
///
/// # Errors
/// Everything but the blob that was sealed under this name with these keys.
pub fn open(ring: &KeyRing, name: &BlobName, blob: &[u8], limit: u64) -> Result<(Digest, Bytes), SealError> {
    let (head, mut sealed) = blob.split_first_chunk::<HEADER_BYTES>().ok_or(SealError::Form)?;
    let header = Header::decode(head)?;
    let master = ring.key(header.key).ok_or(SealError::UnknownKey(header.key.0))?;
    let (key, commitment) = derive(master, &header.salt, name).ok_or(SealError::Damaged)?;
    if commitment != header.commitment {
        return Err(SealError::WrongKey(header.key.0));
    }
    if header.plain > limit || header.packed > header.plain {
        return Err(SealError::TooLarge);
    }
    let total = usize::try_from(header.packed).map_err(|_| SealError::TooLarge)? + DIGEST_BYTES;
    let chunks = total.div_ceil(CHUNK_BYTES);
    if sealed.len() != total + chunks * TAG_BYTES {
        return Err(SealError::Damaged);
    }
    let mut body = Vec::with_capacity(total + TAG_BYTES);
    for index in 0..chunks {
        let (chunk, rest) = sealed.split_at(sealed.len().min(CHUNK_BYTES + TAG_BYTES));
        sealed = rest;
        let start = body.len();
        body.extend_from_slice(chunk);
        let place = body.get_mut(start..).ok_or(SealError::Damaged)?;
        let opened = key
            .open_in_place(nonce(index as u64, index + 1 == chunks), Aad::from(head), place)
            .map_err(|_| SealError::Damaged)?
            .len();
        body.truncate(start + opened);
    }
    let packed = Bytes::from(body);
    let digest = packed.get(..DIGEST_BYTES).and_then(|digest| digest.try_into().ok()).map(Digest);
    let digest = digest.ok_or(SealError::Damaged)?;
    let packed = packed.slice(DIGEST_BYTES..);
    let plain = if header.lz4 {
        // Bounded by `limit` above; the block format never writes beyond the room it is given.
        let room = usize::try_from(header.plain).map_err(|_| SealError::TooLarge)?;
        Bytes::from(lz4_flex::block::decompress(&packed, room).map_err(|_| SealError::Damaged)?)
    } else {
        packed
    };
    if plain.len() as u64 != header.plain || Digest::of(&plain) != digest {
        return Err(SealError::Damaged);
    }
    Ok((digest, plain))
}

/// The id of the key that a blob is sealed with.
#[must_use]
pub fn key_id(blob: &[u8]) -> Option<KeyId> {
    Header::decode(blob).ok().map(|header| header.key)
}

#[cfg(test)]
mod tests;
