#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};

pub(super) use super::view::View;
use super::view::{Group, IncidentView, Look, Member, Planned};
use super::*;
use crate::director::DirectorView;
use crate::fleet::array::{Maintenance, MemberView, StorageView};
use crate::fleet::health::Dot;
use crate::fleet::history::{Day, State};
use crate::fleet::incidents::{Author, Incident, Told, Update};
use crate::fleet::notices::Severity;
use crate::fleet::scaling::Phase;

const NOW: u64 = 1_800_000_000;
const HOSTILE: &str = "</title><script>alert(1)</script><img src=x onerror='alert(2)'>\"&";

pub(super) fn member(name: &str, state: Look) -> Member {
    let mark = Planned { until: NOW + 600, reason: "new disk".into() };
    Member {
        name: name.into(),
        state,
        dot: Dot::Green,
        phase: None,
        since: None,
        uptime_s: None,
        load: None,
        requests_per_s: None,
        maintenance: (state == Look::Maintenance).then_some(mark),
        note: None,
        days: Vec::new(),
    }
}

pub(super) fn view(nodes: &[Look], store: Look, catalog: Look) -> View {
    let names = ["otter", "lynx", "heron"];
    let group = |id, members| Group { id, title: id, members };
    View {
        service: "cache.example.org".into(),
        director: "owl".into(),
        at: NOW,
        leading: false,
        level: verdict::Level::Good,
        sentence: "All is well.".into(),
        groups: vec![
            group("directors", vec![member("owl", Look::Works)]),
            group("nodes", names.iter().zip(nodes).map(|(name, look)| member(name, *look)).collect()),
            group("storage", vec![member("store", store), member("catalog", catalog)]),
        ],
        incidents: Vec::<IncidentView>::new(),
    }
}

fn node(name: &str, dot: Dot, state: State) -> MemberView {
    MemberView {
        name: name.into(),
        dot,
        phase: Phase::Serving,
        state,
        since_s: 100,
        uptime_s: (dot != Dot::Red).then_some(93_784),
        load: 0.342,
        requests_per_s: 12.5,
        hit_ratio: Some(0.75),
        connections: 7,
        latency_ms: Some(4),
        storage: true,
        maintenance: None,
    }
}

fn picture() -> Picture {
    let hostile = Incident {
        id: 7,
        key: Some("secret-key".into()),
        title: HOSTILE.into(),
        severity: Severity::Critical,
        affected: vec![HOSTILE.into()],
        opened: NOW - 900,
        closed: None,
        by: Author::Operator,
        updates: vec![Update { at: NOW - 60, by: Author::Operator, text: format!("{HOSTILE}\nsecond line") }],
        told: Told::Opened,
    };
    let closed = |id: u32, ago: u64| Incident {
        id,
        title: format!("closed {ago} days ago"),
        opened: NOW - ago * 86_400 - 60,
        closed: Some(NOW - ago * 86_400),
        updates: (0..6)
            .map(|n| Update { at: NOW, by: Author::Program, text: format!("update {n}") })
            .collect(),
        ..hostile.clone()
    };
    let marked = MemberView {
        maintenance: Some(Maintenance { until: NOW + 3600, reason: HOSTILE.into() }),
        ..node("heron", Dot::Red, State::Maintenance)
    };
    Picture {
        nodes: vec![
            node("otter", Dot::Green, State::Healthy),
            node("lynx", Dot::Red, State::Lost),
            marked,
            node(HOSTILE, Dot::Green, State::Healthy),
        ],
        catalog: true,
        storage: StorageView { store: State::Healthy, catalog: State::Healthy },
        directors: vec![DirectorView {
            name: "owl".into(),
            state: State::Healthy,
            started: NOW - 7200,
            since_s: 7200,
            own: true,
        }],
        incidents: Arc::new(vec![closed(1, 20), closed(2, 3), hostile]),
        since: BTreeMap::from([("nodes/lynx".to_owned(), NOW - 120)]),
        at: NOW,
        ..Picture::default()
    }
}

