//! What a node is told.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::catalog::Place;
use crate::grid::GridId;
use crate::publication::Policy;

/// What to run.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where both faces listen; port 0 takes any.
    pub listen: SocketAddr,
    /// The blob store's address.
    pub store: String,
    /// The catalog.
    pub catalog: Place,
    /// The key file.
    pub key_file: PathBuf,
    /// Certificate chain and key in PEM form; without, one is made beside the key file.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// No TLS, and no QUIC.
    pub plain_http: bool,
    /// All callers are one trusted tenant.
    pub open_access: bool,
    /// Connections from public addresses are refused.
    pub private_only: bool,
    /// Principals that make a quorum.
    pub confirmations: usize,
    /// What is published beyond trusted tenants.
    pub grids: Vec<GridPolicy>,
    /// The most bytes the hot tier in memory may take.
    pub memory_bytes: u64,
    /// Where sealed blobs are kept on a disk of this machine; worth while before a store that is far away.
    pub hot_dir: Option<PathBuf>,
    /// The most bytes that may take.
    pub hot_bytes: u64,
}

impl NodeConfig {
    /// What the operator says of a grid.
    #[must_use]
    pub fn policy(&self, grid: &GridId) -> Policy {
        let listed = self.grids.iter().find(|policy| policy.id == *grid);
        Policy {
            publish: listed.is_some_and(|grid| grid.publish),
            confirmations: self.confirmations,
            central: listed.map_or(grid.is_second_life(), |grid| grid.central),
        }
    }
}

/// A grid in the operator's list.
#[derive(Clone, Debug)]
pub struct GridPolicy {
    /// Which.
    pub id: GridId,
    /// Whether others than trusted tenants are served.
    pub publish: bool,
    /// One operator runs all of it.
    pub central: bool,
    /// Hosts whose word holds for the whole grid.
    pub asset_hosts: Vec<String>,
}
