//! A cluster on loopback, for one test.
//!
//! ```text
//! client  -> front (uid 64143) -> link -> node "n1" -> Dovecot
//! Postfix ->   |                          node "n2" -> Dovecot
//!            slapd
//! ```
//!
//! [`Cluster::build`] says what differs from the usual; `start` returns when everything answers. The cluster has an
//! address of its own in 127.0.0.0/8, so its ports are nobody else's, and a temporary folder that its users may pass
//! through. When it is dropped it ends its processes and looks through all their logs for secrets; after a failure
//! it shows the end of every log instead. Nothing waits for a time: [`eventually`] waits for a fact.

mod dovecot;
mod mail;
mod postfix;
mod process;
mod slapd;
pub(crate) mod tls;
mod upgrade;
mod user;

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use tempfile::TempDir;

pub(crate) use self::{
    dovecot::Dovecot,
    mail::{Recipients, Route, Store},
    postfix::Postfix,
    process::Process,
    slapd::Slapd,
    user::User,
};

/// The front runs as this user, who has no name and no rights.
pub(crate) const FRONT_UID: u32 = 64143;
pub(crate) const MASTER_PASSWORD: &str = "password-of-the-acceptor";
/// Of every link: the octets from 0 to 31.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

// === waiting ===

/// Polls until `fact` holds, and panics when it doesn't within the patience of this machine
/// (`PIGEONAIR_TEST_PATIENCE` seconds, default 20).
pub(crate) fn eventually(what: &str, fact: impl FnMut() -> bool) {
    let patience = std::env::var("PIGEONAIR_TEST_PATIENCE")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(20);
    assert!(
        eventually_within(Duration::from_secs(patience), fact),
        "waited {patience} s in vain: {what}"
    );
}

fn eventually_within(limit: Duration, mut fact: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if fact() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_port(process: &mut Process, address: SocketAddr) {
    eventually(&format!("{address} answers"), || {
        assert!(process.lives(), "ended at once: {}", process.log());
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    });
}

// === files ===

/// Changes a file's text.
fn rewrite(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, change(text)).unwrap();
}

/// Replaces each `@WORD@`.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (word, value)| {
            text.replace(&format!("@{word}@"), value)
        })
}

/// Replaces what a sample says for the machine it is written for.
pub(crate) fn adapt(sample: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(sample.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the sample no longer holds {from:?}");
        text.replace(from, to)
    })
}

pub(crate) fn write_private(path: &Path, content: &str) {
    let mut file = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
}

/// The gid of a group of an installed package.
pub(crate) fn group(name: &str) -> u32 {
    let output = Command::new("getent")
        .args(["group", name])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split(':')
        .nth(2)
        .expect("the group dovecot exists once the package is installed")
        .parse()
        .unwrap()
}

fn own_address() -> Ipv4Addr {
    static CLUSTERS: AtomicU8 = AtomicU8::new(1);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let octet = |value: u32| u8::try_from(value % 250).unwrap() + 1;
    Ipv4Addr::new(127, octet(pid / 250), octet(pid), cluster)
}

// === logs ===

/// All logs in a folder, by their paths.
pub(crate) fn logs(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut logs: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            (path, text)
        })
        .collect();
    logs.sort();
    logs
}

/// Shows the end of every log in a folder.
pub(crate) fn show_logs(folder: &Path) {
    const LINES: usize = 60;
    for (path, text) in logs(folder) {
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len().saturating_sub(LINES);
        eprintln!("--- {}\n{}", path.display(), lines[last..].join("\n"));
    }
}

// === what a cluster is made of ===

/// How a node hands sessions to its Dovecot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Courier's servers, started; no Dovecot serves.
    Courier,
    /// Dovecot's imap and pop3, started.
    Exec,
    ImapMaster,
    Login,
}

impl Kind {
    /// Those of Dovecot's.
    pub(crate) const ALL: [Self; 3] = [Self::Login, Self::ImapMaster, Self::Exec];
}

/// A storage node, as a test wants it.
#[derive(Clone, Debug)]
pub(crate) struct NodeSpec {
    name: String,
    kind: Kind,
    link: Link,
    dovecot: String,
    /// In place of the node's sections for its real servers.
    servers: Option<String>,
    front_key: &'static str,
    node_key: &'static str,
    master_password: &'static str,
    silent: bool,
    /// Further lines of the node's `[[acceptor.key]]`.
    key: &'static str,
    /// Further lines of the front's `[[nodes.node]]`.
    entry: &'static str,
    /// The front expects a plain link, whatever the node does.
    front_plain: bool,
    /// How it stores mail, if it does.
    store: Option<Store>,
}

/// What a link runs over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Link {
    Plain,
    Tls,
    Unix,
}

