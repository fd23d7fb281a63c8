//! What this process takes of its machine. Read from `/proc`; other systems tell nothing, and the numbers
//! are then missing rather than wrong.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The clock in which Linux tells the processor time of a process, on every machine it runs on today.
const TICKS_PER_SECOND: u64 = 100;

/// What a process takes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Usage {
    /// Processor time since the start, in milliseconds, of all threads.
    pub cpu_ms: u64,
    /// Processors in use, as a number of them: 0.5 is half of one.
    pub cpu_cores: f64,
    /// Processors that there are for it.
    pub cores: usize,
    /// Memory that is resident, in bytes.
    pub memory_bytes: u64,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: Duration,
}

/// Measures this process.
pub struct Meter {
    /// The last two samples: the load is told since the older one.
    samples: Mutex<(Sample, Sample)>,
}

impl Default for Meter {
    fn default() -> Self {
        let first = Sample { at: Instant::now(), cpu: cpu_time().unwrap_or_default() };
        Self { samples: Mutex::new((first, first)) }
    }
}

impl Meter {
    /// To be called now and then; the load told is that of the last one or two intervals.
    pub fn tick(&self) {
        let Some(cpu) = cpu_time() else { return };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        *samples = (samples.1, Sample { at: Instant::now(), cpu });
    }

    /// What the process takes; `None` where the system does not say.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let (cpu, memory_bytes) = (cpu_time()?, memory()?);
        let (since, _) = *self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = since.at.elapsed().as_secs_f64().max(0.001);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let used = cpu.saturating_sub(since.cpu).as_secs_f64();
        // The ticks are coarse: over a short time they may say more than there is.
        let cpu_cores = (used / passed).min(f64::from(u32::try_from(cores).unwrap_or(u32::MAX)));
        Some(Usage {
            cpu_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            cpu_cores,
            cores,
            memory_bytes,
        })
    }
}

fn cpu_time() -> Option<Duration> {
    parse_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

fn memory() -> Option<u64> {
    parse_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// User and system time. The program's name comes before, in brackets, and may hold anything.
fn parse_stat(text: &str) -> Option<Duration> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let (user, system): (u64, u64) = (fields.nth(11)?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Duration::from_millis(user.saturating_add(system).saturating_mul(1000 / TICKS_PER_SECOND)))
}

fn parse_status(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Duration, Meter, parse_stat, parse_status};

    #[test]
    fn numbers_are_found_whatever_the_program_is_called() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 99 0 0 0 250 50 7 8 20 0 9 0 100 200 300";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_stat("12 (a) S 1"), None);
        assert_eq!(parse_status("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(parse_status("Name:\tx\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn work_is_seen() {
        let meter = Meter::default();
        let before = meter.usage().unwrap();
        let ballast = vec![1u8; 64 << 20];
        let mut sum = 0u64;
        while meter.usage().unwrap().cpu_ms < before.cpu_ms + 100 {
            sum = ballast.iter().fold(sum, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
        }
        let after = meter.usage().unwrap();
        assert!(sum != 1 && after.memory_bytes > before.memory_bytes + (32 << 20), "{before:?} {after:?}");
        assert!(after.cpu_cores > 0.0, "{after:?}");
    }
}
