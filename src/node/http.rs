//! The HTTP face: HTTP/1.1 and HTTP/2, with TLS or plain, for other tools, for networks that block
//! UDP, and as the proxy's fallback. The paths and what they answer are in `openapi.json`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_RANGES, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, HeaderName, HeaderValue, IF_RANGE, ORIGIN, RANGE, RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode, request};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::access::TOO_MANY;
use super::caller::Caller;
use super::counters::Count;
use super::enrol::Standing;
use super::leaving::Connected;
use super::line::{Answering, Body, End, Line};
use super::refusal::Refusal;
use super::service::{Answer, Service, Want};
use super::stopped;
use super::takedown::Victim;
use crate::asset::range::{ContentRange, RangeAnswer, RangeRequest};
use crate::asset::{AssetId, AssetKey, AssetKind};
use crate::grid::GridId;
use crate::support::patient::Patient;
use crate::token;
use crate::wire;
use crate::wire::frame::{Call, Codec, Reply, Verdict};
use crate::wire::{DigestText, MAX_LOOKUP, OriginHash};

/// The origin that the bytes would else come from, in 32 hexadecimal digits.
pub(crate) const REZCACHE_ORIGIN: HeaderName = HeaderName::from_static("rezcache-origin");
/// The digest of an uploaded body, unpacked.
pub(crate) const REZCACHE_DIGEST: HeaderName = HeaderName::from_static("rezcache-digest");
/// On an answer: other content was attested too; let the grid win, compare, attest.
pub(crate) const REZCACHE_VERIFY: HeaderName = HeaderName::from_static("rezcache-verify");

/// A head that is not whole by then, or an idle connection.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// The same when the node goes: only the last of an answer is still on its way.
const GOING_PATIENCE: Duration = Duration::from_secs(60);
/// And for who came when it was going.
const LATE_PATIENCE: Duration = Duration::from_secs(10);
/// A handshake that is not through by then.
const TLS_PATIENCE: Duration = Duration::from_secs(10);
/// A body of JSON that has not come by then.
const JSON_PATIENCE: Duration = Duration::from_secs(30);
/// Header fields in a request of HTTP/1.
const MAX_HEADERS: usize = 64;
/// Streams of HTTP/2 that were reset and not looked at yet, before the connection ends.
const MAX_RESET: usize = 32;
/// JSON bodies: 256 lookups take some 20 kB.
const MAX_JSON_BYTES: usize = 64 << 10;
/// A grid's name is a host name with a port.
const MAX_GRID_BYTES: usize = 255;

/// What a connection needs to know.
#[derive(Clone)]
pub(super) struct Face {
    pub(super) service: Arc<Service>,
    /// `None`: plain.
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) local: SocketAddr,
}

/// Serves until `stop` turns true; then every connection ends with the answer it is at.
pub(super) async fn serve(listener: TcpListener, face: Face, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stopping| *stopping) => break,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, or the peer is gone already: neither ends the listener.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let admitted = face.service.admits_connection(peer.ip());
        let place = if admitted { face.service.places.take(peer.ip()) } else { None };
        let Some(place) = place else {
            face.service.counters.count(Count::ConnectionsRefused);
            continue;
        };
        let (face, stop) = (face.clone(), stop.clone());
        let open = Arc::new(face.service.connected());
        connections.spawn(async move {
            connection(stream, peer, face, open, stop).await;
            drop(place);
        });
    }
    // Who comes now is told at once that nobody listens, and asks another node.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    face: Face,
    open: Arc<Connected>,
    stop: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let stream = Patient::new(stream);
    match face.tls.clone() {
        None => converse(stream, peer, face, open, stop).await,
        Some(acceptor) => {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(TLS_PATIENCE, acceptor.accept(stream)) => shaken,
                () = stopped(stop.clone()) => return,
            };
            match shaken {
                Ok(Ok(stream)) => converse(stream, peer, face, open, stop).await,
                Ok(Err(_)) => {}
                Err(_) => face.service.counters.count(Count::HandshakesSlow),
            }
        }
    }
}

