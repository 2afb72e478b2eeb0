//! What the proxy role is configured with.

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;

use crate::{defence, names::Protocol, net::tls, policy, proto::server, relay};

/// The proxy role.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Certificates for STARTTLS and implicit TLS; needed when a listener has TLS.
    pub tls: Option<tls::Settings>,
    /// Who is asked before a password is looked at, if anybody.
    pub policy: Option<policy::Settings>,
    /// Limits of the conversation before login.
    pub talk: server::Settings,
    /// What a client may send before it has logged in, in octets; default 64 KiB.
    pub max_input: usize,
    /// From accept to the last credentials; default 3 minutes.
    pub login_timeout: Duration,
    /// A TLS negotiation; default 20 s.
    pub tls_timeout: Duration,
    /// What keeps clients from hurting each other.
    pub defence: defence::Settings,
    /// From the verdict to the real server's complete opening; default 10 s.
    pub opening_timeout: Duration,
    /// Networks that balancers connect from, to listeners that want to be told the client; default none.
    pub balancers: Vec<IpNet>,
    /// Client connections at one time; default 20,000.
    pub max_connections: usize,
    /// How long a drain waits for sessions before it closes them; default 30 s.
    pub drain_timeout: Duration,
    /// How long closing those may take, one after the other; default 10 s.
    pub close_over: Duration,
    /// How long a drain accepts clients after monitors have heard of it; default none.
    pub ready_pause: Duration,
    /// The relay of IMAP sessions.
    pub imap_relay: relay::Settings,
    /// The relay of POP3 sessions.
    pub pop3_relay: relay::Settings,
}

/// One listening socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its TLS.
    pub tls: ListenTls,
    /// The oldest version of TLS spoken there.
    pub oldest: tls::Oldest,
    /// Where passwords may travel unencrypted.
    pub cleartext: Cleartext,
    /// Who says who the client is.
    pub proxy_protocol: ProxyProtocol,
}

/// Who says who the client is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyProtocol {
    /// The connection itself (the default).
    Off,
    /// A balancer, in a header.
    Required {
        /// Whether TLS that it has ended is as good as ours; default no.
        balancer_tls: bool,
    },
}

/// TLS of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenTls {
    /// TLS from the first octet.
    Implicit,
    /// No TLS.
    Off,
    /// Offered by STARTTLS.
    Starttls,
}

/// Where passwords may travel unencrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cleartext {
    /// Everywhere.
    Always,
    /// From loopback addresses only (the default).
    Loopback,
    /// Nowhere.
    Never,
}
