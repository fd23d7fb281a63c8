//! The proxy's side of the shared cache service: reads, lookups, attestations and uploads over QUIC,
//! or over HTTPS where UDP is blocked. Decides nothing about when to ask; that is `fetch`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::grid::GridId;
use crate::wire::frame::{Call, Codec, Found, Reply, Verdict};
use crate::wire::{self, OriginHash, groups};

pub mod address;
pub mod credentials;
mod http;
pub mod joined;
mod paced;
mod quic;
pub(crate) mod tls;

use address::ServerAddress;
use credentials::Credentials;
use http::HttpLink;
use paced::PacedBody;
pub use paced::{Grant, Pace};
use quic::QuicLink;
pub(crate) use tls::for_nodes as tls_for_nodes;

/// How long the other face is used after QUIC has failed, at first and at most.
const QUIC_AWAY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// Pieces of a body that are taken from its stream in one visit.
const CHUNKS_AT_ONCE: usize = 32;
/// Room made for a body of a length that was only announced.
const ON_PROMISE: usize = 1 << 20;
/// Room made for the groups of a large body, several at once.
const READ_AHEAD: usize = 4 * groups::GROUP_BYTES;

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
    Ok(QuicLink::new(service.clone())?.probe(at).await)
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

/// A service.
pub struct ServiceClient {
    address: ServerAddress,
    credentials: Credentials,
    quic: Option<QuicLink>,
    http: HttpLink,
    away: Mutex<Away>,
}

/// Since when QUIC is not used, and when it is to be tried again.
#[derive(Default)]
struct Away {
    until: Option<Instant>,
    pause: Duration,
}