/// Answers what comes on a connection, until either side has had enough.
pub(super) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    face: Face,
    open: Arc<Connected>,
    stop: watch::Receiver<bool>,
) {
    let line = Line::new();
    let (node, known) = (Arc::clone(&face.service), Arc::clone(&open));
    let service = {
        let line = Arc::clone(&line);
        service_fn(move |request| {
            let (face, open, mut answering) = (face.clone(), Arc::clone(&open), line.begin());
            async move {
                let answer = answer(request, peer, &face, &open, &mut answering).await;
                Ok::<_, Infallible>(answer.map(|body| answering.sends(body)))
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(64 << 10)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_send_buf_size(1 << 20)
        .max_header_list_size(16 << 10)
        // Who asks and takes it back, again and again, makes us work for nothing.
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(MAX_RESET)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = std::pin::pin!(stopped(stop));
    loop {
        let late = known.is_late();
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopping.as_mut() => {}
            // Whoever has not asked anything yet hears that the node goes, and may ask that again.
            () = node.leaving.said(), if !late => if known.comes_late() { continue },
            () = known.unwelcome() => {}
            end = line.ended(if late { LATE_PATIENCE } else { HEAD_PATIENCE }) => if end == End::Overdue {
                node.counters.count(Count::ReadersSlow);
                return;
            },
        }
        break;
    }
    // What is being answered may end. Dropping the connection ends all of it.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        _ = line.ended(GOING_PATIENCE) => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    face: &Face,
    open: &Connected,
    answering: &mut Answering,
) -> Response<Body> {
    let head = *request.method() == Method::HEAD;
    let mut looks = false;
    let asked = Asked::of(request.method(), request.uri().path());
    // What needs no token, and what leads nowhere, has its pace by address.
    let nobody = match &asked {
        Ok(asked) if !asked.is_open() => Ok(()),
        _ => stranger(face, peer, open),
    };
    let mut response = match asked {
        _ if let Err(refusal) = nobody => problem(&refusal),
        Err(Unroutable::Refused(refusal)) => problem(&refusal),
        Err(Unroutable::Method(methods)) => not_allowed(methods),
        Ok(asked) => match admitted(&request, face) {
            Err(refusal) => problem(&refusal),
            Ok(()) => {
                looks = asked.looks();
                if looks {
                    open.looks();
                } else {
                    open.uses();
                }
                let refused = |refusal: Refusal| {
                    if refusal.reason == TOO_MANY {
                        open.is_unwelcome();
                    }
                    // Who shows no valid token is nobody in particular either.
                    let told = match refusal.status {
                        StatusCode::UNAUTHORIZED => stranger(face, peer, open).err().unwrap_or(refusal),
                        _ => refusal,
                    };
                    problem(&told)
                };
                route(request, asked, peer, face, answering).await.unwrap_or_else(refused)
            }
        },
    };
    if face.service.is_draining() && !looks {
        open.is_unwelcome();
    }
    if open.is_ending() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if head {
        *response.body_mut() = Either::Left(Full::default());
    }
    response
}

/// Counts a request of nobody in particular; with too many of them its connection ends too.
fn stranger(face: &Face, peer: SocketAddr, open: &Connected) -> Result<(), Refusal> {
    face.service.stranger(peer.ip()).inspect_err(|_| open.is_unwelcome())
}

/// Requests that a web page could have caused are refused, and odd ones that hyper lets through.
fn admitted(request: &Request<Incoming>, face: &Face) -> Result<(), Refusal> {
    let headers = request.headers();
    if headers.contains_key(ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin")
    {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "requests of web pages are not served here"));
    }
    if request.version() < http::Version::HTTP_2 {
        let mut hosts = headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "exactly one Host header is needed"));
        };
        // On loopback a name that leads here may be a web page's; a public node has a name of its own.
        let literal = host.to_str().ok().is_some_and(|host| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            name.eq_ignore_ascii_case("localhost")
                || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
        });
        if face.local.ip().is_loopback() && !literal {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this address must be used by its literal address",
            ));
        }
    }
    Ok(())
}

/// What a path and a method ask for.
enum Asked {
    Asset { key: AssetKey, method: Method },
    Attest { key: AssetKey },
    Content { digest: crate::asset::Digest },
    Lookup,
    Introduction,
    Enrol { method: Method },
    Drain,
    Report,
    Metrics,
    Health,
    Ready,
    OpenApi,
}

const fn going() -> Refusal {
    Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "this node is going; ask another", 1)
}

