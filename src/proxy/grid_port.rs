//! One grid's loopback HTTP port: what every request to it needs to know, and which part of the
//! proxy answers it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use super::arrivals::Arrivals;
use super::chronicle::Chronicle;
use super::next_urls::NextUrls;
use super::reach::{GridReach, OwnListeners};
use super::registry::{AliasToken, Registry};
use super::service::Slot;
use super::upstream::{Body, Upstream};
use super::{
    Dial, GridConfig, assets, event_queue, fetcher, grid_info, guard, login, replies, reverse, seed,
};
use crate::cache::LocalCache;
use crate::fetch::pace::GridPace;
use crate::fetch::savings::Remembered;
use crate::fetch::upload_pace::doubled;
use crate::grid::{GridId, Origin};
use crate::scenes::Visitor;
use crate::session::CapabilityClass;
use crate::support::metrics::{Counter, Metrics};
use crate::support::status::Status;

/// How long a login may wait for the grid's `get_grid_info` before the configured URI is used.
const GRID_INFO_PATIENCE: Duration = Duration::from_secs(5);
/// How long until a grid that did not answer is asked again, at first and at most.
const GRID_INFO_RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What all grids of one proxy share.
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) cache: LocalCache,
    /// What is remembered for the page.
    pub(super) chronicle: Arc<Chronicle>,
    pub(super) own: Arc<OwnListeners>,
    pub(super) dial: Arc<Dial>,
    pub(super) asset_token: String,
    pub(super) started: Instant,
    /// All grids' ports, those that were opened later too.
    pub(super) grids: RwLock<Vec<Weak<GridPort>>>,
    pub(super) stop: watch::Receiver<bool>,
    /// The shared cache, when one is used, and where what is learnt goes on to it.
    pub(super) service: Arc<Slot>,
    /// How long a request over LLUDP is held while the asset is looked for.
    pub(super) hold: Duration,
    /// Commands that the user types into chat are answered.
    pub(super) chat_commands: bool,
    /// Every session keeps a copy while it runs, and so does whoever is about to learn something.
    pub(super) session_alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Shared {
    /// Holds up the proxy's end, for a while, as long as it is kept. `None` when that has begun.
    pub(super) fn alive(&self) -> Option<mpsc::Sender<()>> {
        self.session_alive.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One grid and its port.
pub(super) struct GridPort {
    pub(super) config: GridConfig,
    pub(super) local: SocketAddr,
    pub(super) shared: Arc<Shared>,
    pub(super) reach: Arc<GridReach>,
    pub(super) upstream: Upstream,
    pub(super) aliases: Registry,
    pub(super) next_urls: NextUrls,
    pub(super) fetches: fetcher::Inflight,
    pub(super) arrivals: Arrivals,
    /// How fast the grid answers.
    pub(super) pace: Mutex<GridPace>,
    pub(super) identity: OnceLock<Identity>,
    pub(super) configured: Identity,
    pub(super) asset_host: Option<AssetHost>,
    /// Whether the grid has been asked who it is, whatever came of it.
    pub(super) asked: watch::Sender<bool>,
}

/// The grid owner's word on caching its assets, from the `rezcache` key of its grid information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Keep and share; the default.
    Share,
    /// Keep on the user's own machine only.
    Local,
    /// Keep nothing.
    Off,
}

impl Sharing {
    /// Reads the key's text; what we do not know is taken for the default.
    pub(super) fn of(text: Option<&str>) -> Self {
        match text.map(str::to_ascii_lowercase).as_deref() {
            Some("off") => Self::Off,
            Some("local") => Self::Local,
            _ => Self::Share,
        }
    }
}

/// Who the grid is, once it has told us or has had its chance to.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) id: GridId,
    pub(super) login_uri: Uri,
    /// The grid owner's word on caching.
    pub(super) sharing: Sharing,
}

/// Where an asset request would go, and what is known of it.
pub(super) struct AssetRoute {
    pub(super) uri: Uri,
    pub(super) origin: Origin,
    pub(super) identity: Identity,
    /// It came through a login, not through `VIEWERASSET`.
    pub(super) by_login: bool,
    /// Whose request it is, where that is known.
    pub(super) visitor: Option<Visitor>,
}

impl Identity {
    /// What the configuration alone says.
    pub(super) fn configured(config: &GridConfig) -> Self {
        let id = config.id.clone().or_else(|| GridId::from_login_uri(&config.uri));
        Self {
            id: id.unwrap_or_else(|| GridId::new(&config.name)),
            login_uri: config.uri.clone(),
            sharing: Sharing::Share,
        }
    }
}

