//! What the shells of layer 2 share.

pub mod addresses;
pub mod counters_file;
pub mod files;
pub mod history;
pub mod interfaces;
pub mod json_file;
pub mod mdns;
pub mod metrics;
pub(crate) mod page_text;
pub(crate) mod patient;
pub mod pin;
pub mod private_file;
pub mod process;
pub mod prometheus;
pub mod status;
pub(crate) mod trust;
