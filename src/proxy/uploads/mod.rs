//! Uploads to the cache service: the queue ([`crate::fetch::upload_plan`]) with its file, its clock and
//! its line.
//!
//! ```text
//!  learn ─► offer ─► plan ─► driver ─► attest ─► (body wanted) put
//!                      │
//!                      └─► journal, written in batches aside
//! ```
//!
//! Whoever offers never waits for the disk or the network, and a queue that cannot be written down
//! works on in memory.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::service::ServiceTier;
use crate::asset::{Asset, AssetId, AssetKey};
use crate::cache::{LocalCache, Scope};
use crate::fetch::upload_pace::{Bucket, Dice};
use crate::fetch::upload_plan::{Dropped, Entry, Limits, Next, Number, Offered, Outcome, UploadPlan};
use crate::fetch::upload_rules::NotUploaded;
use crate::grid::GridId;
use crate::support::metrics::{Counter, Metrics};

mod journal;
mod sending;

use journal::{Change, Journal};

/// How often what has become too old is looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// How long until a disk that took no record is tried again.
const DISK_RETRY: Duration = Duration::from_secs(30);
/// Changes that wait for the disk; beyond these the file is written anew instead.
const MAX_CHANGES: usize = 20_000;
/// How long what is being sent may take when the proxy ends.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// How uploads behave.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// Bounds and waiting times.
    pub limits: Limits,
    /// The bandwidth cap in bytes a second. `None`: none.
    pub rate: Option<u64>,
    /// How long [`super::Proxy::stop`] waits for the queue to be empty.
    pub finish: Duration,
}

/// What uploads may take of the line unless the user says otherwise: 1 Mbit/s, a tenth of a slow
/// household's way out.
const DEFAULT_UPLOAD_RATE: u64 = 125_000;

impl Default for UploadConfig {
    fn default() -> Self {
        Self { limits: Limits::default(), rate: Some(DEFAULT_UPLOAD_RATE), finish: Duration::ZERO }
    }
}

/// The upload queue of a proxy.
pub(crate) struct UploadQueue {
    inner: Arc<Inner>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for UploadQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UploadQueue").field("entries", &*self.inner.size.borrow()).finish_non_exhaustive()
    }
}

struct Inner {
    state: Mutex<State>,
    /// Something was told.
    changed: Notify,
    /// Entries in the queue, for those who wait for none.
    size: watch::Sender<usize>,
    service: Arc<ServiceTier>,
    cache: LocalCache,
    metrics: Arc<Metrics>,
}

struct State {
    plan: UploadPlan,
    bucket: Bucket,
    /// Not yet written down.
    changes: Vec<Change>,
    /// The file must be written anew: something did not get into it.
    rewrite: bool,
    stopping: bool,
}