impl NodeSpec {
    pub(crate) fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            link: Link::Tls,
            dovecot: String::new(),
            servers: None,
            front_key: KEY,
            node_key: KEY,
            master_password: MASTER_PASSWORD,
            silent: false,
            key: "",
            entry: "",
            front_plain: false,
            store: None,
        }
    }

    /// It stores mail, in this way.
    pub(crate) fn store(self, store: Store) -> Self {
        Self {
            store: Some(store),
            ..self
        }
    }

    /// A further line of its key's table.
    pub(crate) fn key(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    /// A further line of its table at the front.
    pub(crate) fn entry(self, entry: &'static str) -> Self {
        Self { entry, ..self }
    }

    /// Further lines for its Dovecot.
    pub(crate) fn dovecot(self, lines: &str) -> Self {
        Self {
            dovecot: lines.to_owned(),
            ..self
        }
    }

    /// Other sections for its real servers than those of its kind.
    pub(crate) fn servers(self, sections: &str) -> Self {
        Self {
            servers: Some(sections.to_owned()),
            ..self
        }
    }

    /// The front has another key for it than it has itself.
    pub(crate) fn wrong_key_at_front(self) -> Self {
        Self {
            front_key: OTHER_KEY,
            ..self
        }
    }

    /// The node has another key for the front than the front has.
    pub(crate) fn wrong_key_at_node(self) -> Self {
        Self {
            node_key: OTHER_KEY,
            ..self
        }
    }

    /// The acceptor's master password is not the one that Dovecot knows.
    pub(crate) fn wrong_master_password(self) -> Self {
        Self {
            master_password: "not-the-password-of-the-acceptor",
            ..self
        }
    }

    /// The front dials it in plain, and it expects TLS.
    pub(crate) fn tls_at_node_only(self) -> Self {
        Self {
            front_plain: true,
            ..self
        }
    }

    /// In place of the node somebody accepts links and never says a word.
    pub(crate) fn silent(self) -> Self {
        Self {
            silent: true,
            ..self
        }
    }
}

/// What a cluster is to be.
#[derive(Debug)]
pub(crate) struct Builder {
    nodes: Vec<NodeSpec>,
    users: Vec<User>,
    crowd: Vec<User>,
    process: String,
    proxy: String,
    tls: String,
    listeners: String,
    directory: String,
    acceptor: String,
    delivery: Option<String>,
    mailstore: String,
    table: String,
    through: Option<u16>,
    ldap: Ldap,
    descriptors: Option<u64>,
    /// Whose the front's files are.
    front_uid: u32,
    /// Who starts the front.
    front_starter: u32,
    /// Whom nodes become.
    node_uid: Option<u32>,
    takes_sockets: bool,
    single: bool,
}

/// How the front reaches the LDAP server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ldap {
    Plain,
    StartTls,
    Tls,
}

impl Builder {
    pub(crate) fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.push(node);
        self
    }

    /// TLS on all links, or on none; default on.
    pub(crate) fn link_tls(mut self, tls: bool) -> Self {
        for node in &mut self.nodes {
            node.link = if tls { Link::Tls } else { Link::Plain };
        }
        self
    }

    /// The front dials all nodes at this port of the cluster's address, where the test has somebody between; and nobody else
    /// dials there.
    pub(crate) fn through(self, port: u16) -> Self {
        Self {
            through: Some(port),
            ..self.nodes("probe_every = \"off\"")
        }
    }

    pub(crate) fn user(mut self, user: &User) -> Self {
        self.users.push(user.clone());
        self
    }

    /// Accounts that nobody logs in to: their passwords are looked for in no log, which takes long for many.
    pub(crate) fn crowd(mut self, users: &[User]) -> Self {
        self.crowd.extend_from_slice(users);
        self
    }

    /// A further line of `[proxy]`.
    pub(crate) fn proxy(mut self, line: &str) -> Self {
        writeln!(self.proxy, "{line}").unwrap();
        self
    }

    /// A further line of `[proxy.tls]`.
    pub(crate) fn tls(mut self, line: &str) -> Self {
        writeln!(self.tls, "{line}").unwrap();
        self
    }

    /// A further listener of the front at this port of the cluster's address, with these lines.
    pub(crate) fn listener(mut self, port: u16, lines: &str) -> Self {
        let table = "[[proxy.listen]]\naddress = \"@IP@";
        writeln!(self.listeners, "{table}:{port}\"\n{lines}\n").unwrap();
        self
    }

    /// A further line of `[directory.ldap]`.
    pub(crate) fn directory(mut self, line: &str) -> Self {
        writeln!(self.directory, "{line}").unwrap();
        self
    }

    /// A further line of `[acceptor]`.
    pub(crate) fn acceptor(mut self, line: &str) -> Self {
        writeln!(self.acceptor, "{line}").unwrap();
        self
    }

    /// The front has the delivery role, with this further line.
    pub(crate) fn delivery(mut self, line: &str) -> Self {
        let lines = self.delivery.get_or_insert_default();
        writeln!(lines, "{line}").unwrap();
        self
    }

    /// A further line of `[mailstore]`.
    pub(crate) fn mailstore(mut self, line: &str) -> Self {
        writeln!(self.mailstore, "{line}").unwrap();
        self
    }

    /// A further line of `[nodes]`.
    pub(crate) fn nodes(mut self, line: &str) -> Self {
        writeln!(self.table, "{line}").unwrap();
        self
    }

    /// What the connections to LDAP are; default plain.
    pub(crate) fn ldap(self, ldap: Ldap) -> Self {
        Self { ldap, ..self }
    }

    /// Starts the front as root; default a user of its own.
    pub(crate) fn front_as_root(self) -> Self {
        Self {
            front_uid: 0,
            front_starter: 0,
            ..self
        }
    }

    /// Starts the front as root, to become its user by itself.
    pub(crate) fn front_becomes_its_user(mut self) -> Self {
        write!(
            self.process,
            "front_user = {FRONT_UID}\nfront_group = {FRONT_UID}\n"
        )
        .unwrap();
        Self {
            front_starter: 0,
            ..self
        }
    }

    /// The front gets its first sockets from a service manager, one of them at a port that it had no right to.
    pub(crate) fn front_takes_sockets(self) -> Self {
        Self {
            takes_sockets: true,
            ..self
        }
    }

    /// A further line of `[process]`.
    pub(crate) fn process(mut self, line: &str) -> Self {
        writeln!(self.process, "{line}").unwrap();
        self
    }

    /// Nodes become this user.
    pub(crate) fn nodes_become(mut self, uid: u32) -> Self {
        write!(self.process, "node_user = {uid}\nnode_group = {uid}\n").unwrap();
        self.node_uid = Some(uid);
        self
    }

    /// How many descriptors the front may have.
    pub(crate) fn descriptors(self, number: u64) -> Self {
        Self {
            descriptors: Some(number),
            ..self
        }
    }

    /// One machine without LDAP: accounts in a file, front and node on a Unix socket.
    pub(crate) fn single(mut self, kind: Kind) -> Self {
        let mut node = NodeSpec::new("local", kind);
        node.link = Link::Unix;
        node.store = Some(Store::Maildir);
        self.nodes = vec![node];
        self.single = true;
        self
    }

    /// Starts everything and returns when the front is ready.
    pub(crate) fn start(self) -> Cluster {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: nodes become their users"
        );
        let dir = tempfile::Builder::new()
            .prefix("pigeonair-test.")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let root = dir.path();
        for folder in ["bin", "front", "ldap", "logs", "nodes", "tmp"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        let everyones = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(root.join("tmp"), everyones).unwrap();
        // Where it was built its own users may not be able to reach it.
        fs::copy(env!("CARGO_BIN_EXE_pigeonair"), root.join("bin/pigeonair")).unwrap();
        let ip = own_address();
        let trust = tls::write(&root.join("front"), ip);
        let mut cluster = Cluster {
            secrets: [
                KEY,
                OTHER_KEY,
                MASTER_PASSWORD,
                slapd::ADMIN_PASSWORD,
                slapd::SERVICE_PASSWORD,
            ]
            .map(str::to_owned)
            .to_vec(),
            users: Vec::new(),
            front: None,
            front_command: Vec::new(),
            front_uid: FRONT_UID,
            front_starter: FRONT_UID,
            nodes: Vec::new(),
            slapd: None,
            postfix: None,
            ip,
            trust,
            dir,
        };
        for user in &self.users {
            cluster.remember(user);
        }
        if !self.single {
            cluster.slapd = Some(Slapd::start(
                &cluster.path("ldap"),
                &cluster.path("logs"),
                &cluster.path("front"),
                ip,
                &[self.users.as_slice(), &self.crowd].concat(),
            ));
        }
        for (index, spec) in (0..).zip(&self.nodes) {
            let node = cluster.start_node(&self, spec, index);
            cluster.nodes.push(node);
        }
        cluster.start_front(&self);
        cluster
    }
}

