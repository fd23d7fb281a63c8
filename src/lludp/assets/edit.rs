//! Building a `RequestImage`, and taking blocks out of one.

use super::requests::{IMAGE_BLOCK_BYTES, ImageRequest};
use crate::grid::{AgentId, SessionId};
use crate::lludp::fields::Field;
use crate::lludp::{MessageNumber, Packet, PacketFlags, encode_packet};

/// Bytes in front of the blocks: agent, session, count.
const BEFORE_BLOCKS: usize = 33;

/// The body of a `RequestImage` for these textures, at most 255.
#[must_use]
pub fn request_image(agent: AgentId, session: SessionId, images: &[ImageRequest]) -> Vec<u8> {
    let mut body = Vec::with_capacity(BEFORE_BLOCKS + images.len() * IMAGE_BLOCK_BYTES);
    agent.write(&mut body);
    session.write(&mut body);
    let count = u8::try_from(images.len()).unwrap_or(u8::MAX);
    count.write(&mut body);
    for request in images.iter().take(count.into()) {
        request.image.write(&mut body);
        request.discard.write(&mut body);
        request.priority.write(&mut body);
        request.packet.write(&mut body);
        request.kind.write(&mut body);
    }
    body
}

/// A `RequestImage` datagram without some of its blocks: those for whose index `remove` says so.
/// Number, flags and whatever follows the blocks stay; the ack trailer does not. `None` when the
/// datagram is no `RequestImage` that can be read, or has extra header bytes.
#[must_use]
pub fn without_images(datagram: &[u8], remove: &dyn Fn(usize) -> bool) -> Option<Vec<u8>> {
    let packet = Packet::decode(datagram).ok()?;
    if packet.number != MessageNumber::REQUEST_IMAGE || packet.extra_len != 0 {
        return None;
    }
    let mut scratch = Vec::new();
    let body = packet.body(&mut scratch).ok()?;
    let (front, blocks) = body.split_at_checked(BEFORE_BLOCKS)?;
    let (count, ids) = front.split_last()?;
    let (blocks, behind) = blocks.split_at_checked(usize::from(*count) * IMAGE_BLOCK_BYTES)?;
    let kept: Vec<&[u8]> = blocks
        .chunks_exact(IMAGE_BLOCK_BYTES)
        .enumerate()
        .filter(|(index, _)| !remove(*index))
        .map(|(_, block)| block)
        .collect();
    let mut edited = ids.to_vec();
    edited.push(u8::try_from(kept.len()).unwrap_or(u8::MAX));
    kept.iter().for_each(|block| edited.extend_from_slice(block));
    edited.extend_from_slice(behind);
    let zerocode = packet.flags.contains(PacketFlags::ZEROCODED);
    Some(encode_packet(packet.flags, packet.sequence, packet.number, &edited, &[], zerocode))
}
