//! Random histories of a circuit, through the relay and through a model without bounds.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use super::model::{Named, Side, Waiting};
use super::*;
use crate::session::mutation::with_broken;

const CHATTER: MessageNumber = MessageNumber::COMPLETE_PING_CHECK;
const REQUEST: MessageNumber = MessageNumber::REQUEST_IMAGE;
/// How long a history is.
const STEPS: usize = 60;

/// A small generator; a history is told again by its seed.
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

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }
}

macro_rules! must {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

struct History {
    dice: Dice,
    now: Instant,
    relay: Relay,
    sides: [Side; 2],
    payload: u32,
    /// Packets of ours that wait for a number.
    unheard: Vec<u32>,
    fates: Vec<Fate>,
}

/// What a packet does besides having a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Chatter,
    Acks,
    Ping,
    Swallowed,
    HeldThenSwallowed,
    HeldThenEdited,
    HeldThenForwarded,
}

const fn side_of(direction: Direction) -> usize {
    match direction {
        Direction::ToViewer => 0,
        Direction::ToSimulator => 1,
    }
}

impl History {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let incoming = if dice.chance(60) { CounterWidth::Bits32 } else { CounterWidth::Bits24 };
        let starts = |dice: &mut Dice, width| {
            let beyond = if width == CounterWidth::Bits32 { (1 << 24) + 77 } else { 40 };
            dice.pick(&[1, 1, (1 << 24) - 20, (1 << 23) - 15, beyond, 5_000_000]).unwrap()
        };
        let sides = [
            Side::new(incoming, starts(&mut dice, incoming)),
            Side::new(CounterWidth::Bits24, starts(&mut dice, CounterWidth::Bits24)),
        ];
        Self {
            dice,
            now: Instant::now(),
            relay: Relay::new(incoming),
            sides,
            payload: 0,
            unheard: Vec::new(),
            fates: Vec::new(),
        }
    }

    fn run(seed: u64) -> Result<(), String> {
        let mut history = Self::new(seed);
        for step in 0..STEPS {
            history.step().map_err(|what| format!("seed {seed}, step {step}: {what}"))?;
        }
        history.end().map_err(|what| format!("seed {seed}, at the end: {what}"))
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += Duration::from_millis(self.dice.below(300) as u64);
        let direction = if self.dice.chance(50) { Direction::ToViewer } else { Direction::ToSimulator };
        match self.dice.below(100) {
            0..55 => self.fresh(direction),
            55..68 => self.copy(direction),
            68..88 => self.inject(direction),
            88..96 => self.let_time_pass(),
            96..98 => self.restart_incoming(),
            _ => self.restart(),
        }
    }

    /// A packet that the relay has not seen: the next one, or one that was overtaken.
    fn fresh(&mut self, direction: Direction) -> Result<(), String> {
        let side = &mut self.sides[side_of(direction)];
        let first = side.highest.is_none();
        while !first && self.dice.chance(20) {
            side.late.push(side.next);
            side.next += 1;
        }
        let original = if !side.late.is_empty() && self.dice.chance(25) {
            let index = self.dice.below(side.late.len());
            side.late.swap_remove(index)
        } else {
            side.next += 1;
            side.next - 1
        };
        let means = match self.dice.below(10) {
            0..4 => Means::Chatter,
            4 | 5 => Means::Acks,
            6 => Means::Ping,
            7 => Means::Swallowed,
            8 => Means::HeldThenSwallowed,
            _ if self.dice.chance(50) => Means::HeldThenEdited,
            _ => Means::HeldThenForwarded,
        };
        self.pass(direction, original, means, false)
    }

    /// A copy of a packet that was forwarded or swallowed.
    fn copy(&mut self, direction: Direction) -> Result<(), String> {
        let side = &self.sides[side_of(direction)];
        let swallowed: Vec<i64> = side.swallowed.iter().copied().collect();
        let forwarded = side.forwarded.clone();
        if self.dice.chance(50) && !swallowed.is_empty() {
            let original = self.dice.pick(&swallowed).unwrap();
            return self.pass(direction, original, Means::Swallowed, true);
        }
        match self.dice.pick(&forwarded) {
            Some(original) => self.pass(direction, original, Means::Chatter, true),
            None => Ok(()),
        }
    }

    /// Numbers that the receiver of the other direction may acknowledge, as packets name them.
    fn some_acks(&mut self, direction: Direction) -> Vec<i64> {
        let named = &self.sides[side_of(direction.back())];
        if named.highest.is_none() {
            return Vec::new();
        }
        let count = self.dice.below(5);
        let mut acks = Vec::new();
        for _ in 0..count {
            let ours: Vec<i64> = named.injections.iter().map(|(_, wire)| *wire).collect();
            let wire = if self.dice.chance(50) {
                self.dice.pick(&ours)
            } else {
                self.dice.pick(&named.forwarded).map(|original| named.wire(original))
            };
            acks.extend(wire);
        }
        acks
    }

    /// What acks come to at the other end; those for packets of ours are taken note of.
    fn expected_acks(&mut self, direction: Direction, acks: &[i64]) -> Vec<u32> {
        let named = &mut self.sides[side_of(direction.back())];
        let mut expected = Vec::new();
        for wire in acks {
            match named.named(*wire) {
                Named::Sender(original) => expected.push(named.number(original)),
                Named::Ours(wire) => {
                    if let Some(waiting) = named.waiting.remove(&wire) {
                        self.fates.push(Fate::Acknowledged(waiting.payload.into()));
                    }
                }
            }
        }
        expected
    }

    fn pass(
        &mut self,
        direction: Direction,
        original: i64,
        means: Means,
        resent: bool,
    ) -> Result<(), String> {
        let acks = self.some_acks(direction);
        let wires =
            |side: &Side| acks.iter().map(|wire| SequenceNumber(side.number(*wire))).collect::<Vec<_>>();
        let ids = wires(&self.sides[side_of(direction.back())]);
        let side = &mut self.sides[side_of(direction)];
        let sequence = SequenceNumber(side.number(original));
        let oldest = original - self.dice.below(6) as i64;
        let mut body = Vec::new();
        let number = match means {
            Means::Acks => {
                PacketAck::write_ids(&ids, &mut body);
                MessageNumber::PACKET_ACK
            }
            Means::Ping => {
                let oldest_unacked = SequenceNumber(side.number(oldest));
                StartPingCheck { ping: 7, oldest_unacked }.encode(&mut body);
                MessageNumber::START_PING_CHECK
            }
            Means::Chatter => {
                body.extend_from_slice(&original.to_le_bytes());
                CHATTER
            }
            _ => {
                body.extend_from_slice(&original.to_le_bytes());
                REQUEST
            }
        };
        let reliable = !matches!(means, Means::Acks | Means::Ping);
        let mut flags = if reliable { PacketFlags::RELIABLE } else { PacketFlags(0) };
        if resent {
            flags = flags.with(PacketFlags::RESENT);
        }
        let trailer = if means == Means::Acks { &[][..] } else { &ids[..] };
        let datagram = encode_packet(flags, sequence, number, &body, trailer, false);
        let packet = Packet::decode(&datagram).unwrap();
        side.observe(original);
        self.relay.observe(direction, &packet);
        match means {
            Means::Chatter | Means::Acks | Means::Ping => {
                self.forwarded(direction, original, oldest, means, &acks, &packet, &datagram, resent)
            }
            Means::Swallowed => {
                self.relay.unload_acks(self.now, direction, &packet);
                self.unloaded(direction, &acks);
                self.swallowed(direction, original, &packet, resent)
            }
            Means::HeldThenSwallowed | Means::HeldThenEdited | Means::HeldThenForwarded => {
                self.relay.unload_acks(self.now, direction, &packet);
                self.unloaded(direction, &acks);
                self.relay.hold(self.now, direction, &packet);
                must!(self.relay.kept(direction, &packet) == Some(Kept::Held), "a held packet is not known");
                let bare = encode_packet(flags, sequence, number, &body, &[], false);
                let packet = Packet::decode(&bare).unwrap();
                if self.dice.chance(50) {
                    self.inject(direction)?;
                }
                if means == Means::HeldThenSwallowed {
                    return self.swallowed(direction, original, &packet, false);
                }
                let mut gone = BlockSet::default();
                gone.insert(self.dice.below(255));
                let gone = (means == Means::HeldThenEdited).then_some(gone);
                self.relay.release(self.now, direction, &packet, gone);
                let copies = self.relay.kept(direction, &packet);
                must!(
                    copies == Some(Kept::Edited(gone.unwrap_or_default())),
                    "copies of a released packet: {copies:?}"
                );
                self.forwarded(direction, original, oldest, Means::Chatter, &[], &packet, &bare, false)
            }
        }
    }

    fn unloaded(&mut self, direction: Direction, acks: &[i64]) {
        for ack in self.expected_acks(direction, acks) {
            self.sides[side_of(direction)].acknowledge(ack);
        }
    }

    fn swallowed(
        &mut self,
        direction: Direction,
        original: i64,
        packet: &Packet<'_>,
        resent: bool,
    ) -> Result<(), String> {
        self.relay.swallow(self.now, direction, packet);
        must!(self.relay.kept(direction, packet) == Some(Kept::Swallowed), "a swallowed packet is not known");
        self.sides[side_of(direction.back())].acknowledge(packet.sequence.0);
        let side = &mut self.sides[side_of(direction)];
        let wire = side.wire(original);
        if side.swallowed.insert(original) && !resent {
            side.holes.insert(wire);
        }
        self.flush()
    }

    #[allow(clippy::too_many_arguments)]
    fn forwarded(
        &mut self,
        direction: Direction,
        original: i64,
        oldest: i64,
        means: Means,
        acks: &[i64],
        packet: &Packet<'_>,
        datagram: &[u8],
        resent: bool,
    ) -> Result<(), String> {
        let out = self.relay.forward(self.now, direction, packet, datagram);
        let expected = self.expected_acks(direction, acks);
        let side = &mut self.sides[side_of(direction)];
        let wire = side.wire(original);
        if means == Means::Acks && expected.is_empty() && !acks.is_empty() {
            must!(out.as_deref() == Some(&[]), "acks for packets of ours went on");
            side.holes.insert(wire);
            return Ok(());
        }
        if !resent {
            side.forwarded.push(original);
        }
        let passed = out.as_deref().unwrap_or(datagram);
        let untouched = passed == datagram;
        must!(out.is_none() == untouched, "a packet was copied for nothing");
        let passed = Packet::decode(passed).map_err(|error| format!("{error:?}"))?;
        let (number, got) = (side.number(wire), passed.sequence.0);
        must!(got == number, "packet {original} has number {got} and not {number}");
        must!(passed.flags.contains(PacketFlags::RESENT) == resent, "RESENT changed");
        let mut scratch = Vec::new();
        let body = passed.body(&mut scratch).unwrap();
        let named: Vec<u32> = match means {
            Means::Acks => PacketAck::decode(body).unwrap().ids().map(|id| id.0).collect(),
            _ => passed.acks().map(|id| id.0).collect(),
        };
        must!(named == expected, "acks {acks:?} came out as {named:?} and not {expected:?}");
        if means == Means::Ping {
            let told = StartPingCheck::decode(body).unwrap().oldest_unacked.0;
            let ours = side.waiting.keys().next().copied();
            let oldest = side.number(ours.map_or(side.wire(oldest), |ours| ours.min(side.wire(oldest))));
            must!(told & 0xFF_FFFF == oldest & 0xFF_FFFF, "OldestUnacked is {told} and not {oldest}");
        }
        Ok(())
    }

    fn inject(&mut self, direction: Direction) -> Result<(), String> {
        self.payload += 1;
        let owner = Owner::from(self.payload);
        let body = self.payload.to_le_bytes();
        let out = self.relay.inject(self.now, direction, owner, CHATTER, &body, false);
        let side = &mut self.sides[side_of(direction)];
        let Some(wire) = side.inject() else {
            must!(out.is_none(), "injected before anything was heard");
            return Ok(());
        };
        let number = side.number(wire);
        let got = Packet::decode(&out.unwrap()).unwrap().sequence.0;
        must!(got == number, "injected as {got} and not {number}");
        side.waiting.insert(wire, Waiting { sent: self.now, sends: 1, payload: self.payload });
        Ok(())
    }

    fn let_time_pass(&mut self) -> Result<(), String> {
        self.now += Duration::from_millis(self.dice.below(2500) as u64);
        self.flush()
    }

    /// Everything that is due comes, and nothing else.
    fn flush(&mut self) -> Result<(), String> {
        self.now += ACK_DELAY;
        let mut out = Vec::new();
        self.relay.due(self.now, &mut out);
        let mut out = out.into_iter().peekable();
        while let Some(payload) = self.unheard.first().copied() {
            let side = &mut self.sides[0];
            let Some(wire) = side.inject() else { break };
            self.unheard.remove(0);
            let (direction, datagram) = out.next().ok_or("a packet was not given a new number")?;
            let packet = Packet::decode(&datagram).unwrap();
            must!(
                direction == Direction::ToViewer && packet.sequence.0 == side.number(wire),
                "revived wrongly"
            );
            must!(!packet.flags.contains(PacketFlags::RESENT), "a new packet is no copy");
            side.waiting.insert(wire, Waiting { sent: self.now, sends: 1, payload });
        }
        let mut rest: Vec<_> = out.collect();
        for direction in [Direction::ToViewer, Direction::ToSimulator] {
            let side = &mut self.sides[side_of(direction)];
            let mut given_up = Vec::new();
            for (wire, waiting) in &mut side.waiting {
                if self.now - waiting.sent < RESEND_AFTER {
                    continue;
                }
                if waiting.sends == MAX_SENDS {
                    given_up.push(*wire);
                    continue;
                }
                waiting.sent = self.now;
                waiting.sends += 1;
                let number = match side.width {
                    CounterWidth::Bits24 => wire.rem_euclid(1 << 24) as u32,
                    CounterWidth::Bits32 => *wire as u32,
                };
                let is_copy = |(to, datagram): &(Direction, Vec<u8>)| {
                    let packet = Packet::decode(datagram).unwrap();
                    *to == direction
                        && packet.sequence.0 == number
                        && packet.flags.contains(PacketFlags::RESENT)
                        && packet.raw_body.ends_with(&waiting.payload.to_le_bytes())
                };
                let index = rest.iter().position(is_copy).ok_or_else(|| {
                    format!("{direction:?} {wire} {number} was not sent again {waiting:?} {:?}", self.relay)
                })?;
                rest.remove(index);
            }
            for wire in given_up {
                let waiting = side.waiting.remove(&wire).unwrap();
                self.fates.push(Fate::GivenUp(waiting.payload.into()));
            }
        }
        for direction in [Direction::ToViewer, Direction::ToSimulator] {
            self.acks_came(direction, &mut rest)?;
        }
        must!(rest.is_empty(), "{} packets were sent for nothing", rest.len());
        let mut fates = self.relay.take_fates();
        let key = |fate: &Fate| match fate {
            Fate::Acknowledged(owner) => (0, *owner),
            Fate::GivenUp(owner) => (1, *owner),
        };
        fates.sort_by_key(key);
        self.fates.sort_by_key(key);
        must!(fates == self.fates, "fates {fates:?}, expected {:?}", self.fates);
        self.fates.clear();
        Ok(())
    }

    fn acks_came(
        &mut self,
        direction: Direction,
        rest: &mut Vec<(Direction, Vec<u8>)>,
    ) -> Result<(), String> {
        let side = &mut self.sides[side_of(direction)];
        if side.acks.is_empty() || side.highest.is_none() {
            return Ok(());
        }
        let index = rest.iter().position(|(to, datagram)| {
            *to == direction && Packet::decode(datagram).unwrap().number == MessageNumber::PACKET_ACK
        });
        let (_, datagram) = rest.remove(index.ok_or_else(|| format!("acks {:?} were not sent", side.acks))?);
        let packet = Packet::decode(&datagram).unwrap();
        let mut scratch = Vec::new();
        let body = packet.body(&mut scratch).unwrap();
        let mut ids: Vec<u32> = PacketAck::decode(body).unwrap().ids().map(|id| id.0).collect();
        let mut expected = std::mem::take(&mut side.acks);
        ids.sort_unstable();
        expected.sort_unstable();
        must!(ids == expected, "acks {ids:?} were sent, and not {expected:?}");
        let number = packet.sequence.0;
        let hole = side.holes.iter().copied().find(|hole| side.number(*hole) == number);
        match hole {
            Some(hole) => drop(side.holes.remove(&hole)),
            None => {
                let wire = side.inject().unwrap();
                must!(side.number(wire) == number, "acks have number {number} and not {wire}");
            }
        }
        Ok(())
    }

    fn restart_incoming(&mut self) -> Result<(), String> {
        self.flush()?;
        let next = 1 + self.dice.below(3) as i64;
        let side = &mut self.sides[0];
        let fresh = Side { acks: std::mem::take(&mut side.acks), ..Side::new(side.width, next) };
        let old = std::mem::replace(side, fresh);
        self.unheard.extend(old.waiting.values().map(|waiting| waiting.payload));
        self.sides[1].acks.clear();
        self.relay.restart_incoming();
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.restart_incoming()?;
        self.sides[0].acks.clear();
        let old = std::mem::replace(&mut self.sides[1], Side::new(CounterWidth::Bits24, 1));
        self.fates.extend(old.waiting.values().map(|waiting| Fate::GivenUp(waiting.payload.into())));
        self.relay.restart();
        Ok(())
    }

    /// Left alone, everything of ours is acknowledged or given up.
    fn end(&mut self) -> Result<(), String> {
        for direction in [Direction::ToViewer, Direction::ToSimulator] {
            self.fresh(direction)?;
        }
        for _ in 0..=MAX_SENDS {
            self.now += RESEND_AFTER;
            self.flush()?;
        }
        let open =
            self.relay.outstanding(Direction::ToViewer) + self.relay.outstanding(Direction::ToSimulator);
        must!(open == 0, "{open} packets are never given up");
        must!(self.relay.next_due().is_none(), "something stays due");
        Ok(())
    }
}

fn histories() -> u64 {
    if std::env::var_os("REZCACHE_LONG").is_some() { 2_000_000 } else { 20_000 }
}

#[test]
fn every_history_comes_to_what_the_model_says() {
    for seed in 0..histories() {
        if let Err(what) = History::run(seed) {
            panic!("{what}");
        }
    }
}

#[test]
fn the_model_notices_every_rule_that_is_broken() {
    let unnoticed: Vec<Rule> = Rule::ALL
        .into_iter()
        .filter(|rule| with_broken(*rule, || (0..400).all(|seed| History::run(seed).is_ok())))
        .collect();
    assert!(unnoticed.is_empty(), "broken without notice: {unnoticed:?}");
}
