//! The array as one director sees it: its members, and what follows from probes, from what the leading director has
//! written, and from the time. Every director answers DNS and keeps its own picture; what must be done once (opening,
//! closing, telling the operators) is done by the one that leads.
//!
//! Sans-I/O. Feed an event, then ask [`Array::tick`] about every 200 ms what is to be done, and do it. Answers for DNS
//! are [`Array::answers`] after every change.

mod troubles;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::alarms::{Alarm, AlarmRules, Alarms};
use super::answers::{Answers, Member as DnsMember};
use super::costs::{Costs, NodeHours};
use super::health::{Cause, HealthRules, NodeHealth, Probe};
use super::notices::{Notice, NoticeRules, Notices, Severity};
use super::report::{Capacity, NodeReport};
use super::scaling::{Action, NodeView, Phase, Reason, Scaling, ScalingRules};

mod members;
mod picture;

use members::Closing;
pub use picture::{MemberView, StorageView};

/// What is fixed about a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// What people call it: an animal.
    pub name: String,
    /// Where it is probed: `https://HOST:PORT`.
    pub url: String,
    /// What DNS answers; with none, the address of `url`.
    pub addresses: Vec<IpAddr>,
    /// What the provisioner calls it; empty for one of a fixed list.
    pub handle: String,
}

/// What the leading director writes of a node it has opened, for the others and for who leads next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFact {
    /// Which node.
    pub spec: NodeSpec,
    /// Where it stands.
    pub phase: Phase,
    /// It is no member any more, and its provisioner has not said yet that it is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closing: bool,
}

/// A node that is away by plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Until when, seconds since 1970.
    pub until: u64,
    /// Why, in words for the public.
    pub reason: String,
}

/// The rules of an array.
#[derive(Clone, Copy, Debug)]
pub struct ArrayRules {
    /// When a node is well.
    pub health: HealthRules,
    /// When to open and close; `None`: never.
    pub scaling: Option<ScalingRules>,
    /// What a node can do.
    pub capacity: Capacity,
    /// When to tell.
    pub notices: NoticeRules,
}

/// What a director has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Probe this node, and say how it went.
    Probe(NodeSpec),
    /// Have the provisioner open so many nodes, and say what came of it.
    Open(usize),
    /// Tell this node to drain.
    Drain(NodeSpec),
    /// Have the provisioner close this node.
    Close(NodeSpec, Reason),
    /// The same for one that another director began to close, or this one could not.
    Finish(NodeSpec),
    /// Write this down for the other directors.
    Write(NodeFact),
    /// Tell the operators.
    Tell(Vec<Notice>),
}

#[derive(Clone, Debug)]
struct Node {
    spec: NodeSpec,
    phase: Phase,
    since: Instant,
    health: NodeHealth,
    lost_since: Option<Instant>,
    probing: bool,
    report: Option<NodeReport>,
    reported_at: Option<Instant>,
    /// What it says of its store and its catalog; `None` while it says nothing.
    behind: Option<(bool, bool)>,
    load: f64,
    /// Requests in a second, and the share of reads with an asset, between the last two reports.
    rate: f64,
    hits: Option<f64>,
    maintenance: Option<Maintenance>,
    /// Connections refused in a row.
    refused: u8,
    /// It was told to drain and does not say that it does.
    deaf: bool,
    /// Why the last probe was not good, and what of it was said.
    cause: Option<Cause>,
    said: Option<Cause>,
}

/// A node that was told to drain and then refuses so many connections in a row has drained, and ended.
const ENDED: u8 = 2;
/// The first probe of a node is waited for with decisions, for so many probe intervals.
const AWAITED_INTERVALS: u32 = 5;

impl Node {
    fn new(spec: NodeSpec, phase: Phase, rules: &ArrayRules, now: Instant) -> Self {
        Self {
            spec,
            phase,
            since: now,
            health: NodeHealth::new(rules.health, now),
            lost_since: None,
            probing: false,
            report: None,
            reported_at: None,
            behind: None,
            load: 0.0,
            rate: 0.0,
            hits: None,
            maintenance: None,
            refused: 0,
            deaf: false,
            cause: None,
            said: None,
        }
    }

