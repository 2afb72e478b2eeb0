//! What breaks, and what users, the MTA and the front's log say of it: as `docs/failure-modes.md` has it, word by word.
//! What takes long is tried with `PIGEONAIR_FULL` alone.
//!
//! Each misfortune befalls a site of one proxy and two nodes. Whose home is the other node is served all the while, and so are all when
//! it is over.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

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
    /// What the log gives as reason for a login that failed: of the front, or of the node that refused.
    reason: (&'static str, &'static str),
    /// What the MTA hears.
    mail: &'static str,
    /// Whose home is elsewhere is served.
    others: bool,
    /// It takes many seconds until everybody has given up.
    slow: bool,
    /// Whether a session that is there goes on, where that is a matter of moments.
    sessions: Option<bool>,
}

const FRONT: &str = "front";
const NODE: &str = "node";

const MISFORTUNES: [Misfortune; 11] = [
    Misfortune {
        name: "the LDAP server is stopped",
        comes: |site| site.process("slapd-ldap").kill(),
        goes: start_slapd,
        reason: (
            FRONT,
            "directory is not available: ldap://ldap.example.org:389: cannot connect: Connection refused (os error 111)",
        ),
        mail: "451 4.4.3 The directory does not answer.",
        slow: false,
        sessions: Some(true),
        others: false,
    },
    Misfortune {
        name: "the LDAP server hangs",
        comes: |site| site.process("slapd-ldap").freeze(),
        goes: |site| site.process("slapd-ldap").thaw(),
        reason: (FRONT, "no answer in time"),
        mail: "451 4.4.3 The directory does not answer.",
        slow: true,
        sessions: Some(true),
        others: false,
    },
    Misfortune {
        name: "the LDAP server's machine is gone",
        comes: |site| unplug(site, "ldap"),
        goes: |site| plug(site, "ldap"),
        reason: (FRONT, "no answer in time"),
        mail: "451 4.4.3 The directory does not answer.",
        slow: true,
        sessions: Some(true),
        others: false,
    },
    Misfortune {
        name: "the node process is down",
        comes: |site| site.process("node-node1").kill(),
        goes: |site| site.run_node("node1"),
        reason: (
            FRONT,
            "cannot connect to the node: Connection refused (os error 111)",
        ),
        mail: "451 4.4.1 The mailbox is not reachable just now.",
        slow: false,
        sessions: Some(false),
        others: true,
    },
    Misfortune {
        name: "the node process hangs",
        comes: |site| site.process("node-node1").freeze(),
        goes: |site| site.process("node-node1").thaw(),
        reason: (FRONT, "the node took too long for"),
        mail: "451 4.4.1 The mailbox is not reachable just now.",
        slow: true,
        sessions: None,
        others: true,
    },
    Misfortune {
        name: "the node's machine is gone",
        comes: |site| unplug(site, "node1"),
        goes: |site| plug(site, "node1"),
        reason: (FRONT, "the node took too long for the connection"),
        mail: "451 4.4.1 The mailbox is not reachable just now.",
        slow: true,
        sessions: None,
        others: true,
    },
    Misfortune {
        name: "the real server is down",
        comes: |site| site.stop("dovecot-node1"),
        goes: |site| site.launch_dovecot("node1"),
        reason: (
            NODE,
            "cannot connect to 127.0.0.1:10143: Connection refused (os error 111)",
        ),
        mail: "451 4.3.0 The message could not be stored.",
        slow: false,
        sessions: Some(false),
        others: true,
    },
    Misfortune {
        name: "the real server hangs",
        comes: |site| site.process("dovecot-node1").freeze(),
        goes: |site| site.process("dovecot-node1").thaw(),
        reason: (NODE, "real server gave no answer in time"),
        mail: "250 ",
        slow: true,
        sessions: None,
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
        reason: (NODE, "key proxy1 has expired"),
        mail: "451 4.4.1",
        slow: false,
        sessions: None,
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
        reason: (
            NODE,
            "login at the real server failed: real server refuses the master login",
        ),
        mail: "250 ",
        slow: false,
        sessions: None,
        others: true,
    },
    Misfortune {
        name: "the disk with the mailboxes is full",
        comes: |site| fill_disk(site),
        goes: |site| {
            site.machine("node1").run("umount /srv/mail");
        },
        reason: (NODE, "real server refuses the session: [SYS/TEMP]"),
        mail: "451 4.2.0",
        slow: false,
        sessions: None,
        others: true,
    },
];

