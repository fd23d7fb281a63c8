//! The stand-in viewer over HTTP: sends the captured requests to where the received replies led,
//! and checks what comes back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::board::{Board, Ledger};
use super::check;
use super::grid::seconds;
use super::http::{Parsed, Response, parse_response};
use super::script::{self, Role, Script, ScriptedExchange};
use super::side::Side;
use super::translation::Translation;

/// A response is waited for at most this long from when the grid may give it.
const RESPONSE_LIMIT: Duration = Duration::from_secs(30);
const RESPONSE_LIMIT_REALTIME: Duration = Duration::from_secs(150);
/// The script's walk is what ends a wait for it.
const UNLIMITED: Duration = Duration::from_secs(24 * 3600);
/// The largest response: an inventory of some MB.
const MAX_RESPONSE_BYTES: usize = 256 << 20;

/// The HTTP half of the stand-in viewers.
pub(crate) struct ViewerHttp {
    script: Arc<Script>,
    board: Arc<Board>,
    /// Login URL → the proxy's port for that grid; empty without a proxy.
    proxies: HashMap<String, SocketAddr>,
    /// Captured server → the stand-in grid's listener.
    grid: HashMap<SocketAddr, SocketAddr>,
    /// Captured simulator → the stand-in's socket, for when there is no proxy.
    simulators: HashMap<SocketAddr, SocketAddr>,
    /// Per session: what the replies taught.
    translations: Mutex<Vec<Translation>>,
    connections: Mutex<HashMap<(usize, SocketAddr), Connection>>,
    /// Per exchange: the captured viewer gave up.
    abandoned: Vec<Notify>,
    realtime: bool,
}

type Connection = Arc<tokio::sync::Mutex<Option<TcpStream>>>;

/// Where a request goes in this replay.
struct Destination {
    address: SocketAddr,
    host: String,
    target: String,
    through_proxy: bool,
}

impl ViewerHttp {
    pub(crate) fn new(
        script: &Arc<Script>,
        board: &Arc<Board>,
        proxies: HashMap<String, SocketAddr>,
        grid: HashMap<SocketAddr, SocketAddr>,
        simulators: HashMap<SocketAddr, SocketAddr>,
        realtime: bool,
    ) -> Self {
        Self {
            script: Arc::clone(script),
            board: Arc::clone(board),
            proxies,
            grid,
            simulators,
            translations: Mutex::new(script.sessions.iter().map(|_| Translation::default()).collect()),
            connections: Mutex::default(),
            abandoned: script.exchanges.iter().map(|_| Notify::new()).collect(),
            realtime,
        }
    }

    /// Makes a waiting exchange give up.
    pub(crate) fn abandon(&self, index: usize) {
        if let Some(notify) = self.abandoned.get(index) {
            notify.notify_one();
        }
    }

    /// Tells the viewer's sockets where the simulator of a circuit is, as far as is known now.
    pub(crate) fn point(&self, side: &Side, circuit: usize) {
        let Some(scripted) = self.script.circuits.get(circuit) else { return };
        let translations = self.translations.lock().unwrap_or_else(PoisonError::into_inner);
        let learnt =
            translations.get(scripted.session).and_then(|learnt| learnt.simulator(scripted.simulator));
        // Past a proxy nothing would be tested: then the datagrams go nowhere, and are lost.
        let direct = || self.simulators.get(&scripted.simulator).filter(|_| self.proxies.is_empty()).copied();
        if let Some(address) = learnt.or_else(direct) {
            side.set_peer(circuit, address);
        }
    }

    /// Sends a request of the script and checks its response.
    pub(crate) async fn perform(&self, index: usize) {
        let Some(scripted) = self.script.exchanges.get(index) else { return };
        let Some(destination) = self.destination(scripted) else {
            self.board.error(format!(
                "{} {} has no way through the proxy: its URL was not replaced",
                seconds(scripted.exchange.sent),
                check::describe(scripted)
            ));
            self.board.update(|ledger| ledger.missing += u64::from(scripted.counted.is_some()));
            return self.done(index);
        };
        let sent = Instant::now();
        let answered = tokio::select! {
            response = self.request(scripted, &destination) => Some(response),
            () = self.overdue(index, scripted) => None,
            () = given_up(self.abandoned.get(index)) => return self.done(index),
        };
        let took = sent.elapsed();
        let response = match answered {
            Some(Ok(response)) => response,
            Some(Err(error)) => return self.failed(index, scripted, &format!("failed: {}", error.kind())),
            None => return self.failed(index, scripted, "was not answered in time"),
        };
        self.check(scripted, &response, destination.through_proxy, took);
        self.done(index);
    }

    /// Ends when a response is no longer waited for. What the grid says when the script has come
    /// there has its time from then on; a captured request without a response has all the time.
    async fn overdue(&self, index: usize, scripted: &ScriptedExchange) {
        if !matches!(scripted.role, Role::Asset(_)) {
            let released = |ledger: &mut Ledger| ledger.released.get(index).copied().unwrap_or(true);
            self.board.wait(UNLIMITED, released).await;
        }
        tokio::time::sleep(if self.realtime { RESPONSE_LIMIT_REALTIME } else { RESPONSE_LIMIT }).await;
    }

    fn done(&self, index: usize) {
        self.board.update(|ledger| {
            if let Some(responded) = ledger.responded.get_mut(index) {
                *responded = true;
            }
        });
    }

    /// A request that the captured grid never answered may fail here too.
    fn failed(&self, index: usize, scripted: &ScriptedExchange, why: &str) {
        if scripted.exchange.reply.is_some() || scripted.counted.is_some() {
            let (at, what) = (seconds(scripted.exchange.sent), check::describe(scripted));
            self.board.update(|ledger| {
                ledger.missing += u64::from(scripted.counted.is_some());
                ledger.error(format!("{at} {what} {why}"));
            });
        }
        self.done(index);
    }