fn site(picture: Picture, monitoring_public: bool) -> Site {
    let (_, told) = watch::channel(picture);
    Site {
        config: StatusConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            monitoring_public,
            service: "cache.example.org".into(),
            director: "owl".into(),
        },
        picture: told,
        books: Arc::default(),
        dns: Arc::default(),
        shown: Mutex::default(),
        parts: watch::Sender::new(Parts::default()),
        connections: Places::new(4, 2),
        listeners: Places::new(4, 2),
        requests: Mutex::new(ResponseLimit::new(Instant::now(), 1, 5)),
        counters: Counters::default(),
    }
}

async fn ask(
    site: &Site,
    peer: &str,
    method: Method,
    path: &str,
    body: &'static str,
) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8053");
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = answer::answer(&request, peer.parse().unwrap(), site);
    let status = response.status();
    if response.headers()["content-type"] == "text/event-stream" {
        return (status, "events".into());
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn other_nodes_do_the_work_of_a_lost_one_only_where_one_serves() {
    let note = |others: Vec<MemberView>| {
        let mut picture = picture();
        picture.nodes = others;
        picture.nodes.push(node("lynx", Dot::Red, State::Lost));
        let view = View::of("cache.example.org", "owl", &picture, &Books::default());
        let group = view.groups.iter().find(|group| group.id == "nodes").unwrap();
        group.members.iter().find(|member| member.name == "lynx").unwrap().note
    };
    let others = vec![node("otter", Dot::Green, State::Healthy)];
    assert_eq!(note(others), Some("The other nodes do its work."));
    assert_eq!(note(vec![node("otter", Dot::Red, State::Lost)]), None);
    assert_eq!(note(Vec::new()), None);
}

#[tokio::test]
async fn the_page_has_a_sign_and_words_for_each_member_and_nothing_hostile_in_it() {
    let site = site(picture(), true);
    let (status, page) = ask(&site, "127.0.0.1", Method::GET, "/", "").await;
    assert_eq!(status, StatusCode::OK);
    for part in [
        "<svg class=\"sign down dot\"",
        "<h3>lynx</h3><span class=\"state\">Does not answer</span>",
        "Away since 07:58 UTC",
        "<h3>otter</h3><span class=\"state\">Works</span>",
        "Load 34 %",
        "Up 1 d 2 h · 12 requests/s",
        "<span class=\"state\">Planned maintenance</span>",
        "Planned until 09:00 UTC: &lt;/title&gt;",
        "lynx does not answer; the other 2 nodes do the work",
        "What is going on",
        "second line",
        "closed 3 days ago",
        "3 earlier updates",
        "<noscript><meta http-equiv=\"refresh\" content=\"30\"></noscript>",
        "aria-live=\"polite\"",
        "<title>Impaired – cache.example.org</title>",
    ] {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }
    assert!(!page.contains("closed 20 days ago") && !page.contains("secret-key"));
    for path in ["/", "/monitoring", "/monitoring/parts"] {
        let (_, page) = ask(&site, "127.0.0.1", Method::GET, path, "").await;
        assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("style="), "{path}");
    }
    let (_, json) = ask(&site, "127.0.0.1", Method::GET, "/v1/status", "").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["level"], &json["at"]), (&"impaired".into(), &NOW.into()));
    assert_eq!(json["nodes"][1]["state"], "down");
    assert_eq!(json["incidents"][0]["title"], HOSTILE);
    assert!(json["incidents"][0].get("key").is_none() && json["incidents"][0].get("told").is_none());
    // In the stream, HTML is text in JSON on one line.
    for (id, html) in page::parts(&site.view()) {
        assert!(!html.contains("<script") && !html.contains("<img"), "{id}");
    }
}

