//! What of all that happens is worth a message to the operators: each trouble once when it begins and once when it
//! is over, several of one moment in one message, and a trouble that comes and goes as one that flaps.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody may want to look, in the morning.
    Warning,
    /// Somebody should look now.
    Critical,
}

/// What an operator is told of one trouble.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Notice {
    /// What it is about; the same from its beginning to its end.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// What has become of it.
    pub what: What,
    /// In words.
    pub text: String,
}

/// What has become of a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It has begun.
    Raised,
    /// It goes on.
    Reminder,
    /// It is over.
    Cleared,
    /// It comes and goes; nothing more is said until it is steady.
    Flapping,
}

/// When to say what.
#[derive(Clone, Copy, Debug)]
pub struct NoticeRules {
    /// What comes within this after the first goes into one message.
    pub gather: Duration,
    /// More changes than these within `flapping_within` are flapping.
    pub flapping_changes: usize,
    /// See there. Also how long a flapping trouble must be steady.
    pub flapping_within: Duration,
    /// How often a critical trouble that goes on is told again.
    pub remind: Duration,
}

impl Default for NoticeRules {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(5),
            flapping_changes: 4,
            flapping_within: Duration::from_secs(600),
            remind: Duration::from_secs(4 * 3600),
        }
    }
}

/// Troubles kept; what is beyond is counted.
const MAX_TROUBLES: usize = 1024;
/// Changes of one trouble that are remembered.
const MAX_CHANGES: usize = 16;

#[derive(Clone, Debug)]
struct Trouble {
    severity: Severity,
    text: String,
    raised: bool,
    /// What the operators were last told.
    told: Option<What>,
    told_at: Instant,
    changes: Vec<Instant>,
    /// Waits to be told.
    fresh: bool,
}

/// The troubles there are, and what was told of them.
#[derive(Clone, Debug)]
pub struct Notices {
    rules: NoticeRules,
    troubles: BTreeMap<String, Trouble>,
    gathering_since: Option<Instant>,
    overflow: u64,
}

impl Notices {
    /// Nothing is wrong yet.
    #[must_use]
    pub const fn new(rules: NoticeRules) -> Self {
        Self { rules, troubles: BTreeMap::new(), gathering_since: None, overflow: 0 }
    }

    /// A trouble is there; said again while it goes on, this changes nothing but its words.
    pub fn raise(&mut self, now: Instant, key: &str, severity: Severity, text: String) {
        if let Some(trouble) = self.troubles.get_mut(key) {
            (trouble.severity, trouble.text) = (trouble.severity.max(severity), text);
            if !trouble.raised {
                trouble.raised = true;
                self.changed(now, key);
            }
            return;
        }
        if self.troubles.len() >= MAX_TROUBLES {
            self.overflow += 1;
            return;
        }
        let trouble = Trouble {
            severity,
            text,
            raised: true,
            told: None,
            told_at: now,
            changes: Vec::new(),
            fresh: false,
        };
        self.troubles.insert(key.to_owned(), trouble);
        self.changed(now, key);
    }

    /// A trouble is over; of one that was not there nothing is said.
    pub fn clear(&mut self, now: Instant, key: &str, text: String) {
        if let Some(trouble) = self.troubles.get_mut(key)
            && trouble.raised
        {
            (trouble.raised, trouble.text) = (false, text);
            self.changed(now, key);
        }
    }

    fn changed(&mut self, now: Instant, key: &str) {
        let within = self.rules.flapping_within;
        if let Some(trouble) = self.troubles.get_mut(key) {
            trouble.changes.retain(|at| now.duration_since(*at) < within);
            if trouble.changes.len() >= MAX_CHANGES {
                trouble.changes.remove(0);
            }
            trouble.changes.push(now);
            trouble.fresh = true;
            self.gathering_since.get_or_insert(now);
        }
    }

    /// Troubles that are there now.
    pub fn raised(&self) -> impl Iterator<Item = (&str, Severity, &str)> {
        let raised = self.troubles.iter().filter(|(_, trouble)| trouble.raised);
        raised.map(|(key, trouble)| (key.as_str(), trouble.severity, trouble.text.as_str()))
    }

    /// Troubles that are there now and that operators should know of: told, by whoever led then.
    pub fn known(&self) -> impl Iterator<Item = (&str, Severity, &str)> {
        let known = self.troubles.iter().filter(|(_, trouble)| {
            trouble.raised && !trouble.fresh && !matches!(trouble.told, None | Some(What::Cleared))
        });
        known.map(|(key, trouble)| (key.as_str(), trouble.severity, trouble.text.as_str()))
    }

    /// Whether nothing more will be said of this trouble: it is not there, and nobody is left believing that it is.
    #[must_use]
    pub fn is_over(&self, key: &str) -> bool {
        self.troubles
            .get(key)
            .is_none_or(|trouble| !trouble.raised && matches!(trouble.told, None | Some(What::Cleared)))
    }

    /// Troubles that found no room.
    #[must_use]
    pub const fn overflow(&self) -> u64 {
        self.overflow
    }

