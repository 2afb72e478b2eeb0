//! A site grows: one machine; two with everything on both, behind round robin; proxies and storage nodes of their own; a node more, to
//! which somebody is moved; a node less.
//!
//! Somebody whom a step is none of the business of stays logged in through it. Mail comes all the time: what is refused for now is
//! kept and tried again, as an MTA does, and at the end every message is there once.

use std::{net::SocketAddr, process::Command};

use super::{
    balancer::{Balancer, Form},
    machine::UID,
    site::{Session, Side, Site},
};
use crate::{
    client::{Client, Method},
    lab::{User, adapt, eventually},
    smtp::Smtp,
};

const CLIENT: &str = "client1";
/// Where delivery listens on every machine with a front.
const LMTP: ([u8; 4], u16) = ([127, 0, 0, 1], 24);

struct Growth {
    site: Site,
    /// The users; where their homes are changes.
    people: [User; 3],
    /// Messages that are not delivered yet: whose, and their subjects.
    queue: Vec<(String, String)>,
    sent: Vec<(String, String)>,
    /// The machine whose front takes mail.
    mta: &'static str,
}

impl Growth {
    fn user(&self, name: &str) -> &User {
        self.people.iter().find(|user| user.name == name).unwrap()
    }

    // --- mail

    /// A message for everybody comes.
    fn mail(&mut self) {
        for user in &self.people {
            let subject = format!("message {}", self.sent.len());
            let message = (user.name.clone(), subject);
            self.queue.push(message.clone());
            self.sent.push(message);
        }
        self.run_queue();
    }

    /// Tries what is in the queue.
    fn run_queue(&mut self) {
        let messages = std::mem::take(&mut self.queue);
        let (_, kept) = messages
            .into_iter()
            .partition(|(name, subject)| self.deliver(name, subject));
        self.queue = kept;
    }

    /// By LMTP: false if it is refused for now. That it is refused for good must not happen.
    fn deliver(&self, name: &str, subject: &str) -> bool {
        let machine = self.site.machine(self.mta);
        let address = SocketAddr::from(LMTP);
        if machine.connect(address).is_err() {
            return false;
        }
        let mut smtp = machine.inside(|| Smtp::connect(address));
        smtp.command("LHLO mx.example.org").says("250");
        smtp.command("MAIL FROM:<>").says("250");
        let mut answer = smtp.command(&format!("RCPT TO:<{name}@example.org>"));
        if answer.text.starts_with("250") {
            smtp.command("DATA").says("354");
            smtp.send(format!("Subject: {subject}\r\n\r\nHello.\r\n.\r\n"));
            answer = smtp.answer();
        }
        let stored = answer.text.starts_with("250");
        // Nobody's account is away for good: it is in maintenance, or its home or our front is away.
        let for_now = ["450 4.2.1 ", "451 4.4.1 "];
        let kept = for_now.iter().any(|begin| answer.text.starts_with(begin));
        assert!(stored || kept, "{answer:?}");
        stored
    }

    /// What is in somebody's inbox, by subject.
    fn subjects(&self, entrance: &Balancer, name: &str) -> Vec<String> {
        let mut session = self.log_in(entrance, name);
        let mut subjects = Vec::new();
        let selected = session.client.command("SELECT INBOX").ok();
        if !selected.untagged.iter().any(|line| line == "* 0 EXISTS") {
            let command = "FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]";
            for literal in session.client.command(command).ok().literals {
                let text = String::from_utf8(literal).unwrap();
                let subject = text.trim().strip_prefix("Subject: ").unwrap();
                subjects.push(subject.to_owned());
            }
        }
        session.client.command("LOGOUT").ok();
        subjects
    }

