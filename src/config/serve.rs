//! What `serve` needs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::file::{GridValues, ServeValues};
use super::flags::ServeFlags;
use super::value::{self, Checker, Given, Value};
use crate::catalog::Place;
use crate::grid::GridId;
use crate::node::{GridPolicy, Limits, NodeConfig, Protection};
use crate::support::files;
use crate::token::DEFAULT_AUDIENCE;
use crate::token::join::is_home;

/// Where a node listens unless the user says otherwise.
pub const DEFAULT_SERVE_LISTEN: &str = "127.0.0.1:8443";

/// The most bytes the hot folder takes unless the user says otherwise.
pub(super) const DEFAULT_HOT_SIZE: &str = "20GiB";

/// Settings of a node; what depends on the data folder is filled in by [`ServeSettings::into_config`].
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where both faces listen.
    pub listen: SocketAddr,
    /// Whether that was said, and by whom is not asked.
    pub listen_given: bool,
    /// The server of a household: private addresses, and a join line.
    pub lan: bool,
    /// Pupils' join line lets read only.
    pub teacher_writes: bool,
    /// The blob store; `None`: a folder in the data folder.
    pub store: Option<String>,
    /// The catalog; `None`: SQLite with the store, or in the data folder.
    pub catalog: Option<Place>,
    /// The key file; `None`: beside the store, or in the data folder.
    pub key_file: Option<PathBuf>,
    /// Certificate chain and key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Everybody who reaches the node is trusted.
    pub open_access: bool,
    /// Files with the public keys that sign tokens.
    pub token_keys: Vec<PathBuf>,
    /// What the service is called in tokens.
    pub audience: String,
    /// Proxies may enrol.
    pub enroll: bool,
    /// Tenants whose members believe one another.
    pub trusted_tenants: Vec<String>,
    /// Whom to write to.
    pub abuse_contact: Option<String>,
    /// Principals that make a quorum; `None`: as the listen address and the guests suggest.
    pub confirmations: Option<usize>,
    /// The most a principal may use.
    pub limits: Limits,
    /// What addresses may do before they have shown who they are.
    pub protection: Protection,
    /// What is published.
    pub grids: Vec<GridPolicy>,
    /// No TLS, and no QUIC.
    pub plain_http: bool,
    /// The most bytes the hot tier may take.
    pub memory_bytes: u64,
    /// Where sealed assets are kept on this machine's disk.
    pub hot_dir: Option<PathBuf>,
    /// The most bytes that may take.
    pub hot_bytes: u64,
}

impl ServeSettings {
    /// The configuration of the node.
    #[must_use]
    pub fn into_config(self, data_dir: &Path) -> NodeConfig {
        let store = self.store.unwrap_or_else(|| format!("file://{}", data_dir.join("store").display()));
        let folder = files::folder(&store);
        // Beside a directory, never inside: a copy of the store must not take the keys along.
        let beside = folder.as_ref().map(|folder| {
            let mut name = folder.file_name().unwrap_or_default().to_owned();
            name.push(".key");
            folder.with_file_name(name)
        });
        let catalog = self.catalog.unwrap_or_else(|| match &folder {
            Some(folder) => Place::Sqlite(folder.join("catalog.sqlite")),
            None if store == "memory:" => Place::Memory,
            None => Place::Sqlite(data_dir.join("catalog.sqlite")),
        });
        let key_file = self.key_file.or(beside).unwrap_or_else(|| data_dir.join("service.key"));
        let loopback = self.listen.ip().is_loopback();
        let gated = !self.token_keys.is_empty() || self.enroll;
        // A public node listens on a private address too, behind a cloud's gateway or a proxy for TLS.
        let strangers = self.enroll || self.abuse_contact.is_some();
        let usual = if value::is_private(self.listen.ip()) && !strangers { 1 } else { 2 };
        NodeConfig {
            listen: self.listen,
            also_listen: Vec::new(),
            store,
            catalog,
            key_file,
            certificate: self.certificate,
            plain_http: self.plain_http,
            // Only programs of this machine reach loopback; with tokens even they must show one.
            open_access: self.open_access || (loopback && !gated && !self.lan),
            token_keys: self.token_keys,
            audience: self.audience,
            enroll: self.enroll,
            members: self.lan,
            trusted_tenants: self.trusted_tenants,
            abuse_contact: self.abuse_contact,
            confirmations: self.confirmations.unwrap_or(usual),
            limits: self.limits,
            protection: self.protection,
            grids: self.grids,
            memory_bytes: self.memory_bytes,
            hot_dir: self.hot_dir,
            hot_bytes: self.hot_bytes,
        }
    }
}

