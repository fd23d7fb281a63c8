//! What a node does when its catalog is away, and at its gate. Without sockets: callers come from any
//! address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faces;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::StatusCode;
use uuid::Uuid;

use super::access::Access;
use super::budgets::Budgets;
use super::config::NodeConfig;
use super::disk::DiskTier;
use super::service::Service;
use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::catalog::{
    Answer, BlobHash, Catalog, CatalogError, Change, Decide, Health, KeyHash, Revocation, RevokedKind, Row,
    SqliteCatalog,
};
use crate::grid::GridId;
use crate::publication::Record;
use crate::store::blobs::Blobs;
use crate::store::keys::KeyRing;
use crate::store::records;
use crate::token::{self, Claims, SigningKey};
use crate::wire::frame::{Call, Codec, Reply, Verdict};
use crate::wire::{OriginHash, proof, proof_key};

/// A catalog that can be away, counts what is written, and lets others come between.
pub(super) struct Switched {
    pub(super) inner: SqliteCatalog,
    pub(super) away: AtomicBool,
    /// Changes that wrote something.
    pub(super) written: Arc<AtomicUsize>,
    pub(super) audited: Mutex<Vec<String>>,
    /// What others do before the next changes, the last of these first.
    pub(super) meanwhile: Mutex<Vec<Option<(KeyHash, Decide)>>>,
}

impl Default for Switched {
    fn default() -> Self {
        Self {
            inner: SqliteCatalog::in_memory().unwrap(),
            away: AtomicBool::default(),
            written: Arc::default(),
            audited: Mutex::default(),
            meanwhile: Mutex::default(),
        }
    }
}

impl Switched {
    fn through<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        match self.away.load(Ordering::Relaxed) {
            true => Box::pin(async { Err(CatalogError::Unavailable("switched off".into())) }),
            false => answer,
        }
    }
}

impl Catalog for Switched {
    fn read(&self, keys: Vec<KeyHash>) -> Answer<'_, Vec<Option<Row>>> {
        self.through(self.inner.read(keys))
    }
    fn update(&self, key: KeyHash, day: u32, decide: Decide) -> Answer<'_, ()> {
        let (mut decide, written) = (decide, Arc::clone(&self.written));
        let counted = Box::new(move |old: Option<&[u8]>| {
            let change = decide(old);
            written.fetch_add(usize::from(change.record.is_some()), Ordering::Relaxed);
            change
        });
        let others = self.meanwhile.lock().unwrap().pop().flatten();
        self.through(Box::pin(async move {
            if let Some((key, decide)) = others {
                self.inner.update(key, day, decide).await?;
            }
            self.inner.update(key, day, counted).await
        }))
    }
    fn touch(&self, uses: Vec<(KeyHash, u32)>) -> Answer<'_, ()> {
        self.through(self.inner.touch(uses))
    }
    fn keys_of_blob(&self, blob: BlobHash) -> Answer<'_, Vec<KeyHash>> {
        self.through(self.inner.keys_of_blob(blob))
    }
    fn scan(&self, after: Option<KeyHash>, limit: u32) -> Answer<'_, Vec<(KeyHash, Row)>> {
        self.through(self.inner.scan(after, limit))
    }
    fn remove(&self, rows: Vec<(KeyHash, Vec<u8>)>) -> Answer<'_, u64> {
        self.through(self.inner.remove(rows))
    }
    fn forget_leases(&self, windows: std::ops::Range<u64>) -> Answer<'_, u64> {
        self.through(self.inner.forget_leases(windows))
    }
    fn revoke(&self, kind: RevokedKind, value: String, at: u64) -> Answer<'_, ()> {
        self.through(self.inner.revoke(kind, value, at))
    }
    fn revocations(&self, after: i64) -> Answer<'_, Vec<Revocation>> {
        self.through(self.inner.revocations(after))
    }
    fn audit(&self, at: u64, action: String, detail: String) -> Answer<'_, ()> {
        self.audited.lock().unwrap().push(format!("{action}: {detail}"));
        self.through(self.inner.audit(at, action, detail))
    }
    fn lease(&self, name: [u8; 32], window: u64, want: u64, limit: u64) -> Answer<'_, u64> {
        self.through(self.inner.lease(name, window, want, limit))
    }
    fn enrol(&self, principal: KeyHash, record: Vec<u8>) -> Answer<'_, Vec<u8>> {
        self.through(self.inner.enrol(principal, record))
    }
    fn enrolled(&self, principal: KeyHash) -> Answer<'_, Option<Vec<u8>>> {
        self.through(self.inner.enrolled(principal))
    }
    fn health(&self) -> std::pin::Pin<Box<dyn Future<Output = Health> + Send + '_>> {
        self.inner.health()
    }
    fn engine(&self) -> &'static str {
        "switched"
    }
}

