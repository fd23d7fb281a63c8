//! Sealed blobs on a directory, in memory or on S3. Nothing here rests on conditional writes, which
//! popular S3 servers ignore: a blob's name follows from its content, so whoever writes last has
//! written the same.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};

use super::keys::{BlobName, KeyRing};
use super::sealed::{self, Hashed, SealError};

/// A dead store must not hold up a viewer.
const RETRY: (usize, Duration) = (2, Duration::from_secs(2));
const TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What the marker holds, sealed like a blob: it proves that a key file belongs to a store.
const MARKER: &[u8] = b"rezcache store 1";

/// Where blobs are kept.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
}

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// Why a store does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address is none.
    #[error("`{0}` is no store; write file:///var/lib/rezcache, memory: or s3://bucket/prefix")]
    Url(String),
    /// The store answers with an error, or not at all.
    #[error("the store {url} fails: {source}")]
    Store {
        /// Which.
        url: String,
        /// What it said.
        source: Box<object_store::Error>,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory {path}: {source}")]
    Folder {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key file does not belong to the store.
    #[error("the key file does not open this store: {0}; name the right one with --key-file")]
    Key(SealError),
}

/// What a store can do, as found by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Abilities {
    /// "Create only when there is none" is honoured; many clones ignore it. Nothing depends on it.
    pub conditional_writes: bool,
}

