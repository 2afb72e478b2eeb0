//! One connection to an LDAP server, on which no operation can be started without a deadline.
//!
//! [`Connector`] makes connections (`ldap://`, `ldaps://`, StartTLS, `ldapi://`; certificates are always verified), [`Connection`] runs
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
use rustls::{CertificateError, ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, UnixTime, pem, pem::PemObject as _};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout_at},
};

use super::{code, uri::LdapUri};
use crate::{
    directory::template::TemplateError,
    net::{Address, tls},
    secret::Secret,
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
    /// Where it is: nothing of it is secret.
    pub(super) uri: LdapUri,
    tls: Option<Arc<ClientConfig>>,
    start_tls: bool,
    tasks: Tasks,
}

/// A connection; clones share it.
#[derive(Clone)]
pub(super) struct Connection(pub(super) ldap3::Ldap);

/// One operation.
#[derive(Debug)]
pub(super) enum Request {
    /// For nobody, as others are searched for: whether it looks is what counts.
    Probe(Search),
    /// On the same.
    Search(Search),
    /// As a user, on a connection of its own.
    Bind {
        /// Whose entry.
        dn: String,
        /// UTF-8, not empty.
        password: Secret,
    },
}

/// What is searched for.
#[derive(Clone, Debug)]
pub(super) struct Search {
    pub(super) base: Arc<str>,
    /// The base entry and all below it, or the base entry alone.
    pub(super) subtree: bool,
    pub(super) filter: String,
    pub(super) attributes: Arc<[String]>,
}

