//! The page as text: what it says, and that nothing on it is anything else than text.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::verdict::{Level, verdict};
use super::view::{Before, ChecksView, RegionView, View};
use super::*;
use crate::asset::{AssetId, AssetKind, AssetSource};
use crate::cache::CacheStats;
use crate::checks::{CheckResult, Report};
use crate::grid::{GridId, Origin, RegionHandle};
use crate::scenes::{RegionKey, RegionName, Scenes, Visitor};
use crate::support::history::{Counted, History};
use crate::support::metrics::{Counter, Metrics};
use crate::support::status::Status;

const HOSTILE: &str = "</p><script>alert(1)</script><b onmouseover='x' title=\"y\">&";

fn view(metrics: &Metrics) -> View {
    View {
        now: 1_795_700_000,
        started: 1_795_690_000,
        status: Status::of(metrics, Duration::from_secs(9)),
        before: Before::default(),
        today: Counted::default(),
        unanswered: 0,
        history: History::default(),
        here: Vec::new(),
        completed: Vec::new(),
        regions: Vec::new(),
        more_regions: 0,
        store: CacheStats { disk_limit: 10 << 30, ..CacheStats::default() },
        size_fixed: false,
        notes: Vec::new(),
        prewarm: None,
        checks: ChecksView::None,
        grids: vec![(HOSTILE.into(), "127.0.0.1:9080".parse().unwrap())],
        uploads: true,
        home: None,
        actions: true,
    }
}

fn used() -> Metrics {
    let metrics = Metrics::default();
    metrics.asset_served(AssetKind::Texture, AssetSource::Disk, 2048);
    metrics
}

fn region(name: &str) -> RegionView {
    RegionView {
        id: "0123456789abcdef".into(),
        grid: HOSTILE.into(),
        name: RegionName::new(name),
        place: (1000, 1000),
        first: 1_795_000_000,
        last: 1_795_690_500,
        visits: 2,
        asked: 10,
        hits: 9,
        assets: 8,
        held: (7, 70_000),
        first_scene: None,
        last_scene: None,
        pinned: true,
        here: true,
    }
}

#[test]
fn what_is_wrong_is_said_first_and_what_to_do_about_it() {
    let metrics = used();
    let level = |view: &View| (verdict(view).level, verdict(view).advice.is_some());
    let good = view(&metrics);
    assert_eq!(level(&good), (Level::Good, false));
    assert_eq!(level(&view(&Metrics::default())), (Level::Waiting, true));
    let mut same = good.clone();
    same.before.requests = 1;
    assert_eq!(level(&same), (Level::Waiting, true), "what earlier runs served says nothing of this one");

    let mut away = good.clone();
    away.unanswered = 3;
    assert_eq!(level(&away), (Level::Bad, true));
    away.unanswered = 2;
    assert_eq!(level(&away).0, Level::Good, "a grid that fails now and then works");

    let mut memory = good.clone();
    memory.store.disk_limit = 0;
    assert_eq!(level(&memory), (Level::Warning, true));

    metrics.count(Counter::StoreWriteFailures);
    let mut full = view(&metrics);
    assert_eq!(level(&full), (Level::Warning, true));
    full.before.write_failures = 1;
    assert_eq!(level(&full).0, Level::Good, "that was in an earlier run");

    for (state, expected) in
        [("working", Level::Good), ("away", Level::Warning), ("distrusted", Level::Warning)]
    {
        let metrics = used();
        metrics.set_service(state, true, Duration::from_millis(10));
        assert_eq!(verdict(&view(&metrics)).level, expected, "{state}");
    }
}

