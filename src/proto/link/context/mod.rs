//! What a front tells a node when it opens a link, and its form on the wire.
//!
//! A link for a session carries all that the front knows of user and client ([`Context`]). One for mail carries only who opened it
//! ([`MailContext`]): what the node must know of a message and of its recipients comes with each message ([`mail`]).
//!
//! Fields in any order, each as
//!
//! ```text
//! id u8 | length of the value u16, big-endian | value
//! ```
//!
//! A field that is not known is skipped, so that a newer front can say more; one that comes twice, whatever its id, is
//! an error, and so is a required one that is missing. Strings are UTF-8 without control characters, whatever they
//! are for: none of them can end a line or a field of the protocols that the node puts them into.
//!
//! It does not judge: whether uid, gid and home lie within the node's bounds is decided where they are used, and the
//! hop count is only carried. Limits: names as in [`crate::names`]; home 1 to 4095 octets; TLS words 1 to 64. With them
//! the largest context has 4.6 KiB, so every valid one fits into an `open`.

pub mod mail;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::record::{Fields, Kind, put_word, unsealed};
use crate::names::{AccountName, ClientAddr, LocalAddr, NameError, Protocol, Service, SessionId};

/// The longest home, in octets: the longest path that Linux takes (PATH_MAX, less its NUL).
pub const MAX_HOME_BYTES: usize = 4095;

/// The longest TLS version or cipher, in octets; the longest name that IANA has listed is half as long.
pub const MAX_TLS_WORD_BYTES: usize = 64;

/// What a front knows about user and client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Context {
    /// The directory's name of the account.
    pub account: AccountName,
    /// The session's id, for every log on the way.
    pub session: SessionId,
    /// Where the client connected from.
    pub client: ClientAddr,
    /// Where it connected to.
    pub local: LocalAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its TLS, if it has any.
    pub tls: Option<ClientTls>,
    /// The account's uid.
    pub uid: u32,
    /// The account's gid.
    pub gid: u32,
    /// The account's home folder: absolute, or relative to the node's `home_root`.
    pub home: String,
    /// The account's quota in octets, if the directory gives one.
    pub quota: Option<u64>,
    /// How many fronts this session has passed. A node takes any number; Dovecot hears from it, with the kind `login`, how many
    /// more proxies it may be passed on by.
    pub hops: u8,
}

/// A client's TLS session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientTls {
    /// Protocol version, as `TLSv1.3`.
    pub version: String,
    /// Cipher suite by its IANA name, as `TLS_AES_128_GCM_SHA256`.
    pub cipher: String,
}

/// A field of a context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// [`Context::account`]
    Account,
    /// [`Context::session`]
    Session,
    /// [`Context::client`]
    Client,
    /// [`Context::local`]
    Local,
    /// [`Context::protocol`]
    Protocol,
    /// [`ClientTls::version`]
    TlsVersion,
    /// [`ClientTls::cipher`]
    TlsCipher,
    /// [`Context::uid`]
    Uid,
    /// [`Context::gid`]
    Gid,
    /// [`Context::home`]
    Home,
    /// [`Context::quota`]
    Quota,
    /// [`Context::hops`]
    Hops,
}

/// Why a context cannot be sent or taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ContextError {
    /// The last field is cut off.
    #[error("the context is cut off")]
    Cut,
    /// A field comes twice.
    #[error("field {0} of the context comes twice")]
    Duplicate(u8),
    /// A required field is not there.
    #[error("the context lacks its {0:?}")]
    Missing(Field),
    /// The link's service is not that of the context's protocol.
    #[error("the link's service is not that of the context's protocol")]
    Service,
    /// A value is too long, too short, or has octets that it may not have.
    #[error("the context's {0:?} is not valid")]
    Value(Field),
}

impl Field {
    /// Its number on the wire.
    const fn id(self) -> u8 {
        match self {
            Self::Account => 1,
            Self::Session => 2,
            Self::Client => 3,
            Self::Local => 4,
            Self::Protocol => 5,
            Self::TlsVersion => 6,
            Self::TlsCipher => 7,
            Self::Uid => 8,
            Self::Gid => 9,
            Self::Home => 10,
            Self::Quota => 11,
            Self::Hops => 12,
        }
    }
}

/// What the dialer of a link for mail says when it opens it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MailContext {
    /// The id of the delivery that opens it, for every log on the way; those that use the link later tell theirs.
    pub session: SessionId,
}

/// What a link is opened for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Messages, one after the other.
    Mail(MailContext),
    /// One session.
    Session(Context),
}

