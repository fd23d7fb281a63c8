//! How busy each node and the whole array were, for the operators' plots: some seconds apart for an hour, minutes for a
//! day, quarters of an hour for 30 days. In memory, bounded; a director that starts begins anew. Pure: told the time.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// Nodes that are followed; who was seen last longest ago makes room.
const MAX_FOLLOWED: usize = 256;
/// The name of the whole array, which no node can have.
pub const WHOLE: &str = "";

/// How things were at a time, or on average over a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// How loaded: 1 is all that a node can.
    pub load: f32,
    /// Requests in a second.
    pub requests_per_s: f32,
    /// Share of reads answered with the asset; `None` when there were none.
    pub hit_ratio: Option<f32>,
    /// Connections that are open.
    pub connections: f32,
    /// Nodes that serve; 1 or 0 for one node.
    pub nodes: f32,
}

/// How far a row reaches, and how fine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Range {
    /// The last hour, every five seconds.
    Hour,
    /// The last day, every minute.
    Day,
    /// The last 30 days, every quarter of an hour.
    Month,
}

impl Range {
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    /// Seconds of one step.
    #[must_use]
    pub const fn step(self) -> u64 {
        match self {
            Self::Hour => 5,
            Self::Day => 60,
            Self::Month => 900,
        }
    }

    /// How many steps are kept.
    #[must_use]
    pub const fn steps(self) -> usize {
        match self {
            Self::Hour => 720,
            Self::Day => 1440,
            Self::Month => 2880,
        }
    }
}

/// What was told within a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    samples: f32,
    load: f32,
    requests: f32,
    hits: f32,
    with_hits: f32,
    connections: f32,
    nodes: f32,
}

impl Sum {
    fn add(&mut self, sample: &Sample) {
        self.samples += 1.0;
        self.load += sample.load;
        self.requests += sample.requests_per_s;
        if let Some(ratio) = sample.hit_ratio {
            self.hits += ratio;
            self.with_hits += 1.0;
        }
        self.connections += sample.connections;
        self.nodes += sample.nodes;
    }

    fn mean(&self) -> Option<Sample> {
        (self.samples > 0.0).then(|| Sample {
            load: self.load / self.samples,
            requests_per_s: self.requests / self.samples,
            hit_ratio: (self.with_hits > 0.0).then(|| self.hits / self.with_hits),
            connections: self.connections / self.samples,
            nodes: self.nodes / self.samples,
        })
    }
}

/// One row: steps that are over by their number, and the one that goes on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    done: VecDeque<(u64, Sample)>,
    running: Option<(u64, Sum)>,
}

