//! Following what changes below one base: by content synchronisation (RFC 4533), or by asking for what was modified.
//!
//! ```text
//!            ┌─ sync ──> refresh ──> changes as they happen ──┐ server away, silent, or a preferred one is back
//! choose a ──┤                                                ├──> choose again, from the cookie or time that was reached
//! server     └─ poll ──> modified since? ──> pause ──> ... ───┘
//! ```
//!
//! Servers are chosen as for questions: the first that is up. One that has no content synchronisation is polled, and tried
//! again after [`TRY_SYNC_AGAIN`].
//!
//! A search that only listens looks alive when it is not: on the same connection a probe is sent when nothing was said for
//! twice the time that an answer may take, and without an answer the connection is given up.
//!
//! A refresh without a cookie names everybody, of whom we know most already: only sessions are judged by it, and what the
//! cache has learned before its end is asked for again.
//!
//! Limits: one connection per base; a pause between tries that grows to ten seconds.

mod examine;
mod poll;
mod told;

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::time::{Instant, sleep};

pub(super) use examine::examine;
use poll::Poll;
use told::Told;

use super::{
    Common, code,
    connection::{Broken, Connection, Reply},
    server::{Known, jittered},
};
use crate::{
    directory::{
        Cache, Follow, FollowSettings,
        live::{EntryId, Live, Now, Refresh},
    },
    metrics::Metrics,
    proto::content_sync::{Cookie, State, SyncInfo},
};

/// When a server that had no content synchronisation is asked for it again.
const TRY_SYNC_AGAIN: Duration = Duration::from_secs(600);

/// The first pause after a failure, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LAST: Duration = Duration::from_secs(10);

/// How often it is logged at once that changes are not followed any more, and how long it may last unsaid.
const LOG_EVERY: Duration = Duration::from_secs(60);
const LASTS: Duration = Duration::from_secs(5);

/// Refusals in a row after which a cookie is taken for the reason.
const REFUSALS: u32 = 2;

/// Who follows one base.
pub(super) struct Follower {
    common: Arc<Common>,
    base: usize,
    live: Arc<Live>,
    cache: Arc<Cache>,
    settings: FollowSettings,
    /// Of a probe and of a poll.
    timeout: Duration,
    by_sync: IntGauge,
    by_poll: IntGauge,
    /// How far synchronisation has come.
    cookie: Option<Cookie>,
    refusals: u32,
    poll: Poll,
    /// Servers by place that have no content synchronisation, and when that was found out.
    without_sync: HashMap<usize, Instant>,
    /// Whether changes were heard of since the last failure.
    was_followed: bool,
    /// Whether it was logged last that changes are followed, and when.
    logged: Option<(bool, Instant)>,
    /// When they were last heard of before that.
    lost: Instant,
}

/// How following ended.
enum Ended {
    /// Another server is preferred and up again.
    Preferred,
    /// The server does not do it.
    Refused(Reply),
    /// The connection is of no use any more.
    Broken(Broken),
}

/// A base counts as followed for as long as this is there.
struct Followed(IntGauge);

impl Followed {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Follower {
    pub(super) fn new(
        common: Arc<Common>,
        base: usize,
        (live, cache): (Arc<Live>, Arc<Cache>),
        (settings, timeout): (FollowSettings, Duration),
        metrics: &Metrics,
    ) -> Self {
        let by = |word| metrics.directory_followed.with_label_values(&[word]);
        Self {
            common,
            base,
            live,
            cache,
            settings,
            timeout,
            by_sync: by("sync"),
            by_poll: by("poll"),
            cookie: None,
            refusals: 0,
            poll: Poll::new(),
            without_sync: HashMap::new(),
            was_followed: false,
            logged: None,
            lost: Instant::now(),
        }
    }

    /// Follows for as long as the process runs.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_FIRST;
        loop {
            let place = self.choose();
            let Some(server) = self.common.servers.get(place).cloned() else {
                return;
            };
            let began = Instant::now();
            let by_sync = self.has_sync(place);
            let followed = if by_sync {
                self.synchronize(place, &server).await
            } else {
                self.poll(place, &server).await
            };
            let Err(ended) = followed;
            if self.was_followed {
                pause = PAUSE_FIRST;
            }
            match ended {
                Ended::Preferred => continue,
                Ended::Broken(broken) => server.note_following(&broken, began),
                Ended::Refused(reply) => {
                    if self.refused(place, &server, by_sync, reply) {
                        continue;
                    }
                }
            }
            self.failed(&server);
            sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(PAUSE_LAST);
        }
    }

