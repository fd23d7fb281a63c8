//! The servers behind an address: one pool that finds whoever takes writes, one that reads go on from
//! while it is away.
//!
//! One pool over both would stick to the standby after the primary is back (reads fine, every write
//! refused), so there are two.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use crate::catalog::CatalogError;

/// Connections to each server; PostgreSQL's usual limit of 100 then carries some ten nodes.
const CONNECTIONS: usize = 8;
/// Of these, how many changes may hold: reads always find one.
const WRITERS: usize = 6;
/// Changes that wait for a connection.
const QUEUE: usize = 1024;
/// How long anything waits for a connection, and a connection for its server (more than one may be tried).
const WAIT: Duration = Duration::from_secs(2);
const CREATE: Duration = Duration::from_secs(4);
/// A read that has a standby to go to, or that only tries whether the primary is back, waits no longer.
const READ_PATIENCE: Duration = Duration::from_millis(500);
/// Anything that takes longer is given up, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many connections are tried that turn out to have ended.
pub(super) const TRIES: usize = 3;
/// How often a primary that is away is tried by reads. Writes always try.
const PROBE: Duration = Duration::from_millis(250);

/// Why something did not work, by what may help.
#[derive(Debug)]
pub(super) enum Trouble {
    /// No server, or one that is going or does not take writes.
    Gone(String),
    /// Another transaction was in the way.
    Collided(String),
    /// Trying again does not help.
    Failed(String),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            // The library prints "db error" or "error connecting to server"; the cause says why.
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            return Self::Gone(text);
        };
        let code = error.code().map_or("", SqlState::code);
        // The detail of an error may hold values; its message does not.
        let text = format!("{} (SQLSTATE {code})", told.message());
        match code.get(..2) {
            _ if code == "25006" || code == "57014" => Self::Gone(text),
            Some("08" | "53" | "57") => Self::Gone(text),
            Some("40") => Self::Collided(text),
            _ if code == "55P03" => Self::Collided(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<PoolError> for Trouble {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => Self::Gone(other.to_string()),
        }
    }
}

impl From<Trouble> for CatalogError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Gone(text) | Trouble::Collided(text) => Self::Unavailable(text),
            Trouble::Failed(text) => Self::Failed(text),
        }
    }
}

/// A connection that is kept only when its work ended: what was given up may still run on it.
pub(super) struct Lent(Option<Client>);

impl Lent {
    pub(super) fn client(&mut self) -> Result<&mut Client, Trouble> {
        self.0.as_mut().ok_or_else(|| Trouble::Gone("the connection is gone".into()))
    }

    /// Its work ended well, or with an answer of the server.
    pub(super) fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Client::take(client));
        }
    }
}

/// Whether the primary is worth a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// It answered the last one.
    Yes,
    /// It is away, and may be back.
    Try,
    /// It was away a moment ago.
    No,
}

/// The two pools.
pub(super) struct Servers {
    primary: Pool,
    standby: Option<Pool>,
    /// When reads try the primary again; `None` while it answers.
    away_until: Mutex<Option<Instant>>,
    writers: Semaphore,
    waiting: AtomicUsize,
}

impl Servers {
    pub(super) fn new(address: Address) -> Result<Self, CatalogError> {
        let tls = MakeRustlsConnect::new((*address.tls).clone());
        let pool = |config: Config| {
            let kept = ManagerConfig { recycling_method: RecyclingMethod::Fast };
            Pool::builder(Manager::from_config(config, tls.clone(), kept))
                .max_size(CONNECTIONS)
                .timeouts(Timeouts { wait: Some(WAIT), create: Some(CREATE), recycle: Some(WAIT) })
                .runtime(Runtime::Tokio1)
                .build()
                .map_err(|error| CatalogError::Failed(error.to_string()))
        };
        Ok(Self {
            primary: pool(address.primary)?,
            standby: address.standby.map(pool).transpose()?,
            away_until: Mutex::default(),
            writers: Semaphore::new(WRITERS),
            waiting: AtomicUsize::new(0),
        })
    }

    pub(super) const fn has_standby(&self) -> bool {
        self.standby.is_some()
    }

