//! A node of the shared cache service: stateless before its stores, one set of functions behind two
//! faces.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::catalog::{CatalogError, RevokedKind};
use crate::store::blobs::{Blobs, OpenError, StoreError};
use crate::token::KeyFormError;
use crate::token::join::is_home;

mod access;
mod announcing;
mod body;
mod bounded;
mod budgets;
mod caller;
mod config;
mod contents;
mod counters;
mod disk;
mod enrol;
mod fading;
mod hot;
pub mod household;
mod http;
mod leaving;
mod line;
mod places;
mod quic;
mod refusal;
pub mod remembered;
mod sending;
mod service;
mod shares;
mod takedown;
#[cfg(test)]
mod tests;
mod tls;
mod turns;
mod uploads;

use access::Access;
use announcing::Announcing;
use budgets::Budgets;
pub use budgets::Limits;
pub use config::{GridPolicy, NodeConfig, Protection};
pub use disk::DiskError;
use disk::DiskTier;
use enrol::Residents;
use service::Service;
pub use tls::{IdentityError, pin_beside};

/// How often what is written in batches is written.
const FLUSH: Duration = Duration::from_secs(10);

/// How often the node looks for what is to be destroyed; at its start too.
const HOUSEKEEPING: Duration = Duration::from_secs(6 * 3600);

