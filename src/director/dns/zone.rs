//! One question in, one answer out. The zone is one name: the service's. It has the addresses of the nodes, the
//! name servers and a start of authority; below it there is nothing, and outside it we are nobody.
//!
//! Source: RFC 1034, 1035 (messages), 2308 (negative answers), 6891 (EDNS), 8482 (ANY), 9619 (one question).

use std::net::IpAddr;
use std::str::FromStr as _;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};

use crate::fleet::answers::Answers;

/// Largest answer over UDP: what passes every usual path in one packet. Source: DNS Flag Day 2020.
const MAX_UDP_BYTES: u16 = 1232;
/// The same for who does not say what they take. Source: RFC 1035, 4.2.1.
const PLAIN_UDP_BYTES: u16 = 512;
/// The most addresses of each family in one answer: as many as fit, and as proxies take. Beyond it each answer has
/// others, as the order rotates.
const MAX_ADDRESSES: [usize; 2] = [64, 40];
/// How long resolvers remember that there is nothing.
const NEGATIVE_TTL: u32 = 60;
/// For what does not change: the name servers and the start of authority.
const STEADY_TTL: u32 = 3600;

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Answers are short, and may be forged senders' way to flood others.
    Udp,
    /// Answers may take 64 KiB.
    Tcp,
}

/// Why a zone cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// A name is none.
    #[error("`{0}` is no domain name; write it in full, as cache.example.org.")]
    Name(String),
    /// Resolvers have to be told who answers for the zone.
    #[error("name at least one name server of the zone (ns), better two")]
    NoNameServer,
    /// Below the zone there is nothing: it would deny that its own name server has an address.
    #[error(
        "the name server {0} lies in the zone itself, which has no addresses but the nodes'; call it otherwise, such as \
         ns1.example.org"
    )]
    Inside(String),
}

/// The service's zone.
#[derive(Clone, Debug)]
pub struct Zone {
    name: Name,
    servers: Vec<Name>,
    ttl: u32,
    soa: Record,
}

impl Zone {
    /// The zone of the service's name, with its name servers; `ttl` is that of the nodes' addresses, in seconds.
    ///
    /// # Errors
    /// When something is no name, or no name server is given, or one within the zone.
    pub fn new(name: &str, servers: &[String], ttl: u32, serial: u32) -> Result<Self, ZoneError> {
        let parse = |text: &str| {
            let mut name = Name::from_str(text).map_err(|_| ZoneError::Name(text.to_owned()))?;
            name.set_fqdn(true);
            if name.is_root() { Err(ZoneError::Name(text.to_owned())) } else { Ok(name) }
        };
        let name = parse(name)?;
        let servers = servers.iter().map(|server| parse(server)).collect::<Result<Vec<_>, _>>()?;
        let first = servers.first().ok_or(ZoneError::NoNameServer)?.clone();
        if let Some(inside) = servers.iter().find(|server| name.zone_of(server)) {
            return Err(ZoneError::Inside(inside.to_string()));
        }
        // Mail for the zone's own name would go to a node.
        let parent = name.base_name();
        let above = if parent.is_root() { &name } else { &parent };
        let mailbox = parse(&format!("hostmaster.{above}"))?;
        let soa = SOA::new(first, mailbox, serial, 3600, 600, 604_800, NEGATIVE_TTL);
        let soa = Record::from_rdata(name.clone(), STEADY_TTL, RData::SOA(soa));
        Ok(Self { name, servers, ttl, soa })
    }

