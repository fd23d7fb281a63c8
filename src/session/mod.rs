//! One login, from its reply to its end: which simulators and capabilities it knows, what stands
//! for them on loopback, and where each datagram goes.
//!
//! Sans-I/O. The contract: feed one input ([`Session::from_viewer`], [`Session::from_simulator`],
//! [`Session::rewrite_seed_reply`], [`Session::rewrite_event_reply`] or [`Session::tick`]) with the
//! present time, do what it returns, then feed the next; call `tick` about once a second.
//! A loopback port or a random URL token is made by the shell through [`Opener`], asked at most once
//! for each simulator and each URL.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::grid::{AgentId, CircuitCode, RegionHandle, SessionId};
use crate::lludp::circuit::UseCircuitCode;
use crate::lludp::{MessageBody, MessageNumber, Packet, UdpAssetRequest, asset_requests};

pub mod circuit;
mod endpoint;
pub mod events;
pub mod grid_info;
pub mod login;
mod mutation;
pub mod reach;
pub mod relay;
pub mod seed;
pub mod sequence;
mod udp_addresses;

use circuit::{Circuit, Closed};
use events::QueuedEvent;
use login::LoginGrant;

use crate::llsd::xml::{Scalar, ScalarKind, TextPlace};

/// What a capability URL is for; decides what its alias does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CapabilityClass {
    /// The seed: granting the other capabilities.
    Seed,
    /// The event queue's long poll.
    EventQueue,
    /// ViewerAsset, GetTexture, GetMesh, GetMesh2: assets by id.
    Asset,
}

/// Stand-ins for what the grid names: loopback endpoints for simulators, loopback URLs for
/// capabilities. Each is stable for the session: asked twice, it answers the same.
pub trait Aliases {
    /// The loopback endpoint that stands for this simulator, or `None` when the grid may not lead
    /// us there (then the address is left as it is).
    fn simulator(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4>;

    /// The loopback URL that stands for this capability, or `None` when it is left as it is.
    fn capability(&mut self, class: CapabilityClass, url: &str) -> Option<String>;
}

/// Makes what the session cannot make without I/O or chance.
pub trait Opener {
    /// Opens a loopback endpoint for a simulator the session has not seen before; `None` when the
    /// grid may not lead us there or no port is to be had.
    fn open_endpoint(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4>;

    /// Mints an alias URL for a capability the session has not seen before.
    fn mint_alias(&mut self, class: CapabilityClass, url: &str) -> Option<String>;
}

/// The most simulators one session keeps endpoints for; later ones are left unrewritten.
const MAX_SIMULATORS: usize = 256;
/// The most capability URLs one session keeps aliases for.
const MAX_ALIASES: usize = 16 * 1024;
/// A circuit forgets its viewer after this long without a datagram in either direction: longer
/// than the viewer's own 100 s.
const CIRCUIT_SILENCE: Duration = Duration::from_secs(180);
/// The same while the viewer has announced silence by AgentPause.
const CIRCUIT_SILENCE_PAUSED: Duration = Duration::from_secs(600);
/// How long a closed circuit still carries stragglers: resends and late acks.
const CLOSED_LINGER: Duration = Duration::from_secs(30);
/// A session without any sign of life, UDP or HTTP, ends after this long.
const SESSION_SILENCE: Duration = Duration::from_secs(600);

/// Where a datagram goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// On as it is, to this address.
    Forward(SocketAddr),
    /// On with these bytes instead, to this address.
    Replace(SocketAddr, Vec<u8>),
    /// Nowhere.
    Drop(DropReason),
}

/// Why a datagram goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It comes from an address that did not open this circuit.
    Stranger,
}

/// What a datagram told us beside where it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The datagram is no LLUDP packet.
    pub malformed: bool,
    /// How many assets it asks for.
    pub asset_requests: u32,
}

/// What is known of one simulator.
#[derive(Debug)]
struct Simulator {
    loopback: SocketAddrV4,
    handle: Option<RegionHandle>,
    circuit: Circuit,
}

/// What the session maps to what; split from the circuits so that rewriting can borrow it alone.
#[derive(Default)]
struct AliasTable {
    simulators: HashMap<SocketAddrV4, Simulator>,
    urls: HashMap<String, String>,
    refused: u64,
}

struct Naming<'a> {
    table: &'a mut AliasTable,
    opener: &'a mut dyn Opener,
}

