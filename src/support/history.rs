//! What was counted in each minute of the last day, each hour of the last month and each day of the last
//! year, for the plots of the page. Pure state: it is told the time and the sums so far.
//!
//! Minutes, hours and days are those of UTC, so that no day has 23 or 25 hours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What was counted in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 6]", into = "[u64; 6]")]
pub struct Counted {
    /// Asset requests answered.
    pub requests: u64,
    /// Those answered by a tier of ours.
    pub hits: u64,
    /// Bytes of body that the grid did not have to send.
    pub bytes_saved: u64,
    /// Milliseconds of waiting that hits saved, by estimate.
    pub ms_saved: u64,
    /// Milliseconds that hits took longer than the grid usually does.
    pub ms_lost: u64,
    /// Requests that the grid did not answer.
    pub failures: u64,
}

impl From<[u64; 6]> for Counted {
    fn from([requests, hits, bytes_saved, ms_saved, ms_lost, failures]: [u64; 6]) -> Self {
        Self { requests, hits, bytes_saved, ms_saved, ms_lost, failures }
    }
}

impl From<Counted> for [u64; 6] {
    fn from(counted: Counted) -> Self {
        let Counted { requests, hits, bytes_saved, ms_saved, ms_lost, failures } = counted;
        [requests, hits, bytes_saved, ms_saved, ms_lost, failures]
    }
}

impl Counted {
    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let (a, b): ([u64; 6], [u64; 6]) = (self.into(), other.into());
        let mut out = [0; 6];
        for (out, (a, b)) in out.iter_mut().zip(a.into_iter().zip(b)) {
            *out = with(a, b);
        }
        out.into()
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.combine(other, u64::saturating_add)
    }

    fn since(self, before: Self) -> Self {
        self.combine(before, u64::saturating_sub)
    }
}

/// How long the spans of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// 24 hours of them are kept.
    Minute,
    /// 30 days of them.
    Hour,
    /// A year of them.
    Day,
}

impl Span {
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// How many are kept.
    #[must_use]
    pub const fn kept(self) -> u64 {
        match self {
            Self::Minute => 24 * 60,
            Self::Hour => 30 * 24,
            Self::Day => 366,
        }
    }
}

/// Spans by their number since 1970. A missing one means that rezcache did not run, or nothing was told.
type Row = BTreeMap<u64, Counted>;

/// All rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    minutes: Row,
    hours: Row,
    days: Row,
    /// The sums when [`Self::advance`] was last called; not kept over restarts.
    #[serde(skip)]
    last: Option<Counted>,
}

impl History {
    /// Takes in the sums so far; what is more than last time was counted at `unix`. The first call of a run
    /// only sets the mark.
    pub fn advance(&mut self, unix: u64, sums: Counted) {
        let news = self.last.map_or_else(Counted::default, |last| sums.since(last));
        self.last = Some(sums);
        for span in Span::ALL {
            let number = unix / span.seconds();
            let row = self.row_mut(span);
            // A clock that was ahead and has been set right: what lies in the future is no history.
            row.split_off(&(number + 1));
            let oldest = number.saturating_sub(span.kept() - 1);
            *row = row.split_off(&oldest);
            let entry = row.entry(number).or_default();
            *entry = entry.plus(news);
        }
    }

    /// The last `count` spans up to `unix`, the oldest first.
    #[must_use]
    pub fn last(&self, span: Span, count: u64, unix: u64) -> Vec<(u64, Option<Counted>)> {
        let now = unix / span.seconds();
        let first = (now + 1).saturating_sub(count.min(span.kept()));
        (first..=now).map(|number| (number * span.seconds(), self.row(span).get(&number).copied())).collect()
    }

    /// What was counted in the last `count` spans.
    #[must_use]
    pub fn sum(&self, span: Span, count: u64, unix: u64) -> Counted {
        let counted = self.last(span, count, unix).into_iter().filter_map(|(_, counted)| counted);
        counted.fold(Counted::default(), Counted::plus)
    }

    /// The present day's.
    #[must_use]
    pub fn today(&self, unix: u64) -> Counted {
        self.sum(Span::Day, 1, unix)
    }

    /// Whether no row holds more than may be kept.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        Span::ALL.into_iter().all(|span| self.row(span).len() as u64 <= span.kept())
    }

    const fn row(&self, span: Span) -> &Row {
        match span {
            Span::Minute => &self.minutes,
            Span::Hour => &self.hours,
            Span::Day => &self.days,
        }
    }

    const fn row_mut(&mut self, span: Span) -> &mut Row {
        match span {
            Span::Minute => &mut self.minutes,
            Span::Hour => &mut self.hours,
            Span::Day => &mut self.days,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counted, History, Span};

    fn sums(requests: u64) -> Counted {
        Counted { requests, hits: requests / 2, ..Counted::default() }
    }

    #[test]
    fn only_what_is_new_is_counted_and_in_its_own_minute_hour_and_day() {
        let mut history = History::default();
        let noon = 20_000 * 86_400 + 43_200;
        history.advance(noon, sums(1000));
        assert_eq!(history.today(noon), Counted::default(), "what earlier runs counted");
        history.advance(noon + 59, sums(1010));
        history.advance(noon + 60, sums(1030));
        let minutes = history.last(Span::Minute, 3, noon + 60);
        assert_eq!(
            minutes,
            [
                (noon - 60, None),
                (noon, Some(Counted { requests: 10, hits: 5, ..Counted::default() })),
                (noon + 60, Some(Counted { requests: 20, hits: 10, ..Counted::default() })),
            ]
        );
        assert_eq!(history.today(noon + 60).requests, 30);
        history.advance(noon + 43_200, sums(1100));
        assert_eq!(history.today(noon + 43_200).requests, 70, "the next day begins at zero");
        assert_eq!(history.sum(Span::Day, 2, noon + 43_200).requests, 100);
    }

    #[test]
    fn rows_are_bounded_whatever_the_clock_does() {
        let mut history = History::default();
        let mut unix = 1_700_000_000_u64;
        for step in 0..5000_u64 {
            unix += if step % 7 == 0 { 40_000 } else { 61 };
            history.advance(unix, sums(step));
            assert!(history.is_bounded());
        }
        // The clock was a day ahead and is set right.
        let before = history.today(unix).requests;
        history.advance(unix + 86_400, sums(5000));
        history.advance(unix, sums(5010));
        assert_eq!(history.today(unix).requests, before + 10);
        assert!(history.last(Span::Day, 1, unix + 86_400).iter().all(|(_, counted)| counted.is_none()));
    }

    #[test]
    fn counters_that_begin_anew_take_nothing_away() {
        let mut history = History::default();
        history.advance(60, sums(50));
        history.advance(61, sums(5));
        history.advance(62, sums(9));
        assert_eq!(history.today(62).requests, 4);
    }

    #[test]
    fn it_reads_back_as_what_it_was() {
        let mut history = History::default();
        history.advance(86_400, sums(1));
        history.advance(86_460, sums(4));
        let json = serde_json::to_string(&history).unwrap_or_default();
        let read: History = serde_json::from_str(&json).unwrap_or_default();
        assert_eq!(read.today(86_460), history.today(86_460));
        assert!(json.contains("[3,"), "{json}");
    }
}
