//! The director at work: events in, commands out, and the hands that carry them out. One task owns the array; probes,
//! provisioners and the catalog are asked in tasks of their own, so that none of them delays an answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::alerts::{AlertConfig, AlertError, Alerts};
use super::chronicle::{self, Chronicle, DirectorView, Keeper};
use super::dns::{DnsCounts, DnsServer, Zone, ZoneError};
use super::incidents::IncidentError;
use super::memory::{Memory, Remembered};
use super::probe::{Looked, NodeAddress, Prober, resolve};
use super::provision::Provisioner;
use super::status::{StatusConfig, StatusServer};
use crate::catalog::{ACTING, Board, CatalogError, Fact, FactKind, Place};
use crate::fleet::answers::Answers;
use crate::fleet::array::{
    Array, ArrayRules, Command, Maintenance, MemberView, NodeFact, NodeSpec, StorageView,
};
use crate::fleet::costs::NodeHours;
use crate::fleet::incidents::Incident;
use crate::fleet::names;
use crate::fleet::notices::{Notice, Severity};
use crate::fleet::scaling::Phase;
use crate::redact::Redacted;

/// What is done once, by one director.
const ROLE: &str = ACTING;
/// How often the array is asked what to do.
const TICK: Duration = Duration::from_millis(200);
/// For how long a director leads without saying so again, in probe intervals.
const LEAD_INTERVALS: u32 = 5;

/// What to run.
#[derive(Clone, Debug)]
pub struct DirectorConfig {
    /// What this director is called among the others.
    pub name: String,
    /// The service's zone.
    pub zone: String,
    /// Its name servers.
    pub name_servers: Vec<String>,
    /// How long resolvers keep the nodes' addresses.
    pub ttl: Duration,
    /// Where DNS listens, UDP and TCP.
    pub dns_listen: SocketAddr,
    /// The nodes of the fixed list, with the URL of each.
    pub nodes: Vec<NodeSpec>,
    /// The rules.
    pub rules: ArrayRules,
    /// The service's catalog, which directors share.
    pub catalog: Place,
    /// The name that certificates are for, if not the host of a node's URL.
    pub server_name: Option<String>,
    /// Accepted public keys of nodes.
    pub pins: Vec<String>,
    /// Authorities beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A token with the right `observe`, and `admin` for telling nodes to drain.
    pub token: Option<Redacted<String>>,
    /// Where to remember what the catalog says of the nodes, for a start without it; `None`: nowhere.
    pub memory: Option<PathBuf>,
    /// Whom to tell.
    pub alerts: AlertConfig,
    /// Where the status page is served, over plain HTTP; `None`: nowhere.
    pub status_listen: Option<SocketAddr>,
    /// Whether `/monitoring` and `/metrics` are for everybody, and not only for callers of private networks.
    pub monitoring_public: bool,
}

