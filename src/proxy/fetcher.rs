//! Fetches in flight: one request to the grid, read as fast as the grid sends, by any number of viewers.
//!
//! The reader of the grid's connection is a task of its own that fills a buffer; viewers read the
//! buffer at their own pace. So no viewer's back-pressure slows another, and a fetch outlives its
//! first viewer while anyone waits for it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use http::{Request, Response, StatusCode, response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use super::grid_port::GridPort;
use super::headers;
use super::learn::{self, Target};
use super::service::{self, Alone, Opened, ServiceTier, Sink};
use super::upstream::{Body, BodyError, SILENCE_LIMIT, UpstreamError};
use crate::asset::range::ContentRange;
use crate::asset::{Asset, AssetKey, AssetSource};
use crate::fetch::Span;
use crate::support::metrics::Counter;

/// How long the service is waited for when the grid cannot be reached at all.
const SERVICE_ALONE: Duration = Duration::from_secs(10);
/// What all buffers of one grid's fetches may hold; past it bodies stream through unkept.
const BUFFER_BUDGET_KIB: usize = 256 << 10;
/// A fetch that the grid has left without a byte for this long is not joined: asking again may be sooner.
const JOIN_PATIENCE: Duration = Duration::from_secs(2);
/// Checking more than this takes long enough to leave the async threads.
const CHECK_ASIDE_BYTES: usize = 512 << 10;

/// The fetches of one grid.
pub(super) struct Inflight {
    fetches: DashMap<(AssetKey, String), Vec<Arc<Fetch>>>,
    budget: Arc<Semaphore>,
}

impl Default for Inflight {
    fn default() -> Self {
        Self { fetches: DashMap::new(), budget: Arc::new(Semaphore::new(BUFFER_BUDGET_KIB)) }
    }
}

/// One request to the grid.
pub(super) struct Fetch {
    span: Span,
    /// What the service is asked for; `None`: it is not asked.
    asked: Option<Span>,
    state: Mutex<State>,
    deserted: Notify,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    chunks: Vec<Bytes>,
    received: u64,
    end: Option<End>,
    waiting: Vec<Waker>,
    readers: usize,
    /// Given up for want of readers: nobody may join any more.
    closed: bool,
    /// When the grid last sent something.
    heard: Option<Instant>,
    /// The buffer's share of the budget, for as long as anyone reads it.
    budget: Option<OwnedSemaphorePermit>,
}

/// How the grid answered.
#[derive(Clone)]
pub(super) enum Head {
    /// With bytes of the asset, which are being read.
    Asset(Arc<AssetHead>),
    /// With something that is not shared; the leader takes it with [`Head::take_unshared`].
    Unshared(Arc<Mutex<Option<Response<Body>>>>),
    /// Not at all.
    Failed(Failure),
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The grid may not lead us there.
    Refused,
    /// The grid is not to be reached.
    Unreachable,
}

/// The head of a reply that carries the asset or a slice of it.
pub(super) struct AssetHead {
    pub(super) parts: response::Parts,
    /// Where in the asset the body begins.
    pub(super) first: u64,
    /// How long the body is.
    pub(super) length: u64,
    /// How long the asset is.
    pub(super) total: Option<u64>,
    /// The grid, or the service.
    pub(super) source: AssetSource,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// What reads the grid's connection.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A place among a fetch's readers; the fetch ends when the last one is gone.
pub(super) struct Seat {
    fetch: Arc<Fetch>,
    /// Until the grid answers, whoever asked first drives the fetch in its own task: the first byte
    /// then takes no way round by another. Afterwards the driver has a task of its own.
    driver: Option<Driver>,
}

impl Seat {
    /// `None` when the fetch has been given up.
    fn take(fetch: &Arc<Fetch>) -> Option<Self> {
        let mut state = fetch.state();
        if state.closed {
            return None;
        }
        state.readers += 1;
        drop(state);
        Some(Self { fetch: Arc::clone(fetch), driver: None })
    }

