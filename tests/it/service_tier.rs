//! The proxy in front of the shared cache: what it serves from there, and that it does no harm.

pub(crate) mod faults;
pub(crate) mod faulty_node;
mod networks;
mod serving;
mod trust;
