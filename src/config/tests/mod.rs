//! Files with something wrong in them, and what is said.

#![expect(clippy::too_many_lines, reason = "tables of cases")]

mod change;
mod delivery;
mod mailstore;
mod policy;
mod process;
mod proxy;
mod samples;
mod tls;

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::{handover::Kind, proto::link::Opening};

/// A folder with every file that configuration may name.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let keypair = rcgen::generate_simple_self_signed(["mail.example.org".to_owned()]).unwrap();
        let other = rcgen::KeyPair::generate().unwrap();
        let further = ["mail.example.net", "*.example.net", "mail.example.org"];
        let further = rcgen::generate_simple_self_signed(further.map(str::to_owned)).unwrap();
        let nameless = rcgen::generate_simple_self_signed([]).unwrap();
        let mut expired = rcgen::CertificateParams::new(["old.example.org".to_owned()]).unwrap();
        expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let expired = expired.self_signed(&keypair.signing_key).unwrap();
        let expired = expired.der().clone();
        let list = revocation_list();
        let tickets = base64(&[1; 48]);
        let key = "0123456789abcdef".repeat(4);
        for (name, mode, content) in [
            (
                "fullchain.pem",
                0o644,
                pem("CERTIFICATE", keypair.cert.der()),
            ),
            ("ldap-ca.pem", 0o644, pem("CERTIFICATE", keypair.cert.der())),
            (
                "privkey.pem",
                0o600,
                pem("PRIVATE KEY", &keypair.signing_key.serialize_der()),
            ),
            (
                "ldap-client.pem",
                0o644,
                pem("CERTIFICATE", keypair.cert.der()),
            ),
            (
                "ldap-client.key",
                0o600,
                pem("PRIVATE KEY", &keypair.signing_key.serialize_der()),
            ),
            (
                "other.pem",
                0o600,
                pem("PRIVATE KEY", &other.serialize_der()),
            ),
            (
                "mail.example.net.pem",
                0o644,
                pem("CERTIFICATE", further.cert.der()),
            ),
            (
                "mail.example.net.key",
                0o600,
                pem("PRIVATE KEY", &further.signing_key.serialize_der()),
            ),
            (
                "nameless.pem",
                0o644,
                pem("CERTIFICATE", nameless.cert.der()),
            ),
            (
                "nameless.key",
                0o600,
                pem("PRIVATE KEY", &nameless.signing_key.serialize_der()),
            ),
            ("expired.pem", 0o644, pem("CERTIFICATE", &expired)),
            ("clients.pem", 0o644, pem("CERTIFICATE", keypair.cert.der())),
            ("clients.crl", 0o644, pem("X509 CRL", &list)),
            ("tickets", 0o600, format!("# today's\n{tickets}\n")),
            ("proxy1.key", 0o640, format!("{key}\n")),
            ("local.key", 0o600, format!("{key}\n")),
            ("open.key", 0o644, format!("{key}\n")),
            ("master.password", 0o600, "secret\n".to_owned()),
            ("ldap.password", 0o600, "secret\n".to_owned()),
            ("accounts.toml", 0o640, String::new()),
            ("open.toml", 0o644, String::new()),
            (
                "bad.toml",
                0o600,
                "[[account]]\nname = 'ann'\nuid = 0\n[[account]]\nname = 'bob'\ncolour = 1\n"
                    .to_owned(),
            ),
            (
                "passwd",
                0o644,
                "root:x:0:0::/:/bin/sh\nmail:x:8:8::/:/\npigeonair:x:123:123::/:/\nbroken:x:124:mail::/:/\n"
                    .to_owned(),
            ),
            (
                "group",
                0o644,
                "root:x:0:\nmail:x:8:ann,pigeonair\nssl-cert:x:101:pigeonair\npigeonair:x:123:\n"
                    .to_owned(),
            ),
        ] {
            let path = folder.0.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        // As the samples name them.
        let by_name = folder.0.path().join("mail.example.org");
        fs::create_dir(&by_name).unwrap();
        for name in ["fullchain.pem", "privkey.pem"] {
            fs::copy(folder.0.path().join(name), by_name.join(name)).unwrap();
        }
        let latin1 = folder.0.path().join("latin1.password");
        fs::write(&latin1, b"p\xe4ssword").unwrap();
        fs::set_permissions(&latin1, fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(folder.0.path().join("mail")).unwrap();
        folder
    }

    fn system(&self) -> System {
        System {
            passwd: self.0.path().join("passwd"),
            group: self.0.path().join("group"),
            authorities: self.0.path().join("fullchain.pem"),
            uid: 77,
        }
    }

    /// The text with its paths in this folder.
    fn place(&self, text: &str) -> String {
        let dir = self.0.path().to_str().unwrap();
        text.replace("/etc/pigeonair", dir)
            .replace("/var/lib/pigeonair", dir)
            .replace("/srv/mail", &format!("{dir}/mail"))
    }

    fn read(&self, text: &str, role: Option<Role>) -> Result<Config, Problems> {
        let path = self.0.path().join("test.toml");
        fs::write(&path, self.place(text)).unwrap();
        read(&path, role, &self.system())
    }

    /// Problems, one per element, without the file's name; paths as in the text.
    fn problems(&self, text: &str, role: Option<Role>) -> Vec<String> {
        let dir = self.0.path().to_str().unwrap();
        let problems = self.read(text, role).unwrap_err().to_string();
        let prefix = format!("{dir}/test.toml: ");
        problems
            .lines()
            .map(|line| {
                let line = line.strip_prefix(&prefix).unwrap();
                line.replace(&format!("{dir}/mail"), "/srv/mail")
                    .replace(dir, "/etc/pigeonair")
            })
            .collect()
    }
}

/// A list of an authority that revokes nobody.
fn revocation_list() -> Vec<u8> {
    let params = rcgen::CertificateParams::new([]).unwrap();
    let issuer = rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap());
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().der().to_vec()
}

