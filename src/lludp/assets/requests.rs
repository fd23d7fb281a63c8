//! What a viewer asks for over LLUDP, one item per asset.

use uuid::Uuid;

use super::{DecodeError, Fields, MessageNumber, Variable2};
use crate::grid::{AgentId, SessionId};
use crate::lludp::fields::{MessageBody, single_block_message};

/// Bytes of one `RequestImage` block.
pub(super) const IMAGE_BLOCK_BYTES: usize = 26;

/// One block of a `RequestImage`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageRequest {
    /// Which texture.
    pub image: Uuid,
    /// 0 is full detail; negative cancels.
    pub discard: i8,
    /// Higher is sooner; 0 cancels.
    pub priority: f32,
    /// The packet to begin with.
    pub packet: u32,
    /// 0 for ordinary textures, 1 for baked ones.
    pub kind: u8,
}

single_block_message! {
    /// Asks for an asset, or for an inventory item's content.
    TransferRequest<'a> = TRANSFER_REQUEST {
        /// The viewer's name for this transfer.
        transfer / "TransferID": Uuid,
        /// 2 is assets.
        channel / "ChannelType": i32,
        /// 2 is an asset by id, 3 an inventory item, 4 estate data.
        source / "SourceType": i32,
        /// Higher is sooner.
        priority / "Priority": f32,
        /// Depends on the source.
        params / "Params": Variable2<'a>,
    }
}

impl TransferRequest<'_> {
    /// Source type of a plain asset.
    pub const SOURCE_ASSET: i32 = 2;

    /// The asset's id and type number, when it is asked for by id. Longer parameters than these 20
    /// bytes occur; OpenSimulator refuses them.
    /// Observed: OpenSimulator 0.9.2.2, fixtures/sessions/libomv-udp.pcap.
    #[must_use]
    pub fn asset(&self) -> Option<(Uuid, i32)> {
        let mut params = Fields::new(self.params.0);
        let id = params.read("AssetID").ok()?;
        let kind = params.read("AssetType").ok()?;
        (self.source == Self::SOURCE_ASSET).then_some((id, kind))
    }
}

/// One asset asked for over LLUDP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UdpAssetRequest<'a> {
    /// A texture, by `RequestImage`.
    Image(ImageRequest),
    /// Anything, by `TransferRequest`.
    Transfer(TransferRequest<'a>),
}

/// The requests in one message; see [`asset_requests`].
#[derive(Clone, Copy, Debug)]
pub struct AssetRequests<'a> {
    images: Fields<'a>,
    transfer: Option<TransferRequest<'a>>,
}

/// The assets that a message asks for; none when it is neither `RequestImage` nor
/// `TransferRequest`. At most 255.
///
/// # Errors
/// When such a message is cut.
pub fn asset_requests(number: MessageNumber, body: &[u8]) -> Result<AssetRequests<'_>, DecodeError> {
    let mut requests = AssetRequests { images: Fields::new(&[]), transfer: None };
    match number {
        MessageNumber::REQUEST_IMAGE => {
            let mut fields = Fields::new(body);
            fields.read::<AgentId>("AgentID")?;
            fields.read::<SessionId>("SessionID")?;
            requests.images = Fields::new(fields.read_block("RequestImage", IMAGE_BLOCK_BYTES)?);
        }
        MessageNumber::TRANSFER_REQUEST => requests.transfer = Some(TransferRequest::decode(body)?),
        _ => {}
    }
    Ok(requests)
}

impl AssetRequests<'_> {
    fn next_image(&mut self) -> Option<ImageRequest> {
        Some(ImageRequest {
            image: self.images.read("Image").ok()?,
            discard: self.images.read("DiscardLevel").ok()?,
            priority: self.images.read("DownloadPriority").ok()?,
            packet: self.images.read("Packet").ok()?,
            kind: self.images.read("Type").ok()?,
        })
    }
}

impl<'a> Iterator for AssetRequests<'a> {
    type Item = UdpAssetRequest<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.transfer.take() {
            Some(transfer) => Some(UdpAssetRequest::Transfer(transfer)),
            None => self.next_image().map(UdpAssetRequest::Image),
        }
    }
}
