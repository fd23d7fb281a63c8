//! Where this proxy's own connections may go: the pure rule of [`crate::session::reach`] together
//! with what only the shell knows, our own listeners and how the grid's login host resolves.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, RwLock};

use crate::session::reach::{AddressBlock, Reach, ReachPolicy};

/// Every address this process listens on, HTTP and UDP. A grid that names one of them would make
/// us talk to ourselves.
#[derive(Debug, Default)]
pub(super) struct OwnListeners(RwLock<HashSet<SocketAddr>>);

impl OwnListeners {
    pub(super) fn add(&self, address: SocketAddr) {
        if let Ok(mut set) = self.0.write() {
            set.insert(address);
        }
    }

    pub(super) fn remove(&self, address: SocketAddr) {
        if let Ok(mut set) = self.0.write() {
            set.remove(&address);
        }
    }

    fn contains(&self, address: SocketAddr) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.0.read().is_ok_and(|set| set.contains(&address))
    }
}

/// The rule for one grid, complete once the grid's login host has been resolved. The first answer
/// stays for the life of the process, so that a name which later resolves to a nearer address
/// gains nothing.
#[derive(Debug)]
pub(super) struct GridReach {
    allowed: Vec<AddressBlock>,
    pinned: OnceLock<Reach>,
    own: Arc<OwnListeners>,
}

impl GridReach {
    /// A rule for a grid whose login host is `host`; literal addresses and names that are local
    /// by definition are decided at once.
    pub(super) fn new(host: &str, allowed: Vec<AddressBlock>, own: Arc<OwnListeners>) -> Self {
        let this = Self { allowed, pinned: OnceLock::new(), own };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let known = match bare.parse::<IpAddr>() {
            Ok(address) => Some(Reach::of(address).unwrap_or(Reach::Public)),
            Err(_) if bare == "localhost" || bare.ends_with(".localhost") => Some(Reach::Loopback),
            Err(_) if bare.ends_with(".local") => Some(Reach::Private),
            Err(_) => None,
        };
        if let Some(reach) = known {
            let _ = this.pinned.set(reach);
        }
        this
    }

    /// Notes what the login host resolved to; the farthest of its addresses counts, so that one
    /// public address among them keeps the grid public.
    pub(super) fn resolved(&self, addresses: &[SocketAddr]) {
        if let Some(farthest) = addresses.iter().filter_map(|address| Reach::of(address.ip())).min() {
            let _ = self.pinned.set(farthest);
        }
    }

    /// Whether a lookup of the login host is still needed before anything can be decided.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned.get().is_some()
    }

    /// Whether the grid may lead us to this address.
    pub(super) fn permits(&self, address: SocketAddr) -> bool {
        let grid = self.pinned.get().copied().unwrap_or(Reach::Public);
        !self.own.contains(address)
            && ReachPolicy { grid, allowed: self.allowed.clone() }.permits(address.ip())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{GridReach, OwnListeners};
    use std::sync::Arc;

    fn at(address: &str) -> std::net::SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn our_own_listeners_are_refused_even_to_a_loopback_grid() {
        let own = Arc::new(OwnListeners::default());
        own.add(at("127.0.0.1:9079"));
        let reach = GridReach::new("127.0.0.1", Vec::new(), Arc::clone(&own));
        assert!(reach.permits(at("127.0.0.1:9000")));
        assert!(!reach.permits(at("127.0.0.1:9079")));
        assert!(!reach.permits(at("[::ffff:127.0.0.1]:9079")));
        own.remove(at("127.0.0.1:9079"));
        assert!(reach.permits(at("127.0.0.1:9079")));
    }

    #[test]
    fn the_first_resolution_stays() {
        let reach = GridReach::new("grid.example", Vec::new(), Arc::default());
        assert!(!reach.is_pinned() && !reach.permits(at("127.0.0.1:80")));
        reach.resolved(&[at("203.0.114.7:80"), at("127.0.0.1:80")]);
        reach.resolved(&[at("127.0.0.1:80")]);
        assert!(!reach.permits(at("127.0.0.1:80")) && reach.permits(at("203.0.114.8:80")));
    }
}
