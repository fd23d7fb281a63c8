//! The grid's HTTP side as far as a login needs it, and the login itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use crate::{ANY, PATIENCE};

/// What a login gives a viewer.
#[derive(Clone, Copy)]
pub(crate) struct Ids {
    pub(crate) code: u32,
    pub(crate) agent: Uuid,
    pub(crate) session: Uuid,
}

impl Ids {
    /// Others for every `n`.
    pub(crate) fn number(n: u32) -> Self {
        let id = |kind: u64| {
            Uuid::from_u64_pair(0x1111_1111_2222_4333, 0x8444_0000_0000_0000 | kind << 32 | u64::from(n))
        };
        Self { code: 1_234_500_000 + n, agent: id(1), session: id(2) }
    }
}

/// Answers every login with the simulator's address and new ids, and everything else with 404.
pub(crate) struct LoginServer {
    pub(crate) at: SocketAddr,
    simulator: Arc<Mutex<SocketAddr>>,
    logins: Arc<AtomicU32>,
}

impl LoginServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(ANY).unwrap();
        let at = listener.local_addr().unwrap();
        let (simulator, logins) = (Arc::new(Mutex::new(ANY)), Arc::new(AtomicU32::new(0)));
        let (to, count) = (Arc::clone(&simulator), Arc::clone(&logins));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), at, &to, &count);
            }
        });
        Self { at, simulator, logins }
    }

    /// Logs in through the proxy at this simulator; where the viewer shall send its datagrams.
    pub(crate) fn log_in(&self, proxy: SocketAddr, simulator: SocketAddr) -> (SocketAddr, Ids) {
        *self.simulator.lock().unwrap() = simulator;
        let to = log_in(proxy);
        (to, Ids::number(self.logins.load(Ordering::SeqCst)))
    }
}

fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("content-length:")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return request;
            }
        }
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
            _ => return request,
        }
    }
}

fn answer(mut stream: TcpStream, own: SocketAddr, simulator: &Mutex<SocketAddr>, logins: &AtomicU32) {
    let request = read_request(&mut stream);
    let member = |name: &str, value: &str| {
        format!("<member><name>{name}</name><value><string>{value}</string></value></member>")
    };
    let number = |name: &str, value: u32| {
        format!("<member><name>{name}</name><value><i4>{value}</i4></value></member>")
    };
    let (status, body) = if request.starts_with(b"POST / ") {
        let simulator = *simulator.lock().unwrap();
        let n = logins.fetch_add(1, Ordering::SeqCst) + 1;
        let ids = Ids::number(n);
        let members = [
            member("login", "true"),
            member("agent_id", &ids.agent.to_string()),
            member("session_id", &ids.session.to_string()),
            member("secure_session_id", &ids.session.to_string()),
            number("circuit_code", ids.code),
            number("region_x", 256_000),
            number("region_y", 256_000),
            member("sim_ip", &simulator.ip().to_string()),
            number("sim_port", simulator.port().into()),
            member("seed_capability", &format!("http://{own}/CAPS/{n:04}/")),
        ]
        .concat();
        (
            "200 OK",
            format!(
                "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>{members}</struct></value></param></params></methodResponse>"
            ),
        )
    } else {
        ("404 Not Found", String::new())
    };
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

fn log_in(proxy: SocketAddr) -> SocketAddr {
    let body = "<?xml version=\"1.0\"?><methodCall><methodName>login_to_simulator</methodName><params><param><value><struct><member><name>first</name><value><string>Lab</string></value></member></struct></value></param></params></methodCall>";
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: {proxy}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let value = |name: &str| {
        let (_, rest) = reply
            .split_once(&format!("<name>{name}</name>"))
            .unwrap_or_else(|| panic!("no {name} in the login reply: {reply}"));
        let inner = rest
            .split_once("<value><")
            .and_then(|(_, rest)| rest.split_once('>'))
            .and_then(|(_, rest)| rest.split_once('<'));
        inner.unwrap().0.to_owned()
    };
    format!("{}:{}", value("sim_ip"), value("sim_port")).parse().unwrap()
}
