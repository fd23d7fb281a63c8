//! Nodes as processes of this host, each on an address of a list: the embedded default, and what tests and small
//! services use. They outlive the director. One that comes after it finds them on the board, and can close them where
//! the system says what a process was started as (Linux); elsewhere they end by themselves when they have drained.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::{Asked, ProvisionError, Provisioner, last_line};
use crate::fleet::array::NodeSpec;

/// A node that does not end by itself after this is told to, and after another killed.
const END: Duration = Duration::from_secs(10);
/// What cannot start says so within this, or listens.
const STARTS: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// The end of a log that is read.
const LOG_END: u64 = 4096;

/// Starts `PROGRAM serve --listen ADDRESS OPTIONS…`.
pub struct ProcessProvisioner {
    program: PathBuf,
    options: Vec<String>,
    addresses: Vec<SocketAddr>,
    logs: PathBuf,
    environment: Vec<(String, String)>,
    /// Whom each address belongs to; `None` while one is being started.
    children: Mutex<HashMap<SocketAddr, Option<Child>>>,
}

impl std::fmt::Debug for ProcessProvisioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment may hold the catalog's password.
        f.debug_struct("ProcessProvisioner").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl ProcessProvisioner {
    /// Nodes of this program with these options, at most one on each address; what they say goes into files of
    /// `logs`.
    #[must_use]
    pub fn new(program: PathBuf, options: Vec<String>, addresses: Vec<SocketAddr>, logs: PathBuf) -> Self {
        Self { program, options, addresses, logs, environment: Vec::new(), children: Mutex::default() }
    }

    /// Nodes get these variables too: what must not be seen on a command line.
    #[must_use]
    pub fn with_environment(self, environment: Vec<(String, String)>) -> Self {
        Self { environment, ..self }
    }

    fn failed(&self, source: std::io::Error) -> ProvisionError {
        ProvisionError::Run { program: self.program.display().to_string(), source }
    }

    fn told(&self, told: String) -> ProvisionError {
        ProvisionError::Failed { program: self.program.display().to_string(), told }
    }

    fn children(&self) -> MutexGuard<'_, HashMap<SocketAddr, Option<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An address of the list that nobody has, kept for who asks. That of a member is its own also when it does not
    /// answer.
    fn reserve(&self, taken: &[String]) -> Option<SocketAddr> {
        let mut children = self.children();
        children.retain(|_, child| {
            child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|ended| ended.is_none()))
        });
        // Others of this host, a node of an earlier director among them, hold theirs.
        let free = |address: &SocketAddr| std::net::TcpListener::bind(address).is_ok();
        let taken = |address: &SocketAddr| taken.contains(&url(*address));
        let fits = |at: &SocketAddr| !children.contains_key(at) && !taken(at) && free(at);
        let found = self.addresses.iter().copied().find(fits)?;
        children.insert(found, None);
        Some(found)
    }

    async fn start(&self, name: &str, address: SocketAddr) -> Result<Child, ProvisionError> {
        std::fs::create_dir_all(&self.logs).map_err(|error| self.failed(error))?;
        let path = self.logs.join(format!("{name}.log"));
        let log = std::fs::File::options().create(true).append(true).open(&path);
        let log = log.map_err(|error| self.failed(error))?;
        let before = log.metadata().map_or(0, |log| log.len());
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--listen").arg(address.to_string()).args(&self.options);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // Ctrl-C at the director's terminal is not meant for the nodes.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| self.failed(error))?;
        let began = Instant::now();
        let mut listens = false;
        while began.elapsed() < STARTS {
            tokio::time::sleep(LOOK).await;
            // What cannot start ends at once: that is told now, not when nobody waits for it any more.
            if child.try_wait().map_err(|error| self.failed(error))?.is_some() {
                return Err(self.told(last_line(&since(&path, before))));
            }
            // Looked at once more: whoever listens may be another one, who has kept ours from it.
            if listens {
                break;
            }
            listens = tokio::net::TcpStream::connect(address).await.is_ok();
        }
        Ok(child)
    }

    /// Ends a child of this director.
    async fn end(&self, mut child: Child) -> Result<(), ProvisionError> {
        // A node that has drained is about to end.
        if tokio::time::timeout(END, child.wait()).await.is_ok() {
            return Ok(());
        }
        #[cfg(unix)]
        if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)) {
            // It is ours and was not waited for: nobody else can have its number.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            if tokio::time::timeout(END, child.wait()).await.is_ok() {
                return Ok(());
            }
        }
        child.kill().await.map_err(|error| self.failed(error))
    }

    /// Ends a node that an earlier director has started.
    #[cfg(target_os = "linux")]
    async fn end_earlier(&self, node: &NodeSpec, address: SocketAddr) -> Result<(), ProvisionError> {
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

        let number = node.handle.strip_prefix("process ").and_then(|number| number.parse::<i32>().ok());
        let Some(pid) = number.filter(|number| *number > 1).and_then(Pid::from_raw) else { return Ok(()) };
        // Held before it is looked at: its number cannot become another process's between look and signal.
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(self.failed(error.into())),
        };
        let program = self.program.clone();
        let lives = || is_node(&program, pid.as_raw_nonzero().get(), address);
        for signal in [None, Some(Signal::TERM), Some(Signal::KILL)] {
            if !lives() {
                return Ok(());
            }
            if let Some(signal) = signal
                && let Err(error) = pidfd_send_signal(&held, signal)
                && error != rustix::io::Errno::SRCH
            {
                return Err(self.failed(error.into()));
            }
            let began = Instant::now();
            while began.elapsed() < END && lives() {
                tokio::time::sleep(LOOK).await;
            }
        }
        if lives() { Err(self.told(format!("{} does not end", node.handle))) } else { Ok(()) }
    }

    #[cfg(not(target_os = "linux"))]
    async fn end_earlier(&self, node: &NodeSpec, _: SocketAddr) -> Result<(), ProvisionError> {
        // It has been told to drain, and ends by itself.
        tracing::info!(
            node = node.name,
            "it was started by an earlier director and is left to end by itself"
        );
        Ok(())
    }
}

