//! XML as the grid sends it: a pull reader that knows where everything stands, and splicing.
//!
//! Replies are not re-serialised: a reader reports *where* a text stands in the original bytes,
//! and [`Splices`] puts another text there, so everything else stays byte for byte.
//! Entities of a document's own are refused, so nothing expands; depth is bounded.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};
use thiserror::Error;

/// Elements nested deeper than this are refused: readers and viewers recurse, and no reply of a
/// grid comes near it.
pub const MAX_DEPTH: usize = 64;

const UTF8_BOM: &[u8] = &[0xEF, 0xBB, 0xBF];

/// Why a document cannot be read. Says nothing of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum XmlError {
    /// Not well-formed.
    #[error("malformed XML near byte {0}")]
    Malformed(usize),
    /// It ends inside an element.
    #[error("the document ends too early")]
    Truncated,
    /// More than [`MAX_DEPTH`] elements inside one another.
    #[error("elements nested too deep")]
    TooDeep,
    /// An entity that XML does not define itself.
    #[error("an entity that XML does not define, near byte {0}")]
    UnknownEntity(usize),
    /// Well-formed, but not the expected kind of document.
    #[error("not a document of the expected kind")]
    WrongDocument,
    /// More values than a reply can hold.
    #[error("too many values")]
    TooManyNodes,
}

/// Where an element's text stands, so that another text can take its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPlace {
    span: Range<usize>,
    /// For `<name/>`: where its name stands; `span` is then the `/>`.
    empty_name: Option<Range<usize>>,
}

impl TextPlace {
    /// The bytes of the content between the tags, undecoded; for `<name/>` the `/>` that a text
    /// has to replace.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Whether the element is written `<name/>`.
    #[must_use]
    pub fn is_self_closed(&self) -> bool {
        self.empty_name.is_some()
    }

    /// The undecoded text, empty for `<name/>`.
    #[must_use]
    pub fn raw<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        if self.is_self_closed() { &[] } else { body.get(self.span.clone()).unwrap_or_default() }
    }

    /// The decoded text. `None` when it is not UTF-8 or has child elements.
    #[must_use]
    pub fn text<'a>(&self, body: &'a [u8]) -> Option<Cow<'a, str>> {
        decode_text(self.raw(body))
    }
}

/// One step through a document. Comments, the prolog and processing instructions are passed over.
#[derive(Clone, Debug)]
pub(crate) enum Token<'a> {
    /// `<name …>`
    Open { name: &'a [u8], span: Range<usize> },
    /// `<name …/>`
    Empty { name: &'a [u8], span: Range<usize> },
    /// `</name>`
    Close { span: Range<usize> },
    /// The document is over, every element closed.
    End,
}

/// A document read tag by tag. Text is not a token: it is what stands between two of them.
pub(crate) struct Pull<'a> {
    body: &'a [u8],
    reader: Reader<&'a [u8]>,
    base: usize,
    depth: usize,
}