/// Why a request leads nowhere.
enum Unroutable {
    Refused(Refusal),
    /// There is something, with these methods.
    Method(&'static [Method]),
}

impl From<Refusal> for Unroutable {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn not_allowed(methods: &[Method]) -> Response<Body> {
    let mut response = problem(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method"));
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    response.headers_mut().extend(HeaderValue::from_str(&names.join(", ")).ok().map(|names| (ALLOW, names)));
    response
}

impl Asked {
    /// Whether it is about the node and not about what the node is for: nobody waits for who asks that.
    const fn looks(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Report | Self::Metrics | Self::Drain)
    }

    /// Whether it is answered without a token.
    const fn is_open(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Introduction | Self::OpenApi | Self::Enrol { .. })
    }

    fn of(method: &Method, path: &str) -> Result<Self, Unroutable> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let get: &'static [Method] = &[Method::GET, Method::HEAD];
        let post: &'static [Method] = &[Method::POST];
        let (asked, methods) = match parts.as_slice() {
            ["v1", "grids", grid, "assets", kind, id] => {
                let key = key(grid, kind, id)?;
                let methods: &'static [Method] = &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE];
                (Self::Asset { key, method: method.clone() }, methods)
            }
            ["v1", "grids", grid, "assets", kind, id, "attest"] => {
                (Self::Attest { key: key(grid, kind, id)? }, post)
            }
            ["v1", "contents", digest] => {
                let digest = DigestText::parse(digest)
                    .ok_or(Refusal::new(StatusCode::BAD_REQUEST, "the path holds no digest"))?;
                (Self::Content { digest }, &[Method::DELETE][..])
            }
            ["v1", "lookup"] => (Self::Lookup, post),
            ["v1", "service"] => (Self::Introduction, get),
            ["v1", "enroll"] => (Self::Enrol { method: method.clone() }, &[Method::GET, Method::POST][..]),
            ["v1", "node", "drain"] => (Self::Drain, post),
            ["v1", "node"] => (Self::Report, get),
            ["metrics"] => (Self::Metrics, get),
            ["healthz"] => (Self::Health, get),
            ["readyz"] => (Self::Ready, get),
            ["openapi.json"] => (Self::OpenApi, get),
            _ => return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path").into()),
        };
        if methods.contains(method) { Ok(asked) } else { Err(Unroutable::Method(methods)) }
    }
}

fn key(grid: &str, kind: &str, id: &str) -> Result<AssetKey, Refusal> {
    let wrong = Refusal::new(StatusCode::BAD_REQUEST, "the path names no grid, kind and UUID");
    let grid = decoded(grid).filter(|grid| is_grid(grid)).ok_or(wrong.clone())?;
    let kind = AssetKind::ALL
        .into_iter()
        .find(|known| known.name() == kind)
        .ok_or(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not a kind of asset that is shared"))?;
    let id = (id.len() == 36).then(|| Uuid::try_parse(id).ok()).flatten().ok_or(wrong)?;
    Ok(AssetKey { grid: GridId::new(&grid), kind, id: AssetId(id) })
}

/// A lower-case authority, as [`GridId`] says.
fn is_grid(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_GRID_BYTES
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'[' | b']'))
}

/// Undoes percent-encoding. `None` when it is broken or not text.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            out.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

