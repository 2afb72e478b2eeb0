//! Another configuration while people are logged in: what is taken, what is refused, and that nobody who is there notices.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, http_status, metric},
    smtp::lmtp,
    tls::{pair, shown},
};

const NEW_KEY: &str = "0f0e0d0c0b0a09080706050403020100ff0e0d0c0b0a09080706050403020100";
const TAKEN: &str = "pigeonair_reloads_total{result=\"ok\"}";
const FAILED: &str = "pigeonair_reloads_total{result=\"failed\"}";

fn people() -> [User; 2] {
    [User::new("ann", "n1", 20001), User::new("bob", "n2", 20002)]
}

/// Two nodes whose servers need no directory.
fn cluster(users: &[User]) -> Cluster {
    let builder = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Login))
        .node(NodeSpec::new("n2", Kind::Login));
    let builder = users
        .iter()
        .fold(builder, |builder, user| builder.user(user));
    builder.start()
}

/// Has the front take what its file says now, or panics; the line that says so.
#[track_caller]
fn take(cluster: &Cluster) -> String {
    let (code, out, notes) = cluster.ask(&["reload", "front"]);
    assert_eq!(code, Some(0), "{out}{notes}");
    out
}

/// The text from a line that holds this on.
fn from_line<'t>(text: &'t str, part: &str) -> &'t str {
    let at = text.find(part).expect(part);
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    &text[start..]
}

#[test]
fn a_node_is_added_while_sessions_go_on() {
    let [ann, bob] = people();
    let mut cluster = cluster(&[ann.clone(), bob.clone()]);
    let mut added = String::new();
    cluster.change_front(|text| {
        let at = text.find("\n[[nodes.node]]\nname = \"n2\"").unwrap();
        added = text[at..].to_owned();
        text[..at].to_owned()
    });
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    session.command("SELECT INBOX").ok();
    let mut early = Client::connect(&cluster, Channel::Plain);
    let refused = early.login(Method::PlainInitial, &bob.name, &bob.password);
    refused.no("UNAVAILABLE");
    // Half of a command is with the real server while it happens.
    session.send("a APPEND INBOX {9}\r\n");
    assert!(session.line().starts_with('+'));
    session.send("half");
    cluster.write_front(|text| text + &added);
    assert_eq!(
        take(&cluster),
        "front: configuration taken (changed: nodes)\n"
    );
    let mut other = Client::logged_in(&cluster, Channel::Implicit, &bob);
    other.command("SELECT INBOX").ok();
    // Who has begun to talk goes on by what he began with.
    let refused = early.login(Method::PlainInitial, &bob.name, &bob.password);
    refused.no("UNAVAILABLE");
    session.send(" done\r\n");
    session.reply("a").ok();
    session.command("NOOP").ok();
    assert!(cluster.sessions(&ann.name).is_empty());
    let log = cluster.front_log();
    assert!(
        log.contains("configuration taken changed=nodes"),
        "no line in the log"
    );
    let admin = cluster.front_admin();
    assert_eq!(metric(admin, TAKEN), Some(1.0));
    assert!(metric(admin, "pigeonair_config_loaded_timestamp_seconds").unwrap() > 1e9);
}

