//! nginx's mail module, which asks a block of the same nginx.

use std::{fs, net::Ipv4Addr};

use super::{Peer, listening, names};
use crate::{
    processes::Program,
    way::Way,
    world::{World, fill},
};

const IP: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 2);

pub(super) fn start(world: &World) -> Peer {
    let dir = world.folder("nginx");
    let configuration = dir.join("nginx.conf");
    let text = fill(include_str!("nginx.conf"), &names(world, &dir, IP));
    fs::write(&configuration, text).unwrap();
    let log = dir.join("log");
    let arguments = ["nginx", "-c", configuration.to_str().unwrap()];
    let program = Program::start(&arguments, &log);
    let way = Way {
        name: "nginx",
        ip: IP,
        proxy: vec![program.group()],
        acceptors: Vec::new(),
    };
    listening(&way, &[&log, &dir.join("error.log")]);
    Peer {
        programs: vec![program],
        way,
    }
}
