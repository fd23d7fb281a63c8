#![allow(clippy::unwrap_used)]

use super::*;
use crate::client::resolve::{Resolve, Resolver, Resolving};
use crate::grid::GridId;

#[derive(Debug)]
struct Three;

impl Resolve for Three {
    fn resolve(&self, _: &str) -> Resolving {
        let addresses = (1..=3).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        Box::pin(async move {
            Ok(Resolved { addresses, ttl: Some(Duration::from_secs(600)), ..Resolved::default() })
        })
    }
}

fn nodes(url: &str) -> Nodes {
    let resolver = Resolver::Other(Arc::new(Three));
    Nodes::new(ServerAddress { resolver, ..url.parse().unwrap() }).unwrap()
}

fn use_all(nodes: &Nodes) {
    let route = RouteKey::of(&GridId::new("grid.example"), None, &[], false);
    let mut tried = Vec::new();
    while let Some((link, _)) = nodes.begin(&route, &tried, false, Duration::from_secs(1)) {
        tried.push(link.at);
    }
}

#[tokio::test]
async fn links_that_are_not_used_end_and_the_name_is_left_in_peace() {
    let several = nodes("http://cache.example.org");
    several.known().await.unwrap();
    use_all(&several);
    assert_eq!((several.links().len(), several.count(), several.failovers()), (3, (3, 3), 2));
    let now = Instant::now();
    assert!(several.0.care(now + IDLE / 2));
    assert_eq!(several.links().len(), 3);
    assert!(!several.0.care(now + IDLE * 2), "nothing was asked for so long");
    assert_eq!(several.links().len(), 0);
    several.known().await.unwrap();
    assert!(several.0.state().cared_for, "it is used again");

    // One node alone keeps its connection, as there is nothing to be saved.
    let one = nodes("http://10.0.0.9:8443");
    one.known().await.unwrap();
    use_all(&one);
    one.0.care(now + IDLE * 2);
    assert_eq!((one.links().len(), one.have_choice()), (1, false));
    assert_eq!(one.0.state().resolve_at, None, "an address is no name");
}

#[tokio::test]
async fn a_node_whose_answer_nobody_waits_for_any_more_is_late_only_if_it_had_its_time() {
    let nodes = nodes("http://cache.example.org");
    nodes.known().await.unwrap();
    let route = RouteKey::of(&GridId::new("grid.example"), None, &[], false);
    for _ in 0..10 {
        drop(nodes.begin(&route, &[], false, Duration::from_secs(60)));
    }
    assert_eq!(nodes.count(), (3, 3));
    for _ in 0..2 {
        let begun = nodes.begin(&route, &[], false, Duration::from_millis(30));
        tokio::time::sleep(Duration::from_millis(35)).await;
        drop(begun);
    }
    assert_eq!(nodes.count(), (3, 2));
    for _ in 0..2 {
        let (_, mut running) = nodes.begin(&route, &[], false, Duration::ZERO).unwrap();
        running.answered();
    }
    assert_eq!(nodes.count(), (3, 2), "who has answered is not late");
}

/// One machine, by its addresses in both families, and by others where nobody should look for it.
#[derive(Debug)]
struct Fixed(&'static [&'static str]);

impl Resolve for Fixed {
    fn resolve(&self, _: &str) -> Resolving {
        let addresses = self.0.iter().map(|ip| ip.parse().unwrap()).collect();
        Box::pin(async move { Ok(Resolved { addresses, ..Resolved::default() }) })
    }
}

fn resolved_to(url: &str, ips: &'static [&'static str]) -> Nodes {
    Nodes::new(ServerAddress { resolver: Resolver::Other(Arc::new(Fixed(ips))), ..url.parse().unwrap() })
        .unwrap()
}

#[tokio::test]
async fn one_node_in_two_families_is_not_left_for_being_slow() {
    let route = RouteKey::of(&GridId::new("grid.example"), None, &[], false);
    let nodes = resolved_to("http://cache.example.org", &["127.0.0.1", "::1"]);
    nodes.known().await.unwrap();
    assert!(!nodes.have_choice() && nodes.have_other());
    let at = nodes.begin(&route, &[], false, PATIENCE).unwrap().1.at();
    for _ in 0..4 {
        let begun = nodes.begin(&route, &[], false, PATIENCE).unwrap();
        assert_eq!(begun.1.at(), at);
        tokio::time::sleep(PATIENCE + Duration::from_millis(20)).await;
    }
    assert_eq!(nodes.count(), (1, 1));
    // But when nothing at all comes, its other address may give a connection.
    for _ in 0..2 {
        let (_, mut running) = nodes.begin(&route, &[], false, PATIENCE).unwrap();
        running.missed(Instant::now().checked_sub(NO_CONNECTION).unwrap());
    }
    assert_ne!(nodes.begin(&route, &[], false, PATIENCE).unwrap().1.at(), at);
}

const PATIENCE: Duration = Duration::from_millis(5);

#[tokio::test]
async fn a_plain_service_on_this_machine_is_nowhere_else() {
    let plain = resolved_to("http://localhost", &["192.0.2.1", "127.0.0.1"]);
    plain.known().await.unwrap();
    let route = RouteKey::of(&GridId::new("grid.example"), None, &[], false);
    let (link, _running) = plain.begin(&route, &[], false, PATIENCE).unwrap();
    assert!(link.at.ip().is_loopback() && plain.begin(&route, &[link.at], false, PATIENCE).is_none());
}
