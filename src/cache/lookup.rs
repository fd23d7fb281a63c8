//! Looking things up: memory, then what waits to be written, then the disk.

use std::sync::Arc;

use super::claims::{Claim, Scope, choose};
use super::disk::{Disk, ReadFault, is_condemned};
use super::files::{FileId, Stem};
use super::index::Candidates;
use super::partial::{PartialAsset, PartialKey};
use super::queue::{Job, Parts};
use super::{LocalCache, Lookup, Shared, lock};
use crate::asset::{Asset, AssetKey, AssetSource};
use crate::support::metrics::Counter;

/// How often a lookup starts again because the writer was faster.
const ATTEMPTS: usize = 3;

/// The writer replaced or evicted a file while we looked at it.
struct Outrun;

impl LocalCache {
    /// The whole asset, if memory has it. Microseconds.
    #[must_use]
    pub fn get_memory(&self, key: &AssetKey, scope: &Scope) -> Option<Asset> {
        let (asset, stem) = lock(&self.shared.memory).get(key, scope)?;
        // What is hot in memory must not grow cold on disk. A hint: not worth waiting for.
        if let Ok(mut index) = self.shared.index.try_lock() {
            index.touch(stem);
        }
        Some(asset)
    }

    /// Looks in memory, then on disk. Waits for the disk no longer than the configured deadline.
    pub async fn get(&self, key: &AssetKey, scope: &Scope) -> Lookup {
        if let Some(asset) = self.get_memory(key, scope) {
            return Lookup::Hit { asset, source: AssetSource::Memory };
        }
        let request =
            Request { key: key.clone(), scope: scope.clone(), stem: Stem::of(key), shared: self.shared() };
        let Some(disk) = request.shared.disk.clone() else {
            return request.parts_in_memory().map_or(Lookup::Miss, Lookup::Partial);
        };
        let waiting = request.shared.queue.lock().find_put(key, scope);
        if let Some(asset) = waiting {
            return Lookup::Hit { asset, source: AssetSource::Memory };
        }
        if !request.needs_disk() {
            return request.parts_in_memory().map_or(Lookup::Miss, Lookup::Partial);
        }
        let shared = self.shared();
        let answer = shared.gate.run(move || request.look_on(&disk)).await;
        answer.unwrap_or_else(|| {
            shared.metrics.count(Counter::StoreBusy);
            Lookup::Busy
        })
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

struct Request {
    key: AssetKey,
    scope: Scope,
    stem: Stem,
    shared: Arc<Shared>,
}

impl Request {
    fn whose(&self) -> PartialKey {
        PartialKey { key: self.key.clone(), origin: self.scope.origin.clone() }
    }

    fn candidates(&self) -> Candidates {
        lock(&self.shared.index).candidates(self.stem, self.parts_file())
    }

    fn parts_file(&self) -> FileId {
        FileId::parts(self.stem, &self.scope.origin)
    }

    /// Whether the disk can know more than memory does.
    fn needs_disk(&self) -> bool {
        let Candidates { wholes, parts, .. } = self.candidates();
        let claims: Option<Vec<&Claim>> = wholes.iter().map(|(_, _, claim)| claim.as_ref()).collect();
        let whole = match claims {
            Some(claims) => choose(&claims, &self.scope, true).is_some(),
            None => true,
        };
        whole || parts.is_some() && self.parts_in_memory().is_none()
    }

    /// The parts that memory or the queue has.
    fn parts_in_memory(&self) -> Option<PartialAsset> {
        let whose = self.whose();
        let held = lock(&self.shared.parts).get(&whose);
        held.or_else(|| match self.shared.queue.lock().waiting_parts(&whose) {
            Some(Parts::Write(parts)) => Some(parts.clone()),
            _ => None,
        })
    }

    fn look_on(&self, disk: &Disk) -> Lookup {
        for _ in 0..ATTEMPTS {
            if let Ok(asset) = self.whole_on(disk) {
                if let Some(asset) = asset {
                    return Lookup::Hit { asset, source: AssetSource::Disk };
                }
                break;
            }
        }
        self.parts_in_memory()
            .or_else(|| self.parts_on(disk, self.candidates().parts?))
            .map_or(Lookup::Miss, Lookup::Partial)
    }

    fn whole_on(&self, disk: &Disk) -> Result<Option<Asset>, Outrun> {
        // Before the candidates: what is written in between is then in both, which does no harm.
        let waiting = self.shared.queue.lock().waiting_words(&self.key);
        let candidates = self.candidates();
        let mut known: Vec<(FileId, u64, Claim)> = Vec::with_capacity(candidates.wholes.len());
        let mut all_known = true;
        for (id, generation, claim) in candidates.wholes {
            match claim.map_or_else(|| disk.read_claim(id, &self.key), Ok) {
                Ok(claim) => {
                    lock(&self.shared.index).learn(id, generation, &claim);
                    known.push((id, generation, claim));
                }
                Err(fault) => {
                    all_known &= !matches!(fault, ReadFault::Unreadable(_));
                    self.report(id, generation, &fault)?;
                }
            }
        }
        let valid: Vec<Claim> = known.iter().map(|(_, _, claim)| claim.without(&waiting)).collect();
        let chosen = choose(&valid.iter().collect::<Vec<_>>(), &self.scope, all_known);
        let Some((id, generation, expected)) = chosen.and_then(|index| known.get(index)) else {
            return Ok(None);
        };
        match disk.read_whole(*id, &self.key) {
            Ok((claim, _)) if claim.digest != expected.digest => Err(Outrun),
            // The writer renames first and enters it in the index then; the file's word counts.
            Ok((claim, bytes)) => {
                if choose(&[&claim.without(&waiting)], &self.scope, all_known).is_none() {
                    return Err(Outrun);
                }
                let asset = Asset { digest: claim.digest, bytes };
                self.promote(*id, *generation, &claim, &asset, all_known && known.len() == 1);
                Ok(Some(asset))
            }
            Err(fault) => {
                self.report(*id, *generation, &fault)?;
                Ok(None)
            }
        }
    }

    /// Puts what was read into memory, unless something newer has come meanwhile.
    fn promote(&self, id: FileId, generation: u64, claim: &Claim, asset: &Asset, alone: bool) {
        let queue = self.shared.queue.lock();
        // A word that was taken back while the file was read stays taken back.
        let claim = claim.without(&queue.waiting_words(&self.key));
        if claim.origins.is_empty() {
            return;
        }
        let mut index = lock(&self.shared.index);
        index.touch_file(id);
        let current = index.is_current(id, generation) && !queue.has_put(&self.key);
        drop(index);
        if current {
            let mut memory = lock(&self.shared.memory);
            memory.promote(&self.key, self.stem, claim, asset.bytes.clone(), alone);
        }
    }

    fn parts_on(&self, disk: &Disk, generation: u64) -> Option<PartialAsset> {
        let (id, whose) = (self.parts_file(), self.whose());
        if matches!(self.shared.queue.lock().waiting_parts(&whose), Some(Parts::Drop)) {
            return None;
        }
        match disk.read_parts(id, &self.key, &self.scope.origin) {
            Ok(parts) => {
                let queue = self.shared.queue.lock();
                let mut index = lock(&self.shared.index);
                index.touch_file(id);
                let current = index.is_current(id, generation) && queue.waiting_parts(&whose).is_none();
                drop(index);
                // Dropped or replaced while we read.
                current.then(|| {
                    lock(&self.shared.parts).set_read_back(&whose, parts.clone());
                    parts
                })
            }
            Err(fault) => {
                // Replaced while we read: a miss, this time.
                let _ = self.report(id, generation, &fault);
                None
            }
        }
    }

    /// A file gave nothing: takes it out of the index when it is damaged or gone.
    fn report(&self, id: FileId, generation: u64, fault: &ReadFault) -> Result<(), Outrun> {
        let mut index = lock(&self.shared.index);
        if !is_condemned(id, fault) {
            index.mark_unreadable(id, generation);
            return Ok(());
        }
        if !index.is_current(id, generation) {
            return Err(Outrun);
        }
        let taken = index.take_if(id, generation);
        drop(index);
        if taken.is_none() && matches!(fault, ReadFault::Missing) {
            // A name that was only tried.
            return Ok(());
        }
        self.shared.metrics.count(Counter::StoreCorrupt);
        tracing::debug!(%fault, "a stored file was dropped");
        let size = taken.map_or(0, |entry| entry.size);
        self.shared.queue.lock().push(Job::Remove { id, generation, size });
        self.shared.queue.notify();
        Ok(())
    }
}