/// Whether the process of this number is `PROGRAM serve … --listen ADDRESS …`. One that has ended has no arguments.
#[cfg(target_os = "linux")]
fn is_node(program: &Path, pid: i32, address: SocketAddr) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let [first, second, rest @ ..] = words.as_slice() else { return false };
    let address = address.to_string();
    Path::new(first.as_ref()).file_name() == program.file_name()
        && second == "serve"
        && rest
            .windows(2)
            .any(|pair| matches!(pair, [name, value] if name == "--listen" && *value == address))
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}")
}

/// What was written into a log since it had this length, or the end of it.
fn since(path: &Path, before: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut log = std::fs::File::open(path)?;
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(before.max(end.saturating_sub(LOG_END))))?;
        log.take(LOG_END).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

impl Provisioner for ProcessProvisioner {
    fn open(&self, name: String, taken: Vec<String>) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            let address = self.reserve(&taken).ok_or(ProvisionError::NoRoom)?;
            match self.start(&name, address).await {
                Ok(child) => {
                    let handle = format!("process {}", child.id().unwrap_or(0));
                    self.children().insert(address, Some(child));
                    Ok(NodeSpec { name, url: url(address), addresses: vec![address.ip()], handle })
                }
                Err(error) => {
                    self.children().remove(&address);
                    Err(error)
                }
            }
        })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        Box::pin(async move {
            let address = node.url.strip_prefix("https://").and_then(|at| at.parse::<SocketAddr>().ok());
            let Some(address) = address else { return Ok(()) };
            let is_its = |child: &Child| child.id().is_some_and(|id| node.handle == format!("process {id}"));
            let child = {
                let mut children = self.children();
                // Another one may have its address by now.
                let its = children.get(&address).and_then(Option::as_ref).is_some_and(is_its);
                if its { children.remove(&address).flatten() } else { None }
            };
            match child {
                Some(child) => self.end(child).await,
                None => self.end_earlier(&node, address).await,
            }
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn only_a_node_of_this_address_is_taken_for_one() {
        let at: SocketAddr = "127.0.0.9:8443".parse().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_node(Path::new("/usr/bin/rezcache"), own, at), "this is a test");
        assert!(!is_node(Path::new("/usr/bin/rezcache"), 1, at));
        assert!(!is_node(Path::new("/usr/bin/rezcache"), i32::MAX, at));
    }

    #[test]
    fn the_end_of_a_log_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "old error\n").unwrap();
        let before = std::fs::metadata(&path).unwrap().len();
        assert_eq!(last_line(&since(&path, before)), "no reason given");
        std::fs::write(&path, format!("old error\n{}\nport in use\n", "x".repeat(9000))).unwrap();
        assert_eq!(last_line(&since(&path, before)), "port in use");
        assert!(since(&folder.path().join("none"), 0).is_empty());
    }
}
