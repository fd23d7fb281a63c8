#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::super::health::Dot;
use super::super::notices::What;
use super::*;

const INTERVAL: Duration = Duration::from_secs(2);

fn spec(name: &str, last: u8, handle: &str) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        url: format!("https://192.0.2.{last}:8443"),
        addresses: vec![IpAddr::from([192, 0, 2, last])],
        handle: handle.into(),
    }
}

fn rules(scaling: Option<ScalingRules>) -> ArrayRules {
    ArrayRules {
        health: HealthRules::every(INTERVAL),
        scaling,
        capacity: Capacity::default(),
        notices: NoticeRules::default(),
    }
}

fn report(load: f64, connections: u64, storage: bool) -> NodeReport {
    let process = super::super::report::ProcessReport { cpu_cores: load, cores: 1, memory_bytes: 0 };
    NodeReport {
        connections_open: connections,
        process: Some(process),
        store: super::super::report::StoreReport { canary: storage },
        catalog: super::super::report::CatalogReport { primary: true },
        ..NodeReport::default()
    }
}

/// How the nodes really are, and two directors' shared notes.
struct World {
    array: Array,
    now: Instant,
    dead: Vec<String>,
    load: f64,
    storage: bool,
    told: Vec<(String, What)>,
    facts: BTreeMap<String, NodeFact>,
    opened: u8,
    closed: Vec<(String, Reason)>,
    drained: Vec<String>,
    refuse_to_open: bool,
    asked: usize,
    /// Whether clients stay on nodes that drain.
    busy: bool,
    /// Whether what nodes are told is lost on the way.
    deaf: bool,
    told_to_drain: usize,
    refuse_to_close: bool,
    finished: usize,
}

impl World {
    fn new(scaling: Option<ScalingRules>, nodes: &[&str]) -> Self {
        let now = Instant::now();
        let listed = nodes.iter().zip(1..).map(|(name, n)| spec(name, n, "")).collect();
        let mut array = Array::new(rules(scaling), listed, now);
        array.facts(now, &[]);
        array.lead(now, true);
        Self {
            array,
            now,
            dead: Vec::new(),
            load: 0.3,
            storage: true,
            told: Vec::new(),
            facts: BTreeMap::new(),
            opened: 100,
            closed: Vec::new(),
            drained: Vec::new(),
            refuse_to_open: false,
            asked: 0,
            busy: false,
            deaf: false,
            told_to_drain: 0,
            refuse_to_close: false,
            finished: 0,
        }
    }

    fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while self.now < until {
            self.now += Duration::from_millis(200);
            for command in self.array.tick(self.now) {
                self.perform(command);
            }
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Probe(spec) => {
                let probe = if self.dead.contains(&spec.name) {
                    Probe::Refused
                } else if self.drained.contains(&spec.name) {
                    Probe::NotReady
                } else {
                    Probe::Ready { latency: Duration::from_millis(2), storage: self.storage }
                };
                let good = probe != Probe::Refused;
                let draining = self.drained.contains(&spec.name);
                let connections = if draining && !self.busy { 0 } else { 9 };
                let report =
                    good.then(|| NodeReport { draining, ..report(self.load, connections, self.storage) });
                self.array.explain(&spec.name, (!good).then_some(Cause::ConnectionRefused));
                self.array.probed(self.now, &spec.name, self.now, probe, report);
            }
            Command::Open(count) => {
                self.asked += 1;
                for _ in 0..count {
                    if self.refuse_to_open {
                        self.array.not_opened(self.now, "quota exceeded");
                        continue;
                    }
                    self.opened += 1;
                    let name = format!("opened-{}", self.opened);
                    self.array.opened(self.now, spec(&name, self.opened, "i-123"));
                }
            }
            Command::Drain(spec) => {
                self.told_to_drain += 1;
                if !self.deaf {
                    self.drained.push(spec.name);
                }
            }
            Command::Close(spec, reason) => {
                self.closed.push((spec.name.clone(), reason));
                self.close(&spec);
            }
            Command::Finish(spec) => {
                self.finished += 1;
                self.close(&spec);
            }
            Command::Write(fact) => {
                self.facts.insert(fact.spec.name.clone(), fact);
            }
            Command::Tell(notices) => self.told.extend(notices.into_iter().map(|n| (n.key, n.what))),
        }
    }

    /// The provisioner closes it, or fails.
    fn close(&mut self, spec: &NodeSpec) {
        if self.array.closed(&spec.name, !self.refuse_to_close) {
            self.facts.remove(&spec.name);
        }
    }

    fn named(&self) -> Vec<String> {
        let mut named: Vec<_> =
            self.array.answers(self.now).addresses(0, false).iter().map(ToString::to_string).collect();
        named.sort();
        named
    }

    fn facts(&self) -> Vec<NodeFact> {
        self.facts.values().cloned().collect()
    }
}

