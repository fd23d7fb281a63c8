//! `rezcache run`: starts a viewer through the proxy, and ends with it.
//!
//! Whatever of ours fails, the viewer starts: then without us, after saying so. `--strict` turns that off.

mod ask;
mod choice;
mod grid_files;
mod hold;
mod join;
mod machine;
mod memory;
mod viewer;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::Outcome;
use super::proxy::StopSignal;
use crate::config::{Flags, LogFormat, ProxyFlags, RunFlags, Settings};
use crate::proxy::GridConfig;
use crate::viewers::{Plan, is_launcher, plan, settings_folders};
use choice::{Choosing, Chosen, NobodyToAsk, say};
use hold::{Held, hold};
use viewer::{ASSET_ADDRESS, Viewer, exit_code};

/// A viewer that runs for less has been started by a launcher, or has not started at all.
const LAUNCHER: Duration = Duration::from_secs(20);

const EXAMPLES: &str = "\
Examples:
  rezcache run                                  asks once which viewer and grid, then starts them
  rezcache run --ask                            asks again
  rezcache run --viewer firestorm --grid osgrid
  rezcache run --grid secondlife --viewer secondlife
  rezcache run --grid http://grid.example:8002/ -- /opt/firestorm/firestorm --autologin
  rezcache run --undo                           takes rezcache's entries out of viewers' grid lists";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) flags: RunFlags,
    /// Ask again which viewer and which grid
    #[arg(long)]
    ask: bool,
    /// Take what rezcache has written into viewers' grid lists out again, and start nothing
    #[arg(long, conflicts_with_all = ["ask", "command"])]
    undo: bool,
    /// The viewer's program and its own arguments
    #[arg(last = true, value_name = "VIEWER ARGS")]
    command: Vec<OsString>,
    #[command(flatten, next_help_heading = "Options of proxy")]
    pub(super) proxy: ProxyFlags,
}

pub(super) use choice::{spell_out, viewer_despite};

pub(super) async fn run(arguments: Arguments, settings: Settings, flags: Flags) -> anyhow::Result<Outcome> {
    let data_dir = settings.data_dir.clone();
    if arguments.undo {
        return tokio::task::spawn_blocking(move || undo(&data_dir)).await?;
    }
    // Where there can be none, the viewer starts without us, further down.
    let _ = crate::support::private_file::create_folder(&data_dir);
    let (run, log_format) = (settings.run.clone(), settings.log_format);
    let choosing = move || {
        let Arguments { command, ask, .. } = arguments;
        Choosing { settings: &settings, flags: &flags, command: &command, ask }.choose()
    };
    let chosen = match tokio::task::spawn_blocking(choosing).await? {
        Err(error) if error.is::<NobodyToAsk>() => {
            say(&error.to_string());
            return Ok(Outcome::Misused);
        }
        chosen => chosen?,
    };
    let Chosen { viewer, proxy, memory } = chosen;
    let proxy = match proxy {
        Ok(proxy) => proxy,
        Err(error) if run.strict => return Err(error),
        Err(error) => return without_us(&viewer, &error).await,
    };
    let Some(grid) = proxy.grids.first().cloned() else {
        anyhow::bail!("no grid is named");
    };

    // The viewer goes on without its terminal, and needs us.
    let stop = StopSignal::listen_beyond_the_terminal()?;
    let mut stopped = pin!(stop.given());
    let mut held = tokio::select! {
        held = hold(&data_dir, &proxy, &grid, log_format) => match held {
            Ok(held) => Some(held),
            Err(error) if run.strict => return Err(error),
            Err(error) => {
                say(&format!("cannot run: {}", super::told_once(&error)));
                None
            }
        },
        () = &mut stopped => return Ok(Outcome::Exited(130)),
    };
    let start = Start { viewer: &viewer, grid: &grid, data_dir: &data_dir };
    let plan = match &held {
        Some(held) => tokio::select! {
            plan = start.plan(held) => Some(plan),
            () = &mut stopped => None,
        },
        None => Some(Err(None)),
    };
    let Some(plan) = plan else {
        end(held).await;
        return Ok(Outcome::Exited(130));
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(Some(error)) if run.strict => {
            end(held).await;
            return Err(error);
        }
        Err(error) => {
            if let Some(error) = error {
                say(&super::told_once(&error));
            }
            say_without_us(&viewer);
            viewer.plan_without_us()
        }
    };
    let logins = held.as_ref().and_then(Held::logins);
    let mut process = match Viewer::start(&viewer.program, &plan, viewer.kind.may_be_text()) {
        Ok(process) => process,
        Err(error) => {
            end(held).await;
            return Err(cannot_start(error, &viewer));
        }
    };
    if let Some(memory) = memory {
        match memory.save(&data_dir) {
            Ok(()) => say("remembered; `rezcache run --ask` asks again"),
            Err(error) => {
                say(&format!("your answer cannot be remembered ({error}); you will be asked again"))
            }
        }
    }

    let status = loop {
        let lost = async {
            match &mut held {
                Some(held) => held.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = process.ended() => break status?,
            () = &mut stopped => {
                let status = process.end().await?;
                end(held).await;
                return Ok(Outcome::Exited(exit_code(status)));
            }
            () = lost => {
                say("the rezcache that this viewer used has ended; another takes its place");
                let before = held.take().map(|held| held.target(&grid));
                tokio::select! {
                    status = process.ended() => break status?,
                    () = &mut stopped => {
                        let status = process.end().await?;
                        return Ok(Outcome::Exited(exit_code(status)));
                    }
                    // Nobody answers a question while the viewer runs.
                    again = hold(&data_dir, &proxy, &grid, LogFormat::Json) => match again {
                        Ok(again) => {
                            let same = before == Some(again.target(&grid));
                            say(if same {
                                "log out and in again in the viewer"
                            } else {
                                "its address is another one: end the viewer, and start it again with rezcache run"
                            });
                            held = Some(again);
                        }
                        Err(error) => {
                            say(&format!("cannot run: {}", super::told_once(&error)));
                            say("end the viewer, and start it again with rezcache run");
                        }
                    }
                }
            }
        }
    };
    if let Some(held) = &mut held {
        // One that was never logged in to may have been a launcher that updated something at leisure.
        let unseen = logins.is_some() && held.logins() == logins;
        let brief = process.age() < LAUNCHER || is_launcher(&viewer.program) || unseen;
        let launched = status.success() && brief && plan.through_us;
        let grace = launched.then_some(run.login_grace);
        tokio::select! {
            () = held.unused(grace, plan.grid_file.is_none() && !plan.environment.is_empty(), say) => {}
            () = &mut stopped => {}
        }
    }
    end(held).await;
    Ok(Outcome::Exited(exit_code(status)))
}

/// Starts the viewer as its user would, after saying why.
pub(super) async fn without_us(viewer: &choice::Viewer, why: &anyhow::Error) -> anyhow::Result<Outcome> {
    say(&format!("cannot run: {}", super::told_once(why)));
    say_without_us(viewer);
    let stop = StopSignal::listen_beyond_the_terminal()?;
    let plan = viewer.plan_without_us();
    let mut process = Viewer::start(&viewer.program, &plan, viewer.kind.may_be_text())
        .map_err(|error| cannot_start(error, viewer))?;
    let status = tokio::select! {
        status = process.ended() => status?,
        () = stop.given() => process.end().await?,
    };
    Ok(Outcome::Exited(exit_code(status)))
}

fn say_without_us(viewer: &choice::Viewer) {
    say(&format!("{} starts without rezcache; log in as always", viewer.kind.label()));
}

fn cannot_start(error: io::Error, viewer: &choice::Viewer) -> anyhow::Error {
    let hint = if viewer.named { "" } else { " (`rezcache run --ask` asks again which viewer to start)" };
    anyhow::Error::new(error).context(format!("cannot start {}{hint}", viewer.program.display()))
}

async fn end(held: Option<Held>) {
    if let Some(held) = held {
        held.end().await;
    }
}

/// What is to be started.
struct Start<'a> {
    viewer: &'a choice::Viewer,
    grid: &'a GridConfig,
    data_dir: &'a Path,
}

