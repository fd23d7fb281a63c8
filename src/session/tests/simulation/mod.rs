//! A viewer, the session and simulators on a bad line, on a clock of their own.
//!
//! Both lines lose 30 % of all datagrams, double 10 %, and hold each up to 300 ms, so that they
//! overtake each other. All chance comes from a seed, which a failure names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use super::{HOME, LOGIN, NEIGHBOUR, NEXT, Shell, VIEWER, use_circuit_code};
use crate::asset::policy;
use crate::asset::{Asset, AssetId, AssetSource};
use crate::lludp::assets::{TransferAbort, TransferRequest, request_image};
use crate::lludp::chat::{ChatFromSimulator, ChatFromViewer};
use crate::lludp::circuit::{CompletePingCheck, StartPingCheck};
use crate::lludp::{ImageRequest, SequenceNumber, Variable2};
use crate::redact::Redacted;
use crate::session::chat::{CHANNEL, ChatCommand};
use crate::session::login::{LoginFormat, LoginReply};
use crate::session::mutation::{Rule, with_broken};
use crate::session::*;
use peer::{Habits, Peer};
use scenes::{Scene, Script};
use simulator::Simulator;
use viewer::Viewer;

mod peer;
mod scenes;
mod simulator;
mod viewer;

/// A message that nobody but its receiver understands, with a name of its own.
const CHATTER: MessageNumber = MessageNumber(0xFFFF_015E);
/// How long new things happen.
const BUSY: Duration = Duration::from_secs(40);
/// When all must have come to rest.
const END: Duration = Duration::from_secs(400);
const HOLD: Duration = Duration::from_millis(100);

fn ping(oldest_unacked: SequenceNumber) -> Vec<u8> {
    let mut body = Vec::new();
    StartPingCheck { ping: 1, oldest_unacked }.encode(&mut body);
    body
}

type Catalog = HashMap<Uuid, Vec<u8>>;

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn id(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.roll(), self.roll())
    }
}

/// Where a datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stop {
    SessionFromViewer,
    SessionFromSimulator,
    Viewer,
    Simulator,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Event {
    Arrives(Stop, usize, u64, Vec<u8>),
    Answered(Ticket, AssetId),
    Tick,
}

struct Circuit {
    endpoint: SocketAddrV4,
    viewer_end: Peer,
    simulator_end: Peer,
    viewer: Viewer,
    simulator: Simulator,
    viewer_open: bool,
    simulator_open: bool,
    /// What was sent before is not heard by ends that have begun anew.
    viewer_since: u64,
    simulator_since: u64,
    /// Chatter that both ends were to exchange, and what the other end of each has.
    to_viewer: HashSet<u64>,
    to_simulator: HashSet<u64>,
    private: HashMap<Uuid, Vec<u8>>,
    /// Commands said in chat, those that were taken for such, and lines that the viewer was shown.
    said: u32,
    understood: u32,
    shown: BTreeMap<u32, u32>,
}

