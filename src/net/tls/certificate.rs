//! A certificate of ours: read whole, checked whole, and shown to whoever asks for one of its names.
//!
//! What a certificate is for stands in itself: its DNS names (subjectAltName), of which one may begin with `*` for one
//! label. A client that names none of them, or names nothing, is shown the first certificate.
//!
//! Whether it is old enough and not too old is told, not decided, here. Names that two certificates have belong to the
//! first of them; who asks hears of the other.

use std::{collections::HashMap, fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::{Files, TlsError, certificates, private_key, provider};

/// A certificate with its chain and key, which fit.
#[derive(Clone)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Two certificates have the same name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clash {
    /// The name.
    pub name: String,
    /// Which of the certificates is shown for it, counted from 0.
    pub shown: usize,
    /// Which is not.
    pub hidden: usize,
}

/// Which certificate is shown to whom.
#[derive(Debug)]
pub(super) struct Shown {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

// === impl Certificate ===

impl Certificate {
    /// Reads certificate, chain and key, and checks that all of it can be used together.
    ///
    /// # Errors
    ///
    /// One for each way in which files can be wrong; not that it has expired.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let key = private_key(&files.key)?;
        let form = || TlsError::Form {
            path: files.certificate.clone(),
        };
        let mut parsed = Vec::new();
        for der in &chain {
            let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| form())?;
            if !rest.is_empty() {
                return Err(form());
            }
            parsed.push(certificate);
        }
        let own = parsed.first().ok_or_else(form)?;
        let names = dns_names(own).ok_or_else(form)?;
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| form());
        let not_before = time(own.validity().not_before.timestamp())?;
        let not_after = time(own.validity().not_after.timestamp())?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Pair)?;
        Ok(Self {
            certified: Arc::new(certified),
            names,
            not_before,
            not_after,
        })
    }

    /// Its DNS names, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// What is wrong with its time, now.
    pub fn untimely(&self) -> Option<String> {
        let now = Timestamp::now();
        if now > self.not_after {
            return Some(format!("it expired at {}", self.not_after));
        }
        (now < self.not_before).then(|| format!("it begins at {} only", self.not_before))
    }

    /// Whether that is the same certificate with the same chain; so the key is the same, too.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.names.join(", "))
    }
}

/// None if the extension cannot be read, or is there twice.
fn dns_names(certificate: &X509Certificate<'_>) -> Option<Vec<String>> {
    let Some(names) = certificate.subject_alternative_name().ok()? else {
        return Some(Vec::new());
    };
    let names = names.value.general_names.iter();
    Some(
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
    )
}

/// The names that more than one certificate has.
pub fn clashes<'c>(certificates: impl IntoIterator<Item = &'c Certificate>) -> Vec<Clash> {
    let mut clashes = Vec::new();
    let mut owners: HashMap<&str, usize> = HashMap::new();
    for (hidden, certificate) in certificates.into_iter().enumerate() {
        for name in certificate.names() {
            let shown = *owners.entry(name).or_insert(hidden);
            // One that has a name twice shares it with nobody.
            if shown != hidden {
                clashes.push(Clash {
                    name: name.clone(),
                    shown,
                    hidden,
                });
            }
        }
    }
    clashes
}

// === impl Shown ===

impl Shown {
    /// The first is the default.
    pub(super) fn new<'c>(
        default: &'c Certificate,
        others: impl IntoIterator<Item = &'c Certificate>,
    ) -> Self {
        let mut by_name = HashMap::new();
        for certificate in std::iter::once(default).chain(others) {
            for name in certificate.names() {
                by_name
                    .entry(name.clone())
                    .or_insert_with(|| Arc::clone(&certificate.certified));
            }
        }
        Self {
            default: Arc::clone(&default.certified),
            by_name,
        }
    }

    /// A name that is written out is nearer than a wildcard.
    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives it in lower case and without a dot at its end.
        let named = hello.server_name().and_then(|name| self.named(name));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}
