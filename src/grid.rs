//! Who and where: the grid, its simulators, and the names of one login.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::redact::Redacted;

/// A grid: the lower-case authority of its login URI with the default port dropped
/// (`login.osgrid.org`, `127.0.0.1:9000`); `agni` and `aditi` for Second Life.
///
/// An asset's UUID is unique only within a grid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GridId(Arc<str>);

impl GridId {
    /// Takes the identity from a login URI. `None` when it has no host.
    #[must_use]
    pub fn from_login_uri(uri: &http::Uri) -> Option<Self> {
        let host = uri.host()?.to_ascii_lowercase();
        match host.as_str() {
            "login.agni.lindenlab.com" => return Some(Self::new("agni")),
            "login.aditi.lindenlab.com" => return Some(Self::new("aditi")),
            _ => {}
        }
        let default_port = match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        };
        let name = match uri.port_u16() {
            Some(port) if port != default_port => format!("{host}:{port}"),
            _ => host,
        };
        Some(Self::new(&name))
    }

    /// A grid known by this exact name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Whether Linden Lab runs it.
    #[must_use]
    pub fn is_second_life(&self) -> bool {
        matches!(&*self.0, "agni" | "aditi")
    }

    /// The name, as it stands in file headers and reports.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GridId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host, lower case and without port, that delivered an asset's bytes: an asset host, or a
/// simulator. Anyone may attach a simulator to some grids, so what one host said is not yet true
/// for the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Arc<str>);

impl Origin {
    /// An origin by host name or address.
    #[must_use]
    pub fn new(host: &str) -> Self {
        Self(Arc::from(host.to_ascii_lowercase().as_str()))
    }

    /// The host.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an address is neither loopback nor of a private network.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_unspecified())
        }
    }
}

/// Whether a host means something else, or nothing, elsewhere: an address of this machine or of a
/// private network, or a name that only such a network resolves. `name` may carry a port.
#[must_use]
pub fn is_private_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let host = match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None if name.parse::<IpAddr>().is_ok() => name.as_str(),
        None => name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host),
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        return !is_public(address);
    }
    let host = host.trim_end_matches('.');
    // A name without a dot is found by the search list of a network at home.
    !host.contains('.')
        || [".localhost", ".local", ".internal", ".lan", ".home.arpa"].iter().any(|end| host.ends_with(end))
}

/// The id of an avatar. Not logged with what it fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentId(pub Uuid);

/// The id of one login; a credential: with the circuit code it opens circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub Redacted<Uuid>);

/// The number that names a viewer on every circuit of one login; a credential, like [`SessionId`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CircuitCode(pub u32);

impl fmt::Debug for CircuitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CircuitCode([redacted])")
    }
}

/// A region's place on the grid: `(x << 32) | y`, in metres, multiples of 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionHandle(pub u64);

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::{GridId, is_private_name};

    #[test]
    fn hosts_at_home_are_told_from_public_ones() {
        for private in [
            "127.0.0.1:9000",
            "127.0.0.1",
            "[::1]:9000",
            "::1",
            "192.168.1.5:8002",
            "10.0.0.1",
            "localhost:9000",
            "Grid.LOCAL:8002",
            "tower",
            "tower:9000",
            "grid.local.",
            "[fd00::1]",
        ] {
            assert!(is_private_name(private), "{private}");
        }
        for public in [
            "login.osgrid.org",
            "203.0.113.5:80",
            "[2001:db8::1]:9000",
            "2001:db8::1",
            "local.example.org:8002",
        ] {
            assert!(!is_private_name(public), "{public}");
        }
    }

    #[test]
    fn a_grid_is_named_by_its_login_authority() {
        let id =
            |uri: &str| GridId::from_login_uri(&uri.parse().expect("a URI")).map(|g| g.as_str().to_owned());
        assert_eq!(id("http://Login.OSGrid.org/"), Some("login.osgrid.org".into()));
        assert_eq!(id("http://login.osgrid.org:80/x"), Some("login.osgrid.org".into()));
        assert_eq!(id("https://grid.example:443/"), Some("grid.example".into()));
        assert_eq!(id("http://127.0.0.1:9000/"), Some("127.0.0.1:9000".into()));
        assert_eq!(id("https://login.agni.lindenlab.com/cgi-bin/login.cgi"), Some("agni".into()));
        assert_eq!(id("/only/a/path"), None);
    }
}
