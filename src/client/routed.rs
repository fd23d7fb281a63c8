//! One request, at the node that is best for it, and at the next when that one fails: at once when it says so, and
//! when it says nothing, before whoever asked has waited for too long.

use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::found::Body;
use super::nodes::{NodeLink, Running};
use super::paced::{Pace, PacedBody};
use super::{Away, CallError, Face, Inner, QUIC_AWAY};
use crate::fetch::routing::RouteKey;
use crate::wire::frame::{Call, Reply};

/// Nodes that are asked for one request.
const MAX_TRIES: usize = 3;

/// What a call takes along.
pub(super) type Sent = Option<(Bytes, Option<Arc<dyn Pace>>)>;

/// A node's answer.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) body: Body,
    link: Arc<NodeLink>,
    /// To be kept while the body is read.
    pub(super) running: Running,
}

impl Inner {
    /// Asks, and once more where the service wants to know who asks.
    ///
    /// # Errors
    /// When no node gives an answer.
    pub(super) async fn call(
        &self,
        route: &RouteKey,
        patience: Duration,
        call: Call,
        body: Sent,
    ) -> Result<Answer, CallError> {
        self.call_beside(None, route, patience, call, body).await
    }

    /// The same, but not of this node.
    ///
    /// # Errors
    /// When no node gives an answer.
    pub(super) async fn call_beside(
        &self,
        beside: Option<SocketAddr>,
        route: &RouteKey,
        patience: Duration,
        call: Call,
        body: Sent,
    ) -> Result<Answer, CallError> {
        let is_attest = matches!(call, Call::Attest { .. });
        let token = self.credentials.current()?;
        let shown = token.as_ref().map_or("", |token| token.reveal().as_str());
        let answer = self.call_with((beside, route), patience, shown, &call, &body).await?;
        let Reply::Refused { status: 401, .. } = answer.reply else { return Ok(answer) };
        let recovered = self.credentials.recover(&answer.link.http, token.is_some()).await;
        // Why it has not, if somebody has said so, is worth more than that a token is needed.
        let again = self.credentials.current()?;
        if !recovered || is_attest {
            return Ok(answer);
        }
        drop(answer);
        let shown = again.as_ref().map_or("", |token| token.reveal().as_str());
        self.call_with((beside, route), patience, shown, &call, &body).await
    }