/// The asset host of mode `VIEWERASSET`, as requests need it.
pub(super) struct AssetHost {
    /// Its URL without a slash at the end.
    base: String,
    origin: Origin,
}

impl AssetHost {
    pub(super) fn new(uri: &Uri) -> Self {
        let base = uri.to_string().trim_end_matches('/').to_owned();
        Self { base, origin: Origin::new(uri.host().unwrap_or_default()) }
    }
}

impl GridPort {
    /// The grid's identity, as far as it is known now.
    pub(super) fn identity(&self) -> Identity {
        self.identity.get().cloned().unwrap_or_else(|| self.configured_identity())
    }

    /// The grid's identity for a login, which may wait for the first time the grid is asked, not
    /// for any later one.
    pub(super) async fn identity_for_login(&self) -> Identity {
        let first = self.asked.subscribe();
        let first = async move { first.clone().wait_for(|asked| *asked).await.is_ok() };
        let _ = tokio::time::timeout(GRID_INFO_PATIENCE, first).await;
        self.identity()
    }

    /// Asks the grid who it is until it answers. A grid that is away is known by its configured URI
    /// meanwhile.
    pub(super) async fn identify(&self) {
        for asked in 1.. {
            let answer = tokio::time::timeout(GRID_INFO_PATIENCE, grid_info::identify(self)).await;
            if let Ok(Some(identity)) = answer {
                self.settle(identity);
            }
            self.asked.send_replace(true);
            if self.identity.get().is_some() {
                return;
            }
            tokio::time::sleep(doubled(asked, GRID_INFO_RETRY[0], GRID_INFO_RETRY[1])).await;
        }
    }

    /// The grid has said who it is. That is known before the queue is looked through: what comes in
    /// between is judged by it.
    fn settle(&self, identity: Identity) {
        let _ = self.identity.set(identity);
        self.tell_uploads();
    }

    /// Lets the upload queue know what the grid has said of itself.
    pub(super) fn tell_uploads(&self) {
        let Some(identity) = self.identity.get() else { return };
        let Some(uploads) = self.shared.service.uploads() else { return };
        if identity.id != self.configured.id {
            uploads.renamed(&self.configured.id, &identity.id);
        }
        // What waits since an earlier run, or since before the grid had its say.
        if identity.sharing != Sharing::Share {
            uploads.withdraw(&identity.id);
            uploads.withdraw(&self.configured.id);
        }
    }

    /// What the configuration alone says.
    pub(super) fn configured_identity(&self) -> Identity {
        self.configured.clone()
    }

    fn pace(&self) -> MutexGuard<'_, GridPace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The grid's median time to first byte.
    pub(super) fn median(&self) -> Option<Duration> {
        self.pace().median()
    }

    /// How long the grid usually takes for a body of this length.
    pub(super) fn usual(&self, bytes: u64) -> Duration {
        self.pace().usual(bytes)
    }

    /// The grid's first byte came after `took`.
    pub(super) fn note_first_byte(&self, took: Duration) {
        let known = {
            let mut pace = self.pace();
            pace.answered(took);
            Remembered::of(&pace)
        };
        if let Some(known) = known {
            self.shared.chronicle.note_pace(&self.identity().id, known);
        }
    }

    /// How the grid has been answering, in this run or in earlier ones.
    pub(super) fn remembered_pace(&self) -> Option<Remembered> {
        let known = Remembered::of(&self.pace());
        known.or_else(|| self.shared.chronicle.pace(&self.identity().id))
    }

    /// The grid sent a body.
    pub(super) fn note_body(&self, bytes: u64, took: Duration) {
        self.pace().delivered(bytes, took);
    }

    /// The grid's own URL for a path on this port.
    pub(super) fn grid_url(&self, path_and_query: &str) -> Option<Uri> {
        let scheme = self.config.uri.scheme_str().unwrap_or("http");
        let authority = self.config.uri.authority()?;
        format!("{scheme}://{authority}{path_and_query}").parse().ok()
    }

    /// This port's own URL.
    pub(super) fn own_url(&self) -> String {
        format!("http://{}/", self.local)
    }
}

