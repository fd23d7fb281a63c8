//! Mode `VIEWERASSET`: assets by URL, without a login through us.

use std::collections::HashSet;

use rezcache::proxy::GridConfig;
use rezcache::support::metrics::Counter;

use crate::support::client::{Answer, Connection, ask, get};
use crate::support::fake_grid::{FakeGrid, Gate, Reply};
use crate::support::{
    ASSET_TOKEN, RealAsset, Setup, another_texture, asset_reply, grid_config, mesh, sound, texture, within,
};

/// A proxy for one grid whose asset host serves these under `/host/`.
async fn with_asset_host(assets: &[RealAsset]) -> Setup {
    let grid = FakeGrid::start().await;
    let host = grid.url("/host");
    serve(&grid, assets);
    Setup::with(grid, |config| config.grids[0].asset_host = Some(host.parse().unwrap())).await
}

fn serve(grid: &FakeGrid, assets: &[RealAsset]) {
    let assets = assets.to_vec();
    grid.on("/host/", move |asked| match assets.iter().find(|asset| asked.target.contains(asset.id)) {
        Some(asset) => asset_reply(asked, &asset.bytes),
        None => Reply::new("404 Not Found", &[], "no such asset"),
    });
}

fn path(grid: &str, asset: &RealAsset) -> String {
    format!("/asset/{ASSET_TOKEN}/{grid}{}", asset.query)
}

#[tokio::test]
async fn whole_assets_and_ranges_come_from_here_the_second_time() {
    let assets = [texture(), mesh(), sound()];
    let setup = with_asset_host(&assets).await;
    let mut connection = Connection::open(setup.at).await;
    for asset in &assets {
        let path = path("test", asset);
        let total = asset.bytes.len();
        let first = connection.get(&path, &[("Range", "bytes=0-599")]).await;
        assert_eq!((first.status, first.tier(), &first.body[..]), (206, "miss", &asset.bytes[..600]));
        assert_eq!(first.header("content-range"), Some(&*format!("bytes 0-599/{total}")));
        let held = connection.get(&path, &[("Range", "bytes=100-299")]).await;
        assert_eq!(
            (held.status, held.tier(), &held.body[..]),
            (206, "hit; tier=memory", &asset.bytes[100..300])
        );
        let rest = connection.get(&path, &[("Range", "bytes=599-")]).await;
        assert_eq!((rest.status, rest.tier(), &rest.body[..]), (206, "miss", &asset.bytes[599..]));
        let whole = connection.get(&path, &[]).await;
        assert_eq!((whole.status, whole.tier(), &whole.body), (200, "hit; tier=memory", &*asset.bytes));
        let last = connection.get(&path, &[("Range", &format!("bytes={}-999999999", total - 1))]).await;
        assert_eq!((last.status, &last.body[..]), (206, &asset.bytes[total - 1..]));
    }
    assert_eq!(setup.grid.asked("/host/").len(), 2 * assets.len());
}

#[tokio::test]
async fn what_the_asset_host_does_not_have_is_its_answer() {
    let setup = with_asset_host(&[]).await;
    for count in 1..=2 {
        let answer = get(setup.at, &path("test", &texture()), &[]).await;
        assert_eq!((answer.status, answer.tier(), answer.text().as_str()), (404, "miss", "no such asset"));
        assert_eq!(setup.grid.asked("/host/").len(), count, "an absence is not remembered");
    }
}

#[tokio::test]
async fn a_wrong_token_gets_404_and_is_counted() {
    let setup = with_asset_host(&[texture()]).await;
    get(setup.at, &path("test", &texture()), &[]).await;
    let query = texture().query;
    let (shorter, longer) = (&ASSET_TOKEN[1..], format!("{ASSET_TOKEN}0"));
    let upper = ASSET_TOKEN.to_ascii_uppercase();
    let wrong = ["0".repeat(32), shorter.to_owned(), longer, upper, String::new()];
    for (count, token) in (1..).zip(&wrong) {
        let answer = get(setup.at, &format!("/asset/{token}/test{query}"), &[]).await;
        assert_eq!((answer.status, answer.header("rezcache")), (404, None), "{token:?}");
        assert!(!answer.text().contains(ASSET_TOKEN));
        assert_eq!(setup.proxy.metrics().get(Counter::RequestsRefused), count);
    }
    // A path without any token has nothing to be compared.
    assert_eq!(get(setup.at, &format!("/asset/{ASSET_TOKEN}"), &[]).await.status, 404);
    assert_eq!(setup.grid.asked("/host/").len(), 1);
}

