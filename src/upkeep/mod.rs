//! What an operator does to the stores of a service, while its nodes run or not: checks, looks, changes
//! keys, voids lies. Everything is safe to break off and to run again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::TryStreamExt as _;

use crate::asset::AssetKind;
use crate::catalog::{Catalog, CatalogError, KeyHash, Place, Row};
use crate::store::blobs::{Blobs, Listed, OpenError, StoreError};
use crate::store::keys::{KeyError, KeyRing};

mod distrust;
mod prune;
mod reseal;
mod stat;
mod verify;

pub use distrust::{Distrusted, Liar};
pub use prune::{HOLD_DAYS, Pruned};
pub use reseal::{Resealed, import, rotate};
pub use stat::{ContentStat, Stat};
pub use verify::{Finding, Findings, Verified};

/// Blobs worked on at once: each may be the largest asset, twice.
const AT_ONCE: usize = 4;
/// Rows of the catalog read at once.
const ROWS: u32 = 1000;

/// The stores of a service, opened by its operator.
pub struct Stores {
    /// The blobs.
    pub blobs: Blobs,
    /// Their keys.
    pub ring: KeyRing,
    /// What is known of them.
    pub catalog: Arc<dyn Catalog>,
}

/// Why something cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpkeepError {
    /// The store or its keys.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key file.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// There is none: an empty one would make every blob look superfluous.
    #[error("there is no catalog {0}; name the right one with --catalog")]
    NoCatalog(PathBuf),
    /// It cannot be sealed.
    #[error("a record or a blob cannot be sealed; is the key file whole?")]
    Seal,
    /// Keys of another store.
    #[error("{0} holds keys of another store; nothing was changed")]
    OtherKeys(PathBuf),
}

/// How far something is: so many of so many.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

impl Stores {
    /// Opens stores that exist.
    ///
    /// # Errors
    /// When one of them does not, or the keys are not its.
    pub async fn open(url: &str, catalog: &Place, key_file: &Path) -> Result<Self, UpkeepError> {
        let blobs = Blobs::open_existing(url)?;
        let ring = blobs.keys_of_existing(key_file).await?;
        if let Place::Sqlite(path) = catalog
            && !path.exists()
        {
            return Err(UpkeepError::NoCatalog(path.clone()));
        }
        Ok(Self { blobs, ring, catalog: catalog.open().await? })
    }

    async fn listed(&self) -> Result<Vec<Listed>, StoreError> {
        self.blobs.list().try_collect().await
    }

    /// The next rows of the catalog after a key; fewer than [`ROWS`] are the last.
    async fn rows(&self, after: Option<KeyHash>) -> Result<Vec<(KeyHash, Row)>, CatalogError> {
        self.catalog.scan(after, ROWS).await
    }
}

/// The largest content of any kind.
fn limit() -> u64 {
    AssetKind::ALL.iter().map(|kind| kind.max_bytes()).max().unwrap_or(0)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn day(now: u64) -> u32 {
    u32::try_from(now / 86_400).unwrap_or(u32::MAX)
}
