//! Session tickets under keys from a file, so that a session that one front began is resumed at another.
//!
//! The file has one key a line: 48 octets in base64 (64 characters), as `openssl rand -base64 48` writes. The first
//! line encrypts; all decrypt, so that keys can be replaced over many fronts one after the other. Empty lines and
//! lines that begin with `#` do not count.
//!
//! ```text
//! key     name (16) | secret (32)
//! ticket  name (16) | salt (16) | nonce (12) | AES-256-GCM (issued (8, big endian) | state) | tag (16)
//!         key of AES = HMAC-SHA-256(secret, "pigeonair ticket" | salt)     associated: name | salt | policy (32)
//! ```
//!
//! With a key of AES for each ticket, no number of tickets wears a secret out. The policy is what was asked of the
//! client (see `clients`): a ticket that was given under another one does not decrypt. Neither does one that is older
//! than [`LIFETIME`], or from a future beyond [`CLOCK_SKEW`]. The client then makes a full handshake; nothing fails.
//!
//! Whoever has the file can read what is resumed by it over TLS 1.2, and make tickets that are believed, for as long as
//! its keys are in it. Limits: [`MOST_KEYS`], and what `secret` asks of files. Secrets are wiped when they are dropped.

use std::{fmt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rustls::server::ProducesTickets;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::TlsError;
use crate::secret::Secret;

/// How long a ticket may be used, as rustls has it for its own.
const LIFETIME: u32 = 12 * 60 * 60;
/// How far ahead another front's clock may be, in seconds.
const CLOCK_SKEW: i64 = 5 * 60;
/// How many keys a file may hold.
const MOST_KEYS: usize = 16;

const NAME_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const TIME_BYTES: usize = 8;
const LABEL: &[u8] = b"pigeonair ticket";

/// What was asked of the client for whom a ticket is.
pub(super) type Policy = [u8; 32];

/// The keys of a file: at least one.
#[derive(Clone)]
pub struct TicketKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    name: [u8; NAME_BYTES],
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

/// Makes and reads tickets.
#[derive(Debug)]
pub(super) struct Ticketer {
    keys: TicketKeys,
    policy: Policy,
}

// === impl TicketKeys ===

impl TicketKeys {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is too open, or a line has another form.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        let secret = Secret::from_file(path).map_err(TlsError::TicketFile)?;
        let failed = |line, problem| TlsError::Tickets {
            path: path.to_owned(),
            line,
            problem,
        };
        let mut keys: Vec<Key> = Vec::new();
        let mut last = 0;
        for (line, text) in (1..).zip(secret.expose().split(|octet| *octet == b'\n')) {
            last = line;
            let text = text.trim_ascii();
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let key = Key::parse(text).ok_or_else(|| {
                failed(
                    line,
                    "is no key (expected 64 characters, as `openssl rand -base64 48` writes)",
                )
            })?;
            if keys.iter().any(|other| other.name == key.name) {
                return Err(failed(line, "is there twice"));
            }
            if keys.len() == MOST_KEYS {
                return Err(failed(line, "is one key too many (expected 16 at most)"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(failed(last, "is the last, and there was no key"));
        }
        Ok(Self(keys))
    }

    /// Whether all are the same, in the same order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(one, two)| one.name == two.name && one.secret.ct_eq(&*two.secret).into())
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.len())
    }
}

impl Key {
    fn parse(text: &[u8]) -> Option<Self> {
        // Room for what the decoder may write beyond the end, and no vector that would grow.
        let mut octets = Zeroizing::new([0; NAME_BYTES + SECRET_BYTES + 3]);
        let length = STANDARD.decode_slice(text, &mut *octets).ok()?;
        let (name, rest) = octets.get(..length)?.split_first_chunk()?;
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        if rest.len() != SECRET_BYTES {
            return None;
        }
        secret.copy_from_slice(rest);
        Some(Self {
            name: *name,
            secret,
        })
    }

    /// What encrypts one ticket.
    fn cipher(&self, salt: &[u8; SALT_BYTES]) -> Option<LessSafeKey> {
        let mut context =
            hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*self.secret));
        context.update(LABEL);
        context.update(salt);
        let tag = context.sign();
        UnboundKey::new(&AES_256_GCM, tag.as_ref())
            .ok()
            .map(LessSafeKey::new)
    }

    fn associated(&self, salt: &[u8; SALT_BYTES], policy: &Policy) -> Aad<Vec<u8>> {
        Aad::from([&self.name, salt.as_slice(), policy].concat())
    }
}

