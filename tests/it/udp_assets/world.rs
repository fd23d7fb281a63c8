//! A simulator and viewers on real sockets, with the running proxy between them.
//!
//! Both listen in tasks of their own and keep all they hear, in order, so that a test waits for what
//! must come and looks afterwards at what else came. The simulator answers as OpenSimulator does:
//! `ImageData` zero-coded, `TransferPacket`s of 600 bytes, everything reliable.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rezcache::lludp::assets::{ImageNotInDatabase, TransferInfo, TransferPacket, TransferRequest};
use rezcache::lludp::{
    MessageNumber, PacketFlags, SequenceNumber, UdpAssetRequest, Variable2, asset_requests, encode_packet,
};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(super) use super::wire::{
    ANIMATION, Heard, MISSING_IMAGE, RELIABLE, RESENT, SOUND, Thing, UNKNOWN, ZEROCODED, ack_body, encoded,
    image_bodies, missing_image, packet, params, same_but_number,
};
use crate::proxy_udp::use_circuit_code;
use crate::support::client::get;
use crate::support::{Avatar, Setup, Viewer, within};

/// A socket that is always listened on.
struct Ear {
    socket: Arc<UdpSocket>,
    heard: Arc<watch::Sender<Vec<Heard>>>,
    listening: JoinHandle<()>,
}

impl Ear {
    /// `answer` gives what is sent back at once, or `None` when the datagram was lost.
    async fn open(answer: impl Fn(&Heard) -> Option<Vec<Vec<u8>>> + Send + 'static) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let heard = Arc::new(watch::channel(Vec::new()).0);
        let listening = tokio::spawn({
            let (socket, heard) = (Arc::clone(&socket), Arc::clone(&heard));
            async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                    let new = Heard::read(&buffer[..length], from);
                    let Some(answers) = answer(&new) else { continue };
                    heard.send_modify(|all: &mut Vec<Heard>| all.push(new));
                    for (n, datagram) in answers.iter().enumerate() {
                        let _ = socket.send_to(datagram, from).await;
                        // A simulator paces too; nothing here is about full socket buffers.
                        if n % 16 == 15 {
                            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                        }
                    }
                }
            }
        });
        Self { socket, heard, listening }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    async fn until(&self, enough: impl Fn(&[Heard]) -> bool) {
        within(self.heard.subscribe().wait_for(|all| enough(all))).await.unwrap();
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What the simulator holds, and how it behaves.
#[derive(Default)]
struct Region {
    images: HashMap<Uuid, Arc<Vec<u8>>>,
    transfers: HashMap<Uuid, Arc<Vec<u8>>>,
    /// Unknown textures are answered with the missing image's bytes.
    substitutes: bool,
    /// Says nothing to who asks for a texture.
    mute: bool,
    /// Packets of a texture sent for one request; 0 is all.
    at_most: usize,
    sequences: HashMap<SocketAddr, u32>,
}

impl Region {
    fn packet(&mut self, to: SocketAddr, flags: u8, number: MessageNumber, body: &[u8]) -> Vec<u8> {
        let sequence = self.sequences.entry(to).or_insert(0);
        *sequence += 1;
        packet(flags, *sequence, number, body)
    }

    fn answer(&mut self, heard: &Heard) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if heard.has(RELIABLE) {
            let body = ack_body(&[heard.sequence]);
            out.push(self.packet(heard.from, 0, MessageNumber::PACKET_ACK, &body));
        }
        for request in asset_requests(heard.number, &heard.body).unwrap() {
            match request {
                UdpAssetRequest::Image(block) if block.discard >= 0 && !self.mute => {
                    self.send_image(heard.from, block.image, block.packet, &mut out);
                }
                UdpAssetRequest::Image(_) => {}
                UdpAssetRequest::Transfer(request) => self.send_transfer(heard.from, &request, &mut out),
            }
        }
        out
    }

    fn send_image(&mut self, to: SocketAddr, id: Uuid, first: u32, out: &mut Vec<Vec<u8>>) {
        let held =
            self.images.get(&id).or_else(|| self.images.get(&MISSING_IMAGE).filter(|_| self.substitutes));
        let Some(bytes) = held.cloned() else {
            let body = encoded(&ImageNotInDatabase { image: id });
            out.push(self.packet(to, RELIABLE, MessageNumber::IMAGE_NOT_IN_DATABASE, &body));
            return;
        };
        let end = if self.at_most == 0 { usize::MAX } else { first.max(1) as usize + self.at_most };
        for (n, body) in image_bodies(id, &bytes).into_iter().enumerate().take(end) {
            if n == 0 {
                out.push(self.packet(to, RELIABLE | ZEROCODED, MessageNumber::IMAGE_DATA, &body));
            } else if n >= first as usize {
                let coded = if n % 3 == 2 { ZEROCODED } else { 0 };
                out.push(self.packet(to, RELIABLE | coded, MessageNumber::IMAGE_PACKET, &body));
            }
        }
    }

    fn send_transfer(&mut self, to: SocketAddr, request: &TransferRequest<'_>, out: &mut Vec<Vec<u8>>) {
        // Of any source, so that what must not be learned could be.
        let at = if request.source == 2 { 0 } else { request.params.0.len() - 20 };
        let id = Uuid::from_slice(&request.params.0[at..][..16]).unwrap();
        let held = self.transfers.get(&id).cloned();
        let info = TransferInfo {
            transfer: request.transfer,
            channel: request.channel,
            target: 0,
            status: if held.is_some() { 0 } else { -2 },
            size: held.as_ref().map_or(0, |bytes| i32::try_from(bytes.len()).unwrap()),
            params: request.params,
        };
        out.push(self.packet(to, RELIABLE | ZEROCODED, MessageNumber::TRANSFER_INFO, &encoded(&info)));
        let Some(bytes) = held else { return };
        let last = bytes.len().div_ceil(600) - 1;
        for (n, data) in bytes.chunks(600).enumerate() {
            let body = encoded(&TransferPacket {
                transfer: request.transfer,
                channel: request.channel,
                packet: i32::try_from(n).unwrap(),
                status: i32::from(n == last),
                data: Variable2(data),
            });
            let coded = if n % 3 == 2 { ZEROCODED } else { 0 };
            out.push(self.packet(to, RELIABLE | coded, MessageNumber::TRANSFER_PACKET, &body));
        }
    }
}

