//! The units under a real systemd: as installed, with servers that the node has started, drained, and purged while they run.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use super::{CONFIGURATION, install, is_full, machine::Machine};
use crate::{
    lab::{eventually, http_status, metric},
    smtp::lmtp,
};

pub(super) const FRONT: &str = "pigeonair-front.service";
pub(super) const NODE: &str = "pigeonair-node.service";
const SOCKET: &str = "pigeonair-front.socket";
pub(super) const FRONT_ADMIN: &str = "127.0.0.1:9143";
pub(super) const NODE_ADMIN: &str = "127.0.0.1:9144";
const IMAP: &str = "127.0.0.1:143";
pub(super) const LMTP: &str = "127.0.0.1:24";

/// An IMAP server as far as these tests need one: it says which process it is.
pub(super) const SERVER: &str = r#"#!/bin/sh
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

/// A machine that is up, with the package.
pub(super) fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.boot();
    machine.enter_network();
    install(&machine);
    machine
}

pub(super) fn state(machine: &Machine, unit: &str) -> String {
    machine.run(&["systemctl", "is-active", unit]).out
}

#[test]
fn nothing_runs_until_it_is_enabled_and_then_it_serves_as_installed() {
    if !is_full() {
        return;
    }
    let machine = machine();
    for unit in [FRONT, NODE, SOCKET] {
        let enabled = machine.run(&["systemctl", "is-enabled", unit]).out;
        assert_eq!(enabled, "disabled\n", "{unit}");
        assert_eq!(state(&machine, unit), "inactive\n", "{unit}");
    }
    machine
        .run(&["systemctl", "enable", "--now", NODE, FRONT])
        .ok();
    for (unit, admin) in [(FRONT, FRONT_ADMIN), (NODE, NODE_ADMIN)] {
        eventually(&format!("{unit} answers"), || answers(admin));
        assert_eq!(state(&machine, unit), "active\n");
    }
    let process = format!("/proc/{}", property(&machine, FRONT, "MainPID"));
    let owner = machine.run(&["stat", "--format=%U", &process]).ok();
    assert_eq!(owner, "pigeonair");
    let reply = Session::connect().command("LOGIN ann secret");
    let reply = reply.last().unwrap();
    assert!(reply.starts_with("a NO [AUTHENTICATIONFAILED]"), "{reply}");
    let said = machine.run(&["pigeonair", "explain", "ann"]);
    assert_eq!(said.code, Some(67), "{said:?}");

    // What runs is ended, and no link to a unit stays.
    machine.run(&["dpkg", "--purge", "pigeonair"]).ok();
    for unit in [FRONT, NODE] {
        assert_eq!(state(&machine, unit), "inactive\n");
    }
    assert!(TcpStream::connect(IMAP).is_err());
    let left = machine.files();
    let left: Vec<&String> = left
        .iter()
        .filter(|file| file.contains("pigeonair"))
        .collect();
    assert_eq!(left, Vec::<&String>::new());
}

#[test]
fn no_restart_of_the_node_ends_a_server_that_it_has_started() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let mut session = Session::logged_in();
    let server = session.process();
    let main = || property(&machine, NODE, "MainPID");
    let mut before = main();
    for command in [
        &["systemctl", "restart", NODE] as &[&str],
        &[
            "systemctl",
            "kill",
            "--signal=KILL",
            "--kill-whom=main",
            NODE,
        ],
    ] {
        machine.run(command).ok();
        eventually("another process answers", || {
            let now = main();
            now != before && now != "0" && answers(NODE_ADMIN)
        });
        before = main();
        assert_eq!(session.process(), server, "{command:?}");
        let admin = NODE_ADMIN.parse().unwrap();
        let open = metric(admin, "pigeonair_sessions_open{protocol=\"imap\"} ");
        assert_eq!(open, Some(1.0), "the session counts again");
    }
    eventually("the front has found out that the node is back", || {
        let front = FRONT_ADMIN.parse().unwrap();
        metric(front, "pigeonair_node_up{node=\"local\"} ") == Some(1.0)
    });
    assert_ne!(Session::logged_in().process(), server);
    machine.run(&["systemctl", "stop", NODE]).ok();
    assert_eq!(session.process(), server);
    // The control: whom systemd may signal.
    machine
        .run(&[
            "systemctl",
            "kill",
            "--signal=KILL",
            "--kill-whom=all",
            NODE,
        ])
        .ok();
    session.ends();
}

