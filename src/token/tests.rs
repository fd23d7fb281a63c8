//! What is accepted, and above all what is not.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn keys(key: &SigningKey) -> Keys {
    let mut keys = Keys::default();
    keys.add_pem(&key.public_pem()).unwrap();
    keys
}

fn claims() -> Claims {
    Claims {
        id: "a-token".into(),
        subject: "somebody".into(),
        tenant: "a household".replace(' ', "-").into(),
        audience: "rezcache".into(),
        grids: Some([GridId::new("grid.example")].into()),
        rights: "read,vouch".parse().unwrap(),
        issued_at: NOW,
        expires: NOW + 100,
        budgets: Budgets { burst: Some(5), ..Budgets::default() },
    }
}

/// A token of these parts with a fitting signature.
fn signed(key: &SigningKey, header: &Value, body: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(body));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn parts(token: &str) -> (Value, Value) {
    let part = |index| {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap())
            .unwrap()
    };
    (part(0), part(1))
}

#[test]
fn a_token_says_what_was_signed() {
    let key = key(1);
    let token = sign(&key, &claims());
    let verified = keys(&key).verify(&token, "rezcache", NOW + 99).unwrap();
    assert_eq!((verified.claims, verified.own), (claims(), None));
    assert_eq!(unverified_subject(&token).as_deref(), Some("somebody"));
    assert!(claims().allows_grid(&GridId::new("grid.example")));
    assert!(!claims().allows_grid(&GridId::new("other.example")));
    let open = Claims { grids: None, budgets: Budgets::default(), ..claims() };
    assert_eq!(keys(&key).verify(&sign(&key, &open), "rezcache", NOW).unwrap().claims, open);
}

#[test]
fn wrong_audience_expired_and_early_are_refused() {
    let key = key(1);
    let (keys, token) = (keys(&key), sign(&key, &claims()));
    assert_eq!(keys.verify(&token, "other", NOW), Err(TokenError::Audience));
    assert_eq!(keys.verify(&token, "rezcache", NOW + 100), Err(TokenError::Expired));
    assert_eq!(keys.verify(&token, "rezcache", NOW - 61), Err(TokenError::Early));
    assert!(keys.verify(&token, "rezcache", NOW - 60).is_ok(), "clocks differ");
}

#[test]
fn nobody_else_signs() {
    let (mine, other) = (key(1), key(2));
    let token = sign(&other, &claims());
    assert_eq!(keys(&mine).verify(&token, "rezcache", NOW), Err(TokenError::Signature));
    // With the right key's name, too.
    let (mut header, body) = parts(&token);
    header["kid"] = parts(&sign(&mine, &claims())).0["kid"].clone();
    let token = signed(&other, &header, &body);
    assert_eq!(keys(&mine).verify(&token, "rezcache", NOW), Err(TokenError::Signature));
    let mut both = keys(&mine);
    both.add_pem(&other.public_pem()).unwrap();
    assert!(both.verify(&sign(&other, &claims()), "rezcache", NOW).is_ok());
}

#[test]
fn no_other_algorithm_is_read() {
    let key = key(1);
    let (keys, good) = (keys(&key), sign(&key, &claims()));
    let (header, body) = parts(&good);
    for alg in ["none", "None", "HS256", "RS256", "ES256", "EDDSA", "eddsa", "Ed25519", ""] {
        let mut header = header.clone();
        header["alg"] = alg.into();
        assert_eq!(
            keys.verify(&signed(&key, &header, &body), "rezcache", NOW),
            Err(TokenError::Form),
            "{alg}"
        );
    }
    // A secret made of the public key, as in the classic confusion, and no signature at all.
    let mut hs = header.clone();
    hs["alg"] = "HS256".into();
    let text = signed(&key, &hs, &body);
    let text = text.rsplit_once('.').unwrap().0;
    let mac = ring::hmac::sign(
        &ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.public_pem().as_bytes()),
        text.as_bytes(),
    );
    let forged = format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac));
    assert_eq!(keys.verify(&forged, "rezcache", NOW), Err(TokenError::Form));
    let unsigned = good.rsplit_once('.').unwrap().0;
    for end in ["", ".", "..", ".AAAA"] {
        assert!(keys.verify(&format!("{unsigned}{end}"), "rezcache", NOW).is_err(), "{end}");
    }
}

