//! Who attested what is nobody's business for ever: some time after publication the attestations of a
//! content shrink to counts. What is served to whom stays as it was.

use std::collections::{HashMap, HashSet};

use super::record::{Attestation, Content, Count, MAX_COUNTS, Record, Tag};
use super::{Policy, reach_of};

/// For how long after its publication it is kept who attested a content: 30 days.
pub const KEPT_SECONDS: u64 = 30 * 86_400;

/// What speaks for a content, of attestations and counts that satisfy a condition.
pub(super) struct Said {
    fresh: Vec<Attestation>,
    counted: Vec<(Attestation, usize)>,
    /// Principals behind all counts together: one that attested through two origins is in two of them.
    most: usize,
}

impl Said {
    pub(super) fn of(content: &Content, valid: &dyn Fn(&Attestation) -> bool) -> Self {
        let counted = content.counts.iter().map(|count| (stand_in(content, count), count.voices.into()));
        Self {
            fresh: content.attestations.iter().filter(|attestation| valid(attestation)).cloned().collect(),
            counted: counted.filter(|(attestation, _)| valid(attestation)).collect(),
            most: content.voices.into(),
        }
    }

    fn voices_of(&self, which: impl Fn(&Attestation) -> bool) -> usize {
        let fresh: Vec<&Attestation> = self.fresh.iter().filter(|attestation| which(attestation)).collect();
        let counted: usize =
            self.counted.iter().filter(|(attestation, _)| which(attestation)).map(|(_, voices)| voices).sum();
        // Whoever is counted may have spoken again: nobody counts twice.
        voices(&fresh).max(counted.min(self.most))
    }

    /// Principals that count: distinct, and from distinct networks.
    pub(super) fn voices(&self) -> usize {
        self.voices_of(|_| true)
    }

    /// Those who had it from an asset host that the operator has named.
    pub(super) fn hosted_voices(&self) -> usize {
        self.voices_of(|attestation| attestation.asset_host)
    }

    pub(super) fn is_vouched(&self) -> bool {
        self.all().any(|attestation| attestation.vouch)
    }

    /// Through how many origins at least so many have said so. What an origin is called costs a liar nothing.
    pub(super) fn origins_with(&self, quorum: usize) -> usize {
        let mut most: HashMap<Tag, usize> = HashMap::new();
        let fresh = self.fresh.iter().map(|said| (said.origin, 1));
        let counted = self.counted.iter().map(|(said, voices)| (said.origin, *voices));
        for (origin, voices) in fresh.chain(counted) {
            if let Some(origin) = origin {
                let most = most.entry(origin).or_default();
                *most = most.saturating_add(voices);
            }
        }
        // Most have too few at first sight.
        most.retain(|_, voices| *voices >= quorum);
        let confirmed = |origin: &&Tag| self.voices_of(|said| said.origin == Some(**origin)) >= quorum;
        most.keys().filter(confirmed).count()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Attestation> {
        self.fresh.iter().chain(self.counted.iter().map(|(attestation, _)| attestation))
    }
}

fn voices(attestations: &[&Attestation]) -> usize {
    let attesters: HashSet<Tag> = attestations.iter().map(|attestation| attestation.attester).collect();
    // A household has a network of IPv4 and one of IPv6 without any cost: of the two kinds only one counts.
    let networks = |ipv6: bool| {
        let of_kind = attestations.iter().filter(|attestation| attestation.ipv6 == ipv6);
        of_kind.map(|attestation| attestation.network).collect::<HashSet<Tag>>().len()
    };
    attesters.len().min(networks(false).max(networks(true)))
}

/// A count in the form of an attestation, for the rules that look at origin, tenant and rights. Its
/// attester is nobody.
pub(super) fn stand_in(content: &Content, count: &Count) -> Attestation {
    Attestation {
        attester: Tag::default(),
        network: Tag::default(),
        ipv6: false,
        tenant: count.tenant.unwrap_or_default(),
        origin: count.origin,
        at: content.published,
        counts_from: 0,
        trusted: count.tenant.is_some(),
        vouch: count.vouch,
        asset_host: count.asset_host,
        unproven: None,
    }
}

/// Strikes out counts, as far as it is still known what they are of. Whether any was.
pub(super) fn strike(content: &mut Content, liar: &dyn Fn(&Attestation) -> bool) -> bool {
    let mut counts = std::mem::take(&mut content.counts);
    let before = counts.len();
    counts.retain(|count| !liar(&stand_in(content, count)));
    let left: usize = counts.iter().map(|count| usize::from(count.voices)).sum();
    content.voices = content.voices.min(u16::try_from(left).unwrap_or(u16::MAX));
    content.counts = counts;
    content.counts.len() != before
}

/// Makes counts of the attestations that were published long enough ago. Whether the record has changed.
pub fn fade(record: &mut Record, policy: Policy, now: u64) -> bool {
    let mut changed = false;
    for place in 0..record.contents.len() {
        let Some(content) = record.contents.get(place).filter(|content| content.stored) else { continue };
        if content.published == 0 {
            // Time alone may publish: new residents count after a day.
            let served = reach_of(record, content.digest, policy, now).any();
            if let Some(content) = record.contents.get_mut(place).filter(|_| served) {
                content.published = now;
                changed = true;
            }
            continue;
        }
        if now >= content.published.saturating_add(KEPT_SECONDS)
            && let Some(content) = record.contents.get_mut(place)
        {
            changed |= shrink(content, now);
        }
    }
    changed
}

fn shrink(content: &mut Content, now: u64) -> bool {
    let done = |attestation: &Attestation| attestation.unproven.is_none() && attestation.counts_from <= now;
    let all: Vec<Attestation> =
        content.attestations.extract_if(.., |attestation| done(attestation)).collect();
    if all.is_empty() {
        return false;
    }
    let number = |voices: usize| u16::try_from(voices).unwrap_or(u16::MAX);
    content.voices = content.voices.max(number(voices(&all.iter().collect::<Vec<_>>())));
    let kind = |attestation: &Attestation| {
        let tenant = attestation.trusted.then_some(attestation.tenant);
        (tenant, attestation.origin, attestation.vouch, attestation.asset_host)
    };
    let mut kinds: Vec<_> = all.iter().map(kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (tenant, origin, vouch, asset_host) in kinds {
        let same: Vec<&Attestation> =
            all.iter().filter(|one| kind(one) == (tenant, origin, vouch, asset_host)).collect();
        let made = Count { tenant, origin, voices: number(voices(&same)), vouch, asset_host };
        let known = content.counts.iter_mut().find(|known| {
            (known.tenant, known.origin, known.vouch, known.asset_host) == (tenant, origin, vouch, asset_host)
        });
        match known {
            Some(known) => known.voices = known.voices.max(made.voices),
            None => content.counts.push(made),
        }
    }
    // Of many the strongest are kept.
    content.counts.sort_by_key(|count| std::cmp::Reverse((count.vouch, count.asset_host, count.voices)));
    content.counts.truncate(MAX_COUNTS);
    true
}
