//! The control port over real loopback connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::{ControlState, serve};
use crate::asset::{AssetKind, AssetSource};
use crate::cache::LocalCache;
use crate::proxy::chronicle::Chronicle;
use crate::proxy::page::uptime;
use crate::support::metrics::{Counter, Metrics};
use crate::support::status::Status;

struct Control {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

async fn start() -> Control {
    let metrics = Arc::new(Metrics::default());
    let dir = tempfile::tempdir().unwrap();
    let cache = LocalCache::memory_only(1 << 20, Arc::clone(&metrics));
    let chronicle = Arc::new(Chronicle::open(dir.path().to_owned(), Arc::clone(&metrics), cache.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (runs, _) = super::runs::Runs::new(tokio::sync::watch::channel(false).1);
    runs.opened(super::runs::ServedGrid {
        name: "<b>my & grid".into(),
        url: "http://grid.example/".into(),
        listen: "127.0.0.1:9080".parse().unwrap(),
        assets: false,
    });
    let state = ControlState::new(Arc::clone(&metrics), cache, chronicle, runs);
    metrics.asset_served(AssetKind::Texture, AssetSource::Disk, 2048);
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(listener, state, async {
        let _ = stopped.await;
    }));
    Control { address, metrics, stop, task, _dir: dir }
}

impl Control {
    /// Sends these lines (with `HOST` replaced by the right one) and reads until the end.
    async fn exchange(&self, lines: &[&str]) -> (u16, String) {
        let mut request = lines.join("\r\n").replace("HOST", &self.address.to_string());
        request.push_str("\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.exchange(&[&format!("GET {path} HTTP/1.1"), "Host: HOST"]).await
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_page_says_whether_it_works_and_escapes_what_users_named() {
    let control = start().await;
    let (status, page) = control.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("Assets are kept in memory only"), "{page}");
    assert!(page.contains("&lt;b&gt;my &amp; grid") && !page.contains("<b>"), "{page}");

    let policy = page.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(
        policy.starts_with("default-src 'none';") && page.contains(&format!("<style nonce=\"{nonce}\">"))
    );
    let (_, again) = control.get("/").await;
    assert!(!again.contains(nonce), "a nonce is used once");
}

#[tokio::test]
async fn status_and_metrics_show_the_counters() {
    let control = start().await;
    let (status, json) = control.get("/status.json").await;
    let read: Status = serde_json::from_str(body(&json)).unwrap();
    assert_eq!((status, read.assets.hits, read.assets.bytes_saved), (200, 1, 2048));

    let (status, text) = control.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("\nrezcache_assets_served_total{kind=\"texture\",source=\"disk\"} 1\n"), "{text}");
}

#[tokio::test]
async fn nothing_else_is_there() {
    let control = start().await;
    assert_eq!(control.get("/status").await.0, 404);
    assert_eq!(control.get("//").await.0, 404);
    let (status, answer) = control.exchange(&["POST / HTTP/1.1", "Host: HOST", "Content-Length: 0"]).await;
    assert_eq!(status, 405);
    assert!(answer.contains("allow: GET"), "{answer}");
    let (status, answer) = control.exchange(&["HEAD / HTTP/1.1", "Host: HOST"]).await;
    assert_eq!((status, body(&answer)), (200, ""));
}

#[tokio::test]
async fn web_pages_and_forward_proxy_requests_are_refused_and_counted() {
    let control = start().await;
    let refused: [(&[&str], u16); 8] = [
        (&["GET /status.json HTTP/1.1", "Host: rebound.example:9079"], 403),
        (&["GET / HTTP/1.1", "Host: HOST", "Origin: http://evil.example"], 403),
        (&["GET / HTTP/1.1", "Host: HOST", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"], 403),
        (&["GET / HTTP/1.1", "Host: HOST", "Sec-Fetch-Site: same-site"], 403),
        (&["GET / HTTP/1.1", "Accept: */*"], 400),
        (&["GET / HTTP/1.1", "Host: HOST", "Host: HOST"], 400),
        (&["GET http://HOST/ HTTP/1.1", "Host: HOST"], 400),
        (&["CONNECT HOST HTTP/1.1", "Host: HOST"], 400),
    ];
    for (lines, expected) in refused {
        let (status, answer) = control.exchange(lines).await;
        assert_eq!(status, expected, "{lines:?}\n{answer}");
        assert!(!answer.contains("uptime"), "{answer}");
    }
    assert_eq!(control.metrics.get(Counter::RequestsRefused), 8);
}

#[tokio::test]
async fn a_silent_connection_delays_neither_others_nor_the_end() {
    let control = start().await;
    let mut silent = TcpStream::connect(control.address).await.unwrap();
    silent.write_all(b"GET / HT").await.unwrap();
    assert_eq!(control.get("/").await.0, 200);
    control.stop.send(()).unwrap();
    control.task.await.unwrap();
    let mut rest = Vec::new();
    // Cut, whether by a clean end or a reset.
    let _ = silent.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[test]
fn uptime_shows_its_two_largest_units() {
    for (seconds, text) in
        [(59, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h"), (172_800, "2 d 0 h")]
    {
        assert_eq!(uptime(seconds), text);
    }
}
