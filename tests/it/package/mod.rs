//! The Debian package, in a Debian of its own: what it brings, what it leaves, and what its units do under a real systemd.
//!
//! Long ones: with `PIGEONAIR_FULL` alone, since they build the package.

mod machine;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use self::machine::Machine;
use crate::lab::{eventually, http_status, metric};

const FRONT_ADMIN: &str = "127.0.0.1:9143";
const NODE_ADMIN: &str = "127.0.0.1:9144";
const IMAP: &str = "127.0.0.1:143";
const FOLDER: &str = "/etc/pigeonair";
const CONFIGURATION: &str = "/etc/pigeonair/pigeonair.toml";

/// An IMAP server as far as these tests need one: it says which process it is.
const SERVER: &str = r#"#!/bin/sh
printf '* PREAUTH [CAPABILITY IMAP4rev1] ready\r\n'
while IFS= read -r line; do
    tag=${line%% *}
    case $line in
    *LOGOUT*)
        printf '* BYE\r\n%s OK done\r\n' "$tag"
        exit 0
        ;;
    *) printf '* OK process %s\r\n%s OK done\r\n' "$$" "$tag" ;;
    esac
done
"#;

fn is_full() -> bool {
    let is_full = std::env::var_os("PIGEONAIR_FULL").is_some();
    if !is_full {
        eprintln!("not tried without PIGEONAIR_FULL");
    }
    is_full
}

/// The package, built.
fn package() -> PathBuf {
    static PACKAGE: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut make = Command::new("make");
        let output = make.arg("-C").arg(&root).arg("deb").output().unwrap();
        let notes = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "make deb: {notes}");
        let folder = fs::read_dir(root.join("target/debian")).unwrap();
        let mut files = folder.map(|entry| entry.unwrap().path());
        let is_package = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
        files.find(is_package).expect("make deb leaves a package")
    });
    PACKAGE.clone()
}

/// Installs it, offline.
fn install(machine: &Machine) {
    fs::copy(package(), machine.path("/pigeonair.deb")).unwrap();
    machine.run(&["dpkg", "--install", "/pigeonair.deb"]).ok();
    fs::remove_file(machine.path("/pigeonair.deb")).unwrap();
}

#[test]
fn it_brings_what_it_says_and_takes_it_away_again() {
    if !is_full() {
        return;
    }
    let machine = Machine::new();
    let before = machine.files();
    install(&machine);
    let id = |option| machine.run(&["id", option, "pigeonair"]).ok();
    let (uid, gid) = (id("-u"), id("-g"));
    let entry = machine.run(&["getent", "passwd", "pigeonair"]).ok();
    assert!(entry.ends_with(":/usr/sbin/nologin"), "{entry}");
    for (path, status) in [
        ("/usr/bin/pigeonair", "0755 0:0".to_owned()),
        ("/etc/pigeonair", "0755 0:0".to_owned()),
        (CONFIGURATION, "0644 0:0".to_owned()),
        ("/etc/pigeonair/accounts.toml", format!("0640 0:{gid}")),
        ("/etc/pigeonair/local.key", format!("0640 0:{gid}")),
        ("/etc/pigeonair/master.password", "0600 0:0".to_owned()),
        ("/var/lib/pigeonair/mail", "0711 0:0".to_owned()),
        (
            "/usr/share/man/man8/pigeonair-run.8.gz",
            "0644 0:0".to_owned(),
        ),
        (
            "/usr/share/man/man5/pigeonair.toml.5.gz",
            "0644 0:0".to_owned(),
        ),
    ] {
        assert_eq!(machine.status(path), status, "{path}");
    }
    // The front's part as the front reads it, all of it as root.
    let own = [
        "setpriv",
        &format!("--reuid={uid}"),
        &format!("--regid={gid}"),
        "--clear-groups",
    ];
    let front = ["pigeonair", "check", "front"];
    let said = machine.run(&[&own[..], &front].concat()).ok();
    assert!(said.starts_with(&format!("{CONFIGURATION}: ok ")), "{said}");
    let said = machine.run(&["pigeonair", "check"]).ok();
    assert!(said.ends_with("node: local)"), "{said}");
    let denied = machine.run(&[&own[..], &["cat", "/etc/pigeonair/master.password"]].concat());
    assert_eq!(denied.code, Some(1));

    // What was made once is not made again, what somebody has written is not overwritten.
    let key = fs::read(machine.path("/etc/pigeonair/local.key")).unwrap();
    let mut accounts = fs::read_to_string(machine.path("/etc/pigeonair/accounts.toml")).unwrap();
    accounts += "# mine\n";
    machine.write("/etc/pigeonair/accounts.toml", &accounts);
    machine.run(&["dpkg", "--remove", "pigeonair"]).ok();
    assert!(!machine.path("/usr/bin/pigeonair").exists());
    install(&machine);
    assert_eq!(
        fs::read(machine.path("/etc/pigeonair/local.key")).unwrap(),
        key
    );
    let now = fs::read_to_string(machine.path("/etc/pigeonair/accounts.toml")).unwrap();
    assert_eq!(now, accounts);
    let status = machine.status("/etc/pigeonair/accounts.toml");
    assert_eq!(status, format!("0640 0:{gid}"));

    machine.run(&["dpkg", "--purge", "pigeonair"]).ok();
    assert_eq!(machine.files(), before);
    // Its user stays, as files may.
    assert_eq!(id("-u"), uid);

    install(&machine);
    machine.write("/etc/pigeonair/privkey.pem", "somebody's");
    machine.run(&["dpkg", "--purge", "pigeonair"]).ok();
    let after = machine.files();
    let left: Vec<&String> = after.difference(&before).collect();
    assert_eq!(
        left,
        [
            "/etc/pigeonair 0755 0:0",
            "/etc/pigeonair/privkey.pem 0644 0:0"
        ]
    );
}

