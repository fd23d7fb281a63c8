//! Is it working? One sentence, and what to do where it is not. The first thing that is wrong is told, the
//! worst first.

use super::text::number;
use super::view::View;
use crate::support::metrics::Counter;
use crate::support::status::{human_bytes, percent};

/// So many requests in a row that the grid does not answer are no accident.
const UNANSWERED: u64 = 3;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    /// Nothing has happened yet.
    Waiting,
    /// It works, less well than it could.
    Warning,
    /// It does not work.
    Bad,
}

impl Level {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Waiting => "waiting",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }

    /// For those who do not see the colour.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Good => "It works",
            Self::Waiting => "Ready",
            Self::Warning => "It works, but something needs a look",
            Self::Bad => "Something is wrong",
        }
    }
}

/// The sentence, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) sentence: String,
    pub(super) advice: Option<String>,
}

fn say(level: Level, sentence: impl Into<String>, advice: &str) -> Verdict {
    let advice = (!advice.is_empty()).then(|| advice.to_owned());
    Verdict { level, sentence: sentence.into(), advice }
}

/// How it stands.
pub(super) fn verdict(view: &View) -> Verdict {
    let status = &view.status;
    if view.unanswered >= UNANSWERED {
        return say(
            Level::Bad,
            "The grid does not answer, so what is not on this machine cannot be had at the moment.",
            "See whether the grid is up (its web page usually says) and whether this computer is online. \
             rezcache goes on by itself as soon as the grid answers.",
        );
    }
    if view.store.disk_limit == 0 {
        return say(
            Level::Warning,
            "Assets are kept in memory only: the store on disk cannot be used.",
            "See whether another rezcache is running and whether the disk is full or read-only, then start \
             rezcache again. Viewers are not affected meanwhile.",
        );
    }
    if status.store.write_failures > view.before.write_failures {
        let failed = status.store.write_failures - view.before.write_failures;
        return say(
            Level::Warning,
            format!("The store could not take {}.", super::text::counted(failed, "asset")),
            "Is the disk full? Free some space or make the store smaller below. Viewers are not affected, but \
             what cannot be kept comes from the grid again.",
        );
    }
    if let Some(service) = &status.service {
        match service.state.as_ref() {
            "working" => {}
            "distrusted" => {
                return say(
                    Level::Warning,
                    "The shared cache is not used any more: it gave bytes that differ from the grid's.",
                    "Tell its operator. What came from it was dropped; the log says how to use it again.",
                );
            }
            _ => {
                return say(
                    Level::Warning,
                    "The shared cache does not answer; everything else works.",
                    "Nothing needs to be done: it is tried again by itself. If it stays away, ask its operator, \
                     or start rezcache without --cache-server.",
                );
            }
        }
    }
    let refused = status.counters.get(Counter::AddressesRefused.name()).copied().unwrap_or(0);
    if refused > view.before.addresses_refused && status.sessions.open == 0 {
        return say(
            Level::Warning,
            "A login went past rezcache: the grid led to an address where it may not go.",
            "If you trust this grid, start rezcache with --grid-allow GRID=ADDRESS as the log says.",
        );
    }
    if status.assets.requests == view.before.requests {
        if status.sessions.granted > view.before.logins || status.sessions.open > 0 {
            return say(Level::Good, "Logged in; the first assets are about to come.", "");
        }
        return say(
            Level::Waiting,
            if status.assets.requests == 0 {
                "No viewer has asked for an asset yet."
            } else {
                "No viewer has asked for an asset since rezcache was started."
            },
            "Start your viewer with one of the addresses under “Viewers” below, and log in.",
        );
    }
    let (requests, hits, saved, when) = match view.today {
        today if today.requests > 0 => (today.requests, today.hits, today.bytes_saved, "today"),
        _ => (status.assets.requests, status.assets.hits, status.assets.bytes_saved, "in all"),
    };
    let sentence = format!(
        "{} of {} asset requests were answered without the grid {when}, and {} did not have to come from it.",
        percent(hits as f64 / requests.max(1) as f64),
        number(requests),
        human_bytes(saved)
    );
    say(Level::Good, sentence, "")
}
