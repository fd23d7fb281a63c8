//! The viewer-side proxy: a loopback HTTP port per grid, a loopback UDP port per simulator.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cache::{CacheConfig, LocalCache};
use crate::checks::{self, CheckResult, Setup};
use crate::grid::GridId;
use crate::redact::Redacted;
use crate::session::reach::AddressBlock;
use crate::support::counters_file;
use crate::support::metrics::{Counter, Metrics};

mod arrivals;
mod assets;
mod chat_commands;
mod chronicle;
pub(crate) mod control;
mod event_queue;
mod fetcher;
mod grid_info;
mod grid_port;
pub(crate) mod guard;
mod headers;
mod lan;
mod learn;
mod listener;
mod login;
mod next_urls;
mod page;
mod prewarm;
mod reach;
mod registry;
mod replies;
mod reverse;
mod seed;
pub mod self_test;
mod service;
mod stitched;
mod udp;
mod udp_assets;
mod underway;
mod uploads;
mod upstream;

use chronicle::Chronicle;
use control::ControlState;
use control::runs::{Opening, Runs, ServedGrid};
pub use control::{PageConfig, SelfTest};
use grid_port::{AssetHost, GridPort, Identity, Shared};
pub use lan::LanConfig;
use prewarm::Prewarm;
use reach::{GridReach, OwnListeners, Transport};
use service::{Bound, ServiceTier, Slot};
pub use service::{SPOT_CHECK, ServiceConfig};
pub use uploads::UploadConfig;
use uploads::UploadQueue;
use upstream::Upstream;

/// What to run.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The grids, each with a loopback HTTP port of its own.
    pub grids: Vec<GridConfig>,
    /// Where the page, `/status.json` and `/metrics` are served. `None`: nowhere.
    pub control: Option<SocketAddr>,
    /// Where the disk tier, the counters and the remembered ports live.
    pub data_dir: PathBuf,
    /// The most bytes the disk tier may take.
    pub cache_bytes: u64,
    /// The most bytes the memory tier may take.
    pub memory_bytes: u64,
    /// How long a request waits for the disk before it goes to the grid.
    pub disk_patience: Duration,
    /// What stands in the paths of mode `VIEWERASSET`: 32 hexadecimal digits, one per installation.
    pub asset_token: String,
    /// What the actions of the control port ask for: 32 hexadecimal digits, one per installation.
    /// `None`: there are no actions.
    pub control_token: Option<Redacted<String>>,
    /// The shared cache to use, if any.
    pub service: Option<ServiceConfig>,
    /// The servers of a household to look for, where no `service` is named.
    pub lan: Option<LanConfig>,
    /// How what comes from the grid is given to the shared cache. `None`: not at all. A household's servers
    /// are given what [`LanConfig`] says.
    pub uploads: Option<UploadConfig>,
    /// Commands that the user types into chat are answered.
    pub chat_commands: bool,
    /// How the page of the control port behaves.
    pub page: PageConfig,
    /// Other places to dial for these authorities and simulator endpoints (`host:port`); identity,
    /// policy and headers go by the name, only the packets go elsewhere. For replays and tests.
    pub dial: DialMap,
}

/// Name (`host:port`) → where it is dialled instead.
#[derive(Clone, Debug, Default)]
pub struct DialMap {
    /// HTTP authorities with their port, lower case.
    pub http: HashMap<String, SocketAddr>,
    /// Simulators' UDP endpoints.
    pub udp: HashMap<SocketAddr, SocketAddr>,
}

/// One grid.
#[derive(Clone, Debug)]
pub struct GridConfig {
    /// What the user calls it; also its name in `VIEWERASSET` paths.
    pub name: String,
    /// The login URI or the address of the grid, as the user gave it.
    pub uri: http::Uri,
    /// The loopback address of its HTTP port; port 0 takes any.
    pub listen: SocketAddr,
    /// Address blocks the grid may lead us to beyond the rule, in CIDR form.
    pub allow: Vec<String>,
    /// PEM file of additional trusted certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// The asset host of mode `VIEWERASSET`.
    pub asset_host: Option<http::Uri>,
    /// Whether one operator runs every asset host and simulator of this grid.
    pub central: bool,
    /// The identity to use instead of the login URI's authority.
    pub id: Option<GridId>,
}

/// A running proxy.
pub struct Proxy {
    grids: Vec<SocketAddr>,
    control: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Yields nothing, and ends with the last session.
    sessions: mpsc::Receiver<()>,
    /// How long the end waits for uploads.
    finish_uploads: Duration,
    runs: Arc<Runs>,
    /// What the self-test looks at.
    self_test: Arc<Setup>,
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listener could not be opened.
    #[error(
        "cannot listen on {address}: {source}; is another rezcache running? choose another port with --listen or --control"
    )]
    Listen {
        /// The address that was tried.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}: {source}; choose another with --data-dir")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration value cannot be used.
    #[error("{0}")]
    Config(String),
}

