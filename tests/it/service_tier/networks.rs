//! Networks that change under a proxy: UDP blocked and free again, and another address of our own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rezcache::client::{Face, ServiceClient};
use rezcache::node::Node;
use rezcache::proxy::ServiceConfig;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::faults::World;
use crate::service::{config, key, read, share, texture};
use crate::support::within;

/// A home router: passes TCP and UDP on from one port number to a node. UDP may be blocked, and the
/// address toward the node may change.
struct Router {
    at: SocketAddr,
    udp: Arc<AtomicBool>,
    outer: watch::Sender<Arc<UdpSocket>>,
}

impl Router {
    async fn before(node: SocketAddr) -> Self {
        let (listener, inner) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(inner) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, Arc::new(inner));
            }
        };
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(node).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        let udp = Arc::new(AtomicBool::new(true));
        let (outer, current) = watch::channel(Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()));
        let open = Arc::clone(&udp);
        tokio::spawn(async move {
            let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
            let (mut client, mut current) = (None, current);
            loop {
                let outer = Arc::clone(&current.borrow_and_update());
                tokio::select! {
                    Ok((length, from)) = inner.recv_from(&mut up) => {
                        client = Some(from);
                        if open.load(Ordering::SeqCst) {
                            let _ = outer.send_to(&up[..length], node).await;
                        }
                    }
                    Ok((length, _)) = outer.recv_from(&mut down) => {
                        if let Some(client) = client.filter(|_| open.load(Ordering::SeqCst)) {
                            let _ = inner.send_to(&down[..length], client).await;
                        }
                    }
                    changed = current.changed() => if changed.is_err() { return },
                }
            }
        });
        Self { at, udp, outer }
    }

    async fn changes_address(&self) {
        self.outer.send_replace(Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_goes_on_when_the_network_changes() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(config(folder.path())).await.unwrap();
    let router = Router::before(node.address()).await;
    let url = format!("https://{}#pin={}", router.at, node.pin().unwrap());
    let client = ServiceClient::new(url.parse().unwrap(), None).unwrap();
    let (name, bytes) = (key(rezcache::asset::AssetKind::Texture, 1), texture(1, 50_000));
    share(&client, &name, &bytes).await;
    for _ in 0..3 {
        assert_eq!(within(read(&client, &name, None)).await, Some((0, bytes.to_vec())));
        assert_eq!(client.face(), Face::Quic);
        router.changes_address().await;
    }
    assert_eq!(client.connections_made(), 1, "the laptop has taken its session along");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_is_blocked_https_serves_and_quic_returns() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(config(folder.path())).await.unwrap();
    let router = Router::before(node.address()).await;
    let service = ServiceConfig {
        address: format!("https://{}#pin={}", router.at, node.pin().unwrap()).parse().unwrap(),
        token: None,
        join: None,
        spot_check: 0,
        least_deadline: Duration::from_millis(800),
    };
    let world = World::new(900, |n| 4000 + n * 100, service).await;
    // What all of them are is told to the node by somebody else.
    let helper = ServiceClient::new(
        format!("https://{}#pin={}", node.address(), node.pin().unwrap()).parse().unwrap(),
        None,
    )
    .unwrap();
    for n in 0..world.assets.len() {
        world.share(n, &helper).await;
    }
    world.settled().await;
    assert_eq!(world.get(0, None).await.0, "hit; tier=service");
    assert!(world.setup.proxy.metrics().service().unwrap().quic);
    router.udp.store(false, Ordering::SeqCst);
    // Whoever asks now waits for the deadline and gets the grid's; then the other face serves.
    let mut n = 1;
    within(async {
        while world.setup.proxy.metrics().service().unwrap().quic {
            // One that is not here yet; those that are would never ask the service.
            n = (n + 1).min(9);
            world.get(n, None).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    world.settled().await;
    assert_eq!(world.get(10, None).await.0, "hit; tier=service");
    router.udp.store(true, Ordering::SeqCst);
    within(async {
        while !world.setup.proxy.metrics().service().unwrap().quic {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(world.get(11, None).await.0, "hit; tier=service");
}