async fn route(
    request: Request<Incoming>,
    asked: Asked,
    peer: SocketAddr,
    face: &Face,
    answering: &mut Answering,
) -> Result<Response<Body>, Refusal> {
    let service = &face.service;
    match asked {
        Asked::Health => return Ok(word(StatusCode::OK, "ok")),
        Asked::Ready => {
            return Ok(match service.is_ready().await {
                true => word(StatusCode::OK, "ready"),
                false => word(StatusCode::SERVICE_UNAVAILABLE, "busy"),
            });
        }
        // Until it is gone it can be looked at, and told again to go.
        Asked::Report | Asked::Metrics | Asked::Drain => {}
        _ if service.is_draining() => return Err(going()),
        Asked::Introduction => return Ok(json_answer(StatusCode::OK, &service.introduction())),
        Asked::OpenApi => {
            let mut response = made(StatusCode::OK, include_str!("openapi.json").into());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Ok(response);
        }
        _ => {}
    }
    if !asked.looks() {
        answering.runs(service.begin().ok_or_else(going)?);
    }
    let (parts, body) = request.into_parts();
    let local = peer.ip().to_canonical().is_loopback();
    match &asked {
        Asked::Enrol { method } if *method == Method::POST => {
            let by = (bearer(&parts)?, face.tls.is_some() || local);
            return enrol(service, &whole_json(body).await?, by, peer.ip()).await;
        }
        Asked::Enrol { .. } => return Ok(json_answer(StatusCode::OK, &service.challenge(peer.ip())?)),
        _ => {}
    }
    let token = bearer(&parts)?;
    let looks = matches!(asked, Asked::Report | Asked::Metrics);
    let caller = match token {
        None if looks && local => Caller::observer(peer.ip()),
        token => service.authenticate(token, peer.ip(), face.tls.is_some() || local).await?,
    };
    match asked {
        Asked::Asset { key, method } => match method {
            Method::PUT => put(service, &caller, key, &parts, body).await,
            Method::DELETE => take_down(service, &caller, Victim::Key(key), &parts).await,
            _ => read(service, &caller, key, &parts).await,
        },
        Asked::Content { digest } => take_down(service, &caller, Victim::Content(digest), &parts).await,
        Asked::Attest { key } => attest(service, &caller, key, &whole_json(body).await?).await,
        Asked::Lookup => lookup(service, &caller, &whole_json(body).await?).await,
        Asked::Drain => {
            service.drain(&caller)?;
            Ok(word(StatusCode::ACCEPTED, "draining"))
        }
        Asked::Report => Ok(json_answer(StatusCode::OK, &service.report(&caller).await?)),
        Asked::Metrics => {
            let mut response = made(StatusCode::OK, service.metrics(&caller)?.into());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            Ok(response)
        }
        Asked::Health | Asked::Ready | Asked::OpenApi | Asked::Introduction | Asked::Enrol { .. } => {
            Ok(word(StatusCode::OK, "ok"))
        }
    }
}

async fn enrol(
    service: &Service,
    body: &Value,
    by: (Option<&str>, bool),
    from: IpAddr,
) -> Result<Response<Body>, Refusal> {
    let wrong = |what| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let public = text("public_key")
        .and_then(token::public_key_of)
        .ok_or(wrong("public_key is missing or no 32 bytes in base64url"))?;
    let challenge = text("challenge").ok_or(wrong("challenge is missing"))?;
    let signature = text("signature")
        .and_then(token::from_base64url)
        .ok_or(wrong("signature is missing or not in base64url"))?;
    let enrolled = service.enrol(&public, challenge, &signature, by, from).await?;
    let status = if enrolled.new { StatusCode::CREATED } else { StatusCode::OK };
    let mut answer = json!({ "subject": token::own_subject(&public) });
    match enrolled.standing {
        Standing::Resident(counts_from) => answer["counts_from"] = counts_from.into(),
        Standing::Member(member) => {
            answer["counts_from"] = 0.into();
            answer["rights"] = member.rights.to_string().into();
        }
    }
    Ok(json_answer(status, &answer))
}