#[test]
fn a_lost_node_leaves_dns_is_told_of_and_comes_back() {
    let mut world = World::new(None, &["otter", "lynx"]);
    world.run(10);
    assert_eq!(world.named(), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(world.told, []);
    world.dead = vec!["otter".into()];
    world.run(4);
    assert_eq!(world.named(), ["192.0.2.2"]);
    world.run(10);
    assert_eq!(world.told, [("node otter".to_owned(), What::Raised)]);
    let dots: Vec<_> = world.array.members(world.now).into_iter().map(|view| (view.name, view.dot)).collect();
    assert_eq!(dots, [("lynx".to_owned(), Dot::Green), ("otter".to_owned(), Dot::Red)]);
    world.dead.clear();
    world.run(60);
    assert_eq!(world.told.len(), 2);
    assert_eq!(world.named().len(), 2);
}

#[test]
fn with_all_lost_all_are_named() {
    let mut world = World::new(None, &["otter", "lynx"]);
    world.run(10);
    world.dead = vec!["otter".into(), "lynx".into()];
    world.run(10);
    assert_eq!(world.named().len(), 2);
    assert!(world.array.answers(world.now).failing_open());
    let told = |what| ["all", "node lynx", "node otter"].map(|key| (key.to_owned(), what));
    assert_eq!(world.told, told(What::Raised));
    world.dead.clear();
    world.run(60);
    assert_eq!(world.told[3..], told(What::Cleared));
}

#[test]
fn a_node_that_is_dead_from_the_start_is_told_of_after_a_while() {
    let mut world = World::new(None, &["otter", "lynx", "heron"]);
    world.dead = vec!["lynx".into(), "heron".into()];
    let mark = Maintenance { until: 1000, reason: "new disk".into() };
    let marks = BTreeMap::from([("heron".to_owned(), mark)]);
    world.array.maintenance(999, &marks);
    world.run(10);
    assert_eq!(world.told, [], "a site that has just been switched on needs a while");
    world.run(10);
    assert_eq!(world.told, [("node lynx".to_owned(), What::Raised)], "one away by plan alarms nobody");
    // One that is still away when its maintenance ends is.
    world.array.maintenance(1000, &marks);
    world.run(20);
    assert_eq!(world.told[1..], [("node heron".to_owned(), What::Raised)]);
    world.dead.clear();
    world.run(60);
    let cleared = ["node heron", "node lynx"].map(|key| (key.to_owned(), What::Cleared));
    assert_eq!(world.told[2..], cleared);

    // All of them from the start.
    let mut world = World::new(None, &["otter", "lynx"]);
    world.dead = vec!["lynx".into(), "otter".into()];
    world.run(40);
    let raised = ["all", "node lynx", "node otter"].map(|key| (key.to_owned(), What::Raised));
    assert_eq!(world.told, raised);
    // Of one that starts nobody expects an answer.
    let mut world = World::new(Some(ScalingRules::default()), &["otter"]);
    world.load = 0.95;
    world.dead = (101..=110).map(|n| format!("opened-{n}")).collect();
    world.run(60);
    assert!(
        world.opened > 100 && world.told.iter().all(|(key, _)| !key.starts_with("node")),
        "{:?}",
        world.told
    );
}

/// Two nodes, one of them opened and lost, whose provisioner does not close it.
fn lost_and_not_closed() -> (World, NodeFact) {
    let mut world =
        World::new(Some(ScalingRules { minimum: 2, maximum: 2, ..ScalingRules::default() }), &["otter"]);
    world.run(30);
    let (name, fact) = world.facts.iter().next().map(|(name, fact)| (name.clone(), fact.clone())).unwrap();
    assert_eq!(fact.phase, Phase::Serving);
    (world.refuse_to_close, world.refuse_to_open) = (true, true);
    world.dead.push(name.clone());
    world.run(300);
    assert_eq!(world.closed, [(name, Reason::Lost)]);
    (world, fact)
}

#[test]
fn a_node_is_written_of_until_it_is_closed_and_whoever_leads_closes_it() {
    let (world, old) = lost_and_not_closed();
    let written = world.facts();
    assert!(matches!(&written[..], [fact] if fact.closing && fact.spec == old.spec), "{written:?}");
    assert!(world.finished > 0, "it is tried again");

    // The one that began it has died. The next one does not take it for a member, and closes it once.
    let mut next = World::new(None, &["otter"]);
    next.facts = world.facts.clone();
    next.array.lead(next.now, false);
    next.array.facts(next.now, &written);
    next.run(5);
    assert_eq!((next.finished, next.array.members(next.now).len()), (0, 1), "followers close nothing");
    next.array.lead(next.now, true);
    next.array.facts(next.now, &written);
    next.run(5);
    assert_eq!(next.finished, 1);
    assert!(next.facts.is_empty());
    // The board may lag behind.
    next.array.facts(next.now, &written);
    next.run(5);
    assert_eq!(next.finished, 1);
    next.array.facts(next.now, &[]);
    // Later an address, and a name, may be another one's.
    let again = NodeSpec { handle: "i-9".into(), ..old.spec };
    assert!(next.array.opened(next.now, again));
}

#[test]
fn a_leader_does_not_adopt_what_it_has_just_closed_and_corrects_what_others_wrote() {
    let (mut world, old) = lost_and_not_closed();
    for _ in 0..2 {
        world.array.facts(world.now, std::slice::from_ref(&old));
        world.run(5);
        assert_eq!(world.array.members(world.now).len(), 1);
        world.refuse_to_close = false;
    }
    let opened = NodeSpec { name: "elk".into(), handle: "i-8".into(), ..spec("elk", 50, "i-8") };
    assert!(world.array.opened(world.now, opened.clone()));
    world.run(30);
    let mut wrong = world.facts["elk"].clone();
    assert_eq!(wrong.phase, Phase::Serving);
    wrong.phase = Phase::Leaving;
    world.facts.insert("elk".into(), wrong.clone());
    world.array.facts(world.now, &[wrong]);
    world.run(5);
    assert_eq!(world.facts["elk"], NodeFact { spec: opened, phase: Phase::Serving, closing: false });
}

#[test]
fn a_node_that_drains_is_not_ended_by_other_errors_than_a_refused_connection() {
    let mut world = World::new(None, &["otter"]);
    let fact = NodeFact { spec: spec("lynx", 9, "i-1"), phase: Phase::Draining, closing: false };
    world.array.facts(world.now, &[fact]);
    for (cause, ended) in [(Cause::NotHttp, false), (Cause::NoRoute, false), (Cause::ConnectionRefused, true)]
    {
        for _ in 0..3 {
            world.array.explain("lynx", Some(cause.clone()));
            world.array.probed(world.now, "lynx", world.now, Probe::Refused, None);
        }
        assert_eq!(world.array.nodes["lynx"].connections() == 0, ended, "{cause}");
    }
}

#[test]
fn operators_are_told_why_once_for_each_reason() {
    let mut world = World::new(None, &["otter"]);
    world.run(10);
    let mut news = Vec::new();
    let refused = Some(Cause::ConnectionRefused);
    let key = Some(Cause::OtherKey);
    for cause in [&refused, &refused, &refused, &key, &key, &None, &None, &None, &refused, &refused] {
        world.now += INTERVAL;
        let ready = Probe::Ready { latency: Duration::ZERO, storage: true };
        let probe = if cause.is_some() { Probe::Refused } else { ready };
        world.array.explain("otter", cause.clone());
        world.array.probed(world.now, "otter", world.now, probe, None);
        let text = world.array.troubles().map(|(_, _, text)| text.to_owned()).next();
        news.push((world.array.news("otter"), text));
    }
    let told = |why: &str| Some(format!("otter does not answer: {why}"));
    let (first, second) = (told("connection refused"), told("TLS: its key is not one of the pins"));
    let (none, same) = (None::<Cause>, |text: &Option<String>| (None, text.clone()));
    assert_eq!(news[..3], [(none.clone(), None), (refused.clone(), first.clone()), same(&first)]);
    assert_eq!(news[3..5], [(key, second.clone()), same(&second)]);
    assert_eq!(news[5..8], [same(&second), (none.clone(), None), (none.clone(), None)]);
    assert_eq!(news[8..], [(none, None), (refused, first)]);
}

#[test]
fn nobody_is_known_until_the_board_was_read_or_remembered() {
    let now = Instant::now();
    let opened =
        |name: &str, last| NodeFact { spec: spec(name, last, "i-1"), phase: Phase::Serving, closing: false };
    let scaling = Some(ScalingRules::default());
    // The fixed list is all there are where nothing is opened.
    assert!(!Array::new(rules(None), vec![spec("otter", 1, "")], now).answers(now).is_unknown());
    assert!(Array::new(rules(None), Vec::new(), now).answers(now).is_unknown());
    let mut array = Array::new(rules(scaling), vec![spec("otter", 1, "")], now);
    assert!(array.answers(now).is_unknown());
    array.remember(now, &[opened("lynx", 7), opened("heron", 8)]);
    assert!(array.answers(now).failing_open());
    assert_eq!(array.answers(now).addresses(0, false).len(), 3);
    // Who leads at once has not written what it remembers: the board is right.
    array.lead(now, true);
    array.facts(now, &[opened("lynx", 9)]);
    let named = array.answers(now).addresses(0, false);
    assert_eq!(named.len(), 2);
    assert!(named.contains(&IpAddr::from([192, 0, 2, 9])));
    // From then on it knows better itself, and what it remembered is over.
    array.facts(now, &[]);
    array.remember(now, &[opened("heron", 8)]);
    assert_eq!(array.answers(now).addresses(0, false).len(), 2);

    let mut array = Array::new(rules(scaling), Vec::new(), now);
    array.remember(now, &[]);
    assert!(array.answers(now).is_unknown(), "nobody is nobody's answer");
    array.facts(now, &[]);
    assert!(!array.answers(now).is_unknown());
}

#[test]
fn maintenance_takes_a_node_out_without_alarm_and_ends_by_itself() {
    let mut world = World::new(None, &["otter", "lynx"]);
    world.run(10);
    let mark = Maintenance { until: 1000, reason: "new disk".into() };
    let marks = BTreeMap::from([("otter".to_owned(), mark.clone())]);
    world.array.maintenance(999, &marks);
    assert_eq!(world.named(), ["192.0.2.2"]);
    world.dead = vec!["otter".into()];
    world.run(60);
    assert_eq!(world.told, []);
    assert_eq!(world.array.members(world.now)[1].maintenance, Some(mark));
    world.dead.clear();
    world.run(60);
    world.array.maintenance(1000, &marks);
    assert_eq!(world.named().len(), 2);
    assert_eq!(world.told, []);
}

#[test]
fn a_sick_store_is_one_trouble_and_takes_nobody_out() {
    let mut world = World::new(None, &["otter", "lynx", "heron"]);
    world.run(10);
    world.storage = false;
    world.run(20);
    assert_eq!(world.told, [("store".to_owned(), What::Raised)]);
    assert_eq!(world.named().len(), 3);
    assert!(world.array.members(world.now).iter().all(|view| view.dot == Dot::Amber));
    world.storage = true;
    world.run(20);
    assert_eq!(world.told[1..], [("store".to_owned(), What::Cleared)]);
}

#[test]
fn nodes_are_opened_written_of_drained_and_closed() {
    let scaling = ScalingRules {
        calm: Duration::from_secs(60),
        cooldown: Duration::from_secs(60),
        ..ScalingRules::default()
    };
    let mut world = World::new(Some(scaling), &["otter"]);
    world.run(30);
    world.load = 0.9;
    world.run(120);
    assert!(world.opened > 100, "opened");
    let all = world.array.members(world.now).len();
    assert_eq!(world.named().len(), all);
    assert_eq!(world.facts.len(), all - 1);
    assert!(world.facts.values().all(|fact| fact.phase == Phase::Serving));

    world.load = 0.05;
    world.run(3600);
    assert_eq!(world.named(), ["192.0.2.1"], "the listed one stays");
    assert_eq!(world.closed.len(), all - 1);
    assert!(world.closed.iter().all(|(_, reason)| *reason == Reason::Drained));
    assert_eq!(world.drained.len(), all - 1);
    assert!(world.facts.is_empty());
    assert!(world.told.iter().all(|(key, _)| key == "limit"), "planned ends alarm nobody: {:?}", world.told);
}

#[test]
fn a_node_that_drains_is_not_closed_while_somebody_reads() {
    let scaling = ScalingRules {
        calm: Duration::from_secs(60),
        cooldown: Duration::from_secs(60),
        patience: Duration::from_secs(10),
        drain: Duration::from_secs(300),
        ..ScalingRules::default()
    };
    let mut world = World::new(Some(scaling), &["otter"]);
    world.load = 0.9;
    world.run(120);
    (world.load, world.busy) = (0.05, true);
    while world.drained.is_empty() {
        world.run(10);
    }
    world.run(200);
    assert_eq!(world.closed, []);
    world.run(120);
    assert!(matches!(world.closed[..], [(_, Reason::DrainedLate)]), "{:?}", world.closed);
}

#[test]
fn a_node_that_did_not_hear_is_told_again_and_one_that_has_ended_is_closed() {
    let scaling = ScalingRules {
        calm: Duration::from_secs(60),
        cooldown: Duration::from_secs(60),
        ..ScalingRules::default()
    };
    let mut world = World::new(Some(scaling), &["otter"]);
    world.load = 0.9;
    world.run(120);
    (world.load, world.busy, world.deaf) = (0.05, true, true);
    while world.told_to_drain == 0 {
        world.run(10);
    }
    world.run(20);
    assert!((5..20).contains(&world.told_to_drain), "once in an interval: {}", world.told_to_drain);
    assert_eq!(world.closed, [], "it said that it had nobody before it was told");
    world.deaf = false;
    world.run(10);
    let told = world.told_to_drain;
    let gone = world.drained[0].clone();
    world.run(10);
    assert_eq!(
        (world.told_to_drain, world.closed.len()),
        (told, 0),
        "it says that it drains, and who is with it"
    );
    world.dead.push(gone.clone());
    world.run(10);
    assert_eq!(world.closed, [(gone, Reason::Drained)]);
}

#[test]
fn a_provisioner_that_fails_is_told_of_and_not_flooded() {
    let mut world = World::new(Some(ScalingRules::default()), &["otter"]);
    world.refuse_to_open = true;
    world.load = 1.0;
    world.run(60);
    assert_eq!(world.told.first(), Some(&("opening".to_owned(), What::Raised)));
    assert!(world.told.len() < 4);
}

#[test]
fn another_director_knows_what_was_written_and_takes_over() {
    let mut world = World::new(Some(ScalingRules::default()), &["otter"]);
    world.load = 0.95;
    world.run(180);
    let members = world.array.members(world.now).len();
    assert!(members > 1);

    // A follower: no decisions, the same answers.
    let mut other = World::new(Some(ScalingRules::default()), &["otter"]);
    other.array.lead(other.now, false);
    (other.load, other.opened) = (0.95, 200);
    other.array.facts(other.now, &world.facts());
    other.run(30);
    assert_eq!(other.named(), world.named());
    assert_eq!(other.opened, 200);
    assert_eq!(other.told, [], "followers tell nobody");

    // One that leaves DNS leaves it everywhere.
    let leaving = world.facts.keys().next().unwrap().clone();
    let mut facts = world.facts();
    facts[0].phase = Phase::Leaving;
    other.array.facts(other.now, &facts);
    assert_eq!(other.named().len(), members - 1);
    other.run(3600);
    assert_eq!(other.drained, Vec::<String>::new(), "nobody but the leader acts");

    // It takes over: what was leaving goes on to its end, after waiting anew.
    other.load = 0.3;
    other.run(10);
    other.array.lead(other.now, true);
    other.run(4);
    assert_eq!(other.drained, Vec::<String>::new());
    other.run(30);
    assert_eq!(other.drained, std::slice::from_ref(&leaving));
    assert_eq!(other.closed, [(leaving, Reason::Drained)]);

    // And what the first closed meanwhile is forgotten by followers.
    other.array.lead(other.now, false);
    other.array.facts(other.now, &[]);
    assert_eq!(other.named(), ["192.0.2.1"]);
}

#[test]
fn a_store_that_one_node_does_not_reach_is_that_nodes_trouble() {
    let mut world = World::new(None, &["otter", "lynx"]);
    world.run(10);
    let feed = |world: &mut World, name: &str, store: bool, catalog: bool| {
        let said = NodeReport {
            catalog: super::super::report::CatalogReport { primary: catalog },
            ..report(0.3, 9, store)
        };
        let probe = Probe::Ready { latency: Duration::from_millis(2), storage: store && catalog };
        world.array.probed(world.now, name, world.now, probe, Some(said));
    };
    let troubles = |world: &World| -> Vec<(String, Severity, String)> {
        world.array.troubles().map(|(key, severity, text)| (key.into(), severity, text.into())).collect()
    };
    feed(&mut world, "otter", false, true);
    let [(key, Severity::Warning, text)] = &troubles(&world)[..] else { panic!("{:?}", troubles(&world)) };
    assert_eq!(
        (key.as_str(), text.as_str()),
        ("store", "the store does not answer otter; the others reach it")
    );
    feed(&mut world, "otter", true, false);
    feed(&mut world, "lynx", true, false);
    let [(key, Severity::Critical, text)] = &troubles(&world)[..] else { panic!("{:?}", troubles(&world)) };
    assert_eq!(key, "catalog");
    assert!(text.starts_with("the catalog does not answer;"), "{text}");
    feed(&mut world, "lynx", true, true);
    feed(&mut world, "otter", true, true);
    assert_eq!(troubles(&world), []);
}

#[test]
fn counted_poisoning_is_told_and_over_when_it_is_quiet() {
    let mut world = World::new(None, &["otter"]);
    world.run(10);
    for (uptime_s, disputed) in [(10, 4), (12, 5)] {
        let counters = BTreeMap::from([("disputed".to_owned(), disputed)]);
        let said = NodeReport { uptime_s, counters, ..report(0.3, 9, true) };
        let probe = Probe::Ready { latency: Duration::from_millis(2), storage: true };
        world.array.probed(world.now, "otter", world.now, probe, Some(said));
    }
    world.run(20);
    assert_eq!(world.told, [("poisoning".to_owned(), What::Raised)]);
    world.run(2000);
    assert_eq!(world.told[1..], [("poisoning".to_owned(), What::Cleared)]);
}

#[test]
fn a_node_that_does_not_say_how_it_is_is_told_of() {
    let mut world = World::new(None, &["otter"]);
    let silent = |world: &mut World, seconds: u64| {
        for _ in 0..seconds {
            world.now += Duration::from_secs(1);
            let probe = Probe::Ready { latency: Duration::from_millis(2), storage: true };
            world.array.probed(world.now, "otter", world.now, probe, None);
        }
    };
    silent(&mut world, 55);
    assert_eq!(world.array.troubles().count(), 0);
    silent(&mut world, 10);
    let keys: Vec<_> = world.array.troubles().map(|(key, severity, _)| (key, severity)).collect();
    assert_eq!(keys, [("report otter", Severity::Warning)]);
    world.run(4);
    assert_eq!(world.array.troubles().count(), 0);
}

#[test]
fn each_director_tells_that_it_cannot_reach_the_catalog_and_who_led_goes_on_telling() {
    let mut world = World::new(None, &["otter"]);
    let mut follower = World::new(None, &["otter"]);
    follower.array.lead(follower.now, false);
    for (world, name) in [(&mut world, "first"), (&mut follower, "second")] {
        world.run(10);
        world.array.catalog(world.now, name, false);
        world.array.lapse();
        world.dead = vec!["otter".into()];
        world.run(30);
    }
    assert!(!world.array.is_leading());
    let raised = |key: &str| (key.to_owned(), What::Raised);
    assert_eq!(world.told, [raised("director first catalog"), raised("node otter")]);
    assert_eq!(follower.told, [raised("director second catalog")]);

    // The catalog is back, and the second leads: what it has not told itself and is fresh, it tells.
    follower.array.catalog(follower.now, "second", true);
    follower.array.lead(follower.now, true);
    follower.run(30);
    let cleared = ("director second catalog".to_owned(), What::Cleared);
    assert_eq!(follower.told[1..], [cleared, raised("node otter")]);
}

#[test]
fn a_provisioner_that_fails_is_asked_ever_more_seldom() {
    let mut world = World::new(Some(ScalingRules::default()), &["otter"]);
    (world.refuse_to_open, world.load) = (true, 1.0);
    world.run(3600);
    assert!((5..20).contains(&world.asked), "{}", world.asked);
    world.refuse_to_open = false;
    world.run(1801);
    assert!(world.opened > 100);
}

fn opened(name: &str, last: u8) -> NodeFact {
    NodeFact { spec: spec(name, last, "i-1"), phase: Phase::Serving, closing: false }
}

#[test]
fn a_director_that_starts_looks_at_the_nodes_before_it_opens_others() {
    let scaling = Some(ScalingRules { minimum: 3, ..ScalingRules::default() });
    let mut world = World::new(scaling, &["otter"]);
    let facts = [opened("lynx", 7), opened("heron", 8)];
    world.array.lead(world.now, false);
    world.array.facts(world.now, &facts);
    world.array.lead(world.now, true);
    world.run(120);
    assert_eq!((world.asked, world.closed.len()), (0, 0));

    // A probe that never ends does not hold everything up for ever.
    let mut array = Array::new(rules(scaling), vec![spec("otter", 1, "")], world.now);
    array.facts(world.now, &[]);
    array.lead(world.now, true);
    let opens = |commands: Vec<Command>| commands.iter().any(|command| matches!(command, Command::Open(_)));
    assert!(!opens(array.tick(world.now)));
    assert!(!opens(array.tick(world.now + INTERVAL * 4)));
    assert!(opens(array.tick(world.now + INTERVAL * 5)));
}

#[test]
fn a_director_that_sees_no_node_says_so_and_closes_none() {
    let scaling = ScalingRules { minimum: 2, maximum: 2, ..ScalingRules::default() };
    let mut world = World::new(Some(scaling), &[]);
    let facts = [opened("lynx", 7), opened("heron", 8)];
    world.array.lead(world.now, false);
    world.array.facts(world.now, &facts);
    world.array.lead(world.now, true);
    world.run(60);
    world.dead = vec!["lynx".into(), "heron".into()];
    world.run(3600);
    assert_eq!((&world.closed[..], world.asked), (&[][..], 0));
    assert!(world.array.answers(world.now).failing_open() && world.named().len() == 2);
    let blind = ("blind".to_owned(), What::Raised);
    assert_eq!(world.told.iter().filter(|told| **told == blind).count(), 1, "{:?}", world.told);
    let text =
        world.array.troubles().find(|(key, ..)| *key == "blind").map(|(_, severity, text)| (severity, text));
    assert_eq!(text, Some((Severity::Critical, "most nodes do not answer this director; none is closed")));
    world.dead.clear();
    world.run(60);
    assert!(world.told.contains(&("blind".to_owned(), What::Cleared)), "{:?}", world.told);
    assert_eq!(world.closed, []);
}

#[test]
fn what_was_asked_for_still_comes_after_the_lead_was_lost_and_regained() {
    let mut world = World::new(Some(ScalingRules { minimum: 3, ..ScalingRules::default() }), &["otter"]);
    let asked = |world: &mut World, seconds: u64| {
        let mut asked = 0;
        for _ in 0..seconds * 5 {
            world.now += Duration::from_millis(200);
            for command in world.array.tick(world.now) {
                match command {
                    // The provisioner takes its time.
                    Command::Open(count) => asked += count,
                    command => world.perform(command),
                }
            }
        }
        asked
    };
    assert_eq!(asked(&mut world, 5), 2);
    world.array.lead(world.now, false);
    assert_eq!(asked(&mut world, 5), 0);
    world.array.lead(world.now, true);
    assert_eq!(asked(&mut world, 60), 0);
    for last in [101, 102] {
        assert!(world.array.opened(world.now, spec(&format!("opened-{last}"), last, "i-1")));
    }
    assert_eq!(asked(&mut world, 60), 0);
    assert_eq!(world.named().len(), 3);
}

#[test]
fn one_that_is_taken_back_is_written_of_and_named_again() {
    let scaling = ScalingRules { ttl: Duration::from_secs(60), ..ScalingRules::default() };
    let mut world = World::new(Some(scaling), &["otter"]);
    let leaving = NodeFact { phase: Phase::Leaving, ..opened("lynx", 7) };
    world.array.lead(world.now, false);
    world.array.facts(world.now, &[leaving]);
    world.array.lead(world.now, true);
    world.run(10);
    assert_eq!(world.named(), ["192.0.2.1"]);
    world.array.not_opened(world.now, "quota exceeded");
    world.load = 0.9;
    world.run(40);
    assert_eq!(world.named(), ["192.0.2.1", "192.0.2.7"]);
    let troubles: Vec<_> = world.array.troubles().map(|(key, ..)| key).collect();
    assert_eq!(troubles, ["opening"], "a new one could still not be opened");
    assert_eq!(world.facts(), [opened("lynx", 7)]);
    assert_eq!(world.drained, Vec::<String>::new());
}

#[test]
fn maintenance_ends_by_the_clock_while_the_catalog_is_away() {
    let mut world = World::new(None, &["otter", "lynx"]);
    world.run(10);
    let mark = Maintenance { until: 1000, reason: "new disk".into() };
    let marks = BTreeMap::from([("otter".to_owned(), mark)]);
    world.array.maintenance(900, &marks);
    world.array.wall(999);
    assert_eq!(world.named(), ["192.0.2.2"]);
    world.array.wall(1000);
    assert_eq!(world.named().len(), 2);
    // Taken away before its end.
    world.array.maintenance(900, &marks);
    world.array.maintenance(901, &BTreeMap::new());
    world.array.wall(902);
    assert_eq!(world.named().len(), 2);
}

#[test]
fn node_hours_are_counted() {
    let mut world = World::new(None, &["otter", "lynx"]);
    world.run(3600);
    let hours = world.array.node_hours();
    assert!((hours.total() - 2.0).abs() < 0.01 && (hours.listed - hours.serving).abs() < 1e-9, "{hours:?}");
}

#[test]
fn a_certificate_that_ends_soon_is_told_of_in_time() {
    let mut world = World::new(None, &["otter"]);
    world.run(10);
    let days = |days: u64| Duration::from_secs(days * 86_400 + 60);
    let mut severities = Vec::new();
    for left in [90, 13, 2, 90] {
        let said = NodeReport { certificate_left: Some(days(left)), ..report(0.3, 9, true) };
        let probe = Probe::Ready { latency: Duration::from_millis(2), storage: true };
        world.array.probed(world.now, "otter", world.now, probe, Some(said));
        severities.push(world.array.troubles().map(|(_, severity, text)| (severity, text.to_owned())).next());
    }
    let ends = |severity, days| Some((severity, format!("the certificate of otter ends in {days} days")));
    assert_eq!(severities, [None, ends(Severity::Warning, 13), ends(Severity::Critical, 2), None]);
}
