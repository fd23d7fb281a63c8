//! LLSD XML, read with the place of every scalar's text, so that values can be spliced into the
//! original bytes. Keys, order, undef and integer widths survive because nothing is re-emitted.
//!
//! ```text
//!  <llsd><map><key>Port</key><integer>9000</integer></map></llsd>
//!                                     ^^^^ a scalar's place
//! ```

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use quick_xml::events::BytesStart;

use crate::xml::{Pull, Token, content_place, empty_place};
pub use crate::xml::{Splices, TextPlace, XmlError, escape};

/// More values than this are refused; the tree takes some 100 bytes for each.
pub const MAX_NODES: usize = 1_000_000;

/// Base64 as grids write it: standard alphabet, padding sometimes left out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The type of a scalar, by its element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarKind {
    /// `<undef/>`, also what stands for elements that LLSD does not know.
    Undef,
    /// `<boolean>`: `1`, `0`, `true`, `false`, or nothing for false.
    Boolean,
    /// `<integer>`: S32, or nothing for 0.
    Integer,
    /// `<real>`: F64.
    Real,
    /// `<string>`
    String,
    /// `<uuid>`, or nothing for the nil UUID.
    Uuid,
    /// `<date>`: ISO 8601.
    Date,
    /// `<uri>`
    Uri,
    /// `<binary>`: base64.
    Binary,
}

impl ScalarKind {
    /// Source: LLSD XML serialisation (protocol.md 7.2 lists the elements).
    fn of(element: &[u8]) -> Option<Self> {
        Some(match element {
            b"undef" => Self::Undef,
            b"boolean" => Self::Boolean,
            b"integer" => Self::Integer,
            b"real" => Self::Real,
            b"string" => Self::String,
            b"uuid" => Self::Uuid,
            b"date" => Self::Date,
            b"uri" => Self::Uri,
            b"binary" => Self::Binary,
            _ => return None,
        })
    }
}

/// A value without parts, as it stands in the document.
#[derive(Clone)]
pub struct Scalar<'a> {
    kind: ScalarKind,
    body: &'a [u8],
    place: TextPlace,
    /// False for a `<binary>` that names another encoding.
    is_base64: bool,
}

impl<'a> Scalar<'a> {
    /// The type its element gives it.
    #[must_use]
    pub fn kind(&self) -> ScalarKind {
        self.kind
    }

    /// Where its text stands.
    #[must_use]
    pub fn place(&self) -> &TextPlace {
        &self.place
    }

    /// Its text with entities and CDATA decoded. `None` when that is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.place.text(self.body)
    }

    /// The bytes of a `<binary>` of at most `max_bytes`; white space inside is allowed. `None` for
    /// other types, other encodings than base64, and longer values.
    #[must_use]
    pub fn binary(&self, max_bytes: usize) -> Option<Vec<u8>> {
        if self.kind != ScalarKind::Binary || !self.is_base64 {
            return None;
        }
        let mut text = self.text()?.into_owned();
        text.retain(|c| !c.is_ascii_whitespace());
        if text.len() > max_bytes.div_ceil(3).saturating_mul(4) {
            return None;
        }
        BASE64.decode(text).ok().filter(|bytes| bytes.len() <= max_bytes)
    }
}

