//! A node whose blobs are in a Garage cluster of three, each with all of them: one is killed and comes back
//! while assets are read and uploaded, which go on, and nothing is lost.
//!
//! Only with `REZCACHE_LONG=1`; `REZCACHE_GARAGE` names the program, which `tests/run --long` installs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::client::{CallError, ServiceClient};
use rezcache::store::blobs::Blobs;
use rezcache::wire::frame::{Codec, Verdict};
use tokio::sync::Mutex;

use crate::service::{client_at, key, origin, texture};
use crate::store_contract::contract;
use crate::support::process::NodeProcess;
use crate::support::synthetic::Draw;

const NODES: usize = 3;
const REGION: &str = "garage";
/// A request that was not answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(120);

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The processes of a cluster; killed when dropped.
struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    running: Vec<Option<Child>>,
    /// Where the first node speaks S3; it is not the one that is killed.
    endpoint: String,
    key: (String, String),
}

impl Cluster {
    async fn start(folder: &Path) -> Self {
        let program =
            std::env::var_os("REZCACHE_GARAGE").expect("set by tests/run --long, which installs it");
        let api = free_port();
        for n in 0..NODES {
            let (rpc, s3, admin) = (free_port(), if n == 0 { api } else { free_port() }, free_port());
            let at = folder.join(format!("n{n}"));
            std::fs::create_dir_all(&at).unwrap();
            let secret = "5a".repeat(32);
            let config = format!(
                "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\n\
                 replication_factor = {NODES}\nconsistency_mode = \"consistent\"\n\
                 rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
                 rpc_secret = \"{secret}\"\n[s3_api]\ns3_region = \"{REGION}\"\n\
                 api_bind_addr = \"127.0.0.1:{s3}\"\nroot_domain = \".s3.localhost\"\n\
                 [admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\nadmin_token = \"a test\"\n",
                at = at.display(),
            );
            std::fs::write(folder.join(format!("n{n}.toml")), config).unwrap();
        }
        let mut cluster = Self {
            program: program.into(),
            folder: folder.to_owned(),
            running: (0..NODES).map(|_| None).collect(),
            endpoint: format!("http://127.0.0.1:{api}"),
            key: Default::default(),
        };
        for n in 0..NODES {
            cluster.run(n);
        }
        let mut ids = Vec::new();
        for n in 0..NODES {
            ids.push(cluster.ask(n, &["node", "id", "-q"]).await);
        }
        for id in &ids[1..] {
            cluster.ask(0, &["node", "connect", id]).await;
        }
        for (n, id) in ids.iter().enumerate() {
            let id = id.split('@').next().unwrap();
            cluster.ask(0, &["layout", "assign", "-z", &format!("z{n}"), "-c", "1G", id]).await;
        }
        cluster.ask(0, &["layout", "apply", "--version", "1"]).await;
        cluster.ask(0, &["bucket", "create", "rez"]).await;
        let made = cluster.ask(0, &["key", "create", "rezcache"]).await;
        let value = |name: &str| {
            let line =
                made.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{made}"));
            line.trim_start_matches(':').trim().to_owned()
        };
        cluster.key = (value("Key ID"), value("Secret key"));
        cluster
            .ask(0, &["bucket", "allow", "--read", "--write", "--owner", "rez", "--key", "rezcache"])
            .await;
        cluster
    }

