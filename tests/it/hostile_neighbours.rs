//! A grid that names addresses in the user's own network gets no connection out of the proxy; a web
//! page gets nothing from any port.

use std::net::SocketAddr;

use rezcache::support::metrics::Counter;

use crate::proxy_udp::{End, open_circuit};
use crate::support::client::{Connection, ask, get};
use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::{
    Avatar, LLSD, Setup, Viewer, ask_seed, asset_reply, between, capabilities, fixture_text, path_of,
    seed_reply, texture,
};

/// The name under which the proxy knows the grid, and where its simulator is said to be.
const GRID: &str = "203.0.113.7:8002";
const SIMULATOR: &str = "203.0.113.8:9000";

/// A public grid, and listeners on this machine that must hear nothing.
struct Hostile {
    setup: Setup,
    canary: FakeGrid,
    udp_canary: End,
    simulator: End,
}

impl Hostile {
    async fn start() -> Self {
        let grid = FakeGrid::start().await;
        let (at, simulator) = (grid.at, End::open().await);
        let setup = Setup::with(grid, |config| {
            config.grids[0].uri = format!("http://{GRID}/").parse().unwrap();
            config.dial.http.insert(GRID.into(), at);
            config.dial.udp.insert(SIMULATOR.parse().unwrap(), simulator.at());
        })
        .await;
        Self { setup, canary: FakeGrid::start().await, udp_canary: End::open().await, simulator }
    }

    fn url(path: &str) -> String {
        format!("http://{GRID}{path}")
    }

    async fn login(&self, avatar: &Avatar) -> Viewer {
        let reply = avatar.login_reply("203.0.113.8", 9000, &Self::url(&avatar.seed));
        self.setup.grid.on("/", move |_| Reply::ok("text/xml", &reply));
        Viewer::read(&ask(self.setup.at, "POST", "/", &[], b"<call>").await)
    }

    /// Authorities nobody may lead us to, as literal addresses.
    fn literals(&self) -> Vec<String> {
        let control = self.setup.proxy.control_address().unwrap();
        let (canary, port) = (self.canary.at, self.canary.at.port());
        vec![
            canary.to_string(),
            control.to_string(),
            self.setup.at.to_string(),
            format!("127.0.0.1:{port}"),
            format!("127.1.2.3:{port}"),
            format!("[::1]:{port}"),
            format!("[::ffff:127.0.0.1]:{port}"),
            format!("[::ffff:7f00:1]:{port}"),
            "[::ffff:10.0.0.1]:80".into(),
            "10.0.0.1:80".into(),
            "169.254.169.254".into(),
            "[fe80::1]:80".into(),
            format!("0.0.0.0:{port}"),
            "224.0.0.1:80".into(),
            "192.168.0.1".into(),
        ]
    }

    /// Names and spellings that only resolving shows to be this machine.
    fn names(&self) -> Vec<String> {
        let port = self.canary.at.port();
        ["localhost", "LocalHost", "127.1", "2130706433", "0x7f.0.0.1"]
            .map(|name| format!("{name}:{port}"))
            .into()
    }

    /// The session still works, and no canary has heard anything.
    async fn goes_on(&self, avatar: &Avatar, login: &Viewer) {
        let asset = texture();
        let bytes = asset.bytes.clone();
        self.setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
        let seed = seed_reply(&[("ViewerAsset", &Self::url("/cap-asset"))]);
        self.setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &seed));
        let cap = login.capabilities(self.setup.at).await["ViewerAsset"].clone();
        let answer = get(self.setup.at, &format!("{cap}{}", asset.query), &[]).await;
        assert_eq!((answer.status, &answer.body), (200, &*asset.bytes));
        open_circuit(avatar, &End::open().await, login.simulator, &self.simulator).await;
        self.nothing_heard();
    }

    fn nothing_heard(&self) {
        assert_eq!(self.canary.connections(), 0);
        assert!(self.udp_canary.has_received_nothing());
    }
}

#[tokio::test]
async fn a_login_that_leads_inward_is_left_as_it_is() {
    let hostile = Hostile::start().await;
    let avatar = Avatar::number(1);
    let good_seed = Hostile::url(&avatar.seed);
    let mut replies = vec![];
    for ip in ["127.0.0.1", "10.0.0.1", "169.254.1.1", "0.0.0.0", "255.255.255.255"] {
        replies.push(avatar.login_reply(ip, hostile.udp_canary.at().port(), &good_seed));
    }
    for authority in hostile.literals() {
        replies.push(avatar.login_reply("203.0.113.8", 9000, &format!("http://{authority}/CAPS/x/")));
    }
    for reply in replies {
        let sent = reply.clone();
        hostile.setup.grid.on("/", move |_| Reply::ok("text/xml", &sent));
        let answer = ask(hostile.setup.at, "POST", "/", &[], b"<call>").await;
        assert_eq!((answer.status, answer.text()), (200, reply));
    }
    assert!(hostile.setup.proxy.metrics().get(Counter::AddressesRefused) >= 20);
    assert_eq!(hostile.setup.proxy.metrics().sessions_open(), 0);
    let login = hostile.login(&avatar).await;
    hostile.goes_on(&avatar, &login).await;
}

