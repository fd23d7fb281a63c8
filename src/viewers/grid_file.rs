//! The grid files of viewers: an entry of ours put in and taken out, everything else byte for byte as it was.
//!
//! ```text
//!  <llsd><map><key>home</key><map>…</map><key>rezcache-osgrid</key><map>…</map>⏎</map></llsd>
//!                                        └──────────── ours ────────────────┘
//! ```

use std::ops::Range;

use crate::xml::{Pull, Splices, Token, XmlError, decode_text, escape};

/// What stands before the name of a grid in the keys that are ours.
pub const KEY_PREFIX: &str = "rezcache-";
/// A viewer's grid file has a few kilobytes.
pub const MAX_BYTES: usize = 4 << 20;

/// A grid as a viewer's file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridEntry {
    /// Its key, which `--grid` takes.
    pub key: String,
    /// What the viewer's list calls it.
    pub label: String,
    /// Its login address.
    pub login: String,
}

/// Why a file is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridFileError {
    /// It is no XML.
    #[error("it cannot be read ({0})")]
    Xml(#[from] XmlError),
    /// It is XML, but no map of grids.
    #[error("it is not a list of grids")]
    NotAMap,
    /// More than [`MAX_BYTES`].
    #[error("it is too large")]
    TooLarge,
}

/// One grid of the file.
struct Found<'a> {
    key: String,
    /// From its key's tag to the end of its value.
    span: Range<usize>,
    value: &'a [u8],
}

struct Document<'a> {
    grids: Vec<Found<'a>>,
    /// Where another one can be put, and what has to stand around it there.
    end: Range<usize>,
    around: (&'static str, &'static str),
}

impl GridEntry {
    fn text(&self) -> String {
        let (key, label, login) = (escape(&self.key), escape(&self.label), escape(&self.login));
        format!(
            "<key>{key}</key><map><key>keyname</key><string>{key}</string><key>label</key><string>{label}</string>\
             <key>login_uri</key><array><string>{login}</string></array><key>login_page</key><string>{login}</string></map>"
        )
    }
}

/// The file with the entry in it; `None` when nothing has to change.
///
/// # Errors
/// When the file is not one that can be added to.
pub fn with_entry(file: Option<&[u8]>, entry: &GridEntry) -> Result<Option<Vec<u8>>, GridFileError> {
    let text = entry.text();
    let Some(file) = file.filter(|file| !file.trim_ascii().is_empty()) else {
        return Ok(Some(
            format!("<?xml version=\"1.0\"?>\n<llsd><map>\n{text}\n</map></llsd>\n").into_bytes(),
        ));
    };
    let document = Document::read(file)?;
    let mut splices = Splices::default();
    match document.grids.iter().find(|grid| grid.key == entry.key) {
        // A viewer that writes its file anew keeps what it says, in other words.
        Some(found) if says(found.value, entry) => return Ok(None),
        Some(found) => splices.raw(found.span.clone(), &text),
        None => {
            let (before, after) = document.around;
            splices.raw(document.end, &format!("{before}{text}\n{after}"));
        }
    }
    Ok(Some(splices.apply(file)))
}

/// The file without these keys, and whether any grid is left in it; `None` when nothing has to change.
///
/// # Errors
/// When the file is not one that can be read.
pub fn without(file: &[u8], keys: &[String]) -> Result<Option<(Vec<u8>, bool)>, GridFileError> {
    let document = Document::read(file)?;
    let (ours, theirs): (Vec<_>, Vec<_>) =
        document.grids.iter().partition(|grid| keys.contains(&grid.key) && grid.key.starts_with(KEY_PREFIX));
    if ours.is_empty() {
        return Ok(None);
    }
    let mut splices = Splices::default();
    for grid in ours {
        let mut span = grid.span.clone();
        if file.get(span.end) == Some(&b'\n') {
            span.end += 1;
        }
        splices.raw(span, "");
    }
    Ok(Some((splices.apply(file), !theirs.is_empty())))
}

/// The grids that a viewer's file lists, with a label and a login address each, without ours. Nothing of a
/// file that cannot be read.
#[must_use]
pub fn listed(file: &[u8]) -> Vec<(String, String)> {
    let Ok(document) = Document::read(file) else { return Vec::new() };
    let grids = document.grids.iter().filter(|grid| !grid.key.starts_with(KEY_PREFIX));
    let labelled = grids.filter_map(|grid| {
        let texts = texts(grid.value).ok()?;
        let of = |names: &[&str]| texts.iter().find(|(key, _)| names.contains(&key.as_str()));
        let login = of(&["login_uri", "loginuri"])?.1.clone();
        let label = of(&["label", "gridname"]).map_or_else(|| grid.key.clone(), |(_, text)| text.clone());
        login.starts_with("http").then_some((label, login))
    });
    labelled.collect()
}

