//! How many answers a network gets. A sender's address over UDP may be forged, and whoever it names would get the
//! answers: so each network is answered so often a second, beyond that every second question gets the short
//! answer "ask over TCP", which a forger cannot, and the others get none.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What a question deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer.
    Answer,
    /// The short answer: come again over TCP.
    Truncate,
    /// None.
    Drop,
}

/// Networks that are told apart; those beyond share.
const BUCKETS: usize = 16 * 1024;

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f32,
    filled: Instant,
    slip: bool,
}

/// The limit. Its memory does not grow, whoever asks.
pub struct ResponseLimit {
    per_second: f32,
    burst: f32,
    hasher: RandomState,
    buckets: Box<[Bucket]>,
}

impl std::fmt::Debug for ResponseLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseLimit").field("per_second", &self.per_second).finish_non_exhaustive()
    }
}

impl ResponseLimit {
    /// So many answers a second for each network, and so many at once.
    #[must_use]
    pub fn new(now: Instant, per_second: u16, burst: u16) -> Self {
        let bucket = Bucket { tokens: f32::from(burst), filled: now, slip: false };
        Self {
            per_second: f32::from(per_second),
            burst: f32::from(burst),
            hasher: RandomState::new(),
            buckets: vec![bucket; BUCKETS].into_boxed_slice(),
        }
    }

    /// Judges a question from this address.
    pub fn judge(&mut self, now: Instant, from: IpAddr) -> Verdict {
        // Nobody can choose whom they share a bucket with: the hash is keyed anew at each start.
        let slot = self.hasher.hash_one(network(from)) % BUCKETS as u64;
        let Some(bucket) = usize::try_from(slot).ok().and_then(|slot| self.buckets.get_mut(slot)) else {
            return Verdict::Drop;
        };
        let passed = now.checked_duration_since(bucket.filled).unwrap_or(Duration::ZERO);
        bucket.filled = now;
        bucket.tokens = passed.as_secs_f32().mul_add(self.per_second, bucket.tokens).min(self.burst);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Verdict::Answer;
        }
        bucket.slip = !bucket.slip;
        if bucket.slip { Verdict::Truncate } else { Verdict::Drop }
    }
}

/// What one customer usually has: a /24, or a /56.
pub(super) fn network(address: IpAddr) -> [u8; 8] {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [4, a, b, c, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, ..] = v6.octets();
            [6, a, b, c, d, e, f, g]
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn count(limit: &mut ResponseLimit, now: Instant, from: &str, times: usize) -> [usize; 3] {
        let from = from.parse().unwrap();
        let mut counted = [0; 3];
        for _ in 0..times {
            counted[match limit.judge(now, from) {
                Verdict::Answer => 0,
                Verdict::Truncate => 1,
                Verdict::Drop => 2,
            }] += 1;
        }
        counted
    }

    #[test]
    fn a_flood_gets_few_answers_and_others_get_theirs() {
        let now = Instant::now();
        let mut limit = ResponseLimit::new(now, 20, 50);
        assert_eq!(count(&mut limit, now, "192.0.2.7", 1050), [50, 500, 500]);
        assert_eq!(count(&mut limit, now, "192.0.2.200", 10), [0, 5, 5], "the same network");
        assert_eq!(count(&mut limit, now, "::ffff:192.0.2.9", 2), [0, 1, 1], "in other words");
        assert_eq!(count(&mut limit, now, "198.51.100.7", 10), [10, 0, 0]);
        assert_eq!(count(&mut limit, now + Duration::from_secs(1), "192.0.2.7", 100)[0], 20);
        assert_eq!(count(&mut limit, now + Duration::from_secs(3600), "192.0.2.7", 100)[0], 50);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut limit = ResponseLimit::new(now, 20, 1);
        assert_eq!(count(&mut limit, now, "2001:db8::1", 2), [1, 1, 0]);
        assert_eq!(count(&mut limit, now - Duration::from_secs(50), "2001:db8:0:0ff::1", 2), [0, 1, 1]);
    }
}
