//! Where an LDAP server is (RFC 4516, of which only scheme, host and port are taken).

use std::fmt;

use crate::net::Address;

/// The port of `ldap://` (RFC 4516).
const LDAP_PORT: u16 = 389;
/// The port of `ldaps://`.
const LDAPS_PORT: u16 = 636;
/// Where Debian's slapd has its Unix socket.
const SOCKET: &str = "/run/slapd/ldapi";

/// The address of an LDAP server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LdapUri {
    /// TLS from the first octet.
    pub tls: bool,
    /// A host and its port, or a Unix socket.
    pub address: Address,
}

impl LdapUri {
    /// What [`parse`](Self::parse) takes, for people.
    pub const FORM: &str = "\"ldap://host[:port]\", \"ldaps://host[:port]\" or \"ldapi://[/path]\"";

    /// Reads `ldap://host[:port]`, `ldaps://host[:port]`, or `ldapi://` with the path of a Unix socket: percent-encoded, as
    /// OpenLDAP wants it, or as it is; without one, where Debian's slapd has it.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("ldapi://") {
            let address = match decoded(path)?.as_str() {
                "" | "/" => Address::parse(SOCKET)?,
                path => Address::parse(path.strip_suffix('/').unwrap_or(path))?,
            };
            let is_socket = matches!(address, Address::Unix(_));
            return is_socket.then_some(Self {
                tls: false,
                address,
            });
        }
        let (tls, rest) = match text.strip_prefix("ldaps://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("ldap://")?),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let has_port = match rest.rsplit_once(':') {
            Some((_, port)) => !port.ends_with(']'),
            None => false,
        };
        let port = if tls { LDAPS_PORT } else { LDAP_PORT };
        let address = if has_port {
            Address::parse(rest)?
        } else {
            Address::parse(&format!("{rest}:{port}"))?
        };
        let is_host = matches!(address, Address::Tcp { .. });
        is_host.then_some(Self { tls, address })
    }

    /// Whether a referral (RFC 4511, 4.1.10) leads there; what it says behind host and port is not looked at.
    pub(super) fn is_meant_by(&self, referral: &str) -> bool {
        let scheme = referral.find("://").map(|at| at.saturating_add(3));
        let Some((scheme, rest)) = scheme.and_then(|at| referral.split_at_checked(at)) else {
            return false;
        };
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let meant = Self::parse(&format!("{}{host}", scheme.to_ascii_lowercase()));
        match (meant.map(|meant| meant.address), &self.address) {
            (
                Some(Address::Tcp { host, port }),
                Address::Tcp {
                    host: own,
                    port: at,
                },
            ) => host.eq_ignore_ascii_case(own) && port == *at,
            (Some(Address::Unix(path)), Address::Unix(own)) => path == *own,
            _ => false,
        }
    }
}

impl fmt::Display for LdapUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(path) => write!(f, "ldapi://{}", path.display()),
            address if self.tls => write!(f, "ldaps://{address}"),
            address => write!(f, "ldap://{address}"),
        }
    }
}

/// Undoes percent-encoding (RFC 3986, 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let digit = |octet: u8| char::from(octet).to_digit(16);
        let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
        octets.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_of_three_forms() {
        for (text, shown) in [
            ("ldap://ldap.example.org", "ldap://ldap.example.org:389"),
            ("ldap://ldap.example.org/", "ldap://ldap.example.org:389"),
            ("ldaps://ldap.example.org", "ldaps://ldap.example.org:636"),
            ("ldap://127.0.0.1:1389", "ldap://127.0.0.1:1389"),
            ("ldap://[::1]:1389", "ldap://[::1]:1389"),
            ("ldaps://[::1]", "ldaps://[::1]:636"),
            ("ldapi://", "ldapi:///run/slapd/ldapi"),
            ("ldapi:///", "ldapi:///run/slapd/ldapi"),
            ("ldapi://%2Frun%2Fx%2fldapi", "ldapi:///run/x/ldapi"),
            ("ldapi://%2Frun%2Fx%2fldapi/", "ldapi:///run/x/ldapi"),
            ("ldapi:///run/x/ldapi", "ldapi:///run/x/ldapi"),
        ] {
            let uri = LdapUri::parse(text).unwrap();
            assert_eq!(uri.to_string(), shown, "{text}");
            // What is shown is of the form, too.
            assert_eq!(LdapUri::parse(shown).unwrap(), uri);
        }
        for text in [
            "",
            "ldap.example.org",
            "ldap://",
            "ldap:///",
            "ldap://:389",
            "ldap://::1",
            "ldap://[::1",
            "ldap://host:",
            "ldap://host:0",
            "ldap://host:65536",
            "ldap://host:x",
            "ldap://a b",
            "ldap://host/dc=org",
            "ldap://user@host",
            "ldap://host?x",
            "ldap:///run/x",
            "LDAP://host",
            "http://host",
            "ldapi://host",
            "ldapi://host:389",
            "ldapi://%2",
            "ldapi://%zz",
            "ldapi://%ff",
        ] {
            assert_eq!(LdapUri::parse(text), None, "{text}");
        }
    }

    #[test]
    fn referrals_name_a_server_whatever_they_say_behind_it() {
        let uri = LdapUri::parse("ldap://Ldap1.example.org:1389").unwrap();
        for referral in [
            "ldap://ldap1.example.org:1389",
            "LDAP://LDAP1.example.org:1389/",
            "ldap://ldap1.example.org:1389/dc=example,dc=org??sub?(uid=x)",
            // Whether by TLS is for the configuration to say, not for whoever answers.
            "ldaps://ldap1.example.org:1389/",
        ] {
            assert!(uri.is_meant_by(referral), "{referral}");
        }
        for referral in [
            "",
            "ldap1.example.org:1389",
            "ldap://ldap1.example.org",
            "ldap://ldap2.example.org:1389/",
            "ldap://ldap1.example.org:1389@elsewhere/",
            "://",
            "ö://ldap1.example.org:1389",
        ] {
            assert!(!uri.is_meant_by(referral), "{referral}");
        }
    }
}
