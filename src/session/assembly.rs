//! stub
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use crate::asset::AssetKind;
use bytes::Bytes;
use std::collections::BTreeMap;
#[derive(Debug)]
pub struct Budget {
    left: usize,
}
impl Budget {
    pub const fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }
}
#[derive(Debug, Default)]
pub struct ImageAssembly {
    size: Option<(u32, u16)>,
    parts: BTreeMap<u16, Bytes>,
}
pub enum Progress {
    More,
    Complete(Bytes),
    Refused,
}
impl ImageAssembly {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn head(&mut self, size: u32, packets: u16, data: &[u8], _b: &mut Budget) -> Progress {
        self.size = Some((size, packets));
        self.parts.insert(0, Bytes::copy_from_slice(data));
        self.done()
    }
    pub fn packet(&mut self, n: u16, data: &[u8], _b: &mut Budget) -> Progress {
        self.parts.insert(n, Bytes::copy_from_slice(data));
        self.done()
    }
    fn done(&self) -> Progress {
        let Some((s, p)) = self.size else { return Progress::More };
        if self.parts.len() == p as usize {
            let b: Vec<u8> = self.parts.values().flat_map(|b| b.to_vec()).collect();
            if b.len() == s as usize {
                return Progress::Complete(b.into());
            }
        }
        Progress::More
    }
    pub fn release(&mut self, _b: &mut Budget) {}
    pub fn extents(self) -> Option<(u64, Vec<(u64, Bytes)>)> {
        None
    }
}
#[derive(Debug)]
pub struct TransferAssembly {
    size: Option<i32>,
    last: Option<i32>,
    parts: BTreeMap<i32, Bytes>,
}
impl TransferAssembly {
    pub fn new(_k: AssetKind) -> Self {
        Self { size: None, last: None, parts: BTreeMap::new() }
    }
    pub fn info(&mut self, _s: i32, size: i32, _b: &mut Budget) -> Progress {
        self.size = Some(size);
        self.done()
    }
    pub fn packet(&mut self, n: i32, s: i32, data: &[u8], _b: &mut Budget) -> Progress {
        self.parts.insert(n, Bytes::copy_from_slice(data));
        if s == 1 {
            self.last = Some(n);
        }
        self.done()
    }
    fn done(&self) -> Progress {
        let (Some(s), Some(l)) = (self.size, self.last) else { return Progress::More };
        if self.parts.len() == l as usize + 1 {
            let b: Vec<u8> = self.parts.values().flat_map(|b| b.to_vec()).collect();
            if b.len() == s as usize {
                return Progress::Complete(b.into());
            }
        }
        Progress::More
    }
    pub fn release(&mut self, _b: &mut Budget) {}
}