/// The simulator.
pub(super) struct Sim {
    ear: Ear,
    region: Arc<Mutex<Region>>,
}

impl Sim {
    /// One that holds these and the missing image.
    pub(super) async fn holding(things: &[&Thing]) -> Self {
        let mut region = Region::default();
        for thing in things {
            region.images.insert(thing.id, Arc::clone(&thing.bytes));
            region.transfers.insert(thing.id, Arc::clone(&thing.bytes));
        }
        region.images.insert(MISSING_IMAGE, missing_image());
        let region = Arc::new(Mutex::new(region));
        let answering = Arc::clone(&region);
        let ear = Ear::open(move |heard| Some(answering.lock().unwrap().answer(heard))).await;
        Self { ear, region }
    }

    pub(super) fn substitutes_what_is_missing(&self) {
        self.region.lock().unwrap().substitutes = true;
    }

    /// The last number it used toward this viewer is now this one.
    pub(super) fn counts_on_from(&self, viewer: &Player, last: u32) {
        self.region.lock().unwrap().sequences.insert(viewer.session, last);
    }

    /// Answers no request for a texture any more.
    pub(super) fn falls_mute(&self) {
        self.region.lock().unwrap().mute = true;
    }

    /// Sends only so many packets of each texture, as for a lower resolution; 0 is all.
    pub(super) fn sends_at_most(&self, packets: usize) {
        self.region.lock().unwrap().at_most = packets;
    }

