//! Octets that a server sent into values.
//!
//! Limits: 16 levels (the deepest message of LDAP, a search result with its controls or what synchronisation says, has seven), 16 MiB,
//! 262,144 values. Lengths are definite, as RFC 4511 (5.1) has them, in four octets at most; tags have one octet. A value that
//! is not all there yet is "incomplete" as long as it is within the limits; what is wrong with it is found when it is.
//!
//! A value that is longer than the one it is in can never be right, whatever else comes.

use nom::{
    IResult, Needed,
    error::{Error, ErrorKind, ParseError as _},
};

use crate::{
    common::TagClass,
    structure::{PL, StructureTag},
    write::{CONSTRUCTED, LAST_ID},
};

/// The deepest nesting.
pub const MAX_DEPTH: usize = 16;
/// The longest value, without its own tag and length.
pub const MAX_BYTES: usize = 16 << 20;
/// All values within one, itself included.
pub const MAX_VALUES: usize = 1 << 18;

/// Has no state: a value is parsed when all of it is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parser;

impl Parser {
    /// Makes one.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Parses the first value of `input`.
    ///
    /// # Errors
    ///
    /// As [`parse_tag`].
    pub fn parse<'a>(&mut self, input: &'a [u8]) -> IResult<&'a [u8], StructureTag> {
        parse_tag(input)
    }
}

/// Parses the first value of `input`; what is behind it comes back.
///
/// # Errors
///
/// [`nom::Err::Incomplete`] when the value may be right but is not all there, else [`nom::Err::Failure`].
pub fn parse_tag(input: &[u8]) -> IResult<&[u8], StructureTag> {
    let mut values = MAX_VALUES;
    match value(input, MAX_DEPTH, &mut values) {
        Ok((value, rest)) => Ok((rest, value)),
        Err(Wrong::Short) => Err(nom::Err::Incomplete(Needed::Unknown)),
        Err(Wrong::Form) => Err(failure(input, ErrorKind::Verify)),
        Err(Wrong::Limit) => Err(failure(input, ErrorKind::TooLarge)),
    }
}

/// The number in `input`, all of it; of more than eight octets the last eight.
///
/// # Errors
///
/// None.
pub fn parse_uint(input: &[u8]) -> IResult<&[u8], u64> {
    let number = input
        .iter()
        .fold(0, |number: u64, octet| number << 8 | u64::from(*octet));
    Ok((input, number))
}

fn failure(input: &[u8], kind: ErrorKind) -> nom::Err<Error<&[u8]>> {
    nom::Err::Failure(Error::from_error_kind(input, kind))
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Wrong {
    /// Not all of it is there.
    Short,
    /// It is none of LDAP's.
    Form,
    /// It breaks a limit.
    Limit,
}

/// The first value, with `depth` levels left and `values` values.
fn value<'a>(
    input: &'a [u8],
    depth: usize,
    values: &mut usize,
) -> Result<(StructureTag, &'a [u8]), Wrong> {
    let depth = depth.checked_sub(1).ok_or(Wrong::Limit)?;
    *values = values.checked_sub(1).ok_or(Wrong::Limit)?;
    let (first, rest) = input.split_first().ok_or(Wrong::Short)?;
    let id = first & 0x1f;
    if id > LAST_ID {
        return Err(Wrong::Form);
    }
    let (length, rest) = length(rest)?;
    let (mut content, rest) = rest.split_at_checked(length).ok_or(Wrong::Short)?;
    let payload = if first & CONSTRUCTED == 0 {
        PL::P(content.to_vec())
    } else {
        let mut inner = Vec::new();
        while !content.is_empty() {
            let (one, behind) = value(content, depth, values).map_err(Wrong::within)?;
            inner.push(one);
            content = behind;
        }
        PL::C(inner)
    };
    let value = StructureTag {
        class: TagClass::of_octet(*first),
        id: u64::from(id),
        payload,
    };
    Ok((value, rest))
}

fn length(input: &[u8]) -> Result<(usize, &[u8]), Wrong> {
    let (first, rest) = input.split_first().ok_or(Wrong::Short)?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // Indefinite; and more octets than any length that we take has.
        0x80 | 0x85.. => return Err(Wrong::Form),
        0x81..=0x84 => {
            let (octets, rest) = rest
                .split_at_checked(usize::from(first & 0x7f))
                .ok_or(Wrong::Short)?;
            let length = octets
                .iter()
                .fold(0, |length, octet| length << 8 | usize::from(*octet));
            (length, rest)
        }
    };
    if length > MAX_BYTES {
        return Err(Wrong::Limit);
    }
    Ok((length, rest))
}

impl Wrong {
    /// What it is when the value is in another one, which is all there.
    fn within(self) -> Self {
        match self {
            Self::Short => Self::Form,
            wrong => wrong,
        }
    }
}
