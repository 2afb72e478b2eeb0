//! TLS as administrators and people have it: by `openssl s_client` and curl.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use crate::{
    client::{Channel, Client},
    lab::{Cluster, FRONT_UID, Kind, NodeSpec, User, eventually, metric},
};

/// How long a program may run, in seconds, as `timeout` reads it.
const PATIENCE: &str = "60";

/// A folder of files that the front may read.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp");
        Self(dir.unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Puts a file in the place of another, as tools that renew certificates do.
    pub(crate) fn write(&self, path: &PathBuf, content: &str) {
        let new = self.path("new");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&new, Some(FRONT_UID), Some(FRONT_UID)).unwrap();
        fs::rename(new, path).unwrap();
    }
}

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
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

/// One that nobody has signed, which is enough for who only looks at it.
pub(crate) fn pair(name: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    Pair {
        certificate: pem("CERTIFICATE", made.cert.der()),
        key: pem("PRIVATE KEY", &made.signing_key.serialize_der()),
    }
}

/// Says `words` to a server through `openssl s_client`, and returns all that can be seen.
pub(crate) fn s_client(address: SocketAddr, arguments: &[&str], words: &str) -> String {
    let mut client = Command::new("timeout")
        .args([PATIENCE, "openssl", "s_client", "-ign_eof", "-connect"])
        .arg(address.to_string())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    // It may have been refused before.
    let _ = stdin.write_all(words.as_bytes());
    drop(stdin);
    let output = client.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The certificate that a client sees that asks for this name.
pub(crate) fn shown(address: SocketAddr, name: &str) -> String {
    let arguments = match name {
        "" => vec!["-noservername"],
        name => vec!["-servername", name],
    };
    let seen = s_client(address, &arguments, "a LOGOUT\r\n");
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----\n");
    let Some(start) = seen.find(begin) else {
        panic!("no certificate in {seen}");
    };
    let length = seen[start..].find(end).unwrap();
    seen[start..start + length + end.len()].to_owned()
}

#[test]
fn a_replaced_certificate_is_for_new_clients_and_sessions_go_on() {
    let ann = User::new("ann", "n1", 20001);
    let files = Files::new();
    let other = pair("imap.example.net");
    files.write(&files.path("sni.pem"), &other.certificate);
    files.write(&files.path("sni.key"), &other.key);
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .tls("reload_every = \"1s\"\n[[proxy.tls.sni]]")
        .tls(&format!("certificate = \"{}\"", files.text("sni.pem")))
        .tls(&format!("key = \"{}\"", files.text("sni.key")))
        .user(&ann)
        .start();
    let front = cluster.ca_file().parent().unwrap().to_owned();
    let [certificate, key] = ["server.pem", "server.key"].map(|name| front.join(name));
    let first = fs::read_to_string(&certificate).unwrap();
    let address = cluster.imaps();
    for name in ["", "elsewhere.test"] {
        assert_eq!(shown(address, name), first);
    }
    assert_eq!(shown(address, "imap.example.net"), other.certificate);
    let mut sessions = [Channel::Implicit, Channel::StartTls]
        .map(|channel| Client::logged_in(&cluster, channel, &ann));

    let second = pair("localhost");
    files.write(&certificate, &second.certificate);
    files.write(&key, &second.key);
    eventually("the new certificate is shown", || {
        shown(address, "") == second.certificate
    });
    assert_eq!(shown(address, "imap.example.net"), other.certificate);
    let admin = cluster.front_admin();
    let reloads = |result| {
        metric(
            admin,
            &format!("pigeonair_tls_reloads_total{{result=\"{result}\"}}"),
        )
    };
    assert_eq!((reloads("ok"), reloads("failed")), (Some(1.0), Some(0.0)));
    let ends = "pigeonair_tls_certificate_expiry_timestamp_seconds{certificate=\"sni[1]\"}";
    assert!(metric(admin, ends).unwrap() > 2e9);

    files.write(&certificate, &pair("localhost").certificate);
    eventually("the bad one is counted", || reloads("failed") == Some(1.0));
    let said = "replaced files of TLS cannot be used, those before stay in use";
    let log = cluster.front_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(said)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("ERROR") && lines[0].contains(" of=certificate "),
        "{lines:?}"
    );
    assert_eq!(shown(address, ""), second.certificate);
    for session in &mut sessions {
        session.command("NOOP").ok();
    }
}

#[test]
fn old_tls_is_refused() {
    let cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .start();
    for (address, arguments, agrees) in [
        (cluster.imaps(), &["-tls1_3"][..], true),
        (cluster.imaps(), &["-tls1_2"], true),
        (cluster.pop3(), &["-tls1_3", "-starttls", "pop3"], true),
        (
            cluster.imaps(),
            &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
            false,
        ),
        (
            cluster.imap(),
            &["-tls1", "-starttls", "imap", "-cipher", "ALL:@SECLEVEL=0"],
            false,
        ),
    ] {
        let seen = s_client(address, arguments, "a LOGOUT\r\nQUIT\r\n");
        assert_eq!(
            !seen.contains("Cipher is (NONE)"),
            agrees,
            "{arguments:?} {seen}"
        );
    }
    eventually("two negotiations failed", || {
        let log = cluster.front_log();
        log.lines()
            .filter(|line| line.contains(" outcome=tls "))
            .count()
            == 2
    });
}

