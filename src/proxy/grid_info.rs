//! `get_grid_info`: what a viewer reads when the user adds the grid. It must name us as the login
//! service, or the login would bypass us, and keep everything else the grid says.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::grid_port::{GridPort, Identity, Sharing};
use super::upstream::{Body, UpstreamError, empty, full};
use super::{headers, replies};
use crate::grid::GridId;
use crate::session::grid_info::{self, GridInfo, GridInfoRewritten};
use crate::support::metrics::Counter;
use crate::xml::escape;

const MAX_INFO_BYTES: usize = 1 << 20;

/// Asks the grid who it is. `None` when it has not said: neither its information nor that it has none.
/// It may say later, and with it whether its assets may be shared.
pub(super) async fn identify(grid: &GridPort) -> Option<Identity> {
    let configured = grid.configured_identity();
    // Second Life has no such page.
    if matches!(configured.id.as_str(), "agni" | "aditi") {
        return Some(configured);
    }
    let uri = grid.grid_url("/get_grid_info")?;
    let request = || {
        let mut request = Request::new(empty());
        *request.uri_mut() = uri.clone();
        let host = uri.authority().map_or("", http::uri::Authority::as_str);
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    };
    let response = grid.upstream.send_idempotent(request).await.ok()?;
    let (parts, body) = response.into_parts();
    match parts.status {
        StatusCode::OK => {
            let body = replies::read_whole(body, MAX_INFO_BYTES).await.ok()?;
            Some(learn(grid, configured, &grid_info::read_xml(&body).ok()?))
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => Some(configured),
        // Busy, guarded, moved: no word of the grid's on anything.
        _ => None,
    }
}

fn learn(grid: &GridPort, configured: Identity, info: &GridInfo) -> Identity {
    let sharing = Sharing::of(info.rezcache.as_deref());
    // A full login URI says where to log in; only the grid's wish is left to learn.
    if grid.config.uri.path().len() > 1 {
        return Identity { sharing, ..configured };
    }
    let login_uri = info
        .login
        .as_deref()
        .and_then(|login| login.parse::<Uri>().ok())
        .filter(|uri| uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https")))
        .unwrap_or(configured.login_uri);
    let id = grid.config.id.clone().or_else(|| GridId::from_login_uri(&login_uri)).unwrap_or(configured.id);
    Identity { id, login_uri, sharing }
}

/// The document's two forms.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InfoFormat {
    Xml,
    Json,
}

/// Answers `/get_grid_info` and `/json_grid_info`.
pub(super) async fn answer(grid: &Arc<GridPort>, request: Request<Incoming>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let format = if parts.uri.path() == "/json_grid_info" { InfoFormat::Json } else { InfoFormat::Xml };
    let head_only = parts.method == Method::HEAD;
    let reply = ask(grid, parts, format).await.unwrap_or_else(|_| {
        // The grid is away, or has no such page: the viewer can add it all the same.
        let info = synthesise(grid, format);
        let mut response = Response::new(full(info.clone()));
        response.headers_mut().insert(http::header::CONTENT_LENGTH, info.len().into());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type(format)));
        response
    });
    if head_only { reply.map(|_| empty()) } else { reply }
}

/// What a viewer needs to add a grid that says nothing of itself.
fn synthesise(grid: &GridPort, format: InfoFormat) -> String {
    let (id, login) = (grid.configured_identity().id, grid.own_url());
    if matches!(id.as_str(), "agni" | "aditi") {
        return match format {
            InfoFormat::Xml => grid_info::second_life_xml(&id, &login),
            InfoFormat::Json => grid_info::second_life_json(&id, &login),
        };
    }
    let name = format!("{} (rezcache)", grid.config.name);
    match format {
        InfoFormat::Xml => format!(
            "<?xml version=\"1.0\"?><gridinfo><platform>OpenSim</platform><login>{}</login><gridname>{}</gridname></gridinfo>",
            escape(&login),
            escape(&name)
        ),
        InfoFormat::Json => {
            serde_json::json!({"platform": "OpenSim", "login": login, "gridname": name}).to_string()
        }
    }
}

const fn content_type(format: InfoFormat) -> &'static str {
    match format {
        InfoFormat::Xml => "application/xml",
        InfoFormat::Json => "application/json",
    }
}

async fn ask(
    grid: &GridPort,
    parts: http::request::Parts,
    format: InfoFormat,
) -> Result<Response<Body>, UpstreamError> {
    let target =
        parts.uri.path_and_query().map_or("/get_grid_info", http::uri::PathAndQuery::as_str).to_owned();
    let uri = grid.grid_url(&target).ok_or(UpstreamError::Failed("no grid address"))?;
    let mut parts = headers::toward_grid(parts, uri);
    parts.method = Method::GET;
    headers::without_body(&mut parts.headers);
    headers::forbid_compression(&mut parts.headers);
    let response = grid.upstream.send_idempotent(|| Request::from_parts(parts.clone(), empty())).await;
    let response = response.inspect_err(|_| grid.shared.metrics.count(Counter::UpstreamFailures))?;
    let (parts, body) = response.into_parts();
    let body = replies::read_whole(body, MAX_INFO_BYTES).await?;
    match parts.status {
        StatusCode::OK if headers::is_identity(&parts.headers) => {}
        StatusCode::NOT_MODIFIED => return Ok(Response::from_parts(headers::toward_viewer(parts), empty())),
        _ => return Err(UpstreamError::Failed("no grid information")),
    }
    let own_url = grid.own_url();
    let rewritten = match format {
        InfoFormat::Xml => grid_info::rewrite_xml(&body, &own_url).ok(),
        InfoFormat::Json => grid_info::rewrite_json(&body, &own_url),
    };
    // Unread, it would lead the viewer's login past us.
    let GridInfoRewritten { body: rewritten, .. } =
        rewritten.ok_or(UpstreamError::Failed("unreadable grid information"))?;
    let parts = headers::toward_viewer_whole(parts, rewritten.len());
    Ok(Response::from_parts(parts, full(rewritten)))
}
