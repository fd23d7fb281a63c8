//! A node under attack: addresses that take all they can, senders that are not where they say, and peers that ask
//! and take it back. Others are served meanwhile, and what was refused is counted. Each attacker has an address of
//! its own in 127.0.0.0/8; where that is this machine, the limits are set, since otherwise it has none.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use rezcache::asset::AssetKind;
use rezcache::node::{Node, NodeConfig, Protection};
use rezcache::wire::ALPN;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::service::{client, config, key, origin, share, texture};
use crate::support::operator::{self, Operator};
use crate::support::process::NodeProcess;
use crate::support::tls::careless;
use crate::support::within;

fn source(last: u8) -> SocketAddr {
    (IpAddr::V4(Ipv4Addr::new(127, 0, 7, last)), 0).into()
}

async fn tcp(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    within(socket.connect(to)).await
}

/// Whether the node keeps a connection: a refused one is closed without a word.
async fn is_kept(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    tokio::time::timeout(Duration::from_millis(500), stream.read(&mut byte)).await.is_err()
}

fn quic_client(from: SocketAddr) -> Endpoint {
    let mut endpoint = Endpoint::client(from).unwrap();
    let crypto = QuicClientConfig::try_from(careless(ALPN)).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    endpoint
}

async fn quic(endpoint: &Endpoint, to: SocketAddr) -> Option<Connection> {
    let connection = within(endpoint.connect(to, "localhost").unwrap()).await.ok()?;
    // Somebody who comes unproven is sent away when the handshake is over.
    let closed = tokio::time::timeout(Duration::from_millis(300), connection.closed()).await;
    closed.is_err().then_some(connection)
}

