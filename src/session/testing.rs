//! What the tests of the rewriting modules share: predictable aliases and a hostile sweep.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Aliases, CapabilityClass};

/// Hands out ports from 40000 and numbered URLs, the same for the same question.
#[derive(Default)]
pub(super) struct Book {
    pub(super) simulators: HashMap<SocketAddrV4, SocketAddrV4>,
    pub(super) capabilities: HashMap<(CapabilityClass, String), String>,
    pub(super) refuse_simulators: bool,
    pub(super) refuse_capabilities: bool,
}

impl Book {
    pub(super) fn url(&self, class: CapabilityClass, url: &str) -> &str {
        &self.capabilities[&(class, url.to_owned())]
    }
}

impl Aliases for Book {
    fn simulator(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4> {
        let port = 40_000 + u16::try_from(self.simulators.len()).unwrap();
        let alias = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        (!self.refuse_simulators).then(|| *self.simulators.entry(simulator).or_insert(alias))
    }

    fn capability(&mut self, class: CapabilityClass, url: &str) -> Option<String> {
        // The ampersand shows that texts are escaped.
        let alias = format!("http://127.0.0.1:9080/cap/{}?a&b", self.capabilities.len());
        let key = (class, url.to_owned());
        (!self.refuse_capabilities).then(|| self.capabilities.entry(key).or_insert(alias).clone())
    }
}

/// Feeds every prefix of a fixture, and every byte of it replaced by several that matter in XML,
/// each `stride` bytes apart. That nothing panics is the assertion.
pub(super) fn sweep(fixture: &[u8], stride: usize, mut feed: impl FnMut(&[u8])) {
    assert!(!fixture.is_empty());
    for end in (0..=fixture.len()).step_by(stride) {
        feed(&fixture[..end]);
    }
    let mut bytes = fixture.to_vec();
    for at in (0..bytes.len()).step_by(stride) {
        let original = bytes[at];
        for change in [b'<', b'>', b'/', b'&', b'"', 0, 0xff, original ^ 1, original ^ 0x20, b'9'] {
            bytes[at] = change;
            feed(&bytes);
        }
        bytes[at] = original;
    }
}
