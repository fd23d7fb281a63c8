//! The event queue's replies: what they say of other simulators, and the same with our addresses.
//!
//! Each event body is a template message as LLSD, where a block is an array of maps even when
//! there is one. Where one of a block's values may not be replaced, none is: half an address would
//! lead the viewer astray, a whole one leads it past us as without us.
//! Source: OpenSimulator, Caps/EventQueue/EventQueueGetHandlers.cs; viewer, newview/lleventpoll.cpp.

use std::net::SocketAddrV4;

use super::endpoint::{EndpointPlace, region_handle};
use super::{Aliases, CapabilityClass};
use crate::grid::RegionHandle;
use crate::llsd::xml::{self, Scalar, ScalarKind, SpannedNode, Splices};
use crate::redact::Redacted;

/// What a queue told the viewer about a simulator. The addresses and seeds are the grid's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueuedEvent {
    /// A neighbour the viewer shall open a child circuit to; also the historic `OpenCircuit`.
    EnableSimulator {
        /// Its address.
        simulator: SocketAddrV4,
        /// Its region; absent in `OpenCircuit`.
        region: Option<RegionHandle>,
    },
    /// A neighbour's seed.
    EstablishAgentCommunication {
        /// Its address.
        simulator: SocketAddrV4,
        /// Its seed.
        seed: Redacted<String>,
    },
    /// The teleport's target.
    TeleportFinish {
        /// Its address.
        simulator: SocketAddrV4,
        /// Its region.
        region: Option<RegionHandle>,
        /// Its seed.
        seed: Redacted<String>,
    },
    /// The region the avatar walked into.
    CrossedRegion {
        /// Its address.
        simulator: SocketAddrV4,
        /// Its region.
        region: Option<RegionHandle>,
        /// Its seed.
        seed: Redacted<String>,
    },
}

impl QueuedEvent {
    /// The simulator it is about.
    #[must_use]
    pub fn simulator(&self) -> SocketAddrV4 {
        match self {
            Self::EnableSimulator { simulator, .. }
            | Self::EstablishAgentCommunication { simulator, .. }
            | Self::TeleportFinish { simulator, .. }
            | Self::CrossedRegion { simulator, .. } => *simulator,
        }
    }

    /// That simulator's seed, where the event tells it.
    #[must_use]
    pub fn seed(&self) -> Option<&Redacted<String>> {
        match self {
            Self::EnableSimulator { .. } => None,
            Self::EstablishAgentCommunication { seed, .. }
            | Self::TeleportFinish { seed, .. }
            | Self::CrossedRegion { seed, .. } => Some(seed),
        }
    }
}

/// A reply after [`rewrite`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsRewritten {
    /// The changed reply; `None` when the original is to be passed on as it is.
    pub body: Option<Vec<u8>>,
    /// What was rewritten, in order.
    pub events: Vec<QueuedEvent>,
    /// Blocks of known events that were left as they were: an address or seed that may not or
    /// cannot be replaced.
    pub left_alone: usize,
    /// The number that the viewer will acknowledge; `None` when the reply has none or is unreadable.
    pub id: Option<QueueId>,
}

/// The number of a queue's reply, comparable with what a poll acknowledges.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId(Box<str>);

impl QueueId {
    /// No grid numbers its replies longer.
    const MAX_BYTES: usize = 64;

    fn read(scalar: &Scalar<'_>) -> Option<Self> {
        if scalar.kind() == ScalarKind::Undef {
            return None;
        }
        let text = scalar.text()?;
        let text = match text.trim() {
            "" if scalar.kind() == ScalarKind::Integer => "0",
            text => text,
        };
        (text.len() <= Self::MAX_BYTES).then(|| Self(Box::from(text)))
    }
}

/// What a poll acknowledges. Equal acknowledgements ask for the same reply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ack {
    /// The key is absent.
    Missing,
    /// `undef`: the first poll.
    Undef,
    /// The id of the last reply that arrived.
    Id(QueueId),
}

/// A poll, as the viewer posts it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Poll {
    /// Which reply arrived last.
    pub ack: Ack,
    /// The viewer wants no more events.
    pub done: bool,
}

/// Reads a poll. `None` when it is no LLSD map.
#[must_use]
pub fn poll_ack(body: &[u8]) -> Option<Poll> {
    let poll = xml::parse(body).ok()?;
    if !poll.is_map() {
        return None;
    }
    let ack = match poll.get("ack") {
        None => Ack::Missing,
        Some(value) => value.as_scalar().and_then(QueueId::read).map_or(Ack::Undef, Ack::Id),
    };
    // hippolyzer writes the flag as an integer: fixtures/llsd/hippo-poll-first.xml.
    let done =
        poll.scalar("done").and_then(Scalar::text).is_some_and(|text| matches!(text.trim(), "1" | "true"));
    Some(Poll { ack, done })
}

