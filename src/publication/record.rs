//! What a service knows of one asset: who said what it is. Kept in the catalog as bytes.
//!
//! ```text
//!  version 3 | flags u8 | conflicts u32 | contents u8 × content
//!  content      digest 32 | size u64 | stored u8 | published u64 | voices u16 | counts u8 × count
//!               | attestations u8 × attestation
//!  count        tenant 0 | 1 and 16 | origin 0 | 1 and 16 | voices u16 | flags u8
//!  attestation  attester 16 | network 16 | tenant 16 | origin 0 | 1 and 16 | at u64 | counts_from u64
//!               | flags u8 | proof (when flagged) key 32, proof 32
//! ```
//! Version 1 had neither `published`, `voices` nor counts; version 2 did not tell IPv6 networks apart.
//!
//! Every identity is a keyed hash made for this asset alone: two records tell nobody whether the same
//! person is in both.

use nom::Parser;
use nom::bytes::complete::take;
use nom::error::{Error, ErrorKind};
use nom::multi::count;
use nom::number::complete::{be_u16, be_u32, be_u64, u8 as byte};

use crate::asset::Digest;

const VERSION: u8 = 3;
/// Contents told apart under one name; further ones only count as conflicts.
pub const MAX_CONTENTS: usize = 4;
/// Attestations remembered for one content; a quorum is far below.
pub const MAX_ATTESTATIONS: usize = 32;

/// Counts kept of one content: one for each origin, more or less.
pub const MAX_COUNTS: usize = 16;

/// A keyed hash that stands for somebody or something, in one record only.
pub type Tag = [u8; 16];

/// Who said that an origin delivered a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The principal.
    pub attester: Tag,
    /// The network it came from: /24 or /48.
    pub network: Tag,
    /// That is one of IPv6. A household may have one of each kind.
    pub ipv6: bool,
    /// The principal's tenant.
    pub tenant: Tag,
    /// The origin that delivered the bytes.
    pub origin: Option<Tag>,
    /// When, in seconds since 1970.
    pub at: u64,
    /// From when it counts: principals that enrolled themselves wait a day.
    pub counts_from: u64,
    /// The tenant's members believe one another.
    pub trusted: bool,
    /// The principal publishes alone.
    pub vouch: bool,
    /// The origin is an asset host that the operator has named.
    pub asset_host: bool,
    /// A proof that nobody could check yet, with its key.
    pub unproven: Option<([u8; 32], [u8; 32])>,
}

/// One content that was attested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// What it is.
    pub digest: Digest,
    /// Bytes; 0 until the body has come.
    pub size: u64,
    /// The body is in the blob store.
    pub stored: bool,
    /// When it was first served to anybody; 0: never, or not known.
    pub published: u64,
    /// Distinct principals that the counts stand for.
    pub voices: u16,
    /// What is left of attestations some time after publication: nobody's name.
    pub counts: Vec<Count>,
    /// Who said so.
    pub attestations: Vec<Attestation>,
}

/// How many said so, when it is not kept any more who they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Their tenant, if its members believe one another.
    pub tenant: Option<Tag>,
    /// The origin that delivered the bytes.
    pub origin: Option<Tag>,
    /// How many they were.
    pub voices: u16,
    /// They published alone.
    pub vouch: bool,
    /// The origin was an asset host that the operator had named.
    pub asset_host: bool,
}

impl Content {
    /// A content that nobody has attested yet.
    #[must_use]
    pub const fn new(digest: Digest) -> Self {
        Self {
            digest,
            size: 0,
            stored: false,
            published: 0,
            voices: 0,
            counts: Vec::new(),
            attestations: Vec::new(),
        }
    }
}

/// All that is known of one asset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Never to be served or taken again.
    pub taken_down: bool,
    /// Attestations that contradicted what was served, since the last that agreed.
    pub conflicts: u32,
    /// What it may be.
    pub contents: Vec<Content>,
}

impl Record {
    /// The bytes for the catalog.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.taken_down)];
        out.extend(self.conflicts.to_be_bytes());
        let contents = self.contents.get(..self.contents.len().min(MAX_CONTENTS)).unwrap_or_default();
        out.push(u8::try_from(contents.len()).unwrap_or(0));
        for content in contents {
            out.extend(content.digest.0);
            out.extend(content.size.to_be_bytes());
            out.push(u8::from(content.stored));
            out.extend(content.published.to_be_bytes());
            out.extend(content.voices.to_be_bytes());
            let counts = content.counts.get(..content.counts.len().min(MAX_COUNTS)).unwrap_or_default();
            out.push(u8::try_from(counts.len()).unwrap_or(0));
            counts.iter().for_each(|count| count.encode(&mut out));
            let list = &content.attestations;
            let list = list.get(..list.len().min(MAX_ATTESTATIONS)).unwrap_or_default();
            out.push(u8::try_from(list.len()).unwrap_or(0));
            list.iter().for_each(|attestation| attestation.encode(&mut out));
        }
        out
    }

    /// Reads what [`Record::encode`] wrote, in this version or an earlier one. `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (rest, (version, flags, conflicts, number)) =
            (byte::<_, Error<&[u8]>>, byte, be_u32, byte).parse(bytes).ok()?;
        if !(1..=VERSION).contains(&version) || flags > 1 || usize::from(number) > MAX_CONTENTS {
            return None;
        }
        let content = |input| content(input, version);
        let (rest, contents) = count(content, number.into()).parse(rest).ok()?;
        rest.is_empty().then_some(Self { taken_down: flags == 1, conflicts, contents })
    }
}

