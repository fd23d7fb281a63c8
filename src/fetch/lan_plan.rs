//! Where a joined server may be: its last known address, and what announcements in the local network say.
//! Announcements are anybody's word. They say only where to look; the server is recognised by its key. So
//! all that matters here is that nobody's announcements make us remember, or knock, without end.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::token::join::{Pin, is_home};

/// Servers that may be joined.
pub const MAX_JOINED: usize = 16;
/// Places of one server that are remembered, beside the one where it was last.
pub const MAX_PLACES: usize = 8;
/// Servers remembered that we have not joined.
pub const MAX_UNKNOWN: usize = 16;
/// How long a server that we have not joined is shown after its last announcement.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(600);
/// Knocks in a minute, whoever announces what.
pub const PROBES_PER_MINUTE: usize = 30;
/// How long a place is left alone after a knock in vain, at first and at most.
const PAUSE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
struct Place {
    address: SocketAddr,
    /// Not before then; `None` while it has not been tried in vain.
    until: Option<Instant>,
    pause: Duration,
}

impl Place {
    const fn new(address: SocketAddr) -> Self {
        Self { address, until: None, pause: PAUSE[0] }
    }

    fn failed(&mut self, now: Instant) {
        self.until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE[1]);
    }
}

#[derive(Clone, Debug)]
struct Joined {
    pin: Pin,
    last: Place,
    places: Vec<Place>,
    /// The knock of before went to a place that was announced.
    strayed: bool,
}

/// A server that announces itself and that we have not joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// What it says its key is.
    pub pin: Pin,
    /// Where it says it is.
    pub address: SocketAddr,
    seen: Instant,
}

/// What came of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// A joined server may be there.
    Place,
    /// Of a server that we have not joined.
    Unknown,
    /// Nothing new, or no address of a home, or too many already.
    Nothing,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Knock there.
    Probe(Pin, SocketAddr),
    /// Nothing before then.
    Wait(Instant),
    /// Nothing until something changes.
    Rest,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct LanPlan {
    joined: Vec<Joined>,
    unknown: Vec<Unknown>,
    probes: VecDeque<Instant>,
    turn: usize,
}

impl LanPlan {
    /// These servers are joined, each with the place where it was last. What is known of those that were
    /// joined before stays.
    pub fn join(&mut self, servers: &[(Pin, SocketAddr)]) {
        let mut before = std::mem::take(&mut self.joined);
        for (pin, last) in servers.iter().take(MAX_JOINED) {
            let known = before.iter().position(|server| server.pin == *pin);
            let mut server = match known {
                Some(at) => before.swap_remove(at),
                None => {
                    Joined { pin: pin.clone(), last: Place::new(*last), places: Vec::new(), strayed: false }
                }
            };
            if server.last.address != *last {
                server.last = Place::new(*last);
            }
            if let Some(at) = self.unknown.iter().position(|unknown| unknown.pin == *pin) {
                let address = self.unknown.swap_remove(at).address;
                let believed = !address.ip().is_loopback() || last.ip().is_loopback();
                if believed && address != *last && server.places.len() < MAX_PLACES {
                    server.places.push(Place::new(address));
                }
            }
            self.joined.push(server);
        }
    }

    /// Somebody announces that the server with this key is there.
    pub fn sighted(&mut self, pin: &Pin, ip: IpAddr, port: u16, now: Instant) -> Noted {
        if port == 0 || !is_home(ip) {
            return Noted::Nothing;
        }
        let address = SocketAddr::new(ip, port);
        let Some(server) = self.joined.iter_mut().find(|server| server.pin == *pin) else {
            return self.unknown(pin, address, now);
        };
        // What leads to this very machine is believed only of a server that was here: nobody else's word
        // shall make us knock at our own doors.
        if ip.is_loopback() && !server.last.address.ip().is_loopback() {
            return Noted::Nothing;
        }
        if server.last.address == address || server.places.iter().any(|place| place.address == address) {
            return Noted::Nothing;
        }
        if server.places.len() >= MAX_PLACES {
            // One that was tried in vain makes room; without any, whoever came first stays.
            let Some(at) =
                server.places.iter().position(|place| place.until.is_some_and(|until| until <= now))
            else {
                return Noted::Nothing;
            };
            server.places.swap_remove(at);
        }
        server.places.push(Place::new(address));
        Noted::Place
    }

    fn unknown(&mut self, pin: &Pin, address: SocketAddr, now: Instant) -> Noted {
        self.unknown.retain(|unknown| now < unknown.seen + UNKNOWN_FOR);
        if let Some(known) = self.unknown.iter_mut().find(|unknown| unknown.pin == *pin) {
            (known.address, known.seen) = (address, now);
            return Noted::Nothing;
        }
        if self.unknown.len() >= MAX_UNKNOWN {
            return Noted::Nothing;
        }
        self.unknown.push(Unknown { pin: pin.clone(), address, seen: now });
        Noted::Unknown
    }

