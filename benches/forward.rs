//! LLUDP forwarding: 1,000-byte datagrams through a session of the real proxy, beside a bare relay
//! of two tokio sockets in the same run.
//!
//! A tiny stand-in answers the login; `UseCircuitCode` opens the circuit; then a simulator streams to
//! a viewer with a bounded number of datagrams in flight, so that nothing is lost and the relay's own
//! pace is what counts. Latency is one datagram at a time, there and back, against the two sockets
//! without anything between. A further circuit through the proxy has had 10,000 packets injected
//! before, so that its numbers have to be translated through tables of that length.
//!
//! Then what injections themselves cost: `forward/injection.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "forward/injection.rs"]
mod injection;
#[path = "forward/stand_in.rs"]
mod stand_in;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rezcache::proxy::{DialMap, GridConfig, Proxy, ProxyConfig};

use injection::{Seat, Simulator, Texture};
use stand_in::{Ids, LoginServer};

const DATAGRAM: usize = 1000;
const IN_FLIGHT: u64 = 64;
const ROUNDS: usize = 15;
const STREAM_FOR: Duration = Duration::from_millis(600);
const PROBES: usize = 1500;
const PATIENCE: Duration = Duration::from_secs(5);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const IN_THE_TABLES: usize = 10_000;

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

fn use_circuit_code(ids: &Ids) -> Vec<u8> {
    let mut datagram = vec![0x40, 0, 0, 0, 1, 0, 0xFF, 0xFF, 0, 3];
    datagram.extend_from_slice(&ids.code.to_le_bytes());
    for id in [ids.session, ids.agent] {
        datagram.extend_from_slice(id.as_bytes());
    }
    datagram
}

/// Lets the simulator learn where the viewer's datagrams come from.
fn meet(path: &mut Path, ids: &Ids) {
    path.viewer.send_to(&use_circuit_code(ids), path.to_simulator).unwrap();
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

fn path(name: &'static str, simulator: UdpSocket, to_simulator: SocketAddr, ids: &Ids) -> Path {
    let mut path = Path { name, viewer: socket(), to_simulator, simulator, to_viewer: ANY, sequence: 2 };
    meet(&mut path, ids);
    path
}

/// A path through the proxy that has had packets injected.
fn busy_path(login: &LoginServer, proxy: SocketAddr, texture: &Texture) -> Path {
    let simulator = socket();
    let serving = Simulator::start(simulator.try_clone().unwrap(), texture);
    let mut seat = Seat::open(login, proxy, &serving);
    seat.teach(texture, &serving);
    seat.be_injected(texture, IN_THE_TABLES, 1);
    serving.stop();
    seat.drain();
    // Where the simulator sends: learned again from any datagram of the viewer's.
    let marker = layer_data(100_000);
    seat.viewer.send_to(&marker, seat.to).unwrap();
    let mut buffer = [0; 2048];
    let to_viewer = loop {
        let (length, from) = simulator.recv_from(&mut buffer).unwrap();
        if length == marker.len() {
            break from;
        }
    };
    Path {
        name: "injected",
        viewer: seat.viewer,
        to_simulator: seat.to,
        simulator,
        to_viewer,
        sequence: 100_000,
    }
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

    let login = LoginServer::start();
    let proxy = runtime
        .block_on(Proxy::start(ProxyConfig {
            grids: vec![GridConfig {
                name: "bench".into(),
                uri: format!("http://{}/", login.at).parse().unwrap(),
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
            control_token: None,
            chat_commands: false,
            service: None,
            lan: None,
            uploads: None,
            page: rezcache::proxy::PageConfig::default(),
            dial: DialMap::default(),
        }))
        .expect("the proxy starts");
    let at = proxy.grid_addresses()[0];
    let texture = Texture::new();
    let simulator = socket();
    let (through_proxy, ids) = login.log_in(at, simulator.local_addr().unwrap());

    let bare_simulator = socket();
    let through_relay = runtime.block_on(bare_relay(bare_simulator.local_addr().unwrap()));
    let direct_simulator = socket();
    let direct_address = direct_simulator.local_addr().unwrap();
    let mut paths = [
        path("direct", direct_simulator, direct_address, &ids),
        path("relay", bare_simulator, through_relay, &ids),
        path("proxy", simulator, through_proxy, &ids),
        busy_path(&login, at, &texture),
    ];

    let (mut rates, mut times) = ([const { Vec::new() }; 4], [const { Vec::new() }; 4]);
    for round in 0..ROUNDS {
        // Begun elsewhere each time: what ran just before has its effects.
        for turn in 0..paths.len() {
            let index = (round + turn) % paths.len();
            times[index].push(latency(&mut paths[index]));
            rates[index].push(stream(&mut paths[index]));
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
    for index in [2, 3] {
        println!(
            "{} against relay: {:.2} of its datagrams/s (goal 0.9), added p50 {:.1} us against {:.1} us = {:.2} (goal 1.2)",
            paths[index].name,
            rates[index] / rates[1],
            added(index),
            added(1),
            added(index) / added(1)
        );
    }
    println!(
        "with {IN_THE_TABLES} injections in the tables: {:.2} of the datagrams/s without",
        rates[3] / rates[2]
    );

    let simulator = Simulator::start(socket(), &texture);
    let mut seat = Seat::open(&login, at, &simulator);
    seat.teach(&texture, &simulator);
    injection::time_of_a_download(&mut seat, &texture);
    simulator.stop();
    injection::memory_of_circuits(&login, at, &texture);
    runtime.block_on(proxy.stop());
}
