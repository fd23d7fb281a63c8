//! The place of the shared cache in a proxy: none yet, one for good, or one at home that is found, lost and
//! found again, or makes way for another.
//!
//! What holds of uploads, whichever service is in use, is kept here: what the user has said of them, and which
//! textures are bakes. Each queue is begun with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::task::AbortHandle;

use super::ServiceTier;
use crate::asset::AssetId;
use crate::fetch::baked::Baked;
use crate::grid::GridId;
use crate::proxy::uploads::{UploadQueue, Wishes};
use crate::support::metrics::Metrics;

/// What is in use now.
#[derive(Clone, Default)]
pub(in crate::proxy) struct Bound {
    /// The service.
    pub(in crate::proxy) tier: Option<Arc<ServiceTier>>,
    /// Where what is learnt goes on to it. `None`: nowhere.
    pub(in crate::proxy) uploads: Option<Arc<UploadQueue>>,
    /// The task that looks after the tier, where that must end with it.
    pub(in crate::proxy) care: Option<AbortHandle>,
}

/// See the module's documentation.
#[derive(Default)]
pub(in crate::proxy) struct Slot {
    bound: RwLock<Bound>,
    /// Changed, and told to the queue, in one go, so that a queue hears of all in the order in which it was said.
    wishes: Mutex<Wishes>,
    /// Services come and go: what is said while there is none holds for the next one.
    comes_and_goes: bool,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    /// An empty one. `rate` is the cap of uploads to begin with.
    pub(in crate::proxy) fn new(comes_and_goes: bool, rate: Option<u64>, metrics: Arc<Metrics>) -> Self {
        let wishes = Mutex::new(Wishes { paused: false, rate, baked: Baked::default() });
        Self { bound: RwLock::default(), wishes, comes_and_goes, metrics }
    }

    /// The service to ask.
    pub(in crate::proxy) fn tier(&self) -> Option<Arc<ServiceTier>> {
        self.bound.read().unwrap_or_else(PoisonError::into_inner).tier.clone()
    }

    /// Where what is learnt goes.
    pub(in crate::proxy) fn uploads(&self) -> Option<Arc<UploadQueue>> {
        self.bound.read().unwrap_or_else(PoisonError::into_inner).uploads.clone()
    }

    /// Puts another service in, and returns the one of before.
    pub(in crate::proxy) fn put(&self, bound: Bound) -> Bound {
        let uploads = bound.uploads.clone();
        let before =
            std::mem::replace(&mut *self.bound.write().unwrap_or_else(PoisonError::into_inner), bound);
        if let Some(uploads) = uploads {
            // What was said since the queue was begun.
            let wishes = self.held();
            uploads.follow(&wishes);
        }
        before
    }

    /// What a queue is begun with.
    pub(in crate::proxy) fn wishes(&self) -> Wishes {
        self.held().clone()
    }

    fn held(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses uploads, or lets them go on; whether there is, or may be, anything to pause.
    pub(in crate::proxy) fn pause(&self, paused: bool) -> bool {
        self.wish(|wishes| wishes.paused = paused)
    }

    /// Caps uploads at so many bytes a second; whether there are, or may be, any.
    pub(in crate::proxy) fn limit(&self, rate: Option<u64>) -> bool {
        self.wish(|wishes| wishes.rate = rate)
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) -> bool {
        let mut wishes = self.held();
        let uploads = self.uploads();
        if uploads.is_none() && !self.comes_and_goes {
            return false;
        }
        change(&mut wishes);
        match uploads {
            Some(uploads) if wishes.paused => {
                uploads.set_limit(wishes.rate);
                uploads.pause();
            }
            Some(uploads) => {
                uploads.set_limit(wishes.rate);
                uploads.resume();
            }
            None => self.metrics.set_upload_control(wishes.paused, wishes.rate.unwrap_or(0)),
        }
        true
    }

    /// These textures are worn as bakes.
    pub(in crate::proxy) fn baked(&self, grid: &GridId, ids: &[AssetId]) {
        let mut wishes = self.held();
        for id in ids.iter().filter(|_| self.comes_and_goes) {
            wishes.baked.note(grid, *id);
        }
        if let Some(uploads) = self.uploads() {
            uploads.baked(grid, ids);
        }
    }

    /// A grid is called otherwise from now on; what was baked there still is.
    pub(in crate::proxy) fn renamed(&self, before: &GridId, now: &GridId) {
        let mut wishes = self.held();
        for id in wishes.baked.of(before) {
            wishes.baked.note(now, id);
        }
        if let Some(uploads) = self.uploads() {
            uploads.renamed(before, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_while_there_is_no_server_is_kept_where_one_may_come() {
        let metrics = Arc::new(Metrics::default());
        let slot = Slot::new(true, Some(125_000), Arc::clone(&metrics));
        let (before, now) = (GridId::new("before.example"), GridId::new("now.example"));
        let id = AssetId(uuid::Uuid::from_u128(7));
        assert!(slot.pause(true) && slot.limit(Some(5000)));
        assert_eq!(metrics.upload_control(), (true, 5000));
        slot.baked(&before, &[id]);
        slot.renamed(&before, &now);
        slot.put(Bound::default());
        let wishes = slot.wishes();
        assert_eq!((wishes.paused, wishes.rate), (true, Some(5000)));
        assert!(wishes.baked.contains(&before, id) && wishes.baked.contains(&now, id));
        assert!(slot.pause(false) && !slot.wishes().paused);
        let never = Slot::new(false, None, Arc::default());
        assert!(!never.pause(true) && !never.limit(None) && !never.wishes().paused);
    }
}