/// A storage node that runs.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// The `pigeonair run node` of it.
    acceptor: Option<Process>,
    pub(crate) dovecot: Dovecot,
    pub(crate) home_root: PathBuf,
    /// How the acceptor is started.
    command: [String; 5],
    admin: SocketAddr,
    /// The listener that never answers, for a silent node.
    _silence: Option<TcpListener>,
}

impl Node {
    /// The acceptor, which a silent node has not.
    pub(crate) fn acceptor(&mut self) -> &mut Process {
        self.acceptor.as_mut().unwrap()
    }

    fn start_acceptor(&mut self, logs: &Path) {
        let command = self.command.each_ref().map(String::as_str);
        let mut acceptor = Process::start(&self.name, logs, &command);
        wait_until_ready(&mut acceptor, self.admin);
        self.acceptor = Some(acceptor);
    }
}

/// A cluster that runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    secrets: Vec<String>,
    users: Vec<User>,
    pub(crate) front: Option<Process>,
    /// How the front is started.
    front_command: Vec<String>,
    front_uid: u32,
    front_starter: u32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) slapd: Option<Slapd>,
    postfix: Option<Postfix>,
    ip: Ipv4Addr,
    trust: Arc<ClientConfig>,
    dir: TempDir,
}

// === impl Cluster ===

impl Cluster {
    /// Without further words: no nodes, accounts in LDAP, a short failure delay.
    pub(crate) fn build() -> Builder {
        Builder {
            nodes: Vec::new(),
            users: Vec::new(),
            crowd: Vec::new(),
            process: String::new(),
            proxy: String::new(),
            tls: String::new(),
            listeners: String::new(),
            directory: String::new(),
            acceptor: String::new(),
            delivery: None,
            mailstore: String::new(),
            table: String::new(),
            through: None,
            ldap: Ldap::Plain,
            descriptors: None,
            front_uid: FRONT_UID,
            front_starter: FRONT_UID,
            node_uid: None,
            takes_sockets: false,
            single: false,
        }
    }

    /// The usual one: `n1` of kind `login`, `n2` of kind `dovecot-imap-master`, TLS on the links.
    pub(crate) fn usual() -> Builder {
        Self::build()
            .node(NodeSpec::new("n1", Kind::Login))
            .node(NodeSpec::new("n2", Kind::ImapMaster))
    }

