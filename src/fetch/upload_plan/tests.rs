#![allow(clippy::unwrap_used, clippy::panic)]
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn entry(number: u128, size: u64) -> Entry {
    Entry {
        key: AssetKey {
            grid: GridId::new("grid.example"),
            kind: AssetKind::Texture,
            id: AssetId(Uuid::from_u128(number)),
        },
        origin: Origin::new("sim.example"),
        central: false,
        digest: Digest::of(&number.to_be_bytes()),
        size,
        queued: 1_000_000,
        resolved_private: false,
    }
}

/// A queue at a time of its own.
struct Rig {
    plan: UploadPlan,
    now: Instant,
    gone: Vec<(Number, Dropped)>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        Self { plan: UploadPlan::new(limits, Dice::new(1)), now: Instant::now(), gone: Vec::new() }
    }

    fn offer(&mut self, entry: Entry) -> Offered {
        self.plan.offer(entry, self.now, &mut self.gone)
    }

    fn next(&mut self) -> Next {
        self.plan.next(self.now, 0)
    }

    fn send(&mut self) -> (Number, Entry) {
        match self.next() {
            Next::Send(number, entry) => (number, entry),
            other => panic!("{other:?}"),
        }
    }

    fn ended(&mut self, number: Number, outcome: Outcome) -> bool {
        self.plan.ended(number, outcome, self.now, &mut self.gone)
    }

    fn reasons(&self) -> Vec<Dropped> {
        self.gone.iter().map(|(_, reason)| *reason).collect()
    }
}

fn at_once() -> Limits {
    Limits { wait: Duration::ZERO, ..Limits::default() }
}

#[test]
fn everything_waits_a_minute_first() {
    let mut rig = Rig::new(Limits::default());
    let Offered::Queued(number) = rig.offer(entry(1, 100)) else { panic!() };
    assert_eq!(rig.next(), Next::Wait(rig.now + 60 * SECOND));
    rig.now += 59 * SECOND;
    assert!(matches!(rig.next(), Next::Wait(_)));
    rig.now += SECOND;
    assert_eq!(rig.send().0, number);
    assert!(rig.ended(number, Outcome::Done));
    assert_eq!(rig.plan.size(), (0, 0));
    assert_eq!(rig.next(), Next::Rest);
    assert!(rig.gone.is_empty());
}

#[test]
fn a_bake_is_dropped_while_it_waits_and_not_taken_again() {
    let mut rig = Rig::new(Limits::default());
    rig.offer(entry(1, 100));
    rig.offer(entry(2, 100));
    let grid = GridId::new("grid.example");
    rig.now += 30 * SECOND;
    rig.plan.baked(&grid, &[AssetId(Uuid::from_u128(1))], &mut rig.gone);
    assert_eq!(rig.reasons(), [Dropped::Baked]);
    assert_eq!(rig.offer(entry(1, 100)), Offered::Baked);
    // The same id on another grid is something else.
    let mut elsewhere = entry(1, 100);
    elsewhere.key.grid = GridId::new("other.example");
    assert!(matches!(rig.offer(elsewhere), Offered::Queued(_)));
    rig.now += 30 * SECOND;
    assert_eq!(rig.send().1.key.id, AssetId(Uuid::from_u128(2)));
}

#[test]
fn a_bake_that_shows_itself_while_it_is_sent_is_not_sent_again() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 100));
    let (number, sent) = rig.send();
    rig.plan.baked(&sent.key.grid, &[sent.key.id], &mut rig.gone);
    assert!(rig.gone.is_empty() && rig.plan.is_baked(&sent.key));
    assert!(rig.ended(number, Outcome::Unreachable));
    assert_eq!(rig.reasons(), [Dropped::Baked]);
    assert_eq!(rig.plan.size(), (0, 0));
}

