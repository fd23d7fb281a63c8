//! HTTP/1.x exchanges out of a captured connection: request and response with their bodies and
//! the times of their first and last bytes.
//!
//! Tolerant where grids are: a body after HEAD, responses without a length, interim responses.
//! Parsing of a connection ends at the first byte it cannot read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::tcp::{Connection, Stream};

/// The most header lines of one message; what viewers and grids send is a tenth of it.
const MAX_HEADERS: usize = 100;

/// Header lines in the order they came, names as they were spelt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, Vec<u8>)>);

impl Headers {
    /// The first value of this name, in any case, as text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
            .map(str::trim)
    }
}

/// A request with its body, transfer coding removed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
}

/// A response with its body, transfer coding removed.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    /// Head and body as they were on the wire.
    pub(crate) wire: Bytes,
}

/// What was read at the start of a buffer.
#[derive(Debug)]
pub(crate) enum Parsed<T> {
    /// A message and the length of its bytes.
    Message(T, usize),
    /// More bytes are needed.
    Partial,
    /// This is not HTTP.
    Invalid,
}

/// One request and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Which connection of the capture it was on.
    pub(crate) connection: usize,
    pub(crate) server: SocketAddr,
    pub(crate) client: SocketAddr,
    pub(crate) request: Request,
    /// When the first byte of the request was captured.
    pub(crate) sent: Duration,
    pub(crate) reply: Option<Reply>,
    /// When the client gave up on it: closed its side before a response was there.
    pub(crate) abandoned: Option<Duration>,
}

/// A whole response and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) response: Response,
    pub(crate) first_byte: Duration,
    pub(crate) last_byte: Duration,
}

/// The exchanges of one connection, in order.
pub(crate) fn exchanges(index: usize, connection: &Connection) -> Vec<Exchange> {
    let mut found = Vec::new();
    let (mut request_at, mut response_at) = (0, 0);
    loop {
        let rest = connection.to_server.bytes.get(request_at..).unwrap_or_default();
        let Parsed::Message(request, len) = parse_request(rest) else { return found };
        let sent = connection.to_server.time_of(request_at + 1);
        request_at += len;
        let reply = next_reply(&connection.to_client, &mut response_at, &request);
        let first_byte = reply.as_ref().map(|reply| reply.first_byte);
        let closed = connection.to_server.closed;
        let abandoned = closed.filter(|closed| first_byte.is_none_or(|first_byte| *closed < first_byte));
        found.push(Exchange {
            connection: index,
            server: connection.server,
            client: connection.client,
            request,
            sent,
            reply,
            abandoned,
        });
    }
}

fn next_reply(stream: &Stream, at: &mut usize, request: &Request) -> Option<Reply> {
    loop {
        let rest = stream.bytes.get(*at..).unwrap_or_default();
        let ended = stream.closed.is_some() && !stream.broken;
        let Parsed::Message(response, len) = parse_response(rest, &request.method, ended) else {
            return None;
        };
        let (first_byte, last_byte) = (stream.time_of(*at + 1), stream.time_of(*at + len));
        *at += len;
        if response.status / 100 != 1 {
            return Some(Reply { response, first_byte, last_byte });
        }
    }
}

/// Reads one request at the start of `bytes`.
pub(crate) fn parse_request(bytes: &[u8]) -> Parsed<Request> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut lines);
    let head_len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Invalid,
    };
    let (Some(method), Some(target)) = (head.method, head.path) else { return Parsed::Invalid };
    let (method, target) = (method.to_owned(), target.to_owned());
    let headers = owned(head.headers);
    let body = if is_chunked(&headers) {
        chunked(bytes, head_len)
    } else {
        sized(bytes, head_len, content_length(&headers).unwrap_or(0))
    };
    match body {
        Parsed::Message(body, end) => Parsed::Message(Request { method, target, headers, body }, end),
        Parsed::Partial => Parsed::Partial,
        Parsed::Invalid => Parsed::Invalid,
    }
}

/// Reads one response to a request of this method at the start of `bytes`. `ended` says that no
/// byte follows, which is how a response without a length ends.
pub(crate) fn parse_response(bytes: &[u8], method: &str, ended: bool) -> Parsed<Response> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut lines);
    let head_len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Invalid,
    };
    let Some(status) = head.code else { return Parsed::Invalid };
    let headers = owned(head.headers);
    let rest = bytes.get(head_len..).unwrap_or_default();
    // Observed: OpenSimulator 0.9.2.2, fixtures/sessions/hippo-ranges.pcap: HEAD gets a body.
    let no_body = status / 100 == 1
        || matches!(status, 204 | 304)
        || (method == "HEAD" && (rest.is_empty() || rest.starts_with(b"HTTP/1.")));
    let body = if no_body {
        Parsed::Message(Bytes::new(), head_len)
    } else if is_chunked(&headers) {
        chunked(bytes, head_len)
    } else if let Some(len) = content_length(&headers) {
        sized(bytes, head_len, len)
    } else if ended {
        Parsed::Message(Bytes::copy_from_slice(rest), bytes.len())
    } else {
        Parsed::Partial
    };
    match body {
        Parsed::Message(body, end) => {
            let wire = Bytes::copy_from_slice(bytes.get(..end).unwrap_or_default());
            Parsed::Message(Response { status, headers, body, wire }, end)
        }
        Parsed::Partial => Parsed::Partial,
        Parsed::Invalid => Parsed::Invalid,
    }
}

fn owned(lines: &[httparse::Header<'_>]) -> Headers {
    Headers(lines.iter().map(|line| (line.name.to_owned(), line.value.to_vec())).collect())
}

fn is_chunked(headers: &Headers) -> bool {
    headers.get("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"))
}

fn content_length(headers: &Headers) -> Option<usize> {
    headers.get("content-length")?.parse().ok()
}

fn sized(bytes: &[u8], head_len: usize, len: usize) -> Parsed<Bytes> {
    let Some(end) = head_len.checked_add(len) else { return Parsed::Invalid };
    match bytes.get(head_len..end) {
        Some(body) => Parsed::Message(Bytes::copy_from_slice(body), end),
        None => Parsed::Partial,
    }
}

fn chunked(bytes: &[u8], head_len: usize) -> Parsed<Bytes> {
    let mut body = Vec::new();
    let mut at = head_len;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let (line_len, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((line_len, size))) => (line_len, usize::try_from(size).ok()),
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(_) => return Parsed::Invalid,
        };
        let Some(size) = size else { return Parsed::Invalid };
        at += line_len;
        if size == 0 {
            return trailer_end(bytes, at)
                .map_or(Parsed::Partial, |end| Parsed::Message(Bytes::from(body), end));
        }
        let Some(end) = at.checked_add(size) else { return Parsed::Invalid };
        let (Some(data), Some(b"\r\n")) = (bytes.get(at..end), bytes.get(end..end + 2)) else {
            return Parsed::Partial;
        };
        body.extend_from_slice(data);
        at = end + 2;
    }
}

/// Where the trailer section that starts at `at` ends, its empty line included.
fn trailer_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let line_end = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        at += line_end + 2;
        if line_end == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests;
