//! A viewer that takes every packet as strictly as those do that break at a wrong one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use uuid::Uuid;

use super::{CHATTER, Catalog, Dice};
use crate::asset::policy;
use crate::lludp::assets::{ImageData, ImageNotInDatabase, ImagePacket, TransferInfo, TransferPacket};
use crate::lludp::{ImageRequest, MessageBody, MessageNumber};

/// A viewer repeats a request without progress after this.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Texture {
    size: Option<(u32, u16)>,
    parts: BTreeMap<u16, Vec<u8>>,
    requests: u32,
    heads: u32,
    progress: Duration,
    /// 1 for a baked texture.
    pub(super) kind: u8,
    pub(super) cancelled: bool,
    pub(super) missing: bool,
}

impl Texture {
    pub(super) fn is_wanted(&self) -> bool {
        !self.cancelled && !self.missing && !self.is_whole()
    }

    /// What the ends knew of it may be forgotten: what has come may come again.
    pub(super) fn may_come_again(&mut self) {
        self.requests += 8;
    }

    fn is_whole(&self) -> bool {
        self.size.is_some_and(|(_, packets)| self.parts.len() == usize::from(packets))
    }

    fn body(&self) -> Option<Vec<u8>> {
        let body = self.parts.values().flat_map(|part| part.iter().copied()).collect();
        self.is_whole().then_some(body)
    }

    fn next_packet(&self) -> u32 {
        (0..).find(|packet| !self.parts.contains_key(packet)).unwrap_or(0).into()
    }
}

#[derive(Debug, Default)]
pub(super) struct Transfer {
    pub(super) asset: Uuid,
    size: Option<i32>,
    parts: BTreeMap<i32, Vec<u8>>,
    last: Option<i32>,
    asked: Duration,
    pub(super) aborted: bool,
}

impl Transfer {
    pub(super) fn is_wanted(&self) -> bool {
        !self.aborted && !self.is_whole()
    }

    fn is_whole(&self) -> bool {
        self.last.is_some_and(|last| self.parts.len() == usize::try_from(last).unwrap() + 1)
            && self.size.is_some()
    }

    fn body(&self) -> Option<Vec<u8>> {
        self.is_whole().then(|| self.parts.values().flat_map(|part| part.iter().copied()).collect())
    }
}

/// What a viewer has of one circuit.
#[derive(Default)]
pub(super) struct Viewer {
    pub(super) textures: HashMap<Uuid, Texture>,
    pub(super) transfers: HashMap<Uuid, Transfer>,
    pub(super) executed: HashMap<u64, u32>,
    pub(super) faults: Vec<String>,
}

impl Viewer {
    /// Asks for a texture, or again for what is missing of it.
    pub(super) fn want(&mut self, now: Duration, id: Uuid, discard: i8, priority: f32) -> ImageRequest {
        let texture = self.textures.entry(id).or_default();
        texture.requests += 1;
        texture.progress = now;
        texture.cancelled = false;
        ImageRequest { image: id, discard, priority, packet: texture.next_packet(), kind: texture.kind }
    }

    pub(super) fn start_transfer(&mut self, now: Duration, transfer: Uuid, asset: Uuid) {
        self.transfers.insert(transfer, Transfer { asset, asked: now, ..Transfer::default() });
    }

    /// Textures without progress, to be asked for again; and transfers that are to begin anew.
    pub(super) fn impatient(&mut self, now: Duration) -> (Vec<Uuid>, Vec<Uuid>) {
        let waits = |texture: &Texture| texture.is_wanted() && now >= texture.progress + PATIENCE;
        let textures =
            self.textures.iter().filter(|(_, texture)| waits(texture)).map(|(id, _)| *id).collect();
        let stuck = |transfer: &Transfer| transfer.is_wanted() && now >= transfer.asked + 6 * PATIENCE;
        let transfers: Vec<Uuid> =
            self.transfers.iter().filter(|(_, transfer)| stuck(transfer)).map(|(id, _)| *id).collect();
        (textures, transfers)
    }

