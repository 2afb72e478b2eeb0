//! The link's records as octets: framing, the fields of each kind, and their bounds.
//!
//! A record is a header of four octets and a body. The header alone says how much to read, so that a reader takes
//! exactly one record and not one octet of what follows:
//!
//! ```text
//! version u8 = 1 | kind u8 | length of the body u16, big-endian | body
//! ```
//!
//! It knows nothing of keys, and which record is due is the halves' business. A MAC is always the last 32 octets of a
//! body; what it covers is in `schedule`. Every kind has a bound of its own, checked before a body is read.
//! On failure: a [`RecordError`] that quotes numbers, never octets.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use super::{ChannelKind, Opening, Refusal, Verdict};
use crate::names::{KeyId, NodeName, Service};

/// What a dialer says before anything else, under TLS inside of it. Neither a TLS record nor a line of any protocol
/// begins so, and a later version of the protocol that is not compatible would end in another digit.
pub const PREFACE: [u8; 8] = *b"PGNLINK1";

/// The version of the records.
pub const VERSION: u8 = 1;

/// The size of a header, in octets.
pub const HEADER_BYTES: usize = 4;

/// The largest body of any kind, in octets.
pub const MAX_BODY_BYTES: usize = 8192;

/// The size of a nonce, in octets.
pub const NONCE_BYTES: usize = 32;

/// The size of a MAC, in octets: all of HMAC-SHA-256, nothing cut off.
pub const MAC_BYTES: usize = 32;

/// The longest capability text of [`Opening::Ready`], in octets. Dovecot's has 400.
pub const MAX_CAPABILITY_BYTES: usize = 4096;

/// The longest name of a node, key or service in a record, in octets.
const MAX_WORD_BYTES: usize = crate::names::MAX_ID_CHARS;

/// The kinds of record, in the order of the exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The node's first.
    Hello,
    /// The dialer's proof.
    Prove,
    /// The node's proof.
    Proven,
    /// What the link is for.
    Open,
    /// The node's answer.
    Verdict,
}

/// Why octets are not the record that is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// Another kind, or none that is known.
    #[error("{expected} is due, but a record of kind {got} came")]
    Kind {
        /// What was due.
        expected: Kind,
        /// The kind's number that came.
        got: u8,
    },
    /// Longer than its kind may be, too short for its fields, or not as long as its header says.
    #[error("{0} has an impossible length")]
    Length(Kind),
    /// A field has no valid value.
    #[error("{0} has a malformed field")]
    Malformed(Kind),
    /// The first octets of TLS instead of a header.
    #[error("TLS came instead of {0}")]
    Tls(Kind),
    /// A version of the protocol that is not spoken here.
    #[error("the peer speaks version {0} of the link, this side version 1")]
    Version(u8),
}

/// Why octets are not the [`PREFACE`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PrefaceError {
    /// Something else.
    #[error("the peer does not speak the link protocol")]
    Other,
    /// The first octets of TLS.
    #[error("the peer speaks TLS")]
    Tls,
}

// === impl Kind ===

impl Kind {
    #[cfg(any(fuzzing, test))]
    const ALL: [Self; 5] = [
        Self::Hello,
        Self::Prove,
        Self::Proven,
        Self::Open,
        Self::Verdict,
    ];

    /// Its number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Prove => 2,
            Self::Proven => 3,
            Self::Open => 4,
            Self::Verdict => 5,
        }
    }

    /// The largest body it may have, in octets.
    pub const fn max_body(self) -> usize {
        match self {
            Self::Hello => 1 + 4 + NONCE_BYTES + 1 + MAX_WORD_BYTES,
            Self::Prove => NONCE_BYTES + 1 + MAX_WORD_BYTES + MAC_BYTES,
            Self::Proven => MAC_BYTES,
            Self::Open => MAX_BODY_BYTES,
            Self::Verdict => 2 + MAX_CAPABILITY_BYTES + MAC_BYTES,
        }
    }

    const fn mac_bytes(self) -> usize {
        match self {
            Self::Hello => 0,
            Self::Prove | Self::Proven | Self::Open | Self::Verdict => MAC_BYTES,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::Prove => "prove",
            Self::Proven => "proven",
            Self::Open => "open",
            Self::Verdict => "verdict",
        })
    }
}

// === framing ===

/// Whether octets are how a TLS 1.x peer begins: a record of type alert (21) or handshake (22), major version 3.
fn is_tls(octets: &[u8]) -> bool {
    matches!(octets, [0x15 | 0x16, 0x03, ..])
}

