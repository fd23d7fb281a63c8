//! Assets over LLUDP: which datagrams answer which request, and the asset they make.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{Assets, without_acks, without_resent};
use crate::asset::{AssetKind, AssetType, policy};
use crate::lludp::assets::{
    ImageData, ImageNotInDatabase, ImagePacket, TransferAbort, TransferInfo, TransferPacket,
};
use crate::lludp::{
    self, MessageBody, MessageNumber, PacketFlags, SequenceNumber, UdpAssetRequest, Variable2, encode_packet,
};

/// The largest asset that is put together, in bytes.
const MAX_ASSET_BYTES: usize = 64 << 20;

/// What a download is called on its circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum DownloadId {
    /// A texture's own id.
    Image(Uuid),
    /// The TransferID, chosen by the viewer.
    Transfer(Uuid),
}

/// All that one circuit carried of one texture or transfer.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) circuit: usize,
    pub(crate) id: DownloadId,
    /// What was asked for; `None` for other sources than plain assets and for kinds not shared.
    pub(crate) asset: Option<(AssetKind, Uuid)>,
    /// The simulator's datagrams, each packet once, in captured order.
    pub(crate) answers: Vec<Bytes>,
    /// When the last of them was captured.
    pub(crate) ended: Option<Duration>,
    /// One request of the report.
    pub(crate) counted: bool,
    refused: bool,
    captured: Assembly,
    seen: BTreeMap<Piece, ()>,
    /// The parameters and channel of a transfer, for the answer that is made when none was captured.
    params: Vec<u8>,
}

impl Download {
    /// The asset, when the captured answers hold all of it.
    pub(crate) fn captured_whole(&self) -> Option<Bytes> {
        self.captured.clone().whole()
    }

    /// The asset bytes in the answers.
    pub(crate) fn data_bytes(&self) -> u64 {
        let data =
            |datagram: &Bytes| answer(&lludp::Packet::decode(datagram).ok()?).map(|answer| answer.data.len());
        self.answers.iter().filter_map(data).map(|len| len as u64).sum()
    }

    /// Decides whether this counts, now that the assets are known; and makes the answer where the
    /// capture has none that is whole, because it began late or lost the request on the line.
    pub(super) fn settle(&mut self, assets: &Assets) {
        let Some(asset) = self.asset.filter(|_| !self.refused) else { return };
        let Some(body) = assets.get(&asset) else { return };
        self.counted = true;
        if self.captured_whole().is_none() {
            self.answers = match self.id {
                DownloadId::Image(id) => image_answer(id, body),
                DownloadId::Transfer(id) => transfer_answer(id, &self.params, body),
            };
        }
    }
}

/// Which packet of a download a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Piece {
    /// TransferInfo.
    Info,
    /// ImageData (0), ImagePacket (from 1), or TransferPacket (from 0).
    Packet(i32),
    /// The simulator says no.
    Refusal,
}

/// Bytes of one asset, as they come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assembly {
    total: Option<usize>,
    /// Parts by their first byte.
    parts: BTreeMap<usize, Bytes>,
    /// Transfer packets have a number but no offset.
    numbered: BTreeMap<i32, Bytes>,
    last: Option<i32>,
}

impl Assembly {
    /// Bytes at a known offset of an asset of `total` bytes; other totals than the first are left out.
    pub(crate) fn add(&mut self, total: usize, first: usize, bytes: &Bytes) {
        if *self.total.get_or_insert(total) == total && total <= MAX_ASSET_BYTES {
            let longer = self.parts.get(&first).is_none_or(|held| held.len() < bytes.len());
            if longer {
                self.parts.insert(first, bytes.clone());
            }
        }
    }

    /// A packet of a download. Returns how many bytes of the asset it brought that were not there.
    pub(crate) fn packet(&mut self, answer: &Answer) -> usize {
        if let Some(total) = answer.total {
            self.total.get_or_insert(total);
        }
        let Piece::Packet(number) = answer.piece else { return 0 };
        match answer.id {
            DownloadId::Image(_) => {
                let Ok(number) = usize::try_from(number) else { return 0 };
                // Source: Firestorm viewer, indra/newview/lltexturefetch.cpp: 600 bytes, then 1000 each.
                let first = if number == 0 { 0 } else { 600 + (number - 1) * 1000 };
                if self.parts.contains_key(&first) {
                    return 0;
                }
                self.parts.insert(first, answer.data.clone());
            }
            DownloadId::Transfer(_) => {
                if self.numbered.contains_key(&number) {
                    return 0;
                }
                self.numbered.insert(number, answer.data.clone());
                if answer.is_last {
                    self.last = Some(number);
                }
            }
        }
        answer.data.len()
    }