    /// Says that changes are not followed: at once, or, soon after it was said that they are, if it lasts.
    fn failed(&mut self, server: &Known) {
        if std::mem::take(&mut self.was_followed) {
            self.lost = Instant::now();
        }
        let is_due = self.logged.is_some_and(|(is_followed, at)| {
            is_followed && (at.elapsed() >= LOG_EVERY || self.lost.elapsed() >= LASTS)
        });
        if is_due {
            self.logged = Some((false, Instant::now()));
            let (base, server) = (self.base_name(), &server.name);
            tracing::warn!(base, server, "changes are not followed for now");
        }
    }

    /// What to do after a refusal; whether to try again at once.
    fn refused(&mut self, place: usize, server: &Arc<Known>, by_sync: bool, reply: Reply) -> bool {
        let must_refresh = reply.code == code::SYNC_REFRESH_REQUIRED;
        let lacks_sync = by_sync && !must_refresh && self.cookie.is_none();
        if lacks_sync {
            self.without_sync.insert(place, Instant::now());
            if self.settings.by == Follow::Auto {
                tracing::info!(
                    server = server.name,
                    base = self.base_name(),
                    error = %reply,
                    "no content synchronisation, asking for what was modified instead"
                );
                return true;
            }
        }
        self.refusals += 1;
        if must_refresh || self.refusals >= REFUSALS {
            self.cookie = None;
        }
        if !must_refresh {
            server.complain(&format!("following changes: {reply}"));
        }
        must_refresh && self.refusals < REFUSALS
    }

    fn base_name(&self) -> &str {
        self.common.schema.base(self.base)
    }

    /// The first server that is up, of those that can be followed as is wanted.
    fn choose(&self) -> usize {
        let places = || 0..self.common.servers.len();
        let is_up = |place: &usize| {
            let server = self.common.servers.get(*place);
            server.is_some_and(|server| server.is_up())
        };
        let wants_sync = self.settings.by != Follow::Poll;
        let with_sync = places().find(|place| is_up(place) && wants_sync && self.has_sync(*place));
        with_sync.or_else(|| places().find(is_up)).unwrap_or(0)
    }

    /// Servers before that one that could be synchronised with.
    fn preferred(&self, place: usize) -> Vec<Arc<Known>> {
        let servers = self.common.servers.iter().take(place).enumerate();
        let with_sync = servers.filter(|(place, _)| self.has_sync(*place));
        with_sync.map(|(_, server)| Arc::clone(server)).collect()
    }

    fn has_sync(&self, place: usize) -> bool {
        let lacked = self.without_sync.get(&place);
        match self.settings.by {
            Follow::Poll | Follow::Off => false,
            Follow::Sync => true,
            Follow::Auto => lacked.is_none_or(|at| at.elapsed() >= TRY_SYNC_AGAIN),
        }
    }

    /// What is in use below the base besides sessions.
    fn kept(&self) -> Vec<EntryId> {
        self.cache.entries(self.base)
    }

    async fn synchronize(
        &mut self,
        place: usize,
        server: &Arc<Known>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut connection = server.serving(Instant::now() + self.timeout).await?;
        let search = self.common.schema.everybody(self.base, None, None);
        // Before anybody is named: who is learned of from now on is not suspected.
        let refresh = self.live.refresh(self.base, self.kept());
        let mut following = connection.follow(&search, self.cookie.clone()).await?;
        let mut stage = Stage {
            is_full: self.cookie.is_none(),
            refresh: Some(refresh),
            followed: None,
        };
        let was_told = AtomicBool::new(false);
        let check = Check {
            preferred: self.preferred(place),
            common: Arc::clone(&self.common),
            was_told: &was_told,
            timeout: self.timeout,
        };
        let mut check = pin!(check.run(connection));
        loop {
            let told = tokio::select! {
                told = following.next() => told?,
                ended = &mut check => return Err(ended),
            };
            was_told.store(true, Relaxed);
            if let Told::Ended(reply, done) = told {
                self.learn(done.and_then(|done| done.cookie));
                return Err(Ended::Refused(reply));
            }
            self.hear(told, &mut stage, server)?;
        }
    }

