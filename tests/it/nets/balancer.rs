//! What spreads clients over proxies, in three forms.
//!
//! | form | how | a proxy sees | replies go |
//! | --- | --- | --- | --- |
//! | `Nat` | the router is the balancer, which replaces the destination | its own address | back through it |
//! | `Direct` | a machine of its own replaces the frame's destination only | the common address, which is on its loopback | to the client directly |
//! | `Dns` | a name server tells the addresses in turn | its own address | to the client directly |
//!
//! The kernel's IPVS is not everywhere, so nftables stands in for it, with what matters here: a new connection goes to the next
//! server in turn, and one that has begun stays where it is, whatever becomes of weights. Nobody looks at `/readyz` by himself:
//! [`Balancer::check`] is one round of checks, so that a test knows what was before it and what after.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use super::site::{Side, Site};
use crate::lab::{eventually, http_status};

/// The common address: on the router with NAT, else among the servers.
const LAST: u8 = 80;
const NAME: &str = "mail.example.org";
const PORTS: &str = "{ 110, 143, 993, 995 }";
const RECORDS: &str = "/etc/mail.hosts";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Direct,
    Dns,
    Nat,
}

#[derive(Debug)]
struct Server {
    name: String,
    address: Ipv4Addr,
    /// Of its network card.
    card: String,
    weight: u8,
    ready: bool,
}

/// A balancer, and what it knows of its servers.
#[derive(Debug)]
pub(super) struct Balancer {
    pub(super) form: Form,
    servers: Vec<Server>,
}

impl Balancer {
    /// Puts one in front of these proxies.
    pub(super) fn new(site: &mut Site, form: Form, proxies: &[&str]) -> Self {
        let mut balancer = Self {
            form,
            servers: Vec::new(),
        };
        let address = balancer.address();
        match form {
            Form::Nat => {
                let router = site.machine("router");
                router.run(&format!("ip address add {address}/32 dev clients"));
            }
            Form::Direct => {
                let machine = site.add("balancer", Side::Servers, 2);
                machine.run(&format!("ip address add {address}/32 dev eth0"));
            }
            Form::Dns => balancer.start_name_server(site),
        }
        for proxy in proxies {
            balancer.add(site, proxy);
        }
        balancer
    }

    /// The address that all proxies have in common.
    pub(super) fn address(&self) -> Ipv4Addr {
        match self.form {
            Form::Nat => Side::Clients.address(LAST),
            Form::Direct | Form::Dns => Side::Servers.address(LAST),
        }
    }

