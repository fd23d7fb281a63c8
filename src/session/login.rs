//! The login's reply: what it grants, and the same reply leading to us.
//!
//! A reply is spliced, never re-serialised: it may be megabytes of inventory, and viewers differ
//! in which members they read. Login requests are nobody's business here: they are forwarded as
//! they are.
//! Source: viewer, newview/llstartup.cpp (process_login_success_response), newview/lllogininstance.cpp
//! (handleLoginFailure); OpenSimulator, OpenSim/Services/LLLoginService/LLLoginResponse.cs.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddrV4};

use uuid::Uuid;

use super::endpoint::EndpointPlace;
use super::{Aliases, CapabilityClass};
use crate::grid::{AgentId, CircuitCode, RegionHandle, SessionId};
use crate::llsd::xml::{self, SpannedNode};
use crate::redact::Redacted;
use crate::xml::{Splices, TextPlace};
use crate::xmlrpc::{MethodResponse, ValueKind};

/// How a login is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginFormat {
    /// XML-RPC: every mainstream viewer.
    XmlRpc,
    /// LLSD XML: bots.
    Llsd,
}

impl LoginFormat {
    /// The format of a request or reply by its `Content-Type`; XML-RPC unless it says LLSD.
    /// Source: OpenSimulator, Framework/Servers/HttpServer/BaseHttpServer.cs (HandleLLSDLogin).
    #[must_use]
    pub fn of_content_type(content_type: Option<&str>) -> Self {
        let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        let is = |name: &str| essence.eq_ignore_ascii_case(name);
        if is("application/llsd+xml") || is("application/xml+llsd") { Self::Llsd } else { Self::XmlRpc }
    }
}

/// What a successful login grants. Addresses and the seed are the grid's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginGrant {
    /// Who logged in.
    pub agent: AgentId,
    /// The login's id.
    pub session: SessionId,
    /// The login's number on every circuit; never 0. Read modulo 2³², since some grids print it signed.
    pub circuit_code: CircuitCode,
    /// The first simulator.
    pub simulator: SocketAddrV4,
    /// Its seed.
    pub seed: Redacted<String>,
    /// Its region, if the reply says where that is.
    pub region: Option<RegionHandle>,
    /// Messages the viewer will not take by UDP.
    pub udp_blacklist: Vec<String>,
}

/// A login's reply, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginReply {
    /// The avatar is in.
    Granted(Box<LoginGrant>),
    /// The viewer shall post the same again elsewhere.
    Indeterminate {
        /// Where.
        next_url: Redacted<String>,
    },
    /// The grid said no; the viewer acts on the reason.
    Refused {
        /// `mfa_challenge`, `tos`, `update`, `key`, `presence` …; at most 64 bytes, empty if absent.
        reason: String,
    },
    /// Not a login reply, or one that a viewer could not use.
    Unreadable,
}

const MEMBERS: [&str; 12] = [
    "login",
    "reason",
    "next_url",
    "agent_id",
    "session_id",
    "circuit_code",
    "sim_ip",
    "sim_port",
    "seed_capability",
    "region_x",
    "region_y",
    "udp_blacklist",
];
/// The viewer's list has about a hundred names.
const MAX_BLACKLIST: usize = 1_000;
const MAX_REASON_BYTES: usize = 64;

impl LoginReply {
    /// Reads a reply's body, already decompressed. Linear in its length.
    #[must_use]
    pub fn read(body: &[u8], format: LoginFormat) -> Self {
        let Some(members) = Members::read(body, format) else { return Self::Unreadable };
        if let Members::XmlRpc(response) = &members
            && response.is_fault()
        {
            return Self::Refused { reason: "fault".to_owned() };
        }
        let login = members.text("login").map(|text| text.to_ascii_lowercase());
        match login.as_deref() {
            Some("true" | "1") => {
                members.grant().map_or(Self::Unreadable, |grant| Self::Granted(Box::new(grant)))
            }
            Some("indeterminate") => match members.text("next_url") {
                Some(url) if !url.is_empty() => Self::Indeterminate { next_url: Redacted::new(url) },
                _ => Self::Unreadable,
            },
            Some("false" | "0" | "") => {
                let reason = members.text("reason").unwrap_or_default();
                Self::Refused { reason: truncated(reason, MAX_REASON_BYTES) }
            }
            _ => Self::Unreadable,
        }
    }
}

