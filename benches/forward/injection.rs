//! What injections cost: the time of a texture out of the store, and the memory of circuits.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rezcache::lludp::assets::{ImageData, ImageNotInDatabase, ImagePacket};
use rezcache::lludp::circuit::PacketAck;
use rezcache::lludp::{
    MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, UdpAssetRequest, Variable2,
    asset_requests, encode_packet, set_sequence,
};
use uuid::Uuid;

use crate::stand_in::{Ids, LoginServer};
use crate::{ANY, PATIENCE, median, socket, use_circuit_code};

/// Datagrams without an ack on one circuit, at most; the bare sender keeps to the same number.
const WINDOW: usize = 64;
/// What the paced sender sends at one moment, and how long it rests then: the proxy's own pace.
const BURST: usize = 16;
const REST: Duration = Duration::from_millis(1);
const DOWNLOADS: usize = 31;
/// Viewers that download at the same time while memory is measured.
const AT_ONCE: usize = 25;
const CIRCUITS: u32 = 1000;
const INJECTIONS: usize = 1000;
const TEXTURE_BYTES: usize = 200_000;

/// A valid texture of 200 kB: a captured one with comments in its header.
pub(crate) struct Texture {
    id: Uuid,
    bytes: Vec<u8>,
}

impl Texture {
    pub(crate) fn new() -> Self {
        let captured = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/fixtures/assets/82e34bc0-3a7b-5407-ad08-9bc0b2b3b08b.texture"
        );
        let base = std::fs::read(captured).unwrap();
        let tile = base.windows(2).position(|bytes| bytes == [0xFF, 0x90]).unwrap();
        let mut bytes = base[..tile].to_vec();
        while bytes.len() + base.len() - tile < TEXTURE_BYTES {
            let length = 60_000.min(TEXTURE_BYTES - bytes.len() - (base.len() - tile)).max(8);
            bytes.extend([0xFF, 0x64]);
            bytes.extend(u16::try_from(length - 2).unwrap().to_be_bytes());
            // Noise without a byte that could end anything early.
            bytes.extend((0..length - 4).map(|n| u8::try_from(n * 7919 % 251).unwrap()));
        }
        bytes.extend(&base[tile..]);
        Self { id: Uuid::from_u64_pair(0x7e57, 1), bytes }
    }

    fn packets(&self) -> usize {
        1 + (self.bytes.len() - 600).div_ceil(1000)
    }

    /// Its datagrams as a simulator sends them, numbered from `sequence` on.
    fn datagrams(&self, sequence: u32) -> Vec<Vec<u8>> {
        let (head, rest) = self.bytes.split_at(600);
        let size = u32::try_from(self.bytes.len()).unwrap();
        let packets = u16::try_from(self.packets()).unwrap();
        let mut body = Vec::new();
        ImageData { image: self.id, codec: 2, size, packets, data: Variable2(head) }.encode(&mut body);
        let mut made = vec![reliable(sequence, MessageNumber::IMAGE_DATA, &body)];
        for (packet, data) in (1..).zip(rest.chunks(1000)) {
            body.clear();
            ImagePacket { image: self.id, packet, data: Variable2(data) }.encode(&mut body);
            made.push(reliable(sequence + u32::from(packet), MessageNumber::IMAGE_PACKET, &body));
        }
        made
    }
}

fn reliable(sequence: u32, number: MessageNumber, body: &[u8]) -> Vec<u8> {
    encode_packet(PacketFlags::RELIABLE, SequenceNumber(sequence), number, body, &[], false)
}

fn acknowledgement(sequence: u32, ids: &[SequenceNumber]) -> Vec<u8> {
    let mut body = Vec::new();
    PacketAck::write_ids(ids, &mut body);
    encode_packet(PacketFlags(0), SequenceNumber(sequence), MessageNumber::PACKET_ACK, &body, &[], false)
}

