//! Why bytes could not be read, small enough to return by value for every bad datagram.

use std::fmt;

/// Where and why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Bytes before the failing field, counted from the start of what was being decoded: the
    /// datagram for headers, the decoded message body for fields.
    pub offset: usize,
    /// The field that could not be read, as the message template spells it.
    pub field: &'static str,
    /// What was wrong with it.
    pub kind: DecodeErrorKind,
}

/// The ways in which bytes can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeErrorKind {
    /// The bytes end inside the field.
    Truncated,
    /// The ack trailer claims more than leaves a message in front of it.
    AckTrailer,
    /// Zero-coding expands beyond [`super::zerocode::MAX_EXPANDED`].
    TooLong,
    /// Text that is not UTF-8, or not free of NUL.
    NotText,
    /// The message is another one than the decoder was asked for.
    WrongMessage,
}

impl DecodeErrorKind {
    /// A fixed word for counters.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::AckTrailer => "ack_trailer",
            Self::TooLong => "too_long",
            Self::NotText => "not_text",
            Self::WrongMessage => "wrong_message",
        }
    }
}

impl DecodeError {
    /// An error at `offset`.
    #[must_use]
    pub const fn new(offset: usize, field: &'static str, kind: DecodeErrorKind) -> Self {
        Self { offset, field, kind }
    }

    /// A fixed word for counters; see [`DecodeErrorKind::label`].
    #[must_use]
    pub const fn label(&self) -> &'static str {
        self.kind.label()
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} in {}", self.kind.label(), self.offset, self.field)
    }
}

impl std::error::Error for DecodeError {}
