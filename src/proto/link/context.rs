//! What a front tells a node about user and client when it opens a link.
//! (stub: encode/decode to be added here)

use crate::names::{AccountName, ClientAddr, LocalAddr, Protocol, SessionId};

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
    /// How many fronts this session has passed, to stop loops.
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