    /// Clients that are still with it. Of one that drains only what it has said since counts; until then nobody
    /// knows, and it is not closed as empty.
    fn connections(&self) -> u64 {
        let report = self.report.as_ref();
        match self.phase {
            Phase::Draining if self.refused >= ENDED => 0,
            Phase::Draining => {
                report.filter(|report| report.draining).map_or(u64::MAX, |report| report.connections_open)
            }
            _ => report.map_or(0, |report| report.connections_open),
        }
    }

    const fn is_listed(&self) -> bool {
        self.spec.handle.is_empty()
    }

    fn view(&self, now: Instant, interval: Duration) -> NodeView {
        let awaited = interval.saturating_mul(AWAITED_INTERVALS);
        NodeView {
            name: self.spec.name.clone(),
            phase: self.phase,
            since: self.since,
            known: self.health.is_known() || now.duration_since(self.health.since()) >= awaited,
            healthy: self.health.is_healthy(),
            lost_since: self.lost_since,
            load: self.load,
            connections: self.connections(),
            maintenance: self.maintenance.is_some(),
            ours: !self.is_listed(),
        }
    }
}

/// The array.
#[derive(Clone, Debug)]
pub struct Array {
    rules: ArrayRules,
    nodes: BTreeMap<String, Node>,
    /// What is written of maintenance.
    marks: BTreeMap<String, Maintenance>,
    scaling: Option<Scaling>,
    notices: Notices,
    alarms: Alarms,
    costs: Costs,
    leading: bool,
    /// Whether this director tells the operators: it leads, or led until nobody could say who does.
    telling: bool,
    /// Whether the board was read: before, nobody but the fixed list is known.
    read: bool,
    /// Whether it is known at least what it said before this director started.
    remembers: bool,
    /// Nodes that are no members any more; whether the provisioner has said that they are closed. They are known until
    /// the board does not hold them any more.
    closing: BTreeMap<String, (NodeSpec, Closing)>,
    /// What others have written of a node otherwise than it is.
    wrong: Vec<NodeFact>,
    opening: usize,
    decided: Option<Instant>,
}

/// Keys of troubles that each director tells of itself, whoever leads.
const OWN: &str = "director ";
/// Key of the trouble that most nodes seem to be lost.
const BLIND: &str = "blind";
/// Who begins to tell repeats what has changed within this: longer than a lead lasts without its holder.
const TAKE_OVER: Duration = Duration::from_secs(120);

/// The most nodes of an array.
pub const MAX_MEMBERS: usize = 256;

impl Array {
    /// An array of these nodes of a fixed list; others are opened or written of.
    #[must_use]
    pub fn new(rules: ArrayRules, listed: Vec<NodeSpec>, now: Instant) -> Self {
        let node = |spec: NodeSpec| (spec.name.clone(), Node::new(spec, Phase::Serving, &rules, now));
        Self {
            rules,
            nodes: listed.into_iter().take(MAX_MEMBERS).map(node).collect(),
            marks: BTreeMap::new(),
            scaling: rules.scaling.map(Scaling::new),
            notices: Notices::new(rules.notices),
            alarms: Alarms::new(AlarmRules::default()),
            costs: Costs::default(),
            leading: false,
            telling: false,
            read: false,
            remembers: false,
            closing: BTreeMap::new(),
            wrong: Vec::new(),
            opening: 0,
            decided: None,
        }
    }

    /// Whether this director acts for all from now on. Who begins to lead knows nothing of the past: all waiting
    /// starts anew, so that clocks which differ and leaders who come and go never shorten it. What this director has
    /// asked for itself and not got yet is still to come.
    pub fn lead(&mut self, now: Instant, leading: bool) {
        if leading && !self.leading {
            self.scaling = self.scaling.as_ref().map(Scaling::anew);
            for node in self.nodes.values_mut() {
                node.since = now;
            }
        }
        if !leading {
            self.notices.clear(now, BLIND, "another director decides");
        }
        if leading && !self.telling {
            self.notices.take_over(now, TAKE_OVER);
        }
        (self.leading, self.telling) = (leading, leading);
    }

