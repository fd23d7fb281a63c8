//! One pass over a script: starts the stand-ins and the proxy, walks the script in order, and sums
//! up what the board says.
//!
//! A step waits for what had happened before it in the capture: responses received, downloads
//! complete, datagrams delivered. Every wait is bounded, so a pass ends whatever the proxy does.
//!
//! An event-queue reply is caused by what came before it, and the viewer learns of regions from it
//! in the order of the capture. So a hold is not cut out: once it has lasted as long as it may, the
//! steps that lie within it follow each other without pauses until the reply is due.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::board::{Board, LOST_AFTER, Ledger};
use super::grid::{GridHttp, seconds};
use super::link::{Link, LinkSpec};
use super::report::{Datagrams, Latency, PassReport, Served};
use super::script::{self, Action, Milestone, Script};
use super::side::Side;
use super::viewer::ViewerHttp;
use crate::asset::{AssetKind, AssetSource};
use crate::fetch::upload_plan::Limits;
use crate::proxy::{DialMap, GridConfig, Proxy, ProxyConfig, ServiceConfig, UploadConfig};
use crate::support::metrics::{Counter, Metrics};

/// The longest pause between two steps, unless in real time.
const MAX_GAP: Duration = Duration::from_millis(50);
/// How long an event-queue poll is held before what lies within the hold is hurried, unless in real
/// time.
const MAX_HOLD: Duration = Duration::from_millis(200);
/// How long a captured viewer's giving up waits for its poll to have reached the grid, so that the
/// poll is there to be left behind.
const ABANDON_PATIENCE: Duration = Duration::from_millis(500);
/// How long a step waits for responses and downloads that came before it.
const MILESTONE_LIMIT: Duration = Duration::from_secs(35);
/// How long a pass may wait in all for what does not come, before it is given up.
const WASTE_LIMIT: Duration = Duration::from_secs(60);
/// How long the proxy may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a pass waits for the cache service to answer for the first time.
const SERVICE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a pass waits for its uploads in the end.
const UPLOAD_LIMIT: Duration = Duration::from_secs(60);
const CACHE_BYTES: u64 = 4 << 30;
const MEMORY_BYTES: u64 = 256 << 20;

/// How to run a pass.
pub(crate) struct PassOptions {
    pub(crate) pass: u32,
    pub(crate) data_dir: PathBuf,
    /// Leave the proxy out.
    pub(crate) direct: bool,
    pub(crate) link: Option<LinkSpec>,
    pub(crate) realtime: bool,
    pub(crate) save: Option<PathBuf>,
    pub(crate) service: Option<ServiceConfig>,
}

/// What came of a pass.
#[derive(Default)]
pub(crate) struct PassOutcome {
    pub(crate) report: PassReport,
    pub(crate) errors: Vec<String>,
}

/// Runs one pass.
pub(crate) async fn run(script: &Arc<Script>, options: &PassOptions) -> PassOutcome {
    let started = Instant::now();
    let failed = |error: String| PassOutcome {
        report: PassReport { pass: options.pass, ..PassReport::default() },
        errors: vec![error],
    };
    let mut stage = match Stage::open(script, options).await {
        Ok(stage) => stage,
        Err(error) => return failed(error),
    };
    let board = Arc::clone(&stage.board);
    // The proxy's counters survive its restart between two passes.
    let metrics = stage.proxy.as_ref().map(Proxy::metrics);
    let before = metrics.as_deref().map(ProxyCounts::read).unwrap_or_default();
    stage.play().await;
    stage.close().await;
    let counts = metrics.as_deref().map(|metrics| ProxyCounts::read(metrics).since(&before));
    let mut outcome = board.read(|ledger| sum_up(script, ledger, counts.as_ref(), options));
    outcome.report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Some(dir) = &options.save {
        let received = board.read(|ledger| ledger.received.take()).unwrap_or_default();
        let written = std::fs::create_dir_all(dir).and_then(|()| {
            received
                .into_iter()
                .filter_map(|(id, parts)| Some((id, parts.whole()?)))
                .try_for_each(|(id, body)| std::fs::write(dir.join(id.to_string()), body))
        });
        if let Err(error) = written {
            outcome.errors.push(format!(
                "cannot write to {}: {error}; choose another folder with --save",
                dir.display()
            ));
        }
    }
    outcome
}

/// Everything that runs during a pass.
struct Stage {
    script: Arc<Script>,
    board: Arc<Board>,
    proxy: Option<Proxy>,
    viewer: Arc<ViewerHttp>,
    viewer_udp: Arc<Side>,
    simulators: Arc<Side>,
    tasks: JoinSet<()>,
    requests: JoinSet<()>,
    realtime: bool,
    /// What the proxy had swallowed before this pass.
    swallowed_before: u64,
}

