//! The scaling rules played against a day's demand, without machines: what the tests hold and `benches/scaling.rs`
//! prints. Nodes start slowly, fail, drain; clients spread over whom DNS names. Other rules can play the same day.

use std::time::{Duration, Instant};

use super::scaling::{Action, NodeView, Phase, Reason, Scaling, ScalingRules};

/// Clients that fill a node.
pub const CLIENTS_PER_NODE: f64 = 5000.0;
/// A demand that is served by nodes loaded up to this is served well.
const WELL: f64 = 0.85;
/// An opening and a closing closer together than this were for nothing.
const FLAP: Duration = Duration::from_secs(1800);

/// What happens: how many nodes' worth of demand there is, by seconds since the beginning, and what fails.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What it is called.
    pub name: &'static str,
    /// The demand: 1 fills a node.
    pub demand: fn(f64) -> f64,
    /// How long it is.
    pub seconds: u64,
    /// When one node is lost, for good.
    pub crash: Option<f64>,
}

/// The scenes that the bench plays: a day with 100,000 clients at its height, and its troubles.
pub const SCENES: [Scene; 4] = [
    Scene { name: "usual day", demand: day, seconds: 86_400, crash: None },
    Scene { name: "flash crowd", demand: crowd, seconds: 86_400, crash: None },
    Scene { name: "crash at peak", demand: day, seconds: 86_400, crash: Some(20.0 * 3600.0) },
    Scene { name: "oscillation", demand: oscillation, seconds: 86_400, crash: None },
];

/// Demand of a day with 100,000 clients at its height: low at night, high in the evening.
#[must_use]
pub fn day(at: f64) -> f64 {
    let hours = at / 3600.0;
    let evening = (-((hours - 20.0) / 4.0).powi(2)).exp();
    let noon = (-((hours - 12.0) / 3.5).powi(2)).exp();
    100_000.0 / CLIENTS_PER_NODE * (0.08 + 0.92 * (evening + 0.35 * noon).min(1.0))
}

/// The same with a crowd at three in the morning: ten times what was there, within five minutes, for 1.5 h.
#[must_use]
pub fn crowd(at: f64) -> f64 {
    const RISE: f64 = 300.0;
    const STAYS: f64 = 5400.0;
    const FALL: f64 = 600.0;
    let begin = 3.0 * 3600.0;
    let since = at - begin;
    let part = if !(0.0..STAYS + FALL).contains(&since) {
        0.0
    } else if since < RISE {
        since / RISE
    } else if since < STAYS {
        1.0
    } else {
        1.0 - (since - STAYS) / FALL
    };
    day(at) + 9.0 * day(begin) * part
}

/// Eight nodes' worth, a third more and a third less every twenty minutes: what makes hasty rules flap.
#[must_use]
pub fn oscillation(at: f64) -> f64 {
    8.0 * (1.0 + 0.33 * (at / 1200.0 * std::f64::consts::TAU).sin())
}

/// Who decides.
#[derive(Clone, Copy, Debug)]
pub enum Policy {
    /// Ours.
    Rules(ScalingRules),
    /// What clouds offer: one node more above the one mean load, one less below the other, with a cooldown.
    Threshold {
        /// Opens.
        high: f64,
        /// Closes.
        low: f64,
        /// Between two changes.
        cooldown: Duration,
        /// Limits.
        limits: ScalingRules,
    },
    /// Always as many as there are at the beginning; one that is lost is replaced.
    Fixed,
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Seconds in which more was wanted than the nodes can.
    pub overload: f64,
    /// The share of the demand that found no room.
    pub unserved: f64,
    /// Node-hours paid for.
    pub hours: f64,
    /// Node-hours of who knows the future and whose nodes start at once.
    pub ideal: f64,
    /// Nodes opened.
    pub opened: usize,
    /// Nodes closed.
    pub closed: usize,
    /// Openings within half an hour after a closing, and the other way round.
    pub flaps: usize,
    /// Demand, nodes that serve, nodes that are paid for; every five minutes.
    pub course: Vec<(f64, f64, f64)>,
}

/// Nodes, clients and a clock.
#[derive(Debug)]
pub struct Simulation {
    /// The decision, when it is ours.
    pub scaling: Scaling,
    /// The nodes there are.
    pub nodes: Vec<NodeView>,
    /// The time.
    pub now: Instant,
    /// Whether nodes that are opened never become healthy.
    pub broken: bool,
    /// All that was done, and when.
    pub log: Vec<(Duration, Action)>,
    /// How it went so far.
    pub outcome: Outcome,
    policy: Policy,
    rules: ScalingRules,
    startup: Duration,
    start: Instant,
    made: usize,
    demanded: f64,
    changed: Option<Instant>,
    /// The last opening, and the last leaving.
    last: [Option<Duration>; 2],
}