    pub(super) fn also_holds(&self, id: Uuid, bytes: &Arc<Vec<u8>>) {
        let mut region = self.region.lock().unwrap();
        region.images.insert(id, Arc::clone(bytes));
        region.transfers.insert(id, Arc::clone(bytes));
    }

    pub(super) fn at(&self) -> SocketAddr {
        self.ear.socket.local_addr().unwrap()
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.ear.heard()
    }

    pub(super) async fn until(&self, enough: impl Fn(&[Heard]) -> bool) {
        self.ear.until(enough).await;
    }

    /// Sends a message of the simulator's own; its datagram.
    pub(super) async fn send(
        &self,
        viewer: &Player,
        flags: u8,
        number: MessageNumber,
        body: &[u8],
    ) -> Vec<u8> {
        let datagram = self.region.lock().unwrap().packet(viewer.session, flags, number, body);
        self.send_raw(viewer, &datagram).await;
        datagram
    }

    pub(super) async fn send_raw(&self, viewer: &Player, datagram: &[u8]) {
        within(self.ear.socket.send_to(datagram, viewer.session)).await.unwrap();
    }

    /// How many blocks asked for this texture.
    pub(super) fn asked_for_image(&self, id: Uuid) -> usize {
        let asks = |heard: &Heard| {
            let requests = asset_requests(heard.number, &heard.body).unwrap();
            requests.filter(|one| matches!(one, UdpAssetRequest::Image(block) if block.image == id)).count()
        };
        self.heard().iter().map(asks).sum()
    }

    /// How many transfers were asked for, of whatever source.
    pub(super) fn asked_for_transfers(&self) -> usize {
        self.heard().iter().filter(|heard| heard.number == MessageNumber::TRANSFER_REQUEST).count()
    }
}

/// A viewer with its circuit.
pub(super) struct Player {
    ear: Ear,
    pub(super) avatar: Avatar,
    pub(super) login: Viewer,
    /// Where the simulator sees it.
    pub(super) session: SocketAddr,
    sequence: Arc<AtomicU32>,
    acks: Arc<AtomicBool>,
    loses: Arc<AtomicU32>,
}

/// One block of a `RequestImage`.
#[derive(Clone, Copy)]
pub(super) struct Want {
    pub(super) id: Uuid,
    pub(super) discard: i8,
    pub(super) priority: f32,
    pub(super) packet: u32,
    pub(super) kind: u8,
}

impl Want {
    pub(super) const fn whole(id: Uuid) -> Self {
        Self { id, discard: 0, priority: 100_000.0, packet: 0, kind: 0 }
    }
}

impl Player {
    /// Logs in and opens the circuit; acknowledges all it hears until told otherwise.
    pub(super) async fn enter(setup: &Setup, avatar: u8, sim: &Sim) -> Self {
        let avatar = Avatar::number(avatar);
        let login = setup.login(&avatar, sim.at()).await;
        let (sequence, acks) = (Arc::new(AtomicU32::new(1)), Arc::new(AtomicBool::new(true)));
        let (counter, acking) = (Arc::clone(&sequence), Arc::clone(&acks));
        let loses = Arc::new(AtomicU32::new(0));
        let (losing, arrived) = (Arc::clone(&loses), AtomicU32::new(0));
        let ear = Ear::open(move |heard| {
            let arrived = arrived.fetch_add(1, Ordering::SeqCst);
            if arrived.checked_rem(losing.load(Ordering::SeqCst)) == Some(0) {
                return None;
            }
            if !heard.has(RELIABLE) || !acking.load(Ordering::SeqCst) {
                return Some(Vec::new());
            }
            let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
            Some(vec![packet(0, number, MessageNumber::PACKET_ACK, &ack_body(&[heard.sequence]))])
        })
        .await;
        let opening = use_circuit_code(&avatar, 1);
        within(ear.socket.send_to(&opening, login.simulator)).await.unwrap();
        let own = |heard: &&Heard| heard.datagram == opening;
        sim.until(|all| all.iter().any(|heard| own(&heard))).await;
        let session = sim.heard().iter().find(own).unwrap().from;
        // Before a simulator has said anything there are no numbers to inject under.
        ear.until(|all| !all.is_empty()).await;
        Self { ear, avatar, login, session, sequence, acks, loses }
    }