#[tokio::test]
async fn a_name_that_resolves_inward_sends_the_viewer_there_itself() {
    let hostile = Hostile::start().await;
    let avatar = Avatar::number(1);
    for authority in hostile.names() {
        let url = format!("http://{authority}/CAPS/x/");
        let reply = avatar.login_reply("203.0.113.8", 9000, &url);
        hostile.setup.grid.on("/", move |_| Reply::ok("text/xml", &reply));
        let login = Viewer::read(&ask(hostile.setup.at, "POST", "/", &[], b"<call>").await);
        if login.seed != url {
            let answer = ask_seed(hostile.setup.at, &login.seed).await;
            assert_eq!((answer.status, answer.header("location")), (307, Some(url.as_str())));
        }
    }
    hostile.nothing_heard();
}

#[tokio::test]
async fn capabilities_that_lead_inward_are_left_as_they_are() {
    let hostile = Hostile::start().await;
    let avatar = Avatar::number(1);
    let login = hostile.login(&avatar).await;
    for authority in hostile.literals() {
        let url = format!("http://{authority}/cap-x");
        let seed = seed_reply(&[
            ("GetTexture", &url),
            ("EventQueueGet", &url),
            ("ViewerAsset", &url.replace("http:", "https:")),
            ("GetMesh", &Hostile::url("/good")),
        ]);
        hostile.setup.grid.on(&avatar.seed, {
            let seed = seed.clone();
            move |_| Reply::ok("text/html", &seed)
        });
        let answer = ask_seed(hostile.setup.at, &login.seed).await.text();
        let good = capabilities(&answer)["GetMesh"].clone();
        assert!(good.starts_with("/cap/"), "one bad capability does not take the others along");
        let expected = seed.replace(&Hostile::url("/good"), &format!("http://{}{good}", hostile.setup.at));
        assert_eq!(answer, expected);
    }
    hostile.goes_on(&avatar, &login).await;
}

#[tokio::test]
async fn capabilities_at_names_that_resolve_inward_redirect_the_viewer() {
    let hostile = Hostile::start().await;
    let avatar = Avatar::number(1);
    let login = hostile.login(&avatar).await;
    for authority in hostile.names() {
        let url = format!("http://{authority}/cap-x");
        let seed = seed_reply(&[("ViewerAsset", &url), ("EventQueueGet", &url)]);
        hostile.setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &seed));
        let caps = login.capabilities(hostile.setup.at).await;
        let query = texture().query;
        for (method, name, suffix) in [
            ("GET", "ViewerAsset", query.as_str()),
            ("HEAD", "ViewerAsset", &query),
            ("GET", "ViewerAsset", "/?odd"),
            ("POST", "EventQueueGet", ""),
        ] {
            let cap = &caps[name];
            assert!(
                cap.starts_with("/cap/") || !authority.starts_with("local"),
                "names are judged at connect time"
            );
            if cap.starts_with("/cap/") {
                let body: &[u8] = if method == "POST" { b"<llsd><map /></llsd>" } else { b"" };
                let answer = ask(hostile.setup.at, method, &format!("{cap}{suffix}"), &[LLSD], body).await;
                let real = format!("{url}{suffix}");
                assert_eq!(
                    (answer.status, answer.header("location")),
                    (307, Some(real.as_str())),
                    "{method} {name}"
                );
            }
        }
    }
    hostile.goes_on(&avatar, &login).await;
}

