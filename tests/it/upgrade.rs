//! A process takes another's place, and no client and no MTA notices: none is refused, reset or cut.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use rustix::process::Signal;

use crate::{
    client::{Channel, Client, Method},
    lab::{
        Builder, Cluster, FRONT_UID, Kind, NodeSpec, Process, Store, User, eventually, http_status,
        metric,
    },
    smtp::Smtp,
};

/// Those who come and go all the time, one for each thread, and one who stays.
fn people() -> Vec<User> {
    (0..6)
        .map(|number| {
            let node = if number % 2 == 0 { "n1" } else { "n2" };
            User::new(&format!("user{number}"), node, 20800 + number)
        })
        .collect()
}

fn with(builder: Builder, users: &[User]) -> Cluster {
    users
        .iter()
        .fold(builder, |builder, user| builder.user(user))
        .start()
}

/// The way to restrict a process to one core, on which it has one worker.
fn one_core() -> [String; 3] {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    let first = list.unwrap().split([',', '-']).next().unwrap();
    ["taskset", "-c", first].map(str::to_owned)
}

fn imap(cluster: &Cluster, user: &User, channel: Channel) {
    let mut client = Client::logged_in(cluster, channel, user);
    client.command("SELECT INBOX").ok();
    client.command("LOGOUT").ok();
}

fn pop3(mut client: Client, user: &User) {
    for command in [
        format!("USER {}", user.name),
        format!("PASS {}", user.password),
        "STAT".to_owned(),
        "QUIT".to_owned(),
    ] {
        client.send(format!("{command}\r\n"));
        let answer = client.line();
        assert!(answer.starts_with("+OK"), "{command}: {answer}");
    }
}

fn mail(mut mta: Smtp, user: &User) {
    mta.command("LHLO mta.example.org").says("250");
    let message = b"Subject: hi\r\n\r\nhere\r\n";
    let answers = mta.deliver("sender@example.net", &[&user.address()], message);
    answers[0].says("250 ");
    mta.command("QUIT").says("221");
}

/// What each of them does, again and again.
fn visit(cluster: &Cluster, number: usize, user: &User) {
    match number {
        0 => imap(cluster, user, Channel::Implicit),
        1 => imap(cluster, user, Channel::Plain),
        2 => pop3(Client::connect_tls(cluster, cluster.pop3s()), user),
        3 => pop3(Client::connect_to(cluster.pop3()), user),
        4 => mail(Smtp::connect(cluster.lmtp()), user),
        _ => mail(Smtp::connect_unix(&cluster.lmtp_socket()), user),
    }
}

