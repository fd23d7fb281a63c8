//! The catalog on SQLite, the embedded default. Several processes of one host may share the file.
//!
//! One thread writes, and takes several waiting changes into one transaction; reads have connections of
//! their own. Creation and migration run under an exclusive lock on a file beside, since processes that
//! open a new database at the same moment collide even with a busy timeout.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::{
    Answer, BlobHash, Catalog, CatalogError, Change, Decide, Health, KeyHash, Revocation, RevokedKind, Row,
};

mod board;

/// What each version added; the last one is what this program knows.
const VERSIONS: [&str; 3] =
    [include_str!("sqlite.sql"), include_str!("sqlite_2.sql"), include_str!("sqlite_3.sql")];
const BUSY: Duration = Duration::from_secs(5);
/// Changes that wait for the writer.
const QUEUE: usize = 1024;
/// Changes in one transaction.
const BATCH: usize = 64;
/// Connections kept for reading.
const READERS: usize = 4;

type Job = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

/// A change that waits for the writer; `done` learns how its transaction ended.
struct Waiting {
    job: Job,
    done: oneshot::Sender<Result<(), CatalogError>>,
}

/// Counts a change for as long as somebody waits for it.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(number: &'a AtomicUsize) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The catalog in a file, or in memory.
pub struct SqliteCatalog {
    place: Place,
    writer: Option<std::sync::mpsc::SyncSender<Waiting>>,
    thread: Option<std::thread::JoinHandle<()>>,
    waiting: AtomicUsize,
    readers: Arc<Mutex<Vec<Connection>>>,
    /// In memory, a table that is being written is locked for readers, and no busy timeout helps: they
    /// wait here instead.
    gate: Option<Arc<RwLock<()>>>,
    /// A database in memory lives as long as a connection to it.
    _anchor: Mutex<Connection>,
}

#[derive(Clone)]
enum Place {
    File(PathBuf),
    Memory(String),
}

impl Place {
    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = match self {
            Self::File(path) => Connection::open(path)?,
            Self::Memory(name) => Connection::open(format!("file:{name}?mode=memory&cache=shared"))?,
        };
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    }
}

impl SqliteCatalog {
    /// Opens the catalog in a file, and makes it if there is none.
    ///
    /// # Errors
    /// When the file cannot be used, or is of a newer version.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        let io = |error: std::io::Error| CatalogError::Failed(format!("{}: {error}", path.display()));
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let lock = File::create(path.with_extension("lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        let opened = Self::start(Place::File(path.to_owned()));
        drop(lock);
        opened
    }

    /// A catalog that ends with the process.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn in_memory() -> Result<Self, CatalogError> {
        Self::start(Place::Memory(format!("rezcache-{:032x}", rand::random::<u128>())))
    }

    fn start(place: Place) -> Result<Self, CatalogError> {
        let mut connection = place.connect().map_err(failed)?;
        if matches!(place, Place::File(_)) {
            connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        }
        migrate(&mut connection)?;
        let anchor = place.connect().map_err(failed)?;
        let gate = matches!(place, Place::Memory(_)).then(Arc::<RwLock<()>>::default);
        let writers_gate = gate.clone();
        let (writer, waiting) = std::sync::mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || write(connection, &waiting, writers_gate.as_deref()))
            .map_err(|error| CatalogError::Failed(error.to_string()))?;
        let (writer, thread) = (Some(writer), Some(thread));
        let readers = Arc::default();
        let (waiting, _anchor) = (AtomicUsize::new(0), Mutex::new(anchor));
        Ok(Self { place, writer, thread, waiting, readers, gate, _anchor })
    }

    async fn read_with<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (place, readers) = (self.place.clone(), Arc::clone(&self.readers));
        let gate = self.gate.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let kept = readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match kept {
                Some(connection) => connection,
                None => place.connect()?,
            };
            let open = gate.as_ref().map(|gate| gate.read().unwrap_or_else(PoisonError::into_inner));
            let answer = query(&connection)?;
            drop(open);
            let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < READERS {
                readers.push(connection);
            }
            Ok(answer)
        });
        match reading.await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(CatalogError::Failed("a query broke off".into())),
        }
    }

    async fn write_with<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let (done, ended) = oneshot::channel();
        let (result, told) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let value = change(connection)?;
            // Whoever does not wait any more does not need it.
            let _ = result.send(value);
            Ok(())
        });
        let _waits = Waits::begin(&self.waiting);
        let sent = self.writer.as_ref().is_some_and(|writer| writer.try_send(Waiting { job, done }).is_ok());
        if !sent {
            return Err(CatalogError::Unavailable("too many changes are waiting".into()));
        }
        ended.await.map_err(|_| CatalogError::Unavailable("the writer has ended".into()))??;
        told.await.map_err(|_| CatalogError::Failed("a change broke off".into()))
    }
}

