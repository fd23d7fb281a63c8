//! Single values: where each was given, what it must look like, and an error text that teaches.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::file::GridValues;
use super::{Problem, Problems, ProxyFlags};
use crate::client::address::{AddressError, ServerAddress};
use crate::grid::GridId;
use crate::proxy::GridConfig;
use crate::redact::Redacted;
use crate::replay::{LinkSpec, LinkSpecError};
use crate::token::join::{JoinLine, JoinLineError, SCHEME};

/// Where a value was given.
#[derive(Clone, Debug)]
pub(super) enum Site {
    /// By a flag, or by its environment variable.
    Flag(&'static str),
    /// On this line of the file.
    File { path: PathBuf, line: usize },
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => {
                write!(f, "--{name} (or REZCACHE_{})", name.to_ascii_uppercase().replace('-', "_"))
            }
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A value as it was given.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) site: Site,
    /// The key in the file; empty for flags, whose site names them.
    pub(super) key: String,
    pub(super) text: String,
}

impl Value {
    pub(super) fn flag(name: &'static str, text: &str) -> Self {
        Self { site: Site::Flag(name), key: String::new(), text: text.to_owned() }
    }

    /// As a path; in a file, relative to that file's folder.
    pub(super) fn path(&self, file: Option<&Path>) -> PathBuf {
        match (&self.site, file.and_then(Path::parent)) {
            (Site::File { .. }, Some(folder)) => folder.join(&self.text),
            _ => PathBuf::from(&self.text),
        }
    }

    fn is_usage(&self) -> bool {
        matches!(self.site, Site::Flag(_))
    }
}

/// A value that may have been given, flags before the file.
pub(super) struct Given(pub(super) Option<Value>);

impl Given {
    pub(super) fn flag(name: &'static str, text: Option<&String>) -> Self {
        Self(text.map(|text| Value::flag(name, text)))
    }

    pub(super) fn or(self, file: Option<&Value>) -> Self {
        Self(self.0.or_else(|| file.cloned()))
    }

    /// Checked, or the default, which goes through the same check.
    pub(super) fn or_default<T>(self, default: &str, check: &mut Checker, parse: Parse<T>) -> Option<T> {
        match self.0 {
            Some(value) => check.value(&value, parse),
            None => parse(default).ok(),
        }
    }
}

type Parse<T> = fn(&str) -> Result<T, String>;

/// Collects problems.
#[derive(Default)]
pub(super) struct Checker {
    problems: Vec<Problem>,
}

impl Checker {
    pub(super) fn add(&mut self, usage: bool, text: String) {
        self.problems.push(Problem { usage, text });
    }

    pub(super) fn value<T>(&mut self, value: &Value, parse: Parse<T>) -> Option<T> {
        parse(&value.text).map_err(|wrong| self.blame(value, &wrong)).ok()
    }

    pub(super) fn blame(&mut self, value: &Value, wrong: &str) {
        let key = if value.key.is_empty() { String::new() } else { format!("{}: ", value.key) };
        self.add(value.is_usage(), format!("{}: {key}{wrong}", value.site));
    }

    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(Problems { list: self.problems }),
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither text nor json")),
    }
}

pub(super) fn verbosity(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("{text:?} is not 0, 1 or 2"))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(format!("{text:?} is neither yes nor no")),
    }
}

/// Bytes a second; `None` for no limit.
pub(super) fn rate(text: &str) -> Result<Option<u64>, String> {
    let text = text.trim().to_ascii_lowercase();
    if text == "none" {
        return Ok(None);
    }
    let bits = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)]
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit)?.trim().parse::<u64>().ok()?.checked_mul(*factor));
    match bits {
        // Less would be no more than a way of saying no.
        Some(bits @ 8_000..) => Ok(Some(bits / 8)),
        _ => Err(format!("{text:?} is not a rate such as 500kbit, 1mbit or none (8kbit at least)")),
    }
}

pub(super) fn passes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(passes @ 1..=100) => Ok(passes),
        _ => Err(format!("{text:?} is not a number from 1 to 100")),
    }
}

pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is not an address with a port, such as 127.0.0.1:9080"))?;
    if address.is_ipv6() {
        // Circuits are IPv4, and viewers force it for HTTP too.
        Err(format!("{address}: viewers speak IPv4 only; use 127.0.0.1:{}", address.port()))
    } else if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!(
            "{address} can be reached from other machines; rezcache listens on loopback only, such as 127.0.0.1:{}",
            address.port()
        ))
    }
}

/// A subject, tenant or service name.
pub(super) fn name(text: &str) -> Result<String, String> {
    match crate::token::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("must be 1 to 128 visible ASCII characters without spaces".into()),
    }
}

/// Whom to write to.
pub(super) fn contact(text: &str) -> Result<String, String> {
    let fits = |c: char| !c.is_control();
    if (3..=200).contains(&text.trim().len()) && text.chars().all(fits) {
        Ok(text.trim().to_owned())
    } else {
        Err(format!("{text:?} is no mail or web address, such as abuse@example.org"))
    }
}

pub(super) fn confirmations(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=16) => Ok(number),
        _ => Err(format!("{text:?} is not a number from 1 to 16")),
    }
}

/// A number that is not zero.
pub(super) fn number(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000_000) => Ok(number),
        _ => Err(format!("{text:?} is not a number from 1 to 1000000000")),
    }
}

/// Whether one operator runs all hosts of a grid.
pub(super) fn origins(text: &str) -> Result<bool, String> {
    match text {
        "central" => Ok(true),
        "distributed" => Ok(false),
        _ => Err(format!("{text:?} is neither central nor distributed")),
    }
}

/// A host as origins are named: lower case, without port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let uri = web_address(text)?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    if host.is_empty() { Err(format!("{text:?} is no host name")) } else { Ok(host) }
}

/// The name by which a grid is known: its login authority, or agni.
pub(super) fn grid_id(text: &str) -> Result<GridId, String> {
    match grid_name(&text.to_ascii_lowercase()) {
        Ok(name) => Ok(GridId::new(&name)),
        Err(_) => Err(format!(
            "{text:?} names no grid; write its login address without http://, such as login.osgrid.org, or agni"
        )),
    }
}

/// Which shared cache to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CacheServer {
    /// The one at this address.
    At(ServerAddress),
    /// The one of this join line.
    Joined(JoinLine),
    /// Those that were joined.
    Auto,
}

/// Which shared cache to use: an address, a join line, or `auto`.
pub(super) fn cache_server(text: &str) -> Result<CacheServer, String> {
    if text.trim() == "auto" {
        return Ok(CacheServer::Auto);
    }
    if text.trim_start().get(..SCHEME.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(SCHEME)) {
        return text.parse().map(CacheServer::Joined).map_err(|wrong: JoinLineError| wrong.to_string());
    }
    text.parse().map(CacheServer::At).map_err(|wrong: AddressError| wrong.to_string())
}

/// A name server: an address, and a port where it is not the usual one.
pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let bare = || text.trim_matches(['[', ']']).parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    let server = text.parse().or_else(|_| bare());
    server.ok().filter(|server| server.port() != 0 && !server.ip().is_unspecified()).ok_or_else(|| {
        format!("`{text}` is no address of a name server; write it as 192.0.2.53 or 192.0.2.53:5353")
    })
}

/// The token in a file. Neither the text nor what is wrong with it is shown.
pub(super) fn token_file(path: &Path) -> Result<Redacted<String>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the token file {}: {error}", path.display()))?;
    let token = text.trim();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if (16..=4096).contains(&token.len()) && token.bytes().all(fits) {
        Ok(Redacted::new(token.to_owned()))
    } else {
        Err(format!("{} does not hold a token as `rezcache token new` prints it", path.display()))
    }
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write it as 127.0.0.1:8443".into())
}

/// Whether only a private network or this machine reaches an address.
pub(super) fn is_private(ip: std::net::IpAddr) -> bool {
    !ip.is_unspecified() && !crate::support::addresses::is_public(ip)
}

pub(super) fn control(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" { Ok(None) } else { loopback(text).map(Some) }
}

