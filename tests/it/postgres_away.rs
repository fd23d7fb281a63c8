//! The catalog's servers, gone in all the ways that servers go: refusing, silent, restarted, with their
//! connections cut.

use std::sync::Arc;

use rezcache::catalog::{Catalog as _, CatalogError, Change, Decide, PostgresCatalog};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::postgres::Server;
use crate::support::within;

/// Passes connections on to a server, until it falls silent: then nothing comes through, and nobody is told.
struct Relay {
    address: String,
    silent: watch::Sender<bool>,
}

impl Relay {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, to) = (listener.local_addr().unwrap().to_string(), server.address());
        let (silent, silence) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (to, mut silence) = (to.clone(), silence.clone());
                tokio::spawn(async move {
                    let _ = silence.wait_for(|silent| !silent).await;
                    let far = TcpStream::connect(to).await.unwrap();
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(pass(near_in, far_out, silence.clone()), pass(far_in, near_out, silence));
                });
            }
        });
        Self { address, silent }
    }
}

async fn pass(
    from: tokio::net::tcp::OwnedReadHalf,
    to: tokio::net::tcp::OwnedWriteHalf,
    mut silence: watch::Receiver<bool>,
) {
    use tokio::io::AsyncWriteExt as _;
    let (from, mut to, mut buffer) = (from, to, vec![0; 65_536]);
    loop {
        if from.readable().await.is_err() || silence.wait_for(|silent| !silent).await.is_err() {
            return;
        }
        match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if to.write_all(&buffer[..length]).await.is_err() => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

fn put(number: u8) -> Decide {
    Box::new(move |_| Change { record: Some(vec![number]), blobs: Vec::new() })
}

async fn record(catalog: &PostgresCatalog, number: u8) -> Result<Option<Vec<u8>>, CatalogError> {
    let rows = within(catalog.read(vec![key(number)])).await?;
    Ok(rows.into_iter().next().flatten().map(|row| row.record))
}

async fn caught_up(server: &Server, standby: &Server) {
    let at = server.sql("postgres", "select pg_current_wal_lsn()");
    let caught_up = format!("select pg_last_wal_replay_lsn() >= '{at}'::pg_lsn");
    while standby.sql("postgres", &caught_up) != "t" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Until the primary takes writes again.
async fn write_when_back(catalog: &PostgresCatalog, number: u8) {
    within(async {
        while catalog.update(key(number), 1, put(number)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_falls_silent_holds_nobody_up_for_long() {
    let Some(server) = Server::start() else { return };
    let database = server.database();
    let standby = server.standby();
    let relay = Relay::start(&server).await;
    let alone = format!("postgres://postgres@{}/{database}", relay.address);
    let both = format!("postgres://postgres@{},{}/{database}", relay.address, standby.address());
    let alone = PostgresCatalog::open(&alone).await.unwrap();
    let both = Arc::new(PostgresCatalog::open(&both).await.unwrap());
    both.update(key(1), 1, put(1)).await.unwrap();
    assert_eq!(record(&alone, 1).await.unwrap(), Some(vec![1]));
    caught_up(&server, &standby).await;

    relay.silent.send_replace(true);
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let both = Arc::clone(&both);
        readers.spawn(async move {
            for _ in 0..50 {
                assert_eq!(record(&both, 1).await.unwrap(), Some(vec![1]));
            }
        });
    }
    within(readers.join_all()).await;
    // The standby may be behind: what is destroyed is not decided by it.
    assert!(matches!(within(both.keys_of_blob(key(50))).await, Err(CatalogError::Unavailable(_))));
    assert!(matches!(within(both.update(key(1), 1, put(2))).await, Err(CatalogError::Unavailable(_))));
    let health = within(both.health()).await;
    assert_eq!((health.primary, health.standby, health.waiting), (false, Some(true), 0));
    within(async {
        for _ in 0..50 {
            assert!(matches!(record(&alone, 1).await, Err(CatalogError::Unavailable(_))));
        }
    })
    .await;

    relay.silent.send_replace(false);
    write_when_back(&both, 3).await;
    write_when_back(&alone, 4).await;
    for catalog in [&alone, &both] {
        for number in [1, 3, 4] {
            assert_eq!(record(catalog, number).await.unwrap(), Some(vec![number]));
        }
    }
    let health = within(both.health()).await;
    assert_eq!((health.primary, health.standby), (true, Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_are_made_anew_before_anybody_notices() {
    let Some(server) = Server::start() else { return };
    let database = server.database();
    let catalog = PostgresCatalog::open(&server.url(&database)).await.unwrap();
    for number in 1..20 {
        // An administrator ends every connection, those that lie in the pool included.
        let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'rezcache'";
        assert_ne!(server.sql("postgres", cut), "0");
        if number % 2 == 0 {
            catalog.update(key(number), 1, put(number)).await.unwrap();
        }
        let expected = (number % 2 == 0).then(|| vec![number]);
        assert_eq!(record(&catalog, number).await.unwrap(), expected);
    }
    server.stop();
    assert!(matches!(record(&catalog, 2).await, Err(CatalogError::Unavailable(_))));
    assert!(matches!(catalog.update(key(2), 1, put(9)).await, Err(CatalogError::Unavailable(_))));
    let nowhere = PostgresCatalog::open(&server.url(&database)).await.err().unwrap();
    assert!(matches!(&nowhere, CatalogError::Unavailable(told) if told.contains("refused")), "{nowhere}");
    server.resume();
    write_when_back(&catalog, 30).await;
    assert_eq!(record(&catalog, 2).await.unwrap(), Some(vec![2]));
    // A database that is not there is no matter of waiting.
    let missing = PostgresCatalog::open(&server.url("nothing")).await.err().unwrap();
    assert!(matches!(&missing, CatalogError::Failed(told) if told.contains("3D000")), "{missing}");
}