#[test]
fn what_is_withdrawn_while_it_is_sent_does_not_come_back() {
    for outcome in
        [Outcome::Busy(None), Outcome::Unreachable, Outcome::Trouble, Outcome::DiskBusy, Outcome::Unknown]
    {
        let mut rig = Rig::new(at_once());
        rig.offer(entry(1, 100));
        let (number, sent) = rig.send();
        assert_eq!(rig.plan.doom(number), None);
        rig.plan.withdraw(Some(&GridId::new("other.example")), &mut rig.gone);
        assert_eq!(rig.plan.doom(number), None);
        rig.plan.withdraw(Some(&sent.key.grid), &mut rig.gone);
        assert_eq!((rig.plan.doom(number), rig.gone.len()), (Some(Dropped::Withdrawn), 0));
        assert!(rig.ended(number, outcome), "{outcome:?}");
        assert_eq!(rig.gone, [(number, Dropped::Withdrawn)]);
        rig.now += 3600 * SECOND;
        assert_eq!((rig.next(), rig.plan.size()), (Next::Rest, (0, 0)));
    }
    // What came through came through, and is not told as dropped.
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 100));
    let (number, _) = rig.send();
    rig.plan.withdraw(None, &mut rig.gone);
    assert!(rig.ended(number, Outcome::Done) && rig.gone.is_empty());
}

#[test]
fn what_the_origin_has_changed_while_it_was_sent_does_not_come_back() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 100));
    let (first, _) = rig.send();
    let changed = Entry { digest: Digest::of(b"other"), ..entry(1, 100) };
    let Offered::Queued(second) = rig.offer(changed) else { panic!() };
    // And back again: the first is on its way, but is not the one that stays.
    let Offered::Queued(third) = rig.offer(entry(1, 100)) else { panic!() };
    assert_eq!(rig.gone, [(second, Dropped::Changed)]);
    assert!(rig.ended(first, Outcome::Trouble));
    assert_eq!(rig.gone.last(), Some(&(first, Dropped::Changed)));
    assert_eq!(rig.send().0, third);
}

#[test]
fn a_grid_s_bakes_are_known_under_the_name_it_takes_on() {
    let mut rig = Rig::new(at_once());
    let (before, now) = (GridId::new("configured.example"), GridId::new("grid.example"));
    rig.offer(entry(1, 100));
    rig.plan.baked(&before, &[1, 3].map(|id| AssetId(Uuid::from_u128(id))), &mut rig.gone);
    assert!(rig.gone.is_empty());
    rig.plan.renamed(&before, &now, &mut rig.gone);
    assert_eq!(rig.reasons(), [Dropped::Baked]);
    assert_eq!(rig.offer(entry(3, 100)), Offered::Baked);
    assert!(matches!(rig.offer(entry(2, 100)), Offered::Queued(_)));
}

#[test]
fn one_asset_of_one_origin_is_queued_once() {
    let mut rig = Rig::new(at_once());
    let Offered::Queued(first) = rig.offer(entry(1, 100)) else { panic!() };
    assert_eq!(rig.offer(entry(1, 100)), Offered::Known);
    let mut elsewhere = entry(1, 100);
    elsewhere.origin = Origin::new("other.example");
    assert!(matches!(rig.offer(elsewhere), Offered::Queued(_)), "each origin is a witness of its own");
    let changed = Entry { digest: Digest::of(b"other"), size: 50, ..entry(1, 100) };
    assert!(matches!(rig.offer(changed), Offered::Queued(_)));
    assert_eq!(rig.gone, [(first, Dropped::Changed)]);
    assert_eq!(rig.plan.size(), (2, 150));
}

#[test]
fn small_ones_go_first_and_none_waits_for_ever() {
    let mut rig = Rig::new(Limits { parallel: 100, ..at_once() });
    for (number, size) in [(1, 5 << 20), (2, 100 << 10), (3, 10), (4, 20), (5, 30), (6, 40)] {
        rig.offer(entry(number, size));
    }
    let order: Vec<u64> = (0..6).map(|_| rig.send().0.0).collect();
    assert_eq!(order, [3, 4, 5, 1, 6, 2]);
}

#[test]
fn no_more_are_sent_at_a_time_than_may() {
    let mut rig = Rig::new(at_once());
    for number in 1..=3 {
        rig.offer(entry(number, 10));
    }
    let first = rig.send().0;
    rig.send();
    assert_eq!(rig.next(), Next::Rest);
    rig.ended(first, Outcome::Done);
    rig.send();
}