/// A simulator that acknowledges everything and sends the one texture to who asks for it.
pub(crate) struct Simulator {
    pub(crate) at: SocketAddr,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Simulator {
    pub(crate) fn start(socket: UdpSocket, texture: &Texture) -> Self {
        let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let at = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (count, stopped, id) = (Arc::clone(&asked), Arc::clone(&stop), texture.id);
        let mut datagrams = texture.datagrams(0);
        let thread = std::thread::spawn(move || {
            let (mut buffer, mut sequence) = ([0; 2048], 1);
            while !stopped.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let Ok(packet) = Packet::decode(&buffer[..length]) else { continue };
                if packet.flags.contains(PacketFlags::RELIABLE) {
                    sequence += 1;
                    socket.send_to(&acknowledgement(sequence, &[packet.sequence]), from).unwrap();
                }
                let mut scratch = Vec::new();
                for request in asset_requests(packet.number, packet.body(&mut scratch).unwrap()).unwrap() {
                    let UdpAssetRequest::Image(block) = request else { continue };
                    if block.image == id {
                        count.fetch_add(1, Ordering::SeqCst);
                        for (n, datagram) in datagrams.iter_mut().enumerate() {
                            sequence += 1;
                            set_sequence(datagram, SequenceNumber(sequence));
                            socket.send_to(datagram, from).unwrap();
                            // No acks are waited for; a pause is enough here.
                            if n % 16 == 15 {
                                std::thread::sleep(Duration::from_millis(2));
                            }
                        }
                    } else {
                        let mut body = Vec::new();
                        ImageNotInDatabase { image: block.image }.encode(&mut body);
                        sequence += 1;
                        let answer = reliable(sequence, MessageNumber::IMAGE_NOT_IN_DATABASE, &body);
                        socket.send_to(&answer, from).unwrap();
                    }
                }
            }
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        });
        Self { at, asked, stop, thread }
    }

    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// A viewer with its circuit.
pub(crate) struct Seat {
    pub(crate) viewer: UdpSocket,
    pub(crate) to: SocketAddr,
    ids: Ids,
    sequence: u32,
}

impl Seat {
    /// Opens a circuit; the simulator has acknowledged it.
    pub(crate) fn open(login: &LoginServer, proxy: SocketAddr, simulator: &Simulator) -> Self {
        let (to, ids) = login.log_in(proxy, simulator.at);
        let viewer = socket();
        viewer.send_to(&use_circuit_code(&ids), to).unwrap();
        viewer.recv(&mut [0; 2048]).expect("the circuit is not acknowledged");
        Self { viewer, to, ids, sequence: 1 }
    }

    /// A viewer that asks a bare sender.
    fn bare(to: SocketAddr) -> Self {
        Self { viewer: socket(), to, ids: Ids::number(0), sequence: 1 }
    }

    fn send_next(&mut self, make: impl FnOnce(u32) -> Vec<u8>) {
        self.sequence += 1;
        self.viewer.send_to(&make(self.sequence), self.to).unwrap();
    }

    fn ask(&mut self, id: Uuid) {
        let mut body = [self.ids.agent.as_bytes().as_slice(), self.ids.session.as_bytes(), &[1]].concat();
        body.extend(id.as_bytes());
        body.push(0);
        body.extend(100_000.0_f32.to_le_bytes());
        body.extend([0; 5]);
        self.send_next(|sequence| reliable(sequence, MessageNumber::REQUEST_IMAGE, &body));
    }

    /// Downloads the texture, acknowledging every so many packets: the time from the request to the
    /// last packet.
    pub(crate) fn download(&mut self, texture: &Texture, ack_every: usize) -> Duration {
        self.viewer.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (mut buffer, mut owed, mut seen) = ([0; 2048], Vec::new(), HashSet::new());
        let (start, mut heard) = (Instant::now(), Instant::now());
        self.ask(texture.id);
        while seen.len() < texture.packets() {
            let received = self.viewer.recv(&mut buffer);
            if let Ok(length) = received {
                heard = Instant::now();
                let packet = Packet::decode(&buffer[..length]).unwrap();
                match packet.number {
                    MessageNumber::IMAGE_DATA => {
                        seen.insert(0);
                    }
                    MessageNumber::IMAGE_PACKET => {
                        let body = packet.body(&mut Vec::new()).map(<[u8]>::to_vec).unwrap();
                        seen.insert(ImagePacket::decode(&body).unwrap().packet);
                    }
                    _ => {}
                }
                if packet.flags.contains(PacketFlags::RELIABLE) {
                    owed.push(packet.sequence);
                }
            }
            assert!(heard.elapsed() < PATIENCE, "a download stands at {} packets", seen.len());
            let done = seen.len() == texture.packets();
            if owed.len() >= ack_every || (!owed.is_empty() && (done || received.is_err())) {
                self.send_next(|sequence| acknowledgement(sequence, &owed));
                owed.clear();
            }
        }
        let took = start.elapsed();
        self.viewer.set_read_timeout(Some(PATIENCE)).unwrap();
        took
    }