pub(super) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub(super) struct World {
    pub(super) service: Arc<Service>,
    pub(super) catalog: Arc<Switched>,
    key: SigningKey,
    _folder: tempfile::TempDir,
}

impl World {
    pub(super) async fn new(config: NodeConfig) -> Self {
        Self::over(config, Arc::default(), "memory:", None).await
    }

    pub(super) async fn over(
        config: NodeConfig,
        catalog: Arc<Switched>,
        store: &str,
        disk: Option<DiskTier>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed(&[11; 32]).unwrap();
        let public = folder.path().join("tokens.pub");
        std::fs::write(&public, key.public_pem()).unwrap();
        let config =
            NodeConfig { token_keys: vec![public], trusted_tenants: vec!["school".into()], ..config };
        let shared: Arc<dyn Catalog> = Arc::clone(&catalog) as _;
        let (ring, blobs) = (KeyRing::new([1; 32], [2; 32]), Blobs::open(store).unwrap());
        let abilities = blobs.probe().await.unwrap();
        let budgets = Arc::new(Budgets::new(ring.clone(), Arc::clone(&shared), config.limits));
        let access = Access::new(&config.access().unwrap(), None, budgets);
        let service = Service::new(config, access, shared, blobs, ring, disk, abilities);
        Self { service: Arc::new(service), catalog, key, _folder: folder }
    }

    pub(super) fn claims(&self, subject: &str) -> Claims {
        Claims {
            id: format!("token of {subject}").replace(' ', "-").into(),
            subject: subject.into(),
            tenant: "school".into(),
            audience: token::DEFAULT_AUDIENCE.into(),
            grids: None,
            rights: "read,write".parse().unwrap(),
            issued_at: now(),
            expires: now() + 3600,
            budgets: token::Budgets::default(),
        }
    }

    pub(super) fn token(&self, subject: &str) -> String {
        token::sign(&self.key, &self.claims(subject))
    }
}

pub(super) const ORIGIN: OriginHash = OriginHash([7; 16]);
pub(super) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

pub(super) fn name(number: u128) -> AssetKey {
    AssetKey {
        grid: GridId::new("grid.example"),
        kind: AssetKind::Texture,
        id: AssetId(Uuid::from_u128(number)),
    }
}

pub(super) fn read_call(number: u128) -> Call {
    Call::Read { key: name(number), origin: Some(ORIGIN), range: None, head_only: false }
}

/// A texture that a grid would deliver.
pub(super) fn body() -> Bytes {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/assets");
    let mut found = std::fs::read_dir(fixtures).unwrap().flatten().map(|entry| entry.path());
    found
        .find_map(|path| {
            let bytes = std::fs::read(path).ok()?;
            let valid = crate::asset::validate::validate(AssetKind::Texture, &bytes).ok()?;
            (valid.exact_end && valid.is_shareable()).then(|| Bytes::from(bytes))
        })
        .expect("a texture among the fixtures")
}

pub(super) fn attest_call(subject: &str, number: u128, bytes: &[u8]) -> Call {
    let (key, digest) = (name(number), Digest::of(bytes));
    let proof = proof(&proof_key(subject, &key, digest), bytes);
    Call::Attest { key, origin: Some(ORIGIN), digest, proof }
}

