//! `/monitoring`: how busy nodes were, as plots over time, for operators. Works without JavaScript.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::page::{foot, head};
use super::plot::{self, Line, Plot, Scale};
use crate::director::chronicle::Books;
use crate::fleet::costs::NodeHours;
use crate::fleet::series::{Range, Sample, Series, WHOLE};
use crate::support::page_text::{clock, counted, date, escape};

/// Nodes with a line of their own; those that were busiest last.
const LINES: usize = 8;
/// Rows of the table.
const ROWS: usize = 256;

const RANGES: [(Range, &str, &str, &str); 3] = [
    (Range::Hour, "hour", "Last hour", "an hour ago"),
    (Range::Day, "day", "Last 24 hours", "24 hours ago"),
    (Range::Month, "month", "Last 30 days", "30 days ago"),
];

/// What a query asks for; without one, the last hour.
pub(super) fn range(query: Option<&str>) -> Range {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("range="));
    let known = RANGES.iter().find(|(_, name, ..)| Some(*name) == asked);
    known.map_or(Range::Hour, |(range, ..)| *range)
}

type Value = fn(&Sample) -> Option<f64>;

const PLOTS: [(&str, &str, Scale, Value); 5] = [
    ("load", "Load", Scale::Percent, |it| Some(it.load.into())),
    ("requests", "Requests in a second", Scale::Number, |it| Some(it.requests_per_s.into())),
    ("hits", "Hit ratio", Scale::Percent, |it| it.hit_ratio.map(Into::into)),
    ("connections", "Connections", Scale::Number, |it| Some(it.connections.into())),
    ("nodes", "Nodes that serve", Scale::Number, |it| Some(it.nodes.into())),
];

/// The whole page.
pub(super) fn render(service: &str, books: &Books, hours: NodeHours, range: Range, now: u64) -> String {
    let mut html = head(&escape(&format!("Monitoring – {service}")), true);
    let _ = write!(
        html,
        "<header><h1>{}: monitoring</h1><p class=\"quiet\">For operators: how busy the nodes are, as this director has seen it since \
         it started. <a href=\"/\">To the status page</a></p></header>\n<main>\n<nav aria-label=\"Time shown\"><ul>",
        escape(service)
    );
    let mut name = "hour";
    for (known, id, title, _) in RANGES {
        let _ = if known == range {
            name = id;
            write!(html, "<li><span aria-current=\"page\">{title}</span></li>")
        } else {
            write!(html, "<li><a href=\"/monitoring?range={id}\">{title}</a></li>")
        };
    }
    html.push_str("</ul></nav>\n");
    let parts = parts(books, hours, range, now);
    for (id, title) in [("plots", "Plots"), ("table", "Now, as numbers"), ("costs", "Node-hours")] {
        let _ = writeln!(
            html,
            "<section aria-labelledby=\"about-{id}\"><h2 id=\"about-{id}\">{title}</h2><div \
             id=\"{id}\">{}</div></section>",
            parts.get(id).map_or("", String::as_str)
        );
    }
    let _ = write!(
        html,
        "</main>\n<footer><p class=\"quiet\"><span id=\"updated\">{}</span>. <span id=\"line\" \
         role=\"status\"></span></p></footer>\n{}",
        parts.get("updated").map_or("", String::as_str),
        foot(&format!("/monitoring/parts?range={name}"))
    );
    html
}

/// The parts that change, by their ids.
pub(super) fn parts(
    books: &Books,
    hours: NodeHours,
    range: Range,
    now: u64,
) -> BTreeMap<&'static str, String> {
    books.series(|series| {
        let names = busiest(series, range, now);
        let updated = format!("Last updated {}, {}:{:02} UTC", date(now), clock(now), now % 60);
        BTreeMap::from([
            ("plots", plots(series, &names, range, now)),
            ("table", table(series, range, now)),
            ("costs", costs(hours)),
            ("updated", updated),
        ])
    })
}

