//! One LDAP server: a worker's connections to it, and what all workers know of it.
//!
//! Searches share one connection, bound as the service account, many in flight at a time up to a bound. Binding as a
//! user takes a connection for itself, so those come from a pool, and never serve a search. Both kinds are made on use
//! and dropped when they failed or kept somebody waiting too long; a kept connection that turns out to be dead is
//! replaced once, silently, within the same deadline.
//!
//! ```text
//!          no connection, no service bind, "busy", nobody got an answer in time
//!    up ────────────────────────────────────────────────────────────────────────> away
//!     ^───────────── anybody's question is answered, or the probe's ──────────────/
//! ```
//!
//! Whoever finds it away starts a probe: it connects, binds as the service account and searches for nobody, first after
//! half a second, then after twice as long each time up to ten seconds, until it is up. That it goes away and comes
//! back is logged, though not more than once a minute (`news`).
//!
//! A question whose future is dropped leaves an answer behind that nobody takes, and a message id that is never free
//! again: its connection is not used for others after that.
//!
//! Limits: searches in flight, connections for binds, questions that go on although another server has answered; a
//! deadline for everything.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

use super::{
    code,
    connection::{Broken, Connection, Connector, Reply, Request, Search},
    entry::Entry,
    lock,
    news::News,
    schema::Schema,
};
use crate::{directory::ServiceAccount, metrics::Metrics, tasks::Tasks};

/// Searches in flight. One slapd of two cores is busy with 64 (9,000 searches a second); more would only wait there, not here.
const MAX_SEARCHES: usize = 64;

/// Questions that go on although another server has answered: enough to learn whether this one answers at all, and less than
/// would keep all others from being asked.
const MAX_OVERTAKEN: usize = 8;

/// Why a question was not asked in time.
const CROWDED: &str = "too many questions wait for it";

/// The first pause of a probe.
const PROBE_FIRST: Duration = Duration::from_millis(500);
/// The longest.
const PROBE_LAST: Duration = Duration::from_secs(10);
/// A shorter silence than this is none.
const SILENCE: Duration = Duration::from_millis(100);
/// How long a probe waits for its answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is logged that a server does not do what it was asked.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);

/// What all workers know of a server.
pub(super) struct Known {
    pub(super) connector: Connector,
    /// Its URI, for labels and logs.
    pub(super) name: String,
    service: Arc<ServiceAccount>,
    /// What a probe searches for.
    probe: Search,
    metrics: Metrics,
    /// Whether it is up, for monitors.
    gauge: IntGauge,
    tasks: Tasks,
    state: Mutex<State>,
}

/// Whether it answers.
#[derive(Debug)]
struct State {
    is_up: bool,
    /// There is a probe, which ends when it finds the server up.
    is_probed: bool,
    /// When it last said anything of use.
    answered: Option<Instant>,
    /// When it was last logged that it does not do what it was asked.
    complained: Option<Instant>,
    /// What the log says of it.
    news: News,
}

/// A worker's connections to a server.
pub(super) struct Server {
    pub(super) known: Arc<Known>,
    searches: Semaphore,
    shared: Mutex<Option<Shared>>,
    /// Held by whoever makes the next one.
    connecting: tokio::sync::Mutex<()>,
    /// How many were made.
    made: AtomicU64,
    binds: Semaphore,
    idle: Mutex<Vec<Connection>>,
    overtaken: Arc<Semaphore>,
}

/// The connection that searches share.
#[derive(Clone)]
struct Shared {
    connection: Connection,
    /// Which one it is, so that nobody drops the successor of the one that failed.
    number: u64,
}

/// A search on the connection of this number: if it is dropped before it is over, nobody uses that connection again.
struct Begun<'s> {
    server: &'s Server,
    number: u64,
    is_over: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.server.drop_shared(self.number);
        }
    }
}

// === impl Known ===

