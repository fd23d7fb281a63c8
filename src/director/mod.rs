//! The director: probes the nodes of the service's array, answers DNS with those that are well, and, when it leads
//! among the directors, opens and closes nodes and tells the operators. The decisions are in [`crate::fleet`].

mod alerts;
mod chronicle;
mod config;
pub mod dns;
mod following;
pub mod incidents;
mod memory;
mod probe;
pub mod provision;
mod run;
mod status;

pub use alerts::{AlertConfig, AlertError, Alerts, MailConfig, MailTls, Tested, Tries};
pub use chronicle::DirectorView;
pub use config::{DirectorConfig, DirectorError, Picture};
pub use probe::{Looked, NodeAddress, Prober};
pub use run::Director;
