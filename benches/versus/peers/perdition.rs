//! perdition, which starts a process for each session and asks slapd for each login.

use std::{fs, net::Ipv4Addr, os::unix::fs::chown};

use super::{Peer, listening, names};
use crate::{
    processes::Program,
    way::{IMAP, IMAPS, POP3, POP3S, Way},
    world::{SERVICE_DN, World, fill},
};

const IP: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 4);
/// Debian's `nobody`, as whom it runs from the start: a process that changes its uid would forget to end with us.
const NOBODY: u32 = 65534;

pub(super) fn start(world: &World) -> Peer {
    let dir = world.folder("perdition");
    let key = dir.join("key.pem");
    fs::copy(world.certificate().1, &key).unwrap();
    chown(&key, Some(NOBODY), Some(NOBODY)).unwrap();
    let nobody = NOBODY.to_string();
    let mut programs = Vec::new();
    let mut logs = Vec::new();
    for (protocol, port, outgoing, ssl_mode) in [
        ("IMAP4", IMAP, IMAP, "none"),
        ("IMAP4S", IMAPS, IMAP, "ssl_listen"),
        ("POP3", POP3, POP3, "none"),
        ("POP3S", POP3S, POP3, "ssl_listen"),
    ] {
        let mut names = names(world, &dir, IP);
        names.extend([
            ("PROTOCOL", protocol.to_owned()),
            ("LISTEN_PORT", port.to_string()),
            ("OUTGOING_PORT", outgoing.to_string()),
            ("SSL_MODE", ssl_mode.to_owned()),
            // Commas separate it from what follows.
            ("BINDNAME", SERVICE_DN.replace(',', "%2c")),
        ]);
        let configuration = dir.join(format!("{port}.conf"));
        fs::write(&configuration, fill(include_str!("perdition.conf"), &names)).unwrap();
        let log = dir.join(format!("log.{port}"));
        let lines = dir.join(format!("lines.{port}"));
        fs::write(&lines, "").unwrap();
        chown(&lines, Some(NOBODY), Some(NOBODY)).unwrap();
        let arguments = [
            "setpriv",
            "--reuid",
            &nobody,
            "--regid",
            &nobody,
            "--clear-groups",
            "--pdeathsig",
            "TERM",
            "--",
            "perdition",
            "--config_file",
            configuration.to_str().unwrap(),
        ];
        programs.push(Program::start(&arguments, &log));
        logs.extend([log, lines]);
    }
    let way = Way {
        name: "perdition",
        ip: IP,
        proxy: programs.iter().map(Program::group).collect(),
        acceptors: Vec::new(),
    };
    let logs: Vec<_> = logs.iter().map(AsRef::as_ref).collect();
    listening(&way, &logs);
    Peer { programs, way }
}
