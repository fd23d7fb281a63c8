//! Spans and moments as people write them.

const DAY: u64 = 86_400;

/// A span in seconds: `45s`, `90m`, `36h`, `30d`, `2w`.
///
/// # Errors
/// A sentence about what is understood.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no span; write for instance 36h, 30d or 2w");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number = text.strip_suffix(unit).and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).ok_or_else(wrong)
}

/// A moment in seconds since 1970: a day (`2026-11-25`), a second of it (`2026-11-25T18:30:00Z`), or how long
/// ago (`36h`).
///
/// # Errors
/// A sentence about what is understood.
pub(super) fn moment(text: &str, now: u64) -> Result<u64, String> {
    if let Ok(ago) = span(text) {
        return Ok(now.saturating_sub(ago));
    }
    let read = || {
        let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
        let date = numbers(date, '-', [4, 2, 2])?;
        let [hours, minutes, seconds] = numbers(time.strip_suffix('Z')?, ':', [2, 2, 2])?;
        let in_range = hours < 24 && minutes < 60 && seconds < 60;
        let day = days(date).filter(|_| in_range)?;
        Some(day * DAY + hours * 3600 + minutes * 60 + seconds)
    };
    read().ok_or_else(|| {
        format!("`{text}` is no time; write 2026-11-25, 2026-11-25T18:30:00Z (UTC), or 36h for so long ago")
    })
}

/// A moment to come in seconds since 1970: a day, a second of it, or how long from now (`2h`).
///
/// # Errors
/// A sentence about what is understood.
pub(super) fn moment_to_come(text: &str, now: u64) -> Result<u64, String> {
    let moment = match span(text) {
        Ok(from_now) => now.saturating_add(from_now),
        Err(_) => moment(text, now).map_err(|_| {
            format!("`{text}` is no time; write 2026-11-25T18:30:00Z (UTC), 2026-11-25, or 2h for so long from now")
        })?,
    };
    if moment > now { Ok(moment) } else { Err(format!("`{text}` is over already")) }
}

/// Three numbers of so many digits.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between);
    let mut all = [0; 3];
    for (place, digits) in all.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        *place = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(all)
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days([year, month, day]: [u64; 3]) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month.checked_sub(1)?).ok()?;
    if year < 1970 || day == 0 || day > *lengths.get(index)? {
        return None;
    }
    let before = year - 1;
    let leaps = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    Some((year - 1970) * 365 + leaps + lengths.iter().take(index).sum::<u64>() + day - 1)
}

/// The day that is so many days after 1970, as `2026-11-25`.
pub(super) fn date(mut days: u64) -> String {
    let mut year = 1970;
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = 365 + u64::from(leap);
        if days >= length {
            (days, year) = (days - length, year + 1);
            continue;
        }
        let lengths = [31, 28 + u64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 1;
        for length in lengths {
            if days < length {
                break;
            }
            (days, month) = (days - length, month + 1);
        }
        return format!("{year:04}-{month:02}-{:02}", days + 1);
    }
}

/// How long something is ago, in the unit that says it best.
pub(super) fn ago(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / DAY, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{ago, date, moment, moment_to_come, span};

    #[test]
    fn spans_and_moments_are_read() {
        assert_eq!((span("45s"), span("36h"), span("30d")), (Ok(45), Ok(129_600), Ok(2_592_000)));
        for wrong in ["", "d", "30", "-1d", "1y", "3 d", "99999999999999999999d", "1é"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        let now = 1_800_000_000;
        assert_eq!(moment("1h", now), Ok(now - 3600));
        assert_eq!(moment("1970-01-01", now), Ok(0));
        assert_eq!(moment("2000-02-29T00:00:01Z", now), Ok(951_782_401));
        assert_eq!(moment("2026-11-25T18:30:00Z", now), Ok(1_795_631_400));
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "1969-12-31",
            "2026-11-25T24:00:00Z",
            "2026-1-1",
            "tomorrow",
        ] {
            assert!(moment(wrong, now).is_err(), "{wrong}");
        }
        assert_eq!(moment_to_come("2h", now), Ok(now + 7200));
        assert_eq!(moment_to_come("2200-01-01", now), moment("2200-01-01", now));
        for wrong in ["0s", "2000-01-01", "soon"] {
            assert!(moment_to_come(wrong, now).is_err(), "{wrong}");
        }
        for day in (0..40_000).step_by(7) {
            assert_eq!(moment(&date(day), now), Ok(day * 86_400));
        }
        assert_eq!(
            (ago(1), ago(300), ago(200_000)),
            ("1 second".into(), "5 minutes".into(), "2 days".into())
        );
    }
}
