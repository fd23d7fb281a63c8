//! LLUDP: one datagram is one packet is one message.
//!
//! ```text
//! 0      flags                 ZEROCODED RELIABLE RESENT ACK
//! 1..5   sequence number       big-endian
//! 5      extra length E        0 from every known sender
//! 6      message number        1, 2 or 4 bytes, big-endian   \
//!        E extra bytes                                        } zero-coded when the flag says so
//!        body                  template blocks, little-endian /
//!        k appended acks       big-endian u32 each           \  only with ACK
//! end-1  k                                                   /
//! ```
//!
//! [`Packet::decode`] reads header, number and trailer and allocates nothing; bodies are read only
//! by those who act on them, with the types of [`circuit`], [`assets`] and [`chat`]. Everything else is
//! forwarded as it came, with [`set_sequence`], [`strip_acks`] and [`append_acks`] for the parts
//! that numbering demands. No state and no I/O here: circuits live in `session`.

pub mod appearance;
pub mod assets;
pub mod chat;
pub mod circuit;
pub mod error;
mod fields;
pub mod header;
pub mod number;
pub mod packet;
pub mod zerocode;

pub use assets::{AssetRequests, ImageRequest, TransferRequest, UdpAssetRequest, asset_requests};
pub use circuit::{Replacement, SimulatorAddress, rewrite_addresses};
pub use error::{DecodeError, DecodeErrorKind};
pub use fields::{MessageBody, Port, Variable1, Variable2};
pub use header::{PacketFlags, SequenceNumber};
pub use number::{Frequency, MessageNumber};
pub use packet::{MAX_APPENDED_ACKS, Packet, append_acks, encode_packet, set_sequence, strip_acks};
