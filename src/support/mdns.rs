//! Announcements in the local network (mDNS, DNS-SD): where a server of the household says it is, and who
//! says so. What is announced is public, and what is heard is anybody's word.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mdns_sd::{IfKind, Metrics, Receiver, ServiceDaemon, ServiceEvent, ServiceInfo};

use super::interfaces;
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
/// Records that the library may remember, of whatever kind and from whomever. It keeps those too that lead to
/// no event, and keeps them in a server that only announces. A school's network has some hundreds.
const MAX_REMEMBERED: i64 = 4000;
/// Moments at which it means to look at them again.
const MAX_TIMERS: i64 = 20_000;
/// How often it is asked what it remembers, and how often in vain before it counts as drowned.
const CHECK: Duration = Duration::from_secs(2);
const MAX_SILENT: u32 = 5;
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

/// Whether the library remembers more than any network has.
fn is_flooded(metrics: &Metrics) -> bool {
    let cached = |(name, number): (&String, &i64)| if name.starts_with("cached-") { *number } else { 0 };
    let timers = metrics.get("timer").copied().unwrap_or(0);
    metrics.iter().map(cached).fold(0, i64::saturating_add) > MAX_REMEMBERED || timers > MAX_TIMERS
}

/// Looks after what the library remembers.
struct Watch {
    at: Instant,
    asked: Option<Receiver<Metrics>>,
    silent: u32,
}

impl Watch {
    fn new() -> Self {
        Self { at: Instant::now() + CHECK, asked: None, silent: 0 }
    }

    /// Asks once more, and says whether what was answered since the last time is a flood.
    fn look(&mut self, daemon: &Daemon) -> bool {
        let answer = self.asked.take().map(|asked| asked.try_recv());
        self.asked = daemon.0.get_metrics().ok();
        match answer {
            Some(Ok(metrics)) => {
                self.silent = 0;
                is_flooded(&metrics)
            }
            // Whoever is kept so busy that it does not answer cannot be left alone either.
            Some(Err(_)) => {
                self.silent += 1;
                self.silent >= MAX_SILENT
            }
            None => false,
        }
    }

    /// Returns when there is a flood. May be given up at any time.
    async fn flood(&mut self, daemon: &Daemon) {
        loop {
            tokio::time::sleep_until(self.at.into()).await;
            self.at = Instant::now() + CHECK;
            if self.look(daemon) {
                return;
            }
        }
    }
}

/// Announces a server until it is dropped.
pub struct Announcer {
    daemon: Daemon,
    name: String,
    watch: Watch,
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
        Ok(Self { daemon, name, watch: Watch::new() })
    }

    /// Announces other addresses from now on.
    ///
    /// # Errors
    /// When the library does not take it.
    pub fn change(&self, announced: &Announced) -> Result<(), MdnsError> {
        Ok(self.daemon.0.register(announced.info()?)?)
    }

    /// Whether so much is announced by others that this one must be ended, and begun anew. To be asked every
    /// [`Self::LOOK`]; compares what was so at the last time.
    pub fn is_flooded(&mut self) -> bool {
        self.watch.look(&self.daemon)
    }

    /// How often to ask.
    pub const LOOK: Duration = CHECK;

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
    events: Receiver<ServiceEvent>,
    since: Instant,
    heard: u32,
    watch: Watch,
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
        Ok(Self { daemon, events, since: Instant::now(), heard: 0, watch: Watch::new() })
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
            let event = tokio::select! {
                event = self.events.recv_async() => event,
                () = self.watch.flood(&self.daemon) => return Heard::End,
            };
            let Ok(event) = event else { return Heard::End };
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
            // A server with many networks must not hide the one that is ours too.
            interfaces::nearest_first(&mut addresses, &interfaces::own_networks());
            addresses.truncate(MAX_ADDRESSES);
            return Heard::Sighting(Sighting { pin, addresses, port: service.get_port() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_library_remembers_counts() {
        let metrics = |numbers: &[(&str, i64)]| -> Metrics {
            numbers.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
        };
        assert!(!is_flooded(&metrics(&[])));
        assert!(!is_flooded(&metrics(&[("cached-ptr", 50), ("cached-addr", 400), ("timer", 2000)])));
        assert!(!is_flooded(&metrics(&[("respond", 1 << 40)])), "what was done takes no room");
        for kind in ["cached-ptr", "cached-srv", "cached-addr", "cached-txt", "cached-nsec", "cached-subtype"]
        {
            assert!(is_flooded(&metrics(&[(kind, MAX_REMEMBERED + 1)])), "{kind}");
        }
        assert!(is_flooded(&metrics(&[("cached-srv", MAX_REMEMBERED), ("cached-txt", 1)])));
        assert!(is_flooded(&metrics(&[("timer", MAX_TIMERS + 1)])));
    }

    #[test]
    fn the_library_says_what_it_remembers() {
        // Without multicast there is nothing to ask.
        let Ok(daemon) = Daemon::start(false, true) else { return };
        let metrics = daemon.0.get_metrics().ok().and_then(|asked| asked.recv_timeout(GOODBYE * 20).ok());
        let metrics = metrics.unwrap_or_default();
        for name in ["cached-ptr", "cached-srv", "cached-addr", "cached-txt", "cached-nsec", "timer"] {
            assert!(metrics.contains_key(name), "{name}: {metrics:?}");
        }
        let mut watch = Watch::new();
        assert!(!watch.look(&daemon), "nothing was asked yet");
    }
}