fn base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(octets)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Everything a machine with both processes must say.
const BOTH: &str = r#"
[proxy]
[proxy.tls]
certificate = "/etc/pigeonair/fullchain.pem"
key = "/etc/pigeonair/privkey.pem"
[[proxy.listen]]
address = "0.0.0.0:143"
protocol = "imap"
[[proxy.listen]]
address = "127.0.0.1:993"
protocol = "imap"
tls = "implicit"
[directory]
kind = "ldap"
[directory.ldap]
uri = "ldap://127.0.0.1:389"
base = "dc=example"
[nodes]
[[nodes.node]]
name = "node1"
address = "node1.example.org:7143"
key_id = "proxy1"
key_file = "/etc/pigeonair/proxy1.key"
[[nodes.node]]
name = "node2"
address = "/run/link.sock"
key_id = "proxy1"
key_file = "/etc/pigeonair/proxy1.key"
[acceptor]
name = "node2"
home_root = "/srv/mail"
[[acceptor.listen]]
path = "/run/link.sock"
[[acceptor.listen]]
address = "0.0.0.0:7143"
[[acceptor.key]]
id = "proxy1"
file = "/etc/pigeonair/proxy1.key"
[acceptor.imap]
kind = "login"
server = "127.0.0.1:10143"
master_user = "acceptor"
master_password_file = "/etc/pigeonair/master.password"
"#;

/// A replacement in [`BOTH`], and the problems it makes.
type Case = (&'static str, &'static str, &'static [&'static str]);

fn assert_cases(cases: &[Case]) {
    let folder = Folder::new();
    for (old, new, expected) in cases {
        assert!(BOTH.contains(old), "{old}");
        let text = BOTH.replacen(old, new, 1);
        if expected.is_empty() {
            let config = folder.read(&text, None);
            assert!(config.is_ok(), "{new}: {}", config.unwrap_err());
        } else {
            assert_eq!(folder.problems(&text, None), *expected, "{new}");
        }
    }
}

#[test]
fn a_file_without_problems_gives_all_settings() {
    let folder = Folder::new();
    let config = folder.read(BOTH, None).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let front = config.front.unwrap();
    let tls: Vec<_> = front
        .proxy
        .unwrap()
        .listeners
        .iter()
        .map(|one| one.tls)
        .collect();
    use crate::proxy::ListenTls::{Implicit, Starttls};
    assert_eq!(tls, [Starttls, Implicit]);
    let tls: Vec<_> = front.nodes.nodes.iter().map(|node| node.tls).collect();
    assert_eq!(tls, [true, false]);
    let node = config.node.unwrap();
    assert_eq!(node.gate.peers, [0, 77]);
    assert_eq!(node.gate.from.len(), 6);
}

#[test]
fn keys_and_types_are_checked() {
    assert_cases(&[
        (
            "[proxy]",
            "[deliver]\n[proxy]",
            &["deliver: unknown key, did you mean delivery?"],
        ),
        (
            "[proxy]",
            "[proxy]\nlogin_timout = '1s'",
            &["proxy.login_timout: unknown key, did you mean login_timeout?"],
        ),
        (
            "[proxy]",
            "[proxy]\ntls_timeout = 20",
            &[
                "proxy.tls_timeout: bad value (got 20; expected a time from 100ms to 1h with its unit, as \"30s\")",
            ],
        ),
        (
            "[proxy]",
            "[proxy]\nmax_line = '1 KB'",
            &[
                "proxy.max_line: bad value (got \"1 KB\"; expected a size from 256 to 1048576 octets, as 8192 or \"8KiB\")",
            ],
        ),
        (
            "[proxy]",
            "[proxy]\nmax_attempts = 0",
            &["proxy.max_attempts: bad value (got 0; expected a whole number from 1 to 1000)"],
        ),
        (
            "[proxy]",
            "[log]\nformat = 'xml'\n[proxy]",
            &["log.format: bad value (got \"xml\"; expected \"text\" or \"json\")"],
        ),
        (
            "[proxy]",
            "log = true\n[proxy]",
            &["log: wrong type (got true; expected a table [log])"],
        ),
        (
            "[acceptor]\n",
            "[acceptor]\nfrom = '10.0.0.0/8'\n",
            &[
                "acceptor.from: wrong type (got \"10.0.0.0/8\"; expected a list; each: a network, as \"10.0.0.0/8\" or \"::1\")",
            ],
        ),
        (
            "[acceptor]\n",
            "[acceptor]\nfrom = ['10.0.0.0/8', '10.0.0.0/40', 1]\n",
            &[
                "acceptor.from[2]: bad value (got \"10.0.0.0/40\"; expected a network, as \"10.0.0.0/8\" or \"::1\")",
                "acceptor.from[3]: bad value (got 1; expected a network, as \"10.0.0.0/8\" or \"::1\")",
            ],
        ),
        (
            "[[acceptor.key]]",
            "[acceptor.key]",
            &["acceptor.key: wrong type (got a table; expected tables [[acceptor.key]])"],
        ),
    ]);
}

#[test]
fn what_following_does_not_use_is_said() {
    assert_cases(&[
        (
            "[nodes]\n",
            "[directory.follow]\nby = \"off\"\nsessions = \"leave\"\nend_within = \"1s\"\npoll_every = \"1s\"\n[nodes]\n",
            &[
                "directory.follow.poll_every: not used with by = \"off\"",
                "directory.follow.sessions: not used with by = \"off\"",
                "directory.follow.end_within: not used with by = \"off\"",
            ],
        ),
        (
            "[nodes]\n",
            "[directory.follow]\nby = \"sync\"\npoll_every = \"1s\"\nend_within = \"1s\"\n[nodes]\n",
            &["directory.follow.poll_every: not used with by = \"sync\""],
        ),
        (
            "[nodes]\n",
            "[directory.follow]\nsessions = \"leave\"\nend_within = \"1s\"\n[nodes]\n",
            &["directory.follow.end_within: not used with sessions = \"leave\""],
        ),
        (
            "kind = \"ldap\"\n[directory.ldap]\nuri = \"ldap://127.0.0.1:389\"\nbase = \"dc=example\"\n",
            "kind = \"file\"\n[directory.file]\npath = \"/etc/pigeonair/accounts.toml\"\n[directory.follow]\nby = \"off\"\npoll_every = \"1s\"\n",
            &["directory.follow.poll_every: not used with kind = \"file\""],
        ),
        (
            "[nodes]\n",
            "[directory.follow]\nby = \"off\"\n[nodes]\n",
            &[],
        ),
        (
            "[nodes]\n",
            "[directory.follow]\nby = \"poll\"\npoll_every = \"1s\"\nend_within = \"1s\"\n[nodes]\n",
            &[],
        ),
    ]);
}

