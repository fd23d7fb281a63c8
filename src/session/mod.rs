//! One login, from its reply to its end: which simulators and capabilities it knows, what stands
//! for them on loopback, and where each datagram goes.
//!
//! Sans-I/O. The contract: feed one input ([`Session::from_viewer`], [`Session::from_simulator`],
//! [`Session::rewrite_seed_reply`], [`Session::rewrite_event_reply`], [`Session::found`],
//! [`Session::say`], [`Session::wake`] or [`Session::tick`]) with the present time, do what it returns, then what
//! [`Session::poll_output`] says until it says nothing more, then feed the next. Call `wake` when the
//! time of [`Session::next_wake`] has come, `tick` about once a second, and [`Session::finish`] last.
//! A loopback port or a random URL token is made by the shell through [`Opener`], asked at most once
//! for each simulator and each URL.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::asset::AssetId;
use crate::grid::{AgentId, CircuitCode, RegionHandle, SessionId};
use crate::lludp::appearance::baked_textures;
use crate::lludp::circuit::{AgentMovementComplete, RegionHandshake, UseCircuitCode};
use crate::lludp::{MessageBody, MessageNumber, Packet, PacketFlags, UdpAssetRequest, asset_requests};

mod assembly;
pub mod chat;
pub mod circuit;
pub mod delivery;
pub mod downloads;
mod endpoint;
pub mod events;
pub mod grid_info;
pub mod login;
mod mutation;
mod output;
mod placeholder;
pub mod reach;
pub mod relay;
pub mod seed;
pub mod sequence;
mod traffic;
mod udp_addresses;

use assembly::Budget;
use circuit::{Circuit, Closed};
use downloads::DownloadId;
use events::QueuedEvent;
use login::LoginGrant;
pub use output::{Found, Made, Output, SessionConfig, Ticket};
use placeholder::Placeholders;
use sequence::CounterWidth;
use traffic::{Surroundings, Traffic};

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

/// Bytes that textures and transfers in the making may take.
const ASSEMBLY_BYTES: usize = 128 << 20;
/// Baked textures remembered.
const MAX_BAKED: usize = 16 * 1024;
/// Lookups that wait for their answer.
const MAX_LOOKUPS: usize = 64 * 1024;
/// No wake follows another sooner.
const WAKE_SPACING: Duration = Duration::from_millis(1);
/// A lookup that was not answered by then never is.
const LOOKUP_LIMIT: Duration = Duration::from_secs(120);

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Download(DownloadId),
    Placeholder,
}

/// Lookups that wait for their answer.
#[derive(Default)]
struct Tickets {
    last: u64,
    waiting: HashMap<Ticket, (Instant, SocketAddrV4, Purpose)>,
}

impl Tickets {
    fn issue(&mut self, now: Instant, simulator: SocketAddrV4, purpose: Purpose) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        if self.waiting.len() < MAX_LOOKUPS {
            self.waiting.insert(ticket, (now, simulator, purpose));
        }
        ticket
    }
}

/// What all circuits of a session share.
struct Common {
    config: SessionConfig,
    identity: (AgentId, SessionId),
    outputs: VecDeque<Output>,
    tickets: Tickets,
    budget: Budget,
    placeholders: Placeholders,
    baked: HashSet<Uuid>,
    wake_at: Option<Instant>,
}

impl Common {
    fn around(
        &mut self,
        now: Instant,
        simulator: SocketAddrV4,
        viewer: Option<SocketAddr>,
    ) -> Surroundings<'_> {
        Surroundings {
            now,
            simulator,
            viewer,
            outputs: &mut self.outputs,
            tickets: &mut self.tickets,
            budget: &mut self.budget,
            placeholders: &mut self.placeholders,
            baked: &self.baked,
            hold: self.config.hold,
            identity: self.identity,
            chat_commands: self.config.chat_commands,
        }
    }

    fn wake_for(&mut self, now: Instant, traffic: &Traffic) {
        if let Some(due) = traffic.next_wake(now) {
            self.wake_at = Some(self.wake_at.map_or(due, |earlier| earlier.min(due)));
        }
    }
}

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
    /// It waits until an asset has been looked for.
    Held,
    /// It is answered from here, or is an answer to what was answered from here.
    Swallowed,
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
    /// What its region is called, as it came.
    name: Vec<u8>,
    circuit: Circuit,
    traffic: Traffic,
}

