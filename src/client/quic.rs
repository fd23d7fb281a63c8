//! The fast path: one QUIC connection to a node, a stream per request.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, TransportConfig};
use rustls::client::Resumption;
use tokio::sync::watch;

use super::paced::PacedBody;
use super::{CallError, QuicAnswer};
use crate::redact::Redacted;
use crate::wire::ALPN;
use crate::wire::frame::{Call, MAX_HEADER_BYTES, Reply, Request};

/// A network that lets UDP through has answered by then; another face is tried meanwhile.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Tickets of earlier visits that are kept for a node.
const TICKETS: usize = 8;
/// Longer than a laptop takes to change networks.
const IDLE: Duration = Duration::from_secs(90);
/// Keeps a home router's mapping of the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What all connections to the nodes of a service have in common.
#[derive(Clone)]
pub(super) struct QuicSetup {
    /// The name that every node's certificate is for.
    host: Arc<str>,
    crypto: rustls::ClientConfig,
    transport: Arc<TransportConfig>,
    /// One socket for each address family.
    endpoints: Arc<Mutex<[Option<Endpoint>; 2]>>,
    made: Arc<AtomicU64>,
}

/// The connection, made when it is first needed and again when it is lost.
pub(super) struct QuicLink(Arc<Link>);

struct Link {
    at: SocketAddr,
    setup: QuicSetup,
    config: ClientConfig,
    state: watch::Sender<State>,
}

/// How the connection stands. Whoever needs one waits for the task that makes it: a request that is given
/// up meanwhile does not take the connection with it.
#[derive(Clone, Default)]
enum State {
    #[default]
    None,
    Connecting,
    Connected(Connected),
    Failed(CallError),
}

#[derive(Clone)]
struct Connected {
    connection: Connection,
    /// The short name of the token with which the service has answered a request: it knows us by that
    /// on this connection.
    introduced: Arc<AtomicU64>,
}

/// No token has been shown.
const UNKNOWN: u64 = 0;

/// Tells tokens apart; that of no token at all is one too.
fn short(token: &str) -> u64 {
    let hash = blake3::hash(token.as_bytes());
    hash.as_bytes().first_chunk().map_or(1, |first| u64::from_be_bytes(*first) | 1)
}

impl QuicSetup {
    /// Prepares for connections to nodes of this name.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(host: &str, tls: &rustls::ClientConfig) -> Result<Self, CallError> {
        let mut crypto = tls.clone();
        crypto.alpn_protocols = vec![ALPN.to_vec()];
        crypto.enable_early_data = true;
        // That it can be used for QUIC is found out here, not at the first request.
        QuicClientConfig::try_from(crypto.clone()).map_err(|_| CallError::Tls)?;
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(0u8.into())
            .max_concurrent_uni_streams(0u8.into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window((2u32 << 20).into())
            .receive_window((32u32 << 20).into())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .max_idle_timeout(IDLE.try_into().ok());
        let transport = Arc::new(transport);
        Ok(Self { host: host.into(), crypto, transport, endpoints: Arc::default(), made: Arc::default() })
    }

