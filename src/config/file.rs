//! The TOML file: every key as text with its line, every unknown key and wrong shape as a problem.
//!
//! Walked by hand because a derived reader stops at the first problem.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::director::{self, DirectorValues};
use super::value::{Checker, Site, Value};

/// What the file holds. Keys are documented in `packaging/rezcache.toml`.
#[derive(Clone, Debug, Default)]
pub(super) struct FileValues {
    pub(super) data_dir: Option<Value>,
    pub(super) log_format: Option<Value>,
    pub(super) verbose: Option<Value>,
    pub(super) listen: Option<Value>,
    pub(super) control: Option<Value>,
    pub(super) cache_server: Option<Value>,
    pub(super) token_file: Option<Value>,
    pub(super) resolver: Option<Value>,
    pub(super) upload: Option<Value>,
    pub(super) upload_limit: Option<Value>,
    pub(super) cache_size: Option<Value>,
    pub(super) memory_size: Option<Value>,
    pub(super) chat_commands: Option<Value>,
    pub(super) grids: Vec<GridValues>,
    pub(super) director: DirectorValues,
    pub(super) passes: Option<Value>,
    pub(super) save: Option<Value>,
    pub(super) link: Option<Value>,
    pub(super) realtime: Option<Value>,
    pub(super) serve: ServeValues,
    pub(super) run: RunValues,
}

/// The `[run]` table.
#[derive(Clone, Debug, Default)]
pub(super) struct RunValues {
    pub(super) viewer: Option<Value>,
    pub(super) viewer_kind: Option<Value>,
    pub(super) strict: Option<Value>,
    pub(super) login_grace: Option<Value>,
}

/// The `[serve]` table.
#[derive(Clone, Debug, Default)]
pub(super) struct ServeValues {
    pub(super) lan: Option<Value>,
    pub(super) teacher_writes: Option<Value>,
    pub(super) listen: Option<Value>,
    pub(super) store: Option<Value>,
    pub(super) catalog: Option<Value>,
    pub(super) key_file: Option<Value>,
    pub(super) certificate: Option<Value>,
    pub(super) certificate_key: Option<Value>,
    pub(super) token_keys: Vec<Value>,
    pub(super) audience: Option<Value>,
    pub(super) enroll: Option<Value>,
    pub(super) trusted_tenants: Vec<Value>,
    pub(super) abuse_contact: Option<Value>,
    pub(super) confirmations: Option<Value>,
    pub(super) assets_per_hour: Option<Value>,
    pub(super) assets_burst: Option<Value>,
    pub(super) bytes_per_day: Option<Value>,
    pub(super) stored_bytes: Option<Value>,
    pub(super) connections_per_address: Option<Value>,
    pub(super) requests_per_address_s: Option<Value>,
    pub(super) open_access: Option<Value>,
    pub(super) plain_http: Option<Value>,
    pub(super) memory_size: Option<Value>,
    pub(super) hot_dir: Option<Value>,
    pub(super) hot_size: Option<Value>,
}

/// One `[[grid]]` table.
#[derive(Clone, Debug)]
pub(super) struct GridValues {
    pub(super) site: Site,
    pub(super) name: Option<Value>,
    pub(super) url: Option<Value>,
    pub(super) allow: Vec<Value>,
    pub(super) ca_file: Option<Value>,
    pub(super) asset_host: Option<Value>,
    pub(super) central: Option<Value>,
    pub(super) id: Option<Value>,
    pub(super) publish: Option<Value>,
    pub(super) origins: Option<Value>,
    pub(super) asset_hosts: Vec<Value>,
}

