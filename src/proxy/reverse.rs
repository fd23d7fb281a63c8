//! Every path that is not ours: the grid's pages and helpers, unchanged. OpenSimulator's login
//! service often shares its port with them.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::grid_port::GridPort;
use super::upstream::{Body, UpstreamError};
use super::{headers, replies};
use crate::support::metrics::Counter;

/// Forwards a request to the grid's own port.
pub(super) async fn answer(grid: &Arc<GridPort>, request: Request<Incoming>, target: &str) -> Response<Body> {
    let Some(uri) = grid.grid_url(target) else {
        return replies::plain(StatusCode::BAD_REQUEST, "not a URL");
    };
    match forward(grid, uri.clone(), request).await {
        Ok(response) => response,
        Err(UpstreamError::Refused) => replies::go_yourself(&uri.to_string()),
        Err(_) => replies::plain(
            StatusCode::BAD_GATEWAY,
            "rezcache cannot reach the grid; is it up, and is its address right?",
        ),
    }
}

/// Sends a request on as it is, and streams the reply back as it comes.
pub(super) async fn forward(
    grid: &GridPort,
    uri: Uri,
    request: Request<Incoming>,
) -> Result<Response<Body>, UpstreamError> {
    grid.shared.metrics.count(Counter::RequestsProxied);
    let (parts, body) = request.into_parts();
    let repeatable = parts.method == Method::GET && hyper::body::Body::is_end_stream(&body);
    let parts = headers::toward_grid(parts, uri);
    let sent = if repeatable {
        grid.upstream.send_idempotent(|| Request::from_parts(parts.clone(), super::upstream::empty())).await
    } else {
        grid.upstream.send_fresh(Request::from_parts(parts, body.map_err(Into::into).boxed_unsync())).await
    };
    let response = sent.inspect_err(|_| grid.shared.metrics.count(Counter::UpstreamFailures))?;
    let (parts, body) = response.into_parts();
    Ok(Response::from_parts(headers::toward_viewer(parts), body.map_err(Into::into).boxed_unsync()))
}
