//! The viewer's process.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::viewers::Plan;

/// How often we look whether it has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to save its settings when it is asked to end.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// The variable by which viewers are told where assets come from.
pub(super) const ASSET_ADDRESS: &str = "VIEWERASSET";
/// The same for what its first process has started.
const LOOK_AT_GROUP: Duration = Duration::from_millis(200);

/// What is done to a viewer that is to end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Ask,
    Look,
    Kill,
}

/// A viewer that was started.
pub(super) struct Viewer {
    child: Child,
    started: Instant,
    /// Whether its process group has its number.
    grouped: bool,
}

impl Viewer {
    /// Starts it, with the words and the environment of the plan.
    ///
    /// On Unix it gets a process group of its own, so that all of it is asked to end when a script has started
    /// it, unless it may be a `text` viewer: in such a group it could not read from the terminal.
    pub(super) fn start(program: &Path, plan: &Plan, text: bool) -> io::Result<Self> {
        let terminal = io::stdin().is_terminal();
        let grouped = cfg!(unix) && !(text && terminal);
        let mut command = Command::new(program);
        command.args(&plan.arguments).envs(plan.environment.iter().map(|(name, value)| (name, value)));
        // Ours may hold addresses with secrets, and a viewer's plugins see its environment.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        if plan.clears_asset_address {
            command.env_remove(ASSET_ADDRESS);
        }
        #[cfg(unix)]
        if grouped {
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        // What reads from a terminal whose group is another one is stopped.
        command.stdin(if grouped && terminal { Stdio::null() } else { Stdio::inherit() });
        let child = command.spawn()?;
        Ok(Self { child, started: Instant::now(), grouped })
    }

    /// How long it has been running.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until it ends.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks it to end, and sees to it.
    pub(super) async fn end(&mut self) -> io::Result<ExitStatus> {
        self.tell(Ending::Ask).await;
        let all = async {
            let status = self.ended().await;
            while self.grouped && self.tell(Ending::Look).await {
                tokio::time::sleep(LOOK_AT_GROUP).await;
            }
            status
        };
        match tokio::time::timeout(END_PATIENCE, all).await {
            Ok(status) => status,
            Err(_) => {
                self.tell(Ending::Kill).await;
                if self.child.try_wait()?.is_none() {
                    self.child.kill()?;
                }
                self.ended().await
            }
        }
    }

    /// As a user's session does when it ends, so that it logs out and saves. What the standard library has
    /// for that would leave it no time, and knows the first process only. Whether there was anybody to tell.
    async fn tell(&self, ending: Ending) -> bool {
        let id = self.child.id();
        #[cfg(unix)]
        let mut telling = {
            let signal = match ending {
                Ending::Ask => "TERM",
                Ending::Look => "0",
                Ending::Kill => "KILL",
            };
            let whom = if self.grouped { format!("-{id}") } else { id.to_string() };
            let mut telling = Command::new("/bin/sh");
            telling.args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal, &whom]);
            telling
        };
        #[cfg(windows)]
        let mut telling = {
            let mut telling = Command::new("taskkill");
            if matches!(ending, Ending::Kill) {
                telling.arg("/F");
            }
            telling.args(["/T", "/PID", &id.to_string()]);
            telling
        };
        telling.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // If that fails, patience runs out.
        let told = tokio::task::spawn_blocking(move || telling.status()).await;
        told.is_ok_and(|status| status.is_ok_and(|status| status.success()))
    }
}

fn is_ours(name: &OsString) -> bool {
    name.to_string_lossy().starts_with("REZCACHE_")
}

/// Its status as ours: that of a signal as shells tell it, and never 0 for a failure.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128));
    }
    match status.code() {
        Some(0) => 0,
        Some(code) => u8::try_from(code).unwrap_or(1),
        None => 1,
    }
}
