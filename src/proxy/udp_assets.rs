//! What a session asks of the rest of the proxy for assets over LLUDP: to look them up, and to keep
//! what was learnt.

use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use super::arrivals::ARRIVAL_LIMIT;
use super::fetcher::{self, Head, Seat};
use super::grid_port::{GridPort, Sharing};
use super::learn::{self, Heard, Target};
use super::registry::SessionLink;
use super::service::Alone;
use crate::asset::{Asset, AssetId, AssetKey, AssetKind, AssetSource, policy};
use crate::cache::{Lookup, Scope};
use crate::fetch::Span;
use crate::grid::Origin;
use crate::session::{Found, Ticket};

/// Lookups of one session that read the disk at a time; more count as misses.
const MAX_LOOKUPS: usize = 1024;
/// Checking more than this takes long enough to leave the async threads.
/// How long an answer that comes too late for its request is still awaited, to be kept.
const SERVICE_LATE: Duration = Duration::from_secs(10);
const CHECK_ASIDE_BYTES: usize = 256 << 10;

/// One session's way to the assets.
pub(super) struct UdpAssets {
    grid: Arc<GridPort>,
    link: Arc<SessionLink>,
    lookups: Arc<Semaphore>,
}

impl UdpAssets {
    pub(super) fn new(grid: &Arc<GridPort>, link: &Arc<SessionLink>) -> Self {
        Self {
            grid: Arc::clone(grid),
            link: Arc::clone(link),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }

    /// `None` when the grid's owner wants nothing kept. A grid may say so, and who it is, at any time
    /// of a session.
    fn target(&self, kind: AssetKind, id: AssetId, simulator: SocketAddrV4) -> Option<Target> {
        let identity = self.grid.identity();
        let shared = match identity.sharing {
            Sharing::Off => return None,
            Sharing::Local => false,
            Sharing::Share => true,
        };
        let key = AssetKey { grid: identity.id, kind, id };
        let origin = Origin::new(&simulator.ip().to_string());
        let scope = Scope { origin, central: self.grid.config.central };
        Some(Target { key, scope, shared, beginning_held: false, by_login: true })
    }

    /// Looks an asset up. `Some` is the answer; otherwise it comes through the session's link.
    pub(super) fn look_up(
        &self,
        ticket: Ticket,
        kind: AssetKind,
        id: AssetId,
        simulator: SocketAddrV4,
    ) -> Option<Option<Found>> {
        let Some(target) = self.target(kind, id, simulator) else { return Some(None) };
        if let Some(asset) = self.grid.shared.cache.get_memory(&target.key, &target.scope) {
            return Some(Some(Found { asset, source: AssetSource::Memory }));
        }
        let Ok(permit) = Arc::clone(&self.lookups).try_acquire_owned() else { return Some(None) };
        let (grid, link) = (Arc::clone(&self.grid), Arc::clone(&self.link));
        tokio::spawn(async move {
            // Waited for from before the look: nothing falls between.
            let arrival = grid.arrivals.wait(&target);
            let mut found = look(&grid, &target).await;
            // While HTTP brings the asset the request is held; otherwise the service is asked, and on a
            // miss there it goes on.
            let joined = if found.is_some() { None } else { fetcher::join(&grid, &target, Span::WHOLE) };
            if found.is_none() && joined.is_none() {
                found = ask_service(&grid, &target).await;
            }
            drop(permit);
            let hit = found.is_some();
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

    /// These textures are bakes of avatars, under each name that the grid has here.
    pub(super) fn baked(&self, ids: &[AssetId]) {
        let Some(uploads) = self.grid.shared.service.uploads() else { return };
        // First under the one that the grid had before it was heard: should it be heard just now, the
        // other takes them over from there.
        let before = &self.grid.configured.id;
        uploads.baked(before, ids);
        let now = self.grid.identity().id;
        if now != *before {
            uploads.baked(&now, ids);
        }
    }

    /// Keeps an asset that came whole, if it is one.
    pub(super) fn learn(&self, kind: AssetKind, id: AssetId, simulator: SocketAddrV4, bytes: Bytes) {
        let Some(target) = self.target(kind, id, simulator) else { return };
        let total = Some(bytes.len() as u64);
        if bytes.len() > CHECK_ASIDE_BYTES {
            let grid = Arc::clone(&self.grid);
            let alive = grid.shared.alive();
            tokio::task::spawn_blocking(move || {
                learn::learn(&grid, &target, 0, total, bytes);
                drop(alive);
            });
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
        let Some(mut target) = self.target(kind, id, simulator) else { return };
        target.beginning_held = extents
            .first()
            .is_some_and(|(first, bytes)| *first == 0 && policy::content_matches_kind(kind, bytes));
        for (first, bytes) in extents {
            learn::learn(&self.grid, &target, first, Some(total), bytes);
        }
    }
}

/// Asks the service. Whoever waits is told "nothing" when the deadline has passed; what comes later is kept,
/// and told as an arrival.
async fn ask_service(grid: &Arc<GridPort>, target: &Target) -> Option<Found> {
    let tier = grid.shared.service.tier()?;
    let mut attempt = tier.attempt(grid, target, Span::WHOLE)?;
    let (grid, target) = (Arc::clone(grid), target.clone());
    let until = tokio::time::Instant::now() + attempt.deadline();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let mut tell = Some(tell);
        let give_up = |tell: &mut Option<oneshot::Sender<Option<Asset>>>| {
            // Whoever waited may be gone.
            tell.take().map(|tell| tell.send(None))
        };
        let opened = match attempt.alone().await {
            Alone::Found(opened) => Some(opened),
            Alone::Nothing => None,
            Alone::Late => {
                give_up(&mut tell);
                tokio::time::timeout(SERVICE_LATE, attempt.found()).await.ok().flatten()
            }
        };
        let mut whole = std::pin::pin!(tier.whole(opened));
        let asset = match tokio::time::timeout_at(until, whole.as_mut()).await {
            Ok(asset) => asset,
            Err(_) => {
                give_up(&mut tell);
                tokio::time::timeout(SERVICE_LATE, whole).await.ok().flatten()
            }
        };
        // Of some hits the grid's own answer is awaited, and compared.
        let asset = asset.filter(|asset| !tier.is_left_to_grid(&target, asset.digest));
        if let Some(asset) = &asset {
            tier.keep(&grid, &target, asset);
        }
        if let Some(tell) = tell {
            let _ = tell.send(asset);
        }
    });
    let asset = told.await.ok().flatten()?;
    Some(Found { asset, source: AssetSource::Service })
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
