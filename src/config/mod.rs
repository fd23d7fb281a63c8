//! What the user wants, from three places: flags, then `REZCACHE_…` environment variables, then one
//! TOML file. Values are taken as text first, then checked all together, so that every problem is
//! reported at once. Fills the structs that the components define; does not act on them.

mod director;
mod director_flags;
mod file;
mod flags;
pub mod ports;
mod run;
mod serve;
pub mod token;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use director::{DirectorSettings, ProvisionerSettings};
pub use director_flags::{BoardFlags, DirectorFlags};
pub use flags::{CacheServerFlags, CommonFlags, ControlFlag, ProxyFlags, ReplayFlags, RunFlags, ServeFlags};
pub use run::{DEFAULT_LOGIN_GRACE, RunSettings};
pub use serve::{DEFAULT_SERVE_LISTEN, ServeSettings};
pub use value::LogFormat;

use crate::client::address::ServerAddress;
use crate::client::resolve::Resolver;
use crate::proxy::{
    DISK_PATIENCE, GridConfig, LanConfig, PageConfig, ProxyConfig, SPOT_CHECK, ServiceConfig, UploadConfig,
};
use crate::redact::Redacted;
use crate::replay::LinkSpec;
use file::FileValues;
use value::{CacheServer, Checker, Given};

/// Where grids are served unless the user says otherwise; further grids take the following ports.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9080";
/// The most bytes the disk tier takes unless the user says otherwise.
pub const DEFAULT_CACHE_SIZE: &str = "10GiB";
/// The most bytes the memory tier takes unless the user says otherwise.
pub const DEFAULT_MEMORY_SIZE: &str = "256MiB";
/// The most that uploads take of the line unless the user says otherwise.
pub const DEFAULT_UPLOAD_LIMIT: &str = "1mbit";
/// How often a capture is replayed unless the user says otherwise: cold, then warm.
pub const DEFAULT_PASSES: &str = "2";

/// Everything, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Where rezcache keeps what it learns.
    pub data_dir: PathBuf,
    /// Whether `data_dir` was named by the user rather than being this system's default.
    pub data_dir_given: bool,
    /// How logs look.
    pub log_format: LogFormat,
    /// 0: informational, 1: debug, 2 and more: trace.
    pub verbose: u8,
    /// For `proxy`.
    pub proxy: ProxySettings,
    /// For `run`, beside `proxy`.
    pub run: RunSettings,
    /// For `replay`.
    pub replay: ReplaySettings,
    /// For `serve`.
    pub serve: ServeSettings,
    /// For `director`.
    pub director: DirectorSettings,
}

/// What `proxy` needs; ports beyond the first are assigned by [`ports`].
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The grids, `listen` all with port 0.
    pub grids: Vec<GridConfig>,
    /// The address of the first grid's port.
    pub listen: SocketAddr,
    /// Whether the user has asked for that address.
    pub listen_given: bool,
    /// The address of the control port. `None`: none.
    pub control: Option<SocketAddr>,
    /// Whether the user has asked for that address.
    pub control_given: bool,
    /// The most bytes the disk tier may take.
    pub cache_bytes: u64,
    /// Whether that was said, and is not only usual.
    pub cache_size_given: bool,
    /// The most bytes the memory tier may take.
    pub memory_bytes: u64,
    /// The shared cache to use, where one is named.
    pub service: Option<ServiceConfig>,
    /// The household's shared caches to look for.
    pub lan: Option<LanConfig>,
    /// Whether the user lets us upload; `None`: has not been asked.
    pub upload: Option<bool>,
    /// The most that uploads take of the line, in bytes a second. `None`: no limit.
    pub upload_rate: Option<u64>,
    /// Whether commands that the user types into chat are answered.
    pub chat_commands: bool,
}

