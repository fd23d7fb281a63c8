//! One circuit's datagrams: what of them goes on, what waits, what is answered from here.

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::assembly::Budget;
use super::delivery::Deliveries;
use super::downloads::{Answer, Download, DownloadId, Downloads, Stage};
use super::placeholder::Placeholders;
use super::relay::{Direction, Relay};
use super::sequence::CounterWidth;
use super::{DropReason, Made, Output, Purpose, Route, Tickets};
use crate::asset::{AssetId, AssetKind};
use crate::grid::{AgentId, SessionId};
use crate::lludp::{MessageNumber, Packet, PacketFlags, SequenceNumber};

mod answers;
mod requests;
mod sending;

use requests::{Copy, Held};

/// A simulator that restarts its numbering does so within this time of `UseCircuitCode`.
const RESTART_WINDOW: Duration = Duration::from_secs(10);
/// And begins with a number up to this.
const RESTART_NUMBERS: u32 = 16;
/// A copy of `UseCircuitCode` that the line made comes within this time.
const LINE_COPY: Duration = Duration::from_secs(1);

/// What a circuit needs of its session.
pub(super) struct Surroundings<'a> {
    pub(super) now: Instant,
    pub(super) simulator: SocketAddrV4,
    /// Where the viewer is, while the circuit is open.
    pub(super) viewer: Option<SocketAddr>,
    pub(super) outputs: &'a mut VecDeque<Output>,
    pub(super) tickets: &'a mut Tickets,
    pub(super) budget: &'a mut Budget,
    pub(super) placeholders: &'a mut Placeholders,
    /// Textures that avatars wear as baked ones.
    pub(super) baked: &'a HashSet<Uuid>,
    pub(super) hold: Duration,
    pub(super) identity: (AgentId, SessionId),
    pub(super) chat_commands: bool,
}

impl Surroundings<'_> {
    fn look_up(&mut self, purpose: Purpose, kind: AssetKind, id: AssetId) {
        let ticket = self.tickets.issue(self.now, self.simulator, purpose);
        self.outputs.push_back(Output::Lookup { ticket, kind, id, simulator: self.simulator });
    }

    pub(super) fn inject_to_viewer(&mut self, datagram: Vec<u8>) {
        if let Some(viewer) = self.viewer {
            let simulator = self.simulator;
            self.outputs.push_back(Output::ToViewer { simulator, viewer, datagram, made: Made::Injected });
        }
    }
}

/// The traffic of one circuit.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) relay: Relay,
    downloads: Downloads,
    deliveries: Deliveries,
    /// Bodies of lines that the viewer is to be shown.
    pub(super) lines: VecDeque<Vec<u8>>,
    held: VecDeque<Held>,
    window: usize,
    /// When the next packet of ours is due, at an even pace.
    paced: Option<Instant>,
    /// The circuit is over, or about to be: nothing of ours is sent any more.
    closing: bool,
    /// The first `UseCircuitCode`'s number, and when the last one passed.
    opened: Option<(SequenceNumber, Instant)>,
    /// Since when the simulator may be about to begin anew: until it speaks, nothing of ours is sent
    /// under numbers that it may use itself.
    awaiting_simulator: Option<Instant>,
    /// When a `UseCircuitCode` passed after which the simulator may begin anew.
    may_restart: Option<(Instant, SequenceNumber)>,
}

impl Traffic {
    pub(super) fn new(incoming: CounterWidth) -> Self {
        Self {
            relay: Relay::new(incoming),
            downloads: Downloads::default(),
            deliveries: Deliveries::default(),
            lines: VecDeque::new(),
            held: VecDeque::new(),
            window: sending::FIRST_WINDOW,
            paced: None,
            closing: false,
            opened: None,
            awaiting_simulator: None,
            may_restart: None,
        }
    }

    /// The viewer opens the circuit, perhaps again.
    pub(super) fn opens(&mut self, now: Instant, packet: &Packet<'_>, moved: bool) {
        let resent = packet.flags.contains(PacketFlags::RESENT);
        if let Some((first, last)) = self.opened {
            let begins_anew = !packet.sequence.is_after(first) && !resent;
            let line_copy = now.saturating_duration_since(last) < LINE_COPY && packet.sequence == first;
            if begins_anew && !line_copy && !moved && !self.closing {
                self.relay.restart_outgoing();
                self.held.clear();
                self.may_restart = self.relay.highest(Direction::ToViewer).map(|highest| (now, highest));
                self.awaiting_simulator = Some(now);
                self.opened = Some((packet.sequence, now));
                return;
            }
            // Copies of the first one come within seconds of it.
            let late = now.saturating_duration_since(last) > RESTART_WINDOW;
            if moved || (self.closing && (!resent || late)) {
                self.relay.restart();
                self.closing = false;
                self.held.clear();
                self.may_restart = None;
                self.opened = Some((packet.sequence, now));
                return;
            }
            if !resent && let Some(highest) = self.relay.highest(Direction::ToViewer) {
                self.may_restart = Some((now, highest));
            }
            self.opened = Some((first, now));
        } else {
            self.opened = Some((packet.sequence, now));
        }
    }

