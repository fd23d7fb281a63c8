//! Our decoder against one that others wrote: hippolyzer's, on every datagram of the captures.
//!
//! Runs when `REZCACHE_PYTHON` names a Python that has hippolyzer; fails without it when
//! `REZCACHE_REQUIRE_INTEROP=1`.
#![allow(clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use rezcache::grid::{AgentId, SessionId};
use rezcache::lludp::assets::{
    ImageData, ImageNotInDatabase, ImagePacket, TransferAbort, TransferInfo, TransferPacket,
};
use rezcache::lludp::chat::{ChatFromSimulator, ChatFromViewer, line_to_owner};
use rezcache::lludp::circuit::{
    AgentMovementComplete, AgentPause, AgentResume, AgentThrottle, CompleteAgentMovement, CompletePingCheck,
    CrossedRegion, EnableSimulator, LogoutReply, LogoutRequest, PacketAck, RegionHandshake,
    RegionHandshakeReply, StartPingCheck, TeleportFinish, TeleportProgress, TeleportStart, UseCircuitCode,
};
use rezcache::lludp::{
    DecodeError, MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, UdpAssetRequest, Variable2,
    asset_requests, encode_packet,
};
use rezcache::redact::Redacted;
use serde_json::{Value, json};

use crate::support::captures;

/// Field values by `Block.Variable`, one for each repeat of the block.
type FieldValues = BTreeMap<&'static str, Vec<String>>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A variable field: trailing NULs do not count, since the other decoder drops them.
fn variable(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    hex(&bytes[..end])
}

fn bits(value: f32) -> String {
    format!("{:08x}", value.to_bits())
}

fn vector(value: [f32; 3]) -> String {
    value.map(bits).join(",")
}

