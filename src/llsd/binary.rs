//! The binary encoding of LLSD, as in mesh headers and stored materials.
//!
//! ```text
//! document  [ "<? LLSD/Binary ?>" newline ] value
//! value     '!' | '1' | '0' | 'i' S32 | 'r' F64 | 'u' 16 bytes | 'd' F64 little-endian
//!           | 'b' U32 bytes | 's' U32 text | 'l' U32 link
//!           | '[' U32 value… ']' | '{' U32 ('k' U32 text value)… '}'
//! ```
//! Numbers are big-endian except in dates.

use bytes::Bytes;
use nom::bytes::complete::{tag, tag_no_case, take, take_while};
use nom::combinator::opt;
use nom::error::{ErrorKind, ParseError};
use nom::number::complete::{be_f64, be_i32, be_u8, be_u32, le_f64};
use nom::{IResult, Parser};
use uuid::Uuid;

use super::{Llsd, LlsdError, LlsdErrorKind, MAX_DEPTH};

/// The fewest bytes that a map entry takes: the key's tag and length, and a value's tag.
const MIN_ENTRY_BYTES: usize = 6;

/// Reads one value from the start of `document`, header line or not, and says how many bytes the
/// header line and the value took; what follows is not looked at.
///
/// # Errors
/// [`LlsdError`] with the place of the first byte that does not fit.
pub fn decode(document: &[u8]) -> Result<(Llsd, usize), LlsdError> {
    let body = document.get(header_line_len(document)..).unwrap_or_default();
    match value(body, 0) {
        Ok((rest, found)) => Ok((found, document.len() - rest.len())),
        Err(nom::Err::Error(stop) | nom::Err::Failure(stop)) => {
            Err(LlsdError { offset: document.len() - stop.rest.len(), kind: stop.kind })
        }
        // Only streaming parsers ask for more; the answer would be the same.
        Err(nom::Err::Incomplete(_)) => {
            Err(LlsdError { offset: document.len(), kind: LlsdErrorKind::Truncated })
        }
    }
}

/// The length of the `<? LLSD/Binary ?>` line with its newline; 0 when there is none.
#[must_use]
pub fn header_line_len(document: &[u8]) -> usize {
    let is_blank = |byte: u8| byte == b' ' || byte == b'\t';
    let line = (
        tag("<?"),
        take_while(is_blank),
        tag_no_case("llsd/binary"),
        take_while(is_blank),
        tag("?>"),
        opt(tag("\r")),
        opt(tag("\n")),
    );
    let parsed: IResult<&[u8], _, nom::error::Error<&[u8]>> = { line }.parse(document);
    parsed.map_or(0, |(rest, _)| document.len() - rest.len())
}

/// Writes a document without the header line.
///
/// # Errors
/// When a length does not fit 32 bits or the value nests deeper than [`MAX_DEPTH`]; the offset is
/// how much was written until then.
pub fn encode(value: &Llsd) -> Result<Vec<u8>, LlsdError> {
    let mut out = Vec::new();
    write(&mut out, value, 0)?;
    Ok(out)
}

/// Where reading stopped and why; turned into an offset at the end.
struct Stop<'a> {
    rest: &'a [u8],
    kind: LlsdErrorKind,
}

impl<'a> ParseError<&'a [u8]> for Stop<'a> {
    /// Every primitive used here fails for one reason only: too few bytes.
    fn from_error_kind(rest: &'a [u8], _: ErrorKind) -> Self {
        Self { rest, kind: LlsdErrorKind::Truncated }
    }

    fn append(_: &'a [u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}

type Parsed<'a, T> = IResult<&'a [u8], T, Stop<'a>>;

fn stop<T>(rest: &[u8], kind: LlsdErrorKind) -> Parsed<'_, T> {
    Err(nom::Err::Failure(Stop { rest, kind }))
}

fn value(input: &[u8], depth: usize) -> Parsed<'_, Llsd> {
    let (rest, tag) = be_u8(input)?;
    match tag {
        b'!' => Ok((rest, Llsd::Undef)),
        b'1' => Ok((rest, Llsd::Boolean(true))),
        b'0' => Ok((rest, Llsd::Boolean(false))),
        b'i' => be_i32.map(Llsd::Integer).parse(rest),
        b'r' => be_f64.map(Llsd::Real).parse(rest),
        b'd' => le_f64.map(Llsd::Date).parse(rest),
        b'u' => take(16_usize).map(|raw| Llsd::Uuid(Uuid::from_slice(raw).unwrap_or_default())).parse(rest),
        b's' => text.map(|found| Llsd::String(found.to_owned())).parse(rest),
        b'l' => text.map(|found| Llsd::Uri(found.to_owned())).parse(rest),
        b'b' => sized.map(|raw| Llsd::Binary(Bytes::copy_from_slice(raw))).parse(rest),
        b'[' | b'{' if depth >= MAX_DEPTH => stop(input, LlsdErrorKind::TooDeep),
        b'[' => array(rest, depth + 1),
        b'{' => map(rest, depth + 1),
        _ => stop(input, LlsdErrorKind::UnknownTag),
    }
}

