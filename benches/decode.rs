//! How fast captured datagrams are taken apart, beside a plain copy of the same bytes.
//!
//!     cargo bench --bench decode [-- CAPTURE.pcap]
//!
//! One pass reads header, number, acks and trailer of every datagram, expands what is zero-coded
//! and reads the body of the messages that a session acts on. The goal is 1 GB/s, and 100 times
//! what `benches/peers/decode_hippolyzer.py` reaches on the same capture and machine.
#![allow(missing_docs, clippy::print_stdout, clippy::expect_used)]

use std::fs::File;
use std::hint::black_box;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TransportSlice};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use rezcache::lludp::assets::{ImageData, ImagePacket, TransferInfo, TransferPacket};
use rezcache::lludp::circuit::{PacketAck, StartPingCheck, UseCircuitCode};
use rezcache::lludp::{MessageBody, MessageNumber, Packet, asset_requests};

/// Time spent on each measurement; the best of the rounds counts, as the least disturbed.
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 7;

fn main() {
    // Cargo passes `--bench`.
    let capture = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions/libomv-udp.pcap"),
        PathBuf::from,
    );
    let datagrams = datagrams(&capture);
    let bytes: usize = datagrams.iter().map(Vec::len).sum();
    println!("{}: {} datagrams, {bytes} bytes", capture.display(), datagrams.len());
    assert!(bytes > 0, "nothing to decode");

    let mut copied = Vec::with_capacity(bytes);
    let mut scratch = Vec::new();
    let (mut copy, mut decode) = (0.0_f64, 0.0_f64);
    // In turns, so that whatever else the machine does falls on both.
    for _ in 0..ROUNDS {
        copy = copy.max(gigabytes_per_second(bytes, || {
            copied.clear();
            for datagram in &datagrams {
                copied.extend_from_slice(black_box(datagram));
            }
            black_box(&copied);
        }));
        decode = decode.max(gigabytes_per_second(bytes, || {
            for datagram in &datagrams {
                black_box(read(black_box(datagram), &mut scratch));
            }
        }));
    }
    println!("copy    {copy:8.2} GB/s");
    println!("decode  {decode:8.2} GB/s   1 / {:.1} of the copy", copy / decode);
}

/// Everything a session reads of one datagram; the sum keeps it from being optimised away.
fn read(datagram: &[u8], scratch: &mut Vec<u8>) -> usize {
    let packet = Packet::decode(datagram).expect("captured datagrams are whole");
    let acks = packet.acks().fold(0, |sum, ack| sum ^ ack.0 as usize);
    let body = packet.body(scratch).expect("captured bodies are whole");
    let fields = match packet.number {
        MessageNumber::PACKET_ACK => PacketAck::decode(body).map(|m| m.ids().len()),
        MessageNumber::START_PING_CHECK => StartPingCheck::decode(body).map(|m| usize::from(m.ping)),
        MessageNumber::USE_CIRCUIT_CODE => UseCircuitCode::decode(body).map(|m| m.agent.0.as_bytes().len()),
        MessageNumber::IMAGE_DATA => ImageData::decode(body).map(|m| m.data.0.len()),
        MessageNumber::IMAGE_PACKET => ImagePacket::decode(body).map(|m| m.data.0.len()),
        MessageNumber::TRANSFER_INFO => TransferInfo::decode(body).map(|m| m.params.0.len()),
        MessageNumber::TRANSFER_PACKET => TransferPacket::decode(body).map(|m| m.data.0.len()),
        number => asset_requests(number, body).map(Iterator::count),
    };
    acks + body.len() + fields.expect("captured messages are whole")
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn gigabytes_per_second(bytes: usize, mut pass: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut passes = 0_usize;
    while start.elapsed() < ROUND {
        pass();
        passes += 1;
    }
    (bytes * passes) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// The payloads to and from UDP port 9000 and 9001.
fn datagrams(capture: &Path) -> Vec<Vec<u8>> {
    let file = File::open(capture).expect("the capture can be opened");
    let mut reader = PcapReader::new(BufReader::new(file)).expect("a pcap header");
    let link = reader.header().datalink;
    let mut found = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.expect("a whole record");
        let sliced = match link {
            DataLink::ETHERNET => SlicedPacket::from_ethernet(&packet.data),
            _ => SlicedPacket::from_ip(&packet.data),
        };
        let Ok(SlicedPacket { transport: Some(TransportSlice::Udp(udp)), .. }) = sliced else {
            continue;
        };
        if [udp.source_port(), udp.destination_port()].iter().any(|port| matches!(port, 9000 | 9001)) {
            found.push(udp.payload().to_vec());
        }
    }
    found
}