/// An `open` record but for its MAC: made before a link is taken, so that a context that cannot be sent costs none, and
/// the same for a second try.
#[derive(Clone, Debug)]
pub struct OpenBody {
    pub(super) unsealed: Vec<u8>,
}

impl OpenBody {
    /// For the session of a context.
    ///
    /// # Errors
    ///
    /// When a text of the context can't be sent.
    pub fn session(context: &Context) -> Result<Self, ContextError> {
        let mut fields = Self::fields(context.protocol.service());
        context.encode(&mut fields)?;
        Ok(Self::of(&fields))
    }

    /// For mail.
    pub fn mail(context: &MailContext) -> Self {
        let mut fields = Self::fields(Service::Mailstore);
        context.encode(&mut fields);
        Self::of(&fields)
    }

    /// The fields as far as the service.
    fn fields(service: Service) -> Vec<u8> {
        let mut fields = Vec::new();
        put_word(&mut fields, service.as_str().as_bytes());
        fields
    }

    fn of(fields: &[u8]) -> Self {
        Self {
            unsealed: unsealed(Kind::Open, fields),
        }
    }
}

// === impl Purpose ===

impl Purpose {
    /// The service that the link is opened for.
    pub const fn service(&self) -> Service {
        match self {
            Self::Mail(_) => Service::Mailstore,
            Self::Session(context) => context.protocol.service(),
        }
    }

    /// The session or delivery that opens it.
    pub const fn session(&self) -> &SessionId {
        match self {
            Self::Mail(context) => &context.session,
            Self::Session(context) => &context.session,
        }
    }

    /// Reads the fields of an `open` for `service`.
    pub(super) fn decode(octets: &[u8], service: Service) -> Result<Self, ContextError> {
        match service {
            Service::Imap | Service::Pop3 => Context::decode(octets, service).map(Self::Session),
            Service::Mailstore => MailContext::decode(octets).map(Self::Mail),
        }
    }
}

// === impl MailContext ===

impl MailContext {
    fn encode(&self, out: &mut Vec<u8>) {
        put(out, Field::Session, self.session.as_str().as_bytes());
    }

    fn decode(octets: &[u8]) -> Result<Self, ContextError> {
        let values = Values::split(octets)?;
        Ok(Self {
            session: values.name(Field::Session, SessionId::from_bytes)?,
        })
    }
}

// === impl Context ===

impl Context {
    /// Appends the fields to `out`, in the order of their ids.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), ContextError> {
        put(out, Field::Account, self.account.as_str().as_bytes());
        put(out, Field::Session, self.session.as_str().as_bytes());
        put(out, Field::Client, &address_octets(self.client.0));
        put(out, Field::Local, &address_octets(self.local.0));
        put(out, Field::Protocol, self.protocol.as_str().as_bytes());
        if let Some(tls) = &self.tls {
            put_text(out, Field::TlsVersion, &tls.version, MAX_TLS_WORD_BYTES)?;
            put_text(out, Field::TlsCipher, &tls.cipher, MAX_TLS_WORD_BYTES)?;
        }
        put(out, Field::Uid, &self.uid.to_be_bytes());
        put(out, Field::Gid, &self.gid.to_be_bytes());
        put_text(out, Field::Home, &self.home, MAX_HOME_BYTES)?;
        if let Some(quota) = self.quota {
            put(out, Field::Quota, &quota.to_be_bytes());
        }
        put(out, Field::Hops, &[self.hops]);
        Ok(())
    }

    /// Reads the fields of an `open` for `service`.
    fn decode(octets: &[u8], service: Service) -> Result<Self, ContextError> {
        let values = Values::split(octets)?;
        let protocol = values.protocol()?;
        if protocol.service() != service {
            return Err(ContextError::Service);
        }
        Ok(Self {
            account: values.name(Field::Account, AccountName::from_bytes)?,
            session: values.name(Field::Session, SessionId::from_bytes)?,
            client: ClientAddr(values.address(Field::Client)?),
            local: LocalAddr(values.address(Field::Local)?),
            protocol,
            tls: values.tls()?,
            uid: u32::from_be_bytes(values.array(Field::Uid)?),
            gid: u32::from_be_bytes(values.array(Field::Gid)?),
            home: values.text(Field::Home, MAX_HOME_BYTES)?,
            quota: match values.find(Field::Quota) {
                Some(_) => Some(u64::from_be_bytes(values.array(Field::Quota)?)),
                None => None,
            },
            hops: u8::from_be_bytes(values.array(Field::Hops)?),
        })
    }
}

