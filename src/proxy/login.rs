//! From credentials to an open session on the home node.
//!
//! Each step either gives the next one what it needs or a [`Failure`] that says whose doing it was: a node that is away
//! is never a wrong password, and a wrong password is never "try later".
//!
//! An account that nobody can verify a password of, since its entry is broken or two match, is the one exception: nobody is told that
//! a password is wrong which may be right, so all hear "try later"; but no sooner than a wrong one would be answered, and it
//! counts as one. So nothing is gained by trying, and whoever tries on is held.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use prometheus::HistogramTimer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    defence::{Failed, Guest, Held, Try},
    directory::{Account, Admitted, Directory, LookupError, Visit, Watch, Wrong},
    link,
    names::Login,
    net::Stream,
    nodes::Node,
    outcome::{Blame, Failure, Outcome, Report, Stage, chain},
    policy::{Attempt, Finding, Policy, Verdict},
    proto::{
        denial::Denial,
        link::{Context, Refusal, context::ClientTls},
        opening::{OpeningError, Reader, Step},
        talk::{Credentials, Mechanism},
    },
    sessions::{Entered, Seat, Who},
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
    pub(super) seated: Seated,
}

/// A session that is listed, from the right password on, and has an ear for who ends it.
pub(super) struct Seated {
    pub(super) watch: Watch,
    _entered: Entered,
}

/// Stands behind the reason of a failure that is not counted; fail2ban's filter passes over such lines.
const AGAIN: &str = ", the same password again";

/// Why there is no session.
pub(super) struct Denied {
    pub(super) failure: Failure,
    /// When the client hears of it, counted from the arrival of its credentials.
    pub(super) after: Duration,
}

impl From<Failure> for Denied {
    fn from(failure: Failure) -> Self {
        let after = Duration::ZERO;
        Self { failure, after }
    }
}

/// Authenticates, resolves the home, opens the link and waits for the real server.
pub(super) async fn open_session(
    parts: &Parts,
    credentials: &Credentials,
    report: &mut Report,
    guest: &mut Guest,
) -> Result<Opened, Denied> {
    report.login = Some(credentials.login.clone());
    report.mechanism = Some(credentials.mechanism);
    // What an earlier try found is not this one's.
    (report.account, report.node) = (None, None);
    let visit = Visit {
        protocol: report.protocol,
        client: report.client.0.ip(),
    };
    let Admitted { account, watch } =
        authenticate(parts, credentials, visit, report, guest).await?;
    report.account = Some(account.name.clone());
    let node = parts.nodes.home(&account).map_err(|error| Failure {
        stage: Stage::Resolve,
        blame: Blame::Directory,
        denial: Denial::Unavailable,
        reason: error.to_string(),
    })?;
    report.node = Some(node.name.clone());
    let seat = Arc::clone(watch.seat());
    let seated = sit_down(parts, watch, &account, &node, report);
    permit(parts, &account, &node)?;
    let context = context(&account, report);
    let opened = async {
        let opened = open_link(parts, &node, &context).await?;
        read_opening(parts, opened, seated).await
    };
    tokio::select! {
        // First, so that nobody is let in whose end was told.
        biased;
        () = seat.ended() => Err(ended(&seat).into()),
        opened = opened => Ok(opened?),
    }
}

/// Who is ended before the session has begun has none.
fn ended(seat: &Seat) -> Failure {
    let why = seat.why();
    let is_ordered = why.is_some_and(|why| why.outcome() == Outcome::Kicked);
    Failure {
        stage: Stage::Opening,
        blame: if is_ordered {
            Blame::Administrator
        } else {
            Blame::Directory
        },
        denial: Denial::Unavailable,
        reason: why.map(|why| why.to_string()).unwrap_or_default(),
    }
}

/// Lists the session. It is not served yet, but whoever ends sessions must not miss it.
fn sit_down(
    parts: &Parts,
    watch: Watch,
    account: &Account,
    node: &Node,
    report: &Report,
) -> Seated {
    let who = Who {
        session: report.session.clone(),
        account: account.name.clone(),
        protocol: report.protocol,
        client: report.client.0,
        has_tls: report.tls.is_some(),
        node: node.name.clone(),
        since: Timestamp::now(),
    };
    Seated {
        _entered: parts.sessions.enter(watch.seat(), who),
        watch,
    }
}