#[test]
fn every_changed_character_is_noticed() {
    let key = key(1);
    let (keys, good) = (keys(&key), sign(&key, &claims()));
    for at in 0..good.len() {
        for other in ['A', 'B', '.', '=', '+', ' '] {
            let mut bytes = good.clone().into_bytes();
            if char::from(bytes[at]) == other {
                continue;
            }
            bytes[at] = u8::try_from(other).unwrap();
            let changed = String::from_utf8(bytes).unwrap();
            assert!(keys.verify(&changed, "rezcache", NOW).is_err(), "{at} {other}");
        }
        assert!(keys.verify(&good[..at], "rezcache", NOW).is_err(), "{at}");
    }
}

#[test]
fn a_token_has_one_form() {
    let key = key(1);
    let (keys, good) = (keys(&key), sign(&key, &claims()));
    let padded: Vec<String> =
        good.split('.').map(|part| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(part).unwrap())).collect();
    assert_ne!(padded.join("."), good);
    for wrong in [padded.join("."), format!("{good}.{good}"), format!("{good}."), format!(" {good}")] {
        assert_eq!(keys.verify(&wrong, "rezcache", NOW).err(), Some(TokenError::Form), "{wrong}");
    }
    // The last character of the signature holds two bits that mean nothing.
    let last = good.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for other in alphabet.chars().filter(|other| *other != last) {
        let changed = format!("{}{other}", &good[..good.len() - 1]);
        assert!(keys.verify(&changed, "rezcache", NOW).is_err(), "{other}");
    }
    let (header, body) = parts(&good);
    let mut critical = header.clone();
    critical["crit"] = json!(["exp"]);
    assert_eq!(keys.verify(&signed(&key, &critical, &body), "rezcache", NOW), Err(TokenError::Form));
    let long = Claims { subject: "s".repeat(5000).into(), ..claims() };
    assert_eq!(keys.verify(&sign(&key, &long), "rezcache", NOW), Err(TokenError::Form));
}

#[test]
fn what_is_missing_or_odd_in_a_signed_token_is_refused() {
    let key = key(1);
    let keys = keys(&key);
    let (header, body) = parts(&sign(&key, &claims()));
    assert!(keys.verify(&signed(&key, &header, &body), "rezcache", NOW).is_ok());
    for name in ["jti", "sub", "aud", "iat", "exp", "tenant", "rights"] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().remove(name);
        assert!(keys.verify(&signed(&key, &header, &body), "rezcache", NOW).is_err(), "{name}");
    }
    for (name, odd) in [
        ("sub", json!("two words")),
        ("tenant", json!("")),
        ("exp", json!(-1)),
        ("exp", json!("never")),
        ("rights", json!("read,everything")),
        ("grids", json!("grid.example")),
        ("nbf", json!(NOW + 90)),
        ("aud", json!(["rezcache"])),
    ] {
        let mut body = body.clone();
        body[name] = odd;
        assert!(keys.verify(&signed(&key, &header, &body), "rezcache", NOW).is_err(), "{name}");
    }
}

