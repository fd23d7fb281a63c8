#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::asset::{AssetId, AssetKind};
use crate::grid::GridId;

fn key(region: u32) -> RouteKey {
    let asset =
        AssetKey { grid: GridId::new("grid.example"), kind: AssetKind::Texture, id: AssetId(Uuid::nil()) };
    RouteKey::new(&asset, &region.to_be_bytes(), false)
}

fn nodes(numbers: impl IntoIterator<Item = u8>) -> Vec<SocketAddr> {
    numbers.into_iter().map(|n| SocketAddr::from(([192, 0, 2, n], 8443))).collect()
}

fn routing(addresses: &[SocketAddr]) -> Routing {
    let mut routing = Routing::default();
    routing.resolved(Instant::now(), addresses);
    routing
}

#[test]
fn regions_spread_evenly_and_every_proxy_agrees() {
    let now = Instant::now();
    let all = nodes(1..=5);
    let mut reversed = all.clone();
    reversed.reverse();
    let (one, other) = (routing(&all), routing(&reversed));
    let mut counted = HashMap::<SocketAddr, u32>::new();
    for region in 0..5000 {
        let order = one.order(now, &key(region));
        assert_eq!(order, other.order(now, &key(region)));
        *counted.entry(order[0]).or_default() += 1;
    }
    assert!(counted.len() == 5 && counted.values().all(|count| (850..1150).contains(count)), "{counted:?}");
}

proptest! {
    #[test]
    fn a_node_that_leaves_moves_only_its_own_and_gets_it_back(count in 2_u8..12, gone in 0_usize..12, regions in 1_u32..200) {
        let now = Instant::now();
        let all = nodes(1..=count);
        let gone = all[gone % all.len()];
        let mut changing = routing(&all);
        let before: Vec<_> = (0..regions).map(|region| changing.order(now, &key(region))).collect();
        let left: Vec<_> = all.iter().copied().filter(|node| *node != gone).collect();
        changing.resolved(now, &left);
        for (region, before) in (0..regions).zip(&before) {
            let expected: Vec<_> = before.iter().copied().filter(|node| *node != gone).collect();
            prop_assert_eq!(changing.order(now, &key(region)), expected);
        }
        changing.resolved(now, &all);
        for (region, before) in (0..regions).zip(&before) {
            prop_assert_eq!(&changing.order(now, &key(region)), before);
        }
    }

    #[test]
    fn whatever_happens_every_node_stays_in_the_order_once(
        events in proptest::collection::vec((0_u8..6, any::<bool>(), 0_u64..90), 0..60),
    ) {
        let mut now = Instant::now();
        let all = nodes(0..5);
        let mut routing = routing(&all);
        for (node, answered, seconds) in events {
            now += Duration::from_secs(seconds);
            let node = SocketAddr::from(([192, 0, 2, node], 8443));
            routing.begun(node);
            if answered { routing.answered(node) } else { routing.failed(now, node) }
            routing.ended(node);
            let mut order = routing.order(now, &key(7));
            order.sort();
            prop_assert_eq!(&order, &all);
        }
    }
}

#[test]
fn of_the_best_two_the_less_busy_is_asked() {
    let now = Instant::now();
    let mut routing = routing(&nodes(1..=4));
    let order = routing.order(now, &key(1));
    routing.begun(order[0]);
    assert_eq!(routing.order(now, &key(1))[..2], [order[1], order[0]]);
    routing.begun(order[1]);
    assert_eq!(routing.order(now, &key(1)), order);
    for node in &order[..2] {
        routing.answered(*node);
        routing.ended(*node);
    }
    assert_eq!(routing.order(now, &key(1)), order);
}

