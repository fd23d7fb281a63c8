#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::session::testing::{Book, sweep};

const HIPPO_ENABLE: &str = include_str!("../../../fixtures/llsd/hippo-enable-and-establish.xml");
const NMV_ENABLE: &str = include_str!("../../../fixtures/llsd/nmv-enable-and-establish.xml");
const HIPPO_TELEPORT: &str = include_str!("../../../fixtures/llsd/hippo-teleport-finish.xml");
const NMV_TELEPORT: &str = include_str!("../../../fixtures/llsd/nmv-teleport-finish.xml");
const LIBOMV_TELEPORT: &str = include_str!("../../../fixtures/llsd/libomv-teleport-finish.xml");
const PARCEL: &str = include_str!("../../../fixtures/llsd/hippo-parcel-properties.xml");

/// The teleport example of the wire specification, a prolog added as Second Life does.
const EXAMPLE: &str = r#"<? LLSD/XML ?><llsd><map><key>events</key><array><map><key>message</key><string>TeleportFinish</string><key>body</key><map>
<key>Info</key><array><map><key>AgentID</key><uuid>11111111-2222-3333-4444-555555555555</uuid>
<key>LocationID</key><binary>AAAABA==</binary><key>SimIP</key><binary>ywBxBQ==</binary><key>SimPort</key><integer>9000</integer>
<key>RegionHandle</key><binary>AAPoAAAD6QA=</binary>
<key>SeedCapability</key><string>http://203.0.113.5:9000/CAPS/6f1c1b9e-0000-4000-8000-0000000000010000/</string>
<key>SimAccess</key><integer>13</integer><key>TeleportFlags</key><binary>AAAAEA==</binary>
<key>RegionSizeX</key><binary>AAABAA==</binary><key>RegionSizeY</key><binary>AAABAA==</binary></map></array>
</map></map></array><key>id</key><integer>17</integer></map></llsd>"#;
const EXAMPLE_SEED: &str = "http://203.0.113.5:9000/CAPS/6f1c1b9e-0000-4000-8000-0000000000010000/";

const ALIAS: &str = "http://127.0.0.1:9080/cap/0?a&amp;b";

fn text(rewritten: &EventsRewritten) -> &str {
    std::str::from_utf8(rewritten.body.as_deref().expect("rewritten")).unwrap()
}

fn event(message: &str, body: &str) -> String {
    format!(
        "<llsd><map><key>events</key><array><map><key>message</key><string>{message}</string>\
         <key>body</key>{body}</map></array><key>id</key><integer>1</integer></map></llsd>"
    )
}

fn untouched(body: &str, left_alone: usize) {
    let rewritten = rewrite(body.as_bytes(), &mut Book::default());
    assert_eq!((&rewritten.body, rewritten.left_alone), (&None, left_alone), "{body}");
    assert_eq!(rewritten.events, []);
}

#[test]
fn a_teleport_differs_in_three_values() {
    let mut book = Book::default();
    let rewritten = rewrite(EXAMPLE.as_bytes(), &mut book);
    let expected = EXAMPLE
        .replace("ywBxBQ==", "fwAAAQ==")
        .replace("<integer>9000<", "<integer>40000<")
        .replace(EXAMPLE_SEED, ALIAS);
    assert_eq!(text(&rewritten), expected);
    assert_eq!(
        rewritten.events,
        [QueuedEvent::TeleportFinish {
            simulator: "203.0.113.5:9000".parse().unwrap(),
            region: Some(RegionHandle(0x0003_E800_0003_E900)),
            seed: Redacted::new(EXAMPLE_SEED.to_owned()),
        }]
    );
    assert_eq!(rewritten.id, Some(QueueId("17".into())));
    assert!(!format!("{rewritten:?}").contains("6f1c1b9e"), "the events' Debug hides the seed");
    assert_eq!(rewrite(EXAMPLE.as_bytes(), &mut book), rewritten, "asked twice, the same aliases");
}

