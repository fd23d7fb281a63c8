//! The script of a replay, made from a capture alone: who logged in, what they asked over HTTP,
//! what went over each circuit, which assets can be rebuilt, and in which order it all happened.
//!
//! Pure: packets in, script out. The stand-ins act it out.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::http::{self, Exchange};
use super::pcap::{Packet, Transport};
use super::tcp;
use crate::asset::AssetKind;
use crate::lludp::circuit::UseCircuitCode;
use crate::lludp::{self, MessageBody, MessageNumber, PacketFlags};

mod assets;
mod attribution;
mod downloads;

pub(crate) use assets::Assets;
pub(crate) use assets::{content_range, host_of};
pub(crate) use attribution::{asked_asset, asks_for_grid_info, authority_of, is_grid_info, url_of};
use attribution::{attribute, named_login};
pub(crate) use downloads::{
    Assembly, Block, Download, DownloadId, Piece, answer, blocks, placeholder_answer, requested,
};

/// Everything a replay needs.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) sessions: Vec<Session>,
    pub(crate) exchanges: Vec<ScriptedExchange>,
    pub(crate) circuits: Vec<Circuit>,
    pub(crate) datagrams: Vec<Datagram>,
    pub(crate) downloads: Vec<Download>,
    /// The complete, valid assets.
    pub(crate) assets: Assets,
    /// What happens, ascending in time.
    pub(crate) steps: Vec<Step>,
    /// What must have been received before anything later happens, ascending in time.
    pub(crate) milestones: Vec<(Duration, Milestone)>,
}

/// One login that was granted.
#[derive(Debug)]
pub(crate) struct Session {
    /// The login URL as the viewer named it, without scheme: `host:port/path`.
    pub(crate) login: String,
    pub(crate) circuit_code: u32,
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Login,
    Seed,
    EventQueue,
    /// An asset capability; with the asset when kind and id are well-formed.
    Asset(Option<(AssetKind, Uuid)>),
    /// A capability that is no business of ours, or a page.
    Other,
}

/// An HTTP exchange and whose it is.
#[derive(Debug)]
pub(crate) struct ScriptedExchange {
    pub(crate) exchange: Exchange,
    pub(crate) session: usize,
    pub(crate) role: Role,
    /// A GET of a complete, valid asset: one request of the report.
    pub(crate) counted: Option<(AssetKind, Uuid)>,
}

/// The conversation of one viewer socket with one simulator.
#[derive(Debug)]
pub(crate) struct Circuit {
    pub(crate) session: usize,
    pub(crate) viewer: SocketAddr,
    pub(crate) simulator: SocketAddr,
    /// The captured sequence numbers of what each side replays: the viewer's, the simulator's.
    pub(crate) sequences: [BTreeSet<u32>; 2],
}

/// How a datagram is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramKind {
    Plain,
    /// StartPingCheck: its OldestUnacked is made.
    Ping,
    /// Asks for assets: a proxy may answer it itself.
    AssetRequest,
    /// No LLUDP packet: sent as it is.
    Malformed,
}

/// A datagram that is replayed when its time has come; acks and asset answers are not among them.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) circuit: usize,
    pub(crate) from_viewer: bool,
    pub(crate) kind: DatagramKind,
    /// The captured number; what is sent has one of the stand-in's own counter.
    pub(crate) sequence: u32,
    /// Without ack trailer and ACK flag.
    pub(crate) bytes: Bytes,
}

/// Something that happens at a time; the numbers are indices into the script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) time: Duration,
    pub(crate) action: Action,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// The viewer sends this exchange's request.
    Request(usize),
    /// The grid sends this exchange's response (assets are answered on demand instead).
    Respond(usize),
    /// The viewer closes the connection on which it waits for this exchange.
    Abandon(usize),
    /// This datagram is sent.
    Send(usize),
}

/// What has come to the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Milestone {
    /// The whole response of this exchange.
    Response(usize),
    /// All of this download.
    Download(usize),
}

