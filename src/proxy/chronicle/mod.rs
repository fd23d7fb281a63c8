//! What the proxy remembers for its page: the history of what was counted, the regions that were visited
//! and their scenes, how fast each grid is, and what was set on the page. State, with its clock and files.
//!
//! Nothing of it is needed to serve a viewer: what cannot be read begins anew and is told, what cannot be
//! written is told and goes on in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::asset::{AssetId, AssetKind};
use crate::cache::LocalCache;
use crate::fetch::savings::Remembered;
use crate::grid::{GridId, Origin, RegionHandle};
use crate::scenes::{Book, Open, PinError, RegionKey, RegionName, Scenes, Visitor};
use crate::support::history::{Counted, History};
use crate::support::metrics::{Counter, Metrics};
use crate::support::status::Status;

mod files;

use files::Files;
pub(crate) use files::Settings;

/// How often scenes are looked after.
const TICK: Duration = Duration::from_secs(1);
/// How often it is all written down, if it has changed; a crash loses no more than this.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// How often what is new in pinned regions is pinned, in seconds.
const PIN_SECONDS: u64 = 10;
/// Grids whose pace is remembered.
const MAX_PACES: usize = 64;

/// The memory of a proxy.
pub(crate) struct Chronicle {
    scenes: Mutex<Scenes>,
    history: Mutex<History>,
    paces: Mutex<BTreeMap<String, Remembered>>,
    settings: Mutex<Settings>,
    /// What the user is to know about our files.
    notes: Mutex<Vec<String>>,
    next_visitor: AtomicU64,
    /// Asset requests in a row that no grid has answered.
    unanswered: AtomicU64,
    files: Files,
    metrics: Arc<Metrics>,
    cache: LocalCache,
}

impl std::fmt::Debug for Chronicle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chronicle").finish_non_exhaustive()
    }
}

impl Chronicle {
    /// Reads what earlier runs remembered in the data directory.
    pub(crate) fn open(data_dir: PathBuf, metrics: Arc<Metrics>, cache: LocalCache) -> Self {
        let files = Files::new(data_dir);
        let read = files.read();
        let mut scenes = Scenes::default();
        for (key, region) in read.regions {
            scenes.book_mut().restore(key, region);
        }
        for note in &read.notes {
            tracing::warn!("{note}");
        }
        let chronicle = Self {
            scenes: Mutex::new(scenes),
            history: Mutex::new(read.history),
            paces: Mutex::new(read.paces),
            settings: Mutex::new(read.settings),
            notes: Mutex::new(read.notes),
            next_visitor: AtomicU64::new(1),
            unanswered: AtomicU64::new(0),
            files,
            metrics,
            cache,
        };
        chronicle.advance(unix_now());
        chronicle.pin_what_changed();
        chronicle.show_sizes();
        chronicle
    }

    /// A name for a login.
    pub(crate) fn visitor(&self) -> Visitor {
        Visitor(self.next_visitor.fetch_add(1, Ordering::Relaxed))
    }

