//! A name server asked for a name's addresses: over UDP, and over TCP when the answer is too long for that.
//!
//! Each question has a number that cannot be guessed and a socket of its own; what does not fit to it is not even
//! looked at. Source: RFC 1035 (messages), 5452 (forged answers), 6891 (EDNS).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::Resolved;

/// How often a question is sent, and how long each time an answer is waited for.
const TRIES: usize = 2;
const PATIENCE: Duration = Duration::from_secs(2);
/// Largest answer over UDP. Source: DNS Flag Day 2020.
const UDP_BYTES: u16 = 1232;
/// Packets that are no answer to our question, before no more are read.
const STRANGERS: usize = 64;
/// Names that lead to other names.
const MAX_ALIASES: usize = 8;
/// What is taken of an answer.
const MAX_ADDRESSES: usize = 256;
/// An answer holds for no less, and for no longer.
const TTL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The addresses of both families.
pub(super) async fn ask(server: SocketAddr, host: &str) -> io::Result<Resolved> {
    let mut name =
        Name::from_str(host).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "this is no name"))?;
    // As it stands: nothing of this system's is put behind it.
    name.set_fqdn(true);
    let (four, six) = tokio::join!(one(server, &name, RecordType::A), one(server, &name, RecordType::AAAA));
    match (four, six) {
        (Ok(four), Ok(six)) => {
            let ttl = four.ttl.into_iter().chain(six.ttl).min();
            let addresses = [four.addresses, six.addresses].concat();
            Ok(Resolved { addresses, ttl, ..Resolved::default() })
        }
        // Half an answer is better than none.
        (Ok(found), Err(error)) | (Err(error), Ok(found)) => {
            if found.addresses.is_empty() {
                Err(error)
            } else {
                Ok(found)
            }
        }
        (Err(error), Err(_)) => Err(error),
    }
}

async fn one(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Resolved> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..TRIES {
        let mut answer = timeout(PATIENCE, exchange(server, name, kind, true)).await;
        if matches!(&answer, Ok(Ok(answer)) if knows_no_edns(answer)) {
            answer = timeout(PATIENCE, exchange(server, name, kind, false)).await;
        }
        match answer {
            Ok(Ok(answer)) => return read(&answer, name, kind),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

/// Whether that is how a name server answers that has never heard of EDNS. Source: RFC 6891, 7.
const fn knows_no_edns(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp)
}

/// Asks once.
async fn exchange(server: SocketAddr, name: &Name, kind: RecordType, extended: bool) -> io::Result<Message> {
    let id: u16 = rand::random();
    let query = Query::query(name.clone(), kind);
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    if extended {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES).set_version(0);
        question.set_edns(edns);
    }
    let question = question.to_vec().map_err(|_| io::ErrorKind::InvalidInput)?;

    let local: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of the system's choice, and only packets of this server.
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut packet = [0; UDP_BYTES as usize];
    for _ in 0..STRANGERS {
        let length = socket.recv(&mut packet).await?;
        let Some(answer) = packet.get(..length).and_then(|bytes| answers(bytes, id, &query)) else {
            continue;
        };
        if answer.metadata.truncation {
            return over_tcp(server, &question, id, &query).await;
        }
        return Ok(answer);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the name server's answers are none"))
}

async fn over_tcp(server: SocketAddr, question: &[u8], id: u16, query: &Query) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    answers(&bytes, id, query)
        .filter(|answer| !answer.metadata.truncation)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the name server's answer is none"))
}

/// The message, if it is the answer to this question.
fn answers(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let head = &message.metadata;
    let ours = head.id == id && head.message_type == MessageType::Response && head.op_code == OpCode::Query;
    // Who does not understand the question may leave it out.
    if ours && message.queries.is_empty() && knows_no_edns(&message) {
        return Some(message);
    }
    let [asked] = message.queries.as_slice() else { return None };
    let same = asked.name() == query.name()
        && asked.query_type() == query.query_type()
        && asked.query_class() == DNSClass::IN;
    (ours && same).then_some(message)
}

/// The addresses in an answer: those of the name, or of what it is an alias of.
fn read(answer: &Message, name: &Name, kind: RecordType) -> io::Result<Resolved> {
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such name"));
        }
        _ => return Err(io::Error::other("the name server cannot say")),
    }
    let mut found = Resolved::default();
    let mut ttl = u32::MAX;
    let mut owner = name.clone();
    for _ in 0..MAX_ALIASES {
        let mut alias = None;
        for record in answer.answers.iter().filter(|record| record.name == owner) {
            let address = match &record.data {
                RData::A(a) if kind == RecordType::A => IpAddr::V4(a.0),
                RData::AAAA(aaaa) if kind == RecordType::AAAA => IpAddr::V6(aaaa.0),
                RData::CNAME(cname) => {
                    alias = Some(cname.0.clone());
                    ttl = ttl.min(record.ttl);
                    continue;
                }
                _ => continue,
            };
            if found.addresses.len() < MAX_ADDRESSES && !found.addresses.contains(&address) {
                found.addresses.push(address);
            }
            ttl = ttl.min(record.ttl);
        }
        let Some(next) = alias.filter(|_| found.addresses.is_empty()) else { break };
        owner = next;
    }
    if !found.addresses.is_empty() {
        found.ttl = Some(Duration::from_secs(ttl.into()).clamp(TTL[0], TTL[1]));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
