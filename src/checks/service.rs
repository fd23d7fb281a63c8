//! The shared cache: is it there, is it the one that was meant, does UDP get through to it, and does it
//! take what we are known by.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

use super::clock::Reading;
use super::web::{self, Fault, Untrusted};
use super::{CheckResult, LIMIT, ServiceSetup, in_time};
use crate::client::address::ServerAddress;
use crate::client::resolve::Resolver;
use crate::client::{self, PROVEN_WRONG, QuicAnswer};
use crate::token;

const NAME: &str = "service_name";
pub(super) const HTTPS: &str = "service_https";
const QUIC: &str = "service_quic";
pub(super) const ACCESS: &str = "service_access";
const TRUST: &str = "service_trust";
const ALL: [&str; 5] = [NAME, HTTPS, QUIC, ACCESS, TRUST];

/// More of that file is not read.
const MAX_MARKER: u64 = 1 << 20;

/// What was seen over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// It introduces itself as a node of ours.
    Node {
        enrols: bool,
    },
    /// Something else answers.
    Foreign(u16),
    Fault(Fault),
}

/// What becomes of a question that needs the right to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    NotAsked,
    Granted,
    /// It does not know us. With what it says.
    Refused {
        status: u16,
        why: String,
    },
    Busy,
    Odd(u16),
}

/// What we are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// By no token.
    Nobody,
    /// By one that runs out in so many seconds, or did.
    Token { left: i64 },
}

/// When there is none.
pub(super) fn none() -> Vec<CheckResult> {
    ALL.iter().map(|name| CheckResult::skipped(name, "No shared cache is used.")).collect()
}

/// The text of the file that says who was proven wrong; `None` when it does not answer.
pub(super) async fn marker(data_dir: &Path) -> Option<Vec<u8>> {
    let path = data_dir.join(PROVEN_WRONG);
    let read = move || {
        let mut text = Vec::new();
        if let Ok(file) = std::fs::File::open(path) {
            // What is read is what counts.
            let _ = file.take(MAX_MARKER).read_to_end(&mut text);
        }
        text
    };
    in_time(LIMIT, read).await
}

/// Looks at the service; `now` is in seconds since 1970.
pub(super) async fn look(setup: &ServiceSetup, now: u64) -> (Vec<CheckResult>, Option<Reading>) {
    let address = &setup.address;
    let found = match &address.resolver {
        Resolver::System => web::resolve(&address.host, address.port).await,
        other => web::resolve_by(other, &address.host, address.port).await,
    };
    if found.is_empty() {
        let why = "Its address is not known.";
        return (
            vec![
                CheckResult::failed(
                    NAME,
                    format!("The name {} of the cache server leads nowhere.", address.host),
                    "See whether this computer is on the internet, and check the address (--cache-server). Until then \
                     everything comes from the grid.",
                ),
                CheckResult::skipped(HTTPS, why),
                CheckResult::skipped(QUIC, why),
                CheckResult::skipped(ACCESS, why),
            ],
            None,
        );
    }
    let Seen { quic, face, access, ahead } = see(setup, &found).await;
    let known = match setup.token.as_ref().and_then(|token| token::unverified_expiry(token.reveal())) {
        Some(expires) => {
            let left = i64::try_from(expires).unwrap_or(i64::MAX).saturating_sub_unsigned(now);
            Known::Token { left: left.saturating_sub(ahead.unwrap_or(0)) }
        }
        None if setup.token.is_some() => Known::Token { left: i64::MAX },
        None => Known::Nobody,
    };
    let results = vec![
        CheckResult::ok(
            NAME,
            format!("The {} {} leads to the cache server.", web::word_for(&address.host), address.host),
        ),
        judge_face(address, &face),
        judge_quic(quic, &face),
        judge_access(&face, &access, known),
    ];
    (results, ahead.map(|ahead| Reading { who: address.host.clone(), ahead }))
}

/// What was seen of a service that has an address.
pub(super) struct Seen {
    pub(super) quic: Option<QuicAnswer>,
    pub(super) face: Face,
    pub(super) access: Access,
    /// By how many seconds its clock is ahead.
    pub(super) ahead: Option<i64>,
}

