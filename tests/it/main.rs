//! The integration tests: one program, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cli;
mod decode_agreement;
mod golden;
mod hostile;
mod interop;
mod layers;
mod support;
