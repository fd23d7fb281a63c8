//! Looks for the household's servers that were joined, and puts the one that is found into the proxy's
//! [`Slot`]. Where to look is decided by `fetch::lan_plan`.
//!
//! While the server in use answers, nothing is looked for. Nobody waits for the finder: as long as nothing is
//! found, the slot is empty, or its server's breaker open, and requests go to the grid.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Lan, LanConfig, Shown, View};
use crate::client::address::ServerAddress;
use crate::client::is_there;
use crate::client::joined::{self, JoinedServer};
use crate::fetch::lan_plan::{LanPlan, Next, Noted};
use crate::fetch::service_plan::Standing;
use crate::proxy::grid_port::Shared;
use crate::proxy::service::{Bound, ServiceConfig, ServiceTier, Slot};
use crate::proxy::uploads::{UploadConfig, UploadQueue};
use crate::support::mdns::{Browser, Heard, Sighting};
use crate::support::metrics::Counter;
use crate::token::join::Pin;

/// How often it is looked whether another process has joined something, and whether time has changed
/// anything.
const ROUND: Duration = Duration::from_secs(2);
/// When listening for announcements is tried again after it has failed or was flooded.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);
/// How often the network is asked again while a server is looked for, and while none is. Each time all that is
/// announced is told anew, so that a place that was given up is tried again.
const ASK_AGAIN: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(480)];
/// How long a server that has just been put in is left to show whether it works.
const GRACE: Duration = Duration::from_secs(4);
/// How long a server may be away before another one takes its place.
const FAITHFUL: Duration = Duration::from_secs(20);
/// See the module's documentation.
pub(in crate::proxy) struct Finder {
    lan: Arc<Lan>,
    shared: Arc<Shared>,
    config: LanConfig,
    uploads: UploadConfig,
    plan: LanPlan,
    servers: Vec<JoinedServer>,
    /// When the file of what was joined was changed, as far as it was read.
    read: Option<SystemTime>,
    browser: Option<Browser>,
    listen_at: Instant,
    listen_failed: bool,
    asked: Instant,
    hold: Instant,
    away_since: Option<Instant>,
    told_reading_only: Option<Pin>,
}

/// What woke the finder.
enum Event {
    Heard(Heard),
    Knocked(Pin, SocketAddr, bool),
    Other,
}

impl Finder {
    pub(in crate::proxy) fn new(
        lan: Arc<Lan>,
        shared: Arc<Shared>,
        config: LanConfig,
        uploads: UploadConfig,
    ) -> Self {
        let now = Instant::now();
        Self {
            lan,
            shared,
            config,
            uploads,
            plan: LanPlan::default(),
            servers: Vec::new(),
            read: None,
            browser: None,
            listen_at: now,
            listen_failed: false,
            asked: now,
            hold: now,
            away_since: None,
            told_reading_only: None,
        }
    }

    fn slot(&self) -> &Slot {
        &self.shared.service
    }

    /// Looks for as long as the proxy runs.
    pub(in crate::proxy) async fn run(mut self) {
        let mut knocks: JoinSet<(Pin, SocketAddr, bool)> = JoinSet::new();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lan = Arc::clone(&self.lan);
        self.reread().await;
        loop {
            let now = Instant::now();
            self.listen(now);
            // One knock after the other: the plan learns what came of it before it is asked again.
            let wake = if knocks.is_empty() { self.look(now, &mut knocks) } else { None };
            self.show(now);
            let mut standing = self.slot().tier().map(|tier| tier.standing());
            let wake = wake.unwrap_or(now + LISTEN_AGAIN);
            let event = tokio::select! {
                heard = heard(self.browser.as_mut()) => Event::Heard(heard),
                Some(knocked) = knocks.join_next(), if !knocks.is_empty() => match knocked {
                    Ok((pin, address, found)) => Event::Knocked(pin, address, found),
                    Err(_) => Event::Other,
                },
                () = lan.changed.notified() => { self.reread().await; Event::Other }
                _ = rounds.tick() => { self.reread().await; Event::Other }
                () = tokio::time::sleep_until(wake.into()) => Event::Other,
                () = changed(standing.as_mut()) => Event::Other,
            };
            match event {
                Event::Heard(Heard::Sighting(sighting)) => self.sighted(&sighting),
                Event::Heard(Heard::End) => {
                    tracing::warn!(
                        "listening for servers in the network has ended; trying again in a minute"
                    );
                    self.shared.metrics.count(Counter::MdnsFailures);
                    (self.browser, self.listen_at) = (None, Instant::now() + LISTEN_AGAIN);
                }
                Event::Knocked(pin, address, found) => self.knocked(&pin, address, found).await,
                Event::Other => {}
            }
        }
    }

