//! What `director` needs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::director_flags::{BoardFlags, DirectorFlags};
use super::value::{self, Checker, Given, Value};
use crate::catalog::Place;
use crate::director::dns::Zone;
use crate::director::provision::{AwsConfig, AwsTimes};
use crate::director::{AlertConfig, MailConfig, MailTls, NodeAddress};
use crate::fleet::array::NodeSpec;
use crate::fleet::report::Capacity;
use crate::fleet::scaling::ScalingRules;
use crate::redact::Redacted;
use crate::support::files;

/// Where DNS is answered unless the user says otherwise.
pub(super) const DEFAULT_DNS_LISTEN: &str = "127.0.0.1:5300";
/// Where the status page is served unless the user says otherwise.
pub(super) const DEFAULT_STATUS_LISTEN: &str = "127.0.0.1:8053";

/// Settings of a director; what depends on the data folder is filled in by the command.
#[derive(Clone, Debug)]
pub struct DirectorSettings {
    /// Whether the file has anything for directors.
    pub in_file: bool,
    /// The service's name.
    pub zone: Option<String>,
    /// What this director is called.
    pub name: Option<String>,
    /// Where DNS is answered.
    pub dns_listen: SocketAddr,
    /// Where the status page is served; `None`: nowhere.
    pub status_listen: Option<SocketAddr>,
    /// Whether everybody may see the plots and metrics.
    pub monitoring_public: bool,
    /// The service's store.
    pub store: Option<String>,
    /// Its catalog, where that is not the store's own.
    pub catalog: Option<Place>,
    /// Its catalog as it was written, for nodes that are started.
    pub catalog_url: Option<Redacted<String>>,
    /// The file with the store's keys.
    pub key_file: Option<PathBuf>,
    /// The zone's name servers.
    pub name_servers: Vec<String>,
    /// The name in the nodes' certificates.
    pub server_name: Option<String>,
    /// Accepted public keys of nodes.
    pub pins: Vec<String>,
    /// Authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A token with the rights `observe` and `admin`.
    pub token: Option<Redacted<String>>,
    /// Between two probes of a node.
    pub probe_interval: Duration,
    /// From a return until a node gets its full share.
    pub slow_start: Duration,
    /// How long resolvers keep addresses.
    pub ttl: Duration,
    /// The fixed list.
    pub nodes: Vec<NodeSpec>,
    /// Where nodes come from.
    pub provisioner: ProvisionerSettings,
    /// When to open and close.
    pub scaling: ScalingRules,
    /// What a node can do.
    pub capacity: Capacity,
    /// Whom to tell.
    pub alerts: AlertConfig,
}

/// Where nodes come from.
#[derive(Clone, Debug)]
pub enum ProvisionerSettings {
    /// From the fixed list only.
    Static,
    /// Processes of this host, one on each address.
    Process(Vec<SocketAddr>),
    /// An Auto Scaling group.
    Aws(AwsConfig),
    /// A program of the operator's, with its first arguments.
    Command(Vec<String>),
}

impl ProvisionerSettings {
    /// The word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Process(_) => "process",
            Self::Aws(_) => "aws-asg",
            Self::Command(_) => "command",
        }
    }
}

impl DirectorSettings {
    /// The catalog that the service's directors share.
    ///
    /// # Errors
    /// When neither it nor a store that brings one is named.
    pub fn catalog(&self) -> Result<Place, String> {
        if let Some(catalog) = &self.catalog {
            return Ok(catalog.clone());
        }
        let Some(store) = &self.store else {
            return Err(
                "which service? name its store or its catalog: director.store or director.catalog in the \
                        file of --config, or --store or --catalog"
                    .into(),
            );
        };
        match files::folder(store) {
            Some(folder) => Ok(Place::Sqlite(folder.join("catalog.sqlite"))),
            // A catalog of this machine alone would have each director lead, and nobody hear what is planned.
            None => Err(
                "which catalog? a store that is no folder brings none: name the one that the nodes have, as \
                         director.catalog in the file of --config, or with --catalog or REZCACHE_CATALOG"
                    .into(),
            ),
        }
    }