/// Logs in again and again until it is stopped.
struct Logins {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Logins {
    fn start(cluster: &Cluster, users: &[User]) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let address = cluster.imap();
        let threads = users.iter().map(|user| {
            let (stop, good, user) = (Arc::clone(&stop), Arc::clone(&good), user.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let mut client = Client::connect_to(address);
                    let reply = client.login(Method::PlainInitial, &user.name, &user.password);
                    reply.ok();
                    client.command("LOGOUT").ok();
                    good.fetch_add(1, Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self {
            stop,
            good,
            threads,
        }
    }

    /// Waits for some more of them.
    fn some_more(&self) {
        let before = self.good.load(Relaxed);
        eventually("people log in", || {
            let has_failed = self.threads.iter().any(thread::JoinHandle::is_finished);
            has_failed || self.good.load(Relaxed) >= before + 10
        });
    }

    /// Panics if one of them was refused or cut.
    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("a login failed");
        }
        self.good.load(Relaxed)
    }
}

#[test]
fn keys_are_replaced_on_both_sides_without_one_failed_login() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann.clone(), bob.clone()]);
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let logins = Logins::start(&cluster, &[ann.clone(), bob]);
    logins.some_more();
    let new = cluster.node_file("n1", "new.key");
    crate::lab::write_private(&new, &format!("{NEW_KEY}\n"));
    let reload = || {
        let (code, out, notes) = cluster.reload_node("n1");
        assert_eq!(code, Some(0), "{out}{notes}");
        logins.some_more();
    };
    let second = format!(
        "[[acceptor.key]]\nid = \"second\"\nfile = \"{}\"\n\n",
        new.display()
    );
    cluster.write_node("n1", |text| {
        text.replacen("[[acceptor.key]]", &(second + "[[acceptor.key]]"), 1)
    });
    reload();
    let key = cluster.write_front_file("second.key", &format!("{NEW_KEY}\n"));
    cluster.write_front(|text| {
        let entry = from_line(&text, "name = \"n1\"");
        let end = entry.find("\n\n").unwrap_or(entry.len());
        let entry = entry[..end].to_owned();
        let old = from_line(&entry, "key_id").to_owned();
        text.replacen(
            &old,
            &format!("key_id = \"second\"\nkey_file = \"{key}\""),
            1,
        )
    });
    take(&cluster);
    logins.some_more();
    cluster.write_node("n1", |text| {
        let old = from_line(&text, "[[acceptor.key]]\nid = \"front\"");
        let end = old.find("\n\n").unwrap();
        text.replace(&old[..end], "")
    });
    reload();
    assert!(logins.end() >= 40);
    session.command("NOOP").ok();
    // And the old one is worth nothing any more.
    cluster.write_front(|text| {
        text.replacen("key_id = \"second\"", "key_id = \"front\"", 1)
            .replacen("second.key", "n1.key", 1)
    });
    take(&cluster);
    let mut client = Client::connect(&cluster, Channel::Plain);
    let refused = client.login(Method::PlainInitial, &ann.name, &ann.password);
    refused.no("UNAVAILABLE");
    session.command("NOOP").ok();
}

#[test]
fn limits_listeners_flags_and_the_directory_change() {
    let [ann, bob] = people();
    let mut cluster = cluster(&[ann.clone(), bob.clone()]);
    let admin = cluster.front_admin();
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let mut plain = Client::connect(&cluster, Channel::Plain);
    let tls = cluster.slapd().tls_uri();
    let ca_file = cluster.ca_file().display().to_string();
    cluster.write_front(|text| {
        let old = cluster.slapd.as_ref().unwrap().uri();
        text.replacen(
            &format!("uri = \"{old}\""),
            &format!("uri = \"{tls}\"\nca_file = \"{ca_file}\""),
            1,
        )
        .replacen("[proxy]\n", "[proxy]\nmax_attempts = 1\n", 1)
        .replacen(
            "protocol = \"imap\"\n",
            "protocol = \"imap\"\ncleartext = \"never\"\n",
            1,
        )
        .replacen("level = \"debug\"", "level = \"info\"", 1)
    });
    assert_eq!(
        take(&cluster),
        "front: configuration taken (changed: log proxy directory)\n"
    );
    // Who was there may still log in as was promised when he came.
    let old = plain.login(Method::PlainInitial, &bob.name, &bob.password);
    old.ok();
    let mut plain = Client::connect(&cluster, Channel::Plain);
    let refused = plain.login(Method::Login, &bob.name, &bob.password);
    refused.no("PRIVACYREQUIRED");
    let mut wrong = Client::connect(&cluster, Channel::Implicit);
    let refused = wrong.login(Method::PlainInitial, &bob.name, "wrong");
    assert!(
        refused.status.contains("AUTHENTICATIONFAILED"),
        "{refused:?}"
    );
    let bye = wrong.rest();
    let bye = String::from_utf8_lossy(&bye);
    assert!(bye.is_empty() || bye.starts_with("* BYE"), "{bye}");
    Client::logged_in(&cluster, Channel::Implicit, &bob);
    let up = |uri: &str| {
        metric(
            admin,
            &format!("pigeonair_ldap_server_up{{server=\"{uri}\"}}"),
        )
    };
    assert_eq!(up(&tls), Some(1.0));
    assert_eq!(up(&cluster.slapd().uri()), None);
    // The new directory's follower ends sessions that began by the old one.
    session.command("NOOP").ok();
    eventually("changes are followed", || {
        metric(admin, "pigeonair_directory_followed{by=\"sync\"}") == Some(1.0)
    });
    cluster.slapd().change(&ann, "employeeType", "disabled");
    assert_eq!(session.rest(), b"");
    eventually("the session was revoked", || {
        let lines = cluster.sessions(&ann.name);
        lines.len() == 1 && lines[0].contains("outcome=revoked")
    });
}

