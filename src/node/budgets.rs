//! How much a principal may use. What it uses is counted where it is served; only now and then a node takes
//! a slice of the budget from the catalog, beside the request, so that a read never waits for it. While the
//! catalog is away a part of the budget may be used on each node.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::StatusCode;

use super::bounded::{Ahead, Generations, Pace};
use super::refusal::Refusal;
use crate::catalog::{Catalog, KeyHash};
use crate::store::keys::KeyRing;
use crate::token;

const HOUR: u64 = 3600;
const DAY: u64 = 86_400;
/// What is stored may lie unused for a year; what a principal brought counts as long.
const YEAR: u64 = 365 * DAY;
/// A slice of a budget that a node takes at once.
const SLICE: u64 = 40;
/// The part of a budget that a node lets pass before the catalog has answered.
const OVERDRAFT: u64 = 4;
/// How long the catalog is not asked again after it did not answer.
const AWAY: u64 = 5;
/// Principals remembered, and again as many that were not seen lately.
const MAX_ACCOUNTS: usize = 20_000;
/// Assets remembered over all principals, to count each once an hour. Some 16 bytes each.
const MAX_REMEMBERED: u64 = 8_000_000;

/// The most a principal may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Distinct assets in an hour.
    pub assets_per_hour: u64,
    /// Distinct assets at once.
    pub burst: u64,
    /// Bytes of assets in a day, either way.
    pub bytes_per_day: u64,
    /// Bytes of assets brought in a year.
    pub stored_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { assets_per_hour: 20_000, burst: 5_000, bytes_per_day: 50 << 30, stored_bytes: 50 << 30 }
    }
}

impl Limits {
    /// These, unless a token says otherwise.
    #[must_use]
    pub(super) fn of(self, token: token::Budgets) -> Self {
        let assets_per_hour = token.assets_per_hour.unwrap_or(self.assets_per_hour);
        Self {
            assets_per_hour,
            // A small budget may be used at once; a large one needs to be said.
            burst: token.burst.unwrap_or_else(|| self.burst.min(assets_per_hour)),
            bytes_per_day: token.bytes_per_day.unwrap_or(self.bytes_per_day),
            stored_bytes: token.stored_bytes.unwrap_or(self.stored_bytes),
        }
    }
}

/// What is counted over all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Assets,
    Bytes,
    Stored,
}

impl Kind {
    const fn seconds(self) -> u64 {
        match self {
            Self::Assets => HOUR,
            Self::Bytes => DAY,
            Self::Stored => YEAR,
        }
    }

    const fn limit(self, limits: &Limits) -> u64 {
        match self {
            Self::Assets => limits.assets_per_hour,
            Self::Bytes => limits.bytes_per_day,
            Self::Stored => limits.stored_bytes,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Assets => "budget of assets",
            Self::Bytes => "budget of bytes",
            Self::Stored => "budget of stored bytes",
        }
    }

    const fn refusal(self) -> &'static str {
        match self {
            Self::Assets => "too many different assets in this hour",
            Self::Bytes => "too many bytes today",
            Self::Stored => "too many bytes stored",
        }
    }
}

/// One kind of use in one window of time.
#[derive(Debug, Default)]
struct Meter {
    window: u64,
    granted: u64,
    used: u64,
    /// The catalog has given less than was asked for: there is no more in this window.
    exhausted: bool,
    leasing: bool,
    away_until: u64,
}

/// What to do about a use.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    /// And this much should be asked of the catalog.
    YesAndLease(u64),
    No {
        wait: u64,
        /// Nobody knows yet: this much should be asked.
        lease: Option<u64>,
    },
}

impl Meter {
    fn take(&mut self, number: u64, seconds: u64, limit: u64, now: u64) -> Taken {
        let window = now / seconds;
        if self.window != window {
            *self = Self { window, away_until: self.away_until, ..Self::default() };
        }
        let slice = (limit / SLICE).max(1);
        let after = self.used.saturating_add(number);
        let left = self.granted.saturating_sub(after);
        let may_ask = !self.exhausted && !self.leasing && now >= self.away_until;
        let lease = (may_ask && left < slice / 4 + 1)
            .then(|| after.saturating_sub(self.granted).saturating_add(slice));
        self.leasing |= lease.is_some();
        let overdraft = if self.exhausted { 0 } else { (limit / OVERDRAFT).min(limit) };
        if after <= self.granted.saturating_add(overdraft).min(limit) {
            self.used = after;
            return lease.map_or(Taken::Yes, Taken::YesAndLease);
        }
        let rest = seconds - now % seconds;
        let wait = match (self.exhausted || after > limit, self.leasing) {
            (true, _) => rest,
            (false, true) => 1,
            (false, false) => rest.min(AWAY),
        };
        Taken::No { wait, lease }
    }