impl Row {
    fn tell(&mut self, range: Range, wall: u64, sample: &Sample) {
        let number = wall / range.step();
        match &mut self.running {
            Some((known, sum)) if *known == number => sum.add(sample),
            running => {
                let mut sum = Sum::default();
                sum.add(sample);
                if let Some((known, old)) = running.replace((number, sum))
                    && let Some(mean) = old.mean()
                {
                    self.done.push_back((known, mean));
                }
                // A clock that was put back leaves nothing behind that lies in the future.
                while self.done.back().is_some_and(|(known, _)| *known >= number) {
                    self.done.pop_back();
                }
                while self.done.len() > range.steps() {
                    self.done.pop_front();
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Followed {
    rows: [Row; 3],
    seen: u64,
}

/// All rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    followed: BTreeMap<String, Followed>,
}

impl Series {
    /// So it is with this node, or with [`WHOLE`], at this time.
    pub fn tell(&mut self, wall: u64, name: &str, sample: &Sample) {
        if !self.followed.contains_key(name) {
            if self.followed.len() > MAX_FOLLOWED {
                let nodes = self.followed.iter().filter(|(name, _)| !name.is_empty());
                let Some(oldest) = nodes.min_by_key(|(_, followed)| followed.seen) else { return };
                let oldest = oldest.0.clone();
                self.followed.remove(&oldest);
            }
            self.followed.insert(name.to_owned(), Followed::default());
        }
        let Some(followed) = self.followed.get_mut(name) else { return };
        followed.seen = wall;
        for (row, range) in followed.rows.iter_mut().zip(Range::ALL) {
            row.tell(range, wall, sample);
        }
    }

    /// The nodes that were there within the range, in the order of their names.
    pub fn names(&self, range: Range, wall: u64) -> impl Iterator<Item = &str> {
        let reach = range.step() * range.steps() as u64;
        self.followed
            .iter()
            .filter(move |(name, followed)| !name.is_empty() && followed.seen.saturating_add(reach) > wall)
            .map(|(name, _)| name.as_str())
    }

    /// What was told of one, as points of time and sample, the oldest first.
    #[must_use]
    pub fn points(&self, name: &str, range: Range, wall: u64) -> Vec<(u64, Sample)> {
        let place = Range::ALL.iter().position(|known| *known == range).unwrap_or(0);
        let Some(row) = self.followed.get(name).and_then(|followed| followed.rows.get(place)) else {
            return Vec::new();
        };
        let first = (wall / range.step()).saturating_sub(range.steps() as u64);
        let running = row.running.as_ref().and_then(|(number, sum)| Some((*number, sum.mean()?)));
        let all = row.done.iter().copied().chain(running);
        all.filter(|(number, _)| *number > first).map(|(number, it)| (number * range.step(), it)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::float_cmp)]

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn sample(load: f32) -> Sample {
        Sample { load, requests_per_s: 10.0, hit_ratio: Some(0.5), connections: 3.0, nodes: 1.0 }
    }

    #[test]
    fn each_range_holds_the_mean_of_its_steps() {
        let mut series = Series::default();
        for second in 0..3600 {
            let load = if second % 2 == 0 { 0.2 } else { 0.4 };
            let hit_ratio = (second < 1800).then_some(1.0);
            series.tell(NOW + second, "otter", &Sample { hit_ratio, ..sample(load) });
        }
        let now = NOW + 3599;
        let hour = series.points("otter", Range::Hour, now);
        assert_eq!((hour.len(), hour[0].0, hour[719].0), (720, NOW, NOW + 3595));
        let day = series.points("otter", Range::Day, now);
        assert_eq!(day.len(), 60);
        assert!(day.iter().all(|(_, sample)| (sample.load - 0.3).abs() < 1e-4));
        assert_eq!((day[0].1.hit_ratio, day[59].1.hit_ratio), (Some(1.0), None));
        assert_eq!(series.points("otter", Range::Month, now).len(), 4);
        assert_eq!(series.names(Range::Hour, now).collect::<Vec<_>>(), ["otter"]);
        assert_eq!(series.names(Range::Hour, now + 3600).count(), 0);
        assert_eq!(series.points("otter", Range::Hour, now + 3600).len(), 0);
        assert_eq!(series.points("otter", Range::Day, now + 3600).len(), 60);
        assert!(series.points("lynx", Range::Day, now).is_empty());
    }

    #[test]
    fn memory_is_bounded_and_a_clock_put_back_leaves_no_future() {
        let mut series = Series::default();
        for n in 0..2000 {
            series.tell(NOW, WHOLE, &sample(0.1));
            series.tell(NOW + n, &format!("node {n}"), &sample(0.1));
        }
        assert_eq!(series.followed.len(), MAX_FOLLOWED + 1);
        assert!(series.followed.contains_key(WHOLE) && series.followed.contains_key("node 1999"));
        for n in 0..20_000 {
            series.tell(NOW + n * 5, "otter", &sample(0.1));
        }
        assert!(series.followed["otter"].rows[0].done.len() <= 720);
        series.tell(NOW, "otter", &sample(0.9));
        series.tell(NOW + 5, "otter", &sample(0.9));
        let points = series.points("otter", Range::Hour, NOW + 5);
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "{points:?}");
        assert_eq!(points.last().unwrap().0, NOW + 5);
    }
}
