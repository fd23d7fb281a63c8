//! What is SQLite's own; what every engine must do is in `tests/it/catalog_contract.rs`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::{Catalog, CatalogError, SqliteCatalog};

fn key(number: u8) -> [u8; 32] {
    [number; 32]
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