impl Stage {
    async fn open(script: &Arc<Script>, options: &PassOptions) -> Result<Self, String> {
        let board = Arc::new(Board::new(script, options.save.is_some()));
        let link = options.link.map(|spec| Arc::new(Link::new(spec)));
        let no_port = |error: std::io::Error| format!("a stand-in cannot open a loopback port: {error}");
        let (grid, http) =
            GridHttp::open(script, &board, link.clone(), options.realtime).await.map_err(no_port)?;
        let simulators = Arc::new(Side::open(script, &board, link, true).map_err(no_port)?);
        let viewer_udp = Arc::new(Side::open(script, &board, None, false).map_err(no_port)?);
        let udp = simulators.addresses();
        let mut tasks = JoinSet::new();
        Arc::new(grid).start(&mut tasks);
        simulators.start(&mut tasks);
        viewer_udp.start(&mut tasks);
        let mut logins: Vec<String> = script.sessions.iter().map(|session| session.login.clone()).collect();
        logins.sort();
        logins.dedup();
        let (proxy, proxies) = if options.direct {
            (None, HashMap::new())
        } else {
            let config = proxy_config(script, options, &logins, &http, &udp)?;
            let proxy =
                Proxy::start(config).await.map_err(|error| format!("the proxy did not start: {error}"))?;
            proxy.service_settled(SERVICE_PATIENCE).await;
            proxy.pause_uploads();
            let proxies = logins.into_iter().zip(proxy.grid_addresses().iter().copied()).collect();
            (Some(proxy), proxies)
        };
        let swallowed = |proxy: &Proxy| proxy.metrics().get(Counter::DatagramsSwallowed);
        let swallowed_before = proxy.as_ref().map_or(0, swallowed);
        let viewer = Arc::new(ViewerHttp::new(script, &board, proxies, http, udp, options.realtime));
        Ok(Self {
            script: Arc::clone(script),
            board,
            proxy,
            viewer,
            viewer_udp,
            simulators,
            tasks,
            requests: JoinSet::new(),
            realtime: options.realtime,
            swallowed_before,
        })
    }

    /// Walks the script.
    async fn play(&mut self) {
        let script = Arc::clone(&self.script);
        let mut milestones = script.milestones.iter().peekable();
        let mut before: Vec<Milestone> = Vec::new();
        let (mut last, mut last_due, mut wasted) = (Duration::ZERO, Instant::now(), Duration::ZERO);
        let mut holds: Vec<(usize, Instant)> = Vec::new();
        for step in &script.steps {
            let gap = step.time.saturating_sub(last);
            last = step.time;
            let held_since = holds.first().map(|(_, since)| *since);
            last_due = if self.realtime { last_due + gap } else { next_due(last_due, gap, held_since) };
            tokio::time::sleep_until(last_due).await;
            while let Some((_, milestone)) = milestones.next_if(|(time, _)| *time < step.time) {
                before.push(*milestone);
            }
            wasted += self.settle(&mut before, step.time).await;
            if wasted > WASTE_LIMIT {
                self.board.error(format!("{}: given up, too much did not come", seconds(step.time)));
                break;
            }
            // Pauses shrink to what the wait has left of them.
            last_due = last_due.max(Instant::now());
            match step.action {
                Action::Request(index) if script.is_held(index) => holds.push((index, Instant::now())),
                Action::Respond(index) | Action::Abandon(index) => holds.retain(|(held, _)| *held != index),
                _ => {}
            }
            self.act(step.action).await;
        }
        before.extend(milestones.map(|(_, milestone)| *milestone));
        self.settle(&mut before, last).await;
        // Requests that the capture has no response to end with their viewer.
        self.requests.abort_all();
        let swallowed = self.swallowed();
        self.board.update(|ledger| ledger.write_off(&script, swallowed, true));
    }

