//! Sealed blobs on a directory, in memory or on S3. Nothing here rests on conditional writes, which
//! popular S3 servers ignore: a blob's name follows from its content, so whoever writes last has
//! written the same.

use std::fmt;
use std::ops::Range;
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
    BackoffConfig, ClientOptions, GetOptions, GetRange, MultipartUpload as _, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, RetryConfig,
};

use super::keys::{BlobName, KeyError, KeyId, KeyRing};
use super::sealed::{self, Hashed, SealError};
use crate::asset::Digest;
use crate::support::files;

/// A dead store must not hold up a viewer.
const RETRY: (usize, Duration) = (2, Duration::from_secs(2));
const TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Larger blobs are written and read in parts of this size: [`TIMEOUT`] is for a request, not for an asset.
const PART: usize = 8 << 20;
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
    #[error(
        "the key file does not open this store: {problem}; it holds {}; name the right one with --key-file",
        keys_in_words(.has)
    )]
    Key {
        /// What opening the store's marker came to; it names the key that is needed.
        problem: SealError,
        /// What there is.
        has: Vec<KeyId>,
    },
    /// There is no key file, and the store holds something.
    #[error(
        "there is no key file {path}, and the store is not empty: it is sealed with {}; name its key file with --key-file, or restore it from its backup",
        .needs.map_or_else(|| "an unknown key".to_owned(), |id| format!("key {}", id.0))
    )]
    KeyMissing {
        /// Where it was looked for.
        path: std::path::PathBuf,
        /// The key that the store's marker is sealed with.
        needs: Option<KeyId>,
    },
}

/// "key 1", "keys 1 and 3".
fn keys_in_words(ids: &[KeyId]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    match ids.as_slice() {
        [] => "no key".to_owned(),
        [one] => format!("key {one}"),
        [rest @ .., last] => format!("keys {} and {last}", rest.join(", ")),
    }
}

/// A blob as the store lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// What it is called.
    pub name: BlobName,
    /// Its bytes, sealed.
    pub size: u64,
    /// When it was written, in seconds since 1970; in the hold, when it came there.
    pub at: u64,
}

