//! Integration tests, one program.

mod interop;
mod proxy_assets;
mod proxy_http;
mod support;
