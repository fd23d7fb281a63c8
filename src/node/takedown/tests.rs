#![allow(clippy::unwrap_used, clippy::panic)]
use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use http::StatusCode;

use super::super::caller::Caller;
use super::super::config::NodeConfig;
use super::super::contents::Piece;
use super::super::disk::DiskTier;
use super::super::tests::{HERE, ORIGIN, Switched, World, attest_call, body, name, now, read_call};
use super::Victim;
use crate::asset::Digest;
use crate::catalog::{Catalog as _, Change, KeyHash};
use crate::publication::Record;
use crate::store::keys::{BlobName, KeyRing};
use crate::store::{records, tags};
use crate::token::{self, SigningKey};
use crate::wire::frame::{Call, Codec, Reply, Verdict};

fn store(folder: &Path) -> String {
    format!("file://{}", folder.join("store").display())
}

async fn operator(world: &World) -> Caller {
    let key = SigningKey::from_seed(&[11; 32]).unwrap();
    let claims = token::Claims { rights: "read,write,admin".parse().unwrap(), ..world.claims("operator") };
    let token = token::sign(&key, &claims);
    world.service.authenticate(Some(&token), HERE, true).await.unwrap()
}

async fn pupil(world: &World) -> Caller {
    world.service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap()
}

async fn put(world: &World, number: u128) -> Reply {
    let (caller, bytes) = (pupil(world).await, body());
    let put = Call::Put {
        key: name(number),
        origin: Some(ORIGIN),
        digest: Digest::of(&bytes),
        codec: Codec::Raw,
        length: bytes.len() as u64,
    };
    let mut receiving = world.service.admit_body(&caller, &put).await.unwrap();
    receiving.push(&bytes).await.unwrap();
    world.service.put(&caller, &put, receiving).await.reply
}

fn blob(world: &World) -> BlobName {
    world.service.contents.ring.blob_name(Digest::of(&body()))
}

async fn is_stored(world: &World) -> bool {
    world.service.contents.blobs.exists(&blob(world)).await.unwrap()
}

async fn held(world: &World) -> usize {
    world.service.contents.blobs.list_held().try_collect::<Vec<_>>().await.unwrap().len()
}

fn is_forbidden(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { status: 403, .. })
}

/// What another node writes when it takes something down.
fn taken_down(ring: &KeyRing, hash: KeyHash) -> (KeyHash, crate::catalog::Decide) {
    let ring = ring.clone();
    let record = Record { taken_down: true, ..Record::default() };
    (hash, Box::new(move |_| Change { record: records::write(&ring, &hash, &record), blobs: Vec::new() }))
}

#[tokio::test]
async fn what_is_taken_down_by_its_digest_comes_back_under_no_name() {
    let world = World::new(NodeConfig::default()).await;
    assert_eq!(put(&world, 1).await, Reply::Upload(Verdict::Published));
    let (operator, digest) = (operator(&world).await, Digest::of(&body()));
    let by_digest = |dry_run| world.service.take_down(&operator, Victim::Content(digest), dry_run);
    assert_eq!(by_digest(true).await.unwrap(), 1);
    assert!(world.catalog.audited.lock().unwrap().is_empty() && is_stored(&world).await);
    assert_eq!(by_digest(false).await.unwrap(), 1);
    assert!(!is_stored(&world).await);
    // A new name, and one that never was: neither a word nor a body is taken.
    let caller = pupil(&world).await;
    assert!(is_forbidden(&world.service.perform(&caller, &attest_call("pupil", 2, &body())).await.reply));
    assert!(is_forbidden(&put(&world, 3).await));
    assert!(!is_stored(&world).await);
    for number in 1..=3 {
        assert_eq!(world.service.perform(&caller, &read_call(number)).await.reply, Reply::Absent);
    }
    assert_eq!(by_digest(false).await.unwrap(), 0, "once more does no harm");
}

