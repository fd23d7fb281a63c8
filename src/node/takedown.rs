//! Taking assets down for good. Whatever breaks off is finished by the same request: an asset is closed
//! first and keeps the digests of its contents until their blobs are in the hold. (One by digest that is
//! asked for again puts that content away; another that one of its assets had is by then an orphan, which
//! the scrub puts away.)
//!
//! What is taken down by its digest leaves a tombstone: a row of the catalog under a keyed hash of the
//! digest. An upload looks there once more after its record is written, and a take-down looks for records
//! after its tombstone is, so that one of the two finds the other.

use std::sync::{Arc, Mutex, PoisonError};

use super::caller::Caller;
use super::counters::Count;
use super::hot::Known;
use super::refusal::Refusal;
use super::service::{Service, day, now};
use crate::asset::{AssetKey, Digest};
use crate::catalog::{Change, KeyHash};
use crate::publication::Record;
use crate::store::{records, tags};

/// What is taken down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// One asset, whatever its content.
    Key(AssetKey),
    /// Every asset of a content.
    Content(Digest),
}

impl Service {
    /// Takes assets down for good.
    pub(super) async fn take_down(
        &self,
        caller: &Caller,
        victim: Victim,
        dry_run: bool,
    ) -> Result<usize, Refusal> {
        caller.may_administer(match &victim {
            Victim::Key(key) => Some(&key.grid),
            Victim::Content(_) => None,
        })?;
        let mut keys = self.keys_of(&victim).await?;
        if dry_run {
            return Ok(keys.len());
        }
        // Who said so must be known even if it breaks off.
        let detail = format!("{} assets by {:?}", keys.len(), caller.who.tenant);
        let audited = self.catalog.audit(now(), "take down".into(), detail).await;
        audited.map_err(|error| self.catalog_fails(&error))?;
        let mut contents = Vec::new();
        if let Victim::Content(digest) = &victim {
            self.shut(tags::content(&self.contents.ring, *digest)).await?;
            contents.push(*digest);
            keys = self.keys_of(&victim).await?;
        }
        for hash in &keys {
            contents.append(&mut self.shut(*hash).await?);
        }
        contents.sort_unstable();
        contents.dedup();
        for digest in contents {
            self.hold_unnamed(digest).await?;
        }
        for hash in &keys {
            self.empty(*hash).await?;
        }
        self.counters.add(Count::TakenDown, keys.len() as u64);
        Ok(keys.len())
    }

    async fn keys_of(&self, victim: &Victim) -> Result<Vec<KeyHash>, Refusal> {
        match victim {
            Victim::Key(key) => Ok(vec![self.key_hash(key)]),
            Victim::Content(digest) => {
                let name = self.contents.ring.blob_name(*digest);
                self.catalog.keys_of_blob(name.0).await.map_err(|error| self.catalog_fails(&error))
            }
        }
    }

    /// Marks a record as taken down; what is left of it are the digests of its contents, which are returned.
    async fn shut(&self, hash: KeyHash) -> Result<Vec<Digest>, Refusal> {
        let contents: Arc<Mutex<Option<Vec<Digest>>>> = Arc::default();
        let (told, ring) = (Arc::clone(&contents), self.contents.ring.clone());
        let decide = Box::new(move |old: Option<&[u8]>| {
            // One that cannot be read must go all the same; its blobs are then orphans.
            let mut record = old.and_then(|old| records::read(&ring, &hash, old).ok()).unwrap_or_default();
            record.taken_down = true;
            for content in &mut record.contents {
                content.stored = false;
                content.voices = 0;
                content.counts.clear();
                content.attestations.clear();
            }
            let record_bytes = records::write(&ring, &hash, &record);
            *told.lock().unwrap_or_else(PoisonError::into_inner) = record_bytes
                .is_some()
                .then(|| record.contents.iter().map(|content| content.digest).collect());
            Change { record: record_bytes, blobs: Vec::new() }
        });
        let updated = self.catalog.update(hash, day(now()), decide).await;
        updated.map_err(|error| self.catalog_fails(&error))?;
        let before = self.contents.hot.forget(&hash);
        self.drop_contents(before.flatten().as_deref()).await;
        let contents = contents.lock().unwrap_or_else(PoisonError::into_inner).take();
        contents.ok_or_else(Refusal::unavailable)
    }

