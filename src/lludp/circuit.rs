//! The messages that open, keep, move and close circuits.
//!
//! Those that name a simulator's address are also rewritten in place: [`rewrite_addresses`].
//! Source for all layouts: Second Life, `message_template.msg`.

use super::error::DecodeError;
use super::fields::{Fields, MessageBody, Port, Variable1, Variable2, single_block_message};
use super::header::SequenceNumber;
use super::number::MessageNumber;
use crate::grid::{AgentId, CircuitCode, RegionHandle, SessionId};
use crate::redact::Redacted;
use std::net::Ipv4Addr;
use uuid::Uuid;

mod addresses;

pub use addresses::{Replacement, SimulatorAddress, rewrite_addresses};

/// Acknowledges packets of the other direction by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketAck<'a> {
    packets: &'a [u8],
}

impl<'a> PacketAck<'a> {
    /// Most numbers one message holds.
    pub const MAX_IDS: usize = 255;

    /// The acknowledged numbers; little-endian here, unlike those in an ack trailer.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = SequenceNumber> + use<'a> {
        let (ids, _) = self.packets.as_chunks::<4>();
        ids.iter().map(|id| SequenceNumber(u32::from_le_bytes(*id)))
    }

    /// Appends a body that acknowledges `ids` and returns those beyond [`Self::MAX_IDS`].
    pub fn write_ids<'i>(ids: &'i [SequenceNumber], out: &mut Vec<u8>) -> &'i [SequenceNumber] {
        let (taken, left) = ids.split_at_checked(Self::MAX_IDS).unwrap_or((ids, &[]));
        out.push(u8::try_from(taken.len()).unwrap_or(u8::MAX));
        for id in taken {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
        left
    }
}

impl<'a> MessageBody<'a> for PacketAck<'a> {
    const NUMBER: MessageNumber = MessageNumber::PACKET_ACK;

    fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self { packets: Fields::new(body).read_block("Packets", 4)? })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::try_from(self.packets.len() / 4).unwrap_or(u8::MAX));
        out.extend_from_slice(self.packets);
    }
}

single_block_message! {
    /// Tells a viewer of a circuit to another simulator; obsolete, and refused by viewers over UDP.
    OpenCircuit = OPEN_CIRCUIT {
        /// The simulator's address.
        ip / "IP": Ipv4Addr,
        /// And port.
        port / "Port": Port,
    }
}

single_block_message! {
    /// The sender's last word on this circuit.
    CloseCircuit = CLOSE_CIRCUIT {}
}

single_block_message! {
    /// Asks for a [`CompletePingCheck`].
    StartPingCheck = START_PING_CHECK {
        /// To be repeated in the answer.
        ping / "PingID": u8,
        /// The oldest packet the sender still wants acknowledged, or its newest when none is.
        oldest_unacked / "OldestUnacked": SequenceNumber,
    }
}

single_block_message! {
    /// Answers a [`StartPingCheck`].
    CompletePingCheck = COMPLETE_PING_CHECK {
        /// As asked.
        ping / "PingID": u8,
    }
}

single_block_message! {
    /// The viewer opens a circuit.
    UseCircuitCode = USE_CIRCUIT_CODE {
        /// As the login reply gave it.
        code / "Code": Redacted<CircuitCode>,
        /// As the login reply gave it.
        session / "SessionID": SessionId,
        /// Whose circuit this is.
        agent / "ID": AgentId,
    }
}

single_block_message! {
    /// The viewer enters the region: this circuit becomes the root.
    CompleteAgentMovement = COMPLETE_AGENT_MOVEMENT {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
        /// As in [`UseCircuitCode`].
        code / "CircuitCode": Redacted<CircuitCode>,
    }
}

