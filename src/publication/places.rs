//! Room in a record is bounded, and strangers may fill it: who gives way to whom.

use std::cmp::Reverse;

use super::fading::Said;
use super::record::{Attestation, Content, MAX_ATTESTATIONS, MAX_CONTENTS, Record};
use super::{DISPUTE_LEAD, MAX_ORIGINS, Policy, confirmed_by, counts, reach_of};
use crate::asset::Digest;

/// Whom the operator knows come before strangers.
const fn rank(attestation: &Attestation) -> u8 {
    if attestation.vouch {
        2
    } else if attestation.trusted {
        1
    } else {
        0
    }
}

fn rank_of(content: &Content) -> u8 {
    Said::of(content, &|_| true).all().map(rank).max().unwrap_or(0)
}

/// The place of a content in the record, one that is made if need be. `None` when all are taken.
pub(super) fn content<'a>(
    record: &'a mut Record,
    digest: Digest,
    newcomer: &Attestation,
    policy: Policy,
    now: u64,
) -> Option<&'a mut Content> {
    if !record.contents.iter().any(|content| content.digest == digest) {
        if record.contents.len() >= MAX_CONTENTS {
            let weak = weakest(record, newcomer, policy, now)?;
            record.contents.remove(weak);
        }
        record.contents.push(Content::new(digest));
    }
    record.contents.iter_mut().find(|content| content.digest == digest)
}

/// The content that makes room. Only voices that are proven and count protect it: any number of strangers
/// can name a digest of nothing.
fn weakest(record: &Record, newcomer: &Attestation, policy: Policy, now: u64) -> Option<usize> {
    let yields = |content: &Content| {
        if rank_of(content) >= rank(newcomer).max(1) {
            return false;
        }
        let reach = reach_of(record, content.digest, policy, now);
        // Not even those the operator trusts take from others what they are served.
        match rank(newcomer) {
            2.. => true,
            1 => !reach.any(),
            0 => !reach.any() && confirmed_by(content, now) < 2,
        }
    };
    let weak = record.contents.iter().enumerate().filter(|(_, content)| yields(content));
    let weakness = |content: &Content| {
        let others = content.attestations.iter().any(|known| known.attester != newcomer.attester);
        let last = content.attestations.iter().map(|known| known.at).max();
        // Its own earlier claims first: alone it drives out nobody else's.
        (others || !content.counts.is_empty(), content.stored, confirmed_by(content, now), last)
    };
    weak.min_by_key(|(_, content)| weakness(content)).map(|(place, _)| place)
}

/// Notes an attestation; when there is no place left, instead of one that weighs less. Whether it is noted.
pub(super) fn take(content: &mut Content, newcomer: Attestation, policy: Policy, now: u64) -> bool {
    let list = &content.attestations;
    if list.iter().filter(|known| known.attester == newcomer.attester).count() >= MAX_ORIGINS {
        return false;
    }
    if list.len() >= MAX_ATTESTATIONS {
        let crowd = |of: &Attestation| list.iter().filter(|known| known.network == of.network).count();
        let idle = |known: &Attestation| !policy.publish || !counts(now)(known);
        let gives_way = |place: usize, known: &Attestation| match (rank(&newcomer), rank(known)) {
            (2.., below) => below < 2,
            (1, 0) => idle(known) || is_spare(content, place, policy, now),
            (0, 0) => {
                (known.unproven.is_some() && newcomer.unproven.is_none())
                    || (crowd(known) > crowd(&newcomer) + 1
                        && (idle(known) || is_spare(content, place, policy, now)))
            }
            (_, 1..) => false,
        };
        let weight = |known: &Attestation| {
            (Reverse(rank(known)), known.unproven.is_some(), known.counts_from > now, crowd(known))
        };
        let lighter = list.iter().enumerate().filter(|(place, known)| gives_way(*place, known));
        let Some((place, _)) = lighter.max_by_key(|(_, known)| weight(known)) else { return false };
        content.attestations.remove(place);
    }
    content.attestations.push(newcomer);
    true
}

/// Whether the content stands as it does without one of its attestations: for all, for the visitors of its
/// origin, and for those of asset hosts.
fn is_spare(content: &Content, place: usize, policy: Policy, now: u64) -> bool {
    let Some(origin) = content.attestations.get(place).map(|known| known.origin) else { return false };
    let mut without = content.clone();
    without.attestations.remove(place);
    let voices = |content: &Content| {
        let through = |known: &Attestation| counts(now)(known) && known.origin == origin;
        let (all, through) = (Said::of(content, &counts(now)), Said::of(content, &through));
        [all.voices(), all.hosted_voices(), through.voices()]
    };
    let enough = policy.confirmations.max(1).saturating_add(DISPUTE_LEAD);
    voices(content).iter().zip(voices(&without)).all(|(before, after)| after >= (*before).min(enough))
}
