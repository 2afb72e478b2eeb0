//! The part of a cluster that mail goes through: delivery at the front, mailstores at the nodes, Postfix before them.
//!
//! ```text
//! smtp() -> Postfix -> lmtp() or lmtp_socket() -> front -> link -> node "n1": Maildir
//!                                                                  node "n2": Dovecot's LMTP
//! ```

use std::{net::SocketAddr, path::PathBuf};

use super::{Builder, Cluster, Kind, Node, NodeSpec, Postfix, User, postfix};
use crate::client::{Channel, Client};

/// How a node stores mail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Store {
    /// By its Dovecot.
    Lmtp,
    /// By handing it to the front's delivery role again.
    Loop,
    Maildir,
}

/// How Postfix hands over mail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    Inet,
    /// `pigeonair deliver` for each recipient.
    Pipe,
    Unix,
}

/// What Postfix knows of recipients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Recipients {
    /// It takes all.
    All,
    /// It asks LDAP.
    Known,
}

// === impl Cluster ===

impl Cluster {
    /// `n1` of kind `maildir`, `n2` of kind `lmtp`, TLS on the links, and the delivery role.
    pub(crate) fn mail() -> Builder {
        Self::build()
            .node(NodeSpec::new("n1", Kind::Login).store(Store::Maildir))
            .node(NodeSpec::new("n2", Kind::ImapMaster).store(Store::Lmtp))
            .delivery("")
    }

    /// The delivery role over TCP.
    pub(crate) fn lmtp(&self) -> SocketAddr {
        SocketAddr::from((self.ip, 2424))
    }

    /// The delivery role's Unix socket.
    pub(crate) fn lmtp_socket(&self) -> PathBuf {
        self.path("front/lmtp.sock")
    }

    /// Starts Postfix.
    pub(crate) fn start_postfix(&mut self, route: Route, recipients: Recipients, extra: &str) {
        let transport = match route {
            Route::Inet => postfix::Transport::Inet(self.lmtp()),
            Route::Pipe => postfix::Transport::Pipe(self.lmtp_socket()),
            Route::Unix => postfix::Transport::Unix(self.lmtp_socket()),
        };
        let uri = self.slapd.as_ref().map(super::Slapd::uri);
        self.postfix = Some(Postfix::start(&postfix::Settings {
            dir: &self.path("postfix"),
            logs: &self.path("logs"),
            address: SocketAddr::from((self.ip, 2525)),
            transport: &transport,
            program: &self.text("bin/pigeonair"),
            ldap: uri.as_deref().filter(|_| recipients == Recipients::Known),
            extra,
        }));
    }

    /// The Postfix that was started.
    pub(crate) fn postfix(&mut self) -> &mut Postfix {
        self.postfix.as_mut().unwrap()
    }

    /// All messages in an account's inbox, as IMAP gives them through the proxy.
    pub(crate) fn inbox(&self, user: &User) -> Vec<Vec<u8>> {
        let mut client = Client::logged_in(self, Channel::Plain, user);
        let selected = client.command("SELECT INBOX").ok();
        if selected.untagged.iter().any(|line| line == "* 0 EXISTS") {
            return Vec::new();
        }
        let messages = client.command("FETCH 1:* BODY.PEEK[]").ok().literals;
        client.command("LOGOUT").ok();
        messages
    }

    /// The front's section.
    pub(super) fn delivery_toml(&self, builder: &Builder) -> String {
        let Some(lines) = &builder.delivery else {
            return String::new();
        };
        format!(
            "\n[delivery]\n{lines}\n\
             [[delivery.listen]]\naddress = \"{}\"\n\n\
             [[delivery.listen]]\npath = \"{}\"\n",
            self.lmtp(),
            self.lmtp_socket().display(),
        )
    }
}

/// The node's sections for mail.
pub(super) fn mailstore_toml(
    cluster: &Cluster,
    builder: &Builder,
    spec: &NodeSpec,
    node: &Node,
) -> String {
    let lines = &builder.mailstore;
    match spec.store {
        None => String::new(),
        Some(Store::Maildir) => format!("\n[mailstore]\nkind = \"maildir\"\n{lines}"),
        Some(Store::Loop) => format!(
            "\n[mailstore]\nkind = \"lmtp\"\nserver = \"{}\"\n{lines}",
            cluster.lmtp()
        ),
        Some(Store::Lmtp) => format!(
            "\n[mailstore]\nkind = \"lmtp\"\nserver = \"{}\"\n{lines}",
            node.dovecot.lmtp.display()
        ),
    }
}
