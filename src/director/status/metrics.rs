//! `/metrics`: what this director sees, as Prometheus reads it. The names are a contract with people's dashboards and
//! with `packaging/monitoring/`.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::Site;
use super::view::Look;
use crate::fleet::history::State;
use crate::fleet::incidents::{MAX_NAME, one_line};
use crate::fleet::notices::Severity;

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP rezcache_director_{name} {help}\n# TYPE rezcache_director_{name} {kind}"
        );
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", label(text))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "rezcache_director_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}

/// As the format escapes them. Source: Prometheus, "Exposition formats", text format 0.0.4.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ")
}

const fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn number(count: u64) -> f64 {
    // Beyond 2^53 a counter of a double stands still, as it does in Prometheus itself.
    #[allow(clippy::cast_precision_loss)]
    let number = count as f64;
    number
}

pub(super) fn render(site: &Site) -> String {
    let view = site.view();
    let picture = site.picture.borrow().clone();
    let mut text = Text(String::with_capacity(16 << 10));
    text.head("build_info", "gauge", "The running version, as a label; always 1.");
    text.line("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let gauge = "gauge";
    text.one("leading", gauge, "1 while this director acts for all.", flag(picture.leading));
    text.one(
        "failing_open",
        gauge,
        "1 while no node is healthy and DNS names all of them.",
        flag(picture.failing_open),
    );
    text.one("catalog_up", gauge, "1 while the catalog answers this director.", flag(picture.catalog));
    let works = |state: State| match state {
        State::Healthy | State::Unknown | State::Maintenance => 1.0,
        State::Amber => 0.5,
        State::Lost => 0.0,
    };
    text.one(
        "store_up",
        gauge,
        "1 while nodes can read the store, 0.5 while only some can, 0 while none can.",
        works(picture.storage.store),
    );

    text.head("members", gauge, "Members of a group that look like this on the status page.");
    let looks = view.looks();
    for group in &view.groups {
        for look in Look::ALL {
            let count = looks.get(&(group.id, look)).copied().unwrap_or(0);
            text.line("members", &[("group", group.id), ("state", look.name())], number(count));
        }
    }
    nodes(&mut text, &picture.nodes);
    text.one(
        "node_seconds_total",
        "counter",
        "Seconds that nodes were open for, all together: what the array costs.",
        (picture.node_hours.total() * 3600.0).round(),
    );
    text.head("incidents_open", gauge, "Incidents that are not over.");
    for (severity, name) in [(Severity::Critical, "critical"), (Severity::Warning, "warning")] {
        let open = picture.incidents.iter().filter(|it| it.closed.is_none() && it.severity == severity);
        text.line("incidents_open", &[("severity", name)], number(open.count() as u64));
    }
    for (name, kind, help, value) in [
        ("alerts_lost_total", "counter", "Alerts that could not be sent.", picture.alerts_lost),
        (
            "status_requests_total",
            "counter",
            "Requests to the status page.",
            site.counters.requests.load(Ordering::Relaxed),
        ),
        (
            "status_refused_total",
            "counter",
            "Connections and requests to the status page that were refused.",
            site.counters.refused.load(Ordering::Relaxed),
        ),
        ("status_connections", gauge, "Connections to the status page.", site.connections.taken() as u64),
        ("status_listeners", gauge, "Status pages that are open and live.", site.listeners.taken() as u64),
        ("looked_at_seconds", gauge, "When this was so, in seconds since 1970.", picture.at),
    ] {
        text.one(name, kind, help, number(value));
    }
    for (name, count) in site.dns.all() {
        let help = "What the name server did with questions and connections, by its name.";
        text.one(&format!("{name}_total"), "counter", help, number(count));
    }
    text.0
}

fn nodes(text: &mut Text, nodes: &[crate::fleet::array::MemberView]) {
    type Value = fn(&crate::fleet::array::MemberView) -> Option<f64>;
    let all: [(&str, &str, Value); 7] = [
        ("node_up", "1 while this director finds the node healthy.", |node| {
            Some(flag(node.dot != crate::fleet::health::Dot::Red))
        }),
        ("node_planned", "1 while the node is away, comes or goes by plan.", |node| {
            Some(flag(node.state == State::Maintenance))
        }),
        ("node_load", "How loaded the node is: 1 is all it can.", |node| Some(node.load)),
        ("node_requests_per_second", "Requests to the node in a second.", |node| Some(node.requests_per_s)),
        ("node_hit_ratio", "Share of reads that the node answered with the asset.", |node| node.hit_ratio),
        ("node_connections", "Connections to the node.", |node| Some(number(node.connections))),
        ("node_probe_seconds", "How long the last good probe of the node took.", |node| {
            node.latency_ms.map(|ms| number(ms) / 1000.0)
        }),
    ];
    for (name, help, value) in all {
        text.head(name, "gauge", help);
        for node in nodes {
            if let Some(value) = value(node) {
                text.line(name, &[("node", &one_line(&node.name, MAX_NAME))], value);
            }
        }
    }
}