impl Simulation {
    /// An array of so many nodes that serve, by these rules; others take `startup` until they do.
    #[must_use]
    pub fn new(now: Instant, rules: ScalingRules, startup: Duration, nodes: usize) -> Self {
        Self::of(now, Policy::Rules(rules), startup, nodes)
    }

    /// The same with any policy.
    #[must_use]
    pub fn of(now: Instant, policy: Policy, startup: Duration, nodes: usize) -> Self {
        let rules = match policy {
            Policy::Rules(rules) | Policy::Threshold { limits: rules, .. } => rules,
            Policy::Fixed => ScalingRules { minimum: nodes, maximum: nodes, ..ScalingRules::default() },
        };
        let mut simulation = Self {
            scaling: Scaling::new(rules),
            nodes: Vec::new(),
            now,
            broken: false,
            log: Vec::new(),
            outcome: Outcome::default(),
            policy,
            rules,
            startup,
            start: now,
            made: 0,
            demanded: 0.0,
            changed: None,
            last: [None; 2],
        };
        for _ in 0..nodes {
            simulation.make(Phase::Serving);
        }
        simulation
    }

    fn make(&mut self, phase: Phase) {
        self.made += 1;
        self.nodes.push(NodeView {
            name: format!("node-{:03}", self.made),
            phase,
            since: self.now,
            known: true,
            healthy: phase == Phase::Serving,
            lost_since: None,
            load: 0.0,
            connections: 0,
            maintenance: false,
            ours: true,
        });
    }

