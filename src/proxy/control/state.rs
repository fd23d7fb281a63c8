//! What the control port shows and acts on.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;

use super::runs::Runs;
use crate::cache::LocalCache;
use crate::checks::{CheckResult, Report};
use crate::proxy::chronicle::{Chronicle, unix_now};
use crate::proxy::lan::Lan;
use crate::proxy::page::view::{Before, ChecksView, RegionView, View};
use crate::proxy::prewarm::Prewarm;
use crate::proxy::service::Slot;
use crate::redact::Redacted;
use crate::scenes::{Region, RegionKey};
use crate::support::metrics::{Counter, Metrics};
use crate::support::status::Status;

/// Regions that the page lists, beside those that are pinned or entered.
const LISTED: usize = 12;
/// How long the size of a region's assets on disk is taken for the same.
const SIZE_FRESH: Duration = Duration::from_secs(15);
/// How long a self-test may take.
const TEST_LIMIT: Duration = Duration::from_secs(120);

/// Runs the self-test; given by whoever starts the proxy.
#[derive(Clone)]
pub struct SelfTest(Arc<dyn Fn() -> Testing + Send + Sync>);

type Testing = Pin<Box<dyn Future<Output = Vec<CheckResult>> + Send>>;

impl SelfTest {
    /// A self-test that is run by calling this.
    pub fn new<F, R>(run: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Vec<CheckResult>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(run())))
    }
}

impl fmt::Debug for SelfTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SelfTest")
    }
}

/// How the page behaves.
#[derive(Clone, Debug, Default)]
pub struct PageConfig {
    /// A flag, an environment variable or the configuration file says how large the store is; what was set on
    /// the page in an earlier run does not count then.
    pub size_fixed: bool,
    /// There is a button for the self-test of [`crate::checks`].
    pub with_self_test: bool,
    /// What that button does instead, for tests.
    pub self_test: Option<SelfTest>,
}

/// When the size of a region's assets on disk was looked up; how many they are, and their bytes.
type Size = (Instant, (u64, u64));

/// The last self-test.
#[derive(Debug, Default)]
struct Tests {
    report: Option<(Report, u64)>,
    running: bool,
}

/// What the control port shows.
pub(crate) struct ControlState {
    /// The numbers.
    pub(crate) metrics: Arc<Metrics>,
    /// When this run began.
    pub(crate) started: Instant,
    /// The same in seconds since 1970.
    pub(crate) started_unix: u64,
    /// What had been counted then.
    pub(super) before: Before,
    /// What other starts of rezcache ask for; it knows the grids.
    pub(crate) runs: Arc<Runs>,
    /// The store.
    pub(crate) cache: LocalCache,
    /// What is remembered.
    pub(crate) chronicle: Arc<Chronicle>,
    /// What warms regions up.
    pub(crate) prewarm: Option<Arc<Prewarm>>,
    /// The shared cache, whose uploads may be paused and limited.
    pub(in crate::proxy) service: Arc<Slot>,
    /// The shared caches at home.
    pub(crate) lan: Option<Arc<Lan>>,
    /// What whoever acts must know.
    pub(crate) token: Option<Redacted<String>>,
    /// How the page behaves.
    pub(crate) page: PageConfig,
    tests: Arc<Mutex<Tests>>,
    sizes: Mutex<HashMap<String, Size>>,
    /// Somebody acted: listeners are told at once.
    pub(super) acted: Notify,
}

