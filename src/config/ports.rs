//! Which loopback port each grid has, remembered in the data directory.
//!
//! Viewers keep saved passwords under `host:port`. A grid that moved to another port would lose them,
//! and one that took over another's port would be sent them; so a port once given to a grid stays
//! with it, also while that grid is not configured.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::grid::GridId;
use crate::support::files;

/// The file's name within the data directory.
pub const FILE_NAME: &str = "ports.json";

/// Ports by the `--listen` address that they were assigned under and by the grid's place (see
/// [`place`]): another `--listen` begins anew, and coming back finds the old ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    version: u32,
    ports: BTreeMap<SocketAddr, BTreeMap<String, u16>>,
}

/// Why ports could not be assigned or remembered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortsError {
    /// The file cannot be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged. Not repaired silently: a grid might be sent another's passwords.
    #[error(
        "{path} is damaged ({source}); restore it, or delete it to give every grid a new port (viewers keep saved passwords by port)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Every port from `--listen` upwards is taken.
    #[error("no port is free from {0} upwards; choose another with --listen")]
    NoneFree(SocketAddr),
}

/// What a grid is remembered by: the authority and path of its login address, without the scheme, so
/// that a grid which turns to https keeps its port.
#[must_use]
pub fn place(uri: &http::Uri) -> String {
    let authority = GridId::from_login_uri(uri).map_or_else(String::new, |id| id.as_str().to_owned());
    format!("{authority}{}", uri.path())
}

impl Ports {
    /// Reads what is remembered; nothing when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged.
    pub fn load(data_dir: &Path) -> Result<Self, PortsError> {
        let path = data_dir.join(FILE_NAME);
        match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| PortsError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { version: 1, ports: BTreeMap::new() })
            }
            Err(source) => Err(PortsError::File { path, source }),
        }
    }

    /// Replaces the file atomically.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, data_dir: &Path) -> Result<(), PortsError> {
        let path = data_dir.join(FILE_NAME);
        let write = || {
            let temporary = data_dir.join(format!("{FILE_NAME}.new"));
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self).map_err(io::Error::other)?)?;
            file.sync_all()?;
            files::rename(&temporary, &path)
        };
        write().map_err(|source| PortsError::File { path: path.clone(), source })
    }

    /// Whether this grid has a port from earlier.
    #[must_use]
    pub fn remembers(&self, listen: SocketAddr, place: &str) -> bool {
        self.ports.get(&listen).is_some_and(|known| known.contains_key(place))
    }

    /// The address for each grid, in their order: the remembered one; else `listen` itself for the first
    /// grid while nobody has it; else the next one that no grid has, that is not `control`, and that
    /// `is_free`. With port 0 in `listen` every grid gets port 0 and nothing is remembered.
    ///
    /// Unless the user has asked for `listen` (`insist`), the first grid goes round it too when it is not
    /// free.
    ///
    /// # Errors
    /// [`PortsError::NoneFree`].
    pub fn assign(
        &mut self,
        listen: SocketAddr,
        insist: bool,
        control: Option<SocketAddr>,
        places: &[String],
        is_free: impl Fn(SocketAddr) -> bool,
    ) -> Result<Vec<SocketAddr>, PortsError> {
        if listen.port() == 0 {
            return Ok(vec![listen; places.len()]);
        }
        let at = |port| SocketAddr::new(listen.ip(), port);
        let known = self.ports.entry(listen).or_default();
        let mut taken: BTreeSet<u16> = known.values().copied().chain(control.map(|c| c.port())).collect();
        let mut addresses = Vec::with_capacity(places.len());
        for (index, place) in places.iter().enumerate() {
            let port = match known.get(place) {
                Some(port) => *port,
                // Asked for by the user: if something else has it, they must hear of it.
                None if index == 0 && !taken.contains(&listen.port()) && (insist || is_free(listen)) => {
                    listen.port()
                }
                None => (listen.port()..=u16::MAX)
                    .find(|&port| {
                        (index == 0 || port != listen.port()) && !taken.contains(&port) && is_free(at(port))
                    })
                    .ok_or(PortsError::NoneFree(listen))?,
            };
            known.insert(place.clone(), port);
            taken.insert(port);
            addresses.push(at(port));
        }
        Ok(addresses)
    }
}

/// Whether nothing listens on this address now.
#[must_use]
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const LISTEN: &str = "127.0.0.1:9080";

    fn ports(memory: &mut Ports, names: &[&str], busy: &[u16]) -> Vec<u16> {
        let places: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let control = Some("127.0.0.1:9079".parse().unwrap());
        let assigned =
            memory.assign(LISTEN.parse().unwrap(), true, control, &places, |a| !busy.contains(&a.port()));
        assigned.unwrap().iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn a_grid_keeps_its_port_whatever_the_order_and_the_company() {
        let mut memory = Ports::default();
        assert_eq!(ports(&mut memory, &["a", "b"], &[]), [9080, 9081]);
        assert_eq!(ports(&mut memory, &["b", "c", "a"], &[]), [9081, 9082, 9080]);
        assert_eq!(ports(&mut memory, &["c"], &[]), [9082]);
    }

    #[test]
    fn a_port_is_never_passed_on_to_another_grid() {
        let mut memory = Ports::default();
        assert_eq!(ports(&mut memory, &["a"], &[]), [9080]);
        assert_eq!(ports(&mut memory, &["other"], &[]), [9081]);
    }

    #[test]
    fn a_new_grid_goes_round_what_is_taken_but_a_promised_port_stays_promised() {
        let mut memory = Ports::default();
        assert_eq!(ports(&mut memory, &["a", "b"], &[9080, 9081]), [9080, 9082]);
        assert_eq!(ports(&mut memory, &["b"], &[9082]), [9082]);
    }

    #[test]
    fn a_port_that_nobody_asked_for_is_given_up_when_something_else_has_it() {
        let mut memory = Ports::default();
        let listen = LISTEN.parse().unwrap();
        let mut assign = |busy: &[u16]| {
            let control = Some("127.0.0.1:9079".parse().unwrap());
            let free = |address: SocketAddr| !busy.contains(&address.port());
            memory.assign(listen, false, control, &["a".into()], free).unwrap()[0].port()
        };
        assert_eq!(assign(&[9080, 9081]), 9082);
        assert_eq!(assign(&[]), 9082, "and stays");
    }

    #[test]
    fn the_memory_survives_the_disk_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Ports::load(dir.path()).unwrap();
        ports(&mut memory, &["a", "b"], &[]);
        memory.save(dir.path()).unwrap();
        assert_eq!(Ports::load(dir.path()).unwrap(), memory);

        std::fs::write(dir.path().join(FILE_NAME), "{\"version\":1,").unwrap();
        let error = Ports::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("ports.json is damaged"), "{error}");
    }

    #[test]
    fn port_zero_takes_any_and_is_not_remembered() {
        let mut memory = Ports::default();
        let any = "127.0.0.1:0".parse().unwrap();
        assert_eq!(memory.assign(any, true, None, &["a".into()], |_| false).unwrap(), [any]);
        assert_eq!(memory, Ports::default());
    }

    #[test]
    fn a_grid_is_remembered_by_its_place() {
        let place = |uri: &str| place(&uri.parse().unwrap());
        assert_eq!(place("http://Login.Example:80/"), place("https://login.example"));
        assert_ne!(place("http://login.example/a"), place("http://login.example/b"));
    }
}