    /// Reads what was joined, if that has changed.
    async fn reread(&mut self) {
        let servers = match &self.config.line {
            Some(line) if self.read.is_none() => {
                self.read = Some(SystemTime::UNIX_EPOCH);
                vec![JoinedServer { line: line.clone(), upload: None }]
            }
            Some(_) => return,
            None => {
                let path = self.lan.data_dir.join(joined::FILE_NAME);
                let changed = std::fs::metadata(path).and_then(|found| found.modified()).ok();
                if changed.is_some() && changed == self.read {
                    return;
                }
                self.read = changed;
                match joined::load(&self.lan.data_dir) {
                    Ok(servers) => servers,
                    Err(error) => {
                        tracing::warn!(%error, "the servers that were joined are not known");
                        return;
                    }
                }
            }
        };
        if servers == self.servers {
            return;
        }
        let places: Vec<_> =
            servers.iter().map(|server| (server.line.pin.clone(), server.line.address)).collect();
        self.plan.join(&places);
        // Another interface is listened on for servers on this very machine.
        let loopback =
            |servers: &[JoinedServer]| servers.iter().any(|server| server.line.address.ip().is_loopback());
        if loopback(&servers) != loopback(&self.servers) {
            (self.browser, self.listen_at) = (None, Instant::now());
        }
        let before = std::mem::replace(&mut self.servers, servers);
        self.drop_outdated(&before).await;
    }

    /// What is in use and was forgotten, or joined anew by another line, or may be given more or less than
    /// before, is put in anew.
    async fn drop_outdated(&mut self, before: &[JoinedServer]) {
        let Some(tier) = self.slot().tier() else { return };
        let Some(pin) = tier.pin() else { return };
        let find = |servers: &[JoinedServer]| {
            let found = servers.iter().find(|server| server.line.pin == *pin);
            found.map(|server| (server.line.token.clone(), server.upload))
        };
        if find(before) != find(&self.servers) {
            self.clear().await;
            self.hold = Instant::now();
        }
    }

    /// Takes the service out of the slot. Its queue is written down before another one is read.
    async fn clear(&self) {
        let before = self.slot().put(Bound::default());
        if let Some(care) = before.care {
            care.abort();
        }
        if let Some(uploads) = before.uploads {
            uploads.stop().await;
        }
    }

    /// Begins to listen for announcements, when it is time.
    fn listen(&mut self, now: Instant) {
        if let Some(browser) = &mut self.browser {
            let [looking, usual] = ASK_AGAIN;
            if now >= self.asked + if self.away_since.is_some() { looking } else { usual } {
                self.asked = now;
                if browser.again().is_err() {
                    (self.browser, self.listen_at) = (None, now + LISTEN_AGAIN);
                }
            }
            return;
        }
        if now < self.listen_at {
            return;
        }
        self.asked = now;
        self.listen_at = now + LISTEN_AGAIN;
        let loopback = self.servers.iter().any(|server| server.line.address.ip().is_loopback());
        match Browser::start(loopback) {
            Ok(browser) => self.browser = Some(browser),
            Err(error) => {
                self.shared.metrics.count(Counter::MdnsFailures);
                if !std::mem::replace(&mut self.listen_failed, true) {
                    tracing::warn!(%error, "servers that have moved are not found by themselves");
                }
            }
        }
    }

    fn sighted(&mut self, sighting: &Sighting) {
        let now = Instant::now();
        for ip in &sighting.addresses {
            let counter = match self.plan.sighted(&sighting.pin, *ip, sighting.port, now) {
                Noted::Place | Noted::Unknown => Counter::LanSightings,
                Noted::Nothing => Counter::LanSightingsIgnored,
            };
            self.shared.metrics.count(counter);
        }
    }

    /// Knocks where the server may be, while none works. When to look again.
    fn look(&mut self, now: Instant, knocks: &mut JoinSet<(Pin, SocketAddr, bool)>) -> Option<Instant> {
        let tier = self.slot().tier();
        let standing = tier.as_ref().map(|tier| *tier.standing().borrow());
        if standing == Some(Standing::Working) {
            self.away_since = None;
            return None;
        }
        if now < self.hold {
            return Some(self.hold);
        }
        let since = *self.away_since.get_or_insert(now);
        // A server that has been found once is not given up for another one at its first hiccup.
        let faithful = standing == Some(Standing::Away) && now < since + FAITHFUL;
        let only = tier.as_ref().and_then(|tier| tier.pin()).filter(|_| faithful);
        let wake = match self.plan.next(only, now) {
            Next::Probe(pin, at) => {
                self.shared.metrics.count(Counter::LanProbes);
                let address = ServerAddress::at(at, &pin);
                knocks.spawn(async move {
                    let found = is_there(&address).await;
                    (pin, at, found)
                });
                None
            }
            Next::Wait(at) => Some(at),
            Next::Rest => None,
        };
        if faithful { Some(wake.map_or(since + FAITHFUL, |at| at.min(since + FAITHFUL))) } else { wake }
    }

