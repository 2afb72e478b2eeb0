//! The header of the PROXY protocol, versions 1 and 2: who the client is, written before anything else to a real server
//! that is connected to on the client's behalf.
//!
//! ```text
//! v1   PROXY TCP4 192.0.2.77 192.0.2.1 4242 993 CRLF       PROXY TCP6 ...       PROXY UNKNOWN CRLF
//! v2   signature (12)  0x21  0x11 or 0x21  length (2)      addresses, ports      UNIQUE_ID  [SSL [version] [cipher]]
//!      signature (12)  0x20  0x00          0x0000          on behalf of nobody
//! ```
//!
//! Both addresses are of one family: an IPv4 address inside an IPv6 one is IPv4, and where the two differ, both are
//! written as IPv6. The TLVs of version 2 say the session's id and, for a client that has TLS, its version and cipher: what
//! a receiver does not know it passes over. Dovecot counts a connection with SSL as one under TLS.
//!
//! There is no checksum: the header never leaves the machine. It decides nothing and does no I/O; that the receiver wants
//! a header, and of which version, is the administrator's to say, since neither side can ask.
//!
//! Limits: none of its own; ids and TLS words have theirs, and all of them together are below 512 octets. Nothing fails.
//! The decoder and `property` are compiled for tests and fuzzing only.

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

#[cfg(any(fuzzing, test))]
pub use decode::property;

/// The decoder: it reads the headers by the protocol's rules, not by the encoder's constants.
#[cfg(any(fuzzing, test))]
mod decode {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// What a header says; the addresses are none for a connection on behalf of nobody.
    #[derive(Debug, Default, Eq, PartialEq)]
    pub(super) struct Decoded {
        pub(super) addresses: Option<(SocketAddr, SocketAddr)>,
        pub(super) session: Option<Vec<u8>>,
        /// Version and cipher.
        pub(super) tls: Option<(Vec<u8>, Vec<u8>)>,
    }

    /// Reads a whole header of either version.
    pub(super) fn header(octets: &[u8]) -> Option<Decoded> {
        if octets.starts_with(b"PROXY ") {
            return v1(octets);
        }
        let rest = octets.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
        let ([command, family], rest) = rest.split_first_chunk()?;
        let rest = whole(rest)?;
        match (command, family) {
            (0x20, 0x00) if rest.is_empty() => Some(Decoded::default()),
            (0x21, 0x11) => {
                let (client, rest) = rest.split_first_chunk::<4>()?;
                let (local, rest) = rest.split_first_chunk::<4>()?;
                let ips = [*client, *local].map(|octets| Ipv4Addr::from(octets).into());
                ports_and_tlvs(ips, rest)
            }
            (0x21, 0x21) => {
                let (client, rest) = rest.split_first_chunk::<16>()?;
                let (local, rest) = rest.split_first_chunk::<16>()?;
                let ips = [*client, *local].map(|octets| Ipv6Addr::from(octets).into());
                ports_and_tlvs(ips, rest)
            }
            _ => None,
        }
    }

    fn v1(line: &[u8]) -> Option<Decoded> {
        // The protocol's own limit, with its line end.
        let line = line
            .strip_suffix(b"\r\n")
            .filter(|line| line.len() <= 105)?;
        let words: Vec<_> = std::str::from_utf8(line).ok()?.split(' ').collect();
        let (client, local, ports) = match words.as_slice() {
            ["PROXY", "UNKNOWN"] => return Some(Decoded::default()),
            ["PROXY", "TCP4", client, local, ports @ ..] => {
                let v4 = |text: &str| Some(IpAddr::from(text.parse::<Ipv4Addr>().ok()?));
                (v4(client)?, v4(local)?, ports)
            }
            ["PROXY", "TCP6", client, local, ports @ ..] => {
                let v6 = |text: &str| Some(IpAddr::from(text.parse::<Ipv6Addr>().ok()?));
                (v6(client)?, v6(local)?, ports)
            }
            _ => return None,
        };
        let [from, to] = ports else { return None };
        let client = SocketAddr::new(client, from.parse().ok()?);
        let local = SocketAddr::new(local, to.parse().ok()?);
        Some(Decoded {
            addresses: Some((client, local)),
            ..Decoded::default()
        })
    }

    fn ports_and_tlvs([client, local]: [IpAddr; 2], rest: &[u8]) -> Option<Decoded> {
        let (from, rest) = rest.split_first_chunk()?;
        let (to, mut rest) = rest.split_first_chunk()?;
        let client = SocketAddr::new(client, u16::from_be_bytes(*from));
        let local = SocketAddr::new(local, u16::from_be_bytes(*to));
        let mut decoded = Decoded {
            addresses: Some((client, local)),
            ..Decoded::default()
        };
        while !rest.is_empty() {
            let (name, value, after) = tlv(rest)?;
            match name {
                0x05 => decoded.session = Some(value.to_vec()),
                0x20 => {
                    let inside = value.strip_prefix(b"\x01\0\0\0\x01")?;
                    let (0x21, version, inside) = tlv(inside)? else {
                        return None;
                    };
                    let (0x23, cipher, b"") = tlv(inside)? else {
                        return None;
                    };
                    decoded.tls = Some((version.to_vec(), cipher.to_vec()));
                }
                _ => return None,
            }
            rest = after;
        }
        Some(decoded)
    }

    /// What stands behind a length that ends the input.
    fn whole(octets: &[u8]) -> Option<&[u8]> {
        let (length, rest) = octets.split_first_chunk()?;
        (usize::from(u16::from_be_bytes(*length)) == rest.len()).then_some(rest)
    }

