//! Two proxies behind a balancer, then three: what clients notice when one is killed, drained, or added.

use std::io::ErrorKind;

use super::{
    balancer::{Balancer, Form, resolve, take_address},
    site::{Session, Side, Site},
};
use crate::lab::{User, eventually};

const CLIENTS: [(&str, u8); 3] = [("client1", 11), ("client2", 12), ("client3", 13)];
const IMAPS: u16 = 993;

fn people() -> [User; 3] {
    [
        User::new("ann", "node1", 20001),
        User::new("bob", "node2", 20002),
        User::new("cid", "node1", 20003),
    ]
}

/// Two proxies, two nodes, three clients with their users.
fn site() -> Site {
    let mut site = Site::new();
    site.start_ldap(&people());
    for (node, last) in [("node1", 21), ("node2", 22)] {
        site.add(node, Side::Servers, last);
        site.start_node(node);
    }
    for (proxy, last) in [("proxy1", 11), ("proxy2", 12)] {
        site.add(proxy, Side::Servers, last);
        site.start_front(proxy);
    }
    for (client, last) in CLIENTS {
        site.add(client, Side::Clients, last);
    }
    site
}

/// A login of each client's user: the sessions, in the order of clients.
fn sessions(site: &Site, balancer: &Balancer) -> Vec<Session> {
    CLIENTS
        .iter()
        .zip(people())
        .map(|((client, _), user)| session(site, balancer, client, &user))
        .collect()
}

fn session(site: &Site, balancer: &Balancer, client: &str, user: &User) -> Session {
    site.session_over(balancer.dial(site, client, IMAPS).unwrap(), user)
}

fn leave(sessions: Vec<Session>) {
    for mut session in sessions {
        session.client.command("LOGOUT").ok();
    }
}

/// How many sessions of clients have ended at a proxy.
fn served(site: &Site, proxy: &str) -> usize {
    let words = ["session ended", " outcome=served ", " client=198.51.100."];
    site.lines("front", proxy, &words).len()
}

/// Every login is served, by all of these proxies, and everybody hears who the client is.
fn spread(site: &Site, balancer: &Balancer, proxies: &[&str]) {
    const ROUNDS: usize = 4;
    let before: Vec<usize> = proxies.iter().map(|proxy| served(site, proxy)).collect();
    for _ in 0..ROUNDS {
        leave(sessions(site, balancer));
    }
    let all = ROUNDS * CLIENTS.len();
    let mut shares = Vec::new();
    eventually("all sessions are in the logs", || {
        let counts = proxies.iter().zip(&before);
        shares = counts
            .map(|(proxy, before)| served(site, proxy) - before)
            .collect();
        shares.iter().sum::<usize>() == all
    });
    // In turn; of a name server's answers each client hears some.
    let least = match balancer.form {
        Form::Dns => 1,
        Form::Direct | Form::Nat => all / proxies.len(),
    };
    assert!(shares.iter().all(|share| *share >= least), "{shares:?}");
}

/// The client's own address is in the logs of proxy, node and real server.
fn client_is_known(site: &Site, balancer: &Balancer, proxies: &[&str]) {
    for ((client, last), user) in CLIENTS.into_iter().zip(people()) {
        let session = session(site, balancer, client, &user);
        let here = session.here;
        let proxy = site.served_by(proxies, here);
        leave(vec![session]);
        let address = format!(" client={here} ");
        assert_eq!(here.ip(), Side::Clients.address(last));
        let local = match balancer.form {
            Form::Direct => balancer.address(),
            Form::Dns | Form::Nat => site.machine(proxy).address,
        };
        let node = &user.node;
        let rip = format!("rip={}", here.ip());
        let name = format!("user=<{}>", user.name);
        for (program, machine, words) in [
            (
                "front",
                proxy,
                vec!["session ended", &address, &format!(" local={local}:993 ")],
            ),
            ("node", node.as_str(), vec!["session ended", &address]),
            ("dovecot", node.as_str(), vec!["Login: ", &name, &rip]),
        ] {
            eventually(&format!("{program} on {machine} knows {address}"), || {
                !site.lines(program, machine, &words).is_empty()
            });
        }
    }
}

