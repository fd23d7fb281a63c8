#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddrV4;

use proptest::prelude::*;

use super::*;

const SEED: &str = "http://203.0.113.5:9000/CAPS/6f1c1b9e-0000-4000-8000-0000000000010000/";
const AGENT: AgentId = AgentId(Uuid::from_u128(0x1111));

fn session() -> SessionId {
    SessionId(Redacted::new(Uuid::from_u128(0xAAAA_BBBB_CCCC)))
}

fn encoded<'a>(message: &impl MessageBody<'a>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// Rewrites to 127.0.0.1:13001 and the seed `alias`, and returns what was there before.
fn rewrite(number: MessageNumber, body: &[u8]) -> (Vec<u8>, String, Option<RegionHandle>) {
    let mut seen = None;
    let out = rewrite_addresses(number, body, &mut |address| {
        let seed = address.seed.map_or("", |seed| *seed.reveal());
        seen = Some((format!("{} {seed}", address.endpoint), address.region));
        Some(Replacement {
            endpoint: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 13001),
            seed: Some("alias".to_owned()),
        })
    });
    let (text, region) = seen.unwrap();
    (out.unwrap().unwrap(), text, region)
}

fn teleport_finish(seed: &[u8]) -> Vec<u8> {
    encoded(&TeleportFinish {
        agent: AGENT,
        location: 4,
        ip: Ipv4Addr::new(203, 0, 113, 5),
        port: Port(9000),
        region: RegionHandle(0x0003_E800_0003_E900),
        seed: Redacted::new(Variable2(seed)),
        sim_access: 13,
        flags: 0x10,
    })
}

#[test]
fn ports_are_big_endian_and_handles_are_not() {
    let message = EnableSimulator {
        region: RegionHandle(0x0003_E800_0003_E900),
        ip: Ipv4Addr::new(203, 0, 113, 5),
        port: Port(9001),
    };
    assert_eq!(encoded(&message), [0x00, 0xE9, 0x03, 0, 0x00, 0xE8, 0x03, 0, 203, 0, 113, 5, 0x23, 0x29]);
}

#[test]
fn a_teleport_is_redirected_and_nothing_else_changes() {
    let mut body = teleport_finish(format!("{SEED}\0").as_bytes());
    body.extend_from_slice(b"newer fields");
    let (out, seen, region) = rewrite(MessageNumber::TELEPORT_FINISH, &body);
    assert_eq!(seen, format!("203.0.113.5:9000 {SEED}"));
    assert_eq!(region, Some(RegionHandle(0x0003_E800_0003_E900)));
    let read = TeleportFinish::decode(&out).unwrap();
    assert_eq!((read.ip, read.port), (Ipv4Addr::LOCALHOST, Port(13001)));
    assert_eq!(read.seed.reveal().0, b"alias\0");
    assert_eq!((read.agent, read.location, read.sim_access, read.flags), (AGENT, 4, 13, 0x10));
    assert!(out.ends_with(b"\x0D\x10\0\0\0newer fields"));
}

#[test]
fn a_crossing_and_the_older_messages_are_redirected_too() {
    let crossed = CrossedRegion {
        agent: AGENT,
        session: session(),
        ip: Ipv4Addr::new(203, 0, 113, 6),
        port: Port(9001),
        region: RegionHandle(5),
        seed: Redacted::new(Variable2(b"http://x/")),
        position: [1.0, 2.0, 3.0],
        look_at: [0.0, 1.0, 0.0],
    };
    let (out, seen, region) = rewrite(MessageNumber::CROSSED_REGION, &encoded(&crossed));
    assert_eq!((seen.as_str(), region), ("203.0.113.6:9001 http://x/", Some(RegionHandle(5))));
    let expected = CrossedRegion {
        ip: Ipv4Addr::LOCALHOST,
        port: Port(13001),
        seed: Redacted::new(Variable2(b"alias\0")),
        ..crossed
    };
    assert_eq!(CrossedRegion::decode(&out), Ok(expected));

    let enable = EnableSimulator { region: RegionHandle(7), ip: Ipv4Addr::BROADCAST, port: Port(1) };
    let (out, _, region) = rewrite(MessageNumber::ENABLE_SIMULATOR, &encoded(&enable));
    assert_eq!(region, Some(RegionHandle(7)));
    let expected = EnableSimulator { ip: Ipv4Addr::LOCALHOST, port: Port(13001), ..enable };
    assert_eq!(EnableSimulator::decode(&out), Ok(expected));

    let open = encoded(&OpenCircuit { ip: Ipv4Addr::BROADCAST, port: Port(2) });
    assert_eq!(rewrite(MessageNumber::OPEN_CIRCUIT, &open).0, [127, 0, 0, 1, 0x32, 0xC9]);
}