/// A length and that many bytes, which are borrowed: nothing is reserved for an announced length.
fn sized(input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = be_u32(input)?;
    take(length).parse(rest)
}

fn text(input: &[u8]) -> Parsed<'_, &str> {
    let (rest, raw) = sized(input)?;
    match std::str::from_utf8(raw) {
        Ok(found) => Ok((rest, found)),
        Err(_) => stop(input, LlsdErrorKind::NotUtf8),
    }
}

/// How many entries follow, refused when the rest of the data cannot hold that many.
fn count(input: &[u8], min_entry_bytes: usize) -> Parsed<'_, usize> {
    let (rest, announced) = be_u32(input)?;
    match usize::try_from(announced) {
        Ok(entries) if entries <= rest.len() / min_entry_bytes => Ok((rest, entries)),
        _ => stop(input, LlsdErrorKind::Truncated),
    }
}

fn array(input: &[u8], depth: usize) -> Parsed<'_, Llsd> {
    let (mut rest, entries) = count(input, 1)?;
    let mut values = Vec::new();
    for _ in 0..entries {
        if rest.first() == Some(&b']') {
            return stop(rest, LlsdErrorKind::WrongCount);
        }
        let (after, found) = value(rest, depth)?;
        values.push(found);
        rest = after;
    }
    let (rest, ()) = closing(rest, b']')?;
    Ok((rest, Llsd::Array(values)))
}

fn map(input: &[u8], depth: usize) -> Parsed<'_, Llsd> {
    let (mut rest, entries) = count(input, MIN_ENTRY_BYTES)?;
    let mut values = Vec::new();
    for _ in 0..entries {
        let (after, tag) = be_u8(rest)?;
        match tag {
            b'k' => {}
            b'}' => return stop(rest, LlsdErrorKind::WrongCount),
            _ => return stop(rest, LlsdErrorKind::NoKey),
        }
        let (after, key) = text(after)?;
        let (after, found) = value(after, depth)?;
        values.push((key.to_owned(), found));
        rest = after;
    }
    let (rest, ()) = closing(rest, b'}')?;
    Ok((rest, Llsd::Map(values)))
}

fn closing(input: &[u8], bracket: u8) -> Parsed<'_, ()> {
    let (rest, found) = be_u8(input)?;
    if found == bracket { Ok((rest, ())) } else { stop(input, LlsdErrorKind::WrongCount) }
}

