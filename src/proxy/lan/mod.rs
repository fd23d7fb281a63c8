//! Shared caches at home: which were joined, which of them is in use, and which others announce themselves.
//! [`finder`] looks for them; the control port shows them and takes join lines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::client::joined::{self, JoinedError};
use crate::fetch::lan_plan::Unknown;
use crate::token::join::{JoinLine, JoinLineError};

mod finder;

pub(super) use finder::Finder;

/// Which servers of a household a proxy uses.
#[derive(Clone, Debug, Default)]
pub struct LanConfig {
    /// This one and no other. `None`: those that were joined, as the data directory has them.
    pub line: Option<JoinLine>,
    /// What the user has said beforehand of giving them what the grid sends. `None`: as said of each.
    pub upload: Option<bool>,
    /// Of so many hits one is compared with the grid; 0 for none.
    pub spot_check: u32,
    /// No request is held for less than this. Zero but in tests.
    pub least_deadline: std::time::Duration,
}

/// A server that was joined, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Where it is, or was last.
    pub(crate) address: SocketAddr,
    /// The beginning of its pin.
    pub(crate) name: String,
    /// It is the one in use.
    pub(crate) used: bool,
    /// We may give it something.
    pub(crate) writes: bool,
}

/// What the page shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Servers that were joined.
    pub(crate) joined: Vec<Shown>,
    /// Servers that announce themselves and were not joined.
    pub(crate) unknown: Vec<Unknown>,
}

/// How join lines are dealt with here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Those that were joined are used.
    Auto,
    /// Another server is used, or none: what is joined is remembered for later.
    Later,
}

/// What the control port and the finder share.
pub(crate) struct Lan {
    data_dir: PathBuf,
    mode: Mode,
    view: Mutex<View>,
    changed: Notify,
}

impl std::fmt::Debug for Lan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lan").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Why a join line was not taken. Never repeats it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// It is none.
    #[error(transparent)]
    Line(#[from] JoinLineError),
    /// It cannot be remembered.
    #[error(transparent)]
    Remember(#[from] JoinedError),
}

impl Lan {
    pub(super) fn new(data_dir: PathBuf, mode: Mode) -> Self {
        Self { data_dir, mode, view: Mutex::default(), changed: Notify::new() }
    }

    /// What is to be shown now.
    pub(crate) fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, view: View) {
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Whether join lines take effect without a restart.
    pub(crate) fn is_auto(&self) -> bool {
        self.mode == Mode::Auto
    }

    /// Remembers the server of a join line. Blocks on the disk.
    pub(crate) fn join(&self, text: &str, upload: Option<bool>) -> Result<(), JoinError> {
        let line: JoinLine = text.parse()?;
        joined::add(&self.data_dir, line, upload)?;
        self.changed.notify_one();
        Ok(())
    }
}