/// Reads a file's text; `path` is for messages.
pub(super) fn read(path: &Path, text: &str, check: &mut Checker) -> FileValues {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = Lines { path, text };
    for error in &errors {
        let site = lines.site(error.span().map_or(0, |span| span.start));
        check.add(false, format!("{site}: {}", error.message()));
    }
    let mut root = Section::new(&lines, String::new(), table.get_ref());
    let mut values = FileValues {
        data_dir: root.scalar("data_dir", check),
        log_format: root.scalar("log_format", check),
        verbose: root.scalar("verbose", check),
        ..FileValues::default()
    };
    if let Some(mut proxy) = root.section("proxy", check) {
        values.listen = proxy.scalar("listen", check);
        values.control = proxy.scalar("control", check);
        values.cache_server = proxy.scalar("cache_server", check);
        values.token_file = proxy.scalar("token_file", check);
        values.resolver = proxy.scalar("resolver", check);
        values.upload = proxy.scalar("upload", check);
        values.upload_limit = proxy.scalar("upload_limit", check);
        values.cache_size = proxy.scalar("cache_size", check);
        values.memory_size = proxy.scalar("memory_size", check);
        values.chat_commands = proxy.scalar("chat_commands", check);
        proxy.finish(check);
    }
    if let Some(mut replay) = root.section("replay", check) {
        values.passes = replay.scalar("passes", check);
        values.save = replay.scalar("save", check);
        values.link = replay.scalar("link", check);
        values.realtime = replay.scalar("realtime", check);
        replay.finish(check);
    }
    if let Some(mut run) = root.section("run", check) {
        values.run = RunValues {
            viewer: run.scalar("viewer", check),
            viewer_kind: run.scalar("viewer_kind", check),
            strict: run.scalar("strict", check),
            login_grace: run.scalar("login_grace", check),
        };
        run.finish(check);
    }
    if let Some(mut serve) = root.section("serve", check) {
        values.serve = ServeValues {
            lan: serve.scalar("lan", check),
            teacher_writes: serve.scalar("teacher_writes", check),
            listen: serve.scalar("listen", check),
            store: serve.scalar("store", check),
            catalog: serve.scalar("catalog", check),
            key_file: serve.scalar("key_file", check),
            certificate: serve.scalar("certificate", check),
            certificate_key: serve.scalar("certificate_key", check),
            token_keys: serve.list("token_keys", check),
            audience: serve.scalar("audience", check),
            enroll: serve.scalar("enroll", check),
            trusted_tenants: serve.list("trusted_tenants", check),
            abuse_contact: serve.scalar("abuse_contact", check),
            confirmations: serve.scalar("confirmations", check),
            assets_per_hour: serve.scalar("assets_per_hour", check),
            assets_burst: serve.scalar("assets_burst", check),
            bytes_per_day: serve.scalar("bytes_per_day", check),
            stored_bytes: serve.scalar("stored_bytes", check),
            connections_per_address: serve.scalar("connections_per_address", check),
            requests_per_address_s: serve.scalar("requests_per_address_s", check),
            open_access: serve.scalar("open_access", check),
            plain_http: serve.scalar("plain_http", check),
            memory_size: serve.scalar("memory_size", check),
            hot_dir: serve.scalar("hot_dir", check),
            hot_size: serve.scalar("hot_size", check),
        };
        serve.finish(check);
    }
    for (key, keys, table) in [
        ("director", director::DIRECTOR_KEYS, &mut values.director.director),
        ("scaling", director::SCALING_KEYS, &mut values.director.scaling),
        ("alerts", director::ALERT_KEYS, &mut values.director.alerts),
    ] {
        if let Some(section) = root.section(key, check) {
            *table = section.table(keys, check);
        }
    }
    for section in root.sections("node", check) {
        values.director.nodes.push(section.table(director::NODE_KEYS, check));
    }
    for mut grid in root.sections("grid", check) {
        values.grids.push(GridValues {
            site: grid.site.clone(),
            name: grid.scalar("name", check),
            url: grid.scalar("url", check),
            allow: grid.list("allow", check),
            ca_file: grid.scalar("ca_file", check),
            asset_host: grid.scalar("asset_host", check),
            central: grid.scalar("central", check),
            id: grid.scalar("id", check),
            publish: grid.scalar("publish", check),
            origins: grid.scalar("origins", check),
            asset_hosts: grid.list("asset_hosts", check),
        });
        grid.finish(check);
    }
    root.finish(check);
    values
}

