//! Dovecot's login proxy, which asks slapd.

use std::{fs, net::Ipv4Addr};

use super::{Peer, listening, names};
use crate::{
    processes::Program,
    way::Way,
    world::{World, fill},
};

const IP: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 3);

pub(super) fn start(world: &World) -> Peer {
    let dir = world.folder("dovecot-proxy");
    let names = names(world, &dir, IP);
    let configuration = dir.join("dovecot.conf");
    for (path, text) in [
        (configuration.clone(), include_str!("dovecot.conf")),
        (
            dir.join("ldap.conf.ext"),
            include_str!("dovecot-ldap.conf.ext"),
        ),
    ] {
        fs::write(path, fill(text, &names)).unwrap();
    }
    let log = dir.join("log");
    let arguments = ["dovecot", "-F", "-c", configuration.to_str().unwrap()];
    let program = Program::start(&arguments, &log);
    let way = Way {
        name: "Dovecot",
        ip: IP,
        proxy: vec![program.group()],
        acceptors: Vec::new(),
    };
    listening(&way, &[&log, &dir.join("dovecot.log")]);
    Peer {
        programs: vec![program],
        way,
    }
}