/// Sends whoever may not be on for now away to come later.
///
/// Only now, when the password was right: who guesses hears of a held account what he hears of all others, and his failures are
/// counted as theirs.
fn permit(parts: &Parts, account: &Account, node: &Node) -> Result<(), Failure> {
    let permitted = parts.orders.check(&account.name, &node.name);
    permitted.map_err(|forbidden| Failure {
        stage: Stage::Resolve,
        blame: Blame::Administrator,
        denial: Denial::Unavailable,
        reason: forbidden.to_string(),
    })
}

/// Starts the clock of a stage; it stops when dropped.
fn timer(parts: &Parts, stage: Stage) -> HistogramTimer {
    parts
        .metrics
        .stage_seconds
        .with_label_values(&[stage.as_str()])
        .start_timer()
}

/// Waits for as long as the policy server wants; fails if it refuses.
async fn permitted(
    parts: &Parts,
    policy: &Policy,
    attempt: &Attempt<'_>,
    guest: &mut Guest,
) -> Result<(), Denied> {
    let timer = timer(parts, Stage::Policy);
    let verdict = policy.allow(attempt).await;
    drop(timer);
    let mut after = Duration::ZERO;
    let (blame, denial, why) = match verdict {
        Verdict::Accept => return Ok(()),
        Verdict::Tarpit(wait) => {
            guest.waits();
            tokio::select! {
                () = tokio::time::sleep(wait) => {
                    if guest.starts_login().is_err() {
                        // Sent away: whoever drives us hears of it as well, and drops this.
                        std::future::pending::<()>().await;
                    }
                    return Ok(());
                }
                () = parts.tasks.stopped() => {
                    (Blame::Local, Denial::Unavailable, "stopped while it had to wait".to_owned())
                }
            }
        }
        Verdict::Reject(why) => {
            policy.report(attempt, Finding::Rejected);
            after = parts.defence.hold_delay();
            (Blame::Client, Denial::BadCredentials, why)
        }
        Verdict::Unknown(why) => (Blame::Policy, Denial::Unavailable, why),
    };
    let failure = Failure {
        stage: Stage::Policy,
        blame,
        denial,
        reason: format!("policy: {why}"),
    };
    Err(Denied { failure, after })
}

async fn authenticate(
    parts: &Parts,
    credentials: &Credentials,
    visit: Visit,
    report: &Report,
    guest: &mut Guest,
) -> Result<Admitted, Denied> {
    let admitted = verify(parts, credentials, visit, report, guest).await?;
    let authorized = match &credentials.authorize {
        None => true,
        Some(same) if *same == credentials.login => true,
        Some(other) => match parts.directory.find(other).await {
            Ok(found) => found.name == admitted.account.name,
            Err(error @ LookupError::Unavailable(_)) => return Err(lookup_failure(&error).into()),
            // Whatever is the matter with it: it is not for others to know.
            Err(_) => false,
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
    }
    .into())
}

/// Asks the policy server and the directory, unless too many have failed before, and counts what the directory says.
async fn verify(
    parts: &Parts,
    credentials: &Credentials,
    visit: Visit,
    report: &Report,
    guest: &mut Guest,
) -> Result<Admitted, Denied> {
    let Parts {
        defence, directory, ..
    } = parts;
    let Credentials {
        login, password, ..
    } = credentials;
    if credentials.mechanism == Mechanism::External {
        return certified(parts, login, visit).await;
    }
    let held = |held| self::held(parts, held);
    let tried = defence.begin(visit.client, login.as_str());
    let mut tried = tried.map_err(held)?;
    let attempt = Attempt {
        login,
        password,
        client: visit.client,
        protocol: visit.protocol,
        session: &report.session,
        tls: report.tls.is_some(),
    };
    if let Some(policy) = &parts.policy {
        // On the heap: every session's task would have room for it, and few ask.
        Box::pin(permitted(parts, policy, &attempt, guest)).await?;
    }
    let timer = timer(parts, Stage::Authenticate);
    let answer = directory.authenticate(login, password, visit).await;
    drop(timer);
    let (finding, settled) = settle(directory, credentials, &mut tried, answer).await;
    let Some(finding) = finding else {
        return Ok(settled?);
    };
    tell(parts, &attempt, finding);
    if finding == Finding::Right {
        tried.succeeded();
        return Ok(settled?);
    }
    settled.map_err(|mut failure| {
        let Failed { after, is_repeated } = tried.failed(password);
        if is_repeated {
            failure.reason += AGAIN;
        }
        Denied { failure, after }
    })
}

