//! Open connections of both faces, counted by the address they come from: nobody takes the places of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::caller::customer_of;
use crate::support::addresses::is_public;

/// Connections of all.
const MAX_CONNECTIONS: usize = 20_000;
/// The last places, which only addresses with few connections get: a director's probe, or a client that comes while
/// some take all that they may.
const RESERVE: usize = 1000;
const FEW: usize = 4;
/// Of one address: a campus behind one, with a connection or two for each proxy.
const MAX_OF_ONE: usize = 500;
/// Of a private one, which may be a balancer's that stands for everybody.
const MAX_OF_PRIVATE: usize = MAX_CONNECTIONS / 2;
/// Handshakes of an address that has not shown yet that it is the sender's.
const MAX_UNPROVEN: usize = 16;
/// The same of all. Beyond it everybody has to show it before a handshake begins.
const MAX_UNPROVEN_ALL: usize = 256;

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places of a node.
#[derive(Default)]
pub(super) struct Places {
    open: Counts,
    unproven: Counts,
    all: Arc<Mutex<usize>>,
    /// What the operator gives each address, whatever it is.
    most: Option<usize>,
}

/// A connection's place, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Place {
    counts: Counts,
    all: Arc<Mutex<usize>>,
    address: IpAddr,
}

impl Places {
    /// Places of which each address may have `most`, or so many as is usual for its kind.
    pub(super) fn new(most: Option<usize>) -> Self {
        Self { most, ..Self::default() }
    }

    /// A place for one more connection. `None` when there is none, or none for this address.
    pub(super) fn take(&self, from: IpAddr) -> Option<Place> {
        let usual = match from.to_canonical() {
            // This machine's own load is nobody's attack.
            ip if ip.is_loopback() => MAX_CONNECTIONS,
            ip if is_public(ip) => MAX_OF_ONE,
            _ => MAX_OF_PRIVATE,
        };
        self.take_of(&self.open, from, self.most.unwrap_or(usual))
    }

    /// A place for a handshake of which anybody may have written the sender's address.
    pub(super) fn take_unproven(&self, from: IpAddr) -> Option<Place> {
        if lock(&self.unproven).values().sum::<usize>() >= MAX_UNPROVEN_ALL {
            return None;
        }
        let exempt = from.to_canonical().is_loopback() && self.most.is_none();
        self.take_of(&self.unproven, from, if exempt { MAX_CONNECTIONS } else { MAX_UNPROVEN })
    }

    fn take_of(&self, counts: &Counts, from: IpAddr, most: usize) -> Option<Place> {
        let address = customer_of(from);
        let (mut all, mut of) = (lock(&self.all), lock(counts));
        let taken = of.get(&address).copied().unwrap_or(0);
        let left = MAX_CONNECTIONS.saturating_sub(*all);
        if left == 0 || taken >= most || (left <= RESERVE && taken >= FEW) {
            return None;
        }
        *all += 1;
        of.insert(address, taken + 1);
        Some(Place { counts: Arc::clone(counts), all: Arc::clone(&self.all), address })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        let (mut all, mut counts) = (lock(&self.all), lock(&self.counts));
        *all = all.saturating_sub(1);
        if let Some(taken) = counts.get_mut(&self.address) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_address_does_not_take_the_places_of_others() {
        let places = Places::default();
        let take = |from: &str| {
            let from = from.parse().unwrap();
            std::iter::from_fn(|| places.take(from)).collect::<Vec<_>>()
        };
        let one = take("203.0.113.7");
        assert_eq!(one.len(), MAX_OF_ONE);
        assert_eq!(take("203.0.113.8").len(), MAX_OF_ONE);
        let held = take("2001:db8::1");
        assert_eq!(held.len(), MAX_OF_ONE);
        assert!(take("2001:db8::ffff:1").is_empty(), "a customer has a /64");
        let balancer = take("10.0.0.1");
        assert_eq!(balancer.len(), MAX_OF_PRIVATE);
        let own = take("127.0.0.1");
        let others = one.len() + held.len() + balancer.len();
        assert_eq!(own.len(), MAX_CONNECTIONS - RESERVE - others, "the last places are for others");
        assert_eq!(take("198.51.100.1").len(), FEW);
        drop((one, held, balancer, own));
        assert_eq!(*places.all.lock().unwrap(), 0);
        assert!(places.open.lock().unwrap().is_empty(), "nobody is remembered for nothing");
    }

    #[test]
    fn forged_handshakes_take_no_place_from_whose_address_they_bear() {
        let places = Places::default();
        let victim = "203.0.113.7".parse().unwrap();
        let forged: Vec<_> = std::iter::from_fn(|| places.take_unproven(victim)).collect();
        assert_eq!(forged.len(), MAX_UNPROVEN);
        assert!(places.take(victim).is_some());
        let others = (0..=255).flat_map(|last| vec![IpAddr::from([198, 51, 100, last]); 2]);
        let more: Vec<_> = others.filter_map(|from| places.take_unproven(from)).collect();
        assert_eq!(forged.len() + more.len(), MAX_UNPROVEN_ALL);
        assert!(
            places.take_unproven([127, 0, 0, 1].into()).is_none(),
            "from now on everybody shows it first"
        );
        drop((forged, more));
        assert!(places.take_unproven(victim).is_some());
    }

    #[test]
    fn what_the_operator_says_holds_for_every_address() {
        let places = Places::new(Some(3));
        for from in ["127.0.0.1", "10.0.0.1", "203.0.113.7", "fe80::1"] {
            let from = from.parse().unwrap();
            let taken: Vec<_> = std::iter::from_fn(|| places.take(from)).collect();
            assert_eq!(taken.len(), 3);
        }
    }
}
