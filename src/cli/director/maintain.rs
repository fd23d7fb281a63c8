//! `rezcache director maintain`: planned absence of nodes.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::Args;

use super::{Outcome, print};
use crate::catalog::{Board, Fact, FactKind};
use crate::cli::times;
use crate::config::Settings;
use crate::fleet::array::{Maintenance, NodeFact};

/// The most characters of a reason.
const MAX_REASON: usize = 200;

#[derive(Args, Debug)]
pub(in crate::cli) struct Arguments {
    /// The node, by its name; without it, what is planned is shown
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// Until when: 2h from now, or 2026-11-25T18:30:00Z
    #[arg(long, value_name = "TIME", requires_all = ["node", "reason"])]
    until: Option<String>,
    /// Why, in words for the public
    #[arg(long, value_name = "TEXT", requires_all = ["node", "until"])]
    reason: Option<String>,
    /// It is back before its time
    #[arg(long, requires = "node", conflicts_with_all = ["until", "reason"])]
    end: bool,
}

pub(super) async fn run(arguments: Arguments, settings: &Settings) -> anyhow::Result<Outcome> {
    let board = super::board(settings).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let Some(node) = arguments.node else {
        print(&plans(board.as_ref(), now).await?)?;
        return Ok(Outcome::Done);
    };
    if arguments.end {
        if !board.drop_fact(FactKind::Maintenance, node.clone(), 0).await? {
            bail!("no maintenance of {node} is planned");
        }
        print(&format!("{node} is named by DNS again as soon as it is well\n"))?;
        return Ok(Outcome::Done);
    }
    let (Some(until), Some(reason)) = (arguments.until, arguments.reason) else {
        bail!("until when, and why? --until 2h --reason \"new disks\"; or --end when it is back");
    };
    let until = times::moment_to_come(&until, now).map_err(anyhow::Error::msg)?;
    let reason: String = reason.trim().chars().filter(|c| !c.is_control()).collect();
    if reason.is_empty() || reason.chars().count() > MAX_REASON {
        bail!("a reason is 1 to {MAX_REASON} characters: the public reads it");
    }
    known(board.as_ref(), settings, &node).await?;
    let record = serde_json::to_vec(&Maintenance { until, reason })?;
    board.put_fact(FactKind::Maintenance, Fact { name: node.clone(), at: now, record }, 0).await?;
    let time = times::ago(until - now);
    print(&format!(
        "{node} leaves DNS within seconds, without alarm, for {time}; wait for the TTL before you stop it\n"
    ))?;
    Ok(Outcome::Done)
}

/// A slip of the pen would leave the node that was meant in DNS.
async fn known(board: &dyn Board, settings: &Settings, node: &str) -> anyhow::Result<()> {
    let opened = board.facts(FactKind::Node).await?;
    let opened = opened.iter().filter_map(|fact| serde_json::from_slice::<NodeFact>(&fact.record).ok());
    let mut names: Vec<_> = settings.director.nodes.iter().map(|node| node.name.clone()).collect();
    names.extend(opened.map(|fact| fact.spec.name));
    if names.is_empty() {
        bail!(
            "no node is known here, neither to the file nor to this catalog: is it the directors' own? name their file \
             with --config, whose [[node]] sections it reads"
        );
    }
    if names.iter().any(|name| name == node) {
        return Ok(());
    }
    bail!("there is no node {node}; there are {}", names.join(", "));
}

async fn plans(board: &dyn Board, now: u64) -> anyhow::Result<String> {
    let mut text = String::new();
    for fact in board.facts(FactKind::Maintenance).await? {
        let Ok(plan) = serde_json::from_slice::<Maintenance>(&fact.record) else { continue };
        if plan.until > now {
            let _ = writeln!(text, "{}  {} more  {}", fact.name, times::ago(plan.until - now), plan.reason);
        }
    }
    if text.is_empty() {
        text.push_str("no maintenance is planned\n");
    }
    Ok(text)
}
