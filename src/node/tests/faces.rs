//! Connections that take places and give nothing, and a node that goes. Where time matters it jumps ahead
//! whenever everybody waits.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Either, Empty, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::http::{self as face, Face};
use super::super::line::Line;
use super::super::places::Places;
use super::super::quic::{Admitted, admitted};
use super::{HERE, ORIGIN, World, body, name};
use crate::asset::Digest;
use crate::node::caller::Caller;
use crate::node::config::NodeConfig;
use crate::node::counters::Count;
use crate::wire::DigestText;
use crate::wire::frame::{Call, Codec, Reply, Verdict};

/// Longer than any patience.
const LONG: Duration = Duration::from_secs(3600);
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);

/// Uploads an asset, and reads it: then it is known without asking the catalog.
async fn share(world: &World, caller: &Caller, number: u128, bytes: &Bytes) {
    let (service, length, digest) = (&world.service, bytes.len() as u64, Digest::of(bytes));
    let put = Call::Put { key: name(number), origin: Some(ORIGIN), digest, codec: Codec::Raw, length };
    let mut receiving = service.admit_body(caller, &put).await.unwrap();
    receiving.push(bytes).await.unwrap();
    assert_eq!(service.put(caller, &put, receiving).await.reply, Reply::Upload(Verdict::Published));
    assert!(matches!(service.perform(caller, &super::read_call(number)).await.reply, Reply::Found(_)));
}

/// A world with an asset that anybody on this machine may read.
async fn world() -> (World, Bytes) {
    let world = World::new(NodeConfig { open_access: true, ..NodeConfig::default() }).await;
    let bytes = body();
    let caller = world.service.authenticate(None, LOCAL.ip(), true).await.unwrap();
    share(&world, &caller, 1, &bytes).await;
    (world, bytes)
}

fn face_of(world: &World) -> Face {
    Face { service: Arc::clone(&world.service), tls: None, local: LOCAL }
}

/// A connection, and what the node does with it.
fn connect(world: &World) -> (DuplexStream, JoinHandle<()>, watch::Sender<bool>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (stop, stopping) = watch::channel(false);
    let served = tokio::spawn(face::converse(
        near,
        LOCAL,
        face_of(world),
        Arc::new(world.service.connected()),
        stopping,
    ));
    (far, served, stop)
}

/// One in HTTP/2 that is kept alive, of which each answer may bring `window` bytes unasked.
async fn connect_h2(far: DuplexStream, window: u32) -> SendRequest<Empty<Bytes>> {
    let (asking, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .keep_alive_timeout(LONG)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(far))
        .await
        .unwrap();
    tokio::spawn(connection);
    asking
}

fn path() -> String {
    format!("/v1/grids/grid.example/assets/texture/{}", name(1).id.0)
}

fn request(method: Method) -> http::request::Builder {
    let uri = format!("http://127.0.0.1{}", path());
    Request::builder().method(method).uri(uri).header("rezcache-origin", ORIGIN.to_string())
}

async fn sending(world: &World) -> u64 {
    let report = world.service.report(&Caller::observer(LOCAL.ip())).await.unwrap();
    report["memory"]["sending_bytes"].as_u64().unwrap()
}

#[tokio::test]
async fn a_reader_with_a_window_of_nothing_is_given_up_with_its_bytes() {
    for window in [0, 1] {
        let (world, bytes) = world().await;
        let (far, served, _stop) = connect(&world);
        let mut asking = connect_h2(far, window).await;
        let mut answers = Vec::new();
        for _ in 0..20 {
            let asked = request(Method::GET).body(Empty::new()).unwrap();
            let answer = asking.send_request(asked).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answers.push(answer);
        }
        assert_eq!(sending(&world).await, 20 * (bytes.len() as u64).div_ceil(1024) * 1024);
        assert_eq!(world.service.counters.running(), 20);
        tokio::time::pause();
        timeout(LONG, served).await.expect("its pings keep it alive").unwrap();
        tokio::time::resume();
        timeout(Duration::from_secs(60), world.service.idle()).await.expect("nothing is being sent");
        assert_eq!(sending(&world).await, 0);
    }
}

#[tokio::test]
async fn who_asks_for_nothing_is_given_up() {
    let (world, bytes) = world().await;
    tokio::time::pause();
    for begins in ["", "PRI * HT", "GET /healthz HT"] {
        let (mut far, served, _stop) = connect(&world);
        far.write_all(begins.as_bytes()).await.unwrap();
        timeout(LONG, served).await.expect(begins).unwrap();
    }
    let (far, served, _stop) = connect(&world);
    let mut asking = connect_h2(far, 1 << 20).await;
    for _ in 0..5 {
        let answer = asking.send_request(request(Method::GET).body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), bytes);
        // Whoever asks now and then stays.
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert!(!served.is_finished());
    }
    timeout(LONG, served).await.expect("pings are no requests").unwrap();
}

