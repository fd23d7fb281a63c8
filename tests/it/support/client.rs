//! A viewer's HTTP side over a plain socket: what is sent and what comes back is visible to the byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{find, within};

/// A reply as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in the case they were sent in.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection closed before the announced length had come.
    pub(crate) broken: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of the header that says who answered.
    pub(crate) fn tier(&self) -> &str {
        self.header("Rezcache").unwrap_or("none")
    }
}

/// One connection to the proxy.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: SocketAddr,
}

impl Connection {
    pub(crate) async fn open(at: SocketAddr) -> Self {
        let stream = within(TcpStream::connect(at)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), at }
    }

    /// For a proxy that may be gone at any moment: `None` when nobody listens.
    pub(crate) async fn try_open(at: SocketAddr) -> Option<Self> {
        let stream = within(TcpStream::connect(at)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, buffer: Vec::new(), at })
    }

    /// The same for a request: `None` when the connection ends before a whole head has come.
    pub(crate) async fn try_get(&mut self, path: &str, range: Option<&str>) -> Option<Answer> {
        let range = range.map_or_else(String::new, |range| format!("Range: {range}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{range}\r\n", self.at);
        within(self.stream.write_all(request.as_bytes())).await.ok()?;
        self.try_answer("GET").await
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends a request with the right Host, and Content-Length where there is a body.
    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.at);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.send_raw(&bytes).await;
    }

    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, b"").await;
        self.answer("GET").await
    }

    /// Reads a head; what follows of the body stays to be read.
    pub(crate) async fn head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if within(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Some(Answer { status, headers, body: Vec::new(), broken: false })
    }

    /// Reads at least `length` bytes of a body, or to the end of the connection.
    pub(crate) async fn body(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            if within(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let length = length.min(self.buffer.len());
        self.buffer.drain(..length).collect()
    }

    /// Reads one reply to a request of this method.
    pub(crate) async fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).await.expect("the proxy closed the connection without a reply")
    }

    /// The same; `None` when the connection closes instead.
    pub(crate) async fn try_answer(&mut self, method: &str) -> Option<Answer> {
        let mut answer = self.head().await?;
        let chunked = answer.header("transfer-encoding").is_some();
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return Some(answer);
        }
        if chunked {
            loop {
                let line = self.line().await;
                let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
                let chunk = self.body(size + 2).await;
                if size == 0 {
                    answer.broken = chunk.len() < 2;
                    return Some(answer);
                }
                answer.body.extend_from_slice(&chunk[..size.min(chunk.len())]);
            }
        }
        let length = answer.header("content-length").map_or(0, |value| value.parse().unwrap());
        answer.body = self.body(length).await;
        answer.broken = answer.body.len() < length;
        Some(answer)
    }

    /// One chunk of an answer that does not end.
    pub(crate) async fn chunk(&mut self) -> String {
        let line = self.line().await;
        let size = usize::from_str_radix(line.trim(), 16).expect("a chunk");
        let chunk = self.body(size + 2).await;
        String::from_utf8(chunk[..size].to_vec()).unwrap()
    }

    async fn line(&mut self) -> String {
        while find(&self.buffer, b"\r\n").is_none() {
            if within(self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let end = find(&self.buffer, b"\r\n").map_or(self.buffer.len(), |end| end + 2);
        String::from_utf8(self.buffer.drain(..end).collect()).unwrap()
    }
}

/// One request on a connection of its own.
pub(crate) async fn ask(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut connection = Connection::open(at).await;
    connection.send(method, path, headers, body).await;
    connection.answer(method).await
}

pub(crate) async fn get(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(at, "GET", path, headers, b"").await
}
