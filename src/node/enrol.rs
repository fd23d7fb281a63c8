//! Residents need no operator: a proxy makes a key pair, shows that it has the private key, and signs its
//! own tokens from then on. No signing key lies on a node.
//!
//! ```text
//!  challenge   at u64 | random 16 | keyed hash of both, 32          made and checked without memory
//!  record      version 1 | public key 32 | counts_from u64          sealed as records are
//! ```

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;

use super::caller::network_of;
use super::refusal::Refusal;
use crate::catalog::{Catalog, CatalogError, KeyHash};
use crate::store::keys::KeyRing;
use crate::store::records;
use crate::token::{enrolment_message, is_weak, own_subject, verify_with};

const VERSION: u8 = 1;
/// How long a challenge is good.
const CHALLENGE_SECONDS: u64 = 300;
/// New principals of one network in a day.
const PER_NETWORK_AND_DAY: u64 = 3;
const DAY: u64 = 86_400;
/// After what time the word of a new principal counts.
const PROBATION: u64 = DAY;

/// Those who enrolled themselves.
pub(super) struct Residents {
    ring: KeyRing,
}

/// How an enrolment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Enrolled {
    /// Not known before.
    pub(super) new: bool,
    /// From when its word counts.
    pub(super) counts_from: u64,
}

fn wrong(reason: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
}

fn unavailable(error: &CatalogError) -> Refusal {
    tracing::warn!(%error, "the catalog does not say who has enrolled");
    Refusal::unavailable()
}

impl Residents {
    pub(super) const fn new(ring: KeyRing) -> Self {
        Self { ring }
    }

    /// What a proxy has to sign.
    pub(super) fn challenge(&self, now: u64, random: [u8; 16]) -> String {
        let mut challenge = now.to_be_bytes().to_vec();
        challenge.extend(random);
        challenge.extend(self.ring.keyed_hash("enrolment challenge", &[&challenge]));
        URL_SAFE_NO_PAD.encode(challenge)
    }

