//! What lies on disk and how much it is: the index in memory. Pure state; the writer thread changes
//! it, readers ask it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::claims::{Claim, MAX_VARIANTS};
use super::evict::{Evictor, Standing};
use super::files::{FileId, Part, Stem, on_disk};

/// A file as the index knows it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// What it takes on disk, in bytes.
    pub(super) size: u64,
    /// 0 for files that an earlier run wrote; else a new number per write, so that a reader which
    /// was slow does not condemn the file that replaced the one it read.
    pub(super) generation: u64,
    /// Read from the header when first needed; `None` until then, and for parts.
    pub(super) claim: Option<Claim>,
    /// The disk did not let us read it; the next copy of it is written even if it seems known.
    pub(super) unreadable: bool,
}

/// What is known about the files of one key.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    /// Whole assets, by file, with their generation and claim.
    pub(super) wholes: Vec<(FileId, u64, Option<Claim>)>,
    /// The generation of the parts file that was asked about.
    pub(super) parts: Option<u64>,
}

/// The files, their ranking, and the account of bytes.
#[derive(Debug)]
pub(super) struct Index {
    files: BTreeMap<FileId, Entry>,
    evictor: Evictor<FileId>,
    /// What an earlier run remembered, until the scan has used it.
    remembered: HashMap<FileId, Standing>,
    scanned: Vec<bool>,
    /// Bytes that are on disk or about to be; includes files that left the index but not the disk.
    used: u64,
    last_generation: u64,
    /// Whose whole assets are to be kept from eviction.
    pins: HashSet<Stem>,
    /// The most bytes that may be kept so.
    pin_cap: u64,
    /// The files that are, with their sizes, and the sum.
    held: HashMap<FileId, u64>,
    held_bytes: u64,
    /// Whether the ranking changed since it was last saved.
    pub(super) usage_changed: bool,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            evictor: Evictor::new(),
            remembered: HashMap::new(),
            scanned: vec![false; 256],
            used: 0,
            last_generation: 0,
            pins: HashSet::new(),
            pin_cap: 0,
            held: HashMap::new(),
            held_bytes: 0,
            usage_changed: false,
        }
    }

    /// Hands over what the last run remembered; used up by the scan.
    pub(super) fn remember(&mut self, standings: HashMap<FileId, Standing>) {
        self.remembered = standings;
    }

    /// A file the scan found.
    pub(super) fn add_scanned(&mut self, id: FileId, len: u64) {
        let size = on_disk(len);
        match self.remembered.remove(&id) {
            Some(standing) => self.evictor.insert_known(id, size, standing),
            None => self.evictor.insert(id, size),
        }
        self.used = self.used.saturating_add(size);
        self.files.insert(id, Entry { size, generation: 0, claim: None, unreadable: false });
        self.hold_if_pinned(id, size);
    }

    /// Sets whose whole assets stay, up to `cap` bytes of them; what does not fit is evicted like
    /// everything else.
    pub(super) fn pin(&mut self, pins: HashSet<Stem>, cap: u64) {
        self.pins = pins;
        self.set_pin_cap(cap);
    }

    /// The same for what is pinned already.
    pub(super) fn set_pin_cap(&mut self, cap: u64) {
        let held: Vec<_> = self.held.keys().copied().collect();
        held.into_iter().for_each(|id| self.let_go(id));
        self.pin_cap = cap;
        if self.pins.is_empty() {
            return;
        }
        let pinned = self.files.iter().filter(|(id, _)| self.pins.contains(&id.stem));
        let pinned: Vec<_> = pinned.map(|(id, entry)| (*id, entry.size)).collect();
        pinned.into_iter().for_each(|(id, size)| self.hold_if_pinned(id, size));
    }

    fn hold_if_pinned(&mut self, id: FileId, size: u64) {
        let whole = matches!(id.part, Part::Whole(_));
        let sum = self.held_bytes.saturating_add(size);
        if whole && sum <= self.pin_cap && self.pins.contains(&id.stem) {
            self.held.insert(id, size);
            self.held_bytes = sum;
            self.evictor.hold(&id, true);
        }
    }

    fn let_go(&mut self, id: FileId) {
        if let Some(size) = self.held.remove(&id) {
            self.held_bytes = self.held_bytes.saturating_sub(size);
            self.evictor.hold(&id, false);
        }
    }

    /// Bytes that are kept from eviction.
    pub(super) const fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// How many of these keys have a whole asset here, and the bytes of those.
    pub(super) fn size_of(&self, stems: impl Iterator<Item = Stem>) -> (u64, u64) {
        let mut sum = (0, 0);
        for stem in stems {
            let bytes = self.wholes_of(stem).map(|(_, entry)| entry.size).fold(0, u64::saturating_add);
            if bytes > 0 {
                sum = (sum.0 + 1, bytes.saturating_add(sum.1));
            }
        }
        sum
    }

    fn wholes_of(&self, stem: Stem) -> impl Iterator<Item = (FileId, &Entry)> {
        variants(stem).filter_map(|id| self.files.get(&id).map(|entry| (id, entry)))
    }

    /// The scan has seen all of a directory.
    pub(super) fn shard_is_known(&mut self, shard: u8) {
        if let Some(known) = self.scanned.get_mut(usize::from(shard)) {
            *known = true;
        }
    }

    /// The scan is over.
    pub(super) fn all_known(&mut self) {
        self.scanned.fill(true);
        self.remembered = HashMap::new();
    }

    fn is_certain(&self, stem: Stem) -> bool {
        self.scanned.get(usize::from(stem.shard())).copied().unwrap_or(false)
    }

    /// What is known about a key, `parts` being the parts file of the asking origin.
    pub(super) fn candidates(&self, stem: Stem, parts: FileId) -> Candidates {
        let certain = self.is_certain(stem);
        let known = |id| self.files.get(&id).map(|entry| (id, entry.generation, entry.claim.clone()));
        let wholes = variants(stem).filter_map(|id| match known(id) {
            // Before the scan has come by, the name itself is tried.
            None if !certain => Some((id, 0, None)),
            other => other,
        });
        Candidates {
            wholes: wholes.collect(),
            parts: match self.files.get(&parts) {
                Some(entry) => Some(entry.generation),
                None => (!certain).then_some(0),
            },
        }
    }

    pub(super) fn get(&self, id: FileId) -> Option<&Entry> {
        self.files.get(&id)
    }

    /// Whether the file exists, or may for all we know.
    pub(super) fn may_have(&self, id: FileId) -> bool {
        self.files.contains_key(&id) || !self.is_certain(id.stem)
    }

    /// Whether any whole asset of the key exists, or may.
    pub(super) fn may_have_whole(&self, stem: Stem) -> bool {
        !self.is_certain(stem) || variants(stem).any(|id| self.files.contains_key(&id))
    }

    /// Keeps a claim that was read from the file's header.
    pub(super) fn learn(&mut self, id: FileId, generation: u64, claim: &Claim) {
        if let Some(entry) = self.at(id, generation) {
            entry.claim.get_or_insert_with(|| claim.clone());
        }
    }

    /// Marks a file that exists but could not be read.
    pub(super) fn mark_unreadable(&mut self, id: FileId, generation: u64) {
        if let Some(entry) = self.at(id, generation) {
            entry.unreadable = true;
        }
    }

    fn at(&mut self, id: FileId, generation: u64) -> Option<&mut Entry> {
        self.files.get_mut(&id).filter(|entry| entry.generation == generation)
    }

    /// Whether the file is still the one a reader saw. Before the scan nothing is known better.
    pub(super) fn is_current(&self, id: FileId, generation: u64) -> bool {
        match self.files.get(&id) {
            Some(entry) => entry.generation == generation,
            None => !self.is_certain(id.stem) && generation == 0,
        }
    }

    /// Counts a use of whatever is stored of a key.
    pub(super) fn touch(&mut self, stem: Stem) {
        for id in variants(stem) {
            self.usage_changed |= self.evictor.touch(&id);
        }
    }

    /// Counts a use of one file.
    pub(super) fn touch_file(&mut self, id: FileId) {
        self.usage_changed |= self.evictor.touch(&id);
    }

    /// Sets `len` bytes aside. `false` when they do not fit below `cap`: evict first.
    pub(super) fn reserve(&mut self, len: u64, cap: u64) -> bool {
        let wanted = self.used.saturating_add(on_disk(len));
        let fits = wanted <= cap;
        if fits {
            self.used = wanted;
        }
        fits
    }

    /// Gives bytes back: `size` as it was counted, already rounded.
    pub(super) fn release(&mut self, size: u64) {
        self.used = self.used.saturating_sub(size);
    }

    /// A file was written under its name, out of a reservation; what it replaced is given back.
    pub(super) fn written(&mut self, id: FileId, len: u64, claim: Option<Claim>) {
        self.last_generation += 1;
        let size = on_disk(len);
        let entry = Entry { size, generation: self.last_generation, claim, unreadable: false };
        self.let_go(id);
        if let Some(old) = self.files.insert(id, entry) {
            self.release(old.size);
        }
        self.evictor.insert(id, size);
        self.hold_if_pinned(id, size);
        self.usage_changed = true;
    }

    /// Takes a file out of the index. Its bytes stay counted until [`Index::release`]: it still
    /// lies on disk.
    pub(super) fn take(&mut self, id: FileId) -> Option<Entry> {
        self.let_go(id);
        self.evictor.forget(&id);
        self.files.remove(&id)
    }

    /// As [`Index::take`], if it is still the file that a reader saw.
    pub(super) fn take_if(&mut self, id: FileId, generation: u64) -> Option<Entry> {
        self.at(id, generation)?;
        self.take(id)
    }

    /// Takes out the file that is worth least. Its bytes stay counted until released.
    pub(super) fn evict(&mut self) -> Option<(FileId, Entry)> {
        loop {
            let id = self.evictor.evict()?;
            if let Some(entry) = self.files.remove(&id) {
                return Some((id, entry));
            }
        }
    }

    /// Puts a file back that could not be removed.
    pub(super) fn put_back(&mut self, id: FileId, entry: Entry) {
        let size = entry.size;
        self.evictor.insert(id, size);
        self.files.insert(id, entry);
        self.hold_if_pinned(id, size);
    }

    /// The files of a key that hold a whole asset, with their claim as far as it is known.
    pub(super) fn wholes(&self, stem: Stem) -> Vec<(FileId, u64, Option<Claim>)> {
        self.wholes_of(stem).map(|(id, entry)| (id, entry.generation, entry.claim.clone())).collect()
    }

    pub(super) fn ids(&self) -> Vec<FileId> {
        self.files.keys().copied().collect()
    }

    pub(super) fn standings(&self) -> Vec<(FileId, Standing)> {
        self.evictor.standings().map(|(id, standing)| (*id, standing)).collect()
    }

    /// Files, and the bytes they take.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.files.len() as u64, self.used)
    }

    /// Counts bytes that are on disk but in no entry.
    pub(super) fn add_unowned(&mut self, len: u64) {
        self.used = self.used.saturating_add(on_disk(len));
    }
}