    /// The lead was not renewed, and nobody says who has it now: nothing is done any more that must be done once, but
    /// who told the operators until now goes on. An alert told twice is better than none.
    pub const fn lapse(&mut self) {
        self.leading = false;
    }

    /// Whether this director, of this name, reaches the catalog itself. That is told by each of them.
    pub fn catalog(&mut self, now: Instant, director: &str, reached: bool) {
        let key = format!("{OWN}{director} catalog");
        if reached {
            self.notices.clear(now, &key, &format!("director {director} reaches the catalog again"));
        } else {
            let text = format!(
                "director {director} cannot reach the catalog; DNS goes on with what is known, nothing is scaled"
            );
            self.notices.raise(now, &key, Severity::Critical, &text);
        }
    }

    /// Whether it does.
    #[must_use]
    pub const fn is_leading(&self) -> bool {
        self.leading
    }

    /// What is written of opened nodes, read anew. The leading director knows better than what it wrote.
    pub fn facts(&mut self, now: Instant, facts: &[NodeFact]) {
        // Who leads and has read nothing yet has written nothing either: what it remembers may be old.
        let knows = self.leading && self.read;
        self.read = true;
        self.learn(now, facts, knows);
    }

    fn learn(&mut self, now: Instant, facts: &[NodeFact], knows: bool) {
        self.departed(facts);
        for fact in facts.iter().filter(|fact| !fact.closing).take(MAX_MEMBERS) {
            if self.is_closing(&fact.spec) {
                continue;
            }
            match self.nodes.get_mut(&fact.spec.name) {
                Some(node) if node.is_listed() => {}
                // Another one may have led for a moment.
                Some(node) if knows => {
                    if node.phase != fact.phase || node.spec != fact.spec {
                        let (spec, phase) = (node.spec.clone(), node.phase);
                        self.wrong.push(NodeFact { spec, phase, closing: false });
                    }
                }
                Some(node) if node.spec == fact.spec => {
                    if node.phase != fact.phase {
                        (node.phase, node.since) = (fact.phase, now);
                    }
                }
                _ => {
                    let node = Node::new(fact.spec.clone(), fact.phase, &self.rules, now);
                    self.nodes.insert(fact.spec.name.clone(), node);
                }
            }
        }
        if !knows {
            let stays = |name: &str, node: &Node| {
                node.is_listed() || facts.iter().any(|fact| fact.spec.name == *name && !fact.closing)
            };
            for name in self.nodes.iter().filter(|(name, node)| !stays(name, node)).map(|(name, _)| name) {
                for kind in ["node", "report", "certificate"] {
                    self.notices.clear(now, &format!("{kind} {name}"), &format!("{name} was given up"));
                }
            }
            self.nodes.retain(|name, node| stays(name, node));
            self.alarms.keep(|name| self.nodes.contains_key(name));
        }
    }

    /// What is written of maintenance; `wall` is the time in seconds since 1970.
    pub fn maintenance(&mut self, wall: u64, marks: &BTreeMap<String, Maintenance>) {
        if self.marks != *marks {
            self.marks.clone_from(marks);
        }
        self.wall(wall);
    }

    /// The time in seconds since 1970, handed in often: maintenance ends by it, also while the catalog is away.
    pub fn wall(&mut self, wall: u64) {
        for (name, node) in &mut self.nodes {
            let mark = self.marks.get(name).filter(|mark| wall < mark.until);
            if node.maintenance.as_ref() != mark {
                node.maintenance = mark.cloned();
            }
        }
    }

    /// A node that the provisioner has opened; whether it is a member now.
    pub fn opened(&mut self, now: Instant, spec: NodeSpec) -> bool {
        self.opening = self.opening.saturating_sub(1);
        // A name that is taken stays whose it is, and so does an address: two members that are one node would be
        // counted, probed and closed twice.
        let known = |node: &Node| node.spec.name == spec.name || node.spec.url == spec.url;
        let fits = self.nodes.len() < MAX_MEMBERS
            && !self.nodes.values().any(known)
            && !self.closing.contains_key(&spec.name);
        if fits {
            self.nodes.insert(spec.name.clone(), Node::new(spec, Phase::Starting, &self.rules, now));
        }
        fits
    }