impl ProxySettings {
    /// The configuration of the proxy, with `listen` of each grid in their order. `may_upload` is what
    /// the user says in the end, [`ProxySettings::upload`] what they said beforehand.
    #[must_use]
    pub fn into_config(
        self,
        listen: &[SocketAddr],
        data_dir: PathBuf,
        asset_token: String,
        control_token: String,
        may_upload: bool,
    ) -> ProxyConfig {
        let mut grids = self.grids;
        let household = self.lan.is_some();
        for (grid, address) in grids.iter_mut().zip(listen) {
            grid.listen = *address;
        }
        ProxyConfig {
            grids,
            control: self.control,
            data_dir,
            cache_bytes: self.cache_bytes,
            memory_bytes: self.memory_bytes,
            disk_patience: DISK_PATIENCE,
            asset_token,
            control_token: Some(Redacted::new(control_token)),
            service: self.service,
            lan: self.lan,
            uploads: (may_upload || household)
                .then(|| UploadConfig { rate: self.upload_rate, ..UploadConfig::default() }),
            page: PageConfig {
                size_fixed: self.cache_size_given,
                with_self_test: true,
                ..PageConfig::default()
            },
            chat_commands: self.chat_commands,
            dial: crate::proxy::DialMap::default(),
        }
    }
}

/// What `replay` needs beside the captures.
#[derive(Clone, Debug)]
pub struct ReplaySettings {
    /// How often each capture is replayed.
    pub passes: u32,
    /// Where to write what the stand-in viewer received.
    pub save: Option<PathBuf>,
    /// The simulated line to the grid.
    pub link: Option<LinkSpec>,
    /// Whether waiting times stay as captured.
    pub realtime: bool,
    /// The shared cache to use.
    pub service: Option<ServiceConfig>,
}

/// The flags of whichever subcommand runs; the others' stay empty.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// Of every subcommand.
    pub common: CommonFlags,
    /// Of `proxy`; `control` also of `status`.
    pub proxy: ProxyFlags,
    /// Of `run`, beside `proxy`.
    pub run: RunFlags,
    /// Of `replay`.
    pub replay: ReplayFlags,
    /// Of `replay` too: what a file says of the shared cache is for the proxy alone.
    pub replay_service: CacheServerFlags,
    /// Of `serve`.
    pub serve: ServeFlags,
    /// Of `director`.
    pub director: DirectorFlags,
    /// Of `director` and its commands.
    pub board: BoardFlags,
}

/// Everything that is wrong, in the order of flags, file lines and consequences.
#[derive(Debug, thiserror::Error)]
pub struct Problems {
    list: Vec<Problem>,
}

#[derive(Debug)]
struct Problem {
    /// Whether a flag or an environment variable is at fault: wrong usage, rather than a bad file.
    usage: bool,
    text: String,
}

impl Problems {
    /// What is missing, for a command (`usage`) or in a file.
    #[must_use]
    pub fn missing(texts: Vec<String>, usage: bool) -> Self {
        Self { list: texts.into_iter().map(|text| Problem { usage, text }).collect() }
    }

    /// The same as wrong usage: for a service, which no restart helps.
    #[must_use]
    pub fn into_usage(mut self) -> Self {
        self.list.iter_mut().for_each(|problem| problem.usage = true);
        self
    }

    /// Whether a flag or an environment variable is among the causes.
    #[must_use]
    pub fn are_usage(&self) -> bool {
        self.list.iter().any(|problem| problem.usage)
    }

