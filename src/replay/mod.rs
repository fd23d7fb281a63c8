//! Replays captured sessions through the real proxy: a stand-in viewer and a stand-in grid rebuilt
//! from a capture, with the proxy between them.
//!
//! ```text
//! capture ─ pcap ─ tcp ─ http ─┐
//!                └─ lludp ─────┴─ script ─ pass: viewer ⇄ proxy ⇄ grid ─ board ─ report
//! ```
//!
//! `script` is pure; `pass` acts one script out against one proxy; this file goes through captures
//! and passes. The proxy keeps the captured identities: its dial map leads their authorities and
//! endpoints to the stand-ins' ports.

mod board;
mod check;
mod grid;
mod http;
mod link;
mod markup;
mod pass;
mod pcap;
pub mod report;
mod script;
mod side;
mod tcp;
mod translation;
mod udp;
mod viewer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use link::{LinkSpec, LinkSpecError};
pub use pcap::CaptureError;
pub use report::{CaptureReport, PassReport, Report};

use crate::proxy::ServiceConfig;
use pass::{PassOptions, PassOutcome};
use script::Script;

/// How many captures are replayed at a time; each has its own proxy, store and stand-ins.
const CONCURRENT_CAPTURES: usize = 3;

/// What to replay and how.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Files, and folders that stand for all captures in them.
    pub captures: Vec<PathBuf>,
    /// How often each capture is replayed on the same store; at least 1.
    pub passes: u32,
    /// Where to write what the stand-in viewer received: `DIR/<capture>/<pass>/<uuid>`.
    pub save: Option<PathBuf>,
    /// The line between the stand-in grid and the proxy, for asset answers.
    pub link: Option<LinkSpec>,
    /// Keep the capture's pauses.
    pub realtime: bool,
    /// Where each capture's store gets a new folder; temporary ones without it.
    pub data_dir: Option<PathBuf>,
    /// The shared cache to use.
    pub service: Option<ServiceConfig>,
}

impl ReplayOptions {
    /// Two passes over these captures, with nothing else asked for.
    #[must_use]
    pub const fn new(captures: Vec<PathBuf>) -> Self {
        Self { captures, passes: 2, save: None, link: None, realtime: false, data_dir: None, service: None }
    }
}

/// How far a replay is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// A pass has begun.
    PassStarted {
        /// The capture.
        file: String,
        /// Counts from 1.
        pass: u32,
    },
    /// A capture is done.
    CaptureDone {
        /// The capture.
        file: String,
        /// Whether it replayed as it should.
        ok: bool,
    },
}

/// Why nothing could be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A path holds no capture.
    #[error("{path} holds no .pcap or .pcapng file; name a capture or a folder of captures")]
    NoCaptures {
        /// The path.
        path: PathBuf,
    },
    /// A file or folder cannot be used.
    #[error("cannot use {path}: {source}; check the path and its permissions")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Replays every capture, and tells `progress` on the way. What goes wrong within a capture is in