    /// Waits for what had come before, and returns how long it waited for what did not come.
    async fn settle(&self, before: &mut Vec<Milestone>, time: Duration) -> Duration {
        let began = Instant::now();
        let mut wasted = Duration::ZERO;
        let settled = |ledger: &mut Ledger| {
            ledger.outstanding.is_empty() || ledger.is_settled(&self.script, self.swallowed())
        };
        if !self.board.wait(LOST_AFTER, settled).await {
            let swallowed = self.swallowed();
            self.board.update(|ledger| ledger.write_off(&self.script, swallowed, false));
            wasted = began.elapsed();
        }
        before.retain(|milestone| !self.board.read(|ledger| reached(ledger, *milestone)));
        let all = |ledger: &mut Ledger| before.iter().all(|milestone| reached(ledger, *milestone));
        if before.is_empty() || self.board.wait(MILESTONE_LIMIT, all).await {
            before.clear();
            return wasted;
        }
        let script = &self.script;
        self.board.update(|ledger| {
            for milestone in before.drain(..) {
                if let Milestone::Download(index) = milestone
                    && !reached(ledger, milestone)
                    && let Some(state) = ledger.downloads.get_mut(index)
                {
                    state.complete = true;
                    state.given_up = true;
                    let what = script.downloads.get(index).and_then(|download| download.asset);
                    let what = what.map_or_else(|| "a transfer".into(), |(kind, id)| format!("{kind} {id}"));
                    ledger.error(format!("{}: {what} over LLUDP did not come whole", seconds(time)));
                }
            }
        });
        began.elapsed()
    }

    fn swallowed(&self) -> bool {
        self.proxy
            .as_ref()
            .is_some_and(|proxy| proxy.metrics().get(Counter::DatagramsSwallowed) > self.swallowed_before)
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Request(index) => {
                let viewer = Arc::clone(&self.viewer);
                self.requests.spawn(async move { viewer.perform(index).await });
            }
            Action::Respond(index) => self.board.update(|ledger| {
                if let Some(released) = ledger.released.get_mut(index) {
                    *released = true;
                }
            }),
            Action::Abandon(index) => {
                let arrived = |ledger: &mut Ledger| ledger.arrived.get(index).copied().unwrap_or(true);
                self.board.wait(ABANDON_PATIENCE, arrived).await;
                self.viewer.abandon(index);
            }
            Action::Send(index) => {
                let Some(datagram) = self.script.datagrams.get(index) else { return };
                if datagram.from_viewer {
                    self.viewer.point(&self.viewer_udp, datagram.circuit);
                    self.board.read(|ledger| note_requests(&self.script, ledger, index));
                    self.viewer_udp.replay(index).await;
                } else {
                    self.simulators.replay(index).await;
                }
            }
        }
    }

    async fn close(mut self) {
        self.requests.shutdown().await;
        if let Some(proxy) = self.proxy.take() {
            let metrics = proxy.metrics();
            proxy.resume_uploads();
            if tokio::time::timeout(STOP_LIMIT + UPLOAD_LIMIT, proxy.stop()).await.is_err() {
                self.board.error("the proxy did not stop in time".into());
            }
            let (waiting, _) = metrics.upload_queue();
            if waiting > 0 {
                self.board.error(format!("{waiting} assets were not uploaded: is the cache server there?"));
            }
        }
        self.tasks.shutdown().await;
    }
}

fn reached(ledger: &Ledger, milestone: Milestone) -> bool {
    match milestone {
        Milestone::Response(index) => ledger.responded.get(index).copied().unwrap_or(true),
        Milestone::Download(index) => ledger.downloads.get(index).is_none_or(|state| state.complete),
    }
}

/// When the step is due that was captured `gap` after the last one, due at `last`: no long pause is
/// waited out, and while a poll is held since `held_since` none at all beyond the hold's own limit.
fn next_due(last: Instant, gap: Duration, held_since: Option<Instant>) -> Instant {
    let due = last + gap.min(MAX_GAP);
    held_since.map_or(due, |since| due.min((since + MAX_HOLD).max(last)))
}

/// Marks the downloads that a viewer's datagram asks for.
fn note_requests(script: &Script, ledger: &mut Ledger, index: usize) {
    let Some(datagram) = script.datagrams.get(index) else { return };
    let Ok(packet) = crate::lludp::Packet::decode(&datagram.bytes) else { return };
    for id in script::requested(&packet) {
        let state =
            script.download(datagram.circuit, id).and_then(|(index, _)| ledger.downloads.get_mut(index));
        if let Some(state) = state {
            state.asked.get_or_insert_with(Instant::now);
        }
    }
}

