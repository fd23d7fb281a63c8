//! Scenes: from the arrival in a region until what is there has come, and what was asked there.
//!
//! Pure state, like everything of this layer: it is told what happened and when. One [`Scenes`] serves a
//! whole proxy; whoever came by a login is a [`Visitor`].
//!
//! A scene is complete when no asset request is open and none has come for [`QUIET`]; what it took is the
//! time from the arrival to the last delivery, without that silence.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::asset::{AssetId, AssetKind};
use crate::grid::{Origin, RegionHandle};

mod book;
mod name;
mod record;

pub use book::{Book, MAX_KEYS, MAX_PINNED, MAX_REGIONS, PinError, Region, RegionKey, SceneTime};
pub use name::RegionName;
pub use record::{Record, RecordError};

/// How long nothing may be asked until a scene counts as complete. Viewers ask in waves: what a mesh or an
/// object's face names is asked once that has been decoded, which takes a second or two on slow machines.
pub const QUIET: Duration = Duration::from_secs(5);
/// A scene that has not come to rest by then never will: the avatar walks about, or a request hangs.
pub const SCENE_LIMIT: Duration = Duration::from_secs(600);
/// A request on which nothing has moved for so long is not waited for.
const STUCK: Duration = Duration::from_secs(60);
/// Completed scenes that are remembered.
const RECENT: usize = 8;
/// Logins at a time; more are not watched.
const MAX_VISITORS: usize = 64;

/// One login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Visitor(pub u64);

/// An asset request in progress; given back to [`Scenes::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    visitor: Visitor,
    scene: u64,
}

/// How far a scene is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Assets are still asked for.
    Coming,
    /// All came, in this time.
    Complete(Duration),
    /// It did not come to rest.
    Unsettled,
}

#[derive(Debug)]
struct Scene {
    number: u64,
    region: RegionKey,
    since: Instant,
    arrived_unix: u64,
    asked: u64,
    hits: u64,
    open: u64,
    /// Downloads over LLUDP that are under way, as last told.
    open_udp: u64,
    last_event: Instant,
    last_delivery: Option<Instant>,
    progress: Progress,
}

/// Where a login is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// Which region.
    pub region: RegionKey,
    /// Seconds since 1970 of the arrival.
    pub arrived_unix: u64,
    /// Asset requests since.
    pub asked: u64,
    /// Those answered without the grid.
    pub hits: u64,
    /// Those under way.
    pub open: u64,
    /// How far it is.
    pub progress: Progress,
}

/// A scene that came to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Which region.
    pub region: RegionKey,
    /// Its name, as far as it is known.
    pub name: RegionName,
    /// From the arrival to the last delivery.
    pub took: Duration,
    /// Asset requests.
    pub asked: u64,
    /// Those answered without the grid.
    pub hits: u64,
    /// Seconds since 1970 of the arrival.
    pub arrived_unix: u64,
}

/// All logins, and what is known of the regions.
#[derive(Debug, Default)]
pub struct Scenes {
    visitors: HashMap<Visitor, Scene>,
    recent: VecDeque<Completed>,
    completed: u64,
    next_scene: u64,
    book: Book,
}

impl Scenes {
    /// What is known of the regions.
    #[must_use]
    pub const fn book(&self) -> &Book {
        &self.book
    }

    /// The same, to be changed.
    pub const fn book_mut(&mut self) -> &mut Book {
        &mut self.book
    }

    /// A login has come to a region, by whatever way. Told again of where it is, nothing changes.
    pub fn arrived(&mut self, now: Instant, unix: u64, visitor: Visitor, region: &RegionKey) {
        if self.visitors.get(&visitor).is_some_and(|scene| scene.region == *region) {
            return;
        }
        if self.visitors.len() >= MAX_VISITORS && !self.visitors.contains_key(&visitor) {
            return;
        }
        self.next_scene += 1;
        let scene = Scene {
            number: self.next_scene,
            region: region.clone(),
            since: now,
            arrived_unix: unix,
            asked: 0,
            hits: 0,
            open: 0,
            open_udp: 0,
            last_event: now,
            last_delivery: None,
            progress: Progress::Coming,
        };
        self.visitors.insert(visitor, scene);
        let occupied: Vec<_> = self.visitors.values().map(|scene| scene.region.clone()).collect();
        self.book.visit(region, unix, &occupied);
    }

    /// A region has said what it is called.
    pub fn named(&mut self, visitor: Visitor, handle: RegionHandle, name: &RegionName) {
        let Some(scene) = self.visitors.get(&visitor) else { return };
        // Neighbours introduce themselves too; they are named when they are known.
        let region = RegionKey { grid: scene.region.grid.clone(), handle: handle.0 };
        self.book.name(&region, name);
    }

    /// A login asks for an asset. `None` where nobody has arrived.
    pub fn begun(
        &mut self,
        now: Instant,
        visitor: Visitor,
        kind: AssetKind,
        id: AssetId,
        origin: &Origin,
    ) -> Option<Open> {
        let scene = self.asked(now, visitor, kind, id, origin)?;
        scene.open += 1;
        Some(Open { visitor, scene: scene.number })
    }

