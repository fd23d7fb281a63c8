//! Whom DNS names: the healthy, admitted nodes in rotating order; all but those that are meant to be away when
//! none is healthy, since a director that is wrong must not take a working service off the net.

use std::net::IpAddr;

/// A node as DNS sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its addresses, of both families.
    pub addresses: Vec<IpAddr>,
    /// The share of answers it is in, in thousandths; 0 for one that is not healthy.
    pub share: u64,
    /// Whether it is to be named at all: not in maintenance, not leaving, admitted.
    pub wanted: bool,
}

/// The addresses to be named, made anew whenever a node changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    members: Vec<(Vec<IpAddr>, u64)>,
    open: bool,
    unknown: bool,
}

impl Answers {
    /// Nobody has said yet who the members are: a resolver is to ask another name server, and not to remember that
    /// there is nobody.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { members: Vec::new(), open: false, unknown: true }
    }

    /// Whether that is so.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.unknown
    }

    /// What these members come to.
    #[must_use]
    pub fn of(members: &[Member]) -> Self {
        let wanted = || members.iter().filter(|member| member.wanted);
        let healthy: Vec<_> =
            wanted().filter(|m| m.share > 0).map(|m| (m.addresses.clone(), m.share.min(1000))).collect();
        if !healthy.is_empty() {
            return Self { members: healthy, ..Self::default() };
        }
        let members = wanted().map(|member| (member.addresses.clone(), 1000)).collect();
        Self { members, open: true, unknown: false }
    }

    /// Whether nobody is healthy, so that everybody is named.
    #[must_use]
    pub const fn failing_open(&self) -> bool {
        self.open && !self.members.is_empty()
    }

    /// The addresses of one family for the answer of this number, which grows by one with each of that family: the order
    /// rotates, and a node with half a share is in every second answer. Somebody with the full share is named
    /// always; when there is none, never nobody.
    #[must_use]
    pub fn addresses(&self, number: u64, ipv6: bool) -> Vec<IpAddr> {
        let family = |addresses: &[IpAddr]| {
            addresses.iter().copied().filter(|address| address.is_ipv6() == ipv6).collect::<Vec<_>>()
        };
        let all: Vec<_> = self
            .members
            .iter()
            .map(|(addresses, share)| (family(addresses), *share))
            .filter(|(addresses, _)| !addresses.is_empty())
            .collect();
        // Spread evenly: the n-th answer has it when n × share has passed another full thousand.
        let due = |share: u64| (number % 1000).wrapping_mul(share) % 1000 < share;
        let mut chosen: Vec<_> = all.iter().filter(|(_, share)| due(*share)).collect();
        if chosen.is_empty() {
            chosen = all.iter().collect();
        }
        if !chosen.is_empty() {
            let first = usize::try_from(number % chosen.len() as u64).unwrap_or(0);
            chosen.rotate_left(first);
        }
        chosen.into_iter().flat_map(|(addresses, _)| addresses.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::HashMap;

    use super::*;

    fn member(last: u8, share: u64, wanted: bool) -> Member {
        let v6 = format!("2001:db8::{last}").parse().unwrap();
        Member { addresses: vec![IpAddr::from([192, 0, 2, last]), v6], share, wanted }
    }

    fn counted(answers: &Answers, rounds: u64) -> HashMap<IpAddr, u64> {
        let mut counted = HashMap::new();
        for number in 0..rounds {
            for address in answers.addresses(number, false) {
                *counted.entry(address).or_default() += 1;
            }
        }
        counted
    }

    #[test]
    fn every_healthy_node_comes_first_equally_often() {
        let answers = Answers::of(&[member(1, 1000, true), member(2, 1000, true), member(3, 0, true)]);
        let mut first = HashMap::<IpAddr, u32>::new();
        for number in 0..1000 {
            let addresses = answers.addresses(number, false);
            assert_eq!(addresses.len(), 2);
            *first.entry(addresses[0]).or_default() += 1;
        }
        assert_eq!(first.into_values().collect::<Vec<_>>(), [500, 500]);
        assert!(answers.addresses(7, true).iter().all(IpAddr::is_ipv6));
    }

    #[test]
    fn a_returning_node_is_in_its_share_of_answers() {
        for share in [100, 333, 500, 999] {
            let answers = Answers::of(&[member(1, 1000, true), member(2, share, true)]);
            let counted = counted(&answers, 10_000);
            assert_eq!(counted[&IpAddr::from([192, 0, 2, 1])], 10_000);
            assert_eq!(counted[&IpAddr::from([192, 0, 2, 2])], share * 10);
        }
        // Alone it is in all of them.
        let alone = Answers::of(&[member(2, 100, true)]);
        assert_eq!(counted(&alone, 1000)[&IpAddr::from([192, 0, 2, 2])], 1000);
    }

    #[test]
    fn with_nobody_healthy_all_are_named_but_those_meant_to_be_away() {
        let answers = Answers::of(&[member(1, 0, true), member(2, 0, true), member(3, 0, false)]);
        assert!(answers.failing_open());
        assert_eq!(answers.addresses(0, false).len(), 2);
        let away = Answers::of(&[member(3, 1000, false)]);
        assert!(!away.failing_open() && away.addresses(0, false).is_empty());
        assert!(Answers::default().addresses(u64::MAX, true).is_empty());
    }
}