pub(super) async fn see(setup: &ServiceSetup, found: &[SocketAddr]) -> Seen {
    let address = &setup.address;
    let quic = async {
        if address.tls {
            let first = *found.first()?;
            Some(client::probe_quic(address, first).await.unwrap_or(QuicAnswer::Failed))
        } else {
            None
        }
    };
    let web = async {
        let (face, ahead) = introduction(address, found).await;
        let access = match face {
            Face::Node { .. } => access(setup, found).await,
            _ => Access::NotAsked,
        };
        (face, access, ahead)
    };
    let (quic, (face, access, ahead)) = tokio::join!(quic, web);
    Seen { quic, face, access, ahead }
}

async fn ask(
    address: &ServerAddress,
    found: &[SocketAddr],
    request: Request<Full<Bytes>>,
) -> Result<web::Answer, Fault> {
    let stream = web::connect(found).await?;
    let tls =
        if address.tls { Some(client::tls::config(&address.pins).map_err(|_| Fault::Tls)?) } else { None };
    web::ask(stream, &address.host, tls, request).await
}

async fn introduction(address: &ServerAddress, found: &[SocketAddr]) -> (Face, Option<i64>) {
    let Some(request) = web::get(&address.authority(), "/v1/service") else {
        return (Face::Fault(Fault::NotHttp), None);
    };
    match ask(address, found, request).await {
        Ok(answer) => {
            let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
            let enrols = said.as_ref().and_then(|said| said.get("enroll")?.as_bool());
            match (answer.status, enrols) {
                (200, Some(enrols)) => (Face::Node { enrols }, answer.ahead),
                (status, _) => (Face::Foreign(status), answer.ahead),
            }
        }
        Err(fault) => (Face::Fault(fault), None),
    }
}

/// Asks for nothing, which needs the right to ask.
async fn access(setup: &ServiceSetup, found: &[SocketAddr]) -> Access {
    let body = serde_json::json!({ "grid": "probe", "origin": null, "assets": [] }).to_string();
    let Some(mut request) = web::get(&setup.address.authority(), "/v1/lookup") else {
        return Access::NotAsked;
    };
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let secret = setup.address.tls || setup.address.is_loopback();
    if let Some(token) = setup.token.as_ref().filter(|_| secret) {
        let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.reveal().trim())) else {
            return Access::Refused { status: 401, why: "the token is no token".into() };
        };
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let request = request.map(|_| Full::new(Bytes::from(body)));
    match ask(&setup.address, found, request).await {
        Err(_) => Access::NotAsked,
        Ok(answer) => match answer.status {
            200 => Access::Granted,
            status @ (401 | 403) => {
                let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
                let why = said.as_ref().and_then(|said| said.get("detail")?.as_str()).unwrap_or_default();
                Access::Refused { status, why: why.chars().filter(|c| !c.is_control()).take(120).collect() }
            }
            429 | 503 => Access::Busy,
            other => Access::Odd(other),
        },
    }
}

fn judge_face(address: &ServerAddress, face: &Face) -> CheckResult {
    let meanwhile = "Until then everything comes from the grid.";
    let what = if address.tls { "HTTPS" } else { "HTTP" };
    let failed = |seen: String, advice: String| CheckResult::failed(HTTPS, seen, advice);
    match face {
        Face::Node { .. } => CheckResult::ok(HTTPS, format!("The cache server answers over {what}.")),
        Face::Foreign(status) => failed(
            format!("What answers at {address} is no cache server of this version (answer {status})."),
            format!(
                "Check the address (--cache-server), and ask its operator which version of rezcache it needs. {meanwhile}"
            ),
        ),
        Face::Fault(Fault::Refused) => failed(
            format!("The cache server does not run at {address}."),
            format!("Ask its operator whether it is up, and check the address (--cache-server). {meanwhile}"),
        ),
        Face::Fault(Fault::Unreachable | Fault::Silent) => failed(
            format!("The cache server at {address} does not answer in time."),
            format!(
                "See whether this computer is on the internet, and ask its operator whether it is up. {meanwhile}"
            ),
        ),
        Face::Fault(Fault::Untrusted(Untrusted::Pin)) => failed(
            "The cache server does not have the key that its address names (pin).".into(),
            format!(
                "Get its address anew from its operator: it may have a new key, or somebody else answers in its place. {meanwhile}"
            ),
        ),
        Face::Fault(Fault::Untrusted(Untrusted::Time)) => failed(
            "The certificate of the cache server is not believed: its time is over or has not come.".into(),
            format!("See whether this computer's clock is right. If it is, tell the operator. {meanwhile}"),
        ),
        Face::Fault(Fault::Untrusted(_)) => failed(
            "The certificate of the cache server is not believed.".into(),
            format!(
                "Use the whole address that its operator gives, with #pin=… at the end if there is one. {meanwhile}"
            ),
        ),
        Face::Fault(Fault::Tls | Fault::NotHttp) => failed(
            format!("What answers at {address} is no cache server: it does not speak {what}."),
            format!(
                "Check the address (--cache-server): it may need http in place of https, or the other way round. {meanwhile}"
            ),
        ),
    }
}