    fn given(&mut self, window: u64, wanted: u64, given: Option<u64>, now: u64) {
        if self.window != window {
            return;
        }
        self.leasing = false;
        match given {
            Some(given) => {
                self.granted = self.granted.saturating_add(given);
                self.exhausted = given < wanted;
            }
            None => self.away_until = now.saturating_add(AWAY),
        }
    }
}

#[derive(Default)]
struct State {
    pace: Ahead,
    assets: Meter,
    bytes: Meter,
    stored: Meter,
    hour: u64,
    seen: HashSet<u64>,
    /// Asked for in vain and not attested since.
    missed: HashSet<u64>,
}

impl State {
    fn meter(&mut self, kind: Kind) -> &mut Meter {
        match kind {
            Kind::Assets => &mut self.assets,
            Kind::Bytes => &mut self.bytes,
            Kind::Stored => &mut self.stored,
        }
    }

    fn turn(&mut self, now: u64, remembered: &AtomicU64) {
        if self.hour != now / HOUR {
            let forgotten = self.seen.len() + self.missed.len();
            remembered.fetch_sub(forgotten as u64, Ordering::Relaxed);
            self.hour = now / HOUR;
            self.seen = HashSet::new();
            self.missed = HashSet::new();
        }
    }
}

/// A principal's use on this node.
pub(super) struct Account {
    principal: Arc<str>,
    state: Mutex<State>,
    remembered: Arc<AtomicU64>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Account")
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let forgotten = state.seen.len() + state.missed.len();
        self.remembered.fetch_sub(forgotten as u64, Ordering::Relaxed);
    }
}

impl Account {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a budget refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Used up.
    Budget(Refusal),
    /// Too many misses that were nobody's assets.
    Guessing(Refusal),
}

impl From<Over> for Refusal {
    fn from(over: Over) -> Self {
        match over {
            Over::Budget(refusal) | Over::Guessing(refusal) => refusal,
        }
    }
}

fn later(reason: &'static str, wait: u64) -> Refusal {
    let wait = u32::try_from(wait.max(1)).unwrap_or(u32::MAX);
    Refusal::later(StatusCode::TOO_MANY_REQUESTS, reason, wait)
}

/// The budgets of all.
pub(super) struct Budgets {
    ring: KeyRing,
    catalog: Arc<dyn Catalog>,
    usual: Limits,
    accounts: Mutex<Generations<Arc<str>, Arc<Account>>>,
    remembered: Arc<AtomicU64>,
    started: Instant,
}

