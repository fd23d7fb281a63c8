//! What is not taken on the service's word for ever: some of its answers are compared with the grid's,
//! and when one is proven wrong, all that came from it is dropped.
//!
//! A file beside the store remembers what came from the service, so that it can be found again after a
//! restart; another one remembers that the service was proven wrong.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::cache::{LocalCache, Scope};
use crate::client::address::ServerAddress;
use crate::grid::{GridId, Origin};
use crate::proxy::learn::Target;

const LEARNT: &str = "from-service";
const MARKER: &str = "service-proven-wrong";
/// Entries that wait to be written; an asset whose entry does not fit is not kept on disk.
const QUEUE: usize = 4096;
/// At this size the file begins anew with its newer half.
const MAX_BYTES: u64 = 32 << 20;
/// Answers that wait to be compared with what the grid says.
const MAX_PENDING: usize = 256;

/// What the service said of assets, until the grid has spoken. Names that were spoken of stay in the order
/// until they are the oldest.
#[derive(Default)]
struct Pending {
    said: HashMap<(AssetKey, Origin), Digest>,
    order: VecDeque<(AssetKey, Origin)>,
}

/// See the module's documentation.
pub(super) struct Doubt {
    one_in: u32,
    learnt: Mutex<Option<SyncSender<String>>>,
    learnt_path: PathBuf,
    marker: PathBuf,
    service: String,
    pending: Mutex<Pending>,
    cache: LocalCache,
}

impl Doubt {
    pub(super) fn new(address: &ServerAddress, one_in: u32, data_dir: &Path, cache: LocalCache) -> Self {
        Self {
            one_in,
            learnt: Mutex::default(),
            learnt_path: data_dir.join(LEARNT),
            marker: data_dir.join(MARKER),
            service: address.authority(),
            pending: Mutex::default(),
            cache,
        }
    }

    pub(super) fn marker(&self) -> &Path {
        &self.marker
    }

    /// Whether this service was proven wrong in an earlier run.
    pub(super) fn is_proven(&self) -> bool {
        std::fs::read_to_string(&self.marker).is_ok_and(|text| text.lines().any(|line| line == self.service))
    }

    /// Whether this hit is one of those that are compared.
    pub(super) fn is_sampled(&self) -> bool {
        self.one_in > 0 && rand::random_range(0..self.one_in) == 0
    }

    /// The grid's word on this is awaited, to be held against `digest`.
    pub(super) fn await_grid(&self, target: &Target, digest: Digest) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // A grid that has not delivered for so long will not do so any more.
        while pending.order.len() >= MAX_PENDING
            && let Some(oldest) = pending.order.pop_front()
        {
            pending.said.remove(&oldest);
        }
        let name = (target.key.clone(), target.scope.origin.clone());
        pending.order.push_back(name.clone());
        pending.said.insert(name, digest);
    }

    /// Whether the grid's word differs from what the service gave.
    pub(super) fn is_contradicted(&self, target: &Target, digest: Digest) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        !pending.said.is_empty()
            && pending
                .said
                .remove(&(target.key.clone(), target.scope.origin.clone()))
                .is_some_and(|said| said != digest)
    }

    /// Remembers that an asset came from the service. `false`: that could not be remembered, so the asset
    /// must not be kept.
    pub(super) fn remember(&self, target: &Target) -> bool {
        let key = &target.key;
        let line =
            format!("{} {} {} {}\n", key.kind, key.id.0, key.grid.as_str(), target.scope.origin.as_str());
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        if learnt.is_none() {
            *learnt = writer(self.learnt_path.clone());
        }
        learnt.as_ref().is_some_and(|learnt| learnt.try_send(line).is_ok())
    }

    /// The service was proven wrong: remembers that, and drops what came from it. Returns how many assets
    /// that were.
    pub(super) fn prove(&self) -> usize {
        // The writer ends, and what it had is in the file.
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner).take();
        let append = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let noted = append(&self.marker).and_then(|mut file| writeln!(file, "{}", self.service));
        if let Err(error) = noted {
            tracing::warn!(%error, "that the service was wrong cannot be remembered over a restart");
        }
        let Ok(file) = File::open(&self.learnt_path) else { return 0 };
        let mut dropped = 0;
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            if let Some((key, origin)) = read(&line) {
                dropped += 1;
                if !self.cache.withdraw(&key, &Scope { origin, central: false }) {
                    // More than can be sorted out one by one: better nothing than wrong bytes.
                    self.cache.clear();
                    break;
                }
            }
        }
        let _ = std::fs::remove_file(&self.learnt_path);
        dropped
    }
}

fn read(line: &str) -> Option<(AssetKey, Origin)> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let kind = AssetKind::ALL.into_iter().find(|known| known.name() == kind)?;
    let id = AssetId(words.next()?.parse().ok()?);
    let grid = GridId::new(words.next()?);
    Some((AssetKey { grid, kind, id }, Origin::new(words.next()?)))
}

/// A thread that writes lines to the end of a file, so that nobody waits for the disk.
fn writer(path: PathBuf) -> Option<SyncSender<String>> {
    let (sender, lines) = sync_channel::<String>(QUEUE);
    let work = move || {
        let Ok(mut file) = OpenOptions::new().create(true).append(true).open(&path) else { return };
        while let Ok(line) = lines.recv() {
            if file.metadata().is_ok_and(|data| data.len() > MAX_BYTES)
                && let Some(shorter) = halved(&path)
            {
                file = shorter;
            }
            if let Err(error) = file.write_all(line.as_bytes()) {
                tracing::debug!(%error, "what came from the service cannot be noted");
            }
        }
    };
    std::thread::Builder::new().name("rezcache-doubt".into()).spawn(work).ok().map(|_| sender)
}

fn halved(path: &Path) -> Option<File> {
    let text = std::fs::read_to_string(path).ok()?;
    let half = text.get(text.len() / 2..).or_else(|| text.get(text.len() / 2 + 1..))?;
    let from_line = half.split_once('\n').map_or("", |(_, rest)| rest);
    let new = path.with_extension("new");
    std::fs::write(&new, from_line).ok()?;
    std::fs::rename(&new, path).ok()?;
    OpenOptions::new().append(true).open(path).ok()
}