#[test]
fn listeners_are_checked() {
    assert_cases(&[
        (
            "address = \"0.0.0.0:143\"",
            "",
            &[
                "proxy.listen[1].address: missing (expected an IP address with a port, as \"0.0.0.0:143\" or \"[::]:143\")",
            ],
        ),
        (
            "\"0.0.0.0:143\"",
            "\"localhost:143\"",
            &[
                "proxy.listen[1].address: bad value (got \"localhost:143\"; expected an IP address with a port, as \"0.0.0.0:143\" or \"[::]:143\")",
            ],
        ),
        (
            "\"127.0.0.1:993\"",
            "\"127.0.0.1:143\"",
            &[
                "proxy.listen[2].address: taken already by proxy.listen[1].address (got 127.0.0.1:143 beside 0.0.0.0:143; expected an address of its own)",
            ],
        ),
        ("\"127.0.0.1:993\"", "\"[::]:143\"", &[]),
        (
            "\"127.0.0.1:993\"",
            "\"127.0.0.1:9143\"",
            &[
                "proxy.listen[2].address: taken already by admin.front (got 127.0.0.1:9143 beside 127.0.0.1:9143; expected an address of its own)",
            ],
        ),
        (
            "[proxy]",
            "[admin]\nfront = 'off'\nnode = '127.0.0.1:993'\n[proxy]",
            &[
                "proxy.listen[2].address: taken already by admin.node (got 127.0.0.1:993 beside 127.0.0.1:993; expected an address of its own)",
            ],
        ),
        (
            "[proxy]",
            "[admin]\nfront_socket = '/run/link.sock'\n[proxy]",
            &[
                "acceptor.listen[1].path: taken already by admin.front_socket (got /run/link.sock beside /run/link.sock; expected an address of its own)",
            ],
        ),
        (
            "[proxy]",
            "[admin]\norders_file = '../orders.json'\n[proxy]",
            &["admin.orders_file: bad value (got other text; expected the path of a file)"],
        ),
        (
            "[proxy]",
            "[admin]\nfront_socket = 'front.sock'\n[proxy]",
            &[
                "admin.front_socket: bad value (got \"front.sock\"; expected the path of a Unix socket, at most 99 octets)",
            ],
        ),
        (
            "\"0.0.0.0:7143\"",
            "\"127.0.0.1:143\"",
            &[
                "acceptor.listen[2].address: taken already by proxy.listen[1].address (got 127.0.0.1:143 beside 0.0.0.0:143; expected an address of its own)",
            ],
        ),
        (
            "address = \"0.0.0.0:7143\"",
            "path = '/run/link.sock'",
            &[
                "acceptor.listen[2].path: taken already by acceptor.listen[1].path (got /run/link.sock beside /run/link.sock; expected an address of its own)",
            ],
        ),
        (
            "protocol = \"imap\"",
            "protocol = 'smtp'",
            &["proxy.listen[1].protocol: bad value (got \"smtp\"; expected \"imap\" or \"pop3\")"],
        ),
        (
            "protocol = \"imap\"",
            "protocol = 'imaps'",
            &["proxy.listen[1].protocol: bad value (got \"imaps\"; expected \"imap\" or \"pop3\")"],
        ),
        (
            "protocol = \"imap\"",
            "protocol = 'imap'\ntls = 'off'\ncleartext = 'never'",
            &[
                "proxy.listen[1].cleartext: nobody could log in here (got \"never\" and tls \"off\"; expected one of them to differ)",
            ],
        ),
        (
            "path = \"/run/link.sock\"",
            "path = '/run/link.sock'\ntls = true",
            &["acceptor.listen[1].tls: not possible on a Unix socket"],
        ),
        (
            "path = \"/run/link.sock\"",
            "path = '/run/link.sock'\naddress = '127.0.0.1:1'",
            &["acceptor.listen[1].path: one listener cannot have both (expected address or path)"],
        ),
        (
            "path = \"/run/link.sock\"",
            "",
            &["acceptor.listen[1].address: missing (expected an address to listen on, or a path)"],
        ),
        (
            "path = \"/run/link.sock\"",
            "path = 'link.sock'",
            &[
                "acceptor.listen[1].path: bad value (got \"link.sock\"; expected the path of a Unix socket, at most 107 octets)",
            ],
        ),
    ]);
}