fn bearer(parts: &request::Parts) -> Result<Option<&str>, Refusal> {
    let Some(value) = parts.headers.get(AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token
        .map(Some)
        .ok_or(Refusal::new(StatusCode::UNAUTHORIZED, "the Authorization header is no bearer token"))
}

fn origin(parts: &request::Parts) -> Result<Option<OriginHash>, Refusal> {
    let Some(value) = parts.headers.get(REZCACHE_ORIGIN) else { return Ok(None) };
    let hash = value.to_str().ok().and_then(OriginHash::parse);
    hash.map(Some)
        .ok_or(Refusal::new(StatusCode::BAD_REQUEST, "Rezcache-Origin is not 32 hexadecimal digits"))
}

async fn read(
    service: &Service,
    caller: &Caller,
    key: AssetKey,
    parts: &request::Parts,
) -> Result<Response<Body>, Refusal> {
    let head_only = parts.method == Method::HEAD;
    let kind = key.kind;
    let asked = RangeRequest::parse(parts.headers.get(RANGE).map(HeaderValue::as_bytes));
    // A part is for a GET, and for whoever has the rest of these very bytes. RFC 9110, 14.2 and 13.1.5.
    let answer_of = |digest, total| match parts.headers.get(IF_RANGE) {
        _ if head_only => RangeAnswer::Whole,
        Some(tag) if tag.as_bytes() != etag(digest).as_bytes() => RangeAnswer::Whole,
        _ => asked.answer(total),
    };
    let choose = |digest, total| match answer_of(digest, total) {
        RangeAnswer::Part(part) => Some(part.start..part.end),
        RangeAnswer::Whole => None,
    };
    let want = if head_only { Want::Nothing } else { Want::Exactly(&choose) };
    let Answer { reply, body } = service.asset(caller, &key, origin(parts)?, want).await;
    let found = match reply {
        Reply::Found(found) => found,
        Reply::Absent => return Err(Refusal::new(StatusCode::NOT_FOUND, "no such asset")),
        other => return Err(refusal_of(&other)),
    };
    let (status, content_range, length) = match answer_of(found.digest, found.total) {
        RangeAnswer::Part(part) => {
            (StatusCode::PARTIAL_CONTENT, ContentRange::of(part, found.total), part.len())
        }
        RangeAnswer::Whole => (StatusCode::OK, None, found.total),
    };
    let mut response = Response::new(match body.stream {
        Some(stream) => Either::Right(stream),
        None => Either::Left(Full::new(body.bytes)),
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind.content_type()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    let quoted = |text: String| HeaderValue::from_str(&text).ok();
    headers.extend(quoted(etag(found.digest)).map(|tag| (ETAG, tag)));
    headers.extend(
        content_range.and_then(|range| quoted(range.to_string())).map(|range| (CONTENT_RANGE, range)),
    );
    if found.verify {
        headers.insert(REZCACHE_VERIFY, HeaderValue::from_static("1"));
    }
    Ok(response)
}

fn etag(digest: crate::asset::Digest) -> String {
    format!("\"{}\"", DigestText(digest))
}

async fn put(
    service: &Service,
    caller: &Caller,
    key: AssetKey,
    parts: &request::Parts,
    mut body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let header = |name| parts.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let digest = header(REZCACHE_DIGEST)
        .and_then(DigestText::parse)
        .ok_or(Refusal::new(StatusCode::BAD_REQUEST, "Rezcache-Digest is missing or no digest"))?;
    let codec = match header(CONTENT_ENCODING) {
        None | Some("identity") => Codec::Raw,
        Some("lz4") => Codec::Lz4,
        Some(_) => return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "packed in an unknown way")),
    };
    let length = header(CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .ok_or(Refusal::new(StatusCode::LENGTH_REQUIRED, "Content-Length is needed"))?;
    let call = Call::Put { key, origin: origin(parts)?, digest, codec, length };
    let mut receiving = service.admit_body(caller, &call).await?;
    loop {
        match tokio::time::timeout(receiving.patience(), body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    receiving.push(&data).await?;
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => return Err(service.given_up()),
        }
    }
    verdict_answer(&service.put(caller, &call, receiving).await.reply)
}

async fn attest(
    service: &Service,
    caller: &Caller,
    key: AssetKey,
    body: &Value,
) -> Result<Response<Body>, Refusal> {
    let wrong = |what| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let digest = text("digest").and_then(DigestText::parse).ok_or(wrong("digest is missing or no digest"))?;
    let proof = text("proof")
        .and_then(wire::proof_from_text)
        .ok_or(wrong("proof is missing or not 64 hexadecimal digits"))?;
    let call = Call::Attest { key, origin: json_origin(body)?, digest, proof };
    verdict_answer(&service.perform(caller, &call).await.reply)
}

fn json_origin(body: &Value) -> Result<Option<OriginHash>, Refusal> {
    match body.get("origin") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(OriginHash::parse)
            .map(Some)
            .ok_or(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "origin is not 32 hexadecimal digits")),
    }
}

fn verdict_answer(reply: &Reply) -> Result<Response<Body>, Refusal> {
    let Reply::Upload(verdict) = reply else { return Err(refusal_of(reply)) };
    let (status, state, want_body) = match verdict {
        Verdict::Published => (StatusCode::CREATED, "published", false),
        Verdict::Waiting { want_body } => (StatusCode::ACCEPTED, "waiting", *want_body),
        Verdict::Known => (StatusCode::OK, "known", false),
        Verdict::Conflict => {
            return Err(Refusal::new(StatusCode::CONFLICT, "other content is known under this name"));
        }
    };
    Ok(json_answer(status, &json!({ "state": state, "want_body": want_body })))
}