single_block_message! {
    /// The simulator says where the avatar stands.
    AgentMovementComplete<'a> = AGENT_MOVEMENT_COMPLETE {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
    } then {
        /// Metres within the region.
        position / "Position": [f32; 3],
        /// Direction.
        look_at / "LookAt": [f32; 3],
        /// Which region this is.
        region / "RegionHandle": RegionHandle,
        /// Seconds since 1970.
        timestamp / "Timestamp": u32,
    } then {
        /// The simulator's software.
        channel_version / "ChannelVersion": Variable2<'a>,
    }
}

single_block_message! {
    /// The viewer wants to leave the grid.
    LogoutRequest = LOGOUT_REQUEST {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
    }
}

/// The simulator has let the avatar go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutReply<'a> {
    /// Who.
    pub agent: AgentId,
    /// In which login.
    pub session: SessionId,
    /// Inventory items, 16 bytes each; at most 255.
    pub items: &'a [u8],
}

impl<'a> MessageBody<'a> for LogoutReply<'a> {
    const NUMBER: MessageNumber = MessageNumber::LOGOUT_REPLY;

    fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(body);
        Ok(Self {
            agent: fields.read("AgentID")?,
            session: fields.read("SessionID")?,
            items: fields.read_block("InventoryData", 16)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        LogoutRequest { agent: self.agent, session: self.session }.encode(out);
        let count = u8::try_from(self.items.len() / 16).unwrap_or(u8::MAX);
        out.push(count);
        out.extend(self.items.iter().take(usize::from(count) * 16));
    }
}

single_block_message! {
    /// The simulator throws the avatar out.
    KickUser<'a> = KICK_USER {
        /// Unused.
        target_ip / "TargetIP": Ipv4Addr,
        /// Unused.
        target_port / "TargetPort": Port,
    } then {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
        /// Text for the user.
        reason / "Reason": Variable2<'a>,
    }
}

single_block_message! {
    /// Tells the viewer to open a circuit to a neighbour; current viewers take it from the event
    /// queue only.
    EnableSimulator = ENABLE_SIMULATOR {
        /// Which region.
        region / "Handle": RegionHandle,
        /// Its simulator's address.
        ip / "IP": Ipv4Addr,
        /// And port.
        port / "Port": Port,
    }
}

single_block_message! {
    /// The simulator ends this circuit.
    DisableSimulator = DISABLE_SIMULATOR {}
}

single_block_message! {
    /// Between simulators.
    ConfirmEnableSimulator = CONFIRM_ENABLE_SIMULATOR {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
    }
}

single_block_message! {
    /// The avatar walked into another region.
    CrossedRegion<'a> = CROSSED_REGION {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
    } then {
        /// The new simulator's address.
        ip / "SimIP": Ipv4Addr,
        /// And port.
        port / "SimPort": Port,
        /// Which region.
        region / "RegionHandle": RegionHandle,
        /// Where its capabilities are asked for.
        seed / "SeedCapability": Redacted<Variable2<'a>>,
    } then {
        /// Metres within the region.
        position / "Position": [f32; 3],
        /// Direction.
        look_at / "LookAt": [f32; 3],
    }
}

single_block_message! {
    /// The avatar arrived elsewhere.
    TeleportFinish<'a> = TELEPORT_FINISH {
        /// Who.
        agent / "AgentID": AgentId,
        /// Kind of place.
        location / "LocationID": u32,
        /// The new simulator's address.
        ip / "SimIP": Ipv4Addr,
        /// And port.
        port / "SimPort": Port,
        /// Which region.
        region / "RegionHandle": RegionHandle,
        /// Where its capabilities are asked for.
        seed / "SeedCapability": Redacted<Variable2<'a>>,
        /// Maturity rating.
        sim_access / "SimAccess": u8,
        /// How the teleport came about.
        flags / "TeleportFlags": u32,
    }
}

