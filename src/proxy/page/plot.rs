//! Plots of the history: inline SVG made here, each with a sentence for those who do not see it, and all
//! of them as a table.

use std::fmt::Write as _;

use super::text::{clock, counted, date, duration, escape, number};
use crate::support::history::{Counted, History, Span};
use crate::support::status::human_bytes;

/// Width and height of a plot, in units of its own.
const SIZE: (f64, f64) = (600.0, 100.0);

/// A stretch of time to show.
struct Range {
    id: &'static str,
    title: &'static str,
    ago: &'static str,
    span: Span,
    /// How many spans in all, in one bar, and in one row of the table.
    spans: u64,
    bar: u64,
    row: u64,
    bar_name: &'static str,
}

const RANGES: [Range; 3] = [
    Range {
        id: "day",
        title: "Last 24 hours",
        ago: "24 hours ago",
        span: Span::Minute,
        spans: 1440,
        bar: 15,
        row: 60,
        bar_name: "15 minutes",
    },
    Range {
        id: "month",
        title: "Last 30 days",
        ago: "30 days ago",
        span: Span::Hour,
        spans: 720,
        bar: 6,
        row: 24,
        bar_name: "6 hours",
    },
    Range {
        id: "year",
        title: "Last year",
        ago: "a year ago",
        span: Span::Day,
        spans: 364,
        bar: 2,
        row: 28,
        bar_name: "2 days",
    },
];

/// A stretch of a row: when it begins, and what was counted, where anything was told.
type Point = (u64, Option<Counted>);

/// Joins the spans of each stretch of so many seconds. The first and the last may be cut.
fn joined(points: &[Point], seconds: u64) -> Vec<Point> {
    let join = |chunk: &[Point]| {
        let begin = chunk.first().map_or(0, |(unix, _)| *unix / seconds * seconds);
        (begin, chunk.iter().filter_map(|(_, counted)| *counted).reduce(Counted::plus))
    };
    points.chunk_by(|(a, _), (b, _)| a / seconds == b / seconds).map(join).collect()
}

/// All ranges; the first one is open.
pub(super) fn render(history: &History, now: u64) -> String {
    let mut html = String::new();
    for (number, range) in RANGES.iter().enumerate() {
        let points = history.last(range.span, range.spans, now);
        let open = if number == 0 { " open" } else { "" };
        let _ = write!(html, "<details id=\"plot-{}\"{open}><summary>{}</summary>", range.id, range.title);
        if points.iter().all(|(_, counted)| counted.is_none_or(|counted| counted.requests == 0)) {
            html.push_str("<p class=\"quiet\">Nothing was asked for in this time.</p></details>\n");
            continue;
        }
        let bars = joined(&points, range.bar * range.span.seconds());
        html.push_str("<div class=\"plots\">");
        plot(&mut html, range, "rate", "Hit rate", &bars, Scale::Percent, rate);
        plot(&mut html, range, "saved", "Saved", &bars, Scale::Bytes, |counted| {
            Some(counted.bytes_saved as f64)
        });
        plot(&mut html, range, "requests", "Requests", &bars, Scale::Number, |counted| {
            Some(counted.requests as f64)
        });
        html.push_str("</div>");
        table(&mut html, range, &joined(&points, range.row * range.span.seconds()));
        html.push_str("</details>\n");
    }
    html
}

fn rate(counted: Counted) -> Option<f64> {
    (counted.requests > 0).then(|| counted.hits as f64 / counted.requests as f64 * 100.0)
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Percent,
    Bytes,
    Number,
}

impl Scale {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn show(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{value:.0} %"),
            Self::Bytes => human_bytes(value as u64),
            Self::Number => number(value as u64),
        }
    }
}

fn moment(range: &Range, unix: u64) -> String {
    match range.span {
        Span::Minute => format!("{} UTC", clock(unix)),
        Span::Hour => format!("{}, {} UTC", date(unix), clock(unix)),
        Span::Day => date(unix),
    }
}

