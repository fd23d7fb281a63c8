//! What a catalog's address means: which servers, which database, and how TLS is spoken to them.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

/// A server that takes longer is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes that nobody acknowledges for so long end their connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// The server ends what takes longer: a statement, a wait for a lock, a transaction whose node is gone.
const SERVER_LIMITS: &str = "-c statement_timeout=3000 -c lock_timeout=2000 \
                             -c idle_in_transaction_session_timeout=10000";

/// Why an address cannot be used. Nothing of the address is repeated: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It cannot be read.
    #[error(
        "the catalog's address is not one such as postgres://USER:PASSWORD@HOST:5432/DATABASE, or \
         postgres://USER@HOST1,HOST2/DATABASE with a standby: {0}"
    )]
    Malformed(String),
    /// A mode that may end without TLS.
    #[error(
        "sslmode={0} cannot be had: across a network the server's certificate is always verified \
         (sslmode=verify-full, the default); give its authority with sslrootcert=FILE, or \
         sslmode=disable to go without TLS"
    )]
    Mode(String),
    /// The authorities cannot be read.
    #[error("sslrootcert: {0}")]
    Authorities(String),
}

/// An address taken apart.
#[derive(Clone, Debug)]
pub(super) struct Address {
    /// Finds the server that takes writes.
    pub(super) primary: Config,
    /// Finds a server that answers reads, the others first; `None` when only one is named.
    pub(super) standby: Option<Config>,
    /// How TLS is spoken.
    pub(super) tls: Arc<ClientConfig>,
}

/// Parts that libpq knows and the client library does not.
#[derive(Default)]
struct Own {
    mode: Option<String>,
    authorities: Option<String>,
}

/// Checks an address without using it.
///
/// # Errors
/// When it is none.
pub fn check(url: &str) -> Result<(), AddressError> {
    Address::parse(url).map(|_| ())
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, AddressError> {
        let (url, own) = split(url);
        let mut config = Config::from_str(&url).map_err(|error| malformed(&error))?;
        if config.get_hosts().is_empty() {
            return Err(AddressError::Malformed("it names no host".into()));
        }
        let near = config.get_hosts().iter().all(is_near);
        match own.mode.as_deref() {
            Some("disable") => {
                if !near {
                    tracing::warn!(
                        "the catalog's address says sslmode=disable: everything between node and database can be read and changed on the way"
                    );
                }
                config.ssl_mode(SslMode::Disable)
            }
            Some("verify-full" | "require") => config.ssl_mode(SslMode::Require),
            Some("verify-ca" | "prefer" | "allow") if !near => {
                return Err(AddressError::Mode(own.mode.unwrap_or_default()));
            }
            Some("prefer" | "allow") => config.ssl_mode(SslMode::Prefer),
            Some(other) => return Err(AddressError::Mode(other.to_owned())),
            // Within one machine a certificate has nothing to prove.
            None if near => config.ssl_mode(SslMode::Disable),
            None => config.ssl_mode(SslMode::Require),
        };
        if config.get_application_name().is_none() {
            config.application_name("rezcache");
        }
        // What the address says comes later, and wins.
        let options =
            config.get_options().map_or(SERVER_LIMITS.into(), |own| format!("{SERVER_LIMITS} {own}"));
        config.options(options);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        config.tcp_user_timeout(UNACKNOWLEDGED).keepalives_idle(UNACKNOWLEDGED);
        let standby = (config.get_hosts().len() > 1).then(|| rotated(&config));
        let mut primary = config;
        primary.target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self { primary, standby, tls: tls(own.authorities.as_deref())? })
    }
}

