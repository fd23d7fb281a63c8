//! One read of the service, raced against the time the grid would take.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{ReadKey, ServiceTier};
use crate::asset::{policy, validate};
use crate::client::{FoundBody, Receipt, Way};
use crate::fetch::Span;
use crate::fetch::pace::Progress;
use crate::fetch::service_plan::ServicePlan;
use crate::proxy::grid_port::GridPort;
use crate::proxy::learn::Target;
use crate::support::metrics::Counter;
use crate::wire::frame::Found;
use crate::wire::{OriginHash, WHOLE_BYTES};

/// An answer whose first bytes are checked.
pub(in crate::proxy) struct Opened {
    pub(in crate::proxy) found: Found,
    /// All of a body up to 1 MiB, the first group of a larger one.
    pub(in crate::proxy) first: Bytes,
    pub(in crate::proxy) rest: FoundBody,
    /// When the grid is to go on with what is still missing.
    pub(in crate::proxy) progress: Progress,
    /// The body's share of what all bodies of a grid may hold.
    pub(in crate::proxy) budget: Option<OwnedSemaphorePermit>,
}

/// What came of waiting for the service alone.
pub(in crate::proxy) enum Alone {
    /// It answers.
    Found(Box<Opened>),
    /// It has nothing for us.
    Nothing,
    /// It takes too long: the grid is to start too.
    Late,
}

type Opening = Pin<Box<dyn Future<Output = Option<Box<Opened>>> + Send>>;

/// What is known of an answer before it is opened.
#[derive(Default)]
struct Watched {
    progress: Option<Progress>,
    receipt: Option<Arc<Mutex<Receipt>>>,
    /// How long the header took.
    header: Option<Duration>,
    /// The call has gone out; before, only our own queue was waited in.
    sent: bool,
    /// This attempt was counted as a miss.
    missed: bool,
}

/// A read in progress. Dropping it cancels it.
pub(in crate::proxy) struct Attempt {
    tier: Arc<ServiceTier>,
    opening: Opening,
    watched: Arc<Mutex<Watched>>,
    deadline: Duration,
    late: bool,
}

impl ServiceTier {
    /// Begins a read, when the plan says so.
    pub(in crate::proxy) fn attempt(
        self: &Arc<Self>,
        grid: &Arc<GridPort>,
        target: &Target,
        span: Span,
    ) -> Option<Attempt> {
        if !target.shared || !self.serves(grid, target) {
            return None;
        }
        let key = (target.key.clone(), OriginHash::of(&target.key.grid, &target.scope.origin));
        let deadline = self.advise(&key, grid.median())?;
        let watched = Arc::new(Mutex::new(Watched {
            progress: Some(Progress::new(Instant::now(), deadline)),
            ..Watched::default()
        }));
        // A node that takes longer than 95 of 100 answers is not waited for alone; with what remains of the deadline
        // another one can still be in time.
        let way = Way { central: target.scope.central, patience: deadline * 2 / 3 };
        let opening =
            Arc::clone(self).open(Arc::clone(grid), target.clone(), key, (way, span), Arc::clone(&watched));
        Some(Attempt { tier: Arc::clone(self), opening: Box::pin(opening), watched, deadline, late: false })
    }