#[test]
fn files_are_read_and_checked() {
    assert_cases(&[
        (
            "key_file = \"/etc/pigeonair/proxy1.key\"",
            "key_file = '/etc/pigeonair/none.key'",
            &[
                "nodes.node[1].key_file: cannot read /etc/pigeonair/none.key: No such file or directory (os error 2)",
            ],
        ),
        (
            "\nid = \"proxy1\"\nfile = \"/etc/pigeonair/proxy1.key\"",
            "\nid = 'proxy1'\nfile = '/etc/pigeonair/open.key'",
            &[
                "acceptor.key[1].file: /etc/pigeonair/open.key has mode 0644 (expected 0600 or 0640: nobody but owner and group may open it)",
            ],
        ),
        (
            "\nid = \"proxy1\"\nfile = \"/etc/pigeonair/proxy1.key\"",
            "\nid = 'proxy1'\nfile = '/etc/pigeonair/master.password'",
            &[
                "acceptor.key[1].file: /etc/pigeonair/master.password does not hold a key (expected 64 hexadecimal digits, as `pigeonair key` writes)",
            ],
        ),
        (
            "key_file = \"/etc/pigeonair/proxy1.key\"",
            "key_file = '0123456789abcdef'",
            &[
                "nodes.node[1].key_file: bad value (got other text; expected the path of a file made by `pigeonair key`)",
            ],
        ),
        (
            "/etc/pigeonair/master.password",
            "/etc/pigeonair/none",
            &[
                "acceptor.imap.master_password_file: cannot read /etc/pigeonair/none: No such file or directory (os error 2)",
            ],
        ),
        (
            "/etc/pigeonair/fullchain.pem",
            "/etc/pigeonair/none.pem",
            &[
                "proxy.tls.certificate: cannot read a certificate from /etc/pigeonair/none.pem: I/O error: No such file or directory (os error 2)",
            ],
        ),
        (
            "/etc/pigeonair/fullchain.pem",
            "/etc/pigeonair/accounts.toml",
            &[
                "proxy.tls.certificate: cannot read a certificate from /etc/pigeonair/accounts.toml: no items found",
            ],
        ),
        (
            "/etc/pigeonair/privkey.pem",
            "/etc/pigeonair/fullchain.pem",
            &[
                "proxy.tls.key: /etc/pigeonair/fullchain.pem has mode 0644 (expected 0600 or 0640: nobody but owner and group may open it)",
            ],
        ),
        (
            "/etc/pigeonair/privkey.pem",
            "/etc/pigeonair/master.password",
            &["proxy.tls.key: /etc/pigeonair/master.password does not hold a private key in PEM"],
        ),
        (
            "/etc/pigeonair/privkey.pem",
            "/etc/pigeonair/other.pem",
            &[
                "proxy.tls.key: certificate and key do not fit: keys may not be consistent: KeyMismatch",
            ],
        ),
        (
            "\"/srv/mail\"",
            "\"/srv/mail/none\"",
            &[
                "acceptor.home_root: cannot read /srv/mail/none: No such file or directory (os error 2)",
            ],
        ),
        (
            "\"/srv/mail\"",
            "\"/etc/pigeonair/accounts.toml\"",
            &["acceptor.home_root: /etc/pigeonair/accounts.toml is not a folder"],
        ),
        (
            "\"/srv/mail\"",
            "\"/srv/../srv/mail\"",
            &["acceptor.home_root: bad value (got other text; expected the path of a folder)"],
        ),
    ]);
}

#[test]
fn tls_needs_a_certificate() {
    const TLS: &str = "[proxy.tls]\ncertificate = \"/etc/pigeonair/fullchain.pem\"\nkey = \"/etc/pigeonair/privkey.pem\"\n";
    assert_cases(&[
        (
            TLS,
            "",
            &["proxy.listen[2].tls: needs a certificate (expected a table [proxy.tls])"],
        ),
        (
            TLS,
            "[proxy.tls]\n",
            &[
                "proxy.tls.certificate: missing (expected the path of a PEM file: certificate, then its chain)",
                "proxy.tls.key: missing (expected the path of a PEM file: the private key)",
            ],
        ),
    ]);
    let folder = Folder::new();
    let text = BOTH
        .replace(TLS, "")
        .replacen(
            "protocol = \"imap\"",
            "protocol = 'imap'\ntls = 'starttls'",
            1,
        )
        .replace("tls = \"implicit\"", "");
    assert_eq!(
        folder.problems(&text, None),
        ["proxy.listen[1].tls: needs a certificate (expected a table [proxy.tls])"]
    );
}

