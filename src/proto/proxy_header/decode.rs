//! Reading the header: exactly its octets, in whatever pieces they arrive, and not one of what follows it.
//!
//! ```text
//! arrived ─> take ─> (how many of them are the header's, nothing yet) ─> those are read, and more are waited for
//!                 ─> (how many of them are the header's, what it says)─> the next octet is the client's
//! ```
//!
//! The driver looks at what has arrived without reading it, and then reads as many octets as it was told. What is wrong
//! is an error as soon as it is seen, and always the same one however the octets were cut.
//!
//! What is taken is what the specification allows a sender ("The PROXY protocol, versions 1 & 2"), and for TCP alone:
//!
//! - version 1: one space between words, no zero in front of a number, addresses of the family that is named, nothing
//!   but printable ASCII, CR LF at the end. Behind `UNKNOWN` whatever is printable is passed over;
//! - version 2: `PROXY` for TCP over IPv4 or IPv6; `LOCAL`, of which all else is passed over. Of the TLVs, those that
//!   we know must be right and come once at most, and CRC32C must fit; others are passed over, but must have their
//!   length.
//!
//! It does not know who may send a header, nor whether what it says of TLS is to be believed.
//!
//! Limits: 107 octets in version 1, 4112 in version 2.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use super::{
    CLIENT_SSL, LOCAL, PROXY, SIGNATURE, SSL, SSL_CIPHER, SSL_VERSION, TCP4, TCP6, UNIQUE_ID,
};
use crate::names::{ClientAddr, LocalAddr};

const V1_START: &[u8; 6] = b"PROXY ";
/// The specification's own, with CR LF.
const V1_MAX: usize = 107;
/// Signature, command, family, length.
const V2_HEAD: usize = 16;
/// Addresses and TLVs; the specification wants at least 520.
const V2_MAX_REST: usize = 4096;
/// The specification's own.
const MAX_ID: usize = 128;
/// Versions and ciphers are shorter.
const MAX_TLS_WORD: usize = 64;

pub(super) const CRC32C: u8 = 0x03;
const CRC32C_BYTES: usize = 4;

/// What a balancer says of a connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Introduction {
    /// Where the client connected from, and where to; none for a connection on behalf of nobody.
    pub addresses: Option<(ClientAddr, LocalAddr)>,
    /// The balancer's own id of it, if that is printable ASCII.
    pub id: Option<String>,
    /// TLS between client and balancer.
    pub tls: Option<Tls>,
}

/// TLS that the balancer has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// As `TLSv1.3`.
    pub version: String,
    /// As the balancer's library calls it, if it says.
    pub cipher: Option<String>,
}

/// Why something is not a header that we take.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// Version 1: an address that is none, or not of the family.
    #[error("has a malformed address")]
    Address,
    /// Version 1: something that is no printable ASCII.
    #[error("has a character that is not printable")]
    Character,
    /// Version 2: the checksum.
    #[error("has a wrong checksum")]
    Checksum,
    /// Version 2: neither LOCAL nor PROXY.
    #[error("has an unknown command")]
    Command,
    /// Not TCP over IPv4 or IPv6.
    #[error("is for another protocol than TCP over IPv4 or IPv6")]
    Family,
    /// Version 2: an id that is too long.
    #[error("has a unique id of more than 128 octets")]
    Id,
    /// Version 1: CR or LF alone.
    #[error("has a bare CR or LF")]
    LineEnd,
    /// Longer than we take.
    #[error("is too long")]
    Long,
    /// Version 1: a port that is none.
    #[error("has a malformed port")]
    Port,
    /// Version 2: no room for the addresses.
    #[error("is too short for its addresses")]
    Short,
    /// Neither version begins like that.
    #[error("does not begin like one")]
    Start,
    /// Version 2: a TLV that goes on behind the end, or is too short for what it is.
    #[error("has a TLV of a wrong length")]
    Tlv,
    /// Version 2: a TLV that comes once at most.
    #[error("has a TLV twice")]
    Twice,
    /// Not version 1 or 2.
    #[error("has an unknown version")]
    Version,
    /// Version 1: too few words or too many, or more than a space between them.
    #[error("does not have its six words, one space apart")]
    Words,
}

/// A header on its way.
#[derive(Debug, Default)]
pub struct Decoder {
    read: Vec<u8>,
}

/// How far a header has come.
enum Extent {
    /// All of it is there: so many octets.
    Whole(usize),
    /// All that is there belongs to it, and there is more.
    Part,
}

impl Decoder {
    /// Takes the header's part of what has arrived: how many octets that is, which are to be read; and the header, if
    /// they end it. Not to be called any more after that, or after an error.
    ///
    /// # Errors
    ///
    /// What has arrived is no header that we take.
    pub fn take(&mut self, arrived: &[u8]) -> Result<(usize, Option<Introduction>), HeaderError> {
        let before = self.read.len();
        self.read.extend_from_slice(arrived);
        match extent(&self.read)? {
            Extent::Part => Ok((arrived.len(), None)),
            Extent::Whole(length) => {
                self.read.truncate(length);
                let introduction = introduction(&self.read)?;
                Ok((length.saturating_sub(before), Some(introduction)))
            }
        }
    }