    /// The scenes and the regions.
    pub(crate) fn scenes(&self) -> MutexGuard<'_, Scenes> {
        lock(&self.scenes)
    }

    /// The history, up to now.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// What was set on the page.
    pub(crate) fn settings(&self) -> Settings {
        lock(&self.settings).clone()
    }

    /// What the user is to know about our files.
    pub(crate) fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    /// A login has come to a region.
    pub(crate) fn arrived(&self, visitor: Visitor, grid: &GridId, region: RegionHandle) {
        let region = RegionKey { grid: grid.clone(), handle: region.0 };
        self.scenes().arrived(Instant::now(), unix_now(), visitor, &region);
    }

    /// A region has said what it is called.
    pub(crate) fn named(&self, visitor: Visitor, region: RegionHandle, name: &[u8]) {
        self.scenes().named(visitor, region, &RegionName::from_wire(name));
    }

    /// A login asks for an asset.
    pub(crate) fn begun(
        &self,
        visitor: Visitor,
        kind: AssetKind,
        id: AssetId,
        origin: &Origin,
    ) -> Option<Open> {
        self.scenes().begun(Instant::now(), visitor, kind, id, origin)
    }

    /// An answer has been delivered, or has broken off.
    pub(crate) fn ended(&self, open: Open, hit: bool) {
        self.scenes().ended(Instant::now(), open, hit);
    }

    /// A grid has answered a request for an asset, or has not.
    pub(crate) fn grid_answered(&self, answered: bool) {
        if answered {
            self.unanswered.store(0, Ordering::Relaxed);
        } else {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests for assets no grid has answered since the last that one did.
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// How a grid has been answering, in this run or in earlier ones.
    pub(crate) fn pace(&self, grid: &GridId) -> Option<Remembered> {
        lock(&self.paces).get(grid.as_str()).copied()
    }

    /// A grid has been measured.
    pub(crate) fn note_pace(&self, grid: &GridId, pace: Remembered) {
        let mut paces = lock(&self.paces);
        if paces.len() < MAX_PACES || paces.contains_key(grid.as_str()) {
            paces.insert(grid.as_str().to_owned(), pace);
        }
    }

    /// Keeps a region's assets from eviction, or no longer.
    pub(crate) fn pin(&self, region: &RegionKey, pinned: bool) -> Result<(), PinError> {
        self.scenes().book_mut().pin(region, pinned)?;
        self.pin_what_changed();
        Ok(())
    }

    /// Forgets the regions.
    pub(crate) fn forget_regions(&self) {
        self.scenes().forget_regions(unix_now());
        self.pin_what_changed();
    }

    /// Remembers the size that was chosen for the store.
    pub(crate) fn set_cache_bytes(&self, bytes: u64) {
        let settings = Settings { cache_bytes: Some(bytes) };
        *lock(&self.settings) = settings.clone();
        if let Err(error) = self.files.write_settings(&settings) {
            self.trouble(&error);
        }
    }

    fn pin_what_changed(&self) {
        let pins = self.scenes().book_mut().take_pins();
        if let Some(pins) = pins {
            self.cache.pin(&pins);
        }
    }

    /// Takes what was counted since the last call into the history.
    fn advance(&self, unix: u64) {
        let status = Status::of(&self.metrics, Duration::ZERO);
        let sums = Counted {
            requests: status.assets.requests,
            hits: status.assets.hits,
            bytes_saved: status.assets.bytes_saved,
            ms_saved: self.metrics.get(Counter::TimeSavedMs),
            ms_lost: self.metrics.get(Counter::TimeLostMs),
            failures: self.metrics.get(Counter::UpstreamFailures),
        };
        self.history().advance(unix, sums);
    }

    fn tick(&self) {
        let completed = {
            let mut scenes = self.scenes();
            let before = scenes.completed();
            scenes.tick(Instant::now());
            scenes.completed() - before
        };
        self.metrics.add(Counter::ScenesCompleted, completed);
        let now = unix_now();
        self.advance(now);
        // New assets of a pinned region: the store goes through its files for that.
        if now.is_multiple_of(PIN_SECONDS) {
            self.pin_what_changed();
        }
        self.show_sizes();
    }

    /// Tells the status how the store and the regions stand.
    pub(crate) fn show_sizes(&self) {
        let store = self.cache.stats();
        self.metrics.set_store_bounds(store.disk_limit, store.pinned_bytes);
        let (known, pinned) = self.with_book(|book| {
            let pinned = book.iter().filter(|(_, region)| region.pinned).count();
            (book.iter().count() as u64, pinned as u64)
        });
        self.metrics.set_regions(known, pinned);
    }

    /// Writes down what has changed.
    pub(crate) fn save(&self) {
        let (regions, gone) = self.scenes().book_mut().take_changes();
        let failed = self.files.write_regions(regions, &gone);
        if let Err((keys, error)) = failed {
            self.scenes().book_mut().mark_changed(keys);
            self.trouble(&error);
        }
        let (history, paces) = (self.history().clone(), lock(&self.paces).clone());
        if let Err(error) = self.files.write_history(&history, &paces) {
            self.trouble(&error);
        }
    }

    fn trouble(&self, error: &std::io::Error) {
        self.metrics.count(Counter::PageFilesUnwritten);
        tracing::warn!(%error, "what the page remembers cannot be written down; it goes on in memory");
    }

    /// Looks after all of it until `stop` completes, and writes it down once more then.
    pub(crate) async fn keep(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut saved = Instant::now();
        loop {
            let stopping = tokio::select! {
                () = tokio::time::sleep(TICK) => false,
                () = &mut stop => true,
            };
            self.tick();
            if stopping || saved.elapsed() >= SAVE_INTERVAL {
                saved = Instant::now();
                let this = Arc::clone(&self);
                // Only a panic breaks it off.
                let _ = tokio::task::spawn_blocking(move || this.save()).await;
            }
            if stopping {
                return;
            }
        }
    }
}

impl Chronicle {
    /// The regions' book, for a look.
    pub(crate) fn with_book<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(self.scenes().book())
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
