//! What breaks, and what users, the MTA and the front's log say of it: as `docs/failure-modes.md` has it, word by word.
//!
//! Each misfortune befalls a site of one proxy and two nodes. Whose home is the other node is served all the while, and so are all when
//! it is over.

use std::{io::Read as _, io::Write as _, net::SocketAddr, sync::Arc};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use super::site::{Side, Site};
use crate::{
    client::{Client, Method},
    lab::{User, adapt, eventually},
    smtp::Smtp,
};

const MODES: &str = include_str!("../../../docs/failure-modes.md");

/// What breaks.
struct Misfortune {
    name: &'static str,
    comes: fn(&mut Site),
    goes: fn(&mut Site),
    /// What the front's log gives as reason for a login that failed.
    reason: &'static str,
    /// What the MTA hears.
    mail: &'static str,
    /// Whose home is elsewhere is served.
    others: bool,
}

const MISFORTUNES: [Misfortune; 11] = [
    Misfortune {
        name: "the LDAP server is stopped",
        comes: |site| site.process("slapd-ldap").kill(),
        goes: start_slapd,
        reason: "x",
        mail: "451 4.4.3 ",
        others: false,
    },
    Misfortune {
        name: "the LDAP server hangs",
        comes: |site| site.process("slapd-ldap").freeze(),
        goes: |site| site.process("slapd-ldap").thaw(),
        reason: "x",
        mail: "451 4.4.3 ",
        others: false,
    },
    Misfortune {
        name: "the LDAP server's machine is gone",
        comes: |site| unplug(site, "ldap"),
        goes: |site| plug(site, "ldap"),
        reason: "x",
        mail: "451 4.4.3 ",
        others: false,
    },
    Misfortune {
        name: "the node process is down",
        comes: |site| site.process("node-node1").kill(),
        goes: |site| site.run_node("node1"),
        reason: "x",
        mail: "451 4.4.1 ",
        others: true,
    },
    Misfortune {
        name: "the node process hangs",
        comes: |site| site.process("node-node1").freeze(),
        goes: |site| site.process("node-node1").thaw(),
        reason: "x",
        mail: "451 4.4.1 ",
        others: true,
    },
    Misfortune {
        name: "the node's machine is gone",
        comes: |site| unplug(site, "node1"),
        goes: |site| plug(site, "node1"),
        reason: "x",
        mail: "451 4.4.1 ",
        others: true,
    },
    Misfortune {
        name: "the real server is down",
        comes: |site| site.stop("dovecot-node1"),
        goes: |site| site.launch_dovecot("node1"),
        reason: "x",
        mail: "451 4.4.1 ",
        others: true,
    },
    Misfortune {
        name: "the real server hangs",
        comes: |site| site.process("dovecot-node1").freeze(),
        goes: |site| site.process("dovecot-node1").thaw(),
        reason: "x",
        mail: "451 4.4.1 ",
        others: true,
    },
    Misfortune {
        name: "the link's key has expired",
        comes: |site| {
            change_node(
                site,
                "#not_after = \"2030-01-01T00:00:00Z\"",
                "not_after = \"2020-01-01T00:00:00Z\"",
            )
        },
        goes: |site| {
            change_node(
                site,
                "not_after = \"2020-01-01T00:00:00Z\"",
                "#not_after = \"2030-01-01T00:00:00Z\"",
            )
        },
        reason: "x",
        mail: "451 4.4.1 ",
        others: true,
    },
    Misfortune {
        name: "the node's master password is wrong",
        comes: |site| master_password(site, "another"),
        goes: |site| {
            site.install_keys("node1", &[]);
            site.stop("node-node1");
            site.run_node("node1");
        },
        reason: "x",
        mail: "250 ",
        others: true,
    },
    Misfortune {
        name: "the disk with the mailboxes is full",
        comes: |site| fill_disk(site),
        goes: |site| {
            site.machine("node1").run("umount /srv/mail");
        },
        reason: "x",
        mail: "452 ",
        others: true,
    },
];

fn start_slapd(site: &mut Site) {
    site.launch_slapd();
}

fn unplug(site: &mut Site, machine: &str) {
    let card = format!("ip link set to-{machine} down");
    site.machine("router").run(&card);
}

fn plug(site: &mut Site, machine: &str) {
    let card = format!("ip link set to-{machine} up");
    site.machine("router").run(&card);
}