impl Blobs {
    /// Opens a store: `file:///dir` or a path, `memory:`, `s3://bucket/prefix`. What S3 needs beyond that
    /// comes from the usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT` …).
    ///
    /// # Errors
    /// When the address is none, or a directory cannot be made.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(url, std::env::vars())
    }

    /// The same with these variables in place of the environment's.
    ///
    /// # Errors
    /// As [`Blobs::open`].
    pub fn open_with(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StoreError> {
        let wrong = || StoreError::Url(url.to_owned());
        let (store, prefix): (Arc<dyn ObjectStore>, Path) = if url == "memory:" {
            (Arc::new(InMemory::new()), Path::default())
        } else if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let retry = RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: RETRY.0,
                retry_timeout: RETRY.1,
            };
            // The store's HTTP client takes the process's TLS provider and ends the process without one.
            // That there is one already is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut options =
                ClientOptions::new().with_timeout(TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
            let mut builder = AmazonS3Builder::new();
            for (name, value) in variables {
                let name = name.to_ascii_lowercase();
                let Some(short) = name.strip_prefix("aws_") else { continue };
                match (name.parse(), short.parse()) {
                    // What concerns HTTP itself, such as leave to go without TLS.
                    (Ok(AmazonS3ConfigKey::Client(key)), _) | (Err(_), Ok(key)) => {
                        options = options.with_config(key, value);
                    }
                    (Ok(key), _) => builder = builder.with_config(key, value),
                    (Err(_), Err(_)) => {}
                }
            }
            let store = builder
                .with_bucket_name(bucket)
                .with_retry(retry)
                .with_client_options(options)
                .build()
                .map_err(|source| failed(url, source))?;
            (Arc::new(store), Path::parse(prefix).map_err(|_| wrong())?)
        } else {
            let path = url.strip_prefix("file://").unwrap_or(url);
            if path.is_empty() || path.contains("://") {
                return Err(wrong());
            }
            std::fs::create_dir_all(path)
                .map_err(|source| StoreError::Folder { path: path.to_owned(), source })?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(|source| failed(url, source))?;
            (Arc::new(store.with_fsync(true)), Path::default())
        };
        Ok(Self { store, prefix, url: url.to_owned() })
    }

    /// The address it was opened by.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn path(&self, area: &str, name: &BlobName) -> Path {
        let text = name.to_string();
        let shard = text.get(..2).unwrap_or_default().to_owned();
        self.prefix.clone().join(area).join(shard).join(text)
    }

    fn marker(&self) -> Path {
        self.prefix.clone().join("marker")
    }

    fn failed(&self, source: object_store::Error) -> StoreError {
        failed(&self.url, source)
    }

    async fn get_at(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        match self.store.get(path).await {
            Ok(found) => found.bytes().await.map(Some).map_err(|source| self.failed(source)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Writes a blob; over one of the same name, which is of the same content.
    ///
    /// # Errors
    /// When the store fails; nothing is half written then.
    pub async fn put(&self, name: &BlobName, blob: Vec<u8>) -> Result<(), StoreError> {
        let path = self.path("blobs", name);
        self.store.put(&path, PutPayload::from(blob)).await.map_err(|source| self.failed(source))?;
        Ok(())
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, name: &BlobName) -> Result<Option<Bytes>, StoreError> {
        self.get_at(&self.path("blobs", name)).await
    }

    /// Whether there is such a blob.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn exists(&self, name: &BlobName) -> Result<bool, StoreError> {
        match self.store.head(&self.path("blobs", name)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Removes a blob, if it is there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn delete(&self, name: &BlobName) -> Result<(), StoreError> {
        match self.store.delete(&self.path("blobs", name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Moves a blob out of everybody's reach, to be destroyed later.
    ///
    /// # Errors
    /// When the store fails; the blob is then where it was, or in both places.
    pub async fn hold(&self, name: &BlobName) -> Result<(), StoreError> {
        let (from, to) = (self.path("blobs", name), self.path("hold", name));
        match self.store.copy(&from, &to).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => self.delete(name).await,
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The names of all blobs with their sizes, as the store lists them.
    pub fn list(&self) -> BoxStream<'static, Result<(BlobName, u64), StoreError>> {
        let url = self.url.clone();
        let listed = self.store.list(Some(&self.prefix.clone().join("blobs")));
        Box::pin(listed.map_err(move |source| failed(&url, source)).try_filter_map(|object| async move {
            let name = object.location.filename().and_then(BlobName::parse);
            Ok(name.map(|name| (name, object.size)))
        }))
    }

    /// Whether nothing was ever written here.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        if self.get_at(&self.marker()).await?.is_some() {
            return Ok(false);
        }
        Ok(self.list().try_next().await?.is_none())
    }

    /// Checks that these keys are the store's, and marks a new store as theirs.
    ///
    /// # Errors
    /// When they are not, or the store fails.
    pub async fn check_keys(&self, ring: &KeyRing) -> Result<(), StoreError> {
        let hashed = Hashed::of(MARKER);
        let name = ring.blob_name(hashed.digest);
        if let Some(marker) = self.get_at(&self.marker()).await? {
            return sealed::open(ring, &name, &marker, 1024).map(|_| ()).map_err(StoreError::Key);
        }
        // A store that lost its marker is known by any of its blobs.
        if let Some((name, _)) = self.list().try_next().await?
            && let Some(blob) = self.get(&name).await?
        {
            sealed::open(ring, &name, &blob, u64::MAX).map_err(StoreError::Key)?;
        }
        let marker =
            sealed::seal(ring, &name, &hashed, MARKER, false, rand::random()).map_err(StoreError::Key)?;
        self.store
            .put(&self.marker(), PutPayload::from(marker))
            .await
            .map_err(|source| self.failed(source))?;
        Ok(())
    }

    /// Finds out what the store can do, and that it can be written.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn probe(&self) -> Result<Abilities, StoreError> {
        let path = self.prefix.clone().join("probe").join(format!("{:032x}", rand::random::<u128>()));
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let first = self.store.put_opts(&path, PutPayload::from_static(b"probe"), create()).await;
        first.map_err(|source| self.failed(source))?;
        let second = self.store.put_opts(&path, PutPayload::from_static(b"probe"), create()).await;
        let conditional_writes = matches!(second, Err(object_store::Error::AlreadyExists { .. }));
        self.store.delete(&path).await.map_err(|source| self.failed(source))?;
        Ok(Abilities { conditional_writes })
    }
}

fn failed(url: &str, source: object_store::Error) -> StoreError {
    StoreError::Store { url: url.to_owned(), source: Box::new(source) }
}