#[test]
fn captured_neighbours_and_teleports_change_in_address_and_seed_only() {
    for (enable, teleport, port) in [(HIPPO_ENABLE, HIPPO_TELEPORT, 9001), (NMV_ENABLE, NMV_TELEPORT, 9000)] {
        let mut book = Book::default();
        let first = rewrite(enable.as_bytes(), &mut book);
        let second = rewrite(teleport.as_bytes(), &mut book);
        let seed = first.events[1].seed().unwrap().reveal().clone();
        let expected = |body: &str| {
            body.replace(&format!("<integer>{port}<"), "<integer>40000<")
                .replace(&format!("<string>127.0.0.1:{port}<"), "<string>127.0.0.1:40000<")
                .replace(&seed, ALIAS)
        };
        assert_eq!(text(&first), expected(enable));
        assert_eq!(text(&second), expected(teleport));
        let simulator: SocketAddrV4 = format!("127.0.0.1:{port}").parse().unwrap();
        let all: Vec<_> = first.events.iter().chain(&second.events).collect();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|event| event.simulator() == simulator));
        assert_eq!(all[2].seed().unwrap().reveal(), &seed);
        assert!(matches!(all[0], QueuedEvent::EnableSimulator { region: Some(_), .. }));
    }
    assert_eq!(rewrite(LIBOMV_TELEPORT.as_bytes(), &mut Book::default()).events.len(), 1);
    untouched(PARCEL, 0);
}

#[test]
fn each_simulator_info_block_stands_alone() {
    let block = |ip: &str, port: &str| {
        format!(
            "<map><key>IP</key>{ip}<key>Port</key>{port}<key>Handle</key><binary>AAPoAAAD6QA=</binary></map>"
        )
    };
    let blocks = [
        block("<binary>ywBxBQ==</binary>", "<integer>9000</integer>"),
        block("<binary>ywBxBQ==</binary>", "<integer>0</integer>"),
        block("<string>203.0.113.6</string>", "<binary>AAAjKA==</binary>"),
        block("<string>sim.example</string>", "<integer>9000</integer>"),
        block("<binary>IAENuAAAAAAAAAAAAAAAAQ==</binary>", "<integer>9000</integer>"),
    ];
    let body = event(
        "EnableSimulator",
        &format!("<map><key>SimulatorInfo</key><array>{}</array></map>", blocks.concat()),
    );
    let rewritten = rewrite(body.as_bytes(), &mut Book::default());
    let expected = body
        .replacen(
            "ywBxBQ==</binary><key>Port</key><integer>9000",
            "fwAAAQ==</binary><key>Port</key><integer>40000",
            1,
        )
        .replace("203.0.113.6", "127.0.0.1")
        .replace("AAAjKA==", "AACcQQ==");
    assert_eq!(text(&rewritten), expected);
    assert_eq!((rewritten.events.len(), rewritten.left_alone), (2, 3));
}

#[test]
fn crossings_and_the_historic_circuit_are_rewritten() {
    let crossing = event(
        "CrossedRegion",
        "<map><key>AgentData</key><array><map/></array><key>RegionData</key><array><map>\
         <key>SimIP</key><binary>ywBxBQ==</binary><key>SimPort</key><integer>9000</integer>\
         <key>SeedCapability</key><string>http://a/</string></map></array></map>",
    );
    let rewritten = rewrite(crossing.as_bytes(), &mut Book::default());
    assert!(matches!(rewritten.events[..], [QueuedEvent::CrossedRegion { region: None, .. }]));
    assert_eq!(
        text(&rewritten),
        crossing.replace("ywBxBQ==", "fwAAAQ==").replace("9000", "40000").replace("http://a/", ALIAS)
    );
    let circuit = event(
        "OpenCircuit",
        "<map><key>CircuitInfo</key><map><key>IP</key><binary>ywBxBQ==</binary><key>Port</key><integer>9000</integer></map></map>",
    );
    assert_eq!(rewrite(circuit.as_bytes(), &mut Book::default()).events.len(), 1);
}

