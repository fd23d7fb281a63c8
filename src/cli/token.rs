//! `rezcache token`: keys that sign tokens, tokens, and their end. The signing key stays with the operator;
//! nodes get its public half.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Outcome, print};
use crate::catalog::{Place, RevokedKind};
use crate::config::Settings;
use crate::grid::GridId;
use crate::node::household;
use crate::support::private_file;
use crate::token::{self, Budgets, Claims, Rights, SigningKey, is_name};

#[derive(Args, Debug)]
#[command(after_help = super::examples::TOKEN)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Make a key that signs tokens, and FILE.pub for `rezcache serve --token-keys`
    Keygen(Keygen),
    /// Sign a token and print it
    New(New),
    /// Show which tokens a key has signed
    List(List),
    /// Make tokens worthless on every node within seconds
    Revoke(Revoke),
}

#[derive(Args, Debug)]
pub(super) struct Keygen {
    /// Where to write the key; it never leaves this machine
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct New {
    /// The key that signs
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
    /// A pseudonym of the holder, never an avatar's name [default: a random one]
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Whose member the holder is: a household, a school, a grid's team
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// What it allows, of read, write, vouch, observe and admin
    #[arg(long, value_name = "RIGHTS", default_value = "read,write")]
    rights: Rights,
    /// A grid it is for; repeat for more [default: all]
    #[arg(long, value_name = "GRID", value_delimiter = ',')]
    grid: Vec<String>,
    /// How long it lives, such as 90d or 12h
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = seconds)]
    expires: u64,
    /// What the service is called: its --audience
    #[arg(long, value_name = "NAME", default_value = token::DEFAULT_AUDIENCE)]
    audience: String,
    /// Distinct assets in an hour [default: what the service allows]
    #[arg(long, value_name = "N")]
    assets_per_hour: Option<u64>,
    /// Bytes of assets in a day, either way [default: what the service allows]
    #[arg(long, value_name = "N")]
    bytes_per_day: Option<u64>,
    /// Bytes of assets brought in a year [default: what the service allows]
    #[arg(long, value_name = "N")]
    stored_bytes: Option<u64>,
}

#[derive(Args, Debug)]
pub(super) struct List {
    /// The key that signed
    #[arg(long, value_name = "FILE")]
    signing_key: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["id", "subject", "tenant", "join_lines"])))]
