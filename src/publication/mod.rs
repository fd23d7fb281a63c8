//! Which content of an asset is served to whom: the rules of publication, as pure functions over
//! what was attested. One liar publishes nothing; a lying region changes nothing for the visitors of
//! another; a quorum of liars is corrected by honest readers, or by the operator at once.

use std::collections::HashSet;

use crate::asset::Digest;

mod fading;
mod places;
mod record;

use fading::Said;
pub use fading::{KEPT_SECONDS, fade};
pub use record::{Attestation, Content, Count, MAX_ATTESTATIONS, MAX_CONTENTS, MAX_COUNTS, Record, Tag};

/// What the operator says of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether anything of it is published beyond trusted tenants.
    pub publish: bool,
    /// Principals from distinct networks that make a quorum; at least 1.
    pub confirmations: usize,
    /// One operator runs every asset host and simulator: what one of them says holds for all.
    pub central: bool,
}

/// Origins through which one principal may attest one content: more would only take others' places.
const MAX_ORIGINS: usize = 4;

/// By how many principals a digest must lead another that has reached the quorum too.
const DISPUTE_LEAD: usize = 3;

/// How long a content waits for its body.
const WAITING_SECONDS: u64 = 14 * 86_400;

/// Who reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// The reader's tenant, when its members believe one another.
    pub trusted_tenant: Option<Tag>,
    /// Where the bytes would else come from.
    pub origin: Option<Tag>,
}

/// What a reader is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The content.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Others say otherwise: the reader should let the grid win, compare and attest.
    pub verify: bool,
}

/// What becomes of an attestation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It made the content served to more readers than before.
    Published,
    /// It waits for more.
    Waiting {
        /// The body is wanted.
        want_body: bool,
    },
    /// It said nothing new.
    Known,
    /// Other content stands under this name, or this attester said something else before.
    Conflict,
    /// The asset was taken down.
    TakenDown,
    /// The proof does not show possession.
    NoProof,
}

/// Takes an attestation. With `proven` its proof was checked against the stored body, or the body
/// itself came with it.
pub fn attest(
    record: &mut Record,
    digest: Digest,
    attestation: Attestation,
    policy: Policy,
    now: u64,
) -> Verdict {
    if record.taken_down {
        return Verdict::TakenDown;
    }
    let same_voice =
        |known: &Attestation| known.attester == attestation.attester && known.origin == attestation.origin;
    let elsewhere = record
        .contents
        .iter()
        .any(|content| content.digest != digest && content.attestations.iter().any(same_voice));
    if elsewhere {
        // Its first word stands; changing one's mind is nobody's proof.
        record.conflicts = record.conflicts.saturating_add(1);
        return Verdict::Conflict;
    }
    record.contents.retain(|content| !is_forgotten(content, now));
    let before = reach(record, digest, policy, now);
    let contradicts = record.contents.iter().any(|content| content.digest != digest && content.stored);
    let Some(content) = places::content(record, digest, &attestation, policy, now) else {
        record.conflicts = record.conflicts.saturating_add(1);
        return Verdict::Conflict;
    };
    let trusted = attestation.trusted || attestation.vouch;
    if content.attestations.iter().any(same_voice) {
        let want_body = !content.stored && wants_body(content, trusted, policy);
        return if content.stored { Verdict::Known } else { Verdict::Waiting { want_body } };
    }
    let agrees = agrees_anew(content, &attestation, now);
    let heard =
        places::take(content, attestation, policy, now) || confirmed_by(content, now) >= MAX_ATTESTATIONS / 2;
    let (stored, want_body) = (content.stored, wants_body(content, trusted, policy));
    if contradicts {
        record.conflicts = record.conflicts.saturating_add(1);
    } else if agrees && heard {
        record.conflicts = 0;
    }
    let after = reach(record, digest, policy, now);
    if stored && after > before {
        note_published(record, digest, now);
        return Verdict::Published;
    }
    if !stored {
        return Verdict::Waiting { want_body };
    }
    if contradicts && after == 0 { Verdict::Conflict } else { Verdict::Waiting { want_body: false } }
}

/// The body of a content is in the store. Proofs that could not be checked before are checked now by
/// `is_proof(key, proof)`; wrong ones take their attestation with them.
pub fn body_arrived(
    record: &mut Record,
    digest: Digest,
    size: u64,
    is_proof: impl Fn(&[u8; 32], &[u8; 32]) -> bool,
    policy: Policy,
    now: u64,
) -> Verdict {
    if record.taken_down {
        return Verdict::TakenDown;
    }
    let Some(content) = record.contents.iter_mut().find(|content| content.digest == digest) else {
        return Verdict::Conflict;
    };
    let news = !content.stored;
    content.stored = true;
    content.size = size;
    content.attestations.retain_mut(|attestation| match attestation.unproven.take() {
        Some((key, proof)) => is_proof(&key, &proof),
        None => true,
    });
    match (news, reach(record, digest, policy, now)) {
        (false, _) => Verdict::Known,
        (true, 0) => Verdict::Waiting { want_body: false },
        (true, _) => {
            note_published(record, digest, now);
            Verdict::Published
        }
    }
}