    /// Every message is there, and is there once.
    fn nothing_is_lost(&mut self, entrance: &Balancer) {
        eventually("the queue is empty", || {
            self.run_queue();
            self.queue.is_empty()
        });
        for user in &self.people {
            let ours = self.sent.iter().filter(|(name, _)| *name == user.name);
            let mut expected: Vec<String> = ours.map(|(_, subject)| subject.clone()).collect();
            let mut found = self.subjects(entrance, &user.name);
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "{}", user.name);
        }
    }

    // --- sessions

    /// A front that has found a node away a moment ago may say so once more.
    fn log_in(&self, entrance: &Balancer, name: &str) -> Session {
        let mut session = None;
        eventually(&format!("{name} is let in"), || {
            session = self.try_log_in(entrance, name);
            session.is_some()
        });
        session.unwrap()
    }

    /// Nothing if the login is refused for now.
    fn try_log_in(&self, entrance: &Balancer, name: &str) -> Option<Session> {
        let (mut session, user) = (self.dial(entrance), self.user(name));
        let login = |client: &mut Client| client.login(Method::Login, &user.name, &user.password);
        let reply = login(&mut session.client);
        if reply.status.starts_with("OK") {
            return Some(session);
        }
        reply.no("UNAVAILABLE");
        None
    }

    fn dial(&self, entrance: &Balancer) -> Session {
        let tcp = entrance.dial(&self.site, CLIENT, 993).unwrap();
        let here = tcp.local_addr().unwrap();
        let client = Client::tls_with(&self.site.trust, tcp);
        Session { client, here }
    }

    /// A session at one of these proxies.
    fn log_in_at(&self, entrance: &Balancer, name: &str, wanted: &str, all: &[&str]) -> Session {
        for _ in 0..20 {
            let mut session = self.log_in(entrance, name);
            if self.site.served_by(all, session.here) == wanted {
                session.client.command("SELECT INBOX").ok();
                return session;
            }
            session.client.command("LOGOUT").ok();
        }
        panic!("nobody gets to {wanted}");
    }

    // --- a move, as docs/deploying.md has it

    /// Moves somebody to another node: whatever is refused meanwhile is refused for now.
    fn move_to(&mut self, entrance: &Balancer, name: &str, to: &str) {
        let user = self.user(name).clone();
        let mut session = self.log_in(entrance, name);
        self.set(&user, "employeeType", "maintenance");
        eventually("logins are refused for now", || {
            self.try_log_in(entrance, name).is_none()
        });
        self.mail();
        assert!(self.queue.iter().any(|(waiting, _)| waiting == name));
        session.client.command("NOOP").ok();
        self.copy(&user, to);
        // Now sessions end, and none begins.
        self.site.move_home(&user, to);
        assert_eq!(session.client.rest(), b"");
        let words = [
            "session ended",
            " outcome=revoked ",
            "the mailbox has moved",
        ];
        eventually("the front says why it ended", || {
            let all = ["node1", "node2", "proxy1", "proxy2"];
            let mut fronts = all.iter().filter(|name| self.site.has(name));
            let from = session.here.to_string();
            let words = [&words[..], &[&from]].concat();
            fronts.any(|front| !self.site.lines("front", front, &words).is_empty())
        });
        self.copy(&user, to);
        self.set(&user, "employeeType", "active");
        let mut people = self.people.iter_mut();
        people.find(|user| user.name == name).unwrap().node = to.to_owned();
        self.log_in(entrance, name);
        let from = format!(" account={name} ");
        let words = ["session ended", &from, " outcome=served "];
        eventually("its sessions are at the new node", || {
            !self.site.lines("node", to, &words).is_empty()
        });
    }

    fn set(&self, user: &User, attribute: &str, value: &str) {
        let dn = format!("uid={},ou=people,dc=example,dc=org", user.name);
        self.site.change_directory(
            "ldapmodify",
            &format!("dn: {dn}\nchangetype: modify\nreplace: {attribute}\n{attribute}: {value}\n"),
        );
    }

    /// What `rsync --archive --delete` does over the wire.
    fn copy(&self, user: &User, to: &str) {
        let [from, to] = [user.node.as_str(), to].map(|node| {
            let path = format!("/srv/mail/{}/", user.home);
            self.site.machine(node).path(&path)
        });
        let status = Command::new("sh")
            .args(["-ec", "rm -rf \"$2\" && cp --archive \"$1\" \"$2\"", "copy"])
            .args([from, to])
            .status()
            .unwrap();
        assert!(status.success());
    }

    // --- steps

    /// Replaces a front's configuration; it is drained first, and has nobody when this is called.
    fn restart_front(&mut self, name: &str, text: &str) {
        self.site.stop(&format!("front-{name}"));
        self.site.install_front(name, text);
        self.site.run_front(name);
    }
}

