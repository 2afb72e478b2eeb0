//! Commands that see and act, against the running cluster: who is on, and what administrators do about it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, thread};

use serde_json::Value;

use crate::{
    client::{Channel, Client, Method},
    lab::{Cluster, Kind, NodeSpec, User, eventually, http_status, metric},
    smtp::lmtp,
};

fn people() -> [User; 3] {
    [
        User::new("ann", "n1", 20001),
        User::new("bob", "n2", 20002),
        User::new("cyd", "n1", 20003),
    ]
}

/// What a command writes that succeeds.
#[track_caller]
fn said(cluster: &Cluster, arguments: &[&str]) -> String {
    let (code, out, notes) = cluster.ask(arguments);
    assert_eq!(
        (code, notes.as_str()),
        (Some(0), ""),
        "{arguments:?}: {out}"
    );
    out
}

/// The accounts that `who` lists, sorted.
#[track_caller]
fn who(cluster: &Cluster, filter: &[&str]) -> Vec<String> {
    let out = said(cluster, &[&["who", "--json"], filter].concat());
    let account = |line: &str| {
        let session: Value = serde_json::from_str(line).unwrap();
        session["account"].as_str().unwrap().to_owned()
    };
    let mut accounts: Vec<String> = out.lines().map(account).collect();
    accounts.sort();
    accounts
}

/// A session is closed without a word.
fn ends(mut client: Client) {
    assert_eq!(String::from_utf8_lossy(&client.rest()), "");
}

/// The line of a session that a command ended says so.
#[track_caller]
fn was_kicked(cluster: &Cluster, account: &str, why: &str) {
    eventually("the session's line", || {
        let lines = cluster.sessions(account);
        let is_it = |line: &String| line.contains(" outcome=kicked ") && line.contains(why);
        lines.iter().any(is_it)
    });
}

/// The line of a command says what it did, and who asked.
#[track_caller]
fn is_logged(cluster: &Cluster, parts: &[&str]) {
    let log = cluster.front_log();
    let uid = format!(" uid={} pid=", cluster.front_uid());
    let is_it = |line: &str| {
        line.contains("INFO done by command")
            && line.contains(&uid)
            && parts.iter().all(|part| line.contains(part))
    };
    assert!(log.lines().any(is_it), "{parts:?}: {log}");
}

/// With `ann` at `n1`, `bob` at `n2`, and `cyd` at `n1` from an address of its own.
fn busy() -> (Cluster, [Client; 3]) {
    let [ann, bob, cyd] = people();
    let cluster = Cluster::usual().user(&ann).user(&bob).user(&cyd).start();
    let mut third = Client::connect_from("127.0.0.77", cluster.imap());
    let first = Client::logged_in(&cluster, Channel::Implicit, &ann);
    let second = Client::logged_in(&cluster, Channel::Plain, &bob);
    third.login(Method::Login, &cyd.name, &cyd.password).ok();
    (cluster, [first, second, third])
}

/// Filters that mean none of them.
const NOBODY: [&[&str]; 4] = [
    &["--protocol", "pop3"],
    &["--user", "dan"],
    &["--user", "ANN", "--account"],
    &["--node", "n1", "--user", "bob"],
];

#[test]
fn who_is_on_is_listed_for_people_and_programs() {
    let (cluster, sessions) = busy();
    let out = said(&cluster, &["who"]);
    let lines: Vec<&str> = out.lines().collect();
    for (line, begin) in lines.iter().zip([
        "ACCOUNT  PROTOCOL  TLS  CLIENT ",
        "ann      imap      yes  127.",
        "bob      imap      no   127.",
        "cyd      imap      no   127.0.0.77:",
        "3 sessions",
    ]) {
        assert!(line.starts_with(begin), "{out}");
    }
    let id = lines[2].rsplit(' ').next().unwrap().to_owned();
    let out = said(&cluster, &["who", "--limit", "2"]);
    assert!(out.ends_with("\n2 sessions, the limit\n"), "{out}");

    for (filter, accounts) in [
        (&[] as &[&str], &["ann", "bob", "cyd"] as &[&str]),
        (&["--user", "ann"], &["ann"]),
        // By the directory.
        (&["--user", "ANN"], &["ann"]),
        (&["--user", &people()[0].address()], &["ann"]),
        (&["--user", "ann", "--account"], &["ann"]),
        (&["--node", "n1"], &["ann", "cyd"]),
        (&["--network", "127.0.0.64/26"], &["cyd"]),
        (&["--network", "127.0.0.77", "--protocol", "imap"], &["cyd"]),
    ] {
        assert_eq!(who(&cluster, filter), accounts, "{filter:?}");
    }
    for nobody in NOBODY {
        let (code, out, notes) = cluster.ask(&[&["who"], nobody].concat());
        assert_eq!((code, out.as_str()), (Some(67), ""), "{nobody:?}");
        assert_eq!(notes, "pigeonair: no such session\n");
    }
    drop(sessions);
    eventually("all have left", || cluster.ask(&["who"]).0 == Some(67));
    // The id is that of the log.
    eventually("the session's line", || {
        let lines = cluster.sessions("bob");
        lines.iter().any(|line| line.contains(&id))
    });
}

