//! The control port: the page, `/status.json` and `/metrics`, and the actions on uploads. A port of its own, never
//! reverse-proxied, since a grid's pages share the origin of the grid ports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) mod runs;

use super::guard;
use super::page;
use super::uploads::UploadQueue;
use crate::redact::Redacted;
use crate::support::metrics::{Counter, Metrics};
use crate::support::prometheus;
use crate::support::status::Status;

/// Without a timer hyper would hold a half-sent head, and an idle connection, for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A person and a few scrapers; what comes beyond waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// What the control port shows.
#[derive(Clone, Debug)]
pub(crate) struct ControlState {
    /// The numbers.
    pub(crate) metrics: Arc<Metrics>,
    /// When this run began.
    pub(crate) started: Instant,
    /// What may be paused and limited.
    pub(crate) uploads: Option<Arc<UploadQueue>>,
    /// What whoever does so must know.
    pub(crate) token: Option<Redacted<String>>,
    /// What other starts of rezcache ask for.
    pub(crate) runs: Arc<runs::Runs>,
}

impl ControlState {
    /// The grids by name, and where each listens.
    fn served(&self) -> Vec<(String, SocketAddr)> {
        self.runs.grids().into_iter().map(|grid| (grid.name, grid.listen)).collect()
    }
}

/// Serves until `shutdown` completes; connections still open then are cut.
pub(crate) async fn serve(listener: TcpListener, state: ControlState, shutdown: impl Future<Output = ()>) {
    let state = Arc::new(state);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&state)));
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

async fn serve_connection(stream: TcpStream, state: Arc<ControlState>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let other = runs::answer(request, local, &state).await;
            Ok::<_, Infallible>(other.unwrap_or_else(|request| answer(request, local, &state)))
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

fn answer<B>(request: Request<B>, local: SocketAddr, state: &ControlState) -> Response<Full<Bytes>> {
    let (parts, _) = request.into_parts();
    let action = parts.uri.path().strip_prefix("/uploads/");
    let checked = match action {
        Some(_) => guard::check_own_page(&parts, local),
        None => guard::check(&parts, local, false),
    };
    if let Err(refusal) = checked {
        state.metrics.count(Counter::RequestsRefused);
        tracing::debug!(reason = refusal.label(), "a request to the control port was refused");
        return text(refusal.status(), &refusal.to_string());
    }
    if let Some(action) = action {
        return act(state, &parts, action);
    }
    let status = || Status::of(&state.metrics, state.started.elapsed());
    let found = match parts.uri.path() {
        "/" => {
            // Without inline scripts or styles of anyone else's: ours carry a number nobody can guess.
            let nonce = format!("{:032x}", rand::random::<u128>());
            let policy = format!(
                "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            );
            let mut response = body(
                StatusCode::OK,
                "text/html; charset=utf-8",
                page::render(&status(), &state.served(), state.uploads.is_some(), &nonce),
            );
            if let Ok(policy) = HeaderValue::from_str(&policy) {
                response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            }
            response
        }
        "/status.json" => match serde_json::to_string_pretty(&status()) {
            Ok(json) => body(StatusCode::OK, "application/json", json + "\n"),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the status cannot be written down"),
        },
        "/metrics" => body(StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::render(&state.metrics)),
        _ => return text(StatusCode::NOT_FOUND, "there is /, /status.json and /metrics"),
    };
    // hyper leaves out the body of an answer to HEAD.
    if parts.method == Method::GET || parts.method == Method::HEAD {
        return found;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

/// Pauses, resumes and limits uploads, for who knows the token.
fn act(state: &ControlState, parts: &Parts, action: &str) -> Response<Full<Bytes>> {
    let (Some(uploads), Some(token)) = (&state.uploads, &state.token) else {
        return text(StatusCode::NOT_FOUND, "nothing is uploaded");
    };
    if parts.method != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "POST only");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let shown =
        parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Compared as hashes, so that the time taken tells nothing of the token.
    let known = blake3::hash(token.reveal().as_bytes());
    if shown.is_none_or(|shown| blake3::hash(shown.as_bytes()) != known) {
        state.metrics.count(Counter::RequestsRefused);
        return text(
            StatusCode::UNAUTHORIZED,
            "send the header `Authorization: Bearer TOKEN` with what the file control-token in the data directory holds",
        );
    }
    match action {
        "pause" => uploads.pause(),
        "resume" => uploads.resume(),
        "limit" => {
            let rate = parts.uri.query().and_then(|query| query.strip_prefix("bytes_per_second="));
            match rate.map(str::parse::<u64>) {
                Some(Ok(0)) => uploads.set_limit(None),
                Some(Ok(rate @ 1000..)) => uploads.set_limit(Some(rate)),
                _ => {
                    let line = "say ?bytes_per_second=N with N at least 1000, or 0 for no limit";
                    return text(StatusCode::BAD_REQUEST, line);
                }
            }
        }
        _ => {
            return text(
                StatusCode::NOT_FOUND,
                "there is /uploads/pause, /uploads/resume and /uploads/limit",
            );
        }
    }
    text(StatusCode::OK, "done")
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    body(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn body(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
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
