//! Many proxies at one real node, a process of its own: nothing is lost, its memory stays bounded, and
//! who has used up its budget is told when to come again while the others go on.
//!
//! `REZCACHE_LONG=1` makes it 1,000 proxies for a minute. Timings are printed, not judged.

#[path = "load/stalled.rs"]
mod stalled;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::client::{CallError, Face, ServiceClient};
use rezcache::token::{self, Budgets, Claims, Rights, SigningKey};
use rezcache::wire::frame::{Codec, Verdict};

use crate::service::{key, origin, texture};
use crate::support::operator::now;
use crate::support::process::NodeProcess;
use crate::support::synthetic::Draw;

/// Assets that are there from the beginning.
const SHARED: usize = 300;
/// What the node's hot tier may take.
const HOT: &str = "64MiB";
/// Distinct assets that a proxy with a small budget may read in an hour.
const SMALL_BUDGET: usize = 20;
/// A request that was not answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(120);

fn long() -> bool {
    std::env::var_os("REZCACHE_LONG").is_some_and(|value| value == "1")
}

fn rezcache(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rezcache")).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A node that takes an operator's tokens, as an operator sets it up.
struct Service {
    folder: tempfile::TempDir,
    node: NodeProcess,
    signing_key: PathBuf,
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signing_key = folder.path().join("signing.key");
        rezcache(&["token", "keygen", "--signing-key", signing_key.to_str().unwrap()]);
        let public = folder.path().join("signing.key.pub");
        let options = [
            "--token-keys",
            public.to_str().unwrap(),
            "--trusted-tenants",
            "residents-of-a-test",
            "--memory-size",
            HOT,
        ];
        let node = NodeProcess::start_with(folder.path(), &options, &[]);
        Self { folder, node, signing_key }
    }

    /// Many tokens at once, as `rezcache token new` signs them one by one.
    fn tokens(&self, who: &str, number: usize) -> Vec<String> {
        let key = SigningKey::from_pem(&std::fs::read_to_string(&self.signing_key).unwrap()).unwrap();
        let token = |n| {
            let claims = Claims {
                id: format!("{who}-{n}").into(),
                subject: format!("{who}-{n}").into(),
                tenant: "residents-of-a-test".into(),
                audience: token::DEFAULT_AUDIENCE.into(),
                grids: None,
                rights: "read,write".parse::<Rights>().unwrap(),
                issued_at: now(),
                expires: now() + 3600,
                budgets: Budgets {
                    assets_per_hour: Some(100_000),
                    burst: Some(100_000),
                    ..Budgets::default()
                },
            };
            token::sign(&key, &claims)
        };
        (0..number).map(token).collect()
    }

    fn small_token(&self) -> String {
        let (key, budget) = (self.signing_key.to_str().unwrap(), SMALL_BUDGET.to_string());
        let tenant = ["--tenant", "residents-of-a-test", "--assets-per-hour", &budget];
        let words = [&["token", "new", "--signing-key", key], &tenant[..]].concat();
        rezcache(&words)
    }

    fn client(&self, token: String) -> ServiceClient {
        let url = format!("https://{}#pin={}", self.node.at, self.node.pin);
        ServiceClient::new(url.parse().unwrap(), Some(token)).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// An asset that the node has said it publishes.
struct Known {
    key: AssetKey,
    digest: Digest,
    /// Of those that are attested again.
    bytes: Option<Bytes>,
}

impl Known {
    fn number(number: usize) -> (Self, Bytes) {
        let most = [2_000, 20_000, 60_000, 250_000][number % 4];
        let bytes = texture(number, 600 + Draw(number as u64).below(most));
        (
            Self { key: key(AssetKind::Texture, number as u128), digest: Digest::of(&bytes), bytes: None },
            bytes,
        )
    }
}

/// What a proxy asks.
enum Ask {
    Known(Arc<Known>),
    Absent(AssetKey),
    Lookup(Vec<Result<Arc<Known>, AssetKey>>),
    Attest(AssetKey, Bytes),
    Put(AssetKey, Bytes),
}

impl Ask {
    const fn name(&self) -> &'static str {
        match self {
            Self::Known(_) => "read",
            Self::Absent(_) => "absent",
            Self::Lookup(_) => "lookup",
            Self::Attest(..) => "attest",
            Self::Put(..) => "put",
        }
    }
}

/// What came of all requests.
#[derive(Default)]
struct Tally {
    /// By kind: microseconds.
    took: Mutex<Vec<(&'static str, u64)>>,
    later: AtomicUsize,
    uploaded: Mutex<Vec<Arc<Known>>>,
    numbers: AtomicUsize,
}

impl Tally {
    fn print(&self, seconds: f64) {
        let took = self.took.lock().unwrap();
        let later = self.later.load(Ordering::Relaxed);
        println!("{:.0} requests/s, {later} told to come later", took.len() as f64 / seconds);
        for name in ["read", "absent", "lookup", "attest", "put"] {
            let mut times: Vec<u64> =
                took.iter().filter(|(kind, _)| *kind == name).map(|(_, micros)| *micros).collect();
            times.sort_unstable();
            let at = |percent: usize| {
                times.get(times.len() * percent / 100).map_or(0.0, |micros| *micros as f64 / 1000.0)
            };
            println!("{name:8}{:8} times  p50 {:8.1} ms  p99 {:8.1} ms", times.len(), at(50), at(99));
        }
    }
}

/// A proxy as the node sees one: a connection of its own, one request after another.
struct Simulated {
    client: ServiceClient,
    draw: Draw,
    shared: Arc<Vec<Arc<Known>>>,
    tally: Arc<Tally>,
}

impl Simulated {
    /// Asks until there is an answer; panics when it is a wrong one, or there is none.
    async fn ask(&self, ask: &Ask) -> Option<Verdict> {
        loop {
            let begin = Instant::now();
            let answered = tokio::time::timeout(PATIENCE, self.once(ask)).await;
            let wait = match answered.unwrap_or_else(|_| panic!("a {} was never answered", ask.name())) {
                Ok(verdict) => {
                    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap();
                    self.tally.took.lock().unwrap().push((ask.name(), micros));
                    return verdict;
                }
                Err(CallError::Busy { retry_after }) => retry_after,
                Err(CallError::Refused { status: 429 | 503, retry_after: Some(wait), .. }) => wait,
                Err(error) => panic!("a {} was lost: {error}", ask.name()),
            };
            self.tally.later.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
        }
    }

    async fn once(&self, ask: &Ask) -> Result<Option<Verdict>, CallError> {
        match ask {
            Ask::Known(known) => {
                let digest = read(&self.client, &known.key).await?.expect("what was published is there");
                assert!(digest == known.digest, "wrong bytes");
            }
            Ask::Absent(key) => assert!(read(&self.client, key).await?.is_none(), "nobody brought this"),
            Ask::Lookup(wanted) => {
                let assets = wanted
                    .iter()
                    .map(|wanted| wanted.as_ref().map_or_else(|key| key, |known| &known.key))
                    .map(|key| (key.kind, key.id))
                    .collect();
                let found = self.client.lookup(&key(AssetKind::Texture, 0).grid, origin(), assets).await?;
                for (wanted, found) in wanted.iter().zip(found) {
                    let digest = found.map(|(_, digest)| digest);
                    assert_eq!(digest, wanted.as_ref().ok().map(|known| known.digest));
                }
            }
            Ask::Attest(key, bytes) => {
                return self.client.attest(key, origin(), Digest::of(bytes), bytes).await.map(Some);
            }
            Ask::Put(key, bytes) => {
                let put = self.client.put(key, origin(), Digest::of(bytes), Codec::Raw, bytes.clone());
                return put.await.map(Some);
            }
        }
        Ok(None)
    }

    fn any_known(&mut self) -> Arc<Known> {
        let uploaded = self.tally.uploaded.lock().unwrap();
        let number = self.draw.below(SHARED + uploaded.len().min(SHARED));
        // The latest uploads, which a record or a blob might not be ready for.
        let known = self.shared.get(number).or_else(|| uploaded.iter().rev().nth(number - SHARED));
        Arc::clone(known.unwrap())
    }

    fn absent(&mut self) -> AssetKey {
        key(AssetKind::Texture, 1 << 100 | u128::from(self.draw.next()))
    }

    async fn work(&mut self, until: Instant) {
        while Instant::now() < until {
            match self.draw.below(20) {
                0..12 => {
                    let known = self.any_known();
                    self.ask(&Ask::Known(known)).await;
                }
                12..15 => {
                    let key = self.absent();
                    self.ask(&Ask::Absent(key)).await;
                }
                15..17 => {
                    let wanted = (0..32)
                        .map(|n| if n % 4 == 0 { Err(self.absent()) } else { Ok(self.any_known()) })
                        .collect();
                    self.ask(&Ask::Lookup(wanted)).await;
                }
                17..19 => {
                    let known = Arc::clone(&self.shared[self.draw.below(SHARED)]);
                    let attest = Ask::Attest(known.key.clone(), known.bytes.clone().unwrap());
                    // Known already, or one more voice for what is published.
                    let verdict = self.ask(&attest).await;
                    let agreed = [Verdict::Known, Verdict::Waiting { want_body: false }];
                    assert!(verdict.is_some_and(|verdict| agreed.contains(&verdict)), "{verdict:?}");
                }
                _ => self.upload().await,
            }
        }
    }

    async fn upload(&self) {
        let (known, bytes) = Known::number(SHARED + self.tally.numbers.fetch_add(1, Ordering::Relaxed));
        let attested = self.ask(&Ask::Attest(known.key.clone(), bytes.clone())).await;
        assert_eq!(attested, Some(Verdict::Waiting { want_body: true }));
        let put = self.ask(&Ask::Put(known.key.clone(), bytes)).await;
        assert_eq!(put, Some(Verdict::Published));
        self.tally.uploaded.lock().unwrap().push(Arc::new(known));
    }
}

/// The digest of what the service serves.
async fn read(client: &ServiceClient, key: &AssetKey) -> Result<Option<Digest>, CallError> {
    let Some(mut body) = client.read(key, origin(), None).await? else { return Ok(None) };
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(Some(Digest::of(&bytes)))
}

async fn fill(service: &Service) -> Arc<Vec<Arc<Known>>> {
    let client = service.client(service.tokens("first", 1).remove(0));
    let mut shared = Vec::new();
    for number in 0..SHARED {
        let (mut known, bytes) = Known::number(number);
        let put = client.put(&known.key, origin(), known.digest, Codec::Raw, bytes.clone()).await;
        assert_eq!(put.unwrap(), Verdict::Published);
        known.bytes = Some(bytes);
        shared.push(Arc::new(known));
    }
    Arc::new(shared)
}

/// Reads one asset after another without waiting; how many were served, and how often it was refused.
async fn greedy(client: ServiceClient, shared: Arc<Vec<Arc<Known>>>, until: Instant) -> (usize, usize) {
    let (mut served, mut refused) = (std::collections::HashSet::new(), 0);
    for known in shared.iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        match tokio::time::timeout(PATIENCE, read(&client, &known.key)).await.expect("an answer") {
            Ok(digest) => {
                assert!(digest == Some(known.digest), "wrong bytes");
                served.insert(known.key.id);
            }
            // On its way in, and so early that it has read nothing.
            Err(CallError::Refused { status: 429, reason, .. }) if reason.contains("attempts") => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(CallError::Refused { status: 429, retry_after, .. }) => {
                assert!(
                    retry_after.is_some_and(|wait| !wait.is_zero()),
                    "refused without a time to come again"
                );
                refused += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (served.len(), refused)
}

#[cfg(unix)]
fn raise_descriptor_limit() {
    // Each simulated proxy has a socket.
    rlimit::increase_nofile_limit(65_536).unwrap();
}

#[cfg(not(unix))]
fn raise_descriptor_limit() {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::cast_precision_loss, clippy::print_stdout, reason = "figures for people to read")]
async fn many_proxies_at_one_node() {
    raise_descriptor_limit();
    let (number, lasts, limit) = match long() {
        true => (1000, Duration::from_secs(60), 1 << 30),
        false => (150, Duration::from_secs(4), 512 << 20),
    };
    let service = Service::start();
    let shared = fill(&service).await;
    let tally = Arc::new(Tally::default());
    let begin = Instant::now();
    // Introductions from one address are slowed down; the time counts from where all are in.
    let mut introduced = tokio::task::JoinSet::new();
    for (n, token) in service.tokens("proxy", number).into_iter().enumerate() {
        let (client, draw) = (service.client(token), Draw(n as u64));
        let mut proxy = Simulated { client, draw, shared: Arc::clone(&shared), tally: Arc::clone(&tally) };
        introduced.spawn(async move {
            let first = Ask::Known(proxy.any_known());
            proxy.ask(&first).await;
            proxy
        });
    }
    let proxies = introduced.join_all().await;
    println!("{number} proxies introduced in {:.1} s", begin.elapsed().as_secs_f64());
    tally.took.lock().unwrap().clear();
    tally.later.store(0, Ordering::Relaxed);

    let greedy_clients: Vec<_> = (0..5).map(|_| service.client(service.small_token())).collect();
    let begin = Instant::now();
    let until = begin + lasts;
    let over: Vec<_> = greedy_clients
        .into_iter()
        .map(|client| tokio::spawn(greedy(client, Arc::clone(&shared), until)))
        .collect();
    let mut working = tokio::task::JoinSet::new();
    for mut proxy in proxies {
        working.spawn(async move {
            proxy.work(until).await;
            proxy.client.face()
        });
    }
    let faces = working.join_all().await;
    let seconds = begin.elapsed().as_secs_f64();
    for over in over {
        let (served, refused) = over.await.unwrap();
        assert!(served <= SMALL_BUDGET, "{served} distinct assets served to a budget of {SMALL_BUDGET}");
        assert!(refused > 0, "never refused");
    }

    // What was answered "published" is there, for one who has never asked before.
    let reader = service.client(service.tokens("last", 1).remove(0));
    let uploaded = std::mem::take(&mut *tally.uploaded.lock().unwrap());
    assert!(!uploaded.is_empty());
    for known in &uploaded {
        assert!(read(&reader, &known.key).await.unwrap() == Some(known.digest), "{:?}", known.key);
    }
    let quic = faces.iter().filter(|face| **face == Face::Quic).count();
    tally.print(seconds);
    println!("{} assets uploaded and read again; {quic} of {number} on QUIC to the end", uploaded.len());
    if let Some((now, most)) = service.node.memory() {
        println!("memory of the node: {} MiB, at most {} MiB", now >> 20, most >> 20);
        assert!(most < limit, "the node took {most} bytes");
    }
    let log = service.log();
    assert!(!log.contains("panicked"), "{log}");
}
