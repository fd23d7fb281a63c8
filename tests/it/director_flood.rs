//! A director under a flood of DNS: what it drops, what the forged senders get of it, and that health checks and other
//! askers do not notice.
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rezcache::catalog::Place;
use rezcache::director::{AlertConfig, Director, DirectorConfig};
use rezcache::fleet::array::{ArrayRules, NodeSpec};
use rezcache::fleet::health::{Dot, HealthRules};
use rezcache::fleet::notices::NoticeRules;
use rezcache::fleet::report::Capacity;
use rezcache::node::{Node, NodeConfig};

use crate::service::config;
use crate::support::within;

const NAMES: [&str; 2] = ["otter", "lynx"];
const QUESTION: &[u8] = b"\x12\x34\0\0\0\x01\0\0\0\0\0\x01\x05cache\x07example\x03org\0\0\x01\0\x01\
    \0\0\x29\x10\0\0\0\0\0\0\0";

/// What each source sends in one go, and how often.
const BATCH: usize = 100;
const EVERY: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Sent {
    stop: AtomicBool,
    questions: AtomicU64,
    /// Bytes that came back to the senders.
    answers: AtomicU64,
}

/// Questions from one address: the same one, questions for other types and names, and noise.
fn flood(network: u8, to: SocketAddr, sent: &Sent) {
    let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::new(127, 0, network, 1)), 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    let mut number = 0_u64;
    while !sent.stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        for _ in 0..BATCH {
            number += 1;
            let mut question = QUESTION.to_vec();
            let [.., low] = number.to_be_bytes();
            question[1] = low;
            match number % 8 {
                // Another type of record, mostly none that there is.
                0 => question[32] = low >> 3,
                1 => question.truncate(20),
                2 => question[13] = b'x',
                _ => {}
            }
            if socket.send_to(&question, to).is_ok() {
                sent.questions.fetch_add(1, Ordering::Relaxed);
            }
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            sent.answers.fetch_add(length as u64, Ordering::Relaxed);
        }
        std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
}

async fn dig(at: SocketAddr, options: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new("dig");
    command.args([format!("@{}", at.ip()), "-p".into(), at.port().to_string()]);
    // An asker with an address of its own, who asks as often as resolvers do.
    command.args(["-b", "127.0.200.1", "+short", "+time=2", "+tries=3"]).args(options);
    command.args(["cache.example.org.", "A"]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("dig is installed"));
    let output = within(output).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_dns_disturbs_neither_health_checks_nor_other_askers() {
    let folder = tempfile::tempdir().unwrap();
    let (mut nodes, mut specs, mut pins) = (Vec::new(), Vec::new(), Vec::new());
    for (host, name) in (2..).zip(NAMES) {
        let listen = SocketAddr::from(([127, 0, 0, host], 0));
        let node = Node::start(NodeConfig { listen, ..config(folder.path()) }).await.unwrap();
        let url = format!("https://{}", node.address());
        specs.push(NodeSpec { name: name.into(), url, addresses: Vec::new(), handle: String::new() });
        pins.push(node.pin().unwrap().to_owned());
        nodes.push(node);
    }
    let config = DirectorConfig {
        name: "first".into(),
        zone: "cache.example.org.".into(),
        name_servers: vec!["ns1.example.org.".into()],
        ttl: Duration::from_secs(5),
        dns_listen: "127.0.0.1:0".parse().unwrap(),
        status_listen: None,
        monitoring_public: false,
        nodes: specs,
        rules: ArrayRules {
            health: HealthRules { slow_start: Duration::ZERO, ..HealthRules::every(Duration::from_secs(1)) },
            scaling: None,
            capacity: Capacity::default(),
            notices: NoticeRules::default(),
        },
        catalog: Place::Sqlite(folder.path().join("store/catalog.sqlite")),
        server_name: None,
        pins,
        ca_file: None,
        token: None,
        memory: None,
        alerts: AlertConfig::default(),
    };
    let director = Director::start(config, None).await.unwrap();
    let (at, counts) = (director.dns_address(), director.dns_counts());
    let both: BTreeSet<_> = ["127.0.0.2".to_owned(), "127.0.0.3".to_owned()].into();
    let mut picture = director.picture();
    let well = |picture: &rezcache::director::Picture| {
        picture.nodes.len() == 2 && picture.nodes.iter().all(|node| node.dot == Dot::Green)
    };
    within(picture.wait_for(well)).await.unwrap();

    let sent = Arc::new(Sent::default());
    let floods: Vec<_> = (101..=104)
        .map(|network| {
            let sent = Arc::clone(&sent);
            std::thread::spawn(move || flood(network, at, &sent))
        })
        .collect();
    // Every picture is looked at: a node that was lost for a moment would be seen.
    let watched = tokio::spawn(async move {
        let mut lost = Vec::new();
        while picture.changed().await.is_ok() {
            let now = picture.borrow_and_update();
            lost.extend(now.nodes.iter().filter(|node| node.dot == Dot::Red).map(|node| node.name.clone()));
            if !now.troubles.is_empty() || now.failing_open {
                lost.extend(now.troubles.iter().cloned());
            }
        }
        lost
    });
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(8) {
        for options in [&["+notcp"][..], &["+tcp"], &["+notcp", "+noedns"]] {
            assert_eq!(dig(at, options).await, both, "{options:?}");
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed();
    sent.stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    let counted = counts.all();
    let (questions, back) = (sent.questions.load(Ordering::Relaxed), sent.answers.load(Ordering::Relaxed));
    println!(
        "{questions} questions in {took:?} from 4 networks, {asked} other answers read, {back} bytes back: {counted:?}"
    );
    let [(_, answered), (_, truncated), (_, dropped), (_, ignored), _] = counted;
    assert!(questions > 20_000, "{questions} questions are no flood");
    // 200 at once and 50 a second for each of the four, and those of dig.
    let allowed = 4 * (200 + 50 * (took.as_secs() + 2)) + 3 * asked;
    assert!(answered + ignored <= allowed, "{answered} answered, {allowed} allowed");
    assert!(dropped > questions / 10 && truncated.abs_diff(dropped) <= 8, "{counted:?}");
    assert!(
        back < questions * QUESTION.len() as u64,
        "whoever was named as the sender gets less than was sent"
    );
    drop(director);
    assert_eq!(within(watched).await.unwrap(), Vec::<String>::new(), "no node was lost");
    for node in nodes {
        node.stop().await;
    }
}
