//! What the viewer asks for: held while it is looked up, then answered from here, let go, or both.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::sending::served;
use super::{Surroundings, Traffic};
use crate::asset::AssetId;
use crate::lludp::assets::{TransferAbort, without_images};
use crate::lludp::{MessageBody, MessageNumber, Packet, UdpAssetRequest, asset_requests, strip_acks};
use crate::session::delivery::Form;
use crate::session::downloads::{Ask, DownloadId, Stage, Wanted};
use crate::session::relay::{BlockSet, Direction, Kept, Owner};
use crate::session::{DropReason, Found, Made, Output, Purpose, Route};

/// Requests held at a time; more go on at once.
const MAX_HELD: usize = 256;

/// A viewer's request that waits for lookups.
#[derive(Debug)]
pub(super) struct Held {
    /// Without its acks, which have gone on.
    datagram: Vec<u8>,
    /// What its blocks ask for.
    blocks: Vec<Ask>,
    pub(super) until: Instant,
}

impl Held {
    pub(super) fn names(&self, id: DownloadId) -> bool {
        self.blocks.iter().any(|ask| matches!(ask, Ask::Wanted(wanted) if wanted.id == id))
    }
}

/// What is known of a request that comes.
pub(super) enum Copy {
    /// Nothing.
    IsNew,
    /// It is a copy of one that went on as it was.
    GoesOn,
    /// It is a copy, and this is what becomes of it.
    Goes(Route),
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

impl Traffic {
    /// What becomes of a packet if it is a copy of a request on which was decided before.
    pub(super) fn known(
        &mut self,
        around: &mut Surroundings<'_>,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Copy {
        let direction = Direction::ToSimulator;
        let Some(kept) = self.relay.kept(direction, packet) else { return Copy::IsNew };
        let route = match kept {
            Kept::Held => {
                self.relay.unload_acks(around.now, direction, packet);
                Route::Drop(DropReason::Held)
            }
            Kept::Swallowed => {
                self.relay.unload_acks(around.now, direction, packet);
                self.relay.swallow(around.now, direction, packet);
                Route::Drop(DropReason::Swallowed)
            }
            // A copy goes where the first went: the simulator may be answering already.
            Kept::Edited(none) if none == BlockSet::default() => return Copy::GoesOn,
            Kept::Edited(gone) => {
                self.relay.unload_acks(around.now, direction, packet);
                let Some(edited) = without_images(datagram, &|block| gone.contains(block)) else {
                    return Copy::GoesOn;
                };
                self.send_edited(around.now, around.simulator.into(), edited)
            }
        };
        self.pump(around);
        Copy::Goes(route)
    }

    fn send_edited(&mut self, now: Instant, to: SocketAddr, edited: Vec<u8>) -> Route {
        let Ok(packet) = Packet::decode(&edited) else { return Route::Drop(DropReason::Swallowed) };
        match self.relay.forward(now, Direction::ToSimulator, &packet, &edited) {
            Some(renumbered) => Route::Replace(to, renumbered),
            None => Route::Replace(to, edited),
        }
    }

    /// A request of the viewer. `None`: it goes on like any other packet.
    pub(super) fn request(
        &mut self,
        around: &mut Surroundings<'_>,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Option<Route> {
        // What cannot be edited is not looked at. Every known sender writes 0.
        if packet.extra_len != 0 {
            return None;
        }
        let mut scratch = Vec::new();
        let body = packet.body(&mut scratch).ok()?;
        let blocks: Vec<Ask> = if packet.number == MessageNumber::TRANSFER_ABORT {
            let abort = TransferAbort::decode(body).ok()?;
            vec![Ask::Cancel(DownloadId::Transfer(abort.transfer))]
        } else {
            let mut baked = Vec::new();
            let ask = |request| match request {
                UdpAssetRequest::Image(image) => {
                    if image.kind != 0 {
                        baked.push(AssetId(image.image));
                    }
                    Ask::image(&image)
                }
                UdpAssetRequest::Transfer(transfer) => Ask::transfer(&transfer),
            };
            let blocks = asset_requests(packet.number, body).ok()?.map(ask).collect();
            if !baked.is_empty() {
                around.outputs.push_back(Output::Baked(baked));
            }
            blocks
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
                self.relay.release(around.now, Direction::ToSimulator, packet, None);
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

    pub(super) fn end_delivery(&mut self, around: &mut Surroundings<'_>, owner: Owner) {
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
                // An end that was held is no end of what was asked for since.
                Stage::Looking if cancels => !download.forwarded,
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

    pub(super) fn mark_forwarded(&mut self, blocks: &[Ask], gone: Option<BlockSet>) {
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
    pub(in crate::session) fn found(
        &mut self,
        around: &mut Surroundings<'_>,
        id: DownloadId,
        found: Option<Found>,
    ) {
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
    pub(super) fn serve(&mut self, id: DownloadId, found: Found) -> bool {
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
    pub(super) fn settle_held(&mut self, around: &mut Surroundings<'_>, all: bool) {
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
}