fn proxy_config(
    script: &Script,
    options: &PassOptions,
    logins: &[String],
    http: &HashMap<SocketAddr, SocketAddr>,
    udp: &HashMap<SocketAddr, SocketAddr>,
) -> Result<ProxyConfig, String> {
    let mut dial = DialMap { http: HashMap::new(), udp: udp.clone() };
    for scripted in &script.exchanges {
        let server = scripted.exchange.server;
        let Some(real) = http.get(&server) else { continue };
        dial.http.insert(server.to_string(), *real);
        dial.http.insert(script::authority_of(&scripted.exchange), *real);
    }
    // A grid may call itself by another name than the viewer did.
    for (authority, server) in script.named_logins() {
        if let Some(real) = http.get(&server) {
            dial.http.entry(authority).or_insert(*real);
        }
    }
    let grids = logins.iter().enumerate().map(|(index, login)| {
        let uri =
            format!("http://{login}").parse().map_err(|_| "the login host is no host name".to_owned())?;
        Ok(GridConfig {
            name: format!("replay{}", index + 1),
            uri,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            // How far the grid was from the captured viewer is not known here, and nothing is
            // asked of addresses that the dial map does not lead to the stand-ins.
            allow: vec!["0.0.0.0/0".into(), "::/0".into()],
            ca_file: None,
            asset_host: None,
            central: false,
            id: None,
        })
    });
    Ok(ProxyConfig {
        grids: grids.collect::<Result<_, String>>()?,
        control: None,
        data_dir: options.data_dir.clone(),
        cache_bytes: CACHE_BYTES,
        memory_bytes: MEMORY_BYTES,
        // What is judged is whether the asset was kept, not how fast this machine's disk is.
        disk_patience: Duration::from_secs(10),
        // Nobody comes by the asset URL in a replay.
        asset_token: uuid::Uuid::from_bytes(rand::random()).simple().to_string(),
        control_token: None,
        chat_commands: false,
        service: options.service.clone().map(|service| ServiceConfig {
            // Nothing is compared, and nothing is judged by how busy this machine is.
            spot_check: 0,
            least_deadline: Duration::from_secs(10),
            ..service
        }),
        lan: None,
        uploads: options.service.is_some().then(|| UploadConfig {
            // Waiting times are skipped: bakes are known by then, since uploads begin when all was seen.
            limits: Limits { wait: Duration::ZERO, patience: Duration::ZERO, ..Limits::default() },
            rate: None,
            finish: UPLOAD_LIMIT,
        }),
        page: crate::proxy::PageConfig::default(),
        dial,
    })
}

fn sum_up(
    script: &Script,
    ledger: &mut Ledger,
    counts: Option<&ProxyCounts>,
    options: &PassOptions,
) -> PassOutcome {
    let mut report = PassReport { pass: options.pass, ..PassReport::default() };
    for scripted in &script.exchanges {
        let http = &mut report.requests.http;
        match scripted.counted {
            Some((AssetKind::Texture, _)) => http.texture += 1,
            Some((AssetKind::Mesh, _)) => http.mesh += 1,
            Some((AssetKind::Sound, _)) => http.sound += 1,
            Some((AssetKind::Animation, _)) => http.animation += 1,
            Some((AssetKind::Material, _)) => http.material += 1,
            None => {}
        }
    }
    let mut errors = std::mem::take(&mut ledger.errors);
    report.served = ledger.served.clone();
    for (download, state) in
        script.downloads.iter().zip(&ledger.downloads).filter(|(download, _)| download.counted)
    {
        let udp = &mut report.requests.udp;
        match download.asset {
            Some((AssetKind::Texture, _)) => udp.texture += 1,
            Some((AssetKind::Sound, _)) => udp.sound += 1,
            Some((AssetKind::Animation, _)) => udp.animation += 1,
            _ => continue,
        }
        if !state.complete || state.given_up {
            ledger.missing += 1;
        }
        // A proxy that answers by itself has the whole asset at hand; where, it says.
        let served = &mut report.served;
        let told = counts.map(|counts| &counts.served);
        let told = |tier: fn(&Served) -> u64, so_far: u64| told.is_some_and(|told| tier(told) > so_far);
        *(if state.from_grid > 0 {
            &mut served.grid
        } else if told(|told| told.disk, served.disk) {
            &mut served.disk
        } else if told(|told| told.service, served.service) {
            &mut served.service
        } else if told(|told| told.joined, served.joined) {
            &mut served.joined
        } else {
            &mut served.memory
        }) += 1;
    }
    // A request that failed was still one, and nobody but the grid could have been asked.
    let served = |served: &Served| served.memory + served.disk + served.service + served.grid + served.joined;
    report.served.grid += report.requests.total().saturating_sub(served(&report.served));
    report.bytes.from_grid = ledger.from_grid;
    report.bytes.to_viewer = ledger.to_viewer;
    report.mismatched_assets = ledger.mismatched;
    report.missing_assets = ledger.missing;
    report.latency_ms = latency(&mut ledger.latencies);
    if let Some(counts) = counts {
        report.datagrams = Datagrams { lost: ledger.lost, ..counts.datagrams.clone() };
        report.bytes.from_service = counts.from_service;
        if ledger.excused > report.datagrams.swallowed {
            let (excused, swallowed) = (ledger.excused, report.datagrams.swallowed);
            errors.push(format!("{excused} requests went nowhere, but the proxy swallowed {swallowed}"));
        }
        if report.datagrams.injected == 0 && ledger.renumbered > 0 {
            errors.push(format!("{} datagrams were renumbered though none was injected", ledger.renumbered));
        }
    } else {
        report.datagrams = Datagrams { forwarded: ledger.intact, lost: ledger.lost, ..Datagrams::default() };
    }
    if options.pass >= 2 && !options.direct {
        let whole_before = |(kind, id, host): &(AssetKind, uuid::Uuid, String)| {
            script.assets.is_whole_at(&(*kind, *id), host)
        };
        for ((kind, id, _), times) in ledger.asked_of_grid.iter().filter(|(asked, _)| whole_before(asked)) {
            errors.push(format!("{kind} {id} was asked of the grid again, {times} times"));
        }
        let asked = &ledger.asked_of_simulator;
        for ((kind, id, _), times) in asked.iter().filter(|(asked, _)| whole_before(asked)) {
            errors.push(format!("{kind} {id} was asked of the simulator again, {times} times"));
        }
    }
    PassOutcome { report, errors }
}