    /// Waits for the grid's answer.
    pub(super) async fn head(&mut self) -> Head {
        std::future::poll_fn(|cx| {
            if let Some(driver) = &mut self.driver
                && driver.as_mut().poll(cx).is_ready()
            {
                self.driver = None;
            }
            let mut state = self.fetch.state();
            let Some(head) = state.head.clone() else {
                state.wait(cx);
                return Poll::Pending;
            };
            drop(state);
            self.hand_over();
            Poll::Ready(head)
        })
        .await
    }

    /// Gives the driver a task of its own.
    fn hand_over(&mut self) {
        if let Some(driver) = self.driver.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(driver);
        }
    }

    /// Reads `length` bytes of the body, from `skip` on.
    pub(super) fn read(self, skip: u64, length: u64) -> Reader {
        Reader { seat: self, chunk: 0, skip, remaining: length }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.fetch.state();
        state.readers = state.readers.saturating_sub(1);
        if state.readers == 0 {
            self.fetch.deserted.notify_one();
        }
        drop(state);
        // Others may wait for what this one drove.
        self.hand_over();
    }
}

impl Fetch {
    /// A fetch with the first seat in it.
    fn new(span: Span, asked: Option<Span>) -> (Arc<Self>, Seat) {
        let state = Mutex::new(State { readers: 1, heard: Some(Instant::now()), ..State::default() });
        let fetch = Arc::new(Self { span, asked, state, deserted: Notify::new() });
        (Arc::clone(&fetch), Seat { fetch, driver: None })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.state();
            change(&mut state);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until nobody reads any more, and closes the fetch to newcomers.
    async fn deserted(&self) {
        loop {
            self.deserted.notified().await;
            let mut state = self.state();
            if state.readers == 0 {
                state.closed = true;
                return;
            }
        }
    }

    /// Whether a request for `wanted` is well served by waiting for this fetch.
    fn serves(&self, wanted: Span) -> bool {
        let state = self.state();
        let silent = state.heard.is_some_and(|heard| heard.elapsed() > JOIN_PATIENCE);
        if state.end == Some(End::Broken) || (silent && state.end.is_none()) {
            return false;
        }
        match &state.head {
            None => self.span.serves(self.span.start, wanted),
            Some(Head::Asset(head)) => {
                head.first <= wanted.start && self.span.serves(head.first + state.received, wanted)
            }
            Some(_) => false,
        }
    }
}

impl State {
    fn wait(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }
}

/// Streams part of a fetch's body.
pub(super) struct Reader {
    seat: Seat,
    chunk: usize,
    skip: u64,
    remaining: u64,
}

impl Reader {
    pub(super) fn poll_bytes(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        let mut state = self.seat.fetch.state();
        while let Some(chunk) = state.chunks.get(self.chunk) {
            self.chunk += 1;
            let length = chunk.len() as u64;
            if self.skip >= length {
                self.skip -= length;
                continue;
            }
            let take = self.remaining.min(length - self.skip);
            // Both lie within one chunk in memory.
            let start = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(take).unwrap_or(usize::MAX));
            let bytes = chunk.slice(start..end);
            self.skip = 0;
            self.remaining -= take;
            return Poll::Ready(Some(Ok(bytes)));
        }
        match state.end {
            // The viewer must see the break: a body made to fit would be taken for the whole asset.
            Some(_) => Poll::Ready(Some(Err("the grid's reply broke off".into()))),
            None => {
                state.wait(cx);
                Poll::Pending
            }
        }
    }
}

/// A seat in a fetch in flight that serves `wanted`, if there is one.
pub(super) fn join(grid: &GridPort, target: &Target, wanted: Span) -> Option<Seat> {
    let fetches = grid.fetches.fetches.get(&target.table_key())?;
    fetches.iter().filter(|fetch| fetch.serves(wanted)).find_map(Seat::take)
}

/// Where a request finds what it wants.
pub(super) enum Place {
    /// In a fetch in flight.
    Joined(Seat),
    /// In memory, where a fetch that has just ended put it.
    Kept(Asset),
    /// In a fetch started for it.
    Started(Seat),
}

