//! A disk that takes nothing: the proxy serves as without a store, and counts what it could not keep.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::client::Connection;
use crate::support::process::ProxyProcess;
use crate::support::synthetic::{Host, Synthetic};

/// Some 4 MB, of which the memory tier holds everything.
fn assets() -> Vec<Synthetic> {
    (0..40).map(|n| Synthetic::new(1, n, 100_000)).collect()
}

async fn serves_everything(proxy: &ProxyProcess, assets: &[Synthetic], tier: &str) {
    let mut connection = Connection::open(proxy.at).await;
    for asset in assets {
        let answer = connection.get(&format!("{}{}", proxy.assets, asset.query), &[]).await;
        asset.check(&answer);
        assert_eq!((answer.status, answer.broken, answer.tier()), (200, false, tier), "{}", asset.query);
    }
}

/// Serves from the grid, then from memory, and says that the disk took too little.
async fn goes_on(proxy: &ProxyProcess, assets: &[Synthetic]) {
    serves_everything(proxy, assets, "miss").await;
    proxy.until("/store/write_failures", 1).await;
    serves_everything(proxy, assets, "hit; tier=memory").await;
}

fn data_dir(folder: &Path) -> std::path::PathBuf {
    let data = folder.join("data");
    std::fs::create_dir(&data).unwrap();
    data
}

/// A shell that mounts a small file system over its first argument, seen by nobody else, and becomes
/// the program in the others.
const ON_A_SMALL_DISK: [&str; 5] =
    ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m none \"$0\" && exec \"$@\""];

fn can_mount(at: &Path) -> bool {
    let [program, arguments @ ..] = ON_A_SMALL_DISK;
    let run = Command::new(program).args(arguments).arg(at).arg("true").stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

#[expect(clippy::print_stdout, reason = "a test that proves nothing must say so")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_is_counted_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let store = data.join("assets");
    std::fs::create_dir(&store).unwrap();
    if !can_mount(&store) {
        println!("no file system can be mounted here; the file-size limit is tested in its place");
        return;
    }
    let (assets, wrapper) = (assets(), [&ON_A_SMALL_DISK[..], &[store.to_str().unwrap()]].concat());
    let host = Host::start(&assets, 1).await;
    let proxy = ProxyProcess::start(&wrapper, &data, &host.url());
    goes_on(&proxy, &assets).await;
    let stored = proxy.status().await["store"]["bytes"].as_u64().unwrap();
    assert!(stored <= 1 << 20, "{stored} bytes on a disk of a megabyte");
    assert_eq!(proxy.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_grow_are_counted_and_harm_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let (assets, small) = (assets(), Synthetic::new(1, 41, 500));
    let host = Host::start(&[&assets[..], std::slice::from_ref(&small)].concat(), 1).await;
    // The signal that comes with the limit would end the program; without it the write fails.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""];
    let proxy = ProxyProcess::start(&limited, &data, &host.url());
    serves_everything(&proxy, std::slice::from_ref(&small), "miss").await;
    proxy.until("/store/objects", 1).await;
    goes_on(&proxy, &assets).await;
    proxy.kill();

    // What fitted is kept; nothing half-written is taken for an asset.
    let proxy = ProxyProcess::start(&[], &data, &host.url());
    serves_everything(&proxy, std::slice::from_ref(&small), "hit; tier=disk").await;
    serves_everything(&proxy, &assets, "miss").await;
    assert_eq!(proxy.status().await["counters"]["store_corrupt"], 0);
    assert_eq!(proxy.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_becomes_unwritable_is_counted_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let assets = assets();
    let host = Host::start(&assets, 1).await;
    let proxy = ProxyProcess::start(&[], &data, &host.url());
    // Permissions would not stop a test that runs as root.
    std::fs::remove_dir_all(data.join("assets")).unwrap();
    std::fs::write(data.join("assets"), "in the way").unwrap();
    goes_on(&proxy, &assets).await;
    assert_eq!(proxy.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_opened_is_counted_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    std::fs::write(data.join("assets"), "in the way").unwrap();
    let assets = assets();
    let host = Host::start(&assets, 1).await;
    let proxy = ProxyProcess::start(&[], &data, &host.url());
    goes_on(&proxy, &assets).await;
    assert_eq!(std::fs::read(data.join("assets")).unwrap(), b"in the way");
    assert_eq!(proxy.terminate(), Some(0));
}
