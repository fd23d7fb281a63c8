//! The flags, as text. Each has an environment variable of the same name; lists are separated by
//! commas there. What they mean is checked in [`super::value`], together with the file.

use std::path::PathBuf;

use clap::Args;

/// Flags of every subcommand, accepted before and after its name.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Common options")]
pub struct CommonFlags {
    /// Read this configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE", env = "REZCACHE_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Keep the store, the counters and the remembered ports here; made if missing
    #[arg(long, global = true, value_name = "DIR", env = "REZCACHE_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
    /// How log lines look [default: text]
    #[arg(
        long,
        global = true,
        value_name = "text|json",
        env = "REZCACHE_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: Option<String>,
    /// Log more; twice for every packet
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "REZCACHE_VERBOSE", hide_env_values = true)]
    pub verbose: u8,
}

/// Where the control port is.
#[derive(Args, Clone, Debug, Default)]
pub struct ControlFlag {
    /// Address of rezcache's own page, /status.json and /metrics, or `off` [default: one port below --listen]
    #[arg(long, value_name = "ADDRESS:PORT", env = "REZCACHE_CONTROL", hide_env_values = true)]
    pub control: Option<String>,
}

/// Which shared cache to use.
#[derive(Args, Clone, Debug, Default)]
pub struct CacheServerFlags {
    /// A shared cache to use: `auto` for those that were joined with `rezcache join`, wherever in your network they
    /// are; https://HOST[:PORT][#pin=sha256:…], or http://… in a private network; or a join line (rezcache://…),
    /// which others on this computer can then see
    #[arg(long, value_name = "URL", env = "REZCACHE_CACHE_SERVER", hide_env_values = true)]
    pub cache_server: Option<String>,
    /// The file with the token that the shared cache knows you by
    #[arg(long, value_name = "FILE", env = "REZCACHE_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// Ask this name server for the shared cache's name, instead of the system's
    #[arg(long, value_name = "ADDRESS:PORT", env = "REZCACHE_RESOLVER", hide_env_values = true)]
    pub resolver: Option<String>,
}

/// Flags of `proxy`.
#[derive(Args, Clone, Debug, Default)]
pub struct ProxyFlags {
    /// A grid by its login address, with a name if you like; repeat for more
    #[arg(
        long = "grid",
        value_name = "URL|NAME=URL",
        value_delimiter = ',',
        env = "REZCACHE_GRID",
        hide_env_values = true
    )]
    pub grids: Vec<String>,
    /// Loopback address for the first grid; further grids take the following ports, and each keeps its own
    /// [default: 127.0.0.1:9080]
    #[arg(long, value_name = "ADDRESS:PORT", env = "REZCACHE_LISTEN", hide_env_values = true)]
    pub listen: Option<String>,
    /// Where the control port is.
    #[command(flatten)]
    pub control: ControlFlag,
    /// The shared cache.
    #[command(flatten)]
    pub service: CacheServerFlags,
    /// Whether public assets that the grid sends are shared with the cache server: yes or no
    /// [default: the first run asks]
    #[arg(long, value_name = "yes|no", env = "REZCACHE_UPLOAD", hide_env_values = true)]
    pub upload: Option<String>,
    /// The most that uploads take of your line, such as 500kbit, or none [default: 1mbit]
    #[arg(long, value_name = "RATE", env = "REZCACHE_UPLOAD_LIMIT", hide_env_values = true)]
    pub upload_limit: Option<String>,
    /// The most the store on disk may take [default: what was set on the page, else 10GiB]
    #[arg(long, value_name = "SIZE", env = "REZCACHE_CACHE_SIZE", hide_env_values = true)]
    pub cache_size: Option<String>,
    /// The most assets in memory may take [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "REZCACHE_MEMORY_SIZE", hide_env_values = true)]
    pub memory_size: Option<String>,
    /// Addresses that a grid may lead us to beyond the usual ones; repeat for more
    #[arg(
        long,
        value_name = "GRID=CIDR",
        value_delimiter = ',',
        env = "REZCACHE_GRID_ALLOW",
        hide_env_values = true
    )]
    pub grid_allow: Vec<String>,
    /// PEM file of certificate authorities to trust for a grid, beside the usual ones
    #[arg(
        long,
        value_name = "GRID=FILE",
        value_delimiter = ',',
        env = "REZCACHE_CA_FILE",
        hide_env_values = true
    )]
    pub ca_file: Vec<String>,
    /// A grid's asset host, for viewers that are started with VIEWERASSET
    #[arg(
        long,
        value_name = "GRID=URL",
        value_delimiter = ',',
        env = "REZCACHE_ASSET_HOST",
        hide_env_values = true
    )]
    pub asset_host: Vec<String>,
    /// A grid whose simulators and asset hosts all belong to one operator
    #[arg(
        long,
        value_name = "GRID",
        value_delimiter = ',',
        env = "REZCACHE_CENTRAL",
        hide_env_values = true
    )]
    pub central: Vec<String>,
    /// Answer what you type into the viewer's chat as `/7777 rez status`: only you see it, and the grid hears
    /// nothing of it
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_CHAT_COMMANDS", hide_env_values = true)]
    pub chat_commands: Option<bool>,
}

