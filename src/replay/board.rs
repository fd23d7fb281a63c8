//! What the coordinator and the stand-ins of one pass tell each other, and what they count.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::report::Served;
use super::script::{Assembly, Block, DatagramKind, Piece, Script};
use crate::asset::AssetKind;

/// The most error texts kept of one pass.
const MAX_ERRORS: usize = 50;
/// How long a datagram may take before it is lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(5);

/// A ledger that many tasks write, and whose changes can be waited for.
#[derive(Debug)]
pub(crate) struct Board {
    ledger: Mutex<Ledger>,
    version: watch::Sender<u64>,
}

/// The state of a pass.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Per exchange: whether the grid may answer.
    pub(crate) released: Vec<bool>,
    /// Per exchange: whether its request has come to the grid.
    pub(crate) arrived: Vec<bool>,
    /// Per exchange: whether the viewer has its whole response, or gave up.
    pub(crate) responded: Vec<bool>,
    /// Per download.
    pub(crate) downloads: Vec<DownloadState>,
    /// Datagrams on their way.
    pub(crate) outstanding: BTreeMap<u64, Expected>,
    next_expected: u64,
    pub(crate) errors: Vec<String>,
    pub(crate) mismatched: u64,
    pub(crate) missing: u64,
    pub(crate) lost: u64,
    pub(crate) intact: u64,
    /// Datagrams that arrived intact with another number than they were sent with.
    pub(crate) renumbered: u64,
    pub(crate) served: Served,
    pub(crate) from_grid: u64,
    pub(crate) to_viewer: u64,
    pub(crate) latencies: Vec<Duration>,
    /// Whole assets of the capture that were asked of the grid over HTTP, and of which host.
    pub(crate) asked_of_grid: BTreeMap<(AssetKind, Uuid, String), u32>,
    /// The same for simulators over LLUDP.
    pub(crate) asked_of_simulator: BTreeMap<(AssetKind, Uuid, String), u32>,
    /// Requests that did not come to the simulator because their assets came without it.
    pub(crate) excused: u64,
    /// What the viewer received of each asset; only kept for `--save`.
    pub(crate) received: Option<HashMap<Uuid, Assembly>>,
}

/// One download in this pass.
#[derive(Debug, Default)]
pub(crate) struct DownloadState {
    /// When the viewer first asked.
    pub(crate) asked: Option<Instant>,
    /// The request has reached the simulator, and its answers are queued.
    pub(crate) answered: bool,
    pub(crate) from_grid: u64,
    pub(crate) assembly: Assembly,
    /// Which answers have come.
    pub(crate) pieces: BTreeSet<Piece>,
    pub(crate) complete: bool,
    /// It did not come in time.
    pub(crate) given_up: bool,
}

/// A datagram that was sent and has not yet arrived.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) circuit: usize,
    pub(crate) to_simulator: bool,
    pub(crate) kind: DatagramKind,
    /// As [`super::udp::content`] gives it.
    pub(crate) content: Bytes,
    pub(crate) resent: bool,
    pub(crate) sequence: u32,
    pub(crate) sent: Instant,
    /// What it says of downloads; a proxy may have taken blocks out.
    pub(crate) blocks: Vec<Block>,
}

impl Board {
    /// An empty ledger; with `keep_bodies` it keeps what the viewer receives.
    pub(crate) fn new(script: &Script, keep_bodies: bool) -> Self {
        let ledger = Ledger {
            released: vec![false; script.exchanges.len()],
            arrived: vec![false; script.exchanges.len()],
            received: keep_bodies.then(HashMap::new),
            responded: vec![false; script.exchanges.len()],
            downloads: script.downloads.iter().map(|_| DownloadState::default()).collect(),
            ..Ledger::default()
        };
        Self { ledger: Mutex::new(ledger), version: watch::Sender::new(0) }
    }

