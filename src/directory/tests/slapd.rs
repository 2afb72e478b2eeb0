//! A slapd of a test's own: on loopback, in a temporary folder, killed when dropped.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use base64::Engine as _;
use ldap3::{LdapConnAsync, Mod};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{net::tls, tasks::Tasks};

pub(super) const BASE: &str = "dc=example,dc=org";
pub(super) const PEOPLE: &str = "ou=people,dc=example,dc=org";
pub(super) const READER: &str = "cn=reader,dc=example,dc=org";
pub(super) const READER_PASSWORD: &str = "reader's password";
/// The common name of a client certificate that is the reader's.
const CLIENT: &str = "pigeonair";
const PORT: u16 = 1389;
const TLS_PORT: u16 = 1636;
pub(super) const ADMIN: &str = "cn=admin,dc=example,dc=org";

/// An attribute of qmail-ldap's schema, which the server has no file of.
const ALTERNATE: &str = "attributetype ( 1.3.6.1.4.1.4203.666.1.1 NAME 'mailAlternateAddress' \
     EQUALITY caseIgnoreIA5Match SYNTAX 1.3.6.1.4.1.1466.115.121.1.26{256} )\n\
     objectclass ( 1.3.6.1.4.1.4203.666.3.1 NAME 'alternate' SUP top AUXILIARY MAY mailAlternateAddress )\n";

/// What makes a server tell what changes.
pub(super) const SYNCPROV: &str = "moduleload syncprov\noverlay syncprov\n";

/// How long a test waits for what should come at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Slapd {
    folder: TempDir,
    address: Ipv4Addr,
    child: Option<Child>,
}

/// The tree's users: `(cn, lines of the entry)`.
pub(super) const USERS: [(&str, &str); 18] = [
    (
        "ann",
        "objectClass: posixAccount\nobjectClass: inetLocalMailRecipient\nuid: Ann\nmail: ann@example.org\n\
         uidNumber: 20001\ngidNumber: 20002\nhomeDirectory: homes/ann\nmailHost: node1\nemployeeNumber: 5000000\n\
         employeeType: active\nuserPassword: {SSHA}PfB9rFV/7lZGreagTN7g5YV70Wiw9Rjk",
    ),
    (
        "bob",
        "uid: bob\nuserPassword: {CRYPT}$6$abcdefgh$rduPrailSmGoILgUrwVVTCqJLXAG9arLaqqXqs.IPJHeiU18IM8TV/p4Dsn6CyEZl3afRwCX0seqZB2sDhVMA0",
    ),
    ("twin1", "uid: twin\nuserPassword: secret"),
    ("twin2", "uid: twin\nuserPassword: secret"),
    ("triplet", "uid: Twin\nuserPassword: secret"),
    (
        "gone",
        "uid: gone\nemployeeType: NoAccess\nuserPassword: secret",
    ),
    (
        "odd",
        "uid: odd\nemployeeType: sleeping\nuserPassword: secret",
    ),
    ("star", "uid: a*b)(uid=\\\nuserPassword: secret"),
    // "Zoë O'Neil", and the password "pässword \"with\" \\ all, sorts * of ) things".
    (
        "zoe",
        "uid:: Wm/DqyBPJ05laWw=\nuserPassword:: cMOkc3N3b3JkICJ3aXRoIiBcIGFsbCwgc29ydHMgKiBvZiApIHRoaW5ncw==",
    ),
    (
        "big",
        "objectClass: posixAccount\nuid: big\nuidNumber: 1\ngidNumber: 1\nhomeDirectory: /\nuserPassword: secret",
    ),
    ("locked", "uid: locked\nuserPassword: {CRYPT}!"),
    ("sasl", "uid: sasl\nuserPassword: {SASL}sasl@EXAMPLE.ORG"),
    ("none", "uid: none"),
    (
        "mia",
        "objectClass: inetLocalMailRecipient\nobjectClass: alternate\nuid: mia\nmail: mia@example.org\n\
         mailLocalAddress: mia@local.example\nmailLocalAddress: mia+own@local.example\n\
         mailAlternateAddress: mia@alternate.example\nmailAlternateAddress: both@example.org",
    ),
    (
        "max",
        "objectClass: inetLocalMailRecipient\nuid: max\nmailLocalAddress: both@example.org",
    ),
    // "zoé@example.org": attributes for addresses are ASCII, names are not.
    ("zoé", "uid:: em/DqUBleGFtcGxlLm9yZw=="),
    (
        "odd address",
        "uid: a*b)(uid=\\@example.org\nemployeeType: nopop",
    ),
    (
        "deleted",
        "uid: deleted\nmail: deleted@example.org\nemployeeType: deleted",
    ),
];

