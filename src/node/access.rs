//! Who is let in: tokens, their revocation, and what somebody without one may do.
//!
//! A token is verified once and then known by its hash, since a signature costs more than an asset in
//! memory. Revocations are read from the catalog every few seconds; while it is away the last list stands.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::bounded::{Ahead, Generations, Pace};
use super::budgets::Budgets;
use super::caller::{Caller, Identity, customer_of};
use super::config::{AccessConfig, Open};
use super::enrol::{Member, Residents, Standing};
use super::household;
use super::refusal::Refusal;
use crate::catalog::{Catalog, CatalogError, RevokedKind};
use crate::support::addresses::is_public;
use crate::token::{Keys, RESIDENTS, Rights};

/// How often revocations are read; every node knows them within 10 s.
pub(super) const POLL: Duration = Duration::from_secs(3);
/// Verified tokens kept, and again as many that were not shown lately.
const MAX_VERIFIED: usize = 50_000;
/// Addresses remembered, twice over.
const MAX_ADDRESSES: usize = 50_000;
/// Revocations are numbered when they are written and may be seen in another order; so many are read again.
const OVERLAP: i64 = 1000;

#[derive(Default)]
struct Revoked {
    tokens: HashSet<String>,
    subjects: HashSet<String>,
    tenants: HashSet<String>,
    last: i64,
}

impl Revoked {
    fn covers(&self, who: &Identity) -> bool {
        self.tokens.contains(&*who.token)
            || who.via.as_ref().is_some_and(|via| self.tokens.contains(&**via))
            || self.subjects.contains(&*who.principal)
            || self.tenants.contains(&*who.tenant)
    }
}

/// Limits of one address before it has shown who it is.
#[derive(Default)]
struct Stranger {
    connections: Ahead,
    /// Connections that began without a proof that they come from there: anybody's.
    unproven: Ahead,
    attempts: Ahead,
    /// Requests of nobody in particular.
    requests: Ahead,
}

/// Of a public address: new connections in a second, and requests without a token; ten times as many at once.
const A_SECOND: u32 = 100;
/// Of a private one, behind which a school may be, or a balancer that stands for everybody.
const A_SECOND_PRIVATE: u32 = 1000;
/// Of so many of these one may be a token to verify; but never fewer than this in a second.
const ATTEMPTS: (u64, u64) = (5, 20);
/// What an address is told that asks too much.
pub(super) const TOO_MANY: &str = "too many requests from this address";

/// The gate of a node.
pub(super) struct Access {
    keys: Keys,
    audience: String,
    open: Open,
    trusted: HashSet<String>,
    residents: Option<Residents>,
    /// Keys are taken in for tenants, by their tokens.
    members: bool,
    verified: Mutex<Generations<[u8; 32], Arc<Identity>>>,
    revoked: RwLock<Revoked>,
    strangers: Mutex<Generations<IpAddr, Stranger>>,
    requests_per_address_s: Option<u32>,
    started: Instant,
    budgets: Arc<Budgets>,
    nobody: Arc<Identity>,
    neighbour: Arc<Identity>,
}

fn unauthorized(reason: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal { status: StatusCode::UNAUTHORIZED, reason: reason.into(), retry_after_s: 0 }
}

impl Access {
    pub(super) fn new(config: &AccessConfig, residents: Option<Residents>, budgets: Arc<Budgets>) -> Self {
        let mut keys = config.keys.clone();
        if residents.is_some() {
            keys.accept_residents();
        }
        let open = |local: bool, rights: Rights, trusted: bool| {
            Arc::new(Identity {
                token: "".into(),
                via: None,
                principal: "".into(),
                tenant: "open".into(),
                trusted,
                rights: Rights { admin: local && trusted, ..rights },
                grids: None,
                counts_from: 0,
                expires: u64::MAX,
                limits: budgets.usual(),
                account: None,
            })
        };
        let (rights, trusted) = match config.open {
            Open::Trusted => {
                (Rights { read: true, write: true, observe: true, vouch: false, admin: false }, true)
            }
            Open::Reading | Open::No => (Rights { read: true, ..Rights::default() }, false),
        };
        Self {
            keys,
            audience: config.audience.clone(),
            open: config.open,
            trusted: config.trusted_tenants.iter().filter(|name| *name != RESIDENTS).cloned().collect(),
            residents,
            members: config.members,
            verified: Mutex::new(Generations::new(MAX_VERIFIED)),
            revoked: RwLock::default(),
            strangers: Mutex::new(Generations::new(MAX_ADDRESSES)),
            requests_per_address_s: config.requests_per_address_s,
            started: Instant::now(),
            nobody: open(false, rights, trusted),
            neighbour: open(true, rights, trusted),
            budgets,
        }
    }

    pub(super) fn audience(&self) -> &str {
        &self.audience
    }

