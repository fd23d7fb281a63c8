//! The scrub: every blob opens and hashes to its digest, and every record names blobs that are there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;

use super::{AT_ONCE, Progress, ROWS, Stores, UpkeepError, day, limit};
use crate::catalog::Change;
use crate::publication;
use crate::store::blobs::Listed;
use crate::store::keys::BlobName;
use crate::store::records;
use crate::store::sealed::{self, SealError};

/// A blob without a record that is younger may still get one.
const ARRIVING: u64 = 3600;
/// Findings told one by one; the others are only counted.
const MAX_TOLD: usize = 1000;

/// What is wrong with a blob or a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The blob's name, or the keyed hash of the record.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// Assets that cannot be served because of it.
    pub assets: usize,
    /// Seconds since it was written; for blobs that are there.
    pub age_s: Option<u64>,
}

/// Findings of one sort.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// How many.
    pub count: u64,
    /// Their bytes in the store.
    pub bytes: u64,
    /// The first of them.
    pub first: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, bytes: u64, finding: Finding) {
        self.count += 1;
        self.bytes += bytes;
        if self.first.len() < MAX_TOLD {
            self.first.push(finding);
        }
    }
}

/// What a scrub has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Nothing is damaged and nothing is missing.
    pub ok: bool,
    /// Blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were read.
    pub records: u64,
    /// Blobs that do not open, or hash to something else.
    pub damaged: Findings,
    /// Blobs that records name and the store does not hold.
    pub missing: Findings,
    /// Records that cannot be read.
    pub unreadable: Findings,
    /// Blobs that no record names: an upload that broke off between blob and record. No damage.
    pub orphans: Findings,
    /// Such blobs of the last hour: their records may be on the way.
    pub arriving: u64,
    /// Blobs taken down, which wait in the hold to be destroyed.
    pub held: u64,
    /// Contents that are wanted again because their blob was damaged or missing, and blobs put away; with
    /// repair only.
    pub repaired: u64,
}

/// What the records say of a blob.
#[derive(Clone, Copy, Default)]
struct Named {
    assets: usize,
    size: u64,
    seen: bool,
}

