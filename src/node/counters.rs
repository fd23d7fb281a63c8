//! What a node counts.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Map, Value};

macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// A number that only grows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(super) enum Count { $($(#[doc = $doc])+ $variant),+ }

        const ALL: &[(Count, &str, &str)] =
            &[$((Count::$variant, $name, concat!($($doc),+).trim_ascii())),+];
    };
}

counts! {
    /// Connections that came in.
    Connections = "connections",
    /// Connections refused since their address, or all together, had too many.
    ConnectionsRefused = "connections_refused",
    /// QUIC connections that had to show first that their address is theirs.
    AddressesAsked = "addresses_asked",
    /// Handshakes given up because they did not come to their end in time.
    HandshakesSlow = "handshakes_slow",
    /// Answers given up because their reader took them too slowly.
    ReadersSlow = "readers_slow",
    /// Requests without a token refused since there were too many of them from their address.
    AddressesLimited = "addresses_limited",
    /// Requests for an asset.
    Reads = "reads",
    /// Requests that were answered with the asset.
    Hits = "hits",
    /// Batched lookups.
    Lookups = "lookups",
    /// Attestations.
    Attestations = "attestations",
    /// Bodies uploaded.
    Bodies = "bodies",
    /// Contents that became visible to more readers.
    Publications = "publications",
    /// Attestations that contradict what is known.
    Conflicts = "conflicts",
    /// Assets that became disputed: two contents have a quorum, and strangers are served neither.
    Disputed = "disputed",
    /// Requests refused.
    Refused = "refused",
    /// Requests without a valid token.
    Unauthenticated = "unauthenticated",
    /// Requests refused since their principal's budget is used up.
    OverBudget = "over_budget",
    /// Requests refused since their principal asked for too much that nobody has.
    Guessing = "guessing",
    /// Proxies that enrolled.
    Enrolments = "enrolments",
    /// Times that the revocations could not be read.
    RevocationsUnread = "revocations_unread",
    /// Requests that could not be read.
    Malformed = "malformed",
    /// Bytes of bodies received.
    BytesIn = "bytes_in",
    /// Bytes of assets sent.
    BytesOut = "bytes_out",
    /// Blobs that the catalog names and the store does not hold.
    BlobsMissing = "blobs_missing",
    /// Blobs that could not be opened.
    BlobsDamaged = "blobs_damaged",
    /// Times that the store's marker did not open with this service's keys.
    StoreMismatches = "store_mismatches",
    /// Records of the catalog that could not be read.
    RecordsUnreadable = "records_unreadable",
    /// Bytes of blobs fetched from the store.
    StoreBytesIn = "store_bytes_in",
    /// Blobs, or pieces of large ones, found in the disk tier.
    DiskHits = "disk_hits",
    /// Files of the disk tier that were damaged or out of date, and fetched again.
    DiskDamaged = "disk_damaged",
    /// Heads of large blobs read again because another node has written the same content.
    HeadsRenewed = "heads_renewed",
    /// Uploads given up because they came too slowly.
    UploadsSlow = "uploads_slow",
    /// Assets taken down.
    TakenDown = "taken_down",
    /// Requests that the catalog failed.
    CatalogFailures = "catalog_failures",
    /// Records served as they were before the catalog went away.
    StaleRecords = "stale_records",
    /// Times that the node could not announce itself in the local network.
    Unannounced = "unannounced",
    /// Times that others announced so much that what was remembered of it was thrown away.
    AnnouncementFloods = "announcement_floods",
}

/// The counters.
pub(super) struct Counters {
    values: Vec<AtomicU64>,
    running: AtomicU64,
    connections: AtomicU64,
    requests: AtomicU64,
    started: Instant,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            running: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            started: Instant::now(),
        }
    }
}

impl Counters {
    pub(super) fn count(&self, what: Count) {
        self.add(what, 1);
    }

    pub(super) fn add(&self, what: Count, number: u64) {
        if let Some(value) = self.values.get(what as usize) {
            value.fetch_add(number, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self, what: Count) -> u64 {
        self.values.get(what as usize).map_or(0, |value| value.load(Ordering::Relaxed))
    }

    pub(super) fn entered(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has ended; whether it was the last one.
    pub(super) fn left(&self) -> bool {
        self.running.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(super) fn running(&self) -> u64 {
        self.running.load(Ordering::Acquire)
    }

    pub(super) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn disconnected(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests per second since the start.
    pub(super) fn rate(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) / self.started.elapsed().as_secs().max(1)
    }

    /// Hits in 1,000 reads, as a fraction.
    pub(super) fn hit_ratio(&self) -> f64 {
        let thousandths = self.get(Count::Hits).saturating_mul(1000) / self.get(Count::Reads).max(1);
        f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
    }

    pub(super) fn all(&self) -> Value {
        let numbers = ALL.iter().map(|(what, name, _)| ((*name).to_owned(), Value::from(self.get(*what))));
        Value::Object(numbers.collect::<Map<_, _>>())
    }

    pub(super) fn prometheus(&self, more: &[(&str, u64)]) -> String {
        let mut text = String::new();
        for (what, name, help) in ALL {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "# HELP rezcache_node_{name}_total {help}\n# TYPE rezcache_node_{name}_total counter\n\
                 rezcache_node_{name}_total {}\n",
                self.get(*what)
            );
        }
        let own = [("requests_running", self.running()), ("connections_open", self.connections())];
        for (name, value) in own.iter().chain(more) {
            let _ = writeln!(text, "# TYPE rezcache_node_{name} gauge\nrezcache_node_{name} {value}");
        }
        text
    }
}
