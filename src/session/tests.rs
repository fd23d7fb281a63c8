#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::net::Ipv4Addr;

use super::login::{LoginFormat, LoginReply};
use super::*;

mod simulation;

const CONFIG: SessionConfig =
    SessionConfig { hold: Duration::from_millis(40), wraps_at_24_bits: false, chat_commands: false };
pub(super) const LOGIN: &str = include_str!("../../fixtures/login/hippo-reply.xml");
pub(super) const NEIGHBOUR: &str = include_str!("../../fixtures/llsd/hippo-enable-and-establish.xml");
const TELEPORT: &str = include_str!("../../fixtures/llsd/hippo-teleport-finish.xml");

pub(super) const HOME: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9000);
pub(super) const NEXT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9001);
pub(super) const VIEWER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 13_000);
const STRANGER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 13_001);

/// Hands out ports from 40000 and numbered URLs, and notes what it was asked for.
#[derive(Default)]
pub(super) struct Shell {
    endpoints: Vec<SocketAddrV4>,
    urls: Vec<String>,
}

impl Opener for Shell {
    fn open_endpoint(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4> {
        self.endpoints.push(simulator);
        let port = 40_000 + u16::try_from(self.endpoints.len()).unwrap();
        Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }

    fn mint_alias(&mut self, _: CapabilityClass, url: &str) -> Option<String> {
        self.urls.push(url.to_owned());
        Some(format!("http://127.0.0.1:9080/cap/{}", self.urls.len()))
    }
}

/// A session with a clock that the test turns.
struct Running {
    session: Session,
    shell: Shell,
    start: Instant,
    now: Instant,
}

impl Running {
    fn open() -> Self {
        let LoginReply::Granted(grant) = LoginReply::read(LOGIN.as_bytes(), LoginFormat::XmlRpc) else {
            panic!("the fixture grants")
        };
        let (start, mut shell) = (Instant::now(), Shell::default());
        let (session, _) =
            Session::open(start, &grant, LOGIN.as_bytes(), LoginFormat::XmlRpc, CONFIG, &mut shell).unwrap();
        let mut running = Self { session, shell, start, now: start };
        assert_eq!(running.viewer(HOME, &use_circuit_code()), Route::Forward(HOME.into()));
        running
    }

    fn viewer(&mut self, simulator: SocketAddrV4, datagram: &[u8]) -> Route {
        self.session.from_viewer(self.now, simulator, VIEWER.into(), datagram).0
    }

    fn simulator(&mut self, from: SocketAddrV4, datagram: &[u8]) -> Route {
        self.session.from_simulator(self.now, from.into(), datagram, &mut self.shell).0
    }

    fn events(&mut self, reply: &str) -> String {
        let rewritten = self.session.rewrite_event_reply(self.now, reply.as_bytes(), &mut self.shell);
        String::from_utf8(rewritten.body.expect("rewritten")).unwrap()
    }

