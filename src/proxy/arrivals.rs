//! Who waits for an asset that somebody else is fetching.

use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::oneshot;

use super::learn::Target;
use crate::asset::{Asset, AssetKey};

/// A grid that has not delivered by then will hardly do so before the viewer has given up.
pub(super) const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// Assets waited for at a time; for more than these nobody waits.
const MAX_KEYS: usize = 16 * 1024;
/// Waiters for one asset.
const MAX_WAITERS: usize = 64;

/// Waiters by asset and origin.
#[derive(Default)]
pub(super) struct Arrivals(DashMap<(AssetKey, String), Vec<oneshot::Sender<Asset>>>);

impl Arrivals {
    /// Resolves when the asset has been learnt; fails when there are too many waiters.
    pub(super) fn wait(&self, target: &Target) -> oneshot::Receiver<Asset> {
        let (sender, receiver) = oneshot::channel();
        let key = target.table_key();
        if self.0.len() < MAX_KEYS || self.0.contains_key(&key) {
            let mut waiters = self.0.entry(key).or_default();
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.len() < MAX_WAITERS {
                waiters.push(sender);
            }
        }
        receiver
    }

    /// Forgets waiters that have gone.
    pub(super) fn tidy(&self, target: &Target) {
        self.0.remove_if_mut(&target.table_key(), |_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            waiters.is_empty()
        });
    }

    /// The asset has come.
    pub(super) fn announce(&self, target: &Target, asset: &Asset) {
        if self.0.is_empty() {
            return;
        }
        if let Some((_, waiters)) = self.0.remove(&target.table_key()) {
            for waiter in waiters {
                // Whoever has stopped waiting needs no answer.
                let _ = waiter.send(asset.clone());
            }
        }
    }
}
