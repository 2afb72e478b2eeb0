//! `[proxy]`: what serves clients, its listeners, and the limits of a conversation before login.
//!
//! Limits that belong to another component (the IMAP conversation, the relay) take their defaults from it; the proxy's
//! own stand here. TLS is read in `tls`.
//!
//! A listener with TLS needs `[proxy.tls]`; one where nobody could ever log in is refused; one that takes passwords
//! in clear from anywhere is allowed, and said at start-up.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;

use super::{
    DAY, HOUR, SHORTEST, defence,
    files::System,
    form::{self, Form},
    policy,
    section::{Endpoint, Section},
    tls,
};
use crate::{
    names::Protocol,
    net::tls::Oldest,
    proto::{imap, pop3, server},
    proxy::{Cleartext, ListenTls, Listener, ProxyProtocol, Settings},
    relay,
};

const LOGIN_TIMEOUT: Duration = Duration::from_secs(180);
const TLS_TIMEOUT: Duration = Duration::from_secs(20);
/// Long enough for a slow hash or a slow LDAP server to hide in.
const FAILURE_DELAY: Duration = Duration::from_secs(2);
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 20_000;
/// Many times what the longest login takes, and a bound to what a client can make us read.
const MAX_INPUT: usize = 64 << 10;
/// How long a drain waits for sessions, here and on a node.
pub(super) const CLOSE_OVER: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// RFC 1939, section 3 asks for at least 10 minutes.
const POP3_IDLE: Duration = Duration::from_secs(12 * 60);

/// Clients may stay in IDLE for 29 minutes and are told so (RFC 2177, RFC 9051 5.4).
const IDLE_ADVICE: Duration = Duration::from_secs(30 * 60);

const PROTOCOLS: &[(&str, Protocol)] = &[("imap", Protocol::Imap), ("pop3", Protocol::Pop3)];
const TLS: &[(&str, ListenTls)] = &[
    ("starttls", ListenTls::Starttls),
    ("implicit", ListenTls::Implicit),
    ("off", ListenTls::Off),
];
const OLDEST: &[(&str, Oldest)] = &[("1.2", Oldest::Tls12), ("1.3", Oldest::Tls13)];
const CLEARTEXT: &[(&str, Cleartext)] = &[
    ("never", Cleartext::Never),
    ("loopback", Cleartext::Loopback),
    ("always", Cleartext::Always),
];
/// Whether a header is required.
const PROXY_PROTOCOL: &[(&str, bool)] = &[("off", false), ("required", true)];

/// Reads the section.
pub(super) fn read(section: &mut Section<'_>, system: &System) -> Option<Settings> {
    let waits = |to| form::duration(SHORTEST..=to);
    let failure_delay = section.or(
        "failure_delay",
        &form::duration(Duration::ZERO..=Duration::from_secs(30)),
        FAILURE_DELAY,
    );
    let max_connections = section.or(
        "max_connections",
        &form::integer(1..=1_000_000),
        MAX_CONNECTIONS,
    );
    let settings = Settings {
        listeners: Vec::new(),
        tls: None,
        policy: None,
        talk: talk_limits(section),
        login_timeout: section.or("login_timeout", &waits(HOUR), LOGIN_TIMEOUT),
        tls_timeout: section.or("tls_timeout", &waits(HOUR), TLS_TIMEOUT),
        opening_timeout: section.or("opening_timeout", &waits(HOUR), OPENING_TIMEOUT),
        balancers: Vec::new(),
        max_connections,
        max_input: section.or("max_input", &form::size(4096..=16 << 20), MAX_INPUT),
        defence: defence::read(
            &mut section.table("defence"),
            failure_delay,
            max_connections,
        ),
        drain_timeout: drain_timeout(section),
        close_over: close_over(section),
        ready_pause: section.or(
            "ready_pause",
            &form::duration(Duration::ZERO..=HOUR),
            Duration::ZERO,
        ),
        imap_relay: relay_limits(section),
        pop3_relay: relay::Settings::default(),
    };
    let pop3_relay = relay::Settings {
        idle: section.or("pop3_idle_timeout", &waits(DAY), POP3_IDLE),
        ..settings.imap_relay
    };
    let mut tls = section.table("tls");
    let has_tls = tls.is_present();
    let tls = has_tls.then(|| tls::read(&mut tls));
    let policy = policy::read(&mut section.table("policy"), system);
    let listeners = listeners(section, has_tls);
    let balancers = balancers(section, listeners.as_deref().unwrap_or_default());
    Some(Settings {
        listeners: listeners?,
        balancers: balancers?,
        tls: match tls {
            Some(settings) => Some(settings?),
            None => None,
        },
        policy: policy?,
        pop3_relay,
        ..settings
    })
}

