//! LLSD, the grid's structured data, in the two encodings that reach us.

pub mod xml;