/// Flags of `run`, beside those of `proxy`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of run")]
pub struct RunFlags {
    /// The viewer to start: its kind, its name or its path [default: the first run asks]
    #[arg(long, value_name = "VIEWER", env = "REZCACHE_VIEWER", hide_env_values = true)]
    pub viewer: Option<String>,
    /// How a viewer is started whose name says nothing: firestorm, secondlife, alchemy, coolvl, singularity,
    /// kokua, radegast or other [default: other, with --loginuri]
    #[arg(long, value_name = "KIND", env = "REZCACHE_VIEWER_KIND", hide_env_values = true)]
    pub viewer_kind: Option<String>,
    /// When rezcache cannot run, do not start the viewer without it
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_STRICT", hide_env_values = true)]
    pub strict: Option<bool>,
    /// How long to wait for a login when the viewer is started by a launcher that ends at once [default: 60s]
    #[arg(long, value_name = "TIME", env = "REZCACHE_LOGIN_GRACE", hide_env_values = true)]
    pub login_grace: Option<String>,
}

/// Flags of `replay`.
#[derive(Args, Clone, Debug, Default)]
pub struct ReplayFlags {
    /// How often to replay each capture on the same store: cold first, then warm [default: 2]
    #[arg(long, value_name = "N", env = "REZCACHE_PASSES", hide_env_values = true)]
    pub passes: Option<String>,
    /// Write what the stand-in viewer received to DIR/CAPTURE/PASS/UUID
    #[arg(long, value_name = "DIR", env = "REZCACHE_SAVE", hide_env_values = true)]
    pub save: Option<PathBuf>,
    /// Put a line of this rate and delay between proxy and grid, such as 20mbit,40ms
    #[arg(long, value_name = "RATE,DELAY", env = "REZCACHE_LINK", hide_env_values = true)]
    pub link: Option<String>,
    /// Keep the captured waiting times
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_REALTIME", hide_env_values = true)]
    pub realtime: Option<bool>,
}

