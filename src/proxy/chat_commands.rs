//! What is answered to commands typed into chat. The words are made here from numbers that the status
//! shows too; who may ask, and how the answer travels, is the session's affair.

use std::fmt::Write as _;

use super::grid_port::Shared;
use crate::session::chat::{CHANNEL, ChatCommand};
use crate::support::status::{Status, human_bytes, percent};

/// Requests, hits and saved bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Numbers {
    requests: u64,
    hits: u64,
    saved: u64,
}

/// Answers the commands of one session.
pub(super) struct ChatDesk {
    /// What had been counted when it began.
    before: Numbers,
}

impl ChatDesk {
    pub(super) fn open(shared: &Shared) -> Self {
        Self { before: Numbers::of(&Status::of(&shared.metrics, shared.started.elapsed())) }
    }

    /// Does what is asked for, and says so.
    pub(super) fn answer(&self, shared: &Shared, command: ChatCommand) -> String {
        match (command, shared.service.uploads()) {
            (ChatCommand::Status, _) => {
                status(&Status::of(&shared.metrics, shared.started.elapsed()), self.before)
            }
            (ChatCommand::Pause, Some(uploads)) => {
                uploads.pause();
                format!("Nothing is shared any more until you say /{CHANNEL} rez resume.")
            }
            (ChatCommand::Resume, Some(uploads)) => {
                uploads.resume();
                "Assets are shared with the cache server again.".to_owned()
            }
            (ChatCommand::Pause | ChatCommand::Resume, None) => {
                "Nothing is shared with a cache server anyway.".to_owned()
            }
            (ChatCommand::Help, _) => help(),
            (ChatCommand::Unknown, _) => format!("I do not know that. {}", help()),
        }
    }
}

impl Numbers {
    fn of(status: &Status) -> Self {
        let assets = &status.assets;
        Self { requests: assets.requests, hits: assets.hits, saved: assets.bytes_saved }
    }

    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            hits: self.hits.saturating_sub(before.hits),
            saved: self.saved.saturating_sub(before.saved),
        }
    }

    fn told(self) -> String {
        if self.requests == 0 {
            return "no assets asked for".to_owned();
        }
        let rate = percent(self.hits as f64 / self.requests as f64);
        format!("{rate} of {} assets from here, {} saved", self.requests, human_bytes(self.saved))
    }
}

fn help() -> String {
    format!(
        "Say /{CHANNEL} rez status for the numbers, /{CHANNEL} rez pause and /{CHANNEL} rez resume for sharing, \
         /{CHANNEL} rez help for this."
    )
}

fn status(status: &Status, before: Numbers) -> String {
    let now = Numbers::of(status);
    let mut text = format!("In all: {}.\nSince you logged in: {}.", now.told(), now.since(before).told());
    if let Some(service) = &status.service {
        let standing = match service.state.as_ref() {
            "working" if service.quic => "working, over QUIC",
            "working" => "working, over HTTPS",
            "distrusted" => "not used any more, since it gave wrong bytes",
            _ => "away; everything comes from the grid",
        };
        let uploads = &status.uploads;
        let paused = if uploads.paused { ", paused" } else { "" };
        let _ = write!(
            text,
            "\nCache server: {standing}. Sharing: {} assets wait ({}){paused}.",
            uploads.waiting,
            human_bytes(uploads.waiting_bytes)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::asset::{AssetKind, AssetSource};
    use crate::support::metrics::Metrics;

    #[test]
    fn the_answer_has_the_numbers_of_all_and_of_this_session() {
        let metrics = Metrics::default();
        let of = |before| status(&Status::of(&metrics, Duration::ZERO), before);
        assert_eq!(
            of(Numbers::default()),
            "In all: no assets asked for.\nSince you logged in: no assets asked for."
        );
        for _ in 0..3 {
            metrics.asset_served(AssetKind::Texture, AssetSource::Memory, 1024);
        }
        metrics.asset_served(AssetKind::Texture, AssetSource::Grid, 1024);
        let before = Numbers { requests: 2, hits: 1, saved: 1024 };
        metrics.set_service("working", true, Duration::ZERO);
        metrics.set_upload_queue(7, 7 << 20);
        metrics.set_upload_control(true, 0);
        assert_eq!(
            of(before),
            "In all: 75.0 % of 4 assets from here, 3.0 KiB saved.\n\
             Since you logged in: 100.0 % of 2 assets from here, 2.0 KiB saved.\n\
             Cache server: working, over QUIC. Sharing: 7 assets wait (7.0 MiB), paused."
        );
        assert!(of(before).len() < 1000 && help().len() < 1000);
    }
}
