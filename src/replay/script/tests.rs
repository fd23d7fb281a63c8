//! The captures as scripts, against what their clients reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::super::pcap;
use super::{Action, Role, Script};

fn sessions_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions")
}

fn script(name: &str) -> Script {
    let path = sessions_dir().join(name).with_extension("pcap");
    Script::new(&pcap::read(&path).unwrap()).unwrap()
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(sessions_dir())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".pcap").map(str::to_owned))
        .collect();
    names.sort();
    assert_eq!(names.len(), 13);
    names
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_asset_a_client_reported_is_rebuilt_byte_for_byte() {
    for name in names() {
        let script = script(&name);
        let report = std::fs::read(sessions_dir().join(&name).with_extension("report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        for asset in report["assets"].as_array().unwrap().iter().filter(|asset| asset["ok"] == true) {
            let id: Uuid = asset["uuid"].as_str().unwrap().parse().unwrap();
            let rebuilt: Vec<_> = script.assets.iter().filter(|((_, uuid), _)| *uuid == id).collect();
            assert_eq!(rebuilt.len(), 1, "{name}: {id}");
            assert_eq!(rebuilt[0].0.0.name(), asset["type"], "{name}: {id}");
            assert_eq!(sha256(rebuilt[0].1), asset["sha256"].as_str().unwrap(), "{name}: {id}");
        }
    }
}

#[test]
fn exchanges_and_circuits_find_their_session() {
    for name in names() {
        let script = script(&name);
        let expected = if name == "two-residents" { 2 } else { 1 };
        assert_eq!(script.sessions.len(), expected, "{name}");
        for session in 0..expected {
            let role =
                |role| script.exchanges.iter().filter(|e| e.session == session && e.role == role).count();
            assert_eq!(role(Role::Login), 1, "{name}");
            assert!(role(Role::Seed) >= 1 && role(Role::EventQueue) >= 2, "{name}");
            assert!(script.circuits.iter().any(|circuit| circuit.session == session), "{name}");
        }
        let teleports = name.ends_with("teleport");
        assert_eq!(
            script.simulators().len() > 1,
            teleports || name == "libomv-udp" || name == "libomv-http",
            "{name}"
        );
    }
}

#[test]
fn only_requests_for_whole_shareable_assets_count() {
    let ranges = script("hippo-ranges");
    let counted = ranges.exchanges.iter().filter(|exchange| exchange.counted.is_some()).count();
    // Nine forms of Range and the three whole ones and the first; not HEAD, 404, 400, the wrong type.
    assert_eq!(counted, 12, "hippo-ranges");
    let http = script("hippo-http");
    assert_eq!(http.exchanges.iter().filter(|exchange| exchange.counted.is_some()).count(), 25);
    let udp = script("hippo-udp");
    assert_eq!(udp.downloads.iter().filter(|download| download.counted).count(), 18);
}

#[test]
fn steps_are_in_order_and_hold_no_acks() {
    for name in names() {
        let script = script(&name);
        assert!(script.steps.is_sorted_by_key(|step| step.time), "{name}");
        let sends = script.steps.iter().filter(|step| matches!(step.action, Action::Send(_))).count();
        assert_eq!(sends, script.datagrams.len(), "{name}");
        for datagram in &script.datagrams {
            let packet = crate::lludp::Packet::decode(&datagram.bytes).unwrap();
            assert_ne!(packet.number, crate::lludp::MessageNumber::PACKET_ACK, "{name}");
            assert_eq!(packet.acks().len(), 0, "{name}");
        }
    }
}

#[test]
fn what_two_hosts_delivered_between_them_is_whole_at_neither() {
    use super::super::edited::{Edited, exchange_like, set_header};
    let script = script("hippo-http");
    let (asset, body) = script.assets.iter().find(|((kind, _), _)| kind.name() == "texture").unwrap();
    let model = Edited::read("hippo-http.pcap").login().clone();
    let part = |host: &str, first: usize, end: usize| {
        let (method, target) = ("GET", format!("/?texture_id={}", asset.1));
        let time = std::time::Duration::ZERO;
        let reply = Some(("image/x-j2c", &body[first..end]));
        let mut exchange = exchange_like(&model, time, (method, &target, b""), reply);
        set_header(&mut exchange.request, "host", host);
        let response = &mut exchange.reply.as_mut().unwrap().response;
        response.status = 206;
        let range = format!("bytes {first}-{}/{}", end - 1, body.len());
        response.headers.0.push(("Content-Range".into(), range.into_bytes()));
        super::ScriptedExchange { exchange, session: 0, role: Role::Asset(Some(*asset)), counted: None }
    };
    let split = [part("one.example:80", 0, 600), part("two.example:80", 600, body.len())];
    let rebuilt = super::Assets::rebuild(&split, &[]);
    assert_eq!(rebuilt.get(asset), Some(body));
    assert!(!rebuilt.is_whole_at(asset, "one.example") && !rebuilt.is_whole_at(asset, "two.example"));
    let together = [part("one.example:80", 0, 600), part("one.example:80", 600, body.len())];
    assert!(super::Assets::rebuild(&together, &[]).is_whole_at(asset, "one.example"));
}