#[test]
fn sessions_that_are_meant_are_kicked_and_no_others() {
    let (cluster, [mut first, second, third]) = busy();
    for nobody in NOBODY {
        let (code, _, _) = cluster.ask(&[&["kick"], nobody].concat());
        assert_eq!(code, Some(67), "{nobody:?}");
    }
    for wrong in [&["kick"] as &[&str], &["kick", "--all", "--node", "n1"]] {
        assert_eq!(cluster.ask(wrong).0, Some(64), "{wrong:?}");
    }
    let (code, _, notes) = cluster.ask(&["kick", "--network", "here"]);
    assert!(code == Some(64) && notes.contains("CIDR"), "{notes}");

    let out = said(&cluster, &["kick", "--node", "n2"]);
    assert_eq!(out, "1 session ended\n");
    ends(second);
    was_kicked(&cluster, "bob", "kicked by an administrator");
    is_logged(&cluster, &[" command=kick ", " node=n2 ", " sessions=1 "]);
    let network = ["kick", "--network", "127.0.0.77/32", "--within", "100ms"];
    let out = said(&cluster, &network);
    assert_eq!(out, "1 session will end within 100ms\n");
    ends(third);
    first.command("NOOP").ok();
    let out = said(&cluster, &["kick", "--all", "--json"]);
    assert_eq!(out, "{\"account\":null,\"sessions\":1,\"within_ms\":0}\n");
    ends(first);
    eventually("all have left", || cluster.ask(&["who"]).0 == Some(67));
    let kicked = "pigeonair_sessions_kicked_total{command=\"kick\"}";
    assert_eq!(metric(cluster.front_admin(), kicked), Some(3.0));
}

/// What RCPT hears.
#[track_caller]
fn recipient(cluster: &Cluster, address: &str, expected: &str) {
    let mut mta = lmtp(cluster.lmtp());
    mta.command("MAIL FROM:<a@example.net>").says("250");
    mta.command(&format!("RCPT TO:<{address}>")).says(expected);
}

/// Panics unless both know nothing but "later" of one, and all is well with the other.
#[track_caller]
fn is_held(cluster: &Cluster, held: &User, other: &User) {
    let mut client = Client::connect(cluster, Channel::Implicit);
    client
        .login(Method::Login, &held.name, "wrong")
        .no("AUTHENTICATIONFAILED");
    client
        .login(Method::Login, &held.name, &held.password)
        .no("UNAVAILABLE");
    recipient(cluster, &held.address(), "450 4.2.1");
    recipient(cluster, &other.address(), "250");
}

#[test]
fn a_held_account_waits_until_it_is_released() {
    let [ann, bob, _] = people();
    let cluster = Cluster::mail().user(&ann).user(&bob).start();
    let session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    let mut other = Client::logged_in(&cluster, Channel::Implicit, &bob);
    recipient(&cluster, &ann.address(), "250");
    let out = said(&cluster, &["hold", "ann"]);
    let lasts = "or the front ends ([admin] orders_file is not set); 1 session ended\n";
    assert!(out.ends_with(lasts), "{out}");
    ends(session);
    was_kicked(&cluster, "ann", "the account is held by an administrator");
    let parts = [" command=hold ", " account=ann ", " sessions=1 "];
    is_logged(&cluster, &parts);
    is_held(&cluster, &ann, &bob);
    other.command("NOOP").ok();
    let log = cluster.front_log();
    let denied = "blame=administrator denial=unavailable";
    assert!(log.contains(denied), "{log}");

    let out = said(&cluster, &["release", "ann"]);
    assert_eq!(out, "account ann is not held any more\n");
    let (code, _, notes) = cluster.ask(&["release", "ann"]);
    assert_eq!(code, Some(67));
    assert!(notes.contains("account ann is not held"), "{notes}");
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &ann);
    recipient(&cluster, &ann.address(), "250");
    let (code, _, notes) = cluster.ask(&["hold", "nobody"]);
    assert_eq!(code, Some(67), "{notes}");
    said(&cluster, &["hold", "ann", "--keep-sessions"]);
    is_held(&cluster, &ann, &bob);
    session.command("NOOP").ok();
}

