//! What a director is given, why it may not start, and the picture that it has of the array.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::alerts::{AlertConfig, AlertError};
use super::chronicle::DirectorView;
use super::dns::ZoneError;
use crate::catalog::{CatalogError, Place};
use crate::fleet::array::{ArrayRules, MemberView, NodeSpec, StorageView};
use crate::fleet::costs::NodeHours;
use crate::fleet::incidents::Incident;
use crate::redact::Redacted;

/// What to run.
#[derive(Clone, Debug)]
pub struct DirectorConfig {
    /// What this director is called among the others.
    pub name: String,
    /// The service's zone.
    pub zone: String,
    /// Its name servers.
    pub name_servers: Vec<String>,
    /// How long resolvers keep the nodes' addresses.
    pub ttl: Duration,
    /// Where DNS listens, UDP and TCP.
    pub dns_listen: SocketAddr,
    /// The nodes of the fixed list, with the URL of each.
    pub nodes: Vec<NodeSpec>,
    /// The rules.
    pub rules: ArrayRules,
    /// The service's catalog, which directors share.
    pub catalog: Place,
    /// The name that certificates are for, if not the host of a node's URL.
    pub server_name: Option<String>,
    /// Accepted public keys of nodes.
    pub pins: Vec<String>,
    /// Authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A token with the right `observe`, and `admin` for telling nodes to drain.
    pub token: Option<Redacted<String>>,
    /// Where to remember what the catalog says of the nodes, for a start without it; `None`: nowhere.
    pub memory: Option<PathBuf>,
    /// Whom to tell.
    pub alerts: AlertConfig,
    /// Where the status page is served, over plain HTTP; `None`: nowhere.
    pub status_listen: Option<SocketAddr>,
    /// Whether `/monitoring` and `/metrics` are for everybody, and not only for callers of private networks.
    pub monitoring_public: bool,
}

/// Why a director did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectorError {
    /// The zone cannot be served.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// The name server's port cannot be opened.
    #[error("cannot answer DNS on {address}: {source}; ports below 1024 need the right to open them")]
    Dns {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The status page's port cannot be opened.
    #[error("cannot serve the status page on {address}: {source}")]
    Status {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A node's URL is none.
    #[error("node {0}: write its url as https://ADDRESS:PORT")]
    Node(String),
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// Alerts cannot be set up.
    #[error(transparent)]
    Alerts(#[from] AlertError),
}

/// What the status page shows.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Whether this director acts for all.
    pub leading: bool,
    /// Whether nobody is healthy, so that DNS names everybody.
    pub failing_open: bool,
    /// The nodes.
    pub nodes: Vec<MemberView>,
    /// Troubles there are, in words for the public.
    pub troubles: Vec<String>,
    /// Whether the catalog can be written.
    pub catalog: bool,
    /// What the nodes have cost since this director started.
    pub node_hours: NodeHours,
    /// Messages that one of the ways to the operators did not take.
    pub alerts_lost: u64,
    /// What lies behind the nodes.
    pub storage: StorageView,
    /// The directors, this one among them.
    pub directors: Vec<DirectorView>,
    /// Incidents, the oldest first.
    pub incidents: Arc<Vec<Incident>>,
    /// Since when each member is as it is; seconds since 1970.
    pub since: BTreeMap<String, u64>,
    /// When this was so; seconds since 1970, and 0 before the first look.
    pub at: u64,
}
