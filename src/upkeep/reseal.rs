//! Changing keys: a new one is added and seals from then on, and what older ones have sealed is written
//! anew. Whatever is sealed with the newest key already is passed over, so that breaking off loses nothing.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{AT_ONCE, Progress, ROWS, Stores, UpkeepError, day, limit};
use crate::catalog::Change;
use crate::store::blobs::Listed;
use crate::store::keys::{KeyId, KeyRing};
use crate::store::{records, sealed};

/// What was written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resealed {
    /// The key that seals.
    pub key: u32,
    /// Blobs written anew.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records written anew.
    pub records: u64,
    /// Blobs and records that were sealed with the newest key already.
    pub passed_over: u64,
    /// Blobs and records that cannot be opened, and stay as they are; `verify` tells which.
    pub unreadable: u64,
}

enum Done {
    Written(u64),
    PassedOver,
    Unreadable,
}

impl Stores {
    /// Writes everything anew that is not sealed with the newest key.
    ///
    /// # Errors
    /// When a store fails; running it again goes on from there.
    pub async fn reseal(&self, now: u64, progress: Progress<'_>) -> Result<Resealed, UpkeepError> {
        let current = self.ring.current().ok_or(UpkeepError::Seal)?.0;
        let mut report = Resealed { key: current.0, ..Resealed::default() };
        let listed = self.listed().await?;
        let done = AtomicU64::new(0);
        let mut results = stream::iter(&listed)
            .map(|blob| async {
                let resealed = self.reseal_blob(blob, current).await;
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, listed.len() as u64);
                resealed
            })
            .buffer_unordered(AT_ONCE);
        while let Some(resealed) = results.try_next().await? {
            match resealed {
                Done::Written(bytes) => {
                    (report.blobs, report.bytes) = (report.blobs + 1, report.bytes + bytes)
                }
                Done::PassedOver => report.passed_over += 1,
                Done::Unreadable => report.unreadable += 1,
            }
        }
        drop(results);
        self.reseal_records(current, now, &mut report).await?;
        if self.blobs.marker_key().await? != Some(current) {
            self.blobs.mark_anew(&self.ring).await?;
        }
        let detail = format!("{} blobs and {} records with key {}", report.blobs, report.records, current.0);
        self.catalog.audit(now, "reseal".into(), detail).await?;
        Ok(report)
    }

    async fn reseal_blob(&self, blob: &Listed, current: KeyId) -> Result<Done, UpkeepError> {
        let header = self.blobs.get_range(&blob.name, 0..sealed::HEADER_BYTES as u64).await?;
        // Taken down since it was listed.
        let Some(header) = header else { return Ok(Done::PassedOver) };
        if sealed::key_id(&header) == Some(current) {
            return Ok(Done::PassedOver);
        }
        let Some(bytes) = self.blobs.get(&blob.name).await? else { return Ok(Done::PassedOver) };
        let (ring, name) = (self.ring.clone(), blob.name);
        let sealing = move || {
            let (_, plain) = sealed::scrub(&ring, &name, &bytes, limit()).ok()?;
            let (hashed, packed) = (sealed::Hashed::of(&plain), sealed::is_packed(&bytes));
            sealed::seal(&ring, &name, &hashed, &plain, packed, rand::random()).ok()
        };
        let sealed = tokio::task::spawn_blocking(sealing).await.map_err(|_| UpkeepError::Seal)?;
        let Some(sealed) = sealed else { return Ok(Done::Unreadable) };
        // One that was taken down meanwhile must not come back.
        if !self.blobs.exists(&blob.name).await? {
            return Ok(Done::PassedOver);
        }
        let length = sealed.len() as u64;
        self.blobs.put(&blob.name, sealed).await?;
        Ok(Done::Written(length))
    }

    async fn reseal_records(
        &self,
        current: KeyId,
        now: u64,
        report: &mut Resealed,
    ) -> Result<(), UpkeepError> {
        let mut after = None;
        loop {
            let rows = self.rows(after).await?;
            for (hash, row) in &rows {
                if records::key_id(&row.record) == Some(current) {
                    report.passed_over += 1;
                    continue;
                }
                if records::open(&self.ring, hash, &row.record).is_err() {
                    report.unreadable += 1;
                    continue;
                }
                let (ring, hash) = (self.ring.clone(), *hash);
                // As it is by then: an attestation that came meanwhile stays.
                let decide = Box::new(move |old: Option<&[u8]>| {
                    let record = old.and_then(|old| records::read(&ring, &hash, old).ok());
                    let Some(record) = record else { return Change::default() };
                    let stored = record.contents.iter().filter(|content| content.stored);
                    let blobs = stored.map(|content| ring.blob_name(content.digest).0).collect();
                    Change { record: records::write(&ring, &hash, &record), blobs }
                });
                self.catalog.update(hash, day(now), decide).await?;
                report.records += 1;
            }
            match rows.last() {
                Some((hash, _)) if rows.len() >= ROWS as usize => after = Some(*hash),
                _ => return Ok(()),
            }
        }
    }
}

/// Adds a new master key to a key file: nodes that read it seal with it from then on.
///
/// # Errors
/// When the file cannot be read or written.
pub fn rotate(path: &Path) -> Result<KeyRing, UpkeepError> {
    let ring = KeyRing::read(path)?.with_new_key(rand::random());
    ring.replace(path)?;
    Ok(ring)
}

/// Takes the keys of a file over into the store's key file: into a new one, or in place of one whose keys are
/// all among them.
///
/// # Errors
/// When one of the files cannot be used, or holds keys of another store.
pub fn import(from: &Path, to: &Path) -> Result<KeyRing, UpkeepError> {
    let new = KeyRing::read(from)?;
    match KeyRing::read(to) {
        Err(crate::store::keys::KeyError::Missing { .. }) => new.write_new(to)?,
        Err(error) => return Err(error.into()),
        Ok(old) if new.contains(&old) => new.replace(to)?,
        Ok(_) => return Err(UpkeepError::OtherKeys(from.to_owned())),
    }
    Ok(new)
}
