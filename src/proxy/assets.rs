//! Asset requests over HTTP: answered from this machine, or streamed from the grid while being learnt.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE,
    RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::fetcher::{self, AssetHead, Failure, Head, Place, Seat};
use super::grid_port::{AssetRoute, GridPort, Sharing};
use super::learn::{self, Heard, Target};
use super::stitched::StitchedBody;
use super::underway::Underway;
use super::upstream::{Body, UpstreamError, empty};
use super::{headers, replies, reverse};
use crate::asset::policy::{self, AssetQuery};
use crate::asset::range::{ByteRange, ContentRange, RangeAnswer, RangeRequest};
use crate::asset::{Asset, AssetKey, AssetKind, AssetSource};
use crate::cache::{Lookup, PartialAsset, Scope};
use crate::fetch::{self, Span, Stitch};
use crate::wire::WHOLE_BYTES;

/// Who answered: `hit; tier=memory`, `hit; tier=disk`, `hit; tier=service` or `miss`.
const REZCACHE: HeaderName = HeaderName::from_static("rezcache");
/// Marks a miss that shared another request's fetch.
const REZCACHE_JOINED: HeaderName = HeaderName::from_static("rezcache-joined");
/// Seconds. Viewers retry five times within some 31 s and then give the texture up for the session; a value
/// below 30 replaces their back-off and stretches that to two and a half minutes.
/// Source: Second Life viewer, indra/llcorehttp/_httppolicy.cpp (retryOp).
const RETRY_SECONDS: &str = "29";

/// What a request asks for, when it is one that may be answered from here.
struct Want {
    target: Target,
    range: RangeRequest,
    head_only: bool,
}

impl Want {
    fn read(
        grid: &GridPort,
        route: &AssetRoute,
        parts: &request::Parts,
        bodyless: bool,
        suffix: &str,
    ) -> Option<Self> {
        let head_only = match parts.method {
            Method::GET => false,
            Method::HEAD => true,
            _ => return None,
        };
        if route.identity.sharing == Sharing::Off
            || parts.headers.contains_key(http::header::IF_RANGE)
            || !bodyless
        {
            return None;
        }
        let (_, query) = suffix.split_once('?')?;
        let AssetQuery { kind, id, .. } = AssetQuery::parse(query)?;
        if !policy::accepts(kind, parts.headers.get(ACCEPT).map(HeaderValue::as_bytes)) {
            return None;
        }
        let mut ranges = parts.headers.get_all(RANGE).iter();
        let range = match (ranges.next(), ranges.next()) {
            (Some(_), Some(_)) => RangeRequest::Unusable,
            (only, _) => RangeRequest::parse(only.map(HeaderValue::as_bytes)),
        };
        let key = AssetKey { grid: route.identity.id.clone(), kind, id };
        let scope = Scope { origin: route.origin.clone(), central: grid.config.central };
        let shared = route.identity.sharing == Sharing::Share;
        let target = Target { key, scope, shared, beginning_held: false, by_login: route.by_login };
        Some(Self { target, range, head_only })
    }
}

/// Answers one request to an asset capability. `suffix` is what the viewer appended to its URL.
pub(super) async fn answer(
    grid: &Arc<GridPort>,
    route: AssetRoute,
    request: Request<Incoming>,
    suffix: &str,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bodyless = hyper::body::Body::is_end_stream(&body);
    let Some(mut want) = Want::read(grid, &route, &parts, bodyless, suffix) else {
        return unkept(grid, route, Request::from_parts(parts, body)).await;
    };
    let underway = Underway::begin(grid, &route, &want.target, !want.head_only);
    let cache = &grid.shared.cache;
    if let Some(asset) = cache.get_memory(&want.target.key, &want.target.scope) {
        return hit(&want, &asset, AssetSource::Memory, underway);
    }
    let held = match cache.get(&want.target.key, &want.target.scope).await {
        Lookup::Hit { asset, source } => return hit(&want, &asset, source, underway),
        Lookup::Partial(partial) => match complete(&partial) {
            // All its parts came, one by one; now it is judged as a whole.
            Some(whole) => match learn::keep(grid, &want.target, whole, Heard::Earlier) {
                Some(asset) => return hit(&want, &asset, AssetSource::Memory, underway),
                None => None,
            },
            None => Some(partial),
        },
        Lookup::Miss | Lookup::Busy => None,
    };
    if want.head_only {
        return unkept(grid, route, Request::from_parts(parts, body)).await;
    }
    let parts = headers::toward_grid(parts, route.uri.clone());
    want.target.beginning_held =
        held.as_ref().is_some_and(|held| matches!(held.extents.first(), Some((0, _))));
    let mut plain = Miss { grid, route: &route, parts, want, underway: Some(underway) };
    headers::without_body(&mut plain.parts.headers);
    headers::forbid_compression(&mut plain.parts.headers);
    plain.answer(held).await
}

/// The whole asset, when its parts leave nothing out.
fn complete(partial: &PartialAsset) -> Option<Bytes> {
    match partial.extents.as_slice() {
        [(0, whole)] if whole.len() as u64 == partial.total => Some(whole.clone()),
        _ => None,
    }
}

