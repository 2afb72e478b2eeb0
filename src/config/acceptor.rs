//! `[acceptor]`: what admits links on a storage node, and the real servers behind it.
//!
//! It connects to no real server: whether one answers is found out by the hand-over itself. How sessions reach them is
//! read by `kinds`. User names in `peers` become uids here, once.
//!
//! Limits: uids and gids begin at 1, whatever is configured; nothing is ever done as root on behalf of a user.
//!
//! A node serves nobody without a listener and a key, so each of them must be there, and so must a real server unless the node
//! serves mail (`[mailstore]`). A plain link from another machine is allowed, and said at start-up.

use std::{ops::RangeInclusive, time::Duration};

use ipnet::IpNet;

use super::{
    DAY, HOUR, SHORTEST,
    files::{self, System},
    form::{self, Form, LAST_ID},
    kinds,
    nodes::{key_id, node_name},
    proxy::{close_over, drain_timeout, listen_address, relay_limits},
    section::{Endpoint, Section},
    wanted,
};
use crate::{
    acceptor::Settings,
    handover::{self, Kind},
    home::Bounds,
    link::{AdmitSettings, GateSettings, Listener, NodeKey},
    names::{NodeName, Service},
};

/// Loopback and the private ranges of RFC 1918 and RFC 4193.
const FROM: [&str; 6] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
];
const MAX_UNPROVEN: usize = 2048;
const PROVE_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Below lie the users of the system itself.
const IDS: RangeInclusive<u32> = 1000..=LAST_ID;
const SESSIONS_PER_ACCOUNT: u32 = 50;
const SESSIONS_FILE: &str = "/run/pigeonair-node/sessions";
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
const SERVICES: [Service; 3] = [Service::Imap, Service::Pop3, Service::Mailstore];

/// What the section says.
pub(super) struct Read {
    pub(super) gate: GateSettings,
    pub(super) bounds: Bounds,
    /// None: it has no real server for sessions.
    pub(super) sessions: Option<Settings>,
    pub(super) drain_timeout: Duration,
    pub(super) close_over: Duration,
}

/// Reads the section; without a real server for sessions only if the node `has_mailstore`.
pub(super) fn read(
    section: &mut Section<'_>,
    has_mailstore: bool,
    system: &System,
) -> Option<Read> {
    let name = section.required("name", &node_name());
    let from = section.list("from", &form::network());
    let from = from.unwrap_or_else(|| FROM.iter().filter_map(|text| text.parse().ok()).collect());
    let peers = peers(section, system);
    let wait = form::duration(SHORTEST..=HOUR);
    let admit = handshake(section, &wait);
    let relay = relay_limits(section);
    let drain_timeout = drain_timeout(section);
    let close_over = close_over(section);
    let bounds = bounds(section);
    let sessions_per_account = section.or(
        "sessions_per_account",
        &form::integer(0..=1_000_000),
        SESSIONS_PER_ACCOUNT,
    );
    let sessions_file = section.or(
        "sessions_file",
        &form::path("the path of a file"),
        SESSIONS_FILE.into(),
    );
    let timeout = section.or("handover_timeout", &wait, HANDOVER_TIMEOUT);
    let listeners = listeners(section);
    let keys = keys(section);
    let kinds = real_servers(section, has_mailstore);
    let bounds = bounds?;
    let sessions = match kinds? {
        (None, None) => None,
        (imap, pop3) => Some(Settings {
            handover: handover::Settings {
                imap,
                pop3,
                bounds: bounds.clone(),
                timeout,
                sessions_per_account,
                sessions_file,
            },
            relay,
        }),
    };
    Some(Read {
        gate: GateSettings {
            listeners: listeners?,
            from,
            peers,
            admit: admit(name?, keys?),
        },
        bounds,
        sessions,
        drain_timeout,
        close_over,
    })
}

/// The limits of the handshake, which want only the node's name and keys.
fn handshake(
    section: &mut Section<'_>,
    wait: &Form<Duration>,
) -> impl FnOnce(NodeName, Vec<NodeKey>) -> AdmitSettings + use<> {
    let max_unproven = section.or("max_unproven", &form::integer(1..=100_000), MAX_UNPROVEN);
    let prove_timeout = section.or("prove_timeout", wait, PROVE_TIMEOUT);
    let idle_limit = section.or(
        "idle_limit",
        &form::duration(Duration::from_secs(1)..=DAY),
        IDLE_LIMIT,
    );
    move |node, keys| AdmitSettings {
        node,
        keys,
        max_unproven,
        prove_timeout,
        idle_limit,
    }
}

