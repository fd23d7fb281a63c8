//! The director: answers DNS for the service's zone with the nodes that are well.

pub mod dns;
