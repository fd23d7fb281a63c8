//! Every number rezcache counts, in one place: names, meaning, and the counters themselves.
//!
//! Counting is one relaxed atomic addition; nothing here allocates or waits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::asset::{AssetKind, AssetSource};

/// Defines [`Counter`] together with its names and help texts, so that none can be forgotten.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// A number that only grows. The name is what `/metrics` and `/status.json` show.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $variant),+ }

        impl Counter {
            /// Every counter, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name without the `rezcache_` prefix and the `_total` suffix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it counts, in a sentence: the help text of `/metrics`.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

counters! {
    /// Datagrams sent on as they came.
    DatagramsForwarded = "datagrams_forwarded",
    /// Datagrams sent on with a changed header or body (also counted as forwarded).
    DatagramsPatched = "datagrams_patched",
    /// Datagrams that we made.
    DatagramsInjected = "datagrams_injected",
    /// Datagrams deliberately not sent on because we answered them.
    DatagramsSwallowed = "datagrams_swallowed",
    /// Datagrams that are no LLUDP packet; they are forwarded when their circuit is known.
    DatagramsMalformed = "datagrams_malformed",
    /// Datagrams from an address that has no business on the circuit.
    DatagramsStranger = "datagrams_from_strangers",
    /// Datagrams the kernel did not take.
    DatagramsUnsent = "datagrams_unsent",
    /// Asset requests seen over LLUDP (RequestImage blocks, TransferRequests of source 2).
    UdpAssetRequests = "udp_asset_requests",
    /// Logins that succeeded through us.
    LoginsGranted = "logins_granted",
    /// Login replies of any other kind.
    LoginsOther = "logins_other",
    /// Sessions that ended (logout, kick or silence).
    SessionsEnded = "sessions_ended",
    /// Addresses or URLs left unrewritten because the grid may not lead us there.
    AddressesRefused = "addresses_refused",
    /// HTTP requests turned away: foreign Host, Origin, Sec-Fetch-Site, CONNECT, absolute form.
    RequestsRefused = "requests_refused",
    /// HTTP requests forwarded to the grid that are no asset requests.
    RequestsProxied = "requests_proxied",
    /// Replies larger than we read whole; passed through unrewritten.
    RepliesTooLarge = "replies_too_large",
    /// Replies we could not read; passed through untouched.
    RepliesUnreadable = "replies_unreadable",
    /// Event-queue replies kept for a viewer that had gone, and delivered later.
    EventRepliesRedelivered = "event_replies_redelivered",
    /// Upstream requests that failed before a reply.
    UpstreamFailures = "upstream_failures",
    /// Upstream asset bodies that broke off.
    UpstreamTruncated = "upstream_truncated",
    /// Asset bytes read from the grid over HTTP.
    BytesFromGrid = "bytes_from_grid",
    /// Asset bytes written to viewers over HTTP.
    BytesToViewer = "bytes_to_viewer",
    /// Assets stored.
    StoreWrites = "store_writes",
    /// Assets the store did not take: disk full, or an I/O error.
    StoreWriteFailures = "store_write_failures",
    /// Assets dropped before writing because the store was busy.
    StoreWritesSkipped = "store_writes_skipped",
    /// Stored files found damaged, dropped.
    StoreCorrupt = "store_corrupt",
    /// Reads that the disk did not answer in time; treated as misses.
    StoreBusy = "store_busy",
    /// Stored assets evicted.
    StoreEvictions = "store_evictions",
    /// Milliseconds of waiting that hits over HTTP have saved: the grid's usual time less ours, by estimate.
    TimeSavedMs = "time_saved_ms",
    /// Milliseconds by which hits over HTTP took longer than the grid usually does.
    TimeLostMs = "time_lost_ms",
    /// Actions taken on the page, or by scripts with its token.
    ControlActions = "control_actions",
    /// Actions that were not taken: without the token, from another site, or not understood.
    ControlActionsRefused = "control_actions_refused",
    /// Listeners to the page's events that were turned away because there were too many.
    PageListenersRefused = "page_listeners_refused",
    /// Times that what the page remembers could not be written down.
    PageFilesUnwritten = "page_files_unwritten",
    /// Scenes that came to rest.
    ScenesCompleted = "scenes_completed",
    /// Assets that were warmed up ahead of a visit.
    AssetsPrewarmed = "assets_prewarmed",
    /// Bodies that completed but are not of the kind they were asked as, or not whole.
    AssetsInvalid = "assets_invalid",
    /// Asset bytes read from the cache service.
    BytesFromService = "bytes_from_service",
    /// Reads that the cache service had nothing for.
    ServiceAbsent = "service_absent",
    /// Reads not made because the cache service had just said that it has nothing.
    ServiceKnownAbsent = "service_known_absent",
    /// Reads not made because the cache service does not answer in time, is busy, or is not trusted.
    ServiceAway = "service_away",
    /// Reads not made because too many others had to be asked of the grid too.
    ServiceOverBudget = "service_over_budget",
    /// Reads for which the grid was asked too, because the cache service took too long.
    ServiceHedges = "service_hedges",
    /// Reads that failed: no connection, or an answer that broke off.
    ServiceFailures = "service_failures",
    /// Requests that went on from one node of the cache service to another.
    ServiceFailovers = "service_failovers",
    /// Answers of the cache service that say it is busy or refuses us.
    ServiceBusy = "service_busy",
    /// Answers whose bytes were not those of their digest; nobody got them.
    ServiceWrongBytes = "service_wrong_bytes",
    /// Answers that are no valid asset of their kind; nobody got them.
    ServiceInvalid = "service_invalid",
    /// Hits left to the grid because others have said otherwise.
    ServiceVerify = "service_verify",
    /// Hits compared with the grid.
    ServiceSpotChecks = "service_spot_checks",
    /// Hits that were proven to differ from what the grid has.
    ServiceMismatches = "service_mismatches",
    /// Assets taken into the upload queue.
    UploadsQueued = "uploads_queued",
    /// Attestations that the cache service answered.
    UploadsAttested = "uploads_attested",
    /// Bodies that the cache service took.
    UploadsSent = "uploads_sent",
    /// Bytes of bodies sent to the cache service, as they were packed.
    UploadBytes = "upload_bytes",
    /// Uploads put off because the cache service was busy.
    UploadsPutOffBusy = "uploads_put_off_busy",
    /// Uploads put off because the cache service could not be reached.
    UploadsPutOffUnreachable = "uploads_put_off_unreachable",
    /// Uploads put off because the cache service does not let us write.
    UploadsPutOffShutOut = "uploads_put_off_shut_out",
    /// Uploads put off for any other reason.
    UploadsPutOffTrouble = "uploads_put_off_trouble",
    /// Assets not queued: bytes came from the cache service or were held from an earlier run.
    UploadsRefusedNotHeard = "uploads_refused_not_heard",
    /// Assets not queued: the grid's owner has opted out.
    UploadsRefusedOwner = "uploads_refused_owner",
    /// Assets not queued: the grid is private and the cache service is not.
    UploadsRefusedPrivateGrid = "uploads_refused_private_grid",
    /// Assets not queued: they came by an asset URL, without a login.
    UploadsRefusedNoLogin = "uploads_refused_no_login",
    /// Assets not queued: their end is not where their format says.
    UploadsRefusedInexactEnd = "uploads_refused_inexact_end",
    /// Assets not queued: bakes by their content, or formats that others are not given.
    UploadsRefusedNotShareable = "uploads_refused_not_shareable",
    /// Assets not queued: known as bakes of avatars.
    UploadsRefusedBaked = "uploads_refused_baked",
    /// Assets not queued: the cache service was proven to give wrong bytes.
    UploadsRefusedDistrusted = "uploads_refused_distrusted",
    /// Assets not queued: alone more than the queue may hold.
    UploadsRefusedTooLarge = "uploads_refused_too_large",
    /// Uploads dropped: seen in a baked slot of an avatar while they waited.
    UploadsDroppedBaked = "uploads_dropped_baked",
    /// Uploads dropped: the queue was full and they were the oldest.
    UploadsDroppedFull = "uploads_dropped_full",
    /// Uploads dropped: too long in the queue.
    UploadsDroppedOld = "uploads_dropped_old",
    /// Uploads dropped: the local store no longer had the asset.
    UploadsDroppedMissing = "uploads_dropped_missing",
    /// Uploads dropped: the grid has since sent other content, or the store has other bytes.
    UploadsDroppedChanged = "uploads_dropped_changed",
    /// Uploads dropped: the cache service has other content under the name.
    UploadsDroppedConflict = "uploads_dropped_conflict",
    /// Uploads dropped: the asset was taken down.
    UploadsDroppedTakenDown = "uploads_dropped_taken_down",
    /// Uploads dropped: the cache service does not take them.
    UploadsDroppedRefused = "uploads_dropped_refused",
    /// Uploads dropped: failed too often.
    UploadsDroppedFailed = "uploads_dropped_failed",
    /// Uploads dropped: the grid's owner has opted out since, or the cache service is not trusted any more.
    UploadsDroppedWithdrawn = "uploads_dropped_withdrawn",
    /// Uploads dropped: queued for another cache service, or of a grid at home and the service is not.
    UploadsDroppedNotForService = "uploads_dropped_not_for_service",
    /// Damaged places in the file of the upload queue, skipped.
    UploadQueueCorrupt = "upload_queue_corrupt",
    /// Times the upload queue could not be written down.
    UploadQueueUnwritten = "upload_queue_unwritten",
    /// Announcements that say where a shared cache in the local network is.
    LanSightings = "lan_sightings",
    /// Announcements that say nothing new, lead out of the local network, or are too many.
    LanSightingsIgnored = "lan_sightings_ignored",
    /// Times it was tried whether a joined shared cache is where it may be.
    LanProbes = "lan_probes",
    /// The same in vain: nobody there, or somebody else.
    LanProbesFailed = "lan_probes_failed",
    /// Times that a joined shared cache was found at another address.
    LanMoves = "lan_moves",
    /// Times that listening for announcements failed.
    MdnsFailures = "mdns_failures",
}

/// All counters of one process. Share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Counters,
    served: [[AtomicU64; 5]; 5],
    served_bytes: [[AtomicU64; 5]; 5],
    requests_in_flight: AtomicI64,
    sessions_open: AtomicI64,
    store_bytes: AtomicU64,
    store_objects: AtomicU64,
    store_limit: AtomicU64,
    store_pinned: AtomicU64,
    regions_known: AtomicU64,
    regions_pinned: AtomicU64,
    upload_entries: AtomicU64,
    upload_waiting_bytes: AtomicU64,
    upload_limit: AtomicU64,
    uploads_paused: AtomicBool,
    service: Mutex<Option<ServiceState>>,
    lan: Mutex<Option<LanState>>,
}

