//! A certificate authority for one cluster, its server certificate, and a client side that trusts it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore};

/// Writes `ca.pem`, `server.pem` and `server.key` (mode 0600) to `dir`, and the authority of somebody else with the
/// same name to `foreign-ca.pem`; returns what a client needs.
pub(crate) fn write(dir: &Path, address: Ipv4Addr) -> Arc<ClientConfig> {
    write_for(dir, vec!["localhost".to_owned(), address.to_string()])
}

/// The same for these names and addresses.
pub(crate) fn write_for(dir: &Path, names: Vec<String>) -> Arc<ClientConfig> {
    let authority = authority();
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let foreign = authority
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap();
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate().unwrap();
    // Some clients have only names for what they compare, and take an address for one.
    let addresses = names.iter().filter(|name| name.parse::<IpAddr>().is_ok());
    let addresses: Vec<SanType> = addresses
        .map(|address| SanType::DnsName(address.as_str().try_into().unwrap()))
        .collect();
    let mut server = CertificateParams::new(names).unwrap();
    server.subject_alt_names.extend(addresses);
    server
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    let server = server.signed_by(&key, &issuer).unwrap();

    fs::write(dir.join("ca.pem"), pem("CERTIFICATE", root.der())).unwrap();
    fs::write(
        dir.join("foreign-ca.pem"),
        pem("CERTIFICATE", foreign.der()),
    )
    .unwrap();
    fs::write(dir.join("server.pem"), pem("CERTIFICATE", server.der())).unwrap();
    super::write_private(
        &dir.join("server.key"),
        &pem("PRIVATE KEY", &key.serialize_der()),
    );

    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_no_client_auth();
    Arc::new(config)
}

fn authority() -> CertificateParams {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate whose issuer and subject have one name for self-signed.
    authority
        .distinguished_name
        .push(DnType::CommonName, "authority of a test");
    authority
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
