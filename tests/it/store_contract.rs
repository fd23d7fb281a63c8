//! What every blob store must do: memory, a directory, and a real S3 server.

use futures_util::TryStreamExt;
use rezcache::asset::Digest;
use rezcache::store::blobs::{Blobs, Listed, StoreError};
use rezcache::store::keys::KeyRing;
use rezcache::store::sealed::{self, Hashed, Head, SealError};

use crate::support::moto::Moto;

/// What every store must do.
pub(crate) async fn contract(blobs: &Blobs) {
    let ring = KeyRing::new([1; 32], [2; 32]);
    let name = |number: u8| ring.blob_name(Digest([number; 32]));
    assert!(blobs.is_empty().await.unwrap());
    blobs.check_keys(&ring).await.unwrap();
    assert!(!blobs.is_empty().await.unwrap());
    blobs.check_keys(&ring).await.unwrap();
    let stranger = KeyRing::new([1; 32], [3; 32]);
    let refused = blobs.check_keys(&stranger).await.unwrap_err();
    assert!(matches!(refused, StoreError::Key { problem: SealError::WrongKey(1), .. }), "{refused}");
    let rotated = ring.clone().with_new_key([4; 32]);
    blobs.mark_anew(&rotated).await.unwrap();
    let refused = blobs.check_keys(&ring).await.unwrap_err().to_string();
    assert!(refused.contains("key 2") && refused.contains("it holds key 1"), "{refused}");
    blobs.check_keys(&rotated).await.unwrap();
    blobs.mark_anew(&ring).await.unwrap();

    assert_eq!(blobs.get(&name(1)).await.unwrap(), None);
    blobs.put(&name(1), b"one".to_vec()).await.unwrap();
    blobs.put(&name(1), b"one again".to_vec()).await.unwrap();
    blobs.put(&name(2), vec![7; 300_000]).await.unwrap();
    assert_eq!(blobs.get(&name(1)).await.unwrap().unwrap(), "one again");
    assert!(blobs.exists(&name(2)).await.unwrap() && !blobs.exists(&name(3)).await.unwrap());
    let range =
        |range| async { blobs.get_range(&name(2), range).await.map(|part| part.map(|part| part.len())) };
    assert_eq!(range(0..10).await.unwrap(), Some(10));
    assert_eq!(range(299_990..400_000).await.unwrap(), Some(10), "shorter at the end");
    assert!(range(300_000..300_010).await.is_err(), "beyond the end");
    assert_eq!(blobs.get_range(&name(3), 0..10).await.unwrap(), None);
    assert_eq!(blobs.get_range(&name(1), 4..7).await.unwrap().unwrap(), "aga");
    parts(blobs, &ring).await;
    // Larger than what goes in one request.
    let large: Vec<u8> = (0..20_000_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    blobs.put(&name(9), large.clone()).await.unwrap();
    assert!(blobs.get(&name(9)).await.unwrap().unwrap() == large);
    blobs.put(&name(9), large[..17_000_000].to_vec()).await.unwrap();
    assert!(blobs.get(&name(9)).await.unwrap().unwrap() == large[..17_000_000]);
    blobs.delete(&name(9)).await.unwrap();
    let listed: Vec<_> = blobs.list().try_collect().await.unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(listed.iter().all(|blob| blob.at.abs_diff(now) < 3600), "{listed:?}");
    let mut listed: Vec<_> = listed.iter().map(|blob| (blob.name, blob.size)).collect();
    listed.sort();
    let mut expected = vec![(name(1), 9), (name(2), 300_000)];
    expected.sort();
    assert_eq!(listed, expected);

    blobs.hold(&name(1), 1000).await.unwrap();
    blobs.hold(&name(3), 2000).await.unwrap();
    let held: Vec<_> = blobs.list_held().try_collect().await.unwrap();
    assert_eq!(held, [Listed { name: name(1), size: 9, at: 1000 }]);
    assert_eq!(blobs.destroy_held(999).await.unwrap(), (0, 0));
    assert_eq!(blobs.destroy_held(1000).await.unwrap(), (1, 9));
    assert_eq!(blobs.list_held().try_collect::<Vec<_>>().await.unwrap(), []);
    blobs.delete(&name(2)).await.unwrap();
    blobs.delete(&name(2)).await.unwrap();
    assert_eq!((blobs.get(&name(1)).await.unwrap(), blobs.get(&name(2)).await.unwrap()), (None, None));
    blobs.probe().await.unwrap();
    assert_eq!(blobs.list().try_collect::<Vec<_>>().await.unwrap(), []);
}

/// Only the head and the groups that a range touches are fetched, and any flipped bit in them is refused.
async fn parts(blobs: &Blobs, ring: &KeyRing) {
    let plain: Vec<u8> = (0..700_000u32).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
    let hashed = Hashed::of(&plain);
    let name = ring.blob_name(hashed.digest);
    let seal = || sealed::seal(ring, &name, &hashed, &plain, false, rand::random()).unwrap();
    let blob = seal();
    blobs.put(&name, blob.clone()).await.unwrap();
    let start = blobs.get_range(&name, 0..sealed::head_bytes(700_000)).await.unwrap().unwrap();
    let head = Head::open(ring, &name, &start, 1 << 20).unwrap();
    let place = head.place(200_000..300_000).unwrap();
    assert!(place.end - place.start < 4 * 65_600);
    let fetch = || async { blobs.get_range(&name, place.clone()).await.unwrap().unwrap().to_vec() };
    let opened = head.open_groups(3, fetch().await).unwrap();
    assert_eq!(opened, plain[3 * 65_536..5 * 65_536]);
    let mut damaged = blob;
    damaged[usize::try_from(place.start).unwrap() + 70_000] ^= 4;
    blobs.put(&name, damaged).await.unwrap();
    assert_eq!(head.open_groups(3, fetch().await), Err(SealError::Damaged));
    // Another writer of the same content: a fresh head opens it.
    blobs.put(&name, seal()).await.unwrap();
    assert_eq!(head.open_groups(3, fetch().await), Err(SealError::Damaged));
    let start = blobs.get_range(&name, 0..sealed::head_bytes(700_000)).await.unwrap().unwrap();
    let head = Head::open(ring, &name, &start, 1 << 20).unwrap();
    assert_eq!(head.open_groups(3, fetch().await).unwrap(), opened);
    blobs.delete(&name).await.unwrap();
}

#[tokio::test]
async fn memory_and_directory_keep_the_contract() {
    contract(&Blobs::open("memory:").unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a store");
    let blobs = Blobs::open(&format!("file://{}", path.display())).unwrap();
    contract(&blobs).await;
    assert!(blobs.probe().await.unwrap().conditional_writes);
    assert!(matches!(Blobs::open("ftp://x"), Err(StoreError::Url(_))));
}

/// Nodes of one host that start on an empty store at once: one makes the keys, all have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_start_at_once_all_have_the_same_keys() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("store").display());
        let starting = (0..8).map(|_| {
            let (url, file) = (url.clone(), folder.path().join("store.key"));
            tokio::spawn(async move { Blobs::open(&url).unwrap().keys(&file).await.unwrap().0.text() })
        });
        let rings: Vec<String> =
            futures_util::future::join_all(starting).await.into_iter().map(Result::unwrap).collect();
        assert!(rings.iter().all(|ring| *ring == rings[0]));
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "the store and its key file, and nothing half made: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server_keeps_the_contract() {
    let moto = Moto::start().await;
    moto.boto("s3.create_bucket(Bucket='rez')");
    let variables = [
        ("AWS_ENDPOINT", moto.url()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "a".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "b".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let blobs = Blobs::open_with("s3://rez/some/prefix", variables.clone()).unwrap();
    contract(&blobs).await;
    assert!(blobs.probe().await.unwrap().conditional_writes);
    let listed = moto.boto("print(*[o['Key'] for o in s3.list_objects_v2(Bucket='rez')['Contents']])");
    assert!(listed.contains("some/prefix/marker"), "{listed}");
    let gone = Blobs::open_with("s3://no-such-bucket", variables).unwrap();
    assert!(matches!(gone.probe().await, Err(StoreError::Store { .. })));
}
