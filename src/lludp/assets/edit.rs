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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::lludp::{SequenceNumber, UdpAssetRequest, asset_requests};

    const AGENT: AgentId = AgentId(Uuid::from_u128(0x1111_1111_2222_3333_4444_5555_5555_5555));

    fn session() -> SessionId {
        SessionId(crate::redact::Redacted::new(Uuid::from_u128(0xaaaa_aaaa_bbbb_cccc_dddd_eeee_eeee_eeee)))
    }

    fn images(count: usize) -> Vec<ImageRequest> {
        let image = |n: usize| ImageRequest {
            image: Uuid::from_u128(n as u128 * 0x0100_0000_0001),
            discard: i8::try_from(n % 6).unwrap(),
            priority: 1000.0,
            packet: u32::try_from(n).unwrap(),
            kind: 0,
        };
        (0..count).map(image).collect()
    }

    fn decoded(datagram: &[u8]) -> Vec<ImageRequest> {
        let packet = Packet::decode(datagram).unwrap();
        let mut scratch = Vec::new();
        let requests = asset_requests(packet.number, packet.body(&mut scratch).unwrap()).unwrap();
        let image = |request| match request {
            UdpAssetRequest::Image(image) => Some(image),
            UdpAssetRequest::Transfer(_) => None,
        };
        requests.filter_map(image).collect()
    }

    /// The vector was made by hand from the message template.
    #[test]
    fn a_request_is_written_as_the_template_says() {
        let image = ImageRequest {
            image: Uuid::from_u128(0x0089_5567_4747_2435_0a5b_92ed_257b_55d1),
            discard: 5,
            priority: 1000.0,
            packet: 0,
            kind: 0,
        };
        let body = request_image(AGENT, session(), &[image]);
        let acks = [SequenceNumber(16), SequenceNumber(17)];
        let number = MessageNumber::REQUEST_IMAGE;
        let datagram = encode_packet(PacketFlags::RELIABLE, SequenceNumber(60), number, &body, &acks, false);
        let mut expected = vec![0x50, 0, 0, 0, 60, 0, 8];
        expected.extend(AGENT.0.as_bytes());
        expected.extend(session().0.reveal().as_bytes());
        expected.push(1);
        expected.extend(image.image.as_bytes());
        expected.extend([5, 0, 0, 0x7A, 0x44, 0, 0, 0, 0, 0]);
        expected.extend([0, 0, 0, 16, 0, 0, 0, 17, 2]);
        assert_eq!(datagram, expected);
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_gone_and_the_rest_is_as_it_was(
            count in 0_usize..30,
            gone in any::<u32>(),
            zerocode in any::<bool>(),
            behind in prop::collection::vec(any::<u8>(), 0..5),
            acks in prop::collection::vec(any::<u32>().prop_map(SequenceNumber), 0..4),
            sequence in any::<u32>(),
        ) {
            let blocks = images(count);
            let mut body = request_image(AGENT, session(), &blocks);
            body.extend_from_slice(&behind);
            let flags = PacketFlags::RELIABLE.with(PacketFlags::RESENT);
            let number = MessageNumber::REQUEST_IMAGE;
            let datagram = encode_packet(flags, SequenceNumber(sequence), number, &body, &acks, zerocode);
            let is_gone = |block: usize| gone >> block & 1 == 1;
            let edited = without_images(&datagram, &is_gone).unwrap();
            let packet = Packet::decode(&edited).unwrap();
            prop_assert_eq!(packet.flags.without(PacketFlags::ZEROCODED), flags);
            prop_assert_eq!(packet.sequence, SequenceNumber(sequence));
            prop_assert_eq!(packet.acks().len(), 0);
            let kept: Vec<ImageRequest> =
                blocks.iter().enumerate().filter(|(n, _)| !is_gone(*n)).map(|(_, block)| *block).collect();
            prop_assert_eq!(decoded(&edited), kept);
            let mut scratch = Vec::new();
            let edited_body = packet.body(&mut scratch).unwrap();
            prop_assert_eq!(&edited_body[..32], &body[..32]);
            prop_assert!(edited_body.ends_with(&behind));
            for end in 0..datagram.len() {
                let _ = without_images(&datagram[..end], &is_gone);
            }
        }
    }
}
