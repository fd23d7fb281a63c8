//! Assets over HTTP through a running proxy: what is kept, what is served, and what is not.

use std::sync::Arc;

use crate::support::client::{Connection, get};
use crate::support::fake_grid::{FakeGrid, Gate, Reply};
use crate::support::{
    ASSET_TOKEN, RealAsset, Setup, animation, another_texture, asset_reply, mesh, sound, texture, within,
};

/// What the grid was asked for under the capability of the tests: the ranges, in order.
pub(crate) fn ranges(setup: &Setup) -> Vec<String> {
    let asked = setup.grid.asked("/cap-asset/");
    asked.iter().map(|asked| asked.header("range").unwrap_or("whole").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asset_is_fetched_once_and_comes_from_memory_then_and_from_disk_after_a_restart() {
    let mut setup = Setup::start().await;
    for asset in [texture(), mesh(), sound(), animation()] {
        setup.serve(&asset);
        let cap = setup.asset_capability().await;
        let path = format!("{cap}{}", asset.query);
        let miss = get(setup.at, &path, &[]).await;
        assert_eq!((miss.status, miss.tier(), &miss.body), (200, "miss", &*asset.bytes));
        let hit = get(setup.at, &path, &[]).await;
        assert_eq!((hit.status, hit.tier(), &hit.body), (200, "hit; tier=memory", &*asset.bytes));
        let before = setup.grid.asked("/cap-asset/").len();

        setup = setup.restarted().await;
        let path = format!("{}{}", setup.asset_capability().await, asset.query);
        let hit = get(setup.at, &path, &[]).await;
        assert_eq!((hit.status, hit.tier(), &hit.body), (200, "hit; tier=disk", &*asset.bytes));
        let hit = get(setup.at, &path, &[]).await;
        assert_eq!(hit.tier(), "hit; tier=memory");
        assert_eq!(setup.grid.asked("/cap-asset/").len(), before, "{}", asset.id);
    }
}

#[tokio::test]
async fn a_hit_answers_ranges_as_the_viewers_need_them() {
    let setup = Setup::start().await;
    let asset = texture();
    setup.serve(&asset);
    let path = format!("{}{}", setup.asset_capability().await, asset.query);
    get(setup.at, &path, &[]).await;
    let total = asset.bytes.len();
    let last = total - 1;
    let part = |first: usize, last: usize| Some((first, last));
    let table = [
        (None, None),
        (Some("bytes=0-599".to_owned()), part(0, 599)),
        (Some(format!("bytes=599-{}", total + 5000)), part(599, last)),
        (Some("bytes=599-".to_owned()), part(599, last)),
        (Some(format!("bytes={last}-{}", total * 2)), part(last, last)),
        (Some(format!("bytes={total}-{}", total * 2)), None),
        (Some("bytes=-5".to_owned()), None),
        (Some("bytes=0-0,5-6".to_owned()), None),
        (Some("lines=1-2".to_owned()), None),
        (Some("bytes=700-600".to_owned()), None),
        (Some("bytes=0-0".to_owned()), part(0, 0)),
        (Some(format!("bytes=0-{last}")), part(0, last)),
        (Some("bytes=99999999999999999999-".to_owned()), None),
    ];
    let mut connection = Connection::open(setup.at).await;
    for method in ["GET", "HEAD"] {
        for (range, expected) in &table {
            let headers: Vec<_> = range.iter().map(|range| ("Range", range.as_str())).collect();
            connection.send(method, &path, &headers, b"").await;
            let answer = connection.answer(method).await;
            assert_eq!(answer.tier(), "hit; tier=memory", "{method} {range:?}");
            let bytes = match expected {
                None => {
                    assert_eq!((answer.status, answer.header("content-range")), (200, None), "{range:?}");
                    &asset.bytes[..]
                }
                Some((first, last)) => {
                    let content_range = format!("bytes {first}-{last}/{total}");
                    assert_eq!(answer.header("content-range"), Some(content_range.as_str()), "{range:?}");
                    assert_eq!(answer.status, 206);
                    &asset.bytes[*first..=*last]
                }
            };
            assert_eq!(answer.header("content-length").unwrap(), bytes.len().to_string());
            assert_eq!(answer.header("content-encoding"), None);
            assert_eq!(answer.body, if method == "HEAD" { &[] } else { bytes }, "{method} {range:?}");
        }
    }
    assert_eq!(ranges(&setup), ["whole"]);
}

#[tokio::test]
async fn odd_requests_are_the_grids_to_answer() {
    let setup = Setup::start().await;
    let asset = texture();
    let bytes = Arc::clone(&asset.bytes);
    setup.grid.on("/cap-asset/", move |asked| match asked.target.split_once("?").unwrap().1 {
        query if query.contains("format") || asked.header("accept") == Some("image/png") => {
            Reply::ok("image/png", b"converted")
        }
        query if query.contains("82e34bc0-3a7b-5407-ad08-9bc0b2b3b08b") => asset_reply(asked, &bytes),
        query if query.contains("malformed") => Reply::new("400 Bad Request", &[], b"the grid's own"),
        _ => Reply::new("404 Not Found", &[("Content-Type", "text/plain")], b"no such asset"),
    });
    let cap = setup.asset_capability().await;
    get(setup.at, &format!("{cap}{}", asset.query), &[]).await;
    let count = || setup.grid.asked("/cap-asset/").len();
    let missing = "/?texture_id=00000000-0000-0000-0000-00000000dead";
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let odd: [(String, Headers<'_>, u16, &[u8]); 6] = [
        (format!("{}&format=png", asset.query), &[], 200, b"converted"),
        (asset.query.clone(), &[("Accept", "image/png")], 200, b"converted"),
        ("/?texture_id=malformed".into(), &[], 400, b"the grid's own"),
        (missing.into(), &[], 404, b"no such asset"),
        (missing.into(), &[("Range", "bytes=0-599")], 404, b"no such asset"),
        (asset.query.clone(), &[("If-Range", "\"x\"")], 200, &asset.bytes),
    ];
    for (suffix, headers, status, body) in odd {
        for _ in 0..2 {
            let before = count();
            let answer = get(setup.at, &format!("{cap}{suffix}"), headers).await;
            assert_eq!((answer.status, &answer.body[..], answer.tier()), (status, body, "miss"), "{suffix}");
            assert_eq!(count(), before + 1, "{suffix}: asked again each time");
        }
    }
    let hit = get(setup.at, &format!("{cap}{}", asset.query), &[("Accept", "image/x-j2c")]).await;
    assert_eq!(hit.tier(), "hit; tier=memory");
}

#[tokio::test]
async fn another_kind_than_asked_for_passes_and_is_not_kept() {
    let setup = Setup::start().await;
    let bytes = sound().bytes;
    setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    let path = format!("{}{}", setup.asset_capability().await, texture().query);
    for count in 1..=2 {
        let answer = get(setup.at, &path, &[]).await;
        assert_eq!((answer.status, answer.tier(), &answer.body), (200, "miss", &*sound().bytes));
        assert_eq!(ranges(&setup).len(), count);
    }
}

#[tokio::test]
async fn held_parts_are_served_and_only_what_is_missing_is_asked_for() {
    let setup = Setup::start().await;
    let asset = mesh();
    setup.serve(&asset);
    let path = format!("{}{}", setup.asset_capability().await, asset.query);
    let total = asset.bytes.len();
    let ask = |range: String| {
        let path = path.clone();
        async move { get(setup.at, &path, &[("Range", &range)]).await }
    };
    assert_eq!(ask("bytes=0-4095".into()).await.body, asset.bytes[..4096]);
    let held = ask("bytes=100-4000".into()).await;
    assert_eq!((held.status, &held.body[..]), (206, &asset.bytes[100..=4000]));
    assert_eq!(held.header("content-range").unwrap(), format!("bytes 100-4000/{total}"));
    assert_eq!(ranges(&setup), ["bytes=0-4095"]);

    let grown = ask("bytes=4095-9999".into()).await;
    assert_eq!((grown.status, &grown.body[..]), (206, &asset.bytes[4095..=9999]));
    assert_eq!(grown.header("content-range").unwrap(), format!("bytes 4095-9999/{total}"));
    assert_eq!(ranges(&setup), ["bytes=0-4095", "bytes=4096-9999"]);

    let whole = get(setup.at, &path, &[]).await;
    assert_eq!((whole.status, whole.tier(), &whole.body), (200, "miss", &*asset.bytes));
    assert_eq!(ranges(&setup)[2], format!("bytes=10000-{}", total - 1));
    let hit = get(setup.at, &path, &[]).await;
    assert_eq!((hit.tier(), &hit.body), ("hit; tier=memory", &*asset.bytes));
}

#[tokio::test]
async fn a_changed_total_drops_the_held_parts() {
    let setup = Setup::start().await;
    let (old, new) = (mesh(), another_texture());
    setup.serve(&old);
    let path = format!("{}{}", setup.asset_capability().await, old.query);
    get(setup.at, &path, &[("Range", "bytes=0-4095")]).await;
    setup.serve(&new);
    let range = ("Range", "bytes=4095-8191");
    let answer = get(setup.at, &path, &[range]).await;
    let total = new.bytes.len();
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-range").unwrap(), format!("bytes 4095-8191/{total}"));
    assert_eq!(answer.body, new.bytes[4095..=8191], "no byte of the old content");
    let start = get(setup.at, &path, &[("Range", "bytes=0-599")]).await;
    assert_eq!(start.body, new.bytes[..600]);
}

#[tokio::test]
async fn two_viewers_share_one_fetch_and_the_slow_one_does_not_slow_the_other() {
    let setup = Setup::start().await;
    let asset = texture();
    let gate = Gate::closed();
    let (bytes, held) = (Arc::clone(&asset.bytes), gate.clone());
    setup.grid.on("/cap-asset/", move |_| {
        Reply::raw_head("200 OK", &[("Content-Length", &bytes.len().to_string())])
            .then_bytes(&bytes[..1000])
            .then_wait(&held)
            .then_bytes(&bytes[1000..])
    });
    let path = format!("{}{}", setup.asset_capability().await, asset.query);
    let mut first = Connection::open(setup.at).await;
    first.send("GET", &path, &[], b"").await;
    assert_eq!(first.head().await.unwrap().tier(), "miss");
    let mut second = Connection::open(setup.at).await;
    second.send("GET", &path, &[("Range", "bytes=0-4095")], b"").await;
    let head = second.head().await.unwrap();
    assert_eq!((head.status, head.tier(), head.header("Rezcache-Joined")), (206, "miss", Some("1")));
    assert_eq!(second.body(1000).await, asset.bytes[..1000], "bytes flow before the fetch is over");
    gate.open();
    // The first viewer has read nothing of its body yet.
    assert_eq!(second.body(3096).await, asset.bytes[1000..4096]);
    assert_eq!(first.body(asset.bytes.len()).await, *asset.bytes);
    assert_eq!(ranges(&setup), ["whole"]);
}

#[tokio::test]
async fn a_viewer_that_does_not_read_slows_neither_the_grid_nor_another_viewer() {
    // More than all socket buffers on the way hold.
    let bytes: Arc<Vec<u8>> = Arc::new((0..12_000_000u32).map(|n| (n % 251) as u8).collect());
    let setup = Setup::start().await;
    let (body, gate) = (Arc::clone(&bytes), Gate::closed());
    let held = gate.clone();
    setup.grid.on("/cap-asset/", move |_| {
        Reply::raw_head("200 OK", &[("Content-Length", &body.len().to_string())])
            .then_bytes(&body[..1000])
            .then_wait(&held)
            .then_bytes(&body[1000..])
    });
    let path = format!("{}{}", setup.asset_capability().await, texture().query);
    let mut idle = Connection::open(setup.at).await;
    idle.send("GET", &path, &[], b"").await;
    idle.head().await.unwrap();
    let mut reader = Connection::open(setup.at).await;
    reader.send("GET", &path, &[], b"").await;
    assert_eq!(reader.head().await.unwrap().header("Rezcache-Joined"), Some("1"));
    gate.open();
    assert!(reader.body(bytes.len()).await == *bytes);
    assert!(idle.body(bytes.len()).await == *bytes, "and gets its own in the end");
    assert_eq!(ranges(&setup), ["whole"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_at_the_same_moment_shares_one_fetch() {
    let setup = Setup::start().await;
    let bytes = texture().bytes;
    setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    let cap = setup.asset_capability().await;
    let mut viewers = Vec::new();
    for _ in 0..8 {
        viewers.push(Connection::open(setup.at).await);
    }
    for round in 0..50 {
        let path = format!("{cap}/?texture_id=00000000-0000-4000-8000-{round:012}");
        let asking = viewers.into_iter().map(|mut viewer| {
            let path = path.clone();
            tokio::spawn(async move {
                let answer = viewer.get(&path, &[]).await;
                assert_eq!(answer.body.len(), texture().bytes.len());
                viewer
            })
        });
        let asking: Vec<_> = asking.collect();
        viewers = Vec::new();
        for viewer in asking {
            viewers.push(within(viewer).await.unwrap());
        }
        assert_eq!(ranges(&setup).len(), round + 1);
    }
}

#[tokio::test]
async fn a_fetch_outlives_its_first_viewer_while_another_waits() {
    let setup = Setup::start().await;
    let asset = texture();
    let gate = Gate::closed();
    let (bytes, held) = (Arc::clone(&asset.bytes), gate.clone());
    setup.grid.on("/cap-asset/", move |_| Reply::ok("image/x-j2c", &*bytes).held_by(&held));
    let path = format!("{}{}", setup.asset_capability().await, asset.query);
    let mut first = Connection::open(setup.at).await;
    first.send("GET", &path, &[], b"").await;
    setup.grid.until_asked("/cap-asset/", 1).await;
    let waiting = tokio::spawn({
        let (at, path) = (setup.at, path.clone());
        async move { get(at, &path, &[]).await }
    });
    until_in_flight(&setup, 2).await;
    drop(first);
    until_in_flight(&setup, 1).await;
    gate.open();
    let answer = within(waiting).await.unwrap();
    assert_eq!((answer.body, answer.broken), ((*asset.bytes).clone(), false));
    assert_eq!(ranges(&setup).len(), 1);
}

/// Waits until the proxy counts so many asset requests in flight.
pub(crate) async fn until_in_flight(setup: &Setup, count: i64) {
    within(async {
        while setup.proxy.metrics().requests_in_flight() != count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pipelined_requests_are_answered_in_order() {
    let setup = Setup::start().await;
    let assets = [texture(), another_texture(), mesh(), sound(), animation()];
    let by_id = assets.clone();
    setup.grid.on("/cap-asset/", move |asked| {
        let asset = by_id.iter().find(|asset| asked.target.contains(asset.id)).unwrap();
        asset_reply(asked, &asset.bytes)
    });
    let cap = setup.asset_capability().await;
    let mut viewers = Vec::new();
    for connection in 0..8 {
        let (at, cap, assets) = (setup.at, cap.clone(), assets.clone());
        viewers.push(tokio::spawn(async move {
            let mut viewer = Connection::open(at).await;
            let order: Vec<(&RealAsset, usize)> =
                (0..25).map(|n| (&assets[(n * 3 + connection) % assets.len()], n * 150)).collect();
            let mut pipelined = String::new();
            for (asset, first) in &order {
                pipelined.push_str(&format!(
                    "GET {cap}{} HTTP/1.1\r\nHost: {at}\r\nRange: bytes={first}-\r\n\r\n",
                    asset.query
                ));
            }
            viewer.send_raw(pipelined.as_bytes()).await;
            for (asset, first) in &order {
                let answer = viewer.answer("GET").await;
                assert_eq!((answer.status, answer.broken), (206, false));
                assert_eq!(answer.body, asset.bytes[*first..]);
            }
        }));
    }
    for viewer in viewers {
        within(viewer).await.unwrap();
    }
}

#[tokio::test]
async fn what_one_host_says_is_not_served_for_another_until_two_agree() {
    let asset = texture();
    for central in [false, true] {
        let setup = Setup::with(FakeGrid::start().await, |config| config.grids[0].central = central).await;
        let others = [FakeGrid::start_at("127.0.0.2:0").await, FakeGrid::start_at("127.0.0.3:0").await];
        let mut caps = vec![setup.asset_capability().await];
        for (host, other) in others.iter().enumerate() {
            let bytes = Arc::clone(&asset.bytes);
            other.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
            let _ = host;
            caps.push(setup.asset_capability_to(&other.url("/cap-asset")).await);
        }
        setup.serve(&asset);
        let mut tiers = Vec::new();
        for cap in &caps {
            let answer = get(setup.at, &format!("{cap}{}", asset.query), &[]).await;
            assert_eq!(answer.body, *asset.bytes);
            tiers.push(answer.tier().to_owned());
        }
        let expected = if central {
            ["miss", "hit; tier=memory", "hit; tier=memory"]
        } else {
            ["miss", "miss", "hit; tier=memory"]
        };
        assert_eq!(tiers, expected, "central: {central}");
    }
}

#[tokio::test]
async fn a_host_that_says_otherwise_is_heard_only_for_itself() {
    let setup = Setup::start().await;
    let other = FakeGrid::start_at("127.0.0.2:0").await;
    let (ours, forged) = (texture(), another_texture());
    setup.serve(&ours);
    let bytes = Arc::clone(&forged.bytes);
    other.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    let here = format!("{}{}", setup.asset_capability().await, ours.query);
    let there = format!("{}{}", setup.asset_capability_to(&other.url("/cap-asset")).await, ours.query);
    for _ in 0..2 {
        assert_eq!(get(setup.at, &there, &[]).await.body, *forged.bytes);
        assert_eq!(get(setup.at, &here, &[]).await.body, *ours.bytes);
    }
}

#[tokio::test]
async fn a_grid_that_opts_out_has_nothing_kept() {
    let grid = FakeGrid::start().await;
    let info = format!(
        "<gridinfo><login>{}</login><gridname>x</gridname><rezcache>off</rezcache></gridinfo>",
        grid.url("/")
    );
    grid.on("/get_grid_info", move |_| Reply::ok("application/xml", &info));
    let setup = Setup::with(grid, |_| {}).await;
    let asset = texture();
    setup.serve(&asset);
    let path = format!("{}{}", setup.asset_capability().await, asset.query);
    for count in 1..=3 {
        let answer = get(setup.at, &path, &[]).await;
        assert_eq!((answer.tier(), &answer.body), ("miss", &*asset.bytes));
        assert_eq!(ranges(&setup).len(), count);
    }
}

#[tokio::test]
async fn an_asset_url_serves_only_those_who_know_the_token() {
    let grid = FakeGrid::start().await;
    let host = grid.url("/assets");
    let setup = Setup::with(grid, |config| config.grids[0].asset_host = Some(host.parse().unwrap())).await;
    let asset = texture();
    let bytes = Arc::clone(&asset.bytes);
    setup.grid.on("/assets/", move |asked| asset_reply(asked, &bytes));
    for tier in ["miss", "hit; tier=memory"] {
        let answer = get(setup.at, &format!("/asset/{ASSET_TOKEN}/test{}", asset.query), &[]).await;
        assert_eq!((answer.status, answer.tier(), &answer.body), (200, tier, &*asset.bytes));
    }
    for bad in
        ["/asset/00000000000000000000000000000000/test", &format!("/asset/{ASSET_TOKEN}/other"), "/asset/"]
    {
        assert_eq!(get(setup.at, &format!("{bad}{}", asset.query), &[]).await.status, 404, "{bad}");
    }
    assert_eq!(setup.grid.asked("/assets/").len(), 1);
}