/// its report, an unreadable file included.
///
/// # Errors
/// When a path does not exist or holds no captures, or no folder for a store can be made.
pub async fn run(
    options: ReplayOptions,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Report, ReplayError> {
    replay(options, false, Arc::new(progress)).await
}

/// Replays every capture with the stand-ins talking to each other, without a proxy between them:
/// the baseline of benches, and what shows a fault of the stand-ins themselves.
///
/// # Errors
/// As [`run`].
pub async fn run_direct(options: ReplayOptions) -> Result<Report, ReplayError> {
    replay(options, true, Arc::new(|_| ())).await
}

type Watcher = Arc<dyn Fn(Progress) + Send + Sync>;

async fn replay(options: ReplayOptions, direct: bool, progress: Watcher) -> Result<Report, ReplayError> {
    let mut files = Vec::new();
    for path in &options.captures {
        files.extend(captures_in(path)?);
    }
    let slots = Arc::new(Semaphore::new(CONCURRENT_CAPTURES));
    let options = Arc::new(options);
    let mut running = JoinSet::new();
    let names = folder_names(&files);
    for (index, (file, folder)) in files.iter().cloned().zip(names).enumerate() {
        let (slots, options, progress) = (Arc::clone(&slots), Arc::clone(&options), Arc::clone(&progress));
        running.spawn(async move {
            // The semaphore is never closed.
            let _slot = slots.acquire_owned().await;
            let report = replay_capture(&file, &folder, &options, direct, &progress).await;
            (index, report)
        });
    }
    let mut reports: Vec<Option<CaptureReport>> = files.iter().map(|_| None).collect();
    while let Some(finished) = running.join_next().await {
        if let Ok((index, report)) = finished
            && let Some(slot) = reports.get_mut(index)
        {
            *slot = Some(report?);
        }
    }
    let missing = |file: &PathBuf| CaptureReport {
        file: file.display().to_string(),
        errors: vec!["the replay of this capture broke off; this is a bug in rezcache".into()],
        ..CaptureReport::default()
    };
    let captures =
        files.iter().zip(reports).map(|(file, report)| report.unwrap_or_else(|| missing(file))).collect();
    Ok(Report { captures })
}

fn captures_in(path: &Path) -> Result<Vec<PathBuf>, ReplayError> {
    let io = |source| ReplayError::Io { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(ReplayError::NoCaptures { path: path.to_owned() });
    }
    Ok(files)
}

async fn replay_capture(
    file: &Path,
    folder: &str,
    options: &ReplayOptions,
    direct: bool,
    progress: &Watcher,
) -> Result<CaptureReport, ReplayError> {
    let name = file.display().to_string();
    let mut report = CaptureReport { file: name.clone(), ..CaptureReport::default() };
    match read_script(file).await {
        Ok(script) => {
            let store = Store::create(options.data_dir.as_deref(), file)?;
            let script = Arc::new(script);
            for pass in 1..=options.passes.max(1) {
                progress(Progress::PassStarted { file: name.clone(), pass });
                let options = PassOptions {
                    pass,
                    data_dir: store.path.clone(),
                    direct,
                    link: options.link,
                    realtime: options.realtime,
                    service: options.service.clone(),
                    save: options.save.as_ref().map(|dir| dir.join(folder).join(pass.to_string())),
                };
                let PassOutcome { report: outcome, errors } = pass::run(&script, &options).await;
                report.errors.extend(errors.into_iter().map(|error| format!("pass {pass}: {error}")));
                report.passes.push(outcome);
            }
        }
        Err(error) => report.errors.push(error.to_string()),
    }
    let clean = |pass: &PassReport| pass.mismatched_assets + pass.missing_assets + pass.datagrams.lost == 0;
    report.ok = report.errors.is_empty() && !report.passes.is_empty() && report.passes.iter().all(clean);
    progress(Progress::CaptureDone { file: name, ok: report.ok });
    Ok(report)
}

async fn read_script(file: &Path) -> Result<Script, CaptureError> {
    let path = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let packets = pcap::read(&path)?;
        Script::new(&packets).ok_or(CaptureError::NoLogin { path })
    });
    reading.await.unwrap_or_else(|_| {
        let (path, detail) = (file.to_owned(), "the reader broke off".to_owned());
        Err(CaptureError::Format { path, detail, packets: 0 })
    })
}

/// What each capture is called under `--save`: its stem, and a number from the second of one stem on.
fn folder_names(files: &[PathBuf]) -> Vec<String> {
    let mut taken = std::collections::HashSet::new();
    let unique = |file: &PathBuf| {
        let stem = stem(file);
        let candidates = std::iter::once(stem.clone()).chain((2..).map(|number| format!("{stem}-{number}")));
        candidates.into_iter().find(|name| taken.insert(name.clone())).unwrap_or(stem)
    };
    files.iter().map(unique).collect()
}

fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(|| "capture".into(), |stem| stem.to_string_lossy().into_owned())
}

/// The folder of one capture's store; a temporary one goes with it.
struct Store {
    path: PathBuf,
    temporary: bool,
}

impl Store {
    fn create(data_dir: Option<&Path>, file: &Path) -> Result<Self, ReplayError> {
        let (parent, temporary) =
            data_dir.map_or_else(|| (std::env::temp_dir(), true), |dir| (dir.to_owned(), false));
        let path = parent.join(format!("replay-{}-{}", stem(file), uuid::Uuid::from_bytes(rand::random())));
        match std::fs::create_dir_all(&path) {
            Ok(()) => Ok(Self { path, temporary }),
            Err(source) => Err(ReplayError::Io { path, source }),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.temporary {
            // Left behind it is found by the system's own cleaning.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod edited;
#[cfg(test)]
mod made_up_tests;
#[cfg(test)]
mod tests;