    /// What a director cannot run without, and what it could not serve.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = self.catalog().err().into_iter().collect();
        match &self.zone {
            None => missing.push(
                "which zone? write `zone = \"cache.example.org.\"` under [director], or --zone cache.example.org"
                    .into(),
            ),
            Some(zone) if self.name_servers.is_empty() => missing.push(format!(
                "which name servers has {zone}? write `ns = [\"ns1.example.org.\", \"ns2.example.org.\"]` under \
                 [director], or --ns: the names of the directors' machines, as the parent zone has them"
            )),
            Some(zone) => missing.extend(
                Zone::new(zone, &self.name_servers, 1, 1).err().map(|wrong| format!("director.ns: {wrong}")),
            ),
        }
        let from = &self.provisioner;
        if self.nodes.is_empty() && matches!(from, ProvisionerSettings::Static) {
            missing.push(
                "which nodes? write [[node]] sections with a name and a url, or --node otter=https://192.0.2.7:8443"
                    .into(),
            );
        }
        if self.store.is_none() && matches!(from, ProvisionerSettings::Process(_)) {
            missing.push("which store? the provisioner process needs director.store, or --store".into());
        }
        missing
    }
}

/// The tables of the file that are a director's.
#[derive(Clone, Debug, Default)]
pub(super) struct DirectorValues {
    pub(super) director: Table,
    pub(super) scaling: Table,
    pub(super) alerts: Table,
    pub(super) nodes: Vec<Table>,
}

/// The keys of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) single: BTreeMap<&'static str, Value>,
    pub(super) lists: BTreeMap<&'static str, Vec<Value>>,
}

/// Keys with one value, and keys with a list.
pub(super) type Keys = (&'static [&'static str], &'static [&'static str]);

/// What the tables may hold.
pub(super) const DIRECTOR_KEYS: Keys = (
    &[
        "zone",
        "name",
        "dns_listen",
        "status_listen",
        "monitoring_public",
        "store",
        "catalog",
        "key_file",
        "server_name",
        "ca_file",
        "token_file",
        "probe_interval_s",
        "slow_start_s",
        "ttl_s",
    ],
    &["ns", "pins"],
);
/// See [`DIRECTOR_KEYS`].
pub(super) const SCALING_KEYS: Keys = (
    &[
        "provisioner",
        "minimum",
        "maximum",
        "high",
        "target",
        "after_close",
        "step",
        "smoothing_s",
        "startup_s",
        "calm_s",
        "cooldown_s",
        "drain_s",
        "patience_s",
        "requests_per_s",
        "connections",
        "aws_group",
        "aws_region",
        "aws_port",
        "aws_private",
        "aws_endpoint",
    ],
    &["addresses", "command"],
);
/// See [`DIRECTOR_KEYS`].
pub(super) const ALERT_KEYS: Keys =
    (&["webhook", "mail_server", "mail_tls", "mail_user", "mail_password_file", "mail_from"], &["mail_to"]);
/// See [`DIRECTOR_KEYS`].
pub(super) const NODE_KEYS: Keys = (&["name", "url", "address"], &["addresses"]);

/// Reads values of one table, flags before the file.
struct Source<'a> {
    flags: &'a DirectorFlags,
    table: &'a Table,
    path: Option<&'a Path>,
}