struct World {
    dice: Dice,
    start: Instant,
    now: Duration,
    session: Session,
    shell: Shell,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    serial: u64,
    circuits: Vec<Circuit>,
    catalog: Catalog,
    textures: Vec<Uuid>,
    sounds: Vec<Uuid>,
    cache: HashMap<AssetId, Bytes>,
    /// Chatter that has come to its other end.
    reached: HashSet<u64>,
    clean: bool,
    script: Script,
    /// The viewer's, and the simulators'.
    habits: (Habits, Habits),
    baked: Vec<Uuid>,
    /// A picture of everything that happened, in order.
    trace: DefaultHasher,
    /// How often in a row nothing was wanting.
    rested: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let LoginReply::Granted(grant) = LoginReply::read(LOGIN.as_bytes(), LoginFormat::XmlRpc) else {
            panic!("the fixture grants")
        };
        let (start, mut shell) = (Instant::now(), Shell::default());
        let script = Script::new(&mut dice);
        let viewers = [Habits::Firestorm, Habits::Firestorm, Habits::Libomv];
        let simulators = [Habits::OpenSim, Habits::OpenSim, Habits::SecondLife];
        let habits = (viewers[dice.below(3)], simulators[dice.below(3)]);
        let second_life = habits.1 == Habits::SecondLife;
        let config = SessionConfig { hold: HOLD, wraps_at_24_bits: second_life, chat_commands: true };
        let (mut session, _) =
            Session::open(start, &grant, LOGIN.as_bytes(), LoginFormat::XmlRpc, config, &mut shell).unwrap();
        session.rewrite_event_reply(start, NEIGHBOUR.as_bytes(), &mut shell);
        let mut catalog = Catalog::new();
        let mut asset = |dice: &mut Dice| {
            let (id, len) = (dice.id(), 1 + dice.below(9000));
            let len = if dice.chance(20) { len.next_multiple_of(1000) } else { len };
            catalog.insert(id, (0..len).map(|n| (n % 251) as u8 ^ id.as_bytes()[0]).collect());
            id
        };
        let textures: Vec<Uuid> = (0..14).map(|_| asset(&mut dice)).collect();
        let sounds: Vec<Uuid> = (0..6).map(|_| asset(&mut dice)).collect();
        let baked: Vec<Uuid> = (0..3).map(|_| asset(&mut dice)).collect();
        let mut cache = HashMap::new();
        for id in textures.iter().chain(&sounds) {
            if dice.chance(50) {
                cache.insert(AssetId(*id), Bytes::from(catalog[id].clone()));
            }
        }
        if dice.chance(50) {
            catalog.insert(policy::MISSING_IMAGE.0, vec![7; 1 + dice.below(3000)]);
        }
        let count = if script.scene == Scene::Teleport { 2 } else { 1 + dice.below(2) };
        let circuits = [HOME, NEXT].into_iter().take(count).enumerate().map(|(index, endpoint)| {
            let first = [1, 1, (1 << 24) - 30, 70_000][dice.below(4)];
            let first = script.viewer_first().filter(|_| index == 0).unwrap_or(first);
            let sim_first = [1, 1, (1 << 24) - 40, (1 << 24) + 5, 9][dice.below(5)];
            let sim_first = script.simulator_first().filter(|_| index == 0).unwrap_or(sim_first);
            let open = index == 0 || script.scene != Scene::Teleport;
            Circuit {
                endpoint,
                viewer_end: Peer::new(habits.0, first),
                simulator_end: Peer::new(habits.1, sim_first),
                viewer: Viewer::default(),
                simulator: Simulator::new(second_life),
                viewer_open: open,
                simulator_open: open,
                viewer_since: 0,
                simulator_since: 0,
                to_viewer: HashSet::new(),
                to_simulator: HashSet::new(),
                private: HashMap::new(),
                said: 0,
                understood: 0,
                shown: BTreeMap::new(),
            }
        });
        let circuits = circuits.collect();
        let mut world = Self {
            dice,
            start,
            now: Duration::ZERO,
            session,
            shell,
            events: BinaryHeap::new(),
            serial: 0,
            circuits,
            catalog,
            textures,
            sounds,
            cache,
            reached: HashSet::new(),
            clean: false,
            script,
            habits,
            baked,
            trace: DefaultHasher::new(),
            rested: 0,
        };
        for circuit in 0..world.circuits.len() {
            if world.circuits[circuit].viewer_open {
                world.open(circuit);
            }
        }
        world.at(Duration::ZERO, Event::Tick);
        world
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((self.now + after, self.serial, event)));
    }

    /// Puts a datagram on a line.
    fn line(&mut self, stop: Stop, circuit: usize, name: u64, datagram: &[u8]) {
        let copies = if self.dice.chance(10) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.clean && self.dice.chance(30) {
                continue;
            }
            let delay = Duration::from_micros(self.dice.below(300_000) as u64);
            self.at(delay, Event::Arrives(stop, circuit, name, datagram.to_vec()));
        }
    }

    fn fresh_name(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn open(&mut self, circuit: usize) {
        let opening = use_circuit_code();
        let body = &opening[10..];
        let number = MessageNumber::USE_CIRCUIT_CODE;
        let now = self.now;
        let datagram = self.circuits[circuit].viewer_end.send(now, number, body, true, None);
        self.viewer_sends(circuit, &datagram);
    }

    fn viewer_sends(&mut self, circuit: usize, datagram: &[u8]) {
        let name = self.fresh_name();
        self.line(Stop::SessionFromViewer, circuit, name, datagram);
    }

    fn simulator_sends(&mut self, circuit: usize, datagram: &[u8]) {
        let name = self.fresh_name();
        self.line(Stop::SessionFromSimulator, circuit, name, datagram);
    }

    fn viewer_says(&mut self, circuit: usize, number: MessageNumber, body: &[u8], chatter: Option<u64>) {
        let now = self.now;
        let datagram = self.circuits[circuit].viewer_end.send(now, number, body, true, chatter);
        self.viewer_sends(circuit, &datagram);
    }

    fn clock(&self) -> Instant {
        self.start + self.now
    }

    fn circuit_of(&self, endpoint: SocketAddrV4) -> usize {
        self.circuits.iter().position(|circuit| circuit.endpoint == endpoint).unwrap()
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::ToViewer { simulator, datagram, .. } => {
                    let (circuit, name) = (self.circuit_of(simulator), self.fresh_name());
                    self.line(Stop::Viewer, circuit, name, &datagram);
                }
                Output::ToSimulator { simulator, datagram, .. } => {
                    let (circuit, name) = (self.circuit_of(simulator), self.fresh_name());
                    self.line(Stop::Simulator, circuit, name, &datagram);
                }
                Output::Lookup { ticket, id, .. } => {
                    assert!(!self.baked.contains(&id.0), "a baked texture is nobody else's");
                    if self.dice.chance(30) {
                        self.answer(ticket, id);
                    } else {
                        let delay = Duration::from_millis(self.dice.below(200) as u64);
                        self.at(delay, Event::Answered(ticket, id));
                    }
                }
                Output::Learned { id, bytes, .. } => {
                    // Where a circuit ends before its simulator has said what it sends in place of missing
                    // textures, one such picture cannot be told from a texture.
                    let circuit_ended = self.script.scene != Scene::Calm;
                    let stands_in = self.catalog.get(&policy::MISSING_IMAGE.0) == Some(&bytes.to_vec());
                    if stands_in && circuit_ended && id != policy::MISSING_IMAGE {
                        continue;
                    }
                    let body = self.catalog.get(&id.0);
                    assert!(body.is_some_and(|body| body == &bytes), "{id:?} was learnt wrongly");
                    assert!(!self.baked.contains(&id.0), "a baked texture was learnt");
                    self.cache.insert(id, bytes);
                }
                Output::Partial { id, total, extents, .. } => {
                    let missing = || &self.catalog[&policy::MISSING_IMAGE.0];
                    let body = self.catalog.get(&id.0).unwrap_or_else(missing);
                    assert_eq!(total, body.len() as u64);
                    for (first, bytes) in extents {
                        assert_eq!(&body[first as usize..first as usize + bytes.len()], &bytes[..]);
                    }
                }
                Output::Baked(ids) => {
                    assert!(ids.iter().all(|id| self.baked.contains(&id.0)), "no other texture is a bake");
                }
                Output::Command { simulator, command } => {
                    assert_eq!(command, ChatCommand::Status);
                    let index = self.circuit_of(simulator);
                    self.circuits[index].understood += 1;
                    let line = self.circuits[index].understood.to_string();
                    self.session.say(self.clock(), simulator, &line);
                }
                Output::Swallowed
                | Output::Patched
                | Output::Unlearnt
                | Output::Arrived { .. }
                | Output::Named { .. }
                | Output::Served { .. } => {}
            }
        }
    }

    fn answer(&mut self, ticket: Ticket, id: AssetId) {
        let asset = self.cache.get(&id).cloned().map(Asset::of);
        let found = asset.map(|asset| Found { asset, source: AssetSource::Memory });
        self.session.found(self.clock(), ticket, found);
    }

    fn happen(&mut self, event: Event) {
        (self.now, &event).hash(&mut self.trace);
        match event {
            Event::Arrives(Stop::SessionFromViewer, circuit, name, datagram) => {
                let endpoint = self.circuits[circuit].endpoint;
                let (route, seen) =
                    self.session.from_viewer(self.clock(), endpoint, VIEWER.into(), &datagram);
                assert!(!seen.malformed);
                self.onward(route, Stop::Simulator, circuit, name, &datagram);
            }
            Event::Arrives(Stop::SessionFromSimulator, circuit, name, datagram) => {
                let endpoint = self.circuits[circuit].endpoint;
                let (route, _) =
                    self.session.from_simulator(self.clock(), endpoint.into(), &datagram, &mut self.shell);
                self.onward(route, Stop::Viewer, circuit, name, &datagram);
            }
            Event::Arrives(Stop::Viewer, circuit, name, datagram) => {
                self.viewer_hears(circuit, name, &datagram)
            }
            Event::Arrives(Stop::Simulator, circuit, name, datagram) => {
                self.simulator_hears(circuit, name, &datagram);
            }
            Event::Answered(ticket, id) => self.answer(ticket, id),
            Event::Tick => self.tick(),
        }
        self.drain();
    }

    fn onward(&mut self, route: Route, stop: Stop, circuit: usize, name: u64, datagram: &[u8]) {
        match route {
            Route::Forward(_) => self.line(stop, circuit, name, datagram),
            Route::Replace(_, datagram) => self.line(stop, circuit, name, &datagram),
            Route::Drop(_) => {}
        }
    }

    fn viewer_hears(&mut self, circuit: usize, name: u64, datagram: &[u8]) {
        let now = self.now;
        let here = &mut self.circuits[circuit];
        if !here.viewer_open || name < here.viewer_since {
            return;
        }
        let Some(taken) = here.viewer_end.receive(now, name, datagram, &self.reached) else { return };
        if taken.number == MessageNumber::START_PING_CHECK {
            let ping = StartPingCheck::decode(&taken.body).unwrap();
            here.viewer_end.forget_below(ping.oldest_unacked);
            let mut body = Vec::new();
            CompletePingCheck { ping: ping.ping }.encode(&mut body);
            let number = MessageNumber::COMPLETE_PING_CHECK;
            let answer = here.viewer_end.send(now, number, &body, false, None);
            return self.viewer_sends(circuit, &answer);
        }
        if taken.number == CHATTER {
            self.reached.insert(u64::from_le_bytes(taken.body[..8].try_into().unwrap()));
        }
        if taken.number == MessageNumber::CHAT_FROM_SIMULATOR {
            let line = ChatFromSimulator::decode(&taken.body).unwrap();
            let text = std::str::from_utf8(line.message.reveal().0).unwrap().trim_end_matches('\0');
            *here.shown.entry(text.parse().unwrap()).or_default() += 1;
            return;
        }
        here.viewer.take(now, taken.number, &taken.body, taken.zerocoded_len);
    }

    fn simulator_hears(&mut self, circuit: usize, name: u64, datagram: &[u8]) {
        let now = self.now;
        let here = &mut self.circuits[circuit];
        if !here.simulator_open || name < here.simulator_since {
            return;
        }
        assert!(datagram.len() <= 1201, "{} bytes", datagram.len());
        let Some(taken) = here.simulator_end.receive(now, name, datagram, &self.reached) else { return };
        if taken.number == CHATTER {
            self.reached.insert(u64::from_le_bytes(taken.body[..8].try_into().unwrap()));
        }
        if taken.number == MessageNumber::START_PING_CHECK {
            let ping = StartPingCheck::decode(&taken.body).unwrap();
            here.simulator_end.forget_below(ping.oldest_unacked);
        }
        if taken.number == MessageNumber::CHAT_FROM_VIEWER {
            let chat = ChatFromViewer::decode(&taken.body).unwrap();
            assert_ne!(chat.channel, CHANNEL, "a command came to the simulator");
            self.reached.insert(u64::from_le_bytes(chat.message.reveal().0[..8].try_into().unwrap()));
            let id = u64::from_le_bytes(chat.message.reveal().0[..8].try_into().unwrap());
            *here.simulator.executed.entry(id).or_default() += 1;
            return;
        }
        here.simulator.take(taken.number, taken.sequence, &taken.body, &self.catalog);
        if taken.number == MessageNumber::USE_CIRCUIT_CODE && self.habits.1 == Habits::OpenSim {
            let at_once = Peer::immediate_ack(taken.sequence);
            self.simulator_sends(circuit, &at_once);
        }
    }

    fn tick(&mut self) {
        let tenth = self.now.as_millis() / 100;
        for circuit in 0..self.circuits.len() {
            if self.circuits[circuit].viewer_open {
                self.viewer_lives(circuit);
            }
            if self.circuits[circuit].simulator_open {
                self.simulator_lives(circuit);
            }
        }
        self.follow_script();
        if tenth.is_multiple_of(10) {
            let (clock, start) = (self.clock(), self.start);
            assert!(self.session.tick(clock, start));
        }
        self.clean = self.now > BUSY + Duration::from_secs(120);
        if tenth.is_multiple_of(20) && self.now > BUSY + Duration::from_secs(5) {
            self.rested = if self.verdict().is_empty() { self.rested + 1 } else { 0 };
        }
        if self.now < END && self.rested < 4 {
            self.at(Duration::from_millis(100), Event::Tick);
        }
    }

    fn viewer_lives(&mut self, circuit: usize) {
        for datagram in self.circuits[circuit].viewer_end.due(self.now) {
            self.viewer_sends(circuit, &datagram);
        }
        self.patience(circuit);
        if self.now < BUSY {
            self.viewer_acts(circuit);
        }
        if self.now.as_millis() / 100 % 50 == 7 {
            let end = &mut self.circuits[circuit].viewer_end;
            let ping = ping(end.oldest());
            let ping = end.send(self.now, MessageNumber::START_PING_CHECK, &ping, false, None);
            self.viewer_sends(circuit, &ping);
        }
    }

    fn simulator_lives(&mut self, circuit: usize) {
        for datagram in self.circuits[circuit].simulator_end.due(self.now) {
            self.simulator_sends(circuit, &datagram);
        }
        for (number, body) in self.circuits[circuit].simulator.pump(&self.catalog) {
            let now = self.now;
            let datagram = self.circuits[circuit].simulator_end.send(now, number, &body, true, None);
            self.simulator_sends(circuit, &datagram);
        }
        if self.now < BUSY {
            self.simulator_chats(circuit);
        }
        if self.now.as_millis() / 100 % 50 == 7 {
            let end = &mut self.circuits[circuit].simulator_end;
            let ping = ping(end.oldest());
            let ping = end.send(self.now, MessageNumber::START_PING_CHECK, &ping, false, None);
            self.simulator_sends(circuit, &ping);
        }
    }

    fn simulator_chats(&mut self, circuit: usize) {
        if self.dice.chance(15) {
            let id = self.dice.roll();
            let here = &mut self.circuits[circuit];
            here.to_viewer.insert(id);
            let body = id.to_le_bytes();
            let datagram = here.simulator_end.send(self.now, CHATTER, &body, true, Some(id));
            self.simulator_sends(circuit, &datagram);
        }
    }

    fn request(&mut self, circuit: usize, images: &[ImageRequest]) {
        let identity = self.session.common.identity;
        let body = request_image(identity.0, identity.1, images);
        self.viewer_says(circuit, MessageNumber::REQUEST_IMAGE, &body, None);
    }

    fn viewer_acts(&mut self, circuit: usize) {
        let now = self.now;
        match self.dice.below(100) {
            0..12 => {
                let id = self.dice.roll();
                self.circuits[circuit].to_simulator.insert(id);
                self.viewer_says(circuit, CHATTER, &id.to_le_bytes(), Some(id));
            }
            12..18 => {
                let count = 1 + self.dice.below(8);
                let mut wanted = BTreeMap::new();
                for _ in 0..count {
                    let id = self.textures[self.dice.below(self.textures.len())];
                    let id = if self.dice.chance(4) { self.dice.id() } else { id };
                    let id = if self.dice.chance(4) { self.baked[self.dice.below(3)] } else { id };
                    let discard = i8::try_from(self.dice.below(6)).unwrap();
                    let priority = self.dice.below(5000) as f32 + 1.0;
                    wanted.insert(id, (discard, priority));
                }
                let viewer = &mut self.circuits[circuit].viewer;
                // What a viewer has it does not ask for.
                wanted.retain(|id, _| !viewer.textures.contains_key(id));
                let images: Vec<ImageRequest> = wanted
                    .into_iter()
                    .map(|(id, (discard, priority))| {
                        let kind = u8::from(self.baked.contains(&id));
                        viewer.textures.entry(id).or_default().kind = kind;
                        viewer.want(now, id, discard, priority)
                    })
                    .collect();
                if !images.is_empty() {
                    self.request(circuit, &images);
                }
            }
            18 => {
                if let Some(id) = self.circuits[circuit].viewer.some_texture(&mut self.dice) {
                    self.circuits[circuit].viewer.textures.get_mut(&id).unwrap().cancelled = true;
                    let image = ImageRequest { image: id, discard: -1, priority: 0.0, packet: 0, kind: 0 };
                    self.request(circuit, &[image]);
                }
            }
            19..22 => {
                let sound = self.sounds[self.dice.below(self.sounds.len())];
                self.transfer(circuit, sound, 2);
            }
            22 => {
                let item = self.dice.id();
                self.transfer(circuit, item, 3);
            }
            23 => {
                let mut ids: Vec<Uuid> = self.circuits[circuit].viewer.transfers.keys().copied().collect();
                ids.sort_unstable();
                if let Some(transfer) = ids.get(self.dice.below(ids.len())).copied() {
                    self.abort(circuit, transfer);
                }
            }
            24 | 25 => self.chat(circuit, b"rez status\0", CHANNEL),
            26 => {
                // On another channel it is what people say to one another.
                let id = self.dice.roll();
                self.circuits[circuit].to_simulator.insert(id);
                self.chat(circuit, &id.to_le_bytes(), 0);
            }
            _ => {}
        }
    }

    fn chat(&mut self, circuit: usize, text: &[u8], channel: i32) {
        let (agent, session) = self.session.common.identity;
        let message = Redacted::new(Variable2(text));
        let mut body = Vec::new();
        ChatFromViewer { agent, session, message, kind: 1, channel }.encode(&mut body);
        let chatter = (channel == 0).then(|| u64::from_le_bytes(text.try_into().unwrap()));
        self.circuits[circuit].said += u32::from(channel == CHANNEL);
        self.viewer_says(circuit, MessageNumber::CHAT_FROM_VIEWER, &body, chatter);
    }

    fn transfer(&mut self, circuit: usize, asset: Uuid, source: i32) {
        let transfer = self.dice.id();
        let mut params = asset.as_bytes().to_vec();
        params.extend(1_i32.to_le_bytes());
        params.resize(if source == 2 { 20 } else { 100 }, 0);
        let request =
            TransferRequest { transfer, channel: 2, source, priority: 1.0, params: Variable2(&params) };
        let mut body = Vec::new();
        request.encode(&mut body);
        if source == TransferRequest::SOURCE_ASSET {
            self.circuits[circuit].viewer.start_transfer(self.now, transfer, asset);
        } else {
            self.circuits[circuit].private.insert(transfer, body.clone());
        }
        self.viewer_says(circuit, MessageNumber::TRANSFER_REQUEST, &body, None);
    }

    fn abort(&mut self, circuit: usize, transfer: Uuid) {
        self.circuits[circuit].viewer.transfers.get_mut(&transfer).unwrap().aborted = true;
        let mut body = Vec::new();
        TransferAbort { transfer, channel: 2 }.encode(&mut body);
        self.viewer_says(circuit, MessageNumber::TRANSFER_ABORT, &body, None);
    }

    /// Asks again for what does not come.
    fn patience(&mut self, circuit: usize) {
        let now = self.now;
        let (mut textures, mut transfers) = self.circuits[circuit].viewer.impatient(now);
        textures.sort_unstable();
        transfers.sort_unstable();
        let viewer = &mut self.circuits[circuit].viewer;
        let images: Vec<ImageRequest> = textures.iter().map(|id| viewer.want(now, *id, 0, 9.0)).collect();
        for images in images.chunks(8) {
            self.request(circuit, images);
        }
        for transfer in transfers {
            let asset = self.circuits[circuit].viewer.transfers[&transfer].asset;
            self.abort(circuit, transfer);
            self.transfer(circuit, asset, 2);
        }
    }

    fn run(&mut self) {
        let mut idle = 0;
        while let Some(Reverse((time, _, _))) = self.events.peek() {
            let wake = self.session.next_wake().map(|wake| wake.saturating_duration_since(self.start));
            if let Some(wake) = wake.filter(|wake| wake < time) {
                idle = if wake <= self.now { idle + 1 } else { 0 };
                assert!(idle < 1000, "the session wants to be woken again and again");
                self.now = self.now.max(wake);
                self.session.wake(self.clock());
                self.drain();
                continue;
            }
            let Some(Reverse((time, _, event))) = self.events.pop() else { break };
            self.now = time;
            self.happen(event);
        }
    }

    fn verdict(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (index, circuit) in self.circuits.iter().enumerate() {
            let mut add = |what: String| wrong.push(format!("circuit {index}: {what}"));
            circuit.viewer.faults.iter().cloned().for_each(&mut add);
            for end in [&circuit.viewer_end, &circuit.simulator_end] {
                end.mistaken.iter().cloned().for_each(&mut add);
                if !end.false_acks.is_empty() {
                    add(format!("an end was told that {} packets had come", end.false_acks.len()));
                }
            }
            if !circuit.viewer_open {
                continue;
            }
            circuit.viewer.verdict(&self.catalog).into_iter().for_each(&mut add);
            for (name, sent, executed) in [
                ("viewer", &circuit.to_viewer, &circuit.viewer.executed),
                ("simulator", &circuit.to_simulator, &circuit.simulator.executed),
            ] {
                for id in sent.iter().filter(|id| executed.get(id) != Some(&1)) {
                    let times = executed.get(id).copied().unwrap_or_default();
                    add(format!("message {id:x} to the {name} was executed {times} times"));
                }
            }
            // After a numbering that began anew nobody knows what the viewer has of ours.
            let counts_anew = matches!(
                self.script.scene,
                Scene::BothCountAnew | Scene::ViewerCountsAnew | Scene::SimulatorCountsAnew
            );
            if !counts_anew && circuit.shown.values().any(|times| *times != 1) {
                add(format!("lines were shown more than once: {:?}", circuit.shown));
            }
            // Whatever ends a circuit may end what is on its way.
            let answered = circuit.shown.len() == circuit.understood as usize;
            if self.script.scene == Scene::Calm && (circuit.understood != circuit.said || !answered) {
                let Circuit { said, understood, shown, .. } = circuit;
                add(format!("{said} commands, {understood} understood, {} answered", shown.len()));
            }
            let private = &circuit.simulator.private;
            if circuit.private.iter().any(|(id, body)| private.get(id) != Some(&vec![body.clone()])) {
                add("a transfer from an inventory did not come to the simulator once".into());
            }
            for (name, end) in [("viewer", &circuit.viewer_end), ("simulator", &circuit.simulator_end)] {
                if !end.is_idle() {
                    add(format!("the {name} has {} packets unacknowledged", end.unacked()));
                }
            }
        }
        let (waiting, _) = self.session.injected();
        if waiting > 0 {
            wrong.push(format!("the session waits for {waiting} acks"));
        }
        wrong
    }
}