/// What the session maps to what; split from the circuits so that rewriting can borrow it alone.
struct AliasTable {
    incoming: CounterWidth,
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
        let traffic = Traffic::new(self.table.incoming);
        let circuit = Circuit::default();
        self.table
            .simulators
            .insert(simulator, Simulator { loopback, handle: None, name: Vec::new(), circuit, traffic });
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
    common: Common,
    /// The simulator that the avatar is in.
    root: Option<SocketAddrV4>,
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
        config: SessionConfig,
        opener: &mut dyn Opener,
    ) -> Option<(Self, Vec<u8>)> {
        let incoming = if config.wraps_at_24_bits { CounterWidth::Bits24 } else { CounterWidth::Bits32 };
        let common = Common {
            config,
            identity: (grant.agent, grant.session),
            outputs: VecDeque::new(),
            tickets: Tickets::default(),
            budget: Budget::new(ASSEMBLY_BYTES),
            placeholders: Placeholders::default(),
            baked: HashSet::new(),
            wake_at: None,
        };
        let mut session = Self {
            agent: grant.agent,
            session: grant.session,
            circuit_code: grant.circuit_code,
            table: AliasTable { incoming, simulators: HashMap::new(), urls: HashMap::new(), refused: 0 },
            common,
            root: None,
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
            let moved = region.circuit.viewer().is_some_and(|viewer| viewer != from);
            if let Some(packet) = &packet {
                region.traffic.opens(now, packet, moved);
            }
            region.circuit.open(now, from);
        } else if region.circuit.viewer() != Some(from) {
            return (Route::Drop(DropReason::Stranger), seen);
        }
        region.circuit.heard(now);
        self.last_life = now;

        let Some(packet) = packet else { return (Route::Forward(simulator.into()), seen) };
        if matches!(packet.number, MessageNumber::REQUEST_IMAGE | MessageNumber::TRANSFER_REQUEST) {
            seen.asset_requests = count_asset_requests(&packet, &mut self.scratch);
        }
        let mut around = self.common.around(now, simulator, Some(from));
        let route = region.traffic.viewer_packet(&mut around, &packet, datagram);
        match packet.number {
            MessageNumber::CLOSE_CIRCUIT => {
                region.circuit.close(now, Closed::ByViewer);
                region.traffic.close(&mut around);
            }
            MessageNumber::AGENT_PAUSE => region.circuit.pause(true),
            MessageNumber::AGENT_RESUME => region.circuit.pause(false),
            // By this a circuit becomes the one of the region that the avatar is in; a copy that comes late
            // does not take it back.
            MessageNumber::COMPLETE_AGENT_MOVEMENT if !packet.flags.contains(PacketFlags::RESENT) => {
                self.root = Some(simulator);
                tell_region(region, &mut self.common.outputs);
            }
            MessageNumber::LOGOUT_REQUEST => {
                self.ending_since = Some(now);
                region.traffic.close(&mut around);
            }
            _ => {}
        }
        self.common.wake_for(now, &region.traffic);
        (route, seen)
    }

    fn opens_circuit(&mut self, packet: &Packet<'_>) -> bool {
        let Ok(body) = packet.body(&mut self.scratch) else { return false };
        UseCircuitCode::decode(body).is_ok_and(|opening| {
            *opening.code.reveal() == self.circuit_code
                && opening.agent == self.agent
                && opening.session == self.session
        })
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
        let mut addresses_rewritten = None;
        match packet.number {
            MessageNumber::DISABLE_SIMULATOR | MessageNumber::CLOSE_CIRCUIT => {
                region.circuit.close(now, Closed::BySimulator);
                let mut around = self.common.around(now, endpoint, Some(viewer));
                region.traffic.close(&mut around);
            }
            MessageNumber::KICK_USER | MessageNumber::LOGOUT_REPLY => self.ending_since = Some(now),
            MessageNumber::AGENT_MOVEMENT_COMPLETE => {
                let body = packet.body(&mut self.scratch);
                if let Ok(arrived) = body.and_then(AgentMovementComplete::decode) {
                    region.handle = Some(arrived.region);
                    if self.root == Some(endpoint) {
                        tell_region(region, &mut self.common.outputs);
                    }
                }
            }
            MessageNumber::REGION_HANDSHAKE => {
                if let Ok(handshake) = packet.body(&mut self.scratch).and_then(RegionHandshake::decode) {
                    region.name = handshake.sim_name.0.to_vec();
                    tell_name(region, &mut self.common.outputs);
                }
            }
            MessageNumber::AVATAR_APPEARANCE => {
                if let Ok(baked) = packet.body(&mut self.scratch).and_then(baked_textures) {
                    self.common
                        .outputs
                        .push_back(Output::Baked(baked.iter().copied().map(AssetId).collect()));
                    if self.common.baked.len() < MAX_BAKED {
                        self.common.baked.extend(baked);
                    }
                }
            }
            // Current viewers refuse these by UDP and old grids still send them so.
            MessageNumber::ENABLE_SIMULATOR
            | MessageNumber::OPEN_CIRCUIT
            | MessageNumber::CROSSED_REGION
            | MessageNumber::TELEPORT_FINISH => {
                let mut naming = Naming { table: &mut self.table, opener };
                addresses_rewritten = udp_addresses::rewrite(&packet, &mut self.scratch, &mut naming);
            }
            _ => {}
        }
        let Some(region) = self.table.simulators.get_mut(&endpoint) else {
            return (Route::Drop(DropReason::Stranger), seen);
        };
        let mut around = self.common.around(now, endpoint, Some(viewer));
        let rewritten = addresses_rewritten.as_deref();
        let packet = rewritten.and_then(|rewritten| Packet::decode(rewritten).ok()).unwrap_or(packet);
        let passing = rewritten.unwrap_or(datagram);
        let route = region.traffic.simulator_packet(&mut around, viewer, &packet, passing);
        self.common.wake_for(now, &region.traffic);
        match (route, addresses_rewritten) {
            (Route::Forward(to), Some(rewritten)) => (Route::Replace(to, rewritten), seen),
            (route, _) => (route, seen),
        }
    }

    /// The answer to [`Output::Lookup`]. It may come at any time, or never.
    pub fn found(&mut self, now: Instant, ticket: Ticket, found: Option<Found>) {
        let Some((_, simulator, purpose)) = self.common.tickets.waiting.get(&ticket).copied() else { return };
        // A miss may still become a hit, when another viewer's fetch brings the asset.
        if found.is_some() || purpose == Purpose::Placeholder {
            self.common.tickets.waiting.remove(&ticket);
        }
        let Some(region) = self.table.simulators.get_mut(&simulator) else { return };
        let viewer = region.circuit.viewer();
        let mut around = self.common.around(now, simulator, viewer);
        match purpose {
            Purpose::Download(id) => region.traffic.found(&mut around, id, found),
            Purpose::Placeholder => {
                let digest = found.map(|found| found.asset.digest);
                if around.placeholders.looked_up(*simulator.ip(), digest, around.outputs) {
                    region.traffic.probe(&mut around);
                }
            }
        }
        self.common.wake_for(now, &region.traffic);
    }

    /// The answer to [`Output::Command`]: a line that the viewer is shown, and nobody else.
    pub fn say(&mut self, now: Instant, simulator: SocketAddrV4, text: &str) {
        let Some(region) = self.table.simulators.get_mut(&simulator) else { return };
        let mut around = self.common.around(now, simulator, region.circuit.viewer());
        region.traffic.say(&mut around, text);
        self.common.wake_for(now, &region.traffic);
    }

    /// The next thing to do, besides what the inputs return.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.common.outputs.pop_front()
    }

    /// When [`Self::wake`] is to be called. May be too early, never too late.
    #[must_use]
    pub const fn next_wake(&self) -> Option<Instant> {
        self.common.wake_at
    }

    /// Does what has become due.
    pub fn wake(&mut self, now: Instant) {
        self.common.wake_at = None;
        for (endpoint, region) in &mut self.table.simulators {
            if !region.traffic.is_quiet() {
                let viewer = region.circuit.viewer();
                let mut around = self.common.around(now, *endpoint, viewer);
                region.traffic.wake(&mut around);
                self.common.wake_for(now, &region.traffic);
            }
        }
        // What is still due could not be done; asking again at once would not change that.
        self.common.wake_at = self.common.wake_at.map(|due| due.max(now + WAKE_SPACING));
    }

    /// The session is over: what it has learnt and not yet told comes out.
    pub fn finish(&mut self, now: Instant) {
        for (endpoint, region) in &mut self.table.simulators {
            let mut around = self.common.around(now, *endpoint, region.circuit.viewer());
            region.traffic.close(&mut around);
        }
        self.common.placeholders.tick(now, true, &mut self.common.outputs);
    }

    /// How many packets of ours wait for an ack, and how many are remembered, on all circuits.
    #[must_use]
    pub fn injected(&self) -> (usize, usize) {
        let each = self.table.simulators.values().map(|region| region.traffic.injected());
        each.fold((0, 0), |(waiting, remembered), (w, r)| (waiting + w, remembered + r))
    }

    /// Lets time pass: closes what is over. `http_life` is when the viewer last used one of the
    /// session's capabilities. Answers whether the session goes on.
    pub fn tick(&mut self, now: Instant, http_life: Instant) -> bool {
        for (endpoint, region) in &mut self.table.simulators {
            let viewer = region.circuit.viewer();
            region.circuit.expire(now);
            let mut around = self.common.around(now, *endpoint, viewer);
            if region.circuit.viewer().is_none() && viewer.is_some() {
                region.traffic.close(&mut around);
                region.traffic = Traffic::new(self.table.incoming);
            } else {
                region.traffic.tick(&mut around);
            }
        }
        self.common
            .tickets
            .waiting
            .retain(|_, (since, _, _)| now.saturating_duration_since(*since) < LOOKUP_LIMIT);
        self.common.placeholders.tick(now, false, &mut self.common.outputs);
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

    /// How many downloads over LLUDP are under way.
    #[must_use]
    pub fn downloads_under_way(&self, now: Instant) -> usize {
        self.table.simulators.values().map(|simulator| simulator.traffic.under_way(now)).sum()
    }

    /// How many circuits are open.
    #[must_use]
    pub fn open_circuits(&self) -> usize {
        self.table.simulators.values().filter(|simulator| simulator.circuit.viewer().is_some()).count()
    }
}

/// The avatar is in this simulator's region.
fn tell_region(simulator: &Simulator, outputs: &mut VecDeque<Output>) {
    if let Some(region) = simulator.handle {
        outputs.push_back(Output::Arrived { region });
        tell_name(simulator, outputs);
    }
}

fn tell_name(simulator: &Simulator, outputs: &mut VecDeque<Output>) {
    if let Some(region) = simulator.handle
        && !simulator.name.is_empty()
    {
        outputs.push_back(Output::Named { region, name: simulator.name.clone() });
    }
}

fn count_asset_requests(packet: &Packet<'_>, scratch: &mut Vec<u8>) -> u32 {
    let Ok(body) = packet.body(scratch) else { return 0 };
    let Ok(requests) = asset_requests(packet.number, body) else { return 0 };
    requests.filter(is_public_request).count().try_into().unwrap_or(u32::MAX)
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
