//! Destroys what was taken down, once its time in the hold is over.

use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::{Stores, UpkeepError};

/// How long what was taken down waits in the hold before nodes destroy it.
pub const HOLD_DAYS: u64 = 30;

/// What was destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Blobs destroyed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stay in the hold.
    pub left: u64,
    /// Nothing was changed.
    pub dry_run: bool,
}

impl Stores {
    /// Destroys what has been in the hold for this long.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn prune_hold(
        &self,
        older_than_s: u64,
        dry_run: bool,
        now: u64,
    ) -> Result<Pruned, UpkeepError> {
        let until = now.saturating_sub(older_than_s);
        let mut report = Pruned { dry_run, ..Pruned::default() };
        let mut held = self.blobs.list_held();
        while let Some(blob) = held.try_next().await? {
            if blob.at <= until {
                (report.blobs, report.bytes) = (report.blobs + 1, report.bytes + blob.size);
            } else {
                report.left += 1;
            }
        }
        if !dry_run {
            (report.blobs, report.bytes) = self.blobs.destroy_held(until).await?;
            let detail = format!("{} blobs of the hold destroyed", report.blobs);
            self.catalog.audit(now, "prune".into(), detail).await?;
        }
        Ok(report)
    }
}