/// What the server said.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: u32,
    /// The server's own words, made fit for a log.
    text: String,
    /// Entries found, two at most.
    pub(super) entries: Vec<StructureTag>,
    /// URIs of servers that should be asked instead.
    pub(super) referrals: Vec<String>,
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
    /// The server said nothing until the deadline.
    #[error("no answer in time ({0})")]
    Late(&'static str),
    /// It was not asked, which says nothing of it.
    #[error("{0}")]
    Unasked(&'static str),
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
    /// The default home is no template.
    #[error("the default home {0}")]
    Home(TemplateError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// There is no server.
    #[error("no server is named")]
    NoServer,
    /// The certificate or its key are not usable.
    #[error("cannot use the client certificate")]
    Client(#[source] tls::TlsError),
}

// === impl Connector ===

impl Connector {
    /// `tls` is what connections are encrypted by, if they are.
    pub(super) fn new(
        uri: LdapUri,
        tls: Option<Arc<ClientConfig>>,
        start_tls: bool,
        tasks: Tasks,
    ) -> Self {
        let start_tls = start_tls && !uri.tls && matches!(uri.address, Address::Tcp { .. });
        Self {
            tls: tls.filter(|_| uri.tls || start_tls),
            start_tls,
            uri,
            tasks,
        }
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
            .set_std_stream(socket)
            .set_starttls(self.start_tls);
        if let Some(config) = &self.tls {
            settings = settings.set_config(Arc::clone(config));
        }
        // The library reads the scheme and the name that the certificate must have; the path of a socket is not for it.
        let uri = match &self.uri.address {
            Address::Tcp { .. } => self.uri.to_string(),
            Address::Unix(_) => "ldapi:///".to_owned(),
        };
        let (driver, ldap) = contained(async {
            LdapConnAsync::with_settings(settings, &uri)
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

    async fn connect_socket(&self) -> io::Result<StdStream> {
        match &self.uri.address {
            Address::Tcp { host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await?;
                socket.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
                socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
                socket.into_std().map(StdStream::Tcp)
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await?;
                socket.into_std().map(StdStream::Unix)
            }
        }
    }
}

/// What connections to all servers are encrypted by.
pub(super) fn client_config(
    ca_file: Option<&Path>,
    client: Option<&tls::Files>,
) -> Result<ClientConfig, LdapSetupError> {
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
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(LdapSetupError::Tls)?
        .with_root_certificates(roots);
    let Some(files) = client else {
        return Ok(config.with_no_client_auth());
    };
    let (chain, key) = tls::pair(files).map_err(LdapSetupError::Client)?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(LdapSetupError::Tls)
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

    /// Binds as whom the connection itself names (SASL EXTERNAL).
    pub(super) async fn bind_external(&mut self, deadline: Instant) -> Result<Reply, Broken> {
        let within = left(deadline)?;
        contained(async {
            let bound = self.0.with_timeout(within).sasl_external_bind().await;
            Ok(Reply::new(bound.map_err(|e| Broken::of(&e))?, Vec::new()))
        })
        .await
    }

    /// Searches.
    pub(super) async fn search(
        &mut self,
        search: &Search,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        // The library's own limit starts anew with every entry.
        let within = left(deadline)?;
        timeout_at(deadline, contained(self.search_now(search, within)))
            .await
            .unwrap_or(Err(Broken::Late("searching")))
    }

    /// Searches without a limit on what is found, and hands over each entry.
    pub(super) async fn search_each(
        &mut self,
        search: &Search,
        deadline: Instant,
        mut each: impl FnMut(StructureTag) + Send,
    ) -> Result<Reply, Broken> {
        let within = left(deadline)?;
        let searched = contained(async {
            let mut stream = self
                .0
                .with_timeout(within)
                .streaming_search(
                    &search.base,
                    Scope::Subtree,
                    &search.filter,
                    &*search.attributes,
                )
                .await
                .map_err(|e| Broken::of(&e))?;
            while let Some(item) = stream.next().await.map_err(|e| Broken::of(&e))? {
                if !item.is_ref() && !item.is_intermediate() {
                    each(item.0);
                }
            }
            Ok(Reply::new(stream.finish().await, Vec::new()))
        });
        timeout_at(deadline, searched)
            .await
            .unwrap_or(Err(Broken::Late("searching")))
    }

    async fn search_now(&mut self, search: &Search, within: Duration) -> Result<Reply, Broken> {
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
            .streaming_search(&search.base, scope, &search.filter, &*search.attributes)
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
pub(super) async fn contained<T>(
    call: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Broken> {
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
        return Err(Broken::Unasked("no time was left to ask it"));
    }
    Ok(left)
}

// === impl Reply ===

impl Reply {
    pub(super) fn new(result: LdapResult, entries: Vec<StructureTag>) -> Self {
        Self {
            code: result.rc,
            text: printable(&result.text),
            entries,
            referrals: result.refs,
        }
    }
}

impl Reply {
    /// Whether a search was carried out.
    pub(super) fn is_carried_out(&self) -> bool {
        // A limit on the size of a result is what we asked for.
        self.code == code::SUCCESS
            || self.code == code::SIZE_LIMIT_EXCEEDED && !self.entries.is_empty()
    }

    /// Whether a bind says something about the entry rather than about the server.
    pub(super) fn is_judged(&self) -> bool {
        matches!(
            self.code,
            code::SUCCESS
                | code::NO_SUCH_OBJECT
                | code::INAPPROPRIATE_AUTHENTICATION
                | code::INVALID_CREDENTIALS
                | code::CONSTRAINT_VIOLATION
                | code::UNWILLING_TO_PERFORM
        )
    }

    /// Whether it looked, whatever it shows us.
    pub(super) fn is_sign_of_life(&self) -> bool {
        matches!(
            self.code,
            code::SUCCESS | code::NO_SUCH_OBJECT | code::INSUFFICIENT_ACCESS_RIGHTS
        )
    }

    /// Whether the server says that it is of no use to anybody now. (What it says to the bind of a user may be about another
    /// server that it asks.)
    pub(super) fn is_trouble(&self, request: &Request) -> bool {
        !matches!(request, Request::Bind { .. })
            && matches!(self.code, code::BUSY | code::UNAVAILABLE)
    }
}

// === impl Request ===

impl Request {
    /// What it is called.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Probe(_) => "probe",
            Self::Search(_) => "search",
            Self::Bind { .. } => "bind",
        }
    }

    /// Whether that settles it; else another server may know better.
    pub(super) fn is_answered_by(&self, reply: &Reply) -> bool {
        match self {
            Self::Probe(_) => reply.is_sign_of_life(),
            Self::Search(_) => reply.is_carried_out(),
            Self::Bind { .. } => reply.is_judged(),
        }
    }

    /// What there is to say of a reply that does not settle it.
    pub(super) fn complaint(&self, reply: &Reply) -> String {
        match self {
            // Without the server's own words, which follow from what the client sent.
            Self::Bind { dn, .. } => match code::name(reply.code) {
                Some(name) => format!("bind as {dn}: result code {}, {name}", reply.code),
                None => format!("bind as {dn}: result code {}", reply.code),
            },
            Self::Probe(_) | Self::Search(_) => format!("{}: {reply}", self.word()),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "result code {}", self.code)?;
        if let Some(name) = code::name(self.code) {
            write!(f, ", {name}")?;
        }
        if self.code == code::REFERRAL {
            f.write_str(" (a referral to a server that is not configured)")?;
        }
        if !self.text.is_empty() {
            write!(f, " ({})", self.text)?;
        }
        Ok(())
    }
}

// === impl Broken ===

impl Broken {
    pub(super) fn of(error: &LdapError) -> Self {
        match error {
            LdapError::Timeout { .. } => Self::Late("waiting for the server"),
            LdapError::FilterParsing => Self::Unasked("that name makes no filter"),
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
        LdapError::Io { source } => {
            certificate_problem(source).unwrap_or_else(|| printable(&source.to_string()))
        }
        LdapError::LdapResult { result } => Reply::new(result.clone(), Vec::new()).to_string(),
        LdapError::DNSName { .. } => {
            "the host is not a name that a certificate can have".to_owned()
        }
        LdapError::EndOfStream | LdapError::OpSend { .. } | LdapError::ResultRecv { .. } => {
            "closed by the server".to_owned()
        }
        other => printable(&other.to_string()),
    }
}

/// What is wrong with a certificate, where the TLS library has no words for administrators.
fn certificate_problem(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            Some(format!("its certificate expired at {}", date(*not_after)?))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let date = date(*not_before)?;
            Some(format!("its certificate is not valid before {date}"))
        }
        CertificateError::UnknownIssuer => {
            Some("its certificate is signed by no authority that is trusted (ca_file)".to_owned())
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            Some("its certificate is that of an authority (CA:TRUE), not of a server".to_owned())
        }
        _ => None,
    }
}

fn date(time: UnixTime) -> Option<String> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
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
    fn foreign_words_are_cut_and_cleaned() {
        assert_eq!(printable("a\r\nb\0c\u{9b}d"), "a  b c d");
        assert_eq!(printable(&"ö".repeat(1000)).chars().count(), 160);
    }
}
