//! One login, from its reply to its end.

mod endpoint;
pub mod events;
pub mod grid_info;
pub mod login;
pub mod seed;

use std::net::SocketAddrV4;

use crate::llsd::xml::{Scalar, ScalarKind, TextPlace};

/// What a capability URL is for; decides what its alias does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CapabilityClass {
    /// The seed: granting the other capabilities.
    Seed,
    /// The event queue's long poll.
    EventQueue,
    /// ViewerAsset, GetTexture, GetMesh, GetMesh2: assets by id.
    Asset,
}

/// Stand-ins for what the grid names: loopback endpoints for simulators, loopback URLs for
/// capabilities. Each is stable for the session: asked twice, it answers the same.
pub trait Aliases {
    /// The loopback endpoint that stands for this simulator, or `None` when the grid may not lead
    /// us there (then the address is left as it is).
    fn simulator(&mut self, simulator: SocketAddrV4) -> Option<SocketAddrV4>;

    /// The loopback URL that stands for this capability, or `None` when it is left as it is.
    fn capability(&mut self, class: CapabilityClass, url: &str) -> Option<String>;
}

/// A URL that a string or URI scalar holds, and where. `None` for undef and the like, and for an
/// empty text.
fn url<'n>(scalar: &'n Scalar<'_>) -> Option<(&'n TextPlace, String)> {
    if !matches!(scalar.kind(), ScalarKind::String | ScalarKind::Uri) {
        return None;
    }
    let url = scalar.text()?.trim().to_owned();
    (!url.is_empty()).then(|| (scalar.place(), url))
}

#[cfg(test)]
mod testing;
