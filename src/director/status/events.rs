//! `/events`: the parts of the page that change, sent to whoever has it open (server-sent events).
//!
//! ```text
//! event: parts
//! data: {"sentence":"…","group-nodes":"<ul …"}     every part at first, then those that have changed
//! ```
//!
//! The time of the last look alone is sent every 15 seconds, which also keeps the line open. Nothing is kept for a
//! listener: one that reads slowly gets the newest when it comes to it, and is dropped when it takes nothing at all.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Body;
use super::limits::Place;

/// How often a listener hears at least.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// So long a line lasts; the browser makes a new one. What hangs somewhere ends with it.
const LIFETIME: Duration = Duration::from_secs(3600);
/// The part that changes all the time.
const CLOCK: &str = "updated";

/// The parts as they were rendered last.
pub(super) type Parts = Arc<BTreeMap<String, String>>;

struct Listener {
    parts: watch::Receiver<Parts>,
    known: Parts,
    first: bool,
    until: Instant,
    told: Instant,
    _place: Place,
}

/// A body that tells a listener what changes.
pub(super) fn body(parts: watch::Receiver<Parts>, place: Place) -> Body {
    let now = Instant::now();
    let listener = Listener {
        parts,
        known: Parts::default(),
        first: true,
        until: now + LIFETIME,
        told: now,
        _place: place,
    };
    let frames = stream::unfold(listener, |mut listener| async {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), listener))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Listener {
    /// The next thing to send; `None` when there is nothing more.
    async fn next(&mut self) -> Option<String> {
        if std::mem::take(&mut self.first) {
            // At once, so that the page knows that somebody is there; and after which time to come again.
            return Some("retry: 3000\n\n".into());
        }
        loop {
            if Instant::now() >= self.until {
                return None;
            }
            let newest = self.parts.borrow_and_update().clone();
            let clock_too = self.told.elapsed() >= HEARTBEAT;
            if let Some(event) = difference(&self.known, &newest, clock_too) {
                (self.known, self.told) = (newest, Instant::now());
                return Some(event);
            }
            tokio::select! {
                changed = self.parts.changed() => changed.ok()?,
                () = tokio::time::sleep_until(self.told + HEARTBEAT) => {
                    if self.known == *self.parts.borrow() {
                        self.told = Instant::now();
                        return Some(": still here\n\n".into());
                    }
                }
            }
        }
    }
}

/// The parts of `newest` that are not as they were, as an event. JSON has no line breaks of its own.
fn difference(known: &Parts, newest: &Parts, clock_too: bool) -> Option<String> {
    let changed: BTreeMap<_, _> = newest.iter().filter(|(id, html)| known.get(*id) != Some(html)).collect();
    if changed.is_empty() || (!clock_too && changed.keys().all(|id| *id == CLOCK)) {
        return None;
    }
    serde_json::to_string(&changed).ok().map(|json| format!("event: parts\ndata: {json}\n\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::limits::Places;
    use super::*;

    fn parts(pairs: &[(&str, &str)]) -> Parts {
        Arc::new(pairs.iter().map(|(id, html)| ((*id).to_owned(), (*html).to_owned())).collect())
    }

    #[test]
    fn only_what_has_changed_is_sent_and_the_clock_alone_now_and_then() {
        let first = parts(&[("a", "1"), ("b", "line\nbreak"), (CLOCK, "5")]);
        assert_eq!(
            difference(&Parts::default(), &first, false).as_deref(),
            Some("event: parts\ndata: {\"a\":\"1\",\"b\":\"line\\nbreak\",\"updated\":\"5\"}\n\n")
        );
        assert_eq!(difference(&first, &first, true), None);
        let later = parts(&[("a", "1"), ("b", "line\nbreak"), (CLOCK, "6")]);
        assert_eq!(difference(&first, &later, false), None);
        assert!(difference(&first, &later, true).is_some());
        let news = parts(&[("a", "2"), ("b", "line\nbreak"), (CLOCK, "6")]);
        assert_eq!(
            difference(&first, &news, false).as_deref(),
            Some("event: parts\ndata: {\"a\":\"2\",\"updated\":\"6\"}\n\n")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_was_away_gets_the_newest_and_its_line_ends_one_day() {
        let sender = watch::Sender::new(parts(&[("a", "1")]));
        let places = Places::new(1, 1);
        let now = Instant::now();
        let mut listener = Listener {
            parts: sender.subscribe(),
            known: Parts::default(),
            first: true,
            until: now + LIFETIME,
            told: now,
            _place: places.take([127, 0, 0, 1].into()).unwrap(),
        };
        assert!(listener.next().await.unwrap().starts_with("retry"));
        assert!(listener.next().await.unwrap().contains("\"1\""));
        for n in 2..1000 {
            sender.send_replace(parts(&[("a", &n.to_string())]));
        }
        assert!(listener.next().await.unwrap().contains("\"999\""));
        assert_eq!(listener.next().await.as_deref(), Some(": still here\n\n"));
        let mut beats = 0;
        while listener.next().await.is_some() {
            beats += 1;
        }
        assert!(beats > 200 && now.elapsed() >= LIFETIME, "{beats}");
        drop(listener);
        assert_eq!(places.taken(), 0);
    }
}
