//! The `usage` file: how often stored files were used, kept over restarts as a hint for eviction.
//!
//! `rezusage`, version (2, little-endian), then per file 16 bytes of name, 1 byte of tag (0-3 the
//! variant, 4 parts), 4 bytes of origin hash (zeros for a whole asset), 1 byte of uses, 4 bytes of
//! lead (an IEEE float), and at the end 32 bytes of BLAKE3 of all that. A file that is missing or
//! damaged means defaults, nothing else.

use std::collections::HashMap;

use super::evict::Standing;
use super::files::{FileId, Part, Stem};

/// The file's name.
pub(super) const FILE: &str = "usage";
/// Its name while it is written.
pub(super) const TEMPORARY: &str = "usage.tmp";

const MAGIC: &[u8; 8] = b"rezusage";
const VERSION: u16 = 1;
const RECORD: usize = 26;
/// 4 million files; a longer list is not read.
pub(super) const MAX_BYTES: u64 = 104 << 20;

/// The file's bytes.
pub(super) fn encode(standings: &[(FileId, Standing)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(standings.len()));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    for (id, standing) in standings {
        let (tag, origin) = match id.part {
            Part::Whole(variant) => (variant, [0; 4]),
            Part::Parts(origin) => (4, origin),
        };
        out.extend_from_slice(&id.stem.0);
        out.push(tag);
        out.extend_from_slice(&origin);
        out.push(standing.uses);
        out.extend_from_slice(&standing.lead.to_le_bytes());
    }
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

fn encoded_len(files: usize) -> usize {
    MAGIC.len() + 2 + files * RECORD + blake3::OUT_LEN
}

/// What the file remembers; `None` when it is not whole or not ours.
pub(super) fn decode(bytes: &[u8]) -> Option<HashMap<FileId, Standing>> {
    let (covered, checksum) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>()?;
    let records = covered.strip_prefix(MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
    if blake3::hash(covered).as_bytes() != checksum {
        return None;
    }
    let mut standings = HashMap::with_capacity(records.len() / RECORD);
    for record in records.chunks_exact(RECORD) {
        let (stem, rest) = record.split_first_chunk::<16>()?;
        let (tag, rest) = rest.split_first()?;
        let (origin, rest) = rest.split_first_chunk::<4>()?;
        let (uses, lead) = rest.split_first()?;
        let part = match tag {
            0..=3 => Part::Whole(*tag),
            _ => Part::Parts(*origin),
        };
        let standing = Standing { uses: *uses, lead: f32::from_le_bytes(lead.try_into().ok()?) };
        standings.insert(FileId { stem: Stem(*stem), part }, standing);
    }
    Some(standings)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use crate::cache::evict::Standing;
    use crate::cache::files::{FileId, Stem};
    use crate::grid::Origin;

    fn some() -> Vec<(FileId, Standing)> {
        vec![
            (FileId::whole(Stem([1; 16]), 2), Standing { uses: 9, lead: 1.5 }),
            (FileId::parts(Stem([2; 16]), &Origin::new("sim")), Standing { uses: 1, lead: 0.0 }),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode(&encode(&some())), Some(some().into_iter().collect()));
        assert_eq!(decode(&encode(&[])), Some(std::collections::HashMap::new()));
    }

    #[test]
    fn a_damaged_file_is_no_hint() {
        let bytes = encode(&some());
        for at in 0..bytes.len() {
            assert_eq!(decode(bytes.get(..at).unwrap_or_default()), None);
            let mut damaged = bytes.clone();
            damaged.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
            assert_eq!(decode(&damaged), None);
        }
    }
}
