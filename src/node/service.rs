//! What a node does, whichever face it is asked through.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use super::access::Access;
use super::body::Body;
use super::bounded::{Ahead, Generations};
use super::budgets::{Budgets, Over};
use super::caller::Caller;
use super::config::{GridPolicy, NodeConfig};
use super::contents::{Contents, Source};
use super::counters::{Count, Counters};
use super::disk::DiskTier;
use super::enrol::{Enrolled, Residents};
use super::hot::{HotTier, Known};
use super::leaving::{Connected, Leaving};
use super::places::Places;
use super::refusal::Refusal;
use super::sending::{STREAM_BYTES, Sending, charged};
use super::uploads::Uploads;
use crate::asset::{AssetKey, AssetKind, Digest};
use crate::catalog::{Catalog, CatalogError, Health, KeyHash, Row};
use crate::grid::{GridId, Origin};
use crate::publication::{self, Attestation, Policy, Reader, Record, Tag};
use crate::store::blobs::{Abilities, Blobs, StoreError};
use crate::store::keys::KeyRing;
use crate::store::records;
use crate::store::tags::{self, Purpose};
use crate::support::addresses::is_public;
use crate::support::process::Meter;
use crate::upkeep::HOLD_DAYS;
use crate::wire::frame::{Call, Found, Reply};
use crate::wire::groups::GROUP_BYTES;
use crate::wire::{OriginHash, WHOLE_BYTES};

mod writing;

/// How long a record read from the catalog is believed. Take-downs reach every node within this.
const RECORD_FRESH: Duration = Duration::from_secs(5);
/// How long it may still be served while the catalog is away. A node cut off from the catalog learns of
/// no take-down, so this has an end.
const RECORD_STALE: Duration = Duration::from_secs(600);
/// Proofs checked at once; each may be of the largest asset.
const PROOFS: usize = 4;
/// Principals whose pace is remembered, and again as many.
const MAX_WRITERS: usize = 20_000;
/// How often the log says that the catalog is away.
const CATALOG_WARNING: Duration = Duration::from_secs(10);
/// A store or a catalog that takes longer for a look at it is told of as one that does not answer: a director waits
/// for a second.
const BEHIND_PATIENCE: Duration = Duration::from_millis(600);

/// A reply with the body that follows it.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) body: Body,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, body: Body::default() }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Reply::from(refusal).into()
    }
}

/// What of an asset is read.
#[derive(Clone, Copy)]
pub(super) enum Want<'a> {
    /// Only what it is.
    Nothing,
    /// All of it, or the groups that hold these bytes; hashes of all groups before it when it is large.
    Groups(Option<(u64, u64)>),
    /// These bytes, of this content of so many in all; nothing for all of them.
    Exactly(&'a (dyn Fn(Digest, u64) -> Option<Range<u64>> + Sync)),
}

/// A request in progress; the node does not end before it.
pub(super) struct Running(Arc<Service>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.counters.left() {
            self.0.quiet.notify_waiters();
        }
    }
}

/// The node's functions.
pub(super) struct Service {
    pub(super) config: NodeConfig,
    access: Access,
    budgets: Arc<Budgets>,
    pub(super) catalog: Arc<dyn Catalog>,
    abilities: Abilities,
    pub(super) contents: Arc<Contents>,
    pub(super) counters: Arc<Counters>,
    uploads: Uploads,
    sending: Sending,
    pub(super) leaving: Leaving,
    pub(super) places: Places,
    quiet: Notify,
    started: Instant,
    touched: Mutex<HashSet<(KeyHash, u32)>>,
    meter: Meter,
    catalog_warned: Mutex<Option<Instant>>,
    proving: Semaphore,
    writers: Mutex<Generations<Arc<str>, Ahead>>,
    /// It did not answer when it was last asked.
    catalog_away: AtomicBool,
}