#[test]
fn names_that_others_chose_are_text_wherever_they_stand() {
    let mut hostile = view(&used());
    let mut scenes = Scenes::default();
    let key = RegionKey { grid: GridId::new(HOSTILE), handle: 1 << 40 };
    let (now, me) = (Instant::now(), Visitor(1));
    scenes.arrived(now, 5, me, &key);
    scenes.named(me, RegionHandle(key.handle), &RegionName::new(HOSTILE));
    let id = AssetId(Uuid::from_u128(0x1234));
    let open = scenes.begun(now, me, AssetKind::Mesh, id, &Origin::new("sim")).unwrap();
    scenes.ended(now, open, true);
    scenes.tick(now + Duration::from_secs(9));
    hostile.here = scenes.now().into_iter().map(|now| (now, RegionName::new(HOSTILE))).collect();
    hostile.completed = scenes.recent().cloned().collect();
    hostile.regions = vec![region(HOSTILE), region("")];
    hostile.notes = vec![HOSTILE.into()];
    let failed = CheckResult::failed("x", HOSTILE, HOSTILE).about(HOSTILE);
    hostile.checks = ChecksView::Done(Report::of(vec![failed]), 5);
    let html = render(&hostile, None, "nonce");
    assert_eq!(html.matches("<script").count(), 1, "ours");
    assert!(!html.contains("<b ") && !html.contains("onmouseover='"), "{html}");
    assert!(html.matches("&lt;script&gt;alert(1)").count() > 10);
    assert!(html.contains("This scene completed in 0.0 s") && html.contains("a region without a name"));
    assert!(!html.contains(&Uuid::from_u128(0x1234).to_string()) && !html.contains(&key.handle.to_string()));
    assert!(!trouble(HOSTILE, "nonce").contains("<script"));
}

#[test]
fn without_a_token_there_is_nothing_to_press() {
    let mut quiet = view(&used());
    quiet.regions = vec![region("Sandbox")];
    assert!(render(&quiet, None, "n").contains("<button"));
    quiet.actions = false;
    let html = render(&quiet, None, "n");
    assert!(!html.contains("<button") && !html.contains("<form") && !html.contains("<input"), "{html}");
}

#[test]
fn every_button_belongs_to_the_form_and_says_what_it_does() {
    let mut full = view(&used());
    full.regions = vec![region("Sandbox")];
    full.checks = ChecksView::Idle;
    let html = render(&full, None, "n");
    let buttons: Vec<_> =
        html.split("<button").skip(1).map(|rest| rest.split("</button>").next().unwrap()).collect();
    assert_eq!(buttons.len(), 8, "{buttons:?}");
    for button in buttons {
        let inside = button.contains(">Try the key");
        assert!(inside || button.contains("form=\"actions\" formaction=\"/"), "{button}");
        assert!(button.contains("type=\"submit\""), "{button}");
    }
    let ids: Vec<_> = html.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let once: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), once.len(), "{ids:?}");
    for label in html.split(" for=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(ids.contains(&label), "{label}");
    }
}

#[test]
fn a_part_says_the_same_while_nothing_happens() {
    let metrics = Arc::new(used());
    let first = parts(&view(&metrics));
    let mut later = view(&metrics);
    later.now += 7;
    later.status = Status::of(&metrics, Duration::from_secs(16));
    assert_eq!(first, parts(&later));
    metrics.asset_served(AssetKind::Mesh, AssetSource::Grid, 1);
    later.status = Status::of(&metrics, Duration::from_secs(17));
    let changed: Vec<_> =
        first.iter().zip(parts(&later)).filter(|(a, b)| **a != *b).map(|(a, _)| a.0).collect();
    assert_eq!(changed, ["verdict", "figures", "assets"]);
}

#[test]
fn shared_caches_at_home_are_shown_and_joined_in_the_one_form() {
    let mut view = view(&Metrics::default());
    assert!(!super::render(&view, None, "n").contains("Shared caches at home"));
    view.home = Some((crate::proxy::lan::View::default(), false));
    let html = super::render(&view, None, "n");
    assert!(html.contains("None was joined") && html.contains("formaction=\"/join\""), "{html}");
    assert!(html.contains("--cache-server auto"), "it is not used by itself here");
    view.actions = false;
    assert!(!super::render(&view, None, "n").contains("/join"));
}
