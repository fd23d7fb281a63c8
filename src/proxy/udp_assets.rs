//! What a session asks of the rest of the proxy for assets over LLUDP: to look them up, and to keep
//! what was learnt.

use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::arrivals::ARRIVAL_LIMIT;
use super::fetcher::{self, Head, Seat};
use super::grid_port::{GridPort, Identity, Sharing};
use super::learn::{self, Heard, Target};
use super::registry::SessionLink;
use crate::asset::{Asset, AssetId, AssetKey, AssetKind, AssetSource, policy};
use crate::cache::{Lookup, Scope};
use crate::fetch::Span;
use crate::grid::Origin;
use crate::session::{Found, Ticket};

/// Lookups of one session that read the disk at a time; more count as misses.
const MAX_LOOKUPS: usize = 1024;
/// Checking more than this takes long enough to leave the async threads.
const CHECK_ASIDE_BYTES: usize = 256 << 10;

/// One session's way to the assets.
pub(super) struct UdpAssets {
    grid: Arc<GridPort>,
    link: Arc<SessionLink>,
    identity: Identity,
    lookups: Arc<Semaphore>,
}

impl UdpAssets {
    pub(super) fn new(grid: &Arc<GridPort>, link: &Arc<SessionLink>) -> Self {
        Self {
            grid: Arc::clone(grid),
            link: Arc::clone(link),
            identity: grid.identity(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    fn target(&self, kind: AssetKind, id: AssetId, simulator: SocketAddrV4) -> Target {
        let key = AssetKey { grid: self.identity.id.clone(), kind, id };
        let origin = Origin::new(&simulator.ip().to_string());
        let scope = Scope { origin, central: self.grid.config.central };
        Target { key, scope, beginning_held: false, by_login: true }
    }

    /// Looks an asset up. `Some` is the answer; otherwise it comes through the session's link.
    pub(super) fn look_up(
        &self,
        ticket: Ticket,
        kind: AssetKind,
        id: AssetId,
        simulator: SocketAddrV4,
    ) -> Option<Option<Found>> {
        if self.identity.sharing == Sharing::Off {
            return Some(None);
        }
        let target = self.target(kind, id, simulator);
        if let Some(asset) = self.grid.shared.cache.get_memory(&target.key, &target.scope) {
            return Some(Some(Found { asset, source: AssetSource::Memory }));
        }
        let Ok(permit) = Arc::clone(&self.lookups).try_acquire_owned() else { return Some(None) };
        let (grid, link) = (Arc::clone(&self.grid), Arc::clone(&self.link));
        tokio::spawn(async move {
            // Waited for from before the look: nothing falls between.
            let arrival = grid.arrivals.wait(&target);
            let found = look(&grid, &target).await;
            drop(permit);
            let hit = found.is_some();
            // While HTTP brings the asset the request is held; otherwise it goes on at once.
            let joined = if hit { None } else { fetcher::join(&grid, &target, Span::WHOLE) };
            if joined.is_none() {
                link.found(ticket, found).await;
            }
            if !hit {
                let late = async {
                    tokio::select! {
                        asset = arrival => asset.ok(),
                        () = read_to_end(joined) => None,
                    }
                };
                let late = tokio::time::timeout(ARRIVAL_LIMIT, late).await.ok().flatten();
                // What was fetched together is kept before the fetch ends.
                let late = late.or_else(|| grid.shared.cache.get_memory(&target.key, &target.scope));
                link.found(ticket, late.map(|asset| Found { asset, source: AssetSource::Joined })).await;
            }
            grid.arrivals.tidy(&target);
        });
        None
    }

    /// These textures are bakes of avatars.
    pub(super) fn baked(&self, ids: &[AssetId]) {
        if let Some(uploads) = &self.grid.shared.uploads {
            uploads.baked(&self.identity.id, ids);
        }
    }

    /// Keeps an asset that came whole, if it is one.
    pub(super) fn learn(&self, kind: AssetKind, id: AssetId, simulator: SocketAddrV4, bytes: Bytes) {
        if self.identity.sharing == Sharing::Off {
            return;
        }
        let target = self.target(kind, id, simulator);
        let total = Some(bytes.len() as u64);
        if bytes.len() > CHECK_ASIDE_BYTES {
            let grid = Arc::clone(&self.grid);
            tokio::task::spawn_blocking(move || learn::learn(&grid, &target, 0, total, bytes));
        } else {
            learn::learn(&self.grid, &target, 0, total, bytes);
        }
    }

    /// Keeps parts of an asset whose beginning is among them.
    pub(super) fn learn_parts(
        &self,
        kind: AssetKind,
        id: AssetId,
        simulator: SocketAddrV4,
        total: u64,
        extents: Vec<(u64, Bytes)>,
    ) {
        if self.identity.sharing == Sharing::Off {
            return;
        }
        let mut target = self.target(kind, id, simulator);
        target.beginning_held = extents
            .first()
            .is_some_and(|(first, bytes)| *first == 0 && policy::content_matches_kind(kind, bytes));
        for (first, bytes) in extents {
            learn::learn(&self.grid, &target, first, Some(total), bytes);
        }
    }
}

async fn look(grid: &GridPort, target: &Target) -> Option<Found> {
    match grid.shared.cache.get(&target.key, &target.scope).await {
        Lookup::Hit { asset, source } => Some(Found { asset, source }),
        // All its parts came, one by one; now it is judged as a whole.
        Lookup::Partial(partial) => match partial.extents.as_slice() {
            [(0, whole)] if whole.len() as u64 == partial.total => {
                let asset: Asset = learn::keep(grid, target, whole.clone(), Heard::Earlier)?;
                Some(Found { asset, source: AssetSource::Memory })
            }
            _ => None,
        },
        Lookup::Miss | Lookup::Busy => None,
    }
}

/// Stays with a fetch until it has ended. Without one, for ever.
async fn read_to_end(seat: Option<Seat>) {
    let Some(mut seat) = seat else { return std::future::pending().await };
    if let Head::Asset(head) = seat.head().await {
        let mut reader = seat.read(0, head.length);
        while let Some(Ok(_)) = poll_fn(|cx| reader.poll_bytes(cx)).await {}
    }
}
