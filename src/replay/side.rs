//! The LLUDP half of a stand-in: its sockets, its ends of all circuits, and what arrives there.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::board::{Board, Expected};
use super::link::Link;
use super::script::{self, DownloadId, Script};
use super::udp::{self, Arrival, End};
use crate::asset::{AssetKind, policy};
use crate::lludp::{MessageNumber, Packet, PacketFlags};

/// How often acks and resends are looked after.
const TICK: Duration = Duration::from_millis(10);
/// What a socket may hold while its task waits for a processor.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Larger than any datagram of a viewer. Source: Second Life viewer, indra/llmessage/net.h.
const RECEIVE_BYTES: usize = 64 << 10;

/// Either all simulators or all viewers of a script.
pub(crate) struct Side {
    script: Arc<Script>,
    board: Arc<Board>,
    link: Option<Arc<Link>>,
    is_simulator: bool,
    /// Captured endpoint of ours → its socket.
    sockets: HashMap<SocketAddr, Arc<UdpSocket>>,
    /// One end per circuit.
    ends: Vec<Mutex<End>>,
    /// Circuits on which the proxy has asked for the picture in place of missing ones.
    probes: Mutex<HashSet<usize>>,
    /// Per circuit: where its other side is.
    peers: Mutex<Vec<Option<SocketAddr>>>,
}

impl Side {
    /// Opens a loopback socket for every captured endpoint of this side.
    pub(crate) fn open(
        script: &Arc<Script>,
        board: &Arc<Board>,
        link: Option<Arc<Link>>,
        is_simulator: bool,
    ) -> std::io::Result<Self> {
        let mut sockets = HashMap::new();
        let ours = |circuit: &script::Circuit| if is_simulator { circuit.simulator } else { circuit.viewer };
        for circuit in &script.circuits {
            if let std::collections::hash_map::Entry::Vacant(entry) = sockets.entry(ours(circuit)) {
                entry.insert(Arc::new(bind()?));
            }
        }
        let sequences = |circuit: &script::Circuit| {
            let [viewer, simulator] = &circuit.sequences;
            Mutex::new(End::new(if is_simulator { simulator } else { viewer }))
        };
        Ok(Self {
            script: Arc::clone(script),
            board: Arc::clone(board),
            link,
            is_simulator,
            sockets,
            ends: script.circuits.iter().map(sequences).collect(),
            probes: Mutex::default(),
            peers: Mutex::new(vec![None; script.circuits.len()]),
        })
    }

    /// Captured endpoint → where it is in this replay.
    pub(crate) fn addresses(&self) -> HashMap<SocketAddr, SocketAddr> {
        let address =
            |(captured, socket): (&SocketAddr, &Arc<UdpSocket>)| Some((*captured, socket.local_addr().ok()?));
        self.sockets.iter().filter_map(address).collect()
    }