#[test]
fn uploads_yield_to_viewers_but_not_for_ever() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 10));
    rig.offer(entry(2, 10));
    let start = rig.now;
    let number = loop {
        match rig.plan.next(rig.now, 3) {
            Next::Wait(later) => rig.now = later,
            Next::Send(number, _) => break number,
            Next::Rest => panic!("nothing would wake it"),
        }
    };
    assert_eq!(rig.now - start, rig.plan.limits.patience);
    // Only one then, and the next waits as long.
    assert!(!matches!(rig.plan.next(rig.now, 3), Next::Send(..)));
    rig.ended(number, Outcome::Done);
    assert!(matches!(rig.plan.next(rig.now, 3), Next::Wait(_)));
    // A pause of the viewers is used at once.
    assert!(matches!(rig.plan.next(rig.now, 0), Next::Send(..)));
}

#[test]
fn a_pause_holds_everything_back() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 10));
    rig.plan.pause();
    assert_eq!(rig.next(), Next::Rest);
    rig.plan.resume();
    rig.send();
}

#[test]
fn a_busy_service_is_left_alone_as_long_as_it_says() {
    for said in [None, Some(30 * SECOND)] {
        let mut rig = Rig::new(at_once());
        rig.offer(entry(1, 10));
        rig.offer(entry(2, 10));
        let (number, _) = rig.send();
        rig.ended(number, Outcome::Busy(said));
        let Next::Wait(until) = rig.next() else { panic!() };
        let least = said.unwrap_or(2 * SECOND);
        assert!(until >= rig.now + least && until <= rig.now + 2 * least);
        rig.now = until;
        rig.send();
        assert!(rig.gone.is_empty());
    }
    // Not longer than makes sense.
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 10));
    let (number, _) = rig.send();
    rig.ended(number, Outcome::Busy(Some(Duration::MAX)));
    let Next::Wait(until) = rig.next() else { panic!() };
    assert!(until <= rig.now + 2 * Duration::from_secs(3600));
}

#[test]
fn an_absent_service_is_tried_ever_less_often_with_one_at_a_time() {
    let mut rig = Rig::new(at_once());
    for number in 1..=5 {
        rig.offer(entry(number, 10));
    }
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let (number, _) = rig.send();
        if !pauses.is_empty() {
            assert!(!matches!(rig.next(), Next::Send(..)), "one goes first, to see");
        }
        rig.ended(number, Outcome::Unreachable);
        let Next::Wait(until) = rig.next() else { panic!() };
        pauses.push(until - rig.now);
        rig.now = until;
    }
    assert!(pauses.first().unwrap() < &(2 * SECOND));
    assert!(pauses.last().unwrap() > &(200 * SECOND) && pauses.iter().all(|pause| *pause <= 375 * SECOND));
    // When it is back everything goes, and nothing was lost.
    let mut sent = 0;
    loop {
        match rig.next() {
            Next::Send(number, _) => {
                rig.ended(number, Outcome::Done);
                sent += 1;
            }
            Next::Wait(later) => rig.now = later,
            Next::Rest => break,
        }
    }
    assert_eq!((sent, rig.plan.size(), rig.gone.len()), (5, (0, 0), 0));
}

#[test]
fn what_is_refused_for_good_is_not_tried_again() {
    for reason in [Dropped::Conflict, Dropped::Refused, Dropped::Missing] {
        let mut rig = Rig::new(at_once());
        rig.offer(entry(1, 10));
        rig.offer(entry(2, 10));
        let (number, _) = rig.send();
        assert!(rig.ended(number, Outcome::Drop(reason)));
        assert_eq!(rig.gone, [(number, reason)]);
        rig.send();
    }
}