#[test]
fn an_event_is_left_whole_when_either_half_is_refused() {
    for (refuse_simulators, refuse_capabilities) in [(true, false), (false, true)] {
        let mut book = Book { refuse_simulators, refuse_capabilities, ..Book::default() };
        let rewritten = rewrite(EXAMPLE.as_bytes(), &mut book);
        assert_eq!((rewritten.body, rewritten.left_alone), (None, 1));
        // EnableSimulator has no seed, and so survives the refusal of seeds.
        let rewritten = rewrite(HIPPO_ENABLE.as_bytes(), &mut book);
        assert_eq!(rewritten.events.len(), usize::from(refuse_capabilities));
        let untouched_seed = rewritten
            .body
            .is_none_or(|body| String::from_utf8(body).unwrap().contains("<string>127.0.0.1:9001</string>"));
        assert!(untouched_seed);
    }
}

#[test]
fn names_placeholders_and_missing_seeds_are_left() {
    for address in ["sim.example:9000", "203.0.113.5:0", "[2001:db8::1]:9000", "203.0.113.5", ""] {
        untouched(
            &event(
                "EstablishAgentCommunication",
                &format!(
                    "<map><key>sim-ip-and-port</key><string>{address}</string>\
                     <key>seed-capability</key><string>http://a/</string></map>"
                ),
            ),
            1,
        );
    }
    untouched(&EXAMPLE.replace("SeedCapability", "Other"), 1);
    untouched(&EXAMPLE.replace("TeleportFinish", "TeleportFinished"), 0);
    untouched("", 0);
    untouched("<llsd><map><key>events</key><undef/></map></llsd>", 0);
}

#[test]
fn polls_are_equal_when_they_acknowledge_the_same() {
    let read = |body: &str| poll_ack(body.as_bytes()).unwrap();
    let first = read(include_str!("../../../fixtures/llsd/hippo-poll-first.xml"));
    assert_eq!(first, Poll { ack: Ack::Undef, done: false });
    assert_eq!(first, read(include_str!("../../../fixtures/llsd/nmv-poll-first.xml")));
    let done = read(include_str!("../../../fixtures/llsd/nmv-poll-done.xml"));
    assert!(done.done);
    let id = rewrite(NMV_TELEPORT.as_bytes(), &mut Book::default()).id.unwrap();
    assert_eq!(done.ack, Ack::Id(id), "the last reply's id comes back");
    let acked = read(include_str!("../../../fixtures/llsd/hippo-poll-ack.xml"));
    let id = rewrite(PARCEL.as_bytes(), &mut Book::default()).id.unwrap();
    assert_eq!(acked, Poll { ack: Ack::Id(id), done: false });

    assert_eq!(read("<llsd><map/></llsd>").ack, Ack::Missing);
    assert_eq!(read("<llsd><map><key>ack</key><integer/></map></llsd>").ack, Ack::Id(QueueId("0".into())));
    assert_eq!(poll_ack(b"<llsd><array/></llsd>"), None);
    assert_eq!(poll_ack(b""), None);
}

#[test]
fn damaged_replies_never_panic() {
    let short = [EXAMPLE, HIPPO_ENABLE, NMV_ENABLE, HIPPO_TELEPORT, NMV_TELEPORT, LIBOMV_TELEPORT];
    let polls = [
        include_str!("../../../fixtures/llsd/hippo-poll-first.xml"),
        include_str!("../../../fixtures/llsd/hippo-poll-ack.xml"),
        include_str!("../../../fixtures/llsd/nmv-poll-done.xml"),
    ];
    for (fixture, stride) in
        short.iter().map(|body| (*body, 1)).chain(polls.map(|body| (body, 1))).chain([(PARCEL, 29)])
    {
        sweep(fixture.as_bytes(), stride, |bytes| {
            rewrite(bytes, &mut Book::default());
            let _ = poll_ack(bytes);
        });
    }
}
