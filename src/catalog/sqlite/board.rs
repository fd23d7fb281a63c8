//! The directors' board on SQLite, for one host. Its time is that host's.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::SqliteCatalog;
use crate::catalog::{ACTING, Answer, Board, DecideFacts, Fact, FactChange, FactKind, Lead};

const NOW_MS: &str = "select cast(unixepoch('subsec') * 1000 as integer)";

fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn facts(connection: &Connection, kind: FactKind) -> rusqlite::Result<Vec<Fact>> {
    let mut query =
        connection.prepare_cached("select name, at, record from fact where kind = ?1 order by name")?;
    query
        .query_map([kind as u8], |row| {
            let at = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            Ok(Fact { name: row.get(0)?, at, record: row.get(2)? })
        })?
        .collect()
}

impl Board for SqliteCatalog {
    fn lead(&self, role: String, holder: String, time: Duration) -> Answer<'_, Lead> {
        Box::pin(self.write_with(move |connection| {
            let now: i64 = connection.query_row(NOW_MS, [], |row| row.get(0))?;
            let until = now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
            let known: Option<(String, i64, i64)> = connection
                .prepare_cached("select holder, until_ms, term from lead where role = ?1")?
                .query_row([&role], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let term = match known {
                // A clock that was put back must not keep a lead for longer than it was given.
                Some((other, ends, term)) if other != holder && now < ends && ends <= now + MOST_MS => {
                    return Ok(Lead { holder: other, held: false, term });
                }
                Some((same, _, term)) if same == holder => term,
                Some((_, _, term)) => term + 1,
                None => 1,
            };
            connection
                .prepare_cached(
                    "insert into lead (role, holder, until_ms, term) values (?1, ?2, ?3, ?4)
                     on conflict (role) do update set holder = ?2, until_ms = ?3, term = ?4",
                )?
                .execute(params![role, holder, until, term])?;
            Ok(Lead { holder, held: true, term })
        }))
    }

    fn give_up(&self, role: String, holder: String) -> Answer<'_, ()> {
        Box::pin(self.write_with(move |connection| {
            connection.execute(
                "update lead set until_ms = 0 where role = ?1 and holder = ?2",
                params![role, holder],
            )?;
            Ok(())
        }))
    }

    fn put_fact(&self, kind: FactKind, fact: Fact, term: i64) -> Answer<'_, bool> {
        Box::pin(self.write_with(move |connection| {
            let changed = connection
                .prepare_cached(
                    "insert into fact (kind, name, at, term, record) values (?1, ?2, ?3, ?4, ?5)
                     on conflict (kind, name) do update set at = ?3, term = max(term, ?4), record = ?5
                     where ?4 = 0 or (term <= ?4
                       and not exists (select 1 from lead where lead.role = ?6 and lead.term > ?4))",
                )?
                .execute(params![kind as u8, fact.name, wide(fact.at), term, fact.record, ACTING])?;
            Ok(changed > 0)
        }))
    }

    fn facts(&self, kind: FactKind) -> Answer<'_, Vec<Fact>> {
        Box::pin(self.read_with(move |connection| facts(connection, kind)))
    }

    fn change_facts(&self, kind: FactKind, mut decide: DecideFacts) -> Answer<'_, ()> {
        Box::pin(self.write_with(move |connection| {
            for change in decide(&facts(connection, kind)?) {
                match change {
                    FactChange::Put(fact) => connection
                        .prepare_cached(
                            "insert into fact (kind, name, at, term, record) values (?1, ?2, ?3, 0, ?4)
                             on conflict (kind, name) do update set at = ?3, record = ?4",
                        )?
                        .execute(params![kind as u8, fact.name, wide(fact.at), fact.record])?,
                    FactChange::Drop(name) => connection
                        .prepare_cached("delete from fact where kind = ?1 and name = ?2")?
                        .execute(params![kind as u8, name])?,
                };
            }
            Ok(())
        }))
    }

    fn drop_fact(&self, kind: FactKind, name: String, term: i64) -> Answer<'_, bool> {
        Box::pin(self.write_with(move |connection| {
            let changed = connection.execute(
                "delete from fact where kind = ?1 and name = ?2 and (?3 = 0 or term <= ?3)",
                params![kind as u8, name, term],
            )?;
            Ok(changed > 0)
        }))
    }

    fn forget_facts(&self, kind: FactKind, before: u64) -> Answer<'_, u64> {
        Box::pin(self.write_with(move |connection| {
            let changed = connection
                .execute("delete from fact where kind = ?1 and at < ?2", params![kind as u8, wide(before)])?;
            Ok(changed as u64)
        }))
    }
}

/// No lead is given for longer.
const MOST_MS: i64 = 3_600_000;
