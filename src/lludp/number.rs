//! Message numbers: which message a packet carries.
//!
//! ```text
//! nn            High     0x0000_00nn
//! FF nn         Medium   0x0000_FFnn
//! FF FF hh ll   Low      0xFFFF_hhll
//! FF FF FF nn   Fixed    0xFFFF_FFnn
//! ```
//! Source: Second Life viewer, indra/llmessage/lltemplatemessagereader.cpp (`decodeTemplate`).

/// A message's number in one normalised form, as the file's picture shows. Numbers without a name
/// here are kept: they are forwarded like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageNumber(pub u32);

/// How often a message is expected; decides how many bytes its number takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Frequency {
    /// One byte.
    High,
    /// Two bytes.
    Medium,
    /// Four bytes.
    Low,
    /// Four bytes; the messages that keep circuits alive.
    Fixed,
}

impl MessageNumber {
    /// High frequency message `n`.
    #[must_use]
    pub const fn high(n: u8) -> Self {
        Self(n as u32)
    }

    /// Medium frequency message `n`.
    #[must_use]
    pub const fn medium(n: u8) -> Self {
        Self(0xFF00 | n as u32)
    }

    /// Low frequency message `n`.
    #[must_use]
    pub const fn low(n: u16) -> Self {
        Self(0xFFFF_0000 | n as u32)
    }

    /// Fixed message `n`.
    #[must_use]
    pub const fn fixed(n: u8) -> Self {
        Self(0xFFFF_FF00 | n as u32)
    }

    /// Reads a number off the start of a decoded message. `None` when the bytes end inside it.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        match *message {
            [0xFF, 0xFF, high, low, ..] => Some(Self::low(u16::from_be_bytes([high, low]))),
            [0xFF, 0xFF, ..] => None,
            [0xFF, n, ..] => Some(Self::medium(n)),
            [0xFF] | [] => None,
            [n, ..] => Some(Self::high(n)),
        }
    }

    /// The class of the message.
    #[must_use]
    pub const fn frequency(self) -> Frequency {
        match self.0 {
            0..=0xFEFF => Frequency::High,
            0xFF00..=0xFFFE_FFFF => Frequency::Medium,
            0xFFFF_0000..=0xFFFF_FEFF => Frequency::Low,
            0xFFFF_FF00.. => Frequency::Fixed,
        }
    }

    /// Bytes the number takes in a message before zero-coding: 1, 2 or 4.
    #[must_use]
    pub const fn encoded_len(self) -> usize {
        match self.frequency() {
            Frequency::High => 1,
            Frequency::Medium => 2,
            Frequency::Low | Frequency::Fixed => 4,
        }
    }

    /// Appends the number as it stands in front of a message.
    pub fn write(self, out: &mut Vec<u8>) {
        let bytes = self.0.to_be_bytes();
        out.extend_from_slice(bytes.get(4 - self.encoded_len()..).unwrap_or_default());
    }
}