/// Requests that are no one's but the grid's: odd ids, kinds that are not public, other methods.
async fn unkept(grid: &Arc<GridPort>, route: AssetRoute, request: Request<Incoming>) -> Response<Body> {
    match reverse::forward(grid, route.uri.clone(), request).await {
        Ok(mut response) => {
            response.headers_mut().insert(REZCACHE, HeaderValue::from_static("miss"));
            response
        }
        Err(UpstreamError::Refused | UpstreamError::Untrusted) => {
            replies::go_yourself(&route.uri.to_string())
        }
        Err(_) => unreachable(),
    }
}

fn unreachable() -> Response<Body> {
    let mut response = replies::plain(StatusCode::SERVICE_UNAVAILABLE, "the grid cannot be reached");
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    response.headers_mut().insert(REZCACHE, HeaderValue::from_static("miss"));
    response
}

const fn tier(source: AssetSource) -> &'static str {
    match source {
        AssetSource::Memory => "hit; tier=memory",
        AssetSource::Disk => "hit; tier=disk",
        AssetSource::Service => "hit; tier=service",
        AssetSource::Grid | AssetSource::Joined => "miss",
    }
}

fn hit(want: &Want, asset: &Asset, source: AssetSource, underway: Underway) -> Response<Body> {
    let total = asset.bytes.len() as u64;
    let (part, bytes) = match want.range.answer(total) {
        RangeAnswer::Whole => (None, asset.bytes.clone()),
        RangeAnswer::Part(part) => {
            let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(asset.bytes.len());
            (Some(part), asset.bytes.slice(index(part.start)..index(part.end)))
        }
    };
    let length = bytes.len() as u64;
    let mut response = slice_head(want.target.key.kind, part, length, Some(total), source);
    if want.head_only {
        return response;
    }
    underway.served(want.target.key.kind, source, length);
    *response.body_mut() = super::upstream::full(bytes);
    response
}

/// The head of an answer made here.
fn slice_head(
    kind: AssetKind,
    part: Option<ByteRange>,
    length: u64,
    total: Option<u64>,
    source: AssetSource,
) -> Response<Body> {
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind.content_type()));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(REZCACHE, HeaderValue::from_static(tier(source)));
    let range = part.zip(total).and_then(|(part, total)| ContentRange::of(part, total));
    if let Some(value) = range.and_then(|range| HeaderValue::from_str(&range.to_string()).ok()) {
        headers.insert(CONTENT_RANGE, value);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// A request that the grid has to answer, wholly or in part.
struct Miss<'a> {
    grid: &'a Arc<GridPort>,
    route: &'a AssetRoute,
    parts: request::Parts,
    want: Want,
    underway: Option<Underway>,
}

