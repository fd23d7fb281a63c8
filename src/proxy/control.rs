//! The control port: the page, `/status.json` and `/metrics`. A port of its own, never
//! reverse-proxied, since a grid's pages share the origin of the grid ports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::guard;
use super::page;
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
    /// The grids by name, and where each listens.
    pub(crate) grids: Vec<(String, SocketAddr)>,
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
        let response = answer(request, local, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection to the control port ended early");
    }
}

fn answer<B>(request: Request<B>, local: SocketAddr, state: &ControlState) -> Response<Full<Bytes>> {
    let (parts, _) = request.into_parts();
    if let Err(refusal) = guard::check(&parts, local, false) {
        state.metrics.count(Counter::RequestsRefused);
        tracing::debug!(reason = refusal.label(), "a request to the control port was refused");
        return text(refusal.status(), &refusal.to_string());
    }
    let status = || Status::of(&state.metrics, state.started.elapsed());
    let found = match parts.uri.path() {
        "/" => {
            // Without inline scripts or styles of anyone else's: ours carry a number nobody can guess.
            let nonce = format!("{:032x}", rand::random::<u128>());
            let policy = format!(
                "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            );
            let mut response = body(
                StatusCode::OK,
                "text/html; charset=utf-8",
                page::render(&status(), &state.grids, &nonce),
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
