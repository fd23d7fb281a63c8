//! Hot reads over QUIC: a real node, beside a bare quinn server that sends the same bytes with the same
//! transport settings. Both are processes of their own; one connection to each, 8 and 64 streams in
//! flight, the peers in turns within one run.
//!
//!     cargo bench --bench service
//!
//! Where the machine has other work the megabytes per second of a round say little; the processor time of
//! both ends together says the same without that noise, since loopback has no other limit.
//!
//! The node is read twice: by a client that only counts what comes, as the bare server is, which shows
//! the node's own cost; and by the proxy's client, which holds every body to its digest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "service/raw.rs"]
mod raw;
#[path = "service/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::Connection;
use rezcache::asset::Digest;
use rezcache::client::ServiceClient;
use rezcache::redact::Redacted;
use rezcache::wire::ALPN;
use rezcache::wire::frame::{Call, Codec, Request, Verdict};

use world::{Asset, Server, origin};

/// The best round counts, as the least disturbed.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(500);
const STREAMS: [usize; 2] = [8, 64];

/// Whose bytes are read, and how.
#[derive(Clone)]
enum Peer {
    /// Requests on a connection; the answers are counted.
    Counted { connection: Connection, requests: Arc<Vec<Bytes>> },
    /// The proxy's client.
    Checked { client: Arc<ServiceClient>, assets: Arc<Vec<Asset>> },
}

impl Peer {
    async fn read(&self, number: usize) -> usize {
        match self {
            Self::Counted { connection, requests } => {
                raw::exchange(connection, requests[number % requests.len()].clone()).await
            }
            Self::Checked { client, assets } => {
                let asset = &assets[number % assets.len()];
                let mut body = client.read(&asset.key, Some(origin()), None).await.unwrap().unwrap();
                let mut bytes = 0;
                while let Some(part) = body.next().await.unwrap() {
                    bytes += part.len();
                }
                assert_eq!(bytes, asset.bytes.len());
                bytes
            }
        }
    }
}

/// What a round was, or several.
#[derive(Clone, Copy, Default)]
struct Read {
    bytes: f64,
    requests: f64,
    seconds: f64,
    /// Of client and server.
    processor: f64,
}

/// Reads with so many requests in flight.
#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
async fn round(peer: &Peer, server: &Server, streams: usize) -> Read {
    let used = || {
        let (own, servers) = (world::processor("self"), server.processor());
        own.zip(servers).map_or(f64::NAN, |(own, servers)| (own + servers).as_secs_f64())
    };
    let (bytes, next) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begin, before) = (Instant::now(), used());
    let readers: Vec<_> = (0..streams)
        .map(|_| {
            let (peer, bytes, next) = (peer.clone(), Arc::clone(&bytes), Arc::clone(&next));
            tokio::spawn(async move {
                while begin.elapsed() < ROUND {
                    let read = peer.read(next.fetch_add(1, Ordering::Relaxed)).await;
                    bytes.fetch_add(read as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    Read {
        seconds: begin.elapsed().as_secs_f64(),
        processor: used() - before,
        bytes: bytes.load(Ordering::Relaxed) as f64,
        requests: next.load(Ordering::Relaxed) as f64,
    }
}

fn framed(asset: &Asset) -> Bytes {
    let call = Call::Read { key: asset.key.clone(), origin: Some(origin()), range: None, head_only: false };
    let frame = Request { token: Redacted::new(String::new()), call }.encode();
    let mut request = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    request.extend(frame);
    request.into()
}

#[tokio::main]
#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
async fn main() {
    if std::env::args().any(|argument| argument == "raw-server") {
        return raw::serve().await;
    }
    let assets = Arc::new(world::assets());
    let folder = tempfile::tempdir().unwrap();
    let (node, bare) = (Server::node(folder.path()), Server::own("raw-server"));
    let url = format!("https://{}#pin={}", node.address, node.pin.as_deref().unwrap());
    let client = Arc::new(ServiceClient::new(url.parse().unwrap(), None).unwrap());
    for asset in assets.iter() {
        let digest = Digest::of(&asset.bytes);
        let put = client.put(&asset.key, Some(origin()), digest, Codec::Raw, asset.bytes.clone());
        assert_eq!(put.await.unwrap(), Verdict::Published);
    }
    let (_bare_endpoint, to_bare) = raw::connect(bare.address, None).await;
    let (_node_endpoint, to_node) = raw::connect(node.address, Some(ALPN)).await;
    let numbers = (0..u32::try_from(assets.len()).unwrap()).map(|n| Bytes::copy_from_slice(&n.to_be_bytes()));
    let frames = assets.iter().map(framed);
    let peers = [
        ("bare", &bare, Peer::Counted { connection: to_bare, requests: Arc::new(numbers.collect()) }),
        ("node", &node, Peer::Counted { connection: to_node, requests: Arc::new(frames.collect()) }),
        ("client", &node, Peer::Checked { client, assets: Arc::clone(&assets) }),
    ];
    let total: usize = assets.iter().map(|asset| asset.bytes.len()).sum();
    println!("{} assets, {} bytes in the mean, best of {ROUNDS} rounds", assets.len(), total / assets.len());
    println!("streams  peer        MB/s  requests/s  of the bare server's MB/s  processor ms/MB  of its");
    for streams in STREAMS {
        let (mut best, mut all) = ([Read::default(); 3], [Read::default(); 3]);
        for _ in 0..ROUNDS {
            for ((_, server, peer), (best, all)) in peers.iter().zip(best.iter_mut().zip(&mut all)) {
                let read = round(peer, server, streams).await;
                if best.seconds == 0.0 || read.bytes / read.seconds > best.bytes / best.seconds {
                    *best = read;
                }
                all.bytes += read.bytes;
                all.processor += read.processor;
            }
        }
        let rate = |read: &Read| read.bytes / read.seconds / 1e6;
        let cost = |read: &Read| read.processor * 1e3 / (read.bytes / 1e6);
        for ((name, ..), (best_of, all_of)) in peers.iter().zip(best.iter().zip(&all)) {
            println!(
                "{streams:7}  {name:6}  {:8.1}  {:10.0}  {:25.2}  {:15.2}  {:6.2}",
                rate(best_of),
                best_of.requests / best_of.seconds,
                rate(best_of) / rate(&best[0]),
                cost(all_of),
                cost(&all[0]) / cost(all_of),
            );
        }
    }
    let begin = Instant::now();
    let mut hashed = 0;
    while begin.elapsed() < ROUND {
        hashed += assets.iter().map(|asset| (Digest::of(&asset.bytes), asset.bytes.len()).1).sum::<usize>();
    }
    let cost = begin.elapsed().as_secs_f64() * 1e3 / (hashed as f64 / 1e6);
    println!("digests alone, of bodies in the cache of the processor: {cost:.2} ms/MB");
    println!("goal: 0.9 of the bare server");
}