    fn hear(&mut self, told: Told, stage: &mut Stage, server: &Known) -> Result<(), Broken> {
        match told {
            Told::Entry(tag, state) => {
                let entry = EntryId::Uuid(state.uuid);
                match state.state {
                    State::Present => stage.name(entry),
                    State::Delete => self.live.hear(entry, Now::Gone),
                    State::Add | State::Modify => {
                        let read = self.common.schema.read(tag, self.base);
                        let read = read.map_err(|error| Broken::Dead(error.to_string()))?;
                        let now = read.now();
                        match &stage.refresh {
                            Some(refresh) if stage.is_full => {
                                self.live.hear_in_passing(read.entry, now, refresh);
                            }
                            _ => self.live.hear(read.entry, now),
                        }
                        stage.name(entry);
                        stage.name(read.entry);
                    }
                }
                self.learn(state.cookie);
            }
            Told::Info(SyncInfo::NewCookie(cookie)) => self.learn(Some(cookie)),
            Told::Info(SyncInfo::IdSet {
                cookie,
                refresh_deletes,
                uuids,
            }) => {
                for entry in uuids.into_iter().map(EntryId::Uuid) {
                    if refresh_deletes {
                        self.live.hear(entry, Now::Gone);
                    } else {
                        stage.name(entry);
                    }
                }
                self.learn(cookie);
            }
            Told::Info(SyncInfo::RefreshPresent {
                cookie,
                refresh_done,
            }) => {
                self.phase_ends(stage, true, refresh_done, server);
                self.learn(cookie);
            }
            Told::Info(SyncInfo::RefreshDelete {
                cookie,
                refresh_done,
            }) => {
                self.phase_ends(stage, false, refresh_done, server);
                self.learn(cookie);
            }
            Told::Nothing | Told::Ended(..) => {}
        }
        Ok(())
    }

    /// A phase of a refresh is over, in which everybody who is there was named, or all that is gone.
    fn phase_ends(&mut self, stage: &mut Stage, all_named: bool, is_last: bool, server: &Known) {
        if let Some(refresh) = stage.refresh.take()
            && (all_named || stage.is_full)
        {
            self.live.conclude(refresh);
        }
        if !is_last || stage.followed.is_some() {
            return;
        }
        if stage.is_full {
            self.live.outdate(self.base);
        }
        stage.followed = Some(Followed::new(&self.by_sync));
        self.begins(server, "content synchronisation");
    }

    fn begins(&mut self, server: &Known, by: &str) {
        self.refusals = 0;
        self.was_followed = true;
        if self.logged.is_none_or(|(is_followed, _)| !is_followed) {
            self.logged = Some((true, Instant::now()));
            let (base, server) = (self.base_name(), &server.name);
            tracing::info!(base, server, by, "changes are followed");
        }
    }

    fn learn(&mut self, cookie: Option<Cookie>) {
        if cookie.is_some() {
            self.cookie = cookie;
        }
    }
}

/// How far a synchronisation has come.
struct Stage {
    /// It began without a cookie.
    is_full: bool,
    /// While everybody who is there may be named.
    refresh: Option<Refresh>,
    /// Since the refresh is over.
    followed: Option<Followed>,
}

impl Stage {
    fn name(&mut self, entry: EntryId) {
        if let Some(refresh) = &mut self.refresh {
            refresh.name(entry);
        }
    }
}

/// What is looked at while nothing is told.
struct Check<'f> {
    /// Servers that would rather be followed.
    preferred: Vec<Arc<Known>>,
    common: Arc<Common>,
    /// Whether anything was told since it was last looked at.
    was_told: &'f AtomicBool,
    timeout: Duration,
}

impl Check<'_> {
    /// Ends when the connection does not answer, or when a preferred server is up.
    async fn run(self, mut connection: Connection) -> Ended {
        let probe = self.common.schema.probe();
        loop {
            sleep(self.timeout * 2).await;
            if self.preferred.iter().any(|server| server.is_up()) {
                return Ended::Preferred;
            }
            if self.was_told.swap(false, Relaxed) {
                continue;
            }
            let deadline = Instant::now() + self.timeout;
            if let Err(broken) = connection.search(&probe, deadline).await {
                return Ended::Broken(broken);
            }
        }
    }
}
