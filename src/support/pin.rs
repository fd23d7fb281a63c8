//! Pins: how a service is recognised whose certificate no authority has signed.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;

/// The pin of a certificate: `sha256:` and the hash of its SubjectPublicKeyInfo in hexadecimal.
#[must_use]
pub fn of(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate).ok()?;
    let hash = digest(&SHA256, parsed.subject_public_key_info().as_ref());
    let mut pin = String::from("sha256:");
    for byte in hash.as_ref() {
        let _ = write!(pin, "{byte:02x}");
    }
    Some(pin)
}
