//! Who steers the node's unit, under a real systemd: not the users whose servers run in it; and an administrator or a misfortune
//! in the middle of an upgrade leaves no process that systemd does not know.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::fs::OFlags;

use super::{
    is_full,
    machine::Machine,
    reload::lives,
    systemd::{
        NODE, NODE_ADMIN, SERVER, Session, answers, drop_in, machine, property, serve_by_exec,
        state,
    },
};
use crate::lab::eventually;

/// What the node, and systemd about it, has said.
fn journal(machine: &Machine) -> String {
    let unit = format!("--unit={NODE}");
    machine
        .run(&["journalctl", "--no-pager", "--output=cat", &unit])
        .ok()
}

fn main_process(machine: &Machine) -> String {
    property(machine, NODE, "MainPID")
}

/// A server whose user has it tell systemd something.
const TELLER: &str = r#"*SAY*)
        word=${line##* }
        NOTIFY_SOCKET=/run/systemd/notify /usr/bin/systemd-notify "${word%?}"
        printf '* OK said %s\r\n%s OK done\r\n' "$?" "$tag"
        ;;
    *LOGOUT*)"#;

#[test]
fn a_user_of_a_server_cannot_steer_the_unit_that_it_runs_in() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let teller = SERVER.replace("*LOGOUT*)", TELLER);
    machine.write("/usr/local/bin/imap-server", &teller);
    let before = main_process(&machine);
    let mut session = Session::logged_in();
    let own = session.process();
    let words = [
        format!("MAINPID={own}"),
        "WATCHDOG_USEC=1".to_owned(),
        "STATUS=owned".to_owned(),
        "STOPPING=1".to_owned(),
        "WATCHDOG=trigger".to_owned(),
    ];
    for (number, word) in words.iter().enumerate() {
        // It returns when systemd has dealt with it.
        let said = session.command(&format!("SAY {word}"));
        assert_eq!(said[0], "* OK said 0", "{word}");
        eventually("systemd has heard it, and from whom", || {
            let refused = "but reception only permitted for main PID";
            journal(&machine).matches(refused).count() == number + 1
        });
        for (name, expected) in [
            ("MainPID", before.as_str()),
            ("WatchdogUSec", "30s"),
            ("SubState", "running"),
            ("StatusText", "serving"),
            ("NRestarts", "0"),
        ] {
            assert_eq!(property(&machine, NODE, name), expected, "{word}: {name}");
        }
    }
    assert_eq!(session.process(), own);
}

/// An upgrade of the node whose new process has asked for the sockets, and says so into a pipe that is full.
struct Stuck(File);

impl Stuck {
    fn begin(machine: &Machine) -> Self {
        let [pipe, command] = ["/var/stuck", "/usr/bin/pigeonair upgrade node --wait 60"];
        machine.run(&["mkfifo", pipe]).ok();
        let lines = format!(
            "[Service]\nExecReload=\nExecReload=/bin/sh -c 'exec {command} --config {config} 2>{pipe}'\n",
            config = super::CONFIGURATION,
        );
        drop_in(machine, NODE, &lines);
        machine.run(&["systemctl", "daemon-reload"]).ok();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let mut pipe = options
            .custom_flags(flags)
            .open(machine.path(pipe))
            .unwrap();
        while pipe.write(&[b'x'; 4096]).is_ok() {}
        while pipe.write(b"x").is_ok() {}
        machine
            .run(&["systemctl", "reload", "--no-block", NODE])
            .ok();
        eventually("the new process has asked", || {
            journal(machine).contains("handing over to another process")
        });
        Self(pipe)
    }

    /// Lets it say what it has to say.
    fn go_on(&mut self) {
        let mut said = Vec::new();
        // Until nothing is left for now.
        let _ = self.0.read_to_end(&mut said);
    }
}

/// The processes that were started to take the node's place.
fn successors(machine: &Machine) -> String {
    machine
        .run(&["pgrep", "--full", "run node --take-over"])
        .out
        .trim()
        .to_owned()
}

#[test]
fn a_stop_or_restart_in_the_middle_of_an_upgrade_leaves_no_other_process() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let before = main_process(&machine);
    let mut stuck = Stuck::begin(&machine);
    machine
        .run(&["systemctl", "restart", "--no-block", NODE])
        .ok();
    eventually("the new process is gone", || {
        successors(&machine).is_empty()
    });
    eventually("the node is started again", || {
        // The command has to say what came of it.
        stuck.go_on();
        let now = main_process(&machine);
        ![&before, "0"].contains(&now.as_str()) && answers(NODE_ADMIN)
    });
    assert_eq!(property(&machine, NODE, "NRestarts"), "0");
    assert!(!lives(&machine, &before));

    machine.run(&["systemctl", "stop", NODE]).ok();
    assert_eq!(state(&machine, NODE), "inactive\n");
    assert!(!answers(NODE_ADMIN));
}

/// Who is gone cannot name the one that serves now, so the command does: systemd ends that one, too, and starts the unit again, as
/// after every crash. Else it would go on beside all that are started, and have their addresses.
#[test]
fn a_crash_in_the_middle_of_an_upgrade_leaves_no_process_that_systemd_does_not_know() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let mut session = Session::logged_in();
    let server = session.process();
    let before = main_process(&machine);
    let mut stuck = Stuck::begin(&machine);
    let new = successors(&machine);
    machine.run(&["kill", "-KILL", &before]).ok();
    eventually("a third one serves", || {
        stuck.go_on();
        let now = main_process(&machine);
        ![&before, &new, "0"].contains(&now.as_str()) && answers(NODE_ADMIN)
    });
    // Neither the new one nor any that could not have its addresses.
    assert!(!lives(&machine, &new));
    assert_eq!(property(&machine, NODE, "NRestarts"), "1");
    assert_eq!(successors(&machine), "");
    assert_eq!(session.process(), server);
}
