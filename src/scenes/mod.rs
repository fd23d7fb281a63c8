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
/// A scene that has not come to rest so long after the first request never will: the avatar walks about, or a request hangs.
pub const SCENE_LIMIT: Duration = Duration::from_secs(600);
/// A request on which nothing has moved for so long is not waited for.
const STUCK: Duration = Duration::from_secs(60);
/// Completed scenes that are remembered.
const RECENT: usize = 8;
/// Logins at a time; more are not watched.
const MAX_VISITORS: usize = 64;

/// Arrivals of a login that are taken at once, and how long it takes until one more is. Nobody walks or
/// teleports faster; a grid that says so would fill the book with regions that nobody has seen.
const ARRIVALS: u32 = 4;
const ARRIVAL_EVERY: Duration = Duration::from_secs(1);

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
    allowance: Allowance,
    region: RegionKey,
    since: Instant,
    arrived_unix: u64,
    asked: u64,
    hits: u64,
    open: u64,
    /// Downloads over LLUDP that are under way, as last told.
    open_udp: u64,
    /// Whether anything has come: a hit, or over LLUDP.
    came: bool,
    /// How often a grid had answered when it began.
    answers_before: u64,
    first_asked: Option<Instant>,
    last_event: Instant,
    last_delivery: Option<Instant>,
    progress: Progress,
}

/// Arrivals that a login may still have.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u32,
    /// When the last one was added.
    since: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self { left: ARRIVALS, since: now }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs() / ARRIVAL_EVERY.as_secs();
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(ARRIVALS);
            self.left = self.left.saturating_add(more).min(ARRIVALS);
            self.since += ARRIVAL_EVERY * more.min(ARRIVALS);
            if self.left == ARRIVALS {
                self.since = now;
            }
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
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
    arrivals_ignored: u64,
    /// How often a grid has answered.
    answers: u64,
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
        let allowance = self.visitors.get(&visitor).map(|scene| scene.allowance);
        let mut allowance = allowance.unwrap_or_else(|| Allowance::new(now));
        if !allowance.take(now) {
            self.arrivals_ignored += 1;
            return;
        }
        self.next_scene += 1;
        let scene = Scene {
            number: self.next_scene,
            allowance,
            came: false,
            answers_before: self.answers,
            first_asked: None,
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
        scene.first_asked.get_or_insert(now);
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
        scene.came |= hit;
        let region = scene.region.clone();
        self.delivered(now, open.visitor, hit, &region);
    }

    /// An answer over LLUDP has been delivered.
    pub fn ended_udp(&mut self, now: Instant, visitor: Visitor, hit: bool) {
        let Some(scene) = self.visitors.get_mut(&visitor) else { return };
        scene.came = true;
        let region = scene.region.clone();
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

    /// A grid has answered a request for an asset.
    pub const fn grid_answered(&mut self) {
        self.answers = self.answers.wrapping_add(1);
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
            // Where all requests failed nothing has come to rest.
            let came = scene.came || scene.answers_before != self.answers;
            let done = scene.last_delivery.filter(|_| came && !open && silent >= QUIET);
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
            } else if scene
                .first_asked
                .is_some_and(|first| now.saturating_duration_since(first) >= SCENE_LIMIT)
            {
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

    /// How many arrivals since the start were too many to be believed.
    #[must_use]
    pub const fn arrivals_ignored(&self) -> u64 {
        self.arrivals_ignored
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
