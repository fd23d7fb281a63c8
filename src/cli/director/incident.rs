//! `rezcache director incident`: what operators tell the public, and what programs have reported.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};

use super::{Outcome, print};
use crate::cli::times;
use crate::config::Settings;
use crate::director::incidents;
use crate::fleet::incidents::{Incident, NewIncident};
use crate::fleet::notices::Severity;

/// What stands at the end of the help.
const EXAMPLES: &str = "Examples:
  rezcache director incident open \"Slow in the evening\" --affects otter --text \"We are looking into it.\"
  rezcache director incident update 12 \"A disk is slow; it is being replaced.\"
  rezcache director incident close 12 \"The disk is replaced.\"

What is written here is shown to everybody on the status page.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Tell of something that is going on
    Open {
        /// In a few words
        #[arg(value_name = "TITLE")]
        title: String,
        /// How bad it is
        #[arg(long, value_enum, default_value = "warning")]
        severity: Bad,
        /// Members it is about, by their names
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        affects: Vec<String>,
        /// More of it
        #[arg(long, value_name = "TEXT", default_value = "")]
        text: String,
    },
    /// Say more of one that is open
    Update {
        /// Its number
        #[arg(value_name = "NUMBER")]
        id: u32,
        /// What there is to say
        #[arg(value_name = "TEXT")]
        text: String,
    },
    /// Say that it is over
    Close {
        /// Its number
        #[arg(value_name = "NUMBER")]
        id: u32,
        /// What there is to say
        #[arg(value_name = "TEXT", default_value = "")]
        text: String,
    },
    /// Show those there are; open ones only, unless all are asked for
    List {
        /// Closed ones too
        #[arg(long)]
        all: bool,
    },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Bad {
    /// Hardly anybody notices
    Warning,
    /// Many notice
    Critical,
}

pub(super) async fn run(arguments: Arguments, settings: &Settings) -> anyhow::Result<Outcome> {
    let board = super::board(settings).await?;
    let board = board.as_ref();
    let text = match arguments.command {
        Command::Open { title, severity, affects, text } => {
            let severity = match severity {
                Bad::Warning => Severity::Warning,
                Bad::Critical => Severity::Critical,
            };
            let new = NewIncident { title, severity, affected: affects, text };
            let incident = incidents::open(board, new).await?;
            format!("incident {} is open: {}\n", incident.id, incident.title)
        }
        Command::Update { id, text } => {
            let incident = incidents::update(board, id, text).await?;
            format!("incident {id} says so: {}\n", incident.title)
        }
        Command::Close { id, text } => {
            let incident = incidents::close(board, id, text).await?;
            format!("incident {id} is closed: {}\n", incident.title)
        }
        Command::List { all } => list(&incidents::list(board).await?, all),
    };
    print(&text)?;
    Ok(Outcome::Done)
}

fn list(incidents: &[Incident], all: bool) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut text = String::new();
    for incident in incidents.iter().filter(|incident| all || incident.closed.is_none()) {
        let severity = match incident.severity {
            Severity::Critical => "critical",
            Severity::Warning => "warning ",
        };
        let state = incident.closed.map_or_else(
            || format!("open for {}", times::ago(now.saturating_sub(incident.opened))),
            |closed| format!("closed {} ago", times::ago(now.saturating_sub(closed))),
        );
        let _ = writeln!(text, "{:>4}  {severity}  {state}  {}", incident.id, incident.title);
        if let Some(update) = incident.updates.last() {
            let _ = writeln!(text, "      {}", update.text.replace('\n', "\n      "));
        }
    }
    if text.is_empty() {
        text.push_str(if all { "there was no incident\n" } else { "no incident is open\n" });
    }
    text
}
