//! `systemctl reload`, and what an upgrade of the package does with it: another configuration, and another version in the running
//! one's place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    CONFIGURATION, install_file, is_full,
    machine::Machine,
    package,
    systemd::{
        FRONT, FRONT_ADMIN, LMTP, NODE, NODE_ADMIN, SERVER, Session, drop_in, machine, property,
        serve_by_exec, state,
    },
};
use crate::{
    lab::{eventually, metric},
    smtp::lmtp,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A version that is as long.
fn other_version() -> String {
    let (rest, last) = VERSION.split_at(VERSION.len() - 1);
    format!("{rest}{}", if last == "1" { "2" } else { "1" })
}

/// The package of that version. Its program is the one that these tests were built with, which is not optimised and so has its
/// version nowhere but among its texts.
fn other_package(folder: &Path) -> PathBuf {
    let other = other_version();
    let unpacked = folder.join("unpacked");
    let dpkg_deb = |arguments: &[&str], from: &Path, to: &Path| {
        let mut command = Command::new("dpkg-deb");
        let done = command.args(arguments).arg(from).arg(to).status().unwrap();
        assert!(done.success(), "{command:?}");
    };
    dpkg_deb(&["--raw-extract"], &package(), &unpacked);
    let control = unpacked.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = format!("\nVersion: {VERSION}-");
    assert!(text.contains(&version), "{text}");
    let text = text.replace(&version, &format!("\nVersion: {other}-"));
    fs::write(control, text).unwrap();
    let mut program = fs::read(env!("CARGO_BIN_EXE_pigeonair")).unwrap();
    let mut at = 0;
    while let Some(found) = program[at..]
        .windows(VERSION.len())
        .position(|octets| octets == VERSION.as_bytes())
    {
        at += found;
        program[at..at + VERSION.len()].copy_from_slice(other.as_bytes());
    }
    fs::write(unpacked.join("usr/bin/pigeonair"), program).unwrap();
    let package = folder.join("other.deb");
    dpkg_deb(
        &["-Znone", "--root-owner-group", "--build"],
        &unpacked,
        &package,
    );
    package
}

/// The main processes of front and node.
fn mains(machine: &Machine) -> [String; 2] {
    [FRONT, NODE].map(|unit| property(machine, unit, "MainPID"))
}

pub(super) fn lives(machine: &Machine, process: &str) -> bool {
    machine.run(&["kill", "-0", process]).code == Some(0)
}

/// When the watchdog has heard of a unit last, in microseconds.
fn heard(machine: &Machine, unit: &str) -> u64 {
    let heard = property(machine, unit, "WatchdogTimestampMonotonic");
    heard.parse().unwrap()
}

fn rewrite(machine: &Machine, from: &str, to: &str) {
    let text = fs::read_to_string(machine.path(CONFIGURATION)).unwrap();
    assert!(text.contains(from), "{from}: {text}");
    machine.write(CONFIGURATION, &text.replace(from, to));
}

/// What the front says to mail for that domain.
fn mail_to(domain: &str, says: &str) {
    let recipient = format!("ann@{domain}");
    let message = b"Subject: hi\r\n\r\nhere\r\n";
    let mut front = lmtp(LMTP.parse().unwrap());
    front.command("MAIL FROM:<>").says("250 ");
    front.command(&format!("RCPT TO:<{recipient}>")).says(says);
    if says.starts_with("250") {
        front.command("RSET").says("250 ");
        front.deliver("", &[&recipient], message)[0].says("250 ");
    }
}

#[test]
fn a_reload_takes_a_sound_configuration_and_leaves_a_broken_one() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let before = mains(&machine);
    let mut session = Session::logged_in();
    let server = session.process();
    mail_to("example.net", "550 ");
    let domains = "domains = [\"example.org\"";
    rewrite(&machine, domains, &format!("{domains}, \"example.net\""));
    machine.run(&["systemctl", "reload", FRONT]).ok();
    mail_to("example.net", "250 ");

    let program = "/usr/local/bin/other-server";
    let script = SERVER.replace("process %s", "process other-%s");
    machine.write(program, &script);
    machine.run(&["chmod", "0755", program]).ok();
    rewrite(&machine, "/usr/local/bin/imap-server", program);
    machine.run(&["systemctl", "reload", NODE]).ok();
    let process = Session::logged_in().process();
    assert!(process.starts_with("other-"), "{process}");

    // Both read the file that neither can use: one wrong key, and then no TOML at all.
    for (from, to) in [("domains = ", "domain = "), ("[directory]", "[directory")] {
        rewrite(&machine, from, to);
        let failed = machine.run(&["systemctl", "reload", FRONT]);
        assert_eq!(failed.code, Some(1), "{failed:?}");
    }
    let failed = machine.run(&["systemctl", "reload", NODE]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    for unit in [FRONT, NODE] {
        assert_eq!(state(&machine, unit), "active\n");
    }
    assert_eq!(mains(&machine), before);
    mail_to("example.net", "250 ");
    let process = Session::logged_in().process();
    assert!(process.starts_with("other-"), "{process}");
    assert_eq!(session.process(), server);
}

#[test]
fn an_upgrade_of_the_package_ends_nothing() {
    if !is_full() {
        return;
    }
    let machine = machine();
    serve_by_exec(&machine);
    let mut session = Session::logged_in();
    let server = session.process();
    let before = mains(&machine);
    let read = || fs::read_to_string(machine.path(CONFIGURATION)).unwrap();
    // The same version; but who knows what was built into it this time?
    let domains = "domains = [\"example.org\"";
    rewrite(&machine, domains, &format!("{domains}, \"example.net\""));
    let configuration = read();
    install_file(&machine, &package()).ok();
    mail_to("example.net", "250 ");
    let after = mains(&machine);
    assert!(
        after
            .iter()
            .zip(&before)
            .all(|(after, before)| after != before),
        "{after:?}"
    );
    assert_eq!(read(), configuration);
    assert_eq!(session.process(), server);
    Session::logged_in();

    // What cannot be used fails no upgrade, and is told.
    rewrite(&machine, "domains = ", "domain = ");
    let done = install_file(&machine, &package());
    let told = "pigeonair: pigeonair-front.service goes on as it was";
    assert!(done.notes.contains(told), "{done:?}");
    done.ok();
    // The node has no part in that key.
    assert_eq!(mains(&machine)[0], after[0]);
    assert_eq!(session.process(), server);
    mail_to("example.net", "250 ");
    Session::logged_in();

    // What does not run stays so.
    rewrite(&machine, "domain = ", "domains = ");
    machine.run(&["systemctl", "stop", NODE]).ok();
    install_file(&machine, &package()).ok();
    assert_eq!(state(&machine, NODE), "inactive\n");
    assert_eq!(mains(&machine)[1], "0");
}

/// A machine on which both run and are watched closely, and end soon.
fn watched() -> Machine {
    let machine = machine();
    for unit in [FRONT, NODE] {
        drop_in(&machine, unit, "[Service]\nWatchdogSec=2s\n");
    }
    machine.run(&["systemctl", "daemon-reload"]).ok();
    for section in ["[proxy]\n", "[delivery]\n"] {
        let hurried = format!("{section}drain_timeout = \"1s\"\n");
        rewrite(&machine, section, &hurried);
    }
    serve_by_exec(&machine);
    machine
}

/// The watchdog of both hears of them for longer than it would wait for a word, and has not had them started again.
fn is_kept_alive(machine: &Machine, interval: &str, seconds: u64) {
    let heard = || [FRONT, NODE].map(|unit| heard(machine, unit));
    let (before, first) = (mains(machine), heard());
    for unit in [FRONT, NODE] {
        assert_eq!(property(machine, unit, "WatchdogUSec"), interval);
    }
    eventually("the watchdog hears more than its interval", || {
        let mut times = heard().into_iter().zip(first);
        times.all(|(now, first)| now > first + seconds * 1_000_000)
    });
    assert_eq!(mains(machine), before);
    for unit in [FRONT, NODE] {
        assert_eq!(property(machine, unit, "NRestarts"), "0");
    }
}

#[test]
fn another_version_takes_the_place_of_the_running_one() {
    if !is_full() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let other = other_package(folder.path());
    let machine = watched();
    let [old_front, old_node] = mains(&machine);
    is_kept_alive(&machine, "2s", 5);
    let mut session = Session::logged_in();
    let server = session.process();

    install_file(&machine, &other).ok();
    let [new_front, new_node] = mains(&machine);
    assert!(new_front != old_front && new_node != old_node);
    for (unit, admin) in [(FRONT, FRONT_ADMIN), (NODE, NODE_ADMIN)] {
        assert_eq!(state(&machine, unit), "active\n");
        let version = format!("pigeonair_build_info{{version=\"{}\"}} ", other_version());
        assert_eq!(metric(admin.parse().unwrap(), &version), Some(1.0));
    }
    // Who was there stays with the old front; who comes is the new one's; the new node counts both.
    let open = |admin: &str| {
        let line = "pigeonair_sessions_open{protocol=\"imap\"} ";
        metric(admin.parse().unwrap(), line)
    };
    assert_eq!(session.process(), server);
    assert!(lives(&machine, &old_front));
    let mut later = Session::logged_in();
    assert_ne!(later.process(), server);
    assert_eq!(open(FRONT_ADMIN), Some(1.0));
    assert_eq!(open(NODE_ADMIN), Some(2.0));

    // The interval is the new process's own now.
    is_kept_alive(&machine, "30s", 31);
    assert_eq!(session.process(), server);
    eventually("the old node has ended: servers have its sessions", || {
        !lives(&machine, &old_node)
    });

    machine.run(&["systemctl", "stop", NODE]).ok();
    assert!(!lives(&machine, &new_node));
    assert_eq!(session.process(), server);
    machine.run(&["systemctl", "stop", FRONT]).ok();
    session.ends();
    later.ends();
    for process in [&old_front, &new_front] {
        assert!(!lives(&machine, process), "{process}");
    }
    for unit in [FRONT, NODE] {
        assert_eq!(property(&machine, unit, "Result"), "success");
    }
}
