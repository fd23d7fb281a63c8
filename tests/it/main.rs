//! Integration tests, one program.

mod interop;