/// A running node.
pub struct Node {
    address: SocketAddr,
    /// Other addresses, with the tasks that serve them.
    also: Vec<(SocketAddr, Vec<AbortHandle>)>,
    identity: Option<tls::Identity>,
    service: Arc<Service>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    announcing: Announcing,
    /// Without: UDP is not to be had, and only HTTP is served.
    quic: bool,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port cannot be opened.
    #[error(
        "cannot listen on {address}: {source}; is another node running? choose another port with --listen"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Everybody could read and write.
    #[error(
        "{0} is reachable by others: give --token-keys FILE, --enroll, or --open-access to trust everybody on a private network"
    )]
    Open(SocketAddr),
    /// Nobody could complain.
    #[error("{0} is a public address: name with --abuse-contact whom to write to about this node")]
    NoContact(SocketAddr),
    /// What is for a home would be reached from everywhere.
    #[error("{0} is not an address of a private network; a household's server listens at home only")]
    NotHome(IpAddr),
    /// Tokens could be read on the way.
    #[error(
        "tokens are not taken over plain http, and {0} is reached from elsewhere: leave out --plain-http, or listen on loopback"
    )]
    PlainTokens(SocketAddr),
    /// Strangers would believe one another.
    #[error("anybody can be one of the residents: they cannot be a trusted tenant")]
    TrustedResidents,
    /// The keys that sign tokens cannot be used.
    #[error("cannot use {path} of --token-keys: {source}")]
    TokenKeys {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: KeyFileError,
    },
    /// The blob store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog fails.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store's keys are missing or wrong.
    #[error(transparent)]
    Keys(#[from] OpenError),
    /// The folder of the disk tier cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why a file of public keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It holds something else.
    #[error("it {0}")]
    Form(#[from] KeyFormError),
}

impl Node {
    /// Opens stores and faces and starts serving.
    ///
    /// # Errors
    /// When a store, the keys, the certificate or the port cannot be used.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let access = config.access()?;
        if config.listen.ip().is_unspecified() && !config.is_public() {
            tracing::warn!("without --abuse-contact only private addresses are served");
        }
        let blobs = Blobs::open(&config.store)?;
        let (ring, new) = blobs.keys(&config.key_file).await?;
        if new {
            tracing::warn!(file = %config.key_file.display(), "made a key file; back it up: without it the store cannot be read");
        }
        let abilities = blobs.probe().await?;
        let catalog = config.catalog.open().await?;
        let disk = match &config.hot_dir {
            Some(folder) => Some(DiskTier::open(folder, config.hot_bytes)?),
            None => None,
        };
        let residents =
            (config.enroll || config.members).then(|| Residents::new(ring.clone(), config.enroll));
        let budgets = Arc::new(Budgets::new(ring.clone(), Arc::clone(&catalog), config.limits));
        let access = Access::new(&access, residents, budgets);
        // Who was revoked must be known before the first request.
        access.poll(&*catalog).await?;
        let identity = match (&config.certificate, config.plain_http) {
            (_, true) => None,
            (Some((chain, key)), false) => Some(tls::Identity::read(chain, key)?),
            (None, false) => Some(tls::Identity::read_or_make(&config.key_file.with_extension("crt"))?),
        };
        let (listener, endpoint, address) = listen(config.listen, identity.as_ref()).await?;
        let also = config.also_listen.clone();
        let service = Arc::new(Service::new(config, access, catalog, blobs, ring, disk, abilities));
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let flushed = Arc::clone(&service);
        let stopping_too = stopping.clone();
        tasks.spawn(async move {
            let mut end = std::pin::pin!(stopped(stopping_too));
            loop {
                tokio::select! {
                    () = tokio::time::sleep(FLUSH) => flushed.flush().await,
                    () = end.as_mut() => return,
                }
            }
        });
        let (polled, stopping_too) = (Arc::clone(&service), stopping.clone());
        tasks.spawn(async move {
            let mut end = std::pin::pin!(stopped(stopping_too));
            loop {
                tokio::select! {
                    () = tokio::time::sleep(access::POLL) => polled.poll_revocations().await,
                    () = end.as_mut() => return,
                }
            }
        });
        let (kept, stopping_too) = (Arc::clone(&service), stopping.clone());
        tasks.spawn(async move {
            let mut end = std::pin::pin!(stopped(stopping_too));
            let mut rounds = tokio::time::interval(HOUSEKEEPING);
            loop {
                tokio::select! {
                    _ = rounds.tick() => {
                        kept.keep_house(service::now()).await;
                        kept.fade(service::now()).await;
                    }
                    () = end.as_mut() => return,
                }
            }
        });
        let quic = endpoint.is_some();
        let announcing = Announcing::default();
        let mut node = Self { address, also: Vec::new(), identity, service, stop, tasks, announcing, quic };

        node.open(listener, endpoint, address)?;
        for ip in also {
            // One network that cannot be served is no reason not to serve the others.
            if let Err(error) = node.listen_also(ip).await {
                tracing::warn!(%error, "one of this machine's networks is not served");
            }
        }
        Ok(node)
    }

    /// Serves what comes to a listener, and to the endpoint on the same port.
    fn open(
        &mut self,
        listener: TcpListener,
        endpoint: Option<quinn::Endpoint>,
        local: SocketAddr,
    ) -> Result<Vec<AbortHandle>, StartError> {
        let acceptor = match &self.identity {
            Some(identity) => Some(TlsAcceptor::from(Arc::new(identity.tcp()?))),
            None => None,
        };
        let face = http::Face { service: Arc::clone(&self.service), tls: acceptor, local };
        let mut serving = vec![self.tasks.spawn(http::serve(listener, face, self.stop.subscribe()))];
        if let Some(endpoint) = endpoint {
            let (service, stop) = (Arc::clone(&self.service), self.stop.subscribe());
            serving.push(self.tasks.spawn(quic::serve(endpoint, service, stop)));
        }
        Ok(serving)
    }

    /// Listens at one more address of a private network, with the same port. Nothing is done at one that is
    /// served already.
    ///
    /// # Errors
    /// When the address is of no private network, or cannot be listened at.
    pub async fn listen_also(&mut self, ip: IpAddr) -> Result<(), StartError> {
        if !is_home(ip) {
            return Err(StartError::NotHome(ip));
        }
        if self.addresses().any(|known| known.ip() == ip) {
            return Ok(());
        }
        let address = SocketAddr::new(ip, self.address.port());
        let (listener, endpoint, local) = listen(address, self.identity.as_ref()).await?;
        let serving = self.open(listener, endpoint, local)?;
        self.also.push((local, serving));
        Ok(())
    }

    /// Listens no more at other addresses than these, but for the first one: this machine does not have them
    /// any more.
    pub fn close_others(&mut self, present: &[IpAddr]) {
        let (kept, gone) = std::mem::take(&mut self.also)
            .into_iter()
            .partition(|(address, _)| present.contains(&address.ip()));
        self.also = kept;
        let gone: Vec<(SocketAddr, Vec<AbortHandle>)> = gone;
        for task in gone.into_iter().flat_map(|(_, serving)| serving) {
            task.abort();
        }
    }

    /// All addresses at which the node listens, the first one first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.address).chain(self.also.iter().map(|(address, _)| *address))
    }

    /// Makes a token worthless, and what joined by it; on this node at once, on others of the same catalog
    /// within seconds.
    ///
    /// # Errors
    /// When the catalog does not take it.
    pub async fn revoke_token(&self, id: &str) -> Result<(), CatalogError> {
        let catalog = &self.service.catalog;
        catalog.revoke(RevokedKind::Token, id.to_owned(), service::now()).await?;
        self.service.poll_revocations().await;
        Ok(())
    }

    /// Where both faces listen.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How clients recognise this node; `None` when it speaks no TLS.
    #[must_use]
    pub fn pin(&self) -> Option<&str> {
        self.identity.as_ref().map(tls::Identity::pin)
    }

    /// The faces by name.
    #[must_use]
    pub fn faces(&self) -> Vec<&'static str> {
        match (&self.identity, self.quic) {
            (None, _) => vec!["http"],
            (Some(_), true) => vec!["quic", "https"],
            (Some(_), false) => vec!["https"],
        }
    }

    /// Resolves when an operator has asked the node to go, and nobody is with it any more.
    pub async fn asked_to_go(&self) {
        self.service.drained().await;
    }

    /// The same for who has something to do with the node meanwhile.
    pub fn going(&self) -> impl Future<Output = ()> + Send + 'static {
        let service = Arc::clone(&self.service);
        async move { service.drained().await }
    }

    /// Closes the door, lets what runs end, and returns.
    pub async fn stop(mut self) {
        self.service.close();
        self.announcing.end().await;
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.service.leaving.left(), all).await.is_err() {
            self.tasks.shutdown().await;
        }
        self.service.flush().await;
    }
}

/// Resolves when the node goes.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    // A sender that is gone has stopped too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Opens both faces on one port number.
async fn listen(
    address: SocketAddr,
    identity: Option<&tls::Identity>,
) -> Result<(TcpListener, Option<quinn::Endpoint>, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    // With port 0 the system chooses one for TCP, which may be taken for UDP.
    for _ in 0..16 {
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let Some(identity) = identity else { return Ok((listener, None, local)) };
        match quic::bind(local, identity) {
            Ok(endpoint) => return Ok((listener, Some(endpoint), local)),
            Err(quic::BindError::Identity(error)) => return Err(error.into()),
            Err(quic::BindError::Io(error)) if error.kind() == std::io::ErrorKind::AddrInUse => {
                if address.port() != 0 {
                    return Err(failed(error));
                }
            }
            Err(error) => {
                // No UDP here, as in some containers: clients go on over HTTPS.
                tracing::warn!(%error, "the QUIC face cannot be opened; only HTTPS is served");
                return Ok((listener, None, local));
            }
        }
    }
    Err(failed(std::io::ErrorKind::AddrInUse.into()))
}
