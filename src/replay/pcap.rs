//! Capture files (pcap and pcapng) into TCP segments and UDP datagrams with their times.
//!
//! Knows the link types Ethernet (with VLAN tags), raw IP, null/loop and Linux cooked; everything
//! that is not TCP or UDP over IP is skipped. Reassembly is `tcp.rs`.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use etherparse::{EtherType, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_file::PcapError;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::Block;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

/// The most packets read from one capture.
const MAX_PACKETS: usize = 4_000_000;
/// The most payload bytes kept from one capture.
const MAX_PAYLOAD_BYTES: usize = 1 << 30;

/// One TCP segment or UDP datagram.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// When it was captured, since the first packet of the file.
    pub(crate) time: Duration,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) payload: Bytes,
}

/// What a packet's payload is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    /// `sequence` is that of the first payload byte; a SYN counts for one byte before it.
    Tcp {
        sequence: u32,
        syn: bool,
        ack: bool,
        fin: bool,
        rst: bool,
    },
}

/// Why a capture cannot be read. Each text says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}; check the path and its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is neither pcap nor pcapng, or is damaged.
    #[error(
        "{path} is no readable pcap or pcapng file ({detail}, after {packets} packets); save the capture again as pcap"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        detail: String,
        /// How many packets were read before.
        packets: usize,
    },
    /// The capture was taken on a kind of interface we do not know.
    #[error("{path} has link type {link}; capture on Ethernet, loopback, a tunnel or `any` instead")]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The number of the link type, as in the registry of pcap link types.
        link: u32,
    },
    /// The capture is larger than is read.
    #[error("{path} is too large; cut it with `editcap -c` or capture only the viewer's traffic")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There is no session in it.
    #[error(
        "{path} holds no login that succeeded over plain HTTP; start the capture before the viewer logs in, on a grid with an http:// login URI"
    )]
    NoLogin {
        /// The file.
        path: PathBuf,
    },
}

/// Reads every TCP segment and UDP datagram of a capture, in the order of the file.
///
/// # Errors
/// When the file cannot be read, is no capture, is too large or of an unknown link type.
pub(crate) fn read(path: &Path) -> Result<Vec<Packet>, CaptureError> {
    let io = |source| CaptureError::Io { path: path.to_owned(), source };
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).map_err(io)?;
    let file = File::open(path).map_err(io)?;
    let mut packets =
        Packets { path, first: None, payload_bytes: 0, seen: 0, kept: Vec::new(), unknown_link: None };
    if magic == [0x0A, 0x0D, 0x0D, 0x0A] {
        packets.read_pcapng(file)?
    } else {
        packets.read_pcap(file)?
    }
    match packets.unknown_link {
        Some(link) if packets.kept.is_empty() => Err(CaptureError::LinkType { path: path.to_owned(), link }),
        _ => Ok(packets.kept),
    }
}

struct Packets<'p> {
    path: &'p Path,
    first: Option<Duration>,
    payload_bytes: usize,
    seen: usize,
    kept: Vec<Packet>,
    /// A link type that is not known; other interfaces of the same file may be readable.
    unknown_link: Option<u32>,
}