fn note_published(record: &mut Record, digest: Digest, now: u64) {
    let content = record.contents.iter_mut().find(|content| content.digest == digest);
    if let Some(content) = content.filter(|content| content.published == 0) {
        content.published = now;
    }
}

/// The body of a content is not in the store after all: nobody is served it until somebody brings it
/// again. Whether it was thought to be there.
pub fn body_lost(record: &mut Record, digest: Digest) -> bool {
    let lost = record.contents.iter_mut().find(|content| content.digest == digest && content.stored);
    lost.map(|content| content.stored = false).is_some()
}

/// To whom an asset is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// To everybody on the grid.
    pub grid: bool,
    /// To visitors of so many origins.
    pub origins: usize,
    /// To members of so many trusted tenants.
    pub tenants: usize,
}

impl Reach {
    /// Whether anybody is served.
    #[must_use]
    pub const fn any(self) -> bool {
        self.grid || self.origins > 0 || self.tenants > 0
    }
}

/// To whom a content is served.
#[must_use]
pub fn reach_of(record: &Record, digest: Digest, policy: Policy, now: u64) -> Reach {
    let words = words(record);
    let all = || words.iter();
    let origins: HashSet<Tag> = all().filter_map(|attestation| attestation.origin).collect();
    let tenants: HashSet<Tag> =
        all().filter(|attestation| attestation.trusted).map(|attestation| attestation.tenant).collect();
    let served = |trusted_tenant, origin| {
        answer(record, Reader { trusted_tenant, origin }, policy, now)
            .is_some_and(|served| served.digest == digest)
    };
    let for_tenant = |tenant: &&Tag| {
        served(Some(**tenant), None) || origins.iter().any(|origin| served(Some(**tenant), Some(*origin)))
    };
    Reach {
        grid: served(None, None),
        origins: origins.iter().filter(|origin| served(None, Some(**origin))).count(),
        tenants: tenants.iter().filter(for_tenant).count(),
    }
}

/// Principals that count for a content: distinct, and from distinct networks.
#[must_use]
pub fn confirmed_by(content: &Content, now: u64) -> usize {
    Said::of(content, &counts(now)).voices()
}

/// What a reader is served; nothing when nobody, or nobody who counts, has said what the asset is.
#[must_use]
pub fn answer(record: &Record, reader: Reader, policy: Policy, now: u64) -> Option<Served> {
    if record.taken_down {
        return None;
    }
    let own = reader.trusted_tenant.and_then(|tenant| {
        let believed = |attestation: &Attestation| attestation.trusted && attestation.tenant == tenant;
        chosen(record, reader.origin, Policy { confirmations: 1, ..policy }, now, &believed)
    });
    let public = || chosen(record, reader.origin, policy, now, &|_| true);
    let (digest, differs) = own.or_else(|| policy.publish.then(public).flatten())?;
    let content = record.contents.iter().find(|content| content.digest == digest)?;
    Some(Served { digest, size: content.size, verify: differs || record.conflicts > 0 })
}

/// Whether two contents have a quorum for the same readers, so that strangers are served neither: somebody with as
/// many voices lies.
#[must_use]
pub fn is_disputed(record: &Record, policy: Policy, now: u64) -> bool {
    if record.taken_down || !policy.publish {
        return false;
    }
    let among = |counted: &dyn Fn(&Attestation) -> bool, scope: &dyn Fn(&Said) -> bool| {
        matches!(choose(record, policy, now, counted, scope), Some(Choice::Disputed))
    };
    let through = |origin: Tag| {
        among(&|attestation| attestation.origin == Some(origin) || attestation.vouch, &|_| true)
    };
    let origins: HashSet<Tag> = words(record)
        .iter()
        .filter_map(|attestation| attestation.origin)
        .filter(|_| !policy.central)
        .collect();
    among(&|_| true, &|said| is_grid_wide(said, policy)) || origins.into_iter().any(through)
}

/// Strikes out attestations; what loses its quorum by that is served no longer. Whether any was there.
pub fn distrust(record: &mut Record, liar: &dyn Fn(&Attestation) -> bool) -> bool {
    let mut any = false;
    for content in &mut record.contents {
        let before = content.attestations.len();
        content.attestations.retain(|attestation| !liar(attestation));
        any |= content.attestations.len() != before;
        any |= fading::strike(content, liar);
    }
    record.contents.retain(|content| content.stored || !content.attestations.is_empty());
    if any {
        record.conflicts = 0;
    }
    any
}

/// Whether the first who attests a content is asked for its body.
#[must_use]
pub const fn wants_first_body(trusted: bool, policy: Policy) -> bool {
    trusted || (policy.publish && policy.confirmations <= 1)
}

/// Whether the body of a content is wanted: a tenant's own at once, a stranger's when a second
/// principal has said the same.
fn wants_body(content: &Content, trusted: bool, policy: Policy) -> bool {
    if content.stored {
        return false;
    }
    wants_first_body(trusted, policy) || (policy.publish && Said::of(content, &|_| true).voices() >= 2)
}

