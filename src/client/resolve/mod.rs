//! What the service's name stands for: asked of this system, of a name server that the user names, or of whatever
//! a test puts in.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

mod server;

/// The addresses of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// All of them, in both families.
    pub addresses: Vec<IpAddr>,
    /// How long that holds, where whoever was asked says so.
    pub ttl: Option<Duration>,
    /// The zones of addresses that are a link's own, without which they lead nowhere.
    pub zones: Vec<(Ipv6Addr, u32)>,
}

impl Resolved {
    /// The addresses with their zones, and this port.
    #[must_use]
    pub fn at(&self, port: u16) -> Vec<SocketAddr> {
        let zone = |ip| self.zones.iter().find(|(of, _)| *of == ip).map_or(0, |(_, zone)| *zone);
        let at = |ip: &IpAddr| match *ip {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, zone(ip)).into(),
        };
        self.addresses.iter().map(at).collect()
    }
}

/// What comes of asking.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Resolved>> + Send>>;

/// Knows what names stand for.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of a host. An answer without any is one.
    fn resolve(&self, host: &str) -> Resolving;
}

/// Who is asked.
#[derive(Clone, Debug, Default)]
pub enum Resolver {
    /// This system.
    #[default]
    System,
    /// The name server at this address.
    Server(SocketAddr),
    /// Somebody else.
    Other(Arc<dyn Resolve>),
}

impl PartialEq for Resolver {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System, Self::System) => true,
            (Self::Server(one), Self::Server(other)) => one == other,
            (Self::Other(one), Self::Other(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Resolver {}

impl Resolver {
    /// The addresses of a host.
    ///
    /// # Errors
    /// When there is no answer, or one that says that there is no such name.
    pub async fn resolve(&self, host: &str) -> io::Result<Resolved> {
        if let Ok(address) = host.parse() {
            return Ok(Resolved { addresses: vec![address], ..Resolved::default() });
        }
        match self {
            Self::System => {
                let mut found = Resolved::default();
                for address in tokio::net::lookup_host((host, 0)).await? {
                    found.addresses.push(address.ip());
                    if let SocketAddr::V6(v6) = address
                        && v6.scope_id() != 0
                    {
                        found.zones.push((*v6.ip(), v6.scope_id()));
                    }
                }
                Ok(found)
            }
            // That is this machine, whatever anybody else says. Source: RFC 6761, 6.3.
            Self::Server(_) if is_localhost(host) => {
                let addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                Ok(Resolved { addresses, ..Resolved::default() })
            }
            Self::Server(at) => server::ask(*at, host).await,
            Self::Other(other) => other.resolve(host).await,
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn localhost_is_this_machine_whatever_a_name_server_says() {
        // Nobody answers there: who asks gets an error.
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let resolver = Resolver::Server(nobody.local_addr().unwrap());
        for host in ["localhost", "LocalHost.", "cache.localhost"] {
            let found = resolver.resolve(host).await.unwrap();
            assert!(found.addresses.len() == 2 && found.addresses.iter().all(IpAddr::is_loopback), "{host}");
        }
        assert!(!is_localhost("localhost.example.org"));
    }

    #[test]
    fn addresses_of_a_link_keep_their_zone() {
        let link: Ipv6Addr = "fe80::1".parse().unwrap();
        let addresses = vec![link.into(), "2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let found = Resolved { addresses, ttl: None, zones: vec![(link, 3)] };
        let at: Vec<_> = found.at(8443).iter().map(ToString::to_string).collect();
        assert_eq!(at, ["[fe80::1%3]:8443", "[2001:db8::1]:8443", "192.0.2.1:8443"]);
    }
}