/// The files a whole asset may lie in.
pub(super) fn variants(stem: Stem) -> impl Iterator<Item = FileId> {
    const { assert!(MAX_VARIANTS == 4) };
    [0, 1, 2, 3].into_iter().map(move |variant| FileId { stem, part: Part::Whole(variant) })
}

#[cfg(test)]
mod tests {
    use super::Index;
    use crate::cache::files::{FileId, Stem};
    use crate::grid::Origin;

    fn id(number: u8) -> FileId {
        FileId::whole(Stem([number; 16]), 0)
    }

    fn parts(number: u8) -> FileId {
        FileId::parts(Stem([number; 16]), &Origin::new("sim"))
    }

    #[test]
    fn a_reservation_never_passes_the_cap() {
        let mut index = Index::new();
        assert!(index.reserve(4097, 12_288));
        assert!(!index.reserve(4097, 12_288));
        assert!(index.reserve(4096, 12_288));
        assert_eq!(index.size(), (0, 12_288));
    }

    #[test]
    fn a_replaced_file_is_counted_once() {
        let mut index = Index::new();
        for len in [5000, 100] {
            assert!(index.reserve(len, 1 << 20));
            index.written(id(1), len, None);
        }
        assert_eq!(index.size(), (1, 4096));
    }

    #[test]
    fn an_evicted_file_counts_until_it_is_gone() {
        let mut index = Index::new();
        index.add_scanned(id(1), 1);
        assert!(index.evict().is_some());
        assert_eq!(index.size(), (0, 4096));
        index.release(4096);
        assert_eq!(index.size(), (0, 0));
    }