/// Checks what a peer said before anything else.
pub fn check_preface(octets: [u8; PREFACE.len()]) -> Result<(), PrefaceError> {
    if octets == PREFACE {
        Ok(())
    } else if is_tls(&octets) {
        Err(PrefaceError::Tls)
    } else {
        Err(PrefaceError::Other)
    }
}

/// Reads a header: how long the body of the record is, which must be of kind `due`.
pub fn body_len(header: [u8; HEADER_BYTES], due: Kind) -> Result<usize, RecordError> {
    let [version, kind, high, low] = header;
    if is_tls(&header) {
        return Err(RecordError::Tls(due));
    }
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    if kind != due.code() {
        return Err(RecordError::Kind {
            expected: due,
            got: kind,
        });
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len < due.mac_bytes() || len > due.max_body() {
        return Err(RecordError::Length(due));
    }
    Ok(len)
}

/// One record that carries a MAC, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed<'a> {
    /// Header and fields: what the MAC covers of this record.
    pub(super) unsealed: &'a [u8],
    /// The fields alone.
    pub(super) fields: &'a [u8],
    /// The MAC.
    pub(super) mac: &'a [u8],
}

/// The body of a whole record.
fn body(octets: &[u8], due: Kind) -> Result<&[u8], RecordError> {
    let (header, body) = octets.split_first_chunk().ok_or(RecordError::Length(due))?;
    if body_len(*header, due)? != body.len() {
        return Err(RecordError::Length(due));
    }
    Ok(body)
}

/// Takes a whole record with a MAC apart; says nothing about the MAC.
pub(super) fn unseal(octets: &[u8], due: Kind) -> Result<Sealed<'_>, RecordError> {
    let wrong = RecordError::Length(due);
    let body = body(octets, due)?;
    let (fields, mac) = body.split_last_chunk::<MAC_BYTES>().ok_or(wrong)?;
    let (unsealed, _) = octets.split_last_chunk::<MAC_BYTES>().ok_or(wrong)?;
    Ok(Sealed {
        unsealed,
        fields,
        mac,
    })
}

/// A record of these fields, still without its MAC, which the length counts already.
pub(super) fn unsealed(kind: Kind, fields: &[u8]) -> Vec<u8> {
    let len = fields.len().saturating_add(kind.mac_bytes());
    // Every encoder's fields are bounded by their types; a longer body would be refused by the peer, not cut.
    let [high, low] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let mut octets = Vec::with_capacity(HEADER_BYTES.saturating_add(len));
    octets.extend_from_slice(&[VERSION, kind.code(), high, low]);
    octets.extend_from_slice(fields);
    octets
}

/// A cursor over fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    pub(super) fn octet(&mut self) -> Option<u8> {
        self.array().map(|[octet]| octet)
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// A word with its length in one octet before it.
    pub(super) fn word(&mut self) -> Option<&'a [u8]> {
        let len = self.octet()?;
        self.take(usize::from(len))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a word with its length in one octet before it; words are at most [`MAX_WORD_BYTES`] long by their types.
pub(super) fn put_word(out: &mut Vec<u8>, word: &[u8]) {
    out.push(u8::try_from(word.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(word);
}

// === the kinds ===

/// What a node says first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hello {
    pub(super) channel: ChannelKind,
    /// Whole seconds, at least one.
    pub(super) idle_limit: Duration,
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) node: NodeName,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let seconds = u32::try_from(self.idle_limit.as_secs()).unwrap_or(u32::MAX);
        let mut fields = vec![self.channel.code()];
        fields.extend_from_slice(&seconds.max(1).to_be_bytes());
        fields.extend_from_slice(&self.nonce);
        put_word(&mut fields, self.node.as_str().as_bytes());
        unsealed(Kind::Hello, &fields)
    }

    pub(super) fn decode(octets: &[u8]) -> Result<Self, RecordError> {
        let fields = body(octets, Kind::Hello)?;
        Self::decode_fields(Fields(fields)).ok_or(RecordError::Malformed(Kind::Hello))
    }

    fn decode_fields(mut fields: Fields<'_>) -> Option<Self> {
        let channel = ChannelKind::from_code(fields.octet()?)?;
        let seconds = fields.array().map(u32::from_be_bytes)?;
        let nonce = fields.array()?;
        let node = NodeName::from_bytes(fields.word()?).ok()?;
        // No time at all to open would make a dialer that proves ahead dial without end.
        (seconds > 0 && fields.is_empty()).then_some(Self {
            channel,
            idle_limit: Duration::from_secs(u64::from(seconds)),
            nonce,
            node,
        })
    }
}

