//! TLS: what is too large or never ends, negotiating anew, names that are none, and whose certificate stands for whom.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::{cluster, dial, resident, rest};
use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, User},
    tls::{Files, pair, pem, s_client, shown},
};

// === sizes ===

/// Records and messages that announce more than any may have, or come without end: closed early, and nothing is kept.
#[test]
fn endless_handshakes_are_ended() {
    const MOST_KIB: usize = 8 << 10;
    /// What a client would send altogether.
    const ALL: usize = 16 << 20;
    let (mut cluster, [ann, _]) = cluster("tls_timeout = \"10m\"");
    let before = resident(&mut cluster);
    let start = Instant::now();
    // A message of 2^24 - 1 octets in records of 2^14.
    let mut fragments = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff".to_vec();
    fragments.resize(5 + (1 << 14), 0);
    let mut large = b"\x16\x03\x01\x41\x01\x01\x00\x01\xfc\x03\x03".to_vec();
    large.resize(5 + (1 << 14) + 257, 0);
    let floods: [(&str, Vec<u8>, usize); 7] = [
        ("fragments of one message", fragments, 1 << 10),
        ("a record over 2^14", large, 1 << 10),
        (
            "fragments of one octet",
            b"\x16\x03\x01\x00\x01\x01".to_vec(),
            1 << 18,
        ),
        ("empty records", b"\x16\x03\x01\x00\x00".to_vec(), 1 << 18),
        (
            "warnings, CVE-2016-8610",
            b"\x15\x03\x01\x00\x02\x01\x5a".to_vec(),
            1 << 18,
        ),
        (
            "changes of cipher",
            b"\x14\x03\x03\x00\x01\x01".to_vec(),
            1 << 18,
        ),
        (
            "heartbeats, CVE-2014-0160",
            b"\x18\x03\x02\x00\x03\x01\x40\x00".to_vec(),
            1 << 18,
        ),
    ];
    for (what, unit, count) in floods {
        for address in [cluster.imaps(), cluster.pop3s()] {
            let mut stream = dial(address);
            let many = unit.repeat(count.min(ALL / unit.len()));
            let sent = many
                .chunks(1 << 16)
                .take_while(|chunk| stream.write_all(chunk).is_ok())
                .count();
            let heard = rest(&mut stream);
            assert!(
                heard.is_empty() || heard.starts_with(b"\x15\x03"),
                "{what}: {}",
                heard.escape_ascii()
            );
            assert!(heard.len() < 64, "{what}");
            drop(stream);
            assert!(sent > 0, "{what}");
        }
    }
    let grown = resident(&mut cluster).saturating_sub(before);
    eprintln!(
        "endless handshakes: {grown} KiB more, {:?}",
        start.elapsed()
    );
    assert!(grown < MOST_KIB, "{grown} KiB");
    assert!(start.elapsed() < Duration::from_secs(30));
    Client::logged_in(&cluster, Channel::Implicit, &ann);
}

