//! How a session ended: where, whose doing, what it cost; and the log lines that say so.
//!
//! A [`Failure`] is built where something fails and travels up unchanged. It answers four questions: at which stage,
//! whose fault, what the client hears, what really happened. A [`Report`] gathers what is known of one session; it
//! writes `login failed` the moment a login fails (a watcher of logs must not wait for the client to hang up) and
//! exactly one `session ended` line. Nothing here decides anything.
//!
//! Levels: a client's mistake is info, and so is what was ordered; what an operator must look at (directory, node, policy server, ourselves) is error.

use std::time::Instant;

use crate::{
    names::{
        AccountName, BalancerAddr, ClientAddr, LocalAddr, Login, NodeName, Protocol, SessionId,
    },
    proto::{denial::Denial, talk::Mechanism},
};

/// Where in its story a session was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stage {
    /// Negotiating TLS with the client.
    Tls,
    /// Talking to the client until it gave credentials.
    Talk,
    /// Asking the policy server whether it may be tried.
    Policy,
    /// Authenticating against the directory.
    Authenticate,
    /// Finding the home node.
    Resolve,
    /// Dialling, proving and opening the link, up to the node's verdict.
    Link,
    /// Waiting for the real server's opening.
    Opening,
    /// Moving bytes.
    Relay,
}

impl Stage {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Talk => "talk",
            Self::Policy => "policy",
            Self::Authenticate => "authenticate",
            Self::Resolve => "resolve",
            Self::Link => "link",
            Self::Opening => "opening",
            Self::Relay => "relay",
        }
    }
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Blame {
    /// An administrator, who has ordered it.
    Administrator,
    /// The client.
    Client,
    /// The LDAP server or accounts file, or what it says.
    Directory,
    /// What the directory holds of this one account.
    Entry,
    /// This process or its configuration.
    Local,
    /// A storage node or its real server.
    Node,
    /// The policy server.
    Policy,
}

impl Blame {
    /// The word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Client => "client",
            Self::Directory => "directory",
            Self::Entry => "entry",
            Self::Local => "local",
            Self::Node => "node",
            Self::Policy => "policy",
        }
    }
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
    pub reason: String,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// Closed by us: a drain ended it.
    Cut,
    /// Closed by us: an administrator's command ended it.
    Kicked,
    /// Closed by us: the account changed, so that the session may not go on.
    Revoked,
    /// Logged in and was served until one side ended it.
    Served,
    /// Logged in, then nothing was heard for too long.
    Idle,
    /// Logged in, then a connection broke.
    Broken,
    /// Never tried to log in and said goodbye or hung up.
    Left,
    /// Tried to log in, and left after a denial.
    Denied,
    /// Broke a limit before login: too long, too many, too wrong.
    Misbehaved,
    /// Closed by us before login: another needed its place.
    Shed,
    /// Took too long before login.
    Slow,
    /// TLS could not be negotiated.
    Tls,
}

impl Outcome {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Kicked => "kicked",
            Self::Revoked => "revoked",
            Self::Served => "served",
            Self::Idle => "idle",
            Self::Broken => "broken",
            Self::Left => "left",
            Self::Denied => "denied",
            Self::Misbehaved => "misbehaved",
            Self::Shed => "shed",
            Self::Slow => "slow",
            Self::Tls => "tls",
        }
    }
}

/// Who connected on behalf of a client.
#[derive(Debug)]
pub struct Balancer {
    /// Where it connected from.
    pub address: BalancerAddr,
    /// What it calls the connection.
    pub id: Option<String>,
}

/// What is known of one session.
#[derive(Debug)]
pub struct Report {
    /// Its id.
    pub session: SessionId,
    /// What the client speaks.
    pub protocol: Protocol,
    /// Where it came from.
    pub client: ClientAddr,
    /// Where it arrived.
    pub local: LocalAddr,
    /// Who said so, if it was not the connection itself.
    pub balancer: Option<Balancer>,
    /// Version and cipher of its TLS.
    pub tls: Option<crate::net::tls::Agreed>,
    /// What it typed last.
    pub login: Option<Login>,
    /// How it gave its credentials.
    pub mechanism: Option<Mechanism>,
    /// Who it is.
    pub account: Option<AccountName>,
    /// Where it lives.
    pub node: Option<NodeName>,
    /// The last denial's stage, blame and reason.
    pub failure: Option<Failure>,
    /// When it was accepted.
    pub started: Instant,
}

impl Report {
    /// Notes a failed login and logs it at once.
    pub fn failed(&mut self, failure: Failure) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    session = %self.session,
                    login = self.login.as_ref().map(Login::as_str),
                    client = %self.client,
                    local = %self.local,
                    protocol = self.protocol.as_str(),
                    mechanism = self.mechanism.map(Mechanism::as_str),
                    tls = self.tls.as_ref().map(|tls| tls.version),
                    node = self.node.as_ref().map(tracing::field::display),
                    stage = failure.stage.as_str(),
                    blame = failure.blame.as_str(),
                    denial = failure.denial.as_str(),
                    reason = failure.reason,
                    "login failed"
                )
            };
        }
        match failure.blame {
            Blame::Administrator | Blame::Client => line!(info),
            // Whoever types its name has it written, so it wakes nobody up.
            Blame::Entry => line!(warn),
            Blame::Directory | Blame::Local | Blame::Node | Blame::Policy => line!(error),
        }
        self.failure = Some(failure);
    }

    /// Logs the session's one line: what it was, how it ended, what it moved.
    pub fn ended(&self, outcome: Outcome, to_client: u64, to_server: u64, detail: Option<&str>) {
        let (stage, blame) = match &self.failure {
            Some(failure) => (Some(failure.stage.as_str()), Some(failure.blame.as_str())),
            None => (None, None),
        };
        let failed = self.failure.as_ref().map(|failure| failure.reason.as_str());
        let balancer = self.balancer.as_ref();
        tracing::info!(
            session = %self.session,
            account = self.account.as_ref().map(AccountName::as_str),
            login = self.login.as_ref().map(Login::as_str),
            client = %self.client,
            local = %self.local,
            balancer = balancer.map(|balancer| tracing::field::display(balancer.address)),
            balancer_id = balancer.and_then(|balancer| balancer.id.as_deref()),
            protocol = self.protocol.as_str(),
            tls = self.tls.as_ref().map(|tls| tls.version),
            cipher = self.tls.as_ref().map(|tls| tls.cipher.as_str()),
            node = self.node.as_ref().map(tracing::field::display),
            outcome = outcome.as_str(),
            stage,
            blame,
            reason = detail.or(failed),
            bytes_out = to_client,
            bytes_in = to_server,
            duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "session ended"
        );
    }
}

/// An error and its causes in one line, for [`Failure::reason`].
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
