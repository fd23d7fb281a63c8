//! What a node says of itself, read leniently: a node of another version, or one that does not let us look, is still
//! a node.

use serde::Deserialize;

/// The load report, as far as the director needs it. Source: `GET /v1/node` of a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Since its start.
    pub uptime_s: u64,
    /// Whether it is leaving.
    pub draining: bool,
    /// Requests being answered.
    pub requests_running: u64,
    /// Requests in a second.
    pub requests_per_s: u64,
    /// Connections of both faces.
    pub connections_open: u64,
    /// Share of reads it had in memory.
    pub hit_ratio: Option<f64>,
    /// Its store.
    pub store: StoreReport,
    /// Its catalog.
    pub catalog: CatalogReport,
    /// What its process takes.
    pub process: Option<ProcessReport>,
    /// Every counter by its name.
    pub counters: std::collections::BTreeMap<String, u64>,
    /// For how long the certificate that it showed is still good; seen by who asks, not said by the node.
    #[serde(skip)]
    pub certificate_left: Option<std::time::Duration>,
}

/// See [`NodeReport::store`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// Whether a sealed object that every store has could be read just now.
    pub canary: bool,
}

/// See [`NodeReport::catalog`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CatalogReport {
    /// Whether changes can be written.
    pub primary: bool,
}

/// See [`NodeReport::process`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ProcessReport {
    /// Processors in use.
    pub cpu_cores: f64,
    /// Processors there are.
    pub cores: u64,
    /// Resident memory.
    pub memory_bytes: u64,
}

/// What a node can do at most; the load is the largest of its shares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Capacity {
    /// Requests in a second; `None`: only the processors tell.
    pub requests_per_s: Option<f64>,
    /// Connections.
    pub connections: Option<f64>,
}

impl NodeReport {
    /// Reads a report; what is missing is nothing, what is no object is no report.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// How loaded it is: 1 is all it can. `requests_per_s` is what was seen between two reports.
    #[must_use]
    pub fn load(&self, capacity: Capacity, requests_per_s: f64) -> f64 {
        let processor = self.process.as_ref().map_or(0.0, |process| {
            let cores = u32::try_from(process.cores).unwrap_or(u32::MAX).max(1);
            process.cpu_cores / f64::from(cores)
        });
        let share =
            |value: f64, most: Option<f64>| most.filter(|most| *most > 0.0).map_or(0.0, |m| value / m);
        let connections = u32::try_from(self.connections_open).unwrap_or(u32::MAX);
        let load = processor
            .max(share(requests_per_s, capacity.requests_per_s))
            .max(share(f64::from(connections), capacity.connections));
        // A node that says nonsense is no reason to open a hundred.
        if load.is_finite() { load.clamp(0.0, 1.5) } else { 0.0 }
    }

    /// Whether what lies behind it works.
    #[must_use]
    pub const fn storage_works(&self) -> bool {
        self.store.canary && self.catalog.primary
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_report_is_read_leniently_and_nonsense_is_bounded() {
        let text = br#"{"uptime_s":5,"connections_open":50,"process":{"cpu_cores":1.8,"cores":2,"memory_bytes":1,"new":2},
            "store":{"canary":true,"url":"s3://x"},"catalog":{"primary":true,"engine":"sqlite"},"later":[1]}"#;
        let report = NodeReport::parse(text).unwrap();
        assert!(report.storage_works() && !report.draining);
        assert!((report.load(Capacity::default(), 0.0) - 0.9).abs() < 1e-9);
        let busy = Capacity { requests_per_s: Some(100.0), connections: Some(40.0) };
        assert!((report.load(busy, 95.0) - 1.25).abs() < 1e-9);
        assert!((report.load(busy, f64::INFINITY) - 0.0).abs() < f64::EPSILON);
        assert!((report.load(Capacity { connections: Some(0.0), ..busy }, 1e9) - 1.5).abs() < f64::EPSILON);
        assert_eq!(NodeReport::parse(b"{}"), Some(NodeReport::default()));
        for wrong in [&b""[..], b"no", b"{\"uptime_s\":-1}", b"{\"process\":{\"cpu_cores\":\"much\"}}"] {
            assert_eq!(NodeReport::parse(wrong), None);
        }
    }
}
