//! What the array costs: node-seconds by phase. Every director counts what it sees, whoever leads, so that nothing is
//! lost or counted twice when the lead changes; each says only what it has seen since its own start.

use std::time::{Duration, Instant};

use super::scaling::Phase;

/// A pause longer than this was not watched: the machine slept, and what nodes did meanwhile is not known.
const MOST_GAP: Duration = Duration::from_secs(60);

/// Node-hours since the start of this director.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct NodeHours {
    /// Asked for, and not healthy yet: paid, and of no use.
    pub starting: f64,
    /// Named by DNS.
    pub serving: f64,
    /// Leaving and draining.
    pub ending: f64,
    /// Of all of them, nodes of the fixed list, which cost the same whatever the scaling does.
    pub listed: f64,
}

impl NodeHours {
    /// All that is paid for.
    #[must_use]
    pub const fn total(&self) -> f64 {
        self.starting + self.serving + self.ending
    }
}

/// The meter.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    at: Option<Instant>,
    seconds: NodeHours,
    unwatched: Duration,
}

impl Costs {
    /// These are the nodes there are now: their phases, and whether they are of the fixed list. What was there since
    /// the last call is counted by these.
    pub fn note(&mut self, now: Instant, nodes: impl IntoIterator<Item = (Phase, bool)>) {
        let Some(before) = self.at.replace(now) else { return };
        let passed = now.duration_since(before);
        if passed > MOST_GAP {
            self.unwatched = self.unwatched.saturating_add(passed);
            return;
        }
        let passed = passed.as_secs_f64();
        for (phase, listed) in nodes {
            *match phase {
                Phase::Starting => &mut self.seconds.starting,
                Phase::Serving => &mut self.seconds.serving,
                Phase::Leaving | Phase::Draining => &mut self.seconds.ending,
            } += passed;
            if listed {
                self.seconds.listed += passed;
            }
        }
    }

    /// In hours.
    #[must_use]
    pub fn hours(&self) -> NodeHours {
        NodeHours {
            starting: self.seconds.starting / 3600.0,
            serving: self.seconds.serving / 3600.0,
            ending: self.seconds.ending / 3600.0,
            listed: self.seconds.listed / 3600.0,
        }
    }

    /// Time that was not watched, and is not in the hours.
    #[must_use]
    pub const fn unwatched(&self) -> Duration {
        self.unwatched
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn node_hours_are_summed_by_phase() {
        let (mut costs, mut now) = (Costs::default(), Instant::now());
        costs.note(now, [(Phase::Serving, true)]);
        for second in 0..7200 {
            now += Duration::from_secs(1);
            let second_node = match second {
                0..600 => Phase::Starting,
                600..6600 => Phase::Serving,
                6600..6700 => Phase::Leaving,
                _ => Phase::Draining,
            };
            costs.note(now, [(Phase::Serving, true), (second_node, false)]);
        }
        let hours = costs.hours();
        let close = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-6, "{value} {wanted}");
        close(hours.starting, 600.0 / 3600.0);
        close(hours.serving, 2.0 + 6000.0 / 3600.0);
        close(hours.ending, 600.0 / 3600.0);
        close(hours.listed, 2.0);
        close(hours.total(), 4.0);
        assert_eq!(costs.unwatched(), Duration::ZERO);
    }

    #[test]
    fn what_was_not_watched_is_not_guessed() {
        let (mut costs, now) = (Costs::default(), Instant::now());
        costs.note(now, []);
        costs.note(now + Duration::from_secs(8 * 3600), [(Phase::Serving, false)]);
        assert_eq!(costs.hours(), NodeHours::default());
        assert_eq!(costs.unwatched(), Duration::from_secs(8 * 3600));
    }
}
