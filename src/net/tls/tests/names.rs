//! Which certificate is shown to whom.

use super::*;

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses() {
    let lab = Lab::new();
    let default = lab.settings();
    let [one, two, wild] = [
        lab.pair("one", &["imap.example.net", "Pop.Example.net"]),
        lab.pair("two", &["deep.example.com"]),
        lab.pair("wild", &["*.example.com"]),
    ];
    let settings = Settings {
        others: vec![one.clone(), wild.clone(), two.clone()],
        ..default
    };
    let (tls, _) = Tls::load(&settings).unwrap();
    let mut client = lab.client(rustls::ALL_VERSIONS);
    // What is shown is looked at here, so that a default for an unknown name can be seen.
    client
        .dangerous()
        .set_certificate_verifier(Arc::new(anybody::Anybody));
    let mut silent = client.clone();
    silent.enable_sni = false;
    let silent = Arc::new(silent);
    let client = Arc::new(client);
    let default = &settings.certificate;
    for (name, files) in [
        ("mail.example.org", default),
        ("imap.example.net", &one),
        ("POP.example.NET", &one),
        ("any.example.com", &wild),
        ("deep.example.com", &two),
        ("two.labels.example.com", default),
        ("example.com", default),
        ("elsewhere.test", default),
        ("192.0.2.1", default),
    ] {
        let met = meet(&tls, Oldest::Tls12, &client, name).await.unwrap();
        assert_eq!(met.shown, held(files), "{name}");
    }
    let met = meet(&tls, Oldest::Tls12, &silent, "imap.example.net").await;
    assert_eq!(met.unwrap().shown, held(default));
}

#[test]
fn names_that_two_have_are_the_first_ones() {
    let lab = Lab::new();
    let load = |file, names| Certificate::load(&lab.pair(file, names)).unwrap();
    let all = [
        load("a", &["a.test", "b.test", "b.test"]),
        load("b", &["c.test"]),
        load("c", &["C.test", "b.test"]),
    ];
    let clash = |name: &str, shown, hidden| Clash {
        name: name.to_owned(),
        shown,
        hidden,
    };
    assert_eq!(
        clashes(&all),
        [clash("c.test", 1, 2), clash("b.test", 0, 2)]
    );
}

#[test]
fn every_certificate_of_a_file_is_read() {
    let lab = Lab::new();
    let files = lab.pair("one", &["a.test"]);
    let good = fs::read_to_string(&files.certificate).unwrap();
    lab.write(
        "one.pem",
        &format!("{good}{}", pem("CERTIFICATE", b"none")),
        0o644,
    );
    let error = Certificate::load(&files).unwrap_err();
    assert!(matches!(error, TlsError::Form { .. }), "{error}");
}

/// A client that believes every certificate.
mod anybody {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub(super) struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            crate::net::tls::provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
