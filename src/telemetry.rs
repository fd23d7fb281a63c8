//! Logs: to standard error, as lines for people or as one JSON object a line. Below them a terminal may
//! show one line that is drawn over and over; the two never mix.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
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
    // A terminal that is gone must not end what goes on without it: telling of it would panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(AroundTheLine)
        .log_internal_errors(false);
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

/// Pieces that wait for the terminal. What comes beyond, while somebody keeps it from writing, is dropped, and
/// counted.
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

/// Log lines that found no room, since it was last told how many.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

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
        let work = move || draw(&pieces, &mut io::stderr(), &LEFT_OUT);
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

/// Gives the terminal's thread a log line, or counts it where it holds too many already.
fn hand_over(screen: &SyncSender<Piece>, log: &[u8], left_out: &AtomicU64) {
    if screen.try_send(Piece::Log(log.to_vec())).is_err() {
        left_out.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says how many lines found no room, once some were left out.
fn told_left_out(left_out: &AtomicU64) -> Vec<u8> {
    match left_out.swap(0, Ordering::Relaxed) {
        0 => Vec::new(),
        1 => b"(1 line left out: the terminal was held up)\n".to_vec(),
        lines => format!("({lines} lines left out: the terminal was held up)\n").into_bytes(),
    }
}

/// Writes what comes, until the end: logs above the line, which makes room for them. Lines that found no room
/// are those that came after all that wait, so they are told of when nothing waits any more.
fn draw(pieces: &Receiver<Piece>, out: &mut impl Write, left_out: &AtomicU64) {
    let mut shown = String::new();
    loop {
        let piece = match pieces.try_recv() {
            Ok(piece) => piece,
            Err(TryRecvError::Disconnected) => {
                let _ = out.write_all(&told_left_out(left_out));
                return;
            }
            Err(TryRecvError::Empty) => {
                let told = told_left_out(left_out);
                if told.is_empty() {
                    match pieces.recv() {
                        Ok(piece) => piece,
                        Err(_) => return,
                    }
                } else {
                    Piece::Log(told)
                }
            }
        };
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
                let _ = out.write_all(&told_left_out(left_out));
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
            Some(screen) => hand_over(screen, log, &LEFT_OUT),
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
        draw(&pieces, &mut out, &AtomicU64::new(0));
        end.try_recv().unwrap();
        assert_eq!(out, b"one\n\rlive\r    \rtwo\nlive\rl   \r \r");
    }

    #[test]
    fn lines_that_find_no_room_are_counted_and_told_once() {
        let left_out = AtomicU64::new(0);
        let (sender, pieces) = sync_channel(2);
        for line in [b"one\n", b"two\n", b"six\n", b"ten\n"] {
            hand_over(&sender, line, &left_out);
        }
        drop(sender);
        let mut out = Vec::new();
        draw(&pieces, &mut out, &left_out);
        assert_eq!(out, b"one\ntwo\n(2 lines left out: the terminal was held up)\n");
        // It is not kept for the end.
        left_out.store(1, Ordering::Relaxed);
        let (sender, pieces) = sync_channel(2);
        let (told, seen) = sync_channel(9);
        std::thread::scope(|scope| {
            let left_out = &left_out;
            scope.spawn(move || draw(&pieces, &mut Told(told), left_out));
            assert_eq!(seen.recv().unwrap(), b"(1 line left out: the terminal was held up)\n");
            drop(sender);
        });
    }

    /// Hands on what is written.
    struct Told(SyncSender<Vec<u8>>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !bytes.is_empty() {
                self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