    async fn call_with(
        &self,
        (beside, route): (Option<SocketAddr>, &RouteKey),
        patience: Duration,
        token: &str,
        call: &Call,
        body: &Sent,
    ) -> Result<Answer, CallError> {
        self.nodes.known().await?;
        let mut tried: Vec<SocketAddr> = beside.into_iter().collect();
        // Those that were asked, as long as it is not known what comes of it.
        let mut asked: Vec<Option<Running>> = Vec::new();
        let mut answers = FuturesUnordered::new();
        let mut next = self.nodes.begin(route, &tried, false, patience);
        // A body takes the line: it is sent to a second node only when the first has failed.
        let may_move = body.is_none() && self.nodes.have_choice();
        // The last that was asked has not had its time yet.
        let mut waiting = true;
        // Those that have not let us in.
        let mut closed = 0;
        let mut outcome = Err(CallError::Unreachable);
        let mut last: Option<Arc<NodeLink>> = None;
        loop {
            if let Some((link, running)) = next.take() {
                let number = asked.len();
                tried.push(link.at);
                asked.push(Some(running));
                last = Some(Arc::clone(&link));
                waiting = true;
                answers.push(async move {
                    let answer = self.ask(&link, token, call, body).await;
                    (number, link, answer)
                });
            }
            let more = tried.len() < MAX_TRIES;
            let slow = async {
                match &last {
                    Some(link) if may_move && more => {
                        tokio::select! {
                            () = link.gone.notified() => true,
                            () = tokio::time::sleep(patience), if waiting => false,
                        }
                    }
                    _ => std::future::pending().await,
                }
            };
            let answer = tokio::select! {
                biased;
                answer = answers.next() => answer,
                gone = slow => {
                    waiting = false;
                    let gone = asked.last_mut().and_then(Option::as_mut).is_some_and(Running::late) || gone;
                    if gone || self.nodes.may_hedge() {
                        next = self.nodes.begin(route, &tried, true, patience);
                    }
                    continue;
                }
            };
            // Nobody is left who could answer.
            let Some((number, link, answer)) = answer else { return outcome };
            let Some(mut running) = asked.get_mut(number).and_then(Option::take) else { continue };
            match answer {
                Ok((reply @ Reply::Busy { retry_after_ms }, body)) => {
                    match call {
                        Call::Read { .. } | Call::Lookup { .. } => {
                            running.busy(Duration::from_millis(retry_after_ms.into()));
                        }
                        // Who has no time for uploads may still have it for readers.
                        Call::Attest { .. } | Call::Put { .. } => running.answered(),
                    }
                    outcome = Ok(Answer { reply, body, link, running });
                }
                // Something is wrong with this node, and it says so: the others may be well.
                Ok((reply @ Reply::Refused { status: 429 | 500.., retry_after_s, .. }, body)) => {
                    running.busy(Duration::from_secs(retry_after_s.into()));
                    outcome = Ok(Answer { reply, body, link, running });
                }
                // One node may be set up wrongly. When another says the same it is meant.
                Ok((reply @ Reply::Refused { status: 401 | 403, .. }, answer)) if may_move && closed == 0 => {
                    closed += 1;
                    running.heard();
                    outcome = Ok(Answer { reply, body: answer, link, running });
                }
                Ok((reply, body)) => {
                    if is_quick(call) {
                        running.answered()
                    } else {
                        running.heard()
                    }
                    return Ok(Answer { reply, body, link, running });
                }
                Err(error) if error.is_failure() => {
                    if error == CallError::Garbled {
                        running.wrong()
                    } else {
                        running.failed()
                    }
                    // That somebody is busy says more.
                    if outcome.is_err() {
                        outcome = Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            // While another is still being waited for, that one may do.
            if more && answers.is_empty() {
                next = self.nodes.begin(route, &tried, false, patience);
            }
        }
    }

    /// Asks one node, over whichever face works here.
    async fn ask(
        &self,
        link: &NodeLink,
        token: &str,
        call: &Call,
        body: &Sent,
    ) -> Result<(Reply, Body), CallError> {
        // Made anew for another try, which needs all of it again.
        let body = || body.clone().map(|(bytes, pace)| PacedBody::new(bytes, pace));
        let mut failed = None;
        if let (Face::Quic, Some(quic)) = (self.face(), &link.quic)
            && link.may_quic()
        {
            match quic.call(token, call.clone(), body).await {
                Ok((reply, stream)) => {
                    link.heard_quic();
                    self.quic_works();
                    return Ok((reply, Body::Quic(stream)));
                }
                // Others answer over QUIC: it is this node that does not.
                Err(CallError::Unreachable) if self.nodes.hear_quic_beside(link.at) => {
                    return Err(CallError::Unreachable);
                }
                Err(error @ (CallError::Unreachable | CallError::NoEndpoint)) => failed = Some(error),
                Err(other) => return Err(other),
            }
        }
        // Where there is no other node nothing else remains, whatever the reason.
        if failed.is_some() && (!self.nodes.have_other() || failed == Some(CallError::NoEndpoint)) {
            self.quic_failed(false);
        }
        let (reply, body) = link.http.call(token, call.clone(), body()).await?;
        // Either UDP is blocked here, or the node is gone, or there is something about the node: its other face tells
        // the first two apart, and another node the others.
        if failed.is_some() && self.nodes.heard_http_alone(link) {
            self.quic_failed(false);
        }
        Ok((reply, Body::Http(body)))
    }

    pub(super) fn face(&self) -> Face {
        if self.nodes.address().tls && self.away().until.is_none() { Face::Quic } else { Face::Http }
    }

    pub(super) fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the other face for a while. Of several calls that fail together only the first counts; what
    /// counts `again` is a try that was made to find out.
    pub(super) fn quic_failed(&self, again: bool) {
        let mut away = self.away();
        if away.until.is_some() && !again {
            return;
        }
        away.pause = (away.pause * 2).clamp(QUIC_AWAY[0], QUIC_AWAY[1]);
        away.until = Some(Instant::now() + away.pause);
    }

    pub(super) fn quic_works(&self) {
        *self.away() = Away::default();
    }
}

/// Whether what is answered to this in time says that reads are.
fn is_quick(call: &Call) -> bool {
    match call {
        Call::Read { .. } => true,
        // A probe.
        Call::Lookup { assets, .. } => assets.is_empty(),
        Call::Attest { .. } | Call::Put { .. } => false,
    }
}
