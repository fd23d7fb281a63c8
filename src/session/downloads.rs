//! What the viewer of a circuit has asked for over LLUDP, and who answers it: the simulator, or we.
//!
//! A download begins with a lookup, for which the request is held a moment. A hit makes it ours, and
//! the request goes no further. A miss lets the request go on; from the first packet that the
//! simulator sends the download is the simulator's, and we only learn. What became ours while its
//! request was with the simulator stays ours: whatever the simulator then sends is kept from the
//! viewer, which never gets one asset from two sources.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::assembly::{Budget, ImageAssembly, Progress, TransferAssembly};
use super::relay::Owner;
use crate::asset::{AssetId, AssetKind, AssetType};
use crate::lludp::assets::{ImageData, ImageNotInDatabase, ImagePacket, TransferInfo, TransferPacket};
use crate::lludp::{ImageRequest, MessageBody, MessageNumber, Packet, TransferRequest};

/// The most downloads a circuit keeps track of; more pass through unlearnt.
const MAX_DOWNLOADS: usize = 8192;
/// The one channel that assets travel on.
const CHANNEL_ASSET: i32 = 2;
/// A download on which nothing happens is forgotten after this long; what came of it is kept.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// A download on which nothing happens for so long is not waited for: the simulator has no such asset, or the
/// viewer wants it no longer.
const UNDER_WAY: Duration = Duration::from_secs(30);

/// What a download is called on its circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownloadId {
    /// A texture's own id.
    Image(Uuid),
    /// The TransferID, chosen by the viewer.
    Transfer(Uuid),
}

/// Who answers a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody yet: the request is held while the asset is looked up.
    Looking,
    /// The request went on, and no answer has passed: a late hit may still take over.
    Asked,
    /// The simulator.
    Passing,
    /// We, now.
    Serving,
    /// We did, or the viewer no longer wants it. What the simulator still sends stays here.
    Done,
    /// We asked the simulator for it ourselves.
    Probing,
}

impl Stage {
    /// Whether the simulator's packets for it are kept from the viewer.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Serving | Self::Done | Self::Probing)
    }
}

/// How the viewer wants it, as of its last request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    /// Larger is sooner.
    pub priority: f32,
    /// Halvings of resolution that may be left out.
    pub discard: i8,
    /// The first packet wanted.
    pub packet: u32,
    /// Channel and parameters of a transfer, as they are to be echoed.
    pub transfer: Option<(i32, [u8; 20])>,
}

#[derive(Debug)]
enum Assembly {
    Image(ImageAssembly),
    Transfer(TransferAssembly),
    /// Nothing is learnt from this one.
    Off,
}

/// One texture or transfer.
#[derive(Debug)]
pub struct Download {
    /// The kind of asset.
    pub kind: AssetKind,
    /// Its id.
    pub asset: AssetId,
    /// Who answers.
    pub stage: Stage,
    /// How the viewer wants it.
    pub wish: Wish,
    /// Its packets' owner, while they are ours.
    pub owner: Owner,
    /// A request for it has gone to the simulator.
    pub forwarded: bool,
    /// The viewer wants what we are asking the simulator for.
    pub viewer_waits: bool,
    /// The viewer has had `ImageData` of it on this circuit.
    pub head_seen: bool,
    /// Asset bytes that passed from the simulator to the viewer.
    pub passed: u64,
    assembly: Assembly,
    touched: Instant,
}

/// A public asset that a request names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// What the download is called.
    pub id: DownloadId,
    /// The kind of asset.
    pub kind: AssetKind,
    /// Its id.
    pub asset: AssetId,
    /// How it is wanted.
    pub wish: Wish,
}

/// What a block of a request means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ask {
    /// A public asset, which we may answer.
    Wanted(Wanted),
    /// The viewer no longer wants this.
    Cancel(DownloadId),
    /// The simulator's affair alone.
    Other,
}

impl Ask {
    /// What a block of `RequestImage` means. Baked textures live as long as an outfit and are
    /// nobody else's.
    #[must_use]
    pub fn image(request: &ImageRequest) -> Self {
        let id = DownloadId::Image(request.image);
        if request.kind != 0 {
            return Self::Other;
        }
        // Source: OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLImageManager.cs: a negative
        // level with a priority is the smallest picture, without one an end.
        if request.discard < 0 && request.priority == 0.0 {
            return Self::Cancel(id);
        }
        let wish = Wish {
            priority: request.priority,
            discard: if request.discard < 0 { 5 } else { request.discard },
            packet: request.packet,
            transfer: None,
        };
        Self::Wanted(Wanted { id, kind: AssetKind::Texture, asset: AssetId(request.image), wish })
    }

