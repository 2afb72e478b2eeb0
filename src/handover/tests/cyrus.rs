//! Hand-over to a real Cyrus 3.6 with the files of `config/cyrus/`. Debian's packages can't be installed beside
//! Dovecot's, so it runs where `make deps` has unpacked them, as the user `mail`, in a folder that disappears with it.

use std::{
    io::Write as _,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::*;

const ROOT: &str = "/usr/local/lib/pigeonair-tests/cyrus";

const MESSAGE: &str = "Subject: pigeons\r\n\r\nThey come home.\r\n";

struct Cyrus {
    folder: tempfile::TempDir,
    child: Child,
    ports: [u16; 2],
}

impl Cyrus {
    /// Starts it, and waits until both protocols can be used. `changes` are made to imapd.conf.
    async fn start(changes: &[(&str, &str)]) -> Self {
        let cyrus = Self::start_unready(changes).await;
        for protocol in [Protocol::Imap, Protocol::Pop3] {
            let ready = trial::run(protocol, &cyrus.login(protocol), PATIENCE).await;
            ready.unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
        cyrus
    }

    /// Starts it, and waits until it can be connected to.
    async fn start_unready(changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pigeonair-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .unwrap();
        let (uid, gid) = mail();
        fs::create_dir(folder.path().join("homes")).unwrap();
        for name in ["mail", "run", "state"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(path, Some(uid), Some(gid)).unwrap();
        }
        // Both are held until both are known: they differ.
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = ports.map(|port| port.local_addr().unwrap().port());
        configure(folder.path(), ports, changes);
        let [conf, services] = ["imapd.conf", "cyrus.conf"].map(|name| folder.path().join(name));
        // In a process namespace, where all of it ends with its first process: on SIGTERM, Cyrus may stay. It changes its
        // user, and would be spared as that process.
        let child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c"])
            .args(["\"$@\" & wait", "sh"])
            .arg(format!("{ROOT}/usr/lib/cyrus/bin/master"))
            .arg("-C")
            .arg(conf)
            .arg("-M")
            .arg(services)
            .arg("-p")
            .arg(folder.path().join("master.pid"))
            .env("LD_LIBRARY_PATH", libraries())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Cyrus is unpacked (make deps)");
        let cyrus = Self {
            folder,
            child,
            ports,
        };
        let start = Instant::now();
        for port in ports {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .is_err()
            {
                assert!(start.elapsed() < PATIENCE, "Cyrus does not listen");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        cyrus
    }

    fn login(&self, protocol: Protocol) -> LoginSettings {
        let [imap, pop3] = self.ports;
        master_at(Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: if protocol == Protocol::Imap {
                imap
            } else {
                pop3
            },
        })
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
}

impl Drop for Cyrus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn libraries() -> String {
    format!("{ROOT}/usr/lib/x86_64-linux-gnu")
}

/// Debian's user and group `mail`: Cyrus does not run as root, and its own user would come with its package.
fn mail() -> (u32, u32) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("mail:"));
    let mut ids = line
        .unwrap()
        .split(':')
        .skip(2)
        .map(|id| id.parse().unwrap());
    (ids.next().unwrap(), ids.next().unwrap())
}

/// The sample with these changes; each must be there to be changed.
fn adapt(sample: &str, changes: &[(&str, &str)]) -> String {
    let mut text = sample.to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old} is not in the sample");
        text = text.replace(old, new);
    }
    text
}

fn configure(folder: &Path, [imap, pop3]: [u16; 2], changes: &[(&str, &str)]) {
    let dir = folder.display();
    let conf = adapt(
        include_str!("../../../config/cyrus/imapd.conf"),
        &[
            ("/var/lib/cyrus", &format!("{dir}/state")),
            ("/var/spool/cyrus/mail", &format!("{dir}/mail")),
            ("/run/cyrus", &format!("{dir}/run")),
            ("/etc/sasldb2", &format!("{dir}/sasldb2")),
        ],
    );
    let conf = adapt(&conf, changes) + "cyrus_user: mail\ncyrus_group: mail\nfailedloginpause: 0\n";
    fs::write(folder.join("imapd.conf"), conf).unwrap();
    let command = |name: &str| format!("\"{ROOT}/usr/lib/cyrus/bin/{name} -C {dir}/imapd.conf");
    let services = adapt(
        include_str!("../../../config/cyrus/cyrus.conf"),
        &[
            ("\"/usr/sbin/cyrus ctl_cyrusdb", &command("ctl_cyrusdb")),
            ("\"/usr/sbin/cyrus expire", &command("cyr_expire")),
            ("\"imapd", &command("imapd")),
            ("\"pop3d", &command("pop3d")),
            ("\"lmtpd", &command("lmtpd")),
            ("/run/cyrus/socket", &format!("{dir}/run")),
            ("127.0.0.1:10143", &format!("127.0.0.1:{imap}")),
            ("127.0.0.1:10110", &format!("127.0.0.1:{pop3}")),
        ],
    );
    fs::write(folder.join("cyrus.conf"), services).unwrap();
    let passwords = folder.join("sasldb2");
    let mut maker = Command::new("saslpasswd2")
        .args(["-p", "-c", "-u", "node1.example.org", "-f"])
        .arg(&passwords)
        .arg("acceptor")
        .stdin(Stdio::piped())
        .spawn()
        .expect("saslpasswd2 is installed (Debian: sasl2-bin)");
    let mut stdin = maker.stdin.take().unwrap();
    stdin.write_all(SECRET.as_bytes()).unwrap();
    drop(stdin);
    assert!(maker.wait().unwrap().success());
    let (uid, gid) = mail();
    chown(passwords, Some(uid), Some(gid)).unwrap();
}

