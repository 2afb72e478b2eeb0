//! PigeonAir: a front, and an acceptor for each Dovecot, per row of the tables.
//!
//! A row differs from the next in one thing: how the acceptor hands sessions over, whether the link is under TLS, whether the
//! front remembers accounts. All else stands at its default, the log included: one line per session, to a file.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use super::{
    lanes::Lookup,
    processes::Program,
    way::{IMAP, IMAPS, POP3, POP3S, Way},
    world::{
        LDAP_IP, LDAP_PORT, MASTER_PASSWORD, MASTER_USER, Node, PEOPLE, SERVICE_DN,
        SERVICE_PASSWORD, World, wait_for,
    },
};

const KEY: &str = "4f1c0d7e9b2a6853c4f1e0d79b2a68534f1c0d7e9b2a6853c4f1e0d79b2a6853";

/// Where acceptors listen, on the address of their row.
const LINKS: u16 = 17_143;

/// How sessions are handed to Dovecot. POP3 is by `login` where there is no other way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Exec,
    ImapMaster,
    Login,
}

/// What a row is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) link_tls: bool,
    /// How the front learns who somebody is.
    pub(crate) lookup: Lookup,
}

/// The rows, in the order of the tables; the last part of the address that each has is its place here.
pub(crate) const ROWS: [Row; 8] = [
    Row {
        name: "PigeonAir, login, search and bind every time",
        kind: Kind::Login,
        link_tls: false,
        lookup: Lookup::SearchAndBind,
    },
    Row {
        name: "PigeonAir, login, a search every time",
        kind: Kind::Login,
        link_tls: false,
        lookup: Lookup::Search,
    },
    Row {
        name: "PigeonAir, login",
        kind: Kind::Login,
        link_tls: false,
        lookup: Lookup::Cached,
    },
    Row {
        name: "PigeonAir, login, link TLS",
        kind: Kind::Login,
        link_tls: true,
        lookup: Lookup::Cached,
    },
    Row {
        name: "PigeonAir, dovecot-imap-master, a search every time",
        kind: Kind::ImapMaster,
        link_tls: false,
        lookup: Lookup::Search,
    },
    Row {
        name: "PigeonAir, dovecot-imap-master",
        kind: Kind::ImapMaster,
        link_tls: false,
        lookup: Lookup::Cached,
    },
    Row {
        name: "PigeonAir, exec",
        kind: Kind::Exec,
        link_tls: false,
        lookup: Lookup::Cached,
    },
    Row {
        name: "PigeonAir, exec, link TLS",
        kind: Kind::Exec,
        link_tls: true,
        lookup: Lookup::Cached,
    },
];

/// A front and its acceptors, running.
pub(crate) struct Ours {
    _programs: Vec<Program>,
    pub(crate) way: Way,
}

impl Ours {
    /// Starts those of a row and waits until they serve.
    pub(crate) fn start(world: &World, row: Row) -> Self {
        let place = ROWS.iter().position(|other| other.name == row.name);
        let ip = Ipv4Addr::new(127, 0, 3, 1 + u8::try_from(place.unwrap()).unwrap());
        let dir = world.folder(&format!("row-{}", ip.octets()[3]));
        let mut programs = Vec::new();
        for (index, node) in world.nodes.iter().enumerate() {
            let dir = dir.join(node.name);
            fs::create_dir(&dir).unwrap();
            let program = acceptor(&dir, node, link(ip, index), row);
            wait_for(link(ip, index), &[&dir.join("log")]);
            programs.push(program);
        }
        let acceptors = programs.iter().map(Program::group).collect();
        let dir = dir.join("front");
        fs::create_dir(&dir).unwrap();
        let front = front(world, &dir, ip, row);
        wait_for(SocketAddr::new(IpAddr::V4(ip), POP3S), &[&dir.join("log")]);
        let proxy = vec![front.group()];
        programs.push(front);
        Self {
            _programs: programs,
            way: Way {
                name: row.name,
                ip,
                proxy,
                acceptors,
            },
        }
    }
}

fn link(ip: Ipv4Addr, index: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ip), LINKS + u16::try_from(index).unwrap())
}

