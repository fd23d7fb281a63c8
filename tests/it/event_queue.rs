//! The event queue's long poll through a running proxy: nothing is lost, nothing comes early.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rezcache::support::metrics::Counter;

use crate::support::client::{Answer, Connection};
use crate::support::fake_grid::{Gate, Reply};
use crate::support::{Avatar, LLSD, Setup, seed_reply};

/// A poll's body. `None`: nothing has been received yet.
fn poll(ack: Option<u32>) -> String {
    let ack = ack.map_or_else(|| "<undef />".to_owned(), |id| format!("<integer>{id}</integer>"));
    format!("<llsd><map><key>ack</key>{ack}<key>done</key><boolean>0</boolean></map></llsd>")
}

fn events(id: u32) -> String {
    format!(
        "<llsd><map><key>events</key><array><map><key>message</key><string>Test{id}</string><key>body</key><map /></map></array><key>id</key><integer>{id}</integer></map></llsd>"
    )
}

/// A session with an event queue whose replies the test prepares one after the other.
struct Queue {
    setup: Setup,
    path: String,
    replies: Arc<Mutex<Vec<Reply>>>,
}

impl Queue {
    async fn start() -> Self {
        let setup = Setup::start().await;
        let avatar = Avatar::number(1);
        let viewer = setup.login(&avatar, "127.0.0.1:9".parse().unwrap()).await;
        let seed = seed_reply(&[("EventQueueGet", &setup.grid.url("/eq"))]);
        setup.grid.on(&avatar.seed, move |_| Reply::ok("text/html", &seed));
        let path = viewer.capabilities(setup.at).await["EventQueueGet"].clone();
        let replies = Arc::new(Mutex::new(Vec::<Reply>::new()));
        let queued = Arc::clone(&replies);
        setup.grid.on("/eq", move |_| {
            let mut queued = queued.lock().unwrap();
            assert!(!queued.is_empty(), "the grid was polled once more than it should have been");
            queued.remove(0)
        });
        Self { setup, path, replies }
    }

    fn next(&self, reply: Reply) {
        self.replies.lock().unwrap().push(reply);
    }

    fn next_events(&self, id: u32) {
        self.next(Reply::ok("application/xml", events(id)));
    }

    async fn send(&self, ack: Option<u32>) -> Connection {
        let mut connection = Connection::open(self.setup.at).await;
        connection.send("POST", &self.path, &[LLSD], poll(ack).as_bytes()).await;
        connection
    }

    async fn poll(&self, ack: Option<u32>) -> Answer {
        self.send(ack).await.answer("POST").await
    }

    /// Polls the grid has seen.
    fn asked(&self) -> usize {
        self.setup.grid.asked("/eq").len()
    }

    async fn until_asked(&self, count: usize) {
        self.setup.grid.until_asked("/eq", count).await;
    }

    fn redelivered(&self) -> u64 {
        self.setup.proxy.metrics().get(Counter::EventRepliesRedelivered)
    }
}

/// Nothing comes on this connection for now. That it takes a moment to say so is no harm: a reply
/// that comes later would be found by what follows.
async fn is_silent(connection: &mut Connection) -> bool {
    tokio::time::timeout(Duration::from_millis(100), connection.head()).await.is_err()
}

#[tokio::test]
async fn events_come_through_once_and_polls_go_out_as_sent() {
    let queue = Queue::start().await;
    queue.next_events(1);
    queue.next_events(2);
    for (ack, id) in [(None, 1), (Some(1), 2)] {
        let answer = queue.poll(ack).await;
        assert_eq!((answer.status, answer.text()), (200, events(id)));
        assert_eq!(answer.header("content-type"), Some("application/xml"));
        let asked = queue.setup.grid.asked("/eq").pop().unwrap();
        assert_eq!(asked.body, poll(ack).as_bytes());
    }
    assert_eq!((queue.asked(), queue.redelivered()), (2, 0));
}

#[tokio::test]
async fn a_poll_without_events_is_answered_when_the_grid_answers_it_and_as_it_does() {
    let queue = Queue::start().await;
    for status in ["502 Bad Gateway", "499 Odd", "503 Later", "404 Not Found", "200 OK"] {
        let gate = Gate::closed();
        queue.next(Reply::new(status, &[("X-Kept", "1")], "").held_by(&gate));
        let before = queue.asked();
        let mut viewer = queue.send(None).await;
        queue.until_asked(before + 1).await;
        assert!(is_silent(&mut viewer).await, "{status}");
        gate.open();
        let answer = viewer.answer("POST").await;
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!((answer.body.len(), answer.header("x-kept")), (0, Some("1")));
    }
}