impl<'a> Pull<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Result<Self, XmlError> {
        let text = body.strip_prefix(UTF8_BOM).unwrap_or(body);
        // The reader drops a mark without counting it, which would shift every span.
        if text.starts_with(UTF8_BOM) {
            return Err(XmlError::Malformed(0));
        }
        Ok(Self { body, reader: Reader::from_reader(text), base: body.len() - text.len(), depth: 0 })
    }

    /// How many elements are open.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    fn position(&self) -> usize {
        usize::try_from(self.reader.buffer_position()).map_or(self.body.len(), |p| p + self.base)
    }

    pub(crate) fn next(&mut self) -> Result<Token<'a>, XmlError> {
        loop {
            let start = self.position();
            let event = self.reader.read_event().map_err(|_| XmlError::Malformed(start))?;
            let span = start..self.position();
            match event {
                Event::Start(tag) => {
                    if self.depth >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    self.depth += 1;
                    let name = self.name(&span, tag.name().as_ref().len())?;
                    return Ok(Token::Open { name, span });
                }
                Event::Empty(tag) => {
                    if self.depth >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    let name = self.name(&span, tag.name().as_ref().len())?;
                    return Ok(Token::Empty { name, span });
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(Token::Close { span });
                }
                Event::GeneralRef(entity) => {
                    resolve(&entity).ok_or(XmlError::UnknownEntity(start))?;
                }
                Event::Eof if self.depth > 0 => return Err(XmlError::Truncated),
                Event::Eof => return Ok(Token::End),
                Event::Text(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_) => {}
            }
        }
    }

    fn name(&self, tag: &Range<usize>, len: usize) -> Result<&'a [u8], XmlError> {
        let start = tag.start + 1;
        self.body.get(start..start + len).ok_or(XmlError::Malformed(tag.start))
    }

    /// After the `Open` of an element: passes over its children to its `Close`, whose span is
    /// returned, with whether there were any child elements.
    pub(crate) fn skip(&mut self) -> Result<(Range<usize>, bool), XmlError> {
        let outside = self.depth.saturating_sub(1);
        let mut children = false;
        loop {
            match self.next()? {
                Token::Open { .. } | Token::Empty { .. } => children = true,
                Token::Close { span } if self.depth <= outside => return Ok((span, children)),
                Token::Close { .. } => {}
                Token::End => return Err(XmlError::Truncated),
            }
        }
    }

    /// After the `Open` of an element that should hold only text: where that text stands, or
    /// `None` if it has child elements. The element is read to its end.
    pub(crate) fn text(&mut self, open: &Range<usize>) -> Result<Option<TextPlace>, XmlError> {
        let (close, children) = self.skip()?;
        Ok((!children).then(|| content_place(open, &close)))
    }
}

/// The place of the text between two tags.
pub(crate) fn content_place(open: &Range<usize>, close: &Range<usize>) -> TextPlace {
    TextPlace { span: open.end..close.start, empty_name: None }
}

/// The place where `<name/>` can be given a text.
pub(crate) fn empty_place(name: &[u8], tag: &Range<usize>) -> TextPlace {
    let start = tag.start + 1;
    TextPlace { span: tag.end.saturating_sub(2)..tag.end, empty_name: Some(start..start + name.len()) }
}

fn resolve(entity: &BytesRef<'_>) -> Option<char> {
    if entity.is_char_ref() {
        return entity.resolve_char_ref().ok().flatten();
    }
    match &entity[..] {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        _ => None,
    }
}

/// The text that undecoded content stands for: entities resolved, CDATA taken as it is, comments
/// dropped. `None` for unknown entities, child elements and what is not UTF-8.
#[must_use]
pub fn decode_text(raw: &[u8]) -> Option<Cow<'_, str>> {
    let raw = std::str::from_utf8(raw).ok()?;
    if !raw.bytes().any(|b| matches!(b, b'&' | b'<')) {
        return Some(Cow::Borrowed(raw));
    }
    let mut reader = Reader::from_reader(raw.as_bytes());
    let mut text = String::with_capacity(raw.len());
    loop {
        match reader.read_event().ok()? {
            Event::Text(part) => text.push_str(std::str::from_utf8(&part).ok()?),
            Event::CData(part) => text.push_str(std::str::from_utf8(&part).ok()?),
            Event::GeneralRef(entity) => text.push(resolve(&entity)?),
            Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return Some(Cow::Owned(text)),
            _ => return None,
        }
    }
}

/// A text as it has to stand between tags.
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// Replacements collected for one document, then made all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splices {
    edits: Vec<Edit>,
}