/// Puts stand-ins for the simulator and the seed into a granted reply. `None`, and the original is
/// to be passed on, when the login was not granted or when either may not be replaced.
pub fn rewrite(body: &[u8], format: LoginFormat, aliases: &mut dyn Aliases) -> Option<Vec<u8>> {
    let members = Members::read(body, format)?;
    if !members.text("login").is_some_and(|text| matches!(&*text.to_ascii_lowercase(), "true" | "1")) {
        return None;
    }
    let grant = members.grant()?;
    let simulator = aliases.simulator(grant.simulator)?;
    let seed = aliases.capability(CapabilityClass::Seed, grant.seed.reveal())?;
    let mut splices = Splices::default();
    match &members {
        Members::XmlRpc(_) => {
            splices.text(members.place("sim_ip")?, &simulator.ip().to_string());
            splices.text(members.place("sim_port")?, &simulator.port().to_string());
        }
        Members::Llsd(map) => {
            EndpointPlace::read(map, "sim_ip", "sim_port")?.splice(simulator, &mut splices)?;
        }
    }
    splices.text(members.place("seed_capability")?, &seed);
    Some(splices.apply(body))
}

/// Puts another URL in the place of an indeterminate reply's `next_url`. `None` when it has none.
#[must_use]
pub fn rewrite_next_url(body: &[u8], format: LoginFormat, next_url: &str) -> Option<Vec<u8>> {
    let members = Members::read(body, format)?;
    let mut splices = Splices::default();
    splices.text(members.place("next_url")?, next_url);
    Some(splices.apply(body))
}

/// The members of a reply in either format.
enum Members<'a> {
    XmlRpc(MethodResponse<'a>),
    Llsd(SpannedNode<'a>),
}

impl<'a> Members<'a> {
    fn read(body: &'a [u8], format: LoginFormat) -> Option<Self> {
        match format {
            LoginFormat::XmlRpc => MethodResponse::read(body, &MEMBERS).ok().map(Self::XmlRpc),
            LoginFormat::Llsd => xml::parse(body).ok().filter(SpannedNode::is_map).map(Self::Llsd),
        }
    }

    /// A member's text without surrounding white space.
    fn text(&self, name: &str) -> Option<String> {
        let text: Cow<'_, str> = match self {
            Self::XmlRpc(response) => response.text_of(name)?,
            Self::Llsd(map) => map.scalar(name)?.text()?,
        };
        Some(text.trim().to_owned())
    }

    fn place(&self, name: &str) -> Option<&TextPlace> {
        match self {
            Self::XmlRpc(response) => {
                let member = response.member_named(name)?;
                // A type nobody uses for these: not ours to guess at.
                if member.kind() == ValueKind::Other { None } else { member.place() }
            }
            Self::Llsd(map) => map.scalar(name).map(xml::Scalar::place),
        }
    }

    fn simulator(&self) -> Option<SocketAddrV4> {
        match self {
            Self::XmlRpc(_) => {
                let ip: Ipv4Addr = self.text("sim_ip")?.parse().ok()?;
                let port: u16 = self.text("sim_port")?.parse().ok()?;
                (port != 0).then(|| SocketAddrV4::new(ip, port))
            }
            Self::Llsd(map) => EndpointPlace::read(map, "sim_ip", "sim_port").map(|place| place.endpoint),
        }
    }

    fn uuid(&self, name: &str) -> Option<Uuid> {
        // Second Life wraps some texts in quotes.
        Uuid::try_parse(self.text(name)?.trim_matches('"')).ok()
    }

    fn grant(&self) -> Option<LoginGrant> {
        let seed = self.text("seed_capability").filter(|url| !url.is_empty())?;
        Some(LoginGrant {
            agent: AgentId(self.uuid("agent_id")?),
            session: SessionId(Redacted::new(self.uuid("session_id")?)),
            circuit_code: circuit_code(&self.text("circuit_code")?)?,
            simulator: self.simulator()?,
            seed: Redacted::new(seed),
            region: self.region(),
            udp_blacklist: self.udp_blacklist(),
        })
    }

    fn region(&self) -> Option<RegionHandle> {
        let metres = |name| self.text(name)?.parse::<u32>().ok();
        Some(RegionHandle((u64::from(metres("region_x")?) << 32) | u64::from(metres("region_y")?)))
    }

    fn udp_blacklist(&self) -> Vec<String> {
        let text = self.text("udp_blacklist").unwrap_or_default();
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.take(MAX_BLACKLIST).map(str::to_owned).collect()
    }
}

fn circuit_code(text: &str) -> Option<CircuitCode> {
    let printed: i64 = text.parse().ok()?;
    let code = match u32::try_from(printed) {
        Ok(code) => code,
        Err(_) => i32::try_from(printed).ok()?.cast_unsigned(),
    };
    (code != 0).then_some(CircuitCode(code))
}

fn truncated(mut text: String, max_bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

#[cfg(test)]
mod tests;