/// Why a store and its keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key file.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// There is nothing in it.
    #[error("there is nothing in the store {0}; name another with --store, or start `rezcache serve` on it")]
    Empty(String),
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

    /// Opens a store that is there; a directory is not made.
    ///
    /// # Errors
    /// As [`Blobs::open`], and when there is no directory.
    pub fn open_existing(url: &str) -> Result<Self, OpenError> {
        if files::folder(url).is_some_and(|folder| !folder.is_dir()) {
            return Err(OpenError::Empty(url.to_owned()));
        }
        Ok(Self::open(url)?)
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
            let path = files::folder(url).filter(|path| !path.as_os_str().is_empty()).ok_or_else(wrong)?;
            std::fs::create_dir_all(&path)
                .map_err(|source| StoreError::Folder { path: path.display().to_string(), source })?;
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
        match self.parts_of(path).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// An object part by part. One that is replaced meanwhile may be put together of both, which whoever
    /// opens it finds.
    async fn parts_of(&self, path: &Path) -> object_store::Result<Bytes> {
        let options = GetOptions { range: Some(GetRange::Bounded(0..PART as u64)), ..GetOptions::default() };
        let first = self.store.get_opts(path, options).await?;
        let size = first.meta.size;
        let first = first.bytes().await?;
        if size <= first.len() as u64 {
            return Ok(first);
        }
        let mut whole = Vec::with_capacity(usize::try_from(size).unwrap_or(0).min(128 << 20));
        whole.extend_from_slice(&first);
        while (whole.len() as u64) < size {
            let start = whole.len() as u64;
            let part = self.store.get_range(path, start..size.min(start + PART as u64)).await?;
            if part.is_empty() {
                break;
            }
            whole.extend_from_slice(&part);
        }
        Ok(Bytes::from(whole))
    }

    /// Writes a blob; over one of the same name, which is of the same content.
    ///
    /// # Errors
    /// When the store fails; nothing is half written then.
    pub async fn put(&self, name: &BlobName, blob: Vec<u8>) -> Result<(), StoreError> {
        let path = self.path("blobs", name);
        if blob.len() <= 2 * PART {
            self.store.put(&path, PutPayload::from(blob)).await.map_err(|source| self.failed(source))?;
            return Ok(());
        }
        let mut upload = self.store.put_multipart(&path).await.map_err(|source| self.failed(source))?;
        let mut rest = Bytes::from(blob);
        let sent = async {
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(PART));
                upload.put_part(PutPayload::from(part)).await?;
            }
            upload.complete().await
        };
        if let Err(source) = sent.await {
            // What was sent already must not be kept and paid for.
            let _ = upload.abort().await;
            return Err(self.failed(source));
        }
        Ok(())
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, name: &BlobName) -> Result<Option<Bytes>, StoreError> {
        self.get_at(&self.path("blobs", name)).await
    }

    /// Reads a part of a blob; fewer bytes when it ends before. `None`: there is no such blob.
    ///
    /// # Errors
    /// When the store fails, or the blob ends before the range begins.
    pub async fn get_range(&self, name: &BlobName, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        match self.store.get_range(&self.path("blobs", name), range).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
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

    /// Moves a blob out of everybody's reach, to be destroyed later: [`Blobs::destroy_held`].
    ///
    /// # Errors
    /// When the store fails; the blob is then where it was, or in both places.
    pub async fn hold(&self, name: &BlobName, now: u64) -> Result<(), StoreError> {
        // When it came here stands in its name: not every store dates a copy anew.
        let to = self.prefix.clone().join("hold").join(format!("{now}-{name}"));
        match self.store.copy(&self.path("blobs", name), &to).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => self.delete(name).await,
            Err(source) => Err(self.failed(source)),
        }
    }

    /// All blobs in the hold.
    pub fn list_held(&self) -> BoxStream<'static, Result<Listed, StoreError>> {
        let url = self.url.clone();
        let listed = self.store.list(Some(&self.prefix.clone().join("hold")));
        Box::pin(listed.map_err(move |source| failed(&url, source)).try_filter_map(|object| async move {
            let (at, name) = match object.location.filename().and_then(|name| name.split_once('-')) {
                Some((at, name)) => (at.parse().ok(), BlobName::parse(name)),
                None => (None, None),
            };
            Ok(at.zip(name).map(|(at, name)| Listed { name, size: object.size, at }))
        }))
    }

    /// Destroys what came into the hold until this time; how many blobs and bytes that were.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn destroy_held(&self, until: u64) -> Result<(u64, u64), StoreError> {
        let (mut blobs, mut bytes) = (0, 0);
        let mut held = self.list_held();
        while let Some(Listed { name, size, at }) = held.try_next().await? {
            if at > until {
                continue;
            }
            let path = self.prefix.clone().join("hold").join(format!("{at}-{name}"));
            match self.store.delete(&path).await {
                Ok(()) => (blobs, bytes) = (blobs + 1, bytes + size),
                // Another node was faster.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
        Ok((blobs, bytes))
    }

    /// All blobs, as the store lists them.
    pub fn list(&self) -> BoxStream<'static, Result<Listed, StoreError>> {
        let url = self.url.clone();
        let listed = self.store.list(Some(&self.prefix.clone().join("blobs")));
        Box::pin(listed.map_err(move |source| failed(&url, source)).try_filter_map(|object| async move {
            let name = object.location.filename().and_then(BlobName::parse);
            let at = u64::try_from(object.last_modified.timestamp()).unwrap_or(0);
            Ok(name.map(|name| Listed { name, size: object.size, at }))
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

    /// The key that the store's marker is sealed with; `None` when it has none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn marker_key(&self) -> Result<Option<KeyId>, StoreError> {
        Ok(self.get_at(&self.marker()).await?.as_deref().and_then(sealed::key_id))
    }

    /// The key ring of the store: that of the file, or a new one in a new file when the store is empty.
    /// Whether it is new.
    ///
    /// # Errors
    /// When the file cannot be used, or is missing though the store holds something, or is another's.
    pub async fn keys(&self, path: &std::path::Path) -> Result<(KeyRing, bool), OpenError> {
        let (ring, new) = match KeyRing::read(path) {
            Err(KeyError::Missing { .. }) if self.is_empty().await? => (KeyRing::create(path)?, true),
            // Another node may have made the file and marked the store since.
            Err(KeyError::Missing { .. }) => (self.known_keys(path, KeyRing::read(path)).await?, false),
            known => (self.known_keys(path, known).await?, false),
        };
        self.check_keys(&ring).await?;
        Ok((ring, new))
    }

    /// The key ring of a store that exists; nothing is written.
    ///
    /// # Errors
    /// As [`Blobs::keys`], and when the store is empty.
    pub async fn keys_of_existing(&self, path: &std::path::Path) -> Result<KeyRing, OpenError> {
        let ring = self.known_keys(path, KeyRing::read(path)).await?;
        match self.get_at(&self.marker()).await? {
            Some(marker) => self.opens_marker(&ring, &marker)?,
            None if self.is_empty().await? => return Err(OpenError::Empty(self.url.clone())),
            None => self.opens_some_blob(&ring).await?,
        }
        Ok(ring)
    }

    async fn known_keys(
        &self,
        path: &std::path::Path,
        read: Result<KeyRing, KeyError>,
    ) -> Result<KeyRing, OpenError> {
        match read {
            Err(KeyError::Missing { .. }) => {
                let needs = self.marker_key().await?;
                Err(StoreError::KeyMissing { path: path.to_owned(), needs }.into())
            }
            read => Ok(read?),
        }
    }

    fn opens_marker(&self, ring: &KeyRing, marker: &[u8]) -> Result<(), StoreError> {
        let name = ring.blob_name(Digest::of(MARKER));
        let wrong = |problem| StoreError::Key { problem, has: ring.ids().collect() };
        sealed::open(ring, &name, marker, 1024).map(|_| ()).map_err(wrong)
    }

    /// A store that lost its marker is known by any of its blobs.
    async fn opens_some_blob(&self, ring: &KeyRing) -> Result<(), StoreError> {
        if let Some(Listed { name, .. }) = self.list().try_next().await?
            && let Some(blob) = self.get(&name).await?
        {
            let wrong = |problem| StoreError::Key { problem, has: ring.ids().collect() };
            sealed::open(ring, &name, &blob, u64::MAX).map_err(wrong)?;
        }
        Ok(())
    }

    /// Checks that these keys are the store's, and marks a new store as theirs.
    ///
    /// # Errors
    /// When they are not, or the store fails.
    pub async fn check_keys(&self, ring: &KeyRing) -> Result<(), StoreError> {
        if let Some(marker) = self.get_at(&self.marker()).await? {
            return self.opens_marker(ring, &marker);
        }
        self.opens_some_blob(ring).await?;
        self.write_marker(ring, PutMode::Create).await?;
        // Of several who mark a new store at once, with keys of their own, only one may go on.
        match self.get_at(&self.marker()).await? {
            Some(marker) => self.opens_marker(ring, &marker),
            None => Ok(()),
        }
    }

    /// Seals the marker with the newest key.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mark_anew(&self, ring: &KeyRing) -> Result<(), StoreError> {
        self.write_marker(ring, PutMode::Overwrite).await
    }

    async fn write_marker(&self, ring: &KeyRing, mode: PutMode) -> Result<(), StoreError> {
        let hashed = Hashed::of(MARKER);
        let name = ring.blob_name(hashed.digest);
        let wrong = |problem| StoreError::Key { problem, has: ring.ids().collect() };
        let marker = sealed::seal(ring, &name, &hashed, MARKER, false, rand::random()).map_err(wrong)?;
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.marker(), PutPayload::from(marker), options).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(source) => Err(self.failed(source)),
        }
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