impl Drop for SqliteCatalog {
    /// Leaves the file closed: whoever opens or copies it next finds it whole.
    fn drop(&mut self) {
        self.writer.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // What `map_err` hands over.
fn failed(error: rusqlite::Error) -> CatalogError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            CatalogError::Unavailable(error.to_string())
        }
        _ => CatalogError::Failed(error.to_string()),
    }
}

fn migrate(connection: &mut Connection) -> Result<(), CatalogError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let known = i64::try_from(VERSIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(CatalogError::Version { found, known });
    }
    for (version, text) in (1i64..).zip(VERSIONS).filter(|(version, _)| *version > found) {
        transaction.execute_batch(text).map_err(failed)?;
        transaction.pragma_update(None, "user_version", version).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// The writer's thread: ends when the catalog is dropped.
fn write(
    mut connection: Connection,
    waiting: &std::sync::mpsc::Receiver<Waiting>,
    gate: Option<&RwLock<()>>,
) {
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter().take(BATCH - 1));
        let closed = gate.map(|gate| gate.write().unwrap_or_else(PoisonError::into_inner));
        run(&mut connection, batch);
        drop(closed);
    }
}

/// Runs changes in one transaction. One that fails takes back only its own.
fn run(connection: &mut Connection, batch: Vec<Waiting>) {
    let mut ends = Vec::with_capacity(batch.len());
    let outcome = (|| {
        let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for Waiting { job, done } in batch {
            let savepoint = transaction.savepoint()?;
            let result = job(&savepoint);
            if result.is_ok() {
                savepoint.commit()?;
            }
            ends.push((done, result.map_err(failed)));
        }
        transaction.commit()
    })();
    let broken = outcome.err().map(|error| error.to_string());
    for (done, result) in ends {
        let result = match &broken {
            None => result,
            Some(error) => Err(CatalogError::Unavailable(error.clone())),
        };
        let _ = done.send(result);
    }
}

fn find(connection: &Connection, key: &KeyHash) -> rusqlite::Result<Option<Row>> {
    connection
        .prepare_cached("select record, last_use_day from asset where key = ?1")?
        .query_row([&key[..]], |row| Ok(Row { record: row.get(0)?, last_use_day: row.get(1)? }))
        .optional()
}

