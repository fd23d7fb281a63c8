//! The flags of `director`, as text; see [`super::flags`].

use std::path::PathBuf;

use clap::Args;

/// Which catalog the directors of a service share: for all commands of `director`.
#[derive(Args, Clone, Debug, Default)]
pub struct BoardFlags {
    /// The store of the service, whose catalog the directors share: file:///DIR or s3://BUCKET/PREFIX
    #[arg(long, global = true, value_name = "URL", env = "REZCACHE_STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// The catalog, where that is not its store's own: postgres://…, or sqlite:///FILE. Others see the command line:
    /// a password belongs into the environment or the file
    #[arg(long, global = true, value_name = "URL", env = "REZCACHE_CATALOG", hide_env_values = true)]
    pub catalog: Option<String>,
}

/// Flags of `director`.
#[derive(Args, Clone, Debug, Default)]
pub struct DirectorFlags {
    /// The service's name, whose addresses DNS answers: cache.example.org
    #[arg(long, value_name = "NAME", env = "REZCACHE_ZONE", hide_env_values = true)]
    pub zone: Option<String>,
    /// What this director is called among the others [default: an animal, remembered]
    #[arg(long, value_name = "NAME", env = "REZCACHE_DIRECTOR_NAME", hide_env_values = true)]
    pub director_name: Option<String>,
    /// Where DNS is answered, UDP and TCP [default: 127.0.0.1:5300]
    #[arg(long, value_name = "ADDRESS:PORT", env = "REZCACHE_DNS_LISTEN", hide_env_values = true)]
    pub dns_listen: Option<String>,
    /// Where the status page is served, or `off` [default: 127.0.0.1:8053]
    #[arg(long, value_name = "ADDRESS:PORT", env = "REZCACHE_STATUS_LISTEN", hide_env_values = true)]
    pub status_listen: Option<String>,
    /// Whether everybody may see /monitoring and /metrics, and not only private networks [default: false]
    #[arg(long, value_name = "true|false", env = "REZCACHE_MONITORING_PUBLIC", hide_env_values = true)]
    pub monitoring_public: Option<String>,
    /// The file with the keys of the store: beside it lies the certificate that nodes make, whose pin is then known
    #[arg(long, value_name = "FILE", env = "REZCACHE_KEY_FILE", hide_env_values = true)]
    pub key_file: Option<PathBuf>,
    /// The zone's name servers, as its parent zone names them
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "REZCACHE_NS", hide_env_values = true)]
    pub ns: Vec<String>,
    /// The name in the nodes' certificates [default: the zone]
    #[arg(long, value_name = "NAME", env = "REZCACHE_SERVER_NAME", hide_env_values = true)]
    pub server_name: Option<String>,
    /// Accepted public keys of nodes, sha256:…, as `rezcache serve` prints them
    #[arg(
        long = "pin",
        value_name = "PINS",
        value_delimiter = ',',
        env = "REZCACHE_PIN",
        hide_env_values = true
    )]
    pub pins: Vec<String>,
    /// Certificate authorities (PEM) to trust beside this system's
    #[arg(long, value_name = "FILE", env = "REZCACHE_CA_FILE", hide_env_values = true)]
    pub ca_file: Option<PathBuf>,
    /// The file with a token with the rights observe and admin
    #[arg(long, value_name = "FILE", env = "REZCACHE_TOKEN_FILE", hide_env_values = true)]
    pub token_file: Option<PathBuf>,
    /// How often each node is probed [default: 2]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_PROBE_INTERVAL_S", hide_env_values = true)]
    pub probe_interval_s: Option<String>,
    /// How long a node that came back gets less than its share [default: 30]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_SLOW_START_S", hide_env_values = true)]
    pub slow_start_s: Option<String>,
    /// How long resolvers keep the nodes' addresses [default: 5]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_TTL_S", hide_env_values = true)]
    pub ttl_s: Option<String>,
    /// A node of the fixed list; repeat for more
    #[arg(
        long = "node",
        value_name = "NAME=URL",
        value_delimiter = ',',
        env = "REZCACHE_NODE",
        hide_env_values = true
    )]
    pub nodes: Vec<String>,
    /// Where nodes come from: static, process, aws-asg or command [default: static]
    #[arg(long, value_name = "NAME", env = "REZCACHE_PROVISIONER", hide_env_values = true)]
    pub provisioner: Option<String>,
    /// Never fewer nodes [default: 1]
    #[arg(long = "minimum-nodes", value_name = "N", env = "REZCACHE_MINIMUM_NODES", hide_env_values = true)]
    pub minimum: Option<String>,
    /// Never more nodes [default: 8]
    #[arg(long = "maximum-nodes", value_name = "N", env = "REZCACHE_MAXIMUM_NODES", hide_env_values = true)]
    pub maximum: Option<String>,
    /// Open a node when the mean load is above this, or soon will be [default: 0.85]
    #[arg(long = "high-load", value_name = "SHARE", env = "REZCACHE_HIGH_LOAD", hide_env_values = true)]
    pub high: Option<String>,
    /// How loaded the nodes are to be after one was opened [default: 0.65]
    #[arg(long = "target-load", value_name = "SHARE", env = "REZCACHE_TARGET_LOAD", hide_env_values = true)]
    pub target: Option<String>,
    /// Close a node only if the others are then no more loaded than this [default: 0.8]
    #[arg(
        long = "after-close-load",
        value_name = "SHARE",
        env = "REZCACHE_AFTER_CLOSE_LOAD",
        hide_env_values = true
    )]
    pub after_close: Option<String>,
    /// The most nodes opened at once [default: 4]
    #[arg(long, value_name = "N", env = "REZCACHE_STEP", hide_env_values = true)]
    pub step: Option<String>,
    /// Load is averaged over this [default: 60]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_SMOOTHING_S", hide_env_values = true)]
    pub smoothing_s: Option<String>,
    /// How long a node takes to start, as a first guess [default: 60]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_STARTUP_S", hide_env_values = true)]
    pub startup_s: Option<String>,
    /// How long the load must have been low before a node is closed [default: 1800]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_CALM_S", hide_env_values = true)]
    pub calm_s: Option<String>,
    /// From one closing to the next [default: 600]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_COOLDOWN_S", hide_env_values = true)]
    pub cooldown_s: Option<String>,
    /// How long a node may take to finish what runs [default: 600]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_DRAIN_S", hide_env_values = true)]
    pub drain_s: Option<String>,
    /// How long a node may be lost before it is replaced [default: 120]
    #[arg(long, value_name = "SECONDS", env = "REZCACHE_PATIENCE_S", hide_env_values = true)]
    pub patience_s: Option<String>,
    /// What a node can answer in a second [default: only its processors tell its load]
    #[arg(
        long = "node-requests-per-s",
        value_name = "N",
        env = "REZCACHE_NODE_REQUESTS_PER_S",
        hide_env_values = true
    )]
    pub requests_per_s: Option<String>,
    /// The connections that a node can hold [default: only its processors tell its load]
    #[arg(
        long = "node-connections",
        value_name = "N",
        env = "REZCACHE_NODE_CONNECTIONS",
        hide_env_values = true
    )]
    pub connections: Option<String>,
    /// Where `process` starts nodes, one on each
    #[arg(
        long = "node-addresses",
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        env = "REZCACHE_NODE_ADDRESSES",
        hide_env_values = true
    )]
    pub addresses: Vec<String>,
    /// The program that opens and closes nodes for `command`, with its first arguments
    #[arg(
        long = "node-command",
        value_name = "WORDS",
        value_delimiter = ',',
        env = "REZCACHE_NODE_COMMAND",
        hide_env_values = true
    )]
    pub command: Vec<String>,
    /// The Auto Scaling group for `aws-asg`
    #[arg(long, value_name = "NAME", env = "REZCACHE_AWS_GROUP", hide_env_values = true)]
    pub aws_group: Option<String>,
    /// Its region
    #[arg(long, value_name = "REGION", env = "REZCACHE_AWS_REGION", hide_env_values = true)]
    pub aws_region: Option<String>,
    /// Where its nodes listen [default: 8443]
    #[arg(long, value_name = "PORT", env = "REZCACHE_AWS_PORT", hide_env_values = true)]
    pub aws_port: Option<String>,
    /// Name the instances' private addresses [default: false]
    #[arg(long, value_name = "true|false", env = "REZCACHE_AWS_PRIVATE", hide_env_values = true)]
    pub aws_private: Option<String>,
    /// Where its API is, if not at Amazon
    #[arg(long, value_name = "URL", env = "REZCACHE_AWS_ENDPOINT", hide_env_values = true)]
    pub aws_endpoint: Option<String>,
    /// Tell alerts to this URL as JSON. It is a secret: the environment or the file is the better place
    #[arg(
        long = "alert-webhook",
        value_name = "URL",
        env = "REZCACHE_ALERT_WEBHOOK",
        hide_env_values = true
    )]
    pub webhook: Option<String>,
    /// Send alerts by this mail server
    #[arg(long, value_name = "HOST[:PORT]", env = "REZCACHE_MAIL_SERVER", hide_env_values = true)]
    pub mail_server: Option<String>,
    /// How the connection to it is protected [default: starttls, and tls on port 465]
    #[arg(long, value_name = "starttls|tls|none", env = "REZCACHE_MAIL_TLS", hide_env_values = true)]
    pub mail_tls: Option<String>,
    /// The user that it knows
    #[arg(long, value_name = "NAME", env = "REZCACHE_MAIL_USER", hide_env_values = true)]
    pub mail_user: Option<String>,
    /// The file with that user's password
    #[arg(long, value_name = "FILE", env = "REZCACHE_MAIL_PASSWORD_FILE", hide_env_values = true)]
    pub mail_password_file: Option<PathBuf>,
    /// The sender of alerts
    #[arg(long, value_name = "ADDRESS", env = "REZCACHE_MAIL_FROM", hide_env_values = true)]
    pub mail_from: Option<String>,
    /// Whom to send alerts to
    #[arg(
        long,
        value_name = "ADDRESSES",
        value_delimiter = ',',
        env = "REZCACHE_MAIL_TO",
        hide_env_values = true
    )]
    pub mail_to: Vec<String>,
}