    /// How many connections were begun so far.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl QuicLink {
    /// Prepares to connect; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(setup: &QuicSetup, at: SocketAddr) -> Result<Self, CallError> {
        let mut crypto = setup.crypto.clone();
        // All nodes have one name, but one does not know the tickets of another.
        crypto.resumption = Resumption::in_memory_sessions(TICKETS);
        let crypto = QuicClientConfig::try_from(crypto).map_err(|_| CallError::Tls)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&setup.transport));
        Ok(Self(Arc::new(Link { at, setup: setup.clone(), config, state: watch::Sender::default() })))
    }

    /// What a connection comes to that is made only to find out, and given up at once.
    pub(super) async fn probe(&self) -> QuicAnswer {
        let Some(endpoint) = self.0.endpoint() else { return QuicAnswer::NoEndpoint };
        let Ok(connecting) = endpoint.connect_with(self.0.config.clone(), self.0.at, &self.0.setup.host)
        else {
            return QuicAnswer::Failed;
        };
        // What TLS calls the alerts that say so.
        const CRYPTO: u64 = 0x100;
        const NO_APPLICATION_PROTOCOL: u64 = CRYPTO + 120;
        // From bad_certificate to access_denied, which is what a wrong pin comes to.
        const CERTIFICATES: std::ops::RangeInclusive<u64> = CRYPTO + 42..=CRYPTO + 49;
        let code = match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Err(_) | Ok(Err(ConnectionError::TimedOut)) => return QuicAnswer::Silent,
            Ok(Ok(connection)) => {
                connection.close(0u8.into(), b"");
                return QuicAnswer::Works;
            }
            Ok(Err(ConnectionError::TransportError(error))) => u64::from(error.code),
            Ok(Err(ConnectionError::ConnectionClosed(closed))) => u64::from(closed.error_code),
            Ok(Err(ConnectionError::VersionMismatch)) => return QuicAnswer::OtherLanguage,
            Ok(Err(_)) => return QuicAnswer::Failed,
        };
        match code {
            NO_APPLICATION_PROTOCOL => QuicAnswer::OtherLanguage,
            code if CERTIFICATES.contains(&code) => QuicAnswer::Untrusted,
            _ => QuicAnswer::Failed,
        }
    }

    /// Makes one request and reads the reply's header.
    ///
    /// # Errors
    /// When the service cannot be reached or answers in another language.
    pub(super) async fn call(
        &self,
        token: &str,
        call: Call,
        body: impl Fn() -> Option<PacedBody>,
    ) -> Result<(Reply, RecvStream), CallError> {
        let connected = self.connected().await?;
        let name = short(token);
        let introduced = connected.introduced.load(Ordering::Relaxed) == name;
        let shown = if introduced { "" } else { token };
        let (mut reply, mut receive) = match self.exchange(&connected, shown, &call, body()).await {
            // A node that has forgotten an earlier visit refuses what came early, and goes on with the
            // connection: then the same goes out once more.
            Err(CallError::Unreachable) if connected.connection.close_reason().is_none() => {
                self.exchange(&connected, token, &call, body()).await?
            }
            answer => answer?,
        };
        if introduced && !token.is_empty() && matches!(reply, Reply::Refused { status: 401, .. }) {
            // What it knew us by has run out: once more, with the token of now.
            (reply, receive) = self.exchange(&connected, token, &call, body()).await?;
        }
        let known = !matches!(reply, Reply::Refused { status: 401, .. });
        connected.introduced.store(if known { name } else { UNKNOWN }, Ordering::Relaxed);
        Ok((reply, receive))
    }

    /// One request on a stream of its own.
    async fn exchange(
        &self,
        connected: &Connected,
        token: &str,
        call: &Call,
        body: Option<PacedBody>,
    ) -> Result<(Reply, RecvStream), CallError> {
        let (mut send, mut receive) =
            connected.connection.open_bi().await.map_err(|_| CallError::Unreachable)?;
        let frame = Request { token: Redacted::new(token.to_owned()), call: call.clone() }.encode();
        let length = u32::try_from(frame.len()).map_err(|_| CallError::Garbled)?;
        let mut header = [Bytes::copy_from_slice(&length.to_be_bytes()), Bytes::from(frame)];
        // A service that has answered already need not hear us out.
        let mut heard = send.write_all_chunks(&mut header).await.is_ok();
        if let Some(mut body) = body {
            // Bodies give way to requests.
            let _ = send.set_priority(-1);
            while heard && let Some(piece) = std::future::poll_fn(|cx| body.poll_next(cx)).await {
                heard = send.write_all_chunks(&mut [piece]).await.is_ok();
            }
        }
        if heard {
            let _ = send.finish();
        }
        let mut length = [0; 4];
        receive.read_exact(&mut length).await.map_err(|_| CallError::Unreachable)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_HEADER_BYTES {
            return Err(CallError::Garbled);
        }
        let mut frame = vec![0; length];
        receive.read_exact(&mut frame).await.map_err(|_| CallError::Unreachable)?;
        Ok((Reply::decode(&frame).ok_or(CallError::Garbled)?, receive))
    }

    /// Makes a connection, whatever became of the last one.
    ///
    /// # Errors
    /// When the service cannot be reached over QUIC.
    pub(super) async fn connect_anew(&self) -> Result<(), CallError> {
        self.disconnect();
        self.through(false).await.map(drop)
    }

    /// Gives the connection up.
    pub(super) fn disconnect(&self) {
        if let State::Connected(known) = self.0.state.send_replace(State::None) {
            known.connection.close(0u8.into(), b"");
        }
    }

    /// Lets go of the connection, which ends with what still runs on it: whoever comes next makes another.
    pub(super) fn release(&self) {
        self.0.state.send_if_modified(|state| {
            let known = matches!(state, State::Connected(_));
            if known {
                *state = State::None;
            }
            known
        });
    }

    async fn connected(&self) -> Result<Connected, CallError> {
        if let State::Connected(known) = &*self.0.state.borrow()
            && known.connection.close_reason().is_none()
        {
            return Ok(known.clone());
        }
        self.through(true).await
    }

    /// A connection that is there, or that a task of its own is making.
    async fn through(&self, early: bool) -> Result<Connected, CallError> {
        let mut state = self.0.state.subscribe();
        let begin = self.0.state.send_if_modified(|state| {
            let begin = match state {
                State::None | State::Failed(_) => true,
                State::Connected(known) => known.connection.close_reason().is_some(),
                State::Connecting => false,
            };
            if begin {
                *state = State::Connecting;
            }
            begin
        });
        if begin {
            let link = Arc::clone(&self.0);
            tokio::spawn(async move {
                let made = link.connect(early).await;
                link.state.send_if_modified(|state| {
                    // Given up meanwhile: nobody waits for it any more.
                    let wanted = matches!(state, State::Connecting);
                    if wanted {
                        *state = match made {
                            Ok(connection) => {
                                State::Connected(Connected { connection, introduced: Arc::default() })
                            }
                            Err(error) => State::Failed(error),
                        };
                    }
                    wanted
                });
            });
        }
        let settled = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match settled.as_deref() {
            Ok(State::Connected(known)) => Ok(known.clone()),
            Ok(State::Failed(error)) => Err(error.clone()),
            _ => Err(CallError::Unreachable),
        }
    }
}

impl Link {
    /// With `early`, a connection may be there before the node has answered at all.
    async fn connect(&self, early: bool) -> Result<Connection, CallError> {
        self.setup.made.fetch_add(1, Ordering::Relaxed);
        let endpoint = self.endpoint().ok_or(CallError::NoEndpoint)?;
        let connecting = endpoint
            .connect_with(self.config.clone(), self.at, &self.setup.host)
            .map_err(|_| CallError::Unreachable)?;
        // With a ticket of an earlier visit the first request goes out with the first packet.
        let attempt = if early { connecting.into_0rtt() } else { Err(connecting) };
        let connecting = match attempt {
            Ok((connection, _)) => return Ok(connection),
            Err(connecting) => connecting,
        };
        match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            _ => Err(CallError::Unreachable),
        }
    }

    /// The socket of the node's address family. `None` where the system does not let us have one.
    fn endpoint(&self) -> Option<Endpoint> {
        let local: SocketAddr = match self.at {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut endpoints = self.setup.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = endpoints.get_mut(usize::from(self.at.is_ipv6()))?;
        if slot.is_none() {
            *slot = Endpoint::client(local).ok();
        }
        slot.clone()
    }
}