#[test]
fn orders_outlive_a_front_that_is_killed() {
    let [ann, bob, _] = people();
    let mut cluster = Cluster::mail().user(&ann).user(&bob).start();
    let file = cluster.keep_orders();
    let out = said(&cluster, &["hold", "ann"]);
    let done = "account ann is held until it is released; 0 sessions ended\n";
    assert_eq!(out, done);
    cluster.front().kill();
    cluster.restart_front();
    is_held(&cluster, &ann, &bob);
    let out = said(&cluster, &["orders"]);
    let row = out.lines().nth(1).unwrap();
    assert!(out.starts_with("ORDER  SINCE "), "{out}");
    assert!(row.starts_with("hold ") && row.ends_with(" ann"), "{out}");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    said(&cluster, &["release", "ann"]);
    cluster.restart_front();
    recipient(&cluster, &ann.address(), "250");

    fs::write(&file, "{\"held\": ").unwrap();
    let (code, log) = cluster.start_front_in_vain();
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("orders.json is no file of orders"), "{log}");
}

/// Commands reach the front that has taken its place, and the file of orders both.
#[test]
fn a_front_that_was_replaced_obeys_what_the_other_is_told() {
    let [ann, bob, cyd] = people();
    let builder = Cluster::mail().user(&ann).user(&bob).user(&cyd);
    let mut cluster = builder.start();
    cluster.keep_orders();
    let session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let mut kept = Client::logged_in(&cluster, Channel::Plain, &cyd);
    let mut other = Client::logged_in(&cluster, Channel::Plain, &bob);
    // Who has connected before logs in there.
    let mut hesitant = Client::connect(&cluster, Channel::Implicit);
    let successor = cluster.successor("front", &[]);
    let mut old = cluster.front.replace(successor).unwrap();
    said(&cluster, &["hold", "cyd", "--keep-sessions"]);
    let out = said(&cluster, &["hold", "ann"]);
    assert!(out.ends_with("; 1 session ended\n"), "{out}");
    ends(session);
    was_kicked(&cluster, "ann", "the account is held by an administrator");
    hesitant
        .login(Method::Login, &ann.name, &ann.password)
        .no("UNAVAILABLE");
    kept.command("NOOP").ok();
    other.command("NOOP").ok();
    for client in [&mut hesitant, &mut kept, &mut other] {
        client.command("LOGOUT").ok();
    }
    drop((hesitant, kept, other));
    assert_eq!(old.exit_code(), Some(0));
}

