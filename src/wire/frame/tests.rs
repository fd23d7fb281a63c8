#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::{Call, Codec, Found, Reply, Request, Verdict};
use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::grid::GridId;
use crate::redact::Redacted;
use crate::wire::{MAX_LOOKUP, OriginHash};

fn kinds() -> impl Strategy<Value = AssetKind> {
    prop::sample::select(AssetKind::ALL.to_vec())
}

fn keys() -> impl Strategy<Value = AssetKey> {
    ("[a-z0-9.:]{0,40}", kinds(), any::<u128>()).prop_map(|(grid, kind, id)| AssetKey {
        grid: GridId::new(&grid),
        kind,
        id: AssetId(uuid::Uuid::from_u128(id)),
    })
}

fn origins() -> impl Strategy<Value = Option<OriginHash>> {
    prop::option::of(any::<[u8; 16]>().prop_map(OriginHash))
}

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn calls() -> impl Strategy<Value = Call> {
    prop_oneof![
        (keys(), origins(), prop::option::of((0u64..1 << 40, 1u64..1 << 30)), any::<bool>()).prop_map(
            |(key, origin, range, head_only)| Call::Read {
                key,
                origin,
                range: range.map(|(first, length)| (first, first + length)),
                head_only
            }
        ),
        ("[a-z.]{0,30}", origins(), prop::collection::vec((kinds(), any::<u128>()), 0..=MAX_LOOKUP))
            .prop_map(|(grid, origin, assets)| Call::Lookup {
                grid: GridId::new(&grid),
                origin,
                assets: assets
                    .into_iter()
                    .map(|(kind, id)| (kind, AssetId(uuid::Uuid::from_u128(id))))
                    .collect(),
            }),
        (keys(), origins(), digests(), any::<[u8; 32]>())
            .prop_map(|(key, origin, digest, proof)| Call::Attest { key, origin, digest, proof }),
        (keys(), origins(), digests(), any::<bool>(), any::<u64>()).prop_map(
            |(key, origin, digest, packed, length)| Call::Put {
                key,
                origin,
                digest,
                codec: if packed { Codec::Lz4 } else { Codec::Raw },
                length
            }
        ),
    ]
}

fn replies() -> impl Strategy<Value = Reply> {
    let verdicts = vec![
        Verdict::Published,
        Verdict::Waiting { want_body: false },
        Verdict::Waiting { want_body: true },
        Verdict::Known,
        Verdict::Conflict,
    ];
    prop_oneof![
        (digests(), 0u64..1 << 40, 0u64..1 << 30, 0u64..1 << 30, any::<bool>(), any::<bool>()).prop_map(
            |(digest, first, length, beyond, grouped, verify)| Reply::Found(Found {
                digest,
                total: first + length + beyond,
                first,
                length,
                grouped,
                verify
            })
        ),
        Just(Reply::Absent),
        any::<u32>().prop_map(|retry_after_ms| Reply::Busy { retry_after_ms }),
        prop::collection::vec(prop::option::of((any::<u64>(), digests())), 0..=MAX_LOOKUP)
            .prop_map(Reply::Sizes),
        prop::sample::select(verdicts).prop_map(Reply::Upload),
        (any::<u16>(), any::<u32>(), "\\PC{0,60}")
            .prop_map(|(status, retry_after_s, reason)| { Reply::Refused { status, retry_after_s, reason } }),
    ]
}

proptest! {
    #[test]
    fn requests_are_read_as_they_are_written(call in calls(), token in "[A-Za-z0-9._-]{0,400}") {
        let request = Request { token: Redacted::new(token), call };
        let frame = request.encode();
        prop_assert_eq!(Request::decode(&frame), Some(request));
        for end in 0..frame.len() {
            prop_assert_eq!(Request::decode(&frame[..end]), None);
        }
        let mut longer = frame;
        longer.push(0);
        prop_assert_eq!(Request::decode(&longer), None);
    }

    #[test]
    fn replies_are_read_as_they_are_written(reply in replies()) {
        let frame = reply.encode();
        prop_assert_eq!(Reply::decode(&frame), Some(reply));
        for end in 0..frame.len() {
            prop_assert_eq!(Reply::decode(&frame[..end]), None);
        }
    }

    #[test]
    fn anything_may_come(frame in prop::collection::vec(any::<u8>(), 0..300), version in any::<bool>()) {
        let mut frame = frame;
        if version && let Some(first) = frame.first_mut() {
            *first = 1;
        }
        let _ = (Request::decode(&frame), Reply::decode(&frame));
    }
}

#[test]
fn another_version_is_refused() {
    let mut frame = Reply::Absent.encode();
    assert_eq!(frame, [1, 2]);
    frame[0] = 2;
    assert_eq!(Reply::decode(&frame), None);
}
