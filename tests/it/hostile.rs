//! Whatever bytes arrive, no parser panics and none gives out more than its input accounts for.
//!
//! Every prefix and single-byte change of the fixtures, then random and mutated input:
//! `REZCACHE_HOSTILE_CASES` says how much (ten million for the long run), `REZCACHE_HOSTILE_SEED`
//! repeats a run whose failure printed its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};

mod random;
mod session;
mod targets;

use random::SplitMix;
use targets::{Target, all};

/// Up to this length every byte is changed to every value; beyond, every byte to some values.
const EXHAUSTIVE_BYTES: usize = 200;

fn number_from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// The mode of `tests/run --long`.
fn is_long() -> bool {
    std::env::var_os("REZCACHE_LONG").is_some()
}

/// Runs one case; a failure says how to repeat it.
fn attack(target: &Target, input: &[u8], origin: &dyn Fn() -> String) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let shown = input.iter().take(256).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        panic!("{} failed on {}: {} bytes {shown}", target.name, origin(), input.len());
    }
}

#[test]
fn every_fixture_is_read_by_its_target() {
    for target in all() {
        assert!(!target.seeds.is_empty(), "{} has nothing to begin with", target.name);
        let read = target.seeds.iter().filter(|seed| (target.run)(&seed.bytes)).count();
        assert!(read > 0, "{} refuses all its fixtures, so changes to them prove little", target.name);
    }
}

#[test]
fn no_prefix_of_a_fixture_breaks_a_parser() {
    for target in all() {
        for seed in &target.seeds {
            for len in 0..seed.bytes.len() {
                attack(&target, &seed.bytes[..len], &|| format!("the first {len} bytes of {}", seed.name));
            }
        }
    }
}

#[test]
fn no_changed_byte_of_a_fixture_breaks_a_parser() {
    for target in all() {
        for seed in &target.seeds {
            let mut bytes = seed.bytes.clone();
            let mut change = |position: usize, value: u8| {
                let before = std::mem::replace(&mut bytes[position], value);
                attack(&target, &bytes, &|| format!("{} with byte {position} = {value:#04x}", seed.name));
                bytes[position] = before;
            };
            if seed.bytes.len() <= EXHAUSTIVE_BYTES {
                for position in 0..seed.bytes.len() {
                    for value in (0..=u8::MAX).filter(|&value| value != seed.bytes[position]) {
                        change(position, value);
                    }
                }
            } else {
                let mut random = SplitMix::new(0x5EED);
                for position in 0..seed.bytes.len() {
                    for _ in 0..if is_long() { 16 } else { 1 } {
                        change(position, random.byte());
                    }
                }
            }
        }
    }
}

#[test]
fn no_random_or_mutated_input_breaks_a_parser() {
    let cases =
        number_from_environment("REZCACHE_HOSTILE_CASES", if is_long() { 10_000_000 } else { 200_000 });
    let run_seed = number_from_environment("REZCACHE_HOSTILE_SEED", 0x1055_C0DE);
    let targets = all();
    for case in 0..cases {
        let mut random = SplitMix::new(run_seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let target = &targets[random.below(targets.len())];
        let seed = &target.seeds[random.below(target.seeds.len())];
        let input = random.mutated(&seed.bytes);
        attack(target, &input, &|| {
            format!("case {case} of REZCACHE_HOSTILE_SEED={run_seed}, grown from {}", seed.name)
        });
    }
}
