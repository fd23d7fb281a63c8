//! Sessions that no capture at hand holds, replayed through the proxy: real ones with their
//! exchanges changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::edited::{Edited, contains, exchange_like, set_header};
use super::http::Exchange;
use super::pass::{self, PassOptions};
use super::report::PassReport;
use super::script::Script;

async fn replay(edited: &Edited) -> PassReport {
    let script = Arc::new(Script::new(&edited.packets()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    replay_pass(&script, 1, folder.path()).await
}

async fn replay_pass(script: &Arc<Script>, pass: u32, folder: &Path) -> PassReport {
    let options = PassOptions {
        pass,
        data_dir: folder.to_owned(),
        direct: false,
        link: None,
        realtime: false,
        save: None,
        service: None,
    };
    let outcome = pass::run(script, &options).await;
    assert!(outcome.errors.is_empty(), "{:#?}", outcome.errors);
    let report = outcome.report;
    assert_eq!((report.missing_assets, report.mismatched_assets, report.datagrams.lost), (0, 0, 0));
    assert!(report.datagrams.forwarded > 0, "the circuit went past the proxy");
    report
}

/// A poll that was answered with events.
fn answered_poll(edited: &Edited) -> usize {
    let is_poll = |exchange: &Exchange| {
        contains(&exchange.request.body, "<key>ack</key>")
            && exchange
                .reply
                .as_ref()
                .is_some_and(|reply| contains(&reply.response.body, "<key>events</key>"))
    };
    edited.exchanges.iter().position(is_poll).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_path_on_a_named_host_with_local_simulators_goes_through_the_proxy() {
    let mut edited = Edited::read("hippo-teleport.pcap");
    let login = edited.login();
    login.request.target = "/login.cgi".into();
    set_header(&mut login.request, "host", "grid.example:9000");
    assert_eq!(replay(&edited).await.requests.total(), 14);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_was_given_up_is_answered_by_way_of_the_next() {
    let edited = Edited::read("hippo-teleport.pcap");
    let index = answered_poll(&edited);
    replay(&with_a_poll_given_up(edited, index)).await;
}

/// OpenSimulator holds a poll twice as long as viewers wait, and then has nothing to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_was_given_up_may_end_with_nothing_to_say() {
    let edited = Edited::read("hippo-idle.pcap");
    let index = edited
        .exchanges
        .iter()
        .position(|exchange| exchange.reply.as_ref().is_some_and(|reply| reply.response.status == 502));
    replay(&with_a_poll_given_up(edited, index.unwrap())).await;
}

/// The viewer asked twice: it gave up in the middle of the hold.
fn with_a_poll_given_up(mut edited: Edited, index: usize) -> Edited {
    let poll = edited.exchanges[index].clone();
    let answered = poll.reply.as_ref().unwrap().first_byte;
    let middle = poll.sent + (answered - poll.sent) / 2;
    let given_up = Exchange { reply: None, abandoned: Some(middle), ..poll };
    edited.exchanges[index].sent = middle + Duration::from_micros(1);
    edited.exchanges.insert(index, given_up);
    edited
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grid_may_be_asked_who_it_is_by_viewer_and_proxy() {
    let mut edited = Edited::read("hippo-ranges.pcap");
    let login = edited.login().clone();
    let info = b"<gridinfo><login>http://other.example:9000/</login><gridname>G</gridname><platform>OpenSim</platform></gridinfo>";
    let ask = ("GET", "/get_grid_info", &b""[..]);
    edited.exchanges.insert(0, exchange_like(&login, Duration::ZERO, ask, Some(("application/xml", info))));
    let call =
        b"<?xml version=\"1.0\"?><methodCall><methodName>get_grid_info</methodName><params/></methodCall>";
    let said = b"<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>gridname</name><value><string>G</string></value></member><member><name>login</name><value><string>http://other.example:9000/</string></value></member></struct></value></param></params></methodResponse>";
    let ask = ("POST", "/", &call[..]);
    let mut by_call = exchange_like(&login, Duration::from_micros(1), ask, Some(("text/xml", said)));
    by_call.request.headers.0.push(("Content-Type".into(), b"text/xml".to_vec()));
    edited.exchanges.insert(1, by_call);
    replay(&edited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_must_not_keep_is_neither_counted_nor_missed_the_second_time() {
    let mut edited = Edited::read("hippo-http.pcap");
    let textures: Vec<usize> = (0..edited.exchanges.len())
        .filter(|index| {
            let exchange = &edited.exchanges[*index];
            exchange.request.target.contains("texture_id=")
                && exchange.reply.as_ref().is_some_and(|reply| reply.response.status == 200)
        })
        .collect();
    let (baked, other) = (textures[0], textures[textures.len() - 1]);
    let target = edited.exchanges[baked].request.target.clone();
    for exchange in edited.exchanges.iter_mut().filter(|exchange| exchange.request.target == target) {
        let response = &mut exchange.reply.as_mut().unwrap().response;
        response.body = crate::asset::policy::tests::as_client_bake(&response.body).into();
    }
    let model = edited.exchanges[other].clone();
    let mut as_png = model.clone();
    as_png.request.headers.0.retain(|(name, _)| !name.eq_ignore_ascii_case("accept"));
    as_png.request.headers.0.push(("Accept".into(), b"image/png".to_vec()));
    as_png.reply.as_mut().unwrap().response.body = Bytes::from_static(b"another form");
    let mut unhyphenated = model.clone();
    let (path, id) = model.request.target.split_once("texture_id=").unwrap();
    unhyphenated.request.target = format!("{path}texture_id={}", id.replace('-', ""));
    edited.exchanges.extend([as_png, unhyphenated]);
    let script = Arc::new(Script::new(&edited.packets()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for pass in 1..=2 {
        assert_eq!(replay_pass(&script, pass, folder.path()).await.requests.total(), 24, "pass {pass}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecided_login_goes_on_through_the_proxy() {
    let mut edited = Edited::read("hippo-ranges.pcap");
    let login = edited.login();
    let first = login.clone();
    login.request.target = "/login/2".into();
    login.sent += Duration::from_millis(3);
    let authority = first.request.headers.get("host").unwrap().to_owned();
    let undecided = format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>login</name><value><string>indeterminate</string></value></member><member><name>next_url</name><value><string>http://{authority}/login/2</string></value></member><member><name>next_method</name><value><string>login_to_simulator</string></value></member></struct></value></param></params></methodResponse>"
    );
    let target = first.request.target.clone();
    let call = ("POST", target.as_str(), &first.request.body[..]);
    let mut before = exchange_like(&first, first.sent, call, Some(("text/xml", undecided.as_bytes())));
    before.request.headers = first.request.headers.clone();
    edited.exchanges.insert(0, before);
    replay(&edited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_go_on_while_a_poll_is_held() {
    let mut edited = Edited::read("hippo-idle.pcap");
    let held = edited.exchanges.iter().find(|exchange| {
        exchange
            .reply
            .as_ref()
            .is_some_and(|reply| reply.first_byte - exchange.sent > Duration::from_secs(50))
    });
    let from = held.unwrap().sent;
    // The name of the message does not matter here, only that it is sent for 40 s.
    let model = edited.datagrams.iter().rev().find(|packet| {
        crate::lludp::Packet::decode(&packet.payload)
            .is_ok_and(|packet| packet.number == crate::lludp::MessageNumber::COMPLETE_PING_CHECK)
    });
    let model = model.unwrap().clone();
    for step in 0..890_u32 {
        let mut payload = model.payload.to_vec();
        crate::lludp::set_sequence(&mut payload, crate::lludp::SequenceNumber(100_000 + step));
        let time = from + Duration::from_millis(45 * u64::from(step) + 5);
        edited.datagrams.push(super::pcap::Packet { time, payload: Bytes::from(payload), ..model.clone() });
    }
    // That it does not take as long is shown where the pauses are made: in `pass.rs`.
    let report = replay(&edited).await;
    assert!(report.datagrams.forwarded > 890);
}
