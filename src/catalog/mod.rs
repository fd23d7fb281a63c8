//! The catalog: what a service knows beside the bytes. One trait; the engine gives transactions and
//! understands nothing of what the records say.

use std::ops::Range;
use std::pin::Pin;

mod board;
mod place;
mod postgres;
mod sqlite;

pub use board::{ACTING, Board, DecideFacts, Fact, FactChange, FactKind, Lead};
pub use place::Place;
pub use postgres::{AddressError, PostgresCatalog, check as check_postgres};
pub use sqlite::SqliteCatalog;

/// The keyed hash that an asset is called by.
pub type KeyHash = [u8; 32];
/// The name of a blob.
pub type BlobHash = [u8; 32];

/// An answer of the catalog.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CatalogError>> + Send + 'a>>;

/// Why the catalog does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// It cannot be reached, or is overloaded; later it may be otherwise.
    #[error("the catalog does not answer: {0}")]
    Unavailable(String),
    /// It was made by a newer rezcache.
    #[error("the catalog is of version {found}, and this rezcache knows {known}; use a newer rezcache")]
    Version {
        /// What the catalog says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// It answers with an error.
    #[error("the catalog fails: {0}")]
    Failed(String),
}

/// A record as it stands in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Opaque bytes.
    pub record: Vec<u8>,
    /// The day of its last use, counted from 1970.
    pub last_use_day: u32,
}

/// What a transaction makes of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The new record; `None` leaves the old one.
    pub record: Option<Vec<u8>>,
    /// The blobs that the new record names.
    pub blobs: Vec<BlobHash>,
}

/// Decides a change from the record as it is, `None` when there is none. Called again when the engine
/// has to try again.
pub type Decide = Box<dyn FnMut(Option<&[u8]>) -> Change + Send>;

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum RevokedKind {
    /// One token, by its id.
    Token = 0,
    /// Every token of a subject.
    Subject = 1,
    /// Every token of a tenant.
    Tenant = 2,
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Grows with each.
    pub sequence: i64,
    /// What kind of name it is.
    pub kind: RevokedKind,
    /// The name.
    pub value: String,
}

/// How the catalog is, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Health {
    /// The engine's name.
    pub engine: &'static str,
    /// Whether changes can be written.
    pub primary: bool,
    /// Whether a standby answers; `None` when none is named.
    pub standby: Option<bool>,
    /// Changes that wait.
    pub waiting: usize,
}

/// The transactions a service needs.
pub trait Catalog: Send + Sync {
    /// The rows of these keys.
    fn read(&self, keys: Vec<KeyHash>) -> Answer<'_, Vec<Option<Row>>>;
    /// Changes one record in one transaction.
    fn update(&self, key: KeyHash, day: u32, decide: Decide) -> Answer<'_, ()>;
    /// Notes the day of use of several records.
    fn touch(&self, uses: Vec<(KeyHash, u32)>) -> Answer<'_, ()>;
    /// Every key whose record names a blob, as the primary knows it: by this it is decided what to destroy.
    fn keys_of_blob(&self, blob: BlobHash) -> Answer<'_, Vec<KeyHash>>;
    /// At most `limit` rows in the order of their keys, after one.
    fn scan(&self, after: Option<KeyHash>, limit: u32) -> Answer<'_, Vec<(KeyHash, Row)>>;
    /// Removes the rows whose records are still these, and which name no blob; how many those were.
    fn remove(&self, rows: Vec<(KeyHash, Vec<u8>)>) -> Answer<'_, u64>;
    /// Revokes a name.
    fn revoke(&self, kind: RevokedKind, value: String, at: u64) -> Answer<'_, ()>;
    /// The revocations after a sequence number.
    fn revocations(&self, after: i64) -> Answer<'_, Vec<Revocation>>;
    /// Notes who did what; never read by the service itself.
    fn audit(&self, at: u64, action: String, detail: String) -> Answer<'_, ()>;
    /// Takes up to `want` from a counter that may reach `limit`, and says how much was given.
    fn lease(&self, name: [u8; 32], window: u64, want: u64, limit: u64) -> Answer<'_, u64>;
    /// Forgets whatever was taken in these windows, under any name; how many leases those were.
    fn forget_leases(&self, windows: Range<u64>) -> Answer<'_, u64>;
    /// Keeps the record of a principal that enrolled itself, unless there is one; the record that stands.
    fn enrol(&self, principal: KeyHash, record: Vec<u8>) -> Answer<'_, Vec<u8>>;
    /// The record of a principal that enrolled itself.
    fn enrolled(&self, principal: KeyHash) -> Answer<'_, Option<Vec<u8>>>;
    /// How the catalog is at this moment.
    fn health(&self) -> Pin<Box<dyn Future<Output = Health> + Send + '_>>;
    /// The engine's name for reports.
    fn engine(&self) -> &'static str;
}

#[cfg(test)]
mod tests;
