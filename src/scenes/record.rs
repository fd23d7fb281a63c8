//! A region as it is written down: JSON with a format and a version, its assets as one text of 33
//! characters each (a letter for the kind, then the id in hexadecimal).

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::book::{MAX_KEYS, Region, RegionKey, SceneTime};
use super::name::RegionName;
use crate::asset::{AssetId, AssetKind};
use crate::grid::{GridId, Origin};

const FORMAT: &str = "rezcache region";
const VERSION: u32 = 1;
/// Characters of one asset.
const KEY_CHARS: usize = 33;
/// No longer file is one of ours.
const MAX_BYTES: usize = MAX_KEYS * (KEY_CHARS + 1) + (16 << 10);

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No JSON, or not this JSON.
    #[error("not readable")]
    Json(#[from] serde_json::Error),
    /// Of another format or version.
    #[error("of another version")]
    Version,
    /// A value that cannot be.
    #[error("damaged")]
    Damaged,
    /// Too long.
    #[error("too long")]
    TooLong,
}

/// A region in its file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    format: String,
    version: u32,
    grid: String,
    handle: u64,
    name: String,
    first_unix: u64,
    last_unix: u64,
    visits: u32,
    asked: u64,
    hits: u64,
    first_scene: Option<SceneTime>,
    last_scene: Option<SceneTime>,
    pinned: bool,
    overflow: u64,
    origins: Vec<String>,
    /// By the number of visits since they were last asked for.
    keys: Vec<(u32, String)>,
}

impl Record {
    /// The longest file that is read.
    pub const MAX_BYTES: usize = MAX_BYTES;

    /// The bytes of a region's file.
    ///
    /// # Errors
    /// Never, as far as is known: only text and numbers are written.
    pub fn encode(key: &RegionKey, region: &Region) -> Result<Vec<u8>, serde_json::Error> {
        let mut by_visit: HashMap<u32, Vec<(AssetKind, AssetId)>> = HashMap::new();
        for ((kind, id), visit) in &region.keys {
            by_visit.entry(*visit).or_default().push((*kind, *id));
        }
        let mut keys: Vec<_> = by_visit
            .into_iter()
            .map(|(visit, mut keys)| {
                keys.sort_unstable();
                let mut text = String::with_capacity(keys.len() * KEY_CHARS);
                for (kind, id) in keys {
                    let _ = write!(text, "{}{:032x}", letter(kind), id.0.as_u128());
                }
                (visit, text)
            })
            .collect();
        keys.sort_unstable();
        serde_json::to_vec(&Self {
            format: FORMAT.into(),
            version: VERSION,
            grid: key.grid.as_str().into(),
            handle: key.handle,
            name: region.name.as_str().into(),
            first_unix: region.first_unix,
            last_unix: region.last_unix,
            visits: region.visits,
            asked: region.asked,
            hits: region.hits,
            first_scene: region.first_scene,
            last_scene: region.last_scene,
            pinned: region.pinned,
            overflow: region.overflow,
            origins: region.origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
            keys,
        })
    }

    /// Reads a region's file.
    ///
    /// # Errors
    /// When it is damaged, or not one of this version.
    pub fn decode(bytes: &[u8]) -> Result<(RegionKey, Region), RecordError> {
        if bytes.len() > MAX_BYTES {
            return Err(RecordError::TooLong);
        }
        let record: Self = serde_json::from_slice(bytes)?;
        if record.format != FORMAT || record.version != VERSION {
            return Err(RecordError::Version);
        }
        let mut keys = HashMap::new();
        for (visit, text) in &record.keys {
            if !text.is_ascii() || text.len() % KEY_CHARS != 0 {
                return Err(RecordError::Damaged);
            }
            for at in (0..text.len()).step_by(KEY_CHARS) {
                let one = text.get(at..at + KEY_CHARS).ok_or(RecordError::Damaged)?;
                let (kind, id) = one.split_at(1);
                let kind = kind_of(kind).ok_or(RecordError::Damaged)?;
                let id = u128::from_str_radix(id, 16).map_err(|_| RecordError::Damaged)?;
                keys.insert((kind, AssetId(Uuid::from_u128(id))), *visit);
            }
        }
        if keys.len() > MAX_KEYS || record.grid.len() > 255 || record.grid.is_empty() {
            return Err(RecordError::Damaged);
        }
        let key = RegionKey { grid: GridId::new(&record.grid), handle: record.handle };
        let region = Region {
            name: RegionName::new(&record.name),
            first_unix: record.first_unix,
            last_unix: record.last_unix,
            visits: record.visits,
            asked: record.asked,
            hits: record.hits,
            first_scene: record.first_scene,
            last_scene: record.last_scene,
            pinned: record.pinned,
            overflow: record.overflow,
            origins: record.origins.iter().take(4).map(|host| Origin::new(host)).collect(),
            keys,
        };
        Ok((key, region))
    }
}

const fn letter(kind: AssetKind) -> char {
    match kind {
        AssetKind::Texture => 't',
        AssetKind::Sound => 's',
        AssetKind::Animation => 'a',
        AssetKind::Mesh => 'm',
        AssetKind::Material => 'g',
    }
}

fn kind_of(text: &str) -> Option<AssetKind> {
    AssetKind::ALL.into_iter().find(|kind| text.starts_with(letter(*kind)))
}