/// The relay's limits, which both processes have.
pub(super) fn relay_limits(section: &mut Section<'_>) -> relay::Settings {
    let default = relay::Settings::default();
    let form = form::duration(SHORTEST..=DAY);
    let settings = relay::Settings {
        idle: section.or("idle_timeout", &form, default.idle),
        half_closed_idle: section.or("half_closed_timeout", &form, default.half_closed_idle),
    };
    if settings.idle < IDLE_ADVICE {
        section.report().warn(format!(
            "{}: below 30m: clients that wait in IDLE will be cut off",
            section.key("idle_timeout")
        ));
    }
    settings
}

/// The limit of a drain, which both processes have.
pub(super) fn drain_timeout(section: &mut Section<'_>) -> Duration {
    section.or(
        "drain_timeout",
        &form::duration(Duration::ZERO..=DAY),
        DRAIN_TIMEOUT,
    )
}

/// How long a drain takes to close what is left, which both processes have.
pub(super) fn close_over(section: &mut Section<'_>) -> Duration {
    section.or(
        "close_over",
        &form::duration(Duration::ZERO..=HOUR),
        CLOSE_OVER,
    )
}

fn talk_limits(section: &mut Section<'_>) -> server::Settings {
    let default = imap::Settings::default();
    let size: RangeInclusive<u64> = 256..=1 << 20;
    let count = form::integer(1..=1000);
    let imap = imap::Settings {
        max_line_bytes: section.or(
            "max_line",
            &form::size(size.clone()),
            default.max_line_bytes,
        ),
        max_literal_bytes: section.or("max_literal", &form::size(size), default.max_literal_bytes),
        max_commands: section.or("max_commands", &count, default.max_commands),
        max_bad_commands: section.or("max_bad_commands", &count, default.max_bad_commands),
        max_attempts: section.or("max_attempts", &count, default.max_attempts),
    };
    let pop3 = pop3::Settings {
        max_commands: imap.max_commands,
        max_bad_commands: imap.max_bad_commands,
        max_attempts: imap.max_attempts,
        ..pop3::Settings::default()
    };
    server::Settings { imap, pop3 }
}

fn listeners(section: &mut Section<'_>, has_tls: bool) -> Option<Vec<Listener>> {
    let mut tables = section.tables("listen");
    let listeners: Vec<Option<Listener>> = tables
        .iter_mut()
        .map(|table| listener(table, has_tls))
        .collect();
    let listeners: Vec<Listener> = listeners.into_iter().collect::<Option<_>>()?;
    (!listeners.is_empty()).then_some(listeners)
}

