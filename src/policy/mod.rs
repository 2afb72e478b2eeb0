//! Asking a policy server whether a login may be tried, and telling it what came of it.
//!
//! The server is a program of the administrator's that counts and decides (weakforced, or anything else that speaks HTTP); the
//! questions are those of Dovecot's authentication policy, so that what serves Dovecot serves us: `POST URL?command=allow`
//! before a password is looked at, `POST URL?command=report` after, each with an object in JSON (`request`).
//!
//! ```text
//! allow:  login -> is it away? -> connection -> answer -> accept, tarpit (so many seconds), reject
//! report: login -> is it away? -> a task of its own, for which no login waits
//! ```
//!
//! It sleeps for nobody: who is told to wait, waits by himself. It never sees a password but to hash it with the login and a
//! nonce, and of that hash a few bits leave, too few to find the password by.
//!
//! Limits, for each worker: 64 questions and 4 reports at one time, over connections that are kept for 10 seconds; further
//! questions wait for another deadline, of further reports 256 wait and the rest is dropped. Answers have 64 KiB at most.
//! Redirects are not followed.
//!
//! A server that fails three times in a row is not asked for five seconds, then by one login, whose answer decides (`health`), for
//! questions and reports apart. What a login hears meanwhile is [`OnFailure`]'s. The log says when that begins and ends.

mod client;
mod health;
mod request;
#[cfg(test)]
mod tests;
mod url;

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

pub use client::SetupError;
pub use url::{Header, Url};

use self::{
    client::{Client, Connector, Trouble},
    health::Health,
    request::Hash,
};
use crate::{
    metrics::Metrics,
    names::{Login, Protocol, SessionId},
    secret::Secret,
    tasks::{Part, Tasks},
};

/// Questions at one time, for each worker.
const QUESTIONS: usize = 64;
/// Reports that are sent at one time.
const REPORTS: usize = 4;
/// Reports that are sent or wait for it.
const REPORTS_WAITING: usize = 256;

/// The policy server and what it is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub url: Url,
    /// Who signs its certificate; default the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// What it knows us by.
    pub header: Option<Header>,
    /// What passwords are hashed with: the same for all that ask this server.
    pub nonce: Secret,
    /// How many bits of a hash are told; 0: all. Default 12.
    pub hash_bits: u16,
    /// It is asked before; default yes.
    pub check_before: bool,
    /// It is told after; default yes.
    pub report_after: bool,
    /// From question to answer; default 2 s.
    pub timeout: Duration,
    /// What happens when it has no answer.
    pub on_failure: OnFailure,
    /// The longest wait that it may impose; default 30 s.
    pub max_tarpit: Duration,
}

/// What a login hears that the policy server should have judged and has not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnFailure {
    /// Nothing: it goes on (the default).
    Accept,
    /// To come again later.
    Reject,
}

/// One try to log in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What the client typed.
    pub login: &'a Login,
    /// The same.
    pub password: &'a Secret,
    /// Where the client is.
    pub client: IpAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its session with us.
    pub session: &'a SessionId,
    /// Whether that is encrypted.
    pub tls: bool,
}

/// What is to become of a try.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It goes on after so long.
    Tarpit(Duration),
    /// It has failed; with the server's reason, made fit for a log.
    Reject(String),
    /// The server did not say, and nobody is let in without its word; why.
    Unknown(String),
}

/// What came of a try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finding {
    /// Login and password are right.
    Right,
    /// They are not.
    Wrong,
    /// They were not looked at, since the policy server had said no.
    Rejected,
}

/// The policy server, as one worker knows it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Policy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    common: Arc<Common>,
    client: Client,
    questions: Semaphore,
    reports: Semaphore,
    waiting: Arc<Semaphore>,
}

/// What all workers share.
#[derive(Debug)]
struct Common {
    settings: Settings,
    hash: Hash,
    connector: Arc<Connector>,
    allow: Arc<Health>,
    report: Arc<Health>,
    metrics: Metrics,
    /// Its connections end with it.
    part: Part,
}

// === impl Policy ===

impl Policy {
    /// Sets it up; the server need not be there yet.
    ///
    /// # Errors
    ///
    /// The authorities' file is not usable.
    pub fn new(settings: Settings, metrics: Metrics, tasks: Tasks) -> Result<Self, SetupError> {
        let part = tasks.part();
        let connector = Connector::new(&settings, part.tasks().clone())?;
        Ok(Self::with_connections(Arc::new(Common {
            hash: Hash::new(settings.nonce.clone(), settings.hash_bits),
            connector: Arc::new(connector),
            allow: Arc::new(Health::new("allow")),
            report: Arc::new(Health::new("report")),
            settings,
            metrics,
            part,
        })))
    }

