//! One fetch, many waiters: whoever wants what another is fetching waits and then finds it in memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Turns at the same thing, in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Turns<K: Hash + Eq + Copy> {
    running: Mutex<HashMap<K, Arc<AsyncMutex<()>>>>,
}

impl<K: Hash + Eq + Copy> Default for Turns<K> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

/// A turn; the next waiter's begins when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a, K: Hash + Eq + Copy> {
    turns: &'a Turns<K>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Hash + Eq + Copy> Turns<K> {
    pub(super) async fn wait(&self, key: K) -> Turn<'_, K> {
        let lock = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(running.entry(key).or_default())
        };
        Turn { turns: self, key, guard: Some(lock.lock_owned().await) }
    }
}

impl<K: Hash + Eq + Copy> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let mut running = self.turns.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard.take();
        // The map's own and nobody else's: nobody waits. New waiters need the map, which is held.
        if running.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            running.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Turns;

    #[tokio::test]
    async fn of_many_one_works_at_a_time_and_nothing_is_left_behind() {
        let (turns, at_work, done) = (Arc::new(Turns::default()), AtomicU32::new(0), AtomicU32::new(0));
        let work = |key: u32| {
            let (turns, at_work, done) = (&turns, &at_work, &done);
            async move {
                let _turn = turns.wait(key).await;
                if key == 1 {
                    assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                }
                tokio::task::yield_now().await;
                if key == 1 {
                    at_work.fetch_sub(1, Ordering::SeqCst);
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        };
        futures_util::future::join_all((0..60).map(|n| work(n % 3))).await;
        assert_eq!(done.load(Ordering::SeqCst), 60);
        assert!(turns.running.lock().unwrap().is_empty());
        // One that gives up while it waits leaves nothing behind either.
        let first = turns.wait(5).await;
        assert!(futures_util::FutureExt::now_or_never(turns.wait(5)).is_none());
        drop(first);
        assert!(futures_util::FutureExt::now_or_never(turns.wait(5)).is_some());
        assert!(turns.running.lock().unwrap().is_empty());
    }
}
