//! The service tier: what the shared cache is asked, how long anybody waits for it, and what is done
//! when it is away or wrong. The decisions are `fetch::service_plan`'s; here they meet the network.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};

use super::grid_port::GridPort;
use super::learn::Target;
use crate::asset::{AssetKey, Digest};
use crate::cache::LocalCache;
use crate::client::address::ServerAddress;
use crate::client::credentials::{Credentials, CredentialsError};
use crate::client::{CallError, Face, ServiceClient, Way};
use crate::fetch::service_plan::{Advice, ServicePlan, Standing, WhyGrid};
use crate::fetch::sharing::{is_private_host, may_share};
use crate::grid::GridId;
use crate::redact::Redacted;
use crate::support::metrics::{Counter, Metrics};
use crate::token::join::{JoinLine, Pin};
use crate::wire::OriginHash;

mod attempt;
mod doubt;
mod lookups;
mod serve;
mod slot;

pub(super) use attempt::{Alone, Opened};
use doubt::{Condemned, Doubt};
use lookups::Lookups;
pub(super) use serve::{Sink, head};
pub(super) use slot::{Bound, Slot};

/// Of so many hits one is compared with the grid.
pub const SPOT_CHECK: u32 = 200;
/// Reads of the service at a time; what comes beyond is looked up together first.
const MAX_READS: usize = 64;
/// Whole assets fetched behind a viewer's back, after it was served a part.
const MAX_BACKFILLS: usize = 2;
/// Comparisons with the grid at a time.
const MAX_CHECKS: usize = 4;
/// A service that takes longer than this to answer a probe is not there.
const PROBE_PATIENCE: Duration = Duration::from_secs(3);
/// How long a service that refuses us is left alone, at least and at most.
const REFUSED_FOR: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A service to use.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Where it is.
    pub address: ServerAddress,
    /// What it knows us by.
    pub token: Option<Redacted<String>>,
    /// What a household's server takes our own key in by; it is recognised by the first of the pins,
    /// wherever it is.
    pub join: Option<Redacted<String>>,
    /// Of so many hits one is compared with the grid; 0 for none.
    pub spot_check: u32,
    /// No request is held for less than this, however fast the service usually is. Zero but in tests
    /// and replays, where machines stand still for longer than services do.
    pub least_deadline: Duration,
}

impl ServiceConfig {
    /// A server of a household.
    #[must_use]
    pub fn joined(line: &JoinLine, spot_check: u32) -> Self {
        Self {
            address: ServerAddress::at(line.address, &line.pin),
            token: None,
            join: Some(line.token.clone()),
            spot_check,
            least_deadline: Duration::ZERO,
        }
    }

    /// The key by which a household's server is recognised.
    fn pin(&self) -> Option<Pin> {
        self.join.as_ref().and(self.address.pins.first()).and_then(|pin| pin.parse().ok())
    }
}

/// What one read of the service is about: an asset, as it comes from one origin.
type ReadKey = (AssetKey, OriginHash);

/// The service and all that is known of it.
pub(super) struct ServiceTier {
    client: RwLock<Arc<ServiceClient>>,
    credentials: Credentials,
    /// A household's server, which may turn up elsewhere.
    pin: Option<Pin>,
    plan: Mutex<ServicePlan<ReadKey>>,
    metrics: Arc<Metrics>,
    reads: Arc<Semaphore>,
    backfills: Arc<Semaphore>,
    /// What is being backfilled.
    filling: Mutex<HashSet<ReadKey>>,
    checks: Arc<Semaphore>,
    lookups: Lookups,
    doubt: Doubt,
    changed: Notify,
    standing: watch::Sender<Standing>,
    refusal_told: AtomicBool,
    /// It has not let us in since it last did.
    refused: AtomicBool,
    /// Requests that went on to another node, as far as they are counted.
    failovers: AtomicU64,
}