impl Service {
    pub(super) fn new(
        config: NodeConfig,
        access: Access,
        catalog: Arc<dyn Catalog>,
        blobs: Blobs,
        ring: KeyRing,
        disk: Option<DiskTier>,
        abilities: Abilities,
    ) -> Self {
        let counters = Arc::new(Counters::default());
        let hot = HotTier::new(config.memory_bytes);
        let most = config.protection.connections_per_address.map(|most| most as usize);
        Self {
            contents: Arc::new(Contents::new(blobs, ring, hot, disk, Arc::clone(&counters))),
            config,
            budgets: access.budgets(),
            access,
            catalog,
            abilities,
            counters,
            uploads: Uploads::new(),
            sending: Sending::new(),
            leaving: Leaving::default(),
            places: Places::new(most),
            quiet: Notify::new(),
            started: Instant::now(),
            touched: Mutex::default(),
            meter: Meter::default(),
            catalog_warned: Mutex::default(),
            proving: Semaphore::new(PROOFS),
            writers: Mutex::new(Generations::new(MAX_WRITERS)),
            catalog_away: AtomicBool::new(false),
        }
    }

    /// Whether a connection from this address is served at all.
    pub(super) fn admits_connection(&self, from: IpAddr) -> bool {
        self.counters.count(Count::Connections);
        (self.config.is_public() || !is_public(from)) && self.access.admits_connection(from)
    }

    /// The same for a handshake whose sender may not be at this address; if not it must show that it is.
    pub(super) fn admits_unproven(&self, from: IpAddr) -> bool {
        (self.config.is_public() || !is_public(from)) && self.access.admits_unproven(from)
    }

    /// Counts a connection for as long as it is open.
    pub(super) fn connected(self: &Arc<Self>) -> Connected {
        Connected::new(Arc::clone(self))
    }

