//! Numbers, times and texts as the page writes them. Times are of UTC, as the history's days are.

/// Text that may stand between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

/// `1,203,004`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 asset`, `1,203 assets`.
pub(crate) fn counted(value: u64, one: &str) -> String {
    let plural = if value == 1 { "" } else { "s" };
    format!("{} {one}{plural}", number(value))
}

/// `3 d 4 h`, `4 h 5 min`, `5 min 6 s`: the two largest units.
pub(crate) fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// The same from milliseconds, with a tenth where it is short.
pub(crate) fn duration(ms: u64) -> String {
    // Rounded first, so that 59,960 ms are a minute and not 60.0 s.
    match (ms + 50) / 100 {
        tenths @ 0..600 => format!("{}.{} s", tenths / 10, tenths % 10),
        _ => uptime((ms + 500) / 1000),
    }
}

/// Year, month, day.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
const fn civil(unix: u64) -> (u64, u64, u64) {
    let z = unix / 86_400 + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `26 Nov 2026`.
pub(crate) fn date(unix: u64) -> String {
    let (year, month, day) = civil(unix);
    let index = usize::try_from(month.saturating_sub(1)).unwrap_or(0);
    format!("{day} {} {year}", MONTHS.get(index).unwrap_or(&"?"))
}

/// `14:05`.
pub(crate) fn clock(unix: u64) -> String {
    format!("{:02}:{:02}", unix / 3600 % 24, unix / 60 % 60)
}

/// When that was, as it reads best at `now`: `14:05`, or with its day.
pub(crate) fn moment(unix: u64, now: u64) -> String {
    if unix / 86_400 == now / 86_400 {
        format!("{} UTC", clock(unix))
    } else {
        format!("{}, {} UTC", date(unix), clock(unix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_as_people_write_them() {
        assert_eq!(
            [number(0), number(999), number(1000), number(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!([counted(1, "asset"), counted(2000, "asset")], ["1 asset", "2,000 assets"]);
        for (ms, text) in [
            (0, "0.0 s"),
            (8449, "8.4 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min 0 s"),
            (3_600_000, "1 h 0 min"),
        ] {
            assert_eq!(duration(ms), text);
        }
        for (unix, text) in [
            (0, "1 Jan 1970"),
            (951_782_400, "29 Feb 2000"),
            (1_772_323_199, "28 Feb 2026"),
            (1_772_323_200, "1 Mar 2026"),
            (1_798_675_200, "31 Dec 2026"),
        ] {
            assert_eq!(date(unix), text);
        }
        let now = 1_798_675_200;
        assert_eq!(moment(now + 50_700, now), "14:05 UTC");
        assert_eq!(moment(now - 60, now), "30 Dec 2026, 23:59 UTC");
        assert_eq!(escape("<a b='c' d=\"e\">&"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;");
    }
}
