//! The task that owns a session: its UDP sockets, and the replies it rewrites.
//!
//! One loopback socket per simulator faces the viewer, which tells circuits apart by address; one
//! socket per session faces the grid, so that the session looks like one viewer behind one port.
//! One task polls them all: no lock and no queue lies between receiving a datagram and sending it.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, Sleep};

use super::chat_commands::ChatDesk;
use super::event_queue::EventQueue;
use super::grid_port::GridPort;
use super::reach::Transport;
use super::registry::{Alias, AliasToken, Command, SessionLink};
use super::udp_assets::UdpAssets;
use crate::asset::AssetSource;
use crate::grid::Origin;
use crate::redact::Redacted;
use crate::scenes::{Scenes, Visitor};
use crate::session::login::{LoginFormat, LoginGrant};
use crate::session::{
    CapabilityClass, DropReason, Made, Opener, Output, Route, Seen, Session, SessionConfig,
};
use crate::support::metrics::Counter;

/// Kernel buffers: a region's burst of object updates must survive a busy moment of ours.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// The largest UDP payload: we never cut a datagram short.
const DATAGRAM_BYTES: usize = 65_536;
/// Datagrams taken from one socket before the others get their turn.
const BATCH: usize = 64;
/// Datagrams that wait for a full kernel buffer; more are dropped and counted.
const OUTBOX: usize = 1024;

/// One of the task's sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Grid,
    Port(usize),
}

struct Port {
    socket: UdpSocket,
    simulator: SocketAddrV4,
}

/// Opens what the session asks for.
struct ShellOpener {
    grid: Arc<GridPort>,
    link: Arc<SessionLink>,
    opened: Vec<Port>,
    tokens: Vec<AliasToken>,
}