#[test]
fn the_directory_is_checked() {
    assert_cases(&[
        (
            "kind = \"ldap\"",
            "",
            &["directory.kind: missing (expected \"ldap\" or \"file\")"],
        ),
        (
            "kind = \"ldap\"",
            "kind = 'sql'",
            &["directory.kind: bad value (got \"sql\"; expected \"ldap\" or \"file\")"],
        ),
        (
            "kind = \"ldap\"",
            "kind = 'file'\ndefault_uid = 5\n[directory.file]\npath = '/etc/pigeonair/open.toml'",
            &[
                "directory.ldap: not used with kind = \"file\"",
                "directory.default_uid: not used with kind = \"file\"",
                "directory.file.path: /etc/pigeonair/open.toml has mode 0644 (expected 0600 or 0640: nobody but owner and group may open it)",
            ],
        ),
        (
            "kind = \"ldap\"\n[directory.ldap]\nuri = \"ldap://127.0.0.1:389\"\nbase = \"dc=example\"",
            "kind = 'file'\n[directory.file]\npath = '/etc/pigeonair/bad.toml'",
            &[
                "directory.file.path: /etc/pigeonair/bad.toml has problems: account 1 (ann): password: is missing; account 1 (ann): gid: expected a number from 0 to 4294967295; account 2 (bob): colour: is not a key of an account; account 2 (bob): password: is missing; account 2 (bob): uid: expected a number from 0 to 4294967295; account 2 (bob): gid: expected a number from 0 to 4294967295",
            ],
        ),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\nbind_dn = 'cn=a'\nbind_password_file = '/etc/pigeonair/latin1.password'",
            &["directory.ldap.bind_password_file: not UTF-8, which passwords in LDAP are"],
        ),
        (
            "[directory.ldap]",
            "[directory.file]\npath = 'x'\n[directory.ldap]",
            &["directory.file: not used with kind = \"ldap\""],
        ),
        (
            "[directory.ldap]\nuri = \"ldap://127.0.0.1:389\"\nbase = \"dc=example\"",
            "",
            &[
                "directory.ldap.uri: missing (expected \"ldap://host[:port]\", \"ldaps://host[:port]\" or \"ldapi://[/path]\", or a list of up to 8 of these)",
                "directory.ldap.base: missing (expected the DN that searches start from, or a list of up to 8 of these)",
            ],
        ),
        (
            "ldap://127.0.0.1:389",
            "ldapi://run/ldapi",
            &[
                "directory.ldap.uri: bad value (got \"ldapi://run/ldapi\"; expected \"ldap://host[:port]\", \"ldaps://host[:port]\" or \"ldapi://[/path]\", or a list of up to 8 of these)",
            ],
        ),
        (
            "uri = \"ldap://127.0.0.1:389\"",
            "uri = [\"ldapi://\", \"ldap://127.0.0.1\", \"ldapi:///\"]\nbind_sasl = \"external\"\nbind_dn = \"cn=x\"\nhedge_after = \"0s\"",
            &[
                "directory.ldap.uri: ldapi:///run/slapd/ldapi is there twice",
                "directory.ldap.bind_dn: not used with bind_sasl = \"external\"",
                "directory.ldap.hedge_after: bad value (got \"0s\"; expected a time from 10ms to 1h with its unit, as \"30s\")",
                "directory.ldap.bind_sasl: nothing says who we are: each uri must be ldapi://, or have TLS with client_certificate",
            ],
        ),
        (
            "uri = \"ldap://127.0.0.1:389\"",
            "uri = [\"ldap://127.0.0.1\", \"ldap://127.0.0.2\"]\ntimeout = \"1s\"\nhedge_after = \"1s\"",
            &[
                "directory.ldap.hedge_after: is not less than timeout: a silent server would be waited for alone until the end",
            ],
        ),
        (
            "uri = \"ldap://127.0.0.1:389\"",
            "uri = []\nclient_key = \"/etc/pigeonair/open.key\"",
            &[
                "directory.ldap.uri: bad value (got a list; expected \"ldap://host[:port]\", \"ldaps://host[:port]\" or \"ldapi://[/path]\", or a list of up to 8 of these)",
                "directory.ldap.client_certificate: missing (expected the path of a PEM file: certificate, then its chain)",
            ],
        ),
        (
            "ldap://127.0.0.1:389\"",
            "ldaps://127.0.0.1\"\nstart_tls = true",
            &[
                "directory.ldap.start_tls: possible under ldap:// alone (got true; expected false, or a uri with ldap://)",
            ],
        ),
        (
            "ldap://127.0.0.1:389\"",
            "ldaps://127.0.0.1\"\nca_file = '/etc/pigeonair/accounts.toml'",
            &[
                "directory.ldap.ca_file: cannot read a certificate from /etc/pigeonair/accounts.toml: no items found",
            ],
        ),
        ("ldap://127.0.0.1:389\"", "ldaps://127.0.0.1\"", &[]),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\nbind_dn = 'cn=a'",
            &[
                "directory.ldap.bind_password_file: missing (expected the path of a file with a password)",
            ],
        ),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\nbind_password_file = '/etc/pigeonair/ldap.password'",
            &["directory.ldap.bind_dn: missing (expected the DN of a service account)"],
        ),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\nbind_password = 'secret'",
            &["directory.ldap.bind_password: unknown key, did you mean bind_password_file?"],
        ),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\nfilter = '(uid=ann)'",
            &[
                "directory.ldap.filter: bad value (got \"(uid=ann)\"; expected an LDAP filter in parentheses with %u or %n in it, and no other % than %d, or a list of up to 8 of these)",
            ],
        ),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\ndelivery_filter = '(mail=%s)'",
            &[
                "directory.ldap.delivery_filter: bad value (got \"(mail=%s)\"; expected an LDAP filter in parentheses with %u or %n in it, and no other % than %d, or a list of up to 8 of these)",
            ],
        ),
        (
            "base = \"dc=example\"",
            "base = 'dc=example'\n[directory.ldap.attributes]\nname = 'u id'\nhomes = 'x'",
            &[
                "directory.ldap.attributes.name: bad value (got \"u id\"; expected the name of an attribute)",
                "directory.ldap.attributes.homes: unknown key, did you mean home?",
            ],
        ),
    ]);
}

#[test]
fn the_rules_of_addresses_are_checked() {
    assert_cases(&[
        (
            "kind = \"ldap\"",
            "kind = 'ldap'\nrecipient_delimiter = '@'\ndomains = ['a.example', 'b_', '.x']\ndefault_domain = 1\n\
             domain_aliases = { 'x y' = 'a.example', 'd.example' = 'z.example' }",
            &[
                "directory.recipient_delimiter: bad value (got \"@\"; expected characters that begin a detail, as \"+\" or \"\")",
                "directory.domains[3]: bad value (got \".x\"; expected a domain, as \"example.org\")",
                "directory.default_domain: bad value (got 1; expected a domain, as \"example.org\")",
                "directory.domain_aliases.x y: bad value (got \"x y\"; expected a domain, as \"example.org\")",
            ],
        ),
        (
            "kind = \"ldap\"",
            "kind = 'ldap'\ndomains = ['A.example']\ndefault_domain = 'b.example'\n[directory.domain_aliases]\n\
             'c.example' = 'a.Example'\n'd.example' = 'b.example'\n'e.example' = 'c.example'\n\
             'a.example' = 'b.example'\n'f.example' = 'g.example'",
            &[
                "directory.domain_aliases.a.example: is a domain of ours itself",
                "directory.domain_aliases.e.example: \"c.example\" is another name itself",
                "directory.domain_aliases.f.example: \"g.example\" is not one of domains",
            ],
        ),
        (
            "kind = \"ldap\"",
            "kind = 'ldap'\ndomain_aliases = { 'c.example' = 'd.example', 'e.example' = 'e.example' }",
            &["directory.domain_aliases.e.example: is a domain of ours itself"],
        ),
        (
            "kind = \"ldap\"",
            "kind = 'ldap'\ndomain_aliases = ['c.example']",
            &[
                "directory.domain_aliases: bad value (got a list; expected a table of other names and their domains, as { \"example.net\" = \"example.org\" })",
            ],
        ),
    ]);
}