fn seeds() -> u64 {
    if std::env::var_os("REZCACHE_LONG").is_some() { 10_000 } else { 200 }
}

/// Plays one seed; answers what went wrong and a picture of all that happened.
fn play(seed: u64) -> (Vec<String>, u64) {
    let played = std::panic::catch_unwind(|| {
        let mut world = World::new(seed);
        world.run();
        let scene = world.script.scene;
        let wrong = world.verdict().into_iter().map(|what| format!("{scene:?} {:?}: {what}", world.habits));
        (wrong.collect(), world.trace.finish())
    });
    played.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        (vec![format!("panicked: {}", text.unwrap_or_default())], 0)
    })
}

#[test]
fn whatever_the_line_does_everything_comes_once() {
    let seeds = match std::env::var("REZCACHE_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..seeds(),
    };
    let failed: Vec<String> = seeds
        .filter_map(|seed| {
            let (wrong, _) = play(seed);
            (!wrong.is_empty()).then(|| format!("seed {seed}: {wrong:#?}"))
        })
        .take(20)
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_seed_always_plays_the_same() {
    for seed in 0..20 {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

/// The seeds notice each rule of relaying that is broken on purpose, but for three: that a packet we
/// keep is not acknowledged, or that acks on it get lost, nobody sees, since its copy is acknowledged
/// and copies bring the acks again; and that OldestUnacked leaves ours out matters only to one that
/// is lost for longer than two pings. The model of the relay notices these too.
#[test]
fn no_rule_can_be_broken_unnoticed() {
    let may_be = [Rule::OldestUnackedCoversOurs, Rule::SwallowedIsAcked, Rule::RidingAcksAreDelivered];
    let unnoticed: Vec<Rule> = Rule::ALL
        .into_iter()
        .filter(|rule| !may_be.contains(rule))
        .filter(|rule| (0..60).all(|seed| with_broken(*rule, || play(seed)).0.is_empty()))
        .collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
