//! Putting together what a simulator sends of one texture or one transfer, whatever is lost on the
//! way, comes twice, or comes in another order.
//!
//! A body counts as whole only when every byte was framed as protocol and sender say; anything that
//! contradicts itself is refused for good, since a wrong body would outlive the session in the
//! viewer's own cache.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::asset::AssetKind;

/// Data bytes of `ImageData`, and of every other packet of a texture but the last.
/// Source: Firestorm viewer, indra/newview/lltexturefetch.cpp (`insertPacket`).
const IMAGE_HEAD: u64 = 600;
const IMAGE_CHUNK: u64 = 1000;
/// A viewer drops transfer packets with more data.
/// Source: Second Life viewer, indra/llmessage/lltransfermanager.cpp (`processTransferPacket`).
const MAX_TRANSFER_DATA: usize = 2048;
/// Packets of one transfer: 64 MiB in the smallest pieces in use need fewer.
const MAX_TRANSFER_PACKETS: i32 = 128 * 1024;
/// What a packet takes beyond its data.
const PACKET_OVERHEAD: usize = 64;

/// Bytes that all assemblies of a session may hold together.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub(super) const fn new(bytes: usize) -> Self {
        Self { left: bytes }
    }

    const fn take(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    const fn give(&mut self, bytes: usize) {
        self.left += bytes;
    }
}

/// How far an assembly has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// More is to come.
    More,
    /// The whole body. Nothing is held any more.
    Complete(Bytes),
    /// The simulator refused it or contradicted itself, or there is no room. Nothing is held any more.
    Refused,
}

/// Packets by number, with what they take of the budget.
#[derive(Debug, Default)]
struct Packets {
    data: BTreeMap<u32, Bytes>,
    /// Data bytes held.
    bytes: u64,
    taken: usize,
}

impl Packets {
    /// False when a packet contradicts an earlier copy, or there is no room.
    fn insert(&mut self, number: u32, data: &[u8], budget: &mut Budget) -> bool {
        if let Some(held) = self.data.get(&number) {
            return held == data;
        }
        let cost = data.len() + PACKET_OVERHEAD;
        if !budget.take(cost) {
            return false;
        }
        self.taken += cost;
        self.bytes += data.len() as u64;
        self.data.insert(number, Bytes::copy_from_slice(data));
        true
    }

    fn release(&mut self, budget: &mut Budget) {
        budget.give(std::mem::take(&mut self.taken));
        self.data.clear();
        self.bytes = 0;
    }

    fn joined(&self) -> Bytes {
        let mut body = Vec::with_capacity(usize::try_from(self.bytes).unwrap_or_default());
        self.data.values().for_each(|data| body.extend_from_slice(data));
        body.into()
    }
}

/// A texture in the making. [`Self::release`] before it is dropped.
#[derive(Debug, Default)]
pub(super) struct ImageAssembly {
    size: Option<u64>,
    packets: Packets,
    refused: bool,
}

const fn image_packets(size: u64) -> u64 {
    size.saturating_sub(IMAGE_HEAD).div_ceil(IMAGE_CHUNK) + 1
}

/// Where in the texture a packet's data begins and ends.
const fn image_span(size: u64, number: u32) -> Option<(u64, u64)> {
    let (start, end) = match number {
        0 => (0, IMAGE_HEAD),
        _ => {
            let start = IMAGE_HEAD + (number as u64 - 1) * IMAGE_CHUNK;
            (start, start + IMAGE_CHUNK)
        }
    };
    if start >= size {
        return None;
    }
    Some((start, if end < size { end } else { size }))
}

impl ImageAssembly {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// `ImageData`: the size of the whole, how many packets it takes, and its first bytes.
    pub(super) fn head(&mut self, size: u32, packets: u16, data: &[u8], budget: &mut Budget) -> Progress {
        let size = u64::from(size);
        let fits = size > 0 && size <= AssetKind::Texture.max_bytes();
        let agrees = image_packets(size) == u64::from(packets) && self.size.is_none_or(|held| held == size);
        self.size = Some(size);
        // Packets that came before were taken on trust.
        let framed = self.packets.data.iter().all(|(number, data)| is_framed(size, *number, data));
        if !(fits && agrees && framed) {
            return self.refuse(budget);
        }
        self.insert(0, data, budget)
    }

    /// `ImagePacket`; it may come before `ImageData`.
    pub(super) fn packet(&mut self, number: u16, data: &[u8], budget: &mut Budget) -> Progress {
        let plausible = number > 0 && !data.is_empty() && data.len() as u64 <= IMAGE_CHUNK;
        if plausible { self.insert(number.into(), data, budget) } else { self.refuse(budget) }
    }

