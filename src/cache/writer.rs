//! The one thread that changes the disk tier: first the start-up scan, then whatever is queued.
//!
//! Because nobody else writes, renames or removes, the account of bytes is exact and the cap is
//! hard: room is made before a byte is written. Every file gets its name by a rename, so a process
//! that dies at any instant leaves whole files, and temporary ones that the next scan removes.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::claims::{Claim, MAX_VARIANTS, weakest};
use super::disk::{Disk, ReadFault};
use super::files::{FileId, Stem, on_disk, shard_name};
use super::format::{Content, Extent, Header};
use super::index::{Entry, Index, variants};
use super::partial::{PartialAsset, PartialKey};
use super::queue::{Job, NOTHING, Parts, PutJob, Work};
use super::{Shared, lock, unix_now, usage};
use crate::asset::{AssetKey, Digest};
use crate::grid::Origin;
use crate::support::metrics::Counter;

const SAVE_USAGE_EVERY: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Files that would not be removed before room-making gives up.
const MAX_STUBBORN: usize = 16;
/// Files entered into the index per lock, so that readers get in between.
const SCAN_BATCH: usize = 256;

/// What became of an asset.
enum Outcome {
    Written,
    Known,
    NoRoom,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Disk,
    /// Held while we live; another process then knows that this directory is in use.
    pub(super) _lock: Option<File>,
    /// What the usage file takes on disk.
    pub(super) usage_size: u64,
    pub(super) pause: Duration,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, disk: Disk, lock: Option<File>) -> Self {
        Self { shared, disk, _lock: lock, usage_size: 0, pause: FIRST_PAUSE }
    }

    /// Runs until the store is closed.
    pub(super) fn run(mut self) {
        if self.scan().is_break() {
            return;
        }
        self.make_room(0);
        self.report_size();
        let mut save_at = Instant::now() + SAVE_USAGE_EVERY;
        loop {
            match self.shared.queue.next(save_at) {
                Work::Job(job) => self.work(job),
                Work::Parts(key, parts) => self.settle_parts(&key, parts),
                Work::Idle => {}
                Work::Close => break,
            }
            if Instant::now() >= save_at {
                self.save_usage();
                save_at = Instant::now() + SAVE_USAGE_EVERY;
            }
            self.report_size();
        }
        self.save_usage();
    }

    fn report_size(&self) {
        let (objects, bytes) = lock(&self.shared.index).size();
        self.shared.metrics.set_store_size(objects, bytes);
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Put(put) => {
                let outcome = self.store(&put);
                self.shared.queue.finish_put(&put);
                match outcome {
                    Ok(Outcome::Written) => self.succeeded(Counter::StoreWrites),
                    Ok(Outcome::Known) => {}
                    Ok(Outcome::NoRoom) => self.shared.metrics.count(Counter::StoreWritesSkipped),
                    Err(error) => self.failed(&error),
                }
            }
            Job::Disclaim { key, stem, origin, digest } => {
                let mut claims = self.claims(stem, &key);
                self.withdraw_others(&mut claims, &key, &origin, digest);
                self.remove(FileId::parts(stem, &origin));
            }
            Job::Withdraw { key, stem, origin } => {
                let mut claims = self.claims(stem, &key);
                self.withdraw_others(&mut claims, &key, &origin, NOTHING);
                self.remove(FileId::parts(stem, &origin));
                self.shared.queue.finish_withdrawal(&key, &origin);
            }
            Job::Remove { id, generation, size } => self.remove_damaged(id, generation, size),
            Job::Trim => {
                self.make_room(0);
            }
            Job::Clear => self.clear(),
            Job::Flush(done) => {
                while let Some((key, parts)) = self.shared.queue.next_parts() {
                    self.settle_parts(&key, parts);
                }
                self.report_size();
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn succeeded(&mut self, counter: Counter) {
        self.shared.metrics.count(counter);
        self.pause = FIRST_PAUSE;
    }

    /// A full or broken disk: count it, and give it a little time. The queue goes on filling, and
    /// answering, meanwhile.
    fn failed(&mut self, error: &io::Error) {
        self.shared.metrics.count(Counter::StoreWriteFailures);
        tracing::warn!(%error, "the local store could not write");
        self.shared.queue.pause(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    // ---- the start-up scan -----------------------------------------------------------------

    /// Finds out what is there and removes what an interrupted write left. Breaks off when the
    /// store is closed with nothing to write.
    fn scan(&mut self) -> ControlFlow<()> {
        let usage_path = self.disk.root().join(usage::FILE);
        let _ = self.disk.files.remove(&self.disk.root().join(usage::TEMPORARY));
        if let Ok((bytes, len)) = self.disk.files.read(&usage_path, usage::MAX_BYTES) {
            self.usage_size = on_disk(len);
            let mut index = lock(&self.shared.index);
            index.add_unowned(len);
            let standings = usage::decode(&bytes);
            // A damaged file is replaced by a sound one.
            index.usage_changed |= standings.is_none();
            index.remember(standings.unwrap_or_default());
        }
        for shard in 0..=u8::MAX {
            if self.shared.queue.may_stop() {
                return ControlFlow::Break(());
            }
            let directory = self.disk.root().join(shard_name(shard));
            if let Err(error) = self.scan_shard(shard, &directory)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, shard, "a directory of the local store cannot be listed");
            }
            lock(&self.shared.index).shard_is_known(shard);
        }
        lock(&self.shared.index).all_known();
        self.shared.scanned.store(true, std::sync::atomic::Ordering::Release);
        ControlFlow::Continue(())
    }

    fn scan_shard(&self, shard: u8, directory: &Path) -> io::Result<()> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let temporary = name.strip_suffix(".tmp");
            let Some(id) = FileId::from_name(temporary.unwrap_or(name)) else { continue };
            // A name under the wrong directory is never looked up; it is not ours to count.
            let Some(len) = entry.metadata().ok().filter(fs::Metadata::is_file).map(|data| data.len()) else {
                continue;
            };
            if id.stem.shard() != shard {
                continue;
            }
            if temporary.is_none() {
                found.push((id, len));
            } else if self.disk.files.remove(&entry.path()).is_err() {
                lock(&self.shared.index).add_unowned(len);
            }
        }
        for batch in found.chunks(SCAN_BATCH) {
            let mut index = lock(&self.shared.index);
            for (id, len) in batch {
                index.add_scanned(*id, *len);
            }
        }
        Ok(())
    }

    // ---- whole assets ----------------------------------------------------------------------

    fn store(&self, job: &PutJob) -> io::Result<Outcome> {
        let mut claims = self.claims(job.stem, &job.key);
        self.withdraw_others(&mut claims, &job.key, &job.origin, job.asset.digest);
        self.remove(FileId::parts(job.stem, &job.origin));
        let same = claims.iter().find(|(_, claim)| claim.digest == job.asset.digest);
        let (id, claim) = if let Some((id, claim)) = same {
            let mut claim = claim.clone();
            let unreadable = lock(&self.shared.index).get(*id).is_some_and(|entry| entry.unreadable);
            if !claim.add(&job.origin) && !unreadable {
                return Ok(Outcome::Known);
            }
            (*id, claim)
        } else {
            let claim = Claim::new(job.asset.digest, job.origin.clone(), job.stored);
            (self.free_variant(job.stem, &claims), claim)
        };
        self.write_whole(id, &job.key, claim, &job.asset.bytes)
    }

    /// The claims of all files of a key; files that cannot tell theirs are dropped.
    fn claims(&self, stem: Stem, key: &AssetKey) -> Vec<(FileId, Claim)> {
        let known = lock(&self.shared.index).wholes(stem);
        let mut claims = Vec::with_capacity(MAX_VARIANTS);
        for (id, generation, claim) in known {
            match claim.map_or_else(|| self.disk.read_claim(id, key), Ok) {
                Ok(claim) => {
                    lock(&self.shared.index).learn(id, generation, &claim);
                    claims.push((id, claim));
                }
                Err(fault) => {
                    if !matches!(fault, ReadFault::Unreadable(_)) {
                        self.shared.metrics.count(Counter::StoreCorrupt);
                    }
                    self.remove(id);
                }
            }
        }
        claims
    }

    /// An origin has supplied `digest`: whatever else it supplied is no longer its word.
    fn withdraw_others(
        &self,
        claims: &mut Vec<(FileId, Claim)>,
        key: &AssetKey,
        origin: &Origin,
        digest: Digest,
    ) {
        claims.retain_mut(|(id, claim)| {
            if claim.digest == digest || !claim.withdraw(origin) {
                return true;
            }
            let kept = !claim.origins.is_empty()
                && self.disk.read_whole(*id, key).is_ok_and(|(_, body)| {
                    matches!(self.write_whole(*id, key, claim.clone(), &body), Ok(Outcome::Written))
                });
            if !kept {
                self.remove(*id);
            }
            kept
        });
    }

    fn free_variant(&self, stem: Stem, claims: &[(FileId, Claim)]) -> FileId {
        let index = lock(&self.shared.index);
        let free = variants(stem).find(|id| index.get(*id).is_none());
        drop(index);
        free.unwrap_or_else(|| {
            let all: Vec<&Claim> = claims.iter().map(|(_, claim)| claim).collect();
            let weakest = weakest(&all).and_then(|index| claims.get(index));
            weakest.map_or(FileId::whole(stem, 0), |(id, _)| *id)
        })
    }

    fn write_whole(&self, id: FileId, key: &AssetKey, claim: Claim, body: &Bytes) -> io::Result<Outcome> {
        let header = Header {
            key: key.clone(),
            total: body.len() as u64,
            stored: claim.stored,
            origins: claim.origins.clone(),
            content: Content::Whole(claim.digest),
        };
        self.write(id, &header, std::slice::from_ref(body), Some(claim))
    }

    // ---- parts -----------------------------------------------------------------------------

    fn settle_parts(&mut self, key: &PartialKey, parts: Parts) {
        let id = FileId::parts(Stem::of(&key.key), &key.origin);
        let outcome = match parts {
            Parts::Drop => {
                self.remove(id);
                Ok(Outcome::Known)
            }
            Parts::Write(parts) => self.write_parts(id, key, parts),
        };
        self.shared.queue.finish_parts(key);
        match outcome {
            Ok(Outcome::Written | Outcome::Known) => {}
            Ok(Outcome::NoRoom) => self.shared.metrics.count(Counter::StoreWritesSkipped),
            Err(error) => self.failed(&error),
        }
    }

    fn write_parts(&self, id: FileId, key: &PartialKey, mut parts: PartialAsset) -> io::Result<Outcome> {
        // The memory may have forgotten what an earlier run, or an earlier hour, had written.
        let on_disk = lock(&self.shared.index).get(id).is_some();
        if on_disk
            && let Ok(old) = self.disk.read_parts(id, &key.key, &key.origin)
            && old.total == parts.total
        {
            let mut both = parts.clone();
            if old.extents.iter().all(|(offset, bytes)| both.add(*offset, bytes).is_ok()) {
                parts = both;
            }
        }
        let extent = |(offset, bytes): &(u64, Bytes)| Extent {
            offset: *offset,
            length: bytes.len() as u64,
            digest: Digest::of(bytes),
        };
        let header = Header {
            key: key.key.clone(),
            total: parts.total,
            stored: unix_now(),
            origins: vec![key.origin.clone()],
            content: Content::Parts(parts.extents.iter().map(extent).collect()),
        };
        let bodies: Vec<Bytes> = parts.extents.into_iter().map(|(_, bytes)| bytes).collect();
        self.write(id, &header, &bodies, None)
    }

    // ---- files -----------------------------------------------------------------------------

    fn write(
        &self,
        id: FileId,
        header: &Header,
        bodies: &[Bytes],
        claim: Option<Claim>,
    ) -> io::Result<Outcome> {
        let Ok(head) = header.encode() else { return Ok(Outcome::NoRoom) };
        let len = head.len() as u64 + header.body_len();
        if on_disk(len) > self.shared.disk_cap() / 4 || !self.make_room(len) {
            return Ok(Outcome::NoRoom);
        }
        let temporary = id.temporary(self.disk.root());
        let pieces: Vec<&[u8]> =
            std::iter::once(head.as_slice()).chain(bodies.iter().map(|body| &body[..])).collect();
        let files = &self.disk.files;
        let written = files
            .write(&temporary, &pieces)
            .and_then(|()| files.rename(&temporary, &id.path(self.disk.root())));
        if let Err(error) = written {
            // A temporary file that stays keeps its bytes counted.
            if files.remove(&temporary).is_ok() {
                lock(&self.shared.index).release(on_disk(len));
            }
            return Err(error);
        }
        lock(&self.shared.index).written(id, len, claim);
        Ok(Outcome::Written)
    }

    /// Sets `len` bytes aside, evicting as needed. `false` when that much cannot be had.
    fn make_room(&self, len: u64) -> bool {
        let mut stubborn: Vec<(FileId, Entry)> = Vec::new();
        let fits = loop {
            let mut index = lock(&self.shared.index);
            if index.reserve(len, self.shared.disk_cap()) {
                break true;
            }
            let Some((id, entry)) = index.evict() else { break false };
            drop(index);
            if self.disk.files.remove(&id.path(self.disk.root())).is_ok() {
                lock(&self.shared.index).release(entry.size);
                self.shared.metrics.count(Counter::StoreEvictions);
            } else {
                stubborn.push((id, entry));
                if stubborn.len() >= MAX_STUBBORN {
                    break false;
                }
            }
        };
        put_back(&mut lock(&self.shared.index), stubborn);
        fits
    }

    /// Removes a file, if the index has it.
    fn remove(&self, id: FileId) {
        let Some(entry) = lock(&self.shared.index).take(id) else { return };
        if self.disk.files.remove(&id.path(self.disk.root())).is_ok() {
            lock(&self.shared.index).release(entry.size);
        } else {
            // Nobody vouches for it any more, but it takes its place on disk.
            let claim = entry.claim.map(|claim| Claim { origins: Vec::new(), ..claim });
            lock(&self.shared.index).put_back(id, Entry { claim, unreadable: true, ..entry });
        }
    }

    fn remove_damaged(&self, id: FileId, generation: u64, size: u64) {
        let known = lock(&self.shared.index).get(id).map(|entry| entry.generation);
        match known {
            // The scan came by after the reader did.
            Some(found) if found == generation => self.remove(id),
            // A sound file has taken its place.
            Some(_) => lock(&self.shared.index).release(size),
            None => {
                if self.disk.files.remove(&id.path(self.disk.root())).is_ok() {
                    lock(&self.shared.index).release(size);
                }
            }
        }
    }

    fn clear(&mut self) {
        let ids = lock(&self.shared.index).ids();
        ids.into_iter().for_each(|id| self.remove(id));
        if self.disk.files.remove(&self.disk.root().join(usage::FILE)).is_ok() {
            lock(&self.shared.index).release(std::mem::take(&mut self.usage_size));
        }
        // A read that was under way may have brought something back.
        self.shared.forget_memory();
    }

    /// Saves how often files were used. A hint: failing is no loss worth a word.
    fn save_usage(&mut self) {
        let mut index = lock(&self.shared.index);
        if !std::mem::take(&mut index.usage_changed) {
            return;
        }
        let standings = index.standings();
        drop(index);
        let bytes = usage::encode(&standings);
        let len = bytes.len() as u64;
        let affordable = on_disk(len) <= self.shared.disk_cap() / 16 && len <= usage::MAX_BYTES;
        if !affordable || !self.make_room(len) {
            return;
        }
        let temporary = self.disk.root().join(usage::TEMPORARY);
        let files = &self.disk.files;
        let saved = files
            .write(&temporary, &[&bytes])
            .and_then(|()| files.rename(&temporary, &self.disk.root().join(usage::FILE)));
        let given_back = match saved {
            Ok(()) => std::mem::replace(&mut self.usage_size, on_disk(len)),
            Err(_) if files.remove(&temporary).is_ok() => on_disk(len),
            Err(_) => 0,
        };
        lock(&self.shared.index).release(given_back);
    }
}

fn put_back(index: &mut Index, stubborn: Vec<(FileId, Entry)>) {
    for (id, entry) in stubborn {
        index.put_back(id, entry);
    }
}
