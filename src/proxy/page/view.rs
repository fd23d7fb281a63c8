//! What the page shows, gathered once and rendered by pure functions.

use std::net::SocketAddr;

use crate::cache::CacheStats;
use crate::checks::Report;
use crate::proxy::lan;
use crate::proxy::prewarm::PrewarmView;
use crate::scenes::{Completed, Now, RegionName, SceneTime};
use crate::support::history::{Counted, History};
use crate::support::status::Status;

/// Everything at one moment.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct View {
    /// Seconds since 1970.
    pub(in crate::proxy) now: u64,
    /// When this run began.
    pub(in crate::proxy) started: u64,
    pub(in crate::proxy) status: Status,
    /// The same when this run began: what has been counted since is this run's.
    pub(in crate::proxy) before: Before,
    pub(in crate::proxy) today: Counted,
    /// Asset requests in a row that the grid has not answered.
    pub(in crate::proxy) unanswered: u64,
    pub(in crate::proxy) history: History,
    /// Where each login is, and what that region is called.
    pub(in crate::proxy) here: Vec<(Now, RegionName)>,
    pub(in crate::proxy) completed: Vec<Completed>,
    pub(in crate::proxy) regions: Vec<RegionView>,
    /// Regions that are known beside those.
    pub(in crate::proxy) more_regions: usize,
    pub(in crate::proxy) store: CacheStats,
    /// A flag or the configuration file says how large the store is.
    pub(in crate::proxy) size_fixed: bool,
    /// Files of ours that began anew.
    pub(in crate::proxy) notes: Vec<String>,
    pub(in crate::proxy) prewarm: Option<PrewarmView>,
    pub(in crate::proxy) checks: ChecksView,
    pub(in crate::proxy) grids: Vec<(String, SocketAddr)>,
    /// Whether anything is uploaded.
    pub(in crate::proxy) uploads: bool,
    /// Shared caches at home, and whether they are used as they are found.
    pub(in crate::proxy) home: Option<(lan::View, bool)>,
    /// Whether there are actions at all.
    pub(in crate::proxy) actions: bool,
}

/// Counters when this run began.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::proxy) struct Before {
    pub(in crate::proxy) write_failures: u64,
    pub(in crate::proxy) addresses_refused: u64,
    pub(in crate::proxy) requests: u64,
    pub(in crate::proxy) logins: u64,
}

/// A region that was visited.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct RegionView {
    pub(in crate::proxy) id: String,
    pub(in crate::proxy) grid: String,
    pub(in crate::proxy) name: RegionName,
    /// In regions, from the grid's corner.
    pub(in crate::proxy) place: (u64, u64),
    pub(in crate::proxy) first: u64,
    pub(in crate::proxy) last: u64,
    pub(in crate::proxy) visits: u32,
    pub(in crate::proxy) asked: u64,
    pub(in crate::proxy) hits: u64,
    /// Different assets.
    pub(in crate::proxy) assets: u64,
    /// Those on disk, and their bytes.
    pub(in crate::proxy) held: (u64, u64),
    pub(in crate::proxy) first_scene: Option<SceneTime>,
    pub(in crate::proxy) last_scene: Option<SceneTime>,
    pub(in crate::proxy) pinned: bool,
    /// A login is there now.
    pub(in crate::proxy) here: bool,
}

/// The self-test.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum ChecksView {
    /// There is none in this program.
    None,
    /// It has not been asked for.
    Idle,
    /// It runs; perhaps this is what it found before.
    Running(Option<(Report, u64)>),
    /// What it found, and when.
    Done(Report, u64),
}
