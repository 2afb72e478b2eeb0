//! Two configurations of one process: what differs, and what of it needs another process.
//!
//! Sections are compared by marks, of what the file says in them and of what the files say that are named there: a key that was
//! replaced under the same name is a change. Comments and the order of keys are none. What a listener is bound to, who the
//! process is and what it may do are settled at its start: a change there is a problem with the key's name.

use std::{
    collections::hash_map::RandomState,
    fmt,
    fs::File,
    hash::{BuildHasher as _, Hasher as _},
    io::Read as _,
    mem::discriminant,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use toml::{Table, Value};

use super::{Config, Front, Node, Problem, Problems, Role};
use crate::{delivery, link};

/// What marks are made with: they mean nothing outside of this process.
static MARKS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// As much of a file is looked at: all of one that may be large.
const MAX_FILE_BYTES: u64 = 64 << 20;

const FRONT: [&str; 10] = [
    "log",
    "admin",
    "process",
    "proxy",
    "proxy.tls",
    "proxy.policy",
    "proxy.defence",
    "delivery",
    "directory",
    "nodes",
];
const NODE: [&str; 5] = ["log", "admin", "process", "acceptor", "mailstore"];

/// Marks of all sections that a process reads.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Sections(Vec<(&'static str, u64)>);

impl Sections {
    /// Of the sections of a role, or of both, and of these files where they are named.
    pub(super) fn of(root: &Table, role: Option<Role>, files: &[PathBuf]) -> Self {
        let names: &[&[&'static str]] = match role {
            Some(Role::Front) => &[&FRONT],
            Some(Role::Node) => &[&NODE],
            None => &[&FRONT, &NODE],
        };
        let names = names.iter().flat_map(|names| names.iter());
        Self(names.map(|name| (*name, mark(root, name, files))).collect())
    }

    /// Those that differ, by name.
    pub fn changed(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.0.iter().zip(&other.0);
        let changed = pairs.filter(|(one, two)| one != two);
        changed.map(|((name, _), _)| *name).collect()
    }

    /// Whether a section says the same in both.
    pub fn is_same(&self, other: &Self, name: &str) -> bool {
        !self.changed(other).contains(&name)
    }
}

impl fmt::Debug for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The marks are others in each process, and mean nothing to anybody.
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Of a section without those of its own that have a mark for themselves.
fn mark(root: &Table, name: &str, files: &[PathBuf]) -> u64 {
    let mut hasher = MARKS.build_hasher();
    let mut parts = name.split('.');
    let section = parts.next().and_then(|part| root.get(part));
    let section = parts.try_fold(section, |section, part| Some(section?.get(part)));
    if let Some(Some(section)) = section {
        let skipped = |key: &str| FRONT.contains(&&*format!("{name}.{key}"));
        walk(section, &skipped, files, &mut hasher);
    }
    hasher.finish()
}

fn walk(
    value: &Value,
    is_skipped: &dyn Fn(&str) -> bool,
    files: &[PathBuf],
    hasher: &mut impl std::hash::Hasher,
) {
    match value {
        Value::Table(table) => {
            let own = || table.iter().filter(|(key, _)| !is_skipped(key));
            hasher.write_usize(own().count());
            for (key, value) in own() {
                text(key, hasher);
                walk(value, &|_| false, files, hasher);
            }
        }
        Value::Array(values) => {
            hasher.write_usize(values.len());
            for value in values {
                walk(value, &|_| false, files, hasher);
            }
        }
        Value::String(value) => {
            text(value, hasher);
            if files.iter().any(|file| file == Path::new(value)) {
                content(Path::new(value), hasher);
            }
        }
        other => text(&other.to_string(), hasher),
    }
}

fn text(text: &str, hasher: &mut impl std::hash::Hasher) {
    hasher.write(text.as_bytes());
    hasher.write_u8(0xff);
}

/// What a file says; one that cannot be read says nothing.
fn content(path: &Path, hasher: &mut impl std::hash::Hasher) {
    let mut octets = zeroize::Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut octets));
    if read.is_ok() {
        hasher.write(&octets);
        hasher.write_usize(octets.len());
    }
}

// === what cannot change ===

/// Problems of keys that are settled at the start.
struct Settled(Vec<Problem>);

impl Settled {
    fn must(&mut self, is_same: bool, key: &str, role: Role) {
        if !is_same {
            let process = match role {
                Role::Front => "front",
                Role::Node => "node",
            };
            self.0.push(Problem {
                key: key.to_owned(),
                text: format!("cannot be changed by a reload, start the {process} again"),
            });
        }
    }
}

