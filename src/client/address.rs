//! Where a service is: `https://cache.example.org[:8443][#pin=sha256:…]`, or `http://` in private
//! networks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::resolve::Resolver;
use crate::support::addresses::is_public;
use crate::token::join::Pin;

/// What a service listens on unless it is told.
pub const DEFAULT_PORT: u16 = 8443;

/// The address of a service, as the user gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// The name that is resolved and that the certificate must be for, unless it is pinned.
    pub host: String,
    /// The port of both faces.
    pub port: u16,
    /// Without: plain HTTP and no QUIC.
    pub tls: bool,
    /// Accepted public keys, `sha256:` and 64 hexadecimal digits; with none the certificate must be
    /// of an authority that this system trusts.
    pub pins: Vec<String>,
    /// Who says what the name stands for.
    pub resolver: Resolver,
}

/// Why an address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a URL of a known scheme.
    #[error("`{0}` is no service address; write it as https://cache.example.org or http://192.168.1.5:8443")]
    Form(String),
    /// A pin that is none.
    #[error("`{0}` is no pin; a pin is sha256: and 64 hexadecimal digits, as `rezcache serve` prints it")]
    Pin(String),
    /// What machines listen on, not what they are reached at.
    #[error(
        "`{0}` stands for every address of a machine, and is none to be reached at; write the machine's own"
    )]
    Unspecified(String),
    /// Plain HTTP to a public address.
    #[error("{0} is a public address, and plain http would show your token to anyone on the way; use https")]
    Plain(String),
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.split('#').next().unwrap_or_default().to_owned());
        let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
        let uri: http::Uri = url.parse().map_err(|_| form())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(form()),
        };
        let host = uri.host().ok_or_else(form)?.trim_matches(['[', ']']).to_ascii_lowercase();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || host.is_empty() {
            return Err(form());
        }
        if host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified()) {
            return Err(AddressError::Unspecified(host));
        }
        if !tls && host.parse::<IpAddr>().is_ok_and(is_public) {
            return Err(AddressError::Plain(host));
        }
        let mut pins = Vec::new();
        for part in fragment.split('&').filter(|part| !part.is_empty()) {
            let Some(list) = part.strip_prefix("pin=") else { return Err(form()) };
            for pin in list.split(',') {
                let digits = pin.strip_prefix("sha256:").unwrap_or_default();
                if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(AddressError::Pin(pin.to_owned()));
                }
                pins.push(pin.to_ascii_lowercase());
            }
        }
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self { host, port, tls, pins, resolver: Resolver::System })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl ServerAddress {
    /// The server with this key at this address.
    #[must_use]
    pub fn at(address: SocketAddr, pin: &Pin) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
            tls: true,
            pins: vec![pin.as_str().to_owned()],
            resolver: Resolver::System,
        }
    }

    /// Whether it is on this machine, by what it is called.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// Host and port as they stand in URLs.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{AddressError, ServerAddress};

    #[test]
    fn addresses_are_read_as_users_write_them() {
        let read = |text: &str| text.parse::<ServerAddress>();
        let pin = format!("sha256:{}", "a1".repeat(32));
        let pinned = read(&format!("https://Cache.example.org#pin={pin}")).unwrap();
        assert_eq!((pinned.host.as_str(), pinned.port, pinned.tls), ("cache.example.org", 8443, true));
        assert_eq!(pinned.pins, [pin]);
        assert_eq!(read("http://192.168.1.5:9000/").unwrap().to_string(), "http://192.168.1.5:9000");
        assert_eq!(read("https://[::1]:1234").unwrap().authority(), "[::1]:1234");
        assert!(matches!(read("http://203.0.113.5"), Err(AddressError::Plain(_))));
        assert!(matches!(read("https://x#pin=sha256:12"), Err(AddressError::Pin(_))));
        for nowhere in ["https://0.0.0.0:8443", "http://[::]", "https://[::ffff:0.0.0.0]"] {
            assert!(matches!(read(nowhere), Err(AddressError::Unspecified(_))), "{nowhere}");
        }
        for wrong in ["", "cache.example.org", "ftp://x", "https://", "https://x/path", "https://x#token=1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
