//! Where nodes come from and go to. One trait; the array's control loop knows nothing of clouds.

mod aws;
mod command;
mod process;
mod sigv4;

use std::pin::Pin;

use crate::fleet::array::NodeSpec;

pub use aws::{AwsConfig, AwsProvisioner, AwsTimes};
pub use command::{CommandConfig, CommandProvisioner};
pub use process::ProcessProvisioner;

/// Why a node could not be opened or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// No place is left where one could be.
    #[error("no address is left for another node; name more of them")]
    NoRoom,
    /// A program could not be run.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program, or a service, failed.
    #[error("{program} failed: {told}")]
    Failed {
        /// The program.
        program: String,
        /// What it said last.
        told: String,
    },
    /// It answered in a way that means nothing.
    #[error("{program} was to print {wanted}")]
    Answer {
        /// The program.
        program: String,
        /// What was expected.
        wanted: &'static str,
    },
    /// It took too long.
    #[error("{0} took too long")]
    Slow(String),
}

/// What a provisioner is asked.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, ProvisionError>> + Send + 'a>>;

/// Opens and closes nodes.
pub trait Provisioner: Send + Sync {
    /// Opens a node of this name, at none of the URLs that members have. It need not be ready when this returns, only
    /// on its way.
    fn open(&self, name: String, taken: Vec<String>) -> Asked<'_, NodeSpec>;
    /// Closes a node, drained or not; of one that is gone already this is done.
    fn close(&self, node: NodeSpec) -> Asked<'_, ()>;
}

/// What a program said last, for people: one line, not long.
fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}
