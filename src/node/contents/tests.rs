#![allow(clippy::unwrap_used)]
use super::pieces;

#[test]
fn a_range_is_cut_into_pieces() {
    let all = |range| pieces(range).collect::<Vec<_>>();
    assert_eq!(all(0..10), [(0, 0..10)]);
    assert_eq!(all(5..(1 << 20) + 1), [(0, 5..1 << 20), (1, 0..1)]);
    assert_eq!(all(3 << 20..5 << 20), [(3, 0..1 << 20), (4, 0..1 << 20)]);
}
