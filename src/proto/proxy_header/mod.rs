//! The header of the PROXY protocol, versions 1 and 2: who the client is, written before anything else by whoever
//! connects on the client's behalf. We write it to real servers, and read a balancer's ([`decode`](Decoder)).
//!
//! ```text
//! v1   PROXY TCP4 192.0.2.77 192.0.2.1 4242 993 CRLF       PROXY TCP6 ...       PROXY UNKNOWN CRLF
//! v2   signature (12)  0x21  0x11 or 0x21  length (2)      addresses, ports      UNIQUE_ID  [SSL [version] [cipher]]
//!      signature (12)  0x20  0x00          0x0000          on behalf of nobody
//! ```
//!
//! Both addresses are of one family: an IPv4 address inside an IPv6 one is IPv4, and where the two differ, both are
//! written as IPv6. The TLVs of version 2 say the session's id and, for a client that has TLS, its version and cipher:
//! what a receiver does not know it passes over. Dovecot counts a connection with SSL as one under TLS.
//!
//! What we write has no checksum: it never leaves the machine. Nothing is decided here and no I/O done; that the
//! receiver wants a header, and of which version, is the administrator's to say, since neither side can ask.
//!
//! Limits of what is written: none of its own; ids and TLS words have theirs, and all of them together are below 512
//! octets. Nothing of it fails.

mod decode;
#[cfg(any(fuzzing, test))]
mod property;
#[cfg(test)]
mod tests;

#[cfg(any(fuzzing, test))]
pub use property::{fuzz, property};

pub use decode::{Decoder, HeaderError, Introduction, Tls};

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, BytesMut};

use crate::{
    names::{ClientAddr, LocalAddr, SessionId},
    proto::link::context::ClientTls,
};

/// What no other protocol begins with; a server that takes no header answers it with an error.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and its two commands.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Version 2, families of addresses with TCP.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Version 2, types of TLVs; the last two stand inside SSL.
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CIPHER: u8 = 0x23;

/// The client speaks TLS, and has shown no certificate.
const CLIENT_SSL: u8 = 0x01;
const NOT_VERIFIED: u32 = 1;

/// Which header a server wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Octets, with more than addresses.
    V2,
}

/// What a header says.
#[derive(Clone, Copy, Debug)]
pub struct ProxyHeader<'a> {
    /// Where the client connected from.
    pub client: ClientAddr,
    /// Where it connected to.
    pub local: LocalAddr,
    /// The session's id; version 2.
    pub session: &'a SessionId,
    /// The client's TLS, if it has any; version 2.
    pub tls: Option<&'a ClientTls>,
}

impl ProxyHeader<'_> {
    /// Writes the header.
    pub fn put(&self, version: Version, out: &mut BytesMut) {
        let (client, local) = one_family(self.client.0, self.local.0);
        match version {
            Version::V1 => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let line = format!(
                    "PROXY {family} {} {} {} {}\r\n",
                    client.ip(),
                    local.ip(),
                    client.port(),
                    local.port(),
                );
                out.put_slice(line.as_bytes());
            }
            Version::V2 => {
                let mut rest = BytesMut::new();
                put_ip(client.ip(), &mut rest);
                put_ip(local.ip(), &mut rest);
                rest.put_u16(client.port());
                rest.put_u16(local.port());
                put_tlv(UNIQUE_ID, self.session.as_str().as_bytes(), &mut rest);
                if let Some(tls) = self.tls {
                    put_tlv(SSL, &ssl(tls), &mut rest);
                }
                let family = if client.is_ipv4() { TCP4 } else { TCP6 };
                put_v2(PROXY, family, &rest, out);
            }
        }
    }
}

/// Writes the header of a connection that we make for ourselves.
pub fn put_own(version: Version, out: &mut BytesMut) {
    match version {
        Version::V1 => out.put_slice(b"PROXY UNKNOWN\r\n"),
        Version::V2 => put_v2(LOCAL, UNSPEC, b"", out),
    }
}

fn one_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let [client, local] =
        [client, local].map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    let [client, local] = [client, local].map(|address| {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        SocketAddr::new(ip.into(), address.port())
    });
    (client, local)
}

fn put_v2(command: u8, family: u8, rest: &[u8], out: &mut BytesMut) {
    out.put_slice(SIGNATURE);
    out.put_u8(command);
    out.put_u8(family);
    put_length(rest, out);
}

fn put_ip(ip: IpAddr, out: &mut BytesMut) {
    match ip {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
}

fn ssl(tls: &ClientTls) -> BytesMut {
    let mut value = BytesMut::new();
    value.put_u8(CLIENT_SSL);
    value.put_u32(NOT_VERIFIED);
    put_tlv(SSL_VERSION, tls.version.as_bytes(), &mut value);
    put_tlv(SSL_CIPHER, tls.cipher.as_bytes(), &mut value);
    value
}

fn put_tlv(name: u8, value: &[u8], out: &mut BytesMut) {
    out.put_u8(name);
    put_length(value, out);
}

/// Writes what is far shorter than 65536 octets behind its length; were it not, it would be cut.
fn put_length(value: &[u8], out: &mut BytesMut) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(value.get(..usize::from(length)).unwrap_or(value));
}
