//! What `serve` needs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::file::ServeValues;
use super::flags::ServeFlags;
use super::value::{self, Checker, Given, Value};
use crate::catalog::Place;
use crate::node::NodeConfig;

/// Where a node listens unless the user says otherwise.
pub const DEFAULT_SERVE_LISTEN: &str = "127.0.0.1:8443";

/// The most bytes the hot folder takes unless the user says otherwise.
pub(super) const DEFAULT_HOT_SIZE: &str = "20GiB";

/// Settings of a node; what depends on the data folder is filled in by [`ServeSettings::into_config`].
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// Where both faces listen.
    pub listen: SocketAddr,
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
        let folder = match store.strip_prefix("file://") {
            Some(path) => Some(PathBuf::from(path)),
            None if store.contains(':') => None,
            None => Some(PathBuf::from(&store)),
        };
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
        NodeConfig {
            listen: self.listen,
            store,
            catalog,
            key_file,
            certificate: self.certificate,
            plain_http: self.plain_http,
            open_access: self.open_access || loopback,
            private_only: true,
            confirmations: if value::is_private(self.listen.ip()) { 1 } else { 2 },
            grids: Vec::new(),
            memory_bytes: self.memory_bytes,
            hot_dir: self.hot_dir,
            hot_bytes: self.hot_bytes,
        }
    }
}

pub(super) fn resolve(
    flags: &ServeFlags,
    file: &ServeValues,
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<ServeSettings> {
    let listen = Given::flag("listen", flags.listen.as_ref()).or(file.listen.as_ref()).or_default(
        DEFAULT_SERVE_LISTEN,
        check,
        value::address,
    );
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
    if let (Some(listen), Some(open)) = (listen, open_access)
        && open
        && !listen.ip().is_unspecified()
        && !value::is_private(listen.ip())
    {
        let usage = flags.open_access.is_some();
        check.add(usage, format!("open access is for private networks, and {listen} is a public address"));
    }
    Some(ServeSettings {
        listen: listen?,
        store,
        catalog: match catalog {
            Some(catalog) => Some(catalog?),
            None => None,
        },
        key_file,
        certificate,
        open_access: open_access?,
        plain_http: plain_http?,
        memory_bytes: memory_bytes?,
        hot_dir: in_file(&flags.hot_dir, &file.hot_dir),
        hot_bytes: hot_bytes?,
    })
}
