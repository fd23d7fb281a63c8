//! `/status.json`: what a person or a script wants to know about a running proxy. Its keys are a
//! contract; a golden file holds them. Numbers only: no ids, names, addresses or tokens, since grid
//! pages can read it too.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::metrics::{Counter, LanState, Metrics, Served, ServiceState};
use crate::asset::{AssetKind, AssetSource};

/// The whole answer. Counters include earlier runs on the same data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The running version.
    pub version: String,
    /// Seconds since this run started.
    pub uptime_s: u64,
    /// Logins through us.
    pub sessions: Sessions,
    /// Requests being answered now.
    pub requests_in_flight: u64,
    /// Asset requests, all kinds together.
    pub assets: Assets,
    /// The same by kind.
    pub by_kind: BTreeMap<AssetKind, Assets>,
    /// LLUDP.
    pub datagrams: Datagrams,
    /// Waiting that hits have saved.
    #[serde(default)]
    pub saved: Saved,
    /// The disk tier.
    pub store: Store,
    /// The regions that were visited.
    #[serde(default)]
    pub regions: Regions,
    /// The cache service; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceState>,
    /// The shared caches at home; absent where they are not looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lan: Option<LanState>,
    /// The upload queue.
    pub uploads: Uploads,
    /// Every counter by its name.
    pub counters: BTreeMap<String, u64>,
}

/// Logins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// In progress now.
    pub open: u64,
    /// That succeeded.
    pub granted: u64,
    /// That ended.
    pub ended: u64,
}

/// Asset requests and who answered them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assets {
    /// All of them.
    pub requests: u64,
    /// Those answered by a tier of ours: memory, disk or service.
    pub hits: u64,
    /// `hits / requests`, 0 to 1; absent before the first request.
    pub hit_rate: Option<f64>,
    /// Bytes of body that the grid did not have to send.
    pub bytes_saved: u64,
    /// Who delivered the bytes.
    pub served: BTreeMap<AssetSource, Served>,
}

impl Assets {
    /// How many were delivered: what failed, or was not there, shows nobody at work.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.served.values().map(|served| served.requests).fold(0, u64::saturating_add)
    }
}

/// Datagrams and what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    /// Sent on.
    pub forwarded: u64,
    /// Sent on with changes.
    pub patched: u64,
    /// Made by us.
    pub injected: u64,
    /// Not sent on, because we answered them.
    pub swallowed: u64,
    /// No LLUDP packet.
    pub malformed: u64,
    /// Dropped: from an address that has no business on the circuit, or not taken by the kernel.
    pub dropped: u64,
}

/// The disk tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Assets in it.
    pub objects: u64,
    /// Bytes it takes.
    pub bytes: u64,
    /// Assets it did not take: disk full, or an I/O error.
    pub write_failures: u64,
    /// The most bytes it may take; 0 without a disk tier.
    #[serde(default)]
    pub limit: u64,
    /// Bytes that are kept from eviction.
    #[serde(default)]
    pub pinned_bytes: u64,
}

/// Waiting that hits over HTTP have saved, by estimate: the grid's usual time less ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Milliseconds, added up over all requests.
    pub ms_saved: u64,
    /// Milliseconds by which hits took longer than the grid usually does.
    pub ms_lost: u64,
}

/// Regions that were visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// How many are known.
    pub known: u64,
    /// Those whose assets are kept from eviction.
    pub pinned: u64,
    /// Scenes that came to rest.
    pub scenes_completed: u64,
}

/// What is given to the cache service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploads {
    /// Assets that wait.
    pub waiting: u64,
    /// Bytes of them.
    pub waiting_bytes: u64,
    /// Attestations that the service answered.
    pub attested: u64,
    /// Bodies that the service took.
    pub sent: u64,
    /// Bytes of bodies sent.
    pub bytes: u64,
    /// Assets that were not queued, for whatever reason; the counters say which.
    pub refused: u64,
    /// Assets dropped from the queue, for whatever reason; the counters say which.
    pub dropped: u64,
    /// Whether nothing is sent for now.
    pub paused: bool,
    /// The cap in bytes a second; 0 is none.
    pub limit: u64,
}

