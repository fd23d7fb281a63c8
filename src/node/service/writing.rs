//! Words and bodies that come in: attestations, their proofs, uploads, and the one transaction that a
//! record changes in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::{Answer, Service, day, now};
use crate::asset::validate::{self, Valid};
use crate::asset::{AssetKey, AssetKind, Digest};
use crate::catalog::{Change, KeyHash};
use crate::grid::GridId;
use crate::node::bounded::{Ahead, Pace};
use crate::node::caller::Caller;
use crate::node::contents::{Content, Source};
use crate::node::counters::Count;
use crate::node::refusal::Refusal;
use crate::node::uploads::{Received, Receiving};
use crate::publication::{self, Policy, Record, Verdict};
use crate::store::{records, sealed};
use crate::wire::frame::{self, Call, Codec, Reply};
use crate::wire::{self, OriginHash};

/// How long one waits for that.
const PROOF_PATIENCE: Duration = Duration::from_secs(5);
/// Attestations and bodies that may come for each asset of a budget: a word, a body, and another try of both.
const WRITES_PER_ASSET: u64 = 4;
/// How often an attestation is tried that the body overtakes.
const ATTEST_TRIES: usize = 3;

impl Service {
    pub(super) async fn attest(
        &self,
        caller: &Caller,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        proof: [u8; 32],
    ) -> Result<Answer, Refusal> {
        caller.may_write(&key.grid)?;
        self.counters.count(Count::Attestations);
        let hash = self.key_hash(key);
        self.pace_write(caller)?;
        self.ask(caller, &[hash])?;
        if !self.is_heard(caller, &key.grid) {
            // A stranger's word of a grid that is not published: it must fill no catalog.
            self.attested(caller, &hash);
            return self.answer_verdict(Verdict::Waiting { want_body: false });
        }
        for _ in 0..ATTEST_TRIES {
            let known = self.attest_as_known(caller, key, &hash, origin, digest, proof).await?;
            if let Some((verdict, proven)) = known {
                // Anybody can attest what nobody can check.
                if proven {
                    self.attested(caller, &hash);
                }
                return self.answer_verdict(verdict);
            }
        }
        Err(Refusal::unavailable())
    }