/// Answers one request to a grid's port.
pub(super) async fn answer(grid: Arc<GridPort>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let ours = path == "/"
        || ["/cap/", "/asset/", "/login/", "/rezcache/"].iter().any(|prefix| path.starts_with(prefix));
    let (parts, body) = request.into_parts();
    if let Err(refusal) =
        guard::check(&parts, grid.local, !ours || parts.method == Method::GET && path == "/")
    {
        grid.shared.metrics.count(Counter::RequestsRefused);
        tracing::debug!(reason = refusal.label(), "a request was refused");
        return replies::refused(refusal);
    }
    let request = Request::from_parts(parts, body);
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();

    if target.starts_with("/cap/") {
        return capability(&grid, request, &target).await;
    }
    if let Some(rest) = target.strip_prefix("/asset/") {
        return asset_url(&grid, request, rest).await;
    }
    if let Some(token) = path.strip_prefix("/login/") {
        let Some(next_url) = grid.next_urls.get(token) else {
            return replies::plain(StatusCode::NOT_FOUND, "this login has expired; log in again");
        };
        return login::answer(&grid, next_url, request).await;
    }
    match (request.method(), path.as_str()) {
        (&Method::GET, "/rezcache/status.json") => {
            replies::json(&Status::of(&grid.shared.metrics, grid.shared.started.elapsed()))
        }
        (_, reserved) if reserved.starts_with("/rezcache/") => {
            replies::plain(StatusCode::NOT_FOUND, "not found")
        }
        (&Method::GET | &Method::HEAD, "/get_grid_info" | "/json_grid_info") => {
            grid_info::answer(&grid, request).await
        }
        (&Method::POST, "/") => {
            let uri = grid.identity_for_login().await.login_uri;
            login::answer(&grid, uri, request).await
        }
        _ => reverse::answer(&grid, request, &target).await,
    }
}

async fn capability(grid: &Arc<GridPort>, request: Request<Incoming>, target: &str) -> Response<Body> {
    let found =
        AliasToken::split_path(target).and_then(|(token, suffix)| Some((grid.aliases.get(token)?, suffix)));
    let Some((alias, suffix)) = found else {
        return replies::plain(StatusCode::NOT_FOUND, "this capability has expired; its session is over");
    };
    alias.session.touch();
    // Assets are asked by what the viewer appends; seed and event queue are URLs of their own, to which
    // some HTTP libraries add a slash.
    let suffix = if alias.class == CapabilityClass::Asset || suffix != "/" { suffix } else { "" };
    let Ok(uri) = format!("{}{suffix}", alias.url.reveal()).parse::<Uri>() else {
        return replies::plain(StatusCode::BAD_REQUEST, "not a URL");
    };
    match alias.class {
        CapabilityClass::Seed => seed::answer(grid, &alias, uri, request).await,
        CapabilityClass::EventQueue => event_queue::answer(grid, &alias, uri, request).await,
        CapabilityClass::Asset => {
            let identity = grid.identity();
            let visitor = Some(alias.session.visitor);
            let route = AssetRoute { uri, origin: alias.origin.clone(), identity, by_login: true, visitor };
            assets::answer(grid, route, request, suffix).await
        }
    }
}

/// Mode `VIEWERASSET`: `/asset/<token>/<grid>` stands for that grid's asset host.
async fn asset_url(grid: &Arc<GridPort>, request: Request<Incoming>, rest: &str) -> Response<Body> {
    let unknown =
        || replies::plain(StatusCode::NOT_FOUND, "no such asset host; see the start-up text for the URL");
    let Some((token, rest)) = rest.split_once('/') else { return unknown() };
    let name_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, suffix) = rest.split_at(name_end);
    // Compared as hashes, so that the time taken tells nothing of the token.
    if blake3::hash(token.as_bytes()) != blake3::hash(grid.shared.asset_token.as_bytes()) {
        grid.shared.metrics.count(Counter::RequestsRefused);
        return unknown();
    }
    let named = {
        let grids = grid.shared.grids.read().unwrap_or_else(PoisonError::into_inner);
        grids.iter().filter_map(Weak::upgrade).find(|grid| grid.config.name == name)
    };
    let Some(grid) = named else { return unknown() };
    let Some(host) = &grid.asset_host else { return unknown() };
    let Ok(uri) = format!("{}{suffix}", host.base).parse::<Uri>() else {
        return replies::plain(StatusCode::BAD_REQUEST, "not a URL");
    };
    let origin = host.origin.clone();
    // The asset host is the user's word, and so is whose assets it has: not what a grid says of itself.
    let identity = Identity { sharing: grid.identity().sharing, ..grid.configured_identity() };
    let route = AssetRoute { uri, origin, identity, by_login: false, visitor: None };
    assets::answer(&grid, route, request, suffix).await
}
