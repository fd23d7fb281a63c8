//! One question over HTTP, step by step, so that each step's failure has a name: the name, the
//! connection, TLS, the answer. Every step is bounded in time, and the answer in size.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::client::resolve::Resolver;

/// How long a name may take.
pub(super) const NAME_LIMIT: Duration = Duration::from_secs(4);
/// How long all addresses of a host together may take.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const TLS_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
const MAX_BODY: usize = 1 << 20;

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untrusted {
    /// Nobody we trust has signed it.
    Issuer,
    /// Its time is over, or has not begun.
    Time,
    /// It is somebody else's.
    Name,
    /// It does not have the key that was pinned.
    Pin,
    /// Anything else.
    Other,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Something listens nowhere.
    Refused,
    /// Nothing came back.
    Unreachable,
    /// The certificate is not believed.
    Untrusted(Untrusted),
    /// No TLS, or none that we speak.
    Tls,
    /// It connected, and then said nothing in time.
    Silent,
    /// Something answered that does not speak HTTP.
    NotHttp,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// From the question to the end of the answer, on a connection that was there.
    pub(super) took: Duration,
    /// By how much its clock is ahead of ours, in seconds, if it says what time it has.
    pub(super) ahead: Option<i64>,
}

/// What people call a host like this.
pub(super) fn word_for(host: &str) -> &'static str {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() { "address" } else { "name" }
}

/// The addresses of a host; empty when it has none, or none in time.
pub(super) async fn resolve(host: &str, port: u16) -> Vec<SocketAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    match timeout(NAME_LIMIT, tokio::net::lookup_host((bare, port))).await {
        Ok(Ok(found)) => in_order(found),
        _ => Vec::new(),
    }
}

/// The same of a name server that the user names.
pub(super) async fn resolve_by(resolver: &Resolver, host: &str, port: u16) -> Vec<SocketAddr> {
    match timeout(NAME_LIMIT, resolver.resolve(host)).await {
        Ok(Ok(found)) => in_order(found.addresses.into_iter().map(|ip| SocketAddr::new(ip, port))),
        _ => Vec::new(),
    }
}

fn in_order(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut found: Vec<_> = found.take(16).collect();
    // As the proxy itself does: circuits are IPv4.
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    found
}

/// A connection to the first of these that takes one.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Fault> {
    let share = CONNECT_LIMIT / u32::try_from(addresses.len().max(1)).unwrap_or(16);
    let mut fault = Fault::Unreachable;
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => fault = Fault::Refused,
            _ => {}
        }
    }
    Err(fault)
}

/// Asks over TLS when there is a configuration for it.
pub(super) async fn ask(
    stream: TcpStream,
    host: &str,
    tls: Option<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Fault> {
    let Some(mut config) = tls else { return exchange(stream, request).await };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(bare).map_err(|_| Fault::Tls)?;
    let secured = timeout(TLS_LIMIT, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    match secured {
        Err(_) => Err(Fault::Silent),
        Ok(Err(error)) => Err(tls_fault(&error)),
        Ok(Ok(stream)) => exchange(stream, request).await,
    }
}

fn tls_fault(error: &io::Error) -> Fault {
    let Some(rustls::Error::InvalidCertificate(wrong)) =
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return Fault::Tls;
    };
    Fault::Untrusted(match wrong {
        CertificateError::UnknownIssuer => Untrusted::Issuer,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Untrusted::Time,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Untrusted::Name
        }
        CertificateError::ApplicationVerificationFailure => Untrusted::Pin,
        _ => Untrusted::Other,
    })
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begun = Instant::now();
    let talk = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| Fault::NotHttp)?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let response = sender.send_request(request).await.map_err(|_| Fault::NotHttp)?;
            let now = SystemTime::now();
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(|_| Fault::NotHttp)?;
            let date = parts.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
            let ahead =
                date.and_then(|date| httpdate::parse_http_date(date).ok()).map(|date| difference(date, now));
            Ok(Answer {
                status: parts.status.as_u16(),
                body: body.to_bytes().to_vec(),
                took: begun.elapsed(),
                ahead,
            })
        };
        let answer = answer.await;
        connection.abort();
        answer
    };
    timeout(ANSWER_LIMIT, talk).await.unwrap_or(Err(Fault::Silent))
}

/// By how many seconds `theirs` is ahead of `ours`.
fn difference(theirs: SystemTime, ours: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match theirs.duration_since(ours) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

/// A request as this small client sends it. `None` when the address cannot be written down.
pub(super) fn get(authority: &str, path: &str) -> Option<Request<Full<Bytes>>> {
    Request::get(path.parse::<Uri>().ok()?)
        .header(http::header::HOST, authority)
        .header(http::header::USER_AGENT, concat!("rezcache/", env!("CARGO_PKG_VERSION")))
        .body(Full::default())
        .ok()
}

/// Asks something on this machine.
pub(super) async fn get_local(at: SocketAddr, path: &str) -> Result<Answer, Fault> {
    let stream = connect(&[at]).await?;
    let request = get(&at.to_string(), path).ok_or(Fault::NotHttp)?;
    ask(stream, &at.ip().to_string(), None, request).await
}
