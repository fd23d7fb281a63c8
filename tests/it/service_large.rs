//! Large contents through a real node: read in parts, sent piece by piece, received to a file, and kept on
//! the node's disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use rezcache::asset::{AssetKind, Digest};
use rezcache::client::{CallError, ServiceClient};
use rezcache::node::{Node, NodeConfig};
use rezcache::wire::frame::{Codec, Verdict};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::service::{GRID, client, client_at, config, key, origin, read, share, tcp_only, texture};
use crate::support::within;

const SIZE: usize = 12_000_000;

async fn curl(arguments: Vec<String>) -> Vec<u8> {
    let run = move || Command::new("curl").args(["-sSk"]).args(arguments).output().unwrap();
    tokio::task::spawn_blocking(run).await.unwrap().stdout
}

async fn counter(node: &Node, name: &str) -> u64 {
    let url = format!("https://{}/v1/node", node.address());
    let report: Value = serde_json::from_slice(&curl(vec![url]).await).unwrap();
    report["counters"][name].as_u64().unwrap()
}

/// The files of sealed blobs under a folder.
fn blobs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(blobs(&entry));
        } else if entry.metadata().unwrap().len() > 0 {
            found.push(entry);
        }
    }
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_large_content_only_what_is_wanted_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, name) = (texture(1, SIZE), key(AssetKind::Texture, 1));
    let node = Node::start(config(folder.path())).await.unwrap();
    assert_eq!(share(&client(&node), &name, &bytes).await, Verdict::Published);
    node.stop().await;

    let node = Node::start(config(folder.path())).await.unwrap();
    let quic = client(&node);
    let (first, part) = read(&quic, &name, Some((5_000_000, 5_000_100))).await.unwrap();
    let start = usize::try_from(first).unwrap();
    assert!(start <= 5_000_000 && start + part.len() >= 5_000_100 && part.len() <= 2 * 65_536);
    assert_eq!(part, bytes[start..][..part.len()]);
    // The head with its group values, and the one piece around the range.
    let fetched = counter(&node, "store_bytes_in").await;
    assert!(fetched < 1_100_000, "{fetched} bytes for a range");
    let url = format!("https://{}/v1/grids/{GRID}/assets/texture/{}", node.address(), name.id.0);
    let named = format!("rezcache-origin: {}", origin().unwrap());
    let ranged = |range: &str| curl(["-H", &named, "-r", range, &url].map(str::to_owned).to_vec());
    assert!(ranged("5000000-5000099").await == bytes[5_000_000..5_000_100]);
    assert_eq!(counter(&node, "store_bytes_in").await, fetched, "in memory by now");
    assert!(ranged("1048570-3145740").await == bytes[1_048_570..=3_145_740], "over pieces");
    assert!(ranged("-70000").await == bytes, "viewers never ask from the end; it is answered whole");
    assert!(curl(["-H", &named, &url].map(str::to_owned).to_vec()).await == bytes);
    let blocked = client_at(tcp_only(node.address()).await, node.pin().unwrap());
    for client in [&quic, &blocked] {
        assert!(read(client, &name, None).await.unwrap().1 == bytes);
    }
    // Each piece came from the store once, however many asked.
    let fetched = counter(&node, "store_bytes_in").await;
    assert!(fetched < bytes.len() as u64 + 100_000, "{fetched} bytes for all");
    // A proof of possession is checked against all of it, and another's bytes are none.
    assert_eq!(share(&quic, &name, &bytes).await, Verdict::Known);
    let heard = quic.attest(&name, origin(), Digest::of(&bytes), b"not the bytes").await;
    assert!(matches!(heard, Err(CallError::Refused { status: 422, .. })), "{heard:?}");
    node.stop().await;

    // A flipped bit ends what is being sent, and touches nothing that does not need it.
    let blob = blobs(&folder.path().join("store/blobs")).pop().unwrap();
    flip(&blob, 6_000_000);
    let node = Node::start(config(folder.path())).await.unwrap();
    let quic = client(&node);
    assert!(read(&quic, &name, Some((1_000_000, 2_000_000))).await.is_some());
    let mut body = quic.read(&name, origin(), None).await.unwrap().unwrap();
    let mut got = Vec::new();
    let ended = loop {
        match body.next().await {
            Ok(Some(part)) => got.extend_from_slice(&part),
            ended => break ended,
        }
    };
    assert_eq!(ended, Err(CallError::Unreachable));
    assert!(got.len() < 6_000_000 && got == bytes[..got.len()], "{}", got.len());
    assert_eq!(counter(&node, "blobs_damaged").await, 1);
    // Another node heals it by writing the content anew: chunks of another seal than the head in memory.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join("store.key"), other.path().join("store.key")).unwrap();
    let elsewhere = Node::start(config(other.path())).await.unwrap();
    share(&client(&elsewhere), &name, &bytes).await;
    elsewhere.stop().await;
    std::fs::copy(blobs(&other.path().join("store/blobs")).pop().unwrap(), &blob).unwrap();
    assert!(read(&quic, &name, None).await.unwrap().1 == bytes);
    assert!(counter(&node, "heads_renewed").await >= 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_tier_survives_and_never_serves_wrong_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let with = || NodeConfig {
        hot_dir: Some(folder.path().join("hot")),
        hot_bytes: 100 << 20,
        ..config(folder.path())
    };
    let (large, small) = (texture(1, SIZE), texture(2, 20_000));
    let names = [(key(AssetKind::Texture, 1), large), (key(AssetKind::Texture, 2), small)];
    let node = Node::start(with()).await.unwrap();
    for (name, bytes) in &names {
        share(&client(&node), name, bytes).await;
    }
    let taken = Node::start(with()).await.err().unwrap().to_string();
    assert!(taken.contains("--hot-dir"), "{taken}");
    node.stop().await;
    let all = |client: ServiceClient| {
        let names = &names;
        async move {
            for (name, bytes) in names {
                assert!(read(&client, name, None).await.unwrap().1 == *bytes);
            }
        }
    };
    let node = Node::start(with()).await.unwrap();
    all(client(&node)).await;
    node.stop().await;

    // The store is far away and gone; the disk has all.
    let away = folder.path().join("away");
    std::fs::rename(folder.path().join("store/blobs"), &away).unwrap();
    let node = Node::start(with()).await.unwrap();
    all(client(&node)).await;
    assert_eq!((counter(&node, "store_bytes_in").await, counter(&node, "disk_damaged").await), (0, 0));
    node.stop().await;
    std::fs::rename(&away, folder.path().join("store/blobs")).unwrap();

    // Damaged files are counted, and what they held is fetched again.
    for file in blobs(&folder.path().join("hot")) {
        flip(&file, 150);
    }
    let node = Node::start(with()).await.unwrap();
    all(client(&node)).await;
    assert_eq!(counter(&node, "disk_damaged").await, 2, "one of each blob; its other pieces go with it");
    assert_eq!(counter(&node, "blobs_damaged").await, 0);
    // Taken down, it is gone from the disk too.
    let url = format!("https://{}/v1/grids/{GRID}/assets/texture/{}", node.address(), names[0].0.id.0);
    curl(["-X", "DELETE", &url].map(str::to_owned).to_vec()).await;
    assert_eq!(blobs(&folder.path().join("hot")).len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_cannot_hold_all_uploads_and_who_is_gone_holds_none() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(NodeConfig { plain_http: true, ..config(folder.path()) }).await.unwrap();
    let bytes = texture(1, 2_000_000);
    let begin = || async {
        let mut stream = TcpStream::connect(node.address()).await.unwrap();
        let name = key(AssetKind::Texture, 1);
        let head = format!(
            "PUT /v1/grids/{GRID}/assets/texture/{} HTTP/1.1\r\nHost: {}\r\nRezcache-Digest: {}\r\nContent-Length: {}\r\n\r\n",
            name.id.0,
            node.address(),
            rezcache::wire::DigestText(Digest::of(&bytes)),
            bytes.len(),
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&bytes[..100]).await.unwrap();
        stream
    };
    // Each stands still after a hundred bytes, until one is refused.
    let mut held = Vec::new();
    let refused = within(async {
        loop {
            let mut stream = begin().await;
            let mut answer = [0; 12];
            let answered =
                tokio::time::timeout(std::time::Duration::from_millis(300), stream.read_exact(&mut answer));
            match answered.await {
                Ok(_) => break answer,
                Err(_) => held.push(stream),
            }
        }
    })
    .await;
    assert_eq!(&refused, b"HTTP/1.1 503");
    assert_eq!(held.len(), 8, "a quarter of what all may hold");
    let client = ServiceClient::new(format!("http://{}", node.address()).parse().unwrap(), None).unwrap();
    let small = texture(2, 9000);
    // Large ones go to the disk, which has room of its own.
    let large = texture(3, 5_000_000);
    let put = |number, bytes: &Bytes| {
        let (client, bytes) = (&client, bytes.clone());
        async move {
            let name = key(AssetKind::Texture, number);
            client.put(&name, origin(), Digest::of(&bytes), Codec::Raw, bytes).await
        }
    };
    assert_eq!(put(3, &large).await.unwrap(), Verdict::Published);
    drop(held);
    within(async {
        while put(1, &bytes).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(put(2, &small).await.unwrap(), Verdict::Published);
    if std::env::var_os("REZCACHE_LONG").is_some() {
        // Who stands still is told so, and given up.
        let mut stream = begin().await;
        let mut answer = Vec::new();
        within(async { stream.read_buf(&mut answer).await.unwrap() }).await;
        assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    }
    drop(client);
    node.stop().await;
}