/// They are in the process that has replaced it, and in that which is replaced.
#[test]
fn sessions_of_a_front_that_was_replaced_are_listed_and_kicked() {
    let (mut cluster, [first, second, mut third]) = busy();
    let successor = cluster.successor("front", &[]);
    let mut old = cluster.front.replace(successor).unwrap();
    let pid = old.id().as_raw_pid();
    let own = cluster
        .front_socket()
        .with_file_name(format!("front.sock.{pid}"));
    eventually("it has a socket of its own", || own.exists());
    let bob = &people()[1];
    let fourth = Client::logged_in(&cluster, Channel::Implicit, bob);
    assert_eq!(who(&cluster, &[]), ["ann", "bob", "bob", "cyd"]);
    assert_eq!(who(&cluster, &["--node", "n2"]), ["bob", "bob"]);
    let out = said(&cluster, &["who", "--limit", "2"]);
    assert!(out.ends_with("\n2 sessions, the limit\n"), "{out}");
    let out = said(&cluster, &["status"]);
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("replaced       pid {pid}, version {version}, still has: IMAP 3, POP3 0\n");
    assert!(out.contains(&line), "{out}");
    let file = cluster.front_socket().with_file_name("pigeonair.toml");
    let own = own.to_str().unwrap();
    let (code, out, _) = cluster.ask_as(0, &["who", "--socket", own]);
    assert!(code == Some(0) && out.ends_with("\n3 sessions\n"), "{out}");
    let (_, out, _) = cluster.ask_as(0, &["status", "--json", "--config", file.to_str().unwrap()]);
    let figures: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(figures["replaced"][0]["pid"], pid);
    assert_eq!(figures["replaced"][0]["sessions"]["imap"], 3);

    assert_eq!(
        said(&cluster, &["kick", "--user", "bob"]),
        "2 sessions ended\n"
    );
    ends(second);
    ends(fourth);
    let (code, _, _) = cluster.ask(&["kick", "--user", "bob"]);
    assert_eq!(code, Some(67));
    assert_eq!(
        said(&cluster, &["kick", "--user", "ann"]),
        "1 session ended\n"
    );
    ends(first);
    third.command("LOGOUT").ok();
    drop(third);
    assert_eq!(old.exit_code(), Some(0));
    assert!(!Path::new(own).exists(), "{own}");
    // What one that was killed leaves there is nobody.
    drop(std::os::unix::net::UnixListener::bind(own).unwrap());
    fs::set_permissions(own, fs::Permissions::from_mode(0o666)).unwrap();
    let (code, _, notes) = cluster.ask(&["who"]);
    assert_eq!(
        (code, notes.as_str()),
        (Some(67), "pigeonair: no such session\n")
    );
}

#[test]
fn a_process_that_hangs_keeps_no_command_from_the_others() {
    let (mut cluster, sessions) = busy();
    let bob = &people()[1];
    let successor = cluster.successor("front", &[]);
    let hung = cluster.front.replace(successor).unwrap();
    let second = Client::logged_in(&cluster, Channel::Plain, bob);
    let successor = cluster.successor("front", &[]);
    let _old = cluster.front.replace(successor).unwrap();
    let third = Client::logged_in(&cluster, Channel::Plain, bob);
    hung.freeze();
    let (code, out, notes) = cluster.ask(&["kick", "--user", "bob"]);
    hung.thaw();
    assert_eq!(
        (code, out.as_str()),
        (Some(69), "2 sessions ended\n"),
        "{notes}"
    );
    let which = format!("still runs (pid {}) did not do it", hung.id().as_raw_pid());
    assert!(notes.contains(&which), "{notes}");
    ends(second);
    ends(third);
    drop(sessions);
}

#[test]
fn mail_that_was_begun_waits_when_its_account_is_held_meanwhile() {
    let [ann, bob, _] = people();
    let cluster = Cluster::mail().user(&ann).user(&bob).start();
    let mut mta = lmtp(cluster.lmtp());
    mta.command("MAIL FROM:<a@example.net>").says("250");
    mta.command(&format!("RCPT TO:<{}>", ann.address()))
        .says("250");
    said(&cluster, &["hold", "ann"]);
    mta.command("DATA").says("450 4.2.1");
    said(&cluster, &["release", "ann"]);
    // Its text is on its way: only the node that has all of it may keep it.
    mta.begin("a@example.net", &[&ann.address()]);
    mta.send("Subject: one\r\n\r\n");
    said(&cluster, &["hold", "ann"]);
    mta.command(".").says("450 4.2.1");
    // For two homes, one of which may have it.
    said(&cluster, &["release", "ann"]);
    mta.begin("a@example.net", &[&ann.address(), &bob.address()]);
    mta.send("Subject: two\r\n\r\n");
    said(&cluster, &["hold", "ann"]);
    mta.command(".").says("450 4.2.1");
    mta.answer().says("250 2.");
    said(&cluster, &["release", "ann"]);
    assert_eq!(cluster.inbox(&ann).len(), 0);
    for answer in mta.deliver(
        "a@example.net",
        &[&ann.address()],
        b"Subject: three\r\n\r\n",
    ) {
        answer.says("250 2.");
    }
    assert_eq!([&ann, &bob].map(|user| cluster.inbox(user).len()), [1, 1]);
}

