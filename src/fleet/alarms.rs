//! When what nodes count means that somebody tampers: keys that became disputed, contents that are not what their
//! seal says, a store whose marker another key has made, and unusually many attestations that contradict what is
//! known. Nodes count since their start; what counts here is what came within a window, of all nodes together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::report::NodeReport;

/// How much of it is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlarmRules {
    /// What lies further back does not count.
    pub window: Duration,
    /// So many keys that became disputed.
    pub disputed: u64,
    /// So many contents that could not be opened, or markers of another key.
    pub mismatches: u64,
    /// So many attestations that contradict what is known: viewers with a damaged cache make some every day.
    pub conflicts: u64,
    /// An alarm is over when nothing of all this was counted for so long.
    pub quiet: Duration,
}

impl Default for AlarmRules {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(600),
            disputed: 1,
            mismatches: 1,
            conflicts: 100,
            quiet: Duration::from_secs(1800),
        }
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Keys that became disputed.
    pub disputed: u64,
    /// Contents and markers that are not what they should be.
    pub mismatches: u64,
    /// Attestations that contradict what is known.
    pub conflicts: u64,
}

impl Numbers {
    fn of(report: &NodeReport) -> Self {
        let count = |name: &str| report.counters.get(name).copied().unwrap_or(0);
        Self {
            disputed: count("disputed"),
            mismatches: count("blobs_damaged").saturating_add(count("store_mismatches")),
            conflicts: count("conflicts"),
        }
    }

    const fn since(self, old: Self) -> Self {
        Self {
            disputed: self.disputed.saturating_sub(old.disputed),
            mismatches: self.mismatches.saturating_sub(old.mismatches),
            conflicts: self.conflicts.saturating_sub(old.conflicts),
        }
    }

    const fn plus(self, more: Self) -> Self {
        Self {
            disputed: self.disputed.saturating_add(more.disputed),
            mismatches: self.mismatches.saturating_add(more.mismatches),
            conflicts: self.conflicts.saturating_add(more.conflicts),
        }
    }

    const fn is_nothing(self) -> bool {
        self.disputed == 0 && self.mismatches == 0 && self.conflicts == 0
    }

    const fn reaches(self, rules: AlarmRules) -> bool {
        (rules.disputed > 0 && self.disputed >= rules.disputed)
            || (rules.mismatches > 0 && self.mismatches >= rules.mismatches)
            || (rules.conflicts > 0 && self.conflicts >= rules.conflicts)
    }
}

/// Counted within one span by one node.
#[derive(Clone, Debug)]
struct Span {
    began: Instant,
    numbers: Numbers,
    nodes: BTreeSet<String>,
}

/// What has become of the alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It is raised, or goes on, with these words.
    Raised(String),
    /// It is over.
    Over,
}

/// Spans of a window.
const SPANS: u32 = 30;
/// Nodes whose counters are remembered.
const MAX_NODES: usize = 1024;
/// Nodes named in one alarm.
const NAMED: usize = 5;

/// The alarm, and what it remembers of each node.
#[derive(Clone, Debug)]
pub struct Alarms {
    rules: AlarmRules,
    known: BTreeMap<String, (u64, Numbers)>,
    spans: VecDeque<Span>,
    last: Option<Instant>,
    raised: bool,
}

impl Alarms {
    /// Nothing was counted yet.
    #[must_use]
    pub const fn new(rules: AlarmRules) -> Self {
        Self { rules, known: BTreeMap::new(), spans: VecDeque::new(), last: None, raised: false }
    }

    /// A node's report. The first one only says where its counters stand.
    pub fn report(&mut self, now: Instant, node: &str, report: &NodeReport) {
        let counted = Numbers::of(report);
        let known = self.known.get(node).copied();
        if known.is_none() && self.known.len() >= MAX_NODES {
            return;
        }
        self.known.insert(node.to_owned(), (report.uptime_s, counted));
        let more = match known {
            None => return,
            // A new process began to count anew.
            Some((uptime, _)) if report.uptime_s < uptime => counted,
            Some((_, old)) => counted.since(old),
        };
        if more.is_nothing() {
            return;
        }
        self.last = Some(now);
        let length = self.rules.window / SPANS;
        if self.spans.back().is_none_or(|span| now.duration_since(span.began) >= length) {
            self.spans.push_back(Span { began: now, numbers: Numbers::default(), nodes: BTreeSet::new() });
        }
        if let Some(span) = self.spans.back_mut() {
            span.numbers = span.numbers.plus(more);
            span.nodes.insert(node.to_owned());
        }
    }

    /// A node is no member any more.
    pub fn forget(&mut self, node: &str) {
        self.known.remove(node);
    }

    /// Only these are members.
    pub fn keep(&mut self, is_member: impl Fn(&str) -> bool) {
        self.known.retain(|name, _| is_member(name));
    }

    /// What was counted within the window.
    #[must_use]
    pub fn numbers(&self, now: Instant) -> Numbers {
        self.within(now).fold(Numbers::default(), |sum, span| sum.plus(span.numbers))
    }

    fn within(&self, now: Instant) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| now.duration_since(span.began) <= self.rules.window)
    }

    /// Whether there is an alarm now. Nothing to say: `None`.
    pub fn judge(&mut self, now: Instant) -> Option<Alarm> {
        let numbers = self.numbers(now);
        let alarm = if numbers.reaches(self.rules) {
            self.raised = true;
            Some(Alarm::Raised(self.words(now, numbers)))
        } else if self.raised && self.last.is_none_or(|at| now.duration_since(at) >= self.rules.quiet) {
            self.raised = false;
            Some(Alarm::Over)
        } else {
            None
        };
        while self.spans.front().is_some_and(|span| now.duration_since(span.began) > self.rules.window) {
            self.spans.pop_front();
        }
        alarm
    }

    fn words(&self, now: Instant, numbers: Numbers) -> String {
        let parts = [
            (numbers.disputed, "asset became disputed", "assets became disputed"),
            (
                numbers.mismatches,
                "stored content is not what it was",
                "stored contents are not what they were",
            ),
            (
                numbers.conflicts,
                "attestation contradicts what is known",
                "attestations contradict what is known",
            ),
        ];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, one, many)| format!("{number} {}", if *number == 1 { one } else { many }))
            .collect();
        let nodes: BTreeSet<_> = self.within(now).flat_map(|span| span.nodes.iter().cloned()).collect();
        format!(
            "poisoning is suspected: within {} minutes {} (seen by {})",
            self.rules.window.as_secs().div_ceil(60),
            parts.join(", "),
            listed(nodes)
        )
    }
}

/// Names for people: a few of them, and how many more there are.
pub(super) fn listed(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let mut text = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests;
