//! The page of the control port over real proxies: who may change something, what each action does, what
//! comes by itself, and what is remembered.

use std::net::SocketAddr;
use std::time::Duration;

use rezcache::lludp::circuit::RegionHandshake;
use rezcache::lludp::{MessageBody as _, Variable1};
use rezcache::proxy::{PageConfig, ProxyConfig, SelfTest};
use rezcache::redact::Redacted;
use serde_json::Value;
use uuid::Uuid;

use crate::proxy_udp::{End, open_circuit};
use crate::service_tier::faulty_node::FaultyNode;
use crate::support::client::{Answer, Connection, ask, get};
use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::{
    ASSET_TOKEN, Avatar, RealAsset, Setup, Viewer, another_texture, asset_reply, grid_config, mesh,
    proxy_config, seed_reply, sound, texture, within,
};

const TOKEN: &str = "9b1e2c3d4f5a69788796a5b4c3d2e1f0";
const ACTIONS: [(&str, &str); 11] = [
    ("/key", ""),
    ("/uploads/pause", ""),
    ("/uploads/resume", ""),
    ("/uploads/limit", "bytes_per_second=4000"),
    ("/store/clear", "sure=yes"),
    ("/store/size", "bytes=200000000"),
    ("/regions/pin", "region=REGION"),
    ("/regions/unpin", "region=REGION"),
    ("/regions/warm", "region=REGION"),
    ("/regions/stop", ""),
    ("/self-test", ""),
];
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// Method, headers, body, and the status that it ends in.
type Attempt<'a> = (&'a str, Vec<(&'a str, &'a str)>, String, u16);

fn with_token(config: &mut ProxyConfig) {
    config.control_token = Some(Redacted::new(TOKEN.into()));
}

/// A proxy with its page, and an avatar that walks about behind it.
struct World {
    setup: Setup,
    page: SocketAddr,
    avatar: Avatar,
    viewer: End,
    simulator: End,
    login: Viewer,
    session: SocketAddr,
    assets: String,
}

fn assets() -> Vec<RealAsset> {
    vec![texture(), another_texture(), mesh(), sound()]
}

impl World {
    async fn new(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let grid = FakeGrid::start().await;
        grid.on("/cap-asset/", |asked| {
            let wanted = assets().into_iter().find(|asset| asked.target.ends_with(&asset.query));
            wanted.map_or_else(
                || Reply::new("404 Not Found", &[], ""),
                |asset| asset_reply(asked, &asset.bytes),
            )
        });
        let setup = Setup::with(grid, |config| {
            with_token(config);
            change(config);
        })
        .await;
        Self::enter(setup).await
    }

    /// An avatar logs in; it is in no region yet.
    async fn enter(setup: Setup) -> Self {
        let page = setup.proxy.control_address().unwrap();
        let avatar = Avatar::number(3);
        let (viewer, simulator) = (End::open().await, End::open().await);
        let login = setup.login(&avatar, simulator.at()).await;
        let session = open_circuit(&avatar, &viewer, login.simulator, &simulator).await;
        let seed = seed_reply(&[("ViewerAsset", &setup.grid.url("/cap-asset"))]);
        setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html;charset=UTF-8", &seed));
        let assets = login.capabilities(setup.at).await["ViewerAsset"].clone();
        Self { setup, page, avatar, viewer, simulator, login, session, assets }
    }

    /// It comes to the region of its simulator, which says its name.
    async fn arrive(&self, name: &[u8]) {
        let mut complete = vec![0x40, 0, 0, 0, 2, 0, 0xff, 0xff, 0, 0xf9];
        complete.extend(self.avatar.agent.as_bytes());
        complete.extend(self.avatar.session.as_bytes());
        complete.extend(self.avatar.code.to_le_bytes());
        self.viewer.send(self.login.simulator, &complete).await;
        assert_eq!(self.simulator.receive().await.0, complete);
        let mut handshake = vec![0x40, 0, 0, 0, 1, 0, 0xff, 0xff, 0, 0x94];
        RegionHandshake {
            region_flags: 0,
            sim_access: 13,
            sim_name: Variable1(name),
            sim_owner: Uuid::nil(),
            rest: &[0; 60],
        }
        .encode(&mut handshake);
        self.simulator.send(self.session, &handshake).await;
        assert_eq!(self.viewer.receive().await.0, handshake);
    }

