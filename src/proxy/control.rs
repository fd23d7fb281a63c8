//! The control port: the page and its events, `/status.json`, `/regions.json` and `/metrics`, and the actions. A
//! port of its own, never reverse-proxied, since a grid's pages share the origin of the grid ports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::upstream::{Body, full};
use super::{guard, page};
use crate::support::metrics::Counter;
use crate::support::prometheus;

mod actions;
mod events;
mod form;
pub(crate) mod runs;
mod state;

use actions::Action;
use events::Events;
pub(crate) use state::ControlState;
pub use state::{PageConfig, SelfTest};

mod join;

/// Without a timer hyper would hold a half-sent head, and an idle connection, for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A person and a few scrapers; what comes beyond waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// Serves until `shutdown` completes; connections still open then are cut.
pub(crate) async fn serve(listener: TcpListener, state: ControlState, shutdown: impl Future<Output = ()>) {
    let state = Arc::new(state);
    let events = Arc::new(Events::start(Arc::clone(&state)));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&state), Arc::clone(&events)));
                }
                Err(error) => {
                    // Out of file descriptors, usually: trying again at once would only spin.
                    tracing::warn!(%error, "the control port cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<ControlState>, events: Arc<Events>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let (state, events) = (Arc::clone(&state), Arc::clone(&events));
        async move {
            Ok::<_, Infallible>(match runs::answer(request, local, &state).await {
                Ok(answered) => answered,
                Err(request) if join::is_meant(&request) => join::answer(request, local, &state).await,
                Err(request) => answer(request, local, &state, &events).await,
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection to the control port ended early");
    }
}

async fn answer(
    request: Request<Incoming>,
    local: SocketAddr,
    state: &ControlState,
    events: &Events,
) -> Response<Body> {
    let (parts, sent) = request.into_parts();
    let path = parts.uri.path();
    let acts = Action::is_meant_by(path);
    let checked =
        if acts { guard::check_own_page(&parts, local) } else { guard::check(&parts, local, false) };
    if let Err(refusal) = checked {
        return refused(state, refusal);
    }
    if acts {
        return actions::answer(state, &parts, sent).await;
    }
    let gets = parts.method == Method::GET || parts.method == Method::HEAD;
    let found = match path {
        "/" => {
            let said = parts.uri.query().and_then(Action::said);
            let nonce = nonce();
            html(StatusCode::OK, page::render(&state.view(), said.as_ref(), &nonce), &nonce)
        }
        "/status.json" => json(&state.status()),
        "/regions.json" => json(&state.regions_json()),
        "/metrics" => body(StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::render(&state.metrics)),
        "/events" if parts.method == Method::GET => return events.answer(state),
        "/events" => text(StatusCode::OK, ""),
        _ => {
            let line = "there is /, /status.json, /regions.json, /events and /metrics";
            return text(StatusCode::NOT_FOUND, line);
        }
    };
    // hyper leaves out the body of an answer to HEAD.
    if gets {
        return found;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// Whether whoever sent this knows the control token.
fn shows_token(state: &ControlState, parts: &Parts) -> bool {
    let shown =
        parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Compared as hashes, so that the time taken tells nothing of the token.
    let hash = |text: &str| blake3::hash(text.as_bytes());
    shown.zip(state.token.as_ref()).is_some_and(|(shown, known)| hash(shown) == hash(known.reveal()))
}

fn unknown_token(state: &ControlState) -> Response<Body> {
    state.metrics.count(Counter::RequestsRefused);
    text(
        StatusCode::UNAUTHORIZED,
        "send the header `Authorization: Bearer TOKEN` with what the file control-token in the data directory holds",
    )
}

fn refused(state: &ControlState, refusal: guard::Refusal) -> Response<Body> {
    state.metrics.count(Counter::RequestsRefused);
    tracing::debug!(reason = refusal.label(), "a request to the control port was refused");
    text(refusal.status(), &refusal.to_string())
}

/// A number that nobody can guess: what is inline in a page and does not carry it is not run.
fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A page of ours.
fn html(status: StatusCode, page: String, nonce: &str) -> Response<Body> {
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri \
         'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let mut response = body(status, "text/html; charset=utf-8", page);
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    // With `no-referrer` browsers would send our own forms with `Origin: null`.
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string_pretty(value) {
        Ok(json) => body(StatusCode::OK, "application/json", json + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "this cannot be written down"),
    }
}

fn text(status: StatusCode, line: &str) -> Response<Body> {
    body(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn body(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in [
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
#[path = "control/tests.rs"]
mod tests;
