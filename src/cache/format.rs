//! The files of the disk tier, byte by byte. All numbers are little-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `rezstore` |
//! | 8 | 2 | version, 1 |
//! | 10 | 1 | 1: a whole asset; 2: parts of one |
//! | 11 | 1 | codec of the body; 0: raw |
//! | 12 | 1 | kind: 0 texture, 1 sound, 2 animation, 3 mesh, 4 material |
//! | 13 | 1 | length of the grid's name, *g* |
//! | 14 | 1 | number of origins, 1 to 4 (1 for parts) |
//! | 15 | 1 | 0 |
//! | 16 | 4 | length of the whole header, checksum included |
//! | 20 | 4 | number of extents (0 for a whole asset) |
//! | 24 | 16 | UUID, as it is written |
//! | 40 | 8 | length of the whole asset |
//! | 48 | 8 | when it was stored, seconds since 1970 |
//! | 56 | 32 | BLAKE3 of the whole asset (zeros for parts) |
//! | 88 | *g* | the grid's name, UTF-8 |
//! | | 1 + *n* | per origin: length and host name, UTF-8 |
//! | | 48 | per extent: offset (8), length (8), BLAKE3 of its bytes (32); ascending, disjoint |
//! | | 16 | the first 16 bytes of BLAKE3 of the header up to here |
//! | | | the body: the asset, or the extents one after another |
//!
//! The file ends with the body. A whole asset is called `<32 hex>.<letter a-d>`, parts are called
//! `<32 hex>.<8 hex>.part`, in a directory named by the first two of the 32 digits, which are the
//! start of BLAKE3(grid ‖ kind byte ‖ UUID); the 8 are the start of BLAKE3(origin). A name with
//! `.tmp` after it is a write that never finished.

use uuid::Uuid;

use super::claims::{MAX_NAME, MAX_ORIGINS};
use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::grid::{GridId, Origin};

const MAGIC: &[u8; 8] = b"rezstore";
const VERSION: u16 = 1;
const FIXED: usize = 88;
const EXTENT: usize = 48;
const CHECKSUM: usize = 16;
/// Extents kept of one asset.
pub(super) const MAX_EXTENTS: usize = 64;
/// No header is longer: the fixed part, five names, the extents, the checksum.
pub(super) const MAX_HEADER: usize =
    FIXED + MAX_NAME + MAX_ORIGINS * (1 + MAX_NAME) + MAX_EXTENTS * EXTENT + CHECKSUM;

/// Why a file is not one of ours, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("the file ends inside its header")]
    Short,
    #[error("no file of this store")]
    Magic,
    #[error("version {0} of the format")]
    Version(u16),
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    #[error("{0} is out of range")]
    Field(&'static str),
    #[error("the file is not as long as its header says")]
    Length,
    #[error("the body's checksum is wrong")]
    BodyChecksum,
}

/// A run of bytes of a part file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) digest: Digest,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Whole(Digest),
    Parts(Vec<Extent>),
}

/// A file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: AssetKey,
    pub(super) total: u64,
    pub(super) stored: u64,
    pub(super) origins: Vec<Origin>,
    pub(super) content: Content,
}

impl Header {
    /// The length of the body that follows.
    pub(super) fn body_len(&self) -> u64 {
        match &self.content {
            Content::Whole(_) => self.total,
            Content::Parts(extents) => extents.iter().map(|extent| extent.length).sum(),
        }
    }

    /// The header's bytes. Fails on what no header can hold.
    pub(super) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let (content, digest, extents): (u8, _, &[Extent]) = match &self.content {
            Content::Whole(digest) => (1, digest.0, &[]),
            Content::Parts(extents) => (2, [0; 32], extents),
        };
        let origin_count = count(self.origins.len(), 1, MAX_ORIGINS, "the number of origins")?;
        count(extents.len(), 0, MAX_EXTENTS, "the number of extents")?;
        let mut out = Vec::with_capacity(MAX_HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[content, 0, self.key.kind as u8]);
        out.push(count(self.key.grid.as_str().len(), 0, MAX_NAME, "the grid's name")?);
        out.extend_from_slice(&[origin_count, 0]);
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&u32::try_from(extents.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(self.key.id.0.as_bytes());
        out.extend_from_slice(&self.total.to_le_bytes());
        out.extend_from_slice(&self.stored.to_le_bytes());
        out.extend_from_slice(&digest);
        out.extend_from_slice(self.key.grid.as_str().as_bytes());
        for origin in &self.origins {
            out.push(count(origin.as_str().len(), 0, MAX_NAME, "an origin's name")?);
            out.extend_from_slice(origin.as_str().as_bytes());
        }
        for extent in extents {
            out.extend_from_slice(&extent.offset.to_le_bytes());
            out.extend_from_slice(&extent.length.to_le_bytes());
            out.extend_from_slice(&extent.digest.0);
        }
        let length = u32::try_from(out.len() + CHECKSUM).unwrap_or(u32::MAX).to_le_bytes();
        for (cell, byte) in out.iter_mut().skip(length_at).zip(length) {
            *cell = byte;
        }
        let checksum = checksum(&out);
        out.extend_from_slice(&checksum);
        Ok(out)
    }

