//! Replies we make ourselves, and reading the grid's whole.

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::guard::Refusal;
use super::upstream::{Body, UpstreamError, empty, full};

/// A short plain reply.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    made(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

/// What a request gets that is none of a viewer's.
pub(super) fn refused(refusal: Refusal) -> Response<Body> {
    made(refusal.status(), "text/plain; charset=utf-8", refusal.to_string().into())
}

/// A value as JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => made(StatusCode::OK, "application/json", text.into()),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, ""),
    }
}

fn made(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Sends the viewer to the real URL, where it would have gone without us: viewers follow a 307
/// with method, body and Range kept.
pub(super) fn go_yourself(url: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(url) else {
        return plain(StatusCode::BAD_GATEWAY, "");
    };
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Reads a body whole, up to `limit` bytes.
pub(super) async fn read_whole(mut body: Incoming, limit: usize) -> Result<Bytes, UpstreamError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| UpstreamError::Failed("the reply broke off"))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(UpstreamError::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}
