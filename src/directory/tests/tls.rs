//! Certificates that are not to be trusted, by TLS from the first octet and by StartTLS: it is said which server that is and why,
//! nothing is sent there, and the next one is asked.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, date_time_ymd};

use super::{
    servers::{at, is_up},
    *,
};

type Change = fn(&mut CertificateParams);

/// What is wrong, and what is said of it.
const WRONG: [(Change, &str); 4] = [
    (
        |certificate| {
            certificate.not_before = date_time_ymd(2001, 1, 1);
            certificate.not_after = date_time_ymd(2002, 1, 1);
        },
        "its certificate expired at 2002-01-01T00:00:00Z",
    ),
    (
        |certificate| {
            certificate.not_before = date_time_ymd(2900, 1, 1);
            certificate.not_after = date_time_ymd(2901, 1, 1);
        },
        "its certificate is not valid before 2900-01-01T00:00:00Z",
    ),
    (
        |certificate| certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        "its certificate is that of an authority (CA:TRUE), not of a server",
    ),
    (
        |certificate| certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        "invalid peer certificate: certificate does not allow extended key usage for server authentication, allows client authentication",
    ),
];

/// How each of them may be reached.
fn ways(slapd: &Slapd) -> [(String, bool); 2] {
    [(slapd.ldaps_uri(), false), (slapd.uri(), true)]
}

/// Nobody logs in at a server whose certificate is trusted by this file, and the error says so.
async fn assert_refused(slapd: &Slapd, authority: &Path, words: &str) {
    for (uri, start_tls) in ways(slapd) {
        let directory = start(at(std::slice::from_ref(&uri), |ldap| {
            ldap.start_tls = start_tls;
            ldap.ca_file = Some(authority.to_owned());
        }));
        let error = directory.find(&Login::parse("ann").unwrap()).await;
        let error = error.unwrap_err().to_string();
        let expected = format!("directory is not available: {uri}: cannot connect: {words}");
        assert_eq!(error, expected);
    }
}

#[tokio::test]
async fn a_bad_certificate_is_named() {
    for (change, words) in WRONG {
        let (slapd, authority) = Slapd::with_certificate(None, change);
        assert_refused(&slapd, &authority, words).await;
    }
    let (slapd, authority) = Slapd::with_tls(Some("ldap.example.org"));
    let uri = LdapUri::parse(&slapd.uri()).unwrap();
    let crate::net::Address::Tcp { host, .. } = uri.address else {
        panic!("not TCP");
    };
    let words = format!(
        "invalid peer certificate: certificate not valid for name \"{host}\"; \
         certificate is only valid for DnsName(\"ldap.example.org\")"
    );
    assert_refused(&slapd, &authority, &words).await;
    let (_other, foreign) = Slapd::with_tls(None);
    assert_refused(
        &slapd,
        &foreign,
        "its certificate is signed by no authority that is trusted (ca_file)",
    )
    .await;
}

#[tokio::test]
async fn the_next_server_is_asked_instead() {
    let (good, authority) = Slapd::with_tls(None);
    let (bad, _) = Slapd::with_tls(None);
    for ((bad, start_tls), (good, _)) in ways(&bad).into_iter().zip(ways(&good)) {
        let (directory, metrics) = start_counted(at(&[bad.clone(), good.clone()], |ldap| {
            ldap.start_tls = start_tls;
            ldap.ca_file = Some(authority.clone());
        }));
        for _ in 0..3 {
            assert_eq!(log_in(&directory, "ann", "secret").await, "ok Ann");
            assert_eq!(log_in(&directory, "ann", "wrong").await, "wrong password");
        }
        assert!(!is_up(&metrics, &bad) && is_up(&metrics, &good));
        let binds = metrics
            .ldap_requests
            .with_label_values(&[&bad, "bind", "ok"]);
        assert_eq!(binds.get(), 0);
    }
}