/// A session that has not begun at its node, which hangs, is ended like one that has.
#[test]
fn who_is_kicked_before_the_session_has_begun_gets_none() {
    let (mut cluster, [first, ..]) = busy();
    drop(first);
    eventually("ann has left", || {
        cluster.ask(&["who", "--user", "ann"]).0 == Some(67)
    });
    cluster.node("n1").acceptor().freeze();
    let [ann, ..] = people();
    let mut client = Client::connect(&cluster, Channel::Implicit);
    let waiting = {
        let ann = ann.clone();
        thread::spawn(move || {
            let reply = client.login(Method::Login, &ann.name, &ann.password);
            (client, reply)
        })
    };
    eventually("ann is listed", || {
        cluster.ask(&["who", "--user", "ann"]).0 == Some(0)
    });
    said(&cluster, &["kick", "--user", "ann"]);
    let (mut client, reply) = waiting.join().unwrap();
    reply.no("UNAVAILABLE");
    let log = cluster.front_log();
    let why = "blame=administrator denial=unavailable reason=\"kicked by an administrator\"";
    assert!(log.contains(why), "{log}");
    assert_eq!(cluster.ask(&["who", "--user", "ann"]).0, Some(67));
    cluster.node("n1").acceptor().thaw();
    client.login(Method::Login, &ann.name, &ann.password).ok();
}

#[test]
fn nobody_is_meant_by_a_name_that_the_directory_cannot_tell() {
    let (mut cluster, sessions) = busy();
    cluster.slapd().process.stop();
    for command in [&["who"][..], &["kick"], &["hold"], &["release"]] {
        let (flag, name) = match command[0] {
            "who" | "kick" => (Some("--user"), "dan"),
            _ => (None, "dan"),
        };
        let arguments: Vec<&str> = command.iter().copied().chain(flag).chain([name]).collect();
        let (code, _, notes) = cluster.ask(&arguments);
        assert_eq!(code, Some(69), "{arguments:?}: {notes}");
        assert!(
            notes.contains("the directory cannot say who dan is"),
            "{notes}"
        );
    }
    assert_eq!(who(&cluster, &["--user", "ann", "--account"]), ["ann"]);
    drop(sessions);
}

#[test]
fn a_drained_node_is_left_alone_and_used_again() {
    let [ann, bob, _] = people();
    let cluster = Cluster::mail().user(&ann).user(&bob).start();
    let moved = Client::logged_in(&cluster, Channel::Plain, &ann);
    let mut stays = Client::logged_in(&cluster, Channel::Plain, &bob);
    let out = said(&cluster, &["drain", "node", "n1", "--within", "1s"]);
    assert!(
        out.starts_with("node n1 is drained until it is undrained or the front ends"),
        "{out}"
    );
    assert!(out.ends_with("1 session will end within 1s\n"), "{out}");
    ends(moved);
    was_kicked(&cluster, "ann", "the node is drained by an administrator");
    stays.command("NOOP").ok();
    let mut client = Client::connect(&cluster, Channel::Plain);
    client
        .login(Method::Login, "ann", &ann.password)
        .no("UNAVAILABLE");
    recipient(&cluster, &ann.address(), "451 4.4.1");
    recipient(&cluster, &bob.address(), "250");
    assert_eq!(http_status(cluster.front_admin(), "/readyz"), Some(200));
    is_logged(
        &cluster,
        &[" command=\"drain node\" ", " node=n1 ", " sessions=1 "],
    );
    assert_eq!(cluster.ask(&["drain", "node", "n3"]).0, Some(67));
    assert_eq!(cluster.ask(&["undrain", "node", "n2"]).0, Some(67));
    let out = said(&cluster, &["undrain", "node", "n1"]);
    assert_eq!(out, "node n1 is not drained any more\n");
    client.login(Method::Login, "ann", &ann.password).ok();
    recipient(&cluster, &ann.address(), "250");
}

