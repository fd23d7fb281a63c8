//! Whom we believe to be the grid over TLS: the system's certificate authorities and those of the
//! grid's `ca_file`. Verification is never switched off.
//!
//! Simulators of Second Life were given certificates of a private authority, with their name in the
//! subject's common name and no subjectAltName, which rustls refuses as viewers do not. For hosts of
//! that operator, and for authorities of the user's own file, such a name counts; see [`Linden`].
//! Source: hippolyzer, hippolyzer/lib/proxy/http_proxy.py (`SLTlsConfig`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

mod der;

/// Where certificates with nothing but a common name are known from.
const LINDEN_DOMAINS: [&str; 2] = [".lindenlab.com", ".secondlife.io"];

/// Why a certificate file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} holds no certificate in PEM form")]
    Empty(PathBuf),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] Error),
    #[error("TLS cannot be set up: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// How TLS is spoken to a grid: with the system's roots and those of `ca_file`.
pub(crate) fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    // A machine without system roots still reaches plain HTTP grids.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let Some(path) = ca_file else {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    };
    let own = read_authorities(path)?;
    roots.extend(own.roots.iter().cloned());
    let algorithms = provider.signature_verification_algorithms;
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    let verifier = Linden { usual, own, algorithms };
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn read_authorities(path: &Path) -> Result<RootCertStore, TrustError> {
    let pem = std::fs::read(path).map_err(|source| TrustError::Read { path: path.to_owned(), source })?;
    let mut own = RootCertStore::empty();
    own.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if own.is_empty() { Err(TrustError::Empty(path.to_owned())) } else { Ok(own) }
}

/// The usual verification; where it fails at nothing but the name, the common name may do instead.
///
/// Held to what is needed: the host is in one of [`LINDEN_DOMAINS`], the certificate has no
/// subjectAltName at all, and its chain leads to an authority of the user's own file. The last keeps
/// public authorities out, some of which may sign for certain names only, a limit that says nothing
/// about common names.
#[derive(Debug)]
struct Linden {
    usual: Arc<WebPkiServerVerifier>,
    own: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Linden {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usual = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let only_the_name = matches!(
            usual,
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            ))
        );
        if !only_the_name || !is_named(end_entity, server_name) {
            return usual;
        }
        // Not left to the order in which the usual verification happens to go.
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.own,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Whether the certificate's common name is this host, and common names count for it.
fn is_named(certificate: &CertificateDer<'_>, server_name: &ServerName<'_>) -> bool {
    let ServerName::DnsName(host) = server_name else { return false };
    let host = host.as_ref().to_ascii_lowercase();
    LINDEN_DOMAINS.iter().any(|domain| host.ends_with(domain))
        && der::lone_common_name(certificate).is_some_and(|name| matches_host(name, &host))
}

/// Whether a common name, perhaps with a wildcard for the whole first label, is this host.
fn matches_host(name: &str, host: &str) -> bool {
    let name = name.to_ascii_lowercase();
    match (name.strip_prefix("*."), host.split_once('.')) {
        (Some(parent), Some((label, rest))) => !label.is_empty() && parent == rest,
        (Some(_), None) => false,
        (None, _) => name == host,
    }
}

#[cfg(test)]
mod tests;
