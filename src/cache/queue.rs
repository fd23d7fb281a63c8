//! What waits for the writer thread: bounded in bytes, and readable while it waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::claims::Scope;
use super::files::{FileId, Stem};
use super::partial::{PartialAsset, PartialKey};
use crate::asset::{Asset, AssetKey, Digest};
use crate::grid::Origin;

const OVERHEAD: u64 = 300;
/// Small jobs (they hold no body) past this number are dropped.
const MAX_JOBS: usize = 200_000;

/// An asset to be stored.
#[derive(Debug)]
pub(super) struct PutJob {
    pub(super) key: AssetKey,
    pub(super) stem: Stem,
    pub(super) origin: Origin,
    pub(super) asset: Asset,
    /// Seconds since 1970.
    pub(super) stored: u64,
}

impl PutJob {
    fn cost(&self) -> u64 {
        self.asset.bytes.len() as u64 + OVERHEAD
    }
}

/// The digest of no content that is ever stored.
pub(super) const NOTHING: Digest = Digest([0; 32]);

/// Work for the writer thread, done in order.
#[derive(Debug)]
pub(super) enum Job {
    Put(Arc<PutJob>),
    /// An origin supplied `digest`, which is not stored; what it supplied before is no longer its word.
    Disclaim {
        key: AssetKey,
        stem: Stem,
        origin: Origin,
        digest: Digest,
    },
    /// Whatever an origin supplied of this key is no longer its word.
    Withdraw {
        key: AssetKey,
        stem: Stem,
        origin: Origin,
    },
    /// A reader found this file damaged and took it out of the index.
    Remove {
        id: FileId,
        generation: u64,
        size: u64,
    },
    /// The cap has changed.
    Trim,
    Clear,
    Flush(oneshot::Sender<()>),
}

/// What is to become of an origin's parts on disk.
#[derive(Clone, Debug)]
pub(super) enum Parts {
    Write(PartialAsset),
    Drop,
}

/// What the writer does next.
#[derive(Debug)]
pub(super) enum Work {
    Job(Job),
    Parts(PartialKey, Parts),
    /// Nothing came for the time given.
    Idle,
    /// Closing, and nothing is left.
    Close,
}

#[derive(Debug)]
struct Waiting {
    parts: Parts,
    due: Instant,
    cost: u64,
    /// In the order; not while the writer is at it.
    queued: bool,
}

/// The queue's content; held only for map operations.
#[derive(Debug, Default)]
pub(super) struct State {
    jobs: VecDeque<Job>,
    puts: HashMap<AssetKey, Vec<Arc<PutJob>>>,
    /// Origins whose word on a key is being taken back on disk.
    withdrawn: HashMap<AssetKey, Vec<Origin>>,
    parts: HashMap<PartialKey, Waiting>,
    order: VecDeque<PartialKey>,
    bytes: u64,
    closing: bool,
}

impl State {
    /// Whether an asset of this key waits.
    pub(super) fn has_put(&self, key: &AssetKey) -> bool {
        self.puts.contains_key(key)
    }

    /// Takes an asset. `false`: no room, or closing.
    pub(super) fn push_put(&mut self, job: PutJob, cap: u64) -> bool {
        let bytes = self.bytes.saturating_add(job.cost());
        if self.closing || bytes > cap {
            return false;
        }
        self.bytes = bytes;
        let job = Arc::new(job);
        self.puts.entry(job.key.clone()).or_default().push(Arc::clone(&job));
        self.jobs.push_back(Job::Put(job));
        true
    }

    /// Takes a job that holds no body.
    pub(super) fn push(&mut self, job: Job) {
        if !self.closing && self.jobs.len() < MAX_JOBS {
            self.jobs.push_back(job);
        }
    }

    /// Takes an origin's word on a key back, from what waits at once and from the disk in its turn. `false`:
    /// no room, or closing.
    pub(super) fn withdraw(&mut self, key: &AssetKey, stem: Stem, origin: &Origin) -> bool {
        if self.closing || self.jobs.len() >= MAX_JOBS {
            return false;
        }
        if let Some(waiting) = self.puts.get_mut(key) {
            let (gone, kept): (Vec<_>, Vec<_>) =
                std::mem::take(waiting).into_iter().partition(|job| job.origin == *origin);
            *waiting = kept;
            if waiting.is_empty() {
                self.puts.remove(key);
            }
            self.bytes = self.bytes.saturating_sub(gone.iter().map(|job| job.cost()).sum());
        }
        self.withdrawn.entry(key.clone()).or_default().push(origin.clone());
        self.jobs.push_back(Job::Withdraw { key: key.clone(), stem, origin: origin.clone() });
        true
    }

    /// Takes the fate of an origin's parts; replaces an earlier one.
    pub(super) fn push_parts(&mut self, key: &PartialKey, parts: Parts, due: Instant, cap: u64) -> bool {
        let cost = OVERHEAD + if let Parts::Write(parts) = &parts { parts.held() } else { 0 };
        let old = self.parts.remove(key);
        let queued = old.as_ref().is_some_and(|old| old.queued);
        let due = old.as_ref().filter(|old| old.queued).map_or(due, |old| old.due);
        self.bytes -= old.map_or(0, |old| old.cost);
        let fits = self.bytes.saturating_add(cost) <= cap || matches!(parts, Parts::Drop);
        if self.closing || !fits || self.order.len() >= MAX_JOBS {
            return false;
        }
        self.bytes += cost;
        self.parts.insert(key.clone(), Waiting { parts, due, cost, queued: true });
        if !queued {
            self.order.push_back(key.clone());
        }
        true
    }