pub(super) fn resolve(
    flags: &ServeFlags,
    file: &ServeValues,
    grids: &[GridValues],
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<ServeSettings> {
    let listen = Given::flag("listen", flags.listen.as_ref()).or(file.listen.as_ref());
    let listen_given = listen.0.is_some();
    let listen = listen.or_default(DEFAULT_SERVE_LISTEN, check, value::address);
    let memory_bytes = Given::flag("memory-size", flags.memory_size.as_ref())
        .or(file.memory_size.as_ref())
        .or_default(super::DEFAULT_MEMORY_SIZE, check, value::size);
    let hot_bytes = Given::flag("hot-size", flags.hot_size.as_ref()).or(file.hot_size.as_ref()).or_default(
        DEFAULT_HOT_SIZE,
        check,
        value::size,
    );
    let mut truth = |flag: Option<bool>, file: &Option<Value>| match flag {
        Some(flag) => Some(flag),
        None => Given(file.clone()).or_default("false", check, value::boolean),
    };
    let open_access = truth(flags.open_access, &file.open_access);
    let plain_http = truth(flags.plain_http, &file.plain_http);
    let enroll = truth(flags.enroll, &file.enroll);
    let lan = truth(flags.lan, &file.lan);
    let teacher_writes = truth(flags.teacher_writes, &file.teacher_writes);
    let in_file = |flag: &Option<PathBuf>, value: &Option<Value>| {
        flag.clone().or_else(|| value.as_ref().map(|value| value.path(path)))
    };
    let chain = in_file(&flags.certificate, &file.certificate);
    let certificate = match (chain, in_file(&flags.certificate_key, &file.certificate_key)) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        _ => {
            let usage = flags.certificate.is_some() || flags.certificate_key.is_some();
            check.add(usage, "a certificate and its key are needed together".into());
            None
        }
    };
    let store = flags.store.clone().or_else(|| file.store.as_ref().map(|value| value.text.clone()));
    let catalog = Given::flag("catalog", flags.catalog.as_ref()).or(file.catalog.as_ref()).0;
    let catalog = catalog.map(|value| check.value(&value, Place::parse));
    let key_file = in_file(&flags.key_file, &file.key_file);
    if key_file.is_none() && store.as_ref().is_some_and(|store| store.starts_with("s3://")) {
        check.add(flags.store.is_some(), "a store on S3 needs --key-file".into());
    }
    let audience = Given::flag("audience", flags.audience.as_ref()).or(file.audience.as_ref()).or_default(
        DEFAULT_AUDIENCE,
        check,
        value::name,
    );
    let confirmations = Given::flag("confirmations", flags.confirmations.as_ref())
        .or(file.confirmations.as_ref())
        .0
        .map(|given| check.value(&given, value::confirmations));
    let abuse_contact = Given::flag("abuse-contact", flags.abuse_contact.as_ref())
        .or(file.abuse_contact.as_ref())
        .0
        .map(|given| check.value(&given, value::contact));
    let tenants: Vec<Value> = match flags.trusted_tenants.as_slice() {
        [] => file.trusted_tenants.clone(),
        given => given.iter().map(|name| Value::flag("trusted-tenants", name)).collect(),
    };
    let trusted_tenants: Vec<String> =
        tenants.iter().filter_map(|tenant| check.value(tenant, value::name)).collect();
    let token_keys = match flags.token_keys.as_slice() {
        [] => file.token_keys.iter().map(|value| value.path(path)).collect(),
        given => given.to_vec(),
    };
    let grids = published(flags, grids, check);
    let limits = limits(flags, file, check);
    let protection = protection(flags, file, check);
    if lan == Some(true) {
        let strangers = [
            (plain_http, "--plain-http", "what a household shares is always encrypted"),
            (open_access, "--open-access", "whoever has the join line is let in, and nobody else"),
            (enroll, "--enroll", "whoever has the join line is let in, and nobody else"),
            (Some(abuse_contact.is_some()), "--abuse-contact", "it is for public nodes"),
        ];
        if let Some(listen) = listen
            && listen_given
            && !listen.ip().is_unspecified()
            && !is_home(listen.ip())
        {
            check.add(
                flags.listen.is_some(),
                format!(
                    "{} is not an address of a private network, and --lan serves homes and classrooms only: leave \
                     out --listen to have all private addresses used, or name one of them",
                    listen.ip()
                ),
            );
        }
        for (given, flag, why) in strangers {
            if given == Some(true) {
                check.add(true, format!("--lan does not go with {flag}: {why}; leave one of them out"));
            }
        }
    } else if teacher_writes == Some(true) {
        check.add(true, "--teacher-writes is for --lan: it is about join lines".into());
    }
    Some(ServeSettings {
        listen: listen?,
        listen_given,
        lan: lan?,
        teacher_writes: teacher_writes?,
        store,
        catalog: match catalog {
            Some(catalog) => Some(catalog?),
            None => None,
        },
        key_file,
        certificate,
        open_access: open_access?,
        token_keys,
        audience: audience?,
        enroll: enroll?,
        trusted_tenants,
        abuse_contact: match abuse_contact {
            Some(checked) => Some(checked?),
            None => None,
        },
        confirmations: match confirmations {
            Some(checked) => Some(checked?),
            None => None,
        },
        grids,
        limits: limits?,
        protection: protection?,
        plain_http: plain_http?,
        memory_bytes: memory_bytes?,
        hot_dir: in_file(&flags.hot_dir, &file.hot_dir),
        hot_bytes: hot_bytes?,
    })
}

