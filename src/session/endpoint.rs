//! Simulator addresses as LLSD writes them, in events and in an LLSD login reply: a binary of four
//! bytes or a dotted quad, an integer or a binary port.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::grid::RegionHandle;
use crate::llsd::xml::{Scalar, ScalarKind, SpannedNode, Splices, binary_text};

/// An address and a port that stand in one map, and where.
pub(super) struct EndpointPlace<'n, 'a> {
    ip: &'n Scalar<'a>,
    port: &'n Scalar<'a>,
    pub(super) endpoint: SocketAddrV4,
}

impl<'n, 'a> EndpointPlace<'n, 'a> {
    /// `None` when either is missing, is no IPv4 address, or is a placeholder (port 0).
    pub(super) fn read(map: &'n SpannedNode<'a>, ip_key: &str, port_key: &str) -> Option<Self> {
        let ip = map.scalar(ip_key)?;
        let port = map.scalar(port_key)?;
        let endpoint = SocketAddrV4::new(ipv4(ip)?, number(port).filter(|port| *port != 0)?);
        Some(Self { ip, port, endpoint })
    }

    /// Puts another endpoint in their place, each in the form it had. `None` when the port's
    /// form has no room for it.
    pub(super) fn splice(&self, to: SocketAddrV4, splices: &mut Splices) -> Option<()> {
        let port = match self.port.kind() {
            ScalarKind::Binary => {
                let width = self.port.binary(8)?.len();
                let wide = u64::from(to.port()).to_be_bytes();
                binary_text(wide.get(8_usize.checked_sub(width.max(2))?..)?)
            }
            _ => to.port().to_string(),
        };
        let ip = match self.ip.kind() {
            ScalarKind::Binary => binary_text(&to.ip().octets()),
            _ => to.ip().to_string(),
        };
        splices.text(self.ip.place(), &ip);
        splices.text(self.port.place(), &port);
        Some(())
    }
}

/// Binary addresses are in the order of the dotted quad.
/// Source: viewer, llcommon/llsdutil.cpp (ll_ipaddr_from_sd).
fn ipv4(scalar: &Scalar<'_>) -> Option<Ipv4Addr> {
    match scalar.kind() {
        ScalarKind::Binary => <[u8; 4]>::try_from(scalar.binary(4)?).ok().map(Ipv4Addr::from),
        ScalarKind::String => scalar.text()?.trim().parse().ok(),
        _ => None,
    }
}

/// A number below 65536, as integer, text or big-endian binary.
fn number(scalar: &Scalar<'_>) -> Option<u16> {
    match scalar.kind() {
        ScalarKind::Integer | ScalarKind::String => scalar.text()?.trim().parse().ok(),
        ScalarKind::Binary => u16::try_from(big_endian(&scalar.binary(8)?)).ok(),
        _ => None,
    }
}

/// A region handle: eight bytes, big-endian.
/// Observed: OpenSimulator 0.9.2.2, fixtures/llsd/hippo-teleport-finish.xml.
pub(super) fn region_handle(map: &SpannedNode<'_>, key: &str) -> Option<RegionHandle> {
    let bytes = <[u8; 8]>::try_from(map.scalar(key)?.binary(8)?).ok()?;
    Some(RegionHandle(u64::from_be_bytes(bytes)))
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte))
}
