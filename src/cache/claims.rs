//! Who said what: the origins that supplied a content, and which content a request may get.
//!
//! Anyone may attach a simulator to some grids. What one origin supplied is served to requests
//! that would go to that origin; it is served grid-wide once two origins supplied the same bytes,
//! or when the grid has one asset service (a central grid).

use crate::asset::Digest;
use crate::grid::Origin;

/// Origins remembered for one content.
pub(super) const MAX_ORIGINS: usize = 4;
/// Conflicting contents kept for one key.
pub(super) const MAX_VARIANTS: usize = 4;
/// Bytes of a host name that fit a header.
pub(super) const MAX_NAME: usize = 255;

/// Where a request would go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The host that would answer it.
    pub origin: Origin,
    /// Whether all hosts of this grid speak for one asset service.
    pub central: bool,
}

/// One content of a key, and who supplied it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) digest: Digest,
    /// Distinct, at most [`MAX_ORIGINS`].
    pub(super) origins: Vec<Origin>,
    /// When it was stored, in seconds since 1970.
    pub(super) stored: u64,
}

impl Claim {
    pub(super) fn new(digest: Digest, origin: Origin, stored: u64) -> Self {
        Self { digest, origins: vec![origin], stored }
    }

    pub(super) fn is_from(&self, origin: &Origin) -> bool {
        self.origins.contains(origin)
    }

    /// The claim as it will be once these newer words are written.
    pub(super) fn without(&self, words: &[(Origin, Digest)]) -> Self {
        let mut claim = self.clone();
        for (origin, digest) in words {
            if *digest != claim.digest {
                claim.withdraw(origin);
            }
        }
        claim
    }

    fn is_grid_wide(&self) -> bool {
        self.origins.len() >= 2
    }

    /// Adds an origin. `false` when nothing changes: it is known, or there is no place for it.
    pub(super) fn add(&mut self, origin: &Origin) -> bool {
        let new = !self.is_from(origin) && self.origins.len() < MAX_ORIGINS;
        if new {
            self.origins.push(origin.clone());
        }
        new
    }

    /// Takes an origin's word back. `true` when it had given it.
    pub(super) fn withdraw(&mut self, origin: &Origin) -> bool {
        let before = self.origins.len();
        self.origins.retain(|known| known != origin);
        self.origins.len() < before
    }
}

/// Which of the contents of one key a request gets.
///
/// `all_known` says that `claims` are all there are; without that, nobody can tell whether the
/// request's own origin has supplied something else, so nothing is served grid-wide.
pub(super) fn choose(claims: &[&Claim], scope: &Scope, all_known: bool) -> Option<usize> {
    if let Some(own) = claims.iter().position(|claim| claim.is_from(&scope.origin)) {
        return Some(own);
    }
    if scope.central {
        return claims.iter().enumerate().max_by_key(|(_, claim)| claim.stored).map(|(index, _)| index);
    }
    let mut grid_wide = claims.iter().enumerate().filter(|(_, claim)| claim.is_grid_wide());
    match (all_known, grid_wide.next(), grid_wide.next()) {
        // Two contents, each with two witnesses: neither is more true than the other.
        (true, Some((index, _)), None) => Some(index),
        _ => None,
    }
}

/// The content that has to go when a key has too many: the one fewest vouch for, then the oldest.
pub(super) fn weakest(claims: &[&Claim]) -> Option<usize> {
    claims.iter().enumerate().min_by_key(|(_, claim)| (claim.origins.len(), claim.stored)).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::{Claim, Scope, choose, weakest};
    use crate::asset::Digest;
    use crate::grid::Origin;

    fn claim(content: u8, origins: &[&str], stored: u64) -> Claim {
        Claim {
            digest: Digest([content; 32]),
            origins: origins.iter().map(|name| Origin::new(name)).collect(),
            stored,
        }
    }

    fn pick(claims: &[Claim], origin: &str, central: bool, all_known: bool) -> Option<usize> {
        let claims: Vec<&Claim> = claims.iter().collect();
        choose(&claims, &Scope { origin: Origin::new(origin), central }, all_known)
    }

    #[test]
    fn one_origin_speaks_only_for_itself() {
        let claims = [claim(1, &["a"], 0)];
        assert_eq!(pick(&claims, "a", false, true), Some(0));
        assert_eq!(pick(&claims, "b", false, true), None);
        assert_eq!(pick(&claims, "b", true, true), Some(0));
    }

    #[test]
    fn two_origins_speak_for_the_grid_unless_the_asker_said_otherwise() {
        let claims = [claim(1, &["a", "b"], 0), claim(2, &["c"], 1)];
        assert_eq!(pick(&claims, "d", false, true), Some(0));
        assert_eq!(pick(&claims, "c", false, true), Some(1));
        assert_eq!(pick(&claims[..1], "c", false, false), None, "another variant may be c's");
    }

    #[test]
    fn two_grid_wide_contents_cancel_each_other_for_third_parties() {
        let claims = [claim(1, &["a", "b"], 0), claim(2, &["c", "d"], 1)];
        assert_eq!(pick(&claims, "e", false, true), None);
        assert_eq!(pick(&claims, "e", true, true), Some(1), "a central grid: the newest");
    }

    #[test]
    fn the_content_with_the_fewest_witnesses_goes_first() {
        let claims = [claim(1, &["a", "b"], 0), claim(2, &["c"], 9), claim(3, &["d"], 5)];
        assert_eq!(weakest(&claims.iter().collect::<Vec<_>>()), Some(2));
    }

    #[test]
    fn a_claim_holds_four_origins() {
        let mut claim = claim(1, &["a", "b", "c", "d"], 0);
        assert!(!claim.add(&Origin::new("e")));
        assert!(claim.withdraw(&Origin::new("A")));
        assert!(claim.add(&Origin::new("e")));
        assert!(!claim.add(&Origin::new("e")));
    }
}
