//! Circuits through a running proxy: who may speak, what passes, and how neighbours are met.

use std::net::{SocketAddr, SocketAddrV4};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rezcache::support::metrics::Counter;
use tokio::net::UdpSocket;

use crate::support::client::ask;
use crate::support::fake_grid::Reply;
use crate::support::{
    Avatar, LLSD, Setup, Viewer, ask_seed, between, fixture_text, path_of, seed_reply, within,
};

/// One end of LLUDP traffic: a simulator, a viewer, or a stranger.
pub(crate) struct End(pub(crate) UdpSocket);

impl End {
    pub(crate) async fn open() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn send(&self, to: impl Into<SocketAddr>, datagram: &[u8]) {
        within(self.0.send_to(datagram, to.into())).await.unwrap();
    }

    pub(crate) async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (length, from) = within(self.0.recv_from(&mut buffer)).await.unwrap();
        buffer.truncate(length);
        (buffer, from)
    }

    pub(crate) fn has_received_nothing(&self) -> bool {
        self.0.try_recv(&mut [0; 16]).is_err()
    }
}

pub(crate) fn use_circuit_code(avatar: &Avatar, sequence: u32) -> Vec<u8> {
    let mut datagram = vec![0x40];
    datagram.extend(sequence.to_be_bytes());
    datagram.extend([0, 0xff, 0xff, 0, 3]);
    datagram.extend(avatar.code.to_le_bytes());
    datagram.extend(avatar.session.as_bytes());
    datagram.extend(avatar.agent.as_bytes());
    datagram
}

/// A message nobody knows, numbered.
fn message(sequence: u32) -> Vec<u8> {
    let mut datagram = vec![0];
    datagram.extend(sequence.to_be_bytes());
    datagram.extend([0, 0xff, 0xff, 0xee, 0xee, 1, 2, 3]);
    datagram
}

/// Opens the circuit and answers where the simulator sees the session.
pub(crate) async fn open_circuit(
    avatar: &Avatar,
    viewer: &End,
    loopback: SocketAddrV4,
    simulator: &End,
) -> SocketAddr {
    let opening = use_circuit_code(avatar, 1);
    viewer.send(loopback, &opening).await;
    let (received, from) = simulator.receive().await;
    assert_eq!(received, opening);
    from
}

struct Circuit {
    setup: Setup,
    avatar: Avatar,
    login: Viewer,
    viewer: End,
    simulator: End,
    /// Where the simulator sees the session.
    session: SocketAddr,
}

impl Circuit {
    async fn open() -> Self {
        let setup = Setup::start().await;
        let avatar = Avatar::number(1);
        let (viewer, simulator) = (End::open().await, End::open().await);
        let login = setup.login(&avatar, simulator.at()).await;
        let session = open_circuit(&avatar, &viewer, login.simulator, &simulator).await;
        Self { setup, avatar, login, viewer, simulator, session }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.setup.proxy.metrics().get(counter)
    }

    /// Has the event queue of the session's first region deliver this reply.
    async fn deliver(&self, reply: &str) -> String {
        let seed = seed_reply(&[("EventQueueGet", &self.setup.grid.url("/eq"))]);
        self.setup.grid.on(&self.avatar.seed, move |_| Reply::ok("text/html", &seed));
        let queue = self.login.capabilities(self.setup.at).await["EventQueueGet"].clone();
        let reply = reply.to_owned();
        self.setup.grid.on("/eq", move |_| Reply::ok("application/xml", &reply));
        let poll = b"<llsd><map><key>ack</key><undef /><key>done</key><boolean>0</boolean></map></llsd>";
        ask(self.setup.at, "POST", &queue, &[LLSD], poll).await.text()
    }

    /// The captured announcement of a neighbour, with another address and seed.
    fn neighbour(&self, simulator: SocketAddr, seed: &str) -> String {
        fixture_text("llsd/hippo-enable-and-establish.xml")
            .replace("<integer>9001<", &format!("<integer>{}<", simulator.port()))
            .replace("127.0.0.1:9001", &simulator.to_string())
            .replace(
                "http://127.0.0.1:9000/CAPS/eb63bd47-72d6-4af9-830d-f665d7f752590000/",
                &self.setup.grid.url(seed),
            )
    }
}

