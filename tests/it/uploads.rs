//! What comes from the grid reaches the cache service, once, when the user and the grid's owner let it,
//! and whatever happens on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rezcache::asset::{AssetId, AssetKey, AssetKind, Digest};
use rezcache::client::ServiceClient;
use rezcache::fetch::upload_plan::Limits;
use rezcache::grid::{GridId, Origin};
use rezcache::node::Node;
use rezcache::proxy::{Proxy, ProxyConfig, ServiceConfig, UploadConfig};
use rezcache::redact::Redacted;
use rezcache::support::metrics::Counter;
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};

use crate::service::config as node_config;
use crate::support::client::{ask, get};
use crate::support::fake_grid::{Asked, FakeGrid, Gate, Reply};
use crate::support::{
    ASSET_TOKEN, RealAsset, Setup, animation, another_texture, asset_reply, grid_config, mesh, proxy_config,
    sound, texture, within,
};

/// Longer than any back-off that these tests meet.
const PATIENCE: Duration = Duration::from_secs(25);

pub(crate) fn service(url: &str) -> ServiceConfig {
    ServiceConfig {
        address: url.parse().unwrap(),
        token: None,
        join: None,
        spot_check: 0,
        least_deadline: Duration::from_secs(5),
    }
}

/// Uploads without the usual wait.
pub(crate) fn at_once() -> UploadConfig {
    let limits = Limits { wait: Duration::ZERO, patience: Duration::ZERO, ..Limits::default() };
    UploadConfig { limits, rate: None, finish: Duration::ZERO }
}

fn url(node: &Node) -> String {
    format!("https://{}#pin={}", node.address(), node.pin().unwrap())
}

async fn node(folder: &Path) -> Node {
    Node::start(node_config(folder)).await.unwrap()
}

/// A grid, and a proxy that uploads to this service.
async fn setup(service_url: &str, change: impl FnOnce(&mut ProxyConfig)) -> Setup {
    Setup::with(FakeGrid::start().await, |config| {
        config.service = Some(service(service_url));
        config.uploads = Some(at_once());
        change(config);
    })
    .await
}

