#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

struct Rig {
    notices: Notices,
    now: Instant,
    /// Whether this director tells.
    telling: bool,
}

impl Rig {
    fn new() -> Self {
        Self { notices: Notices::new(NoticeRules::default()), now: Instant::now(), telling: true }
    }

    fn raise(&mut self, key: &str) {
        self.notices.raise(self.now, key, Severity::Critical, &format!("{key} is lost"));
    }

    fn clear(&mut self, key: &str) {
        self.notices.clear(self.now, key, &format!("{key} is back"));
    }

    /// Goes on by so many seconds, asking each second; the messages that came.
    fn pass(&mut self, seconds: u64) -> Vec<Vec<(String, What)>> {
        let mut messages = Vec::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let notices = self.notices.due(self.now, |_| self.telling);
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

#[test]
fn what_becomes_worse_is_told_again() {
    let mut rig = Rig::new();
    rig.notices.raise(rig.now, "store", Severity::Warning, "one node sees it");
    assert_eq!(rig.pass(10), [[told("store", What::Raised)]]);
    rig.notices.raise(rig.now, "store", Severity::Critical, "all see it");
    assert_eq!(rig.pass(10), [[told("store", What::Raised)]]);
    rig.notices.raise(rig.now, "store", Severity::Warning, "one node sees it");
    assert!(rig.pass(60).is_empty());
    assert_eq!(rig.notices.raised().next(), Some(("store", Severity::Critical, "one node sees it")));
    rig.clear("store");
    assert_eq!(rig.pass(700), [[told("store", What::Cleared)]]);
    // Anew, it begins as what it is.
    rig.notices.raise(rig.now, "store", Severity::Warning, "one node sees it");
    assert_eq!(rig.notices.raised().next().unwrap().1, Severity::Warning);
}

#[test]
fn who_takes_over_tells_what_the_other_may_not_have_told() {
    let mut rig = Rig { telling: false, ..Rig::new() };
    rig.raise("heron");
    assert!(rig.pass(300).is_empty());
    rig.raise("otter");
    rig.raise("lynx");
    assert!(rig.pass(20).is_empty());
    rig.clear("lynx");
    assert!(rig.pass(20).is_empty());
    rig.telling = true;
    rig.notices.take_over(rig.now, Duration::from_secs(120));
    // The heron was long ago: that was told.
    assert_eq!(rig.pass(60), [[told("lynx", What::Cleared), told("otter", What::Raised)]]);
    // What it has told itself it does not repeat.
    rig.notices.take_over(rig.now, Duration::from_secs(120));
    assert!(rig.pass(60).is_empty());
    rig.clear("otter");
    assert_eq!(rig.pass(60), [[told("otter", What::Cleared)]]);
}

#[test]
fn no_text_looks_like_more_than_one_line() {
    let mut rig = Rig::new();
    let text = format!("a\r\nBEGUN: b\u{2028}c\u{202e}d\0e {}", "ü".repeat(2000));
    rig.notices.raise(rig.now, "otter", Severity::Warning, &text);
    rig.now += Duration::from_secs(10);
    let notice = rig.notices.due(rig.now, |_| true).remove(0);
    assert!(notice.text.starts_with("a  BEGUN: b c d e üü"), "{}", notice.text);
    assert_eq!(notice.text.chars().count(), MAX_TEXT);
}
