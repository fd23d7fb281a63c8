//! What we send by ourselves: assets as fast as the viewer takes them, copies, acks.

use std::time::{Duration, Instant};

use super::{Surroundings, Traffic};
use crate::session::Made;
use crate::session::Output;
use crate::session::delivery::{Delivered, Message};
use crate::session::downloads::{DownloadId, Stage};
use crate::session::relay::{Direction, Fate, Owner};

/// Packets of ours that may be unacknowledged: at first, and at most. The viewer acknowledges after
/// 100 ms or with its next message, and reads at most 400 messages a frame.
/// Source: Second Life viewer, indra/llmessage/message.h.
pub(super) const FIRST_WINDOW: usize = 32;
const MAX_WINDOW: usize = 64;
/// Packets of ours are sent no closer than this on average: 16 MB a second.
const SPACING: Duration = Duration::from_micros(62);
/// So far may they be ahead of that: timers ring every millisecond at best.
const BURST: Duration = Duration::from_millis(1);
/// And so much of what was not sent in time is made up for: a timer that rings late.
const CREDIT: Duration = Duration::from_millis(2);

impl Traffic {
    /// Sends what may be sent now: packets of deliveries, copies, acks.
    pub(in crate::session) fn pump(&mut self, around: &mut Surroundings<'_>) {
        self.take_fates(around);
        self.send_lines(around);
        while self.deliveries.is_waiting()
            && self.may_send(around.now)
            && let Some((owner, message)) = self.deliveries.take()
        {
            let direction = Direction::ToViewer;
            let Message { number, body, zerocode } = message;
            match self.relay.inject(around.now, direction, owner, number, &body, zerocode) {
                Some(datagram) => around.inject_to_viewer(datagram),
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
                Direction::ToViewer => around.inject_to_viewer(datagram),
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

    /// Whether the viewer takes one packet more of ours.
    pub(in crate::session) fn has_room(&self, now: Instant) -> bool {
        !self.closing
            && !self.is_awaiting_simulator(now)
            && self.relay.outstanding(Direction::ToViewer) < self.window
    }

    fn may_send(&mut self, now: Instant) -> bool {
        if !self.has_room(now) {
            return false;
        }
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        let due = self.paced.map_or(earliest, |due| due.max(earliest));
        if due > now + BURST {
            return false;
        }
        self.paced = Some(due + SPACING);
        true
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
    fn delivered(&mut self, around: &mut Surroundings<'_>, owner: Owner) {
        let Some((id, download)) = self.downloads.owned(owner) else { return };
        download.stage = Stage::Done;
        download.touch(around.now);
        // A request that still waits for others must go on without this one.
        if !download.forwarded && !self.held.iter().any(|held| held.names(id)) {
            self.forget(around, id);
        }
    }

    /// The viewer does not take it from us.
    pub(super) fn give_up(&mut self, around: &mut Surroundings<'_>, owner: Owner) {
        let Some((id, download)) = self.downloads.owned(owner) else { return };
        let (kind, asset, probing) = (download.kind, download.asset, download.stage == Stage::Probing);
        if probing {
            self.end_probe(id);
            // Asked again as long as textures wait for the answer.
            if around.placeholders.is_asking(*around.simulator.ip()) {
                self.probe(around);
            }
            return;
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
}

pub(super) fn served(delivered: Delivered) -> Output {
    let Delivered { kind, source, bytes } = delivered;
    Output::Served { kind, source, bytes }
}
