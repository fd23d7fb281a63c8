#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

struct Rig {
    alarms: Alarms,
    now: Instant,
    uptime: u64,
}

impl Rig {
    fn new() -> Self {
        Self { alarms: Alarms::new(AlarmRules::default()), now: Instant::now(), uptime: 1000 }
    }

    /// A report of these counters, and what follows.
    fn say(&mut self, node: &str, counters: &[(&str, u64)]) -> Option<Alarm> {
        let counters = counters.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        let report = NodeReport { uptime_s: self.uptime, counters, ..NodeReport::default() };
        self.alarms.report(self.now, node, &report);
        self.alarms.judge(self.now)
    }

    fn pass(&mut self, seconds: u64) -> Option<Alarm> {
        self.now += Duration::from_secs(seconds);
        self.uptime += seconds;
        self.alarms.judge(self.now)
    }
}

#[test]
fn what_was_counted_before_is_no_news() {
    let mut rig = Rig::new();
    for _ in 0..10 {
        assert_eq!(rig.say("otter", &[("disputed", 7), ("blobs_damaged", 3), ("conflicts", 5000)]), None);
        assert_eq!(rig.pass(60), None);
    }
}

#[test]
fn a_disputed_asset_is_an_alarm_with_its_numbers_until_it_is_quiet() {
    let mut rig = Rig::new();
    rig.say("otter", &[("disputed", 7), ("conflicts", 1)]);
    rig.say("lynx", &[]);
    rig.pass(2);
    let Some(Alarm::Raised(text)) = rig.say("otter", &[("disputed", 8), ("conflicts", 4)]) else { panic!() };
    assert_eq!(
        text,
        "poisoning is suspected: within 10 minutes 1 asset became disputed, \
         3 attestations contradict what is known (seen by otter)"
    );
    rig.pass(2);
    let Some(Alarm::Raised(text)) = rig.say("lynx", &[("store_mismatches", 1), ("blobs_damaged", 1)]) else {
        panic!()
    };
    assert!(
        text.contains("2 stored contents are not what they were") && text.ends_with("(seen by lynx, otter)")
    );
    // Out of the window, and not quiet for long enough.
    assert_eq!(rig.pass(700), None);
    // A single contradiction prolongs it: whoever does this may still be at it.
    assert_eq!(rig.say("otter", &[("disputed", 8), ("conflicts", 5)]), None);
    assert_eq!(rig.pass(1799), None);
    assert_eq!(rig.pass(1), Some(Alarm::Over));
    assert_eq!(rig.pass(1), None, "said once");
}

#[test]
fn contradictions_are_an_alarm_only_when_there_are_many() {
    let mut rig = Rig::new();
    rig.say("otter", &[]);
    // One every 10 s is 60 in a window: damaged caches.
    for n in 1..400 {
        rig.pass(10);
        assert_eq!(rig.say("otter", &[("conflicts", n)]), None, "{n}");
    }
    assert!(rig.alarms.spans.len() <= 32, "bounded: {}", rig.alarms.spans.len());
    assert!(matches!(rig.say("otter", &[("conflicts", 500)]), Some(Alarm::Raised(_))));
}

#[test]
fn a_node_that_has_started_anew_counts_from_nothing() {
    let mut rig = Rig::new();
    rig.say("otter", &[("disputed", 900)]);
    rig.uptime = 1;
    assert_eq!(rig.say("otter", &[("conflicts", 2)]), None);
    rig.uptime = 0;
    // More than before at once: all of it is new.
    let Some(Alarm::Raised(text)) = rig.say("otter", &[("disputed", 2)]) else { panic!() };
    assert!(text.contains("2 assets"), "{text}");
    rig.alarms.forget("otter");
    rig.pass(4000);
    assert_eq!(rig.say("otter", &[("disputed", 50)]), None, "a new one of that name");
}

#[test]
fn nonsense_does_not_overflow_and_many_nodes_are_bounded() {
    let mut rig = Rig::new();
    for n in 0..5000 {
        rig.say(&format!("node {n}"), &[]);
    }
    assert_eq!(rig.alarms.known.len(), MAX_NODES);
    rig.pass(2);
    for n in 0..9 {
        rig.say(&format!("node {n}"), &[("disputed", u64::MAX), ("blobs_damaged", u64::MAX)]);
    }
    let Some(Alarm::Raised(text)) = rig.pass(1) else { panic!() };
    assert!(text.contains(&u64::MAX.to_string()) && text.contains("and 4 more)"), "{text}");
}

#[test]
fn a_rule_of_zero_is_none() {
    let none = AlarmRules { disputed: 0, mismatches: 0, conflicts: 0, ..AlarmRules::default() };
    let mut rig = Rig { alarms: Alarms::new(none), ..Rig::new() };
    rig.say("otter", &[]);
    assert_eq!(rig.say("otter", &[("disputed", 9), ("conflicts", 999)]), None);
}
