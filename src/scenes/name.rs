//! What a region calls itself. Any grid may send anything here: it is cut, and cleaned of what could play
//! tricks where it is shown. It is still to be escaped there.

use std::fmt;

/// Characters that are kept. Second Life allows 35, OpenSimulator more.
const MAX_CHARS: usize = 64;

/// A region's name, safe to keep; empty when it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct RegionName(String);

impl RegionName {
    /// Reads a name off the wire: UTF-8, usually with a NUL behind it.
    #[must_use]
    pub fn from_wire(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Self::new(&String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()))
    }

    /// Cleans a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut clean = String::new();
        let mut kept = 0;
        for c in text.chars() {
            // A space stands for runs of whatever does not show.
            let c = if c.is_whitespace() || c.is_control() || is_trick(c) { ' ' } else { c };
            if c == ' ' && (clean.is_empty() || clean.ends_with(' ')) {
                continue;
            }
            if kept >= MAX_CHARS {
                break;
            }
            clean.push(c);
            kept += 1;
        }
        clean.truncate(clean.trim_end().len());
        Self(clean)
    }

    /// The name; empty when it is not known.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "a region without a name" } else { &self.0 })
    }
}

/// Characters that turn the text around them, or do not show at all.
/// Source: Unicode 16, 23.2 (layout controls) and UAX 9 (directional formatting characters).
const fn is_trick(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::{MAX_CHARS, RegionName};

    #[test]
    fn a_name_ends_at_its_nul_and_is_cut() {
        assert_eq!(RegionName::from_wire(b"Da Boom\0").as_str(), "Da Boom");
        assert_eq!(RegionName::from_wire(b"Da Boom\0evil").as_str(), "Da Boom");
        assert_eq!(RegionName::from_wire(b"").as_str(), "");
        assert_eq!(RegionName::from_wire(&[b'x'; 255]).as_str().len(), MAX_CHARS);
        assert_eq!(RegionName::from_wire("ü".repeat(120).as_bytes()).as_str().chars().count(), MAX_CHARS);
    }

    #[test]
    fn nothing_in_a_name_plays_tricks() {
        for (wild, tame) in [
            ("a\u{202e}b\u{2066}c", "a b c"),
            ("\r\n a \t\u{200b} b \u{feff}", "a b"),
            ("\u{1}\u{7f}\u{85}", ""),
            ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ] {
            assert_eq!(RegionName::new(wild).as_str(), tame);
        }
        assert_eq!(RegionName::from_wire(b"\xff\xfeok").as_str(), "\u{fffd}\u{fffd}ok");
    }
}