#[test]
fn a_drained_front_is_not_ready_and_serves_whoever_comes() {
    let [ann, ..] = people();
    let cluster = Cluster::usual().user(&ann).start();
    let admin = cluster.front_admin();
    let mut stays = Client::logged_in(&cluster, Channel::Plain, &ann);
    let out = said(&cluster, &["drain", "proxy"]);
    assert!(out.starts_with("this front is drained "), "{out}");
    assert_eq!(http_status(admin, "/readyz"), Some(503));
    assert_eq!(http_status(admin, "/healthz"), Some(200));
    stays.command("NOOP").ok();
    let late = Client::logged_in(&cluster, Channel::Plain, &ann);
    let out = said(&cluster, &["drain", "proxy", "--within", "1s"]);
    assert!(out.starts_with("this front was drained already "), "{out}");
    assert!(out.ends_with("2 sessions will end within 1s\n"), "{out}");
    ends(stays);
    ends(late);
    said(&cluster, &["undrain", "proxy"]);
    assert_eq!(http_status(admin, "/readyz"), Some(200));
}

#[test]
fn what_is_forgotten_is_asked_again() {
    let ann = User::new("ann", "n1", 20001);
    let mut cluster = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .node(NodeSpec::new("n2", Kind::Exec))
        .directory("[directory.cache]\nttl = \"1h\"\n[directory.follow]\nby = \"off\"")
        .user(&ann)
        .start();
    let home = |cluster: &Cluster| {
        drop(Client::logged_in(cluster, Channel::Plain, &ann));
        let count = cluster.sessions("ann").len();
        eventually("the session's line", || {
            cluster.sessions("ann").len() > count
        });
        let lines = cluster.sessions("ann");
        let line = lines.last().unwrap();
        line.split(" node=").nth(1).unwrap()[..2].to_owned()
    };
    assert_eq!(home(&cluster), "n1");
    cluster.slapd().change(&ann, "mailHost", "n2");
    assert_eq!(home(&cluster), "n1");
    assert_eq!(
        said(&cluster, &["cache", "flush", "bob"]),
        "0 names were forgotten\n"
    );
    assert_eq!(home(&cluster), "n1");
    assert_eq!(
        said(&cluster, &["cache", "flush", "ann"]),
        "1 name was forgotten\n"
    );
    assert_eq!(home(&cluster), "n2");
    cluster.slapd().change(&ann, "mailHost", "n1");
    assert_eq!(home(&cluster), "n2");
    assert_eq!(
        said(&cluster, &["cache", "flush"]),
        "1 name was forgotten\n"
    );
    assert_eq!(home(&cluster), "n1");
    is_logged(&cluster, &[" command=\"cache flush\" ", " forgotten=1 "]);
}

#[test]
fn whoever_is_not_root_or_the_front_may_look_and_not_act() {
    const STRANGER: u32 = 23456;
    let [ann, ..] = people();
    let cluster = Cluster::usual().user(&ann).start();
    let mut session = Client::logged_in(&cluster, Channel::Plain, &ann);
    let socket = cluster.front_socket();
    let path = socket.to_str().unwrap();
    let ask = |uid, command: &[&str]| cluster.ask_as(uid, &[command, &["--socket", path]].concat());
    let (code, _, notes) = ask(STRANGER, &["who"]);
    assert_eq!(code, Some(77), "{notes}");
    assert!(notes.contains("Permission denied"), "{notes}");

    open(&socket);
    let (code, out, notes) = ask(STRANGER, &["who"]);
    assert_eq!(code, Some(0), "{notes}");
    assert!(out.contains("ann "), "{out}");
    for command in [
        &["kick", "--all"] as &[&str],
        &["hold", "ann"],
        &["release", "ann"],
        &["drain", "node", "n1"],
        &["drain", "proxy"],
        &["undrain", "proxy"],
        &["cache", "flush"],
    ] {
        let (code, out, notes) = ask(STRANGER, command);
        assert_eq!((code, out.as_str()), (Some(77), ""), "{command:?}");
        assert!(
            notes.contains("only root and the front's own user"),
            "{notes}"
        );
    }
    let log = cluster.front_log();
    let told = format!("a command was refused uid={STRANGER} pid=");
    assert_eq!(log.matches(&told).count(), 7, "{log}");
    session.command("NOOP").ok();
    let (code, out, _) = ask(0, &["kick", "--user", "ann"]);
    assert_eq!((code, out.as_str()), (Some(0), "1 session ended\n"));
    ends(session);
}

/// Lets everybody open a socket.
fn open(socket: &Path) {
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
    for folder in socket.ancestors().skip(1) {
        let mode = fs::metadata(folder).unwrap().permissions().mode();
        if mode & 0o001 == 0 {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011)).unwrap();
        }
    }
}
