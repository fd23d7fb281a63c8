//! What kind of network an address belongs to.

pub use crate::grid::is_public;