impl ServiceTier {
    /// A tier in front of this service, which is probed before it is asked anything.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(
        config: ServiceConfig,
        data_dir: &Path,
        cache: LocalCache,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CallError> {
        let pin = config.pin();
        let own = |own: Result<Credentials, CredentialsError>| {
            own.unwrap_or_else(|error| {
                tracing::warn!(%error, "no key of our own; services that ask for one refuse us");
                Credentials::nobody()
            })
        };
        let credentials = match (&config.token, &config.join, &pin) {
            (Some(token), _, _) => Credentials::token(token.reveal()).ok_or(CallError::NotAToken)?,
            (None, Some(join), Some(pin)) => own(Credentials::joined(data_dir, pin, join)),
            // Without a token the proxy has a key of its own, for services where residents may enrol.
            _ => own(Credentials::own(data_dir, &config.address)),
        };
        let name = pin.as_ref().map_or_else(|| config.address.authority(), ToString::to_string);
        let doubt = Doubt::new(name, config.spot_check, data_dir, cache);
        let mut plan = ServicePlan::new(Instant::now(), config.least_deadline);
        if doubt.is_proven() {
            plan.distrust();
        }
        let tier = Self {
            client: RwLock::new(Arc::new(ServiceClient::with_credentials(
                config.address,
                credentials.clone(),
            )?)),
            credentials,
            pin,
            standing: watch::Sender::new(plan.standing()),
            plan: Mutex::new(plan),
            metrics,
            reads: Arc::new(Semaphore::new(MAX_READS)),
            backfills: Arc::new(Semaphore::new(MAX_BACKFILLS)),
            filling: Mutex::default(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            lookups: Lookups::default(),
            doubt,
            changed: Notify::new(),
            refusal_told: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            failovers: AtomicU64::new(0),
        };
        tier.tell();
        Ok(tier)
    }

    /// The client of now.
    pub(super) fn client(&self) -> Arc<ServiceClient> {
        Arc::clone(&self.client.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the service is called where something is remembered of it: its key, if it may turn up elsewhere,
    /// or its address.
    pub(super) fn name(&self) -> String {
        self.pin.as_ref().map_or_else(|| self.client().address().authority(), ToString::to_string)
    }

    /// The key by which a household's server is recognised.
    pub(super) const fn pin(&self) -> Option<&Pin> {
        self.pin.as_ref()
    }

    /// Where a household's server was found: it is probed there before it is asked anything.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn move_to(&self, address: ServerAddress) -> Result<(), CallError> {
        let moved = Arc::new(ServiceClient::with_credentials(address, self.credentials.clone())?);
        {
            let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
            *client = moved;
            // It begins to count anew.
            self.failovers.store(0, Ordering::Relaxed);
        }
        self.update(|plan| plan.moved(Instant::now()));
        self.changed.notify_one();
        Ok(())
    }

    /// How the service stands.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether the service has not been proven to give wrong bytes.
    pub(super) fn is_trusted(&self) -> bool {
        *self.standing.borrow() != Standing::Distrusted
    }

    /// Whether the service may hear of this grid's assets at all: by the grid's name, and by where that name
    /// leads.
    fn serves(&self, grid: &GridPort, target: &Target) -> bool {
        let client = self.client();
        let host = &client.address().host;
        may_share(&target.key.grid, host)
            && (!grid.reach.is_private() || is_private_host(host))
            && !self.doubt.is_suspended(&target.key.grid, &target.scope.origin)
    }

    /// Resolves when the service is known to work or not to, at the latest after `patience`.
    pub(super) async fn settled(&self, patience: Duration) {
        let mut standing = self.standing.subscribe();
        let _ = tokio::time::timeout(patience, standing.wait_for(|now| *now != Standing::Away)).await;
    }

    /// Whether the service does not let us in.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// It has let us in.
    fn accepted(&self) {
        self.refused.store(false, Ordering::Relaxed);
    }

    fn plan(&self) -> MutexGuard<'_, ServicePlan<ReadKey>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the plan, and lets everybody know who must.
    fn update(&self, change: impl FnOnce(&mut ServicePlan<ReadKey>)) {
        let standing = {
            let mut plan = self.plan();
            change(&mut plan);
            plan.standing()
        };
        let before = self.standing.send_replace(standing);
        if before != standing {
            match standing {
                Standing::Away => {
                    tracing::warn!("the cache service does not answer in time; going on without it")
                }
                Standing::Working => {
                    tracing::info!(service = %self.client().address(), "the cache service answers")
                }
                Standing::Distrusted => {}
            }
            self.changed.notify_one();
        }
        self.tell();
    }

    /// Puts the state where status and metrics find it.
    fn tell(&self) {
        let (standing, deadline) = {
            let plan = self.plan();
            (plan.standing(), plan.deadline(None))
        };
        let client = self.client();
        self.metrics.set_service(standing.name(), client.face() == Face::Quic, deadline);
        self.metrics.set_service_nodes(client.nodes());
        // As long as this is held, no other client comes that begins to count anew.
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        let failovers = client.failovers();
        // Whoever tells less meanwhile has only read it earlier.
        let before = self.failovers.fetch_max(failovers, Ordering::Relaxed);
        self.metrics.add(Counter::ServiceFailovers, failovers.saturating_sub(before));
    }

    /// Whether to ask the service for this; says how long to wait.
    fn advise(&self, key: &ReadKey, grid_median: Option<Duration>) -> Option<Duration> {
        let advice = self.plan().advise(key, grid_median, Instant::now());
        match advice {
            Advice::Ask(deadline) => Some(deadline),
            Advice::Grid(why) => {
                let counter = match why {
                    WhyGrid::Absent => Counter::ServiceKnownAbsent,
                    WhyGrid::Open | WhyGrid::Distrusted => Counter::ServiceAway,
                    WhyGrid::OverBudget => Counter::ServiceOverBudget,
                };
                self.metrics.count(counter);
                None
            }
        }
    }

    /// A call went wrong.
    fn failed(&self, error: &CallError) {
        match error {
            CallError::Refused { status, retry_after, .. } => {
                let pause = retry_after.unwrap_or(REFUSED_FOR.1);
                self.pause(pause);
                if matches!(status, 401 | 403) {
                    self.refused.store(true, Ordering::Relaxed);
                }
                if matches!(status, 401 | 403) && !self.refusal_told.swap(true, Ordering::Relaxed) {
                    let advice = match &self.pin {
                        Some(_) => "join again with the line that the server prints",
                        None => "check --token-file",
                    };
                    tracing::warn!(%error, "the cache service does not accept us; {advice}");
                }
            }
            CallError::Busy { retry_after } => self.pause(*retry_after),
            CallError::WrongBytes => self.metrics.count(Counter::ServiceWrongBytes),
            _ => self.metrics.count(Counter::ServiceFailures),
        }
    }

    fn pause(&self, pause: Duration) {
        self.metrics.count(Counter::ServiceBusy);
        let pause = pause.clamp(REFUSED_FOR.0, REFUSED_FOR.1);
        self.update(|plan| plan.pause(Instant::now() + pause));
    }

    /// A grid delivered `digest` for this: it is held against what the service said.
    pub(super) fn grid_says(self: &Arc<Self>, target: &Target, digest: Digest) {
        if self.doubt.is_contradicted(target, digest) {
            self.proven_wrong(target);
        }
    }

    /// The service gave bytes that are not the grid's: nothing of it is used any more, or nothing for this
    /// origin.
    fn proven_wrong(self: &Arc<Self>, target: &Target) {
        let condemned = self.doubt.condemn(target);
        if condemned == Condemned::All {
            self.update(ServicePlan::distrust);
        }
        tokio::spawn(Arc::clone(self).drop_condemned(condemned));
    }

    /// Drops what came from what is condemned.
    async fn drop_condemned(self: Arc<Self>, condemned: Condemned) {
        let (tier, which) = (Arc::clone(&self), condemned.clone());
        let dropped = tokio::task::spawn_blocking(move || tier.doubt.drop_condemned(&which)).await;
        self.metrics.count(Counter::ServiceMismatches);
        let dropped = dropped.unwrap_or_default();
        let (service, marker) = (self.client().address().clone(), self.doubt.marker().display());
        match &condemned {
            Condemned::All => tracing::error!(
                %service, dropped, %marker,
                "the cache service gave bytes that differ from the grid's: it is not used any more, and what came \
                 from it is dropped; tell its operator, and remove the marker file to use it again"
            ),
            Condemned::Through(grid, origin) => tracing::warn!(
                %service, %grid, origin = origin.as_str(), dropped, %marker,
                "the cache service and this host of the grid differ on an asset: the service is not asked for what \
                 comes through this host any more; tell its operator, and remove the marker file to ask again"
            ),
        }
        self.doubt.finish(&condemned).await;
    }

    /// Probes the service while it is away, and QUIC while that is. Runs for the tier's whole life.
    pub(super) async fn look_after(self: Arc<Self>) {
        if let Some(condemned) = self.doubt.left_over() {
            Arc::clone(&self).drop_condemned(condemned).await;
        }
        loop {
            let probe_at = self.plan().probe_at();
            let quic_at = self.client().quic_retry_at();
            let next = match (probe_at, quic_at) {
                (Some(probe), Some(quic)) => Some(probe.min(quic)),
                (one, other) => one.or(other),
            };
            match next {
                None => {
                    // QUIC may begin to fail while the service as a whole still answers.
                    let _ = tokio::time::timeout(Duration::from_secs(5), self.changed.notified()).await;
                }
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = self.changed.notified() => continue,
                    }
                }
            }
            if probe_at.is_some_and(|at| at <= Instant::now()) {
                self.probe().await;
            } else if quic_at.is_some_and(|at| at <= Instant::now()) {
                self.client().retry_quic().await;
                self.tell();
            }
        }
    }

