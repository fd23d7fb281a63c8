//! kill -9 at random moments: what was in the queue and in the store reaches the service in the end.
//!
//! `REZCACHE_LONG=1` makes it fifty rounds; `REZCACHE_KILL_SEED` repeats a run whose failure printed
//! its seed (the moments of the kills remain the machine's).

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rezcache::asset::{AssetId, AssetKey, AssetKind};
use rezcache::client::ServiceClient;
use rezcache::grid::{GridId, Origin};
use rezcache::node::{Node, NodeConfig};
use rezcache::proxy::{Proxy, ProxyConfig};
use rezcache::wire::OriginHash;
use uuid::Uuid;

use crate::service::config as node_config;
use crate::support::client::{Connection, get};
use crate::support::synthetic::{Draw, Host, Mood, Synthetic};
use crate::support::{ASSET_TOKEN, grid_config, proxy_config, within};
use crate::uploads::{at_once, service};

const ASSETS: usize = 60;
/// The longest time under load before a kill.
const LOAD_MILLIS: usize = 400;
const CHILD: &str = "REZCACHE_UPLOAD_CHILD";

/// Not a test but the program that is killed: a proxy without the usual wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the parent reads it")]
async fn child_proxy() {
    let Ok(words) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = words.split_whitespace().collect();
    let [folder, service_url, host] = words[..] else { panic!("{words:?}") };
    let mut grid = grid_config("https://login.agni.lindenlab.com/cgi-bin/login.cgi");
    grid.asset_host = Some(host.parse().unwrap());
    let config = ProxyConfig {
        service: Some(service(service_url)),
        uploads: Some(at_once()),
        ..proxy_config(grid, Path::new(folder))
    };
    let proxy = Proxy::start(config).await.unwrap();
    println!("\nREADY {} {}", proxy.grid_addresses()[0], proxy.control_address().unwrap());
    std::future::pending::<()>().await;
}

struct Killable {
    process: Child,
    at: SocketAddr,
    control: SocketAddr,
}

impl Killable {
    fn start(folder: &Path, service_url: &str, host: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["uploads_kill::child_proxy", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{} {service_url} {host}", folder.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map(Result::unwrap).find(|line| line.starts_with("READY ")).unwrap();
        let mut words = ready.split(' ').skip(1).map(|word| word.parse().unwrap());
        let (at, control) = (words.next().unwrap(), words.next().unwrap());
        Self { process, at, control }
    }

    async fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&get(self.control, "/status.json", &[]).await.body).unwrap()
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn path(asset: &Synthetic) -> String {
    format!("/asset/{ASSET_TOKEN}/test{}", asset.query)
}

fn key(asset: &Synthetic) -> AssetKey {
    let (parameter, id) = asset.query.trim_start_matches("/?").split_once('=').unwrap();
    let kind = AssetKind::from_query_name(parameter).unwrap();
    AssetKey { grid: GridId::new("agni"), kind, id: AssetId(id.parse().unwrap()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_loses_nothing_that_was_queued_and_stored() {
    rounds(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_kill_9_fifty_times() {
    if std::env::var_os("REZCACHE_LONG").is_some_and(|value| value == "1") {
        rounds(50).await;
    }
}

#[expect(clippy::print_stdout, reason = "a failure must say how to repeat it")]
async fn rounds(count: usize) {
    let seed = std::env::var("REZCACHE_KILL_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("REZCACHE_KILL_SEED is a number"));
    println!("REZCACHE_KILL_SEED={seed}");
    let mut draw = Draw(seed);
    let assets: Vec<_> =
        (0..ASSETS).map(|n| Synthetic::new(seed, n, 500 + draw.below([3_000, 60_000][n % 2]))).collect();
    let host = Host::start(&assets, draw.next()).await;
    let folder = tempfile::tempdir().unwrap();
    let (data, at_node) = (folder.path().join("data"), folder.path().join("node"));
    std::fs::create_dir(&at_node).unwrap();
    let mut node = Some(Node::start(node_config(&at_node)).await.unwrap());
    let here = node.as_ref().unwrap();
    let (address, service_url) =
        (here.address(), format!("https://{}#pin={}", here.address(), here.pin().unwrap()));
    let again = || Node::start(NodeConfig { listen: address, ..node_config(&at_node) });

    let mut queued = BTreeSet::new();
    for round in 0..count {
        // Away at first, then there and away by turns.
        if round % 2 == 0 {
            if let Some(node) = node.take() {
                node.stop().await;
            }
        } else if node.is_none() {
            node = Some(again().await.unwrap());
        }
        let mut child = Killable::start(&data, &service_url, &host.url());
        let load = async {
            let mut connection = Connection::open(child.at).await;
            let from = draw.below(ASSETS);
            for asset in assets.iter().cycle().skip(from).take(ASSETS) {
                asset.check(&connection.get(&path(asset), &[]).await);
            }
            std::future::pending::<()>().await;
        };
        let life = Duration::from_millis(draw_life(round, seed));
        let _ = tokio::time::timeout(life, load).await;
        child.process.kill().unwrap();
        child.process.wait().unwrap();
        let file = std::fs::read(data.join("uploads/queue")).unwrap_or_default();
        let is_in = |id: &Uuid| file.windows(16).any(|window| window == id.as_bytes());
        queued.extend((0..ASSETS).filter(|n| is_in(&key(&assets[*n]).id.0)));
    }

    if node.is_none() {
        node = Some(again().await.unwrap());
    }
    host.is(Mood::Closed);
    let child = Killable::start(&data, &service_url, &host.url());
    within(async {
        while child.status().await["uploads"]["waiting"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let status = child.status().await;
    assert!(status["counters"]["upload_queue_corrupt"].as_u64().unwrap() <= 1, "{status}");
    let client = ServiceClient::new(service_url.parse().unwrap(), None).unwrap();
    let origin = Some(OriginHash::of(&GridId::new("agni"), &Origin::new("127.0.0.1")));
    let mut arrived = 0;
    for &n in &queued {
        if client.read(&key(&assets[n]), origin, None).await.unwrap().is_some() {
            arrived += 1;
            continue;
        }
        // Only what the kill kept out of the store may have been given up.
        let answer = get(child.at, &path(&assets[n]), &[]).await;
        assert_ne!(answer.status, 200, "{} was queued and stored, and got lost", assets[n].query);
    }
    assert!(arrived > 20, "only {arrived} of {} queued", queued.len());
    drop(child);
    if let Some(node) = node {
        node.stop().await;
    }
}

/// Long enough at first that there is something to lose.
fn draw_life(round: usize, seed: u64) -> u64 {
    let mut draw = Draw(seed ^ (round as u64) << 32);
    u64::try_from(if round == 0 { 2 * LOAD_MILLIS } else { draw.below(LOAD_MILLIS) }).unwrap()
}