impl Stores {
    /// Reads everything. With `repair` the content of a damaged or missing blob is wanted again from
    /// whoever has it, and damaged blobs and old orphans go to the hold.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn verify(
        &self,
        repair: bool,
        now: u64,
        progress: Progress<'_>,
    ) -> Result<Verified, UpkeepError> {
        // The blobs first: one that is written meanwhile is in neither list.
        let listed = self.listed().await?;
        let mut report = Verified { blobs: listed.len() as u64, ..Verified::default() };
        let mut named = self.named(&mut report, now).await?;
        let done = AtomicU64::new(0);
        let mut results = stream::iter(&listed)
            .map(|blob| async {
                let checked = self.check(blob).await;
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, listed.len() as u64);
                checked.map(|checked| (*blob, checked))
            })
            .buffer_unordered(AT_ONCE);
        while let Some((blob, checked)) = results.try_next().await? {
            report.bytes += blob.size;
            let known = named.get_mut(&blob.name);
            let (assets, size) = known.as_ref().map_or((0, None), |named| (named.assets, Some(named.size)));
            if let Some(known) = known {
                known.seen = true;
            }
            let age_s = Some(now.saturating_sub(blob.at));
            let finding = |what: String| Finding { name: blob.name.to_string(), what, assets, age_s };
            match checked {
                // Taken down since it was listed.
                Checked::Gone => {}
                Checked::Bad(what) => {
                    report.damaged.add(blob.size, finding(what));
                    report.repaired += self.give_up(repair, &blob.name, true, now).await?;
                }
                // The blob may be as good as its key file is old: it is told, and left where it is. Nodes that
                // cannot open it have it brought again without this.
                Checked::Locked(what) => report.damaged.add(blob.size, finding(what)),
                Checked::Good(length) => match size {
                    Some(size) if size != length => {
                        let what = format!("it holds {length} bytes, and its record says {size}");
                        report.damaged.add(blob.size, finding(what));
                        report.repaired += self.give_up(repair, &blob.name, true, now).await?;
                    }
                    Some(_) => {}
                    None if !self.catalog.keys_of_blob(blob.name.0).await?.is_empty() => {}
                    None if now.saturating_sub(blob.at) < ARRIVING => report.arriving += 1,
                    None => {
                        let what = "written, its record was not: an upload that broke off".to_owned();
                        report.orphans.add(blob.size, finding(what));
                        if repair {
                            self.blobs.hold(&blob.name, now).await?;
                            report.repaired += 1;
                        }
                    }
                },
            }
        }
        drop(results);
        for (name, Named { assets, .. }) in named.iter().filter(|(_, named)| !named.seen) {
            // Written since the list was made, or taken down.
            if self.blobs.exists(name).await? || self.catalog.keys_of_blob(name.0).await?.is_empty() {
                continue;
            }
            let what = "named by a record, and not in the store".to_owned();
            report.missing.add(0, Finding { name: name.to_string(), what, assets: *assets, age_s: None });
            report.repaired += self.give_up(repair, name, false, now).await?;
        }
        report.held = self.blobs.list_held().try_fold(0, |count, _| async move { Ok(count + 1) }).await?;
        report.ok = [&report.damaged, &report.missing, &report.unreadable].iter().all(|list| list.count == 0);
        Ok(report)
    }

    /// All blobs that records name.
    async fn named(&self, report: &mut Verified, now: u64) -> Result<HashMap<BlobName, Named>, UpkeepError> {
        let mut named: HashMap<BlobName, Named> = HashMap::new();
        let mut after = None;
        loop {
            let rows = self.rows(after).await?;
            report.records += rows.len() as u64;
            for (hash, row) in &rows {
                match records::read(&self.ring, hash, &row.record) {
                    Ok(record) => {
                        for content in record.contents.iter().filter(|content| content.stored) {
                            let known = named.entry(self.ring.blob_name(content.digest)).or_default();
                            known.assets += 1;
                            known.size = content.size;
                        }
                    }
                    Err(error) => {
                        let finding = Finding {
                            name: BlobName(*hash).to_string(),
                            what: error.to_string(),
                            assets: 1,
                            age_s: Some(u64::from(day(now).saturating_sub(row.last_use_day)) * 86_400),
                        };
                        report.unreadable.add(0, finding);
                    }
                }
            }
            match rows.last() {
                Some((hash, _)) if rows.len() >= ROWS as usize => after = Some(*hash),
                _ => return Ok(named),
            }
        }
    }

    /// Reads a blob, and what cannot be opened once more: it may have been damaged on its way only.
    async fn check(&self, blob: &Listed) -> Result<Checked, UpkeepError> {
        match self.check_once(blob).await? {
            Checked::Bad(_) => self.check_once(blob).await,
            checked => Ok(checked),
        }
    }

    async fn check_once(&self, blob: &Listed) -> Result<Checked, UpkeepError> {
        let Some(bytes) = self.blobs.get(&blob.name).await? else { return Ok(Checked::Gone) };
        let (ring, name) = (self.ring.clone(), blob.name);
        let checking = move || match sealed::scrub(&ring, &name, &bytes, limit()) {
            Ok((_, plain)) => Checked::Good(plain.len() as u64),
            Err(error @ (SealError::UnknownKey(_) | SealError::WrongKey(_))) => {
                Checked::Locked(error.to_string())
            }
            Err(error) => Checked::Bad(error.to_string()),
        };
        // Nobody has looked at it, so nothing is known of it.
        let unchecked = |_| Checked::Locked("checking it broke off".into());
        Ok(tokio::task::spawn_blocking(checking).await.unwrap_or_else(unchecked))
    }

    /// Marks a content as not stored, for all assets that have it, and puts its blob away.
    async fn give_up(
        &self,
        repair: bool,
        name: &BlobName,
        there: bool,
        now: u64,
    ) -> Result<u64, UpkeepError> {
        if !repair {
            return Ok(0);
        }
        for hash in self.catalog.keys_of_blob(name.0).await? {
            let (ring, name) = (self.ring.clone(), *name);
            let decide = Box::new(move |old: Option<&[u8]>| {
                let record = old.and_then(|old| records::read(&ring, &hash, old).ok());
                let Some(mut record) = record else { return Change::default() };
                let lost = record.contents.iter().map(|content| content.digest);
                let lost: Vec<_> = lost.filter(|digest| ring.blob_name(*digest) == name).collect();
                for digest in lost {
                    publication::body_lost(&mut record, digest);
                }
                let stored = record.contents.iter().filter(|content| content.stored);
                let blobs = stored.map(|content| ring.blob_name(content.digest).0).collect();
                Change { record: records::write(&ring, &hash, &record), blobs }
            });
            self.catalog.update(hash, day(now), decide).await?;
        }
        if there {
            self.blobs.hold(name, now).await?;
        }
        Ok(1)
    }
}