/// Does something while everybody comes and goes; how often each has come. Whoever is turned away panics.
fn under_load(
    cluster: &Cluster,
    visitors: &[usize],
    users: &[User],
    work: impl FnOnce(&dyn Fn()),
) -> Vec<usize> {
    let over = AtomicBool::new(false);
    let counts: Vec<AtomicUsize> = visitors.iter().map(|_| AtomicUsize::new(0)).collect();
    let seen = || -> Vec<usize> { counts.iter().map(|it| it.load(Ordering::SeqCst)).collect() };
    thread::scope(|scope| {
        let threads: Vec<_> = visitors
            .iter()
            .zip(&counts)
            .map(|(number, count)| {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::SeqCst) {
                        visit(cluster, *number, &users[*number]);
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        // Each has begun and ended one since, at least.
        let go_on = || {
            let before = seen();
            eventually("everybody goes on coming", || {
                assert!(!threads.iter().any(|it| it.is_finished()), "turned away");
                seen()
                    .iter()
                    .zip(&before)
                    .all(|(now, before)| *now > before + 1)
            });
        };
        // However this ends: nobody is waited for in vain.
        let _over = Over(&over);
        go_on();
        work(&go_on);
    });
    seen()
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn assert_nobody_was_cut(log: &str) {
    let cut: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("ended") && line.contains("outcome=cut"))
        .collect();
    assert!(cut.is_empty(), "{cut:#?}");
}

#[test]
fn a_front_is_replaced_five_times_and_nobody_notices() {
    let users = people();
    let stays = User::new("stays", "n1", 20820);
    let mut cluster = with(Cluster::mail().user(&stays), &users);
    let mut session = Client::logged_in(&cluster, Channel::Implicit, &stays);
    session.command("SELECT INBOX").ok();
    let mut hesitant = Client::connect(&cluster, Channel::Plain);
    let one_core = one_core();
    let one_core = one_core.each_ref().map(String::as_str);
    let mut fronts: Vec<Process> = Vec::new();
    let counts = under_load(&cluster, &[0, 1, 2, 3, 4, 5], &users, |go_on| {
        for round in 0..5 {
            // From many workers to one and back.
            let before = if round % 2 == 0 { &one_core[..] } else { &[] };
            fronts.push(cluster.successor("front", before));
            go_on();
            session.command("NOOP").ok();
        }
    });
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");

    // Who has connected before the first of them logs in where it is.
    hesitant.login(Method::Login, "stays", &stays.password).ok();
    hesitant.command("LOGOUT").ok();
    session.command("LOGOUT").ok();
    drop((session, hesitant));
    assert_eq!(cluster.front().exit_code(), Some(0));
    let mut last = fronts.pop().unwrap();
    for front in &mut fronts {
        assert_eq!(front.exit_code(), Some(0));
    }
    assert!(last.lives());
    assert_eq!(http_status(cluster.front_admin(), "/readyz"), Some(200));
    let log = cluster.front_log();
    assert_nobody_was_cut(&log);
    assert_eq!(log.matches("replaced: accepting no more").count(), 5);
    for (number, user) in users.iter().enumerate().skip(4) {
        assert_eq!(cluster.inbox(user).len(), counts[number]);
    }
}

/// A process that has the sockets and dies is as if it had never been.
#[test]
fn a_front_goes_on_when_its_successor_dies() {
    let users = people();
    let mut cluster = with(Cluster::mail(), &users);
    under_load(&cluster, &[0, 1, 2, 3], &users, |go_on| {
        for round in 1..=3 {
            let stuck = cluster.stuck_successor("front");
            go_on();
            // While it is there nobody else gets them.
            let mut third = cluster.begin_successor("front", &[]);
            assert_eq!(third.exit_code(), Some(69));
            stuck.kill();
            let noticed = "has not taken over, going on";
            eventually("the front has noticed", || {
                cluster.front_log().matches(noticed).count() == round
            });
            go_on();
        }
    });
    let mut new = cluster.successor("front", &[]);
    assert_eq!(cluster.front().exit_code(), Some(0));
    visit(&cluster, 5, &users[5]);
    assert!(new.lives());
}

/// What the running process is told while its successor starts counts for both.
#[test]
fn orders_and_reloads_during_an_upgrade_are_not_forgotten() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    let file = cluster.keep_orders();
    let (held, moved, kept) = (&users[0], &users[1], &users[2]);
    assert_eq!((held.node.as_str(), moved.node.as_str()), ("n1", "n2"));
    let mut session = Client::logged_in(&cluster, Channel::Plain, kept);
    let stuck = cluster.stuck_successor("front");
    let (code, out, notes) = cluster.ask(&["hold", &held.name]);
    assert_eq!(code, Some(0), "{out}{notes}");
    cluster.write_front(|text| {
        let at = text.find("\n[[nodes.node]]\nname = \"n2\"").unwrap();
        text[..at].to_owned()
    });
    let (code, out, notes) = cluster.ask(&["reload", "front"]);
    assert_eq!(code, Some(0), "{out}{notes}");
    let _new = stuck.go_on();
    session.command("LOGOUT").ok();
    drop(session);
    assert_eq!(cluster.front().exit_code(), Some(0));
    eventually("the new one has read its configuration again", || {
        metric(
            cluster.front_admin(),
            "pigeonair_reloads_total{result=\"ok\"}",
        ) == Some(1.0)
    });
    let mut client = Client::connect(&cluster, Channel::Implicit);
    for user in [held, moved] {
        let refused = client.login(Method::Login, &user.name, &user.password);
        refused.no("UNAVAILABLE");
    }
    assert!(fs::read_to_string(file).unwrap().contains(&held.name));
    imap(&cluster, kept, Channel::Implicit);
}

/// Who knows many is not replaced by one that would know nobody.
#[test]
fn a_front_that_serves_from_memory_is_not_replaced_by_one_that_has_none() {
    let users = people();
    // Servers that need no directory.
    let builder = Cluster::build()
        .node(NodeSpec::new("n1", Kind::Exec))
        .node(NodeSpec::new("n2", Kind::Exec));
    let mut cluster = with(builder, &users);
    imap(&cluster, &users[0], Channel::Implicit);
    cluster.slapd().process.stop();
    let (code, out, notes) = cluster.upgrade("front", &[], &[]);
    assert_eq!((code, out.as_str()), (Some(69), ""), "{notes}");
    for words in [
        "could not serve: directory is not reachable",
        "the running one (pid ",
    ] {
        assert!(notes.contains(words), "{notes}");
    }
    imap(&cluster, &users[0], Channel::Implicit);
    cluster.slapd().restart();
    let new = cluster.successor("front", &[]);
    let mut old = cluster.front.replace(new).unwrap();
    assert_eq!(old.exit_code(), Some(0));
    imap(&cluster, &users[0], Channel::Implicit);
}

/// Whoever stops the service wants no other process to serve on.
#[test]
fn a_front_that_is_told_to_stop_has_its_successor_end() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    let stuck = cluster.stuck_successor("front");
    cluster.front().terminate();
    assert_eq!(cluster.front().exit_code(), Some(0));
    let (code, said) = stuck.ends();
    assert_eq!(code, Some(69), "{said}");
    let why = "the running process refuses: it is stopping";
    assert!(said.contains(why), "{said}");
}

