//! The bare thing that HTTP benches compare with, and the origin behind them: a socket server that
//! writes the same bytes, head and body in one write, and does nothing else.
//!
//! `bare_server --assets DIR [--listen 127.0.0.1:0] [--delay-us N] [--rate-mbit N]`. With a rate, all
//! connections together send no faster, as over one line. DIR is what
//! `tests/interop/capture_assets.py --write DIR` makes: one file per asset, named by its UUID.
//! Unknown UUIDs get one of the textures, so that misses can be made at will. Prints its address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Asset {
    content_type: &'static str,
    body: Vec<u8>,
}

struct Assets {
    by_id: HashMap<[u8; 36], Asset>,
    textures: Vec<[u8; 36]>,
}

impl Assets {
    fn read(folder: &std::path::Path) -> Self {
        let mut by_id = HashMap::new();
        for entry in std::fs::read_dir(folder).expect("the folder of assets") {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Ok(id) = <[u8; 36]>::try_from(name.as_bytes()) else {
                continue;
            };
            let body = std::fs::read(&path).unwrap();
            let content_type = match body.get(..4) {
                Some([0xFF, 0x4F, 0xFF, 0x51]) => "image/x-j2c",
                Some(b"OggS") => "audio/ogg",
                Some([1, 0, 0, 0]) => "application/vnd.ll.animation",
                _ => "application/vnd.ll.mesh",
            };
            by_id.insert(id, Asset { content_type, body });
        }
        let mut textures: Vec<_> = by_id
            .iter()
            .filter(|(_, asset)| asset.content_type == "image/x-j2c")
            .map(|(id, _)| *id)
            .collect();
        textures.sort_unstable();
        assert!(!textures.is_empty(), "no texture in {}", folder.display());
        Self { by_id, textures }
    }

    fn get(&self, id: [u8; 36]) -> &Asset {
        self.by_id.get(&id).unwrap_or_else(|| {
            let sum: usize = id.iter().map(|byte| usize::from(*byte)).sum();
            &self.by_id[&self.textures[sum % self.textures.len()]]
        })
    }
}

/// First and last byte of `Range: bytes=a-b`, clamped; the whole asset otherwise.
fn range(head: &[u8], length: usize) -> Option<(usize, usize)> {
    const NAME: &[u8] = b"\r\nRange: bytes=";
    let at = head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME))?;
    let line = &head[at + NAME.len()..];
    let end = line.iter().position(|byte| *byte == b'\r')?;
    let (first, last) = std::str::from_utf8(&line[..end]).ok()?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().unwrap_or(length - 1).min(length - 1);
    (first <= last).then_some((first, last))
}

/// A line that all connections share.
struct Line {
    bits_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Line {
    /// Waits for this many bytes' turn.
    async fn take(&self, bytes: usize) {
        let now = Instant::now();
        let turn = {
            let mut free_at = self.free_at.lock().unwrap();
            let turn = (*free_at).max(now);
            #[allow(clippy::cast_precision_loss, reason = "a chunk is small")]
            let seconds = bytes as f64 * 8.0 / self.bits_per_second;
            *free_at = turn + Duration::from_secs_f64(seconds);
            turn
        };
        // The timer knows milliseconds; what is due sooner may go.
        if turn > now + Duration::from_millis(1) {
            tokio::time::sleep_until(turn.into()).await;
        }
    }
}

async fn serve(mut stream: TcpStream, assets: Arc<Assets>, delay: Duration, line: Option<Arc<Line>>) {
    stream.set_nodelay(true).unwrap();
    let mut held = Vec::with_capacity(8192);
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if held.len() > 65_536 || !matches!(stream.read_buf(&mut held).await, Ok(1..)) {
                return;
            }
        };
        let head = &held[..end];
        let id = head
            .windows(4)
            .position(|window| window == b"_id=")
            .and_then(|at| <[u8; 36]>::try_from(head.get(at + 4..at + 40)?).ok());
        let Some(id) = id else {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
            held.drain(..end);
            continue;
        };
        let asset = assets.get(id);
        let length = asset.body.len();
        let (answer, body) = match range(head, length) {
            Some((first, last)) => (
                format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Type: {}\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{length}\r\n\r\n",
                    asset.content_type,
                    last - first + 1
                ),
                &asset.body[first..=last],
            ),
            None => (
                format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\r\n",
                    asset.content_type
                ),
                &asset.body[..],
            ),
        };
        held.drain(..end);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(line) = &line {
            let whole = [answer.as_bytes(), body].concat();
            for chunk in whole.chunks(16 << 10) {
                line.take(chunk.len()).await;
                if stream.write_all(chunk).await.is_err() {
                    return;
                }
            }
            continue;
        }
        let both = [IoSlice::new(answer.as_bytes()), IoSlice::new(body)];
        let Ok(written) = stream.write_vectored(&both).await else {
            return;
        };
        let (head_left, body_from) =
            (answer.as_bytes().get(written..).unwrap_or_default(), written.saturating_sub(answer.len()));
        if stream.write_all(head_left).await.is_err() || stream.write_all(&body[body_from..]).await.is_err() {
            return;
        }
    }
}

#[tokio::main]
async fn main() {
    let mut folder = None;
    let mut listen = "127.0.0.1:0".to_owned();
    let mut delay = Duration::ZERO;
    let mut line = None;
    let mut arguments = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        match name.as_str() {
            "--assets" => folder = Some(value),
            "--listen" => listen = value,
            "--rate-mbit" => {
                let bits_per_second = value.parse::<f64>().expect("megabits per second") * 1e6;
                line = Some(Arc::new(Line { bits_per_second, free_at: Mutex::new(Instant::now()) }));
            }
            "--delay-us" => delay = Duration::from_micros(value.parse().expect("microseconds")),
            other => panic!("unknown option {other}"),
        }
    }
    let folder = folder.expect("--assets DIR");
    let assets = Arc::new(Assets::read(folder.as_ref()));
    let listener = TcpListener::bind(&listen).await.expect("--listen");
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(stream, Arc::clone(&assets), delay, line.clone()));
    }
}
