//! The assets that are read, and the two servers as processes of their own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rezcache::asset::{AssetId, AssetKey, AssetKind};
use rezcache::grid::{GridId, Origin};
use rezcache::wire::OriginHash;
use serde_json::Value;
use uuid::Uuid;

/// How many assets of which size; 88 kB each in the mean, one of a hundred above 1 MiB.
const SIZES: [(usize, usize); 5] = [(40, 10_000), (30, 40_000), (20, 120_000), (9, 340_000), (1, 1_700_000)];

/// An asset as the node knows it.
pub(crate) struct Asset {
    pub(crate) key: AssetKey,
    pub(crate) bytes: Bytes,
}

pub(crate) fn origin() -> OriginHash {
    OriginHash::of(&GridId::new("grid.example"), &Origin::new("sim.example"))
}

/// The same assets in every process, large ones among small ones.
pub(crate) fn assets() -> Vec<Asset> {
    let captured = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/assets/82e34bc0-3a7b-5407-ad08-9bc0b2b3b08b.texture");
    let captured = std::fs::read(captured).unwrap();
    let tile = captured.windows(2).position(|marker| marker == [0xFF, 0x90]).unwrap();
    let sizes: Vec<usize> =
        SIZES.iter().flat_map(|(number, size)| std::iter::repeat_n(*size, *number)).collect();
    let made = (0..sizes.len()).map(|n| {
        let id = n as u128 + 1;
        // 37 has no divisor in common with 100: every place comes once.
        let noise = sizes[n * 37 % sizes.len()].saturating_sub(captured.len());
        Asset {
            key: AssetKey {
                grid: GridId::new("grid.example"),
                kind: AssetKind::Texture,
                id: AssetId(Uuid::from_u128(id)),
            },
            bytes: texture(&captured, tile, n, noise).into(),
        }
    });
    made.collect()
}

/// A captured texture with comment segments of noise in its main header.
fn texture(captured: &[u8], tile: usize, number: usize, noise: usize) -> Vec<u8> {
    let mut bytes = vec![0; noise];
    blake3::Hasher::new().update(&number.to_be_bytes()).finalize_xof().fill(&mut bytes);
    let mut made = captured[..tile].to_vec();
    for comment in bytes.chunks(60_000) {
        made.extend([0xFF, 0x64]);
        made.extend(u16::try_from(comment.len() + 4).unwrap().to_be_bytes());
        made.extend([0, 0]);
        made.extend(comment);
    }
    made.extend(&captured[tile..]);
    made
}

/// A server; killed when dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
    /// Of its key; a node's only.
    pub(crate) pin: Option<String>,
}

impl Server {
    /// A node with an empty store in this folder.
    pub(crate) fn node(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rezcache"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"]).arg(folder);
        Self::start(command)
    }

    /// This program once more, with this argument.
    pub(crate) fn own(argument: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(argument);
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the server says where it listens");
        let address = ready["listening"].as_str().unwrap().parse().unwrap();
        Self { process, address, pin: ready["pin"].as_str().map(str::to_owned) }
    }

    /// Processor time that the server has used.
    pub(crate) fn processor(&self) -> Option<Duration> {
        processor(&self.process.id().to_string())
    }
}

/// Processor time that a process has used, in user and kernel; `None` where the system does not tell as
/// Linux does.
pub(crate) fn processor(process: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // A tick is 10 ms on every Linux that there is.
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says where a server of this program listens.
pub(crate) fn ready(address: SocketAddr) {
    println!("{}", serde_json::json!({ "listening": address.to_string() }));
    std::io::stdout().flush().unwrap();
}
