//! The proxy in front of the shared cache: what it serves from there, and that it does no harm.

mod faults;
mod faulty_node;
mod serving;
mod trust;
