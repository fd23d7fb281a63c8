//! The memory tier: whole assets, bounded in bytes, behind one short lock.
//!
//! Our own map under [`Evictor`] instead of a cache crate: bytes are counted exactly and at once,
//! a newcomer is always admitted (a viewer asks for the next range of a texture right after the
//! first), and small, often used assets are preferred just as on disk.

use std::collections::HashMap;

use bytes::Bytes;

use super::claims::{Claim, MAX_VARIANTS, Scope, choose, weakest};
use super::evict::Evictor;
use super::files::Stem;
use crate::asset::{Asset, AssetKey};
use crate::grid::Origin;

/// What an entry costs beside its body: key, claim, ranking.
const OVERHEAD: u64 = 200;

#[derive(Debug)]
struct Variant {
    claim: Claim,
    bytes: Bytes,
}

#[derive(Debug)]
struct Held {
    stem: Stem,
    variants: Vec<Variant>,
    /// No other content of this key exists elsewhere in the store.
    all_known: bool,
}

impl Held {
    fn cost(&self) -> u64 {
        self.variants.iter().map(|variant| variant.bytes.len() as u64 + OVERHEAD).sum()
    }
}

/// Whole assets in memory.
#[derive(Debug)]
pub(super) struct MemoryTier {
    held: HashMap<AssetKey, Held>,
    evictor: Evictor<AssetKey>,
    used: u64,
    cap: u64,
}

impl MemoryTier {
    pub(super) fn new(cap: u64) -> Self {
        Self { held: HashMap::new(), evictor: Evictor::new(), used: 0, cap }
    }

    /// The asset a request gets, and the name under which its use is counted on disk too.
    pub(super) fn get(&mut self, key: &AssetKey, scope: &Scope) -> Option<(Asset, Stem)> {
        let held = self.held.get(key)?;
        let claims: Vec<&Claim> = held.variants.iter().map(|variant| &variant.claim).collect();
        let variant = held.variants.get(choose(&claims, scope, held.all_known)?)?;
        let found = (Asset { digest: variant.claim.digest, bytes: variant.bytes.clone() }, held.stem);
        self.evictor.touch(key);
        Some(found)
    }

    /// Takes what an origin supplied just now; outranks whatever that origin supplied before.
    /// `alone`: nothing else of this key is stored or waits to be.
    pub(super) fn put(&mut self, key: &AssetKey, stem: Stem, claim: Claim, bytes: Bytes, alone: bool) {
        let mut held = self.take(key).unwrap_or(Held { stem, variants: Vec::new(), all_known: alone });
        for variant in held.variants.iter_mut().filter(|variant| variant.claim.digest != claim.digest) {
            for origin in &claim.origins {
                variant.claim.withdraw(origin);
            }
        }
        held.variants.retain(|variant| !variant.claim.origins.is_empty());
        self.add(key, held, claim, bytes);
    }

    /// Takes an origin's word back.
    pub(super) fn withdraw(&mut self, key: &AssetKey, origin: &Origin) {
        let Some(mut held) = self.take(key) else { return };
        held.variants.retain_mut(|variant| {
            variant.claim.withdraw(origin);
            !variant.claim.origins.is_empty()
        });
        held.all_known = false;
        self.insert(key, held);
    }

    /// Takes what was read from disk; never outranks what is here. `alone`: the disk has no other
    /// content of this key.
    pub(super) fn promote(
        &mut self,
        key: &AssetKey,
        stem: Stem,
        mut claim: Claim,
        bytes: Bytes,
        alone: bool,
    ) {
        let mut held = self.take(key).unwrap_or(Held { stem, variants: Vec::new(), all_known: alone });
        held.all_known |= alone;
        claim.origins.retain(|origin| {
            !held
                .variants
                .iter()
                .any(|other| other.claim.digest != claim.digest && other.claim.is_from(origin))
        });
        if claim.origins.is_empty() {
            self.insert(key, held);
        } else {
            self.add(key, held, claim, bytes);
        }
    }

    fn add(&mut self, key: &AssetKey, mut held: Held, claim: Claim, bytes: Bytes) {
        if let Some(same) = held.variants.iter_mut().find(|variant| variant.claim.digest == claim.digest) {
            for origin in &claim.origins {
                same.claim.add(origin);
            }
        } else if self.admits(bytes.len() as u64) {
            if held.variants.len() >= MAX_VARIANTS {
                let claims: Vec<&Claim> = held.variants.iter().map(|variant| &variant.claim).collect();
                if let Some(index) = weakest(&claims) {
                    held.variants.swap_remove(index);
                }
                held.all_known = false;
            }
            held.variants.push(Variant { claim, bytes });
        } else {
            held.all_known = false;
        }
        self.insert(key, held);
    }