    /// A packet of the viewer.
    pub(super) fn viewer_packet(
        &mut self,
        around: &mut Surroundings<'_>,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Route {
        self.relay.observe(Direction::ToSimulator, packet);
        if around.chat_commands
            && packet.number == MessageNumber::CHAT_FROM_VIEWER
            && let Some(route) = self.chat(around, packet)
        {
            return route;
        }
        let asks = matches!(
            packet.number,
            MessageNumber::REQUEST_IMAGE | MessageNumber::TRANSFER_REQUEST | MessageNumber::TRANSFER_ABORT
        );
        if asks {
            let known = self.known(around, packet, datagram);
            let decided = match known {
                Copy::Goes(route) => Some(route),
                Copy::GoesOn => None,
                Copy::IsNew if self.closing => None,
                Copy::IsNew => self.request(around, packet, datagram),
            };
            if let Some(route) = decided {
                return route;
            }
        }
        let route =
            self.onward(around.now, Direction::ToSimulator, around.simulator.into(), packet, datagram);
        self.pump(around);
        route
    }

    /// True when [`Self::wake`] would find nothing to do.
    pub(super) fn is_quiet(&self) -> bool {
        self.held.is_empty()
            && self.relay.next_due().is_none()
            && !self.deliveries.is_waiting()
            && self.lines.is_empty()
    }

    fn onward(
        &mut self,
        now: Instant,
        direction: Direction,
        to: SocketAddr,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Route {
        match self.relay.forward(now, direction, packet, datagram) {
            None => Route::Forward(to),
            Some(nothing) if nothing.is_empty() => Route::Drop(DropReason::Swallowed),
            Some(patched) => Route::Replace(to, patched),
        }
    }

    /// A packet of the simulator.
    pub(super) fn simulator_packet(
        &mut self,
        around: &mut Surroundings<'_>,
        viewer: SocketAddr,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Route {
        self.note_restart(around.now, packet);
        self.awaiting_simulator = None;
        self.relay.observe(Direction::ToViewer, packet);
        let swallowed = Answer::is(packet.number) && self.answer(around, packet);
        let route = if swallowed {
            self.relay.unload_acks(around.now, Direction::ToViewer, packet);
            self.relay.swallow(around.now, Direction::ToViewer, packet);
            Route::Drop(DropReason::Swallowed)
        } else {
            self.onward(around.now, Direction::ToViewer, viewer, packet, datagram)
        };
        self.pump(around);
        route
    }

    fn note_restart(&mut self, now: Instant, packet: &Packet<'_>) {
        let Some((since, highest)) = self.may_restart else { return };
        let low = packet.sequence.0 != 0 && packet.sequence.0 <= RESTART_NUMBERS;
        if now.saturating_duration_since(since) > RESTART_WINDOW {
            self.may_restart = None;
        } else if low
            && !packet.flags.contains(PacketFlags::RESENT)
            && highest.distance_from(packet.sequence) > RESTART_NUMBERS.cast_signed()
        {
            self.may_restart = None;
            self.relay.restart_incoming();
        }
    }

    fn forget(&mut self, around: &mut Surroundings<'_>, id: DownloadId) {
        let Some(download) = self.downloads.remove(id) else { return };
        self.end_delivery(around, download.owner);
        let Download { kind, asset, .. } = download;
        let learn = !around.baked.contains(&asset.0);
        if let Some((total, extents)) = download.finish(around.budget)
            && learn
            && !extents.is_empty()
        {
            let simulator = around.simulator;
            around.outputs.push_back(Output::Partial { kind, id: asset, simulator, total, extents });
        }
    }

    /// Does what has become due.
    pub(super) fn wake(&mut self, around: &mut Surroundings<'_>) {
        self.settle_held(around, false);
        self.pump(around);
    }

    fn is_awaiting_simulator(&self, now: Instant) -> bool {
        self.awaiting_simulator.is_some_and(|since| now.saturating_duration_since(since) < LINE_COPY)
    }

    /// When [`Self::wake`] has something to do.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let held = self.held.iter().map(|held| held.until).min();
        let room = self.relay.outstanding(Direction::ToViewer) < self.window
            && !self.closing
            && !self.is_awaiting_simulator(now);
        let paced =
            (room && self.deliveries.is_waiting()).then(|| self.paced.map_or(now, |due| due.max(now)));
        let resumes = self.awaiting_simulator.map(|since| since + LINE_COPY).filter(|end| *end > now);
        self.relay.next_due().into_iter().chain(held).chain(paced).chain(resumes).min()
    }

    /// Lets time pass.
    pub(super) fn tick(&mut self, around: &mut Surroundings<'_>) {
        self.relay.tick(around.now);
        self.downloads.tick(around.now);
        for id in self.downloads.stale(around.now) {
            self.forget(around, id);
        }
    }

    /// One side says goodbye: nothing of ours is sent any more, and what was held goes on.
    pub(super) fn close(&mut self, around: &mut Surroundings<'_>) {
        self.settle_held(around, true);
        self.closing = true;
        self.deliveries.clear();
        self.lines.clear();
        self.relay.silence();
        for id in self.downloads.ids() {
            if self.downloads.get(id).is_some_and(|download| download.stage == Stage::Probing) {
                around.placeholders.unanswered(around.simulator, around.outputs);
            }
            self.forget(around, id);
        }
    }

    /// How many downloads are under way.
    pub(super) fn under_way(&self, now: Instant) -> usize {
        self.downloads.under_way(now)
    }

    /// How many packets of ours the viewer has not acknowledged, and how many are remembered.
    pub(super) fn injected(&self) -> (usize, usize) {
        (self.relay.outstanding(Direction::ToViewer), self.relay.remembered())
    }
}
