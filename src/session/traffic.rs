//! One circuit's datagrams: what of them goes on, what waits, what is answered from here.

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::assembly::Budget;
use super::delivery::{Deliveries, Form};
use super::downloads::{Answer, Ask, Download, DownloadId, Downloads, Stage, Wanted};
use super::placeholder::{Placeholders, Verdict};
use super::relay::{BlockSet, Direction, Fate, Kept, Relay};
use super::sequence::CounterWidth;
use super::{DropReason, Found, Made, Output, Purpose, Route, Tickets};
use crate::asset::{AssetKind, AssetSource, policy};
use crate::lludp::assets::{request_image, without_images};
use crate::lludp::{
    ImageRequest, MessageNumber, Packet, PacketFlags, SequenceNumber, UdpAssetRequest, asset_requests,
    strip_acks,
};

/// Packets of ours that may be unacknowledged: at first, and at most. The viewer acknowledges after
/// 100 ms or with its next message, and reads at most 400 messages a frame.
/// Source: Second Life viewer, indra/llmessage/message.h.
const FIRST_WINDOW: usize = 32;
const MAX_WINDOW: usize = 64;
/// Packets of ours sent at one moment, and how long until the next such batch.
const BURST: u32 = 16;
const PACE: Duration = Duration::from_millis(1);
/// Requests held at a time; more go on at once.
const MAX_HELD: usize = 256;
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
    pub(super) identity: (crate::grid::AgentId, crate::grid::SessionId),
}

impl Surroundings<'_> {
    fn look_up(&mut self, purpose: Purpose, kind: AssetKind, id: crate::asset::AssetId) {
        let ticket = self.tickets.issue(self.now, self.simulator, purpose);
        self.outputs.push_back(Output::Lookup { ticket, kind, id, simulator: self.simulator });
    }

    fn to_viewer(&mut self, datagram: Vec<u8>) {
        if let Some(viewer) = self.viewer {
            let simulator = self.simulator;
            self.outputs.push_back(Output::ToViewer { simulator, viewer, datagram, made: Made::Injected });
        }
    }
}

/// A viewer's request that waits for lookups.
#[derive(Debug)]
struct Held {
    /// Without its acks, which have gone on.
    datagram: Vec<u8>,
    /// What its blocks ask for.
    blocks: Vec<Ask>,
    until: Instant,
}

/// The traffic of one circuit.
#[derive(Debug)]
pub(super) struct Traffic {
    relay: Relay,
    downloads: Downloads,
    deliveries: Deliveries,
    held: VecDeque<Held>,
    window: usize,
    paced: Option<(Instant, u32)>,
    /// The circuit is over, or about to be: nothing of ours is sent any more.
    closing: bool,
    /// The first `UseCircuitCode`'s number, and when the last one passed.
    opened: Option<(SequenceNumber, Instant)>,
    /// When a `UseCircuitCode` passed after which the simulator may begin anew.
    may_restart: Option<(Instant, SequenceNumber)>,
}

impl Traffic {
    pub(super) fn new(incoming: CounterWidth) -> Self {
        Self {
            relay: Relay::new(incoming),
            downloads: Downloads::default(),
            deliveries: Deliveries::default(),
            held: VecDeque::new(),
            window: FIRST_WINDOW,
            paced: None,
            closing: false,
            opened: None,
            may_restart: None,
        }
    }

