//! The catalog on PostgreSQL, for an array of nodes on several hosts. The address may name a standby
//! after the primary: reads go on from it while the primary is away, and writes find whichever of them
//! takes writes.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use futures_util::future::{try_join, try_join3};
use tokio::time::error::Elapsed;
use tokio_postgres::Row as Line;

use super::{
    Answer, BlobHash, Catalog, CatalogError, Change, Decide, Health, KeyHash, Revocation, RevokedKind, Row,
};

mod address;
mod servers;

use address::Address;
pub use address::{AddressError, check};
use servers::{Lent, Servers, TRIES, Trouble};

/// What makes each version of the one before.
const MIGRATIONS: &[&str] = &[include_str!("1.sql"), include_str!("2.sql"), include_str!("3.sql")];
/// The first half of our advisory locks' names. Those of records have one wide name instead, which is
/// another space.
const LOCKS: i32 = 0x7265_7a63;
const LOCK_MIGRATION: i32 = 1;
const LOCK_REVOCATION: i32 = 2;
/// How often a transaction is tried that others were in the way of.
const ATTEMPTS: usize = 5;
/// A transaction that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a transaction was tried.
#[derive(Default)]
struct Tries {
    made: usize,
    /// The commit was sent: whether it happened can no longer be known from an error.
    committing: bool,
}

/// One transaction on the primary; tried again while others are in the way, or when the connection turns
/// out to have ended before the commit was sent. A macro, since the compiler cannot yet tell that a
/// future made by a generic async closure may change threads.
macro_rules! transaction {
    ($catalog:ident, $transaction:ident, $work:block) => {{
        let mut tries = Tries::default();
        loop {
            let (mut lent, place) = $catalog.servers.writer().await?;
            let outcome = tokio::time::timeout(PATIENCE, async {
                let $transaction = lent.client()?.transaction().await?;
                let value = async { $work }.await?;
                tries.committing = true;
                $transaction.commit().await?;
                Ok::<_, Trouble>(value)
            })
            .await;
            drop(place);
            if let Some(answer) = $catalog.judged(lent, &mut tries, outcome) {
                break answer;
            }
        }
    }};
}

mod board;

/// The catalog on one or more PostgreSQL servers.
pub struct PostgresCatalog {
    servers: Servers,
}

impl PostgresCatalog {
    /// Connects, and makes or migrates the schema `rezcache` in the database. With the primary away and
    /// a standby that has the schema, nothing is made.
    ///
    /// # Errors
    /// When the address is wrong, no server answers, or the catalog is of a newer version.
    pub async fn open(url: &str) -> Result<Self, CatalogError> {
        let address = Address::parse(url).map_err(|error| CatalogError::Failed(error.to_string()))?;
        let catalog = Self { servers: Servers::new(address)? };
        match catalog.migrate().await {
            Err(CatalogError::Unavailable(told)) if catalog.servers.has_standby() => {
                let rows = catalog.servers.rows("select version from rezcache.catalog_version", &[]).await;
                let found: Option<i64> = rows.ok().and_then(|rows| rows.first()?.try_get(0).ok());
                match found {
                    Some(version) if version == known() => {
                        tracing::warn!(%told, "the catalog's primary is away; reads come from the standby");
                        Ok(catalog)
                    }
                    _ => Err(CatalogError::Unavailable(told)),
                }
            }
            migrated => migrated.map(|()| catalog),
        }
    }

    async fn migrate(&self) -> Result<(), CatalogError> {
        let found: i64 = transaction!(self, transaction, {
            let lock = "select pg_advisory_xact_lock($1, $2)";
            transaction.query_one(lock, &[&LOCKS, &LOCK_MIGRATION]).await?;
            // Asked first: who may not create may still use what is there.
            let there = transaction
                .query_one("select to_regclass('rezcache.catalog_version') is not null", &[])
                .await?;
            if !there.try_get::<_, bool>(0)? {
                transaction
                    .batch_execute(
                        "create schema if not exists rezcache;
                             create table rezcache.catalog_version (version bigint not null);
                             insert into rezcache.catalog_version values (0)",
                    )
                    .await?;
            }
            let found = transaction.query_one("select version from rezcache.catalog_version", &[]).await?;
            let found: i64 = found.try_get(0)?;
            for (step, version) in MIGRATIONS.iter().zip(1i64..).filter(|(_, version)| *version > found) {
                transaction.batch_execute(step).await?;
                transaction.execute("update rezcache.catalog_version set version = $1", &[&version]).await?;
            }
            Ok::<_, Trouble>(found)
        })?;
        if found > known() { Err(CatalogError::Version { found, known: known() }) } else { Ok(()) }
    }