struct Lines<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Lines<'_> {
    fn site(&self, offset: usize) -> Site {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Site::File { path: self.path.to_owned(), line }
    }
}

/// A table being read: what is asked for is taken out, what remains is unknown.
struct Section<'a> {
    lines: &'a Lines<'a>,
    /// With a dot at the end, for messages; empty at the top.
    prefix: String,
    site: Site,
    entries: BTreeMap<&'a str, (usize, &'a DeValue<'a>)>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    fn new(lines: &'a Lines<'a>, prefix: String, table: &'a DeTable<'a>) -> Self {
        let entries: BTreeMap<_, _> = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), (key.span().start, value.get_ref())))
            .collect();
        let first = entries.values().map(|(start, _)| *start).min().unwrap_or(0);
        Self { lines, prefix, site: lines.site(first), entries, known: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<(Site, &'a DeValue<'a>)> {
        self.known.push(key);
        let (start, value) = self.entries.remove(key)?;
        Some((self.lines.site(start), value))
    }

    fn wrong_shape(&self, site: &Site, key: &str, wanted: &str, found: &DeValue<'_>, check: &mut Checker) {
        check.add(
            false,
            format!("{site}: {}{key} must be {wanted}, but is a {}", self.prefix, found.type_str()),
        );
    }

    fn scalar(&mut self, key: &'static str, check: &mut Checker) -> Option<Value> {
        let (site, value) = self.take(key)?;
        let text = scalar_text(value);
        if text.is_none() {
            self.wrong_shape(&site, key, "a single value", value, check);
        }
        Some(Value { site, key: format!("{}{key}", self.prefix), text: text? })
    }

    fn list(&mut self, key: &'static str, check: &mut Checker) -> Vec<Value> {
        let Some((site, value)) = self.take(key) else { return Vec::new() };
        let texts: Option<Vec<_>> = value
            .as_array()
            .and_then(|array| array.iter().map(|entry| scalar_text(entry.get_ref())).collect());
        let Some(texts) = texts else {
            self.wrong_shape(&site, key, "a list of texts", value, check);
            return Vec::new();
        };
        let key = format!("{}{key}", self.prefix);
        texts.into_iter().map(|text| Value { site: site.clone(), key: key.clone(), text }).collect()
    }

    fn section(&mut self, key: &'static str, check: &mut Checker) -> Option<Section<'a>> {
        let (site, value) = self.take(key)?;
        let Some(table) = value.as_table() else {
            self.wrong_shape(&site, key, &format!("a section [{key}]"), value, check);
            return None;
        };
        Some(Section::new(self.lines, format!("{key}."), table))
    }

    fn sections(&mut self, key: &'static str, check: &mut Checker) -> Vec<Section<'a>> {
        let Some((site, value)) = self.take(key) else { return Vec::new() };
        let tables: Option<Vec<_>> =
            value.as_array().and_then(|array| array.iter().map(|entry| entry.get_ref().as_table()).collect());
        let Some(tables) = tables else {
            self.wrong_shape(&site, key, &format!("sections [[{key}]]"), value, check);
            return Vec::new();
        };
        let lines = self.lines;
        tables.into_iter().map(|table| Section::new(lines, format!("{key}."), table)).collect()
    }

    /// All of it, of a table that holds nothing but these keys with one value and these with lists.
    fn table(mut self, (single, lists): director::Keys, check: &mut Checker) -> director::Table {
        let mut table = director::Table::default();
        for key in single {
            table.single.extend(self.scalar(key, check).map(|value| (*key, value)));
        }
        for key in lists {
            table.lists.insert(key, self.list(key, check));
        }
        self.finish(check);
        table
    }

    fn finish(self, check: &mut Checker) {
        for (key, (start, _)) in &self.entries {
            let site = self.lines.site(*start);
            check.add(
                false,
                format!("{site}: unknown key {}{key}; known are {}", self.prefix, self.known.join(", ")),
            );
        }
    }
}

fn scalar_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.as_ref().to_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}
