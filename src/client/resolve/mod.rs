//! What the service's name stands for: asked of this system, of a name server that the user names, or of whatever
//! a test puts in.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

mod server;

/// The addresses of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// All of them, in both families.
    pub addresses: Vec<IpAddr>,
    /// How long that holds, where whoever was asked says so.
    pub ttl: Option<Duration>,
}

/// What comes of asking.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Resolved>> + Send>>;

/// Knows what names stand for.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of a host. An answer without any is one.
    fn resolve(&self, host: &str) -> Resolving;
}

/// Who is asked.
#[derive(Clone, Debug, Default)]
pub enum Resolver {
    /// This system.
    #[default]
    System,
    /// The name server at this address.
    Server(SocketAddr),
    /// Somebody else.
    Other(Arc<dyn Resolve>),
}

impl PartialEq for Resolver {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::System, Self::System) => true,
            (Self::Server(one), Self::Server(other)) => one == other,
            (Self::Other(one), Self::Other(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Resolver {}

impl Resolver {
    /// The addresses of a host.
    ///
    /// # Errors
    /// When there is no answer, or one that says that there is no such name.
    pub async fn resolve(&self, host: &str) -> io::Result<Resolved> {
        if let Ok(address) = host.parse() {
            return Ok(Resolved { addresses: vec![address], ttl: None });
        }
        match self {
            Self::System => {
                let addresses = tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect();
                Ok(Resolved { addresses, ttl: None })
            }
            Self::Server(at) => server::ask(*at, host).await,
            Self::Other(other) => other.resolve(host).await,
        }
    }
}