/// How sessions of IMAP and of POP3 reach the real servers: one of them at least, unless the node has something else to do.
fn real_servers(
    section: &mut Section<'_>,
    has_mailstore: bool,
) -> Option<(Option<Kind>, Option<Kind>)> {
    let (has_imap, has_pop3) = (section.has("imap"), section.has("pop3"));
    if !has_imap && !has_pop3 && !has_mailstore {
        section.missing(
            "imap",
            "a table [acceptor.imap] or [acceptor.pop3], or a section [mailstore]",
        );
    }
    let imap = has_imap.then(|| kinds::imap(section));
    let pop3 = has_pop3.then(|| kinds::pop3(section));
    Some((wanted(imap)?, wanted(pop3)?))
}

/// Who may connect to a Unix socket: root and we ourselves always, and who is named.
fn peers(section: &mut Section<'_>, system: &System) -> Vec<u32> {
    let passwd = system.passwd.clone();
    let form = Form::new(
        "the name of a user of this machine, or a uid",
        move |value| {
            if let Some(uid) = value.as_integer() {
                return u32::try_from(uid).ok();
            }
            let user = value.as_str()?;
            match files::uid_of(user, &passwd) {
                Ok(Some(uid)) => Some(uid),
                Ok(None) | Err(_) => user.parse().ok(),
            }
        },
    );
    let mut peers = section.list("peers", &form).unwrap_or_default();
    peers.extend([0, system.uid]);
    peers.sort_unstable();
    peers.dedup();
    peers
}

fn bounds(section: &mut Section<'_>) -> Option<Bounds> {
    let home_root = files::folder(section, "home_root");
    Some(Bounds {
        uids: section.or("uids", &form::ids(), IDS),
        gids: section.or("gids", &form::ids(), IDS),
        home_root: home_root?,
    })
}

fn listeners(section: &mut Section<'_>) -> Option<Vec<Listener>> {
    let mut tables = section.tables("listen");
    let listeners: Vec<Option<Listener>> = tables.iter_mut().map(listener).collect();
    let listeners: Vec<Listener> = listeners.into_iter().collect::<Option<_>>()?;
    (!listeners.is_empty()).then_some(listeners)
}

fn listener(table: &mut Section<'_>) -> Option<Listener> {
    let address = table.optional("address", &listen_address());
    let path = table.optional("path", &form::socket_path());
    let tls = table.optional("tls", &form::boolean());
    let report = table.report();
    match (table.has("address"), table.has("path")) {
        (true, false) => {
            let address = address?;
            let tls = tls.unwrap_or(true);
            report.claim(table.key("address"), Endpoint::Tcp(address));
            if !tls && !address.ip().is_loopback() {
                report.warn(format!(
                    "{}: plain links on {address}: for a private wire",
                    table.key("tls")
                ));
            }
            Some(Listener::Tcp { address, tls })
        }
        (false, true) => {
            if tls == Some(true) {
                table.problem("tls", "not possible on a Unix socket");
            }
            let path = path?;
            report.claim(table.key("path"), Endpoint::Unix(path.clone()));
            Some(Listener::Unix(path))
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

fn keys(section: &mut Section<'_>) -> Option<Vec<NodeKey>> {
    let mut tables = section.tables("key");
    let keys: Vec<Option<NodeKey>> = tables.iter_mut().map(key).collect();
    let keys: Vec<NodeKey> = keys.into_iter().collect::<Option<_>>()?;
    for (position, (table, key)) in tables.iter().zip(&keys).enumerate() {
        let mut earlier = keys.iter().take(position);
        if earlier.any(|other| other.id == key.id) {
            table.problem(
                "id",
                format!(
                    "taken already (got {:?}; expected an id of its own)",
                    key.id.as_str()
                ),
            );
        }
    }
    (!keys.is_empty()).then_some(keys)
}

fn key(table: &mut Section<'_>) -> Option<NodeKey> {
    let id = table.required("id", &key_id());
    let key = files::key(table, "file");
    let service = form::parsed("\"imap\", \"pop3\" or \"mailstore\"", Service::parse);
    let services = table.list("services", &service);
    if services.as_ref().is_some_and(Vec::is_empty) {
        table.problem(
            "services",
            "a key that opens nothing (expected at least one service)",
        );
    }
    let from: Vec<IpNet> = table.list("from", &form::network()).unwrap_or_default();
    let not_after = table.optional("not_after", &form::instant());
    Some(NodeKey {
        id: id?,
        key: key?,
        services: services.unwrap_or_else(|| SERVICES.to_vec()),
        from,
        not_after,
    })
}
