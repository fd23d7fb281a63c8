//! `rezcache replay`: captured sessions through the real proxy.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{Outcome, print};
use crate::config::{CacheServerFlags, ReplayFlags, Settings};
use crate::replay::{self, Progress, ReplayOptions};

#[derive(Args, Debug)]
#[command(after_help = super::examples::REPLAY)]
pub(super) struct Arguments {
    /// Captures in pcap or pcapng form, or folders of them
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) flags: ReplayFlags,
    #[command(flatten)]
    pub(super) service: CacheServerFlags,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Outcome> {
    let Arguments { captures, json, .. } = arguments;
    let options = ReplayOptions {
        captures,
        passes: settings.replay.passes,
        save: settings.replay.save,
        link: settings.replay.link,
        realtime: settings.replay.realtime,
        service: settings.replay.service,
        // Only where the user says so are stores left behind.
        data_dir: settings.data_dir_given.then_some(settings.data_dir),
    };
    let report = replay::run(options, tell).await?;
    print(&if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() })?;
    let ok = report.captures.iter().all(|capture| capture.ok);
    Ok(if ok { Outcome::Done } else { Outcome::Failed })
}

/// One line to standard error for each capture that is done, so that the report stays alone on
/// standard output.
fn tell(progress: Progress) {
    if let Progress::CaptureDone { file, ok } = progress {
        let _ = writeln!(std::io::stderr(), "{}  {file}", if ok { "ok    " } else { "FAILED" });
    }
}