/// `10GiB`, `500MB`, `1000000`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: Option<u64> = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "tb" => Some(1_000_000_000_000),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        "t" | "tib" => Some(1 << 40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
    bytes.ok_or_else(|| format!("{text:?} is not a size such as 10GiB, 500MB or 1000000"))
}

/// `20mbit,40ms`.
pub(super) fn link(text: &str) -> Result<LinkSpec, String> {
    text.parse().map_err(|wrong: LinkSpecError| format!("{text:?}: {wrong}"))
}

/// An address of the web: with a host, without credentials.
pub(super) fn web_address(text: &str) -> Result<http::Uri, String> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // Not quoted when it may hold a password.
    if full.split("://").nth(1).and_then(|rest| rest.split('/').next()).is_some_and(|a| a.contains('@')) {
        return Err("the address must not hold a user name or password".into());
    }
    let bad = || format!("{text:?} is not an address such as http://login.example.org/");
    let uri: http::Uri = full.parse().map_err(|_| bad())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    if is_web && uri.host().is_some_and(|host| !host.is_empty()) { Ok(uri) } else { Err(bad()) }
}

fn grid_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:-[]".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no name for a grid: use up to 64 letters, digits, dots and dashes"))
    }
}

fn cidr(text: &str) -> Result<String, String> {
    let prefix_fits = |(address, prefix): (&str, &str)| {
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        prefix.parse::<u8>().ok().filter(|&p| p <= most)
    };
    match text.split_once('/').and_then(prefix_fits) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("{text:?} is not an address block such as 10.20.0.0/16")),
    }
}

/// Reads the file once now, rather than failing at the first connection.
fn ca_file(path: &Path) -> Result<PathBuf, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let marker = b"-----BEGIN CERTIFICATE-----";
    if text.windows(marker.len()).any(|window| window == marker) {
        Ok(path.to_owned())
    } else {
        Err(format!("{} holds no certificate in PEM form", path.display()))
    }
}

/// The asset host of Second Life's main grid; any of its simulators grants it to any viewer.
/// Source: issue secondlife/viewer#3395 (a viewer's log).
const SECOND_LIFE_ASSETS: &str = "http://asset-cdn.glb.agni.lindenlab.com/";

/// A grid before its parts are checked.
struct Draft {
    name: Option<Value>,
    url: Value,
    file: Option<GridValues>,
}

/// The grids that the flags name, else those of the file. A grid that both know by name keeps what
/// only the file says about it.
pub(super) fn grids(
    flags: &ProxyFlags,
    file: &[GridValues],
    path: Option<&Path>,
    check: &mut Checker,
) -> Vec<GridConfig> {
    let mut drafts = Vec::new();
    if flags.grids.iter().all(String::is_empty) {
        for grid in file {
            // Of a grid that is only published the proxy needs to know nothing.
            if grid.url.is_none() && grid.id.is_some() {
                continue;
            }
            let Some(url) = grid.url.clone() else {
                check.add(false, format!("{}: grid.url is missing", grid.site));
                continue;
            };
            drafts.push(Draft { name: grid.name.clone(), url, file: Some(grid.clone()) });
        }
    }
    for text in flags.grids.iter().filter(|text| !text.is_empty()) {
        let (name, url) = split_name(text);
        let name = name.map(|name| Value::flag("grid", name));
        drafts.push(Draft { name, url: Value::flag("grid", url), file: None });
    }

    let mut grids = Vec::<GridConfig>::new();
    for draft in drafts {
        let given_name = draft.name.as_ref().map(|name| check.value(name, grid_name));
        let uri = check.value(&draft.url, web_address);
        let id = uri.as_ref().and_then(GridId::from_login_uri);
        let name = given_name.unwrap_or_else(|| id.as_ref().map(|id| id.as_str().to_owned()));
        // Even of a grid that cannot be used the rest is checked.
        let is_valid = uri.is_some() && name.is_some();
        let (uri, name) = (uri.unwrap_or_default(), name.unwrap_or_default());
        let known = draft.file.or_else(|| {
            let same = |g: &&GridValues| g.name.as_ref().is_some_and(|n| n.text == name);
            file.iter().find(same).cloned()
        });
        let is_second_life = id.as_ref().is_some_and(|id| matches!(id.as_str(), "agni" | "aditi"));
        let mut grid = GridConfig {
            name,
            uri,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow: Vec::new(),
            ca_file: None,
            asset_host: id.filter(|id| id.as_str() == "agni").and_then(|_| SECOND_LIFE_ASSETS.parse().ok()),
            central: is_second_life,
            id: None,
        };
        if let Some(known) = known {
            from_file(&mut grid, &known, path, check);
        }
        if !is_valid {
            continue;
        }
        if let Some(twin) = grids.iter().find(|g| g.name == grid.name || same_place(&g.uri, &grid.uri)) {
            let wrong = format!("{} and {} are one grid, or have one name", twin.name, grid.name);
            check.blame(&draft.url, &wrong);
        }
        grids.push(grid);
    }
    from_flags(&mut grids, flags, check);
    grids
}

