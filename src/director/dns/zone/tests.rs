#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::fleet::answers::Member;

fn zone() -> Zone {
    let servers = ["ns1.example.org.".to_owned(), "ns2.example.org".to_owned()];
    Zone::new("Cache.example.org", &servers, 5, 7).unwrap()
}

fn nodes(count: u8) -> Answers {
    let member = |n: u8| Member {
        addresses: vec![IpAddr::from([192, 0, 2, n]), format!("2001:db8::{n:x}").parse().unwrap()],
        share: 1000,
        wanted: true,
    };
    Answers::of(&(1..=count).map(member).collect::<Vec<_>>())
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn ask_with(message: &Message, count: u8, number: u64, transport: Transport) -> (Message, usize) {
    let bytes = zone().answer(&nodes(count), &|_| number, &message.to_vec().unwrap(), transport).unwrap();
    (Message::from_vec(&bytes).unwrap(), bytes.len())
}

fn ask(name: &str, kind: RecordType) -> Message {
    ask_with(&question(name, kind, None), 3, 0, Transport::Udp).0
}

#[test]
fn addresses_rotate_and_say_who_they_are_from() {
    let first = |number| {
        let (answer, _) =
            ask_with(&question("cAcHe.example.org.", RecordType::A, None), 3, number, Transport::Udp);
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
        assert!(answer.metadata.recursion_desired && answer.metadata.id == 4711);
        assert_eq!(answer.queries[0].name().to_ascii(), "cAcHe.example.org.");
        assert_eq!(answer.answers.len(), 3);
        assert!(answer.answers.iter().all(|record| record.ttl == 5));
        answer.answers[0].data.to_string()
    };
    assert_eq!(
        [first(0), first(1), first(2), first(3)],
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"]
    );
    let six = ask("cache.example.org.", RecordType::AAAA);
    assert!(six.answers.iter().all(|record| record.record_type() == RecordType::AAAA));
}

#[test]
fn the_apex_has_its_servers_and_authority_and_any_is_minimal() {
    let servers = ask("cache.example.org.", RecordType::NS);
    let names: Vec<_> = servers.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(names, ["ns1.example.org.", "ns2.example.org."]);
    assert_eq!(ask("cache.example.org.", RecordType::SOA).answers.len(), 1);
    let any = ask("cache.example.org.", RecordType::ANY);
    assert!(matches!(&any.answers[..], [one] if one.record_type() == RecordType::HINFO));
}

#[test]
fn what_is_not_there_is_denied_with_the_authority() {
    let below = ask("www.cache.example.org.", RecordType::A);
    assert_eq!(below.metadata.response_code, ResponseCode::NXDomain);
    for nothing in [RecordType::TXT, RecordType::MX, RecordType::CAA] {
        assert_eq!(ask("cache.example.org.", nothing).metadata.response_code, ResponseCode::NoError);
    }
    let none = ask_with(&question("cache.example.org.", RecordType::A, None), 0, 0, Transport::Udp).0;
    // What the name itself has not, it may have as soon as an address of it may be another one.
    for (denied, ttl) in [(below, 60), (ask("cache.example.org.", RecordType::TXT), 5), (none, 5)] {
        assert!(denied.metadata.authoritative && denied.answers.is_empty());
        assert!(
            matches!(&denied.authorities[..], [soa] if soa.record_type() == RecordType::SOA && soa.ttl == ttl)
        );
    }
}

#[test]
fn outside_the_zone_we_are_nobody() {
    for (name, kind) in [
        ("example.org.", RecordType::A),
        ("other.example.", RecordType::A),
        (".", RecordType::NS),
        ("notcache.example.org.", RecordType::A),
        ("cache.example.org.", RecordType::AXFR),
    ] {
        let refused = ask(name, kind);
        assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(
            !refused.metadata.authoritative && refused.answers.is_empty() && refused.authorities.is_empty()
        );
    }
    let mut chaos = question("cache.example.org.", RecordType::TXT, None);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask_with(&chaos, 1, 0, Transport::Udp).0.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn answers_fit_what_the_asker_takes() {
    for (payload, transport, most, cut) in [
        (None, Transport::Udp, 512, true),
        (Some(100), Transport::Udp, 512, true),
        (Some(4096), Transport::Udp, 1232, false),
        (None, Transport::Tcp, 65_535, false),
    ] {
        let asked = question("cache.example.org.", RecordType::AAAA, payload);
        let (answer, length) = ask_with(&asked, 60, 0, transport);
        assert!(length <= most, "{payload:?} {transport:?}: {length}");
        assert_eq!(answer.metadata.truncation, cut, "{payload:?} {transport:?}");
        assert_eq!(answer.edns.is_some(), payload.is_some());
        assert!(cut || answer.answers.len() == MAX_ADDRESSES[1]);
    }
}

#[test]
fn what_is_not_a_plain_question_is_answered_as_such() {
    let asked = question("cache.example.org.", RecordType::A, Some(1232));
    let code = |bytes: &[u8]| {
        let answer = zone().answer(&nodes(1), &|_| 0, bytes, Transport::Udp)?;
        Some(Message::from_vec(&answer).unwrap().metadata.response_code)
    };
    let bytes = asked.to_vec().unwrap();
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(code(&bytes), Some(ResponseCode::NoError));
    assert_eq!(code(&changed(2, 0x81)), None, "an answer");
    assert_eq!(code(&changed(2, 0x29)), Some(ResponseCode::NotImp), "an update");
    assert_eq!(code(&changed(5, 0)), Some(ResponseCode::FormErr), "no question");
    assert_eq!(code(&changed(5, 2)), Some(ResponseCode::FormErr), "two questions");
    assert_eq!(code(&changed(4, 255)), Some(ResponseCode::FormErr), "65,281 questions");
    assert_eq!(code(&bytes[..11]), None);
    assert_eq!(code(&bytes[..20]), Some(ResponseCode::FormErr));
    let mut newer = asked.clone();
    newer.edns.as_mut().unwrap().set_version(1);
    assert_eq!(
        code(&newer.to_vec().unwrap()),
        Some(ResponseCode::BADSIG),
        "16, which is BADVERS in an OPT record"
    );
    assert_eq!(code(&[]), None);
}

#[test]
fn names_that_are_none_are_told() {
    let servers = ["ns1.example.org".to_owned()];
    assert!(matches!(Zone::new("a..b", &servers, 5, 7), Err(ZoneError::Name(_))));
    assert!(matches!(Zone::new(".", &servers, 5, 7), Err(ZoneError::Name(_))));
    assert!(matches!(Zone::new("cache.example.org.", &[], 5, 1), Err(ZoneError::NoNameServer)));
}

#[test]
fn a_name_server_is_not_in_the_zone_that_would_deny_it() {
    for inside in ["cache.example.org", "ns1.Cache.example.org."] {
        let servers = ["ns1.example.org".to_owned(), inside.to_owned()];
        let refused = Zone::new("cache.example.org", &servers, 5, 7);
        assert!(matches!(refused, Err(ZoneError::Inside(_))), "{inside}");
    }
    assert!(Zone::new("cache.example.org", &["xcache.example.org".to_owned()], 5, 7).is_ok());
}

#[test]
fn mail_about_the_zone_goes_to_the_parent_of_it() {
    let answer = ask("cache.example.org.", RecordType::SOA);
    let RData::SOA(soa) = &answer.answers[0].data else { panic!("{answer:?}") };
    assert_eq!((soa.serial, soa.rname.to_ascii().as_str()), (7, "hostmaster.example.org."));
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail_and_no_answer_is_too_long(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Some(answer) = zone().answer(&nodes(40), &|_| 3, &bytes, transport) {
                prop_assert!(transport == Transport::Tcp || answer.len() <= usize::from(MAX_UDP_BYTES));
                prop_assert_eq!(&answer[..2], &bytes[..2]);
            }
        }
        if let Some(short) = Zone::truncated(&bytes) {
            prop_assert!(short.len() <= bytes.len());
        }
    }

    #[test]
    fn nor_do_changed_questions(at in 0_usize..64, value: u8, payload in proptest::option::of(any::<u16>())) {
        let mut bytes = question("cache.example.org.", RecordType::A, payload).to_vec().unwrap();
        let length = bytes.len();
        bytes[at % length] = value;
        if let Some(answer) = zone().answer(&nodes(40), &|_| 3, &bytes, Transport::Udp) {
            prop_assert!(answer.len() <= usize::from(MAX_UDP_BYTES));
            let read = Message::from_vec(&answer);
            prop_assert!(read.is_ok() || answer.len() == 12);
        }
        if let Some(short) = Zone::truncated(&bytes) {
            prop_assert!(short.len() <= bytes.len());
            prop_assert!(Message::from_vec(&short).unwrap().metadata.truncation);
        }
    }
}

/// Numbers that are the same in every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below.max(1)
    }
}

