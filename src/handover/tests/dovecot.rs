//! A real Dovecot 2.3 with a configuration of its own, on loopback, in a folder that disappears with it.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    handover::{LoginSettings, imap_master, trial},
    names::Protocol,
    net::Address,
    secret::Secret,
};

const MASTER: &str = "acceptor";
pub(super) const SECRET: &str = "a-secret-of-this-node";

/// Users `u1` to `u9` have these uids and gids plus their number.
pub(super) const FIRST_UID: u32 = 20_000;

/// How long Dovecot may take to start, and its log to be written.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Dovecot {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
    pop3_port: u16,
}

impl Dovecot {
    /// Starts it, and waits until all of its doors answer. `extra` is added to the configuration.
    pub(super) async fn start(extra: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pigeonair-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        for name in ["homes", "state"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o755))
                .unwrap();
        }
        // Both are held until both are known: they differ.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, pop3_port] = ports.map(|port| port.local_addr().unwrap().port());
        let path = folder.path().display().to_string();
        let conf = folder.path().join("dovecot.conf");
        fs::write(&conf, configuration(&path, port, pop3_port) + extra).unwrap();
        fs::write(folder.path().join("users"), users(&path)).unwrap();
        let child = Command::new("/usr/sbin/dovecot")
            .args(["-F", "-c"])
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Dovecot is installed (Debian: dovecot-imapd, dovecot-pop3d)");
        let dovecot = Self {
            folder,
            child,
            port,
            pop3_port,
        };
        dovecot
            .until("all doors answer", async || {
                let (imap, pop3) = (master_at(dovecot.address()), master_at(dovecot.pop3()));
                trial::run(Protocol::Imap, &imap, PATIENCE).await.is_ok()
                    && trial::run(Protocol::Pop3, &pop3, PATIENCE).await.is_ok()
                    && imap_master::try_connect(&dovecot.socket()).await.is_ok()
            })
            .await;
        dovecot
    }

    pub(super) fn address(&self) -> Address {
        Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        }
    }

    pub(super) fn pop3(&self) -> Address {
        Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: self.pop3_port,
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/imap-master")
    }

    pub(super) fn homes(&self) -> PathBuf {
        self.folder.path().join("homes")
    }

    /// Waits until its log has a line that holds all of these.
    pub(super) async fn logged(&self, words: &[&str]) {
        self.until(&words.join(" ... "), async || {
            self.log()
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        })
        .await;
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("dovecot.log")).unwrap_or_default()
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let start = tokio::time::Instant::now();
        while !condition().await {
            assert!(
                start.elapsed() < PATIENCE,
                "waited for {what}; the log:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // SIGTERM, so that it ends its own children.
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Logs in there as Dovecot's master user.
pub(super) fn master_at(server: Address) -> LoginSettings {
    LoginSettings {
        server,
        user: Some(MASTER.to_owned()),
        password: Secret::new(SECRET.as_bytes().to_vec()),
        proxy_header: None,
    }
}

/// Makes a home as it would be after other software was there.
pub(super) fn home(path: &Path, number: u32) {
    fs::create_dir(path).unwrap();
    chown(path, Some(FIRST_UID + number), Some(FIRST_UID + number)).unwrap();
}

fn users(folder: &str) -> String {
    (1..10)
        .map(|number| {
            let id = FIRST_UID + number;
            format!("u{number}::{id}:{id}::{folder}/homes/u{number}::\n")
        })
        .collect()
}

fn configuration(folder: &str, port: u16, pop3_port: u16) -> String {
    format!(
        r#"base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
mail_log_prefix = "%s(%u)<%p><%{{session}}> rip=%r lip=%l: "
protocols = imap pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
login_trusted_networks = 127.0.0.0/8
mail_location = maildir:~/Maildir
mail_max_userip_connections = 1000
passdb {{
  driver = static
  master = yes
  args = password={SECRET} user={MASTER}
}}
passdb {{
  driver = static
  args = nologin=y nopassword=y
  deny = yes
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
  service_count = 0
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
  service_count = 0
}}
service imap {{
  unix_listener imap-master {{
    mode = 0600
  }}
  client_limit = 1
  service_count = 1
}}
"#,
    )
}
