//! The one line that a terminal shows while the proxy runs: is it of use, and is anything in the way.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::config::LogFormat;
use crate::support::metrics::Metrics;
use crate::support::status::{Status, human_bytes, percent};
use crate::telemetry::Drawing;

/// Between two drawings.
const REDRAW: Duration = Duration::from_millis(400);
/// Where the terminal does not say how wide it is.
const USUAL_WIDTH: usize = 80;

/// Draws the line until it is dropped, and takes it away then.
pub(super) struct Live {
    drawing: Option<(tokio::task::JoinHandle<()>, Arc<Drawing>)>,
}

impl Live {
    /// Begins to draw, where somebody looks at a terminal that can be drawn on.
    pub(super) fn start(metrics: Arc<Metrics>, log_format: LogFormat) -> Self {
        let terminal = io::stderr().is_terminal();
        let wanted = is_wanted(terminal, log_format, std::env::var("TERM").ok().as_deref());
        let drawing = wanted.then(Drawing::begin).flatten().map(|drawing| {
            let drawing = Arc::new(drawing);
            (tokio::spawn(keep_drawing(Arc::downgrade(&drawing), metrics)), drawing)
        });
        Self { drawing }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some((task, _)) = &self.drawing {
            task.abort();
        }
    }
}

async fn keep_drawing(drawing: Weak<Drawing>, metrics: Arc<Metrics>) {
    let begun = Instant::now();
    let mut due = tokio::time::interval(REDRAW);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let Some(drawing) = drawing.upgrade() else { return };
        let width = terminal_size::terminal_size_of(io::stderr());
        let width = width.map_or(USUAL_WIDTH, |(width, _)| width.0.into());
        drawing.line(line(&Status::of(&metrics, begun.elapsed()), width));
    }
}

/// Programs read JSON; and a terminal that knows no way back to the line's start would show every drawing.
fn is_wanted(terminal: bool, log_format: LogFormat, term: Option<&str>) -> bool {
    // Windows has terminals without a name.
    let can = if cfg!(windows) { term != Some("dumb") } else { !matches!(term, None | Some("" | "dumb")) };
    terminal && can && log_format == LogFormat::Text
}

/// The line for a terminal of so many columns: what matters most comes first, since the end is cut. The last
/// column stays free, or some terminals would begin a new line.
fn line(status: &Status, width: usize) -> String {
    let assets = &status.assets;
    let mut parts = Vec::new();
    match assets.hit_rate {
        Some(rate) => {
            parts.push(format!("{} from here", percent(rate)));
            parts.push(format!("{} saved", human_bytes(assets.bytes_saved)));
        }
        None => parts.push("no viewer has asked for anything yet".to_owned()),
    }
    parts.push(match status.requests_in_flight {
        1 => "1 request now".to_owned(),
        requests => format!("{requests} requests now"),
    });
    if let Some(service) = &status.service {
        parts.push(match service.state.as_ref() {
            "working" if service.quic => "cache server answers".to_owned(),
            "working" => "cache server answers over HTTPS".to_owned(),
            "distrusted" => "cache server gave wrong bytes".to_owned(),
            _ => "cache server is away".to_owned(),
        });
        let uploads = &status.uploads;
        if uploads.paused {
            parts.push(format!("sharing paused, {} wait", uploads.waiting));
        } else if uploads.waiting > 0 {
            parts.push(format!("{} to share", uploads.waiting));
        }
    }
    parts.join(" | ").chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asset::{AssetKind, AssetSource};

    #[test]
    fn the_line_has_what_matters_and_is_cut_to_the_width() {
        let metrics = Metrics::default();
        let of = |width| line(&Status::of(&metrics, Duration::ZERO), width);
        assert_eq!(of(80), "no viewer has asked for anything yet | 0 requests now");
        for _ in 0..3 {
            metrics.asset_served(AssetKind::Texture, AssetSource::Disk, 1 << 20);
        }
        metrics.asset_served(AssetKind::Texture, AssetSource::Grid, 9);
        metrics.set_service("working", true, Duration::ZERO);
        metrics.set_upload_queue(7, 1);
        let whole = "75.0 % from here | 3.0 MiB saved | 0 requests now | cache server answers | 7 to share";
        assert_eq!(of(200), whole);
        assert_eq!(of(40), whole[..39]);
        assert_eq!((of(1), of(0)), (String::new(), String::new()));
        metrics.set_service("away", true, Duration::ZERO);
        metrics.set_upload_control(true, 0);
        assert!(of(200).ends_with("cache server is away | sharing paused, 7 wait"));
    }

    #[test]
    fn there_is_no_line_where_it_could_not_be_drawn_over() {
        assert!(is_wanted(true, LogFormat::Text, Some("xterm-256color")));
        assert!(!is_wanted(false, LogFormat::Text, Some("xterm")));
        assert!(!is_wanted(true, LogFormat::Json, Some("xterm")));
        assert!(!is_wanted(true, LogFormat::Text, Some("dumb")));
        assert_eq!(is_wanted(true, LogFormat::Text, None), cfg!(windows));
    }
}