#[tokio::test]
async fn with_the_catalog_away_reads_go_on_and_writes_wait() {
    let world = World::new(NodeConfig::default()).await;
    let (service, token) = (&world.service, world.token("pupil"));
    let caller = service.authenticate(Some(&token), HERE, true).await.unwrap();
    let bytes = body();
    let put = Call::Put {
        key: name(1),
        origin: Some(ORIGIN),
        digest: Digest::of(&bytes),
        codec: Codec::Raw,
        length: bytes.len() as u64,
    };
    let mut body = service.admit_body(&caller, &put).await.unwrap();
    body.push(&bytes).await.unwrap();
    let answer = service.put(&caller, &put, body).await;
    assert_eq!(answer.reply, Reply::Upload(Verdict::Published));
    assert!(matches!(service.perform(&caller, &read_call(1)).await.reply, Reply::Found(_)));

    let banned = world.token("banned");
    let suspect = service.authenticate(Some(&banned), HERE, true).await.unwrap();
    world.catalog.revoke(RevokedKind::Subject, "banned".into(), now()).await.unwrap();
    service.poll_revocations().await;
    world.catalog.away.store(true, Ordering::Relaxed);
    service.poll_revocations().await;

    // Known and new holders alike, with the list of revocations as it was.
    assert!(service.recognise(&caller, HERE).is_ok());
    let newcomer = service.authenticate(Some(&world.token("newcomer")), HERE, true).await.unwrap();
    let refused = service.authenticate(Some(&banned), HERE, true).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert!(service.recognise(&suspect, HERE).is_err());
    for caller in [&caller, &newcomer] {
        let Reply::Found(found) = service.perform(caller, &read_call(1)).await.reply else { panic!("a hit") };
        assert_eq!(found.digest, Digest::of(&bytes));
        // Whatever nobody has read here before is not known.
        let unknown = service.perform(caller, &read_call(2)).await.reply;
        assert!(matches!(unknown, Reply::Busy { .. }), "{unknown:?}");
    }
    let waits = service.perform(&newcomer, &attest_call("newcomer", 3, &bytes)).await.reply;
    assert!(matches!(waits, Reply::Busy { .. }), "{waits:?}");
    let mut body = service.admit_body(&newcomer, &put).await.unwrap();
    body.push(&bytes).await.unwrap();
    let waits = service.put(&newcomer, &put, body).await.reply;
    assert!(matches!(waits, Reply::Busy { .. }), "{waits:?}");

    world.catalog.away.store(false, Ordering::Relaxed);
    let again = service.perform(&newcomer, &attest_call("newcomer", 1, &bytes)).await.reply;
    assert!(matches!(again, Reply::Upload(Verdict::Waiting { .. } | Verdict::Known)), "{again:?}");
}

fn put_call(number: u128, bytes: &Bytes) -> Call {
    Call::Put {
        key: name(number),
        origin: Some(ORIGIN),
        digest: Digest::of(bytes),
        codec: Codec::Raw,
        length: bytes.len() as u64,
    }
}

#[tokio::test]
async fn what_is_revoked_while_a_body_comes_publishes_nothing() {
    let world = World::new(NodeConfig::default()).await;
    let (service, bytes) = (&world.service, body());
    let caller = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    let put = put_call(1, &bytes);
    let mut receiving = service.admit_body(&caller, &put).await.unwrap();
    receiving.push(&bytes).await.unwrap();
    world.catalog.revoke(RevokedKind::Subject, "pupil".into(), now()).await.unwrap();
    service.poll_revocations().await;
    let refused = service.put(&caller, &put, receiving).await.reply;
    assert!(matches!(refused, Reply::Refused { status: 401, .. }), "{refused:?}");
    let other = service.authenticate(Some(&world.token("other")), HERE, true).await.unwrap();
    assert_eq!(service.perform(&other, &read_call(1)).await.reply, Reply::Absent);
}

