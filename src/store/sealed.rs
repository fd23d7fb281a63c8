//! A blob at rest: compressed where that pays, encrypted under a key of its own, bound to its name.
//! Any changed, missing or moved bit is refused, and a range needs only the chunks it touches.
//!
//! ```text
//!  header, 96 bytes, big-endian     magic "RZB1" | algorithm 1 | codec 0 raw, 1 lz4 | 0 0 | key id u32
//!                                   | chunk bytes u32 | salt 32 | commitment 32 | plain bytes u64 | packed bytes u64
//!  chunk 0                          digest 32 | the packed body                       of at most 64 KiB of plain bytes
//!                                   digest 32 | value 32 of each 64 KiB (groups.rs)   of more
//!  chunks 1, 2 … (of more)          the packed body, 64 KiB each
//! ```
//! Each chunk is AES-256-GCM and followed by its tag of 16 bytes. The key is HKDF-SHA256 of the master key
//! with the blob's random salt, for "rezcache seal v1" and the blob's name; so is the commitment, which
//! tells a wrong key from damage. A chunk's nonce is its index as u64, three zeros, and 1 for the last chunk,
//! else 0; the whole header is authenticated with every chunk. The digest is sealed: a stolen store tells
//! nobody which content it holds.
//!
//! A raw body's chunk *n* + 1 is its group *n*, so what was opened for a range is at once what a reader
//! checks, and the values in chunk 0 spare the node from reading the whole body to make them.

use std::ops::Range;

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use super::keys::{BlobName, KeyId, KeyRing};
use crate::asset::Digest;
use crate::wire::groups::{self, GROUP_BYTES, GroupHash};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 96;
/// Plain bytes of a chunk.
pub const CHUNK_BYTES: usize = GROUP_BYTES;
const TAG_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"RZB1";
const AES_256_GCM_CHUNKED: u8 = 1;
/// Far above any asset, and far below where sums of lengths overflow.
const MAX_PLAIN_BYTES: u64 = 1 << 40;

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
    /// The index of the last chunk.
    fn further(&self) -> u64 {
        further_chunks(self.plain, self.packed)
    }

    /// The whole blob's length.
    fn blob_bytes(&self) -> u64 {
        let (first, further) = (first_chunk(self.plain, self.packed), self.further());
        let body = if further == 0 { 0 } else { self.packed };
        let tags = further.saturating_add(1).saturating_mul(TAG_BYTES as u64);
        (HEADER_BYTES as u64).saturating_add(first).saturating_add(body).saturating_add(tags)
    }

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

/// What is hashed of a content before it is sealed, in one pass over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Of the whole content.
    pub digest: Digest,
    /// Of each 64 KiB.
    pub groups: Vec<GroupHash>,
}

impl Hashed {
    /// Hashes a content.
    #[must_use]
    pub fn of(plain: &[u8]) -> Self {
        let groups = groups::of(plain);
        // Groups of these very bytes always make up a digest.
        let digest = groups::digest(&groups, plain.len() as u64).unwrap_or_else(|| Digest::of(plain));
        Self { digest, groups }
    }
}

/// Bytes of chunk 0 before it is sealed.
fn first_chunk(plain: u64, packed: u64) -> u64 {
    let prefix = DIGEST_BYTES as u64;
    match groups::count(plain) {
        1 => prefix.saturating_add(packed),
        count => prefix.saturating_add(count.saturating_mul(DIGEST_BYTES as u64)),
    }
}

/// Chunks after the first.
fn further_chunks(plain: u64, packed: u64) -> u64 {
    if groups::count(plain) == 1 { 0 } else { packed.div_ceil(CHUNK_BYTES as u64) }
}

/// Bytes at the start of a blob that hold its header and its first chunk, of a content of this length.
#[must_use]
pub fn head_bytes(plain: u64) -> u64 {
    first_chunk(plain, plain).saturating_add((HEADER_BYTES + TAG_BYTES) as u64)
}

/// Seals a content under its name. `salt` must be random and never used before.
///
/// # Errors
/// When the ring holds no key.
pub fn seal(
    ring: &KeyRing,
    name: &BlobName,
    hashed: &Hashed,
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
    };
    let size = usize::try_from(header.blob_bytes()).map_err(|_| SealError::TooLarge)?;
    let last = header.further();
    let header = header.encode();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&header);
    let mut put = |index: u64, parts: &[&[u8]]| {
        let start = out.len();
        parts.iter().for_each(|part| out.extend_from_slice(part));
        let chunk = out.get_mut(start..).ok_or(SealError::Unsealable)?;
        let tag = key
            .seal_in_place_separate_tag(nonce(index, index == last), Aad::from(&header), chunk)
            .map_err(|_| SealError::Unsealable)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    };
    if last == 0 {
        put(0, &[&hashed.digest.0, body])?;
    } else {
        put(0, &[&hashed.digest.0, hashed.groups.as_flattened()])?;
        for (index, chunk) in (1..).zip(body.chunks(CHUNK_BYTES)) {
            put(index, &[chunk])?;
        }
    }
    Ok(out)
}