/// By keys of a file, which are nobody's memory.
#[test]
fn a_ticket_outlives_the_front() {
    let files = Files::new();
    let [old, new] = [1, 2].map(|seed| STANDARD.encode([seed; 48]));
    files.write(&files.path("tickets"), &format!("{old}\n"));
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .tls(&format!("ticket_keys = \"{}\"", files.text("tickets")))
        .start();
    for version in ["-tls1_2", "-tls1_3"] {
        files.write(&files.path("tickets"), &format!("{old}\n"));
        cluster.restart_front();
        let session = files.text("session");
        let begin = [version, "-sess_out", &session];
        let seen = s_client(cluster.imaps(), &begin, "a LOGOUT\r\n");
        assert!(seen.contains("\nNew, TLSv1."), "{seen}");
        for (keys, answer) in [
            (format!("{new}\n{old}\n"), "\nReused, TLSv1."),
            (format!("{new}\n"), "\nNew, TLSv1."),
        ] {
            files.write(&files.path("tickets"), &keys);
            cluster.restart_front();
            let again = [version, "-sess_in", &session];
            let seen = s_client(cluster.imaps(), &again, "a LOGOUT\r\n");
            assert!(seen.contains(answer), "{version} {keys}: {seen}");
            assert!(seen.contains("a OK Logged out."), "{seen}");
        }
    }
}

/// Signs certificates of people.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of people");
        let key = KeyPair::generate().unwrap();
        let certificate = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Writes `NAME.pem`, with certificate and key.
    fn sign(&self, files: &Files, name: &str) {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let text = pem("CERTIFICATE", signed.der()) + &pem("PRIVATE KEY", &key.serialize_der());
        files.write(&files.path(&format!("{name}.pem")), &text);
    }
}

fn curl(cluster: &Cluster, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .args([PATIENCE, "curl", "-sS", "--ssl-reqd", "--cacert"])
        .arg(cluster.ca_file())
        .args(arguments)
        .output()
        .unwrap()
}

/// A cluster of these people, all with certificates that it believes.
fn cluster_of(files: &Files, people: &[&User]) -> Cluster {
    let authority = Authority::new();
    files.write(&files.path("ca.pem"), &authority.certificate);
    for user in people {
        authority.sign(files, &user.name);
    }
    authority.sign(files, "nobody");
    let builder = Cluster::usual()
        .tls(&format!("client_ca = \"{}\"", files.text("ca.pem")))
        .tls("client_login = \"common-name\"");
    people
        .iter()
        .fold(builder, |builder, user| builder.user(user))
        .start()
}

#[test]
fn people_log_in_by_certificates() {
    let ann = User::new("ann", "n1", 20001);
    let bob = User::new("bob", "n2", 20002);
    let off = User::new("off", "n1", 20003).status("disabled");
    let files = Files::new();
    let cluster = cluster_of(&files, &[&ann, &bob, &off]);
    Authority::new().sign(&files, "foreign");
    let urls = [
        format!("imaps://{}/", cluster.imaps()),
        format!("imap://{}/", cluster.imap()),
        format!("pop3s://{}/", cluster.pop3s()),
        format!("pop3://{}/", cluster.pop3()),
    ];
    for url in &urls {
        let log_in = |user: &str, certificate: &str| {
            let certificate = files.text(&format!("{certificate}.pem"));
            let external = ["--login-options", "AUTH=EXTERNAL", "-u", user];
            let options = [&external[..], &["--cert", &certificate, url]].concat();
            curl(&cluster, &options).status.code().unwrap()
        };
        assert_eq!(log_in("ann:", "ann"), 0, "{url}");
        // Nobody else's account, none that may not log in, none that is not there: a login that is denied.
        for (user, certificate) in [("bob:", "ann"), ("off:", "off"), ("nobody:", "nobody")] {
            assert_eq!(log_in(user, certificate), 67, "{user} {certificate} {url}");
        }
        // Whom somebody else has signed is not talked to.
        assert_ne!(log_in("ann:", "foreign"), 0, "{url}");
        // A password does as before.
        let password = format!("ann:{}", ann.password);
        assert!(curl(&cluster, &["-u", &password, url]).status.success());
        // And without a certificate there is no EXTERNAL.
        let external = ["--login-options", "AUTH=EXTERNAL", "-u", "ann:", url];
        assert_ne!(curl(&cluster, &external).status.code(), Some(0), "{url}");
    }
    let denied = |login: &str| {
        let log = cluster.front_log();
        let is_so = |line: &&str| {
            line.contains("login failed")
                && line.contains(" mechanism=external ")
                && line.contains(&format!(" login={login} "))
        };
        log.lines().filter(is_so).count()
    };
    assert_eq!([denied("ann"), denied("off"), denied("nobody")], [4, 4, 4]);
}

/// However it was begun.
#[test]
fn a_session_ends_when_its_account_may_not_log_in_any_more() {
    let ann = User::new("ann", "n1", 20001);
    let files = Files::new();
    let mut cluster = cluster_of(&files, &[&ann]);
    let mut client = Command::new("timeout")
        .args([PATIENCE, "openssl", "s_client", "-quiet", "-cert"])
        .arg(files.path("ann.pem"))
        .args(["-key", &files.text("ann.pem"), "-connect"])
        .arg(cluster.imaps().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"a AUTHENTICATE EXTERNAL =\r\n").unwrap();
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(" AUTH=EXTERNAL]"), "{line}");
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("a OK "), "{line}");
    let admin = cluster.front_admin();
    eventually("changes are followed", || {
        metric(admin, "pigeonair_directory_followed{by=\"sync\"}") == Some(1.0)
    });
    cluster.slapd().change(&ann, "employeeType", "disabled");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    drop(stdin);
    client.wait().unwrap();
}