/// Questions as resolvers ask them: plain, with EDNS, with a cookie and a client's network, and odd ones.
fn real_questions() -> Vec<Vec<u8>> {
    let mut real = Vec::new();
    for name in ["cache.example.org.", "cAcHe.ExAmPlE.oRg.", "a.b.c.cache.example.org.", "example.net.", "."]
    {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SOA, RecordType::ANY, RecordType::IXFR] {
            for payload in [None, Some(512), Some(1232), Some(4096)] {
                real.push(question(name, kind, payload).to_vec().unwrap());
            }
        }
    }
    let mut options = question("cache.example.org.", RecordType::A, None).to_vec().unwrap();
    options[11] = 1;
    // OPT of 1,232 bytes with a cookie (10) and a client's network (8). Source: RFC 7873, 7871.
    options.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x17\0\x0a\0\x08abcdefgh\0\x08\0\x07\0\x01\x18\0\xcb\0\x71");
    real.push(options);
    // A name that points at itself, and one that points at its own pointer.
    for pointers in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0e", b"\x05cache\xc0\x0c"] {
        let head = [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        real.push([&head[..], pointers, &[0, 1, 0, 1]].concat());
    }
    real
}

fn changed(draw: &mut Draw, real: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = real[draw.next(real.len())].clone();
    for _ in 0..=draw.next(6) {
        let at = draw.next(bytes.len());
        let value = u8::try_from(draw.next(256)).unwrap();
        match draw.next(7) {
            0 if !bytes.is_empty() => bytes[at] = value,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << draw.next(8),
            2 => bytes.insert(at, value),
            3 => bytes.truncate(at),
            4 => bytes.extend(&real[draw.next(real.len())]),
            5 => bytes.extend(std::iter::repeat_n(value, draw.next(700))),
            _ if bytes.len() > 1 => {
                bytes.remove(at);
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn no_change_of_a_real_question_makes_it_fail_or_answer_too_much() {
    let (zone, nodes) = (zone(), nodes(40));
    let real = real_questions();
    let mut all: Vec<Vec<u8>> =
        real.iter().flat_map(|bytes| (0..=bytes.len()).map(|length| bytes[..length].to_vec())).collect();
    let mut draw = Draw(20_261_126);
    all.extend((0..60_000).map(|_| changed(&mut draw, &real)));
    let (mut answered, mut largest) = (0_usize, (0, 1));
    for (number, bytes) in all.iter().enumerate() {
        let is_answer = bytes.len() >= 12 && bytes[2] & 0x80 != 0;
        for transport in [Transport::Udp, Transport::Tcp] {
            let Some(answer) = zone.answer(&nodes, &|_| number as u64, bytes, transport) else {
                assert!(bytes.len() < 12 || is_answer, "{bytes:02x?} deserves an answer");
                continue;
            };
            answered += 1;
            assert!(bytes.len() >= 12 && !is_answer, "two servers would answer one another for ever");
            assert!(answer[..2] == bytes[..2] && answer[2] & 0x80 != 0);
            assert!(answer.len() == 12 || Message::from_vec(&answer).is_ok(), "{bytes:02x?}");
            if transport == Transport::Udp {
                assert!(answer.len() <= usize::from(MAX_UDP_BYTES), "{bytes:02x?}");
                if answer.len() * largest.1 > largest.0 * bytes.len() {
                    largest = (answer.len(), bytes.len());
                }
            }
        }
        if let Some(short) = Zone::truncated(bytes) {
            assert!(short.len() <= bytes.len() && !is_answer, "{bytes:02x?}");
        }
    }
    assert!(answered > 50_000, "{answered}");
    // What one answer may be at most beyond its question; how many there are is limited by network.
    assert!(largest.0 <= largest.1 * 32, "{largest:?}");
}

#[test]
fn while_nobody_is_known_resolvers_are_sent_elsewhere_and_nothing_is_remembered_for_longer_than_an_address() {
    let told = |answers: &Answers, kind| {
        let asked = question("cache.example.org.", kind, Some(1232)).to_vec().unwrap();
        Message::from_vec(&zone().answer(answers, &|_| 0, &asked, Transport::Udp).unwrap()).unwrap()
    };
    for kind in [RecordType::A, RecordType::AAAA] {
        let unknown = told(&Answers::unknown(), kind);
        assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
        assert!(
            !unknown.metadata.authoritative && unknown.answers.is_empty() && unknown.authorities.is_empty()
        );
        let nobody = told(&Answers::default(), kind);
        assert_eq!(nobody.metadata.response_code, ResponseCode::NoError);
        assert_eq!(nobody.authorities[0].ttl, 5, "the zone's own");
    }
    let about = told(&Answers::unknown(), RecordType::SOA);
    assert!(about.metadata.authoritative && about.answers.len() == 1);
}
