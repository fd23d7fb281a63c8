//! How long the proxy stays after the process of the viewer has ended: as long as anybody uses it.

use std::time::{Duration, Instant};

/// Simulators and viewers ping each other every 5 s: without any datagram for so long, nobody is there.
const SESSION_QUIET: Duration = Duration::from_secs(12);
/// A viewer that takes only its assets from us may need none for long, and needs us then.
const ASSETS_QUIET: Duration = Duration::from_secs(3600);

/// What is seen of the proxy's use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Viewers that other starts of rezcache wait for.
    pub others: usize,
    /// Sessions that are open.
    pub sessions: i64,
    /// Datagrams forwarded so far.
    pub datagrams: u64,
    /// Assets asked for so far.
    pub assets: u64,
}

/// Why the proxy stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Other viewers use it.
    Others,
    /// Datagrams pass.
    Session,
    /// A launcher has ended, and its viewer may still come, or is there.
    Launched,
}

/// The use of the proxy since the viewer's process has ended.
#[derive(Clone, Debug)]
pub struct Linger {
    /// How long a viewer may take to come. Zero unless it was started by a launcher.
    grace: Duration,
    seen: Use,
    datagram_at: Instant,
    /// When whatever the launcher started was last seen.
    active_at: Instant,
    assets_only: bool,
}

impl Linger {
    /// The process has ended `now`.
    #[must_use]
    pub fn new(now: Instant, grace: Option<Duration>, seen: Use) -> Self {
        let grace = grace.unwrap_or_default();
        Self { grace, seen, datagram_at: now, active_at: now, assets_only: false }
    }

    /// Whether the proxy is still needed, and why.
    pub fn look(&mut self, now: Instant, seen: Use) -> Option<Stay> {
        if seen.datagrams != self.seen.datagrams {
            self.datagram_at = now;
        }
        let session = seen.sessions > 0 && now.saturating_duration_since(self.datagram_at) < SESSION_QUIET;
        if session {
            (self.active_at, self.assets_only) = (now, false);
        } else if seen.assets != self.seen.assets {
            (self.active_at, self.assets_only) = (now, seen.sessions <= 0);
        }
        self.seen = seen;
        let quiet = if self.assets_only { self.grace.max(ASSETS_QUIET) } else { self.grace };
        let launched = !self.grace.is_zero() && now.saturating_duration_since(self.active_at) < quiet;
        match () {
            () if seen.others > 0 => Some(Stay::Others),
            () if session => Some(Stay::Session),
            () if launched => Some(Stay::Launched),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Option<Duration> = Some(Duration::from_secs(60));

    fn after(begun: Instant, seconds: u64) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[test]
    fn with_nobody_there_it_ends_at_once() {
        let begun = Instant::now();
        assert_eq!(Linger::new(begun, None, Use::default()).look(begun, Use::default()), None);
    }

    #[test]
    fn it_stays_for_others_and_for_sessions_in_which_something_passes() {
        let begun = Instant::now();
        let mut linger = Linger::new(begun, None, Use::default());
        let others = Use { others: 1, ..Use::default() };
        assert_eq!(linger.look(after(begun, 9_999), others), Some(Stay::Others));
        let mut session = Use { sessions: 1, ..Use::default() };
        for ping in 0..100 {
            session.datagrams += 1;
            assert_eq!(linger.look(after(begun, 10_000 + ping * 5), session), Some(Stay::Session));
        }
        // The session of a viewer that is gone stays open for minutes; nothing passes in it.
        assert_eq!(linger.look(after(begun, 10_495 + 11), session), Some(Stay::Session));
        assert_eq!(linger.look(after(begun, 10_495 + 13), session), None);
    }

    #[test]
    fn after_a_launcher_a_login_may_come_and_its_session_is_waited_for() {
        let begun = Instant::now();
        let mut linger = Linger::new(begun, GRACE, Use::default());
        assert_eq!(linger.look(after(begun, 59), Use::default()), Some(Stay::Launched));
        let mut session = Use { sessions: 1, datagrams: 1, ..Use::default() };
        for second in 59..500 {
            session.datagrams += 1;
            assert_eq!(linger.look(after(begun, second), session), Some(Stay::Session));
        }
        // It may log in again.
        assert_eq!(linger.look(after(begun, 530), Use { sessions: 0, ..session }), Some(Stay::Launched));
        assert_eq!(linger.look(after(begun, 600), Use { sessions: 0, ..session }), None);
        let mut nobody = Linger::new(begun, GRACE, Use::default());
        assert_eq!(nobody.look(after(begun, 61), Use::default()), None);
    }

    #[test]
    fn a_viewer_that_takes_only_assets_may_be_quiet_for_long() {
        let begun = Instant::now();
        let mut linger = Linger::new(begun, GRACE, Use::default());
        let some = Use { assets: 5, ..Use::default() };
        assert_eq!(linger.look(after(begun, 30), some), Some(Stay::Launched));
        assert_eq!(linger.look(after(begun, 3_000), some), Some(Stay::Launched));
        assert_eq!(linger.look(after(begun, 3_631), some), None);
    }
}