    /// Changes the ledger and wakes those who wait for a change.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        let result = self.read(change);
        self.version.send_modify(|version| *version += 1);
        result
    }

    /// Looks into the ledger without waking anybody.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&mut Ledger) -> R) -> R {
        look(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `condition` holds. False when it does not in time.
    pub(crate) async fn wait(&self, limit: Duration, condition: impl Fn(&mut Ledger) -> bool) -> bool {
        let mut changes = self.version.subscribe();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                if self.read(&condition) {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok() || self.read(&condition)
    }

    /// Notes an error; beyond a number nobody would read they are dropped.
    pub(crate) fn error(&self, text: String) {
        self.update(|ledger| ledger.error(text));
    }
}

impl Ledger {
    pub(crate) fn error(&mut self, text: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(text);
        }
    }

    /// Notes a datagram as sent.
    pub(crate) fn expect(&mut self, expected: Expected) {
        self.outstanding.insert(self.next_expected, expected);
        self.next_expected += 1;
    }

    /// Keeps a part of an asset as the viewer received it, if they are kept.
    pub(crate) fn keep(&mut self, id: Uuid, total: usize, first: usize, body: &Bytes) {
        if let Some(received) = &mut self.received {
            received.entry(id).or_default().add(total, first, body);
        }
    }

    /// Strikes off the datagram that has arrived with this content; the same number and mark first.
    pub(crate) fn delivered(
        &mut self,
        circuit: usize,
        to_simulator: bool,
        content: &[u8],
        sequence: u32,
        resent: bool,
    ) -> bool {
        let candidates = self.outstanding.iter().filter(|(_, expected)| {
            expected.circuit == circuit
                && expected.to_simulator == to_simulator
                && expected.content == content
        });
        let best = candidates
            .min_by_key(|(id, expected)| (expected.sequence != sequence, expected.resent != resent, **id));
        let Some(id) = best.map(|(id, _)| *id) else { return false };
        let Some(expected) = self.outstanding.remove(&id) else { return false };
        self.intact += 1;
        self.renumbered +=
            u64::from(expected.sequence != sequence && expected.kind != DatagramKind::Malformed);
        true
    }

    /// Strikes off a request that has arrived without some of its blocks. What was taken out stays
    /// on the list until it has come without the simulator.
    pub(crate) fn delivered_in_part(&mut self, circuit: usize, content: &[u8], arrived: &[Block]) -> bool {
        let is_part = |expected: &Expected| {
            let mut sent = expected.blocks.iter();
            expected.circuit == circuit
                && expected.to_simulator
                && expected.kind == DatagramKind::AssetRequest
                && arrived.len() < expected.blocks.len()
                && same_front(&expected.content, content)
                && arrived.iter().all(|block| sent.any(|other| other == block))
        };
        let Some(expected) = self.outstanding.values_mut().find(|expected| is_part(expected)) else {
            return false;
        };
        for block in arrived {
            if let Some(index) = expected.blocks.iter().position(|other| other == block) {
                expected.blocks.remove(index);
            }
        }
        self.intact += 1;
        true
    }

    /// Whether a request need not arrive: what it asks for has come without it.
    fn is_excused(&self, script: &Script, expected: &Expected) -> bool {
        expected.kind == DatagramKind::AssetRequest
            && expected.to_simulator
            && expected.blocks.iter().all(|block| {
                let download = script.download(expected.circuit, block.id);
                let state = download.and_then(|(index, _)| self.downloads.get(index));
                state.is_some_and(|state| block.cancels || state.complete)
            })
    }

    /// True when nothing is on its way any more, or only what a proxy has `swallowed`.
    pub(crate) fn is_settled(&self, script: &Script, swallowed: bool) -> bool {
        let done = |expected: &Expected| swallowed && self.is_excused(script, expected);
        self.outstanding.values().all(done)
    }

    /// Takes what is overdue off the list and counts it as lost. Requests for assets that were
    /// answered all the same were swallowed on purpose.
    pub(crate) fn write_off(&mut self, script: &Script, swallowed: bool, all: bool) {
        let overdue: Vec<u64> = self
            .outstanding
            .iter()
            .filter(|(_, expected)| all || expected.sent.elapsed() >= LOST_AFTER)
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            let Some(expected) = self.outstanding.remove(&id) else { continue };
            if swallowed && self.is_excused(script, &expected) {
                self.excused += 1;
                continue;
            }
            self.lost += 1;
            let to = if expected.to_simulator { "the simulator" } else { "the viewer" };
            let simulator = script.circuits.get(expected.circuit).map(|circuit| circuit.simulator.port());
            self.error(format!(
                "circuit with simulator port {}: a datagram of {} bytes to {to} ({}) did not arrive intact",
                simulator.unwrap_or_default(),
                expected.content.len() + 5,
                super::udp::message_name(&expected.content),
            ));
        }
    }
}

