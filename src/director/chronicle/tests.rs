#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::catalog::{Board, FactKind, SqliteCatalog};
use crate::director::incidents;
use crate::fleet::array::{ArrayRules, Command, NodeSpec};
use crate::fleet::health::{HealthRules, Probe};
use crate::fleet::incidents::NewIncident;
use crate::fleet::notices::NoticeRules;
use crate::fleet::report::{Capacity, NodeReport};

const START: u64 = 20_000 * DAY + 40_000;
const INTERVAL: Duration = Duration::from_secs(1);

/// A director without sockets: its array, its chronicle, and its keeper on the shared board.
struct Director {
    array: Array,
    chronicle: Chronicle,
    keeper: Keeper,
    told: Vec<(String, What)>,
}

struct World {
    board: SqliteCatalog,
    start: Instant,
    second: u64,
    dead: bool,
    away: bool,
    leader: Option<usize>,
    term: i64,
    directors: Vec<Director>,
}

impl World {
    fn new(directors: usize) -> Self {
        let start = Instant::now();
        let spec = NodeSpec {
            name: "otter".into(),
            url: "https://192.0.2.1:8443".into(),
            addresses: vec![],
            handle: String::new(),
        };
        let rules = ArrayRules {
            health: HealthRules::every(INTERVAL),
            scaling: None,
            capacity: Capacity::default(),
            notices: NoticeRules { gather: Duration::from_secs(2), ..NoticeRules::default() },
        };
        let director = |n: usize| {
            let name = format!("director-{n}");
            Director {
                array: Array::new(rules, vec![spec.clone()], start),
                chronicle: Chronicle::new(&name, START, INTERVAL),
                keeper: Keeper::new(name, START),
                told: Vec::new(),
            }
        };
        Self {
            board: SqliteCatalog::in_memory().unwrap(),
            start,
            second: 0,
            dead: false,
            away: false,
            leader: Some(0),
            term: 1,
            directors: (0..directors).map(director).collect(),
        }
    }

    fn lead(&mut self, leader: Option<usize>) {
        (self.leader, self.term) = (leader, self.term + 1);
    }

    async fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second += 1;
            let (now, wall) = (self.start + Duration::from_secs(self.second), START + self.second);
            for (n, director) in self.directors.iter_mut().enumerate() {
                let leads = self.leader == Some(n) && !self.away;
                if self.away {
                    director.array.lapse()
                } else {
                    director.array.lead(now, leads)
                }
                let mut writes = Vec::new();
                if !self.away {
                    let read = director.keeper.read(&self.board, wall, leads).await.unwrap();
                    writes.extend(director.chronicle.board(now, wall, read, &director.array));
                }
                for command in director.array.tick(now) {
                    match command {
                        Command::Probe(spec) => {
                            let ready = Probe::Ready { latency: Duration::ZERO, storage: true };
                            let probe = if self.dead { Probe::Refused } else { ready };
                            let report = (!self.dead).then(|| {
                                let text = br#"{"store":{"canary":true},"catalog":{"primary":true}}"#;
                                NodeReport::parse(text).unwrap()
                            });
                            director.array.probed(now, &spec.name, now, probe, report);
                        }
                        Command::Tell(notices) => {
                            let notices = director.chronicle.news(notices);
                            writes.extend(director.chronicle.told(&notices));
                            director.told.extend(notices.into_iter().map(|it| (it.key, it.what)));
                        }
                        _ => {}
                    }
                }
                writes.extend(director.chronicle.tick(now, wall, &director.array, !self.away));
                for write in writes {
                    // With the catalog away, what was to be written is lost.
                    if !self.away {
                        let news = director.keeper.write(&self.board, write, self.term).await.unwrap();
                        director.told.extend(news.into_iter().map(|it| (it.key, it.what)));
                    }
                }
            }
        }
    }

    fn told(&mut self) -> Vec<(usize, String, What)> {
        let each = self.directors.iter_mut().enumerate();
        each.flat_map(|(n, it)| {
            std::mem::take(&mut it.told).into_iter().map(move |(key, what)| (n, key, what))
        })
        .collect()
    }

    async fn incidents(&self) -> Vec<Incident> {
        incidents::list(&self.board).await.unwrap()
    }

    async fn day(&self, member: &str) -> Day {
        let facts = self.board.facts(FactKind::History).await.unwrap();
        let fact = facts.iter().find(|fact| fact.name == format!("{member}/{}", START / DAY)).unwrap();
        serde_json::from_slice(&fact.record).unwrap()
    }
}

fn told(by: usize, key: &str, what: What) -> (usize, String, What) {
    (by, key.to_owned(), what)
}

#[tokio::test]
async fn a_lost_node_is_an_incident_until_it_is_back() {
    let mut world = World::new(2);
    world.run(10).await;
    world.dead = true;
    world.run(20).await;
    let open = world.incidents().await;
    assert_eq!((open.len(), open[0].title.as_str(), open[0].closed), (1, "otter does not answer", None));
    assert_eq!(open[0].affected, ["otter"]);
    assert_eq!(world.told(), [told(0, "node otter", What::Raised)]);
    world.dead = false;
    world.run(20).await;
    let over = world.incidents().await;
    assert!(over.len() == 1 && over[0].closed.is_some());
    assert_eq!(over[0].updates.last().unwrap().text, "otter is back");
    assert_eq!(world.told(), [told(0, "node otter", What::Cleared)]);
}