    /// From now on every so manyth datagram is lost on its way to the viewer.
    pub(super) fn loses_every(&self, nth: u32) {
        self.loses.store(nth, Ordering::SeqCst);
    }

    /// Opens the circuit once more, with this number, and counts on from it.
    pub(super) async fn opens_again(&self, sim: &Sim, number: u32) {
        self.sequence.store(number, Ordering::SeqCst);
        let opening = use_circuit_code(&self.avatar, number);
        let count = |all: &[Heard]| all.iter().filter(|heard| heard.datagram[6..] == opening[6..]).count();
        let before = count(&sim.heard());
        self.send_raw(&opening).await;
        sim.until(|all| count(all) > before).await;
    }

    pub(super) fn acknowledges(&self, acks: bool) {
        self.acks.store(acks, Ordering::SeqCst);
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.ear.heard()
    }

    pub(super) async fn until(&self, enough: impl Fn(&[Heard]) -> bool) {
        self.ear.until(enough).await;
    }

    /// Waits until nothing new has come for a while, and gives all there is.
    pub(super) async fn until_quiet(&self) -> Vec<Heard> {
        within(async {
            loop {
                let before = self.heard().len();
                tokio::time::sleep(std::time::Duration::from_millis(400)).await;
                if self.heard().len() == before {
                    return self.heard();
                }
            }
        })
        .await
    }

    pub(super) async fn send_raw(&self, datagram: &[u8]) {
        within(self.ear.socket.send_to(datagram, self.login.simulator)).await.unwrap();
    }

    pub(super) async fn send(&self, flags: u8, number: MessageNumber, body: &[u8]) -> Vec<u8> {
        self.send_with_acks(flags, number, body, &[]).await
    }

    pub(super) async fn send_with_acks(
        &self,
        flags: u8,
        number: MessageNumber,
        body: &[u8],
        acks: &[u32],
    ) -> Vec<u8> {
        let sequence = SequenceNumber(self.sequence.fetch_add(1, Ordering::SeqCst) + 1);
        let acks: Vec<_> = acks.iter().map(|&id| SequenceNumber(id)).collect();
        let datagram = encode_packet(PacketFlags(flags), sequence, number, body, &acks, false);
        self.send_raw(&datagram).await;
        datagram
    }

    pub(super) async fn acknowledge(&self, ids: &[u32]) -> Vec<u8> {
        self.send(0, MessageNumber::PACKET_ACK, &ack_body(ids)).await
    }

    /// Asks for textures; the datagram.
    pub(super) async fn ask(&self, wants: &[Want]) -> Vec<u8> {
        let mut body = [self.avatar.agent.as_bytes().as_slice(), self.avatar.session.as_bytes()].concat();
        body.push(u8::try_from(wants.len()).unwrap());
        for want in wants {
            body.extend(want.id.as_bytes());
            body.extend(want.discard.to_le_bytes());
            body.extend(want.priority.to_le_bytes());
            body.extend(want.packet.to_le_bytes());
            body.push(want.kind);
        }
        self.send(RELIABLE, MessageNumber::REQUEST_IMAGE, &body).await
    }

