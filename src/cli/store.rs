//! `rezcache store`: what an operator does to the store of a service.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use super::progress::Teller;
use super::{Outcome, print, times};
use crate::asset::{AssetId, AssetKey, AssetKind};
use crate::config::{ServeFlags, Settings};
use crate::grid::{GridId, Origin};
use crate::node::NodeConfig;
use crate::publication::Policy;
use crate::store::blobs::{Blobs, OpenError};
use crate::store::keys::KeyRing;
use crate::support::status::human_bytes;
use crate::upkeep::{self, Findings, HOLD_DAYS, Liar, Stat, Stores, UpkeepError, Verified};

/// Findings printed one by one.
const MAX_LINES: usize = 20;

#[derive(Args, Debug)]
#[command(after_help = super::examples::STORE)]
pub(super) struct Arguments {
    /// Where the sealed assets are: file:///DIR or s3://BUCKET/PREFIX [default: DATA-DIR/store]
    #[arg(
        long,
        global = true,
        help_heading = "Store options",
        value_name = "URL",
        env = "REZCACHE_STORE",
        hide_env_values = true
    )]
    store: Option<String>,
    /// Where is kept what is known beside the bytes: postgres://…, or sqlite:///FILE. Others see the command
    /// line: a password belongs into the environment or the file [default: SQLite in a directory store, else
    /// in DATA-DIR]
    #[arg(
        long,
        global = true,
        help_heading = "Store options",
        value_name = "URL",
        env = "REZCACHE_CATALOG",
        hide_env_values = true
    )]
    catalog: Option<String>,
    /// The file with the keys of the store [default: STORE.key beside a directory]
    #[arg(
        long,
        global = true,
        help_heading = "Store options",
        value_name = "FILE",
        env = "REZCACHE_KEY_FILE",
        hide_env_values = true
    )]
    key_file: Option<PathBuf>,
    /// Print one closing JSON object
    #[arg(long, global = true, help_heading = "Store options")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Read everything: every blob opens and has its digest, every record names blobs that are there
    Verify {
        /// Have damaged and missing contents brought again by whoever has them, and put damaged blobs and
        /// uploads that broke off away
        #[arg(long)]
        repair: bool,
    },
    /// Tell what is known of one asset, and why it is served or not
    Stat {
        /// The asset as GRID/KIND/UUID, such as grid.example:8002/texture/89556747-24cb-43ed-920b-47caed15465f
        #[arg(value_name = "GRID/KIND/UUID")]
        key: String,
    },
    /// Show, copy and change the keys of the store
    Keys {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Seal anew with the newest key whatever older ones have sealed; goes on where it broke off
    Reseal,
    /// Void what a liar has said, and serve no longer what only it published
    Distrust(Distrust),
    /// Destroy what was taken down and whose time in the hold is over; nodes do so themselves after 30 days
    Prune {
        /// Prune the hold
        #[arg(long, required = true)]
        hold: bool,
        /// What has been there for longer
        #[arg(long, value_name = "SPAN", default_value = "30d")]
        older_than: String,
        /// Only tell what would be destroyed
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Subcommand, Debug)]
enum KeyCommand {
    /// Tell which keys the file holds, never the keys themselves
    List,
    /// Copy the keys into a new file; keep it where the store is not
    Export {
        /// The new file
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Take the keys of a file over into the store's key file, after trying them on the store
    Import {
        /// The file, as `export` made it
        #[arg(value_name = "FILE")]
        from: PathBuf,
    },
    /// Add a new key, which seals from the next start of each node on; `reseal` writes the rest anew
    Rotate,
}

#[derive(Args, Debug)]
struct Distrust {
    /// The liar, by the subject of its token
    #[arg(long, value_name = "SUBJECT", required_unless_present_any = ["origin", "tenant"], conflicts_with_all = ["origin", "tenant"])]
    principal: Option<String>,
    /// Whatever came through this host of a grid
    #[arg(long, value_name = "HOST", requires = "grid", conflicts_with = "tenant")]
    origin: Option<String>,
    /// The origin's grid
    #[arg(long, value_name = "GRID")]
    grid: Option<String>,
    /// All members of a tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only what was said since then: 2026-11-25, 2026-11-25T18:30:00Z, or 36h for so long ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only tell what it would come to
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    /// The same as `serve` is told.
    pub(super) fn flags(&self) -> ServeFlags {
        ServeFlags {
            store: self.store.clone(),
            catalog: self.catalog.clone(),
            key_file: self.key_file.clone(),
            ..ServeFlags::default()
        }
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Outcome> {
    let Arguments { json, command, .. } = arguments;
    let config = settings.serve.into_config(&settings.data_dir);
    let now = upkeep::now();
    let open = || Stores::open(&config.store, &config.catalog, &config.key_file);
    match command {
        Command::Verify { repair } => {
            let teller = Teller::new("reading blobs");
            let report = open().await?.verify(repair, now, &|done, total| teller.tell(done, total)).await?;
            drop(teller);
            tell(json, &report, || verified(&report, repair))?;
            Ok(if report.ok { Outcome::Done } else { Outcome::Failed })
        }
        Command::Stat { key } => {
            let Some(key) = asset(&key) else {
                return misused(&format!(
                    "`{key}` is no asset; write GRID/KIND/UUID, for instance grid.example:8002/texture/89556747-24cb-43ed-920b-47caed15465f; kinds are {}",
                    kinds()
                ));
            };
            let policy = config.policy(&key.grid);
            let stat = open().await?.stat(&key, policy, now).await?;
            tell(json, &stat, || stat_text(&stat, now))?;
            Ok(Outcome::Done)
        }
        Command::Keys { command } => keys(command, &config, json).await,
        Command::Reseal => {
            let teller = Teller::new("sealing anew");
            let report = open().await?.reseal(now, &|done, total| teller.tell(done, total)).await?;
            drop(teller);
            tell(json, &report, || {
                let mut text = format!(
                    "{} blobs ({}) and {} records were sealed anew with key {}; {} were sealed with it already\n",
                    report.blobs,
                    human_bytes(report.bytes),
                    report.records,
                    report.key,
                    report.passed_over,
                );
                if report.unreadable > 0 {
                    let _ = writeln!(
                        text,
                        "{} cannot be opened and stay as they are; see rezcache store verify",
                        report.unreadable
                    );
                }
                text
            })?;
            Ok(if report.unreadable == 0 { Outcome::Done } else { Outcome::Failed })
        }
        Command::Distrust(distrust) => {
            let since = match distrust.since.as_deref().map(|since| times::moment(since, now)).transpose() {
                Ok(since) => since.unwrap_or(0),
                Err(wrong) => return misused(&wrong),
            };
            let Some(liar) = distrust.liar() else {
                return misused("name one of --principal, --origin with --grid, --tenant");
            };
            let policy =
                Policy { publish: true, ..config.policy(&GridId::new(&distrust.grid.unwrap_or_default())) };
            let teller = Teller::new("reading records");
            let report = open()
                .await?
                .distrust(&liar, since, distrust.dry_run, policy, now, &|done, total| {
                    teller.tell(done, total)
                })
                .await?;
            drop(teller);
            tell(json, &report, || {
                format!(
                    "{}{} attestations of {} assets are void; {} contents are served to fewer, of which {} to nobody any more\n",
                    would(report.dry_run),
                    report.attestations,
                    report.touched,
                    report.reduced,
                    report.unpublished,
                )
            })?;
            Ok(Outcome::Done)
        }
        Command::Prune { older_than, dry_run, .. } => {
            let older_than = match times::span(&older_than) {
                Ok(span) => span,
                Err(wrong) => return misused(&wrong),
            };
            let report = open().await?.prune_hold(older_than, dry_run, now).await?;
            tell(json, &report, || {
                format!(
                    "{}{} blobs ({}) of the hold are destroyed; {} stay, for {HOLD_DAYS} days each\n",
                    would(dry_run),
                    report.blobs,
                    human_bytes(report.bytes),
                    report.left,
                )
            })?;
            Ok(Outcome::Done)
        }
    }
}

const fn would(dry_run: bool) -> &'static str {
    if dry_run { "nothing was changed; without --dry-run: " } else { "" }
}

fn misused(what: &str) -> anyhow::Result<Outcome> {
    writeln!(std::io::stderr(), "rezcache: {what}")?;
    Ok(Outcome::Misused)
}

fn tell<T: Serialize>(json: bool, report: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string(report)? + "\n" } else { text() };
    Ok(print(&text)?)
}

impl Distrust {
    fn liar(&self) -> Option<Liar> {
        match (&self.principal, &self.origin, &self.tenant) {
            (Some(principal), None, None) => Some(Liar::Principal(principal.clone())),
            (None, Some(origin), None) => {
                Some(Liar::Origin(GridId::new(self.grid.as_ref()?), Origin::new(origin)))
            }
            (None, None, Some(tenant)) => Some(Liar::Tenant(tenant.clone())),
            _ => None,
        }
    }
}

/// Reads GRID/KIND/UUID.
fn asset(text: &str) -> Option<AssetKey> {
    let mut parts = text.rsplitn(3, '/');
    let (id, kind, grid) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = AssetKind::ALL.into_iter().find(|known| known.name() == kind)?;
    let id = AssetId(uuid::Uuid::try_parse(id).ok()?);
    (!grid.is_empty() && !grid.contains('/')).then(|| AssetKey { grid: GridId::new(grid), kind, id })
}

fn kinds() -> String {
    AssetKind::ALL.map(AssetKind::name).join(", ")
}

fn verified(report: &Verified, repair: bool) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    list(&mut text, "damaged", &report.damaged);
    list(&mut text, "missing", &report.missing);
    list(&mut text, "unreadable record", &report.unreadable);
    list(&mut text, "superfluous", &report.orphans);
    let _ = writeln!(
        text,
        "{} blobs ({}) and {} records were read",
        report.blobs,
        human_bytes(report.bytes),
        report.records
    );
    let count = |text: &mut String, number: u64, what: &str| {
        if number > 0 {
            let _ = writeln!(text, "  {number} {what}");
        }
    };
    count(&mut text, report.damaged.count, "blobs are damaged");
    count(&mut text, report.missing.count, "blobs are missing");
    count(&mut text, report.unreadable.count, "records cannot be read");
    count(
        &mut text,
        report.orphans.count,
        "blobs are superfluous: no record names them, since an upload broke off",
    );
    count(&mut text, report.arriving, "blobs have come within the last hour, and their records not yet");
    count(&mut text, report.held, "blobs were taken down and wait in the hold to be destroyed");
    count(&mut text, report.repaired, "were repaired: put away, and wanted again");
    if report.ok {
        text.push_str("every blob opens and has its digest, and no record names one that is not there\n");
    } else if !repair && report.damaged.count + report.missing.count > 0 {
        text.push_str(
            "with --repair the contents of damaged and missing blobs are taken again from whoever has them; \
             or copy the blobs back from a mirror or a dump\n",
        );
    }
    text
}