    /// The viewer opens the circuit, perhaps again.
    pub(super) fn opens(&mut self, now: Instant, packet: &Packet<'_>, moved: bool) {
        let resent = packet.flags.contains(PacketFlags::RESENT);
        if let Some((first, last)) = self.opened {
            let begins_anew = !packet.sequence.is_after(first) && !resent;
            let line_copy = now.saturating_duration_since(last) < LINE_COPY
                && packet.sequence == first
                && !self.relay.is_transparent();
            if moved || self.closing || (begins_anew && !line_copy) {
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
    pub(super) fn from_viewer(
        &mut self,
        around: &mut Surroundings<'_>,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Route {
        self.relay.observe(Direction::ToSimulator, packet);
        let asks = matches!(
            packet.number,
            MessageNumber::REQUEST_IMAGE | MessageNumber::TRANSFER_REQUEST | MessageNumber::TRANSFER_ABORT
        );
        if asks {
            if let Some(route) = self.known(around, packet, datagram) {
                return route;
            }
            if !self.closing
                && let Some(route) = self.request(around, packet, datagram)
            {
                return route;
            }
        }
        let route =
            self.onward(around.now, Direction::ToSimulator, around.simulator.into(), packet, datagram);
        self.pump(around);
        route
    }

    /// The avatar's textures turn out to be baked: nothing more is learnt of them.
    pub(super) fn is_quiet(&self) -> bool {
        self.held.is_empty() && self.relay.next_due().is_none() && !self.deliveries.is_waiting()
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

    /// A copy of a request on which was decided before.
    fn known(
        &mut self,
        around: &mut Surroundings<'_>,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Option<Route> {
        let direction = Direction::ToSimulator;
        let kept = self.relay.kept(direction, packet)?;
        self.relay.unload_acks(around.now, direction, packet);
        let route = match kept {
            Kept::Held => Route::Drop(DropReason::Held),
            Kept::Swallowed => {
                self.relay.swallow(around.now, direction, packet);
                Route::Drop(DropReason::Swallowed)
            }
            Kept::Edited(gone) => {
                let edited = without_images(datagram, &|block| gone.contains(block))?;
                self.send_edited(around.now, around.simulator.into(), edited)
            }
        };
        self.pump(around);
        Some(route)
    }

    fn send_edited(&mut self, now: Instant, to: SocketAddr, edited: Vec<u8>) -> Route {
        let Ok(packet) = Packet::decode(&edited) else { return Route::Drop(DropReason::Swallowed) };
        match self.relay.forward(now, Direction::ToSimulator, &packet, &edited) {
            Some(renumbered) => Route::Replace(to, renumbered),
            None => Route::Replace(to, edited),
        }
    }

    /// A request of the viewer. `None`: it goes on like any other packet.
    fn request(
        &mut self,
        around: &mut Surroundings<'_>,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Option<Route> {
        let mut scratch = Vec::new();
        let body = packet.body(&mut scratch).ok()?;
        let blocks: Vec<Ask> = if packet.number == MessageNumber::TRANSFER_ABORT {
            use crate::lludp::MessageBody;
            let abort = crate::lludp::assets::TransferAbort::decode(body).ok()?;
            vec![Ask::Cancel(DownloadId::Transfer(abort.transfer))]
        } else {
            let ask = |request| match request {
                UdpAssetRequest::Image(image) => Ask::image(&image),
                UdpAssetRequest::Transfer(transfer) => Ask::transfer(&transfer),
            };
            asset_requests(packet.number, body).ok()?.map(ask).collect()
        };
        let able = self.relay.may_inject(Direction::ToViewer)
            && self.relay.may_keep(Direction::ToSimulator)
            && self.held.len() < MAX_HELD;
        for ask in &blocks {
            match ask {
                Ask::Wanted(wanted) => self.want(around, wanted, able),
                Ask::Cancel(id) => self.cancel(around, *id),
                Ask::Other => {}
            }
        }
        let verdict = self.verdict(&blocks);
        let route = match verdict {
            Decision::Forward => {
                self.mark_forwarded(&blocks, None);
                None
            }
            Decision::Swallow => {
                self.relay.unload_acks(around.now, Direction::ToSimulator, packet);
                self.relay.swallow(around.now, Direction::ToSimulator, packet);
                Some(Route::Drop(DropReason::Swallowed))
            }
            Decision::Edit(gone) => {
                self.relay.unload_acks(around.now, Direction::ToSimulator, packet);
                self.relay.release(around.now, Direction::ToSimulator, packet, Some(gone));
                self.mark_forwarded(&blocks, Some(gone));
                without_images(datagram, &|block| gone.contains(block))
                    .map(|edited| self.send_edited(around.now, around.simulator.into(), edited))
            }
            Decision::Wait => {
                self.relay.unload_acks(around.now, Direction::ToSimulator, packet);
                self.relay.hold(around.now, Direction::ToSimulator, packet);
                let mut kept = datagram.to_vec();
                let _ = strip_acks(&mut kept);
                self.held.push_back(Held { datagram: kept, blocks, until: around.now + around.hold });
                Some(Route::Drop(DropReason::Held))
            }
        };
        if route.is_some() {
            self.pump(around);
        }
        route
    }

    /// Finds out who answers a wish, as far as that can be told now.
    fn want(&mut self, around: &mut Surroundings<'_>, wanted: &Wanted, able: bool) {
        let given_up = self.downloads.is_given_up(wanted.kind, wanted.asset);
        let is_transfer = matches!(wanted.id, DownloadId::Transfer(_));
        if let Some(download) = self.downloads.get(wanted.id) {
            download.wish = wanted.wish;
            download.touch(around.now);
            match download.stage {
                Stage::Looking | Stage::Asked | Stage::Passing => return,
                Stage::Probing => {
                    download.viewer_waits = true;
                    return;
                }
                Stage::Serving => {
                    let owner = download.owner;
                    self.deliveries.update(owner, wanted.wish.priority, wanted.wish.discard);
                    return;
                }
                // Asked for once more: looked up once more. A transfer is never taken up by the
                // simulator where we left it, since it cuts in other pieces.
                Stage::Done if able && (is_transfer || !given_up) => {
                    download.stage = Stage::Looking;
                    around.look_up(Purpose::Download(wanted.id), wanted.kind, wanted.asset);
                    return;
                }
                // The simulator is asked once more, and what it sends then passes.
                Stage::Done => {
                    download.stage = Stage::Asked;
                    return;
                }
            }
        }
        let refused = around.baked.contains(&wanted.asset.0) || given_up || !able;
        let stage = if refused { Stage::Asked } else { Stage::Looking };
        let started = self.downloads.start(around.now, wanted, stage).is_some();
        if started && !refused {
            around.look_up(Purpose::Download(wanted.id), wanted.kind, wanted.asset);
        }
    }

    fn cancel(&mut self, around: &mut Surroundings<'_>, id: DownloadId) {
        let Some(download) = self.downloads.get(id) else { return };
        match download.stage {
            Stage::Looking | Stage::Serving => {
                download.stage = Stage::Done;
                download.touch(around.now);
                let owner = download.owner;
                self.end_delivery(around, owner);
            }
            Stage::Asked | Stage::Passing | Stage::Done | Stage::Probing => {}
        }
    }

    fn end_delivery(&mut self, around: &mut Surroundings<'_>, owner: super::relay::Owner) {
        self.relay.abandon(Direction::ToViewer, owner);
        if let Some(delivered) = self.deliveries.stop(owner) {
            around.outputs.push_back(served(delivered));
        }
    }

    /// What is to be done with a request, from who answers its blocks.
    fn verdict(&mut self, blocks: &[Ask]) -> Decision {
        let mut gone = BlockSet::default();
        let mut gone_count = 0;
        for (block, ask) in blocks.iter().enumerate() {
            let id = match ask {
                Ask::Wanted(wanted) => wanted.id,
                Ask::Cancel(id) => *id,
                Ask::Other => continue,
            };
            let cancels = matches!(ask, Ask::Cancel(_));
            let Some(download) = self.downloads.get(id) else { continue };
            let ours = match download.stage {
                Stage::Looking => return Decision::Wait,
                Stage::Asked | Stage::Passing => false,
                // The simulator hears of an end when it has heard of the beginning.
                Stage::Serving | Stage::Done => !(cancels && download.forwarded),
                Stage::Probing => true,
            };
            if ours {
                gone.insert(block);
                gone_count += 1;
            }
        }
        match gone_count {
            0 => Decision::Forward,
            all if all == blocks.len() => Decision::Swallow,
            _ => Decision::Edit(gone),
        }
    }

    fn mark_forwarded(&mut self, blocks: &[Ask], gone: Option<BlockSet>) {
        for (block, ask) in blocks.iter().enumerate() {
            if let Ask::Wanted(wanted) = ask
                && !gone.is_some_and(|gone| gone.contains(block))
                && let Some(download) = self.downloads.get(wanted.id)
            {
                download.forwarded = true;
            }
        }
    }

    /// The answer to a lookup.
    pub(super) fn found(&mut self, around: &mut Surroundings<'_>, id: DownloadId, found: Option<Found>) {
        let closing = self.closing;
        let Some(download) = self.downloads.get(id) else { return };
        let waits =
            download.stage == Stage::Looking || (download.stage == Stage::Asked && download.forwarded);
        if !waits {
            return;
        }
        let hit = found.filter(|_| !closing && !around.baked.contains(&download.asset.0));
        let taken = hit.is_some_and(|found| self.serve(id, found));
        if !taken
            && let Some(download) = self.downloads.get(id)
            && download.stage == Stage::Looking
        {
            download.stage = Stage::Asked;
        }
        self.settle_held(around, false);
        self.pump(around);
    }

    /// Takes a download over. False when it cannot be.
    fn serve(&mut self, id: DownloadId, found: Found) -> bool {
        let Some(download) = self.downloads.get(id) else { return false };
        let wish = download.wish;
        let form = match (id, wish.transfer) {
            (DownloadId::Image(image), _) => {
                let head = wish.packet == 0 || (wish.packet == 1 && !download.head_seen);
                Form::Image { image, head, first: wish.packet, discard: wish.discard }
            }
            (DownloadId::Transfer(transfer), Some((channel, params))) => {
                Form::Transfer { transfer, channel, params }
            }
            (DownloadId::Transfer(_), None) => return false,
        };
        let (owner, kind) = (download.owner, download.kind);
        if !self.deliveries.start(owner, form, kind, found.asset.bytes, found.source, wish.priority) {
            return false;
        }
        download.stage = Stage::Serving;
        download.head_seen = true;
        true
    }

    /// Lets held requests go on that need not wait any more.
    fn settle_held(&mut self, around: &mut Surroundings<'_>, all: bool) {
        let mut still = VecDeque::new();
        for held in std::mem::take(&mut self.held) {
            if all || held.until <= around.now {
                self.stop_looking(&held.blocks);
            }
            if let Decision::Wait = self.verdict(&held.blocks) {
                still.push_back(held);
            } else {
                self.let_go(around, &held);
            }
        }
        self.held = still;
    }

    fn stop_looking(&mut self, blocks: &[Ask]) {
        for ask in blocks {
            if let Ask::Wanted(wanted) = ask
                && let Some(download) = self.downloads.get(wanted.id)
                && download.stage == Stage::Looking
            {
                download.stage = Stage::Asked;
            }
        }
    }

    fn let_go(&mut self, around: &mut Surroundings<'_>, held: &Held) {
        let Ok(packet) = Packet::decode(&held.datagram) else { return };
        let direction = Direction::ToSimulator;
        let to = around.simulator.into();
        let route = match self.verdict(&held.blocks) {
            Decision::Wait => return,
            Decision::Swallow => {
                around.outputs.push_back(Output::Swallowed);
                return self.relay.swallow(around.now, direction, &packet);
            }
            Decision::Edit(gone) => {
                self.relay.release(around.now, direction, &packet, Some(gone));
                self.mark_forwarded(&held.blocks, Some(gone));
                match without_images(&held.datagram, &|block| gone.contains(block)) {
                    Some(edited) => self.send_edited(around.now, to, edited),
                    None => self.onward(around.now, direction, to, &packet, &held.datagram),
                }
            }
            Decision::Forward => {
                self.relay.release(around.now, direction, &packet, None);
                self.mark_forwarded(&held.blocks, None);
                self.onward(around.now, direction, to, &packet, &held.datagram)
            }
        };
        let datagram = match route {
            Route::Forward(_) => held.datagram.clone(),
            Route::Replace(_, datagram) => {
                around.outputs.push_back(Output::Patched);
                datagram
            }
            Route::Drop(_) => return,
        };
        let simulator = around.simulator;
        around.outputs.push_back(Output::ToSimulator { simulator, datagram, made: Made::Released });
    }

    /// A packet of the simulator.
    pub(super) fn from_simulator(
        &mut self,
        around: &mut Surroundings<'_>,
        viewer: SocketAddr,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Route {
        self.note_restart(around.now, packet);
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

    /// Takes in a packet that answers a download. True when it is kept from the viewer.
    fn answer(&mut self, around: &mut Surroundings<'_>, packet: &Packet<'_>) -> bool {
        let mut scratch = Vec::new();
        let Some(answer) = Answer::read(packet, &mut scratch) else {
            return self.relay.kept(Direction::ToViewer, packet).is_some();
        };
        let id = answer.id();
        let was_kept = self.relay.kept(Direction::ToViewer, packet).is_some();
        let Some(download) = self.downloads.get(id) else { return was_kept };
        if was_kept {
            return true;
        }
        if download.stage == Stage::Looking {
            // What came of an earlier request passes, and so will this one's answer.
            download.stage = Stage::Passing;
        }
        let ours = download.stage.is_ours();
        if !ours {
            download.stage = Stage::Passing;
            download.head_seen |= matches!(answer, Answer::ImageData(_));
        }
        let whole = download.feed(around.now, &answer, around.budget);
        if answer.is_refusal() {
            return self.refused(around, id);
        }
        if let Some(bytes) = whole {
            self.completed(around, id, bytes);
        }
        self.settle_held(around, false);
        ours
    }

    /// The simulator will not send it. True when that is kept from the viewer.
    fn refused(&mut self, around: &mut Surroundings<'_>, id: DownloadId) -> bool {
        let Some(download) = self.downloads.get(id) else { return false };
        if download.stage == Stage::Serving || download.stage == Stage::Done {
            return true;
        }
        let probing = download.stage == Stage::Probing;
        let wanted = download.viewer_waits;
        self.forget(around, id);
        if probing {
            around.placeholders.absent(around.simulator, around.outputs);
        }
        self.settle_held(around, false);
        probing && !wanted
    }

    fn completed(&mut self, around: &mut Surroundings<'_>, id: DownloadId, bytes: bytes::Bytes) {
        let Some(download) = self.downloads.get(id) else { return };
        let (kind, asset, stage, passed) = (download.kind, download.asset, download.stage, download.passed);
        if stage == Stage::Passing {
            around.outputs.push_back(Output::Served { kind, source: AssetSource::Grid, bytes: passed });
        }
        let learn = !around.baked.contains(&asset.0);
        if learn {
            let verdict = around.placeholders.judge(
                around.now,
                around.simulator,
                kind,
                asset,
                bytes.clone(),
                around.outputs,
            );
            if verdict == Verdict::LookUp {
                around.look_up(Purpose::Placeholder, AssetKind::Texture, policy::MISSING_IMAGE);
            }
        }
        match stage {
            Stage::Probing => {
                let wanted = download.viewer_waits;
                let found = Found { asset: crate::asset::Asset::of(bytes), source: AssetSource::Grid };
                if wanted && self.serve(id, found) {
                    return;
                }
                self.forget(around, id);
            }
            Stage::Passing => self.forget(around, id),
            Stage::Looking | Stage::Asked | Stage::Serving | Stage::Done => {}
        }
    }

    /// Asks the simulator for the picture it sends in place of missing ones.
    pub(super) fn probe(&mut self, around: &mut Surroundings<'_>) {
        let image = policy::MISSING_IMAGE.0;
        let request = ImageRequest { image, discard: 0, priority: 1.0, packet: 0, kind: 0 };
        let Ask::Wanted(wanted) = Ask::image(&request) else { return };
        if self.closing || around.viewer.is_none() || self.downloads.get(wanted.id).is_some() {
            // The viewer has asked for it: its answer will do.
            return;
        }
        let Some(download) = self.downloads.start(around.now, &wanted, Stage::Probing) else { return };
        download.forwarded = true;
        let owner = download.owner;
        let (agent, session) = around.identity;
        let body = request_image(agent, session, &[request]);
        let number = MessageNumber::REQUEST_IMAGE;
        if let Some(datagram) =
            self.relay.inject(around.now, Direction::ToSimulator, owner, number, &body, false)
        {
            let simulator = around.simulator;
            around.outputs.push_back(Output::ToSimulator { simulator, datagram, made: Made::Injected });
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

    /// Sends what may be sent now: packets of deliveries, copies, acks.
    fn pump(&mut self, around: &mut Surroundings<'_>) {
        self.take_fates(around);
        while self.deliveries.is_waiting()
            && self.may_send(around.now)
            && let Some((owner, message)) = self.deliveries.take()
        {
            let direction = Direction::ToViewer;
            let crate::session::delivery::Message { number, body, zerocode } = message;
            match self.relay.inject(around.now, direction, owner, number, &body, zerocode) {
                Some(datagram) => around.to_viewer(datagram),
                // No numbers left: the viewer will ask again, and is answered by the simulator.
                None => self.give_up(around, owner),
            }
        }
        let mut due = Vec::new();
        if self.relay.next_due().is_some_and(|due| due <= around.now) || self.relay.has_unheard() {
            self.relay.due(around.now, &mut due);
        }
        for (direction, datagram) in due {
            match direction {
                Direction::ToViewer => around.to_viewer(datagram),
                Direction::ToSimulator => {
                    let simulator = around.simulator;
                    around.outputs.push_back(Output::ToSimulator {
                        simulator,
                        datagram,
                        made: Made::Injected,
                    });
                }
            }
        }
        self.take_fates(around);
    }

    fn may_send(&mut self, now: Instant) -> bool {
        if self.closing || self.relay.outstanding(Direction::ToViewer) >= self.window {
            return false;
        }
        match &mut self.paced {
            Some((since, sent)) if now.saturating_duration_since(*since) < PACE => {
                *sent += 1;
                *sent <= BURST
            }
            paced => {
                *paced = Some((now, 1));
                true
            }
        }
    }

    fn take_fates(&mut self, around: &mut Surroundings<'_>) {
        for fate in self.relay.take_fates() {
            match fate {
                Fate::Acknowledged(owner) => {
                    self.window = (self.window + 1).min(MAX_WINDOW);
                    if let Some(delivered) = self.deliveries.acknowledged(owner) {
                        around.outputs.push_back(served(delivered));
                        self.delivered(around, owner);
                    }
                }
                Fate::GivenUp(owner) => self.give_up(around, owner),
            }
        }
    }

    /// The viewer has all of it.
    fn delivered(&mut self, around: &mut Surroundings<'_>, owner: super::relay::Owner) {
        let Some((id, download)) = self.downloads.owned(owner) else { return };
        download.stage = Stage::Done;
        download.touch(around.now);
        if !download.forwarded {
            self.forget(around, id);
        }
    }

    /// The viewer does not take it from us.
    fn give_up(&mut self, around: &mut Surroundings<'_>, owner: super::relay::Owner) {
        let Some((id, download)) = self.downloads.owned(owner) else { return };
        let (kind, asset, probing) = (download.kind, download.asset, download.stage == Stage::Probing);
        if probing {
            self.forget(around, id);
            return around.placeholders.absent(around.simulator, around.outputs);
        }
        self.end_delivery(around, owner);
        self.downloads.give_up(around.now, kind, asset);
        if let Some(download) = self.downloads.get(id) {
            download.stage = Stage::Done;
            if !download.forwarded && matches!(id, DownloadId::Image(_)) {
                self.forget(around, id);
            }
        }
    }

    /// Does what has become due.
    pub(super) fn wake(&mut self, around: &mut Surroundings<'_>) {
        self.settle_held(around, false);
        self.pump(around);
    }

    /// When [`Self::wake`] has something to do.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let held = self.held.iter().map(|held| held.until).min();
        let room = self.relay.outstanding(Direction::ToViewer) < self.window && !self.closing;
        let paced = (room && self.deliveries.is_waiting())
            .then(|| self.paced.map_or(now, |(since, _)| (since + PACE).max(now)));
        self.relay.next_due().into_iter().chain(held).chain(paced).min()
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
        self.relay.silence();
        for id in self.downloads.ids() {
            self.forget(around, id);
        }
    }

    /// How many packets of ours the viewer has not acknowledged, and how many are remembered.
    pub(super) fn injected(&self) -> (usize, usize) {
        (self.relay.outstanding(Direction::ToViewer), self.relay.remembered())
    }
}

fn served(delivered: super::delivery::Delivered) -> Output {
    let super::delivery::Delivered { kind, source, bytes } = delivered;
    Output::Served { kind, source, bytes }
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It goes on as it is.
    Forward,
    /// It is wholly ours to answer.
    Swallow,
    /// It goes on without these blocks.
    Edit(BlockSet),
    /// Not all of it is known yet.
    Wait,
}
