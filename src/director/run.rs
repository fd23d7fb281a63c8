//! The director at work: events in, commands out, and the hands that carry them out. One task owns the array; probes,
//! provisioners and the catalog are asked in tasks of their own, so that none of them delays an answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::alerts::Alerts;
use super::chronicle::{self, Chronicle};
use super::config::{DirectorConfig, DirectorError, Picture};
use super::dns::{DnsCounts, DnsServer, Zone};
use super::following::{MAX_WRITES, ROLE, Shared, Write, follow};
use super::memory::Memory;
use super::probe::{Looked, NodeAddress, Prober, resolve};
use super::provision::Provisioner;
use super::status::{StatusConfig, StatusServer};
use crate::catalog::{CatalogError, Place};
use crate::fleet::answers::Answers;
use crate::fleet::array::{Array, Command, NodeFact, NodeSpec};
use crate::fleet::names;
use crate::fleet::notices::{Notice, Severity};
use crate::fleet::scaling::Phase;

/// How often the array is asked what to do.
const TICK: Duration = Duration::from_millis(200);

/// What has happened.
pub(super) enum Event {
    Probed {
        name: String,
        began: Instant,
        looked: Looked,
    },
    Board(Result<Shared, CatalogError>),
    Told(Vec<Notice>),
    Opened(NodeSpec),
    NotOpened {
        name: String,
        why: String,
    },
    /// A node that was to be closed is, or why it is not yet.
    Closed {
        name: String,
        why: Option<String>,
        /// Whether it is not tried again here.
        over: bool,
    },
}

/// Names of closed nodes that are not given again.
const MAX_NAMED: usize = 32;
/// How often it is tried to close a node.
const CLOSINGS: u32 = 10;
/// From one try to the next.
const CLOSING_PAUSE: Duration = Duration::from_secs(60);

/// A running director.
#[derive(Debug)]
pub struct Director {
    dns: DnsServer,
    status: Option<StatusServer>,
    picture: watch::Receiver<Picture>,
    notices: watch::Receiver<Vec<Notice>>,
    leave: (Place, String),
    ends: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// The zone's serial. Nobody copies the zone, so nobody compares; but all directors have to say the same.
const SERIAL: u32 = 1;
/// How long the catalog is waited for at the end, and those whom alerts go to.
const LEAVING: Duration = Duration::from_secs(3);
/// How long nodes that are being opened are waited for at the end: nobody else knows of them.
const OPENING: Duration = Duration::from_secs(20);

impl Director {
    /// Starts to probe and to answer. Nodes and catalog need not be reachable.
    ///
    /// # Errors
    /// When the zone or a node is misnamed, or a port cannot be opened.
    pub async fn start(
        config: DirectorConfig,
        provisioner: Option<Arc<dyn Provisioner>>,
    ) -> Result<Self, DirectorError> {
        let ttl = u32::try_from(config.ttl.as_secs()).unwrap_or(60);
        let zone = Zone::new(&config.zone, &config.name_servers, ttl, SERIAL)?;
        let mut nodes = Vec::new();
        for mut spec in config.nodes.clone() {
            let address =
                NodeAddress::parse(&spec.url).ok_or_else(|| DirectorError::Node(spec.name.clone()))?;
            if spec.addresses.is_empty() {
                spec.addresses = resolve(&address).await;
            }
            nodes.push(spec);
        }
        let tls = crate::client::tls_for_nodes(&config.pins, config.ca_file.as_deref())
            .map_err(|error| DirectorError::Tls(error.to_string()))?;
        let prober = Prober::new(tls, config.server_name.clone(), config.token.clone());
        let mut array = Array::new(config.rules, nodes, Instant::now());
        let memory = config.memory.clone().map(|path| Memory::new(path, config.zone.clone()));
        if let Some(remembered) = memory.as_ref().and_then(Memory::read) {
            array.remember(Instant::now(), &remembered.nodes);
            array.maintenance(wall(), &remembered.maintenance);
        }
        let (answers, answers_told) = watch::channel(Arc::new(array.answers(Instant::now())));
        let dns = DnsServer::start(config.dns_listen, zone, answers_told)
            .await
            .map_err(|source| DirectorError::Dns { address: config.dns_listen, source })?;
        let (picture, picture_told) = watch::channel(Picture::default());
        let (tell, notices) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        let alerts = Alerts::start(&config.alerts, &config.zone)?;
        let (writes, written) = mpsc::channel(MAX_WRITES);
        let chronicle = Chronicle::new(&config.name, wall(), config.rules.health.interval);
        let status = match config.status_listen {
            None => None,
            Some(listen) => {
                let served = StatusConfig {
                    listen,
                    monitoring_public: config.monitoring_public,
                    service: config.zone.trim_end_matches('.').to_owned(),
                    director: config.name.clone(),
                };
                let started =
                    StatusServer::start(served, picture_told.clone(), chronicle.books(), dns.counts()).await;
                Some(started.map_err(|source| DirectorError::Status { address: listen, source })?)
            }
        };
        // Two that were given one name must not both believe that they lead.
        let holder = format!("{} {:016x}", config.name, rand::random::<u64>());
        let leave = (config.catalog.clone(), holder.clone());
        let work = Work {
            chronicle,
            config,
            holder,
            prober,
            provisioner,
            alerts,
            array,
            answers,
            picture,
            tell,
            writes,
            term: 0,
            until: None,
            catalog: false,
            naming: BTreeSet::new(),
            named: VecDeque::new(),
        };
        let (ends, ending) = watch::channel(false);
        tasks.spawn(work.run(written, memory, ending));
        Ok(Self { dns, status, picture: picture_told, notices, leave, ends, tasks })
    }

