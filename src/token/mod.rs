//! Tokens: who may do what at a service, as JSON Web Tokens signed with Ed25519. Nothing but EdDSA is
//! read; what is verified is returned as values, and time is an argument.
//!
//! ```text
//!  by the operator   {"alg":"EdDSA","typ":"JWT","kid":<16 hexadecimal digits of the key's hash>}
//!  by a resident     {"alg":"EdDSA","typ":"JWT","kid":"own:<public key, base64url>"}
//! ```
//! A resident's proxy signs with a key of its own that it has enrolled; its rights are not what the token
//! says, but what residents have.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::grid::GridId;

pub mod join;
mod jwt;
mod keys;

pub use jwt::decoded as from_base64url;
pub use jwt::{
    Keys, MAX_TOKEN_BYTES, TokenError, Verified, sign, sign_own, unverified_expiry, unverified_rights,
    unverified_subject,
};
pub use keys::{
    KeyFormError, SigningKey, enrolment_message, is_weak, own_subject, public_key_of, verify_with,
};

/// What a service is called in its tokens unless its operator says otherwise.
pub const DEFAULT_AUDIENCE: &str = "rezcache";
/// The tenant of everybody who enrolled without an operator. It can never be a trusted one.
pub const RESIDENTS: &str = "residents";
/// The longest life of a token that a proxy signs itself.
pub const MAX_OWN_SECONDS: u64 = 86_400;

/// What a token's holder may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools)] // Five independent rights.
pub struct Rights {
    /// Read assets.
    pub read: bool,
    /// Attest and upload.
    pub write: bool,
    /// Publish alone.
    pub vouch: bool,
    /// See the load report and the metrics.
    pub observe: bool,
    /// Take down, drain.
    pub admin: bool,
}

impl Rights {
    /// What residents have.
    pub const RESIDENT: Self = Self { read: true, write: true, vouch: false, observe: false, admin: false };

    fn named(&mut self) -> [(&'static str, &mut bool); 5] {
        [
            ("read", &mut self.read),
            ("write", &mut self.write),
            ("vouch", &mut self.vouch),
            ("observe", &mut self.observe),
            ("admin", &mut self.admin),
        ]
    }
}

/// A right that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no right; rights are read, write, vouch, observe and admin, with commas between")]
pub struct UnknownRight(String);

impl FromStr for Rights {
    type Err = UnknownRight;

    fn from_str(text: &str) -> Result<Self, UnknownRight> {
        let mut rights = Self::default();
        for word in text.split(',').map(str::trim) {
            match rights.named().into_iter().find(|(name, _)| *name == word) {
                Some((_, has)) => *has = true,
                None => return Err(UnknownRight(word.to_owned())),
            }
        }
        Ok(rights)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let names: Vec<&str> =
            copy.named().into_iter().filter(|(_, has)| **has).map(|(name, _)| name).collect();
        f.write_str(&names.join(","))
    }
}

/// How much a principal may use; what a token leaves open is the service's usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Distinct assets in an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assets_per_hour: Option<u64>,
    /// Distinct assets at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Bytes of assets in a day, either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<u64>,
    /// Bytes of assets brought in a year.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

impl Budgets {
    fn is_open(&self) -> bool {
        *self == Self::default()
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The token's own name.
    pub id: Arc<str>,
    /// Its holder: a random pseudonym.
    pub subject: Arc<str>,
    /// Whose member the holder is.
    pub tenant: Arc<str>,
    /// The service it is for.
    pub audience: String,
    /// The grids it is for; `None`: all.
    pub grids: Option<Arc<[GridId]>>,
    /// What it allows.
    pub rights: Rights,
    /// When it was made, in seconds since 1970.
    pub issued_at: u64,
    /// From when it is worth nothing.
    pub expires: u64,
    /// How much its holder may use.
    pub budgets: Budgets,
}

impl Claims {
    /// Whether it is for this grid.
    #[must_use]
    pub fn allows_grid(&self, grid: &GridId) -> bool {
        self.grids.as_ref().is_none_or(|grids| grids.contains(grid))
    }
}

/// Whether a text may be a subject, tenant, token id or service name: short, and visible ASCII.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
