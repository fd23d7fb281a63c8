#![allow(clippy::unwrap_used)]

use super::*;
use crate::client::resolve::{Resolve, Resolver, Resolving};
use crate::grid::GridId;

#[derive(Debug)]
struct Three;

impl Resolve for Three {
    fn resolve(&self, _: &str) -> Resolving {
        let addresses = (1..=3).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        Box::pin(async move { Ok(Resolved { addresses, ttl: Some(Duration::from_secs(600)), ..Resolved::default() }) })
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