    /// Downloads until the simulator is not asked any more.
    pub(crate) fn teach(&mut self, texture: &Texture, simulator: &Simulator) {
        let start = Instant::now();
        loop {
            let before = simulator.asked.load(Ordering::SeqCst);
            self.download(texture, 1);
            if simulator.asked.load(Ordering::SeqCst) == before {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the proxy does not learn");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads what is still on its way, until nothing comes for a while.
    pub(crate) fn drain(&self) {
        self.viewer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while self.viewer.recv(&mut [0; 2048]).is_ok() {}
        self.viewer.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Has at least so many packets injected, all acknowledged: what is left of them is the numbering.
    pub(crate) fn be_injected(&mut self, texture: &Texture, packets: usize, ack_every: usize) {
        for _ in 0..packets.div_ceil(texture.packets()) {
            self.download(texture, ack_every);
        }
    }
}

/// Sends the texture's datagrams to whoever sends a `RequestImage`, with at most [`WINDOW`] of them
/// unacknowledged; when `paced`, with a rest after each burst. Ends with the bench.
fn bare_sender(texture: &Texture, paced: bool) -> SocketAddr {
    let socket = socket();
    socket.set_read_timeout(None).unwrap();
    let at = socket.local_addr().unwrap();
    let datagrams = texture.datagrams(1);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        let (mut sent, mut acked, mut viewer) = (datagrams.len(), 0, ANY);
        let (mut burst, mut rested) = (0, Instant::now());
        loop {
            // A timeout of the socket would be as coarse as the kernel's clock.
            let resting = sent < datagrams.len() && sent - acked < WINDOW;
            if resting {
                std::thread::sleep(REST.saturating_sub(rested.elapsed()));
            }
            socket.set_nonblocking(resting).unwrap();
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let packet = Packet::decode(&buffer[..length]).unwrap();
                match packet.number {
                    MessageNumber::REQUEST_IMAGE => (sent, acked, viewer) = (0, 0, from),
                    MessageNumber::PACKET_ACK => {
                        let body = packet.body(&mut Vec::new()).map(<[u8]>::to_vec).unwrap();
                        acked += PacketAck::decode(&body).unwrap().ids().len();
                    }
                    _ => {}
                }
                if !resting {
                    break;
                }
            }
            while sent < datagrams.len() && sent - acked < WINDOW {
                if rested.elapsed() >= REST {
                    (burst, rested) = (0, Instant::now());
                }
                if paced && burst >= BURST {
                    break;
                }
                socket.send_to(&datagrams[sent], viewer).unwrap();
                sent += 1;
                burst += 1;
            }
        }
    });
    at
}

/// A texture out of the store against a bare sender of the same datagrams with the same window.
pub(crate) fn time_of_a_download(seat: &mut Seat, texture: &Texture) {
    let mut bare = Seat::bare(bare_sender(texture, false));
    let mut paced = Seat::bare(bare_sender(texture, true));
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..DOWNLOADS {
        for (times, seat) in times.iter_mut().zip([&mut *seat, &mut bare, &mut paced]) {
            times.push(seat.download(texture, 1).as_secs_f64() * 1e3);
        }
    }
    let [proxy, bare, paced] = times.map(|mut times| median(&mut times));
    println!(
        "texture of {TEXTURE_BYTES} bytes, {} packets, acknowledged at once: injected in {proxy:.2} ms; a bare sender with the same pace takes {paced:.2} ms = {:.2}, without any pace {bare:.2} ms = {:.2}; medians of {DOWNLOADS}",
        texture.packets(),
        proxy / paced,
        proxy / bare
    );
}

/// Resident memory of this process, where the kernel tells.
fn resident_bytes() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096.0)
}

/// Memory per circuit before and after injections, out of the process's resident set.
pub(crate) fn memory_of_circuits(login: &LoginServer, proxy: SocketAddr, texture: &Texture) {
    let simulator = Simulator::start(socket(), texture);
    // The first one pays for what all share.
    let mut first = Seat::open(login, proxy, &simulator);
    first.teach(texture, &simulator);
    let Some(before) = resident_bytes() else {
        println!("memory per circuit: not measured on this system");
        return;
    };
    let mut seats: Vec<_> = (0..CIRCUITS).map(|_| Seat::open(login, proxy, &simulator)).collect();
    let open = resident_bytes().unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for seats in seats.chunks_mut(CIRCUITS as usize / AT_ONCE) {
            scope.spawn(|| seats.iter_mut().for_each(|seat| seat.be_injected(texture, INJECTIONS, 16)));
        }
    });
    let injected = resident_bytes().unwrap();
    let per = |bytes: f64| bytes / f64::from(CIRCUITS) / 1024.0;
    println!(
        "memory per circuit, of {CIRCUITS}: {:.1} kB without injections, {:.1} kB after {INJECTIONS} injections each ({:.0} s)",
        per(open - before),
        per(injected - before),
        start.elapsed().as_secs_f64()
    );
    simulator.stop();
}
