//! What follows from a node's report for the operators: a store or a catalog that does not answer, a node that says
//! nothing, a certificate that ends.

use std::time::{Duration, Instant};

use super::super::alarms::listed;
use super::super::health::{Cause, Dot, Turn};
use super::super::notices::Severity;
use super::super::scaling::Phase;
use super::Array;

/// A node that never answered since this director knows of it is told of after so many probe intervals: a site that
/// has just been switched on needs a while.
const ABSENT_INTERVALS: u32 = 5;

/// A healthy node that has not said how it is for so long is blind to the scaling, in probe intervals.
const MUTE_INTERVALS: u32 = 30;
/// A certificate that is good for less is told of.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 86_400);
/// And for less than this told of as urgent.
const CERTIFICATE_CRITICAL: Duration = Duration::from_secs(3 * 86_400);

impl Array {
    /// Why the probe whose outcome follows was not good.
    pub fn explain(&mut self, name: &str, cause: Option<Cause>) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.cause = cause;
        }
    }

    /// Why a node does not serve, once for each reason.
    pub fn news(&mut self, name: &str) -> Option<Cause> {
        let node = self.nodes.get_mut(name)?;
        if node.health.dot() != Dot::Red {
            if node.health.is_healthy() && node.cause.is_none() {
                node.said = None;
            }
            return None;
        }
        let fresh = node.cause.is_some() && node.said != node.cause;
        if fresh {
            node.said.clone_from(&node.cause);
        }
        node.cause.clone().filter(|_| fresh)
    }

    /// A node that does not serve though it should, or serves again.
    pub(super) fn absence(&mut self, now: Instant, name: &str, turn: Option<Turn>) {
        let Some(node) = self.nodes.get(name) else { return };
        let key = format!("node {name}");
        if turn == Some(Turn::Back) {
            self.notices.clear(now, &key, &format!("{name} is back"));
            return;
        }
        if node.health.dot() != Dot::Red {
            return;
        }
        let raised = self.notices.is_raised(&key);
        // A first good probe is no return yet, and no reason to forget what it was.
        if turn.is_none() && node.cause.is_none() {
            return;
        }
        let planned = node.maintenance.is_some() || matches!(node.phase, Phase::Leaving | Phase::Draining);
        let patience = self.rules.health.interval.saturating_mul(ABSENT_INTERVALS);
        let absent = node.phase == Phase::Serving && now.duration_since(node.health.since()) >= patience;
        if !planned && (turn == Some(Turn::Lost) || absent || raised) {
            let text = match &node.cause {
                Some(cause) => format!("{name} does not answer: {cause}"),
                None => format!("{name} does not answer"),
            };
            self.notices.raise(now, &key, Severity::Critical, &text);
        }
    }

    /// All that should serve are known to be away. Where there is one alone, that it is lost says it.
    pub(super) fn nobody(&mut self, now: Instant) {
        let serving = || {
            let serves = |node: &&super::Node| node.maintenance.is_none() && node.phase == Phase::Serving;
            self.nodes.values().filter(serves)
        };
        if serving().any(|node| node.health.is_healthy()) {
            self.notices.clear(now, "all", "DNS names nodes that are well again");
        } else if serving().count() > 1
            && serving().all(|node| self.notices.is_raised(&format!("node {}", node.spec.name)))
        {
            let text = "no node is well; DNS names all of them";
            self.notices.raise(now, "all", Severity::Critical, text);
        }
    }

    /// A certificate that ends soon: without a pin, clients and directors refuse the node then.
    pub(super) fn certificate(&mut self, now: Instant, name: &str) {
        let report = self.nodes.get(name).and_then(|node| node.report.as_ref());
        let Some(left) = report.and_then(|report| report.certificate_left) else { return };
        let key = format!("certificate {name}");
        if left > CERTIFICATE_WARNING {
            self.notices.clear(now, &key, &format!("{name} has a new certificate"));
            return;
        }
        let severity = if left > CERTIFICATE_CRITICAL { Severity::Warning } else { Severity::Critical };
        let days = left.as_secs() / 86_400;
        self.notices.raise(now, &key, severity, &format!("the certificate of {name} ends in {days} days"));
    }

    /// A node that answers and does not say how it is: its load is not seen, nor its store.
    pub(super) fn mute(&mut self, now: Instant, name: &str) {
        let Some(node) = self.nodes.get(name) else { return };
        let key = format!("report {name}");
        let patience = self.rules.health.interval.saturating_mul(MUTE_INTERVALS);
        let heard = node.reported_at.unwrap_or(node.since).max(node.health.since());
        if node.behind.is_some() {
            self.notices.clear(now, &key, &format!("{name} says again how it is"));
        } else if node.health.is_healthy() && now.duration_since(heard) >= patience {
            let text = format!(
                "{name} answers, but does not say how it is: its load and its store are not seen; \
                 may the director's token observe?"
            );
            self.notices.raise(now, &key, Severity::Warning, &text);
        }
    }

    /// Store and catalog are one for all: what some nodes say is their own trouble, what all say is everybody's.
    pub(super) fn storage(&mut self, now: Instant) {
        let saying: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.health.is_healthy() && node.maintenance.is_none())
            .filter_map(|node| Some((node.spec.name.clone(), node.behind?)))
            .collect();
        let without = |works: fn((bool, bool)) -> bool| -> Vec<String> {
            saying.iter().filter(|(_, behind)| !works(*behind)).map(|(name, _)| name.clone()).collect()
        };
        let (store, catalog) = (without(|(store, _)| store), without(|(_, catalog)| catalog));
        let all = saying.len();
        self.part(now, "store", store, all, "what nodes have in memory is still served");
        self.part(now, "catalog", catalog, all, "what nodes know is still served, nothing new is learned");
    }

    fn part(&mut self, now: Instant, part: &str, sick: Vec<String>, all: usize, meanwhile: &str) {
        if all == 0 {
            return;
        }
        if sick.is_empty() {
            self.notices.clear(now, part, &format!("the {part} answers again"));
        } else if sick.len() == all {
            let text = format!("the {part} does not answer; {meanwhile}");
            self.notices.raise(now, part, Severity::Critical, &text);
        } else {
            let text = format!("the {part} does not answer {}; the others reach it", listed(sick));
            self.notices.raise(now, part, Severity::Warning, &text);
        }
    }
}
