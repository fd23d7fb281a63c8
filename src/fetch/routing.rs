//! Which node of the array a request goes to. The service's name resolves to all nodes that are well; each is as
//! good as any other, but one that has just served a region has its assets in memory. So nodes are ranked by
//! rendezvous hashing of where an asset is from: without any state, all proxies ask the same node for the same
//! region, a node that leaves moves only what it had, and one that returns gets exactly that back.
//!
//! Of the best two the less busy is taken, so that one crowded region does not sit on one node; the next in rank
//! follows on failure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::asset::AssetKey;

/// What keeps requests together on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey([u8; 32]);

impl RouteKey {
    /// For an asset asked of an origin. On a `central` grid all come from one place, so that the first digit of
    /// the id splits them.
    #[must_use]
    pub fn new(key: &AssetKey, origin: &[u8], central: bool) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("rezcache route v1");
        hasher.update(key.grid.as_str().as_bytes()).update(&[0]);
        if central {
            let first = key.id.0.as_bytes().first().copied().unwrap_or(0) >> 4;
            hasher.update(&[1, first]);
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
            std::net::IpAddr::V4(v4) => hasher.update(&v4.octets()),
            std::net::IpAddr::V6(v6) => hasher.update(&v6.octets()),
        };
        hasher.update(&node.port().to_be_bytes());
        let mut weight = [0; 16];
        hasher.finalize_xof().fill(&mut weight);
        weight
    }
}

/// First pause after a failure; doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The most nodes that a name may resolve to; a name server that says more is not believed.
pub const MAX_NODES: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    running: usize,
    failures: u32,
    away_until: Option<Instant>,
}

/// The nodes that a service's name stands for.
#[derive(Clone, Debug, Default)]
pub struct Routing {
    nodes: HashMap<SocketAddr, Node>,
}

impl Routing {
    /// What the name resolves to now. Nodes that are no longer named are forgotten, and come back without a past.
    /// Only one family is used, the one with more nodes and IPv6 of equals: two addresses of one node would get
    /// twice its share.
    pub fn resolved(&mut self, addresses: &[SocketAddr]) {
        let six = addresses.iter().filter(|address| address.is_ipv6()).count();
        let use_six = six > 0 && six * 2 >= addresses.len();
        let mut nodes = HashMap::new();
        for address in addresses.iter().filter(|address| address.is_ipv6() == use_six).take(MAX_NODES) {
            nodes.insert(*address, self.nodes.get(address).copied().unwrap_or_default());
        }
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

    /// The nodes in the order to try them. Those that have failed come last, the one that may be back first
    /// before the others: when all have failed, somebody still has to be asked.
    #[must_use]
    pub fn order(&self, now: Instant, key: &RouteKey) -> Vec<SocketAddr> {
        let away = |node: &Node| node.away_until.is_some_and(|until| now < until);
        let (mut good, mut bad): (Vec<_>, Vec<_>) = self.nodes.iter().partition(|(_, node)| !away(node));
        good.sort_unstable_by_key(|(address, _)| std::cmp::Reverse(key.weight(**address)));
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
        if let Some(node) = self.nodes.get_mut(&node) {
            node.running = node.running.saturating_add(1);
        }
    }

    /// It is over; whether the node answered, be it that it has nothing.
    pub fn ended(&mut self, now: Instant, node: SocketAddr, answered: bool) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        node.running = node.running.saturating_sub(1);
        if answered {
            (node.failures, node.away_until) = (0, None);
            return;
        }
        // Several requests that were under way at one failure are one failure.
        if node.away_until.is_none_or(|until| until <= now) {
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(node.failures.min(8));
            node.away_until = Some(now + pause.min(LONGEST_PAUSE));
            node.failures = node.failures.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests;
