//! What is known of the regions that were visited: their names, how long their scenes took, and which
//! assets were asked for there. All of it is bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::RegionName;
use crate::asset::{AssetId, AssetKey, AssetKind};
use crate::grid::{GridId, Origin, RegionHandle};

/// Regions remembered; the one not visited for longest goes first.
pub const MAX_REGIONS: usize = 64;
/// Assets remembered of a region. The largest capture asks for some 900.
pub const MAX_KEYS: usize = 8192;
/// Regions that may be pinned.
pub const MAX_PINNED: usize = 16;
/// Hosts that delivered a region's assets.
const MAX_ORIGINS: usize = 4;
/// An asset that was not asked for in so many visits is no longer the region's.
const KEPT_VISITS: u32 = 10;
/// Longer names are no host's.
const MAX_NAME_BYTES: usize = 255;

/// A region of a grid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionKey {
    /// Its grid.
    pub grid: GridId,
    /// Its place there.
    pub handle: u64,
}

impl RegionKey {
    /// A short name for files and forms. Whoever knows it knows nothing.
    #[must_use]
    pub fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("rezcache 2026-11 region");
        hasher.update(&self.handle.to_le_bytes());
        hasher.update(self.grid.as_str().as_bytes());
        hasher.finalize().to_hex().chars().take(16).collect()
    }

    /// The same as the grid counts: in regions, from the west and from the south.
    #[must_use]
    pub const fn place(&self) -> (u64, u64) {
        let RegionHandle(handle) = RegionHandle(self.handle);
        ((handle >> 32) / 256, (handle & 0xffff_ffff) / 256)
    }
}

/// How a scene went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SceneTime {
    /// From the arrival to the last delivery.
    pub ms: u64,
    /// Asset requests.
    pub asked: u64,
    /// Those answered without the grid.
    pub hits: u64,
}

impl SceneTime {
    pub(super) fn new(took: Duration, asked: u64, hits: u64) -> Self {
        Self { ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX), asked, hits }
    }
}

/// What is known of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// What it calls itself.
    pub name: RegionName,
    /// When it was first seen, in seconds since 1970.
    pub first_unix: u64,
    /// When it was last entered.
    pub last_unix: u64,
    /// How often it was entered.
    pub visits: u32,
    /// Asset requests there.
    pub asked: u64,
    /// Those answered without the grid.
    pub hits: u64,
    /// The first scene that came to rest.
    pub first_scene: Option<SceneTime>,
    /// The last one.
    pub last_scene: Option<SceneTime>,
    /// Whether its assets are kept from eviction.
    pub pinned: bool,
    /// Asset requests that found no room among the keys.
    pub overflow: u64,
    pub(super) origins: Vec<Origin>,
    /// Each asset, and the visit in which it was last asked for.
    pub(super) keys: HashMap<(AssetKind, AssetId), u32>,
}

impl Region {
    /// How many different assets were asked for.
    #[must_use]
    pub fn assets(&self) -> usize {
        self.keys.len()
    }

    /// The same without its assets, for a look at everything else.
    #[must_use]
    pub fn without_keys(&self) -> Self {
        Self { name: self.name.clone(), origins: self.origins.clone(), keys: HashMap::new(), ..*self }
    }

    /// Those assets, in an order that stays.
    #[must_use]
    pub fn keys(&self, grid: &GridId) -> Vec<AssetKey> {
        let mut keys: Vec<_> = self.keys.keys().copied().collect();
        keys.sort_unstable();
        keys.into_iter().map(|(kind, id)| AssetKey { grid: grid.clone(), kind, id }).collect()
    }

    /// The hosts they come from.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }
}

/// Why a region was not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Nothing is known of it any more.
    #[error("this region is not known any more; visit it, then try again")]
    Unknown,
    /// There are too many.
    #[error("{MAX_PINNED} regions are pinned already; release one of them first")]
    TooMany,
}

/// The regions.
#[derive(Debug, Default)]
pub struct Book {
    regions: BTreeMap<RegionKey, Region>,
    /// Not yet written down since they changed.
    dirty: BTreeSet<RegionKey>,
    /// To be removed where they are written down.
    gone: Vec<String>,
    /// Which assets are pinned may have changed.
    pins_changed: bool,
}

impl Book {
    /// The regions, in the order of their grids and places.
    pub fn iter(&self) -> impl Iterator<Item = (&RegionKey, &Region)> {
        self.regions.iter()
    }

    /// What is known of a region.
    #[must_use]
    pub fn get(&self, key: &RegionKey) -> Option<&Region> {
        self.regions.get(key)
    }