impl Known {
    /// It is taken for up.
    pub(super) fn new(
        connector: Connector,
        service: Arc<ServiceAccount>,
        probe: Search,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Self {
        let name = connector.uri.to_string();
        let gauge = metrics.ldap_server_up.with_label_values(&[name.as_str()]);
        gauge.set(1);
        Self {
            name,
            gauge,
            connector,
            service,
            probe,
            metrics,
            tasks,
            state: Mutex::new(State {
                is_up: true,
                is_probed: false,
                answered: None,
                complained: None,
                news: News::new(),
            }),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        lock(&self.state).is_up
    }

    /// Learns from how a question ended that was asked at `asked`.
    fn note(self: &Arc<Self>, request: &Request, answer: &Result<Reply, Broken>, asked: Instant) {
        if matches!(answer, Err(Broken::Unasked(_))) {
            return;
        }
        let result = match answer {
            Ok(reply) if request.is_answered_by(reply) => "ok",
            Ok(_) => "refused",
            Err(_) => "failed",
        };
        let labels = [self.name.as_str(), request.word(), result];
        self.metrics.ldap_requests.with_label_values(&labels).inc();
        match answer {
            Ok(reply) if reply.is_trouble(request) => self.went_away(&request.complaint(reply)),
            Ok(reply) if !request.is_answered_by(reply) => self.complain(&request.complaint(reply)),
            Ok(_) => self.answers(),
            Err(broken @ Broken::Late(_)) => self.suspect(asked, &broken.to_string()),
            Err(broken) => self.went_away(&broken.to_string()),
        }
    }

    /// Learns from how a search ended that was to tell what changes.
    pub(super) fn note_following(self: &Arc<Self>, broken: &Broken, asked: Instant) {
        match broken {
            // The next connection will show.
            Broken::Dead(_) | Broken::Unasked(_) => {}
            Broken::Late(_) => self.suspect(asked, &broken.to_string()),
            Broken::Connect(_) | Broken::Service(_) => self.went_away(&broken.to_string()),
        }
    }

    /// Logs what it does not do, now and then.
    pub(super) fn complain(&self, complaint: &str) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let is_due = |last: Instant| now.duration_since(last) >= COMPLAINT_EVERY;
        if state.complained.is_none_or(is_due) {
            state.complained = Some(now);
            drop(state);
            tracing::warn!(server = self.name, error = complaint, "directory refuses");
        }
    }

    /// It was silent since `asked`: to everybody? A moment's silence says nothing.
    pub(super) fn suspect(self: &Arc<Self>, asked: Instant, error: &str) {
        if asked.elapsed() < SILENCE {
            return;
        }
        let has_answered = lock(&self.state).answered.is_some_and(|last| last > asked);
        if !has_answered {
            self.went_away(error);
        }
    }

    fn answers(&self) {
        let mut state = lock(&self.state);
        state.answered = Some(Instant::now());
        let was_up = std::mem::replace(&mut state.is_up, true);
        self.show(&state);
        let line = state.news.learn(was_up, true, Instant::now());
        drop(state);
        if let Some(line) = line {
            let changes_left_out = line.left_out();
            tracing::info!(
                server = self.name,
                changes_left_out,
                "directory is available again"
            );
        }
    }

    fn went_away(self: &Arc<Self>, error: &str) {
        let mut state = lock(&self.state);
        let was_up = std::mem::replace(&mut state.is_up, false);
        let is_probed = std::mem::replace(&mut state.is_probed, true);
        self.show(&state);
        let line = state.news.learn(was_up, false, Instant::now());
        drop(state);
        if let Some(line) = line {
            let changes_left_out = line.left_out();
            tracing::warn!(
                server = self.name,
                error,
                changes_left_out,
                "directory is not available"
            );
        }
        if is_probed {
            return;
        }
        let known = Arc::clone(self);
        self.tasks.background("ldap probe", async move {
            let mut pause = PROBE_FIRST;
            loop {
                sleep(jittered(pause)).await;
                if known.ends_probe() {
                    return;
                }
                // Its end says whether the server is up again.
                let asked = Instant::now();
                let answer = known.probe(asked + PROBE_TIMEOUT).await;
                let probe = Request::Probe(known.probe.clone());
                known.note(&probe, &answer, asked);
                pause = pause.saturating_mul(2).min(PROBE_LAST);
            }
        });
    }

    /// Whether there is nothing left to find out.
    fn ends_probe(&self) -> bool {
        let mut state = lock(&self.state);
        state.is_probed = !state.is_up;
        state.is_up
    }

    /// Sets the gauge, under the lock.
    fn show(&self, state: &State) {
        self.gauge.set(i64::from(state.is_up));
    }

    async fn probe(&self, deadline: Instant) -> Result<Reply, Broken> {
        let mut connection = self.serving(deadline).await?;
        connection.search(&self.probe, deadline).await
    }

    /// What it does not do of all that it will be asked for.
    pub(super) async fn examine(&self, schema: &Schema, deadline: Instant) -> Vec<String> {
        let mut connection = match self.serving(deadline).await {
            Ok(connection) => connection,
            Err(broken) => return vec![broken.to_string()],
        };
        let mut problems = Vec::new();
        for (search, nothing) in schema.trials() {
            let problem = match connection.search(&search, deadline).await {
                Ok(reply) if !reply.is_carried_out() => {
                    format!("search below {}: {reply}", search.base)
                }
                Ok(reply) => match nothing {
                    Some(nothing) if reply.entries.is_empty() => nothing,
                    _ => continue,
                },
                Err(broken) => {
                    problems.push(format!("search below {}: {broken}", search.base));
                    break;
                }
            };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        if problems.is_empty() {
            let misnamed = misnamed(&mut connection, schema, deadline).await;
            problems = misnamed.unwrap_or_else(|broken| vec![broken.to_string()]);
        }
        problems
    }

    /// A new connection, bound as the service account.
    pub(super) async fn serving(&self, deadline: Instant) -> Result<Connection, Broken> {
        let mut connection = self.connector.connect(deadline).await?;
        let reply = match &*self.service {
            ServiceAccount::Anonymous => return Ok(connection),
            ServiceAccount::External => connection.bind_external(deadline).await?,
            ServiceAccount::Simple { dn, password } => {
                let password = std::str::from_utf8(password.expose()).unwrap_or_default();
                connection.bind(dn, password, deadline).await?
            }
        };
        if reply.code == code::SUCCESS {
            Ok(connection)
        } else {
            Err(Broken::Service(reply))
        }
    }
}

/// Attributes that accounts have and do not show by the name that is configured: what is read of them would be nothing.
async fn misnamed(
    connection: &mut Connection,
    schema: &Schema,
    deadline: Instant,
) -> Result<Vec<String>, Broken> {
    let mut problems = Vec::new();
    for base in 0..schema.bases() {
        for (name, search) in schema.reads(base) {
            let reply = connection.search(&search, deadline).await?;
            let entry = reply.entries.into_iter().next().and_then(Entry::from_tag);
            if let Some(shown) = entry.and_then(|entry| entry.names_without(name)) {
                problems.push(format!(
                    "accounts below {} have {name}, and do not show it by that name (shown: {shown}): \
                     use the server's own name of it, or let us read it",
                    search.base,
                ));
            }
        }
    }
    Ok(problems)
}

/// Between three quarters of it and all of it, so that many fronts do not probe at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    let part = getrandom::u32().unwrap_or_default() % 256;
    pause * (768 + part) / 1024
}

// === impl Server ===

impl Server {
    /// For one of so many workers: its share of all that there may be.
    pub(super) fn new(known: Arc<Known>, bind_connections: usize, workers: usize) -> Self {
        Self {
            known,
            searches: Semaphore::new(MAX_SEARCHES.div_ceil(workers)),
            shared: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            made: AtomicU64::new(0),
            binds: Semaphore::new(bind_connections.div_ceil(workers)),
            idle: Mutex::new(Vec::new()),
            overtaken: Arc::new(Semaphore::new(MAX_OVERTAKEN)),
        }
    }