    /// Whether a body of this length is kept at all: one mesh must not push out a whole region.
    fn admits(&self, len: u64) -> bool {
        len.saturating_add(OVERHEAD) <= self.cap / 8
    }

    /// Takes an entry out without forgetting how often it was used.
    fn take(&mut self, key: &AssetKey) -> Option<Held> {
        let held = self.held.remove(key)?;
        self.used = self.used.saturating_sub(held.cost());
        Some(held)
    }

    fn insert(&mut self, key: &AssetKey, held: Held) {
        let cost = held.cost();
        if held.variants.is_empty() {
            self.evictor.forget(key);
            return;
        }
        while self.used.saturating_add(cost) > self.cap {
            // The entry in hand may be ranked from before; it is not in `held`, so passing it is free.
            let Some(gone) = self.evictor.evict() else { break };
            self.take(&gone);
        }
        if self.used.saturating_add(cost) > self.cap {
            self.evictor.forget(key);
            return;
        }
        self.used += cost;
        self.evictor.insert(key.clone(), cost);
        self.held.insert(key.clone(), held);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.cap);
    }

    /// Entries, and the bytes they take.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.held.len() as u64, self.used)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use bytes::Bytes;

    use super::MemoryTier;
    use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
    use crate::cache::claims::{Claim, Scope};
    use crate::cache::files::Stem;
    use crate::grid::{GridId, Origin};

    fn key(number: u128) -> AssetKey {
        let id = AssetId(uuid::Uuid::from_u128(number));
        AssetKey { grid: GridId::new("grid"), kind: AssetKind::Texture, id }
    }

    fn at(origin: &str) -> Scope {
        Scope { origin: Origin::new(origin), central: false }
    }

    fn put(tier: &mut MemoryTier, number: u128, origin: &str, content: &'static [u8], alone: bool) {
        let claim = Claim::new(Digest::of(content), Origin::new(origin), 0);
        tier.put(&key(number), Stem::of(&key(number)), claim, Bytes::from_static(content), alone);
    }

    fn got(tier: &mut MemoryTier, number: u128, origin: &str) -> Option<Bytes> {
        tier.get(&key(number), &at(origin)).map(|(asset, _)| asset.bytes)
    }

    #[test]
    fn the_cap_is_never_passed_and_the_newcomer_stays() {
        let mut tier = MemoryTier::new(10_000);
        for number in 0..100 {
            put(&mut tier, number, "a", &[7; 900], true);
            assert!(tier.size().1 <= 10_000);
            assert!(got(&mut tier, number, "a").is_some());
        }
        put(&mut tier, 100, "a", &[7; 2000], true);
        assert!(got(&mut tier, 100, "a").is_none(), "over an eighth of the tier");
    }

    #[test]
    fn an_origin_that_changes_its_word_gets_the_new_content() {
        let mut tier = MemoryTier::new(1 << 20);
        put(&mut tier, 1, "a", b"old", true);
        put(&mut tier, 1, "b", b"old", false);
        put(&mut tier, 1, "a", b"new", false);
        assert_eq!(got(&mut tier, 1, "a").unwrap(), "new");
        assert_eq!(got(&mut tier, 1, "b").unwrap(), "old");
        assert_eq!(got(&mut tier, 1, "c"), None);
    }

    #[test]
    fn nothing_is_grid_wide_while_the_disk_may_know_better() {
        let mut tier = MemoryTier::new(1 << 20);
        put(&mut tier, 1, "a", b"same", false);
        put(&mut tier, 1, "b", b"same", false);
        assert_eq!(got(&mut tier, 1, "c"), None);
        let claim = Claim::new(Digest::of(b"same"), Origin::new("a"), 0);
        tier.promote(&key(1), Stem::of(&key(1)), claim, Bytes::from_static(b"same"), true);
        assert_eq!(got(&mut tier, 1, "c").unwrap(), "same");
    }

    #[test]
    fn what_comes_from_disk_does_not_outrank_a_newer_word() {
        let mut tier = MemoryTier::new(1 << 20);
        put(&mut tier, 1, "a", b"new", true);
        let claim = Claim::new(Digest::of(b"old"), Origin::new("a"), 0);
        tier.promote(&key(1), Stem::of(&key(1)), claim, Bytes::from_static(b"old"), true);
        assert_eq!(got(&mut tier, 1, "a").unwrap(), "new");
    }
}
