//! Driving the conversation before login: reads, writes and TLS for a machine of `proto`.
//!
//! ```text
//! start ─> credentials ─> hand_over ─> (client, server)
//!               ^  └─> deny ─┐
//!               └────────────┘
//! ```
//!
//! Everything up to the last credentials has one deadline; a client that is silent when it passes, or when the process
//! stops, is told so and closed. What a client sent in clear after STARTTLS is dropped unread.
//! Octets that follow the credentials stay here until the real server can have them.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    names::Login,
    net::Stream,
    outcome::{Blame, Failure, Outcome, Report, Stage},
    proto::{
        denial::Denial,
        framing,
        server::Server,
        talk::{Bye, Channel, Closed, Credentials, Event},
    },
};

use super::{
    Cleartext, ListenTls, Listener, Parts, balancer,
    login::{Opened, Seated},
};

/// One read; a login fits, and more than this is never taken from a client before it has logged in.
const READ_BYTES: usize = 4096;
/// How long a last line to a client may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A conversation with a client that is not logged in.
pub(super) struct Talk<'a> {
    parts: &'a Arc<Parts>,
    listener: Listener,
    /// Gone only while TLS is being negotiated, and after that failed.
    stream: Option<Stream>,
    machine: Server,
    input: BytesMut,
    output: BytesMut,
    deadline: Instant,
    /// Octets that the client may still send.
    allowance: usize,
    denied: bool,
}

/// A client that has been told OK and its server, with the octets that each of them had sent early and that have been passed
/// on already.
pub(super) struct Begun {
    pub(super) client: Stream,
    pub(super) server: Stream,
    pub(super) to_client: usize,
    pub(super) to_server: usize,
    /// Says when the session may not go on.
    pub(super) seated: Seated,
}

/// Why a conversation ended without a login.
#[derive(Debug)]
pub(super) struct Over(Outcome);

impl Over {
    /// Another needed its place.
    pub(super) fn shed() -> Self {
        Self(Outcome::Shed)
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.0
    }
}

/// What a password may travel on.
pub(super) fn channel(listener: Listener, client: Option<std::net::IpAddr>) -> Channel {
    Channel {
        encrypted: listener.tls == ListenTls::Implicit,
        starttls: listener.tls == ListenTls::Starttls,
        cleartext: match listener.cleartext {
            Cleartext::Always => true,
            Cleartext::Loopback => client.is_some_and(|client| client.is_loopback()),
            Cleartext::Never => false,
        },
    }
}

fn misbehaved(report: &mut Report, word: &str) {
    report.failure = Some(Failure {
        stage: Stage::Talk,
        blame: Blame::Client,
        denial: Denial::BadCredentials,
        reason: word.to_owned(),
    });
}

impl<'a> Talk<'a> {
    /// Negotiates implicit TLS and greets.
    pub(super) async fn start(
        parts: &'a Arc<Parts>,
        stream: TcpStream,
        listener: Listener,
        report: &mut Report,
    ) -> Result<Self, Over> {
        let deadline = Instant::from_std(report.started) + parts.settings.login_timeout;
        let mut channel = channel(listener, balancer::nearness(report));
        // A balancer's, so far.
        channel.encrypted |= report.tls.is_some();
        let mut talk = Self {
            parts,
            listener,
            stream: None,
            machine: Server::new(listener.protocol, parts.settings.talk, channel),
            input: BytesMut::new(),
            output: BytesMut::new(),
            deadline,
            allowance: parts.settings.max_input,
            denied: false,
        };
        talk.stream = Some(Stream::Tcp(stream));
        if listener.tls == ListenTls::Implicit {
            let certified = talk.negotiate(report).await?;
            talk.machine.certified(certified);
        }
        talk.machine.greet(&mut talk.output);
        Ok(talk)
    }

    /// Talks until the client has given credentials.
    pub(super) async fn credentials(&mut self, report: &mut Report) -> Result<Credentials, Over> {
        loop {
            match self.machine.step(&mut self.input, &mut self.output) {
                Event::More => {
                    self.flush().await?;
                    if self.allowance == 0 {
                        misbehaved(report, "input");
                        return Err(self.farewell(Bye::Input, Outcome::Misbehaved).await);
                    }
                    self.read().await?;
                }
                Event::Credentials(credentials) => {
                    self.flush().await?;
                    return Ok(credentials);
                }
                Event::StartTls => {
                    self.flush().await?;
                    self.input.clear();
                    let certified = self.negotiate(report).await?;
                    self.machine.encrypted();
                    self.machine.certified(certified);
                }
                Event::Close(closed) => {
                    if let Closed::Misbehaved(word) = closed {
                        misbehaved(report, word);
                    }
                    return Err(self.close(closed).await);
                }
            }
        }
    }

    /// Answers the credentials with a denial; the client may try again, or has tried often enough.
    pub(super) async fn deny(&mut self, denial: Denial) -> Result<(), Over> {
        self.denied = true;
        match self.machine.deny(denial, &mut self.output) {
            Some(closed) => Err(self.close(closed).await),
            None => self.flush().await,
        }
    }

