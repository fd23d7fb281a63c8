//! The login: forwarded byte for byte, its reply rewritten so that the circuit and the seed
//! capability come to us.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::grid_port::GridPort;
use super::upstream::{Body, UpstreamError, full};
use super::{headers, replies, udp};
use crate::session::grid_info;
use crate::session::login::{self, LoginFormat, LoginReply};
use crate::support::metrics::Counter;
use crate::xmlrpc::MethodCall;

/// A login call is a few kilobytes.
const MAX_CALL_BYTES: usize = 4 << 20;
/// A reply carries the inventory skeleton: several megabytes for old accounts.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Sends a login to `uri` and answers with the reply, rewritten if it was granted.
pub(super) async fn answer(grid: &Arc<GridPort>, uri: Uri, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(call) = replies::read_whole(body, MAX_CALL_BYTES).await else {
        return replies::plain(StatusCode::PAYLOAD_TOO_LARGE, "the login call is too large");
    };
    let mut parts = headers::toward_grid(parts, uri.clone());
    headers::forbid_compression(&mut parts.headers);
    let asked_as = LoginFormat::of_content_type(
        parts.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()),
    );
    match exchange(grid, parts, call, asked_as).await {
        Ok(response) => response,
        Err(UpstreamError::Refused) => replies::go_yourself(&uri.to_string()),
        Err(error) => {
            grid.shared.metrics.count(Counter::UpstreamFailures);
            tracing::warn!(grid = %grid.config.name, %error, "login did not reach the grid");
            replies::plain(
                StatusCode::BAD_GATEWAY,
                "rezcache cannot reach the grid's login service; is it up, and is its address right?",
            )
        }
    }
}

async fn exchange(
    grid: &Arc<GridPort>,
    parts: http::request::Parts,
    call: Bytes,
    format: LoginFormat,
) -> Result<Response<Body>, UpstreamError> {
    // Not every call to a login service is a login: this one names it.
    let asks_for_info = format == LoginFormat::XmlRpc
        && MethodCall::read(&call).is_some_and(|call| call.method == "get_grid_info");
    let response = grid.upstream.send_fresh(Request::from_parts(parts, full(call))).await?;
    let (parts, body) = response.into_parts();
    let reply = replies::read_whole(body, MAX_REPLY_BYTES).await?;
    let rewritten = if parts.status != StatusCode::OK || !headers::is_identity(&parts.headers) {
        None
    } else if asks_for_info {
        grid_info::rewrite_xmlrpc(&reply, &grid.own_url()).map(|info| info.body)
    } else {
        rewrite(grid, reply.clone(), format).await
    };
    let reply = rewritten.map_or(reply, Bytes::from);
    let parts = headers::toward_viewer_whole(parts, reply.len());
    Ok(Response::from_parts(parts, full(reply)))
}

async fn rewrite(grid: &Arc<GridPort>, reply: Bytes, format: LoginFormat) -> Option<Vec<u8>> {
    let metrics = Arc::clone(&grid.shared.metrics);
    // Megabytes of inventory are read; other sessions of this process go on meanwhile.
    let body = reply.clone();
    let read = tokio::task::spawn_blocking(move || LoginReply::read(&body, format)).await.ok()?;
    match read {
        LoginReply::Granted(grant) => {
            let rewritten = udp::open_session(grid, &grant, &reply, format, grid.shared.stop.clone());
            if rewritten.is_some() {
                metrics.count(Counter::LoginsGranted);
                tracing::info!(grid = %grid.config.name, "login granted, session open");
            } else {
                tracing::warn!(grid = %grid.config.name, "the grid's simulator is at an address it may not lead us to; the viewer goes there itself (see --grid-allow)");
            }
            rewritten
        }
        LoginReply::Indeterminate { next_url } => {
            metrics.count(Counter::LoginsOther);
            let next = next_url.reveal().parse::<Uri>().ok().filter(|uri| uri.authority().is_some())?;
            let stand_in = format!("{}{}", grid.own_url(), grid.next_urls.stand_in(next));
            login::rewrite_next_url(&reply, format, &stand_in)
        }
        LoginReply::Refused { .. } => {
            metrics.count(Counter::LoginsOther);
            None
        }
        LoginReply::Unreadable => {
            metrics.count(Counter::RepliesUnreadable);
            None
        }
    }
}
