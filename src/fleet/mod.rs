//! The array's control loop, as pure machines: what probes say of the nodes, whom DNS names, when to open and
//! close nodes, and which of all that is worth telling the operators.
//!
//! No socket, no clock, no file: times are `Instant`s that the shell hands in, and what is to be done comes back
//! as values. The shell is the director, which probes, answers DNS and asks a provisioner for nodes.

pub mod alarms;
pub mod answers;
pub mod array;
pub mod costs;
pub mod health;
pub mod history;
pub mod incidents;
pub mod names;
pub mod notices;
pub mod report;
pub mod scaling;
pub mod series;
#[doc(hidden)]
pub mod simulation;