fn hash(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<[u8; 32]> {
    row.get(column)
}

impl Catalog for SqliteCatalog {
    fn read(&self, keys: Vec<KeyHash>) -> Answer<'_, Vec<Option<Row>>> {
        Box::pin(self.read_with(move |connection| keys.iter().map(|key| find(connection, key)).collect()))
    }

    fn update(&self, key: KeyHash, day: u32, mut decide: Decide) -> Answer<'_, ()> {
        Box::pin(self.write_with(move |connection| {
            let old = find(connection, &key)?;
            let Change { record: Some(record), blobs } = decide(old.as_ref().map(|row| &row.record[..]))
            else {
                return Ok(());
            };
            connection
                .prepare_cached(
                    "insert into asset (key, record, last_use_day) values (?1, ?2, ?3)
                     on conflict (key) do update set record = ?2",
                )?
                .execute(params![&key[..], record, day])?;
            connection.prepare_cached("delete from named where key = ?1")?.execute([&key[..]])?;
            let mut name =
                connection.prepare_cached("insert or ignore into named (blob, key) values (?1, ?2)")?;
            for blob in blobs {
                name.execute([&blob[..], &key[..]])?;
            }
            Ok(())
        }))
    }

    fn touch(&self, uses: Vec<(KeyHash, u32)>) -> Answer<'_, ()> {
        Box::pin(self.write_with(move |connection| {
            let mut touch = connection
                .prepare_cached("update asset set last_use_day = ?2 where key = ?1 and last_use_day < ?2")?;
            for (key, day) in uses {
                touch.execute(params![&key[..], day])?;
            }
            Ok(())
        }))
    }

    fn keys_of_blob(&self, blob: BlobHash) -> Answer<'_, Vec<KeyHash>> {
        Box::pin(self.read_with(move |connection| {
            let mut query = connection.prepare_cached("select key from named where blob = ?1")?;
            query.query_map([&blob[..]], |row| hash(row, 0))?.collect()
        }))
    }

    fn scan(&self, after: Option<KeyHash>, limit: u32) -> Answer<'_, Vec<(KeyHash, Row)>> {
        Box::pin(self.read_with(move |connection| {
            let mut query = connection.prepare_cached(
                "select key, record, last_use_day from asset where key > ?1 order by key limit ?2",
            )?;
            let after = after.map_or(Vec::new(), |key| key.to_vec());
            query
                .query_map(params![after, limit], |row| {
                    Ok((hash(row, 0)?, Row { record: row.get(1)?, last_use_day: row.get(2)? }))
                })?
                .collect()
        }))
    }

    fn remove(&self, rows: Vec<(KeyHash, Vec<u8>)>) -> Answer<'_, u64> {
        Box::pin(self.write_with(move |connection| {
            let mut remove = connection.prepare_cached(
                "delete from asset where key = ?1 and record = ?2
                 and not exists (select 1 from named where named.key = asset.key)",
            )?;
            let mut removed = 0;
            for (key, record) in rows {
                removed += remove.execute(params![&key[..], record])? as u64;
            }
            Ok(removed)
        }))
    }

    fn revoke(&self, kind: RevokedKind, value: String, at: u64) -> Answer<'_, ()> {
        Box::pin(self.write_with(move |connection| {
            connection.execute(
                "insert into revocation (kind, value, at) values (?1, ?2, ?3)
                 on conflict (kind, value) do nothing",
                params![kind as u8, value, i64::try_from(at).unwrap_or(i64::MAX)],
            )?;
            Ok(())
        }))
    }

    fn revocations(&self, after: i64) -> Answer<'_, Vec<Revocation>> {
        Box::pin(self.read_with(move |connection| {
            let mut query = connection.prepare_cached(
                "select sequence, kind, value from revocation where sequence > ?1 order by sequence",
            )?;
            query
                .query_map([after], |row| {
                    let kind = match row.get::<_, u8>(1)? {
                        0 => RevokedKind::Token,
                        1 => RevokedKind::Subject,
                        _ => RevokedKind::Tenant,
                    };
                    Ok(Revocation { sequence: row.get(0)?, kind, value: row.get(2)? })
                })?
                .collect()
        }))
    }

    fn audit(&self, at: u64, action: String, detail: String) -> Answer<'_, ()> {
        Box::pin(self.write_with(move |connection| {
            let at = i64::try_from(at).unwrap_or(i64::MAX);
            connection.execute(
                "insert into audit (at, action, detail) values (?1, ?2, ?3)",
                params![at, action, detail],
            )?;
            Ok(())
        }))
    }

    fn lease(&self, name: [u8; 32], window: u64, want: u64, limit: u64) -> Answer<'_, u64> {
        Box::pin(self.write_with(move |connection| {
            let window = i64::try_from(window).unwrap_or(i64::MAX);
            let used: Option<i64> = connection
                .prepare_cached("select used from lease where name = ?1 and window = ?2")?
                .query_row(params![&name[..], window], |row| row.get(0))
                .optional()?;
            let used = u64::try_from(used.unwrap_or(0)).unwrap_or(0);
            let given = want.min(limit.saturating_sub(used));
            connection
                .prepare_cached(
                    "insert into lease (name, window, used) values (?1, ?2, ?3)
                     on conflict (name, window) do update set used = used + ?3",
                )?
                .execute(params![&name[..], window, i64::try_from(given).unwrap_or(0)])?;
            connection
                .prepare_cached("delete from lease where name = ?1 and window < ?2")?
                .execute(params![&name[..], window])?;
            Ok(given)
        }))
    }

    fn forget_leases(&self, windows: Range<u64>) -> Answer<'_, u64> {
        Box::pin(self.write_with(move |connection| {
            let wide = |window| i64::try_from(window).unwrap_or(i64::MAX);
            let forgotten = connection.execute(
                "delete from lease where window >= ?1 and window < ?2",
                params![wide(windows.start), wide(windows.end)],
            )?;
            Ok(forgotten as u64)
        }))
    }

    fn enrol(&self, principal: KeyHash, record: Vec<u8>) -> Answer<'_, Vec<u8>> {
        Box::pin(self.write_with(move |connection| {
            connection
                .prepare_cached(
                    "insert into principal (hash, record) values (?1, ?2) on conflict (hash) do nothing",
                )?
                .execute(params![&principal[..], record])?;
            connection
                .prepare_cached("select record from principal where hash = ?1")?
                .query_row([&principal[..]], |row| row.get(0))
        }))
    }

    fn enrolled(&self, principal: KeyHash) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(self.read_with(move |connection| {
            connection
                .prepare_cached("select record from principal where hash = ?1")?
                .query_row([&principal[..]], |row| row.get(0))
                .optional()
        }))
    }

    fn health(&self) -> std::pin::Pin<Box<dyn Future<Output = Health> + Send + '_>> {
        Box::pin(async move {
            let primary = self.read_with(|connection| connection.execute_batch("select 1")).await.is_ok();
            Health {
                engine: self.engine(),
                primary,
                standby: None,
                waiting: self.waiting.load(Ordering::Relaxed),
            }
        })
    }

    fn engine(&self) -> &'static str {
        "sqlite"
    }
}
