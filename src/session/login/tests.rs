#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::session::testing::{Book, sweep};

const HIPPO: &str = include_str!("../../../fixtures/login/hippo-reply.xml");
const NMV: &str = include_str!("../../../fixtures/login/nmv-reply.xml");
const LIBOMV: &str = include_str!("../../../fixtures/login/libomv-reply.xml");

const ALIAS: &str = "http://127.0.0.1:9080/cap/0?a&amp;b";

/// As Second Life writes it: other element names, numbers as text, names in quotes, and nested
/// structs with the same member names in front.
const SECOND_LIFE: &str = r#"<?xml version="1.0"?>
<methodResponse><params><param><value><struct>
<member><name>inventory-skeleton</name><value><array><data><value><struct>
<member><name>sim_ip</name><value><string>6.6.6.6</string></value></member>
<member><name>sim_port</name><value><i4>6666</i4></value></member>
<member><name>seed_capability</name><value>http://6.6.6.6/</value></member>
</struct></value></data></array></value></member>
<member><name>first_name</name><value><string>"Ann"</string></value></member>
<member><name>sim_port</name><value><string>13004</string></value></member>
<member><name>sim_ip</name><value>203.0.113.5</value></member>
<member><name>circuit_code</name><value><int>-2</int></value></member>
<member><name>agent_id</name><value><string>"11111111-2222-3333-4444-555555555555"</string></value></member>
<member><name>session_id</name><value><string>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</string></value></member>
<member><name>seed_capability</name><value><string>https://simhost.example:12043/cap/1?x=1&amp;y=2</string></value></member>
<member><name>udp_blacklist</name><value><string>EnableSimulator,TeleportFinish, CrossedRegion</string></value></member>
<member><name>region_x</name><value><int>256000</int></value></member>
<member><name>region_y</name><value><int>256256</int></value></member>
<member><name>login</name><value><string>true</string></value></member>
</struct></value></param></params></methodResponse>
"#;

const LLSD: &str = "<llsd><map><key>login</key><string>true</string>\
    <key>agent_id</key><uuid>11111111-2222-3333-4444-555555555555</uuid>\
    <key>session_id</key><uuid>aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee</uuid>\
    <key>circuit_code</key><integer>1234567890</integer><key>sim_ip</key><string>203.0.113.5</string>\
    <key>sim_port</key><integer>9000</integer><key>inventory-root</key><array><map><key>sim_ip</key>\
    <string>6.6.6.6</string></map></array><key>seed_capability</key><string>http://a/?b&amp;c</string></map></llsd>";

fn granted(body: &str, format: LoginFormat) -> LoginGrant {
    match LoginReply::read(body.as_bytes(), format) {
        LoginReply::Granted(grant) => *grant,
        other => panic!("{other:?}"),
    }
}

fn rewritten(body: &str, format: LoginFormat, book: &mut Book) -> String {
    String::from_utf8(rewrite(body.as_bytes(), format, book).expect("rewritten")).unwrap()
}

fn reply(members: &[(&str, &str)]) -> String {
    let members: String = members
        .iter()
        .map(|(name, text)| {
            format!("<member><name>{name}</name><value><string>{text}</string></value></member>")
        })
        .collect();
    format!(
        "<methodResponse><params><param><value><struct>{members}</struct></value></param></params></methodResponse>"
    )
}

#[test]
fn captured_replies_change_in_three_members_only() {
    for fixture in [HIPPO, NMV, LIBOMV] {
        let mut book = Book::default();
        let grant = granted(fixture, LoginFormat::XmlRpc);
        let body = rewritten(fixture, LoginFormat::XmlRpc, &mut book);
        let member = |name: &str, value: String| format!("<name>{name}</name><value>{value}</value>");
        let port = grant.simulator.port();
        let expected = fixture
            .replace(
                &member("sim_port", format!("<i4>{port}</i4>")),
                &member("sim_port", "<i4>40000</i4>".into()),
            )
            .replace(
                &member("seed_capability", format!("<string>{}</string>", grant.seed.reveal())),
                &member("seed_capability", format!("<string>{ALIAS}</string>")),
            );
        assert_eq!(body, expected);
        assert_ne!(body, fixture);
        assert_eq!(*grant.simulator.ip(), Ipv4Addr::LOCALHOST);
        assert!(grant.seed.reveal().starts_with("http://127.0.0.1:9000/CAPS/"));
        let RegionHandle(handle) = grant.region.expect("the reply places its region");
        for (name, metres) in [("region_x", handle >> 32), ("region_y", handle & 0xffff_ffff)] {
            assert!(fixture.contains(&member(name, format!("<i4>{metres}</i4>"))));
        }
        assert_eq!(rewritten(fixture, LoginFormat::XmlRpc, &mut book), body, "asked twice, the same aliases");
        let printed = format!("{grant:?}");
        assert!(!printed.contains("CAPS") && !printed.contains(&grant.session.0.reveal().to_string()));
    }
}