    /// Nodes that serve.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.nodes.iter().filter(|node| node.phase == Phase::Serving && node.healthy).count()
    }

    /// One node is lost and stays so.
    pub fn crash(&mut self) {
        let now = self.now;
        if let Some(node) = self.nodes.iter_mut().find(|node| node.phase == Phase::Serving && node.healthy) {
            (node.healthy, node.lost_since, node.load) = (false, Some(now), 0.0);
        }
    }

    /// Spreads so many nodes' worth of demand over who serves, as clients do that go by DNS.
    fn spread(&mut self, demand: f64) {
        let share = demand / count(self.serving().max(1));
        for node in &mut self.nodes {
            let serves = node.phase == Phase::Serving && node.healthy;
            node.load = if serves { share.min(1.0) } else { 0.0 };
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let connections = (share * CLIENTS_PER_NODE) as u64;
            match node.phase {
                Phase::Serving => node.connections = if serves { connections } else { 0 },
                Phase::Draining => node.connections = node.connections.saturating_sub(500),
                _ => {}
            }
        }
    }

    /// Goes on by so many seconds under this demand, and decides.
    pub fn step(&mut self, seconds: u64, demand: f64) {
        self.now += Duration::from_secs(seconds);
        for node in &mut self.nodes {
            if node.phase == Phase::Starting && !self.broken {
                node.healthy = self.now.duration_since(node.since) >= self.startup;
            }
        }
        self.spread(demand);
        self.note(Duration::from_secs(seconds).as_secs_f64(), demand);
        let actions = match self.policy {
            Policy::Rules(_) => self.scaling.decide(self.now, &self.nodes),
            Policy::Threshold { high, low, cooldown, .. } => self.threshold(high, low, cooldown),
            Policy::Fixed => self.fixed(),
        };
        for action in actions {
            self.act(action);
        }
    }

    fn note(&mut self, seconds: f64, demand: f64) {
        let serving = count(self.serving());
        let lacking = (demand - serving).max(0.0);
        if lacking > 0.0 {
            self.outcome.overload += seconds;
        }
        let before = self.outcome.unserved * self.demanded;
        self.demanded += demand * seconds;
        if self.demanded > 0.0 {
            self.outcome.unserved = (before + lacking * seconds) / self.demanded;
        }
        self.outcome.hours += seconds * count(self.nodes.len()) / 3600.0;
        self.outcome.ideal += seconds * (demand / WELL).ceil().max(1.0) / 3600.0;
        let due = Duration::from_secs(300) * u32::try_from(self.outcome.course.len()).unwrap_or(u32::MAX);
        if self.now.duration_since(self.start) >= due {
            self.outcome.course.push((demand, serving, count(self.nodes.len())));
        }
    }

    fn act(&mut self, action: Action) {
        let (at, now) = (self.now.duration_since(self.start), self.now);
        let direction = match &action {
            Action::Open(opened) => {
                self.outcome.opened += opened;
                Some(0)
            }
            // One that was leaving is taken back.
            Action::Admit(name) => {
                let back = |node: &NodeView| node.name == *name && node.phase == Phase::Leaving;
                self.nodes.iter().any(back).then_some(0)
            }
            Action::Leave(_) => Some(1),
            Action::Close(..) => {
                self.outcome.closed += 1;
                None
            }
            _ => None,
        };
        if let Some(direction) = direction {
            let other = self.last.get(1 - direction).copied().flatten();
            self.outcome.flaps += usize::from(other.is_some_and(|other| at - other < FLAP));
            if let Some(last) = self.last.get_mut(direction) {
                *last = Some(at);
            }
        }
        self.log.push((at, action.clone()));
        let (name, phase) = match action {
            Action::Open(opened) => {
                (0..opened).for_each(|_| self.make(Phase::Starting));
                return;
            }
            Action::Close(name, _) => {
                self.nodes.retain(|node| node.name != name);
                return;
            }
            Action::Admit(name) => (name, Phase::Serving),
            Action::Leave(name) => (name, Phase::Leaving),
            Action::Drain(name) => (name, Phase::Draining),
        };
        if let Some(node) = self.nodes.iter_mut().find(|node| node.name == name) {
            (node.phase, node.since) = (phase, now);
        }
    }

    /// What nodes do by themselves under another policy.
    fn lives(&self) -> Vec<Action> {
        let life = |node: &NodeView| {
            let (age, name) = (self.now.duration_since(node.since), node.name.clone());
            let lost = node.lost_since.is_some_and(|at| self.now.duration_since(at) > self.rules.patience);
            match node.phase {
                _ if lost => Some(Action::Close(name, Reason::Lost)),
                Phase::Starting if node.healthy => Some(Action::Admit(name)),
                Phase::Leaving if age >= self.rules.ttl => Some(Action::Drain(name)),
                Phase::Draining if node.connections == 0 => Some(Action::Close(name, Reason::Drained)),
                _ => None,
            }
        };
        self.nodes.iter().filter_map(life).collect()
    }

    fn fixed(&self) -> Vec<Action> {
        let mut actions = self.lives();
        let staying = self.nodes.iter().filter(|node| node.lost_since.is_none()).count();
        if staying < self.rules.minimum {
            actions.push(Action::Open(self.rules.minimum - staying));
        }
        actions
    }

    fn threshold(&mut self, high: f64, low: f64, cooldown: Duration) -> Vec<Action> {
        let mut actions = self.lives();
        let serving: Vec<_> =
            self.nodes.iter().filter(|node| node.phase == Phase::Serving && node.healthy).collect();
        let mean = serving.iter().map(|node| node.load).sum::<f64>() / count(serving.len().max(1));
        let there = self.nodes.iter().filter(|n| matches!(n.phase, Phase::Serving | Phase::Starting)).count();
        let quiet = self.changed.is_none_or(|at| self.now.duration_since(at) >= cooldown);
        let change = if quiet && mean > high && there < self.rules.maximum {
            Some(Action::Open(1))
        } else if quiet && mean < low && serving.len() > self.rules.minimum {
            serving.last().map(|node| Action::Leave(node.name.clone()))
        } else {
            None
        };
        if change.is_some() {
            self.changed = Some(self.now);
        }
        actions.extend(change);
        actions
    }

    /// Goes on for so long, in steps of two seconds.
    pub fn run(&mut self, seconds: u64, demand: impl Fn(f64) -> f64) {
        let from = self.now;
        while self.now.duration_since(from).as_secs() < seconds {
            let at = self.now.duration_since(from).as_secs_f64();
            self.step(2, demand(at));
        }
    }

    /// Plays a scene from its beginning.
    pub fn play(&mut self, scene: Scene) {
        let mut crash = scene.crash;
        for second in (0..scene.seconds).step_by(5) {
            let at = Duration::from_secs(second).as_secs_f64();
            if crash.is_some_and(|when| at >= when) {
                crash = None;
                self.crash();
            }
            self.step(5, (scene.demand)(at));
        }
    }

    /// So many actions of a kind were done.
    pub fn count(&self, of: impl Fn(&Action) -> bool) -> usize {
        self.log.iter().filter(|(_, action)| of(action)).count()
    }
}

#[allow(clippy::cast_precision_loss)]
const fn count(value: usize) -> f64 {
    value as f64
}