single_block_message! {
    /// The avatar was moved within its region.
    TeleportLocal = TELEPORT_LOCAL {
        /// Who.
        agent / "AgentID": AgentId,
        /// Kind of place.
        location / "LocationID": u32,
        /// Metres within the region.
        position / "Position": [f32; 3],
        /// Direction.
        look_at / "LookAt": [f32; 3],
        /// How the teleport came about.
        flags / "TeleportFlags": u32,
    }
}

single_block_message! {
    /// A teleport has begun.
    TeleportStart = TELEPORT_START {
        /// How the teleport came about.
        flags / "TeleportFlags": u32,
    }
}

single_block_message! {
    /// A teleport goes on.
    TeleportProgress<'a> = TELEPORT_PROGRESS {
        /// Who.
        agent / "AgentID": AgentId,
    } then {
        /// How the teleport came about.
        flags / "TeleportFlags": u32,
        /// Text for the user.
        message / "Message": Variable1<'a>,
    }
}

single_block_message! {
    /// A teleport ended where it began. The `AlertInfo` blocks behind the reason are not read.
    TeleportFailed<'a> = TELEPORT_FAILED {
        /// Who.
        agent / "AgentID": AgentId,
        /// Text or key of a text for the user.
        reason / "Reason": Variable1<'a>,
    }
}

single_block_message! {
    /// The viewer gives a teleport up.
    TeleportCancel = TELEPORT_CANCEL {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
    }
}

/// The simulator introduces its region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegionHandshake<'a> {
    /// Bits of the region's settings.
    pub region_flags: u32,
    /// Maturity rating.
    pub sim_access: u8,
    /// The region's name, normally with its NUL.
    pub sim_name: Variable1<'a>,
    /// The estate's owner.
    pub sim_owner: Uuid,
    /// Everything from `IsEstateManager` on, unread.
    pub rest: &'a [u8],
}

impl<'a> MessageBody<'a> for RegionHandshake<'a> {
    const NUMBER: MessageNumber = MessageNumber::REGION_HANDSHAKE;

    fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(body);
        Ok(Self {
            region_flags: fields.read("RegionFlags")?,
            sim_access: fields.read("SimAccess")?,
            sim_name: fields.read("SimName")?,
            sim_owner: fields.read("SimOwner")?,
            rest: fields.rest(),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        use super::fields::Field;
        self.region_flags.write(out);
        self.sim_access.write(out);
        self.sim_name.write(out);
        self.sim_owner.write(out);
        out.extend_from_slice(self.rest);
    }
}

single_block_message! {
    /// The viewer is ready for the region's contents.
    RegionHandshakeReply = REGION_HANDSHAKE_REPLY {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
    } then {
        /// What the viewer supports.
        flags / "Flags": u32,
    }
}

single_block_message! {
    /// How much of each kind of traffic the viewer wants.
    AgentThrottle<'a> = AGENT_THROTTLE {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
        /// As in [`UseCircuitCode`].
        code / "CircuitCode": Redacted<CircuitCode>,
    } then {
        /// Counts the changes.
        gen_counter / "GenCounter": u32,
        /// Seven little-endian `f32` in bits per second: resend, land, wind, cloud, task, texture,
        /// asset.
        throttles / "Throttles": Variable1<'a>,
    }
}

single_block_message! {
    /// The viewer will be silent for long, and that is no fault.
    AgentPause = AGENT_PAUSE {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
        /// Orders pauses and resumptions.
        serial / "SerialNum": u32,
    }
}

single_block_message! {
    /// The viewer is back from its [`AgentPause`].
    AgentResume = AGENT_RESUME {
        /// Who.
        agent / "AgentID": AgentId,
        /// In which login.
        session / "SessionID": SessionId,
        /// Orders pauses and resumptions.
        serial / "SerialNum": u32,
    }
}

single_block_message! {
    /// The sender does not trust this circuit with what came over it.
    DenyTrustedCircuit = DENY_TRUSTED_CIRCUIT {
        /// The sender's endpoint.
        end_point / "EndPointID": Uuid,
    }
}

#[cfg(test)]
mod tests;