/// The fields of a dialer's proof.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Prove {
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) key_id: KeyId,
}

impl Prove {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = self.nonce.to_vec();
        put_word(&mut fields, self.key_id.as_str().as_bytes());
        unsealed(Kind::Prove, &fields)
    }

    pub(super) fn decode(fields: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let mut decode = || {
            let nonce = fields.array()?;
            let key_id = KeyId::from_bytes(fields.word()?).ok()?;
            fields.is_empty().then_some(Self { nonce, key_id })
        };
        decode().ok_or(RecordError::Malformed(Kind::Prove))
    }
}

/// The fields of an `open`, its context still as octets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Open<'a> {
    /// None: a service that is not known here.
    pub(super) service: Option<Service>,
    pub(super) context: &'a [u8],
}

impl<'a> Open<'a> {
    pub(super) fn decode(fields: &'a [u8]) -> Result<Self, RecordError> {
        let mut fields = Fields(fields);
        let word = fields.word().ok_or(RecordError::Malformed(Kind::Open))?;
        Ok(Self {
            service: std::str::from_utf8(word).ok().and_then(Service::parse),
            context: fields.0,
        })
    }
}

const OK: u8 = 0;
const REFUSED: u8 = 1;

const fn opening_code(opening: &Opening) -> u8 {
    match opening {
        Opening::Ready(_) => 1,
        Opening::Capability => 2,
        Opening::Preauth => 3,
        Opening::Tagged => 4,
        Opening::PlusOk => 5,
        Opening::Silent => 6,
    }
}

const fn refusal_code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Forbidden => 1,
        Refusal::InUse => 2,
        Refusal::Limit => 3,
        Refusal::Unavailable => 4,
    }
}

fn is_capability_text(text: &str) -> bool {
    text.len() <= MAX_CAPABILITY_BYTES && !text.chars().any(char::is_control)
}

impl Verdict {
    /// The record, without its MAC. A capability text that the record cannot carry becomes a refusal.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        match self {
            Self::Ok(Opening::Ready(text)) if !is_capability_text(text) => {
                return Self::Refused(Refusal::Unavailable).encode();
            }
            Self::Ok(opening) => {
                fields.extend_from_slice(&[OK, opening_code(opening)]);
                if let Opening::Ready(text) = opening {
                    fields.extend_from_slice(text.as_bytes());
                }
            }
            Self::Refused(refusal) => {
                fields.extend_from_slice(&[REFUSED, refusal_code(*refusal)]);
            }
        }
        unsealed(Kind::Verdict, &fields)
    }

    pub(super) fn decode(fields: &[u8]) -> Result<Self, RecordError> {
        Self::decode_fields(fields).ok_or(RecordError::Malformed(Kind::Verdict))
    }

    fn decode_fields(fields: &[u8]) -> Option<Self> {
        if let [OK, 1, text @ ..] = fields {
            let text = std::str::from_utf8(text).ok()?;
            return is_capability_text(text).then(|| Self::Ok(Opening::Ready(text.to_owned())));
        }
        let &[outcome, code] = fields else {
            return None;
        };
        let openings = [
            Opening::Capability,
            Opening::Preauth,
            Opening::Tagged,
            Opening::PlusOk,
            Opening::Silent,
        ];
        let refusals = [
            Refusal::Forbidden,
            Refusal::InUse,
            Refusal::Limit,
            Refusal::Unavailable,
        ];
        match outcome {
            OK => openings
                .into_iter()
                .find(|opening| opening_code(opening) == code)
                .map(Self::Ok),
            REFUSED => refusals
                .into_iter()
                .find(|refusal| refusal_code(*refusal) == code)
                .map(Self::Refused),
            _ => None,
        }
    }
}

/// Whatever decodes as a record encodes to the same octets.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(hello.encode(), data);
    }
    for kind in Kind::ALL {
        let Ok(sealed) = unseal(data, kind) else {
            continue;
        };
        match kind {
            Kind::Hello => {}
            Kind::Prove => {
                if let Ok(prove) = Prove::decode(sealed.fields) {
                    assert_eq!(prove.encode(), sealed.unsealed);
                }
            }
            Kind::Proven => assert!(sealed.fields.is_empty()),
            Kind::Open => {
                if let Ok(open) = Open::decode(sealed.fields) {
                    super::context::fuzz(open.context);
                }
            }
            Kind::Verdict => {
                if let Ok(verdict) = Verdict::decode(sealed.fields) {
                    assert_eq!(verdict.encode(), sealed.unsealed);
                }
            }
        }
    }
}