impl UploadQueue {
    /// Reads what an earlier run left in `folder` and begins to upload. A folder that cannot be used is
    /// no reason not to: the queue then ends with the process.
    pub(super) async fn start(
        folder: PathBuf,
        config: &UploadConfig,
        service: Arc<ServiceTier>,
        cache: LocalCache,
        metrics: Arc<Metrics>,
    ) -> Self {
        let most = config.limits.entries;
        let address = service.name();
        let opened = tokio::task::spawn_blocking(move || Journal::open(&folder, &address, most)).await;
        let now = Instant::now();
        let mut state = State {
            plan: UploadPlan::new(config.limits, Dice::new(rand::random())),
            bucket: Bucket::new(config.rate, now),
            changes: Vec::new(),
            rewrite: false,
            stopping: false,
        };
        let mut gone = Vec::new();
        let journal = match opened {
            Ok(Ok((journal, found))) => {
                metrics.add(Counter::UploadQueueCorrupt, found.corrupt);
                metrics.add(dropped(Dropped::NotForService), found.elsewhere);
                if found.elsewhere > 0 {
                    tracing::info!(
                        dropped = found.elsewhere,
                        "what waited for another cache service is not given to this one"
                    );
                }
                for (number, entry) in found.entries {
                    state.plan.restore(number, entry, now, &mut gone);
                }
                Some(journal)
            }
            Ok(Err(error)) => {
                metrics.count(Counter::UploadQueueUnwritten);
                tracing::warn!(%error, "the upload queue is kept in memory only");
                None
            }
            Err(_) => None,
        };
        metrics.set_upload_control(false, config.rate.unwrap_or(0));
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            changed: Notify::new(),
            size: watch::Sender::new(0),
            service,
            cache,
            metrics,
        });
        inner.settle(&mut inner.state(), gone);
        let driver = tokio::spawn(drive(Arc::clone(&inner), journal));
        Self { inner, driver: Mutex::new(Some(driver)) }
    }

    /// Takes in an asset that has just come from the grid and that may be uploaded. The grid's host may
    /// have turned out to be in a private network.
    pub(crate) fn offer(&self, key: &AssetKey, scope: &Scope, asset: &Asset, resolved_private: bool) {
        let entry = Entry {
            key: key.clone(),
            origin: scope.origin.clone(),
            central: scope.central,
            digest: asset.digest,
            size: asset.bytes.len() as u64,
            queued: unix_now(),
            resolved_private,
        };
        let metrics = &self.inner.metrics;
        let mut state = self.inner.state();
        let mut gone = Vec::new();
        let offered = state.plan.offer(entry.clone(), Instant::now(), &mut gone);
        match offered {
            Offered::Queued(number) => {
                metrics.count(Counter::UploadsQueued);
                state.note(Change::Queued(number, entry));
            }
            Offered::Known => {}
            Offered::Baked => metrics.count(refused(NotUploaded::Baked)),
            Offered::TooLarge => metrics.count(Counter::UploadsRefusedTooLarge),
        }
        self.inner.settle(&mut state, gone);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// These textures are worn as bakes.
    pub(crate) fn baked(&self, grid: &GridId, ids: &[AssetId]) {
        self.change(|state, gone| state.plan.baked(grid, ids, gone));
    }

    /// The grid has told us its name; what was baked under the one it had before still is.
    pub(crate) fn renamed(&self, before: &GridId, now: &GridId) {
        self.change(|state, gone| state.plan.renamed(before, now, gone));
    }

    /// The grid's owner does not want its assets shared.
    pub(crate) fn withdraw(&self, grid: &GridId) {
        self.change(|state, gone| state.plan.withdraw(Some(grid), gone));
    }

    /// Whether the service has not been proven to give wrong bytes.
    pub(crate) fn is_trusted(&self) -> bool {
        self.inner.service.is_trusted()
    }

    /// The host of the service.
    pub(crate) fn service_host(&self) -> String {
        self.inner.service.client().address().host.clone()
    }

    /// Sends nothing more until [`Self::resume`].
    pub(crate) fn pause(&self) {
        self.change(|state, _| state.plan.pause());
    }

    /// Goes on.
    pub(crate) fn resume(&self) {
        self.change(|state, _| state.plan.resume());
    }

    /// Sets the bandwidth cap, in bytes a second.
    pub(crate) fn set_limit(&self, rate: Option<u64>) {
        self.change(|state, _| state.bucket.set_rate(rate, Instant::now()));
    }

    fn change(&self, change: impl FnOnce(&mut State, &mut Vec<(Number, Dropped)>)) {
        let mut state = self.inner.state();
        let mut gone = Vec::new();
        change(&mut state, &mut gone);
        self.inner.settle(&mut state, gone);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Waits until the queue is empty, at most so long; whether it is.
    pub(crate) async fn idle(&self, patience: Duration) -> bool {
        let mut size = self.inner.size.subscribe();
        let empty = size.wait_for(|entries| *entries == 0);
        matches!(tokio::time::timeout(patience, empty).await, Ok(Ok(_)))
    }

    /// Ends what is being sent, writes down what is left, and returns.
    pub(crate) async fn stop(&self) {
        self.inner.state().stopping = true;
        self.inner.changed.notify_one();
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(driver) = driver {
            let _ = driver.await;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an entry that is being sent is not wanted any more.
    fn doom(&self, number: Number) -> Option<Dropped> {
        self.state().plan.doom(number)
    }

    /// Counts and notes what has gone, and shows how the queue stands.
    fn settle(&self, state: &mut State, gone: Vec<(Number, Dropped)>) {
        for (number, reason) in gone {
            self.metrics.count(dropped(reason));
            state.note(Change::Gone(number));
        }
        let (entries, bytes) = state.plan.size();
        self.metrics.set_upload_queue(entries as u64, bytes);
        self.metrics.set_upload_control(state.plan.is_paused(), state.bucket.rate().unwrap_or(0));
        self.size.send_if_modified(|known| std::mem::replace(known, entries) != entries);
    }

    fn ended(&self, number: Number, outcome: Outcome) {
        let put_off = match outcome {
            Outcome::Busy(_) => Some(Counter::UploadsPutOffBusy),
            Outcome::Unreachable => Some(Counter::UploadsPutOffUnreachable),
            Outcome::Unknown => Some(Counter::UploadsPutOffShutOut),
            Outcome::Trouble | Outcome::DiskBusy => Some(Counter::UploadsPutOffTrouble),
            Outcome::Done | Outcome::Forbidden | Outcome::Drop(_) => None,
        };
        if let Some(counter) = put_off {
            self.metrics.count(counter);
        }
        let mut state = self.state();
        let mut gone = Vec::new();
        let left = state.plan.ended(number, outcome, Instant::now(), &mut gone);
        if left && gone.is_empty() {
            state.note(Change::Gone(number));
        } else if !left && outcome == Outcome::Forbidden {
            self.metrics.count(Counter::UploadsPutOffShutOut);
            tracing::warn!("the cache service does not let us write; uploads wait");
        }
        self.settle(&mut state, gone);
    }
}

impl State {
    fn note(&mut self, change: Change) {
        if self.changes.len() >= MAX_CHANGES {
            self.changes.clear();
            self.rewrite = true;
        }
        if !self.rewrite {
            self.changes.push(change);
        }
    }
}

/// Sends what is due and writes down what has changed, until the queue is stopped.
async fn drive(inner: Arc<Inner>, mut journal: Option<Journal>) {
    let mut jobs = JoinSet::new();
    let mut expire_at = Instant::now();
    let mut disk_at = Instant::now();
    loop {
        let now = Instant::now();
        let next = {
            let mut state = inner.state();
            if now >= expire_at {
                let mut gone = Vec::new();
                state.plan.expire(unix_now(), &mut gone);
                inner.settle(&mut state, gone);
                expire_at = now + HOUSEKEEPING;
            }
            if state.stopping {
                break;
            }
            if !inner.service.is_trusted() && state.plan.size().0 > 0 {
                let mut gone = Vec::new();
                state.plan.withdraw(None, &mut gone);
                inner.settle(&mut state, gone);
            }
            let requests = usize::try_from(inner.metrics.requests_in_flight()).unwrap_or(0);
            state.plan.next(now, requests)
        };
        if now >= disk_at && !write_down(&inner, &mut journal).await {
            disk_at = now + DISK_RETRY;
        }
        let wake = match next {
            Next::Send(number, entry) => {
                let inner = Arc::clone(&inner);
                jobs.spawn(async move {
                    let mut unfinished = Unfinished { inner: &inner, number: Some(number) };
                    let outcome = sending::send(&inner, number, &entry).await;
                    unfinished.number = None;
                    inner.ended(number, outcome);
                });
                continue;
            }
            Next::Wait(at) => at.min(expire_at),
            Next::Rest => expire_at,
        };
        tokio::select! {
            () = inner.changed.notified() => {}
            Some(_) = jobs.join_next(), if !jobs.is_empty() => {}
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
    let _ = tokio::time::timeout(STOP_PATIENCE, async { while jobs.join_next().await.is_some() {} }).await;
    jobs.shutdown().await;
    write_down(&inner, &mut journal).await;
}

/// Should sending break off, the entry is tried again.
struct Unfinished<'a> {
    inner: &'a Inner,
    number: Option<Number>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.inner.ended(number, Outcome::Trouble);
        }
    }
}

/// Writes changes down. False when the disk does not take them; they then stay in mind.
async fn write_down(inner: &Arc<Inner>, slot: &mut Option<Journal>) -> bool {
    let Some(mut journal) = slot.take() else {
        let mut state = inner.state();
        state.changes.clear();
        return true;
    };
    let (changes, living) = {
        let mut state = inner.state();
        let changes = std::mem::take(&mut state.changes);
        let anew = state.rewrite || journal.is_worth_rewriting(state.plan.size().0);
        let living: Option<Vec<(Number, Entry)>> =
            anew.then(|| state.plan.entries().map(|(number, entry)| (number, entry.clone())).collect());
        state.rewrite = false;
        (changes, living)
    };
    if changes.is_empty() && living.is_none() {
        *slot = Some(journal);
        return true;
    }
    let writing = tokio::task::spawn_blocking(move || {
        let written = match &living {
            Some(living) => journal.rewrite(living.iter().map(|(number, entry)| (*number, entry))),
            None => journal.append(&changes),
        };
        (journal, written)
    });
    // Only a panic loses the journal; the queue then goes on in memory.
    let Ok((journal, written)) = writing.await else { return false };
    *slot = Some(journal);
    if let Err(error) = written {
        inner.metrics.count(Counter::UploadQueueUnwritten);
        tracing::warn!(%error, "the upload queue cannot be written down; it goes on in memory");
        inner.state().rewrite = true;
        return false;
    }
    true
}

/// Where a reason not to queue is counted.
pub(crate) const fn refused(reason: NotUploaded) -> Counter {
    match reason {
        NotUploaded::NotHeardNow => Counter::UploadsRefusedNotHeard,
        NotUploaded::OwnerDeclines => Counter::UploadsRefusedOwner,
        NotUploaded::PrivateGrid => Counter::UploadsRefusedPrivateGrid,
        NotUploaded::WithoutLogin => Counter::UploadsRefusedNoLogin,
        NotUploaded::InexactEnd => Counter::UploadsRefusedInexactEnd,
        NotUploaded::NotShareable => Counter::UploadsRefusedNotShareable,
        NotUploaded::Baked => Counter::UploadsRefusedBaked,
        NotUploaded::Distrusted => Counter::UploadsRefusedDistrusted,
    }
}

const fn dropped(reason: Dropped) -> Counter {
    match reason {
        Dropped::Baked => Counter::UploadsDroppedBaked,
        Dropped::Full => Counter::UploadsDroppedFull,
        Dropped::Old => Counter::UploadsDroppedOld,
        Dropped::Missing => Counter::UploadsDroppedMissing,
        Dropped::Changed => Counter::UploadsDroppedChanged,
        Dropped::Conflict => Counter::UploadsDroppedConflict,
        Dropped::TakenDown => Counter::UploadsDroppedTakenDown,
        Dropped::Refused => Counter::UploadsDroppedRefused,
        Dropped::Failed => Counter::UploadsDroppedFailed,
        Dropped::Withdrawn => Counter::UploadsDroppedWithdrawn,
        Dropped::NotForService => Counter::UploadsDroppedNotForService,
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
