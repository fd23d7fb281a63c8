//! Our clock beside those of the servers that were asked. With a wrong one certificates and tokens fail.

use super::CheckResult;

const NAME: &str = "clock";
/// Nobody minds less.
const TOLERATED: u64 = 120;
/// Tokens and certificates fail.
const TOO_FAR: u64 = 600;

/// By how many seconds a server's clock is ahead of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) who: String,
    pub(super) ahead: i64,
}

pub(super) fn judge(readings: &[Reading]) -> CheckResult {
    let Some(nearest) = readings.iter().min_by_key(|reading| reading.ahead.unsigned_abs()) else {
        return CheckResult::skipped(NAME, "No server was reached that says what time it is.");
    };
    let off = nearest.ahead.unsigned_abs();
    if off > TOLERATED {
        let which = if nearest.ahead > 0 { "slow" } else { "fast" };
        let seen = format!("This computer's clock is {} {which}, going by {}.", span(off), nearest.who);
        let advice = "Set the date, the time and the time zone of this computer right, best to be set by itself from the \
                      internet; with a wrong clock certificates and tokens are refused.";
        return if off > TOO_FAR {
            CheckResult::failed(NAME, seen, advice)
        } else {
            CheckResult::warning(NAME, seen, advice)
        };
    }
    // Somebody agrees with us; whoever does not is wrong.
    match readings.iter().find(|reading| reading.ahead.unsigned_abs() > TOLERATED) {
        Some(other) => CheckResult::warning(
            NAME,
            format!(
                "The clock of {} is {} off; this computer's is right.",
                other.who,
                span(other.ahead.unsigned_abs())
            ),
            "You need do nothing; you may tell the operator.",
        ),
        None => CheckResult::ok(NAME, "This computer's clock is right."),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=7199 => format!("{} minutes", seconds / 60),
        7200..=172_799 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{Reading, judge};
    use crate::checks::Outcome;

    #[test]
    fn a_clock_is_wrong_when_everybody_says_so() {
        let of = |ahead: &[i64]| {
            let readings: Vec<_> =
                ahead.iter().map(|&ahead| Reading { who: format!("server {ahead}"), ahead }).collect();
            let result = judge(&readings);
            (result.outcome, result.seen)
        };
        assert_eq!(of(&[]).0, Outcome::Skipped);
        assert_eq!(of(&[100, -3]).0, Outcome::Ok);
        assert_eq!(of(&[300]).0, Outcome::Warning);
        let (outcome, seen) = of(&[7300, 7200]);
        assert_eq!(outcome, Outcome::Failed);
        assert_eq!(seen, "This computer's clock is 2 hours slow, going by server 7200.");
        assert!(of(&[-700]).1.contains("11 minutes fast"));
        assert_eq!(of(&[0, 7200]).0, Outcome::Warning);
        assert!(of(&[0, i64::MIN]).1.starts_with("The clock of server"));
    }
}