    /// Whether a content was taken down by its digest, as far as the catalog's servers know; not remembered,
    /// since only who writes asks.
    pub(super) async fn is_buried(&self, digest: Digest) -> Result<bool, Refusal> {
        let tombstone = tags::content(&self.contents.ring, digest);
        let rows = self.catalog.read(vec![tombstone]).await.map_err(|error| self.catalog_fails(&error))?;
        let record = rows.into_iter().flatten().next().and_then(|row| self.opened(&tombstone, &row.record));
        Ok(record.is_some_and(|record| record.taken_down))
    }

    /// Forgets a content, and puts its blob into the hold unless an asset is left that names it.
    pub(super) async fn hold_unnamed(&self, digest: Digest) -> Result<(), Refusal> {
        self.contents.forget(digest).await;
        let name = self.contents.ring.blob_name(digest);
        let named = self.catalog.keys_of_blob(name.0).await;
        if named.map_err(|error| self.catalog_fails(&error))?.is_empty() {
            self.contents.blobs.hold(&name, now()).await.map_err(|error| {
                tracing::warn!(%error, "a blob cannot be put into the hold; take it down once more");
                Refusal::unavailable()
            })?;
        }
        Ok(())
    }

    /// Its contents are in the hold: the record need not name them any more.
    async fn empty(&self, hash: KeyHash) -> Result<(), Refusal> {
        let ring = self.contents.ring.clone();
        let decide = Box::new(move |old: Option<&[u8]>| {
            let record = old.and_then(|old| records::read(&ring, &hash, old).ok());
            match record {
                Some(mut record) if record.taken_down && !record.contents.is_empty() => {
                    record.contents.clear();
                    Change { record: records::write(&ring, &hash, &record), blobs: Vec::new() }
                }
                _ => Change::default(),
            }
        });
        let updated = self.catalog.update(hash, day(now()), decide).await;
        updated.map_err(|error| self.catalog_fails(&error))?;
        self.contents.hot.forget(&hash);
        Ok(())
    }

    /// Undoes what an upload has stored of something that was taken down meanwhile: by its name, or, which
    /// only the catalog's primary knows at this moment, by its digest. Whether it was.
    pub(super) async fn undo_if_taken_down(
        &self,
        hash: KeyHash,
        digest: Digest,
        by_name: bool,
    ) -> Result<bool, Refusal> {
        if by_name {
            self.hold_unnamed(digest).await?;
            return Ok(true);
        }
        let (ring, tombstone) = (self.contents.ring.clone(), tags::content(&self.contents.ring, digest));
        let found = Arc::new(Mutex::new(false));
        let told = Arc::clone(&found);
        let look = Box::new(move |old: Option<&[u8]>| {
            let record = old.and_then(|old| records::read(&ring, &tombstone, old).ok());
            *told.lock().unwrap_or_else(PoisonError::into_inner) =
                record.is_some_and(|record| record.taken_down);
            Change::default()
        });
        let looked = self.catalog.update(tombstone, day(now()), look).await;
        looked.map_err(|error| self.catalog_fails(&error))?;
        if !*found.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(false);
        }
        self.shut(hash).await?;
        self.hold_unnamed(digest).await?;
        self.empty(hash).await?;
        Ok(true)
    }

    /// Another node has taken an asset down: what this one knows of its contents goes too.
    pub(super) async fn follow_take_down(&self, before: Option<Known>, record: Option<&Record>) {
        let Some(record) = record.filter(|record| record.taken_down) else { return };
        let before = before.flatten().filter(|before| !before.taken_down);
        if before.is_some() {
            self.drop_contents(Some(record)).await;
        }
        self.drop_contents(before.as_deref()).await;
    }

    async fn drop_contents(&self, record: Option<&Record>) {
        for content in record.into_iter().flat_map(|record| &record.contents) {
            self.contents.forget(content.digest).await;
        }
    }

    /// Drops from the disk tier what is in the hold, whoever put it there, and what is too old.
    pub(super) async fn sweep_disk(&self) {
        use futures_util::TryStreamExt as _;
        let Some(disk) = self.contents.disk.clone() else { return };
        let held = self.contents.blobs.list_held().try_for_each(|held| {
            let disk = Arc::clone(&disk);
            async move {
                let _ = tokio::task::spawn_blocking(move || disk.drop_blob(&held.name)).await;
                Ok(())
            }
        });
        if let Err(error) = held.await {
            tracing::warn!(%error, "the hold cannot be read; the disk tier may keep what was taken down");
        }
        let _ = tokio::task::spawn_blocking(move || disk.sweep()).await;
    }
}

#[cfg(test)]
mod tests;
