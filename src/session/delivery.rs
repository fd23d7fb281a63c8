//! Assets on their way to the viewer: cut into the packets a simulator would send, the most wanted
//! first, no faster than the viewer acknowledges.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use crate::asset::{AssetKind, AssetSource, j2c};
use crate::lludp::assets::{ImageData, ImagePacket, TransferInfo, TransferPacket};
use crate::lludp::{MessageBody, MessageNumber, Variable2};

use super::relay::Owner;

/// Data bytes of `ImageData`. A viewer takes this or the whole texture, and breaks at anything else.
/// Source: Firestorm viewer, indra/newview/lltexturefetch.cpp (`receiveImageHeader`).
const IMAGE_HEAD: usize = 600;
/// Data bytes of every other texture packet but the last, and of transfer packets.
const CHUNK: usize = 1000;
/// JPEG 2000, the one codec in use.
const CODEC_J2C: u8 = 2;
/// A viewer parks at most 100 packets of a transfer behind a lost one, then it gives up.
/// Source: Second Life viewer, indra/llmessage/lltransfermanager.cpp (`processTransferPacket`).
const TRANSFER_AHEAD: u32 = 50;
/// The most assets on their way on one circuit; more go to the simulator.
const MAX_DELIVERIES: usize = 1024;
/// And their size together.
const MAX_BYTES: usize = 256 << 20;

/// How the viewer asked.
#[derive(Clone, Debug)]
pub enum Form {
    /// By `RequestImage`.
    Image {
        /// Which.
        image: Uuid,
        /// With `ImageData`, or only with packets from `first` on.
        head: bool,
        /// The first packet after `ImageData`.
        first: u32,
        /// Halvings of resolution that may be left out.
        discard: i8,
    },
    /// By `TransferRequest`.
    Transfer {
        /// The viewer's name for it.
        transfer: Uuid,
        /// As requested.
        channel: i32,
        /// Asset id and type.
        params: [u8; 20],
    },
}

/// A message to inject.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Which.
    pub number: MessageNumber,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether OpenSimulator zero-codes it.
    /// Source: OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLClientView.cs (`SendImageFirstPart`, `SendAsset`).
    pub zerocode: bool,
}

/// One asset on its way.
#[derive(Debug)]
struct Delivery {
    form: Form,
    asset: Bytes,
    kind: AssetKind,
    source: AssetSource,
    priority: f32,
    /// The next packet; a texture's packet 0 is `ImageData`, a transfer's is `TransferInfo`.
    next: u32,
    /// One past the last.
    count: u32,
    /// Packets before this one are what the viewer asked for; later ones can wait.
    wanted: u32,
    unacknowledged: u32,
    sent_bytes: u64,
}

/// What was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The kind of asset.
    pub kind: AssetKind,
    /// Where it was found.
    pub source: AssetSource,
    /// Asset bytes sent.
    pub bytes: u64,
}

/// All deliveries of a circuit.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// In the order asked for.
    active: BTreeMap<Owner, Delivery>,
    bytes: usize,
    /// Textures and transfers take turns, as they do on a simulator, which throttles them apart.
    transfer_next: bool,
}

fn packets(len: usize, head: usize) -> u32 {
    let rest = len.saturating_sub(head).div_ceil(CHUNK);
    u32::try_from(rest).unwrap_or(u32::MAX).saturating_add(1)
}

impl Delivery {
    fn wanted_packets(asset: &Bytes, discard: i8, count: u32) -> u32 {
        let Ok(discard @ 1..) = u8::try_from(discard) else { return count };
        let Ok(header) = j2c::header(asset) else { return count };
        let bytes = usize::try_from(j2c::bytes_for_discard(header, discard)).unwrap_or(usize::MAX);
        packets(bytes.min(asset.len()), IMAGE_HEAD).min(count)
    }

    fn may_send(&self) -> bool {
        let window = match self.form {
            Form::Image { .. } => u32::MAX,
            Form::Transfer { .. } => TRANSFER_AHEAD,
        };
        self.next < self.count && self.unacknowledged < window
    }

    fn is_transfer(&self) -> bool {
        matches!(self.form, Form::Transfer { .. })
    }

    fn take(&mut self) -> Message {
        let packet = self.next;
        self.next += 1;
        self.unacknowledged += 1;
        let (message, sent) = match self.form {
            Form::Image { image, .. } => self.image_packet(image, packet),
            Form::Transfer { transfer, channel, params } => {
                self.transfer_packet(transfer, channel, &params, packet)
            }
        };
        self.sent_bytes += sent as u64;
        message
    }

    fn image_packet(&self, image: Uuid, packet: u32) -> (Message, usize) {
        let mut body = Vec::with_capacity(CHUNK + 24);
        if packet == 0 {
            let data = self.asset.get(..IMAGE_HEAD).unwrap_or(&self.asset);
            let size = u32::try_from(self.asset.len()).unwrap_or(u32::MAX);
            let packets = u16::try_from(self.count).unwrap_or(u16::MAX);
            ImageData { image, codec: CODEC_J2C, size, packets, data: Variable2(data) }.encode(&mut body);
            return (Message { number: MessageNumber::IMAGE_DATA, body, zerocode: true }, data.len());
        }
        let start = IMAGE_HEAD + (packet as usize - 1) * CHUNK;
        let data = slice(&self.asset, start);
        let packet = u16::try_from(packet).unwrap_or(u16::MAX);
        ImagePacket { image, packet, data: Variable2(data) }.encode(&mut body);
        (Message { number: MessageNumber::IMAGE_PACKET, body, zerocode: false }, data.len())
    }