/// Whether viewers would take two addresses for one login service.
fn same_place(a: &http::Uri, b: &http::Uri) -> bool {
    GridId::from_login_uri(a) == GridId::from_login_uri(b) && a.path() == b.path()
}

/// `NAME=URL`; an equals sign within a URL separates nothing.
fn split_name(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, url)) if !name.contains(['/', '?']) => (Some(name), url),
        _ => (None, text),
    }
}

fn from_file(grid: &mut GridConfig, known: &GridValues, path: Option<&Path>, check: &mut Checker) {
    grid.allow.extend(known.allow.iter().filter_map(|block| check.value(block, cidr)));
    if let Some(value) = &known.ca_file {
        match ca_file(&value.path(path)) {
            Ok(file) => grid.ca_file = Some(file),
            Err(wrong) => check.blame(value, &wrong),
        }
    }
    if let Some(value) = &known.asset_host {
        grid.asset_host = check.value(value, web_address);
    }
    if let Some(central) = known.central.as_ref().and_then(|value| check.value(value, boolean)) {
        grid.central = central;
    }
}

fn from_flags(grids: &mut [GridConfig], flags: &ProxyFlags, check: &mut Checker) {
    // A flag's blocks take the place of the file's, as flags do everywhere.
    let mut replaced = HashSet::new();
    each(grids, "grid-allow", &flags.grid_allow, check, |grid, text| {
        if replaced.insert(grid.name.clone()) {
            grid.allow.clear();
        }
        cidr(text).map(|block| grid.allow.push(block))
    });
    each(grids, "ca-file", &flags.ca_file, check, |grid, text| {
        ca_file(Path::new(text)).map(|file| grid.ca_file = Some(file))
    });
    each(grids, "asset-host", &flags.asset_host, check, |grid, text| {
        web_address(text).map(|uri| grid.asset_host = Some(uri))
    });
    for name in flags.central.iter().filter(|name| !name.is_empty()) {
        match grids.iter_mut().find(|grid| grid.name == *name) {
            Some(grid) => grid.central = true,
            None => no_such_grid(grids, &Value::flag("central", name), name, check),
        }
    }
}

/// Applies every `GRID=VALUE` of one flag.
fn each(
    grids: &mut [GridConfig],
    flag: &'static str,
    texts: &[String],
    check: &mut Checker,
    mut apply: impl FnMut(&mut GridConfig, &str) -> Result<(), String>,
) {
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let value = Value::flag(flag, text);
        let Some((name, rest)) = text.split_once('=') else {
            check.blame(&value, &format!("{text:?} is not a grid's name, an equals sign, and a value"));
            continue;
        };
        match grids.iter_mut().find(|grid| grid.name == name) {
            Some(grid) => {
                if let Err(wrong) = apply(grid, rest) {
                    check.blame(&value, &wrong);
                }
            }
            None => no_such_grid(grids, &value, name, check),
        }
    }
}

fn no_such_grid(grids: &[GridConfig], value: &Value, name: &str, check: &mut Checker) {
    let known: Vec<_> = grids.iter().map(|grid| grid.name.as_str()).collect();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    check.blame(value, &format!("no grid is named {name:?}; there is {known}"));
}
