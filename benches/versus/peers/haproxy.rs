//! HAProxy in TCP mode.

use std::{fs, net::Ipv4Addr};

use super::{Peer, listening, names};
use crate::{
    processes::Program,
    way::Way,
    world::{World, fill},
};

const IP: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);

pub(super) fn start(world: &World) -> Peer {
    let dir = world.folder("haproxy");
    let (certificate, key) = world.certificate();
    // It wants both in one file.
    let bundle = [fs::read(certificate).unwrap(), fs::read(key).unwrap()].concat();
    fs::write(dir.join("bundle.pem"), bundle).unwrap();
    let configuration = dir.join("haproxy.cfg");
    let text = fill(include_str!("haproxy.cfg"), &names(world, &dir, IP));
    fs::write(&configuration, text).unwrap();
    let log = dir.join("log");
    let arguments = ["haproxy", "-db", "-f", configuration.to_str().unwrap()];
    let program = Program::start(&arguments, &log);
    let way = Way {
        name: "HAProxy",
        ip: IP,
        proxy: vec![program.group()],
        acceptors: Vec::new(),
    };
    listening(&way, &[&log]);
    Peer {
        programs: vec![program],
        way,
    }
}
