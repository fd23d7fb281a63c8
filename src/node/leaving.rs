//! How a node goes. Asked to drain, it stays at its door: whoever looks after it sees that it goes and who is still
//! with it, everybody else is sent away, and what runs ends. A signal closes the door at once.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::service::Service;

/// How long a going node waits for whoever is still with it.
const DRAIN: Duration = Duration::from_secs(600);
/// What is left of that at least when the last step is taken.
const LAST: Duration = Duration::from_secs(5);
/// How often a draining node counts.
const COUNT: Duration = Duration::from_millis(100);

/// Whether the node goes, and since when.
pub(super) struct Leaving {
    said: watch::Sender<bool>,
    since: OnceLock<Instant>,
}

impl Default for Leaving {
    fn default() -> Self {
        Self { said: watch::channel(false).0, since: OnceLock::new() }
    }
}

impl Leaving {
    /// From now on it does. Said again, nothing changes.
    pub(super) fn begin(&self) {
        self.since.get_or_init(Instant::now);
        self.said.send_replace(true);
    }

    pub(super) fn is_said(&self) -> bool {
        *self.said.borrow()
    }

    /// Resolves when it does.
    pub(super) async fn said(&self) {
        // The sender lives as long as this.
        let _ = self.said.subscribe().wait_for(|said| *said).await;
    }

    /// How long what runs may still take.
    pub(super) fn left(&self) -> Duration {
        self.since.get().map_or(DRAIN, |since| DRAIN.saturating_sub(since.elapsed())).max(LAST)
    }
}

impl Service {
    /// Resolves when the node was asked to go and nobody is with it any more, or has been for too long.
    pub(super) async fn drained(&self) {
        self.leaving.said().await;
        let until = Instant::now() + self.leaving.left();
        while self.counters.connections() + self.counters.running() > 0 && Instant::now() < until {
            tokio::time::sleep(COUNT).await;
        }
    }
}

const FRESH: u8 = 0;
const LOOKS: u8 = 1;
const USES: u8 = 2;
/// Came when the node was going already: it is never waited for.
const LATE: u8 = 3;

/// An open connection. It counts unless it only looks after the node, as directors, monitors and balancers do.
pub(super) struct Connected {
    service: Arc<Service>,
    state: AtomicU8,
    ending: AtomicBool,
    unwelcome: Notify,
}

impl Connected {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let late = service.leaving.is_said();
        if !late {
            service.counters.connected();
        }
        Self {
            service,
            state: AtomicU8::new(if late { LATE } else { FRESH }),
            ending: AtomicBool::new(false),
            unwelcome: Notify::new(),
        }
    }

    /// Whether it came when the node was going.
    pub(super) fn is_late(&self) -> bool {
        self.state.load(Ordering::Acquire) == LATE
    }

    /// The node goes, and this one has not asked for anything yet: whether it is as if it came later.
    pub(super) fn comes_late(&self) -> bool {
        let late = self.state.compare_exchange(FRESH, LATE, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if late {
            self.service.counters.disconnected();
        }
        late
    }

    /// It has asked too much; it ends with what is being answered.
    pub(super) fn is_unwelcome(&self) {
        self.ending.store(true, Ordering::Release);
        self.unwelcome.notify_one();
    }

    /// Whether it has.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Resolves when it has.
    pub(super) async fn unwelcome(&self) {
        self.unwelcome.notified().await;
    }

    /// It asks how the node is.
    pub(super) fn looks(&self) {
        if self.state.compare_exchange(FRESH, LOOKS, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.service.counters.disconnected();
        }
    }

    /// It asks for something else.
    pub(super) fn uses(&self) {
        if self.state.compare_exchange(LOOKS, USES, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.service.counters.connected();
        }
        let _ = self.state.compare_exchange(FRESH, USES, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if matches!(self.state.load(Ordering::Acquire), FRESH | USES) {
            self.service.counters.disconnected();
        }
    }
}