/// [`DialMap`] both ways.
#[derive(Debug, Default)]
struct Dial {
    map: DialMap,
    names: HashMap<SocketAddr, SocketAddr>,
}

impl Dial {
    fn new(map: DialMap) -> Self {
        let names = map.udp.iter().map(|(name, target)| (*target, *name)).collect();
        Self { map, names }
    }

    fn http_target(&self, host: &str, port: u16) -> Option<SocketAddr> {
        if self.map.http.is_empty() {
            return None;
        }
        self.map.http.get(&format!("{}:{port}", host.to_ascii_lowercase())).copied()
    }

    fn udp_target(&self, name: SocketAddr) -> SocketAddr {
        self.map.udp.get(&name).copied().unwrap_or(name)
    }

    fn udp_name(&self, target: SocketAddr) -> SocketAddr {
        self.names.get(&target).copied().unwrap_or(target)
    }
}

/// What [`ProxyConfig::disk_patience`] usually is: about what a simulator takes to answer at all.
/// Observed: OpenSimulator 0.9.2.2, 100 ms for an asset of any size.
pub const DISK_PATIENCE: Duration = Duration::from_millis(100);

/// How long [`Proxy::stop`] waits for requests and sessions to end.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

impl Proxy {
    /// Opens every listener and starts serving. Grids need not be reachable.
    ///
    /// # Errors
    /// When a port cannot be opened or the data directory cannot be used.
    pub async fn start(config: ProxyConfig) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::default());
        let mut setup = self_test::setup(&config, &[], None);
        setup.inside = true;
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| StartError::DataDir { path: config.data_dir.clone(), source })?;
        counters_file::restore(&config.data_dir, &metrics);
        let cache = open_cache(&config, &metrics);
        let chronicle =
            Arc::new(Chronicle::open(config.data_dir.clone(), Arc::clone(&metrics), cache.clone()));
        // What the user has just said goes before what was once set on the page.
        if let Some(bytes) = chronicle.settings().cache_bytes.filter(|_| !config.page.size_fixed) {
            cache.set_disk_bytes(bytes);
            chronicle.show_sizes();
        }

        let service = match config.service {
            Some(service) => {
                let tier = ServiceTier::new(service, &config.data_dir, cache.clone(), Arc::clone(&metrics));
                Some(Arc::new(tier.map_err(|error| StartError::Config(format!("cache service: {error}")))?))
            }
            None => None,
        };
        let uploads = match (&service, &config.uploads) {
            (Some(service), Some(uploads)) => {
                let folder = config.data_dir.join("uploads");
                let (service, cache) = (Arc::clone(service), cache.clone());
                let queue = UploadQueue::start(folder, uploads, service, cache, Arc::clone(&metrics));
                Some(Arc::new(queue.await))
            }
            _ => None,
        };
        let uploading = config.uploads.clone().unwrap_or_default();
        let slot = Arc::new(Slot::default());
        slot.put(Bound { tier: service.clone(), uploads, care: None });
        let mode = if config.lan.as_ref().is_some_and(|lan| lan.line.is_none()) {
            lan::Mode::Auto
        } else {
            lan::Mode::Later
        };
        let at_home = Arc::new(lan::Lan::new(config.data_dir.clone(), mode));
        let finish_uploads = config.uploads.map_or(Duration::ZERO, |uploads| uploads.finish);
        let (stop, stopping) = watch::channel(false);
        let (session_alive, sessions) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            metrics: Arc::clone(&metrics),
            cache,
            chronicle,
            own: Arc::new(OwnListeners::default()),
            dial: Arc::new(Dial::new(config.dial)),
            asset_token: config.asset_token,
            started: Instant::now(),
            grids: RwLock::default(),
            stop: stopping.clone(),
            service: slot,
            hold: config.disk_patience,
            chat_commands: config.chat_commands,
            session_alive: Mutex::new(Some(session_alive)),
        });
        let mut ports = Vec::new();
        for grid in config.grids {
            ports.push(open_grid(grid, &shared).await?);
        }
        let (runs, openings) = Runs::new(stopping.clone());
        let control = match config.control {
            Some(address) => Some(listen(address, &shared).await?),
            None => None,
        };

        setup.control = control.as_ref().and_then(|listener| listener.local_addr().ok());
        for (grid, (_, port)) in setup.grids.iter_mut().zip(&ports) {
            grid.listen = Some(port.local);
        }
        let mut proxy = Self {
            self_test: Arc::new(setup),
            grids: ports.iter().map(|(_, port)| port.local).collect(),
            control: control.as_ref().and_then(|listener| listener.local_addr().ok()),
            metrics: Arc::clone(&metrics),
            shared,
            stop,
            tasks: JoinSet::new(),
            sessions,
            finish_uploads,
            runs: Arc::clone(&runs),
        };
        if let Some(listener) = control {
            let shared = &proxy.shared;
            let (cache, chronicle) = (shared.cache.clone(), Arc::clone(&shared.chronicle));
            let mut state = ControlState::new(Arc::clone(&metrics), cache, chronicle, Arc::clone(&runs));
            state.prewarm = Some(Arc::new(Prewarm::new(Arc::clone(shared))));
            state.service = Arc::clone(&shared.service);
            state.lan = Some(Arc::clone(&at_home));
            state.token = config.control_token;
            state.page = config.page;
            if state.page.with_self_test {
                let setup = Arc::clone(&proxy.self_test);
                let cache = proxy.shared.cache.clone();
                let test = SelfTest::new(move || {
                    // The size may have been changed on the page.
                    let cache_bytes = cache.stats().disk_limit;
                    let setup = Setup { cache_bytes, ..Setup::clone(&setup) };
                    async move { checks::run(&setup).await }
                });
                state.page.self_test.get_or_insert(test);
            }
            proxy.tasks.spawn(control::serve(listener, state, stopped(stopping.clone())));
        }
        for (listener, port) in ports {
            serve_grid(&mut proxy.tasks, &runs, listener, port);
        }
        proxy.tasks.spawn(open_more(openings, Arc::clone(&proxy.shared), runs));
        if let Some(service) = service {
            let mut stopping_too = stopping.clone();
            proxy.tasks.spawn(async move {
                tokio::select! {
                    () = service.look_after() => {}
                    _ = stopping_too.wait_for(|stopping| *stopping) => {}
                }
            });
        }
        if let Some(lan) = config.lan {
            let finder = lan::Finder::new(at_home, Arc::clone(&proxy.shared), lan, uploading);
            let mut stopping_too = stopping.clone();
            proxy.tasks.spawn(async move {
                tokio::select! {
                    () = finder.run() => {}
                    _ = stopping_too.wait_for(|stopping| *stopping) => {}
                }
            });
        }
        let chronicle = Arc::clone(&proxy.shared.chronicle);
        proxy.tasks.spawn(chronicle.keep(stopped(stopping.clone())));
        proxy.tasks.spawn(counters_file::keep(config.data_dir, metrics, stopped(stopping)));
        Ok(proxy)
    }

    /// The HTTP address of each grid, in the order of the configuration.
    #[must_use]
    pub fn grid_addresses(&self) -> &[SocketAddr] {
        &self.grids
    }

    /// Where the control port listens.
    #[must_use]
    pub const fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    /// What other starts of rezcache on this data directory ask of this one.
    pub(crate) fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// What has been counted, in earlier runs on the same data directory too.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Waits until the cache service has answered for the first time, at most for `patience`. Without a
    /// service there is nothing to wait for.
    pub async fn service_settled(&self, patience: Duration) {
        if let Some(service) = self.shared.service.tier() {
            service.settled(patience).await;
        }
    }

    /// Whether all is as it should be, as seen from inside the proxy; takes some seconds.
    pub async fn self_test(&self) -> Vec<CheckResult> {
        checks::run(&self.self_test).await
    }

    /// Uploads nothing until [`Self::resume_uploads`].
    pub fn pause_uploads(&self) {
        if let Some(uploads) = self.shared.service.uploads() {
            uploads.pause();
        }
    }

    /// Goes on uploading.
    pub fn resume_uploads(&self) {
        if let Some(uploads) = self.shared.service.uploads() {
            uploads.resume();
        }
    }

    /// Caps uploads at so many bytes a second; `None` takes the cap off.
    pub fn limit_uploads(&self, rate: Option<u64>) {
        if let Some(uploads) = self.shared.service.uploads() {
            uploads.set_limit(rate);
        }
    }

    /// Waits until nothing waits to be uploaded, at most for `patience`; whether that is so.
    pub async fn uploads_idle(&self, patience: Duration) -> bool {
        match self.shared.service.uploads() {
            Some(uploads) => uploads.idle(patience).await,
            None => true,
        }
    }

    /// Stops taking requests, lets those in progress end, writes what is still to be written, and
    /// returns.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        // What sessions have learnt and not yet told is kept too.
        self.shared.session_alive.lock().unwrap_or_else(PoisonError::into_inner).take();
        let all = async {
            while self.tasks.join_next().await.is_some() {}
            while self.sessions.recv().await.is_some() {}
        };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            self.tasks.shutdown().await;
        }
        if let Some(uploads) = self.shared.service.uploads() {
            uploads.idle(self.finish_uploads).await;
            uploads.stop().await;
        }
        if let Some(care) = self.shared.service.put(Bound::default()).care {
            care.abort();
        }
        self.shared.cache.clone().close().await;
    }
}

