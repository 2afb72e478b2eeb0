//! The servers: both ways, each with its proxy and its server.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use super::{
    super::{processes::Program, world},
    Way,
    load::Load,
};

/// Who gets all the mail, everywhere.
const USER: &str = "bench@example.org";
const UID: u32 = 20001;
const KEY: &str = "4f1c0d7e9b2a6853c4f1e0d79b2a68534f1c0d7e9b2a6853c4f1e0d79b2a6853";

/// All servers, running.
pub(crate) struct Setup {
    dovecot: [Program; 2],
    pigeonair: [Program; 3],
    dir: tempfile::TempDir,
}

/// Ports, all on loopback.
const DOVECOT_PROXY: u16 = 21024;
const DOVECOT_SERVER: u16 = 21025;
const FRONT_PLAIN: u16 = 21026;
const FRONT_TLS: u16 = 21027;
const LINK_PLAIN: u16 = 21028;
const LINK_TLS: u16 = 21029;

impl Setup {
    /// Starts them and waits until they listen.
    pub(crate) fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "needs root");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| folder(dir.path(), name);
        let setup = Self {
            dovecot: [dovecot_server(&at("dovecot")), dovecot_proxy(&at("proxy"))],
            pigeonair: [
                node(&at("node")),
                front(&at("plain"), FRONT_PLAIN, LINK_PLAIN, false),
                front(&at("tls"), FRONT_TLS, LINK_TLS, true),
            ],
            dir,
        };
        for port in [
            DOVECOT_SERVER,
            DOVECOT_PROXY,
            FRONT_PLAIN,
            FRONT_TLS,
            LINK_PLAIN,
            LINK_TLS,
        ] {
            wait_for(port, setup.dir.path());
        }
        setup
    }

    /// The ways along them.
    pub(crate) fn ways(&self) -> Vec<Way> {
        let [server, proxy] = &self.dovecot;
        let [node, plain, tls] = &self.pigeonair;
        let load = |port| Load::connect(address(port), USER);
        vec![
            Way::new(
                "Dovecot",
                proxy.group(),
                server.group(),
                load(DOVECOT_PROXY),
            ),
            Way::new(
                "PigeonAir, link plain",
                plain.group(),
                node.group(),
                load(FRONT_PLAIN),
            ),
            Way::new(
                "PigeonAir, link TLS",
                tls.group(),
                node.group(),
                load(FRONT_TLS),
            ),
        ]
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn folder(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

fn wait_for(port: u16, dir: &Path) {
    let mut logs = Vec::new();
    for name in ["dovecot", "proxy", "node", "plain", "tls"] {
        logs.extend(["log", "dovecot.log"].map(|file| dir.join(name).join(file)));
    }
    let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
    world::wait_for(address(port), &logs);
}

/// What both Dovecots have.
fn dovecot(dir: &Path, port: u16, passwd: &str, lines: &str) -> Program {
    let passwd_file = dir.join("passwd");
    fs::write(&passwd_file, passwd).unwrap();
    fs::set_permissions(&passwd_file, fs::Permissions::from_mode(0o644)).unwrap();
    let configuration = dir.join("dovecot.conf");
    let shown = dir.display();
    let text = format!(
        "base_dir = {shown}/run\nstate_dir = {shown}/run\nlog_path = {shown}/dovecot.log\n\
         protocols = lmtp\nlisten = 127.0.0.1\nssl = no\ndefault_vsz_limit = 512M\n\
         auth_cache_size = 10M\nmail_location = maildir:~/Maildir\n\
         service lmtp {{\n  process_min_avail = 1\n  inet_listener lmtp {{\n    port = {port}\n  }}\n}}\n\
         passdb {{\n  driver = passwd-file\n  args = {shown}/passwd\n}}\n{lines}\n"
    );
    fs::write(&configuration, text).unwrap();
    let arguments = ["dovecot", "-F", "-c", configuration.to_str().unwrap()];
    Program::start(&arguments, &dir.join("log"))
}

fn dovecot_server(dir: &Path) -> Program {
    let home = folder(dir, "home");
    chown(&home, Some(UID), Some(UID)).unwrap();
    let passwd = format!("{USER}:{{PLAIN}}x:{UID}:{UID}::{}::\n", home.display());
    let userdb = format!(
        "userdb {{\n  driver = passwd-file\n  args = {}/passwd\n}}",
        dir.display()
    );
    dovecot(dir, DOVECOT_SERVER, &passwd, &userdb)
}

fn dovecot_proxy(dir: &Path) -> Program {
    let passwd = format!(
        "{USER}:{{PLAIN}}x::::::nopassword=y proxy=y host=127.0.0.1 port={DOVECOT_SERVER}\n"
    );
    dovecot(dir, DOVECOT_PROXY, &passwd, "lmtp_proxy = yes")
}

fn pigeonair(dir: &Path, role: &str, text: &str) -> Program {
    let configuration = dir.join("pigeonair.toml");
    fs::write(&configuration, text).unwrap();
    let arguments = [
        env!("CARGO_BIN_EXE_pigeonair"),
        "run",
        role,
        "--config",
        configuration.to_str().unwrap(),
    ];
    Program::start(&arguments, &dir.join("log"))
}

/// A key file, as both sides need one.
fn key(dir: &Path) -> String {
    let path = dir.join("link.key");
    fs::write(&path, format!("{KEY}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn node(dir: &Path) -> Program {
    let key = key(dir);
    let home = folder(dir, "home");
    let (home, dir_text) = (home.display(), dir.display());
    let text = format!(
        "[log]\nlevel = \"info\"\n\n[admin]\nnode = \"off\"\n\n\
         [acceptor]\nname = \"n1\"\nhome_root = \"{home}\"\nsessions_file = \"{dir_text}/sessions\"\n\n\
         [[acceptor.listen]]\naddress = \"127.0.0.1:{LINK_PLAIN}\"\ntls = false\n\n\
         [[acceptor.listen]]\naddress = \"127.0.0.1:{LINK_TLS}\"\n\n\
         [[acceptor.key]]\nid = \"front\"\nfile = \"{key}\"\n\n\
         [mailstore]\nkind = \"maildir\"\n"
    );
    pigeonair(dir, "node", &text)
}

fn front(dir: &Path, port: u16, link: u16, tls: bool) -> Program {
    let key = key(dir);
    let accounts = dir.join("accounts.toml");
    let account = format!(
        "[[account]]\nname = \"{USER}\"\npassword = \"{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\"\nuid = {UID}\ngid = {UID}\n"
    );
    fs::write(&accounts, account).unwrap();
    fs::set_permissions(&accounts, fs::Permissions::from_mode(0o600)).unwrap();
    let accounts = accounts.display();
    let text = format!(
        "[log]\nlevel = \"info\"\n\n[admin]\nfront = \"off\"\n\n\
         [delivery]\n\n[[delivery.listen]]\naddress = \"127.0.0.1:{port}\"\n\n\
         [directory]\nkind = \"file\"\n\n[directory.file]\npath = \"{accounts}\"\n\n\
         [nodes]\ndefault = \"n1\"\n\n[[nodes.node]]\nname = \"n1\"\naddress = \"127.0.0.1:{link}\"\n\
         key_id = \"front\"\nkey_file = \"{key}\"\ntls = {tls}\n"
    );
    pigeonair(dir, "front", &text)
}
