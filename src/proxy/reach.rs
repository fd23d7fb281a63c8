//! Where this proxy's own connections may go: the pure rule of [`crate::session::reach`] together
//! with what only the shell knows, our own listeners and how the grid's login host resolves.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock, RwLock};

use crate::session::reach::{AddressBlock, Reach, ReachPolicy};

/// The two port spaces: equal numbers in them have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// Every address this process listens on, HTTP and UDP. A grid that names one of them would make
/// us talk to ourselves.
#[derive(Debug, Default)]
pub(super) struct OwnListeners(RwLock<HashSet<(Transport, SocketAddr)>>);

impl OwnListeners {
    pub(super) fn add(&self, transport: Transport, address: SocketAddr) {
        if let Ok(mut set) = self.0.write() {
            set.insert((transport, address));
        }
    }

    pub(super) fn remove(&self, transport: Transport, address: SocketAddr) {
        if let Ok(mut set) = self.0.write() {
            set.remove(&(transport, address));
        }
    }

    fn contains(&self, transport: Transport, address: SocketAddr) -> bool {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        // A socket bound to no address in particular is reached by every loopback address.
        let anywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        self.0.read().is_ok_and(|set| {
            set.contains(&(transport, address))
                || (address.ip().is_loopback() && set.contains(&(transport, anywhere)))
        })
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

    /// Whether the login host is known to be on this machine or in a private network.
    pub(super) fn is_private(&self) -> bool {
        self.pinned.get().is_some_and(|reach| *reach != Reach::Public)
    }

    /// Whether the grid may lead us to this address.
    pub(super) fn permits(&self, transport: Transport, address: SocketAddr) -> bool {
        let grid = self.pinned.get().copied().unwrap_or(Reach::Public);
        !self.own.contains(transport, address)
            && ReachPolicy { grid, allowed: self.allowed.clone() }.permits(address.ip())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{GridReach, OwnListeners, Transport};
    use std::sync::Arc;

    fn at(address: &str) -> std::net::SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn our_own_listeners_are_refused_even_to_a_loopback_grid() {
        let own = Arc::new(OwnListeners::default());
        own.add(Transport::Tcp, at("127.0.0.1:9079"));
        let reach = GridReach::new("127.0.0.1", Vec::new(), Arc::clone(&own));
        assert!(reach.permits(Transport::Tcp, at("127.0.0.1:9000")));
        assert!(!reach.permits(Transport::Tcp, at("127.0.0.1:9079")));
        assert!(!reach.permits(Transport::Tcp, at("[::ffff:127.0.0.1]:9079")));
        assert!(reach.permits(Transport::Udp, at("127.0.0.1:9079")), "another port space");
        own.remove(Transport::Tcp, at("127.0.0.1:9079"));
        assert!(reach.permits(Transport::Tcp, at("127.0.0.1:9079")));
    }

    #[test]
    fn a_socket_bound_to_every_address_is_ours_on_loopback_only() {
        let own = Arc::new(OwnListeners::default());
        own.add(Transport::Udp, at("0.0.0.0:13000"));
        let reach = GridReach::new("127.0.0.1", Vec::new(), own);
        assert!(!reach.permits(Transport::Udp, at("127.0.0.1:13000")));
        assert!(!reach.permits(Transport::Udp, at("127.9.9.9:13000")));
        assert!(reach.permits(Transport::Udp, at("192.168.0.1:13000")));
    }

    #[test]
    fn the_first_resolution_stays() {
        let reach = GridReach::new("grid.example", Vec::new(), Arc::default());
        assert!(!reach.is_pinned() && !reach.permits(Transport::Tcp, at("127.0.0.1:80")));
        reach.resolved(&[at("203.0.114.7:80"), at("127.0.0.1:80")]);
        reach.resolved(&[at("127.0.0.1:80")]);
        assert!(
            !reach.permits(Transport::Tcp, at("127.0.0.1:80"))
                && reach.permits(Transport::Tcp, at("203.0.114.8:80"))
        );
    }
}