impl Count {
    fn encode(&self, out: &mut Vec<u8>) {
        for tag in [self.tenant, self.origin] {
            out.push(u8::from(tag.is_some()));
            out.extend(tag.into_iter().flatten());
        }
        out.extend(self.voices.to_be_bytes());
        out.push(u8::from(self.vouch) | u8::from(self.asset_host) << 1);
    }
}

impl Attestation {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.attester);
        out.extend(self.network);
        out.extend(self.tenant);
        out.push(u8::from(self.origin.is_some()));
        out.extend(self.origin.into_iter().flatten());
        out.extend(self.at.to_be_bytes());
        out.extend(self.counts_from.to_be_bytes());
        out.push(
            u8::from(self.trusted)
                | u8::from(self.vouch) << 1
                | u8::from(self.asset_host) << 2
                | u8::from(self.unproven.is_some()) << 3
                | u8::from(self.ipv6) << 4,
        );
        if let Some((key, proof)) = &self.unproven {
            out.extend(key);
            out.extend(proof);
        }
    }
}

type Step<'a, T> = nom::IResult<&'a [u8], T, Error<&'a [u8]>>;

fn array<const N: usize>(input: &[u8]) -> Step<'_, [u8; N]> {
    let (rest, taken) = take(N).parse(input)?;
    match taken.try_into() {
        Ok(array) => Ok((rest, array)),
        Err(_) => fail(input),
    }
}

fn fail<T>(input: &[u8]) -> Step<'_, T> {
    Err(nom::Err::Error(Error::new(input, ErrorKind::Verify)))
}

fn content(input: &[u8], version: u8) -> Step<'_, Content> {
    let (rest, (digest, size, stored)) = (array::<32>, be_u64, byte).parse(input)?;
    let (rest, (published, voices, counts)) = match version {
        1 => (rest, (0, 0, Vec::new())),
        _ => {
            let (rest, (published, voices, number)) = (be_u64, be_u16, byte).parse(rest)?;
            if usize::from(number) > MAX_COUNTS {
                return fail(input);
            }
            let (rest, counts) = count(counted, number.into()).parse(rest)?;
            (rest, (published, voices, counts))
        }
    };
    let (rest, number) = byte.parse(rest)?;
    if stored > 1 || usize::from(number) > MAX_ATTESTATIONS {
        return fail(input);
    }
    let (rest, attestations) = count(|input| attestation(input, version), number.into()).parse(rest)?;
    let (digest, stored) = (Digest(digest), stored == 1);
    Ok((rest, Content { digest, size, stored, published, voices, counts, attestations }))
}

fn maybe_tag(input: &[u8]) -> Step<'_, Option<Tag>> {
    let (rest, named) = byte.parse(input)?;
    match named {
        0 => Ok((rest, None)),
        1 => array::<16>.map(Some).parse(rest),
        _ => fail(input),
    }
}

fn counted(input: &[u8]) -> Step<'_, Count> {
    let (rest, (tenant, origin, voices, flags)) = (maybe_tag, maybe_tag, be_u16, byte).parse(input)?;
    if flags > 3 {
        return fail(input);
    }
    Ok((rest, Count { tenant, origin, voices, vouch: flags & 1 != 0, asset_host: flags & 2 != 0 }))
}

fn attestation(input: &[u8], version: u8) -> Step<'_, Attestation> {
    let (rest, (attester, network, tenant, origin)) =
        (array::<16>, array::<16>, array::<16>, maybe_tag).parse(input)?;
    let (rest, (at, counts_from, flags)) = (be_u64, be_u64, byte).parse(rest)?;
    if flags > if version < 3 { 15 } else { 31 } {
        return fail(input);
    }
    let (rest, unproven) = match flags & 8 {
        0 => (rest, None),
        _ => (array::<32>, array::<32>).map(Some).parse(rest)?,
    };
    let attestation = Attestation {
        attester,
        network,
        ipv6: flags & 16 != 0,
        tenant,
        origin,
        at,
        counts_from,
        trusted: flags & 1 != 0,
        vouch: flags & 2 != 0,
        asset_host: flags & 4 != 0,
        unproven,
    };
    Ok((rest, attestation))
}