/// The endpoint of an EnableSimulator or TeleportFinish event, and the seed's path.
fn announced(reply: &str, ip_key: &str, port_key: &str) -> (SocketAddrV4, String) {
    let ip = between(reply, &format!("<key>{ip_key}</key><binary>"), "<").unwrap();
    let ip: [u8; 4] = BASE64.decode(ip).unwrap().try_into().unwrap();
    let port = between(reply, &format!("<key>{port_key}</key><integer>"), "<").unwrap();
    let seed = between(reply, "http://", "<").unwrap();
    (SocketAddrV4::new(ip.into(), port.parse().unwrap()), path_of(&seed))
}

#[tokio::test]
async fn only_the_sessions_own_use_circuit_code_opens_a_circuit() {
    let setup = Setup::start().await;
    let avatar = Avatar::number(1);
    let (viewer, simulator) = (End::open().await, End::open().await);
    let login = setup.login(&avatar, simulator.at()).await;
    let other = Avatar::number(2);
    let wrong = [
        message(1),
        use_circuit_code(&Avatar { code: other.code, ..avatar.clone() }, 1),
        use_circuit_code(&Avatar { session: other.session, ..avatar.clone() }, 1),
        use_circuit_code(&Avatar { agent: other.agent, ..avatar.clone() }, 1),
        use_circuit_code(&avatar, 1)[..30].to_vec(),
        vec![],
    ];
    for datagram in &wrong {
        viewer.send(login.simulator, datagram).await;
    }
    // The first thing that arrives is the right one.
    open_circuit(&avatar, &viewer, login.simulator, &simulator).await;
    assert_eq!(setup.proxy.metrics().get(Counter::DatagramsStranger), wrong.len() as u64);
}

#[tokio::test]
async fn a_third_socket_is_not_heard_on_either_side() {
    let circuit = Circuit::open().await;
    let third = End::open().await;
    third.send(circuit.login.simulator, &message(2)).await;
    circuit.viewer.send(circuit.login.simulator, &message(3)).await;
    assert_eq!(circuit.simulator.receive().await, (message(3), circuit.session));
    third.send(circuit.session, &message(4)).await;
    circuit.simulator.send(circuit.session, &message(5)).await;
    assert_eq!(circuit.viewer.receive().await, (message(5), circuit.login.simulator.into()));
    assert_eq!(circuit.count(Counter::DatagramsStranger), 2);
    assert!(circuit.viewer.has_received_nothing() && circuit.simulator.has_received_nothing());
}

#[tokio::test]
async fn everything_on_a_circuit_passes_both_ways_byte_for_byte() {
    let circuit = Circuit::open().await;
    let large: Vec<u8> = message(8).into_iter().chain((0..8192u32).map(|n| (n * 7 % 251) as u8)).collect();
    let datagrams: Vec<Vec<u8>> = vec![
        message(0),
        message(0),
        message(u32::MAX),
        vec![0x10, 0, 0, 0, 9, 0, 0xff, 0xff, 0xff, 0xfb, 0],
        // Acks that cannot be there, zero-coding that expands without end, a cut message number.
        vec![0x10, 0, 0, 0, 9, 0, 1, 7, 0xff],
        [&[0x80, 0, 0, 0, 9, 0, 1][..], &[0, 0].repeat(3000)].concat(),
        vec![0, 0, 0, 0, 9, 0, 0xff],
        vec![0x40, 0, 0, 0, 9, 255, 0xff, 0xff, 0, 3],
        vec![1],
        vec![],
        large,
        vec![0xa5; 20_000],
    ];
    for datagram in &datagrams {
        circuit.viewer.send(circuit.login.simulator, datagram).await;
        assert_eq!(circuit.simulator.receive().await, (datagram.clone(), circuit.session));
        circuit.simulator.send(circuit.session, datagram).await;
        assert_eq!(circuit.viewer.receive().await, (datagram.clone(), circuit.login.simulator.into()));
    }
    assert_eq!(circuit.count(Counter::DatagramsForwarded), 1 + 2 * datagrams.len() as u64);
    assert_eq!(circuit.count(Counter::DatagramsPatched), 0);
    assert!(circuit.count(Counter::DatagramsMalformed) >= 2 * 4);
}

