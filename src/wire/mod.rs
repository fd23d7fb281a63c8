//! What proxy and node say to each other: names, proofs, the frames of the QUIC face, and the
//! group hashes by which a large body is checked while it arrives. Bytes in, values out.
//!
//! ```text
//!  stream of the QUIC face    u32 length (big-endian) | header frame | body until the stream ends
//!  header frame               version 1 | operation or outcome | its fields (frame.rs)
//! ```

use std::fmt::{self, Write as _};

use crate::asset::{AssetKey, Digest};
use crate::grid::{GridId, Origin};

pub mod frame;
pub mod groups;

/// The protocol's name in the TLS handshake of the QUIC face.
pub const ALPN: &[u8] = b"rezcache/1";
/// The most assets one lookup may name.
pub const MAX_LOOKUP: usize = 256;
/// Bodies up to this length are checked whole; longer ones by groups as they arrive.
pub const WHOLE_BYTES: u64 = 1 << 20;

/// An origin as it is named outside this machine: 16 bytes that mean nothing on another grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginHash(pub [u8; 16]);

impl OriginHash {
    /// The hash of an origin of this grid.
    #[must_use]
    pub fn of(grid: &GridId, origin: &Origin) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rezcache origin v1");
        hasher.update(grid.as_str().as_bytes()).update(&[0]).update(origin.as_str().as_bytes());
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        Self(hash)
    }

    /// As it stands in headers: 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for OriginHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

/// A digest as it stands in headers and JSON: `b3-` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestText(pub Digest);

impl DigestText {
    /// Reads `b3-…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Digest> {
        text.strip_prefix("b3-").and_then(unhex).map(Digest)
    }
}

impl fmt::Display for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("b3-")?;
        hex(f, &self.0.0)
    }
}

/// Every answer over HTTP holds one of these: not a formatted number for each byte.
fn hex<const N: usize>(f: &mut fmt::Formatter<'_>, bytes: &[u8; N]) -> fmt::Result {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |value: u8| DIGITS.get(usize::from(value & 15)).copied().unwrap_or_default();
    bytes.iter().try_for_each(|byte| {
        f.write_char(digit(byte >> 4))?;
        f.write_char(digit(*byte))
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

/// The one byte form of an asset's name that hashes are made of: grid, zero, kind, zero, id.
#[must_use]
pub fn key_bytes(key: &AssetKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.grid.as_str().len() + 28);
    bytes.extend_from_slice(key.grid.as_str().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.kind.name().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.id.0.as_bytes());
    bytes
}

/// What a proof of possession is keyed by. It names the principal, the asset and the content, so
/// that nobody can show another's proof, and tells nobody who that was.
#[must_use]
pub fn proof_key(principal: &str, key: &AssetKey, digest: Digest) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("rezcache attest v1");
    hasher.update(principal.as_bytes()).update(&[0]).update(&key_bytes(key)).update(&digest.0);
    *hasher.finalize().as_bytes()
}

/// Shows that whoever made it held the bytes: a digest only heard of is not enough.
#[must_use]
pub fn proof(proof_key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(proof_key, bytes).as_bytes()
}

/// A proof as it stands in JSON: 64 hexadecimal digits.
#[must_use]
pub fn proof_from_text(text: &str) -> Option<[u8; 32]> {
    unhex(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{DigestText, OriginHash, proof, proof_key};
    use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
    use crate::grid::{GridId, Origin};

    #[test]
    fn an_origin_means_nothing_on_another_grid() {
        let origin = Origin::new("sim.example");
        let here = OriginHash::of(&GridId::new("grid.example"), &origin);
        assert_ne!(here, OriginHash::of(&GridId::new("other.example"), &origin));
        assert_eq!(OriginHash::parse(&here.to_string()), Some(here));
        assert_eq!(OriginHash::parse("00"), None);
        assert_eq!(OriginHash::parse(&"é".repeat(16)), None);
    }

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = Digest::of(b"bytes");
        let text = DigestText(digest).to_string();
        assert_eq!(DigestText::parse(&text), Some(digest));
        assert_eq!(DigestText::parse(text.trim_start_matches("b3-")), None);
    }

    #[test]
    fn a_proof_is_of_one_principal_asset_and_content() {
        let key = |id: u128| AssetKey {
            grid: GridId::new("grid.example"),
            kind: AssetKind::Texture,
            id: AssetId(uuid::Uuid::from_u128(id)),
        };
        let digest = Digest::of(b"bytes");
        let mine = proof(&proof_key("me", &key(1), digest), b"bytes");
        assert_eq!(mine, proof(&proof_key("me", &key(1), digest), b"bytes"));
        assert_ne!(mine, proof(&proof_key("you", &key(1), digest), b"bytes"));
        assert_ne!(mine, proof(&proof_key("me", &key(2), digest), b"bytes"));
        assert_ne!(mine, proof(&proof_key("me", &key(1), digest), b"other"));
    }
}