    /// Why a strict viewer would not have taken these packets, when it would not.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let total = self.total?;
        if let Some(last) = self.last {
            let mut sizes = self.numbered.range(..last).map(|(_, data)| data.len());
            let first = sizes.next();
            return sizes.any(|size| Some(size) != first).then_some("was cut in pieces of several sizes");
        }
        // Source: Firestorm viewer, indra/newview/lltexturefetch.cpp (`receiveImageHeader`, `insertPacket`).
        let framed = self.parts.iter().all(|(first, data)| {
            let whole = if *first == 0 { 600 } else { 1000 };
            data.len() == whole.min(total.saturating_sub(*first))
        });
        (!framed).then_some("was not cut in 600 and then 1000 bytes each")
    }

    /// The asset when every byte is there, looked for only when `wanted` and when it may be there.
    pub(crate) fn clone_whole_if(&self, wanted: bool) -> Option<Bytes> {
        let held: usize = self.parts.values().chain(self.numbered.values()).map(Bytes::len).sum();
        if wanted && self.total.is_some_and(|total| held >= total) { self.clone().whole() } else { None }
    }

    /// The asset when every byte is there.
    pub(crate) fn whole(self) -> Option<Bytes> {
        let total = self.total.filter(|total| *total <= MAX_ASSET_BYTES)?;
        let mut body = Vec::new();
        if let Some(last) = self.last {
            let complete = i32::try_from(self.numbered.len()).is_ok_and(|count| count == last + 1);
            if !complete || !self.numbered.contains_key(&0) {
                return None;
            }
            self.numbered.values().for_each(|data| body.extend_from_slice(data));
        } else {
            for (first, part) in &self.parts {
                let skip = body.len().checked_sub(*first)?;
                body.extend_from_slice(part.get(skip..).unwrap_or_default());
            }
        }
        (body.len() == total && total > 0).then(|| Bytes::from(body))
    }
}

/// A simulator's datagram that answers an asset request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: DownloadId,
    pub(crate) piece: Piece,
    pub(crate) total: Option<usize>,
    pub(crate) data: Bytes,
    is_last: bool,
    refused: bool,
}

/// Reads a simulator's datagram as an answer, when it is one.
pub(crate) fn answer(packet: &lludp::Packet<'_>) -> Option<Answer> {
    let mut scratch = Vec::new();
    let body = packet.body(&mut scratch).ok()?;
    let copy = |data: Variable2<'_>| Bytes::copy_from_slice(data.0);
    let plain = |id, piece, data| Answer { id, piece, total: None, data, is_last: false, refused: false };
    Some(match packet.number {
        MessageNumber::IMAGE_DATA => {
            let message = ImageData::decode(body).ok()?;
            let total = usize::try_from(message.size).ok();
            Answer { total, ..plain(DownloadId::Image(message.image), Piece::Packet(0), copy(message.data)) }
        }
        MessageNumber::IMAGE_PACKET => {
            let message = ImagePacket::decode(body).ok()?;
            plain(
                DownloadId::Image(message.image),
                Piece::Packet(i32::from(message.packet)),
                copy(message.data),
            )
        }
        MessageNumber::IMAGE_NOT_IN_DATABASE => {
            let message = ImageNotInDatabase::decode(body).ok()?;
            Answer { refused: true, ..plain(DownloadId::Image(message.image), Piece::Refusal, Bytes::new()) }
        }
        MessageNumber::TRANSFER_INFO => {
            let message = TransferInfo::decode(body).ok()?;
            let total = usize::try_from(message.size).ok();
            let refused = message.status < 0;
            Answer {
                total,
                refused,
                ..plain(DownloadId::Transfer(message.transfer), Piece::Info, Bytes::new())
            }
        }
        MessageNumber::TRANSFER_PACKET => {
            let message = TransferPacket::decode(body).ok()?;
            let piece = Piece::Packet(message.packet);
            let is_last = message.status == 1;
            Answer { is_last, ..plain(DownloadId::Transfer(message.transfer), piece, copy(message.data)) }
        }
        _ => return None,
    })
}

/// A download's name, its asset when it may be shared, and the parameters of a transfer.
type Requested = (DownloadId, Option<(AssetKind, Uuid)>, Vec<u8>);

/// The downloads that a viewer's datagram asks for; updates too, cancels not.
fn requests(packet: &lludp::Packet<'_>) -> Vec<Requested> {
    let mut scratch = Vec::new();
    let Ok(body) = packet.body(&mut scratch) else { return Vec::new() };
    let Ok(requests) = lludp::asset_requests(packet.number, body) else { return Vec::new() };
    requests
        .filter_map(|request| match request {
            UdpAssetRequest::Image(image) if image.discard < 0 && image.priority == 0.0 => None,
            // Baked textures live as long as an outfit and are nobody else's.
            UdpAssetRequest::Image(image) => {
                let asset = (image.kind == 0).then_some((AssetKind::Texture, image.image));
                Some((DownloadId::Image(image.image), asset, Vec::new()))
            }
            UdpAssetRequest::Transfer(transfer) => {
                let asset = transfer.asset().and_then(|(id, number)| Some((AssetType(number).kind()?, id)));
                Some((DownloadId::Transfer(transfer.transfer), asset, transfer.params.0.to_vec()))
            }
        })
        .collect()
}

/// One thing that a viewer's datagram says of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) id: DownloadId,
    /// The viewer no longer wants it.
    pub(crate) cancels: bool,
}

