//! The fallback: the same calls over HTTP/2 or HTTP/1.1, for networks that block UDP.

use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Value, json};

use super::address::ServerAddress;
use super::credentials::is_answer;
use super::paced::PacedBody;
use super::{CallError, unexpected};
use crate::asset::AssetKey;
use crate::wire::DigestText;
use crate::wire::frame::{Call, Codec, Found, Reply, Verdict};

const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// An answer to 256 lookups is some 40 kB.
const MAX_JSON_BYTES: usize = 128 << 10;

/// Connections to the HTTP face of a node.
#[derive(Clone)]
pub(super) struct HttpLink {
    base: String,
    client: Client<HttpsConnector<HttpConnector<Fixed>>, PacedBody>,
}

/// Knows of one address, whatever the name.
#[derive(Clone)]
struct Fixed(Option<SocketAddr>);

impl tower_service::Service<Name> for Fixed {
    type Response = std::option::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.into_iter()))
    }
}

impl HttpLink {
    /// Prepares to connect to the node at this address, whose certificate is for the service's name. Nothing is
    /// sent yet.
    pub(super) fn new(address: &ServerAddress, tls: rustls::ClientConfig, at: Option<SocketAddr>) -> Self {
        let mut connector = HttpConnector::new_with_resolver(Fixed(at));
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_PATIENCE));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_initial_stream_window_size(2 << 20)
            .http2_initial_connection_window_size(16 << 20)
            .build(connector);
        Self { base: address.to_string(), client }
    }

    /// Makes one request and reads the reply's head.
    ///
    /// # Errors
    /// When the service cannot be reached or answers in another language.
    pub(super) async fn call(
        &self,
        token: &str,
        call: Call,
        body: Option<PacedBody>,
    ) -> Result<(Reply, Incoming), CallError> {
        let mut request = self.request(&call, body)?;
        if !token.is_empty() {
            request.headers_mut().insert(AUTHORIZATION, bearer(token)?);
        }
        let mut response = self.client.request(request).await.map_err(|_| CallError::Unreachable)?;
        let reply = match (&call, response.status()) {
            (Call::Read { .. }, StatusCode::OK) => found(&response).ok_or(CallError::Garbled)?,
            (Call::Read { .. }, StatusCode::NOT_FOUND) => Reply::Absent,
            (Call::Lookup { assets, .. }, StatusCode::OK) => {
                let body = read_json(response.body_mut()).await?;
                sizes(&body, assets.len()).ok_or(CallError::Garbled)?
            }
            (Call::Attest { .. } | Call::Put { .. }, StatusCode::CONFLICT) => {
                Reply::Upload(Verdict::Conflict)
            }
            (Call::Attest { .. } | Call::Put { .. }, status) if status.is_success() => {
                let body = read_json(response.body_mut()).await?;
                let want_body = body.get("want_body").and_then(Value::as_bool).unwrap_or(false);
                Reply::Upload(match status {
                    StatusCode::CREATED => Verdict::Published,
                    StatusCode::ACCEPTED => Verdict::Waiting { want_body },
                    _ => Verdict::Known,
                })
            }
            (_, status) => refused(status, &response),
        };
        Ok((reply, response.into_body()))
    }

    /// Asks what is not about assets: GET, or POST with a body.
    ///
    /// # Errors
    /// When the service cannot be reached, says no, or answers in another language.
    pub(super) async fn json(
        &self,
        path: &str,
        body: Option<Value>,
        token: Option<&str>,
    ) -> Result<Value, CallError> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(PacedBody::new(Bytes::from(body.map_or_else(String::new, |body| body.to_string())), None))
            .map_err(|_| CallError::Garbled)?;
        if let Some(token) = token {
            request.headers_mut().insert(AUTHORIZATION, bearer(token)?);
        }
        let mut response = self.client.request(request).await.map_err(|_| CallError::Unreachable)?;
        if !is_answer(response.status()) {
            return Err(unexpected(refused(response.status(), &response)));
        }
        read_json(response.body_mut()).await
    }

    fn request(&self, call: &Call, body: Option<PacedBody>) -> Result<Request<PacedBody>, CallError> {
        let path = |key: &AssetKey| {
            format!("{}/v1/grids/{}/assets/{}/{}", self.base, escaped(key.grid.as_str()), key.kind, key.id.0)
        };
        let json_body = |value: Value| PacedBody::new(Bytes::from(value.to_string()), None);
        let mut request = Request::builder();
        let body = match call {
            Call::Read { key, origin, head_only, .. } => {
                request = request.method(if *head_only { Method::HEAD } else { Method::GET }).uri(path(key));
                if let Some(origin) = origin {
                    request = request.header("rezcache-origin", origin.to_string());
                }
                PacedBody::new(Bytes::new(), None)
            }
            Call::Lookup { grid, origin, assets } => {
                request = request.method(Method::POST).uri(format!("{}/v1/lookup", self.base));
                let list: Vec<Value> =
                    assets.iter().map(|(kind, id)| json!({ "kind": kind, "id": id.0 })).collect();
                let origin = origin.map(|origin| origin.to_string());
                json_body(json!({ "grid": grid.as_str(), "origin": origin, "assets": list }))
            }
            Call::Attest { key, origin, digest, proof } => {
                request = request.method(Method::POST).uri(path(key) + "/attest");
                let proof: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
                let origin = origin.map(|origin| origin.to_string());
                json_body(json!({
                    "digest": DigestText(*digest).to_string(), "origin": origin, "proof": proof,
                }))
            }
            Call::Put { key, origin, digest, codec, length } => {
                request = request
                    .method(Method::PUT)
                    .uri(path(key))
                    .header("rezcache-digest", DigestText(*digest).to_string())
                    .header(CONTENT_LENGTH, *length);
                if let Some(origin) = origin {
                    request = request.header("rezcache-origin", origin.to_string());
                }
                if *codec == Codec::Lz4 {
                    request = request.header(CONTENT_ENCODING, "lz4");
                }
                body.unwrap_or_else(|| PacedBody::new(Bytes::new(), None))
            }
        };
        if matches!(call, Call::Lookup { .. } | Call::Attest { .. }) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(body).map_err(|_| CallError::Garbled)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, CallError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| CallError::Garbled)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A grid's name in a path; nothing but a host name and a port is ever in it.
