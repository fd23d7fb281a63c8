#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
use super::*;
use proptest::prelude::*;

const ROOM: usize = 1 << 20;

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 253) as u8).collect()
}

/// The packets of a texture, as OpenSimulator sends them.
fn image(body: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let (head, rest) = body.split_at(body.len().min(600));
    std::iter::once((0, head.to_vec())).chain((1..).zip(rest.chunks(1000).map(<[u8]>::to_vec))).collect()
}

fn feed(assembly: &mut ImageAssembly, len: usize, packet: &(u16, Vec<u8>), budget: &mut Budget) -> Progress {
    let packets = image(&body(len)).len() as u16;
    match packet {
        (0, data) => assembly.head(len as u32, packets, data, budget),
        (number, data) => assembly.packet(*number, data, budget),
    }
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![1usize, 599, 600, 601, 1600, 1601, 2600]),
        1usize..40_000,
        1usize..200_000
    ]
}

/// Which packets arrive, in which order: some twice, some not at all.
fn history(packets: usize) -> impl Strategy<Value = Vec<usize>> {
    let copies = prop::collection::vec(prop_oneof![1 => Just(0usize), 8 => Just(1), 2 => Just(2)], packets);
    copies
        .prop_map(|copies| {
            copies.iter().enumerate().flat_map(|(packet, times)| vec![packet; *times]).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_texture_is_whole_when_its_last_missing_packet_has_come(
        (len, order) in lengths().prop_flat_map(|len| {
            (Just(len), history(image(&body(len)).len()))
        })
    ) {
        let whole = body(len);
        let packets = image(&whole);
        let (mut assembly, mut budget) = (ImageAssembly::new(), Budget::new(ROOM));
        let mut seen = std::collections::BTreeSet::new();
        for packet in order {
            let complete_before = seen.len() == packets.len();
            seen.insert(packet);
            let progress = feed(&mut assembly, len, &packets[packet], &mut budget);
            if complete_before {
                prop_assert_eq!(progress, Progress::Refused, "it has been told once");
            } else if seen.len() == packets.len() {
                prop_assert_eq!(progress, Progress::Complete(whole.clone().into()));
            } else {
                prop_assert_eq!(progress, Progress::More);
            }
        }
        if let Some((total, extents)) = assembly.release(&mut budget) {
            prop_assert!(seen.contains(&0) && seen.len() < packets.len());
            prop_assert_eq!(total, len as u64);
            let mut end = None;
            for (start, data) in extents {
                prop_assert!(end.is_none_or(|end| end < start), "adjacent parts are joined");
                prop_assert_eq!(&data[..], &whole[start as usize..start as usize + data.len()]);
                end = Some(start + data.len() as u64);
            }
        }
        prop_assert_eq!(budget.left, ROOM);
    }

    #[test]
    fn a_transfer_is_whole_when_its_last_missing_packet_has_come(
        (len, chunk, empty_last, order) in (1usize..60_000, prop_oneof![Just(600usize), Just(1000)], any::<bool>())
            .prop_flat_map(|(len, chunk, empty_last)| {
                let count = len.div_ceil(chunk) + usize::from(empty_last) + 1;
                (Just(len), Just(chunk), Just(empty_last), history(count))
            })
    ) {
        let whole = body(len);
        let mut data: Vec<Vec<u8>> = whole.chunks(chunk).map(<[u8]>::to_vec).collect();
        if empty_last {
            data.push(Vec::new());
        }
        let (mut assembly, mut budget) = (TransferAssembly::new(AssetKind::Sound), Budget::new(ROOM));
        let mut seen = std::collections::BTreeSet::new();
        for item in order {
            let complete_before = seen.len() == data.len() + 1;
            seen.insert(item);
            let progress = match item.checked_sub(1) {
                None => assembly.info(0, len as i32, &mut budget),
                Some(packet) => {
                    let status = i32::from(packet + 1 == data.len());
                    assembly.packet(packet as i32, status, &data[packet], &mut budget)
                }
            };
            if complete_before {
                prop_assert_eq!(progress, Progress::Refused);
            } else if seen.len() == data.len() + 1 {
                prop_assert_eq!(progress, Progress::Complete(whole.clone().into()));
            } else {
                prop_assert_eq!(progress, Progress::More);
            }
        }
        assembly.release(&mut budget);
        prop_assert_eq!(budget.left, ROOM);
    }

    #[test]
    fn no_history_panics_or_keeps_more_than_its_share(
        packets in prop::collection::vec((any::<u8>(), any::<i32>(), -3i32..3, 0usize..3000), 1..60),
        room in 0usize..20_000,
    ) {
        let (mut image, mut transfer) = (ImageAssembly::new(), TransferAssembly::new(AssetKind::Animation));
        let mut budget = Budget::new(room);
        for (what, number, status, len) in packets {
            let data = body(len);
            let small = number.rem_euclid(8);
            let _ = match what % 6 {
                0 => image.head(number as u32, small as u16, &data, &mut budget),
                1 => image.head(2700, 4, &data[..len.min(600)], &mut budget),
                2 => image.packet(small as u16, &data[..len.min(1000)], &mut budget),
                3 => transfer.info(status, number, &mut budget),
                4 => transfer.packet(number, status, &data, &mut budget),
                _ => transfer.packet(small, status, &data, &mut budget),
            };
            prop_assert!(budget.left <= room);
        }
        image.release(&mut budget);
        transfer.release(&mut budget);
        prop_assert_eq!(budget.left, room);
    }
}

#[test]
fn a_texture_that_contradicts_itself_is_refused_for_good() {
    let whole = body(2700);
    let packets = image(&whole);
    type Change = fn(&mut ImageAssembly, &mut Budget) -> Progress;
    let contradictions: [Change; 7] = [
        |image, budget| image.head(2701, 4, &body(600), budget),
        |image, budget| image.head(2700, 5, &body(600), budget),
        |image, budget| image.head(0, 1, &[], budget),
        |image, budget| image.head(2700, 4, &body(599), budget),
        |image, budget| image.packet(1, &[9; 1000], budget),
        |image, budget| image.packet(2, &[9; 999], budget),
        |image, budget| image.packet(4, &[9; 1000], budget),
    ];
    for change in contradictions {
        let (mut assembly, mut budget) = (ImageAssembly::new(), Budget::new(ROOM));
        assert_eq!(feed(&mut assembly, 2700, &packets[0], &mut budget), Progress::More);
        assert_eq!(feed(&mut assembly, 2700, &packets[1], &mut budget), Progress::More);
        assert_eq!(change(&mut assembly, &mut budget), Progress::Refused);
        for packet in &packets {
            assert_eq!(feed(&mut assembly, 2700, packet, &mut budget), Progress::Refused);
        }
        assert_eq!(assembly.release(&mut budget), None);
        assert_eq!(budget.left, ROOM);
    }
}

#[test]
fn a_transfer_that_contradicts_itself_is_refused_for_good() {
    type Change = fn(&mut TransferAssembly, &mut Budget) -> Progress;
    let contradictions: [Change; 9] = [
        |transfer, budget| transfer.info(0, 1501, budget),
        |transfer, budget| transfer.info(-2, 0, budget),
        |transfer, budget| transfer.packet(0, 0, &[9; 600], budget),
        |transfer, budget| transfer.packet(-1, 0, &[9; 600], budget),
        |transfer, budget| transfer.packet(1, 0, &[9; 2049], budget),
        |transfer, budget| transfer.packet(1, -1, &[9; 600], budget),
        |transfer, budget| transfer.packet(1, 0, &[], budget),
        // Too short, and the last word.
        |transfer, budget| transfer.packet(1, 1, &[9; 600], budget),
        |transfer, budget| {
            transfer.packet(3, 1, &[9; 300], budget);
            transfer.packet(4, 0, &[9; 300], budget)
        },
    ];
    for change in contradictions {
        let (mut assembly, mut budget) = (TransferAssembly::new(AssetKind::Sound), Budget::new(ROOM));
        assert_eq!(assembly.info(0, 1500, &mut budget), Progress::More);
        assert_eq!(assembly.packet(0, 0, &[1; 600], &mut budget), Progress::More);
        assert_eq!(change(&mut assembly, &mut budget), Progress::Refused);
        assert_eq!(assembly.packet(1, 0, &[1; 600], &mut budget), Progress::Refused);
        assert_eq!(budget.left, ROOM);
    }
}
