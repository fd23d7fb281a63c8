//! What the directors' board must do on every engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rezcache::catalog::{Board, Fact, FactChange, FactKind, PostgresCatalog, SqliteCatalog};
use tempfile::TempDir;

use crate::support::postgres::Server;

/// A board that several directors open.
enum Place {
    File(#[allow(dead_code)] TempDir, PathBuf),
    Postgres(String),
}

impl Place {
    fn all() -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalog.sqlite");
        let mut all = vec![Self::File(folder, file)];
        all.extend(Server::shared().map(|server| Self::Postgres(server.url(&server.database()))));
        all
    }

    async fn open(&self) -> Arc<dyn Board> {
        match self {
            Self::File(_, path) => Arc::new(SqliteCatalog::open(path).unwrap()),
            Self::Postgres(url) => Arc::new(PostgresCatalog::open(url).await.unwrap()),
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

async fn lead(board: &Arc<dyn Board>, holder: &str, time: Duration) -> (String, bool, i64) {
    let lead = board.lead("scaling".into(), holder.into(), time).await.unwrap();
    (lead.holder, lead.held, lead.term)
}

fn fact(name: &str, at: u64, record: &[u8]) -> Fact {
    Fact { name: name.into(), at, record: record.to_vec() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_until_its_time_is_over() {
    for place in Place::all() {
        let (one, two) = (place.open().await, place.open().await);
        assert_eq!(lead(&one, "one", LONG).await, ("one".into(), true, 1));
        assert_eq!(lead(&two, "two", LONG).await, ("one".into(), false, 1));
        assert_eq!(lead(&one, "one", Duration::from_millis(200)).await, ("one".into(), true, 1));
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(lead(&two, "two", LONG).await, ("two".into(), true, 2));
        assert_eq!(lead(&one, "one", LONG).await, ("two".into(), false, 2));
        // Another role is another matter.
        assert!(one.lead("alerts".into(), "one".into(), LONG).await.unwrap().held);
        two.give_up("scaling".into(), "one".into()).await.unwrap();
        assert!(!lead(&one, "one", LONG).await.1, "nobody gives up for another");
        two.give_up("scaling".into(), "two".into()).await.unwrap();
        assert_eq!(lead(&one, "one", LONG).await, ("one".into(), true, 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_ask_at_once_exactly_one_leads() {
    for place in Place::all() {
        let mut asking = Vec::new();
        for n in 0..8 {
            let board = place.open().await;
            asking.push(tokio::spawn(async move { lead(&board, &format!("director {n}"), LONG).await }));
        }
        let mut answers = Vec::new();
        for one in asking {
            answers.push(one.await.unwrap());
        }
        assert_eq!(answers.iter().filter(|(_, held, _)| *held).count(), 1, "{answers:?}");
        assert!(answers.iter().all(|(holder, _, term)| *holder == answers[0].0 && *term == 1), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_stopped_and_goes_on_writes_nothing() {
    for place in Place::all() {
        let board = place.open().await;
        let put = |name: &'static str, record: &'static [u8], term| {
            let board = Arc::clone(&board);
            async move { board.put_fact(FactKind::Node, fact(name, 10, record), term).await.unwrap() }
        };
        assert!(put("otter", b"starting", 1).await);
        assert!(put("lynx", b"", 2).await);
        assert!(put("otter", b"serving", 2).await);
        assert!(!put("otter", b"from the past", 1).await);
        assert!(!board.drop_fact(FactKind::Node, "otter".into(), 1).await.unwrap());
        assert!(put("otter", b"an operator's word", 0).await);
        assert!(!put("otter", b"from the past", 1).await, "an operator's word does not open the past");

        let facts = board.facts(FactKind::Node).await.unwrap();
        assert_eq!(facts, [fact("lynx", 10, b""), fact("otter", 10, b"an operator's word")]);
        assert_eq!(board.facts(FactKind::Incident).await.unwrap(), []);
        assert!(board.drop_fact(FactKind::Node, "lynx".into(), 2).await.unwrap());
        assert!(!board.drop_fact(FactKind::Node, "lynx".into(), 2).await.unwrap());

        for day in 0..5 {
            let name = format!("otter/{day}");
            assert!(board.put_fact(FactKind::History, fact(&name, day, b"x"), 0).await.unwrap());
        }
        assert_eq!(board.forget_facts(FactKind::History, 3).await.unwrap(), 3);
        assert_eq!(board.facts(FactKind::History).await.unwrap().len(), 2);
        assert_eq!(board.facts(FactKind::Node).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_led_before_changes_nothing_more_and_may_say_what_nobody_knows() {
    for place in Place::all() {
        let board = place.open().await;
        let put = |name: &'static str, record: &'static [u8], term| {
            let board = Arc::clone(&board);
            async move { board.put_fact(FactKind::Node, fact(name, 10, record), term).await.unwrap() }
        };
        assert_eq!(lead(&board, "one", LONG).await.2, 1);
        assert!(put("otter", b"serving", 1).await);
        board.give_up("scaling".into(), "one".into()).await.unwrap();
        assert_eq!(lead(&board, "two", LONG).await.2, 2);
        assert!(!put("otter", b"leaving", 1).await, "the second has written nothing of it yet");
        assert!(put("heron", b"starting", 1).await, "a node that was opened is known to whoever leads");
        assert!(put("otter", b"draining", 2).await && put("heron", b"an operator's word", 0).await);
        let facts = board.facts(FactKind::Node).await.unwrap();
        assert_eq!(facts, [fact("heron", 10, b"an operator's word"), fact("otter", 10, b"draining")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_by_what_is_there_lose_nothing_when_many_make_them_at_once() {
    for place in Place::all() {
        let mut changing = Vec::new();
        for writer in 0..4_u8 {
            let board = place.open().await;
            changing.push(tokio::spawn(async move {
                for _ in 0..10 {
                    board
                        .change_facts(
                            FactKind::Incident,
                            Box::new(move |facts| {
                                let old = facts.iter().find(|fact| fact.name == "log");
                                let mut record = old.map(|fact| fact.record.clone()).unwrap_or_default();
                                record.push(writer);
                                let next =
                                    Fact { name: format!("n{:02}", facts.len()), at: 5, record: vec![] };
                                let put = |fact| FactChange::Put(fact);
                                vec![put(Fact { name: "log".into(), at: 9, record }), put(next)]
                            }),
                        )
                        .await
                        .unwrap();
                }
            }));
        }
        for one in changing {
            one.await.unwrap();
        }
        let board = place.open().await;
        let facts = board.facts(FactKind::Incident).await.unwrap();
        assert_eq!(facts.len(), 41, "each has seen how many there were");
        let log = facts.iter().find(|fact| fact.name == "log").unwrap();
        for writer in 0..4 {
            assert_eq!(log.record.iter().filter(|by| **by == writer).count(), 10);
        }
        board
            .change_facts(
                FactKind::Incident,
                Box::new(|facts| facts.iter().map(|fact| FactChange::Drop(fact.name.clone())).collect()),
            )
            .await
            .unwrap();
        assert_eq!(board.facts(FactKind::Incident).await.unwrap(), []);
        // Where an operator and the directors write, terms are not in the way, and stay.
        assert!(board.put_fact(FactKind::Incident, fact("a", 1, b"led"), 7).await.unwrap());
        let put = || vec![FactChange::Put(fact("a", 2, b"changed"))];
        board.change_facts(FactKind::Incident, Box::new(move |_| put())).await.unwrap();
        assert!(!board.put_fact(FactKind::Incident, fact("a", 3, b"late"), 6).await.unwrap());
        assert_eq!(board.facts(FactKind::Incident).await.unwrap(), [fact("a", 2, b"changed")]);
    }
}
