//! Ed25519 keys: the operator's, in files, and those that proxies make themselves.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::redact::Redacted;

/// PKCS #8 of an Ed25519 key up to its 32 bytes. Source: RFC 8410, section 7.
const PRIVATE_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
/// `SubjectPublicKeyInfo` of an Ed25519 key up to its 32 bytes. Source: RFC 8410, section 4.
const PUBLIC_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// Why a text holds no key. The text is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFormError {
    /// No private key.
    #[error("holds no Ed25519 private key in PEM form; make one with `rezcache token keygen`")]
    Private,
    /// No public key.
    #[error(
        "holds no Ed25519 public key in PEM form; it is the .pub file that `rezcache token keygen` writes"
    )]
    Public,
    /// A private key lies where a public one belongs.
    #[error("holds a private key; nodes get the .pub file only")]
    PrivateForPublic,
    /// A public key to which everybody has the private one.
    #[error("holds a public key that protects nothing")]
    Weak,
}

/// A key that signs tokens.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
    text: Redacted<String>,
}

impl SigningKey {
    /// The key of this random material.
    ///
    /// # Errors
    /// Never for 32 bytes, but the library may say otherwise.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyFormError> {
        let der = [&PRIVATE_PREFIX[..], seed].concat();
        Self::from_der(&der, pem("PRIVATE KEY", &der))
    }

    /// Reads PEM, also what `openssl genpkey -algorithm ed25519` makes.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn from_pem(text: &str) -> Result<Self, KeyFormError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyFormError::Private)?;
        Self::from_der(der.secret_pkcs8_der(), text.to_owned())
    }

    fn from_der(der: &[u8], text: String) -> Result<Self, KeyFormError> {
        // The checked form wants the public key inside too, which only ring itself writes.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyFormError::Private)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyFormError::Private)?;
        Ok(Self { pair, public, text: Redacted::new(text) })
    }

    /// The PEM text. A secret.
    #[must_use]
    pub fn pem(&self) -> &Redacted<String> {
        &self.text
    }

    /// The public key as PEM, for nodes.
    #[must_use]
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &[&PUBLIC_PREFIX[..], &self.public].concat())
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Signs.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// The public keys in a PEM text.
///
/// # Errors
/// When one is not an Ed25519 key, or there is none.
pub(super) fn public_keys(text: &str) -> Result<Vec<[u8; 32]>, KeyFormError> {
    if text.contains("PRIVATE KEY") {
        return Err(KeyFormError::PrivateForPublic);
    }
    let keys: Vec<[u8; 32]> = SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes())
        .map(|der| {
            let der = der.map_err(|_| KeyFormError::Public)?;
            let key = der.as_ref().strip_prefix(&PUBLIC_PREFIX).ok_or(KeyFormError::Public)?;
            key.try_into().map_err(|_| KeyFormError::Public)
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(KeyFormError::Public);
    }
    if keys.iter().any(is_weak) {
        return Err(KeyFormError::Weak);
    }
    Ok(keys)
}

/// Whether a signature fits.
#[must_use]
pub fn verify_with(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// Whether a key is one of the few for which everybody can sign, or is written in a second way. The
/// library verifies with such keys; nobody may enrol one.
///
/// A key is the y of a point, with the sign of x in its last bit.
/// Source: the points of small order, as in libsodium's `ge25519_has_small_order`.
#[must_use]
pub fn is_weak(public: &[u8; 32]) -> bool {
    /// 2^255 - 19: what is not below it is written in a second way.
    const PRIME: [u8; 32] = {
        let mut prime = [0xff; 32];
        prime[0] = 0xed;
        prime[31] = 0x7f;
        prime
    };
    const ZERO: [u8; 32] = [0; 32];
    const ONE: [u8; 32] = {
        let mut one = [0; 32];
        one[0] = 1;
        one
    };
    const MINUS_ONE: [u8; 32] = {
        let mut y = PRIME;
        y[0] = 0xec;
        y
    };
    const EIGHT: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    const MINUS_EIGHT: [u8; 32] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ];
    let mut y = *public;
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    // Compared from the most significant byte on.
    y.iter().rev().ge(PRIME.iter().rev()) || [ZERO, ONE, MINUS_ONE, EIGHT, MINUS_EIGHT].contains(&y)
}

/// The principal of a key that a proxy made itself.
#[must_use]
pub fn own_subject(public: &[u8; 32]) -> String {
    let hash = blake3::derive_key("rezcache own principal v1", public);
    hash.iter().take(16).fold("own-".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a proxy signs to show that it has the private key.
#[must_use]
pub fn enrolment_message(audience: &str, challenge: &str, public: &[u8; 32]) -> Vec<u8> {
    let mut message = b"rezcache enrolment v1\0".to_vec();
    for part in [audience.as_bytes(), challenge.as_bytes(), public] {
        message.extend((part.len() as u64).to_be_bytes());
        message.extend(part);
    }
    message
}

/// The public key in base64url text.
#[must_use]
pub fn public_key_of(text: &str) -> Option<[u8; 32]> {
    super::jwt::decoded(text)?.try_into().ok()
}
