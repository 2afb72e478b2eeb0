//! Finding out whether a node serves before a user does: one prober for each node of a front.
//!
//! ```text
//! due, or somebody's link failed ─> connect, [TLS], prove ─> [open as the probe's account, the real server's opening, LOGOUT, its end]
//! ```
//!
//! It does what a login does, and through the same code. Where the node has an account for it (`probe_login`), the
//! directory is asked who that is, and an IMAP session of that account begins and ends: so a real server that is dead behind a
//! living acceptor is found out too. That an account cannot be found, or lives elsewhere, says nothing of the node: it is logged
//! once, and the link alone is probed.
//!
//! Limits: the dialer's deadlines, and for the session once more the verdict's; [`MAX_BYTES`] of what the real server says. What
//! comes of it, [`Health`](super::health::Health) decides.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    dial::Dial,
    dialer::Opened,
    error::{LinkError, Sign},
    health::ProbeError,
};
use crate::{
    directory::{Account, Directory, LookupError},
    names::{ClientAddr, LocalAddr, Login, Protocol, SessionId},
    net::Stream,
    nodes::Nodes,
    outcome::chain,
    proto::{
        link::{Context, context::OpenBody, dialer::Ready},
        opening::{Reader, Step},
    },
};

/// What a real server may say from its opening to its end: much more than greetings and farewells have.
const MAX_BYTES: usize = 64 * 1024;

/// One read of it.
const READ_BYTES: usize = 4096;

/// The prober's only command.
const LOGOUT: &[u8] = b"probe LOGOUT\r\n";

/// How it is answered.
const GOODBYE: &[u8] = b"\nprobe OK";

/// Who a prober logs in as.
#[derive(Clone, Debug)]
pub struct Accounts {
    /// Who that is.
    pub directory: Directory,
    /// Where it lives.
    pub nodes: Nodes,
}

/// One node's.
#[derive(Debug)]
pub(super) struct Prober {
    dial: Arc<Dial>,
    accounts: Arc<OnceLock<Accounts>>,
    /// The log knows that the account is of no use.
    has_warned: bool,
}

impl Prober {
    pub(super) fn new(dial: Arc<Dial>, accounts: Arc<OnceLock<Accounts>>) -> Self {
        Self {
            dial,
            accounts,
            has_warned: false,
        }
    }

    /// Probes for ever, and lets in more and more after an outage.
    pub(super) async fn run(self) {
        let dial = Arc::clone(&self.dial);
        tokio::join!(self.probe_when_due(), raise(&dial));
    }

