//! The nodes that the service's name stands for, and a link to each that is used. Which of them a request goes to
//! is `fetch::routing`'s to say; here is what is known of them, and since when.
//!
//! A name is resolved again and again while the service is used, and never while a request waits, once it is
//! known. Whoever asks and gets no answer goes on with what was known last. An address is no name: nothing of
//! this is done for a service that has one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::CallError;
use super::address::ServerAddress;
use super::http::HttpLink;
use super::quic::{QuicLink, QuicSetup};
use super::resolve::Resolved;
use super::tls;
use crate::fetch::routing::{RouteKey, Routing};

/// Whoever resolves the name and has not done so by then is not waited for.
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);
/// How long the very first request waits for the name.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// How long what this system says of a name holds: it does not tell for how long its resolver keeps it. Each
/// client comes at a time of its own.
const SYSTEM_TTL: std::ops::Range<u64> = 5_000..8_000;
/// When the name is asked for again after there was no answer, and while no address is known at all.
const RESOLVE_AGAIN: Duration = Duration::from_secs(5);
const FIRST_AGAIN: Duration = Duration::from_secs(1);
/// A node that nothing was asked of for so long loses its connection, where there are several; and when nothing
/// was asked of any, the name is not resolved any more.
const IDLE: Duration = Duration::from_secs(120);
/// Whoever has heard nothing for so long has no connection, however slow the node may be.
const NO_CONNECTION: Duration = Duration::from_millis(2_500);
/// Addresses of a family by which it is found out whether there is a way to it.
const ROUTES_TRIED: usize = 4;
/// How often it is looked for what is idle.
const LOOK: Duration = Duration::from_secs(1);
/// An answer over QUIC so recently says that UDP is not blocked here.
const FRESH: Duration = Duration::from_secs(10);
/// How long a node that answers over HTTP alone is not asked over QUIC.
const QUIC_AWAY: Duration = Duration::from_secs(60);
/// Nodes that answer over HTTP alone, with none that answers over QUIC, before that is said of the network.
const BLOCKED_NODES: usize = 2;
/// Nodes by which it is found out whether QUIC works again.
const RETRIED_NODES: usize = 3;

/// A link to one node.
pub(super) struct NodeLink {
    pub(super) at: SocketAddr,
    pub(super) quic: Option<QuicLink>,
    pub(super) http: HttpLink,
    /// It is taken for gone: who waits for it need not wait any longer.
    pub(super) gone: Notify,
    state: Mutex<LinkState>,
}

struct LinkState {
    used: Instant,
    /// When it answered last over QUIC.
    heard: Option<Instant>,
    /// When it answered last over HTTP because QUIC had failed.
    http_alone: Option<Instant>,
}

/// See the module's documentation.
pub(super) struct Nodes(Arc<Inner>);

struct Inner {
    address: ServerAddress,
    quic: Option<QuicSetup>,
    tls: rustls::ClientConfig,
    state: Mutex<State>,
    /// How often the name was resolved, or was tried to be.
    resolved: watch::Sender<u64>,
    failovers: AtomicU64,
}

struct State {
    routing: Routing,
    links: HashMap<SocketAddr, Arc<NodeLink>>,
    /// When the name is to be resolved next; `None`: it is an address.
    resolve_at: Option<Instant>,
    resolving: bool,
    /// Somebody sees to what is idle.
    cared_for: bool,
    used: Instant,
}

/// A request that a node was given. It counts as running until this is dropped.
pub(super) struct Running {
    nodes: Arc<Inner>,
    at: SocketAddr,
    asked: Instant,
    patience: Duration,
    /// What came of it is known.
    told: bool,
    /// It was too late, or nothing came of it any more.
    late: bool,
}

