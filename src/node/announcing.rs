//! A household's node tells the local network where it is. That it cannot is no reason not to serve:
//! whoever has the join line knows an address.

use std::net::IpAddr;

use super::Node;
use super::counters::Count;
use crate::support::mdns::{Announced, Announcer, MdnsError};

/// How the announcing goes.
#[derive(Default)]
pub(super) struct Announcing {
    announcer: Option<Announcer>,
    told: Option<Announced>,
    warned: bool,
}

impl Announcing {
    fn tell(&mut self, announced: Announced) -> Result<(), MdnsError> {
        if self.told.as_ref() == Some(&announced) {
            return Ok(());
        }
        match &self.announcer {
            Some(announcer) => announcer.change(&announced)?,
            None => self.announcer = Some(Announcer::start(&announced)?),
        }
        self.told = Some(announced);
        Ok(())
    }

    pub(super) async fn end(&mut self) {
        if let Some(announcer) = self.announcer.take() {
            announcer.end().await;
        }
    }
}

impl Node {
    /// Announces that this node is reached at these addresses, or at those from now on. Failing is logged
    /// once and counted; the next call tries again.
    pub fn announce(&mut self, addresses: &[IpAddr]) {
        let Some(pin) = self.pin().and_then(|pin| pin.parse().ok()) else { return };
        if addresses.is_empty() {
            return;
        }
        let announced = Announced { pin, port: self.address.port(), addresses: addresses.to_vec() };
        if let Err(error) = self.announcing.tell(announced) {
            self.announcing.announcer = None;
            self.service.counters.count(Count::Unannounced);
            if !std::mem::replace(&mut self.announcing.warned, true) {
                tracing::warn!(%error, "others in the network have to know this node's address");
            }
        }
    }
}