    /// What to do after a try: `None` is to try again.
    fn judged<T>(
        &self,
        lent: Lent,
        tries: &mut Tries,
        outcome: Result<Result<T, Trouble>, Elapsed>,
    ) -> Option<Result<T, CatalogError>> {
        tries.made += 1;
        let trouble = match outcome {
            Ok(Ok(value)) => {
                lent.give_back();
                self.servers.is_back();
                return Some(Ok(value));
            }
            Ok(Err(trouble)) => trouble,
            Err(_) => {
                self.servers.is_away();
                return Some(Err(Trouble::Gone("no answer in time".into()).into()));
            }
        };
        let again = match &trouble {
            Trouble::Gone(_) => !tries.committing && tries.made < TRIES,
            Trouble::Collided(_) => tries.made < ATTEMPTS,
            Trouble::Failed(_) => false,
        };
        match trouble {
            // The connection goes too.
            Trouble::Gone(_) if !again => self.servers.is_away(),
            Trouble::Gone(_) => {}
            Trouble::Collided(_) | Trouble::Failed(_) => lent.give_back(),
        }
        (!again).then(|| Err(trouble.into()))
    }
}

const ENROLLED: &str = "select record from rezcache.principal where hash = $1";

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The lock of a record. Keys are keyed hashes, so their first bytes are as good as any; two records
/// that share a lock only wait for each other.
fn lock_of(key: &KeyHash) -> i64 {
    key.first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
}

fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn day_of(day: u32) -> i32 {
    i32::try_from(day).unwrap_or(i32::MAX)
}

#[allow(clippy::needless_pass_by_value)] // What `map_err` hands over.
fn broken(error: tokio_postgres::Error) -> CatalogError {
    CatalogError::Failed(error.to_string())
}

fn hash(line: &Line, column: usize) -> Result<[u8; 32], CatalogError> {
    let bytes: &[u8] = line.try_get(column).map_err(broken)?;
    bytes.try_into().map_err(|_| CatalogError::Failed("a key in the catalog is not 32 bytes".into()))
}

fn row(line: &Line, column: usize) -> Result<Row, CatalogError> {
    let day: i32 = line.try_get(column + 1).map_err(broken)?;
    let record = line.try_get(column).map_err(broken)?;
    Ok(Row { record, last_use_day: u32::try_from(day).unwrap_or(0) })
}

