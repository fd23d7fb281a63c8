//! Asset traffic over LLUDP: textures by `RequestImage`, everything by `TransferRequest`.
//!
//! A texture of n bytes travels as one `ImageData` (600 bytes and the packet count) and
//! `ImagePacket`s of 1000; other assets as one `TransferInfo` and numbered `TransferPacket`s.
//! Source for all layouts: Second Life, `message_template.msg`.

use uuid::Uuid;

use super::error::DecodeError;
use super::fields::{Fields, Variable2, single_block_message};
use super::number::MessageNumber;

mod edit;
mod requests;

pub use edit::{request_image, without_images};
pub use requests::{AssetRequests, ImageRequest, TransferRequest, UdpAssetRequest, asset_requests};

single_block_message! {
    /// The first packet of a texture.
    ImageData<'a> = IMAGE_DATA {
        /// Which texture.
        image / "ID": Uuid,
        /// 2 is JPEG 2000, the only one in use.
        codec / "Codec": u8,
        /// Bytes of the whole texture.
        size / "Size": u32,
        /// Packets of the whole texture, this one included.
        packets / "Packets": u16,
    } then {
        /// Its first bytes.
        data / "Data": Variable2<'a>,
    }
}

single_block_message! {
    /// A further packet of a texture.
    ImagePacket<'a> = IMAGE_PACKET {
        /// Which texture.
        image / "ID": Uuid,
        /// Counts from 1; `ImageData` is packet 0.
        packet / "Packet": u16,
    } then {
        /// Its bytes.
        data / "Data": Variable2<'a>,
    }
}

single_block_message! {
    /// The simulator does not have the texture.
    ImageNotInDatabase = IMAGE_NOT_IN_DATABASE {
        /// Which texture.
        image / "ID": Uuid,
    }
}

single_block_message! {
    /// The start of a transfer, or its refusal.
    TransferInfo<'a> = TRANSFER_INFO {
        /// As requested.
        transfer / "TransferID": Uuid,
        /// 2 is assets.
        channel / "ChannelType": i32,
        /// Unused.
        target / "TargetType": i32,
        /// 0 is fine, negative values are failures.
        status / "Status": i32,
        /// Bytes of the whole asset.
        size / "Size": i32,
        /// The request's parameters again.
        params / "Params": Variable2<'a>,
    }
}

single_block_message! {
    /// A packet of a transfer.
    TransferPacket<'a> = TRANSFER_PACKET {
        /// As requested.
        transfer / "TransferID": Uuid,
        /// 2 is assets.
        channel / "ChannelType": i32,
        /// Counts from 0.
        packet / "Packet": i32,
        /// 0 when more follow, 1 for the last, negative for failures.
        status / "Status": i32,
        /// Its bytes.
        data / "Data": Variable2<'a>,
    }
}

single_block_message! {
    /// The viewer no longer wants the transfer.
    TransferAbort = TRANSFER_ABORT {
        /// As requested.
        transfer / "TransferID": Uuid,
        /// 2 is assets.
        channel / "ChannelType": i32,
    }
}

#[cfg(test)]
mod tests;
