//! What other starts of rezcache on the same data directory ask of the one that runs: which grids it serves
//! where, to serve another one, and to stay while they need it. For those who show the control token only.
//!
//! ```text
//!  GET  /run/state                        which grids, how many viewers and sessions
//!  POST /run/grids   {"name":…,"url":…}   serve this grid too (or as before); answers where
//!  POST /run/lease   Upgrade: …           101; we stay until this connection ends
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::{ControlState, body, guard, text};
use crate::grid::GridId;
use crate::proxy::GridConfig;
use crate::proxy::upstream::{Body, empty};
use crate::redact::Redacted;
use crate::support::metrics::Counter;
use crate::support::status::Status;

/// What a connection is turned into that keeps us running.
pub(crate) const LEASE_PROTOCOL: &str = "rezcache-lease";
/// More grids than anybody uses.
const MAX_GRIDS: usize = 64;
/// More viewers than a machine can run.
const MAX_LEASES: usize = 64;
const MAX_BODY_BYTES: usize = 64 << 10;

/// A grid that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServedGrid {
    /// Its name in our addresses.
    pub(crate) name: String,
    /// Its own login address.
    pub(crate) url: String,
    /// Where we serve it.
    pub(crate) listen: SocketAddr,
    /// Whether its asset host is known, so that `VIEWERASSET` can be used.
    pub(crate) assets: bool,
}

/// The answer of `/run/state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunState {
    /// Of this answer's form.
    pub(crate) version: u32,
    /// Of the program.
    pub(crate) rezcache: String,
    /// In the order in which they were opened.
    pub(crate) grids: Vec<ServedGrid>,
    /// Viewers that others have started and wait for.
    pub(crate) leases: usize,
    /// Sessions that are open.
    pub(crate) sessions: u64,
    /// Assets that were asked for so far.
    pub(crate) assets: u64,
}

/// The question of `/run/grids`: a grid as the user described it, and the port it should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GridWanted {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) listen: SocketAddr,
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) asset_host: Option<String>,
    #[serde(default)]
    pub(crate) central: bool,
}

impl GridWanted {
    /// The question for this grid.
    pub(crate) fn of(grid: &GridConfig, listen: SocketAddr) -> Self {
        Self {
            name: grid.name.clone(),
            url: grid.uri.to_string(),
            listen,
            allow: grid.allow.clone(),
            ca_file: grid.ca_file.clone(),
            asset_host: grid.asset_host.as_ref().map(ToString::to_string),
            central: grid.central,
        }
    }

    fn config(self) -> Result<GridConfig, &'static str> {
        let web = |text: &str| {
            let uri = text.parse::<http::Uri>().ok()?;
            let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
            let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            (scheme && plain).then_some(uri)
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:-[]".contains(&b);
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(fits) {
            return Err("the name is none for a grid");
        }
        if !self.listen.ip().is_loopback() {
            return Err("grids are served on loopback only");
        }
        let uri = web(&self.url).ok_or("the url is no web address")?;
        let asset_host = match &self.asset_host {
            Some(text) => Some(web(text).ok_or("the asset host is no web address")?),
            None => None,
        };
        Ok(GridConfig {
            name: self.name,
            uri,
            listen: self.listen,
            allow: self.allow,
            ca_file: self.ca_file,
            asset_host,
            central: self.central,
            id: None,
        })
    }
}

/// A grid to be opened, and whom to tell.
pub(crate) struct Opening {
    pub(crate) config: GridConfig,
    pub(crate) opened: oneshot::Sender<Result<ServedGrid, String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Leases {
    held: usize,
    /// Whoever runs the proxy has decided to end it.
    closed: bool,
}

/// What is served, and for whom we stay.
#[derive(Debug)]
pub(crate) struct Runs {
    grids: RwLock<Vec<ServedGrid>>,
    openings: mpsc::Sender<Opening>,
    leases: watch::Sender<Leases>,
    stopping: watch::Receiver<bool>,
}

/// Somebody needs us as long as this is kept.
struct Lease(Arc<Runs>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.leases.send_modify(|leases| leases.held = leases.held.saturating_sub(1));
    }
}

impl Runs {
    /// Nothing is served yet; what is to be opened comes out at the other end.
    pub(crate) fn new(stopping: watch::Receiver<bool>) -> (Arc<Self>, mpsc::Receiver<Opening>) {
        let (openings, asked) = mpsc::channel(4);
        let leases = watch::Sender::new(Leases::default());
        (Arc::new(Self { grids: RwLock::default(), openings, leases, stopping }), asked)
    }

    /// A grid's port is open.
    pub(crate) fn opened(&self, grid: ServedGrid) {
        self.grids.write().unwrap_or_else(PoisonError::into_inner).push(grid);
    }

    /// What is served.
    pub(crate) fn grids(&self) -> Vec<ServedGrid> {
        self.grids.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The served grid that viewers would take for the one at this address.
    pub(crate) fn same_place(&self, uri: &http::Uri) -> Option<ServedGrid> {
        let same = |grid: &ServedGrid| {
            grid.url.parse::<http::Uri>().is_ok_and(|other| {
                GridId::from_login_uri(&other) == GridId::from_login_uri(uri) && other.path() == uri.path()
            })
        };
        self.grids().into_iter().find(same)
    }

    /// A name for a grid that no other has.
    pub(crate) fn free_name(&self, wanted: &str) -> String {
        let grids = self.grids();
        let is_free = |name: &String| grids.iter().all(|grid| grid.name != *name);
        let numbered = (2..=MAX_GRIDS + 2).map(|number| format!("{wanted}-{number}"));
        std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).unwrap_or_else(|| wanted.to_owned())
    }