/// A blob's header and first chunk, opened: all that is needed to open the others in any order.
pub struct Head {
    header: Header,
    raw: [u8; HEADER_BYTES],
    key: LessSafeKey,
    digest: Digest,
    groups: Vec<GroupHash>,
}

/// How much of a blob its header and first chunk are, as the header says.
fn needed(blob: &[u8]) -> Result<usize, SealError> {
    let header = Header::decode(blob)?;
    let length = first_chunk(header.plain, header.packed).saturating_add((HEADER_BYTES + TAG_BYTES) as u64);
    Ok(usize::try_from(length).unwrap_or(usize::MAX))
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither keys nor digests.
        f.debug_struct("Head").field("plain", &self.header.plain).finish_non_exhaustive()
    }
}

impl Head {
    /// Opens the start of a blob that is called `name` and holds at most `limit` bytes: at least
    /// [`head_bytes`] of its length, or all of it.
    ///
    /// # Errors
    /// Everything but what was sealed under this name with these keys.
    pub fn open(ring: &KeyRing, name: &BlobName, start: &[u8], limit: u64) -> Result<Self, SealError> {
        let start = start.get(..start.len().min(needed(start)?)).unwrap_or(start);
        Self::open_in(ring, name, &mut start.to_vec(), limit)
    }

    /// The same in place: what follows the digest is left open where it is.
    fn open_in(ring: &KeyRing, name: &BlobName, start: &mut [u8], limit: u64) -> Result<Self, SealError> {
        let (raw, rest) = start.split_first_chunk_mut::<HEADER_BYTES>().ok_or(SealError::Form)?;
        let header = Header::decode(raw)?;
        let master = ring.key(header.key).ok_or(SealError::UnknownKey(header.key.0))?;
        let (key, commitment) = derive(master, &header.salt, name).ok_or(SealError::Damaged)?;
        if commitment != header.commitment {
            return Err(SealError::WrongKey(header.key.0));
        }
        if header.plain > limit.min(MAX_PLAIN_BYTES) || header.packed > header.plain {
            return Err(SealError::TooLarge);
        }
        let length = first_chunk(header.plain, header.packed);
        let length = usize::try_from(length).map_err(|_| SealError::TooLarge)?;
        let chunk = rest.get_mut(..length + TAG_BYTES).ok_or(SealError::Damaged)?;
        let chunk = key
            .open_in_place(nonce(0, header.further() == 0), Aad::from(&*raw), chunk)
            .map_err(|_| SealError::Damaged)?;
        let (digest, values) = chunk.split_first_chunk::<DIGEST_BYTES>().ok_or(SealError::Damaged)?;
        let digest = Digest(*digest);
        // A blob moved to another name has failed already; this holds it to the writer's word too.
        if ring.blob_name(digest) != *name {
            return Err(SealError::Damaged);
        }
        let groups = match header.further() {
            0 => Vec::new(),
            _ => values.chunks_exact(DIGEST_BYTES).filter_map(|value| value.try_into().ok()).collect(),
        };
        Ok(Self { header, raw: *raw, key, digest, groups })
    }

    /// The content's digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The content's length.
    #[must_use]
    pub const fn plain_bytes(&self) -> u64 {
        self.header.plain
    }

    /// The whole blob's length.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.header.blob_bytes()
    }

    /// The values of the content's groups; none when it is a single one, whose value is the digest.
    #[must_use]
    pub fn groups(&self) -> &[GroupHash] {
        &self.groups
    }

    /// Whether parts can be opened alone.
    #[must_use]
    pub const fn has_parts(&self) -> bool {
        !self.header.lz4 && !self.groups.is_empty()
    }

    /// Where in the blob the bytes `range` of a content are that has parts, in whole groups.
    #[must_use]
    pub fn place(&self, range: Range<u64>) -> Option<Range<u64>> {
        (self.has_parts() && range.start < range.end && range.end <= self.header.plain)
            .then(|| place(self.header.plain, range))
    }

    /// Opens whole groups, the first of which is number `group`: the bytes that [`place`] tells.
    ///
    /// # Errors
    /// When they are others.
    pub fn open_groups(&self, group: u64, sealed: Vec<u8>) -> Result<Bytes, SealError> {
        self.open_chunks(group.saturating_add(1), sealed)
    }

    fn open_chunks(&self, first: u64, mut sealed: Vec<u8>) -> Result<Bytes, SealError> {
        let length = self.open_chunks_in(first, &mut sealed)?;
        sealed.truncate(length);
        Ok(Bytes::from(sealed))
    }

    /// Opens chunks in place, closing the gaps that their tags leave; how many bytes they then are.
    fn open_chunks_in(&self, first: u64, sealed: &mut [u8]) -> Result<usize, SealError> {
        let (mut index, mut from, mut to) = (first, 0, 0);
        while from < sealed.len() {
            let last = index == self.header.further();
            let length = if last {
                let before = (self.header.further() - 1).saturating_mul(CHUNK_BYTES as u64);
                usize::try_from(self.header.packed.saturating_sub(before)).map_err(|_| SealError::TooLarge)?
            } else {
                CHUNK_BYTES
            };
            let end = from + length + TAG_BYTES;
            if index > self.header.further() {
                return Err(SealError::Damaged);
            }
            let place = sealed.get_mut(to..end).ok_or(SealError::Damaged)?;
            self.key
                .open_within(nonce(index, last), Aad::from(&self.raw), place, from - to..)
                .map_err(|_| SealError::Damaged)?;
            (index, from, to) = (index + 1, end, to + length);
        }
        Ok(to)
    }
}