    /// Whether any octet has come.
    pub fn has_begun(&self) -> bool {
        !self.read.is_empty()
    }
}

fn extent(octets: &[u8]) -> Result<Extent, HeaderError> {
    if begins(octets, V1_START) {
        v1_extent(octets)
    } else if begins(octets, SIGNATURE) {
        v2_extent(octets)
    } else {
        Err(HeaderError::Start)
    }
}

/// Whether these octets are a beginning of that, or that is one of these.
fn begins(octets: &[u8], with: &[u8]) -> bool {
    octets.iter().zip(with).all(|(octet, with)| octet == with)
}

/// The first CR or LF decides.
fn v1_extent(octets: &[u8]) -> Result<Extent, HeaderError> {
    let mut line = octets.iter().take(V1_MAX);
    let Some(end) = line.position(|octet| matches!(octet, b'\r' | b'\n')) else {
        return if octets.len() < V1_MAX {
            Ok(Extent::Part)
        } else {
            Err(HeaderError::Long)
        };
    };
    match octets.get(end..).unwrap_or_default() {
        [b'\r', ..] if end.saturating_add(2) > V1_MAX => Err(HeaderError::Long),
        [b'\r', b'\n', ..] => Ok(Extent::Whole(end.saturating_add(2))),
        [b'\r'] => Ok(Extent::Part),
        _ => Err(HeaderError::LineEnd),
    }
}

/// Each octet of the head as soon as it is there.
fn v2_extent(octets: &[u8]) -> Result<Extent, HeaderError> {
    let mut head = octets.iter().skip(SIGNATURE.len());
    let Some(command) = head.next() else {
        return Ok(Extent::Part);
    };
    match *command {
        LOCAL | PROXY => {}
        other if other >> 4 == LOCAL >> 4 => return Err(HeaderError::Command),
        _ => return Err(HeaderError::Version),
    }
    let Some(family) = head.next() else {
        return Ok(Extent::Part);
    };
    // Of LOCAL, the family does not count.
    let least = match (*command, *family) {
        (LOCAL, _) => 0,
        (_, TCP4) => 12,
        (_, TCP6) => 36,
        _ => return Err(HeaderError::Family),
    };
    let (Some(high), Some(low)) = (head.next(), head.next()) else {
        return Ok(Extent::Part);
    };
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    if rest < least {
        return Err(HeaderError::Short);
    }
    if rest > V2_MAX_REST {
        return Err(HeaderError::Long);
    }
    let length = V2_HEAD.saturating_add(rest);
    if octets.len() < length {
        return Ok(Extent::Part);
    }
    Ok(Extent::Whole(length))
}

/// What a whole header says.
fn introduction(header: &[u8]) -> Result<Introduction, HeaderError> {
    match header.strip_suffix(b"\r\n") {
        Some(line) if line.starts_with(V1_START) => v1(line),
        _ => v2(header),
    }
}

// === version 1 ===

fn v1(line: &[u8]) -> Result<Introduction, HeaderError> {
    let text = std::str::from_utf8(line).map_err(|_| HeaderError::Character)?;
    if !text.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
        return Err(HeaderError::Character);
    }
    let words: Vec<&str> = text.split(' ').collect();
    let (parse, words): (fn(&str) -> Option<IpAddr>, _) = match words.as_slice() {
        [_, "UNKNOWN", ..] => return Ok(Introduction::default()),
        [_, "TCP4", words @ ..] => (v4, words),
        [_, "TCP6", words @ ..] => (v6, words),
        _ => return Err(HeaderError::Family),
    };
    let [client, local, from, to] = words else {
        return Err(HeaderError::Words);
    };
    if words.iter().any(|word| word.is_empty()) {
        return Err(HeaderError::Words);
    }
    let address = |ip, port| {
        let ip = parse(ip).ok_or(HeaderError::Address)?;
        let port = self::port(port).ok_or(HeaderError::Port)?;
        Ok(SocketAddr::new(ip, port))
    };
    Ok(Introduction {
        addresses: Some(canonical(address(client, from)?, address(local, to)?)),
        ..Introduction::default()
    })
}

fn v4(text: &str) -> Option<IpAddr> {
    let ip: Ipv4Addr = text.parse().ok()?;
    (ip.to_string() == text).then_some(ip.into())
}

/// In any form of RFC 4291, section 2.2.
fn v6(text: &str) -> Option<IpAddr> {
    Some(text.parse::<Ipv6Addr>().ok()?.into())
}

fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok()?;
    (port.to_string() == text).then_some(port)
}

// === version 2 ===

