//! LLUDP forwarding: 1,000-byte datagrams through a session of the real proxy, beside a bare relay
//! of two tokio sockets in the same run.
//!
//! A tiny stand-in answers the login; `UseCircuitCode` opens the circuit; then a simulator streams to
//! a viewer with a bounded number of datagrams in flight, so that nothing is lost and the relay's own
//! pace is what counts. Latency is one datagram at a time, there and back, against the two sockets
//! without anything between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rezcache::proxy::{DialMap, GridConfig, Proxy, ProxyConfig};

const DATAGRAM: usize = 1000;
const IN_FLIGHT: u64 = 64;
const ROUNDS: usize = 15;
const STREAM_FOR: Duration = Duration::from_millis(600);
const PROBES: usize = 1500;
const PATIENCE: Duration = Duration::from_secs(5);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const CIRCUIT_CODE: u32 = 1_234_567_890;
const AGENT: &str = "11111111-2222-3333-4444-555555555555";
const SESSION: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

/// A viewer and a simulator with something, or nothing, between them.
struct Path {
    name: &'static str,
    viewer: UdpSocket,
    /// Where the viewer sends.
    to_simulator: SocketAddr,
    simulator: UdpSocket,
    /// Where the simulator sends.
    to_viewer: SocketAddr,
    sequence: u32,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(ANY).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// An unreliable LayerData, whose body nobody on the way has to read.
fn layer_data(sequence: u32) -> [u8; DATAGRAM] {
    let mut datagram = [0x55; DATAGRAM];
    datagram[0] = 0;
    datagram[1..5].copy_from_slice(&sequence.to_be_bytes());
    datagram[5] = 0;
    datagram[6] = 0x0B;
    datagram
}

fn use_circuit_code() -> Vec<u8> {
    let mut datagram = vec![0x40, 0, 0, 0, 1, 0, 0xFF, 0xFF, 0, 3];
    datagram.extend_from_slice(&CIRCUIT_CODE.to_le_bytes());
    for id in [SESSION, AGENT] {
        datagram.extend_from_slice(uuid::Uuid::parse_str(id).unwrap().as_bytes());
    }
    datagram
}

/// Lets the simulator learn where the viewer's datagrams come from.
fn meet(path: &mut Path) {
    path.viewer.send_to(&use_circuit_code(), path.to_simulator).unwrap();
    let mut buffer = [0; 2048];
    let (_, from) = path
        .simulator
        .recv_from(&mut buffer)
        .unwrap_or_else(|error| panic!("{}: UseCircuitCode did not arrive: {error}", path.name));
    path.to_viewer = from;
}

/// Streams simulator to viewer; datagrams a second that arrived.
fn stream(path: &mut Path) -> f64 {
    let arrived = Arc::new(AtomicU64::new(0));
    let (sequence, mut sent, start) = (path.sequence, 0u64, Instant::now());
    std::thread::scope(|scope| {
        let (viewer, seen) = (&path.viewer, Arc::clone(&arrived));
        let receiver = scope.spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok(length) = viewer.recv(&mut buffer) {
                if length < DATAGRAM {
                    break;
                }
                seen.fetch_add(1, Ordering::Release);
            }
            Instant::now()
        });
        while start.elapsed() < STREAM_FOR {
            let waiting = Instant::now();
            while sent - arrived.load(Ordering::Acquire) >= IN_FLIGHT {
                assert!(waiting.elapsed() < PATIENCE, "{}: datagrams were lost", path.name);
                std::thread::yield_now();
            }
            let datagram = layer_data(sequence + u32::try_from(sent).unwrap());
            path.simulator.send_to(&datagram, path.to_viewer).unwrap();
            sent += 1;
        }
        // A short one ends the receiver.
        path.simulator
            .send_to(&layer_data(sequence + u32::try_from(sent).unwrap())[..20], path.to_viewer)
            .unwrap();
        let end = receiver.join().unwrap();
        assert_eq!(arrived.load(Ordering::Acquire), sent, "{}: lost datagrams", path.name);
        path.sequence += u32::try_from(sent).unwrap() + 1;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = sent as f64 / (end - start).as_secs_f64();
        rate
    })
}

/// One datagram at a time, simulator to viewer and back: half the round trip, median.
fn latency(path: &mut Path) -> Duration {
    let mut times = Vec::with_capacity(PROBES);
    let mut buffer = [0; 2048];
    for _ in 0..PROBES {
        let datagram = layer_data(path.sequence);
        path.sequence += 1;
        let start = Instant::now();
        path.simulator.send_to(&datagram, path.to_viewer).unwrap();
        path.viewer.recv(&mut buffer).unwrap();
        path.viewer.send_to(&datagram, path.to_simulator).unwrap();
        path.simulator.recv(&mut buffer).unwrap();
        times.push(start.elapsed() / 2);
    }
    times.sort_unstable();
    times[PROBES / 2]
}

/// Answers every login with the simulator's address, and everything else with 404.
fn login_server(simulator: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer_login(stream.unwrap(), address, simulator);
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("content-length:")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return request;
            }
        }
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
            _ => return request,
        }
    }
}

