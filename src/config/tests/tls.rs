//! `[proxy.tls]` with something wrong in it, and what is said.

use super::*;
use crate::{
    net::tls::{LoginFrom, Oldest},
    proxy::Settings,
};

/// [`BOTH`] with these lines at the end of `[proxy.tls]`.
fn with(lines: &str) -> String {
    let last = "key = \"/etc/pigeonair/privkey.pem\"\n";
    assert!(BOTH.contains(last));
    BOTH.replacen(last, &format!("{last}{lines}\n"), 1)
}

fn read(folder: &Folder, lines: &str) -> (Settings, Vec<String>) {
    let config = folder.read(&with(lines), None).unwrap();
    (config.front.unwrap().proxy.unwrap(), config.warnings)
}

#[test]
fn everything_has_a_default() {
    let folder = Folder::new();
    let (settings, warnings) = read(&folder, "");
    let tls = settings.tls.unwrap();
    assert_eq!(tls.reload_every, Duration::from_secs(10));
    assert_eq!(
        (tls.others, tls.ticket_keys, tls.clients),
        (vec![], None, None)
    );
    let oldest = |listener: &crate::proxy::Listener| listener.oldest == Oldest::Tls12;
    assert!(settings.listeners.iter().all(oldest));
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn clients_are_asked_where_authorities_are() {
    let folder = Folder::new();
    let clients = |lines: &str| {
        let lines = format!("client_ca = '/etc/pigeonair/clients.pem'\n{lines}");
        read(&folder, &lines).0.tls.unwrap().clients
    };
    let usual = clients("").unwrap();
    assert!(!usual.required && usual.revocations.is_none());
    assert_eq!(usual.login, LoginFrom::Email);
    assert_eq!(clients("client_certificates = 'off'"), None);
    let all = clients(
        "client_certificates = 'required'\nclient_login = 'email-or-common-name'\n\
         client_crl = '/etc/pigeonair/clients.crl'",
    );
    let all = all.unwrap();
    assert!(all.required && all.revocations.is_some());
    assert_eq!(all.login, LoginFrom::Either);
}

#[test]
fn all_that_is_wrong_is_said() {
    let folder = Folder::new();
    for (lines, expected) in [
        (
            "reload_every = '10ms'",
            &[
                "proxy.tls.reload_every: bad value (got \"10ms\"; expected a time from 1s to 1day with its unit, as \"30s\")",
            ][..],
        ),
        (
            "ticket_keys = '/etc/pigeonair/open.key'",
            &[
                "proxy.tls.ticket_keys: /etc/pigeonair/open.key has mode 0644 (expected 0600 or 0640: nobody but owner and group may open it)",
            ],
        ),
        (
            "ticket_keys = '/etc/pigeonair/master.password'",
            &[
                "proxy.tls.ticket_keys: /etc/pigeonair/master.password: line 1 is no key (expected 64 characters, as `openssl rand -base64 48` writes)",
            ],
        ),
        (
            "client_certificates = 'required'",
            &[
                "proxy.tls.client_ca: missing (expected the path of a PEM file with certificates of authorities)",
            ],
        ),
        (
            "client_crl = '/etc/pigeonair/clients.crl'",
            &["proxy.tls.client_crl: not used without client_ca"],
        ),
        (
            "client_ca = '/etc/pigeonair/none.pem'",
            &[
                "proxy.tls.client_ca: cannot read a certificate from /etc/pigeonair/none.pem: I/O error: No such file or directory (os error 2)",
            ],
        ),
        (
            "client_ca = '/etc/pigeonair/clients.pem'\nclient_crl = '/etc/pigeonair/clients.pem'",
            &[
                "proxy.tls.client_crl: cannot read a revocation list from /etc/pigeonair/clients.pem: no items found",
            ],
        ),
        (
            "[[proxy.tls.sni]]\ncertificate = '/etc/pigeonair/nameless.pem'\nkey = '/etc/pigeonair/nameless.key'",
            &[
                "proxy.tls.sni[1].certificate: /etc/pigeonair/nameless.pem has no DNS name, so nobody would be shown it (expected a subjectAltName)",
            ],
        ),
        (
            "sni = 'mail.example.net'",
            &[
                "proxy.tls.sni: wrong type (got \"mail.example.net\"; expected tables [[proxy.tls.sni]])",
            ],
        ),
        (
            "reload_evry = '1s'\n[[proxy.tls.sni]]\nkey = '/etc/pigeonair/open.key'\n\
             [[proxy.tls.sni]]\ncertificate = '/etc/pigeonair/none.pem'\nkey = '/etc/pigeonair/open.key'\n\
             [[proxy.tls.sni]]\ncertificate = '/etc/pigeonair/mail.example.net.pem'\nkey = '/etc/pigeonair/privkey.pem'",
            &[
                "proxy.tls.sni[1].certificate: missing (expected the path of a PEM file: certificate, then its chain)",
                "proxy.tls.sni[2].certificate: cannot read a certificate from /etc/pigeonair/none.pem: I/O error: No such file or directory (os error 2)",
                "proxy.tls.sni[2].key: /etc/pigeonair/open.key has mode 0644 (expected 0600 or 0640: nobody but owner and group may open it)",
                "proxy.tls.sni[3].key: certificate and key do not fit: keys may not be consistent: KeyMismatch",
                "proxy.tls.reload_evry: unknown key, did you mean reload_every?",
            ],
        ),
    ] {
        assert_eq!(folder.problems(&with(lines), None), *expected, "{lines}");
    }
}

#[test]
fn a_listener_has_an_oldest_version() {
    let folder = Folder::new();
    let with = |lines: &str| {
        let lines = format!("protocol = \"imap\"\n{lines}");
        BOTH.replacen("protocol = \"imap\"", &lines, 1)
    };
    let config = folder.read(&with("tls_min_version = '1.3'"), None).unwrap();
    let listeners = config.front.unwrap().proxy.unwrap().listeners;
    assert_eq!(listeners[0].oldest, Oldest::Tls13);
    for (lines, expected) in [
        (
            "tls_min_version = '1.1'",
            "proxy.listen[1].tls_min_version: bad value (got \"1.1\"; expected \"1.2\" or \"1.3\")",
        ),
        (
            "tls = 'off'\ntls_min_version = '1.3'",
            "proxy.listen[1].tls_min_version: not possible without TLS",
        ),
    ] {
        assert_eq!(folder.problems(&with(lines), None), [expected]);
    }
}

#[test]
fn names_that_two_have_and_old_certificates_are_warnings() {
    let folder = Folder::new();
    let sni = |name: &str, key: &str| {
        format!(
            "[[proxy.tls.sni]]\ncertificate = '/etc/pigeonair/{name}'\nkey = '/etc/pigeonair/{key}'\n"
        )
    };
    let lines =
        sni("expired.pem", "privkey.pem") + &sni("mail.example.net.pem", "mail.example.net.key");
    let (settings, warnings) = read(&folder, &lines);
    assert_eq!(settings.tls.unwrap().others.len(), 2);
    assert_eq!(
        warnings,
        [
            "proxy.tls.sni[1].certificate: it expired at 2001-01-01T00:00:00Z",
            "proxy.tls.sni[2].certificate: mail.example.org is a name of proxy.tls.certificate too, which is shown for it",
        ]
    );
}
