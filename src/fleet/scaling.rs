//! When to open and when to close nodes. Pure: reports in, actions out, the time handed in.
//!
//! The founding rule: one node at 90 % and rising, so another is opened, and DNS names it when it is ready; at
//! night two nodes at 40 %, so one leaves DNS, waits until nobody holds its address any more, drains, and closes.
//!
//! ```text
//!  open ──► Starting ──healthy──► Serving ──too many──► Leaving ──TTL over──► Draining ──empty──► close
//!              │never came                   │lost for long
//!              └─────────► close ◄───────────┘
//! ```
//!
//! Who leaves is taken back when it is wanted again before it drains. Lost nodes are closed one at a time, and none
//! while most seem to be lost at once: then it is rather who looks that is cut off.
//!
//! What makes it calm: load is averaged over a minute; opening looks ahead by the time that a node takes to start,
//! along the trend; closing looks back, at the highest load of the last while, and as far ahead along its trend, and
//! asks what the others would then carry. Between the load that opens and the load that closing may lead to lies a
//! gap. `benches/scaling.rs` plays days against it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the operator wants of the array.
#[derive(Clone, Copy, Debug)]
pub struct ScalingRules {
    /// Never fewer nodes.
    pub minimum: usize,
    /// Never more, counting those that leave, drain, or are away by plan.
    pub maximum: usize,
    /// A mean load above this, now or by when a new node would serve, opens nodes; 1 is all that a node can.
    pub high: f64,
    /// How loaded nodes are to be after opening.
    pub target: f64,
    /// How loaded those that stay may be after closing one; below `high`.
    pub after_close: f64,
    /// The most nodes opened, or closed, at once.
    pub step: usize,
    /// Load is averaged over this; its trend is that over five times as long.
    pub smoothing: Duration,
    /// How long a node takes from opening to serving, as a first guess; what is seen corrects it.
    pub startup: Duration,
    /// How long the load must have been low before a node is closed: longer than the waves that it usually has.
    pub calm: Duration,
    /// From one closing to the next.
    pub cooldown: Duration,
    /// How long clients may still hold the address of a node that left DNS.
    pub ttl: Duration,
    /// How long a node may take to drain.
    pub drain: Duration,
    /// How long a node may be lost before it is given up and replaced.
    pub patience: Duration,
}

impl Default for ScalingRules {
    fn default() -> Self {
        Self {
            minimum: 1,
            maximum: 8,
            high: 0.85,
            target: 0.65,
            after_close: 0.8,
            step: 4,
            smoothing: Duration::from_secs(60),
            startup: Duration::from_secs(60),
            calm: Duration::from_secs(1800),
            cooldown: Duration::from_secs(600),
            ttl: Duration::from_secs(5),
            drain: Duration::from_secs(600),
            patience: Duration::from_secs(120),
        }
    }
}

impl ScalingRules {
    /// What contradicts itself, in words for the operator.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), &'static str> {
        let shares = [self.high, self.target, self.after_close];
        if shares.iter().any(|share| !(0.05..=1.0).contains(share)) {
            return Err("loads are shares of what a node can do, from 0.05 to 1");
        }
        if self.maximum < self.minimum || self.maximum == 0 {
            return Err("maximum must be at least 1, and at least minimum");
        }
        if self.target >= self.high || self.after_close >= self.high {
            return Err(
                "target and after_close must be below high: else each opening would lead to a closing",
            );
        }
        if self.step == 0 {
            return Err("step must be at least 1");
        }
        Ok(())
    }
}

/// Where a node stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Asked for, and not healthy yet.
    Starting,
    /// Named by DNS when healthy.
    Serving,
    /// Out of DNS; clients may still hold its address.
    Leaving,
    /// Told to drain.
    Draining,
}

/// A node as the decision sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub phase: Phase,
    /// Since when; by the clock of who decides.
    pub since: Instant,
    /// Whether it has been probed, or should have been by now.
    pub known: bool,
    /// Whether probes find it healthy.
    pub healthy: bool,
    /// Since when it has not been; `None` while it is.
    pub lost_since: Option<Instant>,
    /// How loaded it is: 1 is all that it can.
    pub load: f64,
    /// Clients connected to it.
    pub connections: u64,
    /// Whether it is away by plan.
    pub maintenance: bool,
    /// Whether the provisioner can close it. Nodes of a fixed list cannot be closed.
    pub ours: bool,
}