#[tokio::test]
async fn the_next_leader_tells_nothing_again_and_what_the_last_one_could_not() {
    let mut world = World::new(2);
    world.run(10).await;
    world.dead = true;
    world.run(20).await;
    world.lead(Some(1));
    world.run(60).await;
    assert_eq!(world.told(), [told(0, "node otter", What::Raised)], "once, whoever leads");
    assert_eq!(world.incidents().await.len(), 1);
    world.dead = false;
    world.run(20).await;
    assert_eq!(world.told(), [told(1, "node otter", What::Cleared)]);

    // Nobody leads while it goes, as when a director and a node die together; who leads next tells.
    world.run(2000).await;
    world.lead(None);
    world.dead = true;
    world.run(30).await;
    assert_eq!(world.told(), []);
    world.lead(Some(0));
    world.run(20).await;
    assert_eq!(world.told(), [told(0, "node otter", What::Raised)]);
    // And it comes back while nobody leads.
    world.lead(None);
    world.dead = false;
    world.run(30).await;
    world.lead(Some(1));
    world.run(30).await;
    assert_eq!(world.told(), [told(1, "node otter", What::Cleared)]);
    assert!(world.incidents().await.iter().all(|incident| incident.closed.is_some()));
}

#[tokio::test]
async fn what_operators_and_programs_write_is_told_once() {
    let mut world = World::new(2);
    world.run(5).await;
    let new = NewIncident {
        title: "Slow evenings".into(),
        severity: Severity::Warning,
        affected: vec![],
        text: String::new(),
    };
    incidents::open(&world.board, new).await.unwrap();
    incidents::report(&world.board, "mirror", Severity::Critical, "The mirror is away").await.unwrap();
    world.run(5).await;
    world.lead(Some(1));
    world.run(20).await;
    let expected = [told(0, "incident 1", What::Raised), told(0, "incident 2", What::Raised)];
    assert_eq!(world.told(), expected);
    incidents::resolve(&world.board, "mirror", "It is back").await.unwrap();
    world.run(5).await;
    world.lead(Some(0));
    world.run(20).await;
    assert_eq!(world.told(), [told(1, "incident 2", What::Cleared)]);
}

#[tokio::test]
async fn history_goes_on_over_leaders_and_an_absent_catalog_and_counts_no_second_twice() {
    let mut world = World::new(2);
    world.run(100).await;
    world.lead(Some(1));
    world.run(100).await;
    world.dead = true;
    world.run(50).await;
    world.dead = false;
    // While the catalog is away nobody leads; each remembers what it sees.
    world.away = true;
    world.run(300).await;
    world.away = false;
    world.lead(Some(0));
    world.run(100).await;
    let day = world.day("nodes/otter").await;
    assert!(day.seconds() >= 600 && day.seconds() <= 650, "{day:?}");
    assert!((45..=56).contains(&day.lost), "{day:?}");
    assert!(day.unknown <= 2, "{day:?}");
    let catalog = world.day("storage/catalog").await;
    assert!((295..=305).contains(&catalog.amber), "nodes reach it, directors do not: {catalog:?}");
    assert!(
        world.directors[1].chronicle.books().days(START + 650, "nodes/otter").last().unwrap().1.is_some()
    );
}

#[tokio::test]
async fn what_is_old_is_forgotten() {
    let mut world = World::new(1);
    let fact =
        |name: &str, at| Fact { name: name.into(), at, record: br#"{"healthy":5,"until":7}"#.to_vec() };
    for (kind, name, at) in [
        (FactKind::History, "nodes/elk/19900", 19_900 * DAY),
        (FactKind::History, "nodes/elk/19990", 19_990 * DAY),
        (FactKind::Director, "gone", START - 2 * DAY),
    ] {
        world.board.put_fact(kind, fact(name, at), 0).await.unwrap();
    }
    world.run(10).await;
    let names = |facts: Vec<Fact>| facts.into_iter().map(|fact| fact.name).collect::<Vec<_>>();
    let history = names(world.board.facts(FactKind::History).await.unwrap());
    assert!(history.iter().any(|name| name == "nodes/elk/19990"), "{history:?}");
    assert!(!history.iter().any(|name| name == "nodes/elk/19900"), "{history:?}");
    assert_eq!(names(world.board.facts(FactKind::Director).await.unwrap()), ["director-0"]);
}

#[test]
fn what_operators_are_told_of_a_cloud_is_not_public() {
    let mut chronicle = Chronicle::new("owl", START, INTERVAL);
    let notice = |key: &str, text: &str| Notice {
        key: key.into(),
        severity: Severity::Critical,
        what: What::Raised,
        text: text.into(),
    };
    let secrets = [
        notice("opening", "a node could not be opened: AccessDenied for arn:aws:autoscaling:eu:1234:group/x"),
        notice("mirror", "s3://secret-bucket at 10.1.2.3:9000 said no"),
        notice("closing otter", "otter could not be closed: AccessDenied for arn:aws:1234"),
        notice("certificate otter", "the certificate of otter ends in 3 days"),
        notice("node otter", "otter does not answer: TLS: its certificate is not for inner.example.org"),
        notice("blind", "most nodes do not answer this director; none is closed"),
    ];
    assert_eq!(chronicle.told(&secrets).len(), 3, "what only costs is not the public's trouble");
    let written = format!("{:?}", chronicle.told(&secrets));
    assert!(written.contains("otter does not answer"), "{written}");
    for secret in ["arn:", "1234", "AccessDenied", "secret-bucket", "10.1.2.3", "TLS", "inner"] {
        assert!(!written.contains(secret), "{written}");
    }
}

#[test]
fn since_is_what_was_said_first() {
    let mut chronicle = Chronicle::new("owl", START, INTERVAL);
    assert_eq!(chronicle.since("nodes/otter", START, 100), START - 100);
    assert_eq!(chronicle.since("nodes/otter", START + 7, 106), START - 100, "seconds are cut");
    assert_eq!(chronicle.since("nodes/otter", START + 50, 3), START + 47);
}
