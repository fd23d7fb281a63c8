//! Whoever asks a node for something.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;

use super::budgets::{Account, Limits};
use super::refusal::Refusal;
use super::shares::CallerKey;
use crate::grid::GridId;
use crate::token::Rights;

/// Whoever asks, after its token was checked.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Who it is.
    pub(super) who: Arc<Identity>,
    /// Where it comes from, cut to /24 or /48.
    pub(super) network: IpAddr,
    /// Loopback may look at the node itself.
    pub(super) local: bool,
    /// What it uses is counted there; without one it may use what it likes.
    pub(super) account: Option<Arc<Account>>,
}

/// What a token, or its absence, makes of somebody.
#[derive(Debug)]
pub(super) struct Identity {
    /// The token's own name; empty without one.
    pub(super) token: Arc<str>,
    /// The token by which it joined, if its own key signs for it.
    pub(super) via: Option<Arc<str>>,
    /// The token's subject; empty where no tokens are asked for.
    pub(super) principal: Arc<str>,
    /// Its tenant.
    pub(super) tenant: Arc<str>,
    /// The tenant's members believe one another.
    pub(super) trusted: bool,
    /// What it may do.
    pub(super) rights: Rights,
    /// With which grids; `None`: all.
    pub(super) grids: Option<Arc<[GridId]>>,
    /// From when its attestations count.
    pub(super) counts_from: u64,
    /// Until when this holds.
    pub(super) expires: u64,
    /// The most it may use.
    pub(super) limits: Limits,
    /// Where its use is counted.
    pub(super) account: Option<Arc<Account>>,
}

fn forbidden(reason: &'static str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, reason)
}

impl Caller {
    pub(super) fn new(who: Arc<Identity>, from: IpAddr) -> Self {
        let account = who.account.clone();
        Self { who, network: network_of(from), local: from.to_canonical().is_loopback(), account }
    }

    /// Who it is where an amount is shared out among callers.
    pub(super) fn key(&self) -> CallerKey {
        (Arc::clone(&self.who.principal), self.network)
    }

    /// Somebody on this very machine without a token: it may look at the node, and nothing else.
    pub(super) fn observer(from: IpAddr) -> Self {
        let nobody = Identity {
            token: "".into(),
            via: None,
            principal: "".into(),
            tenant: "".into(),
            trusted: false,
            rights: Rights::default(),
            grids: None,
            counts_from: 0,
            expires: u64::MAX,
            limits: Limits::default(),
            account: None,
        };
        Self::new(Arc::new(nobody), from)
    }

    /// Whether its token is for this grid.
    pub(super) fn knows(&self, grid: &GridId) -> bool {
        self.who.grids.as_ref().is_none_or(|grids| grids.contains(grid))
    }

    pub(super) fn may_read(&self) -> Result<(), Refusal> {
        if self.who.rights.read { Ok(()) } else { Err(self.lacks("this token may not read")) }
    }

    /// Whoever has shown no token may have one, or get one.
    fn lacks(&self, reason: &'static str) -> Refusal {
        if self.who.token.is_empty() {
            return Refusal::new(StatusCode::UNAUTHORIZED, "a token is needed for this");
        }
        forbidden(reason)
    }

    pub(super) fn may_write(&self, grid: &GridId) -> Result<(), Refusal> {
        match (self.who.rights.write, self.knows(grid)) {
            (true, true) => Ok(()),
            (false, _) => Err(self.lacks("this token may not write")),
            (_, false) => Err(forbidden("this token is for other grids")),
        }
    }

    pub(super) fn may_observe(&self) -> Result<(), Refusal> {
        let may = self.who.rights.observe || self.local;
        if may { Ok(()) } else { Err(forbidden("this token may not observe")) }
    }

    /// `grid`: whose assets are meant; `None`: anything.
    pub(super) fn may_administer(&self, grid: Option<&GridId>) -> Result<(), Refusal> {
        let everywhere = self.who.grids.is_none();
        if self.who.rights.admin && grid.map_or(everywhere, |grid| self.knows(grid)) {
            Ok(())
        } else {
            Err(forbidden("only an operator may do this"))
        }
    }
}

/// The network that makes two principals distinct.
pub(super) fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

/// What limits before authentication hold for: a customer of IPv6 has a /64 at least.
pub(super) fn customer_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}
