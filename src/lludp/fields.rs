//! Reading and writing the fields of a message body in template order.
//!
//! Integers are little-endian, except ports; UUIDs are raw; a variable field has a length of one or
//! two bytes in front. Source: `message_template.msg`, and Second Life viewer,
//! indra/llmessage/lltemplatemessagereader.cpp.

use std::net::Ipv4Addr;

use nom::bytes::complete::take;
use nom::number::complete::{be_u16, le_f32, le_i32, le_u8, le_u16, le_u32, le_u64};
use nom::{IResult, Parser};
use uuid::Uuid;

use super::error::{DecodeError, DecodeErrorKind};
use super::header::SequenceNumber;
use super::number::MessageNumber;
use crate::grid::{AgentId, CircuitCode, RegionHandle, SessionId};
use crate::redact::Redacted;

/// A message whose body we read.
pub trait MessageBody<'a>: Sized {
    /// The message's number.
    const NUMBER: MessageNumber;

    /// Reads a decoded body, as [`super::Packet::body`] gives it. Blocks missing at its end read as
    /// zeros, as the viewer reads them; bytes behind the last block are ignored.
    ///
    /// # Errors
    /// When the body ends inside a block, or is empty though the message has fields.
    fn decode(body: &'a [u8]) -> Result<Self, DecodeError>;

    /// Appends the body to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

/// What is left of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body, len: body.len() }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Bytes read so far.
    pub(super) const fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    /// True where a block may be missing.
    pub(super) const fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads one field.
    pub(super) fn read<T: Field<'a>>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        let (rest, value) = T::parse(self.rest)
            .map_err(|_| DecodeError::new(self.offset(), name, DecodeErrorKind::Truncated))?;
        self.rest = rest;
        Ok(value)
    }

    /// The count of a variable block; a missing one is 0.
    pub(super) fn read_count(&mut self, block: &'static str) -> Result<usize, DecodeError> {
        if self.at_end() { Ok(0) } else { self.read::<u8>(block).map(usize::from) }
    }

    /// All of a variable block whose repeats have `size` bytes each.
    pub(super) fn read_block(&mut self, block: &'static str, size: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.read_count(block)? * size;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::new(
            self.offset(),
            block,
            DecodeErrorKind::Truncated,
        ))?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// A template type.
pub(super) trait Field<'a>: Sized {
    /// Reads it off the front.
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()>;

    /// Appends it.
    fn write(&self, out: &mut Vec<u8>);

    /// What a missing block says.
    fn missing() -> Self;
}

macro_rules! number_field {
    ($($type:ty: $parser:ident;)*) => {
        $(impl<'a> Field<'a> for $type {
            fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
                $parser(input)
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn missing() -> Self {
                Self::default()
            }
        })*
    };
}

number_field! {
    u8: le_u8;
    u16: le_u16;
    u32: le_u32;
    i32: le_i32;
    u64: le_u64;
    f32: le_f32;
}

/// Types that are another field in a coat of their own.
macro_rules! wrapped_field {
    ($($type:ty as $inner:ty: $wrap:expr, $unwrap:expr;)*) => {
        $(impl<'a> Field<'a> for $type {
            fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
                <$inner as Field<'a>>::parse(input).map(|(rest, value)| (rest, $wrap(value)))
            }

            fn write(&self, out: &mut Vec<u8>) {
                let unwrap: fn(&$type) -> $inner = $unwrap;
                unwrap(self).write(out);
            }

            fn missing() -> Self {
                $wrap(<$inner as Field<'a>>::missing())
            }
        })*
    };
}

wrapped_field! {
    SequenceNumber as u32: SequenceNumber, |number| number.0;
    AgentId as Uuid: AgentId, |agent| agent.0;
    SessionId as Uuid: |id| SessionId(Redacted::new(id)), |session| *session.0.reveal();
    Redacted<CircuitCode> as u32: |code| Redacted::new(CircuitCode(code)), |code| code.reveal().0;
    RegionHandle as u64: RegionHandle, |handle| handle.0;
    i8 as u8: u8::cast_signed, |value| value.cast_unsigned();
}