/// The sample for proxies where the directory says status by another attribute, with a third node if it is there.
fn proxy_toml(site: &Site, name: &str, third: bool) -> String {
    let node3 = format!(
        "\n[[nodes.node]]\nname = \"node3\"\naddress = \"node3.example.org:7143\"\nkey_id = \"{name}\"\n\
         key_file = \"/etc/pigeonair/{name}.key\"\n"
    );
    let text = site.proxy_toml(name, if third { &node3 } else { "" });
    let from = "#status = \"accountStatus\"";
    adapt(&text, &[(from, "status = \"employeeType\"")])
}

/// `config/single.toml` as it is, and accounts in a file.
fn one_machine(grown: &mut Growth) -> Balancer {
    let site = &mut grown.site;
    site.add("node1", Side::Servers, 21);
    site.start_dovecot_alone("node1");
    let text = include_str!("../../../config/single.toml");
    let machine = site.machine("node1");
    for path in ["/etc/pigeonair/front.toml", "/etc/pigeonair/node.toml"] {
        machine.write(path, 0o644, None, text);
    }
    let accounts = crate::lab::accounts_toml(&grown.people);
    machine.write("/etc/pigeonair/accounts.toml", 0o640, Some(UID), &accounts);
    site.install_keys("node1", &["local"]);
    site.install_certificate("node1", "/etc/pigeonair/mail.example.org", UID);
    // The front makes sockets there, and the node binds its own before it gives up root's rights.
    machine.run(
        "chown pigeonair: /run/pigeonair
        install -d -m 0700 -o pigeonair -g pigeonair /var/lib/pigeonair",
    );
    let program = site.program();
    let check = [&program, "check", "--config", "/etc/pigeonair/node.toml"];
    let said = String::from_utf8(site.machine("node1").ask(&check).stdout).unwrap();
    assert!(said.contains(": ok (front: "), "{said}");
    site.run_node("node1");
    site.run_front_at("node1", SocketAddr::from(([127, 0, 0, 1], 9143)));
    Balancer::new(site, Form::Dns, &["node1"])
}

/// Everything on both, homes by LDAP.
fn two_machines(grown: &mut Growth, entrance: &mut Balancer) {
    let site = &mut grown.site;
    site.start_ldap(&grown.people);
    for program in ["front", "node", "dovecot"] {
        site.stop(&format!("{program}-node1"));
    }
    site.add("node2", Side::Servers, 22);
    for name in ["node1", "node2"] {
        site.start_node(name);
        let text = proxy_toml(site, name, false);
        site.install_front(name, &text);
        site.run_front(name);
    }
    entrance.add(site, "node2");
}

/// Fronts on machines of their own; those of the storage nodes end when their last session does.
fn specialised(grown: &mut Growth, entrance: &mut Balancer) {
    let mut bob = grown.log_in_at(entrance, "bob", "node2", &["node1", "node2"]);
    for (name, last) in [("proxy1", 11), ("proxy2", 12)] {
        grown.site.add(name, Side::Servers, last);
        let text = proxy_toml(&grown.site, name, false);
        grown.site.install_front(name, &text);
        grown.site.run_front(name);
        entrance.add(&grown.site, name);
    }
    for name in ["node1", "node2"] {
        entrance.weigh(&grown.site, name, 0);
    }
    grown.mta = "proxy1";
    for name in ["front-node1", "front-node2"] {
        grown.site.process(name).terminate();
    }
    assert_eq!(grown.site.process("front-node1").exit_code(), Some(0));
    grown.mail();
    bob.client.command("NOOP").ok();
    assert!(grown.site.process("front-node2").lives());
    bob.client.command("LOGOUT").ok();
    drop(bob);
    assert_eq!(grown.site.process("front-node2").exit_code(), Some(0));
}

