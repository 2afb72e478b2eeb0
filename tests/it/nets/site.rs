//! Machines in two networks with a router between them, and what runs on them, by the samples in `config/`.
//!
//! ```text
//! clients 198.51.100.0/24 --- router --- servers 10.77.0.0/24: ldap, proxy1, proxy2, node1, node2, ...
//! ```
//!
//! Configurations are the samples with nothing changed but what is each site's own: names, addresses, passwords. A failed test shows
//! the end of every log.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    thread,
};

use rustls::ClientConfig;
use tempfile::TempDir;

use super::machine::{Machine, UID};
use crate::{
    client::{Client, Method},
    lab::{Process, User, adapt, eventually, fill, group, http_status, logs, show_logs, tls},
};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const MASTER_PASSWORD: &str = "password-of-the-acceptor";
pub(super) const SERVICE_PASSWORD: &str = "password-of-the-service";
pub(super) const ADMIN_PASSWORD: &str = "password of the admin";
/// What all certificates here are for.
const NAMES: [&str; 4] = [
    "localhost",
    "mail.example.org",
    "ldap.example.org",
    "ldap2.example.org",
];
/// Who may dial the nodes, whether they are there yet or not.
const PROXIES: [&str; 5] = ["proxy1", "proxy2", "proxy3", "node1", "node2"];

/// Which of the two networks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Clients,
    Servers,
}

impl Side {
    pub(super) fn address(self, last: u8) -> Ipv4Addr {
        match self {
            Self::Clients => Ipv4Addr::new(198, 51, 100, last),
            Self::Servers => Ipv4Addr::new(10, 77, 0, last),
        }
    }

    fn card(self) -> &'static str {
        match self {
            Self::Clients => "02:00:00:00:00:01",
            Self::Servers => "02:00:00:00:00:02",
        }
    }

    fn bridge(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Servers => "servers",
        }
    }
}

/// Machines and what runs on them.
#[derive(Debug)]
pub(super) struct Site {
    /// By name, as `front-proxy1`; ended before their machines.
    running: BTreeMap<String, Process>,
    machines: BTreeMap<String, Machine>,
    pub(super) trust: Arc<ClientConfig>,
    dir: TempDir,
}

