//! Once a day one of the nodes goes through the catalog and makes counts of attestations that were
//! published long enough ago: the rule is in `publication`. What was only ever talked of, and past leases,
//! are removed: else whoever makes names up would fill the catalog.

use super::service::Service;
use crate::catalog::{CatalogError, Change, KeyHash};
use crate::publication::{self, Policy, Record};
use crate::store::records;

/// Rows read at once.
const PAGE: u32 = 256;
const DAY: u64 = 86_400;
/// For how many days a record is kept whose content nobody has brought, since the last word about it.
const KEEP_UNSTORED_DAYS: u64 = 30;
/// The lengths of what leases are taken in, in seconds: hours, days, years.
const WINDOWS: [u64; 3] = [3600, DAY, 365 * DAY];

impl Service {
    /// Takes today's turn, unless another node has taken it.
    pub(super) async fn fade(&self, now: u64) {
        match self.fade_all(now).await {
            Ok(0) => {}
            Ok(records) => tracing::info!(records, "attestations of 30 days ago are only counted now"),
            Err(error) => {
                tracing::warn!(%error, "attestations could not be shrunk to counts; tomorrow again")
            }
        }
    }

    async fn fade_all(&self, now: u64) -> Result<u64, CatalogError> {
        let turn = self.contents.ring.keyed_hash("turn of fading", &[]);
        if self.catalog.lease(turn, now / DAY, 1, 1).await? == 0 {
            return Ok(0);
        }
        // A record does not say of which grid it is: what may be served on any is taken as published.
        let policy = Policy { publish: true, confirmations: self.config.confirmations, central: true };
        for seconds in WINDOWS {
            // Numbers of hours, days and years are far apart. One window more is left to whoever is slow.
            let present = now / seconds;
            self.catalog.forget_leases(present / 2..present.saturating_sub(1)).await?;
        }
        let (mut after, mut faded) = (None, 0);
        loop {
            let rows = self.catalog.scan(after, PAGE).await?;
            let Some((last, _)) = rows.last() else { return Ok(faded) };
            after = Some(*last);
            let mut forsaken = Vec::new();
            for (hash, row) in &rows {
                let Ok(mut record) = records::read(&self.contents.ring, hash, &row.record) else { continue };
                if is_forsaken(&record, row.last_use_day, now) {
                    forsaken.push((*hash, row.record.clone()));
                    continue;
                }
                if publication::fade(&mut record, policy, now) {
                    self.fade_one(*hash, policy, row.last_use_day, now).await?;
                    faded += 1;
                }
            }
            if !forsaken.is_empty() {
                let removed = self.catalog.remove(forsaken).await?;
                tracing::info!(removed, "assets that nobody has brought are forgotten");
            }
        }
    }

    /// The same once more in a transaction, on what is there then.
    async fn fade_one(&self, hash: KeyHash, policy: Policy, day: u32, now: u64) -> Result<(), CatalogError> {
        let ring = self.contents.ring.clone();
        let decide = Box::new(move |old: Option<&[u8]>| {
            let record = old.and_then(|old| records::read(&ring, &hash, old).ok());
            let Some(mut record) = record else { return Change::default() };
            if !publication::fade(&mut record, policy, now) {
                return Change::default();
            }
            let stored = record.contents.iter().filter(|content| content.stored);
            let blobs = stored.map(|content| ring.blob_name(content.digest).0).collect();
            Change { record: records::write(&ring, &hash, &record), blobs }
        });
        self.catalog.update(hash, day, decide).await?;
        self.contents.hot.forget(&hash);
        Ok(())
    }
}

/// Whether a record is only of what was said long ago and never brought.
fn is_forsaken(record: &Record, last_use_day: u32, now: u64) -> bool {
    let words = record.contents.iter().flat_map(|content| &content.attestations).map(|said| said.at);
    let last = words.max().unwrap_or(0).max(u64::from(last_use_day) * DAY);
    let stored = record.contents.iter().any(|content| content.stored);
    !record.taken_down && !stored && last.saturating_add(KEEP_UNSTORED_DAYS * DAY) <= now
}