    /// What waits to become of an origin's parts.
    pub(super) fn waiting_parts(&self, key: &PartialKey) -> Option<&Parts> {
        self.parts.get(key).map(|waiting| &waiting.parts)
    }

    /// The newest waiting asset that this request may get.
    pub(super) fn find_put(&self, key: &AssetKey, scope: &Scope) -> Option<Asset> {
        let waiting = self.puts.get(key)?;
        let own = waiting.iter().rev().find(|job| job.origin == scope.origin);
        let found = own.or_else(|| waiting.last().filter(|_| scope.central))?;
        Some(found.asset.clone())
    }

    /// Nobody will do what is left; whoever waits for it learns that.
    pub(super) fn abandon(&mut self) {
        self.forget_bodies();
        self.jobs.clear();
        self.withdrawn.clear();
    }

    /// Who supplied what of this key and is not written yet.
    pub(super) fn waiting_words(&self, key: &AssetKey) -> Vec<(Origin, Digest)> {
        let waiting = self.puts.get(key).into_iter().flatten();
        let withdrawn = self.withdrawn.get(key).into_iter().flatten();
        waiting
            .map(|job| (job.origin.clone(), job.asset.digest))
            // No content has this digest, so whatever the origin supplied is not its word.
            .chain(withdrawn.map(|origin| (origin.clone(), NOTHING)))
            .collect()
    }

    /// Forgets all assets and parts that wait.
    pub(super) fn forget_bodies(&mut self) {
        self.jobs.retain(|job| !matches!(job, Job::Put(_)));
        let gone: u64 = self.puts.drain().flat_map(|(_, jobs)| jobs).map(|job| job.cost()).sum();
        let parts: u64 = self.parts.drain().map(|(_, waiting)| waiting.cost).sum();
        self.order.clear();
        self.bytes = self.bytes.saturating_sub(gone + parts);
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    /// The content, and the writer woken when the guard's work is done by [`Queue::notify`].
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.wake.notify_all();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.notify();
    }

    /// Closing with nothing left to write.
    pub(super) fn may_stop(&self) -> bool {
        let state = self.lock();
        state.closing && state.jobs.is_empty() && state.parts.is_empty()
    }

    /// The next work. Waits at most until `idle_at`.
    pub(super) fn next(&self, idle_at: Instant) -> Work {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Work::Job(job);
            }
            let now = Instant::now();
            let mut until = idle_at;
            while let Some(key) = state.order.front() {
                match state.parts.get(key) {
                    Some(waiting) if waiting.due > now && !state.closing => {
                        until = until.min(waiting.due);
                        break;
                    }
                    Some(_) => return pop_parts(&mut state),
                    // Replaced or forgotten meanwhile.
                    None => {
                        state.order.pop_front();
                    }
                }
            }
            if state.closing {
                return Work::Close;
            }
            let Some(wait) = until.checked_duration_since(now).filter(|wait| !wait.is_zero()) else {
                return Work::Idle;
            };
            (state, _) = self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next parts, due or not.
    pub(super) fn next_parts(&self) -> Option<(PartialKey, Parts)> {
        let mut state = self.lock();
        while !state.order.is_empty() {
            if let Work::Parts(key, parts) = pop_parts(&mut state) {
                return Some((key, parts));
            }
        }
        None
    }

    /// The asset is stored, or given up: it no longer waits.
    pub(super) fn finish_put(&self, job: &Arc<PutJob>) {
        let mut state = self.lock();
        let Some(waiting) = state.puts.get_mut(&job.key) else { return };
        let before = waiting.len();
        waiting.retain(|other| !Arc::ptr_eq(other, job));
        let found = waiting.len() < before;
        if waiting.is_empty() {
            state.puts.remove(&job.key);
        }
        if found {
            state.bytes = state.bytes.saturating_sub(job.cost());
        }
    }

    /// An origin's word has been taken back on disk.
    pub(super) fn finish_withdrawal(&self, key: &AssetKey, origin: &Origin) {
        let mut state = self.lock();
        let Some(waiting) = state.withdrawn.get_mut(key) else { return };
        if let Some(place) = waiting.iter().position(|known| known == origin) {
            waiting.swap_remove(place);
        }
        if waiting.is_empty() {
            state.withdrawn.remove(key);
        }
    }

    /// The fate of these parts has come true, unless it was changed meanwhile.
    pub(super) fn finish_parts(&self, key: &PartialKey) {
        let mut state = self.lock();
        if state.parts.get(key).is_some_and(|waiting| !waiting.queued)
            && let Some(waiting) = state.parts.remove(key)
        {
            state.bytes = state.bytes.saturating_sub(waiting.cost);
        }
    }

    /// Waits for `pause`, or until closing.
    pub(super) fn pause(&self, pause: Duration) {
        let state = self.lock();
        let _ = self
            .wake
            .wait_timeout_while(state, pause, |state| !state.closing)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Takes the first parts from the order; they stay readable until [`Queue::finish_parts`].
fn pop_parts(state: &mut State) -> Work {
    let Some(key) = state.order.pop_front() else { return Work::Idle };
    match state.parts.get_mut(&key) {
        Some(waiting) => {
            waiting.queued = false;
            Work::Parts(key, waiting.parts.clone())
        }
        None => Work::Idle,
    }
}