#[test]
fn second_life_spelling_is_kept_and_nested_members_are_not_ours() {
    let mut book = Book::default();
    let body = rewritten(SECOND_LIFE, LoginFormat::XmlRpc, &mut book);
    let expected = SECOND_LIFE
        .replace("<string>13004</string>", "<string>40000</string>")
        .replace("<value>203.0.113.5</value>", "<value>127.0.0.1</value>")
        .replace("https://simhost.example:12043/cap/1?x=1&amp;y=2", ALIAS);
    assert_eq!(body, expected);
    let seed = "https://simhost.example:12043/cap/1?x=1&y=2";
    book.url(CapabilityClass::Seed, seed);
    let grant = granted(SECOND_LIFE, LoginFormat::XmlRpc);
    assert_eq!(grant.circuit_code, CircuitCode(u32::MAX - 1));
    assert_eq!(grant.simulator, "203.0.113.5:13004".parse().unwrap());
    assert_eq!(grant.region, Some(RegionHandle(0x0003_E800_0003_E900)));
    assert_eq!(grant.udp_blacklist, ["EnableSimulator", "TeleportFinish", "CrossedRegion"]);
    assert_eq!(grant.agent.0.to_string(), "11111111-2222-3333-4444-555555555555");
    assert_eq!(grant.seed.reveal(), seed);
}

#[test]
fn an_llsd_login_is_rewritten_alike() {
    let grant = granted(LLSD, LoginFormat::Llsd);
    assert_eq!(grant.circuit_code, CircuitCode(1_234_567_890));
    let expected = LLSD
        .replace("203.0.113.5", "127.0.0.1")
        .replace("<integer>9000<", "<integer>40000<")
        .replace("http://a/?b&amp;c", ALIAS);
    assert_eq!(rewritten(LLSD, LoginFormat::Llsd, &mut Book::default()), expected);
    assert_eq!(LoginReply::read(LLSD.as_bytes(), LoginFormat::XmlRpc), LoginReply::Unreadable);
}

#[test]
fn the_format_follows_the_content_type() {
    let of = LoginFormat::of_content_type;
    assert_eq!(of(Some("application/llsd+xml")), LoginFormat::Llsd);
    assert_eq!(of(Some("Application/XML+LLSD; charset=utf-8")), LoginFormat::Llsd);
    assert_eq!(of(Some("text/xml")), LoginFormat::XmlRpc);
    assert_eq!(of(None), LoginFormat::XmlRpc);
}

#[test]
fn a_reply_is_left_whole_when_either_half_is_refused() {
    for (refuse_simulators, refuse_capabilities) in [(true, false), (false, true)] {
        for (body, format) in [(SECOND_LIFE, LoginFormat::XmlRpc), (LLSD, LoginFormat::Llsd)] {
            let mut book = Book { refuse_simulators, refuse_capabilities, ..Book::default() };
            assert_eq!(rewrite(body.as_bytes(), format, &mut book), None);
        }
    }
}

#[test]
fn what_a_viewer_could_not_use_is_unreadable_and_left() {
    for (from, to) in [
        ("<int>-2<", "<int>0<"),
        ("<int>-2<", "<int>99999999999<"),
        (">13004<", ">0<"),
        (">203.0.113.5<", ">sim.example<"),
        ("<name>seed_capability</name><value><string>", "<name>seed</name><value><string>"),
        ("\"11111111-", "\"1111111-"),
        (">true<", ">maybe<"),
        ("</methodResponse>", ""),
    ] {
        let body = SECOND_LIFE.replace(from, to);
        assert_ne!(body, SECOND_LIFE);
        assert_eq!(LoginReply::read(body.as_bytes(), LoginFormat::XmlRpc), LoginReply::Unreadable, "{to}");
        assert_eq!(rewrite(body.as_bytes(), LoginFormat::XmlRpc, &mut Book::default()), None);
    }
}

