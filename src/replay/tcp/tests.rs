//! Streams that arrive in every wrong way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use bytes::Bytes;

use super::super::pcap::{Packet, Transport};
use super::{Connection, connections};

fn segment(at_ms: u64, to_server: bool, sequence: u32, payload: &'static [u8]) -> Packet {
    let (client, server) = ("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:9000".parse().unwrap());
    let (source, destination) = if to_server { (client, server) } else { (server, client) };
    let transport = Transport::Tcp { sequence, syn: false, ack: true, fin: false, rst: false };
    let payload = Bytes::from_static(payload);
    Packet { time: Duration::from_millis(at_ms), source, destination, transport, payload }
}

fn only(packets: &[Packet]) -> Connection {
    let mut all = connections(packets);
    assert_eq!(all.len(), 1);
    all.pop().unwrap()
}

#[test]
fn reordered_repeated_and_overlapping_segments_become_one_stream() {
    // The counter wraps in the middle.
    let first = u32::MAX - 3;
    let connection = only(&[
        segment(1, true, first, b"GE"),
        segment(2, true, first.wrapping_add(4), b"/ HT"),
        segment(3, true, first, b"GE"),
        segment(4, true, first.wrapping_add(1), b"ET /"),
        segment(5, true, first.wrapping_add(8), b"TP"),
    ]);
    assert_eq!(connection.to_server.bytes, b"GET / HTTP");
    assert!(!connection.to_server.broken);
    assert_eq!(connection.to_server.time_of(2), Duration::from_millis(1));
    assert_eq!(connection.to_server.time_of(3), Duration::from_millis(4));
    assert_eq!(connection.to_server.time_of(8), Duration::from_millis(4));
    assert_eq!(connection.to_server.time_of(10), Duration::from_millis(5));
}

#[test]
fn missing_bytes_break_the_stream_where_they_are_missing() {
    let connection = only(&[segment(1, true, 10, b"GET"), segment(2, true, 14, b"HTTP")]);
    assert_eq!(connection.to_server.bytes, b"GET");
    assert!(connection.to_server.broken);
}

#[test]
fn both_directions_have_their_own_counter() {
    let connection = only(&[segment(1, true, 10, b"ask"), segment(2, false, 9999, b"HTTP/1.1 200")]);
    assert_eq!(connection.to_server.bytes, b"ask");
    assert_eq!(connection.to_client.bytes, b"HTTP/1.1 200");
    assert_eq!(connection.server.port(), 9000);
}