#[tokio::test]
async fn events_that_lead_inward_are_left_as_they_are() {
    let hostile = Hostile::start().await;
    let avatar = Avatar::number(1);
    let login = hostile.login(&avatar).await;
    let seed = seed_reply(&[("EventQueueGet", &Hostile::url("/eq"))]);
    hostile.setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &seed));
    let queue = login.capabilities(hostile.setup.at).await["EventQueueGet"].clone();
    let deliver = async |reply: String| {
        hostile.setup.grid.on("/eq", move |_| Reply::ok("application/xml", &reply));
        ask(hostile.setup.at, "POST", &queue, &[LLSD], b"<llsd><map /></llsd>").await.text()
    };
    let port = hostile.udp_canary.at().port();
    let canary = &format!("<integer>{port}<");
    for fixture in ["llsd/hippo-teleport-finish.xml", "llsd/hippo-enable-and-establish.xml"] {
        // The captured addresses are 127.0.0.1 already.
        let inward = fixture_text(fixture)
            .replace("<integer>9001<", canary)
            .replace("127.0.0.1:9001", &format!("127.0.0.1:{port}"));
        assert_eq!(deliver(inward.clone()).await, inward);
        for (ip, dotted) in [("CgAAAQ==", "10.0.0.1"), ("qf4BAQ==", "169.254.1.1"), ("AAAAAA==", "0.0.0.0")] {
            let other = inward.replace("fwAAAQ==", ip).replace("127.0.0.1:", &format!("{dotted}:"));
            assert_eq!(deliver(other.clone()).await, other);
        }
        // A good simulator with a seed that leads inward: neither half is replaced.
        let seed_inward = fixture_text(fixture)
            .replace("fwAAAQ==", "ywBxCA==")
            .replace("<integer>9001<", "<integer>9000<")
            .replace("<string>127.0.0.1:9001<", &format!("<string>{SIMULATOR}<"))
            .replace("http://127.0.0.1:9000/", &format!("http://127.0.0.1:{}/", hostile.canary.at.port()));
        let answer = deliver(seed_inward.clone()).await;
        assert!(answer.contains(&format!("http://127.0.0.1:{}/", hostile.canary.at.port())));
        if fixture.contains("teleport") {
            assert_eq!(answer, seed_inward);
        }
    }
    hostile.goes_on(&avatar, &login).await;
}

#[tokio::test]
async fn a_login_service_that_leads_inward_gets_no_login() {
    for authority in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let grid = FakeGrid::start().await;
        let canary = FakeGrid::start().await;
        let (at, url) = (grid.at, format!("http://{authority}:{}/steal", canary.at.port()));
        let info = format!("<gridinfo><login>{url}</login><gridname>x</gridname></gridinfo>");
        grid.on("/get_grid_info", move |_| Reply::ok("application/xml", &info));
        let setup = Setup::with(grid, |config| {
            config.grids[0].uri = format!("http://{GRID}/").parse().unwrap();
            config.dial.http.insert(GRID.into(), at);
        })
        .await;
        let answer = ask(setup.at, "POST", "/", &[], b"<password>").await;
        assert_eq!((answer.status, answer.header("location")), (307, Some(url.as_str())));
        // The same by way of an indeterminate reply.
        let reply = format!(
            "<methodResponse><params><param><value><struct><member><name>login</name><value><string>indeterminate</string></value></member><member><name>next_url</name><value><string>{url}</string></value></member></struct></value></param></params></methodResponse>"
        );
        setup.grid.on("/get_grid_info", |_| Reply::ok("application/xml", "<gridinfo></gridinfo>"));
        setup.grid.on("/", move |_| Reply::ok("text/xml", &reply));
        let fresh = Setup::with(setup.grid, |config| {
            config.grids[0].uri = format!("http://{GRID}/").parse().unwrap();
            config.dial.http.insert(GRID.into(), at);
        })
        .await;
        let answer = ask(fresh.at, "POST", "/", &[], b"<password>").await.text();
        let next = between(&answer, "<name>next_url</name><value><string>", "<").unwrap();
        if let Some(path) = next.strip_prefix(&format!("http://{}", fresh.at)) {
            let answer = ask(fresh.at, "POST", path, &[], b"<password>").await;
            assert_eq!((answer.status, answer.header("location")), (307, Some(url.as_str())));
        }
        assert_eq!(canary.connections(), 0);
    }
}