    /// Asks for an asset by `TransferRequest`; the transfer's name and the datagram.
    pub(super) async fn ask_transfer(&self, source: i32, params: &[u8]) -> (Uuid, Vec<u8>) {
        let n = self.sequence.load(Ordering::SeqCst);
        let transfer = Uuid::from_u64_pair(self.avatar.agent.as_u64_pair().0, u64::from(n) << 8 | 0x77);
        let body = encoded(&TransferRequest {
            transfer,
            channel: 2,
            source,
            priority: 101.0,
            params: Variable2(params),
        });
        // Zero-coded, as viewers send it.
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let datagram = packet(RELIABLE | ZEROCODED, sequence, MessageNumber::TRANSFER_REQUEST, &body);
        self.send_raw(&datagram).await;
        (transfer, datagram)
    }

    /// Everything of a texture among what was heard from the `since`th datagram on, once all of its
    /// packets from `first` on are there.
    pub(super) async fn image(&self, id: Uuid, first: usize, packets: usize, since: usize) -> Vec<Heard> {
        let of_it = |all: &[Heard]| -> Vec<Heard> {
            all.iter()
                .skip(since)
                .filter(|heard| heard.image_part().is_some_and(|(of, n, _)| of == id && n >= first))
                .cloned()
                .collect()
        };
        self.until(|all| {
            let mut seen: Vec<_> = of_it(all).iter().map(|part| part.image_part().unwrap().1).collect();
            seen.sort_unstable();
            seen.dedup();
            seen.len() == packets - first
        })
        .await;
        of_it(&self.heard())
    }

    /// All of a transfer, once its last packet and all before it are there.
    pub(super) async fn transfer(&self, transfer: Uuid, size: usize) -> Vec<Heard> {
        let of_it = |all: &[Heard]| -> Vec<Heard> {
            let own = |heard: &&Heard| {
                heard.transfer_info().is_some_and(|info| info.transfer == transfer)
                    || heard.transfer_part().is_some_and(|part| part.transfer == transfer)
            };
            all.iter().filter(own).cloned().collect()
        };
        self.until(|all| {
            let parts: HashMap<_, _> = of_it(all)
                .iter()
                .filter_map(|heard| heard.transfer_part().map(|part| (part.packet, part.data.0.len())))
                .collect();
            parts.values().sum::<usize>() == size
        })
        .await;
        of_it(&self.heard())
    }

    /// A message of the viewer's own goes through to the simulator: all sent before it has been dealt
    /// with.
    pub(super) async fn passes_a_marker(&self, sim: &Sim) {
        let marker = Uuid::from_u64_pair(1, MARKERS.fetch_add(1, Ordering::Relaxed));
        self.send(0, UNKNOWN, marker.as_bytes()).await;
        sim.until(|all| all.iter().any(|heard| heard.body == marker.as_bytes())).await;
    }

    /// The same the other way; the marker's place among what the viewer heard.
    pub(super) async fn hears_a_marker(&self, sim: &Sim) -> usize {
        let marker = Uuid::from_u64_pair(2, MARKERS.fetch_add(1, Ordering::Relaxed));
        sim.send(self, 0, UNKNOWN, marker.as_bytes()).await;
        self.until(|all| all.iter().any(|heard| heard.body == marker.as_bytes())).await;
        self.heard().iter().position(|heard| heard.body == marker.as_bytes()).unwrap()
    }
}

static MARKERS: AtomicU64 = AtomicU64::new(0);

/// How the proxy answers an asset over HTTP now; the grid has nothing there.
pub(super) async fn tier(setup: &Setup, capability: &str, query: &str) -> (String, Vec<u8>) {
    let answer = get(setup.at, &format!("{capability}{query}"), &[]).await;
    (answer.tier().to_owned(), answer.body)
}

/// Waits until the proxy has learned this.
pub(super) async fn until_learned(setup: &Setup, capability: &str, thing: &Thing) {
    within(async {
        loop {
            let (tier, body) = tier(setup, capability, &thing.query).await;
            if tier.starts_with("hit") {
                assert_eq!((tier.as_str(), &body), ("hit; tier=memory", &*thing.bytes));
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}