    fn insert(&mut self, number: u32, data: &[u8], budget: &mut Budget) -> Progress {
        let framed = self.size.is_none_or(|size| is_framed(size, number, data));
        if self.refused || !framed || !self.packets.insert(number, data, budget) {
            return self.refuse(budget);
        }
        if self.size != Some(self.packets.bytes) {
            return Progress::More;
        }
        let whole = self.packets.joined();
        self.packets.release(budget);
        self.refused = true;
        Progress::Complete(whole)
    }

    fn refuse(&mut self, budget: &mut Budget) -> Progress {
        self.refused = true;
        self.packets.release(budget);
        Progress::Refused
    }

    /// Gives back what is held. Answers the size and the parts, adjacent ones joined, when the size
    /// is known.
    pub(super) fn release(&mut self, budget: &mut Budget) -> Option<(u64, Vec<(u64, Bytes)>)> {
        let extents = self.size.filter(|_| !self.refused).map(|size| (size, self.extents(size)));
        self.packets.release(budget);
        self.refused = true;
        extents
    }

    fn extents(&self, size: u64) -> Vec<(u64, Bytes)> {
        let mut extents: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, data) in &self.packets.data {
            let Some((start, _)) = image_span(size, *number) else { continue };
            match extents.last_mut() {
                Some((first, joined)) if *first + joined.len() as u64 == start => {
                    joined.extend_from_slice(data);
                }
                _ => extents.push((start, data.to_vec())),
            }
        }
        extents.into_iter().map(|(start, data)| (start, data.into())).collect()
    }
}

fn is_framed(size: u64, number: u32, data: &[u8]) -> bool {
    image_span(size, number).is_some_and(|(start, end)| data.len() as u64 == end - start)
}

/// A transfer in the making. [`Self::release`] before it is dropped.
#[derive(Debug)]
pub(super) struct TransferAssembly {
    kind: AssetKind,
    size: Option<u64>,
    last: Option<u32>,
    packets: Packets,
    refused: bool,
}

impl TransferAssembly {
    pub(super) fn new(kind: AssetKind) -> Self {
        Self { kind, size: None, last: None, packets: Packets::default(), refused: false }
    }

    /// `TransferInfo`; it may come after packets.
    pub(super) fn info(&mut self, status: i32, size: i32, budget: &mut Budget) -> Progress {
        let size = u64::try_from(size).ok().filter(|size| (1..=self.kind.max_bytes()).contains(size));
        let agrees = self.size.is_none() || self.size == size;
        if status != 0 || size.is_none() || !agrees || self.refused {
            return self.refuse(budget);
        }
        self.size = size;
        self.progress(budget)
    }

    /// `TransferPacket`.
    pub(super) fn packet(&mut self, number: i32, status: i32, data: &[u8], budget: &mut Budget) -> Progress {
        let is_last = status == 1;
        let plausible = (0..MAX_TRANSFER_PACKETS).contains(&number)
            && (is_last || (status == 0 && !data.is_empty()))
            && data.len() <= MAX_TRANSFER_DATA;
        let Ok(number) = u32::try_from(number) else { return self.refuse(budget) };
        let highest = self.packets.data.last_key_value().map(|(highest, _)| *highest);
        let in_order = match self.last {
            Some(last) => number < last || (is_last && number == last),
            None => !is_last || highest.is_none_or(|highest| highest < number),
        };
        if !plausible || !in_order || self.refused || !self.packets.insert(number, data, budget) {
            return self.refuse(budget);
        }
        if is_last {
            self.last = Some(number);
        }
        self.progress(budget)
    }

    fn progress(&mut self, budget: &mut Budget) -> Progress {
        let (Some(size), Some(last)) = (self.size, self.last) else { return Progress::More };
        // Numbers are distinct and none is above the last.
        if self.packets.data.len() as u64 != u64::from(last) + 1 {
            return Progress::More;
        }
        if self.packets.bytes != size {
            return self.refuse(budget);
        }
        let whole = self.packets.joined();
        self.release(budget);
        Progress::Complete(whole)
    }

    fn refuse(&mut self, budget: &mut Budget) -> Progress {
        self.release(budget);
        Progress::Refused
    }

    /// Gives back what is held.
    pub(super) fn release(&mut self, budget: &mut Budget) {
        self.refused = true;
        self.packets.release(budget);
    }
}

#[cfg(test)]
mod tests;
