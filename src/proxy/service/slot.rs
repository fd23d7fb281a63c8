//! The place of the shared cache in a proxy: none yet, one for good, or one at home that is found, lost and
//! found again, or makes way for another.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::task::AbortHandle;

use super::ServiceTier;
use crate::proxy::uploads::UploadQueue;

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
pub(in crate::proxy) struct Slot(RwLock<Bound>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Slot {
    /// The service to ask.
    pub(in crate::proxy) fn tier(&self) -> Option<Arc<ServiceTier>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).tier.clone()
    }

    /// Where what is learnt goes.
    pub(in crate::proxy) fn uploads(&self) -> Option<Arc<UploadQueue>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).uploads.clone()
    }

    /// Puts another service in, and returns the one of before.
    pub(in crate::proxy) fn put(&self, bound: Bound) -> Bound {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), bound)
    }
}
