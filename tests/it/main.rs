//! The integration tests: one program, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod access;
mod array;
mod asset_url;
mod catalog_contract;
mod cli;
mod concurrency;
mod decode_agreement;
mod disk_trouble;
mod event_queue;
mod garage;
mod golden;
mod hostile;
mod hostile_neighbours;
mod interop;
mod kill;
mod kill_node;
mod layers;
mod load;
mod proxy_assets;
mod proxy_faults;
mod proxy_http;
mod proxy_udp;
mod replay_service;
mod secrets_in_logs;
mod service;
mod service_large;
mod service_tier;
mod store_contract;
mod store_format;
mod store_upkeep;
mod support;
mod tls;
mod udp_assets;
mod uploads;
mod uploads_kill;
