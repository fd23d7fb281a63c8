//! Queries and headers as clients send them, and as nobody should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::asset::validate::tests::{REAL, real};

const ID: &str = "5748decc-f629-461c-9a36-a35a221fe21f";

/// A real texture with two more components and the comment of a viewer's bake.
pub(crate) fn as_client_bake(texture: &[u8]) -> Vec<u8> {
    let three_components = 4 + 38 + 9 - 2 + 2;
    let mut bake = texture[..three_components].to_vec();
    bake[5] = 38 + 15;
    bake[41] = 5;
    bake.extend([7, 1, 1, 7, 1, 1]);
    bake.extend(b"\xFF\x64\x00\x0C\x00\x01LL_RGBHM");
    bake.extend(&texture[three_components..]);
    bake
}

#[test]
fn each_kind_is_asked_for_by_its_name() {
    for kind in AssetKind::ALL {
        let found = AssetQuery::parse(&format!("{}={ID}", kind.query_name()));
        assert_eq!(found, Some(AssetQuery { kind, id: MISSING_IMAGE }));
    }
}

#[test]
fn order_case_extras_and_escapes_do_not_matter() {
    let expected = Some(AssetQuery { kind: AssetKind::Texture, id: MISSING_IMAGE });
    for query in [
        format!("texture_id={}", ID.to_uppercase()),
        format!("a=1&texture_id={ID}&b"),
        format!("&texture_id={ID}&"),
        format!("token=100%&texture_id={ID}"),
        format!("%74exture%5Fid={}", ID.replace('-', "%2d")),
    ] {
        assert_eq!(AssetQuery::parse(&query), expected, "{query}");
    }
}

#[test]
fn what_is_not_one_public_asset_bypasses_the_cache() {
    for query in [
        String::new(),
        "a=1".into(),
        "texture_id".into(),
        "texture_id=".into(),
        "texture_id=nonsense".into(),
        format!("texture_id={{{ID}}}"),
        format!("texture_id={}", ID.replace('-', "")),
        format!("texture_id={ID}0"),
        format!("texture_id={ID}%0"),
        format!("texture_id={ID}&texture_id={ID}"),
        format!("texture_id={ID}&mesh_id={ID}"),
        format!("texture_id={ID}&notecard_id={ID}"),
        format!("notecard_id={ID}"),
        format!("TEXTURE_ID={ID}"),
        format!("texture_id={ID}&format=png"),
        format!("%66ormat=png&texture_id={ID}"),
        format!("Format&texture_id={ID}"),
    ] {
        assert_eq!(AssetQuery::parse(&query), None, "{query}");
    }
}

#[test]
fn headers_of_viewers_and_plain_clients_are_accepted_for_every_kind() {
    for kind in AssetKind::ALL {
        assert!(accepts(kind, None));
        for header in [
            "*/*",
            "",
            "image/x-j2c",
            "application/llsd+xml",
            "application/vnd.ll.mesh",
            "IMAGE/X-J2C",
            "image/*",
            "image/x-j2c;q=0.9, image/png;q=0.5",
            "image/x-j2c, image/png",
            "*/*;q=0.1",
            "image/png;q=0, */*",
            "application/octet-stream",
        ] {
            assert!(accepts(kind, Some(header.as_bytes())), "{kind} {header:?}");
        }
        assert!(accepts(kind, Some(kind.content_type().as_bytes())));
    }
}

#[test]
fn wish_for_another_image_type_bypasses_the_cache() {
    for header in [
        "image/png",
        "image/jpeg, image/x-j2c;q=0.5",
        "image/x-j2c;q=0.2, image/tga;q=0.3",
        "image/avif,image/webp,*/*;q=0.8",
        "image/png,image/x-j2c",
        "*/*, image/png",
        "text/html",
        "image/x-j2c;q=0",
        "image/x-j2c;q=zero",
        "garbage",
    ] {
        assert!(!accepts(AssetKind::Texture, Some(header.as_bytes())), "{header:?}");
    }
    assert!(!accepts(AssetKind::Texture, Some(b"\xff\xfe")));
}

#[test]
fn only_five_components_with_the_comment_are_a_bake() {
    let texture = real(AssetKind::Texture);
    let bake = as_client_bake(texture);
    assert!(is_client_bake(&bake));
    assert!(!is_client_bake(texture));
    let other_comment: Vec<u8> = bake.iter().map(|byte| if *byte == b'H' { b'h' } else { *byte }).collect();
    assert_eq!(j2c::header(&other_comment).unwrap().components, 5);
    assert!(!is_client_bake(&other_comment));
}

#[test]
fn beginnings_of_real_assets_match_their_kind_only() {
    for (kind, body) in REAL {
        for other in AssetKind::ALL {
            // A binary LLSD map may begin a mesh and a material.
            let expected = other == *kind || (*kind == AssetKind::Mesh && other == AssetKind::Material);
            assert_eq!(content_matches_kind(other, &body[..16]), expected, "{kind} as {other}");
            assert_eq!(content_matches_kind(other, body), expected, "{kind} as {other}");
        }
    }
    assert!(!content_matches_kind(AssetKind::Texture, b""));
}
