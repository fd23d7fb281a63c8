//! What is remembered of many, without growing: two generations of which the elder is forgotten, and a
//! pace that needs one number for each.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of at most twice `limit` entries. Whoever is not asked for while `limit` others come is forgotten.
pub(super) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    limit: usize,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), limit }
    }

    pub(super) fn get(&mut self, key: K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(&key) {
            self.insert(key, value)
        } else {
            self.young.get_mut(&key)
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<&mut V> {
        if self.young.len() >= self.limit {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        Some(self.young.entry(key).insert_entry(value).into_mut())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    pub(super) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> Option<&mut V>
    where
        K: Clone,
    {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_else(make);
            return self.insert(key, value);
        }
        self.young.get_mut(&key)
    }
}

/// So much at once, and then so much in a time. Times are microseconds of any clock that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// What one costs.
    each: u64,
    /// What may be owed.
    burst: u64,
}

/// How far somebody is ahead of a [`Pace`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead(u64);

impl Pace {
    /// `number` in `seconds`, and `burst` at once.
    pub(super) fn new(number: u64, seconds: u64, burst: u64) -> Self {
        let each = seconds.saturating_mul(1_000_000) / number.max(1);
        Self { each, burst: each.saturating_mul(burst.max(1)) }
    }

    /// Takes `number`, all or nothing. Otherwise the seconds until it is worth coming again.
    pub(super) fn take(self, ahead: &mut Ahead, number: u64, now: u64) -> Result<(), u32> {
        let cost = self.each.saturating_mul(number);
        let after = ahead.0.max(now).saturating_add(cost);
        // More than ever fits at once is let through when nothing is owed: it will wait afterwards.
        let limit = now.saturating_add(self.burst.max(cost));
        if after > limit {
            let wait = (after - limit).div_ceil(1_000_000);
            return Err(u32::try_from(wait).unwrap_or(u32::MAX));
        }
        ahead.0 = after;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Ahead, Generations, Pace};

    #[test]
    fn the_unused_are_forgotten_and_the_number_is_bounded() {
        let mut map = Generations::new(10);
        for number in 0..1000 {
            map.insert(number, number * 2);
            assert_eq!(map.get(0).copied(), Some(0), "asked for all the time");
            assert!(map.young.len() + map.old.len() <= 20);
        }
        assert_eq!((map.get(999).copied(), map.get(5)), (Some(1998), None));
        *map.get_or_insert_with(999, || 1).unwrap() += 1;
        assert_eq!(map.get(999).copied(), Some(1999));
    }

    #[test]
    fn a_pace_allows_its_burst_and_then_its_rate() {
        let pace = Pace::new(10, 1, 5);
        let (mut ahead, now) = (Ahead::default(), 1_000_000_000);
        for _ in 0..5 {
            assert_eq!(pace.take(&mut ahead, 1, now), Ok(()));
        }
        assert_eq!(pace.take(&mut ahead, 1, now), Err(1));
        assert_eq!(pace.take(&mut ahead, 1, now + 100_000), Ok(()));
        assert_eq!(pace.take(&mut ahead, 1, now + 100_000), Err(1));
        assert_eq!(pace.take(&mut ahead, 20, now + 100_000_000), Ok(()), "more than the burst");
        assert_eq!(pace.take(&mut ahead, 1, now + 100_000_000), Err(2));
    }
}
