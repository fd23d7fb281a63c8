//! The directors' board on PostgreSQL. Its time is the database's, so that the directors' clocks may differ.

use std::time::Duration;

use super::{PATIENCE, PostgresCatalog, Tries, Trouble, broken, wide};
use crate::catalog::{ACTING, Answer, Board, DecideFacts, Fact, FactChange, FactKind, Lead};

const FACTS: &str = "select name, at, record from rezcache.fact where kind = $1 order by name";

/// Names of the locks of the kinds; those of keys are hashes.
const LOCKS: i64 = 0x72_65_7a_66_61_63_74_00;

fn fact(line: &tokio_postgres::Row) -> Result<Fact, tokio_postgres::Error> {
    let at = u64::try_from(line.try_get::<_, i64>(1)?).unwrap_or(0);
    Ok(Fact { name: line.try_get(0)?, at, record: line.try_get(2)? })
}

impl Board for PostgresCatalog {
    fn lead(&self, role: String, holder: String, time: Duration) -> Answer<'_, Lead> {
        // One statement: the row is locked while it is looked at, and a second asker sees what the first wrote.
        const TAKE: &str = "insert into rezcache.lead as lead (role, holder, until_ms, term) \
             select $1, $2, now_ms + $3, 1 from \
               (select (extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms) as clock \
             on conflict (role) do update set \
               term = lead.term + (lead.holder <> excluded.holder)::int, \
               holder = excluded.holder, until_ms = excluded.until_ms \
               where lead.holder = excluded.holder or lead.until_ms <= excluded.until_ms - $3 \
             returning term";
        const WHO: &str = "select holder, term from rezcache.lead where role = $1";
        Box::pin(async move {
            let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4);
            transaction!(self, transaction, {
                if let Some(line) = transaction.query_opt(TAKE, &[&role, &holder, &time]).await? {
                    return Ok(Lead { holder: holder.clone(), held: true, term: line.try_get(0)? });
                }
                let line = transaction.query_one(WHO, &[&role]).await?;
                Ok::<_, Trouble>(Lead { holder: line.try_get(0)?, held: false, term: line.try_get(1)? })
            })
        })
    }

    fn give_up(&self, role: String, holder: String) -> Answer<'_, ()> {
        const GIVE: &str = "update rezcache.lead set until_ms = 0 where role = $1 and holder = $2";
        Box::pin(async move {
            transaction!(self, transaction, {
                transaction.execute(GIVE, &[&role, &holder]).await?;
                Ok::<_, Trouble>(())
            })
        })
    }

    fn put_fact(&self, kind: FactKind, fact: Fact, term: i64) -> Answer<'_, bool> {
        const PUT: &str = "insert into rezcache.fact as fact (kind, name, at, term, record) \
             values ($1, $2, $3, $4, $5) \
             on conflict (kind, name) do update set at = excluded.at, \
               term = greatest(fact.term, excluded.term), record = excluded.record \
             where excluded.term = 0 or (fact.term <= excluded.term and not exists \
               (select 1 from rezcache.lead as lead where lead.role = $6 and lead.term > excluded.term))";
        Box::pin(async move {
            let (kind, at) = (i16::from(kind as u8), wide(fact.at));
            transaction!(self, transaction, {
                let changed =
                    transaction.execute(PUT, &[&kind, &fact.name, &at, &term, &fact.record, &ACTING]).await?;
                Ok::<_, Trouble>(changed > 0)
            })
        })
    }

    fn facts(&self, kind: FactKind) -> Answer<'_, Vec<Fact>> {
        Box::pin(async move {
            let lines = self.servers.rows(FACTS, &[&i16::from(kind as u8)]).await?;
            lines.iter().map(fact).collect::<Result<_, _>>().map_err(broken)
        })
    }

    fn change_facts(&self, kind: FactKind, mut decide: DecideFacts) -> Answer<'_, ()> {
        const LOCK: &str = "select pg_advisory_xact_lock($1)";
        const PUT: &str = "insert into rezcache.fact (kind, name, at, term, record) values ($1, $2, $3, 0, $4) \
             on conflict (kind, name) do update set at = excluded.at, record = excluded.record";
        const DROP: &str = "delete from rezcache.fact where kind = $1 and name = $2";
        Box::pin(async move {
            let number = i16::from(kind as u8);
            transaction!(self, transaction, {
                // Facts that are not there yet cannot be locked, so the lock is of the kind. The question after it is a
                // statement of its own, and sees what was committed before the lock was had.
                transaction.query_one(LOCK, &[&(LOCKS + i64::from(number))]).await?;
                let lines = transaction.query(FACTS, &[&number]).await?;
                let facts: Vec<Fact> = lines.iter().map(fact).collect::<Result<_, _>>()?;
                for change in decide(&facts) {
                    match change {
                        FactChange::Put(fact) => {
                            let at = wide(fact.at);
                            transaction.execute(PUT, &[&number, &fact.name, &at, &fact.record]).await?
                        }
                        FactChange::Drop(name) => transaction.execute(DROP, &[&number, &name]).await?,
                    };
                }
                Ok::<_, Trouble>(())
            })
        })
    }

    fn drop_fact(&self, kind: FactKind, name: String, term: i64) -> Answer<'_, bool> {
        const DROP: &str =
            "delete from rezcache.fact where kind = $1 and name = $2 and ($3 = 0::bigint or term <= $3)";
        Box::pin(async move {
            let kind = i16::from(kind as u8);
            transaction!(self, transaction, {
                let changed = transaction.execute(DROP, &[&kind, &name, &term]).await?;
                Ok::<_, Trouble>(changed > 0)
            })
        })
    }

    fn forget_facts(&self, kind: FactKind, before: u64) -> Answer<'_, u64> {
        const FORGET: &str = "delete from rezcache.fact where kind = $1 and at < $2";
        Box::pin(async move {
            let (kind, before) = (i16::from(kind as u8), wide(before));
            transaction!(self, transaction, {
                Ok::<_, Trouble>(transaction.execute(FORGET, &[&kind, &before]).await?)
            })
        })
    }
}