/// What the report takes from the proxy.
#[derive(Default)]
struct ProxyCounts {
    datagrams: Datagrams,
    from_service: u64,
    /// Over HTTP and LLUDP together.
    served: Served,
}

impl ProxyCounts {
    fn read(metrics: &Metrics) -> Self {
        let datagrams = Datagrams {
            forwarded: metrics.get(Counter::DatagramsForwarded),
            patched: metrics.get(Counter::DatagramsPatched),
            injected: metrics.get(Counter::DatagramsInjected),
            swallowed: metrics.get(Counter::DatagramsSwallowed),
            malformed: metrics.get(Counter::DatagramsMalformed),
            lost: 0,
        };
        let from_service = metrics.get(Counter::BytesFromService);
        let requests = |source| AssetKind::ALL.iter().map(|kind| metrics.served(*kind, source).0).sum();
        let served = Served {
            memory: requests(AssetSource::Memory),
            disk: requests(AssetSource::Disk),
            service: requests(AssetSource::Service),
            grid: requests(AssetSource::Grid),
            joined: requests(AssetSource::Joined),
        };
        Self { datagrams, from_service, served }
    }

    fn since(&self, before: &Self) -> Self {
        let (now, then) = (&self.datagrams, &before.datagrams);
        let datagrams = Datagrams {
            forwarded: now.forwarded.saturating_sub(then.forwarded),
            patched: now.patched.saturating_sub(then.patched),
            injected: now.injected.saturating_sub(then.injected),
            swallowed: now.swallowed.saturating_sub(then.swallowed),
            malformed: now.malformed.saturating_sub(then.malformed),
            lost: 0,
        };
        let (now, then) = (&self.served, &before.served);
        let served = Served {
            memory: now.memory.saturating_sub(then.memory),
            disk: now.disk.saturating_sub(then.disk),
            service: now.service.saturating_sub(then.service),
            grid: now.grid.saturating_sub(then.grid),
            joined: now.joined.saturating_sub(then.joined),
        };
        Self { datagrams, from_service: self.from_service.saturating_sub(before.from_service), served }
    }
}

/// The nearest-rank quantiles, in milliseconds with three decimals.
fn latency(latencies: &mut [Duration]) -> Latency {
    latencies.sort_unstable();
    let quantile = |percent: usize| {
        let rank = (latencies.len() * percent).div_ceil(100).saturating_sub(1);
        latencies.get(rank).map_or(0.0, |latency| (latency.as_secs_f64() * 1e6).round() / 1e3)
    };
    Latency { p50: quantile(50), p99: quantile(99) }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, MAX_GAP, MAX_HOLD, next_due};

    #[test]
    fn a_held_poll_does_not_hold_a_busy_session_up() {
        let start = Instant::now();
        let mut due = start;
        for _ in 0..890 {
            due = next_due(due, Duration::from_millis(45), Some(start));
        }
        assert_eq!(due, start + MAX_HOLD);
        assert_eq!(next_due(due, Duration::from_secs(9), None), due + MAX_GAP);
        assert_eq!(next_due(due, Duration::from_millis(3), None), due + Duration::from_millis(3));
    }
}