async fn lookup(service: &Service, caller: &Caller, body: &Value) -> Result<Response<Body>, Refusal> {
    let wrong = |what| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    let grid = body.get("grid").and_then(Value::as_str).filter(|grid| is_grid(grid));
    let grid = GridId::new(grid.ok_or(wrong("grid is missing or no grid's name"))?);
    let list = body.get("assets").and_then(Value::as_array).ok_or(wrong("assets is not a list"))?;
    if list.len() > MAX_LOOKUP {
        return Err(wrong("at most 256 assets in one lookup"));
    }
    let mut assets = Vec::with_capacity(list.len());
    for entry in list {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = key(grid.as_str(), text("kind"), text("id"))
            .map_err(|_| wrong("each asset needs a kind and an id"))?;
        assets.push((key.kind, key.id));
    }
    let call = Call::Lookup { grid, origin: json_origin(body)?, assets };
    let Answer { reply, .. } = service.perform(caller, &call).await;
    let (Reply::Sizes(sizes), Call::Lookup { assets, .. }) = (&reply, &call) else {
        return Err(refusal_of(&reply));
    };
    let rows: Vec<Value> = assets
        .iter()
        .zip(sizes)
        .map(|((kind, id), size)| match size {
            None => json!({ "kind": kind, "id": id.0, "hit": false }),
            Some((size, digest)) => {
                json!({ "kind": kind, "id": id.0, "hit": true, "size": size, "digest": DigestText(*digest).to_string() })
            }
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &json!({ "assets": rows })))
}

async fn take_down(
    service: &Service,
    caller: &Caller,
    victim: Victim,
    parts: &request::Parts,
) -> Result<Response<Body>, Refusal> {
    let dry_run = dry_run(parts.uri.query().unwrap_or_default())?;
    let names = service.take_down(caller, victim, dry_run).await?;
    Ok(json_answer(StatusCode::OK, &json!({ "assets": names, "dry_run": dry_run })))
}

/// A take-down cannot be taken back: whatever is not clearly said is refused.
fn dry_run(query: &str) -> Result<bool, Refusal> {
    match query {
        "" | "dry_run=false" | "dry_run=0" => Ok(false),
        "dry_run" | "dry_run=true" | "dry_run=1" => Ok(true),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "only dry_run=true or dry_run=false is understood here",
        )),
    }
}

async fn whole_json(mut body: Incoming) -> Result<Value, Refusal> {
    let mut whole = BytesMut::new();
    let broken = || Refusal::new(StatusCode::BAD_REQUEST, "the body is not JSON, or came too slowly");
    // All of it in this time: who sends a byte now and then holds a request open as well.
    let until = tokio::time::Instant::now() + JSON_PATIENCE;
    loop {
        let frame = tokio::time::timeout_at(until, body.frame()).await.map_err(|_| broken())?;
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(|_| broken())?.into_data() {
            if whole.len() + data.len() > MAX_JSON_BYTES {
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"));
            }
            whole.extend_from_slice(&data);
        }
    }
    serde_json::from_slice(&whole).map_err(|_| broken())
}

/// The same refusal that the QUIC face sends as a frame.
fn refusal_of(reply: &Reply) -> Refusal {
    match reply {
        Reply::Busy { retry_after_ms } => {
            Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "not now", retry_after_ms.div_ceil(1000))
        }
        Reply::Refused { status, retry_after_s, reason } => Refusal {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            reason: reason.clone().into(),
            retry_after_s: *retry_after_s,
        },
        _ => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the node contradicts itself"),
    }
}

fn problem(refusal: &Refusal) -> Response<Body> {
    let title = refusal.status.canonical_reason().unwrap_or("error");
    let body = json!({
        "type": "about:blank", "title": title, "status": refusal.status.as_u16(), "detail": refusal.reason,
    });
    let mut response = json_answer(refusal.status, &body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if refusal.retry_after_s > 0 {
        headers.insert(RETRY_AFTER, HeaderValue::from(refusal.retry_after_s));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        headers.insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = made(status, body.to_string().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn word(status: StatusCode, text: &'static str) -> Response<Body> {
    made(status, Bytes::from_static(text.as_bytes()))
}

fn made(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