/// Joins a fetch in flight that serves `span`, or starts one with a request made by `request`.
/// Decided under one lock: whoever asks at the same moment shares one fetch.
pub(super) fn join_or_start(
    grid: &Arc<GridPort>,
    target: &Target,
    span: Span,
    request: impl Fn() -> Request<Body> + Send + Sync + 'static,
) -> Place {
    let key = target.table_key();
    let mut fetches = grid.fetches.fetches.entry(key.clone()).or_default();
    if let Some(seat) = fetches.iter().filter(|fetch| fetch.serves(span)).find_map(Seat::take) {
        return Place::Joined(seat);
    }
    // A fetch leaves the table only after what it brought is kept.
    if let Some(asset) = grid.shared.cache.get_memory(&target.key, &target.scope) {
        drop(fetches);
        grid.fetches.fetches.remove_if(&key, |_, fetches| fetches.is_empty());
        return Place::Kept(asset);
    }
    let (fetch, mut seat) = Fetch::new(span, Some(span));
    fetches.push(Arc::clone(&fetch));
    drop(fetches);
    seat.driver = Some(driver(grid, target, fetch, request));
    Place::Started(seat)
}

/// Starts a fetch of `span` with a request made by `request`, and takes the first seat in it. The service
/// is asked for `asked` first.
pub(super) fn start(
    grid: &Arc<GridPort>,
    target: &Target,
    span: Span,
    asked: Option<Span>,
    request: impl Fn() -> Request<Body> + Send + Sync + 'static,
) -> Seat {
    let (fetch, mut seat) = Fetch::new(span, asked);
    grid.fetches.fetches.entry(target.table_key()).or_default().push(Arc::clone(&fetch));
    seat.driver = Some(driver(grid, target, fetch, request));
    seat
}

fn driver(
    grid: &Arc<GridPort>,
    target: &Target,
    fetch: Arc<Fetch>,
    request: impl Fn() -> Request<Body> + Send + Sync + 'static,
) -> Driver {
    let alive = grid.shared.alive();
    let running = Running { grid: Arc::clone(grid), target: target.clone(), fetch, _alive: alive };
    Box::pin(async move {
        let Running { grid, target, fetch, .. } = &running;
        tokio::select! {
            biased;
            () = run(grid, target, fetch, request) => {}
            () = fetch.deserted() => keep_what_came(grid, target, fetch),
        }
    })
}

/// A fetch's task. However it ends, nobody is left waiting and nobody joins.
struct Running {
    grid: Arc<GridPort>,
    target: Target,
    fetch: Arc<Fetch>,
    /// The proxy ends only when what was fetched is kept.
    _alive: Option<mpsc::Sender<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.grid.fetches.remove(&self.target.table_key(), &self.fetch);
        self.fetch.update(|state| {
            state.head.get_or_insert(Head::Failed(Failure::Unreachable));
            state.end.get_or_insert(End::Broken);
        });
    }
}

impl Inflight {
    /// The share of the budget that a body of this length takes; `None` when it is not to be had.
    pub(super) fn budget_for(&self, target: &Target, length: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(length.div_ceil(1024).max(1)).ok()?;
        (length <= target.key.kind.max_bytes())
            .then(|| Arc::clone(&self.budget).try_acquire_many_owned(kib).ok())?
    }

    fn remove(&self, key: &(AssetKey, String), fetch: &Arc<Fetch>) {
        if let Some(mut fetches) = self.fetches.get_mut(key) {
            fetches.retain(|other| !Arc::ptr_eq(other, fetch));
        }
        self.fetches.remove_if(key, |_, fetches| fetches.is_empty());
    }
}

