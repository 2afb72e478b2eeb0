//! Values into octets, with lengths in as few octets as hold them.

use std::io;

use bytes::{BufMut as _, BytesMut};

use crate::structure::{PL, StructureTag};

/// The bit that says that a value holds values.
pub(crate) const CONSTRUCTED: u8 = 0x20;
/// The largest tag number of one octet.
pub(crate) const LAST_ID: u8 = 30;

/// Puts a value behind what is in `buffer`.
///
/// # Errors
///
/// A tag's number above 30, of which LDAP has none.
pub fn encode_into(buffer: &mut BytesMut, tag: StructureTag) -> io::Result<()> {
    let length = length_of(&tag);
    buffer.reserve(length);
    put(buffer, &tag)
}

fn put(buffer: &mut BytesMut, tag: &StructureTag) -> io::Result<()> {
    let id = u8::try_from(tag.id).ok().filter(|id| *id <= LAST_ID);
    let id = id.ok_or_else(|| io::Error::other("a tag's number above 30"))?;
    let first = (tag.class as u8) << 6 | id;
    let length = content_length(&tag.payload);
    match &tag.payload {
        PL::P(octets) => {
            buffer.put_u8(first);
            put_length(buffer, length);
            buffer.put_slice(octets);
        }
        PL::C(values) => {
            buffer.put_u8(first | CONSTRUCTED);
            put_length(buffer, length);
            for value in values {
                put(buffer, value)?;
            }
        }
    }
    Ok(())
}

fn put_length(buffer: &mut BytesMut, length: usize) {
    match u8::try_from(length) {
        Ok(short @ ..=0x7f) => buffer.put_u8(short),
        _ => {
            let octets = length.to_be_bytes();
            let used = octets_of(length);
            buffer.put_u8(0x80 | u8::try_from(used).unwrap_or(u8::MAX));
            let unused = octets.len().saturating_sub(used);
            buffer.extend(octets.into_iter().skip(unused));
        }
    }
}

/// How many octets a number has.
fn octets_of(number: usize) -> usize {
    let unused = number.leading_zeros() as usize / 8;
    size_of::<usize>().saturating_sub(unused).max(1)
}

fn length_of(tag: &StructureTag) -> usize {
    let content = content_length(&tag.payload);
    let length = if content < 0x80 {
        1
    } else {
        1 + octets_of(content)
    };
    content.saturating_add(1 + length)
}

/// Requests are nested a few levels deep, so that counting anew at each of them costs less than copying.
fn content_length(payload: &PL) -> usize {
    match payload {
        PL::P(octets) => octets.len(),
        PL::C(values) => values.iter().map(length_of).sum(),
    }
}
