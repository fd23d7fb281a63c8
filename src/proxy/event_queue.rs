//! The event queue's long poll: the one HTTP conversation that must never lose a reply.
//!
//! The simulator forgets events as it sends them, and viewers abandon polls (30 s) that
//! OpenSimulator holds for 58 s. So the poll toward the grid runs in a task of its own: when the
//! viewer leaves, it goes on; the viewer's next poll joins it, or finds the reply kept. A lost
//! reply would be a lost teleport, and a dropped connection or an early 502 stops the viewer's queue for good.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use hyper::body::Incoming;
use tokio::sync::{Notify, watch};

use super::grid_port::GridPort;
use super::headers;
use super::registry::Alias;
use super::replies;
use super::upstream::{Body, UpstreamError, full};
use crate::session::events::{self, Ack, QueueId};
use crate::support::metrics::Counter;

/// A poll is a handful of bytes; a reply is some hundred events at the most.
const MAX_POLL_BYTES: usize = 64 << 10;
const MAX_REPLY_BYTES: usize = 16 << 20;
/// Viewers take an error or an empty reply for a fault when it comes sooner.
const VIEWER_PATIENCE: Duration = Duration::from_secs(10);
/// No simulator holds a poll this long; afterwards it counts as failed.
const POLL_LIMIT: Duration = Duration::from_secs(300);

/// Polls in progress and replies not yet delivered, of one event queue capability.
#[derive(Default)]
pub(super) struct EventQueue {
    state: Mutex<State>,
    /// Something was kept.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Events that no viewer has taken yet, oldest first: viewers need them in the order they happened.
    kept: VecDeque<Kept>,
    /// The last events given to a viewer; given once more when its next poll shows that they never
    /// arrived.
    delivered: Option<Kept>,
    /// This viewer has acknowledged a reply by its id. One that never does cannot show a loss.
    viewer_acks: bool,
}

#[derive(Clone)]
struct Running {
    ack: Ack,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Clone)]
struct Kept {
    ack: Ack,
    reply: Arc<Reply>,
    redelivered: u32,
}

struct Reply {
    parts: response::Parts,
    body: Bytes,
    id: Option<QueueId>,
}

/// More replies than this pile up only when the viewer is gone for good.
const MAX_KEPT: usize = 16;

/// How often a reply is given again to a viewer that does not get it.
const MAX_REDELIVERIES: u32 = 3;

/// How a poll toward the grid ended.
#[derive(Clone)]
enum Outcome {
    /// Events; they are in `kept`.
    Events,
    /// Any other reply: nothing to say, or an error.
    Other(Arc<Reply>),
    /// The grid may not lead us there: the viewer goes itself.
    Refused,
    /// No reply.
    Failed,
}

/// Answers one poll of the viewer.
pub(super) async fn answer(
    grid: &Arc<GridPort>,
    alias: &Arc<Alias>,
    uri: http::Uri,
    request: Request<Incoming>,
) -> Response<Body> {
    let asked = Instant::now();
    let (parts, body) = request.into_parts();
    let Ok(poll) = replies::read_whole(body, MAX_POLL_BYTES).await else {
        return replies::plain(StatusCode::PAYLOAD_TOO_LARGE, "the poll is too large");
    };
    let ack = events::poll_ack(&poll).map_or(Ack::Missing, |poll| poll.ack);
    // The poll toward the grid that this request started, if it did.
    let mut mine: Option<watch::Receiver<Option<Outcome>>> = None;
    loop {
        // Listened for before looking, so that nothing kept in between is missed.
        let mut arrived = pin!(alias.queue.arrived.notified());
        arrived.as_mut().enable();
        let mut outcome = match alias.queue.take_or_join(&ack) {
            Next::Deliver(reply) => {
                // Another poll than this one had it asked for.
                if mine.is_none() {
                    grid.shared.metrics.count(Counter::EventRepliesRedelivered);
                }
                return reply.response();
            }
            Next::Join(running) => running,
            Next::Start(started) => {
                let running = started.subscribe();
                let request = headers::toward_grid(parts.clone(), uri.clone());
                tokio::spawn(poll_grid(
                    Arc::clone(grid),
                    Arc::clone(alias),
                    ack.clone(),
                    request,
                    poll.clone(),
                    started,
                ));
                mine = Some(running.clone());
                running
            }
        };
        let joined = !mine.as_ref().is_some_and(|mine| mine.same_channel(&outcome));
        let ended = tokio::select! {
            ended = outcome.wait_for(Option::is_some) => match ended {
                Ok(ended) => (*ended).clone(),
                Err(_) => Some(Outcome::Failed),
            },
            // Events that another poll had asked for: the viewer shall not wait for its own.
            () = arrived => continue,
        };
        let patient = asked.elapsed() >= VIEWER_PATIENCE;
        match ended {
            Some(Outcome::Events) | None => {}
            // It answers a poll that the viewer gave up; for the viewer's present poll it comes too early.
            Some(Outcome::Other(reply)) if joined && !patient && means_nothing_to_say(reply.parts.status) => {
            }
            Some(Outcome::Other(reply)) => return reply.response(),
            Some(Outcome::Refused) => return replies::go_yourself(alias.url.reveal()),
            Some(Outcome::Failed) => {
                tokio::time::sleep(VIEWER_PATIENCE.saturating_sub(asked.elapsed())).await;
                return replies::plain(StatusCode::BAD_GATEWAY, "");
            }
        }
    }
}

