//! Real assets against every kind, cut short and changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

macro_rules! fixtures {
    ($($kind:ident $file:literal),+ $(,)?) => {
        /// Assets of the lab grid as its clients received them; see the folder's README.
        pub(crate) const REAL: &[(AssetKind, &[u8])] =
            &[$((AssetKind::$kind, include_bytes!(concat!("../../../fixtures/assets/", $file)))),+];
    };
}

fixtures! {
    Texture "82e34bc0-3a7b-5407-ad08-9bc0b2b3b08b.texture",
    Texture "a46ac4c0-2e2a-53f9-bee9-9c043edce8be.texture",
    Texture "fd366079-3692-5362-91ab-fb12420c15a3.texture",
    Sound "b8e784b0-1cce-5919-8757-714f40de7db0.sound",
    Sound "11025255-155f-542e-a206-ee2bceece69c.sound",
    Animation "f53f1b23-c790-5883-b803-2267139670e4.animation",
    Animation "f7567e2a-763a-5d99-8bbf-a9efddaaba96.animation",
    Mesh "83e8d495-1b6e-5c54-a9d7-e946c839e2cf.mesh",
    Mesh "9bf0a66c-63d5-5fb9-997f-52b771fe0a6b.mesh",
}

/// The first real asset of a kind.
pub(crate) fn real(kind: AssetKind) -> &'static [u8] {
    REAL.iter().find(|(of, _)| *of == kind).unwrap().1
}

#[test]
fn real_assets_are_valid_as_their_kind_and_as_no_other() {
    for (kind, body) in REAL {
        assert_eq!(validate(*kind, body), Ok(Valid::EXACT), "{kind}");
        for other in AssetKind::ALL.into_iter().filter(|other| other != kind) {
            assert!(validate(other, body).is_err(), "{kind} passed as {other}");
        }
    }
}

#[test]
fn every_kind_but_material_has_a_real_asset() {
    for kind in AssetKind::ALL.into_iter().filter(|kind| *kind != AssetKind::Material) {
        assert!(REAL.iter().any(|(of, _)| *of == kind), "{kind}");
    }
}

#[test]
fn no_cut_off_asset_passes_as_whole() {
    for (kind, body) in REAL {
        // Every length near both ends, a sample between.
        let lengths = (0..body.len()).filter(|len| *len < 600 || body.len() - len < 200 || len % 97 == 0);
        for len in lengths {
            match validate(*kind, &body[..len]) {
                Err(_) => {}
                // Grids store textures without an end; the transport knows whether it was cut.
                Ok(valid) if *kind == AssetKind::Texture => {
                    assert!(valid.notes.has(Note::NoEndMarker) && !valid.exact_end, "{kind} of {len} bytes");
                }
                Ok(valid) => panic!("{kind} of {len} bytes: {valid:?}"),
            }
        }
    }
}

#[test]
fn single_byte_changes_never_panic() {
    for (kind, body) in REAL {
        let mut body = body.to_vec();
        let places: Vec<usize> = (0..body.len()).filter(|at| *at < 400 || at % 211 == 0).collect();
        for at in places {
            let original = body[at];
            for changed in [0x00, 0x7F, 0x80, 0xFF, original ^ 0x01] {
                body[at] = changed;
                let _ = validate(*kind, &body);
            }
            body[at] = original;
        }
    }
}

#[test]
fn bytes_after_the_end_are_noted_where_the_format_allows_them() {
    for (kind, body) in REAL {
        let longer = [body, &b"tail"[..]].concat();
        let found = validate(*kind, &longer);
        if *kind == AssetKind::Sound {
            // What follows is no page, or the page it leaves unfinished is the last one's next.
            assert!(matches!(found, Err(Invalid::Truncated | Invalid::PageOrder)), "{found:?}");
        } else {
            assert_eq!(found, Ok(Valid::EXACT.inexact(Note::TrailingBytes)), "{kind}");
        }
    }
}

#[test]
fn bodies_beyond_the_bounds_of_their_kind_are_refused() {
    for (kind, body) in REAL {
        let mut long = body.to_vec();
        long.resize(usize::try_from(kind.max_bytes()).unwrap(), 0);
        assert_ne!(validate(*kind, &long), Err(Invalid::TooLong), "{kind}");
        long.push(0);
        assert_eq!(validate(*kind, &long), Err(Invalid::TooLong), "{kind}");
        assert_eq!(validate(*kind, &body[..39]), Err(Invalid::TooShort), "{kind}");
    }
}

#[test]
fn text_in_place_of_a_texture_is_told_apart() {
    for body in ["<html>gone</html>", "{\"error\":1}", "Missing asset"] {
        assert_eq!(validate(AssetKind::Texture, body.as_bytes()), Err(Invalid::Text), "{body}");
    }
}

#[test]
fn client_bakes_are_valid_but_not_shareable() {
    let bake = crate::asset::policy::tests::as_client_bake(real(AssetKind::Texture));
    let valid = validate(AssetKind::Texture, &bake).unwrap();
    assert!(valid.exact_end && valid.notes.has(Note::ClientBake) && !valid.is_shareable());
}
