#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::session::testing::sweep;

const OPENSIM: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<gridinfo>\n  <platform>OpenSim</platform>\n  \
    <login>http://grid.example:8002/</login>\n  <gridname>Ann &amp; Bob&apos;s\n </gridname>\n  <gridnick>ab</gridnick>\n  \
    <gatekeeper>http://grid.example:8002/</gatekeeper>\n  <rezcache>local</rezcache>\n  <message/>\n</gridinfo>\n";
const LOGIN: &str = "http://127.0.0.1:9080/?a&b";

fn text(rewritten: &GridInfoRewritten) -> &str {
    std::str::from_utf8(&rewritten.body).unwrap()
}

#[test]
fn login_leads_to_us_and_the_name_is_marked_and_the_rest_stays() {
    let rewritten = rewrite_xml(OPENSIM.as_bytes(), LOGIN).unwrap();
    let expected = OPENSIM
        .replace("<login>http://grid.example:8002/<", "<login>http://127.0.0.1:9080/?a&amp;b<")
        .replace("Bob&apos;s", "Bob&apos;s (rezcache)");
    assert_eq!(text(&rewritten), expected);
    let upstream = GridInfo {
        login: Some("http://grid.example:8002/".into()),
        gridname: Some("Ann & Bob's".into()),
        gridnick: Some("ab".into()),
        platform: Some("OpenSim".into()),
        rezcache: Some("local".into()),
    };
    assert_eq!(rewritten.upstream, upstream);
    assert_eq!(read_xml(OPENSIM.as_bytes()).unwrap(), upstream);
    let again = rewrite_xml(&rewritten.body, LOGIN).unwrap();
    assert_eq!(again.body, rewritten.body, "marked once");
}

#[test]
fn a_missing_login_is_added() {
    let added = "<login>http://127.0.0.1:9080/?a&amp;b</login>";
    for (body, expected) in [
        ("<gridinfo><a>1</a></gridinfo>", format!("<gridinfo><a>1</a>{added}</gridinfo>")),
        ("<gridinfo/>", format!("<gridinfo>{added}</gridinfo>")),
        ("<gridinfo></gridinfo>", format!("<gridinfo>{added}</gridinfo>")),
        ("<gridinfo><login/></gridinfo>", format!("<gridinfo>{added}</gridinfo>")),
    ] {
        let rewritten = rewrite_xml(body.as_bytes(), LOGIN).unwrap();
        assert_eq!((text(&rewritten), &rewritten.upstream.login), (expected.as_str(), &None));
    }
}

#[test]
fn other_documents_are_refused() {
    for body in ["", "<html/>", "<html></html>", "<gridinfo>", "{}"] {
        assert!(rewrite_xml(body.as_bytes(), LOGIN).is_err(), "{body}");
    }
    for body in ["", "[]", "<gridinfo/>", &"[".repeat(20_000)] {
        assert_eq!(rewrite_json(body.as_bytes(), LOGIN), None);
    }
    let deep = format!("<gridinfo>{}", "<a>".repeat(20_000));
    assert_eq!(read_xml(deep.as_bytes()), Err(XmlError::TooDeep));
}

#[test]
fn the_json_form_keeps_its_order() {
    let body = br#"{"platform":"OpenSim","login":"http://grid.example/","gridname":"G","n":1,"about":null}"#;
    let rewritten = rewrite_json(body, LOGIN).unwrap();
    assert_eq!(
        text(&rewritten),
        r#"{"platform":"OpenSim","login":"http://127.0.0.1:9080/?a&b","gridname":"G (rezcache)","n":1,"about":null}"#
    );
    assert_eq!(rewritten.upstream.login.as_deref(), Some("http://grid.example/"));
    assert_eq!(text(&rewrite_json(b"{}", "x").unwrap()), r#"{"login":"x"}"#);
}

#[test]
fn the_xmlrpc_method_is_rewritten_alike() {
    let body = "<methodResponse><params><param><value><struct>\
        <member><name>login</name><value><string>http://grid.example/</string></value></member>\
        <member><name>gridname</name><value>G</value></member>\
        </struct></value></param></params></methodResponse>";
    let rewritten = rewrite_xmlrpc(body.as_bytes(), LOGIN).unwrap();
    let expected = body
        .replace("http://grid.example/", "http://127.0.0.1:9080/?a&amp;b")
        .replace(">G<", ">G (rezcache)<");
    assert_eq!(text(&rewritten), expected);
    assert_eq!(rewritten.upstream.gridname.as_deref(), Some("G"));
}

#[test]
fn second_life_gets_one_that_reads_as_our_own() {
    let agni = GridId::new("agni");
    let info = read_xml(second_life_xml(&agni, LOGIN).as_bytes()).unwrap();
    assert_eq!(info.login.as_deref(), Some(LOGIN));
    assert_eq!(info.platform.as_deref(), Some("SecondLife"));
    assert_eq!(info.gridnick.as_deref(), Some("rezcache-agni"));
    assert_eq!(info.gridname.as_deref(), Some("Second Life (rezcache)"));
    let json: Value = serde_json::from_str(&second_life_json(&agni, LOGIN)).unwrap();
    assert_eq!(json["login"], LOGIN);
    assert_eq!(json["helperuri"], "https://secondlife.com/helpers/");
}

#[test]
fn damaged_documents_never_panic() {
    sweep(OPENSIM.as_bytes(), 1, |bytes| {
        let _ = rewrite_xml(bytes, LOGIN);
        let _ = rewrite_json(bytes, LOGIN);
        let _ = rewrite_xmlrpc(bytes, LOGIN);
    });
}
