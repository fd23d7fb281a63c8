//! Grids over HTTPS: whom the proxy believes, and that nothing is sent to anybody else.

use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, date_time_ymd};
use rezcache::proxy::{Proxy, StartError};

use crate::support::client::{Answer, ask, get};
use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::tls::{Authority, TlsFront};
use crate::support::{
    Avatar, Setup, Viewer, asset_reply, grid_config, path_of, proxy_config, seed_reply, texture,
};

const GRID: &str = "grid.example";
const SIMULATOR: &str = "sim.grid.example:12043";

/// A grid that speaks nothing but TLS, with a proxy for it.
struct Secure {
    setup: Setup,
    front: TlsFront,
}

impl Secure {
    /// The names in the grid's certificate, what else is in it, and whether its authority is in the
    /// user's file.
    async fn start(names: &[&str], change: impl FnOnce(&mut CertificateParams), trusted: bool) -> Self {
        Self::start_as(GRID, names, change, trusted).await
    }

    async fn start_as(
        host: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
        trusted: bool,
    ) -> Self {
        let authority = Authority::new();
        let grid = FakeGrid::start().await;
        let front = TlsFront::start(authority.sign(names, change), grid.at).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = trusted.then(|| authority.file(folder.path()));
        let setup = Setup::with(grid, |config| {
            config.grids[0].uri = format!("https://{host}/").parse().unwrap();
            config.grids[0].ca_file = ca_file;
            config.dial.http.insert(format!("{host}:443"), front.at);
            config.dial.http.insert(SIMULATOR.into(), front.at);
        })
        .await;
        Self { setup, front }
    }

    async fn login(&self) -> Answer {
        let avatar = Avatar::number(1);
        let seed = format!("https://{SIMULATOR}{}", avatar.seed);
        let reply = avatar.login_reply("203.0.114.8", 9000, &seed);
        self.setup.grid.on("/", move |_| Reply::ok("text/xml", &reply));
        ask(self.setup.at, "POST", "/", &[("Content-Type", "text/xml")], b"<methodCall/>").await
    }

    /// The login fails, and the grid was not even connected to.
    async fn is_refused(&self) {
        let answer = self.login().await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(self.setup.grid.connections(), 0, "something was sent");
    }
}

#[tokio::test]
async fn a_grid_of_an_unknown_authority_gets_no_login() {
    Secure::start(&[GRID], |_| {}, false).await.is_refused().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_gets_no_login() {
    Secure::start(&["other.example", "*.grid.example"], |_| {}, true).await.is_refused().await;
}

#[tokio::test]
async fn an_expired_certificate_gets_no_login() {
    Secure::start(&[GRID], |params| params.not_after = date_time_ymd(2020, 1, 1), true)
        .await
        .is_refused()
        .await;
}

#[tokio::test]
async fn with_the_ca_file_login_seed_and_assets_work_under_the_grids_own_names() {
    let secure = Secure::start(&[GRID, "sim.grid.example"], |_| {}, true).await;
    let Secure { setup, front } = &secure;
    let answer = secure.login().await;
    assert_eq!(answer.status, 200);
    let viewer = Viewer::read(&answer);
    assert!(viewer.seed.starts_with("/cap/"), "the seed comes to us");

    let seed = seed_reply(&[("ViewerAsset", &format!("https://{SIMULATOR}/cap-asset"))]);
    setup.grid.on(&Avatar::number(1).seed, move |_| Reply::ok("application/llsd+xml", &seed));
    let cap = viewer.capabilities(setup.at).await["ViewerAsset"].clone();
    assert!(cap.starts_with("/cap/"), "the asset capability comes to us");
    let asset = texture();
    setup.serve(&asset);
    for tier in ["miss", "hit; tier=memory"] {
        let answer = get(setup.at, &format!("{cap}{}", asset.query), &[]).await;
        assert_eq!((answer.status, answer.tier(), &answer.body), (200, tier, &*asset.bytes));
    }

    assert_eq!(setup.grid.asked("/")[0].header("host"), Some(GRID));
    for path in [Avatar::number(1).seed.as_str(), "/cap-asset/"] {
        let asked = setup.grid.asked(path);
        assert_eq!(asked.len(), 1, "{path}");
        assert_eq!(asked[0].header("host"), Some(SIMULATOR));
    }
    let names = front.names();
    assert!(names.iter().any(|name| name == GRID) && names.iter().any(|name| name == "sim.grid.example"));
    assert!(names.iter().all(|name| name == GRID || name == "sim.grid.example"), "{names:?}");
}

#[tokio::test]
async fn a_seed_at_a_name_that_is_not_in_the_certificate_is_the_viewers_to_ask() {
    let secure = Secure::start(&[GRID], |_| {}, true).await;
    let viewer = Viewer::read(&secure.login().await);
    let answer = crate::support::ask_seed(secure.setup.at, &path_of(&viewer.seed)).await;
    assert_eq!(answer.status, 307);
    let seed = Avatar::number(1).seed;
    assert_eq!(answer.header("location"), Some(&*format!("https://{SIMULATOR}{seed}")));
    assert!(secure.setup.grid.asked(&seed).is_empty());
}

#[tokio::test]
async fn a_simulators_common_name_is_enough_for_second_life_and_for_nobody_else() {
    let name_only = |host: &'static str| {
        move |params: &mut CertificateParams| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, host);
        }
    };
    let host = "login-01.agni.lindenlab.com";
    let secure = Secure::start_as(host, &[], name_only(host), true).await;
    assert_eq!(secure.login().await.status, 200);
    assert_eq!(secure.front.names().last().map(String::as_str), Some(host));

    Secure::start_as(host, &[], name_only(host), false).await.is_refused().await;
    Secure::start_as(host, &["other.example"], name_only(host), true).await.is_refused().await;
    Secure::start_as(GRID, &[], name_only(GRID), true).await.is_refused().await;
}

