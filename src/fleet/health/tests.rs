#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const INTERVAL: Duration = Duration::from_secs(2);
const GOOD: Probe = Probe::Ready { latency: Duration::from_millis(3), storage: true };

/// A node, a clock and a node's true state; drives probes as the director does.
struct Rig {
    health: NodeHealth,
    now: Instant,
    turns: Vec<(Duration, Turn)>,
    start: Instant,
}

impl Rig {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            health: NodeHealth::new(HealthRules::every(INTERVAL), now),
            now,
            turns: Vec::new(),
            start: now,
        }
    }

    /// Probes until `until` (since the start), `state` saying how the node is at a time.
    fn run(&mut self, until: Duration, state: impl Fn(Duration) -> Probe) {
        while self.health.next_probe() <= self.start + until {
            self.now = self.now.max(self.health.next_probe());
            let began = self.now;
            let probe = state(began - self.start);
            self.now += match probe {
                Probe::TimedOut => INTERVAL / 2,
                _ => Duration::from_millis(5),
            };
            if let Some(turn) = self.health.observe(began, self.now, probe) {
                self.turns.push((self.now - self.start, turn));
            }
        }
        self.now = self.now.max(self.start + until);
    }
}

#[test]
fn a_node_that_hangs_or_dies_at_any_moment_is_out_within_two_intervals() {
    for failure in [Probe::TimedOut, Probe::Refused, Probe::NotReady] {
        for offset in 0..2000 {
            let dies = Duration::from_secs(10) + Duration::from_millis(offset);
            let mut rig = Rig::new();
            rig.run(Duration::from_secs(20), |at| if at < dies { GOOD } else { failure });
            let lost = rig.turns.iter().find(|(_, turn)| *turn == Turn::Lost).expect("lost").0;
            let bound = 2 * INTERVAL + Duration::from_millis(10);
            assert!(lost - dies <= bound, "{failure:?} at {dies:?}: lost at {lost:?}");
            assert!(!rig.health.is_healthy());
            assert_eq!(rig.health.dot(), Dot::Red);
        }
    }
}

#[test]
fn one_lost_probe_changes_nothing_in_dns() {
    let mut rig = Rig::new();
    // One probe of ten times out; the one that follows at once is good.
    rig.run(Duration::from_secs(100), |at| {
        if at.as_millis() % 20_000 < 40 && at > Duration::from_secs(1) { Probe::TimedOut } else { GOOD }
    });
    assert_eq!(rig.turns.len(), 1, "{:?}", rig.turns);
    assert_eq!(rig.health.share(rig.now), 1000);
}

#[test]
fn a_return_takes_several_good_probes_and_then_grows() {
    let mut rig = Rig::new();
    let (dies, lives) = (Duration::from_secs(10), Duration::from_secs(30));
    rig.run(Duration::from_secs(120), |at| if at >= dies && at < lives { Probe::Refused } else { GOOD });
    let [_, (lost, Turn::Lost), (back, Turn::Back)] = rig.turns[..] else { panic!("{:?}", rig.turns) };
    assert!(lost < Duration::from_secs(13));
    assert!(back >= lives + INTERVAL, "one good probe is not enough: {back:?}");
    let share = |seconds| rig.health.share(rig.start + back + Duration::from_secs(seconds));
    assert_eq!([share(0), share(15), share(30), share(300)], [LEAST_SHARE, 500, 1000, 1000]);
}

#[test]
fn a_flapping_node_has_to_be_good_for_longer_each_time() {
    let mut rig = Rig::new();
    // Up for 20 s, down for 10 s, for ever.
    rig.run(Duration::from_secs(600), |at| if at.as_secs() % 30 < 20 { GOOD } else { Probe::Refused });
    let lost = rig.turns.iter().filter(|(_, turn)| *turn == Turn::Lost).count();
    assert!((2..=4).contains(&lost), "20 outages, told {lost} times");

    // And once it stays up, it is believed again, with all forgiven in the end.
    let from = rig.start + Duration::from_secs(600);
    rig.run(Duration::from_secs(1000), |_| GOOD);
    assert!(rig.health.is_healthy());
    assert!(rig.health.since() < from + INTERVAL * (MOST_RETURNS + 2));
    assert_eq!(rig.health.returns_needed, 2);
}

#[test]
fn a_node_that_was_never_there_is_not_lost_and_a_sick_store_only_turns_it_amber() {
    let mut rig = Rig::new();
    rig.run(Duration::from_secs(60), |at| if at.as_secs() < 30 { Probe::Refused } else { GOOD });
    assert_eq!(rig.turns.iter().map(|(_, turn)| *turn).collect::<Vec<_>>(), [Turn::Back]);

    let sick = Probe::Ready { latency: Duration::from_millis(3), storage: false };
    rig.run(Duration::from_secs(80), |_| sick);
    assert!(rig.health.is_healthy() && !rig.health.storage_works());
    assert_eq!(rig.health.dot(), Dot::Amber);
}