    fn tlv(octets: &[u8]) -> Option<(u8, &[u8], &[u8])> {
        let ([name, high, low], rest) = octets.split_first_chunk()?;
        let length = u16::from_be_bytes([*high, *low]);
        let (value, rest) = rest.split_at_checked(length.into())?;
        Some((*name, value, rest))
    }

    /// Holds for any addresses, ids and TLS words: what is encoded decodes to itself, in one family, and is short. The
    /// octets become addresses, ports and words.
    ///
    /// # Panics
    ///
    /// When it does not hold.
    #[allow(
        clippy::expect_used,
        reason = "a property of the fuzz target and the tests panics when it does not hold"
    )]
    pub fn property(octets: &[u8], session: &SessionId) {
        let mut padded = octets.iter().copied().chain(std::iter::repeat(0));
        let mut next = || padded.next().unwrap_or_default();
        let mut address = || {
            let port = u16::from_be_bytes([next(), next()]);
            let ip = match next() % 3 {
                0 => IpAddr::from([next(), next(), next(), next()]),
                1 => Ipv4Addr::new(next(), next(), next(), next())
                    .to_ipv6_mapped()
                    .into(),
                _ => IpAddr::from(std::array::from_fn::<u8, 16, _>(|_| next())),
            };
            SocketAddr::new(ip, port)
        };
        let (client, local) = (address(), address());
        let text: String = String::from_utf8_lossy(octets).chars().take(16).collect();
        let tls = ClientTls {
            version: "TLSv1.3".to_owned(),
            cipher: text,
        };
        let same = client.ip().to_canonical().is_ipv4() == local.ip().to_canonical().is_ipv4();
        for tls in [None, Some(&tls)] {
            let said = ProxyHeader {
                client: ClientAddr(client),
                local: LocalAddr(local),
                session,
                tls,
            };
            let [v1, v2] = [Version::V1, Version::V2].map(|version| {
                let mut out = BytesMut::new();
                said.put(version, &mut out);
                assert!(out.len() <= 512);
                header(&out).expect("a header")
            });
            assert_eq!(v1.addresses, v2.addresses);
            let (from, to) = v2.addresses.expect("addresses");
            assert_eq!(from.is_ipv4(), to.is_ipv4());
            let form =
                |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            assert_eq!((form(from), form(to)), (form(client), form(local)));
            assert!(!same || from.ip() == from.ip().to_canonical());
            assert_eq!(v2.session.as_deref(), Some(session.as_str().as_bytes()));
            let words = tls.map(|tls| (tls.version.clone().into(), tls.cipher.clone().into()));
            assert_eq!(v2.tls, words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(client: &str, local: &str, version: Version) -> Vec<u8> {
        let tls = ClientTls {
            version: "TLSv1.3".to_owned(),
            cipher: "AES".to_owned(),
        };
        let session = SessionId::parse("sess-0001").unwrap();
        let header = ProxyHeader {
            client: ClientAddr(client.parse().unwrap()),
            local: LocalAddr(local.parse().unwrap()),
            session: &session,
            tls: Some(&tls),
        };
        let mut out = BytesMut::new();
        header.put(version, &mut out);
        out.to_vec()
    }

    #[test]
    fn version_1_is_a_line() {
        for (client, local, line) in [
            (
                "192.0.2.77:4242",
                "192.0.2.1:993",
                "PROXY TCP4 192.0.2.77 192.0.2.1 4242 993\r\n",
            ),
            (
                "[::ffff:192.0.2.77]:4242",
                "192.0.2.1:993",
                "PROXY TCP4 192.0.2.77 192.0.2.1 4242 993\r\n",
            ),
            (
                "[2001:db8::77]:1",
                "[2001:db8::1]:993",
                "PROXY TCP6 2001:db8::77 2001:db8::1 1 993\r\n",
            ),
            (
                "192.0.2.77:4242",
                "[2001:db8::1]:993",
                "PROXY TCP6 ::ffff:192.0.2.77 2001:db8::1 4242 993\r\n",
            ),
        ] {
            let octets = header(client, local, Version::V1);
            assert_eq!(String::from_utf8(octets).unwrap(), line);
        }
    }

    #[test]
    fn version_2_has_the_octets_of_the_protocol() {
        let octets = header("192.0.2.77:4242", "[::ffff:192.0.2.1]:993", Version::V2);
        let expected = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x30"[..],
            &[192, 0, 2, 77, 192, 0, 2, 1, 0x10, 0x92, 0x03, 0xe1],
            b"\x05\0\x09sess-0001",
            b"\x20\0\x15\x01\0\0\0\x01\x21\0\x07TLSv1.3\x23\0\x03AES",
        ]
        .concat();
        assert_eq!(
            octets.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        let octets = header("[2001:db8::77]:1", "192.0.2.1:993", Version::V2);
        let addresses = decode::header(&octets).unwrap().addresses.unwrap();
        assert_eq!(
            addresses,
            (
                "[2001:db8::77]:1".parse().unwrap(),
                "[::ffff:192.0.2.1]:993".parse().unwrap()
            )
        );
    }

    #[test]
    fn a_header_of_our_own_names_nobody() {
        for (version, expected) in [
            (Version::V1, &b"PROXY UNKNOWN\r\n"[..]),
            (Version::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ] {
            let mut out = BytesMut::new();
            put_own(version, &mut out);
            assert_eq!(out, expected);
            assert_eq!(decode::header(&out), Some(decode::Decoded::default()));
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        let session = SessionId::parse(&"s".repeat(64)).unwrap();
        property(b"", &session);
        for octet in 0..=255 {
            property(&[octet; 3], &session);
            property(&[octet; 40], &session);
            property(
                &[1, 2, octet, 3, 4, 5, 6, 7, 8, octet.wrapping_mul(7), 9],
                &session,
            );
        }
    }
}