#[tokio::test]
async fn even_a_grid_on_this_machine_may_not_lead_us_to_ourselves() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let (viewer, simulator) = (End::open().await, End::open().await);
    let login = setup.login(&avatar, simulator.at()).await;
    let session = open_circuit(&avatar, &viewer, login.simulator, &simulator).await;
    let control = setup.proxy.control_address().unwrap();
    let requests_before = setup.proxy.metrics().get(Counter::RequestsRefused);

    for own in [setup.at, control] {
        let literal = |host: &str| format!("http://{host}:{}/status.json", own.port());
        let seed = seed_reply(&[
            ("GetTexture", &literal("127.0.0.1")),
            ("GetMesh", &literal("[::ffff:127.0.0.1]")),
            ("ViewerAsset", &literal("localhost")),
        ]);
        setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &seed));
        let caps = login.capabilities(setup.at).await;
        assert_eq!(caps["GetTexture"], literal("127.0.0.1"));
        assert_eq!(caps["GetMesh"], literal("[::ffff:127.0.0.1]"));
        let answer = get(setup.at, &format!("{}{}", caps["ViewerAsset"], texture().query), &[]).await;
        assert_eq!(answer.status, 307);
    }
    assert_eq!(setup.proxy.metrics().get(Counter::RequestsRefused), requests_before);

    // The session's own sockets, on either side of it.
    let queue = seed_reply(&[("EventQueueGet", &setup.grid.url("/eq"))]);
    setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &queue));
    let queue = login.capabilities(setup.at).await["EventQueueGet"].clone();
    let own_sockets: [SocketAddr; 2] = [login.simulator.into(), session];
    for own in own_sockets {
        let event = fixture_text("llsd/hippo-enable-and-establish.xml")
            .replace("<integer>9001<", &format!("<integer>{}<", own.port()))
            .replace("127.0.0.1:9001", &own.to_string());
        let sent = event.clone();
        setup.grid.on("/eq", move |_| Reply::ok("application/xml", &sent));
        let answer = ask(setup.at, "POST", &queue, &[LLSD], b"<llsd><map /></llsd>").await;
        assert_eq!(answer.text(), event, "{own}");
    }
    simulator.send(session, &[0, 0, 0, 0, 1, 0, 1, 2]).await;
    assert_eq!(viewer.receive().await.0, [0, 0, 0, 0, 1, 0, 1, 2]);
}

#[tokio::test]
async fn web_pages_are_refused_on_every_port() {
    let setup = Setup::start().await;
    setup.grid.on("/page", |_| Reply::ok("text/html", "a grid's page"));
    let avatar = Avatar::number(1);
    let login = setup.login(&avatar, "127.0.0.1:9".parse().unwrap()).await;
    let control = setup.proxy.control_address().unwrap();
    let asked_before = setup.grid.asked("/page").len() + setup.grid.asked("/").len();
    let mut refused = 0;
    let ports = [
        (setup.at, vec!["/page", "/get_grid_info", "/rezcache/status.json", &login.seed]),
        (control, vec!["/", "/status.json", "/metrics"]),
    ];
    for (port, paths) in ports {
        for path in paths {
            let host = format!("Host: {port}\r\n");
            let requests = [
                format!("GET {path} HTTP/1.1\r\nHost: rebound.example:{}\r\n\r\n", port.port()),
                format!("GET {path} HTTP/1.1\r\nHost: rebound.example\r\n\r\n"),
                format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", port.ip()),
                format!("GET {path} HTTP/1.1\r\n{host}Origin: http://{port}\r\n\r\n"),
                format!("GET {path} HTTP/1.1\r\n{host}Origin: null\r\n\r\n"),
                format!(
                    "POST {path} HTTP/1.1\r\n{host}Origin: https://evil.example\r\nContent-Length: 0\r\n\r\n"
                ),
                format!(
                    "GET {path} HTTP/1.1\r\n{host}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n\r\n"
                ),
                format!("GET {path} HTTP/1.1\r\n{host}Sec-Fetch-Site: same-site\r\n\r\n"),
                format!(
                    "OPTIONS {path} HTTP/1.1\r\n{host}Origin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\n\r\n"
                ),
                format!("GET {path} HTTP/1.1\r\n{host}{host}\r\n"),
                format!("GET {path} HTTP/1.1\r\n\r\n"),
                format!("GET {path} HTTP/1.0\r\n\r\n"),
                format!("GET http://{port}{path} HTTP/1.1\r\n{host}\r\n"),
                format!("GET http://evil.example{path} HTTP/1.1\r\n{host}\r\n"),
                format!("CONNECT {port} HTTP/1.1\r\n{host}\r\n"),
            ];
            for request in requests {
                let mut connection = Connection::open(port).await;
                connection.send_raw(request.as_bytes()).await;
                if let Some(answer) = connection.try_answer("GET").await {
                    assert!(matches!(answer.status, 400 | 403), "{} to {request}", answer.status);
                    assert_eq!(answer.header("access-control-allow-origin"), None);
                    assert!(!answer.text().contains("grid's page"));
                    refused += 1;
                }
            }
        }
    }
    assert!(refused >= 7 * 14, "{refused}");
    assert!(setup.proxy.metrics().get(Counter::RequestsRefused) >= 7 * 14);
    assert_eq!(setup.grid.asked("/page").len() + setup.grid.asked("/").len(), asked_before);
    assert!(setup.grid.asked(&avatar.seed).is_empty());
    // A link on some page may lead a person to the grid's own pages, which the page cannot read.
    let navigation =
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    assert_eq!(get(setup.at, "/page", &navigation).await.text(), "a grid's page");
    assert_eq!(get(control, "/", &navigation).await.status, 403);
    assert_eq!(get(setup.at, &path_of("/rezcache/status.json"), &navigation).await.status, 403);
}