#[tokio::test]
async fn a_neighbour_has_a_port_and_a_seed_of_its_own_and_keeps_them() {
    let circuit = Circuit::open().await;
    let neighbour = End::open().await;
    let event = circuit.neighbour(neighbour.at(), "/CAPS/neighbour/");
    let first = circuit.deliver(&event).await;
    let (endpoint, seed) = announced(&first, "IP", "Port");
    assert!(seed.starts_with("/cap/") && seed != circuit.login.seed);
    assert_ne!(endpoint.port(), circuit.login.simulator.port());
    assert!(first.contains(&format!("<key>sim-ip-and-port</key><string>{endpoint}<")));

    let session = open_circuit(&circuit.avatar, &circuit.viewer, endpoint, &neighbour).await;
    assert_eq!(session, circuit.session, "one socket faces the grid");
    neighbour.send(session, &message(1)).await;
    assert_eq!(circuit.viewer.receive().await, (message(1), endpoint.into()));
    circuit.simulator.send(session, &message(2)).await;
    assert_eq!(circuit.viewer.receive().await, (message(2), circuit.login.simulator.into()));

    let reply = seed_reply(&[("GetTexture", &circuit.setup.grid.url("/t"))]);
    circuit.setup.grid.on("/CAPS/neighbour/", move |_| Reply::ok("text/html", &reply));
    assert!(ask_seed(circuit.setup.at, &seed).await.text().contains("/cap/"));

    assert_eq!(circuit.deliver(&event).await, first, "told again, it is the same");
    assert_eq!(
        circuit.deliver(&event.replace("8094626", "8094627")).await,
        first.replace("8094626", "8094627")
    );
}

#[tokio::test]
async fn a_teleport_leads_through_us_and_a_restarted_region_gets_another_seed_on_the_same_port() {
    let circuit = Circuit::open().await;
    let target = End::open().await;
    let finish = |seed: &str| {
        fixture_text("llsd/hippo-teleport-finish.xml")
            .replace("<integer>9001<", &format!("<integer>{}<", target.at().port()))
            .replace(
                "http://127.0.0.1:9000/CAPS/eb63bd47-72d6-4af9-830d-f665d7f752590000/",
                &circuit.setup.grid.url(seed),
            )
    };
    let (endpoint, seed) = announced(&circuit.deliver(&finish("/CAPS/before/")).await, "SimIP", "SimPort");
    let session = open_circuit(&circuit.avatar, &circuit.viewer, endpoint, &target).await;
    target.send(session, &message(7)).await;
    assert_eq!(circuit.viewer.receive().await, (message(7), endpoint.into()));

    let (again, new_seed) = announced(&circuit.deliver(&finish("/CAPS/after/")).await, "SimIP", "SimPort");
    assert_eq!(again, endpoint);
    assert_ne!(new_seed, seed);
    for (alias, path) in [(&seed, "/CAPS/before/"), (&new_seed, "/CAPS/after/")] {
        circuit.setup.grid.on(path, |_| Reply::ok("text/html", "<llsd><map /></llsd>"));
        assert_eq!(ask_seed(circuit.setup.at, alias).await.status, 200);
        assert_eq!(circuit.setup.grid.asked(path).len(), 1);
    }
}

#[tokio::test]
async fn two_avatars_on_one_simulator_never_mix() {
    let setup = Setup::start().await;
    let simulator = End::open().await;
    let mut sessions = Vec::new();
    for n in 1..=2 {
        let avatar = Avatar::number(n);
        let viewer = End::open().await;
        let login = setup.login(&avatar, simulator.at()).await;
        let seen_at = open_circuit(&avatar, &viewer, login.simulator, &simulator).await;
        sessions.push((avatar, viewer, login, seen_at));
    }
    let [(_, first, first_login, first_at), (second_avatar, second, second_login, second_at)] = &sessions[..]
    else {
        panic!()
    };
    assert_ne!(first_at, second_at);
    assert_ne!(first_login.simulator, second_login.simulator);
    assert_ne!(first_login.seed, second_login.seed);
    // One's viewer on the other's port, even with its own credentials.
    first.send(second_login.simulator, &message(1)).await;
    second.send(first_login.simulator, &use_circuit_code(second_avatar, 2)).await;
    for (viewer, login, seen_at, n) in
        [(first, first_login, first_at, 3), (second, second_login, second_at, 4)]
    {
        viewer.send(login.simulator, &message(n)).await;
        assert_eq!(simulator.receive().await, (message(n), *seen_at));
        simulator.send(*seen_at, &message(n)).await;
        assert_eq!(viewer.receive().await, (message(n), login.simulator.into()));
    }
    assert!(first.has_received_nothing() && second.has_received_nothing());
    assert_eq!(setup.proxy.metrics().get(Counter::DatagramsStranger), 2);
}

