//! Several LDAP servers with the same entries, and which of them is asked.
//!
//! ```text
//! question ──> the first that is up ── answers ───────────────────────────> answer
//!                 ├─ can't answer ──────> the next, at once
//!                 ├─ refers to another ─> that one, at once, if it is configured
//!                 └─ is slow ───────────> the next besides; who answers first counts
//! ```
//!
//! Those that are up come first, in the order in which they are configured; those that are away come last, since nobody
//! may know yet that they are back. So a question fails only when no server answers it within its one deadline.
//!
//! A bind is waited for longer: servers count wrong passwords, each for itself, and some answer them late on purpose (ppolicy's
//! `pwdMinDelay`). The next is asked when half of the time that was left has passed without an answer, or when the server is
//! taken for away because of what others asked it.
//!
//! What a slow server was asked is not taken back: its answer, or that there is none, says how it is. A few such
//! questions say enough: others are dropped, and their connections with them. A server that another one overtook
//! without having answered anybody since is taken for away.
//!
//! Limits: one question asks each server once; so many questions at a time ask a second one because the first is slow
//! ([`MAX_HEDGES`]): a server that is slow because it has much to do must not give all of it to the next.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use super::{
    connection::{Broken, Reply, Request},
    server::Server,
};
use crate::tasks::Tasks;

/// Questions of one worker that ask another server because one is slow.
const MAX_HEDGES: usize = 16;

/// A worker's servers.
pub(super) struct Servers {
    /// In the order of the configuration; at least one.
    servers: Vec<Arc<Server>>,
    hedge_after: Duration,
    hedges: Semaphore,
    tasks: Tasks,
}

type Answer = Result<Reply, Broken>;

/// A server that was asked.
struct Try {
    server: Arc<Server>,
    asked: Instant,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

impl Servers {
    pub(super) fn new(servers: Vec<Arc<Server>>, hedge_after: Duration, tasks: Tasks) -> Self {
        Self {
            servers,
            hedge_after,
            hedges: Semaphore::new(MAX_HEDGES),
            tasks,
        }
    }

