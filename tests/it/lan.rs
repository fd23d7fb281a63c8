//! One box serves a household or a classroom: who joins by the line that it prints, what they may do, and how
//! proxies find it again.

mod classroom;
mod finding;
mod namespaces;
mod programs;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rezcache::client::ServiceClient;
use rezcache::client::address::ServerAddress;
use rezcache::client::credentials::Credentials;
use rezcache::client::joined;
use rezcache::fetch::upload_plan::Limits;
use rezcache::grid::GridId;
use rezcache::node::household::{Household, TENANT};
use rezcache::node::{Node, NodeConfig};
use rezcache::proxy::{LanConfig, ProxyConfig, UploadConfig};
use rezcache::redact::Redacted;
use rezcache::support::metrics::Counter;
use rezcache::token::join::JoinLine;

use crate::service::config as node_config;
use crate::support::client::get;
use crate::support::fake_grid::FakeGrid;
use crate::support::{RealAsset, Setup, within};

pub(crate) const CONTROL_TOKEN: &str = "77778a52c1e97b36a58d20ce71f37777";

/// A household's server on loopback, without its program.
pub(crate) struct Home {
    pub(crate) node: Node,
    pub(crate) folder: PathBuf,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Home {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::with(folder, |_| {}).await
    }

    pub(crate) async fn with(folder: &Path, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let household = Household::open(folder, "rezcache").unwrap();
        let mut config = NodeConfig {
            open_access: false,
            members: true,
            token_keys: vec![household.public_key()],
            trusted_tenants: vec![TENANT.into()],
            ..node_config(folder)
        };
        change(&mut config);
        Self { node: Node::start(config).await.unwrap(), folder: folder.to_owned() }
    }

    /// The join lines: everybody's, or a pupil's and a teacher's.
    pub(crate) fn lines(&self, teacher_writes: bool) -> Vec<JoinLine> {
        let household = Household::open(&self.folder, "rezcache").unwrap();
        let joining = household.joining(teacher_writes, now()).unwrap();
        let line = |token: &Redacted<String>| JoinLine {
            address: self.node.address(),
            pin: self.node.pin().unwrap().parse().unwrap(),
            token: token.clone(),
        };
        joining.tokens.iter().map(|token| line(&token.token)).collect()
    }

    pub(crate) fn line(&self) -> JoinLine {
        self.lines(false).remove(0)
    }

    pub(crate) fn announce(&mut self) {
        self.node.announce(&[IpAddr::from([127, 0, 0, 1])]);
    }
}

/// A client that has joined by a line, with its own key in `folder`.
pub(crate) fn member(folder: &Path, line: &JoinLine) -> ServiceClient {
    let credentials = Credentials::joined(folder, &line.pin, &line.token).unwrap();
    ServiceClient::with_credentials(ServerAddress::at(line.address, &line.pin), credentials).unwrap()
}

/// Looks for the servers that were joined, and is not hurried by a slow machine.
pub(crate) fn auto() -> LanConfig {
    LanConfig { least_deadline: Duration::from_secs(5), ..LanConfig::default() }
}

/// A proxy that looks for servers, with these joined. All of them stand before the same grid.
pub(crate) async fn proxy(
    lines: &[(&JoinLine, Option<bool>)],
    change: impl FnOnce(&mut ProxyConfig),
) -> Setup {
    Setup::with(FakeGrid::start().await, |config| {
        for (line, upload) in lines {
            joined::add(&config.data_dir, (*line).clone(), *upload).unwrap();
        }
        config.lan = Some(auto());
        let limits = Limits { wait: Duration::ZERO, patience: Duration::ZERO, ..Limits::default() };
        config.uploads = Some(UploadConfig { limits, rate: None, finish: Duration::ZERO });
        config.control_token = Some(Redacted::new(CONTROL_TOKEN.into()));
        config.grids[0].id = Some(GridId::new("grid.example"));
        change(config);
    })
    .await
}

/// Waits until something is so.
pub(crate) async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Waits until the shared cache stands like this.
pub(crate) async fn standing(setup: &Setup, state: &str) {
    let metrics = setup.proxy.metrics();
    until(|| metrics.service().is_some_and(|service| service.state == state)).await;
}

pub(crate) fn count(setup: &Setup, counter: Counter) -> u64 {
    setup.proxy.metrics().get(counter)
}

/// Who answers a viewer that fetches this.
pub(crate) async fn fetch(setup: &Setup, asset: &RealAsset) -> String {
    let cap = setup.asset_capability().await;
    setup.serve(asset);
    let answer = get(setup.at, &format!("{cap}{}", asset.query), &[]).await;
    assert_eq!((answer.status, &answer.body), (200, &*asset.bytes));
    answer.tier().to_owned()
}