#[derive(Clone, PartialEq, Eq)]
struct Edit {
    place: TextPlace,
    /// As it is to stand in the document. Often a secret URL.
    text: String,
}

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edit").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Splices {
    /// Gives an element another text, escaped as needed.
    pub fn text(&mut self, place: &TextPlace, text: &str) {
        self.edits.push(Edit { place: place.clone(), text: escape(text).into_owned() });
    }

    /// Replaces these bytes by exactly that.
    pub fn raw(&mut self, span: Range<usize>, text: &str) {
        self.edits.push(Edit { place: TextPlace { span, empty_name: None }, text: text.to_owned() });
    }

    /// Adds another collection for the same document.
    pub fn extend(&mut self, other: Self) {
        self.edits.extend(other.edits);
    }

    /// Whether nothing is to be replaced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The document with the replacements made. One that overlaps an earlier one, or lies outside
    /// the document, is left out.
    #[must_use]
    pub fn apply(&self, body: &[u8]) -> Vec<u8> {
        let mut edits: Vec<&Edit> = self.edits.iter().collect();
        edits.sort_by_key(|edit| edit.place.span.start);
        let mut out = Vec::with_capacity(body.len() + edits.iter().map(|e| e.text.len()).sum::<usize>());
        let mut done = 0;
        for Edit { place, text } in edits {
            let (Some(kept), Some(_)) =
                (body.get(done..place.span.start), body.get(place.span.start..place.span.end))
            else {
                continue;
            };
            out.extend_from_slice(kept);
            match place.empty_name.as_ref().and_then(|name| body.get(name.clone())) {
                None => out.extend_from_slice(text.as_bytes()),
                Some(name) => {
                    for part in [b">", text.as_bytes(), b"</", name, b">"] {
                        out.extend_from_slice(part);
                    }
                }
            }
            done = place.span.end;
        }
        out.extend_from_slice(body.get(done..).unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn first_text(body: &[u8]) -> TextPlace {
        let mut pull = Pull::new(body).unwrap();
        match pull.next().unwrap() {
            Token::Open { span, .. } => pull.text(&span).unwrap().expect("only text"),
            Token::Empty { name, span } => empty_place(name, &span),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_place_is_exactly_the_text_whatever_stands_around_it() {
        for body in [
            "<a>x</a>",
            "<?xml version='1.0'?>\n<!-- c --><a >x</a >\n",
            "<? LLSD/XML ?>\n<a>x</a>",
            "\u{feff}<a b='>'>x</a>",
            "<!DOCTYPE a><a>x</a>",
        ] {
            let place = first_text(body.as_bytes());
            assert_eq!(body.get(place.span()), Some("x"), "{body}");
        }
        let body = "<a>&lt;&#x41;<![CDATA[&<]]><!-- no -->b</a>".as_bytes();
        assert_eq!(first_text(body).text(body).unwrap(), "<A&<b");
    }

    #[test]
    fn an_empty_element_can_be_given_a_text() {
        for (body, expected) in [
            ("<a/>", "<a>1&amp;2</a>"),
            ("<a b='c' />", "<a b='c' >1&amp;2</a>"),
            ("<a></a>", "<a>1&amp;2</a>"),
        ] {
            let mut splices = Splices::default();
            splices.text(&first_text(body.as_bytes()), "1&2");
            assert_eq!(splices.apply(body.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn custom_entities_depth_and_broken_documents_are_refused() {
        let run = |body: &str| {
            let mut pull = Pull::new(body.as_bytes())?;
            while !matches!(pull.next()?, Token::End) {}
            Ok(())
        };
        let bomb = "<!DOCTYPE a [<!ENTITY x \"y\"><!ENTITY z \"&x;&x;\">]><a>&z;</a>";
        assert!(matches!(run(bomb), Err(XmlError::UnknownEntity(_))));
        assert_eq!(run(&"<a>".repeat(20_000)), Err(XmlError::TooDeep));
        assert_eq!(run("<a><b></b>"), Err(XmlError::Truncated));
        assert!(matches!(run("<a></b>"), Err(XmlError::Malformed(_))));
        assert!(matches!(run("<a>&</a>"), Err(XmlError::Malformed(_))));
        assert_eq!(run("<a><b/></a>"), Ok(()));
    }

    #[test]
    fn overlapping_and_outside_replacements_are_left_out() {
        let mut splices = Splices::default();
        splices.raw(1..3, "-");
        splices.raw(2..4, "+");
        splices.raw(9..12, "?");
        assert_eq!(splices.apply(b"abcdef"), b"a-def");
    }
}
