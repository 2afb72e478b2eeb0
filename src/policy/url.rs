//! Where the policy server is, and the header that it knows us by.

use std::fmt;

use hyper::{
    Uri,
    http::{HeaderName, HeaderValue, uri::PathAndQuery},
};

use crate::{net::Address, secret::Secret};

/// An `http://` or `https://` URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    pub(super) tls: bool,
    pub(super) address: Address,
    /// Without brackets: what a certificate must be for.
    pub(super) host: String,
    /// As the header `Host` says it.
    pub(super) authority: HeaderValue,
    allow: PathAndQuery,
    report: PathAndQuery,
    text: String,
}

/// A header of every request.
#[derive(Clone)]
pub struct Header {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
}

impl Url {
    /// Reads `http://host[:port][/path][?query]`, or `https://`.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (tls, port) = match uri.scheme_str()? {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return None,
        };
        // What is secret has a file of its own; and a URL with a fragment is meant for something else.
        let authority = uri.authority()?.as_str();
        if authority.contains('@') || text.contains('#') {
            return None;
        }
        let host = uri.host()?;
        let address = match authority.strip_prefix(host)? {
            "" => Address::parse(&format!("{host}:{port}"))?,
            _ => Address::parse(authority)?,
        };
        let Address::Tcp { host, .. } = &address else {
            return None;
        };
        let with = |command| {
            let path = uri.path();
            let query = uri.query().filter(|query| !query.is_empty());
            let text = match query {
                None => format!("{path}?command={command}"),
                Some(query) if query.ends_with('&') => format!("{path}?{query}command={command}"),
                Some(query) => format!("{path}?{query}&command={command}"),
            };
            text.parse().ok()
        };
        Some(Self {
            tls,
            host: host.clone(),
            authority: HeaderValue::from_str(authority).ok()?,
            allow: with("allow")?,
            report: with("report")?,
            text: text.to_owned(),
            address,
        })
    }

    /// Whether others than this machine see what is sent there.
    pub fn is_exposed(&self) -> bool {
        !self.tls && !self.address.is_local()
    }

    /// Whether there is a certificate to verify.
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    pub(super) fn allow(&self) -> &PathAndQuery {
        &self.allow
    }

    pub(super) fn report(&self) -> &PathAndQuery {
        &self.report
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Header {
    /// Reads `Name: value`, or a mere value, which is that of `X-API-Key`, as in Dovecot.
    pub fn parse(text: &Secret) -> Option<Self> {
        let text = text.expose();
        let (name, value) = match text.iter().position(|octet| *octet == b':') {
            Some(at) => {
                let (name, value) = text.split_at_checked(at)?;
                let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
                (name, value.get(1..)?)
            }
            None => (HeaderName::from_static("x-api-key"), text),
        };
        let mut value = HeaderValue::from_bytes(value.trim_ascii()).ok()?;
        value.set_sensitive(true);
        (!value.is_empty()).then_some(Self { name, value })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}: ..)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_added_to_the_query() {
        for (text, tls, address, allow) in [
            (
                "http://127.0.0.1:8084/",
                false,
                "127.0.0.1:8084",
                "/?command=allow",
            ),
            (
                "http://wf.example.org",
                false,
                "wf.example.org:80",
                "/?command=allow",
            ),
            (
                "https://wf.example.org/a/b",
                true,
                "wf.example.org:443",
                "/a/b?command=allow",
            ),
            ("https://[::1]:8/x?", true, "[::1]:8", "/x?command=allow"),
            ("http://h:1/x?k=v", false, "h:1", "/x?k=v&command=allow"),
            ("http://h:1/x?k=v&", false, "h:1", "/x?k=v&command=allow"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.tls, tls, "{text}");
            assert_eq!(url.address.to_string(), address, "{text}");
            assert_eq!(url.allow().as_str(), allow, "{text}");
            let report = allow.replace("allow", "report");
            assert_eq!(url.report().as_str(), report, "{text}");
            assert_eq!(url.to_string(), text);
        }
        for text in [
            "",
            "127.0.0.1:8084",
            "/x",
            "ftp://h/",
            "http://",
            "http:///x",
            "http://user:password@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://h/#x",
            "http://h/a b",
            "http://[::1/",
        ] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn who_sees_what_is_sent_is_known() {
        let is_exposed = |text| Url::parse(text).unwrap().is_exposed();
        assert!(is_exposed("http://wf.example.org/"));
        assert!(!is_exposed("https://wf.example.org/"));
        assert!(!is_exposed("http://localhost:8084/"));
        assert!(!is_exposed("http://[::1]:8084/"));
    }

    #[test]
    fn a_header_is_a_line_or_a_key() {
        let parse = |text: &str| Header::parse(&Secret::new(text.as_bytes().to_vec()));
        let header = parse("Authorization: Basic d2Y6c3VwZXI=").unwrap();
        assert_eq!(header.name, "authorization");
        assert_eq!(header.value, "Basic d2Y6c3VwZXI=");
        assert_eq!(format!("{header:?}"), "Header(authorization: ..)");
        let header = parse("a-key-alone").unwrap();
        assert_eq!(
            (header.name.as_str(), header.value.as_bytes()),
            ("x-api-key", &b"a-key-alone"[..])
        );
        for text in ["", "A B: c", ": x", "X-Y:", "X: a\r\nY: b", "x\u{7}"] {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }
}
