//! What a node is told.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::budgets::Limits;
use super::{KeyFileError, StartError};
use crate::catalog::Place;
use crate::grid::GridId;
use crate::publication::Policy;
use crate::support::addresses::is_public;
use crate::token::join::is_home;
use crate::token::{self, Keys, RESIDENTS};

/// What to run.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where both faces listen; port 0 takes any.
    pub listen: SocketAddr,
    /// Further addresses of private networks to listen at, with the same port.
    pub also_listen: Vec<IpAddr>,
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
    /// Callers without a token are one trusted tenant; on a public node they may read only.
    pub open_access: bool,
    /// Files with the public keys that sign tokens.
    pub token_keys: Vec<PathBuf>,
    /// What the service is called in tokens.
    pub audience: String,
    /// Proxies may enrol with keys of their own.
    pub enroll: bool,
    /// Proxies may join trusted tenants with keys of their own, when they show a token of the tenant.
    pub members: bool,
    /// Tenants whose members believe one another.
    pub trusted_tenants: Vec<String>,
    /// The most a principal may use, unless its token says otherwise.
    pub limits: Limits,
    /// What addresses may do before they have shown who they are.
    pub protection: Protection,
    /// Whom to write to about this node. Without one, only private addresses are served.
    pub abuse_contact: Option<String>,
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

impl Default for NodeConfig {
    /// A node for this machine, which keeps everything in memory but its keys.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            also_listen: Vec::new(),
            store: "memory:".into(),
            catalog: Place::Memory,
            key_file: "service.key".into(),
            certificate: None,
            plain_http: false,
            open_access: false,
            token_keys: Vec::new(),
            audience: token::DEFAULT_AUDIENCE.into(),
            enroll: false,
            members: false,
            trusted_tenants: Vec::new(),
            limits: Limits::default(),
            protection: Protection::default(),
            abuse_contact: None,
            confirmations: 1,
            grids: Vec::new(),
            memory_bytes: 64 << 20,
            hot_dir: None,
            hot_bytes: 0,
        }
    }
}

/// Limits of each address (a /64 of IPv6); what is not said is as usual: public addresses may least, private ones
/// more, and this machine what it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// Open connections of both faces.
    pub connections_per_address: Option<u32>,
    /// New connections in a second, and requests without a token; ten times as many at once.
    pub requests_per_address_s: Option<u32>,
}

/// What somebody without a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// Nothing.
    No,
    /// Read.
    Reading,
    /// Read and write, as a member of one trusted tenant.
    Trusted,
}

/// How the gate is set.
#[derive(Clone, Debug)]
pub(super) struct AccessConfig {
    pub(super) keys: Keys,
    pub(super) audience: String,
    pub(super) open: Open,
    pub(super) members: bool,
    pub(super) trusted_tenants: Vec<String>,
    pub(super) requests_per_address_s: Option<u32>,
}

impl NodeConfig {
    /// Whether strangers of the whole Internet are served.
    #[must_use]
    pub fn is_public(&self) -> bool {
        is_public(self.listen.ip()) || self.abuse_contact.is_some()
    }

    /// Whether a node may run like this, and how its gate is set.
    ///
    /// # Errors
    /// The rule that is broken, or the key file that cannot be used.
    pub(super) fn access(&self) -> Result<AccessConfig, StartError> {
        let gated = !self.token_keys.is_empty() || self.enroll;
        if !gated && !self.open_access {
            return Err(StartError::Open(self.listen));
        }
        if is_public(self.listen.ip()) && self.abuse_contact.is_none() {
            return Err(StartError::NoContact(self.listen));
        }
        if let Some(public) = self.also_listen.iter().find(|ip| !is_home(**ip)) {
            return Err(StartError::NotHome(*public));
        }
        if self.plain_http && gated && !self.listen.ip().is_loopback() {
            return Err(StartError::PlainTokens(self.listen));
        }
        if self.trusted_tenants.iter().any(|tenant| tenant == RESIDENTS) {
            return Err(StartError::TrustedResidents);
        }
        let mut keys = Keys::default();
        for path in &self.token_keys {
            let failed = |source| StartError::TokenKeys { path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(|error| failed(KeyFileError::Io(error)))?;
            keys.add_pem(&text).map_err(|error| failed(KeyFileError::Form(error)))?;
        }
        let open = match (self.open_access, self.is_public()) {
            (false, _) => Open::No,
            (true, true) => Open::Reading,
            (true, false) => Open::Trusted,
        };
        let (audience, trusted_tenants) = (self.audience.clone(), self.trusted_tenants.clone());
        let requests_per_address_s = self.protection.requests_per_address_s;
        let members = self.members;
        Ok(AccessConfig { keys, audience, open, members, trusted_tenants, requests_per_address_s })
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