    /// The zone's name, with the dot at its end.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// The answer to a message; `None` for what deserves none: too short to say whom to answer, or itself an
    /// answer (two servers that answer each other never end). `number` says which question
    /// this is for addresses of IPv6, or of IPv4; it grows by one with each.
    #[must_use]
    pub fn answer(
        &self,
        nodes: &Answers,
        number: &dyn Fn(bool) -> u64,
        bytes: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let head = Head::read(bytes)?;
        if head.response {
            return None;
        }
        if head.op_code != OpCode::Query {
            return Some(head.refuse(ResponseCode::NotImp));
        }
        // Before anything is decoded: a count is a promise that decoders reserve memory for.
        if head.counts[0] != 1 || head.counts[1] != 0 || head.counts[2] != 0 || head.counts[3] > 2 {
            return Some(head.refuse(ResponseCode::FormErr));
        }
        let Ok(request) = Message::from_vec(bytes) else {
            return Some(head.refuse(ResponseCode::FormErr));
        };
        let mut response = Message::new(head.id, MessageType::Response, OpCode::Query);
        response.metadata = Metadata::response_from_request(&request.metadata);
        let Some(query) = request.queries.first() else {
            return Some(head.refuse(ResponseCode::FormErr));
        };
        response.add_query(query.clone());
        let mut limit = match transport {
            Transport::Udp => PLAIN_UDP_BYTES,
            Transport::Tcp => u16::MAX,
        };
        if let Some(asked) = &request.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_BYTES).set_version(0);
            response.set_edns(edns);
            if transport == Transport::Udp {
                limit = asked.max_payload().clamp(PLAIN_UDP_BYTES, MAX_UDP_BYTES);
            }
            if asked.version() > 0 {
                response.metadata.response_code = ResponseCode::BADVERS;
                return encode(&response, limit);
            }
        }
        self.fill(&mut response, query, nodes, number);
        encode(&response, limit)
    }

    /// The answer that says nothing but to come again over TCP.
    #[must_use]
    pub fn truncated(bytes: &[u8]) -> Option<Vec<u8>> {
        let head = Head::read(bytes)?;
        if head.response || head.counts[0] != 1 || head.counts[3] > 2 {
            return None;
        }
        let request = Message::from_vec(bytes).ok()?;
        let mut response = Message::new(head.id, MessageType::Response, OpCode::Query);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.truncation = true;
        response.add_query(request.queries.first()?.clone());
        encode(&response, PLAIN_UDP_BYTES)
    }

    fn fill(&self, response: &mut Message, query: &Query, nodes: &Answers, number: &dyn Fn(bool) -> u64) {
        let asked = query.query_type();
        if !self.name.zone_of(query.name())
            || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY)
            || matches!(asked, RecordType::AXFR | RecordType::IXFR)
        {
            response.metadata.response_code = ResponseCode::Refused;
            return;
        }
        response.metadata.authoritative = true;
        // The owner is spelt as asked: some resolvers hide a number in its case.
        let owner = query.name();
        if *owner != self.name {
            response.metadata.response_code = ResponseCode::NXDomain;
            response.add_authority(self.negative(NEGATIVE_TTL));
            return;
        }
        if matches!(asked, RecordType::A | RecordType::AAAA) && nodes.is_unknown() {
            response.metadata.authoritative = false;
            response.metadata.response_code = ResponseCode::ServFail;
            return;
        }
        let record = |ttl, data| Record::from_rdata(owner.clone(), ttl, data);
        match asked {
            RecordType::A | RecordType::AAAA => {
                let six = asked == RecordType::AAAA;
                let addresses = nodes.addresses(number(six), six);
                let [fours, sixes] = MAX_ADDRESSES;
                let most = if six { sixes } else { fours };
                response.add_answers(addresses.into_iter().take(most).map(|address| {
                    let data = match address {
                        IpAddr::V4(v4) => RData::A(A(v4)),
                        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
                    };
                    record(self.ttl, data)
                }));
            }
            RecordType::NS => {
                let servers = self.servers.iter().map(|server| RData::NS(NS(server.clone())));
                response.add_answers(servers.map(|data| record(STEADY_TTL, data)));
            }
            RecordType::SOA => {
                response.add_answer(self.soa.clone());
            }
            RecordType::ANY => {
                response.add_answer(record(
                    STEADY_TTL,
                    RData::HINFO(HINFO::new("RFC8482".into(), String::new())),
                ));
            }
            _ => {}
        }
        if response.answers.is_empty() {
            // A node may come within the time for which one that leaves is remembered.
            response.add_authority(self.negative(self.ttl.min(NEGATIVE_TTL)));
        }
    }

    /// The start of authority as it goes with "there is nothing": its TTL says for how long.
    fn negative(&self, ttl: u32) -> Record {
        let mut soa = self.soa.clone();
        soa.ttl = ttl;
        soa
    }
}

fn encode(response: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = emit(response, limit)?;
    if bytes.get(2).is_none_or(|flags| flags & 2 == 0) || response.answers.is_empty() {
        return Some(bytes);
    }
    // What did not fit is asked for again over TCP; half of it, perhaps without what EDNS has to say, helps nobody.
    let mut short = response.clone();
    short.answers.clear();
    short.authorities.clear();
    short.metadata.truncation = true;
    emit(&short, limit)
}

fn emit(response: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(limit.min(MAX_UDP_BYTES)));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    response.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// The first twelve bytes.
struct Head {
    id: u16,
    response: bool,
    op_code: OpCode,
    recursion_desired: bool,
    counts: [u16; 4],
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let head: [u8; 12] = *bytes.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        Some(Self {
            id: word(0),
            response: head[2] & 0x80 != 0,
            op_code: OpCode::from_u8((head[2] >> 3) & 0x0f),
            recursion_desired: head[2] & 1 != 0,
            counts: [word(4), word(6), word(8), word(10)],
        })
    }

    /// A bare answer: nothing of a question that could not be read is repeated.
    fn refuse(&self, code: ResponseCode) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12);
        bytes.extend(self.id.to_be_bytes());
        bytes.push(0x80 | (u8::from(self.op_code) << 3) | u8::from(self.recursion_desired));
        bytes.push(code.low());
        bytes.extend([0; 8]);
        bytes
    }
}

#[cfg(test)]
mod tests;
