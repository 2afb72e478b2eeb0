//! `[process]`: who the processes are once they have bound their listeners, and how far they are shut in.
//!
//! Users and groups are looked up in `/etc/passwd` and `/etc/group` themselves, once: what name services beyond them
//! say may hang, and is no place for system users. A user's supplementary groups are those of `/etc/group` that name
//! it.
//!
//! Limits: nobody is root (uid 0).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Value;

use super::{
    DAY, HOUR, Process,
    files::System,
    form::{self, Form},
    section::{Endpoint, Section},
};
use crate::user::User;

const UPGRADE_DRAIN_TIMEOUT: Duration = HOUR.saturating_mul(2);

/// A name or a number.
#[derive(Clone, Debug)]
enum Wanted {
    Name(String),
    Number(u32),
}

/// Reads the section; of a process that is not read, its user is not looked for.
pub(super) fn read(
    section: &mut Section<'_>,
    has_front: bool,
    has_node: bool,
    system: &System,
) -> Process {
    let front_user = user(section, "front_user", "front_group", has_front, system);
    let node_user = user(section, "node_user", "node_group", has_node, system);
    const SANDBOX: &[(&str, bool)] = &[("on", true), ("off", false)];
    let sandbox = section.or("sandbox", &form::word(SANDBOX), true);
    let drain = form::duration(Duration::ZERO..=7 * DAY);
    Process {
        front_user,
        node_user,
        sandbox,
        front_reads: Vec::new(),
        front_upgrade_socket: upgrade_socket(section, "front_upgrade_socket", has_front),
        node_upgrade_socket: upgrade_socket(section, "node_upgrade_socket", has_node),
        upgrade_drain_timeout: section.or("upgrade_drain_timeout", &drain, UPGRADE_DRAIN_TIMEOUT),
    }
}

fn upgrade_socket(section: &mut Section<'_>, name: &'static str, is_used: bool) -> Option<PathBuf> {
    let path = section.optional(name, &form::socket_path())?;
    if is_used {
        let report = section.report();
        report.claim(section.key(name), Endpoint::Unix(path.clone()));
    }
    Some(path)
}

fn user(
    section: &mut Section<'_>,
    user_name: &'static str,
    group_name: &'static str,
    is_used: bool,
    system: &System,
) -> Option<User> {
    let wanted = section.optional(user_name, &name_or_number("user"));
    let group = section.optional(group_name, &name_or_number("group"));
    if section.has(group_name) && !section.has(user_name) {
        section.problem(group_name, format!("not used without {user_name}"));
    }
    let wanted = wanted.filter(|_| is_used)?;
    let users = Lines::read(&system.passwd, section, user_name)?;
    let groups = Lines::read(&system.group, section, group_name)?;
    let entry = users.find(&wanted);
    let Some(uid) = number(entry.as_ref(), &wanted) else {
        missing(section, user_name, &wanted, &system.passwd);
        return None;
    };
    if uid == 0 || uid == u32::MAX {
        section.problem(
            user_name,
            format!("bad value (got {uid}; expected a user of its own, not root)"),
        );
        return None;
    }
    let gid = match (&group, &entry) {
        (Some(group), _) => {
            let gid = number(groups.find(group).as_ref(), group);
            if gid.is_none() {
                missing(section, group_name, group, &system.group);
            }
            gid?
        }
        // What is there and wrong has been said.
        (None, _) if section.has(group_name) => return None,
        // Whoever asks for a user must never stay root for a line that nobody can read.
        (None, Some(entry)) => {
            let gid = entry
                .rest
                .split(':')
                .next()
                .unwrap_or_default()
                .parse()
                .ok();
            if gid.is_none() {
                let list = system.passwd.display();
                section.problem(
                    user_name,
                    format!("has no group that is a number in {list}"),
                );
            }
            gid?
        }
        (None, None) => {
            section.missing(group_name, "a group, for a user that is in no list");
            return None;
        }
    };
    let name = entry.map_or_else(|| uid.to_string(), |entry| entry.name);
    Some(User {
        groups: groups.with_member(&name),
        name,
        uid,
        gid,
    })
}

fn name_or_number(what: &str) -> Form<Wanted> {
    let expected = format!("the name of a {what} of this machine, or its number");
    Form::new(expected, |value| match value {
        Value::Integer(number) => u32::try_from(*number).ok().map(Wanted::Number),
        value => Some(Wanted::Name(value.as_str()?.to_owned())),
    })
}

fn missing(section: &Section<'_>, key: &str, wanted: &Wanted, list: &Path) {
    let Wanted::Name(name) = wanted else { return };
    section.problem(
        key,
        format!(
            "unknown (got {name:?}; expected a name in {})",
            list.display()
        ),
    );
}

/// The number in the list; a number need not be there.
fn number(found: Option<&Entry>, wanted: &Wanted) -> Option<u32> {
    match (found, wanted) {
        (Some(entry), _) => Some(entry.number),
        (None, Wanted::Number(number)) => Some(*number),
        (None, Wanted::Name(_)) => None,
    }
}

/// A list of users or groups: `name:password:number:rest`.
struct Lines(String);

struct Entry {
    name: String,
    number: u32,
    rest: String,
}

impl Lines {
    fn read(path: &Path, section: &Section<'_>, key: &str) -> Option<Self> {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let octets = fs::read(path).map_err(|error| section.problem(key, failed(error)));
        Some(Self(String::from_utf8_lossy(&octets.ok()?).into_owned()))
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.lines().filter_map(|line| {
            let mut fields = line.splitn(4, ':');
            let (name, _, number, rest) = (
                fields.next()?,
                fields.next()?,
                fields.next()?,
                fields.next()?,
            );
            Some(Entry {
                name: name.to_owned(),
                number: number.parse().ok()?,
                rest: rest.to_owned(),
            })
        })
    }

    fn find(&self, wanted: &Wanted) -> Option<Entry> {
        self.entries().find(|entry| match wanted {
            Wanted::Name(name) => entry.name == *name,
            Wanted::Number(number) => entry.number == *number,
        })
    }

    /// Groups that name somebody.
    fn with_member(&self, user: &str) -> Vec<u32> {
        let is_member = |entry: &Entry| entry.rest.split(',').any(|member| member == user);
        self.entries()
            .filter(is_member)
            .map(|entry| entry.number)
            .collect()
    }
}
