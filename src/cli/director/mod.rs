//! `rezcache director`: directs an array of nodes.

mod incident;
mod maintain;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::proxy::{StopSignal, raise_descriptor_limit};
use super::{Outcome, print};
use crate::catalog::{Board, Place};
use crate::config::{
    BoardFlags, DirectorFlags, DirectorSettings, LogFormat, Problems, ProvisionerSettings, Settings,
};
use crate::director::provision::{AwsProvisioner, CommandProvisioner, ProcessProvisioner, Provisioner};
use crate::director::{Alerts, Director, DirectorConfig, Tested};
use crate::fleet::array::ArrayRules;
use crate::fleet::health::HealthRules;
use crate::fleet::names;
use crate::fleet::notices::NoticeRules;
use crate::support::files;

/// What stands at the end of the help.
const EXAMPLES: &str = "Examples:
  rezcache director --config director.toml
  rezcache director maintain otter --until 2h --reason disks --config director.toml
  rezcache director maintain otter --end --config director.toml

Two or more directors run from the same configuration, each on its own machine; the catalog decides which of them
opens and closes nodes.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) flags: DirectorFlags,
    #[command(flatten)]
    pub(super) board: BoardFlags,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Take a node out of DNS by plan, without alarm; or show and end such plans
    Maintain(maintain::Arguments),
    /// Send a message to everybody whom alerts go to, and say what comes of it
    AlertTest,
    /// Tell the public what is going on
    Incident(incident::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Outcome> {
    match arguments.command {
        None => direct(settings).await,
        Some(Command::Maintain(arguments)) => maintain::run(arguments, &settings).await,
        Some(Command::AlertTest) => test_alerts(&settings.director).await,
        Some(Command::Incident(arguments)) => incident::run(arguments, &settings).await,
    }
}

async fn test_alerts(director: &DirectorSettings) -> anyhow::Result<Outcome> {
    let sender = director.zone.as_deref().unwrap_or("rezcache");
    let tested = Alerts::test(&director.alerts, sender).await?;
    if tested.is_empty() {
        bail!("nobody is to be told: write a webhook or a mail server under [alerts]");
    }
    let mut outcome = Outcome::Done;
    for Tested { way, result } in tested {
        match result {
            Ok(()) => print(&format!("{way}: sent\n"))?,
            Err(why) => {
                outcome = Outcome::Failed;
                print(&format!("{way}: {why}\n"))?;
            }
        }
    }
    Ok(outcome)
}

/// The catalog that the directors share.
fn catalog(settings: &Settings) -> Result<Place, Problems> {
    settings.director.catalog().map_err(|missing| Problems::missing(vec![missing], true))
}

/// The same for whoever writes into it. It is there already: one made for a name that was misspelt would be read by
/// no director.
async fn board(settings: &Settings) -> anyhow::Result<Arc<dyn Board>> {
    let place = catalog(settings)?;
    match &place {
        Place::Memory => {
            bail!("a catalog in memory is its director's alone: name one in a file or in PostgreSQL")
        }
        Place::Sqlite(path) if !path.exists() => bail!(
            "there is no catalog {}: is the store or catalog spelt as in the directors' file? name that file with \
             --config; a director makes the catalog at its first start",
            path.display()
        ),
        _ => {}
    }
    place.open_board().await.context("cannot open the catalog")
}

async fn direct(settings: Settings) -> anyhow::Result<Outcome> {
    let missing = settings.director.missing();
    if !missing.is_empty() {
        return Err(Problems::missing(missing, true).into());
    }
    let catalog = catalog(&settings)?;
    let Settings { file, data_dir, director, log_format, .. } = settings;
    std::fs::create_dir_all(&data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
    let name = match &director.name {
        Some(name) => name.clone(),
        None => remembered_name(&data_dir)?,
    };
    let provisioner = provisioner(&director, file.as_deref(), &data_dir)?;
    let memory = Some(data_dir.join("director-nodes.json"));
    let config = DirectorConfig { memory, ..config(director, name, catalog)? };
    let (zone, name) = (config.zone.clone(), config.name.clone());
    raise_descriptor_limit();
    let stop = StopSignal::listen()?;
    let director = Director::start(config, provisioner).await?;
    // The director goes on when nobody reads this.
    let _ = print(&match log_format {
        LogFormat::Json => {
            let ready = serde_json::json!({
                "name": name, "zone": zone, "dns": director.dns_address().to_string(),
                "status": director.status_address().map(|at| at.to_string()),
            });
            format!("{ready}\n")
        }
        LogFormat::Text => {
            let mut text = format!(
                "director {name} answers DNS for {zone} on {} (UDP and TCP)\n",
                director.dns_address()
            );
            if let Some(at) = director.status_address() {
                text.push_str(&format!("its status page is http://{at}/\n"));
            }
            text
        }
    });
    stop.given().await;
    director.stop().await;
    Ok(Outcome::Done)
}

/// An animal, the same at each start.
fn remembered_name(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("director-name");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let name = text.trim();
        if (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Ok(name.to_owned());
        }
    }
    let name = names::unused(rand::random(), &|_| false);
    std::fs::write(&path, name.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(name)
}

/// Where the keys of the store are: as `rezcache serve` finds them.
fn key_file(settings: &DirectorSettings) -> Option<PathBuf> {
    settings.key_file.clone().or_else(|| {
        let folder = files::folder(settings.store.as_ref()?)?;
        let mut name = folder.file_name()?.to_owned();
        name.push(".key");
        Some(folder.with_file_name(name))
    })
}

fn config(settings: DirectorSettings, name: String, catalog: Place) -> anyhow::Result<DirectorConfig> {
    let zone = settings.zone.clone().context("which zone?")?;
    let ours = matches!(settings.provisioner, ProvisionerSettings::Process(_));
    let (mut pins, mut server_name) = (settings.pins.clone(), settings.server_name.clone());
    if pins.is_empty() && server_name.is_none() && settings.ca_file.is_none() {
        match key_file(&settings).filter(|file| ours || file.with_extension("crt").exists()) {
            Some(file) => pins.push(crate::node::pin_beside(&file)?),
            None => server_name = Some(zone.trim_end_matches('.').to_owned()),
        }
    }
    let elastic = !matches!(settings.provisioner, ProvisionerSettings::Static);
    Ok(DirectorConfig {
        name,
        zone,
        name_servers: settings.name_servers,
        ttl: settings.ttl,
        dns_listen: settings.dns_listen,
        nodes: settings.nodes,
        rules: ArrayRules {
            health: HealthRules {
                slow_start: settings.slow_start,
                ..HealthRules::every(settings.probe_interval)
            },
            scaling: elastic.then_some(settings.scaling),
            capacity: settings.capacity,
            notices: NoticeRules::default(),
        },
        catalog,
        server_name,
        pins,
        ca_file: settings.ca_file,
        token: settings.token,
        memory: None,
        alerts: settings.alerts,
        status_listen: settings.status_listen,
        monitoring_public: settings.monitoring_public,
    })
}

fn provisioner(
    settings: &DirectorSettings,
    file: Option<&Path>,
    data_dir: &Path,
) -> anyhow::Result<Option<Arc<dyn Provisioner>>> {
    Ok(Some(match &settings.provisioner {
        ProvisionerSettings::Static => return Ok(None),
        ProvisionerSettings::Command(words) => Arc::new(CommandProvisioner::new(words.clone())),
        ProvisionerSettings::Aws(config) => Arc::new(AwsProvisioner::new(config.clone())?),
        ProvisionerSettings::Process(addresses) => {
            let program = std::env::current_exe().context("this program does not find itself")?;
            // What `[serve]` says in the same file is for these nodes too.
            let mut options = Vec::new();
            if let Some(file) = file {
                options.extend(["--config".to_owned(), file.display().to_string()]);
            }
            let nodes = data_dir.join("nodes");
            options.extend(["--data-dir".to_owned(), nodes.display().to_string()]);
            let mut environment = Vec::new();
            let mut give = |name: &str, value: Option<String>| {
                environment.extend(value.map(|value| (name.to_owned(), value)));
            };
            let store = settings.store.clone();
            give("REZCACHE_STORE", Some(store.context("the provisioner process needs director.store")?));
            give("REZCACHE_CATALOG", settings.catalog_url.as_ref().map(|url| url.reveal().clone()));
            give("REZCACHE_KEY_FILE", key_file(settings).map(|file| file.display().to_string()));
            std::fs::create_dir_all(&nodes).with_context(|| format!("cannot make {}", nodes.display()))?;
            let logs = data_dir.join("node-logs");
            let process = ProcessProvisioner::new(program, options, addresses.clone(), logs);
            Arc::new(process.with_environment(environment))
        }
    }))
}
