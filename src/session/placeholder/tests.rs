#![allow(clippy::unwrap_used)]
use super::*;
use uuid::Uuid;

const SIMULATOR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 9000);

struct Bench {
    placeholders: Placeholders,
    outputs: VecDeque<Output>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { placeholders: Placeholders::default(), outputs: VecDeque::new(), now: Instant::now() }
    }

    fn judge(&mut self, id: AssetId, body: &'static [u8]) -> Verdict {
        let kind = AssetKind::Texture;
        let bytes = Bytes::from_static(body);
        self.placeholders.judge(self.now, SIMULATOR, kind, id, bytes, &mut self.outputs)
    }

    /// Ids learnt and bodies refused since the last call.
    fn taken(&mut self) -> (Vec<AssetId>, usize) {
        let outputs = std::mem::take(&mut self.outputs);
        let learnt = outputs.iter().filter_map(|output| match output {
            Output::Learned { id, .. } => Some(*id),
            _ => None,
        });
        let refused = outputs.iter().filter(|output| matches!(output, Output::Unlearnt)).count();
        (learnt.collect(), refused)
    }
}

fn id(number: u128) -> AssetId {
    AssetId(Uuid::from_u128(number))
}

#[test]
fn textures_wait_until_the_picture_is_known_and_what_equals_it_is_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.judge(id(1), b"a texture"), Verdict::LookUp);
    assert_eq!(bench.judge(id(2), b"blank"), Verdict::Settled);
    assert_eq!(bench.taken(), (vec![], 0));
    assert!(
        bench.placeholders.looked_up(*SIMULATOR.ip(), None, &mut bench.outputs),
        "the simulator is asked"
    );
    assert_eq!(bench.judge(policy::MISSING_IMAGE, b"blank"), Verdict::Settled);
    assert_eq!(bench.taken(), (vec![id(1), policy::MISSING_IMAGE], 1));
    bench.judge(id(3), b"blank");
    bench.judge(id(4), b"another");
    assert_eq!(bench.taken(), (vec![id(4)], 1));
    assert_eq!(bench.placeholders.waiting_bytes, 0);
}

#[test]
fn a_picture_found_at_home_need_not_be_asked_for() {
    let mut bench = Bench::new();
    bench.judge(id(1), b"blank");
    let digest = Some(Digest::of(b"blank"));
    assert!(!bench.placeholders.looked_up(*SIMULATOR.ip(), digest, &mut bench.outputs));
    assert_eq!(bench.taken(), (vec![], 1));
}

#[test]
fn a_grid_without_such_a_picture_sends_none() {
    let mut bench = Bench::new();
    bench.judge(id(1), b"a texture");
    bench.placeholders.absent(SIMULATOR, &mut bench.outputs);
    bench.judge(id(2), b"another");
    assert_eq!(bench.taken(), (vec![id(1), id(2)], 0));
}

#[test]
fn silence_is_not_waited_out_for_ever() {
    let mut bench = Bench::new();
    bench.judge(id(1), b"a texture");
    bench.placeholders.tick(bench.now + ANSWER_LIMIT / 2, false, &mut bench.outputs);
    assert_eq!(bench.taken(), (vec![], 0));
    bench.placeholders.tick(bench.now + ANSWER_LIMIT, false, &mut bench.outputs);
    assert_eq!(bench.taken(), (vec![id(1)], 0));
}

#[test]
fn other_kinds_have_no_such_picture() {
    let mut bench = Bench::new();
    let kind = AssetKind::Sound;
    let bytes = Bytes::from_static(b"OggS");
    bench.placeholders.judge(bench.now, SIMULATOR, kind, id(1), bytes, &mut bench.outputs);
    assert_eq!(bench.taken(), (vec![id(1)], 0));
}

#[test]
fn what_comes_under_several_names_is_not_learnt_when_the_simulator_never_says() {
    let mut bench = Bench::new();
    bench.judge(id(1), b"blank");
    bench.judge(id(2), b"a texture");
    bench.judge(id(3), b"blank");
    bench.placeholders.unanswered(SIMULATOR, &mut bench.outputs);
    assert_eq!(bench.taken(), (vec![id(2)], 2));
    assert_eq!(bench.judge(id(4), b"another"), Verdict::LookUp, "it is asked anew");
}
