//! The seed's reply: a map of capability names to URLs, of which we stand in for a few.
//!
//! The request is forwarded as it is: grids read feature flags from the names in it.
//! Source: OpenSimulator, Caps/BunchOfCaps/BunchOfCaps.cs (SeedCapRequest).

use super::{Aliases, CapabilityClass};
use crate::llsd::xml::{self, Splices};

/// A reply after [`rewrite`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The changed reply; `None` when the original is to be passed on as it is.
    pub body: Option<Vec<u8>>,
    /// The names of the capabilities granted, in order, for the log. No URLs.
    pub names: Vec<String>,
    /// How many of them now lead to us.
    pub aliased: usize,
}

/// More names than any viewer asks for are not logged.
const MAX_NAMES: usize = 1_000;
/// Nor are names longer than this.
const MAX_NAME_BYTES: usize = 128;

/// What a capability is to us; `None` for those the viewer uses without us.
#[must_use]
pub fn class_of(name: &str) -> Option<CapabilityClass> {
    match name {
        "ViewerAsset" | "GetTexture" | "GetMesh" | "GetMesh2" => Some(CapabilityClass::Asset),
        "EventQueueGet" => Some(CapabilityClass::EventQueue),
        _ => None,
    }
}

/// Puts stand-ins for the capabilities of [`class_of`] into a reply. Each stands alone: one
/// that may not be replaced leaves the others be. What is no LLSD map is left.
pub fn rewrite(body: &[u8], aliases: &mut dyn Aliases) -> Rewritten {
    let mut rewritten = Rewritten::default();
    let Ok(reply) = xml::parse(body) else { return rewritten };
    let mut splices = Splices::default();
    for (name, value) in reply.entries() {
        if name.len() <= MAX_NAME_BYTES && rewritten.names.len() < MAX_NAMES {
            rewritten.names.push(name.clone().into_owned());
        }
        let Some(class) = class_of(name) else { continue };
        let Some((place, url)) = value.as_scalar().and_then(super::url) else { continue };
        if let Some(alias) = aliases.capability(class, &url) {
            splices.text(place, &alias);
            rewritten.aliased += 1;
        }
    }
    rewritten.body = (!splices.is_empty()).then(|| splices.apply(body));
    rewritten
}

#[cfg(test)]
mod tests;
