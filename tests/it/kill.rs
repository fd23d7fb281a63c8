//! kill -9 at random moments under load: the store opens again, what it had stays, and no byte of
//! any answer is ever wrong.
//!
//! `REZCACHE_LONG=1` makes it a hundred rounds; `REZCACHE_KILL_SEED` repeats a run whose failure
//! printed its seed (the moments of the kills remain the machine's).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::client::Connection;
use crate::support::process::ProxyProcess;
use crate::support::synthetic::{Draw, Host, Mood, Synthetic};
use crate::support::within;

const ASSETS: usize = 240;
/// Stored, and known to be, before the first kill.
const FIRST: usize = 20;
const CLIENTS: usize = 24;
/// The longest time under load before a kill.
const LOAD_MILLIS: usize = 400;
/// How often an asset known to be stored is asked for before it counts as lost: a busy disk may
/// answer too late, which is a miss.
const PATIENCE: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_stored_and_serves_no_wrong_byte() {
    rounds(8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_kill_9_a_hundred_times() {
    if std::env::var_os("REZCACHE_LONG").is_some_and(|value| value == "1") {
        rounds(100).await;
    }
}

struct Trial {
    assets: Arc<Vec<Synthetic>>,
    host: Host,
    folder: tempfile::TempDir,
    /// What has once come from the store, and so must always.
    stored: BTreeSet<usize>,
    draw: Draw,
}

#[expect(clippy::print_stdout, reason = "a failure must say how to repeat it")]
async fn rounds(count: usize) {
    let seed = std::env::var("REZCACHE_KILL_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("REZCACHE_KILL_SEED is a number"));
    println!("REZCACHE_KILL_SEED={seed}");
    let mut draw = Draw(seed);
    // Many small ones and some large ones, as grids have them.
    let assets: Vec<_> = (0..ASSETS)
        .map(|n| {
            let most = [2_000, 20_000, 80_000, 400_000][draw.below(4)];
            Synthetic::new(seed, n, 500 + draw.below(most))
        })
        .collect();
    let host = Host::start(&assets, draw.next()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial { assets: Arc::new(assets), host, folder, stored: BTreeSet::new(), draw };

    trial.fill().await;
    for round in 0..count {
        let proxy = trial.open();
        // Every other time the kill may come while the store is still being looked through.
        if round % 2 == 0 {
            trial.verify(&proxy).await;
        }
        trial.load_and_kill(proxy).await;
    }
    let proxy = trial.open();
    trial.verify(&proxy).await;
    assert!(trial.stored.len() > FIRST, "nothing was stored between the kills");
    let status = proxy.status().await;
    assert_eq!(status["counters"]["store_corrupt"], 0, "a file was written in place");
    assert_eq!(proxy.terminate(), Some(0));
}

impl Trial {
    fn open(&self) -> ProxyProcess {
        ProxyProcess::start(&[], &self.folder.path().join("data"), &self.host.url())
    }

    /// Stores the first assets, waits until the program says so, and kills it.
    async fn fill(&mut self) {
        let proxy = self.open();
        let mut connection = Connection::open(proxy.at).await;
        for asset in &self.assets[..FIRST] {
            asset.check(&connection.get(&format!("{}{}", proxy.assets, asset.query), &[]).await);
        }
        proxy.until("/store/objects", FIRST as u64).await;
        proxy.kill();
        self.stored.extend(0..FIRST);
    }

    /// With the asset host closed: what was ever stored is there, and everything else is right or
    /// is not answered from here.
    async fn verify(&mut self, proxy: &ProxyProcess) {
        self.host.is(Mood::Closed);
        let mut connection = Connection::open(proxy.at).await;
        for (n, asset) in self.assets.iter().enumerate() {
            let path = format!("{}{}", proxy.assets, asset.query);
            let part = connection.try_get(&path, Some("bytes=100-699")).await.unwrap();
            if part.status != 503 {
                assert!(part.tier().starts_with("hit"));
                asset.check(&part);
            }
            for attempt in 0.. {
                let answer = connection.try_get(&path, None).await.unwrap();
                if answer.status != 503 {
                    assert!(answer.tier().starts_with("hit") && !answer.broken, "{}", answer.tier());
                    asset.check(&answer);
                    self.stored.insert(n);
                    break;
                }
                if !self.stored.contains(&n) {
                    break;
                }
                assert!(attempt < PATIENCE, "asset {n} was stored and is gone");
            }
        }
    }

    async fn load_and_kill(&mut self, proxy: ProxyProcess) {
        self.host.is(Mood::Flaky);
        let killed = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (assets, killed) = (Arc::clone(&self.assets), Arc::clone(&killed));
                tokio::spawn(client(proxy.at, proxy.assets.clone(), assets, Draw(self.draw.next()), killed))
            })
            .collect();
        let moment = Duration::from_millis(self.draw.below(LOAD_MILLIS) as u64);
        tokio::time::sleep(moment).await;
        killed.store(true, Ordering::SeqCst);
        proxy.kill();
        for client in clients {
            within(client).await.expect("a client saw a wrong answer");
        }
    }
}

/// Asks for assets, whole and by ranges, until the proxy is gone.
async fn client(
    at: SocketAddr,
    prefix: String,
    assets: Arc<Vec<Synthetic>>,
    mut draw: Draw,
    killed: Arc<AtomicBool>,
) {
    while let Some(mut connection) = Connection::try_open(at).await {
        loop {
            let asset = &assets[draw.below(assets.len())];
            let first = draw.below(asset.bytes.len());
            let range = match draw.below(5) {
                0 => Some("bytes=0-599".to_owned()),
                1 => Some(format!("bytes={first}-")),
                2 => Some(format!("bytes={first}-{}", first + draw.below(100_000))),
                _ => None,
            };
            let path = format!("{prefix}{}", asset.query);
            let answer = connection.try_get(&path, range.as_deref()).await;
            // Whoever has the port next is not ours to judge.
            if killed.load(Ordering::SeqCst) {
                if let Some(answer) = answer.filter(|answer| answer.header("rezcache").is_some()) {
                    asset.check(&answer);
                }
                return;
            }
            let Some(answer) = answer else { break };
            asset.check(&answer);
            if answer.broken {
                break;
            }
        }
    }
}