#[test]
fn nodes_are_checked() {
    assert_cases(&[
        (
            "name = \"node2\"",
            "name = 'node1'",
            &[
                "nodes.node[2]: \"node1\" means nodes.node[1] already (expected names and host names that only this node has)",
            ],
        ),
        (
            "name = \"node2\"",
            "name = 'node2'\nhosts = ['m2.example.org', 'NODE1']",
            &[
                "nodes.node[2]: \"NODE1\" means nodes.node[1] already (expected names and host names that only this node has)",
            ],
        ),
        (
            "name = \"node1\"",
            "name = 'Node 1'",
            &[
                "nodes.node[1].name: bad value (got \"Node 1\"; expected a node's name: up to 64 of a-z 0-9 . _ -)",
            ],
        ),
        (
            "address = \"/run/link.sock\"",
            "address = 'node1.example.org:7143'",
            &[
                "nodes.node[2].address: the same as nodes.node[1].address (got node1.example.org:7143; expected an address of its own)",
            ],
        ),
        (
            "node1.example.org:7143",
            "node1.example.org",
            &[
                "nodes.node[1].address: bad value (got \"node1.example.org\"; expected \"host:port\", \"[IPv6]:port\" or the path of a Unix socket)",
            ],
        ),
        (
            "address = \"/run/link.sock\"",
            "address = '/run/link.sock'\ntls = true\nsource = '10.0.0.1'",
            &[
                "nodes.node[2].tls: not possible on a Unix socket",
                "nodes.node[2].source: not possible on a Unix socket",
            ],
        ),
        (
            "[nodes]",
            "[nodes]\ndefault = 'node3'",
            &["nodes.default: no such node (got \"node3\"; expected the name of a [[nodes.node]])"],
        ),
        ("[nodes]", "[nodes]\ndefault = 'node2'", &[]),
        (
            "[nodes]",
            "[nodes]\ndown_after = 1\nprobe_every = 'off'\nslow_start = '0s'",
            &[],
        ),
        (
            "[nodes]",
            "[nodes]\ndown_after = 0\nprobe_every = '10ms'\nslow_start = 'off'\nprobe_login_counts = 'no'",
            &[
                "nodes.down_after: bad value (got 0; expected a whole number from 1 to 1000)",
                "nodes.probe_every: bad value (got \"10ms\"; expected a time from 1s to 1h with its unit, as \"30s\", or \"off\")",
                "nodes.probe_login_counts: bad value (got \"no\"; expected true or false)",
                "nodes.slow_start: bad value (got \"off\"; expected a time from 0s to 1h with its unit, as \"30s\")",
            ],
        ),
        (
            "key_id = \"proxy1\"",
            "key_id = \"proxy1\"\nprobe_login = ''",
            &[
                "nodes.node[1].probe_login: bad value (got \"\"; expected a login name: up to 255 octets)",
            ],
        ),
        (
            "key_id = \"proxy1\"",
            "",
            &[
                "nodes.node[1].key_id: missing (expected a key's id: up to 64 of A-Z a-z 0-9 . _ - @ + = :)",
            ],
        ),
    ]);
    let folder = Folder::new();
    let start = BOTH.find("[[nodes.node]]").unwrap();
    let end = BOTH.find("[acceptor]").unwrap();
    let text = BOTH.replace(&BOTH[start..end], "");
    assert_eq!(
        folder.problems(&text, None),
        ["nodes.node: missing (expected at least one [[nodes.node]])"]
    );
}

#[test]
fn the_acceptor_is_checked() {
    assert_cases(&[
        (
            "[acceptor]\nname = \"node2\"\n",
            "[acceptor]\n",
            &["acceptor.name: missing (expected a node's name: up to 64 of a-z 0-9 . _ -)"],
        ),
        (
            "[acceptor]\n",
            "[acceptor]\nuids = [0, 10]\ngids = [2000, 1000]\n",
            &[
                "acceptor.uids: bad value (got a list; expected [from, to], each from 1 to 4294967294)",
                "acceptor.gids: bad value (got a list; expected [from, to], each from 1 to 4294967294)",
            ],
        ),
        (
            "[acceptor]\n",
            "[acceptor]\npeers = ['pigeonair', 99, '98', 'nobody-here']\n",
            &[
                "acceptor.peers[4]: bad value (got \"nobody-here\"; expected the name of a user of this machine, or a uid)",
            ],
        ),
        (
            "[[acceptor.key]]\nid = \"proxy1\"\nfile = \"/etc/pigeonair/proxy1.key\"",
            "",
            &["acceptor.key: missing (expected at least one [[acceptor.key]])"],
        ),
        (
            "[[acceptor.listen]]\npath = \"/run/link.sock\"\n[[acceptor.listen]]\naddress = \"0.0.0.0:7143\"",
            "[acceptor.x]",
            &[
                "acceptor.listen: missing (expected at least one [[acceptor.listen]])",
                "acceptor.x: unknown key",
            ],
        ),
        (
            "[[acceptor.key]]",
            "[[acceptor.key]]\nid = 'proxy1'\nfile = '/etc/pigeonair/local.key'\n[[acceptor.key]]",
            &["acceptor.key[2].id: taken already (got \"proxy1\"; expected an id of its own)"],
        ),
        (
            "\nid = \"proxy1\"\n",
            "\nid = 'proxy1'\nservices = ['imap', 'smtp']\nnot_after = '2030-01-01'\n",
            &[
                "acceptor.key[1].services[2]: bad value (got \"smtp\"; expected \"imap\", \"pop3\" or \"mailstore\")",
                "acceptor.key[1].not_after: bad value (got \"2030-01-01\"; expected a time with its zone, as \"2030-01-01T00:00:00Z\")",
            ],
        ),
        (
            "\nid = \"proxy1\"\n",
            "\nid = 'proxy1'\nservices = []\n",
            &["acceptor.key[1].services: a key that opens nothing (expected at least one service)"],
        ),
        (
            "kind = \"login\"",
            "",
            &[
                "acceptor.imap.kind: missing (expected \"login\" or \"exec\" or \"dovecot-imap-master\")",
            ],
        ),
        (
            "kind = \"login\"",
            "kind = 'login'\nsocket = '/run/x'",
            &["acceptor.imap.socket: not used with kind = \"login\""],
        ),
        ("master_user = \"acceptor\"", "proxy_protocol = 'v2'", &[]),
        (
            "kind = \"login\"",
            "kind = 'login'\nproxy_protocol = 'v3'",
            &[
                "acceptor.imap.proxy_protocol: bad value (got \"v3\"; expected \"off\" or \"v1\" or \"v2\")",
            ],
        ),
        (
            "kind = \"login\"",
            "kind = 'dovecot-imap-master'",
            &[
                "acceptor.imap.server: not used with kind = \"dovecot-imap-master\"",
                "acceptor.imap.master_user: not used with kind = \"dovecot-imap-master\"",
                "acceptor.imap.master_password_file: not used with kind = \"dovecot-imap-master\"",
                "acceptor.imap.socket: missing (expected the path of a Unix socket, at most 107 octets)",
            ],
        ),
    ]);
    let folder = Folder::new();
    let text = BOTH.replacen(
        "[acceptor]\n",
        "[acceptor]\npeers = ['pigeonair', 99, '98', 'root']\n",
        1,
    );
    let node = folder.read(&text, None).unwrap().node.unwrap();
    assert_eq!(node.gate.peers, [0, 77, 98, 99, 123]);
}

