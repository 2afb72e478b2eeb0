//! Where something listens: a TCP endpoint by host name or address, or a Unix socket by path.

use std::{fmt, net::IpAddr, path::PathBuf};

/// An endpoint to connect to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// `host:port`; the host is a name, an IPv4 address, or an IPv6 address in brackets.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port, never 0.
        port: u16,
    },
    /// An absolute path.
    Unix(PathBuf),
}

impl Address {
    /// Reads `host:port`, `[v6]:port`, or an absolute path of at most 107 octets (the size of `sun_path`, less its NUL).
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return (text.len() <= 107).then(|| Self::Unix(PathBuf::from(text)));
        }
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .filter(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok())?,
            None if host.contains(':') => return None,
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host_chars = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        (!host.is_empty() && host.chars().all(host_chars)).then(|| Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }

    /// Whether nothing that is sent there leaves this machine, as far as the name tells.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host
                        .parse::<IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in [
            "node1.example.org:7143",
            "10.0.0.1:1",
            "[2001:db8::1]:7143",
            "/run/pigeonair/link.sock",
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":1",
            "2001:db8::1:7143",
            "[host]:1",
            "a b:1",
            "run/x",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_stays_on_this_machine_is_known() {
        let is_local = |text| Address::parse(text).unwrap().is_local();
        for text in ["127.0.0.1:1", "LOCALHOST:1", "[::1]:1", "/run/x"] {
            assert!(is_local(text), "{text}");
        }
        for text in ["10.0.0.1:1", "localhost.example.org:1", "[2001:db8::1]:1"] {
            assert!(!is_local(text), "{text}");
        }
    }
}
