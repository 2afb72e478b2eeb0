//! Sessions that go on at another front.

use rustls::version::{TLS12, TLS13};

use super::*;

const KEYS: [&str; 2] = [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
    "8AECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v",
];

/// A front of its own with such a file.
fn front(lab: &Lab, certificate: &Files, keys: &[&str]) -> Tls {
    let path = lab.write("tickets", &(keys.join("\n") + "\n"), 0o600);
    let settings = Settings {
        certificate: certificate.clone(),
        ticket_keys: Some(path),
        ..lab.settings()
    };
    Tls::load(&settings).unwrap().0
}

#[tokio::test]
async fn a_session_goes_on_wherever_the_keys_are() {
    let lab = Lab::new();
    let pair = lab.pair("front", &["mail.example.org"]);
    let [one, two] = KEYS;
    let first = front(&lab, &pair, &[one]);
    for (versions, oldest) in [
        (&[&TLS12], Oldest::Tls12),
        (&[&TLS13], Oldest::Tls12),
        (&[&TLS13], Oldest::Tls13),
    ] {
        for (keys, kind) in [
            (&[one][..], HandshakeKind::Resumed),
            (&[two, one], HandshakeKind::Resumed),
            (&[two], HandshakeKind::Full),
        ] {
            let client = Arc::new(lab.client(versions));
            let met = meet(&first, Oldest::Tls12, &client, "mail.example.org").await;
            assert_eq!(met.unwrap().kind, HandshakeKind::Full);
            let second = front(&lab, &pair, keys);
            let met = meet(&second, oldest, &client, "mail.example.org").await;
            assert_eq!(met.unwrap().kind, kind, "{versions:?} {keys:?}");
            // What the second gave is the client's now.
            let met = meet(&second, oldest, &client, "mail.example.org").await;
            assert_eq!(met.unwrap().kind, HandshakeKind::Resumed);
        }
    }
}

#[tokio::test]
async fn without_a_file_a_session_goes_on_at_its_own_front() {
    let lab = Lab::new();
    let settings = lab.settings();
    let [(first, _), (second, _)] = [(); 2].map(|()| Tls::load(&settings).unwrap());
    for versions in [&[&TLS12], &[&TLS13]] {
        let client = Arc::new(lab.client(versions));
        for (front, kind) in [
            (&first, HandshakeKind::Full),
            (&first, HandshakeKind::Resumed),
            (&second, HandshakeKind::Full),
        ] {
            let met = meet(front, Oldest::Tls12, &client, "mail.example.org").await;
            assert_eq!(met.unwrap().kind, kind, "{versions:?}");
        }
    }
}

#[test]
fn files_of_keys_have_one_form() {
    let lab = Lab::new();
    let [one, two] = KEYS;
    let read = |content: &str| {
        let path = lab.write("tickets", content, 0o640);
        let text = TicketKeys::from_file(&path).map(|keys| keys.len());
        text.map_err(|error| {
            let text = error.to_string();
            text.replace(path.to_str().unwrap(), "FILE")
        })
    };
    assert_eq!(read(&format!("# of May\n{one}\r\n\n  {two}")), Ok(2));
    for (content, problem) in [
        (
            one[..60].to_owned(),
            "FILE: line 1 is no key (expected 64 characters, as `openssl rand -base64 48` writes)",
        ),
        (
            format!("{one}\n{two}{two}"),
            "FILE: line 2 is no key (expected 64 characters, as `openssl rand -base64 48` writes)",
        ),
        (
            format!("{one}\n{two}AA=="),
            "FILE: line 2 is no key (expected 64 characters, as `openssl rand -base64 48` writes)",
        ),
        (format!("{one}\n\n{one}"), "FILE: line 3 is there twice"),
        (
            "# none\n# yet".to_owned(),
            "FILE: line 2 is the last, and there was no key",
        ),
        (String::new(), "FILE is empty or larger than 16 KiB"),
    ] {
        assert_eq!(read(&content), Err(problem.to_owned()));
    }
    let path = lab.write("tickets", one, 0o644);
    let error = TicketKeys::from_file(&path).unwrap_err();
    assert!(error.to_string().contains("has mode 0644"), "{error}");
}
