//! `rezcache serve --lan`: the server of a household or a classroom. Finds its addresses, makes what it
//! needs, and prints the line by which proxies join.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use tokio::time::MissedTickBehavior;

use super::print;
use crate::config::{LogFormat, ServeSettings};
use crate::node::household::{self, Household, JoinToken, Role};
use crate::node::{Node, NodeConfig};
use crate::support::interfaces;
use crate::token::join::JoinLine;

/// How often it is looked whether there is another network, and whether the join lines still hold.
const ROUND: Duration = Duration::from_secs(10);
/// The port unless one is given.
const PORT: u16 = 8443;

/// What a running household's server needs beside its node.
pub(super) struct Lan {
    household: Household,
    data_dir: PathBuf,
    teacher_writes: bool,
    /// The address that the user names; `None`: all private ones.
    only: Option<IpAddr>,
    log_format: LogFormat,
    printed: Vec<JoinToken>,
}

impl Lan {
    /// Prepares a household's server, and the configuration of its node.
    pub(super) fn prepare(
        serve: ServeSettings,
        data_dir: PathBuf,
        log_format: LogFormat,
    ) -> anyhow::Result<(Self, NodeConfig)> {
        let (given, teacher_writes) = (serve.listen_given.then_some(serve.listen), serve.teacher_writes);
        let only = given.map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
        let addresses = match only {
            Some(ip) => vec![ip],
            None => {
                interfaces::private_addresses().context("cannot tell which networks this machine is in")?
            }
        };
        let [first, also @ ..] = addresses.as_slice() else {
            bail!(
                "this machine is in no private network: connect it to your home's or classroom's network, or \
                 name an address with --listen"
            );
        };
        let household = Household::open(&data_dir, &serve.audience)?;
        let mut config = serve.into_config(&data_dir);
        config.listen = SocketAddr::new(*first, given.map_or(PORT, |address| address.port()));
        config.also_listen = also.to_vec();
        config.token_keys.push(household.public_key());
        config.trusted_tenants.push(household::TENANT.to_owned());
        let printed = Vec::new();
        Ok((Self { household, data_dir, teacher_writes, only, log_format, printed }, config))
    }

    /// Says how to join, and goes on looking after what changes. Never returns.
    pub(super) async fn look_after(&mut self, node: &mut Node) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_error = String::new();
        loop {
            rounds.tick().await;
            self.follow_networks(node).await;
            if let Err(error) = self.say_how_to_join(node).await {
                let error = format!("{error:#}");
                if error != last_error {
                    tracing::error!(%error, "nobody can join");
                    last_error = error;
                }
            }
        }
    }

    /// Networks come and go with cables and wireless.
    async fn follow_networks(&self, node: &mut Node) {
        let present = match self.only {
            Some(ip) => vec![ip],
            None => interfaces::private_addresses().unwrap_or_default(),
        };
        for ip in &present {
            if let Err(error) = node.listen_also(*ip).await {
                tracing::debug!(%error, "one of this machine's networks is not served");
            }
        }
        let served: Vec<IpAddr> =
            node.addresses().map(|address| address.ip()).filter(|ip| present.contains(ip)).collect();
        node.announce(&served);
    }

    /// Prints the lines when they are new.
    async fn say_how_to_join(&mut self, node: &Node) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let joining = self.household.joining(self.teacher_writes, now)?;
        for id in &joining.withdraw {
            node.revoke_token(id).await?;
        }
        if !joining.withdraw.is_empty() {
            household::forget(&self.data_dir, &joining.withdraw)?;
            tracing::info!("the join line of before, by which everybody could write, is worthless now");
        }
        if joining.tokens == self.printed {
            return Ok(());
        }
        let again = !self.printed.is_empty();
        self.printed = joining.tokens;
        let pin = node.pin().context("a household's node has a certificate")?.parse()?;
        let lines: Vec<(Role, String)> = self
            .printed
            .iter()
            .map(|token| {
                let line =
                    JoinLine { address: node.address(), pin: Clone::clone(&pin), token: token.token.clone() };
                (token.role, line.reveal())
            })
            .collect();
        // The node goes on when nobody reads this.
        let _ = print(&match self.log_format {
            LogFormat::Json => json(node, &lines) + "\n",
            LogFormat::Text => text(node, &lines, again),
        });
        Ok(())
    }
}

fn json(node: &Node, lines: &[(Role, String)]) -> String {
    let addresses: Vec<String> = node.addresses().map(|address| address.to_string()).collect();
    let mut ready = serde_json::json!({
        "listening": node.address().to_string(), "also_listening": addresses.get(1..).unwrap_or_default(),
        "faces": node.faces(), "pin": node.pin(),
    });
    if let Some(ready) = ready.as_object_mut() {
        for (role, line) in lines {
            let name = if *role == Role::Teacher { "join_teacher" } else { "join" };
            ready.insert(name.to_owned(), line.as_str().into());
        }
    }
    ready.to_string()
}

fn text(node: &Node, lines: &[(Role, String)], again: bool) -> String {
    let addresses: Vec<String> = node.addresses().map(|address| address.to_string()).collect();
    let mut text = if again {
        "\nthe join line has changed; whoever has joined before stays, unless you have withdrawn it\n"
            .to_owned()
    } else {
        format!("rezcache serves your home or classroom on {}\n", addresses.join(", "))
    };
    for (role, line) in lines {
        let who = match role {
            Role::Everybody => "everybody joins with this line, once on each computer",
            Role::Pupil => "pupils, who read only, join with this line",
            Role::Teacher => "whoever may also add to the cache joins with this one; keep it from pupils",
        };
        text.push_str(&format!("{who}:\n\n  {line}\n\n"));
    }
    text.push_str(
        "it is a secret: whoever has it, and is in your network, uses this cache. Paste it after\n  \
         rezcache join\nor on the page of a running rezcache, and start proxies with --cache-server auto. To \
         make it worthless:\n  rezcache token revoke --join-lines\n",
    );
    text
}