/// What a node answers to somebody at this address: the status, the head, and the body.
async fn asked(from: SocketAddr, options: &[&str], url: &str) -> (u16, String, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--insecure", "--include", "--http1.1", "--max-time", "20"]);
    command.args(["--interface", &from.ip().to_string()]).args(options).arg(url);
    let output = tokio::task::spawn_blocking(move || command.output().expect("curl is installed"));
    let text = String::from_utf8_lossy(&within(output).await.unwrap().stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

async fn counters(at: SocketAddr) -> BTreeMap<String, u64> {
    let (status, _, body) = asked(source(250), &[], &format!("https://{at}/v1/node")).await;
    assert_eq!(status, 200, "{body}");
    let report: Value = serde_json::from_str(&body).unwrap();
    serde_json::from_value(report["counters"].clone()).unwrap()
}

async fn protected(folder: &Path, connections: u32, requests: u32) -> Node {
    let protection =
        Protection { connections_per_address: Some(connections), requests_per_address_s: Some(requests) };
    Node::start(NodeConfig { protection, ..config(folder) }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_connections_over_both_faces_together() {
    let folder = tempfile::tempdir().unwrap();
    let node = protected(folder.path(), 6, 1000).await;
    let at = node.address();
    let endpoint = quic_client(source(1));
    let (mut over_quic, mut over_tcp) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        over_quic.push(quic(&endpoint, at).await.expect("it may"));
        over_tcp.push(tcp(source(1), at).await.unwrap());
    }
    for held in &mut over_tcp {
        assert!(is_kept(held).await);
    }
    assert!(!is_kept(&mut tcp(source(1), at).await.unwrap()).await);
    assert!(quic(&endpoint, at).await.is_none());
    assert!(counters(at).await["connections_refused"] >= 2);
    assert!(is_kept(&mut tcp(source(2), at).await.unwrap()).await, "another address has its own");
    assert!(quic(&quic_client(source(2)), at).await.is_some());
    // Those who have shown that they are there take no place from those who have not: nobody was asked to.
    assert_eq!(counters(at).await["addresses_asked"], 0);
    // Whoever goes makes place.
    over_quic.pop().unwrap().close(0u8.into(), b"");
    within(async { while !is_kept(&mut tcp(source(1), at).await.unwrap()).await {} }).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_nobody_have_their_pace_and_tokens_do_not_share_it() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let protection = Protection { requests_per_address_s: Some(2), ..Protection::default() };
    let trusted_tenants = vec!["school".to_owned()];
    let config = NodeConfig { protection, trusted_tenants, ..operator.config(folder.path()) };
    let node = Node::start(config).await.unwrap();
    let at = node.address();
    let reader = operator::client(&node, Some(operator.token("reader", "school", "read,write")));
    let (bytes, name) = (texture(1, 5000), key(AssetKind::Texture, 1));
    share(&reader, &name, &bytes).await;

    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    // curl asks for all of them on one connection while it may.
    let url = format!("https://{at}/healthz?[1-32]");
    let mut command = Command::new("curl");
    command.args(["--silent", "--insecure", "--include", "--max-time", "20", "--http1.1"]).arg(&url);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let text = String::from_utf8_lossy(&within(output).await.unwrap().stdout).to_ascii_lowercase();
    let (fine, limited) = (text.matches(" 200 ok").count(), text.matches(" 429 too many").count());
    assert!((20..30).contains(&fine) && limited > 0, "{fine} {limited}");
    let last = text.rfind("http/1.1 429").unwrap();
    let head = text[last..].split("\r\n\r\n").next().unwrap();
    assert!(head.contains("retry-after: 1") && head.contains("connection: close"), "{head}");

    // It is one pace for all of these; new connections have theirs, and are refused without a word.
    let wrong = &["-H", "Authorization: Bearer no.to.ken", "-X", "POST", "-d", "{}"][..];
    for (options, path) in [
        (&[][..], "nowhere"),
        (&[], "v1/service"),
        (&[], "openapi.json"),
        (&[], "v1/lookup"),
        (wrong, "v1/lookup"),
    ] {
        let url = format!("https://{at}/{path}?[1-8]");
        let (_, head, rest) = asked(here, options, &url).await;
        let text = format!("{head}{rest}").to_ascii_lowercase();
        let served = text.matches("http/1.1 ").count() - text.matches("http/1.1 429").count();
        assert!(served < 8, "{path}: {text}");
    }
    // Who shows a token goes on, from the same address, and so do others without.
    for _ in 0..20 {
        assert!(reader.read(&name, origin(), None).await.unwrap().is_some());
    }
    assert_eq!(asked(source(3), &[], &format!("https://{at}/readyz")).await.0, 200);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pace_that_is_said_is_for_what_everybody_may_read_too() {
    let folder = tempfile::tempdir().unwrap();
    for said in [Some(2), None] {
        let protection = Protection { requests_per_address_s: said, ..Protection::default() };
        let abuse_contact = Some("abuse@example.org".to_owned());
        let config =
            NodeConfig { protection, abuse_contact, ..config(&folder.path().join(format!("{said:?}"))) };
        let node = Node::start(config).await.unwrap();
        let path = "v1/grids/login.grid.example/assets/texture/5748decc-f629-461c-9a36-a35a221fe21f";
        let url = format!("https://{}/{path}?[1-40]", node.address());
        let (_, head, rest) = asked(source(4), &[], &url).await;
        let text = format!("{head}{rest}").to_ascii_lowercase();
        let (absent, limited) = (text.matches("http/1.1 404").count(), text.matches("http/1.1 429").count());
        // curl connects anew after each 429.
        if said.is_some() {
            assert!((15..35).contains(&absent) && limited > 0, "{absent} {limited}: {text}");
            assert!(text.contains("connection: close"), "{text}");
        } else {
            assert_eq!((absent, limited), (40, 0), "{text}");
        }
        // QUIC shares it, also where the caller is known from the request before.
        let (reader, name) = (client(&node), key(AssetKind::Texture, 1));
        let mut refused = 0;
        for _ in 0..40 {
            refused += usize::from(reader.read(&name, origin(), None).await.is_err());
        }
        assert_eq!(refused > 0, said.is_some(), "{refused}");
        node.stop().await;
    }
}

/// Takes connections, half handshakes and answers from an address until told to end.
async fn flood(from: SocketAddr, to: SocketAddr, stop: Arc<AtomicBool>) -> u64 {
    let endpoint = quic_client(from);
    let (mut held, mut attempts) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        for sent in [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n"] {
            attempts += 1;
            if let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_secs(1), tcp(from, to)).await {
                let _ = stream.write_all(sent).await;
                held.push(stream);
            }
        }
        // Begun, and never gone on with.
        if let Ok(connecting) = endpoint.connect(to, "localhost") {
            attempts += 1;
            tokio::task::yield_now().await;
            drop(connecting);
        }
        if held.len() > 300 {
            held.drain(..150);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_pass_while_others_take_all_that_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--connections-per-address", "40", "--requests-per-address-s", "30"];
    let node = NodeProcess::start_with(folder.path(), &options, &[]);
    let at = node.at;
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> =
        (1..=12).map(|last| tokio::spawn(flood(source(last), at, Arc::clone(&stop)))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..15 {
        for path in ["/healthz", "/readyz"] {
            let (status, _, body) = asked(source(200), &[], &format!("https://{at}{path}")).await;
            assert_eq!(status, 200, "{path}: {body}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(quic(&quic_client(source(201)), at).await.is_some(), "a client comes in too");
    stop.store(true, Ordering::Relaxed);
    let mut attempts = 0;
    for flood in floods {
        attempts += within(flood).await.unwrap();
    }
    let counted = counters(at).await;
    println!("{attempts} attempts; {counted:?}");
    assert!(counted["connections_refused"] > 200, "{counted:?}");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(!log.contains("panicked") && log.len() < 100_000, "nobody fills the log: {} bytes", log.len());
}

/// First packets of connections, as a client makes them.
async fn initials(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = quic_client("127.0.0.1:0".parse().unwrap());
    let mut packets = Vec::new();
    let mut buffer = vec![0; 2048];
    for _ in 0..count {
        let connecting = endpoint.connect(sink.local_addr().unwrap(), "localhost").unwrap();
        let length = within(sink.recv(&mut buffer)).await.unwrap();
        packets.push(buffer[..length].to_vec());
        drop(connecting);
        // What it sends to say that it has given up is no first packet.
        while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(20), sink.recv(&mut buffer)).await {}
    }
    packets
}

/// Bytes, packets, and whether one of them asks for a proof of the address.
async fn comes_back(socket: &UdpSocket, patience: Duration) -> (usize, usize, bool) {
    let (mut bytes, mut packets, mut retry) = (0, 0, false);
    let mut buffer = vec![0; 2048];
    let until = Instant::now() + patience;
    while let Ok(received) =
        tokio::time::timeout(until.saturating_duration_since(Instant::now()), socket.recv(&mut buffer)).await
    {
        let Ok(length) = received else { continue };
        // Source: RFC 9000, 17.2.5: a long header of type 3.
        retry |= buffer[0] & 0xf0 == 0xf0;
        (bytes, packets) = (bytes + length, packets + 1);
    }
    (bytes, packets, retry)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_first_packet_brings_its_victim_little_and_many_of_them_bring_a_question() {
    let folder = tempfile::tempdir().unwrap();
    let node = protected(folder.path(), 100, 1000).await;
    let at = node.address();
    let packets = initials(41).await;
    assert!(packets.iter().all(|packet| packet.len() >= 1200));
    let (alone, others) = packets.split_first().unwrap();

    // One, and then silence, for longer than a handshake may take.
    let socket = UdpSocket::bind(source(10)).await.unwrap();
    socket.connect(at).await.unwrap();
    socket.send(alone).await.unwrap();
    let waiting = tokio::spawn(async move { comes_back(&socket, Duration::from_secs(12)).await });
    // Half a handshake over TCP meanwhile.
    let mut half = tcp(source(11), at).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();

    // Many from one address: beyond so many, whoever is there has to show it.
    let (mut answered, mut asked_for_proof, mut all) = (0, 0, 0);
    for packet in others {
        let socket = UdpSocket::bind(source(12)).await.unwrap();
        socket.connect(at).await.unwrap();
        socket.send(packet).await.unwrap();
        let (bytes, _, retry) = comes_back(&socket, Duration::from_millis(150)).await;
        all += bytes;
        if retry {
            assert!(bytes < 300, "a question is short: {bytes}");
            asked_for_proof += 1;
        } else if bytes > 0 {
            answered += 1;
        }
    }
    assert!(answered <= 16 && asked_for_proof >= 20, "{answered} answered, {asked_for_proof} asked");
    let sent: usize = others.iter().map(Vec::len).sum();
    println!("{sent} bytes in {} packets brought {all} bytes", others.len());
    assert!(all < 2 * sent, "a flood is hardly amplified: {all} bytes for {sent}");
    // Whoever is there answers the question, and is let in.
    assert!(quic(&quic_client(source(12)), at).await.is_some());

    let (bytes, count, retry) = within(waiting).await.unwrap();
    println!("{} bytes in one packet brought {bytes} bytes in {count}", alone.len());
    // The library begins no datagram beyond three times what came, and finishes the one it has begun.
    assert!(!retry && bytes > 0 && bytes < 3 * alone.len() + 1452, "{bytes} bytes for {}", alone.len());
    let mut byte = [0];
    assert_eq!(within(half.read(&mut byte)).await.unwrap_or(0), 0, "half a handshake has its end too");
    let counted = counters(at).await;
    assert!(counted["handshakes_slow"] >= 1 && counted["addresses_asked"] >= 20, "{counted:?}");
    node.stop().await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames to the end of the connection; the codes of what ended it.
async fn goes_away(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u32> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let (mut codes, mut rest) = (Vec::new(), &bytes[..]);
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let (kind, payload) = (rest[3], rest.get(9..9 + length).unwrap_or_default());
        if kind == 7 {
            codes.extend(payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap())));
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    codes
}

/// A request in HPACK: GET / of this machine over http.
const HEAD: &[u8] = b"\x82\x84\x86\x41\x09127.0.0.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_takes_it_back_or_never_ends_asking_is_sent_away() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(NodeConfig { plain_http: true, ..config(folder.path()) }).await.unwrap();
    let at = node.address();
    let resets = (0..50_000).flat_map(|n| {
        let stream = 2 * n + 1;
        [frame(1, 0x05, stream, HEAD), frame(3, 0, stream, &8u32.to_be_bytes())].concat()
    });
    // Header fields without end, none of which is the last.
    let field = [&b"\x00\x01x\x7f\x81\x1e"[..], &[b'x'; 285]].concat();
    let endless = (0..20_000).flat_map(|n| match n {
        0 => frame(1, 0x01, 1, HEAD),
        _ => frame(9, 0, 1, &field),
    });
    let attacks: [(&str, Vec<u8>); 2] = [("resets", resets.collect()), ("continuations", endless.collect())];
    for (name, attack) in attacks {
        let (mut reading, mut writing) = TcpStream::connect(at).await.unwrap().into_split();
        let length = attack.len();
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            if writing.write_all(PREFACE).await.is_ok() {
                for part in attack.chunks(4096) {
                    if writing.write_all(part).await.is_err() {
                        break;
                    }
                    sent += part.len();
                }
            }
            (sent, writing)
        });
        let codes = within(goes_away(&mut reading)).await;
        let (sent, _writing) = within(sending).await.unwrap();
        println!("{name}: ended with {codes:?} after {sent} of {length} bytes");
        assert!(codes.contains(&11) || sent < length, "{name}: enhance your calm: {codes:?}");
        assert_eq!(asked(source(20), &[], &format!("http://{at}/healthz")).await.0, 200, "{name}");
    }
    let long = format!("X-Long: {}", "x".repeat(100_000));
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (status, _, _) =
            asked(source(20), &[version, "-H", &long], &format!("http://{at}/healthz")).await;
        assert!(status == 431 || status == 0, "{version}: {status}");
    }
    let many: Vec<String> = (0..200).flat_map(|n| ["-H".to_owned(), format!("X-{n}: 1")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(asked(source(20), &many, &format!("http://{at}/healthz")).await.0, 431);
    assert_eq!(client_is_served(folder.path()).await, Some(5000));
    node.stop().await;
}

/// A node as it usually is serves this machine without limits.
async fn client_is_served(folder: &Path) -> Option<usize> {
    let node = Node::start(config(&folder.join("usual"))).await.unwrap();
    let (reader, bytes, name) = (client(&node), texture(1, 5000), key(AssetKind::Texture, 1));
    share(&reader, &name, &bytes).await;
    let mut length = None;
    for _ in 0..2000 {
        let found = crate::service::read(&reader, &name, None).await?;
        length = Some(found.1.len().min(5000));
    }
    drop(reader);
    node.stop().await;
    length
}