/// Sessions until both proxies have some: those of each.
fn on_both(site: &Site, balancer: &Balancer) -> [Vec<Session>; 2] {
    let mut both = [Vec::new(), Vec::new()];
    let [ann, _, _] = people();
    for _ in 0..20 {
        let session = session(site, balancer, "client1", &ann);
        let proxy = site.served_by(&["proxy1", "proxy2"], session.here);
        both[usize::from(proxy == "proxy2")].push(session);
        if both.iter().all(|sessions| sessions.len() >= 2) {
            return both;
        }
    }
    panic!("one proxy has got nobody: {both:?}");
}

fn go_on(sessions: &mut [Session]) {
    for session in sessions {
        session.client.command("NOOP").ok();
    }
}

/// Those on it are cut, others are not. Until the next check the balancer sends new clients there, in vain; afterwards nobody.
fn kill_a_proxy(site: &mut Site, balancer: &mut Balancer) {
    let [mut cut, mut others] = on_both(site, balancer);
    site.process("front-proxy1").kill();
    for session in &mut cut {
        assert_eq!(session.client.rest(), b"");
    }
    go_on(&mut others);
    let tries: Vec<bool> = (0..4)
        .map(|_| balancer.dial(site, "client2", IMAPS).is_ok())
        .collect();
    let through = tries.iter().filter(|through| **through).count();
    match balancer.form {
        // Whoever has two addresses tries the other one.
        Form::Dns => assert_eq!(through, 4),
        Form::Direct | Form::Nat => assert_eq!(through, 2, "{tries:?}"),
    }
    if balancer.form != Form::Dns {
        assert_eq!(balancer.check(site), ["proxy2"]);
    }
    for session in sessions(site, balancer) {
        assert_eq!(site.served_by(&["proxy2"], session.here), "proxy2");
        leave(vec![session]);
    }
    go_on(&mut others);
    leave(others);
    site.run_front("proxy1");
    balancer.check(site);
}

/// With nobody new sent to it, it ends when its last session does: nobody is refused, nobody is cut.
fn drain_a_proxy(site: &mut Site, balancer: &mut Balancer) {
    let [mut old, mut others] = on_both(site, balancer);
    balancer.weigh(site, "proxy1", 0);
    leave(sessions(site, balancer));
    site.process("front-proxy1").terminate();
    eventually("it is not ready", || {
        let asks = balancer.form != Form::Dns;
        let ready = balancer.check(site);
        !asks || ready == ["proxy2"]
    });
    for session in sessions(site, balancer) {
        assert_eq!(site.served_by(&["proxy2"], session.here), "proxy2");
        leave(vec![session]);
    }
    go_on(&mut old);
    go_on(&mut others);
    assert!(site.process("front-proxy1").lives());
    leave(old);
    assert_eq!(site.process("front-proxy1").exit_code(), Some(0));
    go_on(&mut others);
    leave(others);
    let cut = ["session ended", " outcome=cut "];
    assert_eq!(site.lines("front", "proxy1", &cut), [""; 0]);
    site.run_front("proxy1");
    balancer.weigh(site, "proxy1", 1);
    balancer.check(site);
}

/// Without weight 0 first, whose turn it is may be refused until the next check; whoever is on it stays all the same.
fn stop_a_proxy(site: &mut Site, balancer: &mut Balancer) {
    let [mut old, others] = on_both(site, balancer);
    leave(others);
    site.process("front-proxy1").terminate();
    eventually("it is not ready", || balancer.check(site) == ["proxy2"]);
    for session in sessions(site, balancer) {
        assert_eq!(site.served_by(&["proxy2"], session.here), "proxy2");
        leave(vec![session]);
    }
    go_on(&mut old);
    leave(old);
    assert_eq!(site.process("front-proxy1").exit_code(), Some(0));
    site.run_front("proxy1");
    balancer.check(site);
}

/// It gets its share, and nobody else notices.
fn add_a_proxy(site: &mut Site, balancer: &mut Balancer) {
    let mut before: Vec<Session> = on_both(site, balancer).into_iter().flatten().collect();
    site.add("proxy3", Side::Servers, 13);
    site.start_front("proxy3");
    balancer.add(site, "proxy3");
    go_on(&mut before);
    spread(site, balancer, &["proxy1", "proxy2", "proxy3"]);
    go_on(&mut before);
    leave(before);
}