/// Builds the constants and the name table from one list.
macro_rules! message_numbers {
    ($($constant:ident $name:literal $frequency:ident $number:literal;)*) => {
        impl MessageNumber {
            $(
                #[doc = concat!("`", $name, "`.")]
                pub const $constant: Self = Self::$frequency($number);
            )*

            /// Every message that has a name here.
            pub const NAMED: &[Self] = &[$(Self::$constant),*];

            /// The message's name in the template, when it is one of those met in sessions.
            /// Source: Second Life, `message_template.msg`.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

message_numbers! {
    PACKET_ACK "PacketAck" fixed 0xFB;
    OPEN_CIRCUIT "OpenCircuit" fixed 0xFC;
    CLOSE_CIRCUIT "CloseCircuit" fixed 0xFD;
    START_PING_CHECK "StartPingCheck" high 1;
    COMPLETE_PING_CHECK "CompletePingCheck" high 2;
    AGENT_UPDATE "AgentUpdate" high 4;
    AGENT_ANIMATION "AgentAnimation" high 5;
    REQUEST_IMAGE "RequestImage" high 8;
    IMAGE_DATA "ImageData" high 9;
    IMAGE_PACKET "ImagePacket" high 10;
    LAYER_DATA "LayerData" high 11;
    OBJECT_UPDATE "ObjectUpdate" high 12;
    OBJECT_UPDATE_COMPRESSED "ObjectUpdateCompressed" high 13;
    OBJECT_UPDATE_CACHED "ObjectUpdateCached" high 14;
    IMPROVED_TERSE_OBJECT_UPDATE "ImprovedTerseObjectUpdate" high 15;
    KILL_OBJECT "KillObject" high 16;
    TRANSFER_PACKET "TransferPacket" high 17;
    SEND_XFER_PACKET "SendXferPacket" high 18;
    CONFIRM_XFER_PACKET "ConfirmXferPacket" high 19;
    AVATAR_ANIMATION "AvatarAnimation" high 20;
    CAMERA_CONSTRAINT "CameraConstraint" high 22;
    PARCEL_PROPERTIES "ParcelProperties" high 23;
    SOUND_TRIGGER "SoundTrigger" high 29;
    OBJECT_ANIMATION "ObjectAnimation" high 30;
    MULTIPLE_OBJECT_UPDATE "MultipleObjectUpdate" medium 2;
    REQUEST_MULTIPLE_OBJECTS "RequestMultipleObjects" medium 3;
    COARSE_LOCATION_UPDATE "CoarseLocationUpdate" medium 6;
    CROSSED_REGION "CrossedRegion" medium 7;
    CONFIRM_ENABLE_SIMULATOR "ConfirmEnableSimulator" medium 8;
    OBJECT_PROPERTIES "ObjectProperties" medium 9;
    OBJECT_PROPERTIES_FAMILY "ObjectPropertiesFamily" medium 10;
    PARCEL_PROPERTIES_REQUEST "ParcelPropertiesRequest" medium 11;
    ATTACHED_SOUND "AttachedSound" medium 13;
    PRELOAD_SOUND "PreloadSound" medium 15;
    VIEWER_EFFECT "ViewerEffect" medium 17;
    USE_CIRCUIT_CODE "UseCircuitCode" low 3;
    ECONOMY_DATA_REQUEST "EconomyDataRequest" low 24;
    ECONOMY_DATA "EconomyData" low 25;
    TELEPORT_REQUEST "TeleportRequest" low 62;
    TELEPORT_LOCATION_REQUEST "TeleportLocationRequest" low 63;
    TELEPORT_LOCAL "TeleportLocal" low 64;
    TELEPORT_LANDMARK_REQUEST "TeleportLandmarkRequest" low 65;
    TELEPORT_PROGRESS "TeleportProgress" low 66;
    TELEPORT_FINISH "TeleportFinish" low 69;
    TELEPORT_LURE_REQUEST "TeleportLureRequest" low 71;
    TELEPORT_CANCEL "TeleportCancel" low 72;
    TELEPORT_START "TeleportStart" low 73;
    TELEPORT_FAILED "TeleportFailed" low 74;
    AGENT_PAUSE "AgentPause" low 78;
    AGENT_RESUME "AgentResume" low 79;
    CHAT_FROM_VIEWER "ChatFromViewer" low 80;
    AGENT_THROTTLE "AgentThrottle" low 81;
    AGENT_FOV "AgentFOV" low 82;
    AGENT_HEIGHT_WIDTH "AgentHeightWidth" low 83;
    AGENT_SET_APPEARANCE "AgentSetAppearance" low 84;
    IMAGE_NOT_IN_DATABASE "ImageNotInDatabase" low 86;
    REBAKE_AVATAR_TEXTURES "RebakeAvatarTextures" low 87;
    SET_ALWAYS_RUN "SetAlwaysRun" low 88;
    OBJECT_SELECT "ObjectSelect" low 110;
    OBJECT_DESELECT "ObjectDeselect" low 111;
    ALERT_MESSAGE "AlertMessage" low 134;
    HEALTH_MESSAGE "HealthMessage" low 138;
    CHAT_FROM_SIMULATOR "ChatFromSimulator" low 139;
    SIM_STATS "SimStats" low 140;
    REQUEST_REGION_INFO "RequestRegionInfo" low 141;
    REGION_INFO "RegionInfo" low 142;
    REGION_HANDSHAKE "RegionHandshake" low 148;
    REGION_HANDSHAKE_REPLY "RegionHandshakeReply" low 149;
    SIMULATOR_VIEWER_TIME_MESSAGE "SimulatorViewerTimeMessage" low 150;
    ENABLE_SIMULATOR "EnableSimulator" low 151;
    DISABLE_SIMULATOR "DisableSimulator" low 152;
    TRANSFER_REQUEST "TransferRequest" low 153;
    TRANSFER_INFO "TransferInfo" low 154;
    TRANSFER_ABORT "TransferAbort" low 155;
    REQUEST_XFER "RequestXfer" low 156;
    ABORT_XFER "AbortXfer" low 157;
    AVATAR_APPEARANCE "AvatarAppearance" low 158;
    KICK_USER "KickUser" low 163;
    SCRIPT_CONTROL_CHANGE "ScriptControlChange" low 189;
    LOAD_URL "LoadURL" low 194;
    PARCEL_OVERLAY "ParcelOverlay" low 196;
    PARCEL_ACCESS_LIST_REQUEST "ParcelAccessListRequest" low 215;
    PARCEL_ACCESS_LIST_REPLY "ParcelAccessListReply" low 216;
    PARCEL_DWELL_REQUEST "ParcelDwellRequest" low 218;
    PARCEL_DWELL_REPLY "ParcelDwellReply" low 219;
    UUID_NAME_REQUEST "UUIDNameRequest" low 235;
    UUID_NAME_REPLY "UUIDNameReply" low 236;
    COMPLETE_AGENT_MOVEMENT "CompleteAgentMovement" low 249;
    AGENT_MOVEMENT_COMPLETE "AgentMovementComplete" low 250;
    LOGOUT_REQUEST "LogoutRequest" low 252;
    LOGOUT_REPLY "LogoutReply" low 253;
    IMPROVED_INSTANT_MESSAGE "ImprovedInstantMessage" low 254;
    RETRIEVE_INSTANT_MESSAGES "RetrieveInstantMessages" low 255;
    MUTE_LIST_REQUEST "MuteListRequest" low 262;
    MONEY_BALANCE_REQUEST "MoneyBalanceRequest" low 313;
    MONEY_BALANCE_REPLY "MoneyBalanceReply" low 314;
    ONLINE_NOTIFICATION "OnlineNotification" low 322;
    OFFLINE_NOTIFICATION "OfflineNotification" low 323;
    ASSET_UPLOAD_REQUEST "AssetUploadRequest" low 333;
    ASSET_UPLOAD_COMPLETE "AssetUploadComplete" low 334;
    AGENT_WEARABLES_REQUEST "AgentWearablesRequest" low 381;
    AGENT_WEARABLES_UPDATE "AgentWearablesUpdate" low 382;
    AGENT_IS_NOW_WEARING "AgentIsNowWearing" low 383;
    AGENT_CACHED_TEXTURE "AgentCachedTexture" low 384;
    AGENT_CACHED_TEXTURE_RESPONSE "AgentCachedTextureResponse" low 385;
    AGENT_DATA_UPDATE_REQUEST "AgentDataUpdateRequest" low 386;
    AGENT_DATA_UPDATE "AgentDataUpdate" low 387;
    DENY_TRUSTED_CIRCUIT "DenyTrustedCircuit" low 393;
    MAP_LAYER_REQUEST "MapLayerRequest" low 405;
    MAP_BLOCK_REQUEST "MapBlockRequest" low 407;
    MAP_NAME_REQUEST "MapNameRequest" low 408;
    MAP_BLOCK_REPLY "MapBlockReply" low 409;
    MAP_ITEM_REQUEST "MapItemRequest" low 410;
    MAP_ITEM_REPLY "MapItemReply" low 411;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::{Frequency, MessageNumber};

    #[test]
    fn numbers_travel_in_one_two_or_four_bytes() {
        let written = |number: MessageNumber| {
            let mut out = Vec::new();
            number.write(&mut out);
            out
        };
        assert_eq!(written(MessageNumber::START_PING_CHECK), [1]);
        assert_eq!(written(MessageNumber::CROSSED_REGION), [0xFF, 7]);
        assert_eq!(written(MessageNumber::LOGOUT_REPLY), [0xFF, 0xFF, 0, 253]);
        assert_eq!(written(MessageNumber::PACKET_ACK), [0xFF, 0xFF, 0xFF, 0xFB]);
        for &number in MessageNumber::NAMED {
            assert_eq!(MessageNumber::read(&written(number)), Some(number));
            assert_eq!(written(number).len(), number.encoded_len());
        }
    }

    #[test]
    fn a_cut_number_is_no_number() {
        for cut in [&[][..], &[0xFF], &[0xFF, 0xFF], &[0xFF, 0xFF, 0], &[0xFF, 0xFF, 0xFF]] {
            assert_eq!(MessageNumber::read(cut), None, "{cut:02X?}");
        }
    }

    #[test]
    fn every_named_number_is_named_once() {
        let names: HashSet<_> = MessageNumber::NAMED.iter().map(|number| number.name().unwrap()).collect();
        assert_eq!(names.len(), MessageNumber::NAMED.len());
        assert_eq!(MessageNumber::high(200).name(), None);
        assert_eq!(MessageNumber::low(3).name(), Some("UseCircuitCode"));
        assert_eq!(MessageNumber::low(0xFFFB), MessageNumber::PACKET_ACK);
        assert_eq!(MessageNumber::PACKET_ACK.frequency(), Frequency::Fixed);
    }
}
