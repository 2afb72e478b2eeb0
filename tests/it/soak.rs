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
//! `PIGEONAIR_SOAK_SEED` repeats it. It takes half a minute, with `PIGEONAIR_FULL` four minutes and a half.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Method},
    lab::{Builder, Cluster, Kind, NodeSpec, Process, Slapd, Store, User, eventually, metric},
    smtp::Smtp,
};

/// Between two signs of life of a session that stays.
const PAUSE: Duration = Duration::from_millis(50);
/// Descriptors that come and go: sessions of two who return, links that are ready or kept, connections to LDAP.
const SLACK: u64 = 8;
/// How often what takes no time is done in one event. A descriptor that is lost each time is seen behind it, even where as many of
/// those that come and go have gone.
const TIMES: usize = 20;
/// A process has settled when it has had the same descriptors in so many looks, one after the other.
const LOOKS: usize = 25;
/// What memory may grow by.
const GROWTH: u64 = 24 << 20;

fn is_full() -> bool {
    std::env::var_os("PIGEONAIR_FULL").is_some()
}

fn duration() -> Duration {
    Duration::from_secs(if is_full() { 240 } else { 15 })
}

/// How many events a process lives through before one may end it.
fn life() -> usize {
    if is_full() { 20 } else { 3 }
}

/// Numbers by chance, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("PIGEONAIR_SOAK_SEED").ok();
        let seed = seed.map_or_else(
            || u64::from(std::process::id()),
            |seed| seed.parse().unwrap(),
        );
        eprintln!("PIGEONAIR_SOAK_SEED={seed}");
        Self(seed)
    }

    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

// === those who come and go ===

/// Where the cluster is, for those who know nothing else of it.
#[derive(Clone, Copy)]
struct Place {
    imap: SocketAddr,
    pop3: SocketAddr,
    lmtp: SocketAddr,
}

/// What they have seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    /// Had by each who is on the way, or by whoever wants nobody to be.
    road: RwLock<()>,
    /// By visitor and MTA: how often all went well.
    well: [AtomicUsize; 4],
    /// "Unavailable", "try again".
    later: AtomicUsize,
    /// Sessions at `n2` that were closed.
    closed: AtomicUsize,
    /// By recipient: messages that were accepted.
    accepted: [AtomicUsize; 2],
}

impl Seen {
    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Nobody rests while somebody comes.
    fn come(&self) -> RwLockReadGuard<'_, ()> {
        self.road.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Visitors and MTA have left, and come again when this is over.
    fn rest(&self) -> RwLockWriteGuard<'_, ()> {
        self.road.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn went_well(&self, number: usize) {
        self.well[number].fetch_add(1, SeqCst);
    }
}

/// However this ends: nobody is waited for in vain.
struct Over<'a>(&'a Seen);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

/// Logs in as soon as that is possible; none if all is over before.
fn admitted(place: Place, user: &User, seen: &Seen) -> Option<Client> {
    while !seen.is_over() {
        let mut client = Client::connect_to(place.imap);
        let reply = client.login(Method::PlainInitial, &user.name, &user.password);
        if reply.status.starts_with("OK") {
            return Some(client);
        }
        reply.no("UNAVAILABLE");
        seen.later.fetch_add(1, SeqCst);
    }
    None
}

/// Is there from the beginning to the end, on one connection.
fn stay(place: Place, user: &User, seen: &Seen) {
    let mut client = admitted(place, user, seen).expect("logs in before it is over");
    client.command("SELECT INBOX").ok();
    while !seen.is_over() {
        client.command("NOOP").ok();
        thread::sleep(PAUSE);
    }
    client.command("LOGOUT").ok();
}

/// Is there all the time, and comes again when it was closed.
fn return_always(place: Place, user: &User, seen: &Seen) {
    while let Some(mut client) = admitted(place, user, seen) {
        let is_there = |client: &mut Client| {
            let sent = client.try_send(b"x NOOP\r\n");
            sent.is_ok()
                && client
                    .try_line()
                    .is_some_and(|line| line.starts_with("x OK"))
        };
        while !seen.is_over() && is_there(&mut client) {
            thread::sleep(PAUSE);
        }
        if seen.is_over() {
            return;
        }
        seen.closed.fetch_add(1, SeqCst);
    }
}

fn visit(place: Place, number: usize, user: &User, seen: &Seen) {
    while !seen.is_over() {
        let _road = seen.come();
        let came = if number == 0 {
            visit_pop3(place, user)
        } else {
            visit_imap(place, user)
        };
        if came {
            seen.went_well(number);
        } else {
            seen.later.fetch_add(1, SeqCst);
        }
    }
}

fn visit_imap(place: Place, user: &User) -> bool {
    let mut client = Client::connect_to(place.imap);
    let reply = client.login(Method::Login, &user.name, &user.password);
    if !reply.status.starts_with("OK") {
        reply.no("UNAVAILABLE");
        return false;
    }
    client.command("SELECT INBOX").ok();
    client.command("LOGOUT").ok();
    true
}

