//! Residents need no operator: a proxy makes a key pair, shows that it has the private key, and signs its
//! own tokens from then on. No signing key lies on a node.
//!
//! ```text
//!  challenge   at u64 | random 16 | keyed hash of both, 32          made and checked without memory
//!  record      version 1 | public key 32 | counts_from u64          sealed as records are
//!  of a member version 2 | public key 32 | rights u8 | length u8, tenant | join token's id
//! ```
//! Whoever shows a token of a trusted tenant with its key, where the node takes members, belongs to that
//! tenant from then on, with the rights of that token and for as long as it is not revoked.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;

use super::caller::{Identity, network_of};
use super::refusal::Refusal;
use crate::catalog::{Catalog, CatalogError, KeyHash};
use crate::store::keys::KeyRing;
use crate::store::records;
use crate::token::{Rights, enrolment_message, is_name, is_weak, own_subject, verify_with};

const VERSION: u8 = 1;
const MEMBER_VERSION: u8 = 2;
/// Keys that join by one token in a day: more than any school has.
const PER_TOKEN_AND_DAY: u64 = 1000;
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
    /// Keys are taken without a token.
    open: bool,
}

/// What holds of a key that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A resident, whose word counts from then on.
    Resident(u64),
    /// A member of a tenant.
    Member(Member),
}

/// What a join token makes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) tenant: Arc<str>,
    pub(super) rights: Rights,
    /// The join token: with it, all who joined by it are revoked.
    pub(super) via: Arc<str>,
}

impl Member {
    /// Members read and write at most, whatever else the token allows its own holder.
    pub(super) fn by(token: &Identity) -> Self {
        let rights = Rights { read: token.rights.read, write: token.rights.write, ..Rights::default() };
        Self { tenant: Arc::clone(&token.tenant), rights, via: Arc::clone(&token.token) }
    }

    fn record(&self, public: &[u8; 32]) -> Option<Vec<u8>> {
        let rights = u8::from(self.rights.read) | u8::from(self.rights.write) << 1;
        let length = u8::try_from(self.tenant.len()).ok()?;
        let names = [self.tenant.as_bytes(), self.via.as_bytes()].concat();
        Some([&[MEMBER_VERSION][..], public, &[rights, length], &names].concat())
    }

    fn read(record: &[u8], public: &[u8; 32]) -> Option<Self> {
        let rest = record.strip_prefix(&[MEMBER_VERSION])?.strip_prefix(public)?;
        let (&[rights, length], names) = rest.split_first_chunk::<2>()?;
        let (tenant, via) = names.split_at_checked(length.into())?;
        let name = |bytes| std::str::from_utf8(bytes).ok().filter(|name| is_name(name)).map(Arc::from);
        let rights = Rights { read: rights & 1 != 0, write: rights & 2 != 0, ..Rights::default() };
        Some(Self { tenant: name(tenant)?, rights, via: name(via)? })
    }
}

/// How an enrolment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Enrolled {
    /// Not known before.
    pub(super) new: bool,
    /// What holds of it.
    pub(super) standing: Standing,
}

fn wrong(reason: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, reason)
}

fn unavailable(error: &CatalogError) -> Refusal {
    tracing::warn!(%error, "the catalog does not say who has enrolled");
    Refusal::unavailable()
}

impl Residents {
    pub(super) const fn new(ring: KeyRing, open: bool) -> Self {
        Self { ring, open }
    }

