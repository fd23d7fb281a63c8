//! Which node of the array a request goes to. The service's name resolves to all nodes that are well; each is as
//! good as any other, but one that has just served a region has its assets in memory. So nodes are ranked by
//! rendezvous hashing of where an asset is from: without any state, all proxies ask the same node for the same
//! region, a node that leaves moves only what it had, and one that returns gets exactly that back.
//!
//! Of the best two the less busy is taken, so that one crowded region does not sit on one node; the next in rank
//! follows on failure. One address family is used, the other only where the first gives no connection at all.
//!
//! Knows neither sockets nor clocks: it is told what happened and when.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::asset::{AssetId, AssetKey};
use crate::grid::GridId;

/// What keeps requests together on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey([u8; 32]);

impl RouteKey {
    /// For an asset asked of an origin. On a `central` grid all come from one place, so that the first digit of
    /// the id splits them.
    #[must_use]
    pub fn new(key: &AssetKey, origin: &[u8], central: bool) -> Self {
        Self::of(&key.grid, Some(key.id), origin, central)
    }

    /// The same of what is about a grid, and perhaps one of its assets.
    #[must_use]
    pub fn of(grid: &GridId, id: Option<AssetId>, origin: &[u8], central: bool) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rezcache route v1");
        hasher.update(grid.as_str().as_bytes()).update(&[0]);
        if central {
            hasher.update(&[1, id.map_or(0, first_digit)]);
        } else {
            hasher.update(&[2]).update(origin);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// A node's rank for this key: the highest is the best.
    fn weight(&self, node: SocketAddr) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // Written out: how an address is printed is not ours to rely on. The port is part of it.
        match node.ip().to_canonical() {
            IpAddr::V4(v4) => hasher.update(&v4.octets()),
            IpAddr::V6(v6) => hasher.update(&v6.octets()),
        };
        hasher.update(&node.port().to_be_bytes());
        let mut weight = [0; 16];
        hasher.finalize_xof().fill(&mut weight);
        weight
    }
}

/// What splits the assets of a central grid.
#[must_use]
pub fn first_digit(id: AssetId) -> u8 {
    id.0.as_bytes().first().copied().unwrap_or(0) >> 4
}

/// First pause after a failure; doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a family of addresses that gave no connection is left alone, at first and at most.
const FAMILY_PAUSE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(960)];
/// The most nodes that a name may resolve to; a name server that says more is not believed.
pub const MAX_NODES: usize = 64;
/// Answers in a row that were late without any other from the node, and how long nothing has come from it: then it
/// is taken for gone. Where answers usually take no time at all, a short pause of a busy machine is not that.
const LATE: u32 = 2;
const SILENCE: Duration = Duration::from_millis(20);
/// Nodes that have missed in a row, without an answer of any, before it is the service's fault.
const SILENT_NODES: usize = 3;
/// Answers in a row that came too late, with none in time, before it is the service's fault: nodes that are slow do
/// answer, and are never gone.
const SLOW_ANSWERS: u32 = 3;
/// What asking a second node because the first is slow costs, what each request pays back of that, and the most
/// that may be owed: one in ten, and ten at once.
const HEDGE: u32 = 10;
const PAID_BACK: u32 = 1;
const MOST_OWED: u32 = 100;

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    running: usize,
    /// Since its last answer.
    failures: u32,
    late: u32,
    /// When the first of those was asked.
    late_since: Option<Instant>,
    away_until: Option<Instant>,
}

impl Node {
    /// Whether others are to be asked first. After a failure one request finds out whether the node is back, and
    /// the others do not wait for that.
    fn is_away(&self, now: Instant) -> bool {
        self.away_until.is_some_and(|until| now < until || (self.failures > 0 && self.running > 0))
    }
}

/// A family of addresses that has given no connection.
#[derive(Clone, Copy, Debug, Default)]
struct Family {
    away_until: Option<Instant>,
    pause: Duration,
}

