//! TLS towards clients: certificates, tickets and authorities from their files, the negotiation with a deadline, and
//! what was agreed. Whoever else has a certificate of its own to show reads it here, too.
//!
//! ```text
//! files ─> Keeper (looks every so often) ─> Tls: what is in use now
//!                                            └─> accept ─> stream, what was agreed, login of a certificate
//! ```
//!
//! TLS 1.2 and 1.3 with the suites of rustls. A negotiation takes what is in use when it begins; sessions keep what
//! they began with. Tickets are made with keys of this process, or of a file that several fronts have (`tickets`). The
//! link's own TLS is in `link`: it has other rules.

mod certificate;
mod clients;
mod keeper;
#[cfg(test)]
mod tests;
mod tickets;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

pub use certificate::{Certificate, Clash, clashes};
pub use clients::{ClientSettings, Clients, LoginFrom};
pub use keeper::{Keeper, News, Of};
pub use tickets::TicketKeys;

use rustls::{
    CipherSuite, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    names::Login,
    secret::{Secret, SecretFileError},
};

/// TLS towards clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// What is shown to clients that name nothing, or nothing that we have.
    pub certificate: Files,
    /// What is shown for the names in each.
    pub others: Vec<Files>,
    /// How often files are looked at; default 10 s.
    pub reload_every: Duration,
    /// Where the keys of tickets are; none: this process has its own.
    pub ticket_keys: Option<PathBuf>,
    /// What is asked of clients; none: nothing.
    pub clients: Option<ClientSettings>,
}

/// A certificate and its key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    /// PEM: the certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM: the private key; refused with loose modes.
    pub key: PathBuf,
}

/// Why a certificate is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file cannot be read or holds none.
    #[error("cannot read a certificate from {path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The key file is missing, too open, or too large.
    #[error(transparent)]
    KeyFile(SecretFileError),
    /// The key file does not hold a private key in PEM.
    #[error("{path} does not hold a private key in PEM")]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// A certificate of the file is none, or says what nobody can read.
    #[error("{path} holds a certificate that cannot be read")]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be used now.
    #[error("{path} cannot be used: {problem}")]
    Time {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The file with the keys of tickets is missing, too open, or too large.
    #[error(transparent)]
    TicketFile(SecretFileError),
    /// It has a wrong line.
    #[error("{path}: line {line} {problem}")]
    Tickets {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One of the authorities for clients is none.
    #[error("cannot use an authority")]
    Authority(#[source] rustls::Error),
    /// The file with revocation lists cannot be read or holds none.
    #[error("cannot read a revocation list from {path}")]
    Revocations {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Clients cannot be verified with these authorities and lists.
    #[error("cannot verify clients")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate and key do not fit")]
    Pair(#[source] rustls::Error),
}

/// What was agreed with a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agreed {
    /// As `TLSv1.3`.
    pub version: &'static str,
    /// The suite's IANA name, as `TLS_AES_128_GCM_SHA256`.
    pub cipher: String,
}

/// The oldest version that a listener speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Oldest {
    /// TLS 1.2, then 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// TLS as clients have it now. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<RwLock<InUse>>);

/// What a negotiation takes.
#[derive(Clone, Debug)]
struct InUse {
    from_12: Arc<ServerConfig>,
    from_13: Arc<ServerConfig>,
    clients: Option<Clients>,
}

/// The cryptography of all our TLS. Of AES, 128 bits before 256: there is no attack on either, and with the former goes
/// SHA-256, for which processors have instructions, where the latter's handshake needs SHA-384, for which few do.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let first = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    let suites = &mut provider.cipher_suites;
    // Stable: within a version the others keep the order that rustls gives them.
    suites.sort_by_key(|suite| {
        let is_old = suite.tls13().is_none();
        (is_old, !first.contains(&suite.suite()))
    });
    Arc::new(provider)
}

/// Reads a certificate, its chain, and its key.
///
/// # Errors
///
/// A file that cannot be read or does not hold what it should.
pub fn pair(
    files: &Files,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    Ok((certificates(&files.certificate)?, private_key(&files.key)?))
}

/// Reads a private key.
///
/// # Errors
///
/// The file cannot be read, is too open, or does not hold one.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = Secret::from_file(path).map_err(TlsError::KeyFile)?;
    PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| TlsError::Key {
        path: path.to_owned(),
    })
}

/// Reads the certificates of a PEM file: at least one.
///
/// # Errors
///
/// The file cannot be read or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Certificate {
        path: path.to_owned(),
        source,
    };
    let chain = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if chain.is_empty() {
        return Err(failed(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(chain)
}

/// Negotiates TLS with a client.
///
/// # Errors
///
/// What the client or the network did; [`io::ErrorKind::TimedOut`] after `limit`.
pub async fn accept(
    config: &Arc<ServerConfig>,
    stream: TcpStream,
    limit: Duration,
) -> io::Result<(TlsStream<TcpStream>, Agreed)> {
    let negotiation = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    let stream = tokio::time::timeout(limit, negotiation).await??;
    let (_, connection) = stream.get_ref();
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let suite = connection
        .negotiated_cipher_suite()
        .map_or("", |suite| suite.suite().as_str().unwrap_or(""));
    // rustls tells the suites of TLS 1.3 apart by a prefix that IANA does not use.
    let cipher = suite.replacen("TLS13_", "TLS_", 1);
    Ok((stream, Agreed { version, cipher }))
}

// === impl Tls ===

impl Tls {
    /// Reads all files. The keeper is for whoever looks at them again.
    ///
    /// # Errors
    ///
    /// One for each way in which files can be wrong.
    pub fn load(settings: &Settings) -> Result<(Self, Keeper), TlsError> {
        Keeper::load(settings)
    }

    /// What a listener negotiates with now.
    pub fn config(&self, oldest: Oldest) -> Arc<ServerConfig> {
        self.in_use(|in_use| Arc::clone(in_use.config(oldest)))
    }

    /// Negotiates TLS with a client; with what was agreed comes the login that its certificate stands for.
    ///
    /// # Errors
    ///
    /// As [`accept`].
    pub async fn accept(
        &self,
        oldest: Oldest,
        stream: TcpStream,
        limit: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Agreed, Option<Login>)> {
        // One look: what is asked of clients and what they are told belong together.
        let (config, clients) =
            self.in_use(|in_use| (Arc::clone(in_use.config(oldest)), in_use.clients.clone()));
        let (stream, agreed) = accept(&config, stream, limit).await?;
        let (_, connection) = stream.get_ref();
        let login = match clients {
            Some(clients) => clients.login(connection).map_err(io::Error::other)?,
            None => None,
        };
        Ok((stream, agreed, login))
    }

    fn in_use<T>(&self, take: impl FnOnce(&InUse) -> T) -> T {
        take(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, new: InUse) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

impl InUse {
    fn config(&self, oldest: Oldest) -> &Arc<ServerConfig> {
        match oldest {
            Oldest::Tls12 => &self.from_12,
            Oldest::Tls13 => &self.from_13,
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
