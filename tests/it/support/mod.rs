//! What the tests of a running proxy share: a grid to program, a viewer, and a login between them.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rezcache::proxy::{DialMap, GridConfig, Proxy, ProxyConfig};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) mod captures;
pub(crate) mod client;
pub(crate) mod directors;
pub(crate) mod fake_grid;
pub(crate) mod mail;
pub(crate) mod moto;
pub(crate) mod operator;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod synthetic;
pub(crate) mod tls;

use client::{Answer, ask};
use fake_grid::{Asked, FakeGrid, Reply};

/// Nothing in a test takes this long; a hang becomes a failure.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("nothing happened in time")
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

pub(crate) fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)).unwrap()
}

pub(crate) fn fixture_text(path: &str) -> String {
    String::from_utf8(fixture(path)).unwrap()
}

/// An asset of the fixtures: its id and its bytes.
#[derive(Clone)]
pub(crate) struct RealAsset {
    pub(crate) query: String,
    pub(crate) id: &'static str,
    pub(crate) bytes: Arc<Vec<u8>>,
}

fn real(id: &'static str, kind: &str, parameter: &str) -> RealAsset {
    RealAsset {
        query: format!("/?{parameter}={id}"),
        id,
        bytes: Arc::new(fixture(&format!("assets/{id}.{kind}"))),
    }
}

pub(crate) fn texture() -> RealAsset {
    real("82e34bc0-3a7b-5407-ad08-9bc0b2b3b08b", "texture", "texture_id")
}

pub(crate) fn another_texture() -> RealAsset {
    real("a46ac4c0-2e2a-53f9-bee9-9c043edce8be", "texture", "texture_id")
}

pub(crate) fn mesh() -> RealAsset {
    real("9bf0a66c-63d5-5fb9-997f-52b771fe0a6b", "mesh", "mesh_id")
}

pub(crate) fn sound() -> RealAsset {
    real("11025255-155f-542e-a206-ee2bceece69c", "sound", "sound_id")
}

pub(crate) fn animation() -> RealAsset {
    real("f53f1b23-c790-5883-b803-2267139670e4", "animation", "animatn_id")
}

/// Serves these bytes as OpenSimulator serves an asset: whole, or the part asked for, clamped.
pub(crate) fn asset_reply(asked: &Asked, bytes: &[u8]) -> Reply {
    let content_type = ("Content-Type", "application/octet-stream");
    let part = asked.header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let last = last.parse().unwrap_or(usize::MAX).min(bytes.len() - 1);
        (first <= last).then_some((first, last))
    });
    match part {
        None => Reply::new("200 OK", &[content_type], bytes),
        Some((first, last)) => {
            let range = format!("bytes {first}-{last}/{}", bytes.len());
            Reply::new(
                "206 Partial Content",
                &[content_type, ("Content-Range", &range)],
                &bytes[first..=last],
            )
        }
    }
}

/// The secrets of one avatar's login.
#[derive(Clone, Debug)]
pub(crate) struct Avatar {
    pub(crate) agent: Uuid,
    pub(crate) session: Uuid,
    pub(crate) secure_session: Uuid,
    pub(crate) code: u32,
    /// The seed's path on the grid.
    pub(crate) seed: String,
}

impl Avatar {
    /// An avatar of its own for every `n`.
    pub(crate) fn number(n: u8) -> Self {
        let id =
            |kind: u8| Uuid::from_bytes([kind ^ 0x5a, n, 7, 7, 7, 7, 0x47, 7, 0x87, 7, 7, 7, 7, 7, n, kind]);
        Self {
            agent: id(1),
            session: id(2),
            secure_session: id(3),
            code: 2_028_978_000 + u32::from(n),
            seed: format!("/CAPS/{}0000/", id(4)),
        }
    }

    /// A login reply as OpenSimulator wrote it, for this avatar.
    pub(crate) fn login_reply(&self, simulator: &str, port: u16, seed: &str) -> String {
        let old = |name: &str, value: &str| format!("<name>{name}</name><value><string>{value}</string>");
        let mut reply = fixture_text("login/hippo-reply.xml");
        for (from, to) in [
            ("d3fcb819-57ec-54be-a241-4bbde7cd5a8f".to_owned(), self.agent.to_string()),
            ("b7c5a6d6-a2b2-49f4-a4bc-8c175650e2df".to_owned(), self.session.to_string()),
            ("c51b4ae6-b93b-4367-872b-bc24960b0a42".to_owned(), self.secure_session.to_string()),
            ("<i4>2028978092</i4>".to_owned(), format!("<i4>{}</i4>", self.code)),
            (
                "<name>sim_port</name><value><i4>9000<".to_owned(),
                format!("<name>sim_port</name><value><i4>{port}<"),
            ),
            (old("sim_ip", "127.0.0.1"), old("sim_ip", simulator)),
            (
                "http://127.0.0.1:9000/CAPS/de6166fb-cbf5-4b52-a711-e1ddfde355800000/".to_owned(),
                seed.to_owned(),
            ),
        ] {
            assert!(reply.contains(&from), "the fixture has changed: {from}");
            reply = reply.replace(&from, &to);
        }
        reply
    }
}

/// A grid's configuration as a user writes it.
pub(crate) fn grid_config(uri: &str) -> GridConfig {
    GridConfig {
        name: "test".into(),
        uri: uri.parse().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        allow: Vec::new(),
        ca_file: None,
        asset_host: None,
        central: false,
        id: None,
    }
}

pub(crate) const ASSET_TOKEN: &str = "4f0d8a52c1e97b36a58d20ce71f39b64";

