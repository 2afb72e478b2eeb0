//! The kind `login`: connect to the real server, log in on behalf of the account, and leave two streams to relay between.
//!
//! It drives [`proto::login`](crate::proto::login) or, for POP3, [`proto::pop3::login`](crate::proto::pop3::login). A
//! server that expects the header of the PROXY protocol gets it before anything else. No deadline is set here (the
//! caller's covers all of it), and the link is not touched. On failure the connection to the real server is closed.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Refused;
use crate::{
    names::Service,
    net::{self, Address, Stream},
    proto::{
        encode::{self, ClientId},
        link::Context,
        login::{self, LoginError, Step},
        pop3,
        proxy_header::{self, ProxyHeader},
    },
    secret::Secret,
};

/// Room for one read; a login has about 2 KiB.
const READ_BYTES: usize = 4096;

/// Proxies that a session may pass; Dovecot's own number.
const PROXY_TTL: u8 = 5;

/// How to log in at the real server.
#[derive(Clone, Debug)]
pub struct LoginSettings {
    /// Where it listens.
    pub server: Address,
    /// The master user, who may act as any account; none: the password opens every account itself.
    pub user: Option<String>,
    /// Its password.
    pub password: Secret,
    /// What it wants to read first, if anything.
    pub proxy_header: Option<proxy_header::Version>,
}

/// A session at the real server.
#[derive(Debug)]
pub(super) struct LoggedIn {
    pub(super) server: Stream,
    /// The session's capability list; empty for POP3.
    pub(super) capabilities: String,
    /// What the server said past its login.
    pub(super) pending: Bytes,
}

/// What is on its way to the real server, the password among it: wiped however the login ends.
struct Output(BytesMut);

impl Drop for Output {
    fn drop(&mut self) {
        encode::wipe(&mut self.0);
    }
}

/// The client half of one protocol.
#[derive(Debug)]
enum Client {
    Imap(login::Client),
    Pop3(pop3::login::Client),
}

impl Client {
    fn step(&mut self, input: &mut BytesMut, out: &mut BytesMut) -> Result<Step, LoginError> {
        match self {
            Self::Imap(client) => client.step(input, out),
            Self::Pop3(client) => client.step(input, out),
        }
    }
}

/// Connects to the real server.
pub(super) async fn connect(server: &Address) -> Result<Stream, Refused> {
    net::connect(server)
        .await
        .map_err(|source| Refused::Connect {
            server: server.clone(),
            source,
        })
}

/// Connects and logs in on behalf of the context's account.
pub(super) async fn start(
    service: Service,
    settings: &LoginSettings,
    context: &Context,
    home: &str,
) -> Result<LoggedIn, Refused> {
    let LoginSettings {
        server,
        user,
        password,
        proxy_header,
    } = settings;
    let id = ClientId {
        client: context.client,
        local: context.local,
        session: &context.session,
        ttl: PROXY_TTL.saturating_sub(context.hops).max(1),
        uid: context.uid,
        gid: context.gid,
        home,
    };
    let (account, user) = (&context.account, user.as_deref());
    let client = match service {
        Service::Imap => Client::Imap(login::Client::new(account, user, password, &id)?),
        Service::Pop3 => Client::Pop3(pop3::login::Client::new(account, user, password, &id)),
        Service::Mailstore => return Err(Refused::Service(service)),
    };
    let mut server = connect(server).await?;
    if let Some(version) = *proxy_header {
        let mut out = BytesMut::new();
        let header = ProxyHeader {
            client: context.client,
            local: context.local,
            session: &context.session,
            tls: context.tls.as_ref(),
        };
        header.put(version, &mut out);
        server.write_all(&out).await.map_err(Refused::Server)?;
    }
    log_in(server, client).await
}

async fn log_in(mut server: Stream, mut client: Client) -> Result<LoggedIn, Refused> {
    let mut input = BytesMut::new();
    loop {
        read(&mut server, &mut input).await?;
        let mut out = Output(BytesMut::new());
        let step = client
            .step(&mut input, &mut out.0)
            .map_err(Refused::Login)?;
        server.write_all(&out.0).await.map_err(Refused::Server)?;
        if let Step::Done { capabilities } = step {
            return Ok(LoggedIn {
                server,
                capabilities,
                pending: input.freeze(),
            });
        }
    }
}

/// Reads once.
pub(super) async fn read(server: &mut Stream, input: &mut BytesMut) -> Result<(), Refused> {
    input.reserve(READ_BYTES);
    match server.read_buf(input).await {
        Ok(0) => Err(Refused::Server(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(()),
        Err(error) => Err(Refused::Server(error)),
    }
}