/// The operator's list of grids. A flag's takes the place of the file's, as flags do everywhere; of a grid
/// that both know, the file's hosts stay.
fn published(flags: &ServeFlags, file: &[GridValues], check: &mut Checker) -> Vec<GridPolicy> {
    let mut policies: Vec<GridPolicy> = file.iter().filter_map(|grid| policy_of(grid, check)).collect();
    if !flags.publish.is_empty() {
        policies.iter_mut().for_each(|policy| policy.publish = false);
    }
    for text in &flags.publish {
        let given = Value::flag("publish", text);
        let (name, origins) = text.split_once('=').unwrap_or((text, ""));
        let id = check.value(&Value::flag("publish", name), value::grid_id);
        let central = match origins {
            "" => None,
            word => match value::origins(word) {
                Ok(central) => Some(central),
                Err(wrong) => {
                    check.blame(&given, &wrong);
                    continue;
                }
            },
        };
        let Some(id) = id else { continue };
        let policy = of_grid(&mut policies, id);
        policy.publish = true;
        policy.central = central.unwrap_or(policy.central);
    }
    for text in &flags.publish_host {
        let given = Value::flag("publish-host", text);
        let Some((name, host)) = text.split_once('=') else {
            check.blame(&given, &format!("{text:?} is not a grid's name, an equals sign, and a host"));
            continue;
        };
        let id = check.value(&Value::flag("publish-host", name), value::grid_id);
        let host = check.value(&Value::flag("publish-host", host), value::host);
        if let (Some(id), Some(host)) = (id, host) {
            of_grid(&mut policies, id).asset_hosts.push(host);
        }
    }
    policies
}

fn of_grid(policies: &mut Vec<GridPolicy>, id: GridId) -> &mut GridPolicy {
    let place = policies.iter().position(|policy| policy.id == id).unwrap_or_else(|| {
        let central = id.is_second_life();
        policies.push(GridPolicy { id, publish: false, central, asset_hosts: Vec::new() });
        policies.len() - 1
    });
    #[allow(clippy::indexing_slicing)] // Found, or pushed, above.
    &mut policies[place]
}

fn policy_of(grid: &GridValues, check: &mut Checker) -> Option<GridPolicy> {
    let publish = grid.publish.as_ref().map(|value| check.value(value, value::boolean));
    let central = grid.origins.as_ref().map(|value| check.value(value, value::origins));
    let asset_hosts: Vec<String> =
        grid.asset_hosts.iter().filter_map(|host| check.value(host, value::host)).collect();
    let id = match (&grid.id, &grid.url) {
        (Some(id), _) => check.value(id, value::grid_id)?,
        // Whatever is wrong with the address is told where the proxy reads it.
        (None, Some(url)) => GridId::from_login_uri(&value::web_address(&url.text).ok()?)?,
        (None, None) => return None,
    };
    let second_life = id.is_second_life();
    Some(GridPolicy {
        publish: publish.flatten().unwrap_or(false),
        central: central.flatten().unwrap_or(second_life),
        asset_hosts,
        id,
    })
}

/// What each address may do, where that was said.
fn protection(flags: &ServeFlags, file: &ServeValues, check: &mut Checker) -> Option<Protection> {
    let mut number = |name, flag: &Option<String>, file: &Option<Value>| {
        let given = Given::flag(name, flag.as_ref()).or(file.as_ref()).0;
        match given.map(|given| check.value(&given, value::number)) {
            // Larger than any number of connections is none.
            Some(number) => Some(Some(u32::try_from(number?).unwrap_or(u32::MAX))),
            None => Some(None),
        }
    };
    let connections =
        number("connections-per-address", &flags.connections_per_address, &file.connections_per_address);
    let requests =
        number("requests-per-address-s", &flags.requests_per_address_s, &file.requests_per_address_s);
    Some(Protection { connections_per_address: connections?, requests_per_address_s: requests? })
}

/// The usual budgets, or what was given in their place.
fn limits(flags: &ServeFlags, file: &ServeValues, check: &mut Checker) -> Option<Limits> {
    let usual = Limits::default();
    let assets_per_hour = Given::flag("assets-per-hour", flags.assets_per_hour.as_ref())
        .or(file.assets_per_hour.as_ref())
        .or_default(&usual.assets_per_hour.to_string(), check, value::number);
    let burst = Given::flag("assets-burst", flags.assets_burst.as_ref())
        .or(file.assets_burst.as_ref())
        .or_default(&usual.burst.to_string(), check, value::number);
    let bytes_per_day = Given::flag("bytes-per-day", flags.bytes_per_day.as_ref())
        .or(file.bytes_per_day.as_ref())
        .or_default(&usual.bytes_per_day.to_string(), check, value::size);
    let stored_bytes = Given::flag("stored-bytes", flags.stored_bytes.as_ref())
        .or(file.stored_bytes.as_ref())
        .or_default(&usual.stored_bytes.to_string(), check, value::size);
    Some(Limits {
        assets_per_hour: assets_per_hour?,
        burst: burst?,
        bytes_per_day: bytes_per_day?,
        stored_bytes: stored_bytes?,
    })
}
