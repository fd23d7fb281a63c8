//! Logs: to standard error, as lines for people or as one JSON object a line. Below them a terminal may
//! show one line that is drawn over and over; the two never mix.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    // A console of Windows shows colours once it is told to.
    let ansi = !plain
        && io::IsTerminal::is_terminal(&io::stderr())
        && anstyle_query::windows::enable_ansi_colors() != Some(false);
    let _ = match format {
        LogFormat::Text => builder.with_ansi(ansi).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Pieces that wait for the terminal. What comes beyond, while somebody keeps it from writing, is dropped.
const WAITING: usize = 1024;
/// How long the end waits for a terminal that somebody keeps from writing.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// What is to appear on the terminal.
enum Piece {
    Log(Vec<u8>),
    Line(String),
    End(SyncSender<()>),
}

/// Where log lines go while a line is drawn below them.
static SCREEN: Mutex<Option<SyncSender<Piece>>> = Mutex::new(None);

fn screen() -> MutexGuard<'static, Option<SyncSender<Piece>>> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws the last line of standard error until it is dropped; then nothing of it is left.
///
/// A thread of its own writes, logs too: a terminal in which somebody has marked text, or pressed Ctrl-S,
/// takes nothing, and must not hold up viewers.
#[derive(Debug)]
pub struct Drawing(());

impl Drawing {
    /// Begins. `None` when there is one already, or no thread is to be had.
    #[must_use]
    pub fn begin() -> Option<Self> {
        let mut screen = screen();
        if screen.is_some() {
            return None;
        }
        let (sender, pieces) = sync_channel(WAITING);
        let work = move || draw(&pieces, &mut io::stderr());
        std::thread::Builder::new().name("rezcache-terminal".into()).spawn(work).ok()?;
        *screen = Some(sender);
        Some(Self(()))
    }

    /// Shows this in place of what was shown. It must fit into the terminal's width.
    pub fn line(&self, line: String) {
        if let Some(screen) = &*screen() {
            let _ = screen.try_send(Piece::Line(line));
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        // Later logs are written at once again, and after those that wait.
        let mut screen = screen();
        let Some(sender) = screen.take() else { return };
        let (ended, end) = sync_channel(1);
        if sender.try_send(Piece::End(ended)).is_ok() {
            let _ = end.recv_timeout(END_PATIENCE);
        }
    }
}

/// Writes what comes, until the end: logs above the line, which makes room for them.
fn draw(pieces: &Receiver<Piece>, out: &mut impl Write) {
    let mut shown = String::new();
    for piece in pieces {
        let text = match piece {
            Piece::Log(log) if shown.is_empty() => log,
            Piece::Log(log) => [blank(&shown).as_bytes(), &log, shown.as_bytes()].concat(),
            Piece::Line(line) if line == shown => continue,
            Piece::Line(line) => {
                let text = redrawn(&shown, &line);
                shown = line;
                text.into_bytes()
            }
            Piece::End(ended) => {
                if !shown.is_empty() {
                    let _ = out.write_all(blank(&shown).as_bytes());
                }
                let _ = ended.try_send(());
                return;
            }
        };
        // Nobody may be reading.
        let _ = out.write_all(&text);
    }
}

/// What turns one line into another. Spaces rather than escapes, which not every terminal knows.
fn redrawn(before: &str, after: &str) -> String {
    let gone = before.chars().count().saturating_sub(after.chars().count());
    format!("\r{after}{}", " ".repeat(gone))
}

fn blank(shown: &str) -> String {
    redrawn(shown, "") + "\r"
}

/// Standard error, for log lines.
struct AroundTheLine;

impl Write for AroundTheLine {
    fn write(&mut self, log: &[u8]) -> io::Result<usize> {
        match &*screen() {
            Some(screen) => drop(screen.try_send(Piece::Log(log.to_vec()))),
            None => io::stderr().write_all(log)?,
        }
        Ok(log.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_shorter_line_leaves_nothing_of_a_longer_one() {
        assert_eq!(redrawn("", "abc"), "\rabc");
        assert_eq!(redrawn("abcdef", "abc"), "\rabc   ");
        assert_eq!(blank("äbc"), "\r   \r");
    }

    #[test]
    fn logs_stand_above_the_line_and_the_end_leaves_none() {
        let (sender, pieces) = sync_channel(9);
        let (ended, end) = sync_channel(1);
        for piece in [
            Piece::Log(b"one\n".to_vec()),
            Piece::Line("live".into()),
            Piece::Line("live".into()),
            Piece::Log(b"two\n".to_vec()),
            Piece::Line("l".into()),
            Piece::End(ended),
        ] {
            assert!(sender.try_send(piece).is_ok());
        }
        let mut out = Vec::new();
        draw(&pieces, &mut out);
        end.try_recv().unwrap();
        assert_eq!(out, b"one\n\rlive\r    \rtwo\nlive\rl   \r \r");
    }
}