impl Aliases for Naming<'_> {
    fn simulator(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4> {
        if let Some(known) = self.table.simulators.get(&simulator) {
            return Some(known.loopback);
        }
        let opened = (self.table.simulators.len() < MAX_SIMULATORS && simulator.port() != 0)
            .then(|| self.opener.open_endpoint(simulator))
            .flatten();
        let Some(loopback) = opened else {
            self.table.refused += 1;
            return None;
        };
        self.table
            .simulators
            .insert(simulator, Simulator { loopback, handle: None, circuit: Circuit::default() });
        Some(loopback)
    }

    fn capability(&mut self, class: CapabilityClass, url: &str) -> Option<String> {
        if let Some(known) = self.table.urls.get(url) {
            return Some(known.clone());
        }
        let minted =
            (self.table.urls.len() < MAX_ALIASES).then(|| self.opener.mint_alias(class, url)).flatten();
        let Some(alias) = minted else {
            self.table.refused += 1;
            return None;
        };
        self.table.urls.insert(url.to_owned(), alias.clone());
        Some(alias)
    }
}

/// One login. Never formatted: it holds capability URLs.
pub struct Session {
    agent: AgentId,
    session: SessionId,
    circuit_code: CircuitCode,
    table: AliasTable,
    last_life: Instant,
    ending_since: Option<Instant>,
    scratch: Vec<u8>,
}

impl Session {
    /// Opens a session for a login that was granted, and rewrites its reply. Without a rewritten
    /// reply (the grid may not lead us to its simulator) there is no session: the viewer goes to
    /// the grid itself.
    pub fn open(
        now: Instant,
        grant: &LoginGrant,
        body: &[u8],
        format: login::LoginFormat,
        opener: &mut dyn Opener,
    ) -> Option<(Self, Vec<u8>)> {
        let mut session = Self {
            agent: grant.agent,
            session: grant.session,
            circuit_code: grant.circuit_code,
            table: AliasTable::default(),
            last_life: now,
            ending_since: None,
            scratch: Vec::new(),
        };
        let rewritten = login::rewrite(body, format, &mut Naming { table: &mut session.table, opener })?;
        if let Some(simulator) = session.table.simulators.get_mut(&grant.simulator) {
            simulator.handle = grant.region;
        }
        Some((session, rewritten))
    }

    /// Rewrites a seed reply.
    pub fn rewrite_seed_reply(&mut self, body: &[u8], opener: &mut dyn Opener) -> seed::Rewritten {
        seed::rewrite(body, &mut Naming { table: &mut self.table, opener })
    }

    /// Rewrites an event-queue reply, and notes the regions it announces.
    pub fn rewrite_event_reply(
        &mut self,
        now: Instant,
        body: &[u8],
        opener: &mut dyn Opener,
    ) -> events::EventsRewritten {
        self.last_life = now;
        let rewritten = events::rewrite(body, &mut Naming { table: &mut self.table, opener });
        for event in &rewritten.events {
            self.note_event(event);
        }
        rewritten
    }

    fn note_event(&mut self, event: &QueuedEvent) {
        let endpoint = event.simulator();
        let (QueuedEvent::EnableSimulator { region: handle, .. }
        | QueuedEvent::TeleportFinish { region: handle, .. }
        | QueuedEvent::CrossedRegion { region: handle, .. }) = *event
        else {
            return;
        };
        if let (Some(simulator), Some(handle)) = (self.table.simulators.get_mut(&endpoint), handle) {
            simulator.handle = Some(handle);
        }
    }