fn answer_login(mut stream: TcpStream, own: SocketAddr, simulator: SocketAddr) {
    let request = read_request(&mut stream);
    let member = |name: &str, value: &str| {
        format!("<member><name>{name}</name><value><string>{value}</string></value></member>")
    };
    let number = |name: &str, value: u32| {
        format!("<member><name>{name}</name><value><i4>{value}</i4></value></member>")
    };
    let (status, body) = if request.starts_with(b"POST / ") {
        let members = [
            member("login", "true"),
            member("agent_id", AGENT),
            member("session_id", SESSION),
            member("secure_session_id", SESSION),
            number("circuit_code", CIRCUIT_CODE),
            number("region_x", 256_000),
            number("region_y", 256_000),
            member("sim_ip", &simulator.ip().to_string()),
            number("sim_port", simulator.port().into()),
            member("seed_capability", &format!("http://{own}/CAPS/0000/")),
        ]
        .concat();
        (
            "200 OK",
            format!(
                "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>{members}</struct></value></param></params></methodResponse>"
            ),
        )
    } else {
        ("404 Not Found", String::new())
    };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Logs in through the proxy; where the viewer shall send its datagrams.
fn log_in(proxy: SocketAddr) -> SocketAddr {
    let body = "<?xml version=\"1.0\"?><methodCall><methodName>login_to_simulator</methodName><params><param><value><struct><member><name>first</name><value><string>Lab</string></value></member></struct></value></param></params></methodCall>";
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {proxy}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let value = |name: &str| {
        let (_, rest) = reply
            .split_once(&format!("<name>{name}</name>"))
            .unwrap_or_else(|| panic!("no {name} in the login reply: {reply}"));
        let inner = rest
            .split_once("<value><")
            .and_then(|(_, rest)| rest.split_once('>'))
            .and_then(|(_, rest)| rest.split_once('<'));
        inner.unwrap().0.to_owned()
    };
    format!("{}:{}", value("sim_ip"), value("sim_port")).parse().unwrap()
}

/// The bare relay: one socket toward each side, datagrams copied as they are.
async fn bare_relay(simulator: SocketAddr) -> SocketAddr {
    let near = Arc::new(tokio::net::UdpSocket::bind(ANY).await.unwrap());
    let far = Arc::new(tokio::net::UdpSocket::bind(ANY).await.unwrap());
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let (length, viewer) = near.recv_from(&mut buffer).await.unwrap();
        far.send_to(&buffer[..length], simulator).await.unwrap();
        let (from, to) = (Arc::clone(&far), Arc::clone(&near));
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, _)) = from.recv_from(&mut buffer).await {
                let _ = to.send_to(&buffer[..length], viewer).await;
            }
        });
        while let Ok((length, _)) = near.recv_from(&mut buffer).await {
            let _ = far.send_to(&buffer[..length], simulator).await;
        }
    });
    address
}

fn path(name: &'static str, simulator: UdpSocket, to_simulator: SocketAddr) -> Path {
    let mut path = Path { name, viewer: socket(), to_simulator, simulator, to_viewer: ANY, sequence: 2 };
    meet(&mut path);
    path
}

fn median<T: Copy + PartialOrd>(values: &mut [T]) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let data_dir = tempfile::tempdir().unwrap();

    let simulator = socket();
    let login = login_server(simulator.local_addr().unwrap());
    let proxy = runtime
        .block_on(Proxy::start(ProxyConfig {
            grids: vec![GridConfig {
                name: "bench".into(),
                uri: format!("http://{login}/").parse().unwrap(),
                listen: ANY,
                allow: Vec::new(),
                ca_file: None,
                asset_host: None,
                central: false,
                id: None,
            }],
            control: None,
            data_dir: data_dir.path().to_owned(),
            cache_bytes: 64 << 20,
            memory_bytes: 16 << 20,
            disk_patience: rezcache::proxy::DISK_PATIENCE,
            asset_token: "bench".into(),
            dial: DialMap::default(),
        }))
        .expect("the proxy starts");
    let through_proxy = log_in(proxy.grid_addresses()[0]);

    let bare_simulator = socket();
    let through_relay = runtime.block_on(bare_relay(bare_simulator.local_addr().unwrap()));
    let direct_simulator = socket();
    let direct_address = direct_simulator.local_addr().unwrap();
    let mut paths = [
        path("direct", direct_simulator, direct_address),
        path("relay", bare_simulator, through_relay),
        path("proxy", simulator, through_proxy),
    ];

    let (mut rates, mut times) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for _ in 0..ROUNDS {
        for (index, path) in paths.iter_mut().enumerate() {
            times[index].push(latency(path));
            rates[index].push(stream(path));
        }
    }
    let rates = rates.map(|mut values| median(&mut values));
    let times = times.map(|mut values| median(&mut values));
    println!("{DATAGRAM}-byte datagrams, medians of {ROUNDS} rounds");
    for (index, path) in paths.iter().enumerate() {
        println!(
            "{:8} {:>10.0} datagrams/s   one way p50 {:>7.1} us",
            path.name,
            rates[index],
            times[index].as_secs_f64() * 1e6
        );
    }
    let added = |index: usize| times[index].saturating_sub(times[0]).as_secs_f64() * 1e6;
    println!(
        "proxy against relay: {:.2} of its datagrams/s (goal 0.9), added p50 {:.1} us against {:.1} us = {:.2} (goal 1.2)",
        rates[2] / rates[1],
        added(2),
        added(1),
        added(2) / added(1)
    );
    runtime.block_on(proxy.stop());
}
