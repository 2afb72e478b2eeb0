//! TLS 1.3 under a link, without any PKI.
//!
//! The node's certificate is made at start-up and thrown away at exit; the dialer takes any certificate, but the
//! handshake's signature must be by its key. Who the peer is follows from the link's own proofs, which are bound to
//! this very TLS session by its exporter value (RFC 9266): a man in the middle has two sessions, two values, and no
//! proof that fits both.
//!
//! No resumption, no tickets, no early data, no TLS 1.2: nothing of one session is of use in another. After the
//! handshake the node never sends anything but records of data, so a dialer may take readable octets for a close.
//! RFC 8446, RFC 9266. On failure: [`SetupError`] at start-up; the rest is an I/O error of the handshake.

use std::{io, sync::Arc};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::NoServerSessionStorage,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{
    net::tls::provider,
    proto::link::{EXPORTER_BYTES, EXPORTER_LABEL},
};

/// Why dialling or admitting cannot be set up: faults of this machine, not of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No certificate for the link's TLS.
    #[error("cannot make a certificate for the link")]
    Certificate(#[source] rcgen::Error),
    /// The kernel gives no randomness.
    #[error("cannot get randomness from the kernel")]
    Random(#[source] getrandom::Error),
    /// The TLS library refuses its settings.
    #[error("cannot set up TLS for the link")]
    Tls(#[source] rustls::Error),
}

/// The node's side, with a certificate made now.
pub(super) fn server() -> Result<ServerConfig, SetupError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SetupError::Certificate)?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])
        .and_then(|params| params.self_signed(&key))
        .map_err(SetupError::Certificate)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| {
        SetupError::Tls(rustls::Error::General(
            "the new key is not PKCS #8".to_owned(),
        ))
    })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
        })
        .map_err(SetupError::Tls)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The dialer's side.
pub(super) fn client() -> Result<ClientConfig, SetupError> {
    let provider = provider();
    let verifier = AnyCertificate(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(SetupError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// The name in the certificate. Nobody compares it and nobody hears it: server names are not sent.
const NAME: &str = "link.invalid";

pub(super) fn server_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from(NAME)
        .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// The session's exporter value. RFC 9266, 4: the context is a string of zero length, which in TLS 1.3 is the same as
/// none (RFC 8446, 7.5).
pub(super) fn exporter<T>(
    connection: &rustls::ConnectionCommon<T>,
) -> Result<[u8; EXPORTER_BYTES], rustls::Error> {
    connection.export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, Some(&[]))
}

/// Whether a TLS handshake failed because the peer left.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
    )
}

/// Whether a TLS handshake failed because the peer's octets are no TLS at all.
pub(super) fn is_not_tls(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| {
            *error == rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)
        })
}

/// Takes any certificate, but only a handshake that its key has signed.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
