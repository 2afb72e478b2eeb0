//! `[nodes]`: the storage nodes, how each is reached, and how long anything on the way may take.
//!
//! It resolves no host name and dials nobody: a node that is away is no mistake of configuration.
//!
//! Names and host names are one namespace, since a home attribute may hold either. Two nodes at one address are
//! refused: whichever answered would not be the other.

use std::time::Duration;

use super::{
    HOUR, SHORTEST, files,
    form::{self, Form},
    section::Section,
};
use crate::{
    link::{DialSettings, HealthSettings},
    names::{KeyId, Login, NodeName},
    net::Address,
    nodes::{Node, Settings},
};

/// Reads the section: the table of nodes and what the link is dialled with.
pub(super) fn read(section: &mut Section<'_>) -> (Option<Settings>, DialSettings) {
    let dial = dial(section);
    let default = section.optional("default", &node_name());
    let mut tables = section.tables("node");
    let mut seen = Seen::default();
    let nodes: Vec<Option<Node>> = tables
        .iter_mut()
        .map(|table| node(table, &mut seen))
        .collect();
    if let Some(default) = &default
        && !seen.names.iter().any(|(name, _)| name == default.as_str())
    {
        section.problem(
            "default",
            format!(
                "no such node (got {:?}; expected the name of a [[nodes.node]])",
                default.as_str()
            ),
        );
    }
    let nodes = nodes
        .into_iter()
        .collect::<Option<Vec<Node>>>()
        .filter(|nodes| !nodes.is_empty());
    (nodes.map(|nodes| Settings { nodes, default }), dial)
}

fn dial(section: &mut Section<'_>) -> DialSettings {
    let default = DialSettings::default();
    let wait = form::duration(SHORTEST..=HOUR);
    let mut or = |name, default: Duration| section.or(name, &wait, default);
    DialSettings {
        connect_timeout: or("connect_timeout", default.connect_timeout),
        prove_timeout: or("prove_timeout", default.prove_timeout),
        verdict_timeout: or("verdict_timeout", default.verdict_timeout),
        ready: section.or("ready_links", &form::integer(0..=100), default.ready),
        health: health(section),
    }
}

fn health(section: &mut Section<'_>) -> HealthSettings {
    let default = HealthSettings::default();
    let slow_start = form::duration(Duration::ZERO..=HOUR);
    HealthSettings {
        down_after: section.or("down_after", &form::integer(1..=1000), default.down_after),
        probe_every: section.or("probe_every", &probe_every(), default.probe_every),
        probe_login_counts: section.or(
            "probe_login_counts",
            &form::boolean(),
            default.probe_login_counts,
        ),
        slow_start: section.or("slow_start", &slow_start, default.slow_start),
    }
}

/// What nodes before this one have taken, each with the key that took it.
#[derive(Default)]
struct Seen {
    names: Vec<(String, String)>,
    addresses: Vec<(Address, String)>,
}

fn node(table: &mut Section<'_>, seen: &mut Seen) -> Option<Node> {
    let name = table.required("name", &node_name());
    let hosts = table.list("hosts", &host()).unwrap_or_default();
    let address = table.required("address", &form::address());
    let source = table.optional("source", &form::standard("an IP address of this machine"));
    let key_id = table.required("key_id", &key_id());
    let key = files::key(table, "key_file");
    let is_tcp = !matches!(address, Some(Address::Unix(_)));
    let tls = table.or("tls", &form::boolean(), is_tcp);
    let probe_login = table.optional("probe_login", &login());

    let node = name.as_ref().map(NodeName::to_string);
    for text in node.iter().chain(&hosts) {
        take_name(table, seen, text);
    }
    if let Some(address) = &address {
        if let Some((_, other)) = seen.addresses.iter().find(|(taken, _)| taken == address) {
            table.problem(
                "address",
                format!("the same as {other} (got {address}; expected an address of its own)"),
            );
        }
        seen.addresses.push((address.clone(), table.key("address")));
    }
    match &address {
        Some(Address::Unix(_)) => {
            for (name, set) in [("tls", tls), ("source", source.is_some())] {
                if set {
                    table.problem(name, "not possible on a Unix socket");
                }
            }
        }
        Some(address @ Address::Tcp { host, .. }) if !tls && !address.is_local() => {
            table.report().warn(format!(
                "{}: plain link to {} over TCP: for a private wire",
                table.key("tls"),
                node.as_deref().unwrap_or(host)
            ));
        }
        Some(Address::Tcp { .. }) | None => {}
    }
    Some(Node {
        name: name?,
        hosts,
        address: address?,
        source,
        key_id: key_id?,
        key: key?,
        tls,
        probe_login,
    })
}

/// Takes a name or host name for the node of `table`; a problem if it means another one already.
fn take_name(table: &Section<'_>, seen: &mut Seen, text: &str) {
    let lower = text.to_ascii_lowercase();
    if let Some((_, other)) = seen.names.iter().find(|(name, _)| *name == lower) {
        table.report().problem(
            table.path(),
            format!(
                "{text:?} means {other} already (expected names and host names that only this node has)"
            ),
        );
    }
    seen.names.push((lower, table.path().to_owned()));
}

/// The name of a node.
pub(super) fn node_name() -> Form<NodeName> {
    form::parsed("a node's name: up to 64 of a-z 0-9 . _ -", |text| {
        NodeName::parse(text).ok()
    })
}

/// The id of a key.
pub(super) fn key_id() -> Form<KeyId> {
    form::parsed(
        "a key's id: up to 64 of A-Z a-z 0-9 . _ - @ + = :",
        |text| KeyId::parse(text).ok(),
    )
}

/// How often a node is probed, if it is.
fn probe_every() -> Form<Option<Duration>> {
    let every = form::duration(Duration::from_secs(1)..=HOUR);
    let expected = format!("{}, or \"off\"", every.expected());
    Form::new(expected, move |value| match value.as_str() {
        Some("off") => Some(None),
        _ => every.read(value).ok().map(Some),
    })
}

fn login() -> Form<Login> {
    form::parsed("a login name: up to 255 octets", |text| {
        Login::parse(text).ok()
    })
}

fn host() -> Form<String> {
    form::parsed("a host name or IP address", |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        (!text.is_empty() && text.len() <= 255 && text.chars().all(allowed))
            .then(|| text.to_owned())
    })
}