/// Everything that a viewer's datagram says of downloads, block by block.
pub(crate) fn blocks(packet: &lludp::Packet<'_>) -> Vec<Block> {
    let mut scratch = Vec::new();
    let Ok(body) = packet.body(&mut scratch) else { return Vec::new() };
    if packet.number == MessageNumber::TRANSFER_ABORT {
        let abort = TransferAbort::decode(body);
        return abort
            .map(|abort| Block { id: DownloadId::Transfer(abort.transfer), cancels: true })
            .into_iter()
            .collect();
    }
    let Ok(requests) = lludp::asset_requests(packet.number, body) else { return Vec::new() };
    requests
        .map(|request| match request {
            UdpAssetRequest::Image(image) => Block {
                id: DownloadId::Image(image.image),
                cancels: image.discard < 0 && image.priority == 0.0,
            },
            UdpAssetRequest::Transfer(transfer) => {
                Block { id: DownloadId::Transfer(transfer.transfer), cancels: false }
            }
        })
        .collect()
}

/// What a simulator says that is asked for the picture it sends in place of missing ones.
pub(crate) fn placeholder_answer(held: Option<&Bytes>) -> Vec<Bytes> {
    let image = policy::MISSING_IMAGE.0;
    match held {
        Some(body) => image_answer(image, body),
        None => vec![encoded(&ImageNotInDatabase { image }, MessageNumber::IMAGE_NOT_IN_DATABASE)],
    }
}

/// The names of the downloads that a viewer's datagram asks for.
pub(crate) fn requested(packet: &lludp::Packet<'_>) -> Vec<DownloadId> {
    requests(packet).into_iter().map(|(id, _, _)| id).collect()
}

/// Gathers downloads while a capture is read.
#[derive(Debug, Default)]
pub(super) struct Collector {
    found: Vec<Download>,
    by_id: HashMap<(usize, DownloadId), usize>,
}

impl Collector {
    /// Takes note of a datagram. True when it answers a request seen before: then it is sent on
    /// demand, and is no step of the script.
    pub(super) fn take(
        &mut self,
        circuit: usize,
        from_viewer: bool,
        time: Duration,
        packet: &lludp::Packet<'_>,
        payload: &Bytes,
    ) -> bool {
        if from_viewer {
            for (id, asset, params) in requests(packet) {
                self.by_id.entry((circuit, id)).or_insert_with(|| {
                    self.found.push(Download {
                        circuit,
                        id,
                        asset,
                        answers: Vec::new(),
                        ended: None,
                        counted: false,
                        refused: false,
                        captured: Assembly::default(),
                        seen: BTreeMap::new(),
                        params,
                    });
                    self.found.len() - 1
                });
            }
            return false;
        }
        let Some(answer) = answer(packet) else { return false };
        let index = self.by_id.get(&(circuit, answer.id)).copied();
        let Some(download) = index.and_then(|index| self.found.get_mut(index)) else { return false };
        download.refused |= answer.refused;
        if download.seen.insert(answer.piece, ()).is_none() {
            download.captured.packet(&answer);
            download.answers.push(without_resent(without_acks(payload).to_vec()));
            download.ended = Some(time);
        }
        true
    }

    pub(super) fn finish(self) -> Vec<Download> {
        self.found
    }
}

fn encoded<'a>(message: &impl MessageBody<'a>, number: MessageNumber) -> Bytes {
    let mut body = Vec::new();
    message.encode(&mut body);
    Bytes::from(encode_packet(PacketFlags::RELIABLE, SequenceNumber(0), number, &body, &[], false))
}

fn image_answer(image: Uuid, asset: &Bytes) -> Vec<Bytes> {
    let (head, rest) = asset.split_at(asset.len().min(600));
    let size = u32::try_from(asset.len()).unwrap_or(u32::MAX);
    let packets = u16::try_from(rest.len().div_ceil(1000) + 1).unwrap_or(u16::MAX);
    let first = ImageData { image, codec: 2, size, packets, data: Variable2(head) };
    let mut answers = vec![encoded(&first, MessageNumber::IMAGE_DATA)];
    for (packet, data) in (1..=u16::MAX).zip(rest.chunks(1000)) {
        answers.push(encoded(
            &ImagePacket { image, packet, data: Variable2(data) },
            MessageNumber::IMAGE_PACKET,
        ));
    }
    answers
}

fn transfer_answer(transfer: Uuid, params: &[u8], asset: &Bytes) -> Vec<Bytes> {
    let size = i32::try_from(asset.len()).unwrap_or(i32::MAX);
    let info = TransferInfo { transfer, channel: 2, target: 0, status: 0, size, params: Variable2(params) };
    let mut answers = vec![encoded(&info, MessageNumber::TRANSFER_INFO)];
    // Observed: OpenSimulator 0.9.2.2, fixtures/sessions/hippo-udp.pcap: 600 bytes each.
    let mut chunks = asset.chunks(600).peekable();
    let mut packet = 0;
    while let Some(data) = chunks.next() {
        let status = i32::from(chunks.peek().is_none());
        let message = TransferPacket { transfer, channel: 2, packet, status, data: Variable2(data) };
        answers.push(encoded(&message, MessageNumber::TRANSFER_PACKET));
        packet += 1;
    }
    answers
}
