//! The HTTP client toward the grid.
//!
//! It follows no redirects, decompresses nothing, ignores proxy variables, keeps header names as
//! the viewer sent them, and dials only where the grid may lead us: the rule is checked on the
//! resolved address of every connection, so a name that changes its mind gains nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Dial;
use super::reach::{GridReach, Transport};
use crate::support::trust::{self, TrustError};

/// Above the viewer's own limit for textures (60 s) and meshes (120 s); large meshes take longer
/// in all, but never between two bytes.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(130);

/// Bodies on both sides: streamed, of any error.
pub(super) type Body = UnsyncBoxBody<Bytes, BodyError>;
/// What breaks a body.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// libcurl's, and so the viewer's, own limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// OpenSimulator closes idle connections after 30 s and more; ours go first.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// An empty body.
pub(super) fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is all there.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// The grid led us where it may not.
    #[error("the grid may not lead us to that address")]
    Refused,
    /// We do not trust its certificate. The viewer may, by rules of its own.
    #[error("its certificate cannot be trusted; see --ca-file")]
    Untrusted,
    /// No connection, or no reply on it.
    #[error("the grid did not answer: {0}")]
    Failed(&'static str),
    /// Nothing within the time we wait.
    #[error("the grid did not answer in time")]
    TimedOut,
    /// More than we read whole.
    #[error("the reply is too large")]
    TooLarge,
}

/// Marks the refusal in the chain of causes that hyper wraps.
#[derive(Debug, thiserror::Error)]
#[error("address refused")]
struct AddressRefused;

/// Opens TCP connections, where it may.
#[derive(Clone)]
struct Guard {
    reach: Arc<GridReach>,
    login_host: Arc<str>,
    dial: Arc<Dial>,
}

impl tower_service::Service<Uri> for Guard {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let guard = self.clone();
        Box::pin(async move {
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, guard.connect(&uri))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

impl Guard {
    async fn connect(&self, uri: &Uri) -> io::Result<TcpStream> {
        let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        if let Some(elsewhere) = self.dial.http_target(host, port) {
            return TcpStream::connect(elsewhere).await;
        }
        self.pin_reach().await;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut candidates: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address.to_canonical(), port)],
            Err(_) => tokio::net::lookup_host((bare, port)).await?.collect(),
        };
        // Login, seed and circuits must leave from one address, and circuits are IPv4.
        candidates.sort_by_key(SocketAddr::is_ipv6);
        candidates.retain(|address| self.reach.permits(Transport::Tcp, *address));
        if candidates.is_empty() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, AddressRefused));
        }
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        // A dead address must not eat the time of those after it.
        let share = CONNECT_TIMEOUT / u32::try_from(candidates.len().min(6)).unwrap_or(6);
        for address in candidates {
            let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream)
                    if stream.peer_addr().is_ok_and(|peer| self.reach.permits(Transport::Tcp, peer)) =>
                {
                    return Ok(stream);
                }
                Ok(_) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, AddressRefused)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Until its login host resolves, a grid counts as public; asset hosts work meanwhile.
    async fn pin_reach(&self) {
        if !self.reach.is_pinned()
            && let Ok(addresses) = tokio::net::lookup_host((&*self.login_host, 0)).await
        {
            self.reach.resolved(&addresses.collect::<Vec<_>>());
        }
    }
}

type HttpClient = Client<HttpsConnector<Guard>, Body>;

/// The client of one grid.
#[derive(Clone)]
pub(super) struct Upstream {
    pooled: HttpClient,
    fresh: HttpClient,
}

impl Upstream {
    /// A client that trusts the system's roots and those of `ca_file`.
    pub(super) fn new(
        login_host: &str,
        reach: Arc<GridReach>,
        dial: Arc<Dial>,
        ca_file: Option<&Path>,
    ) -> Result<Self, TrustError> {
        let tls = trust::tls_config(ca_file)?;
        let guard = Guard { reach, login_host: Arc::from(login_host), dial };
        let client = |idle_per_host: usize| {
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls.clone())
                .https_or_http()
                .enable_http1()
                .wrap_connector(guard.clone());
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle_per_host)
                .set_host(false)
                .retry_canceled_requests(false)
                .http1_preserve_header_case(true)
                // What a viewer's libcurl reads, we read.
                .http1_ignore_invalid_headers_in_responses(true)
                .http1_allow_spaces_after_header_name_in_responses(true)
                .http1_allow_obsolete_multiline_headers_in_responses(true)
                .build(connector)
        };
        Ok(Self { pooled: client(64), fresh: client(0) })
    }

    /// Sends on a connection of its own: for POSTs, which must not meet a connection that the
    /// simulator is just closing, and for HEAD, after whose reply OpenSimulator sends a body.
    pub(super) async fn send_fresh(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, UpstreamError> {
        self.fresh.request(request).await.map_err(|error| explain(&error))
    }

    /// Sends a request that may be repeated, on a kept connection if there is one. When that
    /// connection turns out to be closed, the request is sent once more on a fresh one.
    pub(super) async fn send_idempotent(
        &self,
        request: impl Fn() -> Request<Body> + Send,
    ) -> Result<Response<Incoming>, UpstreamError> {
        match self.pooled.request(request()).await {
            Ok(response) => Ok(response),
            Err(error) if error.is_connect() => Err(explain(&error)),
            Err(_) => self.send_fresh(request()).await,
        }
    }
}

fn explain(error: &hyper_util::client::legacy::Error) -> UpstreamError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            if is_certificate(io) {
                return UpstreamError::Untrusted;
            }
            if io.get_ref().is_some_and(|inner| inner.is::<AddressRefused>()) {
                return UpstreamError::Refused;
            }
            if io.kind() == io::ErrorKind::TimedOut {
                return UpstreamError::TimedOut;
            }
        }
        cause = current.source();
    }
    UpstreamError::Failed(if error.is_connect() { "no connection" } else { "the connection broke" })
}

/// Whether a connection failed because of the grid's certificate. The TLS layer wraps its error in
/// one `io::Error`, the connector that in another.
fn is_certificate(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        matches!(inner.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
            || inner.downcast_ref::<io::Error>().is_some_and(is_certificate)
    })
}
