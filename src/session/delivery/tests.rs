#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
use super::*;
use proptest::prelude::*;

const TEXTURE: &[u8] =
    include_bytes!("../../../fixtures/assets/82e34bc0-3a7b-5407-ad08-9bc0b2b3b08b.texture");

fn image(number: u128, head: bool, first: u32, discard: i8) -> Form {
    Form::Image { image: Uuid::from_u128(number), head, first, discard }
}

fn transfer(number: u128) -> Form {
    Form::Transfer { transfer: Uuid::from_u128(number), channel: 2, params: [7; 20] }
}

fn start(deliveries: &mut Deliveries, owner: Owner, form: Form, asset: &[u8], priority: f32) -> bool {
    let asset = Bytes::copy_from_slice(asset);
    deliveries.start(owner, form, AssetKind::Texture, asset, AssetSource::Memory, priority)
}

/// Everything there is to send, as long as the window lasts.
fn drain(deliveries: &mut Deliveries) -> Vec<(Owner, Message)> {
    std::iter::from_fn(|| deliveries.take()).collect()
}

/// The texture that a viewer puts together, checked as strictly as Firestorm checks it.
fn assembled(messages: &[Message]) -> Vec<u8> {
    let mut asset = Vec::new();
    let mut head = None;
    for (index, message) in messages.iter().enumerate() {
        if message.number == MessageNumber::IMAGE_DATA {
            let data = ImageData::decode(&message.body).unwrap();
            assert_eq!(index, 0);
            assert!(data.data.0.len() == 600 || data.data.0.len() == data.size as usize);
            assert_eq!(data.codec, 2);
            asset.extend_from_slice(data.data.0);
            head = Some((data.size, data.packets));
        } else {
            let data = ImagePacket::decode(&message.body).unwrap();
            assert_eq!(usize::from(data.packet), index);
            let last = data.packet + 1 == head.unwrap().1;
            assert!(data.data.0.len() == 1000 || (last && !data.data.0.is_empty()));
            asset.extend_from_slice(data.data.0);
        }
    }
    assert_eq!(head.unwrap(), (asset.len() as u32, messages.len() as u16));
    asset
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_texture_is_framed_as_viewers_demand(
        len in prop_oneof![Just(1usize), Just(599), Just(600), Just(601), Just(1600), Just(1601), 1usize..200_000]
    ) {
        let asset: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut deliveries = Deliveries::default();
        prop_assert!(start(&mut deliveries, 1, image(1, true, 0, 0), &asset, 1.0));
        let messages: Vec<Message> = drain(&mut deliveries).into_iter().map(|(_, message)| message).collect();
        prop_assert_eq!(assembled(&messages), asset);
    }

    #[test]
    fn a_transfer_keeps_ahead_no_more_than_a_viewer_parks(len in 1usize..120_000) {
        let asset: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut deliveries = Deliveries::default();
        prop_assert!(start(&mut deliveries, 1, transfer(9), &asset, 1.0));
        let mut body = Vec::new();
        let mut done = None;
        let mut next = 0;
        loop {
            let batch = drain(&mut deliveries);
            prop_assert!(batch.len() <= 50);
            for (_, message) in &batch {
                if message.number == MessageNumber::TRANSFER_INFO {
                    let info = TransferInfo::decode(&message.body).unwrap();
                    prop_assert_eq!((info.status, info.size as usize, info.channel), (0, len, 2));
                    prop_assert_eq!(info.params.0, &[7u8; 20][..]);
                    continue;
                }
                let packet = TransferPacket::decode(&message.body).unwrap();
                prop_assert_eq!(packet.packet, next);
                prop_assert!(done.is_none());
                next += 1;
                body.extend_from_slice(packet.data.0);
                done = (packet.status == 1).then_some(());
            }
            let mut end = None;
            for _ in &batch {
                end = deliveries.acknowledged(1);
            }
            if let Some(end) = end {
                prop_assert_eq!(end.bytes, len as u64);
                break;
            }
        }
        prop_assert_eq!(body, asset);
        prop_assert!(done.is_some());
    }
}

#[test]
fn a_viewer_with_a_beginning_gets_the_rest() {
    let mut deliveries = Deliveries::default();
    assert!(start(&mut deliveries, 1, image(1, false, 3, 0), TEXTURE, 1.0));
    let messages = drain(&mut deliveries);
    let first = ImagePacket::decode(&messages[0].1.body).unwrap();
    assert_eq!((first.packet, first.data.0), (3, &TEXTURE[2600..3600]));
    assert!(!start(&mut deliveries, 2, image(2, false, 9999, 0), TEXTURE, 1.0), "nothing is left to send");
}

#[test]
fn the_most_wanted_texture_goes_first_and_an_update_changes_that() {
    let mut deliveries = Deliveries::default();
    for (owner, priority) in [(1, 10.0), (2, 1000.0), (3, 10.0)] {
        assert!(start(&mut deliveries, owner, image(owner.into(), true, 0, 0), TEXTURE, priority));
    }
    assert_eq!(deliveries.take().unwrap().0, 2);
    deliveries.update(3, 5000.0, 0);
    assert_eq!(deliveries.take().unwrap().0, 3);
    deliveries.stop(3);
    deliveries.stop(2);
    assert_eq!(deliveries.take().unwrap().0, 1);
}

#[test]
fn textures_and_transfers_take_turns() {
    let mut deliveries = Deliveries::default();
    assert!(start(&mut deliveries, 1, image(1, true, 0, 0), TEXTURE, 1e6));
    assert!(start(&mut deliveries, 2, transfer(2), TEXTURE, 1.0));
    let order: Vec<Owner> = (0..6).map(|_| deliveries.take().unwrap().0).collect();
    assert_eq!(order, [1, 2, 1, 2, 1, 2]);
}

#[test]
fn the_resolution_asked_for_goes_before_the_rest_of_any_texture() {
    let wanted = j2c::bytes_for_discard(j2c::header(TEXTURE).unwrap(), 5) as usize;
    assert!(wanted < TEXTURE.len(), "the fixture is larger than its smallest picture");
    let mut deliveries = Deliveries::default();
    assert!(start(&mut deliveries, 1, image(1, true, 0, 5), TEXTURE, 1000.0));
    assert!(start(&mut deliveries, 2, image(2, true, 0, 5), TEXTURE, 1.0));
    let order: Vec<Owner> = drain(&mut deliveries).into_iter().map(|(owner, _)| owner).collect();
    let needed = packets(wanted, 600) as usize;
    assert!(order[..needed].iter().all(|owner| *owner == 1));
    assert!(order[needed..2 * needed].iter().all(|owner| *owner == 2), "its coarse picture is sooner wanted");
    assert!(order[2 * needed..].contains(&1));
}

#[test]
fn too_much_at_once_is_left_to_the_simulator() {
    let mut deliveries = Deliveries::default();
    let taken =
        (0..2000).filter(|n| start(&mut deliveries, *n, image((*n).into(), true, 0, 0), TEXTURE, 1.0));
    assert_eq!(taken.count(), MAX_DELIVERIES);
    deliveries.stop(5);
    assert!(start(&mut deliveries, 5000, image(5000, true, 0, 0), TEXTURE, 1.0));
    assert!(!start(&mut deliveries, 5001, image(1, true, 0, 0), &[], 1.0), "an empty texture breaks viewers");
}