#[test]
fn a_certificate_of_another_name_is_for_who_connects_from_then_on() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann.clone(), bob]);
    let mut sessions = [Channel::Implicit, Channel::StartTls]
        .map(|channel| Client::logged_in(&cluster, channel, &ann));
    let new = pair("mail.example.net");
    let certificate = cluster.write_front_file("new.pem", &new.certificate);
    let key = cluster.write_front_file("new.key", &new.key);
    cluster.write_front(|text| {
        let name = from_line(&text, "certificate = ").lines().next();
        let old_key = from_line(&text, "key = ").lines().next();
        let (name, old_key) = (name.unwrap().to_owned(), old_key.unwrap().to_owned());
        text.replacen(&name, &format!("certificate = \"{certificate}\""), 1)
            .replacen(&old_key, &format!("key = \"{key}\""), 1)
    });
    let taken = take(&cluster);
    assert_eq!(taken, "front: configuration taken (changed: proxy.tls)\n");
    assert_eq!(shown(cluster.imaps(), ""), new.certificate);
    for session in &mut sessions {
        session.command("NOOP").ok();
    }
    // A key that does not belong to it is found before anything is taken.
    cluster.write_front_file("new.key", &pair("mail.example.net").key);
    let (code, _, notes) = cluster.ask(&["reload", "front"]);
    assert_eq!(code, Some(78));
    assert!(notes.contains("proxy.tls.key: "), "{notes}");
    assert_eq!(shown(cluster.imaps(), ""), new.certificate);
}

#[test]
fn mail_goes_on_while_both_sides_reload() {
    let [ann, bob] = people();
    let cluster = Cluster::mail().user(&ann).user(&bob).start();
    let recipients = [ann.address(), bob.address()];
    let recipients = recipients.each_ref().map(String::as_str);
    let mut mta = lmtp(cluster.lmtp());
    let mut send = |body: &str, between: &dyn Fn()| {
        mta.begin("s@example.net", &recipients);
        mta.send(format!("Subject: {body}\r\n\r\n"));
        between();
        mta.send(format!("{body}\r\n.\r\n"));
        for _ in recipients {
            mta.answer().says("250 ");
        }
    };
    send("before", &|| {});
    // In the middle of a message, and on the connections of the one before.
    send("between", &|| {
        cluster.write_front(|text| {
            text.replacen("\n[delivery]\n", "\n[delivery]\nmax_recipients = 7\n", 1)
                .replacen("connect_timeout = \"1s\"", "connect_timeout = \"2s\"", 1)
        });
        let taken = take(&cluster);
        assert!(taken.contains("delivery nodes"), "{taken}");
        for name in ["n1", "n2"] {
            cluster.write_node(name, |text| {
                text.replacen("\n[mailstore]\n", "\n[mailstore]\nmax_recipients = 7\n", 1)
            });
            let (code, out, notes) = cluster.reload_node(name);
            assert_eq!(code, Some(0), "{notes}");
            assert!(out.contains("changed: mailstore"), "{out}");
        }
    });
    send("after", &|| {});
    let mut next = lmtp(cluster.lmtp());
    next.command("MAIL FROM:<>").says("250 ");
    for number in 1..=8 {
        let answer = next.command(&format!("RCPT TO:<{}>", recipients[0]));
        answer.says(if number <= 7 { "250 " } else { "452 " });
    }
    for user in [&ann, &bob] {
        eventually("all are there", || cluster.inbox(user).len() == 3);
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_taken() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann.clone(), bob]);
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let mut good = String::new();
    cluster.write_front(|text| {
        good.clone_from(&text);
        text.replacen("key_file", "key_fiel", 1).replacen(
            "[proxy]\n",
            "[proxy]\nmax_attempts = 0\n",
            1,
        )
    });
    let (code, out, notes) = cluster.ask(&["reload", "front"]);
    assert_eq!((code, out.as_str()), (Some(78), ""), "{notes}");
    for problem in [
        "proxy.max_attempts: bad value (got 0; expected",
        "nodes.node[1].key_file: missing",
        "nodes.node[1].key_fiel: unknown key, did you mean key_file?",
    ] {
        assert!(notes.contains(problem), "{notes}");
        assert!(cluster.front_log().contains(&problem[..20]), "{problem}");
    }
    assert_eq!(notes.lines().count(), 3, "{notes}");
    // As `check` has it.
    assert_eq!(cluster.ask(&["check", "front"]).2, notes);
    session.command("NOOP").ok();
    cluster.write_front(|_| good);
    assert_eq!(
        take(&cluster),
        "front: configuration taken (nothing has changed)\n"
    );
}