#[tokio::test]
async fn a_bad_ca_file_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    for (path, why) in [
        (folder.path().join("missing.pem"), "cannot read"),
        (write("text.pem", b"not a certificate"), "no certificate"),
        (write("empty.pem", b""), "no certificate"),
        (
            write("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "no certificate",
        ),
    ] {
        let mut grid = grid_config("https://grid.example/");
        grid.ca_file = Some(path.clone());
        let Err(error) = Proxy::start(proxy_config(grid, folder.path())).await else {
            panic!("started with {}", path.display());
        };
        assert!(matches!(error, StartError::Config(_)));
        let text = error.to_string();
        assert!(text.contains("grid test") && text.contains(why), "{text}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
}

#[tokio::test]
async fn an_asset_host_over_https_is_verified_too() {
    for trusted in [true, false] {
        let authority = Authority::new();
        let grid = FakeGrid::start().await;
        let front = TlsFront::start(authority.sign(&["cdn.example"], |_| {}), grid.at).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = trusted.then(|| authority.file(folder.path()));
        let setup = Setup::with(grid, |config| {
            config.grids[0].asset_host = Some("https://cdn.example/base/".parse().unwrap());
            config.grids[0].ca_file = ca_file;
            config.dial.http.insert("cdn.example:443".into(), front.at);
        })
        .await;
        let asset = texture();
        let bytes = std::sync::Arc::clone(&asset.bytes);
        setup.grid.on("/base/", move |asked| asset_reply(asked, &bytes));
        let path = format!("/asset/{}/test{}", crate::support::ASSET_TOKEN, asset.query);
        let answer = get(setup.at, &path, &[]).await;
        if trusted {
            assert_eq!((answer.status, answer.tier(), &answer.body), (200, "miss", &*asset.bytes));
            assert_eq!(setup.grid.asked("/base/")[0].header("host"), Some("cdn.example"));
            assert_eq!(front.names(), ["cdn.example"]);
            assert_eq!(get(setup.at, &path, &[]).await.tier(), "hit; tier=memory");
        } else {
            assert_eq!(answer.status, 307);
            let location = format!("https://cdn.example/base{}", asset.query);
            assert_eq!(answer.header("location"), Some(location.as_str()));
            assert!(setup.grid.asked("/base/").is_empty() && front.names().is_empty());
        }
    }
}
