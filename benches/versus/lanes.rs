//! The rows of the tables: ways, and who goes there.
//!
//! Whom a proxy has seen before it may know without asking LDAP. So there are two sets of users of the mail uid: the
//! [`WARM`] first ones, who come again and again; and the next [`WIDE`] ones, who come in turn, so that neither slapd
//! nor the servers see the same few. Their homes are there before anything is measured, and on both nodes, since
//! HAProxy does not know which is whose.
//!
//! A proxy that asks every time is PigeonAir with its cache off, perdition, which has none, and Dovecot with its
//! cache emptied before each round, in which nobody comes twice. nginx and HAProxy ask nobody.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt as _, chown},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::process::Signal;

use super::{
    load::Target,
    ours::Ours,
    peers::Peers,
    way::{Channel, IMAP, Protocol, Way},
    world::{LDAP_IP, LDAP_PORT, MAIL_UID, Node, World, user},
};

/// Users that are known wherever somebody remembers.
pub(crate) const WARM: usize = 200;
/// Users that come in turn.
pub(crate) const WIDE: usize = 4000;
/// How many sessions log in at the same time.
pub(crate) const SIDE_BY_SIDE: usize = 8;

/// What the proxy does to learn who somebody is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lookup {
    /// At each login it finds the account in LDAP, with the hash of its password.
    Search,
    /// At each login it finds the account in LDAP, and binds as the user to see whether the password is right.
    SearchAndBind,
    /// It has asked before.
    Cached,
    /// It believes everybody.
    Nothing,
}

impl Lookup {
    pub(crate) fn is_every_time(self) -> bool {
        matches!(self, Self::Search | Self::SearchAndBind)
    }
}

/// A row.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) way: Way,
    pub(crate) lookup: Lookup,
    /// How many of the wide set have come.
    come: AtomicUsize,
}

impl Lane {
    fn new(name: &str, way: &Way, lookup: Lookup) -> Self {
        Self {
            name: name.to_owned(),
            way: way.clone(),
            lookup,
            come: AtomicUsize::new(0),
        }
    }

    pub(crate) fn is_nginx(&self) -> bool {
        self.name.starts_with("nginx")
    }

    pub(crate) fn is_ours(&self) -> bool {
        !self.way.acceptors.is_empty()
    }

    /// The users of so many logins.
    pub(crate) fn users(&self, count: usize) -> impl Fn(usize) -> String + Sync + use<> {
        let (first, of) = if self.lookup.is_every_time() {
            (self.come.fetch_add(count, Ordering::Relaxed), WIDE)
        } else {
            (0, WARM)
        };
        let base = if of == WIDE { WARM } else { 0 };
        move |number| user(base + (first + number) % of)
    }

    /// Makes a proxy forget that is to ask but remembers.
    pub(crate) fn forget(&self) {
        if self.lookup.is_every_time() && self.name.starts_with("Dovecot") {
            for group in &self.way.proxy {
                group.signal("auth", Signal::HUP);
            }
            // It is handled in its event loop.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Runs so many logins, after whatever must be forgotten.
    pub(crate) fn logins(&self, protocol: Protocol, channel: Channel, count: usize) {
        assert!(count <= WIDE, "somebody would come twice");
        Target::new(&self.way, protocol, channel).logins(self.users(count), count, SIDE_BY_SIDE);
    }
}

/// Everything that a part may look at.
pub(crate) struct Bench {
    pub(crate) world: World,
    /// One for each way and lookup.
    pub(crate) lanes: Vec<Lane>,
    _peers: Peers,
    _ours: Vec<Ours>,
}

impl Bench {
    /// Starts all ways; makes the homes.
    pub(crate) fn start(accounts: usize) -> Self {
        assert!(accounts >= WARM + WIDE, "needs {} accounts", WARM + WIDE);
        // Two runs would take each other's servers for their own.
        drop(
            TcpListener::bind((LDAP_IP, LDAP_PORT))
                .unwrap_or_else(|error| panic!("another run goes on: {error}")),
        );
        let world = World::start(accounts);
        let peers = Peers::start(&world);
        let ours: Vec<Ours> = super::ours::ROWS
            .iter()
            .map(|row| Ours::start(&world, *row))
            .collect();
        let mut lanes = Vec::new();
        for way in &peers.ways {
            match way.name {
                "Dovecot" => {
                    lanes.push(Lane::new(
                        "Dovecot, a search every time",
                        way,
                        Lookup::Search,
                    ));
                    lanes.push(Lane::new("Dovecot", way, Lookup::Cached));
                }
                "perdition" => lanes.push(Lane::new(
                    "perdition, a search every time",
                    way,
                    Lookup::Search,
                )),
                name => lanes.push(Lane::new(name, way, Lookup::Nothing)),
            }
        }
        for (row, ours) in super::ours::ROWS.iter().zip(&ours) {
            lanes.push(Lane::new(row.name, &ours.way, row.lookup));
        }
        for node in &world.nodes[..2] {
            for number in 0..WARM + WIDE {
                make_home(node, &user(number));
            }
        }
        Self {
            world,
            lanes,
            _peers: peers,
            _ours: ours,
        }
    }

    /// One for each way: where a proxy can do both, that in which it remembers.
    pub(crate) fn ways(&self) -> Vec<&Lane> {
        let twice =
            |lane: &&Lane| !lane.lookup.is_every_time() || lane.name.starts_with("perdition");
        self.lanes.iter().filter(twice).collect()
    }
}

/// The IMAP server of a node itself.
pub(crate) fn direct(node: &Node) -> Target {
    Target {
        address: SocketAddr::new(IpAddr::V4(node.ip), IMAP),
        protocol: Protocol::Imap,
        channel: Channel::Plain,
    }
}

/// Makes the home of a user of the mail uid, if it is not there.
pub(crate) fn make_home(node: &Node, user: &str) {
    let home = node.home_root.join(user);
    if fs::create_dir(&home).is_ok() {
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&home, Some(MAIL_UID), Some(MAIL_UID)).unwrap();
    }
}