impl Miss<'_> {
    async fn answer(&mut self, held: Option<PartialAsset>) -> Response<Body> {
        if let Some(partial) = held
            && let Some(stitch) = fetch::stitch(self.want.range, partial.total, &partial.extents)
            && let Some(response) = self.stitched(stitch, partial.total).await
        {
            return response;
        }
        let parts = self.parts.clone();
        let request = move || Request::from_parts(parts.clone(), empty());
        let span = Span::of(self.want.range);
        if let Some(span) = span {
            match fetcher::join_or_start(self.grid, &self.want.target, span, request.clone()) {
                Place::Started(seat) => return self.led(seat).await,
                Place::Joined(seat) => {
                    if let Some(response) = self.joined(seat).await {
                        return response;
                    }
                }
                Place::Kept(asset) => {
                    if let Some(underway) = self.underway.take() {
                        return hit(&self.want, &asset, AssetSource::Memory, underway);
                    }
                }
            }
        }
        // An odd range serves nobody else: the span that covers nothing is never joined. The service is
        // asked for the whole, which on a hit is the answer to such a range.
        let asked = if span.is_some() { span } else { Some(Span::WHOLE) };
        let span = span.unwrap_or(Span { start: 0, end: Some(0) });
        let seat = fetcher::start(self.grid, &self.want.target, span, asked, request);
        self.led(seat).await
    }

    /// The grid's answer, without asking anybody else.
    async fn ask_grid(&mut self) -> Response<Body> {
        let parts = self.parts.clone();
        let request = move || Request::from_parts(parts.clone(), empty());
        let span = Span::of(self.want.range).unwrap_or(Span { start: 0, end: Some(0) });
        let seat = fetcher::start(self.grid, &self.want.target, span, None, request);
        self.led(seat).await
    }

    /// The grid's answer as it came.
    async fn led(&mut self, mut seat: Seat) -> Response<Body> {
        let answer = seat.head().await;
        match &answer {
            Head::Asset(head) if head.source == AssetSource::Service => {
                match self.slice_of(seat, head, AssetSource::Service) {
                    Some(response) => response,
                    // A range that the service does not understand as the grid would.
                    None => Box::pin(self.ask_grid()).await,
                }
            }
            Head::Asset(head) => {
                let mut parts = head.parts.clone();
                parts.headers.insert(REZCACHE, HeaderValue::from_static("miss"));
                let length = head.length;
                Response::from_parts(parts, self.body(Stitched::only(seat, 0, length), AssetSource::Grid))
            }
            Head::Unshared(_) => match answer.take_unshared() {
                Some(mut response) => {
                    response.headers_mut().insert(REZCACHE, HeaderValue::from_static("miss"));
                    response
                }
                None => unreachable(),
            },
            Head::Failed(Failure::Refused) => replies::go_yourself(&self.route.uri.to_string()),
            Head::Failed(Failure::Unreachable) => unreachable(),
        }
    }

    /// An answer out of a fetch that another request started; `None` when it turns out not to serve.
    async fn joined(&mut self, mut seat: Seat) -> Option<Response<Body>> {
        let Head::Asset(head) = seat.head().await else { return None };
        let mut response = self.slice_of(seat, &head, AssetSource::Joined)?;
        response.headers_mut().insert(REZCACHE_JOINED, HeaderValue::from_static("1"));
        Some(response)
    }

    /// This request's own slice of a fetch, when the fetch carries all of it.
    fn slice_of(&mut self, seat: Seat, head: &AssetHead, source: AssetSource) -> Option<Response<Body>> {
        let total = head.total?;
        let (part, range) = match self.want.range.answer(total) {
            RangeAnswer::Part(part) => (Some(part), part),
            RangeAnswer::Whole => (None, ByteRange { start: 0, end: total }),
        };
        if range.start < head.first || range.end > head.first + head.length {
            return None;
        }
        let mut response = slice_head(self.want.target.key.kind, part, range.len(), Some(total), source);
        if let Some(kind) = head.parts.headers.get(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, kind.clone());
        }
        let body = Stitched::only(seat, range.start - head.first, range.len());
        *response.body_mut() = self.body(body, source);
        Some(response)
    }

    /// An answer out of held parts and what is missing between them. `None` when the grid's word on
    /// the asset has changed; the held parts are then dropped and the request goes out as it came.
    async fn stitched(&mut self, stitch: Stitch, total: u64) -> Option<Response<Body>> {
        let part = matches!(self.want.range.answer(total), RangeAnswer::Part(_)).then_some(stitch.answer);
        let (body, source) = match stitch.missing {
            None => (
                Stitched { before: stitch.before.into(), fetched: None, after: VecDeque::new() },
                AssetSource::Memory,
            ),
            Some(missing) => {
                let mut seat = self.fetch_missing(missing, total);
                let Head::Asset(head) = seat.head().await else { return None };
                if head.source == AssetSource::Service {
                    // The service's content is one, and what is held here may be of another.
                    return self.slice_of(seat, &head, AssetSource::Service);
                }
                if head.total != Some(total) {
                    self.grid.shared.cache.drop_partial(&self.want.target.key, &self.want.target.scope);
                }
                let carries = head.first <= missing.start && missing.end <= head.first + head.length;
                if head.total != Some(total) || !carries {
                    return self.slice_of(seat, &head, AssetSource::Grid);
                }
                let fetched = Some((seat, missing.start - head.first, missing.len()));
                (
                    Stitched { before: stitch.before.into(), fetched, after: stitch.after.into() },
                    AssetSource::Grid,
                )
            }
        };
        let mut response =
            slice_head(self.want.target.key.kind, part, stitch.answer.len(), Some(total), source);
        *response.body_mut() = self.body(body, source);
        Some(response)
    }

    fn fetch_missing(&self, missing: ByteRange, total: u64) -> Seat {
        let span = Span { start: missing.start, end: Some(missing.end) };
        if let Some(seat) = fetcher::join(self.grid, &self.want.target, span) {
            return seat;
        }
        let mut parts = self.parts.clone();
        if let Ok(value) = HeaderValue::from_str(&format!("bytes={}-{}", missing.start, missing.end - 1)) {
            parts.headers.insert(RANGE, value);
        }
        // The service gives small assets whole; of a larger one it would give other groups than those
        // that the held parts leave out.
        let asked = (total <= WHOLE_BYTES).then_some(span);
        fetcher::start(self.grid, &self.want.target, span, asked, move || {
            Request::from_parts(parts.clone(), empty())
        })
    }

    fn body(&mut self, stitched: Stitched, source: AssetSource) -> Body {
        let (kind, underway) = (self.want.target.key.kind, self.underway.take());
        let on_end = move |sent| {
            if let Some(underway) = underway {
                underway.served(kind, source, sent);
            }
        };
        StitchedBody {
            before: stitched.before,
            fetched: stitched.fetched.map(|(seat, skip, length)| seat.read(skip, length)),
            after: stitched.after,
            on_end: Some(Box::new(on_end)),
            sent: 0,
        }
        .boxed_unsync()
    }
}

/// The pieces of a body: held, fetched (skip, length), held.
struct Stitched {
    before: VecDeque<Bytes>,
    fetched: Option<(Seat, u64, u64)>,
    after: VecDeque<Bytes>,
}

impl Stitched {
    const fn only(seat: Seat, skip: u64, length: u64) -> Self {
        Self { before: VecDeque::new(), fetched: Some((seat, skip, length)), after: VecDeque::new() }
    }
}
