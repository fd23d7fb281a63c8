#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::llsd::xml::escape;
use crate::session::testing::{Book, sweep};

const HIPPO: &str = include_str!("../../../fixtures/llsd/hippo-seed.xml");
const NMV: &str = include_str!("../../../fixtures/llsd/nmv-seed.xml");
const LIBOMV: &str = include_str!("../../../fixtures/llsd/libomv-seed.xml");

#[test]
fn five_capabilities_lead_to_us_and_nothing_else_changes() {
    for (fixture, names) in [(HIPPO, 48), (NMV, 50), (LIBOMV, 44)] {
        let mut book = Book::default();
        let rewritten = rewrite(fixture.as_bytes(), &mut book);
        let mut unspliced = String::from_utf8(rewritten.body.clone().expect("rewritten")).unwrap();
        assert_ne!(unspliced, fixture);
        for ((class, url), alias) in &book.capabilities {
            assert_ne!(*class, CapabilityClass::Seed);
            assert_eq!(unspliced.matches(&*escape(alias)).count(), 1);
            unspliced = unspliced.replace(&*escape(alias), url);
        }
        assert_eq!(unspliced, fixture);
        assert_eq!(rewritten.aliased, book.capabilities.len());
        assert_eq!(rewritten.names.len(), names);
        assert!(rewritten.names.iter().all(|name| !name.contains("http")));
        // The viewer may post the seed twice.
        assert_eq!(rewrite(fixture.as_bytes(), &mut book), rewritten);
    }
}

#[test]
fn classes_are_asked_for_by_name() {
    let mut book = Book::default();
    let body = "<llsd><map><key>EventQueueGet</key><string>http://a/1</string>\
        <key>GetMesh2</key><uri>http://a/2&amp;3</uri><key>Seed</key><string>http://a/4</string>\
        <key>GetTexture</key><undef/><key>ViewerAsset</key><string/><key>GetMesh</key><map/></map></llsd>";
    let rewritten = rewrite(body.as_bytes(), &mut book);
    assert_eq!(rewritten.aliased, 2);
    assert!(book.url(CapabilityClass::EventQueue, "http://a/1").ends_with("/0?a&b"));
    assert!(book.url(CapabilityClass::Asset, "http://a/2&3").ends_with("/1?a&b"));
    assert_eq!(
        String::from_utf8(rewritten.body.unwrap()).unwrap(),
        body.replace("http://a/1", "http://127.0.0.1:9080/cap/0?a&amp;b")
            .replace("http://a/2&amp;3", "http://127.0.0.1:9080/cap/1?a&amp;b")
    );
}

#[test]
fn refused_and_unreadable_replies_are_left() {
    let mut book = Book { refuse_capabilities: true, ..Book::default() };
    let rewritten = rewrite(HIPPO.as_bytes(), &mut book);
    assert_eq!((rewritten.body, rewritten.aliased, rewritten.names.len()), (None, 0, 48));
    for body in ["", "<llsd><array/></llsd>", "<llsd><map/></llsd>", "Not found"] {
        assert_eq!(rewrite(body.as_bytes(), &mut Book::default()), Rewritten::default(), "{body}");
    }
}

#[test]
fn damaged_replies_never_panic() {
    for fixture in [HIPPO, NMV, LIBOMV] {
        sweep(fixture.as_bytes(), 23, |bytes| {
            rewrite(bytes, &mut Book::default());
        });
    }
    let short =
        "<llsd><map><key>GetMesh2</key><uri>http://a/2&amp;3</uri><key>GetTexture</key><undef/></map></llsd>";
    sweep(short.as_bytes(), 1, |bytes| {
        rewrite(bytes, &mut Book::default());
    });
}
