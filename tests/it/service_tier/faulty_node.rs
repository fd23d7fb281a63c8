//! A node that can be made to misbehave, over either face. It knows the assets it is given, and answers
//! rightly until it is told to do something else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use rezcache::asset::Digest;
use rezcache::proxy::ServiceConfig;
use rezcache::support::pin;
use rezcache::wire::frame::{Call, Found, Reply, Request};
use rezcache::wire::{ALPN, DigestText, groups};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with whatever it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Takes requests, and never answers.
    Silent,
    /// Answers two seconds late.
    Slow,
    /// A right header at once, then one byte a second.
    Dripping,
    /// Bytes of no protocol.
    Garbage,
    /// A right header, and other bytes.
    WrongBytes,
    /// A right header and half of the body, then the connection is gone.
    Dying,
    /// Says that it is busy.
    Refusing,
    /// Closes every connection.
    Absent,
    /// Answers 300 ms late.
    Lagging,
    /// Says no, with this status.
    Says(u16),
}

pub(crate) const MOODS: [Mood; 8] = [
    Mood::Silent,
    Mood::Slow,
    Mood::Dripping,
    Mood::Garbage,
    Mood::WrongBytes,
    Mood::Dying,
    Mood::Refusing,
    Mood::Absent,
];

struct State {
    mood: Mood,
    assets: HashMap<String, Arc<Vec<u8>>>,
    reads: usize,
    verify: bool,
}

/// The node.
pub(crate) struct FaultyNode {
    state: Arc<Mutex<State>>,
    url: String,
    port: u16,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for FaultyNode {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl FaultyNode {
    /// With plain HTTP only.
    pub(crate) async fn http() -> Self {
        let state = new_state();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let url = format!("http://{at}");
        let known = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&known);
                tokio::spawn(async move { http_connection(stream, &state).await });
            }
        });
        Self { state, url, port: at.port(), tasks: vec![task] }
    }

    /// With QUIC, and no other face to fall back to.
    pub(crate) async fn quic() -> Self {
        Self::array(&["127.0.0.1"]).await.remove(0)
    }

    /// The same at several addresses, with one port and one certificate.
    pub(crate) async fn array(ips: &[&str]) -> Vec<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        loop {
            let mut nodes: Vec<Self> = Vec::new();
            for ip in ips {
                let port = nodes.first().map_or(0, |first| first.port);
                nodes.extend(Self::quic_at(&made, SocketAddr::new(ip.parse().unwrap(), port)));
            }
            if nodes.len() == ips.len() {
                return nodes;
            }
        }
    }

    fn quic_at(made: &rcgen::CertifiedKey<rcgen::KeyPair>, at: SocketAddr) -> Option<Self> {
        let state = new_state();
        let certificate = made.cert.der().clone();
        let pin = pin::of(&certificate).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::server(config, at).ok()?;
        let port = endpoint.local_addr().unwrap().port();
        let url = format!("https://{}#pin={pin}", endpoint.local_addr().unwrap());
        let known = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let state = Arc::clone(&known);
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((send, receive)) = connection.accept_bi().await {
                        let (state, connection) = (Arc::clone(&state), connection.clone());
                        tokio::spawn(async move { quic_stream(send, receive, &connection, &state).await });
                    }
                });
            }
        });
        Some(Self { state, url, port, tasks: vec![task] })
    }

    /// The address, with the pin, of a service whose name this is.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("https://{name}:{}#{}", self.port, self.url.split_once('#').unwrap().1)
    }

    /// For a proxy that waits as long as this machine may take: what is told is who answers, not how soon.
    pub(crate) fn patient(&self, spot_check: u32) -> ServiceConfig {
        ServiceConfig { least_deadline: Duration::from_secs(10), ..self.config(spot_check) }
    }

    pub(crate) fn config(&self, spot_check: u32) -> ServiceConfig {
        ServiceConfig {
            address: self.url.parse().unwrap(),
            token: None,
            join: None,
            spot_check,
            least_deadline: Duration::ZERO,
        }
    }

    /// It knows an asset, by the id in this query.
    pub(crate) fn knows(&self, query: &str, bytes: &Arc<Vec<u8>>) {
        let id = query.split('=').nth(1).unwrap().to_owned();
        self.state.lock().unwrap().assets.insert(id, Arc::clone(bytes));
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Every hit says that others have said otherwise.
    pub(crate) fn says_verify(&self) {
        self.state.lock().unwrap().verify = true;
    }

    /// Reads of assets so far; probes and lookups do not count.
    pub(crate) fn reads(&self) -> usize {
        self.state.lock().unwrap().reads
    }
}

fn new_state() -> Arc<Mutex<State>> {
    Arc::new(Mutex::new(State { mood: Mood::Well, assets: HashMap::new(), reads: 0, verify: false }))
}

/// What is to be answered to a read of an asset.
fn asked(state: &Mutex<State>, id: &str) -> (Mood, Option<Arc<Vec<u8>>>, bool) {
    let mut state = state.lock().unwrap();
    state.reads += 1;
    (state.mood, state.assets.get(id).cloned(), state.verify)
}