    async fn open(
        self: Arc<Self>,
        grid: Arc<GridPort>,
        target: Target,
        key: ReadKey,
        (way, span): (Way, Span),
        watched: Arc<Mutex<Watched>>,
    ) -> Option<Box<Opened>> {
        let asked = Instant::now();
        let _place = match Arc::clone(&self.reads).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                if !self.is_there(&key, way.central).await {
                    self.absent(key, asked.elapsed());
                    return None;
                }
                Arc::clone(&self.reads).acquire_owned().await.ok()?
            }
        };
        let asked = Instant::now();
        lock(&watched).sent = true;
        let range = match span {
            Span { start: 0, end: None } => None,
            Span { start, end } => Some((start, end.unwrap_or(u64::MAX))),
        };
        let body = self.client().read_by(&way, &key.0, Some(key.1), range).await;
        let took = asked.elapsed();
        let mut body = match body {
            Ok(Some(body)) => body,
            Ok(None) => {
                self.absent(key, took);
                return None;
            }
            Err(error) => {
                self.failed(&error);
                if error.is_failure() {
                    self.count_miss(&watched);
                }
                return None;
            }
        };
        let found = *body.found();
        {
            let mut watched = lock(&watched);
            watched.header = Some(took);
            watched.receipt = Some(body.receipt());
            if let Some(progress) = &mut watched.progress {
                // What the viewer wants of it is what the grid would have to send.
                let wanted = span.end.map_or(found.length, |end| end.saturating_sub(span.start));
                progress.header(Instant::now(), found.length, grid.usual(wanted.min(found.length)));
            }
        }
        self.accepted();
        if found.verify {
            // Somebody says otherwise: the grid decides, and what it says is attested.
            self.metrics.count(Counter::ServiceVerify);
            self.update(|plan| {
                plan.answered(took);
                plan.delivered();
            });
            return None;
        }
        let wants_part = span != Span::WHOLE;
        if wants_part && !found.grouped && found.total > WHOLE_BYTES {
            // The other face gives large assets whole only. A part comes sooner from the grid; the next finds
            // all of it here.
            self.update(|plan| {
                plan.answered(took);
                plan.delivered();
            });
            self.backfill(&grid, &target);
            return None;
        }
        let budget = Some(grid.fetches.budget_for(&target, found.length)?);
        let first = match body.next().await {
            Ok(Some(first)) => first,
            other => {
                if let Err(error) = other {
                    self.failed(&error);
                }
                self.count_miss(&watched);
                return None;
            }
        };
        // What a node has checked may still be another kind of thing than what is asked for.
        let whole = found.first == 0 && first.len() as u64 == found.total;
        let valid = if whole {
            validate::validate(key.0.kind, &first).is_ok() && !policy::is_client_bake(&first)
        } else {
            found.first > 0 || policy::content_matches_kind(key.0.kind, &first)
        };
        if !valid {
            self.metrics.count(Counter::ServiceInvalid);
            self.absent(key, took);
            return None;
        }
        let progress = lock(&watched).progress.take()?;
        Some(Box::new(Opened { found, first, rest: body, progress, budget }))
    }

    /// One attempt is one miss at most, and none while it waited for its turn among our own. What one of several
    /// nodes has missed is that node's; what a second one could not go on with in time either is the service's.
    fn count_miss(&self, watched: &Mutex<Watched>) {
        let (news, moved) = {
            let mut watched = lock(watched);
            let news = watched.sent && !watched.missed;
            watched.missed |= news;
            let moved =
                |receipt: &Arc<Mutex<Receipt>>| receipt.lock().unwrap_or_else(PoisonError::into_inner).moved;
            (news, watched.receipt.as_ref().is_some_and(moved))
        };
        let client = self.client();
        if news && (moved || client.is_silent()) {
            self.update(|plan| plan.missed(Instant::now()));
        } else if news && !client.is_failing_over() {
            self.update(ServicePlan::hedged);
        }
    }

    fn absent(&self, key: ReadKey, took: Duration) {
        self.metrics.count(Counter::ServiceAbsent);
        self.accepted();
        self.update(|plan| {
            plan.absent(key, Instant::now());
            plan.answered(took);
            plan.delivered();
        });
    }

    /// The service broke off an answer it had begun. With `moved`, another node was asked to go on.
    pub(in crate::proxy) fn broke_off(&self, moved: bool) {
        self.metrics.count(Counter::ServiceFailures);
        if moved || self.client().is_silent() {
            self.update(|plan| plan.broke_off(Instant::now()));
        } else {
            self.update(ServicePlan::hedged);
        }
    }
}

impl Attempt {
    /// How long anybody waits for the service.
    pub(in crate::proxy) const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Waits for the service until the grid should start.
    pub(in crate::proxy) async fn alone(&mut self) -> Alone {
        loop {
            let Some(until) = self.grid_at() else { return Alone::Nothing };
            tokio::select! {
                biased;
                opened = &mut self.opening => {
                    return match opened {
                        Some(opened) => {
                            self.note_in_time();
                            Alone::Found(opened)
                        }
                        None => Alone::Nothing,
                    };
                }
                () = tokio::time::sleep_until(until.into()) => {
                    if self.grid_at().is_none_or(|at| at <= Instant::now()) {
                        self.late = true;
                        self.tier.metrics.count(Counter::ServiceHedges);
                        self.tier.count_miss(&self.watched);
                        return Alone::Late;
                    }
                }
            }
        }
    }

    /// The service's answer, however late. `None`: it has nothing for us.
    pub(in crate::proxy) async fn found(&mut self) -> Option<Box<Opened>> {
        let mut opened = (&mut self.opening).await;
        if let Some(header) = lock(&self.watched).header.take() {
            self.tier.update(|plan| plan.late(header));
        }
        if let Some(opened) = &mut opened {
            // It has won after all: from here on it is judged anew.
            opened.progress = opened.progress.anew(Instant::now());
        }
        opened
    }

    fn note_in_time(&self) {
        if let Some(header) = lock(&self.watched).header {
            self.tier.update(|plan| plan.answered(header));
        }
    }

    /// When the grid should start, as things stand.
    fn grid_at(&self) -> Option<Instant> {
        let mut watched = lock(&self.watched);
        let receipt =
            watched.receipt.as_ref().map(|receipt| *receipt.lock().unwrap_or_else(PoisonError::into_inner));
        let progress = watched.progress.as_mut()?;
        if let Some(receipt) = receipt {
            progress.received(receipt.at, receipt.bytes);
        }
        Some(progress.grid_at())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // A header that came too late to be of use still tells how far the service is.
        if self.late
            && let Some(header) = lock(&self.watched).header.take()
        {
            self.tier.update(|plan| plan.late(header));
        }
    }
}

fn lock(watched: &Mutex<Watched>) -> std::sync::MutexGuard<'_, Watched> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}
