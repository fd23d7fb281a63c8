//! Who and where: the grid, its simulators, and the names of one login.

use std::fmt;
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
    use super::GridId;

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