fn write(out: &mut Vec<u8>, value: &Llsd, depth: usize) -> Result<(), LlsdError> {
    if depth >= MAX_DEPTH && matches!(value, Llsd::Array(_) | Llsd::Map(_)) {
        return Err(LlsdError { offset: out.len(), kind: LlsdErrorKind::TooDeep });
    }
    match value {
        Llsd::Undef => out.push(b'!'),
        Llsd::Boolean(set) => out.push(if *set { b'1' } else { b'0' }),
        Llsd::Integer(number) => {
            out.push(b'i');
            out.extend_from_slice(&number.to_be_bytes());
        }
        Llsd::Real(number) => {
            out.push(b'r');
            out.extend_from_slice(&number.to_be_bytes());
        }
        Llsd::Date(seconds) => {
            out.push(b'd');
            out.extend_from_slice(&seconds.to_le_bytes());
        }
        Llsd::Uuid(id) => {
            out.push(b'u');
            out.extend_from_slice(id.as_bytes());
        }
        Llsd::String(text) => write_sized(out, b's', text.as_bytes())?,
        Llsd::Uri(text) => write_sized(out, b'l', text.as_bytes())?,
        Llsd::Binary(raw) => write_sized(out, b'b', raw)?,
        Llsd::Array(values) => {
            write_count(out, b'[', values.len())?;
            values.iter().try_for_each(|value| write(out, value, depth + 1))?;
            out.push(b']');
        }
        Llsd::Map(entries) => {
            write_count(out, b'{', entries.len())?;
            for (key, value) in entries {
                write_sized(out, b'k', key.as_bytes())?;
                write(out, value, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_count(out: &mut Vec<u8>, tag: u8, entries: usize) -> Result<(), LlsdError> {
    let too_long = LlsdError { offset: out.len(), kind: LlsdErrorKind::TooLong };
    let count = u32::try_from(entries).map_err(|_| too_long)?;
    out.push(tag);
    out.extend_from_slice(&count.to_be_bytes());
    Ok(())
}

fn write_sized(out: &mut Vec<u8>, tag: u8, raw: &[u8]) -> Result<(), LlsdError> {
    write_count(out, tag, raw.len())?;
    out.extend_from_slice(raw);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use proptest::prelude::*;

    fn kind_of(document: &[u8]) -> LlsdErrorKind {
        decode(document).unwrap_err().kind
    }

    #[test]
    fn twenty_thousand_nested_arrays_are_refused_at_the_limit() {
        let document: Vec<u8> = b"[\0\0\0\x01".repeat(20_000);
        let refused = decode(&document).unwrap_err();
        assert_eq!(refused, LlsdError { offset: 5 * MAX_DEPTH, kind: LlsdErrorKind::TooDeep });
    }

    #[test]
    fn nesting_up_to_the_limit_is_read() {
        let mut document = b"[\0\0\0\x01".repeat(MAX_DEPTH);
        document.push(b'!');
        document.extend(b"]".repeat(MAX_DEPTH));
        assert_eq!(decode(&document).unwrap().1, document.len());
    }

    #[test]
    fn two_billion_announced_elements_in_ten_bytes_are_refused() {
        assert_eq!(kind_of(b"[\x77\x35\x94\x00!!!!]"), LlsdErrorKind::Truncated);
        assert_eq!(kind_of(b"{\x77\x35\x94\x00k\0\0\0}"), LlsdErrorKind::Truncated);
        assert_eq!(kind_of(b"s\x77\x35\x94\x00abcd."), LlsdErrorKind::Truncated);
    }

    #[test]
    fn numbers_are_big_endian_and_dates_little_endian() {
        let document = b"[\0\0\0\x03i\xff\xff\xff\xfer\x3f\xf8\0\0\0\0\0\0d\0\0\0\0\0\0\xf8\x3f]";
        let expected = Llsd::Array(vec![Llsd::Integer(-2), Llsd::Real(1.5), Llsd::Date(1.5)]);
        assert_eq!(decode(document), Ok((expected, document.len())));
    }

    #[test]
    fn header_line_counts_as_consumed_and_what_follows_the_value_does_not() {
        assert_eq!(decode(b"<? LLSD/Binary ?>\n1rest"), Ok((Llsd::Boolean(true), 19)));
        assert_eq!(decode(b"<?llsd/binary?>\n0"), Ok((Llsd::Boolean(false), 17)));
    }

    #[test]
    fn errors_name_the_byte() {
        let at = |document: &[u8]| decode(document).map(|_| ()).unwrap_err();
        assert_eq!(at(b"[\0\0\0\x01?]"), LlsdError { offset: 5, kind: LlsdErrorKind::UnknownTag });
        assert_eq!(at(b"[\0\0\0\x02!]"), LlsdError { offset: 6, kind: LlsdErrorKind::WrongCount });
        assert_eq!(at(b"[\0\0\0\x01!!"), LlsdError { offset: 6, kind: LlsdErrorKind::WrongCount });
        assert_eq!(at(b"{\0\0\0\x01s\0\0\0\0!}"), LlsdError { offset: 5, kind: LlsdErrorKind::NoKey });
        assert_eq!(at(b"s\0\0\0\x01\xff"), LlsdError { offset: 1, kind: LlsdErrorKind::NotUtf8 });
        assert_eq!(at(b""), LlsdError { offset: 0, kind: LlsdErrorKind::Truncated });
    }

    fn any_llsd() -> impl Strategy<Value = Llsd> {
        let leaf = prop_oneof![
            Just(Llsd::Undef),
            any::<bool>().prop_map(Llsd::Boolean),
            any::<i32>().prop_map(Llsd::Integer),
            (-1e9..1e9).prop_map(Llsd::Real),
            (-1e9..1e9).prop_map(Llsd::Date),
            ".{0,12}".prop_map(Llsd::String),
            ".{0,12}".prop_map(Llsd::Uri),
            any::<u128>().prop_map(|bits| Llsd::Uuid(Uuid::from_u128(bits))),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|raw| Llsd::Binary(raw.into())),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Llsd::Array),
                prop::collection::vec((".{0,6}", inner), 0..6).prop_map(Llsd::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any_llsd()) {
            let document = encode(&value).unwrap();
            prop_assert_eq!(decode(&document), Ok((value, document.len())));
            for cut in 0..document.len() {
                prop_assert!(decode(&document[..cut]).is_err(), "prefix of {} bytes", cut);
            }
        }

        #[test]
        fn arbitrary_bytes_end_within_the_data(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            bytes.insert(0, b'[');
            match decode(&bytes) {
                Ok((_, consumed)) => prop_assert!(consumed <= bytes.len()),
                Err(refused) => prop_assert!(refused.offset <= bytes.len()),
            }
        }
    }
}
