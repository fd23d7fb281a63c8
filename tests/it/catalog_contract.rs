//! What every engine of the catalog must do: SQLite in a file and in memory, and a real PostgreSQL.

use std::path::PathBuf;
use std::sync::Arc;

use rezcache::catalog::{Catalog, CatalogError, Change, Decide, PostgresCatalog, RevokedKind, SqliteCatalog};
use tempfile::TempDir;

use crate::cli::rezcache;
use crate::support::postgres::Server;

fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

/// A new catalog that can be opened several times, as by the nodes of an array.
enum Place {
    Memory(Arc<dyn Catalog>),
    File(#[allow(dead_code)] TempDir, PathBuf),
    Postgres(String),
}

impl Place {
    /// One of each engine.
    fn all() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/catalog.sqlite");
        let memory = Arc::new(SqliteCatalog::in_memory().unwrap());
        let mut all = vec![Self::Memory(memory), Self::File(folder, file)];
        all.extend(Server::shared().map(|server| Self::Postgres(server.url(&server.database()))));
        all
    }

    async fn open(&self) -> Arc<dyn Catalog> {
        match self {
            Self::Memory(catalog) => Arc::clone(catalog),
            Self::File(_, path) => Arc::new(SqliteCatalog::open(path).unwrap()),
            Self::Postgres(url) => Arc::new(PostgresCatalog::open(url).await.unwrap()),
        }
    }
}

fn replace(record: &'static [u8], blobs: &[u8]) -> Decide {
    let blobs: Vec<_> = blobs.iter().map(|blob| key(*blob)).collect();
    Box::new(move |_| Change { record: Some(record.to_vec()), blobs: blobs.clone() })
}

async fn contract(catalog: Arc<dyn Catalog>) {
    assert_eq!(catalog.read(vec![key(1), key(2)]).await.unwrap(), [None, None]);
    catalog.update(key(1), 10, replace(b"one", &[50, 51])).await.unwrap();
    catalog.update(key(2), 11, replace(b"two", &[50])).await.unwrap();
    catalog
        .update(
            key(3),
            11,
            Box::new(|old| {
                assert_eq!(old, None);
                Change::default()
            }),
        )
        .await
        .unwrap();
    let rows = catalog.read(vec![key(2), key(3), key(1)]).await.unwrap();
    assert_eq!(rows[0].as_ref().map(|row| (&row.record[..], row.last_use_day)), Some((&b"two"[..], 11)));
    assert_eq!((rows[1].is_none(), rows[2].is_some()), (true, true));
    let mut named = catalog.keys_of_blob(key(50)).await.unwrap();
    named.sort_unstable();
    assert_eq!(named, [key(1), key(2)]);
    catalog.update(key(1), 12, replace(b"one again", &[])).await.unwrap();
    assert_eq!(catalog.keys_of_blob(key(51)).await.unwrap(), Vec::<[u8; 32]>::new());

    catalog.touch(vec![(key(1), 20), (key(1), 15), (key(9), 20)]).await.unwrap();
    let page = catalog.scan(None, 1).await.unwrap();
    assert_eq!((page.len(), page[0].0, page[0].1.last_use_day), (1, key(1), 20));
    assert_eq!(catalog.scan(Some(key(1)), 10).await.unwrap().len(), 1);

    catalog.revoke(RevokedKind::Subject, "somebody".into(), 5).await.unwrap();
    catalog.revoke(RevokedKind::Subject, "somebody".into(), 6).await.unwrap();
    catalog.revoke(RevokedKind::Token, "a token".into(), 7).await.unwrap();
    let all = catalog.revocations(0).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].kind, all[0].value.as_str()), (RevokedKind::Subject, "somebody"));
    assert_eq!(catalog.revocations(all[0].sequence).await.unwrap(), all[1..]);
    catalog.audit(1, "take-down".into(), "an asset".into()).await.unwrap();

    assert_eq!(catalog.lease(key(1), 1, 60, 100).await.unwrap(), 60);
    assert_eq!(catalog.lease(key(1), 1, 60, 100).await.unwrap(), 40);
    assert_eq!(catalog.lease(key(1), 1, 60, 100).await.unwrap(), 0);
    assert_eq!(catalog.lease(key(1), 2, 60, 100).await.unwrap(), 60);

    // Whoever comes no more is forgotten with the windows, and nobody else.
    assert_eq!(catalog.lease(key(2), 1, 60, 100).await.unwrap(), 60);
    assert_eq!(catalog.forget_leases(0..2).await.unwrap(), 1);
    assert_eq!(catalog.lease(key(1), 2, 60, 100).await.unwrap(), 40);

    // Removed is what is still as it was, and names nothing.
    catalog.update(key(20), 1, replace(b"old", &[])).await.unwrap();
    catalog.update(key(21), 1, replace(b"changed since", &[])).await.unwrap();
    catalog.update(key(22), 1, replace(b"old", &[60])).await.unwrap();
    let rows = [20, 21, 22, 23].map(|number| (key(number), b"old".to_vec()));
    assert_eq!(catalog.remove(rows.to_vec()).await.unwrap(), 1);
    let left = catalog.read(vec![key(20), key(21), key(22)]).await.unwrap();
    assert_eq!(left.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, true]);

    assert_eq!(catalog.enrolled(key(1)).await.unwrap(), None);
    assert_eq!(catalog.enrol(key(1), b"first".to_vec()).await.unwrap(), b"first");
    assert_eq!(catalog.enrol(key(1), b"second".to_vec()).await.unwrap(), b"first", "the first one stands");
    assert_eq!(catalog.enrolled(key(1)).await.unwrap().unwrap(), b"first");
}