fn change_node(site: &mut Site, from: &str, to: &str) {
    let path = "/etc/pigeonair/node.toml";
    let machine = site.machine("node1");
    let text = std::fs::read_to_string(machine.path(path)).unwrap();
    machine.write(path, 0o644, None, &adapt(&text, &[(from, to)]));
    site.stop("node-node1");
    site.run_node("node1");
}

fn master_password(site: &mut Site, password: &str) {
    let path = "/etc/pigeonair/master.password";
    site.machine("node1").write(path, 0o600, None, password);
    site.stop("node-node1");
    site.run_node("node1");
}

fn fill_disk(site: &mut Site) {
    site.machine("node1").run(
        "mount -t tmpfs -o size=64k,mode=0711 tmpfs /srv/mail
        head -c 70000 /dev/zero >/srv/mail/full || true",
    );
}

/// A login by IMAP: what is said after the tag.
fn imap(site: &Site, user: &User) -> String {
    let address = site.machine("proxy1").port(993);
    let tcp = site.machine("client1").connect(address).unwrap();
    let mut client = Client::tls_with(&site.trust, tcp);
    client
        .login(Method::Login, &user.name, &user.password)
        .status
}

/// The same by POP3: the last line.
fn pop3(site: &Site, user: &User) -> String {
    let address = site.machine("proxy1").port(995);
    let tcp = site.machine("client1").connect(address).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(&site.trust), name).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    let (name, password) = (&user.name, &user.password);
    write!(stream, "USER {name}\r\nPASS {password}\r\nQUIT\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    let heard = String::from_utf8(heard).unwrap();
    heard.lines().nth(2).unwrap_or(&heard).to_owned()
}

/// A message by LMTP: the reply for its recipient.
fn mail(site: &Site, user: &User) -> String {
    let machine = site.machine("proxy1");
    let address = SocketAddr::from(([127, 0, 0, 1], 24));
    let mut smtp = machine.inside(|| Smtp::connect(address));
    smtp.command("LHLO mx.example.org").says("250");
    smtp.command("MAIL FROM:<>").says("250");
    let mut answer = smtp.command(&format!("RCPT TO:<{}@example.org>", user.name));
    if answer.text.starts_with("250") {
        answer = smtp.command("DATA");
    }
    if answer.text.starts_with("354") {
        smtp.send("Subject: hi\r\n\r\nHello.\r\n.\r\n");
        answer = smtp.answer();
    }
    answer.text
}

#[test]
fn whatever_breaks_is_said_as_documented() {
    // A user for each, whom the front has not seen before.
    let count = u32::try_from(MISFORTUNES.len()).unwrap();
    let mut people: Vec<User> = (0..count)
        .map(|number| User::new(&format!("u{number}"), "node1", 20001 + number))
        .collect();
    let other = User::new("other", "node2", 20100);
    people.push(other.clone());
    let mut site = Site::new();
    site.start_ldap(&people);
    for (node, last) in [("node1", 21), ("node2", 22)] {
        site.add(node, Side::Servers, last);
        site.start_node(node);
    }
    site.add("proxy1", Side::Servers, 11);
    site.start_front("proxy1");
    site.add("client1", Side::Clients, 11);
    for (misfortune, user) in MISFORTUNES.iter().zip(&people) {
        let name = misfortune.name;
        (misfortune.comes)(&mut site);
        let start = std::time::Instant::now();
        let said = imap(&site, user);
        println!("== {name}\n imap {:?} {said}", start.elapsed());
        println!(" pop3 {}", pop3(&site, user));
        println!(" mail {}", mail(&site, user));
        if misfortune.others {
            println!(" other {}", imap(&site, &other).get(..20).unwrap());
        }
        for line in site
            .lines("front", "proxy1", &["login failed"])
            .iter()
            .rev()
            .take(2)
        {
            println!("  {line}");
        }
        for line in site
            .lines("front", "proxy1", &["not delivered"])
            .iter()
            .rev()
            .take(1)
        {
            println!("  {line}");
        }
        for line in site
            .machine("proxy1")
            .log("front")
            .lines()
            .filter(|line| line.contains("WARN") || line.contains("ERROR"))
            .filter(|line| !line.contains("login failed") && !line.contains("delivered"))
            .collect::<Vec<_>>()
            .iter()
            .rev()
            .take(2)
        {
            println!("  front: {line}");
        }
        for line in site
            .machine("node1")
            .log("node")
            .lines()
            .collect::<Vec<_>>()
            .iter()
            .rev()
            .take(2)
        {
            println!("  node: {line}");
        }
        (misfortune.goes)(&mut site);
        eventually(&format!("{name}: it is over"), || {
            imap(&site, user).starts_with("OK")
        });
    }
}
