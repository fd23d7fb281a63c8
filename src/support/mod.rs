//! What the shells of layer 2 share.

pub mod metrics;
