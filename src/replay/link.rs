//! A line of a given rate and delay between the stand-in grid and the rest.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What `--link` says, such as `20mbit,40ms`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// Bits per second.
    pub bits_per_second: u64,
    /// One-way delay towards the viewer.
    pub delay: Duration,
}

/// Why a `--link` value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a link is a rate and a delay, such as 20mbit,40ms (units: kbit, mbit, gbit; ms, s)")]
pub struct LinkSpecError;

impl FromStr for LinkSpec {
    type Err = LinkSpecError;

    fn from_str(text: &str) -> Result<Self, LinkSpecError> {
        let (rate, delay) = text.split_once(',').ok_or(LinkSpecError)?;
        let number = |text: &str, units: &[(&str, u64)]| {
            let text = text.trim().to_ascii_lowercase();
            units.iter().find_map(|(unit, factor)| {
                text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*factor)
            })
        };
        let rate = number(rate, &[("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)]);
        let delay = number(delay, &[("ms", 1), ("s", 1000)]);
        match (rate, delay) {
            (Some(bits_per_second @ 1..), Some(delay @ 0..=60_000)) => {
                Ok(Self { bits_per_second, delay: Duration::from_millis(delay) })
            }
            _ => Err(LinkSpecError),
        }
    }
}

/// A line in use: what is sent queues behind what was sent before.
#[derive(Debug)]
pub(crate) struct Link {
    spec: LinkSpec,
    free_at: Mutex<Instant>,
}

impl Link {
    pub(crate) fn new(spec: LinkSpec) -> Self {
        Self { spec, free_at: Mutex::new(Instant::now()) }
    }

    /// Puts `bytes` on the line and says when they arrive.
    pub(crate) fn send(&self, bytes: usize) -> Instant {
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
        let nanoseconds = u128::from(bits) * 1_000_000_000 / u128::from(self.spec.bits_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        *free_at = (*free_at).max(Instant::now()) + takes;
        *free_at + self.spec.delay
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Link, LinkSpec};
    use std::time::Duration;

    #[test]
    fn a_link_is_a_rate_and_a_delay() {
        let spec: LinkSpec = "20mbit,40ms".parse().unwrap();
        assert_eq!(spec, LinkSpec { bits_per_second: 20_000_000, delay: Duration::from_millis(40) });
        for wrong in ["20mbit", "20,40", "0mbit,40ms", "20mbit,61s", "99999999999gbit,1ms", ""] {
            assert!(wrong.parse::<LinkSpec>().is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_queue_behind_each_other() {
        let link = Link::new("8mbit,40ms".parse().unwrap());
        let start = tokio::time::Instant::now();
        assert_eq!(link.send(1000) - start, Duration::from_millis(41));
        assert_eq!(link.send(2000) - start, Duration::from_millis(43));
    }
}