    /// Sets where the other side of a circuit is.
    pub(crate) fn set_peer(&self, circuit: usize, peer: SocketAddr) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = peers.get_mut(circuit) {
            *entry = Some(peer);
        }
    }

    fn peer(&self, circuit: usize) -> Option<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(circuit).copied().flatten()
    }

    fn socket(&self, circuit: usize) -> Option<&Arc<UdpSocket>> {
        let circuit = self.script.circuits.get(circuit)?;
        self.sockets.get(if self.is_simulator { &circuit.simulator } else { &circuit.viewer })
    }

    fn end<R>(&self, circuit: usize, act: impl FnOnce(&mut End) -> R) -> Option<R> {
        Some(act(&mut self.ends.get(circuit)?.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Sends a datagram of the script and notes that it must arrive.
    pub(crate) async fn replay(&self, index: usize) {
        let Some(datagram) = self.script.datagrams.get(index) else { return };
        let circuit = datagram.circuit;
        let Some((bytes, sequence)) =
            self.end(circuit, |end| end.replay(datagram.kind, datagram.sequence, &datagram.bytes))
        else {
            return;
        };
        let flags = PacketFlags(bytes.first().copied().unwrap_or_default());
        self.board.update(|ledger| {
            ledger.expect(Expected {
                circuit,
                to_simulator: !self.is_simulator,
                kind: datagram.kind,
                content: udp::content(&bytes).into(),
                resent: flags.contains(PacketFlags::RESENT),
                sequence,
                sent: Instant::now(),
                blocks: Packet::decode(&bytes).map(|packet| script::blocks(&packet)).unwrap_or_default(),
            });
        });
        self.transmit(circuit, vec![bytes]).await;
    }

    async fn transmit(&self, circuit: usize, datagrams: Vec<Vec<u8>>) {
        let (Some(socket), Some(peer)) = (self.socket(circuit), self.peer(circuit)) else { return };
        for datagram in datagrams {
            // What the kernel does not take is sent again, or missed and reported as lost.
            let _ = socket.send_to(&datagram, peer).await;
        }
    }

    /// Sends queued asset answers as far as the window allows, over the shaped line if there is one.
    async fn pump(&self, circuit: usize) {
        let datagrams = self.end(circuit, End::pump).unwrap_or_default();
        let Some(link) = &self.link else { return self.transmit(circuit, datagrams).await };
        let (Some(socket), Some(peer)) = (self.socket(circuit), self.peer(circuit)) else { return };
        for datagram in datagrams {
            let (arrival, socket) = (link.send(datagram.len()), Arc::clone(socket));
            tokio::spawn(async move {
                tokio::time::sleep_until(arrival).await;
                let _ = socket.send_to(&datagram, peer).await;
            });
        }
    }

    /// The tasks of this side: one per socket, and one that looks after acks and resends.
    pub(crate) fn start(self: &Arc<Self>, tasks: &mut tokio::task::JoinSet<()>) {
        for (ours, socket) in &self.sockets {
            let (side, ours, socket) = (Arc::clone(self), *ours, Arc::clone(socket));
            tasks.spawn(async move { side.receive(ours, &socket).await });
        }
        let side = Arc::clone(self);
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                for circuit in 0..side.ends.len() {
                    let due = side.end(circuit, End::tick).unwrap_or_default();
                    side.transmit(circuit, due).await;
                    side.pump(circuit).await;
                }
            }
        });
    }

    async fn receive(&self, ours: SocketAddr, socket: &UdpSocket) {
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let Ok((len, source)) = socket.recv_from(&mut buffer).await else { continue };
            let bytes = buffer.get(..len).unwrap_or_default();
            let Some(circuit) = self.circuit_of(ours, source, bytes) else {
                self.board.error(format!("a datagram of {len} bytes came from an address without a circuit"));
                continue;
            };
            if let Some(arrival) = self.end(circuit, |end| end.receive(bytes)) {
                self.take(circuit, bytes, &arrival);
            }
            let acks = self.end(circuit, End::acks_due).unwrap_or_default();
            self.transmit(circuit, acks).await;
            self.pump(circuit).await;
        }
    }

    /// A viewer's circuit is told by its UseCircuitCode, as a simulator tells it, and from then on
    /// by the address it came from; a simulator's by its address.
    fn circuit_of(&self, ours: SocketAddr, source: SocketAddr, bytes: &[u8]) -> Option<usize> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mine = self.script.circuits.iter().enumerate().filter(|(_, circuit)| {
            ours == if self.is_simulator { circuit.simulator } else { circuit.viewer }
        });
        if self.is_simulator
            && let Some(code) = script::circuit_code(bytes)
        {
            let (index, _) = mine.find(|(_, circuit)| {
                self.script.sessions.get(circuit.session).is_some_and(|session| session.circuit_code == code)
            })?;
            *peers.get_mut(index)? = Some(source);
            return Some(index);
        }
        mine.map(|(index, _)| index).find(|index| peers.get(*index).copied().flatten() == Some(source))
    }

    fn take(&self, circuit: usize, bytes: &[u8], arrival: &Arrival) {
        if arrival.is_ack {
            return;
        }
        let packet = Packet::decode(bytes).ok();
        if let Some(packet) = &packet {
            if self.is_simulator {
                self.answer(circuit, packet);
            } else if self.assemble(circuit, packet, bytes.len(), arrival.resent) {
                return;
            }
        }
        let probes = self.is_simulator && packet.as_ref().is_some_and(|packet| self.probed(circuit, packet));
        self.board.update(|ledger| {
            let expected = ledger.delivered(
                circuit,
                self.is_simulator,
                &arrival.content,
                arrival.sequence,
                arrival.resent,
            );
            let expected = expected
                || packet.as_ref().is_some_and(|packet| {
                    packet.number == MessageNumber::REQUEST_IMAGE
                        && ledger.delivered_in_part(circuit, &arrival.content, &script::blocks(packet))
                });
            if !expected && !arrival.resent && !arrival.duplicate && !probes {
                let to = if self.is_simulator { "the simulator" } else { "the viewer" };
                let name = udp::message_name(&arrival.content);
                ledger.error(format!("{to} got a datagram that nobody sent: {name}, {} bytes", bytes.len()));
            }
        });
    }

    /// Answers a proxy that asks for the picture in place of missing ones, so as not to learn it
    /// under other names. False for anything else.
    fn probed(&self, circuit: usize, packet: &Packet<'_>) -> bool {
        let id = DownloadId::Image(policy::MISSING_IMAGE.0);
        let blocks = script::blocks(packet);
        let probes = packet.number == MessageNumber::REQUEST_IMAGE
            && !blocks.is_empty()
            && blocks.iter().all(|block| block.id == id)
            && self.script.download(circuit, id).is_none();
        if probes && self.probes.lock().unwrap_or_else(PoisonError::into_inner).insert(circuit) {
            let held = self.script.assets.get(&(AssetKind::Texture, policy::MISSING_IMAGE.0));
            let answers = script::placeholder_answer(held);
            self.end(circuit, |end| end.queue(&answers));
        }
        probes
    }

    /// Queues what the captured simulator answered, once per download.
    fn answer(&self, circuit: usize, packet: &Packet<'_>) {
        for id in script::requested(packet) {
            let Some((index, download)) = self.script.download(circuit, id) else { continue };
            let first = self.board.update(|ledger| {
                let first = !std::mem::replace(&mut ledger.downloads.get_mut(index)?.answered, true);
                if let Some((kind, id)) = download.asset.filter(|_| download.counted) {
                    let host = self.script.circuits.get(circuit)?.simulator.ip().to_string();
                    *ledger.asked_of_simulator.entry((kind, id, host)).or_default() += 1;
                }
                let state = ledger.downloads.get_mut(index)?;
                if first && download.counted {
                    state.from_grid = download.data_bytes();
                    ledger.from_grid += download.data_bytes();
                }
                Some(first)
            });
            if first == Some(true) {
                self.end(circuit, |end| end.queue(&download.answers));
            }
        }
    }

    /// Takes an asset answer in. False when it belongs to no download of the script.
    fn assemble(&self, circuit: usize, packet: &Packet<'_>, len: usize, resent: bool) -> bool {
        let Some(answer) = script::answer(packet) else { return false };
        let Some((index, download)) = self.script.download(circuit, answer.id) else { return false };
        self.board.update(|ledger| {
            let Some(state) = ledger.downloads.get_mut(index) else { return };
            if state.complete {
                return;
            }
            if !state.pieces.insert(answer.piece) {
                let made_up = download.asset.filter(|_| download.counted && !resent);
                if let Some((kind, id)) = made_up {
                    ledger.error(format!("{kind} {id} over LLUDP: {:?} came twice", answer.piece));
                }
                return;
            }
            if download.counted && len > 1200 {
                ledger.error(format!("a packet of {len} bytes came over LLUDP, more than a viewer reads"));
            }
            let Some(state) = ledger.downloads.get_mut(index) else { return };
            let fresh = state.assembly.packet(&answer);
            let whole = state.assembly.clone_whole_if(download.counted);
            state.complete =
                whole.is_some() || (!download.counted && state.pieces.len() >= download.answers.len());
            let fault = whole.as_ref().and_then(|_| state.assembly.fault());
            let complete = state.complete;
            let took = state.asked.filter(|_| complete && download.counted).map(|asked| asked.elapsed());
            ledger.latencies.extend(took);
            if download.counted {
                ledger.to_viewer += u64::try_from(fresh).unwrap_or(u64::MAX);
            }
            let (true, Some(asset)) = (complete && download.counted, download.asset) else { return };
            if let Some(fault) = fault {
                ledger.error(format!("{} {} over LLUDP {fault}", asset.0, asset.1));
            }
            match (&whole, self.script.assets.get(&asset)) {
                (Some(body), Some(expected)) if body == expected => {
                    ledger.keep(asset.1, body.len(), 0, body);
                }
                _ => {
                    ledger.mismatched += 1;
                    ledger.error(format!(
                        "{} {} over LLUDP: other bytes than in the capture",
                        asset.0, asset.1
                    ));
                }
            }
        });
        true
    }
}

fn bind() -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let options = socket2::SockRef::from(&socket);
    // A smaller buffer than wished for is no reason to stop.
    let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    UdpSocket::from_std(socket)
}
