//! Meshes: a binary LLSD header that says where each block lies, then the blocks.
//!
//! ```text
//! [ "<? LLSD/Binary ?>" newline ] '{' … '}' │ zlib block │ zlib block │ …
//! 0                                         H              H + offset … H + offset + size
//! ```
//! Source: Second Life viewer, indra/newview/llmeshrepository.cpp (headerReceived).

use crate::asset::validate::{Invalid, Note, Valid};
use crate::llsd::{Llsd, LlsdErrorKind, binary};

/// The header fits in what viewers ask for first, in bytes.
pub const MAX_HEADER_BYTES: usize = 4096;
/// The highest version that viewers take.
const MAX_VERSION: i32 = 999;
/// The geometry blocks, coarse to fine.
const LODS: [&str; 4] = ["lowest_lod", "low_lod", "medium_lod", "high_lod"];
/// Instead of blocks, in what grids send for a mesh that is missing.
const MISSING_KEY: &str = "404";

/// What a mesh says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshHeader {
    /// Where the header ends and block offsets count from, in bytes from the start; at most
    /// [`MAX_HEADER_BYTES`].
    pub header_bytes: u64,
    /// The blocks in the order of the header.
    pub blocks: Vec<MeshBlock>,
}

/// One block of a mesh: a level of detail, the skin, a physics shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshBlock {
    /// `high_lod`, `skin`, `physics_convex` …
    pub name: String,
    /// Bytes from the end of the header.
    pub offset: u64,
    /// Bytes; 0 for a level that is not there.
    pub size: u64,
}

impl MeshHeader {
    /// The length of the whole mesh: where its last block ends.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        // Offsets and sizes come from 31-bit numbers: their sum cannot overflow.
        self.header_bytes + self.blocks.iter().map(|block| block.offset + block.size).max().unwrap_or(0)
    }

    fn has_geometry(&self) -> bool {
        self.blocks.iter().any(|block| block.size > 0 && LODS.contains(&block.name.as_str()))
    }
}

/// Reads the header from the beginning of a mesh; the first [`MAX_HEADER_BYTES`] are enough.
///
/// # Errors
/// When the bytes end inside the header, or it is none that viewers take.
pub fn header(prefix: &[u8]) -> Result<MeshHeader, Invalid> {
    let beginning = prefix.get(..MAX_HEADER_BYTES).unwrap_or(prefix);
    if beginning.get(binary::header_line_len(beginning)) != Some(&b'{') {
        return Err(Invalid::WrongFormat);
    }
    let (document, consumed) = binary::decode(beginning).map_err(|err| match err.kind {
        // More bytes than a header may have would not help.
        LlsdErrorKind::Truncated if prefix.len() < MAX_HEADER_BYTES => Invalid::Truncated,
        _ => Invalid::Llsd,
    })?;
    let Llsd::Map(entries) = document else { return Err(Invalid::WrongFormat) };
    let mut header = MeshHeader { header_bytes: consumed as u64, blocks: Vec::new() };
    for (name, value) in entries {
        match value {
            _ if name == MISSING_KEY => return Err(Invalid::Placeholder),
            Llsd::Integer(version) if name == "version" && version > MAX_VERSION => {
                return Err(Invalid::Version);
            }
            Llsd::Map(_) => header.blocks.extend(block(name, &value)?),
            _ => {}
        }
    }
    if header.has_geometry() { Ok(header) } else { Err(Invalid::NoGeometry) }
}

/// The length of the whole mesh, told from its beginning alone; `None` when that is too short or
/// no mesh.
#[must_use]
pub fn total_length(prefix: &[u8]) -> Option<u64> {
    header(prefix).ok().map(|header| header.total_bytes())
}

/// Checks a whole mesh; data after its last block is legal and noted.
pub(crate) fn validate(body: &[u8]) -> Result<Valid, Invalid> {
    let total = header(body)?.total_bytes();
    match total.cmp(&(body.len() as u64)) {
        std::cmp::Ordering::Greater => Err(Invalid::Truncated),
        std::cmp::Ordering::Equal => Ok(Valid::EXACT),
        std::cmp::Ordering::Less => Ok(Valid::EXACT.inexact(Note::TrailingBytes)),
    }
}

/// A map with an offset and a size is a block; another one is something that we do not know.
fn block(name: String, value: &Llsd) -> Result<Option<MeshBlock>, Invalid> {
    let (offset, size) = match (value.get("offset"), value.get("size")) {
        (None, _) | (_, None) => return Ok(None),
        (Some(Llsd::Integer(offset)), Some(Llsd::Integer(size))) => (*offset, *size),
        _ => return Err(Invalid::BadHeader),
    };
    match (u64::try_from(offset), u64::try_from(size)) {
        (Ok(offset), Ok(size)) => Ok(Some(MeshBlock { name, offset, size })),
        _ => Err(Invalid::BadHeader),
    }
}

#[cfg(test)]
mod tests;
