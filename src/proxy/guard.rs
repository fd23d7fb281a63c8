//! Who may talk to our loopback ports: viewers, not web pages.
//!
//! Loopback is no trust boundary: any page in any browser can send requests there, directly or by
//! a name that resolves to loopback. Browsers mark theirs with `Origin` and `Sec-Fetch-Site`, and
//! put the name they were led by in `Host`; viewers send neither mark and our literal address.
//! hyper accepts the odd forms refused here (no `Host`, two of them, absolute-form, CONNECT).

use std::net::SocketAddr;

use http::header::{HOST, HeaderMap, ORIGIN};
use http::request::Parts;
use http::{Method, StatusCode};

/// Why a request is turned away. The text is for whoever sent it and says nothing about us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// `CONNECT`: this is no forward proxy.
    #[error("CONNECT is not served here")]
    Connect,
    /// The request line names a scheme or an authority.
    #[error("the request line must hold a path only")]
    AbsoluteForm,
    /// Not exactly one readable `Host`.
    #[error("exactly one Host header is needed")]
    HostCount,
    /// `Host` is not the address that this port listens on.
    #[error("this address must be used by its literal address and port")]
    ForeignHost,
    /// `Origin` is there: a web page's script or form.
    #[error("requests of web pages are not served here")]
    Origin,
    /// `Sec-Fetch-Site` says that another site caused the request.
    #[error("requests caused by other sites are not served here")]
    CrossSite,
}

impl Refusal {
    /// A fixed word for logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::AbsoluteForm => "absolute_form",
            Self::HostCount => "host_count",
            Self::ForeignHost => "foreign_host",
            Self::Origin => "origin",
            Self::CrossSite => "cross_site",
        }
    }

    /// The status to answer with.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Connect | Self::AbsoluteForm | Self::HostCount => StatusCode::BAD_REQUEST,
            Self::ForeignHost | Self::Origin | Self::CrossSite => StatusCode::FORBIDDEN,
        }
    }
}

/// Decides whether a request that came in on `local` is served.
///
/// With `allow_navigation`, a GET by which a browser opens a page in its own window passes although
/// another site led there: the grid's pages are reverse-proxied on the grid ports, and links lead to
/// them from anywhere. The page that holds the link cannot read the answer.
///
/// # Errors
/// The first rule that the request breaks.
pub(crate) fn check(parts: &Parts, local: SocketAddr, allow_navigation: bool) -> Result<(), Refusal> {
    check_form(parts, local)?;
    if parts.headers.contains_key(ORIGIN) {
        return Err(Refusal::Origin);
    }
    check_site(parts, allow_navigation)
}

/// The same for what our own page's script does, for which browsers name that page as the origin.
///
/// # Errors
/// The first rule that the request breaks.
pub(crate) fn check_own_page(parts: &Parts, local: SocketAddr) -> Result<(), Refusal> {
    check_form(parts, local)?;
    if parts.headers.contains_key(ORIGIN) {
        let origin =
            single(&parts.headers, ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://"));
        // The same spelling of our address, so that a page on `localhost` is not one on 127.0.0.1.
        if origin.is_none() || origin != single(&parts.headers, HOST.as_str()) {
            return Err(Refusal::Origin);
        }
    }
    check_site(parts, false)
}

/// Is it a request to a server, under a name of ours?
fn check_form(parts: &Parts, local: SocketAddr) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        return Err(Refusal::AbsoluteForm);
    }
    let host = single(&parts.headers, HOST.as_str()).ok_or(Refusal::HostCount)?;
    if !names(host, local) {
        return Err(Refusal::ForeignHost);
    }
    Ok(())
}

/// Was it caused by somebody else's page?
fn check_site(parts: &Parts, allow_navigation: bool) -> Result<(), Refusal> {
    let same_site = parts
        .headers
        .get_all("sec-fetch-site")
        .iter()
        .all(|value| matches!(value.as_bytes(), b"none" | b"same-origin"));
    if same_site || (allow_navigation && is_navigation(parts)) { Ok(()) } else { Err(Refusal::CrossSite) }
}