    /// The servers that announce themselves and that we have not joined.
    #[must_use]
    pub fn strangers(&self, now: Instant) -> Vec<Unknown> {
        self.unknown.iter().filter(|unknown| now < unknown.seen + UNKNOWN_FOR).cloned().collect()
    }

    /// Where to knock next, of all joined servers or of this one only. Servers take turns.
    pub fn next(&mut self, only: Option<&Pin>, now: Instant) -> Next {
        while self.probes.front().is_some_and(|at| *at + MINUTE <= now) {
            self.probes.pop_front();
        }
        if self.probes.len() >= PROBES_PER_MINUTE {
            return self.probes.front().map_or(Next::Rest, |at| Next::Wait(*at + MINUTE));
        }
        let number = self.joined.len();
        let mut soonest: Option<Instant> = None;
        for offset in 0..number {
            let at = (self.turn + offset) % number;
            let Some(server) = self.joined.get(at) else { continue };
            if only.is_some_and(|only| *only != server.pin) {
                continue;
            }
            // What was never tried comes before what was tried in vain, the oldest trial first. But every
            // second knock goes to where the server was last, if only that is due: whoever announces ever
            // more places must not keep us from it.
            let due = server.last.until.is_none_or(|until| until <= now);
            let places = server.places.iter().filter(|_| !(due && server.strayed));
            let Some(place) = std::iter::once(&server.last).chain(places).min_by_key(|place| place.until)
            else {
                continue;
            };
            match place.until {
                Some(until) if now < until => soonest = Some(soonest.map_or(until, |other| other.min(until))),
                _ => {
                    let (pin, address) = (server.pin.clone(), place.address);
                    let strayed = address != server.last.address;
                    if let Some(server) = self.joined.get_mut(at) {
                        server.strayed = strayed;
                    }
                    self.turn = at + 1;
                    self.probes.push_back(now);
                    return Next::Probe(pin, address);
                }
            }
        }
        soonest.map_or(Next::Rest, Next::Wait)
    }

