//! The Dovecot of a node, with the homes of its accounts.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use super::{
    MAIL_UID, MASTER_PASSWORD, MASTER_USER, Node, OWN_UIDS, fill, own_uid, user_with_own_uid,
    wait_for,
};
use crate::{
    processes::Program,
    way::{IMAP, POP3},
};

/// Whose homes a node holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Uids {
    /// All of [`MAIL_UID`]: processes serve one session after the other.
    One,
    /// Each of its own: a process per session.
    Own,
}

/// Starts it.
pub(super) fn start(name: &'static str, dir: &Path, ip: Ipv4Addr, uids: Uids) -> (Node, Program) {
    let home_root = dir.join("home");
    fs::create_dir(&home_root).unwrap();
    let (userdb, service_count) = match uids {
        // The user's folder is made by whoever comes first.
        Uids::One => {
            chown(&home_root, Some(MAIL_UID), Some(MAIL_UID)).unwrap();
            let arguments = format!(
                "allow_all_users=yes uid={MAIL_UID} gid={MAIL_UID} home={}/%u",
                home_root.display()
            );
            (userdb("static", &arguments), "200")
        }
        Uids::Own => {
            let path = dir.join("users.passwd");
            readable(&path, &homes_with_own_uids(&home_root));
            (userdb("passwd-file", path.to_str().unwrap()), "1")
        }
    };
    readable(
        &dir.join("master.passwd"),
        &format!("{MASTER_USER}:{{PLAIN}}{MASTER_PASSWORD}\n"),
    );
    let exec_conf = dir.join("exec.conf");
    let exec = include_str!("../../../config/dovecot/exec.conf");
    readable(&exec_conf, &format!("{exec}mail_fsync = never\n"));
    let text = fill(
        include_str!("dovecot.conf"),
        &[
            ("DIR", dir.to_str().unwrap()),
            ("IP", &ip.to_string()),
            ("NAME", name),
            ("USERDB", &userdb),
            ("SERVICE_COUNT", service_count),
            ("IMAP", &IMAP.to_string()),
            ("POP3", &POP3.to_string()),
        ],
    );
    let configuration = dir.join("dovecot.conf");
    fs::write(&configuration, text).unwrap();
    let log = dir.join("log");
    let arguments = ["dovecot", "-F", "-c", configuration.to_str().unwrap()];
    let program = Program::start(&arguments, &log);
    for port in [IMAP, POP3] {
        wait_for(
            SocketAddr::from((ip, port)),
            &[&log, &dir.join("dovecot.log")],
        );
    }
    let node = Node {
        name,
        ip,
        imap_master: dir.join("run/imap-master"),
        exec_conf,
        home_root,
        group: program.group(),
    };
    (node, program)
}

fn userdb(driver: &str, arguments: &str) -> String {
    format!("userdb {{\n  driver = {driver}\n  args = {arguments}\n}}")
}

/// Makes the homes; returns the lines of the users' file.
fn homes_with_own_uids(home_root: &Path) -> String {
    let mut lines = String::new();
    for number in 0..OWN_UIDS {
        let (name, uid) = (user_with_own_uid(number), own_uid(number));
        let home = home_root.join(&name);
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&home, Some(uid), Some(uid)).unwrap();
        writeln!(lines, "{name}::{uid}:{uid}::{}::", home.display()).unwrap();
    }
    lines
}

/// For the processes of Dovecot, none of which is root.
fn readable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}