async fn http_connection(mut stream: TcpStream, state: &Mutex<State>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        if state.lock().unwrap().mood == Mood::Absent {
            return;
        }
        let end = loop {
            if let Some(end) = crate::support::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.unwrap_or(0);
        while buffer.len() < length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        buffer.drain(..length);
        let path = head.split(' ').nth(1).unwrap();
        let ok = if path == "/v1/lookup" {
            let mood = state.lock().unwrap().mood;
            http_answer(&mut stream, mood, None, br#"{"assets":[]}"#).await
        } else {
            let (mood, asset, verify) = asked(state, path.rsplit('/').next().unwrap());
            match asset {
                Some(bytes) => http_answer(&mut stream, mood, Some(verify), &bytes).await,
                None => {
                    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await.is_ok()
                }
            }
        };
        if !ok {
            return;
        }
    }
}

async fn http_answer(stream: &mut TcpStream, mood: Mood, verify: Option<bool>, body: &[u8]) -> bool {
    let mut head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
    if let Some(verify) = verify {
        head.push_str(&format!("ETag: \"{}\"\r\n", DigestText(Digest::of(body))));
        if verify {
            head.push_str("Rezcache-Verify: 1\r\n");
        }
    }
    head.push_str("\r\n");
    let head = head.as_bytes();
    match mood {
        Mood::Well => {}
        Mood::Silent => std::future::pending().await,
        Mood::Slow => tokio::time::sleep(Duration::from_secs(2)).await,
        Mood::Lagging => tokio::time::sleep(Duration::from_millis(300)).await,
        Mood::Dripping => {
            let _ = stream.write_all(head).await;
            for byte in body {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            return true;
        }
        Mood::Garbage => {
            let _ = stream.write_all(&[0x16, 0xFF, 0x00, 0x80].repeat(500)).await;
            return false;
        }
        Mood::WrongBytes if verify.is_some() => {
            let wrong: Vec<u8> = body.iter().map(|byte| byte ^ 1).collect();
            return stream.write_all(&[head, &wrong].concat()).await.is_ok();
        }
        Mood::Dying if verify.is_some() => {
            let _ = stream.write_all(&[head, &body[..body.len() / 2]].concat()).await;
            return false;
        }
        Mood::Refusing => {
            let busy = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(busy).await.is_ok();
        }
        Mood::Says(status) => {
            let no = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            return stream.write_all(no.as_bytes()).await.is_ok();
        }
        Mood::Absent => return false,
        Mood::WrongBytes | Mood::Dying => {}
    }
    stream.write_all(&[head, body].concat()).await.is_ok()
}

async fn quic_stream(
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
    connection: &quinn::Connection,
    state: &Mutex<State>,
) {
    let Ok(request) = receive.read_to_end(64 << 10).await else { return };
    let Some(Request { call, .. }) = Request::decode(&request[4..]) else { return };
    let (mood, asset, verify, range) = match &call {
        Call::Read { key, range, .. } => {
            let (mood, asset, verify) = asked(state, &key.id.0.to_string());
            (mood, asset, verify, *range)
        }
        _ => (state.lock().unwrap().mood, None, false, None),
    };
    let is_read = matches!(call, Call::Read { .. });
    let (reply, body) = match (&call, asset) {
        (Call::Lookup { assets, .. }, _) => (Reply::Sizes(vec![None; assets.len()]), Vec::new()),
        (_, None) => (Reply::Absent, Vec::new()),
        (_, Some(bytes)) => {
            let (total, group) = (bytes.len() as u64, groups::GROUP_BYTES as u64);
            let digest = Digest::of(&bytes);
            if total <= rezcache::wire::WHOLE_BYTES {
                let found = Found { digest, total, first: 0, length: total, grouped: false, verify };
                (Reply::Found(found), bytes.to_vec())
            } else {
                let (first, end) = range.unwrap_or((0, total));
                let (first, end) =
                    (first / group * group, end.min(total).div_ceil(group).saturating_mul(group).min(total));
                let found = Found { digest, total, first, length: end - first, grouped: true, verify };
                let mut body = groups::of(&bytes).concat();
                body.extend_from_slice(
                    &bytes[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()],
                );
                (Reply::Found(found), body)
            }
        }
    };
    let frame = reply.encode();
    let head = [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat();
    let mut body = body;
    match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Slow => tokio::time::sleep(Duration::from_secs(2)).await,
        Mood::Lagging => tokio::time::sleep(Duration::from_millis(300)).await,
        Mood::Dripping if is_read => {
            let _ = send.write_all(&head).await;
            for byte in body {
                if send.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            return;
        }
        Mood::Garbage => {
            let _ = send.write_all(&[0, 0, 0, 9, 200, 200, 200, 200, 200, 200, 200, 200, 200]).await;
            let _ = send.finish();
            return;
        }
        Mood::WrongBytes => {
            if let Some(byte) = body.last_mut() {
                *byte ^= 1;
            }
        }
        Mood::Dying if is_read => {
            let _ = send.write_all(&[&head, &body[..body.len() / 2]].concat()).await;
            // What was written is on its way.
            tokio::time::sleep(Duration::from_millis(5)).await;
            connection.close(1u8.into(), b"");
            return;
        }
        Mood::Refusing => {
            let frame = Reply::Busy { retry_after_ms: 1000 }.encode();
            let head = [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat();
            let _ = send.write_all(&head).await;
            let _ = send.finish();
            return;
        }
        Mood::Says(status) => {
            let frame = Reply::Refused { status, retry_after_s: 0, reason: "No".into() }.encode();
            let head = [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat();
            let _ = send.write_all(&head).await;
            let _ = send.finish();
            return;
        }
        Mood::Absent => {
            connection.close(1u8.into(), b"");
            return;
        }
        Mood::Well | Mood::Dripping | Mood::Dying => {}
    }
    let _ = send.write_all(&[head, body].concat()).await;
    let _ = send.finish();
}

/// An address where nobody is.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