    /// What is to be told now, as one message; empty when nothing is. To be asked about once a second.
    pub fn due(&mut self, now: Instant) -> Vec<Notice> {
        let rules = self.rules;
        let gathered = self.gathering_since.is_some_and(|since| now.duration_since(since) >= rules.gather);
        if gathered {
            self.gathering_since = None;
        }
        let mut notices = Vec::new();
        for (key, trouble) in &mut self.troubles {
            let Some(what) = next(trouble, rules, now, gathered) else { continue };
            (trouble.told, trouble.told_at) = (Some(what), now);
            let (key, severity, text) = (key.clone(), trouble.severity, trouble.text.clone());
            notices.push(Notice { key, severity, what, text });
        }
        // What is over, told, and long ago need not be remembered.
        self.troubles.retain(|_, trouble| {
            trouble.raised
                || trouble.fresh
                || trouble.told == Some(What::Flapping)
                || trouble.changes.last().is_some_and(|at| now.duration_since(*at) < rules.flapping_within)
        });
        notices
    }
}

fn next(trouble: &mut Trouble, rules: NoticeRules, now: Instant, gathered: bool) -> Option<What> {
    let steady_for = trouble.changes.last().map_or(Duration::MAX, |at| now.duration_since(*at));
    let flaps = trouble.changes.len() > rules.flapping_changes && steady_for < rules.flapping_within;
    let state = if trouble.raised { What::Raised } else { What::Cleared };
    if flaps {
        trouble.fresh = false;
        return (gathered && trouble.told != Some(What::Flapping)).then_some(What::Flapping);
    }
    if trouble.told == Some(What::Flapping) {
        trouble.fresh = false;
        return Some(state);
    }
    if trouble.fresh && gathered {
        trouble.fresh = false;
        let known = match trouble.told {
            None | Some(What::Cleared) => What::Cleared,
            Some(_) => What::Raised,
        };
        // Come and gone within one gathering: nobody needs to know.
        return (known != state).then_some(state);
    }
    let old = now.duration_since(trouble.told_at) >= rules.remind;
    (trouble.raised && trouble.told.is_some() && trouble.severity == Severity::Critical && old)
        .then_some(What::Reminder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    struct Rig {
        notices: Notices,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self { notices: Notices::new(NoticeRules::default()), now: Instant::now() }
        }

        fn raise(&mut self, key: &str) {
            self.notices.raise(self.now, key, Severity::Critical, format!("{key} is lost"));
        }

        fn clear(&mut self, key: &str) {
            self.notices.clear(self.now, key, format!("{key} is back"));
        }

        /// Goes on by so many seconds, asking each second; the messages that came.
        fn pass(&mut self, seconds: u64) -> Vec<Vec<(String, What)>> {
            let mut messages = Vec::new();
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                let notices = self.notices.due(self.now);
                if !notices.is_empty() {
                    messages.push(notices.into_iter().map(|notice| (notice.key, notice.what)).collect());
                }
            }
            messages
        }
    }

    fn told(key: &str, what: What) -> (String, What) {
        (key.to_owned(), what)
    }

    #[test]
    fn a_trouble_is_told_at_its_beginning_and_at_its_end() {
        let mut rig = Rig::new();
        for _ in 0..60 {
            // Every probe finds it again.
            rig.raise("otter");
            let messages = rig.pass(1);
            assert!(messages.is_empty() || messages == [[told("otter", What::Raised)]], "{messages:?}");
        }
        assert_eq!(rig.notices.raised().count(), 1);
        rig.clear("otter");
        assert_eq!(rig.pass(60), [[told("otter", What::Cleared)]]);
        rig.clear("otter");
        assert!(rig.pass(3600).is_empty());
        assert!(rig.notices.troubles.is_empty(), "nothing is remembered for ever");
    }

    #[test]
    fn what_happens_together_is_one_message() {
        let mut rig = Rig::new();
        for key in ["otter", "lynx", "store"] {
            rig.raise(key);
            assert!(rig.pass(1).is_empty());
        }
        let message = rig.pass(10);
        assert_eq!(message.len(), 1);
        assert_eq!(message[0].len(), 3);
    }

    #[test]
    fn what_comes_and_goes_at_once_is_not_told() {
        let mut rig = Rig::new();
        rig.raise("otter");
        rig.pass(2);
        rig.clear("otter");
        assert!(rig.pass(600).is_empty());
    }

    #[test]
    fn flapping_is_told_once_and_then_how_it_ended() {
        let mut rig = Rig::new();
        let mut messages = Vec::new();
        for _ in 0..30 {
            rig.raise("otter");
            messages.extend(rig.pass(20));
            rig.clear("otter");
            messages.extend(rig.pass(20));
        }
        let flat: Vec<_> = messages.concat().into_iter().map(|(_, what)| what).collect();
        assert_eq!(flat, [What::Raised, What::Cleared, What::Raised, What::Cleared, What::Flapping]);
        rig.raise("otter");
        assert_eq!(rig.pass(3600), [[told("otter", What::Raised)]]);
    }

    #[test]
    fn a_critical_trouble_that_goes_on_is_told_again() {
        let mut rig = Rig::new();
        rig.raise("store");
        let messages = rig.pass(9 * 3600).concat();
        assert_eq!(messages.iter().filter(|(_, what)| *what == What::Reminder).count(), 2, "{messages:?}");
    }

    #[test]
    fn troubles_without_end_are_bounded() {
        let mut rig = Rig::new();
        for n in 0..3000 {
            rig.raise(&format!("node {n}"));
        }
        assert_eq!(rig.pass(10).concat().len(), MAX_TROUBLES);
        assert_eq!(rig.notices.overflow(), 3000 - MAX_TROUBLES as u64);
    }
}
