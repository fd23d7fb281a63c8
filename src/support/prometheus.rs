//! `/metrics`: the counters and gauges in the text format that Prometheus scrapes.
//!
//! Names and labels are a contract with people's dashboards; a golden file holds them. No label
//! carries an id, a name or an address.
//! Source: Prometheus, "Exposition formats", text format 0.0.4.

use std::fmt::Write as _;

use super::metrics::{Counter, Metrics};
use crate::asset::{AssetKind, AssetSource};

/// The `Content-Type` of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric, each with its help text, in a fixed order.
#[must_use]
pub fn render(metrics: &Metrics) -> String {
    let mut text = String::with_capacity(16 << 10);
    head(&mut text, "build_info", "gauge", "The running version, as a label; always 1.");
    line(&mut text, "build_info", concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1);

    for &counter in Counter::ALL {
        let name = format!("{}_total", counter.name());
        head(&mut text, &name, "counter", counter.help());
        line(&mut text, &name, "", metrics.get(counter));
    }
    served(&mut text, metrics);
    gauges(&mut text, metrics);
    text
}

fn served(text: &mut String, metrics: &Metrics) {
    let mut table = |name, help, pick: fn((u64, u64)) -> u64| {
        head(text, name, "counter", help);
        for kind in AssetKind::ALL {
            for source in AssetSource::ALL {
                let labels = format!("{{kind=\"{kind}\",source=\"{}\"}}", source.name());
                line(text, name, &labels, pick(metrics.served(kind, source)));
            }
        }
    };
    table(
        "assets_served_total",
        "Asset requests answered, by kind and by who delivered the bytes.",
        |(requests, _)| requests,
    );
    table("assets_served_bytes_total", "Bytes of body in those answers.", |(_, bytes)| bytes);
}

fn gauges(text: &mut String, metrics: &Metrics) {
    let (objects, bytes) = metrics.store_size();
    let (waiting, waiting_bytes) = metrics.upload_queue();
    let (paused, limit) = metrics.upload_control();
    let (store_limit, store_pinned) = metrics.store_bounds();
    let (regions, regions_pinned) = metrics.regions();
    // A guard dropped between two loads could show as -1 for a moment; nobody wants to see that.
    let now = |value: i64| u64::try_from(value).unwrap_or(0);
    for (name, help, value) in [
        ("requests_in_flight", "Requests being answered now.", now(metrics.requests_in_flight())),
        ("sessions_open", "Logins in progress now.", now(metrics.sessions_open())),
        ("store_objects", "Assets in the disk tier.", objects),
        ("store_bytes", "Bytes the disk tier takes.", bytes),
        ("store_limit_bytes", "The most bytes the disk tier may take; 0 without one.", store_limit),
        ("store_pinned_bytes", "Bytes of the disk tier that are kept from eviction.", store_pinned),
        ("regions", "Regions that were visited and are remembered.", regions),
        ("regions_pinned", "Regions whose assets are kept from eviction.", regions_pinned),
        ("upload_queue_assets", "Assets that wait to be uploaded.", waiting),
        ("upload_queue_bytes", "Bytes of the assets that wait to be uploaded.", waiting_bytes),
        ("uploads_paused", "1 while uploads are paused.", paused.into()),
        ("upload_limit_bytes_per_second", "The cap of uploads; 0 is none.", limit),
    ] {
        head(text, name, "gauge", help);
        line(text, name, "", value);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // The format ends a help text at the line's end and escapes with a backslash.
    let help = help.replace('\\', "\\\\").replace('\n', " ");
    let _ = writeln!(text, "# HELP rezcache_{name} {help}\n# TYPE rezcache_{name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(text, "rezcache_{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::asset::{AssetKind, AssetSource};
    use crate::support::metrics::{Counter, Metrics};

    #[test]
    fn values_stand_beside_their_names_and_labels() {
        let metrics = Metrics::default();
        metrics.add(Counter::DatagramsForwarded, 7);
        metrics.asset_served(AssetKind::Mesh, AssetSource::Disk, 1000);
        metrics.set_store_size(3, 4096);
        let text = render(&metrics);
        for line in [
            "# HELP rezcache_datagrams_forwarded_total Datagrams sent on as they came.",
            "rezcache_datagrams_forwarded_total 7",
            "rezcache_assets_served_total{kind=\"mesh\",source=\"disk\"} 1",
            "rezcache_assets_served_bytes_total{kind=\"mesh\",source=\"disk\"} 1000",
            "rezcache_store_bytes 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
    }
}