fn listener(table: &mut Section<'_>, has_tls: bool) -> Option<Listener> {
    let address = table.required("address", &listen_address());
    let protocol = table.required("protocol", &form::word(PROTOCOLS));
    let default = if has_tls {
        ListenTls::Starttls
    } else {
        ListenTls::Off
    };
    let tls = table.or("tls", &form::word(TLS), default);
    let oldest = table.or("tls_min_version", &form::word(OLDEST), Oldest::default());
    let cleartext = table.or("cleartext", &form::word(CLEARTEXT), Cleartext::Loopback);
    let proxy_protocol = proxy_protocol(table, address, tls);
    if let Some(address) = address {
        table
            .report()
            .claim(table.key("address"), Endpoint::Tcp(address));
    }
    if tls != ListenTls::Off && !has_tls {
        table.problem("tls", "needs a certificate (expected a table [proxy.tls])");
    }
    if tls == ListenTls::Off && table.has("tls_min_version") {
        table.problem("tls_min_version", "not possible without TLS");
    }
    let balancer_tls = proxy_protocol == ProxyProtocol::Required { balancer_tls: true };
    match (tls, cleartext) {
        (ListenTls::Off, Cleartext::Never) if balancer_tls => {}
        (ListenTls::Off, Cleartext::Never) => table.problem(
            "cleartext",
            "nobody could log in here (got \"never\" and tls \"off\"; expected one of them to differ)",
        ),
        (ListenTls::Off | ListenTls::Starttls, Cleartext::Always) => table.report().warn(format!(
            "{}: passwords may travel in clear from anywhere",
            table.key("cleartext")
        )),
        (ListenTls::Implicit, _) | (_, Cleartext::Loopback | Cleartext::Never) => {}
    }
    Some(Listener {
        address: address?,
        protocol: protocol?,
        tls,
        oldest,
        cleartext,
        proxy_protocol,
    })
}

/// Who says who a listener's clients are.
fn proxy_protocol(
    table: &mut Section<'_>,
    address: Option<SocketAddr>,
    tls: ListenTls,
) -> ProxyProtocol {
    let is_required = table.or("proxy_protocol", &form::word(PROXY_PROTOCOL), false);
    let balancer_tls = table.or("balancer_tls", &form::boolean(), false);
    if balancer_tls && !is_required {
        table.problem(
            "balancer_tls",
            "nobody says so here (got true; expected proxy_protocol = \"required\" beside it)",
        );
    } else if balancer_tls && tls == ListenTls::Implicit {
        table.problem(
            "balancer_tls",
            "all clients have TLS here (got true and tls \"implicit\"; expected one of them to differ)",
        );
    } else if balancer_tls && address.is_some_and(|address| !address.ip().is_loopback()) {
        table.report().warn(format!(
            "{}: passwords may travel in clear from the balancer to here: for a private wire",
            table.key("balancer_tls")
        ));
    }
    if is_required {
        ProxyProtocol::Required { balancer_tls }
    } else {
        ProxyProtocol::Off
    }
}

/// Who may say who clients are: somebody, where a listener wants to be told.
fn balancers(section: &mut Section<'_>, listeners: &[Listener]) -> Option<Vec<IpNet>> {
    const EXPECTED: &str =
        "at least one network, as [\"10.0.0.1\"], for proxy_protocol = \"required\"";
    let has_list = section.has("balancers");
    let balancers = section.list("balancers", &form::network());
    let mut listeners = listeners.iter();
    let is_required = listeners.any(|listener| listener.proxy_protocol != ProxyProtocol::Off);
    match &balancers {
        None if has_list => return None,
        None if is_required => section.missing("balancers", EXPECTED),
        Some(none) if is_required && none.is_empty() => section.problem(
            "balancers",
            format!("nobody could connect (got an empty list; expected {EXPECTED})"),
        ),
        Some(some) if !is_required && !some.is_empty() => section.report().warn(format!(
            "{}: of no use: no listener has proxy_protocol = \"required\"",
            section.key("balancers")
        )),
        Some(some) if some.iter().any(|network| network.prefix_len() == 0) => {
            section.report().warn(format!(
                "{}: everybody may say who they are",
                section.key("balancers")
            ));
        }
        None | Some(_) => {}
    }
    Some(balancers.unwrap_or_default())
}

/// Where something listens on TCP.
pub(super) fn listen_address() -> Form<SocketAddr> {
    form::standard("an IP address with a port, as \"0.0.0.0:143\" or \"[::]:143\"")
}