#[test]
fn what_is_settled_at_the_start_is_refused() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann.clone(), bob]);
    let admin = cluster.front_admin();
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let other = cluster.port(1199);
    cluster.write_front(|good| {
        good.replacen(&cluster.imap_plain().to_string(), &other.to_string(), 1)
            .replacen("front.sock", "other.sock", 1)
            .replacen("[proxy]\n", "[proxy]\nmax_attempts = 1\n", 1)
    });
    let (code, _, notes) = cluster.ask(&["reload", "front"]);
    // It asks where the file says, and nobody is there.
    assert_eq!(code, Some(69), "{notes}");
    cluster.front.as_ref().unwrap().hang_up();
    eventually("both are named", || {
        let log = cluster.front_log();
        ["proxy.listen", "admin.front_socket"].iter().all(|key| {
            log.contains(&format!(
                "{key}: cannot be changed by a reload, start the front again"
            ))
        })
    });
    cluster.write_front(|_| "[proxy".to_owned());
    let (code, _, notes) = cluster.ask(&["reload", "front"]);
    assert_eq!(code, Some(78));
    assert!(notes.contains("not TOML"), "{notes}");
    assert_eq!(metric(admin, FAILED), Some(1.0));
    let log = cluster.front_log();
    let said = "configuration not taken, the old one stays in force";
    assert_eq!(log.matches(said).count(), 1);
    // Nothing of it is in force: several tries are allowed.
    let mut client = Client::connect(&cluster, Channel::Plain);
    for _ in 0..2 {
        let refused = client.login(Method::PlainInitial, &ann.name, "wrong");
        refused.no("AUTHENTICATIONFAILED");
    }
    session.command("NOOP").ok();
}

#[test]
fn a_node_is_asked_on_its_socket() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann, bob]);
    let (code, out, notes) = cluster.reload_node("n1");
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "node: configuration taken (nothing has changed)\n"),
        "{notes}"
    );
    cluster.write_node("n1", |text| {
        let line = from_line(&text, "node_socket").lines().next().unwrap();
        text.replacen(line, "", 1)
    });
    let (code, _, notes) = cluster.reload_node("n1");
    assert_eq!(code, Some(78));
    assert!(notes.contains("[admin] node_socket is not set"), "{notes}");
}

/// Reloads the front so often, each time with everything another, back and forth.
fn reload_often(cluster: &Cluster, times: usize) {
    let mut good = String::new();
    cluster.write_front(|text| {
        good.clone_from(&text);
        text
    });
    let other = good
        .replacen("[proxy]\n", "[proxy]\nidle_timeout = \"40m\"\n", 1)
        .replacen("[proxy.tls]\n", "[proxy.tls]\nreload_every = \"9s\"\n", 1)
        .replacen("connect_timeout = \"1s\"", "connect_timeout = \"2s\"", 1)
        .replacen("timeout = \"3s\"", "timeout = \"4s\"", 1);
    for time in 1..=times {
        let text = if time % 2 == 1 { &other } else { &good };
        cluster.write_front(|_| text.clone());
        let taken = take(cluster);
        assert!(taken.contains("proxy proxy.tls directory nodes"), "{taken}");
    }
}

