//! What all ways have in common: slapd with the accounts, the Dovecot nodes, a certificate.
//!
//! Accounts are `u000000` and on, even ones at home on the first node and odd ones on the second, all with the mail uid
//! [`MAIL_UID`]; and [`OWN_UIDS`] more, `p000000` and on, each with a uid of its own, on the third node. The third
//! Dovecot starts a process per session, since its processes can't change from one uid to the next; the first two use
//! theirs again.

mod dovecot;
mod slapd;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use self::dovecot::Uids;
use super::processes::{Group, Program};

/// Where the nodes listen.
const NODE_IPS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(127, 0, 1, 1),
    Ipv4Addr::new(127, 0, 1, 2),
    Ipv4Addr::new(127, 0, 1, 3),
];
pub(crate) const LDAP_IP: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 9);
pub(crate) const LDAP_PORT: u16 = 10389;
pub(crate) const PEOPLE: &str = "ou=people,dc=example,dc=org";
/// May read everything, hashes included.
pub(crate) const SERVICE_DN: &str = "cn=pigeonair,ou=services,dc=example,dc=org";
pub(crate) const SERVICE_PASSWORD: &str = "password-of-the-service";
/// Of every account.
pub(crate) const PASSWORD: &str = "secret";
/// Who may log in as anybody at the nodes.
pub(crate) const MASTER_USER: &str = "acceptor";
pub(crate) const MASTER_PASSWORD: &str = "password-of-the-acceptor";
pub(crate) const MAIL_UID: u32 = 20_000;
/// Accounts with a uid of their own; the first has the uid after [`MAIL_UID`].
pub(crate) const OWN_UIDS: usize = 500;

/// A running Dovecot.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    /// Where it listens, on the ports [`super::way::IMAP`] and [`super::way::POP3`]; also the value of `mailHost`.
    pub(crate) ip: Ipv4Addr,
    /// Its socket for sessions that are passed to it.
    pub(crate) imap_master: PathBuf,
    /// What its `imap` and `pop3` are started with by others.
    pub(crate) exec_conf: PathBuf,
    /// All homes of the node lie below it.
    pub(crate) home_root: PathBuf,
    pub(crate) group: Group,
}

/// All that runs.
pub(crate) struct World {
    /// Two for the accounts of the mail uid, one for the others.
    pub(crate) nodes: [Node; 3],
    /// How many `u…` there are.
    pub(crate) accounts: usize,
    certificate: PathBuf,
    key: PathBuf,
    /// They end before their folder does.
    _programs: Vec<Program>,
    dir: tempfile::TempDir,
}

impl World {
    /// Starts it all and waits until it serves.
    pub(crate) fn start(accounts: usize) -> Self {
        assert!(rustix::process::geteuid().is_root(), "needs root");
        raise_descriptor_limit();
        let dir = temporary_folder();
        let at = |name: &str| folder(dir.path(), name);
        let mut programs = vec![slapd::start(&at("slapd"), accounts)];
        let mut node = |name, index: usize, uids| {
            let (node, program) = dovecot::start(name, &at(name), NODE_IPS[index], uids);
            programs.push(program);
            node
        };
        let nodes = [
            node("node1", 0, Uids::One),
            node("node2", 1, Uids::One),
            node("node3", 2, Uids::Own),
        ];
        let (certificate, key) = make_certificate(&at("tls"));
        Self {
            nodes,
            accounts,
            certificate,
            key,
            _programs: programs,
            dir,
        }
    }

    /// A new folder of this name for somebody's files, mode 0755.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        folder(self.dir.path(), name)
    }

    /// A certificate with a P-256 key, for every way alike: chain and key in PEM, in two files.
    pub(crate) fn certificate(&self) -> (&Path, &Path) {
        (&self.certificate, &self.key)
    }
}

/// The name of an account of the mail uid.
pub(crate) fn user(number: usize) -> String {
    format!("u{number:06}")
}

/// The name of an account with a uid of its own.
pub(crate) fn user_with_own_uid(number: usize) -> String {
    format!("p{number:06}")
}

/// The index of the node where an account of the mail uid is at home.
pub(crate) fn home_node(number: usize) -> usize {
    number % 2
}

/// The uid of an account with a uid of its own.
pub(crate) fn own_uid(number: usize) -> u32 {
    MAIL_UID + 1 + u32::try_from(number).unwrap()
}

/// Waits until somebody listens there; shows these files when nobody does.
pub(crate) fn wait_for(address: SocketAddr, logs: &[&Path]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            let shown: Vec<String> = logs
                .iter()
                .map(|log| {
                    let text = fs::read_to_string(log).unwrap_or_default();
                    format!("--- {}\n{text}", log.display())
                })
                .collect();
            panic!("nobody listens on {address}\n{}", shown.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Puts values in place of the words between @.
pub(crate) fn fill(template: &str, values: &[(&str, impl AsRef<str>)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (word, value)| {
            text.replace(&format!("@{word}@"), value.as_ref())
        })
}

/// As many descriptors as we may have, for us and all that we start.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// In memory where there is room, so that no disk adds its noise; open to the users of the homes.
fn temporary_folder() -> tempfile::TempDir {
    const ROOM: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let has_room =
        rustix::fs::statvfs(memory).is_ok_and(|space| space.f_bavail * space.f_frsize >= ROOM);
    let dir = if has_room {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn folder(parent: &Path, name: &str) -> PathBuf {
    let folder = parent.join(name);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn make_certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "30"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=mail.example.org"])
        .args(["-addext", "subjectAltName=DNS:mail.example.org"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    (certificate, key)
}
