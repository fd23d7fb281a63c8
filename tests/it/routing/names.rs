//! The name: addresses that leave it and return, answers that are none, and a real name server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rezcache::client::resolve::Resolver;
use rezcache::client::{CallError, ServiceClient};
use rezcache::director::dns::{DnsServer, Zone};
use rezcache::fleet::answers::{Answers, Member};
use rezcache::grid::GridId;
use tokio::sync::watch;

use super::{ALL, Array, NAME, Names, read, region, share};
use crate::service::{key, texture};
use crate::support::fake_grid::FakeGrid;
use crate::support::process::ProxyProcess;
use crate::support::synthetic::Synthetic;
use crate::support::tls::Authority;
use crate::support::{asset_reply, client::get, within};

/// The regions whose node is this one.
async fn regions_of(
    array: &Array,
    client: &ServiceClient,
    shared: &[(rezcache::asset::AssetKey, Vec<u8>)],
    n: usize,
) -> Vec<usize> {
    let mut found = Vec::new();
    for number in 0..shared.len() {
        let before = array.reads().await;
        read(client, shared, number).await;
        if array.reads().await[n] > before[n] {
            found.push(number);
        }
    }
    found
}

/// So many that each of three nodes has some, whatever their ports.
const REGIONS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_leaves_the_name_is_asked_nothing_and_gets_its_own_back() {
    let array = Array::start().await;
    let names = Names::of(&ALL);
    let client = array.client(&names);
    let mut shared = share(&client, REGIONS).await;
    let own = regions_of(&array, &client, &shared, 1).await;
    assert!(!own.is_empty() && own.len() < REGIONS, "{own:?}");
    // A large one, of a region that is this node's: more than is on its way at once.
    let (large, bytes) = (key(rezcache::asset::AssetKind::Texture, 999), texture(999, 12_000_000));
    let digest = rezcache::asset::Digest::of(&bytes);
    client.attest(&large, region(own[0]), digest, &bytes).await.unwrap();
    client
        .put(&large, region(own[0]), digest, rezcache::wire::frame::Codec::Raw, bytes.clone())
        .await
        .unwrap();
    let mut body = client.read(&large, region(own[0]), None).await.unwrap().unwrap();
    let mut got = body.next().await.unwrap().unwrap().to_vec();

    names.are(&[ALL[0], ALL[2]]);
    names.taken(&client).await;
    assert_eq!(client.nodes(), (2, 2));
    assert!(client.nodes_used().iter().all(|at| at.ip() != ALL[1].parse::<std::net::IpAddr>().unwrap()));
    let before = array.reads().await;
    for number in 0..REGIONS {
        read(&client, &shared, number).await;
    }
    assert_eq!(array.reads().await[1], before[1], "it is asked nothing");
    // What runs there ends there, and then the connection does.
    while let Some(part) = body.next().await.unwrap() {
        got.extend_from_slice(&part);
    }
    assert!(got == bytes);
    drop(body);
    within(async {
        // The connection of the question itself is one.
        while array.report(1, "/connections_open").await > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(client.failovers(), 0, "nothing has failed");

    names.are(&ALL);
    names.taken(&client).await;
    shared.truncate(REGIONS);
    assert_eq!(regions_of(&array, &client, &shared, 1).await, own);
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_name_server_gets_wrong_changes_nothing() {
    let array = Array::start().await;
    let names = Names::of(&ALL);
    let client = array.client(&names);
    let shared = share(&client, 6).await;
    let all_well = async || {
        names.taken(&client).await;
        assert_eq!(client.nodes(), (3, 3));
        for number in 0..6 {
            read(&client, &shared, number).await;
        }
    };
    *names.0.addresses.lock().unwrap() = None;
    all_well().await;
    names.are(&[]);
    all_well().await;
    names.are(&["0.0.0.0", "::", "224.0.0.251", "ff02::fb", "255.255.255.255", "::ffff:0.0.0.0"]);
    all_well().await;
    names.are(&[ALL[0], "0.0.0.0", ALL[1], ALL[2], ALL[2], "::ffff:127.0.0.2"]);
    all_well().await;
    // Thousands: so many are believed and no more, nobody waits for ever, and the next answer puts it right.
    let many: Vec<String> = (0..5000).map(|n| format!("127.9.{}.{}", n / 250, n % 250 + 1)).collect();
    names.are(&many.iter().map(String::as_str).collect::<Vec<_>>());
    names.taken(&client).await;
    assert_eq!(client.nodes().0, rezcache::fetch::routing::MAX_NODES);
    assert!(client.nodes_used().len() <= rezcache::fetch::routing::MAX_NODES);
    let error = within(client.lookup(&GridId::new("probe"), None, Vec::new())).await;
    assert_eq!(error, Err(CallError::Unreachable));
    names.are(&ALL);
    names.taken(&client).await;
    for number in 0..6 {
        read(&client, &shared, number).await;
    }
    assert!(client.nodes_used().len() <= 3);
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_address_was_ever_known_calls_fail_soon_and_then_work() {
    let array = Array::start().await;
    let names = Names::default();
    let client = array.client(&names);
    let ask = async || client.lookup(&GridId::new("probe"), None, Vec::new()).await;
    assert_eq!(within(ask()).await, Err(CallError::Unreachable));
    let asked = names.0.asked.load(Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(within(ask()).await, Err(CallError::Unreachable));
    }
    // Not once for each call.
    assert!(names.0.asked.load(Ordering::SeqCst) < asked + 10);
    names.are(&ALL);
    within(async {
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_family_that_gives_no_connection_makes_way_for_the_other() {
    let array = Array::start().await;
    // As many of each, so that IPv6 comes first; nobody listens there.
    let names = Names::of(&[ALL[0], ALL[1], "::1", "2001:db8::1"]);
    let client = array.client(&names);
    within(async { while client.lookup(&GridId::new("probe"), None, Vec::new()).await.is_err() {} }).await;
    assert!(client.nodes_used().iter().all(std::net::SocketAddr::is_ipv4), "{:?}", client.nodes_used());
    let shared = share(&client, 6).await;
    let failovers = client.failovers();
    names.taken(&client).await;
    for number in 0..6 {
        read(&client, &shared, number).await;
    }
    assert_eq!(client.failovers(), failovers, "that is remembered");
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_systems_names_are_names_too() {
    let folder = tempfile::tempdir().unwrap();
    let node = rezcache::node::Node::start(crate::service::config(folder.path())).await.unwrap();
    // Where that is two addresses, one of them is nobody's.
    let url = format!("https://localhost:{}#pin={}", node.address().port(), node.pin().unwrap());
    let client = ServiceClient::new(url.parse().unwrap(), None).unwrap();
    within(async { while client.lookup(&GridId::new("probe"), None, Vec::new()).await.is_err() {} }).await;
    let shared = share(&client, 2).await;
    read(&client, &shared, 1).await;
    assert_eq!(client.nodes(), (1, 1));
    node.stop().await;
}

fn members(ips: &[&str]) -> Arc<Answers> {
    let member = |ip: &&str| Member { addresses: vec![ip.parse().unwrap()], share: 1000, wanted: true };
    Arc::new(Answers::of(&ips.iter().map(member).collect::<Vec<_>>()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_without_a_way_to_it_is_not_waited_for() {
    let array = Array::start().await;
    // Documentation's addresses: where there is no IPv6 there is no way to them, and elsewhere nobody answers.
    let names = Names::of(&[ALL[0], "2001:db8::1", "2001:db8::2"]);
    let client = array.client(&names);
    within(async { while client.lookup(&GridId::new("probe"), None, Vec::new()).await.is_err() {} }).await;
    assert_eq!(client.nodes(), (1, 1));
    let way = std::net::UdpSocket::bind("[::]:0").and_then(|socket| socket.connect("[2001:db8::1]:9"));
    assert!(way.is_ok() || client.failovers() == 0);
    array.stop().await;
}

/// The program, a director's name server, and certificates of an authority that the system trusts: each node has one
/// for the service's name, and that is what it is asked for, at whatever address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_follows_a_directors_name_server() {
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let certificate = authority.sign(&[NAME], |_| {}).files(files.path());
    let array = Array::start_with(|config| config.certificate = Some(certificate.clone())).await;
    let (tell, told) = watch::channel(members(&ALL));
    let zone = Zone::new(&format!("{NAME}."), &["ns1.example.org.".to_owned()], 1, 1).unwrap();
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap(), zone, told).await.unwrap();
    let grid = FakeGrid::start().await;
    let asset = Synthetic::new(4242, 0, 5000);
    let bytes = Arc::clone(&asset.bytes);
    grid.on("/", move |asked| asset_reply(asked, &bytes));

    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let trust = format!("SSL_CERT_FILE={}", authority.file(files.path()).display());
    let resolver = format!("REZCACHE_RESOLVER={}", dns.address());
    let service = |name: &str| format!("REZCACHE_CACHE_SERVER=https://{name}:{}", array.at.port());
    let proxy = ProxyProcess::start(&["env", &trust, &service(NAME), &resolver], &data_dir, &grid.url("/"));
    within(async {
        while proxy.status().await["service"]["state"] != "working" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let status = proxy.status().await;
    assert_eq!((&status["service"]["nodes"], &status["service"]["quic"]), (&3.into(), &true.into()));
    let answer = get(proxy.at, &format!("{}{}", proxy.assets, asset.query), &[]).await;
    asset.check(&answer);

    tell.send_replace(members(&[ALL[0]]));
    within(async {
        let mut n = 1;
        while proxy.status().await["service"]["nodes"] != 1 {
            // What the service has nothing of; it is asked all the same.
            let other = Synthetic::new(4242, n, 1000);
            get(proxy.at, &format!("{}{}", proxy.assets, other.query), &[]).await;
            n += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    drop(proxy);
    let mut address = array.service(&Names::default());
    address.resolver = Resolver::Server(dns.address());
    let client = ServiceClient::new(address, None).unwrap();
    share(&client, 1).await;
    assert_eq!(client.nodes(), (1, 1));
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_name_is_not_believed() {
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let certificate = authority.sign(&["other.home.arpa", ALL[0]], |_| {}).files(files.path());
    let array = Array::start_with(|config| config.certificate = Some(certificate.clone())).await;
    let (_tell, told) = watch::channel(members(&ALL));
    let zone = Zone::new(&format!("{NAME}."), &["ns1.example.org.".to_owned()], 1, 1).unwrap();
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap(), zone, told).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let trust = format!("SSL_CERT_FILE={}", authority.file(files.path()).display());
    let resolver = format!("REZCACHE_RESOLVER={}", dns.address());
    let service = format!("REZCACHE_CACHE_SERVER=https://{NAME}:{}", array.at.port());
    let wrapper = ["env", &trust, &service, &resolver];
    let proxy = ProxyProcess::start(&wrapper, &folder.path().join("data"), "http://127.0.0.1:9/");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = proxy.status().await;
    assert_eq!(status["service"]["state"], "away", "{}", status["service"]);
    for n in 0..ALL.len() {
        assert_eq!(array.report(n, "/counters/lookups").await, 0, "nothing was asked of a stranger");
    }
    drop(proxy);
    array.stop().await;
}