#[test]
fn the_command_ends_what_it_has_started_when_it_is_told_to_end() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let stuck = cluster.stuck_upgrade("front");
        stuck.signal(signal);
        let noticed = "has not taken over, going on";
        eventually("the new process is gone", || {
            cluster.front_log().matches(noticed).count() == round + 1
        });
        let (code, said) = stuck.ends();
        assert_eq!(code, Some(69), "{said}");
        let why = "told to end: the new front was ended";
        assert!(said.contains(why), "{said}");
        imap(&cluster, &users[0], Channel::Implicit);
    }
    assert!(cluster.front().lives());
}

/// With `upgrade_drain_timeout` and `drain_timeout`; whether it is told to end.
fn ends(limits: [&str; 2], told: bool) {
    let users = people();
    let mut cluster = with(
        Cluster::usual()
            .process(&format!("upgrade_drain_timeout = \"{}\"", limits[0]))
            .proxy(&format!("drain_timeout = \"{}\"", limits[1])),
        &users,
    );
    let mut session = Client::logged_in(&cluster, Channel::Plain, &users[0]);
    session.command("NOOP").ok();
    let _new = cluster.successor("front", &[]);
    if told {
        session.command("NOOP").ok();
        cluster.front().terminate();
    }
    assert_eq!(session.rest(), b"");
    assert_eq!(cluster.front().exit_code(), Some(0));
    assert!(cluster.front_log().contains("stopped cut=1"));
    imap(&cluster, &users[1], Channel::Implicit);
}

#[test]
fn a_replaced_front_ends_sooner_when_it_is_told_to() {
    ends(["1h", "1s"], true);
}

/// As a service manager does: with the main process, and once that has ended.
#[test]
fn a_replaced_front_may_be_told_twice() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    let mut session = Client::logged_in(&cluster, Channel::Plain, &users[0]);
    let mut new = cluster.successor("front", &[]);
    cluster.front().terminate();
    eventually("the drain has begun", || {
        cluster.front_log().contains("stopping")
    });
    cluster.front().terminate();
    new.stop();
    session.command("SELECT INBOX").ok();
    session.command("LOGOUT").ok();
    drop(session);
    assert_eq!(cluster.front().exit_code(), Some(0));
    assert_eq!(cluster.front_log().matches("stopped cut=0").count(), 2);
}

#[test]
fn a_replaced_front_ends_when_its_time_has_passed() {
    ends(["1s", "0s"], false);
}

/// A listener that is gone, one that is new, and one that somebody else has.
#[test]
fn listeners_change_with_the_process() {
    let users = people();
    let mut cluster = with(
        Cluster::usual().listener(2143, "protocol = \"imap\"\n"),
        &users,
    );
    let [old, new] = [2143, 3143].map(|port| cluster.port(port));
    Client::connect_to(old);
    let taken = std::net::TcpListener::bind(new).unwrap();
    cluster.write_front(|text| text.replace(":2143", ":3143"));
    let mut vain = cluster.begin_successor("front", &[]);
    assert_eq!(vain.exit_code(), Some(71));
    eventually("the front has noticed", || {
        cluster.front_log().contains("has not taken over, going on")
    });
    Client::connect_to(old);
    drop(taken);
    let _new = cluster.successor("front", &[]);
    Client::connect_to(new);
    eventually("nobody listens there any more", || {
        std::net::TcpStream::connect(old).is_err()
    });
    assert_eq!(cluster.front().exit_code(), Some(0));
    let log = cluster.front_log();
    let expected = format!("no longer listened on address={old}");
    assert!(log.contains(&expected), "{log}");
}

