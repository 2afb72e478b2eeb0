//! Commands that act: who may give them, what they do, and the line in the log.
//!
//! Whoever can open the socket may ask, but only root and the front's own user may act: the kernel says who that is (peer
//! credentials), whatever the socket's mode has become. Each command leaves a line with what it did to whom, how many
//! sessions that concerns, and the uid and pid of who asked. A command is carried out to its end, also when whoever gave it
//! does not wait for the answer.
//!
//! An order is in force before sessions are looked for that it ends: who logs in meanwhile is listed first and asks for orders
//! then, so that nobody slips through.

use std::time::Duration;

use hyper::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    http::Refusal,
    request::{Drain, Flush, Hold, Kick, Question, Release, Undrain},
    socket::{Caller, Requests, bad_request, parse},
    who,
};
use crate::{
    names::{AccountName, NodeName},
    orders::{Given, OrdersError, Subject},
    outcome::chain,
    sessions::{Ending, Seat},
};

/// Sessions that end in a second, where no time is said: as many logins a second are nothing to an LDAP server.
const PACE: u32 = 100;

/// The longest time that ends can be spread over: a day.
const MAX_WITHIN: Duration = Duration::from_secs(86400);

/// What is to be done.
enum Command {
    Drain(Drain),
    Flush(Flush),
    Hold(Hold),
    Kick(Kick),
    Release(Release),
    Undrain(Undrain),
}

impl Command {
    /// None: that path is no command's.
    fn read(path: &str, body: &[u8]) -> Option<Result<Self, Refusal>> {
        fn part<T: DeserializeOwned>(
            body: &[u8],
            command: fn(T) -> Command,
        ) -> Option<Result<Command, Refusal>> {
            Some(parse(body).map(command))
        }
        match path {
            Drain::PATH => part(body, Self::Drain),
            Flush::PATH => part(body, Self::Flush),
            Hold::PATH => part(body, Self::Hold),
            Kick::PATH => part(body, Self::Kick),
            Release::PATH => part(body, Self::Release),
            Undrain::PATH => part(body, Self::Undrain),
            _ => None,
        }
    }
}