    fn is_ours(&self, challenge: &str, now: u64) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(challenge) else { return false };
        let Some((body, hash)) = bytes.split_last_chunk::<32>() else { return false };
        let Some((at, _)) = body.split_first_chunk::<8>() else { return false };
        let at = u64::from_be_bytes(*at);
        let made = self.ring.keyed_hash("enrolment challenge", &[body]);
        // Hashes hide how far a guess is right as well as a slow comparison does.
        blake3::Hash::from(made) == blake3::Hash::from(*hash)
            && body.len() == 24
            && at <= now.saturating_add(60)
            && now < at.saturating_add(CHALLENGE_SECONDS)
    }

    fn name(&self, public: &[u8; 32]) -> KeyHash {
        self.ring.keyed_hash("enrolled principal", &[own_subject(public).as_bytes()])
    }

    /// Takes a key in.
    ///
    /// # Errors
    /// When possession is not shown, too many came from this network today, or the catalog is away.
    #[allow(clippy::too_many_arguments)] // What a request brings, and its surroundings.
    pub(super) async fn enrol(
        &self,
        catalog: &dyn Catalog,
        audience: &str,
        public: &[u8; 32],
        challenge: &str,
        signature: &[u8],
        from: IpAddr,
        now: u64,
    ) -> Result<Enrolled, Refusal> {
        if is_weak(public) {
            return Err(wrong("this public key protects nothing"));
        }
        if !self.is_ours(challenge, now) {
            return Err(wrong("the challenge is not one of this service, or too old; ask for a new one"));
        }
        if !verify_with(public, &enrolment_message(audience, challenge, public), signature) {
            return Err(wrong("the signature does not show possession of the private key"));
        }
        let name = self.name(public);
        if let Some(record) = catalog.enrolled(name).await.map_err(|error| unavailable(&error))? {
            let counts_from = self.opened(&name, &record, public)?;
            return Ok(Enrolled { new: false, counts_from });
        }
        let network = network_of(from).to_string();
        let lease = self.ring.keyed_hash("enrolments of a network", &[network.as_bytes()]);
        let granted = catalog.lease(lease, now / DAY, 1, PER_NETWORK_AND_DAY).await;
        if granted.map_err(|error| unavailable(&error))? == 0 {
            return Err(Refusal::later(
                StatusCode::TOO_MANY_REQUESTS,
                "enough proxies of this network have enrolled today; come again tomorrow",
                u32::try_from(DAY - now % DAY).unwrap_or(u32::MAX),
            ));
        }
        let counts_from = now.saturating_add(PROBATION);
        let record = [&[VERSION][..], public, &counts_from.to_be_bytes()].concat();
        let sealed =
            records::seal(&self.ring, &name, &record, rand::random()).ok_or_else(Refusal::unavailable)?;
        let stands = catalog.enrol(name, sealed).await.map_err(|error| unavailable(&error))?;
        let counts_from = self.opened(&name, &stands, public)?;
        Ok(Enrolled { new: true, counts_from })
    }

    /// From when the word of a key counts.
    ///
    /// # Errors
    /// When it has not enrolled here.
    pub(super) async fn counts_from(&self, catalog: &dyn Catalog, public: &[u8; 32]) -> Result<u64, Refusal> {
        let name = self.name(public);
        let record = catalog.enrolled(name).await.map_err(|error| unavailable(&error))?;
        let unknown = Refusal::new(StatusCode::UNAUTHORIZED, "this proxy has not enrolled here");
        self.opened(&name, &record.ok_or(unknown)?, public)
    }

    fn opened(&self, name: &KeyHash, sealed: &[u8], public: &[u8; 32]) -> Result<u64, Refusal> {
        let record = records::open(&self.ring, name, sealed).unwrap_or_default();
        let rest = record.strip_prefix(&[VERSION]).and_then(|rest| rest.strip_prefix(public));
        rest.and_then(|rest| rest.try_into().ok()).map(u64::from_be_bytes).ok_or_else(|| {
            tracing::error!("the record of an enrolled proxy cannot be read");
            Refusal::new(StatusCode::UNAUTHORIZED, "this proxy has not enrolled here")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{CHALLENGE_SECONDS, DAY, Residents};
    use crate::catalog::SqliteCatalog;
    use crate::store::keys::KeyRing;
    use crate::token::{SigningKey, enrolment_message};

    const NOW: u64 = 1_800_000_000;

    fn residents() -> Residents {
        Residents::new(KeyRing::new([1; 32], [2; 32]))
    }

    #[test]
    fn a_challenge_is_ours_and_fresh() {
        let residents = residents();
        let challenge = residents.challenge(NOW, [7; 16]);
        assert!(
            residents.is_ours(&challenge, NOW) && residents.is_ours(&challenge, NOW + CHALLENGE_SECONDS - 1)
        );
        assert!(
            !residents.is_ours(&challenge, NOW + CHALLENGE_SECONDS)
                && !residents.is_ours(&challenge, NOW - 61)
        );
        let other = Residents::new(KeyRing::new([9; 32], [2; 32]));
        assert!(
            !other.is_ours(&challenge, NOW) && !residents.is_ours("", NOW) && !residents.is_ours("AAAA", NOW)
        );
        for at in 0..challenge.len() {
            let mut changed = challenge.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(!residents.is_ours(&String::from_utf8(changed).unwrap(), NOW), "{at}");
        }
    }

    #[tokio::test]
    async fn three_a_day_and_network_and_each_waits_a_day() {
        let (residents, catalog) = (residents(), SqliteCatalog::in_memory().unwrap());
        let enrol = async |number: u8, from: &str, now: u64| {
            let key = SigningKey::from_seed(&[number; 32]).unwrap();
            let challenge = residents.challenge(now, [number; 16]);
            let signature = key.sign(&enrolment_message("rezcache", &challenge, key.public()));
            let from = from.parse().unwrap();
            residents.enrol(&catalog, "rezcache", key.public(), &challenge, &signature, from, now).await
        };
        for number in 1..=3 {
            let enrolled = enrol(number, "203.0.113.7", NOW).await.unwrap();
            assert_eq!((enrolled.new, enrolled.counts_from), (true, NOW + DAY));
        }
        let refused = enrol(4, "203.0.113.99", NOW).await.unwrap_err();
        assert_eq!(refused.status, 429);
        assert_eq!(u64::from(refused.retry_after_s), DAY - NOW % DAY);
        let again = enrol(1, "203.0.113.99", NOW + 5).await.unwrap();
        assert_eq!((again.new, again.counts_from), (false, NOW + DAY), "known already");
        assert!(enrol(5, "203.0.114.1", NOW).await.unwrap().new, "another network");
        assert!(enrol(4, "203.0.113.99", NOW + DAY).await.unwrap().new, "another day");
        for number in 1..=3 {
            enrol(100 + number, &format!("2001:db8:1:{number}::1"), NOW).await.unwrap();
        }
        assert!(enrol(104, "2001:db8:1:ffff::1", NOW).await.is_err(), "one /48");
        let key = |number: u8| *SigningKey::from_seed(&[number; 32]).unwrap().public();
        assert_eq!(residents.counts_from(&catalog, &key(4)).await.unwrap(), NOW + 2 * DAY);
        assert_eq!(residents.counts_from(&catalog, &key(77)).await.unwrap_err().status, 401);
    }

    #[tokio::test]
    async fn possession_is_shown_for_this_service_this_key_and_this_challenge() {
        let (residents, catalog) = (residents(), SqliteCatalog::in_memory().unwrap());
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let (one, two) = (residents.challenge(NOW, [1; 16]), residents.challenge(NOW, [2; 16]));
        let other = SigningKey::from_seed(&[2; 32]).unwrap();
        let from = "203.0.113.7".parse().unwrap();
        for (audience, challenge, public, signature) in [
            ("rezcache", &one, key.public(), key.sign(&enrolment_message("rezcache", &two, key.public()))),
            ("other", &one, key.public(), key.sign(&enrolment_message("rezcache", &one, key.public()))),
            (
                "rezcache",
                &one,
                other.public(),
                key.sign(&enrolment_message("rezcache", &one, other.public())),
            ),
            ("rezcache", &one, &[0; 32], vec![0; 64]),
            ("rezcache", &one, key.public(), Vec::new()),
        ] {
            let tried = residents.enrol(&catalog, audience, public, challenge, &signature, from, NOW).await;
            assert_eq!(tried.unwrap_err().status, 422);
        }
        assert_eq!(residents.counts_from(&catalog, key.public()).await.unwrap_err().status, 401);
    }
}
