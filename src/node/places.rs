//! Open connections, counted by the address they come from: nobody takes the places of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::caller::customer_of;
use crate::support::addresses::is_public;

/// Connections of all, on each face.
pub(super) const MAX_CONNECTIONS: usize = 20_000;
/// Of one address: a campus behind one, with a connection or two for each proxy.
const MAX_OF_ONE: usize = 500;
/// Of a private one, which may be a balancer's that stands for everybody.
const MAX_OF_PRIVATE: usize = MAX_CONNECTIONS / 2;
/// Handshakes of an address that has not shown yet that it is the sender's.
const MAX_UNPROVEN: usize = 16;

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places of a face.
#[derive(Default)]
pub(super) struct Places {
    open: Counts,
    unproven: Counts,
    all: Arc<Mutex<usize>>,
}

/// A connection's place, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Place {
    counts: Counts,
    all: Arc<Mutex<usize>>,
    address: IpAddr,
}

impl Places {
    /// A place for one more connection. `None` when there is none, or none for this address.
    pub(super) fn take(&self, from: IpAddr) -> Option<Place> {
        let most = match from.to_canonical() {
            // This machine's own load is nobody's attack.
            ip if ip.is_loopback() => MAX_CONNECTIONS,
            ip if is_public(ip) => MAX_OF_ONE,
            _ => MAX_OF_PRIVATE,
        };
        self.take_of(&self.open, from, most)
    }

    /// A place for a handshake of which anybody may have written the sender's address.
    pub(super) fn take_unproven(&self, from: IpAddr) -> Option<Place> {
        let most = if from.to_canonical().is_loopback() { MAX_CONNECTIONS } else { MAX_UNPROVEN };
        self.take_of(&self.unproven, from, most)
    }

    fn take_of(&self, counts: &Counts, from: IpAddr, most: usize) -> Option<Place> {
        let address = customer_of(from);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = of.get(&address).copied().unwrap_or(0);
        if *all >= MAX_CONNECTIONS || taken >= most {
            return None;
        }
        *all += 1;
        of.insert(address, taken + 1);
        Some(Place { counts: Arc::clone(counts), all: Arc::clone(&self.all), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.saturating_sub(1);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
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
        assert_eq!(take("127.0.0.1").len(), MAX_CONNECTIONS - one.len() - held.len() - balancer.len());
        drop((one, held, balancer));
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
    }
}