/// Serves a grid whose port is open.
fn serve_grid(tasks: &mut JoinSet<()>, runs: &Runs, listener: TcpListener, port: Arc<GridPort>) {
    let shared = Arc::clone(&port.shared);
    shared.grids.write().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&port));
    runs.opened(ServedGrid {
        name: port.config.name.clone(),
        url: port.config.uri.to_string(),
        listen: port.local,
        assets: port.asset_host.is_some(),
    });
    let known = Arc::clone(&port);
    // The grid is asked who it is now, so that the first login need not wait for it, and now
    // and then until it says so: in mode `VIEWERASSET` nothing else would ask.
    let mut stopping = shared.stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = known.identify() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
    tasks.spawn(listener::serve(listener, shared.stop.clone(), move |request, _| {
        grid_port::answer(Arc::clone(&port), request)
    }));
}

/// Opens the ports of grids that are asked for later, one after the other.
async fn open_more(mut openings: mpsc::Receiver<Opening>, shared: Arc<Shared>, runs: Arc<Runs>) {
    let mut tasks = JoinSet::new();
    let mut stopping = shared.stop.clone();
    loop {
        let Opening { mut config, opened } = tokio::select! {
            Some(opening) = openings.recv() => opening,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        // Two may have asked for one grid at once.
        let answer = match runs.same_place(&config.uri) {
            Some(served) => Ok(served),
            None => {
                config.name = runs.free_name(&config.name);
                let uri = config.uri.clone();
                match open_grid(config, &shared).await {
                    Ok((listener, port)) => {
                        serve_grid(&mut tasks, &runs, listener, port);
                        runs.same_place(&uri).ok_or_else(|| "its address cannot be read".to_owned())
                    }
                    Err(error) => Err(error.to_string()),
                }
            }
        };
        let _ = opened.send(answer);
    }
    while tasks.join_next().await.is_some() {}
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// A disk that cannot be used is no reason not to proxy.
fn open_cache(config: &ProxyConfig, metrics: &Arc<Metrics>) -> LocalCache {
    let mut cache = CacheConfig::new(config.data_dir.join("assets"), config.cache_bytes, config.memory_bytes);
    cache.read_deadline = config.disk_patience;
    LocalCache::open(cache, Arc::clone(metrics)).unwrap_or_else(|error| {
        metrics.count(Counter::StoreWriteFailures);
        tracing::warn!(%error, "the local store cannot be opened; assets are kept in memory only");
        LocalCache::memory_only(config.memory_bytes, Arc::clone(metrics))
    })
}

async fn listen(address: SocketAddr, shared: &Shared) -> Result<TcpListener, StartError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
    let local = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
    shared.own.add(Transport::Tcp, local);
    Ok(listener)
}

async fn open_grid(
    config: GridConfig,
    shared: &Arc<Shared>,
) -> Result<(TcpListener, Arc<GridPort>), StartError> {
    let problem = |what: String| StartError::Config(format!("grid {}: {what}", config.name));
    let host = config
        .uri
        .host()
        .ok_or_else(|| problem("its URL has no host; write it as http://grid.example:8002/".into()))?
        .to_ascii_lowercase();
    let mut allowed = Vec::new();
    for block in &config.allow {
        allowed.push(block.parse::<AddressBlock>().map_err(|error| problem(format!("{block}: {error}")))?);
    }
    // The asset host is the user's word, not the grid's.
    let asset_host =
        config.asset_host.as_ref().and_then(http::Uri::host).and_then(|host| host.parse::<IpAddr>().ok());
    allowed.extend(asset_host.map(AddressBlock::from));
    let reach = Arc::new(GridReach::new(&host, allowed, Arc::clone(&shared.own)));
    let upstream =
        Upstream::new(&host, Arc::clone(&reach), Arc::clone(&shared.dial), config.ca_file.as_deref())
            .map_err(|error| problem(format!("certificates: {error}")))?;
    let listener = listen(config.listen, shared).await?;
    let local =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
    let port = Arc::new(GridPort {
        configured: Identity::configured(&config),
        asset_host: config.asset_host.as_ref().map(AssetHost::new),
        config,
        local,
        shared: Arc::clone(shared),
        reach,
        upstream,
        aliases: registry::Registry::default(),
        next_urls: next_urls::NextUrls::default(),
        fetches: fetcher::Inflight::default(),
        arrivals: arrivals::Arrivals::default(),
        pace: Mutex::default(),
        identity: OnceLock::new(),
        asked: watch::Sender::new(false),
    });
    Ok((listener, port))
}