fn short(hash: &KeyHash) -> u64 {
    hash.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

impl Budgets {
    pub(super) fn new(ring: KeyRing, catalog: Arc<dyn Catalog>, usual: Limits) -> Self {
        Self {
            ring,
            catalog,
            usual,
            accounts: Mutex::new(Generations::new(MAX_ACCOUNTS)),
            remembered: Arc::default(),
            started: Instant::now(),
        }
    }

    pub(super) const fn usual(&self) -> Limits {
        self.usual
    }

    /// The account of a principal.
    pub(super) fn account(&self, principal: &Arc<str>) -> Arc<Account> {
        let make = || {
            Arc::new(Account {
                principal: Arc::clone(principal),
                state: Mutex::default(),
                remembered: Arc::clone(&self.remembered),
            })
        };
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.get_or_insert_with(Arc::clone(principal), make).map_or_else(make, |known| Arc::clone(known))
    }

    /// The account of an address, for those who have no other name.
    pub(super) fn account_of(&self, address: IpAddr) -> Arc<Account> {
        // No subject holds a space.
        self.account(&format!("address {address}").into())
    }

    /// Counts assets that are asked for or attested, each once an hour.
    ///
    /// # Errors
    /// When there are too many, or too many were asked for in vain.
    pub(super) fn assets(
        &self,
        account: &Arc<Account>,
        limits: &Limits,
        hashes: &[KeyHash],
        now: u64,
    ) -> Result<(), Over> {
        let mut state = account.lock();
        state.turn(now, &self.remembered);
        let mut new: Vec<u64> = hashes.iter().map(short).filter(|hash| !state.seen.contains(hash)).collect();
        new.sort_unstable();
        new.dedup();
        // What was asked for before may be asked for and attested again whatever else there was.
        if new.is_empty() {
            return Ok(());
        }
        if state.missed.len() as u64 >= (limits.assets_per_hour / 2).max(1) {
            let rest = HOUR - now % HOUR;
            return Err(Over::Guessing(later("too many assets that nobody has ever seen", rest)));
        }
        let clock = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let pace = Pace::new(limits.assets_per_hour, HOUR, limits.burst);
        let before = state.pace;
        pace.take(&mut state.pace, new.len() as u64, clock)
            .map_err(|wait| Over::Budget(later("too many different assets at once", wait.into())))?;
        if let Err(refusal) = self.take(account, &mut state, Kind::Assets, limits, new.len() as u64, now) {
            state.pace = before;
            return Err(Over::Budget(refusal));
        }
        // What cannot be remembered any more is counted each time.
        if self.remembered.load(Ordering::Relaxed) < MAX_REMEMBERED {
            self.remembered.fetch_add(new.len() as u64, Ordering::Relaxed);
            state.seen.extend(new);
        }
        Ok(())
    }

    /// Notes that an asset was asked for in vain.
    pub(super) fn missed(&self, account: &Account, hash: &KeyHash, now: u64) {
        let mut state = account.lock();
        state.turn(now, &self.remembered);
        if self.remembered.load(Ordering::Relaxed) < MAX_REMEMBERED && state.missed.insert(short(hash)) {
            self.remembered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that an asset asked for in vain was found elsewhere.
    pub(super) fn attested(&self, account: &Account, hash: &KeyHash) {
        if account.lock().missed.remove(&short(hash)) {
            self.remembered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts bytes that go one way or the other.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn bytes(
        &self,
        account: &Arc<Account>,
        limits: &Limits,
        number: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        self.take(account, &mut account.lock(), Kind::Bytes, limits, number, now)
    }

    /// Counts bytes that are stored.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn stored(
        &self,
        account: &Arc<Account>,
        limits: &Limits,
        number: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        self.take(account, &mut account.lock(), Kind::Stored, limits, number, now)
    }

    fn take(
        &self,
        account: &Arc<Account>,
        state: &mut State,
        kind: Kind,
        limits: &Limits,
        number: u64,
        now: u64,
    ) -> Result<(), Refusal> {
        let limit = kind.limit(limits);
        let taken = state.meter(kind).take(number, kind.seconds(), limit, now);
        let (answer, lease) = match taken {
            Taken::Yes => return Ok(()),
            Taken::YesAndLease(want) => (Ok(()), Some(want)),
            Taken::No { wait, lease } => (Err(later(kind.refusal(), wait)), lease),
        };
        if let Some(want) = lease {
            self.lease(account, kind, want, limit, now);
        }
        answer
    }

    /// Takes a slice from the catalog, beside the request.
    fn lease(&self, account: &Arc<Account>, kind: Kind, want: u64, limit: u64, now: u64) {
        let name = self.ring.keyed_hash(kind.name(), &[account.principal.as_bytes()]);
        let (catalog, account) = (Arc::clone(&self.catalog), Arc::clone(account));
        let window = now / kind.seconds();
        tokio::spawn(async move {
            let given = catalog.lease(name, window, want, limit).await;
            if let Err(error) = &given {
                tracing::debug!(%error, "no slice of a budget");
            }
            account.lock().meter(kind).given(window, want, given.ok(), now);
        });
    }

    /// Forgets what was remembered of past hours.
    pub(super) fn sweep(&self, now: u64) {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        for account in accounts.values() {
            account.lock().turn(now, &self.remembered);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Arc;

    use super::{Account, Budgets, HOUR, Limits, Meter, Over, Taken};
    use crate::catalog::{Catalog, SqliteCatalog};
    use crate::store::keys::KeyRing;

    const NOW: u64 = 1_800_000_000;
    const LIMITS: Limits =
        Limits { assets_per_hour: 400, burst: 400, bytes_per_day: 1000, stored_bytes: 1000 };

    fn hash(number: u64) -> [u8; 32] {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    fn node(catalog: &Arc<dyn Catalog>) -> (Budgets, Arc<Account>) {
        let budgets = Budgets::new(KeyRing::new([1; 32], [2; 32]), Arc::clone(catalog), LIMITS);
        let account = budgets.account(&"somebody".into());
        (budgets, account)
    }

    /// Lets the slices arrive that were asked for.
    async fn settle(account: &Account) {
        let waiting = || {
            let state = account.lock();
            state.assets.leasing || state.bytes.leasing || state.stored.leasing
        };
        while waiting() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_meter_uses_what_was_granted_and_asks_in_time() {
        let mut meter = Meter::default();
        let take = |meter: &mut Meter, number, now| meter.take(number, HOUR, 400, now);
        assert_eq!(take(&mut meter, 1, NOW), Taken::YesAndLease(11));
        assert_eq!(take(&mut meter, 99, NOW), Taken::Yes, "before the catalog has answered");
        assert!(matches!(take(&mut meter, 1, NOW), Taken::No { wait: 1, lease: None }));
        meter.given(NOW / HOUR, 11, None, NOW);
        assert!(matches!(take(&mut meter, 1, NOW + 4), Taken::No { wait: 5, lease: None }), "it is away");
        assert_eq!(take(&mut meter, 1, NOW + 5), Taken::No { wait: 1, lease: Some(111) });
        meter.given(NOW / HOUR, 111, Some(111), NOW + 5);
        assert_eq!(take(&mut meter, 1, NOW + 5), Taken::Yes);
        meter.given(NOW / HOUR, 10, Some(3), NOW + 5);
        assert_eq!(take(&mut meter, 13, NOW), Taken::Yes);
        let rest = HOUR - NOW % HOUR;
        assert_eq!(take(&mut meter, 1, NOW), Taken::No { wait: rest, lease: None }, "there is no more");
        assert_eq!(take(&mut meter, 1, NOW + HOUR), Taken::YesAndLease(11), "another hour");
    }

    #[tokio::test]
    async fn nodes_share_one_budget() {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().unwrap());
        let nodes = [node(&catalog), node(&catalog)];
        let mut served = 0;
        for number in 0..1000 {
            let (budgets, account) = &nodes[usize::try_from(number % 2).unwrap()];
            served += u64::from(budgets.assets(account, &LIMITS, &[hash(number)], NOW).is_ok());
            settle(account).await;
        }
        assert!((380..=400).contains(&served), "{served}");
        // Somebody else is unharmed, and so is the same one in the next hour.
        let (budgets, account) = &nodes[0];
        let other = budgets.account(&"another".into());
        assert_eq!(budgets.assets(&other, &LIMITS, &[hash(1)], NOW), Ok(()));
        let Err(Over::Budget(refusal)) = budgets.assets(account, &LIMITS, &[hash(5000)], NOW) else {
            panic!("over budget")
        };
        assert_eq!((refusal.status.as_u16(), u64::from(refusal.retry_after_s)), (429, HOUR - NOW % HOUR));
    }

    #[tokio::test]
    async fn the_same_asset_counts_once_an_hour() {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().unwrap());
        let (budgets, account) = node(&catalog);
        for _ in 0..3 {
            for number in 0..100 {
                assert_eq!(budgets.assets(&account, &LIMITS, &[hash(number), hash(number)], NOW), Ok(()));
            }
        }
        settle(&account).await;
        assert_eq!(account.lock().assets.used, 100);
        budgets.sweep(NOW + HOUR);
        assert_eq!(account.lock().seen.len(), 0);
        assert_eq!(budgets.remembered.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn misses_that_nobody_attests_are_guesses() {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().unwrap());
        let (budgets, honest) = node(&catalog);
        let guesser = budgets.account(&"guesser".into());
        let limits = Limits { assets_per_hour: 4000, burst: 4000, ..LIMITS };
        for number in 0..3000 {
            let hash = hash(number);
            assert_eq!(budgets.assets(&honest, &limits, &[hash], NOW), Ok(()), "{number}");
            budgets.missed(&honest, &hash, NOW);
            budgets.attested(&honest, &hash);
            settle(&honest).await;
            let guessed = budgets.assets(&guesser, &limits, &[hash], NOW);
            budgets.missed(&guesser, &hash, NOW);
            settle(&guesser).await;
            assert_eq!(matches!(guessed, Err(Over::Guessing(_))), number >= 2000, "{number}");
        }
    }

    #[tokio::test]
    async fn bytes_are_counted_by_the_day_and_stored_ones_by_the_year() {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().unwrap());
        let (budgets, account) = node(&catalog);
        let mut given = [0, 0];
        for _ in 0..200 {
            given[0] += u64::from(budgets.bytes(&account, &LIMITS, 10, NOW).is_ok());
            given[1] += u64::from(budgets.stored(&account, &LIMITS, 10, NOW).is_ok());
            settle(&account).await;
        }
        assert!(given.iter().all(|given| (95..=100).contains(given)), "{given:?}");
        assert!(budgets.bytes(&account, &LIMITS, 10, NOW + 86_400).is_ok());
        assert!(budgets.stored(&account, &LIMITS, 10, NOW + 86_400).is_err());
    }
}
