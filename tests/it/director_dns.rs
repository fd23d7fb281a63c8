//! The name server over real sockets, with `dig` as judge.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rezcache::director::dns::{DnsServer, Zone};
use rezcache::fleet::answers::{Answers, Member};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::service::tools;
use crate::support::within;

const NAME: &str = "cache.example.org.";

fn nodes(addresses: &[&str]) -> Arc<Answers> {
    let member =
        |address: &&str| Member { addresses: vec![address.parse().unwrap()], share: 1000, wanted: true };
    Arc::new(Answers::of(&addresses.iter().map(member).collect::<Vec<_>>()))
}

async fn start(addresses: &[&str]) -> (DnsServer, watch::Sender<Arc<Answers>>) {
    start_at("127.0.0.1:0", addresses).await
}

async fn start_at(listen: &str, addresses: &[&str]) -> (DnsServer, watch::Sender<Arc<Answers>>) {
    let (tell, told) = watch::channel(nodes(addresses));
    let servers = ["ns1.example.org.".to_owned(), "ns2.example.org.".to_owned()];
    let zone = Zone::new(NAME, &servers, 5, 2026).unwrap();
    (DnsServer::start(listen.parse().unwrap(), zone, told).await.unwrap(), tell)
}

/// What `dig` prints; its exit status must be 0: a message that it cannot read is an error to it.
async fn dig(server: SocketAddr, words: &str) -> String {
    let mut command = Command::new("dig");
    command.args([format!("@{}", server.ip()), "-p".into(), server.port().to_string()]);
    command.args(["+time=2", "+tries=1", "+norecurse"]).args(words.split_whitespace());
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("dig (bind9-dnsutils) is installed"));
    let output = within(output).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words}: {text}");
    assert!(!text.contains("Warning") && !text.contains("malformed"), "{words}: {text}");
    text
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_reads_every_answer() {
    let (server, tell) = start(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    let at = server.address();
    for transport in ["+notcp", "+tcp", "+notcp +noedns", "+notcp +bufsize=512", "+notcp +0x20"] {
        let transport = if transport.contains("0x20") { "+notcp" } else { transport };
        let mut four = dig(at, &format!("{transport} +short {NAME} A")).await;
        let mut sorted = lines(&four);
        sorted.sort_unstable();
        assert_eq!(sorted, ["192.0.2.1", "192.0.2.2"], "{transport}");
        four = dig(at, &format!("{transport} +short {NAME} AAAA")).await;
        assert_eq!(lines(&four), ["2001:db8::1"]);
        let servers = dig(at, &format!("{transport} +short {NAME} NS")).await;
        assert_eq!(lines(&servers), ["ns1.example.org.", "ns2.example.org."]);
        let soa = dig(at, &format!("{transport} +short {NAME} SOA")).await;
        assert!(soa.starts_with("ns1.example.org. hostmaster.example.org. 2026 "), "{soa}");
    }
    let rotation: Vec<String> =
        [dig(at, &format!("+short {NAME} A")).await, dig(at, &format!("+short {NAME} A")).await]
            .iter()
            .map(|text| lines(text)[0].to_owned())
            .collect();
    assert_ne!(rotation[0], rotation[1]);

    let full = dig(at, "CaChE.example.ORG. A").await;
    assert!(full.contains("status: NOERROR") && full.contains("flags: qr aa;"), "{full}");
    assert!(full.contains("EDNS: version: 0") && full.contains("udp: 1232"), "{full}");
    assert!(full.contains("CaChE.example.ORG."), "{full}");
    assert!(full.lines().any(|line| line.ends_with("\tA\t192.0.2.1") && line.contains("\t5\tIN")), "{full}");

    let missing = dig(at, "nothing.cache.example.org. A").await;
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("SOA\tns1.example.org."), "{missing}");
    let nodata = dig(at, &format!("{NAME} MX")).await;
    assert!(nodata.contains("status: NOERROR") && nodata.contains("ANSWER: 0, AUTHORITY: 1"), "{nodata}");
    for outside in ["example.org. A", "www.example.com. A", ". NS", "-c CH -t TXT version.bind."] {
        let refused = dig(at, outside).await;
        assert!(
            refused.contains("status: REFUSED") && refused.contains("ANSWER: 0, AUTHORITY: 0"),
            "{refused}"
        );
    }
    let any = dig(at, &format!("{NAME} ANY +notcp")).await;
    assert!(any.contains("ANSWER: 1") && any.contains("HINFO\t\"RFC8482\""), "{any}");
    let newer = dig(at, &format!("{NAME} A +edns=1 +noednsneg")).await;
    assert!(newer.contains("status: BADVERS"), "{newer}");
    let cookie = dig(at, &format!("{NAME} A +cookie +nsid +subnet=203.0.113.0/24")).await;
    assert!(cookie.contains("status: NOERROR"), "{cookie}");
    let update = dig(at, &format!("{NAME} +opcode=UPDATE")).await;
    assert!(update.contains("status: NOTIMP"), "{update}");

    // A node that leaves is out of the next answer.
    tell.send_replace(nodes(&["192.0.2.2"]));
    assert_eq!(lines(&dig(at, &format!("+short {NAME} A")).await), ["192.0.2.2"]);
    assert!(dig(at, &format!("{NAME} AAAA")).await.contains("ANSWER: 0, AUTHORITY: 1"));
}

