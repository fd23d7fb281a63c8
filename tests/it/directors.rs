//! The array as an operator runs it: directors, nodes, PostgreSQL, an S3 server and proxies, each a process of its
//! own, on loopback addresses; killed, stopped and started again while sessions are replayed through them. `dig` and
//! the status page say what the directors make of it; a replay compares every byte. Figures are printed.
#![allow(clippy::print_stderr)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::client::ServiceClient;
use rezcache::client::address::ServerAddress;
use rezcache::client::resolve::Resolver;
use rezcache::grid::{GridId, Origin};
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};
use serde_json::Value;

use crate::service::{GRID, key, texture};
use crate::support::directors::{DirectorProcess, Orphans, Webhook, free_port, kill_node_at, nodes_at};
use crate::support::moto::Moto;
use crate::support::postgres::Server;
use crate::support::process::NodeProcess;

/// In a private network: what lies in somebody's home, as the captured grid does, is told to no other.
const ZONE: &str = "cache.home.arpa";
/// Between two probes.
const INTERVAL: Duration = Duration::from_secs(2);
/// For what has no time of its own: generous, since this machine does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one replay came to.
#[derive(Debug, Default, Clone)]
struct Replayed {
    requests: u64,
    from_service: u64,
    from_grid: u64,
}

/// Replays a capture through a new proxy that knows the service by its name; every byte is compared.
fn replay(capture: &str, service: &str, resolver: SocketAddr, runs: &Path) -> Replayed {
    let data = tempfile::tempdir_in(runs).unwrap();
    let capture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions").join(capture);
    let output = Command::new(env!("CARGO_BIN_EXE_rezcache"))
        .args(["replay", "--json", "--passes", "1", "--cache-server", service])
        .args(["--resolver", &resolver.to_string(), "--data-dir"])
        .arg(data.path())
        .arg(capture)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"));
    assert!(output.status.success(), "a viewer was not served rightly: {report:#} {told}");
    let pass = &report["captures"][0]["passes"][0];
    assert_eq!((pass["mismatched_assets"].as_u64(), pass["missing_assets"].as_u64()), (Some(0), Some(0)));
    let sum = |value: &Value| value.as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>();
    Replayed {
        requests: sum(&pass["requests"]["http"]) + sum(&pass["requests"]["udp"]),
        from_service: pass["served"]["service"].as_u64().unwrap(),
        from_grid: pass["served"]["grid"].as_u64().unwrap(),
    }
}

/// Residents who come and go, one after the other, until they are told to stop.
struct Residents {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Vec<Replayed>>>,
}

impl Residents {
    fn come(captures: &[&'static str], service: &str, resolver: SocketAddr, runs: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let visit = |capture: &&'static str| {
            let (stop, service, runs, capture) =
                (Arc::clone(&stop), service.to_owned(), runs.to_owned(), *capture);
            std::thread::spawn(move || {
                let mut visits = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    visits.push(replay(capture, &service, resolver, &runs));
                }
                visits
            })
        };
        Self { threads: captures.iter().map(visit).collect(), stop }
    }

    /// They leave; what each of their visits was like. Panics when one of them was served wrongly.
    fn leave(self) -> Vec<Replayed> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// The services that the array stands on, and its settings.
struct Ground {
    folder: tempfile::TempDir,
    store: Moto,
    catalog: String,
    port: u16,
    settings: Vec<(String, String)>,
}

const HOSTS: [&str; 4] = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];