#[test]
fn a_resident_speaks_for_itself_only() {
    let (mine, operator) = (key(3), key(1));
    let token = sign_own(&mine, "rezcache", "one".into(), NOW, 3600);
    assert_eq!(
        keys(&operator).verify(&token, "rezcache", NOW),
        Err(TokenError::Signature),
        "not enrolled here"
    );
    let mut keys = keys(&operator);
    keys.accept_residents();
    let verified = keys.verify(&token, "rezcache", NOW).unwrap();
    assert_eq!(verified.own, Some(*mine.public()));
    assert_eq!(verified.claims.subject.as_ref(), own_subject(mine.public()));
    assert_eq!((verified.claims.rights, verified.claims.tenant.as_ref()), (Rights::RESIDENT, RESIDENTS));

    // Whatever else it claims.
    let (header, mut body) = parts(&token);
    body["rights"] = "read,write,vouch,observe,admin".into();
    body["tenant"] = "the operator".into();
    body["budgets"] = json!({ "assets_per_hour": 1_000_000_000 });
    let bold = keys.verify(&signed(&mine, &header, &body), "rezcache", NOW).unwrap();
    assert_eq!((bold.claims.rights, bold.claims.tenant.as_ref()), (Rights::RESIDENT, RESIDENTS));
    assert_eq!(bold.claims.budgets, Budgets::default());
    body["sub"] = own_subject(key(4).public()).into();
    assert_eq!(keys.verify(&signed(&mine, &header, &body), "rezcache", NOW), Err(TokenError::Form));
    let (_, mut body) = parts(&token);
    body["exp"] = (NOW + 10 * MAX_OWN_SECONDS).into();
    assert!(keys.verify(&signed(&mine, &header, &body), "rezcache", NOW).is_err());
    // The operator's key is no resident's, and the other way round.
    let (mut header, body) = parts(&sign(&mine, &claims()));
    header["kid"] = parts(&token).0["kid"].clone();
    assert_eq!(keys.verify(&signed(&mine, &header, &body), "rezcache", NOW), Err(TokenError::Form));
}

/// All encodings of points whose multiples are few, and of the y that can be written twice.
#[test]
fn keys_for_which_everybody_can_sign_are_weak() {
    let digits = |text: &str| -> [u8; 32] {
        let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    };
    let weak = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for text in weak {
        let mut key = digits(text);
        assert!(is_weak(&key), "{text}");
        key[31] |= 0x80;
        assert!(is_weak(&key), "{text} with its sign");
    }
    // The reason: the library takes a signature that nobody made.
    let (identity, mut nothing) = (digits(weak[1]), [0; 64]);
    nothing[0] = 1;
    assert!(verify_with(&identity, b"anything", &nothing));
    let mut keys = Keys::default();
    keys.accept_residents();
    let header = json!({ "alg": "EdDSA", "kid": format!("own:{}", URL_SAFE_NO_PAD.encode(identity)) });
    let body =
        json!({ "jti": "x", "sub": own_subject(&identity), "aud": "rezcache", "iat": NOW, "exp": NOW + 60 });
    let text = format!(
        "{}.{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(body.to_string()),
        URL_SAFE_NO_PAD.encode(nothing)
    );
    assert_eq!(keys.verify(&text, "rezcache", NOW), Err(TokenError::Signature));
    for number in 0..=255 {
        assert!(!is_weak(key(number).public()));
    }
}

#[test]
fn keys_are_read_as_they_are_written_and_as_openssl_writes_them() {
    let made = key(1);
    let read = SigningKey::from_pem(made.pem().reveal()).unwrap();
    assert_eq!(read.public_pem(), made.public_pem());
    // openssl genpkey -algorithm ed25519, and openssl pkey -pubout of it.
    let openssl = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n-----END PRIVATE KEY-----\n";
    assert_eq!(SigningKey::from_pem(openssl).unwrap().public(), made.public());
    assert!(matches!(SigningKey::from_pem(&made.public_pem()), Err(KeyFormError::Private)));
    let mut keys = Keys::default();
    assert_eq!(keys.add_pem(made.pem().reveal()), Err(KeyFormError::PrivateForPublic));
    assert_eq!(keys.add_pem("nothing"), Err(KeyFormError::Public));
    assert!(keys.is_empty());
    assert!(!format!("{:?}", made.pem()).contains("MC4C"));
}

#[test]
fn rights_are_read_as_they_are_written() {
    let rights: Rights = "admin, read".parse().unwrap();
    assert_eq!(rights.to_string(), "read,admin");
    assert!("".parse::<Rights>().is_err() && "read;write".parse::<Rights>().is_err());
}

proptest! {
    #[test]
    fn nothing_breaks_the_verifier(text in "[A-Za-z0-9._=-]{0,300}", junk in any::<Vec<u8>>()) {
        let mut keys = keys(&key(1));
        keys.accept_residents();
        prop_assert!(keys.verify(&text, "rezcache", NOW).is_err());
        let text = format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(&junk), text, text);
        prop_assert!(keys.verify(&text, "rezcache", NOW).is_err());
        let _ = unverified_subject(&text);
    }
}
