//! Amounts of memory or disk that all callers share, and of which none may have more than its part.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

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
    callers: Arc<Mutex<HashMap<CallerKey, usize>>>,
    caller: CallerKey,
    kib: usize,
}

impl Drop for Taken {
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

    /// Takes from the budget. `None` when it, or the caller's part of it, is used up.
    pub(super) fn take(&self, caller: CallerKey, kib: u32) -> Option<Taken> {
        let all = Arc::clone(&self.all).try_acquire_many_owned(kib).ok()?;
        let kib = usize::try_from(kib).ok()?;
        {
            let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = callers.get(&caller).copied().unwrap_or(0) + kib;
            if taken > self.kib / CALLERS_PART {
                return None;
            }
            callers.insert(caller.clone(), taken);
        }
        Some(Taken { _all: all, callers: Arc::clone(&self.callers), caller, kib })
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
}
