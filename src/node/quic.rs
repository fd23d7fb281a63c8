//! The QUIC face: one stream per request, one header frame each way, the body to the stream's end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::body::Body;
use super::caller::Caller;
use super::counters::Count;
use super::places::{Place, Places};
use super::refusal::Refusal;
use super::sending::{SEND_WINDOW, patience};
use super::service::{Answer, Service};
use super::tls::{Identity, IdentityError};
use super::uploads::Receiving;
use crate::wire::frame::{Call, MAX_HEADER_BYTES, Reply, Request};

/// Beyond this many open connections new ones must prove that their address is theirs.
const RETRY_ABOVE: usize = 200;
/// Requests in flight on one connection.
const MAX_STREAMS: u32 = 256;
/// A handshake that is not through by then.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// The same of one whose sender may be forged. Left alone it ends without a word, which its victim does not get.
const FORGED_PATIENCE: Duration = Duration::from_secs(100);
/// What a connection may send before anybody has looked at it, and all of them.
const EARLY_BYTES: u64 = 64 << 10;
const EARLY_BYTES_ALL: u64 = 16 << 20;
/// A header that has not come by then never will.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// Without a packet for so long a connection is gone. Longer than a laptop takes to change networks.
const IDLE: Duration = Duration::from_secs(90);

/// Code of a connection closed because the node goes.
const GOING: VarInt = VarInt::from_u32(1);
/// Code of an answer that broke off.
const BROKEN: VarInt = VarInt::from_u32(2);
/// Code of a connection closed because its address has too many.
const CROWDED: VarInt = VarInt::from_u32(4);
/// Code of an answer that its reader takes too slowly.
const SLOW: VarInt = VarInt::from_u32(3);

/// Opens the face's socket.
///
/// # Errors
/// When the certificate cannot be used or the port cannot be opened.
pub(super) fn bind(address: SocketAddr, identity: &Identity) -> Result<Endpoint, BindError> {
    let crypto = QuicServerConfig::try_from(identity.quic()?).map_err(|_| BindError::Suite)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport()))
        .max_incoming(1024)
        .incoming_buffer_size(EARLY_BYTES)
        .incoming_buffer_size_total(EARLY_BYTES_ALL)
        .migration(true);
    Ok(Endpoint::server(config, address)?)
}

/// Why the face does not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The TLS library lacks QUIC's first cipher.
    #[error("TLS offers no cipher for QUIC")]
    Suite,
    /// The port cannot be opened.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(0u8.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window((2u32 << 20).into())
        .receive_window((16u32 << 20).into())
        .send_window(SEND_WINDOW.into())
        .max_idle_timeout(IDLE.try_into().ok());
    transport
}

/// Serves until `stop` turns true; what runs then may end until `drained`.
pub(super) async fn serve(endpoint: Endpoint, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = stop.wait_for(|stopping| *stopping) => break,
        };
        let Some(incoming) = incoming else { return };
        if service.is_draining() {
            incoming.refuse();
            continue;
        }
        let from = incoming.remote_address().ip();
        let busy = endpoint.open_connections() > RETRY_ABOVE;
        let place = match admitted(&service, &service.places, from, incoming.remote_address_validated(), busy)
        {
            Admitted::Yes(place) => place,
            Admitted::Prove => {
                service.counters.count(Count::AddressesAsked);
                let _ = incoming.retry();
                continue;
            }
            Admitted::No => {
                service.counters.count(Count::ConnectionsRefused);
                incoming.refuse();
                continue;
            }
        };
        let service = Arc::clone(&service);
        let open = service.connected();
        tokio::spawn(async move {
            connection(incoming, &service, place).await;
            drop(open);
        });
    }
    // Requests that are running may end; the caller bounds how long that takes.
    endpoint.set_server_config(None);
    service.idle().await;
    endpoint.close(GOING, b"the node goes");
    let _ = tokio::time::timeout(Duration::from_secs(2), endpoint.wait_idle()).await;
}

/// What becomes of somebody who wants to connect.
pub(super) enum Admitted {
    /// It has this place.
    Yes(Place),
    /// It must show first that it is where it says it is.
    Prove,
    /// Nothing.
    No,
}

/// Whoever may not be at the address of which its packet tells uses up nothing of what that address may,
/// and is never a reason to refuse it: others can write such packets.
pub(super) fn admitted(
    service: &Service,
    places: &Places,
    from: IpAddr,
    proven: bool,
    busy: bool,
) -> Admitted {
    if proven {
        let place = if service.admits_connection(from) { places.take(from) } else { None };
        return place.map_or(Admitted::No, Admitted::Yes);
    }
    // A sender who cannot be reached at its address is not worth a handshake under load.
    let place = if !busy && service.admits_unproven(from) { places.take_unproven(from) } else { None };
    place.map_or(Admitted::Prove, Admitted::Yes)
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    Pending,
    Established,
    Lost,
}

