//! rezcache: a caching proxy between a Second Life or OpenSimulator viewer and its grid.
//!
//! ```text
//!  layer 3  cli, telemetry, config          the program: arguments, files, logs
//!  layer 2  director, replay, proxy, checks, client, cache, node, upkeep, catalog, store, support   shells that do I/O; support: what they share
//!  layer 1  viewers, session, publication, fetch, scenes, fleet   state machines; no socket, no clock, no file
//!  layer 0  wire, token, lludp, xmlrpc, asset, llsd, xml, grid, redact
//!                                           vocabulary and codecs; bytes in, values out
//! ```
//!
//! A module may use only modules of its own layer that are listed to its right, or of a lower
//! layer; `tests/it/layers.rs` reads the `use crate::` lines and holds us to it.

pub mod asset;
pub mod cache;
pub mod catalog;
pub mod checks;
pub mod cli;
pub mod client;
pub mod config;
pub mod director;
pub mod fetch;
pub mod fleet;
pub mod grid;
pub mod llsd;
pub mod lludp;
pub mod node;
pub mod proxy;
pub mod publication;
pub mod redact;
pub mod replay;
pub mod scenes;
pub mod session;
pub mod store;
pub mod support;
pub mod telemetry;
pub mod token;
pub mod upkeep;
pub mod viewers;
pub mod wire;
pub mod xml;
pub mod xmlrpc;
