//! The sockets of the name server, UDP and TCP on one port. Everything is bounded: questions are answered one
//! after the other as they come, connections are counted in all and by network, and closed when they idle.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::limit::{ResponseLimit, Verdict, network};
use super::udp::Socket;
use super::zone::{Transport, Zone};
use crate::fleet::answers::Answers;

/// Questions are shorter; a longer one is cut, and then malformed.
const MAX_QUESTION: usize = 4096;
/// Answers a second to one network over UDP, and at once. A resolver asks once in a TTL for all its users.
const ANSWERS_PER_SECOND: u16 = 50;
const ANSWERS_AT_ONCE: u16 = 200;
/// Connections in all, and from one address.
const MAX_CONNECTIONS: usize = 512;
const MAX_CONNECTIONS_EACH: usize = 16;
/// From one network, /24 or /56: questions over UDP are counted by it too.
const MAX_CONNECTIONS_NETWORK: usize = 64;
/// A connection that asks nothing for so long, or does not take its answer, is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Questions on one connection, and how long it may ask them: who asks slowly takes a place from others.
const MAX_QUESTIONS: usize = 1000;
const LONGEST: Duration = Duration::from_secs(120);
/// What the system keeps of questions that have come and were not looked at yet, where it allows so much.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Questions taken in one go before others get their turn.
const TURN: usize = 64;

/// What the name server has done.
#[derive(Debug, Default)]
pub struct DnsCounts {
    /// Questions answered in full, be it that there is nothing.
    pub answered: AtomicU64,
    /// Questions sent to TCP.
    pub truncated: AtomicU64,
    /// Questions that were over the limit.
    pub dropped: AtomicU64,
    /// Messages that deserve no answer.
    pub ignored: AtomicU64,
    /// Connections refused.
    pub refused: AtomicU64,
}

impl DnsCounts {
    /// All of them by name, for reports.
    #[must_use]
    pub fn all(&self) -> [(&'static str, u64); 5] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("dns_answered", read(&self.answered)),
            ("dns_truncated", read(&self.truncated)),
            ("dns_dropped", read(&self.dropped)),
            ("dns_ignored", read(&self.ignored)),
            ("dns_connections_refused", read(&self.refused)),
        ]
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Shared {
    zone: Zone,
    answers: watch::Receiver<Arc<Answers>>,
    /// Questions for addresses so far, by family.
    numbers: [AtomicU64; 2],
    counts: Arc<DnsCounts>,
}

impl Shared {
    fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let nodes = Arc::clone(&self.answers.borrow());
        let [fours, sixes] = &self.numbers;
        let number = |six| if six { sixes } else { fours }.fetch_add(1, Ordering::Relaxed);
        let answer = self.zone.answer(&nodes, &number, bytes, transport);
        count(if answer.is_some() { &self.counts.answered } else { &self.counts.ignored });
        answer
    }

    /// The answer to one datagram, if it deserves one.
    fn datagram(&self, limit: &mut ResponseLimit, question: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        // Port 0 cannot be answered, and below it sit services that would answer our answer.
        if from.port() == 0 || question.len() > MAX_QUESTION {
            count(&self.counts.ignored);
            return None;
        }
        match limit.judge(Instant::now(), from.ip()) {
            Verdict::Answer => self.answer(question, Transport::Udp),
            Verdict::Truncate => {
                count(&self.counts.truncated);
                Zone::truncated(question)
            }
            Verdict::Drop => {
                count(&self.counts.dropped);
                None
            }
        }
    }
}

/// A running name server; dropping it closes its sockets.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    counts: Arc<DnsCounts>,
    _tasks: JoinSet<()>,
}