    /// Takes an attestation by what is known of the asset here. `None` when by now the body is there, so
    /// that the proof can be checked: a proof that is put down unchecked then would stay so. With the verdict,
    /// whether possession is proven.
    async fn attest_as_known(
        &self,
        caller: &Caller,
        key: &AssetKey,
        hash: &KeyHash,
        origin: Option<OriginHash>,
        digest: Digest,
        proof: [u8; 32],
    ) -> Result<Option<(Verdict, bool)>, Refusal> {
        let proof_key = wire::proof_key(&caller.who.principal, key, digest);
        if self.is_buried(digest).await? {
            return Ok(Some((Verdict::TakenDown, false)));
        }
        let records = self.records(&[*hash]).await?;
        let mut contents = records.iter().flatten().flat_map(|record| &record.contents);
        let stored = contents.find(|content| content.digest == digest && content.stored);
        let mut attestation = self.attestation(caller, key, hash, origin);
        let source = match stored {
            Some(content) => self.contents.get(digest, content.size).await?,
            None => None,
        };
        // The blob is gone or damaged: it is wanted again.
        let lost = stored.is_some() && source.is_none();
        let expected = match source {
            Some(source) => Some(self.proof_of(source, proof_key).await?),
            None => None,
        };
        match expected {
            Some(expected) if expected != proof => {
                let policy = self.policy(&key.grid);
                let reader = self.reader(caller, hash, origin);
                let mut answers = records
                    .iter()
                    .flatten()
                    .filter_map(|record| publication::answer(record, reader, policy, now()));
                if caller.may_read().is_ok() && answers.any(|served| served.digest == digest) {
                    return Err(no_proof());
                }
                // Whoever is not served this must not learn that somebody has brought it.
                let trusted = attestation.trusted || attestation.vouch;
                let want_body = publication::wants_first_body(trusted, policy);
                return Ok(Some((Verdict::Waiting { want_body }, false)));
            }
            Some(_) => {}
            None => attestation.unproven = Some((proof_key, proof)),
        }
        let proven = attestation.unproven.is_none();
        let arrived = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&arrived);
        let verdict = self.change(key, *hash, move |record, policy, now| {
            if lost {
                publication::body_lost(record, digest);
            }
            let there = record.contents.iter().any(|content| content.digest == digest && content.stored);
            let checked = attestation.unproven.is_none() || !there;
            told.store(!checked, Ordering::Relaxed);
            if !checked {
                return Verdict::Known;
            }
            publication::attest(record, digest, attestation.clone(), policy, now)
        });
        let verdict = verdict.await?;
        Ok((!arrived.load(Ordering::Relaxed)).then_some((verdict, proven)))
    }

    /// What shows possession of a content that is here. Of few at once: a large one is read and hashed whole.
    async fn proof_of(&self, source: Source, key: [u8; 32]) -> Result<[u8; 32], Refusal> {
        let turn = tokio::time::timeout(PROOF_PATIENCE, self.proving.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "too many proofs are checked", 2));
        };
        match source {
            Source::Small(content) => {
                let hashing = tokio::task::spawn_blocking(move || wire::proof(&key, &content.bytes));
                hashing.await.map_err(|_| Refusal::unavailable())
            }
            Source::Large(large) => Ok(large.proof(&key).await?),
        }
    }

    /// Lets a caller write at the pace of its budget, what it was counted for before too: each word takes a
    /// transaction, and may take the hashing of a whole content.
    fn pace_write(&self, caller: &Caller) -> Result<(), Refusal> {
        if caller.account.is_none() {
            return Ok(());
        }
        let limits = &caller.who.limits;
        let (number, burst) = (limits.assets_per_hour, limits.burst);
        let pace =
            Pace::new(number.saturating_mul(WRITES_PER_ASSET), 3600, burst.saturating_mul(WRITES_PER_ASSET));
        let clock = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = writers.get_or_insert_with(Arc::clone(&caller.who.principal), Ahead::default);
        let taken = ahead.map_or(Ok(()), |ahead| pace.take(ahead, 1, clock));
        taken.map_err(|wait| {
            self.counters.count(Count::OverBudget);
            Refusal::later(StatusCode::TOO_MANY_REQUESTS, "too many attestations and bodies", wait.max(1))
        })
    }

    /// Whether what a caller says of a grid is ever of use to anybody here.
    fn is_heard(&self, caller: &Caller, grid: &GridId) -> bool {
        caller.who.trusted || caller.who.rights.vouch || self.policy(grid).publish
    }

    /// Whether a body may come, before any of it is read.
    pub(in crate::node) async fn admit_body(
        &self,
        caller: &Caller,
        call: &Call,
    ) -> Result<Receiving, Refusal> {
        let Call::Put { key, length, codec, .. } = call else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "no body is expected"));
        };
        caller.may_write(&key.grid)?;
        if *length > key.kind.max_bytes() {
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "larger than any asset of this kind"));
        }
        self.pace_write(caller)?;
        self.ask(caller, &[self.key_hash(key)])?;
        self.transfer(caller, *length)?;
        let who = caller.key();
        self.uploads.begin(who, key.kind, *codec, *length).await
    }

    /// Takes a body that has come.
    pub(in crate::node) async fn put(&self, caller: &Caller, call: &Call, body: Receiving) -> Answer {
        let answered = match call {
            Call::Put { key, origin, digest, codec, .. } => match body.finish().await.and_then(|body| {
                // A body may take long, and its bringer's token be revoked meanwhile.
                self.access.still_holds(caller, now())?;
                Ok(body)
            }) {
                Ok(body) => self.take(caller, key, *origin, *digest, *codec, body).await,
                Err(refusal) => Err(refusal),
            },
            _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "no body is expected")),
        };
        answered.unwrap_or_else(|refusal| {
            self.counters.count(Count::Refused);
            refusal.into()
        })
    }

    /// A body that came too slowly, or not whole.
    pub(in crate::node) fn given_up(&self) -> Refusal {
        self.counters.count(Count::UploadsSlow);
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly or not whole")
    }

    async fn take(
        &self,
        caller: &Caller,
        key: &AssetKey,
        origin: Option<OriginHash>,
        digest: Digest,
        codec: Codec,
        received: Received,
    ) -> Result<Answer, Refusal> {
        let body = received.bytes.clone();
        self.counters.count(Count::Bodies);
        self.counters.add(Count::BytesIn, body.len() as u64);
        if !self.is_heard(caller, &key.grid) {
            return self.answer_verdict(Verdict::Waiting { want_body: false });
        }
        let kind = key.kind;
        let checked = tokio::task::spawn_blocking(move || unpacked(kind, digest, codec, body)).await;
        let (bytes, hashed) = checked.map_err(|_| Refusal::unavailable())??;
        let hash = self.key_hash(key);
        if self.is_buried(digest).await? {
            return self.answer_verdict(Verdict::TakenDown);
        }
        // The body shows possession better than any proof.
        let attestation = self.attestation(caller, key, &hash, origin);
        let verdict = self
            .change(key, hash, move |record, policy, now| {
                publication::attest(record, digest, attestation.clone(), policy, now)
            })
            .await?;
        self.attested(caller, &hash);
        if verdict != (Verdict::Waiting { want_body: true }) {
            return self.answer_verdict(verdict);
        }
        if let Some(account) = &caller.account {
            let stored = self.budgets.stored(account, &caller.who.limits, bytes.len() as u64, now());
            stored.inspect_err(|_| self.counters.count(Count::OverBudget))?;
        }
        // The blob first: a record must never name what is not there.
        let name = self.contents.ring.blob_name(digest);
        let (ring, plain) = (self.contents.ring.clone(), bytes.clone());
        let try_lz4 = matches!(kind, AssetKind::Animation | AssetKind::Material);
        let sealed = tokio::task::spawn_blocking(move || {
            sealed::seal(&ring, &name, &hashed, &plain, try_lz4, rand::random())
        });
        let sealed = sealed.await.map_err(|_| Refusal::unavailable())?.map_err(|_| Refusal::unavailable())?;
        self.contents.blobs.put(&name, sealed).await.map_err(|error| {
            tracing::warn!(%error, "a blob cannot be stored");
            Refusal::unavailable()
        })?;
        let content = Arc::new(Content::new(bytes));
        let proofs = self.proofs(&hash, digest, &content).await?;
        let plain = Arc::clone(&content);
        let verdict = self
            .change(key, hash, move |record, policy, now| {
                // One that came since is seldom, and hashed while the catalog waits.
                let is_proof = |key: &[u8; 32], proof: &[u8; 32]| {
                    let known = proofs.get(key).copied();
                    known.unwrap_or_else(|| wire::proof(key, &plain.bytes)) == *proof
                };
                let size = plain.bytes.len() as u64;
                publication::body_arrived(record, digest, size, is_proof, policy, now)
            })
            .await?;
        if self.undo_if_taken_down(hash, digest, verdict == Verdict::TakenDown).await? {
            return self.answer_verdict(Verdict::TakenDown);
        }
        self.contents.keep(digest, content);
        self.answer_verdict(verdict)
    }

    /// What those must have shown who attested a content before it was here, by their keys. A large content
    /// takes a while to hash for each, which no transaction should wait for.
    async fn proofs(
        &self,
        hash: &KeyHash,
        digest: Digest,
        content: &Arc<Content>,
    ) -> Result<HashMap<[u8; 32], [u8; 32]>, Refusal> {
        let rows = self.catalog.read(vec![*hash]).await.map_err(|error| self.catalog_fails(&error))?;
        let record = rows.into_iter().flatten().next().and_then(|row| self.opened(hash, &row.record));
        let contents = record.into_iter().flat_map(|record| record.contents);
        let attestations =
            contents.filter(|content| content.digest == digest).flat_map(|content| content.attestations);
        let keys: Vec<[u8; 32]> =
            attestations.filter_map(|attestation| Some(attestation.unproven?.0)).collect();
        let content = Arc::clone(content);
        let hashing = move || keys.iter().map(|key| (*key, wire::proof(key, &content.bytes))).collect();
        tokio::task::spawn_blocking(hashing).await.map_err(|_| Refusal::unavailable())
    }

    fn answer_verdict(&self, verdict: Verdict) -> Result<Answer, Refusal> {
        let verdict = match verdict {
            Verdict::Published => {
                self.counters.count(Count::Publications);
                frame::Verdict::Published
            }
            Verdict::Waiting { want_body } => frame::Verdict::Waiting { want_body },
            Verdict::Known => frame::Verdict::Known,
            Verdict::Conflict => {
                self.counters.count(Count::Conflicts);
                frame::Verdict::Conflict
            }
            Verdict::TakenDown => {
                return Err(Refusal::new(StatusCode::FORBIDDEN, "this asset was taken down"));
            }
            Verdict::NoProof => return Err(no_proof()),
        };
        Ok(Reply::Upload(verdict).into())
    }

    /// Changes the record of an asset in one transaction.
    async fn change(
        &self,
        key: &AssetKey,
        hash: KeyHash,
        mut rule: impl FnMut(&mut Record, Policy, u64) -> Verdict + Send + 'static,
    ) -> Result<Verdict, Refusal> {
        let (policy, now, ring) = (self.policy(&key.grid), now(), self.contents.ring.clone());
        let verdict = Arc::new(Mutex::new(None));
        let disputed = Arc::new(AtomicBool::new(false));
        let (told, turned) = (Arc::clone(&verdict), Arc::clone(&disputed));
        let decide = Box::new(move |old: Option<&[u8]>| {
            let mut record = match old.map(|old| records::read(&ring, &hash, old)) {
                // What somebody with the right keys has written must not be lost.
                Some(Err(_)) => return Change::default(),
                Some(Ok(record)) => record,
                None => Record::default(),
            };
            let before = record.clone();
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(rule(&mut record, policy, now));
            if record == before {
                return Change::default();
            }
            let is_disputed = |record| publication::is_disputed(record, policy, now);
            turned.store(is_disputed(&record) && !is_disputed(&before), Ordering::Relaxed);
            let stored = record.contents.iter().filter(|content| content.stored);
            let blobs = stored.map(|content| ring.blob_name(content.digest).0).collect();
            Change { record: records::write(&ring, &hash, &record), blobs }
        });
        self.catalog.update(hash, day(now), decide).await.map_err(|error| self.catalog_fails(&error))?;
        let before = self.contents.hot.forget(&hash);
        if disputed.load(Ordering::Relaxed) {
            self.counters.count(Count::Disputed);
        }
        let verdict = *verdict.lock().unwrap_or_else(PoisonError::into_inner);
        if verdict == Some(Verdict::TakenDown) {
            let taken_down = Record { taken_down: true, ..Record::default() };
            self.follow_take_down(before, Some(&taken_down)).await;
        }
        verdict.ok_or_else(|| {
            self.counters.count(Count::RecordsUnreadable);
            Refusal::unavailable()
        })
    }
}

