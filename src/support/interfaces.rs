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

/// The networks that this machine is in: an address of each, and how many of its bits are the network's.
#[must_use]
pub fn own_networks() -> Vec<(IpAddr, u8)> {
    let found = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    let networks = found.map(|interface| match interface.addr {
        if_addrs::IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
        if_addrs::IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
    });
    networks.collect()
}

/// Addresses in this order: those in one of these networks, then the others.
pub fn nearest_first(addresses: &mut [IpAddr], networks: &[(IpAddr, u8)]) {
    addresses.sort_unstable_by_key(|ip| (!networks.iter().any(|network| is_in(*ip, *network)), *ip));
}

fn is_in(ip: IpAddr, (network, bits): (IpAddr, u8)) -> bool {
    let differ = match (ip, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(bits)
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
    use super::{in_order, nearest_first};

    #[test]
    fn what_is_in_our_own_networks_comes_first() {
        let parse = |texts: &[&str]| -> Vec<std::net::IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let own = parse(&["192.168.1.7", "fd00::7"]);
        let networks = [(own[0], 24), (own[1], 64)];
        let mut told = parse(&["10.8.0.1", "172.17.0.1", "192.168.1.5", "192.168.2.5", "fd00::5", "fd01::5"]);
        nearest_first(&mut told, &networks);
        let order = ["192.168.1.5", "fd00::5", "10.8.0.1", "172.17.0.1", "192.168.2.5", "fd01::5"];
        assert_eq!(told, parse(&order));
        nearest_first(&mut told, &[(own[0], 0)]);
        assert_eq!(told[4..], parse(&["fd00::5", "fd01::5"]), "another kind of address is elsewhere");
    }

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