/// Puts stand-ins for simulators and seeds into a reply's events. What cannot be read is left.
pub fn rewrite(body: &[u8], aliases: &mut dyn Aliases) -> EventsRewritten {
    let mut rewritten = EventsRewritten::default();
    let Ok(reply) = xml::parse(body) else { return rewritten };
    rewritten.id = reply.scalar("id").and_then(QueueId::read);
    let mut splices = Splices::default();
    for event in reply.get("events").map_or(&[][..], SpannedNode::items) {
        let (Some(message), Some(content)) =
            (event.scalar("message").and_then(Scalar::text), event.get("body"))
        else {
            continue;
        };
        let Some((blocks, read)) = known(&message, content) else { continue };
        for block in blocks {
            // A collection of its own, so that a block refused halfway leaves nothing behind.
            let mut edits = Splices::default();
            match read(block, aliases, &mut edits) {
                Some(event) => {
                    splices.extend(edits);
                    rewritten.events.push(event);
                }
                None => rewritten.left_alone += 1,
            }
        }
    }
    rewritten.body = (!splices.is_empty()).then(|| splices.apply(body));
    rewritten
}

type ReadBlock = fn(&SpannedNode<'_>, &mut dyn Aliases, &mut Splices) -> Option<QueuedEvent>;

/// The blocks of an event that names simulators, and how to read one.
fn known<'n, 'a>(message: &str, content: &'n SpannedNode<'a>) -> Option<(&'n [SpannedNode<'a>], ReadBlock)> {
    let (block, read): (_, ReadBlock) = match message {
        "EnableSimulator" => ("SimulatorInfo", enable_simulator),
        "OpenCircuit" => ("CircuitInfo", enable_simulator),
        "TeleportFinish" => ("Info", teleport_finish),
        "CrossedRegion" => ("RegionData", crossed_region),
        // The one event that is a plain map.
        "EstablishAgentCommunication" => {
            return Some((std::slice::from_ref(content), establish_agent_communication));
        }
        _ => return None,
    };
    let blocks = content.get(block)?;
    Some((if blocks.is_map() { std::slice::from_ref(blocks) } else { blocks.items() }, read))
}

fn enable_simulator(
    block: &SpannedNode<'_>,
    aliases: &mut dyn Aliases,
    splices: &mut Splices,
) -> Option<QueuedEvent> {
    let place = EndpointPlace::read(block, "IP", "Port")?;
    place.splice(aliases.simulator(place.endpoint)?, splices)?;
    Some(QueuedEvent::EnableSimulator { simulator: place.endpoint, region: region_handle(block, "Handle") })
}

fn establish_agent_communication(
    content: &SpannedNode<'_>,
    aliases: &mut dyn Aliases,
    splices: &mut Splices,
) -> Option<QueuedEvent> {
    let address = content.scalar("sim-ip-and-port")?;
    let simulator: SocketAddrV4 = address.text()?.trim().parse().ok()?;
    if simulator.port() == 0 {
        return None;
    }
    splices.text(address.place(), &aliases.simulator(simulator)?.to_string());
    let seed = splice_seed(content, "seed-capability", aliases, splices)?;
    Some(QueuedEvent::EstablishAgentCommunication { simulator, seed })
}

fn teleport_finish(
    block: &SpannedNode<'_>,
    aliases: &mut dyn Aliases,
    splices: &mut Splices,
) -> Option<QueuedEvent> {
    let (simulator, region, seed) = new_root(block, aliases, splices)?;
    Some(QueuedEvent::TeleportFinish { simulator, region, seed })
}

fn crossed_region(
    block: &SpannedNode<'_>,
    aliases: &mut dyn Aliases,
    splices: &mut Splices,
) -> Option<QueuedEvent> {
    let (simulator, region, seed) = new_root(block, aliases, splices)?;
    Some(QueuedEvent::CrossedRegion { simulator, region, seed })
}

/// The members that both ways into another region have.
fn new_root(
    block: &SpannedNode<'_>,
    aliases: &mut dyn Aliases,
    splices: &mut Splices,
) -> Option<(SocketAddrV4, Option<RegionHandle>, Redacted<String>)> {
    let place = EndpointPlace::read(block, "SimIP", "SimPort")?;
    place.splice(aliases.simulator(place.endpoint)?, splices)?;
    let seed = splice_seed(block, "SeedCapability", aliases, splices)?;
    Some((place.endpoint, region_handle(block, "RegionHandle"), seed))
}

fn splice_seed(
    map: &SpannedNode<'_>,
    key: &str,
    aliases: &mut dyn Aliases,
    splices: &mut Splices,
) -> Option<Redacted<String>> {
    let (place, url) = super::url(map.scalar(key)?)?;
    splices.text(place, &aliases.capability(CapabilityClass::Seed, &url)?);
    Some(Redacted::new(url))
}

#[cfg(test)]
mod tests;