fn story(form: Form) {
    let mut site = site();
    let mut balancer = Balancer::new(&mut site, form, &["proxy1", "proxy2"]);
    spread(&site, &balancer, &["proxy1", "proxy2"]);
    client_is_known(&site, &balancer, &["proxy1", "proxy2"]);
    programs(&site, &balancer);
    kill_a_proxy(&mut site, &mut balancer);
    drain_a_proxy(&mut site, &mut balancer);
    if form != Form::Dns {
        stop_a_proxy(&mut site, &mut balancer);
    }
    add_a_proxy(&mut site, &mut balancer);
}

/// What people use, by name or address, in both protocols and with certificates verified.
fn programs(site: &Site, balancer: &Balancer) {
    let host = match balancer.form {
        Form::Dns => {
            resolve(site, "client1");
            "mail.example.org".to_owned()
        }
        Form::Direct | Form::Nat => {
            let address = balancer.address();
            let hosts = format!("127.0.0.1 localhost\n{address} mail.example.org\n");
            site.machine("client1")
                .write("/etc/hosts", 0o644, None, &hosts);
            "mail.example.org".to_owned()
        }
    };
    let [ann, _, _] = people();
    let script = "
import imaplib, poplib, ssl, sys
host, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile='/etc/ssl/certs/ca-certificates.crt')
for _ in range(4):
    imap = imaplib.IMAP4_SSL(host, ssl_context=context)
    imap.login(user, password)
    assert imap.select()[0] == 'OK'
    imap.logout()
    pop3 = poplib.POP3_SSL(host, context=context)
    pop3.user(user)
    pop3.pass_(password)
    pop3.stat()
    pop3.quit()
";
    let command = ["python3", "-c", script, &host, &ann.name, &ann.password];
    let output = site.machine("client1").ask(&command);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
}

#[test]
fn behind_a_balancer_with_nat() {
    story(Form::Nat);
}

#[test]
fn behind_a_balancer_with_direct_return() {
    story(Form::Direct);
}

#[test]
fn behind_dns_round_robin() {
    story(Form::Dns);
}

/// A router that spreads by a hash of addresses and ports alone: every proxy gets some, and knows the client. But there is no
/// table of connections: a further proxy takes sessions from those that have them.
#[test]
fn an_ecmp_router_cuts_sessions_when_a_proxy_is_added() {
    const SESSIONS: usize = 24;
    let mut site = site();
    let address = Side::Servers.address(80);
    let route = |site: &Site, proxies: &[&str]| {
        let hops = proxies.iter().map(|proxy| {
            take_address(site, proxy, address);
            format!(" nexthop via {}", site.machine(proxy).address)
        });
        let hops: String = hops.collect();
        site.machine("router").run(&format!(
            "echo 1 >/proc/sys/net/ipv4/fib_multipath_hash_policy
            ip route replace {address}/32{hops}"
        ));
    };
    let both = ["proxy1", "proxy2"];
    route(&site, &both);
    let [ann, _, _] = people();
    let mut open: Vec<Session> = (0..SESSIONS)
        .map(|_| site.session("client1", (address, IMAPS).into(), &ann))
        .collect();
    for proxy in both {
        let mut theirs = open
            .iter()
            .map(|session| site.served_by(&both, session.here));
        assert!(theirs.any(|name| name == proxy), "{proxy} has nobody");
    }
    site.add("proxy3", Side::Servers, 13);
    site.start_front("proxy3");
    route(&site, &["proxy1", "proxy2", "proxy3"]);
    let mut cut = 0;
    for session in &mut open {
        let sent = session.client.try_send(b"a NOOP\r\n").is_ok();
        let goes_on = sent && session.client.try_line().is_some();
        cut += usize::from(!goes_on);
    }
    assert!((1..SESSIONS).contains(&cut), "{cut} of {SESSIONS}");
}

/// With the address on the loopback alone, whoever answers first has it: the sample's settings keep proxies from answering.
#[test]
fn a_proxy_does_not_answer_for_the_common_address() {
    let mut site = Site::new();
    let proxy = site.add("proxy1", Side::Servers, 11);
    let address = Side::Servers.address(80);
    let listen = format!("ip address add {address}/32 dev lo");
    proxy.run(&listen);
    let hears = |site: &Site| {
        let stream = site.machine("router").connect((address, IMAPS).into());
        stream.unwrap_err().kind()
    };
    assert_eq!(hears(&site), ErrorKind::ConnectionRefused);
    take_address(&site, "proxy1", address);
    site.machine("router").run("ip neigh flush dev servers");
    assert_eq!(hears(&site), ErrorKind::HostUnreachable);
}