    /// How many addresses and URLs were left unrewritten since the last call.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.table.refused)
    }

    /// A datagram that came from `from` to the loopback endpoint standing for `simulator`.
    pub fn from_viewer(
        &mut self,
        now: Instant,
        simulator: SocketAddrV4,
        from: SocketAddr,
        datagram: &[u8],
    ) -> (Route, Seen) {
        let mut seen = Seen::default();
        let packet = Packet::decode(datagram).ok();
        seen.malformed = packet.is_none();
        let number = packet.as_ref().map(|packet| packet.number);

        let opens = number == Some(MessageNumber::USE_CIRCUIT_CODE)
            && packet.as_ref().is_some_and(|packet| self.opens_circuit(packet));
        let Some(region) = self.table.simulators.get_mut(&simulator) else {
            return (Route::Drop(DropReason::Stranger), seen);
        };
        if opens {
            region.circuit.open(now, from);
        } else if region.circuit.viewer() != Some(from) {
            return (Route::Drop(DropReason::Stranger), seen);
        }
        region.circuit.heard(now);
        self.last_life = now;

        match number {
            Some(MessageNumber::CLOSE_CIRCUIT) => region.circuit.close(now, Closed::ByViewer),
            Some(MessageNumber::AGENT_PAUSE) => region.circuit.pause(true),
            Some(MessageNumber::AGENT_RESUME) => region.circuit.pause(false),
            Some(MessageNumber::LOGOUT_REQUEST) => self.ending_since = Some(now),
            Some(MessageNumber::REQUEST_IMAGE | MessageNumber::TRANSFER_REQUEST) => {
                if let Some(packet) = &packet {
                    seen.asset_requests = self.count_asset_requests(packet);
                }
            }
            _ => {}
        }
        (Route::Forward(simulator.into()), seen)
    }

    fn opens_circuit(&mut self, packet: &Packet<'_>) -> bool {
        let Ok(body) = packet.body(&mut self.scratch) else { return false };
        UseCircuitCode::decode(body).is_ok_and(|opening| {
            *opening.code.reveal() == self.circuit_code
                && opening.agent == self.agent
                && opening.session == self.session
        })
    }

    fn count_asset_requests(&mut self, packet: &Packet<'_>) -> u32 {
        let Ok(body) = packet.body(&mut self.scratch) else { return 0 };
        let Ok(requests) = asset_requests(packet.number, body) else { return 0 };
        requests.filter(is_public_request).count().try_into().unwrap_or(u32::MAX)
    }

    /// A datagram that came from the grid's side.
    pub fn from_simulator(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        opener: &mut dyn Opener,
    ) -> (Route, Seen) {
        let mut seen = Seen::default();
        let endpoint = match from {
            SocketAddr::V4(v4) => v4,
            SocketAddr::V6(_) => return (Route::Drop(DropReason::Stranger), seen),
        };
        let Some(region) = self.table.simulators.get_mut(&endpoint) else {
            return (Route::Drop(DropReason::Stranger), seen);
        };
        let Some(viewer) = region.circuit.viewer() else {
            return (Route::Drop(DropReason::Stranger), seen);
        };
        region.circuit.heard(now);
        self.last_life = now;
        let Ok(packet) = Packet::decode(datagram) else {
            seen.malformed = true;
            return (Route::Forward(viewer), seen);
        };
        match packet.number {
            MessageNumber::DISABLE_SIMULATOR | MessageNumber::CLOSE_CIRCUIT => {
                region.circuit.close(now, Closed::BySimulator);
            }
            MessageNumber::KICK_USER | MessageNumber::LOGOUT_REPLY => self.ending_since = Some(now),
            // Current viewers refuse these by UDP and old grids still send them so.
            MessageNumber::ENABLE_SIMULATOR
            | MessageNumber::OPEN_CIRCUIT
            | MessageNumber::CROSSED_REGION
            | MessageNumber::TELEPORT_FINISH => {
                let mut naming = Naming { table: &mut self.table, opener };
                if let Some(replaced) = udp_addresses::rewrite(&packet, &mut self.scratch, &mut naming) {
                    return (Route::Replace(viewer, replaced), seen);
                }
            }
            _ => {}
        }
        (Route::Forward(viewer), seen)
    }

    /// Lets time pass: closes what is over. `http_life` is when the viewer last used one of the
    /// session's capabilities. Answers whether the session goes on.
    pub fn tick(&mut self, now: Instant, http_life: Instant) -> bool {
        for simulator in self.table.simulators.values_mut() {
            simulator.circuit.expire(now);
        }
        if self.ending_since.is_some_and(|since| now.saturating_duration_since(since) >= CLOSED_LINGER) {
            return false;
        }
        let last_life = self.last_life.max(http_life);
        let open_circuit =
            self.table.simulators.values().any(|simulator| simulator.circuit.viewer().is_some());
        open_circuit || now.saturating_duration_since(last_life) < SESSION_SILENCE
    }

    /// The avatar; for telling sessions apart, never for logs beside what it fetches.
    #[must_use]
    pub const fn agent(&self) -> Uuid {
        self.agent.0
    }

    /// How many circuits are open.
    #[must_use]
    pub fn open_circuits(&self) -> usize {
        self.table.simulators.values().filter(|simulator| simulator.circuit.viewer().is_some()).count()
    }
}

/// Textures, and transfers of an asset by id; an inventory item's content is no one else's.
fn is_public_request(request: &UdpAssetRequest<'_>) -> bool {
    match request {
        UdpAssetRequest::Image(image) => image.discard >= 0,
        UdpAssetRequest::Transfer(transfer) => transfer.asset().is_some(),
    }
}

/// A URL that a string or URI scalar holds, and where. `None` for undef and the like, and for an
/// empty text.
fn url<'n>(scalar: &'n Scalar<'_>) -> Option<(&'n TextPlace, String)> {
    if !matches!(scalar.kind(), ScalarKind::String | ScalarKind::Uri) {
        return None;
    }
    let url = scalar.text()?.trim().to_owned();
    (!url.is_empty()).then(|| (scalar.place(), url))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