    /// Whether keys are taken in without a token.
    pub(super) const fn is_open(&self) -> bool {
        self.open
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
        member: Option<Member>,
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
            let standing = self.opened(&name, &record, public)?;
            return Ok(Enrolled { new: false, standing });
        }
        let (lease, most, refusal) = match &member {
            Some(member) => (
                self.ring.keyed_hash("members by a token", &[member.via.as_bytes()]),
                PER_TOKEN_AND_DAY,
                "enough proxies have joined by this line today; come again tomorrow",
            ),
            None => (
                self.ring.keyed_hash("enrolments of a network", &[network_of(from).to_string().as_bytes()]),
                PER_NETWORK_AND_DAY,
                "enough proxies of this network have enrolled today; come again tomorrow",
            ),
        };
        let granted = catalog.lease(lease, now / DAY, 1, most).await;
        if granted.map_err(|error| unavailable(&error))? == 0 {
            return Err(Refusal::later(
                StatusCode::TOO_MANY_REQUESTS,
                refusal,
                u32::try_from(DAY - now % DAY).unwrap_or(u32::MAX),
            ));
        }
        let record = match &member {
            Some(member) => member.record(public).ok_or_else(Refusal::unavailable)?,
            None => [&[VERSION][..], public, &now.saturating_add(PROBATION).to_be_bytes()].concat(),
        };
        let sealed =
            records::seal(&self.ring, &name, &record, rand::random()).ok_or_else(Refusal::unavailable)?;
        let stands = catalog.enrol(name, sealed).await.map_err(|error| unavailable(&error))?;
        let standing = self.opened(&name, &stands, public)?;
        Ok(Enrolled { new: true, standing })
    }

    /// What holds of a key.
    ///
    /// # Errors
    /// When it has not enrolled here.
    pub(super) async fn standing(
        &self,
        catalog: &dyn Catalog,
        public: &[u8; 32],
    ) -> Result<Standing, Refusal> {
        let name = self.name(public);
        let record = catalog.enrolled(name).await.map_err(|error| unavailable(&error))?;
        let unknown = Refusal::new(StatusCode::UNAUTHORIZED, "this proxy has not enrolled here");
        self.opened(&name, &record.ok_or(unknown)?, public)
    }

    fn opened(&self, name: &KeyHash, sealed: &[u8], public: &[u8; 32]) -> Result<Standing, Refusal> {
        let record = records::open(&self.ring, name, sealed).unwrap_or_default();
        let resident = record.strip_prefix(&[VERSION]).and_then(|rest| rest.strip_prefix(public));
        let resident = resident.and_then(|rest| rest.try_into().ok()).map(u64::from_be_bytes);
        let member = || Member::read(&record, public).map(Standing::Member);
        resident.map(Standing::Resident).or_else(member).ok_or_else(|| {
            tracing::error!("the record of an enrolled proxy cannot be read");
            Refusal::new(StatusCode::UNAUTHORIZED, "this proxy has not enrolled here")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{CHALLENGE_SECONDS, DAY, Member, Residents, Standing};
    use crate::catalog::SqliteCatalog;
    use crate::store::keys::KeyRing;
    use crate::token::{Rights, SigningKey, enrolment_message};

    const NOW: u64 = 1_800_000_000;

    fn residents() -> Residents {
        Residents::new(KeyRing::new([1; 32], [2; 32]), true)
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
        let other = Residents::new(KeyRing::new([9; 32], [2; 32]), true);
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
            residents.enrol(&catalog, "rezcache", key.public(), &challenge, &signature, None, from, now).await
        };
        for number in 1..=3 {
            let enrolled = enrol(number, "203.0.113.7", NOW).await.unwrap();
            assert_eq!((enrolled.new, enrolled.standing), (true, Standing::Resident(NOW + DAY)));
        }
        let refused = enrol(4, "203.0.113.99", NOW).await.unwrap_err();
        assert_eq!(refused.status, 429);
        assert_eq!(u64::from(refused.retry_after_s), DAY - NOW % DAY);
        let again = enrol(1, "203.0.113.99", NOW + 5).await.unwrap();
        assert_eq!((again.new, again.standing), (false, Standing::Resident(NOW + DAY)), "known already");
        assert!(enrol(5, "203.0.114.1", NOW).await.unwrap().new, "another network");
        assert!(enrol(4, "203.0.113.99", NOW + DAY).await.unwrap().new, "another day");
        for number in 1..=3 {
            enrol(100 + number, &format!("2001:db8:1:{number}::1"), NOW).await.unwrap();
        }
        assert!(enrol(104, "2001:db8:1:ffff::1", NOW).await.is_err(), "one /48");
        let key = |number: u8| *SigningKey::from_seed(&[number; 32]).unwrap().public();
        assert_eq!(residents.standing(&catalog, &key(4)).await.unwrap(), Standing::Resident(NOW + 2 * DAY));
        assert_eq!(residents.standing(&catalog, &key(77)).await.unwrap_err().status, 401);
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
            let tried =
                residents.enrol(&catalog, audience, public, challenge, &signature, None, from, NOW).await;
            assert_eq!(tried.unwrap_err().status, 422);
        }
        assert_eq!(residents.standing(&catalog, key.public()).await.unwrap_err().status, 401);
    }

    #[tokio::test]
    async fn a_class_joins_by_one_token_and_stays_what_that_token_made_it() {
        let (residents, catalog) = (residents(), SqliteCatalog::in_memory().unwrap());
        let rights = Rights { read: true, ..Rights::default() };
        let member = Member { tenant: "household".into(), rights, via: "token-1".into() };
        let join = async |number: u8, member: Member| {
            let key = SigningKey::from_seed(&[number; 32]).unwrap();
            let challenge = residents.challenge(NOW, [number; 16]);
            let signature = key.sign(&enrolment_message("rezcache", &challenge, key.public()));
            let from = "192.168.1.7".parse().unwrap();
            residents
                .enrol(&catalog, "rezcache", key.public(), &challenge, &signature, Some(member), from, NOW)
                .await
        };
        for number in 1..=40 {
            let joined = join(number, member.clone()).await.unwrap();
            assert_eq!((joined.new, joined.standing), (true, Standing::Member(member.clone())));
        }
        let writer = Member { rights: Rights { write: true, ..rights }, ..member.clone() };
        let again = join(1, writer).await.unwrap();
        assert_eq!((again.new, again.standing), (false, Standing::Member(member)), "nobody promotes itself");
    }

    #[test]
    fn a_member_s_record_is_read_as_it_was_written_or_not_at_all() {
        let rights = Rights { read: true, write: true, ..Rights::default() };
        let member = Member { tenant: "household".into(), rights, via: "token-1".into() };
        let record = member.record(&[3; 32]).unwrap();
        assert_eq!(Member::read(&record, &[3; 32]), Some(member));
        assert_eq!(Member::read(&record, &[4; 32]), None);
        let names = record.len() - "token-1".len();
        for end in 0..=names {
            assert_eq!(Member::read(&record[..end], &[3; 32]), None, "{end}");
        }
    }
}