fn start_slapd(site: &mut Site) {
    site.launch_slapd("ldap");
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
    let text = fs::read_to_string(machine.path(path)).unwrap();
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

/// The denial of whoever cannot be served now.
const IMAP: &str =
    "NO [UNAVAILABLE] Your mailbox is not reachable just now, please try again later.";
const POP3: &str =
    "-ERR [SYS/TEMP] Your mailbox is not reachable just now, please try again later.";

/// For a user at home on the node in trouble, whom the front has not seen before; one who is logged in there; and one elsewhere.
fn befall(site: &mut Site, misfortune: &Misfortune, user: &User, steady: &[User; 2]) {
    let name = misfortune.name;
    let [held, other] = steady;
    let address = site.machine("proxy1").port(993);
    let mut session = site.session("client1", address, held);
    (misfortune.comes)(site);
    match misfortune.sessions {
        Some(true) => _ = session.client.command("NOOP").ok(),
        Some(false) => {
            // Not a word of ours, only of the real server that is going down.
            let rest = session.client.rest();
            let is_its = rest.is_empty() || name.contains("server") && rest.starts_with(b"* BYE ");
            assert!(is_its, "{name}: {rest:?}");
        }
        None => (),
    }
    let said = imap(site, user);
    // Dovecot opens a mailbox on a full disk by IMAP, and not by POP3.
    let reads = said.starts_with("OK") && name.contains("disk");
    assert!(reads || said == IMAP, "{name}: {said}");
    assert_eq!(pop3(site, user), POP3, "{name}");
    // A front that has found the node away a moment ago may say so once more.
    eventually(&format!("{name}: mail is {}", misfortune.mail), || {
        mail(site, user).starts_with(misfortune.mail)
    });
    if misfortune.others {
        let said = imap(site, other);
        assert!(said.starts_with("OK"), "{name}: {said}");
    }
    let (process, reason) = misfortune.reason;
    let machine = if process == FRONT { "proxy1" } else { "node1" };
    eventually(&format!("{name}: the {process} says why"), || {
        let says = !site.lines(process, machine, &[reason]).is_empty();
        if !says {
            // The node says it of logins that get there.
            imap(site, user);
        }
        says
    });
    (misfortune.goes)(site);
    eventually(&format!("{name}: it is over"), || {
        imap(site, user).starts_with("OK")
    });
}

#[test]
fn whatever_breaks_is_said_as_documented() {
    let is_full = std::env::var_os("PIGEONAIR_FULL").is_some();
    let befalls: Vec<&Misfortune> = MISFORTUNES
        .iter()
        .filter(|misfortune| is_full || !misfortune.slow)
        .collect();
    let mut people: Vec<User> = (20001..)
        .take(befalls.len())
        .map(|uid| User::new(&format!("u{uid}"), "node1", uid))
        .collect();
    let steady = [("held", "node1", 20100), ("other", "node2", 20101)];
    let steady = steady.map(|(name, node, uid)| User::new(name, node, uid));
    people.extend(steady.clone());
    let mut site = Site::new();
    site.start_ldap(&people);
    for (node, last) in [("node1", 21), ("node2", 22)] {
        site.add(node, Side::Servers, last);
        site.start_node(node);
    }
    site.add("proxy1", Side::Servers, 11);
    site.start_front("proxy1");
    site.add("client1", Side::Clients, 11);
    // Through all of it.
    let address = site.machine("proxy1").port(993);
    let mut elsewhere = site.session("client1", address, &steady[1]);
    for (misfortune, user) in befalls.into_iter().zip(&people) {
        befall(&mut site, misfortune, user, &steady);
        elsewhere.client.command("NOOP").ok();
    }
    elsewhere.client.command("LOGOUT").ok();
}

/// What the tests see is what the page says.
#[test]
fn the_page_has_what_is_said() {
    for text in [IMAP, POP3] {
        assert!(MODES.contains(&format!("`{text}`")), "{text}");
    }
    for misfortune in &MISFORTUNES {
        let (_, reason) = misfortune.reason;
        for text in [reason, misfortune.mail.trim_end()] {
            assert!(text == "250" || MODES.contains(text), "{text}");
        }
    }
}

/// Every text and metric of the page is in the program, so that nobody looks in vain for what is not said any more.
#[test]
fn the_page_says_nothing_else() {
    let mut program = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                program += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let mut texts = 0;
    for quoted in MODES.split('`').skip(1).step_by(2) {
        if let Some(text) = said(quoted) {
            assert!(program.contains(text), "{text:?} of {quoted:?} is not said");
            texts += 1;
        }
    }
    assert!(texts > 60, "{texts}");
}

/// What of a quotation the program says itself: the sentence of a log line, the name of a metric, the text of a reply.
fn said(quoted: &str) -> Option<&str> {
    if let Some(metric) = quoted.strip_prefix("pigeonair_") {
        let end = metric.find(['{', ' ']).unwrap_or(metric.len());
        return Some(&metric[..end]);
    }
    for level in ["INFO ", "WARN ", "ERROR "] {
        if let Some(line) = quoted.split_once(level).map(|(_, line)| line) {
            return Some(line);
        }
    }
    let code = quoted.split(' ').next().unwrap_or_default();
    match code {
        "NO" | "-ERR" => quoted.split_once("] ").map(|(_, text)| text),
        "421" | "451" | "452" | "550" => quoted.splitn(3, ' ').nth(2),
        _ => None,
    }
}

#[test]
fn quotations_are_read() {
    for (quoted, text) in [
        ("pigeonair_spooled_total{place}", Some("spooled_total")),
        ("ERROR no luck", Some("no luck")),
        ("NODE WARN no luck", Some("no luck")),
        ("NO [LIMIT] Full.", Some("Full.")),
        ("451 4.4.1 Away.", Some("Away.")),
        ("451 4.4.1", None),
        ("systemctl restart", None),
    ] {
        assert_eq!(said(quoted), text, "{quoted}");
    }
}