#[test]
fn lintian_has_nothing_to_say() {
    if !is_full() {
        return;
    }
    let output = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .arg(package())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

/// A session of a client, in the machine's network.
struct Session {
    stream: BufReader<TcpStream>,
}

impl Session {
    fn connect() -> Self {
        let stream = TcpStream::connect(IMAP).unwrap();
        let limit = Duration::from_secs(60);
        stream.set_read_timeout(Some(limit)).unwrap();
        let mut session = Self {
            stream: BufReader::new(stream),
        };
        let greeting = session.line();
        assert!(greeting.starts_with("* OK "), "{greeting}");
        session
    }

    fn logged_in() -> Self {
        let mut session = Self::connect();
        let reply = session.command("LOGIN ann secret");
        assert!(reply.last().unwrap().starts_with("a OK "), "{reply:?}");
        session
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "the session has ended: {line:?}");
        line.trim_end().to_owned()
    }

    fn command(&mut self, command: &str) -> Vec<String> {
        let mut stream = self.stream.get_ref();
        stream
            .write_all(format!("a {command}\r\n").as_bytes())
            .unwrap();
        let mut lines = vec![self.line()];
        while !lines.last().unwrap().starts_with("a ") {
            lines.push(self.line());
        }
        lines
    }

    /// Which process serves it.
    fn process(&mut self) -> String {
        let lines = self.command("NOOP");
        let said = lines[0].strip_prefix("* OK process ");
        said.unwrap_or_else(|| panic!("{lines:?}")).to_owned()
    }
}

/// A property of a unit.
fn property(machine: &Machine, unit: &str, name: &str) -> String {
    machine
        .run(&["systemctl", "show", "--value", "--property", name, unit])
        .ok()
}

fn answers(admin: &str) -> bool {
    let address: SocketAddr = admin.parse().unwrap();
    http_status(address, "/healthz") == Some(200)
}

/// Has the node start servers of its own, for one account.
fn serve_by_exec(machine: &Machine) {
    let program = "/usr/local/bin/imap-server";
    machine.write(program, SERVER);
    machine.run(&["chmod", "0755", program]).ok();
    let shipped = fs::read_to_string(machine.path(CONFIGURATION)).unwrap();
    let (before, from) = shipped.split_once("[acceptor.imap]").unwrap();
    let (_, after) = from.split_once("[mailstore]").unwrap();
    let exec = format!(
        "{before}[acceptor.imap]\nkind = \"exec\"\ncommand = [\"{program}\"]\nopening = \"preauth\"\n\n[mailstore]{after}"
    );
    machine.write(CONFIGURATION, &exec);
    let account = "[[account]]\nname = \"ann\"\npassword = \"{SSHA}TjSAUwquZPUXR7NLmvgC7f2LbRYLg1Xc\"\nuid = 20001\ngid = 20001\n";
    machine.write(&format!("{FOLDER}/accounts.toml"), account);
}

