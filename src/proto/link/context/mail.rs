//! What travels with a message over a link of the service `mailstore`, besides LMTP itself.
//!
//! The link's `open` says who opened it and nothing of accounts: a link carries one message after the other, each for several
//! accounts. What a node must know of a message and of each of its recipients is the value of the private parameter
//! [`KEYWORD`] of MAIL and RCPT, in the same form as a context: fields in any order, those not known skipped, a string
//! without control characters. LMTP carries the octets as xtext (RFC 3461, 4).
//!
//! It does not judge. Limits: those of a context. On failure a [`ContextError`].

use super::{ContextError, Field, MAX_HOME_BYTES, Values, address_octets, put, put_text};
use crate::names::{AccountName, ClientAddr, SessionId};

/// The keyword of the private parameter.
pub const KEYWORD: &str = "PIGEONAIR";

/// The longest MAIL or RCPT line that the facts may make, in octets: three for each of the largest facts, and an address.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// The most deliveries that a message may pass, as Dovecot's proxies have it: more is a loop.
pub const MAX_HOPS: u8 = 5;

/// What a node is told of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MessageFacts {
    /// The id of the delivery, for every log on the way.
    pub session: SessionId,
    /// The MTA that brought the message; loopback and port 0 if it came over a Unix socket.
    pub client: ClientAddr,
    /// How many deliveries the message has passed, this one included; to stop loops.
    pub hops: u8,
}

/// What a node is told of a recipient.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecipientFacts {
    /// The directory's name of the account.
    pub account: AccountName,
    /// The account's uid.
    pub uid: u32,
    /// The account's gid.
    pub gid: u32,
    /// The account's home folder: absolute, or relative to the node's `home_root`.
    pub home: String,
    /// The account's quota in octets, if the directory gives one.
    pub quota: Option<u64>,
}

impl MessageFacts {
    /// The value of the parameter.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, Field::Session, self.session.as_str().as_bytes());
        put(&mut out, Field::Client, &address_octets(self.client.0));
        put(&mut out, Field::Hops, &[self.hops]);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When a field is missing, double or not valid.
    pub fn decode(octets: &[u8]) -> Result<Self, ContextError> {
        let values = Values::split(octets)?;
        Ok(Self {
            session: values.name(Field::Session, SessionId::from_bytes)?,
            client: ClientAddr(values.address(Field::Client)?),
            hops: u8::from_be_bytes(values.array(Field::Hops)?),
        })
    }
}

impl RecipientFacts {
    /// The value of the parameter.
    ///
    /// # Errors
    ///
    /// When the home can't be written.
    pub fn encode(&self) -> Result<Vec<u8>, ContextError> {
        let mut out = Vec::new();
        put(&mut out, Field::Account, self.account.as_str().as_bytes());
        put(&mut out, Field::Uid, &self.uid.to_be_bytes());
        put(&mut out, Field::Gid, &self.gid.to_be_bytes());
        put_text(&mut out, Field::Home, &self.home, MAX_HOME_BYTES)?;
        if let Some(quota) = self.quota {
            put(&mut out, Field::Quota, &quota.to_be_bytes());
        }
        Ok(out)
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// When a field is missing, double or not valid.
    pub fn decode(octets: &[u8]) -> Result<Self, ContextError> {
        let values = Values::split(octets)?;
        Ok(Self {
            account: values.name(Field::Account, AccountName::from_bytes)?,
            uid: u32::from_be_bytes(values.array(Field::Uid)?),
            gid: u32::from_be_bytes(values.array(Field::Gid)?),
            home: values.text(Field::Home, MAX_HOME_BYTES)?,
            quota: match values.find(Field::Quota) {
                Some(_) => Some(u64::from_be_bytes(values.array(Field::Quota)?)),
                None => None,
            },
        })
    }
}

/// Whatever decodes as facts can be sent, and arrives as the same.
#[cfg(any(fuzzing, test))]
pub(super) fn fuzz(data: &[u8]) {
    if let Ok(facts) = MessageFacts::decode(data) {
        assert_eq!(MessageFacts::decode(&facts.encode()), Ok(facts));
    }
    if let Ok(facts) = RecipientFacts::decode(data) {
        let octets = facts.encode().unwrap_or_default();
        assert_eq!(RecipientFacts::decode(&octets), Ok(facts));
    }
}
