//! What is known of one asset: how much was said and what follows from it, never by whom.

use serde::Serialize;

use super::{Stores, UpkeepError};
use crate::asset::AssetKey;
use crate::publication::{self, Policy, Record};
use crate::store::keys::BlobName;
use crate::store::{records, sealed, tags};
use crate::wire::DigestText;

/// What is known of an asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// Something is known of it.
    pub known: bool,
    /// It was taken down.
    pub taken_down: bool,
    /// The record cannot be read, and why.
    pub unreadable: Option<String>,
    /// Somebody is served it.
    pub published: bool,
    /// Why it is served, or not, in a sentence.
    pub why: String,
    /// Attestations that contradicted, since the last that agreed.
    pub conflicts: u32,
    /// Days from 1970 to its last use.
    pub last_use_day: Option<u32>,
    /// What it was said to be.
    pub contents: Vec<ContentStat>,
}

/// What is known of one content of an asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContentStat {
    /// What it is.
    pub digest: String,
    /// Its bytes.
    pub size: u64,
    /// What the store calls it.
    pub blob: String,
    /// Its body was taken.
    pub stored: bool,
    /// The key that its blob is sealed with; none when there is no blob.
    pub key: Option<u32>,
    /// Distinct principals; those that have shrunk to a count too.
    pub attesters: usize,
    /// Distinct networks.
    pub networks: usize,
    /// Distinct origins.
    pub origins: usize,
    /// Distinct tenants.
    pub tenants: usize,
    /// Principals that count, from distinct networks.
    pub counting: usize,
    /// Somebody who may publish alone has vouched for it.
    pub vouched: bool,
    /// Everybody on the grid is served it.
    pub for_grid: bool,
    /// Visitors of so many origins are.
    pub for_origins: usize,
    /// Members of so many trusted tenants are.
    pub for_tenants: usize,
    /// Seconds since 1970: the first attestation, and the last.
    pub attested: Option<(u64, u64)>,
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<std::collections::BTreeSet<_>>().len()
}

impl Stores {
    /// What is known of an asset, on a grid with this policy.
    ///
    /// # Errors
    /// When a store fails.
    pub async fn stat(&self, key: &AssetKey, policy: Policy, now: u64) -> Result<Stat, UpkeepError> {
        let hash = tags::asset(&self.ring, key);
        let row = self.catalog.read(vec![hash]).await?.into_iter().next().flatten();
        let mut stat = Stat {
            known: row.is_some(),
            taken_down: false,
            unreadable: None,
            published: false,
            why: "nobody has attested it".into(),
            conflicts: 0,
            last_use_day: row.as_ref().map(|row| row.last_use_day),
            contents: Vec::new(),
        };
        let Some(row) = row else { return Ok(stat) };
        let record = match records::read(&self.ring, &hash, &row.record) {
            Ok(record) => record,
            Err(error) => {
                stat.why = error.to_string();
                stat.unreadable = Some(error.to_string());
                return Ok(stat);
            }
        };
        for content in &record.contents {
            let blob = self.ring.blob_name(content.digest);
            let key = match content.stored {
                true => self.key_of(&blob).await?,
                false => None,
            };
            let list = &content.attestations;
            let reach = publication::reach_of(&record, content.digest, policy, now);
            let times = || list.iter().map(|attestation| attestation.at);
            stat.contents.push(ContentStat {
                digest: DigestText(content.digest).to_string(),
                size: content.size,
                blob: blob.to_string(),
                stored: content.stored,
                key,
                attesters: distinct(list.iter().map(|attestation| attestation.attester))
                    + usize::from(content.voices),
                networks: distinct(list.iter().map(|attestation| attestation.network)),
                origins: distinct(
                    list.iter()
                        .filter_map(|attestation| attestation.origin)
                        .chain(content.counts.iter().filter_map(|count| count.origin)),
                ),
                tenants: distinct(list.iter().map(|attestation| attestation.tenant)),
                counting: publication::confirmed_by(content, now),
                vouched: list.iter().any(|attestation| attestation.vouch)
                    || content.counts.iter().any(|count| count.vouch),
                for_grid: reach.grid,
                for_origins: reach.origins,
                for_tenants: reach.tenants,
                attested: times().min().zip(times().max()),
            });
            stat.published |= reach.any();
        }
        (stat.taken_down, stat.conflicts) = (record.taken_down, record.conflicts);
        stat.why = why(&record, &stat, policy);
        Ok(stat)
    }

    async fn key_of(&self, name: &BlobName) -> Result<Option<u32>, UpkeepError> {
        let header = self.blobs.get_range(name, 0..sealed::HEADER_BYTES as u64).await?;
        Ok(header.as_deref().and_then(sealed::key_id).map(|id| id.0))
    }
}

fn why(record: &Record, stat: &Stat, policy: Policy) -> String {
    if record.taken_down {
        return "it was taken down".into();
    }
    let gone = stat.contents.iter().filter(|content| content.stored && content.key.is_none()).count();
    if gone > 0 {
        return "its blob is missing or damaged; `rezcache store verify --repair` has it brought again"
            .into();
    }
    if let Some(best) = stat.contents.iter().find(|content| content.for_grid) {
        return format!("served to everybody on the grid: {} confirm it", best.counting);
    }
    let (origins, tenants) = stat.contents.iter().fold((0, 0), |(origins, tenants), content| {
        (origins + content.for_origins, tenants + content.for_tenants)
    });
    match (origins, tenants) {
        (0, 0) => {}
        (0, tenants) => {
            return format!("served to members of the trusted tenants that attested it: {tenants}");
        }
        (origins, 0) => {
            return format!("served to visitors of the origins it was confirmed through: {origins}");
        }
        (origins, tenants) => {
            return format!(
                "served to visitors of {origins} origins and members of {tenants} trusted tenants"
            );
        }
    }
    let needed = policy.confirmations.max(1);
    let quorums = stat.contents.iter().filter(|content| content.counting >= needed).count();
    match stat.contents.iter().map(|content| content.counting).max() {
        None => "nobody has attested it".into(),
        Some(_) if stat.contents.iter().all(|content| !content.stored) => {
            "waits for its body, which is asked for when it is attested again".into()
        }
        Some(_) if !policy.publish => {
            "the grid is not in the operator's list of grids to publish, and no trusted tenant attested it"
                .into()
        }
        Some(_) if quorums >= 2 => {
            "disputed: several contents are confirmed; `rezcache store distrust` or a take-down decides"
                .into()
        }
        Some(most) if most < needed => {
            format!("waits for {} more from other networks: {most} of {needed} confirm it", needed - most)
        }
        Some(_) => "confirmed through different origins, through none of them often enough".into(),
    }
}
