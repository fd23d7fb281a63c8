//! A grid to program: HTTP over plain sockets, so that replies may be held, may break off and may
//! lie, with every request recorded as it came over the wire.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{find, within};

/// A request as the grid saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
    /// Names in the case they were sent in.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The number of the connection it came on.
    pub(crate) connection: usize,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// Opened once; whoever waits for it goes on then.
#[derive(Clone)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

#[derive(Clone)]
enum Step {
    Write(Vec<u8>),
    Wait(Gate),
    Close,
}

/// What the grid does with a request.
#[derive(Clone)]
pub(crate) struct Reply(Vec<Step>);

impl Reply {
    /// A reply with a body and its true length.
    pub(crate) fn new(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.push(("Content-Length", &length));
        Self::raw_head(status, &all).then_bytes(body)
    }

    pub(crate) fn ok(content_type: &str, body: impl AsRef<[u8]>) -> Self {
        Self::new("200 OK", &[("Content-Type", content_type)], body)
    }

    /// A head that says what it likes, and nothing more.
    pub(crate) fn raw_head(status: &str, headers: &[(&str, &str)]) -> Self {
        let mut head = format!("HTTP/1.1 {status}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Self(vec![Step::Write(head.into_bytes())])
    }

    pub(crate) fn then_bytes(mut self, bytes: &[u8]) -> Self {
        self.0.push(Step::Write(bytes.to_vec()));
        self
    }

    pub(crate) fn then_wait(mut self, gate: &Gate) -> Self {
        self.0.push(Step::Wait(gate.clone()));
        self
    }

    pub(crate) fn then_close(mut self) -> Self {
        self.0.push(Step::Close);
        self
    }

    /// The same with another status line.
    pub(crate) fn with_status(mut self, status: &str) -> Self {
        if let Some(Step::Write(head)) = self.0.first_mut() {
            let rest = find(head, b"\r\n").unwrap();
            head.splice(..rest, format!("HTTP/1.1 {status}").into_bytes());
        }
        self
    }

    /// Nothing is said before the gate opens.
    pub(crate) fn held_by(mut self, gate: &Gate) -> Self {
        self.0.insert(0, Step::Wait(gate.clone()));
        self
    }

    /// No reply: the connection closes.
    pub(crate) fn none() -> Self {
        Self(vec![Step::Close])
    }
}

/// Stands for every path that has no handler of its own.
const ANY: &str = "*";

type Handler = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct Inner {
    routes: Mutex<HashMap<String, Handler>>,
    asked: watch::Sender<Vec<Asked>>,
    connections: AtomicUsize,
    per_connection: AtomicUsize,
}

/// The grid's HTTP side.
pub(crate) struct FakeGrid {
    pub(crate) at: SocketAddr,
    inner: Arc<Inner>,
    accepting: JoinHandle<()>,
}

impl FakeGrid {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let at = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            routes: Mutex::default(),
            asked: watch::channel(Vec::new()).0,
            connections: AtomicUsize::new(0),
            per_connection: AtomicUsize::new(usize::MAX),
        });
        let accepting = tokio::spawn({
            let inner = Arc::clone(&inner);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let number = inner.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(Arc::clone(&inner), stream, number));
                }
            }
        });
        Self { at, inner, accepting }
    }

    /// Decides what requests for exactly this path get, whatever their query.
    pub(crate) fn on(&self, path: &str, handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        self.inner.routes.lock().unwrap().insert(path.to_owned(), Arc::new(handler));
    }

    /// Decides what requests for every other path get.
    pub(crate) fn otherwise(&self, handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        self.on(ANY, handler);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    /// Requests for this path so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        self.inner.asked.borrow().iter().filter(|asked| asked.path() == path).cloned().collect()
    }

    /// All requests so far.
    pub(crate) fn all_asked(&self) -> Vec<Asked> {
        self.inner.asked.borrow().clone()
    }

    /// Waits until this path was asked for `count` times.
    pub(crate) async fn until_asked(&self, path: &str, count: usize) {
        let mut asked = self.inner.asked.subscribe();
        let enough = |all: &Vec<Asked>| all.iter().filter(|asked| asked.path() == path).count() >= count;
        within(asked.wait_for(enough)).await.unwrap();
    }

    /// Closes every connection after so many replies, when the next request has come: what a viewer
    /// of OpenSimulator meets when its request crosses the closing.
    pub(crate) fn replies_per_connection(&self, count: usize) {
        self.inner.per_connection.store(count, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }
}

impl Drop for FakeGrid {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(inner: Arc<Inner>, mut stream: TcpStream, connection: usize) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    for served in 0.. {
        let Some(asked) = read_request(&mut stream, &mut buffer, connection).await else { return };
        if served >= inner.per_connection.load(Ordering::Relaxed) {
            return;
        }
        let handler = {
            let routes = inner.routes.lock().unwrap();
            routes.get(asked.path()).or_else(|| routes.get(ANY)).cloned()
        };
        let reply = handler
            .map_or_else(|| Reply::new("404 Not Found", &[], "no such path"), |handler| handler(&asked));
        inner.asked.send_modify(|all| all.push(asked));
        for step in reply.0 {
            match step {
                Step::Write(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Wait(gate) => gate.passed().await,
                Step::Close => return,
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<Asked> {
    let head_len = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..head_len).collect()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut asked = Asked { method, target, headers, body: Vec::new(), connection };
    if asked.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        while !buffer.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
        asked.body = std::mem::take(buffer);
    } else {
        let length: usize = asked.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        while buffer.len() < length {
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        }
        asked.body = buffer.drain(..length).collect();
    }
    Some(asked)
}
