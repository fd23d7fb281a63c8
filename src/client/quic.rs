//! The fast path: one QUIC connection to the service, a stream per request.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, TransportConfig};
use tokio::sync::Mutex;

use super::address::ServerAddress;
use super::{CallError, tls};
use crate::redact::Redacted;
use crate::wire::ALPN;
use crate::wire::frame::{Call, MAX_HEADER_BYTES, Reply, Request};

/// A network that lets UDP through has answered by then; another face is tried meanwhile.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Longer than a laptop takes to change networks.
const IDLE: Duration = Duration::from_secs(90);
/// Keeps a home router's mapping of the connection alive.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The connection, made when it is first needed and again when it is lost.
pub(super) struct QuicLink {
    address: ServerAddress,
    config: ClientConfig,
    endpoints: std::sync::Mutex<[Option<Endpoint>; 2]>,
    connection: Mutex<Option<Connected>>,
}

#[derive(Clone)]
struct Connected {
    connection: Connection,
    /// The service has answered a request with our token: it knows us on this connection.
    introduced: Arc<std::sync::atomic::AtomicBool>,
}

impl QuicLink {
    /// Prepares to connect; nothing is sent yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(address: ServerAddress) -> Result<Self, CallError> {
        let mut crypto = tls::config(&address.pins).map_err(|_| CallError::Tls)?;
        crypto.alpn_protocols = vec![ALPN.to_vec()];
        crypto.enable_early_data = true;
        let crypto = QuicClientConfig::try_from(crypto).map_err(|_| CallError::Tls)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(0u8.into())
            .max_concurrent_uni_streams(0u8.into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window((2u32 << 20).into())
            .receive_window((32u32 << 20).into())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .max_idle_timeout(IDLE.try_into().ok());
        config.transport_config(Arc::new(transport));
        Ok(Self { address, config, endpoints: std::sync::Mutex::default(), connection: Mutex::default() })
    }

    /// Makes one request and reads the reply's header.
    ///
    /// # Errors
    /// When the service cannot be reached or answers in another language.
    pub(super) async fn call(
        &self,
        token: &str,
        call: Call,
        body: Option<&[Bytes]>,
    ) -> Result<(Reply, RecvStream), CallError> {
        let connected = self.connected().await?;
        let introduced = connected.introduced.load(std::sync::atomic::Ordering::Relaxed);
        let shown = if introduced { "" } else { token };
        let (reply, receive) = self.exchange(&connected, shown, &call, body).await?;
        if !matches!(reply, Reply::Refused { status: 401, .. }) {
            connected.introduced.store(true, std::sync::atomic::Ordering::Relaxed);
            return Ok((reply, receive));
        }
        connected.introduced.store(false, std::sync::atomic::Ordering::Relaxed);
        if !introduced || token.is_empty() {
            return Ok((reply, receive));
        }
        // What it knew us by has run out: once more, with the token of now.
        let (reply, receive) = self.exchange(&connected, token, &call, body).await?;
        let known = !matches!(reply, Reply::Refused { status: 401, .. });
        connected.introduced.store(known, std::sync::atomic::Ordering::Relaxed);
        Ok((reply, receive))
    }

    /// One request on a stream of its own.
    async fn exchange(
        &self,
        connected: &Connected,
        token: &str,
        call: &Call,
        body: Option<&[Bytes]>,
    ) -> Result<(Reply, RecvStream), CallError> {
        let (mut send, mut receive) =
            connected.connection.open_bi().await.map_err(|_| CallError::Unreachable)?;
        let frame = Request { token: Redacted::new(token.to_owned()), call: call.clone() }.encode();
        let mut chunks = Vec::with_capacity(2 + body.map_or(0, <[Bytes]>::len));
        let length = u32::try_from(frame.len()).map_err(|_| CallError::Garbled)?;
        chunks.push(Bytes::copy_from_slice(&length.to_be_bytes()));
        chunks.push(Bytes::from(frame));
        chunks.extend_from_slice(body.unwrap_or_default());
        // A service that has answered already need not hear us out.
        if send.write_all_chunks(&mut chunks).await.is_ok() {
            let _ = send.finish();
        }
        let mut length = [0; 4];
        receive.read_exact(&mut length).await.map_err(|_| CallError::Unreachable)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_HEADER_BYTES {
            return Err(CallError::Garbled);
        }
        let mut frame = vec![0; length];
        receive.read_exact(&mut frame).await.map_err(|_| CallError::Unreachable)?;
        Ok((Reply::decode(&frame).ok_or(CallError::Garbled)?, receive))
    }

    /// Makes a connection, whatever became of the last one.
    ///
    /// # Errors
    /// When the service cannot be reached over QUIC.
    pub(super) async fn connect_anew(&self) -> Result<(), CallError> {
        let connection = self.connect(false).await?;
        *self.connection.lock().await = Some(Connected { connection, introduced: Arc::default() });
        Ok(())
    }

    /// Gives the connection up.
    pub(super) async fn disconnect(&self) {
        if let Some(known) = self.connection.lock().await.take() {
            known.connection.close(0u8.into(), b"");
        }
    }

    async fn connected(&self) -> Result<Connected, CallError> {
        let mut slot = self.connection.lock().await;
        if let Some(connected) = slot.as_ref().filter(|known| known.connection.close_reason().is_none()) {
            return Ok(connected.clone());
        }
        let connection = self.connect(true).await?;
        let connected = Connected { connection, introduced: Arc::default() };
        *slot = Some(connected.clone());
        Ok(connected)
    }

    /// With `early`, a connection may be there before the service has answered at all.
    async fn connect(&self, early: bool) -> Result<Connection, CallError> {
        let addresses = tokio::net::lookup_host((self.address.host.as_str(), self.address.port))
            .await
            .map_err(|_| CallError::Unreachable)?;
        for address in addresses.take(8) {
            let Some(endpoint) = self.endpoint(address) else { return Err(CallError::NoEndpoint) };
            let Ok(connecting) = endpoint.connect_with(self.config.clone(), address, &self.address.host)
            else {
                continue;
            };
            // With a ticket of an earlier visit the first request goes out with the first packet.
            let attempt = if early { connecting.into_0rtt() } else { Err(connecting) };
            let connecting = match attempt {
                Ok((connection, _)) => return Ok(connection),
                Err(connecting) => connecting,
            };
            if let Ok(Ok(connection)) = tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
                return Ok(connection);
            }
        }
        Err(CallError::Unreachable)
    }

    /// The socket of an address family. `None` where the system does not let us have one.
    fn endpoint(&self, toward: SocketAddr) -> Option<Endpoint> {
        let local: SocketAddr = match toward {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut endpoints = self.endpoints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let slot = endpoints.get_mut(usize::from(toward.is_ipv6()))?;
        if slot.is_none() {
            *slot = Endpoint::client(local).ok();
        }
        slot.clone()
    }
}