/// How much of a body has come, and when the last of it came.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// Bytes, group hashes included.
    pub bytes: u64,
    /// When the last ones came.
    pub at: Instant,
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
        let quic = if address.tls { Some(QuicLink::new(address.clone())?) } else { None };
        let http = HttpLink::new(&address)?;
        Ok(Self { address, credentials, quic, http, away: Mutex::default() })
    }

    /// Where the service is.
    #[must_use]
    pub const fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// The face that the next call uses.
    #[must_use]
    pub fn face(&self) -> Face {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if self.quic.is_some() && away.until.is_none() { Face::Quic } else { Face::Http }
    }

    /// How often a QUIC connection was begun: once, unless connections are lost.
    #[must_use]
    pub fn connections_made(&self) -> u64 {
        self.quic.as_ref().map_or(0, QuicLink::made)
    }

    /// When QUIC, which has failed before, is worth another try by [`ServiceClient::retry_quic`].
    #[must_use]
    pub fn quic_retry_at(&self) -> Option<Instant> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).until
    }

    /// Tries QUIC again after it has failed. No other call ever waits for that: whoever needs an answer
    /// goes on over HTTP meanwhile.
    pub async fn retry_quic(&self) {
        let Some(quic) = &self.quic else { return };
        match quic.connect_anew().await {
            Ok(()) => self.quic_works(),
            Err(_) => self.quic_failed(true),
        }
    }

    /// QUIC has not answered in time, as where UDP is blocked or the network has changed: its connection
    /// is given up, and HTTP is used until [`ServiceClient::retry_quic`] has succeeded.
    pub fn give_up_quic(&self) {
        if let Some(quic) = &self.quic {
            self.quic_failed(false);
            quic.disconnect();
        }
    }

    /// Uses the other face for a while. Of several calls that fail together only the first counts; what
    /// counts `again` is a try that was made to find out.
    fn quic_failed(&self, again: bool) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        if away.until.is_some() && !again {
            return;
        }
        away.pause = (away.pause * 2).clamp(QUIC_AWAY[0], QUIC_AWAY[1]);
        away.until = Some(Instant::now() + away.pause);
    }

    fn quic_works(&self) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        *away = Away::default();
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
        let call = Call::Read { key: key.clone(), origin, range, head_only: false };
        let (reply, body) = self.call(call, None).await?;
        match reply {
            Reply::Found(found) if found.total <= key.kind.max_bytes() => {
                let receipt = Arc::new(Mutex::new(Receipt { bytes: 0, at: Instant::now() }));
                Ok(Some(FoundBody { found, body, groups: None, state: Progress::Start, receipt }))
            }
            Reply::Absent => Ok(None),
            other => Err(unexpected(other)),
        }
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
        let number = assets.len();
        match self.call(Call::Lookup { grid: grid.clone(), origin, assets }, None).await?.0 {
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
        loop {
            // Proofs are made for a name, which the proxy may get only when it is asked for one.
            let principal = self.principal().to_owned();
            let proof = wire::proof(&wire::proof_key(&principal, key, digest), bytes);
            let call = Call::Attest { key: key.clone(), origin, digest, proof };
            match self.call(call, None).await?.0 {
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
        self.put_paced(key, origin, digest, codec, body, None).await
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
        let call = Call::Put { key: key.clone(), origin, digest, codec, length: body.len() as u64 };
        match self.call(call, Some((body, pace))).await?.0 {
            Reply::Upload(verdict) => Ok(verdict),
            other => Err(unexpected(other)),
        }
    }

    /// The name that proofs are made for: the token's subject, or nothing where no token is shown.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.credentials.principal()
    }

    async fn call(
        &self,
        call: Call,
        body: Option<(Bytes, Option<Arc<dyn Pace>>)>,
    ) -> Result<(Reply, Body), CallError> {
        let is_attest = matches!(call, Call::Attest { .. });
        let token = self.credentials.current()?;
        let shown = token.as_ref().map_or("", |token| token.reveal().as_str());
        let (reply, answer) = self.call_with(shown, call.clone(), body.clone()).await?;
        let Reply::Refused { status: 401, .. } = reply else { return Ok((reply, answer)) };
        let recovered = self.credentials.recover(&self.http, token.is_some()).await;
        // Why it has not, if somebody has said so, is worth more than that a token is needed.
        let again = self.credentials.current()?;
        if !recovered || is_attest {
            return Ok((reply, answer));
        }
        self.call_with(again.as_ref().map_or("", |token| token.reveal().as_str()), call, body).await
    }

    async fn call_with(
        &self,
        token: &str,
        call: Call,
        body: Option<(Bytes, Option<Arc<dyn Pace>>)>,
    ) -> Result<(Reply, Body), CallError> {
        // Made anew for another try, which needs all of it again.
        let body = || body.clone().map(|(bytes, pace)| PacedBody::new(bytes, pace));
        if let (Face::Quic, Some(quic)) = (self.face(), &self.quic) {
            match quic.call(token, call.clone(), body).await {
                Ok((reply, stream)) => {
                    self.quic_works();
                    return Ok((reply, Body::Quic(stream)));
                }
                Err(CallError::Unreachable | CallError::NoEndpoint) => self.quic_failed(false),
                Err(other) => return Err(other),
            }
        }
        let (reply, body) = self.http.call(token, call, body()).await?;
        Ok((reply, Body::Http(body)))
    }
}

