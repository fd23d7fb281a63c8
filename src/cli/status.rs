//! `rezcache status`: asks a running proxy's control port and shows the answer.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::instructions::page_address;
use super::{Outcome, print};
use crate::config::{ControlFlag, Settings, token};
use crate::support::status::{Status, human_bytes, percent};

/// Our own answers take a few kilobytes; something else may listen there.
const MAX_BYTES: usize = 1 << 20;

#[derive(Args, Debug)]
#[command(after_help = super::examples::STATUS)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) control: ControlFlag,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    /// Print the address of the page with the key that its buttons need, and nothing else
    #[arg(long, conflicts_with = "json")]
    address: bool,
}

pub(super) async fn run(arguments: &Arguments, settings: &Settings) -> anyhow::Result<Outcome> {
    let Some(control) = settings.proxy.control else {
        bail!("the control port is off; name one with --control");
    };
    if arguments.address {
        let token = token::read_or_make(&settings.data_dir, token::CONTROL_FILE_NAME)?;
        print(&(page_address(control, &token) + "\n"))?;
        return Ok(Outcome::Done);
    }
    let json = fetch(control).await?;
    let status: Status = serde_json::from_slice(&json).with_context(|| {
        format!("what answers on {control} is not this rezcache; name its control port with --control")
    })?;
    if arguments.json {
        print(&String::from_utf8_lossy(&json))?;
    } else {
        print(&table(&status))?;
    }
    Ok(Outcome::Done)
}

async fn fetch(control: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(5))
        .build()?;
    let mut response =
        client.get(format!("http://{control}/status.json")).send().await.map_err(|error| {
            let hint = if error.is_connect() {
                format!(
                    "no rezcache proxy is running on {control}; start one with `rezcache proxy`, or name its control port with --control"
                )
            } else {
                format!("no answer from {control}")
            };
            anyhow::Error::new(error).context(hint)
        })?;
    if !response.status().is_success() {
        bail!("{control} answered {}; name rezcache's control port with --control", response.status());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            bail!("what answers on {control} is not rezcache; name its control port with --control");
        }
    }
    Ok(body)
}

fn table(status: &Status) -> String {
    let mut text = format!(
        "rezcache {}, running for {} s\n{}\n\n{:<11}{:>9}{:>9}{:>9}{:>12}\n",
        status.version,
        status.uptime_s,
        status.sentence(),
        "asset",
        "requests",
        "hits",
        "rate",
        "saved"
    );
    let rows = status.by_kind.iter().map(|(kind, assets)| (kind.name(), assets));
    for (name, assets) in rows.chain([("all", &status.assets)]) {
        let rate = assets.hit_rate.map_or_else(|| "-".into(), percent);
        let saved = human_bytes(assets.bytes_saved);
        let _ = writeln!(text, "{name:<11}{:>9}{:>9}{rate:>9}{saved:>12}", assets.requests, assets.hits);
    }
    let (datagrams, store) = (&status.datagrams, &status.store);
    let _ = write!(
        text,
        "\nin flight  {} requests, {} sessions\nwaiting    {:.1} s saved, by estimate\nstore      {} assets, {} of {}\ndatagrams  {} forwarded, {} malformed, {} dropped\n",
        status.requests_in_flight,
        status.sessions.open,
        status.saved.ms_saved.saturating_sub(status.saved.ms_lost) as f64 / 1000.0,
        store.objects,
        human_bytes(store.bytes),
        human_bytes(store.limit),
        datagrams.forwarded,
        datagrams.malformed,
        datagrams.dropped,
    );
    if let Some(sentence) = status.service_sentence() {
        let _ = writeln!(text, "service    {sentence}");
    }
    if let Some(lan) = &status.lan {
        let _ =
            writeln!(text, "at home    {} joined, {} others announce themselves", lan.joined, lan.unknown);
    }
    let uploads = &status.uploads;
    let limit = if uploads.limit == 0 {
        "no limit".to_owned()
    } else {
        format!("at most {}/s", human_bytes(uploads.limit))
    };
    let _ = writeln!(
        text,
        "uploads    {} waiting ({}), {} attested, {} sent ({}), {} refused, {} dropped; {limit}{}",
        uploads.waiting,
        human_bytes(uploads.waiting_bytes),
        uploads.attested,
        uploads.sent,
        human_bytes(uploads.bytes),
        uploads.refused,
        uploads.dropped,
        if uploads.paused { "; paused" } else { "" },
    );
    text
}
