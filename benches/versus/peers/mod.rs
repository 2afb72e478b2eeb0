//! The other proxies, each with the settings that somebody who knows it well would choose for this machine.

mod dovecot;
mod haproxy;
mod nginx;
mod perdition;

use std::{net::Ipv4Addr, path::Path};

use super::{
    processes::Program,
    way::{Channel, IMAP, IMAPS, POP3, POP3S, Protocol, Way},
    world::{LDAP_IP, LDAP_PORT, PEOPLE, SERVICE_DN, SERVICE_PASSWORD, World, wait_for},
};

/// The peers, running, in the order of the tables.
pub(crate) struct Peers {
    _programs: Vec<Program>,
    /// HAProxy, nginx, Dovecot's proxy, perdition.
    pub(crate) ways: Vec<Way>,
}

impl Peers {
    /// Starts them and waits until they serve.
    pub(crate) fn start(world: &World) -> Self {
        let mut programs = Vec::new();
        let mut ways = Vec::new();
        for start in [
            haproxy::start,
            nginx::start,
            dovecot::start,
            perdition::start,
        ] {
            let peer = start(world);
            programs.extend(peer.programs);
            ways.push(peer.way);
        }
        Self {
            _programs: programs,
            ways,
        }
    }
}

/// One of them.
struct Peer {
    programs: Vec<Program>,
    way: Way,
}

/// What stands between @ in their configurations.
fn names(world: &World, dir: &Path, ip: Ipv4Addr) -> Vec<(&'static str, String)> {
    let (certificate, key) = world.certificate();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    vec![
        ("DIR", path(dir)),
        ("IP", ip.to_string()),
        ("IMAP", IMAP.to_string()),
        ("IMAPS", IMAPS.to_string()),
        ("POP3", POP3.to_string()),
        ("POP3S", POP3S.to_string()),
        ("CERTIFICATE", path(certificate)),
        ("KEY", path(key)),
        ("LDAP", format!("{LDAP_IP}:{LDAP_PORT}")),
        ("PEOPLE", PEOPLE.to_owned()),
        ("SERVICE_DN", SERVICE_DN.to_owned()),
        ("SERVICE_PASSWORD", SERVICE_PASSWORD.to_owned()),
    ]
}

/// Waits until all four ports answer.
fn listening(way: &Way, logs: &[&Path]) {
    for protocol in [Protocol::Imap, Protocol::Pop3] {
        for channel in [Channel::Plain, Channel::Tls] {
            wait_for(way.address(protocol, channel), logs);
        }
    }
}
