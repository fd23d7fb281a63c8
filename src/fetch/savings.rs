//! How much waiting a hit has saved: what the grid usually takes for such an answer, less what ours took.
//!
//! It is an estimate. The usual time is the grid's median time to its first byte and the time that the
//! bytes of the answer take at its median rate, of up to 128 answers each, so a grid that was never
//! measured saves nothing. The times of all answers are added up; a viewer asks for several at once, so a
//! scene is complete sooner by less than that. Answers over LLUDP are left out: there the simulator's
//! throttle decides, of which we know nothing.

use std::time::Duration;

use super::pace::GridPace;

/// A grid's pace in two numbers, as it is remembered over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    /// Median time to the first byte, in microseconds.
    pub first_byte_us: u64,
    /// Median rate in bytes a second; 0 when no body was long enough to tell.
    pub rate: u64,
}

/// No grid is believed to take longer for one answer, whatever a file says.
const LONGEST: Duration = Duration::from_secs(120);

impl Remembered {
    /// What there is to remember of a grid; `None` until it has answered.
    #[must_use]
    pub fn of(pace: &GridPace) -> Option<Self> {
        let first_byte_us = u64::try_from(pace.median()?.as_micros()).unwrap_or(u64::MAX);
        Some(Self { first_byte_us, rate: pace.median_rate().unwrap_or(0) })
    }

    /// How long the grid usually takes for an answer of so many bytes.
    #[must_use]
    pub fn usual(&self, bytes: u64) -> Duration {
        let body = match self.rate {
            // What is not known is not counted.
            0 => Duration::ZERO,
            rate => Duration::from_micros(bytes.saturating_mul(1_000_000) / rate),
        };
        Duration::from_micros(self.first_byte_us).saturating_add(body).min(LONGEST)
    }
}

/// What a hit has saved, and what it has cost where ours took longer; one of the two is zero.
#[must_use]
pub fn saved(usual: Duration, took: Duration) -> (Duration, Duration) {
    (usual.saturating_sub(took), took.saturating_sub(usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_measured_saves_nothing() {
        let mut pace = GridPace::default();
        assert_eq!(Remembered::of(&pace), None);
        pace.answered(Duration::from_millis(100));
        let known = Remembered::of(&pace);
        assert_eq!(known.map(|known| known.usual(1 << 20)), Some(Duration::from_millis(100)), "no rate yet");
        pace.delivered(1_000_000, Duration::from_secs(2));
        let known = Remembered::of(&pace);
        assert_eq!(known, Some(Remembered { first_byte_us: 100_000, rate: 500_000 }));
        assert_eq!(known.map(|known| known.usual(250_000)), Some(Duration::from_millis(600)));
        let wild = Remembered { first_byte_us: u64::MAX, rate: 1 };
        assert_eq!(wild.usual(u64::MAX), LONGEST);
    }

    #[test]
    fn a_hit_that_took_longer_than_the_grid_is_counted_as_that() {
        let ms = Duration::from_millis;
        assert_eq!(saved(ms(150), ms(2)), (ms(148), ms(0)));
        assert_eq!(saved(ms(100), ms(130)), (ms(0), ms(30)));
    }
}