#[tokio::test]
async fn a_take_down_that_broke_off_is_finished_by_the_next() {
    for by_digest in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let world = World::over(NodeConfig::default(), Arc::default(), &store(folder.path()), None).await;
        assert_eq!(put(&world, 1).await, Reply::Upload(Verdict::Published));
        let operator = operator(&world).await;
        let victim = if by_digest { Victim::Content(Digest::of(&body())) } else { Victim::Key(name(1)) };
        // The store cannot make the folder of the hold.
        let hold = folder.path().join("store/hold");
        std::fs::write(&hold, b"in the way").unwrap();
        let broken = world.service.take_down(&operator, victim.clone(), false).await;
        assert_eq!(broken.unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(is_stored(&world).await);
        let audited = world.catalog.audited.lock().unwrap().clone();
        assert!(audited.len() == 1 && audited[0].contains("school"), "who began it is known: {audited:?}");
        let caller = pupil(&world).await;
        assert_eq!(world.service.perform(&caller, &read_call(1)).await.reply, Reply::Absent);

        std::fs::remove_file(&hold).unwrap();
        world.service.take_down(&operator, victim, false).await.unwrap();
        assert!(!is_stored(&world).await, "by digest: {by_digest}");
        assert_eq!(held(&world).await, 1);
        let hash = world.service.key_hash(&name(1));
        let row = world.catalog.read(vec![hash]).await.unwrap().remove(0).unwrap();
        let record = records::read(&world.service.contents.ring, &hash, &row.record).unwrap();
        assert!(record.taken_down && record.contents.iter().all(|content| !content.stored));
        assert!(by_digest || record.contents.is_empty(), "it names nothing any more");
        assert!(is_forbidden(&put(&world, 1).await));
    }
}

/// Between an upload's first word and its record, its blob is written already.
#[tokio::test]
async fn an_upload_that_a_take_down_overtakes_leaves_nothing() {
    for by_digest in [false, true] {
        let world = World::new(NodeConfig::default()).await;
        let ring = &world.service.contents.ring;
        let hash = match by_digest {
            false => world.service.key_hash(&name(1)),
            true => tags::content(ring, Digest::of(&body())),
        };
        *world.catalog.meanwhile.lock().unwrap() = vec![Some(taken_down(ring, hash)), None];
        assert!(is_forbidden(&put(&world, 1).await), "by digest: {by_digest}");
        assert!(!is_stored(&world).await);
        assert_eq!(held(&world).await, 1);
        let caller = pupil(&world).await;
        world.service.contents.hot.forget(&world.service.key_hash(&name(1)));
        assert_eq!(world.service.perform(&caller, &read_call(1)).await.reply, Reply::Absent);
        assert!(world.catalog.keys_of_blob(blob(&world).0).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_another_node_takes_down_leaves_this_ones_disk() {
    for told in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (catalog, url) = (Arc::<Switched>::default(), store(folder.path()));
        let one = World::over(NodeConfig::default(), Arc::clone(&catalog), &url, None).await;
        let disk = DiskTier::open(&folder.path().join("hot"), 1 << 30).unwrap();
        let other = World::over(NodeConfig::default(), catalog, &url, Some(disk)).await;
        assert_eq!(put(&one, 1).await, Reply::Upload(Verdict::Published));
        let caller = pupil(&other).await;
        let read = other.service.perform(&caller, &read_call(1)).await.reply;
        assert!(matches!(read, Reply::Found(_)), "{read:?}");
        let disk = Arc::clone(other.service.contents.disk.as_ref().unwrap());
        assert!(disk.get(&blob(&other), Piece::Whole).is_some());

        one.service.take_down(&operator(&one).await, Victim::Key(name(1)), false).await.unwrap();
        assert!(disk.get(&blob(&other), Piece::Whole).is_some(), "nobody has told it");
        if told {
            // Its record is read again, as it is a few seconds later.
            let hash = other.service.key_hash(&name(1));
            let rows = other.catalog.read(vec![hash]).await.unwrap();
            let known = other.service.note(&[hash], rows).await;
            assert!(known[0].as_ref().unwrap().taken_down);
        } else {
            other.service.keep_house(now()).await;
        }
        assert_eq!(disk.get(&blob(&other), Piece::Whole), None, "told: {told}");
        assert_eq!(disk.bytes(), 0);
    }
}