/// Eight writers count in one record; none may overwrite another.
async fn race(catalogs: &[Arc<dyn Catalog>]) {
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let catalog = Arc::clone(&catalogs[number % catalogs.len()]);
        writers.spawn(async move {
            for _ in 0..50 {
                let count = |old: Option<&[u8]>| {
                    let old = old.map_or(0, |old| u32::from_be_bytes(old.try_into().unwrap()));
                    Change { record: Some((old + 1).to_be_bytes().to_vec()), blobs: Vec::new() }
                };
                catalog.update(key(7), 1, Box::new(count)).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let rows = catalogs[0].read(vec![key(7)]).await.unwrap();
    assert_eq!(rows[0].as_ref().unwrap().record, 400u32.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_engine_keeps_the_contract() {
    for place in Place::all() {
        let catalog = place.open().await;
        contract(Arc::clone(&catalog)).await;
        let health = catalog.health().await;
        assert_eq!((health.engine, health.primary, health.standby), (catalog.engine(), true, None));
        assert_eq!(health.waiting, 0);
        drop(catalog);
        let again = place.open().await;
        assert_eq!(again.read(vec![key(2)]).await.unwrap()[0].as_ref().unwrap().record, b"two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_any_writer_is_lost() {
    for place in Place::all() {
        race(&[place.open().await, place.open().await]).await;
    }
}

/// Counts up in a record, as decided from what is there.
fn count_up() -> Decide {
    Box::new(|old| {
        let old = old.map_or(0, |old| u32::from_be_bytes(old.try_into().unwrap()));
        Change { record: Some((old + 1).to_be_bytes().to_vec()), blobs: vec![key(90)] }
    })
}

/// Four nodes open a catalog that is not there yet, at once, and begin to write.
#[tokio::test(flavor = "multi_thread")]
async fn four_may_open_a_new_catalog_at_once_and_write_exactly() {
    const NODES: usize = 4;
    const TASKS: usize = 8;
    const EACH: usize = 200;
    const RECORDS: usize = 5;
    for place in Place::all() {
        let place = Arc::new(place);
        let mut nodes = tokio::task::JoinSet::new();
        for node in 0..NODES {
            let place = Arc::clone(&place);
            nodes.spawn(async move {
                let catalog = place.open().await;
                let mut tasks = tokio::task::JoinSet::new();
                for task in 0..TASKS {
                    let catalog = Arc::clone(&catalog);
                    tasks.spawn(async move {
                        for number in 0..EACH {
                            let record = (node + task + number) % RECORDS;
                            let key = key(u8::try_from(record).unwrap());
                            catalog.update(key, 1, count_up()).await.unwrap();
                        }
                    });
                }
                tasks.join_all().await;
            });
        }
        nodes.join_all().await;
        let catalog = place.open().await;
        let rows = catalog.scan(None, 100).await.unwrap();
        assert_eq!(rows.len(), RECORDS);
        let counted = rows.iter().map(|(_, row)| u32::from_be_bytes(row.record[..].try_into().unwrap()));
        assert_eq!(counted.sum::<u32>() as usize, NODES * TASKS * EACH);
        assert_eq!(catalog.keys_of_blob(key(90)).await.unwrap().len(), RECORDS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_never_go_over_the_limit() {
    const LIMIT: u64 = 1000;
    for place in Place::all() {
        let nodes = [place.open().await, place.open().await, place.open().await];
        let mut takers = tokio::task::JoinSet::new();
        for taker in 0..12 {
            let catalog = Arc::clone(&nodes[taker % nodes.len()]);
            takers.spawn(async move {
                let mut given = 0;
                for _ in 0..20 {
                    given += catalog.lease(key(1), 7, 9, LIMIT).await.unwrap();
                }
                given
            });
        }
        // 12 × 20 × 9 were asked for.
        assert_eq!(takers.join_all().await.into_iter().sum::<u64>(), LIMIT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_sees_every_row_once_in_order() {
    for place in Place::all() {
        let catalog = place.open().await;
        let mut expected = Vec::new();
        for number in 0..53u8 {
            // Above and below 128, and equal at the front.
            let mut key = key(if number % 2 == 0 { 200 } else { 3 });
            key[31] = number.wrapping_mul(37);
            catalog.update(key, u32::from(number), replace(b"x", &[])).await.unwrap();
            expected.push(key);
        }
        expected.sort_unstable();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = catalog.scan(after, 10).await.unwrap();
            assert!(page.len() <= 10);
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            seen.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(seen, expected);
    }
}

/// Whoever reads on from the last number seen never misses one: none appears below it later.
#[tokio::test(flavor = "multi_thread")]
async fn revocations_appear_in_their_order() {
    const EACH: usize = 40;
    for place in Place::all() {
        let nodes = [place.open().await, place.open().await];
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..6 {
            let catalog = Arc::clone(&nodes[writer % nodes.len()]);
            writers.spawn(async move {
                for number in 0..EACH {
                    let name = format!("{writer} {number}");
                    catalog.revoke(RevokedKind::Token, name, 1).await.unwrap();
                }
            });
        }
        let (mut seen, mut after) = (0, 0);
        loop {
            let all_written = writers.is_empty();
            for revocation in nodes[0].revocations(after).await.unwrap() {
                assert!(revocation.sequence > after);
                (after, seen) = (revocation.sequence, seen + 1);
            }
            if all_written {
                break;
            }
            while let Some(ended) = writers.try_join_next() {
                ended.unwrap();
            }
        }
        assert_eq!(seen, 6 * EACH);
    }
}

/// Two nodes note the use of the same records in opposite order, while others change them.
#[tokio::test(flavor = "multi_thread")]
async fn notes_of_use_and_changes_do_not_hinder_each_other() {
    for place in Place::all() {
        let nodes = [place.open().await, place.open().await];
        for number in 0..40 {
            nodes[0].update(key(number), 1, count_up()).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        for (at, catalog) in nodes.iter().enumerate() {
            for day in 2..12u32 {
                let catalog = Arc::clone(catalog);
                tasks.spawn(async move {
                    let mut uses: Vec<_> = (0..40).map(|number| (key(number), day)).collect();
                    if at == 0 {
                        uses.reverse();
                    }
                    catalog.touch(uses).await.unwrap();
                    catalog.update(key(u8::try_from(day).unwrap()), 1, count_up()).await.unwrap();
                });
            }
        }
        tasks.join_all().await;
        for (key, row) in nodes[1].scan(None, 100).await.unwrap() {
            let changes = if (2..12).contains(&key[0]) { 3 } else { 1 };
            assert_eq!((row.last_use_day, row.record), (11, u32::to_be_bytes(changes).to_vec()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_postgres_catalog_is_left_alone() {
    let Some(server) = Server::shared() else { return };
    let database = server.database();
    drop(PostgresCatalog::open(&server.url(&database)).await.unwrap());
    server.sql(&database, "update rezcache.catalog_version set version = 99");
    let newer = PostgresCatalog::open(&server.url(&database)).await;
    assert!(matches!(newer, Err(CatalogError::Version { found: 99, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_verified_by_its_certificate_and_its_password_is_told_nobody() {
    let Some(server) = Server::shared() else { return };
    server.sql("postgres", "create role locked login password 'hunter2'");
    server.sql("postgres", "create database locked owner locked");
    let (port, authority) = (server.port(), server.authority());
    let address = |password: &str, query: &str| {
        format!("postgres://locked:{password}@localhost:{port}/locked?sslmode=verify-full{query}")
    };
    let authority = format!("&sslrootcert={}", authority.display());
    PostgresCatalog::open(&address("hunter2", &authority)).await.unwrap().health().await;
    let encrypted = "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) \
                     where ssl and datname = 'locked'";
    let catalog = PostgresCatalog::open(&address("hunter2", &authority)).await.unwrap();
    assert_ne!(server.sql("postgres", encrypted), "0");
    drop(catalog);
    let told = |answer: Result<PostgresCatalog, CatalogError>| {
        let error = answer.err().expect("it is refused");
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter"), "{text}");
        text
    };
    let wrong = told(PostgresCatalog::open(&address("hunter3", &authority)).await);
    assert!(wrong.contains("28P01"), "{wrong}");
    let unknown = told(PostgresCatalog::open(&address("hunter2", "")).await);
    assert!(unknown.contains("UnknownIssuer") || unknown.contains("certificate"), "{unknown}");
    // Nor does the program tell, asked to say all it can.
    let folder = tempfile::tempdir().unwrap();
    let wrong = address("hunter3", &authority);
    let data = folder.path().to_str().unwrap();
    let arguments =
        ["serve", "-v", "-v", "--listen", "127.0.0.1:0", "--store", "memory:", "--data-dir", data];
    let run = rezcache(&[&arguments[..], &["--catalog", &wrong]].concat());
    assert!(run.code == 1 && run.err.contains("28P01"), "{run:?}");
    assert!(!run.err.contains("hunter3") && !run.out.contains("hunter3"), "{run:?}");
    let run = rezcache(&[
        "serve",
        "--data-dir",
        data,
        "--catalog",
        "postgres://me:hunter3@db.example/x?sslmode=allow",
    ]);
    assert!(run.code == 2 && run.err.contains("sslmode") && !run.err.contains("hunter3"), "{run:?}");
}
