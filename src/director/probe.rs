//! One look at one node: a fresh connection, `/readyz`, then `/v1/node`. A kept connection would go on working where
//! new clients are refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use crate::fleet::health::{Cause, Probe};
use crate::fleet::report::NodeReport;
use crate::redact::Redacted;

/// A load report is a few kilobytes.
const MAX_REPORT: usize = 256 << 10;

/// How nodes are asked.
#[derive(Clone)]
pub struct Prober {
    tls: Arc<ClientConfig>,
    server_name: Option<String>,
    token: Option<Redacted<String>>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Its host, a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

impl NodeAddress {
    /// Reads `https://HOST:PORT`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return None;
        }
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        Some(Self { host, port: uri.port_u16().unwrap_or(8443), tls })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// What one look at a node came to.
#[derive(Clone, Debug)]
pub struct Looked {
    /// In short.
    pub probe: Probe,
    /// Why it is not ready.
    pub cause: Option<Cause>,
    /// What the node says of itself.
    pub report: Option<NodeReport>,
}

/// A connection, and until when the certificate that it came with is good; seconds since 1970.
struct Line {
    sender: SendRequest<Empty<Bytes>>,
    certificate: Option<u64>,
}

/// Until when a certificate is good; seconds since 1970.
fn not_after(certificate: &[u8]) -> Option<u64> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

impl Prober {
    /// Asks by this TLS, under this name, with this token.
    #[must_use]
    pub fn new(tls: ClientConfig, server_name: Option<String>, token: Option<Redacted<String>>) -> Self {
        Self { tls: Arc::new(tls), server_name, token }
    }

    /// Looks at a node, within `patience`.
    pub async fn probe(&self, node: &NodeAddress, patience: Duration) -> Looked {
        let began = Instant::now();
        let ready = tokio::time::timeout(patience, self.ready(node)).await;
        let latency = began.elapsed();
        let failed = |probe, cause| Looked { probe, cause: Some(cause), report: None };
        let (mut line, refusal) = match ready {
            Err(_) => return failed(Probe::TimedOut, Cause::TimedOut),
            Ok(Err(cause)) => return failed(Probe::Refused, cause),
            Ok(Ok(answer)) => answer,
        };
        // A node that is ready and slow to report is ready; one that leaves says who is still with it.
        let left = patience.saturating_sub(latency);
        let report = tokio::time::timeout(left, self.report(&mut line, node)).await.ok().flatten();
        let leaving = report.as_ref().is_some_and(|report| report.draining).then_some(Cause::Draining);
        if let Some(cause) = leaving.or(refusal) {
            return Looked { probe: Probe::NotReady, cause: Some(cause), report };
        }
        let storage = report.as_ref().is_none_or(NodeReport::storage_works);
        Looked { probe: Probe::Ready { latency, storage }, cause: None, report }
    }

    /// Tells a node to drain: it refuses what is new and finishes what runs.
    pub async fn drain(&self, node: &NodeAddress, patience: Duration) -> bool {
        let asked = async {
            let mut line = self.connect(node).await.ok()?;
            let request = self.request(Method::POST, "/v1/node/drain", node)?;
            Some(line.sender.send_request(request).await.ok()?.status().is_success())
        };
        tokio::time::timeout(patience, asked).await.ok().flatten().unwrap_or(false)
    }

    /// A connection, and why the node says that it cannot serve.
    async fn ready(&self, node: &NodeAddress) -> Result<(Line, Option<Cause>), Cause> {
        let mut line = self.connect(node).await?;
        let request = self.request(Method::GET, "/readyz", node).ok_or(Cause::NotHttp)?;
        let response = line.sender.send_request(request).await.map_err(|_| Cause::NotHttp)?;
        let status = response.status();
        // The next answer comes after this one's body.
        let _ = Limited::new(response.into_body(), MAX_REPORT).collect().await;
        let cause = Cause::Status(status.as_u16());
        match status {
            StatusCode::OK => Ok((line, None)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Ok((line, Some(cause))),
            _ => Err(cause),
        }
    }

    async fn report(&self, line: &mut Line, node: &NodeAddress) -> Option<NodeReport> {
        line.sender.ready().await.ok()?;
        let response = line.sender.send_request(self.request(Method::GET, "/v1/node", node)?).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX_REPORT).collect().await.ok()?.to_bytes();
        let mut report = NodeReport::parse(&body)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        report.certificate_left = line.certificate.map(|end| Duration::from_secs(end.saturating_sub(now)));
        Some(report)
    }

    fn request(&self, method: Method, path: &str, node: &NodeAddress) -> Option<Request<Empty<Bytes>>> {
        // By its address, also where its certificate has a name: a node on loopback lets no name lead to it.
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, node.authority())
            .body(Empty::new())
            .ok()?;
        // Over plain HTTP anybody on the way would learn it.
        if let Some(token) = self.token.as_ref().filter(|_| node.tls) {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal())).ok()?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Some(request)
    }

    async fn connect(&self, node: &NodeAddress) -> Result<Line, Cause> {
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await;
        let stream = stream.map_err(|error| unreached(&error, &node.host))?;
        let _ = stream.set_nodelay(true);
        if !node.tls {
            return Ok(Line { sender: speak(TokioIo::new(stream)).await?, certificate: None });
        }
        let host = self.server_name.clone().unwrap_or_else(|| node.host.clone());
        let name = ServerName::try_from(host.clone()).map_err(|_| Cause::NotForName(host.clone()))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| untrusted(&error, host))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.and_then(|certificate| not_after(certificate));
        Ok(Line { sender: speak(TokioIo::new(stream)).await?, certificate })
    }
}

/// Why there is no connection.
fn unreached(error: &std::io::Error, host: &str) -> Cause {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Cause::ConnectionRefused,
        Kind::HostUnreachable | Kind::NetworkUnreachable => Cause::NoRoute,
        Kind::TimedOut => Cause::TimedOut,
        _ if host.parse::<std::net::IpAddr>().is_err() => Cause::NoAddress,
        _ => Cause::NoRoute,
    }
}

/// Why nobody there is believed to be our node.
fn untrusted(error: &std::io::Error, name: String) -> Cause {
    use rustls::CertificateError as Wrong;
    let told = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match told {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => Cause::NotForName(name),
            Wrong::Expired | Wrong::ExpiredContext { .. } => Cause::Expired,
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => Cause::NotYet,
            Wrong::UnknownIssuer => Cause::UnknownAuthority,
            // What our verifier says of another key.
            Wrong::ApplicationVerificationFailure => Cause::OtherKey,
            _ => Cause::Certificate,
        },
        _ => Cause::NoTls,
    }
}

async fn speak<S>(stream: TokioIo<S>) -> Result<SendRequest<Empty<Bytes>>, Cause>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(stream).await.map_err(|_| Cause::NotHttp)?;
    // Ends with the sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// The address that DNS answers for a node that names none of its own: that of its URL, resolved once at the start.
pub(super) async fn resolve(node: &NodeAddress) -> Vec<std::net::IpAddr> {
    let found = tokio::net::lookup_host((node.host.as_str(), node.port)).await;
    let mut addresses: Vec<_> =
        found.into_iter().flatten().map(|address: SocketAddr| address.ip().to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        for (year, seconds) in [(2030, 1_893_456_000), (2077, 3_376_684_800)] {
            let mut params = rcgen::CertificateParams::new(["cache.example.org".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(certificate.der()), Some(seconds));
            assert_eq!(not_after(&certificate.der()[..200]), None);
        }
        assert_eq!(not_after(b""), None);
    }
}