/// Whether a grid's value is what the entry asks for.
fn says(value: &[u8], entry: &GridEntry) -> bool {
    let Ok(texts) = texts(value) else { return false };
    let is = |name: &str, text: &str| texts.iter().any(|(key, found)| key == name && found == text);
    is("keyname", &entry.key) && is("login_uri", &entry.login) && is("login_page", &entry.login)
}

/// Each key of a map with the first text in its value.
fn texts(value: &[u8]) -> Result<Vec<(String, String)>, XmlError> {
    let mut pull = Pull::new(value)?;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut key: Option<String> = None;
    loop {
        match pull.next()? {
            Token::Open { name: b"key", span } => {
                key = pull.text(&span)?.and_then(|place| Some(place.text(value)?.into_owned()));
            }
            Token::Open { name: b"map" | b"array", .. } => {}
            Token::Open { span, .. } => {
                let text = pull.text(&span)?.and_then(|place| Some(place.text(value)?.trim().to_owned()));
                if let (Some(key), Some(text)) = (key.take(), text) {
                    found.push((key, text));
                }
            }
            Token::Empty { .. } => key = None,
            Token::Close { .. } => {}
            Token::End => return Ok(found),
        }
    }
}

impl<'a> Document<'a> {
    fn read(file: &'a [u8]) -> Result<Self, GridFileError> {
        if file.len() > MAX_BYTES {
            return Err(GridFileError::TooLarge);
        }
        let mut pull = Pull::new(file)?;
        match pull.next()? {
            Token::Open { name: b"llsd", .. } => {}
            Token::Empty { name: b"llsd", span } => {
                let around = ("<llsd><map>\n", "</map></llsd>");
                return Ok(Self { grids: Vec::new(), end: span, around });
            }
            _ => return Err(GridFileError::NotAMap),
        }
        let document = match pull.next()? {
            Token::Open { name: b"map", .. } => Self::grids(file, &mut pull)?,
            Token::Empty { name: b"map", span } => {
                Self { grids: Vec::new(), end: span, around: ("<map>\n", "</map>") }
            }
            Token::Empty { name: b"undef", span } => {
                Self { grids: Vec::new(), end: span, around: ("<map>\n", "</map>") }
            }
            Token::Close { span } => {
                Self { grids: Vec::new(), end: span.start..span.start, around: ("<map>\n", "</map>") }
            }
            _ => return Err(GridFileError::NotAMap),
        };
        // To its end, so that a file which is broken further on is left alone.
        while !matches!(pull.next()?, Token::End) {}
        Ok(document)
    }