impl Packets<'_> {
    fn format_error(&self, error: &PcapError) -> CaptureError {
        CaptureError::Format { path: self.path.to_owned(), detail: error.to_string(), packets: self.seen }
    }

    /// A capture that was cut off while being written ends in half a packet: what came before is good.
    fn is_cut_off(&self, error: &PcapError) -> bool {
        self.seen > 0
            && matches!(error, PcapError::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof)
    }

    fn read_pcap(&mut self, file: File) -> Result<(), CaptureError> {
        let mut reader = PcapReader::new(file).map_err(|error| self.format_error(&error))?;
        let link = u32::from(reader.header().datalink);
        while let Some(packet) = reader.next_packet() {
            match packet {
                Ok(packet) => self.take(link, packet.timestamp, &packet.data)?,
                Err(error) if self.is_cut_off(&error) => break,
                Err(error) => return Err(self.format_error(&error)),
            }
        }
        Ok(())
    }

    fn read_pcapng(&mut self, file: File) -> Result<(), CaptureError> {
        let mut reader = PcapNgReader::new(file).map_err(|error| self.format_error(&error))?;
        // Links and clock units are copied: the reader lends its interfaces only between blocks.
        let mut interfaces: Vec<(u32, u128)> = Vec::new();
        loop {
            let block = match reader.next_block() {
                None => return Ok(()),
                Some(Err(error)) if self.is_cut_off(&error) => return Ok(()),
                Some(Err(error)) => return Err(self.format_error(&error)),
                Some(Ok(block)) => block,
            };
            match block {
                Block::SectionHeader(_) => interfaces.clear(),
                Block::InterfaceDescription(interface) => {
                    interfaces.push((u32::from(interface.linktype), units_per_second(&interface)));
                }
                Block::EnhancedPacket(packet) => {
                    let interface = usize::try_from(packet.interface_id).ok();
                    let Some((link, units)) = interface.and_then(|index| interfaces.get(index)) else {
                        continue;
                    };
                    // The reader takes every clock unit for a nanosecond.
                    let time = scale(packet.timestamp.as_nanos(), *units);
                    self.take(*link, time, &packet.data)?;
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, link: u32, time: Duration, data: &[u8]) -> Result<(), CaptureError> {
        self.seen += 1;
        let first = *self.first.get_or_insert(time);
        let Some(packet) = (match link {
            1 => LaxSlicedPacket::from_ethernet(data).ok(),
            12 | 14 | 101 | 228 | 229 => LaxSlicedPacket::from_ip(data).ok(),
            // A word that names the address family comes first; the IP version says the same.
            0 | 108 => data.get(4..).and_then(|ip| LaxSlicedPacket::from_ip(ip).ok()),
            // The EtherType ends the first version's header and begins the second's.
            113 => cooked(data, 14, 16),
            276 => cooked(data, 0, 20),
            _ => {
                self.unknown_link = Some(link);
                return Ok(());
            }
        }) else {
            return Ok(());
        };
        let Some(packet) = transport(&packet, time.saturating_sub(first)) else { return Ok(()) };
        self.payload_bytes += packet.payload.len();
        if self.kept.len() >= MAX_PACKETS || self.payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(CaptureError::TooLarge { path: self.path.to_owned() });
        }
        self.kept.push(packet);
        Ok(())
    }
}

/// Source: pcapng specification (draft-ietf-opsawg-pcapng), option if_tsresol: a power of ten, or
/// of two when the highest bit is set; microseconds when absent.
fn units_per_second(interface: &InterfaceDescriptionBlock<'_>) -> u128 {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    match resolution.unwrap_or(6) {
        power if power & 0x80 != 0 => 1 << (power & 0x7F).min(63),
        power => 10_u128.pow(u32::from(power.min(18))),
    }
}

fn scale(units: u128, units_per_second: u128) -> Duration {
    let nanoseconds = units.saturating_mul(1_000_000_000) / units_per_second.max(1);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

fn cooked(data: &[u8], ether_type_at: usize, header_len: usize) -> Option<LaxSlicedPacket<'_>> {
    let [high, low] = data.get(ether_type_at..ether_type_at + 2)? else { return None };
    let ether_type = EtherType(u16::from_be_bytes([*high, *low]));
    Some(LaxSlicedPacket::from_ether_type(ether_type, data.get(header_len..)?))
}

fn transport(packet: &LaxSlicedPacket<'_>, time: Duration) -> Option<Packet> {
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    // A fragment's payload starts with no transport header, except the first one's.
    if packet.ip_payload().is_some_and(|payload| payload.fragmented) {
        return None;
    }
    let (source_port, destination_port, transport, payload) = match packet.transport.as_ref()? {
        TransportSlice::Udp(udp) => {
            (udp.source_port(), udp.destination_port(), Transport::Udp, udp.payload())
        }
        TransportSlice::Tcp(tcp) => {
            let (syn, ack, fin, rst) = (tcp.syn(), tcp.ack(), tcp.fin(), tcp.rst());
            let sequence = tcp.sequence_number().wrapping_add(u32::from(syn));
            let transport = Transport::Tcp { sequence, syn, ack, fin, rst };
            (tcp.source_port(), tcp.destination_port(), transport, tcp.payload())
        }
        _ => return None,
    };
    Some(Packet {
        time,
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        transport,
        payload: Bytes::copy_from_slice(payload),
    })
}

#[cfg(test)]
mod tests;