impl DnsServer {
    /// Listens on both transports. Each change of `answers` is in the next answer.
    ///
    /// # Errors
    /// When the port is taken, or may not be opened (below 1024 that is a privilege).
    pub async fn start(
        listen: SocketAddr,
        zone: Zone,
        answers: watch::Receiver<Arc<Answers>>,
    ) -> io::Result<Self> {
        // TCP first: with port 0 the other has to follow, and of UDP's ports more are free.
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let socket = UdpSocket::bind(address).await?;
        // Of less a flood leaves others less room, and that is all.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        let counts = Arc::new(DnsCounts::default());
        let shared =
            Arc::new(Shared { zone, answers, numbers: Default::default(), counts: Arc::clone(&counts) });
        let mut tasks = JoinSet::new();
        tasks.spawn(udp(Socket::new(socket)?, Arc::clone(&shared)));
        tasks.spawn(tcp(listener, shared));
        Ok(Self { address, counts, _tasks: tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Arc<DnsCounts> {
        Arc::clone(&self.counts)
    }
}

async fn udp(mut socket: Socket, shared: Arc<Shared>) {
    let mut limit = ResponseLimit::new(Instant::now(), ANSWERS_PER_SECOND, ANSWERS_AT_ONCE);
    let mut answers = Vec::new();
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, "the name server's socket cannot be waited for");
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        for _ in 0..TURN {
            let received = match socket.try_receive() {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Somebody asked and went: on some systems the next call tells.
                Err(_) => continue,
            };
            let (from, to) = (received.from, received.to);
            answers.extend(received.datagrams().filter_map(|each| shared.datagram(&mut limit, each, from)));
            // A full socket buffer loses an answer, and the resolver asks again.
            for answer in answers.drain(..) {
                socket.try_send(&answer, from, to);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Whom connections are counted by, so that nobody takes all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Caller {
    Customer(IpAddr),
    Network([u8; 8]),
}

#[derive(Default)]
struct Counted {
    all: usize,
    each: HashMap<Caller, usize>,
}

type Callers = Arc<Mutex<Counted>>;

struct Place {
    callers: Callers,
    from: [Caller; 2],
}

impl Place {
    fn take(callers: &Callers, from: IpAddr) -> Option<Self> {
        let from = [Caller::Customer(customer(from)), Caller::Network(network(from))];
        let mut counted = callers.lock().unwrap_or_else(PoisonError::into_inner);
        let most = [MAX_CONNECTIONS_EACH, MAX_CONNECTIONS_NETWORK];
        let full = |(caller, most)| counted.each.get(caller).copied().unwrap_or(0) >= most;
        if counted.all >= MAX_CONNECTIONS || from.iter().zip(most).any(full) {
            return None;
        }
        counted.all += 1;
        for caller in from {
            *counted.each.entry(caller).or_default() += 1;
        }
        drop(counted);
        Some(Self { callers: Arc::clone(callers), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counted = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        counted.all = counted.all.saturating_sub(1);
        for caller in &self.from {
            if let Some(own) = counted.each.get_mut(caller) {
                *own -= 1;
                if *own == 0 {
                    counted.each.remove(caller);
                }
            }
        }
    }
}

/// Whom connections are counted by: a customer of IPv6 has a /64 at least.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

async fn tcp(listener: TcpListener, shared: Arc<Shared>) {
    let callers = Callers::default();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match Place::take(&callers, from.ip()) {
                    Some(place) => {
                        let served = connection(stream, Arc::clone(&shared), place);
                        connections.spawn(async { tokio::time::timeout(LONGEST, served).await });
                    }
                    None => count(&shared.counts.refused),
                },
                Err(error) => {
                    tracing::warn!(%error, "the name server cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>, _place: Place) {
    let _ = stream.set_nodelay(true);
    let mut question = Vec::new();
    for _ in 0..MAX_QUESTIONS {
        let one = async {
            let length = usize::from(stream.read_u16().await?);
            if length > MAX_QUESTION {
                return Err(io::ErrorKind::InvalidData.into());
            }
            question.resize(length, 0);
            stream.read_exact(&mut question).await?;
            let answer = shared.answer(&question, Transport::Tcp).ok_or(io::ErrorKind::InvalidData)?;
            // Length and answer in one write.
            let mut framed = Vec::with_capacity(answer.len() + 2);
            framed.extend(u16::try_from(answer.len()).unwrap_or(0).to_be_bytes());
            framed.extend(answer);
            stream.write_all(&framed).await
        };
        match tokio::time::timeout(IDLE, one).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::customer;

    #[test]
    fn a_customer_is_an_address_or_a_64() {
        let of = |text: &str| customer(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