/// A node is added, with one proxy after the other told of it, and somebody moves there.
fn a_node_more(grown: &mut Growth, entrance: &mut Balancer) {
    let mut bob = grown.log_in_at(entrance, "bob", "proxy2", &["proxy1", "proxy2"]);
    grown.site.add("node3", Side::Servers, 23);
    grown.site.start_node("node3");
    // Nobody new at proxy1 while it starts again, then nobody new at proxy2 as long as bob is there.
    entrance.weigh(&grown.site, "proxy1", 0);
    let text = proxy_toml(&grown.site, "proxy1", true);
    grown.restart_front("proxy1", &text);
    entrance.weigh(&grown.site, "proxy1", 1);
    entrance.weigh(&grown.site, "proxy2", 0);
    grown.site.process("front-proxy2").terminate();
    grown.mail();
    grown.move_to(entrance, "ann", "node3");
    bob.client.command("NOOP").ok();
    grown.nothing_is_lost(entrance);
    bob.client.command("LOGOUT").ok();
    drop(bob);
    assert_eq!(grown.site.process("front-proxy2").exit_code(), Some(0));
    let text = proxy_toml(&grown.site, "proxy2", true);
    grown.restart_front("proxy2", &text);
    entrance.weigh(&grown.site, "proxy2", 1);
}

/// Everybody leaves a node, and it is stopped.
fn a_node_less(grown: &mut Growth, entrance: &mut Balancer) {
    let mut bob = grown.log_in(entrance, "bob");
    grown.move_to(entrance, "cid", "node2");
    grown.site.stop("node-node1");
    grown.site.stop("dovecot-node1");
    grown.mail();
    bob.client.command("NOOP").ok();
    bob.client.command("LOGOUT").ok();
    grown.nothing_is_lost(entrance);
}

#[test]
fn from_one_machine_to_many() {
    let people = [
        User::new("ann", "node1", 20001),
        User::new("bob", "node2", 20002),
        User::new("cid", "node1", 20003),
    ];
    let mut site = Site::new();
    site.add(CLIENT, Side::Clients, 11);
    let mut grown = Growth {
        site,
        people,
        queue: Vec::new(),
        sent: Vec::new(),
        mta: "node1",
    };
    // On one machine there is one node, whatever homes are called later.
    let homes = grown.people.clone().map(|user| user.node);
    for user in &mut grown.people {
        user.node = "node1".to_owned();
    }
    let mut entrance = one_machine(&mut grown);
    grown.mail();
    grown.nothing_is_lost(&entrance);

    two_machines(&mut grown, &mut entrance);
    grown.mail();
    grown.nothing_is_lost(&entrance);
    for (name, home) in ["ann", "bob", "cid"].into_iter().zip(homes) {
        if home != "node1" {
            grown.move_to(&entrance, name, &home);
        }
    }
    grown.nothing_is_lost(&entrance);

    specialised(&mut grown, &mut entrance);
    grown.nothing_is_lost(&entrance);
    a_node_more(&mut grown, &mut entrance);
    a_node_less(&mut grown, &mut entrance);
    let site = &grown.site;
    for proxy in ["node1", "node2", "proxy1", "proxy2"] {
        let cut = ["session ended", " outcome=cut "];
        assert_eq!(site.lines("front", proxy, &cut), [""; 0], "{proxy}");
    }
}