enum Checked {
    Good(u64),
    Bad(String),
    /// These keys do not open it.
    Locked(String),
    Gone,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::{Change, Stores, records, sealed};
    use crate::asset::Digest;
    use crate::catalog::{Catalog as _, SqliteCatalog};
    use crate::publication::{Content, Record};
    use crate::store::blobs::Blobs;
    use crate::store::keys::KeyRing;

    const BYTES: &[u8] = b"a content that is quite whole";

    /// A store with one blob, sealed with `sealed_with`, opened with other keys.
    async fn stores(sealed_with: &KeyRing, ring: KeyRing) -> Stores {
        let (blobs, catalog) = (Blobs::open("memory:").unwrap(), SqliteCatalog::in_memory().unwrap());
        let (digest, name) = (Digest::of(BYTES), ring.blob_name(Digest::of(BYTES)));
        let hashed = sealed::Hashed::of(BYTES);
        let blob = sealed::seal(sealed_with, &name, &hashed, BYTES, false, [3; 32]).unwrap();
        blobs.put(&name, blob).await.unwrap();
        let content = Content { stored: true, size: BYTES.len() as u64, ..Content::new(digest) };
        let record = Record { contents: vec![content], ..Record::default() };
        let written = records::write(&ring, &[7; 32], &record);
        let decide = move |_: Option<&[u8]>| Change { record: written.clone(), blobs: vec![name.0] };
        catalog.update([7; 32], 1, Box::new(decide)).await.unwrap();
        Stores { blobs, ring, catalog: Arc::new(catalog) }
    }

    #[tokio::test]
    async fn with_an_old_key_file_no_blob_is_put_away() {
        let old = KeyRing::new([1; 32], [2; 32]);
        let rotated = old.clone().with_new_key([9; 32]);
        let another = KeyRing::new([1; 32], [8; 32]);
        for sealed_with in [rotated, another] {
            let stores = stores(&sealed_with, old.clone()).await;
            let report = stores.verify(true, crate::upkeep::now(), &|_, _| {}).await.unwrap();
            assert_eq!((report.ok, report.damaged.count, report.repaired, report.held), (false, 1, 0, 0));
            assert!(report.damaged.first[0].what.contains("key file"), "{report:?}");
            let name = old.blob_name(Digest::of(BYTES));
            assert!(stores.blobs.exists(&name).await.unwrap());
            assert_eq!(stores.catalog.keys_of_blob(name.0).await.unwrap(), [[7; 32]], "it is still named");
        }
        // With its own key there is nothing to find; and what is damaged does go.
        let stores = stores(&old, old.clone()).await;
        assert!(stores.verify(true, crate::upkeep::now(), &|_, _| {}).await.unwrap().ok);
        let name = old.blob_name(Digest::of(BYTES));
        let mut blob = stores.blobs.get(&name).await.unwrap().unwrap().to_vec();
        *blob.last_mut().unwrap() ^= 1;
        stores.blobs.put(&name, blob).await.unwrap();
        let report = stores.verify(true, crate::upkeep::now(), &|_, _| {}).await.unwrap();
        assert_eq!((report.damaged.count, report.repaired, report.held), (1, 1, 1));
    }
}
