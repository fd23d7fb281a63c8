//! Datagrams of asset traffic: reading, making, and comparing them.

use std::net::SocketAddr;
use std::sync::Arc;

use rezcache::lludp::assets::{ImageData, ImagePacket, TransferInfo, TransferPacket};
use rezcache::lludp::circuit::PacketAck;
use rezcache::lludp::{MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, Variable2, zerocode};
use uuid::Uuid;

use crate::support::RealAsset;
use crate::support::synthetic::Synthetic;

pub(super) const RELIABLE: u8 = PacketFlags::RELIABLE.0;
pub(super) const RESENT: u8 = PacketFlags::RESENT.0;
pub(super) const ZEROCODED: u8 = PacketFlags::ZEROCODED.0;
/// What a simulator sends under any id that it cannot find.
pub(super) const MISSING_IMAGE: Uuid = uuid::uuid!("5748decc-f629-461c-9a36-a35a221fe21f");
/// A message that nobody on the way knows.
pub(super) const UNKNOWN: MessageNumber = MessageNumber::low(0xEEEE);
pub(super) const SOUND: i32 = 1;
pub(super) const ANIMATION: i32 = 20;

/// Something to download.
#[derive(Clone)]
pub(super) struct Thing {
    pub(super) id: Uuid,
    pub(super) query: String,
    pub(super) bytes: Arc<Vec<u8>>,
}

impl From<RealAsset> for Thing {
    fn from(asset: RealAsset) -> Self {
        Self { id: asset.id.parse().unwrap(), query: asset.query, bytes: asset.bytes }
    }
}

impl Thing {
    /// A valid texture of about this size.
    pub(super) fn texture(world: u64, size: usize) -> Self {
        Self::synthetic(Synthetic::new(world, 0, size))
    }

    /// A valid sound of about this size.
    pub(super) fn sound(world: u64, size: usize) -> Self {
        Self::synthetic(Synthetic::new(world, 6, size))
    }

    fn synthetic(made: Synthetic) -> Self {
        let id = made.query.split('=').nth(1).unwrap().parse().unwrap();
        Self { id, query: made.query, bytes: made.bytes }
    }

    /// Packets a texture of this size has.
    pub(super) fn packets(&self) -> usize {
        1 + self.bytes.len().saturating_sub(600).div_ceil(1000)
    }
}

/// A datagram as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) datagram: Vec<u8>,
    pub(super) from: SocketAddr,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) number: MessageNumber,
    /// Expanded.
    pub(super) body: Vec<u8>,
    /// Those appended and those of a `PacketAck`.
    pub(super) acks: Vec<u32>,
}

impl Heard {
    pub(super) fn read(datagram: &[u8], from: SocketAddr) -> Self {
        let packet = Packet::decode(datagram).expect("no packet arrived");
        let body = packet.body(&mut Vec::new()).expect("a packet cut short arrived").to_vec();
        let mut acks: Vec<u32> = packet.acks().map(|id| id.0).collect();
        if packet.number == MessageNumber::PACKET_ACK {
            acks.extend(PacketAck::decode(&body).unwrap().ids().map(|id| id.0));
        }
        let (flags, sequence, number) = (packet.flags.0, packet.sequence.0, packet.number);
        Self { datagram: datagram.to_vec(), from, flags, sequence, number, body, acks }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Of which texture this is which packet.
    pub(super) fn image_part(&self) -> Option<(Uuid, usize, &[u8])> {
        match self.number {
            MessageNumber::IMAGE_DATA => {
                ImageData::decode(&self.body).ok().map(|part| (part.image, 0, part.data.0))
            }
            MessageNumber::IMAGE_PACKET => ImagePacket::decode(&self.body)
                .ok()
                .map(|part| (part.image, usize::from(part.packet), part.data.0)),
            _ => None,
        }
    }

    pub(super) fn transfer_info(&self) -> Option<TransferInfo<'_>> {
        (self.number == MessageNumber::TRANSFER_INFO).then(|| TransferInfo::decode(&self.body).unwrap())
    }

    pub(super) fn transfer_part(&self) -> Option<TransferPacket<'_>> {
        (self.number == MessageNumber::TRANSFER_PACKET).then(|| TransferPacket::decode(&self.body).unwrap())
    }
}

/// Equal in all but the sequence number, which the proxy may have to change.
pub(super) fn same_but_number(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one[0] == other[0] && one[5..] == other[5..]
}

/// A datagram of this message, zero-coded when the flags say so whether that makes it shorter or not.
pub(super) fn packet(flags: u8, sequence: u32, number: MessageNumber, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    number.write(&mut message);
    message.extend_from_slice(body);
    let mut datagram = vec![flags];
    datagram.extend(sequence.to_be_bytes());
    datagram.push(0);
    if flags & ZEROCODED == 0 {
        datagram.extend(message);
    } else {
        zerocode::pack(&message, &mut datagram);
    }
    datagram
}

pub(super) fn encoded<'a>(message: &impl MessageBody<'a>) -> Vec<u8> {
    let mut body = Vec::new();
    message.encode(&mut body);
    body
}

pub(super) fn ack_body(ids: &[u32]) -> Vec<u8> {
    let ids: Vec<_> = ids.iter().map(|&id| SequenceNumber(id)).collect();
    let mut body = Vec::new();
    assert!(PacketAck::write_ids(&ids, &mut body).is_empty());
    body
}

/// The bodies of a texture's packets.
pub(super) fn image_bodies(id: Uuid, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (head, rest) = bytes.split_at(bytes.len().min(600));
    let head = encoded(&ImageData {
        image: id,
        codec: 2,
        size: u32::try_from(bytes.len()).unwrap(),
        packets: u16::try_from(1 + rest.len().div_ceil(1000)).unwrap(),
        data: Variable2(head),
    });
    let rest = (1..)
        .zip(rest.chunks(1000))
        .map(|(packet, data)| encoded(&ImagePacket { image: id, packet, data: Variable2(data) }));
    std::iter::once(head).chain(rest).collect()
}

pub(super) fn params(id: Uuid, kind: i32) -> Vec<u8> {
    [id.as_bytes().as_slice(), &kind.to_le_bytes()].concat()
}

pub(super) fn missing_image() -> Arc<Vec<u8>> {
    Arc::new(crate::support::fixture("assets/fd366079-3692-5362-91ab-fb12420c15a3.texture"))
}
