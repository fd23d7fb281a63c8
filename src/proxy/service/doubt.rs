//! What is not taken on the service's word for ever: some of its answers are compared with the grid's,
//! and when one is proven wrong, all that came from it is dropped.
//!
//! A file beside the store remembers what came from the service, so that it can be found again after a
//! restart; another one remembers that the service was proven wrong. On grids where anybody may attach a
//! simulator, one simulator's word condemns the service only for what comes through that simulator: it may
//! be the simulator that lies. Two of them condemn it as a whole.

use std::collections::{HashMap, VecDeque};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::asset::{Asset, AssetId, AssetKey, AssetKind, Digest};
use crate::cache::{LocalCache, Scope};
use crate::client::PROVEN_WRONG as MARKER;
use crate::grid::{GridId, Origin};
use crate::proxy::learn::Target;

const LEARNT: &str = "from-service";
/// Entries that wait to be written; an asset whose entry does not fit is not kept.
const QUEUE: usize = 4096;
/// A file that has grown to this says only that anything may have come from the service.
const MAX_BYTES: u64 = 32 << 20;
/// The line that says so.
const ANYTHING: &str = "*";
/// Answers that wait to be compared with what the grid says.
const MAX_PENDING: usize = 256;
/// Origins that contradict the service before it is not used at all.
const MAX_ORIGINS: usize = 2;

/// Whom a contradiction condemns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condemned {
    /// The service, for good.
    All,
    /// The service as far as this origin of this grid goes.
    Through(GridId, Origin),
}

/// What the service said of assets, until the grid has spoken. Names that were spoken of stay in the order
/// until they are the oldest.
#[derive(Default)]
struct Pending {
    said: HashMap<(AssetKey, Origin), Digest>,
    order: VecDeque<(AssetKey, Origin)>,
}

/// The file of what came from the service, and the thread that writes it.
#[derive(Default)]
struct Learnt {
    writer: Option<(SyncSender<String>, JoinHandle<()>)>,
    /// Nothing of the service is kept any more.
    proven: bool,
    /// Origins that have contradicted the service.
    suspended: Vec<(GridId, Origin)>,
}

/// See the module's documentation.
pub(super) struct Doubt {
    one_in: u32,
    learnt: Mutex<Learnt>,
    learnt_path: PathBuf,
    marker: PathBuf,
    service: String,
    pending: Mutex<Pending>,
    cache: LocalCache,
}

impl Doubt {
    /// `service` is what it is called in files.
    pub(super) fn new(service: String, one_in: u32, data_dir: &Path, cache: LocalCache) -> Self {
        let marker = data_dir.join(MARKER);
        let mut learnt = Learnt::default();
        for line in lines(&marker) {
            match line.strip_prefix(service.as_str()) {
                Some("") => learnt.proven = true,
                Some(rest) => {
                    let mut words = rest.trim_start().split(' ');
                    if let (Some(grid), Some(origin)) = (words.next(), words.next()) {
                        learnt.suspended.push((GridId::new(grid), Origin::new(origin)));
                    }
                }
                None => {}
            }
        }
        Self {
            one_in,
            learnt: Mutex::new(learnt),
            learnt_path: data_dir.join(LEARNT),
            marker,
            service,
            pending: Mutex::default(),
            cache,
        }
    }