#[test]
fn fifty_reloads_leave_nothing_behind() {
    let [ann, bob] = people();
    let mut cluster = cluster(&[ann.clone(), bob.clone()]);
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    let mut settle = |cluster: &mut Cluster| {
        // Each worker has connections of its own: many logins reach all.
        for _ in 0..20 {
            let mut client = Client::logged_in(cluster, Channel::Plain, &bob);
            client.command("LOGOUT").ok();
        }
        session.command("NOOP").ok();
    };
    let memory = |cluster: &mut Cluster| -> u64 {
        let words = cluster.front().status("VmRSS");
        words[0].parse::<u64>().unwrap() / 1024
    };
    // What is made once is made by then.
    reload_often(&cluster, 10);
    settle(&mut cluster);
    let ready = |cluster: &Cluster| {
        metric(cluster.front_admin(), "pigeonair_links_ready{node=\"n2\"}").unwrap_or_default()
    };
    eventually("links are ready", || ready(&cluster) >= 2.0);
    let (before, used) = (cluster.front().descriptors(), memory(&mut cluster));
    reload_often(&cluster, 50);
    settle(&mut cluster);
    eventually("as many descriptors as before", || {
        cluster.front().descriptors() <= before + 8
    });
    let now = memory(&mut cluster);
    assert!(now <= used + 12, "{used} MiB before, {now} MiB after");
    let admin = cluster.front_admin();
    assert_eq!(metric(admin, TAKEN), Some(60.0));
    // One follower, of the one directory.
    eventually("changes are followed once", || {
        metric(admin, "pigeonair_directory_followed{by=\"sync\"}") == Some(1.0)
    });
    assert!(cluster.sessions(&ann.name).is_empty());
}

#[test]
fn a_node_that_reloads_often_has_no_more_threads_than_before() {
    let [ann, bob] = people();
    let mut cluster = Cluster::mail().user(&ann).user(&bob).start();
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    let mut mta = lmtp(cluster.lmtp());
    let mut round = |cluster: &Cluster, number: u32| {
        for answer in mta.deliver("s@example.net", &[&ann.address()], b"x\r\n") {
            answer.says("250 ");
        }
        cluster.write_node("n1", |text| {
            let lines = text
                .lines()
                .filter(|line| !line.starts_with("max_recipients"));
            let text: String = lines.map(|line| format!("{line}\n")).collect();
            let limit = format!("[mailstore]\nmax_recipients = {number}\n");
            text.replacen("[mailstore]\n", &limit, 1)
        });
        let (code, out, notes) = cluster.reload_node("n1");
        assert_eq!(code, Some(0), "{notes}");
        assert!(out.contains("changed: mailstore"), "{out}");
    };
    (10..13).for_each(|number| round(&cluster, number));
    let count = |cluster: &mut Cluster| {
        let node = cluster.node("n1").acceptor();
        let threads: u64 = node.status("Threads")[0].parse().unwrap();
        (threads, node.descriptors())
    };
    let before = count(&mut cluster);
    (20..40).for_each(|number| round(&cluster, number));
    eventually("what served before is gone", || {
        let now = count(&mut cluster);
        now.0 <= before.0 + 2 && now.1 <= before.1 + 4
    });
    session.command("NOOP").ok();
}

#[test]
fn people_log_in_while_it_reloads() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann.clone(), bob.clone()]);
    let logins = Logins::start(&cluster, &[ann, bob]);
    let admin = cluster.front_admin();
    for round in 0..20 {
        let milliseconds = 3000 + round;
        cluster.write_front(|text| {
            let line = from_line(&text, "timeout = \"3").lines().next();
            let line = line.unwrap().to_owned();
            text.replacen(&line, &format!("timeout = \"{milliseconds}ms\""), 1)
        });
        cluster.front.as_ref().unwrap().hang_up();
        let node = &cluster.nodes[0];
        assert_eq!(node.name, "n1");
        cluster.reload_node("n1");
        eventually("it is taken", || {
            metric(admin, TAKEN) == Some(f64::from(round + 1))
        });
    }
    logins.some_more();
    assert!(logins.end() > 0);
}