async fn run(
    grid: &Arc<GridPort>,
    target: &Target,
    fetch: &Fetch,
    request: impl Fn() -> Request<Body> + Send + Sync,
) {
    let response = match first_answer(grid, target, fetch, &request).await {
        First::Grid(Ok(response)) => response,
        First::Grid(Err(failure)) => {
            return fetch.update(|state| state.head = Some(Head::Failed(failure)));
        }
        First::Service(tier, opened) => {
            return serve(&tier, grid, target, fetch, opened, &request).await;
        }
    };
    let answered = Instant::now();
    let (parts, body) = response.into_parts();
    let framed = framing(&parts, fetch.span);
    let budget = framed.as_ref().and_then(|(_, length, _)| grid.fetches.budget_for(target, *length));
    let (Some((first, length, total)), Some(budget)) = (framed, budget) else {
        let unshared =
            Response::from_parts(headers::toward_viewer(parts), body.map_err(Into::into).boxed_unsync());
        let unshared = Arc::new(Mutex::new(Some(unshared)));
        return fetch.update(|state| state.head = Some(Head::Unshared(unshared)));
    };
    let head =
        AssetHead { parts: headers::toward_viewer(parts), first, length, total, source: AssetSource::Grid };
    fetch.update(|state| {
        state.head = Some(Head::Asset(Arc::new(head)));
        state.heard = Some(Instant::now());
        state.budget = Some(budget);
    });
    let end = receive(grid, fetch, body, length).await;
    // Kept before it is announced as whole: whoever asks next finds it in one place or the other.
    if end == End::Whole {
        grid.note_body(length, answered.elapsed());
        finish(grid, target, fetch, first, total).await;
    } else {
        grid.shared.metrics.count(Counter::UpstreamTruncated);
    }
    fetch.update(|state| state.end = Some(end));
}

/// Who answered first.
enum First {
    Grid(Result<Response<Incoming>, Failure>),
    Service(Arc<ServiceTier>, Box<Opened>),
}

/// The first valid answer: the service's, when it is asked and comes in time, or the grid's.
async fn first_answer(
    grid: &Arc<GridPort>,
    target: &Target,
    fetch: &Fetch,
    request: &(impl Fn() -> Request<Body> + Send + Sync),
) -> First {
    let tier = grid.shared.service.tier();
    let attempt =
        fetch.asked.zip(tier).and_then(|(span, tier)| Some((tier.attempt(grid, target, span)?, tier)));
    let Some((mut attempt, tier)) = attempt else { return First::Grid(ask_grid(grid, request).await) };
    match attempt.alone().await {
        Alone::Found(opened) => First::Service(tier, opened),
        Alone::Nothing => First::Grid(ask_grid(grid, request).await),
        Alone::Late => {
            let mut reply = std::pin::pin!(ask_grid(grid, request));
            tokio::select! {
                biased;
                reply = &mut reply => {
                    // The grid is away, or has only an error to tell: the service may be the one who has it.
                    let patience = match &reply {
                        Ok(response) if response.status().is_success() => return First::Grid(reply),
                        Ok(_) => attempt.deadline(),
                        Err(_) => SERVICE_ALONE,
                    };
                    let found = tokio::time::timeout(patience, attempt.found()).await.ok().flatten();
                    found.map_or(First::Grid(reply), |opened| First::Service(tier, opened))
                },
                found = attempt.found() => match found {
                    Some(opened) => First::Service(tier, opened),
                    None => First::Grid(reply.await),
                },
            }
        }
    }
}

async fn ask_grid(
    grid: &GridPort,
    request: &(impl Fn() -> Request<Body> + Send + Sync),
) -> Result<Response<Incoming>, Failure> {
    let asked = Instant::now();
    match tokio::time::timeout(SILENCE_LIMIT, grid.upstream.send_idempotent(request)).await {
        Ok(Ok(response)) => {
            grid.shared.chronicle.grid_answered(true);
            if response.status().is_success() {
                grid.note_first_byte(asked.elapsed());
            }
            Ok(response)
        }
        Ok(Err(UpstreamError::Refused | UpstreamError::Untrusted)) => Err(Failure::Refused),
        Ok(Err(_)) | Err(_) => {
            grid.shared.metrics.count(Counter::UpstreamFailures);
            grid.shared.chronicle.grid_answered(false);
            Err(Failure::Unreachable)
        }
    }
}

impl Sink for Fetch {
    fn push(&self, bytes: Bytes) {
        self.update(|state| {
            state.received += bytes.len() as u64;
            state.heard = Some(Instant::now());
            state.chunks.push(bytes);
        });
    }
}

