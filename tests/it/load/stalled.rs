//! Connections that take places and give nothing: half a handshake, half a head, half a body, and answers
//! that nobody reads, over TCP and over QUIC. Others are served meanwhile, and memory stays bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::redact::Redacted;
use rezcache::wire::frame::{Call, Codec, Request, Verdict};
use rezcache::wire::{ALPN, DigestText};
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Ask, Known, PATIENCE, Service, Simulated, Tally, fill, long, raise_descriptor_limit};
use crate::service::{GRID, key, origin, texture};
use crate::support::synthetic::Draw;
use crate::support::tls::careless as tls;

/// Connections of each of the kinds.
const EACH: usize = 72;
/// Large contents that are asked for and not read; more than the hot tier holds.
const LARGE: usize = 12;
const LARGE_BYTES: usize = 9 << 20;
/// Requests for them on one connection.
const UNREAD: usize = 20;
/// What all of them may make the node take beside what it had before.
const MOST: u64 = 640 << 20;

/// Something that must stay open.
#[allow(dead_code)]
enum Held {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Quic(Endpoint, Connection, Vec<(SendStream, RecvStream)>),
}

/// A connection over TLS on which this was sent.
async fn https(node: SocketAddr, sent: &[u8]) -> Held {
    let connector = TlsConnector::from(Arc::new(tls(b"http/1.1")));
    let mut stream = loop {
        let tcp = TcpStream::connect(node).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        // A busy node gives up on a handshake that takes long, its own part in that included.
        if let Ok(stream) = connector.connect(name, tcp).await {
            break stream;
        }
    };
    // What is not taken any more is a part of the game.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(sent)).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.flush()).await;
    Held::Tls(Box::new(stream))
}

/// A connection over QUIC with a stream for each of these, of which nothing is read.
async fn quic(node: SocketAddr, streams: Vec<Vec<u8>>) -> Held {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls(ALPN)).unwrap()));
    let mut transport = TransportConfig::default();
    // Of every answer a little, and it is never read; but the connection lives.
    transport.stream_receive_window(4096u32.into()).keep_alive_interval(Some(Duration::from_secs(5)));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connection = loop {
        if let Ok(connection) = endpoint.connect_with(config.clone(), node, "localhost").unwrap().await {
            break connection;
        }
    };
    let mut held = Vec::new();
    for sent in streams {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        let _ = tokio::time::timeout(Duration::from_secs(1), send.write_all(&sent)).await;
        held.push((send, receive));
    }
    Held::Quic(endpoint, connection, held)
}

fn framed(token: &str, call: Call) -> Vec<u8> {
    let frame = Request { token: Redacted::new(token.to_owned()), call }.encode();
    let mut sent = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    sent.extend(frame);
    sent
}

fn large_key(n: usize) -> AssetKey {
    key(AssetKind::Texture, 1 << 64 | n as u128)
}

/// Opens connection number `n` of its kind.
async fn stall(node: SocketAddr, kind: usize, n: usize, token: &str) -> Held {
    let path = |id: u128| format!("/v1/grids/{GRID}/assets/texture/{}", uuid::Uuid::from_u128(id));
    let put_key = key(AssetKind::Texture, 1 << 80 | (kind as u128) << 32 | n as u128);
    let some = vec![7; 20_000];
    match kind {
        0 => {
            let mut tcp = TcpStream::connect(node).await.unwrap();
            tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC]).await.unwrap();
            Held::Tcp(tcp)
        }
        1 => https(node, format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-", path(1)).as_bytes()).await,
        2 => {
            let digest = DigestText(Digest::of(&some));
            let mut head = format!(
                "PUT {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\
                 Rezcache-Digest: {digest}\r\nContent-Length: 1000000\r\n\r\n",
                path(put_key.id.0.as_u128())
            )
            .into_bytes();
            head.extend(some);
            https(node, &head).await
        }
        3 => {
            let mut heads = String::new();
            for m in 0..UNREAD {
                let path = path(large_key((n + m) % LARGE).id.0.as_u128());
                heads.push_str(&format!(
                    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
                ));
            }
            https(node, heads.as_bytes()).await
        }
        4 => quic(node, vec![vec![0, 0, 1, 0, 1, 1]; 100]).await,
        5 => {
            let digest = Digest::of(&some);
            let call =
                Call::Put { key: put_key, origin: origin(), digest, codec: Codec::Raw, length: 1_000_000 };
            let mut sent = framed(token, call);
            sent.extend(some);
            quic(node, vec![sent; 4]).await
        }
        _ => {
            let read = |m: usize| {
                let key = large_key((n + m) % LARGE);
                framed(token, Call::Read { key, origin: origin(), range: None, head_only: false })
            };
            quic(node, (0..UNREAD).map(read).collect()).await
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "figures for people to read")]
async fn who_stalls_takes_no_places_and_little_memory() {
    raise_descriptor_limit();
    let service = Service::start();
    let shared = fill(&service).await;
    let first = service.client(service.tokens("large", 1).remove(0));
    for n in 0..LARGE {
        let bytes = texture(1_000_000 + n, LARGE_BYTES);
        let put = first.put(&large_key(n), origin(), Digest::of(&bytes), Codec::Raw, bytes.clone()).await;
        assert_eq!(put.unwrap(), Verdict::Published);
    }
    let before = service.node.memory();

    // One token for all of a kind: they may be one attacker's.
    let tokens = service.tokens("stalled", 7);
    let node = service.node.at;
    let mut opening = tokio::task::JoinSet::new();
    for n in 0..EACH {
        for (kind, token) in tokens.iter().enumerate() {
            let token = token.clone();
            opening.spawn(async move {
                tokio::time::timeout(PATIENCE, stall(node, kind, n, &token)).await.expect("a connection")
            });
        }
    }
    let tally = Arc::new(Tally::default());
    let lasts = Duration::from_secs(if long() { 40 } else { 5 });
    let until = Instant::now() + lasts;
    let mut working = tokio::task::JoinSet::new();
    for (n, token) in service.tokens("honest", 20).into_iter().enumerate() {
        let (client, draw) = (service.client(token), Draw(n as u64));
        let mut proxy = Simulated { client, draw, shared: Arc::clone(&shared), tally: Arc::clone(&tally) };
        working.spawn(async move { proxy.work(until, 0).await });
    }
    let begin = Instant::now();
    let held = opening.join_all().await;
    println!("{} connections that stall, opened in {:.1} s", held.len(), begin.elapsed().as_secs_f64());
    assert_eq!(held.len(), 7 * EACH);
    // Each of these waits for an answer, whatever the others hold.
    working.join_all().await;
    tally.print(lasts.as_secs_f64());

    // A large one too, by somebody who reads.
    let digest = Digest::of(&texture(1_000_000, LARGE_BYTES));
    let known = Known { key: large_key(0), digest, bytes: None };
    let (client, draw) = (service.client(service.tokens("reads", 1).remove(0)), Draw(1));
    let reader = Simulated { client, draw, shared, tally };
    reader.ask(&Ask::Known(Arc::new(known))).await;

    if let (Some((before, _)), Some((now, most))) = (before, service.node.memory()) {
        println!(
            "memory of the node: {} MiB before, {} after, at most {}",
            before >> 20,
            now >> 20,
            most >> 20
        );
        assert!(most < before + MOST, "the node took {} bytes more", most - before);
    }
    drop(held);
    let log = service.log();
    assert!(!log.contains("panicked"), "{log}");
}
