#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "cache.example.org";

/// A name server that does what it is told, UDP and TCP on one port.
struct Fake {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
}

/// Makes packets out of a question; with TCP the first is the answer.
type Answering = Arc<dyn Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync>;

impl Fake {
    async fn start(answering: impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let answering: Answering = Arc::new(answering);
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let at = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (counted, over_udp) = (Arc::clone(&asked), Arc::clone(&answering));
        tokio::spawn(async move {
            let mut packet = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                counted.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&packet[..length]).unwrap();
                for answer in over_udp(&question, false) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let length = usize::from(stream.read_u16().await.unwrap());
                let mut question = vec![0; length];
                stream.read_exact(&mut question).await.unwrap();
                let question = Message::from_vec(&question).unwrap();
                for answer in answering(&question, true) {
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    let _ = stream.write_all(&[&length[..], &answer].concat()).await;
                }
            }
        });
        Self { at, asked }
    }
}

fn answer(question: &Message) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.add_query(question.queries[0].clone());
    answer
}

fn kind(question: &Message) -> RecordType {
    question.queries[0].query_type()
}

fn four(number: usize, ttl: u32) -> Record {
    let [.., high, low] = number.to_be_bytes();
    Record::from_rdata(
        Name::from_str("cache.example.org.").unwrap(),
        ttl,
        RData::A(A(Ipv4Addr::new(10, 0, high, low))),
    )
}

fn bytes(message: &Message) -> Vec<Vec<u8>> {
    vec![message.to_vec().unwrap()]
}