    /// The same over LLUDP, where requests are repeated, cancelled and forgotten: how many are under way is
    /// told by [`Self::udp_open`].
    pub fn begun_udp(
        &mut self,
        now: Instant,
        visitor: Visitor,
        kind: AssetKind,
        id: AssetId,
        origin: &Origin,
    ) {
        self.asked(now, visitor, kind, id, origin);
    }

    fn asked(
        &mut self,
        now: Instant,
        visitor: Visitor,
        kind: AssetKind,
        id: AssetId,
        origin: &Origin,
    ) -> Option<&mut Scene> {
        let scene = self.visitors.get_mut(&visitor)?;
        scene.asked += 1;
        scene.last_event = now;
        self.book.asked(&scene.region, kind, id, origin);
        Some(scene)
    }

    /// An answer has been delivered, or has broken off; a hit is one that the grid had no part in.
    pub fn ended(&mut self, now: Instant, open: Open, hit: bool) {
        let Some(scene) = self.visitors.get_mut(&open.visitor) else { return };
        if scene.number != open.scene {
            // Of the region before.
            return;
        }
        scene.open = scene.open.saturating_sub(1);
        let region = scene.region.clone();
        self.delivered(now, open.visitor, hit, &region);
    }

    /// An answer over LLUDP has been delivered.
    pub fn ended_udp(&mut self, now: Instant, visitor: Visitor, hit: bool) {
        let Some(region) = self.visitors.get(&visitor).map(|scene| scene.region.clone()) else { return };
        self.delivered(now, visitor, hit, &region);
    }

    fn delivered(&mut self, now: Instant, visitor: Visitor, hit: bool, region: &RegionKey) {
        let Some(scene) = self.visitors.get_mut(&visitor) else { return };
        scene.last_event = now;
        scene.last_delivery = Some(now);
        if hit {
            scene.hits += 1;
            self.book.hit(region);
        }
    }

    /// How many downloads over LLUDP are under way.
    pub fn udp_open(&mut self, visitor: Visitor, open: u64) {
        if let Some(scene) = self.visitors.get_mut(&visitor) {
            scene.open_udp = open;
        }
    }

    /// A login is over.
    pub fn left(&mut self, visitor: Visitor) {
        self.visitors.remove(&visitor);
    }

    /// Lets time pass; to be called about once a second.
    pub fn tick(&mut self, now: Instant) {
        for scene in self.visitors.values_mut() {
            if scene.progress != Progress::Coming {
                continue;
            }
            let silent = now.saturating_duration_since(scene.last_event);
            let open = scene.open + scene.open_udp > 0 && silent < STUCK;
            let done = scene.last_delivery.filter(|_| !open && silent >= QUIET);
            if let Some(last) = done {
                let took = last.saturating_duration_since(scene.since);
                scene.progress = Progress::Complete(took);
                self.completed += 1;
                let name = self.book.get(&scene.region).map(|region| region.name.clone()).unwrap_or_default();
                self.book.completed(&scene.region, SceneTime::new(took, scene.asked, scene.hits));
                if self.recent.len() >= RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back(Completed {
                    region: scene.region.clone(),
                    name,
                    took,
                    asked: scene.asked,
                    hits: scene.hits,
                    arrived_unix: scene.arrived_unix,
                });
            } else if now.saturating_duration_since(scene.since) >= SCENE_LIMIT {
                scene.progress = Progress::Unsettled;
            }
        }
    }

    /// Where everybody is, in the order of their logins.
    #[must_use]
    pub fn now(&self) -> Vec<Now> {
        let mut all: Vec<_> = self.visitors.iter().collect();
        all.sort_by_key(|(visitor, _)| **visitor);
        let now = |scene: &Scene| Now {
            region: scene.region.clone(),
            arrived_unix: scene.arrived_unix,
            asked: scene.asked,
            hits: scene.hits,
            open: scene.open + scene.open_udp,
            progress: scene.progress,
        };
        all.into_iter().map(|(_, scene)| now(scene)).collect()
    }

    /// The last scenes that came to rest, the latest last.
    pub fn recent(&self) -> impl Iterator<Item = &Completed> {
        self.recent.iter()
    }

    /// How many scenes came to rest since the start.
    #[must_use]
    pub const fn completed(&self) -> u64 {
        self.completed
    }

    /// Forgets every region, but not who is where, and what it is called there.
    pub fn forget_regions(&mut self, unix: u64) {
        self.recent.clear();
        let occupied: Vec<_> = self.visitors.values().map(|scene| scene.region.clone()).collect();
        // What the region around somebody is called is said once.
        let names: Vec<_> =
            occupied.iter().map(|key| self.book.get(key).map(|region| region.name.clone())).collect();
        self.book.clear();
        for (region, name) in occupied.iter().zip(names) {
            self.book.visit(region, unix, &occupied);
            self.book.name(region, &name.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests;