fn list(text: &mut String, what: &str, findings: &Findings) {
    for finding in findings.first.iter().take(MAX_LINES) {
        let _ = write!(text, "{what}: {}: {}", finding.name, finding.what);
        if let Some(age) = finding.age_s {
            let _ = write!(text, "; {} old", times::ago(age));
        }
        if finding.assets > 0 {
            let _ = write!(text, "; {} not served because of it", plural(finding.assets, "asset"));
        }
        text.push('\n');
    }
    let told = u64::try_from(findings.first.len().min(MAX_LINES)).unwrap_or(0);
    if findings.count > told {
        let _ = writeln!(text, "{what}: and {} more", findings.count - told);
    }
}

fn plural(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn stat_text(stat: &Stat, now: u64) -> String {
    let mut text = format!("{}: {}\n", if stat.published { "served" } else { "not served" }, stat.why);
    if let Some(day) = stat.last_use_day {
        let _ = writeln!(text, "last used {}", times::date(day.into()));
    }
    if stat.conflicts > 0 {
        let _ = writeln!(text, "contradicted {} times since it was last confirmed", stat.conflicts);
    }
    for content in &stat.contents {
        let _ = writeln!(text, "{} ({})", content.digest, human_bytes(content.size));
        let stored = match (content.stored, content.key) {
            (false, _) => "its body was not taken yet".to_owned(),
            (true, None) => format!("its blob {} is missing or damaged", content.blob),
            (true, Some(key)) => format!("blob {}, sealed with key {key}", content.blob),
        };
        let _ = writeln!(text, "  {stored}");
        let _ = writeln!(
            text,
            "  attested by {} from {} through {}, in {}; {} count",
            plural(content.attesters, "principal"),
            plural(content.networks, "network"),
            plural(content.origins, "origin"),
            plural(content.tenants, "tenant"),
            content.counting,
        );
        if let Some((first, last)) = content.attested {
            let since = |at: u64| times::ago(now.saturating_sub(at));
            let _ = writeln!(text, "  first {} ago, last {} ago", since(first), since(last));
        }
        if content.vouched {
            text.push_str("  vouched for\n");
        }
    }
    text
}

async fn keys(command: KeyCommand, config: &NodeConfig, json: bool) -> anyhow::Result<Outcome> {
    let file = &config.key_file;
    let blobs = || Blobs::open_existing(&config.store);
    let ids = |ring: &KeyRing| ring.ids().map(|id| id.0).collect::<Vec<_>>();
    match command {
        KeyCommand::List => {
            let blobs = blobs()?;
            let ring = blobs.keys_of_existing(file).await?;
            let (ids, marker) = (ids(&ring), blobs.marker_key().await?.map(|id| id.0));
            let newest = ids.last().copied();
            tell(json, &json!({ "keys": ids, "seals": newest, "store": marker }), || {
                let mut text = String::new();
                for id in &ids {
                    let role = if Some(*id) == newest { "seals and opens" } else { "opens" };
                    let _ = writeln!(text, "key {id} {role}");
                }
                if marker != newest {
                    text.push_str("what older keys have sealed is sealed anew by: rezcache store reseal\n");
                }
                text
            })?;
        }
        KeyCommand::Export { to } => {
            let ring = blobs()?.keys_of_existing(file).await?;
            ring.write_new(&to)?;
            tell(json, &json!({ "file": to, "keys": ids(&ring) }), || {
                format!("the keys are in {}; whoever has it and the store reads everything\n", to.display())
            })?;
        }
        KeyCommand::Import { from } => {
            // A store that holds nothing yet takes any keys.
            match blobs()?.keys_of_existing(&from).await {
                Ok(_) | Err(OpenError::Empty(_)) => {}
                Err(error) => return Err(error).context("nothing was changed"),
            }
            let ring = upkeep::import(&from, file)?;
            tell(json, &json!({ "file": file, "keys": ids(&ring) }), || {
                format!("{} opens the store now\n", file.display())
            })?;
        }
        KeyCommand::Rotate => {
            // Not a file that belongs to another store.
            blobs()?.keys_of_existing(file).await?;
            let ring = upkeep::rotate(file)?;
            let newest = ring.current().map(|(id, _)| id.0).ok_or(UpkeepError::Seal)?;
            tell(json, &json!({ "file": file, "keys": ids(&ring), "seals": newest }), || {
                format!(
                    "key {newest} is in {}. Now\n  1. back the file up\n  2. copy it to the host of every other \
                     node of this store\n  3. start the nodes anew: from then on they seal with key {newest}\n  \
                     4. rezcache store reseal\n",
                    file.display()
                )
            })?;
        }
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::asset;

    #[test]
    fn an_asset_is_named_by_grid_kind_and_uuid() {
        let id = "89556747-24cb-43ed-920b-47caed15465f";
        let key = asset(&format!("grid.example:8002/texture/{id}")).unwrap();
        assert_eq!((key.grid.as_str(), key.kind.name()), ("grid.example:8002", "texture"));
        assert_eq!(key.id.0.to_string(), id);
        for wrong in [
            "",
            "texture",
            "a/b/c",
            &format!("grid/script/{id}"),
            &format!("/texture/{id}"),
            &format!("a/b/texture/{id}"),
        ] {
            assert!(asset(wrong).is_none(), "{wrong}");
        }
    }
}