impl Start<'_> {
    /// How to start it through the proxy, with its grid file as that needs it.
    async fn plan(&self, held: &Held) -> Result<Plan, Option<anyhow::Error>> {
        let choice::Viewer { kind, program, words, .. } = self.viewer;
        let plan = plan(*kind, &held.target(self.grid), program, words);
        if let Some((name, entry)) = &plan.grid_file {
            let machine = machine::here();
            let folders = settings_folders(&machine, &machine::Disk, *kind);
            let folder =
                folders.first().with_context(|| format!("no folder for the settings of {}", kind.label()));
            let path = folder.map_err(Some)?.join("user_settings").join(name);
            let (data_dir, file, wanted) = (self.data_dir.to_owned(), path.clone(), entry.clone());
            let putting = move || grid_files::put(&data_dir, &file, &wanted);
            let put = tokio::task::spawn_blocking(putting).await.map_err(|error| Some(error.into()))?;
            if put.map_err(Some)? {
                say(&format!(
                    "{} has a new entry for {} (`rezcache run --undo` takes it out)",
                    path.display(),
                    entry.label
                ));
            }
        }
        say(&plan.said);
        if plan.clears_asset_address && std::env::var_os(ASSET_ADDRESS).is_some() {
            say(&format!(
                "{ASSET_ADDRESS} in your environment does not count for this viewer: it would lead past rezcache"
            ));
        }
        if let Some(control) = held.control() {
            // The token lets whoever sees it pause and clear things: for the user's eyes only.
            let token = held.control_token().filter(|_| io::stderr().is_terminal());
            let fragment = token.map_or_else(String::new, |token| format!("#{token}"));
            say(&format!("is it working, and the numbers: http://{control}/{fragment}"));
        }
        if choice::somebody_is_there() {
            say("leave this window open while the viewer runs; rezcache ends with it");
        }
        Ok(plan)
    }
}

fn undo(data_dir: &Path) -> anyhow::Result<Outcome> {
    if !data_dir.exists() {
        say("nothing to undo");
        return Ok(Outcome::Done);
    }
    let undone = grid_files::undo(data_dir)?;
    if undone.lines.is_empty() {
        say("nothing to undo");
    }
    for line in &undone.lines {
        say(line);
    }
    Ok(if undone.failed { Outcome::Failed } else { Outcome::Done })
}