impl Requests {
    /// Does what is asked for, if that is a command and whoever asks may give it.
    pub(super) async fn act(
        &self,
        path: &str,
        body: &[u8],
        caller: Caller,
    ) -> Option<Result<Value, Refusal>> {
        let command = Command::read(path, body)?;
        if !caller.may_act() {
            let (uid, pid) = (caller.uid(), caller.pid());
            tracing::warn!(uid, pid, command = path, "a command was refused");
            let text = "only root and the front's own user may do that";
            return Some(Err(Refusal::new(StatusCode::FORBIDDEN, text)));
        }
        let command = match command {
            Ok(command) => command,
            Err(refusal) => return Some(Err(refusal)),
        };
        let (done, answer) = oneshot::channel();
        let requests = self.clone();
        self.tasks.background("command", async move {
            // If nobody waits for it, the log has it.
            let _ = done.send(requests.obey(command, caller).await);
        });
        let lost = || {
            Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the command broke off",
            ))
        };
        Some(answer.await.unwrap_or_else(|_| lost()))
    }

    async fn obey(&self, command: Command, caller: Caller) -> Result<Value, Refusal> {
        match command {
            Command::Drain(drain) => self.drain(drain, caller).await,
            Command::Flush(flush) => self.flush(flush, caller).await,
            Command::Hold(hold) => self.hold(hold, caller).await,
            Command::Kick(kick) => self.kick(kick, caller).await,
            Command::Release(release) => self.release(release, caller).await,
            Command::Undrain(undrain) => self.undrain(undrain, caller).await,
        }
    }

    async fn kick(&self, kick: Kick, caller: Caller) -> Result<Value, Refusal> {
        let Kick {
            which,
            all,
            within_ms,
        } = kick;
        if which.is_everybody() != all {
            return Err(bad_request("either all sessions or those of somebody"));
        }
        let within = within_ms.map(within).transpose()?;
        let filter = self.filter(&which).await?;
        let seats = self.sessions.all(&filter);
        let (sessions, within) = (seats.len(), within.unwrap_or_else(|| pace(seats.len())));
        let ended = self.sessions.end(seats, Ending::Kicked, within, || true);
        ended.map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()))?;
        tracing::info!(
            command = "kick",
            account = filter.account.as_ref().map(AccountName::as_str),
            node = filter.node.as_ref().map(NodeName::as_str),
            network = filter.network.map(tracing::field::display),
            protocol = which.protocol,
            sessions,
            within_ms = millis(within),
            uid = caller.uid(),
            pid = caller.pid(),
            "done by command"
        );
        Ok(json!({
            "account": filter.account.as_ref().map(AccountName::as_str),
            "sessions": sessions,
            "within_ms": millis(within),
        }))
    }

    async fn hold(&self, hold: Hold, caller: Caller) -> Result<Value, Refusal> {
        let account = if hold.as_account {
            who::account(&hold.user)?
        } else {
            let known = self.known(&hold.user).await;
            known.map_err(|error| who::nobody(&hold.user, &error))?
        };
        let subject = Subject::Account(account.clone());
        let given = self.give(&subject, hold.keep_sessions, &caller).await?;
        let seats = if hold.keep_sessions {
            Vec::new()
        } else {
            self.sessions.all(&subject.sessions())
        };
        let within = pace(seats.len());
        let sessions = self.end_by_order(seats, within, &subject, given)?;
        tracing::info!(
            command = "hold",
            account = account.as_str(),
            is_new = given.is_new,
            sessions,
            within_ms = millis(within),
            uid = caller.uid(),
            pid = caller.pid(),
            "done by command"
        );
        Ok(json!({
            "account": account.as_str(),
            "is_new": given.is_new,
            "is_kept": self.orders.are_kept(),
            "sessions": sessions,
            "within_ms": millis(within),
        }))
    }

    async fn release(&self, release: Release, caller: Caller) -> Result<Value, Refusal> {
        let mut account = who::account(&release.user)?;
        // Whoever stands in the list is meant as it stands there.
        if !release.as_account && !self.orders.has(&Subject::Account(account.clone())) {
            account = self.account_or_so(&release.user, false).await?;
        }
        self.take_back(&Subject::Account(account.clone())).await?;
        tracing::info!(
            command = "release",
            account = account.as_str(),
            uid = caller.uid(),
            pid = caller.pid(),
            "done by command"
        );
        Ok(json!({ "account": account.as_str() }))
    }

    async fn drain(&self, drain: Drain, caller: Caller) -> Result<Value, Refusal> {
        let within = drain.within_ms.map(within).transpose()?;
        let node = match &drain.node {
            None => None,
            Some(word) => {
                let known = self.nodes.meant_by(Some(word));
                let known =
                    known.map_err(|_| not_found(&format!("no node {word:?} in [nodes]")))?;
                Some(known.name.clone())
            }
        };
        let subject = node.clone().map_or(Subject::Front, Subject::Node);
        let keeps_sessions = node.is_none() && within.is_none();
        let given = self.give(&subject, keeps_sessions, &caller).await?;
        let seats = match within {
            None => Vec::new(),
            Some(_) => self.sessions.all(&subject.sessions()),
        };
        let within = within.unwrap_or_default();
        let sessions = self.end_by_order(seats, within, &subject, given)?;
        tracing::info!(
            command = if node.is_some() {
                "drain node"
            } else {
                "drain proxy"
            },
            node = node.as_ref().map(NodeName::as_str),
            is_new = given.is_new,
            sessions,
            within_ms = millis(within),
            uid = caller.uid(),
            pid = caller.pid(),
            "done by command"
        );
        Ok(json!({
            "node": node.as_ref().map(NodeName::as_str),
            "is_new": given.is_new,
            "is_kept": self.orders.are_kept(),
            "sessions": sessions,
            "within_ms": millis(within),
        }))
    }

    async fn undrain(&self, undrain: Undrain, caller: Caller) -> Result<Value, Refusal> {
        let node = undrain.node.as_deref().map(|word| self.node_or_so(word));
        let node = node.transpose()?;
        let subject = node.clone().map_or(Subject::Front, Subject::Node);
        self.take_back(&subject).await?;
        tracing::info!(
            command = if node.is_some() {
                "undrain node"
            } else {
                "undrain proxy"
            },
            node = node.as_ref().map(NodeName::as_str),
            uid = caller.uid(),
            pid = caller.pid(),
            "done by command"
        );
        Ok(json!({ "node": node.as_ref().map(NodeName::as_str) }))
    }

    async fn flush(&self, flush: Flush, caller: Caller) -> Result<Value, Refusal> {
        let forgotten = self.directory.forget(flush.name.as_deref()).await;
        tracing::info!(
            command = "cache flush",
            name = flush.name,
            forgotten,
            uid = caller.uid(),
            pid = caller.pid(),
            "done by command"
        );
        Ok(json!({ "forgotten": forgotten, "has_cache": self.directory.has_cache() }))
    }

    /// Ends sessions for as long as an order is in force; how many. The order stands, whatever becomes of that.
    fn end_by_order(
        &self,
        seats: Vec<std::sync::Arc<Seat>>,
        within: Duration,
        subject: &Subject,
        given: Given,
    ) -> Result<usize, Refusal> {
        let (count, why) = (seats.len(), subject.ending());
        let (orders, subject) = (self.orders.clone(), subject.clone());
        let is_wanted = move || orders.is_in_force(&subject, given);
        let ended = self.sessions.end(seats, why, within, is_wanted);
        ended.map_err(|error| {
            let text = format!("it is in force, but sessions go on: {error}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &text)
        })?;
        Ok(count)
    }

    async fn give(
        &self,
        subject: &Subject,
        keeps_sessions: bool,
        caller: &Caller,
    ) -> Result<Given, Refusal> {
        let (orders, subject) = (self.orders.clone(), subject.clone());
        let uid = caller.uid().unwrap_or_default();
        let given = move || orders.give(&subject, uid, keeps_sessions);
        let given = tokio::task::spawn_blocking(given).await;
        settled(given)
    }

    async fn take_back(&self, subject: &Subject) -> Result<(), Refusal> {
        let (orders, taken) = (self.orders.clone(), subject.clone());
        let taken = tokio::task::spawn_blocking(move || orders.take_back(&taken)).await;
        if settled(taken)? {
            return Ok(());
        }
        Err(not_found(&match subject {
            Subject::Account(name) => format!("account {name} is not held"),
            Subject::Front => "this front is not drained".to_owned(),
            Subject::Node(name) => format!("node {name} is not drained"),
        }))
    }
}

/// What came of a change of orders.
fn settled<T>(
    changed: Result<Result<T, OrdersError>, tokio::task::JoinError>,
) -> Result<T, Refusal> {
    match changed {
        Ok(Ok(changed)) => Ok(changed),
        Ok(Err(error)) => {
            let reason = chain(&error);
            tracing::error!(reason, "an order was not given or taken back");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &reason))
        }
        Err(_) => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the order broke off",
        )),
    }
}

fn within(millis: u64) -> Result<Duration, Refusal> {
    let within = Duration::from_millis(millis);
    if within > MAX_WITHIN {
        return Err(bad_request("within: longer than a day"));
    }
    Ok(within)
}

/// How long so many sessions take to end, where nobody says.
fn pace(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    if sessions <= PACE {
        return Duration::ZERO;
    }
    (Duration::from_secs(1) / PACE)
        .saturating_mul(sessions)
        .min(MAX_WITHIN)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn not_found(text: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sessions_take_their_time() {
        for (sessions, seconds) in [(0, 0), (1, 0), (100, 0), (200, 2), (6000, 60)] {
            assert_eq!(pace(sessions), Duration::from_secs(seconds), "{sessions}");
        }
        assert_eq!(pace(usize::MAX), MAX_WITHIN);
    }
}
