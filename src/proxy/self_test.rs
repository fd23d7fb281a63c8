//! What the self-test of [`crate::checks`] is to look at, for a proxy that is configured like this.

use std::net::SocketAddr;

use super::ProxyConfig;
use crate::checks::{GridSetup, ServiceSetup, Setup};

/// Everything that a configuration says. `control` and the grids' `listen` are where the proxy listens, or
/// would.
#[must_use]
pub fn setup(config: &ProxyConfig, listen: &[SocketAddr], control: Option<SocketAddr>) -> Setup {
    let mut listen = listen.iter().copied();
    let grid = |grid: &super::GridConfig| GridSetup {
        name: grid.name.clone(),
        uri: grid.uri.clone(),
        listen: listen.next(),
        remembered: false,
        allow: grid.allow.iter().filter_map(|block| block.parse().ok()).collect(),
        ca_file: grid.ca_file.clone(),
    };
    Setup {
        inside: false,
        config_problems: Vec::new(),
        config_file: None,
        grids: config.grids.iter().map(grid).collect(),
        data_dir: config.data_dir.clone(),
        cache_bytes: config.cache_bytes,
        control,
        ports_problem: None,
        service: config
            .service
            .as_ref()
            .map(|service| ServiceSetup { address: service.address.clone(), token: service.token.clone() }),
    }
}
