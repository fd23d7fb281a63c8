//! Lines over time as inline SVG, each plot with a sentence for those who do not see it.

use std::fmt::Write as _;

use crate::support::page_text::escape;

/// Width and height of a plot, in units of its own.
const SIZE: (f64, f64) = (600.0, 120.0);
/// Points of one line; more are joined.
const POINTS: u64 = 240;

/// How values are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Shares: up to 100 %, or more when there is more.
    Percent,
    /// Numbers, with a tenth where they are small.
    Number,
}

impl Scale {
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{:.0} %", value * 100.0),
            Self::Number if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
            Self::Number => format!("{value:.1}"),
        }
    }

    /// A round number that is not less than this one.
    fn top(self, highest: f64) -> f64 {
        if self == Self::Percent {
            return if highest <= 1.0 { 1.0 } else { 1.5 };
        }
        let power = 10_f64.powf(highest.max(1.0).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0];
        steps.into_iter().map(|step| step * power).find(|top| *top >= highest).unwrap_or(highest)
    }
}

/// One line: its class, and its points in order.
pub(super) struct Line {
    pub(super) class: String,
    pub(super) points: Vec<(u64, f64)>,
}

/// What a plot shows.
pub(super) struct Plot<'a> {
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    pub(super) scale: Scale,
    /// From when to when, and how far apart points are.
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) step: u64,
    /// What the axis says of the beginning.
    pub(super) ago: &'a str,
    /// The first one is told in words.
    pub(super) lines: &'a [Line],
}

pub(super) fn render(html: &mut String, plot: &Plot<'_>) {
    let values = || plot.lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value));
    let top = plot.scale.top(values().fold(0.0, f64::max));
    let said = plot.lines.first().map_or_else(String::new, |line| told(plot.scale, line));
    let id = escape(plot.id);
    let _ = write!(
        html,
        "<figure><figcaption>{0} <span>up to {1}</span></figcaption><svg class=\"plot\" role=\"img\" \
         aria-labelledby=\"plot-{id}\" viewBox=\"0 0 {2} {3}\" preserveAspectRatio=\"none\"><title \
         id=\"plot-{id}\">{0}: {said}</title>",
        escape(plot.title),
        plot.scale.show(top),
        SIZE.0,
        SIZE.1,
    );
    // The first line is the most important, and lies above the others.
    for line in plot.lines.iter().rev() {
        let _ = write!(html, "<path class=\"{}\" d=\"{}\"/>", escape(&line.class), path(plot, line, top));
    }
    let _ = write!(
        html,
        "</svg><p class=\"axis\"><span aria-hidden=\"true\">{}</span><span>{said}</span><span \
         aria-hidden=\"true\">now</span></p></figure>",
        plot.ago
    );
}

fn told(scale: Scale, line: &Line) -> String {
    let values = || line.points.iter().map(|(_, value)| *value);
    let Some((_, last)) = line.points.last() else { return "nothing was told yet".into() };
    let (lowest, highest) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    format!("{} now, {} to {}", scale.show(*last), scale.show(lowest), scale.show(highest))
}

/// The line, broken where nothing was told.
fn path(plot: &Plot<'_>, line: &Line, top: f64) -> String {
    let width = plot.to.saturating_sub(plot.from).max(1);
    let every = (width / POINTS).max(plot.step).max(1);
    let mut path = String::new();
    let mut last: Option<u64> = None;
    let number = |seconds: u64| f64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
    for chunk in line.points.chunk_by(|(a, _), (b, _)| a / every == b / every) {
        let Some((at, _)) = chunk.first().filter(|(at, _)| *at >= plot.from) else { continue };
        let count = f64::from(u32::try_from(chunk.len()).unwrap_or(1));
        let mean = chunk.iter().map(|(_, value)| value).sum::<f64>() / count;
        let x = number(at - plot.from) / number(width) * SIZE.0;
        let y = SIZE.1 - (mean / top * SIZE.1).clamp(0.0, SIZE.1);
        let goes_on = last.is_some_and(|last| at - last <= every * 3);
        // A point alone is a short dash, so that it is seen.
        let _ = if goes_on { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}h1") };
        last = Some(*at);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(points: Vec<(u64, f64)>, scale: Scale) -> String {
        let mut html = String::new();
        let lines = [Line { class: "whole".into(), points }];
        let plot = Plot {
            id: "load",
            title: "Load <b>",
            scale,
            from: 1000,
            to: 4600,
            step: 5,
            ago: "an hour ago",
            lines: &lines,
        };
        render(&mut html, &plot);
        html
    }

    #[test]
    fn a_line_is_broken_where_nothing_was_told_and_said_in_words() {
        let html = drawn(vec![(1000, 0.5), (1015, 0.25), (2000, 1.0)], Scale::Percent);
        assert!(html.contains("d=\"M0.0 60.0h1L2.5 90.0M166.7 0.0h1\""), "{html}");
        assert!(html.contains("Load &lt;b&gt;: 100 % now, 25 % to 100 %</title>"), "{html}");
        assert!(drawn(vec![], Scale::Number).contains("nothing was told yet"));
        let html = drawn(vec![(1005, 130.0), (1010, 70.0)], Scale::Number);
        assert!(html.contains("up to 200") && html.contains("70 now, 70 to 130"), "{html}");
        assert!(html.contains("d=\"M0.8 60.0h1\""), "points of one step are joined: {html}");
    }

    #[test]
    fn a_plot_does_not_grow_with_what_was_told() {
        let html = drawn((1000..4600).map(|at| (at, 0.5)).collect(), Scale::Percent);
        assert!(html.matches('L').count() <= 242, "{}", html.len());
    }
}