impl Uploads {
    fn of(metrics: &Metrics) -> Self {
        let (waiting, waiting_bytes) = metrics.upload_queue();
        let (paused, limit) = metrics.upload_control();
        let sum = |prefix: &str| {
            let counted = Counter::ALL.iter().filter(|counter| counter.name().starts_with(prefix));
            counted.fold(0_u64, |sum, counter| sum.saturating_add(metrics.get(*counter)))
        };
        Self {
            waiting,
            waiting_bytes,
            attested: metrics.get(Counter::UploadsAttested),
            sent: metrics.get(Counter::UploadsSent),
            bytes: metrics.get(Counter::UploadBytes),
            refused: sum("uploads_refused_"),
            dropped: sum("uploads_dropped_"),
            paused,
            limit,
        }
    }
}

impl Status {
    /// The state now of a proxy that has been running for `uptime`.
    #[must_use]
    pub fn of(metrics: &Metrics, uptime: Duration) -> Self {
        let snapshot = metrics.snapshot();
        let counted = |counter| metrics.get(counter);
        let gauge = |value: i64| u64::try_from(value).unwrap_or(0);
        let (objects, bytes) = metrics.store_size();
        let (limit, pinned_bytes) = metrics.store_bounds();
        let (known, pinned) = metrics.regions();

        let mut all = BTreeMap::<AssetSource, Served>::new();
        for (source, served) in snapshot.served.values().flatten() {
            let sum = all.entry(*source).or_default();
            sum.requests = sum.requests.saturating_add(served.requests);
            sum.bytes = sum.bytes.saturating_add(served.bytes);
        }
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: uptime.as_secs(),
            sessions: Sessions {
                open: gauge(metrics.sessions_open()),
                granted: counted(Counter::LoginsGranted),
                ended: counted(Counter::SessionsEnded),
            },
            requests_in_flight: gauge(metrics.requests_in_flight()),
            assets: Assets::of(all),
            by_kind: snapshot.served.into_iter().map(|(kind, served)| (kind, Assets::of(served))).collect(),
            datagrams: Datagrams {
                forwarded: counted(Counter::DatagramsForwarded),
                patched: counted(Counter::DatagramsPatched),
                injected: counted(Counter::DatagramsInjected),
                swallowed: counted(Counter::DatagramsSwallowed),
                malformed: counted(Counter::DatagramsMalformed),
                dropped: counted(Counter::DatagramsStranger)
                    .saturating_add(counted(Counter::DatagramsUnsent)),
            },
            saved: Saved { ms_saved: counted(Counter::TimeSavedMs), ms_lost: counted(Counter::TimeLostMs) },
            store: Store {
                objects,
                bytes,
                write_failures: counted(Counter::StoreWriteFailures),
                limit,
                pinned_bytes,
            },
            regions: Regions { known, pinned, scenes_completed: counted(Counter::ScenesCompleted) },
            service: metrics.service(),
            lan: metrics.lan(),
            uploads: Uploads::of(metrics),
            counters: snapshot.counters,
        }
    }

    /// What the cache service does for its user, in a sentence or two; `None` without one.
    #[must_use]
    pub fn service_sentence(&self) -> Option<String> {
        let service = self.service.as_ref()?;
        let counted = |counter: Counter| self.counters.get(counter.name()).copied().unwrap_or(0);
        let served = self.assets.served.get(&AssetSource::Service).copied().unwrap_or_default();
        let way = if service.quic { "QUIC" } else { "HTTP" };
        let nodes = match (service.nodes, service.nodes_well) {
            (0 | 1, _) => String::new(),
            (all, well) if well < all => format!(", {well} of its {all} nodes"),
            (all, _) => format!(", with {all} nodes"),
        };
        let standing = match service.state.as_ref() {
            "working" => format!(
                "Answers over {way}{nodes}; no request waits for it longer than {} ms.",
                service.deadline_us.div_ceil(1000)
            ),
            "distrusted" => {
                "Not used any more: it gave bytes that differ from the grid's, and what came from it was \
                 dropped. Tell its operator; the log says how to use it again."
                    .into()
            }
            _ => {
                "Does not answer in time; the grid is asked at once, and it is tried again in the background."
                    .into()
            }
        };
        Some(format!(
            "{standing} It answered {} requests with {}, had nothing for {}, and was too late for {}.",
            served.requests,
            human_bytes(served.bytes),
            counted(Counter::ServiceAbsent),
            counted(Counter::ServiceHedges),
        ))
    }

    /// Whether it is working, in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Assets { requests, hit_rate, bytes_saved, .. } = self.assets;
        match hit_rate {
            None => "Running; no viewer has asked for an asset yet.".into(),
            Some(rate) => format!(
                "Working: {} of {requests} asset requests came from this machine, and {} were saved.",
                percent(rate),
                human_bytes(bytes_saved),
            ),
        }
    }
}

