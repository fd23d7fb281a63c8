//! The status server: the public page, the same as JSON, live events, and for operators plots and metrics. Plain HTTP;
//! whoever wants TLS puts a reverse proxy in front.
//!
//! It is public, so everything has a bound: connections in all and from one network, requests from one network, the time
//! for a head, its size, listeners, and what a connection may leave untaken. A page is rendered at most once a second,
//! however many ask.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

mod answer;
mod bars;
mod events;
mod files;
mod limits;
mod metrics;
mod monitoring;
mod page;
mod plot;
mod verdict;
mod view;

use events::Parts;
use limits::{Place, Places};
use view::View;

use super::chronicle::Books;
use super::config::Picture;
use super::dns::{DnsCounts, ResponseLimit, Verdict};
use crate::support::addresses::is_public;
use crate::support::patient::Patient;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long a head may take, and a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections in all, and from one network.
const CONNECTIONS: (usize, usize) = (1024, 32);
/// Pages that are open and live, in all and from one network.
const LISTENERS: (usize, usize) = (512, 8);
/// Requests a second from one network, and at once.
const REQUESTS: (u16, u16) = (20, 100);
/// How old a page may be.
const FRESH: Duration = Duration::from_secs(1);

/// What to serve, and where.
#[derive(Clone, Debug)]
pub(super) struct StatusConfig {
    pub(super) listen: SocketAddr,
    pub(super) monitoring_public: bool,
    /// The service's name.
    pub(super) service: String,
    /// This director's name.
    pub(super) director: String,
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub(super) struct StatusServer {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

/// What was rendered together.
struct Shown {
    page: Bytes,
    json: Bytes,
}

/// What is counted.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    refused: AtomicU64,
}

/// All that answers need.
struct Site {
    config: StatusConfig,
    picture: watch::Receiver<Picture>,
    books: Arc<Books>,
    dns: Arc<DnsCounts>,
    shown: Mutex<Option<(Instant, Arc<Shown>)>>,
    parts: watch::Sender<Parts>,
    connections: Arc<Places>,
    listeners: Arc<Places>,
    requests: Mutex<ResponseLimit>,
    counters: Counters,
}

impl StatusServer {
    pub(super) async fn start(
        config: StatusConfig,
        picture: watch::Receiver<Picture>,
        books: Arc<Books>,
        dns: Arc<DnsCounts>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let site = Arc::new(Site {
            config,
            picture,
            books,
            dns,
            shown: Mutex::default(),
            parts: watch::Sender::new(Parts::default()),
            connections: Places::new(CONNECTIONS.0, CONNECTIONS.1),
            listeners: Places::new(LISTENERS.0, LISTENERS.1),
            requests: Mutex::new(ResponseLimit::new(Instant::now(), REQUESTS.0, REQUESTS.1)),
            counters: Counters::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(publish(Arc::clone(&site)));
        tasks.spawn(accept(listener, site));
        Ok(Self { address, _tasks: tasks })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Renders the parts for those who listen; not at all when nobody does.
async fn publish(site: Arc<Site>) {
    loop {
        if site.parts.receiver_count() > 0 {
            let rendered: BTreeMap<_, _> = page::parts(&site.view()).into_iter().collect();
            site.parts.send_if_modified(|known| {
                let news = **known != rendered;
                if news {
                    *known = Arc::new(rendered);
                }
                news
            });
        }
        tokio::time::sleep(FRESH).await;
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                // Whoever finds no place is sent away at once, so that those who do not wait behind it.
                Ok((stream, peer)) => match site.connections.take(peer.ip()) {
                    Some(place) => {
                        connections.spawn(converse(stream, peer.ip(), Arc::clone(&site), place));
                    }
                    None => site.refuse(),
                },
                Err(error) => {
                    // Out of file descriptors, usually: trying again at once would only spin.
                    tracing::warn!(%error, "the status page cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn converse(stream: TcpStream, peer: IpAddr, site: Arc<Site>, place: Place) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(answer::answer(&request, peer, &site)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(Patient::new(stream)), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection to the status page ended early");
    }
    drop(place);
}

impl Site {
    fn view(&self) -> View {
        let mut picture = self.picture.borrow().clone();
        if picture.at == 0 {
            picture.at = wall();
        }
        View::of(&self.config.service, &self.config.director, &picture, &self.books)
    }

    /// The page and its JSON, rendered anew when they are older than a second.
    fn shown(&self) -> Arc<Shown> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, shown)) = shown.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Arc::clone(shown);
        }
        let view = self.view();
        let fresh = Arc::new(Shown { page: page::render(&view).into(), json: view.json().into() });
        *shown = Some((Instant::now(), Arc::clone(&fresh)));
        fresh
    }

    fn refuse(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more request of this network is answered now.
    fn has_patience(&self, peer: IpAddr) -> bool {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        !is_public(peer) || requests.judge(Instant::now(), peer) == Verdict::Answer
    }
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
