//! Zero-coding: runs of zero bytes travel as `00` and a count.
//!
//! ```text
//! 01 00 03 02       is  01 00 00 00 02
//! 00 00 05          is  256 + 5 zeros: each further 00 before the count adds 256
//! 02 00             is  02 00: a last 00 without a count stands for itself
//! ```
//! Source: Second Life viewer, indra/llmessage/message.cpp (`zeroCodeExpand`) and
//! lltemplatemessagebuilder.cpp (`zero_code`). `LibOpenMetaverse` reads `00 00` differently; no
//! known sender produces it.

use super::error::{DecodeError, DecodeErrorKind};

/// Most bytes an expansion may have.
/// Source: Second Life viewer, indra/llmessage/net.h (`NET_BUFFER_SIZE`).
pub const MAX_EXPANDED: usize = 8192;

/// One step of a coded stream.
enum Run<'a> {
    Literal(&'a [u8]),
    Zeros(usize),
}

/// Takes the first run off `coded`. `None` at the end.
fn next_run(coded: &[u8]) -> Option<(Run<'_>, &[u8])> {
    let (&first, after) = coded.split_first()?;
    if first != 0 {
        let (literal, rest) = coded.split_at_checked(literal_len(coded))?;
        return Some((Run::Literal(literal), rest));
    }
    match after.split_first() {
        Some((&count, rest)) if count != 0 => Some((Run::Zeros(usize::from(count)), rest)),
        None => Some((Run::Zeros(1), after)),
        Some(_) => {
            // The first 00 of a longer row is one zero, each further one 256; the count includes
            // the zero that opened the run, so it adds one less.
            let further = after.iter().take_while(|&&byte| byte == 0).count();
            let rest = after.get(further..)?;
            let zeros = 1 + further.saturating_mul(256);
            match rest.split_first() {
                Some((&count, rest)) => Some((Run::Zeros(zeros + usize::from(count) - 1), rest)),
                None => Some((Run::Zeros(zeros), rest)),
            }
        }
    }
}

/// Length of the run of non-zero bytes at the start, looked for eight bytes at a time.
fn literal_len(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(LOW) & !word & HIGH;
        if zeros != 0 {
            return index * 8 + (zeros.trailing_zeros() / 8) as usize;
        }
    }
    let before_tail = words.len() * 8;
    before_tail + tail.iter().position(|&byte| byte == 0).unwrap_or(tail.len())
}

/// Replaces the contents of `out` by the expansion of `coded`.
///
/// # Errors
/// [`DecodeErrorKind::TooLong`] when it would exceed [`MAX_EXPANDED`]; `out` then holds the part
/// before.
pub fn expand_into(coded: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    out.clear();
    let mut rest = coded;
    while let Some((run, after)) = next_run(rest) {
        let grown = out.len().saturating_add(match run {
            Run::Literal(bytes) => bytes.len(),
            Run::Zeros(count) => count,
        });
        if grown > MAX_EXPANDED {
            let offset = coded.len() - rest.len();
            return Err(DecodeError::new(offset, "zero-coded body", DecodeErrorKind::TooLong));
        }
        match run {
            Run::Literal(bytes) => out.extend_from_slice(bytes),
            Run::Zeros(_) => out.resize(grown, 0),
        }
        rest = after;
    }
    Ok(())
}

/// The first bytes of an expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    bytes: [u8; 4],
    len: usize,
}

impl Peek {
    /// At most four bytes; fewer when the expansion is shorter.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The first bytes of something that is not zero-coded.
    #[must_use]
    pub fn plain(bytes: &[u8]) -> Self {
        Self::collect(bytes.iter().copied())
    }

    fn collect(source: impl Iterator<Item = u8>) -> Self {
        let mut peek = Self { bytes: [0; 4], len: 0 };
        for (slot, byte) in peek.bytes.iter_mut().zip(source) {
            *slot = byte;
            peek.len += 1;
        }
        peek
    }
}

/// Expands only the first four bytes, without allocating.
#[must_use]
pub fn peek(coded: &[u8]) -> Peek {
    let mut rest = coded;
    let runs = std::iter::from_fn(move || {
        let (run, after) = next_run(rest)?;
        rest = after;
        Some(run)
    });
    Peek::collect(runs.flat_map(|run| {
        let (literal, zeros): (&[u8], usize) = match run {
            Run::Literal(bytes) => (bytes, 0),
            Run::Zeros(count) => (&[], count),
        };
        literal.iter().copied().chain(std::iter::repeat_n(0, zeros))
    }))
}

