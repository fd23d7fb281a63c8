//! The proxy's side of the shared cache service: reads, lookups, attestations and uploads over QUIC,
//! or over HTTPS where UDP is blocked, at whichever of its nodes is best for them. Decides nothing about when to
//! ask, nor whom; that is `fetch`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::fetch::routing::RouteKey;
use crate::grid::GridId;
use crate::wire::frame::{Call, Codec, Reply, Verdict};
use crate::wire::{self, OriginHash};

pub mod address;
pub mod credentials;
mod found;
mod http;
pub mod joined;
mod nodes;
mod paced;
mod quic;
pub mod resolve;
mod routed;
pub(crate) mod tls;

use address::ServerAddress;
use credentials::Credentials;
pub use found::{FoundBody, Receipt};
use http::HttpLink;
use nodes::Nodes;
pub use paced::{Grant, Pace};
use quic::{QuicLink, QuicSetup};
pub(crate) use tls::for_nodes as tls_for_nodes;

/// How long the other face is used after QUIC has failed, at first and at most.
const QUIC_AWAY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// How long one node is waited for before another is asked too, where nothing else is known.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a call brought no answer. Being told "no" is an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection, or one that broke.
    #[error("the cache service cannot be reached")]
    Unreachable,
    /// The system gives us no UDP socket.
    #[error("this system gives no UDP socket for QUIC")]
    NoEndpoint,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls,
    /// A token would be readable on the way.
    #[error("a token is never sent over plain http; write the address of the cache server with https://")]
    PlainToken,
    /// What was given is no token.
    #[error("this is no token of rezcache; a token is what `rezcache token new` prints")]
    NotAToken,
    /// The answer is not in our language.
    #[error("the cache service answers in an unknown language; is it a rezcache node?")]
    Garbled,
    /// Not now.
    #[error("the cache service is busy")]
    Busy {
        /// When to come again.
        retry_after: Duration,
    },
    /// It says no.
    #[error("the cache service refuses: {status} {reason}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
        /// When it may be different.
        retry_after: Option<Duration>,
    },
    /// The bytes are not those of the digest.
    #[error("the cache service sent bytes that do not match their digest")]
    WrongBytes,
}

impl CallError {
    /// Whether the service itself is at fault or away, not this one request.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Busy { .. })
    }
}

/// What a connection over QUIC comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicAnswer {
    /// It is there.
    Works,
    /// The system gives us no UDP socket.
    NoEndpoint,
    /// Nothing came back, as where UDP is blocked.
    Silent,
    /// Something answers QUIC, in another language than ours.
    OtherLanguage,
    /// Its certificate is not believed.
    Untrusted,
    /// Anything else.
    Failed,
}

/// Tries QUIC at one of the service's addresses, and says what comes of it.
///
/// # Errors
/// When TLS cannot be set up.
pub async fn probe_quic(service: &ServerAddress, at: std::net::SocketAddr) -> Result<QuicAnswer, CallError> {
    let tls = tls::config(&service.pins).map_err(|_| CallError::Tls)?;
    Ok(QuicLink::new(&QuicSetup::new(&service.host, &tls)?, at)?.probe().await)
}

/// The file in the data directory that says which services were proven to give wrong bytes, one a line.
pub const PROVEN_WRONG: &str = "service-proven-wrong";

/// Which face answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// QUIC.
    Quic,
    /// HTTP over TLS or plain.
    Http,
}

/// A service. Clones are the same client.
#[derive(Clone)]
pub struct ServiceClient(Arc<Inner>);

struct Inner {
    credentials: Credentials,
    nodes: Nodes,
    /// UDP is blocked where we are, or seems to be: that is said of the network, not of one node.
    away: Mutex<Away>,
}

/// How a request finds its node.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// All hosts of the grid belong to one operator, so that assets are not told apart by their origin.
    pub central: bool,
    /// How long one node is waited for before another is asked too.
    pub patience: Duration,
}

impl Way {
    /// What holds of a grid when nothing is known of it but its name.
    #[must_use]
    pub fn to(grid: &GridId) -> Self {
        Self { central: grid.is_second_life(), patience: PATIENCE }
    }

    fn route(&self, grid: &GridId, id: Option<AssetId>, origin: Option<OriginHash>) -> RouteKey {
        let origin = origin.map_or([0; 16], |origin| origin.0);
        RouteKey::of(grid, id, &origin, self.central)
    }
}