impl Source<'_> {
    fn given(&self, flag: &'static str, key: &str) -> Given {
        Given::flag(flag, self.flags.text(flag)).or(self.table.single.get(key))
    }

    fn or_default<T>(
        &self,
        flag: &'static str,
        key: &str,
        default: &str,
        check: &mut Checker,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.given(flag, key).or_default(default, check, parse)
    }

    /// `Some(None)`: not given.
    fn optional<T>(
        &self,
        flag: &'static str,
        key: &str,
        check: &mut Checker,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.given(flag, key).0 {
            Some(given) => check.value(&given, parse).map(Some),
            None => Some(None),
        }
    }

    fn file(&self, flag: Option<&PathBuf>, key: &str) -> Option<PathBuf> {
        flag.cloned().or_else(|| self.table.single.get(key).map(|value| value.path(self.path)))
    }

    fn list(&self, flag: &'static str, given: &[String], key: &str) -> Vec<Value> {
        match given {
            [] => self.table.lists.get(key).cloned().unwrap_or_default(),
            given => given.iter().map(|text| Value::flag(flag, text)).collect(),
        }
    }
}

pub(super) fn resolve(
    board: &BoardFlags,
    flags: &DirectorFlags,
    file: &DirectorValues,
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<DirectorSettings> {
    let source = Source { flags, table: &file.director, path };
    let zone = source.optional("zone", "zone", check, host_name);
    let name = source.optional("director-name", "name", check, animal);
    let dns_listen = source.or_default("dns-listen", "dns_listen", DEFAULT_DNS_LISTEN, check, value::address);
    let status_listen =
        source.or_default("status-listen", "status_listen", DEFAULT_STATUS_LISTEN, check, listen_or_off);
    let monitoring_public =
        source.or_default("monitoring-public", "monitoring_public", "false", check, value::boolean);
    let store = Given::flag("store", board.store.as_ref()).or(file.director.single.get("store")).0;
    let catalog = Given::flag("catalog", board.catalog.as_ref()).or(file.director.single.get("catalog")).0;
    let catalog_url = catalog.as_ref().map(|given| Redacted::new(given.text.clone()));
    let catalog = match catalog {
        Some(given) => check.value(&given, Place::parse).map(Some),
        None => Some(None),
    };
    let name_servers = all(&source.list("ns", &flags.ns, "ns"), check, host_name);
    let server_name = source.optional("server-name", "server_name", check, value::host);
    let pins = all(&source.list("pin", &flags.pins, "pins"), check, pin);
    let token_file = source.file(flags.token_file.as_ref(), "token_file");
    let token = secret(token_file.as_deref(), flags.token_file.is_some(), check, value::token_file);
    let probe_interval = source.or_default("probe-interval-s", "probe_interval_s", "2", check, interval);
    let slow_start = source.or_default("slow-start-s", "slow_start_s", "30", check, seconds);
    let ttl = source.or_default("ttl-s", "ttl_s", "5", check, ttl);
    let nodes = nodes(flags, &file.nodes, check);
    let scaling = Source { flags, table: &file.scaling, path };
    let provisioner = provisioner(&scaling, check);
    let capacity = Capacity {
        requests_per_s: scaling.optional("node-requests-per-s", "requests_per_s", check, positive)?,
        connections: scaling.optional("node-connections", "connections", check, positive)?,
    };
    // Other directors learn from the board that a node leaves, and go on naming it until they have read it.
    let gone = ttl.zip(probe_interval).map(|(ttl, interval)| ttl + interval * BOARD_INTERVALS);
    let rules = rules(&scaling, gone, check);
    let ca_file = source.file(flags.ca_file.as_ref(), "ca_file");
    let alerts = alerts(&Source { flags, table: &file.alerts, path }, check);
    let alerts = alerts.map(|alerts| AlertConfig { ca_file: ca_file.clone(), ..alerts });
    let in_file = [&file.director, &file.scaling, &file.alerts].into_iter().chain(&file.nodes);
    Some(DirectorSettings {
        in_file: in_file.into_iter().any(|table| !table.single.is_empty() || !table.lists.is_empty()),
        zone: zone?,
        name: name?,
        dns_listen: dns_listen?,
        status_listen: status_listen?,
        monitoring_public: monitoring_public?,
        store: store.map(|value| value.text),
        catalog: catalog?,
        catalog_url,
        key_file: source.file(flags.key_file.as_ref(), "key_file"),
        name_servers: name_servers?,
        server_name: server_name?,
        pins: pins?,
        ca_file,
        token: token?,
        probe_interval: probe_interval?,
        slow_start: slow_start?,
        ttl: ttl?,
        nodes: nodes?,
        provisioner: provisioner?,
        scaling: rules?,
        capacity,
        alerts: alerts?,
    })
}

/// `None` when one of them is wrong.
fn all<T>(values: &[Value], check: &mut Checker, parse: fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
    let read: Vec<_> = values.iter().map(|value| check.value(value, parse)).collect();
    read.into_iter().collect()
}

fn secret(
    file: Option<&Path>,
    usage: bool,
    check: &mut Checker,
    read: fn(&Path) -> Result<Redacted<String>, String>,
) -> Option<Option<Redacted<String>>> {
    match file.map(read) {
        Some(Ok(secret)) => Some(Some(secret)),
        Some(Err(wrong)) => {
            check.add(usage, wrong);
            None
        }
        None => Some(None),
    }
}

fn nodes(flags: &DirectorFlags, tables: &[Table], check: &mut Checker) -> Option<Vec<NodeSpec>> {
    let mut nodes = Vec::new();
    let mut whole = true;
    if flags.nodes.is_empty() {
        for table in tables {
            let node = node(table, check);
            whole &= node.is_some();
            nodes.extend(node);
        }
    }
    for text in &flags.nodes {
        let given = Value::flag("node", text);
        let read = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=URL"));
        match read.and_then(|(name, url)| Ok((animal(name)?, node_url(url)?))) {
            Ok((name, url)) => {
                nodes.push(NodeSpec { name, url, addresses: Vec::new(), handle: String::new() })
            }
            Err(wrong) => {
                check.blame(&given, &wrong);
                whole = false;
            }
        }
    }
    for (place, node) in nodes.iter().enumerate() {
        if nodes.iter().take(place).any(|other| other.name == node.name || other.url == node.url) {
            check.add(
                !flags.nodes.is_empty(),
                format!("node {}: its name or its url is that of another node", node.name),
            );
            whole = false;
        }
    }
    whole.then_some(nodes)
}

fn node(table: &Table, check: &mut Checker) -> Option<NodeSpec> {
    let get = |key| table.single.get(key);
    let name = get("name").and_then(|value| check.value(value, animal));
    let url = get("url").and_then(|value| check.value(value, node_url));
    for key in ["name", "url"] {
        if get(key).is_none() {
            check.add(false, format!("a [[node]] has no {key}: it needs a name, an animal, and its url"));
        }
    }
    let mut addresses: Vec<Value> = get("address").cloned().into_iter().collect();
    addresses.extend(table.lists.get("addresses").cloned().unwrap_or_default());
    let addresses = all(&addresses, check, ip);
    Some(NodeSpec { name: name?, url: url?, addresses: addresses?, handle: String::new() })
}

fn provisioner(source: &Source<'_>, check: &mut Checker) -> Option<ProvisionerSettings> {
    let word = source.or_default("provisioner", "provisioner", "static", check, |word| match word {
        "static" | "process" | "aws-asg" | "command" => Ok(word.to_owned()),
        _ => Err(format!("{word:?} is none of static, process, aws-asg and command")),
    })?;
    let usage = source.flags.provisioner.is_some();
    match word.as_str() {
        "process" => {
            let addresses = source.list("node-addresses", &source.flags.addresses, "addresses");
            let addresses = all(&addresses, check, value::address)?;
            if addresses.is_empty() {
                check.add(
                    usage,
                    "the provisioner process needs scaling.addresses: where it may start nodes".into(),
                );
                return None;
            }
            Some(ProvisionerSettings::Process(addresses))
        }
        "command" => {
            let words: Vec<_> = source
                .list("node-command", &source.flags.command, "command")
                .into_iter()
                .map(|v| v.text)
                .collect();
            if words.is_empty() {
                check.add(usage, "the provisioner command needs scaling.command: the program to run".into());
                return None;
            }
            Some(ProvisionerSettings::Command(words))
        }
        "aws-asg" => {
            let group = source.optional("aws-group", "aws_group", check, value::name)?;
            let region = source.optional("aws-region", "aws_region", check, value::name)?;
            let (Some(group), Some(region)) = (group, region) else {
                check.add(
                    usage,
                    "the provisioner aws-asg needs scaling.aws_group and scaling.aws_region".into(),
                );
                return None;
            };
            Some(ProvisionerSettings::Aws(AwsConfig {
                group,
                region,
                port: source.or_default("aws-port", "aws_port", "8443", check, port)?,
                private: source.or_default("aws-private", "aws_private", "false", check, value::boolean)?,
                endpoint: source.optional("aws-endpoint", "aws_endpoint", check, |url| {
                    value::web_address(url).map(|uri| uri.to_string().trim_end_matches('/').to_owned())
                })?,
                metadata: None,
                times: AwsTimes::default(),
            }))
        }
        _ => Some(ProvisionerSettings::Static),
    }
}

/// A director has read the board after so many probe intervals.
const BOARD_INTERVALS: u32 = 2;

fn rules(source: &Source<'_>, ttl: Option<Duration>, check: &mut Checker) -> Option<ScalingRules> {
    let usual = ScalingRules::default();
    let count = |flag, key, default: usize, check: &mut Checker| {
        source.or_default(flag, key, &default.to_string(), check, |text| {
            text.parse()
                .ok()
                .filter(|n| *n <= 256)
                .ok_or_else(|| format!("{text:?} is not a number up to 256"))
        })
    };
    let share = |flag, key, default: f64, check: &mut Checker| {
        source.or_default(flag, key, &default.to_string(), check, |text| {
            let read = text.parse().ok().filter(|share: &f64| (0.05..=1.0).contains(share));
            read.ok_or_else(|| format!("{text:?} is not a share from 0.05 to 1, such as 0.85"))
        })
    };
    let time = |flag, key, default: Duration, check: &mut Checker| {
        source.or_default(flag, key, &default.as_secs().to_string(), check, seconds)
    };
    let minimum = count("minimum-nodes", "minimum", usual.minimum, check);
    let maximum = count("maximum-nodes", "maximum", usual.maximum, check);
    let high = share("high-load", "high", usual.high, check);
    let target = share("target-load", "target", usual.target, check);
    let after_close = share("after-close-load", "after_close", usual.after_close, check);
    let step = count("step", "step", usual.step, check);
    let smoothing = time("smoothing-s", "smoothing_s", usual.smoothing, check);
    let startup = time("startup-s", "startup_s", usual.startup, check);
    let calm = time("calm-s", "calm_s", usual.calm, check);
    let cooldown = time("cooldown-s", "cooldown_s", usual.cooldown, check);
    let drain = time("drain-s", "drain_s", usual.drain, check);
    let patience = time("patience-s", "patience_s", usual.patience, check);
    let rules = ScalingRules {
        minimum: minimum?,
        maximum: maximum?,
        high: high?,
        target: target?,
        after_close: after_close?,
        step: step?,
        smoothing: smoothing?,
        startup: startup?,
        calm: calm?,
        cooldown: cooldown?,
        ttl: ttl?,
        drain: drain?,
        patience: patience?,
    };
    if let Err(wrong) = rules.check() {
        check.add(false, format!("scaling: {wrong}"));
        return None;
    }
    Some(rules)
}

fn alerts(source: &Source<'_>, check: &mut Checker) -> Option<AlertConfig> {
    let webhook = source.optional("alert-webhook", "webhook", check, |url| {
        // It is a secret: what is wrong with it is said without it.
        let read =
            value::web_address(url).map_err(|_| "a webhook is an address as https://HOST/PATH".to_owned());
        read.map(|_| Redacted::new(url.to_owned()))
    })?;
    let server = source.optional("mail-server", "mail_server", check, mail_server)?;
    // The default tries, and whatever authorities the nodes are believed by.
    let usual = AlertConfig { webhook, ..AlertConfig::default() };
    let Some((host, port)) = server else { return Some(usual) };
    let usual_tls = if port == 465 { "tls" } else { "starttls" };
    let tls = source.or_default("mail-tls", "mail_tls", usual_tls, check, |word| match word {
        "starttls" => Ok(MailTls::StartTls),
        "tls" => Ok(MailTls::Wrapped),
        "none" => Ok(MailTls::None),
        _ => Err(format!("{word:?} is none of starttls, tls and none")),
    })?;
    let user = source.optional("mail-user", "mail_user", check, |text| Ok(text.to_owned()))?;
    let file = source.file(source.flags.mail_password_file.as_ref(), "mail_password_file");
    let usage = source.flags.mail_password_file.is_some();
    let password = secret(file.as_deref(), usage, check, |path| {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(Redacted::new(text.trim_end_matches(['\r', '\n']).to_owned()))
    })?;
    let login = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        _ => {
            check.add(false, "alerts: mail_user and mail_password_file are needed together".into());
            return None;
        }
    };
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if login.is_some() && tls == MailTls::None && !loopback {
        check.add(false, "alerts: a password is not sent without TLS; leave out mail_tls = \"none\"".into());
        return None;
    }
    let from = source.optional("mail-from", "mail_from", check, mailbox)?;
    let to = all(&source.list("mail-to", &source.flags.mail_to, "mail_to"), check, mailbox)?;
    let (Some(from), false) = (from, to.is_empty()) else {
        check.add(false, "alerts by mail need mail_from and mail_to".into());
        return None;
    };
    Some(AlertConfig { mail: Some(MailConfig { host, port, tls, login, from, to }), ..usual })
}