async fn connection(incoming: Incoming, service: &Arc<Service>, place: Place) {
    // The address that the handshake was made with. A connection may move, and its packets then say from
    // where before anybody has looked whether they come from there.
    let peer = incoming.remote_address();
    let (from, proven) = (peer.ip(), incoming.remote_address_validated());
    let Ok(connecting) = incoming.accept() else { return };
    // What comes with the first packet is answered before the handshake ends.
    let Ok((connection, established)) = connecting.into_0rtt() else { return };
    let (done, early) = watch::channel(Handshake::Pending);
    let connected = &connection;
    let watched = async move {
        let patience = if proven { HANDSHAKE_PATIENCE } else { FORGED_PATIENCE };
        if tokio::time::timeout(patience, established).await.is_err() {
            service.counters.count(Count::HandshakesSlow);
            done.send_replace(Handshake::Lost);
            connected.close(SLOW, b"the handshake took too long");
            return;
        }
        // It also ends when the connection does.
        let lost = connected.close_reason().is_some();
        done.send_replace(if lost { Handshake::Lost } else { Handshake::Established });
        let _place = if proven {
            place
        } else if let Some(own) = service.places.take(from) {
            // By now it has shown that it is there, and makes room for who has not.
            drop(place);
            own
        } else {
            service.counters.count(Count::ConnectionsRefused);
            connected.close(CROWDED, b"too many connections from this address");
            return;
        };
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = watched => {}
        () = streams(&connection, peer, service, &early) => {}
    }
}

/// Waits for the end of the handshake.
async fn established(early: &mut watch::Receiver<Handshake>) -> Result<(), Gone> {
    match *early.wait_for(|handshake| *handshake != Handshake::Pending).await? {
        Handshake::Established => Ok(()),
        Handshake::Pending | Handshake::Lost => Err(Gone::Peer),
    }
}

async fn streams(
    connection: &Connection,
    peer: SocketAddr,
    service: &Arc<Service>,
    early: &watch::Receiver<Handshake>,
) {
    // The token shown last on this connection; requests without one are by the same caller.
    let caller: Arc<std::sync::Mutex<Option<Caller>>> = Arc::default();
    let mut running = JoinSet::new();
    // What comes when the node goes is sent away, and never waited for: there may always be one more.
    let mut late = JoinSet::new();
    let mut leaving = std::pin::pin!(service.leaving.said());
    loop {
        let (send, receive) = tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => break,
            },
            Some(ended) = running.join_next() => match ended {
                Ok(Err(Gone::Unwelcome)) => {
                    connection.close(CROWDED, b"too many requests from this address");
                    break;
                }
                _ => continue,
            },
            Some(_) = late.join_next() => continue,
            () = leaving.as_mut(), if running.is_empty() => {
                connection.close(GOING, b"the node goes");
                break;
            }
        };
        let (service, caller, early) = (Arc::clone(service), Arc::clone(&caller), early.clone());
        let going = service.is_draining();
        // Whoever asked and is gone needs no answer.
        let streams = if going { &mut late } else { &mut running };
        streams.spawn(async move { stream(send, receive, peer, &service, &caller, early).await });
    }
    // What was asked for is done, even if nobody is there any more to hear of it.
    running.detach_all();
}

#[derive(Debug, PartialEq, Eq)]
enum Gone {
    Peer,
    /// There were too many requests of nobody in particular from its address.
    Unwelcome,
}

impl<E: std::error::Error> From<E> for Gone {
    fn from(_: E) -> Self {
        Self::Peer
    }
}