impl Slapd {
    /// A server with the sample tree, running.
    pub(super) fn new() -> Self {
        let mut slapd = Self::prepare();
        slapd.start();
        slapd
    }

    /// One with more schema and more entries below [`BASE`], running.
    pub(super) fn with_schema(schema: &str, entries: &str) -> Self {
        let mut slapd = Self::prepare_with(schema, entries);
        slapd.start();
        slapd
    }

    /// The same as [`new`](Self::new), but not started.
    pub(super) fn prepare() -> Self {
        Self::prepare_with("", "")
    }

    /// One that can tell what changes (RFC 4533), running.
    pub(super) fn with_sync() -> Self {
        let mut slapd = Self::prepare();
        slapd.configure(SYNCPROV);
        slapd.start();
        slapd
    }

    pub(super) fn prepare_with(schema: &str, entries: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let slapd = Self {
            address: own_address(),
            folder,
            child: None,
        };
        fs::create_dir(slapd.path("db")).unwrap();
        fs::write(slapd.path("slapd.conf"), slapd.configuration(schema)).unwrap();
        fs::write(slapd.path("tree.ldif"), tree() + entries).unwrap();
        let loaded = Command::new("/usr/sbin/slapadd")
            .args(["-q", "-f"])
            .arg(slapd.path("slapd.conf"))
            .arg("-l")
            .arg(slapd.path("tree.ldif"))
            .output()
            .expect("slapd must be installed");
        assert!(loaded.status.success(), "{loaded:?}");
        slapd
    }

    /// One with TLS, by a certificate for `name` or else for its address; returns it with the file of its authority.
    pub(super) fn with_tls(name: Option<&str>) -> (Self, PathBuf) {
        Self::with_certificate(name, |_| {})
    }

    /// One whose certificate is changed before it is signed.
    pub(super) fn with_certificate(
        name: Option<&str>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Self, PathBuf) {
        let mut slapd = Self::prepare();
        let name = name.map_or_else(|| slapd.address.to_string(), ToOwned::to_owned);
        let mut parameters = CertificateParams::new(vec![name]).unwrap();
        change(&mut parameters);
        for (file, content) in make_certificates(parameters) {
            fs::write(slapd.path(file), content).unwrap();
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(slapd.path(file), mode).unwrap();
        }
        let folder = slapd.folder.path().display();
        let configuration = slapd.configuration(&format!(
            "TLSCACertificateFile {folder}/ca.pem\nTLSCertificateFile {folder}/cert.pem\nTLSCertificateKeyFile {folder}/key.pem\n\
             TLSVerifyClient allow\n",
        ));
        fs::write(slapd.path("slapd.conf"), configuration).unwrap();
        slapd.start();
        let authority = slapd.path("ca.pem");
        (slapd, authority)
    }

    /// The certificate by which a client is the reader, and its key: of a server with TLS.
    pub(super) fn client_files(&self) -> tls::Files {
        tls::Files {
            certificate: self.path("client.pem"),
            key: self.path("client.key.pem"),
        }
    }

    /// More lines for its database, before it is started.
    pub(super) fn configure(&self, lines: &str) {
        let path = self.path("slapd.conf");
        let configuration = fs::read_to_string(&path).unwrap() + lines;
        fs::write(path, configuration).unwrap();
    }

    /// Gives it the entries of another one, before either is started.
    pub(super) fn copy(&self, other: &Self) {
        // Mostly holes, which only this leaves out.
        let copied = Command::new("cp")
            .args([other.path("db/data.mdb"), self.path("db")])
            .status();
        assert!(copied.unwrap().success());
    }