    async fn knocked(&mut self, pin: &Pin, at: SocketAddr, found: bool) {
        let now = Instant::now();
        let tier = self.slot().tier();
        let bound = tier.filter(|tier| tier.pin() == Some(pin));
        let there = bound.as_ref().map(|tier| tier.client().address().authority());
        let address = ServerAddress::at(at, pin);
        // A server in use that is where it was, and yet does not serve, is the tier's to probe.
        let new = found && there != Some(address.authority());
        self.plan.probed(pin, at, new, now);
        if !found {
            self.shared.metrics.count(Counter::LanProbesFailed);
        }
        if !new {
            return;
        }
        self.hold = now + GRACE;
        match bound {
            Some(tier) => {
                if tier.move_to(address).is_ok() {
                    self.shared.metrics.count(Counter::LanMoves);
                    tracing::info!(address = %at, "the cache server has been found again");
                }
            }
            None => self.bind(pin, at).await,
        }
        self.remember(pin, at).await;
    }

    /// Puts a server that was found into use.
    async fn bind(&mut self, pin: &Pin, at: SocketAddr) {
        let Some(server) = self.servers.iter().find(|server| server.line.pin == *pin).cloned() else {
            return;
        };
        let mut config = ServiceConfig::joined(&server.line, self.config.spot_check);
        config.address = ServerAddress::at(at, pin);
        config.least_deadline = self.config.least_deadline;
        let (cache, metrics) = (self.shared.cache.clone(), Arc::clone(&self.shared.metrics));
        let tier = match ServiceTier::new(config, &self.lan.data_dir, cache.clone(), Arc::clone(&metrics)) {
            Ok(tier) => Arc::new(tier),
            Err(error) => {
                tracing::warn!(%error, "the cache server cannot be used");
                return;
            }
        };
        self.clear().await;
        let wanted = self.config.upload.or(server.upload) == Some(true);
        let may = server.takes_uploads();
        if wanted && !may && self.told_reading_only.as_ref() != Some(pin) {
            self.told_reading_only = Some(pin.clone());
            tracing::info!("the join line of this cache server is for reading: nothing is uploaded to it");
        }
        let uploads = if wanted && may {
            let folder = self.lan.data_dir.join("uploads");
            let service = Arc::clone(&tier);
            Some(Arc::new(UploadQueue::start(folder, &self.uploads, service, cache, metrics).await))
        } else {
            None
        };
        let care = tokio::spawn(Arc::clone(&tier).look_after()).abort_handle();
        self.slot().put(Bound { tier: Some(tier), uploads, care: Some(care) });
        // What grids have said before there was a queue.
        let grids = self.shared.grids.read().unwrap_or_else(PoisonError::into_inner).clone();
        for grid in grids.iter().filter_map(Weak::upgrade) {
            grid.tell_uploads();
        }
    }

    /// The next start looks here first.
    async fn remember(&mut self, pin: &Pin, at: SocketAddr) {
        for server in self.servers.iter_mut().filter(|server| server.line.pin == *pin) {
            server.line.address = at;
        }
        if self.config.line.is_some() {
            return;
        }
        let (folder, pin) = (self.lan.data_dir.clone(), pin.clone());
        let noting = move || joined::change(&folder, &pin, |server| server.line.address = at);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(noting).await {
            tracing::debug!(%error, "where the server is now cannot be remembered");
        }
    }

    fn show(&self, now: Instant) {
        let tier = self.slot().tier();
        let used = tier.as_ref().filter(|tier| *tier.standing().borrow() == Standing::Working);
        let used = used.and_then(|tier| tier.pin());
        let joined: Vec<Shown> = self
            .servers
            .iter()
            .map(|server| Shown {
                address: server.line.address,
                name: server.line.pin.short().to_owned(),
                used: used == Some(&server.line.pin),
                writes: server.takes_uploads(),
            })
            .collect();
        let unknown = self.plan.strangers(now);
        self.shared.metrics.set_lan(joined.len() as u64, unknown.len() as u64);
        self.lan.show(View { joined, unknown });
    }
}

async fn heard(browser: Option<&mut Browser>) -> Heard {
    match browser {
        Some(browser) => browser.next().await,
        None => std::future::pending().await,
    }
}

async fn changed(standing: Option<&mut watch::Receiver<Standing>>) {
    let heard = match standing {
        Some(standing) => standing.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        std::future::pending::<()>().await;
    }
}
