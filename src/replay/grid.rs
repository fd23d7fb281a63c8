//! The stand-in grid over HTTP: a listener per captured server, replies as captured.
//!
//! What is no asset is answered when the script has come to the captured response; asset GETs are
//! answered on demand from the rebuilt assets, with the captured grid's reading of odd ranges.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::board::{Board, Ledger};
use super::http::{Parsed, Request, Response, parse_request};
use super::link::Link;
use super::script::{self, Role, Script, ScriptedExchange};

/// A captured response is waited for until the script has come to it, which ends with the pass.
const RELEASE_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Asset answers come no sooner than they did, up to this.
const MAX_ASSET_DELAY: Duration = Duration::from_millis(200);
/// The largest request a viewer sends: an upload of some MB.
const MAX_REQUEST_BYTES: usize = 64 << 20;
/// How much is put on a shaped line at a time.
const LINK_CHUNK_BYTES: usize = 16 << 10;

/// The HTTP half of the stand-in grid.
pub(crate) struct GridHttp {
    script: Arc<Script>,
    board: Arc<Board>,
    link: Option<Arc<Link>>,
    realtime: bool,
    /// Exchanges not yet asked for, by server, method and target.
    waiting: Mutex<HashMap<(SocketAddr, String, String), VecDeque<usize>>>,
    listeners: Mutex<Vec<(SocketAddr, TcpListener)>>,
}

struct Answer {
    wire: Bytes,
    close: bool,
    shaped: bool,
}