/// How long a knock may take.
const KNOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Whether the service with one of the address's keys is there. No token is shown, and with a pin nothing
/// is said before the service has proven its key.
pub async fn is_there(address: &ServerAddress) -> bool {
    let Ok(http) = HttpLink::new(address) else { return false };
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

enum Body {
    Quic(quinn::RecvStream),
    Http(hyper::body::Incoming),
}

impl Body {
    /// Adds what has come to `buffer` and says how much that is; `None` at the end.
    async fn append(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>, CallError> {
        let before = buffer.len();
        match self {
            Self::Quic(stream) => {
                // A chunk is what one datagram held. Each visit to the stream takes its connection's lock,
                // which the thread that receives wants too.
                let mut chunks: [Bytes; CHUNKS_AT_ONCE] = Default::default();
                let read = stream.read_chunks(&mut chunks).await.map_err(|_| CallError::Unreachable)?;
                let Some(number) = read else { return Ok(None) };
                chunks.iter().take(number).for_each(|chunk| buffer.extend_from_slice(chunk));
            }
            Self::Http(body) => {
                let Some(frame) = http_body_util::BodyExt::frame(body).await else { return Ok(None) };
                if let Ok(data) = frame.map_err(|_| CallError::Unreachable)?.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
        }
        Ok(Some(buffer.len() - before))
    }
}

enum Progress {
    Start,
    Groups { next: u64, rest: BytesMut },
    Done,
}

/// An asset that was found, of which only checked bytes come out.
pub struct FoundBody {
    found: Found,
    body: Body,
    groups: Option<Arc<groups::Groups>>,
    state: Progress,
    receipt: Arc<Mutex<Receipt>>,
}

impl FoundBody {
    /// What the service says it is.
    #[must_use]
    pub const fn found(&self) -> &Found {
        &self.found
    }

    /// How the body is coming along, for whoever watches while another waits for it.
    #[must_use]
    pub fn receipt(&self) -> Arc<Mutex<Receipt>> {
        Arc::clone(&self.receipt)
    }

    /// The group hashes that the digest was checked to be made of; `None` for bodies that come whole,
    /// and until the first bytes have come.
    #[must_use]
    pub fn groups(&self) -> Option<Arc<groups::Groups>> {
        self.groups.clone()
    }

    /// The next checked bytes, in order from [`Found::first`] on; `None` after the last.
    ///
    /// # Errors
    /// When the body breaks off or its bytes are not those of the digest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        match &mut self.state {
            Progress::Done => Ok(None),
            Progress::Start if !self.found.grouped => {
                let mut whole = BytesMut::new();
                let length = usize::try_from(self.found.length).map_err(|_| CallError::Garbled)?;
                self.fill(&mut whole, length).await?;
                self.state = Progress::Done;
                let whole = whole.freeze();
                if self.found.length != self.found.total || Digest::of(&whole) != self.found.digest {
                    return Err(CallError::WrongBytes);
                }
                Ok(Some(whole))
            }
            Progress::Start => {
                let count =
                    usize::try_from(groups::count(self.found.total)).map_err(|_| CallError::Garbled)?;
                let mut rest = BytesMut::new();
                self.fill(&mut rest, count * 32).await?;
                let hashes = rest
                    .split_to(count * 32)
                    .chunks_exact(32)
                    .filter_map(|hash| hash.try_into().ok())
                    .collect();
                let groups = groups::Groups::verified(hashes, self.found.total, self.found.digest)
                    .ok_or(CallError::WrongBytes)?;
                if !self.found.first.is_multiple_of(groups::GROUP_BYTES as u64) {
                    return Err(CallError::Garbled);
                }
                let next = self.found.first / groups::GROUP_BYTES as u64;
                self.groups = Some(Arc::new(groups));
                self.state = Progress::Groups { next, rest };
                self.group().await
            }
            Progress::Groups { .. } => self.group().await,
        }
    }

    async fn group(&mut self) -> Result<Option<Bytes>, CallError> {
        let Progress::Groups { next, mut rest } = std::mem::replace(&mut self.state, Progress::Done) else {
            return Ok(None);
        };
        let end = self.found.first + self.found.length;
        let start = next * groups::GROUP_BYTES as u64;
        if start >= end {
            return Ok(None);
        }
        let length = usize::try_from((end - start).min(groups::GROUP_BYTES as u64)).unwrap_or(0);
        self.fill(&mut rest, length).await?;
        let group = rest.split_to(length).freeze();
        if !self.groups.as_ref().is_some_and(|groups| groups.check(next, &group)) {
            return Err(CallError::WrongBytes);
        }
        self.state = Progress::Groups { next: next + 1, rest };
        Ok(Some(group))
    }

    /// Reads until `buffer` holds `length` bytes.
    async fn fill(&mut self, buffer: &mut BytesMut, length: usize) -> Result<(), CallError> {
        // In one piece, so that nothing is copied when the buffer grows; but not more on a mere promise
        // than a body has that comes whole.
        let ahead = if self.found.grouped { READ_AHEAD } else { 0 };
        if buffer.capacity() < length {
            buffer.reserve((length - buffer.len()).min(ON_PROMISE).max(ahead));
        }
        while buffer.len() < length {
            let more = self.body.append(buffer).await?.ok_or(CallError::Unreachable)?;
            let mut receipt = self.receipt.lock().unwrap_or_else(PoisonError::into_inner);
            receipt.bytes += more as u64;
            receipt.at = Instant::now();
        }
        if !self.found.grouped && buffer.len() > length {
            return Err(CallError::Garbled);
        }
        Ok(())
    }
}
