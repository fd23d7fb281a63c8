//! Assets made from a seed: valid, of any size, and known to the byte by who knows the seed.

use std::sync::{Arc, Mutex};

use super::fake_grid::{Asked, FakeGrid, Reply};
use super::{asset_reply, client::Answer, find, texture};

/// A small generator of random numbers (SplitMix64), the same for the same seed.
#[derive(Clone)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Synthetic {
    /// What a viewer appends to the asset URL.
    pub(crate) query: String,
    pub(crate) bytes: Arc<Vec<u8>>,
}

impl Synthetic {
    /// Asset number `n` of a world, of about `size` bytes: texture, sound or material by `n`.
    pub(crate) fn new(world: u64, n: usize, size: usize) -> Self {
        let mut noise = vec![0; size];
        let name = format!("{world} {n}");
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut noise);
        let id = uuid::Uuid::from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]).unwrap();
        let (kind, bytes) = match n % 8 {
            6 => ("sound_id", clip(&noise)),
            7 => ("material_id", material(&noise)),
            _ => ("texture_id", codestream(&noise)),
        };
        Self { query: format!("/?{kind}={id}"), bytes: Arc::new(bytes) }
    }

    /// Whether an answer is right, whole or in part; a broken one must be right as far as it goes.
    pub(crate) fn check(&self, answer: &Answer) {
        let expected = match answer.status {
            200 => &self.bytes[..],
            206 => {
                let range = answer.header("content-range").unwrap();
                let (part, total) = range.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
                let (first, last) = part.split_once('-').unwrap();
                assert_eq!(total, self.bytes.len().to_string());
                &self.bytes[first.parse().unwrap()..=last.parse().unwrap()]
            }
            other => panic!("status {other}: {}", answer.text()),
        };
        assert_eq!(answer.header("content-length").unwrap(), expected.len().to_string(), "{}", self.query);
        // Not assert_eq: nobody wants to read both.
        let right = if answer.broken { expected.starts_with(&answer.body) } else { expected == answer.body };
        assert!(right, "wrong bytes for {} from {}", self.query, answer.tier());
    }
}

/// A captured texture with comment segments of noise in its main header.
fn codestream(noise: &[u8]) -> Vec<u8> {
    let base = texture().bytes;
    let tile = find(&base, &[0xFF, 0x90]).unwrap();
    let mut made = base[..tile].to_vec();
    for comment in noise.chunks(60_000) {
        made.extend([0xFF, 0x64]);
        made.extend(u16::try_from(comment.len() + 4).unwrap().to_be_bytes());
        made.extend([0, 0]);
        made.extend(comment);
    }
    made.extend(&base[tile..]);
    made
}

/// An Ogg Vorbis stream as far as its pages go: identification, then pages of noise.
fn clip(noise: &[u8]) -> Vec<u8> {
    let mut id = b"\x01vorbis\0\0\0\0\x01".to_vec();
    id.extend(44_100_u32.to_le_bytes());
    id.extend([0; 12]);
    id.extend([0xB8, 1]);
    let mut made = page(2, 0, 0, &id);
    let pages: Vec<_> = noise.chunks(200 * 255).collect();
    for (n, data) in (1..).zip(&pages) {
        let flags = if n as usize == pages.len() { 4 } else { 0 };
        made.extend(page(flags, 1000 * i64::from(n), n, data));
    }
    made
}

fn page(flags: u8, granule: i64, sequence: u32, data: &[u8]) -> Vec<u8> {
    let mut page = b"OggS\0".to_vec();
    page.push(flags);
    page.extend(granule.to_le_bytes());
    page.extend(7_u32.to_le_bytes());
    page.extend(sequence.to_le_bytes());
    page.extend([0; 4]);
    page.push(u8::try_from(data.len() / 255 + 1).unwrap());
    page.extend(std::iter::repeat_n(255, data.len() / 255));
    page.push(u8::try_from(data.len() % 255).unwrap());
    page.extend(data);
    let crc = page.iter().fold(0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| {
            crc << 1 ^ if crc >> 31 == 1 { 0x04C1_1DB7 } else { 0 }
        })
    });
    page[22..26].copy_from_slice(&crc.to_le_bytes());
    page
}

fn material(noise: &[u8]) -> Vec<u8> {
    let name: String = noise.iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    format!(
        "<llsd><map><key>data</key><string>{{&#34;asset&#34;:{{&#34;version&#34;:&#34;2.0&#34;}},&#34;name&#34;:&#34;{name}&#34;}}</string>\
         <key>type</key><string>GLTF 2.0</string><key>version</key><string>1.1</string></map></llsd>"
    )
    .into_bytes()
}

/// What the stand-in asset host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers.
    Open,
    /// Answers, but one reply in eight breaks off halfway.
    Flaky,
    /// Is not to be had, so that right answers can only come from the store.
    Closed,
}

/// An asset host with these assets under `/host/`.
pub(crate) struct Host {
    pub(crate) grid: FakeGrid,
    mood: Arc<Mutex<Mood>>,
}

impl Host {
    pub(crate) async fn start(assets: &[Synthetic], seed: u64) -> Self {
        let grid = FakeGrid::start().await;
        let mood = Arc::new(Mutex::new(Mood::Open));
        let by_query: std::collections::HashMap<String, Arc<Vec<u8>>> =
            assets.iter().map(|asset| (asset.query.clone(), Arc::clone(&asset.bytes))).collect();
        let (now, draw) = (Arc::clone(&mood), Mutex::new(Draw(seed)));
        grid.on("/host/", move |asked: &Asked| {
            let bytes = &by_query[asked.target.strip_prefix("/host").unwrap()];
            match *now.lock().unwrap() {
                Mood::Closed => Reply::new("503 Service Unavailable", &[], "closed"),
                Mood::Flaky if asked.header("range").is_none() && draw.lock().unwrap().below(8) == 0 => {
                    Reply::raw_head("200 OK", &[("Content-Length", &bytes.len().to_string())])
                        .then_bytes(&bytes[..bytes.len() / 2])
                        .then_close()
                }
                Mood::Open | Mood::Flaky => asset_reply(asked, bytes),
            }
        });
        Self { grid, mood }
    }

    pub(crate) fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn url(&self) -> String {
        self.grid.url("/host")
    }
}