#[test]
fn a_node_takes_other_bounds_for_sessions_that_begin() {
    let [ann, bob] = people();
    let cluster = cluster(&[ann.clone(), bob]);
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    cluster.write_node("n1", |text| {
        text.replacen("[acceptor]\n", "[acceptor]\nuids = [30000, 40000]\n", 1)
    });
    let (code, out, notes) = cluster.reload_node("n1");
    assert_eq!(code, Some(0), "{notes}");
    assert_eq!(out, "node: configuration taken (changed: acceptor)\n");
    let mut client = Client::connect(&cluster, Channel::Plain);
    let refused = client.login(Method::PlainInitial, &ann.name, &ann.password);
    assert!(refused.status.starts_with("NO ["), "{refused:?}");
    session.command("NOOP").ok();
    // What is settled at the start.
    cluster.write_node("n1", |text| {
        text.replacen("/sessions\"", "/other-sessions\"", 1)
            .replacen("kind = \"login\"", "kind = \"dovecot-imap-master\"", 1)
    });
    let (code, _, notes) = cluster.reload_node("n1");
    assert_eq!(code, Some(78), "{notes}");
    session.command("LOGOUT").ok();
}

/// A service manager, as far as it listens.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Waits for a message that holds this.
    fn hears(&mut self, part: &str) {
        eventually(part, || {
            let mut message = [0; 512];
            if let Ok(length) = self.socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..length]).into_owned();
                self.heard.push(text);
            }
            self.heard.iter().any(|message| message.contains(part))
        });
    }
}

#[test]
fn a_service_manager_hears_how_it_goes() {
    let [ann, bob] = people();
    let mut cluster = cluster(&[ann, bob]);
    let path = cluster.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, mode).unwrap();
    manage(&mut cluster, socket, &path.display().to_string());
    // As containers have it; out of reach from the sandbox but for what was connected before.
    let name = format!("pigeonair-test-{}", path.display());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    manage(&mut cluster, socket, &format!("@{name}"));
}

/// Starts the front for a manager at this socket, reloads and ends it.
fn manage(cluster: &mut Cluster, socket: UnixDatagram, name: &str) {
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut manager = Manager {
        socket,
        heard: Vec::new(),
    };
    cluster.restart_front_with(&[
        format!("NOTIFY_SOCKET={name}"),
        "WATCHDOG_USEC=400000".to_owned(),
    ]);
    manager.hears("READY=1\nSTATUS=serving");
    manager.hears("WATCHDOG=1");
    take(cluster);
    manager.hears("RELOADING=1\nMONOTONIC_USEC=");
    cluster.front().terminate();
    manager.hears("STOPPING=1");
    assert_eq!(cluster.front().exit_code(), Some(0));
    let is = |part: &str| {
        let part = part.to_owned();
        move |message: &String| message.starts_with(&part)
    };
    let place = |part: &str| manager.heard.iter().position(is(part)).unwrap();
    assert!(place("READY") < place("RELOADING"));
    let after = &manager.heard[place("RELOADING")..];
    assert!(after.iter().any(is("READY")), "{after:?}");
}

#[test]
fn a_balancer_has_time_to_notice() {
    let [ann, bob] = people();
    let mut cluster = cluster(&[ann.clone(), bob.clone()]);
    cluster.write_front(|text| {
        text.replacen(
            "[proxy]\n",
            "[proxy]\nready_pause = \"1h\"\ndrain_timeout = \"1h\"\n",
            1,
        )
    });
    take(&cluster);
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let admin = cluster.front_admin();
    cluster.front().terminate();
    eventually("monitors are told", || {
        http_status(admin, "/readyz") == Some(503)
    });
    // It still serves who comes.
    Client::logged_in(&cluster, Channel::Implicit, &bob);
    session.command("NOOP").ok();
    let (code, _, notes) = cluster.ask(&["reload", "front"]);
    assert_eq!(code, Some(69), "{notes}");
    cluster.front().terminate();
    assert_eq!(session.rest(), b"");
    assert_eq!(cluster.front().exit_code(), Some(0));
}