/// Whether a process that runs with the one configuration can go on with the other.
///
/// # Errors
///
/// Everything that is settled at its start and differs.
pub fn check_change(
    role: Role,
    file: &Path,
    before: &Config,
    after: &Config,
) -> Result<(), Problems> {
    let mut settled = Settled(Vec::new());
    let (one, two) = (&before.process, &after.process);
    let (admin, admin_after) = (&before.admin, &after.admin);
    settled.must(before.log.format == after.log.format, "log.format", role);
    match role {
        Role::Front => {
            settled.must(one.front_user == two.front_user, "process.front_user", role);
            settled.must(one.sandbox == two.sandbox, "process.sandbox", role);
            let is_same = admin.orders_file == admin_after.orders_file;
            settled.must(is_same, "admin.orders_file", role);
            settled.must(admin.front == admin_after.front, "admin.front", role);
            let is_same = admin.front_socket == admin_after.front_socket;
            settled.must(is_same, "admin.front_socket", role);
        }
        Role::Node => {
            settled.must(one.node_user == two.node_user, "process.node_user", role);
            settled.must(admin.node == admin_after.node, "admin.node", role);
            let is_same = admin.node_socket == admin_after.node_socket;
            settled.must(is_same, "admin.node_socket", role);
        }
    }
    if let (Some(before), Some(after)) = (&before.front, &after.front) {
        front(before, after, &mut settled);
    }
    if let (Some(before), Some(after)) = (&before.node, &after.node) {
        node(before, after, &mut settled);
    }
    let key = match role {
        Role::Front => "process.front_upgrade_socket",
        Role::Node => "process.node_upgrade_socket",
    };
    let is_same = one.upgrade_socket(role) == two.upgrade_socket(role);
    settled.must(is_same, key, role);
    let is_same = one.upgrade_drain_timeout == two.upgrade_drain_timeout;
    settled.must(is_same, "process.upgrade_drain_timeout", role);
    let problems = settled.0;
    if problems.is_empty() {
        return Ok(());
    }
    Err(Problems {
        file: file.to_owned(),
        problems,
    })
}

fn front(before: &Front, after: &Front, settled: &mut Settled) {
    let mut must = |is_same, key| settled.must(is_same, key, Role::Front);
    match (&before.proxy, &after.proxy) {
        (Some(before), Some(after)) => {
            let addresses = |settings: &crate::proxy::Settings| {
                sorted(settings.listeners.iter().map(|listener| listener.address))
            };
            must(addresses(before) == addresses(after), "proxy.listen");
        }
        (before, after) => must(before.is_some() == after.is_some(), "proxy"),
    }
    match (&before.delivery, &after.delivery) {
        (Some(before), Some(after)) => {
            let listeners = |settings: &delivery::Settings| {
                sorted(settings.listeners.iter().map(|it| format!("{it:?}")))
            };
            must(listeners(before) == listeners(after), "delivery.listen");
            let is_same = before.spool.folder == after.spool.folder;
            must(is_same, "delivery.spool_folder");
        }
        (before, after) => must(before.is_some() == after.is_some(), "delivery"),
    }
}

fn node(before: &Node, after: &Node, settled: &mut Settled) {
    let mut must = |is_same, key| settled.must(is_same, key, Role::Node);
    let endpoints = |node: &Node| {
        sorted(node.gate.listeners.iter().map(|listener| match listener {
            link::Listener::Tcp { address, .. } => address.to_string(),
            link::Listener::Unix(path) => path.display().to_string(),
        }))
    };
    must(endpoints(before) == endpoints(after), "acceptor.listen");
    match (&before.acceptor, &after.acceptor) {
        (Some(before), Some(after)) => {
            let (before, after) = (&before.handover, &after.handover);
            let is_same = before.sessions_file == after.sessions_file;
            must(is_same, "acceptor.sessions_file");
            // What such kinds need is had at the start or never.
            let starts = before.starts_servers() || !after.starts_servers();
            let gives_away = before.gives_away() || !after.gives_away();
            let is_another = |one: &Option<_>, two: &Option<_>| kind(one) != kind(two);
            for (key, one, two) in [
                ("acceptor.imap.kind", &before.imap, &after.imap),
                ("acceptor.pop3.kind", &before.pop3, &after.pop3),
            ] {
                must(starts && gives_away || !is_another(one, two), key);
            }
        }
        (before, after) => must(before.is_some() == after.is_some(), "acceptor"),
    }
    match (&before.mailstore, &after.mailstore) {
        (Some(before), Some(after)) => {
            let is_same = discriminant(&before.kind) == discriminant(&after.kind);
            must(is_same, "mailstore.kind");
        }
        (before, after) => must(before.is_some() == after.is_some(), "mailstore"),
    }
}

fn kind(kind: &Option<crate::handover::Kind>) -> Option<&'static str> {
    kind.as_ref().map(crate::handover::Kind::as_str)
}

fn sorted<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}