    /// A place for a question that goes on although another server has answered; none when there are enough.
    pub(super) fn overtaken(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.overtaken).try_acquire_owned().ok()
    }

    /// Asks it, and learns from how that ends.
    pub(super) async fn ask(&self, request: &Request, deadline: Instant) -> Result<Reply, Broken> {
        let asked = Instant::now();
        let answer = match request {
            Request::Probe(search) | Request::Search(search) => self.search(search, deadline).await,
            Request::Bind { dn, password } => {
                let password = std::str::from_utf8(password.expose()).unwrap_or_default();
                self.bind(dn, password, deadline).await
            }
        };
        self.known.note(request, &answer, asked);
        answer
    }

    async fn search(&self, search: &Search, deadline: Instant) -> Result<Reply, Broken> {
        let turn = timeout_at(deadline, self.searches.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Broken::Unasked(CROWDED));
        };
        let (shared, is_new) = self.connection(deadline).await?;
        let reply = self.search_on(shared, search, deadline).await;
        let is_stale = reply.as_ref().is_err_and(Broken::is_dead_connection);
        if is_new || !is_stale {
            return reply;
        }
        let (shared, _) = self.connection(deadline).await?;
        self.search_on(shared, search, deadline).await
    }

    /// Searches on a connection, which nobody gets after a search that was not carried to its end.
    async fn search_on(
        &self,
        shared: Shared,
        search: &Search,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        let mut connection = shared.connection;
        let mut begun = Begun {
            server: self,
            number: shared.number,
            is_over: false,
        };
        let reply = connection.search(search, deadline).await;
        begun.is_over = matches!(reply, Ok(_) | Err(Broken::Unasked(_)));
        reply
    }

    /// The connection for searches, and whether it was made just now.
    async fn connection(&self, deadline: Instant) -> Result<(Shared, bool), Broken> {
        if let Some(shared) = self.live_shared() {
            return Ok((shared, false));
        }
        // All who wait want the same connection, and none waits longer than its own deadline.
        let Ok(_connecting) = timeout_at(deadline, self.connecting.lock()).await else {
            return Err(Broken::Late("waiting for a connection"));
        };
        if let Some(shared) = self.live_shared() {
            return Ok((shared, false));
        }
        let connection = self.known.serving(deadline).await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let shared = Shared { connection, number };
        *lock(&self.shared) = Some(shared.clone());
        Ok((shared, true))
    }

    fn live_shared(&self) -> Option<Shared> {
        let mut shared = lock(&self.shared).clone()?;
        (!shared.connection.is_closed()).then_some(shared)
    }

    fn drop_shared(&self, number: u64) {
        let mut slot = lock(&self.shared);
        if slot.as_ref().is_some_and(|shared| shared.number == number) {
            *slot = None;
        }
    }

    async fn bind(&self, dn: &str, password: &str, deadline: Instant) -> Result<Reply, Broken> {
        let turn = timeout_at(deadline, self.binds.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Broken::Unasked(CROWDED));
        };
        if let Some(mut kept) = self.take_idle() {
            match kept.bind(dn, password, deadline).await {
                Ok(reply) => {
                    self.keep_idle(kept);
                    return Ok(reply);
                }
                Err(broken) if !broken.is_dead_connection() => return Err(broken),
                Err(_) => {}
            }
        }
        let mut connection = self.known.connector.connect(deadline).await?;
        let reply = connection.bind(dn, password, deadline).await?;
        self.keep_idle(connection);
        Ok(reply)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some(mut connection) = idle.pop() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep_idle(&self, connection: Connection) {
        lock(&self.idle).push(connection);
    }

    /// Asks on new connections from now on: those that are kept may be cut off without a word.
    pub(super) fn drop_connections(&self) {
        *lock(&self.shared) = None;
        lock(&self.idle).clear();
    }

    /// How many connections wait to be bound on.
    #[cfg(test)]
    pub(super) fn kept_for_binds(&self) -> usize {
        lock(&self.idle).len()
    }

    /// How many questions go on although another server has answered.
    #[cfg(test)]
    pub(super) fn count_overtaken(&self) -> usize {
        MAX_OVERTAKEN.saturating_sub(self.overtaken.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::LdapUri;

    /// What is not logged is counted all the same.
    #[tokio::test]
    async fn metrics_follow_each_change_of_one_that_flaps() {
        let metrics = Metrics::new().unwrap();
        let uri = LdapUri::parse("ldap://127.0.0.1:1").unwrap();
        let connector = Connector::new(uri, None, false, Tasks::new());
        let search = Search {
            base: "".into(),
            subtree: false,
            filter: "(uid=x)".to_owned(),
            attributes: ["1.1".to_owned()].into(),
        };
        let known = Arc::new(Known::new(
            connector,
            Arc::new(ServiceAccount::Anonymous),
            search.clone(),
            metrics.clone(),
            Tasks::new(),
        ));
        let labels = [known.name.as_str(), "search", "failed"];
        let failed = metrics.ldap_requests.with_label_values(&labels);
        let (gauge, begun) = (known.gauge.clone(), Instant::now());
        for round in 0..20 {
            let dead = Err(Broken::Dead("closed".to_owned()));
            known.note(&Request::Search(search.clone()), &dead, begun);
            assert_eq!((gauge.get(), failed.get()), (0, round + 1));
            known.answers();
            assert_eq!(gauge.get(), 1);
        }
        // All but the first pair.
        let line = lock(&known.state)
            .news
            .learn(true, false, begun + PROBE_TIMEOUT * 20);
        assert_eq!(line.unwrap().left_out, 38);
    }
}