    async fn fetch(&self) {
        for asset in assets() {
            let answer = get(self.setup.at, &format!("{}{}", self.assets, asset.query), &[]).await;
            assert_eq!((answer.status, &answer.body), (200, &*asset.bytes));
        }
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&get(self.page, path, &[]).await.body).unwrap()
    }

    async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        within(async {
            loop {
                let found = self.json(path).await;
                if is_so(&found) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    async fn region(&self) -> String {
        let regions = self.until("/regions.json", |regions| regions[0]["id"].is_string()).await;
        regions[0]["id"].as_str().unwrap().to_owned()
    }

    async fn text(&self) -> String {
        get(self.page, "/", &[]).await.text()
    }

    /// As the page's script does.
    async fn act(&self, path: &str, fields: &str) -> Answer {
        let bearer = format!("Bearer {TOKEN}");
        let origin = format!("http://{}", self.page);
        let headers =
            [FORM, ("Authorization", &bearer), ("Origin", &origin), ("Sec-Fetch-Site", "same-origin")];
        ask(self.page, "POST", path, &headers, fields.as_bytes()).await
    }

    /// As the page's form does without a script.
    async fn submit(&self, path: &str, fields: &str) -> Answer {
        let origin = format!("http://{}", self.page);
        ask(self.page, "POST", path, &[FORM, ("Origin", &origin)], fields.as_bytes()).await
    }

    /// Everything that an action could change.
    async fn state(&self) -> Value {
        let mut status = self.json("/status.json").await;
        status["uptime_s"].take();
        for counter in ["requests_refused", "control_actions_refused"] {
            status["counters"][counter].take();
        }
        let regions = self.json("/regions.json").await;
        let settings = std::fs::read_to_string(self.setup.dir.path().join("page.json")).ok();
        serde_json::json!([status, regions, settings])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_changes_without_the_token_by_another_method_or_from_elsewhere() {
    let world = World::new(|config| {
        config.page.self_test = Some(SelfTest::new(|| async { Vec::new() }));
    })
    .await;
    world.arrive(b"Sandbox\0").await;
    world.fetch().await;
    let region = world.region().await;
    world.until("/status.json", |status| status["store"]["objects"] == 4).await;
    let before = world.state().await;
    let (host, bearer) = (world.page.to_string(), format!("Bearer {TOKEN}"));
    let own = format!("http://{host}");
    let known = || vec![FORM, ("Authorization", &bearer), ("Origin", &own)];
    let with = |more: (&'static str, &'static str)| known().into_iter().chain([more]).collect::<Vec<_>>();
    let instead = |name: &str, value: &'static str| {
        known().into_iter().map(|(key, old)| (key, if key == name { value } else { old })).collect::<Vec<_>>()
    };
    for (path, fields) in ACTIONS {
        let fields = fields.replace("REGION", &region);
        let short = &TOKEN[..31];
        let body = |token: &str| format!("token={token}&{fields}");
        let refused: Vec<Attempt<'_>> = vec![
            ("GET", known(), String::new(), 405),
            ("PUT", known(), fields.clone(), 405),
            ("POST", vec![FORM, ("Origin", &own)], fields.clone(), 401),
            ("POST", vec![FORM, ("Origin", &own)], body(short), 401),
            ("POST", vec![FORM, ("Origin", &own)], body(""), 401),
            ("POST", vec![("Origin", &own)], body(TOKEN), 401),
            (
                "POST",
                instead("Authorization", "Bearer 00000000000000000000000000000000"),
                fields.clone(),
                401,
            ),
            ("POST", instead("Authorization", "Basic OWIxZTJjM2Q="), body(TOKEN), 401),
            ("POST", instead("Origin", "http://evil.example"), fields.clone(), 403),
            ("POST", instead("Origin", "null"), fields.clone(), 403),
            ("POST", instead("Origin", "http://localhost"), fields.clone(), 403),
            ("POST", with(("Sec-Fetch-Site", "cross-site")), fields.clone(), 403),
            ("POST", with(("Sec-Fetch-Site", "same-site")), fields.clone(), 403),
        ];
        for (method, headers, body, expected) in refused {
            let target = if body.is_empty() { format!("{path}?{fields}") } else { path.to_owned() };
            let answer = ask(world.page, method, &target, &headers, body.as_bytes()).await;
            assert_eq!(answer.status, expected, "{method} {path} {headers:?} {body}");
            assert!(!answer.text().contains(TOKEN));
        }
        // A token in the address counts for nothing; a foreign Host neither.
        let in_address = format!("{path}?token={TOKEN}&{fields}");
        assert_eq!(ask(world.page, "POST", &in_address, &[FORM], b"").await.status, 401);
        let mut foreign = Connection::open(world.page).await;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: rebound.example:{}\r\nAuthorization: {bearer}\r\nContent-Type: \
             application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{fields}",
            world.page.port(),
            fields.len()
        );
        foreign.send_raw(request.as_bytes()).await;
        assert_eq!(foreign.answer("POST").await.status, 403, "{path}");
    }
    assert_eq!(world.state().await, before);
    assert!(before[0]["counters"]["control_actions"] == 0);
    let page = world.text().await;
    assert!(
        page.contains("Run the self-test")
            && !page.contains("Tested at")
            && !page.contains("test is running")
    );
    // What is refused thus is not refused for want of anything else.
    assert_eq!(world.act("/store/size", "bytes=200000000").await.status, 200);
    assert_ne!(world.state().await, before);
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_without_a_script_leads_back_to_the_page_or_says_what_is_wrong() {
    let world = World::new(|_| {}).await;
    world.arrive(b"Sandbox\0").await;
    let region = world.region().await;
    let pin = format!("token={TOKEN}&region={region}&sure=yes&mebibytes=10240");
    let answer = world.submit("/regions/pin", &pin).await;
    assert_eq!((answer.status, answer.header("location")), (303, Some("/?done=pinned")));
    let page = get(world.page, "/?done=pinned", &[]).await.text();
    assert!(page.contains("role=\"status\">The region is pinned.</p>"), "{page}");
    assert_eq!(world.json("/status.json").await["regions"]["pinned"], 1);
    assert!(!get(world.page, "/?done=<b>", &[]).await.text().contains("<b>"));

    // The whole address may be pasted, as it was printed.
    let pasted = format!("token=+http%3A%2F%2F127.0.0.1%3A9079%2F%23{TOKEN}+");
    assert_eq!(world.submit("/key", &pasted).await.status, 303);

    for (path, fields, status, says) in [
        ("/regions/pin", "token=wrong&region=1".to_owned(), 401, "control-token"),
        ("/regions/pin", format!("token={TOKEN}&region=0123"), 404, "not known"),
        ("/store/clear", format!("token={TOKEN}"), 400, "tick the box"),
        ("/store/size", format!("token={TOKEN}&mebibytes=ten"), 400, "whole number"),
        ("/store/size", format!("token={TOKEN}&mebibytes=63"), 400, "at least 64"),
        ("/store/size", format!("token={TOKEN}&mebibytes=18446744073709551615"), 400, "whole number"),
        ("/uploads/pause", format!("token={TOKEN}"), 404, "nothing is uploaded"),
        ("/self-test", format!("token={TOKEN}"), 404, "no self-test"),
        ("/regions/nonsense", format!("token={TOKEN}"), 404, "/regions/pin"),
        ("/key", "token=%".to_owned(), 400, "cannot be read"),
        ("/key", "a=1&".repeat(17), 400, "cannot be read"),
        ("/key", format!("token={TOKEN}&x={}", "y".repeat(40_000)), 413, "too large"),
    ] {
        let answer = world.submit(path, &fields).await;
        let text = answer.text();
        assert_eq!(answer.status, status, "{path} {fields}: {text}");
        assert!(text.contains(says) && text.contains("<a href=\"/\">"), "{path}: {text}");
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    }
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_empties_the_store_and_forgets_the_regions() {
    let world = World::new(|_| {}).await;
    world.arrive(b"Sandbox\0").await;
    world.fetch().await;
    let region = world.region().await;
    assert_eq!(world.act("/regions/pin", &format!("region={region}")).await.status, 200);
    world.until("/status.json", |status| status["store"]["objects"] == 4).await;
    world.until("/status.json", |status| status["store"]["pinned_bytes"].as_u64() > Some(0)).await;
    assert_eq!(world.act("/store/clear", "sure=yes").await.status, 200);
    world.until("/status.json", |status| status["store"]["objects"] == 0).await;
    let regions = world.json("/regions.json").await;
    assert_eq!((&regions[0]["assets"], &regions[0]["pinned"]), (&0.into(), &false.into()), "where it is");
    world.until("/status.json", |status| status["store"]["pinned_bytes"] == 0).await;
    // What is fetched again comes from the grid.
    let asked = world.setup.grid.asked("/cap-asset/").len();
    world.fetch().await;
    assert_eq!(world.setup.grid.asked("/cap-asset/").len(), asked + 4);
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_is_changed_at_once_and_remembered_unless_it_is_given() {
    let world = World::new(|_| {}).await;
    assert_eq!(world.json("/status.json").await["store"]["limit"], 1 << 30);
    assert_eq!(world.act("/store/size", "mebibytes=300").await.status, 200);
    assert_eq!(world.json("/status.json").await["store"]["limit"], 300 << 20);
    let World { setup, .. } = world;
    let setup = setup.restarted().await;
    let control = setup.proxy.control_address().unwrap();
    let limit = |control| async move {
        let status = get(control, "/status.json", &[]).await;
        serde_json::from_slice::<Value>(&status.body).unwrap()["store"]["limit"].clone()
    };
    assert_eq!(limit(control).await, 300 << 20);
    let Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    let mut config = proxy_config(grid_config(&grid.url("/")), dir.path());
    config.page = PageConfig { size_fixed: true, ..PageConfig::default() };
    with_token(&mut config);
    let proxy = rezcache::proxy::Proxy::start(config).await.unwrap();
    let control = proxy.control_address().unwrap();
    assert_eq!(limit(control).await, 1 << 30, "what is given goes before");
    assert!(get(control, "/", &[]).await.text().contains("holds until rezcache is started again"));
    within(proxy.stop()).await;
}

/// Reads server-sent events.
struct Events(Connection);

impl Events {
    async fn open(page: SocketAddr) -> Option<Self> {
        let mut connection = Connection::open(page).await;
        connection.send("GET", "/events", &[], b"").await;
        let head = connection.head().await.unwrap();
        if head.status != 200 {
            assert_eq!(head.status, 503);
            return None;
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        Some(Self(connection))
    }

    /// The parts of the next event.
    async fn parts(&mut self) -> Value {
        within(async {
            loop {
                let chunk = self.0.chunk().await;
                if let Some(data) = chunk.lines().find_map(|line| line.strip_prefix("data: ")) {
                    return serde_json::from_str(data).unwrap();
                }
            }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_comes_by_itself_to_a_bounded_number_of_listeners() {
    let world = World::new(|_| {}).await;
    let mut events = Events::open(world.page).await.unwrap();
    let first = events.parts().await;
    for part in ["verdict", "figures", "scene", "plots", "regions", "assets", "sharing", "store", "viewers"] {
        assert!(first[part].is_string(), "{part}");
    }
    world.arrive(b"Sandbox\0").await;
    world.fetch().await;
    let mut shown = first;
    while !shown["scene"].as_str().unwrap().contains("Sandbox")
        || !shown["verdict"].as_str().unwrap().contains("of 4 asset requests")
    {
        let changed = events.parts().await;
        let changed = changed.as_object().unwrap();
        assert!(!changed.contains_key("viewers"), "nothing has changed there");
        for (part, html) in changed {
            assert_ne!(shown[part], *html, "{part} was sent although it has not changed");
            shown[part] = html.clone();
        }
    }
    let mut open = vec![events];
    while let Some(another) = Events::open(world.page).await {
        open.push(another);
        assert!(open.len() <= 16);
    }
    assert_eq!(open.len(), 16);
    assert_eq!(world.json("/status.json").await["counters"]["page_listeners_refused"], 1);
    assert!(world.text().await.contains("Sandbox"), "the page itself still comes");
    open.clear();
    within(async { while Events::open(world.page).await.is_none() {} }).await;
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_id_no_token_and_no_address_of_the_grid_is_on_the_page() {
    let world = World::new(|_| {}).await;
    world.arrive(b"Sandbox\0").await;
    world.fetch().await;
    let mut events = Events::open(world.page).await.unwrap();
    let live = events.parts().await.to_string();
    let regions = world.json("/regions.json").await.to_string();
    for (place, text) in [("page", world.text().await), ("events", live), ("regions.json", regions)] {
        assert!(text.contains("Sandbox"), "{place}");
        let mut secrets = vec![
            world.avatar.agent.to_string(),
            world.avatar.session.to_string(),
            world.avatar.code.to_string(),
            world.avatar.seed.clone(),
            world.assets.clone(),
            world.login.seed.clone(),
            world.simulator.at().to_string(),
            world.setup.dir.path().display().to_string(),
            TOKEN.into(),
            ASSET_TOKEN.into(),
        ];
        secrets.extend(assets().iter().map(|asset| asset.id.to_owned()));
        for secret in secrets {
            assert!(!text.contains(&secret), "{secret} is on the {place}");
        }
    }
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_region_s_name_is_text_everywhere() {
    let world = World::new(|_| {}).await;
    let name = "</p><script>alert('\u{202e}1')</script><img src=x onerror=alert(1)>&amp;\0";
    world.arrive(name.as_bytes()).await;
    world.fetch().await;
    world.region().await;
    world.until("/status.json", |status| status["regions"]["scenes_completed"] == 1).await;
    let mut events = Events::open(world.page).await.unwrap();
    let live = events.parts().await;
    let live: String = live.as_object().unwrap().values().filter_map(Value::as_str).collect();
    for text in [world.text().await, live] {
        assert!(text.contains("&lt;/p&gt;&lt;script&gt;alert(&#39; 1&#39;)&lt;/script&gt;"), "{text}");
        assert!(!text.contains("<img") && !text.contains("alert('") && !text.contains('\u{202e}'), "{text}");
        assert!(text.contains("This scene completed in"));
        assert!(text.matches("<script").count() <= 1);
    }
    assert_eq!(get(world.page, "/regions.json", &[]).await.header("x-content-type-options"), Some("nosniff"));
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenes_regions_pins_and_savings_survive_a_restart() {
    let world = World::new(|_| {}).await;
    world.arrive(b"Sandbox\0").await;
    world.fetch().await;
    world.fetch().await;
    let region = world.region().await;
    assert_eq!(world.act("/regions/pin", &format!("region={region}")).await.status, 200);
    let before = world.until("/status.json", |status| status["regions"]["scenes_completed"] == 1).await;
    assert!(before["store"]["pinned_bytes"].as_u64() > Some(0));
    let World { setup, .. } = world;
    let setup = setup.restarted().await;
    let world = World::enter(setup).await;
    let after =
        world.until("/status.json", |status| status["store"]["pinned_bytes"].as_u64() > Some(0)).await;
    assert_eq!(after["saved"], before["saved"]);
    assert_eq!(after["regions"], before["regions"]);
    let regions = world.json("/regions.json").await;
    let known = &regions[0];
    assert_eq!(
        (&known["id"], &known["name"], &known["pinned"], &known["here"]),
        (&Value::from(region), &"Sandbox".into(), &true.into(), &false.into())
    );
    assert_eq!((&known["requests"], &known["hits"], &known["assets"]), (&8.into(), &4.into(), &4.into()));
    assert!(known["last_scene_ms"].is_u64());
    let page = world.text().await;
    let today = page.split("id=\"figures\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(today.contains("50.0 %"), "{today}");
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_warmed_up_from_the_shared_cache_and_never_from_the_grid() {
    let node = FaultyNode::http().await;
    let service = node.patient(0);
    let again = service.clone();
    let world = World::new(|config| config.service = Some(service)).await;
    world.setup.proxy.service_settled(Duration::from_secs(10)).await;
    world.arrive(b"Sandbox\0").await;
    world.fetch().await;
    let region = world.region().await;
    world.until("/status.json", |status| status["store"]["objects"] == 4).await;
    let World { setup: Setup { grid, proxy, dir, .. }, .. } = world;
    within(proxy.stop()).await;
    // Everything but what is known of the region is lost.
    std::fs::remove_dir_all(dir.path().join("assets")).unwrap();
    for asset in assets().iter().take(3) {
        node.knows(&asset.query, &asset.bytes);
    }
    let mut config = proxy_config(grid_config(&grid.url("/")), dir.path());
    with_token(&mut config);
    config.service = Some(again);
    let proxy = rezcache::proxy::Proxy::start(config).await.unwrap();
    let at = proxy.grid_addresses()[0];
    let world = World::enter(Setup { grid, proxy, at, dir }).await;
    world.setup.proxy.service_settled(Duration::from_secs(10)).await;
    let asked = world.setup.grid.asked("/cap-asset/").len();
    assert_eq!(world.act("/regions/warm", &format!("region={region}")).await.status, 200);
    world.until("/status.json", |status| status["counters"]["assets_prewarmed"] == 3).await;
    world.until("/status.json", |status| status["store"]["objects"] == 3).await;
    within(async {
        while !world.text().await.contains("Sandbox is warmed up: 4 of 4 looked at, 0 were here, 3 fetched") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(world.text().await.contains("1 more are neither here nor there"));
    assert_eq!(world.setup.grid.asked("/cap-asset/").len(), asked, "the grid was not asked");
    assert_eq!(world.act("/regions/warm", &format!("region={region}")).await.status, 200, "and again");
    assert_eq!(world.act("/regions/stop", "").await.status, 200);
    within(world.setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_self_test_is_run_once_at_a_time_and_shown() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let (counted, held) = (Arc::clone(&runs), Arc::clone(&gate));
    let test = SelfTest::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let held = Arc::clone(&held);
        async move {
            let _ = held.acquire().await;
            serde_json::from_value(serde_json::json!([
                {"name": "disk", "outcome": "failed", "seen": "The <disk> is full.", "advice": "Free some space."},
            ]))
            .unwrap()
        }
    });
    let world = World::new(|config| config.page.self_test = Some(test)).await;
    assert!(world.text().await.contains("formaction=\"/self-test\""));
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    for _ in 0..3 {
        assert_eq!(world.act("/self-test", "").await.status, 200);
    }
    assert!(world.text().await.contains("The test is running"));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    gate.add_permits(1);
    within(async {
        while !world.text().await.contains("The &lt;disk&gt; is full.<br>Free some space.") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(world.text().await.contains("1 thing must be put right"));
    within(world.setup.proxy.stop()).await;
}
