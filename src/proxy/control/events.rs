//! `/events`: the parts of the page that change, sent to whoever has it open (server-sent events).
//!
//! ```text
//! event: parts
//! data: {"figures":"<div …","scene":"…"}      every part at first, then those that have changed
//!
//! : still here                                every 15 s in which nothing has
//! ```
//!
//! The page is rendered once a second for all listeners together, and not at all without one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::state::ControlState;
use super::{body, text};
use crate::proxy::page;
use crate::proxy::upstream::Body;
use crate::support::metrics::Counter;

/// Listeners at a time: some tabs of a few people. The port takes 64 connections.
pub(super) const MAX_LISTENERS: usize = 16;
/// How often the page is rendered.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often a silent listener is told that we still are here; proxies and viewers cut silent lines.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The parts as they were rendered last; the same one is never published twice.
type Parts = Arc<BTreeMap<&'static str, String>>;

/// The one renderer and its listeners.
pub(super) struct Events {
    parts: watch::Sender<Parts>,
    places: Arc<Semaphore>,
    renderer: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.renderer.abort();
    }
}

impl Events {
    /// Begins to render as soon as somebody listens.
    pub(super) fn start(state: Arc<ControlState>) -> Self {
        let parts = watch::Sender::new(Parts::default());
        let publish = parts.clone();
        let renderer = tokio::spawn(async move {
            loop {
                if publish.receiver_count() > 0 {
                    let rendered: BTreeMap<_, _> = page::parts(&state.view()).into_iter().collect();
                    publish.send_if_modified(|known| {
                        let news = **known != rendered;
                        if news {
                            *known = Arc::new(rendered);
                        }
                        news
                    });
                }
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    () = state.acted.notified() => {}
                }
            }
        });
        Self { parts, places: Arc::new(Semaphore::new(MAX_LISTENERS)), renderer }
    }

    /// Answers a listener.
    pub(super) fn answer(&self, state: &ControlState) -> Response<Body> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            state.metrics.count(Counter::PageListenersRefused);
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open");
        };
        let listener =
            Listener { parts: self.parts.subscribe(), known: Parts::default(), first: true, _place: place };
        let frames = stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), listener))
        });
        let mut response = body(StatusCode::OK, "text/event-stream", String::new());
        *response.body_mut() = StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}

struct Listener {
    parts: watch::Receiver<Parts>,
    /// What it has been sent.
    known: Parts,
    first: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next thing to send; `None` when there is nothing more.
    async fn next(&mut self) -> Option<String> {
        if std::mem::take(&mut self.first) {
            // At once, so that the page knows that somebody is there; and after which time to come again.
            return Some("retry: 2000\n\n".into());
        }
        loop {
            let newest = self.parts.borrow_and_update().clone();
            if let Some(event) = difference(&self.known, &newest) {
                self.known = newest;
                return Some(event);
            }
            tokio::select! {
                changed = self.parts.changed() => changed.ok()?,
                () = tokio::time::sleep(HEARTBEAT) => return Some(": still here\n\n".into()),
            }
        }
    }
}

/// The parts of `newest` that are not as they were, as an event. JSON has no line breaks of its own.
fn difference(known: &Parts, newest: &Parts) -> Option<String> {
    let changed: BTreeMap<_, _> = newest.iter().filter(|(id, html)| known.get(*id) != Some(html)).collect();
    if changed.is_empty() {
        return None;
    }
    serde_json::to_string(&changed).ok().map(|json| format!("event: parts\ndata: {json}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_changed_is_sent() {
        let parts = |pairs: &[(&'static str, &str)]| -> Parts {
            Arc::new(pairs.iter().map(|(id, html)| (*id, (*html).to_owned())).collect())
        };
        let first = parts(&[("a", "1"), ("b", "line\nbreak")]);
        assert_eq!(
            difference(&Parts::default(), &first).as_deref(),
            Some("event: parts\ndata: {\"a\":\"1\",\"b\":\"line\\nbreak\"}\n\n")
        );
        assert_eq!(difference(&first, &first), None);
        let second = parts(&[("a", "2"), ("b", "line\nbreak")]);
        assert_eq!(difference(&first, &second).as_deref(), Some("event: parts\ndata: {\"a\":\"2\"}\n\n"));
    }
}
