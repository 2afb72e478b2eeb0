//! `[acceptor.imap]` and `[acceptor.pop3]`: the way sessions reach the real server, one kind for each protocol.
//!
//! | kind | keys beside `kind` |
//! | --- | --- |
//! | `login` | `server`, `master_user`, `master_password_file`, `proxy_protocol` |
//! | `dovecot-imap-master`, IMAP only | `socket` |
//!
//! A key of another kind is a problem: it says that the administrator meant something else. The version of the Dovecot
//! that is installed is asked for where a kind depends on it; nothing is connected to or started.

use super::{files, form, section::Section};
use crate::{
    handover::{self, Kind, LoginSettings},
    proto::proxy_header::Version,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Name {
    DovecotImapMaster,
    Login,
}

const DOVECOT_IMAP_MASTER: (&str, Name) = ("dovecot-imap-master", Name::DovecotImapMaster);
const LOGIN: (&str, Name) = ("login", Name::Login);

/// What each protocol can be handed over by.
const IMAP: &[(&str, Name)] = &[LOGIN, DOVECOT_IMAP_MASTER];
const POP3: &[(&str, Name)] = &[LOGIN];

/// What a real server may want to read first.
const PROXY_PROTOCOL: &[(&str, Option<Version>)] = &[
    ("off", None),
    ("v1", Some(Version::V1)),
    ("v2", Some(Version::V2)),
];

/// The keys of each kind.
const KEYS: [(Name, &[&str]); 2] = [
    (
        Name::Login,
        &[
            "server",
            "master_user",
            "master_password_file",
            "proxy_protocol",
        ],
    ),
    (Name::DovecotImapMaster, &["socket"]),
];

/// How IMAP sessions reach the real server.
pub(super) fn imap(section: &mut Section<'_>) -> Option<Kind> {
    read(section.table("imap"), IMAP)
}

/// How POP3 sessions do.
pub(super) fn pop3(section: &mut Section<'_>) -> Option<Kind> {
    read(section.table("pop3"), POP3)
}

fn read(mut table: Section<'_>, names: &'static [(&'static str, Name)]) -> Option<Kind> {
    let Some(name) = table.required("kind", &form::word(names)) else {
        table.leave();
        return None;
    };
    refuse_others(&mut table, name, names);
    match name {
        Name::DovecotImapMaster => imap_master(&mut table),
        Name::Login => login(&mut table),
    }
}

/// Finds keys that belong to kinds other than the chosen one.
fn refuse_others(table: &mut Section<'_>, name: Name, names: &[(&str, Name)]) {
    let word = names.iter().find(|(_, other)| *other == name);
    let word = word.map_or("", |(word, _)| word);
    let of = |wanted| {
        KEYS.iter()
            .filter(move |(kind, _)| (*kind == name) == wanted)
    };
    let own: Vec<_> = of(true).flat_map(|(_, keys)| *keys).copied().collect();
    for key in of(false).flat_map(|(_, keys)| *keys).copied() {
        if own.contains(&key) {
            continue;
        }
        table.pass_over(&[key]);
        if table.has(key) {
            table.problem(key, format!("not used with kind = {word:?}"));
        }
    }
}

fn login(table: &mut Section<'_>) -> Option<Kind> {
    let server = table.required("server", &form::address());
    let user = table.optional("master_user", &form::text("the name of the master user"));
    let password = files::password(table, "master_password_file");
    let proxy_header = table.or("proxy_protocol", &form::word(PROXY_PROTOCOL), None);
    Some(Kind::Login(LoginSettings {
        server: server?,
        user,
        password: password?,
        proxy_header,
    }))
}

fn imap_master(table: &mut Section<'_>) -> Option<Kind> {
    let socket = table.required("socket", &form::socket_path());
    if let Err(error) = handover::check_imap_master() {
        table.problem("kind", error.to_string());
    }
    Some(Kind::DovecotImapMaster { socket: socket? })
}