    pub(super) fn take(&mut self, now: Duration, number: MessageNumber, body: &[u8], len: usize) {
        if len > 1200 {
            self.faults.push(format!("a datagram of {len} bytes"));
        }
        match number {
            CHATTER => {
                let id = u64::from_le_bytes(body[..8].try_into().unwrap());
                *self.executed.entry(id).or_default() += 1;
            }
            MessageNumber::IMAGE_DATA => self.image_data(now, &ImageData::decode(body).unwrap()),
            MessageNumber::IMAGE_PACKET => self.image_packet(now, &ImagePacket::decode(body).unwrap()),
            MessageNumber::IMAGE_NOT_IN_DATABASE => {
                let message = ImageNotInDatabase::decode(body).unwrap();
                if let Some(texture) = self.textures.get_mut(&message.image) {
                    texture.missing = true;
                }
            }
            MessageNumber::TRANSFER_INFO => {
                let info = TransferInfo::decode(body).unwrap();
                if let Some(transfer) = self.transfers.get_mut(&info.transfer) {
                    if transfer.size.is_some_and(|size| size != info.size) {
                        self.faults.push("two TransferInfos of different sizes".into());
                    }
                    transfer.size = Some(info.size);
                }
            }
            MessageNumber::TRANSFER_PACKET => self.transfer_packet(&TransferPacket::decode(body).unwrap()),
            _ => {}
        }
    }

    fn image_data(&mut self, now: Duration, head: &ImageData<'_>) {
        let Some(texture) = self.textures.get_mut(&head.image) else {
            return self.faults.push("ImageData of what was never asked for".into());
        };
        texture.heads += 1;
        if texture.heads > texture.requests {
            let (heads, requests) = (texture.heads, texture.requests);
            self.faults.push(format!("{heads} ImageData of {} for {requests} requests", head.image));
        }
        if head.data.0.len() != 600 && head.data.0.len() != head.size as usize {
            self.faults.push("ImageData that breaks a viewer".into());
        }
        texture.size = Some((head.size, head.packets));
        texture.progress = now;
        texture.parts.insert(0, head.data.0.to_vec());
    }

    fn image_packet(&mut self, now: Duration, packet: &ImagePacket<'_>) {
        let Some(texture) = self.textures.get_mut(&packet.image) else { return };
        let known = texture.parts.insert(packet.packet, packet.data.0.to_vec());
        if known.is_none() {
            texture.progress = now;
        } else if known.as_deref() != Some(packet.data.0) {
            self.faults.push("a texture packet came with other bytes".into());
        }
    }

    fn transfer_packet(&mut self, packet: &TransferPacket<'_>) {
        let Some(transfer) = self.transfers.get_mut(&packet.transfer) else { return };
        transfer.parts.insert(packet.packet, packet.data.0.to_vec());
        if packet.status == 1 {
            transfer.last = Some(packet.packet);
        }
        let last = transfer.last.unwrap_or(i32::MAX);
        let mut sizes: Vec<usize> = transfer.parts.range(..last).map(|(_, data)| data.len()).collect();
        sizes.dedup();
        if sizes.len() > 1 {
            self.faults.push("two sizes of pieces in one transfer".into());
        }
        let in_order = (0..).take_while(|number| transfer.parts.contains_key(number)).count();
        if transfer.parts.len() - in_order > 100 {
            self.faults.push("more packets parked than a viewer takes".into());
        }
    }

    /// What is wrong or missing at the end.
    pub(super) fn verdict(&self, catalog: &Catalog) -> Vec<String> {
        let mut wrong = self.faults.clone();
        for (id, texture) in
            self.textures.iter().filter(|(_, texture)| !texture.cancelled && !texture.missing)
        {
            let expected = catalog.get(id).or_else(|| catalog.get(&policy::MISSING_IMAGE.0));
            if texture.body().as_ref() != expected {
                let (held, size) = (texture.parts.len(), texture.size);
                wrong.push(format!("texture {id} is not whole: {held} packets of {size:?}"));
            }
        }
        for (id, transfer) in self.transfers.iter().filter(|(_, transfer)| !transfer.aborted) {
            if transfer.body().as_ref() != catalog.get(&transfer.asset) {
                let held = transfer.parts.len();
                wrong.push(format!("transfer {id} is not whole: {held} packets, last {:?}", transfer.last));
            }
        }
        wrong
    }

    pub(super) fn some_texture(&self, dice: &mut Dice) -> Option<Uuid> {
        let mut ids: Vec<Uuid> = self.textures.keys().copied().collect();
        ids.sort_unstable();
        ids.get(dice.below(ids.len())).copied()
    }
}
