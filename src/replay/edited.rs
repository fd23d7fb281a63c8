//! Captures made from real ones for tests: their HTTP exchanges changed, left out or added to, and
//! written as packets again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::http::{self, Exchange, Headers, Reply, Request, Response};
use super::pcap::{self, Packet, Transport};
use super::tcp;

/// A capture in parts.
pub(crate) struct Edited {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) datagrams: Vec<Packet>,
}

impl Edited {
    pub(crate) fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions").join(name);
        let packets = pcap::read(&path).unwrap();
        let connections = tcp::connections(&packets);
        let exchanges = connections.iter().enumerate();
        let mut exchanges: Vec<Exchange> =
            exchanges.flat_map(|(index, connection)| http::exchanges(index, connection)).collect();
        exchanges.sort_by_key(|exchange| exchange.sent);
        let datagrams = packets.into_iter().filter(|packet| packet.transport == Transport::Udp).collect();
        Self { exchanges, datagrams }
    }

    /// The exchange that is the login.
    pub(crate) fn login(&mut self) -> &mut Exchange {
        let is_login = |exchange: &&mut Exchange| {
            exchange.reply.as_ref().is_some_and(|reply| contains(&reply.response.body, "seed_capability"))
        };
        self.exchanges.iter_mut().find(is_login).unwrap()
    }

    /// Everything as packets: each exchange on a connection of its own, so that lengths may change.
    pub(crate) fn packets(&self) -> Vec<Packet> {
        let mut packets = self.datagrams.clone();
        for (port, exchange) in (20_000_u16..).zip(&self.exchanges) {
            let client = SocketAddr::new(exchange.client.ip(), port);
            let segment = |source, destination, time, payload: Vec<u8>, ends: bool| Packet {
                time,
                source,
                destination,
                transport: Transport::Tcp {
                    sequence: if ends { u32::try_from(request(exchange).len()).unwrap() + 1 } else { 1 },
                    syn: false,
                    ack: true,
                    fin: ends,
                    rst: false,
                },
                payload: Bytes::from(payload),
            };
            packets.push(segment(client, exchange.server, exchange.sent, request(exchange), false));
            if let Some(reply) = &exchange.reply {
                packets.push(segment(
                    exchange.server,
                    client,
                    reply.first_byte,
                    response(&reply.response),
                    false,
                ));
            }
            if let Some(closed) = exchange.abandoned {
                packets.push(segment(client, exchange.server, closed, Vec::new(), true));
            }
        }
        packets.sort_by_key(|packet| packet.time);
        packets
    }
}

pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

fn head(first: &str, headers: &Headers, body_len: usize) -> Vec<u8> {
    let mut wire = format!("{first}\r\n").into_bytes();
    for (name, value) in &headers.0 {
        if !["content-length", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
            wire.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    }
    wire.extend(format!("Content-Length: {body_len}\r\n\r\n").into_bytes());
    wire
}

fn request(exchange: &Exchange) -> Vec<u8> {
    let Request { method, target, headers, body } = &exchange.request;
    [head(&format!("{method} {target} HTTP/1.1"), headers, body.len()), body.to_vec()].concat()
}

fn response(response: &Response) -> Vec<u8> {
    let first = format!("HTTP/1.1 {} Captured", response.status);
    [head(&first, &response.headers, response.body.len()), response.body.to_vec()].concat()
}

/// Another exchange with the same ends.
pub(crate) fn exchange_like(
    model: &Exchange,
    sent: Duration,
    (method, target, body): (&str, &str, &[u8]),
    reply: Option<(&str, &[u8])>,
) -> Exchange {
    let mut headers = model.request.headers.clone();
    headers.0.retain(|(name, _)| name.eq_ignore_ascii_case("host"));
    let reply = reply.map(|(content_type, body)| {
        let headers = Headers(vec![("Content-Type".into(), content_type.into())]);
        let response =
            Response { status: 200, headers, body: Bytes::copy_from_slice(body), wire: Bytes::new() };
        let time = sent + Duration::from_millis(1);
        Reply { response, first_byte: time, last_byte: time }
    });
    let request =
        Request { method: method.into(), target: target.into(), headers, body: Bytes::copy_from_slice(body) };
    Exchange { request, sent, reply, abandoned: None, ..model.clone() }
}

/// Puts another value in the place of a header.
pub(crate) fn set_header(request: &mut Request, name: &str, value: &str) {
    let found = request.headers.0.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.unwrap().1 = value.as_bytes().to_vec();
}
