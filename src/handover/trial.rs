//! The self-test at start: is the real server there, and can it do what is configured?
//!
//! Each kind is tried once, in the background: by its socket, by starting the command, or by what a server of the kind `login`
//! says before a login:
//!
//! | the server | then |
//! | --- | --- |
//! | cannot be connected to, greets with a refusal | it may start later |
//! | says nothing | it may wait for a PROXY header, or not take ours |
//! | answers the PROXY header as if it were commands | `proxy_protocol` is wrong; Cyrus takes the header from 3.12 on |
//! | is Courier, and there is a master user | no session will be handed to it |
//! | does not offer PLAIN | logins may fail |
//!
//! It drives [`proto::survey`](crate::proto::survey), with the deadline that a hand-over has. Nobody is logged in: the
//! password is tried by the first session. Each error says what to change.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::{
    Kind, Refused, Settings,
    exec::{self, Spawner},
    imap_master,
    login::{LoginSettings, connect, read},
    version,
};
use crate::{
    names::Protocol,
    outcome::chain,
    proto::{
        proxy_header,
        survey::{Client, Step, Survey, SurveyError},
    },
};

/// What is wrong with a real server, or with what is configured for it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// It takes a PROXY header for commands.
    #[error("the server takes no PROXY header, set proxy_protocol = \"off\"{}", cyrus(.greeting))]
    Header {
        greeting: String,
        #[source]
        source: SurveyError,
    },
    /// It would give every account the master user's mailbox.
    #[error(
        "the server is Courier, which takes no master user: remove master_user, the password has to open every account"
    )]
    Identity,
    /// It does not offer PLAIN.
    #[error(
        "the server does not offer the mechanism PLAIN (IMAP: AUTH=PLAIN, POP3: SASL PLAIN), logins may fail: \"{0}\""
    )]
    Plain(String),
    /// There is no connection to it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It says nothing before the deadline, or before it closes.
    #[error("{}", silence(*.is_proxy))]
    Silent {
        is_proxy: bool,
        #[source]
        source: Refused,
    },
    /// It serves nobody now, or is something else.
    #[error("the server is not what it should be")]
    Survey(#[from] SurveyError),
}

impl TrialError {
    /// Whether no session will ever succeed with this configuration.
    pub(super) const fn is_misconfiguration(&self) -> bool {
        matches!(self, Self::Header { .. } | Self::Identity)
    }
}

/// What the version in its greeting explains.
fn cyrus(greeting: &str) -> String {
    match version::old_cyrus(greeting) {
        Some(version) => {
            format!(": Cyrus takes it from 3.12 on (imapd -H, pop3d -H), and this is {version}")
        }
        None => String::new(),
    }
}

const fn silence(is_proxy: bool) -> &'static str {
    if is_proxy {
        "the server says nothing after the PROXY header: it may wait for none, for the other version, or not take it from this machine"
    } else {
        "the server says nothing: if it waits for a PROXY header, set proxy_protocol"
    }
}

/// Says whether the real server is there, and what is wrong with what is configured for it.
pub(super) async fn report(protocol: Protocol, settings: Arc<Settings>, spawner: Option<Spawner>) {
    let (service, limit) = (protocol.service(), settings.timeout);
    let Some(kind) = settings.kind(service) else {
        return;
    };
    let result = match (kind, &spawner) {
        (Kind::DovecotImapMaster { socket }, _) => {
            let tried = timeout(limit, imap_master::try_connect(socket)).await;
            nameless(tried.unwrap_or(Err(Refused::Timeout)))
        }
        (Kind::Login(settings), _) => run(protocol, settings, limit).await,
        // It keeps the limit itself, since it has to tidy up after it.
        (Kind::Exec(exec), Some(spawner)) => {
            nameless(exec::try_once(protocol, exec, spawner, &settings.bounds, limit).await)
        }
        (Kind::Exec(_), None) => nameless(Err(Refused::Service(service))),
    };
    let (protocol, kind) = (protocol.as_str(), kind.as_str());
    match result {
        Ok(server) => tracing::info!(protocol, kind, server, "real server answers"),
        Err(error) if error.is_misconfiguration() => {
            let error = chain(&error);
            tracing::error!(protocol, kind, %error, "real server can't do what is configured");
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(protocol, kind, %error, "real server may not be ready");
        }
    }
}

/// A trial of a kind whose server does not say what it is.
fn nameless(tried: Result<(), Refused>) -> Result<String, TrialError> {
    tried.map(|()| String::new()).map_err(TrialError::Refused)
}

/// Tries the server of a `login`: its greeting.
pub(super) async fn run(
    protocol: Protocol,
    settings: &LoginSettings,
    limit: Duration,
) -> Result<String, TrialError> {
    let is_proxy = settings.proxy_header.is_some();
    let tried = timeout(limit, survey(protocol, settings)).await;
    match tried.unwrap_or(Err(TrialError::Refused(Refused::Timeout))) {
        Ok(survey) if survey.is_courier && settings.user.is_some() => Err(TrialError::Identity),
        Ok(survey) if !survey.offers_plain => Err(TrialError::Plain(survey.greeting)),
        Ok(survey) => Ok(survey.greeting),
        Err(TrialError::Survey(source)) => match &source {
            SurveyError::Answer { greeting, .. } if is_proxy => Err(TrialError::Header {
                greeting: greeting.clone(),
                source,
            }),
            // A POP3 server without CAPA.
            SurveyError::Answer { greeting, .. } if protocol == Protocol::Pop3 => {
                Err(TrialError::Plain(greeting.clone()))
            }
            SurveyError::Answer { .. } | SurveyError::Greeting(_) | SurveyError::Reply(_) => {
                Err(source.into())
            }
        },
        Err(TrialError::Refused(source @ (Refused::Server(_) | Refused::Timeout))) => {
            Err(TrialError::Silent { is_proxy, source })
        }
        Err(error) => Err(error),
    }
}

async fn survey(protocol: Protocol, settings: &LoginSettings) -> Result<Survey, TrialError> {
    let mut server = connect(&settings.server).await?;
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let written = |result: io::Result<()>| result.map_err(Refused::Server);
    if let Some(version) = settings.proxy_header {
        proxy_header::put_own(version, &mut out);
        written(server.write_all(&out).await)?;
    }
    let mut client = Client::new(protocol);
    loop {
        read(&mut server, &mut input).await?;
        out.clear();
        let step = client.step(&mut input, &mut out)?;
        let sent = server.write_all(&out).await;
        if let Step::Done(survey) = step {
            // Whether it hears our good-bye is nothing to us.
            return Ok(survey);
        }
        written(sent)?;
    }
}