async fn stream(
    mut send: SendStream,
    mut receive: RecvStream,
    peer: SocketAddr,
    service: &Arc<Service>,
    known: &std::sync::Mutex<Option<Caller>>,
    mut early: watch::Receiver<Handshake>,
) -> Result<(), Gone> {
    let Some(_running) = service.begin() else {
        return answer(
            &mut send,
            service,
            Answer::from(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "draining", 1)),
        )
        .await;
    };
    let header = tokio::time::timeout(HEADER_PATIENCE, header(&mut receive)).await?;
    let Some(request) = header.and_then(|frame| Request::decode(&frame)) else {
        service.note_malformed();
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "no request of rezcache/1");
        return to_stranger(&mut send, service, peer.ip(), refusal).await;
    };
    if !matches!(request.call, Call::Read { .. } | Call::Lookup { .. }) {
        // Early data may be a replay of somebody's recording: it may read, and change nothing.
        established(&mut early).await?;
    }
    let remembered = || known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let token = request.token.reveal().as_str();
    let caller = match (token.is_empty(), remembered()) {
        (true, Some(caller)) => service.recognise(&caller, peer.ip()),
        _ => service.authenticate(Some(token).filter(|token| !token.is_empty()), peer.ip(), true).await,
    };
    let caller = match caller {
        Ok(caller) => caller,
        Err(refusal) => return to_stranger(&mut send, service, peer.ip(), refusal).await,
    };
    *known.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(caller.clone());
    let answered = match &request.call {
        Call::Put { .. } => match service.admit_body(&caller, &request.call).await {
            Err(refusal) => refusal.into(),
            Ok(mut receiving) => match body(&mut receive, &mut receiving).await {
                Ok(true) => service.put(&caller, &request.call, receiving).await,
                Ok(false) => service.given_up().into(),
                Err(refusal) => refusal.into(),
            },
        },
        _ => service.perform(&caller, &request.call).await,
    };
    answer(&mut send, service, answered).await
}

/// Refuses a request of nobody in particular, of which each address may send so many.
async fn to_stranger(
    send: &mut SendStream,
    service: &Service,
    from: IpAddr,
    refusal: Refusal,
) -> Result<(), Gone> {
    match service.stranger(from) {
        Ok(()) => answer(send, service, refusal.into()).await,
        Err(limited) => {
            answer(send, service, limited.into()).await?;
            Err(Gone::Unwelcome)
        }
    }
}

async fn header(receive: &mut RecvStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    receive.read_exact(&mut length).await.ok()?;
    let length =
        usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= MAX_HEADER_BYTES)?;
    let mut frame = vec![0; length];
    receive.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

/// Takes a body; whether it came to its end in time.
async fn body(receive: &mut RecvStream, receiving: &mut Receiving) -> Result<bool, Refusal> {
    loop {
        match tokio::time::timeout(receiving.patience(), receive.read_chunk(256 << 10, true)).await {
            Ok(Ok(Some(chunk))) => receiving.push(&chunk.bytes).await?,
            Ok(Ok(None)) => return Ok(true),
            Ok(Err(_)) | Err(_) => return Ok(false),
        }
    }
}

/// Sends an answer, and waits until the peer has all of it: the connection holds it so long.
async fn answer(send: &mut SendStream, service: &Service, answer: Answer) -> Result<(), Gone> {
    let length = match &answer.reply {
        Reply::Found(found) => found.length,
        _ => 0,
    };
    match tokio::time::timeout(patience(length), deliver(send, answer)).await {
        Ok(delivered) => delivered,
        Err(_) => {
            // Whoever takes nothing must not keep others from being served.
            service.counters.count(Count::ReadersSlow);
            send.reset(SLOW)?;
            Ok(())
        }
    }
}

async fn deliver(send: &mut SendStream, answer: Answer) -> Result<(), Gone> {
    let header = answer.reply.encode();
    let mut head = BytesMut::with_capacity(4 + header.len());
    head.extend_from_slice(&u32::try_from(header.len())?.to_be_bytes());
    head.extend_from_slice(&header);
    let Body { hashes, bytes, stream } = answer.body;
    send.write_all_chunks(&mut [head.freeze(), hashes, bytes]).await?;
    let mut stream = stream;
    if let Some(stream) = &mut stream {
        loop {
            match stream.next().await {
                Ok(Some(piece)) => send.write_chunk(piece).await?,
                Ok(None) => break,
                Err(_) => {
                    send.reset(BROKEN)?;
                    return Ok(());
                }
            }
        }
    }
    send.finish()?;
    // With the stream goes what it is charged as.
    send.stopped().await?;
    drop(stream);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::{Gone, Handshake, established};

    #[tokio::test]
    async fn nothing_is_changed_for_a_connection_that_was_never_made() {
        let (done, mut early) = watch::channel(Handshake::Pending);
        drop(done);
        assert_eq!(established(&mut early).await, Err(Gone::Peer));
        let (done, mut early) = watch::channel(Handshake::Pending);
        done.send_replace(Handshake::Lost);
        assert_eq!(established(&mut early).await, Err(Gone::Peer));
        let (done, mut early) = watch::channel(Handshake::Pending);
        let waits = tokio::spawn(async move { established(&mut early).await });
        done.send_replace(Handshake::Established);
        assert_eq!(waits.await.ok(), Some(Ok(())));
        let mut early = done.subscribe();
        drop(done);
        assert_eq!(established(&mut early).await, Ok(()), "it was made, and what came before its end holds");
    }
}