    /// Stops, and gives the lead up for another to take at once. Nodes go on.
    pub async fn stop(mut self) {
        self.ends.send_replace(true);
        let _ = tokio::time::timeout(OPENING + LEAVING * 3, self.tasks.join_next()).await;
        self.tasks.shutdown().await;
        let (catalog, holder) = self.leave;
        let given_up = tokio::time::timeout(LEAVING, async {
            catalog.open_board().await?.give_up(ROLE.into(), holder).await
        });
        if !matches!(given_up.await, Ok(Ok(()))) {
            tracing::warn!(
                "the catalog does not answer; another director leads when this one's time is over"
            );
        }
    }

    /// Where DNS is answered.
    #[must_use]
    pub const fn dns_address(&self) -> SocketAddr {
        self.dns.address()
    }

    /// Where the status page is.
    #[must_use]
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(StatusServer::address)
    }

    /// What the name server has done.
    #[must_use]
    pub fn dns_counts(&self) -> Arc<DnsCounts> {
        self.dns.counts()
    }

    /// What the status page shows; told at each change.
    #[must_use]
    pub fn picture(&self) -> watch::Receiver<Picture> {
        self.picture.clone()
    }

    /// The last message to the operators; told at each one.
    #[must_use]
    pub fn notices(&self) -> watch::Receiver<Vec<Notice>> {
        self.notices.clone()
    }
}

struct Work {
    config: DirectorConfig,
    chronicle: Chronicle,
    /// As whom it asks for the lead.
    holder: String,
    prober: Prober,
    provisioner: Option<Arc<dyn Provisioner>>,
    alerts: Alerts,
    writes: mpsc::Sender<Write>,
    /// Names given to nodes that are being opened.
    naming: BTreeSet<String>,
    /// Those of nodes closed lately: another one is not to be taken for them.
    named: VecDeque<String>,
    array: Array,
    answers: watch::Sender<Arc<Answers>>,
    picture: watch::Sender<Picture>,
    tell: watch::Sender<Vec<Notice>>,
    term: i64,
    /// When the lead ends unless it is renewed, by this machine's clock.
    until: Option<Instant>,
    catalog: bool,
}

