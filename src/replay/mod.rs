//! Replays captured sessions through the real proxy: a stand-in viewer and a stand-in grid rebuilt
//! from a capture, with the proxy between them.

mod http;
mod pcap;
mod tcp;
