#![allow(clippy::unwrap_used)]
use super::*;

fn number(n: u32) -> SequenceNumber {
    SequenceNumber(n)
}

/// The simulator's packets 10 to 13 and four of ours between, step by step as a circuit sees them.
#[test]
fn overtaken_and_resent_packets_keep_their_numbers() {
    let now = Instant::now();
    let mut map = SequenceMap::new(CounterWidth::Bits32);
    assert_eq!(map.inject(now), None, "nothing was heard yet");
    let pass = |map: &mut SequenceMap, original| {
        map.observe(number(original));
        map.to_wire(number(original)).0
    };
    assert_eq!(pass(&mut map, 10), 10);
    assert_eq!(map.inject(now), Some(number(11)));
    assert_eq!(map.inject(now), Some(number(12)));
    assert_eq!(pass(&mut map, 12), 14);
    assert_eq!(pass(&mut map, 11), 13);
    assert_eq!(map.inject(now), Some(number(15)));
    assert_eq!(pass(&mut map, 10), 10);
    assert_eq!(pass(&mut map, 13), 16);
    let named: Vec<Original> = (10..=16).map(|wire| map.to_original(number(wire))).collect();
    let sender = |original| Original::Sender(number(original));
    let ours = Original::Ours;
    assert_eq!(named, [sender(10), ours, ours, sender(11), sender(12), ours, sender(13)]);
    assert_eq!(map.oldest_to_wire(number(13)), number(16));
}

#[test]
fn a_number_outside_the_counter_is_told_from_one_that_has_gone_round() {
    let mut map = SequenceMap::new(CounterWidth::Bits24);
    assert!(map.is_outside(number(0)), "before the first packet");
    map.observe(number(5));
    assert!(map.is_outside(number(0)));
    let mut map = SequenceMap::new(CounterWidth::Bits24);
    map.observe(number(0xFF_FFF0));
    assert!(!map.is_outside(number(0)));
    map.observe(number(3));
    assert!(!map.is_outside(number(0)), "late, after the seam");
    let mut map = SequenceMap::new(CounterWidth::Bits32);
    map.observe(number(0xFF_FFF0));
    assert!(map.is_outside(number(0)), "this counter does not go round");
}

#[test]
fn opensimulators_counter_goes_on_beyond_24_bits_and_others_go_round() {
    let now = Instant::now();
    for (width, next, after) in
        [(CounterWidth::Bits32, 0x0100_0000, 0x0100_0001), (CounterWidth::Bits24, 0, 1)]
    {
        let mut map = SequenceMap::new(width);
        map.observe(number(0xFF_FFFF));
        assert_eq!(map.inject(now), Some(number(next)));
        map.observe(number(next));
        assert_eq!(map.to_wire(number(next)), number(after));
        assert_eq!(map.to_original(number(after)), Original::Sender(number(next)));
        // A receiver that counts 24 bits names the same packet so.
        assert_eq!(map.to_original(number(after & 0xFF_FFFF)), Original::Sender(number(next)));
        assert_eq!(map.to_original(number(0xFF_FFFF)), Original::Sender(number(0xFF_FFFF)));
    }
}

/// A long circuit: ten injections a second and as many packets, for half an hour.
#[test]
fn what_is_forgotten_leads_to_nobody_and_what_is_not_stays_right() {
    let start = Instant::now();
    for first in [1_u32, 0xFF_F000] {
        let mut map = SequenceMap::new(CounterWidth::Bits24);
        let mut passed: Vec<(u32, u32)> = Vec::new();
        let mut injected: Vec<u32> = Vec::new();
        for step in 0..18_000_u32 {
            let now = start + Duration::from_millis(u64::from(step) * 100);
            let original = number(first).wrapping_add(step);
            map.observe(original);
            passed.push((original.0, map.to_wire(original).0));
            injected.push(map.inject(now).unwrap().0);
            map.tick(now);
        }
        assert_eq!(map.remembered(), REMEMBERED_COUNT);
        let recent = passed.len() - REMEMBERED_COUNT;
        for (original, wire) in passed.iter().skip(recent) {
            assert_eq!(map.to_wire(number(*original)).0, *wire);
            assert_eq!(map.to_original(number(*wire)), Original::Sender(number(*original)));
        }
        assert!(
            injected
                .iter()
                .rev()
                .take(REMEMBERED_COUNT)
                .all(|wire| { map.to_original(number(*wire)) == Original::Ours })
        );
        // An ack for a packet long forgotten may not become one for another packet.
        for wire in injected.iter().take(1000).chain(passed.iter().take(1000).map(|(_, wire)| wire)) {
            assert_eq!(map.to_original(number(*wire)), Original::Forgotten);
        }
        let (old, wire) = passed[10];
        assert!(
            !map.oldest_to_wire(number(old)).is_after(number(wire)),
            "too low is harmless, too high is not"
        );
    }
}

#[test]
fn too_many_injections_are_refused_until_some_are_old() {
    let now = Instant::now();
    let mut map = SequenceMap::new(CounterWidth::Bits32);
    map.observe(number(1));
    assert_eq!((0..MAX_INJECTIONS + 5).filter(|_| map.inject(now).is_some()).count(), MAX_INJECTIONS);
    map.observe(number(2));
    assert_eq!(map.to_wire(number(2)).0, 2 + u32::try_from(MAX_INJECTIONS).unwrap());
    assert!(map.inject(now + REMEMBERED).is_some());
}
