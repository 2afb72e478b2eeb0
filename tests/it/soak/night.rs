//! What happens to a cluster, and what its processes have before and after.

use super::{is_full, visitors::Seen};
use crate::lab::{Cluster, Process, Slapd, User, eventually, metric};

/// Descriptors that come and go: sessions of two who return, links that are ready or kept, connections to LDAP.
const SLACK: u64 = 8;
/// How often what takes no time is done in one event. A descriptor that is lost each time is seen behind it, even where as many of
/// those that come and go have gone.
const TIMES: usize = 20;
/// A process has settled when it has had the same descriptors in so many looks, one after the other.
const LOOKS: usize = 25;
/// What memory may grow by. On two cores it is 2 MiB: what a process has not used in its first moments, and what each thread's
/// allocator keeps for the next time. There are more threads where there are more cores.
const GROWTH: u64 = 16 << 20;

/// How many events a process lives through before one may end it.
fn life() -> usize {
    if is_full() { 20 } else { 3 }
}

/// Numbers by chance, the same for the same seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new() -> Self {
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

// === what processes have ===

#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
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
pub(super) struct Life {
    first: Held,
    pub(super) events: usize,
}

/// The processes that are measured.
pub(super) const MEASURED: [&str; 3] = ["front", "n1", "n2"];
pub(super) const FRONT: usize = 0;
pub(super) const N1: usize = 1;
pub(super) const N2: usize = 2;

// === what happens ===

/// What happens to a cluster, and what is left over of it.
pub(super) struct Night<'a> {
    cluster: &'a mut Cluster,
    /// The second LDAP server.
    replica: &'a mut Slapd,
    held: &'a User,
    pub(super) seen: &'a Seen,
    /// Those that run.
    pub(super) lives: [Life; 3],
    /// By which they grew the most, in descriptors and octets, and how many were measured.
    pub(super) worst: [(u64, u64, usize); 3],
    /// Those that were replaced, and may still have sessions.
    pub(super) fronts: Vec<Process>,
    /// The same; links that fronts have ready keep them for a while.
    nodes: Vec<Process>,
    attempts: u32,
    idle_limit: u32,
    pub(super) drains: usize,
    pub(super) happened: [usize; EVENTS.len()],
}

/// What it is, whose end it is, and how it is done.
pub(super) type Event = (&'static str, Option<usize>, fn(&mut Night<'_>));

pub(super) const EVENTS: [Event; 9] = [
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

pub(super) const NODE_IS_REPLACED: usize = 3;

impl<'a> Night<'a> {
    /// Measures all processes first.
    pub(super) fn new(
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
    pub(super) fn choose(&self, dice: &mut Dice) -> usize {
        loop {
            let number = dice.throw(EVENTS.len());
            let ends = EVENTS[number].1;
            if ends.is_none_or(|number| self.lives[number].events >= life()) {
                return number;
            }
        }
    }

    /// Measures a process first.
    pub(super) fn begin(&mut self, number: usize) {
        let _rest = self.seen.rest();
        let first = Held::by(process(self.cluster, number));
        self.lives[number] = Life { first, events: 0 };
    }

    /// Measures it again.
    pub(super) fn measure(&mut self, number: usize) {
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
    pub(super) fn nodes_end(&mut self) {
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
pub(super) fn idle_limit(seconds: u32) -> String {
    format!("idle_limit = \"{seconds}s\"")
}

/// Nobody is on, and fronts that were replaced have ended.
pub(super) fn settle(cluster: &mut Cluster, replaced: &mut [Process]) {
    let admin = cluster.front_admin();
    eventually("nobody is on", || {
        metric(admin, "pigeonair_connections_open") == Some(0.0)
    });
    for front in replaced {
        assert_eq!(front.exit_code(), Some(0));
    }
}
