//! Assets over LLUDP through a running proxy: what is learned from a simulator, and what viewers are
//! given of it without the simulator being asked.

mod boundaries;
mod chat;
mod late;
mod numbering;
mod service;
mod serving;
mod trouble;
mod uploads;
mod wire;
mod world;
