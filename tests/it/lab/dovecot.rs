//! The real server of a node: Debian's Dovecot with the snippets of `config/dovecot/`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use super::{Process, adapt, fill, group, slapd::SERVICE_PASSWORD, wait_for_port};

/// A running Dovecot.
#[derive(Debug)]
pub(crate) struct Dovecot {
    pub(crate) process: Process,
    /// Where the master user may log in.
    pub(crate) address: SocketAddr,
    /// The same for POP3.
    pub(crate) pop3: SocketAddr,
    /// Where sockets are taken.
    pub(crate) imap_master: PathBuf,
    /// Where it takes mail, if it does.
    pub(crate) lmtp: PathBuf,
    name: String,
    configuration: PathBuf,
    logs: PathBuf,
}

/// Where Dovecot finds its users.
#[derive(Clone, Debug)]
pub(crate) enum Users {
    /// In this LDAP server.
    Ldap(String),
    /// In what the acceptor forwards.
    Forwarded,
}

/// What a Dovecot is started with.
#[derive(Debug)]
pub(crate) struct Settings<'s> {
    pub(crate) node: &'s str,
    pub(crate) dir: &'s Path,
    pub(crate) logs: &'s Path,
    pub(crate) address: SocketAddr,
    pub(crate) home_root: &'s Path,
    pub(crate) master_password: &'s str,
    pub(crate) users: &'s Users,
    /// Further lines, which win over what stands before them.
    pub(crate) extra: &'s str,
    /// It takes mail by LMTP.
    pub(crate) lmtp: bool,
}

impl Dovecot {
    pub(crate) fn start(settings: &Settings<'_>) -> Self {
        let Settings {
            node, dir, logs, ..
        } = *settings;
        fs::create_dir_all(dir).unwrap();
        write_snippets(settings);
        let log = logs.join(format!("dovecot-{node}.log"));
        let main = fill(
            include_str!("../../../demo/dovecot.conf"),
            &[
                ("DIR", dir.to_str().unwrap()),
                ("NODE", node),
                ("LOG", log.to_str().unwrap()),
            ],
        );
        let configuration = dir.join("dovecot.conf");
        let dir = dir.display();
        let lmtp = if settings.lmtp {
            include_str!("../../../config/dovecot/lmtp.conf")
        } else {
            ""
        };
        fs::write(
            &configuration,
            format!(
                "{main}!include {dir}/imap-master.conf\n{lmtp}\n{}\n",
                settings.extra
            ),
        )
        .unwrap();
        let name = format!("dovecot-{node}");
        Self {
            process: launch(&name, &configuration, logs, settings.address),
            address: settings.address,
            pop3: pop3(settings.address),
            imap_master: settings.dir.join("run/imap-master"),
            lmtp: settings.dir.join("run/lmtp-pigeonair"),
            name,
            configuration,
            logs: logs.to_owned(),
        }
    }

    /// Starts it once more, whether it still runs or was killed.
    pub(crate) fn restart(&mut self) {
        self.process.stop();
        self.process = launch(&self.name, &self.configuration, &self.logs, self.address);
    }
}

fn launch(name: &str, configuration: &Path, logs: &Path, address: SocketAddr) -> Process {
    let configuration = configuration.to_str().unwrap();
    let mut process = Process::start(name, logs, &["dovecot", "-F", "-c", configuration]);
    wait_for_port(&mut process, address);
    process
}

/// Writes what a started imap or pop3 reads, with further lines; the sections of the sample's head that start them so.
pub(crate) fn exec(dir: &Path, extra: &str) -> String {
    let sample = include_str!("../../../config/dovecot/exec.conf");
    let conf = dir.join("exec.conf");
    fs::write(&conf, format!("{sample}{extra}\n")).unwrap();
    let sections: String = sample
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .map(|line| format!("{line}\n"))
        .collect();
    adapt(
        &sections,
        &[("/etc/dovecot/exec.conf", conf.to_str().unwrap())],
    )
}

fn write_snippets(settings: &Settings<'_>) {
    let dir = settings.dir;
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let port = settings.address.port().to_string();
    let pop3_port = pop3(settings.address).port().to_string();
    let listen = format!("listen = {}", settings.address.ip());
    let login = adapt(
        include_str!("../../../config/dovecot/login.conf"),
        &[
            ("listen = 127.0.0.1", &listen),
            ("10143", &port),
            ("10110", &pop3_port),
            ("/etc/dovecot/acceptor.passwd", &path("acceptor.passwd")),
        ],
    );
    fs::write(dir.join("login.conf"), login).unwrap();
    fs::write(
        dir.join("imap-master.conf"),
        adapt(
            include_str!("../../../config/dovecot/imap-master.conf"),
            &[("protocols = imap", "protocols = imap pop3")],
        ),
    )
    .unwrap();
    let forwarded = match settings.users {
        Users::Ldap(_) => "",
        Users::Forwarded => {
            "::::::userdb_uid=%{passdb:forward_uid} userdb_gid=%{passdb:forward_gid} userdb_home=%{passdb:forward_home}"
        }
    };
    write_for_dovecot(
        &dir.join("acceptor.passwd"),
        &format!(
            "acceptor:{{PLAIN}}{}{forwarded}\n",
            settings.master_password
        ),
    );
    let users = match settings.users {
        Users::Ldap(uri) => {
            let home_root = settings.home_root.to_str().unwrap();
            let lookup = adapt(
                include_str!("../../../config/dovecot/users-ldap.conf.ext"),
                &[
                    ("ldap://ldap.example.org", uri),
                    ("tls = yes", "tls = no"),
                    ("dnpass = secret", &format!("dnpass = {SERVICE_PASSWORD}")),
                    ("/srv/mail", home_root),
                ],
            );
            write_for_dovecot(&dir.join("users.conf.ext"), &lookup);
            adapt(
                include_str!("../../../config/dovecot/users-ldap.conf"),
                &[("/etc/dovecot/users-ldap.conf.ext", &path("users.conf.ext"))],
            )
        }
        Users::Forwarded => include_str!("../../../config/dovecot/users-forwarded.conf").to_owned(),
    };
    fs::write(dir.join("users.conf"), users).unwrap();
}

/// Readable by Dovecot's own user, and by nobody else.
fn write_for_dovecot(path: &Path, content: &str) {
    super::write_private(path, content);
    chown(path, None, Some(group("dovecot"))).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
}

/// Where the Dovecot of the node with this index listens.
pub(crate) fn address(ip: Ipv4Addr, index: u16) -> SocketAddr {
    SocketAddr::from((ip, 10_143 + index))
}

/// Where it listens for POP3: beside IMAP's port, and apart from those of other nodes.
fn pop3(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1000)
}