/// Takes out what the client library does not know.
fn split(url: &str) -> (String, Own) {
    let mut own = Own::default();
    let Some((front, query)) = url.split_once('?') else { return (url.to_owned(), own) };
    let mut kept = Vec::new();
    for part in query.split('&') {
        match part.split_once('=') {
            Some(("sslmode", mode)) => own.mode = Some(mode.to_owned()),
            Some(("sslrootcert", file)) => own.authorities = Some(decoded(file)),
            // Who takes writes is found out here.
            Some(("target_session_attrs", _)) => {}
            _ => kept.push(part),
        }
    }
    if kept.is_empty() { (front.to_owned(), own) } else { (format!("{front}?{}", kept.join("&")), own) }
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let value = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value {
            Some(value) => {
                out.push(value);
                out.extend_from_slice(part.as_bytes().get(2..).unwrap_or_default());
            }
            None => {
                out.push(b'%');
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn malformed(error: &tokio_postgres::Error) -> AddressError {
    // The cause names an option, never its value; still, only what is known to be harmless is told.
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let harmless = cause.starts_with("unknown option") || cause.starts_with("invalid value for option");
    AddressError::Malformed(if harmless { cause } else { "it cannot be read".into() })
}

/// Whether a host is this machine.
fn is_near(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name.eq_ignore_ascii_case("localhost")
                || name
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// The same servers, the first one last.
fn rotated(config: &Config) -> Config {
    let mut order: Vec<usize> = (0..config.get_hosts().len()).collect();
    order.rotate_left(1);
    let mut other = Config::new();
    let ports = config.get_ports();
    for at in order {
        match config.get_hosts().get(at) {
            Some(Host::Tcp(name)) => other.host(name),
            #[cfg(unix)]
            Some(Host::Unix(path)) => other.host_path(path),
            None => continue,
        };
        other.port(*ports.get(at).or(ports.first()).unwrap_or(&5432));
        if let Some(address) = config.get_hostaddrs().get(at) {
            other.hostaddr(*address);
        }
    }
    if let Some(user) = config.get_user() {
        other.user(user);
    }
    if let Some(password) = config.get_password() {
        other.password(password);
    }
    if let Some(name) = config.get_dbname() {
        other.dbname(name);
    }
    if let Some(options) = config.get_options() {
        other.options(options);
    }
    if let Some(name) = config.get_application_name() {
        other.application_name(name);
    }
    if let Some(limit) = config.get_connect_timeout() {
        other.connect_timeout(*limit);
    }
    other.ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    other.channel_binding(config.get_channel_binding());
    other.tcp_user_timeout(UNACKNOWLEDGED).keepalives_idle(UNACKNOWLEDGED);
    other
}

fn tls(authorities: Option<&str>) -> Result<Arc<ClientConfig>, AddressError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(file) => {
            let told = |wrong: String| AddressError::Authorities(format!("{file}: {wrong}"));
            let found =
                CertificateDer::pem_file_iter(Path::new(file)).map_err(|error| told(error.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| told(error.to_string()))?;
                roots.add(certificate).map_err(|error| told(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(told("it holds no certificate in PEM form".into()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| AddressError::Authorities(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Address, AddressError, SslMode, check};

    #[test]
    fn across_a_network_tls_is_verified_unless_it_is_said_otherwise() {
        let mode = |url: &str| Address::parse(url).map(|address| address.primary.get_ssl_mode());
        assert_eq!(mode("postgres://me@127.0.0.1/cache").unwrap(), SslMode::Disable);
        assert_eq!(mode("postgres://me@localhost:1/cache?sslmode=require").unwrap(), SslMode::Require);
        assert_eq!(mode("postgres://me@db.example/cache").unwrap(), SslMode::Require);
        assert_eq!(mode("postgres://me@127.0.0.1,db.example/cache").unwrap(), SslMode::Require);
        assert_eq!(mode("postgres://me@db.example/cache?sslmode=disable").unwrap(), SslMode::Disable);
        for refused in ["prefer", "allow", "verify-ca", "perhaps"] {
            let error = mode(&format!("postgres://me@db.example/cache?sslmode={refused}")).unwrap_err();
            assert_eq!(error, AddressError::Mode(refused.into()));
        }
    }

    #[test]
    fn a_second_host_is_the_standby() {
        assert!(Address::parse("postgres://me@127.0.0.1:1/cache").unwrap().standby.is_none());
        let address = Address::parse("postgres://me:hunter2@127.0.0.1:1,127.0.0.1:2/cache").unwrap();
        assert_eq!(address.primary.get_ports(), [1, 2]);
        let standby = address.standby.clone().unwrap();
        assert_eq!((standby.get_ports(), standby.get_dbname()), (&[2, 1][..], Some("cache")));
        assert_eq!(standby.get_password(), Some(&b"hunter2"[..]));
        assert!(!format!("{address:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        for wrong in [
            "postgres://me:hunter2@/x",
            "postgres://me:hunter2@host/x?hunter2",
            "hunter2",
            "postgres://me:hunter2@host:port/x",
        ] {
            let text = check(wrong).unwrap_err().to_string();
            assert!(text.contains("postgres://USER") && !text.contains("hunter2"), "{text}");
        }
        let text = check("postgres://me@host/x?sslrootcert=%2Fno/such.pem").unwrap_err().to_string();
        assert!(text.contains("/no/such.pem"), "{text}");
    }
}