#[tokio::test]
async fn addresses_in_datagrams_are_rewritten_too() {
    let circuit = Circuit::open().await;
    let target = End::open().await;
    let SocketAddr::V4(address) = target.at() else { panic!() };
    let place = [&address.ip().octets()[..], &address.port().to_be_bytes()].concat();
    let handle = 0x0003_e800_0003_e900_u64.to_le_bytes();
    let seed = circuit.setup.grid.url("/CAPS/by-udp/");
    let capability = |url: &str| {
        let url = [url.as_bytes(), &[0]].concat();
        [&u16::try_from(url.len()).unwrap().to_le_bytes()[..], &url].concat()
    };
    let (agent, session) = (circuit.avatar.agent, circuit.avatar.session);
    let head = [0x40, 0, 0, 0, 77, 0];
    let enable = [&head[..], &[0xff, 0xff, 0, 151], &handle, &place].concat();
    let teleport = |place: &[u8], url: &str| {
        let before = [&head[..], &[0xff, 0xff, 0, 69], agent.as_bytes(), &[4, 0, 0, 0]].concat();
        [&before[..], place, &handle, &capability(url), &[13, 16, 0, 0, 0]].concat()
    };
    let crossed = |place: &[u8], url: &str| {
        let before = [&head[..], &[0xff, 7], agent.as_bytes(), session.as_bytes()].concat();
        [&before[..], place, &handle, &capability(url), &[9; 24]].concat()
    };

    circuit.simulator.send(circuit.session, &enable).await;
    let (received, from) = circuit.viewer.receive().await;
    assert_eq!(from, circuit.login.simulator.into());
    assert_eq!(received[..18], enable[..18]);
    assert_eq!(received[18..22], [127, 0, 0, 1]);
    let port = u16::from_be_bytes([received[22], received[23]]);
    assert_ne!(port, address.port());
    let ours = [&[127, 0, 0, 1][..], &port.to_be_bytes()].concat();

    circuit.simulator.send(circuit.session, &teleport(&place, &seed)).await;
    let (received, _) = circuit.viewer.receive().await;
    let text = String::from_utf8_lossy(&received).into_owned();
    let alias = format!("http://{}", between(&text, "http://", "\0").unwrap());
    assert!(alias.starts_with(&format!("http://{}/cap/", circuit.setup.at)), "{alias}");
    assert_eq!(received, teleport(&ours, &alias));
    circuit.simulator.send(circuit.session, &crossed(&place, &seed)).await;
    assert_eq!(circuit.viewer.receive().await.0, crossed(&ours, &alias));
    assert_eq!(circuit.count(Counter::DatagramsPatched), 3);

    open_circuit(&circuit.avatar, &circuit.viewer, format!("127.0.0.1:{port}").parse().unwrap(), &target)
        .await;
    circuit.setup.grid.on("/CAPS/by-udp/", |_| Reply::ok("text/html", "<llsd><map /></llsd>"));
    assert_eq!(ask_seed(circuit.setup.at, &path_of(&alias)).await.status, 200);
}

#[tokio::test]
async fn a_logout_passes_and_its_reply_too() {
    let circuit = Circuit::open().await;
    let logout = [
        &[0x40, 0, 0, 0, 8, 0, 0xff, 0xff, 0, 252][..],
        circuit.avatar.agent.as_bytes(),
        circuit.avatar.session.as_bytes(),
    ]
    .concat();
    circuit.viewer.send(circuit.login.simulator, &logout).await;
    assert_eq!(circuit.simulator.receive().await.0, logout);
    let reply = [
        &[0x40, 0, 0, 0, 9, 0, 0xff, 0xff, 0, 253][..],
        circuit.avatar.agent.as_bytes(),
        circuit.avatar.session.as_bytes(),
        &[0],
    ]
    .concat();
    circuit.simulator.send(circuit.session, &reply).await;
    assert_eq!(circuit.viewer.receive().await.0, reply);
    // Stragglers still pass: the session ends some time after.
    circuit.viewer.send(circuit.login.simulator, &message(9)).await;
    assert_eq!(circuit.simulator.receive().await.0, message(9));
}