pub(crate) fn proxy_config(grid: GridConfig, data_dir: &Path) -> ProxyConfig {
    ProxyConfig {
        grids: vec![grid],
        control: Some("127.0.0.1:0".parse().unwrap()),
        data_dir: data_dir.to_owned(),
        cache_bytes: 1 << 30,
        memory_bytes: 64 << 20,
        disk_patience: Duration::from_secs(10),
        asset_token: ASSET_TOKEN.into(),
        control_token: None,
        chat_commands: false,
        service: None,
        lan: None,
        uploads: None,
        page: rezcache::proxy::PageConfig::default(),
        dial: DialMap::default(),
    }
}

/// A running proxy with a grid behind it.
pub(crate) struct Setup {
    pub(crate) grid: FakeGrid,
    pub(crate) proxy: Proxy,
    pub(crate) at: SocketAddr,
    pub(crate) dir: TempDir,
}

impl Setup {
    pub(crate) async fn start() -> Self {
        Self::with(FakeGrid::start().await, |_| {}).await
    }

    pub(crate) async fn with(grid: FakeGrid, change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = proxy_config(grid_config(&grid.url("/")), dir.path());
        change(&mut config);
        let proxy = Proxy::start(config).await.unwrap();
        let at = proxy.grid_addresses()[0];
        Self { grid, proxy, at, dir }
    }

    /// Stops the proxy and starts another on the same data directory.
    pub(crate) async fn restarted(self) -> Self {
        let Self { grid, proxy, dir, .. } = self;
        within(proxy.stop()).await;
        let proxy = Proxy::start(proxy_config(grid_config(&grid.url("/")), dir.path())).await.unwrap();
        let at = proxy.grid_addresses()[0];
        Self { grid, proxy, at, dir }
    }

    /// Logs an avatar in and has its capabilities granted.
    pub(crate) async fn login(&self, avatar: &Avatar, simulator: SocketAddr) -> Viewer {
        let (ip, port) = (simulator.ip().to_string(), simulator.port());
        let reply = avatar.login_reply(&ip, port, &self.grid.url(&avatar.seed));
        self.grid.on("/", move |_| Reply::ok("text/xml", &reply));
        let answer = ask(self.at, "POST", "/", &[("Content-Type", "text/xml")], b"<methodCall/>").await;
        assert_eq!(answer.status, 200);
        Viewer::read(&answer)
    }

    /// The same for tests that are about assets alone: the path of an asset capability's alias.
    pub(crate) async fn asset_capability(&self) -> String {
        self.asset_capability_to(&self.grid.url("/cap-asset")).await
    }

    pub(crate) async fn asset_capability_to(&self, url: &str) -> String {
        let avatar = Avatar::number(9);
        let viewer = self.login(&avatar, "127.0.0.1:9".parse().unwrap()).await;
        let seed = seed_reply(&[("ViewerAsset", url)]);
        self.grid.on(&avatar.seed, move |_| Reply::ok("text/html;charset=UTF-8", &seed));
        viewer.capabilities(self.at).await["ViewerAsset"].clone()
    }

    /// Serves an asset under the capability of [`Self::asset_capability`].
    pub(crate) fn serve(&self, asset: &RealAsset) {
        let bytes = Arc::clone(&asset.bytes);
        self.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    }
}

/// What a viewer knows after its login.
#[derive(Clone, Debug)]
pub(crate) struct Viewer {
    /// Where it sends its datagrams.
    pub(crate) simulator: SocketAddrV4,
    /// The seed's path on the proxy, or its URL when the proxy does not stand in for it.
    pub(crate) seed: String,
}

impl Viewer {
    pub(crate) fn read(answer: &Answer) -> Self {
        let text = answer.text();
        let port = between(&text, "<name>sim_port</name><value><i4>", "<").unwrap();
        let ip = between(&text, "<name>sim_ip</name><value><string>", "<").unwrap();
        let seed = between(&text, "<name>seed_capability</name><value><string>", "<").unwrap();
        Self { simulator: format!("{ip}:{port}").parse().unwrap(), seed: path_of(&seed) }
    }

    /// Has capabilities granted: each name with its path, or its URL when it does not lead to us.
    pub(crate) async fn capabilities(&self, proxy: SocketAddr) -> HashMap<String, String> {
        let answer = ask_seed(proxy, &self.seed).await;
        assert_eq!(answer.status, 200);
        capabilities(&answer.text())
    }
}

pub(crate) const LLSD: (&str, &str) = ("Content-Type", "application/llsd+xml");

pub(crate) async fn ask_seed(proxy: SocketAddr, seed: &str) -> Answer {
    ask(proxy, "POST", seed, &[LLSD], b"<llsd><array><string>ViewerAsset</string></array></llsd>").await
}

pub(crate) fn capabilities(seed_reply: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for entry in seed_reply.split("<key>").skip(1) {
        let (name, rest) = entry.split_once("</key><string>").unwrap();
        found.insert(name.to_owned(), path_of(rest.split('<').next().unwrap()));
    }
    found
}

/// The path of a URL on one of our own ports, which are all on 127.0.0.1 and under `/cap/`.
pub(crate) fn path_of(url: &str) -> String {
    match url.split_once("/cap/") {
        Some((_, rest)) => format!("/cap/{rest}"),
        None => url.to_owned(),
    }
}

pub(crate) fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(value, _)| value.to_owned())
}

pub(crate) fn seed_reply(capabilities: &[(&str, &str)]) -> String {
    let entries: String =
        capabilities.iter().map(|(name, url)| format!("<key>{name}</key><string>{url}</string>")).collect();
    format!("<llsd><map>{entries}</map></llsd>")
}
