//! The form of a token, and its verification.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::keys::{self, KeyFormError, SigningKey, is_weak, own_subject, verify_with};
use super::{Budgets, Claims, MAX_OWN_SECONDS, RESIDENTS, Rights, is_name};
use crate::grid::GridId;

/// Longer than any token that is made here.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// By how much the clocks of signer and node may differ.
const LEEWAY: u64 = 60;
/// What the `kid` of a resident's own token begins with.
const OWN: &str = "own:";

/// Why a token is not accepted. Never says what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not in the form of a token signed with EdDSA.
    #[error("this is no token of rezcache")]
    Form,
    /// Nobody who may sign has signed it.
    #[error("the token is not signed by a key that is valid here")]
    Signature,
    /// Made for another service.
    #[error("the token is for another service")]
    Audience,
    /// Too late.
    #[error("the token has expired; get a new one")]
    Expired,
    /// Too early.
    #[error("the token is not valid yet; is the clock right?")]
    Early,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    kid: String,
    /// Extensions that must be understood. None are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    jti: String,
    sub: String,
    aud: String,
    #[serde(default)]
    tenant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grids: Option<Vec<String>>,
    #[serde(default)]
    rights: String,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    exp: u64,
    #[serde(default, skip_serializing_if = "Budgets::is_open")]
    budgets: Budgets,
}

/// Signs a token of the operator.
#[must_use]
pub fn sign(key: &SigningKey, claims: &Claims) -> String {
    let body = Body {
        jti: claims.id.to_string(),
        sub: claims.subject.to_string(),
        aud: claims.audience.clone(),
        tenant: claims.tenant.to_string(),
        grids: claims.grids.as_ref().map(|grids| grids.iter().map(ToString::to_string).collect()),
        rights: claims.rights.to_string(),
        iat: claims.issued_at,
        nbf: None,
        exp: claims.expires,
        budgets: claims.budgets,
    };
    assembled(key, kid(key.public()), &body)
}

/// Signs the token of a resident's proxy with its own key. `id` is a random name.
#[must_use]
pub fn sign_own(key: &SigningKey, audience: &str, id: String, now: u64, seconds: u64) -> String {
    let body = Body {
        jti: id,
        sub: own_subject(key.public()),
        aud: audience.to_owned(),
        tenant: RESIDENTS.to_owned(),
        grids: None,
        rights: Rights::RESIDENT.to_string(),
        iat: now,
        nbf: None,
        exp: now.saturating_add(seconds.min(MAX_OWN_SECONDS)),
        budgets: Budgets::default(),
    };
    assembled(key, OWN.to_owned() + &URL_SAFE_NO_PAD.encode(key.public()), &body)
}

fn assembled(key: &SigningKey, kid: String, body: &Body) -> String {
    let header = Header { alg: "EdDSA".into(), typ: Some("JWT".into()), kid, crit: None };
    // Structs of texts and numbers always become JSON.
    let part = |json: Result<Vec<u8>, _>| URL_SAFE_NO_PAD.encode(json.unwrap_or_default());
    let signed = format!("{}.{}", part(serde_json::to_vec(&header)), part(serde_json::to_vec(body)));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn kid(public: &[u8; 32]) -> String {
    blake3::hash(public).to_hex().chars().take(16).collect()
}

/// Reads base64url. Unpads nothing and forgives nothing: one token has one form, so that its hash can
/// stand for it.
#[must_use]
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A token that is signed, for us, and in time. Whether it was revoked is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// The key of a proxy that signed for itself: the catalog must know that it has enrolled.
    pub own: Option<[u8; 32]>,
}

/// The keys that may sign.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: HashMap<String, [u8; 32]>,
    residents: bool,
}

impl Keys {
    /// Accepts the keys of a PEM text too.
    ///
    /// # Errors
    /// When there is none, or one that cannot be used.
    pub fn add_pem(&mut self, text: &str) -> Result<(), KeyFormError> {
        self.keys.extend(keys::public_keys(text)?.into_iter().map(|key| (kid(&key), key)));
        Ok(())
    }

    /// Accepts tokens too that proxies have signed for themselves.
    pub fn accept_residents(&mut self) {
        self.residents = true;
    }

