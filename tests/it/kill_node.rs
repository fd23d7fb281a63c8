//! kill -9 of real nodes during uploads: what was answered "published" is there afterwards, no byte of
//! any answer is ever wrong, and what lies in the store unnamed is explained.
//!
//! `REZCACHE_LONG=1` makes it a hundred rounds; `REZCACHE_KILL_SEED` repeats a run whose failure
//! printed its seed (the moments of the kills remain the machine's).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::catalog::Place;
use rezcache::client::{CallError, ServiceClient};
use rezcache::upkeep::Stores;
use rezcache::wire::frame::{Codec, Verdict};

use crate::service::{client_at, key, origin, texture};
use crate::support::postgres::Server;
use crate::support::process::NodeProcess;
use crate::support::synthetic::Draw;
use crate::support::within;

/// Uploads at a time.
const CLIENTS: usize = 8;
/// The longest time under load before a kill.
const LOAD_MILLIS: usize = 300;
/// How many of the earlier ones are looked at after each round; at the end all are.
const SAMPLE: usize = 100;
/// Keys that more than one upload is for, so that they race.
const SHARED: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_during_uploads_keeps_what_it_answered_for() {
    rounds(5, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_node_killed_a_hundred_times_during_uploads() {
    if std::env::var_os("REZCACHE_LONG").is_some_and(|value| value == "1") {
        rounds(100, None).await;
    }
}

/// Two nodes over one PostgreSQL, one of which is killed while the other goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_two_killed_during_uploads_leaves_the_other_right() {
    let Some(server) = Server::shared() else { return };
    let long = std::env::var_os("REZCACHE_LONG").is_some_and(|value| value == "1");
    rounds(if long { 100 } else { 4 }, Some(server.url(&server.database()))).await;
}

/// One asset, made from its number.
struct Asset {
    key: AssetKey,
    bytes: Bytes,
}

impl Asset {
    fn number(number: usize) -> Self {
        let most = [1_000, 8_000, 60_000, 400_000][number % 4];
        let size = 500 + Draw(number as u64).below(most);
        Self { key: key(AssetKind::Texture, number as u128), bytes: texture(number, size) }
    }
}

struct Trial {
    folder: tempfile::TempDir,
    catalog: Option<String>,
    /// The numbers of those tried, and whether somebody was told that they are published.
    assets: BTreeMap<usize, bool>,
    draw: Draw,
    orphans_seen: u64,
    rounds: usize,
}

#[expect(clippy::print_stdout, reason = "a failure must say how to repeat it")]
async fn rounds(count: usize, catalog: Option<String>) {
    let seed = std::env::var("REZCACHE_KILL_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("REZCACHE_KILL_SEED is a number"));
    println!("REZCACHE_KILL_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut trial =
        Trial { folder, catalog, assets: BTreeMap::new(), draw: Draw(seed), orphans_seen: 0, rounds: 0 };
    for _ in 0..count {
        let first = trial.load_and_kill().await;
        trial.verify(first).await;
    }
    let published = trial.assets.values().filter(|published| **published).count();
    println!(
        "{published} published, {} not; {} orphans after kills",
        trial.assets.len() - published,
        trial.orphans_seen
    );
    assert!(published >= count, "hardly anything was published between the kills");
    trial.finish().await;
}

fn client_of(node: &NodeProcess) -> Arc<ServiceClient> {
    Arc::new(client_at(node.at, &node.pin))
}

impl Trial {
    fn node(&self) -> NodeProcess {
        NodeProcess::start(self.folder.path(), self.catalog.as_deref())
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Uploads new assets until the node is killed; the number of the first one.
    async fn load_and_kill(&mut self) -> usize {
        let node = self.node();
        // The one that is not killed.
        let other = self.catalog.is_some().then(|| self.node());
        let mut clients = vec![client_of(&node)];
        clients.extend(other.as_ref().map(client_of));
        let first = self.assets.keys().next_back().map_or(0, |last| last + 1);
        let (gone, killed) = tokio::sync::watch::channel(false);
        let (answered, mut first_answer) = tokio::sync::watch::channel(false);
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..CLIENTS {
            let client = Arc::clone(&clients[task % clients.len()]);
            let (mut killed, answered) = (killed.clone(), answered.clone());
            // The first ones are everybody's.
            let numbers =
                (first..first + SHARED).chain((0..).map(move |n| first + SHARED + n * CLIENTS + task));
            tasks.spawn(async move {
                let mut answers = Vec::new();
                for number in numbers {
                    let asset = Asset::number(number);
                    // A QUIC client notices only after a while that nobody is there any more.
                    let verdict = tokio::select! {
                        biased;
                        answer = upload(&client, &asset) => answer.ok(),
                        _ = killed.wait_for(|killed| *killed) => None,
                    };
                    answers.push((number, verdict));
                    if verdict.is_some() {
                        answered.send_replace(true);
                    }
                    if verdict.is_none() {
                        break;
                    }
                }
                answers
            });
        }
        let moment = Duration::from_millis(20 + self.draw.below(LOAD_MILLIS) as u64);
        // On a busy machine a node takes longer to begin than it is then left to live.
        within(first_answer.wait_for(|answered| *answered)).await.unwrap();
        tokio::time::sleep(moment).await;
        node.kill();
        // Its neighbour goes on for a moment.
        if let Some(other) = other {
            tokio::time::sleep(moment).await;
            other.kill();
        }
        gone.send_replace(true);
        for (number, verdict) in within(tasks.join_all()).await.into_iter().flatten() {
            let published = self.assets.entry(number).or_default();
            match verdict {
                Some(Verdict::Published | Verdict::Known) => *published = true,
                None => {}
                Some(other) => panic!("asset {number}: {other:?}"),
            }
        }
        first
    }

    /// With fresh processes: everything published is there, everything there is right.
    async fn verify(&mut self, first: usize) {
        let node = self.node();
        let client = client_of(&node);
        let (earlier, new) = (self.assets.range(..first), self.assets.range(first..));
        let from = self.draw.below(first.saturating_sub(SAMPLE).max(1));
        for (number, published) in new.chain(earlier.skip(from).take(SAMPLE)) {
            let asset = Asset::number(*number);
            match within(whole(&client, &asset.key)).await {
                Some(bytes) => assert!(bytes == asset.bytes, "asset {number} has wrong bytes"),
                None => assert!(!published, "asset {number} was published and is gone"),
            }
        }
        node.kill();
        // Not after each of a hundred: all is read.
        if self.rounds % 10 < 5 {
            self.scrub().await;
        }
        self.rounds += 1;
    }

    /// Looks at the stores themselves, beside any node: nothing is damaged, nothing is missing, and a blob
    /// without a record is that of an upload that nobody was answered for.
    async fn scrub(&mut self) {
        let stores = self.behind().await;
        let report = stores.verify(false, in_a_day(), &|_, _| ()).await.unwrap();
        assert!(report.ok, "{report:?}");
        self.orphans_seen += report.orphans.count;
        let explained: BTreeSet<String> = self
            .assets
            .iter()
            .filter(|(_, published)| !**published)
            .map(|(number, _)| stores.ring.blob_name(Digest::of(&Asset::number(*number).bytes)).to_string())
            .collect();
        for orphan in report.orphans.first {
            assert!(explained.contains(&orphan.name), "nothing explains the blob {}", orphan.name);
        }
    }

    async fn behind(&self) -> Stores {
        let place = match &self.catalog {
            Some(url) => Place::parse(url).unwrap(),
            None => Place::Sqlite(self.store().join("catalog.sqlite")),
        };
        let url = format!("file://{}", self.store().display());
        Stores::open(&url, &place, &self.folder.path().join("store.key")).await.unwrap()
    }

    /// Uploaded again, what was cut off is published, and its blobs are nobody's no longer.
    async fn finish(&mut self) {
        let node = self.node();
        let client = client_of(&node);
        for number in self.assets.keys() {
            let asset = Asset::number(*number);
            let verdict = within(upload(&client, &asset)).await.unwrap();
            assert!(matches!(verdict, Verdict::Published | Verdict::Known), "asset {number}: {verdict:?}");
            let found = within(whole(&client, &asset.key)).await;
            assert!(found == Some(asset.bytes), "asset {number} has wrong bytes, or none");
        }
        let report = self.behind().await.verify(false, in_a_day(), &|_, _| ()).await.unwrap();
        assert!(report.ok && report.orphans.count == 0, "{report:?}");
    }
}

/// When nothing of today counts as on its way any more.
fn in_a_day() -> u64 {
    rezcache::upkeep::now() + 86_400
}

async fn upload(client: &ServiceClient, asset: &Asset) -> Result<Verdict, CallError> {
    let digest = Digest::of(&asset.bytes);
    match client.attest(&asset.key, origin(), digest, &asset.bytes).await? {
        Verdict::Waiting { want_body: true } => {
            client.put(&asset.key, origin(), digest, Codec::Raw, asset.bytes.clone()).await
        }
        verdict => Ok(verdict),
    }
}

async fn whole(client: &ServiceClient, key: &AssetKey) -> Option<Bytes> {
    let mut body = client.read(key, origin(), None).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    Some(bytes.into())
}