    /// The region that [`RegionKey::id`] names so.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<(&RegionKey, &Region)> {
        self.regions.iter().find(|(key, _)| key.id() == id)
    }

    /// Takes in what an earlier run knew. The newer of two goes before.
    pub fn restore(&mut self, key: RegionKey, region: Region) {
        if self.regions.len() < MAX_REGIONS {
            self.pins_changed |= region.pinned;
            self.regions.entry(key).or_insert(region);
        }
    }

    /// Somebody has entered a region. Room is made at the cost of others, but not of `occupied` ones.
    pub(super) fn visit(&mut self, key: &RegionKey, unix: u64, occupied: &[RegionKey]) {
        if !self.regions.contains_key(key) && !self.make_room(occupied) {
            return;
        }
        let region = self.regions.entry(key.clone()).or_default();
        if region.visits == 0 {
            region.first_unix = unix;
        }
        region.last_unix = unix;
        region.visits = region.visits.saturating_add(1);
        let oldest = region.visits.saturating_sub(KEPT_VISITS);
        region.keys.retain(|_, visit| *visit >= oldest);
        self.dirty.insert(key.clone());
    }

    fn make_room(&mut self, occupied: &[RegionKey]) -> bool {
        if self.regions.len() < MAX_REGIONS {
            return true;
        }
        let stays = |key: &RegionKey, region: &Region| region.pinned || occupied.contains(key);
        let goes = self.regions.iter().filter(|(key, region)| !stays(key, region));
        let goes = goes.min_by_key(|(_, region)| region.last_unix).map(|(key, _)| key.clone());
        match goes {
            Some(key) => {
                self.remove(&key);
                true
            }
            None => false,
        }
    }

    fn remove(&mut self, key: &RegionKey) {
        self.regions.remove(key);
        self.dirty.remove(key);
        self.gone.push(key.id());
    }

    pub(super) fn name(&mut self, key: &RegionKey, name: &RegionName) {
        if let Some(region) = self.regions.get_mut(key)
            && !name.is_empty()
            && region.name != *name
        {
            region.name = name.clone();
            self.dirty.insert(key.clone());
        }
    }

    pub(super) fn asked(&mut self, key: &RegionKey, kind: AssetKind, id: AssetId, origin: &Origin) {
        let Some(region) = self.regions.get_mut(key) else { return };
        region.asked = region.asked.saturating_add(1);
        let full = region.keys.len() >= MAX_KEYS;
        let new = !region.keys.contains_key(&(kind, id));
        if new && full {
            region.overflow = region.overflow.saturating_add(1);
        } else {
            region.keys.insert((kind, id), region.visits);
            self.pins_changed |= new && region.pinned;
        }
        let known = region.origins.contains(origin);
        if !known && region.origins.len() < MAX_ORIGINS && origin.as_str().len() <= MAX_NAME_BYTES {
            region.origins.push(origin.clone());
        }
        if !self.dirty.contains(key) {
            self.dirty.insert(key.clone());
        }
    }

    pub(super) fn hit(&mut self, key: &RegionKey) {
        if let Some(region) = self.regions.get_mut(key) {
            region.hits = region.hits.saturating_add(1);
        }
    }

    pub(super) fn completed(&mut self, key: &RegionKey, scene: SceneTime) {
        if let Some(region) = self.regions.get_mut(key) {
            region.first_scene.get_or_insert(scene);
            region.last_scene = Some(scene);
            self.dirty.insert(key.clone());
        }
    }

    /// Keeps a region's assets from eviction, or no longer.
    ///
    /// # Errors
    /// When it is not known, or too many are pinned.
    pub fn pin(&mut self, key: &RegionKey, pinned: bool) -> Result<(), PinError> {
        let others = self.regions.iter().filter(|(other, region)| region.pinned && *other != key).count();
        let region = self.regions.get_mut(key).ok_or(PinError::Unknown)?;
        if pinned && others >= MAX_PINNED {
            return Err(PinError::TooMany);
        }
        if region.pinned != pinned {
            region.pinned = pinned;
            self.pins_changed = true;
            self.dirty.insert(key.clone());
        }
        Ok(())
    }

    /// Every pinned asset, if that has changed since the last call.
    pub fn take_pins(&mut self) -> Option<Vec<AssetKey>> {
        if !std::mem::take(&mut self.pins_changed) {
            return None;
        }
        let pinned = self.regions.iter().filter(|(_, region)| region.pinned);
        Some(pinned.flat_map(|(key, region)| region.keys(&key.grid)).collect())
    }

    /// Forgets all regions.
    pub(super) fn clear(&mut self) {
        let all: Vec<_> = self.regions.keys().cloned().collect();
        all.iter().for_each(|key| self.remove(key));
        self.pins_changed = true;
    }

    /// What is to be written down since the last call: the regions that changed, and the ids of those that
    /// are gone.
    pub fn take_changes(&mut self) -> (Vec<(RegionKey, Region)>, Vec<String>) {
        let dirty = std::mem::take(&mut self.dirty);
        let changed = dirty.into_iter().filter_map(|key| {
            let region = self.regions.get(&key)?.clone();
            Some((key, region))
        });
        (changed.collect(), std::mem::take(&mut self.gone))
    }

    /// These could not be written down: they are given out again.
    pub fn mark_changed(&mut self, keys: impl IntoIterator<Item = RegionKey>) {
        self.dirty.extend(keys);
    }
}
