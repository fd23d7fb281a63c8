//! GLTF materials: an LLSD map, XML or binary, around a string of JSON.
//!
//! ```text
//! { version: "1.0" | "1.1", type: "GLTF 2.0", data: "{ … }" }
//! ```
//! Source: Second Life viewer, indra/newview/llgltfmateriallist.cpp.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};
use serde::de::IgnoredAny;

use crate::asset::validate::{Invalid, Note, Valid};
use crate::llsd::{Llsd, MAX_DEPTH, binary};

const VERSIONS: [&str; 2] = ["1.0", "1.1"];
const TYPE: &str = "GLTF 2.0";
/// What may stand before the XML of a stored document.
const XML_HEADER_STARTS: [&str; 2] = ["<? LLSD/XML ?>", "<?llsd/xml?>"];

/// The members of a material that are looked at.
#[derive(Default)]
struct Members {
    version: Option<String>,
    kind: Option<String>,
    data: Option<String>,
}

impl Members {
    fn set(&mut self, key: &str, text: String) {
        match key {
            "version" => self.version = Some(text),
            "type" => self.kind = Some(text),
            "data" => self.data = Some(text),
            _ => {}
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        let data = self.data.as_deref().unwrap_or_default();
        let is_material = self.version.as_deref().is_some_and(|version| VERSIONS.contains(&version))
            && self.kind.as_deref() == Some(TYPE)
            && data.trim_start().starts_with('{')
            && serde_json::from_str::<IgnoredAny>(data).is_ok();
        if is_material { Ok(()) } else { Err(Invalid::NotMaterial) }
    }
}

/// Checks a whole material.
pub(crate) fn validate(body: &[u8]) -> Result<Valid, Invalid> {
    let is_binary = body.get(binary::header_line_len(body)) == Some(&b'{');
    let (members, is_exact) = if is_binary { from_binary(body)? } else { from_xml(body)? };
    members.check()?;
    Ok(if is_exact { Valid::EXACT } else { Valid::EXACT.inexact(Note::TrailingBytes) })
}

fn from_binary(body: &[u8]) -> Result<(Members, bool), Invalid> {
    let (document, consumed) = binary::decode(body).map_err(|_| Invalid::Llsd)?;
    let Llsd::Map(entries) = document else { return Err(Invalid::NotMaterial) };
    let mut members = Members::default();
    for (key, value) in entries {
        if let Llsd::String(text) = value {
            members.set(&key, text);
        }
    }
    Ok((members, consumed == body.len()))
}

/// Reads `<llsd><map>` and the strings directly in it; deeper values are only skipped.
fn from_xml(body: &[u8]) -> Result<(Members, bool), Invalid> {
    let text = std::str::from_utf8(body).map_err(|_| Invalid::WrongFormat)?;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let text = XML_HEADER_STARTS
        .iter()
        .find_map(|header| {
            let start = text.get(..header.len())?;
            start.eq_ignore_ascii_case(header).then(|| text.get(header.len()..))?
        })
        .unwrap_or(text)
        .trim_start();
    if !text.starts_with('<') {
        return Err(Invalid::WrongFormat);
    }

    let mut reader = Reader::from_str(text);
    let mut members = Members::default();
    let mut depth = 0_usize;
    let mut key: Option<String> = None;
    // The text of the key or string at depth 3 that is open.
    let mut open: Option<(bool, String)> = None;
    loop {
        match reader.read_event().map_err(|_| Invalid::Llsd)? {
            Event::Start(start) => {
                depth += 1;
                let name = start.name();
                match (depth, name.as_ref()) {
                    (1, b"llsd") | (2, b"map") => {}
                    (3, b"key") => open = Some((true, String::new())),
                    (3, b"string") => open = Some((false, String::new())),
                    (1 | 2, _) => return Err(Invalid::NotMaterial),
                    _ if depth > MAX_DEPTH => return Err(Invalid::Llsd),
                    _ => {}
                }
            }
            Event::End(_) => {
                if depth == 3 {
                    match open.take() {
                        Some((true, text)) => key = Some(text),
                        Some((false, text)) => members.set(&key.take().ok_or(Invalid::Llsd)?, text),
                        None => key = None,
                    }
                }
                depth = depth.checked_sub(1).ok_or(Invalid::Llsd)?;
                if depth == 0 {
                    break;
                }
            }
            Event::Empty(_) if depth < 2 => return Err(Invalid::NotMaterial),
            Event::Empty(_) if depth == 2 => key = None,
            Event::Text(piece) => {
                append(&mut open, depth, &piece.xml10_content().map_err(|_| Invalid::Llsd)?)
            }
            Event::CData(piece) => {
                append(&mut open, depth, &piece.xml10_content().map_err(|_| Invalid::Llsd)?)
            }
            Event::GeneralRef(reference) => {
                append(&mut open, depth, resolve(&reference)?.encode_utf8(&mut [0; 4]));
            }
            Event::DocType(_) | Event::Eof => return Err(Invalid::Llsd),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    let read = usize::try_from(reader.buffer_position()).map_err(|_| Invalid::Llsd)?;
    let after = text.get(read..).unwrap_or_default();
    Ok((members, after.trim().is_empty()))
}

/// Adds to the open key or string; text elsewhere is layout.
fn append(open: &mut Option<(bool, String)>, depth: usize, piece: &str) {
    if let Some((_, text)) = open.as_mut().filter(|_| depth == 3) {
        text.push_str(piece);
    }
}

/// A character reference or one of the five entities that XML itself has.
fn resolve(reference: &BytesRef<'_>) -> Result<char, Invalid> {
    if let Some(character) = reference.resolve_char_ref().map_err(|_| Invalid::Llsd)? {
        return Ok(character);
    }
    match &reference[..] {
        b"lt" => Ok('<'),
        b"gt" => Ok('>'),
        b"amp" => Ok('&'),
        b"apos" => Ok('\''),
        b"quot" => Ok('"'),
        _ => Err(Invalid::Llsd),
    }
}

#[cfg(test)]
mod tests;
