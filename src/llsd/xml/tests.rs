#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::fmt::Write as _;
use std::ops::Range;

use proptest::prelude::*;

use super::*;

fn scalar_of<'a>(body: &'a str, key: &str) -> Scalar<'a> {
    parse(body.as_bytes()).unwrap().scalar(key).unwrap().clone()
}

fn error(body: &str) -> XmlError {
    parse(body.as_bytes()).err().expect("refused")
}

#[test]
fn every_prolog_is_read() {
    for prolog in
        ["", "<?xml version=\"1.0\" ?>", "<? LLSD/XML ?>\n", "\u{feff}<?xml version='1.0'?>\n<!-- x -->\n"]
    {
        let body =
            format!("{prolog}<llsd>\n <map>\n <key>a</key>\n <integer>7</integer>\n </map>\n</llsd>\n");
        let scalar = scalar_of(&body, "a");
        assert_eq!((scalar.kind(), scalar.text().unwrap().as_ref()), (ScalarKind::Integer, "7"));
        assert_eq!(&body[scalar.place().span()], "7");
    }
}

#[test]
fn entities_and_cdata_are_decoded_and_the_place_covers_what_is_written() {
    let body = "<llsd><map><key>a&amp;b</key><uri>http://x/?a&amp;b<![CDATA[&c]]>&#33;</uri></map></llsd>";
    let scalar = scalar_of(body, "a&b");
    assert_eq!(scalar.text().unwrap(), "http://x/?a&b&c!");
    assert_eq!(&body[scalar.place().span()], "http://x/?a&amp;b<![CDATA[&c]]>&#33;");
}

#[test]
fn binary_is_base64_with_or_without_saying_so() {
    for body in [
        "<llsd><map><key>b</key><binary>fwAAAQ==</binary></map></llsd>",
        "<llsd><map><key>b</key><binary encoding=\"base64\">\n fwAA\n AQ== \n</binary></map></llsd>",
        "<llsd><map><key>b</key><binary>fwAAAQ</binary></map></llsd>",
    ] {
        assert_eq!(scalar_of(body, "b").binary(4), Some(vec![127, 0, 0, 1]), "{body}");
        assert_eq!(scalar_of(body, "b").binary(3), None);
    }
    let other = "<llsd><map><key>b</key><binary encoding=\"base16\">7f000001</binary></map></llsd>";
    assert_eq!(scalar_of(other, "b").binary(64), None);
    assert_eq!(
        scalar_of("<llsd><map><key>b</key><string>fwAAAQ==</string></map></llsd>", "b").binary(4),
        None
    );
    assert_eq!(scalar_of("<llsd><map><key>b</key><binary>*</binary></map></llsd>", "b").binary(4), None);
    assert_eq!(binary_text(&[203, 0, 113, 5]), "ywBxBQ==");
}

#[test]
fn empty_elements_take_a_text() {
    for (body, expected) in [
        ("<llsd><map><key>a</key><string/></map></llsd>", "<string>x</string>"),
        ("<llsd><map><key>a</key><string /></map></llsd>", "<string >x</string>"),
        ("<llsd><map><key>a</key><string></string></map></llsd>", "<string>x</string>"),
    ] {
        let mut splices = Splices::default();
        splices.text(scalar_of(body, "a").place(), "x");
        let spliced = String::from_utf8(splices.apply(body.as_bytes())).unwrap();
        assert_eq!(spliced, format!("<llsd><map><key>a</key>{expected}</map></llsd>"));
    }
}

#[test]
fn undef_and_unknown_elements_are_values() {
    let body = "<llsd><array><undef/><undef></undef><nil><a>1</a></nil><nil/><map/><array/></array></llsd>";
    let root = parse(body.as_bytes()).unwrap();
    let undef = root.items().iter().filter_map(SpannedNode::as_scalar);
    assert_eq!(undef.filter(|s| s.kind() == ScalarKind::Undef && s.text().unwrap().is_empty()).count(), 4);
    assert_eq!(root.items().len(), 6);
}

#[test]
fn what_is_not_llsd_is_refused() {
    assert_eq!(error("<html></html>"), XmlError::WrongDocument);
    assert_eq!(error(""), XmlError::WrongDocument);
    assert_eq!(error("<llsd></llsd>"), XmlError::WrongDocument);
    assert_eq!(error("<llsd><map><key>a</key>"), XmlError::Truncated);
    for malformed in [
        "<llsd><map><integer>1</integer></map></llsd>",
        "<llsd><map><key>a</key></map></llsd>",
        "<llsd><map><key>a</key><key>b</key><undef/></map></llsd>",
        "<llsd><array><key>a</key></array></llsd>",
        "<llsd><key>a</key></llsd>",
        "<llsd><integer><a/></integer></llsd>",
        "<llsd><undef/><undef/></llsd>",
    ] {
        assert!(matches!(error(malformed), XmlError::Malformed(_)), "{malformed}");
    }
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><llsd><string>&a;</string></llsd>";
    assert!(matches!(error(bomb), XmlError::UnknownEntity(_)));
}

