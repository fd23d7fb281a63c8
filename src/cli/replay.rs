//! `rezcache replay`: captured sessions through the real proxy.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::Outcome;
use crate::config::{ReplayFlags, Settings};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Captures in pcap or pcapng form, or folders of them
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) flags: ReplayFlags,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Outcome> {
    let _ = (arguments.captures, arguments.json, settings.replay, Outcome::Failed);
    bail!("replay is not in this build yet")
}