#[tokio::test]
async fn bars_say_in_words_what_they_show() {
    let site = site(picture(), true);
    let now = NOW;
    let day = |number: u64, day: Day| view::DayView { begins: (now / 86_400 - number) * 86_400, day };
    let good = Day { healthy: 86_400, ..Day::default() };
    let mut one = member("otter", Look::Works);
    one.days = vec![
        day(3, good),
        day(2, Day { healthy: 80_000, lost: 6400, ..Day::default() }),
        day(1, Day { healthy: 86_350, lost: 50, ..Day::default() }),
        day(0, Day { healthy: 100, ..Day::default() }),
    ];
    let mut html = String::new();
    bars::render(&mut html, "nodes", &one, now);
    assert!(
        html.contains("otter, last 90 days: uptime 97.51 %; 4 days known, 2 days with trouble"),
        "{html}"
    );
    assert!(html.contains("<li>13 Jan 2027: did not answer 1 h 46 min</li>"), "{html}");
    assert!(html.contains("<li>14 Jan 2027: did not answer 50 s</li>"), "{html}");
    // 86 days of nothing, two full bars, one shorter, one shortest.
    let bars = |class: &str| {
        let path = html
            .split(&format!("<path class=\"{class}\" d=\""))
            .nth(1)
            .map_or("", |it| it.split('"').next().unwrap());
        path.matches('M').count()
    };
    assert_eq!([bars("works"), bars("impaired"), bars("down"), bars("unknown")], [2, 1, 1, 86]);
    one.days = vec![day(0, good)];
    html.clear();
    bars::render(&mut html, "nodes", &one, now);
    assert!(html.contains("uptime 100 %") && !html.contains("<details"), "{html}");
    drop(site);
}

#[tokio::test]
async fn only_gets_without_bodies_are_answered_and_a_network_has_its_pace() {
    let site = site(picture(), false);
    let near = "127.0.0.1";
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        assert_eq!(ask(&site, near, method, "/", "").await.0, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert_eq!(ask(&site, near, Method::GET, "/", "body").await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ask(&site, near, Method::HEAD, "/", "").await.0, StatusCode::OK);
    for path in ["/nothing", "//", "/../etc/passwd", "/files/0.js", "/v1", "/%00"] {
        assert_eq!(ask(&site, near, Method::GET, path, "").await.0, StatusCode::NOT_FOUND, "{path}");
    }
    // A stranger sees the page, and not what is for operators.
    let far = "203.0.113.7";
    assert_eq!(ask(&site, far, Method::GET, "/", "").await.0, StatusCode::OK);
    for path in ["/metrics", "/monitoring", "/monitoring/parts"] {
        assert_eq!(ask(&site, far, Method::GET, path, "").await.0, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(ask(&site, near, Method::GET, path, "").await.0, StatusCode::OK, "{path}");
    }
    for _ in 0..4 {
        let _ = ask(&site, far, Method::GET, "/", "").await;
    }
    assert_eq!(ask(&site, far, Method::GET, "/", "").await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(&site, "198.51.100.1", Method::GET, "/", "").await.0, StatusCode::OK);
    assert!(site.counters.refused.load(Ordering::Relaxed) > 8);
}

#[tokio::test]
async fn a_director_that_hangs_is_not_healthy() {
    let old = site(Picture { at: 1000, ..picture() }, false);
    assert_eq!(ask(&old, "::1", Method::GET, "/healthz", "").await.0, StatusCode::SERVICE_UNAVAILABLE);
    let fresh = site(Picture { at: wall(), ..picture() }, false);
    assert_eq!(ask(&fresh, "::1", Method::GET, "/healthz", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_lines_that_prometheus_reads() {
    let site = site(picture(), false);
    let (_, text) = ask(&site, "127.0.0.1", Method::GET, "/metrics", "").await;
    for line in [
        "rezcache_director_node_up{node=\"lynx\"} 0",
        "rezcache_director_node_load{node=\"otter\"} 0.342",
        "rezcache_director_node_planned{node=\"heron\"} 1",
        "rezcache_director_incidents_open{severity=\"critical\"} 1",
        "rezcache_director_members{group=\"nodes\",state=\"down\"} 1",
        "rezcache_director_members{group=\"nodes\",state=\"works\"} 2",
        "rezcache_director_store_up 1",
    ] {
        assert!(text.lines().any(|known| known == line), "no {line} in\n{text}");
    }
    assert!(text.contains("\\\"&\"} "), "quotes are escaped: {text}");
}
