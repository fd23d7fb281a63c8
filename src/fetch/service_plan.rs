//! When the cache service is asked, and how long a request waits for it: the hedge deadline, the
//! hedge budget, the circuit breaker and the memory of what the service does not have.
//!
//! Knows neither sockets nor clocks: it is told what happened and when.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::pace::Samples;

/// The deadline until 20 samples of the service's time to header exist.
pub const FIRST_DEADLINE: Duration = Duration::from_millis(40);
/// The shortest deadline.
pub const SHORTEST_DEADLINE: Duration = Duration::from_millis(5);
/// The longest deadline.
pub const LONGEST_DEADLINE: Duration = Duration::from_millis(150);
/// Misses of the deadline in a row that open the breaker.
pub const BREAKER_MISSES: u32 = 3;
/// How long an absent key is not asked for again.
pub const ABSENT_FOR: Duration = Duration::from_secs(120);

/// Samples that make a percentile worth believing.
const ENOUGH: usize = 20;
/// Reads that the hedge budget looks back on.
const BUDGET_READS: usize = 100;
/// Hedges among them that are within the budget.
const BUDGET_HEDGES: usize = 10;
/// Of this many reads over budget one is still tried.
const TRIED_OF: u32 = 10;
const MAX_ABSENT: usize = 65_536;
/// Between two probes of a service that does not answer, at first and at most.
const PROBE_PAUSE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(8)];

/// What to do with one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Ask the service, and the grid too when this long has passed.
    Ask(Duration),
    /// Ask the grid at once.
    Grid(WhyGrid),
}

/// Why the service is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyGrid {
    /// It sent wrong bytes, and is not used any more.
    Distrusted,
    /// The circuit breaker is open.
    Open,
    /// It has just said that it does not have this.
    Absent,
    /// Hedges have become so frequent that the line would be paid twice.
    OverBudget,
}

/// How the service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Asked.
    Working,
    /// Not asked, only probed.
    Away,
    /// Proven to send wrong bytes.
    Distrusted,
}

impl Standing {
    /// The word for status pages and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Away => "away",
            Self::Distrusted => "distrusted",
        }
    }
}

/// The plan for one service. `K` names an asset as asked for from one origin.
#[derive(Debug)]
pub struct ServicePlan<K> {
    headers: Samples<Duration>,
    /// What the service's answers alone ask for; percentiles are not computed for every request.
    usual: Duration,
    least: Duration,
    hedged: VecDeque<bool>,
    over_budget: u32,
    misses: u32,
    /// `Some` while open: when to probe next, and the pause after that.
    open: Option<(Instant, Duration)>,
    distrusted: bool,
    /// The service has asked to be left alone until then.
    paused: Option<Instant>,
    absent: HashMap<K, Instant>,
    absent_order: VecDeque<(Instant, K)>,
}

impl<K: Clone + Eq + Hash> ServicePlan<K> {
    /// A plan for a service that has not answered yet: it is probed first. No deadline is shorter than
    /// `least`, where that is more than [`SHORTEST_DEADLINE`].
    #[must_use]
    pub fn new(now: Instant, least: Duration) -> Self {
        Self {
            headers: Samples::default(),
            usual: FIRST_DEADLINE,
            least: least.max(SHORTEST_DEADLINE),
            hedged: VecDeque::with_capacity(BUDGET_READS),
            over_budget: 0,
            misses: 0,
            open: Some((now, PROBE_PAUSE[0])),
            distrusted: false,
            paused: None,
            absent: HashMap::new(),
            absent_order: VecDeque::new(),
        }
    }

    /// What to do with a read of `key`, on a grid whose median time to first byte is `grid_median`.
    pub fn advise(&mut self, key: &K, grid_median: Option<Duration>, now: Instant) -> Advice {
        if self.distrusted {
            return Advice::Grid(WhyGrid::Distrusted);
        }
        if self.open.is_some() || self.paused.is_some_and(|until| now < until) {
            return Advice::Grid(WhyGrid::Open);
        }
        if self.absent.get(key).is_some_and(|until| now < *until) {
            return Advice::Grid(WhyGrid::Absent);
        }
        if self.hedged.iter().filter(|hedged| **hedged).count() > BUDGET_HEDGES {
            self.over_budget = self.over_budget.wrapping_add(1);
            if !self.over_budget.is_multiple_of(TRIED_OF) {
                return Advice::Grid(WhyGrid::OverBudget);
            }
        }
        Advice::Ask(self.deadline(grid_median))
    }

