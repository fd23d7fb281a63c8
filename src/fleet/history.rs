//! How each member was on each of the last days, for the bars of the status page. Pure: told how things are and what
//! time it is, it adds up; the leading director keeps the days on the board, from where all read them.
//!
//! A day says up to which second it is counted. Whoever goes on with it, after a restart or as the next leader, begins
//! there, so that no second counts twice; what nobody saw is unknown. A day never holds more seconds than have passed
//! of it, whatever the clocks do.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// Seconds of a day; days are those of UTC.
pub const DAY: u64 = 86_400;
/// Days kept and shown.
pub const DAYS: u64 = 90;
/// Members followed; nodes come and go, and each has 90 days.
pub const MAX_FOLLOWED: usize = 1024;
/// Between two looks at most so many seconds are believed to have been as the later look says.
const MAX_GAP: u64 = 60;

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All is well.
    Healthy,
    /// It works, but something is wrong.
    Amber,
    /// It does not work.
    Lost,
    /// Away by plan.
    Maintenance,
    /// Nobody knows.
    Unknown,
}

/// One day of one member: seconds in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Day {
    /// All was well.
    pub healthy: u32,
    /// Something was wrong.
    pub amber: u32,
    /// It did not work.
    pub lost: u32,
    /// It was away by plan.
    pub maintenance: u32,
    /// Nobody knows.
    pub unknown: u32,
    /// Up to when this is counted; seconds since 1970.
    pub until: u64,
}

impl Day {
    /// All its seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        [self.healthy, self.amber, self.lost, self.maintenance, self.unknown].into_iter().map(u64::from).sum()
    }

    /// The share of time in which it worked, of the time in which it should have; `None` when that was none.
    #[must_use]
    pub fn worked(&self) -> Option<f64> {
        let worked = u64::from(self.healthy) + u64::from(self.amber);
        let all = worked + u64::from(self.lost);
        let seconds = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        (all > 0).then(|| seconds(worked) / seconds(all))
    }

    /// The two together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            healthy: self.healthy.saturating_add(other.healthy),
            amber: self.amber.saturating_add(other.amber),
            lost: self.lost.saturating_add(other.lost),
            maintenance: self.maintenance.saturating_add(other.maintenance),
            unknown: self.unknown.saturating_add(other.unknown),
            until: self.until.max(other.until),
        }
    }

    /// Adds seconds that end at `until`, as far as the day has room for them.
    fn add(&mut self, state: State, seconds: u64, until: u64) {
        let passed = if until.is_multiple_of(DAY) { DAY } else { until % DAY };
        let room = passed.saturating_sub(self.seconds());
        let seconds = u32::try_from(seconds.min(room)).unwrap_or(0);
        let place = match state {
            State::Healthy => &mut self.healthy,
            State::Amber => &mut self.amber,
            State::Lost => &mut self.lost,
            State::Maintenance => &mut self.maintenance,
            State::Unknown => &mut self.unknown,
        };
        *place = place.saturating_add(seconds);
        self.until = until;
    }
}

/// How members were lately, as one director has seen it. Whoever begins to lead knows from this how things were since
/// the last leader, or this one while the catalog was away, wrote the last word.
#[derive(Clone, Debug, Default)]
pub struct Lately {
    members: BTreeMap<String, Stretch>,
}

#[derive(Clone, Debug)]
struct Stretch {
    /// When each state began.
    changes: VecDeque<(u64, State)>,
    until: u64,
}

/// Changes of one member that are remembered.
const MAX_CHANGES: usize = 64;

impl Lately {
    /// The member is like this at this time.
    pub fn note(&mut self, wall: u64, member: &str, state: State) {
        if let Some(stretch) = self.members.get_mut(member) {
            let goes_on = wall >= stretch.until && wall - stretch.until <= MAX_GAP;
            if !goes_on {
                stretch.changes.clear();
            }
            stretch.until = wall;
            if stretch.changes.back().is_none_or(|(_, known)| *known != state) {
                stretch.changes.push_back((wall, state));
            }
            if stretch.changes.len() > MAX_CHANGES {
                stretch.changes.pop_front();
            }
            return;
        }
        if self.members.len() >= MAX_FOLLOWED {
            self.members.retain(|_, stretch| stretch.until.saturating_add(MAX_GAP) > wall);
        }
        if self.members.len() < MAX_FOLLOWED {
            let changes = VecDeque::from([(wall, state)]);
            self.members.insert(member.to_owned(), Stretch { changes, until: wall });
        }
    }