fn v2(header: &[u8]) -> Result<Introduction, HeaderError> {
    let (head, rest) = header.split_at_checked(V2_HEAD).ok_or(HeaderError::Short)?;
    let said = match head.get(SIGNATURE.len()..) {
        Some([PROXY, TCP4, ..]) => addresses(rest, Ipv4Addr::from),
        Some([PROXY, TCP6, ..]) => addresses(rest, |octets: [u8; 16]| Ipv6Addr::from(octets)),
        _ => return Ok(Introduction::default()),
    };
    let (addresses, tlvs) = said.ok_or(HeaderError::Short)?;
    let mut found = Found::default();
    each(tlvs, |kind, value, behind| found.take(kind, value, behind))?;
    if let Some((sum, behind)) = found.checksum {
        let end = header.len().saturating_sub(behind);
        if crc32c(header, end.saturating_sub(CRC32C_BYTES)..end) != sum {
            return Err(HeaderError::Checksum);
        }
    }
    let tls = found.tls.map(tls).transpose()?.flatten();
    Ok(Introduction {
        addresses: Some(addresses),
        id: found.id.and_then(|id| printable(id, MAX_ID)),
        tls,
    })
}

/// The addresses of one family, and what follows them.
fn addresses<const N: usize, I: Into<IpAddr>>(
    rest: &[u8],
    ip: impl Fn([u8; N]) -> I,
) -> Option<((ClientAddr, LocalAddr), &[u8])> {
    let (client, rest) = rest.split_first_chunk::<N>()?;
    let (local, rest) = rest.split_first_chunk::<N>()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (to, rest) = rest.split_first_chunk()?;
    let client = SocketAddr::new(ip(*client).into(), u16::from_be_bytes(*from));
    let local = SocketAddr::new(ip(*local).into(), u16::from_be_bytes(*to));
    Some((canonical(client, local), rest))
}

/// An IPv4 address in an IPv6 one is what it is.
fn canonical(client: SocketAddr, local: SocketAddr) -> (ClientAddr, LocalAddr) {
    let form = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (ClientAddr(form(client)), LocalAddr(form(local)))
}

/// The TLVs that we know.
#[derive(Default)]
struct Found<'a> {
    /// The checksum, and how many octets of the header are behind it.
    checksum: Option<(u32, usize)>,
    id: Option<&'a [u8]>,
    tls: Option<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn take(&mut self, kind: u8, value: &'a [u8], behind: usize) -> Result<(), HeaderError> {
        match kind {
            CRC32C => {
                let sum = value.try_into().map_err(|_| HeaderError::Tlv)?;
                once(&mut self.checksum, (u32::from_be_bytes(sum), behind))
            }
            UNIQUE_ID if value.len() > MAX_ID => Err(HeaderError::Id),
            UNIQUE_ID => once(&mut self.id, value),
            SSL => once(&mut self.tls, value),
            _ => Ok(()),
        }
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), HeaderError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(HeaderError::Twice),
    }
}

/// Walks TLVs: kind, value, and how many octets are behind it.
fn each<'a>(
    mut octets: &'a [u8],
    mut take: impl FnMut(u8, &'a [u8], usize) -> Result<(), HeaderError>,
) -> Result<(), HeaderError> {
    while !octets.is_empty() {
        let ([kind, high, low], rest) = octets.split_first_chunk().ok_or(HeaderError::Tlv)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderError::Tlv)?;
        take(*kind, value, rest.len())?;
        octets = rest;
    }
    Ok(())
}

/// The TLV of TLS: none without TLS, or without a version.
fn tls(value: &[u8]) -> Result<Option<Tls>, HeaderError> {
    let ([flags, ..], inside) = value.split_first_chunk::<5>().ok_or(HeaderError::Tlv)?;
    let (mut version, mut cipher) = (None, None);
    each(inside, |kind, value, _| match kind {
        SSL_VERSION => once(&mut version, value),
        SSL_CIPHER => once(&mut cipher, value),
        _ => Ok(()),
    })?;
    if flags & CLIENT_SSL == 0 {
        return Ok(None);
    }
    let word = |word: Option<&[u8]>| word.and_then(|word| printable(word, MAX_TLS_WORD));
    let cipher = word(cipher);
    Ok(word(version).map(|version| Tls { version, cipher }))
}

/// Text without blanks.
fn printable(octets: &[u8], most: usize) -> Option<String> {
    let is_text = (1..=most).contains(&octets.len()) && octets.iter().all(u8::is_ascii_graphic);
    is_text.then(|| octets.iter().copied().map(char::from).collect())
}

/// The checksum of a header (Castagnoli's; RFC 4960, appendix B), with zeros for these octets of it.
pub(super) fn crc32c(header: &[u8], zeros: Range<usize>) -> u32 {
    let octets = header.iter().enumerate();
    !octets.fold(u32::MAX, |sum, (position, octet)| {
        let octet = if zeros.contains(&position) { 0 } else { *octet };
        (0..8).fold(sum ^ u32::from(octet), |sum, _| {
            let is_odd = sum & 1 == 1;
            (sum >> 1) ^ if is_odd { 0x82f6_3b78 } else { 0 }
        })
    })
}
