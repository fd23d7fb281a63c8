//! Range headers against the tables of the RFC and of the captures; held ranges against a bitmap.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

use super::*;
use proptest::prelude::*;

/// What an asset of 10,000 bytes answers: the `Content-Range`, or `None` for the whole.
fn answer(header: Option<&str>) -> Option<String> {
    match RangeRequest::parse(header.map(str::as_bytes)).answer(10_000) {
        RangeAnswer::Whole => None,
        RangeAnswer::Part(part) => Some(ContentRange::of(part, 10_000).unwrap().to_string()),
    }
}

#[test]
fn hits_are_answered_as_the_table_says() {
    let parts = [
        ("bytes=0-599", "bytes 0-599/10000"),
        ("bytes=599-16791", "bytes 599-9999/10000"),
        ("bytes=599-", "bytes 599-9999/10000"),
        ("bytes=9999-20000", "bytes 9999-9999/10000"),
        ("bytes=0-0", "bytes 0-0/10000"),
        ("bytes=0-9999", "bytes 0-9999/10000"),
        ("bytes=0-", "bytes 0-9999/10000"),
        ("bytes=0-18446744073709551615", "bytes 0-9999/10000"),
    ];
    for (header, expected) in parts {
        assert_eq!(answer(Some(header)).as_deref(), Some(expected), "{header}");
    }
    assert_eq!(answer(None), None);
    for header in ["bytes=10000-20000", "bytes=10000-", "bytes=-5", "bytes=0-0,5-6", "lines=1-2"] {
        assert_eq!(answer(Some(header)), None, "{header}");
    }
}

#[test]
fn nothing_but_one_forward_range_is_usable() {
    for header in [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--5",
        "bytes=5",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=1 -2",
        "bytes=1- 2",
        "bytes =1-2",
        "bytes=,",
        "bytes=700-600",
        "bytes=0-99,200-299",
        "bytes=+1-2",
        "bytes=0x1-2",
        "bytes=1-2;",
        "bytes=0-18446744073709551616",
        "bytes=99999999999999999999-",
        "bytes=-500",
        "0-5",
        "bytes:0-5",
    ] {
        assert_eq!(RangeRequest::parse(Some(header.as_bytes())), RangeRequest::Unusable, "{header:?}");
    }
    assert_eq!(RangeRequest::parse(Some(b"bytes=\xff-1")), RangeRequest::Unusable);
}

#[test]
fn unit_case_blanks_and_empty_list_elements_do_not_matter() {
    let expected = RangeRequest::From { first: 5, last: Some(9) };
    for header in
        ["bytes=5-9", "BYTES=5-9", "Bytes= 5-9", " bytes=5-9\t", "bytes=5-9,", "bytes= , 5-9", "bytes=005-09"]
    {
        assert_eq!(RangeRequest::parse(Some(header.as_bytes())), expected, "{header:?}");
    }
}

#[test]
fn empty_asset_is_always_answered_whole() {
    for header in ["bytes=0-", "bytes=0-0", "bytes=0-599"] {
        assert_eq!(RangeRequest::parse(Some(header.as_bytes())).answer(0), RangeAnswer::Whole);
    }
}

#[test]
fn content_range_is_read_and_written_alike() {
    for text in ["bytes 0-599/10000", "bytes 599-9999/*", "bytes 0-0/1"] {
        assert_eq!(ContentRange::parse(text.as_bytes()).unwrap().to_string(), text);
    }
    assert_eq!(ContentRange::parse(b"BYTES  1-2/3").unwrap().range(), ByteRange::new(1, 3));
}

#[test]
fn content_range_that_contradicts_itself_is_refused() {
    for text in [
        "bytes */10000",
        "bytes 5-4/10",
        "bytes 0-10/10",
        "bytes 0-10/0",
        "bytes=0-1/2",
        "bytes 0-1",
        "bytes 0-1/",
        "items 0-1/2",
        "bytes 0-1/2x",
        "bytes 0-18446744073709551616/*",
        "bytes 0-18446744073709551615/*",
        "bytes 0-1/18446744073709551616",
        "",
    ] {
        assert_eq!(ContentRange::parse(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn content_range_of_a_part_outside_the_asset_does_not_exist() {
    assert_eq!(ContentRange::of(ByteRange::new(0, 11), 10), None);
    assert_eq!(ContentRange::of(ByteRange::new(3, 3), 10), None);
    assert_eq!(ContentRange::of(ByteRange::new(0, 0), 0), None);
}

#[test]
fn overlapping_refinement_of_a_texture_becomes_one_run() {
    // A viewer overlaps the byte before; the second answer begins one earlier than the first ended.
    let held: HeldRanges = [ByteRange::new(0, 600), ByteRange::new(599, 16_792)].into_iter().collect();
    assert_eq!(held.iter().collect::<Vec<_>>(), [ByteRange::new(0, 16_792)]);
    assert_eq!(held.prefix_from(0), 16_792);
}

const SPACE: u64 = 96;

fn any_range() -> impl Strategy<Value = ByteRange> {
    (0..SPACE, 0..SPACE).prop_map(|(start, end)| ByteRange { start, end })
}

fn to_runs(bits: &[bool], within: ByteRange, wanted: bool) -> Vec<ByteRange> {
    let mut runs: Vec<ByteRange> = Vec::new();
    for at in within.start..within.end {
        if bits[at as usize] != wanted {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += 1,
            _ => runs.push(ByteRange { start: at, end: at + 1 }),
        }
    }
    runs
}

proptest! {
    #[test]
    fn held_ranges_agree_with_a_bitmap(
        inserts in prop::collection::vec(any_range(), 0..14),
        asked in any_range(),
    ) {
        let mut held = HeldRanges::new();
        let mut bits = [false; SPACE as usize];
        for range in inserts {
            held.insert(range);
            (range.start..range.end).for_each(|at| bits[at as usize] = true);

            let all = to_runs(&bits, ByteRange::new(0, SPACE), true);
            prop_assert_eq!(held.iter().collect::<Vec<_>>(), all);
            prop_assert_eq!(held.total_held(), bits.iter().filter(|held| **held).count() as u64);
            let missing = to_runs(&bits, asked, false);
            prop_assert_eq!(held.covers(asked), missing.is_empty());
            prop_assert_eq!(held.missing(asked), missing);
            let run = (asked.start..SPACE).take_while(|at| bits[*at as usize]).count() as u64;
            prop_assert_eq!(held.prefix_from(asked.start), asked.start + run);
        }
    }

    #[test]
    fn intersection_holds_exactly_the_common_bytes(a in any_range(), b in any_range(), at in 0..SPACE) {
        let inside = |range: ByteRange| (range.start..range.end).contains(&at);
        prop_assert_eq!(a.intersection(b).is_some_and(inside), inside(a) && inside(b));
        prop_assert!(a.intersection(b).is_none_or(|both| !both.is_empty()));
    }

    #[test]
    fn a_part_always_begins_where_asked_and_stays_inside(first: u64, last: Option<u64>, total: u64) {
        if let RangeAnswer::Part(part) = (RangeRequest::From { first, last }).answer(total) {
            prop_assert_eq!(part.start, first);
            prop_assert!(!part.is_empty() && part.end <= total);
        }
    }

    #[test]
    fn arbitrary_header_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = RangeRequest::parse(Some(&bytes));
        let _ = ContentRange::parse(&bytes);
    }
}