impl Work {
    async fn run(
        mut self,
        written: mpsc::Receiver<Write>,
        memory: Option<Memory>,
        mut ending: watch::Receiver<bool>,
    ) {
        let (events, mut arriving) = mpsc::channel(1024);
        let (mut running, mut following) = (JoinSet::new(), JoinSet::new());
        let board = follow(self.config.clone(), self.holder.clone(), events.clone(), written, memory);
        following.spawn(board);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                Some(event) = arriving.recv() => {
                    if let Some(stray) = self.take(event) {
                        self.close(stray, &events, &mut running);
                    }
                }
                Some(_) = running.join_next() => continue,
                _ = ticks.tick() => {}
                _ = ending.wait_for(|ends| *ends) => break,
            }
            let now = Instant::now();
            // A lead that was not renewed is over, whatever has held this process up.
            if self.until.is_none_or(|until| until <= now) {
                self.array.lapse();
            }
            self.array.wall(wall());
            for command in self.array.tick(now) {
                self.perform(command, &events, &mut running);
            }
            let writes = self.chronicle.tick(now, wall(), &self.array, self.catalog);
            self.write_all(writes);
            self.show(now);
        }
        self.end(arriving, &events, running, following).await;
    }

    /// Nothing new is begun. What is being opened is waited for and written down, and what is to be told is told.
    async fn end(
        mut self,
        mut arriving: mpsc::Receiver<Event>,
        events: &mpsc::Sender<Event>,
        mut running: JoinSet<()>,
        mut following: JoinSet<()>,
    ) {
        let until = tokio::time::Instant::now() + OPENING;
        while !self.naming.is_empty() {
            let Ok(Some(event)) = tokio::time::timeout_at(until, arriving.recv()).await else { break };
            if let Some(stray) = self.take(event) {
                self.close(stray, events, &mut running);
            }
        }
        if !self.naming.is_empty() {
            tracing::error!(
                nodes = ?self.naming,
                "these were being opened and nobody waits for them any more; look for them"
            );
        }
        let Self { writes, alerts, .. } = self;
        drop(writes);
        let _ = tokio::time::timeout(LEAVING, following.join_next()).await;
        alerts.finish(LEAVING).await;
    }

    /// Takes an event in; a node that was opened and cannot be a member, to be closed.
    fn take(&mut self, event: Event) -> Option<NodeSpec> {
        let now = Instant::now();
        match event {
            Event::Probed { name, began, looked: Looked { probe, cause, report } } => {
                self.array.explain(&name, cause);
                self.array.probed(now, &name, began, probe, report);
                if let Some(cause) = self.array.news(&name) {
                    tracing::warn!(node = name, %cause, "a node does not serve");
                }
            }
            Event::Board(Ok(shared)) => {
                self.catalog = true;
                self.array.catalog(now, &self.config.name, true);
                (self.term, self.until) = (shared.term, shared.leading.then_some(shared.until));
                // Read in the same moment as the lead was had: who begins to lead begins with what is written.
                if !self.array.is_leading() {
                    self.array.facts(now, &shared.nodes);
                }
                self.array.lead(now, shared.leading && now < shared.until);
                if self.array.is_leading() {
                    self.array.facts(now, &shared.nodes);
                }
                self.array.maintenance(wall(), &shared.maintenance);
                let writes = self.chronicle.board(now, wall(), shared.chronicle, &self.array);
                self.write_all(writes);
            }
            Event::Told(notices) => self.tell(notices),
            Event::Opened(spec) => {
                self.naming.remove(&spec.name);
                let fact = NodeFact { spec: spec.clone(), phase: Phase::Starting, closing: false };
                if self.array.opened(now, spec) {
                    tracing::info!(node = fact.spec.name, "a node was opened");
                    self.write(Write::Put(fact, self.term));
                } else if self.array.has(&fact.spec.handle) {
                    tracing::error!(node = fact.spec.name, "what was opened is a member already");
                } else {
                    tracing::error!(
                        node = fact.spec.name,
                        "it was opened where another node is, and is closed"
                    );
                    return Some(fact.spec);
                }
            }
            Event::NotOpened { name, why } => {
                tracing::warn!(why, "a node could not be opened");
                self.naming.remove(&name);
                self.array.not_opened(now, &why);
            }
            Event::Closed { name, why, over } => {
                let done = why.is_none();
                let key = format!("closing {name}");
                match why {
                    Some(why) => self.array.raise(now, &key, Severity::Critical, &why),
                    None => self.array.clear(now, &key, &format!("{name} is closed")),
                }
                // What is still to be closed stays written, for whoever leads.
                if over && self.array.closed(&name, done) {
                    self.write(Write::Drop(name, self.term));
                }
            }
            // What is known goes on; only what must be done once waits.
            Event::Board(Err(error)) => {
                if self.catalog {
                    tracing::warn!(%error, "the catalog does not answer; DNS goes on with what is known");
                }
                self.catalog = false;
                self.array.catalog(now, &self.config.name, false);
            }
        }
        None
    }

    fn perform(&mut self, command: Command, events: &mpsc::Sender<Event>, running: &mut JoinSet<()>) {
        match command {
            Command::Probe(spec) => {
                let Some(address) = NodeAddress::parse(&spec.url) else { return };
                let (prober, events) = (self.prober.clone(), events.clone());
                let patience = self.config.rules.health.interval / 2;
                running.spawn(async move {
                    let began = Instant::now();
                    let looked = prober.probe(&address, patience).await;
                    let _ = events.send(Event::Probed { name: spec.name, began, looked }).await;
                });
            }
            Command::Drain(spec) => {
                let Some(address) = NodeAddress::parse(&spec.url) else { return };
                let prober = self.prober.clone();
                running.spawn(async move {
                    if !prober.drain(&address, Duration::from_secs(10)).await {
                        tracing::warn!(
                            node = spec.name,
                            "it was told to drain, and does not say that it does"
                        );
                    }
                });
            }
            Command::Tell(notices) => {
                // The board knows what another director has told before this one began to.
                let notices = self.chronicle.news(notices);
                let writes = self.chronicle.told(&notices);
                self.write_all(writes);
                if !notices.is_empty() {
                    self.tell(notices);
                }
            }
            Command::Open(count) => {
                for _ in 0..count {
                    self.open(events, running);
                }
            }
            Command::Close(spec, reason) => {
                if self.named.len() >= MAX_NAMED {
                    self.named.pop_front();
                }
                self.named.push_back(spec.name.clone());
                tracing::info!(node = spec.name, ?reason, "a node is closed");
                self.close(spec, events, running);
            }
            Command::Finish(spec) => {
                tracing::info!(node = spec.name, "a node that was to be closed is closed");
                self.close(spec, events, running);
            }
            Command::Write(fact) => self.write(Write::Put(fact, self.term)),
        }
    }

    fn tell(&self, notices: Vec<Notice>) {
        for notice in &notices {
            tracing::warn!(key = notice.key, what = ?notice.what, "{}", notice.text);
        }
        self.alerts.tell(&notices);
        self.tell.send_replace(notices);
    }

    fn write_all(&self, writes: Vec<chronicle::Write>) {
        for write in writes {
            self.write(Write::Chronicle(write, self.term));
        }
    }

    fn write(&self, write: Write) {
        if self.writes.try_send(write).is_err() {
            tracing::warn!("too much waits to be written into the catalog");
        }
    }

    fn open(&mut self, events: &mpsc::Sender<Event>, running: &mut JoinSet<()>) {
        let members = self.array.members(Instant::now());
        let taken = |name: &str| {
            self.naming.contains(name)
                || self.named.iter().any(|named| named == name)
                || members.iter().any(|member| member.name == name)
                || self.array.is_leaving_name(name)
        };
        let name = names::unused(rand::random(), &taken);
        self.naming.insert(name.clone());
        let (provisioner, events) = (self.provisioner.clone(), events.clone());
        let urls = self.array.urls();
        running.spawn(async move {
            let event = match provisioner {
                Some(provisioner) => match provisioner.open(name.clone(), urls).await {
                    Ok(spec) => Event::Opened(spec),
                    Err(error) => Event::NotOpened { name, why: error.to_string() },
                },
                None => Event::NotOpened { name, why: "no provisioner is configured".into() },
            };
            let _ = events.send(event).await;
        });
    }

    /// Closes a node, and does not leave it at one try: one that is forgotten goes on to cost.
    fn close(&self, spec: NodeSpec, events: &mpsc::Sender<Event>, running: &mut JoinSet<()>) {
        let (Some(provisioner), events) = (self.provisioner.clone(), events.clone()) else { return };
        running.spawn(async move {
            let (name, handle) = (spec.name.clone(), spec.handle.clone());
            for attempt in 1..=CLOSINGS {
                let why = match provisioner.close(spec.clone()).await {
                    Ok(()) => None,
                    Err(error) => Some(format!("{name} ({handle}) could not be closed: {error}")),
                };
                let done = why.is_none();
                let over = done || attempt == CLOSINGS;
                let _ = events.send(Event::Closed { name: name.clone(), why, over }).await;
                if done {
                    return;
                }
                tokio::time::sleep(CLOSING_PAUSE).await;
            }
            tracing::error!(node = name, handle, "a node could not be closed; look for it");
        });
    }

    fn show(&mut self, now: Instant) {
        let answers = self.array.answers(now);
        let failing_open = answers.failing_open();
        self.answers.send_if_modified(|known| {
            let changed = **known != answers;
            if changed {
                *known = Arc::new(answers);
            }
            changed
        });
        let (at, nodes) = (wall(), self.array.members(now));
        let directors = self.chronicle.directors(now, self.catalog);
        let mut since = BTreeMap::new();
        let known = nodes.iter().map(|node| (chronicle::node_member(&node.name), node.since_s));
        let of_directors = directors.iter().map(|one| (chronicle::director_member(&one.name), one.since_s));
        for (member, since_s) in known.chain(of_directors) {
            let moment = self.chronicle.since(&member, at, since_s);
            since.insert(member, moment);
        }
        self.picture.send_replace(Picture {
            leading: self.array.is_leading(),
            failing_open,
            nodes,
            troubles: self
                .array
                .troubles()
                .map(|(key, _, text)| chronicle::without_cause(key, text).to_owned())
                .collect(),
            catalog: self.catalog,
            node_hours: self.array.node_hours(),
            alerts_lost: self.alerts.lost(),
            storage: self.array.storage_view(),
            directors,
            incidents: self.chronicle.incidents(),
            since,
            at,
        });
    }
}

pub(super) fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