fn tell(parts: &Parts, attempt: &Attempt<'_>, finding: Finding) {
    if let Some(policy) = &parts.policy {
        policy.report(attempt, finding);
    }
}

/// Finds out whose login it was, and lets nobody in for whom it is too late; and what the try is taken for: nothing while the
/// directory is away.
async fn settle(
    directory: &Directory,
    credentials: &Credentials,
    tried: &mut Try<'_>,
    answer: Result<Admitted, LookupError>,
) -> (Option<Finding>, Result<Admitted, Failure>) {
    let account = match &answer {
        Ok(admitted) => Some(Arc::clone(&admitted.account)),
        Err(LookupError::Ambiguous | LookupError::Unavailable(_))
        | Err(LookupError::Wrong(Wrong::Unknown)) => None,
        Err(_) => directory.find(&credentials.login).await.ok(),
    };
    if let Some(account) = account {
        tried.is_of(account.name.as_str());
    }
    let finding = match &answer {
        Ok(_) | Err(LookupError::NotNow(_)) => Some(Finding::Right),
        Err(LookupError::Ambiguous | LookupError::Entry(_) | LookupError::Wrong(_)) => {
            Some(Finding::Wrong)
        }
        Err(LookupError::Unavailable(_)) => None,
    };
    if finding == Some(Finding::Right) && tried.is_too_late() {
        // Whoever has guessed it hears what he has heard of the others.
        let failure = Failure {
            stage: Stage::Authenticate,
            blame: Blame::Client,
            denial: Denial::BadCredentials,
            reason: "right, but too many logins of this account have failed".to_owned(),
        };
        return (Some(Finding::Wrong), Err(failure));
    }
    (finding, answer.map_err(|error| lookup_failure(&error)))
}

/// Nothing was guessed: the name stands in a certificate that was verified.
async fn certified(parts: &Parts, login: &Login, visit: Visit) -> Result<Admitted, Denied> {
    let _timer = timer(parts, Stage::Authenticate);
    let admitted = parts.directory.admit(login, visit).await;
    admitted.map_err(|error| {
        let failure = lookup_failure(&error);
        let is_wrong = failure.denial == Denial::BadCredentials;
        let after = if is_wrong {
            parts.defence.hold_delay()
        } else {
            Duration::ZERO
        };
        Denied { failure, after }
    })
}

/// For a login that is not tried, or that is not let in whatever came of it.
fn held(parts: &Parts, held: Held) -> Denied {
    Denied {
        failure: Failure {
            stage: Stage::Authenticate,
            blame: Blame::Client,
            denial: Denial::Held,
            reason: held.to_string(),
        },
        after: parts.defence.hold_delay(),
    }
}

fn lookup_failure(error: &LookupError) -> Failure {
    let (blame, denial) = match error {
        LookupError::Wrong(_) => (Blame::Client, Denial::BadCredentials),
        LookupError::Ambiguous | LookupError::Entry(_) | LookupError::NotNow(_) => {
            (Blame::Entry, Denial::Unavailable)
        }
        LookupError::Unavailable(_) => (Blame::Directory, Denial::Unavailable),
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
    let seconds = &parts.metrics.node_open_seconds;
    let open = seconds
        .with_label_values(&[node.name.as_str()])
        .start_timer();
    let opened = parts.dialer.open(node, context).await;
    // How long a node that does not answer is waited for says nothing about how fast it is.
    match &opened {
        Ok(_) => open.observe_duration(),
        Err(_) => drop(open.stop_and_discard()),
    }
    opened.map_err(|error| Failure {
        stage: Stage::Link,
        blame: error.blame(),
        denial: error.denial(),
        reason: chain(&error),
    })
}

async fn read_opening(
    parts: &Parts,
    opened: link::Opened,
    seated: Seated,
) -> Result<Opened, Failure> {
    let _timer = timer(parts, Stage::Opening);
    let failed = |reason: String| Failure {
        stage: Stage::Opening,
        blame: Blame::Node,
        denial: Denial::Unavailable,
        reason,
    };
    match timeout(parts.settings.opening_timeout, opening(opened, seated)).await {
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

async fn opening(opened: link::Opened, seated: Seated) -> Result<Opened, OpeningFailure> {
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
                    seated,
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