    #[test]
    fn pinned_files_stay_up_to_their_share_however_they_came() {
        let mut index = Index::new();
        index.add_scanned(id(1), 4096);
        index.pin([1, 2, 3].map(|number| Stem([number; 16])).into(), 3 * 4096);
        index.add_scanned(id(2), 4096);
        index.add_scanned(id(9), 4096);
        assert!(index.reserve(8192, u64::MAX));
        index.written(id(3), 8192, None);
        assert_eq!(index.held_bytes(), 8192, "the third does not fit any more");
        // Written anew and smaller, it does.
        assert!(index.reserve(1, u64::MAX));
        index.written(id(3), 1, None);
        assert_eq!(index.held_bytes(), 12_288);
        let stems = || [1, 2, 3, 4, 9].map(|number| Stem([number; 16])).into_iter();
        assert_eq!(index.size_of(stems()), (4, 16_384));
        assert_eq!(index.evict().map(|(id, _)| id), Some(id(9)));
        assert!(index.evict().is_none());
        index.set_pin_cap(4096);
        assert_eq!(index.held_bytes(), 4096, "a smaller store keeps less");
        assert!(index.evict().is_some() && index.evict().is_some() && index.evict().is_none());
        assert!(index.take(id(1)).is_some());
        assert_eq!(index.held_bytes(), 0);
        index.add_scanned(parts(1), 1);
        assert_eq!(index.held_bytes(), 0, "parts are not pinned");
        index.pin(std::collections::HashSet::new(), 1 << 30);
        assert!(index.evict().is_some());
    }

    #[test]
    fn before_the_scan_every_name_is_worth_a_try() {
        let mut index = Index::new();
        assert_eq!(index.candidates(Stem([7; 16]), parts(7)).wholes.len(), 4);
        index.shard_is_known(7);
        let known = index.candidates(Stem([7; 16]), parts(7));
        assert!(known.wholes.is_empty() && known.parts.is_none());
    }

    #[test]
    fn a_slow_reader_does_not_condemn_the_new_file() {
        let mut index = Index::new();
        index.add_scanned(id(1), 1);
        assert!(index.reserve(1, u64::MAX));
        index.written(id(1), 1, None);
        assert!(index.take_if(id(1), 0).is_none());
        assert!(index.get(id(1)).is_some());
    }
}
