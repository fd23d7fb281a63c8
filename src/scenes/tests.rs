//! The machine on a clock of its own, the book at its bounds, and records both ways.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::*;
use crate::grid::GridId;

fn region(number: u64) -> RegionKey {
    RegionKey { grid: GridId::new("grid.example"), handle: (number << 40) | (1000 * 256) }
}

fn id(number: u128) -> AssetId {
    AssetId(Uuid::from_u128(number))
}

struct Clock {
    start: Instant,
    scenes: Scenes,
    ms: u64,
}

const ME: Visitor = Visitor(1);

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), scenes: Scenes::default(), ms: 0 }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.ms)
    }

    fn arrive(&mut self, number: u64) {
        let now = self.now();
        self.scenes.arrived(now, 1000 + self.ms / 1000, ME, &region(number));
    }

    fn ask(&mut self, number: u128) -> Option<Open> {
        let now = self.now();
        self.scenes.begun(now, ME, AssetKind::Texture, id(number), &Origin::new("sim"))
    }

    /// Ticks as time passes, as the proxy does.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.ms += 100;
            let now = self.now();
            self.scenes.tick(now);
        }
    }

    fn progress(&self) -> Progress {
        self.scenes.now()[0].progress
    }
}

#[test]
fn a_scene_is_complete_when_all_came_and_nothing_more_was_asked_and_the_silence_is_not_counted() {
    let mut clock = Clock::new();
    clock.arrive(1);
    clock.pass(400);
    let (first, second) = (clock.ask(1).unwrap(), clock.ask(2).unwrap());
    clock.pass(300);
    clock.scenes.ended(clock.now(), first, true);
    clock.pass(8000);
    assert_eq!(clock.progress(), Progress::Coming, "one is still open");
    clock.scenes.ended(clock.now(), second, false);
    clock.pass(4900);
    assert_eq!(clock.progress(), Progress::Coming);
    clock.pass(100);
    assert_eq!(clock.progress(), Progress::Complete(Duration::from_millis(8700)));
    let done = clock.scenes.recent().next().unwrap();
    assert_eq!((done.took, done.asked, done.hits), (Duration::from_millis(8700), 2, 1));
    let kept = clock.scenes.book().get(&region(1)).unwrap();
    assert_eq!(kept.first_scene, Some(SceneTime { ms: 8700, asked: 2, hits: 1 }));
}

#[test]
fn a_wave_within_the_quiet_time_belongs_to_the_scene_and_one_after_it_does_not() {
    let mut clock = Clock::new();
    clock.arrive(1);
    for wave in 0..3 {
        let open = clock.ask(wave).unwrap();
        clock.pass(200);
        clock.scenes.ended(clock.now(), open, true);
        clock.pass(4000);
    }
    assert_eq!(clock.progress(), Progress::Coming);
    clock.pass(2000);
    assert_eq!(clock.progress(), Progress::Complete(Duration::from_millis(8600)));
    let late = clock.ask(99).unwrap();
    clock.pass(100);
    clock.scenes.ended(clock.now(), late, true);
    clock.pass(9000);
    assert_eq!(clock.progress(), Progress::Complete(Duration::from_millis(8600)));
    assert_eq!(clock.scenes.completed(), 1);
}

#[test]
fn nothing_asked_is_no_scene_and_a_restless_one_is_given_up() {
    let mut clock = Clock::new();
    clock.arrive(1);
    clock.pass(60_000);
    assert_eq!(clock.progress(), Progress::Coming);
    for n in 0..300 {
        let open = clock.ask(n).unwrap();
        clock.scenes.ended(clock.now(), open, true);
        clock.pass(2000);
    }
    assert_eq!(clock.progress(), Progress::Unsettled);
    clock.pass(30_000);
    assert_eq!((clock.progress(), clock.scenes.completed()), (Progress::Unsettled, 0));
}

#[test]
fn a_request_that_hangs_does_not_hold_the_scene_for_ever() {
    let mut clock = Clock::new();
    clock.arrive(1);
    let _hangs = clock.ask(1).unwrap();
    let comes = clock.ask(2).unwrap();
    clock.pass(1000);
    clock.scenes.ended(clock.now(), comes, false);
    clock.pass(59_000);
    assert_eq!(clock.progress(), Progress::Coming);
    clock.pass(2000);
    assert_eq!(clock.progress(), Progress::Complete(Duration::from_secs(1)));
}

#[test]
fn what_was_asked_before_a_teleport_does_not_disturb_the_scene_after_it() {
    let mut clock = Clock::new();
    clock.arrive(1);
    let before = clock.ask(1).unwrap();
    clock.pass(500);
    clock.arrive(2);
    let after = clock.ask(2).unwrap();
    clock.pass(500);
    clock.scenes.ended(clock.now(), before, true);
    clock.pass(6000);
    assert_eq!(clock.progress(), Progress::Coming, "the region's own request is still open");
    clock.scenes.ended(clock.now(), after, false);
    clock.pass(5000);
    assert_eq!(clock.progress(), Progress::Complete(Duration::from_millis(6500)));
    assert_eq!(clock.scenes.book().get(&region(1)).unwrap().hits, 0);
}

#[test]
fn being_told_again_of_the_same_region_is_no_arrival_and_coming_back_is_one() {
    let mut clock = Clock::new();
    clock.arrive(1);
    clock.ask(1);
    clock.arrive(1);
    assert_eq!(clock.scenes.now()[0].asked, 1);
    clock.arrive(2);
    clock.arrive(1);
    assert_eq!(clock.scenes.now()[0].asked, 0);
    assert_eq!(clock.scenes.book().get(&region(1)).unwrap().visits, 2);
}

