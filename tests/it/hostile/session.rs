//! One session that hears whatever comes, from both sides, and goes on hearing.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rezcache::asset::{Asset, AssetSource};

use rezcache::lludp::{Packet, SequenceNumber, set_sequence};
use rezcache::session::login::{LoginFormat, LoginReply};
use rezcache::session::{CapabilityClass, DropReason, Found, Opener, Output, Route, Session, SessionConfig};
use uuid::uuid;

const LOGIN: &[u8] = include_bytes!("../../../fixtures/login/hippo-reply.xml");
const VIEWER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 13_000);
const SIMULATOR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9000);
/// A request has at most 255 blocks, and each is looked up once.
const MAX_LOOKUPS: usize = 256;

struct Shell(u16);

impl Opener for Shell {
    fn open_endpoint(&mut self, _: SocketAddrV4) -> Option<SocketAddrV4> {
        self.0 += 1;
        Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.0))
    }

    fn mint_alias(&mut self, _: CapabilityClass, _: &str) -> Option<String> {
        Some("http://127.0.0.1:9080/cap/0123456789abcdef0123456789abcdef".to_owned())
    }
}

struct Running {
    session: Session,
    shell: Shell,
    now: Instant,
    heard: u32,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

impl Running {
    fn open() -> Self {
        let LoginReply::Granted(grant) = LoginReply::read(LOGIN, LoginFormat::XmlRpc) else {
            panic!("the fixture grants")
        };
        let (now, mut shell) = (Instant::now(), Shell(40_000));
        let config =
            SessionConfig { hold: Duration::from_millis(100), wraps_at_24_bits: false, chat_commands: true };
        let (session, _) =
            Session::open(now, &grant, LOGIN, LoginFormat::XmlRpc, config, &mut shell).expect("it opens");
        let mut running = Self { session, shell, now, heard: 0 };
        running.open_circuit();
        running
    }

    /// With the code and the ids of the login.
    fn open_circuit(&mut self) {
        let mut opening = vec![0x40, 0, 0, 0, 1, 0, 0xff, 0xff, 0, 3];
        opening.extend(2_028_978_092_u32.to_le_bytes());
        opening.extend(uuid!("b7c5a6d6-a2b2-49f4-a4bc-8c175650e2df").as_bytes());
        opening.extend(uuid!("d3fcb819-57ec-54be-a241-4bbde7cd5a8f").as_bytes());
        assert_ne!(self.viewer(&opening), Route::Drop(DropReason::Stranger));
    }

    fn viewer(&mut self, datagram: &[u8]) -> Route {
        self.session.from_viewer(self.now, SIMULATOR, VIEWER.into(), datagram).0
    }

    /// Does what the session says, and holds it to its bounds.
    fn drain(&mut self, input: &[u8]) {
        let mut lookups = 0;
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::ToViewer { datagram, .. } | Output::ToSimulator { datagram, .. } => {
                    assert!(datagram.len() <= 1201.max(input.len() + 1100), "{} bytes", datagram.len());
                    assert!(Packet::decode(&datagram).is_ok());
                }
                Output::Lookup { ticket, id, .. } => {
                    lookups += 1;
                    let hit = id.0.as_bytes()[3].is_multiple_of(2);
                    let asset = Asset::of(Bytes::from(vec![id.0.as_bytes()[0]; 3000]));
                    let found = hit.then_some(Found { asset, source: AssetSource::Memory });
                    self.session.found(self.now, ticket, found);
                }
                Output::Command { simulator, .. } => self.session.say(self.now, simulator, "an answer"),
                _ => {}
            }
        }
        assert!(lookups <= MAX_LOOKUPS, "{lookups} lookups");
    }

    fn hear(&mut self, input: &[u8]) -> bool {
        self.heard += 1;
        self.now += Duration::from_millis(3);
        let mut numbered = input.to_vec();
        // Numbers as they come, and numbers in order, so that more than the first of them counts.
        if !self.heard.is_multiple_of(3) {
            set_sequence(&mut numbered, SequenceNumber(self.heard));
        }
        let route = self.viewer(&numbered);
        self.drain(input);
        let (_, seen) = self.session.from_simulator(self.now, SIMULATOR.into(), &numbered, &mut self.shell);
        self.drain(input);
        if self.session.next_wake().is_some_and(|due| due <= self.now) {
            self.session.wake(self.now);
            self.drain(input);
        }
        if self.heard.is_multiple_of(100) {
            self.session.tick(self.now, self.now);
            self.drain(input);
            self.open_circuit();
        }
        !seen.malformed && route != Route::Drop(DropReason::Stranger)
    }
}

/// Feeds the input from both sides to a session that has heard all inputs before on this thread.
pub(super) fn hears(input: &[u8]) -> bool {
    RUNNING.with_borrow_mut(|slot| {
        // A panic leaves no half-changed session behind.
        let mut running = slot.take().filter(|running| running.heard < 20_000).unwrap_or_else(Running::open);
        let heard = running.hear(input);
        *slot = Some(running);
        heard
    })
}