#[tokio::test]
async fn unknown_grids_and_grids_without_asset_host_get_404() {
    let setup = Setup::start().await;
    for grid in ["test", "other", "", "test%20"] {
        let answer = get(setup.at, &path(grid, &texture()), &[]).await;
        assert_eq!((answer.status, answer.header("rezcache")), (404, None), "{grid:?}");
    }
    assert_eq!(setup.proxy.metrics().get(Counter::RequestsRefused), 0, "the token was right");
}

#[tokio::test]
async fn the_asset_url_is_as_closed_to_web_pages_as_every_other() {
    let setup = with_asset_host(&[texture()]).await;
    let path = path("test", &texture());
    for header in [("Origin", "http://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        assert_eq!(get(setup.at, &path, &[header]).await.status, 403, "{header:?}");
    }
    assert!(setup.grid.asked("/host/").is_empty());
}

#[tokio::test]
async fn head_is_answered_from_here_and_other_methods_are_the_hosts() {
    let setup = with_asset_host(&[texture()]).await;
    let path = path("test", &texture());
    get(setup.at, &path, &[]).await;
    let head: Answer = ask(setup.at, "HEAD", &path, &[], b"").await;
    assert_eq!((head.status, head.tier(), head.body.len()), (200, "hit; tier=memory", 0));
    assert_eq!(head.header("content-length"), Some(&*texture().bytes.len().to_string()));
    assert_eq!(ask(setup.at, "POST", &path, &[], b"x").await.tier(), "miss");
    let methods: Vec<_> = setup.grid.asked("/host/").into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["GET", "POST"]);
}

/// The same id on two grids is two assets, whichever port is asked.
#[tokio::test]
async fn every_port_serves_every_grid_and_keeps_their_assets_apart() {
    let (first, second) = (FakeGrid::start().await, FakeGrid::start().await);
    let on_second = RealAsset { bytes: another_texture().bytes, ..texture() };
    serve(&first, &[texture()]);
    serve(&second, std::slice::from_ref(&on_second));
    let hosts = [first.url("/host"), second.url("/host/")];
    let beside = grid_config(&second.url("/"));
    let setup = Setup::with(first, |config| {
        config.grids[0].asset_host = Some(hosts[0].parse().unwrap());
        config.grids.push(GridConfig {
            name: "second".into(),
            asset_host: Some(hosts[1].parse().unwrap()),
            ..beside
        });
    })
    .await;
    let ports = setup.proxy.grid_addresses().to_vec();
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 2);
    for (round, port) in ports.iter().enumerate() {
        for (grid, asset) in [("test", &texture()), ("second", &on_second)] {
            let answer = get(*port, &path(grid, asset), &[]).await;
            let tier = if round == 0 { "miss" } else { "hit; tier=memory" };
            assert_eq!((answer.status, answer.tier(), &answer.body), (200, tier, &*asset.bytes), "{grid}");
        }
    }
    assert_eq!((setup.grid.asked("/host/").len(), second.asked("/host/").len()), (1, 1));
}

/// The login service is not needed here; in turn they would wait for one that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_login_service_does_not_hold_up_assets() {
    let grid = FakeGrid::start().await;
    let never = Gate::closed();
    grid.on("/get_grid_info", move |_| Reply::none().held_by(&never));
    let host = grid.url("/host");
    serve(&grid, &[texture(), mesh()]);
    let setup = Setup::with(grid, |config| config.grids[0].asset_host = Some(host.parse().unwrap())).await;
    setup.grid.until_asked("/get_grid_info", 1).await;
    let mut viewers = Vec::new();
    for n in 0..20 {
        let asset = if n % 2 == 0 { texture() } else { mesh() };
        let at = setup.at;
        viewers.push(tokio::spawn(async move {
            let answer = get(at, &path("test", &asset), &[]).await;
            assert_eq!((answer.status, &answer.body), (200, &*asset.bytes));
        }));
    }
    for viewer in viewers {
        within(viewer).await.unwrap();
    }
}