    fn command(&self, n: usize) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.join(format!("n{n}.toml"))).env("RUST_LOG", "error");
        command.stdin(Stdio::null());
        command
    }

    fn run(&mut self, n: usize) {
        let log = |name: &str| {
            let path = self.folder.join(format!("n{n}.{name}"));
            std::fs::File::options().create(true).append(true).open(path).unwrap()
        };
        let mut command = self.command(n);
        let process = command.arg("server").stdout(log("out")).stderr(log("err")).spawn().unwrap();
        self.running[n] = Some(process);
    }

    /// What the program says, once it succeeds.
    async fn ask(&self, n: usize, words: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            let output = self.command(n).args(words).output().unwrap();
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap().trim().to_owned();
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(begin.elapsed() < Duration::from_secs(60), "garage {words:?}: {said}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn kill(&mut self, n: usize) {
        let mut process = self.running[n].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Waits until the first node sees that many.
    async fn healthy(&self, nodes: usize) {
        let begin = Instant::now();
        let ids = |status: &str| {
            let healthy = status.split("==== FAILED").next().unwrap_or_default();
            healthy.lines().filter(|line| line.contains("127.0.0.1:")).count()
        };
        loop {
            let status = self.ask(0, &["status"]).await;
            if ids(&status) == nodes {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{status}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", self.endpoint.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.key.0.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.key.1.clone()),
        ]
    }

    fn node(&self, folder: &Path) -> NodeProcess {
        let (keys, catalog) =
            (folder.join("store.key"), format!("sqlite://{}/catalog.sqlite", folder.display()));
        // So little memory that most reads go to the cluster.
        let options = ["--store", "s3://rez/service", "--catalog", &catalog, "--memory-size", "2MiB"];
        let options = [&options[..], &["--key-file", keys.to_str().unwrap()]].concat();
        let variables = self.variables();
        let settings: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        NodeProcess::start_with(folder, &options, &settings)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.running.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn asset(number: usize) -> (AssetKey, Bytes) {
    let most = [1_000, 20_000, 90_000, 400_000][number % 4];
    (key(AssetKind::Texture, number as u128), texture(number, 600 + Draw(number as u64).below(most)))
}

async fn digest_of(client: &ServiceClient, key: &AssetKey) -> Result<Option<Digest>, CallError> {
    let Some(mut body) = client.read(key, origin(), None).await? else { return Ok(None) };
    let mut all = Vec::new();
    while let Some(part) = body.next().await? {
        all.extend_from_slice(&part);
    }
    Ok(Some(Digest::of(&all)))
}

/// What was done, and what must be there.
#[derive(Default)]
struct Ledger {
    published: Mutex<Vec<usize>>,
    numbers: AtomicUsize,
    reads: AtomicUsize,
    later: AtomicUsize,
    stop: AtomicBool,
}

impl Ledger {
    /// Waits when the answer was "later"; anything else but an answer is a loss.
    async fn come_again(&self, error: CallError) {
        self.later.fetch_add(1, Ordering::Relaxed);
        match error {
            CallError::Busy { retry_after } => tokio::time::sleep(retry_after).await,
            CallError::Refused { status: 429 | 503, retry_after, .. } => {
                tokio::time::sleep(retry_after.unwrap_or(Duration::from_secs(1))).await;
            }
            error => panic!("lost: {error}"),
        }
    }

    async fn read(&self, client: &ServiceClient, number: usize) {
        let (key, bytes) = asset(number);
        loop {
            match tokio::time::timeout(PATIENCE, digest_of(client, &key)).await.expect("an answer") {
                Ok(digest) => {
                    assert!(digest == Some(Digest::of(&bytes)), "asset {number} is lost or wrong");
                    break;
                }
                Err(error) => self.come_again(error).await,
            }
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    async fn upload(&self, client: &ServiceClient, number: usize) {
        let (key, bytes) = asset(number);
        loop {
            let put = client.put(&key, origin(), Digest::of(&bytes), Codec::Raw, bytes.clone());
            match tokio::time::timeout(PATIENCE, put).await.expect("an answer") {
                // Known: an answer "later" came after the body had been taken.
                Ok(Verdict::Published | Verdict::Known) => break,
                Ok(verdict) => panic!("{verdict:?}"),
                Err(error) => self.come_again(error).await,
            }
        }
        self.published.lock().await.push(number);
    }

    async fn work(&self, client: &ServiceClient, seed: u64) {
        let mut draw = Draw(seed);
        while !self.stop.load(Ordering::Relaxed) {
            self.upload(client, self.numbers.fetch_add(1, Ordering::Relaxed)).await;
            for _ in 0..3 {
                let known = self.published.lock().await;
                let number = known[draw.below(known.len())];
                drop(known);
                self.read(client, number).await;
            }
        }
    }

    async fn done(&self) -> (usize, usize) {
        (self.published.lock().await.len(), self.reads.load(Ordering::Relaxed))
    }
}

/// Waits until so many more were uploaded and read.
#[expect(clippy::print_stdout, reason = "how long it takes is for people to read")]
async fn goes_on(ledger: &Ledger, what: &str) {
    let (begin, (published, reads)) = (Instant::now(), ledger.done().await);
    loop {
        let (now_published, now_reads) = ledger.done().await;
        if now_published >= published + 25 && now_reads >= reads + 75 {
            let later = ledger.later.load(Ordering::Relaxed);
            println!(
                "{what}: {:.1} s for 25 uploads and 75 reads, {later} told to come later so far",
                begin.elapsed().as_secs_f64()
            );
            return;
        }
        assert!(begin.elapsed() < 2 * PATIENCE, "{what}: uploads or reads stand still");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn client(at: SocketAddr, pin: &str) -> Arc<ServiceClient> {
    Arc::new(client_at(at, pin))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_cluster_of_three_that_loses_one_loses_nothing() {
    if std::env::var_os("REZCACHE_LONG").is_none_or(|value| value != "1") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path()).await;
    let variables = cluster.variables().into_iter().map(|(name, value)| (name.to_owned(), value));
    let blobs = Blobs::open_with("s3://rez/contract", variables).unwrap();
    contract(&blobs).await;

    let node = cluster.node(folder.path());
    let ledger = Arc::new(Ledger::default());
    let mut working = tokio::task::JoinSet::new();
    for seed in 0..6 {
        let (ledger, client) = (Arc::clone(&ledger), client(node.at, &node.pin));
        working.spawn(async move { ledger.work(&client, seed).await });
    }
    goes_on(&ledger, "three of three").await;
    cluster.kill(1);
    goes_on(&ledger, "two of three").await;
    cluster.run(1);
    cluster.healthy(NODES).await;
    goes_on(&ledger, "three again").await;
    // Now with one that has missed something, and without one that has it all.
    cluster.kill(2);
    goes_on(&ledger, "without another").await;
    ledger.stop.store(true, Ordering::Relaxed);
    while let Some(worker) = working.join_next().await {
        worker.unwrap();
    }

    // Nothing in memory: each asset comes out of the cluster.
    node.kill();
    let node = cluster.node(folder.path());
    let reader = client(node.at, &node.pin);
    let published = ledger.published.lock().await.clone();
    for number in published {
        ledger.read(&reader, number).await;
    }
}