pub(super) fn judge_quic(quic: Option<QuicAnswer>, face: &Face) -> CheckResult {
    let Some(quic) = quic else {
        return CheckResult::skipped(QUIC, "Over plain HTTP there is no QUIC.");
    };
    let there = matches!(face, Face::Node { .. });
    match quic {
        QuicAnswer::Works => CheckResult::ok(QUIC, "The cache server answers over QUIC, the fast way."),
        _ if !there => CheckResult::skipped(QUIC, "The cache server could not be reached."),
        QuicAnswer::Silent => CheckResult::warning(
            QUIC,
            "UDP to the cache server is blocked: it answers over HTTPS, but not over QUIC.",
            "It works, only slower. Let rezcache out over UDP in your firewall or router; in a school or a hotel that may not \
             be possible.",
        ),
        QuicAnswer::NoEndpoint => CheckResult::warning(
            QUIC,
            "This computer gives rezcache no UDP port for QUIC.",
            "It works, only slower. Allow rezcache to use UDP in your firewall or security program.",
        ),
        QuicAnswer::OtherLanguage => CheckResult::warning(
            QUIC,
            "The cache server speaks another version of rezcache's language over QUIC.",
            "Ask its operator which version of rezcache it needs, and install that.",
        ),
        QuicAnswer::Untrusted => CheckResult::failed(
            QUIC,
            "What answers over QUIC does not have the cache server's key.",
            "Somebody may be in between: tell the operator, and go on without it (leave --cache-server out) until it is clear.",
        ),
        QuicAnswer::Failed => CheckResult::warning(
            QUIC,
            "A connection to the cache server over QUIC breaks off.",
            "It works over HTTPS, only slower. Tell its operator if it lasts.",
        ),
    }
}

fn judge_access(face: &Face, access: &Access, known: Known) -> CheckResult {
    let anew = "Get a new token from the operator, and name its file with --token-file.";
    match (access, known) {
        (Access::NotAsked, _) => CheckResult::skipped(ACCESS, "The cache server could not be asked."),
        (Access::Granted, Known::Token { left }) if left < 7 * 86_400 => {
            let when = match left / 3600 {
                ..=1 => "within two hours".to_owned(),
                hours => format!("in {hours} hours"),
            };
            CheckResult::warning(ACCESS, format!("Your token is taken, but it runs out {when}."), anew)
        }
        (Access::Granted, Known::Token { .. }) => {
            CheckResult::ok(ACCESS, "The cache server takes your token.")
        }
        (Access::Granted, Known::Nobody) => CheckResult::ok(ACCESS, "The cache server serves everybody."),
        (Access::Refused { status: 401, .. }, Known::Nobody)
            if matches!(face, Face::Node { enrols: true }) =>
        {
            CheckResult::ok(ACCESS, "The cache server takes new users in; the proxy does that by itself.")
        }
        (Access::Refused { .. }, Known::Nobody) => CheckResult::failed(
            ACCESS,
            "The cache server serves only those who have a token.",
            "Get a token from its operator, and name its file with --token-file.",
        ),
        (Access::Refused { .. }, Known::Token { left }) if left <= 0 => {
            CheckResult::failed(ACCESS, "Your token for the cache server has expired.", anew)
        }
        (Access::Refused { why, .. }, Known::Token { .. }) => {
            let said = if why.is_empty() { String::new() } else { format!(" It says: {why}.") };
            CheckResult::failed(ACCESS, format!("The cache server refuses your token.{said}"), anew)
        }
        (Access::Busy, _) => CheckResult::warning(
            ACCESS,
            "The cache server is busy, or you have asked it for much.",
            "Wait a while; meanwhile everything comes from the grid.",
        ),
        (Access::Odd(status), _) => CheckResult::failed(
            ACCESS,
            format!("The cache server does not understand what it is asked (answer {status})."),
            "Ask its operator which version of rezcache it needs, and install that.",
        ),
    }
}