impl GridHttp {
    /// Opens a loopback listener for every captured server; the second value says where each is.
    pub(crate) async fn open(
        script: &Arc<Script>,
        board: &Arc<Board>,
        link: Option<Arc<Link>>,
        realtime: bool,
    ) -> std::io::Result<(Self, HashMap<SocketAddr, SocketAddr>)> {
        let (mut listeners, mut addresses) = (Vec::new(), HashMap::new());
        for server in script.servers() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.insert(server, listener.local_addr()?);
            listeners.push((server, listener));
        }
        let mut waiting: HashMap<_, VecDeque<usize>> = HashMap::new();
        for (index, scripted) in script.exchanges.iter().enumerate() {
            let request = &scripted.exchange.request;
            let key = (scripted.exchange.server, request.method.clone(), request.target.clone());
            waiting.entry(key).or_default().push_back(index);
        }
        let grid = Self {
            script: Arc::clone(script),
            board: Arc::clone(board),
            link,
            realtime,
            waiting: Mutex::new(waiting),
            listeners: Mutex::new(listeners),
        };
        Ok((grid, addresses))
    }

    /// Serves every listener.
    pub(crate) fn start(self: &Arc<Self>, tasks: &mut tokio::task::JoinSet<()>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for (server, listener) in listeners.drain(..) {
            let grid = Arc::clone(self);
            tasks.spawn(async move {
                // Connections end with their listener, not after it.
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    while connections.try_join_next().is_some() {}
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let grid = Arc::clone(&grid);
                    connections.spawn(async move { grid.serve(server, stream).await });
                }
            });
        }
    }

    async fn serve(&self, server: SocketAddr, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut buffer = Vec::new();
        loop {
            let (request, len) = match parse_request(&buffer) {
                Parsed::Message(request, len) => (request, len),
                Parsed::Partial if buffer.len() <= MAX_REQUEST_BYTES => {
                    match stream.read_buf(&mut buffer).await {
                        Ok(1..) => continue,
                        _ => return,
                    }
                }
                _ => return self.board.error("the grid was sent something that is no HTTP request".into()),
            };
            buffer.drain(..len);
            let Some(answer) = self.answer(server, &request).await else { return };
            if self.write(&mut stream, &answer).await.is_err() || answer.close {
                return;
            }
        }
    }

    async fn write(&self, stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
        let Some(link) = self.link.as_ref().filter(|_| answer.shaped) else {
            return stream.write_all(&answer.wire).await;
        };
        for chunk in answer.wire.chunks(LINK_CHUNK_BYTES) {
            tokio::time::sleep_until(link.send(chunk.len())).await;
            stream.write_all(chunk).await?;
        }
        Ok(())
    }

    async fn answer(&self, server: SocketAddr, request: &Request) -> Option<Answer> {
        if script::is_grid_info(&request.target) {
            return Some(self.grid_info(server, request));
        }
        let found = self.find(server, request);
        let scripted = found.and_then(|index| self.script.exchanges.get(index));
        let is_asset = scripted.map(|scripted| matches!(scripted.role, Role::Asset(_)));
        let asked = script::asked_asset(request);
        if is_asset.unwrap_or(asked.is_some()) {
            return Some(self.asset(asked, scripted, request).await);
        }
        let (Some(index), Some(scripted)) = (found, scripted) else {
            let method = &request.method;
            self.board
                .error(format!("the grid was sent a {method} that is not in the capture, or once too often"));
            return Some(fixed(404));
        };
        self.board.update(|ledger| {
            if let Some(arrived) = ledger.arrived.get_mut(index) {
                *arrived = true;
            }
        });
        self.compare(index, scripted, request);
        let Some(reply) = &scripted.exchange.reply else {
            return self.taken_over(index).await;
        };
        if !self.board.wait(RELEASE_LIMIT, |ledger| ledger.released.get(index).copied().unwrap_or(true)).await
        {
            return None;
        }
        Some(captured(&reply.response))
    }

    /// What the captured grid said of itself. It is asked by the proxy too, so it answers at once
    /// and as often as it is asked.
    fn grid_info(&self, server: SocketAddr, request: &Request) -> Answer {
        let page = |target: &str| target.split('?').next().unwrap_or_default().to_owned();
        let wanted = page(&request.target);
        let said = self.script.exchanges.iter().find_map(|scripted| {
            let exchange = &scripted.exchange;
            let reply = exchange.reply.as_ref().filter(|reply| reply.response.status == 200)?;
            (exchange.server == server && page(&exchange.request.target) == wanted)
                .then(|| captured(&reply.response))
        });
        // Nobody knows what a grid would have said that was not asked.
        said.unwrap_or_else(|| fixed(404))
    }

    /// The answer to a poll that the captured viewer gave up: when its next poll with the same ack
    /// has joined this one, that one's reply.
    async fn taken_over(&self, index: usize) -> Option<Answer> {
        let Some(successor) = self.script.successor(index) else {
            return std::future::pending().await;
        };
        let flag = |flags: &Vec<bool>| flags.get(successor).copied().unwrap_or_default();
        let is_due = |ledger: &mut Ledger| flag(&ledger.released);
        self.board.wait(RELEASE_LIMIT, is_due).await;
        if self.board.read(|ledger| flag(&ledger.arrived) || flag(&ledger.responded)) {
            // The viewer's next poll came by itself.
            return std::future::pending().await;
        }
        let reply = self.script.exchanges.get(successor)?.exchange.reply.as_ref()?;
        Some(captured(&reply.response))
    }

    /// The exchange of the script that this request is: the first of its target that has not been
    /// asked for, with the same body if there is one. Assets may be asked for more than once.
    fn find(&self, server: SocketAddr, request: &Request) -> Option<usize> {
        let key = (server, request.method.clone(), request.target.clone());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // A grid may have given itself another login URL than the viewer used.
        let key = if waiting.contains_key(&key) { key } else { self.elsewhere(request)? };
        let queue = waiting.get_mut(&key)?;
        // Polls whose answer came by way of one given up before are not asked for any more.
        queue.retain(|index| {
            !self.script.exchanges.get(*index).is_some_and(|scripted| scripted.role == Role::EventQueue)
                || !self.board.read(|ledger| ledger.responded.get(*index).copied().unwrap_or_default())
        });
        let scripted = |index: &usize| self.script.exchanges.get(*index);
        let same = queue.iter().position(|index| {
            scripted(index).is_some_and(|scripted| match scripted.role {
                Role::Asset(_) => ["range", "accept", "if-range"]
                    .iter()
                    .all(|name| scripted.exchange.request.headers.get(name) == request.headers.get(name)),
                _ => scripted.exchange.request.body == request.body,
            })
        });
        let index = queue.get(same.unwrap_or(0)).copied()?;
        if scripted(&index).is_some_and(|scripted| !matches!(scripted.role, Role::Asset(_))) {
            queue.remove(same.unwrap_or(0));
        }
        Some(index)
    }

    /// Where the capture has this login.
    fn elsewhere(&self, request: &Request) -> Option<(SocketAddr, String, String)> {
        let is_login = |scripted: &&ScriptedExchange| {
            let known = &scripted.exchange.request;
            matches!(scripted.role, Role::Login | Role::Other)
                && known.method == "POST"
                && !known.body.is_empty()
                && known.body == request.body
        };
        let scripted = self.script.exchanges.iter().find(is_login).filter(|_| request.method == "POST")?;
        let known = &scripted.exchange.request;
        Some((scripted.exchange.server, known.method.clone(), known.target.clone()))
    }

    /// What the viewer sent must have come through unchanged.
    fn compare(&self, index: usize, scripted: &ScriptedExchange, request: &Request) {
        const OF_THE_CONNECTION: [&str; 10] = [
            "host",
            "connection",
            "keep-alive",
            "accept-encoding",
            "expect",
            "content-length",
            "transfer-encoding",
            "te",
            "upgrade",
            "proxy-connection",
        ];
        let at = seconds(scripted.exchange.sent);
        if scripted.exchange.request.body != request.body {
            self.board.error(format!(
                "{at} exchange {index}: the request's body was changed on its way to the grid"
            ));
        }
        for (name, value) in &scripted.exchange.request.headers.0 {
            let ours = std::str::from_utf8(value).ok().map(str::trim);
            if !OF_THE_CONNECTION.contains(&name.to_ascii_lowercase().as_str())
                && request.headers.get(name) != ours
            {
                self.board.error(format!(
                    "{at} exchange {index}: header {name} was changed on its way to the grid"
                ));
            }
        }
    }

    async fn asset(
        &self,
        asked: Option<(crate::asset::AssetKind, uuid::Uuid)>,
        scripted: Option<&ScriptedExchange>,
        request: &Request,
    ) -> Answer {
        let arrived = Instant::now();
        let captured_reply = scripted.and_then(|scripted| {
            scripted
                .exchange
                .reply
                .as_ref()
                .map(|reply| (reply, reply.first_byte.saturating_sub(scripted.exchange.sent)))
        });
        let delay = captured_reply.map_or(Duration::ZERO, |(_, delay)| delay);
        let delay = if self.realtime { delay } else { delay.min(MAX_ASSET_DELAY) };
        let whole = asked.and_then(|asset| Some((asset, self.script.assets.held_by_grid(&asset)?)));
        let answer = match (whole, captured_reply) {
            (Some((asset, body)), _) if request.method == "GET" => {
                let (answer, sent) = ranged(asset.0, body, request.headers.get("range"));
                if self.script.assets.get(&asset).is_some() {
                    let host = request.headers.get("host").unwrap_or_default().to_ascii_lowercase();
                    let asked = (asset.0, asset.1, script::host_of(&host).to_owned());
                    self.board.update(|ledger| {
                        ledger.from_grid += sent as u64;
                        *ledger.asked_of_grid.entry(asked).or_default() += 1;
                    });
                }
                answer
            }
            (_, Some((reply, _))) => captured(&reply.response),
            _ => fixed(404),
        };
        tokio::time::sleep_until(arrived + delay).await;
        answer
    }
}