/// Flags of `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeFlags {
    /// Serve a home or a classroom: on this machine's private addresses only, found by the others in the
    /// network by itself, and used by whoever has the join line that is printed
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_LAN", hide_env_values = true)]
    pub lan: Option<bool>,
    /// With --lan: print two join lines, one for pupils, who read only, and one for who also writes
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_TEACHER_WRITES", hide_env_values = true)]
    pub teacher_writes: Option<bool>,
    /// Address of the node, the same port for QUIC and HTTPS [default: 127.0.0.1:8443; with --lan port 8443 of
    /// all private addresses; 0.0.0.0:PORT with --lan for another port of these]
    #[arg(
        id = "serve_listen",
        long = "listen",
        value_name = "ADDRESS:PORT",
        env = "REZCACHE_SERVE_LISTEN",
        hide_env_values = true
    )]
    pub listen: Option<String>,
    /// Where the sealed assets are: file:///DIR, memory: or s3://BUCKET/PREFIX [default: DATA-DIR/store]
    #[arg(long, value_name = "URL", env = "REZCACHE_STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// Where is kept what is known beside the bytes: postgres://USER:PASSWORD@HOST/DATABASE (or HOST,STANDBY)
    /// for an array of nodes, sqlite:///FILE or memory:. Others see the command line: a password belongs into the
    /// environment or the file [default: SQLite in a directory store, else in DATA-DIR]
    #[arg(long, value_name = "URL", env = "REZCACHE_CATALOG", hide_env_values = true)]
    pub catalog: Option<String>,
    /// The file with the keys of the store; made for an empty store. Back it up [default: STORE.key beside
    /// a directory]
    #[arg(long, value_name = "FILE", env = "REZCACHE_KEY_FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
    /// Certificate chain in PEM form; one is made, and its pin printed, when there is none
    #[arg(long, value_name = "FILE", env = "REZCACHE_CERTIFICATE", hide_env_values = true)]
    pub certificate: Option<PathBuf>,
    /// Private key of the certificate in PEM form
    #[arg(long, value_name = "FILE", env = "REZCACHE_CERTIFICATE_KEY", hide_env_values = true)]
    pub certificate_key: Option<PathBuf>,
    /// Public keys whose tokens are accepted, as `rezcache token keygen` writes them; repeat for more
    #[arg(
        long,
        value_name = "FILE.pub",
        value_delimiter = ',',
        env = "REZCACHE_TOKEN_KEYS",
        hide_env_values = true
    )]
    pub token_keys: Vec<PathBuf>,
    /// What the service is called in its tokens [default: rezcache]
    #[arg(long, value_name = "NAME", env = "REZCACHE_AUDIENCE", hide_env_values = true)]
    pub audience: Option<String>,
    /// Let proxies enrol with keys of their own, three a day and network, to read and to write
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_ENROLL", hide_env_values = true)]
    pub enroll: Option<bool>,
    /// A tenant whose members believe one another, such as a school; repeat for more
    #[arg(
        long,
        value_name = "TENANT",
        value_delimiter = ',',
        env = "REZCACHE_TRUSTED_TENANTS",
        hide_env_values = true
    )]
    pub trusted_tenants: Vec<String>,
    /// Whom to write to about this node; without it only private addresses are served
    #[arg(long, value_name = "ADDRESS", env = "REZCACHE_ABUSE_CONTACT", hide_env_values = true)]
    pub abuse_contact: Option<String>,
    /// Principals from distinct networks that must attest the same before others are served it [default:
    /// 2, and 1 on loopback and private addresses without --enroll and --abuse-contact]
    #[arg(long, value_name = "K", env = "REZCACHE_CONFIRMATIONS", hide_env_values = true)]
    pub confirmations: Option<String>,
    /// Distinct assets that a principal may ask for in an hour [default: 20000]
    #[arg(long, value_name = "N", env = "REZCACHE_ASSETS_PER_HOUR", hide_env_values = true)]
    pub assets_per_hour: Option<String>,
    /// Distinct assets that a principal may ask for at once [default: 5000]
    #[arg(long, value_name = "N", env = "REZCACHE_ASSETS_BURST", hide_env_values = true)]
    pub assets_burst: Option<String>,
    /// Bytes of assets for a principal in a day, either way [default: 50GiB]
    #[arg(long, value_name = "SIZE", env = "REZCACHE_BYTES_PER_DAY", hide_env_values = true)]
    pub bytes_per_day: Option<String>,
    /// Bytes of assets that a principal may bring in a year [default: 50GiB]
    #[arg(long, value_name = "SIZE", env = "REZCACHE_STORED_BYTES", hide_env_values = true)]
    pub stored_bytes: Option<String>,
    /// Connections that one address may have open [default: 500; 10000 of a private address; no limit on this
    /// machine]
    #[arg(long, value_name = "N", env = "REZCACHE_CONNECTIONS_PER_ADDRESS", hide_env_values = true)]
    pub connections_per_address: Option<String>,
    /// New connections of one address in a second, and requests without a token; ten times as many at once
    /// [default: 100; 1000 of a private address; no limit on this machine, nor, unless said, for what
    /// everybody may read]
    #[arg(long, value_name = "N", env = "REZCACHE_REQUESTS_PER_ADDRESS_S", hide_env_values = true)]
    pub requests_per_address_s: Option<String>,
    /// A grid whose assets are served beyond trusted tenants, whose hosts belong to one operator (central)
    /// or to anybody (distributed, the default); repeat for more
    #[arg(
        long,
        value_name = "GRID[=central]",
        value_delimiter = ',',
        env = "REZCACHE_PUBLISH",
        hide_env_values = true
    )]
    pub publish: Vec<String>,
    /// A host of a published grid whose word holds for all of it; repeat for more
    #[arg(
        long,
        value_name = "GRID=HOST",
        value_delimiter = ',',
        env = "REZCACHE_PUBLISH_HOST",
        hide_env_values = true
    )]
    pub publish_host: Vec<String>,
    /// Trust everybody on this private network to read and to write; on a public node, let everybody read
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_OPEN_ACCESS", hide_env_values = true)]
    pub open_access: Option<bool>,
    /// Plain HTTP only: no TLS, and no QUIC
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "REZCACHE_PLAIN_HTTP", hide_env_values = true)]
    pub plain_http: Option<bool>,
    /// The most assets in memory may take [default: 256MiB]
    #[arg(
        id = "serve_memory_size",
        long = "memory-size",
        value_name = "SIZE",
        env = "REZCACHE_SERVE_MEMORY_SIZE",
        hide_env_values = true
    )]
    pub memory_size: Option<String>,
    /// Keep sealed assets in this folder too: for a store that is far away, such as S3 [default: none]
    #[arg(long, value_name = "DIR", env = "REZCACHE_HOT_DIR", hide_env_values = true)]
    pub hot_dir: Option<PathBuf>,
    /// The most the hot folder may take [default: 20GiB]
    #[arg(long, value_name = "SIZE", env = "REZCACHE_HOT_SIZE", hide_env_values = true)]
    pub hot_size: Option<String>,
}
