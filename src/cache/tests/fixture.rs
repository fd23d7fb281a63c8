//! Files as version 1 writes them must be read for ever, and no flipped bit of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::cache::claims::Claim;
use crate::cache::disk::Disk;
use crate::cache::files::{FileId, Files, Stem};
use crate::cache::format::{Content, Extent, Header};
use crate::grid::{GridId, Origin};

const WHOLE: &[u8] = include_bytes!("../../../fixtures/store/whole-v1.bin");
const PARTS: &[u8] = include_bytes!("../../../fixtures/store/parts-v1.bin");

/// A disk with one file, whatever it is called.
struct OneFile(Vec<u8>);

impl Files for OneFile {
    fn read(&self, _: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        let most = self.0.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok((self.0[..most].to_vec(), self.0.len() as u64))
    }

    fn write(&self, _: &Path, _: &[&[u8]]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

fn disk(file: &[u8]) -> Disk {
    Disk { root: PathBuf::new(), files: Arc::new(OneFile(file.to_vec())) }
}

fn key() -> AssetKey {
    AssetKey {
        grid: GridId::new("login.example.org"),
        kind: AssetKind::Texture,
        id: AssetId(Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)),
    }
}

fn asset() -> Bytes {
    (0..300_u32).map(|i| u8::try_from(i * 7 % 256).unwrap_or(0)).collect::<Vec<_>>().into()
}

fn flipped(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..file.len() * 8).map(|bit| {
        let mut damaged = file.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        damaged
    })
}

#[test]
fn names_are_what_they_were() {
    let stem = Stem::of(&key());
    assert_eq!(FileId::whole(stem, 0).name(), "961c1a1d87d5c5f669adfd1289cf746a.a");
    assert_eq!(
        FileId::parts(stem, &Origin::new("sim1.example.org")).name(),
        "961c1a1d87d5c5f669adfd1289cf746a.e4e54e85.part"
    );
}

#[test]
fn a_whole_asset_of_version_1_is_read_and_no_flipped_bit_of_it() {
    let id = FileId::whole(Stem::of(&key()), 0);
    let (claim, bytes) = disk(WHOLE).read_whole(id, &key()).unwrap();
    let origins = vec![Origin::new("sim1.example.org"), Origin::new("assets.example.org")];
    assert_eq!(claim, Claim { digest: Digest::of(&asset()), origins, stored: 1_763_769_600 });
    assert_eq!(bytes, asset());
    for damaged in flipped(WHOLE) {
        assert!(disk(&damaged).read_whole(id, &key()).is_err());
    }
}

#[test]
fn parts_of_version_1_are_read_and_no_flipped_bit_of_them() {
    let origin = Origin::new("sim1.example.org");
    let id = FileId::parts(Stem::of(&key()), &origin);
    let parts = disk(PARTS).read_parts(id, &key(), &origin).unwrap();
    assert_eq!(parts.total, 300);
    assert_eq!(parts.extents, [(0, asset().slice(..100)), (250, asset().slice(250..))]);
    for damaged in flipped(PARTS) {
        assert!(disk(&damaged).read_parts(id, &key(), &origin).is_err());
    }
}

#[test]
fn what_is_written_today_is_version_1() {
    let header = |origins: &[&str], content| Header {
        key: key(),
        total: 300,
        stored: 1_763_769_600,
        origins: origins.iter().map(|name| Origin::new(name)).collect(),
        content,
    };
    let whole =
        header(&["sim1.example.org", "assets.example.org"], Content::Whole(Digest::of(&asset()))).encode();
    let runs = [asset().slice(..100), asset().slice(250..)];
    let extents = [0, 250].into_iter().zip(&runs).map(|(offset, run)| Extent {
        offset,
        length: run.len() as u64,
        digest: Digest::of(run),
    });
    let parts = header(&["sim1.example.org"], Content::Parts(extents.collect())).encode();
    assert_eq!([&whole.unwrap()[..], &asset()[..]].concat(), WHOLE);
    assert_eq!([&parts.unwrap()[..], &runs[0][..], &runs[1][..]].concat(), PARTS);
}