/// The nodes that a service's name stands for.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    /// What the name resolves to, in both families.
    named: Vec<SocketAddr>,
    /// IPv4, IPv6.
    families: [Family; 2],
    six: bool,
    /// Those of the family in use.
    nodes: HashMap<SocketAddr, Node>,
    /// Those that have missed since any has answered in time.
    silent: HashSet<SocketAddr>,
    /// Answers since then, all of them late.
    slow: u32,
    owed: u32,
    /// When a node was last found to be gone.
    failed_at: Option<Instant>,
}

/// Whether an address can be a node's at all.
fn is_node(address: &SocketAddr) -> bool {
    let odd = match address.ip().to_canonical() {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_multicast(),
    };
    // Without its zone, a link's own address leads nowhere.
    let lost = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0);
    !odd && !lost && address.port() != 0
}

impl Routing {
    /// What the name resolves to now. Nodes that are no longer named are forgotten, and come back without a past.
    /// Only one family is used, the one with more nodes and IPv6 of equals: two addresses of one node would get
    /// twice its share. An answer without any node changes nothing.
    pub fn resolved(&mut self, now: Instant, addresses: &[SocketAddr]) {
        let canonical = |address: &SocketAddr| match address.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
            // With its zone.
            IpAddr::V6(_) => *address,
        };
        let mut named: Vec<SocketAddr> = addresses.iter().map(canonical).filter(is_node).collect();
        if named.is_empty() {
            return;
        }
        // In an order of our own: of too many the same ones are believed each time.
        named.sort_unstable();
        named.dedup();
        let (six, mut four): (Vec<_>, Vec<_>) = named.into_iter().partition(SocketAddr::is_ipv6);
        four.truncate(MAX_NODES);
        four.extend(six.into_iter().take(MAX_NODES));
        self.named = four;
        self.choose(now);
    }

    /// Takes the nodes of the family to use.
    fn choose(&mut self, now: Instant) {
        let count = |six: bool| self.named.iter().filter(|address| address.is_ipv6() == six).count();
        let (four, six) = (count(false), count(true));
        let away = |six: bool| self.families[usize::from(six)].away_until.filter(|until| now < *until);
        self.six = match (four, six, away(false), away(true)) {
            (_, 0, ..) => false,
            (0, ..) => true,
            (_, _, None, Some(_)) => false,
            (_, _, Some(_), None) => true,
            // Somebody has to be asked: the family that may be back first.
            (_, _, Some(four), Some(six)) => six <= four,
            _ => six >= four,
        };
        let mut nodes = HashMap::new();
        for address in self.named.iter().filter(|address| address.is_ipv6() == self.six) {
            nodes.insert(*address, self.nodes.get(address).copied().unwrap_or_default());
        }
        self.silent.retain(|node| nodes.contains_key(node));
        self.nodes = nodes;
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the name has resolved to nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many of them are not known to fail.
    #[must_use]
    pub fn well(&self, now: Instant) -> usize {
        self.nodes.values().filter(|node| node.away_until.is_none_or(|until| until <= now)).count()
    }

    /// Whether there are several nodes: the addresses of both families of one are one node.
    #[must_use]
    pub fn has_choice(&self) -> bool {
        self.nodes.len() > 1
    }

    /// Whether there is any other address to try when one gives no connection, be it in the other family.
    #[must_use]
    pub const fn has_other(&self) -> bool {
        self.named.len() > 1
    }

    /// Whether this is one of them, in the family in use.
    #[must_use]
    pub fn contains(&self, node: SocketAddr) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether a node is to be asked only after others.
    #[must_use]
    pub fn is_away(&self, now: Instant, node: SocketAddr) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.is_away(now))
    }

    /// The nodes in the order to try them. Those that have failed come last, the one that may be back first
    /// before the others: when all have failed, somebody still has to be asked.
    #[must_use]
    pub fn order(&self, now: Instant, key: &RouteKey) -> Vec<SocketAddr> {
        let (mut good, mut bad): (Vec<_>, Vec<_>) =
            self.nodes.iter().partition(|(_, node)| !node.is_away(now));
        good.sort_by_cached_key(|(address, _)| std::cmp::Reverse(key.weight(**address)));
        if let [(_, first), (_, second), ..] = good[..]
            && second.running < first.running
        {
            good.swap(0, 1);
        }
        bad.sort_unstable_by_key(|(address, node)| (node.away_until, **address));
        good.into_iter().chain(bad).map(|(address, _)| *address).collect()
    }

    /// A request to this node begins.
    pub fn begun(&mut self, node: SocketAddr) {
        self.owed = self.owed.saturating_sub(PAID_BACK);
        if let Some(node) = self.nodes.get_mut(&node) {
            node.running = node.running.saturating_add(1);
        }
    }

    /// A request to this node is over, however.
    pub fn ended(&mut self, node: SocketAddr) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.running = node.running.saturating_sub(1);
        }
    }

    /// The node has answered in time, be it that it has nothing.
    pub fn answered(&mut self, node: SocketAddr) {
        self.silent.clear();
        self.slow = 0;
        self.heard(node);
    }

    /// The node has answered, but when another was asked already or nobody waited any more: it is there, and the
    /// service is none the faster for it.
    pub fn answered_late(&mut self, node: SocketAddr) {
        self.slow = self.slow.saturating_add(1);
        self.heard(node);
    }

    /// Something has come from the node, which says nothing of how soon reads are answered.
    pub fn heard(&mut self, node: SocketAddr) {
        if let Some(node) = self.nodes.get_mut(&node) {
            *node = Node { running: node.running, ..Node::default() };
            // What has answered is no family without a connection.
            self.families[usize::from(self.six)] = Family::default();
        }
    }

    /// The node has not answered what it was asked at `asked` when others would have; whether it is taken for gone
    /// now.
    pub fn late(&mut self, now: Instant, node: SocketAddr, asked: Instant) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else { return false };
        known.late = known.late.saturating_add(1);
        let since = known.late_since.map_or(asked, |since| since.min(asked));
        known.late_since = Some(since);
        self.silent.insert(node);
        let gone = known.late >= LATE && now.saturating_duration_since(since) >= SILENCE;
        if gone {
            self.failed(now, node);
        }
        gone
    }

    /// The node gives no connection, or has broken it off.
    pub fn failed(&mut self, now: Instant, node: SocketAddr) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        self.silent.insert(node);
        (known.late, known.late_since) = (0, None);
        // Several requests that were under way at one failure are one failure.
        if known.away_until.is_none_or(|until| until <= now) {
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(known.failures.min(8));
            known.away_until = Some(now + pause.min(LONGEST_PAUSE));
            known.failures = known.failures.saturating_add(1);
            self.failed_at = Some(now);
        }
        let other = self.named.iter().any(|address| address.is_ipv6() != self.six);
        if other && self.nodes.values().all(|node| node.failures > 0) {
            let family = &mut self.families[usize::from(self.six)];
            family.pause = (family.pause * 2).clamp(FAMILY_PAUSE[0], FAMILY_PAUSE[1]);
            family.away_until = Some(now + family.pause);
            self.choose(now);
        }
    }

    /// The node says that it has no time, or that it goes: it is let alone for so long.
    pub fn busy(&mut self, now: Instant, node: SocketAddr, pause: Duration) {
        self.silent.clear();
        self.slow = 0;
        if let Some(node) = self.nodes.get_mut(&node) {
            // It is there: that is no failure.
            let away_until = Some(now + pause.clamp(FIRST_PAUSE, LONGEST_PAUSE));
            *node = Node { running: node.running, away_until, ..Node::default() };
        }
    }

    /// Whether a second node may be asked because the first is slow.
    pub const fn may_hedge(&mut self) -> bool {
        let may = self.owed + HEDGE <= MOST_OWED;
        if may {
            self.owed += HEDGE;
        }
        may
    }

    /// Whether requests are just moving away from a node that is gone.
    #[must_use]
    pub fn is_failing_over(&self, now: Instant) -> bool {
        self.failed_at.is_some_and(|at| now < at + FIRST_PAUSE)
    }

    /// Whether a miss is the service's, not one node's: so many have missed in a row, or all there are, or whoever
    /// answers does so too late.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.nodes.len() <= 1
            || self.silent.len() >= self.nodes.len().min(SILENT_NODES)
            || self.slow >= SLOW_ANSWERS
    }
}

#[cfg(test)]
mod tests;