#[test]
fn a_node_may_serve_pop3_alone_or_too() {
    let folder = Folder::new();
    let pop3 = BOTH.replace("[acceptor.imap]", "[acceptor.pop3]");
    let node = folder.read(&pop3, None).unwrap().node.unwrap();
    let handover = node.acceptor.unwrap().handover;
    assert!(handover.imap.is_none() && handover.pop3.is_some());
    let (_, section) = pop3.split_once("[acceptor.pop3]").unwrap();
    let both = format!("{BOTH}[acceptor.pop3]{section}");
    let node = folder.read(&both, None).unwrap().node.unwrap();
    let handover = node.acceptor.unwrap().handover;
    assert!(handover.imap.is_some() && handover.pop3.is_some());

    let socket = pop3.replace("kind = \"login\"", "kind = 'dovecot-imap-master'");
    assert_eq!(
        folder.problems(&socket, None),
        [
            "acceptor.pop3.kind: bad value (got \"dovecot-imap-master\"; expected \"login\" or \"exec\")"
        ]
    );
    let (neither, _) = BOTH.split_once("[acceptor.imap]").unwrap();
    let problems = folder.problems(neither, None);
    assert_eq!(
        problems,
        [
            "acceptor.imap: missing (expected a table [acceptor.imap] or [acceptor.pop3], or a section [mailstore])"
        ]
    );
    let mail = folder.read(&format!("{neither}[mailstore]\nkind = 'maildir'\n"), None);
    let node = mail.unwrap().node.unwrap();
    assert!(node.acceptor.is_none() && node.mailstore.is_some());
    assert_eq!(
        folder.problems("[mailstore]\nkind = 'maildir'\n", Some(Role::Node)),
        ["acceptor: missing (expected a section [acceptor])"]
    );
}

/// A node whose servers are started, with these lines in each section.
fn started(imap: &str, pop3: &str) -> String {
    let (start, _) = BOTH.split_once("[acceptor.imap]").unwrap();
    format!(
        "{start}[acceptor.imap]\nkind = 'exec'\n{imap}\n[acceptor.pop3]\nkind = 'exec'\n{pop3}\n"
    )
}

#[test]
fn servers_to_be_started_are_checked() {
    const IMAP: &str = "command = ['/bin/sh', '%u']\nopening = 'preauth'";
    const POP3: &str =
        "command = ['/bin/sh']\nenvironment = { HOME = '%{home}', X = '' }\nopening = 'silent'";
    const KNOWN: &str = "(known: %u %n %d %{home} %{client_ip} %{client_port} %{local_ip} %{local_port} \
         %{session} %{protocol} %{tls} %{tls_version} %{tls_cipher} %{uid} %{gid} %{quota} %%)";
    let folder = Folder::new();
    let node = folder
        .read(&started(IMAP, POP3), None)
        .unwrap()
        .node
        .unwrap();
    let handover = node.acceptor.unwrap().handover;
    let (Some(Kind::Exec(imap)), Some(Kind::Exec(pop3))) = (handover.imap, handover.pop3) else {
        panic!("not the kind");
    };
    assert_eq!((imap.arguments.len(), imap.environment.len()), (1, 0));
    assert_eq!(
        (imap.opening, pop3.opening),
        (Opening::Preauth, Opening::Silent)
    );
    let variables: Vec<_> = pop3
        .environment
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(variables, ["HOME", "X"]);

    let place = |word: &str| format!("{word} is no place {KNOWN}");
    for (imap, problems) in [
        (
            "",
            vec![
                "command: missing (expected a program's path and its arguments, as a list)".to_owned(),
                "opening: missing (expected \"preauth\" or \"tagged\")".to_owned(),
            ],
        ),
        (
            "command = []\nopening = 'silent'",
            vec![
                "command: empty (expected a program's path, then its arguments)".to_owned(),
                "opening: bad value (got \"silent\"; expected \"preauth\" or \"tagged\")".to_owned(),
            ],
        ),
        (
            "command = ['sh', '%x', '%{hom}']\nopening = 'preauth'",
            vec![
                "command[1]: \"sh\" is not an absolute path".to_owned(),
                format!("command[2]: {}", place("%x")),
                format!("command[3]: {}", place("%{hom}")),
            ],
        ),
        (
            "command = ['/etc/passwd', 5]\nopening = 'preauth'\nserver = 'x'",
            vec![
                "server: not used with kind = \"exec\"".to_owned(),
                "command[2]: bad value (got 5; expected text, with places such as %u)".to_owned(),
            ],
        ),
        (
            "command = ['/etc/passwd']\nopening = 'preauth'\nenvironment = 5",
            vec![
                "command[1]: \"/etc/passwd\" is no program".to_owned(),
                "environment: bad value (got 5; expected a table of variables, as { HOME = \"%{home}\" })".to_owned(),
            ],
        ),
        (
            "command = ['/nonexistent']\nopening = 'preauth'\nenvironment = { 'A=B' = '', U = '%', V = 1 }",
            vec![
                "command[1]: \"/nonexistent\" cannot be read: No such file or directory (os error 2)".to_owned(),
                "environment.A=B: no name of a variable".to_owned(),
                format!("environment.U: {}", place("%")),
                "environment.V: bad value (got 1; expected text, with places such as %u)".to_owned(),
            ],
        ),
    ] {
        let problems: Vec<_> = problems
            .into_iter()
            .map(|problem| format!("acceptor.imap.{problem}"))
            .collect();
        assert_eq!(folder.problems(&started(imap, POP3), None), problems);
    }
    let tagged = folder.problems(&started(IMAP, &POP3.replace("silent", "tagged")), None);
    assert_eq!(
        tagged,
        ["acceptor.pop3.opening: bad value (got \"tagged\"; expected \"plus-ok\" or \"silent\")"]
    );
}