/// `service` is what it is called where something is remembered of it; for `marker` see there.
pub(super) fn judge_trust(service: &str, data_dir: &Path, marker: Option<Vec<u8>>) -> CheckResult {
    let Some(marker) = marker else {
        let seen =
            format!("The file {PROVEN_WRONG} in the data folder {} does not answer.", data_dir.display());
        let advice = "See whether the disk or the network share of that folder is there and works, or choose another folder with \
                      --data-dir.";
        return CheckResult::failed(TRUST, seen, advice);
    };
    let text = String::from_utf8_lossy(&marker).into_owned();
    let about_it = |line: &&str| line.split(' ').next() == Some(service);
    let lines: Vec<&str> = text.lines().filter(about_it).collect();
    let advice = format!(
        "Tell its operator. Once it is put right, remove the file {PROVEN_WRONG} from the data folder, and start the proxy again."
    );
    if lines.iter().any(|line| !line.contains(' ')) {
        let seen = "The cache server has given bytes that differ from the grid's, and is not used any more.";
        return CheckResult::failed(TRUST, seen, advice);
    }
    if !lines.is_empty() {
        let seen = "The cache server and a host of the grid differ, so it is not asked for what comes from that host.";
        return CheckResult::warning(TRUST, seen, advice);
    }
    CheckResult::ok(TRUST, "The cache server has not been found to give wrong bytes.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checks::Outcome;

    const NODE: Face = Face::Node { enrols: false };

    fn refused() -> Access {
        Access::Refused { status: 401, why: "no".into() }
    }

    #[test]
    fn every_kind_of_access_has_its_own_word() {
        let token = Known::Token { left: 30 * 86_400 };
        let of = |face: &Face, access: &Access, known| judge_access(face, access, known).outcome;
        assert_eq!(of(&NODE, &Access::Granted, token), Outcome::Ok);
        assert_eq!(of(&NODE, &Access::Granted, Known::Token { left: 3600 }), Outcome::Warning);
        assert_eq!(of(&NODE, &Access::Granted, Known::Nobody), Outcome::Ok);
        assert_eq!(of(&Face::Node { enrols: true }, &refused(), Known::Nobody), Outcome::Ok);
        assert_eq!(of(&NODE, &refused(), Known::Nobody), Outcome::Failed);
        assert!(judge_access(&NODE, &refused(), Known::Token { left: -1 }).seen.contains("expired"));
        assert!(judge_access(&NODE, &refused(), token).seen.contains("refuses your token. It says: no."));
        assert_eq!(of(&NODE, &Access::Busy, token), Outcome::Warning);
        assert_eq!(of(&NODE, &Access::NotAsked, token), Outcome::Skipped);
    }

    #[test]
    fn blocked_udp_is_told_from_a_service_that_is_away() {
        assert_eq!(judge_quic(Some(QuicAnswer::Silent), &NODE).outcome, Outcome::Warning);
        assert_eq!(
            judge_quic(Some(QuicAnswer::Silent), &Face::Fault(Fault::Refused)).outcome,
            Outcome::Skipped
        );
        assert_eq!(judge_quic(Some(QuicAnswer::Works), &NODE).outcome, Outcome::Ok);
        assert_eq!(judge_quic(None, &NODE).outcome, Outcome::Skipped);
    }

    #[test]
    fn only_the_lines_about_this_service_count() {
        let of = |marker: Option<&str>| {
            let marker = marker.map(|marker| marker.as_bytes().to_vec());
            judge_trust("cache.example:8443", Path::new("data"), marker).outcome
        };
        assert_eq!(of(None), Outcome::Failed, "nothing is known");
        assert_eq!(of(Some("")), Outcome::Ok);
        assert_eq!(of(Some("other.example:8443\ncache.example:84433\n")), Outcome::Ok);
        assert_eq!(of(Some("cache.example:8443 grid.example sim.example\n")), Outcome::Warning);
        assert_eq!(of(Some("\ncache.example:8443\n")), Outcome::Failed);
    }
}