    /// The provisioner could not open one.
    pub fn not_opened(&mut self, now: Instant, why: &str) {
        self.opening = self.opening.saturating_sub(1);
        if let Some(scaling) = &mut self.scaling {
            scaling.not_opened(now);
        }
        self.notices.raise(now, "opening", Severity::Critical, &format!("a node could not be opened: {why}"));
    }

    /// How a probe went.
    pub fn probed(
        &mut self,
        now: Instant,
        name: &str,
        began: Instant,
        probe: Probe,
        report: Option<NodeReport>,
    ) {
        let capacity = self.rules.capacity;
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.probing = false;
        // Any other failure may be the network's: a node that is full of readers is not closed for that.
        let ended = node.cause == Some(Cause::ConnectionRefused);
        node.refused = if ended { node.refused.saturating_add(1) } else { 0 };
        let says_so = report.as_ref().is_some_and(|report| report.draining);
        node.deaf = node.phase == Phase::Draining && matches!(probe, Probe::Ready { .. }) && !says_so;
        node.behind = report.as_ref().map(|report| (report.store.canary, report.catalog.primary));
        if let Some(report) = report {
            self.alarms.report(now, name, &report);
            node.rate = rate(node, &report, now);
            node.hits = picture::hits(node.report.as_ref(), &report);
            node.load = report.load(capacity, node.rate);
            (node.report, node.reported_at) = (Some(report), Some(now));
        }
        let turn = node.health.observe(began, now, probe);
        // One that drains says that it is not ready, and is there all the same.
        let there = node.health.is_healthy()
            || (node.phase == Phase::Draining && !matches!(probe, Probe::TimedOut | Probe::Refused));
        node.lost_since = if there { None } else { node.lost_since.or(Some(now)) };
        if node.lost_since.is_some() {
            // What a lost node last said of itself is over.
            node.load = 0.0;
        }
        self.absence(now, name, turn);
        self.mute(now, name);
        self.certificate(now, name);
        self.storage(now);
        match self.alarms.judge(now) {
            Some(Alarm::Raised(text)) => self.notices.raise(now, "poisoning", Severity::Critical, &text),
            Some(Alarm::Over) => {
                self.notices.clear(now, "poisoning", "no sign of poisoning was counted for a while");
            }
            None => {}
        }
    }

    /// Raises what others have found.
    pub fn raise(&mut self, now: Instant, key: &str, severity: Severity, text: &str) {
        self.notices.raise(now, key, severity, text);
    }

    /// Clears it.
    pub fn clear(&mut self, now: Instant, key: &str, text: &str) {
        self.notices.clear(now, key, text);
    }

    /// What is to be done now.
    pub fn tick(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        for node in self.nodes.values_mut() {
            if !node.probing && node.health.next_probe() <= now {
                node.probing = true;
                commands.push(Command::Probe(node.spec.clone()));
            }
        }
        let due =
            self.decided.is_none_or(|at| now.duration_since(at) >= self.rules.health.interval.min(SECOND));
        if self.leading && due {
            self.decided = Some(now);
            // What was told a node may have been lost on the way.
            for node in self.nodes.values_mut().filter(|node| node.phase == Phase::Draining) {
                if std::mem::take(&mut node.deaf) {
                    commands.push(Command::Drain(node.spec.clone()));
                }
            }
            self.decide(now, &mut commands);
            self.finish(&mut commands);
        }
        self.nobody(now);
        self.costs.note(now, self.nodes.values().map(|node| (node.phase, node.is_listed())));
        // All directors see all troubles; one tells.
        let telling = self.telling;
        let notices = self.notices.due(now, |key| telling || key.starts_with(OWN));
        if !notices.is_empty() {
            commands.push(Command::Tell(notices));
        }
        commands
    }