    /// Tells the client OK and gives each side what the other has sent already.
    pub(super) async fn hand_over(mut self, mut opened: Opened) -> Result<Begun, Over> {
        let broken = |_| Over(Outcome::Broken);
        self.machine
            .accept(opened.capabilities.as_deref(), &mut self.output);
        self.output.extend_from_slice(&opened.early);
        self.flush().await.map_err(|_| Over(Outcome::Broken))?;
        if self.input.has_remaining() {
            let write = async {
                opened.server.write_all(&self.input).await?;
                opened.server.flush().await
            };
            timeout(self.parts.settings.opening_timeout, write)
                .await
                .map_err(io::Error::from)
                .flatten()
                .map_err(broken)?;
        }
        let client = self.stream.take().ok_or(Over(Outcome::Broken))?;
        Ok(Begun {
            client,
            server: opened.server,
            to_client: opened.early.len(),
            to_server: self.input.len(),
            seated: opened.seated,
        })
    }

    /// Negotiates TLS; gives the login that the client's certificate stands for.
    async fn negotiate(&mut self, report: &mut Report) -> Result<Option<Login>, Over> {
        let (Some(tls), Some(Stream::Tcp(stream))) = (&self.parts.tls, self.stream.take()) else {
            return Err(Over(Outcome::Tls));
        };
        // STARTTLS buys no time: the deadline is that of all that comes before a login.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = self.parts.settings.tls_timeout.min(left);
        let started = std::time::Instant::now();
        match tls.accept(self.listener.oldest, stream, limit).await {
            Ok((stream, agreed, certified)) => {
                self.parts.took(Stage::Tls.as_str(), started);
                report.tls = Some(agreed);
                self.stream = Some(Stream::TlsServer(Box::new(stream)));
                Ok(certified)
            }
            Err(error) => {
                tracing::debug!(session = %report.session, client = %report.client, %error, "tls failed");
                report.failure = Some(Failure {
                    stage: Stage::Tls,
                    blame: Blame::Client,
                    denial: Denial::PrivacyRequired,
                    reason: error.to_string(),
                });
                Err(Over(Outcome::Tls))
            }
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        let Some(stream) = &mut self.stream else {
            return Err(Over(Outcome::Tls));
        };
        self.input.reserve(READ_BYTES);
        let read = tokio::select! {
            read = timeout_at(self.deadline, stream.read_buf(&mut self.input)) => read,
            () = self.parts.tasks.stopped() => return Err(self.farewell(Bye::Shutdown, Outcome::Cut).await),
        };
        match read {
            Ok(Ok(0) | Err(_)) => Err(Over(self.left())),
            Ok(Ok(octets)) => {
                self.allowance = self.allowance.saturating_sub(octets);
                Ok(())
            }
            Err(_) => Err(self.farewell(Bye::Idle, Outcome::Slow).await),
        }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        let Some(stream) = &mut self.stream else {
            return Err(Over(Outcome::Tls));
        };
        // A client that never reads must not outlive the deadline; one that was just let in has a little more.
        let deadline = self.deadline.max(Instant::now() + LAST_WORDS);
        let write = async {
            stream.write_all_buf(&mut self.output).await?;
            stream.flush().await
        };
        match timeout_at(deadline, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over(self.left())),
            Err(_) => Err(Over(Outcome::Slow)),
        }
    }

    /// Says the last words that the machine has written, and closes.
    async fn close(&mut self, closed: Closed) -> Over {
        let outcome = match closed {
            Closed::Logout => self.left(),
            Closed::Misbehaved(_) => Outcome::Misbehaved,
            Closed::Attempts => Outcome::Denied,
        };
        self.last_words().await;
        Over(outcome)
    }

    async fn farewell(&mut self, bye: Bye, outcome: Outcome) -> Over {
        self.machine.bye(bye, &mut self.output);
        self.last_words().await;
        Over(outcome)
    }

    async fn last_words(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let input = &mut self.input;
        let farewell = async {
            stream.write_all_buf(&mut self.output).await?;
            stream.shutdown().await?;
            // A socket that is closed with octets unread resets the connection, and the reset can overtake our words.
            loop {
                framing::consume(input, usize::MAX);
                input.reserve(READ_BYTES);
                if stream.read_buf(input).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // Whether the client still listens is its own affair.
        let _ = timeout(LAST_WORDS, farewell).await;
        framing::consume(&mut self.input, usize::MAX);
    }

    fn left(&self) -> Outcome {
        if self.denied {
            Outcome::Denied
        } else {
            Outcome::Left
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::Protocol, net::tls::Oldest, proxy::ProxyProtocol};

    #[test]
    fn passwords_in_clear_are_a_matter_of_listener_and_client() {
        let near = Some("127.0.0.9".parse().unwrap());
        let near6 = Some("::1".parse().unwrap());
        let far = Some("192.0.2.1".parse().unwrap());
        for (cleartext, client, allowed) in [
            (Cleartext::Always, far, true),
            (Cleartext::Always, near, true),
            (Cleartext::Loopback, far, false),
            (Cleartext::Loopback, near, true),
            (Cleartext::Loopback, near6, true),
            (Cleartext::Loopback, None, false),
            (Cleartext::Never, near, false),
            (Cleartext::Never, far, false),
        ] {
            for tls in [ListenTls::Implicit, ListenTls::Off, ListenTls::Starttls] {
                let listener = Listener {
                    address: "127.0.0.1:143".parse().unwrap(),
                    protocol: Protocol::Imap,
                    tls,
                    oldest: Oldest::default(),
                    cleartext,
                    proxy_protocol: ProxyProtocol::Off,
                };
                let channel = channel(listener, client);
                assert_eq!(channel.cleartext, allowed, "{cleartext:?} {client:?}");
                assert_eq!(channel.encrypted, tls == ListenTls::Implicit);
                assert_eq!(channel.starttls, tls == ListenTls::Starttls);
            }
        }
    }
}
