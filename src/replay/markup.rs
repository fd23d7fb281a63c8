//! Just enough of XML to compare two replies and to name what differs: tags and texts in turn,
//! each text with the `key` or `name` it belongs to.
//!
//! The proxy's own readers are not used here on purpose: what is checked must not check itself.

/// A text between tags: the key or member name before it, and its raw bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub(crate) key: &'a str,
    pub(crate) raw: &'a str,
}

impl Text<'_> {
    /// The text with the entities of URLs resolved.
    pub(crate) fn value(&self) -> String {
        self.raw
            .trim()
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&apos;", "'")
            .replace("&#38;", "&")
            .replace("&amp;", "&")
    }
}

/// Every tag (`key` empty, angle brackets kept) and text in order.
fn tokens(document: &str) -> impl Iterator<Item = (bool, Text<'_>)> {
    let (mut rest, mut key, mut after_name) = (document, "", false);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_tag = rest.starts_with('<');
        let end = if is_tag { rest.find('>').map(|at| at + 1) } else { rest.find('<') };
        let (token, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail;
        if is_tag {
            after_name = matches!(token, "<key>" | "<name>");
            return Some((true, Text { key: "", raw: token }));
        }
        let text = Text { key, raw: token };
        if std::mem::take(&mut after_name) {
            key = token.trim();
        }
        Some((false, text))
    })
}

/// The texts of a document that stand under a key or member name.
pub(crate) fn texts(document: &str) -> impl Iterator<Item = Text<'_>> {
    tokens(document)
        .filter(|(is_tag, text)| !is_tag && !text.key.is_empty() && text.raw.trim() != text.key)
        .map(|(_, text)| text)
}

/// Pairs the texts of two documents that may differ in texts only. `None` when anything else
/// differs.
pub(crate) fn pairs<'a>(captured: &'a str, received: &'a str) -> Option<Vec<(Text<'a>, Text<'a>)>> {
    let (mut left, mut right) = (tokens(captured), tokens(received));
    let mut found = Vec::new();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Some(found),
            (Some((true, ours)), Some((true, theirs))) if ours.raw == theirs.raw => {}
            (Some((false, ours)), Some((false, theirs))) if ours.key == theirs.key => {
                found.push((ours, theirs))
            }
            _ => return None,
        }
    }
}

/// A URL of HTTP without its scheme, in the form that requests are known by: host in lower case, port
/// always there. `None` for any other text.
pub(crate) fn bare_url(url: &str) -> Option<String> {
    let (rest, port) = match url.split_once("://")? {
        ("http", rest) => (rest, 80),
        ("https", rest) => (rest, 443),
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (!authority.is_empty()).then(|| format!("{}{path}", full_authority(authority, port)))
}

/// Host and port in lower case, the port added when it is not there.
pub(crate) fn full_authority(authority: &str, port: u16) -> String {
    let authority = authority.trim().to_ascii_lowercase();
    // The colons of an IPv6 address stand in brackets.
    let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
    if has_port { authority } else { format!("{authority}:{port}") }
}

/// Whether two grid informations, as XML or JSON, say the same of everything but the login address
/// and the grid's name.
pub(crate) fn is_same_grid_info(captured: &[u8], received: &[u8]) -> bool {
    let json = |bytes: &[u8]| {
        let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(bytes).ok()?;
        object.remove("login");
        object.remove("gridname");
        Some(object)
    };
    if let (Some(captured), Some(received)) = (json(captured), json(received)) {
        return captured == received;
    }
    let (captured, received) = (String::from_utf8_lossy(captured), String::from_utf8_lossy(received));
    let strip = |document| without_element(&without_element(document, "login"), "gridname");
    strip(&captured) == strip(&received)
}

/// The text of the first element of this name.
pub(crate) fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

fn without_element(document: &str, name: &str) -> String {
    let cut = document.split_once(&format!("<{name}>")).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&format!("</{name}>"))?;
        Some(format!("{before}{after}"))
    });
    cut.unwrap_or_else(|| document.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Text, is_same_grid_info, pairs, texts};

    #[test]
    fn grid_information_may_differ_in_login_and_name_only() {
        let xml = |login: &str, helper: &str| {
            format!(
                "<gridinfo><login>{login}</login><economy>{helper}</economy><gridname>G</gridname></gridinfo>"
            )
        };
        let same = |one: &str, other: &str| is_same_grid_info(one.as_bytes(), other.as_bytes());
        assert!(same(&xml("http://a/", "x"), &xml("http://b/", "x")));
        assert!(same("<gridinfo></gridinfo>", "<gridinfo><login>x</login></gridinfo>"));
        assert!(!same(&xml("http://a/", "x"), &xml("http://a/", "y")));
        assert!(same(r#"{"login":"a","x":1}"#, r#"{"x":1,"login":"b"}"#));
        assert!(!same(r#"{"login":"a","x":1}"#, r#"{"x":2,"login":"b"}"#));
    }

    #[test]
    fn texts_know_their_key() {
        let document =
            "<llsd><map><key>A</key><string>x&amp;y</string><key>B</key><integer>1</integer></map></llsd>";
        let found: Vec<_> = texts(document).map(|text| (text.key, text.value())).collect();
        assert!(found.contains(&("A", "x&y".into())) && found.contains(&("B", "1".into())), "{found:?}");
    }

    #[test]
    fn documents_that_differ_in_more_than_texts_do_not_pair() {
        let one = "<m><key>A</key><string>x</string></m>";
        let changed = pairs(one, "<m><key>A</key><string>zz</string></m>").unwrap();
        assert!(changed.contains(&(Text { key: "A", raw: "x" }, Text { key: "A", raw: "zz" })));
        assert!(pairs(one, "<m><key>A</key><uri>x</uri></m>").is_none());
        assert!(pairs(one, "<m><key>A</key><string>x</string></m><b/>").is_none());
        assert!(pairs(one, "<m><key>C</key><string>x</string></m>").is_none());
    }
}