    fn transfer_packet(&self, transfer: Uuid, channel: i32, params: &[u8], packet: u32) -> (Message, usize) {
        let mut body = Vec::with_capacity(CHUNK + 32);
        let Some(packet) = packet.checked_sub(1) else {
            let size = i32::try_from(self.asset.len()).unwrap_or(i32::MAX);
            let params = Variable2(params);
            TransferInfo { transfer, channel, target: 0, status: 0, size, params }.encode(&mut body);
            return (Message { number: MessageNumber::TRANSFER_INFO, body, zerocode: true }, 0);
        };
        let data = slice(&self.asset, packet as usize * CHUNK);
        let status = i32::from(packet + 2 >= self.count);
        let packet = i32::try_from(packet).unwrap_or(i32::MAX);
        TransferPacket { transfer, channel, packet, status, data: Variable2(data) }.encode(&mut body);
        (Message { number: MessageNumber::TRANSFER_PACKET, body, zerocode: true }, data.len())
    }
}

fn slice(asset: &[u8], start: usize) -> &[u8] {
    let rest = asset.get(start..).unwrap_or_default();
    rest.get(..CHUNK).unwrap_or(rest)
}

impl Deliveries {
    /// Takes on an asset. False when there are too many already, or nothing would be sent.
    pub fn start(
        &mut self,
        owner: Owner,
        form: Form,
        kind: AssetKind,
        asset: Bytes,
        source: AssetSource,
        priority: f32,
    ) -> bool {
        let (next, count) = match form {
            Form::Image { head: true, .. } => (0, packets(asset.len(), IMAGE_HEAD)),
            Form::Image { first, .. } => (first.max(1), packets(asset.len(), IMAGE_HEAD)),
            Form::Transfer { .. } => (0, packets(asset.len(), 0)),
        };
        let fits = match form {
            Form::Image { .. } => count <= u32::from(u16::MAX),
            Form::Transfer { .. } => i32::try_from(asset.len()).is_ok(),
        };
        let room = self.active.len() < MAX_DELIVERIES && self.bytes.saturating_add(asset.len()) <= MAX_BYTES;
        if !fits || !room || next >= count || asset.is_empty() {
            return false;
        }
        let wanted = match form {
            Form::Image { discard, .. } => Delivery::wanted_packets(&asset, discard, count),
            Form::Transfer { .. } => count,
        };
        self.bytes += asset.len();
        let delivery = Delivery {
            form,
            asset,
            kind,
            source,
            priority,
            next,
            count,
            wanted,
            unacknowledged: 0,
            sent_bytes: 0,
        };
        self.active.insert(owner, delivery);
        true
    }

    /// The viewer asks again for what is on its way: with another urgency, or in another resolution.
    pub fn update(&mut self, owner: Owner, priority: f32, discard: i8) {
        if let Some(delivery) = self.active.get_mut(&owner) {
            delivery.priority = priority;
            if let Form::Image { .. } = delivery.form {
                delivery.wanted = Delivery::wanted_packets(&delivery.asset, discard, delivery.count);
            }
        }
    }

    /// Whether it is on its way.
    #[must_use]
    pub fn contains(&self, owner: Owner) -> bool {
        self.active.contains_key(&owner)
    }

    /// The next packet to send. First what was asked for, then what is beyond the resolution asked
    /// for; among textures the viewer's own priority decides, then who asked first.
    pub fn take(&mut self) -> Option<(Owner, Message)> {
        let mut best: [Option<(Owner, bool, f32)>; 2] = [None; 2];
        for (owner, delivery) in &self.active {
            if !delivery.may_send() {
                continue;
            }
            let urgent = delivery.next < delivery.wanted;
            let [image, transfer] = &mut best;
            let slot = if delivery.is_transfer() { transfer } else { image };
            let better = slot.is_none_or(|(_, held_urgent, held)| {
                (urgent && !held_urgent) || (urgent == held_urgent && delivery.priority > held)
            });
            if better {
                *slot = Some((*owner, urgent, delivery.priority));
            }
        }
        let [image, transfer] = best;
        let image_waits = image.is_some_and(|(_, urgent, _)| urgent);
        let chosen = match (image, transfer) {
            (Some(image), Some(transfer)) => {
                if self.transfer_next || !image_waits {
                    transfer
                } else {
                    image
                }
            }
            (image, transfer) => image.or(transfer)?,
        };
        let delivery = self.active.get_mut(&chosen.0)?;
        self.transfer_next = !delivery.is_transfer();
        Some((chosen.0, delivery.take()))
    }

    /// The viewer has one packet more. Answers what was delivered when that was the last.
    pub fn acknowledged(&mut self, owner: Owner) -> Option<Delivered> {
        let delivery = self.active.get_mut(&owner)?;
        delivery.unacknowledged = delivery.unacknowledged.saturating_sub(1);
        if delivery.next < delivery.count || delivery.unacknowledged > 0 {
            return None;
        }
        self.stop(owner)
    }

    /// Sends nothing more of it. Answers what has been sent.
    pub fn stop(&mut self, owner: Owner) -> Option<Delivered> {
        let delivery = self.active.remove(&owner)?;
        self.bytes -= delivery.asset.len();
        Some(Delivered { kind: delivery.kind, source: delivery.source, bytes: delivery.sent_bytes })
    }

    /// True when there is something to send at once.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.active.values().any(Delivery::may_send)
    }

    /// Drops everything: the circuit is over.
    pub fn clear(&mut self) {
        self.active.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
