//! No secret of a session is ever logged, however much is logged, nor shown on a page.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::proxy_udp::{End, open_circuit};
use crate::support::client::{Connection, ask, get};
use crate::support::fake_grid::Reply;
use crate::support::{
    ASSET_TOKEN, Avatar, LLSD, Setup, Viewer, ask_seed, asset_reply, fixture_text, seed_reply, texture,
};

/// Everything this process logs, whoever logs it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The secrets that a text gives away, in whatever spelling.
fn found_in<'s>(text: &str, secrets: &'s [(&'static str, String)]) -> Vec<&'s (&'static str, String)> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "");
    let text = plain(text);
    secrets.iter().filter(|(_, secret)| text.contains(&plain(secret))).collect()
}

const PASSWORD: &str = "$1$8743b52063cd84097a65d1633f5c74f5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_session_must_keep_is_logged_or_shown() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("this test is the only one that logs");

    // Two avatars, so that what one session says of another would show too.
    let setup = Setup::start().await;
    let simulator = End::open().await;
    let mut secrets = vec![("password", PASSWORD.to_owned()), ("asset token", ASSET_TOKEN.to_owned())];
    let mut said = String::new();
    for n in [31, 32] {
        let avatar = Avatar::number(n);
        let login = log_in(&setup, &avatar, &simulator).await;
        secrets.extend(whole_session(&setup, &avatar, &login, &simulator, &mut said).await);
    }
    troubles(&setup, &simulator).await;
    let setup = setup.restarted().await;

    let text = log.text();
    assert!(
        text.contains("login granted") && text.contains("rezcache::proxy"),
        "the log is being read: {text}"
    );
    assert_eq!(found_in(&text, &secrets), Vec::<&(&str, String)>::new());
    for path in ["/", "/status.json", "/metrics"] {
        said.push_str(&get(setup.proxy.control_address().unwrap(), path, &[]).await.text());
    }
    said.push_str(&get(setup.at, "/rezcache/status.json", &[]).await.text());
    assert!(said.contains("rezcache"));
    assert_eq!(found_in(&said, &secrets), Vec::<&(&str, String)>::new());

    // Each of them would have been found.
    for (name, secret) in &secrets {
        tracing::trace!(target: "rezcache::proxy", value = %secret, "told on purpose");
        let found = found_in(&log.text(), &secrets).iter().any(|(known, _)| known == name);
        assert!(found, "{name} is logged and not found");
    }
    assert_eq!(found_in(&log.text(), &secrets).len(), secrets.len());
}

async fn log_in(setup: &Setup, avatar: &Avatar, simulator: &End) -> Viewer {
    let reply = avatar.login_reply("127.0.0.1", simulator.at().port(), &setup.grid.url(&avatar.seed));
    setup.grid.on("/", move |_| Reply::ok("text/xml", &reply));
    let call = format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>login_to_simulator</methodName><params><param><value><struct><member><name>passwd</name><value><string>{PASSWORD}</string></value></member></struct></value></param></params></methodCall>"
    );
    Viewer::read(&ask(setup.at, "POST", "/", &[("Content-Type", "text/xml")], call.as_bytes()).await)
}

