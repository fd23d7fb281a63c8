//! LLSD, the grid's structured data, in the two encodings that reach us.

use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

pub mod binary;
pub mod xml;

/// Containers may nest this deep; a document that goes deeper is refused.
pub const MAX_DEPTH: usize = 64;

/// One LLSD value.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Llsd {
    /// No value.
    #[default]
    Undef,
    /// True or false.
    Boolean(bool),
    /// 32 bits, signed.
    Integer(i32),
    /// 64-bit floating point.
    Real(f64),
    /// Text.
    String(String),
    /// An id.
    Uuid(Uuid),
    /// A link, kept as it was written.
    Uri(String),
    /// Seconds since 1970.
    Date(f64),
    /// Bytes.
    Binary(Bytes),
    /// Values in order.
    Array(Vec<Llsd>),
    /// Named values in the order of the document; a repeated key is kept.
    Map(Vec<(String, Llsd)>),
}

impl Llsd {
    /// The first value with this key, if this is a map that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The number, if this is an integer.
    #[must_use]
    pub fn as_integer(&self) -> Option<i32> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// Why a document could not be read or written, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("LLSD: {kind} at byte {offset}")]
pub struct LlsdError {
    /// Bytes from the start of the document.
    pub offset: usize,
    /// What was wrong there.
    pub kind: LlsdErrorKind,
}

/// What was wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlsdErrorKind {
    /// A value, a count or a length reaches past the end of the data.
    Truncated,
    /// A byte that starts no value.
    UnknownTag,
    /// A map entry that does not begin with a key.
    NoKey,
    /// A container holds another number of entries than it announced.
    WrongCount,
    /// Text that is not UTF-8.
    NotUtf8,
    /// Containers nest deeper than [`MAX_DEPTH`].
    TooDeep,
    /// A length that 32 bits cannot hold; only when writing.
    TooLong,
}

impl fmt::Display for LlsdErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "data ends too early",
            Self::UnknownTag => "unknown value tag",
            Self::NoKey => "map entry without a key",
            Self::WrongCount => "container count is wrong",
            Self::NotUtf8 => "text is not UTF-8",
            Self::TooDeep => "nested too deep",
            Self::TooLong => "longer than the format allows",
        })
    }
}