impl Nodes {
    /// Prepares to connect; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(address: ServerAddress) -> Result<Self, CallError> {
        let tls = tls::config(&address.pins).map_err(|_| CallError::Tls)?;
        let quic = if address.tls { Some(QuicSetup::new(&address.host, &tls)?) } else { None };
        let now = Instant::now();
        let mut routing = Routing::default();
        let mut resolve_at = Some(now);
        if let Ok(literal) = address.host.parse::<IpAddr>() {
            routing.resolved(now, &[SocketAddr::new(literal, address.port)]);
            resolve_at = None;
        }
        let state = State {
            routing,
            links: HashMap::new(),
            resolve_at,
            resolving: false,
            cared_for: false,
            used: now,
        };
        let (state, resolved) = (Mutex::new(state), watch::Sender::default());
        let failovers = AtomicU64::new(0);
        Ok(Self(Arc::new(Inner { address, quic, tls, state, resolved, failovers })))
    }

    /// Where the service is.
    pub(super) fn address(&self) -> &ServerAddress {
        &self.0.address
    }

    /// Waits for the addresses, where none is known yet.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn known(&self) -> Result<(), CallError> {
        let mut resolved = self.0.resolved.subscribe();
        let known = {
            let mut state = self.0.state();
            state.used = Instant::now();
            !state.routing.is_empty()
        };
        self.0.refresh();
        if known {
            return Ok(());
        }
        if self.0.state().resolving {
            let _ = tokio::time::timeout(FIRST_PATIENCE, resolved.changed()).await;
        }
        if self.0.state().routing.is_empty() { Err(CallError::Unreachable) } else { Ok(()) }
    }

    /// Whether there are several nodes.
    pub(super) fn have_choice(&self) -> bool {
        self.0.state().routing.has_choice()
    }

    /// Whether there is any other address to try when one gives no connection.
    pub(super) fn have_other(&self) -> bool {
        self.0.state().routing.has_other()
    }

    /// Begins a request at the best node that was not `tried`; with `well` only at one that is not known to fail.
    pub(super) fn begin(
        &self,
        route: &RouteKey,
        tried: &[SocketAddr],
        well: bool,
        patience: Duration,
    ) -> Option<(Arc<NodeLink>, Running)> {
        let now = Instant::now();
        let mut state = self.0.state();
        let mut order = state.routing.order(now, route).into_iter();
        let at = order.find(|at| !(tried.contains(at) || well && state.routing.is_away(now, *at)))?;
        let link = self.0.link(&mut state, at)?;
        link.state().used = now;
        state.routing.begun(at);
        if !tried.is_empty() {
            self.0.failovers.fetch_add(1, Ordering::Relaxed);
        }
        let running =
            Running { nodes: Arc::clone(&self.0), at, asked: now, patience, told: false, late: false };
        Some((link, running))
    }

    /// Whether a second node may be asked because the first is slow.
    pub(super) fn may_hedge(&self) -> bool {
        self.0.state().routing.may_hedge()
    }

    /// Whether misses are the service's, not one node's.
    pub(super) fn are_silent(&self) -> bool {
        self.0.state().routing.is_silent()
    }

    /// Whether requests are just moving away from a node that is gone.
    pub(super) fn are_failing_over(&self) -> bool {
        self.0.state().routing.is_failing_over(Instant::now())
    }

    /// Whether UDP is known to get through, by what a node other than this has answered.
    pub(super) fn hear_quic_beside(&self, at: SocketAddr) -> bool {
        let fresh = |link: &NodeLink| link.state().heard.is_some_and(|heard| heard.elapsed() < FRESH);
        self.0.state().links.values().any(|link| link.at != at && fresh(link))
    }

    /// All links that there are.
    pub(super) fn links(&self) -> Vec<Arc<NodeLink>> {
        self.0.state().links.values().map(Arc::clone).collect()
    }

    /// Links to find out by whether QUIC works.
    pub(super) fn some(&self) -> Vec<Arc<NodeLink>> {
        let mut state = self.0.state();
        let route = RouteKey::of(&crate::grid::GridId::new("probe"), None, &[], false);
        let order = state.routing.order(Instant::now(), &route);
        order.into_iter().take(RETRIED_NODES).filter_map(|at| self.0.link(&mut state, at)).collect()
    }

    /// A node has answered over HTTP because QUIC had failed. Whether that is to be said of the network: others are
    /// no better.
    pub(super) fn heard_http_alone(&self, link: &NodeLink) -> bool {
        link.state().http_alone = Some(Instant::now());
        let state = self.0.state();
        let alone = state.links.values().filter(|link| !link.may_quic()).count();
        alone >= BLOCKED_NODES.min(state.routing.len())
    }

    /// QUIC works again, as far as it is known.
    pub(super) fn forget_http_alone(&self) {
        for link in self.links() {
            link.state().http_alone = None;
        }
    }

    /// How many nodes there are, and how many of them are not known to fail.
    pub(super) fn count(&self) -> (usize, usize) {
        let state = self.0.state();
        (state.routing.len(), state.routing.well(Instant::now()))
    }

    /// How often a request went on to another node.
    pub(super) fn failovers(&self) -> u64 {
        self.0.failovers.load(Ordering::Relaxed)
    }

    /// How many QUIC connections were begun so far.
    pub(super) fn connections_made(&self) -> u64 {
        self.0.quic.as_ref().map_or(0, QuicSetup::made)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, state: &mut State, at: SocketAddr) -> Option<Arc<NodeLink>> {
        if let Some(link) = state.links.get(&at) {
            return Some(Arc::clone(link));
        }
        let quic = match &self.quic {
            Some(setup) => Some(QuicLink::new(setup, at).ok()?),
            None => None,
        };
        let link = Arc::new(NodeLink {
            at,
            quic,
            http: HttpLink::new(&self.address, self.tls.clone(), Some(at)),
            gone: Notify::new(),
            state: Mutex::new(LinkState { used: Instant::now(), heard: None, http_alone: None }),
        });
        state.links.insert(at, Arc::clone(&link));
        Some(link)
    }

    /// Resolves the name in the background, when it is time to.
    fn refresh(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.state();
        if state.resolve_at.is_some_and(|at| at <= now) && !state.resolving {
            state.resolving = true;
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                let found = inner.address.resolver.resolve(&inner.address.host);
                let found = tokio::time::timeout(RESOLVE_LIMIT, found).await;
                inner.took(found.ok().and_then(Result::ok));
            });
        }
        if state.resolve_at.is_some() && !state.cared_for {
            state.cared_for = true;
            let inner = Arc::downgrade(self);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(LOOK).await;
                    let Some(inner) = inner.upgrade() else { return };
                    if !inner.care(Instant::now()) {
                        return;
                    }
                }
            });
        }
    }

    /// Takes what the name stands for now; `None`: there was no answer.
    fn took(&self, found: Option<Resolved>) {
        let now = Instant::now();
        let found = found.filter(|found| !found.addresses.is_empty());
        // This may open sockets: nobody is to wait for that.
        let addresses = found.as_ref().map(|found| self.addresses(found));
        let mut state = self.state();
        state.resolving = false;
        let pause = match &found {
            Some(found) => found.ttl.unwrap_or_else(|| Duration::from_millis(rand::random_range(SYSTEM_TTL))),
            None if state.routing.is_empty() => FIRST_AGAIN,
            None => RESOLVE_AGAIN,
        };
        state.resolve_at = Some(now + pause);
        if let Some(addresses) = addresses {
            state.routing.resolved(now, &addresses);
        }
        state.forget_unnamed();
        drop(state);
        self.resolved.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Those of the addresses that may be asked.
    fn addresses(&self, found: &Resolved) -> Vec<SocketAddr> {
        let mut addresses = found.at(self.address.port);
        if !self.address.tls && self.address.is_loopback() {
            // Tokens are shown there in the clear, because it is this machine.
            addresses.retain(|address| address.ip().to_canonical().is_loopback());
        }
        keep_routable(&mut addresses);
        addresses
    }

    /// Sees to what is idle, and to the name; whether that has to go on.
    fn care(self: &Arc<Self>, now: Instant) -> bool {
        let mut state = self.state();
        let in_use = now.saturating_duration_since(state.used) < IDLE;
        if state.links.len() > 1 || state.routing.len() > 1 {
            // What still runs keeps its connection until it has ended.
            state.links.retain(|_, link| now.saturating_duration_since(link.state().used) < IDLE);
        }
        state.cared_for = in_use;
        drop(state);
        if in_use {
            self.refresh();
        }
        in_use
    }
}