#[test]
fn refusals_tell_their_reason_and_stay_as_they_are() {
    let body = reply(&[("message", "Enter the code"), ("reason", "mfa_challenge"), ("login", "false")]);
    let read = LoginReply::read(body.as_bytes(), LoginFormat::XmlRpc);
    assert_eq!(read, LoginReply::Refused { reason: "mfa_challenge".into() });
    assert_eq!(rewrite(body.as_bytes(), LoginFormat::XmlRpc, &mut Book::default()), None);
    let body = reply(&[("reason", &"é".repeat(100)), ("login", "false")]);
    let LoginReply::Refused { reason } = LoginReply::read(body.as_bytes(), LoginFormat::XmlRpc) else {
        panic!()
    };
    assert_eq!(reason, "é".repeat(32));
    let fault = b"<methodResponse><fault><value><struct/></value></fault></methodResponse>";
    assert!(matches!(LoginReply::read(fault, LoginFormat::XmlRpc), LoginReply::Refused { .. }));
}

#[test]
fn an_indeterminate_login_can_be_sent_through_us() {
    let body = reply(&[
        ("login", "indeterminate"),
        ("next_url", "https://login.example/next?a=1&amp;b=2"),
        ("next_method", "login_to_simulator"),
    ]);
    let next_url = Redacted::new("https://login.example/next?a=1&b=2".to_owned());
    let read = LoginReply::read(body.as_bytes(), LoginFormat::XmlRpc);
    assert_eq!(read, LoginReply::Indeterminate { next_url });
    let sent =
        rewrite_next_url(body.as_bytes(), LoginFormat::XmlRpc, "http://127.0.0.1:9080/login/1").unwrap();
    let expected = body.replace("https://login.example/next?a=1&amp;b=2", "http://127.0.0.1:9080/login/1");
    assert_eq!(String::from_utf8(sent).unwrap(), expected);
    let without = reply(&[("login", "indeterminate")]);
    assert_eq!(LoginReply::read(without.as_bytes(), LoginFormat::XmlRpc), LoginReply::Unreadable);
    assert_eq!(rewrite_next_url(without.as_bytes(), LoginFormat::XmlRpc, "http://x/"), None);
}

#[test]
fn a_huge_inventory_in_front_is_passed_over() {
    let folder = "<value><struct><member><name>sim_ip</name><value><string>6.6.6.6</string></value></member>\
        <member><name>folder_id</name><value><string>9b3b6163-eb83-4dc3-a539-86d5c0fcf45f</string></value></member>\
        </struct></value>";
    let marker = "<array><data>";
    let body =
        SECOND_LIFE.replacen(marker, &format!("{marker}{}", folder.repeat(20_000_000 / folder.len())), 1);
    assert!(body.len() > 20_000_000);
    let sent = rewritten(&body, LoginFormat::XmlRpc, &mut Book::default());
    assert!(sent.contains("<value>127.0.0.1</value>"));
    assert_eq!(sent.matches("6.6.6.6</string>").count(), body.matches("6.6.6.6</string>").count());
}

#[test]
fn deep_replies_are_unreadable() {
    let deep = SECOND_LIFE.replacen("<array>", &"<value><array><data>".repeat(20_000), 1);
    assert_eq!(LoginReply::read(deep.as_bytes(), LoginFormat::XmlRpc), LoginReply::Unreadable);
    let deep = LLSD.replacen("<array>", &"<array>".repeat(20_000), 1);
    assert_eq!(LoginReply::read(deep.as_bytes(), LoginFormat::Llsd), LoginReply::Unreadable);
}

#[test]
fn damaged_replies_never_panic() {
    let feed = |format: LoginFormat| {
        move |bytes: &[u8]| {
            let _ = LoginReply::read(bytes, format);
            rewrite(bytes, format, &mut Book::default());
            let _ = rewrite_next_url(bytes, format, "http://x/");
        }
    };
    sweep(SECOND_LIFE.as_bytes(), 1, feed(LoginFormat::XmlRpc));
    sweep(LLSD.as_bytes(), 1, feed(LoginFormat::Llsd));
    for fixture in [HIPPO, NMV, LIBOMV] {
        sweep(fixture.as_bytes(), 211, feed(LoginFormat::XmlRpc));
    }
}