/// Streams the service's answer.
async fn serve(
    tier: &Arc<ServiceTier>,
    grid: &Arc<GridPort>,
    target: &Target,
    fetch: &Fetch,
    mut opened: Box<Opened>,
    request: &(impl Fn() -> Request<Body> + Send + Sync),
) {
    let head = service::head(target.key.kind, &opened);
    let budget = opened.budget.take();
    fetch.update(|state| {
        state.head = Some(Head::Asset(Arc::new(head)));
        state.heard = Some(Instant::now());
        state.budget = budget;
    });
    let whole = tier.stream(grid, target, opened, request, fetch).await;
    fetch.update(|state| state.end = Some(if whole { End::Whole } else { End::Broken }));
}

/// Where the body lies in the asset: first byte, length, total. `None` for replies that carry no
/// asset bytes, or carry them in a way that cannot be placed.
fn framing(parts: &response::Parts, span: Span) -> Option<(u64, u64, Option<u64>)> {
    if !headers::is_identity(&parts.headers) {
        return None;
    }
    let header = |name| parts.headers.get(name).map(http::HeaderValue::as_bytes);
    let length: u64 = std::str::from_utf8(header(http::header::CONTENT_LENGTH)?).ok()?.trim().parse().ok()?;
    match parts.status {
        StatusCode::OK => Some((0, length, Some(length))),
        StatusCode::PARTIAL_CONTENT => match header(http::header::CONTENT_RANGE) {
            None => Some((span.start, length, None)),
            Some(value) => {
                let range = ContentRange::parse(value)?;
                // A head that contradicts itself is the viewer's to judge; nothing is learnt from it.
                (range.last - range.first + 1 == length).then_some((range.first, length, range.total))
            }
        },
        _ => None,
    }
}

async fn receive(grid: &GridPort, fetch: &Fetch, mut body: Incoming, length: u64) -> End {
    let mut received = 0u64;
    loop {
        match tokio::time::timeout(SILENCE_LIMIT, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    received += bytes.len() as u64;
                    grid.shared.metrics.add(Counter::BytesFromGrid, bytes.len() as u64);
                    fetch.update(|state| {
                        state.received = received;
                        state.heard = Some(Instant::now());
                        state.chunks.push(bytes);
                    });
                    // The viewer needs no more than this; the last frame need not be waited for.
                    if received >= length {
                        return if received == length { End::Whole } else { End::Broken };
                    }
                }
            }
            Ok(None) if received == length => return End::Whole,
            Ok(None | Some(Err(_))) | Err(_) => return End::Broken,
        }
    }
}

fn gathered(fetch: &Fetch) -> Bytes {
    let state = fetch.state();
    match state.chunks.as_slice() {
        [only] => only.clone(),
        chunks => {
            let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
            chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            whole.freeze()
        }
    }
}

async fn finish(grid: &Arc<GridPort>, target: &Target, fetch: &Fetch, first: u64, total: Option<u64>) {
    let bytes = gathered(fetch);
    if bytes.len() > CHECK_ASIDE_BYTES {
        let (grid, target) = (Arc::clone(grid), target.clone());
        let _ = tokio::task::spawn_blocking(move || learn::learn(&grid, &target, first, total, bytes)).await;
    } else {
        learn::learn(grid, target, first, total, bytes);
    }
}

/// Keeps what a viewer who left had already been sent by the grid: its next visit needs only the rest.
/// Parts that came from the service would be taken for the grid's word, and told to the service as that.
fn keep_what_came(grid: &GridPort, target: &Target, fetch: &Fetch) {
    let head = fetch.state().head.clone();
    if let Some(Head::Asset(head)) = head
        && head.source == AssetSource::Grid
    {
        let bytes = gathered(fetch);
        if !bytes.is_empty() && Some(bytes.len() as u64) != head.total {
            learn::learn(grid, target, head.first, head.total, bytes);
        }
    }
}

impl Head {
    /// The reply that is not shared; only one taker gets it.
    pub(super) fn take_unshared(&self) -> Option<Response<Body>> {
        match self {
            Self::Unshared(slot) => slot.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        }
    }
}