fn escaped(grid: &str) -> String {
    grid.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn found(response: &Response<Incoming>) -> Option<Reply> {
    let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let digest = DigestText::parse(header(ETAG)?.trim_matches('"'))?;
    let total = header(CONTENT_LENGTH)?.parse().ok()?;
    let verify = response.headers().contains_key("rezcache-verify");
    Some(Reply::Found(Found { digest, total, first: 0, length: total, grouped: false, verify }))
}

fn sizes(body: &Value, number: usize) -> Option<Reply> {
    let rows = body.get("assets")?.as_array().filter(|rows| rows.len() == number)?;
    let row = |row: &Value| {
        if row.get("hit")?.as_bool()? {
            let digest = DigestText::parse(row.get("digest")?.as_str()?)?;
            Some(Some((row.get("size")?.as_u64()?, digest)))
        } else {
            Some(None)
        }
    };
    Some(Reply::Sizes(rows.iter().map(row).collect::<Option<_>>()?))
}

fn refused(status: StatusCode, response: &Response<Incoming>) -> Reply {
    let retry_after_s: u32 =
        response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Reply::Busy { retry_after_ms: retry_after_s.max(1).saturating_mul(1000) };
    }
    let reason = status.canonical_reason().unwrap_or("refused").to_owned();
    Reply::Refused { status: status.as_u16(), retry_after_s, reason }
}

async fn read_json(body: &mut Incoming) -> Result<Value, CallError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| CallError::Unreachable)?.into_data() {
            if whole.len() + data.len() > MAX_JSON_BYTES {
                return Err(CallError::Garbled);
            }
            whole.extend_from_slice(&data);
        }
    }
    serde_json::from_slice(&whole).map_err(|_| CallError::Garbled)
}