impl Script {
    /// Makes the script. `None` when no login in the capture was granted.
    pub(crate) fn new(packets: &[Packet]) -> Option<Self> {
        let mut exchanges: Vec<Exchange> = tcp::connections(packets)
            .iter()
            .enumerate()
            .flat_map(|(index, connection)| http::exchanges(index, connection))
            .collect();
        exchanges.sort_by_key(|exchange| exchange.sent);
        let (sessions, exchanges) = attribute(exchanges);
        if sessions.is_empty() {
            return None;
        }
        let circuits = circuits(packets, &sessions);
        let mut script = Self {
            sessions,
            exchanges,
            circuits,
            datagrams: Vec::new(),
            downloads: Vec::new(),
            assets: Assets::default(),
            steps: Vec::new(),
            milestones: Vec::new(),
        };
        script.add_datagrams(packets);
        script.assets = Assets::rebuild(&script.exchanges, &script.downloads);
        script.count();
        script.add_exchanges();
        script.steps.sort_by_key(|step| (step.time, step.action));
        script.milestones.sort_unstable();
        Some(script)
    }

    /// The download of this name on this circuit.
    pub(crate) fn download(&self, circuit: usize, id: DownloadId) -> Option<(usize, &Download)> {
        self.downloads
            .iter()
            .enumerate()
            .find(|(_, download)| (download.circuit, download.id) == (circuit, id))
    }

    /// Whether the grid keeps this exchange waiting until it has something to say, and the capture
    /// says how long.
    pub(crate) fn is_held(&self, index: usize) -> bool {
        self.exchanges.get(index).is_some_and(|scripted| {
            scripted.role == Role::EventQueue
                && (scripted.exchange.reply.is_some() || self.successor(index).is_some())
        })
    }

    /// The poll by which the viewer went on after giving this one up: the same queue, the same ack.
    pub(crate) fn successor(&self, index: usize) -> Option<usize> {
        let given_up = self.exchanges.get(index)?;
        let request = &given_up.exchange.request;
        let mut later = self.exchanges.iter().enumerate().skip(index + 1);
        later
            .find(|(_, scripted)| {
                let other = &scripted.exchange.request;
                scripted.role == Role::EventQueue
                    && scripted.exchange.server == given_up.exchange.server
                    && (&other.method, &other.target, &other.body)
                        == (&request.method, &request.target, &request.body)
                    && scripted.exchange.reply.is_some()
            })
            .map(|(index, _)| index)
    }

    /// Authorities that grid informations in the capture name for the login, and the server that
    /// said so.
    pub(crate) fn named_logins(&self) -> Vec<(String, SocketAddr)> {
        let named = |scripted: &ScriptedExchange| {
            let exchange = &scripted.exchange;
            let reply = exchange.reply.as_ref().filter(|_| is_grid_info(&exchange.request.target))?;
            let login = named_login(&reply.response.body)?;
            let authority = login.split(['/', '?']).next()?.to_owned();
            Some((authority, exchange.server))
        };
        self.exchanges.iter().filter_map(named).collect()
    }

    /// The captured HTTP servers.
    pub(crate) fn servers(&self) -> BTreeSet<SocketAddr> {
        self.exchanges.iter().map(|exchange| exchange.exchange.server).collect()
    }

    #[cfg(test)]
    pub(crate) fn simulators(&self) -> BTreeSet<SocketAddr> {
        self.circuits.iter().map(|circuit| circuit.simulator).collect()
    }

    fn add_datagrams(&mut self, packets: &[Packet]) {
        let by_ends: HashMap<(SocketAddr, SocketAddr), (usize, bool)> = self
            .circuits
            .iter()
            .enumerate()
            .flat_map(|(index, circuit)| {
                let (viewer, simulator) = (circuit.viewer, circuit.simulator);
                [((viewer, simulator), (index, true)), ((simulator, viewer), (index, false))]
            })
            .collect();
        let mut downloads = downloads::Collector::default();
        for packet in packets.iter().filter(|packet| packet.transport == Transport::Udp) {
            let Some((circuit, from_viewer)) = by_ends.get(&(packet.source, packet.destination)).copied()
            else {
                continue;
            };
            let Some((kind, sequence, bytes)) = (match lludp::Packet::decode(&packet.payload) {
                Ok(decoded) if decoded.number == MessageNumber::PACKET_ACK => None,
                Ok(decoded) => {
                    if downloads.take(circuit, from_viewer, packet.time, &decoded, &packet.payload) {
                        None
                    } else {
                        Some(replayed(&decoded, &packet.payload))
                    }
                }
                Err(_) => Some((DatagramKind::Malformed, 0, packet.payload.clone())),
            }) else {
                continue;
            };
            if kind != DatagramKind::Malformed
                && let Some(circuit) = self.circuits.get_mut(circuit)
            {
                let [viewer, simulator] = &mut circuit.sequences;
                if from_viewer {
                    viewer.insert(sequence)
                } else {
                    simulator.insert(sequence)
                };
            }
            self.steps.push(Step { time: packet.time, action: Action::Send(self.datagrams.len()) });
            self.datagrams.push(Datagram { circuit, from_viewer, kind, sequence, bytes });
        }
        self.downloads = downloads.finish();
    }