    pub(super) fn marker(&self) -> &Path {
        &self.marker
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this service was proven wrong, now or in an earlier run.
    pub(super) fn is_proven(&self) -> bool {
        self.learnt().proven
    }

    /// Whether it was, as far as this origin goes.
    pub(super) fn is_suspended(&self, grid: &GridId, origin: &Origin) -> bool {
        self.learnt().suspended.iter().any(|(g, o)| g == grid && o == origin)
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

    /// Keeps an asset of the service, and remembers where it came from. `false`: that could not be
    /// remembered, or the service is not believed any more; then it is not kept.
    pub(super) fn keep(&self, target: &Target, asset: Asset) -> bool {
        let (key, origin) = (&target.key, &target.scope.origin);
        let line = format!("{} {} {} {}\n", key.kind, key.id.0, key.grid.as_str(), origin.as_str());
        let mut learnt = self.learnt();
        if learnt.proven || learnt.suspended.iter().any(|(g, o)| *g == key.grid && o == origin) {
            return false;
        }
        if learnt.writer.is_none() {
            learnt.writer = writer(self.learnt_path.clone());
        }
        let noted = learnt.writer.as_ref().is_some_and(|(lines, _)| lines.try_send(line).is_ok());
        if noted {
            // Under the lock: whoever drops what came from the service finds this too.
            self.cache.put(key.clone(), &target.scope, asset);
        }
        noted
    }

    /// An origin has contradicted the service. From now on nothing of what is condemned is kept.
    pub(super) fn condemn(&self, target: &Target) -> Condemned {
        let origin = (target.key.grid.clone(), target.scope.origin.clone());
        let mut learnt = self.learnt();
        if !learnt.suspended.contains(&origin) {
            learnt.suspended.push(origin.clone());
        }
        let condemned = if target.scope.central || learnt.suspended.len() >= MAX_ORIGINS {
            learnt.proven = true;
            Condemned::All
        } else {
            Condemned::Through(origin.0, origin.1)
        };
        let line = match &condemned {
            Condemned::All => self.service.clone(),
            Condemned::Through(grid, origin) => {
                format!("{} {} {}", self.service, grid.as_str(), origin.as_str())
            }
        };
        let noted = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.marker)
            .and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = noted {
            tracing::warn!(%error, "that the service was wrong cannot be remembered over a restart");
        }
        condemned
    }

    /// Takes back what came from what is condemned: nobody gets it any more. Returns how many assets that
    /// were; the files go in the background, and [`Self::finish`] ends the work. Blocks.
    pub(super) fn drop_condemned(&self, condemned: &Condemned) -> usize {
        // The writer ends, and what it had is in the file.
        let writer = self.learnt().writer.take();
        if let Some((lines, thread)) = writer {
            drop(lines);
            let _ = thread.join();
        }
        let mut dropped = 0;
        for line in lines(&self.learnt_path) {
            if line == ANYTHING {
                self.cache.clear();
                return dropped;
            }
            let Some((key, origin)) = read(&line) else { continue };
            let concerned = match condemned {
                Condemned::All => true,
                Condemned::Through(grid, through) => key.grid == *grid && origin == *through,
            };
            if concerned {
                dropped += 1;
                if !self.cache.withdraw(&key, &Scope { origin, central: false }) {
                    // More than can be sorted out one by one: better nothing than wrong bytes.
                    self.cache.clear();
                    return dropped;
                }
            }
        }
        dropped
    }

    /// The files are gone too: what came from a service that is condemned as a whole need not be known any
    /// more.
    pub(super) async fn finish(&self, condemned: &Condemned) {
        self.cache.flush().await;
        if *condemned == Condemned::All {
            let _ = std::fs::remove_file(&self.learnt_path);
        }
    }

    /// What an earlier run was to drop, and ended before it had.
    pub(super) fn left_over(&self) -> Option<Condemned> {
        let proven = self.learnt().proven;
        (proven && self.learnt_path.exists()).then_some(Condemned::All)
    }
}

fn lines(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    text.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn read(line: &str) -> Option<(AssetKey, Origin)> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let kind = AssetKind::ALL.into_iter().find(|known| known.name() == kind)?;
    let id = AssetId(words.next()?.parse().ok()?);
    let grid = GridId::new(words.next()?);
    Some((AssetKey { grid, kind, id }, Origin::new(words.next()?)))
}

/// A thread that writes lines to the end of a file, so that nobody waits for the disk. It ends when it
/// cannot: then nothing of the service is kept.
fn writer(path: PathBuf) -> Option<(SyncSender<String>, JoinHandle<()>)> {
    let (sender, lines) = sync_channel::<String>(QUEUE);
    let work = move || {
        let open = || OpenOptions::new().create(true).append(true).open(&path);
        // An earlier run may have ended in the middle of a line.
        let started = open().and_then(|mut file| file.write_all(b"\n").map(|()| file));
        let Ok(mut file) = started else { return };
        while let Ok(line) = lines.recv() {
            let written = (|| {
                if file.metadata()?.len() > MAX_BYTES {
                    std::fs::write(&path, format!("{ANYTHING}\n"))?;
                    file = open()?;
                }
                file.write_all(line.as_bytes())
            })();
            if let Err(error) = written {
                tracing::warn!(%error, "what comes from the cache service cannot be noted, and is not kept");
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("rezcache-doubt".into()).spawn(work).ok()?;
    Some((sender, thread))
}