#[test]
fn forbidden_once_is_a_take_down_and_always_is_about_us() {
    let mut rig = Rig::new(at_once());
    for number in 1..=20 {
        rig.offer(entry(number, 10));
    }
    for _ in 1..FORBIDDEN_LIMIT {
        let (number, _) = rig.send();
        assert!(rig.ended(number, Outcome::Forbidden));
    }
    let (number, _) = rig.send();
    assert!(!rig.ended(number, Outcome::Forbidden), "kept");
    assert!(rig.reasons().iter().all(|reason| *reason == Dropped::TakenDown));
    assert_eq!(rig.gone.len(), 7);
    let Next::Wait(until) = rig.next() else { panic!() };
    assert!(until > rig.now + 400 * SECOND);
    rig.now = until;
    // An operator has given us the right to write meanwhile.
    let (number, _) = rig.send();
    rig.ended(number, Outcome::Done);
    rig.send();
}

#[test]
fn a_token_that_is_not_known_costs_no_asset() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 10));
    for _ in 0..50 {
        let (number, _) = rig.send();
        assert!(!rig.ended(number, Outcome::Unknown));
        let Next::Wait(until) = rig.next() else { panic!() };
        assert!(until > rig.now + 400 * SECOND);
        rig.now = until;
    }
    assert!(rig.gone.is_empty());
}

#[test]
fn an_asset_the_service_stumbles_over_does_not_hold_up_others() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 10));
    for attempt in 1..=MAX_ATTEMPTS {
        let (number, _) = rig.send();
        assert_eq!(number, Number(1));
        assert_eq!(rig.ended(number, Outcome::Trouble), attempt == MAX_ATTEMPTS);
        if attempt == 1 {
            rig.offer(entry(2, 10));
            let (other, _) = rig.send();
            rig.ended(other, Outcome::Done);
        }
        if let Next::Wait(later) = rig.next() {
            assert!(later > rig.now);
            rig.now = later;
        }
    }
    assert_eq!(rig.gone, [(Number(1), Dropped::Failed)]);
}

#[test]
fn the_oldest_go_when_there_is_no_room() {
    let mut rig = Rig::new(Limits { entries: 3, bytes: 1000, ..at_once() });
    for number in 1..=4 {
        rig.offer(entry(number, 10));
    }
    assert_eq!(rig.gone, [(Number(1), Dropped::Full)]);
    rig.offer(entry(5, 985));
    assert_eq!(rig.plan.size(), (2, 995));
    assert_eq!(rig.offer(entry(6, 1001)), Offered::TooLarge);
    assert_eq!(rig.plan.size(), (2, 995));
}

#[test]
fn what_is_too_old_goes() {
    let mut rig = Rig::new(at_once());
    rig.offer(entry(1, 10));
    rig.offer(Entry { queued: 1_000_500, ..entry(2, 10) });
    let week = 7 * 86_400;
    rig.plan.expire(1_000_000 + week, &mut rig.gone);
    assert!(rig.gone.is_empty());
    rig.plan.expire(1_000_100 + week, &mut rig.gone);
    assert_eq!(rig.gone, [(Number(1), Dropped::Old)]);
    // A clock that was set back drops nothing.
    rig.plan.expire(0, &mut rig.gone);
    assert_eq!(rig.plan.size(), (1, 10));
}

#[test]
fn an_earlier_run_s_queue_goes_on_and_waits_anew() {
    let mut rig = Rig::new(Limits::default());
    rig.plan.restore(Number(7), entry(1, 10), rig.now, &mut rig.gone);
    assert_eq!(rig.offer(entry(1, 10)), Offered::Known);
    assert_eq!(rig.offer(entry(2, 10)), Offered::Queued(Number(8)), "numbers are not used twice");
    assert_eq!(rig.next(), Next::Wait(rig.now + 60 * SECOND));
    rig.plan.withdraw(Some(&GridId::new("other.example")), &mut rig.gone);
    assert!(rig.gone.is_empty());
    rig.plan.withdraw(Some(&GridId::new("grid.example")), &mut rig.gone);
    assert_eq!(rig.reasons(), [Dropped::Withdrawn; 2]);
    assert_eq!(rig.next(), Next::Rest);
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u8, u8, u16),
    Baked(u8),
    Withdraw,
    Go(u16),
    End(Outcome),
    Expire,
    Pause(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(Outcome::Done),
        Just(Outcome::Busy(None)),
        Just(Outcome::Unreachable),
        Just(Outcome::Forbidden),
        Just(Outcome::Unknown),
        Just(Outcome::Trouble),
        Just(Outcome::DiskBusy),
        Just(Outcome::Drop(Dropped::Conflict)),
    ];
    prop_oneof![
        4 => (0..20_u8, 0..2_u8, 1..400_u16).prop_map(|(id, origin, size)| Step::Offer(id, origin, size)),
        1 => (0..20_u8).prop_map(Step::Baked),
        1 => Just(Step::Withdraw),
        4 => (0..2000_u16).prop_map(Step::Go),
        3 => outcome.prop_map(Step::End),
        1 => Just(Step::Expire),
        1 => any::<bool>().prop_map(Step::Pause),
    ]
}

