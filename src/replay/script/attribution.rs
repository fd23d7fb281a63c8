//! Whose exchange is whose: by the capability URLs that login, seed and event-queue replies named.

use std::collections::HashMap;

use uuid::Uuid;

use super::{Role, ScriptedExchange, Session};
use crate::asset::AssetKind;
use crate::asset::policy::{self, AssetQuery};
use crate::replay::http::{self, Exchange};
use crate::replay::markup;

/// Whose exchange is whose.
pub(super) fn attribute(exchanges: Vec<Exchange>) -> (Vec<Session>, Vec<ScriptedExchange>) {
    let mut sessions = Vec::new();
    let mut known: HashMap<String, (usize, Role)> = HashMap::new();
    let mut scripted: Vec<ScriptedExchange> = Vec::new();
    let mut by_client: HashMap<std::net::IpAddr, usize> = HashMap::new();
    // Where undecided logins go on, and where they began.
    let mut continued: HashMap<String, String> = HashMap::new();
    for mut exchange in exchanges {
        let url = url_of(&exchange);
        let found = longest_prefix(&known, &url);
        let granted = if found.is_none() { granted_login(&exchange) } else { None };
        let undecided = if found.is_none() { next_login(&exchange) } else { None };
        let login = || continued.get(&url).cloned().unwrap_or_else(|| url.clone());
        let (session, role) = if let Some(circuit_code) = granted {
            sessions.push(Session { login: login(), circuit_code });
            by_client.insert(exchange.client.ip(), sessions.len() - 1);
            (sessions.len() - 1, Role::Login)
        } else if let Some(next) = undecided {
            let begun = login();
            continued.insert(next, begun);
            (sessions.len(), Role::Login)
        } else if let Some((session, role)) = found {
            (
                session,
                if matches!(role, Role::Asset(_)) {
                    Role::Asset(asked_asset(&exchange.request))
                } else {
                    role
                },
            )
        } else {
            // A login that is refused before the one that is granted belongs to the latter.
            (by_client.get(&exchange.client.ip()).copied().unwrap_or(sessions.len()), Role::Other)
        };
        // What a simulator says to a poll that its viewer has given up, nobody hears.
        if role == Role::EventQueue && exchange.abandoned.is_some() {
            exchange.reply = None;
        }
        if matches!(role, Role::Login | Role::Seed | Role::EventQueue) {
            learn(&exchange, session, &mut known);
        }
        scripted.push(ScriptedExchange { exchange, session, role, counted: None });
    }
    let last = sessions.len().saturating_sub(1);
    scripted.iter_mut().for_each(|exchange| exchange.session = exchange.session.min(last));
    (sessions, scripted)
}

fn learn(exchange: &Exchange, session: usize, known: &mut HashMap<String, (usize, Role)>) {
    let Some(reply) = &exchange.reply else { return };
    let Ok(document) = std::str::from_utf8(&reply.response.body) else { return };
    for text in markup::texts(document) {
        let value = text.value();
        let Some(url) = value.starts_with("http://").then(|| markup::bare_url(&value)).flatten() else {
            continue;
        };
        let role = match text.key {
            "seed_capability" | "seed-capability" | "SeedCapability" => Role::Seed,
            "EventQueueGet" => Role::EventQueue,
            "ViewerAsset" | "GetTexture" | "GetMesh" | "GetMesh2" => Role::Asset(None),
            // The login goes on there.
            "next_url" => continue,
            _ => Role::Other,
        };
        let url = url.trim_end_matches('/');
        // A whole host, such as a map server's, is no capability.
        if url.contains('/') {
            known.entry(url.to_owned()).or_insert((session, role));
        }
    }
}

fn longest_prefix(known: &HashMap<String, (usize, Role)>, url: &str) -> Option<(usize, Role)> {
    let ends = url.match_indices(['/', '?']).map(|(at, _)| at).chain([url.len()]);
    ends.filter_map(|end| url.get(..end).and_then(|prefix| known.get(prefix))).next_back().copied()
}

fn granted_login(exchange: &Exchange) -> Option<u32> {
    let reply = exchange.reply.as_ref().filter(|_| exchange.request.method == "POST")?;
    let document = std::str::from_utf8(&reply.response.body).ok()?;
    let member = |name| markup::texts(document).find(|text| text.key == name && !text.raw.trim().is_empty());
    member("seed_capability")?;
    let code: i64 = member("circuit_code")?.value().parse().ok()?;
    // Servers that print it signed print half of the codes negative.
    u32::try_from(code).or_else(|_| i32::try_from(code).map(i32::cast_unsigned)).ok()
}

/// Where a login that is not decided yet goes on, without scheme.
fn next_login(exchange: &Exchange) -> Option<String> {
    let reply = exchange.reply.as_ref().filter(|_| exchange.request.method == "POST")?;
    let document = std::str::from_utf8(&reply.response.body).ok()?;
    let member = |name| markup::texts(document).find(|text| text.key == name && !text.raw.trim().is_empty());
    member("login").filter(|login| login.value() == "indeterminate")?;
    markup::bare_url(&member("next_url")?.value())
}

/// Whether a target is a page where a grid says who it is.
pub(crate) fn is_grid_info(target: &str) -> bool {
    matches!(target.split('?').next(), Some("/get_grid_info" | "/json_grid_info"))
}

/// Whether a request asks a login service who the grid is.
pub(crate) fn asks_for_grid_info(request: &http::Request) -> bool {
    let name = b"<methodName>get_grid_info</methodName>";
    request.method == "POST" && request.body.windows(name.len()).any(|part| part == name)
}

/// The login URL in a grid information, XML or JSON, without scheme; only over plain HTTP, which is
/// all that a stand-in speaks.
pub(super) fn named_login(info: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(info).ok()?;
    let json =
        || Some(serde_json::from_str::<serde_json::Value>(text).ok()?.get("login")?.as_str()?.to_owned());
    let login = markup::element(text, "login").map(str::to_owned).or_else(json)?;
    markup::bare_url(login.trim()).filter(|_| login.trim().starts_with("http://"))
}

/// Host and port as the client named them, lower case.
pub(crate) fn authority_of(exchange: &Exchange) -> String {
    match exchange.request.headers.get("host") {
        Some(host) if !host.is_empty() => markup::full_authority(host, exchange.server.port()),
        _ => exchange.server.to_string(),
    }
}

/// Host, path and query, without scheme.
pub(crate) fn url_of(exchange: &Exchange) -> String {
    format!("{}{}", authority_of(exchange), exchange.request.target)
}

/// The asset that a request such as `?texture_id=…` is for, when its stored bytes are wanted.
/// Everything else is the grid's own business.
pub(crate) fn asked_asset(request: &http::Request) -> Option<(AssetKind, Uuid)> {
    let (_, query) = request.target.split_once('?')?;
    let AssetQuery { kind, id } = AssetQuery::parse(query)?;
    let headers = &request.headers;
    let is_plain =
        headers.get("if-range").is_none() && policy::accepts(kind, headers.get("accept").map(str::as_bytes));
    is_plain.then_some((kind, id.0))
}
