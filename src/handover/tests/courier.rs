//! Hand-over to a real Courier with the files of `config/courier/`. Debian's packages can't be installed beside Dovecot's,
//! so it runs where `make deps` has unpacked them, in a mount namespace of its own with an own `/etc` and `/run`, and in a
//! process namespace, so that all of it ends with its first process.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;

const ROOT: &str = "/usr/local/lib/pigeonair-tests/courier";

struct Courier {
    folder: tempfile::TempDir,
    child: Child,
    ports: [u16; 2],
}

impl Courier {
    /// Starts it, and waits until both protocols greet and passwords are checked.
    async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pigeonair-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        // Both are held until both are known: they differ.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = ports.map(|port| port.local_addr().unwrap().port());
        configure(folder.path(), ports);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-eu"])
            .arg(folder.path().join("start"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let courier = Self {
            folder,
            child,
            ports,
        };
        let checker = courier.folder.path().join("run/courier/authdaemon/socket");
        let start = Instant::now();
        for protocol in [Protocol::Imap, Protocol::Pop3] {
            let login = courier.login(protocol);
            while trial::run(protocol, &login, PATIENCE).await.is_err() || !checker.exists() {
                let waited = start.elapsed();
                assert!(waited < PATIENCE, "it does not greet; {}", courier.log());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        courier
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn login(&self, protocol: Protocol) -> LoginSettings {
        let [imap, pop3] = self.ports;
        let server = Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: if protocol == Protocol::Imap {
                imap
            } else {
                pop3
            },
        };
        LoginSettings {
            user: None,
            ..master_at(server)
        }
    }

    /// A node in front of it; `change` is made to how it logs in.
    fn node(&self, change: impl Fn(&mut LoginSettings)) -> Handover {
        let [imap, pop3] = [Protocol::Imap, Protocol::Pop3].map(|protocol| {
            let mut login = self.login(protocol);
            change(&mut login);
            Kind::Login(login)
        });
        start(Settings {
            pop3: Some(pop3),
            ..settings(imap, self.folder.path().join("homes"))
        })
    }

    /// Makes the account's home and mailbox, with one message perhaps.
    fn mailbox(&self, number: u32, message: Option<&str>) {
        let path = self.folder.path().join(format!("homes/u{number}"));
        home(&path, number);
        let id = FIRST_UID + number;
        let maildir = path.join("Maildir");
        let maker = format!("{ROOT}/usr/bin/maildirmake.courier");
        let status = Command::new(maker).arg(&maildir).status().unwrap();
        assert!(status.success());
        for name in ["", "cur", "new", "tmp"] {
            std::os::unix::fs::chown(maildir.join(name), Some(id), Some(id)).unwrap();
        }
        if let Some(message) = message {
            let file = maildir.join("new/1.1.node1");
            fs::write(&file, message).unwrap();
            std::os::unix::fs::chown(&file, Some(id), Some(id)).unwrap();
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configure(folder: &Path, [imap, pop3]: [u16; 2]) {
    for name in ["etc/courier", "run/courier/authdaemon", "homes"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let dir = folder.display();
    for name in ["group", "nsswitch.conf"] {
        fs::copy(format!("/etc/{name}"), folder.join("etc").join(name)).unwrap();
    }
    let users: String = (1..10)
        .map(|number| {
            let id = FIRST_UID + number;
            format!("u{number}:x:{id}:{id}::{dir}/homes/u{number}:/bin/false\n")
        })
        .collect();
    let passwd = fs::read_to_string("/etc/passwd").unwrap() + &users;
    fs::write(folder.join("etc/passwd"), passwd).unwrap();
    let password = folder.join("master.password");
    fs::write(&password, format!("{SECRET}\n")).unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let checker = include_str!("../../../config/courier/authProg");
    let known = "/etc/pigeonair/master.password";
    assert!(checker.contains(known));
    let checker = checker.replace(known, password.to_str().unwrap());
    write("etc/courier/authProg", &checker, 0o755);
    let daemon = include_str!("../../../config/courier/authdaemonrc");
    write("etc/courier/authdaemonrc", daemon, 0o644);
    for (name, sample, usual, port) in [
        (
            "imapd",
            include_str!("../../../config/courier/imapd"),
            "PORT=10143",
            imap,
        ),
        (
            "pop3d",
            include_str!("../../../config/courier/pop3d"),
            "PORT=10110",
            pop3,
        ),
    ] {
        let debian = fs::read_to_string(format!("{ROOT}/etc/courier/{name}"))
            .expect("Courier is unpacked (make deps)");
        assert!(sample.contains(usual));
        let text = debian + &sample.replace(usual, &format!("PORT={port}"));
        write(&format!("etc/courier/{name}"), &text, 0o644);
    }
    write("start", &script(&dir.to_string()), 0o644);
}

/// What Debian's scripts do at start, with the settings of the two files in the environment.
fn script(dir: &str) -> String {
    let serve = |name: &str, login: &str, program: &str| {
        format!(
            "( set -a; . /etc/courier/{name}; DEBUG_LOGIN=0\n\
             exec {ROOT}/usr/sbin/couriertcpd -address=$ADDRESS -maxprocs=$MAXDAEMONS -maxperip=$MAXPERIP \
             $TCPDOPTS $PORT {ROOT}/usr/lib/courier/courier/{login} {program} Maildir ) &\n"
        )
    };
    let imap = serve("imapd", "imaplogin", &format!("{ROOT}/usr/bin/imapd"));
    let program = format!("{ROOT}/usr/lib/courier/courier/courierpop3d");
    let pop3 = serve("pop3d", "courierpop3login", &program);
    format!(
        "mount --bind {dir}/etc /etc\nmount --bind {dir}/run /run\n\
         /usr/lib/courier/courier-authlib/authdaemond &\n{imap}{pop3}wait\n"
    )
}

const MESSAGE: &str = "Subject: pigeons\r\n\r\nThey come home.\r\n";

#[tokio::test]
async fn imap_and_pop3_sessions_reach_their_mailboxes() {
    let courier = Courier::start().await;
    courier.mailbox(1, Some(&MESSAGE.replace("\r\n", "\n")));
    courier.mailbox(2, None);
    let node = courier.node(|_| {});
    let retrieved = [("STAT", "+OK"), ("RETR 1", "."), ("QUIT", "+OK")];
    let said = converse(&node, &pop3_context(1), &retrieved).await;
    assert!(said.starts_with("+OK 1 "), "{said}");
    assert!(said.contains(&format!("{MESSAGE}.\r\n")), "{said}");
    let fetched = [
        ("a SELECT INBOX", "a "),
        ("b FETCH 1 BODY.PEEK[]", "b "),
        ("c LOGOUT", "c "),
    ];
    let said = converse(&node, &context(1), &fetched).await;
    assert!(said.contains(&format!("}}\r\n{MESSAGE})")), "{said}");
    // Somebody else sees nothing of it, and may store things of his own.
    let append = format!("a APPEND INBOX {{{}}}", MESSAGE.len());
    let stored = [
        ("s SELECT INBOX", "s "),
        (append.as_str(), "+"),
        (MESSAGE, "a "),
        ("c LOGOUT", "c "),
    ];
    let said = converse(&node, &context(2), &stored).await;
    assert!(
        said.contains("* 0 EXISTS") && said.contains("a OK"),
        "{said}"
    );
    let said = converse(&node, &pop3_context(2), &[("STAT", "+OK"), ("QUIT", "+OK")]).await;
    assert!(said.starts_with("+OK 1 "), "{said}");
    all_over(&node).await;
}

#[tokio::test]
async fn an_account_without_a_mailbox_is_unavailable() {
    let courier = Courier::start().await;
    let node = courier.node(|_| {});
    for context in [context(3), pop3_context(3)] {
        let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
        assert!(!matches!(error, Refused::Timeout), "{}", chain(&error));
    }
}

#[tokio::test]
async fn a_wrong_master_password_is_the_nodes_fault() {
    let courier = Courier::start().await;
    courier.mailbox(1, None);
    let node = courier.node(|login| login.password = Secret::new(b"wrong".to_vec()));
    for context in [context(1), pop3_context(1)] {
        let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
        let master = matches!(error, Refused::Login(LoginError::Master(_)));
        assert!(master, "{}", chain(&error));
    }
}

/// Courier logs in the user of the password, whoever the login acts as: everybody would read the master user's mail.
#[tokio::test]
async fn a_master_user_is_refused() {
    let courier = Courier::start().await;
    courier.mailbox(1, Some("Subject: of u1\n\nx\n"));
    courier.mailbox(2, None);
    let node = courier.node(|login| login.user = Some("u1".to_owned()));
    for context in [context(2), pop3_context(2)] {
        let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
        let identity = matches!(error, Refused::Login(LoginError::Identity));
        assert!(identity, "{}", chain(&error));
    }
}

/// Debian 12's couriertcpd is too old to read one.
#[tokio::test]
async fn a_header_that_is_not_expected_ends_the_login() {
    let courier = Courier::start().await;
    for version in [Version::V1, Version::V2] {
        let node = courier.node(|login| login.proxy_header = Some(version));
        for context in [context(1), pop3_context(1)] {
            let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
            let early = !matches!(error, Refused::Timeout);
            assert!(early, "{version:?}: {}", chain(&error));
        }
    }
}

#[tokio::test]
async fn the_self_test_says_what_to_change() {
    let courier = Courier::start().await;
    for protocol in [Protocol::Imap, Protocol::Pop3] {
        let login = courier.login(protocol);
        let headed = |version| LoginSettings {
            proxy_header: Some(version),
            ..login.clone()
        };
        for version in [Version::V1, Version::V2] {
            let error = trial::run(protocol, &headed(version), PATIENCE).await;
            assert!(matches!(error, Err(TrialError::Header { .. })), "{error:?}");
        }
        let mastered = LoginSettings {
            user: Some("u1".to_owned()),
            ..login.clone()
        };
        let error = trial::run(protocol, &mastered, PATIENCE).await.unwrap_err();
        assert!(matches!(error, TrialError::Identity) && error.is_misconfiguration());
    }
}
