//! `POST /join`: a join line, pasted on the page or sent by a script that knows the control token. The line is
//! never said again, whatever comes of it.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use super::{ControlState, refused, shows_token, text, unknown_token};
use crate::proxy::guard;
use crate::proxy::lan::JoinError;
use crate::proxy::upstream::Body;

/// The path.
const PATH: &str = "/join";
/// Longer than any join line, wrapped by whatever mail program.
const MAX_BODY_BYTES: usize = 2 * crate::token::join::MAX_JOIN_LINE_BYTES;
/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a request brings a bare line; the page's form is one of the actions.
pub(super) fn is_meant<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    request.uri().path() == PATH
        && !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded")
}

/// Takes a join line in.
pub(super) async fn answer<B>(request: Request<B>, local: SocketAddr, state: &ControlState) -> Response<Body>
where
    B: hyper::body::Body<Error: std::error::Error + Send + Sync + 'static>,
{
    let (parts, body) = request.into_parts();
    if let Err(refusal) = guard::check_own_page(&parts, local) {
        return refused(state, refusal);
    }
    if parts.method != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "POST only");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !shows_token(state, &parts) {
        return unknown_token(state);
    }
    let Some(upload) = upload(&parts) else {
        return text(StatusCode::BAD_REQUEST, "say ?upload=yes or ?upload=no, or nothing");
    };
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    let Ok(Ok(whole)) = collected else {
        return text(StatusCode::BAD_REQUEST, "a join line comes as the body, and is shorter than that");
    };
    let Ok(line) = String::from_utf8(whole.to_bytes().into()) else {
        return text(StatusCode::BAD_REQUEST, "this is no join line");
    };
    let Some(lan) = state.lan.clone() else {
        return text(StatusCode::NOT_FOUND, "shared caches at home cannot be joined here");
    };
    let is_auto = lan.is_auto();
    match tokio::task::spawn_blocking(move || lan.join(&line, upload)).await {
        Ok(Ok(())) if is_auto => text(StatusCode::OK, "joined; the server is used as soon as it is found"),
        Ok(Ok(())) => text(
            StatusCode::OK,
            "remembered; start rezcache with --cache-server auto to have the server used",
        ),
        Ok(Err(error @ JoinError::Line(_))) => text(StatusCode::BAD_REQUEST, &error.to_string()),
        Ok(Err(error @ JoinError::Remember(_))) => text(StatusCode::CONFLICT, &error.to_string()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the join line could not be dealt with"),
    }
}

/// What the user says of uploads with it. `None`: something else.
fn upload(parts: &Parts) -> Option<Option<bool>> {
    match parts.uri.query() {
        None | Some("") => Some(None),
        Some("upload=yes") => Some(Some(true)),
        Some("upload=no") => Some(Some(false)),
        _ => None,
    }
}