/// The fields that we read from a message, as the script writes them. `None` for messages whose
/// body we never read.
fn fields(number: MessageNumber, body: &[u8]) -> Result<Option<FieldValues>, DecodeError> {
    let mut found = FieldValues::new();
    let mut put = |name: &'static str, value: String| found.entry(name).or_default().push(value);
    macro_rules! ids {
        ($message:ident) => {{
            put("AgentData.AgentID", $message.agent.0.to_string());
            put("AgentData.SessionID", $message.session.0.reveal().to_string());
        }};
    }
    match number {
        MessageNumber::PACKET_ACK => {
            PacketAck::decode(body)?.ids().for_each(|id| put("Packets.ID", id.0.to_string()));
        }
        MessageNumber::START_PING_CHECK => {
            let ping = StartPingCheck::decode(body)?;
            put("PingID.PingID", ping.ping.to_string());
            put("PingID.OldestUnacked", ping.oldest_unacked.0.to_string());
        }
        MessageNumber::COMPLETE_PING_CHECK => {
            put("PingID.PingID", CompletePingCheck::decode(body)?.ping.to_string());
        }
        MessageNumber::USE_CIRCUIT_CODE => {
            let message = UseCircuitCode::decode(body)?;
            put("CircuitCode.Code", message.code.reveal().0.to_string());
            put("CircuitCode.SessionID", message.session.0.reveal().to_string());
            put("CircuitCode.ID", message.agent.0.to_string());
        }
        MessageNumber::COMPLETE_AGENT_MOVEMENT => {
            let message = CompleteAgentMovement::decode(body)?;
            ids!(message);
            put("AgentData.CircuitCode", message.code.reveal().0.to_string());
        }
        MessageNumber::AGENT_MOVEMENT_COMPLETE => {
            let message = AgentMovementComplete::decode(body)?;
            ids!(message);
            put("Data.Position", vector(message.position));
            put("Data.LookAt", vector(message.look_at));
            put("Data.RegionHandle", message.region.0.to_string());
            put("Data.Timestamp", message.timestamp.to_string());
            put("SimData.ChannelVersion", variable(message.channel_version.0));
        }
        MessageNumber::LOGOUT_REQUEST => {
            let message = LogoutRequest::decode(body)?;
            ids!(message);
        }
        MessageNumber::LOGOUT_REPLY => {
            let message = LogoutReply::decode(body)?;
            ids!(message);
            for item in message.items.chunks(16) {
                put("InventoryData.ItemID", uuid::Uuid::from_slice(item).expect("16 bytes").to_string());
            }
        }
        MessageNumber::ENABLE_SIMULATOR => {
            let message = EnableSimulator::decode(body)?;
            put("SimulatorInfo.Handle", message.region.0.to_string());
            put("SimulatorInfo.IP", message.ip.to_string());
            put("SimulatorInfo.Port", message.port.0.to_string());
        }
        MessageNumber::CROSSED_REGION => {
            let message = CrossedRegion::decode(body)?;
            ids!(message);
            put("RegionData.SimIP", message.ip.to_string());
            put("RegionData.SimPort", message.port.0.to_string());
            put("RegionData.RegionHandle", message.region.0.to_string());
            put("RegionData.SeedCapability", variable(message.seed.reveal().0));
            put("Info.Position", vector(message.position));
            put("Info.LookAt", vector(message.look_at));
        }
        MessageNumber::TELEPORT_FINISH => {
            let message = TeleportFinish::decode(body)?;
            put("Info.AgentID", message.agent.0.to_string());
            put("Info.LocationID", message.location.to_string());
            put("Info.SimIP", message.ip.to_string());
            put("Info.SimPort", message.port.0.to_string());
            put("Info.RegionHandle", message.region.0.to_string());
            put("Info.SeedCapability", variable(message.seed.reveal().0));
            put("Info.SimAccess", message.sim_access.to_string());
            put("Info.TeleportFlags", message.flags.to_string());
        }
        MessageNumber::TELEPORT_START => {
            put("Info.TeleportFlags", TeleportStart::decode(body)?.flags.to_string());
        }
        MessageNumber::TELEPORT_PROGRESS => {
            let message = TeleportProgress::decode(body)?;
            put("AgentData.AgentID", message.agent.0.to_string());
            put("Info.TeleportFlags", message.flags.to_string());
            put("Info.Message", variable(message.message.0));
        }
        MessageNumber::REGION_HANDSHAKE => {
            let message = RegionHandshake::decode(body)?;
            put("RegionInfo.RegionFlags", message.region_flags.to_string());
            put("RegionInfo.SimAccess", message.sim_access.to_string());
            put("RegionInfo.SimName", variable(message.sim_name.0));
            put("RegionInfo.SimOwner", message.sim_owner.to_string());
        }
        MessageNumber::REGION_HANDSHAKE_REPLY => {
            let message = RegionHandshakeReply::decode(body)?;
            ids!(message);
            put("RegionInfo.Flags", message.flags.to_string());
        }
        MessageNumber::AGENT_THROTTLE => {
            let message = AgentThrottle::decode(body)?;
            ids!(message);
            put("AgentData.CircuitCode", message.code.reveal().0.to_string());
            put("Throttle.GenCounter", message.gen_counter.to_string());
            put("Throttle.Throttles", variable(message.throttles.0));
        }
        MessageNumber::AGENT_PAUSE => {
            let message = AgentPause::decode(body)?;
            ids!(message);
            put("AgentData.SerialNum", message.serial.to_string());
        }
        MessageNumber::AGENT_RESUME => {
            let message = AgentResume::decode(body)?;
            ids!(message);
            put("AgentData.SerialNum", message.serial.to_string());
        }
        MessageNumber::REQUEST_IMAGE | MessageNumber::TRANSFER_REQUEST => {
            for request in asset_requests(number, body)? {
                match request {
                    UdpAssetRequest::Image(image) => {
                        put("RequestImage.Image", image.image.to_string());
                        put("RequestImage.DiscardLevel", image.discard.to_string());
                        put("RequestImage.DownloadPriority", bits(image.priority));
                        put("RequestImage.Packet", image.packet.to_string());
                        put("RequestImage.Type", image.kind.to_string());
                    }
                    UdpAssetRequest::Transfer(transfer) => {
                        put("TransferInfo.TransferID", transfer.transfer.to_string());
                        put("TransferInfo.ChannelType", transfer.channel.to_string());
                        put("TransferInfo.SourceType", transfer.source.to_string());
                        put("TransferInfo.Priority", bits(transfer.priority));
                        put("TransferInfo.Params", variable(transfer.params.0));
                    }
                }
            }
        }
        MessageNumber::IMAGE_DATA => {
            let message = ImageData::decode(body)?;
            put("ImageID.ID", message.image.to_string());
            put("ImageID.Codec", message.codec.to_string());
            put("ImageID.Size", message.size.to_string());
            put("ImageID.Packets", message.packets.to_string());
            put("ImageData.Data", variable(message.data.0));
        }
        MessageNumber::IMAGE_PACKET => {
            let message = ImagePacket::decode(body)?;
            put("ImageID.ID", message.image.to_string());
            put("ImageID.Packet", message.packet.to_string());
            put("ImageData.Data", variable(message.data.0));
        }
        MessageNumber::IMAGE_NOT_IN_DATABASE => {
            put("ImageID.ID", ImageNotInDatabase::decode(body)?.image.to_string());
        }
        MessageNumber::TRANSFER_INFO => {
            let message = TransferInfo::decode(body)?;
            put("TransferInfo.TransferID", message.transfer.to_string());
            put("TransferInfo.ChannelType", message.channel.to_string());
            put("TransferInfo.TargetType", message.target.to_string());
            put("TransferInfo.Status", message.status.to_string());
            put("TransferInfo.Size", message.size.to_string());
            put("TransferInfo.Params", variable(message.params.0));
        }
        MessageNumber::TRANSFER_PACKET => {
            let message = TransferPacket::decode(body)?;
            put("TransferData.TransferID", message.transfer.to_string());
            put("TransferData.ChannelType", message.channel.to_string());
            put("TransferData.Packet", message.packet.to_string());
            put("TransferData.Status", message.status.to_string());
            put("TransferData.Data", variable(message.data.0));
        }
        MessageNumber::CHAT_FROM_VIEWER => {
            let message = ChatFromViewer::decode(body)?;
            ids!(message);
            put("ChatData.Message", variable(message.message.reveal().0));
            put("ChatData.Type", message.kind.to_string());
            put("ChatData.Channel", message.channel.to_string());
        }
        MessageNumber::CHAT_FROM_SIMULATOR => {
            let message = ChatFromSimulator::decode(body)?;
            put("ChatData.FromName", variable(message.from.0));
            put("ChatData.SourceID", message.source.to_string());
            put("ChatData.OwnerID", message.owner.to_string());
            put("ChatData.SourceType", message.source_type.to_string());
            put("ChatData.ChatType", message.kind.to_string());
            put("ChatData.Audible", message.audible.to_string());
            put("ChatData.Position", vector(message.position));
            put("ChatData.Message", variable(message.message.reveal().0));
        }
        MessageNumber::TRANSFER_ABORT => {
            let message = TransferAbort::decode(body)?;
            put("TransferInfo.TransferID", message.transfer.to_string());
            put("TransferInfo.ChannelType", message.channel.to_string());
        }
        _ => return Ok(None),
    }
    Ok(Some(found))
}

