//! Ordinary days and bad nights at random, under load: configurations are taken, fronts and nodes replaced and restarted, a
//! node drained, an account held, LDAP servers taken away.
//!
//! | who | what may happen to them |
//! | --- | --- |
//! | stayers at `n1`, logged in all the time | nothing |
//! | stayers at `n2` | they are closed when `n2` is drained, and come again |
//! | visitors, who log in and out | "unavailable" while a node is away; never a connection refused, reset or cut |
//! | an MTA | "try again"; what was accepted is there in the end |
//!
//! Each process is measured against itself: when it has settled, and again after some events, before it ends or is replaced, or at
//! the end. It has no more descriptors then, and hardly more memory. Nodes that were replaced end by themselves, while mail goes on;
//! fronts do when their sessions have. What was done is printed, with the most that a process grew by and the seed;
//! `PIGEONAIR_SOAK_SEED` repeats it. It takes half a minute, with `PIGEONAIR_FULL` four and a half.

mod night;
mod visitors;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use self::{
    night::{Dice, EVENTS, FRONT, MEASURED, N1, N2, NODE_IS_REPLACED, Night, idle_limit, settle},
    visitors::{Over, Place, Seen, bring_mail, return_always, stay, visit, visit_imap, visit_pop3},
};
use crate::lab::{Builder, Cluster, Kind, NodeSpec, Slapd, Store, User, eventually};

fn is_full() -> bool {
    std::env::var_os("PIGEONAIR_FULL").is_some()
}

fn duration() -> Duration {
    Duration::from_secs(if is_full() { 240 } else { 15 })
}

fn people() -> Vec<User> {
    let at = |name: &str, node, number: u32| User::new(name, node, 20900 + number);
    vec![
        at("stay1", "n1", 0),
        at("stay2", "n1", 1),
        at("return1", "n2", 2),
        at("return2", "n2", 3),
        at("pop", "n1", 4),
        at("imap", "n1", 5),
        at("held", "n1", 6),
        at("mail1", "n1", 7),
        at("mail2", "n2", 8),
    ]
}

/// With two LDAP servers, each of which knows everybody.
fn cluster(users: &[User]) -> (Cluster, Slapd) {
    // Sockets that are given away live on without the node that gave them.
    let builder = Cluster::build()
        .node(NodeSpec::new("n1", Kind::ImapMaster).store(Store::Maildir))
        .node(NodeSpec::new("n2", Kind::Exec).store(Store::Maildir))
        .link_tls(false)
        .delivery("")
        .proxy("max_attempts = 3")
        .acceptor(&idle_limit(10))
        // They are no replicas of each other, so what one says of entries is news to whoever has heard the other.
        .directory("[directory.follow]\nby = \"off\"");
    let builder = users.iter().fold(builder, Builder::user);
    let mut cluster = builder.start();
    let socket = cluster.front_socket();
    let [front, root] = [1, 2].map(|above| socket.ancestors().nth(above).unwrap());
    let SocketAddr::V4(own) = cluster.imap() else {
        panic!("an address of IPv4");
    };
    let [_, _, third, fourth] = own.ip().octets();
    let ip = Ipv4Addr::new(127, 255, third, fourth);
    let (dir, logs) = (root.join("replica"), root.join("logs"));
    let replica = Slapd::start(&dir, &logs, front, ip, users);
    let first = format!("uri = \"{}\"", cluster.slapd().uri());
    let both = format!(
        "uri = [\"{}\", \"{}\"]",
        cluster.slapd().uri(),
        replica.uri()
    );
    cluster.change_front(|text| text.replacen(&first, &both, 1));
    (cluster, replica)
}

/// Each has come since, and ended well.
fn go_on(seen: &Seen, is_broken: impl Fn() -> bool) {
    let counts = || seen.well.each_ref().map(|it| it.load(SeqCst));
    let before = counts();
    eventually("everybody goes on coming", || {
        assert!(!is_broken(), "somebody met what nobody may meet");
        let now = counts();
        now.iter()
            .zip(before)
            .all(|(now, before)| *now > before + 1)
    });
}