    /// What a `TransferRequest` means.
    #[must_use]
    pub fn transfer(request: &TransferRequest<'_>) -> Self {
        let asset = request.asset().and_then(|(id, number)| Some((id, AssetType(number).kind()?)));
        let (Some((id, kind)), CHANNEL_ASSET) = (asset, request.channel) else { return Self::Other };
        let Some(params) = request.params.0.first_chunk::<20>() else { return Self::Other };
        let wish = Wish {
            priority: request.priority,
            discard: 0,
            packet: 0,
            transfer: Some((request.channel, *params)),
        };
        Self::Wanted(Wanted { id: DownloadId::Transfer(request.transfer), kind, asset: AssetId(id), wish })
    }
}

/// A packet of the simulator that belongs to a download.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer<'a> {
    /// The start of a texture.
    ImageData(ImageData<'a>),
    /// A further packet of it.
    ImagePacket(ImagePacket<'a>),
    /// There is no such texture.
    ImageNotInDatabase(ImageNotInDatabase),
    /// The start of a transfer, or its refusal.
    TransferInfo(TransferInfo<'a>),
    /// A packet of it.
    TransferPacket(TransferPacket<'a>),
}

impl<'a> Answer<'a> {
    /// Whether messages of this number answer downloads.
    #[must_use]
    pub const fn is(number: MessageNumber) -> bool {
        matches!(
            number,
            MessageNumber::IMAGE_DATA
                | MessageNumber::IMAGE_PACKET
                | MessageNumber::IMAGE_NOT_IN_DATABASE
                | MessageNumber::TRANSFER_INFO
                | MessageNumber::TRANSFER_PACKET
        )
    }

    /// Reads one. `None` for other messages and broken ones.
    pub fn read(packet: &Packet<'a>, scratch: &'a mut Vec<u8>) -> Option<Self> {
        let body = packet.body(scratch).ok()?;
        match packet.number {
            MessageNumber::IMAGE_DATA => ImageData::decode(body).ok().map(Self::ImageData),
            MessageNumber::IMAGE_PACKET => ImagePacket::decode(body).ok().map(Self::ImagePacket),
            MessageNumber::IMAGE_NOT_IN_DATABASE => {
                ImageNotInDatabase::decode(body).ok().map(Self::ImageNotInDatabase)
            }
            MessageNumber::TRANSFER_INFO => TransferInfo::decode(body).ok().map(Self::TransferInfo),
            MessageNumber::TRANSFER_PACKET => TransferPacket::decode(body).ok().map(Self::TransferPacket),
            _ => None,
        }
    }

    /// Which download it belongs to.
    #[must_use]
    pub const fn id(&self) -> DownloadId {
        match self {
            Self::ImageData(ImageData { image, .. })
            | Self::ImagePacket(ImagePacket { image, .. })
            | Self::ImageNotInDatabase(ImageNotInDatabase { image }) => DownloadId::Image(*image),
            Self::TransferInfo(TransferInfo { transfer, .. })
            | Self::TransferPacket(TransferPacket { transfer, .. }) => DownloadId::Transfer(*transfer),
        }
    }

    /// The simulator will not send this asset.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::ImageNotInDatabase(_) => true,
            Self::TransferInfo(info) => info.status < 0,
            Self::TransferPacket(packet) => packet.status < 0,
            Self::ImageData(_) | Self::ImagePacket(_) => false,
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::ImageData(ImageData { data, .. })
            | Self::ImagePacket(ImagePacket { data, .. })
            | Self::TransferPacket(TransferPacket { data, .. }) => data.0.len(),
            Self::ImageNotInDatabase(_) | Self::TransferInfo(_) => 0,
        }
    }
}

impl Download {
    /// Takes in a packet of the simulator. Answers the whole asset when it has just become whole.
    pub(super) fn feed(&mut self, now: Instant, answer: &Answer<'_>, budget: &mut Budget) -> Option<Bytes> {
        self.touched = now;
        if !self.stage.is_ours() {
            self.passed += answer.data_len() as u64;
        }
        let progress = match (&mut self.assembly, answer) {
            (Assembly::Image(image), Answer::ImageData(head)) => {
                image.head(head.size, head.packets, head.data.0, budget)
            }
            (Assembly::Image(image), Answer::ImagePacket(packet)) => {
                image.packet(packet.packet, packet.data.0, budget)
            }
            (Assembly::Transfer(transfer), Answer::TransferInfo(info)) => {
                transfer.info(info.status, info.size, budget)
            }
            (Assembly::Transfer(transfer), Answer::TransferPacket(packet)) => {
                transfer.packet(packet.packet, packet.status, packet.data.0, budget)
            }
            _ => Progress::More,
        };
        match progress {
            Progress::More => None,
            Progress::Complete(bytes) => {
                self.assembly = Assembly::Off;
                Some(bytes)
            }
            Progress::Refused => {
                self.assembly = Assembly::Off;
                None
            }
        }
    }

    /// Stops learning from it. Answers what was held of a texture: the total and the parts.
    pub(super) fn finish(mut self, budget: &mut Budget) -> Option<(u64, Vec<(u64, Bytes)>)> {
        match std::mem::replace(&mut self.assembly, Assembly::Off) {
            Assembly::Image(mut image) => image.release(budget),
            Assembly::Transfer(mut transfer) => {
                transfer.release(budget);
                None
            }
            Assembly::Off => None,
        }
    }

    /// Something happened to it.
    pub const fn touch(&mut self, now: Instant) {
        self.touched = now;
    }
}

/// The downloads of a circuit.
#[derive(Debug, Default)]
pub struct Downloads {
    by_id: HashMap<DownloadId, Download>,
    by_owner: HashMap<Owner, DownloadId>,
    /// What the viewer never acknowledged from us; it gets these from the simulator.
    given_up: HashMap<(AssetKind, AssetId), Instant>,
    next_owner: Owner,
}

impl Downloads {
    /// The download with this name.
    pub fn get(&mut self, id: DownloadId) -> Option<&mut Download> {
        self.by_id.get_mut(&id)
    }

    /// The download whose packets these are.
    pub fn owned(&mut self, owner: Owner) -> Option<(DownloadId, &mut Download)> {
        let id = *self.by_owner.get(&owner)?;
        Some((id, self.by_id.get_mut(&id)?))
    }

    /// Starts keeping track of a download. `None` when there are too many.
    pub fn start(&mut self, now: Instant, wanted: &Wanted, stage: Stage) -> Option<&mut Download> {
        if self.by_id.len() >= MAX_DOWNLOADS && !self.by_id.contains_key(&wanted.id) {
            return None;
        }
        self.next_owner += 1;
        let assembly = match wanted.id {
            DownloadId::Image(_) => Assembly::Image(ImageAssembly::new()),
            DownloadId::Transfer(_) => Assembly::Transfer(TransferAssembly::new(wanted.kind)),
        };
        let download = Download {
            kind: wanted.kind,
            asset: wanted.asset,
            stage,
            wish: wanted.wish,
            owner: self.next_owner,
            forwarded: false,
            viewer_waits: false,
            head_seen: false,
            passed: 0,
            assembly,
            touched: now,
        };
        self.by_owner.insert(self.next_owner, wanted.id);
        let slot = self.by_id.entry(wanted.id);
        Some(slot.insert_entry(download).into_mut())
    }

    /// Stops keeping track of a download.
    pub fn remove(&mut self, id: DownloadId) -> Option<Download> {
        let download = self.by_id.remove(&id)?;
        self.by_owner.remove(&download.owner);
        Some(download)
    }

    /// Remembers that the viewer did not take this asset from us.
    pub fn give_up(&mut self, now: Instant, kind: AssetKind, asset: AssetId) {
        if self.given_up.len() < MAX_DOWNLOADS {
            self.given_up.insert((kind, asset), now);
        }
    }

    /// Whether the viewer is to get this asset from the simulator.
    #[must_use]
    pub fn is_given_up(&self, kind: AssetKind, asset: AssetId) -> bool {
        self.given_up.contains_key(&(kind, asset))
    }

    /// Downloads on which nothing has happened for long.
    #[must_use]
    pub fn stale(&self, now: Instant) -> Vec<DownloadId> {
        let stale = |download: &Download| {
            // What is on its way from us ends when the viewer has it, or is given up.
            download.stage != Stage::Serving
                && now.saturating_duration_since(download.touched) >= FORGOTTEN_AFTER
        };
        self.by_id.iter().filter(|(_, download)| stale(download)).map(|(id, _)| *id).collect()
    }

    /// How many the viewer still waits for.
    #[must_use]
    pub fn under_way(&self, now: Instant) -> usize {
        let waits = |download: &&Download| match download.stage {
            Stage::Looking | Stage::Serving => true,
            Stage::Asked | Stage::Passing => now.saturating_duration_since(download.touched) < UNDER_WAY,
            Stage::Done | Stage::Probing => false,
        };
        self.by_id.values().filter(waits).count()
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        self.given_up.retain(|_, since| now.saturating_duration_since(*since) < FORGOTTEN_AFTER);
    }

    /// All names.
    #[must_use]
    pub fn ids(&self) -> Vec<DownloadId> {
        self.by_id.keys().copied().collect()
    }
}
