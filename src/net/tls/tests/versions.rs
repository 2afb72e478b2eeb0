//! Versions and suites: what is agreed on, and what never is.

use std::process::{Command, Stdio};

use rustls::version::{TLS12, TLS13};

use super::*;

#[tokio::test]
async fn a_listener_has_an_oldest_version() {
    let lab = Lab::new();
    let (tls, _) = Tls::load(&lab.settings()).unwrap();
    for (versions, oldest, agreed) in [
        (&[&TLS12][..], Oldest::Tls12, Some("TLSv1.2")),
        (&[&TLS13], Oldest::Tls12, Some("TLSv1.3")),
        (&[&TLS12], Oldest::Tls13, None),
        (&[&TLS12, &TLS13], Oldest::Tls13, Some("TLSv1.3")),
    ] {
        let client = Arc::new(lab.client(versions));
        let met = meet(&tls, oldest, &client, "mail.example.org").await;
        let version = met.as_ref().ok().map(|met| met.agreed.version);
        assert_eq!(version, agreed, "{met:?}");
    }
}

/// Every suite has forward secrecy and an AEAD, as the manual lists them.
#[test]
fn the_manual_lists_the_suites() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manual.md");
    let manual = fs::read_to_string(manual).unwrap();
    for suite in &provider().cipher_suites {
        let name = suite.suite().as_str().unwrap();
        let name = name.replacen("TLS13_", "TLS_", 1);
        assert!(manual.contains(&format!("`{name}`")), "{name}");
        assert!(
            name.contains("_GCM_") || name.contains("_POLY1305_"),
            "{name}"
        );
    }
}

/// By OpenSSL with all of its old things allowed.
#[tokio::test]
async fn old_versions_and_suites_are_refused() {
    let lab = Lab::new();
    let (tls, _) = Tls::load(&lab.settings()).unwrap();
    let all = "ALL:COMPLEMENTOFALL:@SECLEVEL=0";
    for (arguments, agrees) in [
        (&["-tls1_3"][..], true),
        (&["-tls1_2"], true),
        (&["-tls1_2", "-cipher", all], true),
        (&["-tls1_1", "-cipher", all], false),
        (&["-tls1", "-cipher", all], false),
        (
            &["-tls1_2", "-cipher", "AES128-SHA:AES256-SHA256:@SECLEVEL=0"],
            false,
        ),
        (
            &["-tls1_2", "-cipher", "AES128-GCM-SHA256:@SECLEVEL=0"],
            false,
        ),
        (
            &[
                "-tls1_2",
                "-cipher",
                "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0",
            ],
            false,
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA:@SECLEVEL=0"],
            false,
        ),
        (
            &[
                "-tls1_2",
                "-cipher",
                "RC4-SHA:DES-CBC3-SHA:AES128-SHA:@SECLEVEL=0",
            ],
            false,
        ),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = Command::new("openssl")
            .args(["s_client", "-connect", &address])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let met = tls.accept(Oldest::Tls12, stream, LIMIT).await;
        assert_eq!(met.is_ok(), agrees, "{arguments:?} {met:?}");
        drop(met);
        client.wait().unwrap();
    }
}