/// Leaves a family out to which this machine knows no way, as long as there is another: many have no IPv6, and are
/// told of IPv6 addresses all the same. Nothing is sent for that.
fn keep_routable(addresses: &mut Vec<SocketAddr>) {
    let has_way = |toward: &SocketAddr| {
        let local: IpAddr =
            if toward.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        UdpSocket::bind((local, 0)).and_then(|socket| socket.connect(toward)).is_ok()
    };
    let usable = |six: bool| {
        let family = addresses.iter().filter(|address| address.is_ipv6() == six);
        family.take(ROUTES_TRIED).any(has_way)
    };
    match (usable(false), usable(true)) {
        (true, false) => addresses.retain(SocketAddr::is_ipv4),
        (false, true) => addresses.retain(SocketAddr::is_ipv6),
        _ => {}
    }
}

impl State {
    /// A link to what is no node any more takes no new requests; its connections end with what still runs on them.
    fn forget_unnamed(&mut self) {
        let routing = &self.routing;
        self.links.retain(|at, _| routing.contains(*at));
    }
}

impl NodeLink {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has answered over QUIC.
    pub(super) fn heard_quic(&self) {
        let mut state = self.state();
        (state.heard, state.http_alone) = (Some(Instant::now()), None);
    }

    /// Whether it is worth asking over QUIC.
    pub(super) fn may_quic(&self) -> bool {
        self.state().http_alone.is_none_or(|at| at.elapsed() >= QUIC_AWAY)
    }
}

