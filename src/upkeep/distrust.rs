//! Voids what a liar has said: its attestations go, and with them what only they published.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::{Progress, ROWS, Stores, UpkeepError, day};
use crate::catalog::{Change, KeyHash};
use crate::grid::{GridId, Origin};
use crate::publication::{self, Attestation, Policy};
use crate::store::records;
use crate::store::tags::{self, Purpose};
use crate::wire::OriginHash;

/// Whose word is void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liar {
    /// A principal, by its pseudonym.
    Principal(String),
    /// Everything that came through a host of a grid.
    Origin(GridId, Origin),
    /// All principals of a tenant.
    Tenant(String),
}

impl Liar {
    /// What kind of name it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Principal(_) => "principal",
            Self::Origin(..) => "origin",
            Self::Tenant(_) => "tenant",
        }
    }

    /// What hashes and records call it.
    fn name(&self) -> Vec<u8> {
        match self {
            Self::Principal(name) | Self::Tenant(name) => name.as_bytes().to_vec(),
            Self::Origin(grid, origin) => OriginHash::of(grid, origin).0.to_vec(),
        }
    }

    fn said(
        &self,
        ring: &crate::store::keys::KeyRing,
        hash: &KeyHash,
    ) -> impl Fn(&Attestation) -> bool + use<> {
        let purpose = match self {
            Self::Principal(_) => Purpose::Attester,
            Self::Origin(..) => Purpose::Origin,
            Self::Tenant(_) => Purpose::Tenant,
        };
        let tag = tags::tag(ring, purpose, hash, &self.name());
        move |attestation| match purpose {
            Purpose::Attester | Purpose::Network => attestation.attester == tag,
            Purpose::Tenant => attestation.tenant == tag,
            Purpose::Origin => attestation.origin == Some(tag),
        }
    }
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Distrusted {
    /// Records that were read.
    pub records: u64,
    /// Records that held its word.
    pub touched: u64,
    /// Attestations that are void.
    pub attestations: u64,
    /// Contents that are served to fewer readers than before, or to none.
    pub reduced: u64,
    /// Of those, contents that nobody is served any more.
    pub unpublished: u64,
    /// Nothing was changed.
    pub dry_run: bool,
}

impl Stores {
    /// Voids attestations made at `since` or later. Records do not say which grid they are of: what is
    /// unpublished is counted as `policy` says for one that is published.
    ///
    /// # Errors
    /// When the catalog fails; what was done until then stays done, and doing it again does the rest.
    pub async fn distrust(
        &self,
        liar: &Liar,
        since: u64,
        dry_run: bool,
        policy: Policy,
        now: u64,
        progress: Progress<'_>,
    ) -> Result<Distrusted, UpkeepError> {
        let mut total = Distrusted { dry_run, ..Distrusted::default() };
        let mut after = None;
        loop {
            let rows = self.rows(after).await?;
            for (hash, row) in &rows {
                total.records += 1;
                let strike = Strike {
                    ring: self.ring.clone(),
                    hash: *hash,
                    said: Arc::new({
                        let said = liar.said(&self.ring, hash);
                        move |attestation: &Attestation| attestation.at >= since && said(attestation)
                    }),
                    policy,
                    now,
                };
                let Some((_, found)) = strike.apply(&row.record) else { continue };
                let counted = if dry_run { Some(found) } else { self.strike(strike).await? };
                if let Some(counted) = counted {
                    total.touched += 1;
                    total.attestations += counted.attestations;
                    total.reduced += counted.reduced;
                    total.unpublished += counted.unpublished;
                }
            }
            progress(total.records, 0);
            match rows.last() {
                Some((hash, _)) if rows.len() >= ROWS as usize => after = Some(*hash),
                _ => break,
            }
        }
        if !dry_run {
            // Who it was can be checked by whoever knows the name, and read by nobody.
            let hash = self.ring.keyed_hash("audit", &[&liar.name()]);
            let id: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            let detail = format!(
                "{} {id}: {} attestations of {} assets since {since}, {} unpublished",
                liar.kind(),
                total.attestations,
                total.touched,
                total.unpublished,
            );
            self.catalog.audit(now, "distrust".into(), detail).await?;
        }
        Ok(total)
    }

    async fn strike(&self, strike: Strike) -> Result<Option<Counted>, UpkeepError> {
        let counted = Arc::new(Mutex::new(None));
        let (told, hash, now) = (Arc::clone(&counted), strike.hash, strike.now);
        let decide = Box::new(move |old: Option<&[u8]>| {
            let Some((change, found)) = old.and_then(|old| strike.apply(old)) else {
                return Change::default();
            };
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            change
        });
        self.catalog.update(hash, day(now), decide).await?;
        Ok(*counted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy, Default)]
struct Counted {
    attestations: u64,
    reduced: u64,
    unpublished: u64,
}

struct Strike {
    ring: crate::store::keys::KeyRing,
    hash: KeyHash,
    said: Arc<dyn Fn(&Attestation) -> bool + Send + Sync>,
    policy: Policy,
    now: u64,
}

impl Strike {
    /// The record without the liar's word, and what that changes; `None` when it is not in there.
    fn apply(&self, old: &[u8]) -> Option<(Change, Counted)> {
        let mut record = records::read(&self.ring, &self.hash, old).ok()?;
        let before = record.clone();
        if !publication::distrust(&mut record, &*self.said) {
            return None;
        }
        let said = before.contents.iter().flat_map(|content| &content.attestations);
        let mut counted = Counted {
            attestations: said.filter(|attestation| (self.said)(attestation)).count() as u64,
            ..Counted::default()
        };
        for content in &before.contents {
            let reach = |record| publication::reach_of(record, content.digest, self.policy, self.now);
            let (then, next) = (reach(&before), reach(&record));
            let fewer =
                (then.grid && !next.grid) || next.origins < then.origins || next.tenants < then.tenants;
            counted.reduced += u64::from(fewer);
            counted.unpublished += u64::from(then.any() && !next.any());
        }
        let stored = record.contents.iter().filter(|content| content.stored);
        let blobs = stored.map(|content| self.ring.blob_name(content.digest).0).collect();
        let change = Change { record: records::write(&self.ring, &self.hash, &record), blobs };
        Some((change, counted))
    }
}
