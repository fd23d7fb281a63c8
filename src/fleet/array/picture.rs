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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::{ArrayRules, NodeSpec};
    use super::*;
    use crate::fleet::health::{HealthRules, Probe};
    use crate::fleet::notices::NoticeRules;
    use crate::fleet::report::Capacity;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn array(now: Instant) -> Array {
        let spec = |name: &str| NodeSpec {
            name: name.into(),
            url: format!("https://{name}:8443"),
            addresses: vec![],
            handle: String::new(),
        };
        let rules = ArrayRules {
            health: HealthRules::every(INTERVAL),
            scaling: None,
            capacity: Capacity::default(),
            notices: NoticeRules::default(),
        };
        Array::new(rules, vec![spec("lynx"), spec("otter")], now)
    }

    fn probe(array: &mut Array, now: Instant, name: &str, said: Option<&str>) {
        let ready = Probe::Ready { latency: Duration::ZERO, storage: true };
        let probe = if said.is_some() { ready } else { Probe::Refused };
        array.probed(now, name, now, probe, said.and_then(|text| NodeReport::parse(text.as_bytes())));
    }

    const WELL: &str = r#"{"store":{"canary":true},"catalog":{"primary":true}}"#;
    const NO_STORE: &str = r#"{"store":{"canary":false},"catalog":{"primary":true}}"#;

    #[test]
    fn what_lies_behind_is_judged_by_the_nodes_that_are_there_and_meant_to_be() {
        let mut now = Instant::now();
        let mut array = array(now);
        let unknown = StorageView::default();
        assert_eq!(array.storage_view(), unknown);
        assert!(array.members(now).iter().all(|member| member.state == State::Unknown));
        for (otter, lynx, store) in
            [(WELL, WELL, State::Healthy), (NO_STORE, WELL, State::Amber), (NO_STORE, NO_STORE, State::Lost)]
        {
            now += INTERVAL;
            probe(&mut array, now, "otter", Some(otter));
            probe(&mut array, now, "lynx", Some(lynx));
            assert_eq!(array.storage_view(), StorageView { store, catalog: State::Healthy });
        }
        // One that is away by plan has nothing to say about what is wrong.
        let mark = Maintenance { until: 100, reason: "disk".into() };
        array.maintenance(5, &BTreeMap::from([("otter".to_owned(), mark)]));
        probe(&mut array, now, "lynx", Some(WELL));
        assert_eq!(array.storage_view().store, State::Healthy);
        assert_eq!(array.members(now).iter().filter(|it| it.state == State::Maintenance).count(), 1);
    }

    #[test]
    fn a_trouble_is_over_when_the_node_is_back_or_gone_and_operators_know() {
        let mut now = Instant::now();
        let mut array = array(now);
        // Nobody has looked yet: who begins with a lost node does not say that it is back.
        assert!(!array.is_over("node otter"));
        assert!(array.is_over("node elk") && array.is_over("limit"));
        probe(&mut array, now, "otter", Some(WELL));
        assert!(array.is_over("node otter"));
        for _ in 0..12 {
            now += INTERVAL;
            probe(&mut array, now, "otter", None);
            array.tick(now);
        }
        assert!(!array.is_over("node otter"));
        assert_eq!(array.known_troubles().map(|(key, ..)| key).collect::<Vec<_>>(), ["node otter"]);
        for _ in 0..12 {
            now += INTERVAL;
            probe(&mut array, now, "otter", Some(WELL));
            array.tick(now);
        }
        assert!(array.is_over("node otter") && array.known_troubles().count() == 0);
    }

    #[test]
    fn the_hit_ratio_is_of_what_was_read_between_two_reports() {
        let report = |reads: u64, hits: u64| {
            let text = format!(r#"{{"counters":{{"reads":{reads},"hits":{hits}}}}}"#);
            NodeReport::parse(text.as_bytes()).unwrap()
        };
        assert_eq!(hits(None, &report(10, 5)), None);
        assert_eq!(hits(Some(&report(10, 5)), &report(10, 5)), None);
        assert_eq!(hits(Some(&report(10, 5)), &report(30, 20)), Some(0.75));
        assert_eq!(hits(Some(&report(10, 5)), &report(3, 1)), None, "it has started anew");
        assert_eq!(hits(Some(&report(0, 0)), &report(1, 9)), Some(1.0), "nonsense is bounded");
    }
}