#[test]
fn a_stop_of_the_front_waits_for_its_sessions() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let mut session = Session::logged_in();
    machine
        .run(&["systemctl", "stop", "--no-block", FRONT])
        .ok();
    eventually("nobody new is let in", || TcpStream::connect(IMAP).is_err());
    assert_eq!(state(&machine, FRONT), "deactivating\n");
    session.process();
    let reply = session.command("LOGOUT");
    assert!(reply.last().unwrap().starts_with("a OK "), "{reply:?}");
    session.ends();
    eventually("the front has ended", || {
        state(&machine, FRONT) == "inactive\n"
    });
    assert_eq!(property(&machine, FRONT, "Result"), "success");
    assert_eq!(property(&machine, FRONT, "ExecMainStatus"), "0");
}

#[test]
fn mail_is_stored_below_the_folder_that_the_package_made() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let message = b"Subject: hi\r\n\r\nhere\r\n";
    let heard = lmtp(LMTP.parse().unwrap()).deliver("", &["ann@example.org"], message);
    heard[0].says("250 ");
    let home = machine.path("/var/lib/pigeonair-node/mail/ann");
    let inbox = fs::read_dir(home.join("Maildir/new")).unwrap();
    let files: Vec<_> = inbox.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let owner = fs::metadata(&files[0]).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (20001, 20001));
}

/// The front has no right at all, and is started by who comes first.
#[test]
fn sockets_that_systemd_keeps_refuse_nobody_while_the_front_is_restarted() {
    if !is_full() {
        return;
    }
    let machine = machine();
    let addresses = [":143", ":110", ":24"].map(|port| format!("ListenStream=127.0.0.1{port}\n"));
    let sockets = format!("[Socket]\nListenStream=\n{}", addresses.concat());
    drop_in(&machine, SOCKET, &sockets);
    let none = "[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n";
    drop_in(&machine, FRONT, none);
    machine.run(&["systemctl", "daemon-reload"]).ok();
    machine.run(&["systemctl", "start", SOCKET]).ok();
    assert_eq!(state(&machine, FRONT), "inactive\n");
    Session::connect();
    let main = property(&machine, FRONT, "MainPID");
    machine
        .run(&["systemctl", "restart", "--no-block", FRONT])
        .ok();
    eventually("another front has taken over", || {
        TcpStream::connect(IMAP).expect("nobody is refused");
        let now = property(&machine, FRONT, "MainPID");
        now != main && now != "0" && answers(FRONT_ADMIN)
    });
    Session::connect();
}

/// What an administrator of the machine has otherwise in a unit.
pub(super) fn drop_in(machine: &Machine, unit: &str, lines: &str) {
    let folder = format!("/etc/systemd/system/{unit}.d");
    fs::create_dir(machine.path(&folder)).unwrap();
    machine.write(&format!("{folder}/own.conf"), lines);
}

/// A session of a client, in the machine's network.
pub(super) struct Session {
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

    pub(super) fn logged_in() -> Self {
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

    pub(super) fn command(&mut self, command: &str) -> Vec<String> {
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

    /// The other side has closed it.
    pub(super) fn ends(&mut self) {
        let mut rest = String::new();
        let read = self.stream.read_line(&mut rest);
        assert!(matches!(read, Ok(0)), "{read:?}: {rest}");
    }

    /// Which process serves it.
    pub(super) fn process(&mut self) -> String {
        let lines = self.command("NOOP");
        let said = lines[0].strip_prefix("* OK process ");
        said.unwrap_or_else(|| panic!("{lines:?}")).to_owned()
    }
}

/// A property of a unit.
pub(super) fn property(machine: &Machine, unit: &str, name: &str) -> String {
    machine
        .run(&["systemctl", "show", "--value", "--property", name, unit])
        .ok()
}

pub(super) fn answers(admin: &str) -> bool {
    let address: SocketAddr = admin.parse().unwrap();
    http_status(address, "/healthz") == Some(200)
}

/// Has both run, and the node start servers of its own for one account.
pub(super) fn serve_by_exec(machine: &Machine) {
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
    machine.write("/etc/pigeonair/accounts.toml", account);
    machine.run(&["systemctl", "start", NODE, FRONT]).ok();
    eventually("both answer", || {
        answers(FRONT_ADMIN) && answers(NODE_ADMIN)
    });
}
