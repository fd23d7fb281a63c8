//! The viewer's process.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::viewers::Plan;

/// How often we look whether it has ended.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to save its settings when it is asked to end.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A viewer that was started.
pub(super) struct Viewer {
    child: Child,
    started: Instant,
}

impl Viewer {
    /// Starts it, with the words and the environment of the plan.
    pub(super) fn start(program: &Path, plan: &Plan) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.args(&plan.arguments).envs(plan.environment.iter().map(|(name, value)| (name, value)));
        // Ours may hold addresses with secrets, and a viewer's plugins see its environment.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::inherit()).spawn()?;
        Ok(Self { child, started: Instant::now() })
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
        if self.child.try_wait()?.is_none() {
            self.ask_to_end();
        }
        match tokio::time::timeout(END_PATIENCE, self.ended()).await {
            Ok(status) => status,
            Err(_) => {
                self.child.kill()?;
                self.ended().await
            }
        }
    }

    /// As a user's session does when it ends, so that it logs out and saves. What the standard library has
    /// for that would leave it no time.
    fn ask_to_end(&self) {
        let id = self.child.id().to_string();
        #[cfg(unix)]
        let asking = Command::new("/bin/sh").args(["-c", "kill -TERM \"$1\"", "sh", &id]).spawn();
        #[cfg(windows)]
        let asking = Command::new("taskkill").args(["/PID", &id]).stdout(Stdio::null()).spawn();
        // If that fails, patience runs out.
        if let Ok(mut asking) = asking {
            let _ = asking.wait();
        }
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