pub(super) struct Revoke {
    /// One token, by the id that `token list` shows
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// All tokens of a holder, now and later
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// All tokens of a tenant, now and later
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The join lines of `rezcache serve --lan`, and all who joined by them; a running server prints new ones
    #[arg(long)]
    join_lines: bool,
    /// The store of the service, whose catalog holds what was revoked [default: as `rezcache serve`]
    #[arg(long, value_name = "URL", env = "REZCACHE_STORE", hide_env_values = true)]
    pub(super) store: Option<String>,
    /// The catalog of the service, where that is not its store's own: postgres://… or sqlite:///FILE
    #[arg(long, value_name = "URL", env = "REZCACHE_CATALOG", hide_env_values = true)]
    pub(super) catalog: Option<String>,
    /// Note it beside this key too, for `token list`
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Outcome> {
    match arguments.command {
        Command::Keygen(keygen) => make_key(&keygen.signing_key),
        Command::New(new) => sign(new),
        Command::List(list) => show(&list),
        Command::Revoke(revoke) => withdraw(revoke, settings).await,
    }
}

/// `90d`, `12h`, `30m`.
fn seconds(text: &str) -> Result<u64, String> {
    const YEAR: u64 = 366 * 86_400;
    let wrong = || format!("`{text}` is no time such as 90d, 12h or 30m, of at most 366d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|seconds| (1..=YEAR).contains(seconds)).ok_or_else(wrong)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn beside(key: &Path, ending: &str) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn make_key(path: &Path) -> anyhow::Result<Outcome> {
    if path.exists() {
        bail!("{} is there already; a key that has signed tokens must not be lost", path.display());
    }
    let key = SigningKey::from_seed(&rand::random())?;
    private_file::create(path, key.pem().reveal().as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    // Of two who make it at once one wins: the public half must be the winner's.
    let key = read_key(path)?;
    let public = beside(path, ".pub");
    fs::write(&public, key.public_pem()).with_context(|| format!("cannot write {}", public.display()))?;
    print(&format!(
        "the signing key is {}; back it up, and keep it off the nodes\n  rezcache serve --token-keys {}\n",
        path.display(),
        public.display()
    ))?;
    Ok(Outcome::Done)
}

fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    SigningKey::from_pem(&text).with_context(|| path.display().to_string())
}

fn sign(new: New) -> anyhow::Result<Outcome> {
    let key = read_key(&new.signing_key)?;
    let subject = new.subject.unwrap_or_else(|| format!("p-{:032x}", rand::random::<u128>()));
    for (flag, name) in [("subject", &subject), ("tenant", &new.tenant), ("audience", &new.audience)] {
        if !is_name(name) {
            bail!("--{flag} must be 1 to 128 visible ASCII characters without spaces");
        }
    }
    let now = now();
    let grids: Vec<GridId> = new.grid.iter().map(|grid| GridId::new(&grid.to_ascii_lowercase())).collect();
    let claims = Claims {
        id: format!("{:032x}", rand::random::<u128>()).into(),
        subject: subject.into(),
        tenant: new.tenant.into(),
        audience: new.audience,
        grids: (!grids.is_empty()).then(|| grids.into()),
        rights: new.rights,
        issued_at: now,
        expires: now.saturating_add(new.expires),
        budgets: Budgets {
            assets_per_hour: new.assets_per_hour,
            burst: None,
            bytes_per_day: new.bytes_per_day,
            stored_bytes: new.stored_bytes,
        },
    };
    let text = token::sign(&key, &claims);
    if text.len() > token::MAX_TOKEN_BYTES {
        bail!("a token for so many grids is too long; leave out --grid for all");
    }
    // First the ledger: a token that nobody knows of could not be revoked by its id.
    note(
        &new.signing_key,
        &json!({
            "id": &*claims.id, "subject": &*claims.subject, "tenant": &*claims.tenant,
            "rights": claims.rights.to_string(),
            "grids": claims.grids.as_ref().map(|grids| grids.iter().map(GridId::as_str).collect::<Vec<_>>()),
            "audience": claims.audience, "issued_at": claims.issued_at, "expires": claims.expires,
        }),
    )?;
    print(&format!("{text}\n"))?;
    Ok(Outcome::Done)
}

/// Adds a line to the ledger beside a key. Tokens themselves are never in it.
fn note(key: &Path, line: &Value) -> anyhow::Result<()> {
    let path = beside(key, ".ledger");
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&path).and_then(|mut file| {
        // One write, so that two at once do not mix.
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn show(list: &List) -> anyhow::Result<Outcome> {
    let path = beside(&list.signing_key, ".ledger");
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            print(if list.json { "" } else { "this key has signed no token\n" })?;
            return Ok(Outcome::Done);
        }
        opened => opened.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (mut tokens, mut revoked): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line: Value = serde_json::from_str(&line?)
            .with_context(|| format!("{}:{number}: not a line of the ledger", path.display()))?;
        if line.get("revoked").is_some() { revoked.push(line) } else { tokens.push(line) }
    }
    let now = now();
    let mut text = String::new();
    for mut token in tokens {
        let is_revoked = revoked.iter().any(|line| {
            let kind = line.get("revoked").and_then(Value::as_str).unwrap_or_default();
            token.get(kind).is_some_and(|value| Some(value) == line.get("value"))
        });
        let field = |name: &str| token.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let expires = token.get("expires").and_then(Value::as_u64).unwrap_or(0);
        let state = match (is_revoked, expires <= now) {
            (true, _) => "revoked".to_owned(),
            (_, true) => "expired".to_owned(),
            _ => format!("{} days left", expires.saturating_sub(now).div_ceil(86_400)),
        };
        let _ = if list.json {
            if let Some(object) = token.as_object_mut() {
                object.insert("revoked".into(), is_revoked.into());
            }
            writeln!(text, "{token}")
        } else {
            let grids = token.get("grids").and_then(Value::as_array).map_or_else(
                || "all grids".to_owned(),
                |grids| grids.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            );
            writeln!(
                text,
                "{}  {state}\n  subject {}  tenant {}  rights {}  {grids}",
                field("id"),
                field("subject"),
                field("tenant"),
                field("rights"),
            )
        };
    }
    print(&text)?;
    Ok(Outcome::Done)
}

async fn withdraw(revoke: Revoke, settings: Settings) -> anyhow::Result<Outcome> {
    if revoke.join_lines {
        return withdraw_join_lines(settings).await;
    }
    let (kind, word, value) = match (revoke.id, revoke.subject, revoke.tenant) {
        (Some(id), _, _) => (RevokedKind::Token, "id", id),
        (_, Some(subject), _) => (RevokedKind::Subject, "subject", subject),
        (_, _, Some(tenant)) => (RevokedKind::Tenant, "tenant", tenant),
        _ => bail!("name what to revoke with --id, --subject or --tenant"),
    };
    if !is_name(&value) {
        bail!("--{word} is no name of a token: 1 to 128 visible ASCII characters without spaces");
    }
    let config = settings.serve.into_config(&settings.data_dir);
    has_catalog(&config.catalog)?;
    config.catalog.open().await?.revoke(kind, value.clone(), now()).await?;
    if let Some(key) = &revoke.signing_key {
        note(key, &json!({ "revoked": word, "value": value, "at": now() }))?;
    }
    print("revoked; every node knows it within 10 seconds\n")?;
    Ok(Outcome::Done)
}

/// Makes worthless what `serve --lan` has printed. In this order: what is forgotten and not revoked would
/// hold for ever.
async fn withdraw_join_lines(settings: Settings) -> anyhow::Result<Outcome> {
    let ids = household::issued(&settings.data_dir)?;
    if ids.is_empty() {
        bail!(
            "there are no join lines in {}; name the data directory of the server with --data-dir",
            settings.data_dir.display()
        );
    }
    let config = settings.serve.into_config(&settings.data_dir);
    has_catalog(&config.catalog)?;
    let catalog = config.catalog.open().await?;
    for id in &ids {
        catalog.revoke(RevokedKind::Token, id.clone(), now()).await?;
    }
    household::forget(&settings.data_dir, &ids)?;
    print(
        "the join lines are worthless now, and nobody is joined any more within 10 seconds; a running server \
         prints new lines, others make them when they start\n",
    )?;
    Ok(Outcome::Done)
}

fn has_catalog(place: &Place) -> anyhow::Result<()> {
    match place {
        Place::Sqlite(path) if !path.exists() => bail!(
            "there is no catalog {}; name the store of the service with --store, or its --catalog",
            path.display()
        ),
        Place::Memory => {
            bail!("the catalog of a store in memory is in its node only; restart the node without the key")
        }
        Place::Sqlite(_) | Place::Postgres(_) => Ok(()),
    }
}