    fn decide(&mut self, now: Instant, commands: &mut Vec<Command>) {
        let Some(mut scaling) = self.scaling.take() else { return };
        let interval = self.rules.health.interval;
        let mut views: Vec<_> = self.nodes.values().map(|node| node.view(now, interval)).collect();
        // What was asked for and has not been made yet counts as starting.
        views.extend((0..self.opening).map(|_| NodeView {
            name: String::new(),
            phase: Phase::Starting,
            since: now,
            known: true,
            healthy: false,
            lost_since: None,
            load: 0.0,
            connections: 0,
            maintenance: false,
            ours: false,
        }));
        for action in scaling.decide(now, &views) {
            self.act(now, action, commands);
        }
        if scaling.at_limit() {
            self.notices.raise(
                now,
                "limit",
                Severity::Warning,
                "more nodes are wanted than the maximum allows",
            );
        } else {
            self.notices.clear(now, "limit", "the array is below its maximum again");
        }
        if scaling.is_blind() {
            let text = "most nodes do not answer this director; none is closed";
            self.notices.raise(now, BLIND, Severity::Critical, text);
        } else {
            self.notices.clear(now, BLIND, "most nodes answer this director again");
        }
        self.scaling = Some(scaling);
    }

    fn act(&mut self, now: Instant, action: Action, commands: &mut Vec<Command>) {
        let (name, phase) = match action {
            Action::Open(count) => {
                self.opening += count;
                commands.push(Command::Open(count));
                return;
            }
            Action::Close(name, reason) => {
                if let Some(node) = self.nodes.remove(&name) {
                    self.alarms.forget(&name);
                    for kind in ["report", "certificate"] {
                        self.notices.clear(now, &format!("{kind} {name}"), &format!("{name} was closed"));
                    }
                    self.notices.clear(now, &format!("node {name}"), &format!("{name} was given up"));
                    let (spec, phase) = (node.spec, node.phase);
                    self.closing.insert(name, (spec.clone(), Closing::Runs));
                    commands.push(Command::Write(NodeFact { spec: spec.clone(), phase, closing: true }));
                    commands.push(Command::Close(spec, reason));
                }
                return;
            }
            Action::Admit(name) => (name, Phase::Serving),
            Action::Leave(name) => (name, Phase::Leaving),
            Action::Drain(name) => (name, Phase::Draining),
        };
        let Some(node) = self.nodes.get_mut(&name) else { return };
        let before = std::mem::replace(&mut node.phase, phase);
        node.since = now;
        if before == Phase::Starting && phase == Phase::Serving {
            self.notices.clear(now, "opening", "nodes can be opened again");
        }
        if phase == Phase::Draining {
            commands.push(Command::Drain(node.spec.clone()));
        }
        if !node.is_listed() {
            commands.push(Command::Write(NodeFact { spec: node.spec.clone(), phase, closing: false }));
        }
    }

    /// Whom DNS names.
    #[must_use]
    pub fn answers(&self, now: Instant) -> Answers {
        let member = |node: &Node| DnsMember {
            addresses: node.spec.addresses.clone(),
            share: node.health.share(now),
            wanted: node.maintenance.is_none() && node.phase == Phase::Serving,
        };
        let members: Vec<_> = self.nodes.values().map(member).collect();
        // Where nodes are opened the fixed list is not all there are. What is remembered is better than nothing.
        let enough = self.read || (!members.is_empty() && (self.remembers || self.rules.scaling.is_none()));
        if !enough {
            return Answers::unknown();
        }
        Answers::of(&members)
    }

    /// What the array has cost since this director started.
    #[must_use]
    pub fn node_hours(&self) -> NodeHours {
        self.costs.hours()
    }

    /// Troubles there are now.
    pub fn troubles(&self) -> impl Iterator<Item = (&str, Severity, &str)> {
        self.notices.raised()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Requests in a second between the last two reports: what a node says itself may be its average since the start.
fn rate(node: &Node, report: &NodeReport, now: Instant) -> f64 {
    let total = |report: &NodeReport| {
        let counted = ["reads", "lookups", "attestations", "bodies"].map(|name| report.counters.get(name));
        counted.iter().flatten().fold(0_u64, |sum, count| sum.saturating_add(**count))
    };
    let (Some(old), Some(at)) = (&node.report, node.reported_at) else { return 0.0 };
    let passed = now.duration_since(at).as_secs_f64();
    // A restart begins to count anew.
    let more = total(report).saturating_sub(total(old));
    if passed > 0.0 { f64::from(u32::try_from(more).unwrap_or(u32::MAX)) / passed } else { 0.0 }
}

#[cfg(test)]
mod tests;