    /// How many others need us.
    pub(crate) fn leases(&self) -> usize {
        self.leases.borrow().held
    }

    /// Takes no more leases, if nobody holds one; whether that is so.
    pub(crate) fn close_if_unused(&self) -> bool {
        self.leases.send_if_modified(|leases| {
            leases.closed = leases.held == 0;
            leases.closed
        })
    }

    fn lease(self: &Arc<Self>) -> Result<Lease, &'static str> {
        let mut refused = None;
        self.leases.send_if_modified(|leases| {
            refused = match *leases {
                Leases { closed: true, .. } => Some("this rezcache is about to end; start another"),
                Leases { held: MAX_LEASES.., .. } => Some("too many viewers"),
                Leases { .. } => None,
            };
            leases.held += usize::from(refused.is_none());
            refused.is_none()
        });
        refused.map_or_else(|| Ok(Lease(Arc::clone(self))), Err)
    }
}

/// Whether the request shows the token. Compared as hashes, so that the time taken tells nothing of it.
fn shows(parts: &Parts, token: &Redacted<String>) -> bool {
    let shown =
        parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    shown.is_some_and(|shown| blake3::hash(shown.as_bytes()) == blake3::hash(token.reveal().as_bytes()))
}

/// Answers a request under `/run/`; gives back any other.
pub(super) async fn answer<B>(
    mut request: Request<B>,
    local: SocketAddr,
    state: &ControlState,
) -> Result<Response<Body>, Request<B>>
where
    B: hyper::body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(action) = request.uri().path().strip_prefix("/run/").map(str::to_owned) else {
        return Err(request);
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, request_body) = request.into_parts();
    if let Err(refusal) = guard::check(&parts, local, false) {
        state.metrics.count(Counter::RequestsRefused);
        return Ok(text(refusal.status(), &refusal.to_string()));
    }
    let Some(token) = &state.token else {
        return Ok(text(StatusCode::NOT_FOUND, "this rezcache has no token"));
    };
    if !shows(&parts, token) {
        state.metrics.count(Counter::RequestsRefused);
        return Ok(text(StatusCode::UNAUTHORIZED, "this needs the token of the file control-token"));
    }
    let method = if action == "state" { Method::GET } else { Method::POST };
    if parts.method != method {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} only"));
        if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
            response.headers_mut().insert(ALLOW, allowed);
        }
        return Ok(response);
    }
    Ok(match action.as_str() {
        "state" => json(&RunState {
            version: 1,
            rezcache: env!("CARGO_PKG_VERSION").into(),
            grids: state.runs.grids(),
            leases: state.runs.leases(),
            sessions: u64::try_from(state.metrics.sessions_open()).unwrap_or(0),
            assets: Status::of(&state.metrics, state.started.elapsed()).assets.requests,
        }),
        "grids" => match Limited::new(request_body, MAX_BODY_BYTES).collect().await {
            Ok(wanted) => serve_another(&state.runs, &wanted.to_bytes()).await,
            Err(_) => text(StatusCode::PAYLOAD_TOO_LARGE, "the description is too large"),
        },
        "lease" => grant(&state.runs, &parts, upgrade),
        _ => text(StatusCode::NOT_FOUND, "there is /run/state, /run/grids and /run/lease"),
    })
}

async fn serve_another(runs: &Runs, wanted: &[u8]) -> Response<Body> {
    let config = match serde_json::from_slice::<GridWanted>(wanted).map(GridWanted::config) {
        Ok(Ok(config)) => config,
        Ok(Err(wrong)) => return text(StatusCode::BAD_REQUEST, wrong),
        Err(_) => return text(StatusCode::BAD_REQUEST, "that is no description of a grid"),
    };
    if let Some(served) = runs.same_place(&config.uri) {
        return json(&served);
    }
    if runs.grids().len() >= MAX_GRIDS {
        return text(StatusCode::CONFLICT, "too many grids are served already");
    }
    let (opened, answer) = oneshot::channel();
    if runs.openings.send(Opening { config, opened }).await.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "this rezcache is about to end; start another");
    }
    match answer.await {
        Ok(Ok(served)) => json(&served),
        Ok(Err(why)) => text(StatusCode::CONFLICT, &why),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "this rezcache is about to end; start another"),
    }
}

/// Turns the connection into one that means nothing but that somebody is there.
fn grant(runs: &Arc<Runs>, parts: &Parts, upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    if parts.headers.get(UPGRADE).is_none_or(|value| value != LEASE_PROTOCOL) {
        return text(StatusCode::UPGRADE_REQUIRED, &format!("send Upgrade: {LEASE_PROTOCOL}"));
    }
    let lease = match runs.lease() {
        Ok(lease) => lease,
        Err(why) => return text(StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let mut stopping = runs.stopping.clone();
    tokio::spawn(async move {
        // Without the upgrade, and at its end, the lease goes.
        let _lease = lease;
        let held = async {
            let Ok(connection) = upgrade.await else { return };
            let mut connection = TokioIo::new(connection);
            let mut ignored = [0; 64];
            while connection.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
        };
        tokio::select! {
            () = held => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(LEASE_PROTOCOL));
    response
}

fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(json) => body(StatusCode::OK, "application/json", json + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written down"),
    }
}
