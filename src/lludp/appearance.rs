//! What avatars wear, as far as it says which textures are baked.
//!
//! A texture entry codes a value for each face: one for all, then exceptions, each a mask of the
//! faces it is for and a value. An avatar's faces are the slots of its textures.
//! Source: Second Life viewer, indra/llprimitive/llprimitive.cpp (`unpack_TEField`) and
//! indra/llappearance/llavatarappearancedefines.h; `message_template.msg` (AvatarAppearance).

use uuid::{Uuid, uuid};

use super::error::{DecodeError, DecodeErrorKind};
use super::fields::{Fields, Variable2};

/// Head, upper and lower body, eyes, skirt, hair, left arm, left leg, and three more.
const BAKED_SLOTS: [u32; 11] = [8, 9, 10, 11, 19, 20, 40, 41, 42, 43, 44];
/// Slots that an avatar has.
const MAX_FACES: usize = 45;
/// Bits of a mask's byte that name faces; the highest says that more follow.
const MASK_BITS: usize = 7;
/// Fills unused slots.
const DEFAULT_TEXTURE: Uuid = uuid!("c228d1cf-4b5d-4ba8-84f4-899a0796aa97");

/// The textures in the baked slots of an avatar, from the body of an `AvatarAppearance`.
///
/// # Errors
/// When the message is cut, or its texture entry is none.
pub fn baked_textures(body: &[u8]) -> Result<Vec<Uuid>, DecodeError> {
    let mut fields = Fields::new(body);
    fields.read::<Uuid>("ID")?;
    fields.read::<u8>("IsTrial")?;
    let entry: Variable2<'_> = fields.read("TextureEntry")?;
    if entry.0.is_empty() {
        return Ok(Vec::new());
    }
    let mut slots = [Uuid::nil(); MAX_FACES];
    let mut entry = Fields::new(entry.0);
    slots.fill(entry.read("default texture")?);
    // At most one exception for each face is of use.
    for _ in 0..MAX_FACES {
        let mask = faces(&mut entry)?;
        if mask == 0 {
            break;
        }
        let texture = entry.read("texture")?;
        for (face, slot) in slots.iter_mut().enumerate() {
            if mask >> face & 1 == 1 {
                *slot = texture;
            }
        }
    }
    let baked = BAKED_SLOTS.iter().filter_map(|slot| slots.get(*slot as usize)).copied();
    let mut baked: Vec<Uuid> = baked.filter(|id| !id.is_nil() && *id != DEFAULT_TEXTURE).collect();
    baked.sort_unstable();
    baked.dedup();
    Ok(baked)
}

/// A mask of faces; its most significant bits come first. The end of the entry ends the exceptions.
fn faces(entry: &mut Fields<'_>) -> Result<u64, DecodeError> {
    let mut mask = 0_u64;
    for _ in 0..=MAX_FACES / MASK_BITS {
        if entry.at_end() {
            return Ok(0);
        }
        let byte: u8 = entry.read("face mask")?;
        mask = mask << MASK_BITS | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Ok(mask);
        }
    }
    Err(DecodeError::new(entry.offset(), "face mask", DecodeErrorKind::TooLong))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// An AvatarAppearance whose slots hold these textures, coded as a viewer codes them.
    fn appearance(default: Uuid, slots: &[(u32, Uuid)]) -> Vec<u8> {
        let mut entry = default.as_bytes().to_vec();
        for (slot, texture) in slots {
            let mask = 1_u64 << slot;
            let groups = (0..=slot / 7).rev();
            for group in groups {
                let bits = u8::try_from(mask >> (7 * group) & 0x7F).unwrap();
                entry.push(if group > 0 { bits | 0x80 } else { bits });
            }
            entry.extend_from_slice(texture.as_bytes());
        }
        entry.push(0);
        entry.extend_from_slice(&[9; 40]);
        let mut body = Uuid::from_u128(1).as_bytes().to_vec();
        body.push(0);
        body.extend_from_slice(&u16::try_from(entry.len()).unwrap().to_le_bytes());
        body.extend_from_slice(&entry);
        body
    }

    #[test]
    fn baked_slots_are_told_from_others() {
        let id = Uuid::from_u128;
        let body = appearance(
            DEFAULT_TEXTURE,
            &[(0, id(10)), (8, id(18)), (19, id(29)), (30, id(40)), (44, id(54))],
        );
        assert_eq!(baked_textures(&body).unwrap(), [id(18), id(29), id(54)]);
        assert_eq!(baked_textures(&appearance(id(5), &[])).unwrap(), [id(5)], "the default fills every slot");
        let none = appearance(DEFAULT_TEXTURE, &[]);
        assert!(baked_textures(&none).unwrap().is_empty());
        // Without a texture entry.
        assert!(baked_textures(&[0; 19]).unwrap().is_empty());
    }

    #[test]
    fn a_mask_without_end_is_refused() {
        let mut body = appearance(DEFAULT_TEXTURE, &[(8, Uuid::from_u128(1))]);
        body.get_mut(35..60).unwrap().fill(0xFF);
        assert_eq!(baked_textures(&body).unwrap_err().kind, DecodeErrorKind::TooLong);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..120) {
            let _ = baked_textures(&body);
            let whole = appearance(Uuid::from_u128(3), &[(8, Uuid::from_u128(4)), (44, Uuid::from_u128(5))]);
            let _ = baked_textures(whole.get(..cut).unwrap_or(&whole));
        }
    }
}