#[test]
fn downloads_over_lludp_hold_the_scene_as_long_as_they_are_under_way() {
    let mut clock = Clock::new();
    clock.arrive(1);
    clock.scenes.begun_udp(clock.now(), ME, AssetKind::Sound, id(5), &Origin::new("sim"));
    clock.scenes.udp_open(ME, 1);
    clock.pass(9000);
    clock.scenes.ended_udp(clock.now(), ME, true);
    clock.scenes.udp_open(ME, 0);
    clock.pass(5000);
    assert_eq!(clock.progress(), Progress::Complete(Duration::from_secs(9)));
    assert_eq!(clock.scenes.now()[0].hits, 1);
}

#[test]
fn without_an_arrival_nothing_is_watched() {
    let mut clock = Clock::new();
    assert!(clock.ask(1).is_none());
    clock.arrive(1);
    clock.scenes.left(ME);
    assert!(clock.ask(1).is_none() && clock.scenes.now().is_empty());
}

#[test]
fn the_book_is_bounded_and_the_region_not_seen_for_longest_goes_but_no_pinned_or_occupied_one() {
    let mut scenes = Scenes::default();
    let now = Instant::now();
    for number in 0..MAX_REGIONS as u64 {
        scenes.arrived(now, number, ME, &region(number));
    }
    scenes.book_mut().pin(&region(0), true).unwrap();
    scenes.arrived(now, 1, Visitor(2), &region(1));
    scenes.arrived(now, 1000, ME, &region(500));
    let book = scenes.book_mut();
    assert_eq!(book.iter().count(), MAX_REGIONS);
    assert!(book.get(&region(0)).is_some() && book.get(&region(1)).is_some());
    assert!(book.get(&region(2)).is_none() && book.get(&region(500)).is_some());
    assert_eq!(book.take_changes().1, [region(2).id()]);
}

#[test]
fn a_regions_assets_are_bounded_and_those_not_asked_for_in_ten_visits_go() {
    let mut clock = Clock::new();
    clock.arrive(1);
    for n in 0..MAX_KEYS as u128 + 5 {
        clock.ask(n);
    }
    let known = clock.scenes.book().get(&region(1)).unwrap();
    assert_eq!((known.assets(), known.overflow), (MAX_KEYS, 5));
    for _ in 0..11 {
        clock.arrive(2);
        clock.arrive(1);
        clock.ask(7);
    }
    assert_eq!(clock.scenes.book().get(&region(1)).unwrap().assets(), 1);
}

#[test]
fn pins_are_bounded_and_told_when_they_change() {
    let mut clock = Clock::new();
    for number in 0..=MAX_PINNED as u64 {
        clock.arrive(number);
        clock.ask(u128::from(number));
    }
    let book = clock.scenes.book_mut();
    assert!(book.take_pins().is_none());
    for number in 0..MAX_PINNED as u64 {
        book.pin(&region(number), true).unwrap();
    }
    assert_eq!(book.pin(&region(MAX_PINNED as u64), true), Err(PinError::TooMany));
    assert_eq!(book.pin(&region(999), true), Err(PinError::Unknown));
    assert_eq!(book.take_pins().unwrap().len(), MAX_PINNED);
    assert!(book.take_pins().is_none());
    book.pin(&region(0), false).unwrap();
    assert_eq!(book.take_pins().unwrap().len(), MAX_PINNED - 1);
    clock.arrive(1);
    clock.ask(4711);
    assert_eq!(clock.scenes.book_mut().take_pins().unwrap().len(), MAX_PINNED);
    clock.scenes.named(ME, RegionHandle(region(1).handle), &RegionName::new("Here"));
    clock.scenes.forget_regions(5);
    assert_eq!(clock.scenes.book().get(&region(1)).unwrap().name.as_str(), "Here");
    assert_eq!(clock.scenes.book_mut().take_pins().unwrap(), []);
    assert_eq!(clock.scenes.book().iter().count(), 1, "the one that somebody is in");
}

#[test]
fn a_record_reads_back_as_what_it_was_and_no_damaged_one_is_taken() {
    let mut clock = Clock::new();
    clock.arrive(3);
    clock.scenes.named(ME, RegionHandle(region(3).handle), &RegionName::new("Da \"Boom\" ü"));
    for (n, kind) in AssetKind::ALL.into_iter().enumerate() {
        clock.scenes.begun(clock.now(), ME, kind, id(n as u128 + 77), &Origin::new("sim.example"));
    }
    clock.arrive(1);
    clock.arrive(3);
    clock.ask(1);
    clock.scenes.book_mut().pin(&region(3), true).unwrap();
    let known = clock.scenes.book().get(&region(3)).unwrap();
    let bytes = Record::encode(&region(3), known).unwrap();
    let (key, read) = Record::decode(&bytes).unwrap();
    assert_eq!((&key, &read), (&region(3), known));

    let text = String::from_utf8(bytes).unwrap();
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("rezcache region", "rezcache regions"),
        ("t0000", "x0000"),
        ("t0000", "t000"),
        ("t0000", "tü00"),
        ("\"visits\":2", "\"visits\":-2"),
        ("grid.example", ""),
    ] {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text, "{from}");
        assert!(Record::decode(damaged.as_bytes()).is_err(), "{from} → {to}");
    }
    for end in 0..text.len() {
        assert!(Record::decode(text.get(..end).unwrap_or_default().as_bytes()).is_err());
    }
}
