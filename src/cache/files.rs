//! File names of the disk tier, and the few file operations it needs.
//!
//! The operations stand behind a trait so that tests can make a disk full, slow or forgetful.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::asset::AssetKey;
use crate::grid::Origin;
use crate::support::files;

/// The block that file sizes are rounded up to when bytes on disk are counted.
const BLOCK: u64 = 4096;

/// What a file of `len` bytes takes on disk.
pub(super) fn on_disk(len: u64) -> u64 {
    len.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// The name of a key: 128 bits of BLAKE3, so that names say nothing and cannot be steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stem(pub(super) [u8; 16]);

impl Stem {
    pub(super) fn of(key: &AssetKey) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(key.grid.as_str().as_bytes());
        hasher.update(&[key.kind as u8]);
        hasher.update(key.id.0.as_bytes());
        Self(first_bytes(&hasher.finalize()))
    }

    /// The directory it lies in.
    pub(super) fn shard(self) -> u8 {
        self.0[0]
    }
}

fn first_bytes<const N: usize>(hash: &blake3::Hash) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(hash.as_bytes()).for_each(|(cell, byte)| *cell = *byte);
    out
}

/// Which of a key's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    /// A whole asset: variant 0 to 3, written as the letters a to d.
    Whole(u8),
    /// Parts of an asset; the start of the origin's hash.
    Parts([u8; 4]),
}

/// One file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) stem: Stem,
    pub(super) part: Part,
}

impl FileId {
    pub(super) fn whole(stem: Stem, variant: u8) -> Self {
        Self { stem, part: Part::Whole(variant) }
    }

    pub(super) fn parts(stem: Stem, origin: &Origin) -> Self {
        let hash = blake3::hash(origin.as_str().as_bytes());
        Self { stem, part: Part::Parts(first_bytes(&hash)) }
    }

    pub(super) fn name(self) -> String {
        let stem = hex(&self.stem.0);
        match self.part {
            Part::Whole(variant) => format!("{stem}.{}", char::from(b'a' + (variant & 3))),
            Part::Parts(origin) => format!("{stem}.{}.part", hex(&origin)),
        }
    }

    pub(super) fn path(self, root: &Path) -> PathBuf {
        root.join(shard_name(self.stem.shard())).join(self.name())
    }

    /// Where the file is written before it gets its name.
    pub(super) fn temporary(self, root: &Path) -> PathBuf {
        root.join(shard_name(self.stem.shard())).join(self.name() + ".tmp")
    }

    /// The file with this name. `None` for names that are not ours.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let (stem, rest) = name.split_once('.')?;
        let stem = Stem(unhex(stem)?);
        let part = match rest {
            "a" => Part::Whole(0),
            "b" => Part::Whole(1),
            "c" => Part::Whole(2),
            "d" => Part::Whole(3),
            _ => Part::Parts(unhex(rest.strip_suffix(".part")?)?),
        };
        Some(Self { stem, part })
    }
}

/// The directory with this number.
pub(super) fn shard_name(shard: u8) -> String {
    format!("{shard:02x}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower case only: on a file system that knows both cases a second spelling would be a second file.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (cell, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        if let [high, low] = pair {
            *cell = digit(*high)? << 4 | digit(*low)?;
        }
    }
    Some(out)
}

/// What the store does with files.
pub(super) trait Files: Send + Sync + 'static {
    /// At most `limit` bytes from the start of a file, and the length of the whole file.
    fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)>;
    /// Makes or overwrites a file, and its directory when that is missing.
    fn write(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()>;
    /// Gives a file its name, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; one that is already gone is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let expected = usize::try_from(len.min(limit)).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = Vec::with_capacity(expected);
        file.take(limit).read_to_end(&mut bytes)?;
        Ok((bytes, len))
    }

    fn write(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
        let mut file = match File::create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent)?;
                }
                File::create(path)?
            }
            other => other?,
        };
        // No fsync: a file torn by a power failure fails its checksum and is dropped.
        pieces.iter().try_for_each(|piece| file.write_all(piece))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        files::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        files::remove(path)
    }
}

#[cfg(test)]
mod tests {
    use super::{FileId, Stem, on_disk};
    use crate::grid::Origin;

    #[test]
    fn names_are_read_back() {
        let stem = Stem(std::array::from_fn(|i| u8::try_from(i * 17).unwrap_or(0)));
        let ids = [FileId::whole(stem, 0), FileId::whole(stem, 3), FileId::parts(stem, &Origin::new("sim"))];
        for id in ids {
            assert_eq!(FileId::from_name(&id.name()), Some(id));
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        let stem = "00112233445566778899aabbccddeeff";
        for name in
            ["", "usage", "lock", &format!("{stem}.e"), &format!("{stem}.a.tmp"), &format!("{stem}.aa.part")]
        {
            assert_eq!(FileId::from_name(name), None, "{name}");
        }
        assert_eq!(FileId::from_name(&format!("{}.a", stem.to_uppercase())), None);
    }

    #[test]
    fn sizes_are_rounded_up_to_blocks() {
        assert_eq!([0, 1, 4096, 4097].map(on_disk), [0, 4096, 4096, 8192]);
    }
}