    /// IMAP with STARTTLS on offer; passwords in clear are taken too, as everything is on loopback.
    pub(crate) fn imap(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1143))
    }

    /// The same at a port below 1024, for a front that is passed its socket.
    pub(crate) fn imap_privileged(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 143))
    }

    /// IMAP with STARTTLS, where passwords in clear are never taken.
    pub(crate) fn imap_private(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1144))
    }

    /// IMAP with TLS from the first octet.
    pub(crate) fn imaps(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1993))
    }

    /// IMAP without TLS.
    pub(crate) fn imap_plain(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1145))
    }

    /// POP3 with STLS on offer, and passwords in clear.
    pub(crate) fn pop3(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1110))
    }

    /// POP3 with STLS on offer, where passwords in clear are never taken.
    pub(crate) fn pop3_private(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1111))
    }

    /// POP3 without TLS.
    pub(crate) fn pop3_plain(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1112))
    }

    /// POP3 with TLS from the first octet.
    pub(crate) fn pop3s(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 1995))
    }

    /// Any port of the cluster's address.
    pub(crate) fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    /// The front's HTTP.
    pub(crate) fn front_admin(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 9143))
    }

    /// Where the front answers commands.
    pub(crate) fn front_socket(&self) -> PathBuf {
        self.path("front/front.sock")
    }

    /// A node's HTTP.
    pub(crate) fn node_admin(&self, name: &str) -> SocketAddr {
        let node = self.nodes.iter().find(|node| node.name == name);
        node.unwrap().admin
    }

    /// Who the front is.
    pub(crate) fn front_uid(&self) -> u32 {
        self.front_uid
    }

    /// The front's process.
    pub(crate) fn front(&mut self) -> &mut Process {
        self.front.as_mut().unwrap()
    }

    /// What the LDAP server has said.
    pub(crate) fn slapd_log(&self) -> String {
        fs::read_to_string(self.path("logs/slapd.log")).unwrap_or_default()
    }

    /// The socket on which front and node of a single machine meet.
    pub(crate) fn link_socket(&self) -> PathBuf {
        self.path("link.sock")
    }

    /// Where a node listens for links over TCP.
    pub(crate) fn link_address(&self, name: &str) -> SocketAddr {
        let index = self.nodes.iter().position(|node| node.name == name);
        let index = u16::try_from(index.unwrap()).unwrap();
        SocketAddr::from((self.ip, 7143 + index))
    }

    /// What a client needs to trust the front.
    pub(crate) fn trust(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.trust)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.path("front/ca.pem")
    }

    /// An authority that the front's certificate is not from.
    pub(crate) fn foreign_ca_file(&self) -> PathBuf {
        self.path("front/foreign-ca.pem")
    }

    /// A folder for the test's own files.
    pub(crate) fn scratch(&self) -> PathBuf {
        let dir = self.path("scratch");
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes
            .iter_mut()
            .find(|node| node.name == name)
            .unwrap()
    }

    pub(crate) fn slapd(&mut self) -> &mut Slapd {
        self.slapd.as_mut().unwrap()
    }

    /// Adds an account while everything runs, by `ldapadd`.
    pub(crate) fn add(&mut self, user: &User) {
        self.remember(user);
        self.slapd().add(user);
    }

    /// Adds an account to the accounts file of a single machine.
    pub(crate) fn add_to_file(&mut self, user: &User) {
        self.remember(user);
        let path = self.path("front/accounts.toml");
        let text = fs::read_to_string(&path).unwrap() + &accounts_toml(std::slice::from_ref(user));
        fs::write(path, text).unwrap();
    }

    /// Starts a node's acceptor once more after it was stopped or killed.
    pub(crate) fn restart_acceptor(&mut self, name: &str) {
        let logs = self.path("logs");
        self.node(name).start_acceptor(&logs);
    }

    /// Starts a node's acceptor once more with another configuration.
    pub(crate) fn reconfigure_acceptor(
        &mut self,
        name: &str,
        change: impl FnOnce(String) -> String,
    ) {
        let logs = self.path("logs");
        let node = self.node(name);
        node.acceptor().stop();
        let [.., configuration] = &node.command;
        rewrite(Path::new(configuration), change);
        node.start_acceptor(&logs);
    }

    /// Starts the front once more, whether it still runs or was killed.
    pub(crate) fn restart_front(&mut self) {
        self.front().stop();
        self.launch_front();
    }

    /// Starts the front once more, as a service manager does whose journal is its standard error.
    pub(crate) fn restart_front_in_a_journal(&mut self) {
        let script = "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec \"$@\"";
        let shell = ["sh", "-c", script, "sh"].map(str::to_owned);
        self.front_command.splice(0..0, shell);
        self.restart_front();
    }

    /// Starts the front once more, with another configuration.
    pub(crate) fn change_front(&mut self, change: impl FnOnce(String) -> String) {
        self.write_front(change);
        self.restart_front();
    }

    /// Changes the front's configuration, which does not know of it yet.
    pub(crate) fn write_front(&self, change: impl FnOnce(String) -> String) {
        rewrite(&self.path("front/pigeonair.toml"), change);
    }

    /// The same for a node's.
    pub(crate) fn write_node(&self, name: &str, change: impl FnOnce(String) -> String) {
        rewrite(&self.node_file(name, "pigeonair.toml"), change);
    }

    /// A file of a node's.
    pub(crate) fn node_file(&self, name: &str, file: &str) -> PathBuf {
        self.path("nodes").join(name).join(file)
    }

    /// A file of the front's, private to it.
    pub(crate) fn write_front_file(&self, name: &str, content: &str) -> String {
        let path = self.path("front").join(name);
        write_private(&path, content);
        chown(&path, Some(self.front_uid), Some(self.front_uid)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Starts the front anew with a file that keeps orders.
    pub(crate) fn keep_orders(&mut self) -> PathBuf {
        let folder = self.path("front/orders");
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(self.front_uid), Some(self.front_uid)).unwrap();
        let file = folder.join("orders.json");
        let line = format!("[admin]\norders_file = \"{}\"\n", file.display());
        self.change_front(|text| text.replace("[admin]\n", &line));
        file
    }

    /// Has a node read its configuration again: exit code of the command, and what it wrote.
    pub(crate) fn reload_node(&self, name: &str) -> (Option<i32>, String, String) {
        let command = ["reload", "node", "--config"];
        let output = Command::new(self.path("bin/pigeonair"))
            .args(command)
            .arg(self.node_file(name, "pigeonair.toml"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let [out, notes] =
            [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
        (output.status.code(), out, notes)
    }

    /// Starts the front once more, with these variables in its environment.
    pub(crate) fn restart_front_with(&mut self, environment: &[String]) {
        let env = ["env".to_owned()];
        let all = env.into_iter().chain(environment.iter().cloned());
        let mut words = self.front_command.iter();
        let before = words.position(|word| word != "env" && !word.contains('='));
        self.front_command.splice(..before.unwrap(), all);
        self.restart_front();
    }

    /// The folder of an account's mailbox, whether it is there or not.
    pub(crate) fn home(&self, user: &User) -> PathBuf {
        let node = self.nodes.iter().find(|node| node.name == user.node);
        node.unwrap().home_root.join(&user.home)
    }

    /// Puts a message into an account's inbox as a delivery would: as the user, into `new`, with the line ends of files.
    pub(crate) fn deliver(&self, user: &User, message: &[u8]) {
        static DELIVERIES: AtomicU64 = AtomicU64::new(1);
        let owner = Some(user.uid);
        let mut dir = self.home(user);
        for folder in ["", "Maildir", "tmp", "new", "cur"] {
            if !matches!(folder, "new" | "cur") {
                dir.push(folder);
            } else {
                dir.set_file_name(folder);
            }
            if !dir.exists() {
                fs::create_dir(&dir).unwrap();
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
                chown(&dir, owner, owner).unwrap();
            }
        }
        dir.set_file_name("new");
        // A name once used stays used: Dovecot remembers it when the message has moved to `cur` or is gone.
        let number = DELIVERIES.fetch_add(1, Ordering::Relaxed);
        let file = dir.join(format!("{number}.{}.test", std::process::id()));
        let mut stored = Vec::with_capacity(message.len());
        for line in message.split_inclusive(|octet| *octet == b'\n') {
            match line {
                [line @ .., b'\r', b'\n'] => stored.extend([line, b"\n"].concat()),
                line => stored.extend(line),
            }
        }
        fs::write(&file, stored).unwrap();
        chown(&file, owner, owner).unwrap();
    }

    /// What the front has said.
    pub(crate) fn front_log(&self) -> String {
        fs::read_to_string(self.path("logs/front.log")).unwrap_or_default()
    }

    /// What a node's acceptor has said.
    pub(crate) fn node_log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("logs/{name}.log"))).unwrap_or_default()
    }

    /// What a node's Dovecot has said.
    pub(crate) fn dovecot_log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("logs/dovecot-{name}.log"))).unwrap_or_default()
    }

    /// The front's lines about sessions of an account that have ended.
    pub(crate) fn sessions(&self, account: &str) -> Vec<String> {
        let field = format!("account={account} ");
        self.front_log()
            .lines()
            .filter(|line| line.contains("session ended") && line.contains(&field))
            .map(str::to_owned)
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Its password must not be in any log at the end.
    fn remember(&mut self, user: &User) {
        self.secrets.push(user.password.clone());
        self.secrets.extend(user.stored.clone());
        self.users.push(user.clone());
    }

    fn link(&self, spec: &NodeSpec, index: u16) -> String {
        match spec.link {
            Link::Plain | Link::Tls => format!("{}:{}", self.ip, 7143 + index),
            Link::Unix => self.text("link.sock"),
        }
    }

    /// Starts HAProxy with these sections: `@IP@` is the cluster's address, `@CERTIFICATE@` the front's, with its key.
    pub(crate) fn haproxy(&self, sections: &str) -> Process {
        let [certificate, key] = ["front/server.pem", "front/server.key"]
            .map(|name| fs::read_to_string(self.path(name)).unwrap());
        let scratch = self.scratch();
        let [pem, configuration] = ["haproxy.pem", "haproxy.cfg"].map(|name| scratch.join(name));
        write_private(&pem, &(certificate + &key));
        let values = [
            ("IP", &*self.ip.to_string()),
            ("CERTIFICATE", pem.to_str().unwrap()),
        ];
        fs::write(&configuration, fill(sections, &values)).unwrap();
        let command = ["haproxy", "-db", "-f", configuration.to_str().unwrap()];
        Process::start("haproxy", &self.path("logs"), &command)
    }

    // --- nodes

    fn start_node(&self, builder: &Builder, spec: &NodeSpec, index: u16) -> Node {
        let dir = self.path("nodes").join(&spec.name);
        let home_root = dir.join("home");
        fs::create_dir_all(&home_root).unwrap();
        let dovecot = Dovecot::start(&dovecot::Settings {
            node: &spec.name,
            dir: &dir.join("dovecot"),
            logs: &self.path("logs"),
            address: dovecot::address(self.ip, index),
            home_root: &home_root,
            master_password: MASTER_PASSWORD,
            users: &self.dovecot_users(),
            extra: &spec.dovecot,
            lmtp: spec.store == Some(Store::Lmtp),
        });
        let configuration = dir.join("pigeonair.toml");
        let mut node = Node {
            name: spec.name.clone(),
            acceptor: None,
            dovecot,
            home_root,
            command: self.program("node", &configuration),
            admin: SocketAddr::from((self.ip, 9200 + index)),
            _silence: None,
        };
        if spec.silent {
            node._silence = Some(TcpListener::bind(self.link(spec, index)).unwrap());
            return node;
        }
        let text = self.acceptor_toml(builder, spec, index, &node, &dir);
        fs::write(&configuration, text).unwrap();
        if let Some(uid) = builder.node_uid {
            for name in ["", "home", "front.key", "master.password"] {
                chown(dir.join(name), Some(uid), Some(uid)).unwrap();
            }
        }
        node.start_acceptor(&self.path("logs"));
        node
    }

    fn dovecot_users(&self) -> dovecot::Users {
        match &self.slapd {
            Some(slapd) => dovecot::Users::Ldap(slapd.uri()),
            None => dovecot::Users::Forwarded,
        }
    }

    fn acceptor_toml(
        &self,
        builder: &Builder,
        spec: &NodeSpec,
        index: u16,
        node: &Node,
        dir: &Path,
    ) -> String {
        let dir = dir.display();
        write_private(
            Path::new(&format!("{dir}/front.key")),
            &format!("{}\n", spec.node_key),
        );
        write_private(
            Path::new(&format!("{dir}/master.password")),
            spec.master_password,
        );
        let listen = match spec.link {
            Link::Plain => format!("address = \"{}\"\ntls = false", self.link(spec, index)),
            Link::Tls => format!("address = \"{}\"", self.link(spec, index)),
            Link::Unix => format!("path = \"{}\"", self.link(spec, index)),
        };
        let login = |server| {
            format!(
                "kind = \"login\"\nserver = \"{server}\"\nmaster_user = \"acceptor\"\n\
                 master_password_file = \"{dir}/master.password\""
            )
        };
        let sections = |imap: String, pop3: String| {
            format!("[acceptor.imap]\n{imap}\n\n[acceptor.pop3]\n{pop3}\n")
        };
        let servers = match (&spec.servers, spec.kind) {
            (Some(servers), _) => servers.clone(),
            (None, Kind::Courier) => courier(),
            (None, Kind::Exec) => dovecot::exec(Path::new(&dir.to_string()), &spec.dovecot),
            (None, Kind::ImapMaster) => sections(
                format!(
                    "kind = \"dovecot-imap-master\"\nsocket = \"{}\"",
                    node.dovecot.imap_master.display()
                ),
                login(node.dovecot.pop3),
            ),
            (None, Kind::Login) => sections(login(node.dovecot.address), login(node.dovecot.pop3)),
        };
        format!(
            "[log]\nlevel = \"debug\"\n\n\
             [admin]\nnode = \"{}\"\nnode_socket = \"{dir}/node.sock\"\n\n\
             [process]\nnode_upgrade_socket = \"{dir}/upgrade.sock\"\n{}\n\
             [acceptor]\nname = \"{}\"\npeers = [\"{FRONT_UID}\"]\nhome_root = \"{}\"\nsessions_file = \"{dir}/sessions\"\n{}\n\
             [[acceptor.listen]]\n{listen}\n\n\
             [[acceptor.key]]\nid = \"front\"\nfile = \"{dir}/front.key\"\n{}\n\n\
             {servers}\n{}",
            node.admin,
            builder.process,
            spec.name,
            node.home_root.display(),
            builder.acceptor,
            spec.key,
            mail::mailstore_toml(self, builder, spec, node),
        )
    }

    // --- the front

    fn start_front(&mut self, builder: &Builder) {
        let mut text = self.proxy_toml(builder);
        text += &self.directory_toml(builder);
        text +=
            "[nodes]\nconnect_timeout = \"1s\"\nprove_timeout = \"1s\"\nverdict_timeout = \"5s\"\n";
        if builder.single {
            text += "default = \"local\"\n";
        }
        text += &builder.table;
        for (index, spec) in (0..).zip(&builder.nodes) {
            let key = self.text(&format!("front/{}.key", spec.name));
            write_private(Path::new(&key), &format!("{}\n", spec.front_key));
            write!(
                text,
                "\n[[nodes.node]]\nname = \"{}\"\naddress = \"{}\"\nkey_id = \"front\"\nkey_file = \"{key}\"\n{}\n",
                spec.name,
                match builder.through {
                    Some(port) => format!("{}:{port}", self.ip),
                    None => self.link(spec, index),
                },
                spec.entry,
            )
            .unwrap();
            if spec.link == Link::Plain || spec.front_plain {
                text += "tls = false\n";
            }
        }
        text += &self.delivery_toml(builder);
        let configuration = self.path("front/pigeonair.toml");
        fs::write(&configuration, text).unwrap();
        // Its delivery role makes a socket there.
        let owner = Some(builder.front_uid);
        chown(self.path("front"), owner, owner).unwrap();
        for entry in fs::read_dir(self.path("front")).unwrap() {
            let path = entry.unwrap().path();
            chown(path, owner, owner).unwrap();
        }
        let program = self.program("front", &configuration);
        let limit = builder
            .descriptors
            .map(|number| format!("--nofile={number}"));
        self.front_uid = builder.front_uid;
        self.front_starter = builder.front_starter;
        self.front_command = limit
            .into_iter()
            .flat_map(|limit| ["prlimit".to_owned(), limit, "--".to_owned()])
            .chain(program)
            .collect();
        if builder.takes_sockets {
            self.pass_sockets();
        }
        self.launch_front();
    }

    /// Has a manager listen, which executes the front as its user at the first connection.
    fn pass_sockets(&mut self) {
        let id = self.front_uid.to_string();
        let sockets = [
            self.imap_privileged().to_string(),
            self.front_admin().to_string(),
            self.front_socket().display().to_string(),
        ];
        let mut command = vec!["systemd-socket-activate".to_owned()];
        for socket in sockets {
            command.extend(["-l".to_owned(), socket]);
        }
        let user = [
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "--",
        ];
        command.extend(user.map(str::to_owned));
        command.append(&mut self.front_command);
        self.front_command = command;
        self.front_starter = 0;
    }

    /// Passes the front a socket that it has no use for; where that is.
    pub(crate) fn pass_useless_socket(&mut self) -> SocketAddr {
        let address = SocketAddr::from((self.ip, 4711));
        let more = ["-l".to_owned(), address.to_string()];
        self.front_command.splice(1..1, more);
        address
    }

    fn launch_front(&mut self) {
        let id = self.front_starter.to_string();
        let command: Vec<&str> = self.front_command.iter().map(String::as_str).collect();
        let rights = ["--reuid", &id, "--regid", &id, "--clear-groups"];
        let mut front = Process::start_as("front", &self.path("logs"), &rights, &command);
        wait_until_ready(&mut front, self.front_admin());
        self.front = Some(front);
    }

    /// Ends the front and starts it once more, when something keeps it from starting: its exit code, and what it says.
    pub(crate) fn start_front_in_vain(&mut self) -> (Option<i32>, String) {
        self.front().stop();
        let before = self.front_log().len();
        let command: Vec<&str> = self.front_command.iter().map(String::as_str).collect();
        let id = self.front_starter.to_string();
        let rights = ["--reuid", &id, "--regid", &id, "--clear-groups"];
        let mut front = Process::start_as("front", &self.path("logs"), &rights, &command);
        let code = front.exit_code();
        (code, self.front_log().split_off(before))
    }

    /// Runs a command as the front's user and with its configuration: its exit code, and what it wrote.
    pub(crate) fn ask(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let configuration = self.text("front/pigeonair.toml");
        let arguments = [arguments, &["--config", &configuration]].concat();
        self.ask_as(self.front_uid, &arguments)
    }

    /// Runs a command as anybody, with nothing but its arguments.
    pub(crate) fn ask_as(&self, uid: u32, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(self.path("bin/pigeonair"))
            .args(arguments)
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let [out, notes] =
            [output.stdout, output.stderr].map(|octets| String::from_utf8(octets).unwrap());
        (output.status.code(), out, notes)
    }

    fn program(&self, process: &str, configuration: &Path) -> [String; 5] {
        [
            self.text("bin/pigeonair"),
            "run".to_owned(),
            process.to_owned(),
            "--config".to_owned(),
            configuration.to_str().unwrap().to_owned(),
        ]
    }

    fn proxy_toml(&self, builder: &Builder) -> String {
        let dir = self.text("front");
        let delay = if builder.proxy.contains("failure_delay") {
            ""
        } else {
            "failure_delay = \"300ms\"\n"
        };
        let mut text = format!(
            "[log]\nlevel = \"debug\"\n\n\
             [admin]\nfront = \"{}:9143\"\nfront_socket = \"{dir}/front.sock\"\n\n\
             [process]\nfront_upgrade_socket = \"{dir}/upgrade.sock\"\n{}\n\
             [proxy]\n{delay}{}\n\
             [proxy.tls]\ncertificate = \"{dir}/server.pem\"\nkey = \"{dir}/server.key\"\n{}\n",
            self.ip, builder.process, builder.proxy, builder.tls,
        );
        for (address, protocol, more) in [
            (self.imap(), "imap", ""),
            (self.imap_private(), "imap", "cleartext = \"never\"\n"),
            (self.imap_plain(), "imap", "tls = \"off\"\n"),
            (self.imaps(), "imap", "tls = \"implicit\"\n"),
            (self.pop3(), "pop3", ""),
            (self.pop3_private(), "pop3", "cleartext = \"never\"\n"),
            (self.pop3_plain(), "pop3", "tls = \"off\"\n"),
            (self.pop3s(), "pop3", "tls = \"implicit\"\n"),
            (self.imap_privileged(), "imap", "cleartext = \"always\"\n"),
        ] {
            if address.port() < 1024 && !builder.takes_sockets {
                continue;
            }
            write!(
                text,
                "[[proxy.listen]]\naddress = \"{address}\"\nprotocol = \"{protocol}\"\n{more}\n"
            )
            .unwrap();
        }
        text + &fill(&builder.listeners, &[("IP", &self.ip.to_string())])
    }

    fn directory_toml(&self, builder: &Builder) -> String {
        let dir = self.text("front");
        let Some(slapd) = &self.slapd else {
            let accounts = self.text("front/accounts.toml");
            write_private(Path::new(&accounts), &accounts_toml(&builder.users));
            return format!(
                "[directory]\nkind = \"file\"\ndomains = [\"example.org\"]\n\n[directory.file]\npath = \"{accounts}\"\n\n"
            );
        };
        let password = format!("{dir}/ldap.password");
        write_private(Path::new(&password), slapd::SERVICE_PASSWORD);
        let ca_file = format!("\nca_file = \"{dir}/ca.pem\"");
        let uri = match builder.ldap {
            Ldap::Plain => format!("\"{}\"", slapd.uri()),
            Ldap::StartTls => format!("\"{}\"\nstart_tls = true{ca_file}", slapd.uri()),
            Ldap::Tls => format!("\"{}\"{ca_file}", slapd.tls_uri()),
        };
        let timeout = if builder.directory.contains("timeout") {
            ""
        } else {
            "timeout = \"3s\"\n"
        };
        format!(
            "[directory]\nkind = \"ldap\"\n\n\
             [directory.ldap]\nuri = {uri}\nbind_dn = \"cn=pigeonair,ou=services,dc=example,dc=org\"\n\
             bind_password_file = \"{password}\"\nbase = \"ou=people,dc=example,dc=org\"\n{timeout}{}\n\
             [directory.ldap.attributes]\nstatus = \"employeeType\"\n\n",
            builder.directory,
        )
    }

    // --- at the end

    /// Passwords as they are, as `Debug` would print them, and as SASL sends them.
    fn look_for_secrets(&self) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let plain = self
            .users
            .iter()
            .map(|user| STANDARD.encode(format!("\0{}\0{}", user.name, user.password)));
        let encoded = self
            .users
            .iter()
            .map(|user| STANDARD.encode(&user.password));
        let printed = self.users.iter().map(|user| {
            let debug = format!("{:?}", user.password);
            debug.trim_matches('"').to_owned()
        });
        let secrets: Vec<String> = plain
            .chain(encoded)
            .chain(printed)
            .chain(self.secrets.iter().cloned())
            // What is shorter is in some log by chance.
            .filter(|secret| secret.len() > 4)
            .collect();
        for (path, text) in logs(&self.path("logs")) {
            for secret in &secrets {
                assert!(
                    !text.contains(secret.as_str()),
                    "{secret:?} is in {}",
                    path.display()
                );
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // In the order in which connections are made, so that the logs end with ends.
        drop(self.postfix.take());
        drop(self.front.take());
        self.nodes.clear();
        drop(self.slapd.take());
        if thread::panicking() {
            show_logs(&self.path("logs"));
        } else {
            self.look_for_secrets();
        }
    }
}

/// The sections of the sample, for where tests/unpack-packages has put Courier.
fn courier() -> String {
    adapt(
        include_str!("../../../config/courier/exec.toml"),
        &[("/usr/", "/usr/local/lib/pigeonair-tests/courier/usr/")],
    )
}

pub(crate) fn accounts_toml(users: &[User]) -> String {
    users
        .iter()
        .map(|user| {
            format!(
                "[[account]]\nname = {:?}\naliases = [\"{}@example.org\"]\npassword = {:?}\nuid = {uid}\ngid = {uid}\n\
                 home = {:?}\nstatus = {:?}\n\n",
                user.name,
                user.name,
                user.stored
                    .clone()
                    .unwrap_or_else(|| scheme(&user.password)),
                user.home,
                user.status,
                uid = user.uid,
            )
        })
        .collect()
}

/// A password as a directory keeps it: {SSHA256}, which costs nothing to verify.
fn scheme(password: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use sha2::{Digest as _, Sha256};
    let salt = b"salt of a test";
    let digest = Sha256::new()
        .chain_update(password)
        .chain_update(salt)
        .finalize();
    format!(
        "{{SSHA256}}{}",
        STANDARD.encode([&digest[..], salt].concat())
    )
}

fn wait_until_ready(process: &mut Process, admin: SocketAddr) {
    eventually(&format!("http://{admin}/readyz says yes"), || {
        assert!(process.lives(), "ended at once: {}", process.log());
        http_status(admin, "/readyz").is_some_and(|status| status == 200)
    });
}

/// The status that a GET comes back with, if anything does.
pub(crate) fn http_status(address: SocketAddr, path: &str) -> Option<u16> {
    let response = http_get(address, path)?;
    response.split(' ').nth(1)?.parse().ok()
}

/// The value of a line of `/metrics`.
pub(crate) fn metric(admin: SocketAddr, line: &str) -> Option<f64> {
    http_get(admin, "/metrics")?
        .lines()
        .find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

/// The sum of all lines of `/metrics` of a name that have this label.
pub(crate) fn metric_sum(admin: SocketAddr, name: &str, label: &str) -> f64 {
    let response = http_get(admin, "/metrics").unwrap_or_default();
    let lines = response.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.split_once("} ")?;
        labels.contains(label).then(|| value.trim().parse::<f64>())
    });
    lines.map(Result::unwrap).sum()
}

/// A whole response, head and body.
pub(crate) fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    Some(response)
}