#[test]
fn it_serves_under_systemd_and_a_restart_of_the_node_ends_no_server() {
    if !is_full() {
        return;
    }
    let [front, node] = ["pigeonair-front.service", "pigeonair-node.service"];
    let mut machine = Machine::new();
    machine.boot();
    machine.enter_network();
    install(&machine);
    let state = |unit| machine.run(&["systemctl", "is-active", unit]).out;
    for unit in [front, node, "pigeonair-front.socket"] {
        let enabled = machine.run(&["systemctl", "is-enabled", unit]);
        assert_eq!(
            (enabled.out.as_str(), state(unit).as_str()),
            ("disabled\n", "inactive\n")
        );
    }

    // As installed.
    machine
        .run(&["systemctl", "enable", "--now", node, front])
        .ok();
    for (unit, admin) in [(front, FRONT_ADMIN), (node, NODE_ADMIN)] {
        eventually(&format!("{unit} answers"), || answers(admin));
        assert_eq!(state(unit), "active\n");
    }
    let user = property(&machine, front, "MainPID");
    let owner = machine
        .run(&["stat", "-c", "%U", &format!("/proc/{user}")])
        .ok();
    assert_eq!(owner, "pigeonair");
    let reply = Session::connect().command("LOGIN ann secret");
    assert!(
        reply[0].starts_with("a NO [AUTHENTICATIONFAILED]"),
        "{reply:?}"
    );

    serve_by_exec(&machine);
    machine.run(&["systemctl", "restart", node, front]).ok();
    eventually("both answer", || {
        answers(FRONT_ADMIN) && answers(NODE_ADMIN)
    });
    let mut session = Session::logged_in();
    let server = session.process();

    // The node's unit.
    let main = property(&machine, node, "MainPID");
    machine.run(&["systemctl", "restart", node]).ok();
    eventually("the node answers again", || answers(NODE_ADMIN));
    assert_ne!(property(&machine, node, "MainPID"), main);
    assert_eq!(session.process(), server);
    let open = metric(
        NODE_ADMIN.parse().unwrap(),
        "pigeonair_sessions_open{protocol=\"imap\"} ",
    );
    assert_eq!(open, Some(1.0), "the session counts again");
    machine
        .run(&[
            "systemctl",
            "kill",
            "--signal=KILL",
            "--kill-whom=main",
            node,
        ])
        .ok();
    eventually("systemd starts it again", || {
        let now = property(&machine, node, "MainPID");
        now != main && now != "0" && answers(NODE_ADMIN)
    });
    assert_eq!(session.process(), server);
    assert_ne!(Session::logged_in().process(), server);
    machine.run(&["systemctl", "stop", node]).ok();
    assert_eq!(session.process(), server);
    machine.run(&["systemctl", "start", node]).ok();

    // The front's: a stop waits for sessions, and nobody new comes in.
    machine
        .run(&["systemctl", "stop", "--no-block", front])
        .ok();
    eventually("nobody new is let in", || TcpStream::connect(IMAP).is_err());
    assert_eq!(state(front), "deactivating\n");
    assert_eq!(session.process(), server);
    let reply = session.command("LOGOUT");
    assert!(reply.last().unwrap().starts_with("a OK "), "{reply:?}");
    drop(session);
    eventually("the front has ended", || state(front) == "inactive\n");
    assert_eq!(property(&machine, front, "Result"), "success");
    assert_eq!(property(&machine, front, "ExecMainStatus"), "0");

    machine.run(&["systemctl", "start", front]).ok();
    machine.run(&["dpkg", "--purge", "pigeonair"]).ok();
    for unit in [front, node] {
        assert_eq!(state(unit), "inactive\n");
    }
    assert!(!machine.path(FOLDER).exists());
    let wants = machine.path("/etc/systemd/system/multi-user.target.wants");
    let links: Vec<_> = fs::read_dir(wants)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        links
            .iter()
            .all(|link| !link.to_string_lossy().contains("pigeonair")),
        "{links:?}"
    );
}
