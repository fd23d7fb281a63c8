//! Lookups made together: what more reads are wanted than go at a time, one message asks for all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{ReadKey, ServiceTier};
use crate::asset::{AssetId, AssetKind};
use crate::client::Way;
use crate::fetch::routing::first_digit;
use crate::grid::GridId;
use crate::wire::{MAX_LOOKUP, OriginHash};

/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_millis(1);

struct Wanted {
    key: ReadKey,
    /// The grid is of one operator.
    central: bool,
    told: oneshot::Sender<bool>,
}

/// Keys that wait to be looked up.
#[derive(Default)]
pub(super) struct Lookups(Mutex<Vec<Wanted>>);

impl ServiceTier {
    /// Whether the service has this, as far as it can be told; asked together with whatever else is
    /// wanted at this moment.
    pub(super) async fn is_there(self: &std::sync::Arc<Self>, key: &ReadKey, central: bool) -> bool {
        let (told, answer) = oneshot::channel();
        let first = {
            let mut waiting = self.lookups.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Wanted { key: key.clone(), central, told });
            waiting.len() == 1
        };
        if first {
            let tier = std::sync::Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                let batch = {
                    let mut waiting = tier.lookups.0.lock().unwrap_or_else(PoisonError::into_inner);
                    std::mem::take(&mut *waiting)
                };
                tier.look_up(batch).await;
            });
        }
        // Whoever gives no answer leaves it to the read.
        answer.await.unwrap_or(true)
    }

    async fn look_up(&self, mut batch: Vec<Wanted>) {
        while let Some(first) = batch.first() {
            let (grid, origin): (GridId, OriginHash) = (first.key.0.grid.clone(), first.key.1);
            let (central, digit) = (first.central, first_digit(first.key.0.id));
            // One message is one node's: that which is asked for the assets themselves.
            let (mut same, other): (Vec<_>, Vec<_>) = batch.into_iter().partition(|wanted| {
                let together = !central || first_digit(wanted.key.0.id) == digit;
                wanted.key.0.grid == grid && wanted.key.1 == origin && wanted.central == central && together
            });
            let way = Way { central, ..Way::to(&grid) };
            batch = other;
            while !same.is_empty() {
                let rest = same.split_off(same.len().min(MAX_LOOKUP));
                let assets: Vec<(AssetKind, AssetId)> =
                    same.iter().map(|wanted| (wanted.key.0.kind, wanted.key.0.id)).collect();
                if let Ok(found) = self.client().lookup_by(&way, &grid, Some(origin), assets).await {
                    for (wanted, found) in same.into_iter().zip(found) {
                        // Whoever does not wait any more has the grid's answer.
                        let _ = wanted.told.send(found.is_some());
                    }
                }
                same = rest;
            }
        }
    }
}