#[test]
fn an_empty_list_is_not_enough() {
    let folder = Folder::new();
    let start = BOTH.find("[[acceptor.listen]]").unwrap();
    let end = BOTH.find("[[acceptor.key]]").unwrap();
    let text = BOTH
        .replace(&BOTH[start..end], "")
        .replace("[acceptor]\n", "[acceptor]\nlisten = []\n");
    assert_eq!(
        folder.problems(&text, None),
        ["acceptor.listen: wrong type (got a list; expected tables [[acceptor.listen]])"]
    );
}

#[test]
fn all_problems_of_a_file_come_at_once() {
    let folder = Folder::new();
    let text = r#"
        [proxy]
        idle_timeout = "soon"
        [[proxy.listen]]
        adress = "0.0.0.0:143"
        [directory]
        kind = "ldap"
        [directory.ldap]
        uri = "x"
        [acceptor]
        uids = [0, 0]
    "#;
    let keys: Vec<String> = folder
        .problems(text, None)
        .iter()
        .map(|line| line.split_once(": ").unwrap().0.to_owned())
        .collect();
    assert_eq!(
        keys,
        [
            "nodes",
            "directory.ldap.uri",
            "directory.ldap.base",
            "proxy.idle_timeout",
            "proxy.listen[1].address",
            "proxy.listen[1].protocol",
            "proxy.listen[1].adress",
            "acceptor.name",
            "acceptor.home_root",
            "acceptor.uids",
            "acceptor.listen",
            "acceptor.key",
            "acceptor.imap",
        ]
    );
}

#[test]
fn each_process_reads_its_own_sections() {
    let folder = Folder::new();
    let bad_node = BOTH.replace("master.password", "none");
    let config = folder.read(&bad_node, Some(Role::Front)).unwrap();
    assert!(config.front.is_some() && config.node.is_none());
    assert!(folder.read(&bad_node, Some(Role::Node)).is_err());
    let bad_front = BOTH.replace("privkey.pem", "none");
    let config = folder.read(&bad_front, Some(Role::Node)).unwrap();
    assert!(config.front.is_none() && config.node.is_some());

    let (front, node) = BOTH.split_at(BOTH.find("[acceptor]").unwrap());
    assert_eq!(
        folder.problems(node, Some(Role::Front)),
        ["proxy: missing (expected a section [proxy] or [delivery] to run a front)"]
    );
    assert_eq!(
        folder.problems(front, Some(Role::Node)),
        ["acceptor: missing (expected a section [acceptor] to run a node)"]
    );
    assert_eq!(
        folder.problems("", None),
        [
            "proxy: missing (expected a section [proxy] or [delivery] to run a front, or [acceptor] to run a node)"
        ]
    );
    assert!(folder.read(front, None).unwrap().node.is_none());
    assert!(folder.read(node, None).unwrap().front.is_none());
}

#[test]
fn syntax_errors_have_a_place() {
    let folder = Folder::new();
    for (text, start) in [
        ("[proxy]\nx = \n", "line 2, column 5: not TOML: "),
        (
            "[log]\nlevel = 'info'\nlevel = 'warn'\n",
            "line 3, column 1: not TOML: ",
        ),
        ("[proxy", "line 1, column 7: not TOML: "),
    ] {
        let problems = folder.problems(text, None);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(start), "{problems:?}");
    }
    let missing = folder.0.path().join("none.toml");
    assert_eq!(
        load(&missing).unwrap_err().to_string(),
        format!(
            "{}: cannot read it: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let large = "#".repeat(1 << 20) + "\n";
    assert_eq!(
        folder.problems(&large, None),
        ["cannot read it: larger than 1 MiB"]
    );
}

#[test]
fn risks_are_warnings() {
    let folder = Folder::new();
    let warned = |old: &str, new: &str| {
        assert!(BOTH.contains(old));
        folder
            .read(&BOTH.replacen(old, new, 1), None)
            .unwrap()
            .warnings
    };
    for (old, new, expected) in [
        (
            "address = \"node1.example.org:7143\"",
            "address = 'node1.example.org:7143'\ntls = false",
            "nodes.node[1].tls: plain link to node1 over TCP: for a private wire",
        ),
        (
            "address = \"0.0.0.0:7143\"",
            "address = '0.0.0.0:7143'\ntls = false",
            "acceptor.listen[2].tls: plain links on 0.0.0.0:7143: for a private wire",
        ),
        (
            "ldap://127.0.0.1:389",
            "ldap://ldap.example.org",
            "directory.ldap.uri: passwords travel to ldap://ldap.example.org:389 in clear: set start_tls, or use ldaps://",
        ),
        (
            "protocol = \"imap\"",
            "protocol = 'imap'\ncleartext = 'always'",
            "proxy.listen[1].cleartext: passwords may travel in clear from anywhere",
        ),
        (
            "[proxy]",
            "[proxy]\nidle_timeout = '5m'",
            "proxy.idle_timeout: below 30m: clients that wait in IDLE will be cut off",
        ),
        (
            "127.0.0.1:10143",
            "192.0.2.1:10143",
            "acceptor.imap.server: the master password travels to 192.0.2.1 in clear: for the real server of this machine, on loopback",
        ),
        (
            "127.0.0.1:10143",
            "imap.example.org:10143",
            "acceptor.imap.server: the master password travels to imap.example.org in clear: for the real server of this machine, on loopback",
        ),
    ] {
        assert_eq!(warned(old, new), [expected]);
    }
    let loopback = "address = '127.0.0.1:7143'\ntls = false";
    assert_eq!(
        warned("address = \"node1.example.org:7143\"", loopback),
        [""; 0]
    );
    assert_eq!(warned("address = \"0.0.0.0:7143\"", loopback), [""; 0]);
    for server in ["localhost:10143", "[::1]:10143", "/run/dovecot/imap"] {
        assert_eq!(warned("127.0.0.1:10143", server), [""; 0]);
    }
}
