//! What probes say of one node: whether DNS may name it, how much of the traffic it gets after a return, and the
//! colour of its dot.
//!
//! ```text
//!  Unknown ──good──► Up ──failure──► Doubtful ──failure at once again──► Down ──enough good in a row──► Up
//!                     ▲                  │good                                                 (slow start)
//!                     └──────────────────┘
//! ```
//!
//! A probe may take half an interval, and a failed one is repeated at once. A node that fails right after a good
//! probe is thus out of DNS after at most 1 + ½ + ½ = 2 intervals; one that refuses connections, after little
//! more than one.

use std::time::{Duration, Instant};

/// What one probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It can serve; `storage` is what its own canary read and its catalog say.
    Ready {
        /// Until the answer was there.
        latency: Duration,
        /// Whether its store and its catalog work.
        storage: bool,
    },
    /// It answers, and says that it cannot serve or is leaving.
    NotReady,
    /// No answer within half an interval.
    TimedOut,
    /// Nobody listens there, or what answers is not our node.
    Refused,
}

/// Why a probe was not good, for the operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// Nobody listens there.
    #[error("connection refused")]
    ConnectionRefused,
    /// The network leads nowhere.
    #[error("there is no route to it")]
    NoRoute,
    /// Its host has no address.
    #[error("its host name has no address")]
    NoAddress,
    /// It says nothing.
    #[error("it timed out")]
    TimedOut,
    /// Another name than this one stands in its certificate.
    #[error("TLS: its certificate is not for {0}")]
    NotForName(String),
    /// Nobody whom we trust vouches for it.
    #[error("TLS: its certificate is of an authority that is not known here")]
    UnknownAuthority,
    /// It has a key that is not pinned.
    #[error("TLS: its key is not one of the pins")]
    OtherKey,
    /// Its certificate has ended.
    #[error("TLS: its certificate has expired")]
    Expired,
    /// Its certificate has not begun, or a clock is wrong.
    #[error("TLS: its certificate is not valid yet; are the clocks right?")]
    NotYet,
    /// Its certificate is not accepted for another reason.
    #[error("TLS: its certificate is not accepted")]
    Certificate,
    /// It does not speak TLS as we do.
    #[error("TLS: no connection came about")]
    NoTls,
    /// It does not speak HTTP, or stopped to.
    #[error("what answers there speaks no HTTP")]
    NotHttp,
    /// It answers otherwise than a node that can serve.
    #[error("it answers with HTTP status {0}")]
    Status(u16),
    /// It leaves.
    #[error("it is draining")]
    Draining,
}

/// How a member of the array looks on the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dot {
    /// All is well.
    Green,
    /// It serves, but something behind it or about it is wrong.
    Amber,
    /// It does not serve.
    Red,
}

/// What has changed with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The node left the healthy ones.
    Lost,
    /// It came back, or came for the first time.
    Back,
}

/// How sure to be.
#[derive(Clone, Copy, Debug)]
pub struct HealthRules {
    /// Between two probes.
    pub interval: Duration,
    /// Good probes in a row before a lost node is believed again.
    pub returns: u32,
    /// From a return until the node gets its full share.
    pub slow_start: Duration,
    /// A node lost again within this time after its return has to be good for twice as long before the next.
    pub flapping: Duration,
}

impl HealthRules {
    /// The rules for a probe interval, the rest as it usually is.
    #[must_use]
    pub const fn every(interval: Duration) -> Self {
        Self { interval, returns: 2, slow_start: Duration::from_secs(30), flapping: Duration::from_secs(120) }
    }
}

/// The most good probes in a row that are ever asked for.
const MOST_RETURNS: u32 = 32;
/// The smallest share of DNS answers that a returning node is in, in thousandths.
const LEAST_SHARE: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Not probed yet.
    Unknown,
    Up,
    /// One failure; the next decides.
    Doubtful,
    Down,
}

/// One node's health, as one director sees it.
#[derive(Clone, Debug)]
pub struct NodeHealth {
    rules: HealthRules,
    standing: Standing,
    since: Instant,
    good_in_a_row: u32,
    returns_needed: u32,
    /// When it came back; `None` for a node that was up from the first probe on.
    returned: Option<Instant>,
    storage: bool,
    latency: Option<Duration>,
    next: Instant,
}