fn put(out: &mut Vec<u8>, field: Field, value: &[u8]) {
    out.push(field.id());
    // All values are bounded below 64 KiB, by their types or by `put_text`.
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(value);
}

fn put_text(out: &mut Vec<u8>, field: Field, text: &str, max: usize) -> Result<(), ContextError> {
    if !is_text(text, max) {
        return Err(ContextError::Value(field));
    }
    put(out, field, text.as_bytes());
    Ok(())
}

fn is_text(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

/// Address (4 or 16 octets), then port. Scope and flow of an IPv6 address mean nothing on another machine.
fn address_octets(address: SocketAddr) -> Vec<u8> {
    let mut octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.extend_from_slice(&address.port().to_be_bytes());
    octets
}

/// The fields of a context by their ids, still as octets.
struct Values<'a>(BTreeMap<u8, &'a [u8]>);

impl<'a> Values<'a> {
    fn split(octets: &'a [u8]) -> Result<Self, ContextError> {
        let mut fields = Fields(octets);
        let mut values = BTreeMap::new();
        while let Some(id) = fields.octet() {
            let len = fields
                .array()
                .map(u16::from_be_bytes)
                .ok_or(ContextError::Cut)?;
            let value = fields.take(usize::from(len)).ok_or(ContextError::Cut)?;
            if values.insert(id, value).is_some() {
                return Err(ContextError::Duplicate(id));
            }
        }
        Ok(Self(values))
    }

    fn find(&self, field: Field) -> Option<&'a [u8]> {
        self.0.get(&field.id()).copied()
    }

    fn require(&self, field: Field) -> Result<&'a [u8], ContextError> {
        self.find(field).ok_or(ContextError::Missing(field))
    }

    fn array<const N: usize>(&self, field: Field) -> Result<[u8; N], ContextError> {
        self.require(field)?
            .try_into()
            .map_err(|_| ContextError::Value(field))
    }

    fn name<T>(
        &self,
        field: Field,
        parse: impl Fn(&[u8]) -> Result<T, NameError>,
    ) -> Result<T, ContextError> {
        parse(self.require(field)?).map_err(|_| ContextError::Value(field))
    }

    fn text(&self, field: Field, max: usize) -> Result<String, ContextError> {
        std::str::from_utf8(self.require(field)?)
            .ok()
            .filter(|text| is_text(text, max))
            .map(str::to_owned)
            .ok_or(ContextError::Value(field))
    }

    fn address(&self, field: Field) -> Result<SocketAddr, ContextError> {
        let mut fields = Fields(self.require(field)?);
        let ip = match fields.0.len() {
            6 => fields.array::<4>().map(IpAddr::from),
            18 => fields.array::<16>().map(IpAddr::from),
            _ => None,
        };
        let port = fields.array().map(u16::from_be_bytes);
        ip.zip(port)
            .map(SocketAddr::from)
            .ok_or(ContextError::Value(field))
    }

    fn protocol(&self) -> Result<Protocol, ContextError> {
        let word = self.require(Field::Protocol)?;
        [Protocol::Imap, Protocol::Pop3]
            .into_iter()
            .find(|protocol| protocol.as_str().as_bytes() == word)
            .ok_or(ContextError::Value(Field::Protocol))
    }

    /// Both words or neither.
    fn tls(&self) -> Result<Option<ClientTls>, ContextError> {
        if self.find(Field::TlsVersion).is_none() && self.find(Field::TlsCipher).is_none() {
            return Ok(None);
        }
        Ok(Some(ClientTls {
            version: self.text(Field::TlsVersion, MAX_TLS_WORD_BYTES)?,
            cipher: self.text(Field::TlsCipher, MAX_TLS_WORD_BYTES)?,
        }))
    }
}

/// Whatever decodes as a context can be sent, and arrives as the same.
#[cfg(any(fuzzing, test))]
pub fn fuzz(data: &[u8]) {
    for service in [Service::Imap, Service::Pop3] {
        if let Ok(context) = Context::decode(data, service) {
            let mut octets = Vec::new();
            assert_eq!(context.encode(&mut octets), Ok(()));
            assert!(octets.len() <= data.len(), "holds more than there was");
            assert_eq!(Context::decode(&octets, service), Ok(context));
        }
    }
    if let Ok(context) = MailContext::decode(data) {
        let mut octets = Vec::new();
        context.encode(&mut octets);
        assert_eq!(MailContext::decode(&octets), Ok(context));
    }
    mail::fuzz(data);
}