    /// Lets seconds pass without any HTTP; answers whether the session goes on.
    fn pass(&mut self, seconds: u64) -> bool {
        self.now += Duration::from_secs(seconds);
        self.session.tick(self.now, self.start)
    }
}

fn message(number: &[u8], body: &[u8]) -> Vec<u8> {
    [&[0x40, 0, 0, 0, 1, 0][..], number, body].concat()
}

pub(super) fn use_circuit_code() -> Vec<u8> {
    let id = |text: &str| Uuid::parse_str(text).unwrap().into_bytes();
    let body = [
        &2_028_978_092_u32.to_le_bytes()[..],
        &id("b7c5a6d6-a2b2-49f4-a4bc-8c175650e2df"),
        &id("d3fcb819-57ec-54be-a241-4bbde7cd5a8f"),
    ];
    message(&[0xff, 0xff, 0, 3], &body.concat())
}

fn ping() -> Vec<u8> {
    message(&[1], &[7, 0, 0, 0, 0])
}

fn agent_ids() -> Vec<u8> {
    use_circuit_code()[14..].to_vec()
}

const AGENT_PAUSE: [u8; 4] = [0xff, 0xff, 0, 78];
const AGENT_RESUME: [u8; 4] = [0xff, 0xff, 0, 79];
const DISABLE_SIMULATOR: [u8; 4] = [0xff, 0xff, 0, 152];
const KICK_USER: [u8; 4] = [0xff, 0xff, 0, 163];
const LOGOUT_REQUEST: [u8; 4] = [0xff, 0xff, 0, 252];
const CLOSE_CIRCUIT: [u8; 4] = [0xff, 0xff, 0xff, 0xfd];

const FROM_STRANGER: Route = Route::Drop(DropReason::Stranger);

#[test]
fn only_its_own_use_circuit_code_opens_a_circuit_and_only_its_sender_is_heard() {
    let mut running = Running::open();
    let from_stranger = |running: &mut Running, datagram: &[u8]| {
        running.session.from_viewer(running.now, HOME, STRANGER.into(), datagram).0
    };
    assert_eq!(from_stranger(&mut running, &ping()), FROM_STRANGER);
    for flipped in 10..use_circuit_code().len() {
        let mut wrong = use_circuit_code();
        wrong[flipped] ^= 1;
        assert_eq!(from_stranger(&mut running, &wrong), FROM_STRANGER, "byte {flipped}");
    }
    assert_eq!(running.viewer(HOME, &ping()), Route::Forward(HOME.into()));
    assert_eq!(running.simulator(HOME, &ping()), Route::Forward(VIEWER.into()));
    assert_eq!(running.simulator(NEXT, &ping()), FROM_STRANGER, "nobody has announced it");
    assert_eq!(running.viewer(NEXT, &use_circuit_code()), FROM_STRANGER);
}

#[test]
fn an_announced_simulator_is_heard_once_the_viewer_has_spoken_to_it() {
    let mut running = Running::open();
    let first = running.events(NEIGHBOUR);
    assert_eq!(running.simulator(NEXT, &ping()), FROM_STRANGER);
    assert_eq!(running.viewer(NEXT, &use_circuit_code()), Route::Forward(NEXT.into()));
    assert_eq!(running.simulator(NEXT, &ping()), Route::Forward(VIEWER.into()));
    assert_eq!(running.session.open_circuits(), 2);
    assert_eq!(running.events(NEIGHBOUR), first);
    assert_eq!(running.shell.endpoints, [HOME, NEXT], "each is opened once");
    assert_eq!(running.shell.urls.len(), 2, "each seed is named once");
}

#[test]
fn a_crossing_goes_to_the_port_of_the_neighbour_and_back_to_the_first() {
    let mut running = Running::open();
    running.events(NEIGHBOUR);
    running.viewer(NEXT, &use_circuit_code());
    let crossed = running.events(TELEPORT);
    assert!(crossed.contains("<integer>40002<"));
    // The viewer opens its circuit once more, then the old region is closed.
    assert_eq!(running.viewer(NEXT, &use_circuit_code()), Route::Forward(NEXT.into()));
    assert_eq!(running.simulator(HOME, &message(&DISABLE_SIMULATOR, &[])), Route::Forward(VIEWER.into()));
    assert!(running.pass(29));
    assert_eq!(running.simulator(HOME, &ping()), Route::Forward(VIEWER.into()), "stragglers pass");
    assert!(running.pass(1));
    assert_eq!(running.simulator(HOME, &ping()), FROM_STRANGER);
    assert_eq!(running.viewer(NEXT, &ping()), Route::Forward(NEXT.into()));

    let back = TELEPORT.replace("<integer>9001<", "<integer>9000<");
    assert!(running.events(&back).contains("<integer>40001<"), "a region keeps its port");
    assert_eq!(running.viewer(HOME, &use_circuit_code()), Route::Forward(HOME.into()));
    assert_eq!(running.simulator(HOME, &ping()), Route::Forward(VIEWER.into()));
    assert_eq!(running.shell.endpoints, [HOME, NEXT]);
}

#[test]
fn a_restarted_region_keeps_its_port_and_gets_another_seed() {
    let mut running = Running::open();
    let first = running.events(NEIGHBOUR);
    let restarted = running.events(&NEIGHBOUR.replace("eb63bd47", "00000000"));
    assert_eq!(restarted, first.replace("/cap/2<", "/cap/3<"));
    assert_eq!(running.shell.endpoints.len(), 2);
}

#[test]
fn silence_closes_a_circuit_and_later_the_session() {
    let mut running = Running::open();
    assert!(running.pass(179));
    assert_eq!(running.session.open_circuits(), 1);
    assert!(running.pass(1), "the viewer may come back");
    assert_eq!(running.session.open_circuits(), 0);
    assert_eq!(running.viewer(HOME, &ping()), FROM_STRANGER);
    assert_eq!(running.viewer(HOME, &use_circuit_code()), Route::Forward(HOME.into()));
    assert!(running.pass(599));
    assert!(!running.pass(1));
}

#[test]
fn a_paused_viewer_may_be_silent_for_longer() {
    let mut running = Running::open();
    running.viewer(HOME, &message(&AGENT_PAUSE, &agent_ids()));
    assert!(running.pass(599));
    assert_eq!(running.simulator(HOME, &ping()), Route::Forward(VIEWER.into()));
    running.viewer(HOME, &message(&AGENT_RESUME, &agent_ids()));
    assert!(running.pass(180));
    assert_eq!(running.session.open_circuits(), 0);
}

#[test]
fn http_alone_keeps_a_session_alive() {
    let mut running = Running::open();
    for _ in 0..10 {
        running.now += Duration::from_secs(599);
        let a_moment_ago = running.now - Duration::from_secs(1);
        assert!(running.session.tick(running.now, a_moment_ago));
    }
    assert!(running.session.tick(running.now + Duration::from_secs(598), running.now));
    assert!(!running.session.tick(running.now + Duration::from_secs(600), running.now));
}

#[test]
fn a_logout_or_a_kick_ends_the_session_after_a_linger() {
    type Goodbye = fn(&mut Running) -> Route;
    let goodbyes: [Goodbye; 2] = [
        |running| running.viewer(HOME, &message(&LOGOUT_REQUEST, &agent_ids())),
        |running| running.simulator(HOME, &message(&KICK_USER, &[0; 40])),
    ];
    for goodbye in goodbyes {
        let mut running = Running::open();
        assert_ne!(goodbye(&mut running), FROM_STRANGER);
        assert!(running.pass(29));
        assert_eq!(running.simulator(HOME, &ping()), Route::Forward(VIEWER.into()));
        assert!(!running.pass(1));
    }
}

#[test]
fn closing_one_circuit_leaves_the_others() {
    let mut running = Running::open();
    running.events(NEIGHBOUR);
    running.viewer(NEXT, &use_circuit_code());
    assert_eq!(running.viewer(NEXT, &message(&CLOSE_CIRCUIT, &[])), Route::Forward(NEXT.into()));
    assert!(running.pass(30));
    assert_eq!(running.session.open_circuits(), 1);
    assert_eq!(running.viewer(HOME, &ping()), Route::Forward(HOME.into()));
}

#[test]
fn what_cannot_be_read_passes_on_its_circuit() {
    let mut running = Running::open();
    for datagram in
        [&b""[..], b"\0", &[0xff; 3000], &use_circuit_code()[..20], &message(&[0xff, 0xff, 0xee, 0], b"x")]
    {
        assert_eq!(running.viewer(HOME, datagram), Route::Forward(HOME.into()));
        assert_eq!(running.simulator(HOME, datagram), Route::Forward(VIEWER.into()));
    }
}

/// Where the avatar is said to be, and what regions are said to be called, since the last call.
fn told_of_regions(running: &mut Running) -> Vec<(u64, Option<Vec<u8>>)> {
    std::iter::from_fn(|| running.session.poll_output())
        .filter_map(|output| match output {
            Output::Arrived { region } => Some((region.0, None)),
            Output::Named { region, name } => Some((region.0, Some(name))),
            _ => None,
        })
        .collect()
}

#[test]
fn arrivals_by_login_and_teleport_are_told_with_the_region_s_name_and_late_copies_are_not() {
    const COMPLETE: [u8; 4] = [0xff, 0xff, 0, 249];
    const HANDSHAKE: [u8; 4] = [0xff, 0xff, 0, 148];
    const ARRIVED: [u8; 4] = [0xff, 0xff, 0, 250];
    let home = (256_000_u64 << 32) | 256_000;
    let handshake = |name: &[u8]| {
        let length = u8::try_from(name.len()).unwrap();
        message(&HANDSHAKE, &[&[0; 5][..], &[length], name, &[0; 60]].concat())
    };
    let mut running = Running::open();
    // A neighbour's name is told, but it is no arrival; nor is the circuit alone one.
    running.simulator(HOME, &handshake(b"Home\0"));
    assert_eq!(told_of_regions(&mut running), [(home, Some(b"Home\0".to_vec()))]);
    let complete = message(&COMPLETE, &agent_ids());
    running.viewer(HOME, &complete);
    assert_eq!(told_of_regions(&mut running), [(home, None), (home, Some(b"Home\0".to_vec()))]);

    running.events(TELEPORT);
    let next = *running.shell.endpoints.last().unwrap();
    assert_ne!(next, HOME);
    assert_eq!(told_of_regions(&mut running), [], "not there yet");
    running.viewer(next, &use_circuit_code());
    running.viewer(next, &complete);
    let told = told_of_regions(&mut running);
    assert!(told.len() == 1 && told[0].0 != home, "{told:?}");
    // The simulator's word on its place counts, and what it is called may come later or be anything.
    let place = 7_u64 << 40;
    let body = [&agent_ids()[..32], &[0; 24], &place.to_le_bytes(), &[0; 4], &[0; 2]].concat();
    running.simulator(next, &message(&ARRIVED, &body));
    running.simulator(next, &handshake(&[0xff; 255]));
    running.simulator(next, &message(&HANDSHAKE, &[1, 2]));
    assert_eq!(told_of_regions(&mut running), [(place, None), (place, Some(vec![0xff; 255]))]);
    let mut late = complete;
    late[0] |= 0x20;
    running.viewer(HOME, &late);
    assert_eq!(told_of_regions(&mut running), [], "a copy that comes late is no return");
}
