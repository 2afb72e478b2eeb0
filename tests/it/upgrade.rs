//! A process takes another's place, and no client and no MTA notices: none is refused, reset or cut.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use crate::{
    client::{Channel, Client, Method},
    lab::{Builder, Cluster, FRONT_UID, Process, User, eventually, http_status},
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
