//! The LLUDP datagrams of the captures in fixtures/sessions.

use std::fs::File;
use std::path::{Path, PathBuf};

use etherparse::{SlicedPacket, TransportSlice};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;

/// UDP ports of the captured grid's two regions.
const SIMULATOR_PORTS: [u16; 2] = [9000, 9001];

/// A folder of the repository's fixtures.
pub(crate) fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder)
}

/// The files of a fixture folder with this extension, in order of their names; never none.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(fixtures(folder))
        .expect("fixtures are part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    assert!(!found.is_empty(), "no .{extension} in {folder}");
    found.sort();
    found
}

/// The datagrams to and from the simulators, in the order of the capture.
pub(crate) fn lludp(capture: &Path) -> Vec<Vec<u8>> {
    let file = File::open(capture).expect("a capture");
    let mut reader = PcapReader::new(std::io::BufReader::new(file)).expect("a pcap header");
    let link = reader.header().datalink;
    let mut found = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.expect("a whole record");
        let sliced = match link {
            DataLink::ETHERNET => SlicedPacket::from_ethernet(&packet.data),
            _ => SlicedPacket::from_ip(&packet.data),
        };
        found.extend(sliced.ok().and_then(|sliced| simulator_datagram(&sliced)));
    }
    found
}

fn simulator_datagram(packet: &SlicedPacket<'_>) -> Option<Vec<u8>> {
    let Some(TransportSlice::Udp(udp)) = &packet.transport else {
        return None;
    };
    let ports = [udp.source_port(), udp.destination_port()];
    ports.iter().any(|port| SIMULATOR_PORTS.contains(port)).then(|| udp.payload().to_vec())
}