impl Site {
    /// The two networks and their router, `ROUTER`.
    pub(super) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they make name spaces"
        );
        let dir = tempfile::Builder::new()
            .prefix("pigeonair-nets.")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        for folder in ["bin", "certificates", "logs", "machines", "tmp"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let program = dir.path().join("bin/pigeonair");
        fs::copy(env!("CARGO_BIN_EXE_pigeonair"), program).unwrap();
        let names = NAMES.map(str::to_owned).to_vec();
        let mut site = Self {
            running: BTreeMap::new(),
            machines: BTreeMap::new(),
            trust: tls::write_for(&dir.path().join("certificates"), names),
            dir,
        };
        let router = site.make("router", Side::Servers.address(1));
        for side in [Side::Clients, Side::Servers] {
            // Without an address of its own it has the lowest of its ports', another one whenever a machine is added.
            let card = side.card();
            let bridge = side.bridge();
            let address = side.address(1);
            router.run(&format!(
                "ip link add {bridge} address {card} type bridge
                ip address add {address}/24 dev {bridge}
                ip link set {bridge} up"
            ));
        }
        router.run("echo 1 >/proc/sys/net/ipv4/ip_forward");
        site.machines.insert(router.name.clone(), router);
        site
    }

    /// A machine with an address in one of the networks.
    pub(super) fn add(&mut self, name: &str, side: Side, last: u8) -> &Machine {
        let machine = self.make(name, side.address(last));
        let (bridge, id) = (side.bridge(), machine.id());
        self.machine("router").run(&format!(
            "ip link add to-{name} type veth peer name eth0 netns {id}
            ip link set to-{name} master {bridge} up"
        ));
        machine.run(&format!(
            "ip address add {}/24 dev eth0
            ip link set eth0 up
            ip route add default via {}",
            machine.address,
            side.address(1)
        ));
        self.machines.insert(name.to_owned(), machine);
        self.machine(name)
    }

    fn make(&self, name: &str, address: Ipv4Addr) -> Machine {
        let [machines, logs] = ["machines", "logs"].map(|folder| self.path(folder));
        let machine = Machine::new(name, address, &machines, &logs);
        let mut hosts = String::from("127.0.0.1 localhost\n");
        for (name, last) in [
            ("ldap", 5),
            ("ldap2", 6),
            ("ldap2", 6),
            ("node1", 21),
            ("node2", 22),
            ("node3", 23),
        ] {
            let address = Side::Servers.address(last);
            writeln!(hosts, "{address} {name}.example.org {name}").unwrap();
        }
        machine.write("/etc/hosts", 0o644, None, &hosts);
        // Only the site's own authority is trusted here.
        let authority = fs::read_to_string(self.path("certificates/ca.pem")).unwrap();
        let bundle = "/etc/ssl/certs/ca-certificates.crt";
        machine.write(bundle, 0o644, None, &authority);
        machine
    }

    pub(super) fn machine(&self, name: &str) -> &Machine {
        &self.machines[name]
    }

    pub(super) fn has(&self, machine: &str) -> bool {
        self.machines.contains_key(machine)
    }

    /// A program that runs, as `front-proxy1`.
    pub(super) fn process(&mut self, name: &str) -> &mut Process {
        self.running.get_mut(name).unwrap()
    }

    /// Ends a program.
    pub(super) fn stop(&mut self, name: &str) {
        self.running.remove(name);
    }

    pub(super) fn running(&self, name: &str) -> Option<&Process> {
        self.running.get(name)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, from outside and inside.
    pub(super) fn program(&self) -> String {
        self.path("bin/pigeonair").to_str().unwrap().to_owned()
    }

    /// Starts a program on a machine.
    pub(super) fn start(&mut self, machine: &str, name: &str, arguments: &[&str]) {
        let process = self.machines[machine].start(name, arguments);
        self.running.insert(format!("{name}-{machine}"), process);
    }

    // --- LDAP

    /// Starts slapd with these people on a machine of its own.
    pub(super) fn start_ldap(&mut self, people: &[User]) {
        let configuration = fill(
            include_str!("../../../demo/slapd.conf"),
            &[
                ("DIR", "/var/lib/ldap-test"),
                ("BASE", "dc=example,dc=org"),
                ("ADMIN_DN", "cn=admin,dc=example,dc=org"),
                ("ADMIN_PASSWORD", &format!("\"{ADMIN_PASSWORD}\"")),
                ("HASH_READERS", "cn=pigeonair,ou=services,dc=example,dc=org"),
            ],
        );
        let tls = "TLSCertificateFile /etc/ldap/tls/fullchain.pem\nTLSCertificateKeyFile /etc/ldap/tls/privkey.pem";
        let configuration = adapt(
            &configuration,
            &[("database mdb", &format!("{tls}\n\ndatabase mdb"))],
        );
        self.start_ldap_as("ldap", 5, &configuration);
        self.fill_directory(people);
    }

    /// Starts slapd with this configuration on a machine of its own; its database is empty.
    pub(super) fn start_ldap_as(&mut self, name: &str, last: u8, configuration: &str) {
        let machine = self.add(name, Side::Servers, last);
        machine.run("mkdir -p /var/lib/ldap-test/data /var/lib/ldap/example.org /run/slapd");
        self.install_certificate(name, "/etc/ldap/tls", 0);
        let path = "/etc/ldap/slapd.conf";
        self.machine(name).write(path, 0o600, None, configuration);
        self.launch_slapd(name);
    }

    /// Adds the tree and these people.
    pub(super) fn fill_directory(&self, people: &[User]) {
        let tree = fill(
            include_str!("../../../demo/tree.ldif"),
            &[("SERVICE_PASSWORD", SERVICE_PASSWORD)],
        );
        self.change_directory("ldapadd", &tree);
        for user in people {
            self.add_account(user);
        }
    }

    pub(super) fn add_account(&self, user: &User) {
        self.change_directory("ldapadd", &entry(user));
    }

    /// Starts slapd, or starts it once more.
    pub(super) fn launch_slapd(&mut self, name: &str) {
        let path = "/etc/ldap/slapd.conf";
        let command = ["slapd", "-d", "stats", "-f", path, "-h", "ldap://"];
        self.start(name, "slapd", &command);
        let machine = self.machine(name);
        let address = machine.port(389);
        eventually("slapd listens", || machine.connect(address).is_ok());
    }

    /// Has the directory changed as an administrator would.
    pub(super) fn change_directory(&self, command: &str, ldif: &str) {
        let ldap = self.machine("ldap");
        ldap.write("/etc/ldap/change.ldif", 0o600, None, ldif);
        ldap.run(&format!(
            "{command} -x -H ldap://127.0.0.1 -D cn=admin,dc=example,dc=org -w '{ADMIN_PASSWORD}' -f /etc/ldap/change.ldif"
        ));
    }

    /// Says where an account's home is from now on.
    pub(super) fn move_home(&self, user: &User, node: &str) {
        let dn = format!("uid={},ou=people,dc=example,dc=org", user.name);
        let change = format!("dn: {dn}\nchangetype: modify\nreplace: mailHost\nmailHost: {node}\n");
        self.change_directory("ldapmodify", &change);
    }

    // --- nodes

    /// Makes a machine a storage node by `config/node.toml` and `config/dovecot`: Dovecot and the acceptor run.
    pub(super) fn start_node(&mut self, name: &str) {
        self.start_dovecot(name);
        let text = node_toml(name);
        self.install_keys(name, &PROXIES);
        self.machine(name)
            .write("/etc/pigeonair/node.toml", 0o644, None, &text);
        self.run_node(name);
    }

    /// The acceptor, by a configuration that is there.
    pub(super) fn run_node(&mut self, name: &str) {
        let program = self.program();
        let command = [
            &program,
            "run",
            "node",
            "--config",
            "/etc/pigeonair/node.toml",
        ];
        self.start(name, "node", &command);
        self.wait_until_ready("node", name, SocketAddr::from(([127, 0, 0, 1], 9144)));
    }

    /// Keys that the node knows fronts by, and its master password.
    pub(super) fn install_keys(&self, name: &str, keys: &[&str]) {
        let machine = self.machine(name);
        for key in keys {
            let path = format!("/etc/pigeonair/{key}.key");
            machine.write(&path, 0o640, Some(UID), &format!("{KEY}\n"));
        }
        machine.write(
            "/etc/pigeonair/master.password",
            0o600,
            None,
            MASTER_PASSWORD,
        );
    }

    /// Debian's Dovecot, as the heads of the files in `config/dovecot` say: for sessions and mail, its users in LDAP.
    fn start_dovecot(&mut self, name: &str) {
        let machine = self.machine(name);
        let lmtp = include_str!("../../../config/dovecot/lmtp.conf");
        let path = "/etc/dovecot/conf.d/99-pigeonair-store-lmtp.conf";
        machine.write(path, 0o644, None, lmtp);
        let users = adapt(
            include_str!("../../../config/dovecot/users-ldap.conf.ext"),
            &[("dnpass = secret", &format!("dnpass = {SERVICE_PASSWORD}"))],
        );
        let dovecot = Some(group("dovecot"));
        machine.write("/etc/dovecot/users-ldap.conf.ext", 0o640, dovecot, &users);
        let users = include_str!("../../../config/dovecot/users-ldap.conf");
        self.run_dovecot(name, users, "");
        // What one file says of protocols, another that is read later must not undo.
        self.machine(name)
            .run("doveconf -h protocols | grep -w lmtp");
    }

    /// The same for sessions alone, which bring what it has to know of users.
    pub(super) fn start_dovecot_alone(&mut self, name: &str) {
        let users = include_str!("../../../config/dovecot/users-forwarded.conf");
        let line = users.lines().find(|line| line.contains("acceptor:"));
        let (_, forwarded) = line.unwrap().split_once("::::::").unwrap();
        self.run_dovecot(name, users, &format!("::::::{forwarded}"));
    }

    fn run_dovecot(&mut self, name: &str, users: &str, forwarded: &str) {
        let machine = self.machine(name);
        let login = include_str!("../../../config/dovecot/login.conf");
        for (snippet, text) in [("login", login), ("users", users)] {
            let path = format!("/etc/dovecot/conf.d/99-pigeonair-{snippet}.conf");
            machine.write(&path, 0o644, None, text);
        }
        machine.run(
            "sed -i 's/^!include auth-system.conf.ext/#&/' /etc/dovecot/conf.d/10-auth.conf
            sed -i 's/^mail_location = .*/mail_location = maildir:~\\/Maildir/' /etc/dovecot/conf.d/10-mail.conf
            echo 'log_path = /dev/stderr' >/etc/dovecot/local.conf",
        );
        let dovecot = Some(group("dovecot"));
        let acceptor = format!("acceptor:{{PLAIN}}{MASTER_PASSWORD}{forwarded}\n");
        machine.write("/etc/dovecot/acceptor.passwd", 0o640, dovecot, &acceptor);
        self.launch_dovecot(name);
    }

    /// Starts Dovecot as it is configured.
    pub(super) fn launch_dovecot(&mut self, name: &str) {
        self.start(name, "dovecot", &["dovecot", "-F"]);
        let machine = self.machine(name);
        let address = SocketAddr::from(([127, 0, 0, 1], 10143));
        eventually("Dovecot listens", || machine.connect(address).is_ok());
    }

    // --- fronts

    /// Makes a machine a proxy by `config/proxy.toml`, and starts it.
    pub(super) fn start_front(&mut self, name: &str) {
        let text = self.proxy_toml(name, "");
        self.install_front(name, &text);
        self.run_front(name);
    }

    /// The sample for this machine; `nodes` are further tables.
    pub(super) fn proxy_toml(&self, name: &str, nodes: &str) -> String {
        let address = self.machine(name).port(9143);
        let text = adapt(
            include_str!("../../../config/proxy.toml"),
            &[
                (
                    "#front = \"127.0.0.1:9143\"",
                    &format!("front = \"{address}\""),
                ),
                ("#drain_timeout = \"30s\"", "drain_timeout = \"1day\""),
                ("\"proxy1\"", &format!("\"{name}\"")),
                ("/proxy1.key", &format!("/{name}.key")),
            ],
        );
        text + nodes
    }

    /// Writes a front's configuration and all that it names.
    pub(super) fn install_front(&self, name: &str, text: &str) {
        let machine = self.machine(name);
        machine.write("/etc/pigeonair/front.toml", 0o644, None, text);
        let key = format!("/etc/pigeonair/{name}.key");
        machine.write(&key, 0o640, Some(UID), &format!("{KEY}\n"));
        machine.write(
            "/etc/pigeonair/ldap.password",
            0o640,
            Some(UID),
            SERVICE_PASSWORD,
        );
        self.install_certificate(name, "/etc/pigeonair/mail.example.org", UID);
        machine.run(
            "chown pigeonair: /run/pigeonair
            install -d -m 0700 -o pigeonair -g pigeonair /var/lib/pigeonair",
        );
    }

    pub(super) fn install_certificate(&self, name: &str, folder: &str, group: u32) {
        let machine = self.machine(name);
        machine.run(&format!("install -d -m 0755 {folder}"));
        for (file, here, mode) in [
            ("server.pem", "fullchain.pem", 0o644),
            ("server.key", "privkey.pem", 0o640),
        ] {
            let text = fs::read_to_string(self.path("certificates").join(file)).unwrap();
            let path = format!("{folder}/{here}");
            machine.write(&path, mode, Some(group), &text);
        }
    }

    /// Starts a front as its unit does, and waits until it is ready.
    pub(super) fn run_front(&mut self, name: &str) {
        let admin = self.machine(name).port(9143);
        self.run_front_at(name, admin);
    }

    /// The same where its monitors ask elsewhere than at the machine's address.
    pub(super) fn run_front_at(&mut self, name: &str, admin: SocketAddr) {
        let program = self.program();
        let command = [
            "setpriv",
            "--pdeathsig=TERM",
            "--reuid=pigeonair",
            "--regid=pigeonair",
            "--clear-groups",
            "--inh-caps=+net_bind_service",
            "--ambient-caps=+net_bind_service",
            "--",
            &program,
            "run",
            "front",
            "--config",
            "/etc/pigeonair/front.toml",
        ];
        self.start(name, "front", &command);
        self.wait_until_ready("front", name, admin);
    }

    fn wait_until_ready(&mut self, program: &str, name: &str, admin: SocketAddr) {
        let process = self.running.get_mut(&format!("{program}-{name}")).unwrap();
        let machine = &self.machines[name];
        eventually(&format!("{program} on {name} is ready"), || {
            assert!(process.lives(), "ended at once: {}", process.log());
            machine.inside(|| http_status(admin, "/readyz")) == Some(200)
        });
    }

    /// What the program's log on this machine says of connections from an address.
    pub(super) fn lines(&self, program: &str, machine: &str, words: &[&str]) -> Vec<String> {
        let log = self.machine(machine).log(program);
        log.lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .map(str::to_owned)
            .collect()
    }

    // --- clients

    /// A session with TLS from a machine, logged in.
    pub(super) fn session(&self, from: &str, address: SocketAddr, user: &User) -> Session {
        let tcp = self.machine(from).connect(address).unwrap();
        self.session_over(tcp, user)
    }

    /// The same over a connection that was made already.
    pub(super) fn session_over(&self, tcp: TcpStream, user: &User) -> Session {
        let here = tcp.local_addr().unwrap();
        let mut client = Client::tls_with(&self.trust, tcp);
        client
            .login(Method::PlainInitial, &user.name, &user.password)
            .ok();
        Session { client, here }
    }

    /// Which of these proxies has the connection from this address.
    pub(super) fn served_by<'n>(&self, proxies: &[&'n str], from: SocketAddr) -> &'n str {
        let mut found = proxies.iter().copied().filter(|name| {
            let connections = self.machine(name).run("ss -Htn state established");
            let from = from.to_string();
            connections.split_whitespace().any(|word| word == from)
        });
        let proxy = found.next().expect("some proxy has it");
        assert_eq!(found.next(), None, "two proxies have it");
        proxy
    }
}

