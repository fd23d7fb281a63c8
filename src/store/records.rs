//! Catalog records at rest: encrypted, so that a stolen catalog tells no digests, by which known content
//! could be found in it.
//!
//! ```text
//!  version 1 | key id u32 | nonce 12 | AES-256-GCM of the record, with its tag of 16
//! ```
//! The key is BLAKE3's derive_key for "rezcache record v1" of the master key and the asset's hash; version, key
//! id and the asset's hash are authenticated.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::keys::{KeyId, KeyRing};
use crate::publication::Record;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;
const NONCE_BYTES: usize = 12;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Sealed with a key that is not in the key file.
    #[error(
        "the record is sealed with key {0}, which is not in the key file; restore the key file from its backup"
    )]
    UnknownKey(u32),
    /// Damaged, another asset's, or of another key file.
    #[error("the record is damaged, or of another key file")]
    Damaged,
    /// Of a newer rezcache.
    #[error("the record is of an unknown version; use a newer rezcache")]
    Version,
}

fn derived(master: &[u8; 32], asset: &[u8; 32]) -> Option<LessSafeKey> {
    let mut hasher = blake3::Hasher::new_derive_key("rezcache record v1");
    hasher.update(master).update(asset);
    UnboundKey::new(&AES_256_GCM, hasher.finalize().as_bytes()).ok().map(LessSafeKey::new)
}

fn authenticated(head: &[u8; HEAD_BYTES], asset: &[u8; 32]) -> Aad<Vec<u8>> {
    Aad::from([&head[..], asset].concat())
}

/// Encrypts the record of an asset with the newest key. `nonce` must be random: a record is written some
/// dozen times in its life, far too seldom for two to be equal.
#[must_use]
pub fn seal(ring: &KeyRing, asset: &[u8; 32], record: &[u8], nonce: [u8; NONCE_BYTES]) -> Option<Vec<u8>> {
    let (id, master) = ring.current()?;
    let [a, b, c, d] = id.0.to_be_bytes();
    let head = [VERSION, a, b, c, d];
    let mut body = record.to_vec();
    derived(master, asset)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), authenticated(&head, asset), &mut body)
        .ok()?;
    Some([&head[..], &nonce, &body].concat())
}

/// Decrypts the record of an asset.
///
/// # Errors
/// When it is another's, damaged, or of another key file.
pub fn open(ring: &KeyRing, asset: &[u8; 32], sealed: &[u8]) -> Result<Vec<u8>, RecordError> {
    let (head, rest) = sealed.split_first_chunk::<HEAD_BYTES>().ok_or(RecordError::Damaged)?;
    if !head.starts_with(&[VERSION]) {
        return Err(RecordError::Version);
    }
    let id = key_id(sealed).ok_or(RecordError::Damaged)?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(RecordError::Damaged)?;
    let master = ring.key(id).ok_or(RecordError::UnknownKey(id.0))?;
    let mut body = body.to_vec();
    let opened = derived(master, asset)
        .ok_or(RecordError::Damaged)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), authenticated(head, asset), &mut body)
        .map_err(|_| RecordError::Damaged)?
        .len();
    body.truncate(opened);
    Ok(body)
}

/// The key that a record is sealed with.
#[must_use]
pub fn key_id(sealed: &[u8]) -> Option<KeyId> {
    let (head, _) = sealed.strip_prefix(&[VERSION])?.split_first_chunk()?;
    Some(KeyId(u32::from_be_bytes(*head)))
}

/// Reads the record of an asset.
///
/// # Errors
/// When it cannot be.
pub fn read(ring: &KeyRing, asset: &[u8; 32], sealed: &[u8]) -> Result<Record, RecordError> {
    Record::decode(&open(ring, asset, sealed)?).ok_or(RecordError::Version)
}

/// Writes the record of an asset.
#[must_use]
pub fn write(ring: &KeyRing, asset: &[u8; 32], record: &Record) -> Option<Vec<u8>> {
    seal(ring, asset, &record.encode(), rand::random())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{KeyId, RecordError, key_id, open, seal};
    use crate::store::keys::KeyRing;

    #[test]
    fn a_record_opens_for_its_own_asset_only() {
        let ring = KeyRing::new([1; 32], [2; 32]);
        let sealed = seal(&ring, &[7; 32], b"a record", [3; 12]).unwrap();
        assert_eq!(open(&ring, &[7; 32], &sealed).unwrap(), b"a record");
        assert_eq!(open(&ring, &[8; 32], &sealed), Err(RecordError::Damaged));
        let stranger = KeyRing::new([1; 32], [9; 32]);
        assert_eq!(open(&stranger, &[7; 32], &sealed), Err(RecordError::Damaged));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(open(&ring, &[7; 32], &damaged).is_err(), "{at}");
            assert!(open(&ring, &[7; 32], &sealed[..at]).is_err(), "{at}");
        }
        let rotated = ring.clone().with_new_key([5; 32]);
        assert_eq!(open(&rotated, &[7; 32], &sealed).unwrap(), b"a record");
        let newer = seal(&rotated, &[7; 32], b"a record", [4; 12]).unwrap();
        assert_eq!((key_id(&sealed), key_id(&newer)), (Some(KeyId(1)), Some(KeyId(2))));
        assert_eq!(open(&ring, &[7; 32], &newer), Err(RecordError::UnknownKey(2)));
    }

    #[test]
    fn the_first_version_is_still_read() {
        let ring = KeyRing::new([3; 32], [4; 32]);
        let sealed = std::fs::read("fixtures/service/sealed-record-v1.bin").unwrap();
        assert_eq!(open(&ring, &[7; 32], &sealed).unwrap(), b"a record of version 1");
        assert_eq!(seal(&ring, &[7; 32], b"a record of version 1", [9; 12]).unwrap(), sealed);
    }
}