/// What the nodes cost, since this director started.
fn costs(hours: NodeHours) -> String {
    format!(
        "<p>{:.2} since this director started: {:.2} serving, {:.2} starting, {:.2} on their way out. {:.2} of them are \
         nodes of the fixed list.</p>",
        hours.total(),
        hours.serving,
        hours.starting,
        hours.ending,
        hours.listed
    )
}

/// The nodes that get a line, in the order of their names.
fn busiest(series: &Series, range: Range, now: u64) -> Vec<String> {
    let load = |name: &str| series.points(name, range, now).last().map_or(0.0, |(_, sample)| sample.load);
    let mut names: Vec<_> = series.names(range, now).map(|name| (load(name), name.to_owned())).collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    names.truncate(LINES);
    let mut names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    names.sort_unstable();
    names
}

fn plots(series: &Series, names: &[String], range: Range, now: u64) -> String {
    let whole = series.points(WHOLE, range, now);
    if whole.is_empty() {
        return "<p class=\"quiet\">Nothing was told yet.</p>".into();
    }
    let of_nodes: Vec<_> = names.iter().map(|name| series.points(name, range, now)).collect();
    let ago = RANGES.iter().find(|(known, ..)| *known == range).map_or("", |(.., ago)| ago);
    let mut html = String::from("<div class=\"plots\">");
    for (id, title, scale, value) in PLOTS {
        let line = |class: String, points: &[(u64, Sample)]| Line {
            class,
            points: points.iter().filter_map(|(at, sample)| Some((*at, value(sample)?))).collect(),
        };
        let mut lines = vec![line("whole".into(), &whole)];
        // Each node is one or none.
        if id != "nodes" {
            lines.extend(of_nodes.iter().enumerate().map(|(n, points)| line(format!("l{n}"), points)));
        }
        let from = now.saturating_sub(range.step() * range.steps() as u64);
        plot::render(
            &mut html,
            &Plot { id, title, scale, from, to: now, step: range.step(), ago, lines: &lines },
        );
    }
    html.push_str("</div><ul class=\"keys\">");
    let keys = names.iter().enumerate().map(|(n, name)| (format!("l{n}"), name.as_str()));
    for (class, name) in
        std::iter::once(("whole".to_owned(), "the whole array (load: on average)")).chain(keys)
    {
        let _ = write!(
            html,
            "<li><svg class=\"key\" viewBox=\"0 0 32 6\" aria-hidden=\"true\"><path class=\"{class}\" \
             d=\"M0 3h32\"/></svg>{}</li>",
            escape(name)
        );
    }
    html.push_str("</ul>");
    let more = series.names(range, now).count().saturating_sub(names.len());
    if more > 0 {
        let _ = write!(
            html,
            "<p class=\"quiet\">{} less busy; the table has all.</p>",
            counted(more as u64, "further node")
        );
    }
    html
}

fn table(series: &Series, range: Range, now: u64) -> String {
    let mut html = String::from(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Numbers of each node\"><table><thead><tr><th \
         scope=\"col\">Node</th><th scope=\"col\">Load</th><th scope=\"col\">Highest load</th><th \
         scope=\"col\">Requests/s</th><th scope=\"col\">Hit ratio</th><th scope=\"col\">Connections</th></tr></thead><tbody>",
    );
    let names = series.names(range, now).take(ROWS);
    for name in std::iter::once(WHOLE).chain(names) {
        let points = series.points(name, range, now);
        let Some((_, last)) = points.last() else { continue };
        let highest = points.iter().fold(0.0_f32, |highest, (_, sample)| highest.max(sample.load));
        let _ = write!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            if name == WHOLE { "The whole array".into() } else { escape(name) },
            Scale::Percent.show(last.load.into()),
            Scale::Percent.show(highest.into()),
            Scale::Number.show(last.requests_per_s.into()),
            last.hit_ratio.map_or_else(|| "–".into(), |ratio| Scale::Percent.show(ratio.into())),
            Scale::Number.show(last.connections.into()),
        );
    }
    html.push_str("</tbody></table></div>");
    html
}