    async fn probe_when_due(mut self) {
        let dial = Arc::clone(&self.dial);
        loop {
            match dial.health.probe_at() {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = dial.health.probe_moved() => continue,
                },
                None => {
                    dial.health.probe_moved().await;
                    continue;
                }
            }
            let attempt = dial.health.trying();
            let began = Instant::now();
            let result = Box::pin(self.probe()).await;
            attempt.ended(&result, began.elapsed());
            self.count(&result);
        }
    }

    fn count(&self, result: &Result<(), ProbeError>) {
        let node = &self.dial.node.name;
        let word = match result {
            Ok(()) => "ok",
            Err(ProbeError::Link(error)) => error.as_str(),
            Err(ProbeError::Login(_)) => "login",
            Err(ProbeError::Undecided) => "directory",
        };
        let probes = &self.dial.metrics.node_probes;
        probes.with_label_values(&[node.as_str(), word]).inc();
        if let Err(error) = result {
            tracing::debug!(%node, %error, "probe failed");
        }
    }

    async fn probe(&mut self) -> Result<(), ProbeError> {
        let proven = self.dial.prove_ahead(None).await;
        let (stream, ready) = proven.map_err(ProbeError::Link)?;
        let Some(context) = self.context().await? else {
            return Ok(());
        };
        self.log_in(stream, ready, &context)
            .await
            .map_err(ProbeError::Login)
    }

    /// The context of a session for the node's account, if it has one that can be used.
    async fn context(&mut self) -> Result<Option<Context>, ProbeError> {
        let login = self.dial.node.probe_login.clone();
        let (Some(login), Some(accounts)) = (login, self.accounts.get().cloned()) else {
            return Ok(None);
        };
        let reason = match accounts.directory.find(&login).await {
            Ok(account) => match accounts.nodes.home(&account) {
                Ok(home) if home.name == self.dial.node.name => {
                    self.has_warned = false;
                    return context_of(&account).map(Some).ok_or(ProbeError::Undecided);
                }
                Ok(home) => format!("its home is {}", home.name),
                Err(error) => error.to_string(),
            },
            // That is known elsewhere, and passes.
            Err(LookupError::Unavailable(_)) => return Err(ProbeError::Undecided),
            Err(error) => chain(&error),
        };
        self.warn(&login, &reason);
        Ok(None)
    }

    fn warn(&mut self, login: &Login, reason: &str) {
        if std::mem::replace(&mut self.has_warned, true) {
            return;
        }
        tracing::warn!(
            node = %self.dial.node.name,
            login = login.as_str(),
            reason,
            "no probe login: the account of [[nodes.node]] probe_login cannot be used"
        );
    }

    /// A whole session.
    async fn log_in(&self, stream: Stream, ready: Ready, context: &Context) -> Result<(), String> {
        let body = OpenBody::session(context).map_err(|error| chain(&error))?;
        let opened = match self.dial.open_ready(stream, ready, &body).await {
            Ok(opened) => opened,
            // It is the account that may not: everything else works.
            Err(error @ LinkError::Refused(_)) if error.sign() == Sign::Good => return Ok(()),
            Err(error) => return Err(chain(&error)),
        };
        let limit = self.dial.settings.verdict_timeout;
        timeout(limit, converse(opened)).await.unwrap_or_else(|_| {
            Err("the real server did not begin and end the session in time".to_owned())
        })
    }
}

/// Lets in more and more after each outage.
async fn raise(dial: &Dial) {
    loop {
        // First of all one that has begun under another prober.
        while let Some(step) = dial.health.step() {
            sleep(step).await;
            dial.health.widen();
        }
        dial.health.risen().await;
    }
}

/// A session from this process itself.
fn context_of(account: &Account) -> Option<Context> {
    // Real servers take no port 0.
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 143));
    let mut id = [0; 12];
    getrandom::fill(&mut id).ok()?;
    Some(Context {
        account: account.name.clone(),
        session: SessionId::from_random(id),
        client: ClientAddr(here),
        local: LocalAddr(here),
        protocol: Protocol::Imap,
        tls: None,
        uid: account.uid,
        gid: account.gid,
        home: account.home.clone(),
        quota: account.quota,
        hops: 1,
    })
}

/// Reads the opening, says goodbye and waits for the end.
async fn converse(opened: Opened) -> Result<(), String> {
    let mut server = opened.stream;
    let mut reader = Reader::new(&opened.opening);
    let mut input = BytesMut::new();
    loop {
        let step = reader.step(&mut input).map_err(|error| chain(&error))?;
        if matches!(step, Step::Done { .. }) {
            break;
        }
        if !read(&mut server, &mut input).await? {
            return Err("the real server ended the session before it began".to_owned());
        }
    }
    // It may have ended already: what it said tells.
    let _ = say(&mut server, LOGOUT).await;
    while input.len() < MAX_BYTES {
        if !read(&mut server, &mut input).await? {
            break;
        }
    }
    let mut places = input.windows(GOODBYE.len());
    if places.any(|place| place == GOODBYE) {
        Ok(())
    } else {
        Err("the real server did not answer LOGOUT".to_owned())
    }
}

async fn say(server: &mut Stream, octets: &[u8]) -> io::Result<()> {
    server.write_all(octets).await?;
    server.flush().await
}

/// Reads some more; whether there was more.
async fn read(server: &mut Stream, input: &mut BytesMut) -> Result<bool, String> {
    input.reserve(READ_BYTES);
    match server.read_buf(input).await {
        Ok(count) => Ok(count > 0),
        // Under TLS, an end without a goodbye of its own.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(format!("the session broke: {error}")),
    }
}