/// Does what a viewer does, and returns what must not be told.
async fn whole_session(
    setup: &Setup,
    avatar: &Avatar,
    login: &Viewer,
    simulator: &End,
    said: &mut String,
) -> Vec<(&'static str, String)> {
    let code = avatar.code;
    let grid_cap = format!("/c{code}a5e7-asset");
    let grid_queue = format!("/c{code}a5e7-queue");
    let neighbour_seed = format!("/CAPS/c{code}-neighbour/");
    let seed = seed_reply(&[
        ("ViewerAsset", &setup.grid.url(&grid_cap)),
        ("EventQueueGet", &setup.grid.url(&grid_queue)),
    ]);
    setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &seed));
    let caps = login.capabilities(setup.at).await;
    let viewer = End::open().await;
    let session = open_circuit(avatar, &viewer, login.simulator, simulator).await;
    simulator.send(session, &[1, 2, 3]).await;
    viewer.receive().await;

    let neighbour = setup.grid.url(&neighbour_seed);
    let event = fixture_text("llsd/hippo-enable-and-establish.xml")
        .replace("http://127.0.0.1:9000/CAPS/eb63bd47-72d6-4af9-830d-f665d7f752590000/", &neighbour);
    setup.grid.on(&grid_queue, move |_| Reply::ok("application/xml", &event));
    let poll = b"<llsd><map><key>ack</key><undef /></map></llsd>";
    let events = ask(setup.at, "POST", &caps["EventQueueGet"], &[LLSD], poll).await.text();
    let neighbour_alias = events.split("/cap/").nth(1).unwrap().split('<').next().unwrap().to_owned();

    let asset = texture();
    let bytes = asset.bytes.clone();
    setup.grid.on(&format!("{grid_cap}/"), move |asked| asset_reply(asked, &bytes));
    for suffix in [asset.query.as_str(), "/?texture_id=odd", "/?mesh_id=00000000-0000-4000-8000-000000000001"]
    {
        for _ in 0..2 {
            get(setup.at, &format!("{}{suffix}", caps["ViewerAsset"]), &[]).await;
        }
    }
    for bad in [format!("/cap/{}0", &neighbour_alias[..31]), format!("/asset/{ASSET_TOKEN}/none/?x")] {
        said.push_str(&get(setup.at, &bad, &[]).await.text());
    }
    // Every address of theirs breaks now.
    for path in [avatar.seed.clone(), format!("{grid_cap}/"), grid_cap.clone(), neighbour_seed.clone()] {
        setup.grid.on(&path, |_| Reply::raw_head("200 OK", &[("Content-Length", "9")]).then_close());
    }
    said.push_str(&ask_seed(setup.at, &login.seed).await.text());
    // This one breaks off before its first byte: there may be no reply at all.
    let mut connection = Connection::open(setup.at).await;
    let path = format!("{}/?sound_id={}", caps["ViewerAsset"], texture().id);
    connection.send("GET", &path, &[], b"").await;
    assert!(connection.try_answer("GET").await.is_none_or(|answer| answer.broken));
    for path in [login.seed.clone(), caps["ViewerAsset"].clone()] {
        let refused = ask(setup.at, "GET", &path, &[("Origin", "http://evil.example")], b"").await;
        assert_eq!(refused.status, 403);
        said.push_str(&refused.text());
    }
    let token = |path: &str| path.trim_start_matches("/cap/").to_owned();
    vec![
        ("agent id", avatar.agent.to_string()),
        ("session id", avatar.session.to_string()),
        ("secure session id", avatar.secure_session.to_string()),
        ("circuit code", code.to_string()),
        ("seed", avatar.seed.clone()),
        ("capability", grid_cap),
        ("event queue", grid_queue),
        ("neighbour's seed", neighbour_seed),
        ("seed's alias", token(&login.seed)),
        ("capability's alias", token(&caps["ViewerAsset"])),
        ("event queue's alias", token(&caps["EventQueueGet"])),
        ("neighbour's alias", neighbour_alias),
    ]
}

/// Logins that go wrong.
async fn troubles(setup: &Setup, simulator: &End) {
    let avatar = Avatar::number(33);
    let granted = avatar.login_reply("169.254.0.1", 9, &setup.grid.url(&avatar.seed));
    for reply in [
        Reply::none(),
        Reply::ok("text/xml", granted),
        Reply::ok("text/xml", "not a reply"),
        Reply::raw_head("200 OK", &[("Content-Length", "99")]).then_close(),
    ] {
        setup.grid.on("/", move |_| reply.clone());
        let call = format!("<call>{PASSWORD}</call>");
        ask(setup.at, "POST", "/", &[("Content-Type", "text/xml")], call.as_bytes()).await;
    }
    // A stranger who guesses.
    let login = log_in(setup, &avatar, simulator).await;
    End::open()
        .await
        .send(login.simulator, &crate::proxy_udp::use_circuit_code(&Avatar::number(34), 1))
        .await;
}