    /// How long a read waits for the service now, on a grid with this median time to first byte.
    #[must_use]
    pub fn deadline(&self, grid_median: Option<Duration>) -> Duration {
        let most = grid_median.map_or(LONGEST_DEADLINE, |median| median.min(LONGEST_DEADLINE));
        self.usual.min(most).max(self.least)
    }

    /// The service answered a read within the deadline, after `took`. Whether it also delivers what it
    /// has begun is told by [`Self::delivered`].
    pub fn answered(&mut self, took: Duration) {
        self.headers.add(took);
        self.read(false);
        self.reckon();
    }

    /// An answer came whole, in time.
    pub const fn delivered(&mut self) {
        self.misses = 0;
    }

    /// The deadline passed without an answer, or the call failed, and the grid was asked.
    pub fn missed(&mut self, now: Instant) {
        self.read(true);
        self.misses = self.misses.saturating_add(1);
        if self.misses >= BREAKER_MISSES && self.open.is_none() {
            self.open = Some((now + PROBE_PAUSE[0], PROBE_PAUSE[0]));
        }
    }

    /// The grid was asked too because one of several nodes took too long: that pays the line twice, but says
    /// nothing of the service.
    pub fn hedged(&mut self) {
        self.read(true);
    }

    /// The body stalled or broke off after a header in time, and the grid was asked.
    pub fn broke_off(&mut self, now: Instant) {
        self.missed(now);
    }

    /// A header that came after its deadline still tells how far the service is away.
    pub fn late(&mut self, took: Duration) {
        self.headers.add(took);
        self.reckon();
    }

    /// The service does not have `key`.
    pub fn absent(&mut self, key: K, now: Instant) {
        while let Some((until, _)) = self.absent_order.front()
            && (*until <= now || self.absent_order.len() >= MAX_ABSENT)
        {
            let Some((until, key)) = self.absent_order.pop_front() else { break };
            if self.absent.get(&key) == Some(&until) {
                self.absent.remove(&key);
            }
        }
        let until = now + ABSENT_FOR;
        self.absent.insert(key.clone(), until);
        self.absent_order.push_back((until, key));
    }

    /// The service is not asked before `until`: it is busy, or refuses us.
    pub fn pause(&mut self, until: Instant) {
        self.paused = self.paused.max(Some(until));
    }

    /// The longest that a probe may take for the service to be of use.
    #[must_use]
    pub fn probe_limit(&self) -> Duration {
        LONGEST_DEADLINE.max(self.least)
    }

