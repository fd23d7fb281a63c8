//! How a server that was joined is found again, and what those achieve who only say that they are it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use rezcache::client::joined;
use rezcache::fetch::lan_plan::PROBES_PER_MINUTE;
use rezcache::node::Node;
use rezcache::support::mdns::{Announced, Announcer, Browser, Heard};
use rezcache::support::metrics::Counter;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::{Home, count, fetch, proxy, standing, until};
use crate::service::config as node_config;
use crate::support::client::get;
use crate::support::{mesh, texture, within};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_moved_is_found_again_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut home = Home::start(folder.path()).await;
    home.announce();
    let line = home.line();
    let one = proxy(&[(&line, Some(true))], |_| {}).await;
    let two = proxy(&[(&line, None)], |_| {}).await;
    standing(&one, "working").await;
    fetch(&one, &texture()).await;
    until(|| count(&one, Counter::UploadsSent) == 1).await;
    home.node.stop().await;
    standing(&two, "working").await;
    // Whoever asks in between has the grid's answer; that is how it is noticed.
    until_away(&two).await;

    let mut moved = Home::start(folder.path()).await;
    assert_ne!(moved.node.address(), line.address);
    assert_eq!(moved.line().pin, line.pin);
    moved.announce();
    until(|| count(&two, Counter::LanMoves) == 1).await;
    standing(&two, "working").await;
    assert!(fetch(&two, &texture()).await.starts_with("hit; tier=service"));
    // The next start looks there first.
    let there = moved.node.address();
    until(|| joined::load(two.dir.path()).unwrap()[0].line.address == there).await;
    for setup in [one, two] {
        within(setup.proxy.stop()).await;
    }
    moved.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_homes_the_one_that_is_there_is_used_and_the_other_when_that_is_forgotten() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [away, school, club] = [
        Home::start(folders[0].path()).await,
        Home::start(folders[1].path()).await,
        Home::start(folders[2].path()).await,
    ];
    let (away_line, school_line) = (away.line(), school.line());
    away.node.stop().await;
    let setup = proxy(&[(&away_line, Some(true)), (&school_line, Some(true))], |_| {}).await;
    standing(&setup, "working").await;
    assert_eq!(fetch(&setup, &texture()).await, "miss");
    until(|| count(&setup, Counter::UploadsSent) == 1).await;
    // Another process joins one, and forgets the one in use.
    joined::add(setup.dir.path(), club.line(), Some(true)).unwrap();
    joined::forget(setup.dir.path(), school_line.pin.short()).unwrap();
    let control = setup.proxy.control_address().unwrap();
    let (club_pin, school_pin) = (club.line().pin, school_line.pin.clone());
    within(async {
        loop {
            let page = get(control, "/", &[]).await.text();
            if page.contains(&format!("({})</th><td>in use", club_pin.short())) {
                assert!(!page.contains(school_pin.short()));
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    standing(&setup, "working").await;
    assert_eq!(fetch(&setup, &mesh()).await, "miss");
    until(|| count(&setup, Counter::UploadsSent) == 2).await;
    within(setup.proxy.stop()).await;
    school.node.stop().await;
    club.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_only_given_is_used_and_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let line = home.line();
    let setup = proxy(&[], |config| {
        config.lan.as_mut().unwrap().line = Some(line.clone());
        config.lan.as_mut().unwrap().upload = Some(true);
    })
    .await;
    standing(&setup, "working").await;
    assert_eq!(fetch(&setup, &texture()).await, "miss");
    until(|| count(&setup, Counter::UploadsSent) == 1).await;
    assert_eq!(joined::load(setup.dir.path()).unwrap(), []);
    within(setup.proxy.stop()).await;
    home.node.stop().await;
}

/// Asks for things that nobody has until the server is not asked any more.
async fn until_away(setup: &crate::support::Setup) {
    let cap = setup.asset_capability().await;
    let metrics = setup.proxy.metrics();
    within(async {
        for number in 0u32.. {
            if metrics.service().is_none_or(|service| service.state == "away") {
                return;
            }
            let path = format!("{cap}/?texture_id=00000000-0000-4000-8000-{number:012x}");
            let _ = get(setup.at, &path, &[]).await;
        }
    })
    .await;
}

/// Takes whatever comes, and says nothing.
async fn listener() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(number @ 1..) = stream.read(&mut bytes).await {
                    noted.lock().unwrap().extend_from_slice(&bytes[..number]);
                }
            });
        }
    });
    (at, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_only_announces_the_key_gets_a_greeting_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let line = home.line();
    let address = home.node.address();
    home.node.stop().await;
    // One that has another key, and one that writes down what it hears.
    let other = tempfile::tempdir().unwrap();
    let rogue = Node::start(node_config(other.path())).await.unwrap();
    let (silent, heard) = listener().await;
    let announce = |port: u16| {
        let pin = line.pin.clone();
        Announcer::start(&Announced { pin, port, addresses: vec![LOOPBACK] }).unwrap()
    };
    let setup = proxy(&[(&line, Some(true))], |_| {}).await;
    let first = announce(rogue.address().port());
    until(|| count(&setup, Counter::LanSightings) >= 1).await;
    until(|| count(&setup, Counter::LanProbesFailed) >= 2).await;
    first.end().await;
    let second = announce(silent.port());
    until(|| !heard.lock().unwrap().is_empty()).await;
    assert_eq!(setup.proxy.metrics().service(), None, "neither is put into use");
    assert_eq!(fetch(&setup, &texture()).await, "miss");
    let token = line.token.reveal();
    let heard = String::from_utf8_lossy(&heard.lock().unwrap().clone()).into_owned();
    assert!(token.split('.').all(|part| !heard.contains(part)));
    assert!(count(&setup, Counter::LanProbes) <= PROBES_PER_MINUTE as u64 + 1);

    // The true one is found where it was.
    let home = Home::with(folder.path(), |config| config.listen = address).await;
    standing(&setup, "working").await;
    second.end().await;
    within(setup.proxy.stop()).await;
    rogue.stop().await;
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_not_joined_is_shown_and_not_knocked_at() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::start(folder.path()).await;
    let line = home.line();
    let (silent, heard) = listener().await;
    let pin = format!("sha256:{}", "5a".repeat(32)).parse().unwrap();
    let stranger =
        Announcer::start(&Announced { pin, port: silent.port(), addresses: vec![LOOPBACK] }).unwrap();
    let setup = proxy(&[(&line, None)], |_| {}).await;
    let metrics = setup.proxy.metrics();
    until(|| metrics.lan().is_some_and(|lan| lan.unknown >= 1)).await;
    let control = setup.proxy.control_address().unwrap();
    let page = get(control, "/", &[]).await.text();
    assert!(page.contains("5a5a5a5a") && page.contains(&silent.to_string()), "{page}");
    let status = get(control, "/status.json", &[]).await.text();
    assert!(!status.contains(&silent.to_string()), "a status names no addresses");
    standing(&setup, "working").await;
    assert!(heard.lock().unwrap().is_empty());
    stranger.end().await;
    within(setup.proxy.stop()).await;
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_is_heard_with_its_key_and_port_and_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut home = Home::start(folder.path()).await;
    let line = home.line();
    let mut browser = Browser::start(true).unwrap();
    home.announce();
    // Again when it is asked again: whoever gave the place up has another try.
    for _ in 0..2 {
        let sighting = within(async {
            loop {
                match browser.next().await {
                    Heard::Sighting(sighting) if sighting.pin == line.pin => return sighting,
                    Heard::Sighting(_) => {}
                    Heard::End => panic!("flooded"),
                }
            }
        })
        .await;
        assert_eq!((sighting.port, sighting.addresses), (home.node.address().port(), vec![LOOPBACK]));
        browser.again().unwrap();
    }
    home.node.stop().await;
}