/// Whether an attestation counts now: it is proven, and its principal has been here long enough.
fn counts(now: u64) -> impl Fn(&Attestation) -> bool {
    move |attestation| attestation.unproven.is_none() && attestation.counts_from <= now
}

/// Nobody has brought its body, and nobody has asked for it lately.
fn is_forgotten(content: &Content, now: u64) -> bool {
    let last = content.attestations.iter().map(|attestation| attestation.at).max().unwrap_or(0);
    !content.stored && content.published == 0 && now >= last.saturating_add(WAITING_SECONDS)
}

/// Whether somebody who counts says for the first time that this is the content: only that settles a
/// conflict, or the one who made it could settle it.
fn agrees_anew(content: &Content, attestation: &Attestation, now: u64) -> bool {
    let before = content.attestations.iter().any(|known| known.attester == attestation.attester);
    !before && counts(now)(attestation)
}

/// All that was said of an asset, of what is only counted too.
fn words(record: &Record) -> Vec<Attestation> {
    let words = |content: &Content| {
        let counted = content.counts.iter().map(|count| fading::stand_in(content, count));
        content.attestations.iter().cloned().chain(counted.collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    record.contents.iter().flat_map(words).collect()
}

/// To how many scopes a content is served: each origin with a quorum, and the grid.
fn reach(record: &Record, digest: Digest, policy: Policy, now: u64) -> usize {
    let words = words(record);
    let origins: HashSet<Option<Tag>> =
        words.iter().map(|attestation| attestation.origin).chain([None]).collect();
    let tenants: HashSet<Option<Tag>> = words
        .iter()
        .map(|attestation| attestation.trusted.then_some(attestation.tenant))
        .chain([None])
        .collect();
    let served = |tenant: &Option<Tag>, origin: &Option<Tag>| {
        let reader = Reader { trusted_tenant: *tenant, origin: *origin };
        answer(record, reader, policy, now).is_some_and(|served| served.digest == digest)
    };
    tenants.iter().map(|tenant| origins.iter().filter(|origin| served(tenant, origin)).count()).sum()
}

/// The content for a reader who would get the bytes from `origin`, of those that are `believed`; and
/// whether others say otherwise.
fn chosen(
    record: &Record,
    origin: Option<Tag>,
    policy: Policy,
    now: u64,
    believed: &dyn Fn(&Attestation) -> bool,
) -> Option<(Digest, bool)> {
    // Where one operator runs all, an origin is no more than a name, and its few do not outvote the many.
    let through: Option<Choice> = origin.filter(|_| !policy.central).and_then(|origin| {
        choose(
            record,
            policy,
            now,
            &|attestation| believed(attestation) && (attestation.origin == Some(origin) || attestation.vouch),
            &|_| true,
        )
    });
    let wide = choose(record, policy, now, believed, &|said| is_grid_wide(said, policy));
    match (through, wide) {
        // Who was where costs a liar nothing either. A region keeps its word, but it is not taken blindly
        // against all others: the reader is told to compare.
        (Some(Choice::One(here)), Some(Choice::One(everywhere))) => Some((here, here != everywhere)),
        (Some(Choice::One(here)), Some(Choice::Disputed)) => Some((here, true)),
        (Some(Choice::One(only)), None) | (None, Some(Choice::One(only))) => Some((only, false)),
        (Some(Choice::Disputed), _) | (None, Some(Choice::Disputed) | None) => None,
    }
}

enum Choice {
    One(Digest),
    Disputed,
}

/// The digest that has a quorum among `counted` attestations which satisfy `scope`; of several the
/// one that leads clearly.
fn choose(
    record: &Record,
    policy: Policy,
    now: u64,
    counted: &dyn Fn(&Attestation) -> bool,
    scope: &dyn Fn(&Said) -> bool,
) -> Option<Choice> {
    let mut candidates: Vec<(bool, usize, Digest)> = Vec::new();
    for content in record.contents.iter().filter(|content| content.stored) {
        let valid = |attestation: &Attestation| counts(now)(attestation) && counted(attestation);
        let said = Said::of(content, &valid);
        let (vouched, voices) = (said.is_vouched(), said.voices());
        if vouched || (voices >= policy.confirmations.max(1) && scope(&said)) {
            candidates.push((vouched, voices, content.digest));
        }
    }
    candidates.sort_by(|one, other| other.cmp(one));
    match candidates.as_slice() {
        [] => None,
        [(_, _, only)] => Some(Choice::One(*only)),
        [first, second, ..] => {
            let clear = (first.0 && !second.0)
                || (first.0 == second.0 && first.1 >= second.1.saturating_add(DISPUTE_LEAD));
            Some(if clear { Choice::One(first.2) } else { Choice::Disputed })
        }
    }
}

fn is_grid_wide(said: &Said, policy: Policy) -> bool {
    let quorum = policy.confirmations.max(1);
    policy.central || said.origins_with(quorum) >= 2 || said.hosted_voices() >= quorum
}

#[cfg(test)]
mod tests;