#[tokio::test]
async fn whoever_is_not_served_an_asset_learns_nothing_of_it_by_attesting() {
    let world = World::new(NodeConfig::default()).await;
    let (service, bytes) = (&world.service, body());
    let pupil = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    let put = put_call(1, &bytes);
    let mut receiving = service.admit_body(&pupil, &put).await.unwrap();
    receiving.push(&bytes).await.unwrap();
    assert_eq!(service.put(&pupil, &put, receiving).await.reply, Reply::Upload(Verdict::Published));

    // Who has only heard of the digest makes up the proof.
    let heard = |number| Call::Attest {
        key: name(number),
        origin: Some(ORIGIN),
        digest: Digest::of(&bytes),
        proof: [9; 32],
    };
    let stranger = Claims { tenant: "elsewhere".into(), ..world.claims("stranger") };
    let stranger = token::sign(&world.key, &stranger);
    let stranger = service.authenticate(Some(&stranger), HERE, true).await.unwrap();
    let of_nothing = service.perform(&stranger, &heard(2)).await.reply;
    assert_eq!(of_nothing, Reply::Upload(Verdict::Waiting { want_body: false }));
    assert_eq!(service.perform(&stranger, &heard(1)).await.reply, of_nothing);
    let told = service.perform(&pupil, &heard(1)).await.reply;
    assert!(matches!(told, Reply::Refused { status: 422, .. }), "{told:?}");
}

#[tokio::test]
async fn only_what_is_shown_is_no_guess_and_nobody_guesses_while_the_catalog_is_away() {
    let world = World::new(NodeConfig::default()).await;
    let (service, bytes) = (&world.service, body());
    let caller = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    let misses = || caller.account.as_ref().unwrap().misses();
    assert_eq!(service.perform(&caller, &read_call(1)).await.reply, Reply::Absent);
    assert_eq!(misses(), 1);
    service.perform(&caller, &read_call(2)).await;
    service.perform(&caller, &attest_call("pupil", 2, b"garbage")).await;
    assert_eq!(misses(), 2, "nobody can check that");
    let put = put_call(1, &bytes);
    let mut receiving = service.admit_body(&caller, &put).await.unwrap();
    receiving.push(&bytes).await.unwrap();
    service.put(&caller, &put, receiving).await;
    assert_eq!(misses(), 1);

    assert!(matches!(service.perform(&caller, &read_call(1)).await.reply, Reply::Found(_)));
    let lookup = |number: u128| Call::Lookup {
        grid: name(1).grid,
        origin: Some(ORIGIN),
        assets: [1, number].map(|number| (name(number).kind, name(number).id)).into(),
    };
    world.catalog.away.store(true, Ordering::Relaxed);
    let Reply::Sizes(sizes) = service.perform(&caller, &lookup(7)).await.reply else { panic!("sizes") };
    assert!(sizes[0].is_some() && sizes[1].is_none());
    assert_eq!(misses(), 1, "nobody knows whether it is known");
    world.catalog.away.store(false, Ordering::Relaxed);
    service.perform(&caller, &lookup(8)).await;
    assert_eq!(misses(), 2);
}

#[tokio::test]
async fn a_token_over_plain_http_is_refused() {
    let world = World::new(NodeConfig::default()).await;
    let token = world.token("pupil");
    let refused = world.service.authenticate(Some(&token), HERE, false).await.unwrap_err();
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.reason.contains("plain http"));
    assert!(world.service.authenticate(Some(&token), HERE, true).await.is_ok());
}