    /// Begins a request; `None` once the node is going.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Running> {
        self.counters.entered();
        let running = Running(Arc::clone(self));
        (!self.is_draining()).then_some(running)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.leaving.is_said()
    }

    /// Takes no new requests from now on.
    pub(super) fn close(&self) {
        self.leaving.begin();
    }

    /// Waits until no request runs.
    pub(super) async fn idle(&self) {
        loop {
            let quiet = self.quiet.notified();
            if self.counters.running() == 0 {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(200), quiet).await;
        }
    }

    /// Counts a request of nobody in particular.
    ///
    /// # Errors
    /// When there are too many of them from this address.
    pub(super) fn stranger(&self, from: IpAddr) -> Result<(), Refusal> {
        self.access.stranger(from).inspect_err(|_| self.counters.count(Count::AddressesLimited))
    }

    pub(super) fn note_malformed(&self) {
        self.counters.count(Count::Malformed);
    }

    /// Who makes a request. With `secure` nobody on the way could read it.
    pub(super) async fn authenticate(
        &self,
        token: Option<&str>,
        from: IpAddr,
        secure: bool,
    ) -> Result<Caller, Refusal> {
        let found = self.access.authenticate(token, from, secure, &*self.catalog, now()).await;
        if found.is_err() {
            self.counters.count(Count::Unauthenticated);
        }
        found.and_then(|caller| self.paced(caller, from))
    }

    /// Counts a request of somebody who reads without a token, where the operator has set a pace for these.
    fn paced(&self, caller: Caller, from: IpAddr) -> Result<Caller, Refusal> {
        if self.access.is_paced(&caller) {
            self.stranger(from)?;
        }
        Ok(caller)
    }

    /// Whether a caller known from before is still let in, now from this address.
    pub(super) fn recognise(&self, caller: &Caller, from: IpAddr) -> Result<Caller, Refusal> {
        self.access.still_holds(caller, now())?;
        let account = caller.account.clone();
        self.paced(Caller { account, ..Caller::new(Arc::clone(&caller.who), from) }, from)
    }

    /// Reads what was revoked since the last time.
    pub(super) async fn poll_revocations(&self) {
        if let Err(error) = self.access.poll(&*self.catalog).await {
            self.counters.count(Count::RevocationsUnread);
            tracing::warn!(%error, "the catalog does not say what was revoked; the last list stands");
        }
    }

    /// What a proxy needs to know before it has a token.
    pub(super) fn introduction(&self) -> Value {
        json!({
            "audience": self.access.audience(),
            "enroll": self.access.residents().is_some_and(Residents::is_open),
            "join": self.access.takes_members(),
            "abuse_contact": self.config.abuse_contact,
            "time": now(),
        })
    }

    /// What a proxy has to sign to enrol.
    pub(super) fn challenge(&self, from: IpAddr) -> Result<Value, Refusal> {
        self.access.attempt(from)?;
        let residents = self.access.residents().ok_or_else(no_enrolment)?;
        let challenge = residents.challenge(now(), rand::random());
        Ok(json!({ "challenge": challenge, "audience": self.access.audience() }))
    }

    /// Takes a proxy's own key in.
    pub(super) async fn enrol(
        &self,
        public: &[u8; 32],
        challenge: &str,
        signature: &[u8],
        (token, secure): (Option<&str>, bool),
        from: IpAddr,
    ) -> Result<Enrolled, Refusal> {
        self.access.attempt(from)?;
        let residents = self.access.residents().ok_or_else(no_enrolment)?;
        let (audience, catalog) = (self.access.audience(), &*self.catalog);
        let member = self.access.joins_by(token, from, secure, catalog, now()).await?;
        let enrolled =
            residents.enrol(catalog, audience, public, challenge, signature, member, from, now()).await?;
        if enrolled.new {
            self.counters.count(Count::Enrolments);
        }
        Ok(enrolled)
    }

    /// Everything but bodies and take-downs.
    pub(super) async fn perform(&self, caller: &Caller, call: &Call) -> Answer {
        let answered = match call {
            Call::Read { key, origin, range, head_only } => {
                let want = if *head_only { Want::Nothing } else { Want::Groups(*range) };
                self.read(caller, key, *origin, want).await
            }
            Call::Lookup { grid, origin, assets } => self.lookup(caller, grid, *origin, assets).await,
            Call::Attest { key, origin, digest, proof } => {
                self.attest(caller, key, *origin, *digest, *proof).await
            }
            Call::Put { .. } => Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "the body is missing")),
        };
        answered.unwrap_or_else(|refusal| {
            self.counters.count(Count::Refused);
            refusal.into()
        })
    }

    /// Reads an asset, or says why not.
    pub(super) async fn asset(
        &self,
        caller: &Caller,
        key: &AssetKey,
        origin: Option<OriginHash>,
        want: Want<'_>,
    ) -> Answer {
        self.read(caller, key, origin, want).await.unwrap_or_else(|refusal| {
            self.counters.count(Count::Refused);
            refusal.into()
        })
    }

    async fn read(
        &self,
        caller: &Caller,
        key: &AssetKey,
        origin: Option<OriginHash>,
        want: Want<'_>,
    ) -> Result<Answer, Refusal> {
        caller.may_read()?;
        self.counters.count(Count::Reads);
        if !caller.knows(&key.grid) {
            return Ok(Reply::Absent.into());
        }
        let hash = self.key_hash(key);
        self.ask(caller, &[hash])?;
        let record = self.records(&[hash]).await?.into_iter().next().flatten();
        let reader = self.reader(caller, &hash, origin);
        let served =
            record.and_then(|record| publication::answer(&record, reader, self.policy(&key.grid), now()));
        let Some(served) = served else {
            self.missed(caller, &hash);
            return Ok(Reply::Absent.into());
        };
        let total = served.size;
        let mut found = Found {
            digest: served.digest,
            total,
            first: 0,
            length: 0,
            grouped: false,
            verify: served.verify,
        };
        let range = match want {
            Want::Nothing => return Ok(Reply::Found(found).into()),
            Want::Groups(Some((first, end))) if total > WHOLE_BYTES => {
                let group = GROUP_BYTES as u64;
                let first = first.min(total.saturating_sub(1)) / group * group;
                first..end.min(total).max(first + 1).div_ceil(group).saturating_mul(group).min(total)
            }
            Want::Groups(_) => 0..total,
            Want::Exactly(choose) => {
                choose(served.digest, total).filter(|range| range.end <= total).unwrap_or(0..total)
            }
        };
        // Before anything is fetched: whoever has used up its budget costs the store nothing.
        self.transfer(caller, range.end.saturating_sub(range.start))?;
        let Some(source) = self.contents.get(served.digest, total).await? else {
            return Ok(Reply::Absent.into());
        };
        self.counters.count(Count::Hits);
        self.touch(hash);
        (found.first, found.length) = (range.start, range.end.saturating_sub(range.start));
        found.grouped = matches!(want, Want::Groups(_)) && total > WHOLE_BYTES;
        self.counters.add(Count::BytesOut, found.length);
        let body = match source {
            Source::Small(content) => {
                // A part keeps all of it in memory.
                let taken = self.sending.charge(caller.key(), content.bytes.len() as u64)?;
                let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(content.bytes.len());
                let hashes = if found.grouped { content.group_hashes() } else { Bytes::new() };
                let bytes = content.bytes.slice(index(range.start)..index(range.end));
                Body { hashes, bytes: charged(bytes, taken), stream: None }
            }
            Source::Large(large) => {
                let taken = self.sending.charge(caller.key(), found.length.min(STREAM_BYTES))?;
                let hashes = if found.grouped { large.group_hashes() } else { Bytes::new() };
                let mut stream = large.stream(range, caller.key()).await?;
                stream.keep(taken);
                Body { hashes, bytes: Bytes::new(), stream: Some(stream) }
            }
        };
        Ok(Answer { reply: Reply::Found(found), body })
    }

    async fn lookup(
        &self,
        caller: &Caller,
        grid: &GridId,
        origin: Option<OriginHash>,
        assets: &[(AssetKind, crate::asset::AssetId)],
    ) -> Result<Answer, Refusal> {
        caller.may_read()?;
        self.counters.count(Count::Lookups);
        if !caller.knows(grid) {
            return Ok(Reply::Sizes(vec![None; assets.len()]).into());
        }
        let hashes: Vec<KeyHash> = assets
            .iter()
            .map(|(kind, id)| self.key_hash(&AssetKey { grid: grid.clone(), kind: *kind, id: *id }))
            .collect();
        self.ask(caller, &hashes)?;
        let records = self.records(&hashes).await?;
        let policy = self.policy(grid);
        let sizes = hashes
            .iter()
            .zip(records)
            .map(|(hash, record)| {
                let reader = self.reader(caller, hash, origin);
                let served = record.and_then(|record| publication::answer(&record, reader, policy, now()));
                if served.is_none() {
                    self.missed(caller, hash);
                }
                served.map(|served| (served.size, served.digest))
            })
            .collect();
        Ok(Reply::Sizes(sizes).into())
    }

    /// Counts assets against the caller's budget.
    fn ask(&self, caller: &Caller, hashes: &[KeyHash]) -> Result<(), Refusal> {
        let Some(account) = &caller.account else { return Ok(()) };
        self.budgets.assets(account, &caller.who.limits, hashes, now()).map_err(|over| {
            self.counters.count(match over {
                Over::Budget(_) => Count::OverBudget,
                Over::Guessing(_) => Count::Guessing,
            });
            over.into()
        })
    }

    /// Counts bytes against the caller's budget.
    fn transfer(&self, caller: &Caller, bytes: u64) -> Result<(), Refusal> {
        let Some(account) = &caller.account else { return Ok(()) };
        let counted = self.budgets.bytes(account, &caller.who.limits, bytes, now());
        counted.inspect_err(|_| self.counters.count(Count::OverBudget))
    }

    /// An asset was asked for in vain: an honest proxy attests it soon. Whoever may not attest cannot be
    /// judged by that, nor anybody while the catalog is away.
    fn missed(&self, caller: &Caller, hash: &KeyHash) {
        let judged = caller.who.rights.write && !self.catalog_away.load(Ordering::Relaxed);
        if let Some(account) = caller.account.as_ref().filter(|_| judged) {
            self.budgets.missed(account, hash, now());
        }
    }

    fn attested(&self, caller: &Caller, hash: &KeyHash) {
        if let Some(account) = &caller.account {
            self.budgets.attested(account, hash);
        }
    }

    /// Begins to go, when the caller may say so.
    pub(super) fn drain(&self, caller: &Caller) -> Result<(), Refusal> {
        caller.may_administer(None)?;
        self.close();
        Ok(())
    }

    /// Whether requests are worth sending here.
    pub(super) async fn is_ready(&self) -> bool {
        !self.is_draining()
    }

    /// Whether the store's marker can be read and opened. A store that hangs does not hold up the report: it does not
    /// answer, and who asks has little patience.
    async fn canary(&self) -> bool {
        let reading = self.contents.blobs.check_keys(&self.contents.ring);
        match tokio::time::timeout(BEHIND_PATIENCE, reading).await {
            Ok(Ok(())) => true,
            Ok(Err(StoreError::Key { .. })) => {
                self.counters.count(Count::StoreMismatches);
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// The load report.
    pub(super) async fn report(&self, caller: &Caller) -> Result<Value, Refusal> {
        caller.may_observe()?;
        let health = async {
            let health = tokio::time::timeout(BEHIND_PATIENCE, self.catalog.health()).await;
            let none = Health { engine: self.catalog.engine(), primary: false, standby: None, waiting: 0 };
            health.unwrap_or(none)
        };
        let (catalog, canary) = tokio::join!(health, self.canary());
        let counters = &self.counters;
        Ok(json!({
            "uptime_s": self.started.elapsed().as_secs(),
            "draining": self.is_draining(),
            "requests_running": counters.running(),
            "requests_per_s": counters.rate(),
            "hit_ratio": counters.hit_ratio(),
            "memory": {
                "hot_bytes": self.contents.hot.bytes(),
                "hot_limit": self.config.memory_bytes,
                "records": self.contents.hot.records(),
                "sending_bytes": self.sending.bytes(),
                "records_bytes": self.contents.hot.record_bytes(),
            },
            "disk": self.contents.disk.as_ref().map(|disk| {
                json!({ "hot_bytes": disk.bytes(), "hot_limit": self.config.hot_bytes })
            }),
            "bytes": { "in": counters.get(Count::BytesIn), "out": counters.get(Count::BytesOut) },
            "store": { "url": self.contents.blobs.url(), "canary": canary, "abilities": self.abilities },
            "catalog": catalog,
            "connections_open": counters.connections(),
            "uploads": self.uploads.report(),
            "process": self.meter.usage(),
            "counters": counters.all(),
        }))
    }

    /// The metrics as Prometheus reads them.
    pub(super) fn metrics(&self, caller: &Caller) -> Result<String, Refusal> {
        caller.may_observe()?;
        let usage = self.meter.usage();
        Ok(self.counters.prometheus(&[
            ("draining", u64::from(self.is_draining())),
            ("hot_bytes", self.contents.hot.bytes()),
            ("hot_records", self.contents.hot.records() as u64),
            ("hot_records_bytes", self.contents.hot.record_bytes()),
            ("disk_bytes", self.contents.disk.as_ref().map_or(0, |disk| disk.bytes())),
            ("uploads_memory_bytes", self.uploads.memory_bytes()),
            ("sending_memory_bytes", self.sending.bytes()),
            ("process_memory_bytes", usage.map_or(0, |usage| usage.memory_bytes)),
            ("process_cpu_milliseconds", usage.map_or(0, |usage| usage.cpu_ms)),
        ]))
    }

    /// Destroys what was taken down long ago. Any node may; what another was faster with is gone.
    pub(super) async fn keep_house(&self, now: u64) {
        self.sweep_disk().await;
        let until = now.saturating_sub(HOLD_DAYS * 86_400);
        match self.contents.blobs.destroy_held(until).await {
            Ok((0, _)) => {}
            Ok((blobs, _)) => {
                tracing::info!(blobs, "destroyed what was taken down {HOLD_DAYS} days ago");
                let detail = format!("{blobs} blobs of the hold destroyed");
                if let Err(error) = self.catalog.audit(now, "prune".into(), detail).await {
                    tracing::warn!(%error, "it was not written down");
                }
            }
            Err(error) => tracing::warn!(%error, "the hold cannot be cleared"),
        }
    }

    /// Writes what is written in batches.
    pub(super) async fn flush(&self) {
        self.budgets.sweep(now());
        self.meter.tick();
        let uses = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        if !uses.is_empty()
            && let Err(error) = self.catalog.touch(uses.into_iter().collect()).await
        {
            tracing::debug!(%error, "the days of last use were not written");
        }
    }

    fn touch(&self, hash: KeyHash) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        // What is lost is a day's note of use, which the next read writes again.
        if touched.len() < 10_000 {
            touched.insert((hash, day(now())));
        }
    }

    async fn records(&self, hashes: &[KeyHash]) -> Result<Vec<Option<Arc<Record>>>, Refusal> {
        let mut found: Vec<Option<Known>> =
            hashes.iter().map(|hash| self.contents.hot.record(hash, RECORD_FRESH)).collect();
        let missing: Vec<KeyHash> =
            hashes.iter().zip(&found).filter(|(_, known)| known.is_none()).map(|(hash, _)| *hash).collect();
        if !missing.is_empty() {
            match self.catalog.read(missing.clone()).await {
                Ok(rows) => {
                    self.catalog_away.store(false, Ordering::Relaxed);
                    let mut known = self.note(&missing, rows).await.into_iter();
                    for place in found.iter_mut().filter(|place| place.is_none()) {
                        *place = Some(known.next().flatten());
                    }
                }
                Err(error) => {
                    let refusal = self.catalog_fails(&error);
                    for (hash, place) in hashes.iter().zip(&mut found).filter(|(_, place)| place.is_none()) {
                        *place = self.contents.hot.record(hash, RECORD_STALE);
                        self.counters.add(Count::StaleRecords, u64::from(place.is_some()));
                    }
                    // Of several, those that are known are worth an answer.
                    if found.iter().all(Option::is_none) {
                        return Err(refusal);
                    }
                }
            }
        }
        Ok(found.into_iter().map(Option::flatten).collect())
    }

    /// Keeps what the catalog has just said of these keys.
    pub(super) async fn note(&self, hashes: &[KeyHash], rows: Vec<Option<Row>>) -> Vec<Known> {
        let mut known = Vec::with_capacity(rows.len());
        for (hash, row) in hashes.iter().zip(rows) {
            let record = row.and_then(|row| self.opened(hash, &row.record)).map(Arc::new);
            let before = self.contents.hot.keep_record(*hash, record.clone());
            self.follow_take_down(before, record.as_deref()).await;
            known.push(record);
        }
        known
    }

    /// Says so in the log, but not for each of thousands of requests.
    pub(super) fn catalog_fails(&self, error: &CatalogError) -> Refusal {
        self.counters.count(Count::CatalogFailures);
        self.catalog_away.store(true, Ordering::Relaxed);
        let mut warned = self.catalog_warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|last| last.elapsed() >= CATALOG_WARNING) {
            *warned = Some(Instant::now());
            tracing::warn!(%error, "the catalog fails; uploads are refused, and reads go on from memory");
        }
        Refusal::unavailable()
    }

    /// A record out of the catalog. One that cannot be read is nobody's word.
    pub(super) fn opened(&self, hash: &KeyHash, sealed: &[u8]) -> Option<Record> {
        let read = records::read(&self.contents.ring, hash, sealed);
        if let Err(error) = &read {
            self.counters.count(Count::RecordsUnreadable);
            tracing::error!(%error, "a record of the catalog cannot be read; `rezcache store verify` tells more");
        }
        read.ok()
    }

    fn attestation(
        &self,
        caller: &Caller,
        key: &AssetKey,
        hash: &KeyHash,
        origin: Option<OriginHash>,
    ) -> Attestation {
        let now = now();
        let hosts = self.grid_policy(&key.grid).map_or(&[][..], |grid| &grid.asset_hosts);
        let listed = |origin: OriginHash| {
            hosts.iter().any(|host| OriginHash::of(&key.grid, &Origin::new(host)) == origin)
        };
        Attestation {
            attester: self.tag(Purpose::Attester, hash, caller.who.principal.as_bytes()),
            network: self.tag(Purpose::Network, hash, caller.network.to_string().as_bytes()),
            ipv6: caller.network.is_ipv6(),
            tenant: self.tag(Purpose::Tenant, hash, caller.who.tenant.as_bytes()),
            origin: origin.map(|origin| self.tag(Purpose::Origin, hash, &origin.0)),
            at: now,
            counts_from: caller.who.counts_from.max(now),
            trusted: caller.who.trusted,
            vouch: caller.who.rights.vouch,
            asset_host: origin.is_some_and(listed),
            unproven: None,
        }
    }

    fn reader(&self, caller: &Caller, hash: &KeyHash, origin: Option<OriginHash>) -> Reader {
        Reader {
            trusted_tenant: caller
                .who
                .trusted
                .then(|| self.tag(Purpose::Tenant, hash, caller.who.tenant.as_bytes())),
            origin: origin.map(|origin| self.tag(Purpose::Origin, hash, &origin.0)),
        }
    }

    fn tag(&self, purpose: Purpose, hash: &KeyHash, what: &[u8]) -> Tag {
        tags::tag(&self.contents.ring, purpose, hash, what)
    }

    pub(super) fn key_hash(&self, key: &AssetKey) -> KeyHash {
        tags::asset(&self.contents.ring, key)
    }

    fn grid_policy(&self, grid: &GridId) -> Option<&GridPolicy> {
        self.config.grids.iter().find(|policy| policy.id == *grid)
    }

    fn policy(&self, grid: &GridId) -> Policy {
        self.config.policy(grid)
    }
}

fn no_enrolment() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "proxies do not enrol here; ask the operator for a token")
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

pub(super) fn day(now: u64) -> u32 {
    u32::try_from(now / 86_400).unwrap_or(u32::MAX)
}
