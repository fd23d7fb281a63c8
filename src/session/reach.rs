//! Where a grid may lead us.
//!
//! The addresses in login replies, events and capability URLs are the grid's word. A public grid
//! must not make the proxy open connections into the user's own network or machine; a grid at
//! home must be able to name its own simulators. What may not pass is left unrewritten, so that
//! the viewer goes there itself, as it would without us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far the grid's own login host is from us; its simulators may be as near, not nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// The login host has a public address.
    Public,
    /// The login host is in a private network.
    Private,
    /// The login host is this machine.
    Loopback,
}

impl Reach {
    /// How near an address is; `None` for addresses nobody may lead us to: unspecified,
    /// link-local, multicast, broadcast and other reserved blocks.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(v4: Ipv4Addr) -> Option<Self> {
        let [a, b, c, _] = v4.octets();
        match (a, b, c) {
            (127, ..) => Some(Self::Loopback),
            // 10/8, 172.16/12, 192.168/16 (RFC 1918) and 100.64/10 (carrier-grade NAT, RFC 6598).
            (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) => Some(Self::Private),
            // "This network", link-local, IETF assignments, benchmarking, multicast, reserved.
            (0, ..) | (169, 254, _) | (192, 0, 0) | (198, 18..=19, _) | (224..=255, ..) => None,
            _ => Some(Self::Public),
        }
    }

    fn of_v6(v6: Ipv6Addr) -> Option<Self> {
        let [first, second, ..] = v6.segments();
        if v6.is_loopback() {
            return Some(Self::Loopback);
        }
        // NAT64 and 6to4 carry an IPv4 address that a translator on the way would reach.
        let embedded = match (first, second) {
            (0x64, 0xff9b) => {
                let [.., high, low] = v6.segments();
                Some((high, low))
            }
            (0x2002, high) => Some((high, v6.segments()[2])),
            _ => None,
        };
        if let Some((high, low)) = embedded {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            return Self::of_v4(Ipv4Addr::new(a, b, c, d));
        }
        if first & 0xfe00 == 0xfc00 {
            return Some(Self::Private);
        }
        // Only global unicast is left; ::, v4-compatible, link-local, site-local, multicast are not.
        (first & 0xe000 == 0x2000).then_some(Self::Public)
    }
}

/// An address block such as `192.168.0.0/16` or `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    network: IpAddr,
    prefix_bits: u8,
}

/// Why a text is no address block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address block: write it as 192.168.0.0/16, fd00::/8, or a single address")]
pub struct AddressBlockError;

impl From<IpAddr> for AddressBlock {
    fn from(network: IpAddr) -> Self {
        Self { network, prefix_bits: if network.is_ipv4() { 32 } else { 128 } }
    }
}

impl std::str::FromStr for AddressBlock {
    type Err = AddressBlockError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = address.trim().parse().map_err(|_| AddressBlockError)?;
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            Some(prefix) => prefix.trim().parse().map_err(|_| AddressBlockError)?,
            None => widest,
        };
        (prefix_bits <= widest).then_some(Self { network, prefix_bits }).ok_or(AddressBlockError)
    }
}

impl AddressBlock {
    /// Whether the address lies in the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let shift = width - u32::from(self.prefix_bits);
            a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
        };
        match (self.network.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

/// The rule for one grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachPolicy {
    /// How near the grid's login host is.
    pub grid: Reach,
    /// Blocks that the user allows beyond the rule.
    pub allowed: Vec<AddressBlock>,
}

impl ReachPolicy {
    /// Whether the grid may lead us to this address. Our own listeners are not known here; the
    /// shell refuses them besides.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let Some(reach) = Reach::of(address) else { return false };
        reach <= self.grid || self.allowed.iter().any(|block| block.contains(address))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{AddressBlock, Reach, ReachPolicy};

    fn permits(grid: Reach, address: &str) -> bool {
        ReachPolicy { grid, allowed: Vec::new() }.permits(address.parse().unwrap())
    }

    #[test]
    fn a_public_grid_leads_to_public_addresses_only() {
        for good in ["203.0.114.5", "8.8.8.8", "2600::1", "::ffff:8.8.8.8"] {
            assert!(permits(Reach::Public, good), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "172.31.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "fec0::1",
        ] {
            assert!(!permits(Reach::Public, bad), "{bad}");
        }
    }

    #[test]
    fn a_grid_may_lead_as_near_as_it_is_itself() {
        assert!(permits(Reach::Private, "10.0.0.1") && permits(Reach::Private, "8.8.8.8"));
        assert!(!permits(Reach::Private, "127.0.0.1"));
        assert!(permits(Reach::Loopback, "127.0.0.1") && permits(Reach::Loopback, "192.168.0.9"));
        for never in ["169.254.1.1", "0.0.0.0", "239.1.1.1", "fe80::1"] {
            assert!(!permits(Reach::Loopback, never), "{never}");
        }
    }

    #[test]
    fn the_user_may_allow_more_but_never_what_is_always_refused() {
        let allowed = vec!["10.213.0.0/16".parse().unwrap(), "169.254.0.0/16".parse().unwrap()];
        let policy = ReachPolicy { grid: Reach::Public, allowed };
        assert!(policy.permits("10.213.77.2".parse().unwrap()));
        assert!(!policy.permits("10.214.0.1".parse().unwrap()));
        assert!(!policy.permits("169.254.169.254".parse().unwrap()));
    }

    #[test]
    fn address_blocks_read_what_people_write() {
        let block: AddressBlock = "0.0.0.0/0".parse().unwrap();
        assert!(block.contains("1.2.3.4".parse().unwrap()) && !block.contains("::2".parse().unwrap()));
        assert!("10.0.0.7".parse::<AddressBlock>().unwrap().contains("10.0.0.7".parse().unwrap()));
        assert!("fd00::/8".parse::<AddressBlock>().unwrap().contains("fd12::1".parse().unwrap()));
        assert!("::/0".parse::<AddressBlock>().unwrap().contains("fd12::1".parse().unwrap()));
        for bad in ["10.0.0.0/33", "x/8", "10.0.0.0/", "", "10.0.0.0/-1"] {
            assert!(bad.parse::<AddressBlock>().is_err(), "{bad}");
        }
    }
}