/// CVE-2009-3555 and its cost: a session of TLS 1.2 is not negotiated anew.
#[test]
fn renegotiation_is_refused() {
    // The alert that says so goes out with the next words of the server's: those at the end of its patience.
    let (cluster, _) = cluster("login_timeout = \"2s\"");
    for address in [cluster.imaps(), cluster.pop3s()] {
        let mut client = Command::new("timeout")
            .args([
                "60",
                "openssl",
                "s_client",
                "-tls1_2",
                "-connect",
                &address.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = client.stdin.take().unwrap();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut errors = BufReader::new(client.stderr.take().unwrap());
        let (mut seen, mut said) = (String::new(), String::new());
        while !seen.contains("PigeonAir ready.") {
            assert!(output.read_line(&mut seen).unwrap() > 0, "{seen}");
        }
        // A line of its own is a command to the program, which it obeys with the next octets that it sends.
        stdin.write_all(b"R\n").unwrap();
        while !said.contains("RENEGOTIATING") {
            assert!(errors.read_line(&mut said).unwrap() > 0, "{said}");
        }
        stdin.write_all(b"a NOOP\n").unwrap();
        errors.read_to_string(&mut said).unwrap();
        output.read_to_string(&mut seen).unwrap();
        drop(stdin);
        client.wait().unwrap();
        assert!(said.contains("no renegotiation"), "{said}");
        assert!(seen.contains("Protocol  : TLSv1.2"), "{seen}");
        assert!(!seen.contains("a OK"), "{seen}");
    }
}

// === names of servers ===

/// What a client asks for is compared with whole names: no pattern, address, cut or odd name shows a certificate that is for
/// another.
#[test]
fn a_strange_server_name_shows_the_usual_certificate() {
    const NAME: &str = "imap.example.net";
    let files = Files::new();
    let other = pair(NAME);
    files.write(&files.path("sni.pem"), &other.certificate);
    files.write(&files.path("sni.key"), &other.key);
    let cluster = Cluster::usual()
        .tls("[[proxy.tls.sni]]")
        .tls(&format!("certificate = \"{}\"", files.text("sni.pem")))
        .tls(&format!("key = \"{}\"", files.text("sni.key")))
        .start();
    let usual = std::fs::read_to_string(cluster.ca_file().with_file_name("server.pem")).unwrap();
    assert_eq!(shown(cluster.imaps(), NAME), other.certificate);
    assert_eq!(
        shown(cluster.imaps(), "IMAP.Example.NET"),
        other.certificate
    );
    for name in [
        "elsewhere.test",
        "x.imap.example.net",
        "example.net",
        "imap.example",
        "imap.example.net.test",
    ] {
        assert_eq!(shown(cluster.imaps(), name), usual, "{name}");
    }
    let der = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let (usual, other) = (der(&usual), der(&other.certificate));
    let hello = hello(NAME);
    let at = hello
        .windows(NAME.len())
        .position(|window| window == NAME.as_bytes())
        .unwrap();
    let heard = offer(&cluster, &hello);
    assert!(contains(&heard, &other));
    for name in [
        "imap.exampl\0.net",
        "\0map.example.net",
        "imap.example.ne\0",
        "*map.example.net",
        "*.ap.example.net",
        "imap/example/net",
        "imap.example.n\\t",
        "imap.example.n t",
        "imap.example\r\nxx",
        "127.000.000.0001",
        "................",
        "imap.example.ne.",
        "\u{fc}map.exampl.net",
        "%s%n.example.net",
        "../../etc/passwd",
        "2001:db8::0:1:22",
    ] {
        assert_eq!(name.len(), NAME.len(), "{name}");
        let mut strange = hello.clone();
        strange[at..at + name.len()].copy_from_slice(name.as_bytes());
        let heard = offer(&cluster, &strange);
        assert!(!contains(&heard, &other), "{name:?}");
        let is_alert = heard.starts_with(b"\x15\x03");
        assert!(
            is_alert || contains(&heard, &usual),
            "{name:?}: {}",
            heard.escape_ascii()
        );
    }
    // Longer than a name may be; and a list whose lengths do not fit.
    let long = "a".repeat(63)
        + "."
        + &[
            "b".repeat(60),
            "c".repeat(60),
            "d".repeat(60),
            "e".repeat(8),
        ]
        .join(".");
    for name in [
        long.clone(),
        long[2..].to_owned(),
        "-".to_owned(),
        ".".to_owned(),
        "*".to_owned(),
        "xn--imap-.example.net".to_owned(),
    ] {
        let seen = s_client(cluster.imaps(), &["-servername", &name], "a LOGOUT\r\n");
        let is_usual = seen.contains(STANDARD.encode(&usual).get(..60).unwrap());
        assert!(
            is_usual || seen.contains("no peer certificate available"),
            "{name}: {seen}"
        );
    }
    for (back, value) in [(1, 0xff), (2, 0xff), (1, 0), (4, 0xff)] {
        let mut broken = hello.clone();
        broken[at - back] = value;
        let heard = offer(&cluster, &broken);
        assert!(
            heard.starts_with(b"\x15\x03") && heard.len() < 64,
            "{}",
            heard.escape_ascii()
        );
    }
    assert_eq!(
        shown(cluster.imaps(), NAME).len(),
        pem("CERTIFICATE", &other).len()
    );
}

/// The first flight of a client that speaks TLS 1.2, where certificates are shown in clear.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut octets = Vec::new();
    connection.write_tls(&mut octets).unwrap();
    octets
}

/// What a server answers to a first flight that nothing follows.
fn offer(cluster: &Cluster, hello: &[u8]) -> Vec<u8> {
    let mut stream = dial(cluster.imaps());
    stream.write_all(hello).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    rest(&mut stream)
}

fn contains(heard: &[u8], certificate: &CertificateDer<'_>) -> bool {
    heard
        .windows(certificate.len())
        .any(|window| window == certificate.as_ref())
}

// === whose certificate ===

/// What a client shows.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Shown {
    /// Of these common names.
    fn of(names: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new([]).unwrap();
        for (number, name) in names.iter().enumerate() {
            // The library keeps one value of each type: a further one goes by the type's number.
            let kind = match number {
                0 => DnType::CommonName,
                _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
            };
            params.distinguished_name.push(kind, *name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    fn signed(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Self {
        let key = KeyPair::generate().unwrap();
        let signed = params.clone().signed_by(&key, issuer).unwrap();
        Self {
            chain: vec![signed.der().clone()],
            key: der(&key),
        }
    }
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// Shows a certificate whoever's key it has.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "authority of people");
    let key = KeyPair::generate().unwrap();
    let text = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
    (Issuer::new(params, key), text)
}

/// The answer to one line behind the greeting; none when there was no handshake.
fn told(cluster: &Cluster, shown: &Shown, line: &str) -> Option<String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing = provider
        .key_provider
        .load_private_key(shown.key.clone_key())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(cluster.ca_file()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Thief(Arc::new(CertifiedKey::new(
            shown.chain.clone(),
            signing,
        )))));
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, dial(cluster.imaps()));
    // In TLS 1.3 a client hears only later whether its certificate was taken.
    stream.write_all(format!("{line}\r\n").as_bytes()).ok()?;
    let mut heard = Vec::new();
    let mut octets = [0; 4096];
    while heard.iter().filter(|octet| **octet == b'\n').count() < 2 {
        match stream.read(&mut octets) {
            Ok(count @ 1..) => heard.extend_from_slice(&octets[..count]),
            Ok(0) | Err(_) => return None,
        }
    }
    String::from_utf8(heard)
        .unwrap()
        .lines()
        .nth(1)
        .map(str::to_owned)
}

/// Nobody is let in by a certificate that is for something else, by a name that only looks like one, or for somebody else.
#[test]
fn certificates_are_not_confused() {
    let people = [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)];
    let [ann, bob] = &people;
    let files = Files::new();
    let (issuer, text) = authority();
    let (namesake, _) = authority();
    files.write(&files.path("people.pem"), &text);
    let cluster = Cluster::usual()
        .tls(&format!("client_ca = \"{}\"", files.text("people.pem")))
        .tls("client_login = \"common-name\"")
        .proxy("failure_delay = \"5ms\"")
        .user(ann)
        .user(bob)
        .start();
    let external = |authorize: &str| match authorize {
        "" => "a AUTHENTICATE EXTERNAL =".to_owned(),
        name => format!("a AUTHENTICATE EXTERNAL {}", STANDARD.encode(name)),
    };
    let signed = |names: &[&str]| Shown::signed(&Shown::of(names), &issuer);
    let own = signed(&["ann"]);
    // It is ann's, and hers alone, however she is spelt.
    for (shown, authorize) in [
        (&own, ""),
        (&own, "ann"),
        (&own, "u20001@example.org"),
        (&signed(&["ANN"]), ""),
    ] {
        let heard = told(&cluster, shown, &external(authorize)).unwrap();
        assert!(heard.starts_with("a OK "), "{authorize}: {heard}");
    }
    for authorize in [
        "bob",
        "u20002@example.org",
        "nobody",
        "*",
        "ann)(uid=*",
        "root",
    ] {
        let heard = told(&cluster, &own, &external(authorize)).unwrap();
        assert!(
            heard.starts_with("a NO [AUTHORIZATIONFAILED]"),
            "{authorize}: {heard}"
        );
    }
    // CVE-2019-3814: who shows a certificate and gives a password is who the password is of.
    let login = |name: &str, password: &str| format!("a LOGIN {name} \"{password}\"");
    for (line, answer) in [
        (login("bob", &bob.password), "a OK "),
        (login("bob", &ann.password), "a NO [AUTHENTICATIONFAILED]"),
        (login("bob", ""), "a NO [AUTHENTICATIONFAILED]"),
        (login("ann", ""), "a NO [AUTHENTICATIONFAILED]"),
    ] {
        let heard = told(&cluster, &own, &line).unwrap();
        assert!(heard.starts_with(answer), "{line}: {heard}");
    }
    // Verified, but nobody's name: there is no EXTERNAL, or nobody of that name.
    let mut mail = Shown::of(&["nobody"]);
    mail.subject_alt_names.push(SanType::Rfc822Name(
        "u20001@example.org".try_into().unwrap(),
    ));
    let mail = Shown::signed(&mail, &issuer);
    let names: [&[&str]; 12] = [
        &["ann\0"],
        &["ann\0.example.org"],
        &["\0ann"],
        &["ann\n"],
        &["ann\r\nx"],
        &[""],
        &["*"],
        &["a*"],
        &["ann)(uid=*"],
        &["uid=ann"],
        &["ann", "bob"],
        &[],
    ];
    for (number, shown) in names
        .iter()
        .map(|names| signed(names))
        .chain([mail])
        .enumerate()
    {
        for authorize in ["", "ann"] {
            let heard = told(&cluster, &shown, &external(authorize)).unwrap();
            assert!(
                heard.starts_with("a NO ") || heard.starts_with("a BAD "),
                "{number}: {heard}"
            );
        }
    }
    // Not verified: no word is exchanged.
    let front = cluster.ca_file();
    let of_the_front = Shown {
        chain: vec![CertificateDer::from_pem_file(front.with_file_name("server.pem")).unwrap()],
        key: PrivateKeyDer::from_pem_file(front.with_file_name("server.key")).unwrap(),
    };
    let mut server = Shown::of(&["ann"]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut expired = Shown::of(&["ann"]);
    expired.not_before = date_time_ymd(2001, 1, 1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let alone = KeyPair::generate().unwrap();
    let below = Shown::signed(
        &Shown::of(&["ann"]),
        &Issuer::new(Shown::of(&["bob"]), KeyPair::generate().unwrap()),
    );
    for (what, shown) in [
        (
            "the front's own, of the authority that LDAP is verified with",
            of_the_front,
        ),
        (
            "an authority of the same name",
            Shown::signed(&Shown::of(&["ann"]), &namesake),
        ),
        (
            "signed by itself, as a node's link is",
            Shown {
                chain: vec![
                    Shown::of(&["ann"])
                        .self_signed(&alone)
                        .unwrap()
                        .der()
                        .clone(),
                ],
                key: der(&alone),
            },
        ),
        (
            "hers, without her key",
            Shown {
                chain: own.chain.clone(),
                key: der(&KeyPair::generate().unwrap()),
            },
        ),
        ("for servers", Shown::signed(&server, &issuer)),
        ("expired", Shown::signed(&expired, &issuer)),
        (
            "signed by somebody who is no authority",
            Shown {
                chain: [below.chain, own.chain.clone()].concat(),
                key: below.key,
            },
        ),
    ] {
        assert_eq!(told(&cluster, &shown, &external("")), None, "{what}");
    }
    // Without one, or in clear.
    for channel in Channel::ALL {
        let mut client = Client::connect(&cluster, channel);
        for authorize in ["", "ann"] {
            let reply = client.command(external(authorize).strip_prefix("a ").unwrap());
            assert!(
                reply.status.starts_with("NO ") || reply.status.starts_with("BAD "),
                "{reply:?}"
            );
        }
        client.login(Method::Login, &ann.name, &ann.password).ok();
    }
}