/// Appends the coded form of `plain` to `out`. It may be longer than `plain`: a lone zero takes
/// two bytes.
pub fn pack(plain: &[u8], out: &mut Vec<u8>) {
    let mut rest = plain;
    while !rest.is_empty() {
        let (literal, after) = rest.split_at_checked(literal_len(rest)).unwrap_or((rest, &[]));
        out.extend_from_slice(literal);
        let zeros = after.iter().take(255).take_while(|&&byte| byte == 0).count();
        // At most 255, and 0 only at the very end.
        if let (1.., Ok(count)) = (zeros, u8::try_from(zeros)) {
            out.extend_from_slice(&[0, count]);
        }
        rest = after.get(zeros..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::{MAX_EXPANDED, expand_into, pack, peek};

    /// Byte by byte, with no bound and no thought for speed.
    fn naive(coded: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut in_run = false;
        for &byte in coded {
            if byte == 0 {
                out.resize(out.len() + if in_run { 256 } else { 1 }, 0);
                in_run = true;
            } else if in_run {
                out.resize(out.len() + usize::from(byte) - 1, 0);
                in_run = false;
            } else {
                out.push(byte);
            }
        }
        out
    }

    fn expand(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0xEE; 3];
        expand_into(coded, &mut out).ok().map(|()| out)
    }

    /// Mostly zeros and small counts, so that rows of zeros and ends inside a run occur.
    fn coded_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![3 => Just(0_u8), 2 => 1_u8..4, 1 => any::<u8>()], 0..64)
    }

    #[test]
    fn three_hundred_zeros_take_two_pairs() {
        // protocol.md 16, V7.
        let mut plain = vec![1];
        plain.resize(301, 0);
        plain.push(2);
        let mut coded = Vec::new();
        pack(&plain, &mut coded);
        assert_eq!(coded, [1, 0, 0xFF, 0, 0x2D, 2]);
        assert_eq!(expand(&coded).unwrap(), plain);
    }

    #[test]
    fn a_further_zero_adds_256_and_a_last_one_stands_for_itself() {
        assert_eq!(expand(&[0, 0, 5]).unwrap(), vec![0; 261]);
        assert_eq!(expand(&[0, 0, 0, 1, 9]).unwrap(), [vec![0; 513], vec![9]].concat());
        assert_eq!(expand(&[2, 0]).unwrap(), [2, 0]);
        assert_eq!(expand(&[2, 0, 0]).unwrap().len(), 258);
    }

    #[test]
    fn the_output_has_a_bound() {
        let full = [0_u8, 255].repeat(32);
        assert_eq!(expand(&full).unwrap().len(), 8160);
        assert_eq!(expand(&[full.clone(), vec![0, 32]].concat()).unwrap().len(), MAX_EXPANDED);
        assert_eq!(expand(&[full.clone(), vec![0, 33]].concat()), None);
        assert_eq!(expand(&[full, vec![0, 32, 7]].concat()), None);
        assert_eq!(expand(&vec![0; 65_000]), None);
        assert_eq!(expand(&vec![7; MAX_EXPANDED + 1]), None);
    }

    proptest! {
        #[test]
        fn expansion_agrees_with_a_naive_reader(coded in coded_bytes()) {
            let model = naive(&coded);
            let expected = (model.len() <= MAX_EXPANDED).then_some(model);
            prop_assert_eq!(expand(&coded), expected);
        }

        #[test]
        fn a_peek_is_the_start_of_the_expansion(coded in coded_bytes()) {
            let model = naive(&coded);
            let peek = peek(&coded);
            prop_assert_eq!(peek.as_slice(), &model[..model.len().min(4)]);
        }

        #[test]
        fn packing_round_trips_whatever_the_bytes(
            runs in prop::collection::vec((any::<u8>(), 1_usize..600), 0..8),
        ) {
            let plain: Vec<u8> =
                runs.iter().flat_map(|&(byte, len)| std::iter::repeat_n(byte % 3, len)).collect();
            let mut coded = Vec::new();
            pack(&plain, &mut coded);
            prop_assert_eq!(naive(&coded), plain.clone());
            prop_assert_eq!(expand(&coded), Some(plain));
        }
    }
}