/// Why a node is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has drained.
    Drained,
    /// It did not drain in its time.
    DrainedLate,
    /// It was opened and never became healthy.
    NeverCame,
    /// It was lost for too long.
    Lost,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have the provisioner open so many nodes.
    Open(usize),
    /// Name it in DNS: it has become healthy, or was leaving and is wanted again.
    Admit(String),
    /// Take it out of DNS.
    Leave(String),
    /// Tell it to drain.
    Drain(String),
    /// Have the provisioner close it.
    Close(String, Reason),
}

/// Between two decisions nothing changes that a decision could see.
const SAMPLE_SPACING: Duration = Duration::from_millis(900);
/// The trend is that of the load over so many times the smoothing.
const TREND: u32 = 5;
/// A trend is not followed further than this, however slowly nodes start: loads are waves more often than slopes.
const MOST_AHEAD: Duration = Duration::from_secs(240);
/// A mean load from here on hides how much more is wanted.
const SATURATED: f64 = 0.95;
/// For each of these that nodes stay saturated while others start, twice as many are thought to be wanted.
const DOUBLING: Duration = Duration::from_secs(120);
/// The most doublings.
const MOST_DOUBLINGS: u32 = 4;
/// What sums of loads may be off by.
const ROUNDING: f64 = 1e-6;
/// About the most samples kept: a longer window has sparser ones.
const MAX_SAMPLES: u32 = 600;
/// First pause after a node that could not even be asked for; doubles.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest pause after nodes that never came.
const MOST_BACKOFF: Duration = Duration::from_secs(1800);

/// The decision and what it remembers.
#[derive(Clone, Debug)]
pub struct Scaling {
    rules: ScalingRules,
    /// The array's total load at past times.
    samples: VecDeque<(Instant, f64)>,
    /// What was then thought to come.
    promises: VecDeque<(Instant, f64)>,
    began: Option<Instant>,
    last_open: Option<Instant>,
    last_close: Option<Instant>,
    /// When a lost node was last given up.
    last_lost: Option<Instant>,
    blind: bool,
    startup: Duration,
    failed_starts: u32,
    not_before: Option<Instant>,
    wanted: usize,
    /// Since when so many nodes have been saturated.
    saturated: Option<(usize, Instant)>,
}

impl Scaling {
    /// A decision that remembers nothing.
    #[must_use]
    pub fn new(rules: ScalingRules) -> Self {
        Self {
            rules,
            samples: VecDeque::new(),
            promises: VecDeque::new(),
            began: None,
            last_open: None,
            last_close: None,
            last_lost: None,
            blind: false,
            startup: rules.startup,
            failed_starts: 0,
            not_before: None,
            wanted: rules.minimum,
            saturated: None,
        }
    }

