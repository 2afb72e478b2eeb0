//! `[delivery]`: what takes mail from MTAs, where it listens, and the limits of a message.
//!
//! Limits that belong to another component (LMTP, its waits, the spool) take their defaults from it; delivery's own stand
//! here. The host name is asked of the system when the file does not tell one. Nothing is bound or made.
//!
//! A listener is TCP or a Unix socket, as those of `[acceptor]`. TCP that others than this machine reach is allowed only
//! to networks in `from`: who may connect may give mail to anybody here.

use std::{fs, time::Duration};

use ipnet::IpNet;

use super::{
    DAY, HOUR, SHORTEST,
    form::{self, Form},
    proxy::{drain_timeout, listen_address},
    section::{Endpoint, Section},
};
use crate::{
    delivery::{Listener, Settings},
    lmtp::Timeouts,
    proto::lmtp,
    spool,
};

/// Loopback.
const FROM: [&str; 2] = ["127.0.0.0/8", "::1/128"];
const MODE: u32 = 0o666;
const MAX_CONNECTIONS: usize = 256;
const HOMES_AT_ONCE: usize = 16;
const KEPT_LINKS: usize = 8;
/// Half of what a node waits for the first command on a link.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// An MTA waits two minutes for the reply to DATA: for two of these.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);
/// An MTA waits ten minutes behind its dot: for two of these.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(240);

/// Reads the section.
pub(super) fn read(section: &mut Section<'_>) -> Option<Settings> {
    let from = section.list("from", &form::network());
    let from = from.unwrap_or_else(|| FROM.iter().filter_map(|text| text.parse().ok()).collect());
    let lmtp = message_limits(section);
    let (mta, node) = waits(section);
    let settings = Settings {
        listeners: Vec::new(),
        from,
        lmtp,
        mta,
        node,
        max_connections: section.or(
            "max_connections",
            &form::integer(1..=100_000),
            MAX_CONNECTIONS,
        ),
        homes_at_once: section.or("homes_at_once", &form::integer(1..=1000), HOMES_AT_ONCE),
        kept_links: section.or("kept_links", &form::integer(0..=1000), KEPT_LINKS),
        kept_for: section.or("kept_for", &form::duration(SHORTEST..=HOUR), KEPT_FOR),
        spool: spool(section),
        drain_timeout: drain_timeout(section),
    };
    let listeners = listeners(section, &settings.from);
    Some(Settings {
        listeners: listeners?,
        ..settings
    })
}

fn message_limits(section: &mut Section<'_>) -> lmtp::Settings {
    let default = lmtp::Settings::default();
    let hostname = form::parsed("a host name", |text| {
        is_hostname(text).then(|| text.to_owned())
    });
    let size = section.optional("max_message_size", &form::size(1024..=1 << 40));
    lmtp::Settings {
        hostname: section.or("hostname", &hostname, system_hostname()),
        max_message_bytes: size
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(default.max_message_bytes),
        max_recipients: section.or(
            "max_recipients",
            &form::integer(1..=100_000),
            default.max_recipients,
        ),
        refuse_bare_line_ends: section.or(
            "refuse_bare_line_ends",
            &form::boolean(),
            default.refuse_bare_line_ends,
        ),
        ..default
    }
}

/// For MTAs, and for nodes.
fn waits(section: &mut Section<'_>) -> (Timeouts, Timeouts) {
    let form = form::duration(SHORTEST..=DAY);
    let mta = Timeouts::default();
    let mta = Timeouts {
        command: section.or("command_timeout", &form, mta.command),
        data: section.or("data_timeout", &form, mta.data),
        answer: mta.answer,
    };
    let node = Timeouts {
        command: section.or("node_timeout", &form, NODE_TIMEOUT),
        data: mta.data,
        answer: section.or("answer_timeout", &form, ANSWER_TIMEOUT),
    };
    (mta, node)
}

pub(super) fn spool(section: &mut Section<'_>) -> spool::Settings {
    let default = spool::Settings::default();
    let memory = section.or("spool_memory", &form::size(4096..=1 << 30), default.memory);
    let form = form::path("the path of a folder");
    let folder = section.or("spool_folder", &form, default.folder);
    if !folder.is_dir() {
        let text = format!("{} is not a folder", folder.display());
        section.problem("spool_folder", text);
    }
    spool::Settings { memory, folder }
}

fn listeners(section: &mut Section<'_>, from: &[IpNet]) -> Option<Vec<Listener>> {
    let mut tables = section.tables("listen");
    let listeners: Vec<Option<Listener>> = tables.iter_mut().map(listener).collect();
    let listeners: Vec<Listener> = listeners.into_iter().collect::<Option<_>>()?;
    let has_outside = from.iter().any(|network| network.prefix_len() == 0);
    if has_outside {
        section.report().warn(format!(
            "{}: whoever reaches a listener may give mail to anybody here",
            section.key("from")
        ));
    }
    (!listeners.is_empty()).then_some(listeners)
}

fn listener(table: &mut Section<'_>) -> Option<Listener> {
    let address = table.optional("address", &listen_address());
    let path = table.optional("path", &form::socket_path());
    let mode = table.optional("mode", &mode());
    let report = table.report();
    match (table.has("address"), table.has("path")) {
        (true, false) => {
            if table.has("mode") {
                table.problem("mode", "only a Unix socket has one");
            }
            let address = address?;
            report.claim(table.key("address"), Endpoint::Tcp(address));
            Some(Listener::Tcp(address))
        }
        (false, true) => {
            let path = path?;
            report.claim(table.key("path"), Endpoint::Unix(path.clone()));
            Some(Listener::Unix {
                path,
                mode: mode.unwrap_or(MODE),
            })
        }
        (false, false) => {
            table.missing("address", "an address to listen on, or a path");
            None
        }
        (true, true) => {
            table.problem(
                "path",
                "one listener cannot have both (expected address or path)",
            );
            None
        }
    }
}

/// The mode of a file, in the way that `chmod` takes it.
fn mode() -> Form<u32> {
    form::parsed("a mode in octal digits, as \"0660\"", |text| {
        let digits = text.bytes().all(|octet| matches!(octet, b'0'..=b'7'));
        let mode = u32::from_str_radix(text, 8).ok()?;
        (digits && mode <= 0o777).then_some(mode)
    })
}

/// What may stand in a greeting.
fn is_hostname(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// What the system calls itself.
pub(super) fn system_hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| is_hostname(name))
        .unwrap_or_else(|| lmtp::Settings::default().hostname)
}
