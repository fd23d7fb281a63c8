//! How fast the grid usually is, and how an answer of the service is coming along beside that.
//!
//! Knows no clock: it is told what happened and when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SAMPLES: usize = 128;
/// What a grid is believed to take to its first byte until it has shown it.
/// Observed: OpenSimulator 0.9.2.2, 100 ms for an asset of any size.
const UNKNOWN_FIRST_BYTE: Duration = Duration::from_millis(100);
/// And how many bytes a second it then sends.
const UNKNOWN_RATE: u64 = 1 << 20;
/// Nobody waits for so long; what lies farther off is never reached.
const NEVER: Duration = Duration::from_secs(86_400);
/// Bodies below this say nothing of the line: they come with the head.
const RATED_BYTES: u64 = 32 << 10;
/// A service that needs its usual round trip for the next bytes is not standing still.
const ROUND_TRIPS: (u32, u32) = (5, 4);

/// The latest values of one kind.
#[derive(Debug)]
pub(super) struct Samples<T>(VecDeque<T>);

impl<T> Default for Samples<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Copy + Ord> Samples<T> {
    pub(super) fn add(&mut self, sample: T) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The nearest-rank percentile.
    pub(super) fn percentile(&self, percent: usize) -> Option<T> {
        let mut sorted: Vec<T> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
    }
}

/// How fast one grid usually answers.
#[derive(Debug, Default)]
pub struct GridPace {
    first_byte: Samples<Duration>,
    rate: Samples<u64>,
    /// Medians are not computed for every request.
    median: Option<Duration>,
    median_rate: Option<u64>,
}

impl GridPace {
    /// The grid's first byte came after `took`.
    pub fn answered(&mut self, took: Duration) {
        self.first_byte.add(took);
        self.median = self.first_byte.percentile(50);
    }

    /// The grid sent a body of `bytes` bytes in `took`, from its first byte on.
    pub fn delivered(&mut self, bytes: u64, took: Duration) {
        if bytes < RATED_BYTES {
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rate.add(bytes.saturating_mul(1_000_000) / micros);
        self.median_rate = self.rate.percentile(50);
    }

    /// The median time to the first byte, once anything is known of it.
    #[must_use]
    pub const fn median(&self) -> Option<Duration> {
        self.median
    }

    /// The median rate of its bodies in bytes a second, once one was long enough to tell.
    #[must_use]
    pub const fn median_rate(&self) -> Option<u64> {
        self.median_rate
    }

    /// How long the grid usually takes for a body of `bytes` bytes in all.
    #[must_use]
    pub fn usual(&self, bytes: u64) -> Duration {
        let rate = self.median_rate.unwrap_or(UNKNOWN_RATE).max(1);
        let body = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        self.median.unwrap_or(UNKNOWN_FIRST_BYTE).saturating_add(body)
    }
}

/// One answer of the service as it comes: when is it time for the grid to start?
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    asked: Instant,
    deadline: Duration,
    /// When the header came, the body's length, and how long the grid would take for it.
    header: Option<(Duration, u64, Duration)>,
    received: u64,
    last: Instant,
}

impl Progress {
    /// The service was asked at `asked`, and is waited for at most `deadline`.
    #[must_use]
    pub const fn new(asked: Instant, deadline: Duration) -> Self {
        Self { asked, deadline, header: None, received: 0, last: asked }
    }

    /// The header came: a body of `length` bytes follows, for which the grid usually takes `usual`.
    pub fn header(&mut self, now: Instant, length: u64, usual: Duration) {
        self.header = Some((now.saturating_duration_since(self.asked), length, usual));
        self.last = now;
    }

    /// The same answer, which has won although it was late, judged from `now` on.
    #[must_use]
    pub fn anew(self, now: Instant) -> Self {
        let header = self.header.map(|(_, length, usual)| (Duration::ZERO, length, usual));
        Self { asked: now, header, last: now, ..self }
    }

    /// In all `received` bytes of the body have come.
    pub fn received(&mut self, now: Instant, received: u64) {
        if received > self.received {
            self.received = received;
            self.last = now;
        }
    }

    /// When the grid is to be asked too, if nothing more comes until then: no header by the deadline,
    /// a body that stands still for the deadline, or one that is projected to be whole later than the
    /// grid would usually be.
    #[must_use]
    pub fn grid_at(&self) -> Instant {
        let by_deadline = self.asked + self.deadline;
        let Some((waited, length, usual)) = self.header else { return by_deadline };
        // What the header has taken of the deadline, the body does not get again, but for the time that
        // the next bytes of a far service take on their way.
        let way = waited * ROUND_TRIPS.0 / ROUND_TRIPS.1;
        let stalled = self.last + self.deadline.saturating_sub(waited).max(way.min(self.deadline));
        if self.received == 0 || length == 0 {
            return stalled;
        }
        // At the time t the body is projected to be whole at t × length / received.
        let usual = u64::try_from(usual.max(self.deadline).as_nanos()).unwrap_or(u64::MAX);
        let part = u128::from(usual) * u128::from(self.received) / u128::from(length);
        let too_slow = self.asked + Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX)).min(NEVER);
        stalled.min(too_slow.max(by_deadline))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn the_grid_is_as_fast_as_it_has_been() {
        let mut pace = GridPace::default();
        assert_eq!(pace.usual(1 << 20), UNKNOWN_FIRST_BYTE + Duration::from_secs(1));
        for took in [80, 100, 120] {
            pace.answered(ms(took));
        }
        pace.delivered(2_000_000, Duration::from_secs(1));
        pace.delivered(100, ms(0));
        assert_eq!(pace.median(), Some(ms(100)));
        assert_eq!(pace.usual(1_000_000), ms(600));
        assert!(pace.usual(u64::MAX).as_secs() > 1_000_000);
    }

    #[test]
    fn a_service_is_waited_for_until_the_deadline() {
        let start = Instant::now();
        let mut progress = Progress::new(start, ms(40));
        assert_eq!(progress.grid_at(), start + ms(40));
        progress.header(start + ms(4), 100_000, ms(200));
        assert_eq!(progress.grid_at(), start + ms(40), "a body that does not come");
        progress.received(start + ms(6), 50_000);
        assert_eq!(progress.grid_at(), start + ms(42), "a body that stands still");
        progress.received(start + ms(35), 50_000);
        assert_eq!(progress.grid_at(), start + ms(42), "nothing new is no progress");
    }

    #[test]
    fn a_drip_is_not_waited_for() {
        let start = Instant::now();
        let mut progress = Progress::new(start, ms(40));
        progress.header(start + ms(1), 100_000, ms(300));
        for n in 1..=39 {
            progress.received(start + ms(n), n);
        }
        assert_eq!(progress.grid_at(), start + ms(40), "the grid is sooner, but the deadline stands");
        progress.received(start + ms(39), 60_000);
        assert!(progress.grid_at() > start + ms(70), "now it comes in time");
    }

    #[test]
    fn a_far_service_may_take_its_round_trip() {
        let start = Instant::now();
        let mut progress = Progress::new(start, ms(90));
        progress.header(start + ms(60), 1_000_000, ms(2000));
        progress.received(start + ms(60), 15_000);
        assert!(progress.grid_at() >= start + ms(90));
        progress.received(start + ms(120), 60_000);
        assert_eq!(progress.grid_at(), start + ms(120).min(ms(2000) * 60 / 1000), "as far as it is on time");
    }
}
