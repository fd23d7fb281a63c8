//! The proxy that a viewer goes through: our own, or the one that runs already.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::time::Instant;

use super::choice::say;
use super::join::{self, JoinError, Joined};
use crate::cli::consent::{self, Consent};
use crate::cli::instructions;
use crate::cli::owner::{self, Owner};
use crate::cli::proxy::{self, Started};
use crate::config::{LogFormat, ProxySettings};
use crate::proxy::GridConfig;
use crate::proxy::control::runs::ServedGrid;
use crate::support::metrics::Counter;
use crate::support::status::Status;
use crate::viewers::{Linger, Stay, Target, Use};

/// How long one that is starting, or ending, may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long we wait without a word.
const SILENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(200);

/// A proxy that serves the viewer's grid.
pub(super) enum Held {
    /// It runs in this process.
    Own(Box<Started>, ServedGrid),
    /// It runs in another one.
    Joined(Joined),
}

/// Starts the proxy, or joins the one that runs. Whether to upload is asked and decided only by who runs it:
/// the queue belongs to that one. Nothing is asked with a `log_format` for programs.
pub(super) async fn hold(
    data_dir: &Path,
    proxy: &ProxySettings,
    grid: &GridConfig,
    log_format: LogFormat,
) -> anyhow::Result<Held> {
    crate::support::private_file::create_folder(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let begun = Instant::now();
    let mut last = None;
    let mut told = false;
    loop {
        if let Some(owner) = Owner::try_take(data_dir)? {
            let mut settings = proxy.clone();
            let may_upload = proxy::may_upload(&mut settings, data_dir, log_format).await?;
            let started = proxy::start(owner, settings, data_dir, may_upload, false).await?;
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
                Ok(joined) => {
                    say(&joined_line(proxy, data_dir));
                    return Ok(Held::Joined(joined));
                }
                Err(error @ JoinError::Refused(_)) => return Err(error.into()),
                Err(error @ JoinError::Away(_)) => last = Some(error),
            }
        }
        if !told && begun.elapsed() > SILENCE {
            told = true;
            say(&format!(
                "another rezcache is starting or ending on {}; waiting up to {} s for it",
                data_dir.display(),
                PATIENCE.as_secs()
            ));
        }
        if begun.elapsed() > PATIENCE {
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

    /// How often something has come that shows a viewer behind its login, where we know.
    pub(super) fn logins(&self) -> Option<u64> {
        match self {
            Self::Own(started, _) => {
                let metrics = started.proxy.metrics();
                let assets = Status::of(&metrics, Duration::ZERO).assets.delivered();
                Some(metrics.get(Counter::LoginsGranted).saturating_add(assets))
            }
            Self::Joined(_) => None,
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
                    joined.launched(grace, assets_only, || said(ASSETS_LONG)).await;
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
            assets: Status::of(&metrics, Duration::ZERO).assets.delivered(),
        };
        let mut linger = Linger::new(std::time::Instant::now(), grace, seen());
        let mut told = Vec::new();
        loop {
            let stay = linger.look(std::time::Instant::now(), seen());
            if stay.is_none() && runs.close_if_unused() {
                return;
            }
            if let Some(stay) = stay.filter(|stay| !told.contains(stay)) {
                told.push(stay);
                said(&match (stay, grace) {
                    (Stay::Launched, Some(grace)) => waiting_for_login(grace),
                    (Stay::Assets, _) => String::from(ASSETS_LONG),
                    (Stay::Others, _) => String::from(
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

/// A viewer that only takes assets does not say when it leaves.
const ASSETS_LONG: &str = "a viewer takes its assets through rezcache, which stays until an hour after the last one (Ctrl-C ends it now)";

/// What joining means for the user's own settings.
fn joined_line(proxy: &ProxySettings, data_dir: &Path) -> String {
    let service = proxy.service.as_ref().map(|service| service.address.to_string());
    let refused = service.is_some_and(|service| {
        consent::find_out(proxy.upload, data_dir, &service, false) == Consent::Refused
    }) || (proxy.lan.is_some() && proxy.upload == Some(false));
    let uploads =
        if refused { ", also on sharing assets: your no counts from its next start on" } else { "" };
    format!("joined the rezcache that runs already; its settings count{uploads}")
}

fn waiting_for_login(grace: Duration) -> String {
    format!(
        "the viewer's program has ended; waiting {} s in case another program is still starting the viewer (Ctrl-C ends rezcache now)",
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
