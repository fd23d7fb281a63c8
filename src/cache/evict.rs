//! Which entry goes first when a tier is full. Pure state: no clock, no file, no lock.
//!
//! The policy is GreedyDual-Size-Frequency with a softened size term: an entry's score is
//!
//! ```text
//! score = clock + uses / sqrt(size / 4096)
//! ```
//!
//! and the lowest score goes. `clock` rises to the score of whatever was evicted last, so an entry
//! that was popular long ago is overtaken by entries used since (ageing without a timer). Dividing
//! by the size keeps what is small: one mesh of 4 MiB has to be asked for 32 times as often as a
//! sculpt map of 4 KiB to be worth as much. The plain division (exponent 1) gives the best hit
//! ratio by count but throws out nearly every large mesh, and the bytes saved are the user's line;
//! the square root is between counting requests and counting bytes.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Uses past this number change nothing: a texture worn for a month must still age.
const MAX_USES: u8 = 64;

/// What is remembered of one entry between two runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Standing {
    /// How often it was used, up to [`MAX_USES`].
    pub(super) uses: u8,
    /// How far its score was ahead of the clock.
    pub(super) lead: f32,
}

/// A score as an ordered number. Scores are never negative and never NaN, and for such floats the
/// bit patterns are in the order of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score(u64);

impl Score {
    fn new(value: f64) -> Self {
        Self(if value > 0.0 { value.to_bits() } else { 0 })
    }

    fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Rank {
    score: Score,
    size: u64,
    uses: u8,
    /// It stays, whatever it is worth.
    held: bool,
}

/// The ranking of one tier's entries.
#[derive(Debug)]
pub(super) struct Evictor<K> {
    ranks: HashMap<K, Rank>,
    /// Those that are not held.
    order: BTreeSet<(Score, K)>,
    clock: f64,
}

impl<K: Clone + Eq + Hash + Ord> Evictor<K> {
    pub(super) fn new() -> Self {
        Self { ranks: HashMap::new(), order: BTreeSet::new(), clock: 0.0 }
    }

    /// Adds an entry of `size` bytes, or changes the size of a known one without forgetting its uses.
    pub(super) fn insert(&mut self, key: K, size: u64) {
        let (uses, held) = self.remove(&key).map_or((1, false), |rank| (rank.uses, rank.held));
        self.rank(key, uses, size, self.clock + worth(uses, size), held);
    }

    /// Adds an entry with what an earlier run knew of it.
    pub(super) fn insert_known(&mut self, key: K, size: u64, standing: Standing) {
        let held = self.remove(&key).is_some_and(|rank| rank.held);
        let uses = standing.uses.clamp(1, MAX_USES);
        // The lead comes from a file: a wild one must not make an entry immortal.
        let lead = f64::from(standing.lead);
        let lead = if lead.is_finite() { lead.clamp(0.0, worth(uses, size)) } else { 0.0 };
        self.rank(key, uses, size, self.clock + lead, held);
    }

    /// Records a use. `false` when the entry is not known.
    pub(super) fn touch(&mut self, key: &K) -> bool {
        let Some(rank) = self.remove(key) else { return false };
        let uses = rank.uses.saturating_add(1).min(MAX_USES);
        self.rank(key.clone(), uses, rank.size, self.clock + worth(uses, rank.size), rank.held);
        true
    }

    /// Keeps an entry from being evicted, or no longer; what it is worth goes on being reckoned.
    pub(super) fn hold(&mut self, key: &K, held: bool) {
        if let Some(rank) = self.remove(key) {
            self.rank(key.clone(), rank.uses, rank.size, rank.score.value(), held);
        }
    }

    /// Forgets an entry that left for another reason than eviction.
    pub(super) fn forget(&mut self, key: &K) {
        self.remove(key);
    }

    /// Takes out the entry that is worth least, of those that are not held.
    pub(super) fn evict(&mut self) -> Option<K> {
        let (score, key) = self.order.pop_first()?;
        self.ranks.remove(&key);
        self.clock = self.clock.max(score.value());
        Some(key)
    }

    /// What to remember of every entry, in no particular order.
    pub(super) fn standings(&self) -> impl Iterator<Item = (&K, Standing)> {
        self.ranks.iter().map(|(key, rank)| {
            // A hint of seven digits is enough.
            #[allow(clippy::cast_possible_truncation)]
            let lead = (rank.score.value() - self.clock).max(0.0) as f32;
            (key, Standing { uses: rank.uses, lead })
        })
    }

    fn rank(&mut self, key: K, uses: u8, size: u64, score: f64, held: bool) {
        let score = Score::new(score);
        self.ranks.insert(key.clone(), Rank { score, size, uses, held });
        if !held {
            self.order.insert((score, key));
        }
    }