    /// Where use is counted.
    pub(super) fn budgets(&self) -> Arc<Budgets> {
        Arc::clone(&self.budgets)
    }

    pub(super) fn residents(&self) -> Option<&Residents> {
        self.residents.as_ref()
    }

    /// Reads what was revoked since the last time.
    ///
    /// # Errors
    /// When the catalog does not answer; the last list stands then.
    pub(super) async fn poll(&self, catalog: &dyn Catalog) -> Result<(), CatalogError> {
        let last = self.revoked.read().unwrap_or_else(PoisonError::into_inner).last;
        let news = catalog.revocations(last.saturating_sub(OVERLAP)).await?;
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        for revocation in news {
            revoked.last = revoked.last.max(revocation.sequence);
            match revocation.kind {
                RevokedKind::Token => revoked.tokens.insert(revocation.value),
                RevokedKind::Subject => revoked.subjects.insert(revocation.value),
                RevokedKind::Tenant => revoked.tenants.insert(revocation.value),
            };
        }
        Ok(())
    }

    /// Who makes a request. With `secure` nobody on the way could read it.
    ///
    /// # Errors
    /// What the caller is told.
    pub(super) async fn authenticate(
        &self,
        token: Option<&str>,
        from: IpAddr,
        secure: bool,
        catalog: &dyn Catalog,
        now: u64,
    ) -> Result<Caller, Refusal> {
        let caller = self.known(token, from, secure, catalog, now).await?;
        // All of a class have the same line: with its token itself they would be one principal.
        if self.members && household::is_join_subject(&caller.who.principal) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this token only brings proxies in; join with it",
            ));
        }
        Ok(caller)
    }

    async fn known(
        &self,
        token: Option<&str>,
        from: IpAddr,
        secure: bool,
        catalog: &dyn Catalog,
        now: u64,
    ) -> Result<Caller, Refusal> {
        let Some(token) = token else {
            let who = match (self.open, from.to_canonical().is_loopback()) {
                (Open::No, _) => {
                    self.attempt(from)?;
                    return Err(unauthorized("a token is needed here"));
                }
                (_, true) => &self.neighbour,
                (_, false) => &self.nobody,
            };
            let mut caller = Caller::new(Arc::clone(who), from);
            if self.open == Open::Reading {
                caller.account = Some(self.budgets.account_of(customer_of(from)));
            }
            return Ok(caller);
        };
        if !secure {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "a token must not travel over plain http, and this one did; use https, and get a new one",
            ));
        }
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        let who = match known {
            Some(who) => who,
            None => {
                self.attempt(from)?;
                let who = Arc::new(self.verify(token, catalog, now).await?);
                let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
                verified.insert(hash, Arc::clone(&who));
                who
            }
        };
        let caller = Caller::new(who, from);
        if let Err(refusal) = self.still_holds(&caller, now) {
            self.attempt(from)?;
            return Err(refusal);
        }
        Ok(caller)
    }

    /// Whether a caller known from before is still let in.
    ///
    /// # Errors
    /// When its token has expired or was revoked.
    pub(super) fn still_holds(&self, caller: &Caller, now: u64) -> Result<(), Refusal> {
        if caller.who.expires <= now {
            return Err(unauthorized("the token has expired; get a new one"));
        }
        let without_token = caller.who.token.is_empty();
        if !without_token && self.revoked.read().unwrap_or_else(PoisonError::into_inner).covers(&caller.who) {
            return Err(unauthorized("the token was revoked"));
        }
        Ok(())
    }

    async fn verify(&self, token: &str, catalog: &dyn Catalog, now: u64) -> Result<Identity, Refusal> {
        if self.keys.is_empty() {
            return Err(unauthorized("this node takes no tokens; remove the token file"));
        }
        let verified =
            self.keys.verify(token, &self.audience, now).map_err(|error| unauthorized(error.to_string()))?;
        let standing = match (&verified.own, &self.residents) {
            (Some(key), Some(residents)) => {
                let standing = residents.standing(catalog, key).await?;
                // The catalog may know keys that were taken in when this node was set up otherwise.
                let holds = match standing {
                    Standing::Resident(_) => residents.is_open(),
                    Standing::Member(_) => self.members,
                };
                if !holds {
                    return Err(unauthorized("this proxy has not enrolled here"));
                }
                Some(standing)
            }
            _ => None,
        };
        let claims = verified.claims;
        let account = self.budgets.account(&claims.subject);
        let mut identity = Identity {
            trusted: verified.own.is_none() && self.trusted.contains(&*claims.tenant),
            token: claims.id,
            via: None,
            principal: claims.subject,
            tenant: claims.tenant,
            rights: claims.rights,
            grids: claims.grids,
            counts_from: 0,
            expires: claims.expires,
            limits: self.budgets.usual().of(claims.budgets),
            account: Some(account),
        };
        match standing {
            Some(Standing::Resident(counts_from)) => identity.counts_from = counts_from,
            Some(Standing::Member(member)) => {
                identity.trusted = self.trusted.contains(&*member.tenant);
                (identity.tenant, identity.rights) = (member.tenant, member.rights);
                identity.via = Some(member.via);
            }
            None => {}
        }
        Ok(identity)
    }

    /// What a token that is shown with a new key makes of it. `None`: no token is shown, and the key is a
    /// resident's.
    ///
    /// # Errors
    /// When keys are not taken in like that, or the token does not hold.
    pub(super) async fn joins_by(
        &self,
        token: Option<&str>,
        from: IpAddr,
        secure: bool,
        catalog: &dyn Catalog,
        now: u64,
    ) -> Result<Option<Member>, Refusal> {
        let residents = self.residents.as_ref();
        let Some(token) = token.filter(|_| self.members) else {
            return match residents.is_some_and(Residents::is_open) {
                true => Ok(None),
                false => Err(unauthorized("join with the line that the server prints")),
            };
        };
        let caller = self.known(Some(token), from, secure, catalog, now).await?;
        // Only what an operator has signed brings others in: members do not.
        if !caller.who.trusted || caller.who.via.is_some() {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "nobody joins by this token"));
        }
        Ok(Some(Member::by(&caller.who)))
    }

    /// Whether proxies join with a token.
    pub(super) const fn takes_members(&self) -> bool {
        self.members
    }

    /// How often an address may come. `None`: as it likes, since this machine's own load is nobody's attack.
    fn pace(&self, from: IpAddr) -> Option<Pace> {
        let usual = match from.to_canonical() {
            ip if ip.is_loopback() => None,
            ip if is_public(ip) => Some(A_SECOND),
            _ => Some(A_SECOND_PRIVATE),
        };
        let number = u64::from(self.requests_per_address_s.or(usual)?);
        Some(Pace::new(number, 1, number.saturating_mul(10)))
    }

    /// Whether an address may open one more connection.
    pub(super) fn admits_connection(&self, from: IpAddr) -> bool {
        self.pace(from).is_none_or(|pace| {
            self.limit(from, |stranger, now| pace.take(&mut stranger.connections, 1, now)).is_ok()
        })
    }

    /// Counts a request of nobody in particular: without a valid token, or one that needs none.
    ///
    /// # Errors
    /// When there are too many of them from this address.
    pub(super) fn stranger(&self, from: IpAddr) -> Result<(), Refusal> {
        let Some(pace) = self.pace(from) else { return Ok(()) };
        self.limit(from, |stranger, now| pace.take(&mut stranger.requests, 1, now))
            .map_err(|wait| Refusal::later(StatusCode::TOO_MANY_REQUESTS, TOO_MANY, wait.max(1)))
    }

    /// Whether a caller reads as everybody may, and the operator has said how fast an address does so. Unsaid, readers
    /// have what nodes have to send, since residents ask for a whole region at once.
    pub(super) fn is_paced(&self, caller: &Caller) -> bool {
        self.open == Open::Reading && self.requests_per_address_s.is_some() && caller.who.token.is_empty()
    }

    /// The same where anybody may have written this sender's address. Whoever does uses up nothing of
    /// [`Self::admits_connection`]; the true one must show then that it is there.
    pub(super) fn admits_unproven(&self, from: IpAddr) -> bool {
        self.pace(from).is_none_or(|pace| {
            self.limit(from, |stranger, now| pace.take(&mut stranger.unproven, 1, now)).is_ok()
        })
    }

    /// Counts something costly that is done for somebody not yet known.
    ///
    /// # Errors
    /// When the address has had enough of it.
    pub(super) fn attempt(&self, from: IpAddr) -> Result<(), Refusal> {
        // After a restart everybody's token is new, and all may come by one balancer.
        let usual = if is_public(from) { A_SECOND } else { A_SECOND_PRIVATE };
        let (share, least) = ATTEMPTS;
        let number = (u64::from(self.requests_per_address_s.unwrap_or(usual)) / share).max(least);
        let pace = Pace::new(number, 1, number.saturating_mul(10));
        self.limit(from, |stranger, now| pace.take(&mut stranger.attempts, 1, now)).map_err(|wait| {
            Refusal::later(StatusCode::TOO_MANY_REQUESTS, "too many attempts from this address", wait)
        })
    }

    fn limit(
        &self,
        from: IpAddr,
        take: impl FnOnce(&mut Stranger, u64) -> Result<(), u32>,
    ) -> Result<(), u32> {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let stranger = strangers.get_or_insert_with(customer_of(from), Stranger::default);
        stranger.map_or(Ok(()), |stranger| take(stranger, now))
    }
}
