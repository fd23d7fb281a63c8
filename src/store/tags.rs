//! The names under which a service knows assets and people: hashes keyed with its secret. That of a
//! person or an origin is made for one asset alone, so that two records tell nobody whether the same one is
//! in both.

use super::keys::KeyRing;
use crate::asset::{AssetKey, Digest};
use crate::publication::Tag;
use crate::wire;

/// What a tag stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Who attests.
    Attester,
    /// The network it comes from.
    Network,
    /// Its tenant.
    Tenant,
    /// Who delivered the bytes.
    Origin,
}

impl Purpose {
    const fn name(self) -> &'static str {
        match self {
            Self::Attester => "attester",
            Self::Network => "network",
            Self::Tenant => "tenant",
            Self::Origin => "origin",
        }
    }
}

/// What the catalog calls an asset.
#[must_use]
pub fn asset(ring: &KeyRing, key: &AssetKey) -> [u8; 32] {
    ring.keyed_hash("asset key", &[&wire::key_bytes(key)])
}

/// What the catalog calls the tombstone of a content that was taken down.
#[must_use]
pub fn content(ring: &KeyRing, digest: Digest) -> [u8; 32] {
    ring.keyed_hash("taken down content", &[&digest.0])
}

/// What the record of the asset `hash` calls somebody or something.
#[must_use]
pub fn tag(ring: &KeyRing, purpose: Purpose, hash: &[u8; 32], what: &[u8]) -> Tag {
    let full = ring.keyed_hash(purpose.name(), &[hash, what]);
    let mut tag = [0; 16];
    tag.iter_mut().zip(full).for_each(|(place, byte)| *place = byte);
    tag
}

#[cfg(test)]
mod tests {
    use super::{Purpose, tag};
    use crate::store::keys::KeyRing;

    #[test]
    fn a_tag_means_nothing_in_another_record_or_for_another_purpose() {
        let ring = KeyRing::new([1; 32], [2; 32]);
        let one = tag(&ring, Purpose::Attester, &[1; 32], b"somebody");
        assert_eq!(one, tag(&ring.clone().with_new_key([9; 32]), Purpose::Attester, &[1; 32], b"somebody"));
        assert_ne!(one, tag(&ring, Purpose::Attester, &[2; 32], b"somebody"));
        assert_ne!(one, tag(&ring, Purpose::Tenant, &[1; 32], b"somebody"));
        assert_ne!(one, tag(&ring, Purpose::Attester, &[1; 32], b"somebody else"));
        assert_ne!(one, tag(&KeyRing::new([3; 32], [2; 32]), Purpose::Attester, &[1; 32], b"somebody"));
    }
}