/// Flags, message number, agent and session are the same; the number of blocks is not looked at.
fn same_front(sent: &[u8], arrived: &[u8]) -> bool {
    // Flags, extra length, message number, two ids. Source: `message_template.msg` (RequestImage).
    const FRONT: usize = 35;
    sent.len() > FRONT && sent.get(..FRONT) == arrived.get(..FRONT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use bytes::Bytes;
    use tokio::time::{Duration, Instant};

    use super::{Board, Expected, LOST_AFTER, Ledger};
    use crate::replay::pcap;
    use crate::replay::script::{Block, DatagramKind, Script};

    fn script() -> Script {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions/hippo-http.pcap");
        Script::new(&pcap::read(&path).unwrap()).unwrap()
    }

    fn expect(ledger: &mut Ledger, kind: DatagramKind, sequence: u32) {
        let content = Bytes::from_static(&[0, 0, 7]);
        let sent = Instant::now();
        ledger.expect(Expected {
            circuit: 0,
            to_simulator: true,
            kind,
            content,
            resent: false,
            sequence,
            sent,
            blocks: Vec::new(),
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_arrive_intact_in_time_is_lost() {
        let script = script();
        let board = Board::new(&script, false);
        board.update(|ledger| (1..=3).for_each(|sequence| expect(ledger, DatagramKind::Plain, sequence)));
        board.update(|ledger| {
            assert!(ledger.delivered(0, true, &[0, 0, 7], 2, false));
            assert_eq!(ledger.renumbered, 0);
            assert!(!ledger.delivered(0, true, &[0, 0, 8], 3, false), "other bytes");
            assert!(!ledger.delivered(0, false, &[0, 0, 7], 3, false), "the other direction");
            assert!(ledger.delivered(0, true, &[0, 0, 7], 9, false));
            assert_eq!((ledger.intact, ledger.renumbered), (2, 1));
        });
        assert!(!board.wait(LOST_AFTER, |ledger| ledger.outstanding.is_empty()).await);
        board.update(|ledger| ledger.write_off(&script, false, false));
        assert_eq!(board.read(|ledger| (ledger.lost, ledger.errors.len())), (1, 1));
    }

    #[test]
    fn ranges_that_cover_an_asset_are_kept_as_the_whole() {
        let id = uuid::Uuid::from_u128(7);
        let board = Board::new(&script(), true);
        board.update(|ledger| {
            ledger.keep(id, 6, 0, &Bytes::from_static(b"abc"));
            ledger.keep(id, 6, 2, &Bytes::from_static(b"cdef"));
        });
        let received = board.read(|ledger| ledger.received.take()).unwrap();
        assert_eq!(received[&id].clone().whole().unwrap().as_ref(), b"abcdef");
    }

    #[tokio::test(start_paused = true)]
    async fn only_requests_for_assets_may_be_swallowed() {
        let script = script();
        let board = Board::new(&script, false);
        board.update(|ledger| {
            expect(ledger, DatagramKind::AssetRequest, 1);
            expect(ledger, DatagramKind::Plain, 2);
        });
        tokio::time::advance(LOST_AFTER + Duration::from_millis(1)).await;
        board.update(|ledger| ledger.write_off(&script, true, false));
        assert_eq!(board.read(|ledger| (ledger.lost, ledger.outstanding.len())), (1, 0));
    }

    /// The script of a capture with textures over LLUDP, and one of its requests as it was sent.
    fn requests() -> (Script, Expected) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions/hippo-udp.pcap");
        let script = Script::new(&pcap::read(&path).unwrap()).unwrap();
        let blocks = script.downloads.iter().filter(|download| download.counted).take(3);
        let blocks: Vec<Block> = blocks.map(|download| Block { id: download.id, cancels: false }).collect();
        let expected = Expected {
            circuit: script.downloads[0].circuit,
            to_simulator: true,
            kind: DatagramKind::AssetRequest,
            content: Bytes::from(vec![7; 120]),
            resent: false,
            sequence: 9,
            sent: Instant::now(),
            blocks,
        };
        (script, expected)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_taken_apart_is_settled_when_the_rest_has_come_without_it() {
        let (script, expected) = requests();
        let (circuit, blocks) = (expected.circuit, expected.blocks.clone());
        let board = Board::new(&script, false);
        board.update(|ledger| {
            ledger.expect(expected);
            assert!(!ledger.delivered_in_part(circuit, &[8; 60], &blocks[1..2]), "another sender");
            let foreign = Block { id: blocks[0].id, cancels: true };
            assert!(!ledger.delivered_in_part(circuit, &[7; 60], &[foreign]), "never sent so");
            assert!(ledger.delivered_in_part(circuit, &[7; 60], &blocks[1..2]));
            assert!(!ledger.is_settled(&script, true));
            for block in [blocks[0], blocks[2]] {
                let index = script.download(circuit, block.id).unwrap().0;
                ledger.downloads[index].complete = true;
            }
            assert!(ledger.is_settled(&script, true));
            assert!(!ledger.is_settled(&script, false), "nothing was swallowed");
        });
        tokio::time::advance(LOST_AFTER + Duration::from_millis(1)).await;
        board.update(|ledger| ledger.write_off(&script, true, false));
        assert_eq!(board.read(|ledger| (ledger.lost, ledger.excused)), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_went_nowhere_is_lost_unless_its_assets_came() {
        let (script, expected) = requests();
        let board = Board::new(&script, false);
        board.update(|ledger| ledger.expect(expected));
        tokio::time::advance(LOST_AFTER + Duration::from_millis(1)).await;
        board.update(|ledger| ledger.write_off(&script, true, false));
        assert_eq!(board.read(|ledger| (ledger.lost, ledger.excused)), (1, 0));
    }
}
