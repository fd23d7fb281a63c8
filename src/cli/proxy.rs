//! `rezcache proxy`: starts the proxy, says how to use it, and ends it with Ctrl-C or SIGTERM.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Args;

use super::consent::{self, Consent};
use super::live::Live;
use super::owner::{self, Owner};
use super::{Outcome, instructions, print};
use crate::client::joined::{self, JoinedServer};
use crate::config::ports::{self, Ports};
use crate::config::{LogFormat, ProxyFlags, ProxySettings, Settings, token};
use crate::proxy::{GridConfig, LanConfig, Proxy, StartError};

#[derive(Args, Debug)]
#[command(after_help = super::examples::PROXY)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) flags: ProxyFlags,
}

pub(super) async fn run(settings: Settings) -> anyhow::Result<Outcome> {
    let Settings { data_dir, proxy, log_format, .. } = settings;
    if proxy.grids.is_empty() {
        let _ = writeln!(
            io::stderr(),
            "rezcache: no grid is named: use --grid URL, or a [[grid]] section in the configuration file"
        );
        return Ok(Outcome::Misused);
    }
    crate::support::private_file::create_folder(&data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let Some(owner) = Owner::try_take(&data_dir)? else {
        bail!(
            "another rezcache is running on {}; end it, or name another folder with --data-dir",
            data_dir.display()
        );
    };
    let mut proxy = proxy;
    let may_upload = may_upload(&mut proxy, &data_dir, log_format).await?;
    let household = proxy.lan.is_some();
    let Started { proxy, grids, token, control_token, owner: _owner } =
        start(owner, proxy, &data_dir, may_upload, true).await?;

    let stop = StopSignal::listen()?;
    let mut ready = instructions::Ready::new(&grids, proxy.grid_addresses(), proxy.control_address(), &token);
    // The page's key is a secret: what is printed elsewhere than on a terminal ends up in a journal. There
    // `rezcache status --address` tells it.
    if log_format == LogFormat::Json || io::IsTerminal::is_terminal(&io::stdout()) {
        ready.page(&control_token, may_upload || household, household);
    }
    // The proxy goes on when nobody reads this.
    let _ = print(&match log_format {
        LogFormat::Text => ready.to_string(),
        LogFormat::Json => serde_json::to_string(&ready)? + "\n",
    });

    let live = Live::start(proxy.metrics(), log_format);
    stop.given().await;
    drop(live);
    tracing::info!("stopping");
    proxy.stop().await;
    Ok(Outcome::Done)
}

/// A proxy that runs, and what its user has to know.
pub(super) struct Started {
    pub(super) proxy: Proxy,
    pub(super) grids: Vec<GridConfig>,
    /// The token in the paths of mode `VIEWERASSET`.
    pub(super) token: String,
    /// The token of the control port.
    pub(super) control_token: String,
    /// To be let go after the proxy has stopped.
    pub(super) owner: Owner,
}

/// Starts the proxy, with the port that each grid had before, and tells other starts where it is. `insist`
/// on the usual ports even where nobody has asked for them, since viewers are told of them by hand.
pub(super) async fn start(
    owner: Owner,
    mut proxy: ProxySettings,
    data_dir: &Path,
    may_upload: bool,
    insist: bool,
) -> anyhow::Result<Started> {
    raise_descriptor_limit();
    let token = token::read_or_make(data_dir, token::FILE_NAME)?;
    let control_token = token::read_or_make(data_dir, token::CONTROL_FILE_NAME)?;

    let _changes = owner::changes_soon(data_dir).await?;
    let mut memory = Ports::load(data_dir)?;
    let before = memory.clone();
    let places: Vec<_> = proxy.grids.iter().map(|grid| ports::place(&grid.uri)).collect();
    // Another user of this machine may have them.
    proxy.control = proxy.control.map(|control| {
        let keep = insist || proxy.control_given || ports::is_free(control);
        if keep { control } else { SocketAddr::new(control.ip(), 0) }
    });
    let fixed = insist || proxy.listen_given;
    let addresses = memory.assign(proxy.listen, fixed, proxy.control, &places, ports::is_free)?;
    let old: Vec<_> = addresses
        .iter()
        .zip(&places)
        .filter(|(_, place)| before.remembers(proxy.listen, place))
        .map(|(address, _)| *address)
        .collect();

    let config =
        proxy.into_config(&addresses, data_dir.to_owned(), token.clone(), control_token.clone(), may_upload);
    let grids = config.grids.clone();
    let proxy = Proxy::start(config).await.map_err(|error| explain(error, &old, data_dir))?;
    if memory != before {
        // The grid's next start may then get another port; this one works.
        if let Err(error) = memory.save(data_dir) {
            tracing::warn!(%error, "the grids' ports cannot be remembered");
        }
    }
    if let Err(error) = owner.announce(proxy.control_address()) {
        tracing::warn!(%error, "other starts of rezcache will not find this one");
    }
    Ok(Started { proxy, grids, token, control_token, owner })
}

/// Whether to upload, asked before anything is started: a question that nobody sees would hold up
/// viewers.
pub(super) async fn may_upload(
    proxy: &mut ProxySettings,
    data_dir: &Path,
    log_format: LogFormat,
) -> anyhow::Result<bool> {
    let service = match (&proxy.service, &proxy.lan) {
        (Some(service), _) => service.address.to_string(),
        (None, Some(LanConfig { line: Some(line), .. })) => {
            let server = JoinedServer { line: line.clone(), upload: None };
            if !server.takes_uploads() {
                return Ok(false);
            }
            format!("rezcache://{}", line.address)
        }
        (None, Some(LanConfig { line: None, upload: None, .. })) => {
            let (folder, may_ask) = (data_dir.to_owned(), log_format == LogFormat::Text);
            if !tokio::task::spawn_blocking(move || ask_for_joined(&folder, may_ask)).await?? {
                say_unanswered();
            }
            return Ok(false);
        }
        (None, Some(_)) => {
            if proxy.upload == Some(false) {
                forget_queue(data_dir);
            }
            return Ok(false);
        }
        (None, None) => return Ok(false),
    };
    let (said, folder) = (proxy.upload, data_dir.to_owned());
    // Programs read JSON, and they do not answer.
    let may_ask = log_format == LogFormat::Text;
    let asking = move || consent::find_out(said, &folder, &service, may_ask);
    let answer = tokio::task::spawn_blocking(asking).await?;
    if let Some(lan) = &mut proxy.lan {
        lan.upload = Some(answer == Consent::Given);
    }
    match answer {
        Consent::Given => Ok(true),
        Consent::Refused => {
            forget_queue(data_dir);
            Ok(false)
        }
        Consent::Unanswered => {
            say_unanswered();
            Ok(false)
        }
    }
}

/// What waits in the queue is not sent any more.
fn forget_queue(data_dir: &Path) {
    let queue = data_dir.join("uploads");
    if queue.exists()
        && let Err(error) = std::fs::remove_dir_all(&queue)
    {
        tracing::warn!(%error, path = %queue.display(), "what waited to be uploaded cannot be removed; it stays here");
    }
}

fn say_unanswered() {
    let _ = writeln!(
        io::stderr(),
        "rezcache: nothing is uploaded to the cache server, since nobody has said yes; \
         --upload yes or --upload no settles it"
    );
}

/// Asks for each server that was joined, and for which nobody has answered yet. Whether all are answered now.
fn ask_for_joined(data_dir: &Path, may_ask: bool) -> anyhow::Result<bool> {
    let mut answered = true;
    for server in joined::load(data_dir)? {
        if server.upload.is_some() || !server.takes_uploads() {
            continue;
        }
        let name = format!("rezcache://{}", server.line.address);
        let answer = may_ask.then(|| consent::ask_at_terminal(&name)).flatten();
        answered &= answer.is_some();
        if answer.is_some() {
            joined::change(data_dir, &server.line.pin, |server| server.upload = answer)?;
        }
    }
    Ok(answered)
}

/// A remembered port that something else took needs more words than any other: choosing another one
/// is not the way out.
fn explain(error: StartError, remembered: &[SocketAddr], data_dir: &Path) -> anyhow::Error {
    match &error {
        StartError::Listen { address, .. } if remembered.contains(address) => {
            let file = data_dir.join(ports::FILE_NAME);
            let hint = format!(
                "{address} was this grid's address before, and viewers keep its saved passwords under it: end the \
                 program that listens there now, or remove the grid from {} to have it get another port",
                file.display()
            );
            anyhow::Error::new(error).context(hint)
        }
        _ => error.into(),
    }
}

/// Ctrl-C, SIGTERM and the terminal's end; on Windows Ctrl-C, Ctrl-Break, the window closed, and the user
/// leaving. Listens from when it is made, so that nobody who has read that the proxy is running kills it by
/// asking it to end.
pub(super) struct StopSignal {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
    /// `None`: the end of the terminal is none of ours.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
    #[cfg(windows)]
    events: WindowsEvents,
}

#[cfg(windows)]
type WindowsEvents = (
    tokio::signal::windows::CtrlC,
    tokio::signal::windows::CtrlBreak,
    tokio::signal::windows::CtrlClose,
    tokio::signal::windows::CtrlLogoff,
    tokio::signal::windows::CtrlShutdown,
);

impl StopSignal {
    pub(super) fn listen() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
            // Listening to it would undo what `nohup` has done.
            let hangup = (!hangup_is_ignored()).then(|| signal(SignalKind::hangup())).transpose()?;
            Ok(Self { signals, hangup })
        }
        #[cfg(windows)]
        {
            use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
            Ok(Self { events: (ctrl_c()?, ctrl_break()?, ctrl_close()?, ctrl_logoff()?, ctrl_shutdown()?) })
        }
    }

    /// For whoever must not end with the terminal, since a viewer still needs it.
    pub(super) fn listen_beyond_the_terminal() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
            // From now on it no longer ends the process; nobody waits for it.
            drop(signal(SignalKind::hangup())?);
            Ok(Self { signals, hangup: None })
        }
        #[cfg(windows)]
        Self::listen()
    }

    pub(super) async fn given(mut self) {
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.signals;
            let hangup = async {
                match &mut self.hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup => {}
            }
        }
        #[cfg(windows)]
        {
            let (pressed, interrupted, closed, left, shut_down) = &mut self.events;
            // After the last three the system ends us within seconds; stopping takes less.
            tokio::select! {
                _ = pressed.recv() => {}
                _ = interrupted.recv() => {}
                _ = closed.recv() => {}
                _ = left.recv() => {}
                _ = shut_down.recv() => {}
            }
        }
    }
}

/// Whether we were started so that the end of the terminal does not matter. Where the system does not tell,
/// `nohup` is known by the output that it has taken off the terminal.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    match mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) {
        // SIGHUP is the first of the signals.
        Some(mask) => mask & 1 == 1,
        None => !io::IsTerminal::is_terminal(&io::stderr()),
    }
}

/// Two viewers keep some hundred connections, each with one of ours toward the grid; a node has one of each
/// client over TCP. macOS starts programs with 256 descriptors, Linux with 1024.
pub(super) fn raise_descriptor_limit() {
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(65_536) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