fn listen_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" { Ok(None) } else { value::address(text).map(Some) }
}

/// A name as it stands in DNS, with or without the dot at its end.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
    };
    if name.len() <= 200 && name.split('.').all(label) && name.contains('.') {
        Ok(format!("{name}."))
    } else {
        Err(format!("{text:?} is no name such as cache.example.org"))
    }
}

/// What a member is called.
fn animal(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=32).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name for people: up to 32 letters, digits and hyphens, such as otter"))
    }
}

fn node_url(text: &str) -> Result<String, String> {
    match NodeAddress::parse(text) {
        Some(_) => Ok(text.trim_end_matches('/').to_owned()),
        None => Err(format!("{text:?} is no node's url, such as https://192.0.2.7:8443")),
    }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address"))
}

fn pin(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is no pin: sha256: and 64 hexadecimal digits, as `rezcache serve` prints it"))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 0..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{text:?} is not a number of seconds up to a day")),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=60) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{text:?} is not a number of seconds from 1 to 60")),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{text:?} is not a number of seconds from 1 to 300: nodes leave within the time")),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{text:?} is no port"))
}

fn positive(text: &str) -> Result<f64, String> {
    let read = text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
    read.ok_or_else(|| format!("{text:?} is not a number above 0"))
}

fn mail_server(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{text:?} is no mail server, such as mail.example.org:587");
    let authority: http::uri::Authority = text.parse().map_err(|_| wrong())?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    if host.is_empty() || text.contains('@') {
        Err(wrong())
    } else {
        Ok((host, authority.port_u16().unwrap_or(587)))
    }
}

fn mailbox(text: &str) -> Result<lettre::message::Mailbox, String> {
    text.parse().map_err(|_| format!("{text:?} is no mail address"))
}
