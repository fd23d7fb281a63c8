//! What a form or a script sends with an action: a bounded `application/x-www-form-urlencoded` text.

use std::collections::BTreeMap;

/// The longest body that is read. The longest honest one has a join line in it, with every sign escaped.
pub(super) const MAX_BYTES: usize = 4096 + 3 * crate::token::join::MAX_JOIN_LINE_BYTES;
/// More fields than this are not ours.
const MAX_FIELDS: usize = 16;

/// Names and values; the first of each name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads a text. `None` when it is too long, has too many fields, or is not well encoded.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let mut fields = BTreeMap::new();
        for (number, pair) in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).enumerate() {
            if number >= MAX_FIELDS {
                return None;
            }
            let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at(end);
            let value = value.get(1..).unwrap_or_default();
            fields.entry(decode(name)?).or_insert(decode(value)?);
        }
        Some(Self(fields))
    }

    /// These, and those of `others` that are not among them.
    pub(super) fn or(mut self, others: Self) -> Self {
        for (name, value) in others.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    /// The value of a field, without spaces around it.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim())
    }

    /// The same as a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let text = self.get(name)?;
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    }
}

/// Undoes `+` and `%XX`. `None` for what is no UTF-8 then, or has a half `%`.
fn decode(text: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => *other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Fields, MAX_BYTES};

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let fields = Fields::parse(b"token=+ab%20c%C3%BC+&empty=&lone&n=12&n=13&%6e2=1%2B1").unwrap();
        for (name, value) in
            [("token", "ab c\u{fc}"), ("empty", ""), ("lone", ""), ("n", "12"), ("n2", "1+1")]
        {
            assert_eq!(fields.get(name), Some(value), "{name}");
        }
        assert_eq!(fields.get("N"), None);
        assert_eq!(fields.number("n"), Some(12));
        assert_eq!(Fields::parse(b"").unwrap(), Fields::default());
        let both = Fields::parse(b"a=1").unwrap().or(Fields::parse(b"a=2&b=3").unwrap());
        assert_eq!((both.get("a"), both.get("b")), (Some("1"), Some("3")));
    }

    #[test]
    fn what_is_not_well_formed_is_nothing() {
        for bad in [&b"a=%"[..], b"a=%4", b"a=%zz", b"a=%ff", b"\xff=1"] {
            assert_eq!(Fields::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Fields::parse(&vec![b'a'; MAX_BYTES + 1]), None);
        assert_eq!(Fields::parse("a=1&".repeat(17).as_bytes()), None);
        assert!(Fields::parse("a=1&".repeat(16).as_bytes()).is_some());
    }

    #[test]
    fn only_plain_digits_are_a_number() {
        for text in ["-1", "%2B1", "1.5", "1e3", "", "0x10", "99999999999999999999", "%C2%B2"] {
            assert_eq!(Fields::parse(format!("n={text}").as_bytes()).unwrap().number("n"), None, "{text}");
        }
        assert_eq!(Fields::parse(b"n=007").unwrap().number("n"), Some(7));
    }
}
