//! Which requests may be answered from the cache and learnt into it, told from the request alone;
//! and signs in a body that it is not what it was asked as.

use std::borrow::Cow;

use uuid::{Uuid, uuid};

use crate::asset::{AssetId, AssetKind, anim, j2c, ogg};

/// The picture that OpenSimulator sends under the id of a texture it does not have.
/// Source: OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLImageManager.cs.
pub const MISSING_IMAGE: AssetId = AssetId(uuid!("5748decc-f629-461c-9a36-a35a221fe21f"));

/// The texture that fills unused slots of an avatar; never asked for.
pub const DEFAULT_AVATAR_TEXTURE: AssetId = AssetId(uuid!("c228d1cf-4b5d-4ba8-84f4-899a0796aa97"));

/// What a request's query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssetQuery {
    /// The kind that the parameter names.
    pub kind: AssetKind,
    /// The id asked for.
    pub id: AssetId,
}

impl AssetQuery {
    /// Reads a query without its `?`, such as `texture_id=5748decc-f629-461c-9a36-a35a221fe21f`.
    ///
    /// `None` when the request must go to the grid untouched: it names no public kind, more than
    /// one id, an id that is not one, or asks for a conversion (`format=`).
    /// Source: OpenSimulator, OpenSim/Capabilities/Handlers/GetTexture/GetTextureRobustHandler.cs.
    #[must_use]
    pub fn parse(query: &str) -> Option<Self> {
        let mut found = None;
        for parameter in query.split('&') {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let key = percent_decoded(key);
            if key.eq_ignore_ascii_case(b"format") {
                return None;
            }
            if !is_id_parameter(&key) {
                continue;
            }
            let kind = std::str::from_utf8(&key).ok().and_then(AssetKind::from_query_name)?;
            let id = AssetId(hyphenated(&percent_decoded(value))?);
            if found.replace(Self { kind, id }).is_some() {
                return None;
            }
        }
        found
    }
}

/// Whether a parameter chooses an asset. Any other type's `…_id` counts: what a grid makes of two
/// of them is not for us to guess.
fn is_id_parameter(key: &[u8]) -> bool {
    key.last_chunk::<3>().is_some_and(|end| end.eq_ignore_ascii_case(b"_id"))
}

/// The one form of UUID that viewers write.
fn hyphenated(text: &[u8]) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse_ascii(text).ok()).flatten()
}

/// Undoes `%41`; a `%` that two hexadecimal digits do not follow stays as it is.
fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.first_chunk::<2>().filter(|_| byte == b'%').and_then(|digits| hex_byte(*digits));
        decoded.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    Cow::Owned(decoded)
}

fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Media types that stand for "the stored bytes". Viewers send these for any kind: other assets
/// are asked for as `application/llsd+xml` although raw bytes come back.
/// Source: Second Life viewer, indra/llmessage/llcorehttputil.cpp.
const STORED_TYPES: [&str; 10] = [
    "image/x-j2c",
    "application/llsd+xml",
    "application/vnd.ll.mesh",
    "application/vnd.ll.animation",
    "audio/ogg",
    "application/ogg",
    "audio/*",
    "image/*",
    "application/*",
    "application/octet-stream",
];

/// Whether the stored bytes are what an `Accept` header wants most. `false` means bypass: the grid
/// may convert, e.g. a texture to `image/png`. Between equals the first named wins, and a type
/// wins over a wildcard.
#[must_use]
pub fn accepts(kind: AssetKind, accept_header: Option<&[u8]>) -> bool {
    let Some(header) = accept_header else { return true };
    let Ok(header) = std::str::from_utf8(header) else { return false };
    if header.trim().is_empty() {
        return true;
    }
    let mut best: Option<(Preference, bool)> = None;
    for element in header.split(',') {
        let mut fields = element.split(';').map(str::trim);
        let media = fields.next().unwrap_or_default().to_ascii_lowercase();
        let weight = fields.find_map(quality).unwrap_or(1000);
        if weight == 0 || !media.contains('/') {
            continue;
        }
        let preference = Preference { weight, is_type: !media.ends_with("/*") };
        // Strictly greater: of equals the first stays.
        if best.is_none_or(|(held, _)| preference > held) {
            best = Some((preference, names_stored_bytes(kind, &media)));
        }
    }
    best.is_some_and(|(_, is_stored)| is_stored)
}

/// How much a media range is wanted, less to more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    /// Thousandths.
    weight: u32,
    is_type: bool,
}

fn names_stored_bytes(kind: AssetKind, media: &str) -> bool {
    media == "*/*" || media == kind.content_type() || STORED_TYPES.contains(&media)
}

/// The weight in thousandths, if `parameter` is one; a weight that is no number counts as none.
fn quality(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value = value.trim();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let mut digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    let thousandths = digits.try_fold(0, |sum, digit| Some(sum * 10 + char::from(digit).to_digit(10)?));
    match whole {
        "0" => Some(thousandths.unwrap_or(0)),
        "1" => Some(1000),
        _ => Some(0),
    }
}

/// Whether a body is a texture that a viewer baked for its avatar: five components, and the
/// comment that names their order. Short-lived, and never to be shared.
/// Source: Firestorm, indra/newview/llviewertexlayer.cpp; Second Life viewer,
/// indra/llimage/llimagej2c.h (the comment's prefix).
#[must_use]
pub fn is_client_bake(body: &[u8]) -> bool {
    const COMPONENTS: &[u8] = b"LL_RGBHM";
    j2c::header(body).is_ok_and(|header| header.components == 5)
        && j2c::comments(body).any(|text| text.windows(COMPONENTS.len()).any(|part| part == COMPONENTS))
}

/// Whether the first bytes of a body look like `kind`: grids answer a request for one kind with an
/// asset of another. A quick test that a beginning suffices for; it does not replace
/// [`validate`](crate::asset::validate::validate).
/// Observed: OpenSimulator 0.9.2.2, fixtures/sessions/hippo-ranges.pcap (a sound asked as texture).
#[must_use]
pub fn content_matches_kind(kind: AssetKind, beginning: &[u8]) -> bool {
    let starts: &[&[u8]] = match kind {
        AssetKind::Texture => &[&j2c::MAGIC, &j2c::JP2_MAGIC],
        AssetKind::Sound => &[&ogg::MAGIC, &ogg::RIFF_MAGIC],
        AssetKind::Animation => &[&anim::CURRENT, &anim::OLD],
        AssetKind::Mesh => &[b"{\0", b"<? LLSD/Binary ?>", b"<?llsd/binary?>"],
        AssetKind::Material => &[b"<", b"{\0"],
    };
    let agree =
        |start: &&[u8]| start.iter().zip(beginning).all(|(wanted, found)| wanted.eq_ignore_ascii_case(found));
    !beginning.is_empty() && starts.iter().any(agree)
}

#[cfg(test)]
pub(crate) mod tests;