    /// How it was, as the ends of stretches and their states; and when the first one began.
    fn of(&self, member: &str) -> (u64, Vec<(u64, State)>) {
        let Some(stretch) = self.members.get(member) else { return (u64::MAX, Vec::new()) };
        let begins = stretch.changes.iter().map(|(from, _)| *from);
        let ends = begins.clone().skip(1).chain([stretch.until]);
        let states = stretch.changes.iter().map(|(_, state)| *state);
        (begins.clone().next().unwrap_or(u64::MAX), ends.zip(states).collect())
    }
}

/// A day of a member, as it is written: `MEMBER/DAY` and the seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name on the board.
    pub name: String,
    /// Its time: the day's beginning, by which it is forgotten.
    pub at: u64,
    /// What to write.
    pub day: Day,
}

/// The days of all members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    members: BTreeMap<String, BTreeMap<u64, Day>>,
}

impl History {
    /// Takes in what is written on the board. A day that is known as counted further stays.
    pub fn read(&mut self, name: &str, day: Day) {
        let Some((member, number)) = name.rsplit_once('/') else { return };
        let Ok(number) = number.parse::<u64>() else { return };
        if day.seconds() > DAY || day.until < number.saturating_mul(DAY) {
            return;
        }
        let Some(days) = self.days_of(member) else { return };
        let known = days.entry(number).or_default();
        if day.until > known.until {
            *known = day;
        }
        while days.len() as u64 > DAYS {
            days.pop_first();
        }
    }

    /// The member is like this at this time.
    pub fn observe(&mut self, wall: u64, member: &str, state: State) {
        let Some(days) = self.days_of(member) else { return };
        let Some(last) = days.last_key_value().map(|(_, day)| day.until) else {
            days.insert(wall / DAY, Day { until: wall, ..Day::default() });
            return;
        };
        if wall < last.saturating_sub(MAX_GAP) {
            // The clock was put back, or was ahead when this was written: from here on, and no day gets more than it has.
            days.retain(|number, _| *number <= wall / DAY);
            let today = days.entry(wall / DAY).or_default();
            let ahead = today.seconds().saturating_sub(wall % DAY);
            // What nobody saw of the time that has not been yet.
            today.unknown = today.unknown.saturating_sub(u32::try_from(ahead).unwrap_or(u32::MAX));
            today.until = wall;
            return;
        }
        let state = if wall.saturating_sub(last) > MAX_GAP { State::Unknown } else { state };
        Self::count(days, last, wall, state);
    }

    /// The same from what was seen lately, after a time in which this was not told.
    pub fn catch_up(&mut self, member: &str, lately: &Lately) {
        let (began, stretches) = lately.of(member);
        let Some(days) = self.days_of(member) else { return };
        let Some(last) = days.last_key_value().map(|(_, day)| day.until) else { return };
        if last >= began {
            for (until, state) in stretches {
                let last = days.last_key_value().map_or(until, |(_, day)| day.until);
                Self::count(days, last, until, state);
            }
        }
    }

    fn count(days: &mut BTreeMap<u64, Day>, last: u64, wall: u64, state: State) {
        let mut from = last.max((wall / DAY).saturating_sub(DAYS) * DAY);
        while from < wall {
            let until = wall.min((from / DAY + 1) * DAY);
            let day = days.entry(from / DAY).or_default();
            day.add(state, until - from, until);
            from = until;
        }
        while days.len() as u64 > DAYS {
            days.pop_first();
        }
    }