    /// Asks until one answers, `first` before all others if it is up; which one did.
    ///
    /// # Errors
    ///
    /// When none does: what the first of them said.
    pub(super) async fn ask(
        &self,
        request: Request,
        first: usize,
        deadline: Instant,
    ) -> Result<(Reply, usize), String> {
        if let [only] = &self.servers[..] {
            let answer = only.ask(&request, deadline).await;
            return Ok((settled(&request, only, answer)?, 0));
        }
        let request = Arc::new(request);
        let mut rest = self.order(first);
        let mut tries = Vec::new();
        let mut failed = None;
        // One for the question, however many servers it asks besides.
        let mut hedge = None;
        let mut begins = true;
        let mut patient = Instant::now();
        loop {
            let has_time = Instant::now() < deadline;
            if begins
                && has_time
                && let Some(server) = rest.pop_front()
            {
                tries.push(Try::begin(server, &request, deadline));
                patient = Instant::now() + self.patience(&request, deadline);
            }
            if tries.is_empty() {
                return Err(failed.unwrap_or_else(|| "no time was left to ask".to_owned()));
            }
            let look = (!rest.is_empty()).then(|| Instant::now() + self.hedge_after);
            let Some((server, answer)) = first_of(&mut tries, look).await else {
                // Whoever searched may have found out that it is silent.
                let is_slow = Instant::now() >= patient || !tries.iter().any(Try::is_hopeful);
                if is_slow {
                    // Without one, again a little later.
                    hedge = hedge.or_else(|| self.hedges.try_acquire().ok());
                }
                begins = is_slow && hedge.is_some();
                continue;
            };
            begins = true;
            if let Ok(reply) = &answer {
                refer(reply, &mut rest);
            }
            match settled(&request, &server, answer) {
                Ok(reply) => {
                    self.leave(tries);
                    return Ok((reply, self.place(&server)));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }

    /// Who is asked, one after the other.
    fn order(&self, first: usize) -> VecDeque<Arc<Server>> {
        let (before, from) = self.servers.split_at_checked(first).unwrap_or_default();
        let (first, behind) = from.split_at_checked(1).unwrap_or_default();
        let all = first.iter().chain(before).chain(behind);
        let (up, away): (Vec<_>, Vec<_>) = all.cloned().partition(|server| server.known.is_up());
        up.into_iter().chain(away).collect()
    }

    fn place(&self, server: &Arc<Server>) -> usize {
        let mut servers = self.servers.iter();
        servers
            .position(|other| Arc::ptr_eq(other, server))
            .unwrap_or_default()
    }

    /// How long a server is waited for alone.
    fn patience(&self, request: &Request, deadline: Instant) -> Duration {
        match request {
            Request::Bind { .. } => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.hedge_after.max(left / 2)
            }
            Request::Probe(_) | Request::Search(_) => self.hedge_after,
        }
    }

    /// Lets those end that were overtaken, or drops them.
    fn leave(&self, tries: Vec<Try>) {
        for overtaken in tries {
            if overtaken.asked.elapsed() >= self.hedge_after {
                let error = "another server answered before it";
                overtaken.server.known.suspect(overtaken.asked, error);
                overtaken.server.drop_connections();
            }
            let Some(place) = overtaken.server.overtaken() else {
                continue;
            };
            self.tasks.background("ldap question", async move {
                let _ = overtaken.answer.await;
                drop(place);
            });
        }
    }

    #[cfg(test)]
    pub(super) fn kept_for_binds(&self) -> usize {
        let servers = self.servers.iter();
        servers.map(|server| server.kept_for_binds()).sum()
    }

    #[cfg(test)]
    pub(super) fn count_overtaken(&self) -> usize {
        let servers = self.servers.iter();
        servers.map(|server| server.count_overtaken()).sum()
    }
}

impl Try {
    fn begin(server: Arc<Server>, request: &Arc<Request>, deadline: Instant) -> Self {
        let (asked, request) = (Arc::clone(&server), Arc::clone(request));
        Self {
            server,
            asked: Instant::now(),
            answer: Box::pin(async move { asked.ask(&request, deadline).await }),
        }
    }

    fn is_hopeful(&self) -> bool {
        self.server.known.is_up()
    }
}

/// The reply, if it settles the question; else what there is to say.
fn settled(request: &Request, server: &Server, answer: Answer) -> Result<Reply, String> {
    let name = &server.known.name;
    match answer {
        Ok(reply) if request.is_answered_by(&reply) => Ok(reply),
        Ok(reply) => Err(format!("{name}: {}", request.complaint(&reply))),
        Err(broken) => Err(format!("{name}: {broken}")),
    }
}

/// Puts the server first that a reply refers to, if it is one of the rest.
fn refer(reply: &Reply, rest: &mut VecDeque<Arc<Server>>) {
    let is_meant = |server: &Arc<Server>| {
        let uri = &server.known.connector.uri;
        reply.referrals.iter().any(|to| uri.is_meant_by(to))
    };
    if let Some(at) = rest.iter().position(is_meant)
        && let Some(server) = rest.remove(at)
    {
        rest.push_front(server);
    }
}

/// The first answer, and whose it is: that try is over. None if there is none until then.
async fn first_of(tries: &mut Vec<Try>, until: Option<Instant>) -> Option<(Arc<Server>, Answer)> {
    let answered = poll_fn(|context| {
        for at in 0..tries.len() {
            let Some(one) = tries.get_mut(at) else {
                break;
            };
            if let Poll::Ready(answer) = one.answer.as_mut().poll(context) {
                return Poll::Ready((tries.swap_remove(at).server, answer));
            }
        }
        Poll::Pending
    });
    let Some(until) = until else {
        return Some(answered.await);
    };
    let answered = pin!(answered);
    tokio::select! {
        biased;
        answered = answered => Some(answered),
        () = sleep_until(until) => None,
    }
}
