//! TCP connections put together again: each direction's bytes in order, with the time at which
//! every one of them had been captured.
//!
//! Retransmitted, overlapping and reordered segments are sorted out; where bytes are missing for
//! good, the stream ends and says so.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::pcap::{Packet, Transport};

/// The most bytes of one direction held back because earlier ones are missing.
const MAX_PARKED_BYTES: usize = 64 << 20;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The side that opened it.
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) to_server: Stream,
    pub(crate) to_client: Stream,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// Ends of byte ranges and the time their last byte was there, ascending in both.
    times: Vec<(usize, Duration)>,
    /// When this side said that it sends no more (FIN or RST).
    pub(crate) closed: Option<Duration>,
    /// Bytes after these were sent, but are not in the capture.
    pub(crate) broken: bool,
    next: Option<u32>,
    parked: BTreeMap<u64, (Bytes, Duration)>,
    parked_bytes: usize,
    received: u64,
}

impl Stream {
    /// When the byte before `end` had been captured; that is, when `end` bytes were there.
    pub(crate) fn time_of(&self, end: usize) -> Duration {
        let index = self.times.partition_point(|(range_end, _)| *range_end < end);
        self.times.get(index).or(self.times.last()).map_or(Duration::ZERO, |(_, time)| *time)
    }

    fn segment(&mut self, sequence: u32, payload: &Bytes, time: Duration) {
        let next = *self.next.get_or_insert(sequence);
        // Offsets count from the first byte; the signed distance survives the wrap of the counter.
        let distance = i64::from(sequence.wrapping_sub(next).cast_signed());
        let Some(offset) = self.received.checked_add_signed(distance) else {
            return self.old_segment(distance, payload, time);
        };
        self.park(offset, payload.clone(), time);
        self.deliver(time);
    }

    /// A segment that begins before the first byte we know: only what reaches beyond it is new.
    fn old_segment(&mut self, distance: i64, payload: &Bytes, time: Duration) {
        let known = usize::try_from(distance.unsigned_abs()).unwrap_or(usize::MAX);
        let before = known.saturating_sub(usize::try_from(self.received).unwrap_or(usize::MAX));
        if let Some(rest) = payload.get(before..) {
            self.park(0, payload.slice_ref(rest), time);
            self.deliver(time);
        }
    }

    fn park(&mut self, offset: u64, payload: Bytes, time: Duration) {
        if payload.is_empty() || offset + payload.len() as u64 <= self.received {
            return;
        }
        if self.parked_bytes + payload.len() > MAX_PARKED_BYTES {
            self.broken = true;
            return;
        }
        let held = self.parked.get(&offset).map_or(0, |(bytes, _)| bytes.len());
        if payload.len() > held {
            self.parked_bytes = self.parked_bytes - held + payload.len();
            self.parked.insert(offset, (payload, time));
        }
    }

    fn deliver(&mut self, time: Duration) {
        while let Some(entry) = self.parked.first_entry() {
            let offset = *entry.key();
            if offset > self.received {
                break;
            }
            let (payload, _) = entry.remove();
            self.parked_bytes -= payload.len();
            let skip = usize::try_from(self.received - offset).unwrap_or(usize::MAX);
            let Some(fresh) = payload.get(skip..).filter(|fresh| !fresh.is_empty()) else { continue };
            self.bytes.extend_from_slice(fresh);
            self.received += fresh.len() as u64;
            if let (Some(next), Ok(len)) = (self.next.as_mut(), u32::try_from(fresh.len())) {
                *next = next.wrapping_add(len);
            }
            self.times.push((self.bytes.len(), time));
        }
    }

    fn finish(&mut self) {
        self.broken |= !self.parked.is_empty();
        self.parked.clear();
    }
}

/// Puts together every connection, in the order of their first packets. The opener is told by its
/// SYN or, for connections older than the capture, by who speaks first.
pub(crate) fn connections(packets: &[Packet]) -> Vec<Connection> {
    let mut open: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    let mut all: Vec<Connection> = Vec::new();
    for packet in packets {
        let Transport::Tcp { sequence, syn, ack, fin, rst } = packet.transport else { continue };
        let (source, destination) = (packet.source, packet.destination);
        let known = open.get(&(source, destination)).or_else(|| open.get(&(destination, source))).copied();
        // The same ports again with a new SYN, after the old ones have closed: a new connection.
        let known = known.filter(|index| {
            !(syn
                && all
                    .get(*index)
                    .is_some_and(|old| old.to_server.closed.is_some() || old.to_client.closed.is_some()))
        });
        let index = match known {
            Some(index) => index,
            None if packet.payload.is_empty() && !syn => continue,
            None => {
                let (client, server) = opener(packet, syn, ack);
                open.insert((client, server), all.len());
                all.push(Connection {
                    client,
                    server,
                    to_server: Stream::default(),
                    to_client: Stream::default(),
                });
                all.len() - 1
            }
        };
        let Some(connection) = all.get_mut(index) else { continue };
        let stream =
            if source == connection.client { &mut connection.to_server } else { &mut connection.to_client };
        if syn && stream.next.is_none() {
            stream.next = Some(sequence);
        }
        stream.segment(sequence, &packet.payload, packet.time);
        if (fin || rst) && stream.closed.is_none() {
            stream.closed = Some(packet.time);
        }
    }
    for connection in &mut all {
        connection.to_server.finish();
        connection.to_client.finish();
    }
    all
}

/// The client and the server of a connection whose first packet is this one.
fn opener(packet: &Packet, syn: bool, ack: bool) -> (SocketAddr, SocketAddr) {
    let from_server = if syn { ack } else { packet.payload.starts_with(b"HTTP/1.") };
    if from_server { (packet.destination, packet.source) } else { (packet.source, packet.destination) }
}

#[cfg(test)]
mod tests;