/// Where in the blob of a raw content of `plain` bytes, of more than one group, these bytes are.
#[must_use]
pub fn place(plain: u64, range: Range<u64>) -> Range<u64> {
    const CHUNK: u64 = CHUNK_BYTES as u64;
    const SEALED: u64 = CHUNK + TAG_BYTES as u64;
    let head = head_bytes(plain);
    let start = (range.start / CHUNK).saturating_mul(SEALED);
    let groups = range.end.div_ceil(CHUNK);
    // The last group may be shorter.
    let missing = groups.saturating_mul(CHUNK).saturating_sub(plain);
    let end = groups.saturating_mul(SEALED).saturating_sub(missing);
    head.saturating_add(start)..head.saturating_add(end)
}

/// Opens a blob that is called `name` and holds at most `limit` bytes.
///
/// Nothing but what was sealed under this name comes out; that the content has its digest is the word of
/// whoever sealed it. [`scrub`] hashes it again.
///
/// # Errors
/// Everything but the blob that was sealed under this name with these keys.
pub fn open(ring: &KeyRing, name: &BlobName, blob: &[u8], limit: u64) -> Result<(Digest, Bytes), SealError> {
    open_owned(ring, name, blob.to_vec(), limit)
}

/// The same without a copy.
///
/// # Errors
/// As [`open`].
pub fn open_owned(
    ring: &KeyRing,
    name: &BlobName,
    mut blob: Vec<u8>,
    limit: u64,
) -> Result<(Digest, Bytes), SealError> {
    let head = Head::open_in(ring, name, &mut blob, limit)?;
    if blob.len() as u64 != head.blob_bytes() {
        return Err(SealError::Damaged);
    }
    let (start, length) = if head.header.further() == 0 {
        (HEADER_BYTES + DIGEST_BYTES, usize::try_from(head.header.packed).map_err(|_| SealError::TooLarge)?)
    } else {
        let start = usize::try_from(head_bytes(head.header.plain)).map_err(|_| SealError::TooLarge)?;
        (start, head.open_chunks_in(1, blob.get_mut(start..).ok_or(SealError::Damaged)?)?)
    };
    let plain = if head.header.lz4 {
        let packed = blob.get(start..start + length).ok_or(SealError::Damaged)?;
        // Bounded by `limit` above; the block format never writes beyond the room it is given.
        let room = usize::try_from(head.header.plain).map_err(|_| SealError::TooLarge)?;
        Bytes::from(lz4_flex::block::decompress(packed, room).map_err(|_| SealError::Damaged)?)
    } else {
        Bytes::from(blob).slice(start..start + length)
    };
    if plain.len() as u64 != head.header.plain {
        return Err(SealError::Damaged);
    }
    Ok((head.digest, plain))
}

/// Opens a blob as [`open`] does, and holds content and groups to their hashes.
///
/// # Errors
/// As [`open`], and when they do not match.
pub fn scrub(ring: &KeyRing, name: &BlobName, blob: &[u8], limit: u64) -> Result<(Digest, Bytes), SealError> {
    let (digest, plain) = open(ring, name, blob, limit)?;
    let (hashed, head) = (Hashed::of(&plain), Head::open(ring, name, blob, limit)?);
    let grouped = head.groups.is_empty() || head.groups == hashed.groups;
    if hashed.digest != digest || !grouped { Err(SealError::Damaged) } else { Ok((digest, plain)) }
}

/// The id of the key that a blob is sealed with.
#[must_use]
pub fn key_id(blob: &[u8]) -> Option<KeyId> {
    Header::decode(blob).ok().map(|header| header.key)
}

/// Whether a blob's body is packed.
#[must_use]
pub fn is_packed(blob: &[u8]) -> bool {
    Header::decode(blob).is_ok_and(|header| header.lz4)
}

#[cfg(test)]
mod tests;