    /// Takes all its entries away, before it is started.
    pub(super) fn empty(&self) {
        fs::remove_file(self.path("db/data.mdb")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self, more: &str) -> String {
        let folder = self.folder.path().display();
        let schemas = ["core", "cosine", "nis", "inetorgperson", "misc"]
            .map(|name| format!("include /etc/ldap/schema/{name}.schema\n"))
            .concat();
        format!(
            "{schemas}pidfile {folder}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n{ALTERNATE}{more}\
             authz-regexp ^gidNumber=0.uidNumber=0,cn=peercred,cn=external,cn=auth$ {READER}\n\
             authz-regexp ^cn={CLIENT}$ {READER}\n\
             database mdb\nsuffix {BASE}\nrootdn {ADMIN}\nrootpw admin\ndirectory {folder}/db\ndbnosync\nmaxsize 1073741824\n\
             index objectClass,uid,mail eq\n\
             access to dn.exact=\"cn=none,{PEOPLE}\" attrs=userPassword by anonymous auth by * none\n\
             access to attrs=userPassword by dn.exact=\"{READER}\" read by anonymous auth by * none\n\
             access to * by dn.exact=\"{READER}\" read by anonymous auth by * none\n"
        )
    }

    pub(super) fn uri(&self) -> String {
        format!("ldap://{}:{PORT}", self.address)
    }

    pub(super) fn ldaps_uri(&self) -> String {
        format!("ldaps://{}:{TLS_PORT}", self.address)
    }

    /// Its Unix socket, by which root is the reader.
    pub(super) fn ldapi_uri(&self) -> String {
        format!("ldapi://{}", self.path("ldapi").display())
    }

    /// Starts it and waits until it listens.
    pub(super) fn start(&mut self) {
        let listeners = format!(
            "{} {} {}",
            self.uri(),
            self.ldaps_uri(),
            // As slapd wants it.
            self.ldapi_uri()
                .replace("/", "%2F")
                .replace("%2F%2F%2F", "//%2F")
        );
        let child = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-f"])
            .arg(self.path("slapd.conf"))
            .args(["-h", &listeners])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("slapd must be installed");
        let child = self.child.insert(child);
        let patience = Instant::now() + PATIENCE;
        while TcpStream::connect((self.address, PORT)).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "slapd ended");
            assert!(Instant::now() < patience, "slapd does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Goes on where nobody looks for it, so that it can be changed while it is away; returns where it was.
    pub(super) fn hide(&mut self) -> Ipv4Addr {
        self.kill();
        let before = std::mem::replace(&mut self.address, own_address());
        self.start();
        before
    }

    /// Is set up anew from what it has, as from a backup, but without the entries that these words occur in: whoever was
    /// told something before cannot go on from there.
    pub(super) fn restore_without(&mut self, words: &[&str]) {
        self.kill();
        let configuration = self.path("slapd.conf");
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.arg("-f").arg(&configuration).args(arguments);
            let output = command.output().expect("slapd must be installed");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let entries = run("/usr/sbin/slapcat", &[]);
        let is_kept = |entry: &&str| !words.iter().any(|word| entry.contains(word));
        let kept: Vec<_> = entries.split("\n\n").filter(is_kept).collect();
        fs::write(self.path("tree.ldif"), kept.join("\n\n")).unwrap();
        for file in fs::read_dir(self.path("db")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        run(
            "/usr/sbin/slapadd",
            &["-q", "-l", self.path("tree.ldif").to_str().unwrap()],
        );
        self.start();
    }

    /// Is started again with one more line of configuration for its database.
    pub(super) fn restart_with(&mut self, line: &str) {
        self.kill();
        let path = self.path("slapd.conf");
        let configuration = fs::read_to_string(&path).unwrap();
        let database = format!("database mdb\n{line}\n");
        fs::write(path, configuration.replace("database mdb\n", &database)).unwrap();
        self.start();
    }

    /// Comes back to where it was.
    pub(super) fn show(&mut self, address: Ipv4Addr) {
        self.kill();
        self.address = address;
        self.start();
    }

    /// Kills it, without a chance to say anything.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it in the middle of whatever it does.
    pub(super) fn freeze(&self) {
        self.signal(Signal::STOP);
        // The signal is only on its way: a thread that runs on another core may still answer.
        let patience = Instant::now() + PATIENCE;
        while !self.is_frozen() {
            assert!(Instant::now() < patience, "slapd does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether every thread is in the state `T` (stopped), which stands behind the name in parentheses.
    fn is_frozen(&self) -> bool {
        let threads = format!("/proc/{}/task", self.child.as_ref().unwrap().id());
        fs::read_dir(threads).unwrap().all(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    }

    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    /// Replaces one attribute of a user.
    pub(super) async fn replace(&self, cn: &str, attribute: &str, value: &str) {
        let change = Mod::Replace(attribute, HashSet::from([value]));
        let mut admin = self.admin().await;
        let done = admin.modify(&dn(cn), vec![change]).await.unwrap();
        done.success().unwrap();
    }

    /// Takes a user away.
    pub(super) async fn delete(&self, cn: &str) {
        let deleted = self.admin().await.delete(&dn(cn)).await.unwrap();
        deleted.success().unwrap();
    }

    /// Changes the password of the reader.
    pub(super) async fn replace_reader_password(&self, password: &str) {
        let change = Mod::Replace("userPassword", HashSet::from([password]));
        let done = self.admin().await.modify(READER, vec![change]).await;
        done.unwrap().success().unwrap();
    }

    /// Gives a user another DN.
    pub(super) async fn rename(&self, cn: &str, to: &str) {
        let mut admin = self.admin().await;
        let (dn, rdn) = (dn(cn), format!("cn={to}"));
        let renamed = admin.modifydn(&dn, &rdn, true, None).await.unwrap();
        renamed.success().unwrap();
    }

    /// A connection by which everything may be changed.
    pub(super) async fn admin(&self) -> ldap3::Ldap {
        let (driver, mut ldap) = LdapConnAsync::new(&self.uri()).await.unwrap();
        Tasks::new().spawn("admin", async move {
            driver.drive().await.unwrap();
        });
        let bound = ldap.simple_bind(ADMIN, "admin").await.unwrap();
        bound.success().unwrap();
        ldap
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback address for one server: a port that was free a moment ago may be somebody else's now.
fn own_address() -> Ipv4Addr {
    static SERVERS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let server = SERVERS.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 64 | (high & 63), low, server)
}

pub(super) fn dn(cn: &str) -> String {
    format!("cn={cn},{PEOPLE}")
}

fn tree() -> String {
    let mut tree = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: x\n\n\
         dn: {PEOPLE}\nobjectClass: organizationalUnit\n\n\
         dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\nuserPassword: {READER_PASSWORD}\n\n\
         dn: ou=elsewhere,{PEOPLE}\nobjectClass: referral\nobjectClass: extensibleObject\nref: ldap://127.0.0.1:1/{BASE}\n\n"
    );
    for (cn, lines) in USERS {
        write!(
            tree,
            "dn: {}\nobjectClass: inetOrgPerson\n{lines}\nsn: x\n\n",
            dn(cn)
        )
        .unwrap();
    }
    tree
}

/// Files: an authority's certificate, those that it signed for a server and for the client, and their keys.
fn make_certificates(server: CertificateParams) -> [(&'static str, String); 5] {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    let authority = format!("authority of {:?}", server.subject_alt_names);
    ca.distinguished_name.push(DnType::CommonName, authority);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = pem("CERTIFICATE", ca.self_signed(&ca_key).unwrap().der());
    let issuer = Issuer::new(ca, ca_key);
    let sign = |parameters: CertificateParams| {
        let key = KeyPair::generate().unwrap();
        let signed = parameters.signed_by(&key, &issuer).unwrap();
        let key = pem("PRIVATE KEY", &key.serialize_der());
        (pem("CERTIFICATE", signed.der()), key)
    };
    let (server, server_key) = sign(server);
    let mut client = CertificateParams::new(Vec::new()).unwrap();
    client.distinguished_name = DistinguishedName::new();
    client.distinguished_name.push(DnType::CommonName, CLIENT);
    let (client, client_key) = sign(client);
    [
        ("ca.pem", ca_pem),
        ("cert.pem", server),
        ("key.pem", server_key),
        ("client.pem", client),
        ("client.key.pem", client_key),
    ]
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
