//! Exchanges out of streams, and all of those of the captures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use super::super::{pcap, tcp};
use super::{Exchange, Parsed, exchanges, parse_request, parse_response};

fn captured(name: &str) -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions").join(name);
    let packets = pcap::read(&path).unwrap();
    let connections = tcp::connections(&packets);
    assert!(connections.iter().all(|connection| !connection.to_client.broken), "{name}");
    connections.iter().enumerate().flat_map(|(index, connection)| exchanges(index, connection)).collect()
}

#[test]
fn every_exchange_of_a_capture_is_found() {
    let all = captured("hippo-http.pcap");
    let count = |status: u16, content_type: &str| {
        let is = |exchange: &&Exchange| {
            exchange.reply.as_ref().is_some_and(|reply| {
                reply.response.status == status
                    && reply.response.headers.get("content-type") == Some(content_type)
            })
        };
        all.iter().filter(is).count()
    };
    assert_eq!(all.len(), 31);
    assert_eq!(count(200, "image/x-j2c"), 12);
    assert_eq!(count(200, "application/vnd.ll.animation"), 5);
    assert_eq!(count(200, "application/vnd.ll.mesh"), 3);
    assert_eq!(count(200, "text/xml"), 1);
    for exchange in &all {
        let Some(reply) = &exchange.reply else { continue };
        assert!(exchange.sent <= reply.first_byte && reply.first_byte <= reply.last_byte);
    }
    // The poll that was pending when the viewer left.
    assert_eq!(all.iter().filter(|exchange| exchange.reply.is_none()).count(), 1);
}

#[test]
fn a_body_after_head_belongs_to_it() {
    let all = captured("hippo-ranges.pcap");
    let head = all.iter().find(|exchange| exchange.request.method == "HEAD").unwrap();
    assert_eq!(head.reply.as_ref().unwrap().response.status, 200);
    let status =
        |status| all.iter().filter(|e| e.reply.as_ref().is_some_and(|r| r.response.status == status)).count();
    assert_eq!((status(206), status(400), status(404)), (5, 2, 1));
}

#[test]
fn a_poll_of_a_minute_ends_with_502() {
    let all = captured("hippo-idle.pcap");
    let reply = all
        .iter()
        .filter_map(|e| e.reply.as_ref().map(|r| (e.sent, r)))
        .find(|(_, r)| r.response.status == 502);
    let (sent, reply) = reply.unwrap();
    assert!((reply.first_byte - sent).as_secs() >= 55);
}

#[test]
fn chunked_bodies_are_joined_and_end_where_they_end() {
    let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\nHTTP";
    let Parsed::Message(response, len) = parse_response(wire, "GET", false) else { panic!("not parsed") };
    assert_eq!(response.body.as_ref(), b"abcde");
    assert_eq!(len, wire.len() - 4);
    for cut in 0..len {
        assert!(matches!(parse_response(&wire[..cut], "GET", false), Parsed::Partial), "cut at {cut}");
    }
}

#[test]
fn a_response_without_a_length_ends_with_the_connection() {
    let wire = b"HTTP/1.0 200 OK\r\n\r\nall of it";
    assert!(matches!(parse_response(wire, "GET", false), Parsed::Partial));
    let Parsed::Message(response, len) = parse_response(wire, "GET", true) else { panic!("not parsed") };
    assert_eq!((response.body.as_ref(), len), (&b"all of it"[..], wire.len()));
}

#[test]
fn pipelined_requests_are_taken_one_by_one() {
    let wire = b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\n\r\n";
    let Parsed::Message(first, len) = parse_request(wire) else { panic!("not parsed") };
    assert_eq!((first.target.as_str(), first.body.as_ref()), ("/a", &b"hi"[..]));
    let Parsed::Message(second, _) = parse_request(&wire[len..]) else { panic!("not parsed") };
    assert_eq!(second.target, "/b");
    assert!(matches!(parse_request(b"\x16\x03\x01\x02"), Parsed::Invalid));
}
