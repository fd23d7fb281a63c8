//! The grid port over real sockets: grid information, login, reverse proxy, seed.

use crate::support::client::{Connection, ask, get};
use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::{
    Avatar, LLSD, Setup, Viewer, ask_seed, between, capabilities, fixture_text, path_of, seed_reply,
};

const GRID_INFO: &str = "<?xml version=\"1.0\"?>\n<gridinfo>\n <!-- ours -->\n <gridname>Test &amp; Co</gridname>\n <login>LOGIN</login>\n <economy>http://econ.example/</economy>\n <gridnick>test</gridnick>\n</gridinfo>";

fn with_info(grid: &FakeGrid) {
    let info = GRID_INFO.replace("LOGIN", &grid.url("/"));
    grid.on("/get_grid_info", move |asked| {
        if asked.header("If-Modified-Since").is_some() {
            return Reply::raw_head("304 Not Modified", &[("Last-Modified", "yesterday")]);
        }
        Reply::ok("application/xml", &info)
    });
}

#[tokio::test]
async fn grid_information_names_us_as_the_login_and_keeps_the_rest() {
    let setup = Setup::start().await;
    with_info(&setup.grid);
    let answer = get(setup.at, "/get_grid_info", &[]).await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert_eq!(between(&text, "<login>", "</login>").unwrap(), format!("http://{}/", setup.at));
    let name = between(&text, "<gridname>", "</gridname>").unwrap();
    assert!(name.starts_with("Test &amp; Co") && name != "Test &amp; Co", "{name}");
    let original = GRID_INFO.replace("LOGIN", &setup.grid.url("/"));
    let restored =
        text.replace(&name, "Test &amp; Co").replace(&format!("http://{}/", setup.at), &setup.grid.url("/"));
    assert_eq!(restored, original);

    let unchanged = get(setup.at, "/get_grid_info", &[("If-Modified-Since", "yesterday")]).await;
    assert_eq!((unchanged.status, unchanged.header("Last-Modified")), (304, Some("yesterday")));
}

#[tokio::test]
async fn json_grid_information_is_rewritten_too() {
    let setup = Setup::start().await;
    let info = format!(r#"{{"gridname":"Test","login":"{}","economy":"http:\/\/e\/"}}"#, setup.grid.url("/"));
    setup.grid.on("/json_grid_info", move |_| Reply::ok("application/json", &info));
    let answer = get(setup.at, "/json_grid_info", &[]).await;
    let info: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(info["login"], format!("http://{}/", setup.at));
    assert_eq!(info["economy"], "http://e/");
    assert!(info["gridname"].as_str().unwrap().starts_with("Test"));
}

#[tokio::test]
async fn grid_information_is_made_up_when_the_grid_is_away_or_has_none() {
    let setup = Setup::start().await;
    let answer = get(setup.at, "/get_grid_info", &[]).await;
    assert_eq!(answer.status, 200, "the grid says 404");
    let login = format!("<login>http://{}/</login>", setup.at);
    assert!(answer.text().contains(&login));

    let gone = FakeGrid::start().await.url("/");
    let away =
        Setup::with(FakeGrid::start().await, |config| config.grids[0].uri = gone.parse().unwrap()).await;
    for path in ["/get_grid_info", "/json_grid_info"] {
        let answer = get(away.at, path, &[]).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains(&format!("http://{}/", away.at)), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_granted_login_changes_three_values_and_nothing_else() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let original = avatar.login_reply("127.0.0.1", 9100, &setup.grid.url(&avatar.seed));
    let reply = original.clone();
    setup.grid.on("/", move |_| Reply::ok("text/xml; charset=utf-8", &reply));
    let call = b"<?xml version=\"1.0\"?><methodCall>odd &#x20; bytes\xff\x00</methodCall>";
    let headers = [("Content-Type", "text/xml"), ("X-Odd-CASE", "kept")];
    let answer = ask(setup.at, "POST", "/", &headers, call).await;

    let asked = &setup.grid.asked("/")[0];
    assert_eq!((asked.method.as_str(), asked.body.as_slice()), ("POST", call.as_slice()));
    assert!(asked.headers.contains(&("X-Odd-CASE".into(), "kept".into())));
    assert_eq!(asked.header("host").unwrap(), setup.grid.at.to_string());
    assert_eq!(asked.header("x-forwarded-for"), None);

    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/xml; charset=utf-8")));
    let viewer = Viewer::read(&answer);
    assert!(viewer.seed.starts_with("/cap/"));
    assert!(viewer.simulator.ip().is_loopback() && viewer.simulator.port() != 9100);
    let text = answer.text();
    let seed = between(&text, "<name>seed_capability</name><value><string>", "<").unwrap();
    let restored = text
        .replace(&seed, &setup.grid.url(&avatar.seed))
        .replace(&format!("<i4>{}</i4>", viewer.simulator.port()), "<i4>9100</i4>");
    assert_eq!(restored, original);
}

fn xmlrpc(members: &[(&str, &str)]) -> String {
    let members: String = members
        .iter()
        .map(|(name, value)| {
            format!("<member><name>{name}</name><value><string>{value}</string></value></member>")
        })
        .collect();
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>{members}</struct></value></param></params></methodResponse>"
    )
}

#[tokio::test]
async fn a_refusal_reaches_the_viewer_verbatim_and_mfa_goes_on_to_success() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let granted = avatar.login_reply("127.0.0.1", 9100, &setup.grid.url(&avatar.seed));
    let challenge = xmlrpc(&[("login", "false"), ("reason", "mfa_challenge"), ("message", "Code &amp; all")]);
    let refusal = challenge.clone();
    setup.grid.on("/", move |asked| match asked.body.as_slice() {
        b"<token>" => Reply::ok("text/xml", &granted),
        _ => Reply::new("418 Odd", &[("Content-Type", "text/odd")], &refusal),
    });
    let mut connection = Connection::open(setup.at).await;
    connection.send("POST", "/", &[], b"<call>").await;
    let answer = connection.answer("POST").await;
    assert_eq!(
        (answer.status, answer.text(), answer.header("content-type")),
        (418, challenge, Some("text/odd"))
    );
    connection.send("POST", "/", &[], b"<token>").await;
    assert!(Viewer::read(&connection.answer("POST").await).seed.starts_with("/cap/"));
}