/// Everything the two decoders must agree on, and the fields that we read.
fn describe(datagram: &[u8]) -> Result<(Value, FieldValues), DecodeError> {
    let packet = Packet::decode(datagram)?;
    let mut scratch = Vec::new();
    let body = packet.body(&mut scratch)?;
    let mut acks: Vec<_> = packet.acks().map(|ack| ack.0).collect();
    acks.sort_unstable();
    let line = json!({
        "flags": packet.flags.0,
        "sequence": packet.sequence.0,
        "extra": packet.extra_len,
        "number": packet.number.0,
        "name": packet.number.name(),
        "acks": acks,
        "body": hex(body),
    });
    Ok((line, fields(packet.number, body)?.unwrap_or_default()))
}

#[test]
fn every_captured_datagram_is_read_and_named() {
    let mut names = BTreeSet::new();
    let mut read = 0;
    for capture in captures::files("sessions", "pcap") {
        for (index, datagram) in captures::lludp(&capture).iter().enumerate() {
            let at = format!("{} datagram {index}", capture.display());
            let packet = Packet::decode(datagram).expect(&at);
            names.insert(packet.number.name().unwrap_or_else(|| panic!("{at}: {:X}", packet.number.0)));
            describe(datagram).expect(&at);
            read += 1;
        }
    }
    assert!(read > 10_000, "only {read} datagrams");
    for expected in ["PacketAck", "UseCircuitCode", "ImagePacket", "TransferPacket", "RegionHandshake"] {
        assert!(names.contains(expected), "{expected} is in no capture");
    }
}

