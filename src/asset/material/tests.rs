//! Materials in both encodings. The lab grid has none, so these are written here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const JSON: &str = r#"{"asset":{"version":"2.0"},"materials":[{"name":"a & b"}]}"#;

fn xml(version: &str, kind: &str, data: &str) -> String {
    let data = data.replace('&', "&amp;").replace('"', "&#34;");
    format!(
        "<llsd>\n<map><key>data</key><string>{data}</string><key>type</key><string>{kind}</string>\
         <key>version</key><string>{version}</string></map></llsd>\n"
    )
}

fn binary_form(version: &str, kind: &str, data: &str) -> Vec<u8> {
    let entry = |key: &str, text: &str| (key.to_owned(), Llsd::String(text.to_owned()));
    let map = Llsd::Map(vec![entry("version", version), entry("type", kind), entry("data", data)]);
    binary::encode(&map).unwrap()
}

#[test]
fn both_encodings_pass_with_and_without_header() {
    for version in VERSIONS {
        let text = xml(version, TYPE, JSON);
        let raw = binary_form(version, TYPE, JSON);
        assert_eq!(validate(text.as_bytes()), Ok(Valid::EXACT));
        for header in ["<? LLSD/XML ?>\n", "<?xml version=\"1.0\" ?>", "<?llsd/xml?>\n"] {
            assert_eq!(validate(format!("{header}{text}").as_bytes()), Ok(Valid::EXACT), "{header}");
        }
        assert_eq!(validate(&raw), Ok(Valid::EXACT));
        assert_eq!(validate(&[&b"<? LLSD/Binary ?>\n"[..], &raw].concat()), Ok(Valid::EXACT));
    }
}

#[test]
fn other_versions_types_and_data_are_refused() {
    for (version, kind, data) in [
        ("1.2", TYPE, JSON),
        ("1.1", "GLTF 1.0", JSON),
        ("1.1", TYPE, ""),
        ("1.1", TYPE, "{"),
        ("1.1", TYPE, "[1]"),
        ("1.1", TYPE, "{} {}"),
        ("1.1", TYPE, &"{\"a\":".repeat(5000)),
    ] {
        assert_eq!(
            validate(xml(version, kind, data).as_bytes()),
            Err(Invalid::NotMaterial),
            "{version} {kind}"
        );
        assert_eq!(
            validate(&binary_form(version, kind, data)),
            Err(Invalid::NotMaterial),
            "{version} {kind}"
        );
    }
}

#[test]
fn no_prefix_passes() {
    let text = xml("1.1", TYPE, JSON);
    let whole = text.trim_end().len();
    for len in 0..whole {
        assert!(validate(&text.as_bytes()[..len]).is_err(), "{len} bytes of XML");
    }
    let raw = binary_form("1.1", TYPE, JSON);
    for len in 0..raw.len() {
        assert!(validate(&raw[..len]).is_err(), "{len} bytes of binary");
    }
}

#[test]
fn members_inside_other_values_do_not_count() {
    let inner = xml("1.1", TYPE, JSON).replace("<llsd>", "").replace("</llsd>", "");
    let text = format!("<llsd><map><key>version</key><array>{inner}</array></map></llsd>");
    assert_eq!(validate(text.as_bytes()), Err(Invalid::NotMaterial));
}

#[test]
fn unknown_members_are_skipped_and_trailing_text_is_noted() {
    let extra = "<map><key>x</key><array><string>y</string><undef /></array><key>z</key><undef />";
    let text = xml("1.0", TYPE, JSON).replace("<map>", extra);
    assert_eq!(validate(text.as_bytes()), Ok(Valid::EXACT));
    assert_eq!(validate(format!("{text}tail").as_bytes()), Ok(Valid::EXACT.inexact(Note::TrailingBytes)));
}

#[test]
fn deep_nesting_and_document_types_are_refused() {
    let deep = format!("<llsd><map><key>a</key>{}", "<array>".repeat(20_000));
    assert_eq!(validate(deep.as_bytes()), Err(Invalid::Llsd));
    let bomb = format!("<!DOCTYPE llsd [<!ENTITY a \"b\">]>{}", xml("1.1", TYPE, JSON));
    assert_eq!(validate(bomb.as_bytes()), Err(Invalid::Llsd));
}
