//! What is known of viewers: their kinds, where systems install them and keep their settings, with what
//! each is started so that it comes to us, how an entry gets into and out of their grid files, and
//! how long the proxy is needed after one.
//!
//! Decides only: what is in a folder, and in the environment, is told by the caller, so that the rules for
//! every system are tried on any of them.
//!
//! Source: Firestorm, newview/fsgridhandler.cpp (`--grid` with an address; `--loginuri` is read by nothing);
//! Second Life viewer (Nov 2025), newview/app_settings/cmd_line.xml (`--grid` with a key name; an option that
//! is not in it, such as `--loginuri`, ends the start) and newview/llviewernetwork.cpp (grids.xml); Alchemy,
//! newview/llviewernetwork.cpp (the same with grids_user.xml); Cool VL and Singularity,
//! newview/app_settings/cmd_line.xml (`--loginuri`); Radegast, its `--help` (`--loginuri`).

pub mod grid_file;
mod kind;
pub mod known_grids;
mod linger;
mod places;
mod plan;

pub use kind::Kind;
pub use linger::{Linger, Stay, Use};
pub use places::{Entry, Folders, Installed, Machine, System, program_of_bundle, settings_folders};
pub use plan::{Plan, Target, plan};
