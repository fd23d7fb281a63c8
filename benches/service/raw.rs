//! The peer: bytes over quinn and nothing else. A request is a number, the answer the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::world;

/// What both sides of the node's QUIC face set; the rest are quinn's own defaults, as there.
fn transport(receive_window: u32) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(256u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window((2u32 << 20).into())
        .receive_window(receive_window.into())
        .send_window(16 << 20)
        .max_idle_timeout(Duration::from_secs(90).try_into().ok());
    Arc::new(transport)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Serves until it is killed.
pub(crate) async fn serve() {
    let bodies: Arc<Vec<Bytes>> = Arc::new(world::assets().into_iter().map(|asset| asset.bytes).collect());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    config.transport_config(transport(16 << 20));
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    world::ready(endpoint.local_addr().unwrap());
    while let Some(incoming) = endpoint.accept().await {
        let bodies = Arc::clone(&bodies);
        tokio::spawn(async move {
            let connection = incoming.await.unwrap();
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let bodies = Arc::clone(&bodies);
                tokio::spawn(async move {
                    let mut number = [0; 4];
                    receive.read_exact(&mut number).await.unwrap();
                    let body = bodies[u32::from_be_bytes(number) as usize].clone();
                    if send.write_chunk(body).await.is_ok() {
                        let _ = send.finish();
                    }
                });
            }
        });
    }
}

/// A connection as the proxy makes it, to whoever answers.
pub(crate) async fn connect(to: SocketAddr, alpn: Option<&[u8]>) -> (Endpoint, Connection) {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    tls.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(transport(32 << 20));
    // As the proxy's: any address of this machine.
    let endpoint = Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
    let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
    (endpoint, connection)
}

/// Sends a request and counts the bytes that come back.
pub(crate) async fn exchange(connection: &Connection, request: Bytes) -> usize {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_chunk(request).await.unwrap();
    send.finish().unwrap();
    let mut bytes = 0;
    while let Some(chunk) = receive.read_chunk(256 << 10, true).await.unwrap() {
        bytes += chunk.bytes.len();
    }
    bytes
}

/// The peer measures bytes, not trust.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