#[tokio::test]
async fn a_body_of_json_has_its_time_as_a_whole() {
    let (world, _) = world().await;
    let (mut far, _served, _stop) = connect(&world);
    far.write_all(b"POST /v1/lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n")
        .await
        .unwrap();
    tokio::time::pause();
    let (mut reading, mut writing) = tokio::io::split(far);
    let trickle = tokio::spawn(async move {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let mut start = [0; 12];
    timeout(Duration::from_secs(120), reading.read_exact(&mut start)).await.expect("an answer").unwrap();
    assert_eq!(&start, b"HTTP/1.1 400");
    trickle.abort();
}

#[tokio::test]
async fn an_answer_runs_until_its_bytes_are_gone() {
    let (world, _) = world().await;
    let line = Line::new();
    let mut answering = line.begin();
    answering.runs(world.service.begin().unwrap());
    let mut sent = answering.sends(Either::Left(Full::new(Bytes::from_static(b"bytes"))));
    let piece = sent.frame().await.unwrap().unwrap().into_data().unwrap();
    drop(sent);
    assert_eq!(
        (&piece[..], world.service.counters.running()),
        (&b"bytes"[..], 1),
        "hyper has yet to write it"
    );
    drop(piece);
    assert_eq!(world.service.counters.running(), 0);
}

#[tokio::test]
async fn a_node_that_goes_ends_what_runs_and_takes_nobody_else() {
    let (world, bytes) = world().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(face::serve(listener, Face { local: address, ..face_of(&world) }, stopping));
    // One that stands still between two requests, one that says nothing, and one in the midst of an upload.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    idle.read_exact(&mut start).await.unwrap();
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut asking = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: 127.0.0.1\r\nRezcache-Origin: {ORIGIN}\r\nRezcache-Digest: {}\r\n\
         Content-Length: {}\r\n\r\n",
        path(),
        DigestText(Digest::of(&bytes)),
        bytes.len()
    );
    asking.write_all(head.as_bytes()).await.unwrap();
    let limit = Duration::from_secs(60);
    let running = async {
        while world.service.counters.running() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(limit, running).await.unwrap();

    world.service.close();
    stop.send_replace(true);
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(8), refused).await.expect("nobody is left waiting at the door");
    assert!(!serving.is_finished());
    asking.write_all(&bytes).await.unwrap();
    let mut answer = String::new();
    timeout(limit, asking.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 20") && answer.contains("connection: close"), "{answer}");
    timeout(limit, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn parts_are_for_get_and_for_who_has_the_rest_of_the_same_bytes() {
    let (world, bytes) = world().await;
    let (far, _served, _stop) = connect(&world);
    let mut asking = connect_h2(far, 1 << 20).await;
    let tag = format!("\"{}\"", DigestText(Digest::of(&bytes)));
    let other = format!("\"{}\"", DigestText(Digest::of(b"other")));
    let (part, whole) = ((StatusCode::PARTIAL_CONTENT, 10), (StatusCode::OK, bytes.len()));
    for (method, if_range, expected) in [
        (Method::GET, None, part),
        (Method::GET, Some(&*tag), part),
        (Method::GET, Some(&*other), whole),
        (Method::GET, Some("Wed, 21 Oct 2015 07:28:00 GMT"), whole),
        (Method::HEAD, None, whole),
        (Method::HEAD, Some(&*tag), whole),
    ] {
        let mut asked = request(method.clone()).header("range", "bytes=5-14");
        if let Some(if_range) = if_range {
            asked = asked.header("if-range", if_range);
        }
        let answer = asking.send_request(asked.body(Empty::new()).unwrap()).await.unwrap();
        let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert_eq!((answer.status(), length), expected, "{method} {if_range:?}");
        assert_eq!(answer.headers().contains_key("content-range"), expected == part);
        let got = answer.into_body().collect().await.unwrap().to_bytes();
        match (method, expected == part) {
            (Method::HEAD, _) => assert!(got.is_empty()),
            (_, true) => assert_eq!(got, bytes[5..15]),
            (_, false) => assert_eq!(got, bytes),
        }
    }
}

#[tokio::test]
async fn who_has_used_up_its_bytes_costs_the_store_nothing() {
    let (world, bytes) = world().await;
    let service = &world.service;
    let pupil = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    share(&world, &pupil, 2, &bytes).await;
    let mut claims = world.claims("reader");
    claims.budgets.bytes_per_day = Some(bytes.len() as u64);
    let token = crate::token::sign(&world.key, &claims);
    let caller = service.authenticate(Some(&token), HERE, true).await.unwrap();
    let fetched = || service.counters.get(Count::StoreBytesIn);
    for _ in 0..100 {
        service.contents.forget(Digest::of(&bytes)).await;
        let before = fetched();
        let reply = service.perform(&caller, &super::read_call(2)).await.reply;
        if matches!(reply, Reply::Refused { status: 429, .. } | Reply::Busy { .. }) {
            assert_eq!(fetched(), before);
            return;
        }
        assert!(matches!(reply, Reply::Found(_)) && fetched() > before, "{reply:?}");
        // The budget is settled with the catalog beside the requests.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it reads and reads");
}

#[tokio::test]
async fn forged_first_packets_lock_nobody_out() {
    let public = NodeConfig { abuse_contact: Some("me@example".into()), ..NodeConfig::default() };
    let world = World::new(public).await;
    let (service, places) = (&world.service, Places::default());
    let mut held = Vec::new();
    for _ in 0..5000 {
        match admitted(service, &places, HERE, false, false) {
            Admitted::Yes(place) => held.push(place),
            Admitted::Prove => {}
            Admitted::No => panic!("a reason for the true owner to be refused"),
        }
    }
    assert!(held.len() < 100, "{} handshakes with nobody", held.len());
    assert!(matches!(admitted(service, &places, HERE, true, true), Admitted::Yes(_)));
    assert!(service.admits_connection(HERE), "over TCP too");
    // The pace holds for them even when their handshakes are given up.
    drop(held);
    let again =
        (0..5000).filter(|_| matches!(admitted(service, &places, HERE, false, false), Admitted::Yes(_)));
    assert!(again.count() < 2000);
    // Who is there, and comes too often, is refused.
    let refused = (0..5000).any(|_| matches!(admitted(service, &places, HERE, true, false), Admitted::No));
    assert!(refused);
}