impl NodeHealth {
    /// A node that nothing is known of; its first probe is due at once.
    #[must_use]
    pub const fn new(rules: HealthRules, now: Instant) -> Self {
        Self {
            rules,
            standing: Standing::Unknown,
            since: now,
            good_in_a_row: 0,
            returns_needed: rules.returns,
            returned: None,
            storage: true,
            latency: None,
            next: now,
        }
    }

    /// Takes in a probe that began at `began` and is over now.
    pub fn observe(&mut self, began: Instant, now: Instant, probe: Probe) -> Option<Turn> {
        self.next = began + self.rules.interval;
        if let Probe::Ready { latency, storage } = probe {
            (self.latency, self.storage) = (Some(latency), storage);
            return self.good(now);
        }
        self.good_in_a_row = 0;
        match self.standing {
            Standing::Up => {
                // Asked again at once: one lost packet is not a lost node.
                (self.standing, self.next) = (Standing::Doubtful, now);
                None
            }
            Standing::Doubtful | Standing::Unknown => self.lost(now),
            Standing::Down => None,
        }
    }

    fn good(&mut self, now: Instant) -> Option<Turn> {
        self.good_in_a_row = self.good_in_a_row.saturating_add(1);
        match self.standing {
            Standing::Up => {
                if self.returned.is_some_and(|at| now.duration_since(at) > self.rules.flapping) {
                    self.returns_needed = self.rules.returns;
                }
                None
            }
            Standing::Doubtful => {
                self.standing = Standing::Up;
                None
            }
            Standing::Unknown => {
                (self.standing, self.since) = (Standing::Up, now);
                Some(Turn::Back)
            }
            Standing::Down if self.good_in_a_row >= self.returns_needed => {
                (self.standing, self.since, self.returned) = (Standing::Up, now, Some(now));
                Some(Turn::Back)
            }
            Standing::Down => None,
        }
    }

    fn lost(&mut self, now: Instant) -> Option<Turn> {
        let known = self.standing != Standing::Unknown;
        if self.returned.is_some_and(|at| now.duration_since(at) <= self.rules.flapping) {
            self.returns_needed = self.returns_needed.saturating_mul(2).min(MOST_RETURNS);
        }
        (self.standing, self.since) = (Standing::Down, now);
        // A node that was never there is not lost; it is not there yet.
        known.then_some(Turn::Lost)
    }

    /// When the next probe is due.
    #[must_use]
    pub const fn next_probe(&self) -> Instant {
        self.next
    }

    /// Whether DNS may name it.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        matches!(self.standing, Standing::Up | Standing::Doubtful)
    }

    /// Whether a probe of it has come to an end.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.standing != Standing::Unknown
    }

    /// The share of DNS answers it is in, in thousandths: it grows with the time since its return, so that
    /// caches that have just come up empty are not overrun.
    #[must_use]
    pub fn share(&self, now: Instant) -> u64 {
        if !self.is_healthy() {
            return 0;
        }
        let Some(returned) = self.returned else { return 1000 };
        let whole = self.rules.slow_start.as_millis().max(1);
        let passed = now.duration_since(returned).as_millis().min(whole);
        u64::try_from(passed * 1000 / whole).unwrap_or(1000).clamp(LEAST_SHARE, 1000)
    }

    /// Its colour.
    #[must_use]
    pub fn dot(&self) -> Dot {
        match (self.standing, self.storage) {
            (Standing::Up, true) => Dot::Green,
            (Standing::Up, false) | (Standing::Doubtful | Standing::Unknown, _) => Dot::Amber,
            (Standing::Down, _) => Dot::Red,
        }
    }

    /// Since when it is as it is.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// How long the last good probe took.
    #[must_use]
    pub const fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Whether its store and its catalog worked when it last answered.
    #[must_use]
    pub const fn storage_works(&self) -> bool {
        self.storage
    }
}

#[cfg(test)]
mod tests;