/// Has the grid serve these, and a viewer fetch them; returns when those that came from the grid have
/// been looked at for the queue, which is after the viewer has them.
async fn fetch(setup: &Setup, assets: &[RealAsset]) {
    let before = judged(&setup.proxy);
    let misses = fetch_only(setup, assets).await;
    within(async {
        while judged(&setup.proxy) < before + misses {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// The same without waiting; says how many came from the grid.
async fn fetch_only(setup: &Setup, assets: &[RealAsset]) -> u64 {
    let cap = setup.asset_capability().await;
    let mut misses = 0;
    for asset in assets {
        setup.serve(asset);
        let answer = get(setup.at, &format!("{cap}{}", asset.query), &[]).await;
        assert_eq!((answer.status, &answer.body), (200, &*asset.bytes), "{}", asset.id);
        misses += u64::from(answer.tier() == "miss");
    }
    misses
}

/// Assets that were looked at for the queue.
fn judged(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics();
    let looked_at = |counter: &&Counter| {
        counter.name().starts_with("uploads_refused_") || **counter == Counter::UploadsQueued
    };
    Counter::ALL.iter().filter(looked_at).map(|counter| metrics.get(*counter)).sum()
}

fn four() -> [RealAsset; 4] {
    [texture(), mesh(), sound(), animation()]
}

fn key_of(grid: &str, asset: &RealAsset) -> AssetKey {
    let parameter = asset.query.trim_start_matches("/?").split('=').next().unwrap();
    let kind = AssetKind::from_query_name(parameter).unwrap();
    AssetKey { grid: GridId::new(grid), kind, id: AssetId(asset.id.parse().unwrap()) }
}

fn origin_of(grid: &str) -> Option<OriginHash> {
    Some(OriginHash::of(&GridId::new(grid), &Origin::new("127.0.0.1")))
}

/// What a node gives for an asset of the fake grid.
async fn held(service_url: &str, grid: &str, asset: &RealAsset) -> Option<Vec<u8>> {
    let client = ServiceClient::new(service_url.parse().unwrap(), None).unwrap();
    let mut body = client.read(&key_of(grid, asset), origin_of(grid), None).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    Some(bytes)
}

fn count(proxy: &Proxy, counter: Counter) -> u64 {
    proxy.metrics().get(counter)
}

/// Waits until a counter is at least this.
async fn until(proxy: &Proxy, counter: Counter, least: u64) {
    let metrics = proxy.metrics();
    within(async {
        while metrics.get(counter) < least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_grid_sent_one_resident_another_gets_from_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let first = setup(&url(&node), |_| {}).await;
    fetch(&first, &four()).await;
    assert!(first.proxy.uploads_idle(PATIENCE).await);
    let grid = first.grid.at.to_string();
    for asset in four() {
        assert_eq!(held(&url(&node), &grid, &asset).await.as_ref(), Some(&*asset.bytes), "{}", asset.id);
    }
    assert_eq!(count(&first.proxy, Counter::UploadsAttested), 4);
    assert_eq!(count(&first.proxy, Counter::UploadsSent), 4);

    // Fetched again, they are not uploaded again.
    fetch(&first, &four()).await;
    assert!(first.proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&first.proxy, Counter::UploadsAttested), 4);

    // Another proxy gets them from the node, and does not tell the node what the node has told it.
    let Setup { grid: fake, proxy, .. } = first;
    within(proxy.stop()).await;
    let second = Setup::with(fake, |config| {
        config.service = Some(service(&url(&node)));
        config.uploads = Some(at_once());
    })
    .await;
    second.proxy.service_settled(PATIENCE).await;
    let cap = second.asset_capability().await;
    for asset in four() {
        let answer = get(second.at, &format!("{cap}{}", asset.query), &[]).await;
        assert_eq!((answer.tier(), &answer.body), ("hit; tier=service", &*asset.bytes), "{}", asset.id);
    }
    assert!(second.proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&second.proxy, Counter::UploadsQueued), 0);
    within(second.proxy.stop()).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_survives_a_restart_and_a_node_that_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let node_here = node(folder.path()).await;
    let (address, service_url) = (node_here.address(), url(&node_here));
    node_here.stop().await;

    // The node is away, and the proxy ends before it is back.
    let away = setup(&service_url, |_| {}).await;
    fetch(&away, &four()).await;
    until(&away.proxy, Counter::UploadsPutOffUnreachable, 1).await;
    assert_eq!(away.proxy.metrics().upload_queue().0, 4);
    let Setup { grid, proxy, dir, .. } = away;
    within(proxy.stop()).await;

    let node_again =
        Node::start(rezcache::node::NodeConfig { listen: address, ..node_config(folder.path()) });
    let node_again = node_again.await.unwrap();
    let config = ProxyConfig {
        service: Some(service(&service_url)),
        uploads: Some(at_once()),
        ..proxy_config(grid_config(&grid.url("/")), dir.path())
    };
    let proxy = Proxy::start(config).await.unwrap();
    assert!(proxy.uploads_idle(PATIENCE).await);
    for asset in four() {
        let held = held(&service_url, &grid.at.to_string(), &asset).await;
        assert_eq!(held.as_ref(), Some(&*asset.bytes), "{}", asset.id);
    }
    within(proxy.stop()).await;
    node_again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_consent_nothing_is_uploaded_and_no_queue_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let setup = setup(&url(&node), |config| config.uploads = None).await;
    fetch_only(&setup, &four()).await;
    let metrics = setup.proxy.metrics();
    within(setup.proxy.stop()).await;
    let report = node_counts(&url(&node)).await;
    assert_eq!((report["attestations"].as_u64(), report["bodies"].as_u64()), (Some(0), Some(0)), "{report}");
    assert_eq!((metrics.get(Counter::UploadsQueued), metrics.upload_queue()), (0, (0, 0)));
    assert!(!setup.dir.path().join("uploads").exists());
    node.stop().await;
}

/// Stops the proxy and starts one on the same data that uploads to another service.
async fn moved_to(setup: Setup, service_url: &str) -> Setup {
    let Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    let config = ProxyConfig {
        service: Some(service(service_url)),
        uploads: Some(at_once()),
        ..proxy_config(grid_config(&grid.url("/")), dir.path())
    };
    let proxy = Proxy::start(config).await.unwrap();
    let at = proxy.grid_addresses()[0];
    Setup { grid, proxy, at, dir }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_one_service_is_given_to_no_other() {
    let first = Fake::start(verdict("202 Accepted", true), verdict("201 Created", false)).await;
    let second = Fake::start(verdict("202 Accepted", true), verdict("201 Created", false)).await;
    let setup = setup(&first.url(), |_| {}).await;
    setup.proxy.pause_uploads();
    fetch(&setup, &four()).await;
    assert_eq!(setup.proxy.metrics().upload_queue().0, 4);

    let setup = moved_to(setup, &second.url()).await;
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&setup.proxy, Counter::UploadsDroppedNotForService), 4);
    // What comes now is the second's.
    fetch(&setup, &[another_texture()]).await;
    until(&setup.proxy, Counter::UploadsSent, 1).await;
    assert_eq!((second.uploads("POST").len(), second.uploads("PUT").len()), (1, 1));

    // And the first does not get it later.
    let setup = moved_to(setup, &first.url()).await;
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    within(setup.proxy.stop()).await;
    assert!(first.uploads("POST").is_empty() && first.uploads("PUT").is_empty());
}

/// What a node has counted, as its metrics say.
async fn node_counts(service_url: &str) -> serde_json::Value {
    let (address, _) = service_url.trim_start_matches("https://").split_once('#').unwrap();
    let metrics = format!("https://{address}/metrics");
    let run = move || std::process::Command::new("curl").args(["-sSk", &metrics]).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = |name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    serde_json::json!({
        "attestations": value("rezcache_node_attestations_total"),
        "bodies": value("rezcache_node_bodies_total"),
    })
}

/// A service that does as it is told, over plain HTTP.
struct Fake {
    http: FakeGrid,
    /// The answer to attestations, and to bodies.
    says: Arc<Mutex<(Reply, Reply)>>,
}

fn verdict(status: &str, want_body: bool) -> Reply {
    Reply::ok("application/json", format!("{{\"want_body\":{want_body}}}")).with_status(status)
}

fn refusal(status: &str, retry_after: Option<&str>) -> Reply {
    let headers: Vec<_> = retry_after.iter().map(|seconds| ("Retry-After", *seconds)).collect();
    Reply::new(status, &headers, "")
}

impl Fake {
    async fn start(attest: Reply, put: Reply) -> Self {
        let http = FakeGrid::start().await;
        let says = Arc::new(Mutex::new((attest, put)));
        let answers = Arc::clone(&says);
        http.on("/v1/lookup", |_| Reply::ok("application/json", "{\"assets\":[]}"));
        http.on("/v1/service", |_| Reply::ok("application/json", "{\"enroll\":false}"));
        http.otherwise(move |asked: &Asked| match asked.method.as_str() {
            "POST" => answers.lock().unwrap().0.clone(),
            "PUT" => answers.lock().unwrap().1.clone(),
            _ => Reply::new("404 Not Found", &[], ""),
        });
        Self { http, says }
    }

    fn say(&self, attest: Reply, put: Reply) {
        *self.says.lock().unwrap() = (attest, put);
    }

    fn url(&self) -> String {
        self.http.url("")
    }

    fn uploads(&self, method: &str) -> Vec<Asked> {
        let ours = |asked: &Asked| asked.method == method && asked.target != "/v1/lookup";
        self.http.all_asked().into_iter().filter(ours).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_follows_only_when_it_is_wanted() {
    let fake = Fake::start(verdict("202 Accepted", false), verdict("201 Created", false)).await;
    let setup = setup(&fake.url(), |_| {}).await;
    fetch(&setup, &[texture()]).await;
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    assert_eq!((fake.uploads("POST").len(), fake.uploads("PUT").len()), (1, 0));
    let attestation: serde_json::Value = serde_json::from_slice(&fake.uploads("POST")[0].body).unwrap();
    assert_eq!(attestation["proof"].as_str().unwrap().len(), 64);
    assert!(attestation["digest"].as_str().unwrap().starts_with("b3-"));
    assert!(!attestation.to_string().contains("127.0.0.1"), "the origin is a hash");

    fake.say(verdict("202 Accepted", true), verdict("201 Created", false));
    fetch(&setup, &[sound()]).await;
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    let bodies = fake.uploads("PUT");
    assert_eq!((bodies.len(), &bodies[0].body), (1, &*sound().bytes));
    within(setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_busy_full_or_broken_gets_everything_later() {
    for (attest, put, counter) in [
        (
            refusal("429 Too Many Requests", Some("1")),
            verdict("201 Created", false),
            Counter::UploadsPutOffBusy,
        ),
        (
            refusal("503 Service Unavailable", Some("1")),
            verdict("201 Created", false),
            Counter::UploadsPutOffBusy,
        ),
        (
            verdict("202 Accepted", true),
            refusal("507 Insufficient Storage", Some("1")),
            Counter::UploadsPutOffBusy,
        ),
        (Reply::none(), verdict("201 Created", false), Counter::UploadsPutOffUnreachable),
        (verdict("202 Accepted", true), Reply::none(), Counter::UploadsPutOffUnreachable),
        (Reply::ok("text/html", "<html>hotel wifi</html>"), Reply::none(), Counter::UploadsPutOffUnreachable),
    ] {
        let fake = Fake::start(attest, put).await;
        let setup = setup(&fake.url(), |_| {}).await;
        fetch(&setup, &[texture(), sound()]).await;
        until(&setup.proxy, counter, 1).await;
        assert_eq!(setup.proxy.metrics().upload_queue().0, 2, "{counter:?}");
        fake.say(verdict("202 Accepted", true), verdict("201 Created", false));
        assert!(setup.proxy.uploads_idle(PATIENCE).await, "{counter:?}");
        assert_eq!(count(&setup.proxy, Counter::UploadsSent), 2, "{counter:?}");
        within(setup.proxy.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_good_is_dropped_and_counted() {
    for (attest, put, counter) in [
        (refusal("409 Conflict", None), Reply::none(), Counter::UploadsDroppedConflict),
        (verdict("202 Accepted", true), refusal("409 Conflict", None), Counter::UploadsDroppedConflict),
        (refusal("403 Forbidden", None), Reply::none(), Counter::UploadsDroppedTakenDown),
        (refusal("422 Unprocessable Content", None), Reply::none(), Counter::UploadsDroppedRefused),
        (
            verdict("202 Accepted", true),
            refusal("413 Content Too Large", None),
            Counter::UploadsDroppedRefused,
        ),
    ] {
        let fake = Fake::start(attest, put).await;
        let setup = setup(&fake.url(), |_| {}).await;
        fetch(&setup, &[texture()]).await;
        until(&setup.proxy, counter, 1).await;
        assert!(setup.proxy.uploads_idle(PATIENCE).await);
        assert_eq!(count(&setup.proxy, Counter::UploadsSent), 0);
        assert_eq!(fake.uploads("POST").len(), 1, "{counter:?}: not tried again");
        within(setup.proxy.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicting_content_changes_nothing_at_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let setup = setup(&url(&node), |config| config.uploads.as_mut().unwrap().limits.parallel = 0).await;
    let grid = setup.grid.at.to_string();
    fetch(&setup, &[texture()]).await;
    // Meanwhile somebody else says that this id has other content.
    let client = ServiceClient::new(url(&node).parse().unwrap(), None).unwrap();
    let (key, lie) = (key_of(&grid, &texture()), Bytes::from(another_texture().bytes.to_vec()));
    let said = client.attest(&key, origin_of(&grid), Digest::of(&lie), &lie).await.unwrap();
    assert_eq!(said, Verdict::Waiting { want_body: true });
    client.put(&key, origin_of(&grid), Digest::of(&lie), Codec::Raw, lie.clone()).await.unwrap();
    let Setup { grid: fake, proxy, dir, .. } = setup;
    within(proxy.stop()).await;

    let config = ProxyConfig {
        service: Some(service(&url(&node))),
        uploads: Some(at_once()),
        ..proxy_config(grid_config(&fake.url("/")), dir.path())
    };
    let proxy = Proxy::start(config).await.unwrap();
    assert!(proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&proxy, Counter::UploadsDroppedConflict), 1);
    assert_eq!(held(&url(&node), &grid, &texture()).await, Some(lie.to_vec()));
    within(proxy.stop()).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_does_not_slow_the_viewer() {
    let gate = Gate::closed();
    let held = verdict("202 Accepted", true).held_by(&gate);
    let fake = Fake::start(held, verdict("201 Created", false)).await;
    let setup = setup(&fake.url(), |_| {}).await;
    // The service never answers an attestation; everything else goes on as ever.
    fetch(&setup, &four()).await;
    fetch(&setup, &four()).await;
    assert_eq!(setup.proxy.metrics().upload_queue().0, 4);
    gate.open();
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&setup.proxy, Counter::UploadsSent), 4);
    within(setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_of_a_grid_is_heard() {
    for (word, queued) in [("share", 1), ("local", 0), ("off", 0)] {
        let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
        let grid = FakeGrid::start().await;
        let info =
            format!("<gridinfo><login>{}</login><rezcache>{word}</rezcache></gridinfo>", grid.url("/"));
        grid.on("/get_grid_info", move |_| Reply::ok("application/xml", &info));
        let setup = Setup::with(grid, |config| {
            config.service = Some(service(&fake.url()));
            config.uploads = Some(at_once());
        })
        .await;
        fetch_only(&setup, &[texture()]).await;
        let metrics = setup.proxy.metrics();
        if queued > 0 {
            until(&setup.proxy, Counter::UploadsQueued, queued).await;
        }
        assert!(setup.proxy.uploads_idle(PATIENCE).await);
        // The end waits until what was fetched has been looked at.
        within(setup.proxy.stop()).await;
        assert_eq!(metrics.get(Counter::UploadsQueued), queued, "{word}");
        assert_eq!(fake.uploads("POST").len() as u64, queued, "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_no_longer_shares_has_the_queue_emptied() {
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    let (grid, word) = (FakeGrid::start().await, Arc::new(Mutex::new("share")));
    let (login, says) = (grid.url("/"), Arc::clone(&word));
    grid.on("/get_grid_info", move |_| {
        let word = *says.lock().unwrap();
        let info = format!("<gridinfo><login>{login}</login><rezcache>{word}</rezcache></gridinfo>");
        Reply::ok("application/xml", info)
    });
    let hour = Limits { wait: Duration::from_secs(3600), ..at_once().limits };
    let waiting = UploadConfig { limits: hour, ..at_once() };
    let setup = Setup::with(grid, |config| {
        config.service = Some(service(&fake.url()));
        config.uploads = Some(waiting.clone());
    })
    .await;
    fetch(&setup, &[texture()]).await;
    assert_eq!(setup.proxy.metrics().upload_queue().0, 1);
    let Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    *word.lock().unwrap() = "local";
    let config = ProxyConfig {
        service: Some(service(&fake.url())),
        uploads: Some(waiting),
        ..proxy_config(grid_config(&grid.url("/")), dir.path())
    };
    let proxy = Proxy::start(config).await.unwrap();
    assert!(proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&proxy, Counter::UploadsDroppedWithdrawn), 1);
    within(proxy.stop()).await;
    assert!(fake.uploads("POST").is_empty());
}

/// Has the grid answer like this when it is asked who it is, until it is told to say who it is.
pub(crate) fn says_later(grid: &FakeGrid, first: Reply, login: &str, word: &str) -> Arc<AtomicBool> {
    let (speaks, later) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let info = format!("<gridinfo><login>{login}</login><rezcache>{word}</rezcache></gridinfo>");
    let told = Arc::clone(&speaks);
    grid.on("/get_grid_info", move |_| {
        // The first answer is the first in any case.
        let heard = later.swap(true, Ordering::SeqCst) && told.load(Ordering::SeqCst);
        if heard { Reply::ok("application/xml", &info) } else { first.clone() }
    });
    speaks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_that_has_not_said_who_it_is_is_asked_again() {
    let hour =
        UploadConfig { limits: Limits { wait: Duration::from_secs(3600), ..at_once().limits }, ..at_once() };
    let mut grids = Vec::new();
    for (first, settles) in [
        (Reply::new("404 Not Found", &[], ""), true),
        (Reply::new("410 Gone", &[], "<gridinfo/>"), true),
        (Reply::new("429 Too Many Requests", &[("Retry-After", "1")], ""), false),
        (Reply::new("403 Forbidden", &[], "<gridinfo/>"), false),
        (Reply::new("302 Found", &[("Location", "/elsewhere")], ""), false),
        (Reply::new("503 Service Unavailable", &[], ""), false),
        (Reply::ok("text/html", "<!doctype html><title>hotel wifi</title><p>log in"), false),
        (Reply::ok("application/xml", "<gridinfo><login>http://grid.ex"), false),
        (Reply::ok("application/xml", ""), false),
        (Reply::none(), false),
    ] {
        let grid = FakeGrid::start().await;
        let speaks = says_later(&grid, first, &grid.url("/"), "local");
        let setup = Setup::with(grid, |config| {
            config.service = Some(service("http://127.0.0.1:9"));
            config.uploads = Some(hour.clone());
        })
        .await;
        fetch(&setup, &[texture()]).await;
        assert_eq!(setup.proxy.metrics().upload_queue().0, 1);
        speaks.store(true, Ordering::SeqCst);
        grids.push((setup, settles));
    }
    for (setup, _) in grids.iter().filter(|(_, settles)| !settles) {
        until(&setup.proxy, Counter::UploadsDroppedWithdrawn, 1).await;
        assert_eq!(setup.proxy.metrics().upload_queue().0, 0);
    }
    // Those that have no such page were started before all of these, and have been left alone.
    for (setup, _) in grids.iter().filter(|(_, settles)| *settles) {
        assert_eq!(setup.grid.asked("/get_grid_info").len(), 1);
        assert_eq!(setup.proxy.metrics().upload_queue().0, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_is_heard_while_an_asset_is_being_sent_keeps_the_rest_of_it() {
    // Between the attestation and the body, and with an attestation that would be sent again.
    for attest in [verdict("202 Accepted", true), refusal("503 Service Unavailable", Some("1"))] {
        let answered = Gate::closed();
        let fake = Fake::start(attest.held_by(&answered), verdict("201 Created", false)).await;
        let grid = FakeGrid::start().await;
        let speaks = says_later(&grid, refusal("503 Service Unavailable", None), &grid.url("/"), "off");
        let setup = Setup::with(grid, |config| {
            config.service = Some(service(&fake.url()));
            config.uploads = Some(at_once());
            config.uploads.as_mut().unwrap().limits.parallel = 1;
        })
        .await;
        fetch(&setup, &[texture(), sound()]).await;
        within(async {
            while fake.uploads("POST").is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        speaks.store(true, Ordering::SeqCst);
        // The one that waits goes at once.
        until(&setup.proxy, Counter::UploadsDroppedWithdrawn, 1).await;
        assert_eq!(setup.proxy.metrics().upload_queue().0, 1);
        answered.open();
        assert!(setup.proxy.uploads_idle(PATIENCE).await);
        assert_eq!(count(&setup.proxy, Counter::UploadsDroppedWithdrawn), 2);
        within(setup.proxy.stop()).await;
        assert_eq!((fake.uploads("POST").len(), fake.uploads("PUT").len()), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_was_proven_wrong_gets_nothing_more() {
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    let setup = setup(&fake.url(), |_| {}).await;
    setup.proxy.pause_uploads();
    fetch(&setup, &[texture()]).await;
    assert_eq!(setup.proxy.metrics().upload_queue().0, 1);
    let Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    std::fs::write(dir.path().join("service-proven-wrong"), format!("{}\n", fake.http.at)).unwrap();
    let config = ProxyConfig {
        service: Some(service(&fake.url())),
        uploads: Some(at_once()),
        ..proxy_config(grid_config(&grid.url("/")), dir.path())
    };
    let proxy = Proxy::start(config).await.unwrap();
    assert_eq!(proxy.metrics().service().unwrap().state, "distrusted");
    assert!(proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&proxy, Counter::UploadsDroppedWithdrawn), 1);
    let setup = Setup { at: proxy.grid_addresses()[0], grid, proxy, dir };
    fetch(&setup, &[sound()]).await;
    assert_eq!(count(&setup.proxy, Counter::UploadsRefusedDistrusted), 1);
    within(setup.proxy.stop()).await;
    assert!(fake.uploads("POST").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_at_home_is_not_told_to_the_world() {
    // Nobody is there, but nobody is asked either.
    let setup = setup("https://cache.rezcache.invalid", |_| {}).await;
    fetch(&setup, &[texture(), sound()]).await;
    assert_eq!(count(&setup.proxy, Counter::UploadsRefusedPrivateGrid), 2);
    assert_eq!(setup.proxy.metrics().upload_queue().0, 0);
    within(setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_login_only_second_life_s_assets_are_uploaded() {
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    for (login, queued) in
        [("https://login.agni.lindenlab.com/cgi-bin/login.cgi", 1), ("http://127.0.0.1:9/", 0)]
    {
        let host = FakeGrid::start().await;
        let bytes = texture().bytes;
        host.on("/host/", move |asked| asset_reply(asked, &bytes));
        let url = host.url("/host");
        let setup = Setup::with(host, |config| {
            config.grids[0].uri = login.parse().unwrap();
            config.grids[0].asset_host = Some(url.parse().unwrap());
            config.service = Some(service(&fake.url()));
            config.uploads = Some(at_once());
        })
        .await;
        let path = format!("/asset/{ASSET_TOKEN}/test{}", texture().query);
        assert_eq!(get(setup.at, &path, &[]).await.body, *texture().bytes);
        let metrics = setup.proxy.metrics();
        within(setup.proxy.stop()).await;
        assert_eq!(metrics.get(Counter::UploadsQueued), queued, "{login}");
        assert_eq!(metrics.get(Counter::UploadsRefusedNoLogin), 1 - queued, "{login}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asset_that_came_in_parts_is_uploaded_when_all_of_them_came_now() {
    let fake = Fake::start(verdict("202 Accepted", true), verdict("201 Created", false)).await;
    let setup = setup(&fake.url(), |_| {}).await;
    let asset = texture();
    setup.serve(&asset);
    let path = format!("{}{}", setup.asset_capability().await, asset.query);
    get(setup.at, &path, &[("Range", "bytes=0-599")]).await;
    assert_eq!(count(&setup.proxy, Counter::UploadsQueued), 0, "a part is never uploaded");
    get(setup.at, &path, &[("Range", "bytes=600-")]).await;
    until(&setup.proxy, Counter::UploadsSent, 1).await;
    assert_eq!(fake.uploads("PUT")[0].body, *asset.bytes);

    // Another's beginning came before a restart.
    let other = another_texture();
    setup.serve(&other);
    let path = format!("{}{}", setup.asset_capability().await, other.query);
    get(setup.at, &path, &[("Range", "bytes=0-599")]).await;
    let Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    let setup = {
        let config = ProxyConfig {
            service: Some(service(&fake.url())),
            uploads: Some(at_once()),
            ..proxy_config(grid_config(&grid.url("/")), dir.path())
        };
        let proxy = Proxy::start(config).await.unwrap();
        let at = proxy.grid_addresses()[0];
        Setup { grid, proxy, at, dir }
    };
    let path = format!("{}{}", setup.asset_capability().await, other.query);
    let answer = get(setup.at, &path, &[]).await;
    assert_eq!(answer.body, *other.bytes);
    until(&setup.proxy, Counter::UploadsRefusedNotHeard, 1).await;
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    assert_eq!(fake.uploads("PUT").len(), 1);
    within(setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_until_it_ends() {
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    let setup = setup(&fake.url(), |_| {}).await;
    setup.proxy.pause_uploads();
    fetch(&setup, &four()).await;
    let status = get(setup.proxy.control_address().unwrap(), "/status.json", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!((&status["uploads"]["paused"], &status["uploads"]["waiting"]), (&true.into(), &4.into()));
    assert_eq!(fake.uploads("POST").len(), 0);
    setup.proxy.resume_uploads();
    assert!(setup.proxy.uploads_idle(PATIENCE).await);
    assert_eq!(fake.uploads("POST").len(), 4);
    within(setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_port_pauses_resumes_and_limits_for_who_knows_the_token() {
    const TOKEN: &str = "9b1e2c3d4f5a69788796a5b4c3d2e1f0";
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    let setup = setup(&fake.url(), |config| config.control_token = Some(Redacted::new(TOKEN.into()))).await;
    let control = setup.proxy.control_address().unwrap();
    let bearer = format!("Bearer {TOKEN}");
    let own = format!("http://{control}");
    let post = |path: &'static str, headers: Vec<(&'static str, String)>| async move {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        ask(control, "POST", path, &headers, b"").await.status
    };
    let known = || vec![("Authorization", bearer.clone())];
    for (headers, status) in [
        (vec![], 401),
        (vec![("Authorization", "Bearer 0".to_owned())], 401),
        (vec![("Authorization", bearer.clone()), ("Origin", "http://evil.example".into())], 403),
        (vec![("Authorization", bearer.clone()), ("Sec-Fetch-Site", "cross-site".into())], 403),
    ] {
        assert_eq!(post("/uploads/pause", headers).await, status);
        assert!(!setup.proxy.metrics().upload_control().0);
    }
    assert_eq!(get(control, "/uploads/pause", &[]).await.status, 405);
    assert_eq!(post("/uploads/nonsense", known()).await, 404);

    // As our own page's script sends it.
    let page =
        vec![("Authorization", bearer.clone()), ("Origin", own), ("Sec-Fetch-Site", "same-origin".into())];
    assert_eq!(post("/uploads/pause", page).await, 200);
    fetch(&setup, &[texture()]).await;
    assert!(setup.proxy.metrics().upload_control().0);
    assert!(fake.uploads("POST").is_empty());
    assert!(get(control, "/", &[]).await.text().contains("formaction=\"/uploads/resume\""));
    assert_eq!(post("/uploads/resume", known()).await, 200);
    assert!(setup.proxy.uploads_idle(PATIENCE).await);

    assert_eq!(post("/uploads/limit?bytes_per_second=62500", known()).await, 200);
    assert_eq!(setup.proxy.metrics().upload_control(), (false, 62_500));
    assert_eq!(post("/uploads/limit?bytes_per_second=1", known()).await, 400);
    assert_eq!(post("/uploads/limit", known()).await, 400);
    assert_eq!(post("/uploads/limit?bytes_per_second=0", known()).await, 200);
    assert_eq!(setup.proxy.metrics().upload_control(), (false, 0));
    let page = get(control, "/", &[]).await.text();
    assert!(page.contains("formaction=\"/uploads/pause\"") && !page.contains(TOKEN), "{page}");
    within(setup.proxy.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_queue_and_a_folder_that_cannot_be_used_are_no_reason_to_stop() {
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    // A file of somebody else's in place of the queue, and a file in place of the folder.
    for place in ["uploads/queue", "uploads"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "not a queue").unwrap();
        let grid = FakeGrid::start().await;
        let config = ProxyConfig {
            service: Some(service(&fake.url())),
            uploads: Some(at_once()),
            ..proxy_config(grid_config(&grid.url("/")), dir.path())
        };
        let proxy = Proxy::start(config).await.unwrap();
        let at = proxy.grid_addresses()[0];
        let setup = Setup { grid, proxy, at, dir };
        let damaged = count(&setup.proxy, Counter::UploadQueueCorrupt);
        let unwritten = count(&setup.proxy, Counter::UploadQueueUnwritten);
        assert_eq!((damaged, unwritten), if place == "uploads" { (0, 1) } else { (1, 0) });
        fetch(&setup, &[texture()]).await;
        until(&setup.proxy, Counter::UploadsAttested, 1).await;
        within(setup.proxy.stop()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asset_that_the_store_has_lost_is_dropped() {
    let fake = Fake::start(verdict("202 Accepted", false), Reply::none()).await;
    let setup = setup(&fake.url(), |_| {}).await;
    setup.proxy.pause_uploads();
    fetch(&setup, &[texture(), sound()]).await;
    let Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    std::fs::remove_dir_all(dir.path().join("assets")).unwrap();
    let config = ProxyConfig {
        service: Some(service(&fake.url())),
        uploads: Some(at_once()),
        ..proxy_config(grid_config(&grid.url("/")), dir.path())
    };
    let proxy = Proxy::start(config).await.unwrap();
    assert!(proxy.uploads_idle(PATIENCE).await);
    assert_eq!(count(&proxy, Counter::UploadsDroppedMissing), 2);
    assert_eq!(fake.uploads("POST").len(), 0);
    within(proxy.stop()).await;
}

#[test]
fn every_reason_has_a_counter_of_its_own() {
    let mut names = BTreeMap::new();
    for counter in Counter::ALL {
        *names.entry(counter.name()).or_insert(0) += 1;
    }
    assert!(names.values().all(|times| *times == 1));
    assert_eq!(names.keys().filter(|name| name.starts_with("uploads_dropped_")).count(), 11);
}
