//! `[acceptor.imap]` and `[acceptor.pop3]`: the way sessions reach the real server, one kind for each protocol.
//!
//! | kind | keys beside `kind` |
//! | --- | --- |
//! | `login` | `server`, `master_user`, `master_password_file`, `proxy_protocol` |
//! | `exec` | `command`, `environment`, `opening` |
//! | `dovecot-imap-master`, IMAP only | `socket` |
//!
//! A key of another kind is a problem: it says that the administrator meant something else. The version of the Dovecot
//! that is installed is asked for where a kind depends on it; nothing is connected to or started.

use std::path::PathBuf;

use super::{
    files,
    form::{self, Form},
    section::Section,
};
use crate::{
    handover::{self, ExecSettings, Kind, LoginSettings},
    net::Address,
    proto::{link::Opening, proxy_header::Version, template::Template},
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Name {
    DovecotImapMaster,
    Exec,
    Login,
}

const DOVECOT_IMAP_MASTER: (&str, Name) = ("dovecot-imap-master", Name::DovecotImapMaster);
const EXEC: (&str, Name) = ("exec", Name::Exec);
const LOGIN: (&str, Name) = ("login", Name::Login);

/// What each protocol can be handed over by.
const IMAP: &[(&str, Name)] = &[LOGIN, EXEC, DOVECOT_IMAP_MASTER];
const POP3: &[(&str, Name)] = &[LOGIN, EXEC];

/// What a started server of each protocol may say first.
const IMAP_OPENINGS: &[(&str, Begins)] =
    &[("preauth", Begins::Preauth), ("tagged", Begins::Tagged)];
const POP3_OPENINGS: &[(&str, Begins)] = &[("plus-ok", Begins::PlusOk), ("silent", Begins::Silent)];

/// An [`Opening`] that needs no more words.
#[derive(Clone, Copy, Debug)]
enum Begins {
    PlusOk,
    Preauth,
    Silent,
    Tagged,
}

/// What a real server may want to read first.
const PROXY_PROTOCOL: &[(&str, Option<Version>)] = &[
    ("off", None),
    ("v1", Some(Version::V1)),
    ("v2", Some(Version::V2)),
];

/// The keys of each kind.
const KEYS: [(Name, &[&str]); 3] = [
    (Name::Exec, &["command", "environment", "opening"]),
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
    read(section.table("imap"), IMAP, IMAP_OPENINGS)
}

/// How POP3 sessions do.
pub(super) fn pop3(section: &mut Section<'_>) -> Option<Kind> {
    read(section.table("pop3"), POP3, POP3_OPENINGS)
}

fn read(
    mut table: Section<'_>,
    names: &'static [(&'static str, Name)],
    openings: &'static [(&'static str, Begins)],
) -> Option<Kind> {
    let Some(name) = table.required("kind", &form::word(names)) else {
        table.leave();
        return None;
    };
    refuse_others(&mut table, name, names);
    match name {
        Name::DovecotImapMaster => imap_master(&mut table),
        Name::Exec => exec(&mut table, openings),
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
    if let Some(address @ Address::Tcp { host, .. }) = &server
        && !address.is_local()
    {
        table.report().warn(format!(
            "{}: the master password travels to {host} in clear: for the real server of this machine, on loopback",
            table.key("server")
        ));
    }
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

fn exec(table: &mut Section<'_>, openings: &'static [(&'static str, Begins)]) -> Option<Kind> {
    let command = command(table);
    let environment = environment(table);
    let opening = table.required("opening", &form::word(openings));
    let (program, arguments) = command?;
    let settings = ExecSettings {
        program,
        arguments,
        environment: environment?,
        opening: match opening? {
            Begins::PlusOk => Opening::PlusOk,
            Begins::Preauth => Opening::Preauth,
            Begins::Silent => Opening::Silent,
            Begins::Tagged => Opening::Tagged,
        },
    };
    if let Err(error) = handover::check_exec(&settings) {
        table.problem("opening", error.to_string());
    }
    Some(Kind::Exec(settings))
}

/// A program of this machine, and templates for its arguments.
fn command(table: &mut Section<'_>) -> Option<(PathBuf, Vec<Template>)> {
    let name = "command";
    if !table.has(name) {
        table.missing(name, "a program's path and its arguments, as a list");
    }
    let words = table.list(name, &argument())?;
    let Some((program, arguments)) = words.split_first() else {
        table.problem(
            name,
            "empty (expected a program's path, then its arguments)",
        );
        return None;
    };
    let program = files::program(table, name, program);
    let arguments = arguments.iter().enumerate().map(|(position, text)| {
        template(
            table,
            &format!("{name}[{}]", position.saturating_add(2)),
            text,
        )
    });
    let arguments: Vec<_> = arguments.collect();
    Some((program?, arguments.into_iter().collect::<Option<_>>()?))
}

/// Templates for the variables of a server's whole environment; without the key there are none.
fn environment(table: &mut Section<'_>) -> Option<Vec<(String, Template)>> {
    let name = "environment";
    let expected = "a table of variables, as { HOME = \"%{home}\" }";
    let form = Form::new(expected, |value| value.as_table().cloned());
    if !table.has(name) {
        return Some(Vec::new());
    }
    let variables = table.optional(name, &form)?;
    let read: Vec<_> = variables
        .iter()
        .map(|(variable, value)| {
            let shown: String = variable.escape_debug().take(64).collect();
            let key = format!("{name}.{shown}");
            if variable.is_empty() || variable.contains(['=', '\0']) {
                table.problem(&key, "no name of a variable");
                return None;
            }
            match argument().read(value) {
                Ok(text) => Some((variable.clone(), template(table, &key, &text)?)),
                Err(problem) => {
                    table.problem(&key, problem);
                    None
                }
            }
        })
        .collect();
    read.into_iter().collect()
}

fn argument() -> Form<String> {
    form::parsed("text, with places such as %u", |text| Some(text.to_owned()))
}

/// One template; what is wrong with it is a problem of `key`.
fn template(table: &Section<'_>, key: &str, text: &str) -> Option<Template> {
    Template::parse(text)
        .map_err(|error| table.problem(key, error.to_string()))
        .ok()
}