    fn destination(&self, scripted: &ScriptedExchange) -> Option<Destination> {
        let exchange = &scripted.exchange;
        let target = exchange.request.target.clone();
        let authority = script::authority_of(exchange);
        let url = script::url_of(exchange);
        let is_page = matches!(scripted.role, Role::Login | Role::Other);
        let through_proxy = |address: SocketAddr, target| Destination {
            address,
            host: address.to_string(),
            target,
            through_proxy: true,
        };
        // The viewer was told that the proxy's port is the grid: it knows no login path.
        let is_login = exchange.request.method == "POST" || target == "/";
        if is_page
            && is_login
            && let Some(address) = self.proxies.get(&url)
        {
            return Some(through_proxy(*address, "/".into()));
        }
        if is_page && script::is_grid_info(&target) {
            let same_grid = |(login, _): &(&String, &SocketAddr)| login.split('/').next() == Some(&authority);
            if let Some((_, address)) = self.proxies.iter().find(same_grid) {
                return Some(through_proxy(*address, target));
            }
        }
        let learnt = {
            let translations = self.translations.lock().unwrap_or_else(PoisonError::into_inner);
            translations.get(scripted.session).and_then(|learnt| learnt.url(&url))
        };
        if let Some(url) = learnt {
            let (host, path) = url.split_once('/').map_or((url.as_str(), ""), |(host, path)| (host, path));
            if let Ok(address) = host.parse() {
                let target = format!("/{path}");
                return Some(Destination { address, host: host.to_owned(), target, through_proxy: true });
            }
        }
        if !self.proxies.is_empty() && scripted.role != Role::Other {
            return None;
        }
        let address = *self.grid.get(&exchange.server)?;
        Some(Destination { address, host: authority, target, through_proxy: false })
    }

    /// One connection per captured connection and place it led to, kept as long as it lasts.
    async fn request(
        &self,
        scripted: &ScriptedExchange,
        destination: &Destination,
    ) -> std::io::Result<Response> {
        let connection = {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (scripted.exchange.connection, destination.address);
            Arc::clone(connections.entry(key).or_default())
        };
        let request = wire(scripted, destination);
        let method = &scripted.exchange.request.method;
        let mut slot = connection.lock().await;
        // Taken out, so that a request given up on closes it.
        if let Some(kept) = slot.take() {
            match converse(kept, &request, method).await {
                Ok((response, stream)) => {
                    *slot = stream;
                    return Ok(response);
                }
                // It was closed while it lay idle, as servers do.
                Err(error) if is_unanswered(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let stream = TcpStream::connect(destination.address).await?;
        stream.set_nodelay(true)?;
        let (response, stream) = converse(stream, &request, method).await?;
        *slot = stream;
        Ok(response)
    }

    fn check(&self, scripted: &ScriptedExchange, response: &Response, through_proxy: bool, took: Duration) {
        if let Role::Asset(_) = scripted.role {
            return check::asset(&self.script, &self.board, scripted, response, through_proxy, took);
        }
        let mut translations = self.translations.lock().unwrap_or_else(PoisonError::into_inner);
        let learnt = translations.get_mut(scripted.session);
        check::reply(&self.board, scripted, response, through_proxy, learnt);
    }
}

fn is_unanswered(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

async fn given_up(notify: Option<&Notify>) {
    match notify {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}

/// The captured request for its new destination: other Host, plain body, everything else as it was.
fn wire(scripted: &ScriptedExchange, destination: &Destination) -> Vec<u8> {
    let request = &scripted.exchange.request;
    let mut wire =
        format!("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, destination.target, destination.host)
            .into_bytes();
    for (name, value) in &request.headers.0 {
        let made_anew = ["host", "content-length", "transfer-encoding", "expect"];
        if !made_anew.contains(&name.to_ascii_lowercase().as_str()) {
            wire.extend_from_slice(name.as_bytes());
            wire.extend_from_slice(b": ");
            wire.extend_from_slice(value);
            wire.extend_from_slice(b"\r\n");
        }
    }
    if !request.body.is_empty() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        wire.extend_from_slice(format!("Content-Length: {}\r\n", request.body.len()).as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    wire.extend_from_slice(&request.body);
    wire
}

/// Sends a request, reads its response, and gives the connection back if it can be used again.
async fn converse(
    mut stream: TcpStream,
    request: &[u8],
    method: &str,
) -> std::io::Result<(Response, Option<TcpStream>)> {
    stream.write_all(request).await?;
    let mut buffer = Vec::with_capacity(16 << 10);
    loop {
        let ended = stream.read_buf(&mut buffer).await? == 0;
        match parse_response(&buffer, method, ended) {
            // Interim responses say nothing.
            Parsed::Message(response, len) if response.status / 100 == 1 => {
                buffer.drain(..len);
            }
            Parsed::Message(response, len) => {
                let closes = response
                    .headers
                    .get("connection")
                    .is_some_and(|value| value.eq_ignore_ascii_case("close"));
                // After HEAD some servers send the body all the same.
                let usable = !ended && !closes && len == buffer.len() && method != "HEAD";
                return Ok((response, usable.then_some(stream)));
            }
            Parsed::Partial if !ended && buffer.len() <= MAX_RESPONSE_BYTES => {}
            Parsed::Partial if buffer.is_empty() => return Err(std::io::ErrorKind::ConnectionAborted.into()),
            Parsed::Partial => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Parsed::Invalid => return Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
}