#[test]
fn a_node_that_fails_comes_last_for_longer_each_time_and_is_forgiven() {
    let mut now = Instant::now();
    let mut routing = routing(&nodes(1..=3));
    let order = routing.order(now, &key(1));
    let fail = |routing: &mut Routing, now| {
        routing.begun(order[0]);
        routing.failed(now, order[0]);
        routing.ended(order[0]);
    };
    // Ten that were under way are one failure.
    for _ in 0..10 {
        fail(&mut routing, now);
    }
    assert_eq!(routing.order(now, &key(1)), [order[1], order[2], order[0]]);
    now += FIRST_PAUSE;
    assert_eq!(routing.order(now, &key(1)), order);
    fail(&mut routing, now);
    assert_eq!(routing.order(now + FIRST_PAUSE, &key(1))[2], order[0]);
    assert_eq!(routing.order(now + FIRST_PAUSE * 2, &key(1)), order);
    for _ in 0..40 {
        now += LONGEST_PAUSE;
        fail(&mut routing, now);
    }
    assert_eq!(routing.order(now + LONGEST_PAUSE, &key(1)), order);
    routing.begun(order[0]);
    routing.answered(order[0]);
    routing.ended(order[0]);
    fail(&mut routing, now);
    assert_eq!(routing.order(now + FIRST_PAUSE, &key(1)), order, "one answer, and all is forgiven");
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn one_family_is_used() {
    let now = Instant::now();
    let six = addresses(&["[2001:db8::1]:8443"]);
    let mut both = nodes(1..=1);
    both.extend(&six);
    assert_eq!(routing(&both).order(now, &key(1)), six);
    both.extend(nodes(2..=3));
    assert_eq!(routing(&both).len(), 3);
    // An IPv4 address is one, however it is written.
    assert_eq!(
        routing(&addresses(&["[::ffff:192.0.2.1]:8443", "192.0.2.1:8443"])).order(now, &key(1)),
        nodes(1..=1)
    );
}

#[test]
fn the_other_family_is_used_where_the_first_gives_no_connection() {
    let now = Instant::now();
    let six = addresses(&["[2001:db8::1]:8443", "[2001:db8::2]:8443"]);
    let four = nodes(1..=2);
    let mut routing = routing(&[six.clone(), four.clone()].concat());
    let used = |routing: &Routing, now| {
        let mut used = routing.order(now, &key(1));
        used.sort_unstable();
        used
    };
    assert_eq!(used(&routing, now), six);
    routing.failed(now, six[0]);
    assert_eq!(used(&routing, now), six, "one has not failed");
    routing.answered(six[1]);
    routing.failed(now, six[1]);
    assert_eq!(used(&routing, now), four);
    // Another answer of the name server changes nothing of that, until it is time to try again.
    let all = [six.clone(), four.clone()].concat();
    routing.resolved(now + Duration::from_secs(59), &all);
    assert_eq!(used(&routing, now), four);
    let later = now + FAMILY_PAUSE[0];
    routing.resolved(later, &all);
    assert_eq!(used(&routing, later), six);
    for node in &six {
        routing.failed(later, *node);
    }
    assert_eq!(used(&routing, later), four);
    routing.resolved(later + FAMILY_PAUSE[0], &all);
    assert_eq!(used(&routing, later), four, "longer the second time");
    // When nothing works in either, somebody is asked all the same.
    for node in &four {
        routing.failed(later, *node);
    }
    assert_eq!(used(&routing, later).len(), 2);
    let mut one = super::tests::routing(&four);
    for node in &four {
        one.failed(now, *node);
    }
    assert_eq!(used(&one, now), four, "there is no other family");
}

#[test]
fn a_name_server_is_not_believed_everything() {
    let now = Instant::now();
    let many: Vec<_> = (0..5000_u16).map(|n| SocketAddr::from(([10, 0, 0, 1], n + 1))).collect();
    let mut routing = routing(&many);
    assert_eq!(routing.len(), MAX_NODES);
    let believed = routing.order(now, &key(1));
    let mut turned = many;
    turned.rotate_left(1234);
    routing.resolved(now, &turned);
    assert_eq!(routing.order(now, &key(1)), believed, "the same ones, in whatever order they come");
    for nonsense in [
        vec![],
        addresses(&["0.0.0.0:8443", "[::]:8443", "224.0.0.1:8443", "255.255.255.255:8443", "[ff02::1]:8443"]),
        addresses(&["[::ffff:0.0.0.0]:8443", "192.0.2.1:0"]),
    ] {
        routing.resolved(now, &nonsense);
        assert_eq!(routing.order(now, &key(1)), believed, "what is known stays");
        assert!(super::tests::routing(&nonsense).is_empty());
    }
    routing.resolved(now, &[nodes(1..=1), addresses(&["0.0.0.0:8443"])].concat());
    assert_eq!(routing.order(now, &key(1)), nodes(1..=1));
}

#[test]
fn a_node_is_gone_when_it_is_late_twice_without_an_answer() {
    let asked = Instant::now();
    let now = asked + SILENCE;
    let mut routing = routing(&nodes(1..=3));
    let order = routing.order(now, &key(1));
    assert!(!routing.late(now, order[0], asked));
    routing.answered(order[0]);
    assert!(!routing.late(now, order[0], asked), "it has answered meanwhile");
    assert!(routing.late(now, order[0], now));
    assert_eq!(routing.order(now, &key(1))[2], order[0]);
    assert!(routing.is_failing_over(now) && !routing.is_failing_over(now + FIRST_PAUSE));
    assert_eq!(routing.well(now), 2);
}

#[test]
fn a_short_pause_is_not_the_end_of_a_node() {
    let start = Instant::now();
    let mut routing = routing(&nodes(1..=3));
    let node = routing.order(start, &key(1))[0];
    for ms in 1..20 {
        assert!(!routing.late(
            start + Duration::from_millis(ms),
            node,
            start + Duration::from_millis(ms - 1)
        ));
    }
    assert!(routing.late(start + SILENCE, node, start + SILENCE));
}

#[test]
fn one_request_finds_out_whether_a_node_is_back() {
    let now = Instant::now();
    let mut routing = routing(&nodes(1..=3));
    let order = routing.order(now, &key(1));
    routing.failed(now, order[0]);
    let later = now + FIRST_PAUSE;
    assert_eq!(routing.order(later, &key(1)), order);
    routing.begun(order[0]);
    assert_eq!(routing.order(later, &key(1))[2], order[0], "others do not wait for it");
    routing.answered(order[0]);
    routing.begun(order[1]);
    assert_eq!(routing.order(later, &key(1)), order);
}

#[test]
fn a_node_that_has_no_time_is_let_alone_and_is_no_failure() {
    let now = Instant::now();
    let mut routing = routing(&nodes(1..=2));
    let order = routing.order(now, &key(1));
    routing.busy(now, order[0], Duration::from_secs(10));
    assert_eq!(routing.order(now, &key(1)), [order[1], order[0]]);
    assert!(!routing.is_silent() && !routing.is_failing_over(now));
    assert_eq!(routing.order(now + Duration::from_secs(10), &key(1)), order);
    routing.busy(now, order[0], Duration::from_secs(100_000));
    assert_eq!(routing.order(now + LONGEST_PAUSE, &key(1)), order);
}

#[test]
fn one_node_that_misses_is_not_the_service() {
    let now = Instant::now();
    let mut routing = routing(&nodes(1..=5));
    for _ in 0..100 {
        routing.late(now, nodes(1..=1)[0], now);
        routing.failed(now, nodes(2..=2)[0]);
    }
    assert!(!routing.is_silent());
    routing.late(now, nodes(3..=3)[0], now);
    assert!(routing.is_silent(), "three of five, and no answer in between");
    routing.answered(nodes(4..=4)[0]);
    assert!(!routing.is_silent());
    // All there are is enough; one alone is the service.
    routing.resolved(now, &nodes(1..=2));
    routing.failed(now, nodes(1..=1)[0]);
    assert!(!routing.is_silent());
    routing.failed(now, nodes(2..=2)[0]);
    assert!(routing.is_silent());
    assert!(super::tests::routing(&nodes(1..=1)).is_silent());
    assert!(!super::tests::routing(&nodes(1..=1)).has_choice());
}

#[test]
fn second_nodes_are_asked_of_one_request_in_ten_at_most() {
    let mut routing = routing(&nodes(1..=3));
    let mut hedged = 0;
    for _ in 0..1000 {
        routing.begun(nodes(1..=1)[0]);
        hedged += u32::from(routing.may_hedge());
    }
    assert!((95..=110).contains(&hedged), "{hedged}");
}

#[test]
fn central_grids_split_by_the_ids_first_digit() {
    let asset = |id: u128| AssetKey {
        grid: GridId::new("agni"),
        kind: AssetKind::Texture,
        id: AssetId(Uuid::from_u128(id << 120)),
    };
    let route = |id| RouteKey::new(&asset(id), b"any", true);
    assert_eq!(route(0x31), route(0x3f));
    assert_ne!(route(0x31), route(0x41));
}

#[test]
fn answers_that_all_come_too_late_are_the_services_fault() {
    let now = Instant::now();
    let mut routing = routing(&nodes(1..=5));
    let node = nodes(1..=1)[0];
    for _ in 0..SLOW_ANSWERS - 1 {
        routing.late(now, node, now);
        routing.answered_late(node);
    }
    assert!(!routing.is_silent());
    routing.heard(node);
    routing.answered_late(node);
    assert!(routing.is_silent());
    // Another is in time.
    routing.answered(nodes(2..=2)[0]);
    assert!(!routing.is_silent());
}

#[test]
fn one_node_has_two_addresses_and_a_links_own_has_its_zone() {
    let both = addresses(&["[2001:db8::1]:8443", "192.0.2.1:8443"]);
    let both = routing(&both);
    assert!(both.has_other() && !both.has_choice() && both.is_silent());
    assert!(routing(&addresses(&["[fe80::1]:8443"])).is_empty());
    let zoned = addresses(&["[fe80::1%3]:8443"]);
    assert_eq!(routing(&zoned).order(Instant::now(), &key(1)), zoned);
}