#[tokio::test]
async fn the_reply_to_an_abandoned_poll_is_kept_for_the_next() {
    let queue = Queue::start().await;
    queue.next_events(1);
    assert_eq!(queue.poll(None).await.text(), events(1));
    let gate = Gate::closed();
    // The viewer has shown that it acknowledges; whether its leaving is noticed before the reply
    // comes or only after, the reply must not be lost.
    queue.next(Reply::ok("application/xml", events(2)).held_by(&gate));
    let viewer = queue.send(Some(1)).await;
    queue.until_asked(2).await;
    drop(viewer);
    gate.open();
    assert_eq!(queue.poll(Some(1)).await.text(), events(2));
    assert_eq!(queue.asked(), 2);
    queue.next_events(3);
    assert_eq!(queue.poll(Some(2)).await.text(), events(3));
    assert_eq!(queue.asked(), 3);
}

#[tokio::test]
async fn a_reply_that_came_while_nobody_listened_is_counted_as_redelivered() {
    let queue = Queue::start().await;
    let gate = Gate::closed();
    queue.next(Reply::ok("application/xml", events(1)).held_by(&gate));
    let first = queue.send(None).await;
    queue.until_asked(1).await;
    // Two viewers' polls wait for one reply: one gets it as its own, nobody gets it twice.
    let mut second = queue.send(None).await;
    assert!(is_silent(&mut second).await);
    drop(first);
    assert!(is_silent(&mut second).await);
    gate.open();
    assert_eq!(second.answer("POST").await.text(), events(1));
    assert_eq!((queue.asked(), queue.redelivered()), (1, 1));
}

#[tokio::test]
async fn a_kept_reply_is_not_delivered_when_its_id_is_already_acknowledged() {
    let queue = Queue::start().await;
    let gate = Gate::closed();
    queue.next(Reply::ok("application/xml", events(1)).held_by(&gate));
    let viewer = queue.send(None).await;
    queue.until_asked(1).await;
    drop(viewer);
    gate.open();
    queue.next_events(2);
    assert_eq!(queue.poll(Some(1)).await.text(), events(2));
    assert_eq!(queue.asked(), 2);
}

#[tokio::test]
async fn a_502_for_an_abandoned_poll_does_not_reach_the_fresh_one() {
    let queue = Queue::start().await;
    let (first_gate, second_gate) = (Gate::closed(), Gate::closed());
    queue.next(Reply::new("502 Bad Gateway", &[], "").held_by(&first_gate));
    queue.next(Reply::ok("application/xml", events(1)).held_by(&second_gate));
    let abandoned = queue.send(None).await;
    queue.until_asked(1).await;
    drop(abandoned);
    let mut fresh = queue.send(None).await;
    assert!(is_silent(&mut fresh).await);
    assert_eq!(queue.asked(), 1, "it waits for the poll in progress");
    first_gate.open();
    queue.until_asked(2).await;
    assert!(is_silent(&mut fresh).await);
    second_gate.open();
    assert_eq!(fresh.answer("POST").await.text(), events(1));
}

#[tokio::test]
async fn a_connection_that_broke_toward_the_grid_is_a_late_502_on_a_living_connection() {
    let queue = Queue::start().await;
    queue.next(Reply::none());
    let asked = Instant::now();
    let mut viewer = queue.send(None).await;
    assert_eq!(viewer.answer("POST").await.status, 502);
    assert!(asked.elapsed() >= Duration::from_secs(10), "sooner, the viewer counts it as an error");
    queue.next_events(1);
    viewer.send("POST", &queue.path, &[LLSD], poll(None).as_bytes()).await;
    assert_eq!(viewer.answer("POST").await.text(), events(1));
}

#[tokio::test]
async fn events_of_an_abandoned_poll_reach_a_viewer_that_began_anew_at_once_and_none_is_lost() {
    let queue = Queue::start().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    queue.next(Reply::ok("application/xml", events(6)).held_by(&first));
    queue.next(Reply::ok("application/xml", events(7)).held_by(&second));
    let abandoned = queue.send(Some(5)).await;
    queue.until_asked(1).await;
    drop(abandoned);
    let mut anew = queue.send(None).await;
    queue.until_asked(2).await;
    first.open();
    assert_eq!(anew.answer("POST").await.text(), events(6), "it does not wait for the second poll to end");
    second.open();
    assert_eq!(queue.poll(Some(6)).await.text(), events(7));
    assert_eq!(queue.asked(), 2);
}

#[tokio::test]
async fn two_abandoned_polls_lose_neither_reply() {
    let queue = Queue::start().await;
    let (first, second) = (Gate::closed(), Gate::closed());
    queue.next(Reply::ok("application/xml", events(6)).held_by(&first));
    queue.next(Reply::ok("application/xml", events(7)).held_by(&second));
    let abandoned = [queue.send(Some(5)).await, queue.send(None).await];
    queue.until_asked(2).await;
    drop(abandoned);
    first.open();
    second.open();
    let mut seen = vec![queue.poll(Some(5)).await.text()];
    let ack = if seen[0] == events(6) { 6 } else { 7 };
    seen.push(queue.poll(Some(ack)).await.text());
    seen.sort();
    assert_eq!(seen, [events(6), events(7)]);
}
