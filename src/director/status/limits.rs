//! How many of each may be at once: in all, and from one network. Callers of loopback and private networks share only
//! the whole: a reverse proxy stands for many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::support::addresses::is_public;

/// Places, some of them taken.
#[derive(Debug)]
pub(super) struct Places {
    total: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One that is taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    of: Option<IpAddr>,
}

impl Places {
    pub(super) fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, taken: Mutex::default() })
    }

    /// Takes one, if there is one for this address.
    pub(super) fn take(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let of = is_public(from).then(|| network(from));
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.total {
            return None;
        }
        if let Some(of) = of {
            let count = taken.of.entry(of).or_default();
            if *count >= self.each {
                return None;
            }
            *count += 1;
        }
        taken.all += 1;
        drop(taken);
        Some(Place { places: Arc::clone(self), of })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(of) = self.of
            && let Some(count) = taken.of.get_mut(&of)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.of.remove(&of);
            }
        }
    }
}

/// Whoever has one address of IPv6 has the whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_network_has_its_share_and_gives_it_back() {
        let places = Places::new(6, 2);
        let take = |address: &str| places.take(address.parse().unwrap());
        let first = take("198.51.100.1").unwrap();
        let _second = take("::ffff:198.51.100.1").unwrap();
        assert!(take("198.51.100.1").is_none());
        let _six = [take("2001:db8::1").unwrap(), take("2001:db8::ffff:2").unwrap()];
        assert!(take("2001:db8::3").is_none(), "one /64");
        assert!(take("2001:db8:0:1::3").is_some(), "another");
        drop(first);
        let _again = take("198.51.100.1").unwrap();
        // Private callers share what is left, and nobody gets more than there is.
        let _private = [take("127.0.0.1").unwrap(), take("10.0.0.1").unwrap()];
        assert!(take("127.0.0.1").is_none() && take("203.0.113.9").is_none());
        assert_eq!(places.taken(), 6);
        drop((_six, _private));
        assert_eq!((places.taken(), places.taken.lock().unwrap().of.len()), (2, 1));
    }
}
