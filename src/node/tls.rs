//! The node's certificate: the operator's own, or one made here whose key is told by its pin.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::support::{pin, private_file};
use crate::wire::ALPN;

/// The pin of the certificate beside a key file, which nodes that share the file make and show; made here when
/// no node has been started yet.
///
/// # Errors
/// When the file can be neither read nor written.
pub fn pin_beside(key_file: &Path) -> Result<String, IdentityError> {
    Identity::read_or_make(&key_file.with_extension("crt")).map(|identity| identity.pin)
}

/// A certificate chain with its key.
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pin: String,
}

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {source}; check the path and its permissions")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no usable certificate or key.
    #[error("{path} holds no usable certificate and key in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
    },
    /// A certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not fit.
    #[error("the certificate cannot be used: {0}; give a certificate with its own key")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// Reads a chain and its key, in one file or two.
    ///
    /// # Errors
    /// When a file cannot be read or holds neither.
    pub(super) fn read(certificates: &Path, key: &Path) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
        };
        let pem = |path: &Path| IdentityError::Pem { path: path.to_owned() };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(certificates)?).flatten().collect();
        let first = chain.first().ok_or_else(|| pem(certificates))?;
        let pin = pin::of(first).ok_or_else(|| pem(certificates))?;
        let key_text = read(key)?;
        let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|_| pem(key))?;
        Ok(Self { chain, key, pin })
    }

    /// Reads the certificate made by an earlier start, or makes one. Nodes that share the file share
    /// the pin.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub(super) fn read_or_make(path: &Path) -> Result<Self, IdentityError> {
        match Self::read(path, path) {
            Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            known => return known,
        }
        let made = rcgen::generate_simple_self_signed(vec!["rezcache".to_owned()])?;
        let text = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        let file = |source| IdentityError::File { path: path.to_owned(), source };
        private_file::create(path, text.as_bytes()).map_err(file)?;
        // Another start may have been quicker: its file is the one that counts.
        Self::read(path, path)
    }

    /// `sha256:` and the hash of the certificate's public key, as clients pin it.
    #[must_use]
    pub(super) fn pin(&self) -> &str {
        &self.pin
    }

    /// How TLS is spoken over TCP: HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// When certificate and key do not fit.
    pub(super) fn tcp(&self) -> Result<ServerConfig, IdentityError> {
        let mut config = self.config()?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// How TLS is spoken in QUIC.
    ///
    /// # Errors
    /// When certificate and key do not fit.
    pub(super) fn quic(&self) -> Result<ServerConfig, IdentityError> {
        let mut config = self.config()?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // QUIC knows only this value or none: reads may come with the first packet.
        config.max_early_data_size = u32::MAX;
        Ok(config)
    }

    fn config(&self) -> Result<ServerConfig, IdentityError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Identity;

    #[test]
    fn a_made_certificate_keeps_its_pin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.crt");
        let first = Identity::read_or_make(&path).unwrap();
        let second = Identity::read_or_make(&path).unwrap();
        assert_eq!(first.pin(), second.pin());
        assert!(first.pin().starts_with("sha256:") && first.pin().len() == 71);
        assert!(first.tcp().is_ok() && first.quic().is_ok());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
