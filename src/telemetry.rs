//! Logs: to standard error, as lines for people or as one JSON object a line.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts logging for the whole process. `usual` is the level without `-v`; other crates are only
/// heard when something is wrong, since theirs may hold URLs. Called again, it changes nothing.
pub fn start(format: LogFormat, verbose: u8, usual: LevelFilter) {
    let level = match verbose {
        0 => usual,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder().parse_lossy(format!("warn,rezcache={level}"));
    // A terminal that is gone must not end what goes on without it: telling of it would panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let ansi = io::IsTerminal::is_terminal(&io::stderr());
    let _ = match format {
        LogFormat::Text => builder.with_ansi(ansi).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
