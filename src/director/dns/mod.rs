//! The authoritative name server of the service's zone: what to answer ([`Zone`]), how much of it
//! ([`ResponseLimit`]), and the sockets ([`DnsServer`]).

mod limit;
mod server;
mod udp;
mod zone;

pub use limit::{ResponseLimit, Verdict};
pub use server::{DnsCounts, DnsServer};
pub use zone::{Transport, Zone, ZoneError};