    /// When the service is to be probed next; `None` while it works or is not used at all.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        self.open.filter(|_| !self.distrusted).map(|(at, _)| at)
    }

    /// A probe was answered after `took`, or not at all. Returns whether that closed the breaker.
    pub fn probed(&mut self, took: Option<Duration>, now: Instant) -> bool {
        let Some((_, pause)) = self.open else { return false };
        // Whoever answers, but too late to be of use, stays away.
        if took.is_some_and(|took| took <= self.probe_limit()) {
            self.open = None;
            // One more miss opens it again.
            self.misses = BREAKER_MISSES - 1;
            self.hedged.clear();
            true
        } else {
            let pause = (pause * 2).min(PROBE_PAUSE[1]);
            self.open = Some((now + pause, pause));
            false
        }
    }

    /// The service was found elsewhere: it is probed there first.
    pub fn moved(&mut self, now: Instant) {
        self.open = Some((now, PROBE_PAUSE[0]));
        self.paused = None;
        self.headers = Samples::default();
        self.usual = FIRST_DEADLINE;
    }

    /// The service was proven to send wrong bytes: it is not used any more.
    pub const fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// How the service stands.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match (self.distrusted, self.open) {
            (true, _) => Standing::Distrusted,
            (false, Some(_)) => Standing::Away,
            (false, None) => Standing::Working,
        }
    }

    fn read(&mut self, hedged: bool) {
        if self.hedged.len() >= BUDGET_READS {
            self.hedged.pop_front();
        }
        self.hedged.push_back(hedged);
    }

    fn reckon(&mut self) {
        if self.headers.len() >= ENOUGH {
            self.usual = self.headers.percentile(95).map_or(FIRST_DEADLINE, |p95| p95 * 3 / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn well(plan: &mut ServicePlan<u32>, took: u64) {
        plan.answered(ms(took));
        plan.delivered();
    }

    fn working(now: Instant) -> ServicePlan<u32> {
        let mut plan = ServicePlan::new(now, Duration::ZERO);
        assert_eq!((plan.advise(&1, None, now), plan.probe_at()), (Advice::Grid(WhyGrid::Open), Some(now)));
        assert!(plan.probed(Some(ms(1)), now));
        plan
    }

    #[test]
    fn the_deadline_follows_the_service_and_stays_below_the_grid() {
        let mut plan = working(Instant::now());
        for _ in 0..19 {
            plan.answered(ms(20));
        }
        assert_eq!(plan.deadline(None), FIRST_DEADLINE);
        plan.answered(ms(20));
        assert_eq!(plan.deadline(None), ms(30));
        assert_eq!(plan.deadline(Some(ms(12))), ms(12), "a grid that is nearer than the service");
        assert_eq!(plan.deadline(Some(ms(1))), SHORTEST_DEADLINE);
        for _ in 0..200 {
            plan.late(ms(700));
        }
        assert_eq!(plan.deadline(Some(ms(900))), LONGEST_DEADLINE);
        let mut patient = ServicePlan::<u32>::new(Instant::now(), ms(150));
        patient.answered(ms(1));
        assert_eq!(patient.deadline(Some(ms(1))), ms(150));
    }

    #[test]
    fn three_misses_in_a_row_open_the_breaker_and_a_timely_probe_closes_it() {
        let start = Instant::now();
        let mut plan = working(start);
        well(&mut plan, 1);
        for _ in 0..2 {
            plan.missed(start);
        }
        well(&mut plan, 1);
        for _ in 0..2 {
            plan.missed(start);
        }
        assert_eq!(plan.advise(&1, None, start), Advice::Ask(FIRST_DEADLINE));
        plan.missed(start);
        assert_eq!(
            (plan.advise(&1, None, start), plan.standing()),
            (Advice::Grid(WhyGrid::Open), Standing::Away)
        );
        let first = plan.probe_at().unwrap();
        assert!(first > start);
        assert!(!plan.probed(None, first) && !plan.probed(Some(Duration::from_secs(2)), first));
        assert!(plan.probe_at().unwrap() > first + PROBE_PAUSE[0]);
        for _ in 0..20 {
            plan.probed(None, first);
        }
        assert_eq!(plan.probe_at(), Some(first + PROBE_PAUSE[1]));
        assert!(plan.probed(Some(ms(3)), first));
        assert_eq!((plan.standing(), plan.probe_at()), (Standing::Working, None));
        plan.moved(first);
        assert_eq!(
            (plan.advise(&1, None, first), plan.probe_at()),
            (Advice::Grid(WhyGrid::Open), Some(first))
        );
        assert!(plan.probed(Some(ms(3)), first));
        plan.missed(first);
        assert_eq!(plan.standing(), Standing::Away, "what has just returned is on trial");
    }

    #[test]
    fn many_hedges_send_nine_of_ten_reads_straight_to_the_grid() {
        let now = Instant::now();
        let mut plan = working(now);
        well(&mut plan, 1);
        for read in 0..100 {
            if read % 9 == 0 { plan.missed(now) } else { well(&mut plan, 1) }
        }
        let asked = (0..1000).filter(|_| matches!(plan.advise(&1, None, now), Advice::Ask(_))).count();
        assert_eq!(asked, 100);
        for _ in 0..100 {
            well(&mut plan, 1);
        }
        assert!(matches!(plan.advise(&1, None, now), Advice::Ask(_)), "recovered");
    }

    #[test]
    fn absent_keys_are_remembered_for_a_while_and_in_bounds() {
        let start = Instant::now();
        let mut plan = working(start);
        plan.absent(7, start);
        assert_eq!(plan.advise(&7, None, start + ms(119_999)), Advice::Grid(WhyGrid::Absent));
        assert_eq!(plan.advise(&7, None, start + ABSENT_FOR), Advice::Ask(FIRST_DEADLINE));
        assert!(matches!(plan.advise(&8, None, start), Advice::Ask(_)));
        for key in 0..200_000 {
            plan.absent(key, start);
        }
        assert!(plan.absent.len() <= MAX_ABSENT && plan.absent_order.len() <= MAX_ABSENT);
        plan.absent(1, start + ABSENT_FOR);
        assert_eq!(plan.absent.len(), 1);
    }

    #[test]
    fn a_service_proven_wrong_is_neither_asked_nor_probed() {
        let now = Instant::now();
        let mut plan = working(now);
        plan.distrust();
        assert_eq!(plan.advise(&1, None, now), Advice::Grid(WhyGrid::Distrusted));
        for _ in 0..3 {
            plan.missed(now);
        }
        assert_eq!((plan.probe_at(), plan.standing()), (None, Standing::Distrusted));
    }
}
