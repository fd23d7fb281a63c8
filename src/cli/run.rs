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
use super::proxy::{StopSignal, may_upload};
use crate::config::{Flags, ProxyFlags, RunFlags, Settings};
use crate::proxy::GridConfig;
use crate::viewers::{Plan, plan, settings_folders};
use choice::{Choosing, Chosen, NobodyToAsk, say};
use hold::{Held, hold};
use viewer::{Viewer, exit_code};

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

pub(super) use choice::spell_out;

pub(super) async fn run(arguments: Arguments, settings: Settings, flags: Flags) -> anyhow::Result<Outcome> {
    let data_dir = settings.data_dir.clone();
    if arguments.undo {
        return undo(&data_dir);
    }
    // Where there can be none, the viewer starts without us, further down.
    let _ = std::fs::create_dir_all(&data_dir);
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
    let Chosen { viewer, mut proxy, memory } = chosen;
    if let Some(memory) = memory {
        match memory.save(&data_dir) {
            Ok(()) => say("remembered; `rezcache run --ask` asks again"),
            Err(error) => {
                say(&format!("your answer cannot be remembered ({error}); you will be asked again"))
            }
        }
    }
    let Some(grid) = proxy.grids.first().cloned() else {
        anyhow::bail!("no grid is named");
    };
    let may_upload = may_upload(&mut proxy, &data_dir, log_format).await?;

    let stop = StopSignal::listen()?;
    let mut stopped = pin!(stop.given());
    let mut held = tokio::select! {
        held = hold(&data_dir, &proxy, &grid, may_upload) => match held {
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
        Some(held) => start.plan(held),
        None => Err(None),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(Some(error)) if run.strict => {
            end(held).await;
            return Err(error);
        }
        Err(error) => {
            if let Some(error) = error {
                say(&format!("{error:#}"));
            }
            say(&format!("{} starts without rezcache; log in as always", viewer.kind.label()));
            start.without_us()
        }
    };
    let mut process = match Viewer::start(&viewer.program, &plan) {
        Ok(process) => process,
        Err(error) => {
            end(held).await;
            return Err(error).with_context(|| format!("cannot start {}", viewer.program.display()));
        }
    };

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
                held = match hold(&data_dir, &proxy, &grid, may_upload).await {
                    Ok(held) => Some(held),
                    Err(error) => {
                        say(&format!("cannot run: {}", super::told_once(&error)));
                        None
                    }
                };
            }
        }
    };
    if let Some(held) = &mut held {
        let launched = status.success() && process.age() < LAUNCHER && plan.through_us;
        let grace = launched.then_some(run.login_grace);
        tokio::select! {
            () = held.unused(grace, plan.grid_file.is_none() && !plan.environment.is_empty(), say) => {}
            () = &mut stopped => {}
        }
    }
    end(held).await;
    Ok(Outcome::Exited(exit_code(status)))
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
    fn plan(&self, held: &Held) -> Result<Plan, Option<anyhow::Error>> {
        let choice::Viewer { kind, program, words } = self.viewer;
        let plan = plan(*kind, &held.target(self.grid), program, words);
        if let Some((name, entry)) = &plan.grid_file {
            let machine = machine::here();
            let folders = settings_folders(&machine, &machine::Disk, *kind);
            let folder =
                folders.first().with_context(|| format!("no folder for the settings of {}", kind.label()));
            let path = folder.map_err(Some)?.join("user_settings").join(name);
            if grid_files::put(self.data_dir, &path, entry).map_err(Some)? {
                say(&format!(
                    "{} has a new entry for {} (`rezcache run --undo` takes it out)",
                    path.display(),
                    entry.label
                ));
            }
        }
        say(&plan.said);
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

    /// The viewer as the user would have started it.
    fn without_us(&self) -> Plan {
        Plan {
            arguments: self.viewer.words.clone(),
            environment: Vec::new(),
            grid_file: None,
            through_us: false,
            said: String::new(),
        }
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
