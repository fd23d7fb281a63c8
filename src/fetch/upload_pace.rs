//! How fast uploads go: a bandwidth cap, and pauses that grow while the service does not want more.
//! Times are arguments.

use std::time::{Duration, Instant};

/// What may go out at once after a quiet time: as much as the cap allows in this long.
const BURST: Duration = Duration::from_millis(500);
/// However low the cap, one packet's worth goes out at a time.
const LEAST_BURST: f64 = 1500.0;

/// A token bucket. Bytes are taken before they are sent; taking more than there are is allowed once,
/// and then nothing more until that debt is paid.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Bytes a second; `None` is no cap.
    rate: Option<u64>,
    tokens: f64,
    counted: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Option<u64>, now: Instant) -> Self {
        Self { rate, tokens: rate.map_or(0.0, burst), counted: now }
    }

    /// Changes the cap. A debt stays one.
    pub fn set_rate(&mut self, rate: Option<u64>, now: Instant) {
        self.refill(now);
        self.tokens = self.tokens.min(rate.map_or(0.0, burst));
        self.rate = rate;
    }

    /// The cap.
    #[must_use]
    pub const fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Takes bytes that are about to be sent.
    ///
    /// # Errors
    /// When there is none left: when to ask again. Nothing was taken.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        let Some(rate) = self.rate else { return Ok(()) };
        self.refill(now);
        if self.tokens <= 0.0 {
            let wait = (1.0 - self.tokens) / as_float(rate.max(1));
            return Err(now + Duration::try_from_secs_f64(wait).unwrap_or(Duration::from_secs(3600)));
        }
        self.tokens -= as_float(bytes);
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let Some(rate) = self.rate else {
            self.counted = now;
            return;
        };
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.tokens = (self.tokens + passed * as_float(rate)).min(burst(rate));
        self.counted = self.counted.max(now);
    }
}

fn burst(rate: u64) -> f64 {
    (as_float(rate) * BURST.as_secs_f64()).max(LEAST_BURST)
}

#[allow(clippy::cast_precision_loss)]
fn as_float(number: u64) -> f64 {
    number as f64
}

/// Small and repeatable; what it is for is that not all proxies come back at once.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall as the seed says.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A duration between three quarters and five quarters of this one.
    pub fn around(&mut self, duration: Duration) -> Duration {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let thousandths = u32::try_from(self.0 % 501).unwrap_or(250) + 750;
        duration.saturating_mul(thousandths) / 1000
    }
}

/// The pause after the `failures`-th failure in a row: doubled each time, from `least` to `most`.
#[must_use]
pub fn doubled(failures: u32, least: Duration, most: Duration) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    least.saturating_mul(factor).min(most)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In no window goes out more than the cap, the burst and one piece allow.
        #[test]
        fn the_cap_holds_in_every_window(
            rate in 1_000_u64..2_000_000,
            pieces in prop::collection::vec((1_u64..16_384, 0_u64..50), 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(Some(rate), now);
            let mut sent: Vec<(Instant, u64)> = Vec::new();
            for (bytes, pause) in pieces {
                now += Duration::from_millis(pause);
                while let Err(later) = bucket.take(bytes, now) {
                    prop_assert!(later > now);
                    now = later;
                }
                sent.push((now, bytes));
            }
            for (first, (from, _)) in sent.iter().enumerate() {
                let mut sum = 0;
                for (until, bytes) in sent.iter().skip(first) {
                    sum += bytes;
                    let window = until.duration_since(*from).as_secs_f64();
                    let most = as_float(rate) * window + burst(rate) + 16_384.0 + 1.0;
                    prop_assert!(as_float(sum) <= most, "{sum} bytes in {window} s at {rate}");
                }
            }
        }
    }

    #[test]
    fn the_cap_is_used_up() {
        let start = Instant::now();
        let (mut now, mut sent) = (start, 0_u64);
        let mut bucket = Bucket::new(Some(125_000), now);
        while now < start + Duration::from_secs(60) {
            match bucket.take(4096, now) {
                Ok(()) => sent += 4096,
                Err(later) => now = later,
            }
        }
        assert!((7_400_000..7_700_000).contains(&sent), "{sent} bytes in a minute at 1 Mbit/s");
    }

    #[test]
    fn a_changed_cap_holds_from_then_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(None, start);
        assert_eq!(bucket.take(u64::MAX, start), Ok(()));
        bucket.set_rate(Some(1000), start);
        assert!(bucket.take(1500, start).is_err(), "nothing was saved up while there was no cap");
        let later = start + Duration::from_secs(10);
        assert_eq!(bucket.take(1500, later), Ok(()));
        assert!(bucket.take(1, later).is_err());
        bucket.set_rate(None, later);
        assert_eq!(bucket.take(1 << 30, later), Ok(()));
    }

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let second = Duration::from_secs(1);
        let pauses: Vec<_> = (1..=12).map(|n| doubled(n, second, 300 * second).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(doubled(u32::MAX, second, 300 * second), 300 * second);
        let mut dice = Dice::new(7);
        let thrown: Vec<_> = (0..100).map(|_| dice.around(100 * second)).collect();
        assert!(thrown.iter().all(|pause| (75..=125).contains(&pause.as_secs())));
        assert!(
            thrown.iter().any(|pause| pause.as_secs() < 85)
                && thrown.iter().any(|pause| pause.as_secs() > 115)
        );
    }
}