impl Opener for ShellOpener {
    fn open_endpoint(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4> {
        if !self.grid.reach.permits(Transport::Udp, simulator.into()) {
            return None;
        }
        let SocketAddr::V4(listen) = self.grid.local else { return None };
        let socket = bind(*listen.ip()).ok()?;
        let Ok(SocketAddr::V4(loopback)) = socket.local_addr() else { return None };
        self.grid.shared.own.add(Transport::Udp, loopback.into());
        self.opened.push(Port { socket, simulator });
        Some(loopback)
    }

    fn mint_alias(&mut self, class: CapabilityClass, url: &str) -> Option<String> {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return None,
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse() {
            let endpoint = SocketAddr::new(address, uri.port_u16().unwrap_or(default_port));
            if !self.grid.reach.permits(Transport::Tcp, endpoint) {
                return None;
            }
        }
        let token = AliasToken::random();
        self.grid.aliases.insert(
            token,
            Alias {
                class,
                url: Redacted::new(url.to_owned()),
                origin: Origin::new(host),
                session: Arc::clone(&self.link),
                queue: EventQueue::default(),
            },
        );
        self.tokens.push(token);
        Some(token.url(&self.grid.local))
    }
}

fn bind(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // The system may cap these; smaller buffers work too.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    UdpSocket::from_std(socket.into())
}

/// Opens a session for a granted login and returns the rewritten reply. `None` leaves the reply
/// as it is: the viewer then goes to the grid itself. The circuit's socket is open before the reply
/// is returned, since the viewer speaks at once.
pub(super) fn open_session(
    grid: &Arc<GridPort>,
    grant: &LoginGrant,
    body: &[u8],
    format: LoginFormat,
    stop: watch::Receiver<bool>,
) -> Option<Vec<u8>> {
    let (commands, inbox) = mpsc::channel(64);
    let link = Arc::new(SessionLink::new(commands, grid.shared.chronicle.visitor()));
    let assets = UdpAssets::new(grid, &link);
    let config = SessionConfig {
        hold: grid.shared.hold,
        // Second Life's simulators share the viewer's library; OpenSimulator counts 32 bits.
        wraps_at_24_bits: grid.identity().id.is_second_life(),
        chat_commands: grid.shared.chat_commands,
    };
    let mut opener = ShellOpener { grid: Arc::clone(grid), link, opened: Vec::new(), tokens: Vec::new() };
    let opened = bind(Ipv4Addr::UNSPECIFIED).ok().and_then(|socket| {
        Some((socket, Session::open(Instant::now(), grant, body, format, config, &mut opener)?))
    });
    let Some((grid_socket, (session, rewritten))) = opened else {
        grid.shared.metrics.count(Counter::AddressesRefused);
        opener.discard();
        return None;
    };
    let alive = grid.shared.alive();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut task = SessionTask {
        session,
        inbox,
        grid_socket,
        ports: Vec::new(),
        by_simulator: HashMap::new(),
        outbox: VecDeque::new(),
        buffer: vec![0; DATAGRAM_BYTES],
        opener,
        tick,
        assets,
        chat: ChatDesk::open(&grid.shared),
        alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
        alarm_at: None,
        _alive: alive,
    };
    task.adopt_ports();
    if let Ok(address) = task.grid_socket.local_addr() {
        grid.shared.own.add(Transport::Udp, address);
    }
    grid.shared.metrics.sessions_changed(1);
    tokio::spawn(task.run(stop));
    Some(rewritten)
}

impl ShellOpener {
    /// Takes back what was opened for a session that did not come to be, or is over.
    fn discard(&mut self) {
        for token in self.tokens.drain(..) {
            self.grid.aliases.remove(token);
        }
        for port in self.opened.drain(..) {
            port.retire(&self.grid);
        }
    }
}

impl Port {
    fn retire(self, grid: &GridPort) {
        if let Ok(address) = self.socket.local_addr() {
            grid.shared.own.remove(Transport::Udp, address);
        }
    }
}

struct SessionTask {
    session: Session,
    opener: ShellOpener,
    inbox: mpsc::Receiver<Command>,
    grid_socket: UdpSocket,
    ports: Vec<Port>,
    by_simulator: HashMap<SocketAddr, usize>,
    outbox: VecDeque<(Via, SocketAddr, Vec<u8>, Counter)>,
    buffer: Vec<u8>,
    tick: Interval,
    assets: UdpAssets,
    chat: ChatDesk,
    /// Rings when the session wants to be woken.
    alarm: Pin<Box<Sleep>>,
    alarm_at: Option<Instant>,
    /// Tells the proxy that this session still runs.
    _alive: Option<mpsc::Sender<()>>,
}

enum Wake {
    Command(Command),
    Tick,
    LinkGone,
}

impl SessionTask {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let wake = tokio::select! {
                wake = poll_fn(|cx| self.poll(cx)) => wake,
                _ = stop.wait_for(|stopping| *stopping) => break,
            };
            match wake {
                Wake::Command(command) => self.command(command),
                Wake::Tick => {
                    let under_way = self.session.downloads_under_way(Instant::now());
                    self.scene(|scenes, visitor| scenes.udp_open(visitor, under_way as u64));
                    if !self.session.tick(Instant::now(), self.opener.link.last_used()) {
                        break;
                    }
                }
                Wake::LinkGone => break,
            }
        }
        self.session.finish(Instant::now());
        self.act(&mut Context::from_waker(Waker::noop()));
        let metrics = &self.opener.grid.shared.metrics;
        metrics.sessions_changed(-1);
        metrics.count(Counter::SessionsEnded);
        self.scene(Scenes::left);
        tracing::info!(grid = %self.opener.grid.config.name, "session ended");
        if let Ok(address) = self.grid_socket.local_addr() {
            self.opener.grid.shared.own.remove(Transport::Udp, address);
        }
        for port in self.ports.drain(..) {
            port.retire(&self.opener.grid);
        }
        self.opener.discard();
    }

    /// Tells the page's scenes something of this login.
    fn scene(&self, tell: impl FnOnce(&mut Scenes, Visitor)) {
        tell(&mut self.opener.grid.shared.chronicle.scenes(), self.opener.link.visitor);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Seed { body, answer } => {
                let rewritten = self.session.rewrite_seed_reply(&body, &mut self.opener);
                let _ = answer.send(rewritten.body);
            }
            Command::Events { body, answer } => {
                let now = Instant::now();
                let rewritten = self.session.rewrite_event_reply(now, &body, &mut self.opener);
                let _ = answer.send((rewritten.body, rewritten.id));
            }
            Command::Found { ticket, found } => self.session.found(Instant::now(), ticket, found),
        }
        self.adopt_ports();
        self.opener.grid.shared.metrics.add(Counter::AddressesRefused, self.session.take_refused());
    }

    /// Takes over the sockets that the session has just had opened.
    fn adopt_ports(&mut self) {
        for port in self.opener.opened.drain(..) {
            self.by_simulator.insert(port.simulator.into(), self.ports.len());
            self.ports.push(port);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        match self.inbox.poll_recv(cx) {
            Poll::Ready(Some(command)) => return Poll::Ready(Wake::Command(command)),
            Poll::Ready(None) => return Poll::Ready(Wake::LinkGone),
            Poll::Pending => {}
        }
        if self.tick.poll_tick(cx).is_ready() {
            return Poll::Ready(Wake::Tick);
        }
        self.flush(cx);
        self.act(cx);
        let mut more = self.drain(Via::Grid, cx);
        for index in 0..self.ports.len() {
            more |= self.drain(Via::Port(index), cx);
        }
        if self.poll_alarm(cx) || more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Wakes the session when it is time. Answers whether it was.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(wanted) = self.session.next_wake() else {
            self.alarm_at = None;
            return false;
        };
        if self.alarm_at != Some(wanted) {
            self.alarm_at = Some(wanted);
            self.alarm.as_mut().reset(wanted.into());
        }
        if self.alarm.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.alarm_at = None;
        self.session.wake(Instant::now());
        self.act(cx);
        true
    }

    /// Does what the session says besides sending a datagram on.
    fn act(&mut self, cx: &mut Context<'_>) {
        while let Some(output) = self.session.poll_output() {
            let metrics = &self.opener.grid.shared.metrics;
            match output {
                Output::ToViewer { simulator, viewer, datagram, .. } => {
                    if let Some(port) = self.by_simulator.get(&SocketAddr::V4(simulator)).copied() {
                        self.send(Via::Port(port), viewer, &datagram, Counter::DatagramsInjected, cx);
                    }
                }
                Output::ToSimulator { simulator, datagram, made } => {
                    let to = self.opener.grid.shared.dial.udp_target(simulator.into());
                    let counter = match made {
                        Made::Injected => Counter::DatagramsInjected,
                        Made::Released => Counter::DatagramsForwarded,
                    };
                    self.send(Via::Grid, to, &datagram, counter, cx);
                }
                Output::Lookup { ticket, kind, id, simulator } => {
                    let origin = Origin::new(&simulator.ip().to_string());
                    self.scene(|scenes, visitor| {
                        scenes.begun_udp(Instant::now(), visitor, kind, id, &origin);
                    });
                    if let Some(found) = self.assets.look_up(ticket, kind, id, simulator) {
                        self.session.found(Instant::now(), ticket, found);
                    }
                }
                Output::Learned { kind, id, simulator, bytes } => {
                    self.assets.learn(kind, id, simulator, bytes);
                }
                Output::Partial { kind, id, simulator, total, extents } => {
                    self.assets.learn_parts(kind, id, simulator, total, extents);
                }
                Output::Command { simulator, command } => {
                    let answer = self.chat.answer(&self.opener.grid.shared, command);
                    self.session.say(Instant::now(), simulator, &answer);
                }
                Output::Baked(ids) => self.assets.baked(&ids),
                Output::Swallowed => metrics.count(Counter::DatagramsSwallowed),
                Output::Patched => metrics.count(Counter::DatagramsPatched),
                Output::Unlearnt => metrics.count(Counter::AssetsInvalid),
                Output::Served { kind, source, bytes } => {
                    metrics.asset_served(kind, source, bytes);
                    let hit = !matches!(source, AssetSource::Grid | AssetSource::Joined);
                    self.scene(|scenes, visitor| scenes.ended_udp(Instant::now(), visitor, hit));
                }
                Output::Arrived { region } => {
                    let grid = &self.opener.grid;
                    grid.shared.chronicle.arrived(self.opener.link.visitor, &grid.identity().id, region);
                }
                Output::Named { region, name } => {
                    self.opener.grid.shared.chronicle.named(self.opener.link.visitor, region, &name);
                }
            }
        }
    }

    /// Handles up to a batch of datagrams from one socket; answers whether more may be waiting.
    fn drain(&mut self, via: Via, cx: &mut Context<'_>) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut more = true;
        for _ in 0..BATCH {
            let mut datagram = ReadBuf::new(&mut buffer);
            let received = match self.socket(via) {
                Some(socket) => socket.poll_recv_from(cx, &mut datagram),
                None => Poll::Pending,
            };
            match received {
                Poll::Ready(Ok(from)) => {
                    let length = datagram.filled().len();
                    let (datagram, _) = buffer.split_at_mut(length);
                    self.handle(via, from, datagram, cx);
                }
                // An ICMP "port unreachable" for an earlier send (ECONNREFUSED, on Windows
                // WSAECONNRESET) says nothing about the next datagram.
                Poll::Ready(Err(_)) => {}
                Poll::Pending => {
                    more = false;
                    break;
                }
            }
        }
        self.buffer = buffer;
        more
    }

    fn socket(&self, via: Via) -> Option<&UdpSocket> {
        match via {
            Via::Grid => Some(&self.grid_socket),
            Via::Port(index) => self.ports.get(index).map(|port| &port.socket),
        }
    }

    fn handle(&mut self, via: Via, from: SocketAddr, datagram: &[u8], cx: &mut Context<'_>) {
        let now = Instant::now();
        let shared = Arc::clone(&self.opener.grid.shared);
        let ((route, seen), onward) = match via {
            Via::Port(index) => {
                let Some(simulator) = self.ports.get(index).map(|port| port.simulator) else { return };
                (self.session.from_viewer(now, simulator, from, datagram), Via::Grid)
            }
            Via::Grid => {
                let simulator = shared.dial.udp_name(from);
                let Some(port) = self.by_simulator.get(&simulator).copied() else {
                    shared.metrics.count(Counter::DatagramsStranger);
                    return;
                };
                let routed = self.session.from_simulator(now, simulator, datagram, &mut self.opener);
                self.adopt_ports();
                (routed, Via::Port(port))
            }
        };
        self.count(seen);
        let metrics = &shared.metrics;
        let (to, patched) = match route {
            Route::Drop(reason) => {
                match reason {
                    DropReason::Stranger => metrics.count(Counter::DatagramsStranger),
                    DropReason::Swallowed => metrics.count(Counter::DatagramsSwallowed),
                    // Counted when it is decided on.
                    DropReason::Held => {}
                }
                return self.act(cx);
            }
            Route::Forward(to) => (to, None),
            Route::Replace(to, bytes) => {
                metrics.count(Counter::DatagramsPatched);
                (to, Some(bytes))
            }
        };
        let to = if onward == Via::Grid { shared.dial.udp_target(to) } else { to };
        self.send(onward, to, patched.as_deref().unwrap_or(datagram), Counter::DatagramsForwarded, cx);
        self.act(cx);
    }

    fn count(&self, seen: Seen) {
        let metrics = &self.opener.grid.shared.metrics;
        if seen.malformed {
            metrics.count(Counter::DatagramsMalformed);
        }
        if seen.asset_requests > 0 {
            metrics.add(Counter::UdpAssetRequests, seen.asset_requests.into());
        }
    }

    fn send(&mut self, via: Via, to: SocketAddr, datagram: &[u8], counter: Counter, cx: &mut Context<'_>) {
        if self.outbox.is_empty() && self.try_send(via, to, datagram, counter, cx).is_ready() {
            return;
        }
        if self.outbox.len() < OUTBOX {
            self.outbox.push_back((via, to, datagram.to_vec(), counter));
        } else {
            self.opener.grid.shared.metrics.count(Counter::DatagramsUnsent);
        }
    }

    fn try_send(
        &self,
        via: Via,
        to: SocketAddr,
        datagram: &[u8],
        counter: Counter,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(socket) = self.socket(via) else { return Poll::Ready(()) };
        let metrics = &self.opener.grid.shared.metrics;
        match socket.poll_send_to(cx, datagram, to) {
            Poll::Ready(Ok(_)) => metrics.count(counter),
            Poll::Ready(Err(_)) => metrics.count(Counter::DatagramsUnsent),
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(())
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        while let Some((via, to, datagram, counter)) = self.outbox.pop_front() {
            if self.try_send(via, to, &datagram, counter, cx).is_pending() {
                self.outbox.push_front((via, to, datagram, counter));
                return;
            }
        }
    }
}