/// A time of the capture, for error texts.
pub(crate) fn seconds(time: Duration) -> String {
    format!("at {:.3} s", time.as_secs_f64())
}

fn captured(response: &Response) -> Answer {
    let headers = &response.headers;
    let asks_to_close = headers.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let has_length = headers.get("content-length").is_some() || headers.get("transfer-encoding").is_some();
    Answer { wire: response.wire.clone(), close: asks_to_close || !has_length, shaped: false }
}

fn fixed(status: u16) -> Answer {
    let head =
        format!("HTTP/1.1 {status} Not Found\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n");
    Answer { wire: Bytes::from(head), close: false, shaped: false }
}

/// An asset, or the range of it that OpenSimulator would send; and the number of its body bytes.
/// Observed: OpenSimulator 0.9.2.2, fixtures/sessions/hippo-ranges.pcap.
fn ranged(kind: crate::asset::AssetKind, asset: &Bytes, range: Option<&str>) -> (Answer, usize) {
    let slice = range.and_then(|range| opensim_range(range, asset.len()));
    let (first, last) = slice.unwrap_or((0, asset.len().saturating_sub(1)));
    let body = asset.get(first..=last).unwrap_or_default();
    let status = if slice.is_some() { "206 Partial Content" } else { "200 OK" };
    let mut wire = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: keep-alive\r\n",
        kind.content_type(),
        body.len()
    );
    if slice.is_some() {
        wire.push_str(&format!("Content-Range: bytes {first}-{last}/{}\r\n", asset.len()));
    }
    wire.push_str("\r\n");
    let wire = [wire.as_bytes(), body].concat();
    (Answer { wire: Bytes::from(wire), close: false, shaped: true }, body.len())
}

/// First and last byte of a range as that grid reads it; `None` means the whole asset. A suffix is
/// read as a range from 0, `0-0` as none, and the end of a reversed one is moved to its start.
fn opensim_range(range: &str, len: usize) -> Option<(usize, usize)> {
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str, default: usize| match text.trim() {
        "" => Some(default),
        digits => digits.parse::<usize>().ok(),
    };
    let (first, last) = (number(first, 0)?, number(last, len.checked_sub(1)?)?);
    if last == 0 || first >= len {
        return None;
    }
    let last = last.min(len - 1);
    // 700-600 came back as the one byte 600-600.
    Some(if first > last { (last, last) } else { (first, last) })
}

#[cfg(test)]
mod tests {
    use super::opensim_range;

    #[test]
    fn odd_ranges_are_read_as_the_captured_grid_reads_them() {
        let len = 55_912;
        for (range, expected) in [
            ("bytes=0-599", Some((0, 599))),
            ("bytes=600-", Some((600, 55_911))),
            ("bytes=600-60912", Some((600, 55_911))),
            ("bytes=55912-", None),
            ("bytes=55922-55932", None),
            ("bytes=-500", Some((0, 500))),
            ("bytes=0-0", None),
            ("bytes=700-600", Some((600, 600))),
            ("bytes=0-99,200-299", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(opensim_range(range, len), expected, "{range}");
        }
    }
}