    /// Today and yesterday of these members, to be written down. Yesterday's last minute is counted today.
    #[must_use]
    pub fn to_write<'a>(&self, wall: u64, members: impl Iterator<Item = &'a str>) -> Vec<Written> {
        let today = wall / DAY;
        // Yesterday does not change any more after the first minutes.
        let first = if wall % DAY < 600 { today.saturating_sub(1) } else { today };
        let mut written = Vec::new();
        for member in members {
            let Some(days) = self.members.get(member) else { continue };
            let recent = days.range(first..=today).filter(|(_, day)| day.seconds() > 0);
            written.extend(recent.map(|(number, day)| Written {
                name: format!("{member}/{number}"),
                at: number * DAY,
                day: *day,
            }));
        }
        written
    }

    /// The last days of a member up to today, the oldest first; `None` where nothing is known.
    #[must_use]
    pub fn days(&self, wall: u64, member: &str, count: u64) -> Vec<(u64, Option<Day>)> {
        let today = wall / DAY;
        let days = self.members.get(member);
        let first = (today + 1).saturating_sub(count);
        let day = |number: u64| days.and_then(|days| days.get(&number)).filter(|day| day.seconds() > 0);
        (first..=today).map(|number| (number * DAY, day(number).copied())).collect()
    }

    fn days_of(&mut self, member: &str) -> Option<&mut BTreeMap<u64, Day>> {
        if !self.members.contains_key(member) {
            if self.members.len() >= MAX_FOLLOWED {
                // Whoever was last seen longest ago makes room.
                let last = |days: &BTreeMap<u64, Day>| days.last_key_value().map(|(_, day)| day.until);
                let oldest = self.members.iter().min_by_key(|(_, days)| last(days))?.0.clone();
                self.members.remove(&oldest);
            }
            self.members.insert(member.to_owned(), BTreeMap::new());
        }
        self.members.get_mut(member)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const MIDNIGHT: u64 = 20_000 * DAY;

    fn day(history: &History, number: u64) -> Day {
        history.members["otter"].get(&number).copied().unwrap_or_default()
    }

    #[test]
    fn midnight_parts_the_days() {
        let mut history = History::default();
        for wall in MIDNIGHT - 20..=MIDNIGHT + 10 {
            history.observe(wall, "otter", if wall > MIDNIGHT + 5 { State::Lost } else { State::Healthy });
        }
        let yesterday = Day { healthy: 20, until: MIDNIGHT, ..Day::default() };
        assert_eq!(day(&history, 19_999), yesterday);
        assert_eq!(
            day(&history, 20_000),
            Day { healthy: 5, lost: 5, until: MIDNIGHT + 10, ..Day::default() }
        );
        let written = history.to_write(MIDNIGHT + 10, ["otter", "nobody"].into_iter());
        let names: Vec<_> = written.iter().map(|day| (day.name.as_str(), day.at)).collect();
        assert_eq!(names, [("otter/19999", MIDNIGHT - DAY), ("otter/20000", MIDNIGHT)]);
        assert_eq!(history.to_write(MIDNIGHT + 700, ["otter"].into_iter()).len(), 1);
        let shown = history.days(MIDNIGHT + 10, "otter", 90);
        assert_eq!((shown.len(), shown[88], shown[0].1), (90, (MIDNIGHT - DAY, Some(yesterday)), None));
    }

    #[test]
    fn a_look_once_a_minute_across_midnight_loses_nothing() {
        let mut history = History::default();
        for step in 0..5 {
            history.observe(MIDNIGHT - 90 + step * 50, "otter", State::Amber);
        }
        assert_eq!((day(&history, 19_999).amber, day(&history, 20_000).amber), (90, 110));
    }

    #[test]
    fn a_restart_leaves_a_gap_that_nobody_knows_of() {
        let mut history = History::default();
        history.observe(MIDNIGHT + 100, "otter", State::Healthy);
        history.observe(MIDNIGHT + 130, "otter", State::Healthy);
        let written = history.to_write(MIDNIGHT + 130, ["otter"].into_iter());
        let mut later = History::default();
        // What was looked at before the board was read makes way for what is counted further, and goes on from there.
        later.read(&written[0].name, written[0].day);
        later.observe(MIDNIGHT + 500, "otter", State::Healthy);
        later.observe(MIDNIGHT + 510, "otter", State::Lost);
        let counted = day(&later, 20_000);
        assert_eq!((counted.healthy, counted.unknown, counted.lost), (30, 370, 10));
    }

    #[test]
    fn the_next_leader_counts_no_second_twice() {
        // Both look every second; only what the leader has counted is written, and the other begins where it ended.
        let (mut first, mut second) = (History::default(), History::default());
        for wall in MIDNIGHT..=MIDNIGHT + 600 {
            first.observe(wall, "otter", State::Healthy);
            second.observe(wall, "otter", State::Healthy);
        }
        for written in first.to_write(MIDNIGHT + 540, ["otter"].into_iter()) {
            second.read(&written.name, written.day);
            second.read(&written.name, written.day);
        }
        for wall in MIDNIGHT + 601..=MIDNIGHT + 700 {
            second.observe(wall, "otter", State::Lost);
            // An older word from the board changes nothing.
            second.read("otter/20000", Day { healthy: 540, until: MIDNIGHT + 540, ..Day::default() });
        }
        let counted = day(&second, 20_000);
        assert_eq!((counted.healthy, counted.lost, counted.seconds()), (600, 100, 700));
    }

    #[test]
    fn who_leads_again_knows_what_it_has_seen_meanwhile() {
        let (mut history, mut lately) = (History::default(), Lately::default());
        history.observe(MIDNIGHT + 100, "otter", State::Healthy);
        for wall in MIDNIGHT + 90..=MIDNIGHT + 1000 {
            let lost = (300..400).contains(&(wall - MIDNIGHT));
            lately.note(wall, "otter", if lost { State::Lost } else { State::Healthy });
        }
        history.catch_up("otter", &lately);
        history.catch_up("otter", &lately);
        let counted = day(&history, 20_000);
        assert_eq!((counted.healthy, counted.lost, counted.unknown), (800, 100, 0));
        // What it has not seen from its beginning is unknown.
        let mut later = History::default();
        later.observe(MIDNIGHT + 10, "otter", State::Healthy);
        later.catch_up("otter", &lately);
        later.observe(MIDNIGHT + 1000, "otter", State::Healthy);
        assert_eq!((day(&later, 20_000).unknown, day(&later, 20_000).healthy), (990, 0));
        for n in 0..5000 {
            lately.note(MIDNIGHT + n, &format!("node {}", n % 2000), State::Lost);
            lately.note(MIDNIGHT + n, "lynx", if n % 2 == 0 { State::Lost } else { State::Amber });
        }
        assert!(lately.members.len() <= MAX_FOLLOWED && lately.members["lynx"].changes.len() <= MAX_CHANGES);
    }

    #[test]
    fn clocks_that_jump_count_neither_twice_nor_more_than_a_day() {
        let mut history = History::default();
        for wall in MIDNIGHT..=MIDNIGHT + 7200 {
            history.observe(wall, "otter", State::Healthy);
        }
        // Back by an hour, and through the same hour again.
        for wall in MIDNIGHT + 3600..=MIDNIGHT + 7200 {
            history.observe(wall, "otter", State::Lost);
        }
        assert_eq!((day(&history, 20_000).healthy, day(&history, 20_000).lost), (7200, 0));
        history.observe(MIDNIGHT + 7260, "otter", State::Lost);
        assert_eq!(day(&history, 20_000).lost, 60);
        // Ahead by three days, and back: the days that have not been yet are gone.
        history.observe(MIDNIGHT + 3 * DAY, "otter", State::Healthy);
        assert_eq!(day(&history, 20_001).unknown, 86_400);
        history.observe(MIDNIGHT + 7300, "otter", State::Healthy);
        assert_eq!(history.members["otter"].keys().copied().collect::<Vec<_>>(), [20_000]);
        for wall in MIDNIGHT + 7301..MIDNIGHT + DAY {
            history.observe(wall, "otter", State::Healthy);
        }
        assert!(day(&history, 20_000).seconds() < DAY);
        // By a minute or less, as time servers do.
        history.observe(MIDNIGHT + DAY - 30, "otter", State::Lost);
        history.observe(MIDNIGHT + DAY, "otter", State::Healthy);
        assert!(day(&history, 20_000).seconds() <= DAY);
    }

    #[test]
    fn memory_is_bounded_and_nonsense_is_not_read() {
        let mut history = History::default();
        for n in 0..2 * MAX_FOLLOWED as u64 {
            history.observe(MIDNIGHT + n, &format!("node {n}"), State::Healthy);
        }
        assert_eq!(history.members.len(), MAX_FOLLOWED);
        assert!(history.members.contains_key(&format!("node {}", 2 * MAX_FOLLOWED - 1)));
        for n in 0..200 {
            history.observe(MIDNIGHT + n * DAY, "otter", State::Healthy);
            history
                .read(&format!("lynx/{}", 20_000 + n), Day { until: MIDNIGHT + n * DAY, ..Day::default() });
        }
        assert_eq!((history.members["otter"].len(), history.members["lynx"].len()), (90, 90));
        let before = history.clone();
        history.read("heron/20000", Day { healthy: 90_000, until: MIDNIGHT + 5, ..Day::default() });
        history.read("heron", Day::default());
        history.read("heron/x", Day::default());
        history.read("heron/20000", Day { healthy: 5, until: 7, ..Day::default() });
        assert_eq!(history, before);
    }

    #[test]
    fn the_share_is_of_the_time_in_which_it_should_have_worked() {
        let day = Day { healthy: 890, amber: 10, lost: 100, maintenance: 5000, ..Day::default() };
        assert!((day.worked().unwrap() - 0.9).abs() < 1e-9);
        assert_eq!(Day { maintenance: 10, unknown: 5, ..Day::default() }.worked(), None);
    }
}
