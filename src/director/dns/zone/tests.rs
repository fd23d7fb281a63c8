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
    let bytes = zone().answer(&nodes(count), number, &message.to_vec().unwrap(), transport).unwrap();
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
    for denied in [below, ask("cache.example.org.", RecordType::TXT), none] {
        assert!(denied.metadata.authoritative && denied.answers.is_empty());
        assert!(
            matches!(&denied.authorities[..], [soa] if soa.record_type() == RecordType::SOA && soa.ttl == 60)
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
        assert!(cut || answer.answers.len() == MAX_ADDRESSES);
    }
}

#[test]
fn what_is_not_a_plain_question_is_answered_as_such() {
    let asked = question("cache.example.org.", RecordType::A, Some(1232));
    let code = |bytes: &[u8]| {
        let answer = zone().answer(&nodes(1), 0, bytes, Transport::Udp)?;
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
    assert!(matches!(Zone::new("a..b", &servers, 5, 1), Err(ZoneError::Name(_))));
    assert!(matches!(Zone::new(".", &servers, 5, 1), Err(ZoneError::Name(_))));
    assert!(matches!(Zone::new("cache.example.org.", &[], 5, 1), Err(ZoneError::NoNameServer)));
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail_and_no_answer_is_too_long(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Some(answer) = zone().answer(&nodes(40), 3, &bytes, transport) {
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
        if let Some(answer) = zone().answer(&nodes(40), 3, &bytes, Transport::Udp) {
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