fn visit_pop3(place: Place, user: &User) -> bool {
    let mut client = Client::connect_to(place.pop3);
    let mut ask = |command: &str| {
        client.send(format!("{command}\r\n"));
        client.line()
    };
    assert!(ask(&format!("USER {}", user.name)).starts_with("+OK"));
    let answer = ask(&format!("PASS {}", user.password));
    if !answer.starts_with("+OK") {
        assert!(answer.starts_with("-ERR [SYS/TEMP]"), "{answer}");
        return false;
    }
    assert!(ask("STAT").starts_with("+OK"));
    assert!(ask("QUIT").starts_with("+OK"));
    true
}

/// One message for both at a time.
fn bring_mail(place: Place, users: &[User; 2], seen: &Seen) {
    while !seen.is_over() {
        let _road = seen.come();
        let mut mta = Smtp::connect(place.lmtp);
        mta.command("LHLO mta.example.org").says("250");
        mta.command("MAIL FROM:<sender@example.net>").says("250");
        let mut taken = Vec::new();
        for (number, user) in users.iter().enumerate() {
            let answer = mta.command(&format!("RCPT TO:<{}>", user.address()));
            if answer.text.starts_with("250") {
                taken.push(number);
            } else {
                answer.says("4");
            }
        }
        if taken.is_empty() {
            seen.later.fetch_add(1, SeqCst);
            continue;
        }
        // Their nodes may have been drained since, or gone.
        let answer = mta.command("DATA");
        if !answer.text.starts_with("354") {
            answer.says("4");
            seen.later.fetch_add(1, SeqCst);
            continue;
        }
        mta.send("Subject: soak\r\n\r\nhere\r\n.\r\n");
        let mut is_well = taken.len() == users.len();
        for number in taken {
            let answer = mta.answer();
            if answer.text.starts_with("250") {
                seen.accepted[number].fetch_add(1, SeqCst);
            } else {
                answer.says("4");
                is_well = false;
            }
        }
        mta.command("QUIT").says("221");
        if is_well {
            seen.went_well(3);
        } else {
            seen.later.fetch_add(1, SeqCst);
        }
    }
}

// === what processes have ===

#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: u64,
    memory: u64,
}

impl Held {
    /// What a process has once it has settled.
    fn by(process: &Process) -> Self {
        let (mut last, mut looks) = (0, 0);
        eventually("it has settled", || {
            let now = process.descriptors();
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            looks >= LOOKS
        });
        Self {
            descriptors: last,
            memory: process.status("VmRSS")[0].parse::<u64>().unwrap() << 10,
        }
    }
}

/// A process since it was measured first.
#[derive(Clone, Copy)]
struct Life {
    first: Held,
    events: usize,
}

/// The processes that are measured.
const MEASURED: [&str; 3] = ["front", "n1", "n2"];
const FRONT: usize = 0;
const N1: usize = 1;
const N2: usize = 2;

// === what happens ===

/// What happens to a cluster, and what is left over of it.
struct Night<'a> {
    cluster: &'a mut Cluster,
    /// The second LDAP server.
    replica: &'a mut Slapd,
    held: &'a User,
    seen: &'a Seen,
    /// Those that run.
    lives: [Life; 3],
    /// By which they grew the most, in descriptors and octets, and how many were measured.
    worst: [(u64, u64, usize); 3],
    /// Those that were replaced, and may still have sessions.
    fronts: Vec<Process>,
    /// The same; links that fronts have ready keep them for a while.
    nodes: Vec<Process>,
    attempts: u32,
    idle_limit: u32,
    drains: usize,
    happened: [usize; EVENTS.len()],
}

/// What it is, whose end it is, and how it is done.
type Event = (&'static str, Option<usize>, fn(&mut Night<'_>));

const EVENTS: [Event; 9] = [
    ("the front reloads", None, |night| night.reload_front()),
    ("nodes reload", None, |night| night.reload_nodes()),
    ("the front is replaced", Some(FRONT), |night| {
        night.replace_front()
    }),
    ("a node is replaced", Some(N1), |night| night.replace_node()),
    ("a node restarts", Some(N1), |night| night.restart_node()),
    ("a node is killed", Some(N2), |night| night.kill_node()),
    ("a node is drained", None, |night| night.drain_node()),
    ("an account is held", None, |night| night.hold_account()),
    ("LDAP servers go and come", None, |night| {
        night.lose_directory()
    }),
];

const NODE_IS_REPLACED: usize = 3;

impl<'a> Night<'a> {
    /// Measures all processes first.
    fn new(
        cluster: &'a mut Cluster,
        replica: &'a mut Slapd,
        held: &'a User,
        seen: &'a Seen,
    ) -> Self {
        let _rest = seen.rest();
        let lives = [FRONT, N1, N2].map(|number| Life {
            first: Held::by(process(cluster, number)),
            events: 0,
        });
        Self {
            lives,
            cluster,
            replica,
            held,
            seen,
            worst: [(0, 0, 0); 3],
            fronts: Vec::new(),
            nodes: Vec::new(),
            attempts: 3,
            idle_limit: 10,
            drains: 0,
            happened: [0; EVENTS.len()],
        }
    }