    /// The same for one worker: with connections of its own.
    #[must_use]
    pub fn for_worker(&self) -> Self {
        Self::with_connections(Arc::clone(&self.0.common))
    }

    /// Whether both are the same, be they of different workers.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.common, &other.0.common)
    }

    fn with_connections(common: Arc<Common>) -> Self {
        Self(Arc::new(Inner {
            client: Client::new(Arc::clone(&common.connector)),
            common,
            questions: Semaphore::new(QUESTIONS),
            reports: Semaphore::new(REPORTS),
            waiting: Arc::new(Semaphore::new(REPORTS_WAITING)),
        }))
    }

    /// Whether this may be tried: within the configured time.
    pub async fn allow(&self, attempt: &Attempt<'_>) -> Verdict {
        let common = &*self.0.common;
        if !common.settings.check_before {
            return Verdict::Accept;
        }
        let Some(turn) = common.allow.turn() else {
            self.count("allow", "skipped");
            return self.unanswered("the policy server is away".to_owned());
        };
        // That too many ask is not its fault: it is not away for that.
        let waited = timeout(common.settings.timeout, self.0.questions.acquire());
        let Ok(Ok(_place)) = waited.await else {
            self.count("allow", "busy");
            return self.unanswered("too many questions at one time".to_owned());
        };
        let body = request::allow(attempt, &common.hash);
        let asked = async {
            let answer = self
                .0
                .client
                .post(common.settings.url.allow(), body)
                .await?;
            request::answer(&answer).ok_or(Trouble::Malformed)
        };
        let answer = timeout(common.settings.timeout, asked)
            .await
            .unwrap_or(Err(Trouble::Late));
        match answer {
            Ok(answer) => {
                turn.answered();
                self.judge(answer)
            }
            Err(trouble) => {
                match &trouble {
                    // What it does not like is this question.
                    Trouble::Status(status) if status.is_client_error() => turn.answered(),
                    _ => turn.failed(&trouble),
                }
                self.count("allow", "failed");
                self.unanswered(trouble.to_string())
            }
        }
    }

    /// Tells what came of it, while the login goes on.
    pub fn report(&self, attempt: &Attempt<'_>, finding: Finding) {
        let common = &*self.0.common;
        if !common.settings.report_after {
            return;
        }
        let Ok(place) = Arc::clone(&self.0.waiting).try_acquire_owned() else {
            return self.count("report", "dropped");
        };
        let Some(turn) = common.report.turn() else {
            return self.count("report", "skipped");
        };
        let body = request::report(attempt, &common.hash, finding);
        let policy = self.clone();
        common.part.tasks().background("policy report", async move {
            let Inner { common, client, .. } = &*policy.0;
            // None waits for long: there are no more than so many, and each ends in time.
            let _place = policy.0.reports.acquire().await;
            let told = client.post(common.settings.url.report(), body);
            match timeout(common.settings.timeout, told).await {
                Ok(Ok(_)) => {
                    turn.answered();
                    policy.count("report", "ok");
                }
                Ok(Err(trouble)) => {
                    turn.failed(&trouble);
                    policy.count("report", "failed");
                }
                Err(_) => {
                    turn.failed(&Trouble::Late);
                    policy.count("report", "failed");
                }
            }
            drop(place);
        });
    }

    fn judge(&self, answer: request::Answer) -> Verdict {
        let (result, verdict) = match answer.status {
            0 => ("accept", Verdict::Accept),
            ..0 => ("reject", Verdict::Reject(answer.words())),
            seconds @ 1.. => {
                let wait = Duration::from_secs(seconds.unsigned_abs());
                let most = self.0.common.settings.max_tarpit;
                ("tarpit", Verdict::Tarpit(wait.min(most)))
            }
        };
        self.count("allow", result);
        verdict
    }

    fn unanswered(&self, why: String) -> Verdict {
        match self.0.common.settings.on_failure {
            OnFailure::Accept => Verdict::Accept,
            OnFailure::Reject => Verdict::Unknown(why),
        }
    }

    fn count(&self, command: &str, result: &str) {
        let requests = &self.0.common.metrics.policy_requests;
        requests.with_label_values(&[command, result]).inc();
    }
}