/// Another library than the one that writes the answers reads them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_library_reads_every_answer() {
    let many: Vec<String> = (1..=60).map(|n| format!("2001:db8::{n:x}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let few = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
    for (addresses, word) in [(&few[..], "FEW"), (&many, "MANY")] {
        let (server, _tell) = start(addresses).await;
        let mut command = Command::new(tools().join("python"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/resolver.py"));
        command.args([&server.address().port().to_string(), word]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = within(output).await.unwrap();
        assert_eq!(output.stdout, b"read\n", "{word}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_fit_or_are_asked_for_over_tcp() {
    let many: Vec<String> = (1..=60).map(|n| format!("2001:db8::{n:x}")).collect();
    let (server, _tell) = start(&many.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let at = server.address();
    // dig goes to TCP by itself, as resolvers do.
    let text = dig(at, &format!("+short +noedns {NAME} AAAA")).await;
    assert_eq!(lines(&text).into_iter().filter(|line| line.parse::<IpAddr>().is_ok()).count(), 40);
    let short = dig(at, &format!("+ignore +noedns {NAME} AAAA")).await;
    assert!(short.contains("flags: qr aa tc;") && short.contains("ANSWER: 0"), "{short}");
    let edns = dig(at, &format!("+ignore {NAME} AAAA")).await;
    assert!(edns.contains("flags: qr aa;") && edns.contains("ANSWER: 40"), "{edns}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_dropped_and_tcp_goes_on() {
    let (server, _tell) = start(&["192.0.2.1"]).await;
    let at = server.address();
    let query =
        [&[0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x05cache\x07example\x03org\0", &[0, 1, 0, 1]]
            .concat();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..5000 {
        socket.send_to(&query, at).unwrap();
    }
    let counts = server.counts();
    within(async {
        // The kernel may lose some; those that came are judged.
        while counts.dropped.load(Ordering::Relaxed) < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let (answered, truncated, dropped) = (
        counts.answered.load(Ordering::Relaxed),
        counts.truncated.load(Ordering::Relaxed),
        counts.dropped.load(Ordering::Relaxed),
    );
    assert!(answered + truncated + dropped <= 5000);
    assert!(
        dropped + 1 >= truncated && truncated >= dropped,
        "every second one slips: {truncated} {dropped}"
    );
    // The short answers are no longer than what was asked: nothing is amplified.
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 600];
    let mut short = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        if buffer[2] & 2 != 0 {
            assert!(length <= query.len());
            short += 1;
        }
    }
    assert!(short > 0);
    assert_eq!(lines(&dig(at, &format!("+tcp +short {NAME} A")).await), ["192.0.2.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_silent_ones_end() {
    let (server, _tell) = start(&["192.0.2.1"]).await;
    let at = server.address();
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(at).await.unwrap());
    }
    let counts = server.counts();
    within(async {
        while counts.refused.load(Ordering::Relaxed) < 24 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // Half a question, slowly, holds a place for a while, and no longer.
    held[0].write_all(&[0]).await.unwrap();
    let mut byte = [0];
    assert_eq!(within(held[0].read(&mut byte)).await.unwrap_or(0), 0);
    held.clear();
    within(async {
        while !dig_works(at).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// A machine with several addresses, bound to "any" of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_comes_from_the_address_that_was_asked() {
    for (listen, asked) in
        [("0.0.0.0:0", &["127.0.0.1", "127.0.0.105"][..]), ("[::]:0", &["::1", "127.0.0.106"])]
    {
        let (server, _tell) = start_at(listen, &["192.0.2.1"]).await;
        for host in asked {
            let at = SocketAddr::new(host.parse().unwrap(), server.address().port());
            for transport in ["+notcp", "+tcp"] {
                let text = dig(at, &format!("{transport} +short {NAME} A")).await;
                assert_eq!(lines(&text), ["192.0.2.1"], "{listen} asked at {host} {transport}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_network_does_not_take_all_connections() {
    let (server, _tell) = start_at("0.0.0.0:0", &["192.0.2.1"]).await;
    let at = SocketAddr::new("127.0.0.1".parse().unwrap(), server.address().port());
    let mut held = Vec::new();
    // Ten each from forty addresses of one /24.
    for host in 1..=40 {
        for _ in 0..10 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("127.0.1.{host}:0").parse().unwrap()).unwrap();
            held.push(within(socket.connect(at)).await.unwrap());
        }
    }
    let counts = server.counts();
    within(async {
        while counts.refused.load(Ordering::Relaxed) < 400 - 64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(dig_works(at).await, "others come through");
}

async fn dig_works(at: SocketAddr) -> bool {
    let mut command = Command::new("dig");
    command.args([format!("@{}", at.ip()), "-p".into(), at.port().to_string()]);
    command.args(["+tcp", "+short", "+time=2", "+tries=1", NAME, "A"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    output.stdout == b"192.0.2.1\n"
}