impl ControlState {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        cache: LocalCache,
        chronicle: Arc<Chronicle>,
        runs: Arc<Runs>,
    ) -> Self {
        let before = Before {
            write_failures: metrics.get(Counter::StoreWriteFailures),
            addresses_refused: metrics.get(Counter::AddressesRefused),
            requests: Status::of(&metrics, Duration::ZERO).assets.requests,
            logins: metrics.get(Counter::LoginsGranted),
        };
        Self {
            metrics,
            started: Instant::now(),
            started_unix: unix_now(),
            before,
            runs,
            cache,
            chronicle,
            prewarm: None,
            service: Arc::default(),
            lan: None,
            token: None,
            page: PageConfig::default(),
            tests: Arc::default(),
            sizes: Mutex::default(),
            acted: Notify::new(),
        }
    }

    /// Somebody acted.
    pub(super) fn changed(&self) {
        self.chronicle.show_sizes();
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.acted.notify_one();
    }

    /// Clears the store and forgets the regions.
    pub(super) fn clear(&self) {
        if let Some(prewarm) = &self.prewarm {
            prewarm.stop();
        }
        self.cache.clear();
        self.chronicle.forget_regions();
        self.chronicle.save();
    }

    /// Sets the size of the store, now and for later runs.
    pub(super) fn resize(&self, bytes: u64) {
        self.cache.set_disk_bytes(bytes);
        self.chronicle.set_cache_bytes(bytes);
    }

    /// Starts the self-test, unless it runs. False when there is none.
    pub(super) fn self_test(&self) -> bool {
        let Some(SelfTest(run)) = &self.page.self_test else { return false };
        let tests = Arc::clone(&self.tests);
        {
            let mut tests = lock(&tests);
            if tests.running {
                return true;
            }
            tests.running = true;
        }
        let testing = run();
        tokio::spawn(async move {
            // Also when the test breaks off by a panic.
            let _ended = Ended(Arc::clone(&tests));
            let found = tokio::time::timeout(TEST_LIMIT, testing).await.unwrap_or_default();
            lock(&tests).report = Some((Report::of(found), unix_now()));
        });
        true
    }

    /// The numbers.
    pub(super) fn status(&self) -> Status {
        Status::of(&self.metrics, self.started.elapsed())
    }

    /// Everything that the page shows.
    pub(super) fn view(&self) -> View {
        let now = unix_now();
        let history = self.chronicle.history().clone();
        let (here, completed) = {
            let scenes = self.chronicle.scenes();
            let name = |key: &RegionKey| {
                scenes.book().get(key).map(|region| region.name.clone()).unwrap_or_default()
            };
            let here: Vec<_> = scenes.now().into_iter().map(|now| (now.clone(), name(&now.region))).collect();
            (here, scenes.recent().cloned().collect())
        };
        let known = self.known_regions();
        let is_here = |key: &RegionKey| here.iter().any(|(now, _)| now.region == *key);
        let mut listed = 0;
        let mut regions = Vec::new();
        let all = known.len();
        for (key, region) in known {
            let entered = is_here(&key);
            if !(region.pinned || entered) {
                listed += 1;
                if listed > LISTED {
                    continue;
                }
            }
            regions.push(self.region_view(&key, &region, entered));
        }
        let checks = match (&self.page.self_test, &*lock(&self.tests)) {
            (None, _) => ChecksView::None,
            (_, Tests { report, running: true }) => ChecksView::Running(report.clone()),
            (_, Tests { report: Some((report, at)), .. }) => ChecksView::Done(report.clone(), *at),
            (_, Tests { report: None, .. }) => ChecksView::Idle,
        };
        View {
            now,
            started: self.started_unix,
            status: self.status(),
            before: self.before,
            today: history.today(now),
            unanswered: self.chronicle.unanswered(),
            history,
            here,
            completed,
            more_regions: all - regions.len(),
            regions,
            store: self.cache.stats(),
            size_fixed: self.page.size_fixed,
            notes: self.chronicle.notes(),
            prewarm: self.prewarm.as_ref().and_then(|prewarm| prewarm.view()),
            checks,
            grids: self.runs.grids().into_iter().map(|grid| (grid.name, grid.listen)).collect(),
            uploads: self.service.uploads().is_some(),
            home: self.lan.as_ref().map(|lan| (lan.view(), lan.is_auto())),
            actions: self.token.is_some(),
        }
    }

    /// The regions, the one last entered first.
    fn known_regions(&self) -> Vec<(RegionKey, Region)> {
        let mut known: Vec<_> = self.chronicle.with_book(|book| {
            book.iter().map(|(key, region)| (key.clone(), region.without_keys())).collect()
        });
        known.sort_by_key(|(_, region)| std::cmp::Reverse(region.last_unix));
        known
    }

    fn region_view(&self, key: &RegionKey, region: &Region, here: bool) -> RegionView {
        let id = key.id();
        RegionView {
            grid: key.grid.as_str().to_owned(),
            name: region.name.clone(),
            place: key.place(),
            first: region.first_unix,
            last: region.last_unix,
            visits: region.visits,
            asked: region.asked,
            hits: region.hits,
            assets: self.chronicle.with_book(|book| book.get(key).map_or(0, |region| region.assets() as u64)),
            held: self.held(&id, key),
            first_scene: region.first_scene,
            last_scene: region.last_scene,
            pinned: region.pinned,
            here,
            id,
        }
    }

    /// How many of a region's assets are on disk, and their bytes.
    fn held(&self, id: &str, key: &RegionKey) -> (u64, u64) {
        let mut sizes = lock(&self.sizes);
        if let Some((at, size)) = sizes.get(id)
            && at.elapsed() < SIZE_FRESH
        {
            return *size;
        }
        let keys = self.chronicle.with_book(|book| book.get(key).map(|region| region.keys(&key.grid)));
        let size = self.cache.size_of(&keys.unwrap_or_default());
        sizes.retain(|_, (at, _)| at.elapsed() < SIZE_FRESH);
        sizes.insert(id.to_owned(), (Instant::now(), size));
        size
    }

    /// The regions for scripts.
    pub(super) fn regions_json(&self) -> Vec<RegionJson> {
        let regions = self.known_regions();
        let here = self.chronicle.scenes().now();
        let json = |(key, region): &(RegionKey, Region)| {
            let is_here = here.iter().any(|now| now.region == *key);
            let view = self.region_view(key, region, is_here);
            RegionJson {
                id: view.id,
                grid: view.grid,
                name: view.name.as_str().to_owned(),
                first_unix: view.first,
                last_unix: view.last,
                requests: view.asked,
                hits: view.hits,
                assets: view.assets,
                assets_on_disk: view.held.0,
                bytes_on_disk: view.held.1,
                last_scene_ms: view.last_scene.map(|scene| scene.ms),
                pinned: view.pinned,
                here: view.here,
            }
        };
        regions.iter().map(json).collect()
    }
}

/// A region in `/regions.json`.
#[derive(Serialize)]
pub(super) struct RegionJson {
    id: String,
    grid: String,
    name: String,
    first_unix: u64,
    last_unix: u64,
    requests: u64,
    hits: u64,
    assets: u64,
    assets_on_disk: u64,
    bytes_on_disk: u64,
    last_scene_ms: Option<u64>,
    pinned: bool,
    here: bool,
}

struct Ended(Arc<Mutex<Tests>>);

impl Drop for Ended {
    fn drop(&mut self) {
        lock(&self.0).running = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
