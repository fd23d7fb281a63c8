//! One datagram as a packet: reading it, building it, and changing numbering in place.

use super::error::{DecodeError, DecodeErrorKind};
use super::header::{HEADER_BYTES, Header, MIN_DATAGRAM, PacketFlags, SequenceNumber};
use super::number::MessageNumber;
use super::zerocode;

/// Most acks that [`append_acks`] puts on one packet.
/// Source: Second Life viewer, indra/llmessage/message.cpp (`sendMessage`).
pub const MAX_APPENDED_ACKS: usize = 250;

/// A datagram taken apart, borrowing from it. The body stays coded until asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The flags byte as it came.
    pub flags: PacketFlags,
    /// The packet's own number.
    pub sequence: SequenceNumber,
    /// Bytes between message number and body; they have no meaning and are 0 in practice.
    pub extra_len: u8,
    /// Which message this is, read through zero-coding.
    pub number: MessageNumber,
    /// From the message number up to the ack trailer, still zero-coded when the flag is set.
    pub raw_body: &'a [u8],
    /// The appended acks, four bytes each.
    trailer: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Takes a datagram apart; reads no body.
    ///
    /// # Errors
    /// When a viewer would drop the datagram as malformed: shorter than 7 bytes with or without
    /// its trailer, or ending inside the message number.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        if datagram.len() < MIN_DATAGRAM {
            return Err(DecodeError::new(datagram.len(), "header", DecodeErrorKind::Truncated));
        }
        let (after_header, header) = Header::read(datagram)?;
        let trailer_len = trailer_len(datagram, header.flags)?;
        let message_len = after_header.len().saturating_sub(trailer_len);
        let (raw_body, trailer) = after_header.split_at_checked(message_len).ok_or(DecodeError::new(
            datagram.len(),
            "acks",
            DecodeErrorKind::AckTrailer,
        ))?;
        let start = if header.flags.contains(PacketFlags::ZEROCODED) {
            zerocode::peek(raw_body)
        } else {
            zerocode::Peek::plain(raw_body)
        };
        let number = MessageNumber::read(start.as_slice()).ok_or(DecodeError::new(
            HEADER_BYTES,
            "message number",
            DecodeErrorKind::Truncated,
        ))?;
        // The trailer's last byte is the count.
        let trailer = trailer.split_last().map_or(trailer, |(_, acks)| acks);
        let Header { flags, sequence, extra_len } = header;
        Ok(Self { flags, sequence, extra_len, number, raw_body, trailer })
    }

    /// The appended acks in the order they stand in; the order has no meaning.
    pub fn acks(&self) -> impl ExactSizeIterator<Item = SequenceNumber> + use<'a> {
        let (ids, _) = self.trailer.as_chunks::<4>();
        ids.iter().map(|id| SequenceNumber(u32::from_be_bytes(*id)))
    }

    /// The decoded body behind number and extra bytes. `scratch` is overwritten when the packet is
    /// zero-coded, and left alone when it is not.
    ///
    /// # Errors
    /// When the expansion exceeds [`zerocode::MAX_EXPANDED`], or the extra bytes are cut.
    pub fn body<'s>(&self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], DecodeError>
    where
        'a: 's,
    {
        let message: &'s [u8] = if self.flags.contains(PacketFlags::ZEROCODED) {
            zerocode::expand_into(self.raw_body, scratch)?;
            scratch
        } else {
            self.raw_body
        };
        // Extra bytes come after the number, not before it.
        // Source: Second Life viewer, indra/llmessage/lltemplatemessagereader.cpp (`decodeData`).
        let start = self.number.encoded_len() + usize::from(self.extra_len);
        message.get(start..).ok_or(DecodeError::new(
            HEADER_BYTES + message.len(),
            "extra header",
            DecodeErrorKind::Truncated,
        ))
    }
}

/// Length of acks and count byte; 0 without the ACK flag.
fn trailer_len(datagram: &[u8], flags: PacketFlags) -> Result<usize, DecodeError> {
    if !flags.contains(PacketFlags::ACK) {
        return Ok(0);
    }
    let error = DecodeError::new(datagram.len().saturating_sub(1), "acks", DecodeErrorKind::AckTrailer);
    let count = *datagram.last().ok_or(error)?;
    let len = 1 + 4 * usize::from(count);
    if datagram.len() < MIN_DATAGRAM + len {
        return Err(error);
    }
    Ok(len)
}

/// Overwrites the sequence number. A datagram too short to have one is left alone.
pub fn set_sequence(datagram: &mut [u8], sequence: SequenceNumber) {
    if let Some(field) = datagram.get_mut(1..5) {
        field.copy_from_slice(&sequence.0.to_be_bytes());
    }
}

/// Removes the ack trailer and its flag.
///
/// # Errors
/// When the trailer claims more than there is; the datagram is unchanged then.
pub fn strip_acks(datagram: &mut Vec<u8>) -> Result<(), DecodeError> {
    let Some(flags) = datagram.first().copied().map(PacketFlags) else {
        return Ok(());
    };
    let len = trailer_len(datagram, flags)?;
    datagram.truncate(datagram.len() - len);
    if let Some(first) = datagram.first_mut() {
        *first = flags.without(PacketFlags::ACK).0;
    }
    Ok(())
}

/// Appends a trailer to a datagram that has none and returns the acks that found no room in it:
/// those beyond [`MAX_APPENDED_ACKS`]. Without acks nothing changes.
pub fn append_acks<'a>(datagram: &mut Vec<u8>, acks: &'a [SequenceNumber]) -> &'a [SequenceNumber] {
    let (taken, left) = acks.split_at_checked(MAX_APPENDED_ACKS).unwrap_or((acks, &[]));
    let count = u8::try_from(taken.len()).unwrap_or(u8::MAX);
    if let (1.., Some(first)) = (count, datagram.first_mut()) {
        *first = PacketFlags(*first).with(PacketFlags::ACK).0;
        for ack in taken {
            datagram.extend_from_slice(&ack.0.to_be_bytes());
        }
        datagram.push(count);
    }
    left
}

/// Builds a datagram around a plain body, without extra bytes.
///
/// With `zerocode` the message is coded if that makes it smaller. The flags ZEROCODED and ACK are
/// set or cleared here whatever `flags` says. Acks beyond [`MAX_APPENDED_ACKS`] are left out.
#[must_use]
pub fn encode_packet(
    flags: PacketFlags,
    sequence: SequenceNumber,
    number: MessageNumber,
    body: &[u8],
    acks: &[SequenceNumber],
    zerocode: bool,
) -> Vec<u8> {
    let mut flags = flags.without(PacketFlags::ZEROCODED).without(PacketFlags::ACK);
    let mut message = Vec::with_capacity(number.encoded_len() + body.len());
    number.write(&mut message);
    message.extend_from_slice(body);
    if zerocode {
        let mut packed = Vec::with_capacity(message.len());
        zerocode::pack(&message, &mut packed);
        if packed.len() < message.len() {
            flags = flags.with(PacketFlags::ZEROCODED);
            message = packed;
        }
    }
    let mut datagram = Vec::with_capacity(HEADER_BYTES + message.len() + 4 * acks.len() + 1);
    datagram.push(flags.0);
    datagram.extend_from_slice(&sequence.0.to_be_bytes());
    datagram.push(0);
    datagram.append(&mut message);
    append_acks(&mut datagram, acks);
    datagram
}

#[cfg(test)]
mod tests;