    /// A knock was answered by the server itself, or in vain.
    pub fn probed(&mut self, pin: &Pin, address: SocketAddr, found: bool, now: Instant) {
        let Some(server) = self.joined.iter_mut().find(|server| server.pin == *pin) else { return };
        if found {
            server.last = Place::new(address);
            server.places.retain(|place| place.address != address);
            return;
        }
        if server.last.address == address {
            server.last.failed(now);
        } else if let Some(at) = server.places.iter().position(|place| place.address == address) {
            let forgotten = server.places.get_mut(at).is_none_or(|place| {
                place.failed(now);
                place.pause >= PAUSE[1]
            });
            // It may be announced again.
            if forgotten {
                server.places.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn pin(number: u8) -> Pin {
        format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn joined() -> LanPlan {
        let mut plan = LanPlan::default();
        plan.join(&[(pin(1), at("192.168.1.5:8443"))]);
        plan
    }

    #[test]
    fn the_last_known_place_is_tried_then_what_is_announced_and_what_fails_is_left_alone() {
        let start = Instant::now();
        let mut plan = joined();
        assert_eq!(plan.next(None, start), Next::Probe(pin(1), at("192.168.1.5:8443")));
        plan.probed(&pin(1), at("192.168.1.5:8443"), false, start);
        assert_eq!(plan.next(None, start), Next::Wait(start + PAUSE[0]));
        assert_eq!(plan.sighted(&pin(1), "192.168.1.9".parse().unwrap(), 9000, start), Noted::Place);
        assert_eq!(plan.sighted(&pin(1), "192.168.1.9".parse().unwrap(), 9000, start), Noted::Nothing);
        assert_eq!(plan.next(None, start), Next::Probe(pin(1), at("192.168.1.9:9000")));
        plan.probed(&pin(1), at("192.168.1.9:9000"), true, start);
        assert_eq!(
            plan.next(None, start),
            Next::Probe(pin(1), at("192.168.1.9:9000")),
            "that is the place now"
        );
        assert_eq!(plan.next(Some(&pin(2)), start), Next::Rest, "asked about another one");
    }

    #[test]
    fn a_place_that_was_given_up_is_tried_again_when_it_is_announced_again() {
        let mut now = Instant::now();
        let mut plan = joined();
        let ip = "192.168.1.9".parse().unwrap();
        plan.sighted(&pin(1), ip, 9000, now);
        for _ in 0..40 {
            if let Next::Probe(whose, address) = plan.next(None, now) {
                plan.probed(&whose, address, false, now);
            }
            now += Duration::from_secs(20);
        }
        assert_eq!(plan.joined[0].places.len(), 0, "given up");
        assert_eq!(plan.sighted(&pin(1), ip, 9000, now), Noted::Place);
        assert_eq!(plan.next(None, now), Next::Probe(pin(1), at("192.168.1.9:9000")));
    }

    #[test]
    fn ever_more_places_do_not_keep_us_from_where_the_server_was() {
        let mut now = Instant::now();
        let mut plan = joined();
        let mut home = 0;
        for number in 0..120u8 {
            // More than are knocked at come in between.
            for other in 0..3 {
                plan.sighted(&pin(1), IpAddr::from([10, 0, number, other]), 9000, now);
            }
            if let Next::Probe(whose, address) = plan.next(None, now) {
                home += u32::from(address == at("192.168.1.5:8443"));
                plan.probed(&whose, address, false, now);
            }
            now += Duration::from_secs(5);
        }
        assert!(home >= 10, "{home} in ten minutes");
    }

    #[test]
    fn announcements_that_lead_elsewhere_are_ignored() {
        let now = Instant::now();
        let mut plan = joined();
        for ip in [
            "203.0.113.7",
            "8.8.8.8",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.251",
            "2001:db8::1",
            "fe80::1",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(plan.sighted(&pin(1), ip.parse().unwrap(), 8443, now), Noted::Nothing, "{ip}");
            let ip: IpAddr = ip.parse().unwrap();
            assert!(ip.is_loopback() || plan.sighted(&pin(9), ip, 8443, now) == Noted::Nothing, "{ip}");
        }
        assert_eq!(plan.sighted(&pin(1), "10.0.0.1".parse().unwrap(), 0, now), Noted::Nothing);
        assert!(plan.strangers(now).is_empty());
        plan.join(&[(pin(1), at("127.0.0.1:8443"))]);
        assert_eq!(plan.sighted(&pin(1), "127.0.0.1".parse().unwrap(), 9, now), Noted::Place);
    }

    #[test]
    fn a_stranger_is_shown_until_it_is_joined_or_gone() {
        let start = Instant::now();
        let mut plan = joined();
        let ip = "192.168.1.77".parse().unwrap();
        assert_eq!(plan.sighted(&pin(7), ip, 8443, start), Noted::Unknown);
        assert_eq!(plan.strangers(start).len(), 1);
        assert!(plan.strangers(start + UNKNOWN_FOR).is_empty());
        assert_eq!(plan.next(Some(&pin(7)), start), Next::Rest, "never knocked at");
        plan.join(&[(pin(1), at("192.168.1.5:8443")), (pin(7), at("192.168.1.70:8443"))]);
        assert!(plan.strangers(start).is_empty());
        assert_eq!(plan.next(Some(&pin(7)), start), Next::Probe(pin(7), at("192.168.1.70:8443")));
        plan.probed(&pin(7), at("192.168.1.70:8443"), false, start);
        assert_eq!(plan.next(Some(&pin(7)), start), Next::Probe(pin(7), at("192.168.1.77:8443")));
        plan.join(&[]);
        assert_eq!(plan.next(None, start + MINUTE), Next::Rest);
    }

    proptest! {
        /// Whatever is announced, in whatever order, memory and knocks are bounded, and the place where the
        /// server was last is never pushed out.
        #[test]
        fn a_flood_is_bounded(events in proptest::collection::vec((prop_oneof![Just(1u8), 0u8..60], any::<[u8; 2]>(), any::<u16>(), 0u64..400), 1..600)) {
            let mut now = Instant::now();
            let mut plan = joined();
            let mut knocks: Vec<Instant> = Vec::new();
            // Knocks elsewhere since the last known place was due at the latest.
            let (mut home, mut elsewhere) = (now, 0);
            for (number, [a, b], port, pause) in events {
                now += Duration::from_millis(pause);
                plan.sighted(&pin(number), IpAddr::from([10, 0, a, b]), port, now);
                while let Next::Probe(whose, address) = plan.next(None, now) {
                    prop_assert_eq!(&whose, &pin(1), "only what was joined");
                    knocks.push(now);
                    if address == at("192.168.1.5:8443") {
                        (home, elsewhere) = (now, 0);
                    } else if now >= home + PAUSE[1] {
                        elsewhere += 1;
                    }
                    prop_assert!(elsewhere <= 1, "nobody keeps us from where the server was");
                    plan.probed(&whose, address, false, now);
                }
                prop_assert!(plan.unknown.len() <= MAX_UNKNOWN && plan.probes.len() <= PROBES_PER_MINUTE);
                prop_assert!(plan.joined.iter().all(|server| server.places.len() <= MAX_PLACES));
                prop_assert_eq!(plan.joined[0].last.address, at("192.168.1.5:8443"));
            }
            for window in knocks.windows(PROBES_PER_MINUTE + 1) {
                prop_assert!(window[PROBES_PER_MINUTE] >= window[0] + MINUTE);
            }
        }
    }
}
