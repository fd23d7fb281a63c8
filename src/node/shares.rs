//! Amounts of memory or disk that all callers share, and of which none may have more than its part.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One caller's part of an amount: a quarter.
const CALLERS_PART: usize = 4;

/// Who takes, as far as its part goes: its pseudonym, and where it comes from.
pub(super) type CallerKey = (Arc<str>, IpAddr);

/// An amount that callers share.
pub(super) struct Budget {
    all: Arc<Semaphore>,
    kib: usize,
    callers: Arc<Mutex<HashMap<CallerKey, usize>>>,
}

/// A piece of a budget.
pub(super) struct Taken {
    _all: OwnedSemaphorePermit,
    _part: Part,
}

/// What a caller has of its part.
struct Part {
    callers: Arc<Mutex<HashMap<CallerKey, usize>>>,
    caller: CallerKey,
    kib: usize,
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = callers.get_mut(&self.caller) {
            *taken = taken.saturating_sub(self.kib);
            if *taken == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

impl Budget {
    pub(super) fn new(kib: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(kib)), kib, callers: Arc::default() }
    }

    fn part(&self, caller: CallerKey, kib: u32) -> Option<Part> {
        let kib = usize::try_from(kib).ok()?;
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = callers.get(&caller).copied().unwrap_or(0) + kib;
        if taken > self.kib / CALLERS_PART {
            return None;
        }
        callers.insert(caller.clone(), taken);
        Some(Part { callers: Arc::clone(&self.callers), caller, kib })
    }

    /// Takes from the budget. `None` when it, or the caller's part of it, is used up.
    pub(super) fn take(&self, caller: CallerKey, kib: u32) -> Option<Taken> {
        let all = Arc::clone(&self.all).try_acquire_many_owned(kib).ok()?;
        Some(Taken { _all: all, _part: self.part(caller, kib)? })
    }

    /// The same, and waits so long for what others have. `None` at once when the caller has its part.
    pub(super) async fn wait(&self, caller: CallerKey, kib: u32, patience: Duration) -> Option<Taken> {
        let part = self.part(caller, kib)?;
        let waiting = Arc::clone(&self.all).acquire_many_owned(kib);
        let all = tokio::time::timeout(patience, waiting).await.ok()?.ok()?;
        Some(Taken { _all: all, _part: part })
    }

    /// What of it is taken.
    pub(super) fn taken_kib(&self) -> usize {
        self.kib.saturating_sub(self.all.available_permits())
    }
}

/// A number of bytes as budgets count.
pub(super) fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nobody_has_more_than_a_quarter_and_what_is_dropped_is_there_again() {
        let budget = Budget::new(400);
        let who = |name: &str| -> CallerKey { (name.into(), [127, 0, 0, 1].into()) };
        let first = budget.take(who("a"), 60).unwrap();
        assert!(budget.take(who("a"), 41).is_none(), "more than its part");
        let second = budget.take(who("a"), 40).unwrap();
        let others: Vec<_> = ["b", "c", "d"].map(|name| budget.take(who(name), 100).unwrap()).into();
        assert!(budget.take(who("e"), 1).is_none(), "nothing is left");
        assert_eq!(budget.taken_kib(), 400);
        drop((first, second, others));
        assert_eq!(budget.taken_kib(), 0);
        assert!(budget.take(who("a"), 100).is_some());
        assert!(budget.callers.lock().unwrap().is_empty(), "nobody is remembered for nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_next_and_who_has_its_part_does_not_wait() {
        let budget = Budget::new(8);
        let who = |name: &str| -> CallerKey { (name.into(), [127, 0, 0, 1].into()) };
        let patience = Duration::from_secs(5);
        let mut held: Vec<_> = ["a", "b", "c", "d"].map(|name| budget.take(who(name), 2).unwrap()).into();
        let more = futures_util::FutureExt::now_or_never(budget.wait(who("a"), 1, patience));
        assert!(more.is_some_and(|more| more.is_none()), "has its part");
        assert!(budget.wait(who("e"), 1, patience).await.is_none(), "nobody went");
        let (next, ()) = tokio::join!(budget.wait(who("e"), 1, patience), async { drop(held.pop()) });
        assert!(next.is_some());
        drop((next, held));
        assert!(budget.callers.lock().unwrap().is_empty());
    }
}
