//! Certificates of clients: whose are believed, and which login one stands for.
//!
//! A certificate is believed if an authority of the file signed it, its time is right, it may be used by clients
//! (extended key usage, if it says anything of that), and, with a file of revocation lists, a list says of it and of
//! each authority on the way that it is not revoked: without such a list, or with one that has expired, it is not
//! believed.
//!
//! A resumed session has the certificate that it began with: it is verified again, since it may have expired or been
//! revoked. What is asked of clients is part of every ticket (`tickets`).

use std::{path::PathBuf, sync::Arc};

use rustls::{
    HandshakeKind, RootCertStore, ServerConnection,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject as _,
};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{TlsError, certificates, provider, tickets::Policy};
use crate::names::Login;

/// What is asked of clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientSettings {
    /// PEM: the authorities that sign certificates of clients.
    pub authorities: PathBuf,
    /// PEM: revocation lists of these authorities and of those below them.
    pub revocations: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
    /// Where in a certificate the login stands.
    pub login: LoginFrom,
}

/// Where in a certificate the login stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LoginFrom {
    /// The first mail address (rfc822Name) of subjectAltName, and nothing else.
    Email,
    /// The one common name of the subject, and nothing else.
    CommonName,
    /// A mail address if there is one, else the common name.
    Either,
}

/// Verifies certificates of clients.
#[derive(Clone, Debug)]
pub struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    required: bool,
    login: LoginFrom,
    policy: Policy,
    content: [u8; 32],
}

/// What is asked of a client where no certificate is.
pub(super) const NOTHING_ASKED: Policy = [0; 32];

// === impl Clients ===

impl Clients {
    /// Reads authorities and revocation lists.
    ///
    /// # Errors
    ///
    /// A file cannot be read or does not hold what it should.
    pub fn load(settings: &ClientSettings) -> Result<Self, TlsError> {
        let authorities = certificates(&settings.authorities)?;
        let lists = match &settings.revocations {
            Some(path) => revocations(path)?,
            None => Vec::new(),
        };
        let policy = digest(settings.required, authorities.iter().map(AsRef::as_ref));
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(TlsError::Authority)?;
        }
        let content = digest(settings.required, lists.iter().map(AsRef::as_ref));
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .with_crls(lists)
            .enforce_revocation_expiration();
        let builder = if settings.required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        Ok(Self {
            verifier: builder.build().map_err(TlsError::Verifier)?,
            required: settings.required,
            login: settings.login,
            policy,
            content,
        })
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }

    /// What a ticket is bound to.
    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether both files hold the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.policy == other.policy && self.content == other.content
    }

    /// The login that the client's certificate stands for, once a handshake is done.
    pub(super) fn login(
        &self,
        connection: &ServerConnection,
    ) -> Result<Option<Login>, rustls::Error> {
        let Some((own, chain)) = connection.peer_certificates().and_then(<[_]>::split_first) else {
            return if self.required {
                Err(rustls::Error::NoCertificatesPresented)
            } else {
                Ok(None)
            };
        };
        if connection.handshake_kind() == Some(HandshakeKind::Resumed)
            && let Err(error) = self
                .verifier
                .verify_client_cert(own, chain, UnixTime::now())
        {
            tracing::debug!(%error, "the certificate of a resumed session is not believed any more");
            return if self.required { Err(error) } else { Ok(None) };
        }
        Ok(self.login.of(own))
    }
}

fn revocations(path: &PathBuf) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let failed = |source| TlsError::Revocations {
        path: path.clone(),
        source,
    };
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if lists.is_empty() {
        return Err(failed(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(lists)
}

fn digest<'d>(required: bool, ders: impl Iterator<Item = &'d [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([u8::from(required)]);
    for der in ders {
        hash.update((der.len() as u64).to_be_bytes());
        hash.update(der);
    }
    hash.finalize().into()
}

// === impl LoginFrom ===

impl LoginFrom {
    /// What a verified certificate says; none if it says nothing there, or nothing that can be a login.
    fn of(self, der: &CertificateDer<'_>) -> Option<Login> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let name = match self {
            Self::Email => email(&certificate),
            Self::CommonName => common_name(&certificate),
            Self::Either => email(&certificate).or_else(|| common_name(&certificate)),
        };
        Login::parse(name?).ok()
    }
}

fn email<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c str> {
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::RFC822Name(name) => Some(*name),
            _ => None,
        })
}

/// None also if there are several: nobody says which of them is meant.
fn common_name<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c str> {
    let mut names = certificate.subject().iter_common_name();
    let (first, None) = (names.next()?, names.next()) else {
        return None;
    };
    first.as_str().ok()
}