/// Why a director did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectorError {
    /// The zone cannot be served.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// The name server's port cannot be opened.
    #[error("cannot answer DNS on {address}: {source}; ports below 1024 need the right to open them")]
    Dns {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The status page's port cannot be opened.
    #[error("cannot serve the status page on {address}: {source}")]
    Status {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A node's URL is none.
    #[error("node {0}: write its url as https://ADDRESS:PORT")]
    Node(String),
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// Alerts cannot be set up.
    #[error(transparent)]
    Alerts(#[from] AlertError),
}

/// What the status page shows.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Whether this director acts for all.
    pub leading: bool,
    /// Whether nobody is healthy, so that DNS names everybody.
    pub failing_open: bool,
    /// The nodes.
    pub nodes: Vec<MemberView>,
    /// Troubles there are, in words for the public.
    pub troubles: Vec<String>,
    /// Whether the catalog can be written.
    pub catalog: bool,
    /// What the nodes have cost since this director started.
    pub node_hours: NodeHours,
    /// Messages that one of the ways to the operators did not take.
    pub alerts_lost: u64,
    /// What lies behind the nodes.
    pub storage: StorageView,
    /// The directors, this one among them.
    pub directors: Vec<DirectorView>,
    /// Incidents, the oldest first.
    pub incidents: Arc<Vec<Incident>>,
    /// Since when each member is as it is; seconds since 1970.
    pub since: BTreeMap<String, u64>,
    /// When this was so; seconds since 1970, and 0 before the first look.
    pub at: u64,
}

enum Event {
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

/// What is to be written on the board, under a term.
enum Write {
    Put(NodeFact, i64),
    Drop(String, i64),
    Chronicle(chronicle::Write, i64),
}

/// Names of closed nodes that are not given again.
const MAX_NAMED: usize = 32;
/// Writes that wait; a node's next step is written again when one was lost.
const MAX_WRITES: usize = 1024;

/// How often it is tried to close a node.
const CLOSINGS: u32 = 10;
/// From one try to the next.
const CLOSING_PAUSE: Duration = Duration::from_secs(60);

/// What was read from the board.
struct Shared {
    leading: bool,
    term: i64,
    until: Instant,
    nodes: Vec<NodeFact>,
    maintenance: BTreeMap<String, Maintenance>,
    chronicle: chronicle::Read,
}

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

/// Reads the board once per interval, asks for the lead, and writes what is to be written.
async fn follow(
    config: DirectorConfig,
    holder: String,
    events: mpsc::Sender<Event>,
    mut writes: mpsc::Receiver<Write>,
    mut memory: Option<Memory>,
) {
    let mut board: Option<Arc<dyn Board>> = None;
    let mut keeper = Keeper::new(config.name.clone(), wall());
    // What could not be written is written when the catalog is back, in its order: a node that nobody has written of
    // is known to nobody after a change of the lead.
    let mut waiting: VecDeque<Write> = VecDeque::new();
    let interval = config.rules.health.interval;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let write = tokio::select! {
            _ = ticks.tick() => None,
            write = writes.recv() => match write {
                Some(write) => Some(write),
                None => return,
            },
        };
        let is_tick = write.is_none();
        if waiting.len() < MAX_WRITES {
            waiting.extend(write);
        }
        if board.is_none() {
            match config.catalog.open_board().await {
                Ok(opened) => board = Some(opened),
                Err(error) => {
                    let _ = events.send(Event::Board(Err(error))).await;
                    continue;
                }
            }
        }
        let Some(board) = &board else { continue };
        // A server that hangs is one that does not answer.
        let patience = interval * LEAD_INTERVALS;
        while let Some(write) = waiting.front() {
            let done = async {
                match write {
                    Write::Chronicle(write, term) => {
                        keep(board.as_ref(), &keeper, write.clone(), *term, &events).await
                    }
                    write => put(board.as_ref(), write).await,
                }
            };
            if !tokio::time::timeout(patience, done).await.unwrap_or(false) {
                break;
            }
            waiting.pop_front();
        }
        if is_tick {
            let read = read_board(board.as_ref(), &holder, patience, &mut keeper);
            let read = tokio::time::timeout(patience, read).await;
            let read = read.unwrap_or_else(|_| Err(CatalogError::Unavailable("no answer in time".into())));
            let said = read.as_ref().ok().map(|shared| Remembered {
                nodes: shared.nodes.clone(),
                maintenance: shared.maintenance.clone(),
            });
            if events.send(Event::Board(read)).await.is_err() {
                return;
            }
            if let (Some(memory), Some(said)) = (&mut memory, said) {
                memory.keep(said).await;
            }
        }
    }
}

/// The same of incidents and history, which operators may have to be told of.
async fn keep(
    board: &dyn Board,
    keeper: &Keeper,
    write: chronicle::Write,
    term: i64,
    events: &mpsc::Sender<Event>,
) -> bool {
    match keeper.write(board, write, term).await {
        Ok(notices) => {
            if !notices.is_empty() {
                let _ = events.send(Event::Told(notices)).await;
            }
            true
        }
        Err(error) => {
            tracing::warn!(%error, "incidents or history could not be written down");
            !matches!(error, IncidentError::Catalog(CatalogError::Unavailable(_)))
        }
    }
}

/// Whether there is nothing more to do about it.
async fn put(board: &dyn Board, write: &Write) -> bool {
    let written = match write {
        Write::Put(fact, term) => {
            let name = fact.spec.name.clone();
            let record = serde_json::to_vec(fact).unwrap_or_default();
            board.put_fact(FactKind::Node, Fact { name, at: wall(), record }, *term).await
        }
        Write::Drop(name, term) => board.drop_fact(FactKind::Node, name.clone(), *term).await,
        // Written by its keeper.
        Write::Chronicle(..) => Ok(true),
    };
    match written {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!("another director leads, and has written otherwise");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "what became of a node could not be written down");
            !matches!(error, CatalogError::Unavailable(_))
        }
    }
}

async fn read_board(
    board: &dyn Board,
    name: &str,
    time: Duration,
    keeper: &mut Keeper,
) -> Result<Shared, CatalogError> {
    // Before the call: however long the answer takes, the lead is not believed for longer than it was given.
    let until = Instant::now() + time;
    let lead = board.lead(ROLE.into(), name.to_owned(), time).await?;
    let nodes = board.facts(FactKind::Node).await?;
    let marks = board.facts(FactKind::Maintenance).await?;
    let chronicle = keeper.read(board, wall(), lead.held).await?;
    let read = |fact: &Fact| serde_json::from_slice(&fact.record).ok();
    Ok(Shared {
        leading: lead.held,
        term: lead.term,
        until,
        nodes: nodes.iter().filter_map(|fact| serde_json::from_slice(&fact.record).ok()).collect(),
        maintenance: marks.iter().filter_map(|fact| Some((fact.name.clone(), read(fact)?))).collect(),
        chronicle,
    })
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
