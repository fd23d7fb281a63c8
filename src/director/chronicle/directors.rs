//! The directors that say on the board that they are there. Whether one still is, is judged by when its word was last
//! seen to change, on our own clock: clocks of others may differ.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::catalog::Fact;
use crate::fleet::history::State;
use crate::fleet::incidents::{MAX_NAME, one_line};

/// The most directors shown.
const MAX_DIRECTORS: usize = 32;
/// Beats without a word until a director is doubted, and until it is lost.
const DOUBTED: u32 = 4;
const LOST: u32 = 10;
/// A word that is older than this by the wall clock when it is first seen is of one that is gone.
const LONG_GONE: u64 = 300;
/// One that has been gone for so long is not shown any more.
const SHOWN: u64 = 86_400;

/// What a director says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    /// When it started; seconds since 1970.
    pub(super) started: u64,
}

/// A director for the status page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectorView {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// When it started; seconds since 1970.
    pub started: u64,
    /// Since when it is as it is, in seconds.
    pub since_s: u64,
    /// Whether it is the one that answers.
    pub own: bool,
}

#[derive(Debug)]
struct Known {
    word: Word,
    at: u64,
    changed: Instant,
    /// Since when it has gone on without a break.
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Directors {
    own: String,
    started: u64,
    began: Option<Instant>,
    beat: Duration,
    known: BTreeMap<String, Known>,
}

impl Directors {
    pub(super) fn new(own: &str, started: u64, beat: Duration) -> Self {
        Self { own: one_line(own, MAX_NAME), started, began: None, beat, known: BTreeMap::new() }
    }

    pub(super) fn read(&mut self, now: Instant, wall: u64, facts: &[Fact]) {
        self.began.get_or_insert(now);
        let mut there = Vec::new();
        for fact in facts {
            let name = one_line(&fact.name, MAX_NAME);
            let Ok(word) = serde_json::from_slice::<Word>(&fact.record) else { continue };
            if name.is_empty() || name == self.own || fact.at.saturating_add(SHOWN) < wall {
                continue;
            }
            there.push(name.clone());
            if let Some(known) = self.known.get_mut(&name) {
                if known.at != fact.at {
                    if now.duration_since(known.changed) >= self.beat * LOST || known.word != word {
                        known.since = now;
                    }
                    (known.at, known.word, known.changed) = (fact.at, word, now);
                }
            } else if self.known.len() < MAX_DIRECTORS {
                let gone =
                    if fact.at.saturating_add(LONG_GONE) < wall { self.beat * LOST } else { Duration::ZERO };
                let changed = now.checked_sub(gone).unwrap_or(now);
                self.known.insert(name, Known { word, at: fact.at, changed, since: now });
            }
        }
        self.known.retain(|name, _| there.contains(name));
    }

    /// All, this one among them. With the catalog away nobody hears from the others.
    pub(super) fn views(&self, now: Instant, catalog: bool) -> Vec<DirectorView> {
        let own = DirectorView {
            name: self.own.clone(),
            state: if catalog { State::Healthy } else { State::Amber },
            started: self.started,
            since_s: self.began.map_or(0, |began| now.duration_since(began).as_secs()),
            own: true,
        };
        let view = |(name, known): (&String, &Known)| {
            let silent = now.duration_since(known.changed);
            let (state, since) = match silent {
                _ if !catalog => (State::Unknown, known.changed),
                _ if silent >= self.beat * LOST => (State::Lost, known.changed),
                _ if silent >= self.beat * DOUBTED => (State::Amber, known.changed),
                _ => (State::Healthy, known.since),
            };
            let since_s = now.duration_since(since).as_secs();
            DirectorView { name: name.clone(), state, started: known.word.started, since_s, own: false }
        };
        let mut all: Vec<_> = self.known.iter().map(view).chain([own]).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const WALL: u64 = 1_800_000_000;
    const BEAT: Duration = Duration::from_secs(2);

    fn fact(name: &str, at: u64) -> Fact {
        Fact { name: name.into(), at, record: br#"{"started":1700000000,"later":1}"#.to_vec() }
    }

    fn states(directors: &Directors, now: Instant) -> Vec<(String, State)> {
        directors.views(now, true).into_iter().map(|view| (view.name, view.state)).collect()
    }

    #[test]
    fn one_that_says_nothing_more_is_doubted_and_then_lost_whatever_its_clock() {
        let start = Instant::now();
        let mut directors = Directors::new("owl", WALL, BEAT);
        // An hour behind, and an hour ahead of us.
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            directors.read(now, WALL + second, &[fact("fox", WALL + 3600 + second), fact("owl", 1)]);
        }
        let silent = |seconds: u64| start + Duration::from_secs(9 + seconds);
        let expected = |state| vec![("fox".to_owned(), state), ("owl".to_owned(), State::Healthy)];
        assert_eq!(states(&directors, silent(0)), expected(State::Healthy));
        directors.read(silent(8), WALL + 17, &[fact("fox", WALL + 3609)]);
        assert_eq!(states(&directors, silent(8)), expected(State::Amber));
        assert_eq!(states(&directors, silent(20)), expected(State::Lost));
        assert_eq!(directors.views(silent(20), false)[0].state, State::Unknown);
        directors.read(silent(21), WALL + 30, &[fact("fox", WALL + 3640)]);
        assert_eq!(states(&directors, silent(21)), expected(State::Healthy));
        assert_eq!(directors.views(silent(21), true)[0].since_s, 0, "it has just come back");
    }

    #[test]
    fn one_that_was_gone_before_we_came_is_lost_at_once_and_after_a_day_forgotten() {
        let now = Instant::now();
        let mut directors = Directors::new("owl", WALL, BEAT);
        let facts = [fact("fox", WALL - 1000), fact("elk", WALL - 100_000), fact("bad\u{7}", WALL)];
        let nonsense = Fact { name: "nonsense".into(), at: WALL, record: b"?".to_vec() };
        directors.read(now, WALL, &[&facts[..], &[nonsense]].concat());
        let expected = [("bad", State::Healthy), ("fox", State::Lost), ("owl", State::Healthy)];
        assert_eq!(states(&directors, now), expected.map(|(name, state)| (name.to_owned(), state)));
        let many: Vec<_> = (0..100).map(|n| fact(&format!("d{n}"), WALL)).collect();
        directors.read(now, WALL, &many);
        assert!(directors.views(now, true).len() <= MAX_DIRECTORS + 1);
        directors.read(now, WALL, &[]);
        assert_eq!(directors.views(now, true).len(), 1);
    }
}