/// Whether a `Host` value is the address itself, or `localhost` with its port.
fn names(host: &str, local: SocketAddr) -> bool {
    // The usual case, decided without building texts to compare with. Numbers may be written in other
    // ways than ours, so only the way without leading zeros counts.
    if let (SocketAddr::V4(local), Some((_, port))) = (local, host.rsplit_once(':'))
        && port.starts_with(|first: char| matches!(first, '1'..='9'))
        && host.parse() == Ok(local)
    {
        return true;
    }
    let without_default_port = |name: &str| local.port() == 80 && host.eq_ignore_ascii_case(name);
    let ip = match local {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    [ip.as_str(), "localhost"].into_iter().any(|name| {
        without_default_port(name)
            || host
                .rsplit_once(':')
                .is_some_and(|(h, port)| h.eq_ignore_ascii_case(name) && port == local.port().to_string())
    })
}

/// A top-level page load: a frame inside somebody's page is none.
/// Source: W3C, Fetch Metadata Request Headers, sections 2.1 and 2.2.
fn is_navigation(parts: &Parts) -> bool {
    parts.method == Method::GET
        && single(&parts.headers, "sec-fetch-mode") == Some("navigate")
        && matches!(single(&parts.headers, "sec-fetch-dest"), Some("document"))
}

/// The value of a header that is there exactly once and is text.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Refusal, check, check_own_page};
    use http::Request;

    const LOCAL: &str = "127.0.0.1:9080";
    const OURS: (&str, &str) = ("host", LOCAL);

    fn verdict(line: &str, headers: &[(&str, &str)], allow_navigation: bool) -> Result<(), Refusal> {
        verdict_at(LOCAL, line, headers, allow_navigation)
    }

    fn verdict_at(local: &str, line: &str, headers: &[(&str, &str)], nav: bool) -> Result<(), Refusal> {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0, local.parse().unwrap(), nav)
    }

    #[test]
    fn our_literal_address_and_localhost_pass() {
        for host in [LOCAL, "localhost:9080", "LOCALHOST:9080"] {
            assert_eq!(verdict("GET /", &[("host", host)], false), Ok(()), "{host}");
        }
        assert_eq!(verdict_at("[::1]:9080", "GET /", &[("host", "[::1]:9080")], false), Ok(()));
        assert_eq!(verdict_at("127.0.0.1:80", "GET /", &[("host", "127.0.0.1")], false), Ok(()));
    }

    #[test]
    fn every_other_host_is_foreign() {
        for host in [
            "rebound.example:9080",
            "127.0.0.1",
            "127.0.0.1:9081",
            "127.0.0.1:09080",
            "127.0.0.2:9080",
            "127.0.0.1:9080.evil.example",
            "user@127.0.0.1:9080",
            "localhost.:9080",
            "[::ffff:127.0.0.1]:9080",
            "",
        ] {
            assert_eq!(verdict("GET /", &[("host", host)], true), Err(Refusal::ForeignHost), "{host:?}");
        }
    }

    #[test]
    fn host_must_be_there_once() {
        assert_eq!(verdict("GET /", &[], false), Err(Refusal::HostCount));
        assert_eq!(verdict("GET /", &[OURS, OURS], false), Err(Refusal::HostCount));
    }

    #[test]
    fn forward_proxy_forms_are_refused() {
        assert_eq!(verdict("CONNECT grid.example:443", &[OURS], true), Err(Refusal::Connect));
        assert_eq!(verdict("GET http://127.0.0.1:9080/", &[OURS], true), Err(Refusal::AbsoluteForm));
        assert_eq!(verdict("GET http://grid.example/", &[OURS], true), Err(Refusal::AbsoluteForm));
    }

    #[test]
    fn a_web_pages_requests_are_refused() {
        for origin in ["http://evil.example", "null", "http://127.0.0.1:9080"] {
            assert_eq!(verdict("POST /", &[OURS, ("origin", origin)], true), Err(Refusal::Origin));
        }
        for site in ["cross-site", "same-site", "None", ""] {
            let headers = [OURS, ("sec-fetch-site", site)];
            assert_eq!(verdict("GET /", &headers, true), Err(Refusal::CrossSite), "{site}");
        }
        let contradicting = [OURS, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")];
        assert_eq!(verdict("GET /", &contradicting, false), Err(Refusal::CrossSite));
    }

    #[test]
    fn our_own_page_s_script_passes_only_where_it_is_meant_to() {
        let own = |headers: &[(&str, &str)]| {
            let mut request = Request::builder().method("POST").uri("/uploads/pause");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            check_own_page(&request.body(()).unwrap().into_parts().0, LOCAL.parse().unwrap())
        };
        let site = ("sec-fetch-site", "same-origin");
        assert_eq!(own(&[OURS, site, ("origin", "http://127.0.0.1:9080")]), Ok(()));
        assert_eq!(own(&[("host", "localhost:9080"), ("origin", "http://localhost:9080"), site]), Ok(()));
        assert_eq!(own(&[OURS]), Ok(()), "curl");
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:9080",
            "https://127.0.0.1:9080",
            "http://127.0.0.1",
        ] {
            assert_eq!(own(&[OURS, ("origin", origin)]), Err(Refusal::Origin), "{origin}");
        }
        let twice = [OURS, ("origin", "http://127.0.0.1:9080"), ("origin", "http://evil.example")];
        assert_eq!(own(&twice), Err(Refusal::Origin));
        let elsewhere = [("host", "rebound.example:9080"), ("origin", "http://rebound.example:9080")];
        assert_eq!(own(&elsewhere), Err(Refusal::ForeignHost));
        assert_eq!(own(&[OURS, ("sec-fetch-site", "cross-site")]), Err(Refusal::CrossSite));
    }

    #[test]
    fn what_the_user_typed_and_our_own_pages_pass() {
        for site in ["none", "same-origin"] {
            assert_eq!(verdict("GET /", &[OURS, ("sec-fetch-site", site)], false), Ok(()));
        }
    }

    #[test]
    fn only_a_top_level_get_navigation_may_come_from_elsewhere_and_only_where_allowed() {
        let from = |mode, dest| {
            [OURS, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
        };
        let link = from("navigate", "document");
        assert_eq!(verdict("GET /welcome", &link, true), Ok(()));
        assert_eq!(verdict("GET /welcome", &link, false), Err(Refusal::CrossSite));
        assert_eq!(verdict("POST /", &link, true), Err(Refusal::CrossSite));
        for (mode, dest) in [("navigate", "iframe"), ("no-cors", "image"), ("cors", "document")] {
            assert_eq!(verdict("GET /", &from(mode, dest), true), Err(Refusal::CrossSite), "{mode} {dest}");
        }
    }
}