// === impl Ticketer ===

impl Ticketer {
    pub(super) fn new(keys: TicketKeys, policy: Policy) -> Self {
        Self { keys, policy }
    }

    fn seal(&self, state: &[u8], now: i64) -> Option<Vec<u8>> {
        let key = self.keys.0.first()?;
        let mut random = [0; SALT_BYTES + NONCE_LEN];
        getrandom::fill(&mut random).ok()?;
        let (salt, nonce) = random.split_first_chunk::<SALT_BYTES>()?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().ok()?;
        let mut sealed = Zeroizing::new([&now.to_be_bytes(), state].concat());
        key.cipher(salt)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                key.associated(salt, &self.policy),
                &mut *sealed,
            )
            .ok()?;
        Some([&key.name, random.as_slice(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: i64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.0.iter().find(|key| key.name == *name)?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let opened = key
            .cipher(salt)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                key.associated(salt, &self.policy),
                &mut sealed,
            )
            .ok()?;
        let (issued, state) = opened.split_first_chunk::<TIME_BYTES>()?;
        let age = now.checked_sub(i64::from_be_bytes(*issued))?;
        (-CLOCK_SKEW..=i64::from(LIFETIME))
            .contains(&age)
            .then(|| state.to_vec())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Timestamp::now().as_second())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, Timestamp::now().as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000_000;

    fn keys(seeds: &[u8]) -> TicketKeys {
        let key = |seed: &u8| Key::parse(STANDARD.encode([*seed; 48]).as_bytes()).unwrap();
        TicketKeys(seeds.iter().map(key).collect())
    }

    fn ticketer(seeds: &[u8]) -> Ticketer {
        Ticketer::new(keys(seeds), [7; 32])
    }

    #[test]
    fn the_first_key_encrypts_and_all_decrypt() {
        let ticket = ticketer(&[1]).seal(b"state", NOW).unwrap();
        for (seeds, opens) in [
            (&[1][..], true),
            (&[2, 1], true),
            (&[2], false),
            (&[2, 3], false),
        ] {
            let opened = ticketer(seeds).open(&ticket, NOW);
            assert_eq!(opened.as_deref(), opens.then_some(&b"state"[..]));
        }
        assert_eq!(ticket[..16], [1; 16]);
        assert_eq!(ticketer(&[2, 1]).seal(b"", NOW).unwrap()[..16], [2; 16]);
    }

    #[test]
    fn no_two_tickets_are_the_same_and_none_may_be_changed() {
        let ticketer = ticketer(&[1]);
        let ticket = ticketer.seal(b"state", NOW).unwrap();
        assert_ne!(ticket, ticketer.seal(b"state", NOW).unwrap());
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.open(&changed, NOW), None, "{at}");
            assert_eq!(ticketer.open(&ticket[..at], NOW), None, "{at}");
        }
    }

    #[test]
    fn a_ticket_has_its_time_and_its_policy() {
        let ticketer = ticketer(&[1]);
        let ticket = ticketer.seal(b"state", NOW).unwrap();
        for (later, opens) in [
            (0, true),
            (12 * 3600, true),
            (12 * 3600 + 1, false),
            (-300, true),
            (-301, false),
            (i64::MIN, false),
        ] {
            let opened = ticketer.open(&ticket, NOW.saturating_add(later));
            assert_eq!(opened.is_some(), opens, "{later}");
        }
        let other = Ticketer::new(keys(&[1]), [8; 32]);
        assert_eq!(other.open(&ticket, NOW), None);
    }
}