#[tokio::test]
async fn an_indeterminate_login_goes_on_through_us() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let granted = avatar.login_reply("127.0.0.1", 9100, &setup.grid.url(&avatar.seed));
    let next = setup.grid.url("/second/login.cgi?lang=en&amp;x=1");
    let first = xmlrpc(&[("login", "indeterminate"), ("next_url", &next), ("next_method", "odd_method")]);
    setup.grid.on("/", move |_| Reply::ok("text/xml", &first));
    setup.grid.on("/second/login.cgi", move |_| Reply::ok("text/xml", &granted));
    let answer = ask(setup.at, "POST", "/", &[], b"<call>").await.text();
    let stand_in = between(&answer, "<name>next_url</name><value><string>", "<").unwrap();
    let path = stand_in.strip_prefix(&format!("http://{}", setup.at)).expect("leads to us");
    let answer = ask(setup.at, "POST", path, &[], b"<again>").await;
    assert!(Viewer::read(&answer).seed.starts_with("/cap/"));
    let asked = &setup.grid.asked("/second/login.cgi")[0];
    assert_eq!(
        (asked.target.as_str(), asked.body.as_slice()),
        ("/second/login.cgi?lang=en&x=1", b"<again>".as_slice())
    );
    assert_eq!(ask(setup.at, "POST", "/login/0123", &[], b"<x>").await.status, 404);
}

#[tokio::test]
async fn an_llsd_login_is_rewritten() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let reply = format!(
        "<llsd><map><key>login</key><string>true</string><key>sim_ip</key><string>127.0.0.1</string><key>sim_port</key><integer>9100</integer><key>agent_id</key><uuid>{}</uuid><key>session_id</key><uuid>{}</uuid><key>secure_session_id</key><uuid>{}</uuid><key>circuit_code</key><integer>{}</integer><key>seed_capability</key><string>{}</string></map></llsd>",
        avatar.agent,
        avatar.session,
        avatar.secure_session,
        avatar.code,
        setup.grid.url(&avatar.seed)
    );
    setup.grid.on("/", move |_| Reply::ok("application/llsd+xml", &reply));
    let text = ask(setup.at, "POST", "/", &[LLSD], b"<llsd/>").await.text();
    let seed = between(&text, "<key>seed_capability</key><string>", "<").unwrap();
    assert!(seed.starts_with(&format!("http://{}/cap/", setup.at)), "{seed}");
    assert_ne!(between(&text, "<key>sim_port</key><integer>", "<").unwrap(), "9100");
}

#[tokio::test]
async fn a_grid_that_is_away_makes_the_login_fail_with_502() {
    let gone = FakeGrid::start().await.url("/");
    let setup =
        Setup::with(FakeGrid::start().await, |config| config.grids[0].uri = gone.parse().unwrap()).await;
    let mut connection = Connection::open(setup.at).await;
    connection.send("POST", "/", &[], b"<call>").await;
    assert_eq!(connection.answer("POST").await.status, 502);
    assert_eq!(connection.get("/rezcache/status.json", &[]).await.status, 200, "the connection stays usable");
}

