//! From credentials to an open session on the home node.
//!
//! Each step either gives the next one what it needs or a [`Failure`] that says whose doing it was: a node that is away
//! is never a wrong password, and a wrong password is never "try later".

use bytes::{Bytes, BytesMut};
use prometheus::HistogramTimer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    directory::{Account, Admitted, LookupError, Visit, Watch},
    link,
    net::Stream,
    nodes::Node,
    outcome::{Blame, Failure, Report, Stage, chain},
    policy::{Attempt, Finding, Policy, Verdict},
    proto::{
        denial::Denial,
        link::{Context, Refusal, context::ClientTls},
        opening::{OpeningError, Reader, Step},
        talk::Credentials,
    },
};

use super::Parts;

/// One read of the opening: a greeting with its capabilities fits.
const READ_BYTES: usize = 4096;

/// A session that the real server has begun.
pub(super) struct Opened {
    /// Leads to the real server.
    pub(super) server: Stream,
    /// What this very session can do.
    pub(super) capabilities: Option<String>,
    /// What the server said after its opening: the client's, right after its OK.
    pub(super) early: Bytes,
    /// Says when the session may not go on.
    pub(super) watch: Watch,
}

/// Authenticates, resolves the home, opens the link and waits for the real server.
pub(super) async fn open_session(
    parts: &Parts,
    credentials: &Credentials,
    report: &mut Report,
) -> Result<Opened, Failure> {
    report.login = Some(credentials.login.clone());
    report.mechanism = Some(credentials.mechanism);
    // What an earlier try found is not this one's.
    (report.account, report.node) = (None, None);
    let visit = Visit {
        protocol: report.protocol,
        client: report.client.0.ip(),
    };
    let Admitted { account, watch } = match &parts.policy {
        None => authenticate(parts, credentials, visit).await?,
        Some(policy) => judged(parts, policy, credentials, visit, report).await?,
    };
    report.account = Some(account.name.clone());
    let node = parts.nodes.home(&account).map_err(|error| Failure {
        stage: Stage::Resolve,
        blame: Blame::Directory,
        denial: Denial::Unavailable,
        reason: error.to_string(),
    })?;
    report.node = Some(node.name.clone());
    let opened = open_link(parts, &node, &context(&account, report)).await?;
    read_opening(parts, opened, watch).await
}

/// Starts the clock of a stage; it stops when dropped.
fn timer(parts: &Parts, stage: Stage) -> HistogramTimer {
    parts
        .metrics
        .stage_seconds
        .with_label_values(&[stage.as_str()])
        .start_timer()
}

/// Authenticates whom the policy server does not refuse, and tells it what came of it.
async fn judged(
    parts: &Parts,
    policy: &Policy,
    credentials: &Credentials,
    visit: Visit,
    report: &Report,
) -> Result<Admitted, Failure> {
    let attempt = Attempt {
        login: &credentials.login,
        password: &credentials.password,
        client: visit.client,
        protocol: visit.protocol,
        session: &report.session,
        tls: report.tls.is_some(),
    };
    // On the heap: every session's task would have room for it, and few ask.
    Box::pin(permitted(parts, policy, &attempt)).await?;
    let admitted = authenticate(parts, credentials, visit).await;
    match &admitted {
        Ok(_) => policy.report(&attempt, Finding::Right),
        Err(failure) if failure.blame == Blame::Client => {
            policy.report(&attempt, Finding::Wrong);
        }
        // Nobody knows whether it was right.
        Err(_) => {}
    }
    admitted
}

/// Waits for as long as the policy server wants; fails if it refuses.
async fn permitted(parts: &Parts, policy: &Policy, attempt: &Attempt<'_>) -> Result<(), Failure> {
    let timer = timer(parts, Stage::Policy);
    let verdict = policy.allow(attempt).await;
    drop(timer);
    let (blame, denial, why) = match verdict {
        Verdict::Accept => return Ok(()),
        Verdict::Tarpit(wait) => tokio::select! {
            () = tokio::time::sleep(wait) => return Ok(()),
            () = parts.tasks.stopped() => {
                (Blame::Local, Denial::Unavailable, "stopped while it had to wait".to_owned())
            }
        },
        Verdict::Reject(why) => {
            policy.report(attempt, Finding::Rejected);
            (Blame::Client, Denial::BadCredentials, why)
        }
        Verdict::Unknown(why) => (Blame::Policy, Denial::Unavailable, why),
    };
    Err(Failure {
        stage: Stage::Policy,
        blame,
        denial,
        reason: format!("policy: {why}"),
    })
}