    fn grids(file: &'a [u8], pull: &mut Pull<'a>) -> Result<Self, GridFileError> {
        let mut grids = Vec::new();
        loop {
            let key_tag = match pull.next()? {
                Token::Open { name: b"key", span } => span,
                Token::Close { span } => {
                    return Ok(Self { grids, end: span.start..span.start, around: ("", "") });
                }
                _ => return Err(GridFileError::NotAMap),
            };
            let key = pull.text(&key_tag)?.ok_or(GridFileError::NotAMap)?;
            let key = decode_text(key.raw(file)).ok_or(GridFileError::NotAMap)?.into_owned();
            let value = match pull.next()? {
                Token::Open { span, .. } => span.start..pull.skip()?.0.end,
                Token::Empty { span, .. } => span,
                _ => return Err(GridFileError::NotAMap),
            };
            let bytes = file.get(value.clone()).unwrap_or_default();
            grids.push(Found { key, span: key_tag.start..value.end, value: bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::llsd::xml::parse;

    fn entry(key: &str) -> GridEntry {
        GridEntry { key: key.into(), label: "A & B".into(), login: "http://127.0.0.1:9080/".into() }
    }

    fn put(file: &str, key: &str) -> String {
        String::from_utf8(with_entry(Some(file.as_bytes()), &entry(key)).unwrap().unwrap()).unwrap()
    }

    const VIEWERS_OWN: &str = "<?xml version=\"1.0\" ?>\r\n<llsd>\r\n<!-- mine -->\r\n<map>\r\n  <key>home</key>\r\n  <map><key>keyname</key><string>home</string><key>x</key><integer>1</integer><key>login_uri</key><array><string>http://192.168.1.5:8002/</string></array></map>\r\n</map>\r\n</llsd>\r\n";

    #[test]
    fn what_was_there_stays_and_comes_back_byte_for_byte() {
        for file in [
            VIEWERS_OWN,
            "<llsd><map></map></llsd>",
            "<llsd><map>\n</map></llsd>\n",
            "\u{feff}<llsd><map><key>a</key><map/></map></llsd>",
        ] {
            let once = put(file, "rezcache-a");
            let twice = put(&once, "rezcache-b");
            let at = twice.find("<key>rezcache-a<").unwrap();
            assert_eq!(&twice[..at], &file[..at]);
            parse(twice.as_bytes()).unwrap();
            assert_eq!(with_entry(Some(twice.as_bytes()), &entry("rezcache-a")), Ok(None), "idempotent");
            let keys = ["rezcache-a".to_owned(), "rezcache-b".to_owned()];
            let (back, _) = without(twice.as_bytes(), &keys).unwrap().unwrap();
            assert_eq!(String::from_utf8(back).unwrap(), file);
        }
    }

    #[test]
    fn an_empty_file_in_any_spelling_gets_the_entry() {
        for file in ["", " \n", "<llsd/>", "<llsd></llsd>", "<llsd><map/></llsd>", "<llsd><undef/></llsd>"] {
            let text = put(file, "rezcache-a");
            parse(text.as_bytes()).unwrap();
            assert_eq!(with_entry(Some(text.as_bytes()), &entry("rezcache-a")), Ok(None), "{file}");
        }
        let fresh = with_entry(None, &entry("rezcache-a")).unwrap().unwrap();
        assert!(parse(&fresh).is_ok());
        let (_, others) = without(&fresh, &["rezcache-a".into()]).unwrap().unwrap();
        assert!(!others);
    }

    #[test]
    fn an_entry_whose_address_has_changed_is_replaced_where_it_stands() {
        let file = put(VIEWERS_OWN, "rezcache-a");
        let moved = GridEntry { login: "http://127.0.0.1:9999/".into(), ..entry("rezcache-a") };
        let changed = with_entry(Some(file.as_bytes()), &moved).unwrap().unwrap();
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(changed, file.replace(":9080/", ":9999/"));
    }

    #[test]
    fn an_entry_that_the_viewer_wrote_in_its_own_way_counts() {
        let rewritten = "<llsd><map><key>rezcache-a</key><map>\n<key>extra</key><array/><key>keyname</key>\n<string>rezcache-a</string>\n<key>login_uri</key><array>\n<string>http://127.0.0.1:9080/</string></array><key>login_page</key><string>http://127.0.0.1:9080/</string></map></map></llsd>";
        assert_eq!(with_entry(Some(rewritten.as_bytes()), &entry("rezcache-a")), Ok(None));
    }

    #[test]
    fn files_that_are_something_else_are_left_alone() {
        for file in [
            "{}",
            "<llsd><array/></llsd>",
            "<html><map/></html>",
            "<llsd><map><key>a</key></map></llsd>",
            "<llsd><map><string>a</string></map></llsd>",
            "<llsd><map>",
            "<llsd><map></map></llsd><llsd>",
        ] {
            assert!(with_entry(Some(file.as_bytes()), &entry("rezcache-a")).is_err(), "{file}");
            assert!(without(file.as_bytes(), &["rezcache-a".into()]).is_err(), "{file}");
        }
        let huge = format!("<llsd><map>{}</map></llsd>", " ".repeat(MAX_BYTES));
        assert_eq!(with_entry(Some(huge.as_bytes()), &entry("rezcache-a")), Err(GridFileError::TooLarge));
    }

    #[test]
    fn only_our_own_keys_are_ever_taken_out() {
        assert_eq!(without(VIEWERS_OWN.as_bytes(), &["home".into()]), Ok(None));
        assert_eq!(without(VIEWERS_OWN.as_bytes(), &["rezcache-a".into()]), Ok(None));
    }

    #[test]
    fn the_viewer_s_grids_are_listed_without_ours() {
        let file = put(VIEWERS_OWN, "rezcache-a");
        let home = [("home".to_owned(), "http://192.168.1.5:8002/".to_owned())];
        assert_eq!(listed(file.as_bytes()), home);
        let firestorm = "<llsd><map><key>g</key><map><key>gridname</key><string>G</string><key>loginuri</key><array><string>http://g.example/</string></array></map></map></llsd>";
        assert_eq!(listed(firestorm.as_bytes()), [("G".to_owned(), "http://g.example/".to_owned())]);
        assert!(listed(b"<llsd><map>").is_empty());
    }
}