/// Since when QUIC is not used, and when it is to be tried again.
#[derive(Default)]
struct Away {
    until: Option<Instant>,
    pause: Duration,
}

impl ServiceClient {
    /// A client of this service, with the token of an operator if there is one. Nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the token is none or may not be sent there.
    pub fn new(address: ServerAddress, token: Option<String>) -> Result<Self, CallError> {
        let credentials = match token {
            Some(token) => Credentials::token(&token).ok_or(CallError::NotAToken)?,
            None => Credentials::nobody(),
        };
        Self::with_credentials(address, credentials)
    }

    /// A client of this service that shows these credentials. Nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, or a token may not be sent there.
    pub fn with_credentials(address: ServerAddress, credentials: Credentials) -> Result<Self, CallError> {
        let secret = address.tls || address.is_loopback();
        let credentials = if secret { credentials } else { credentials.without_secrecy()? };
        let nodes = Nodes::new(address)?;
        Ok(Self(Arc::new(Inner { credentials, nodes, away: Mutex::default() })))
    }

    /// Where the service is.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        self.0.nodes.address()
    }

    /// The face that the next call uses.
    #[must_use]
    pub fn face(&self) -> Face {
        self.0.face()
    }

    /// How often a QUIC connection was begun: once for each node, unless connections are lost.
    #[must_use]
    pub fn connections_made(&self) -> u64 {
        self.0.nodes.connections_made()
    }

    /// The nodes to which there are connections, or were until not long ago.
    #[must_use]
    pub fn nodes_used(&self) -> Vec<SocketAddr> {
        let mut used: Vec<_> = self.0.nodes.links().iter().map(|link| link.at).collect();
        used.sort_unstable();
        used
    }

    /// How many nodes the service's name stands for, and how many of them are not known to fail.
    #[must_use]
    pub fn nodes(&self) -> (usize, usize) {
        self.0.nodes.count()
    }

    /// How often a request went on to another node.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        self.0.nodes.failovers()
    }

    /// Whether misses are to be counted against the service: so many of its nodes have missed in a row, or all of
    /// them. One node that does not answer is not the service.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.0.nodes.are_silent()
    }

    /// Whether requests are just moving away from a node that is gone: the next ones will not meet it.
    #[must_use]
    pub fn is_failing_over(&self) -> bool {
        self.0.nodes.are_failing_over()
    }

    /// When QUIC, which has failed before, is worth another try by [`ServiceClient::retry_quic`].
    #[must_use]
    pub fn quic_retry_at(&self) -> Option<Instant> {
        self.0.away().until
    }

    /// Tries QUIC again after it has failed. No other call ever waits for that: whoever needs an answer
    /// goes on over HTTP meanwhile.
    pub async fn retry_quic(&self) {
        let tries = self.0.nodes.some().into_iter().map(|link| async move {
            match &link.quic {
                Some(quic) => quic.connect_anew().await.is_ok(),
                None => false,
            }
        });
        if futures_util::future::join_all(tries).await.contains(&true) {
            self.0.nodes.forget_http_alone();
            self.0.quic_works();
        } else if self.address().tls {
            self.0.quic_failed(true);
        }
    }

    /// QUIC has not answered in time, as where UDP is blocked or the network has changed: its connections
    /// are given up, and HTTP is used until [`ServiceClient::retry_quic`] has succeeded.
    pub fn give_up_quic(&self) {
        if self.address().tls {
            self.0.quic_failed(false);
        }
        for link in self.0.nodes.links() {
            if let Some(quic) = &link.quic {
                quic.disconnect();
            }
        }
    }

    /// Asks for an asset, or for the groups of it that cover `range`. `None`: the service has none.
    /// Returns with the header; the bytes are read from the body.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn read(
        &self,
        key: &AssetKey,
        origin: Option<OriginHash>,
        range: Option<(u64, u64)>,
    ) -> Result<Option<FoundBody>, CallError> {
        self.read_by(&Way::to(&key.grid), key, origin, range).await
    }

    /// The same by this way.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn read_by(
        &self,
        way: &Way,
        key: &AssetKey,
        origin: Option<OriginHash>,
        range: Option<(u64, u64)>,
    ) -> Result<Option<FoundBody>, CallError> {
        self.0.read(way, key, origin, range).await
    }

    /// Which of these the service has.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn lookup(
        &self,
        grid: &GridId,
        origin: Option<OriginHash>,
        assets: Vec<(AssetKind, AssetId)>,
    ) -> Result<Vec<Option<(u64, Digest)>>, CallError> {
        self.lookup_by(&Way::to(grid), grid, origin, assets).await
    }

    /// The same by this way. On a central grid the first asset says which node is asked.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn lookup_by(
        &self,
        way: &Way,
        grid: &GridId,
        origin: Option<OriginHash>,
        assets: Vec<(AssetKind, AssetId)>,
    ) -> Result<Vec<Option<(u64, Digest)>>, CallError> {
        let number = assets.len();
        let route = way.route(grid, assets.first().map(|(_, id)| *id), origin);
        let call = Call::Lookup { grid: grid.clone(), origin, assets };
        match self.0.call(&route, way.patience, call, None).await?.reply {
            Reply::Sizes(sizes) if sizes.len() == number => Ok(sizes),
            other => Err(unexpected(other)),
        }
    }

    /// Says that an origin delivered these bytes.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn attest(
        &self,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<Verdict, CallError> {
        self.attest_by(&Way::to(&key.grid), key, origin, digest, bytes).await
    }

    /// The same by this way.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn attest_by(
        &self,
        way: &Way,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<Verdict, CallError> {
        let route = way.route(&key.grid, Some(key.id), origin);
        loop {
            // Proofs are made for a name, which the proxy may get only when it is asked for one.
            let principal = self.principal().to_owned();
            let proof = wire::proof(&wire::proof_key(&principal, key, digest), bytes);
            let call = Call::Attest { key: key.clone(), origin, digest, proof };
            match self.0.call(&route, way.patience, call, None).await?.reply {
                Reply::Upload(verdict) => return Ok(verdict),
                Reply::Refused { status: 401, .. }
                    if principal.is_empty() && principal != self.principal() => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Uploads a body, packed as `codec` says, as fast as the line takes it.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn put(
        &self,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        codec: Codec,
        body: Bytes,
    ) -> Result<Verdict, CallError> {
        self.put_by(&Way::to(&key.grid), key, origin, digest, (codec, body), None).await
    }

    /// The same as fast as `pace` lets it go.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn put_paced(
        &self,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        codec: Codec,
        body: Bytes,
        pace: Option<Arc<dyn Pace>>,
    ) -> Result<Verdict, CallError> {
        self.put_by(&Way::to(&key.grid), key, origin, digest, (codec, body), pace).await
    }

    /// The same by this way, and as fast as `pace` lets it go. The body, with how it is packed, is sent to one
    /// node at a time.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn put_by(
        &self,
        way: &Way,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        (codec, body): (Codec, Bytes),
        pace: Option<Arc<dyn Pace>>,
    ) -> Result<Verdict, CallError> {
        let route = way.route(&key.grid, Some(key.id), origin);
        let call = Call::Put { key: key.clone(), origin, digest, codec, length: body.len() as u64 };
        match self.0.call(&route, way.patience, call, Some((body, pace))).await?.reply {
            Reply::Upload(verdict) => Ok(verdict),
            other => Err(unexpected(other)),
        }
    }

    /// The name that proofs are made for: the token's subject, or nothing where no token is shown.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.0.credentials.principal()
    }
}

/// How long a knock may take.
const KNOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Whether the service with one of the address's keys is there. No token is shown, and with a pin nothing
/// is said before the service has proven its key.
pub async fn is_there(address: &ServerAddress) -> bool {
    let Ok(tls) = tls::config(&address.pins) else { return false };
    let first =
        address.resolver.resolve(&address.host).await.ok().and_then(|found| found.addresses.first().copied());
    let http = HttpLink::new(address, tls, first.map(|ip| SocketAddr::new(ip, address.port)));
    let asked = tokio::time::timeout(KNOCK_PATIENCE, http.json("/v1/service", None, None)).await;
    matches!(asked, Ok(Ok(about)) if about.get("audience").is_some())
}

fn unexpected(reply: Reply) -> CallError {
    match reply {
        Reply::Busy { retry_after_ms } => {
            CallError::Busy { retry_after: Duration::from_millis(retry_after_ms.into()) }
        }
        Reply::Refused { status, retry_after_s, reason } => CallError::Refused {
            status,
            reason,
            retry_after: (retry_after_s > 0).then(|| Duration::from_secs(retry_after_s.into())),
        },
        _ => CallError::Garbled,
    }
}
