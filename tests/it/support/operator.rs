//! An operator with a key that signs tokens, and clients in networks of their own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rezcache::catalog::Place;
use rezcache::client::ServiceClient;
use rezcache::node::{Node, NodeConfig};
use rezcache::token::{self, Budgets, Claims, Rights, SigningKey};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Whoever may sign.
pub(crate) struct Operator {
    pub(crate) key: SigningKey,
    pub(crate) public: PathBuf,
    serial: std::sync::atomic::AtomicU64,
}

impl Operator {
    pub(crate) fn new(folder: &Path) -> Self {
        let key = SigningKey::from_seed(&[11; 32]).unwrap();
        let public = folder.join("tokens.pub");
        std::fs::write(&public, key.public_pem()).unwrap();
        Self { key, public, serial: Default::default() }
    }

    /// A node that takes this operator's tokens and nothing else.
    pub(crate) fn config(&self, folder: &Path) -> NodeConfig {
        NodeConfig {
            store: format!("file://{}", folder.join("store").display()),
            catalog: Place::Sqlite(folder.join("store/catalog.sqlite")),
            key_file: folder.join("store.key"),
            token_keys: vec![self.public.clone()],
            ..NodeConfig::default()
        }
    }

    pub(crate) fn claims(&self, subject: &str, tenant: &str, rights: &str) -> Claims {
        let serial = self.serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Claims {
            id: format!("token-{serial}").into(),
            subject: subject.into(),
            tenant: tenant.into(),
            audience: token::DEFAULT_AUDIENCE.into(),
            grids: None,
            rights: rights.parse::<Rights>().unwrap(),
            issued_at: now(),
            expires: now() + 3600,
            budgets: Budgets::default(),
        }
    }

    pub(crate) fn token(&self, subject: &str, tenant: &str, rights: &str) -> String {
        token::sign(&self.key, &self.claims(subject, tenant, rights))
    }

    pub(crate) fn sign(&self, claims: &Claims) -> String {
        token::sign(&self.key, claims)
    }
}

/// A client with a token, or without.
pub(crate) fn client(node: &Node, token: Option<String>) -> ServiceClient {
    client_at(node.address(), node, token)
}

/// The same through another address.
pub(crate) fn client_at(at: SocketAddr, node: &Node, token: Option<String>) -> ServiceClient {
    let url = format!("https://{at}#pin={}", node.pin().unwrap());
    ServiceClient::new(url.parse().unwrap(), token).unwrap()
}

/// A way to a node from a network of its own, 127.0.`network`.0/24, over TCP and UDP.
pub(crate) async fn from_network(node: SocketAddr, network: u8) -> SocketAddr {
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, network, 1));
    // The port of both must be one number.
    let (listener, socket) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, socket);
        }
    };
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((source, 0).into()).unwrap();
                let mut far = socket.connect(node).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    tokio::spawn(async move {
        let socket = Arc::new(socket);
        let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((length, near)) = socket.recv_from(&mut buffer).await {
            if let std::collections::hash_map::Entry::Vacant(place) = ways.entry(near) {
                let far = Arc::new(UdpSocket::bind((source, 0)).await.unwrap());
                far.connect(node).await.unwrap();
                let (back, answers) = (Arc::clone(&socket), Arc::clone(&far));
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(length) = answers.recv(&mut buffer).await {
                        let _ = back.send_to(&buffer[..length], near).await;
                    }
                });
                place.insert(far);
            }
            let _ = ways[&near].send(&buffer[..length]).await;
        }
    });
    address
}
