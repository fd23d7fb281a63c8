//! Verified streaming: a body is cut into groups of 64 KiB, whose BLAKE3 chaining values, sent
//! first, hash up to the body's digest. Each group is then checked as it comes, and a range needs
//! only the groups it touches.

use blake3::hazmat::{self, HasherExt, Mode};

use crate::asset::Digest;

/// Bytes of a group; a power of two of BLAKE3's chunks of 1,024.
pub const GROUP_BYTES: usize = 64 << 10;
const GROUP: u64 = GROUP_BYTES as u64;

/// The chaining value of one group.
pub type GroupHash = [u8; 32];

/// How many groups a body of this length has. One, when it is empty.
#[must_use]
pub const fn count(total: u64) -> u64 {
    if total == 0 { 1 } else { total.div_ceil(GROUP) }
}

/// The values of all groups of a body.
#[must_use]
pub fn of(bytes: &[u8]) -> Vec<GroupHash> {
    if bytes.len() <= GROUP_BYTES {
        return vec![*blake3::hash(bytes).as_bytes()];
    }
    (0u64..).zip(bytes.chunks(GROUP_BYTES)).map(|(index, group)| value(index, group)).collect()
}

fn value(index: u64, group: &[u8]) -> GroupHash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index.saturating_mul(GROUP));
    hasher.update(group);
    hasher.finalize_non_root()
}

/// Group hashes that were found to make up a digest and a length.
#[derive(Clone, Debug)]
pub struct Groups {
    hashes: Vec<GroupHash>,
    total: u64,
}

impl Groups {
    /// Takes `hashes` for those of a body with this digest and length. `None` when they are not:
    /// then nothing of the body can be believed.
    ///
    /// The length is only proven by the last group: a range in the middle must be placed by a
    /// length that the whole body was attested with.
    #[must_use]
    pub fn verified(hashes: Vec<GroupHash>, total: u64, digest: Digest) -> Option<Self> {
        let matches = hashes.len() as u64 == count(total) && root(&hashes, total)? == digest.0;
        matches.then_some(Self { hashes, total })
    }

    /// Whether these are the bytes of the group with this index.
    #[must_use]
    pub fn check(&self, index: u64, group: &[u8]) -> bool {
        let length = self.total.saturating_sub(index.saturating_mul(GROUP)).min(GROUP);
        let expected = usize::try_from(index).ok().and_then(|index| self.hashes.get(index));
        group.len() as u64 == length
            && expected.is_some_and(|expected| match self.hashes.len() {
                1 => blake3::hash(group).as_bytes() == expected,
                _ => value(index, group) == *expected,
            })
    }
}

/// The digest of a body of this length with these groups. `None` when there can be none.
#[must_use]
pub fn digest(hashes: &[GroupHash], total: u64) -> Option<Digest> {
    (hashes.len() as u64 == count(total)).then(|| root(hashes, total)).flatten().map(Digest)
}

/// The digest that the groups' values hash up to.
fn root(hashes: &[GroupHash], total: u64) -> Option<[u8; 32]> {
    match hashes {
        [] => None,
        [only] => Some(*only),
        _ => {
            let (left, right) = split(hashes, total)?;
            let (left, right) = (subtree(left.0, left.1)?, subtree(right.0, right.1)?);
            Some(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
        }
    }
}

fn subtree(hashes: &[GroupHash], length: u64) -> Option<GroupHash> {
    match hashes {
        [] => None,
        [only] => Some(*only),
        _ => {
            let (left, right) = split(hashes, length)?;
            let (left, right) = (subtree(left.0, left.1)?, subtree(right.0, right.1)?);
            Some(hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash))
        }
    }
}

type Half<'a> = (&'a [GroupHash], u64);

fn split(hashes: &[GroupHash], length: u64) -> Option<(Half<'_>, Half<'_>)> {
    let left = hazmat::left_subtree_len(length);
    let at = usize::try_from(left / GROUP).ok()?;
    let (before, after) = hashes.split_at_checked(at)?;
    Some(((before, left), (after, length.checked_sub(left)?)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use super::{GROUP_BYTES, Groups, of};
    use crate::asset::Digest;

    fn body(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 % 251) as u8).collect()
    }

    #[test]
    fn groups_hash_up_to_the_digest() {
        for length in [0, 1, 1024, GROUP_BYTES - 1, GROUP_BYTES, GROUP_BYTES + 1, 200_000, 1 << 20, 3_500_000]
        {
            let body = body(length);
            let groups = Groups::verified(of(&body), length as u64, Digest::of(&body)).unwrap();
            for (index, group) in (0u64..).zip(body.chunks(GROUP_BYTES)) {
                assert!(groups.check(index, group), "{length}: {index}");
            }
        }
    }

    #[test]
    fn nothing_else_does() {
        let length = 3 * GROUP_BYTES + 77;
        let body = body(length);
        let (hashes, digest) = (of(&body), Digest::of(&body));
        for total in [length - 1, length + 1, length + GROUP_BYTES, 4 * GROUP_BYTES, 0] {
            // A wrong length within the last group is told by that group alone.
            if let Some(groups) = Groups::verified(hashes.clone(), total as u64, digest) {
                assert!(!groups.check(3, &body[3 * GROUP_BYTES..]), "{total}");
            }
        }
        let mut wrong = hashes.clone();
        wrong[2][5] ^= 1;
        assert!(Groups::verified(wrong, length as u64, digest).is_none());
        assert!(Groups::verified(Vec::new(), length as u64, digest).is_none());
        assert!(Groups::verified(hashes[..3].to_vec(), length as u64, digest).is_none());
        let groups = Groups::verified(hashes, length as u64, digest).unwrap();
        assert!(!groups.check(1, &body[..GROUP_BYTES]), "another group");
        assert!(!groups.check(4, &[]), "beyond the end");
        let mut flipped = body[GROUP_BYTES..2 * GROUP_BYTES].to_vec();
        flipped[100] ^= 0x10;
        assert!(!groups.check(1, &flipped));
    }
}
