//! Capture files of every kind we claim to read, written here from one datagram.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::{CaptureError, Transport, read};

/// An IPv4 packet with one UDP datagram 127.0.0.1:9000 → 127.0.0.1:4660 that says `hello`.
fn ipv4() -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64).udp(9000, 4660);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"hello").unwrap();
    bytes
}

fn framed(link: u32) -> Vec<u8> {
    let mut frame = match link {
        1 => [&[0; 12][..], &[0x81, 0, 0, 7, 0x08, 0]].concat(),
        0 | 108 => vec![2, 0, 0, 0],
        113 => [&[0; 14][..], &[0x08, 0]].concat(),
        276 => [&[0x08, 0][..], &[0; 18]].concat(),
        _ => Vec::new(),
    };
    frame.extend(ipv4());
    frame
}

fn pcap(link: u32, packets: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = 0xA1B2_C3D4_u32.to_le_bytes().to_vec();
    file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(65_535_u32.to_le_bytes());
    file.extend(link.to_le_bytes());
    for (seconds, micros, data) in packets {
        let len = u32::try_from(data.len()).unwrap();
        [*seconds, *micros, len, len].iter().for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(data);
    }
    file
}

fn pcapng(link: u16, ticks: &[u64], data: &[u8]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let len = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
        [&kind.to_le_bytes()[..], &len, body, &len].concat()
    };
    let section = [&0x1A2B_3C4D_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xFF; 8]].concat();
    let mut file = block(0x0A0D_0D0A, &section);
    let interface = [&link.to_le_bytes()[..], &[0, 0], &65_535_u32.to_le_bytes()].concat();
    file.extend(block(1, &interface));
    for tick in ticks {
        let len = u32::try_from(data.len()).unwrap().to_le_bytes();
        let high = u32::try_from(tick >> 32).unwrap().to_le_bytes();
        let low = u32::try_from(tick & 0xFFFF_FFFF).unwrap().to_le_bytes();
        let mut body = [&[0; 4][..], &high, &low, &len, &len, data].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        file.extend(block(6, &body));
    }
    file
}

fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn every_link_type_yields_the_datagram() {
    for link in [1, 0, 108, 12, 14, 101, 228, 113, 276] {
        let file = write(&pcap(link, &[(5, 0, framed(link)), (6, 500_000, framed(link))]));
        let packets = read(file.path()).unwrap();
        assert_eq!(packets.len(), 2, "link type {link}");
        assert_eq!(packets[0].payload.as_ref(), b"hello", "link type {link}");
        assert_eq!(packets[0].source, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(packets[0].destination, "127.0.0.1:4660".parse().unwrap());
        assert_eq!(packets[0].transport, Transport::Udp);
        assert_eq!(packets[1].time, Duration::from_millis(1500));
    }
}

#[test]
fn pcapng_times_count_in_the_unit_of_the_interface() {
    let file = write(&pcapng(101, &[7_000_000, 8_500_000], &ipv4()));
    let packets = read(file.path()).unwrap();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[1].time, Duration::from_millis(1500));
    assert_eq!(packets[1].payload.as_ref(), b"hello");
}

#[test]
fn an_interface_of_an_unknown_kind_does_not_spoil_the_others() {
    let file = [pcapng(147, &[1], &ipv4()), pcapng(101, &[7_000_000], &ipv4())].concat();
    assert_eq!(read(write(&file).path()).unwrap().len(), 1);
    let only = write(&pcapng(147, &[1], &ipv4()));
    assert!(matches!(read(only.path()), Err(CaptureError::LinkType { link: 147, .. })));
}

#[test]
fn a_capture_cut_off_in_the_middle_of_a_packet_keeps_what_came_before() {
    let mut bytes = pcap(101, &[(5, 0, ipv4()), (6, 0, ipv4())]);
    bytes.truncate(bytes.len() - 7);
    assert_eq!(read(write(&bytes).path()).unwrap().len(), 1);
}

#[test]
fn bad_files_say_what_is_wrong() {
    assert!(matches!(read(std::path::Path::new("/nowhere/at/all.pcap")), Err(CaptureError::Io { .. })));
    assert!(matches!(read(write(b"GIF89a no capture at all").path()), Err(CaptureError::Format { .. })));
    let radio = write(&pcap(105, &[(0, 0, ipv4())]));
    assert!(matches!(read(radio.path()), Err(CaptureError::LinkType { link: 105, .. })));
}
