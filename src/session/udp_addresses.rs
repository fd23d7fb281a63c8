//! Addresses in LLUDP messages: EnableSimulator, OpenCircuit, CrossedRegion and TeleportFinish as
//! grids sent them before the event queue. Current viewers refuse these by UDP; old grids with old
//! viewers still depend on them.

use super::{Aliases, CapabilityClass};
use crate::lludp::{Packet, PacketFlags, Replacement, encode_packet, rewrite_addresses};

/// The datagram with our addresses. `None` leaves it as it is: unreadable, a placeholder, or an
/// address that may not be replaced.
pub(super) fn rewrite(
    packet: &Packet<'_>,
    scratch: &mut Vec<u8>,
    aliases: &mut dyn Aliases,
) -> Option<Vec<u8>> {
    if packet.extra_len != 0 {
        return None;
    }
    let body = packet.body(scratch).ok()?;
    let mut replace = |found: &crate::lludp::SimulatorAddress<'_>| {
        let endpoint = aliases.simulator(found.endpoint)?;
        let seed = match found.seed {
            Some(seed) if !seed.reveal().is_empty() => {
                Some(aliases.capability(CapabilityClass::Seed, seed.reveal())?)
            }
            _ => None,
        };
        Some(Replacement { endpoint, seed })
    };
    let body = rewrite_addresses(packet.number, body, &mut replace).ok()??;
    let acks: Vec<_> = packet.acks().collect();
    let zerocoded = packet.flags.contains(PacketFlags::ZEROCODED);
    Some(encode_packet(packet.flags, packet.sequence, packet.number, &body, &acks, zerocoded))
}