#[test]
fn who_takes_over_from_nobody_is_told_so() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    cluster.front().stop();
    let mut vain = cluster.begin_successor("front", &[]);
    assert_eq!(vain.exit_code(), Some(69));
    let log = cluster.front_log();
    assert!(log.contains("cannot ask the running process at"), "{log}");
}

#[test]
fn a_front_that_root_starts_is_replaced_as_its_user() {
    let users = people();
    let mut cluster = with(Cluster::mail().front_becomes_its_user(), &users);
    let socket = fs::metadata(cluster.upgrade_socket("front")).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (FRONT_UID, 0o600));
    let mut fronts = Vec::new();
    under_load(&cluster, &[0, 3, 5], &users, |go_on| {
        for _ in 0..2 {
            fronts.push(cluster.successor("front", &[]));
            go_on();
        }
    });
    assert_eq!(cluster.front().exit_code(), Some(0));
    assert_nobody_was_cut(&cluster.front_log());
    let last = fronts.last().unwrap();
    let uid = FRONT_UID.to_string();
    assert_eq!(last.status("Uid"), [uid.as_str(); 4]);
}

/// What `pigeonair upgrade` has started, ended with the test.
struct Started(rustix::process::Pid);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::TERM);
    }
}

/// The process that the command says to serve now.
#[track_caller]
fn started(out: &str) -> Started {
    let pid = out
        .strip_prefix("front: pid ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{out}"));
    Started(rustix::process::Pid::from_raw(pid).unwrap())
}

#[test]
fn the_command_says_what_came_of_it_and_the_manager_hears_of_it() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    let notify = cluster.scratch().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    manager
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    let [place] = [&notify].map(|path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        format!("NOTIFY_SOCKET={}", path.display())
    });
    cluster.restart_front_with(std::slice::from_ref(&place));
    let old = cluster.front().id();
    let (code, out, notes) = cluster.upgrade("front", &[], &[&place]);
    assert_eq!(code, Some(0), "{notes}");
    let started = started(&out);
    let new = started.0.as_raw_pid();
    let expected = format!(
        "front: pid {new} ({0}) serves in the place of pid {old} ({0}), which ends with its sessions\n",
        env!("CARGO_PKG_VERSION"),
        old = old.as_raw_pid(),
    );
    assert_eq!(out, expected);
    assert!(notes.contains("took over"), "{notes}");
    let told = || {
        let mut octets = [0; 128];
        let length = manager.recv(&mut octets).unwrap();
        String::from_utf8(octets[..length].to_vec()).unwrap()
    };
    let mut words = std::iter::repeat_with(told).filter(|word| word != "WATCHDOG=1");
    let serving = "READY=1\nSTATUS=serving";
    assert_eq!(words.next().as_deref(), Some(serving));
    // By the old process, which is heard, then by the new one. The command says it as well, to whom the old one could not.
    assert_eq!(words.next(), Some(format!("MAINPID={new}")));
    let interval = "WATCHDOG=1\nWATCHDOG_USEC=30000000";
    assert_eq!(words.next().as_deref(), Some(interval));
    // It reads its configuration once more.
    let mut rest: Vec<String> = words.take(4).collect();
    rest.sort();
    let reloading = rest.pop().unwrap();
    assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
    let by_command = format!("MAINPID={new}\n{interval}");
    assert_eq!(rest, [by_command.as_str(), serving, serving]);
    assert_eq!(cluster.front().exit_code(), Some(0));
    imap(&cluster, &users[0], Channel::Implicit);

    // One that does not start, and a place where nobody is.
    cluster.write_front(|text| {
        text + "\n[[proxy.listen]]\naddress = \"192.0.2.1:143\"\nprotocol = \"imap\"\n"
    });
    let (code, out, notes) = cluster.upgrade("front", &[], &[]);
    assert_eq!((code, out.as_str()), (Some(71), ""), "{notes}");
    let expected = format!("the running one (pid {new}) goes on");
    assert!(notes.contains(&expected), "{notes}");
    imap(&cluster, &users[0], Channel::Implicit);
    cluster.write_front(|text| text.replace("upgrade.sock", "elsewhere.sock"));
    let (code, _, notes) = cluster.upgrade("front", &[], &[]);
    assert_eq!(code, Some(69), "{notes}");
    cluster.write_front(|text| text.replace("front_upgrade_socket", "#"));
    let (code, _, notes) = cluster.upgrade("front", &[], &[]);
    assert_eq!(code, Some(78), "{notes}");
}

const RELOADED: &str = "front: configuration taken (nothing has changed)\n";

