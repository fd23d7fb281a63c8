//! Asks the rezcache that runs on this data directory for what a viewer needs of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cli::owner;
use crate::config::ports::{self, Ports};
use crate::config::{ProxySettings, token};
use crate::proxy::GridConfig;
use crate::proxy::control::runs::{GridWanted, LEASE_PROTOCOL, RunState, ServedGrid};
use crate::viewers::{Linger, Use};

/// It runs on this machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Its answers take a few kilobytes.
const MAX_BYTES: usize = 1 << 20;
const LOOK: Duration = Duration::from_secs(1);

/// Why a running rezcache is not of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    /// It may be starting or ending: another try may go well.
    #[error("the rezcache that runs on this data directory does not answer: {0}")]
    Away(String),
    /// It will not get better.
    #[error("the rezcache that runs on this data directory cannot serve this grid: {0}")]
    Refused(String),
}

/// Keeps the running rezcache running.
pub(super) struct Lease(TcpStream);

impl Lease {
    /// Waits until that rezcache has ended.
    pub(super) async fn lost(&mut self) {
        let mut ignored = [0; 64];
        while self.0.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    }
}

/// A grid that the running rezcache serves for us.
pub(super) struct Joined {
    pub(super) control: SocketAddr,
    pub(super) grid: ServedGrid,
    pub(super) lease: Lease,
    pub(super) asset_token: String,
    control_token: String,
}

impl Joined {
    /// After a launcher: keeps the lease until its viewer has had time to log in, which makes the other
    /// rezcache stay, or as long as one that takes only its assets is there.
    pub(super) async fn launched(&mut self, grace: Duration, assets_only: bool) {
        let asked = Asked { control: self.control, token: &self.control_token };
        let assets = async || {
            let state: Result<RunState, _> = asked.answer(reqwest::Method::GET, "state", String::new()).await;
            Use { assets: state.map_or(0, |state| state.assets), ..Use::default() }
        };
        let mut linger = Linger::new(
            Instant::now(),
            Some(grace),
            if assets_only { assets().await } else { Use::default() },
        );
        let waiting = async {
            loop {
                let seen = if assets_only { assets().await } else { Use::default() };
                if linger.look(Instant::now(), seen).is_none() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = waiting => {}
            () = self.lease.lost() => {}
        }
    }
}

/// Has the rezcache with this control port serve the grid, and stay.
pub(super) async fn join(
    control: SocketAddr,
    data_dir: &Path,
    proxy: &ProxySettings,
    grid: &GridConfig,
) -> Result<Joined, JoinError> {
    let away = |error: token::TokenError| JoinError::Away(error.to_string());
    let control_token = token::read_or_make(data_dir, token::CONTROL_FILE_NAME).map_err(away)?;
    let asset_token = token::read_or_make(data_dir, token::FILE_NAME).map_err(away)?;
    let lease = tokio::time::timeout(PATIENCE, lease(control, &control_token))
        .await
        .map_err(|_| JoinError::Away("no answer".into()))??;
    let asked = Asked { control, token: &control_token };
    let state: RunState = asked.answer(reqwest::Method::GET, "state", String::new()).await?;
    let place = ports::place(&grid.uri);
    let same = |served: &ServedGrid| served.url.parse().is_ok_and(|uri| ports::place(&uri) == place);
    let grid = match state.grids.into_iter().find(same) {
        Some(served) => served,
        None => another(&asked, data_dir, proxy, grid).await?,
    };
    Ok(Joined { control, grid, lease, asset_token, control_token })
}

/// Has it serve one more grid, on the port that this grid had before or keeps from now on.
async fn another(
    asked: &Asked<'_>,
    data_dir: &Path,
    proxy: &ProxySettings,
    grid: &GridConfig,
) -> Result<ServedGrid, JoinError> {
    let refused = |error: &dyn std::fmt::Display| JoinError::Refused(error.to_string());
    let folder = data_dir.to_owned();
    let changes = tokio::task::spawn_blocking(move || owner::changes(&folder)).await;
    let mut memory = Ports::load(data_dir).map_err(|error| refused(&error))?;
    let before = memory.clone();
    let place = ports::place(&grid.uri);
    let addresses = memory
        .assign(
            proxy.listen,
            proxy.listen_given,
            Some(asked.control),
            std::slice::from_ref(&place),
            ports::is_free,
        )
        .map_err(|error| refused(&error))?;
    let Some(listen) = addresses.first() else { return Err(JoinError::Refused("no port".into())) };
    let wanted = serde_json::to_string(&GridWanted::of(grid, *listen)).map_err(|error| refused(&error))?;
    let served = asked.answer(reqwest::Method::POST, "grids", wanted).await?;
    if memory != before
        && let Err(error) = memory.save(data_dir)
    {
        tracing::warn!(%error, "the grids' ports cannot be remembered");
    }
    drop(changes);
    Ok(served)
}

struct Asked<'a> {
    control: SocketAddr,
    token: &'a str,
}

impl Asked<'_> {
    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        method: reqwest::Method,
        action: &str,
        body: String,
    ) -> Result<T, JoinError> {
        let away = |error: reqwest::Error| JoinError::Away(error.without_url().to_string());
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(away)?;
        let request = client
            .request(method, format!("http://{}/run/{action}", self.control))
            .bearer_auth(self.token)
            .body(body);
        let mut response = request.send().await.map_err(away)?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(away)? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_BYTES {
                return Err(JoinError::Refused("its answer is too long".into()));
            }
        }
        match response.status().as_u16() {
            200 => serde_json::from_slice(&text)
                .map_err(|_| JoinError::Refused("it is another version; end it and start it anew".into())),
            503 => Err(JoinError::Away(said(&text))),
            404 => Err(JoinError::Refused("it is another version; end it and start it anew".into())),
            _ => Err(JoinError::Refused(said(&text))),
        }
    }
}

/// What it says, as far as it can be shown.
fn said(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().chars().filter(|c| !c.is_control()).take(300).collect()
}

async fn lease(control: SocketAddr, token: &str) -> Result<Lease, JoinError> {
    let away = |error: std::io::Error| JoinError::Away(error.to_string());
    let mut stream = TcpStream::connect(control).await.map_err(away)?;
    let request = format!(
        "POST /run/lease HTTP/1.1\r\nHost: {control}\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: {LEASE_PROTOCOL}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(away)?;
    // Byte by byte, so that nothing after the head is read.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(JoinError::Refused("its answer is too long".into()));
        }
        head.push(stream.read_u8().await.map_err(away)?);
    }
    let head = String::from_utf8_lossy(&head);
    match head.split(' ').nth(1) {
        Some("101") => Ok(Lease(stream)),
        Some("503") => Err(JoinError::Away("it is about to end".into())),
        Some("404") => Err(JoinError::Refused("it is another version; end it and start it anew".into())),
        _ => Err(JoinError::Refused(said(head.lines().next().unwrap_or_default().as_bytes()))),
    }
}