/// Writes a file that only its owner may read; its path.
fn private(dir: &Path, name: &str, content: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn pigeonair(dir: &Path, role: &str, text: &str) -> Program {
    let configuration = dir.join("pigeonair.toml");
    fs::write(&configuration, text).unwrap();
    let program = env!("CARGO_BIN_EXE_pigeonair");
    let configuration = configuration.to_str().unwrap();
    // What a service has by default and may have at most are far apart; the front raises its own.
    let arguments = [
        "prlimit",
        "--nofile=1024:20000",
        "--",
        program,
        "run",
        role,
        "--config",
        configuration,
    ];
    Program::start(&arguments, &dir.join("log"))
}

fn acceptor(dir: &Path, node: &Node, listen: SocketAddr, row: Row) -> Program {
    let key = private(dir, "link.key", &format!("{KEY}\n"));
    let home_root = node.home_root.display();
    let mut text = format!(
        "[admin]\nnode = \"off\"\n\n\
         [acceptor]\nname = \"{}\"\nhome_root = \"{home_root}\"\nsessions_file = \"{}/sessions\"\n\
         sessions_per_account = 0\n\n\
         [[acceptor.listen]]\naddress = \"{listen}\"\ntls = {}\n\n\
         [[acceptor.key]]\nid = \"front\"\nfile = \"{key}\"\n",
        node.name,
        dir.display(),
        row.link_tls
    );
    match row.kind {
        Kind::Exec => text += &format!("\n{}", exec_sections(&node.exec_conf)),
        Kind::ImapMaster => {
            let socket = node.imap_master.display();
            let _ = write!(
                text,
                "\n[acceptor.imap]\nkind = \"dovecot-imap-master\"\nsocket = \"{socket}\"\n"
            );
            text += &login_section(dir, "pop3", SocketAddr::new(IpAddr::V4(node.ip), POP3));
        }
        Kind::Login => {
            for (protocol, port) in [("imap", IMAP), ("pop3", POP3)] {
                text += &login_section(dir, protocol, SocketAddr::new(IpAddr::V4(node.ip), port));
            }
        }
    }
    pigeonair(dir, "node", &text)
}

fn login_section(dir: &Path, protocol: &str, server: SocketAddr) -> String {
    let password = private(dir, "master.password", &format!("{MASTER_PASSWORD}\n"));
    format!(
        "\n[acceptor.{protocol}]\nkind = \"login\"\nserver = \"{server}\"\nmaster_user = \"{MASTER_USER}\"\n\
         master_password_file = \"{password}\"\n"
    )
}

/// What the sample's head says.
fn exec_sections(conf: &Path) -> String {
    include_str!("../../config/dovecot/exec.conf")
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .replace("/etc/dovecot/exec.conf", conf.to_str().unwrap())
}

fn front(world: &World, dir: &Path, ip: Ipv4Addr, row: Row) -> Program {
    let key = private(dir, "link.key", &format!("{KEY}\n"));
    let password = private(dir, "ldap.password", &format!("{SERVICE_PASSWORD}\n"));
    let (certificate, certificate_key) = world.certificate();
    let certificate_key = private(
        dir,
        "tls.key",
        &fs::read_to_string(certificate_key).unwrap(),
    );
    let mut text = format!(
        "[admin]\nfront = \"off\"\n\n[proxy]\n\n\
         [proxy.tls]\ncertificate = \"{}\"\nkey = \"{certificate_key}\"\n\n",
        certificate.display()
    );
    for (port, protocol, tls) in [
        (IMAP, "imap", "off"),
        (IMAPS, "imap", "implicit"),
        (POP3, "pop3", "off"),
        (POP3S, "pop3", "implicit"),
    ] {
        let _ = write!(
            text,
            "[[proxy.listen]]\naddress = \"{ip}:{port}\"\nprotocol = \"{protocol}\"\ntls = \"{tls}\"\ncleartext = \"always\"\n\n"
        );
    }
    let _ = write!(
        text,
        "[directory]\nkind = \"ldap\"\n\n[directory.ldap]\nuri = \"ldap://{LDAP_IP}:{LDAP_PORT}\"\n\
         bind_dn = \"{SERVICE_DN}\"\nbind_password_file = \"{password}\"\nbase = \"{PEOPLE}\"\nverify = \"{}\"\n\n\
         [directory.cache]\n{}\n\n[nodes]\n",
        if row.lookup == Lookup::Search {
            "hash"
        } else {
            "bind"
        },
        // Longer than a run takes, so that a warmed account stays so.
        if row.lookup == Lookup::Cached {
            "ttl = \"1h\""
        } else {
            "entries = 0"
        }
    );
    for (index, node) in world.nodes.iter().enumerate() {
        let _ = write!(
            text,
            "\n[[nodes.node]]\nname = \"{}\"\nhosts = [\"{}\"]\naddress = \"{}\"\nkey_id = \"front\"\nkey_file = \"{key}\"\ntls = {}\n",
            node.name,
            node.ip,
            link(ip, index),
            row.link_tls
        );
    }
    pigeonair(dir, "front", &text)
}