/// Source: viewer, newview/lleventpoll.cpp: Second Life says it with 499 too.
fn means_nothing_to_say(status: StatusCode) -> bool {
    status.is_server_error() || status.as_u16() == 499
}

enum Next {
    Deliver(Arc<Reply>),
    Join(watch::Receiver<Option<Outcome>>),
    Start(watch::Sender<Option<Outcome>>),
}

impl EventQueue {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take_or_join(&self, ack: &Ack) -> Next {
        let mut state = self.state();
        state.kept.retain(|kept| !kept.reply.answered_by(ack));
        if let Some(mut delivered) = state.delivered.take() {
            if delivered.reply.answered_by(ack) {
                state.viewer_acks = true;
            } else if delivered.ack == *ack && delivered.reply.id.is_some() {
                // It asks once more for what follows the same reply: ours was lost on the way. A viewer
                // that starts its queue anew asks so too, so that case is believed once only.
                let tries = match ack {
                    Ack::Id(_) if state.viewer_acks => MAX_REDELIVERIES,
                    Ack::Undef => 1,
                    _ => 0,
                };
                if delivered.redelivered < tries {
                    delivered.redelivered += 1;
                    let reply = Arc::clone(&delivered.reply);
                    state.delivered = Some(delivered);
                    return Next::Deliver(reply);
                }
            }
        }
        if let Some(kept) = state.kept.pop_front() {
            state.delivered = Some(Kept { ack: ack.clone(), reply: Arc::clone(&kept.reply), redelivered: 0 });
            return Next::Deliver(kept.reply);
        }
        if let Some(running) = &state.running
            && running.ack == *ack
        {
            return Next::Join(running.outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        state.running = Some(Running { ack: ack.clone(), outcome });
        Next::Start(sender)
    }

    fn ended(
        &self,
        ack: &Ack,
        outcome: Outcome,
        events: Option<Arc<Reply>>,
        sender: &watch::Sender<Option<Outcome>>,
    ) {
        let mut state = self.state();
        if state.running.as_ref().is_some_and(|running| running.outcome.same_channel(&sender.subscribe())) {
            state.running = None;
        }
        if let Some(reply) = events {
            if state.kept.len() >= MAX_KEPT {
                state.kept.pop_front();
            }
            state.kept.push_back(Kept { ack: ack.clone(), reply, redelivered: 0 });
            self.arrived.notify_waiters();
        }
        let _ = sender.send(Some(outcome));
    }
}

async fn poll_grid(
    grid: Arc<GridPort>,
    alias: Arc<Alias>,
    ack: Ack,
    parts: http::request::Parts,
    poll: Bytes,
    ended: watch::Sender<Option<Outcome>>,
) {
    let reply = tokio::time::timeout(POLL_LIMIT, exchange(&grid, &alias, parts, poll)).await;
    let (outcome, events) = match reply {
        Ok(Ok(reply)) => {
            let reply = Arc::new(reply);
            if reply.parts.status == StatusCode::OK {
                (Outcome::Events, Some(reply))
            } else {
                (Outcome::Other(reply), None)
            }
        }
        Ok(Err(UpstreamError::Refused | UpstreamError::Untrusted)) => (Outcome::Refused, None),
        Ok(Err(_)) | Err(_) => {
            grid.shared.metrics.count(Counter::UpstreamFailures);
            (Outcome::Failed, None)
        }
    };
    alias.queue.ended(&ack, outcome, events, &ended);
}

async fn exchange(
    grid: &GridPort,
    alias: &Alias,
    mut parts: http::request::Parts,
    poll: Bytes,
) -> Result<Reply, UpstreamError> {
    headers::forbid_compression(&mut parts.headers);
    let response = grid.upstream.send_fresh(Request::from_parts(parts, full(poll))).await?;
    let (parts, body) = response.into_parts();
    let mut body = replies::read_whole(body, MAX_REPLY_BYTES).await?;
    let mut id = None;
    if parts.status == StatusCode::OK && headers::is_identity(&parts.headers) {
        (body, id) = alias.session.rewrite_events(body).await;
    }
    Ok(Reply { parts, body, id })
}

impl Reply {
    /// Whether a poll with this acknowledgement comes from a viewer that has this reply.
    fn answered_by(&self, ack: &Ack) -> bool {
        matches!((&self.id, ack), (Some(id), Ack::Id(acked)) if id == acked)
    }

    fn response(&self) -> Response<Body> {
        let parts = headers::toward_viewer_whole(self.parts.clone(), self.body.len());
        Response::from_parts(parts, full(self.body.clone()))
    }
}
