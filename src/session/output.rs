//! What a session is given and what it gives out, besides where each datagram goes.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;

use super::chat::ChatCommand;
use crate::asset::{Asset, AssetId, AssetKind, AssetSource};
use crate::grid::RegionHandle;

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// How long a request may be held while the asset is looked for.
    pub hold: Duration,
    /// The simulators count packets modulo 2^24, as Second Life's do.
    pub wraps_at_24_bits: bool,
    /// Commands in chat are answered from here; without it chat is not looked at.
    pub chat_commands: bool,
}

/// What the shell is to do besides sending a datagram on.
#[derive(Debug)]
pub enum Output {
    /// Send this to the viewer.
    ToViewer {
        /// From the loopback port that stands for this simulator.
        simulator: SocketAddrV4,
        /// Where the viewer is.
        viewer: SocketAddr,
        /// What to send.
        datagram: Vec<u8>,
        /// Whose it is.
        made: Made,
    },
    /// Send this to a simulator.
    ToSimulator {
        /// Which.
        simulator: SocketAddrV4,
        /// What to send.
        datagram: Vec<u8>,
        /// Whose it is.
        made: Made,
    },
    /// Look for an asset, and tell [`Session::found`](super::Session::found).
    Lookup {
        /// To be given back with the answer.
        ticket: Ticket,
        /// The kind asked for.
        kind: AssetKind,
        /// And the id.
        id: AssetId,
        /// The simulator that would answer.
        simulator: SocketAddrV4,
    },
    /// An asset has come whole from a simulator: check it and keep it.
    Learned {
        /// The kind asked for.
        kind: AssetKind,
        /// And the id.
        id: AssetId,
        /// The simulator that sent it.
        simulator: SocketAddrV4,
        /// All of it.
        bytes: Bytes,
    },
    /// Parts of an asset have come.
    Partial {
        /// The kind asked for.
        kind: AssetKind,
        /// And the id.
        id: AssetId,
        /// The simulator that sent them.
        simulator: SocketAddrV4,
        /// Length of the whole.
        total: u64,
        /// Where in it each part begins, and the part.
        extents: Vec<(u64, Bytes)>,
    },
    /// These textures are bakes of avatars: worn in a baked slot, or asked for as one.
    Baked(Vec<AssetId>),
    /// A body came whole and is not to be kept: it stands for a missing texture, or too much waits.
    Unlearnt,
    /// The avatar is in this region: by login, teleport, or on foot. It may be told again.
    Arrived {
        /// Which region.
        region: RegionHandle,
    },
    /// A region has said what it is called.
    Named {
        /// Which region.
        region: RegionHandle,
        /// The name as it came: anything, up to 255 bytes.
        name: Vec<u8>,
    },
    /// The user asks for something in chat; the answer goes to [`Session::say`](super::Session::say).
    Command {
        /// On whose circuit.
        simulator: SocketAddrV4,
        /// What.
        command: ChatCommand,
    },
    /// A request that was held needs not go on.
    Swallowed,
    /// A request that was held goes on in part (it comes as [`Output::ToSimulator`] too).
    Patched,
    /// A download was answered.
    Served {
        /// The kind of asset.
        kind: AssetKind,
        /// By whom.
        source: AssetSource,
        /// Asset bytes that the viewer was sent.
        bytes: u64,
    },
}

/// Whose a datagram is that the session sends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Our own.
    Injected,
    /// The viewer's, which was held; perhaps without what we answer.
    Released,
}

/// Names a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// An asset that is at hand.
#[derive(Clone, Debug)]
pub struct Found {
    /// All of it.
    pub asset: Asset,
    /// Where it was.
    pub source: AssetSource,
}
