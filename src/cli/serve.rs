//! `rezcache serve`: a node of the shared cache service.

use std::io::Write as _;

use clap::Args;

use super::proxy::{StopSignal, raise_descriptor_limit};
use super::serve_lan::Lan;
use super::{Outcome, print};
use crate::config::{LogFormat, ServeFlags, Settings};
use crate::node::{Node, NodeConfig};

/// What stands at the end of the help.
const EXAMPLES: &str = "Examples:
  rezcache serve                             for the programs of this machine
  rezcache serve --lan                       for a home or a classroom; prints the line to join by
  rezcache serve --lan --teacher-writes      the same with a line for pupils and one for teachers
  rezcache serve --lan --listen 192.168.1.5:8443

A join line is a secret: whoever has it, and is in your network, uses the cache.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) flags: ServeFlags,
}

pub(super) async fn run(settings: Settings) -> anyhow::Result<Outcome> {
    let Settings { serve, log_format, data_dir, .. } = settings;
    if serve.lan {
        let (lan, config) = Lan::prepare(serve, data_dir, log_format)?;
        return household(lan, config).await;
    }
    let config = serve.into_config(&data_dir);
    let loopback = config.listen.ip().is_loopback();
    let (store, plain) = (config.store.clone(), config.plain_http);
    raise_descriptor_limit();
    let node = Node::start(config).await?;
    let stop = StopSignal::listen()?;
    let scheme = if plain { "http" } else { "https" };
    let pin = node.pin().map_or(String::new(), |pin| format!("#pin={pin}"));
    // The node goes on when nobody reads this.
    let _ = print(&match log_format {
        LogFormat::Json => {
            let ready = serde_json::json!({
                "listening": node.address().to_string(), "faces": node.faces(), "pin": node.pin(),
            });
            format!("{ready}\n")
        }
        LogFormat::Text => {
            let mut text = format!(
                "rezcache serves the cache in {store}\n  rezcache proxy --cache-server '{scheme}://{}{pin}'\n",
                node.address()
            );
            if loopback {
                text.push_str(
                    "only programs on this machine reach it; for your home or classroom: rezcache serve \
                     --lan\n",
                );
            }
            text
        }
    });
    tokio::select! {
        () = stop.given() => {}
        () = node.asked_to_go() => {}
    }
    end(node).await
}

async fn household(mut lan: Lan, config: NodeConfig) -> anyhow::Result<Outcome> {
    raise_descriptor_limit();
    let mut node = Node::start(config).await?;
    let stop = StopSignal::listen()?;
    let asked_to_go = node.going();
    tokio::select! {
        () = stop.given() => {}
        () = asked_to_go => {}
        () = lan.look_after(&mut node) => {}
    }
    end(node).await
}

async fn end(node: Node) -> anyhow::Result<Outcome> {
    let _ = writeln!(std::io::stderr(), "finishing what runs");
    node.stop().await;
    Ok(Outcome::Done)
}