#[tokio::test]
async fn both_families_come_with_the_shortest_ttl() {
    let fake = Fake::start(|question, _| {
        let mut answer = answer(question);
        let name = question.queries[0].name().clone();
        match kind(question) {
            RecordType::A => answer.add_answers([four(1, 30), four(2, 7), four(2, 7)]),
            _ => answer.add_answers([Record::from_rdata(
                name,
                9,
                RData::AAAA(AAAA("2001:db8::1".parse().unwrap())),
            )]),
        };
        bytes(&answer)
    })
    .await;
    let found = ask(fake.at, "CACHE.example.org").await.unwrap();
    let addresses: Vec<IpAddr> =
        ["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
    assert_eq!(found, Resolved { addresses, ttl: Some(Duration::from_secs(7)), ..Resolved::default() });
    assert_eq!(fake.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_ttl_is_believed_within_bounds() {
    for (said, taken) in [(0, 1), (1, 1), (59, 59), (86_400, 60)] {
        let fake = Fake::start(move |question, _| {
            let mut answer = answer(question);
            if kind(question) == RecordType::A {
                answer.add_answer(four(1, said));
            }
            bytes(&answer)
        })
        .await;
        assert_eq!(ask(fake.at, NAME).await.unwrap().ttl, Some(Duration::from_secs(taken)), "{said}");
    }
}

#[tokio::test]
async fn aliases_are_followed_and_strangers_in_the_answer_are_not_taken() {
    let fake = Fake::start(|question, _| {
        let mut answer = answer(question);
        let alias = Name::from_str("lb.example.net.").unwrap();
        let owner = question.queries[0].name().clone();
        if kind(question) == RecordType::A {
            let other = Name::from_str("evil.example.").unwrap();
            answer.add_answers([
                Record::from_rdata(other, 1, RData::A(A(Ipv4Addr::new(10, 6, 6, 6)))),
                Record::from_rdata(owner.clone(), 5, RData::CNAME(CNAME(alias.clone()))),
                Record::from_rdata(alias.clone(), 50, RData::A(A(Ipv4Addr::new(10, 0, 0, 1)))),
            ]);
        } else {
            // Names that lead in a circle.
            answer.add_answers([
                Record::from_rdata(owner.clone(), 5, RData::CNAME(CNAME(alias.clone()))),
                Record::from_rdata(alias, 5, RData::CNAME(CNAME(owner))),
            ]);
        }
        bytes(&answer)
    })
    .await;
    let found = ask(fake.at, NAME).await.unwrap();
    assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(found.ttl, Some(Duration::from_secs(5)));
}

#[tokio::test]
async fn what_is_too_long_for_udp_comes_over_tcp() {
    let fake = Fake::start(|question, tcp| {
        let mut answer = answer(question);
        if kind(question) == RecordType::A {
            answer.metadata.truncation = !tcp;
            if tcp {
                answer.add_answers((0..900).map(|number| four(number, 5)));
            } else {
                answer.add_answer(four(9999, 5));
            }
        }
        bytes(&answer)
    })
    .await;
    let found = ask(fake.at, NAME).await.unwrap();
    assert_eq!(found.addresses.len(), MAX_ADDRESSES);
    assert!(!found.addresses.contains(&IpAddr::from([10, 0, 39, 15])), "half an answer is none");
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let fake = Fake::start(|question, _| {
        let right = answer(question);
        let evil = || {
            Record::from_rdata(question.queries[0].name().clone(), 5, RData::A(A(Ipv4Addr::new(10, 6, 6, 6))))
        };
        let mut other_id = right.clone();
        other_id.metadata.id ^= 1;
        let mut no_answer = right.clone();
        no_answer.metadata.message_type = MessageType::Query;
        let mut other_name = Message::new(right.metadata.id, MessageType::Response, OpCode::Query);
        other_name.add_query(Query::query(Name::from_str("other.example.org.").unwrap(), kind(question)));
        let mut no_question = Message::new(right.metadata.id, MessageType::Response, OpCode::Query);
        let mut packets = vec![Vec::new(), b"no message".to_vec()];
        for forged in [&mut other_id, &mut no_answer, &mut other_name, &mut no_question] {
            forged.add_answer(evil());
            packets.push(forged.to_vec().unwrap());
        }
        let mut right = right;
        if kind(question) == RecordType::A {
            right.add_answer(four(1, 5));
        }
        packets.push(right.to_vec().unwrap());
        packets
    })
    .await;
    assert_eq!(ask(fake.at, NAME).await.unwrap().addresses, [IpAddr::from([10, 0, 0, 1])]);
}

#[tokio::test]
async fn what_a_server_says_is_told_from_silence() {
    for (code, kind_of) in [
        (ResponseCode::NXDomain, io::ErrorKind::NotFound),
        (ResponseCode::ServFail, io::ErrorKind::Other),
        (ResponseCode::Refused, io::ErrorKind::Other),
    ] {
        let fake = Fake::start(move |question, _| {
            let mut answer = answer(question);
            answer.metadata.response_code = code;
            bytes(&answer)
        })
        .await;
        assert_eq!(ask(fake.at, NAME).await.unwrap_err().kind(), kind_of);
    }
    let nothing = Fake::start(|question, _| bytes(&answer(question))).await;
    assert_eq!(ask(nothing.at, NAME).await.unwrap(), Resolved::default());
    // One family's answer does not suffer from the other's.
    let half = Fake::start(|question, _| {
        let mut answer = answer(question);
        match kind(question) {
            RecordType::A => drop(answer.add_answer(four(1, 5))),
            _ => answer.metadata.response_code = ResponseCode::ServFail,
        }
        bytes(&answer)
    })
    .await;
    assert_eq!(ask(half.at, NAME).await.unwrap().addresses.len(), 1);
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked = std::time::Instant::now();
    let error = ask(silent.local_addr().unwrap(), NAME).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(asked.elapsed() >= PATIENCE * 2, "it is asked twice");
    assert!(ask(silent.local_addr().unwrap(), &"long".repeat(100)).await.is_err());
}

#[tokio::test]
async fn no_question_is_like_another() {
    let ids: Arc<std::sync::Mutex<Vec<u16>>> = Arc::default();
    let seen = Arc::clone(&ids);
    let fake = Fake::start(move |question, _| {
        seen.lock().unwrap().push(question.metadata.id);
        bytes(&answer(question))
    })
    .await;
    for _ in 0..20 {
        ask(fake.at, NAME).await.unwrap();
    }
    let mut ids = ids.lock().unwrap().clone();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() > 30, "{} of 40", ids.len());
}

#[tokio::test]
async fn a_name_server_without_edns_is_asked_without_it() {
    for empty in [false, true] {
        let fake = Fake::start(move |question, _| {
            let mut answer = answer(question);
            if question.edns.is_some() {
                answer.metadata.response_code = ResponseCode::FormErr;
                if empty {
                    answer.queries.clear();
                }
            } else if kind(question) == RecordType::A {
                answer.add_answer(four(1, 30));
            }
            bytes(&answer)
        })
        .await;
        let found = ask(fake.at, NAME).await.unwrap();
        assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 1])], "{empty}");
        assert_eq!(fake.asked.load(Ordering::SeqCst), 4, "each family twice");
    }
}