proptest! {
    /// Whatever happens: bounds hold, sums agree, every entry that was queued is either held, done or
    /// told as gone, exactly once, and nothing that is known as a bake is ever sent.
    #[test]
    fn nothing_is_lost_and_nothing_grows(steps in prop::collection::vec(step(), 1..300)) {
        let limits = Limits { entries: 8, bytes: 1500, wait: 5 * SECOND, ..Limits::default() };
        let mut rig = Rig::new(limits);
        let mut unix = 1_000_000;
        let mut queued = BTreeSet::new();
        let mut left = BTreeSet::new();
        let mut sending = Vec::new();
        let mut doomed: BTreeSet<Number> = BTreeSet::new();
        let grid = GridId::new("grid.example");
        for step in steps {
            match step {
                Step::Offer(id, origin, size) => {
                    let mut entry = entry(id.into(), size.into());
                    entry.origin = Origin::new(if origin == 0 { "a" } else { "b" });
                    entry.queued = unix;
                    if let Offered::Queued(number) = rig.offer(entry) {
                        prop_assert!(queued.insert(number));
                    }
                }
                Step::Baked(id) => {
                    rig.plan.baked(&grid, &[AssetId(Uuid::from_u128(id.into()))], &mut rig.gone);
                }
                Step::Withdraw => rig.plan.withdraw(Some(&grid), &mut rig.gone),
                Step::Go(tenths) => {
                    rig.now += Duration::from_millis(u64::from(tenths) * 100);
                    unix += u64::from(tenths) / 10;
                    match rig.next() {
                        Next::Send(number, entry) => {
                            prop_assert!(!rig.plan.is_baked(&entry.key));
                            prop_assert!(!doomed.contains(&number), "sent again");
                            sending.push(number);
                        }
                        Next::Wait(later) => prop_assert!(later > rig.now),
                        Next::Rest => {}
                    }
                }
                Step::End(outcome) => {
                    if let Some(number) = sending.pop() {
                        let told = rig.gone.len();
                        if rig.ended(number, outcome) && rig.gone.len() == told {
                            prop_assert!(left.insert(number));
                        }
                    }
                }
                Step::Expire => rig.plan.expire(unix, &mut rig.gone),
                Step::Pause(true) => rig.plan.pause(),
                Step::Pause(false) => rig.plan.resume(),
            }
            doomed.extend(sending.iter().filter(|number| rig.plan.doom(**number).is_some()));
            for (number, _) in rig.gone.drain(..) {
                prop_assert!(left.insert(number), "told twice");
            }
            let held: BTreeSet<Number> = rig.plan.entries().map(|(number, _)| number).collect();
            prop_assert!(held.is_disjoint(&left));
            prop_assert_eq!(&(&held | &left), &queued);
            let bytes: u64 = rig.plan.entries().map(|(_, entry)| entry.size).sum();
            prop_assert_eq!(rig.plan.size(), (held.len(), bytes));
            prop_assert_eq!(rig.plan.sending(), sending.len());
            // What is being sent cannot be dropped to make room.
            prop_assert!(held.len() <= 8 + sending.len() && bytes <= 1500 + 400 * sending.len() as u64);
        }
    }
}
