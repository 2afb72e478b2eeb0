//! TLS towards clients: the certificate from its files, the negotiation with a deadline, and what was agreed. Whoever else
//! has a certificate of its own to show reads it here, too.
//!
//! TLS 1.2 and 1.3 with the suites of rustls; session tickets with a key of this process. The link's own TLS is in
//! `link`: it has other rules.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CipherSuite, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::secret::{Secret, SecretFileError};

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
    let chain = certificates(&files.certificate)?;
    let pem = Secret::from_file(&files.key).map_err(TlsError::KeyFile)?;
    let key = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| TlsError::Key {
        path: files.key.clone(),
    })?;
    Ok((chain, key))
}

/// Reads certificate and key and checks that they fit.
///
/// # Errors
///
/// One for each way in which files can be wrong.
pub fn server_config(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = pair(files)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    // Clients name theirs in an order of habit: most have AES in hardware and put 256 bits first.
    config.ignore_client_order = true;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Pair)?;
    Ok(Arc::new(config))
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
