//! The addresses that this machine has in private networks.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::token::join::is_home;

/// More than any box in a home has.
const MAX_ADDRESSES: usize = 16;
/// How the interfaces of virtual machines, containers and tunnels are called: others in the household do
/// not reach this machine there.
const VIRTUAL: [&str; 14] = [
    "docker",
    "br-",
    "virbr",
    "veth",
    "vmnet",
    "vboxnet",
    "virtualbox",
    "vethernet",
    "lxc",
    "tun",
    "tap",
    "wg",
    "zt",
    "tailscale",
];

/// The addresses of this machine in private networks, the one that others are most likely to reach first.
/// Without loopback.
///
/// # Errors
/// When the system does not tell.
pub fn private_addresses() -> io::Result<Vec<IpAddr>> {
    let found = if_addrs::get_if_addrs()?
        .into_iter()
        .filter(|interface| !interface.is_loopback())
        .map(|interface| (interface.name.clone(), interface.ip()))
        .collect();
    Ok(in_order(found, outward()))
}

/// The private ones of these, the best first. `outward` is where this machine's way out begins.
fn in_order(found: Vec<(String, IpAddr)>, outward: Option<IpAddr>) -> Vec<IpAddr> {
    let mut found: Vec<(u8, IpAddr)> = found
        .into_iter()
        .filter(|(_, ip)| is_home(*ip) && !ip.is_loopback())
        .map(|(name, ip)| {
            let name = name.to_ascii_lowercase();
            let rank = match ip {
                ip if outward == Some(ip) => 0,
                _ if VIRTUAL.iter().any(|begin| name.starts_with(begin)) => 4,
                IpAddr::V4(v4) if v4.is_link_local() => 3,
                IpAddr::V4(_) => 1,
                IpAddr::V6(_) => 2,
            };
            (rank, ip)
        })
        .collect();
    found.sort_unstable();
    found.dedup_by_key(|(_, ip)| *ip);
    found.into_iter().map(|(_, ip)| ip).take(MAX_ADDRESSES).collect()
}

/// The address that this machine would send from to the Internet. Nothing is sent.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Any public address will do. This one is for documentation.
    socket.connect((std::net::Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    socket.local_addr().ok().map(|local: SocketAddr| local.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::in_order;

    #[test]
    fn only_private_addresses_and_those_that_others_reach_first() {
        let found: Vec<_> = [
            ("docker0", "172.17.0.1"),
            ("eth1", "203.0.113.5"),
            ("eth0", "fe80::1"),
            ("eth0", "fd00::5"),
            ("eth0", "2001:db8::5"),
            ("lo", "127.0.0.1"),
            ("wlan0", "192.168.1.5"),
            ("eth2", "169.254.3.3"),
            ("eth0", "10.0.0.5"),
            ("eth0:1", "10.0.0.5"),
        ]
        .map(|(name, ip)| (name.to_owned(), ip.parse().unwrap()))
        .into();
        let best = |outward: Option<&str>| -> Vec<String> {
            let order = in_order(found.clone(), outward.map(|ip| ip.parse().unwrap()));
            order.iter().map(ToString::to_string).collect()
        };
        let rest = ["fd00::5", "169.254.3.3", "172.17.0.1"];
        assert_eq!(best(None), [&["10.0.0.5", "192.168.1.5"][..], &rest].concat());
        assert_eq!(best(Some("192.168.1.5")), [&["192.168.1.5", "10.0.0.5"][..], &rest].concat());
        assert_eq!(best(Some("203.0.113.5")), best(None), "a way out that is not private is none of ours");
    }
}
