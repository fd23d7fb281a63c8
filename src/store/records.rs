//! Catalog records at rest: encrypted under a key of their own, so that a stolen catalog tells no
//! digests, by which known content could be found in it.
//!
//! ```text
//!  version 1 | nonce 12 | AES-256-GCM of the record, with its tag of 16; the asset's hash is authenticated
//! ```

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::keys::KeyRing;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

fn key(ring: &KeyRing, asset: &[u8; 32]) -> Option<LessSafeKey> {
    let key = ring.keyed_hash("record key", &[asset]);
    UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
}

/// Encrypts the record of an asset. `nonce` must be random: a record is written some dozen times in its
/// life, far too seldom for two to be equal.
#[must_use]
pub fn seal(ring: &KeyRing, asset: &[u8; 32], record: &[u8], nonce: [u8; NONCE_BYTES]) -> Option<Vec<u8>> {
    let mut body = record.to_vec();
    key(ring, asset)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(asset), &mut body)
        .ok()?;
    let mut out = vec![VERSION];
    out.extend_from_slice(&nonce);
    out.append(&mut body);
    Some(out)
}

/// Decrypts the record of an asset. `None` when it is another's, damaged, or of another key file.
#[must_use]
pub fn open(ring: &KeyRing, asset: &[u8; 32], sealed: &[u8]) -> Option<Vec<u8>> {
    let rest = sealed.strip_prefix(&[VERSION])?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>()?;
    let mut body = body.to_vec();
    let opened = key(ring, asset)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(asset), &mut body)
        .ok()?
        .len();
    body.truncate(opened);
    Some(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{open, seal};
    use crate::store::keys::KeyRing;

    #[test]
    fn a_record_opens_for_its_own_asset_only() {
        let ring = KeyRing::new([1; 32], [2; 32]);
        let sealed = seal(&ring, &[7; 32], b"a record", [3; 12]).unwrap();
        assert_eq!(open(&ring, &[7; 32], &sealed).unwrap(), b"a record");
        assert_eq!(open(&ring, &[8; 32], &sealed), None);
        assert_eq!(open(&KeyRing::new([9; 32], [2; 32]), &[7; 32], &sealed), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(open(&ring, &[7; 32], &damaged), None, "{at}");
            assert_eq!(open(&ring, &[7; 32], &sealed[..at]), None, "{at}");
        }
    }
}
