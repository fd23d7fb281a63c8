//! Several avatars at once, with hundreds of requests in flight on pipelined connections.

use std::collections::HashMap;
use std::sync::Arc;

use crate::support::client::Connection;
use crate::support::fake_grid::{Gate, Reply};
use crate::support::synthetic::{Draw, Synthetic};
use crate::support::{Avatar, Setup, asset_reply, seed_reply, within};

const AVATARS: u8 = 4;
const CONNECTIONS: usize = 50;
const PIPELINED: usize = 5;

/// Each connection begins with an asset of its own, and the grid keeps silent until it has been asked
/// for all of them; what follows on the connections is drawn from everybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_of_four_avatars_are_in_flight_at_once_and_every_asset_is_fetched_once() {
    let setup = Setup::start().await;
    let at_once = usize::from(AVATARS) * CONNECTIONS;
    let assets: Arc<Vec<_>> = Arc::new((0..at_once).map(|n| Synthetic::new(2, n, 500 + 150 * n)).collect());
    let by_query: Arc<HashMap<String, Arc<Vec<u8>>>> =
        Arc::new(assets.iter().map(|asset| (asset.query.clone(), Arc::clone(&asset.bytes))).collect());
    let gate = Gate::closed();
    let mut viewers = Vec::new();
    for n in 0..AVATARS {
        let avatar = Avatar::number(n);
        let viewer = setup.login(&avatar, format!("127.0.0.1:{}", 10 + n).parse().unwrap()).await;
        let seed = seed_reply(&[("ViewerAsset", &setup.grid.url(&format!("/cap-{n}")))]);
        setup.grid.on(&avatar.seed, move |_| Reply::ok("application/llsd+xml", &seed));
        let cap = viewer.capabilities(setup.at).await["ViewerAsset"].clone();
        let (held, by_query) = (gate.clone(), Arc::clone(&by_query));
        setup.grid.on(&format!("/cap-{n}/"), move |asked| {
            let (_, query) = asked.target[1..].split_once('/').unwrap();
            asset_reply(asked, &by_query[&format!("/{query}")]).held_by(&held)
        });
        for connection in 0..CONNECTIONS {
            let first = usize::from(n) * CONNECTIONS + connection;
            let (at, cap, assets) = (setup.at, cap.clone(), Arc::clone(&assets));
            viewers.push(tokio::spawn(async move {
                let mut draw = Draw(first as u64);
                let mut wanted = vec![&assets[first]];
                wanted.extend((1..PIPELINED).map(|_| &assets[draw.below(assets.len())]));
                let mut connection = Connection::open(at).await;
                let requests: String = wanted
                    .iter()
                    .map(|asset| format!("GET {cap}{} HTTP/1.1\r\nHost: {at}\r\n\r\n", asset.query))
                    .collect();
                connection.send_raw(requests.as_bytes()).await;
                for asset in wanted {
                    let answer = connection.answer("GET").await;
                    assert_eq!((answer.status, answer.broken), (200, false));
                    asset.check(&answer);
                }
            }));
        }
    }
    for n in 0..AVATARS {
        setup.grid.until_asked(&format!("/cap-{n}/"), CONNECTIONS).await;
    }
    assert_eq!(usize::try_from(setup.proxy.metrics().requests_in_flight()), Ok(at_once));
    assert_eq!(setup.proxy.metrics().sessions_open(), i64::from(AVATARS));
    gate.open();
    for viewer in viewers {
        within(viewer).await.unwrap();
    }
    for n in 0..AVATARS {
        let asked = setup.grid.asked(&format!("/cap-{n}/"));
        assert_eq!(asked.len(), CONNECTIONS, "avatar {n} needed only what nobody had");
    }
    within(async {
        while setup.proxy.metrics().requests_in_flight() != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