    fn machine(&self) -> &'static str {
        match self.form {
            Form::Direct => "balancer",
            Form::Dns | Form::Nat => "router",
        }
    }

    /// A further proxy, which gets its share from the next check on.
    pub(super) fn add(&mut self, site: &Site, proxy: &str) {
        let machine = site.machine(proxy);
        if self.form == Form::Direct {
            take_address(site, proxy, self.address());
        }
        self.servers.push(Server {
            name: proxy.to_owned(),
            address: machine.address,
            card: card(&machine.run("ip -o link show eth0")),
            weight: 1,
            ready: self.form == Form::Dns,
        });
        self.check(site);
    }

    /// One round of health checks; those that are ready.
    pub(super) fn check(&mut self, site: &Site) -> Vec<&str> {
        // A name server asks nobody.
        if self.form != Form::Dns {
            let machine = site.machine(self.machine());
            for server in &mut self.servers {
                let admin = SocketAddr::from((server.address, 9143));
                let status = machine.inside(|| http_status(admin, "/readyz"));
                server.ready = status == Some(200);
            }
        }
        self.program(site);
        let ready = self.servers.iter().filter(|server| server.ready);
        ready.map(|server| server.name.as_str()).collect()
    }

    /// What an administrator does: with 0 a proxy gets nobody new.
    pub(super) fn weigh(&mut self, site: &Site, proxy: &str, weight: u8) {
        let mut servers = self.servers.iter_mut();
        let server = servers.find(|server| server.name == proxy).unwrap();
        server.weight = weight;
        self.program(site);
    }

    fn program(&self, site: &Site) {
        let chosen: Vec<&Server> = self
            .servers
            .iter()
            .filter(|server| server.ready && server.weight > 0)
            .collect();
        let script = match self.form {
            Form::Nat => nat(self.address(), &chosen),
            Form::Direct => direct(self.address(), &self.servers, &chosen, &own_card(site)),
            Form::Dns => return tell_names(site, &chosen),
        };
        let machine = site.machine(self.machine());
        machine.write("/etc/nftables.conf", 0o600, None, &script);
        machine.run("nft -f /etc/nftables.conf");
    }

    fn start_name_server(&self, site: &mut Site) {
        tell_names(site, &[]);
        let listen = format!("--listen-address={}", Side::Clients.address(1));
        let records = format!("--addn-hosts={RECORDS}");
        let command = [
            "dnsmasq",
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local-ttl=60",
            &listen,
            &records,
        ];
        site.start(self.machine(), "dnsmasq", &command);
        let address = SocketAddr::from((Side::Clients.address(1), 53));
        let machine = site.machine(self.machine());
        eventually("the name server listens", || {
            machine.connect(address).is_ok()
        });
    }

    /// A connection of a client's to this port of whatever proxy.
    pub(super) fn dial(&self, site: &Site, client: &str, port: u16) -> io::Result<TcpStream> {
        if self.form != Form::Dns {
            let address = SocketAddr::from((self.address(), port));
            return site.machine(client).connect(address);
        }
        // As mail programs do: the next address if one does not answer.
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in resolve(site, client) {
            match site.machine(client).connect((address, port).into()) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The addresses of `NAME`, in the order in which a client hears them now.
pub(super) fn resolve(site: &Site, client: &str) -> Vec<Ipv4Addr> {
    let machine = site.machine(client);
    let resolver = format!("nameserver {}\n", Side::Clients.address(1));
    machine.write("/etc/resolv.conf", 0o644, None, &resolver);
    let mut addresses = Vec::new();
    eventually("the name server answers", || {
        let output = machine.ask(&["getent", "ahostsv4", NAME]);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.contains("STREAM"));
        addresses = lines
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        !addresses.is_empty()
    });
    addresses
}

/// Has the name server tell these and no others.
fn tell_names(site: &Site, chosen: &[&Server]) {
    let records: String = chosen
        .iter()
        .map(|server| format!("{} {NAME}\n", server.address))
        .collect();
    let machine = site.machine("router");
    machine.write(RECORDS, 0o644, None, &records);
    if let Some(server) = site.running("dnsmasq-router") {
        server.reload();
    }
}

/// Puts the common address where a proxy takes it and nobody on the wire hears of it, by the samples.
pub(super) fn take_address(site: &Site, proxy: &str, address: Ipv4Addr) {
    let machine = site.machine(proxy);
    let settings = include_str!("../../../config/keepalived/proxy-sysctl.conf");
    machine.write("/etc/sysctl.d/60-pigeonair-vip.conf", 0o644, None, settings);
    machine.run(&format!(
        "sysctl -q -p /etc/sysctl.d/60-pigeonair-vip.conf
        ip address replace {address}/32 dev lo"
    ));
}

fn own_card(site: &Site) -> String {
    card(&site.machine("balancer").run("ip -o link show eth0"))
}

fn card(link: &str) -> String {
    let mut words = link.split_whitespace();
    words.find(|word| *word == "link/ether").unwrap();
    words.next().unwrap().to_owned()
}

/// `0 : a, 1 : b`
fn turns(values: impl Iterator<Item = String>) -> String {
    let pairs = values.enumerate();
    let pairs = pairs.map(|(turn, value)| format!("{turn} : {value}"));
    pairs.collect::<Vec<_>>().join(", ")
}

fn nat(address: Ipv4Addr, chosen: &[&Server]) -> String {
    let turn = turns(chosen.iter().map(|server| server.address.to_string()));
    let count = chosen.len();
    let rule = if chosen.is_empty() {
        String::new()
    } else {
        format!(
            "add rule ip balancer prerouting ip daddr {address} tcp dport {PORTS} dnat to numgen inc mod {count} map {{ {turn} }}\n"
        )
    };
    format!(
        "add table ip balancer
add chain ip balancer prerouting {{ type nat hook prerouting priority dstnat; }}
flush chain ip balancer prerouting
{rule}"
    )
}

/// A table of connections, as IPVS has one, and the frame sent on to the proxy whose turn it was at the first packet.
fn direct(address: Ipv4Addr, all: &[Server], chosen: &[&Server], own: &str) -> String {
    let mark = |server: &Server| u32::from(server.address).to_string();
    let turn = turns(chosen.iter().map(|server| mark(server)));
    let count = chosen.len();
    let cards: Vec<String> = all
        .iter()
        .map(|server| format!("{} : {}", mark(server), server.card))
        .collect();
    let cards = cards.join(", ");
    let choose = if chosen.is_empty() {
        String::new()
    } else {
        format!(
            "add rule netdev balancer ingress tcp flags & (syn | ack) == syn meta mark set numgen inc mod {count} map {{ {turn} }}
add rule netdev balancer ingress tcp flags & (syn | ack) == syn update @connections {{ ip saddr . tcp sport : meta mark }}
"
        )
    };
    format!(
        "add table netdev balancer
add map netdev balancer connections {{ type ipv4_addr . inet_service : mark; flags dynamic,timeout; timeout 40m; size 65536; }}
add chain netdev balancer ingress {{ type filter hook ingress device eth0 priority 0; }}
flush chain netdev balancer ingress
add rule netdev balancer ingress ip daddr != {address} return
add rule netdev balancer ingress tcp dport != {PORTS} return
{choose}add rule netdev balancer ingress meta mark set ip saddr . tcp sport map @connections
add rule netdev balancer ingress ether saddr set {own}
add rule netdev balancer ingress ether daddr set meta mark map {{ {cards} }}
add rule netdev balancer ingress meta mark != 0 fwd to eth0
"
    )
}