impl Catalog for PostgresCatalog {
    fn read(&self, keys: Vec<KeyHash>) -> Answer<'_, Vec<Option<Row>>> {
        const SQL: &str = "select key, record, last_use_day from rezcache.asset where key = any($1)";
        Box::pin(async move {
            let names: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let lines = self.servers.rows(SQL, &[&names]).await?;
            let mut found = HashMap::new();
            for line in &lines {
                found.insert(hash(line, 0)?, row(line, 1)?);
            }
            Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
        })
    }

    fn update(&self, key: KeyHash, day: u32, mut decide: Decide) -> Answer<'_, ()> {
        const LOCK: &str = "select pg_advisory_xact_lock($1)";
        const FIND: &str = "select record from rezcache.asset where key = $1 for update";
        const PUT: &str = "insert into rezcache.asset (key, record, last_use_day) values ($1, $2, $3) \
                           on conflict (key) do update set record = excluded.record";
        const UNNAME: &str = "delete from rezcache.named where key = $1 and blob <> all ($2)";
        const NAME: &str = "insert into rezcache.named (blob, key) select unnest($2::bytea[]), $1 \
                            on conflict do nothing";
        Box::pin(async move {
            transaction!(self, transaction, {
                let key = &key[..];
                let lock = transaction.prepare_cached(LOCK).await?;
                let find = transaction.prepare_cached(FIND).await?;
                // A row that is not there cannot be locked, so the lock has the key's name. Sent together;
                // the second still sees what was committed before the lock was had, being a statement of
                // its own.
                let id = lock_of(key.first_chunk().unwrap_or(&[0; 32]));
                let (_, old) =
                    try_join(transaction.query_one(&lock, &[&id]), transaction.query_opt(&find, &[&key]))
                        .await?;
                let old: Option<&[u8]> = old.as_ref().map(|line| line.try_get(0)).transpose()?;
                let Change { record: Some(record), blobs } = decide(old) else { return Ok(()) };
                let blobs: Vec<&[u8]> = blobs.iter().map(|blob| &blob[..]).collect();
                let put = transaction.prepare_cached(PUT).await?;
                let unname = transaction.prepare_cached(UNNAME).await?;
                let name = transaction.prepare_cached(NAME).await?;
                try_join3(
                    transaction.execute(&put, &[&key, &record, &day_of(day)]),
                    transaction.execute(&unname, &[&key, &blobs]),
                    transaction.execute(&name, &[&key, &blobs]),
                )
                .await?;
                Ok::<_, Trouble>(())
            })
        })
    }

    fn touch(&self, uses: Vec<(KeyHash, u32)>) -> Answer<'_, ()> {
        // Rows are locked in one order, so that two nodes do not wait for each other.
        const TOUCH: &str = "with used as (select key, max(day) as day \
                               from unnest($1::bytea[], $2::int[]) as given (key, day) group by key), \
                             held as (select asset.key, used.day from rezcache.asset join used using (key) \
                               where asset.last_use_day < used.day order by asset.key for update of asset) \
                             update rezcache.asset set last_use_day = held.day from held \
                               where asset.key = held.key and asset.last_use_day < held.day";
        Box::pin(async move {
            let (keys, days): (Vec<&[u8]>, Vec<i32>) =
                uses.iter().map(|(key, day)| (&key[..], day_of(*day))).unzip();
            transaction!(self, transaction, {
                let touch = transaction.prepare_cached(TOUCH).await?;
                transaction.execute(&touch, &[&keys, &days]).await?;
                Ok::<_, Trouble>(())
            })
        })
    }

    fn keys_of_blob(&self, blob: BlobHash) -> Answer<'_, Vec<KeyHash>> {
        const SQL: &str = "select key from rezcache.named where blob = $1";
        Box::pin(async move {
            // A standby may not know yet of a record that names it.
            let lines = transaction!(self, transaction, {
                let query = transaction.prepare_cached(SQL).await?;
                Ok::<_, Trouble>(transaction.query(&query, &[&&blob[..]]).await?)
            })?;
            lines.iter().map(|line| hash(line, 0)).collect()
        })
    }

    fn scan(&self, after: Option<KeyHash>, limit: u32) -> Answer<'_, Vec<(KeyHash, Row)>> {
        const SQL: &str = "select key, record, last_use_day from rezcache.asset where key > $1 \
                           order by key limit $2";
        Box::pin(async move {
            let after = after.as_ref().map_or(&[][..], |key| &key[..]);
            let lines = self.servers.rows(SQL, &[&after, &i64::from(limit)]).await?;
            lines.iter().map(|line| Ok((hash(line, 0)?, row(line, 1)?))).collect()
        })
    }

    fn remove(&self, rows: Vec<(KeyHash, Vec<u8>)>) -> Answer<'_, u64> {
        // Locked in one order, as by `touch`. A row that is changed meanwhile is looked at again.
        const REMOVE: &str = "with held as (select asset.key from rezcache.asset                                 join unnest($1::bytea[], $2::bytea[]) as given (key, record)                                   on asset.key = given.key and asset.record = given.record                                 where not exists (select from rezcache.named where named.key = asset.key)                                 order by asset.key for update of asset)                               delete from rezcache.asset using held where asset.key = held.key";
        Box::pin(async move {
            let (keys, records): (Vec<&[u8]>, Vec<&[u8]>) =
                rows.iter().map(|(key, record)| (&key[..], &record[..])).unzip();
            transaction!(self, transaction, {
                let remove = transaction.prepare_cached(REMOVE).await?;
                Ok::<_, Trouble>(transaction.execute(&remove, &[&keys, &records]).await?)
            })
        })
    }

    fn revoke(&self, kind: RevokedKind, value: String, at: u64) -> Answer<'_, ()> {
        Box::pin(async move {
            transaction!(self, transaction, {
                // Numbers must appear in their order: whoever has read up to one never looks below it.
                let lock = "select pg_advisory_xact_lock($1, $2)";
                transaction.query_one(lock, &[&LOCKS, &LOCK_REVOCATION]).await?;
                let put = "insert into rezcache.revocation (kind, value, at) values ($1, $2, $3) \
                           on conflict (kind, value) do nothing";
                transaction.execute(put, &[&i16::from(kind as u8), &value, &wide(at)]).await?;
                Ok::<_, Trouble>(())
            })
        })
    }

    fn revocations(&self, after: i64) -> Answer<'_, Vec<Revocation>> {
        const SQL: &str = "select sequence, kind, value from rezcache.revocation where sequence > $1 \
                           order by sequence";
        Box::pin(async move {
            let lines = self.servers.rows(SQL, &[&after]).await?;
            let revocation = |line: &Line| {
                let kind = match line.try_get::<_, i16>(1)? {
                    0 => RevokedKind::Token,
                    1 => RevokedKind::Subject,
                    _ => RevokedKind::Tenant,
                };
                Ok(Revocation { sequence: line.try_get(0)?, kind, value: line.try_get(2)? })
            };
            lines.iter().map(revocation).collect::<Result<_, _>>().map_err(broken)
        })
    }

    fn audit(&self, at: u64, action: String, detail: String) -> Answer<'_, ()> {
        Box::pin(async move {
            // Text cannot hold this character here.
            let (action, detail) = (action.replace('\0', "\u{fffd}"), detail.replace('\0', "\u{fffd}"));
            transaction!(self, transaction, {
                let put = "insert into rezcache.audit (at, action, detail) values ($1, $2, $3)";
                transaction.execute(put, &[&wide(at), &action, &detail]).await?;
                Ok::<_, Trouble>(())
            })
        })
    }

    fn lease(&self, name: [u8; 32], window: u64, want: u64, limit: u64) -> Answer<'_, u64> {
        const BEGIN: &str = "insert into rezcache.lease (name, period, used) values ($1, $2, 0) \
                             on conflict do nothing";
        const USED: &str = "select used from rezcache.lease where name = $1 and period = $2 for update";
        const USE: &str = "update rezcache.lease set used = used + $3 where name = $1 and period = $2";
        const CLEAR: &str = "delete from rezcache.lease where name = $1 and period < $2";
        Box::pin(async move {
            let (name, window) = (&name[..], wide(window));
            transaction!(self, transaction, {
                let begin = transaction.prepare_cached(BEGIN).await?;
                transaction.execute(&begin, &[&name, &window]).await?;
                let used = transaction.prepare_cached(USED).await?;
                // Cleared away meanwhile: the period is over for everybody.
                let Some(line) = transaction.query_opt(&used, &[&name, &window]).await? else { return Ok(0) };
                let used = u64::try_from(line.try_get::<_, i64>(0)?).unwrap_or(0);
                let given = want.min(limit.saturating_sub(used));
                let more = transaction.prepare_cached(USE).await?;
                transaction.execute(&more, &[&name, &window, &wide(given)]).await?;
                let clear = transaction.prepare_cached(CLEAR).await?;
                transaction.execute(&clear, &[&name, &window]).await?;
                Ok::<_, Trouble>(given)
            })
        })
    }

    fn forget_leases(&self, windows: Range<u64>) -> Answer<'_, u64> {
        const FORGET: &str = "delete from rezcache.lease where period >= $1 and period < $2";
        Box::pin(async move {
            transaction!(self, transaction, {
                let (start, end) = (wide(windows.start), wide(windows.end));
                Ok::<_, Trouble>(transaction.execute(FORGET, &[&start, &end]).await?)
            })
        })
    }

    fn enrol(&self, principal: KeyHash, record: Vec<u8>) -> Answer<'_, Vec<u8>> {
        const PUT: &str = "insert into rezcache.principal (hash, record) values ($1, $2) \
                           on conflict (hash) do nothing";
        Box::pin(async move {
            let (principal, record) = (&principal[..], &record[..]);
            transaction!(self, transaction, {
                transaction.execute(PUT, &[&principal, &record]).await?;
                // A statement of its own sees what another has committed meanwhile.
                let stands = transaction.query_one(ENROLLED, &[&principal]).await?;
                Ok::<Vec<u8>, Trouble>(stands.try_get(0)?)
            })
        })
    }

    fn enrolled(&self, principal: KeyHash) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let lines = self.servers.rows(ENROLLED, &[&&principal[..]]).await?;
            lines.first().map(|line| line.try_get(0)).transpose().map_err(broken)
        })
    }

    fn health(&self) -> std::pin::Pin<Box<dyn Future<Output = Health> + Send + '_>> {
        Box::pin(async move {
            let (primary, standby) = self.servers.state().await;
            Health { engine: self.engine(), primary, standby, waiting: self.servers.waiting() }
        })
    }

    fn engine(&self) -> &'static str {
        "postgres"
    }
}
