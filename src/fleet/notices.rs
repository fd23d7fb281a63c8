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
/// Characters of a text.
const MAX_TEXT: usize = 500;

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
    /// Whether what was told last was told by this director: another one that led may have died before it could.
    mine: bool,
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

    /// A trouble is there; said again while it goes on, this changes nothing but its words, unless it has become
    /// worse: that is told. One that became less bad stays what it was until it is over.
    pub fn raise(&mut self, now: Instant, key: &str, severity: Severity, text: &str) {
        let text = one_line(text);
        if let Some(trouble) = self.troubles.get_mut(key) {
            let worse = trouble.raised && severity > trouble.severity;
            if !trouble.raised || worse {
                trouble.severity = severity;
            }
            trouble.text = text;
            if worse {
                if trouble.told == Some(What::Raised) || trouble.told == Some(What::Reminder) {
                    trouble.told = None;
                }
                trouble.fresh = true;
                self.gathering_since.get_or_insert(now);
            } else if !trouble.raised {
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
            mine: false,
        };
        self.troubles.insert(key.to_owned(), trouble);
        self.changed(now, key);
    }

    /// A trouble is over; of one that was not there nothing is said.
    pub fn clear(&mut self, now: Instant, key: &str, text: &str) {
        if let Some(trouble) = self.troubles.get_mut(key)
            && trouble.raised
        {
            (trouble.raised, trouble.text) = (false, one_line(text));
            self.changed(now, key);
        }
    }

    /// Whether this trouble is there.
    #[must_use]
    pub fn is_raised(&self, key: &str) -> bool {
        self.troubles.get(key).is_some_and(|trouble| trouble.raised)
    }

    /// This director begins to tell, after another one. What has changed lately is told again unless it was told from
    /// here: the other may have died before it could, perhaps together with what there is to tell. Better twice than
    /// never.
    pub fn take_over(&mut self, now: Instant, within: Duration) {
        for trouble in self.troubles.values_mut() {
            let lately = trouble.changes.last().is_some_and(|at| now.duration_since(*at) <= within);
            if !lately || trouble.mine || trouble.fresh {
                continue;
            }
            trouble.told = match trouble.told {
                Some(What::Raised | What::Reminder) => None,
                // Its beginning was told, by whomever.
                Some(What::Cleared) => Some(What::Raised),
                other => other,
            };
            if trouble.told != Some(What::Flapping) {
                trouble.fresh = true;
                self.gathering_since.get_or_insert(now);
            }
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

    /// What is to be told now, as one message; empty when nothing is. To be asked about once a second. `telling` is
    /// whether this director tells those with this key.
    pub fn due(&mut self, now: Instant, telling: impl Fn(&str) -> bool) -> Vec<Notice> {
        let rules = self.rules;
        let gathered = self.gathering_since.is_some_and(|since| now.duration_since(since) >= rules.gather);
        if gathered {
            self.gathering_since = None;
        }
        let mut notices = Vec::new();
        for (key, trouble) in &mut self.troubles {
            let Some(what) = next(trouble, rules, now, gathered) else { continue };
            (trouble.told, trouble.told_at, trouble.mine) = (Some(what), now, telling(key));
            if !trouble.mine {
                continue;
            }
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

/// Texts come from programs, clouds and nodes: no line of theirs may look like one of ours.
#[must_use]
pub fn one_line(text: &str) -> String {
    let plain = |c: char| if is_unseen(c) { ' ' } else { c };
    text.chars().take(MAX_TEXT).map(plain).collect()
}

/// Characters that break lines, or change how the others are read.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
mod tests;