    async fn probe(&self) {
        let mut took = self.probe_once().await;
        if took.is_none() && self.client().face() == Face::Quic {
            // Where UDP is blocked nothing ever comes back: the other face says whether it is that.
            self.client().give_up_quic();
            took = self.probe_once().await;
        }
        self.update(|plan| {
            plan.probed(took, Instant::now());
        });
    }

    /// How long the service takes to answer; `None` when it does not.
    async fn probe_once(&self) -> Option<Duration> {
        let grid = GridId::new("probe");
        let mut took = None;
        let client = self.client();
        // The first call may have to connect; the second tells how far the service is.
        for _ in 0..2 {
            let asked = Instant::now();
            // One node that does not answer is not the service: another can still be in time.
            let way = Way { central: false, patience: self.plan().probe_limit() * 2 / 3 };
            let answer = client.lookup_by(&way, &grid, None, Vec::new());
            match tokio::time::timeout(PROBE_PATIENCE, answer).await {
                Ok(Ok(_)) => {
                    took = Some(asked.elapsed());
                    if took <= Some(self.plan().probe_limit()) {
                        break;
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the cache service does not answer a probe");
                    if !error.is_failure() {
                        self.failed(&error);
                        return Some(asked.elapsed());
                    }
                    return None;
                }
                Err(_) => return None,
            }
        }
        took
    }
}
