//! One connection to an LDAP server, on which no operation can be started without a deadline.
//!
//! [`Connector`] makes connections (`ldap://`, `ldaps://`, StartTLS; the certificate is always verified), [`Connection`] runs
//! operations. An operation that failed or ran into its deadline leaves a connection that must not be used again: answers
//! may still come for it. It does not keep, share or replace connections.
//!
//! The LDAP library gets a connected socket, with Nagle's algorithm off (small requests of many sessions share it) and
//! keepalive on (idle ones are dropped by firewalls). Its search adapters are not used: they leak a message id per search.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use ldap3::{
    LdapConnAsync, LdapConnSettings, LdapError, LdapResult, Scope, SearchOptions, StdStream,
    asn1::StructureTag,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem, pem::PemObject as _};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    directory::{LdapSettings, template::TemplateError},
    tasks::Tasks,
};

/// Debian's bundle of the authorities that the system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Entries asked for: the second is proof that a login is ambiguous, more would prove nothing else.
const MAX_ENTRIES: usize = 2;

/// How long a kept connection is silent before the kernel asks whether the server is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Characters of a server's own words that an error text takes.
const MAX_TEXT_CHARS: usize = 160;

/// Makes connections to one server.
pub(super) struct Connector {
    /// The server's URL, without anything secret: for logs.
    pub(super) server: String,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    start_tls: bool,
    tasks: Tasks,
}

/// A connection; clones share it.
#[derive(Clone)]
pub(super) struct Connection(ldap3::Ldap);

/// What is searched for.
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    /// The base entry and all below it, or the base entry alone.
    pub(super) subtree: bool,
    pub(super) filter: &'a str,
    pub(super) attributes: &'a [String],
}

/// What the server said.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: u32,
    /// The server's own words, made fit for a log.
    text: String,
    /// Entries found, two at most.
    pub(super) entries: Vec<StructureTag>,
}

/// Why there was no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke.
    #[error("connection failed: {0}")]
    Dead(String),
    /// The deadline passed.
    #[error("no answer in time ({0})")]
    Late(&'static str),
    /// The service account was refused.
    #[error("service bind: {0}")]
    Service(Reply),
}

/// Why LDAP settings are of no use.
#[derive(Debug, thiserror::Error)]
pub enum LdapSetupError {
    /// The authorities' file holds no certificate.
    #[error("{path} holds no certificate")]
    Authorities {
        /// The file.
        path: PathBuf,
    },
    /// A service account is named whose password is missing, empty or not UTF-8.
    #[error("the service account has no password, or one that is not UTF-8")]
    BindPassword,
    /// The filter for addresses is none.
    #[error("the delivery filter {0}")]
    DeliveryFilter(TemplateError),
    /// The authorities' file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The filter is none.
    #[error("the filter {0}")]
    Filter(TemplateError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The URI has a wrong form.
    #[error("the URI is not of the form ldap://host[:port] or ldaps://host[:port]")]
    Uri,
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(settings: &LdapSettings, tasks: Tasks) -> Result<Self, LdapSetupError> {
        let (is_ldaps, host, port) = parse_uri(&settings.uri).ok_or(LdapSetupError::Uri)?;
        let tls = if is_ldaps || settings.start_tls {
            Some(Arc::new(client_config(settings.ca_file.as_deref())?))
        } else {
            None
        };
        let scheme = if is_ldaps { "ldaps" } else { "ldap" };
        Ok(Self {
            server: format!("{scheme}://{host}:{port}"),
            host,
            port,
            tls,
            start_tls: settings.start_tls && !is_ldaps,
            tasks,
        })
    }

    /// A new connection, encrypted if it is to be, bound as nobody.
    pub(super) async fn connect(&self, deadline: Instant) -> Result<Connection, Broken> {
        timeout_at(deadline, self.connect_now())
            .await
            .unwrap_or(Err(Broken::Late("connecting")))
    }

    async fn connect_now(&self) -> Result<Connection, Broken> {
        let connected = self.connect_socket().await;
        let socket = connected.map_err(|error| Broken::Connect(error.to_string()))?;
        let mut settings = LdapConnSettings::new()
            .set_std_stream(StdStream::Tcp(socket))
            .set_starttls(self.start_tls);
        if let Some(config) = &self.tls {
            settings = settings.set_config(Arc::clone(config));
        }
        let (driver, ldap) = contained(async {
            LdapConnAsync::with_settings(settings, &self.server)
                .await
                .map_err(|error| Broken::Connect(describe(&error)))
        })
        .await?;
        self.tasks.background("ldap connection", async move {
            if let Err(error) = driver.drive().await {
                tracing::debug!(error = describe(&error), "ldap connection ended");
            }
        });
        Ok(Connection(ldap))
    }

    async fn connect_socket(&self) -> io::Result<std::net::TcpStream> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((host, self.port)).await?;
        socket.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
        socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        socket.into_std()
    }
}

/// Whether it is `ldaps`, the host (an IPv6 address in brackets) and the port.
fn parse_uri(uri: &str) -> Option<(bool, String, u16)> {
    let (is_ldaps, rest) = match uri.strip_prefix("ldaps://") {
        Some(rest) => (true, rest),
        None => (false, uri.strip_prefix("ldap://")?),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, if is_ldaps { 636 } else { 389 }),
    };
    let name = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let valid = !name.is_empty() && name.chars().all(allowed) && port != 0;
    valid.then(|| (is_ldaps, host.to_owned(), port))
}

fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, LdapSetupError> {
    let path = ca_file.unwrap_or(Path::new(SYSTEM_AUTHORITIES));
    let failed = |source| LdapSetupError::File {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
        // A bundle may hold certificates of forms that are not supported; those authorities are not trusted.
        let _ = roots.add(certificate.map_err(failed)?);
    }
    if roots.is_empty() {
        return Err(LdapSetupError::Authorities {
            path: path.to_owned(),
        });
    }
    // The provider is named, so that nothing depends on which one the process has installed.
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(LdapSetupError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

// === impl Connection ===

impl Connection {
    /// Whether it is known to be dead.
    pub(super) fn is_closed(&mut self) -> bool {
        self.0.is_closed()
    }

    /// Binds, which is only right when nobody else uses the connection.
    pub(super) async fn bind(
        &mut self,
        dn: &str,
        password: &str,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        let within = left(deadline)?;
        contained(async {
            let bound = self.0.with_timeout(within).simple_bind(dn, password).await;
            Ok(Reply::new(bound.map_err(|e| Broken::of(&e))?, Vec::new()))
        })
        .await
    }

    /// Searches.
    pub(super) async fn search(
        &mut self,
        search: &Search<'_>,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        // The library's own limit starts anew with every entry.
        let within = left(deadline)?;
        timeout_at(deadline, contained(self.search_now(search, within)))
            .await
            .unwrap_or(Err(Broken::Late("searching")))
    }

    async fn search_now(&mut self, search: &Search<'_>, within: Duration) -> Result<Reply, Broken> {
        let limit = i32::try_from(MAX_ENTRIES).unwrap_or(0);
        let options = SearchOptions::new().sizelimit(limit);
        let scope = if search.subtree {
            Scope::Subtree
        } else {
            Scope::Base
        };
        let mut stream = self
            .0
            .with_timeout(within)
            .with_search_options(options)
            .streaming_search(search.base, scope, search.filter, search.attributes)
            .await
            .map_err(|e| Broken::of(&e))?;
        let mut entries = Vec::new();
        while let Some(item) = stream.next().await.map_err(|e| Broken::of(&e))? {
            if item.is_ref() || item.is_intermediate() || entries.len() >= MAX_ENTRIES {
                continue;
            }
            entries.push(item.0);
        }
        Ok(Reply::new(stream.finish().await, entries))
    }
}

/// Runs a call into the library and takes a panic in it for a dead connection: some malformed answers end it so, and what a
/// server sends must not end the session that asked.
async fn contained<T>(call: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    let mut call = std::pin::pin!(call);
    std::future::poll_fn(|context| {
        // The connection is dropped afterwards, so nobody sees what the panic left.
        catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))).unwrap_or_else(|_| {
            let malformed = Broken::Dead("malformed answer".to_owned());
            Poll::Ready(Err(malformed))
        })
    })
    .await
}

/// What is left until `deadline`.
fn left(deadline: Instant) -> Result<Duration, Broken> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Broken::Late("before the operation"));
    }
    Ok(left)
}

// === impl Reply ===

impl Reply {
    fn new(result: LdapResult, entries: Vec<StructureTag>) -> Self {
        Self {
            code: result.rc,
            text: printable(&result.text),
            entries,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "result code {}", self.code)?;
        if self.code == 10 {
            f.write_str(" (a referral, which is not followed)")?;
        }
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

// === impl Broken ===

impl Broken {
    fn of(error: &LdapError) -> Self {
        match error {
            LdapError::Timeout { .. } => Self::Late("waiting for the server"),
            other => Self::Dead(describe(other)),
        }
    }

    /// Whether another connection might do better at once.
    pub(super) fn is_dead_connection(&self) -> bool {
        matches!(self, Self::Dead(_))
    }
}

/// An error of the library in words that hold nothing of the request.
fn describe(error: &LdapError) -> String {
    match error {
        LdapError::Io { source } => printable(&source.to_string()),
        LdapError::LdapResult { result } => {
            format!("result code {} ({})", result.rc, printable(&result.text))
        }
        LdapError::DNSName { .. } => {
            "the host is not a name that a certificate can have".to_owned()
        }
        LdapError::EndOfStream | LdapError::OpSend { .. } | LdapError::ResultRecv { .. } => {
            "closed by the server".to_owned()
        }
        other => printable(&other.to_string()),
    }
}

/// Foreign words for a log: short, without control characters.
fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_of_one_form() {
        let parsed = |uri| parse_uri(uri).map(|(tls, host, port)| format!("{tls} {host} {port}"));
        for (uri, expected) in [
            (
                "ldap://ldap.example.org",
                Some("false ldap.example.org 389"),
            ),
            (
                "ldap://ldap.example.org/",
                Some("false ldap.example.org 389"),
            ),
            (
                "ldaps://ldap.example.org",
                Some("true ldap.example.org 636"),
            ),
            ("ldap://127.0.0.1:1389", Some("false 127.0.0.1 1389")),
            ("ldap://[::1]:1389", Some("false [::1] 1389")),
            ("ldap://[::1]", Some("false [::1] 389")),
            ("ldapi:///run/slapd", None),
            ("ldap://", None),
            ("ldap:///", None),
            ("ldap://:389", None),
            ("ldap://::1", None),
            ("ldap://[::1", None),
            ("ldap://host:", None),
            ("ldap://host:0", None),
            ("ldap://host:65536", None),
            ("ldap://host/dc=org", None),
            ("ldap://user@host", None),
            ("ldap://host?x", None),
            ("host", None),
        ] {
            assert_eq!(parsed(uri).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn foreign_words_are_cut_and_cleaned() {
        assert_eq!(printable("a\r\nb\0c\u{9b}d"), "a  b c d");
        assert_eq!(printable(&"ö".repeat(1000)).chars().count(), 160);
    }
}
