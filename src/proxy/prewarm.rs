//! Warming a region up ahead of a visit: what is known of its assets is fetched into the store from the
//! shared cache where it is missing, and read into memory as far as it fits. The grid is never asked: that
//! takes a capability of a login, and would cost it what nobody may ever look at.
//!
//! One region at a time, one asset after the other, and not while a viewer waits for anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::grid_port::{GridPort, Shared, Sharing};
use super::learn::Target;
use super::service::Alone;
use crate::asset::AssetKey;
use crate::cache::{Lookup, Scope};
use crate::fetch::Span;
use crate::grid::Origin;
use crate::scenes::{RegionKey, RegionName};
use crate::support::metrics::Counter;

/// How often it is looked whether viewers still wait.
const GIVE_WAY: Duration = Duration::from_millis(100);
/// What it takes of the line at most, in bytes a second.
const RATE: u64 = 4 << 20;
/// How long one asset may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Hosts under which the shared cache is asked for one asset.
const MAX_ORIGINS: usize = 2;

/// Why nothing was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PrewarmError {
    /// One is enough.
    #[error("a region is being warmed up already; stop that first")]
    Busy,
    /// Nothing is known of it.
    #[error("this region is not known any more; visit it, then try again")]
    Unknown,
    /// No port for its grid.
    #[error("this region's grid is not among those that rezcache was started with")]
    NoGrid,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrewarmView {
    /// Which region.
    pub(crate) region: RegionKey,
    /// Its name.
    pub(crate) name: RegionName,
    /// Assets in all.
    pub(crate) total: u64,
    /// Those looked at.
    pub(crate) done: u64,
    /// Those that were on this machine.
    pub(crate) here: u64,
    /// Those that came from the shared cache.
    pub(crate) fetched: u64,
    /// Whether it goes on.
    pub(crate) running: bool,
    /// Whether it was stopped before its end.
    pub(crate) stopped: bool,
    /// Whether there is a shared cache to ask.
    pub(crate) has_service: bool,
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    here: AtomicU64,
    fetched: AtomicU64,
    finished: AtomicBool,
    stopped: AtomicBool,
    stop: Notify,
}

struct Run {
    region: RegionKey,
    name: RegionName,
    total: u64,
    has_service: bool,
    counts: Arc<Counts>,
}

/// Warms regions up.
pub(crate) struct Prewarm {
    shared: Arc<Shared>,
    current: Mutex<Option<Run>>,
}

impl Prewarm {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, current: Mutex::new(None) }
    }

    /// Begins with a region.
    pub(crate) fn start(&self, region: &RegionKey) -> Result<(), PrewarmError> {
        let known = self.shared.chronicle.with_book(|book| {
            let known = book.get(region)?;
            Some((known.keys(&region.grid), known.origins().to_vec(), known.name.clone()))
        });
        let (keys, origins, name) = known.ok_or(PrewarmError::Unknown)?;
        let grids = self.shared.grids.read().unwrap_or_else(PoisonError::into_inner).clone();
        let grid = grids.iter().filter_map(Weak::upgrade).find(|grid| grid.identity().id == region.grid);
        let grid = grid.ok_or(PrewarmError::NoGrid)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|run| !run.counts.finished.load(Ordering::Acquire)) {
            return Err(PrewarmError::Busy);
        }
        let counts = Arc::new(Counts::default());
        let total = keys.len() as u64;
        let has_service = self.shared.service.tier().is_some();
        *current =
            Some(Run { region: region.clone(), name, total, has_service, counts: Arc::clone(&counts) });
        drop(current);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let mut stopping = shared.stop.clone();
            tokio::select! {
                () = warm(&shared, &grid, &keys, &origins, &counts) => {}
                () = counts.stop.notified() => counts.stopped.store(true, Ordering::Release),
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
            counts.finished.store(true, Ordering::Release);
        });
        Ok(())
    }

    /// Stops, if one is being warmed up.
    pub(crate) fn stop(&self) {
        if let Some(run) = &*self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            run.counts.stop.notify_one();
        }
    }

    /// The region in work, or the last one.
    pub(crate) fn view(&self) -> Option<PrewarmView> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let run = current.as_ref()?;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(PrewarmView {
            region: run.region.clone(),
            name: run.name.clone(),
            total: run.total,
            done: get(&run.counts.done),
            here: get(&run.counts.here),
            fetched: get(&run.counts.fetched),
            running: !run.counts.finished.load(Ordering::Acquire),
            stopped: run.counts.stopped.load(Ordering::Acquire),
            has_service: run.has_service,
        })
    }
}

async fn warm(shared: &Shared, grid: &Arc<GridPort>, keys: &[AssetKey], origins: &[Origin], counts: &Counts) {
    let central = grid.config.central;
    let scopes: Vec<_> = origins.iter().map(|origin| Scope { origin: origin.clone(), central }).collect();
    // What is read beyond this would push out what was read before.
    let mut room = shared.cache.stats().memory_limit;
    for key in keys {
        while shared.metrics.requests_in_flight() > 0 {
            tokio::time::sleep(GIVE_WAY).await;
        }
        let pause = match held(shared, key, &scopes, &mut room).await {
            true => {
                counts.here.fetch_add(1, Ordering::Relaxed);
                Duration::ZERO
            }
            false => match tokio::time::timeout(PATIENCE, fetch(grid, key, &scopes)).await {
                Ok(Some(bytes)) => {
                    counts.fetched.fetch_add(1, Ordering::Relaxed);
                    room = room.saturating_sub(bytes);
                    shared.metrics.count(Counter::AssetsPrewarmed);
                    Duration::from_micros(bytes.saturating_mul(1_000_000) / RATE)
                }
                Ok(None) | Err(_) => Duration::ZERO,
            },
        };
        counts.done.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
}

/// Whether this machine has an asset; it is read into memory while there is room.
async fn held(shared: &Shared, key: &AssetKey, scopes: &[Scope], room: &mut u64) -> bool {
    if *room == 0 {
        return shared.cache.size_of([key]).0 > 0;
    }
    for scope in scopes {
        if let Lookup::Hit { asset, .. } = shared.cache.get(key, scope).await {
            *room = room.saturating_sub(asset.bytes.len() as u64);
            return true;
        }
    }
    false
}

/// Has the shared cache send an asset, and keeps it. Answers its length.
async fn fetch(grid: &Arc<GridPort>, key: &AssetKey, scopes: &[Scope]) -> Option<u64> {
    let tier = grid.shared.service.tier()?;
    let shared = grid.identity().sharing == Sharing::Share;
    for scope in scopes.iter().take(MAX_ORIGINS) {
        let (key, scope) = (key.clone(), scope.clone());
        let target = Target { key, scope, shared, beginning_held: false, by_login: true };
        let Some(mut attempt) = tier.attempt(grid, &target, Span::WHOLE) else { continue };
        let opened = match attempt.alone().await {
            Alone::Found(opened) => Some(opened),
            Alone::Nothing => None,
            // Nobody waits for it.
            Alone::Late => attempt.found().await,
        };
        if let Some(asset) = tier.whole(opened).await {
            tier.keep(grid, &target, &asset);
            return Some(asset.bytes.len() as u64);
        }
    }
    None
}