/// The base64 text of a `<binary>`.
#[must_use]
pub fn binary_text(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// A value with the places of its scalars.
#[derive(Clone)]
pub enum SpannedNode<'a> {
    /// A value without parts.
    Scalar(Scalar<'a>),
    /// `<array>`
    Array(Vec<SpannedNode<'a>>),
    /// `<map>`, in the order of the document.
    Map(Vec<(Cow<'a, str>, SpannedNode<'a>)>),
}

impl<'a> SpannedNode<'a> {
    /// The value of a map's key; the last one of several, as for a viewer filling its map.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&SpannedNode<'a>> {
        self.entries().iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The scalar under a map's key.
    #[must_use]
    pub fn scalar(&self, key: &str) -> Option<&Scalar<'a>> {
        self.get(key)?.as_scalar()
    }

    /// Itself, if it is a scalar.
    #[must_use]
    pub fn as_scalar(&self) -> Option<&Scalar<'a>> {
        if let Self::Scalar(scalar) = self { Some(scalar) } else { None }
    }

    /// The elements of an array; none for other values.
    #[must_use]
    pub fn items(&self) -> &[SpannedNode<'a>] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    /// The entries of a map; none for other values.
    #[must_use]
    pub fn entries(&self) -> &[(Cow<'a, str>, SpannedNode<'a>)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    /// Whether it is a map.
    #[must_use]
    pub fn is_map(&self) -> bool {
        matches!(self, Self::Map(_))
    }
}

/// A container whose end has not come yet.
enum Growing<'a> {
    Array(Vec<SpannedNode<'a>>),
    Map(Vec<(Cow<'a, str>, SpannedNode<'a>)>, Option<Cow<'a, str>>),
}

impl<'a> Growing<'a> {
    fn push(&mut self, value: SpannedNode<'a>, at: usize) -> Result<(), XmlError> {
        match self {
            Self::Array(items) => items.push(value),
            Self::Map(entries, key) => {
                entries.push((key.take().ok_or(XmlError::Malformed(at))?, value));
            }
        }
        Ok(())
    }
}

/// Reads a whole document: an optional prolog of any form, then `<llsd>` with one value.
///
/// Linear in the body's length. Elements LLSD does not know count as undef.
///
/// # Errors
/// When it is not well-formed, is not LLSD, nests deeper than [`crate::xml::MAX_DEPTH`] elements,
/// or holds more than [`MAX_NODES`] values.
pub fn parse(body: &[u8]) -> Result<SpannedNode<'_>, XmlError> {
    let mut pull = Pull::new(body)?;
    let Token::Open { name: b"llsd", .. } = pull.next()? else { return Err(XmlError::WrongDocument) };
    let mut open: Vec<Growing<'_>> = Vec::new();
    let mut root = None;
    let mut nodes = 0_usize;
    loop {
        let (at, value) = match pull.next()? {
            Token::Open { name: b"key", span } => {
                let Some(Growing::Map(_, key @ None)) = open.last_mut() else {
                    return Err(XmlError::Malformed(span.start));
                };
                let place = pull.text(&span)?.ok_or(XmlError::Malformed(span.start))?;
                *key = Some(place.text(body).ok_or(XmlError::Malformed(span.start))?);
                continue;
            }
            Token::Empty { name: b"key", span } => {
                let Some(Growing::Map(_, key @ None)) = open.last_mut() else {
                    return Err(XmlError::Malformed(span.start));
                };
                *key = Some(Cow::Borrowed(""));
                continue;
            }
            Token::Open { name: b"array", .. } => {
                open.push(Growing::Array(Vec::new()));
                continue;
            }
            Token::Open { name: b"map", .. } => {
                open.push(Growing::Map(Vec::new(), None));
                continue;
            }
            Token::Empty { name: b"array", span } => (span.start, SpannedNode::Array(Vec::new())),
            Token::Empty { name: b"map", span } => (span.start, SpannedNode::Map(Vec::new())),
            Token::Open { name, span } => match (ScalarKind::of(name), pull.text(&span)?) {
                (Some(kind), Some(place)) => {
                    let is_base64 = kind != ScalarKind::Binary || is_base64(body, &span, name.len());
                    (span.start, SpannedNode::Scalar(Scalar { kind, body, place, is_base64 }))
                }
                (None, _) => (span.start, undef(body, span.start)),
                (Some(_), None) => return Err(XmlError::Malformed(span.start)),
            },
            Token::Empty { name, span } => match ScalarKind::of(name) {
                Some(kind) => {
                    let place = empty_place(name, &span);
                    (span.start, SpannedNode::Scalar(Scalar { kind, body, place, is_base64: true }))
                }
                None => (span.start, undef(body, span.start)),
            },
            Token::Close { span } => match open.pop() {
                Some(Growing::Array(items)) => (span.start, SpannedNode::Array(items)),
                Some(Growing::Map(entries, None)) => (span.start, SpannedNode::Map(entries)),
                Some(Growing::Map(_, Some(_))) => return Err(XmlError::Malformed(span.start)),
                None => return root.ok_or(XmlError::WrongDocument),
            },
            Token::End => return Err(XmlError::Truncated),
        };
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(XmlError::TooManyNodes);
        }
        match open.last_mut() {
            Some(container) => container.push(value, at)?,
            None if root.is_none() => root = Some(value),
            None => return Err(XmlError::Malformed(at)),
        }
    }
}

/// Whether a `<binary>` tag names no encoding, or base64.
fn is_base64(body: &[u8], tag: &Range<usize>, name_len: usize) -> bool {
    let content = body.get(tag.start + 1..tag.end.saturating_sub(1)).unwrap_or_default();
    if content.len() == name_len {
        return true;
    }
    let Ok(content) = std::str::from_utf8(content) else { return false };
    match BytesStart::from_content(content, name_len).try_get_attribute("encoding") {
        Ok(encoding) => encoding.is_none_or(|encoding| encoding.value.as_ref() == b"base64"),
        Err(_) => false,
    }
}

/// What stands for an element LLSD does not know: without a text.
fn undef(body: &[u8], at: usize) -> SpannedNode<'_> {
    let place = content_place(&(at..at), &(at..at));
    SpannedNode::Scalar(Scalar { kind: ScalarKind::Undef, body, place, is_base64: false })
}

#[cfg(test)]
mod tests;
