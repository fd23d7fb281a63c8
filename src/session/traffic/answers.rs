//! What the simulator sends of assets: passed on and learnt, or kept from the viewer and learnt.

use bytes::Bytes;

use super::{Surroundings, Traffic};
use crate::asset::{Asset, AssetKind, AssetSource, policy};
use crate::lludp::assets::request_image;
use crate::lludp::{ImageRequest, MessageNumber, Packet};
use crate::session::downloads::{Answer, Ask, DownloadId, Stage};
use crate::session::placeholder::Verdict;
use crate::session::relay::Direction;
use crate::session::{Found, Made, Output, Purpose};

impl Traffic {
    /// Takes in a packet that answers a download. True when it is kept from the viewer.
    pub(super) fn answer(&mut self, around: &mut Surroundings<'_>, packet: &Packet<'_>) -> bool {
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
        if probing && !wanted {
            self.end_probe(id);
        } else {
            self.forget(around, id);
        }
        if probing {
            around.placeholders.absent(around.simulator, around.outputs);
        }
        self.settle_held(around, false);
        probing && !wanted
    }

    fn completed(&mut self, around: &mut Surroundings<'_>, id: DownloadId, bytes: Bytes) {
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
                let found = Found { asset: Asset::of(bytes), source: AssetSource::Grid };
                if !wanted || !self.serve(id, found) {
                    self.end_probe(id);
                }
            }
            Stage::Passing => self.forget(around, id),
            Stage::Looking | Stage::Asked | Stage::Serving | Stage::Done => {}
        }
    }

    /// The simulator has answered us, or will not. What it still sends of that stays here: the viewer
    /// never asked.
    pub(super) fn end_probe(&mut self, id: DownloadId) {
        if let Some(download) = self.downloads.get(id) {
            download.stage = Stage::Done;
        }
    }

    /// Asks the simulator for the picture it sends in place of missing ones.
    pub(in crate::session) fn probe(&mut self, around: &mut Surroundings<'_>) {
        let image = policy::MISSING_IMAGE.0;
        let request = ImageRequest { image, discard: 0, priority: 1.0, packet: 0, kind: 0 };
        let Ask::Wanted(wanted) = Ask::image(&request) else { return };
        let known = self.downloads.get(wanted.id);
        let in_progress = known.is_some_and(|download| download.stage != Stage::Done);
        if self.closing || around.viewer.is_none() || in_progress {
            // The viewer has asked for it: its answer will do.
            return;
        }
        self.forget(around, wanted.id);
        let Some(download) = self.downloads.start(around.now, &wanted, Stage::Probing) else { return };
        download.forwarded = true;
        let owner = download.owner;
        let (agent, session) = around.identity;
        let body = request_image(agent, session, &[request]);
        let number = MessageNumber::REQUEST_IMAGE;
        match self.relay.inject(around.now, Direction::ToSimulator, owner, number, &body, false) {
            Some(datagram) => {
                let simulator = around.simulator;
                around.outputs.push_back(Output::ToSimulator { simulator, datagram, made: Made::Injected });
            }
            None => {
                self.forget(around, wanted.id);
                around.placeholders.unanswered(around.simulator, around.outputs);
            }
        }
    }
}
