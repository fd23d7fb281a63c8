//! Animations: both key forms, bounds, and the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::asset::AssetKind;
use crate::asset::validate::tests::real;

struct Sample {
    form: [u8; 4],
    duration: f32,
    joints: u32,
    rotations: i32,
    constraints: i32,
}

const SAMPLE: Sample = Sample { form: CURRENT, duration: 2.5, joints: 2, rotations: 3, constraints: 1 };

impl Sample {
    fn bytes(&self) -> Vec<u8> {
        let key_bytes = if self.form == CURRENT { 8 } else { 16 };
        let mut out = self.form.to_vec();
        out.extend(3_i32.to_le_bytes());
        out.extend(self.duration.to_le_bytes());
        out.extend(b"smile\0");
        out.extend([0; 4 * 6]); // loop in and out, loop, ease in and out, hand pose
        out.extend(self.joints.to_le_bytes());
        for _ in 0..self.joints {
            out.extend(b"mHead\0");
            out.extend(3_i32.to_le_bytes());
            out.extend(self.rotations.to_le_bytes());
            out.extend(vec![1; usize::try_from(self.rotations).unwrap_or(0) * key_bytes]);
            out.extend(1_i32.to_le_bytes());
            out.extend(vec![2; key_bytes]);
        }
        out.extend(self.constraints.to_le_bytes());
        out.extend(vec![0; usize::try_from(self.constraints).unwrap_or(0) * CONSTRAINT_BYTES]);
        out
    }
}

#[test]
fn both_key_forms_are_read_to_their_end() {
    for form in [CURRENT, OLD] {
        let bytes = Sample { form, ..SAMPLE }.bytes();
        assert_eq!(validate(&bytes), Ok(Valid::EXACT));
        for len in 0..bytes.len() {
            assert!(validate(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}

#[test]
fn no_prefix_of_a_real_animation_passes() {
    let body = real(AssetKind::Animation);
    for len in 0..body.len() {
        assert!(validate(&body[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn one_form_does_not_pass_as_the_other() {
    let mut bytes = SAMPLE.bytes();
    bytes[..4].copy_from_slice(&OLD);
    assert!(validate(&bytes).is_err());
    bytes[..4].copy_from_slice(&[2, 0, 0, 0]);
    assert_eq!(validate(&bytes), Err(Invalid::WrongFormat));
}

#[test]
fn bounds_are_kept() {
    let outside = Err(Invalid::OutOfBounds);
    for duration in [-0.1, 60.1, f32::NAN, f32::INFINITY] {
        assert_eq!(validate(&Sample { duration, ..SAMPLE }.bytes()), outside, "{duration}");
    }
    assert_eq!(validate(&Sample { duration: 60.0, ..SAMPLE }.bytes()), Ok(Valid::EXACT));
    assert_eq!(validate(&Sample { joints: 216, ..SAMPLE }.bytes()), Ok(Valid::EXACT));
    assert_eq!(validate(&Sample { joints: 217, ..SAMPLE }.bytes()), outside);
    assert_eq!(validate(&Sample { joints: 0, ..SAMPLE }.bytes()), outside);
    assert_eq!(validate(&Sample { rotations: -1, ..SAMPLE }.bytes()), outside);
    assert_eq!(validate(&Sample { constraints: 10, ..SAMPLE }.bytes()), Ok(Valid::EXACT));
    assert_eq!(validate(&Sample { constraints: 11, ..SAMPLE }.bytes()), outside);
    assert_eq!(validate(&Sample { constraints: -1, ..SAMPLE }.bytes()), outside);
}

#[test]
fn two_billion_keys_are_refused_as_truncated() {
    let mut bytes = SAMPLE.bytes();
    let rotations_at = 4 + 8 + 6 + 24 + 4 + 6 + 4;
    assert_eq!(bytes[rotations_at], 3);
    bytes[rotations_at..rotations_at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    assert_eq!(validate(&bytes), Err(Invalid::Truncated));
}