impl Ground {
    async fn new(database: &Server) -> Self {
        let store = Moto::start().await;
        store.boto("s3.create_bucket(Bucket='rez')");
        let settings = [
            ("AWS_ENDPOINT", format!("http://127.0.0.1:{}", store.port)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "a".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "b".to_owned()),
        ];
        Self {
            folder: tempfile::tempdir().unwrap(),
            store,
            catalog: database.url(&database.database()),
            port: free_port(&HOSTS),
            settings: settings.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A node at an address of the list.
    fn node(&self, host: &str) -> NodeProcess {
        let folder = self.path(host);
        std::fs::create_dir_all(&folder).unwrap();
        let listen = format!("{host}:{}", self.port);
        let key = self.path("service.key");
        let options = ["--listen", &listen, "--store", "s3://rez/cache", "--key-file", key.to_str().unwrap()];
        let mut settings: Vec<_> = self.settings.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        settings.push(("REZCACHE_CATALOG", &self.catalog));
        NodeProcess::start_with(&folder, &options, &settings)
    }

    fn director(&self, name: &str, more: &str) -> DirectorProcess {
        let (catalog, key) = (&self.catalog, self.path("service.key"));
        let config = format!(
            "[director]\nname = \"{name}\"\nzone = \"{ZONE}\"\ndns_listen = \"127.0.0.1:0\"\n\
             status_listen = \"127.0.0.1:0\"\nstore = \"s3://rez/cache\"\ncatalog = \"{catalog}\"\n\
             key_file = \"{}\"\nns = [\"ns1.example.org\", \"ns2.example.org\"]\nprobe_interval_s = {}\n\
             slow_start_s = 0\nttl_s = 1\n{more}",
            key.display(),
            INTERVAL.as_secs(),
        );
        DirectorProcess::start(&self.path(name), &config, &self.settings)
    }
}

fn node<'a>(picture: &'a Value, name: &str) -> &'a Value {
    let nodes = picture["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap_or(&Value::Null)
}

/// The node that was opened, among those of the list: its name.
fn opened(picture: &Value) -> Option<String> {
    let nodes = picture["nodes"].as_array().unwrap();
    let mut names = nodes.iter().filter(|node| node["phase"] == "serving" && node["dot"] == "green");
    names.find_map(|node| {
        node["name"].as_str().filter(|name| !["otter", "lynx"].contains(name)).map(Into::into)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_machine_is_missed() {
    let Some(database) = Server::start() else { return };
    let ground = Ground::new(&database).await;
    let mut nodes = vec![ground.node(HOSTS[0]), ground.node(HOSTS[1])];
    let webhook = Webhook::start().await;
    let more = format!(
        "[[node]]\nname = \"otter\"\nurl = \"https://{}\"\n[[node]]\nname = \"lynx\"\nurl = \"https://{}\"\n\
         [scaling]\nprovisioner = \"process\"\nminimum = 3\nmaximum = 4\nstartup_s = 5\npatience_s = 25\n\
         addresses = [\"{}\", \"{}\"]\n[alerts]\nwebhook = \"{}\"\n",
        nodes[0].at,
        nodes[1].at,
        format_args!("{}:{}", HOSTS[2], ground.port),
        format_args!("{}:{}", HOSTS[3], ground.port),
        webhook.url,
    );
    let first = ground.director("crane", &more);
    first.until("leading", PATIENCE, |picture| picture["leading"] == true).await;
    let second = ground.director("heron", &more);
    // The minimum is three: the leader has opened one.
    let all = |count: usize| {
        move |picture: &Value| {
            let nodes = picture["nodes"].as_array().unwrap();
            nodes.iter().filter(|node| node["dot"] == "green" && node["phase"] == "serving").count() == count
        }
    };
    for director in [&first, &second] {
        director.until("three nodes", PATIENCE, all(3)).await;
        director.until_named(ZONE, &HOSTS[..3], PATIENCE).await;
    }
    let _cleanup = Orphans(ground.port);

    // Someone was here before; then residents come and go, some asking the one director, some the other.
    let service = format!("https://{ZONE}:{}#pin={}", ground.port, nodes[0].pin);
    let runs = ground.path("runs");
    std::fs::create_dir_all(&runs).unwrap();
    let (at, runs_of) = (service.clone(), runs.clone());
    let seeding = tokio::task::spawn_blocking(move || {
        replay("hippo-http.pcap", &at, first.dns, &runs_of);
        replay("hippo-udp.pcap", &at, first.dns, &runs_of);
        first
    });
    let first = seeding.await.unwrap();
    let residents = Residents::come(&["hippo-http.pcap", "hippo-udp.pcap"], &service, second.dns, &runs);

    // One node dies without a word.
    nodes.pop().unwrap().kill();
    let died = Instant::now();
    let others = [HOSTS[0], HOSTS[2]];
    tokio::join!(first.until_named(ZONE, &others, PATIENCE), second.until_named(ZONE, &others, PATIENCE),);
    let out = died.elapsed();
    eprintln!("a killed node was out of DNS after {out:?}, probed every {INTERVAL:?}");
    // What is over two intervals is this machine being slow at telling.
    assert!(out < INTERVAL * 2 + Duration::from_secs(1), "{out:?}");
    webhook.until("node lynx", "raised", PATIENCE).await;
    let red = |picture: &Value| node(picture, "lynx")["dot"] == "red";
    second.until("red", PATIENCE, red).await;
    let told = |picture: &Value| {
        let incidents = picture["incidents"].as_array().cloned().unwrap_or_default();
        incidents.iter().any(|incident| incident.to_string().contains("lynx"))
    };
    second.until("told as an incident", PATIENCE, told).await;

    // It returns.
    nodes.push(ground.node(HOSTS[1]));
    for director in [&first, &second] {
        director.until_named(ZONE, &HOSTS[..3], PATIENCE).await;
    }
    webhook.until("node lynx", "cleared", PATIENCE).await;

    // The director that leads dies; the other answers, and takes the lead.
    let third = opened(&first.picture().await).unwrap();
    first.kill();
    let killed = Instant::now();
    assert_eq!(second.named(ZONE).await, HOSTS[..3].iter().map(ToString::to_string).collect::<BTreeSet<_>>());
    second.until("leading", PATIENCE, |picture| picture["leading"] == true).await;
    let led = killed.elapsed();
    eprintln!("the other director led after {led:?}");
    // A lead is good for five intervals, and is asked for at each.
    assert!(led < INTERVAL * 6 + Duration::from_secs(2), "{led:?}");
    // It goes on with what the first began: a node that the first had opened dies, and is replaced.
    kill_node_at(HOSTS[2], ground.port);
    let replaced = |picture: &Value| opened(picture).is_some_and(|name| name != third);
    second.until("replaced", PATIENCE * 2, replaced).await;
    let visits = residents.leave();
    let from_service: u64 = visits.iter().map(|visit| visit.from_service).sum();
    let from_grid: u64 = visits.iter().map(|visit| visit.from_grid).sum();
    let requests: u64 = visits.iter().map(|visit| visit.requests).sum();
    eprintln!(
        "{} visits, {requests} requests: {from_service} by the cache, {from_grid} by the grid",
        visits.len()
    );
    assert!(from_service > from_grid, "{visits:?}");

    // The store stops for half a minute: what is hot is served, the page says so, and nothing is lost.
    let (at, runs_of, dns) = (service.clone(), runs.clone(), second.dns);
    let before = spawn_replay("hippo-http.pcap", &at, dns, &runs_of).await;
    ground.store.pause();
    let stopped = Instant::now();
    let storage = |works: bool| {
        move |picture: &Value| {
            let nodes = picture["nodes"].as_array().unwrap();
            let serving = nodes.iter().filter(|node| node["phase"] == "serving" && node["dot"] != "red");
            let dot = if works { "green" } else { "amber" };
            serving.clone().count() >= 3 && serving.into_iter().all(|node| node["dot"] == dot)
        }
    };
    second.until("amber", PATIENCE, storage(false)).await;
    let meanwhile = spawn_replay("hippo-http.pcap", &at, dns, &runs_of).await;
    assert_eq!(meanwhile.requests, before.requests);
    assert!(meanwhile.from_service > 0, "hot content goes on: {meanwhile:?}");
    assert_eq!(second.named(ZONE).await.len(), 3, "who serves what is hot stays in DNS");
    tokio::time::sleep(Duration::from_secs(30).saturating_sub(stopped.elapsed())).await;
    ground.store.resume();
    second.until("green", PATIENCE, storage(true)).await;
    let after = spawn_replay("hippo-http.pcap", &at, dns, &runs_of).await;
    assert_eq!(
        (after.from_service, after.from_grid),
        (before.from_service, before.from_grid),
        "nothing is lost"
    );
}

async fn spawn_replay(capture: &'static str, service: &str, dns: SocketAddr, runs: &Path) -> Replayed {
    let (service, runs) = (service.to_owned(), runs.to_owned());
    tokio::task::spawn_blocking(move || replay(capture, &service, dns, &runs)).await.unwrap()
}

/// Clients in regions of their own that read at a rate which can be changed, and know the service by its name.
struct Crowd {
    /// Reads in a second, of all together.
    rate: Arc<AtomicU64>,
    counts: Arc<Counts>,
    tasks: tokio::task::JoinSet<()>,
}

#[derive(Default)]
struct Counts {
    right: AtomicU64,
    wrong: AtomicU64,
    failed: AtomicU64,
}

async fn whole(client: &ServiceClient, key: &AssetKey, region: OriginHash) -> Option<Vec<u8>> {
    let mut body = client.read(key, Some(region), None).await.ok()??;
    let mut read = Vec::new();
    while let Some(piece) = body.next().await.ok()? {
        read.extend_from_slice(&piece);
    }
    Some(read)
}

const CLIENTS: u64 = 12;

fn region(number: u64) -> OriginHash {
    OriginHash::of(&GridId::new(GRID), &Origin::new(&format!("region-{number}.example")))
}

impl Crowd {
    fn come(service: &str, resolver: SocketAddr, assets: &Arc<Vec<(AssetKey, Bytes)>>, rate: u64) -> Self {
        let (rate, counts) = (Arc::new(AtomicU64::new(rate)), Arc::new(Counts::default()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            let mut address: ServerAddress = service.parse().unwrap();
            address.resolver = Resolver::Server(resolver);
            let client = ServiceClient::new(address, None).unwrap();
            let region = region(number);
            let (rate, counts, assets) = (Arc::clone(&rate), Arc::clone(&counts), Arc::clone(assets));
            tasks.spawn(async move {
                for turn in 0_usize.. {
                    let each =
                        Duration::from_secs(CLIENTS) / u32::try_from(rate.load(Ordering::Relaxed)).unwrap();
                    tokio::time::sleep(each).await;
                    let (key, bytes) =
                        &assets[usize::try_from(number + CLIENTS * (turn as u64 % 4)).unwrap()];
                    let counter = match whole(&client, key, region).await {
                        Some(read) if read == *bytes => &counts.right,
                        Some(_) => &counts.wrong,
                        None => &counts.failed,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { rate, counts, tasks }
    }

    fn now_at(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Right, wrong and failed reads so far.
    fn counts(&self) -> (u64, u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.right), read(&self.counts.wrong), read(&self.counts.failed))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_array_follows_its_load() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = ["127.0.0.7", "127.0.0.8"];
    let port = free_port(&hosts);
    let _cleanup = Orphans(port);
    let config = format!(
        "[director]\nname = \"crane\"\nzone = \"{ZONE}\"\ndns_listen = \"127.0.0.1:0\"\n\
         status_listen = \"127.0.0.1:0\"\nns = [\"ns1.example.org\"]\nstore = \"file://{}\"\nprobe_interval_s = 1\nslow_start_s = 3\nttl_s = 1\n\
         [scaling]\nprovisioner = \"process\"\naddresses = [\"{}:{port}\", \"{}:{port}\"]\nminimum = 1\nmaximum = 2\n\
         high = 0.8\ntarget = 0.6\nafter_close = 0.7\nsmoothing_s = 4\nstartup_s = 3\ncalm_s = 6\ncooldown_s = 6\n\
         drain_s = 30\nrequests_per_s = 60\n",
        folder.path().join("store").display(),
        hosts[0],
        hosts[1],
    );
    let director = DirectorProcess::start(&folder.path().join("director"), &config, &[]);
    // The minimum is one node.
    director.until_named(ZONE, &hosts[..1], PATIENCE).await;
    let pin = rezcache::node::pin_beside(&folder.path().join("store.key")).unwrap();
    let service = format!("https://{ZONE}:{port}#pin={pin}");
    let mut address: ServerAddress = service.parse().unwrap();
    address.resolver = Resolver::Server(director.dns);
    let seeding = ServiceClient::new(address, None).unwrap();
    let mut assets = Vec::new();
    for number in 0..usize::try_from(CLIENTS * 4).unwrap() {
        let (key, bytes) = (key(AssetKind::Texture, number as u128), texture(number, 20_000));
        let (digest, region) = (Digest::of(&bytes), Some(region(number as u64 % CLIENTS)));
        let verdict = seeding.attest(&key, region, digest, &bytes).await.unwrap();
        assert_eq!(verdict, Verdict::Waiting { want_body: true });
        let verdict = seeding.put(&key, region, digest, Codec::Raw, bytes.clone()).await.unwrap();
        assert_eq!(verdict, Verdict::Published);
        assets.push((key, bytes));
    }
    drop(seeding);

    // By day: one node at 90 % of what it can, and another is opened, named, and used.
    let crowd = Crowd::come(&service, director.dns, &Arc::new(assets), 54);
    director.until_named(ZONE, &hosts, PATIENCE).await;
    let busy = |picture: &Value| {
        let nodes = picture["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["load"].as_f64().is_some_and(|load| load > 0.1)).count() == 2
    };
    let picture = director.until("traffic at both", PATIENCE, busy).await;
    eprintln!("by day: {}", picture["nodes"]);

    // At night: one of them leaves DNS, drains, and is closed.
    crowd.now_at(12);
    let phases = director.until("leaving", PATIENCE, |picture| {
        let nodes = picture["nodes"].as_array().unwrap();
        nodes.iter().any(|node| node["phase"] == "leaving" || node["phase"] == "draining")
    });
    phases.await;
    let closed = |picture: &Value| picture["nodes"].as_array().unwrap().len() == 1;
    let picture = director.until("closed", PATIENCE, closed).await;
    assert_eq!(picture["nodes"][0]["phase"], "serving");
    assert_eq!(director.named(ZONE).await.len(), 1);
    let running = || hosts.iter().map(|host| nodes_at(&format!("{host}:{port}")).len()).sum::<usize>();
    let began = Instant::now();
    while running() != 1 {
        assert!(began.elapsed() < PATIENCE, "the closed node's process goes on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Who has lost their node goes on with the other.
    let (right, ..) = crowd.counts();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (right_later, wrong, failed) = crowd.counts();
    assert!(right_later > right, "reads go on");
    eprintln!("{right_later} reads were answered rightly, {wrong} wrongly, {failed} not at all");
    assert_eq!((wrong, failed), (0, 0));
    drop(crowd.tasks);
}