#[test]
fn what_cannot_be_rewritten_is_refused_or_left() {
    let mut refuse = |_: &SimulatorAddress<'_>| None;
    let body = teleport_finish(b"x\0");
    assert_eq!(rewrite_addresses(MessageNumber::TELEPORT_FINISH, &body, &mut refuse), Ok(None));
    assert_eq!(rewrite_addresses(MessageNumber::TELEPORT_LOCAL, &body, &mut refuse), Ok(None));
    for seed in [&b"a\0b\0"[..], b"\xFF\0"] {
        let error = rewrite_addresses(MessageNumber::TELEPORT_FINISH, &teleport_finish(seed), &mut refuse);
        assert_eq!(error.unwrap_err().label(), "not_text");
    }
    for len in 0..34 + 2 {
        let error = rewrite_addresses(MessageNumber::TELEPORT_FINISH, &body[..len], &mut refuse);
        assert_eq!(error.unwrap_err().label(), "truncated");
    }
    let long = rewrite_addresses(MessageNumber::TELEPORT_FINISH, &body, &mut |address| {
        Some(Replacement { endpoint: address.endpoint, seed: Some("x".repeat(65_535)) })
    });
    assert!(long.is_err());
}

#[test]
fn missing_blocks_are_zero_but_half_a_block_is_an_error() {
    let whole = encoded(&AgentMovementComplete {
        agent: AGENT,
        session: session(),
        position: [128.0; 3],
        look_at: [0.0; 3],
        region: RegionHandle(9),
        timestamp: 1,
        channel_version: Variable2(b"OpenSim\0"),
    });
    let first_block = AgentMovementComplete::decode(&whole[..32]).unwrap();
    assert_eq!((first_block.region, first_block.channel_version), (RegionHandle(0), Variable2(b"")));
    let error = AgentMovementComplete::decode(&whole[..33]).unwrap_err();
    assert_eq!((error.offset, error.field), (32, "Position"));
    assert!(AgentMovementComplete::decode(&[]).is_err());
    assert_eq!(PacketAck::decode(&[]).unwrap().ids().len(), 0);
    assert_eq!(PacketAck::decode(&[2, 1, 0, 0, 0]).unwrap_err().field, "Packets");
    let reply = LogoutReply::decode(&whole[..32]).unwrap();
    assert_eq!((reply.agent, reply.items), (AGENT, &[][..]));
}

#[test]
fn credentials_are_in_no_debug_text() {
    let code = Redacted::new(CircuitCode(1_234_567_890));
    let text = format!(
        "{:?} {:?} {:?}",
        UseCircuitCode { code, session: session(), agent: AGENT },
        TeleportFinish::decode(&teleport_finish(SEED.as_bytes())).unwrap(),
        Replacement { endpoint: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1), seed: Some(SEED.to_owned()) },
    );
    for secret in ["1234567890", "aaaabbbbcccc", "6f1c1b9e", "104, 116, 116, 112"] {
        assert!(!text.to_lowercase().contains(secret), "{secret} in {text}");
    }
}

/// Decoding bytes and encoding the result gives the bytes back, as far as they were read.
fn round_trips<'a, M: MessageBody<'a>>(body: &'a [u8]) -> Result<(), TestCaseError> {
    if let Ok(message) = M::decode(body) {
        let again = encoded(&message);
        let common = again.len().min(body.len());
        prop_assert_eq!(&again[..common], &body[..common]);
        // Only zeros may have been added, for blocks that were missing.
        prop_assert!(again[common..].iter().all(|&byte| byte == 0));
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_message_survives_reading_and_writing(
        body in prop::collection::vec(prop_oneof![Just(0_u8), Just(1_u8), any::<u8>()], 0..200),
    ) {
        round_trips::<PacketAck<'_>>(&body)?;
        round_trips::<OpenCircuit>(&body)?;
        round_trips::<CloseCircuit>(&body)?;
        round_trips::<StartPingCheck>(&body)?;
        round_trips::<CompletePingCheck>(&body)?;
        round_trips::<UseCircuitCode>(&body)?;
        round_trips::<CompleteAgentMovement>(&body)?;
        round_trips::<AgentMovementComplete<'_>>(&body)?;
        round_trips::<LogoutRequest>(&body)?;
        round_trips::<LogoutReply<'_>>(&body)?;
        round_trips::<KickUser<'_>>(&body)?;
        round_trips::<EnableSimulator>(&body)?;
        round_trips::<DisableSimulator>(&body)?;
        round_trips::<ConfirmEnableSimulator>(&body)?;
        round_trips::<CrossedRegion<'_>>(&body)?;
        round_trips::<TeleportFinish<'_>>(&body)?;
        round_trips::<TeleportLocal>(&body)?;
        round_trips::<TeleportStart>(&body)?;
        round_trips::<TeleportProgress<'_>>(&body)?;
        round_trips::<TeleportFailed<'_>>(&body)?;
        round_trips::<TeleportCancel>(&body)?;
        round_trips::<RegionHandshake<'_>>(&body)?;
        round_trips::<RegionHandshakeReply>(&body)?;
        round_trips::<AgentThrottle<'_>>(&body)?;
        round_trips::<AgentPause>(&body)?;
        round_trips::<AgentResume>(&body)?;
        round_trips::<DenyTrustedCircuit>(&body)?;
    }
}
