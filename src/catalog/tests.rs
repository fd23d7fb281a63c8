//! What every engine must do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use std::sync::Arc;

use super::{Catalog, CatalogError, Change, RevokedKind, SqliteCatalog};

fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

fn replace(record: &'static [u8], blobs: &[u8]) -> super::Decide {
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
async fn sqlite_keeps_the_contract() {
    contract(Arc::new(SqliteCatalog::in_memory().unwrap())).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/catalog.sqlite");
    contract(Arc::new(SqliteCatalog::open(&path).unwrap())).await;
    let again = SqliteCatalog::open(&path).unwrap();
    assert_eq!(again.read(vec![key(2)]).await.unwrap()[0].as_ref().unwrap().record, b"two");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_loses_no_change_of_any_writer() {
    race(&[Arc::new(SqliteCatalog::in_memory().unwrap())]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let open = || Arc::new(SqliteCatalog::open(&path).unwrap()) as Arc<dyn Catalog>;
    race(&[open(), open()]).await;
}

#[test]
fn four_may_open_a_new_catalog_at_once() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.sqlite");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| SqliteCatalog::open(&path).unwrap());
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_of_version_1_is_brought_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(include_str!("sqlite.sql")).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection.execute("insert into asset values (?1, x'01', 5)", [&key(1)[..]]).unwrap();
    drop(connection);
    let catalog = SqliteCatalog::open(&path).unwrap();
    assert_eq!(catalog.read(vec![key(1)]).await.unwrap()[0].as_ref().unwrap().record, [1]);
    assert_eq!(catalog.enrol(key(1), vec![2]).await.unwrap(), [2]);
}

#[test]
fn a_newer_catalog_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(SqliteCatalog::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteCatalog::open(&path), Err(CatalogError::Version { found: 99, .. })));
}