    /// One that begins anew after another director has decided, and still spares a provisioner that failed.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { failed_starts: self.failed_starts, not_before: self.not_before, ..Self::new(self.rules) }
    }

    /// Whether so many nodes seem to be lost that none is given up: it may be that this director does not see them.
    #[must_use]
    pub const fn is_blind(&self) -> bool {
        self.blind
    }

    /// How many nodes the load calls for, without the limits; beyond `maximum` the array is at its limit.
    #[must_use]
    pub const fn wanted(&self) -> usize {
        self.wanted
    }

    /// Whether more nodes would be opened if that were allowed.
    #[must_use]
    pub const fn at_limit(&self) -> bool {
        self.wanted > self.rules.maximum
    }

    /// How long nodes take to start, as seen.
    #[must_use]
    pub const fn startup(&self) -> Duration {
        self.startup
    }

    /// A node that was asked for could not be opened: the next is asked for after a pause, which grows.
    pub fn not_opened(&mut self, now: Instant) {
        self.failed_starts = self.failed_starts.saturating_add(1);
        let pause = FIRST_BACKOFF * 2_u32.saturating_pow(self.failed_starts.min(16) - 1);
        let until = now + pause.min(MOST_BACKOFF);
        self.not_before = Some(self.not_before.map_or(until, |known| known.max(until)));
    }

    /// Decides, about once per probe interval.
    pub fn decide(&mut self, now: Instant, nodes: &[NodeView]) -> Vec<Action> {
        let began = *self.began.get_or_insert(now);
        let mut actions = self.lives(now, nodes);
        // Who has only begun to look does not know whom it lacks, nor what they carry.
        if nodes.iter().any(|node| node.phase == Phase::Serving && !node.known && !node.maintenance) {
            return actions;
        }
        let closing = |name: &str| {
            actions.iter().any(|action| matches!(action, Action::Close(closed, _) if closed == name))
        };
        let active = |phase| {
            nodes.iter().filter(move |n| n.phase == phase && !n.maintenance).filter(|n| !closing(&n.name))
        };
        let serving: Vec<_> = active(Phase::Serving).filter(|node| node.healthy).collect();
        // One lost a moment ago may be back before another one has started; one lost for long is missing.
        let doubtful = active(Phase::Serving).filter(|n| !n.healthy && !self.given_up(now, n)).count();
        let starting = active(Phase::Starting).count();
        let count = serving.len();

        // Whom leaving nodes still serve will come to the others.
        let moving =
            nodes.iter().filter(|n| matches!(n.phase, Phase::Leaving | Phase::Draining) && n.healthy);
        let total: f64 = serving.iter().copied().chain(moving).map(|node| node.load.clamp(0.0, 1.5)).sum();
        self.note(now, total);
        let present = self.smoothed(now, total);
        let coming = self.forecast(now, present, self.rules.smoothing * TREND, self.startup.min(MOST_AHEAD));
        self.promise(now, coming);
        self.wanted = self.nodes_for(now, present, coming, count);

        // Ours run and cost until they are closed, whatever they do.
        let ours = nodes.iter().filter(|node| node.ours && !closing(&node.name)).count();
        let listed = |node: &&NodeView| !node.ours && (node.healthy || !self.given_up(now, node));
        let listed = active(Phase::Serving).chain(active(Phase::Starting)).filter(listed).count();
        let room = self.rules.maximum.saturating_sub(ours + listed);
        let mut lacking =
            self.wanted.saturating_sub(count + starting + doubtful_that_count(doubtful, present, count));
        // One that is still leaving is there at once, and is paid for already.
        let draining = |name: &str| actions.iter().any(|it| matches!(it, Action::Drain(who) if who == name));
        let back = active(Phase::Leaving).filter(|node| node.healthy && !draining(&node.name));
        let back: Vec<_> = back.take(lacking).map(|node| Action::Admit(node.name.clone())).collect();
        if !back.is_empty() {
            lacking -= back.len();
            self.last_open = Some(now);
            actions.extend(back);
        }
        let waiting = self.not_before.is_some_and(|until| now < until);
        if lacking > 0 && room > 0 && !waiting {
            actions.push(Action::Open(lacking.min(room).min(self.rules.step)));
            self.last_open = Some(now);
            return actions;
        }
        let quiet_for = |since: Option<Instant>, time| since.is_none_or(|at| now.duration_since(at) >= time);
        // After a start or a change of directors, the past is not known: closing waits until it is.
        let known = now.duration_since(began) >= self.rules.calm;
        if known
            && starting == 0
            && doubtful == 0
            && !self.blind
            // What was opened was opened for something.
            && quiet_for(self.last_open, self.rules.cooldown.max(self.rules.calm))
            && quiet_for(self.last_close, self.rules.cooldown)
            && nodes.iter().all(|node| !matches!(node.phase, Phase::Leaving | Phase::Draining))
        {
            let leaving = self.closable(now, present.max(coming), count);
            let chosen = least_missed(&serving).take(leaving);
            actions.extend(chosen.map(|node| Action::Leave(node.name.clone())));
            if leaving > 0 {
                self.last_close = Some(now);
            }
        }
        actions
    }

    /// How many of the serving nodes may be closed: one when the others can carry what there was lately and what the
    /// trend promises; more at once when those that stay are then no more loaded than after an opening. Never so many
    /// that those who stay would lately have called for more: then the next wave would.
    fn closable(&self, now: Instant, present: f64, count: usize) -> usize {
        let rules = &self.rules;
        let load = self.highest(now).max(self.forecast(now, present, rules.calm, rules.calm));
        let promised = self.promises.iter().map(|(_, value)| *value).fold(present, f64::max);
        let least = ceiling(load / rules.after_close).max(ceiling(promised / rules.high)).max(rules.minimum);
        let easy = ceiling(load / rules.target);
        let spare = count.saturating_sub(least);
        spare.min(count.saturating_sub(easy).max(1)).min(rules.step)
    }

    /// What becomes of each node by itself: admitted, drained, closed.
    fn lives(&mut self, now: Instant, nodes: &[NodeView]) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut may_give_up = self.may_give_up(now, nodes);
        for node in nodes {
            let age = now.duration_since(node.since);
            let lost = self.given_up(now, node);
            match node.phase {
                Phase::Starting if node.healthy => {
                    actions.push(Action::Admit(node.name.clone()));
                    // Slowly: one slow start does not make all of them slow.
                    self.startup = (self.startup * 3 + age) / 4;
                    (self.failed_starts, self.not_before) = (0, None);
                }
                Phase::Starting if node.ours && age > self.startup * 3 + self.rules.patience => {
                    actions.push(Action::Close(node.name.clone(), Reason::NeverCame));
                    self.failed_starts = self.failed_starts.saturating_add(1);
                    let pause = self.startup * 2_u32.saturating_pow(self.failed_starts.min(16));
                    self.not_before = Some(now + pause.min(MOST_BACKOFF));
                }
                // Nobody can be sent away from a node that does not answer.
                Phase::Serving | Phase::Leaving | Phase::Draining
                    if lost
                        && node.ours
                        && may_give_up
                        && (node.phase != Phase::Serving || !node.maintenance) =>
                {
                    actions.push(Action::Close(node.name.clone(), Reason::Lost));
                    (self.last_lost, may_give_up) = (Some(now), false);
                }
                Phase::Leaving if age >= self.rules.ttl => actions.push(Action::Drain(node.name.clone())),
                Phase::Draining if node.connections == 0 && age >= SAMPLE_SPACING => {
                    actions.push(Action::Close(node.name.clone(), Reason::Drained));
                }
                Phase::Draining if age >= self.rules.drain => {
                    actions.push(Action::Close(node.name.clone(), Reason::DrainedLate));
                }
                _ => {}
            }
        }
        actions
    }

    /// Whether it has been lost for too long.
    fn given_up(&self, now: Instant, node: &NodeView) -> bool {
        node.lost_since.is_some_and(|since| now.duration_since(since) > self.rules.patience)
    }

    /// Whether a lost node may be closed: one at a time, and none while no node is well or most of them were lost
    /// together. That is how it looks to who is cut off, or expects the wrong certificate, and nodes that serve are
    /// not closed for that.
    fn may_give_up(&mut self, now: Instant, nodes: &[NodeView]) -> bool {
        let patience = self.rules.patience;
        let serving: Vec<_> = nodes.iter().filter(|n| n.phase == Phase::Serving && !n.maintenance).collect();
        let lost: Vec<_> = serving.iter().filter_map(|node| node.lost_since).collect();
        let together = |at: Instant| {
            let near = |other: &&Instant| at.max(**other).duration_since(at.min(**other)) <= patience;
            lost.iter().filter(near).count()
        };
        let most = lost.iter().map(|at| together(*at)).max().unwrap_or(0);
        let blind = most * 2 > serving.len() || !serving.iter().any(|node| node.healthy);
        self.blind = blind && nodes.iter().any(|n| n.ours && !n.maintenance && self.given_up(now, n));
        !blind && self.last_lost.is_none_or(|at| now.duration_since(at) >= patience)
    }

    fn note(&mut self, now: Instant, total: f64) {
        let longest = self.rules.calm.max(self.rules.smoothing * TREND);
        let spacing = SAMPLE_SPACING.max(longest / MAX_SAMPLES);
        if self.samples.back().is_some_and(|(at, _)| now.duration_since(*at) < spacing) {
            return;
        }
        self.samples.push_back((now, total));
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > longest) {
            self.samples.pop_front();
        }
    }

    fn promise(&mut self, now: Instant, coming: f64) {
        // A tenth of the window is as fine as closing looks; of each, the highest.
        match self.promises.back_mut() {
            Some((at, highest)) if now.duration_since(*at) < self.rules.calm / 10 => {
                *highest = highest.max(coming);
            }
            _ => self.promises.push_back((now, coming)),
        }
        while self.promises.front().is_some_and(|(at, _)| now.duration_since(*at) > self.rules.calm) {
            self.promises.pop_front();
        }
    }

    fn since(&self, now: Instant, window: Duration) -> impl Iterator<Item = (Instant, f64)> + '_ {
        self.samples.iter().copied().filter(move |(at, _)| now.duration_since(*at) <= window)
    }

    fn smoothed(&self, now: Instant, total: f64) -> f64 {
        let (sum, count) =
            self.since(now, self.rules.smoothing).fold((0.0, 0_u32), |(sum, n), (_, v)| (sum + v, n + 1));
        if count == 0 { total } else { sum / f64::from(count) }
    }

    /// The load in a while, along the line through the last while. A falling line is not followed: closing looks back
    /// instead.
    fn forecast(&self, now: Instant, present: f64, back: Duration, ahead: Duration) -> f64 {
        let points: Vec<_> =
            self.since(now, back).map(|(at, value)| (-now.duration_since(at).as_secs_f64(), value)).collect();
        let first = points.first().map_or(0.0, |(x, _)| -x);
        if first < self.rules.smoothing.as_secs_f64() {
            return present;
        }
        let n = usize_as_f64(points.len());
        let (mean_x, mean_y) =
            (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), (x, y)| {
            (over + (x - mean_x) * (y - mean_y), under + (x - mean_x) * (x - mean_x))
        });
        let slope = if under > 0.0 { over / under } else { 0.0 };
        // A line through a jump is steep: no more than double is believed of it.
        let ahead = present + slope.max(0.0) * ahead.as_secs_f64();
        ahead.min(present * 2.0).max(present)
    }

    fn highest(&self, now: Instant) -> f64 {
        // Single spikes are averaged away as elsewhere, by tenths of the window.
        let part = self.rules.calm.as_secs_f64() / 10.0;
        let mut sums = [(0.0_f64, 0_u32); 11];
        for (at, value) in self.since(now, self.rules.calm) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let slot = (now.duration_since(at).as_secs_f64() / part.max(0.001)) as usize;
            if let Some((sum, count)) = sums.get_mut(slot.min(10)) {
                (*sum, *count) = (*sum + value, *count + 1);
            }
        }
        sums.iter()
            .filter(|(_, count)| *count > 0)
            .map(|(sum, count)| sum / f64::from(*count))
            .fold(0.0, f64::max)
    }

    fn nodes_for(&mut self, now: Instant, present: f64, coming: f64, count: usize) -> usize {
        let mean = present / usize_as_f64(count.max(1));
        let high = coming / usize_as_f64(count.max(1)) > self.rules.high;
        let mut wanted = count;
        if high {
            wanted = ceiling(coming / self.rules.target);
        }
        if mean >= SATURATED {
            // Full nodes do not say how much they turn away: the longer, the more is believed.
            let since = match self.saturated {
                Some((known, since)) if known == count => since,
                _ => now,
            };
            self.saturated = Some((count, since));
            let passed = now.duration_since(since).as_secs() / DOUBLING.as_secs();
            let doublings = u32::try_from(passed).unwrap_or(u32::MAX).min(MOST_DOUBLINGS - 1) + 1;
            wanted = wanted.max(count.saturating_mul(2_usize.saturating_pow(doublings)));
        } else {
            self.saturated = None;
        }
        wanted.max(self.rules.minimum)
    }
}

/// Lost nodes count as there while the others can carry what they carried; beyond that another one is needed.
fn doubtful_that_count(doubtful: usize, present: f64, count: usize) -> usize {
    if present / usize_as_f64(count.max(1)) < SATURATED && count > 0 { doubtful } else { 0 }
}

/// Whom the fewest would miss, first.
fn least_missed<'a>(serving: &[&'a NodeView]) -> impl Iterator<Item = &'a NodeView> {
    let mut ours: Vec<_> = serving.iter().copied().filter(|node| node.ours).collect();
    ours.sort_by(|a, b| {
        a.connections.cmp(&b.connections).then(b.since.cmp(&a.since)).then(a.name.cmp(&b.name))
    });
    ours.into_iter()
}

#[allow(clippy::cast_precision_loss)]
const fn usize_as_f64(value: usize) -> f64 {
    value as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ceiling(value: f64) -> usize {
    // Saturates, and a sum that is over by a rounding error is no reason for a node.
    (value - ROUNDING).ceil().max(0.0) as usize
}

#[cfg(test)]
mod tests;