fn no_proof() -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "the proof does not show possession")
}

/// Unpacks a body and holds it to everything a published asset must be.
fn unpacked(
    kind: AssetKind,
    digest: Digest,
    codec: Codec,
    body: Bytes,
) -> Result<(Bytes, sealed::Hashed), Refusal> {
    let wrong = |what| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    let bytes = match codec {
        Codec::Raw => body,
        Codec::Lz4 => {
            use std::io::Read as _;
            let limit = kind.max_bytes() + 1;
            let mut plain = Vec::new();
            lz4_flex::frame::FrameDecoder::new(&body[..])
                .take(limit)
                .read_to_end(&mut plain)
                .map_err(|_| wrong("the body is no LZ4 frame"))?;
            Bytes::from(plain)
        }
    };
    if bytes.len() as u64 > kind.max_bytes() {
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "larger than any asset of this kind"));
    }
    // Once for both: the digest here, and the groups for sealing.
    let hashed = sealed::Hashed::of(&bytes);
    if hashed.digest != digest {
        return Err(wrong("the body does not have this digest"));
    }
    match validate::validate(kind, &bytes) {
        Ok(valid @ Valid { exact_end: true, .. }) if valid.is_shareable() => Ok((bytes, hashed)),
        Ok(_) => Err(wrong("the body is not one that can be shared")),
        Err(_) => Err(wrong("the body is no valid asset of this kind")),
    }
}
