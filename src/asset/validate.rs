//! Is this body a whole asset of its kind? The transport must have been complete before anyone
//! asks: the formats can show that data is missing or foreign, not that nothing is missing.
//! Every check is linear in the body and reserves nothing for lengths a body announces.

use std::fmt;

use crate::asset::{AssetKind, anim, j2c, material, mesh, ogg, policy};

/// What is worth knowing about a valid body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Valid {
    /// The format names its end and the body ends exactly there.
    pub exact_end: bool,
    /// What is unusual about it.
    pub notes: Notes,
}

impl Valid {
    /// Ends where the format says, nothing unusual.
    pub(crate) const EXACT: Self = Self { exact_end: true, notes: Notes::NONE };

    /// The same body with something unusual about it.
    #[must_use]
    pub(crate) const fn noting(self, note: Note) -> Self {
        Self { exact_end: self.exact_end, notes: self.notes.with(note) }
    }

    /// The same body, whose end is not the one the format names.
    #[must_use]
    pub(crate) const fn inexact(self, note: Note) -> Self {
        Self { exact_end: false, notes: self.notes.with(note) }
    }

    /// Whether others may be given it: not a bake of somebody's avatar, not a foreign format.
    #[must_use]
    pub const fn is_shareable(self) -> bool {
        !self.notes.has(Note::ClientBake) && !self.notes.has(Note::Wave)
    }
}

/// Something unusual that does not make a body invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Note {
    /// A codestream without its end marker, as broken uploaders store it; perhaps cut short.
    NoEndMarker = 1,
    /// A JP2 box file instead of a bare codestream; its inside is not looked at.
    Jp2Box = 1 << 1,
    /// Data after the end of the format.
    TrailingBytes = 1 << 2,
    /// The last Ogg page does not say that it is the last.
    NoEndOfStream = 1 << 3,
    /// A RIFF/WAVE file stored as a sound; accepted by its length only.
    Wave = 1 << 4,
    /// An avatar texture that a viewer baked: short-lived, and nobody else's business.
    ClientBake = 1 << 5,
}

/// A set of [`Note`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Notes(u8);

impl Notes {
    /// Nothing unusual.
    pub const NONE: Self = Self(0);

    /// Whether `note` is among them.
    #[must_use]
    pub const fn has(self, note: Note) -> bool {
        self.0 & note as u8 != 0
    }

    /// These and `note`.
    #[must_use]
    pub const fn with(self, note: Note) -> Self {
        Self(self.0 | note as u8)
    }
}

/// Why a body is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invalid {
    /// Fewer bytes than any asset of this kind has.
    TooShort,
    /// More than [`AssetKind::max_bytes`].
    TooLong,
    /// A text or error page in place of an asset.
    Text,
    /// Another format.
    WrongFormat,
    /// The data ends before the format does.
    Truncated,
    /// A header whose fields contradict the format.
    BadHeader,
    /// Image dimensions or component counts outside the limits.
    Dimensions,
    /// Tile-parts that do not follow one another.
    TileParts,
    /// Ogg pages that are not 0, 1, 2 … of one stream, or that do not follow one another.
    PageOrder,
    /// An Ogg page whose checksum is wrong.
    Checksum,
    /// Channels beyond what viewers play.
    Channels,
    /// An animation field outside its bounds.
    OutOfBounds,
    /// The stand-in a grid sends for a mesh that it does not have.
    Placeholder,
    /// A version that viewers refuse.
    Version,
    /// A mesh without a level of detail.
    NoGeometry,
    /// LLSD that cannot be read.
    Llsd,
    /// LLSD that is no material, or a material whose data is not JSON.
    NotMaterial,
}

impl Invalid {
    /// A fixed word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::Text => "text",
            Self::WrongFormat => "wrong_format",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad_header",
            Self::Dimensions => "dimensions",
            Self::TileParts => "tile_parts",
            Self::PageOrder => "page_order",
            Self::Checksum => "checksum",
            Self::Channels => "channels",
            Self::OutOfBounds => "out_of_bounds",
            Self::Placeholder => "placeholder",
            Self::Version => "version",
            Self::NoGeometry => "no_geometry",
            Self::Llsd => "llsd",
            Self::NotMaterial => "not_material",
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "shorter than any asset of its kind",
            Self::TooLong => "longer than assets of its kind may be",
            Self::Text => "text in place of an asset",
            Self::WrongFormat => "not the format of its kind",
            Self::Truncated => "ends before its format does",
            Self::BadHeader => "header contradicts its format",
            Self::Dimensions => "image dimensions or components outside the limits",
            Self::TileParts => "tile-parts do not follow one another",
            Self::PageOrder => "pages do not follow one another",
            Self::Checksum => "page checksum is wrong",
            Self::Channels => "more channels than viewers play",
            Self::OutOfBounds => "animation field outside its bounds",
            Self::Placeholder => "placeholder for a missing mesh",
            Self::Version => "version that viewers refuse",
            Self::NoGeometry => "mesh without a level of detail",
            Self::Llsd => "unreadable LLSD",
            Self::NotMaterial => "not a GLTF material",
        })
    }
}

impl std::error::Error for Invalid {}

/// The shortest body of this kind that can be an asset, in bytes.
const fn min_bytes(kind: AssetKind) -> usize {
    match kind {
        AssetKind::Texture | AssetKind::Sound => 100,
        AssetKind::Animation => 40,
        AssetKind::Mesh => 200,
        AssetKind::Material => 1,
    }
}

/// Checks that `body` is an asset of `kind`, whole as far as its format can tell.
///
/// # Errors
/// The first reason found why it is not.
pub fn validate(kind: AssetKind, body: &[u8]) -> Result<Valid, Invalid> {
    if kind == AssetKind::Texture && is_text(body) {
        return Err(Invalid::Text);
    }
    if body.len() < min_bytes(kind) {
        return Err(Invalid::TooShort);
    }
    if body.len() as u64 > kind.max_bytes() {
        return Err(Invalid::TooLong);
    }
    match kind {
        AssetKind::Texture => {
            let valid = j2c::validate(body)?;
            Ok(if policy::is_client_bake(body) { valid.noting(Note::ClientBake) } else { valid })
        }
        AssetKind::Sound => ogg::validate(body),
        AssetKind::Animation => anim::validate(body),
        AssetKind::Mesh => mesh::validate(body),
        AssetKind::Material => material::validate(body),
    }
}

/// The beginnings of what servers send in place of a picture.
fn is_text(body: &[u8]) -> bool {
    [b"<".as_slice(), b"{", b"Missing"].iter().any(|start| body.starts_with(start))
}

#[cfg(test)]
pub(crate) mod tests;