    /// Changes that wait for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A connection to whoever takes writes.
    pub(super) async fn writer(&self) -> Result<(Lent, SemaphorePermit<'_>), Trouble> {
        struct Leaves<'a>(&'a AtomicUsize);
        impl Drop for Leaves<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Leaves(&self.waiting);
        if before >= QUEUE {
            return Err(Trouble::Gone("too many changes are waiting".into()));
        }
        let place = tokio::time::timeout(WAIT, self.writers.acquire()).await;
        let Ok(Ok(place)) = place else { return Err(Trouble::Gone("too many changes are waiting".into())) };
        let client = self.primary.get().await.map_err(Trouble::from).inspect_err(|_| self.is_away())?;
        Ok((Lent(Some(client)), place))
    }

    /// Asks the primary, and the standby while the primary is away.
    pub(super) async fn rows(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, CatalogError> {
        let asked = self.is_worth_asking();
        let told = if asked != Worth::No {
            let patience = if asked == Worth::Try || self.has_standby() { READ_PATIENCE } else { PATIENCE };
            match ask(&self.primary, sql, values, patience).await {
                Ok(rows) => {
                    self.is_back();
                    return Ok(rows);
                }
                Err(Trouble::Gone(told)) => {
                    self.is_away();
                    told
                }
                Err(other) => return Err(other.into()),
            }
        } else {
            "the primary was away a moment ago".to_owned()
        };
        match &self.standby {
            None => Err(CatalogError::Unavailable(told)),
            Some(standby) => {
                let mut answer = ask(standby, sql, values, PATIENCE).await;
                // All nodes come to it at once when the primary goes: it may need a moment.
                if let Err(Trouble::Gone(_)) = answer {
                    answer = ask(standby, sql, values, PATIENCE).await;
                }
                answer.map_err(|trouble| match trouble {
                    Trouble::Gone(standby) => {
                        CatalogError::Unavailable(format!("primary: {told}; standby: {standby}"))
                    }
                    other => other.into(),
                })
            }
        }
    }

    /// Whether the primary takes writes, and whether a standby answers; `None` when none is named.
    pub(super) async fn state(&self) -> (bool, Option<bool>) {
        const IS_STANDBY: &str = "select pg_is_in_recovery()";
        let primary = async {
            let answers = ask(&self.primary, IS_STANDBY, &[], READ_PATIENCE).await;
            answers.is_ok_and(|rows| matches!(rows.first().map(|row| row.try_get(0)), Some(Ok(false))))
        };
        let standby = async {
            let client = match tokio::time::timeout(READ_PATIENCE, self.standby.as_ref()?.get()).await {
                Ok(Ok(client)) => client,
                _ => return Some(false),
            };
            let mut lent = Lent(Some(client));
            let Ok(client) = lent.client() else { return Some(false) };
            let answer = tokio::time::timeout(READ_PATIENCE, client.query_one(IS_STANDBY, &[])).await;
            let is_standby = matches!(answer.map(|row| row.and_then(|row| row.try_get(0))), Ok(Ok(true)));
            // A connection that had to go elsewhere is not kept: the standby may be back.
            if is_standby {
                lent.give_back();
            }
            Some(is_standby)
        };
        tokio::join!(primary, standby)
    }

    /// Notes that the primary does not answer.
    pub(super) fn is_away(&self) {
        let mut away = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        if away.is_none() {
            tracing::warn!("the catalog's primary does not answer");
        }
        *away = Some(Instant::now() + PROBE);
    }

    /// Notes that it does.
    pub(super) fn is_back(&self) {
        let mut away = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        if away.take().is_some() {
            tracing::info!("the catalog's primary answers again");
        }
    }

    /// Of the reads that come while the primary is away, one in a while tries it.
    fn is_worth_asking(&self) -> Worth {
        let mut away = self.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        match *away {
            Some(until) if Instant::now() < until => Worth::No,
            Some(_) => {
                *away = Some(Instant::now() + PROBE);
                Worth::Try
            }
            None => Worth::Yes,
        }
    }
}

/// One query, tried again on other connections: those in the pool may have ended while they lay there.
async fn ask(
    pool: &Pool,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
    patience: Duration,
) -> Result<Vec<Row>, Trouble> {
    let asking = async {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut lent = Lent(Some(pool.get().await?));
            let client = lent.client()?;
            let answer = async { client.query(&client.prepare_cached(sql).await?, values).await }.await;
            match answer.map_err(Trouble::from) {
                Err(Trouble::Gone(_)) if tries < TRIES => {}
                Err(Trouble::Gone(told)) => return Err(Trouble::Gone(told)),
                answer => {
                    lent.give_back();
                    return answer;
                }
            }
        }
    };
    match tokio::time::timeout(patience, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(Trouble::Gone("no answer in time".into())),
    }
}