#[test]
fn deep_and_crowded_documents_are_refused_without_harm() {
    for container in ["array", "nonsense"] {
        let open = format!("<{container}>").repeat(20_000);
        assert_eq!(error(&format!("<llsd>{open}")), XmlError::TooDeep);
    }
    let map = "<map><key>a</key>".repeat(20_000);
    assert_eq!(error(&format!("<llsd>{map}")), XmlError::TooDeep);
    let crowd = format!("<llsd><array>{}</array></llsd>", "<undef/>".repeat(MAX_NODES + 1));
    assert_eq!(error(&crowd), XmlError::TooManyNodes);
}

/// A document to be written, with the text of its scalars.
#[derive(Clone, Debug)]
enum Doc {
    Scalar(&'static str, String),
    SelfClosed(&'static str),
    Array(Vec<Doc>),
    Map(Vec<(String, Doc)>),
}

fn doc() -> impl Strategy<Value = Doc> {
    let element = proptest::sample::select(vec![
        "undef", "boolean", "integer", "real", "string", "uuid", "date", "uri", "binary",
    ]);
    let leaf = prop_oneof![
        (element.clone(), "[ -~é\n]{0,12}").prop_map(|(name, text)| Doc::Scalar(name, text)),
        element.prop_map(Doc::SelfClosed),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Doc::Array),
            proptest::collection::vec(("[a-z&<]{0,5}", inner), 0..6).prop_map(Doc::Map),
        ]
    })
}

/// Writes a document, noting where each scalar's text lands.
fn write(doc: &Doc, out: &mut String, places: &mut Vec<(Range<usize>, String)>) {
    match doc {
        Doc::Scalar(name, text) => {
            write!(out, "<{name}>").unwrap();
            let start = out.len();
            out.push_str(&escape(text));
            places.push((start..out.len(), text.clone()));
            write!(out, "</{name}>\n ").unwrap();
        }
        Doc::SelfClosed(name) => {
            write!(out, "<{name} />").unwrap();
            places.push((out.len() - 2..out.len(), String::new()));
        }
        Doc::Array(items) => {
            out.push_str("<array>");
            items.iter().for_each(|item| write(item, out, places));
            out.push_str("</array>");
        }
        Doc::Map(entries) => {
            out.push_str("<map> <!-- <key> -->");
            for (key, value) in entries {
                write!(out, "<key>{}</key>", escape(key)).unwrap();
                write(value, out, places);
            }
            out.push_str("</map>");
        }
    }
}

fn scalars<'n, 'a>(node: &'n SpannedNode<'a>, found: &mut Vec<&'n Scalar<'a>>) {
    match node {
        SpannedNode::Scalar(scalar) => found.push(scalar),
        SpannedNode::Array(items) => items.iter().for_each(|item| scalars(item, found)),
        SpannedNode::Map(entries) => entries.iter().for_each(|(_, value)| scalars(value, found)),
    }
}

proptest! {
    #[test]
    fn places_are_the_texts_and_the_same_texts_spliced_are_the_same_bytes(doc in doc()) {
        let mut body = String::from("<? LLSD/XML ?><llsd>");
        let mut places = Vec::new();
        write(&doc, &mut body, &mut places);
        body.push_str("</llsd>");

        let root = parse(body.as_bytes()).unwrap();
        let mut found = Vec::new();
        scalars(&root, &mut found);
        let read: Vec<_> = found
            .iter()
            .map(|scalar| (scalar.place().span(), scalar.text().unwrap().into_owned()))
            .collect();
        prop_assert_eq!(&read, &places);

        let mut same = Splices::default();
        for scalar in found.iter().filter(|scalar| !scalar.place().is_self_closed()) {
            same.text(scalar.place(), &scalar.text().unwrap());
        }
        prop_assert_eq!(same.apply(body.as_bytes()), body.as_bytes());

        let mut other = Splices::default();
        found.iter().for_each(|scalar| other.text(scalar.place(), "<&>"));
        let spliced = other.apply(body.as_bytes());
        let again = parse(&spliced).unwrap();
        let mut found_again = Vec::new();
        scalars(&again, &mut found_again);
        prop_assert_eq!(found_again.len(), found.len());
        for scalar in found_again {
            prop_assert_eq!(scalar.text().unwrap(), "<&>");
        }
    }
}