    /// Marks what counts as a request, and gives counted downloads a whole answer.
    fn count(&mut self) {
        for scripted in &mut self.exchanges {
            if let (Role::Asset(Some(asset)), "GET") =
                (scripted.role, scripted.exchange.request.method.as_str())
            {
                let answered = scripted.exchange.reply.as_ref();
                // A pending request may have been anything; a refused one is no request that counts.
                let granted = answered.is_none_or(|reply| matches!(reply.response.status, 200 | 206));
                scripted.counted = Some(asset).filter(|asset| granted && self.assets.get(asset).is_some());
            }
        }
        for download in &mut self.downloads {
            download.settle(&self.assets);
        }
        for (index, download) in self.downloads.iter().enumerate() {
            if let Some(time) = download.ended.filter(|_| !download.answers.is_empty()) {
                self.milestones.push((time, Milestone::Download(index)));
            }
        }
    }

    fn add_exchanges(&mut self) {
        for (index, scripted) in self.exchanges.iter().enumerate() {
            let exchange = &scripted.exchange;
            self.steps.push(Step { time: exchange.sent, action: Action::Request(index) });
            if let Some(reply) = &exchange.reply {
                self.milestones.push((reply.last_byte, Milestone::Response(index)));
                if !matches!(scripted.role, Role::Asset(_)) {
                    self.steps.push(Step { time: reply.first_byte, action: Action::Respond(index) });
                }
            } else if let Some(time) = exchange.abandoned {
                self.steps.push(Step { time, action: Action::Abandon(index) });
            }
        }
    }
}

fn replayed(decoded: &lludp::Packet<'_>, payload: &Bytes) -> (DatagramKind, u32, Bytes) {
    let kind = match decoded.number {
        MessageNumber::START_PING_CHECK => DatagramKind::Ping,
        MessageNumber::REQUEST_IMAGE | MessageNumber::TRANSFER_REQUEST | MessageNumber::TRANSFER_ABORT => {
            DatagramKind::AssetRequest
        }
        _ => DatagramKind::Plain,
    };
    (kind, decoded.sequence.0, without_acks(payload))
}

/// The datagram as its sender had it before acks were appended.
fn without_acks(payload: &Bytes) -> Bytes {
    let mut bytes = payload.to_vec();
    // Only packets that decode come here, and those have a whole trailer.
    let _ = lludp::strip_acks(&mut bytes);
    Bytes::from(bytes)
}

/// Clears the mark of a copy: on a new circuit it is the first that is sent.
fn without_resent(mut bytes: Vec<u8>) -> Bytes {
    if let Some(flags) = bytes.first_mut() {
        *flags = PacketFlags(*flags).without(PacketFlags::RESENT).0;
    }
    Bytes::from(bytes)
}

/// A circuit for every pair of endpoints over which a session's code was sent.
fn circuits(packets: &[Packet], sessions: &[Session]) -> Vec<Circuit> {
    let mut found: Vec<Circuit> = Vec::new();
    for packet in packets.iter().filter(|packet| packet.transport == Transport::Udp) {
        let Some(code) = circuit_code(&packet.payload) else { continue };
        let Some(session) = sessions.iter().position(|session| session.circuit_code == code) else {
            continue;
        };
        let (viewer, simulator) = (packet.source, packet.destination);
        if !found.iter().any(|circuit| (circuit.viewer, circuit.simulator) == (viewer, simulator)) {
            found.push(Circuit { session, viewer, simulator, sequences: Default::default() });
        }
    }
    found
}

/// The code of a UseCircuitCode.
pub(crate) fn circuit_code(datagram: &[u8]) -> Option<u32> {
    let packet = lludp::Packet::decode(datagram).ok()?;
    if packet.number != MessageNumber::USE_CIRCUIT_CODE {
        return None;
    }
    let mut scratch = Vec::new();
    let message = UseCircuitCode::decode(packet.body(&mut scratch).ok()?).ok()?;
    Some(message.code.reveal().0)
}

#[cfg(test)]
mod tests;