#[tokio::test]
async fn an_address_that_tries_and_tries_must_wait() {
    let world =
        World::new(NodeConfig { abuse_contact: Some("me@example".into()), ..NodeConfig::default() }).await;
    let service = &world.service;
    let known = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    let mut last = StatusCode::OK;
    for number in 0..1000 {
        let tried = service.authenticate(Some(&format!("a.b.{number}")), HERE, true).await;
        last = tried.unwrap_err().status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    let waits = service.authenticate(Some(&world.token("another")), HERE, true).await.unwrap_err();
    assert!(waits.status == StatusCode::TOO_MANY_REQUESTS && waits.retry_after_s > 0);
    // Who is known already is not harmed, and neither is anybody elsewhere.
    assert!(service.authenticate(Some(&world.token("pupil")), HERE, true).await.is_ok());
    assert!(service.recognise(&known, HERE).is_ok());
    let elsewhere: IpAddr = "203.0.113.8".parse().unwrap();
    assert!(service.authenticate(Some(&world.token("else")), elsewhere, true).await.is_ok());

    // A customer of IPv6 is a /64.
    for number in 0..1000 {
        let from = format!("2001:db8::{number:x}").parse().unwrap();
        let _ = service.authenticate(Some("a.b.c"), from, true).await;
    }
    let neighbour = service.authenticate(Some("a.b.c"), "2001:db8::ffff".parse().unwrap(), true).await;
    assert_eq!(neighbour.unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
    let other = service.authenticate(Some("a.b.c"), "2001:db8:0:1::1".parse().unwrap(), true).await;
    assert_eq!(other.unwrap_err().status, StatusCode::UNAUTHORIZED);

    // Behind a private address there may be everybody, each with a token that this node has not seen yet.
    let balancer: IpAddr = "10.0.0.9".parse().unwrap();
    for number in 0..1500 {
        let _ = service.authenticate(Some(&format!("a.b.{number}")), balancer, true).await;
    }
    assert!(service.authenticate(Some(&world.token("behind")), balancer, true).await.is_ok());

    let connections = (0..5000).filter(|_| service.admits_connection(HERE)).count();
    assert!((1000..2000).contains(&connections), "{connections}");
    assert!(service.admits_connection(elsewhere));
}

#[tokio::test]
async fn without_a_contact_only_private_addresses_are_served() {
    let world = World::new(NodeConfig::default()).await;
    for (from, served) in [
        ("127.0.0.1", true),
        ("192.168.1.5", true),
        ("fd00::1", true),
        ("203.0.113.7", false),
        ("2001:db8::1", false),
        ("::ffff:203.0.113.7", false),
    ] {
        assert_eq!(world.service.admits_connection(from.parse().unwrap()), served, "{from}");
    }
}

#[tokio::test]
async fn after_a_month_the_catalog_names_no_attester() {
    let world = World::new(NodeConfig::default()).await;
    let service = &world.service;
    let caller = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    let bytes = body();
    for number in 1..=300 {
        let put = Call::Put {
            key: name(number),
            origin: Some(ORIGIN),
            digest: Digest::of(&bytes),
            codec: Codec::Raw,
            length: bytes.len() as u64,
        };
        let mut body = service.admit_body(&caller, &put).await.unwrap();
        body.push(&bytes).await.unwrap();
        assert_eq!(service.put(&caller, &put, body).await.reply, Reply::Upload(Verdict::Published));
    }
    let attesters = async || {
        let rows = world.catalog.scan(None, 1000).await.unwrap();
        let read =
            |(hash, row): &(KeyHash, Row)| records::read(&service.contents.ring, hash, &row.record).unwrap();
        let said =
            |record: &Record| record.contents.iter().map(|content| content.attestations.len()).sum::<usize>();
        rows.iter().map(read).map(|record| said(&record)).sum::<usize>()
    };
    let month = crate::publication::KEPT_SECONDS;
    service.fade(now() + month - 86_400).await;
    assert_eq!(attesters().await, 300, "not yet");
    service.fade(now() + month + 86_400).await;
    assert_eq!(attesters().await, 0);
    let Reply::Found(found) = service.perform(&caller, &read_call(300)).await.reply else { panic!("a hit") };
    assert_eq!(found.digest, Digest::of(&bytes));
}

#[tokio::test]
async fn a_word_that_says_nothing_new_is_not_written_and_has_its_pace() {
    let limits = super::Limits { assets_per_hour: 100, burst: 5, ..super::Limits::default() };
    let world = World::new(NodeConfig { limits, ..NodeConfig::default() }).await;
    let service = &world.service;
    let caller = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    let call = attest_call("pupil", 1, &body());
    assert!(matches!(service.perform(&caller, &call).await.reply, Reply::Upload(Verdict::Waiting { .. })));
    let written = world.catalog.written.load(Ordering::Relaxed);
    let mut last = None;
    for _ in 0..100 {
        last = Some(service.perform(&caller, &call).await.reply);
    }
    assert_eq!(world.catalog.written.load(Ordering::Relaxed), written, "it was known");
    assert!(matches!(last, Some(Reply::Refused { status: 429, .. })), "{last:?}");
    let another = service.authenticate(Some(&world.token("another")), HERE, true).await.unwrap();
    let own = attest_call("another", 1, &body());
    assert!(matches!(service.perform(&another, &own).await.reply, Reply::Upload(_)));
}

#[tokio::test]
async fn a_strangers_word_of_a_grid_that_is_not_published_is_not_kept() {
    let published = super::GridPolicy {
        id: GridId::new("published.example"),
        publish: true,
        central: false,
        asset_hosts: Vec::new(),
    };
    let world = World::new(NodeConfig { grids: vec![published], ..NodeConfig::default() }).await;
    let claims = Claims { tenant: "strangers".into(), ..world.claims("stranger") };
    let token = token::sign(&world.key, &claims);
    let caller = world.service.authenticate(Some(&token), HERE, true).await.unwrap();
    let (waits, bytes) = (Reply::Upload(Verdict::Waiting { want_body: false }), body());
    assert_eq!(world.service.perform(&caller, &attest_call("stranger", 1, &bytes)).await.reply, waits);
    let (origin, digest) = (Some(ORIGIN), Digest::of(&bytes));
    let put = Call::Put { key: name(1), origin, digest, codec: Codec::Raw, length: bytes.len() as u64 };
    let mut receiving = world.service.admit_body(&caller, &put).await.unwrap();
    receiving.push(&bytes).await.unwrap();
    assert_eq!(world.service.put(&caller, &put, receiving).await.reply, waits);
    assert_eq!(world.catalog.scan(None, 10).await.unwrap(), []);
    // Of one that is, it counts.
    let key = AssetKey { grid: GridId::new("published.example"), ..name(1) };
    let proof = proof(&proof_key("stranger", &key, digest), &bytes);
    world.service.perform(&caller, &Call::Attest { key, origin, digest, proof }).await;
    assert_eq!(world.catalog.scan(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_nobody_ever_brought_is_forgotten_and_so_are_past_leases() {
    let world = World::new(NodeConfig::default()).await;
    let service = &world.service;
    let caller = service.authenticate(Some(&world.token("pupil")), HERE, true).await.unwrap();
    for number in 1..=3 {
        service.perform(&caller, &attest_call("pupil", number, &body())).await;
    }
    // The first is brought, the second taken down.
    let (bytes, month) = (body(), 30 * 86_400);
    let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
    let put = Call::Put { key: name(1), origin: Some(ORIGIN), digest, codec: Codec::Raw, length };
    let mut receiving = service.admit_body(&caller, &put).await.unwrap();
    receiving.push(&bytes).await.unwrap();
    service.put(&caller, &put, receiving).await;
    let (ring, hash) = (service.contents.ring.clone(), service.key_hash(&name(2)));
    let gone = Record { taken_down: true, ..Record::default() };
    let decide =
        move |_: Option<&[u8]>| Change { record: records::write(&ring, &hash, &gone), blobs: vec![] };
    world.catalog.inner.update(hash, 1, Box::new(decide)).await.unwrap();

    let count = async || world.catalog.scan(None, 10).await.unwrap().len();
    service.fade(now() + month - 86_400).await;
    assert_eq!(count().await, 3, "not yet");
    let then = now() + month + 2 * 86_400;
    let others = now() / 3600;
    assert_eq!(world.catalog.lease([77; 32], others, 1, 1).await.unwrap(), 1);
    assert_eq!(world.catalog.lease([78; 32], then / 3600, 1, 1).await.unwrap(), 1);
    service.fade(then).await;
    assert_eq!(count().await, 2);
    assert!(matches!(service.perform(&caller, &read_call(1)).await.reply, Reply::Found(_)));
    assert_eq!(world.catalog.forget_leases(others..others + 1).await.unwrap(), 0, "it is gone already");
    assert_eq!(world.catalog.lease([78; 32], then / 3600, 1, 1).await.unwrap(), 0, "the present one is not");
}
