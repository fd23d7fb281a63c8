//! The director: probes the nodes of the service's array, answers DNS with those that are well, and, when it leads
//! among the directors, opens and closes nodes and tells the operators. The decisions are in [`crate::fleet`].

mod alerts;
pub mod dns;
pub mod incidents;
mod probe;
pub mod provision;
mod run;

pub use alerts::{AlertConfig, AlertError, Alerts, MailConfig, MailTls, Tested, Tries};
pub use probe::{NodeAddress, Prober};
pub use run::{Director, DirectorConfig, DirectorError, Picture};