#[test]
fn hippolyzer_reads_the_same_in_every_captured_datagram() {
    let Ok(python) = std::env::var("REZCACHE_PYTHON") else {
        let required = std::env::var("REZCACHE_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
        assert!(!required, "REZCACHE_PYTHON must name a Python with hippolyzer");
        eprintln!("decode agreement DID NOT RUN: REZCACHE_PYTHON names no Python with hippolyzer");
        return;
    };
    let mut messages_with_fields = BTreeSet::new();
    for capture in captures::files("sessions", "pcap") {
        messages_with_fields.extend(compare(&python, &capture));
    }
    assert!(messages_with_fields.len() >= 15, "compared only {messages_with_fields:?}");
}

/// Commands and the lines that answer them are in no capture: made here, and read by the other decoder.
#[test]
fn hippolyzer_reads_the_same_in_our_chat() {
    let Ok(python) = std::env::var("REZCACHE_PYTHON") else {
        eprintln!("decode agreement DID NOT RUN: REZCACHE_PYTHON names no Python with hippolyzer");
        return;
    };
    let (agent, session) = (AgentId(uuid::Uuid::from_u128(7)), uuid::Uuid::from_u128(8));
    let mut command = Vec::new();
    let message = Redacted::new(Variable2(b"rez status\0"));
    let session = SessionId(Redacted::new(session));
    ChatFromViewer { agent, session, message, kind: 1, channel: 7777 }.encode(&mut command);
    let long = "ä".repeat(2000);
    let mut messages = vec![(MessageNumber::CHAT_FROM_VIEWER, command)];
    let lines = ["In all: 3 assets.\nSharing: none.", "", &long];
    messages.extend(lines.map(|text| (MessageNumber::CHAT_FROM_SIMULATOR, line_to_owner(agent, text))));

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("chat.pcap");
    let mut capture =
        pcap_file::pcap::PcapWriter::new(std::fs::File::create(&path).expect("a file")).expect("pcap");
    for (n, (number, body)) in (1..).zip(&messages) {
        for zerocode in [false, true] {
            let sequence = SequenceNumber(n);
            let datagram = encode_packet(PacketFlags::RELIABLE, sequence, *number, body, &[], zerocode);
            let mut frame = Vec::new();
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64)
                .udp(5000, 9000)
                .write(&mut frame, &datagram)
                .expect("written");
            let length = u32::try_from(frame.len()).expect("short");
            let packet = pcap_file::pcap::PcapPacket::new(std::time::Duration::ZERO, length, &frame);
            capture.write_packet(&packet).expect("written");
        }
    }
    drop(capture);
    assert_eq!(compare(&python, &path).len(), 2, "both messages were compared");
}

/// Compares one capture and returns the names of the messages whose fields were compared.
fn compare(python: &str, capture: &Path) -> BTreeSet<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/decode_agreement.py");
    let output = Command::new(python).arg(script).arg(capture).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Value> = String::from_utf8(output.stdout)
        .expect("JSON is text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    let ours = captures::lludp(capture);
    assert_eq!(ours.len(), theirs.len(), "{}: number of datagrams", capture.display());

    let mut compared = BTreeSet::new();
    for (index, (ours, mut theirs)) in ours.iter().zip(theirs).enumerate() {
        let at = format!("{} datagram {index}", capture.display());
        let (line, fields) = match describe(ours) {
            Ok(described) => described,
            Err(error) => {
                assert!(theirs.get("refused").is_some(), "{at}: only we refuse: {error}");
                continue;
            }
        };
        let their_fields = theirs.as_object_mut().and_then(|line| line.remove("fields")).unwrap_or_default();
        assert_eq!(line, theirs, "{at}");
        for (name, values) in &fields {
            assert_eq!(their_fields.get(name), Some(&json!(values)), "{at}: {name}");
        }
        if !fields.is_empty() {
            compared.insert(line["name"].to_string());
        }
    }
    compared
}
