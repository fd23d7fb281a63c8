//! Logs: to standard error, as lines for people or as one JSON object a line. Below them a terminal may
//! show one line that is drawn over and over; the two never mix.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(AroundTheLine);
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = !plain && io::IsTerminal::is_terminal(&io::stderr());
    let _ = match format {
        LogFormat::Text => builder.with_ansi(ansi).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// What the last line of the terminal shows now; empty for nothing.
static LINE: Mutex<String> = Mutex::new(String::new());

/// Draws `line` in place of what the last line of standard error shows; an empty one leaves nothing there.
/// It must fit into the terminal's width.
pub fn draw_line(line: &str) {
    let mut shown = LINE.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown == line {
        return;
    }
    let mut out = redrawn(&shown, line);
    if line.is_empty() {
        out.push('\r');
    }
    line.clone_into(&mut shown);
    // Nobody may be reading.
    let _ = io::stderr().write_all(out.as_bytes());
}

/// What turns one line into another. Spaces rather than escapes, which not every terminal knows.
fn redrawn(before: &str, after: &str) -> String {
    let gone = before.chars().count().saturating_sub(after.chars().count());
    format!("\r{after}{}", " ".repeat(gone))
}

/// Standard error, for log lines: what the terminal's last line shows makes room for them, and comes back
/// below.
struct AroundTheLine;

impl Write for AroundTheLine {
    fn write(&mut self, log: &[u8]) -> io::Result<usize> {
        let shown = LINE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut err = io::stderr().lock();
        if shown.is_empty() {
            err.write_all(log)?;
        } else {
            let blank = redrawn(&shown, "") + "\r";
            err.write_all(&[blank.as_bytes(), log, shown.as_bytes()].concat())?;
        }
        Ok(log.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for AroundTheLine {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::redrawn;

    #[test]
    fn a_shorter_line_leaves_nothing_of_a_longer_one() {
        assert_eq!(redrawn("", "abc"), "\rabc");
        assert_eq!(redrawn("abcdef", "abc"), "\rabc   ");
        assert_eq!(redrawn("äbc", ""), "\r   ");
    }
}