/// The shared caches at home. Where they are is nobody's business who reads a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LanState {
    /// Those that were joined.
    pub joined: u64,
    /// Others that announce themselves in the network now.
    pub unknown: u64,
}

/// How the cache service stands, for those that have one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceState {
    /// `working`, `away` or `distrusted`.
    pub state: Cow<'static, str>,
    /// Whether it is reached over QUIC rather than HTTP.
    pub quic: bool,
    /// How long a request waits for it at most, in microseconds.
    pub deadline_us: u64,
    /// How many nodes its name stands for; 0 while that is not known.
    #[serde(default)]
    pub nodes: u64,
    /// How many of them are not known to fail.
    #[serde(default)]
    pub nodes_well: u64,
}

#[derive(Debug)]
struct Counters(Vec<AtomicU64>);

impl Default for Counters {
    fn default() -> Self {
        Self(Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Metrics {
    /// Adds `amount` to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        if let Some(cell) = self.counters.0.get(counter as usize) {
            cell.fetch_add(amount, Ordering::Relaxed);
        }
    }

    /// Adds one to a counter.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// The value of a counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.0.get(counter as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// One asset request answered from `source` with `bytes` bytes of body.
    pub fn asset_served(&self, kind: AssetKind, source: AssetSource, bytes: u64) {
        if let Some(cell) = cell(&self.served, kind, source) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(cell) = cell(&self.served_bytes, kind, source) {
            cell.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// How many asset requests were answered from `source`, and with how many bytes.
    #[must_use]
    pub fn served(&self, kind: AssetKind, source: AssetSource) -> (u64, u64) {
        let load = |table| cell(table, kind, source).map_or(0, |cell| cell.load(Ordering::Relaxed));
        (load(&self.served), load(&self.served_bytes))
    }

    /// Marks a request as in flight until the guard is dropped.
    pub fn request_in_flight(self: &std::sync::Arc<Self>) -> InFlight {
        self.requests_in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(std::sync::Arc::clone(self))
    }

    /// Requests in flight now.
    #[must_use]
    pub fn requests_in_flight(&self) -> i64 {
        self.requests_in_flight.load(Ordering::Relaxed)
    }

    /// Changes the number of open sessions by `by`.
    pub fn sessions_changed(&self, by: i64) {
        self.sessions_open.fetch_add(by, Ordering::Relaxed);
    }

    /// Sessions open now.
    #[must_use]
    pub fn sessions_open(&self) -> i64 {
        self.sessions_open.load(Ordering::Relaxed)
    }

    /// Sets the size of the disk tier.
    pub fn set_store_size(&self, objects: u64, bytes: u64) {
        self.store_objects.store(objects, Ordering::Relaxed);
        self.store_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets how many shared caches at home were joined, and how many others announce themselves.
    pub fn set_lan(&self, joined: u64, unknown: u64) {
        *self.lan.lock().unwrap_or_else(PoisonError::into_inner) = Some(LanState { joined, unknown });
    }

    /// The shared caches at home; `None` where they are not looked for.
    #[must_use]
    pub fn lan(&self) -> Option<LanState> {
        *self.lan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the cache service stands.
    pub fn set_service(&self, state: &'static str, quic: bool, deadline: Duration) {
        let deadline_us = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        let (nodes, nodes_well) = service.as_ref().map_or((0, 0), |before| (before.nodes, before.nodes_well));
        *service = Some(ServiceState { state: Cow::Borrowed(state), quic, deadline_us, nodes, nodes_well });
    }

    /// Sets how many nodes the cache service has, and how many of them are not known to fail.
    pub fn set_service_nodes(&self, (nodes, well): (usize, usize)) {
        if let Some(service) = &mut *self.service.lock().unwrap_or_else(PoisonError::into_inner) {
            (service.nodes, service.nodes_well) = (nodes as u64, well as u64);
        }
    }

    /// How the cache service stands; `None` without one.
    #[must_use]
    pub fn service(&self) -> Option<ServiceState> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the size of the upload queue.
    pub fn set_upload_queue(&self, entries: u64, bytes: u64) {
        self.upload_entries.store(entries, Ordering::Relaxed);
        self.upload_waiting_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The size of the upload queue: assets and bytes.
    #[must_use]
    pub fn upload_queue(&self) -> (u64, u64) {
        (self.upload_entries.load(Ordering::Relaxed), self.upload_waiting_bytes.load(Ordering::Relaxed))
    }

    /// Sets whether uploads are paused, and their cap in bytes a second; 0 is none.
    pub fn set_upload_control(&self, paused: bool, limit: u64) {
        self.uploads_paused.store(paused, Ordering::Relaxed);
        self.upload_limit.store(limit, Ordering::Relaxed);
    }

    /// Whether uploads are paused, and their cap in bytes a second; 0 is none.
    #[must_use]
    pub fn upload_control(&self) -> (bool, u64) {
        (self.uploads_paused.load(Ordering::Relaxed), self.upload_limit.load(Ordering::Relaxed))
    }

    /// Sets how much the disk tier may take, and how much of it is pinned.
    pub fn set_store_bounds(&self, limit: u64, pinned: u64) {
        self.store_limit.store(limit, Ordering::Relaxed);
        self.store_pinned.store(pinned, Ordering::Relaxed);
    }

    /// How much the disk tier may take, and how much of it is pinned, in bytes.
    #[must_use]
    pub fn store_bounds(&self) -> (u64, u64) {
        (self.store_limit.load(Ordering::Relaxed), self.store_pinned.load(Ordering::Relaxed))
    }

    /// Sets how many regions are known, and how many of them are pinned.
    pub fn set_regions(&self, known: u64, pinned: u64) {
        self.regions_known.store(known, Ordering::Relaxed);
        self.regions_pinned.store(pinned, Ordering::Relaxed);
    }

    /// How many regions are known, and how many of them are pinned.
    #[must_use]
    pub fn regions(&self) -> (u64, u64) {
        (self.regions_known.load(Ordering::Relaxed), self.regions_pinned.load(Ordering::Relaxed))
    }

    /// The size of the disk tier: objects and bytes.
    #[must_use]
    pub fn store_size(&self) -> (u64, u64) {
        (self.store_objects.load(Ordering::Relaxed), self.store_bytes.load(Ordering::Relaxed))
    }
}

/// Everything that outlives a restart: the counters, but not the gauges. Names that a later or an
/// earlier version knows are skipped when reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Snapshot {
    /// Counter name → value.
    pub counters: BTreeMap<String, u64>,
    /// Asset requests answered, by kind and then by source.
    pub served: BTreeMap<AssetKind, BTreeMap<AssetSource, Served>>,
}

/// Asset requests answered from one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Served {
    /// How many.
    pub requests: u64,
    /// With how many bytes of body in all.
    pub bytes: u64,
}

impl Metrics {
    /// The values now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let served = |kind| {
            AssetSource::ALL.into_iter().map(move |source| {
                let (requests, bytes) = self.served(kind, source);
                (source, Served { requests, bytes })
            })
        };
        Snapshot {
            counters: Counter::ALL.iter().map(|&c| (c.name().to_owned(), self.get(c))).collect(),
            served: AssetKind::ALL.into_iter().map(|kind| (kind, served(kind).collect())).collect(),
        }
    }

    /// Adds what an earlier run counted to what this one has.
    pub fn add_snapshot(&self, earlier: &Snapshot) {
        for &counter in Counter::ALL {
            self.add(counter, earlier.counters.get(counter.name()).copied().unwrap_or(0));
        }
        for (&kind, sources) in &earlier.served {
            for (&source, served) in sources {
                let add = |table, amount| {
                    if let Some(cell) = cell(table, kind, source) {
                        cell.fetch_add(amount, Ordering::Relaxed);
                    }
                };
                add(&self.served, served.requests);
                add(&self.served_bytes, served.bytes);
            }
        }
    }
}

/// Keeps a request counted as in flight.
#[derive(Debug)]
pub struct InFlight(std::sync::Arc<Metrics>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn cell(table: &[[AtomicU64; 5]; 5], kind: AssetKind, source: AssetSource) -> Option<&AtomicU64> {
    table.get(kind as usize)?.get(source as usize)
}
