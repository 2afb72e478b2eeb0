//! The key schedule and the transcript: what each MAC is made with, and what it covers.
//!
//! ```text
//! PRK      = HKDF-Extract(salt = node's nonce || dialer's nonce, key)
//! key[s]   = HKDF-Expand(PRK, label[s] || 0 || channel kind || word(channel value) || word(node) || word(key id), 32)
//! MAC[s]   = HMAC-SHA-256(key[s], label[s] || SHA-256(preface || records said so far || this one without its MAC))
//! label[s] = "pigeonair link 1 " || s, for s = prove, proven, open, verdict
//! word(x)  = length of x as one octet || x
//! ```
//!
//! A key per step: a proof of one half is never one of the other (reflection), nor of another step. It does not know
//! records or their order. Derived keys are wiped when dropped and never printed. RFC 2104, RFC 5869, FIPS 180-4.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    Channel,
    record::{MAC_BYTES, NONCE_BYTES, PREFACE, put_word},
};
use crate::{
    names::{KeyId, NodeName},
    secret::Key,
};

/// One block of SHA-256: what HMAC pads its key to.
const BLOCK_BYTES: usize = 64;

/// Everything the keys depend on besides the shared key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding<'a> {
    pub(super) node_nonce: &'a [u8; NONCE_BYTES],
    pub(super) dialer_nonce: &'a [u8; NONCE_BYTES],
    pub(super) channel: &'a Channel,
    pub(super) node: &'a NodeName,
    pub(super) key_id: &'a KeyId,
}

/// The keys of one link.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) prove: StepKey,
    pub(super) proven: StepKey,
    pub(super) open: StepKey,
    pub(super) verdict: StepKey,
}

impl Schedule {
    /// Derives the keys. None only if HKDF refuses the length of one key, which it does not.
    pub(super) fn new(key: &Key, binding: &Binding<'_>) -> Option<Self> {
        let mut salt = binding.node_nonce.to_vec();
        salt.extend_from_slice(binding.dialer_nonce);
        let hkdf = Hkdf::<Sha256>::new(Some(&salt), key.expose());
        Some(Self {
            prove: StepKey::new(&hkdf, b"pigeonair link 1 prove", binding)?,
            proven: StepKey::new(&hkdf, b"pigeonair link 1 proven", binding)?,
            open: StepKey::new(&hkdf, b"pigeonair link 1 open", binding)?,
            verdict: StepKey::new(&hkdf, b"pigeonair link 1 verdict", binding)?,
        })
    }
}

/// The key of one step.
pub(super) struct StepKey {
    label: &'static [u8],
    /// Padded with zeros as HMAC would (RFC 2104, 2), because a block is the one key size that cannot be refused.
    block: Zeroizing<[u8; BLOCK_BYTES]>,
}

impl StepKey {
    fn new(hkdf: &Hkdf<Sha256>, label: &'static [u8], binding: &Binding<'_>) -> Option<Self> {
        let mut info = label.to_vec();
        info.extend_from_slice(&[0, binding.channel.kind().code()]);
        put_word(&mut info, binding.channel.value());
        put_word(&mut info, binding.node.as_str().as_bytes());
        put_word(&mut info, binding.key_id.as_str().as_bytes());
        let mut block = Zeroizing::new([0; BLOCK_BYTES]);
        let key = block.first_chunk_mut::<MAC_BYTES>()?;
        hkdf.expand(&info, key).ok()?;
        Some(Self { label, block })
    }

    fn mac(&self, transcript: &[u8; 32]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new((&*self.block).into());
        mac.update(self.label);
        mac.update(transcript);
        mac
    }

    /// The MAC over a transcript.
    pub(super) fn seal(&self, transcript: &[u8; 32]) -> [u8; MAC_BYTES] {
        self.mac(transcript).finalize().into_bytes().into()
    }

    /// Whether `mac` is that MAC, in constant time.
    pub(super) fn verify(&self, transcript: &[u8; 32], mac: &[u8]) -> bool {
        self.mac(transcript).verify_slice(mac).is_ok()
    }

    /// The derived key, for the test vectors.
    #[cfg(test)]
    pub(super) fn expose(&self) -> &[u8] {
        self.block.first_chunk::<MAC_BYTES>().unwrap()
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepKey(..)")
    }
}

/// The hash over everything said so far.
#[derive(Clone, Debug)]
pub(super) struct Transcript(Sha256);

impl Transcript {
    /// It begins with the preface.
    pub(super) fn new() -> Self {
        Self(Sha256::new_with_prefix(PREFACE))
    }

    /// Adds a whole record.
    pub(super) fn add(&mut self, record: &[u8]) {
        self.0.update(record);
    }

    /// The hash with this record, still without its MAC, as the last.
    pub(super) fn with(&self, unsealed: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(unsealed).finalize().into()
    }
}