/// What a service manager calls a reload.
#[test]
fn a_program_of_the_same_version_that_was_built_anew_takes_the_place() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    let old = cluster.front().id().as_raw_pid();
    let (code, out, notes) = cluster.upgrade("front", &["--or-reload"], &[]);
    assert_eq!(code, Some(0), "{notes}");
    assert_eq!(out, RELOADED);
    cluster.renew_program();
    let (code, out, notes) = cluster.upgrade("front", &["--or-reload"], &[]);
    assert_eq!(code, Some(0), "{notes}");
    let _started = started(&out);
    let expected = format!(" serves in the place of pid {old} ");
    assert!(out.contains(&expected), "{out}");
    assert_eq!(cluster.front().exit_code(), Some(0));
    imap(&cluster, &users[0], Channel::Implicit);
    // The one that serves is this very program again.
    let (code, out, notes) = cluster.upgrade("front", &["--or-reload"], &[]);
    assert_eq!(code, Some(0), "{notes}");
    assert_eq!(out, RELOADED);
}

/// Where sessions are written down is between a process and its successor; without that nobody would know of the first one's.
#[test]
fn a_node_is_not_replaced_by_one_with_another_sessions_file() {
    let users = people();
    let mut cluster = with(Cluster::usual(), &users);
    let other = format!(
        "sessions_file = \"{}\"\n",
        cluster.node_file("n1", "other").display()
    );
    cluster.write_node("n1", |text| {
        let is_other = |line: &&str| !line.starts_with("sessions_file");
        let lines: Vec<_> = text.lines().filter(is_other).collect();
        let text = lines.join("\n") + "\n";
        text.replacen("[acceptor]\n", &format!("[acceptor]\n{other}"), 1)
    });
    let mut vain = cluster.begin_successor("n1", &[]);
    assert_eq!(vain.exit_code(), Some(78));
    assert!(
        vain.log()
            .contains("is not the sessions_file of the process"),
        "{}",
        vain.log()
    );
    assert!(cluster.node("n1").acceptor().lives());
    imap(&cluster, &users[0], Channel::Plain);
}

/// Nodes are replaced one after the other while everybody comes and goes, and all sessions count in the last of them.
fn nodes(builder: Builder, given_away: bool) {
    let users = people();
    let stays = [
        User::new("stays1", "n1", 20820),
        User::new("stays2", "n2", 20821),
    ];
    let builder = builder.acceptor("sessions_per_account = 2");
    let cluster = with(builder.user(&stays[0]).user(&stays[1]), &users);
    let mut sessions = stays
        .each_ref()
        .map(|user| Client::logged_in(&cluster, Channel::Implicit, user));
    let one_core = one_core();
    let one_core = one_core.each_ref().map(String::as_str);
    let mut acceptors: Vec<Process> = Vec::new();
    under_load(&cluster, &[0, 1, 2, 3, 4, 5], &users, |go_on| {
        for round in 0..4 {
            let node = ["n1", "n2"][round % 2];
            let before = if round < 2 { &one_core[..] } else { &[] };
            acceptors.push(cluster.successor(node, before));
            go_on();
            for session in &mut sessions {
                session.command("NOOP").ok();
            }
        }
    });
    for (user, session) in stays.iter().zip(&mut sessions) {
        let second = Client::logged_in(&cluster, Channel::Plain, user);
        let mut third = Client::connect(&cluster, Channel::Plain);
        third
            .login(Method::Login, &user.name, &user.password)
            .no("LIMIT");
        drop(second);
        session.command("LOGOUT").ok();
    }
    drop(sessions);
    for node in ["n1", "n2"] {
        let log = cluster.log_of(node);
        assert_nobody_was_cut(&log);
        assert_eq!(log.matches("replaced: accepting no more").count(), 2);
    }
    assert_nobody_was_cut(&cluster.front_log());
    let handed_over = cluster.log_of("n2").contains("outcome=\"handed over\"");
    assert_eq!(handed_over, given_away);
}

#[test]
fn nodes_that_relay_are_replaced_and_nobody_notices() {
    nodes(Cluster::mail(), false);
}

#[test]
fn nodes_that_give_sessions_away_are_replaced_and_nobody_notices() {
    let [one, two] = [("n1", Kind::ImapMaster), ("n2", Kind::Exec)];
    let builder = Cluster::build()
        .node(NodeSpec::new(one.0, one.1).store(Store::Maildir))
        .node(NodeSpec::new(two.0, two.1).store(Store::Maildir))
        .link_tls(false)
        .delivery("");
    nodes(builder, true);
}