fn plot(
    html: &mut String,
    range: &Range,
    name: &str,
    title: &str,
    bars: &[Point],
    scale: Scale,
    value: impl Fn(Counted) -> Option<f64>,
) {
    let values: Vec<_> = bars.iter().map(|(unix, counted)| (*unix, counted.and_then(&value))).collect();
    let known = || values.iter().filter_map(|(unix, value)| Some((*unix, (*value)?)));
    let highest = known().fold((0, 0.0), |best: (u64, f64), it| if it.1 > best.1 { it } else { best });
    let top = if scale == Scale::Percent { 100.0 } else { highest.1.max(1.0) };
    let mut path = String::new();
    let step = SIZE.0 / values.len().max(1) as f64;
    let mut drawn = 0;
    for (i, (_, value)) in values.iter().enumerate() {
        let Some(value) = value else { continue };
        // Something is more than nothing, however little.
        let height = if *value > 0.0 { (value / top * SIZE.1).clamp(1.5, SIZE.1) } else { 0.0 };
        if height > 0.0 {
            let (x, width) = (i as f64 * step, (step - 0.8).max(0.5));
            let _ = write!(path, "M{x:.1} {:.1}h{width:.1}v{height:.1}h-{width:.1}z", SIZE.1 - height);
            drawn += 1;
        }
    }
    let per = range.bar_name;
    let said = match scale {
        Scale::Percent => {
            let all = bars.iter().filter_map(|(_, counted)| *counted).fold(Counted::default(), Counted::plus);
            format!("{} in all, by {per}", scale.show(value(all).unwrap_or(0.0)))
        }
        _ => format!("at most {} in {per}, from {}", scale.show(highest.1), moment(range, highest.0)),
    };
    let id = format!("plot-{}-{name}", range.id);
    let _ = write!(
        html,
        "<figure><figcaption>{} <span>{}</span></figcaption><svg role=\"img\" aria-labelledby=\"{id}\" \
         viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\"><title id=\"{id}\">{}: {}. {}; the table \
         below has the numbers.</title><path class=\"{name}\" d=\"{path}\"/></svg><div class=\"axis\" \
         aria-hidden=\"true\"><span>{}</span><span>now</span></div></figure>",
        escape(title),
        if scale == Scale::Percent {
            "up to 100 %".into()
        } else {
            format!("up to {}", scale.show(highest.1))
        },
        SIZE.0,
        SIZE.1,
        escape(title),
        escape(&said),
        counted(drawn, "bar"),
        range.ago,
    );
}

fn table(html: &mut String, range: &Range, rows: &[Point]) {
    let _ = write!(
        html,
        "<details class=\"table\" id=\"table-{}\"><summary>The same as a table</summary><div class=\"wide\" \
         tabindex=\"0\" role=\"region\" aria-label=\"{} as a table\"><table><thead><tr><th scope=\"col\">From \
         (UTC)</th><th scope=\"col\">Requests</th><th scope=\"col\">Hit rate</th><th scope=\"col\">Saved</th>\
         <th scope=\"col\">Waiting saved</th></tr></thead><tbody>",
        range.id, range.title,
    );
    for (unix, sum) in rows {
        let Some(sum) = sum.filter(|sum| sum.requests > 0) else { continue };
        let _ = write!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            if range.row * range.span.seconds() < 86_400 { clock(*unix) } else { date(*unix) },
            number(sum.requests),
            rate(sum).map_or_else(|| "–".into(), |rate| Scale::Percent.show(rate)),
            human_bytes(sum.bytes_saved),
            duration(sum.ms_saved.saturating_sub(sum.ms_lost)),
        );
    }
    html.push_str("</tbody></table></div></details>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> (History, u64) {
        let mut history = History::default();
        let now = 20_000 * 86_400 + 50_000;
        history.advance(now - 7200, Counted::default());
        let half =
            Counted { requests: 100, hits: 50, bytes_saved: 2 << 20, ms_saved: 9000, ..Counted::default() };
        history.advance(now - 3600, half);
        history
            .advance(now, half.plus(half).plus(Counted { requests: 300, hits: 300, ..Counted::default() }));
        (history, now)
    }

    #[test]
    fn a_plot_has_a_bar_for_every_stretch_with_something_and_says_so_in_words() {
        let (history, now) = history();
        let html = render(&history, now);
        assert_eq!(html.matches("<svg role=\"img\"").count(), 9);
        assert_eq!(html.matches("<svg").count(), html.matches("</title>").count());
        assert!(html.contains("Requests: at most 400 in 15 minutes, from 13:45 UTC. 2 bars"), "{html}");
        assert!(html.contains("up to 2.0 MiB"), "{html}");
        let day = html.split("</table>").next().unwrap_or_default();
        assert!(day.contains("<td>100</td><td>50 %</td><td>2.0 MiB</td><td>9.0 s</td>"), "{day}");
        assert!(day.contains("<td>400</td><td>88 %</td>"), "{day}");
        // One bar is as high as the plot, the other a quarter of it.
        assert!(html.contains("0.0h5.4v100.0h-5.4z") && html.contains("75.0h5.4v25.0"), "{html}");
    }

    #[test]
    fn nothing_is_told_as_nothing() {
        let html = render(&History::default(), 1_800_000_000);
        assert!(!html.contains("<svg") && html.contains("Nothing was asked for"), "{html}");
    }
}