    /// One line each.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|problem| problem.text.as_str())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.list.len() == 1 { "" } else { "s" };
        write!(f, "{} problem{many} in the configuration", self.list.len())?;
        self.lines().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl Settings {
    /// Reads the file that the flags name, else the one in this system's configuration folder when
    /// it is there, and checks everything.
    ///
    /// # Errors
    /// All problems found.
    pub fn load(flags: &Flags) -> Result<Self, Problems> {
        let mut check = Checker::default();
        let directories = directories::ProjectDirs::from("", "", "rezcache");
        let path = flags.common.config.clone().or_else(|| {
            let default = directories.as_ref()?.config_dir().join("rezcache.toml");
            default.is_file().then_some(default)
        });
        let file = path.as_deref().map_or_else(FileValues::default, |path| read(path, flags, &mut check));
        let default_data_dir = directories.map(|d| d.data_local_dir().to_owned());
        let settings = resolve(flags, &file, path, default_data_dir, &mut check);
        check.finish(settings)
    }
}

/// The file's values; problems with the file itself go to `check`.
fn read(path: &Path, flags: &Flags, check: &mut Checker) -> FileValues {
    match std::fs::read_to_string(path) {
        Ok(text) => file::read(path, &text, check),
        Err(error) => {
            let named = flags.common.config.is_some();
            check.add(named, format!("cannot read {}: {error}", path.display()));
            FileValues::default()
        }
    }
}

fn resolve(
    flags: &Flags,
    file: &FileValues,
    path: Option<PathBuf>,
    default_data_dir: Option<PathBuf>,
    check: &mut Checker,
) -> Option<Settings> {
    let common = &flags.common;
    let data_dir_given =
        common.data_dir.clone().or_else(|| file.data_dir.as_ref().map(|v| v.path(path.as_deref())));
    let log_format = Given::flag("log-format", common.log_format.as_ref())
        .or(file.log_format.as_ref())
        .or_default("text", check, value::log_format);
    let in_file = file.verbose.as_ref().and_then(|v| check.value(v, value::verbosity));
    let verbose = if common.verbose > 0 { common.verbose } else { in_file.unwrap_or(0) };
    let proxy = proxy(&flags.proxy, file, path.as_deref(), check);
    let run = run::resolve(&flags.run, file, path.as_deref(), check);
    let replay = replay(&flags.replay, &flags.replay_service, file, path.as_deref(), check);
    let serve = serve::resolve(&flags.serve, &file.serve, &file.grids, path.as_deref(), check);
    let director = director::resolve(&flags.board, &flags.director, &file.director, path.as_deref(), check);
    let data_dir = data_dir_given.clone().or(default_data_dir);
    if data_dir.is_none() {
        check.add(true, "this system names no folder for data; name one with --data-dir".into());
    }
    Some(Settings {
        file: path,
        data_dir: data_dir?,
        data_dir_given: data_dir_given.is_some(),
        log_format: log_format?,
        verbose,
        proxy: proxy?,
        run: run?,
        replay: replay?,
        serve: serve?,
        director: director?,
    })
}

fn proxy(
    flags: &ProxyFlags,
    file: &FileValues,
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<ProxySettings> {
    let grids = value::grids(flags, &file.grids, path, check);
    let given = Given::flag("listen", flags.listen.as_ref()).or(file.listen.as_ref());
    let listen_given = given.0.is_some();
    let listen = given.or_default(DEFAULT_LISTEN, check, value::loopback);
    let control = Given::flag("control", flags.control.control.as_ref()).or(file.control.as_ref());
    let control_given = control.0.is_some();
    let control = match control.0 {
        Some(given) => check.value(&given, value::control),
        // Next to the first grid's port, as its documentation promises.
        None => listen.map(|listen| Some(SocketAddr::new(listen.ip(), listen.port().saturating_sub(1)))),
    };
    let cache_size_given = flags.cache_size.is_some() || file.cache_size.is_some();
    let cache_bytes = Given::flag("cache-size", flags.cache_size.as_ref())
        .or(file.cache_size.as_ref())
        .or_default(DEFAULT_CACHE_SIZE, check, value::size);
    let memory_bytes = Given::flag("memory-size", flags.memory_size.as_ref())
        .or(file.memory_size.as_ref())
        .or_default(DEFAULT_MEMORY_SIZE, check, value::size);
    let (service, lan) = match service(&flags.service, file, path, check)? {
        Some(Service::At(service)) => (Some(service), None),
        Some(Service::Lan(lan)) => (None, Some(lan)),
        None => (None, None),
    };
    let upload = match Given::flag("upload", flags.upload.as_ref()).or(file.upload.as_ref()).0 {
        Some(given) => check.value(&given, value::yes_or_no).map(Some),
        None => Some(None),
    };
    let upload_rate = Given::flag("upload-limit", flags.upload_limit.as_ref())
        .or(file.upload_limit.as_ref())
        .or_default(DEFAULT_UPLOAD_LIMIT, check, value::rate);
    let chat_commands = match flags.chat_commands {
        Some(chat_commands) => Some(chat_commands),
        None => Given(file.chat_commands.clone()).or_default("false", check, value::boolean),
    };
    if let (Some(listen), Some(Some(control))) = (listen, control)
        && listen == control
        && listen.port() != 0
    {
        check.add(
            flags.listen.is_some() || flags.control.control.is_some(),
            format!("the control port and the first grid cannot both listen on {listen}"),
        );
    }
    Some(ProxySettings {
        grids,
        listen: listen?,
        listen_given,
        control: control?,
        control_given,
        cache_bytes: cache_bytes?,
        cache_size_given,
        memory_bytes: memory_bytes?,
        service,
        lan: lan.map(|lan| LanConfig { upload: upload.unwrap_or_default(), ..lan }),
        upload: upload?,
        upload_rate: upload_rate?,
        chat_commands: chat_commands?,
    })
}

/// The shared cache that flags or file name.
enum Service {
    /// One at an address, with its token.
    At(ServiceConfig),
    /// A household's.
    Lan(LanConfig),
}

fn service(
    flags: &CacheServerFlags,
    file: &FileValues,
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<Option<Service>> {
    let token_file =
        flags.token_file.clone().or_else(|| file.token_file.as_ref().map(|value| value.path(path)));
    let given = Given::flag("cache-server", flags.cache_server.as_ref()).or(file.cache_server.as_ref());
    let resolver = match Given::flag("resolver", flags.resolver.as_ref()).or(file.resolver.as_ref()).0 {
        Some(given) => Resolver::Server(check.value(&given, value::name_server)?),
        None => Resolver::System,
    };
    let Some(given) = given.0 else {
        if flags.token_file.is_some() {
            check.add(true, "--token-file is of no use without --cache-server".into());
            return None;
        }
        if flags.resolver.is_some() {
            check.add(true, "--resolver is of no use without --cache-server".into());
            return None;
        }
        return Some(None);
    };
    let address = match check.value(&given, value::cache_server)? {
        CacheServer::At(address) => address,
        household => {
            if flags.token_file.is_some() {
                check.add(true, "--token-file is of no use here: a join line has its own token".into());
                return None;
            }
            if flags.resolver.is_some() {
                check.add(
                    true,
                    "--resolver is of no use here: shared caches at home have addresses, not names".into(),
                );
                return None;
            }
            let line = match household {
                CacheServer::Joined(line) => Some(line),
                CacheServer::Auto | CacheServer::At(_) => None,
            };
            let lan =
                LanConfig { line, upload: None, spot_check: SPOT_CHECK, least_deadline: Duration::ZERO };
            return Some(Some(Service::Lan(lan)));
        }
    };
    // A token is for one server: that of the file is not shown to another one that a flag names.
    let elsewhere = flags.token_file.is_none()
        && file.cache_server.as_ref().is_none_or(|known| known.text.parse().as_ref() != Ok(&address));
    let token_file = token_file.filter(|_| !elsewhere);
    let token = match token_file.map(|file| value::token_file(&file)) {
        Some(Err(wrong)) => {
            check.add(flags.token_file.is_some(), wrong);
            return None;
        }
        Some(Ok(token)) => Some(token),
        None => None,
    };
    if token.is_some() && !address.tls && !address.is_loopback() {
        let wrong =
            format!("{address} is plain http, which would show your token to anyone on the way; use https");
        check.add(flags.cache_server.is_some(), wrong);
        return None;
    }
    let least_deadline = Duration::ZERO;
    Some(Some(Service::At(ServiceConfig {
        address: ServerAddress { resolver, ..address },
        token,
        join: None,
        spot_check: SPOT_CHECK,
        least_deadline,
    })))
}

fn replay(
    flags: &ReplayFlags,
    service_flags: &CacheServerFlags,
    file: &FileValues,
    path: Option<&Path>,
    check: &mut Checker,
) -> Option<ReplaySettings> {
    let passes = Given::flag("passes", flags.passes.as_ref()).or(file.passes.as_ref()).or_default(
        DEFAULT_PASSES,
        check,
        value::passes,
    );
    let link = match Given::flag("link", flags.link.as_ref()).or(file.link.as_ref()).0 {
        Some(given) => check.value(&given, value::link).map(Some),
        None => Some(None),
    };
    let service = match service(service_flags, &FileValues::default(), None, check)? {
        Some(Service::At(service)) => Some(service),
        Some(Service::Lan(LanConfig { line: Some(line), .. })) => {
            Some(ServiceConfig::joined(&line, SPOT_CHECK))
        }
        Some(Service::Lan(_)) => {
            check.add(true, "a replay needs the address of a cache server, or a join line".into());
            None
        }
        None => None,
    };
    let realtime = match flags.realtime {
        Some(realtime) => Some(realtime),
        None => Given(file.realtime.clone()).or_default("false", check, value::boolean),
    };
    Some(ReplaySettings {
        passes: passes?,
        save: flags.save.clone().or_else(|| file.save.as_ref().map(|v| v.path(path))),
        link: link?,
        realtime: realtime?,
        service,
    })
}

#[cfg(test)]
mod tests;