async fn authenticate(
    parts: &Parts,
    credentials: &Credentials,
    visit: Visit,
) -> Result<Admitted, Failure> {
    let _timer = timer(parts, Stage::Authenticate);
    let admitted = parts
        .directory
        .authenticate(&credentials.login, &credentials.password, visit)
        .await
        .map_err(|error| lookup_failure(&error))?;
    let authorized = match &credentials.authorize {
        None => true,
        Some(same) if *same == credentials.login => true,
        Some(other) => match parts.directory.find(other).await {
            Ok(found) => found.name == admitted.account.name,
            Err(LookupError::Wrong(_)) => false,
            Err(error) => return Err(lookup_failure(&error)),
        },
    };
    if authorized {
        return Ok(admitted);
    }
    Err(Failure {
        stage: Stage::Authenticate,
        blame: Blame::Client,
        denial: Denial::AuthorizationFailed,
        reason: "the authorization identity is not the same account".to_owned(),
    })
}

fn lookup_failure(error: &LookupError) -> Failure {
    let (blame, denial) = match error {
        LookupError::Wrong(_) => (Blame::Client, Denial::BadCredentials),
        LookupError::Ambiguous | LookupError::Entry(_) | LookupError::Unavailable(_) => {
            (Blame::Directory, Denial::Unavailable)
        }
    };
    Failure {
        stage: Stage::Authenticate,
        blame,
        denial,
        reason: chain(error),
    }
}

fn context(account: &Account, report: &Report) -> Context {
    Context {
        account: account.name.clone(),
        session: report.session.clone(),
        client: report.client,
        local: report.local,
        protocol: report.protocol,
        tls: report.tls.as_ref().map(|tls| ClientTls {
            version: tls.version.to_owned(),
            cipher: tls.cipher.clone(),
        }),
        uid: account.uid,
        gid: account.gid,
        home: account.home.clone(),
        quota: account.quota,
        hops: 1,
    }
}

async fn open_link(parts: &Parts, node: &Node, context: &Context) -> Result<link::Opened, Failure> {
    let _timer = timer(parts, Stage::Link);
    parts
        .dialer
        .open(node, context)
        .await
        .map_err(|error| Failure {
            stage: Stage::Link,
            blame: error.blame(),
            denial: error.denial(),
            reason: chain(&error),
        })
}

async fn read_opening(
    parts: &Parts,
    opened: link::Opened,
    watch: Watch,
) -> Result<Opened, Failure> {
    let _timer = timer(parts, Stage::Opening);
    let failed = |reason: String| Failure {
        stage: Stage::Opening,
        blame: Blame::Node,
        denial: Denial::Unavailable,
        reason,
    };
    match timeout(parts.settings.opening_timeout, opening(opened, watch)).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(OpeningFailure::Io(error))) => Err(failed(format!(
            "the session broke before it began: {error}"
        ))),
        Ok(Err(OpeningFailure::Ended)) => Err(failed(
            "the real server ended the session before it began".to_owned(),
        )),
        Ok(Err(OpeningFailure::Protocol(error))) => {
            let mut failure = failed(chain(&error));
            if let OpeningError::Refused { refusal, .. } = error {
                failure.denial = Denial::of(refusal);
                if matches!(refusal, Refusal::InUse | Refusal::Limit) {
                    failure.blame = Blame::Client;
                }
            }
            Err(failure)
        }
        Err(_) => Err(failed(
            "the real server did not open the session in time".to_owned(),
        )),
    }
}

enum OpeningFailure {
    Ended,
    Io(std::io::Error),
    Protocol(OpeningError),
}

async fn opening(opened: link::Opened, watch: Watch) -> Result<Opened, OpeningFailure> {
    let mut server = opened.stream;
    let mut reader = Reader::new(&opened.opening);
    let mut input = BytesMut::new();
    server
        .write_all(reader.ask())
        .await
        .map_err(OpeningFailure::Io)?;
    server.flush().await.map_err(OpeningFailure::Io)?;
    loop {
        match reader.step(&mut input).map_err(OpeningFailure::Protocol)? {
            Step::Done { capabilities } => {
                return Ok(Opened {
                    server,
                    capabilities,
                    early: input.freeze(),
                    watch,
                });
            }
            Step::More => {
                input.reserve(READ_BYTES);
                if server
                    .read_buf(&mut input)
                    .await
                    .map_err(OpeningFailure::Io)?
                    == 0
                {
                    return Err(OpeningFailure::Ended);
                }
            }
        }
    }
}
