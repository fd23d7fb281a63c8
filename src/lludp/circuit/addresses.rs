//! Replacing a simulator's address and seed capability inside a message body.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::grid::{AgentId, RegionHandle, SessionId};
use crate::lludp::error::{DecodeError, DecodeErrorKind};
use crate::lludp::fields::{Field, Fields, Port, Variable2};
use crate::lludp::number::MessageNumber;
use crate::redact::Redacted;

/// What a message says about a simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatorAddress<'a> {
    /// Where it listens for LLUDP.
    pub endpoint: SocketAddrV4,
    /// Which region it runs; `OpenCircuit` does not say.
    pub region: Option<RegionHandle>,
    /// Its seed capability without the NUL, where the message has one.
    pub seed: Option<Redacted<&'a str>>,
}

/// What the viewer is told instead.
#[derive(Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The endpoint to write.
    pub endpoint: SocketAddrV4,
    /// The seed capability to write; `None` keeps the old one.
    pub seed: Option<String>,
}

impl fmt::Debug for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacement").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Replaces the address that `OpenCircuit`, `EnableSimulator`, `CrossedRegion` and `TeleportFinish`
/// carry by what `replace` returns, and keeps all other bytes, also those behind the last field we
/// know. `None` when the message is another one, or `replace` returned `None`.
///
/// # Errors
/// When the body ends before the address does, the seed capability is not text, or the new one does
/// not fit its field of 65,534 bytes. Such a message is best forwarded as it is.
pub fn rewrite_addresses(
    number: MessageNumber,
    body: &[u8],
    replace: &mut dyn FnMut(&SimulatorAddress<'_>) -> Option<Replacement>,
) -> Result<Option<Vec<u8>>, DecodeError> {
    let mut fields = Fields::new(body);
    let mut region = None;
    match number {
        MessageNumber::OPEN_CIRCUIT => {}
        MessageNumber::ENABLE_SIMULATOR => region = Some(fields.read("Handle")?),
        MessageNumber::CROSSED_REGION => {
            fields.read::<AgentId>("AgentID")?;
            fields.read::<SessionId>("SessionID")?;
        }
        MessageNumber::TELEPORT_FINISH => {
            fields.read::<AgentId>("AgentID")?;
            fields.read::<u32>("LocationID")?;
        }
        _ => return Ok(None),
    }
    let before = body.len() - fields.rest().len();
    let ip: Ipv4Addr = fields.read("SimIP")?;
    let Port(port) = fields.read("SimPort")?;

    let mut seed = None;
    let mut handle = None;
    let mut rest = fields.rest();
    if matches!(number, MessageNumber::CROSSED_REGION | MessageNumber::TELEPORT_FINISH) {
        let read: RegionHandle = fields.read("RegionHandle")?;
        let offset = fields.offset();
        let Variable2(raw) = fields.read("SeedCapability")?;
        let not_text = DecodeError::new(offset, "SeedCapability", DecodeErrorKind::NotText);
        let text = std::str::from_utf8(raw.strip_suffix(&[0]).unwrap_or(raw)).map_err(|_| not_text)?;
        if text.contains('\0') {
            return Err(not_text);
        }
        seed = Some((raw, text));
        handle = Some(read);
        region = Some(read);
        rest = fields.rest();
    }

    let address = SimulatorAddress {
        endpoint: SocketAddrV4::new(ip, port),
        region,
        seed: seed.map(|(_, text)| Redacted::new(text)),
    };
    let Some(new) = replace(&address) else {
        return Ok(None);
    };

    let new_seed = new.seed.as_deref().unwrap_or_default();
    let mut out = Vec::with_capacity(body.len().saturating_add(new_seed.len()).saturating_add(1));
    out.extend(body.iter().take(before));
    new.endpoint.ip().write(&mut out);
    Port(new.endpoint.port()).write(&mut out);
    if let (Some((old, _)), Some(handle)) = (seed, handle) {
        handle.write(&mut out);
        match &new.seed {
            None => Variable2(old).write(&mut out),
            Some(text) if text.len() < usize::from(u16::MAX) && !text.contains('\0') => {
                Variable2(&[text.as_bytes(), &[0]].concat()).write(&mut out);
            }
            Some(_) => {
                return Err(DecodeError::new(out.len(), "SeedCapability", DecodeErrorKind::NotText));
            }
        }
    }
    out.extend_from_slice(rest);
    Ok(Some(out))
}
