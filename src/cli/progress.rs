//! How far long work is, on standard error: a bar on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const BAR: usize = 30;
/// Between two drawings of the bar.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(10);

/// Tells how far one piece of work is.
pub(super) struct Teller {
    what: &'static str,
    terminal: bool,
    begun: Instant,
    told: Mutex<Option<Instant>>,
}

impl Teller {
    pub(super) fn new(what: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { what, terminal, begun: Instant::now(), told: Mutex::new(None) }
    }

    /// So many are done, of so many; 0 when it is not known of how many.
    pub(super) fn tell(&self, done: u64, total: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = if self.terminal { REDRAW } else { LINE };
        let last = told.unwrap_or(self.begun);
        if last.elapsed() < pause && !(self.terminal && done == total) {
            return;
        }
        *told = Some(Instant::now());
        let line = line(self.what, done, total, self.begun.elapsed());
        let mut out = std::io::stderr();
        // Nobody may be reading.
        let _ = if self.terminal {
            write!(out, "\r{line}\x1b[K").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let told = self.told.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.terminal && told.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    if total == 0 {
        return format!("{what}: {done}");
    }
    let done = done.min(total);
    let share = |of: u64| u128::from(done) * u128::from(of) / u128::from(total);
    let filled = usize::try_from(share(BAR as u64)).unwrap_or(0).min(BAR);
    let left = match done {
        0 => String::new(),
        _ => {
            let left = elapsed.as_millis() * u128::from(total - done) / u128::from(done) / 1000;
            format!(", {} left", super::times::ago(u64::try_from(left).unwrap_or(u64::MAX)))
        }
    };
    format!(
        "{what} [{}{}] {} %, {done} of {total}{left}",
        "#".repeat(filled),
        " ".repeat(BAR - filled),
        share(100)
    )
}

#[cfg(test)]
mod tests {
    use super::line;
    use std::time::Duration;

    #[test]
    fn a_bar_is_filled_as_far_as_the_work_is() {
        let minute = Duration::from_secs(60);
        assert_eq!(line("reading", 7, 0, minute), "reading: 7");
        let half = line("reading", 5, 10, minute);
        assert!(half.contains(&format!("[{}{}]", "#".repeat(15), " ".repeat(15))), "{half}");
        assert!(half.contains("50 %, 5 of 10, 60 seconds left"), "{half}");
        assert!(line("reading", 0, 10, minute).ends_with("0 %, 0 of 10"));
        assert!(line("reading", 12, 10, minute).contains("100 %, 10 of 10"));
    }
}