/// Lets things happen for a while, under load.
fn spend<'a>(
    cluster: &'a mut Cluster,
    replica: &'a mut Slapd,
    users: &'a [User],
    seen: &'a Seen,
) -> Night<'a> {
    let place = Place {
        imap: cluster.imap(),
        pop3: cluster.pop3(),
        lmtp: cluster.lmtp(),
    };
    let user = |number: usize| &users[number];
    let recipients = [user(7).clone(), user(8).clone()];
    thread::scope(|scope| {
        let recipients = &recipients;
        let [one, two, three, four] = [0, 1, 2, 3].map(user);
        let [pop, imap, held] = [4, 5, 6].map(user);
        let threads = [
            scope.spawn(move || stay(place, one, seen)),
            scope.spawn(move || stay(place, two, seen)),
            scope.spawn(move || return_always(place, three, seen)),
            scope.spawn(move || return_always(place, four, seen)),
            scope.spawn(move || visit(place, 0, pop, seen)),
            scope.spawn(move || visit(place, 1, imap, seen)),
            scope.spawn(move || visit(place, 2, held, seen)),
            scope.spawn(move || bring_mail(place, recipients, seen)),
        ];
        let _over = Over(seen);
        let is_broken = || threads.iter().any(thread::ScopedJoinHandle::is_finished);
        let go_on = || go_on(seen, is_broken);
        go_on();
        let mut night = Night::new(cluster, replica, &users[6], seen);
        happen(&mut night, &go_on);
        night
    })
}

/// One event after the other, and everybody goes on.
fn happen(night: &mut Night<'_>, go_on: &dyn Fn()) {
    let mut dice = Dice::new();
    let start = Instant::now();
    let happen = |night: &mut Night<'_>, number: usize| {
        let (what, ends, act) = EVENTS[number];
        eprintln!("{:6.1} s: {what}", start.elapsed().as_secs_f64());
        if let Some(number) = ends {
            night.measure(number);
        }
        act(night);
        night.happened[number] += 1;
        go_on();
        for life in &mut night.lives {
            life.events += 1;
        }
        if let Some(number) = ends {
            night.begin(number);
        }
    };
    while start.elapsed() < duration() {
        let number = night.choose(&mut dice);
        happen(night, number);
    }
    // So that there is one in any case.
    happen(night, NODE_IS_REPLACED);
    night.nodes_end();
    for number in [FRONT, N1, N2] {
        night.measure(number);
    }
}

/// What was accepted is there, and nothing that was not offered.
fn mail_is_there(cluster: &Cluster, recipients: &[User], seen: &Seen) {
    for (user, accepted) in recipients.iter().zip(&seen.accepted) {
        let (accepted, found) = (accepted.load(SeqCst), cluster.inbox(user).len());
        let most = accepted + seen.later.load(SeqCst);
        assert!(
            (accepted..=most).contains(&found),
            "{}: {found} of {accepted} messages",
            user.name
        );
    }
}

#[test]
fn days_and_nights() {
    let users = people();
    let (mut cluster, mut replica) = cluster(&users);
    let place = Place {
        imap: cluster.imap(),
        pop3: cluster.pop3(),
        lmtp: cluster.lmtp(),
    };
    // All that is made once is there.
    for user in &users {
        assert!(visit_imap(place, user) && visit_pop3(place, user));
    }
    let seen = Seen::default();
    let night = spend(&mut cluster, &mut replica, &users, &seen);
    report(&night);
    let (drains, mut fronts) = (night.drains, night.fronts);
    let closed = seen.closed.load(SeqCst);
    assert!(closed <= 2 * drains, "{closed} closed in {drains} drains");
    mail_is_there(&cluster, &users[7..], &seen);
    settle(&mut cluster, &mut fronts);
}

fn report(night: &Night<'_>) {
    let seen = night.seen;
    for ((what, ..), times) in EVENTS.iter().zip(night.happened) {
        eprintln!("{times:4} times {what}");
    }
    let well: Vec<_> = seen.well.iter().map(|it| it.load(SeqCst)).collect();
    eprintln!(
        "visits and messages that went well {well:?}, told to come later {}, sessions closed by drains {}",
        seen.later.load(SeqCst),
        seen.closed.load(SeqCst)
    );
    for (name, (descriptors, memory, times)) in MEASURED.iter().zip(night.worst) {
        eprintln!(
            "{name}, measured {times} times: at most {descriptors} descriptors and {memory} octets more"
        );
    }
}