impl DirectorFlags {
    /// The single values by the names of their flags.
    pub(super) fn text(&self, flag: &str) -> Option<&String> {
        match flag {
            "zone" => self.zone.as_ref(),
            "director-name" => self.director_name.as_ref(),
            "dns-listen" => self.dns_listen.as_ref(),
            "status-listen" => self.status_listen.as_ref(),
            "monitoring-public" => self.monitoring_public.as_ref(),
            "server-name" => self.server_name.as_ref(),
            "probe-interval-s" => self.probe_interval_s.as_ref(),
            "slow-start-s" => self.slow_start_s.as_ref(),
            "ttl-s" => self.ttl_s.as_ref(),
            "provisioner" => self.provisioner.as_ref(),
            "minimum-nodes" => self.minimum.as_ref(),
            "maximum-nodes" => self.maximum.as_ref(),
            "high-load" => self.high.as_ref(),
            "target-load" => self.target.as_ref(),
            "after-close-load" => self.after_close.as_ref(),
            "step" => self.step.as_ref(),
            "smoothing-s" => self.smoothing_s.as_ref(),
            "startup-s" => self.startup_s.as_ref(),
            "calm-s" => self.calm_s.as_ref(),
            "cooldown-s" => self.cooldown_s.as_ref(),
            "drain-s" => self.drain_s.as_ref(),
            "patience-s" => self.patience_s.as_ref(),
            "node-requests-per-s" => self.requests_per_s.as_ref(),
            "node-connections" => self.connections.as_ref(),
            "aws-group" => self.aws_group.as_ref(),
            "aws-region" => self.aws_region.as_ref(),
            "aws-port" => self.aws_port.as_ref(),
            "aws-private" => self.aws_private.as_ref(),
            "aws-endpoint" => self.aws_endpoint.as_ref(),
            "alert-webhook" => self.webhook.as_ref(),
            "mail-server" => self.mail_server.as_ref(),
            "mail-tls" => self.mail_tls.as_ref(),
            "mail-user" => self.mail_user.as_ref(),
            "mail-from" => self.mail_from.as_ref(),
            _ => None,
        }
    }
}
