//! One request to the status server.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, RETRY_AFTER,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};

use super::monitoring;
use super::{Body, Site, events, files, metrics, page, wall};
use crate::support::addresses::is_public;
use crate::support::prometheus;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// May be kept by whoever stands between for a moment, so that a crowd is one request.
const MOMENT: &str = "public, max-age=1";
/// Named by their hash.
const FOREVER: &str = "public, max-age=31536000, immutable";
const NOT_KEPT: &str = "no-store";
/// A picture older than this means that the director hangs.
const STALE: u64 = 15;

/// Scripts and styles are files of ours, and nothing else is let in.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers that reverse proxies add: such a request comes from the world, whoever brings it.
const FORWARDED: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-real-ip", "via", "cf-connecting-ip", "x-forwarded-host"];

pub(super) fn answer<B: hyper::body::Body>(
    request: &Request<B>,
    peer: IpAddr,
    site: &Site,
) -> Response<Body> {
    site.counters.requests.fetch_add(1, Ordering::Relaxed);
    if !site.has_patience(peer) {
        site.refuse();
        let mut response = text(StatusCode::TOO_MANY_REQUESTS, "too many requests; come again in a moment");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
        return response;
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        site.refuse();
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return closed(response);
    }
    // Nothing here takes one, and nobody waits for it.
    if !request.body().is_end_stream() {
        site.refuse();
        return closed(text(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body"));
    }
    let path = request.uri().path();
    match path {
        "/" => made(StatusCode::OK, HTML, MOMENT, site.shown().page.clone()),
        "/v1/status" => {
            let mut response = made(StatusCode::OK, JSON, MOMENT, site.shown().json.clone());
            // Other pages may show it.
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            headers.insert(
                HeaderName::from_static("cross-origin-resource-policy"),
                HeaderValue::from_static("cross-origin"),
            );
            response
        }
        "/events" => listen(request.method(), peer, site),
        "/healthz" => {
            let at = site.picture.borrow().at;
            if at.saturating_add(STALE) < wall() {
                return text(StatusCode::SERVICE_UNAVAILABLE, "stale");
            }
            text(StatusCode::OK, "ok")
        }
        "/icon.svg" | "/favicon.ico" => {
            made(StatusCode::OK, "image/svg+xml", "public, max-age=86400", files::ICON)
        }
        _ if path == files::STYLE_PATH.as_str() => {
            made(StatusCode::OK, "text/css; charset=utf-8", FOREVER, files::STYLE)
        }
        _ if path == files::SCRIPT_PATH.as_str() => {
            made(StatusCode::OK, "text/javascript; charset=utf-8", FOREVER, files::SCRIPT)
        }
        "/metrics" | "/monitoring" | "/monitoring/parts" => operators(request, peer, site),
        _ => {
            let sentence =
                "There is /, /v1/status, /events, /healthz, and for operators /monitoring and /metrics.";
            made(StatusCode::NOT_FOUND, HTML, NOT_KEPT, page::trouble("There is no such page", sentence))
        }
    }
}

fn operators<B>(request: &Request<B>, peer: IpAddr, site: &Site) -> Response<Body> {
    if !site.config.monitoring_public && !is_near(peer, request.headers()) {
        site.refuse();
        let sentence = "Operators look at this from the director's machine or its private network, by its IP address \
             and past any reverse proxy; or the setting monitoring_public opens it to everybody.";
        return made(StatusCode::FORBIDDEN, HTML, NOT_KEPT, page::trouble("This is for operators", sentence));
    }
    let (range, hours) = (monitoring::range(request.uri().query()), site.picture.borrow().node_hours);
    match request.uri().path() {
        "/metrics" => made(StatusCode::OK, prometheus::CONTENT_TYPE, NOT_KEPT, metrics::render(site)),
        "/monitoring" => {
            let page = monitoring::render(&site.config.service, &site.books, hours, range, wall());
            made(StatusCode::OK, HTML, NOT_KEPT, page)
        }
        _ => {
            let parts = monitoring::parts(&site.books, hours, range, wall());
            made(StatusCode::OK, JSON, NOT_KEPT, serde_json::to_vec(&parts).unwrap_or_default())
        }
    }
}

/// Whether a request comes from this machine or its private network, and was not brought from elsewhere.
fn is_near(peer: IpAddr, headers: &HeaderMap) -> bool {
    !is_public(peer) && !FORWARDED.iter().any(|name| headers.contains_key(*name)) && is_by_address(headers)
}

/// Whether the browser was told to go to an address. A name that leads here may be that of a web page elsewhere, whose
/// scripts could then read what is answered (DNS rebinding); a web server in front asks by a name too.
fn is_by_address(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
        return false;
    };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn listen(method: &Method, peer: IpAddr, site: &Site) -> Response<Body> {
    const STREAM: &str = "text/event-stream";
    if method == Method::HEAD {
        return made(StatusCode::OK, STREAM, NOT_KEPT, "");
    }
    let Some(place) = site.listeners.take(peer) else {
        site.refuse();
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open");
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return response;
    };
    let mut response = made(StatusCode::OK, STREAM, NOT_KEPT, "");
    // Reverse proxies are not to gather events.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    *response.body_mut() = events::body(site.parts.subscribe(), place);
    response
}

fn closed(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn text(status: StatusCode, line: &str) -> Response<Body> {
    made(status, TEXT, NOT_KEPT, format!("{line}\n"))
}

/// hyper leaves out the body of an answer to HEAD.
fn made(
    status: StatusCode,
    content_type: &'static str,
    kept: &'static str,
    content: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Full::new(content.into()).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(kept));
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_proxy_brings_is_not_near() {
        let headers = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8053"));
            if !name.is_empty() {
                headers.insert(name, HeaderValue::from_static("203.0.113.5"));
            }
            headers
        };
        for near in ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "fd00::1", "::ffff:127.0.0.1"] {
            assert!(is_near(near.parse().unwrap(), &headers("")), "{near}");
            for name in FORWARDED {
                assert!(!is_near(near.parse().unwrap(), &headers(name)), "{near} {name}");
            }
        }
        for far in ["203.0.113.5", "2001:db8::1", "::ffff:203.0.113.5"] {
            assert!(!is_near(far.parse().unwrap(), &headers("")), "{far}");
        }
    }

    #[test]
    fn what_comes_by_a_name_is_not_near() {
        let near = |hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            is_near("127.0.0.1".parse().unwrap(), &headers)
        };
        for host in
            ["127.0.0.1", "127.0.0.1:8053", "[::1]:8053", "192.168.1.5:80", "localhost:8053", "LocalHost"]
        {
            assert!(near(&[host]), "{host}");
        }
        for host in [
            "evil.example:8053",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "user@evil.example",
            ":80",
        ] {
            assert!(!near(&[host]), "{host}");
        }
        assert!(!near(&[]) && !near(&["127.0.0.1", "evil.example"]));
    }
}
