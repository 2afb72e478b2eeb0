//! `[mailstore]`: how messages that come over links are stored, and their limits.
//!
//! | kind | keys beside those of both |
//! | --- | --- |
//! | `maildir` | `folder`, `threads`, `over_quota`, `spool_memory`, `spool_folder` |
//! | `lmtp` | `server`, `recipient`, `recipient_delimiter`, `server_timeout` |
//!
//! A key of another kind is a problem: it says that the administrator meant something else. Links themselves are those
//! of `[acceptor]`. Nothing is connected to; whether this process may become others is found out at the start.

use std::time::Duration;

use super::{
    DAY, HOUR, SHORTEST, delivery,
    form::{self, Form},
    section::Section,
};
use crate::mailstore::{Kind, MaildirSettings, Naming, ServerSettings, Settings};

/// Above what a front takes by default: what is too big is refused there, before it has come so far.
const MAX_MESSAGE_BYTES: u64 = 100 << 20;
const MAX_RECIPIENTS: usize = 1000;
/// Ten times what a front keeps an idle link for.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const DATA_TIMEOUT: Duration = Duration::from_secs(180);
/// Below what a front waits: it shall hear the truth.
const STORE_TIMEOUT: Duration = Duration::from_secs(180);
/// Likewise.
const SERVER_TIMEOUT: Duration = Duration::from_secs(20);
const FOLDER: &str = "Maildir";
const THREADS: usize = 16;
const RECIPIENT_DELIMITER: &str = "+";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Name {
    Lmtp,
    Maildir,
}

const KINDS: &[(&str, Name)] = &[("maildir", Name::Maildir), ("lmtp", Name::Lmtp)];

/// The keys of one kind alone.
const KEYS: [(Name, &[&str]); 2] = [
    (
        Name::Maildir,
        &[
            "folder",
            "threads",
            "over_quota",
            "spool_memory",
            "spool_folder",
        ],
    ),
    (
        Name::Lmtp,
        &[
            "server",
            "recipient",
            "recipient_delimiter",
            "server_timeout",
        ],
    ),
];

const OVER_QUOTA: &[(&str, bool)] = &[("try-later", false), ("refuse", true)];

const NAMING: &[(&str, Naming)] = &[("account", Naming::Account), ("address", Naming::Address)];

/// Reads the section.
pub(super) fn read(section: &mut Section<'_>) -> Option<Settings> {
    let name = section.required("kind", &form::word(KINDS));
    let size = section.or(
        "max_message_size",
        &size(),
        usize::try_from(MAX_MESSAGE_BYTES).unwrap_or(usize::MAX),
    );
    let max_recipients = section.or(
        "max_recipients",
        &form::integer(1..=100_000),
        MAX_RECIPIENTS,
    );
    let wait = form::duration(SHORTEST..=DAY);
    let idle_timeout = section.or("idle_timeout", &wait, IDLE_TIMEOUT);
    let data_timeout = section.or("data_timeout", &wait, DATA_TIMEOUT);
    let store_timeout = section.or("store_timeout", &wait, STORE_TIMEOUT);
    if name.is_none() {
        // What they mean hangs on the kind.
        for (_, keys) in KEYS {
            section.pass_over(keys);
        }
    }
    let name = name?;
    refuse_others(section, name);
    let kind = match name {
        Name::Lmtp => lmtp(section).map(Kind::Lmtp),
        Name::Maildir => Some(Kind::Maildir(maildir(section))),
    };
    Some(Settings {
        kind: kind?,
        hostname: delivery::system_hostname(),
        max_message_bytes: u64::try_from(size).unwrap_or(u64::MAX),
        max_recipients,
        idle_timeout,
        data_timeout,
        store_timeout,
    })
}

/// Finds keys of the other kind.
fn refuse_others(section: &mut Section<'_>, name: Name) {
    let word = KINDS.iter().find(|(_, kind)| *kind == name);
    let word = word.map_or("", |(word, _)| word);
    for (_, keys) in KEYS.iter().filter(|(kind, _)| *kind != name) {
        section.pass_over(keys);
        for key in keys.iter().filter(|key| section.has(key)) {
            section.problem(key, format!("not used with kind = {word:?}"));
        }
    }
}

fn maildir(section: &mut Section<'_>) -> MaildirSettings {
    let folder = form::parsed(
        "a path below the home without . and .., or \".\" for the home itself",
        |text| is_folder(text).then(|| text.to_owned()),
    );
    MaildirSettings {
        folder: section.or("folder", &folder, FOLDER.to_owned()),
        threads: section.or("threads", &form::integer(1..=1024), THREADS),
        over_quota_is_permanent: section.or("over_quota", &form::word(OVER_QUOTA), false),
        spool: delivery::spool(section),
    }
}

fn is_folder(text: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    text == "." || !text.chars().any(char::is_control) && text.split('/').all(is_name)
}

fn lmtp(section: &mut Section<'_>) -> Option<ServerSettings> {
    let server = section.required("server", &form::address());
    let delimiter = Form::new("characters without @, or \"\"", |value| {
        let text = value.as_str()?;
        let is_usable = |c: char| !c.is_control() && c != '@';
        text.chars().all(is_usable).then(|| text.to_owned())
    });
    let recipient = section.or("recipient", &form::word(NAMING), Naming::Account);
    let recipient_delimiter = section.or(
        "recipient_delimiter",
        &delimiter,
        RECIPIENT_DELIMITER.to_owned(),
    );
    let server_timeout = section.or(
        "server_timeout",
        &form::duration(SHORTEST..=HOUR),
        SERVER_TIMEOUT,
    );
    Some(ServerSettings {
        server: server?,
        recipient,
        recipient_delimiter,
        server_timeout,
    })
}

fn size() -> Form<usize> {
    form::size(1024..=1 << 40)
}
