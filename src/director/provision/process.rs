//! Nodes as processes of this host, each on an address of a list: the embedded default, and what tests and small
//! services use. They outlive the director, which finds them again on the board.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::{Asked, ProvisionError, Provisioner};
use crate::fleet::array::NodeSpec;

/// A node that does not end by itself after this is killed.
const END: Duration = Duration::from_secs(10);

/// Starts `PROGRAM serve --listen ADDRESS OPTIONS…`.
pub struct ProcessProvisioner {
    program: PathBuf,
    options: Vec<String>,
    addresses: Vec<SocketAddr>,
    logs: PathBuf,
    environment: Vec<(String, String)>,
    children: Mutex<HashMap<SocketAddr, Child>>,
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

    fn free(&self, children: &mut HashMap<SocketAddr, Child>) -> Option<SocketAddr> {
        children.retain(|_, child| child.try_wait().is_ok_and(|ended| ended.is_none()));
        // Others of this host, a node of an earlier director among them, hold theirs.
        let free = |address: &SocketAddr| std::net::TcpListener::bind(address).is_ok();
        self.addresses.iter().copied().find(|address| !children.contains_key(address) && free(address))
    }
}

impl Provisioner for ProcessProvisioner {
    fn open(&self, name: String) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            // Held until the node has its address: another one that is opened now must not get the same.
            let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
            let address = self.free(&mut children).ok_or(ProvisionError::NoRoom)?;
            std::fs::create_dir_all(&self.logs).map_err(|error| self.failed(error))?;
            let log = std::fs::File::options()
                .create(true)
                .append(true)
                .open(self.logs.join(format!("{name}.log")))
                .map_err(|error| self.failed(error))?;
            let mut command = Command::new(&self.program);
            command.arg("serve").arg("--listen").arg(address.to_string()).args(&self.options);
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            // Ctrl-C at the director's terminal is not meant for the nodes.
            #[cfg(unix)]
            command.process_group(0);
            let child = command.spawn().map_err(|error| self.failed(error))?;
            let handle = format!("process {}", child.id().unwrap_or(0));
            children.insert(address, child);
            Ok(NodeSpec { name, url: format!("https://{address}"), addresses: vec![address.ip()], handle })
        })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        Box::pin(async move {
            let address = node.url.strip_prefix("https://").and_then(|at| at.parse::<SocketAddr>().ok());
            let child = address.and_then(|address| {
                self.children.lock().unwrap_or_else(PoisonError::into_inner).remove(&address)
            });
            // One of an earlier director has been told to drain, and ends by itself.
            let Some(mut child) = child else { return Ok(()) };
            // A node that has drained is about to end.
            if tokio::time::timeout(END, child.wait()).await.is_err() {
                child.kill().await.map_err(|error| self.failed(error))?;
            }
            Ok(())
        })
    }
}
