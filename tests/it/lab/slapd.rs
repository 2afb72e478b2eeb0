//! The LDAP server of a cluster: Debian's slapd with the sample tree of `demo/`.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Process, User, adapt, fill, wait_for_port};

pub(crate) const ADMIN_PASSWORD: &str = "password of the admin";
pub(crate) const SERVICE_PASSWORD: &str = "password-of-the-service";
const BASE: &str = "dc=example,dc=org";
const ADMIN: &str = "cn=admin,dc=example,dc=org";
const PORT: u16 = 1389;
const TLS_PORT: u16 = 1636;

/// What sites have that keep further addresses and quotas in LDAP: no schema of Debian's has these.
const SCHEMA: &str = "\
attributetype ( 1.3.6.1.4.1.7914.1.2.1.2 NAME 'mailAlternateAddress' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.7914.1.2.1.15 NAME 'mailQuotaSize' EQUALITY integerMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.7914.1.2.2.1 NAME 'mailUser' SUP top AUXILIARY
  MAY ( mailAlternateAddress $ mailQuotaSize ) )
";

/// A running slapd, and what it takes to start it again.
#[derive(Debug)]
pub(crate) struct Slapd {
    pub(crate) process: Process,
    address: SocketAddr,
    dir: PathBuf,
    logs: PathBuf,
}

impl Slapd {
    /// Starts it with the sample tree and these people; it has TLS by the certificate in `certificates`.
    pub(crate) fn start(
        dir: &Path,
        logs: &Path,
        certificates: &Path,
        ip: Ipv4Addr,
        users: &[User],
    ) -> Self {
        fs::create_dir_all(dir.join("data")).unwrap();
        let configuration = fill(
            include_str!("../../../demo/slapd.conf"),
            &[
                ("DIR", dir.to_str().unwrap()),
                ("BASE", BASE),
                ("ADMIN_DN", ADMIN),
                ("ADMIN_PASSWORD", &format!("\"{ADMIN_PASSWORD}\"")),
                ("HASH_READERS", "cn=pigeonair,ou=services,dc=example,dc=org"),
            ],
        );
        let configuration = adapt(
            &configuration,
            &[(
                "database mdb",
                &format!(
                    "{SCHEMA}\nTLSCACertificateFile {0}/ca.pem\nTLSCertificateFile {0}/server.pem\n\
                     TLSCertificateKeyFile {0}/server.key\n\ndatabase mdb",
                    certificates.display()
                ),
            )],
        );
        super::write_private(&dir.join("slapd.conf"), &configuration);
        let address = SocketAddr::from((ip, PORT));
        let slapd = Self {
            process: Self::launch(dir, logs, address),
            address,
            dir: dir.to_owned(),
            logs: logs.to_owned(),
        };
        let tree = fill(
            include_str!("../../../demo/tree.ldif"),
            &[("SERVICE_PASSWORD", SERVICE_PASSWORD)],
        );
        let people: String = users.iter().map(person).collect();
        slapd.add_ldif(&format!("{tree}\n{people}"));
        slapd
    }

    fn launch(dir: &Path, logs: &Path, address: SocketAddr) -> Process {
        let configuration = dir.join("slapd.conf");
        let tls = SocketAddr::new(address.ip(), TLS_PORT);
        let uris = format!("ldap://{address} ldaps://{tls}");
        let mut process = Process::start(
            "slapd",
            logs,
            &[
                "slapd",
                "-d",
                "stats",
                "-f",
                configuration.to_str().unwrap(),
                "-h",
                &uris,
            ],
        );
        wait_for_port(&mut process, address);
        process
    }

    pub(crate) fn uri(&self) -> String {
        format!("ldap://{}", self.address)
    }

    pub(crate) fn tls_uri(&self) -> String {
        format!("ldaps://{}:{TLS_PORT}", self.address.ip())
    }

    /// Starts it once more after it was stopped.
    pub(crate) fn restart(&mut self) {
        self.process.stop();
        self.process = Self::launch(&self.dir, &self.logs, self.address);
    }

    /// Adds an entry as an administrator would, with `ldapadd`.
    pub(crate) fn add(&self, user: &User) {
        self.add_ldif(&person(user));
    }

    /// Gives an attribute of an account another value.
    pub(crate) fn change(&self, user: &User, attribute: &str, value: &str) {
        self.apply(
            "ldapmodify",
            &format!(
                "dn:: {}\nchangetype: modify\nreplace: {attribute}\n{attribute}:: {}\n",
                STANDARD.encode(dn(user)),
                STANDARD.encode(value)
            ),
        );
    }

    fn add_ldif(&self, ldif: &str) {
        self.apply("ldapadd", ldif);
    }

    fn apply(&self, command: &str, ldif: &str) {
        let file = self.dir.join("change.ldif");
        fs::write(&file, ldif).unwrap();
        let output = Command::new(command)
            .args(["-x", "-H", &self.uri(), "-D", ADMIN, "-w", ADMIN_PASSWORD])
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// The entry of an account; every value in base64, so that any octets can stand there.
fn person(user: &User) -> String {
    let uid = user.uid.to_string();
    let mail = user.address();
    let quota = user.quota.map_or(String::new(), |quota| quota.to_string());
    let mut ldif = format!(
        "\ndn:: {}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nobjectClass: inetLocalMailRecipient\n\
         objectClass: mailUser\n",
        STANDARD.encode(dn(user))
    );
    let aliases = user.aliases.iter();
    let aliases = aliases.map(|alias| ("mailAlternateAddress", alias.as_str()));
    for (attribute, value) in [
        ("uid", user.name.as_str()),
        ("cn", "Somebody"),
        ("sn", "Somebody"),
        ("mail", &mail),
        (
            "userPassword",
            user.stored.as_ref().unwrap_or(&user.password),
        ),
        ("mailHost", &user.node),
        ("uidNumber", &uid),
        ("gidNumber", &uid),
        ("homeDirectory", &user.home),
        ("employeeType", &user.status),
        ("mailQuotaSize", &quota),
    ]
    .into_iter()
    .chain(aliases)
    {
        if !value.is_empty() {
            writeln!(ldif, "{attribute}:: {}", STANDARD.encode(value)).unwrap();
        }
    }
    ldif
}

fn dn(user: &User) -> String {
    format!("uid={},ou=people,{BASE}", escape_dn(&user.name))
}

/// RFC 4514, the plain way: every octet that is not a letter or digit as a hexadecimal pair.
fn escape_dn(value: &str) -> String {
    value.bytes().fold(String::new(), |mut escaped, octet| {
        if octet.is_ascii_alphanumeric() {
            escaped.push(char::from(octet));
        } else {
            write!(escaped, "\\{octet:02x}").unwrap();
        }
        escaped
    })
}
