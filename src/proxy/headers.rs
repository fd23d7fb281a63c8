//! Which headers pass between viewer and grid, and which belong to one connection only.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Uri, request, response};

/// Headers that describe one connection (RFC 9110, 7.6.1), not the message.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("te"),
    HeaderName::from_static("trailer"),
    HeaderName::from_static("upgrade"),
    // Answered here: the request's body is asked for when it is forwarded.
    http::header::EXPECT,
];

fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Framing is hyper's; nobody may have it dropped.
        .filter(|name| *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != HOST)
        .collect();
    // Removing one by one would move the last header into the gap: the order is kept as sent.
    let kept = std::mem::take(headers);
    headers.reserve(kept.keys_len());
    let mut current = None;
    for (name, value) in kept {
        // Further values of one name come without it.
        current = name.or(current);
        if let Some(name) = &current
            && !HOP_BY_HOP.contains(name)
            && !named.contains(name)
        {
            headers.append(name.clone(), value);
        }
    }
}

/// Turns a viewer's request head into one for `uri`: everything else stays as sent, in name,
/// order and value. No `X-Forwarded-For` is added: OpenSimulator believes it.
pub(super) fn toward_grid(mut parts: request::Parts, uri: Uri) -> request::Parts {
    strip_connection(&mut parts.headers);
    // hyper read the body by its chunks; a length beside them could only be a second opinion.
    if parts.headers.contains_key(TRANSFER_ENCODING) {
        parts.headers.remove(CONTENT_LENGTH);
    }
    if let Some(authority) = uri.authority()
        // Credentials in a URL are not part of the Host.
        && let Some(host) = authority.as_str().rsplit('@').next()
        && let Ok(host) = HeaderValue::from_str(host)
    {
        parts.headers.insert(HOST, host);
    }
    parts.uri = uri;
    parts.version = http::Version::HTTP_11;
    parts
}

/// Forgets a body that is not sent on: a length without it would make the grid wait.
pub(super) fn without_body(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
}

/// Asks for the bytes as they are: a compressed reply could be neither spliced nor sliced.
pub(super) fn forbid_compression(headers: &mut HeaderMap) {
    if headers.contains_key(http::header::ACCEPT_ENCODING) {
        headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Turns the grid's response head into one for the viewer.
pub(super) fn toward_viewer(mut parts: response::Parts) -> response::Parts {
    strip_connection(&mut parts.headers);
    parts.headers.remove(TRANSFER_ENCODING);
    parts.version = http::Version::HTTP_11;
    parts
}

/// The same for a body that was read whole, and perhaps rewritten.
pub(super) fn toward_viewer_whole(parts: response::Parts, body_bytes: usize) -> response::Parts {
    let mut parts = toward_viewer(parts);
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body_bytes));
    parts
}

/// Whether a body reads as it is. Some hosts put a media type into Content-Encoding; that is no
/// coding either.
pub(super) fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(http::header::CONTENT_ENCODING).iter().all(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').all(|coding| {
                let coding = coding.trim();
                coding.is_empty() || coding.eq_ignore_ascii_case("identity") || coding.contains('/')
            })
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{is_identity, toward_grid};

    #[test]
    fn only_the_connection_s_own_headers_stay_behind() {
        let request = http::Request::builder()
            .uri("/cap/x")
            .header("Host", "127.0.0.1:9080")
            .header("Connection", "keep-alive, X-Gone, Content-Length")
            .header("Keep-alive", "300")
            .header("X-Gone", "1")
            .header("Content-Length", "5")
            .header("X-SecondLife-UDP-Listen-Port", "13000")
            .body(())
            .unwrap();
        let parts = toward_grid(request.into_parts().0, "http://sim.example:9000/CAPS/1/".parse().unwrap());
        let names: Vec<_> = parts.headers.keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(names, ["host", "content-length", "x-secondlife-udp-listen-port"]);
        assert_eq!(parts.headers["host"], "sim.example:9000");
    }

    #[test]
    fn a_media_type_is_no_content_coding() {
        let with = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("content-encoding", value.parse().unwrap());
            is_identity(&headers)
        };
        assert!(with("identity") && with("binary/octet-stream") && is_identity(&http::HeaderMap::new()));
        assert!(!with("gzip") && !with("identity, br"));
    }
}