impl Running {
    /// The node that was asked.
    pub(super) const fn at(&self) -> SocketAddr {
        self.at
    }

    /// When it was asked.
    pub(super) const fn asked(&self) -> Instant {
        self.asked
    }

    /// The node has answered a read, or what is as quick as one.
    pub(super) fn answered(&mut self) {
        self.told = true;
        let mut state = self.nodes.state();
        if self.late { state.routing.answered_late(self.at) } else { state.routing.answered(self.at) }
    }

    /// Something has come from the node, which does not say how soon it answers reads.
    pub(super) fn heard(&mut self) {
        self.told = true;
        self.nodes.state().routing.heard(self.at);
    }

    /// The node says that it has no time, or that it goes.
    pub(super) fn busy(&mut self, pause: Duration) {
        self.told = true;
        self.nodes.state().routing.busy(Instant::now(), self.at, pause);
    }

    /// The node gives no connection, or has broken it off.
    pub(super) fn failed(&mut self) {
        self.told = true;
        let mut state = self.nodes.state();
        state.routing.failed(Instant::now(), self.at);
        self.given_up(&mut state);
    }

    /// What the node says is wrong. Others are asked first, if there are any; its address in the other family
    /// says the same.
    pub(super) fn wrong(&mut self) {
        self.told = true;
        if self.nodes.state().routing.has_choice() {
            self.failed();
        }
    }

    /// The node has not answered when others would have; whether it is taken for gone now.
    pub(super) fn late(&mut self) -> bool {
        self.late = true;
        !std::mem::replace(&mut self.told, true) && self.missed(self.asked)
    }

    /// The same of a body that does not go on.
    pub(super) fn stalled(&mut self) {
        let now = Instant::now();
        self.missed(now.checked_sub(self.patience).unwrap_or(now));
    }

    /// Nothing has come from the node since then. One node alone is not left for being slow; but when nothing comes
    /// for so long that there is no connection, its other address may give one.
    fn missed(&mut self, since: Instant) -> bool {
        self.late = true;
        let now = Instant::now();
        let mut state = self.nodes.state();
        let dead = state.routing.has_other() && now.saturating_duration_since(since) >= NO_CONNECTION;
        let gone = (state.routing.has_choice() || dead) && state.routing.late(now, self.at, since);
        if gone {
            self.given_up(&mut state);
        }
        gone
    }

    /// Nobody waits for the node any more, and the next who tries does so on a new connection: of one to a machine
    /// that has died nothing is heard for long.
    fn given_up(&self, state: &mut State) {
        if state.routing.has_other()
            && let Some(link) = state.links.get(&self.at)
        {
            link.gone.notify_waiters();
            if let Some(quic) = &link.quic {
                quic.release();
            }
        }
        // The other family may be in use now.
        state.forget_unnamed();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.asked.elapsed() >= self.patience {
            self.late();
        }
        self.nodes.state().routing.ended(self.at);
    }
}

#[cfg(test)]
mod tests;
