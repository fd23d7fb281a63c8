#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::lludp::fields::MessageBody;

const IMAGE: Uuid = Uuid::from_u128(0x0089_5567_4747_2435_0a5b_92ed_257b_55d1);

/// A body that asks for `count` textures, priorities 1000.
fn request_image(count: u8) -> Vec<u8> {
    let mut body = vec![0x11; 32];
    body.push(count);
    for packet in 0..count {
        body.extend_from_slice(IMAGE.as_bytes());
        body.extend_from_slice(&[0xFB, 0, 0, 0x7A, 0x44, packet, 0, 0, 0, 1]);
    }
    body
}

#[test]
fn a_request_lists_each_texture() {
    let body = request_image(3);
    let requests: Vec<_> = asset_requests(MessageNumber::REQUEST_IMAGE, &body).unwrap().collect();
    let expected = |packet| {
        UdpAssetRequest::Image(ImageRequest { image: IMAGE, discard: -5, priority: 1000.0, packet, kind: 1 })
    };
    assert_eq!(requests, [expected(0), expected(1), expected(2)]);
    assert_eq!(asset_requests(MessageNumber::IMAGE_DATA, &body).unwrap().count(), 0);
    assert_eq!(asset_requests(MessageNumber::REQUEST_IMAGE, &request_image(255)).unwrap().count(), 255);
}

#[test]
fn a_cut_request_is_refused_whole() {
    let body = request_image(2);
    // Without the count there are no blocks.
    assert_eq!(asset_requests(MessageNumber::REQUEST_IMAGE, &body[..32]).unwrap().count(), 0);
    for len in (0..32).chain(33..body.len()) {
        assert!(asset_requests(MessageNumber::REQUEST_IMAGE, &body[..len]).is_err(), "{len}");
    }
}

#[test]
fn a_transfer_names_its_asset_only_when_asked_for_by_id() {
    let params = [IMAGE.as_bytes().as_slice(), &[20, 0, 0, 0]].concat();
    let mut request = TransferRequest {
        transfer: Uuid::from_u128(7),
        channel: 2,
        source: TransferRequest::SOURCE_ASSET,
        priority: 101.0,
        params: Variable2(&params),
    };
    let mut body = Vec::new();
    request.encode(&mut body);
    let found: Vec<_> = asset_requests(MessageNumber::TRANSFER_REQUEST, &body).unwrap().collect();
    assert_eq!(found, [UdpAssetRequest::Transfer(request)]);
    assert_eq!(request.asset(), Some((IMAGE, 20)));
    request.source = 3;
    assert_eq!(request.asset(), None);
    request.source = TransferRequest::SOURCE_ASSET;
    request.params = Variable2(&params[..19]);
    assert_eq!(request.asset(), None);
}

#[test]
fn answers_survive_writing_and_reading() {
    let mut out = Vec::new();
    let first = ImageData { image: IMAGE, codec: 2, size: 2700, packets: 4, data: Variable2(&[7; 600]) };
    first.encode(&mut out);
    assert_eq!(out.len(), 16 + 1 + 4 + 2 + 2 + 600);
    assert_eq!(ImageData::decode(&out), Ok(first));

    out.clear();
    let further = ImagePacket { image: IMAGE, packet: 3, data: Variable2(&[8; 100]) };
    further.encode(&mut out);
    assert_eq!(ImagePacket::decode(&out), Ok(further));
    assert_eq!(ImagePacket::decode(&out[..19]).unwrap_err().field, "Data");

    out.clear();
    let packet =
        TransferPacket { transfer: IMAGE, channel: 2, packet: 1, status: 1, data: Variable2(b"end") };
    packet.encode(&mut out);
    assert_eq!(TransferPacket::decode(&out), Ok(packet));

    out.clear();
    let info =
        TransferInfo { transfer: IMAGE, channel: 2, target: 0, status: -2, size: 0, params: Variable2(b"") };
    info.encode(&mut out);
    assert_eq!(TransferInfo::decode(&out), Ok(info));

    out.clear();
    TransferAbort { transfer: IMAGE, channel: 2 }.encode(&mut out);
    assert_eq!(TransferAbort::decode(&out).unwrap().transfer, IMAGE);
    assert_eq!(ImageNotInDatabase::decode(IMAGE.as_bytes()).unwrap().image, IMAGE);
}
