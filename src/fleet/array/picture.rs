//! The array as it is shown: to the public on the status page, and to operators.

use std::time::Instant;

use serde::Serialize;

use super::{Array, Maintenance, Node};
use crate::fleet::health::Dot;
use crate::fleet::history::State;
use crate::fleet::notices::Severity;
use crate::fleet::report::NodeReport;
use crate::fleet::scaling::Phase;

/// One member for the status page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// Its colour.
    pub dot: Dot,
    /// Where it stands.
    pub phase: Phase,
    /// How it is, for its history.
    pub state: State,
    /// Seconds since it became as it is.
    pub since_s: u64,
    /// Seconds since its process started.
    pub uptime_s: Option<u64>,
    /// How loaded it is.
    pub load: f64,
    /// Requests in a second, between the last two reports.
    pub requests_per_s: f64,
    /// Share of reads that it answered with the asset, between the last two reports; `None` when there were none.
    pub hit_ratio: Option<f64>,
    /// Connections that are open.
    pub connections: u64,
    /// How long the last probe took, in milliseconds.
    pub latency_ms: Option<u64>,
    /// Whether store and catalog work, as it says.
    pub storage: bool,
    /// Planned absence.
    pub maintenance: Option<Maintenance>,
}

/// What lies behind the nodes, as they report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StorageView {
    /// Where the blobs are.
    pub store: State,
    /// Where is written what there is.
    pub catalog: State,
}

impl Default for StorageView {
    fn default() -> Self {
        Self { store: State::Unknown, catalog: State::Unknown }
    }
}

impl Node {
    const fn state(&self, dot: Dot, known: bool) -> State {
        if self.maintenance.is_some() || !matches!(self.phase, Phase::Serving) {
            return State::Maintenance;
        }
        match dot {
            Dot::Green => State::Healthy,
            Dot::Amber if !known => State::Unknown,
            Dot::Amber => State::Amber,
            Dot::Red => State::Lost,
        }
    }

    fn shown(&self, now: Instant) -> MemberView {
        let (dot, healthy) = (self.health.dot(), self.health.is_healthy());
        let report = self.report.as_ref().filter(|_| healthy);
        MemberView {
            name: self.spec.name.clone(),
            dot,
            phase: self.phase,
            // One that is neither healthy nor red has not been probed yet.
            state: self.state(dot, healthy || dot == Dot::Red),
            since_s: now.duration_since(self.health.since()).as_secs(),
            uptime_s: report.map(|report| report.uptime_s),
            load: rounded(self.load),
            requests_per_s: if healthy { rounded(self.rate) } else { 0.0 },
            hit_ratio: self.hits.filter(|_| healthy).map(rounded),
            connections: report.map_or(0, |report| report.connections_open),
            latency_ms: self.health.latency().and_then(|latency| u64::try_from(latency.as_millis()).ok()),
            storage: self.health.storage_works(),
            maintenance: self.maintenance.clone(),
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The share of reads with an asset between two reports.
pub(super) fn hits(old: Option<&NodeReport>, new: &NodeReport) -> Option<f64> {
    let count = |report: &NodeReport, name: &str| report.counters.get(name).copied().unwrap_or(0);
    // A restart begins to count anew, and there the first report says only how it was since then.
    let more = |name: &str| count(new, name).checked_sub(count(old?, name));
    let (reads, hits) = (more("reads")?, more("hits")?);
    let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    (reads > 0).then(|| (number(hits) / number(reads)).clamp(0.0, 1.0))
}

impl Array {
    /// The members for the status page.
    #[must_use]
    pub fn members(&self, now: Instant) -> Vec<MemberView> {
        self.nodes.values().map(|node| node.shown(now)).collect()
    }

    /// What healthy nodes say of store and catalog: what some of them say is a trouble, what all say a loss. Of nodes
    /// that do not let us look nothing is known.
    #[must_use]
    pub fn storage_view(&self) -> StorageView {
        let said = || {
            let meant = |node: &&Node| node.health.is_healthy() && node.maintenance.is_none();
            self.nodes.values().filter(meant).filter_map(|node| node.behind)
        };
        let all = said().count();
        let state = |works: usize| match works {
            _ if all == 0 => State::Unknown,
            0 => State::Lost,
            works if works == all => State::Healthy,
            _ => State::Amber,
        };
        StorageView {
            store: state(said().filter(|(store, _)| *store).count()),
            catalog: state(said().filter(|(_, catalog)| *catalog).count()),
        }
    }

    /// Troubles that operators should know of by now, whoever led when they began.
    pub fn known_troubles(&self) -> impl Iterator<Item = (&str, Severity, &str)> {
        self.notices.known()
    }

    /// Whether what a director reported under this key is certainly over, though this one has never seen it begin:
    /// the node is there, or is not one of ours any more. Of other troubles nothing is to be said any more.
    #[must_use]
    pub fn is_over(&self, key: &str) -> bool {
        let quiet = key
            .strip_prefix("node ")
            .is_none_or(|name| self.nodes.get(name).is_none_or(|node| node.health.is_healthy()));
        quiet && self.notices.is_over(key)
    }
}