#[tokio::test]
async fn other_paths_pass_through_unchanged() {
    let setup = Setup::start().await;
    setup.grid.on("/helpers/x%20y;z", |_| {
        Reply::new(
            "299 Odd",
            &[
                ("X-Grid-CASE", "a"),
                ("x-grid-case", "b"),
                ("Content-Encoding", "binary/octet-stream"),
                ("Date", "never"),
            ],
            b"\x00\xffbody",
        )
    });
    let headers = [
        ("uSeR-aGeNt", "Test/1"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
        ("Cookie", "a=b"),
        ("Accept-Encoding", "deflate, gzip"),
    ];
    let mut connection = Connection::open(setup.at).await;
    for (method, body) in [
        ("POST", &b"\x00binary\r\n\r\n"[..]),
        ("GET", b""),
        ("PUT", b"x"),
        ("DELETE", b""),
        ("PROPFIND", b""),
    ] {
        connection.send(method, "/helpers/x%20y;z?q=%2F&q=ü&&=", &headers, body).await;
        let answer = connection.answer(method).await;
        assert_eq!((answer.status, answer.body.as_slice()), (299, b"\x00\xffbody".as_slice()), "{method}");
        let asked = setup.grid.asked("/helpers/x%20y;z").pop().unwrap();
        assert_eq!((asked.method.as_str(), asked.body.as_slice()), (method, body));
        assert_eq!(asked.target, "/helpers/x%20y;z?q=%2F&q=ü&&=");
        for (name, value) in headers {
            assert!(asked.headers.contains(&(name.into(), value.into())), "{name} in {:?}", asked.headers);
        }
        assert!(answer.headers.contains(&("X-Grid-CASE".into(), "a".into())), "{:?}", answer.headers);
        assert!(answer.headers.contains(&("x-grid-case".into(), "b".into())), "{:?}", answer.headers);
        assert_eq!(answer.header("content-encoding"), Some("binary/octet-stream"));
        assert_eq!(answer.header("date"), Some("never"));
    }
}

#[tokio::test]
async fn a_redirect_is_the_viewers_to_follow() {
    let setup = Setup::start().await;
    setup.grid.on("/moved", |_| {
        Reply::new("302 Found", &[("Location", "/target"), ("Content-Encoding", "nonsense")], b"over there")
    });
    setup.grid.on("/target", |_| Reply::ok("text/plain", b"here"));
    let answer = get(setup.at, "/moved", &[]).await;
    assert_eq!(
        (answer.status, answer.header("location"), answer.text().as_str()),
        (302, Some("/target"), "over there")
    );
    assert_eq!(answer.header("content-encoding"), Some("nonsense"));
    assert!(setup.grid.asked("/target").is_empty());
}

#[tokio::test]
async fn a_seed_request_goes_out_untouched_and_its_aliases_are_stable() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let viewer = setup.login(&avatar, "127.0.0.1:9100".parse().unwrap()).await;
    let original = fixture_text("llsd/hippo-seed.xml").replace("http://127.0.0.1:9000", &setup.grid.url(""));
    let reply = original.clone();
    setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html;charset=UTF-8", &reply));
    let first = ask_seed(setup.at, &viewer.seed).await;
    let second = ask_seed(setup.at, &viewer.seed).await;
    assert_eq!(first.text(), second.text());
    let asked = &setup.grid.asked(&avatar.seed)[0];
    assert_eq!(asked.body, b"<llsd><array><string>ViewerAsset</string></array></llsd>");
    assert_eq!(asked.headers.iter().filter(|(name, _)| name == "Content-Type").count(), 1);
    assert_eq!(asked.header("content-type"), Some("application/llsd+xml"));
    assert_eq!(first.header("content-type"), Some("text/html;charset=UTF-8"));

    let (before, after) = (capabilities(&original), capabilities(&first.text()));
    assert_eq!(before.len(), after.len());
    let ours = ["ViewerAsset", "GetTexture", "GetMesh", "GetMesh2", "EventQueueGet"];
    for (name, url) in &after {
        if ours.contains(&name.as_str()) {
            assert!(url.starts_with("/cap/"), "{name}");
        } else {
            assert_eq!(before[name], *url, "{name}");
        }
    }
    assert!(ours.iter().all(|name| after.contains_key(*name)));
}

#[tokio::test]
async fn a_seed_that_does_not_answer_well_passes_its_status_through() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let viewer = setup.login(&avatar, "127.0.0.1:9100".parse().unwrap()).await;
    setup.grid.on(&avatar.seed, |_| Reply::new("503 Busy", &[("Retry-After", "30")], b"wait"));
    let answer = ask_seed(setup.at, &viewer.seed).await;
    assert_eq!(
        (answer.status, answer.header("retry-after"), answer.text().as_str()),
        (503, Some("30"), "wait")
    );
    setup.grid.on(&avatar.seed, |_| Reply::none());
    assert_eq!(ask_seed(setup.at, &viewer.seed).await.status, 502);
    let reply = seed_reply(&[("ViewerAsset", "http://127.0.0.1:9/x"), ("Odd", "http://a/?b&amp;c")]);
    setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &reply));
    let answer = ask_seed(setup.at, &viewer.seed).await.text();
    assert!(answer.contains("<string>http://a/?b&amp;c</string>"));
    assert_eq!(
        ask_seed(setup.at, &path_of("http://x/cap/00000000000000000000000000000000")).await.status,
        404
    );
}
