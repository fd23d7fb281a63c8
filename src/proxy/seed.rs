//! The seed capability: forwarded as it is, its reply rewritten so that assets and the event queue
//! come to us. The names asked for are never changed: OpenSimulator reads them as feature flags.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::grid_port::GridPort;
use super::registry::Alias;
use super::upstream::{Body, UpstreamError, full};
use super::{headers, replies};
use crate::support::metrics::Counter;

const MAX_CALL_BYTES: usize = 1 << 20;
const MAX_REPLY_BYTES: usize = 4 << 20;

/// Answers one request to a seed.
pub(super) async fn answer(
    grid: &Arc<GridPort>,
    alias: &Alias,
    uri: Uri,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(call) = replies::read_whole(body, MAX_CALL_BYTES).await else {
        return replies::plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    };
    match exchange(grid, alias, headers::toward_grid(parts, uri), call).await {
        Ok(response) => response,
        Err(UpstreamError::Refused | UpstreamError::Untrusted) => replies::go_yourself(alias.url.reveal()),
        // The viewer asks again by itself, up to 30 times.
        Err(_) => {
            grid.shared.metrics.count(Counter::UpstreamFailures);
            replies::plain(StatusCode::BAD_GATEWAY, "")
        }
    }
}

async fn exchange(
    grid: &GridPort,
    alias: &Alias,
    mut parts: http::request::Parts,
    call: Bytes,
) -> Result<Response<Body>, UpstreamError> {
    headers::forbid_compression(&mut parts.headers);
    let response = grid.upstream.send_fresh(Request::from_parts(parts, full(call))).await?;
    let (parts, body) = response.into_parts();
    let mut reply = replies::read_whole(body, MAX_REPLY_BYTES).await?;
    if parts.status == StatusCode::OK && headers::is_identity(&parts.headers) {
        reply = alias.session.rewrite_seed(reply).await;
    }
    let parts = headers::toward_viewer_whole(parts, reply.len());
    Ok(Response::from_parts(parts, full(reply)))
}