#[tokio::test]
async fn imap_and_pop3_sessions_share_a_mailbox() {
    let cyrus = Cyrus::start(&[]).await;
    let node = cyrus.node(|_| {});
    let append = format!("a APPEND INBOX {{{}+}}\r\n{MESSAGE}", MESSAGE.len());
    let appended = [
        (append.as_str(), "a "),
        ("b SELECT INBOX", "b "),
        ("c LOGOUT", "c "),
    ];
    let said = converse(&node, &context(1), &appended).await;
    assert!(
        said.contains("a OK") && said.contains("* 1 EXISTS"),
        "{said}"
    );
    let fetched = [
        ("a SELECT INBOX", "a "),
        ("b FETCH 1 BODY.PEEK[]", "b "),
        ("c LOGOUT", "c "),
    ];
    let said = converse(&node, &context(1), &fetched).await;
    assert!(said.contains(&format!("}}\r\n{MESSAGE})")), "{said}");
    let retrieved = [("STAT", "+OK"), ("RETR 1", "."), ("QUIT", "+OK")];
    let said = converse(&node, &pop3_context(1), &retrieved).await;
    assert!(
        said.starts_with(&format!("+OK 1 {}\r\n", MESSAGE.len())),
        "{said}"
    );
    assert!(said.contains(&format!("{MESSAGE}.\r\n")), "{said}");
    // Somebody else sees nothing of it.
    let said = converse(&node, &pop3_context(2), &[("STAT", "+OK"), ("QUIT", "+OK")]).await;
    assert!(said.starts_with("+OK 0 0\r\n"), "{said}");
    all_over(&node).await;
}

#[tokio::test]
async fn an_account_without_a_mailbox_has_a_session_without_one() {
    let never = [("autocreate_quota: 0", "autocreate_quota: -1")];
    let cyrus = Cyrus::start(&never).await;
    let node = cyrus.node(|_| {});
    let lines = [("a SELECT INBOX", "a "), ("b LOGOUT", "b ")];
    let said = converse(&node, &context(1), &lines).await;
    assert!(said.contains("a NO Mailbox does not exist"), "{said}");
    // POP3 makes one all the same.
    converse(
        &node,
        &pop3_context(1),
        &[("STAT", "+OK 0 0"), ("QUIT", "+OK")],
    )
    .await;
    let said = converse(&node, &context(1), &lines).await;
    assert!(said.contains("a OK"), "{said}");
}

#[tokio::test]
async fn a_refused_master_login_is_the_nodes_fault() {
    let cyrus = Cyrus::start(&[]).await;
    let wrong = |login: &mut LoginSettings| login.password = Secret::new(b"wrong".to_vec());
    let without = |login: &mut LoginSettings| login.user = None;
    for node in [cyrus.node(wrong), cyrus.node(without)] {
        for context in [context(1), pop3_context(1)] {
            let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
            let master = matches!(error, Refused::Login(LoginError::Master(_)));
            assert!(master, "{}", chain(&error));
        }
    }
    // A user who may log in, but not as others.
    let nobody = [("proxyservers: acceptor", "proxyservers: somebody")];
    let cyrus = Cyrus::start(&nobody).await;
    let node = cyrus.node(|_| {});
    for context in [context(1), pop3_context(1)] {
        let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
        let master = matches!(error, Refused::Login(LoginError::Master(_)));
        assert!(master, "{}", chain(&error));
    }
}

/// This Cyrus is too old to read one.
#[tokio::test]
async fn a_header_that_is_not_expected_ends_the_login() {
    let cyrus = Cyrus::start(&[]).await;
    for version in [Version::V1, Version::V2] {
        let node = cyrus.node(|login| login.proxy_header = Some(version));
        for context in [context(1), pop3_context(1)] {
            let error = refused(&node, LinkKind::Tcp, &context, "Refused(Unavailable)").await;
            let early = !matches!(error, Refused::Timeout);
            assert!(early, "{version:?}: {}", chain(&error));
        }
    }
}

#[tokio::test]
async fn the_self_test_says_what_to_change() {
    let cyrus = Cyrus::start(&[]).await;
    for protocol in [Protocol::Imap, Protocol::Pop3] {
        let mut login = cyrus.login(protocol);
        let greeting = trial::run(protocol, &login, PATIENCE).await.unwrap();
        assert!(greeting.contains("Cyrus"), "{greeting}");
        for version in [Version::V1, Version::V2] {
            login.proxy_header = Some(version);
            let error = trial::run(protocol, &login, PATIENCE).await.unwrap_err();
            assert!(error.is_misconfiguration());
            let error = chain(&error).to_string();
            let old = "Cyrus takes it from 3.12 on (imapd -H, pop3d -H), and this is 3.6.1";
            assert!(error.contains(old), "{error}");
        }
    }
    let without = [("sasl_mech_list: PLAIN", "sasl_mech_list: CRAM-MD5")];
    let cyrus = Cyrus::start_unready(&without).await;
    for protocol in [Protocol::Imap, Protocol::Pop3] {
        let error = trial::run(protocol, &cyrus.login(protocol), PATIENCE).await;
        assert!(matches!(error, Err(TrialError::Plain(_))), "{error:?}");
    }
}