/// A session that is logged in, and its client's address.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) here: SocketAddr,
}

impl Drop for Site {
    fn drop(&mut self) {
        // Fronts first, so that logs end with ends.
        self.running.retain(|name, _| !name.starts_with("front-"));
        self.running.clear();
        let folder = self.path("logs");
        if thread::panicking() {
            show_logs(&folder);
            return;
        }
        // Those of users begin with the last of these.
        let secrets = [
            KEY,
            MASTER_PASSWORD,
            SERVICE_PASSWORD,
            ADMIN_PASSWORD,
            "pass word of",
        ];
        for (path, text) in logs(&folder) {
            for secret in secrets {
                let path = path.display();
                assert!(!text.contains(secret), "{secret:?} is in {path}");
            }
        }
    }
}

/// `config/node.toml` for a node, with every key.
fn node_toml(name: &str) -> String {
    let text = adapt(
        include_str!("../../../config/node.toml"),
        &[("name = \"node1\"", &format!("name = \"{name}\""))],
    );
    let mut keys = String::new();
    for key in PROXIES.iter().filter(|key| **key != "proxy1") {
        let file = format!("/etc/pigeonair/{key}.key");
        write!(
            keys,
            "\n[[acceptor.key]]\nid = \"{key}\"\nfile = \"{file}\"\n"
        )
        .unwrap();
    }
    text + &keys
}

/// An account as a directory has it.
fn entry(user: &User) -> String {
    let (name, uid) = (&user.name, user.uid);
    format!(
        "dn: uid={name},ou=people,dc=example,dc=org\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n\
         objectClass: inetLocalMailRecipient\nuid: {name}\ncn: {name}\nsn: {name}\nmail: {name}@example.org\n\
         userPassword: {}\nmailHost: {}\nuidNumber: {uid}\ngidNumber: {uid}\nhomeDirectory: {}\n",
        user.password, user.node, user.home
    )
}
