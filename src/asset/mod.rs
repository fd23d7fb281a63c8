//! Assets: what they are called, which of them may be kept, and how a whole one is told from a
//! part. Everything here is bytes in, values out.

use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use crate::grid::GridId;

pub mod anim;
pub mod j2c;
pub mod material;
pub mod mesh;
pub mod ogg;
pub mod policy;
pub mod range;
pub mod validate;

/// The kinds that are public: fetched by bare id, without an inventory item or a permission.
/// Everything else (notecards, scripts, objects, landmarks …) passes through and is never kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AssetKind {
    /// JPEG 2000 image; asset type 0.
    Texture = 0,
    /// Ogg Vorbis clip; asset type 1.
    Sound = 1,
    /// Key-frame animation in the viewer's internal format; asset type 20.
    Animation = 2,
    /// Mesh: a binary LLSD header and zlib blocks; asset type 49.
    Mesh = 3,
    /// GLTF material: LLSD with a JSON string; asset type 57.
    Material = 4,
}

impl AssetKind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 5] = [Self::Texture, Self::Mesh, Self::Sound, Self::Animation, Self::Material];

    /// The word used in reports, metrics and the service's paths.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Texture => "texture",
            Self::Sound => "sound",
            Self::Animation => "animation",
            Self::Mesh => "mesh",
            Self::Material => "material",
        }
    }

    /// The kind asked for by a query name such as `texture_id` or `animatn_id`.
    /// Source: Second Life viewer, indra/llcommon/llassettype.cpp (Nov 2025).
    #[must_use]
    pub fn from_query_name(name: &str) -> Option<Self> {
        Some(match name {
            "texture_id" => Self::Texture,
            "sound_id" => Self::Sound,
            "animatn_id" => Self::Animation,
            "mesh_id" => Self::Mesh,
            "material_id" => Self::Material,
            _ => return None,
        })
    }

    /// The query name of an asset request for this kind.
    #[must_use]
    pub const fn query_name(self) -> &'static str {
        match self {
            Self::Texture => "texture_id",
            Self::Sound => "sound_id",
            Self::Animation => "animatn_id",
            Self::Mesh => "mesh_id",
            Self::Material => "material_id",
        }
    }

    /// The number of this kind in LLUDP transfers.
    #[must_use]
    pub const fn asset_type(self) -> AssetType {
        AssetType(match self {
            Self::Texture => 0,
            Self::Sound => 1,
            Self::Animation => 20,
            Self::Mesh => 49,
            Self::Material => 57,
        })
    }

    /// What OpenSimulator sends as `Content-Type`; viewers ignore it.
    /// Source: OpenSimulator, OpenSim/Framework/SLUtil.cs.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Texture => "image/x-j2c",
            Self::Sound => "audio/ogg",
            Self::Animation => "application/vnd.ll.animation",
            Self::Mesh => "application/vnd.ll.mesh",
            Self::Material => "application/llsd+xml",
        }
    }

    /// The largest body that is kept, in bytes.
    #[must_use]
    pub const fn max_bytes(self) -> u64 {
        match self {
            Self::Texture => 16 << 20,
            Self::Sound => 8 << 20,
            Self::Animation | Self::Material => 1 << 20,
            Self::Mesh => 64 << 20,
        }
    }
}

impl fmt::Display for AssetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An asset type as the grid numbers it; unknown numbers are kept as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AssetType(pub i32);

impl AssetType {
    /// The public kind with this number, if there is one.
    #[must_use]
    pub fn kind(self) -> Option<AssetKind> {
        AssetKind::ALL.into_iter().find(|kind| kind.asset_type() == self)
    }
}

/// An asset's UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssetId(pub Uuid);

/// What a request asks for. A UUID alone says nothing: grids reuse each other's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssetKey {
    /// The grid it was asked from.
    pub grid: GridId,
    /// The kind it was asked as; the payload must agree before it is kept.
    pub kind: AssetKind,
    /// Its id on that grid.
    pub id: AssetId,
}

/// BLAKE3 of a whole asset: what its content is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3-")?;
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

/// Who delivered the bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssetSource {
    /// The memory tier of this machine.
    Memory,
    /// The disk tier of this machine.
    Disk,
    /// The shared cache service.
    Service,
    /// The grid, for this request.
    Grid,
    /// The grid, for another request whose fetch this one shared.
    Joined,
}

impl AssetSource {
    /// Every source, in the order of reports.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Disk, Self::Service, Self::Grid, Self::Joined];

    /// The word used in reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Service => "service",
            Self::Grid => "grid",
            Self::Joined => "joined",
        }
    }
}

/// A complete, valid asset.
#[derive(Clone, Debug)]
pub struct Asset {
    /// BLAKE3 of `bytes`.
    pub digest: Digest,
    /// The whole body.
    pub bytes: Bytes,
}

impl Asset {
    /// These bytes under their digest.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        Self { digest: Digest::of(&bytes), bytes }
    }
}
