//! A simulator as OpenSimulator behaves.

use std::collections::{BTreeMap, HashMap, VecDeque};

use uuid::Uuid;

use super::{CHATTER, Catalog};
use crate::asset::policy;
use crate::lludp::assets::{
    ImageData, ImageNotInDatabase, ImagePacket, TransferInfo, TransferPacket, TransferRequest,
};
use crate::lludp::{MessageBody, MessageNumber, SequenceNumber, UdpAssetRequest, Variable2, asset_requests};

struct Texture {
    next: u32,
    sequence: SequenceNumber,
}

/// What a simulator does with what it has taken in.
#[derive(Default)]
pub(super) struct Simulator {
    textures: BTreeMap<Uuid, Texture>,
    outgoing: VecDeque<(MessageNumber, Vec<u8>)>,
    pub(super) executed: HashMap<u64, u32>,
    /// Transfers from an inventory, which pass no one else's hands.
    pub(super) private: HashMap<Uuid, Vec<Vec<u8>>>,
    /// Pieces of transfers are as large as Second Life's; an empty one is the last where all are full.
    pub(super) large_pieces: bool,
}

fn encoded<'a>(message: &impl MessageBody<'a>) -> Vec<u8> {
    let mut body = Vec::new();
    message.encode(&mut body);
    body
}

impl Simulator {
    pub(super) fn new(large_pieces: bool) -> Self {
        Self { large_pieces, ..Self::default() }
    }

    pub(super) fn take(
        &mut self,
        number: MessageNumber,
        sequence: SequenceNumber,
        body: &[u8],
        catalog: &Catalog,
    ) {
        if number == CHATTER {
            let id = u64::from_le_bytes(body[..8].try_into().unwrap());
            *self.executed.entry(id).or_default() += 1;
        }
        for request in asset_requests(number, body).unwrap() {
            match request {
                UdpAssetRequest::Image(image) => {
                    self.texture(image.image, image.discard, image.priority, image.packet, sequence, catalog);
                }
                UdpAssetRequest::Transfer(transfer) if transfer.asset().is_none() => {
                    self.private.entry(transfer.transfer).or_default().push(body.to_vec());
                }
                UdpAssetRequest::Transfer(transfer) => self.transfer(&transfer, catalog),
            }
        }
    }

    fn texture(
        &mut self,
        id: Uuid,
        discard: i8,
        priority: f32,
        packet: u32,
        sequence: SequenceNumber,
        catalog: &Catalog,
    ) {
        if let Some(running) = self.textures.get_mut(&id) {
            if !sequence.is_after(running.sequence) {
                return;
            }
            running.sequence = sequence;
            if discard < 0 && priority == 0.0 {
                self.textures.remove(&id);
            } else {
                running.next = packet.saturating_sub(1).max(1);
            }
            return;
        }
        if discard < 0 && priority == 0.0 {
            return;
        }
        // The picture for missing ones goes by the name of the one that is missing.
        let Some(body) = catalog.get(&id).or_else(|| catalog.get(&policy::MISSING_IMAGE.0)) else {
            let message = ImageNotInDatabase { image: id };
            return self.outgoing.push_back((MessageNumber::IMAGE_NOT_IN_DATABASE, encoded(&message)));
        };
        let data = &body[..body.len().min(600)];
        let packets = u16::try_from(body.len().saturating_sub(600).div_ceil(1000) + 1).unwrap();
        let size = u32::try_from(body.len()).unwrap();
        let head = ImageData { image: id, codec: 2, size, packets, data: Variable2(data) };
        self.outgoing.push_back((MessageNumber::IMAGE_DATA, encoded(&head)));
        self.textures.insert(id, Texture { next: packet.max(1), sequence });
    }

    fn transfer(&mut self, request: &TransferRequest<'_>, catalog: &Catalog) {
        let transfer = request.transfer;
        let Some(body) = request.asset().and_then(|(id, _)| catalog.get(&id)) else { return };
        let size = i32::try_from(body.len()).unwrap();
        let params = request.params;
        let info = TransferInfo { transfer, channel: 2, target: 0, status: 0, size, params };
        self.outgoing.push_back((MessageNumber::TRANSFER_INFO, encoded(&info)));
        let piece = if self.large_pieces { 1000 } else { 600 };
        let mut pieces: Vec<&[u8]> = body.chunks(piece).collect();
        if self.large_pieces && body.len().is_multiple_of(piece) {
            pieces.push(&[]);
        }
        let count = pieces.len();
        for (packet, data) in pieces.into_iter().enumerate() {
            let status = i32::from(packet + 1 == count);
            let packet = i32::try_from(packet).unwrap();
            let message = TransferPacket { transfer, channel: 2, packet, status, data: Variable2(data) };
            self.outgoing.push_back((MessageNumber::TRANSFER_PACKET, encoded(&message)));
        }
    }

    /// The next few packets, as the throttle allows.
    pub(super) fn pump(&mut self, catalog: &Catalog) -> Vec<(MessageNumber, Vec<u8>)> {
        let mut out: Vec<_> = (0..4).filter_map(|_| self.outgoing.pop_front()).collect();
        let mut done = Vec::new();
        for (id, texture) in &mut self.textures {
            let body = catalog.get(id).unwrap_or_else(|| &catalog[&policy::MISSING_IMAGE.0]);
            let start = 600 + (texture.next as usize - 1) * 1000;
            if start >= body.len() {
                done.push(*id);
                continue;
            }
            let data = &body[start..body.len().min(start + 1000)];
            let packet = u16::try_from(texture.next).unwrap();
            let message = ImagePacket { image: *id, packet, data: Variable2(data) };
            out.push((MessageNumber::IMAGE_PACKET, encoded(&message)));
            texture.next += 1;
        }
        for id in done {
            self.textures.remove(&id);
        }
        out
    }
}
