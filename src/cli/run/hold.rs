//! The proxy that a viewer goes through: our own, or the one that runs already.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::Instant;

use super::join::{self, JoinError, Joined};
use crate::cli::instructions;
use crate::cli::owner::{self, Owner};
use crate::cli::proxy::{self, Started};
use crate::config::ProxySettings;
use crate::proxy::GridConfig;
use crate::proxy::control::runs::ServedGrid;
use crate::support::metrics::Counter;
use crate::support::status::Status;
use crate::viewers::{Linger, Stay, Target, Use};

/// How long one that is starting, or ending, may take.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(200);

/// A proxy that serves the viewer's grid.
pub(super) enum Held {
    /// It runs in this process.
    Own(Box<Started>, ServedGrid),
    /// It runs in another one.
    Joined(Joined),
}

/// Starts the proxy, or joins the one that runs.
pub(super) async fn hold(
    data_dir: &Path,
    proxy: &ProxySettings,
    grid: &GridConfig,
    may_upload: bool,
) -> anyhow::Result<Held> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    loop {
        if let Some(owner) = Owner::try_take(data_dir)? {
            let started = proxy::start(owner, proxy.clone(), data_dir, may_upload, false).await?;
            let served = started.proxy.runs().same_place(&grid.uri);
            let served = served.ok_or_else(|| anyhow!("{} is not served", grid.name))?;
            return Ok(Held::Own(Box::new(started), served));
        }
        // Without a note it is about to start.
        if let Some(note) = owner::running(data_dir) {
            let Some(control) = note.control else {
                return Err(anyhow!(
                    "a rezcache without a control port is running on {}; end it, or start it without --control off",
                    data_dir.display()
                ));
            };
            match join::join(control, data_dir, proxy, grid).await {
                Ok(joined) => return Ok(Held::Joined(joined)),
                Err(error @ JoinError::Refused(_)) => return Err(error.into()),
                Err(error @ JoinError::Away(_)) => last = Some(error),
            }
        }
        if Instant::now() > deadline {
            return Err(match last {
                Some(error) => error.into(),
                None => anyhow!("another rezcache uses {}, but does not start", data_dir.display()),
            });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Held {
    /// The grid as the viewer is to see it.
    pub(super) fn target(&self, grid: &GridConfig) -> Target {
        let (served, token) = match self {
            Self::Own(started, served) => (served, &started.token),
            Self::Joined(joined) => (&joined.grid, &joined.asset_token),
        };
        target(grid, Some((served, token)))
    }

    /// Where its page is.
    pub(super) fn control(&self) -> Option<SocketAddr> {
        match self {
            Self::Own(started, _) => started.proxy.control_address(),
            Self::Joined(joined) => Some(joined.control),
        }
    }

    /// The token of its page, when it is ours.
    pub(super) fn control_token(&self) -> Option<&str> {
        match self {
            Self::Own(started, _) => Some(&started.control_token),
            Self::Joined(_) => None,
        }
    }

    /// Waits until a proxy of another process has ended. Our own ends when we end it.
    pub(super) async fn lost(&mut self) {
        match self {
            Self::Own(..) => std::future::pending().await,
            Self::Joined(joined) => joined.lease.lost().await,
        }
    }

    /// After the viewer's process has ended: waits until nobody needs the proxy any more. After a launcher
    /// (`grace`) a login, or a first asset, may still come; `assets_only` says which. `said` is told once why
    /// we wait.
    pub(super) async fn unused(
        &mut self,
        grace: Option<Duration>,
        assets_only: bool,
        mut said: impl FnMut(&str),
    ) {
        let started = match self {
            Self::Own(started, _) => started,
            // Who owns it waits for sessions; of those that are to come we have to see to it.
            Self::Joined(joined) => {
                if let Some(grace) = grace.filter(|grace| !grace.is_zero()) {
                    said(&waiting_for_login(grace));
                    joined.launched(grace, assets_only).await;
                }
                return;
            }
        };
        let metrics = started.proxy.metrics();
        let runs = Arc::clone(started.proxy.runs());
        let seen = || Use {
            others: runs.leases(),
            sessions: metrics.sessions_open(),
            datagrams: metrics.get(Counter::DatagramsForwarded),
            assets: Status::of(&metrics, Duration::ZERO).assets.requests,
        };
        let mut linger = Linger::new(std::time::Instant::now(), grace, seen());
        let mut told = None;
        loop {
            let stay = linger.look(std::time::Instant::now(), seen());
            if stay.is_none() && runs.close_if_unused() {
                return;
            }
            if stay.is_some() && told.is_none() {
                told = stay;
                said(&match (stay, grace) {
                    (Some(Stay::Launched), Some(grace)) => waiting_for_login(grace),
                    (Some(Stay::Others), _) => String::from(
                        "other viewers still use this rezcache; it ends with the last of them (Ctrl-C ends it now)",
                    ),
                    _ => String::from("waiting for the session to end (Ctrl-C ends it now)"),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends what is ours.
    pub(super) async fn end(self) {
        if let Self::Own(started, _) = self {
            let Started { proxy, owner, .. } = *started;
            proxy.stop().await;
            drop(owner);
        }
    }
}

fn waiting_for_login(grace: Duration) -> String {
    format!(
        "the viewer was started by a launcher that has ended; waiting {} s for it to log in (Ctrl-C ends rezcache now)",
        grace.as_secs()
    )
}

/// The grid as a viewer is to see it, served by us or not.
fn target(grid: &GridConfig, served: Option<(&ServedGrid, &String)>) -> Target {
    let id = crate::grid::GridId::from_login_uri(&grid.uri);
    let asset_address = served
        .filter(|(served, _)| served.assets)
        .map(|(served, token)| format!("http://{}/asset/{token}/{}", served.listen, served.name));
    Target {
        name: grid.name.clone(),
        login: served
            .map_or_else(|| grid.uri.to_string(), |(served, _)| format!("http://{}/", served.listen)),
        key: instructions::grid_key(&grid.name),
        is_second_life: id.is_some_and(|id| id.is_second_life()),
        asset_address,
    }
}
