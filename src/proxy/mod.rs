//! The viewer-side proxy: a loopback HTTP port per grid, a loopback UDP port per simulator.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::grid::GridId;
use crate::support::metrics::Metrics;

pub(crate) mod control;
pub(crate) mod guard;
mod page;

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
    /// What stands in the paths of mode `VIEWERASSET`: 32 hexadecimal digits, one per installation.
    pub asset_token: String,
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

impl Proxy {
    /// Opens every listener and starts serving. Grids need not be reachable.
    ///
    /// # Errors
    /// When a port cannot be opened or the data directory cannot be used.
    pub async fn start(_config: ProxyConfig) -> Result<Self, StartError> {
        Err(StartError::Config("not there yet".into()))
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

    /// What has been counted.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Stops taking requests, finishes what is written to disk, and returns.
    pub async fn stop(self) {}
}