    fn remove(&mut self, key: &K) -> Option<Rank> {
        let (key, rank) = self.ranks.remove_entry(key)?;
        self.order.remove(&(rank.score, key));
        Some(rank)
    }
}

fn worth(uses: u8, size: u64) -> f64 {
    // Precision is lost only above 2^53 bytes.
    #[allow(clippy::cast_precision_loss)]
    let blocks = size.max(512) as f64 / 4096.0;
    f64::from(uses) / blocks.sqrt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::VecDeque;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::{Evictor, Standing};

    #[test]
    fn of_two_equally_used_entries_the_large_one_goes() {
        let mut evictor = Evictor::new();
        evictor.insert("mesh", 4 << 20);
        evictor.insert("sculpt", 4 << 10);
        assert_eq!(evictor.evict(), Some("mesh"));
    }

    #[test]
    fn of_two_equally_large_entries_the_less_used_one_goes() {
        let mut evictor = Evictor::new();
        evictor.insert("often", 4096);
        evictor.insert("once", 4096);
        assert!(evictor.touch(&"often"));
        assert_eq!(evictor.evict(), Some("once"));
        assert!(!evictor.touch(&"once"));
    }

    #[test]
    fn what_was_popular_long_ago_is_overtaken() {
        let mut evictor = Evictor::new();
        evictor.insert(u32::MAX, 4096);
        for _ in 0..200 {
            evictor.touch(&u32::MAX);
        }
        (0..10).for_each(|key| evictor.insert(key, 4096));
        let gone = (10..10_000).any(|key| {
            evictor.insert(key, 4096);
            evictor.evict() == Some(u32::MAX)
        });
        assert!(gone, "an entry must not outlive every newcomer for ever");
    }

    #[test]
    fn what_is_held_stays_and_takes_its_old_place_when_it_is_let_go() {
        let mut evictor = Evictor::new();
        for key in 0..4 {
            evictor.insert(key, 4096);
        }
        evictor.hold(&0, true);
        // Used, rewritten, known from before: it is held all the same.
        evictor.touch(&0);
        evictor.insert(0, 8192);
        assert_eq!(evictor.standings().count(), 4);
        assert_eq!([evictor.evict(), evictor.evict()], [Some(1), Some(2)]);
        evictor.hold(&3, true);
        assert_eq!(evictor.evict(), None);
        evictor.hold(&3, false);
        evictor.hold(&0, false);
        assert_eq!([evictor.evict(), evictor.evict(), evictor.evict()], [Some(3), Some(0), None]);
        evictor.hold(&9, true);
        assert_eq!(evictor.standings().count(), 0, "what is not there cannot be held");
    }

    #[test]
    fn standings_carry_the_ranking_over_a_restart() {
        let mut before = Evictor::new();
        for key in 0..50_u32 {
            before.insert(key, 4096);
            for _ in 0..key {
                before.touch(&key);
            }
        }
        let mut after = Evictor::new();
        for (key, standing) in before.standings() {
            after.insert_known(*key, 4096, standing);
        }
        while let Some(key) = before.evict() {
            assert_eq!(after.evict(), Some(key));
        }
    }

    #[test]
    fn a_wild_standing_makes_no_entry_immortal() {
        let mut evictor = Evictor::new();
        evictor.insert_known(0, 4096, Standing { uses: 255, lead: f32::INFINITY });
        evictor.insert_known(1, 4096, Standing { uses: 1, lead: f32::NAN });
        evictor.insert_known(2, 4096, Standing { uses: 1, lead: 1e30 });
        evictor.insert(3, 4096);
        evictor.touch(&3);
        let order: Vec<_> = std::iter::from_fn(|| evictor.evict()).collect();
        assert_eq!(order, [0, 1, 2, 3]);
    }

    /// Requests of a region walk: few assets very often, many once; sizes from 1 KiB to 2 MiB.
    fn skewed_trace(seed: u64) -> Vec<(u32, u64)> {
        let mut random = SmallRng::seed_from_u64(seed);
        let sizes: Vec<u64> = (0..20_000).map(|_| 1024 << random.random_range(0..12_u32)).collect();
        (0..40_000)
            .map(|_| {
                let uniform: f64 = random.random();
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let id = ((20_000_f64).powf(uniform) - 1.0) as u32;
                (id, sizes[id as usize])
            })
            .collect()
    }

    fn our_hits(trace: &[(u32, u64)], capacity: u64) -> usize {
        let mut evictor = Evictor::new();
        let mut held = std::collections::HashMap::new();
        let mut used = 0;
        let mut hits = 0;
        for &(id, size) in trace {
            if evictor.touch(&id) {
                hits += 1;
                continue;
            }
            while used + size > capacity {
                let gone = evictor.evict().unwrap();
                used -= held.remove(&gone).unwrap();
            }
            evictor.insert(id, size);
            held.insert(id, size);
            used += size;
        }
        hits
    }

    fn lru_hits(trace: &[(u32, u64)], capacity: u64) -> usize {
        let mut stamps = std::collections::HashMap::new();
        let mut queue: VecDeque<(u32, u64, usize)> = VecDeque::new();
        let mut used = 0;
        let mut hits = 0;
        for (now, &(id, size)) in trace.iter().enumerate() {
            if stamps.insert(id, now).is_some() {
                hits += 1;
            } else {
                used += size;
            }
            queue.push_back((id, size, now));
            while used > capacity {
                let (old, old_size, stamp) = queue.pop_front().unwrap();
                if stamps.get(&old) == Some(&stamp) {
                    stamps.remove(&old);
                    used -= old_size;
                }
            }
        }
        hits
    }

    #[test]
    fn on_a_skewed_trace_it_hits_more_often_than_lru() {
        for seed in 1..=2 {
            let trace = skewed_trace(seed);
            for capacity in [8 << 20, 128 << 20] {
                let (ours, lru) = (our_hits(&trace, capacity), lru_hits(&trace, capacity));
                assert!(ours >= lru, "seed {seed}, {capacity} bytes: {ours} hits, LRU {lru}");
            }
        }
    }
}