    /// One event, if it may be now: who has just begun does not end.
    fn choose(&self, dice: &mut Dice) -> usize {
        loop {
            let number = dice.throw(EVENTS.len());
            let ends = EVENTS[number].1;
            if ends.is_none_or(|number| self.lives[number].events >= life()) {
                return number;
            }
        }
    }

    /// Measures a process first.
    fn begin(&mut self, number: usize) {
        let _rest = self.seen.rest();
        let first = Held::by(process(self.cluster, number));
        self.lives[number] = Life { first, events: 0 };
    }

    /// Measures it again.
    fn measure(&mut self, number: usize) {
        let Life { first, events } = self.lives[number];
        let name = MEASURED[number];
        let _rest = self.seen.rest();
        let process = process(self.cluster, number);
        let last = Held::by(process);
        eprintln!("{name} after {events} events: {first:?}, now {last:?}");
        let most = first.descriptors + SLACK;
        eventually(&format!("{name} has {most} descriptors at most"), || {
            process.descriptors() <= most
        });
        assert!(last.memory <= first.memory + GROWTH, "{name}");
        let (descriptors, memory, times) = &mut self.worst[number];
        *descriptors = last
            .descriptors
            .saturating_sub(first.descriptors)
            .max(*descriptors);
        *memory = last.memory.saturating_sub(first.memory).max(*memory);
        *times += 1;
    }

    /// Nodes that were replaced end although mail goes on: it comes to the others.
    fn nodes_end(&mut self) {
        for node in &mut self.nodes {
            assert_eq!(node.exit_code(), Some(0));
        }
    }

    #[track_caller]
    fn command(&self, arguments: &[&str]) {
        let (code, out, notes) = self.cluster.ask(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {out}{notes}");
    }

    fn reload_front(&mut self) {
        for _ in 0..TIMES {
            let before = format!("max_attempts = {}", self.attempts);
            self.attempts = if self.attempts == 3 { 4 } else { 3 };
            let after = format!("max_attempts = {}", self.attempts);
            self.cluster
                .write_front(|text| text.replacen(&before, &after, 1));
            self.command(&["reload", "front"]);
        }
    }

    fn reload_nodes(&mut self) {
        for _ in 0..TIMES {
            let before = idle_limit(self.idle_limit);
            self.idle_limit = if self.idle_limit == 10 { 11 } else { 10 };
            let after = idle_limit(self.idle_limit);
            for node in ["n1", "n2"] {
                self.cluster
                    .write_node(node, |text| text.replacen(&before, &after, 1));
                let (code, out, notes) = self.cluster.reload_node(node);
                assert_eq!(code, Some(0), "{out}{notes}");
            }
        }
    }

    fn replace_front(&mut self) {
        let successor = self.cluster.successor("front", &[]);
        self.fronts.extend(self.cluster.front.replace(successor));
    }

    fn replace_node(&mut self) {
        let successor = self.cluster.successor("n1", &[]);
        let acceptor = self.cluster.node("n1").acceptor();
        self.nodes.push(std::mem::replace(acceptor, successor));
    }

    fn restart_node(&mut self) {
        self.cluster.node("n1").acceptor().stop();
        self.cluster.restart_acceptor("n1");
    }

    fn kill_node(&mut self) {
        self.cluster.node("n2").acceptor().kill();
        self.cluster.restart_acceptor("n2");
    }

    fn drain_node(&mut self) {
        for _ in 0..TIMES {
            self.drains += 1;
            self.command(&["drain", "node", "n2", "--within", "0s"]);
            self.command(&["undrain", "node", "n2"]);
        }
    }

    fn hold_account(&mut self) {
        for _ in 0..TIMES {
            self.command(&["hold", &self.held.name, "--keep-sessions"]);
            self.command(&["release", &self.held.name]);
        }
    }

    /// The first of the two, then both come back in turn.
    fn lose_directory(&mut self) {
        self.cluster.slapd().process.stop();
        self.cluster.slapd().restart();
        self.replica.process.kill();
        self.replica.restart();
    }
}

fn process(cluster: &mut Cluster, number: usize) -> &Process {
    match MEASURED[number] {
        "front" => cluster.front(),
        node => cluster.node(node).acceptor(),
    }
}

/// For links that fronts have ready: so long may a node live that was replaced.
fn idle_limit(seconds: u32) -> String {
    format!("idle_limit = \"{seconds}s\"")
}

/// Nobody is on, and fronts that were replaced have ended.
fn settle(cluster: &mut Cluster, replaced: &mut [Process]) {
    let admin = cluster.front_admin();
    eventually("nobody is on", || {
        metric(admin, "pigeonair_connections_open") == Some(0.0)
    });
    for front in replaced {
        assert_eq!(front.exit_code(), Some(0));
    }
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
    let mut happen = |night: &mut Night<'_>, number: usize| {
        let (what, ends, happen) = EVENTS[number];
        eprintln!("{:6.1} s: {what}", start.elapsed().as_secs_f64());
        if let Some(number) = ends {
            night.measure(number);
        }
        happen(night);
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
