//! How a session ended: where, whose doing, what it cost; and the one log line that says so.
//!
//! A [`Failure`] is built where something fails and travels up unchanged. It answers four questions: at which stage,
//! whose fault, what the client hears, what really happened. Nothing here decides anything.

use crate::proto::denial::Denial;

/// Where in its story a session was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stage {
    /// Accepting the connection.
    Accept,
    /// Negotiating TLS with the client.
    Tls,
    /// Talking to the client until it gave credentials.
    Talk,
    /// Authenticating against the directory.
    Authenticate,
    /// Finding the home node.
    Resolve,
    /// Dialling, proving and opening the link.
    Link,
    /// Handing the session to the real server.
    Handover,
    /// Waiting for the real server's opening.
    Opening,
    /// Moving bytes.
    Relay,
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Blame {
    /// The client.
    Client,
    /// The LDAP server or accounts file.
    Directory,
    /// This process or its configuration.
    Local,
    /// A storage node or its real server.
    Node,
}

/// One thing that went wrong.
#[derive(Debug)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// Whose doing.
    pub blame: Blame,
    /// What the client hears, if it still hears anything.
    pub denial: Denial,
    /// What happened, for the operator: the whole chain of causes, no secrets, no raw client octets.
    pub cause: String,
}
