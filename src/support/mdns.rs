//! Announcements in the local network (mDNS, DNS-SD): where a server of the household says it is, and who
//! says so. What is announced is public, and what is heard is anybody's word.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mdns_sd::{IfKind, ServiceDaemon, ServiceEvent, ServiceInfo};

use crate::token::join::Pin;

/// What our servers are announced as.
pub const SERVICE_TYPE: &str = "_rezcache._udp.local.";
/// The version of what stands in an announcement.
const VERSION: &str = "1";
/// Addresses of one announcement that are looked at.
const MAX_ADDRESSES: usize = 8;
/// Events in a minute beyond which somebody floods the network. The library remembers all that it hears
/// for as long as the announcements say, so it is ended then, and begun anew later.
const MAX_EVENTS: u32 = 600;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// Multicast cannot be used here.
#[derive(Debug, thiserror::Error)]
#[error("announcements in the local network do not work here: {0}")]
pub struct MdnsError(#[from] mdns_sd::Error);

/// A server as it is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The key by which it is recognised.
    pub pin: Pin,
    /// The port of both its faces.
    pub port: u16,
    /// Where it listens.
    pub addresses: Vec<IpAddr>,
}

impl Announced {
    fn info(&self) -> Result<ServiceInfo, MdnsError> {
        let name = format!("rezcache-{}", self.pin.short());
        let host = format!("{name}.local.");
        let told = [("v", VERSION), ("pin", self.pin.as_str())];
        Ok(ServiceInfo::new(SERVICE_TYPE, &name, &host, &self.addresses[..], self.port, &told[..])?)
    }
}

/// A library's thread, ended with this.
struct Daemon(ServiceDaemon);

impl Daemon {
    /// Looks at every interface, or at loopback's only, or at both.
    fn start(everywhere: bool, loopback: bool) -> Result<Self, MdnsError> {
        let daemon = Self(ServiceDaemon::new()?);
        daemon.0.disable_interface(if everywhere { IfKind::LoopbackV4 } else { IfKind::All })?;
        daemon.0.disable_interface(IfKind::LoopbackV6)?;
        if loopback {
            daemon.0.enable_interface(IfKind::LoopbackV4)?;
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A command queue that is full empties itself; then the thread goes with its next command.
        let _ = self.0.shutdown();
    }
}

/// Announces a server until it is dropped.
pub struct Announcer {
    daemon: Daemon,
    name: String,
}

impl Announcer {
    /// Begins to announce a server on the interfaces that its addresses belong to.
    ///
    /// # Errors
    /// When there is no multicast here.
    pub fn start(announced: &Announced) -> Result<Self, MdnsError> {
        let loopback = announced.addresses.iter().any(IpAddr::is_loopback);
        let everywhere = announced.addresses.iter().any(|ip| !ip.is_loopback());
        let daemon = Daemon::start(everywhere, loopback)?;
        let info = announced.info()?;
        let name = info.get_fullname().to_owned();
        daemon.0.register(info)?;
        Ok(Self { daemon, name })
    }

    /// Announces other addresses from now on.
    ///
    /// # Errors
    /// When the library does not take it.
    pub fn change(&self, announced: &Announced) -> Result<(), MdnsError> {
        Ok(self.daemon.0.register(announced.info()?)?)
    }

    /// Says goodbye.
    pub async fn end(self) {
        if let Ok(done) = self.daemon.0.unregister(&self.name) {
            let _ = tokio::time::timeout(GOODBYE, done.recv_async()).await;
        }
        if let Ok(done) = self.daemon.0.shutdown() {
            let _ = tokio::time::timeout(GOODBYE, done.recv_async()).await;
        }
    }
}

/// What an announcement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The key that the server is said to have.
    pub pin: Pin,
    /// Where it is said to be.
    pub addresses: Vec<IpAddr>,
    /// At which port.
    pub port: u16,
}

/// Hears announcements.
pub struct Browser {
    daemon: Daemon,
    events: mdns_sd::Receiver<ServiceEvent>,
    since: Instant,
    heard: u32,
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A server is somewhere.
    Sighting(Sighting),
    /// Too much, or nothing ever again: this browser is of no use any more.
    End,
}

impl Browser {
    /// Begins to listen, on loopback too if asked.
    ///
    /// # Errors
    /// When there is no multicast here.
    pub fn start(loopback: bool) -> Result<Self, MdnsError> {
        let daemon = Daemon::start(true, loopback)?;
        let events = daemon.0.browse(SERVICE_TYPE)?;
        Ok(Self { daemon, events, since: Instant::now(), heard: 0 })
    }

    /// Asks the network once more, and tells again what is known: an announcement is told once only, as long
    /// as it does not change.
    ///
    /// # Errors
    /// When the library does not take it.
    pub fn again(&mut self) -> Result<(), MdnsError> {
        self.events = self.daemon.0.browse(SERVICE_TYPE)?;
        Ok(())
    }

    /// The next announcement that is one of ours. May be given up at any time.
    pub async fn next(&mut self) -> Heard {
        loop {
            let Ok(event) = self.events.recv_async().await else { return Heard::End };
            let now = Instant::now();
            if now.duration_since(self.since) >= MINUTE {
                (self.since, self.heard) = (now, 0);
            }
            self.heard += 1;
            if self.heard > MAX_EVENTS {
                return Heard::End;
            }
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let pin = service.get_property_val_str("pin").and_then(|pin| pin.parse().ok());
            let Some(pin) = pin.filter(|_| service.get_property_val_str("v") == Some(VERSION)) else {
                continue;
            };
            let mut addresses: Vec<IpAddr> =
                service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
            addresses.sort_unstable();
            addresses.truncate(MAX_ADDRESSES);
            return Heard::Sighting(Sighting { pin, addresses, port: service.get_port() });
        }
    }
}