    /// Whether no token is accepted at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.residents
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(&self, token: &str, audience: &str, now: u64) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Form);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, body) =
            signed.split_once('.').filter(|(_, body)| !body.contains('.')).ok_or(TokenError::Form)?;
        let header: Header = decoded(header)
            .and_then(|header| serde_json::from_slice(&header).ok())
            .ok_or(TokenError::Form)?;
        let typ = header.typ.as_deref().unwrap_or("JWT");
        if header.alg != "EdDSA" || !typ.eq_ignore_ascii_case("JWT") || header.crit.is_some() {
            return Err(TokenError::Form);
        }
        let own = match header.kid.strip_prefix(OWN) {
            Some(key) if self.residents => {
                let key = keys::public_key_of(key).ok_or(TokenError::Form)?;
                Some(key).filter(|key| !is_weak(key))
            }
            _ => None,
        };
        let key = own.or_else(|| self.keys.get(&header.kid).copied()).ok_or(TokenError::Signature)?;
        let signature = decoded(signature).ok_or(TokenError::Form)?;
        if !verify_with(&key, signed.as_bytes(), &signature) {
            return Err(TokenError::Signature);
        }
        let body: Body =
            decoded(body).and_then(|body| serde_json::from_slice(&body).ok()).ok_or(TokenError::Form)?;
        if body.aud != audience {
            return Err(TokenError::Audience);
        }
        if body.exp <= now {
            return Err(TokenError::Expired);
        }
        if body.iat.max(body.nbf.unwrap_or(0)) > now.saturating_add(LEEWAY) {
            return Err(TokenError::Early);
        }
        let claims = match own {
            Some(key) => resident(body, &key, now)?,
            None => operators(body)?,
        };
        Ok(Verified { claims, own })
    }
}

/// What an operator has signed holds as it stands.
fn operators(body: Body) -> Result<Claims, TokenError> {
    if ![&body.jti, &body.sub, &body.tenant].iter().all(|name| is_name(name)) {
        return Err(TokenError::Form);
    }
    Ok(Claims {
        id: body.jti.into(),
        subject: body.sub.into(),
        tenant: body.tenant.into(),
        audience: body.aud,
        grids: body.grids.map(|grids| grids.iter().map(|grid| GridId::new(grid)).collect::<Arc<[_]>>()),
        rights: body.rights.parse().map_err(|_| TokenError::Form)?,
        issued_at: body.iat,
        expires: body.exp,
        budgets: body.budgets,
    })
}

/// A resident's proxy says only that it is itself, and for how long.
fn resident(body: Body, key: &[u8; 32], now: u64) -> Result<Claims, TokenError> {
    if !is_name(&body.jti) || body.sub != own_subject(key) {
        return Err(TokenError::Form);
    }
    if body.exp > now.saturating_add(MAX_OWN_SECONDS + LEEWAY) {
        return Err(TokenError::Early);
    }
    Ok(Claims {
        id: body.jti.into(),
        subject: body.sub.into(),
        tenant: RESIDENTS.into(),
        audience: body.aud,
        grids: None,
        rights: Rights::RESIDENT,
        issued_at: body.iat,
        expires: body.exp,
        budgets: Budgets::default(),
    })
}

/// The subject that a token names, for its holder, who trusts it anyway.
#[must_use]
pub fn unverified_subject(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    let body = decoded(token.split('.').nth(1)?)?;
    serde_json::from_slice::<Subject>(&body).ok().map(|body| body.sub).filter(|subject| is_name(subject))
}

/// When a token runs out, in seconds since 1970, by its own word.
#[must_use]
pub fn unverified_expiry(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    let body = decoded(token.split('.').nth(1)?)?;
    serde_json::from_slice::<Expiry>(&body).ok().map(|body| body.exp)
}

/// What a token allows, for its holder, who trusts it anyway.
#[must_use]
pub fn unverified_rights(token: &str) -> Option<Rights> {
    #[derive(Deserialize)]
    struct Allowed {
        rights: String,
    }
    let body = decoded(token.split('.').nth(1)?)?;
    serde_json::from_slice::<Allowed>(&body).ok()?.rights.parse().ok()
}
