//! The event queue's long poll: the one HTTP conversation that must never lose a reply.
//!
//! The simulator forgets events as it sends them, and viewers abandon polls (30 s) that
//! OpenSimulator holds for 58 s. So the poll toward the grid runs in a task of its own: when the
//! viewer leaves, it goes on; the viewer's next poll joins it, or finds the reply kept. A lost
//! reply would be a lost teleport, and a dropped connection or an early 502 stops the viewer's queue for good.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use hyper::body::Incoming;
use tokio::sync::watch;

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
pub(super) struct EventQueue(Mutex<State>);

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
}

struct Reply {
    parts: response::Parts,
    body: Bytes,
    id: Option<QueueId>,
}

/// More replies than this pile up only when the viewer is gone for good.
const MAX_KEPT: usize = 16;

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
    let mut asked_grid = false;
    loop {
        let (mut outcome, joined) = match alias.queue.take_or_join(&ack) {
            Next::Deliver(reply) => {
                // Another poll than this one had it asked for.
                if !asked_grid {
                    grid.shared.metrics.count(Counter::EventRepliesRedelivered);
                }
                return reply.response();
            }
            Next::Join(running) => (running, true),
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
                asked_grid = true;
                (running, false)
            }
        };
        let ended = match outcome.wait_for(Option::is_some).await {
            Ok(ended) => (*ended).clone(),
            Err(_) => Some(Outcome::Failed),
        };
        let patient = asked.elapsed() >= VIEWER_PATIENCE;
        match ended {
            Some(Outcome::Events) | None => {}
            // It answers a poll that the viewer gave up; for the viewer's present poll it comes too early.
            Some(Outcome::Other(reply)) if joined && !patient && reply.parts.status.is_server_error() => {}
            Some(Outcome::Other(reply)) => return reply.response(),
            Some(Outcome::Refused) => return replies::go_yourself(alias.url.reveal()),
            Some(Outcome::Failed) => {
                tokio::time::sleep(VIEWER_PATIENCE.saturating_sub(asked.elapsed())).await;
                return replies::plain(StatusCode::BAD_GATEWAY, "");
            }
        }
    }
}

enum Next {
    Deliver(Arc<Reply>),
    Join(watch::Receiver<Option<Outcome>>),
    Start(watch::Sender<Option<Outcome>>),
}

impl EventQueue {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take_or_join(&self, ack: &Ack) -> Next {
        let mut state = self.state();
        state.kept.retain(|kept| !kept.reply.answered_by(ack));
        if let Some(delivered) = state.delivered.take() {
            if delivered.reply.answered_by(ack) {
                state.viewer_acks = true;
            } else if state.viewer_acks && delivered.ack == *ack && delivered.reply.id.is_some() {
                // It asks once more for what follows the same reply: ours was lost on the way.
                return Next::Deliver(delivered.reply);
            }
        }
        if let Some(kept) = state.kept.pop_front() {
            state.delivered = Some(Kept { ack: ack.clone(), reply: Arc::clone(&kept.reply) });
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
            state.kept.push_back(Kept { ack: ack.clone(), reply });
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
        Ok(Err(UpstreamError::Refused)) => (Outcome::Refused, None),
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