    /// Reads a header from the start of a file; also says where the body begins.
    pub(super) fn decode(file: &[u8]) -> Result<(Self, usize), FormatError> {
        let mut reader = Reader(file);
        if &reader.array::<8>()? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = u16::from_le_bytes(reader.array()?);
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let [content, codec, kind, grid_len, origin_count, zero] = reader.array()?;
        let header_len = u32::from_le_bytes(reader.array()?) as usize;
        if !(FIXED + CHECKSUM..=MAX_HEADER).contains(&header_len) {
            return Err(FormatError::Field("the header's length"));
        }
        let header = file.get(..header_len).ok_or(FormatError::Short)?;
        let (covered, sum) =
            header.split_at_checked(header_len - CHECKSUM).ok_or(FormatError::HeaderChecksum)?;
        if checksum(covered) != sum {
            return Err(FormatError::HeaderChecksum);
        }
        // From here on the fields are what we once wrote, unless somebody forged a checksum.
        let mut reader = Reader(covered.get(20..).ok_or(FormatError::Short)?);
        let extent_count = u32::from_le_bytes(reader.array()?) as usize;
        let id = AssetId(Uuid::from_bytes(reader.array()?));
        let total = u64::from_le_bytes(reader.array()?);
        let stored = u64::from_le_bytes(reader.array()?);
        let digest = Digest(reader.array()?);
        let kind = AssetKind::ALL
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(FormatError::Field("the kind"))?;
        let grid = GridId::new(reader.text(grid_len)?);
        count(usize::from(origin_count), 1, MAX_ORIGINS, "the number of origins")?;
        let mut origins = Vec::with_capacity(MAX_ORIGINS);
        for _ in 0..origin_count {
            let [length] = reader.array()?;
            origins.push(Origin::new(reader.text(length)?));
        }
        let content = match content {
            1 if extent_count == 0 => Content::Whole(digest),
            2 => Content::Parts(reader.extents(extent_count, total)?),
            _ => return Err(FormatError::Field("the content")),
        };
        if codec != 0 {
            return Err(FormatError::Field("the codec"));
        }
        if zero != 0 || !reader.0.is_empty() || total > kind.max_bytes() {
            return Err(FormatError::Field("a length"));
        }
        Ok((Self { key: AssetKey { grid, kind, id }, total, stored, origins, content }, header_len))
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut out = [0; CHECKSUM];
    out.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(cell, byte)| *cell = *byte);
    out
}

fn count(value: usize, least: usize, most: usize, what: &'static str) -> Result<u8, FormatError> {
    match u8::try_from(value) {
        Ok(small) if (least..=most).contains(&value) => Ok(small),
        _ => Err(FormatError::Field(what)),
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn text(&mut self, length: u8) -> Result<&'a str, FormatError> {
        let (head, rest) = self.0.split_at_checked(usize::from(length)).ok_or(FormatError::Short)?;
        self.0 = rest;
        std::str::from_utf8(head).map_err(|_| FormatError::Field("a name"))
    }

    fn extents(&mut self, count: usize, total: u64) -> Result<Vec<Extent>, FormatError> {
        if count > MAX_EXTENTS {
            return Err(FormatError::Field("the number of extents"));
        }
        let mut extents = Vec::with_capacity(count);
        let mut free_from = 0;
        for _ in 0..count {
            let offset = u64::from_le_bytes(self.array()?);
            let length = u64::from_le_bytes(self.array()?);
            let digest = Digest(self.array()?);
            let end = offset.checked_add(length).filter(|end| *end <= total);
            match end {
                Some(end) if offset >= free_from && length > 0 => free_from = end,
                _ => return Err(FormatError::Field("an extent")),
            }
            extents.push(Extent { offset, length, digest });
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::{Content, Extent, FormatError, Header, MAX_HEADER};
    use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
    use crate::grid::{GridId, Origin};

    prop_compose! {
        fn header()(
            grid in "[a-z.:0-9]{1,255}",
            kind in 0_usize..5,
            id: u128,
            total in 1_u64..1 << 20,
            stored: u64,
            origins in proptest::collection::vec("[a-z0-9.-]{1,255}", 1..=4),
            digest: [u8; 32],
            cuts in proptest::option::of(proptest::collection::btree_set(0_u64..1 << 20, 2..128)),
        ) -> Header {
            let content = match cuts {
                None => Content::Whole(Digest(digest)),
                Some(cuts) => {
                    let cuts: Vec<u64> = cuts.into_iter().map(|cut| cut % (total + 1)).collect();
                    let mut cuts = cuts;
                    cuts.sort_unstable();
                    cuts.dedup();
                    Content::Parts(cuts.chunks_exact(2).map(|pair| Extent {
                        offset: pair[0], length: pair[1] - pair[0], digest: Digest(digest),
                    }).collect())
                }
            };
            Header {
                key: AssetKey {
                    grid: GridId::new(&grid),
                    kind: AssetKind::ALL[kind],
                    id: AssetId(uuid::Uuid::from_u128(id)),
                },
                total, stored, content,
                origins: origins.iter().map(|name| Origin::new(name)).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in header()) {
            let mut bytes = header.encode().unwrap();
            prop_assert!(bytes.len() <= MAX_HEADER);
            let length = bytes.len();
            bytes.extend_from_slice(b"body");
            prop_assert_eq!(Header::decode(&bytes), Ok((header, length)));
        }

        #[test]
        fn a_flipped_bit_is_refused(header in header(), at: proptest::sample::Index, bit in 0_u8..8) {
            let mut bytes = header.encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn a_prefix_is_refused(header in header(), at: proptest::sample::Index) {
            let bytes = header.encode().unwrap();
            prop_assert!(Header::decode(&bytes[..at.index(bytes.len())]).is_err());
        }

        #[test]
        fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Header::decode(&bytes).is_err());
        }
    }

    #[test]
    fn names_that_do_not_fit_are_not_written() {
        let header = Header {
            key: AssetKey {
                grid: GridId::new(&"g".repeat(256)),
                kind: AssetKind::Mesh,
                id: AssetId(uuid::Uuid::nil()),
            },
            total: 1,
            stored: 0,
            origins: vec![Origin::new("host")],
            content: Content::Whole(Digest([0; 32])),
        };
        assert_eq!(header.encode(), Err(FormatError::Field("the grid's name")));
    }
}