impl Assets {
    fn of(served: BTreeMap<AssetSource, Served>) -> Self {
        let sum = |sources: &[AssetSource], pick: fn(&Served) -> u64| {
            sources.iter().filter_map(|source| served.get(source)).map(pick).fold(0, u64::saturating_add)
        };
        let ours = [AssetSource::Memory, AssetSource::Disk, AssetSource::Service];
        let requests = sum(&AssetSource::ALL, |served| served.requests);
        let hits = sum(&ours, |served| served.requests);
        let joined = sum(&[AssetSource::Joined], |served| served.bytes);
        Self {
            requests,
            hits,
            hit_rate: (requests > 0).then(|| ratio(hits, requests)),
            bytes_saved: sum(&ours, |served| served.bytes).saturating_add(joined),
            served,
        }
    }
}

/// `part / whole`, rounded to four places so that the JSON stays readable.
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0
}

/// A rate of 0 to 1 as people read it.
#[must_use]
pub fn percent(rate: f64) -> String {
    format!("{:.1} %", rate * 100.0)
}

/// A number of bytes as people read it: `512 B`, `1.5 MiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn a_busy_proxy() -> Status {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.asset_served(AssetKind::Texture, AssetSource::Memory, 1000);
        }
        metrics.asset_served(AssetKind::Texture, AssetSource::Grid, 1000);
        metrics.asset_served(AssetKind::Mesh, AssetSource::Joined, 24);
        metrics.count(Counter::DatagramsStranger);
        metrics.count(Counter::DatagramsUnsent);
        Status::of(&metrics, Duration::from_millis(2500))
    }

    #[test]
    fn rates_and_savings_are_by_kind_and_in_all() {
        let status = a_busy_proxy();
        assert_eq!((status.assets.requests, status.assets.hits), (5, 3));
        assert_eq!(status.assets.hit_rate, Some(0.6));
        assert_eq!(status.assets.bytes_saved, 3024);
        assert_eq!(status.by_kind[&AssetKind::Texture].hit_rate, Some(0.75));
        assert_eq!(status.by_kind[&AssetKind::Sound].hit_rate, None);
        assert_eq!((status.uptime_s, status.datagrams.dropped), (2, 2));
        assert_eq!(
            status.sentence(),
            "Working: 60.0 % of 5 asset requests came from this machine, and 3.0 KiB were saved."
        );
    }

    #[test]
    fn what_the_service_does_is_told_in_words() {
        let metrics = Metrics::default();
        let told = || Status::of(&metrics, Duration::ZERO).service_sentence();
        assert_eq!(told(), None);
        metrics.asset_served(AssetKind::Mesh, AssetSource::Service, 2048);
        metrics.count(Counter::ServiceAbsent);
        metrics.set_service("working", true, Duration::from_micros(12_300));
        assert_eq!(
            told().unwrap(),
            "Answers over QUIC; no request waits for it longer than 13 ms. It answered 1 requests with 2.0 KiB, had \
             nothing for 1, and was too late for 0."
        );
        metrics.set_service_nodes((3, 3));
        assert!(told().unwrap().starts_with("Answers over QUIC, with 3 nodes; no request"));
        metrics.set_service_nodes((3, 2));
        metrics.set_service("working", false, Duration::ZERO);
        assert!(told().unwrap().starts_with("Answers over HTTP, 2 of its 3 nodes; no request"));
        metrics.set_service("distrusted", false, Duration::ZERO);
        assert!(told().unwrap().starts_with("Not used any more"));
        metrics.set_service("away", false, Duration::ZERO);
        assert!(told().unwrap().starts_with("Does not answer in time"));
    }

    #[test]
    fn the_json_reads_back_as_what_it_was() {
        let status = a_busy_proxy();
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }

    #[test]
    fn bytes_are_shown_in_the_largest_fitting_unit() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10 << 30, "10.0 GiB"), (5 << 50, "5120.0 TiB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