impl<'a> Field<'a> for Uuid {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        take(16_usize).map_opt(|raw: &[u8]| Self::from_slice(raw).ok()).parse_complete(input)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn missing() -> Self {
        Self::nil()
    }
}

impl<'a> Field<'a> for Ipv4Addr {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        nom::number::complete::be_u32.map(Self::from_bits).parse_complete(input)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets());
    }

    fn missing() -> Self {
        Self::UNSPECIFIED
    }
}

/// IPPORT: the one integer in a body that is big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port(pub u16);

impl<'a> Field<'a> for Port {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        be_u16.map(Self).parse_complete(input)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn missing() -> Self {
        Self(0)
    }
}

/// `LLVector3`: x, y, z.
impl<'a> Field<'a> for [f32; 3] {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        (le_f32, le_f32, le_f32).map(|(x, y, z)| [x, y, z]).parse_complete(input)
    }

    fn write(&self, out: &mut Vec<u8>) {
        for component in self {
            component.write(out);
        }
    }

    fn missing() -> Self {
        [0.0; 3]
    }
}

/// Variable 1: at most 255 bytes. Text normally ends in a NUL that the length counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Variable1<'a>(pub &'a [u8]);

/// Variable 2: at most 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Variable2<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Variable1<'a> {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        nom::multi::length_data(le_u8).map(Self).parse_complete(input)
    }

    /// Writes at most 255 bytes.
    fn write(&self, out: &mut Vec<u8>) {
        let len = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        len.write(out);
        out.extend(self.0.iter().take(usize::from(len)));
    }

    fn missing() -> Self {
        Self::default()
    }
}

impl<'a> Field<'a> for Variable2<'a> {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        nom::multi::length_data(le_u16).map(Self).parse_complete(input)
    }

    /// Writes at most 65,535 bytes.
    fn write(&self, out: &mut Vec<u8>) {
        let len = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        len.write(out);
        out.extend(self.0.iter().take(usize::from(len)));
    }

    fn missing() -> Self {
        Self::default()
    }
}

impl<'a> Field<'a> for Redacted<Variable2<'a>> {
    fn parse(input: &'a [u8]) -> IResult<&'a [u8], Self, ()> {
        Variable2::parse(input).map(|(rest, value)| (rest, Self::new(value)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.reveal().write(out);
    }

    fn missing() -> Self {
        Self::new(Variable2::default())
    }
}

/// Defines a message whose blocks are all `Single`: the first in braces, those that may be missing
/// each behind `then`.
macro_rules! single_block_message {
    (
        $(#[$doc:meta])*
        $name:ident $(<$life:lifetime>)? = $number:ident {
            $($(#[$first_doc:meta])* $first:ident / $first_name:literal: $first_type:ty,)*
        }
        $(then {
            $($(#[$next_doc:meta])* $next:ident / $next_name:literal: $next_type:ty,)+
        })*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name $(<$life>)? {
            $($(#[$first_doc])* pub $first: $first_type,)*
            $($($(#[$next_doc])* pub $next: $next_type,)+)*
        }

        impl<'a> $crate::lludp::fields::MessageBody<'a>
            for $crate::lludp::fields::single_block_message!(@with_life $name $($life)?)
        {
            const NUMBER: $crate::lludp::number::MessageNumber =
                $crate::lludp::number::MessageNumber::$number;

            #[allow(unused_mut, unused_variables)]
            fn decode(body: &'a [u8]) -> Result<Self, $crate::lludp::error::DecodeError> {
                let mut fields = $crate::lludp::fields::Fields::new(body);
                $(let $first = fields.read::<$first_type>($first_name)?;)*
                $(
                    let missing = fields.at_end();
                    $(
                        let $next = if missing {
                            <$next_type as $crate::lludp::fields::Field<'a>>::missing()
                        } else {
                            fields.read::<$next_type>($next_name)?
                        };
                    )+
                )*
                Ok(Self { $($first,)* $($($next,)+)* })
            }

            #[allow(unused_variables)]
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::lludp::fields::Field::write(&self.$first, out);)*
                $($($crate::lludp::fields::Field::write(&self.$next, out);)+)*
            }
        }
    };
    (@with_life $name:ident) => { $name };
    (@with_life $name:ident $life:lifetime) => { $name<'a> };
}
pub(super) use single_block_message;
